//! DTLS against the `openssl` program over UDP sockets: RSA and ECDSA certificates, both roles, equal exported keys.
//!
//! Without an `openssl` in the path the tests say so and pass.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use distributary::secure::dtls::{Association, DtlsError, DtlsKeys, Fingerprint, HashFunction, Identity, Role};
use distributary::secure::srtp::Profile;
use distributary::units::Micros;

/// What Chromium offers, in its order.
const CHROMIUM: &str = "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM";

const GCM_FIRST: &str = "SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80";

/// A directory with `certificate.pem` and `key.pem`, removed at the end.
struct Credentials {
    directory: PathBuf,
    fingerprint: Fingerprint,
}

impl Credentials {
    /// `None` if there is no `openssl`.
    fn make(name: &str, key_options: &[&str]) -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("dtls-interop-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=peer", "-newkey"])
            .args(key_options)
            .args(["-keyout", "key.pem", "-out", "certificate.pem"])
            .current_dir(&directory)
            .output();
        let Ok(output) = made else {
            eprintln!("skipped: no openssl program");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let der = Command::new("openssl")
            .args(["x509", "-in", "certificate.pem", "-outform", "der"])
            .current_dir(&directory)
            .output()
            .unwrap()
            .stdout;
        Some(Credentials { directory, fingerprint: Fingerprint::of(HashFunction::Sha256, &der) })
    }

    fn rsa(name: &str) -> Option<Self> {
        Credentials::make(name, &["rsa:2048"])
    }

    fn ecdsa(name: &str) -> Option<Self> {
        Credentials::make(name, &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A running `openssl s_client` or `s_server`, ended when dropped.
struct OpenSsl {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl OpenSsl {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(arguments)
            .args(["-dtls1_2", "-cert", "certificate.pem", "-key", "key.pem", "-keymatexport", "EXTRACTOR-dtls_srtp"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout.by_ref().read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim().to_owned());
                line.clear();
            }
        });
        OpenSsl { child, lines }
    }

    /// The rest of the first line that begins with `prefix`.
    fn line(&self, prefix: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let line = self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .unwrap_or_else(|_| panic!("no {prefix}"));
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.trim().to_owned();
            }
        }
    }

    fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Moves datagrams between `handshake` and `socket` until `done`; the peer's address is that of its first datagram.
fn drive(
    handshake: &mut Association,
    socket: &UdpSocket,
    start: Instant,
    mut done: impl FnMut(&mut Association) -> bool,
) -> Result<(), DtlsError> {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 2048];
    loop {
        while let Some(datagram) = handshake.poll_transmit() {
            // Until the peer is up, its port refuses datagrams; retransmission mends that.
            let _ = socket.send(&datagram);
        }
        if done(handshake) {
            return Ok(());
        }
        assert!(start.elapsed() < Duration::from_secs(15), "stuck");
        let received = if socket.peer_addr().is_ok() {
            socket.recv(&mut buffer).ok()
        } else {
            socket.recv_from(&mut buffer).ok().map(|(length, from)| {
                socket.connect(from).unwrap();
                length
            })
        };
        let now = Micros(start.elapsed().as_micros() as u64);
        let result = match received {
            Some(length) => handshake.handle(&buffer[..length], now),
            None => Ok(()),
        };
        let result = result.and_then(|()| handshake.handle_timeout(now));
        if result.is_err() {
            while let Some(datagram) = handshake.poll_transmit() {
                let _ = socket.send(&datagram);
            }
            return result;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn assert_agrees(openssl: &OpenSsl, keys: &DtlsKeys) {
    let profile = match keys.profile {
        Profile::AeadAes128Gcm => "SRTP_AEAD_AES_128_GCM",
        Profile::AeadAes256Gcm => "SRTP_AEAD_AES_256_GCM",
        Profile::Aes128CmSha1_80 => "SRTP_AES128_CM_SHA1_80",
    };
    assert_eq!(openssl.line("SRTP Extension negotiated, profile="), profile);
    assert_eq!(openssl.line("Keying material:"), hex(&keys.exporter));
}

/// We are the server of `openssl s_client`.
fn serve(credentials: &Credentials, profiles: &str, length: usize, more: &[&str]) -> DtlsKeys {
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (start, address) = (Instant::now(), socket.local_addr().unwrap().to_string());
    let mut handshake = Association::new(&identity, Role::Server, vec![credentials.fingerprint.clone()], Micros::ZERO).unwrap();
    let length = length.to_string();
    let arguments = [&["s_client", "-connect", &address, "-use_srtp", profiles, "-keymatexportlen", &length], more].concat();
    let mut openssl = OpenSsl::start(&credentials.directory, &arguments);
    let mut keys = None;
    drive(&mut handshake, &socket, start, |handshake| {
        keys = keys.take().or_else(|| handshake.keys());
        keys.is_some()
    })
    .unwrap();
    let keys = keys.unwrap();
    assert_agrees(&openssl, &keys);

    openssl.write("application data\n");
    let mut data = None;
    drive(&mut handshake, &socket, start, |handshake| {
        data = data.take().or_else(|| handshake.poll_application_data());
        data.is_some()
    })
    .unwrap();
    assert_eq!(data.unwrap(), b"application data\n");
    handshake.send_application_data(b"answer\n").unwrap();
    drive(&mut handshake, &socket, start, |_| true).unwrap();
    openssl.line("answer");
    // `Q` at the start of a line ends s_client with a close_notify.
    openssl.write("Q\n");
    drive(&mut handshake, &socket, start, |handshake| handshake.closed_by_peer()).unwrap();
    keys
}

/// We are the client of `openssl s_server`.
fn connect(credentials: &Credentials, profiles: &str, length: usize, more: &[&str]) -> DtlsKeys {
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Free now, and hardly taken by another in the moment until s_server has it.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let length = length.to_string();
    let arguments = [
        "s_server",
        "-accept",
        &address,
        "-use_srtp",
        profiles,
        "-keymatexportlen",
        &length,
        "-Verify",
        "1",
        "-mtu",
        "1200",
        "-listen",
    ];
    let openssl = OpenSsl::start(&credentials.directory, &[&arguments, more].concat());
    openssl.line("ACCEPT");
    socket.connect(&address).unwrap();
    let start = Instant::now();
    let mut handshake = Association::new(&identity, Role::Client, vec![credentials.fingerprint.clone()], Micros::ZERO).unwrap();
    let mut keys = None;
    drive(&mut handshake, &socket, start, |handshake| {
        keys = keys.take().or_else(|| handshake.keys());
        keys.is_some()
    })
    .unwrap();
    let keys = keys.unwrap();
    assert_agrees(&openssl, &keys);
    handshake.send_application_data(b"to openssl\n").unwrap();
    drive(&mut handshake, &socket, start, |_| true).unwrap();
    openssl.line("to openssl");
    handshake.close();
    drive(&mut handshake, &socket, start, |_| true).unwrap();
    // What s_server says of a close_notify.
    openssl.line("DONE");
    keys
}

#[test]
fn openssl_client_with_rsa_certificate() {
    let Some(credentials) = Credentials::rsa("client-rsa") else { return };
    assert_eq!(serve(&credentials, CHROMIUM, 56, &[]).profile, Profile::AeadAes128Gcm);
}

#[test]
fn openssl_client_with_ecdsa_certificate() {
    let Some(credentials) = Credentials::ecdsa("client-ecdsa") else { return };
    assert_eq!(serve(&credentials, CHROMIUM, 56, &[]).profile, Profile::AeadAes128Gcm);
    assert_eq!(serve(&credentials, "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM", 88, &[]).profile, Profile::AeadAes256Gcm);
    assert_eq!(serve(&credentials, "SRTP_AES128_CM_SHA1_32:SRTP_AES128_CM_SHA1_80", 60, &[]).profile, Profile::Aes128CmSha1_80);
}

/// A link of 300 bytes: ClientHello, Certificate and CertificateVerify come in fragments.
#[test]
fn openssl_client_in_fragments() {
    let Some(credentials) = Credentials::rsa("client-fragments") else { return };
    assert_eq!(serve(&credentials, CHROMIUM, 56, &["-mtu", "300"]).profile, Profile::AeadAes128Gcm);
}

/// A server's own order decides (OpenSSL's, BoringSSL's): as the client we can only offer.
#[test]
fn openssl_server_with_rsa_certificate() {
    let Some(credentials) = Credentials::rsa("server-rsa") else { return };
    assert_eq!(connect(&credentials, GCM_FIRST, 56, &[]).profile, Profile::AeadAes128Gcm);
}

#[test]
fn openssl_server_with_ecdsa_certificate() {
    let Some(credentials) = Credentials::ecdsa("server-ecdsa") else { return };
    assert_eq!(connect(&credentials, GCM_FIRST, 56, &[]).profile, Profile::AeadAes128Gcm);
    assert_eq!(connect(&credentials, "SRTP_AES128_CM_SHA1_80", 60, &[]).profile, Profile::Aes128CmSha1_80);
}

/// Both AEADs that we offer protect what comes after the handshake; all tests above get AES-128-GCM.
#[test]
fn openssl_with_chacha20_poly1305() {
    let Some(credentials) = Credentials::ecdsa("chacha") else { return };
    let only = ["-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"];
    assert_eq!(serve(&credentials, GCM_FIRST, 56, &only).profile, Profile::AeadAes128Gcm);
    assert_eq!(connect(&credentials, GCM_FIRST, 56, &only).profile, Profile::AeadAes128Gcm);
    let Some(credentials) = Credentials::rsa("chacha-rsa") else { return };
    let only = ["-cipher", "ECDHE-RSA-CHACHA20-POLY1305"];
    assert_eq!(connect(&credentials, GCM_FIRST, 56, &only).profile, Profile::AeadAes128Gcm);
}

/// A stranger's certificate: no keys, and the reason is said on both sides.
#[test]
fn openssl_client_with_another_certificate_is_refused() {
    let Some(credentials) = Credentials::rsa("client-stranger") else { return };
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut handshake = Association::new(&identity, Role::Server, vec![identity.fingerprint()], Micros::ZERO).unwrap();
    let _openssl = OpenSsl::start(&credentials.directory, &["s_client", "-connect", &address, "-use_srtp", CHROMIUM]);
    assert_eq!(drive(&mut handshake, &socket, Instant::now(), |_| false), Err(DtlsError::WrongFingerprint));
    assert!(handshake.keys().is_none());
}
