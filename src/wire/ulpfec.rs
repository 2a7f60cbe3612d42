//! Forward error correction by parity (RFC 5109), level 0 alone: a FEC packet is the XOR of some packets of a stream, and whichever
//! single one of them is lost can be computed from it and the others.
//!
//! ```text
//!   |E|L|P|X|  CC   |M| PT recovery |            SN base            |
//!   |                          TS recovery                          |
//!   |        length recovery        |       protection length       |
//!   |             mask              |  mask, 32 bits more if L is set
//!   |  XOR of what follows the fixed headers, up to the longest     |
//! ```

use crate::units::{PayloadType, SequenceNumber, Ssrc};

/// Packets after the first that one mask can name, plus it (RFC 5109 §7.4: 48 bits if L is set).
pub const MASK_BITS: u64 = 48;
/// And without L.
const SHORT_MASK_BITS: u32 = 16;
/// Bytes of the FEC header, of the level header's length field, and of the two masks.
const HEADER: usize = 10;
const PROTECTION_LENGTH: usize = 2;
const SHORT_MASK: usize = 2;
const LONG_MASK: usize = 6;
/// Bytes of a fixed RTP header.
const FIXED_HEADER: usize = 12;
const LONG: u8 = 0x40;
/// Reserved for extensions of the format (RFC 5109 §7.3): there are none.
const EXTENDED: u8 = 0x80;
const VERSION: u8 = 0x80;
/// Padding, extension and CSRC count of a header's first byte.
const RECOVERED_BITS: u8 = 0x3f;

/// The XOR of some packets, of which none has more than `BYTES` bytes after its fixed header.
#[derive(Clone)]
pub struct Parity<const BYTES: usize> {
    /// Of the two first bytes of their headers, without the version.
    flags: [u8; 2],
    timestamp: [u8; 4],
    length: u16,
    /// The longest.
    protection: usize,
    /// Which they are, counted from some number: bit 0 is that one.
    mask: u64,
    /// Zero behind the longest.
    bytes: [u8; BYTES],
}

impl<const BYTES: usize> Default for Parity<BYTES> {
    fn default() -> Self {
        Parity { flags: [0; 2], timestamp: [0; 4], length: 0, protection: 0, mask: 0, bytes: [0; BYTES] }
    }
}

impl<const BYTES: usize> Parity<BYTES> {
    /// No packets.
    pub fn clear(&mut self) {
        self.bytes.iter_mut().take(self.protection).for_each(|byte| *byte = 0);
        (self.flags, self.timestamp, self.length, self.protection, self.mask) = ([0; 2], [0; 4], 0, 0, 0);
    }

    pub fn is_empty(&self) -> bool {
        self.mask == 0
    }

    /// Adds the packet of `header` (fixed header, CSRCs and extension) and `payload` (with padding), as which it would have been sent
    /// with `payload_type`. `place`: its bit in the mask. False, and nothing is added, if it is too long or its place too far.
    pub fn add(&mut self, header: &[u8], payload: &[u8], payload_type: PayloadType, place: u64) -> bool {
        let [b0, b1, _, _, t0, t1, t2, t3, _, _, _, _, rest @ ..] = header else { return false };
        let len = rest.len() + payload.len();
        if place >= MASK_BITS || len > BYTES {
            return false;
        }
        self.flags[0] ^= b0 & RECOVERED_BITS;
        self.flags[1] ^= b1 & 0x80 | payload_type.0 & 0x7f;
        xor(&mut self.timestamp, &[*t0, *t1, *t2, *t3]);
        self.length ^= len as u16;
        let (of_rest, of_payload) = self.bytes.split_at_mut(rest.len());
        xor(of_rest, rest);
        xor(of_payload, payload);
        self.protection = self.protection.max(len);
        self.mask |= 1 << place;
        true
    }

    /// Adds what another has, counted from the same number.
    pub fn merge(&mut self, other: &Self) {
        xor(&mut self.flags, &other.flags);
        xor(&mut self.timestamp, &other.timestamp);
        self.length ^= other.length;
        self.protection = self.protection.max(other.protection);
        self.mask |= other.mask;
        xor(&mut self.bytes, other.bytes.get(..other.protection).unwrap_or_default());
    }

    /// Writes the payload of a FEC packet, with the mask counted from sequence number `base`; returns its length. None without packets or
    /// room.
    pub fn write(&self, space: &mut [u8], base: u16) -> Option<usize> {
        // RFC 5109 §7.3: the base is the lowest number that is protected.
        let skipped = self.mask.trailing_zeros();
        let mask = self.mask.checked_shr(skipped)?;
        let is_short = mask >> SHORT_MASK_BITS == 0;
        let long = if is_short { 0 } else { LONG };
        // The first packet is the most significant bit.
        let mask = (mask.reverse_bits() >> 16).to_be_bytes();
        let mask = &mask[2..2 + if is_short { SHORT_MASK } else { LONG_MASK }];
        let body = self.bytes.get(..self.protection)?;
        let [n0, n1] = base.wrapping_add(skipped as u16).to_be_bytes();
        let ([t0, t1, t2, t3], [l0, l1]) = (self.timestamp, self.length.to_be_bytes());
        let header: [u8; HEADER] = [self.flags[0] | long, self.flags[1], n0, n1, t0, t1, t2, t3, l0, l1];
        let protection: [u8; PROTECTION_LENGTH] = (self.protection as u16).to_be_bytes();
        let mut len = 0;
        for part in [&header[..], &protection, mask, body] {
            space.get_mut(len..len + part.len())?.copy_from_slice(part);
            len += part.len();
        }
        Some(len)
    }
}

/// What a FEC packet that was received says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected {
    /// The lowest number that is protected.
    pub base: SequenceNumber,
    /// Which numbers are, counted from it: bit 0 is that one.
    pub mask: u64,
    /// Where in the payload the XOR lies: of what follows the fixed headers.
    pub start: usize,
    pub len: usize,
}

/// Reads a FEC packet's payload (RFC 5109 §7.3, §7.4); none if it is cut short, or protects nothing, or in a way that there is not.
pub fn parse(payload: &[u8]) -> Option<Protected> {
    let (&[flags, _, n0, n1, _, _, _, _, _, _], level) = payload.split_first_chunk::<HEADER>()?;
    let ([l0, l1], masks) = level.split_first_chunk::<PROTECTION_LENGTH>()?;
    let mask_len = if flags & LONG == 0 { SHORT_MASK } else { LONG_MASK };
    let mask = masks.get(..mask_len)?.iter().fold(0, |mask, byte| mask << 8 | *byte as u64);
    let (start, len) = (HEADER + PROTECTION_LENGTH + mask_len, u16::from_be_bytes([*l0, *l1]) as usize);
    // The first packet is the most significant bit.
    let mask = mask.reverse_bits() >> (64 - 8 * mask_len);
    let whole = flags & EXTENDED == 0 && mask != 0 && payload.len() >= start + len;
    whole.then_some(Protected { base: SequenceNumber(u16::from_be_bytes([n0, n1])), mask, start, len })
}

/// Computes a packet that was lost, in the place of the FEC packet.
pub struct Recovery<'a> {
    packet: &'a mut [u8],
    /// Where the FEC header lies in it, and the XOR.
    header: usize,
    body: std::ops::Range<usize>,
}

impl<'a> Recovery<'a> {
    /// `packet`: the whole FEC packet, whose payload (outside of RED) begins at `payload`.
    pub fn new(packet: &'a mut [u8], payload: usize, protected: &Protected) -> Option<Self> {
        let start = payload + protected.start;
        let body = start..start + protected.len;
        (body.end <= packet.len()).then_some(Recovery { packet, header: payload, body })
    }

    /// Takes one of the packets out that are there: its `header` (fixed header, CSRCs and extension) and `payload` (with padding) as
    /// which it was sent with `payload_type`. None if it cannot be one of them.
    pub fn take_out(&mut self, header: &[u8], payload: &[u8], payload_type: PayloadType) -> Option<()> {
        let [b0, b1, _, _, t0, t1, t2, t3, _, _, _, _, rest @ ..] = header else { return None };
        let len = rest.len() + payload.len();
        let length = (len as u16).to_be_bytes();
        let fields = [b0 & RECOVERED_BITS, b1 & 0x80 | payload_type.0 & 0x7f, 0, 0, *t0, *t1, *t2, *t3, length[0], length[1]];
        xor(self.packet.get_mut(self.header..self.header + HEADER)?, &fields);
        let body = self.packet.get_mut(self.body.clone()).filter(|body| len <= body.len())?;
        let (of_rest, of_payload) = body.split_at_mut(rest.len());
        xor(of_rest, rest);
        xor(of_payload, payload);
        Some(())
    }

    /// What is left is the lost packet, once all others have been taken out. Returns where it lies; none if that makes no packet.
    pub fn finish(self, sequence: SequenceNumber, ssrc: Ssrc) -> Option<std::ops::Range<usize>> {
        let fields = self.packet.get(self.header..)?.first_chunk::<HEADER>()?;
        let &[b0, b1, _, _, t0, t1, t2, t3, l0, l1] = fields;
        let len = u16::from_be_bytes([l0, l1]) as usize;
        // The level's header is longer than a fixed header.
        let start = self.body.start - FIXED_HEADER;
        let ([s0, s1], [c0, c1, c2, c3]) = (sequence.0.to_be_bytes(), ssrc.0.to_be_bytes());
        let header = [VERSION | b0 & RECOVERED_BITS, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3];
        self.packet.get_mut(start..self.body.start)?.copy_from_slice(&header);
        (len <= self.body.len()).then_some(start..self.body.start + len)
    }
}

/// Bytes that a FEC packet's payload has beyond the longest packet's after its fixed header.
pub const OVERHEAD_MAX: usize = HEADER + PROTECTION_LENGTH + LONG_MASK;
const _: () = assert!(FIXED_HEADER == 12 && LONG_MASK * 8 == MASK_BITS as usize);
const _: () = assert!(HEADER + PROTECTION_LENGTH + SHORT_MASK >= FIXED_HEADER);

fn xor(into: &mut [u8], bytes: &[u8]) {
    for (into, byte) in into.iter_mut().zip(bytes) {
        *into ^= byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u16, timestamp: u32, marker: bool, payload_type: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0x80, (marker as u8) << 7 | payload_type];
        packet.extend(number.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(2u32.to_be_bytes());
        packet.extend((0..len).map(|at| (at as u8).wrapping_mul(number as u8)));
        packet
    }

    /// RFC 5109 §10.1: four packets, and the header that protects them.
    #[test]
    fn the_example_of_rfc_5109() {
        let packets = [(8, 3, true, 11, 200), (9, 5, false, 18, 140), (10, 7, true, 11, 100), (11, 9, false, 18, 340)]
            .map(|(number, timestamp, marker, payload_type, len)| packet(number, timestamp, marker, payload_type, len));
        let mut parity = Parity::<400>::default();
        for (place, packet) in packets.iter().enumerate() {
            assert!(parity.add(&packet[..12], &packet[12..], PayloadType(packet[1] & 0x7f), place as u64));
        }
        let mut space = [0xee; 500];
        let len = parity.write(&mut space, 8).expect("room");
        // E, L, P, X, CC, M and PT recovery 0; SN base 8; TS recovery 8; length recovery 372; protection length 340; mask 61440.
        let header = [0, 0, 0, 8, 0, 0, 0, 8, 372u16.to_be_bytes()[0], 372u16 as u8, 1, 0x54, 0xf0, 0x00];
        assert_eq!(space[..14], header);
        assert_eq!(len, 14 + 340);
        for at in 0..340 {
            let expected = packets.iter().filter_map(|packet| packet.get(12 + at)).fold(0, |sum, byte| sum ^ byte);
            assert_eq!(space[14 + at], expected, "byte {at}");
        }
        for short in 0..len {
            assert_eq!(parity.write(&mut space[..short], 8), None);
        }
    }

    /// Every FEC packet of another encoder is what we make of the packets that its mask names.
    #[test]
    fn gstreamer_makes_the_same_of_the_same_packets() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ulpfec.txt"));
        let bytes = |line: &str| -> Vec<u8> {
            (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal")).collect()
        };
        let (mut media, mut short, mut long) = (std::collections::HashMap::new(), 0, 0);
        for packet in text.lines().filter(|line| !line.starts_with('#')).map(bytes) {
            let number = u16::from_be_bytes([packet[2], packet[3]]);
            if packet[1] & 0x7f != 122 {
                media.insert(number, packet);
                continue;
            }
            let fec = &packet[12..];
            let base = u16::from_be_bytes([fec[2], fec[3]]);
            let mask = if fec[0] & LONG == 0 { &fec[12..14] } else { &fec[12..18] };
            *if fec[0] & LONG == 0 { &mut short } else { &mut long } += 1;
            let mut parity = Parity::<100>::default();
            for place in (0..mask.len() * 8).filter(|place| mask[place / 8] & 0x80 >> (place % 8) != 0) {
                let packet = &media[&base.wrapping_add(place as u16)];
                assert!(parity.add(&packet[..12], &packet[12..], PayloadType(packet[1] & 0x7f), place as u64));
            }
            let mut space = [0; 200];
            let len = parity.write(&mut space, base).expect("room");
            assert_eq!(&space[..len], fec, "FEC packet {number}");
        }
        assert!(media.len() > 50 && short > 10 && long > 2, "{} packets of media, {short} and {long} of FEC", media.len());
    }

    /// From a FEC packet of another encoder, each of the packets that it protects can be computed, given the others.
    #[test]
    fn what_gstreamer_protects_is_computed_from_the_rest() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ulpfec.txt"));
        let bytes = |line: &str| -> Vec<u8> {
            (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal")).collect()
        };
        let packets: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(bytes).collect();
        let (mut media, mut computed) = (std::collections::HashMap::new(), 0);
        for fec in &packets {
            if fec[1] & 0x7f != 122 {
                media.insert(u16::from_be_bytes([fec[2], fec[3]]), fec);
                continue;
            }
            let protected = parse(&fec[12..]).expect("a FEC packet");
            let numbers =
                || (0..MASK_BITS).filter(|bit| protected.mask >> bit & 1 != 0).map(|bit| protected.base.0.wrapping_add(bit as u16));
            for lost in numbers() {
                let mut space = fec.clone();
                let mut recovery = Recovery::new(&mut space, 12, &protected).expect("room");
                for packet in numbers().filter(|number| *number != lost).map(|number| media[&number]) {
                    recovery.take_out(&packet[..12], &packet[12..], PayloadType(packet[1] & 0x7f)).expect("one of them");
                }
                let ssrc = u32::from_be_bytes(media[&lost][8..12].try_into().unwrap());
                let range = recovery.finish(SequenceNumber(lost), Ssrc(ssrc)).expect("a packet");
                assert_eq!(space[range], media[&lost][..], "packet {lost}");
                computed += 1;
            }
        }
        assert!(computed > 50, "{computed}");
    }

    #[test]
    fn a_fec_packet_that_makes_no_sense_is_not_read() {
        let good = [&[0, 96, 0, 7, 0, 0, 0, 9, 0, 2, 0, 2, 0xc0, 0, 1, 2][..]].concat();
        let expected = Protected { base: SequenceNumber(7), mask: 3, start: 14, len: 2 };
        assert_eq!(parse(&good), Some(expected));
        for short in 0..good.len() {
            assert_eq!(parse(&good[..short]), None, "{short} bytes");
        }
        // Extended; of nothing; a long mask that is not there.
        for (at, byte) in [(0, 0x80), (12, 0), (0, 0x40)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(parse(&bad), None, "byte {at} is {byte:x}");
        }
        // A packet longer than the longest; and what is left is longer than there is.
        let mut space = good.clone();
        let mut recovery = Recovery::new(&mut space, 0, &expected).expect("room");
        assert_eq!(recovery.take_out(&[0x80; 12], &[0; 3], PayloadType(96)), None);
        let mut space = [&good[..8], &[0, 3], &good[10..]].concat();
        assert_eq!(Recovery::new(&mut space, 0, &expected).expect("room").finish(SequenceNumber(7), Ssrc(1)), None);
        assert!(Recovery::new(&mut [0; 15], 0, &expected).is_none());
    }

    #[test]
    fn masks_begin_with_the_first_packet_and_are_long_where_they_must_be() {
        let written = |places: &[u64]| {
            let (mut parity, packet) = (Parity::<8>::default(), packet(0, 0, false, 96, 4));
            places.iter().for_each(|place| assert!(parity.add(&packet[..12], &packet[12..], PayloadType(96), *place)));
            let mut space = [0; 64];
            let len = parity.write(&mut space, 65_530).expect("room");
            (space[0] & LONG != 0, u16::from_be_bytes([space[2], space[3]]), space[12..len - 4].to_vec())
        };
        assert_eq!(written(&[0, 1, 15]), (false, 65_530, vec![0xc0, 0x01]));
        assert_eq!(written(&[0, 16]), (true, 65_530, vec![0x80, 0, 0x80, 0, 0, 0]));
        assert_eq!(written(&[0, 47]), (true, 65_530, vec![0x80, 0, 0, 0, 0, 1]));
        assert_eq!(written(&[32, 47]), (false, 26, vec![0x80, 0x01]), "the base is the first packet, past the wrap");
    }

    #[test]
    fn what_does_not_fit_is_not_added() {
        let mut parity = Parity::<8>::default();
        let long = packet(1, 2, true, 96, 9);
        assert!(!parity.add(&long[..12], &long[12..], PayloadType(96), 0));
        assert!(!parity.add(&long[..12], &long[12..16], PayloadType(96), MASK_BITS));
        assert!(!parity.add(&long[..11], &[], PayloadType(96), 0));
        assert!(parity.is_empty() && parity.write(&mut [0; 64], 0).is_none());
    }

    #[test]
    fn merged_and_cleared_it_is_as_if_it_had_been_added_at_once() {
        let packets: Vec<_> =
            (0..6).map(|number| packet(number, 90 * number as u32, number == 5, 96, 3 + number as usize)).collect();
        let (mut whole, mut even, mut odd) = (Parity::<16>::default(), Parity::<16>::default(), Parity::<16>::default());
        odd.add(&[0xff; 12], &[0xff; 16], PayloadType(1), 40);
        odd.clear();
        for (place, packet) in packets.iter().enumerate() {
            let lane = if place % 2 == 0 { &mut even } else { &mut odd };
            for parity in [lane, &mut whole] {
                parity.add(&packet[..12], &packet[12..], PayloadType(96), place as u64);
            }
        }
        even.merge(&odd);
        let (mut merged, mut expected) = ([0; 64], [0; 64]);
        assert_eq!(even.write(&mut merged, 7), whole.write(&mut expected, 7));
        assert_eq!(merged, expected);
    }
}
