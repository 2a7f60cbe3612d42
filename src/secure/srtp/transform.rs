//! The cryptographic transforms of SRTP, in place: AES-GCM (RFC 7714) and AES-CM with HMAC-SHA1 (RFC 3711 §4).
//!
//! A transform knows keys and bytes and keeps no state: the packet index comes from its caller, who must never let one
//! index protect two packets of one SSRC. The key schedules and the inner HMAC state are computed once, so a packet costs
//! no allocation and no set-up. All lengths are checked here and a packet that does not fit is refused, never a panic.

use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use hmac::{Hmac, Mac};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha1::Sha1;

use super::keys::{Profile, SessionKeys};

/// Octets of an RTP header without CSRCs and extension (RFC 3550 §5.1).
const RTP_HEADER_BYTES: usize = 12;
/// Octets of an RTCP packet that stay in the clear: its first header and its sender's SSRC (RFC 3711 §3.4).
const RTCP_HEADER_BYTES: usize = 8;
/// Octets of the word of E bit and SRTCP index.
const INDEX_BYTES: usize = 4;
const GCM_TAG_BYTES: usize = 16;
const SHA1_TAG_BYTES: usize = 10;
/// The E bit: the packet is encrypted (RFC 3711 §3.4).
pub(super) const ENCRYPTED: u32 = 1 << 31;

/// Why a packet could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too short for its header, tag and index.
    Malformed,
    Unauthentic,
}

/// The transform of RTP or of RTCP in one direction.
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one, and a pointer less to follow for each packet")]
pub(super) enum Transform {
    Gcm(Gcm),
    /// Boxed, because its key schedule has room for the form of processors without AES instructions, and few peers have it.
    Cm(Box<Cm>),
}

impl Transform {
    pub(super) fn new(keys: &SessionKeys) -> Transform {
        match keys.profile {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => Transform::Gcm(Gcm::new(keys)),
            Profile::Aes128CmSha1_80 => Transform::Cm(Box::new(Cm::new(keys))),
        }
    }

    /// Protects the `len` octets of an RTP packet at the start of `space`; gives the new length.
    pub(super) fn seal_rtp(&self, space: &mut [u8], header_len: usize, len: usize, index: u64) -> Option<usize> {
        let (packet, room) = space.split_at_mut_checked(len)?;
        let ssrc = rtp_ssrc(packet)?;
        let (header, payload) = packet.split_at_mut_checked(header_len)?;
        if header.len() < RTP_HEADER_BYTES {
            return None;
        }
        match self {
            Transform::Gcm(gcm) => {
                let (tag, _) = room.split_first_chunk_mut::<GCM_TAG_BYTES>()?;
                *tag = gcm.seal(gcm.nonce(ssrc, index), header, payload)?;
                Some(len + GCM_TAG_BYTES)
            }
            Transform::Cm(cm) => {
                let (tag, _) = room.split_first_chunk_mut::<SHA1_TAG_BYTES>()?;
                cm.apply_key_stream(ssrc, index, payload)?;
                // What is authenticated is the packet, then the roll-over counter (RFC 3711 §4.2).
                *tag = cm.tag([packet, &roll_over(index)])?;
                Some(len + SHA1_TAG_BYTES)
            }
        }
    }

    /// Opens the SRTP packet that is `packet`; gives the length of the RTP packet that stays at its start.
    pub(super) fn open_rtp(&self, packet: &mut [u8], header_len: usize, index: u64) -> Result<usize, Refused> {
        let ssrc = rtp_ssrc(packet).ok_or(Refused::Malformed)?;
        if header_len < RTP_HEADER_BYTES {
            return Err(Refused::Malformed);
        }
        match self {
            Transform::Gcm(gcm) => {
                let (header, sealed) = packet.split_at_mut_checked(header_len).ok_or(Refused::Malformed)?;
                gcm.open(gcm.nonce(ssrc, index), header, sealed).map(|payload_len| header_len + payload_len)
            }
            Transform::Cm(cm) => {
                let (sealed, tag) = packet.split_last_chunk_mut::<SHA1_TAG_BYTES>().ok_or(Refused::Malformed)?;
                let len = sealed.len();
                if len < header_len {
                    return Err(Refused::Malformed);
                }
                // The tag first: what a stranger sent is not decrypted (RFC 3711 §3.3).
                cm.verify([sealed, &roll_over(index)], tag)?;
                let payload = sealed.get_mut(header_len..).ok_or(Refused::Malformed)?;
                cm.apply_key_stream(ssrc, index, payload).ok_or(Refused::Malformed)?;
                Ok(len)
            }
        }
    }

    /// Protects the `len` octets of a compound RTCP packet at the start of `space`; gives the new length.
    pub(super) fn seal_rtcp(&self, space: &mut [u8], len: usize, index: u32) -> Option<usize> {
        let (packet, room) = space.split_at_mut_checked(len)?;
        let ssrc = rtcp_ssrc(packet)?;
        let word = (index | ENCRYPTED).to_be_bytes();
        match self {
            Transform::Gcm(gcm) => {
                let (tag, room) = room.split_first_chunk_mut::<GCM_TAG_BYTES>()?;
                let (trailer, _) = room.split_first_chunk_mut::<INDEX_BYTES>()?;
                let (header, body) = packet.split_first_chunk_mut::<RTCP_HEADER_BYTES>()?;
                *tag = gcm.seal(gcm.nonce(ssrc, u64::from(index)), &associated(header, &word), body)?;
                *trailer = word;
                Some(len + GCM_TAG_BYTES + INDEX_BYTES)
            }
            Transform::Cm(cm) => {
                let (trailer, room) = room.split_first_chunk_mut::<INDEX_BYTES>()?;
                let (tag, _) = room.split_first_chunk_mut::<SHA1_TAG_BYTES>()?;
                cm.apply_key_stream(ssrc, u64::from(index), packet.get_mut(RTCP_HEADER_BYTES..)?)?;
                *trailer = word;
                *tag = cm.tag([packet, &word])?;
                Some(len + INDEX_BYTES + SHA1_TAG_BYTES)
            }
        }
    }

    /// Opens the SRTCP packet that is `packet`; gives the length of the RTCP packet that stays at its start.
    pub(super) fn open_rtcp(&self, packet: &mut [u8]) -> Result<usize, Refused> {
        let RtcpTrailer { ssrc, word } = self.rtcp_trailer(packet).ok_or(Refused::Malformed)?;
        let index = u64::from(word & !ENCRYPTED);
        let encrypted = word & ENCRYPTED != 0;
        match self {
            Transform::Gcm(gcm) => {
                let (sealed, word) = packet.split_last_chunk_mut::<INDEX_BYTES>().ok_or(Refused::Malformed)?;
                let nonce = gcm.nonce(ssrc, index);
                if !encrypted {
                    return gcm.verify_rtcp(nonce, packet);
                }
                let (header, sealed) = sealed.split_first_chunk_mut::<RTCP_HEADER_BYTES>().ok_or(Refused::Malformed)?;
                gcm.open(nonce, &associated(header, word), sealed).map(|body_len| RTCP_HEADER_BYTES + body_len)
            }
            Transform::Cm(cm) => {
                let (sealed, tag) = packet.split_last_chunk_mut::<SHA1_TAG_BYTES>().ok_or(Refused::Malformed)?;
                cm.verify([sealed, &[]], tag)?;
                let (packet, _) = sealed.split_last_chunk_mut::<INDEX_BYTES>().ok_or(Refused::Malformed)?;
                let body = packet.get_mut(RTCP_HEADER_BYTES..).ok_or(Refused::Malformed)?;
                if encrypted {
                    cm.apply_key_stream(ssrc, index, body).ok_or(Refused::Malformed)?;
                }
                Ok(packet.len())
            }
        }
    }

    /// What an SRTCP packet says of itself; `None` if it is too short to be one.
    pub(super) fn rtcp_trailer(&self, packet: &[u8]) -> Option<RtcpTrailer> {
        let (sealed, word) = match self {
            // The word is last (RFC 7714 §9.2), or before the tag (RFC 3711 §3.4).
            Transform::Gcm(_) => {
                let (sealed, word) = packet.split_last_chunk::<INDEX_BYTES>()?;
                (sealed.split_last_chunk::<GCM_TAG_BYTES>()?.0, word)
            }
            Transform::Cm(_) => packet.split_last_chunk::<SHA1_TAG_BYTES>()?.0.split_last_chunk::<INDEX_BYTES>()?,
        };
        Some(RtcpTrailer { ssrc: rtcp_ssrc(sealed)?, word: u32::from_be_bytes(*word) })
    }
}

pub(super) struct RtcpTrailer {
    /// SSRC of the sender of the compound packet.
    pub(super) ssrc: u32,
    /// The E bit and the 31 bits of the SRTCP index.
    pub(super) word: u32,
}

pub(super) fn rtp_ssrc(packet: &[u8]) -> Option<u32> {
    packet.get(8..12)?.try_into().ok().map(u32::from_be_bytes)
}

fn rtcp_ssrc(packet: &[u8]) -> Option<u32> {
    packet.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

fn roll_over(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// The associated data of an encrypted SRTCP packet: the header, then the word of E bit and index (RFC 7714 §9.2).
fn associated(header: &[u8; RTCP_HEADER_BYTES], word: &[u8; INDEX_BYTES]) -> [u8; RTCP_HEADER_BYTES + INDEX_BYTES] {
    let [a, b, c, d, e, f, g, h] = *header;
    let [i, j, k, l] = *word;
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// AEAD_AES_128_GCM or AEAD_AES_256_GCM with a 16-octet tag.
pub(super) struct Gcm {
    key: LessSafeKey,
    salt: [u8; 12],
}

impl Gcm {
    fn new(keys: &SessionKeys) -> Gcm {
        let algorithm = if keys.profile == Profile::AeadAes256Gcm { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, &keys.encryption).expect("session keys are of their profile's length");
        let [salt @ .., _, _] = keys.salt;
        Gcm { key: LessSafeKey::new(key), salt }
    }

    /// The salt, mixed with two zero octets, the SSRC and the 48 bits of roll-over counter and sequence number (RFC 7714
    /// §8.1). The 31-bit SRTCP index, after two more zero octets, comes to the same place (§9.1).
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let unsalted = u128::from(ssrc) << 48 | u128::from(index & 0xffff_ffff_ffff);
        let [_, _, _, _, unsalted @ ..] = unsalted.to_be_bytes();
        let mut nonce = self.salt;
        for (octet, with) in nonce.iter_mut().zip(unsalted) {
            *octet ^= with;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, nonce: Nonce, associated: &[u8], plain: &mut [u8]) -> Option<[u8; GCM_TAG_BYTES]> {
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(associated), plain).ok()?;
        tag.as_ref().try_into().ok()
    }

    fn open(&self, nonce: Nonce, associated: &[u8], sealed: &mut [u8]) -> Result<usize, Refused> {
        if sealed.len() < GCM_TAG_BYTES {
            return Err(Refused::Malformed);
        }
        let plain = self.key.open_in_place(nonce, Aad::from(associated), sealed).map_err(|_| Refused::Unauthentic)?;
        Ok(plain.len())
    }

    /// Verifies an SRTCP packet without encryption: its associated data is all of it but the tag, which stands before the
    /// word of E bit and index (RFC 7714 §9.3). The word takes the tag's place to make that one run of octets.
    fn verify_rtcp(&self, nonce: Nonce, packet: &mut [u8]) -> Result<usize, Refused> {
        let (rest, word) = packet.split_last_chunk_mut::<INDEX_BYTES>().ok_or(Refused::Malformed)?;
        let (plain, tag) = rest.split_last_chunk_mut::<GCM_TAG_BYTES>().ok_or(Refused::Malformed)?;
        let len = plain.len();
        let mut sealed = *tag;
        if let Some(start) = tag.first_chunk_mut::<INDEX_BYTES>() {
            *start = *word;
        }
        let associated = packet.get(..len + INDEX_BYTES).ok_or(Refused::Malformed)?;
        self.open(nonce, associated, &mut sealed).map(|_| len)
    }
}

/// AES in counter mode with a 128-bit key, and HMAC-SHA1 cut to 80 bits.
pub(super) struct Cm {
    cipher: Aes128Enc,
    salt: [u8; 14],
    authentication: Hmac<Sha1>,
}

impl Cm {
    fn new(keys: &SessionKeys) -> Cm {
        Cm {
            cipher: Aes128Enc::new_from_slice(&keys.encryption).expect("session keys are of their profile's length"),
            salt: keys.salt,
            authentication: <Hmac<Sha1> as Mac>::new_from_slice(&keys.authentication).expect("HMAC takes keys of any length"),
        }
    }

    /// Encrypts or decrypts `text` from the initial counter block of RFC 3711 §4.1.1: the salt, mixed with the SSRC in
    /// octets 4 to 7 and the index in octets 8 to 13; the last two octets count.
    fn apply_key_stream(&self, ssrc: u32, index: u64, text: &mut [u8]) -> Option<()> {
        let unsalted = u128::from(ssrc) << 64 | u128::from(index & 0xffff_ffff_ffff) << 16;
        let mut block = unsalted.to_be_bytes();
        for (octet, with) in block.iter_mut().zip(self.salt) {
            *octet ^= with;
        }
        let core = CtrCore::<&Aes128Enc, Ctr128BE>::inner_iv_init(&self.cipher, &block.into());
        StreamCipherCoreWrapper::from_core(core).try_apply_keystream(text).ok()
    }

    fn mac(&self, parts: [&[u8]; 2]) -> Hmac<Sha1> {
        parts.into_iter().fold(self.authentication.clone(), |mac, part| mac.chain_update(part))
    }

    fn tag(&self, parts: [&[u8]; 2]) -> Option<[u8; SHA1_TAG_BYTES]> {
        let tag = self.mac(parts).finalize().into_bytes();
        tag.first_chunk::<SHA1_TAG_BYTES>().copied()
    }

    /// Compares in constant time.
    fn verify(&self, parts: [&[u8]; 2], tag: &[u8; SHA1_TAG_BYTES]) -> Result<(), Refused> {
        self.mac(parts).verify_truncated_left(tag).map_err(|_| Refused::Unauthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::vector;
    use super::*;

    fn transform(profile: Profile, key: &str, salt: &str) -> Transform {
        Transform::new(&SessionKeys::given(profile, &vector(key), &vector(salt)))
    }

    /// RFC 3711 §B.2: a payload of zeros becomes the key stream. SSRC, roll-over counter and sequence number are 0.
    #[test]
    fn the_aes_cm_key_stream_is_that_of_rfc_3711() {
        let transform = transform(Profile::Aes128CmSha1_80, "b2.key", "b2.salt");
        let mut space = [0; 12 + 48 + 10];
        assert_eq!(transform.seal_rtp(&mut space, 12, 12 + 48, 0), Some(space.len()));
        assert_eq!(space[12..60], vector("b2.keystream"));
        let mut long = vec![0; 12 + 16 * 0xff02 + 10];
        let len = long.len();
        assert_eq!(transform.seal_rtp(&mut long, 12, len - 10, 0), Some(len));
        assert_eq!(long[12 + 16 * 0xfeff..len - 10], vector("b2.keystream_feff"));
    }

    /// RFC 7714 §16.1 and §16.2.
    #[test]
    fn rtp_packets_are_those_of_rfc_7714() {
        for (profile, key, sealed) in
            [(Profile::AeadAes128Gcm, "gcm.key_128", "gcm.srtp_128"), (Profile::AeadAes256Gcm, "gcm.key_256", "gcm.srtp_256")]
        {
            let transform = transform(profile, key, "gcm.salt");
            let (plain, sealed) = (vector("gcm.rtp"), vector(sealed));
            let mut space = plain.clone();
            space.resize(plain.len() + 16, 0xee);
            assert_eq!(transform.seal_rtp(&mut space, 12, plain.len(), 0xf17b), Some(sealed.len()));
            assert_eq!(space, sealed);
            assert_eq!(transform.open_rtp(&mut space, 12, 0xf17b), Ok(plain.len()));
            assert_eq!(space[..plain.len()], plain);
        }
    }

    /// RFC 7714 §17.1 and §17.2; §17.3 and §17.4 without encryption.
    #[test]
    fn rtcp_packets_are_those_of_rfc_7714() {
        for (profile, key, sealed, tagged) in [
            (Profile::AeadAes128Gcm, "gcm.key_128", "gcm.srtcp_128", "gcm.srtcp_128_tagged"),
            (Profile::AeadAes256Gcm, "gcm.key_256", "gcm.srtcp_256", "gcm.srtcp_256_tagged"),
        ] {
            let transform = transform(profile, key, "gcm.salt");
            let (plain, sealed, mut tagged) = (vector("gcm.rtcp"), vector(sealed), vector(tagged));
            let mut space = plain.clone();
            space.resize(plain.len() + 20, 0xee);
            assert_eq!(transform.seal_rtcp(&mut space, plain.len(), 0x5d4), Some(sealed.len()));
            assert_eq!(space, sealed);
            assert_eq!(transform.open_rtcp(&mut space), Ok(plain.len()));
            assert_eq!(space[..plain.len()], plain);
            let mut forged = tagged.clone();
            forged[20] ^= 1;
            assert_eq!(transform.open_rtcp(&mut forged), Err(Refused::Unauthentic));
            assert_eq!(transform.open_rtcp(&mut tagged), Ok(plain.len()));
            assert_eq!(tagged[..plain.len()], plain);
        }
    }
}
