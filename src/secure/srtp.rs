//! SRTP and SRTCP in place, without allocation (RFC 3711; AEAD_AES_128_GCM and AEAD_AES_256_GCM of RFC 7714).
//!
//! A session has one [`Sender`] and one [`Receiver`]; both are made from the DTLS handshake's [`KeyingMaterial`]. Packets
//! are protected and opened where they lie. What keeps this sound:
//!
//! - One index of one SSRC protects one packet, ever: AES-GCM and AES-CM both fall if it protects two. A `Sender` counts
//!   its SRTCP packets itself. For RTP its caller counts, because it rewrites the sequence numbers; an exact repetition of
//!   the same packet is the one exception.
//! - A `Receiver` asks whether an index is new before it does any cryptography, and remembers the index, or a new SSRC, only
//!   after authentication (RFC 3711 §3.3). So a stranger costs an authentication, or two, and changes nothing.
//! - SSRCs are bounded. When there is no room, packets of a further one are dropped (`ssrc_limit`), none is evicted: an
//!   evicted source could be replayed.
//!
//! A stream starts in roll-over 0, where its sender starts it. If it starts close below a wrap of its sequence number and
//! nothing from before the wrap arrives first, it is in roll-over 1 already: so a packet of a new SSRC is tried there too.

use std::mem::offset_of;

use crate::limits::{CACHE_LINE_BYTES, DATAGRAM_BYTES_MAX, STREAMS_PER_PEER};
use crate::metrics::DropReason;
use crate::units::Ssrc;

mod keys;
mod replay;
mod transform;
#[cfg(test)]
mod vectors;

pub use keys::{KeyingMaterial, MasterKey, Profile, WrongKeyLength};
use replay::Sources;
use transform::{ENCRYPTED, Refused, RtcpTrailer, Transform, rtp_ssrc};

/// Words of an RTP replay window, 1024 packets: a retransmission without RTX (RFC 4588) comes under its old index, and at
/// 1,000 packets a second has a second to arrive.
const RTP_WINDOW_WORDS: usize = 16;
/// Words of an SRTCP replay window: 128 packets, of which a peer sends a few a second.
const RTCP_WINDOW_WORDS: usize = 2;
/// There are 2^48 RTP indices and 2^31 SRTCP indices under one key (RFC 3711 §9.2).
const RTP_INDEX_MAX: u64 = (1 << 48) - 1;
const RTCP_INDEX_MAX: u32 = ENCRYPTED - 1;

/// Protects what is sent to one peer. The key of RTP fills the first cache lines: it is all that a packet of the fan-out reads here.
#[repr(C, align(64))]
pub struct Sender {
    rtp: Transform,
    profile: Profile,
    /// Index of the next SRTCP packet: one count for all SSRCs, which no receiver minds. It starts at 0 (RFC 3711 §3.4).
    next_rtcp_index: u32,
    rtcp: Transform,
}

const _: () = assert!(offset_of!(Sender, rtp) == 0 && size_of::<Transform>() <= 9 * CACHE_LINE_BYTES);

impl Sender {
    pub fn new(master: &MasterKey) -> Sender {
        Sender {
            rtp: Transform::new(&master.rtp()),
            profile: master.profile(),
            next_rtcp_index: 0,
            rtcp: Transform::new(&master.rtcp()),
        }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Protects the RTP packet in `space[..len]`, whose header with CSRCs and extension has `header_len` octets. Gives the
    /// new length, `profile().rtp_tag_len()` more.
    ///
    /// `index` is the roll-over counter before the sequence number, 48 bits. The first roll-over of an SSRC is 0: receivers
    /// assume it. `None`, and `space` unspecified, if the packet has no room for the tag or is too short for its header,
    /// or if `index` does not end in its sequence number or is past the last.
    pub fn protect_rtp(&mut self, space: &mut [u8], header_len: usize, len: usize, index: u64) -> Option<usize> {
        if index > RTP_INDEX_MAX || sequence_number(space)? != index as u16 {
            return None;
        }
        self.rtp.seal_rtp(space, header_len, len, index)
    }

    /// Protects the compound RTCP packet in `space[..len]`, encrypted (E bit set). Gives the new length,
    /// `profile().rtcp_overhead()` more; `None` if there is no room for that, or if all indices are used up.
    pub fn protect_rtcp(&mut self, space: &mut [u8], len: usize) -> Option<usize> {
        let index = self.next_rtcp_index;
        if index > RTCP_INDEX_MAX {
            return None;
        }
        // Counted whatever follows: an index that may have left is never used again.
        self.next_rtcp_index += 1;
        self.rtcp.seal_rtcp(space, len, index)
    }
}

/// Opens what one peer sends.
pub struct Receiver {
    profile: Profile,
    /// `None` for a peer that may send no RTP: most are viewers, and send reports only.
    rtp: Option<Box<RtpReceiver>>,
    rtcp: Transform,
    rtcp_sources: Sources<RTCP_WINDOW_WORDS>,
}

struct RtpReceiver {
    transform: Transform,
    sources: Sources<RTP_WINDOW_WORDS>,
}

impl Receiver {
    /// A receiver of at most `streams` SSRCs of RTP (0 for a peer that sends none; `STREAMS_PER_PEER` at most), and of
    /// RTCP from `STREAMS_PER_PEER`.
    pub fn new(master: &MasterKey, streams: usize) -> Receiver {
        let rtp = (streams > 0)
            .then(|| Box::new(RtpReceiver { transform: Transform::new(&master.rtp()), sources: Sources::new(streams) }));
        Receiver {
            profile: master.profile(),
            rtp,
            rtcp: Transform::new(&master.rtcp()),
            rtcp_sources: Sources::new(STREAMS_PER_PEER),
        }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Opens an SRTP packet, whose header with CSRCs and extension has `header_len` octets, in place. Gives the length of
    /// the RTP packet and its index: roll-over counter and sequence number, 48 bits.
    ///
    /// A packet that fails is to be dropped; its octets are unspecified.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8], header_len: usize) -> Result<(usize, u64), DropReason> {
        let sequence_number = sequence_number(packet).ok_or(DropReason::RtpMalformed)?;
        let ssrc = Ssrc(rtp_ssrc(packet).ok_or(DropReason::RtpMalformed)?);
        let RtpReceiver { transform, sources } = self.rtp.as_deref_mut().ok_or(DropReason::SsrcLimit)?;

        let place = sources.find(ssrc)?;
        let opened = match sources.window(place) {
            Some(window) => {
                let index = window.index(sequence_number);
                window.check(index)?;
                transform.open_rtp(packet, header_len, index).map(|len| (len, index))
            }
            None => open_first(transform, packet, header_len, sequence_number),
        };
        let (len, index) = opened.map_err(|refused| match refused {
            Refused::Malformed => DropReason::RtpMalformed,
            Refused::Unauthentic => DropReason::SrtpAuthentication,
        })?;
        sources.accept(place, ssrc, index);
        Ok((len, index))
    }

    /// Opens an SRTCP packet in place; gives the length of the compound RTCP packet. One that its sender authenticated but
    /// did not encrypt (E bit clear) is taken too.
    ///
    /// A packet that fails is to be dropped; its octets are unspecified.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let RtcpTrailer { ssrc, word } = self.rtcp.rtcp_trailer(packet).ok_or(DropReason::RtcpMalformed)?;
        let ssrc = Ssrc(ssrc);
        let index = u64::from(word & !ENCRYPTED);

        let place = self.rtcp_sources.find(ssrc)?;
        if let Some(window) = self.rtcp_sources.window(place) {
            window.check(index)?;
        }
        let len = self.rtcp.open_rtcp(packet).map_err(|refused| match refused {
            Refused::Malformed => DropReason::RtcpMalformed,
            Refused::Unauthentic => DropReason::SrtpAuthentication,
        })?;
        self.rtcp_sources.accept(place, ssrc, index);
        Ok(len)
    }

    /// Forgets what was received of `ssrc`, to make room for another.
    ///
    /// Its packets can be replayed from now on: only for an SSRC whose packets are ignored anyway.
    pub fn forget(&mut self, ssrc: Ssrc) {
        if let Some(rtp) = self.rtp.as_deref_mut() {
            rtp.sources.forget(ssrc);
        }
        self.rtcp_sources.forget(ssrc);
    }
}

/// Opens what may be the first packet of an SSRC, in roll-over 0; failing that, if its sequence number may be one after a
/// wrap, in roll-over 1. A failed attempt leaves no packet to try again, so it is made with a copy at hand.
fn open_first(transform: &Transform, packet: &mut [u8], header_len: usize, sequence_number: u16) -> Result<(usize, u64), Refused> {
    let index = u64::from(sequence_number);
    let mut space = [0; DATAGRAM_BYTES_MAX];
    let copy = space.get_mut(..packet.len()).filter(|_| sequence_number < 1 << 15);
    let Some(copy) = copy else { return Ok((transform.open_rtp(packet, header_len, index)?, index)) };
    copy.copy_from_slice(packet);
    match transform.open_rtp(packet, header_len, index) {
        Ok(len) => Ok((len, index)),
        Err(Refused::Malformed) => Err(Refused::Malformed),
        Err(Refused::Unauthentic) => {
            packet.copy_from_slice(copy);
            let index = 1 << 16 | index;
            Ok((transform.open_rtp(packet, header_len, index)?, index))
        }
    }
}

fn sequence_number(packet: &[u8]) -> Option<u16> {
    packet.get(2..4)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(profile: Profile) -> MasterKey {
        MasterKey::new(profile, &vec![0x11; profile.key_len()], &vec![0x22; profile.salt_len()]).unwrap()
    }

    fn rtp(ssrc: u32, index: u64) -> Vec<u8> {
        let mut packet = vec![0x80, 96];
        packet.extend((index as u16).to_be_bytes());
        packet.extend([0, 0, 0, 1]);
        packet.extend(ssrc.to_be_bytes());
        packet.extend([0x5a; 33]);
        packet
    }

    fn sealed(sender: &mut Sender, ssrc: u32, index: u64) -> Vec<u8> {
        let mut packet = rtp(ssrc, index);
        let len = packet.len();
        packet.resize(len + sender.profile().rtp_tag_len(), 0);
        assert_eq!(sender.protect_rtp(&mut packet, 12, len, index), Some(packet.len()));
        packet
    }

    fn open(receiver: &mut Receiver, packet: &[u8]) -> Result<u64, DropReason> {
        receiver.unprotect_rtp(&mut packet.to_vec(), 12).map(|(_, index)| index)
    }

    #[test]
    fn reordering_around_the_first_wrap() {
        for profile in Profile::ALL {
            let mut sender = Sender::new(&master(profile));
            let mut receiver = Receiver::new(&master(profile), 1);
            for index in [
                65_534,
                65_536,
                65_533,
                65_535,
                65_540,
                65_532,
                65_537,
                65_536 + 32_000,
                65_536 + 60_000,
                2 * 65_536 + 10,
                2 * 65_536 - 1,
            ] {
                let packet = sealed(&mut sender, 7, index);
                assert_eq!(open(&mut receiver, &packet), Ok(index));
                assert_eq!(open(&mut receiver, &packet), Err(DropReason::SrtpReplay));
            }
        }
    }

    #[test]
    fn a_stream_that_starts_low_may_leap_far_ahead() {
        let mut sender = Sender::new(&master(Profile::AeadAes128Gcm));
        let mut receiver = Receiver::new(&master(Profile::AeadAes128Gcm), 1);
        for index in [3, 60_000, 65_536] {
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 7, index)), Ok(index));
        }
    }

    #[test]
    fn a_stream_may_be_seen_only_after_its_first_wrap() {
        for profile in Profile::ALL {
            let mut sender = Sender::new(&master(profile));
            let mut receiver = Receiver::new(&master(profile), 1);
            for index in [65_537, 65_535, 65_536, 65_538] {
                assert_eq!(open(&mut receiver, &sealed(&mut sender, 7, index)), Ok(index));
            }
            receiver.forget(Ssrc(7));
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 7, 2 * 65_536 + 2)), Err(DropReason::SrtpAuthentication));
        }
    }

    #[test]
    fn the_window_reaches_1024_packets_back() {
        let mut sender = Sender::new(&master(Profile::AeadAes128Gcm));
        let mut receiver = Receiver::new(&master(Profile::AeadAes128Gcm), 1);
        for (index, expected) in [
            (5_000, Ok(5_000)),
            (5_000 - 1_023, Ok(5_000 - 1_023)),
            (5_000 - 1_024, Err(DropReason::SrtpReplay)),
            (5_000 + 1_023, Ok(6_023)),
            (5_000, Err(DropReason::SrtpReplay)),
            (5_001, Ok(5_001)),
            (9_000, Ok(9_000)),
        ] {
            let packet = sealed(&mut sender, 7, index);
            assert_eq!(open(&mut receiver, &packet), expected);
        }
    }

    #[test]
    fn strangers_take_no_place_and_move_no_window() {
        for profile in Profile::ALL {
            let mut sender = Sender::new(&master(profile));
            let mut receiver = Receiver::new(&master(profile), 2);
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 1, 100)), Ok(100));
            for ssrc in 0..100 {
                let mut packet = sealed(&mut sender, ssrc, 30_000);
                packet[20] ^= 1;
                assert_eq!(open(&mut receiver, &packet), Err(DropReason::SrtpAuthentication));
            }
            assert_eq!(receiver.rtp.as_ref().unwrap().sources.len(), 1);
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 1, 99)), Ok(99));
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 2, 5)), Ok(5));
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 3, 5)), Err(DropReason::SsrcLimit));
            receiver.forget(Ssrc(1));
            assert_eq!(open(&mut receiver, &sealed(&mut sender, 3, 5)), Ok(5));
        }
    }

    #[test]
    fn a_viewer_sends_no_rtp() {
        let mut sender = Sender::new(&master(Profile::AeadAes128Gcm));
        let mut receiver = Receiver::new(&master(Profile::AeadAes128Gcm), 0);
        assert_eq!(open(&mut receiver, &sealed(&mut sender, 1, 1)), Err(DropReason::SsrcLimit));
        assert!(receiver.rtp.is_none());
    }

    #[test]
    fn nothing_is_sealed_under_a_wrong_index_or_without_room() {
        for profile in Profile::ALL {
            let mut sender = Sender::new(&master(profile));
            let tag_len = profile.rtp_tag_len();
            let mut space = rtp(1, 9);
            let len = space.len();
            space.resize(len + tag_len, 0);
            assert_eq!(sender.protect_rtp(&mut space, 12, len, 10), None);
            assert_eq!(sender.protect_rtp(&mut space, 12, len, 9 + (1 << 48)), None);
            assert_eq!(sender.protect_rtp(&mut space, 11, len, 9), None);
            assert_eq!(sender.protect_rtp(&mut space, len + 1, len, 9), None);
            assert_eq!(sender.protect_rtp(&mut space, 12, len + 1, 9), None);
            assert_eq!(sender.protect_rtp(&mut space, 12, usize::MAX, 9), None);
            assert_eq!(sender.protect_rtp(&mut space[..5], 12, 5, 9), None);
            assert_eq!(sender.protect_rtp(&mut space, 12, len, 9), Some(len + tag_len));
            let mut report = [0x80; 8 + 20];
            assert_eq!(sender.protect_rtcp(&mut report, 7), None);
            assert_eq!(sender.protect_rtcp(&mut report, 28 - profile.rtcp_overhead() + 1), None);
            assert!(sender.protect_rtcp(&mut report, 8).is_some());
        }
    }

    #[test]
    fn the_last_rtcp_index_is_the_last() {
        let mut sender = Sender::new(&master(Profile::AeadAes128Gcm));
        sender.next_rtcp_index = RTCP_INDEX_MAX;
        assert!(sender.protect_rtcp(&mut [0x80; 28], 8).is_some());
        assert_eq!(sender.protect_rtcp(&mut [0x80; 28], 8), None);
        assert_eq!(sender.protect_rtcp(&mut [0x80; 28], 8), None);
    }

    #[test]
    fn rtcp_is_not_replayed_and_its_sources_are_bounded() {
        for profile in Profile::ALL {
            let mut sender = Sender::new(&master(profile));
            let mut receiver = Receiver::new(&master(profile), 0);
            let mut packets = Vec::new();
            for ssrc in 0..=STREAMS_PER_PEER as u32 {
                let mut packet = vec![0x80, 201, 0, 1];
                packet.extend(ssrc.to_be_bytes());
                packet.resize(8 + profile.rtcp_overhead(), 0);
                assert_eq!(sender.protect_rtcp(&mut packet, 8), Some(packet.len()));
                packets.push(packet);
            }
            let too_many = packets.pop().unwrap();
            for packet in &packets {
                assert_eq!(receiver.unprotect_rtcp(&mut packet.clone()), Ok(8));
                assert_eq!(receiver.unprotect_rtcp(&mut packet.clone()), Err(DropReason::SrtpReplay));
            }
            assert_eq!(receiver.unprotect_rtcp(&mut too_many.clone()), Err(DropReason::SsrcLimit));
            receiver.forget(Ssrc(0));
            assert_eq!(receiver.unprotect_rtcp(&mut too_many.clone()), Ok(8));
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic() {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for profile in Profile::ALL {
            let mut receiver = Receiver::new(&master(profile), 4);
            for len in 0..200 {
                let mut bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (random >> 56) as u8
                    })
                    .collect();
                for header_len in [0, 11, 12, 16, len, len + 1, usize::MAX] {
                    assert!(receiver.unprotect_rtp(&mut bytes.clone(), header_len).is_err());
                }
                assert!(receiver.unprotect_rtcp(&mut bytes).is_err());
            }
        }
    }

    /// A server has thousands of these.
    #[test]
    fn sizes_of_the_state_of_one_peer() {
        assert!(size_of::<Sender>() <= 1_280, "{}", size_of::<Sender>());
        assert!(size_of::<Receiver>() <= 800, "{}", size_of::<Receiver>());
    }
}
