//! One handshake: the library, and what is done in front of it (the reasons are in [`super`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error as LibraryError;

use super::connection::Connection;
use super::flight::{self, ClientHello, Message, Pushed, Reassembly, Record, content, message};
use super::{DATAGRAM_MAX, DtlsError, DtlsKeys, Fingerprint, Identity, PEER, Role, library_setup};
use crate::limits::HANDSHAKE_MILLIS_MAX;
use crate::secure::srtp::Profile;
use crate::units::Micros;

/// First retransmission; doubles after that. RFC 6347 §4.2.4.1 recommends 1 s and allows less where joining must be quick.
const RETRANSMIT_FIRST: u64 = 200_000;
/// Datagrams of ours that a peer's repeated first ClientHello can cause in all.
pub(super) const REPEATS_MAX: u8 = 8;
/// Encrypted records kept while the peer's flight in front of them is not whole.
pub(super) const EARLY_RECORDS_MAX: usize = 8;

/// Alert descriptions that we send ourselves (RFC 5246 §7.2).
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
pub(super) const ALERT_ILLEGAL_PARAMETER: u8 = 47;

/// Invariants: the library exists from the first good ClientHello (server) or from `new` (client) on, and has seen the peer's
/// messages once and in order; the connection exists only after the fingerprint was checked.
pub(super) struct Handshake {
    identity: Identity,
    role: Role,
    expected: Arc<[Fingerprint]>,
    engine: Option<Endpoint>,
    engine_now: Instant,
    pub(super) reassembly: Reassembly,
    /// Our numbering of the epoch 0 records given to the library: the peer's is not authenticated and not needed.
    record_sequence: u64,
    /// The ClientHello without cookie, while the one with it is awaited.
    first_hello: Option<(ClientHello, Message)>,
    certificate_seen: bool,
    /// The peer's flight up to its ChangeCipherSpec was given to the library.
    flight_whole: bool,
    change_cipher_spec: ChangeCipherSpec,
    pub(super) early_records: VecDeque<Vec<u8>>,
    repeats_left: u8,
    retransmit_at: Option<Micros>,
    retransmit_after: u64,
    pub(super) give_up_at: Micros,
    pub(super) transmits: VecDeque<Vec<u8>>,
    /// What comes of it.
    pub(super) completed: Option<(DtlsKeys, Connection)>,
    pub(super) closed_by_peer: bool,
    pub(super) discarded: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeCipherSpec {
    Awaited,
    Arrived,
    Applied,
}

impl Handshake {
    pub fn new(identity: &Identity, role: Role, expected: Vec<Fingerprint>, now: Micros) -> Result<Self, DtlsError> {
        let mut handshake = Handshake {
            identity: identity.clone(),
            role,
            expected: expected.into(),
            engine: None,
            engine_now: identity.0.origin,
            reassembly: Reassembly::default(),
            record_sequence: 0,
            first_hello: None,
            certificate_seen: false,
            flight_whole: false,
            change_cipher_spec: ChangeCipherSpec::Awaited,
            early_records: VecDeque::new(),
            repeats_left: REPEATS_MAX,
            retransmit_at: None,
            retransmit_after: RETRANSMIT_FIRST,
            give_up_at: now + Micros::from_millis(HANDSHAKE_MILLIS_MAX),
            transmits: VecDeque::new(),
            completed: None,
            closed_by_peer: false,
            discarded: 0,
        };
        if role == Role::Client {
            // The server chooses, most by an order of their own.
            let config = Arc::new(identity.config(role, &Profile::ALL, &handshake.expected)?);
            let mut library = Endpoint::new(PEER, TransportProtocol::UDP, None);
            library.connect(handshake.engine_now, PEER, config, None).map_err(library_setup)?;
            handshake.engine = Some(library);
            handshake.collect_transmits(now);
        }
        Ok(handshake)
    }

    pub fn handle_timeout(&mut self, now: Micros) -> Result<(), DtlsError> {
        if now >= self.give_up_at {
            return Err(DtlsError::TimedOut);
        }
        if self.retransmit_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        self.retransmit_after = self.retransmit_after.saturating_mul(2);
        self.retransmit_at = Some(now + Micros(self.retransmit_after));
        if let Some(library) = &mut self.engine
            && let Some(library_deadline) = library.poll_timeout(&PEER)
        {
            self.engine_now = self.engine_now.max(library_deadline);
            library.handle_timeout(PEER, self.engine_now).map_err(|_| DtlsError::TimedOut)?;
            self.drain_library();
        }
        Ok(())
    }

    pub fn poll_timeout(&self) -> Micros {
        self.retransmit_at.map_or(self.give_up_at, |at| at.min(self.give_up_at))
    }

    /// We leave before the end.
    pub fn close(&mut self) {
        if let Some(library) = &mut self.engine {
            library.stop(self.engine_now, PEER);
        }
        self.drain_library();
    }

    fn discard(&mut self) -> Result<(), DtlsError> {
        self.discarded += 1;
        Ok(())
    }

    /// What is not in place or not authentic is counted and ignored; an error ends the handshake.
    pub fn handle_record(&mut self, record: Record<'_>, now: Micros) -> Result<(), DtlsError> {
        match (record.epoch, record.content_type, record.fragment) {
            (0, content::HANDSHAKE, fragments) => self.handle_fragments(fragments, now),
            (0, content::CHANGE_CIPHER_SPEC, [1]) => {
                if self.change_cipher_spec == ChangeCipherSpec::Awaited {
                    self.change_cipher_spec = ChangeCipherSpec::Arrived;
                }
                self.release_early_records(now)
            }
            // Fatal, or the peer leaves (RFC 5246 §7.2). Not authentic, but whoever can forge it can also block the handshake.
            (0, content::ALERT, &[2, description] | &[_, description @ 0]) => {
                self.closed_by_peer = true;
                Err(DtlsError::PeerAlert(description))
            }
            // The library does not decrypt this one type, and fails on what it then finds in it.
            (1, content::CHANGE_CIPHER_SPEC, _) => self.discard(),
            (1, ..) if self.change_cipher_spec == ChangeCipherSpec::Applied => self.give_to_library(record.bytes, now),
            (1, ..) if record.bytes.len() <= 2 * DATAGRAM_MAX => {
                if self.early_records.len() == EARLY_RECORDS_MAX {
                    self.early_records.pop_front();
                    self.discarded += 1;
                }
                self.early_records.push_back(record.bytes.to_vec());
                Ok(())
            }
            _ => self.discard(),
        }
    }

    fn handle_fragments(&mut self, mut rest: &[u8], now: Micros) -> Result<(), DtlsError> {
        while !rest.is_empty() {
            let Some((fragment, more)) = flight::split_fragment(rest) else { return self.discard() };
            rest = more;
            match self.reassembly.push(fragment) {
                Pushed::Kept => {}
                Pushed::Refused => self.discarded += 1,
                Pushed::Repeated => {
                    if fragment.sequence == 0 && fragment.offset == 0 {
                        self.repeat_hello_verify_request(now)?;
                    }
                }
            }
            while self.completed.is_none()
                && let Some(message) = self.reassembly.pop()
            {
                self.handle_message(message, now)?;
            }
        }
        Ok(())
    }

    /// The HelloVerifyRequest was lost: only this one flight has no timer (RFC 6347 §4.2.4).
    fn repeat_hello_verify_request(&mut self, now: Micros) -> Result<(), DtlsError> {
        let Some((_, hello)) = self.first_hello.clone() else { return Ok(()) };
        if self.repeats_left == 0 {
            return self.discard();
        }
        self.repeats_left -= 1;
        self.give_message_to_library(&hello, now)
    }

    fn handle_message(&mut self, message: Message, now: Micros) -> Result<(), DtlsError> {
        let kind = message.kind;
        if self.role == Role::Server {
            match message.sequence {
                0 => return self.handle_first_hello(message, now),
                1 => return self.handle_second_hello(message, now),
                _ => {}
            }
            match kind {
                // Its own length comes first: 3 bytes alone are an empty list (RFC 5246 §7.4.2).
                message::CERTIFICATE => self.certificate_seen = message.body.len() > 3,
                message::CLIENT_KEY_EXCHANGE if !self.certificate_seen => {
                    self.send_alert(ALERT_HANDSHAKE_FAILURE);
                    return Err(DtlsError::NoCertificate);
                }
                _ => {}
            }
        }
        self.give_message_to_library(&message, now)?;
        // The last message that comes in the clear.
        if kind == (if self.role == Role::Server { message::CERTIFICATE_VERIFY } else { message::SERVER_HELLO_DONE }) {
            self.flight_whole = true;
        }
        self.release_early_records(now)
    }

    fn handle_first_hello(&mut self, message: Message, now: Micros) -> Result<(), DtlsError> {
        let hello = match ClientHello::parse(&message.body) {
            Some(hello) if message.kind == message::CLIENT_HELLO => hello,
            _ => {
                self.reassembly.reject_last();
                return self.discard();
            }
        };
        if hello.resumes {
            self.send_alert(ALERT_HANDSHAKE_FAILURE);
            return Err(DtlsError::Resumption);
        }
        let Some(profile) = hello.profile else {
            self.send_alert(ALERT_HANDSHAKE_FAILURE);
            return Err(DtlsError::NoSrtpProfile);
        };
        let config = Arc::new(self.identity.config(self.role, &[profile], &self.expected)?);
        self.engine = Some(Endpoint::new(PEER, TransportProtocol::UDP, Some(config)));
        self.give_message_to_library(&message, now)?;
        self.first_hello = Some((hello, message));
        Ok(())
    }

    /// The ClientHello with our cookie: all else must be as before (RFC 6347 §4.2.1), or someone changed the first one.
    fn handle_second_hello(&mut self, message: Message, now: Micros) -> Result<(), DtlsError> {
        let hello = match ClientHello::parse(&message.body) {
            Some(hello) if message.kind == message::CLIENT_HELLO => hello,
            _ => {
                self.reassembly.reject_last();
                return self.discard();
            }
        };
        if self.first_hello.take().is_none_or(|(first, _)| first != hello) {
            self.send_alert(ALERT_ILLEGAL_PARAMETER);
            return Err(DtlsError::HelloChanged);
        }
        self.give_message_to_library(&message, now)
    }

    /// Lets the peer's ChangeCipherSpec and what is encrypted pass once all before it is there.
    fn release_early_records(&mut self, now: Micros) -> Result<(), DtlsError> {
        if !self.flight_whole || self.change_cipher_spec != ChangeCipherSpec::Arrived {
            return Ok(());
        }
        self.change_cipher_spec = ChangeCipherSpec::Applied;
        let record = flight::plain_record(content::CHANGE_CIPHER_SPEC, self.next_record_sequence(), &[&[1]]);
        self.give_to_library(&record, now)?;
        // Those after the last of the handshake are for the connection.
        while self.completed.is_none()
            && let Some(record) = self.early_records.pop_front()
        {
            self.give_to_library(&record, now)?;
        }
        Ok(())
    }

    fn next_record_sequence(&mut self) -> u64 {
        self.record_sequence += 1;
        self.record_sequence
    }

    fn give_message_to_library(&mut self, message: &Message, now: Micros) -> Result<(), DtlsError> {
        let record = message.to_record(self.next_record_sequence());
        self.give_to_library(&record, now)
    }

    fn give_to_library(&mut self, record: &[u8], now: Micros) -> Result<(), DtlsError> {
        let Some(library) = &mut self.engine else { return self.discard() };
        let result = library.read(self.engine_now, PEER, None, record.into());
        self.collect_transmits(now);
        for event in result.map_err(failure)? {
            match event {
                EndpointEvent::HandshakeComplete => self.complete(record)?,
                EndpointEvent::PeerClosed => {
                    self.closed_by_peer = true;
                    return Err(DtlsError::PeerAlert(0));
                }
                // Nothing else is given to it that could cause one.
                _ => {}
            }
        }
        Ok(())
    }

    /// `last` is the record that ended the handshake.
    fn complete(&mut self, last: &[u8]) -> Result<(), DtlsError> {
        let state = self.engine.as_ref().and_then(|library| library.get_connection_state(PEER)).ok_or(DtlsError::NotConnected)?;
        // Checked by the library's callback already; this one does not depend on when it calls.
        let leaf = state.peer_certificates.first().ok_or(DtlsError::NoCertificate)?;
        if !self.expected.iter().any(|fingerprint| fingerprint.check(leaf)) {
            return Err(DtlsError::WrongFingerprint);
        }
        let profile = Profile::from_dtls_id(state.srtp_protection_profile() as u16).ok_or(DtlsError::NoSrtpProfile)?;
        let exporter = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], profile.keying_material_len())
            .map_err(|error| DtlsError::Failed(error.to_string()))?;
        let (last, _) = flight::split_record(last).ok_or(DtlsError::NotConnected)?;
        let sent = self.transmits.make_contiguous();
        let connection = Connection::new(state, exporter.as_ref(), last, sent).map_err(DtlsError::Failed)?;
        self.completed = Some((DtlsKeys { profile, exporter: exporter.as_ref().to_vec() }, connection));
        Ok(())
    }

    /// A fatal alert before there are keys.
    fn send_alert(&mut self, description: u8) {
        let record = flight::plain_record(content::ALERT, self.next_record_sequence(), &[&[2, description]]);
        self.transmits.push_back(record);
    }

    /// Takes what the library sends, and starts the retransmission timer if that was a new flight.
    fn collect_transmits(&mut self, now: Micros) {
        let sent = self.drain_library();
        let armed = self.engine.as_ref().is_some_and(|library| library.poll_timeout(&PEER).is_some());
        if !armed {
            // The peer has begun its next flight, and repeats that until we answer.
            self.retransmit_at = None;
        } else if sent && (self.role == Role::Client || self.reassembly.next_sequence() > 1) {
            self.retransmit_after = RETRANSMIT_FIRST;
            self.retransmit_at = Some(now + Micros(RETRANSMIT_FIRST));
        }
    }

    fn drain_library(&mut self) -> bool {
        let before = self.transmits.len();
        if let Some(library) = &mut self.engine {
            self.transmits.extend(std::iter::from_fn(|| library.poll_transmit()).map(|transmit| transmit.message.to_vec()));
        }
        self.transmits.len() > before
    }
}

/// The library's errors, in our words where we have better ones.
fn failure(error: LibraryError) -> DtlsError {
    match error {
        LibraryError::ErrInvalidCertificate => DtlsError::WrongFingerprint,
        LibraryError::ErrClientCertificateRequired => DtlsError::NoCertificate,
        LibraryError::ErrRequestedButNoSrtpExtension | LibraryError::ErrClientNoMatchingSrtpProfile => DtlsError::NoSrtpProfile,
        error => DtlsError::Failed(error.to_string()),
    }
}
