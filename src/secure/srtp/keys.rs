//! SRTP protection profiles and the way from a DTLS handshake to session keys (RFC 5764 §4.2, RFC 3711 §4.3).
//!
//! Three stages, each its own type, so that none can be taken for another: `KeyingMaterial` is what both sides export,
//! a `MasterKey` serves one direction, `SessionKeys` serve RTP or RTCP of that direction. Lengths are checked once, when
//! a `MasterKey` is made; whatever is built from one cannot fail. No `Debug` here prints a key.

use std::fmt;

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc};
use arrayvec::ArrayVec;

const KEY_BYTES_MAX: usize = 32;
/// Octets of a salt as the key derivation sees it: 112 bits (RFC 3711 §4.3.1).
const SALT_BYTES_MAX: usize = 14;
/// Octets of an HMAC-SHA1 session key (RFC 3711 §5.2).
pub(super) const AUTHENTICATION_KEY_BYTES: usize = 20;

/// An SRTP protection profile that this server negotiates (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    AeadAes128Gcm,
    AeadAes256Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80, which every WebRTC endpoint has (RFC 8827 §6.5).
    Aes128CmSha1_80,
}

impl Profile {
    pub const ALL: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmSha1_80];

    /// The profile of a `use_srtp` identifier; `None` for those that are not supported.
    pub const fn from_dtls_id(id: u16) -> Option<Profile> {
        match id {
            0x0001 => Some(Profile::Aes128CmSha1_80),
            0x0007 => Some(Profile::AeadAes128Gcm),
            0x0008 => Some(Profile::AeadAes256Gcm),
            _ => None,
        }
    }
    /// Identifier in the `use_srtp` extension.
    pub const fn dtls_id(self) -> u16 {
        match self {
            Profile::Aes128CmSha1_80 => 0x0001,
            Profile::AeadAes128Gcm => 0x0007,
            Profile::AeadAes256Gcm => 0x0008,
        }
    }
    /// Name in the IANA registry of DTLS-SRTP protection profiles, without its prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Profile::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Profile::Aes128CmSha1_80 => "AES128_CM_SHA1_80",
        }
    }
    /// Octets of the master key, and of a session's encryption key.
    pub const fn key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::Aes128CmSha1_80 => 16,
            Profile::AeadAes256Gcm => 32,
        }
    }
    /// Octets of the master salt, and of a session's salt.
    pub const fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 12,
            Profile::Aes128CmSha1_80 => 14,
        }
    }
    /// Octets that the exporter has to give: two keys and two salts.
    pub const fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
    /// Octets of an authentication tag, and what protection adds to an RTP packet.
    pub const fn rtp_tag_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 16,
            Profile::Aes128CmSha1_80 => 10,
        }
    }
    /// Octets that protection adds to an RTCP packet: the tag, the E bit and the index.
    pub const fn rtcp_overhead(self) -> usize {
        self.rtp_tag_len() + 4
    }
}

/// A key, a salt or keying material of a length that its profile does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKeyLength;

impl fmt::Display for WrongKeyLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SRTP keying material is not of its profile's length")
    }
}

impl std::error::Error for WrongKeyLength {}

/// What the DTLS exporter gives to both sides: a key and a salt for each direction.
#[derive(Clone)]
pub struct KeyingMaterial {
    client: MasterKey,
    server: MasterKey,
}

impl KeyingMaterial {
    /// Reads the exporter's output for the label `EXTRACTOR-dtls_srtp`, `profile.keying_material_len()` octets: client key,
    /// server key, client salt, server salt (RFC 5764 §4.2).
    pub fn from_exporter(profile: Profile, bytes: &[u8]) -> Result<KeyingMaterial, WrongKeyLength> {
        let (client_key, rest) = bytes.split_at_checked(profile.key_len()).ok_or(WrongKeyLength)?;
        let (server_key, rest) = rest.split_at_checked(profile.key_len()).ok_or(WrongKeyLength)?;
        let (client_salt, server_salt) = rest.split_at_checked(profile.salt_len()).ok_or(WrongKeyLength)?;
        Ok(KeyingMaterial {
            client: MasterKey::new(profile, client_key, client_salt)?,
            server: MasterKey::new(profile, server_key, server_salt)?,
        })
    }

    pub fn profile(&self) -> Profile {
        self.client.profile
    }

    /// The master keys as (outbound, inbound) of the side that is, or is not, the DTLS server.
    pub fn split(self, is_server: bool) -> (MasterKey, MasterKey) {
        if is_server { (self.server, self.client) } else { (self.client, self.server) }
    }
}

impl fmt::Debug for KeyingMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyingMaterial").field("profile", &self.profile()).finish_non_exhaustive()
    }
}

/// Master key and salt of one direction, of the lengths of their profile.
#[derive(Clone)]
pub struct MasterKey {
    profile: Profile,
    key: ArrayVec<u8, KEY_BYTES_MAX>,
    /// Shorter salts are followed by zeros, as the key derivation wants them (RFC 7714 §11).
    salt: [u8; SALT_BYTES_MAX],
}

impl MasterKey {
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<MasterKey, WrongKeyLength> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return Err(WrongKeyLength);
        }
        let key = ArrayVec::try_from(key).map_err(|_| WrongKeyLength)?;
        Ok(MasterKey { profile, key, salt: padded(salt) })
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    pub(super) fn rtp(&self) -> SessionKeys {
        self.session_keys(Labels { encryption: 0x00, authentication: 0x01, salt: 0x02 })
    }

    pub(super) fn rtcp(&self) -> SessionKeys {
        self.session_keys(Labels { encryption: 0x03, authentication: 0x04, salt: 0x05 })
    }

    fn session_keys(&self, labels: Labels) -> SessionKeys {
        let mut keys = SessionKeys {
            profile: self.profile,
            encryption: self.key.clone(),
            authentication: [0; AUTHENTICATION_KEY_BYTES],
            salt: [0; SALT_BYTES_MAX],
        };
        self.derive(labels.encryption, &mut keys.encryption);
        self.derive(labels.authentication, &mut keys.authentication);
        self.derive(labels.salt, &mut keys.salt);
        keys
    }

    /// The AES-CM pseudo-random function of RFC 3711 §4.3.3, with a key derivation rate of zero (§4.3.1): the key stream
    /// of the master key, from the salt with the label in its octet 7.
    fn derive(&self, label: u8, output: &mut [u8]) {
        for (counter, chunk) in (0u16..).zip(output.chunks_mut(16)) {
            let mut block = [0; 16];
            for (to, from) in block.iter_mut().zip(self.salt) {
                *to = from;
            }
            block[7] ^= label;
            [block[14], block[15]] = counter.to_be_bytes();
            self.encrypt_block(&mut block);
            for (to, from) in chunk.iter_mut().zip(block) {
                *to = from;
            }
        }
    }

    fn encrypt_block(&self, block: &mut [u8; 16]) {
        let block = GenericArray::from_mut_slice(block);
        // A 256-bit key derives with AES-256 (RFC 7714 §11).
        if let Ok(cipher) = Aes128Enc::new_from_slice(&self.key) {
            cipher.encrypt_block(block);
        } else if let Ok(cipher) = Aes256Enc::new_from_slice(&self.key) {
            cipher.encrypt_block(block);
        }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// The labels of RFC 3711 §4.3.1 and §4.3.2.
struct Labels {
    encryption: u8,
    authentication: u8,
    salt: u8,
}

/// The session keys of RTP or of RTCP, in one direction.
pub(super) struct SessionKeys {
    pub(super) profile: Profile,
    pub(super) encryption: ArrayVec<u8, KEY_BYTES_MAX>,
    /// Unused by the AEAD profiles.
    pub(super) authentication: [u8; AUTHENTICATION_KEY_BYTES],
    /// The AEAD profiles use the first 12 octets.
    pub(super) salt: [u8; SALT_BYTES_MAX],
}

fn padded(salt: &[u8]) -> [u8; SALT_BYTES_MAX] {
    let mut padded = [0; SALT_BYTES_MAX];
    for (to, from) in padded.iter_mut().zip(salt) {
        *to = *from;
    }
    padded
}

#[cfg(test)]
impl SessionKeys {
    /// Session keys as they stand in a test vector.
    pub(super) fn given(profile: Profile, encryption: &[u8], salt: &[u8]) -> SessionKeys {
        let encryption = ArrayVec::try_from(encryption).expect("a key of at most 32 octets");
        SessionKeys { profile, encryption, authentication: [0; AUTHENTICATION_KEY_BYTES], salt: padded(salt) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::vector;
    use super::*;

    /// RFC 3711 §B.3.
    #[test]
    fn derives_the_session_keys_of_rfc_3711() {
        let master = MasterKey::new(Profile::Aes128CmSha1_80, &vector("b3.master_key"), &vector("b3.master_salt")).unwrap();
        let keys = master.rtp();
        assert_eq!(keys.encryption[..], vector("b3.cipher_key"));
        assert_eq!(keys.salt[..], vector("b3.salt"));
        assert_eq!(keys.authentication[..], vector("b3.auth_key")[..AUTHENTICATION_KEY_BYTES]);
        let mut long = [0; 94];
        master.derive(0x01, &mut long);
        assert_eq!(long[..], vector("b3.auth_key"));
    }

    #[test]
    fn the_exporter_gives_both_keys_before_both_salts() {
        for profile in Profile::ALL {
            let bytes: Vec<u8> = (0..profile.keying_material_len() as u8).collect();
            let (key, salt) = (profile.key_len(), profile.salt_len());
            let (outbound, inbound) = KeyingMaterial::from_exporter(profile, &bytes).unwrap().split(true);
            assert_eq!(inbound.key[..], bytes[..key]);
            assert_eq!(outbound.key[..], bytes[key..2 * key]);
            assert_eq!(inbound.salt[..salt], bytes[2 * key..2 * key + salt]);
            assert_eq!(outbound.salt[..salt], bytes[2 * key + salt..]);
            let (outbound, inbound) = KeyingMaterial::from_exporter(profile, &bytes).unwrap().split(false);
            assert_eq!(outbound.key[..], bytes[..key]);
            assert_eq!(inbound.key[..], bytes[key..2 * key]);
            for len in (0..bytes.len()).chain([bytes.len() + 1]) {
                let bytes = vec![0; len];
                assert_eq!(KeyingMaterial::from_exporter(profile, &bytes).err(), Some(WrongKeyLength));
            }
        }
    }

    #[test]
    fn profiles_have_their_registered_identifiers() {
        for profile in Profile::ALL {
            assert_eq!(Profile::from_dtls_id(profile.dtls_id()), Some(profile));
        }
        assert_eq!(Profile::from_dtls_id(0x0002), None);
    }

    #[test]
    fn debug_output_shows_no_key() {
        let master = MasterKey::new(Profile::Aes128CmSha1_80, &[0xab; 16], &[0xab; 14]).unwrap();
        assert_eq!(format!("{master:?}"), "MasterKey { profile: Aes128CmSha1_80, .. }");
    }
}
