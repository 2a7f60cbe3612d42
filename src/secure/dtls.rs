//! DTLS 1.2 handshakes for SRTP keys (RFC 5763, RFC 5764, RFC 6347) and the application data of SCTP, without I/O.
//!
//! One [`Association`] is with one peer. Datagrams and the time go in, datagrams and keys come out; the peer is who its SDP
//! fingerprint says, or the handshake fails. This is slow-path code: it allocates, and never runs in a worker.
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
//!
//! # What is left after it
//! The library keeps 13 kB for each association, and nearly all that a session still needs is an alert at its end. So the library
//! is dropped with the handshake, and its exported state becomes a [`connection`] of 232 bytes, which protects records itself:
//! application data, alerts, and the answer to a repeated last flight. It knows AES-128-GCM and ChaCha20-Poly1305, the AEADs of
//! the only cipher suites that are offered or accepted (`Identity::config`). AES-256 and CCM are left out because every WebRTC
//! client has AES-128-GCM, which RFC 8827 §6.5 requires; a handshake in any other suite would fail.

mod connection;
mod fingerprint;
mod flight;
mod handshake;

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::{Certificate, CryptoPrivateKey};
use rtc_dtls::crypto_provider::{self, RTCCryptoProvider};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::error::Error as LibraryError;

use connection::{Connection, Received};
pub use fingerprint::{Fingerprint, FingerprintError, HashFunction};
use flight::{Record, content};
use handshake::Handshake;

use crate::secure::srtp::Profile;
use crate::units::Micros;

/// The largest datagram sent: fits every path that WebRTC meets.
pub const DATAGRAM_MAX: usize = 1200;
/// The most application data of one datagram: less record header, explicit nonce and tag of AES-GCM (RFC 5288 §3).
pub const APPLICATION_DATA_MAX: usize = DATAGRAM_MAX - 13 - 8 - 16;

/// Handshake messages are split so that record and fragment headers still fit.
const FRAGMENT_MAX: usize = DATAGRAM_MAX - 13 - 12;
/// Received application data not yet polled; more is dropped, as by a network (SCTP sends it again).
const APPLICATION_DATA_QUEUE: usize = 256;
/// The library wants an address for its peer; it has one peer and sends nothing itself.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9));
/// The library's retransmission interval, in its own time.
const LIBRARY_INTERVAL: Duration = Duration::from_secs(1);

/// Our certificate and key, made once at start: ECDSA on P-256, which every WebRTC client takes (RFC 8827 §6.5).
#[derive(Clone)]
pub struct Identity(Arc<IdentityParts>);

struct IdentityParts {
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
        Ok(Identity(Arc::new(IdentityParts {
            fingerprint: Fingerprint::of(HashFunction::Sha256, certificate.der()),
            certificate: Certificate { certificate: vec![certificate.der().clone()], private_key },
            provider,
            origin: Instant::now(),
        })))
    }

    /// For our SDP.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint.clone()
    }

    fn config(&self, role: Role, profiles: &[Profile], expected: &Arc<[Fingerprint]>) -> Result<HandshakeConfig, DtlsError> {
        let expected = Arc::clone(expected);
        ConfigBuilder::default()
            .with_crypto_provider(Arc::clone(&self.0.provider))
            .with_certificates(vec![self.0.certificate.clone()])
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

/// One association: a handshake, then a connection.
pub struct Association {
    phase: Phase,
    transmits: VecDeque<Vec<u8>>,
    application_data: VecDeque<Vec<u8>>,
    keys: Option<DtlsKeys>,
    closed_by_peer: bool,
    discarded: u64,
}

enum Phase {
    Handshaking(Box<Handshake>),
    Connected(Box<Connection>),
    /// Failed, or closed by either side. Nothing is answered any more.
    Closed,
}

impl Association {
    /// `expected`: the fingerprints of the peer's SDP, any of which may match (RFC 8122 §5).
    pub fn new(identity: &Identity, role: Role, expected: Vec<Fingerprint>, now: Micros) -> Result<Self, DtlsError> {
        if expected.is_empty() {
            return Err(DtlsError::NoFingerprint);
        }
        let mut association = Association {
            phase: Phase::Handshaking(Box::new(Handshake::new(identity, role, expected, now)?)),
            transmits: VecDeque::new(),
            application_data: VecDeque::new(),
            keys: None,
            closed_by_peer: false,
            discarded: 0,
        };
        association.advance(|_| Ok(()))?;
        Ok(association)
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
            match self.phase {
                Phase::Handshaking(_) => self.advance(|handshake| handshake.handle_record(record, now))?,
                Phase::Connected(_) => self.receive(record),
                Phase::Closed => self.discarded += 1,
            }
        }
        Ok(())
    }

    /// To be called at or after [`Self::poll_timeout`]. Fails when the peer has been silent for too long.
    pub fn handle_timeout(&mut self, now: Micros) -> Result<(), DtlsError> {
        self.advance(|handshake| handshake.handle_timeout(now))
    }

    pub fn poll_timeout(&self) -> Option<Micros> {
        match &self.phase {
            Phase::Handshaking(handshake) => Some(handshake.poll_timeout()),
            Phase::Connected(_) | Phase::Closed => None,
        }
    }

    /// The next datagram for the peer, at most [`DATAGRAM_MAX`] bytes.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        next_of(&mut self.transmits)
    }

    /// The SRTP keys: once, when the handshake is complete and the peer's certificate is the one its SDP named.
    pub fn keys(&mut self) -> Option<DtlsKeys> {
        self.keys.take()
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected(_))
    }

    pub fn poll_application_data(&mut self) -> Option<Vec<u8>> {
        next_of(&mut self.application_data)
    }

    /// Sends `data` in one record; at most [`APPLICATION_DATA_MAX`] bytes, once connected.
    pub fn send_application_data(&mut self, data: &[u8]) -> Result<(), DtlsError> {
        let Phase::Connected(connection) = &mut self.phase else { return Err(DtlsError::NotConnected) };
        if data.len() > APPLICATION_DATA_MAX {
            return Err(DtlsError::TooLong);
        }
        let record = connection.seal(content::APPLICATION_DATA, data).ok_or(DtlsError::NotConnected)?;
        self.transmits.push_back(record);
        Ok(())
    }

    /// Ends the association with a close_notify (RFC 5246 §7.2.1).
    pub fn close(&mut self) {
        match &mut self.phase {
            Phase::Handshaking(handshake) => {
                handshake.close();
                self.transmits.append(&mut handshake.transmits);
            }
            Phase::Connected(connection) => self.transmits.extend(connection.close_notify()),
            Phase::Closed => {}
        }
        self.phase = Phase::Closed;
    }

    /// The peer sent close_notify or a fatal alert.
    pub fn closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    /// Records and fragments that were ignored.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// One step of the handshake, if it goes on, and what comes of it.
    fn advance(&mut self, step: impl FnOnce(&mut Handshake) -> Result<(), DtlsError>) -> Result<(), DtlsError> {
        let Phase::Handshaking(handshake) = &mut self.phase else { return Ok(()) };
        let result = step(handshake);
        self.transmits.append(&mut handshake.transmits);
        self.discarded += std::mem::take(&mut handshake.discarded);
        self.closed_by_peer = handshake.closed_by_peer;
        if result.is_err() {
            self.phase = Phase::Closed;
        } else if let Some((keys, connection)) = handshake.completed.take() {
            let early = std::mem::take(&mut handshake.early_records);
            // All that the library holds is freed here.
            self.phase = Phase::Connected(Box::new(connection));
            self.keys = Some(keys);
            early.iter().filter_map(|bytes| flight::split_record(bytes)).for_each(|(record, _)| self.receive(record));
        }
        result
    }

    /// A record of the peer after the handshake.
    fn receive(&mut self, record: Record<'_>) {
        let Phase::Connected(connection) = &mut self.phase else { return };
        match connection.receive(record) {
            Some(Received::ApplicationData(data)) if self.application_data.len() < APPLICATION_DATA_QUEUE => {
                self.application_data.push_back(data);
            }
            Some(Received::LastFlight(datagram)) => self.transmits.push_back(datagram),
            Some(Received::CloseNotify) => {
                // To be answered, and everything in flight is void (RFC 5246 §7.2.1).
                self.closed_by_peer = true;
                self.close();
            }
            Some(Received::FatalAlert) => {
                self.closed_by_peer = true;
                self.phase = Phase::Closed;
            }
            Some(Received::ApplicationData(_)) | None => self.discarded += 1,
        }
    }
}

/// Takes the first, and lets an empty queue keep no memory: it stays empty, as a rule, for as long as the session lives.
fn next_of(queue: &mut VecDeque<Vec<u8>>) -> Option<Vec<u8>> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
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
