//! DTLS 1.2 handshakes for SRTP keys (RFC 5763, RFC 5764, RFC 6347) and the application data of SCTP, without I/O.
//!
//! One [`Handshake`] is one association with one peer. Datagrams and the time go in, datagrams and keys come out; the peer
//! is who its SDP fingerprint says, or the handshake fails. This is slow-path code: it allocates, and never runs in a worker.
//!
//! # Which library, and why
//! The handshake itself is rtc-dtls 0.21 on *ring*: sans-I/O, both roles, built with nothing but Rust and a C compiler.
//!
//! | choice | RSA client certificates | SRTP profile | build |
//! |---|---|---|---|
//! | rtc-dtls 0.21 (ring) | yes: its CertificateRequest lists `rsa_sign` and `ecdsa_sign` | first of the *client's* list that we allow | Rust, C |
//! | dimpl 0.9 | no: its CertificateRequest lists ECDSA only, so GStreamer 1.22's webrtcbin and whipsink fail | none to set | Rust, C |
//! | openssl (libssl) | yes | ours | libssl and its headers, or perl to build it |
//!
//! `tests/dtls_interop.rs` shows RSA and ECDSA certificates in both roles against OpenSSL, with equal exported keys.
//! Chromium's two-datagram ClientHello (a hybrid key share, versions 1.3 and 1.2) ends in 1.2 with AEAD_AES_128_GCM.
//! The price is DTLS 1.2 only, and one round trip of HelloVerifyRequest that ICE makes superfluous.
//!
//! # What is done in front of it
//! The library is never handed a datagram as it came. Records are taken apart here, handshake messages are put together in
//! bounded memory and in order, and only whole, new messages go on, each in one record ([`flight`]). That mends what it lacks:
//! - its fragment buffer grows to 2 MB an association, keeps repeated messages for ever, misreads a record that holds the end
//!   of one message and another one, and recurses once a fragment;
//! - it queues early ChangeCipherSpec and encrypted records without bound: they wait here, a few of them, until the peer's
//!   flight is whole;
//! - a repeated message stops its retransmission timer, after which both sides can wait for each other for ever;
//! - its timer has one interval: it is driven here in *its own* time, so that ours can double (RFC 6347 §4.2.4.1);
//! - it takes the first SRTP profile of the client's list that it knows, which for Chromium is the slow CM_SHA1_80: the
//!   ClientHello is read here first, and the library is given the one best profile;
//! - it does not compare the second ClientHello with the first, which the transcript does not cover;
//! - as a server it does not compare the client's Finished, only decrypts it. The same transcript is proven by the client's
//!   CertificateVerify and by the extended master secret (RFC 7627); both are therefore required.

mod fingerprint;
mod flight;

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::{Certificate, CryptoPrivateKey};
use rtc_dtls::crypto_provider::{self, RTCCryptoProvider};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error as LibraryError;

pub use fingerprint::{Fingerprint, FingerprintError, HashFunction};
use flight::{ClientHello, Message, Pushed, Reassembly, Record, content, message};

use crate::limits::HANDSHAKE_MILLIS_MAX;
use crate::secure::srtp::Profile;
use crate::units::Micros;

/// The largest datagram sent: fits every path that WebRTC meets.
pub const DATAGRAM_MAX: usize = 1200;
/// The most application data of one datagram: less record header, explicit nonce and tag of AES-GCM (RFC 5288 §3).
pub const APPLICATION_DATA_MAX: usize = DATAGRAM_MAX - 13 - 8 - 16;

/// Handshake messages are split so that record and fragment headers still fit.
const FRAGMENT_MAX: usize = DATAGRAM_MAX - 13 - 12;
/// First retransmission; doubles after that. RFC 6347 §4.2.4.1 recommends 1 s and allows less where joining must be quick.
const RETRANSMIT_FIRST: u64 = 200_000;
/// Datagrams of ours that a peer's repeated last flight, or repeated first ClientHello, can cause in all.
const REPEATS_MAX: u8 = 8;
/// Encrypted records kept while the peer's flight in front of them is not whole.
const EARLY_RECORDS_MAX: usize = 8;
/// Received application data not yet polled; more is dropped, as by a network (SCTP sends it again).
const APPLICATION_DATA_QUEUE: usize = 256;
/// The library wants an address for its peer; it has one peer and sends nothing itself.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9));
/// The library's retransmission interval, in its own time.
const LIBRARY_INTERVAL: Duration = Duration::from_secs(1);

/// Alert descriptions that we send ourselves (RFC 5246 §7.2).
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
const ALERT_ILLEGAL_PARAMETER: u8 = 47;

/// Our certificate and key, made once at start: ECDSA on P-256, which every WebRTC client takes (RFC 8827 §6.5).
#[derive(Clone)]
pub struct Identity {
    certificate: Certificate,
    provider: Arc<dyn RTCCryptoProvider>,
    fingerprint: Fingerprint,
    /// Where the library's time begins. The only clock read of this module; nothing depends on its value.
    origin: Instant,
}

impl Identity {
    pub fn generate() -> Result<Self, DtlsError> {
        let provider = crypto_provider::default_provider().map_err(|error| DtlsError::Setup(error.to_string()))?;
        let setup = |error: rcgen::Error| DtlsError::Setup(error.to_string());
        let key = rcgen::KeyPair::generate().map_err(setup)?;
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "WebRTC");
        let certificate = parameters.self_signed(&key).map_err(setup)?;
        let private_key = CryptoPrivateKey::from_key_pair(&key, provider.crypto()).map_err(library_setup)?;
        Ok(Identity {
            fingerprint: Fingerprint::of(HashFunction::Sha256, certificate.der()),
            certificate: Certificate { certificate: vec![certificate.der().clone()], private_key },
            provider,
            origin: Instant::now(),
        })
    }

    /// For our SDP.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn config(&self, role: Role, profiles: &[Profile], expected: &Arc<[Fingerprint]>) -> Result<HandshakeConfig, DtlsError> {
        let expected = Arc::clone(expected);
        ConfigBuilder::default()
            .with_crypto_provider(Arc::clone(&self.provider))
            .with_certificates(vec![self.certificate.clone()])
            .with_cipher_suites(vec![
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
                // As a client, for a server with an RSA certificate; as a server, ours leaves only the first two.
                CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
                CipherSuiteId::Tls_Ecdhe_Rsa_With_ChaCha20_Poly1305_Sha256,
            ])
            .with_srtp_protection_profiles(profiles.iter().map(|profile| SrtpProtectionProfile::from(profile.dtls_id())).collect())
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            // Without it, exported keys are not bound to the handshake (RFC 7627 §1, §5.4).
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(LIBRARY_INTERVAL)
            // No certificate authority vouches for WebRTC certificates: the SDP's fingerprint does (RFC 5763 §5).
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(move |chain, _| match chain.first() {
                Some(leaf) if expected.iter().any(|fingerprint| fingerprint.check(leaf)) => Ok(()),
                _ => Err(LibraryError::ErrInvalidCertificate),
            })))
            .with_server_name("webrtc.invalid".to_owned())
            .with_mtu(FRAGMENT_MAX)
            .build(role == Role::Client, Some(PEER))
            .map_err(library_setup)
    }
}

/// Our role: `Client` if we are `setup:active`, `Server` if passive (RFC 5763 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Client,
    Server,
}

/// What SRTP needs of a handshake: the profile, and the `EXTRACTOR-dtls_srtp` output of its length (RFC 5764 §4.2).
pub struct DtlsKeys {
    pub profile: Profile,
    pub exporter: Vec<u8>,
}

impl fmt::Debug for DtlsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsKeys").field("profile", &self.profile).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshaking,
    Connected,
    /// Failed, or closed by either side. Nothing is answered any more.
    Closed,
}

/// One association: a handshake, then application data.
///
/// Invariants: the library exists from the first good ClientHello (server) or from `new` (client) until the end, and has
/// seen the peer's messages once and in order; `keys` exist only after the fingerprint was checked.
pub struct Handshake {
    identity: Identity,
    role: Role,
    expected: Arc<[Fingerprint]>,
    state: State,
    engine: Option<Endpoint>,
    engine_now: Instant,
    reassembly: Reassembly,
    /// Our numbering of the epoch 0 records given to the library: the peer's is not authenticated and not needed.
    record_sequence: u64,
    /// The ClientHello without cookie, while the one with it is awaited.
    first_hello: Option<(ClientHello, Message)>,
    certificate_seen: bool,
    /// The peer's flight up to its ChangeCipherSpec was given to the library.
    flight_whole: bool,
    change_cipher_spec: ChangeCipherSpec,
    early_records: VecDeque<Vec<u8>>,
    repeats_left: u8,
    retransmit_at: Option<Micros>,
    retransmit_after: u64,
    give_up_at: Micros,
    transmits: VecDeque<Vec<u8>>,
    application_data: VecDeque<Vec<u8>>,
    keys: Option<DtlsKeys>,
    closed_by_peer: bool,
    discarded: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeCipherSpec {
    Awaited,
    Arrived,
    Applied,
}

impl Handshake {
    /// `expected`: the fingerprints of the peer's SDP, any of which may match (RFC 8122 §5).
    pub fn new(identity: &Identity, role: Role, expected: Vec<Fingerprint>, now: Micros) -> Result<Self, DtlsError> {
        if expected.is_empty() {
            return Err(DtlsError::NoFingerprint);
        }
        let mut handshake = Handshake {
            identity: identity.clone(),
            role,
            expected: expected.into(),
            state: State::Handshaking,
            engine: None,
            engine_now: identity.origin,
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
            application_data: VecDeque::new(),
            keys: None,
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

    /// Takes a datagram of the peer. What is not DTLS, not in place or not authentic is counted and ignored; an error means
    /// that the handshake is over (an alert may wait in [`Self::poll_transmit`]).
    pub fn handle(&mut self, datagram: &[u8], now: Micros) -> Result<(), DtlsError> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let Some((record, more)) = flight::split_record(rest) else {
                self.discarded += 1;
                break;
            };
            rest = more;
            let handled = match self.state {
                State::Closed => self.discard(),
                State::Handshaking => self.handle_handshake_record(record, now),
                State::Connected => self.handle_connected_record(record, now),
            };
            if handled.is_err() {
                self.end();
                return handled;
            }
        }
        Ok(())
    }

    /// To be called at or after [`Self::poll_timeout`]. Fails when the peer has been silent for too long.
    pub fn handle_timeout(&mut self, now: Micros) -> Result<(), DtlsError> {
        if self.state != State::Handshaking {
            return Ok(());
        }
        if now >= self.give_up_at {
            self.end();
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
            if library.handle_timeout(PEER, self.engine_now).is_err() {
                self.end();
                return Err(DtlsError::TimedOut);
            }
            self.drain_library();
        }
        Ok(())
    }

    pub fn poll_timeout(&self) -> Option<Micros> {
        match self.state {
            State::Handshaking => Some(self.retransmit_at.map_or(self.give_up_at, |at| at.min(self.give_up_at))),
            State::Connected | State::Closed => None,
        }
    }

    /// The next datagram for the peer, at most [`DATAGRAM_MAX`] bytes.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The SRTP keys: once, when the handshake is complete and the peer's certificate is the one its SDP named.
    pub fn keys(&mut self) -> Option<DtlsKeys> {
        self.keys.take()
    }

    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    pub fn poll_application_data(&mut self) -> Option<Vec<u8>> {
        self.application_data.pop_front()
    }

    /// Sends `data` in one record; at most [`APPLICATION_DATA_MAX`] bytes, once connected.
    pub fn send_application_data(&mut self, data: &[u8]) -> Result<(), DtlsError> {
        let Some(library) = self.engine.as_mut().filter(|_| self.state == State::Connected) else {
            return Err(DtlsError::NotConnected);
        };
        if data.len() > APPLICATION_DATA_MAX {
            return Err(DtlsError::TooLong);
        }
        library.write(self.engine_now, PEER, data).map_err(|error| DtlsError::Failed(error.to_string()))?;
        self.drain_library();
        Ok(())
    }

    /// Ends the association with a close_notify (RFC 5246 §7.2.1).
    pub fn close(&mut self) {
        if let Some(library) = &mut self.engine {
            library.stop(self.engine_now, PEER);
        }
        self.end();
    }

    /// The peer sent close_notify or a fatal alert.
    pub fn closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    /// Records and fragments that were ignored.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    fn discard(&mut self) -> Result<(), DtlsError> {
        self.discarded += 1;
        Ok(())
    }

    fn handle_handshake_record(&mut self, record: Record<'_>, now: Micros) -> Result<(), DtlsError> {
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

    /// After the handshake, epoch 0 carries nothing new: only what is encrypted counts (RFC 6347 §4.1).
    fn handle_connected_record(&mut self, record: Record<'_>, now: Micros) -> Result<(), DtlsError> {
        match (record.epoch, record.content_type) {
            (1, content::APPLICATION_DATA | content::ALERT) => self.give_to_library(record.bytes, now),
            // The peer's Finished again: our last flight was lost, and the library repeats it (RFC 6347 §4.2.4).
            (1, content::HANDSHAKE) if self.repeats_left > 0 => {
                self.repeats_left -= 1;
                self.give_to_library(record.bytes, now)
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
            while self.state == State::Handshaking
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
        if !self.flight_whole || self.change_cipher_spec != ChangeCipherSpec::Arrived || self.state != State::Handshaking {
            return Ok(());
        }
        self.change_cipher_spec = ChangeCipherSpec::Applied;
        let record = flight::plain_record(content::CHANGE_CIPHER_SPEC, self.next_record_sequence(), &[&[1]]);
        self.give_to_library(&record, now)?;
        for record in std::mem::take(&mut self.early_records) {
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
        match result {
            Ok(events) => events.into_iter().try_for_each(|event| self.handle_event(event)),
            Err(LibraryError::ErrAlertFatalOrClose) if self.state == State::Connected => {
                self.closed_by_peer = true;
                self.end();
                Ok(())
            }
            // A connection does not end by a warning, or by a record that is not in order.
            Err(_) if self.state == State::Connected => self.discard(),
            Err(error) => Err(self.failure(error)),
        }
    }

    fn handle_event(&mut self, event: EndpointEvent) -> Result<(), DtlsError> {
        match event {
            EndpointEvent::HandshakeComplete => self.complete(),
            EndpointEvent::ApplicationData(data) => {
                if self.application_data.len() < APPLICATION_DATA_QUEUE {
                    self.application_data.push_back(data.to_vec());
                } else {
                    self.discarded += 1;
                }
                Ok(())
            }
            EndpointEvent::PeerClosed => {
                self.closed_by_peer = true;
                self.end();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn complete(&mut self) -> Result<(), DtlsError> {
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
        self.keys = Some(DtlsKeys { profile, exporter: exporter.as_ref().to_vec() });
        self.state = State::Connected;
        self.retransmit_at = None;
        self.repeats_left = REPEATS_MAX;
        Ok(())
    }

    /// The library's errors, in our words where we have better ones.
    fn failure(&self, error: LibraryError) -> DtlsError {
        match error {
            LibraryError::ErrInvalidCertificate => DtlsError::WrongFingerprint,
            LibraryError::ErrClientCertificateRequired => DtlsError::NoCertificate,
            LibraryError::ErrRequestedButNoSrtpExtension | LibraryError::ErrClientNoMatchingSrtpProfile => DtlsError::NoSrtpProfile,
            error => DtlsError::Failed(error.to_string()),
        }
    }

    /// A fatal alert before there are keys.
    fn send_alert(&mut self, description: u8) {
        let record = flight::plain_record(content::ALERT, self.next_record_sequence(), &[&[2, description]]);
        self.transmits.push_back(record);
    }

    /// Takes what the library sends, and starts the retransmission timer if that was a new flight.
    fn collect_transmits(&mut self, now: Micros) {
        let sent = self.drain_library();
        if self.state != State::Handshaking {
            return;
        }
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

    /// Frees what a finished association does not need; what it still has to send stays.
    fn end(&mut self) {
        self.drain_library();
        self.state = State::Closed;
        self.engine = None;
        self.reassembly = Reassembly::default();
        self.first_hello = None;
        self.early_records = VecDeque::new();
        self.retransmit_at = None;
    }
}

fn library_setup(error: LibraryError) -> DtlsError {
    DtlsError::Setup(error.to_string())
}

/// Why a handshake or an association failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DtlsError {
    /// Our certificate or configuration cannot be made.
    Setup(String),
    /// The peer's SDP has no fingerprint that we accept.
    NoFingerprint,
    /// The peer's certificate is not the one that its SDP named.
    WrongFingerprint,
    /// The peer has no certificate.
    NoCertificate,
    /// The peer offers no SRTP profile of ours.
    NoSrtpProfile,
    /// The peer asks to resume a session.
    Resumption,
    /// The second ClientHello differs from the first.
    HelloChanged,
    /// The peer sent a fatal alert with this description (RFC 5246 §7.2), or close_notify (0).
    PeerAlert(u8),
    /// The peer was silent for too long.
    TimedOut,
    /// Anything else that the handshake library refuses.
    Failed(String),
    /// Application data can be sent only while connected.
    NotConnected,
    /// Application data longer than [`APPLICATION_DATA_MAX`].
    TooLong,
}

impl fmt::Display for DtlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DtlsError::Setup(error) => write!(f, "DTLS setup: {error}"),
            DtlsError::NoFingerprint => f.write_str("no acceptable fingerprint in the peer's SDP"),
            DtlsError::WrongFingerprint => f.write_str("the peer's certificate does not match its SDP fingerprint"),
            DtlsError::NoCertificate => f.write_str("the peer presented no certificate"),
            DtlsError::NoSrtpProfile => f.write_str("no SRTP profile in common with the peer"),
            DtlsError::Resumption => f.write_str("the peer asked to resume a DTLS session"),
            DtlsError::HelloChanged => f.write_str("the peer's second ClientHello differs from its first"),
            DtlsError::PeerAlert(0) => f.write_str("the peer closed during the handshake"),
            DtlsError::PeerAlert(description) => write!(f, "the peer refused the handshake with alert {description}"),
            DtlsError::TimedOut => f.write_str("DTLS handshake timed out"),
            DtlsError::Failed(error) => write!(f, "DTLS: {error}"),
            DtlsError::NotConnected => f.write_str("DTLS is not connected"),
            DtlsError::TooLong => f.write_str("application data too long for one record"),
        }
    }
}

impl std::error::Error for DtlsError {}

#[cfg(test)]
mod tests;
