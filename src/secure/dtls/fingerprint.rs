//! `a=fingerprint` of the SDP: the hash of a certificate, and the only thing that ties a DTLS peer to its offer (RFC 8122 §5).

use std::fmt;
use std::str::FromStr;

use ring::digest;

/// Hash functions a fingerprint may use. MD5 and SHA-1 of RFC 8122 §5 are refused: a second certificate with the same hash
/// is within reach of an attacker, and every current client offers SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashFunction {
    Sha256,
    Sha384,
    Sha512,
}

impl HashFunction {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            HashFunction::Sha256 => &digest::SHA256,
            HashFunction::Sha384 => &digest::SHA384,
            HashFunction::Sha512 => &digest::SHA512,
        }
    }

    /// The `hash-func` token of RFC 8122 §5.
    pub fn name(self) -> &'static str {
        match self {
            HashFunction::Sha256 => "sha-256",
            HashFunction::Sha384 => "sha-384",
            HashFunction::Sha512 => "sha-512",
        }
    }
}

/// One certificate fingerprint; `Display` and `FromStr` are the value of the SDP attribute: `sha-256 AB:CD:…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub algorithm: HashFunction,
    pub bytes: Vec<u8>,
}

impl Fingerprint {
    /// The fingerprint of a DER certificate.
    pub fn of(algorithm: HashFunction, certificate: &[u8]) -> Self {
        Fingerprint { algorithm, bytes: digest::digest(algorithm.digest(), certificate).as_ref().to_vec() }
    }

    /// Whether `certificate` (DER) is the one this fingerprint names. Fingerprints are public: no constant time needed.
    pub fn check(&self, certificate: &[u8]) -> bool {
        digest::digest(self.algorithm.digest(), certificate).as_ref() == self.bytes
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.name())?;
        for (i, byte) in self.bytes.iter().enumerate() {
            // UHEX, colon between bytes (RFC 8122 §5).
            write!(f, "{}{byte:02X}", if i == 0 { ' ' } else { ':' })?;
        }
        Ok(())
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let (name, hex) = text.trim().split_once(' ').ok_or(FingerprintError::Malformed)?;
        // Tokens compare without case, and some clients write lower-case hex.
        let algorithm = match name.to_ascii_lowercase().as_str() {
            "sha-256" => HashFunction::Sha256,
            "sha-384" => HashFunction::Sha384,
            "sha-512" => HashFunction::Sha512,
            "sha-1" | "sha-224" | "md5" | "md2" => return Err(FingerprintError::WeakHash(name.to_ascii_lowercase())),
            _ => return Err(FingerprintError::UnknownHash),
        };
        let length = algorithm.digest().output_len();
        let mut bytes = Vec::with_capacity(length);
        for pair in hex.trim().split(':') {
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) || bytes.len() == length {
                return Err(FingerprintError::Malformed);
            }
            bytes.push(u8::from_str_radix(pair, 16).map_err(|_| FingerprintError::Malformed)?);
        }
        if bytes.len() != length {
            return Err(FingerprintError::Malformed);
        }
        Ok(Fingerprint { algorithm, bytes })
    }
}

/// Why an `a=fingerprint` is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FingerprintError {
    /// Not `hash-func SP 2UHEX *(":" 2UHEX)`, or not as many bytes as the hash has.
    Malformed,
    /// A hash that no longer identifies a certificate.
    WeakHash(String),
    /// A hash function that is not in RFC 8122.
    UnknownHash,
}

impl fmt::Display for FingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FingerprintError::Malformed => f.write_str("malformed fingerprint: expected e.g. sha-256 AB:CD:…"),
            FingerprintError::WeakHash(name) => write!(f, "fingerprint hash {name} is too weak: use sha-256, sha-384 or sha-512"),
            FingerprintError::UnknownHash => f.write_str("unknown fingerprint hash: use sha-256, sha-384 or sha-512"),
        }
    }
}

impl std::error::Error for FingerprintError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdp_form_round_trips() {
        for algorithm in [HashFunction::Sha256, HashFunction::Sha384, HashFunction::Sha512] {
            let fingerprint = Fingerprint::of(algorithm, b"certificate");
            let text = fingerprint.to_string();
            assert_eq!(text.parse(), Ok(fingerprint.clone()));
            assert_eq!(text.to_ascii_lowercase().parse(), Ok(fingerprint.clone()));
            assert_eq!(text.replacen("sha", "SHA", 1).parse(), Ok(fingerprint.clone()));
            assert!(fingerprint.check(b"certificate"));
            assert!(!fingerprint.check(b"another"));
        }
        // SHA-256 of the empty string.
        let text = Fingerprint::of(HashFunction::Sha256, b"").to_string();
        assert!(text.starts_with("sha-256 E3:B0:C4:42:98:FC:1C:14:"), "{text}");
    }

    #[test]
    fn weak_and_malformed_are_refused() {
        let parse = |text: &str| text.parse::<Fingerprint>();
        assert_eq!(parse("sha-1 AA:BB"), Err(FingerprintError::WeakHash("sha-1".into())));
        assert_eq!(parse("MD5 AA:BB"), Err(FingerprintError::WeakHash("md5".into())));
        assert_eq!(parse("sha3-256 AA:BB"), Err(FingerprintError::UnknownHash));
        let good = Fingerprint::of(HashFunction::Sha256, b"x").to_string();
        let hex = good.strip_prefix("sha-256 ").unwrap();
        let long = format!("{good}:00");
        let glued = hex.replacen(':', "", 1);
        let sign = good.replacen(&hex[..2], "+1", 1);
        for text in ["", "sha-256", "sha-256 ", "sha-256 AA:BB", "sha-256 é", &long, &glued, &sign, &good[..good.len() - 1]] {
            assert_eq!(parse(text).ok(), None, "{text}");
        }
    }
}
