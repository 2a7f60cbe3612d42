//! SRTP against another implementation, in both directions and for all profiles: webrtc-srtp produces the same octets,
//! opens what is sealed here, and what it seals is opened here, in any order within the window, over many roll-overs, once.
//! Packets with a bit turned are refused, always.

use distributary::metrics::DropReason;
use distributary::secure::srtp::{KeyingMaterial, MasterKey, Profile, Receiver, Sender};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

/// Packets of each profile and direction; with three profiles, two directions and their tampered copies well over 100,000.
const RTP_BLOCKS: usize = 1_000;
const BLOCK_PACKETS: usize = 32;
const RTCP_PACKETS: usize = 6_000;

/// A small generator (xorshift64*): a failure is a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

struct Sides {
    profile: Profile,
    ours_out: Sender,
    ours_in: Receiver,
    theirs_out: Context,
    theirs_in: Context,
}

impl Sides {
    fn new(profile: Profile, random: &mut Random) -> Sides {
        let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
        let exporter = random.bytes(profile.keying_material_len());
        let (keys, salts) = exporter.split_at(2 * key_len);
        let (outbound, inbound) = KeyingMaterial::from_exporter(profile, &exporter).unwrap().split(true);
        let theirs = |key, salt| {
            let profile = match profile {
                Profile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
                Profile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
                Profile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            };
            Context::new(key, salt, profile, None, None).unwrap()
        };
        Sides {
            profile,
            ours_out: Sender::new(&outbound),
            ours_in: Receiver::new(&inbound, 24),
            // A sender and a receiver of the server's key tell whether ours is right; the client's key feeds our receiver.
            theirs_out: theirs(&keys[..key_len], &salts[..salt_len]),
            theirs_in: theirs(&keys[key_len..], &salts[salt_len..]),
        }
    }
}

/// A random RTP packet and the length of its header.
fn rtp_packet(random: &mut Random, ssrc: u32, index: u64) -> (Vec<u8>, usize) {
    let csrcs = [0, 0, 0, 1, 2, 15][random.below(6)];
    let extension = random.below(4);
    let mut packet = vec![0x80 | u8::from(extension > 0) << 4 | csrcs as u8, random.next() as u8];
    packet.extend((index as u16).to_be_bytes());
    packet.extend(random.bytes(4));
    packet.extend(ssrc.to_be_bytes());
    packet.extend(random.bytes(4 * csrcs));
    match extension {
        // One element of the one-byte form (RFC 8285 §4.2).
        1 => {
            let data_len = [3, 7, 11, 15][random.below(4)];
            packet.extend([0xbe, 0xde, 0, (data_len as u8 + 1) / 4]);
            packet.push(1 << 4 | (data_len as u8 - 1));
            packet.extend(random.bytes(data_len));
        }
        // An unknown form.
        2 | 3 => {
            let words = random.below(9);
            packet.extend([0x12, 0x34, 0, words as u8]);
            packet.extend(random.bytes(4 * words));
        }
        _ => {}
    }
    let header_len = packet.len();
    let payload_len = match random.below(8) {
        0 => 0,
        1 => random.below(20),
        2..=4 => random.below(200),
        _ => random.below(1_200),
    };
    packet.extend(random.bytes(payload_len));
    (packet, header_len)
}

/// The length of the header that a packet claims to have.
fn header_len(packet: &[u8]) -> usize {
    let end = 12 + 4 * usize::from(packet[0] & 15);
    match packet.get(end..end + 4) {
        Some(extension) if packet[0] & 0x10 != 0 => end + 4 + 4 * usize::from(u16::from_be_bytes([extension[2], extension[3]])),
        _ => end,
    }
}

fn seal_rtp(sender: &mut Sender, plain: &[u8], header_len: usize, index: u64) -> Vec<u8> {
    let mut space = plain.to_vec();
    space.resize(plain.len() + sender.profile().rtp_tag_len(), 0xee);
    assert_eq!(sender.protect_rtp(&mut space, header_len, plain.len(), index), Some(space.len()));
    space
}

fn seal_rtcp(sender: &mut Sender, plain: &[u8]) -> Vec<u8> {
    let mut space = plain.to_vec();
    space.resize(plain.len() + sender.profile().rtcp_overhead(), 0xee);
    assert_eq!(sender.protect_rtcp(&mut space, plain.len()), Some(space.len()));
    space
}

fn turn_bit(packet: &[u8], bit: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[bit / 8] ^= 1 << (bit % 8);
    packet
}

fn rtcp_packet(random: &mut Random, ssrc: u32) -> Vec<u8> {
    let words = random.below(60);
    let mut packet = vec![0x80 | random.below(32) as u8, 200 + random.below(7) as u8, 0, words as u8 + 1];
    packet.extend(ssrc.to_be_bytes());
    packet.extend(random.bytes(4 * words));
    packet
}

fn rtp_agrees(profile: Profile) {
    let mut random = Random(0x5eed_0001 + profile.dtls_id() as u64);
    let mut sides = Sides::new(profile, &mut random);
    // Starts in the lower half, next to the middle, and just before the first wrap.
    let mut indices = [3u64, 0, 32_760, 65_500, 65_535];
    let mut refused = 0;
    for _ in 0..RTP_BLOCKS {
        let stream = random.below(indices.len());
        let ssrc = 0x1000_0000 + stream as u32;
        let mut block = Vec::new();
        for _ in 0..BLOCK_PACKETS {
            let index = indices[stream];
            let (plain, header_len) = rtp_packet(&mut random, ssrc, index);
            let ours = seal_rtp(&mut sides.ours_out, &plain, header_len, index);
            let opened = sides.theirs_in.decrypt_rtp(&ours).expect("they open what we seal");
            assert_eq!(opened[..], plain[..], "{profile:?} {index:x}");
            let theirs = sides.theirs_out.encrypt_rtp(&plain).expect("they seal");
            block.push((index, plain, header_len, theirs));
            indices[stream] += 1 + random.below(4) as u64;
        }
        random.shuffle(&mut block);
        for (index, plain, plain_header_len, sealed) in &block {
            let mut tampered = turn_bit(sealed, random.below(8 * sealed.len()));
            let header_len = header_len(&tampered);
            assert!(sides.ours_in.unprotect_rtp(&mut tampered, header_len).is_err(), "{profile:?} {index:x}");
            refused += 1;
            let mut opened = sealed.to_vec();
            assert_eq!(sides.ours_in.unprotect_rtp(&mut opened, *plain_header_len), Ok((plain.len(), *index)), "{profile:?}");
            assert_eq!(opened[..plain.len()], plain[..]);
            let replayed = sides.ours_in.unprotect_rtp(&mut sealed.to_vec(), *plain_header_len);
            assert_eq!(replayed, Err(DropReason::SrtpReplay), "{profile:?} {index:x}");
        }
        indices[stream] += random.below(30_000) as u64;
    }
    assert_eq!(refused, RTP_BLOCKS * BLOCK_PACKETS);
    assert!(indices.iter().all(|index| index >> 16 > 20), "too few roll-overs: {indices:x?}");
}

#[test]
fn rtp_agrees_aead_aes_128_gcm() {
    rtp_agrees(Profile::AeadAes128Gcm);
}

#[test]
fn rtp_agrees_aead_aes_256_gcm() {
    rtp_agrees(Profile::AeadAes256Gcm);
}

#[test]
fn rtp_agrees_aes128_cm_sha1_80() {
    rtp_agrees(Profile::Aes128CmSha1_80);
}

#[test]
fn rtcp_agrees() {
    for profile in Profile::ALL {
        let mut random = Random(0x5eed_0002);
        let mut sides = Sides::new(profile, &mut random);
        let mut block = Vec::new();
        for number in 0..RTCP_PACKETS {
            let ssrc = 0x2000_0000 + random.below(20) as u32;
            let plain = rtcp_packet(&mut random, ssrc);
            let ours = seal_rtcp(&mut sides.ours_out, &plain);
            let opened = sides.theirs_in.decrypt_rtcp(&ours).expect("they open what we seal");
            assert_eq!(opened[..], plain[..], "{profile:?} {number}");
            let theirs = sides.theirs_out.encrypt_rtcp(&plain).expect("they seal");
            block.push((plain, theirs));
            if block.len() < 32 {
                continue;
            }
            random.shuffle(&mut block);
            for (plain, sealed) in block.drain(..) {
                let mut tampered = turn_bit(&sealed, random.below(8 * sealed.len()));
                assert!(sides.ours_in.unprotect_rtcp(&mut tampered).is_err(), "{profile:?}");
                let mut opened = sealed.to_vec();
                assert_eq!(sides.ours_in.unprotect_rtcp(&mut opened), Ok(plain.len()), "{profile:?}");
                assert_eq!(opened[..plain.len()], plain[..]);
                let replayed = sides.ours_in.unprotect_rtcp(&mut sealed.to_vec());
                assert_eq!(replayed, Err(DropReason::SrtpReplay), "{profile:?}");
            }
        }
    }
}

/// With the same key, index and packet there is one right result, so the octets are equal.
#[test]
fn sealed_packets_are_octet_for_octet_the_same() {
    for profile in Profile::ALL {
        let mut random = Random(0x5eed_0003);
        let (key, salt) = (random.bytes(profile.key_len()), random.bytes(profile.salt_len()));
        let mut ours = Sender::new(&MasterKey::new(profile, &key, &salt).unwrap());
        let theirs_profile = match profile {
            Profile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            Profile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
            Profile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        };
        let mut theirs = Context::new(&key, &salt, theirs_profile, None, None).unwrap();
        // They number RTCP packets of an SSRC from 1, we from 0.
        seal_rtcp(&mut ours, &rtcp_packet(&mut random, 6));
        let mut index = 65_000;
        for _ in 0..4_000 {
            let (plain, header_len) = rtp_packet(&mut random, 5, index);
            assert_eq!(seal_rtp(&mut ours, &plain, header_len, index)[..], theirs.encrypt_rtp(&plain).unwrap()[..], "{profile:?}");
            index += 1 + random.below(1_000) as u64;
            let report = rtcp_packet(&mut random, 5);
            assert_eq!(seal_rtcp(&mut ours, &report)[..], theirs.encrypt_rtcp(&report).unwrap()[..], "{profile:?}");
        }
    }
}

#[test]
fn every_turned_bit_and_every_cut_is_refused() {
    for profile in Profile::ALL {
        let mut random = Random(0x5eed_0004);
        let mut sides = Sides::new(profile, &mut random);
        for round in 0..6 {
            let (plain, plain_header_len) = rtp_packet(&mut random, 9, 1_000 + round);
            let plain = &plain[..plain.len().min(plain_header_len + 64)];
            let sealed = sides.theirs_out.encrypt_rtp(plain).unwrap();
            for bit in 0..8 * sealed.len() {
                let mut tampered = turn_bit(&sealed, bit);
                let header_len = header_len(&tampered);
                assert!(sides.ours_in.unprotect_rtp(&mut tampered, header_len).is_err(), "{profile:?} bit {bit}");
            }
            for len in 0..sealed.len() {
                assert!(sides.ours_in.unprotect_rtp(&mut sealed[..len].to_vec(), plain_header_len).is_err(), "{profile:?} {len}");
            }
            assert!(sides.ours_in.unprotect_rtp(&mut sealed.to_vec(), plain_header_len).is_ok());

            let report = rtcp_packet(&mut random, 9);
            let sealed = sides.theirs_out.encrypt_rtcp(&report).unwrap();
            for bit in 0..8 * sealed.len() {
                assert!(sides.ours_in.unprotect_rtcp(&mut turn_bit(&sealed, bit)).is_err(), "{profile:?} bit {bit}");
            }
            for len in 0..sealed.len() {
                assert!(sides.ours_in.unprotect_rtcp(&mut sealed[..len].to_vec()).is_err(), "{profile:?} {len}");
            }
            assert!(sides.ours_in.unprotect_rtcp(&mut sealed.to_vec()).is_ok());
        }
        assert_eq!(sides.profile, sides.ours_in.profile());
    }
}
