//! A client's end of one ICE, DTLS and SRTP transport, without I/O: a full ICE agent with one candidate pair, for an ICE-lite
//! server or a full one.

use distributary::limits::STREAMS_PER_PEER;
use distributary::metrics::DropReason;
use distributary::secure::dtls::{Association, Fingerprint, Identity, Role};
use distributary::secure::srtp::{KeyingMaterial, MasterKey, Profile, Receiver, Sender};
use distributary::units::Micros;
use distributary::wire::demux::{self, Protocol};
use distributary::wire::stun::{self, IntegrityKey, TransactionId};

use crate::sdp::{Answer, Credentials, Offer, Sources};

/// Between two checks: until the first is answered, and for consent after that (RFC 7675 §5.1, with less randomness).
const CHECK_INTERVAL: u64 = 100_000_000;
const CONSENT_INTERVAL: u64 = 2_500_000_000;
/// Without an answered check for so long, the server is gone (RFC 7675 §5.1).
const CONSENT_TIMEOUT: u64 = 30_000_000_000;
/// Of a host candidate that is peer-reflexive to the server (RFC 8445 §5.1.2).
const PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random numbers");
    bytes
}

/// ICE characters (RFC 8839 §5.4) with enough randomness.
pub fn credentials() -> Credentials {
    let characters = |bytes: &[u8]| bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    Credentials { ufrag: characters(&random::<8>()), pwd: characters(&random::<24>()) }
}

/// `media`: audio, video.
pub fn offer(
    identity: &Identity,
    credentials: &Credentials,
    setup: &str,
    media: (bool, bool),
    sources: Option<Sources>,
    feedback: bool,
) -> String {
    let fingerprint: Fingerprint = identity.fingerprint();
    Offer { credentials, fingerprint: &fingerprint, setup, audio: media.0, video: media.1, sources, feedback }.write()
}

/// SRTP in both directions.
pub struct Keys {
    pub outbound: Sender,
    pub inbound: Inbound,
}

/// What opens packets: of more streams than one [`Receiver`] follows, each has its share, by SSRC.
pub struct Inbound(Vec<Receiver>);

impl Inbound {
    fn new(master: &MasterKey, streams: usize) -> Inbound {
        // SSRCs are random: with three times the places hardly any share is too small.
        let shares = if streams > STREAMS_PER_PEER { (3 * streams).div_ceil(STREAMS_PER_PEER) } else { 1 };
        Inbound((0..shares).map(|_| Receiver::new(master, streams.min(STREAMS_PER_PEER))).collect())
    }

    pub fn unprotect_rtp(&mut self, packet: &mut [u8], header_len: usize) -> Result<(usize, u64), DropReason> {
        self.share(packet, 8).unprotect_rtp(packet, header_len)
    }

    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        self.share(packet, 4).unprotect_rtcp(packet)
    }

    /// `at`: where the SSRC is.
    fn share(&mut self, packet: &[u8], at: usize) -> &mut Receiver {
        let ssrc = packet.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_be_bytes);
        let index = ssrc as usize % self.0.len();
        &mut self.0[index]
    }
}

enum State {
    Checking,
    Handshaking,
    Connected(Box<Keys>),
    Failed,
}

/// What a datagram was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Dealt with here, or of no use.
    Handled,
    /// Now there are [`Keys`].
    Connected,
    Rtp,
    Rtcp,
}

pub struct Transport {
    credentials: Credentials,
    remote_ufrag: String,
    local_key: IntegrityKey,
    remote_key: IntegrityKey,
    transaction: TransactionId,
    tie_breaker: u64,
    role: Role,
    state: State,
    /// Until connected; for a DTLS server also after that, since its last flight may have to be repeated.
    handshake: Option<Box<Association>>,
    /// What the handshake will be made of.
    waiting: Option<(Identity, Vec<Fingerprint>)>,
    streams: usize,
    profile: Option<Profile>,
    /// Answers to checks may stay out.
    unanswered: bool,
    next_check: u64,
    answered: u64,
    failure: Option<String>,
}

impl Transport {
    /// `streams`: the most SSRCs of RTP that can be received.
    pub fn new(identity: &Identity, credentials: Credentials, answer: &Answer, streams: usize, now: u64) -> Transport {
        Transport {
            local_key: IntegrityKey::new(credentials.pwd.as_bytes()),
            credentials,
            remote_ufrag: answer.ufrag.clone(),
            remote_key: IntegrityKey::new(answer.pwd.as_bytes()),
            transaction: random(),
            tie_breaker: u64::from_ne_bytes(random()),
            role: answer.role,
            state: State::Checking,
            handshake: None,
            waiting: Some((identity.clone(), answer.fingerprints.clone())),
            streams,
            profile: None,
            unanswered: false,
            next_check: now,
            answered: now,
            failure: None,
        }
    }

    pub fn keys(&mut self) -> Option<&mut Keys> {
        match &mut self.state {
            State::Connected(keys) => Some(keys),
            _ => None,
        }
    }

    pub fn profile(&self) -> Option<Profile> {
        self.profile
    }

    /// From now on no answer is expected: they go into a sink.
    pub fn expect_no_answers(&mut self) {
        self.unanswered = true;
    }

    /// Why there is no connection any more.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// When to call [`Self::poll`] at the latest.
    pub fn due(&self) -> u64 {
        match self.state {
            State::Failed => u64::MAX,
            _ => {
                let handshake = self.handshake.as_ref().and_then(|handshake| handshake.poll_timeout());
                self.next_check.min(handshake.map_or(u64::MAX, |at| at.0.saturating_mul(1000)))
            }
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now: u64, send: &mut dyn FnMut(&[u8])) {
        if matches!(self.state, State::Failed) {
            return;
        }
        if !self.unanswered && now.saturating_sub(self.answered) > CONSENT_TIMEOUT {
            let what = if matches!(self.state, State::Checking) { "ICE: no check was answered" } else { "ICE: consent expired" };
            return self.fail(what.into());
        }
        if now >= self.next_check {
            self.send_check(send);
            self.next_check = now + if matches!(self.state, State::Checking) { CHECK_INTERVAL } else { CONSENT_INTERVAL };
        }
        if let Some(handshake) = &mut self.handshake {
            let result = handshake.handle_timeout(micros(now));
            drain(handshake, send);
            if let Err(error) = result {
                self.fail(error.to_string());
            }
        }
    }

    /// Takes a datagram.
    pub fn handle(&mut self, datagram: &[u8], now: u64, send: &mut dyn FnMut(&[u8])) -> Event {
        match demux::classify(datagram) {
            Ok(Protocol::Stun) => self.handle_stun(datagram, now, send),
            Ok(Protocol::Dtls) => return self.handle_dtls(datagram, now, send),
            Ok(Protocol::Rtp) if matches!(self.state, State::Connected(_)) => return Event::Rtp,
            Ok(Protocol::Rtcp) if matches!(self.state, State::Connected(_)) => return Event::Rtcp,
            _ => {}
        }
        Event::Handled
    }

    fn send_check(&mut self, send: &mut dyn FnMut(&[u8])) {
        // Until the first answer these are retransmissions, of the same transaction (RFC 8489 §6.2.1): a busy server may be slow.
        if !matches!(self.state, State::Checking) {
            self.transaction = random();
        }
        let request = stun::Request {
            transaction_id: self.transaction,
            remote_ufrag: self.remote_ufrag.as_bytes(),
            local_ufrag: self.credentials.ufrag.as_bytes(),
            priority: PRIORITY,
            role: stun::Role::Controlling(self.tie_breaker),
            use_candidate: true,
        };
        let mut space = [0; 256];
        if let Some(len) = stun::write_request(&mut space, &request, &self.remote_key) {
            send(&space[..len]);
        }
    }

    fn handle_stun(&mut self, datagram: &[u8], now: u64, send: &mut dyn FnMut(&[u8])) {
        if stun::verify_success(datagram, &self.transaction, &self.remote_key).is_some() {
            self.answered = now;
            if matches!(self.state, State::Checking) {
                self.state = State::Handshaking;
                self.next_check = now + CONSENT_INTERVAL;
                self.start_handshake(now, send);
            }
            return;
        }
        // A full agent checks us too.
        let Ok(message) = stun::Message::parse(datagram) else { return };
        if message.class == stun::Class::Request && message.has_fingerprint() && message.has_integrity(&self.local_key) {
            let mut space = [0; 256];
            // The address is not used for anything by a peer that sends to a connected socket.
            let source = ([127, 0, 0, 1], 9).into();
            if let Some(len) = stun::write_success(&mut space, &message.transaction_id, source, &self.local_key) {
                send(&space[..len]);
            }
        }
    }

    fn start_handshake(&mut self, now: u64, send: &mut dyn FnMut(&[u8])) {
        let Some((identity, fingerprints)) = self.waiting.take() else { return };
        match Association::new(&identity, self.role, fingerprints, micros(now)) {
            Ok(mut handshake) => {
                drain(&mut handshake, send);
                self.handshake = Some(Box::new(handshake));
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn handle_dtls(&mut self, datagram: &[u8], now: u64, send: &mut dyn FnMut(&[u8])) -> Event {
        // A server that starts DTLS before our check was answered has checked itself.
        if self.waiting.is_some() && self.role == Role::Server {
            self.start_handshake(now, send);
        }
        let Some(handshake) = &mut self.handshake else { return Event::Handled };
        let result = handshake.handle(datagram, micros(now));
        drain(handshake, send);
        if let Err(error) = result {
            self.fail(error.to_string());
            return Event::Handled;
        }
        let Some(keys) = handshake.keys() else { return Event::Handled };
        self.profile = Some(keys.profile);
        match KeyingMaterial::from_exporter(keys.profile, &keys.exporter) {
            Ok(material) => {
                let (outbound, inbound) = material.split(self.role == Role::Server);
                let keys = Keys { outbound: Sender::new(&outbound), inbound: Inbound::new(&inbound, self.streams) };
                self.state = State::Connected(Box::new(keys));
                if self.role == Role::Client {
                    self.handshake = None;
                }
                Event::Connected
            }
            Err(error) => {
                self.fail(error.to_string());
                Event::Handled
            }
        }
    }

    fn fail(&mut self, why: String) {
        self.state = State::Failed;
        self.handshake = None;
        self.failure = Some(why);
    }
}

fn drain(handshake: &mut Association, send: &mut dyn FnMut(&[u8])) {
    while let Some(datagram) = handshake.poll_transmit() {
        send(&datagram);
    }
}

fn micros(nanoseconds: u64) -> Micros {
    Micros(nanoseconds / 1000)
}
