//! H.264 payloads (RFC 6184 §5): which NAL units a packet has, and whether a picture that needs no earlier one begins in it.
//!
//! Such a picture begins with its sequence parameter set where there is one in the stream, else with the first slice of an IDR
//! picture. Browsers send both in one packet or the set just before.
//!
//! Temporal layers are not told, but whether another picture refers to a slice is (nal_ref_idc, ITU-T H.264 §7.4.1). Pictures to which
//! none does make up the highest temporal layer; here they are layer 1, and all others layer 0. Of L1T2 that is the whole truth, of
//! L1T3 the upper half.

use arrayvec::ArrayVec;

use super::bits::Bits;
use super::bytes::u16_at;
use super::layer::Layer;
use crate::metrics::DropReason;

/// NAL unit types (ITU-T H.264 table 7-1; 24 and above: RFC 6184 §5.2).
pub const IDR: u8 = 5;
pub const SEQUENCE_PARAMETER_SET: u8 = 7;
const STAP_A: u8 = 24;
const STAP_B: u8 = 25;
const MTAP16: u8 = 26;
const MTAP24: u8 = 27;
const FU_A: u8 = 28;
const FU_B: u8 = 29;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bit n: the packet has a NAL unit of type n (1..=23), whole or a fragment.
    nal_types: u32,
    /// The packet begins a NAL unit; false in the later fragments of one.
    pub start_of_nal: bool,
    /// The packet ends a NAL unit; false in the earlier fragments of one.
    pub end_of_nal: bool,
    /// First packet of a picture that needs no earlier one.
    pub key_frame: bool,
    /// The packet has slices, and no other picture refers to them.
    pub discardable: bool,
    /// A slice begins in the packet that is the first of its picture, or something that comes before the slices of one.
    pub start_of_picture: bool,
}

/// Bytes of a sequence parameter set that are read: its size stands among the first, unless it has lists that no browser sends.
const SEQUENCE_BYTES_READ: usize = 64;

/// NAL unit types that come before the first slice of a picture: SEI, parameter sets, access unit delimiter (ITU-T H.264
/// §7.4.1.2.3).
const BEFORE_SLICES: u32 = 1 << 6 | 1 << SEQUENCE_PARAMETER_SET | 1 << 8 | 1 << 9;
/// Slices, whole or in partitions, and slices of IDR pictures.
const SLICES: u32 = 0b11_1110;

impl Descriptor {
    /// `marker` is the packet's: the last packet of a picture has it. More than one packet of a picture may say that it starts one, and
    /// only packets with a slice of an IDR picture say that it refers to no earlier one.
    pub fn layer(&self, marker: bool) -> Layer {
        Layer {
            // All that a discardable picture refers to is in layer 0.
            switch_from: 0,
            switch_to: 1,
            start_of_frame: self.start_of_picture,
            end_of_frame: marker,
            inter_picture: !self.key_frame && !self.has(IDR),
            discardable: self.discardable,
            ..Layer::of_temporal(self.discardable as u8)
        }
    }

    /// The packet has a NAL unit of this type, or a fragment of one.
    pub fn has(&self, nal_type: u8) -> bool {
        nal_type < 32 && self.nal_types >> nal_type & 1 == 1
    }

    /// Notes a NAL unit, of which `header` is the first byte and `content` begins after it.
    fn add(&mut self, header: u8, content: &[u8], start: bool) {
        let nal_type = header & 0x1f;
        let slice = SLICES >> nal_type & 1 == 1;
        if slice {
            // All slices of the packet are, the first and those before.
            self.discardable = header & 0x60 == 0 && (self.nal_types & SLICES == 0 || self.discardable);
        }
        self.nal_types |= 1 << nal_type;
        // first_mb_in_slice comes first; 0 is coded as a one bit. A later slice of an IDR picture is no beginning.
        let first_slice = content.first().is_some_and(|byte| byte & 0x80 != 0);
        self.start_of_picture |= start && (slice && first_slice || BEFORE_SLICES >> nal_type & 1 == 1);
        self.key_frame |= start && (nal_type == SEQUENCE_PARAMETER_SET || nal_type == IDR && first_slice);
    }
}

/// Reads an RTP payload. Types that are reserved are let through: what they mean is between sender and receiver.
pub fn parse(payload: &[u8]) -> Result<Descriptor, DropReason> {
    read(payload).ok_or(DropReason::PayloadMalformed)
}

fn read(payload: &[u8]) -> Option<Descriptor> {
    let (header, rest) = payload.split_first()?;
    let mut descriptor = Descriptor {
        nal_types: 0,
        start_of_nal: true,
        end_of_nal: true,
        key_frame: false,
        discardable: false,
        start_of_picture: false,
    };
    match header & 0x1f {
        STAP_A => aggregate(&mut descriptor, rest, 0)?,
        // A decoding order number comes first.
        STAP_B => aggregate(&mut descriptor, rest.get(2..)?, 0)?,
        // Each unit is preceded by DOND and a timestamp offset of 16 or 24 bits.
        MTAP16 => aggregate(&mut descriptor, rest.get(2..)?, 3)?,
        MTAP24 => aggregate(&mut descriptor, rest.get(2..)?, 4)?,
        nal_type @ (FU_A | FU_B) => {
            let (fragment, content) = rest.split_first()?;
            let content = if nal_type == FU_B { content.get(2..)? } else { content };
            (descriptor.start_of_nal, descriptor.end_of_nal) = (fragment & 0x80 != 0, fragment & 0x40 != 0);
            // nal_ref_idc stands in the first byte, the type in the fragment's.
            descriptor.add(header & 0x60 | fragment & 0x1f, content, descriptor.start_of_nal);
        }
        1..=23 => descriptor.add(*header, rest, true),
        _ => {}
    }
    Some(descriptor)
}

/// NAL units with their sizes before them, and `skip` bytes between size and unit, which the size counts not (RFC 6184 §5.7).
fn aggregate(descriptor: &mut Descriptor, mut rest: &[u8], skip: usize) -> Option<()> {
    while !rest.is_empty() {
        let start = 2 + skip;
        let unit = rest.get(start..start + u16_at(rest, 0)? as usize)?;
        if let Some((header, content)) = unit.split_first() {
            descriptor.add(*header, content, true);
        }
        rest = rest.get(start + unit.len()..)?;
    }
    Some(())
}

/// Width and height of the pictures that a payload with a sequence parameter set, whole, begins.
pub fn size(payload: &[u8]) -> Option<(u32, u32)> {
    let is_set = |unit: &[u8]| unit.first().is_some_and(|header| header & 0x1f == SEQUENCE_PARAMETER_SET);
    let (header, mut rest) = payload.split_first()?;
    if header & 0x1f != STAP_A {
        return is_set(payload).then(|| sequence_size(payload))?;
    }
    loop {
        let unit = rest.get(2..2 + u16_at(rest, 0)? as usize)?;
        if is_set(unit) {
            return sequence_size(unit);
        }
        rest = rest.get(2 + unit.len()..)?;
    }
}

/// Width and height from a sequence parameter set, its header included (ITU-T H.264 §7.3.2.1.1).
pub fn sequence_size(unit: &[u8]) -> Option<(u32, u32)> {
    // Without emulation prevention bytes (§7.4.1).
    let mut bytes = ArrayVec::<u8, SEQUENCE_BYTES_READ>::new();
    for (index, byte) in unit.iter().enumerate().skip(1) {
        let prevents = *byte == 3 && index > 2 && unit[index - 2..index] == [0, 0];
        if !prevents && bytes.try_push(*byte).is_err() {
            break;
        }
    }
    let mut bits = Bits::new(&bytes, 0);
    let profile = bits.take(8)?;
    bits.take(16)?;
    bits.golomb()?;
    let mut chroma = 1;
    if [100, 110, 122, 244, 44, 83, 86, 118, 128].contains(&profile) {
        chroma = bits.golomb()?;
        if chroma == 3 {
            bits.take(1)?;
        }
        bits.golomb()?;
        bits.golomb()?;
        bits.take(1)?;
        if bits.take(1)? == 1 {
            // Scaling matrices: no browser sends them.
            return None;
        }
    }
    bits.golomb()?;
    match bits.golomb()? {
        0 => {
            bits.golomb()?;
        }
        1 => {
            bits.take(1)?;
            bits.golomb()?;
            bits.golomb()?;
            for _ in 0..bits.golomb()?.min(255) {
                bits.golomb()?;
            }
        }
        _ => {}
    }
    bits.golomb()?;
    bits.take(1)?;
    let (width, height) = (bits.golomb()?.checked_add(1)?, bits.golomb()?.checked_add(1)?);
    let frames_only = bits.take(1)?;
    if frames_only == 0 {
        bits.take(1)?;
    }
    bits.take(1)?;
    let mut crop = [0; 4];
    if bits.take(1)? == 1 {
        for side in &mut crop {
            *side = bits.golomb()?;
        }
    }
    let (unit_x, unit_y) = if chroma == 1 { (2, 2 * (2 - frames_only)) } else { (1, 2 - frames_only) };
    let side = |blocks: u32, size: u32, unit: u32, before: u32, after: u32| {
        blocks.checked_mul(size)?.checked_sub(unit.checked_mul(before.checked_add(after)?)?)
    };
    let width = side(width, 16, unit_x, crop[0], crop[1])?;
    Some((width, side(height, 16 * (2 - frames_only), unit_y, crop[2], crop[3])?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::dependency;
    use crate::wire::vectors::{self, packets};

    fn key_frame(payload: &[u8]) -> Option<bool> {
        parse(payload).ok().map(|descriptor| descriptor.key_frame)
    }

    #[test]
    fn single_units() {
        assert_eq!(key_frame(&[0x67, 0x42, 0xe0, 0x1f]), Some(true), "SPS");
        assert_eq!(key_frame(&[0x68, 0xce]), Some(false), "PPS");
        assert_eq!(key_frame(&[0x65, 0x88]), Some(true), "first slice of an IDR picture");
        assert_eq!(key_frame(&[0x65, 0x44]), Some(false), "second slice");
        assert_eq!(key_frame(&[0x41, 0x9a]), Some(false), "slice of another picture");
        assert_eq!(key_frame(&[]), None);
        assert!(parse(&[0x67, 0]).is_ok_and(|descriptor| descriptor.has(SEQUENCE_PARAMETER_SET) && !descriptor.has(IDR)));
    }

    #[test]
    fn aggregates() {
        let stap_a = [0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88];
        let descriptor = parse(&stap_a).expect("a payload");
        assert!(descriptor.key_frame && [7, 8, 5].into_iter().all(|nal_type| descriptor.has(nal_type)));
        assert_eq!(key_frame(&[0x78, 0, 2, 0x41, 0x9a]), Some(false));
        assert_eq!(key_frame(&[0x78, 0, 3, 0x67, 0x42]), None, "longer than the packet");
        assert_eq!(key_frame(&[0x78, 0]), None);
        assert_eq!(key_frame(&[0x79, 0, 0, 0, 2, 0x67, 0x42]), Some(true), "STAP-B");
        assert_eq!(key_frame(&[0x7a, 0, 0, 0, 2, 0, 0, 0, 0x67, 0x42]), Some(true), "MTAP16");
        assert_eq!(key_frame(&[0x7b, 0, 0, 0, 2, 0, 0, 0, 0, 0x67, 0x42]), Some(true), "MTAP24");
        assert_eq!(key_frame(&[0x79, 0]), None);
    }

    #[test]
    fn fragments() {
        assert_eq!(key_frame(&[0x7c, 0x85, 0x88]), Some(true), "first fragment of an IDR slice");
        assert_eq!(key_frame(&[0x7c, 0x05, 0x88]), Some(false), "a middle one");
        assert_eq!(key_frame(&[0x7d, 0x85, 0, 0, 0x88]), Some(true), "FU-B");
        assert_eq!(key_frame(&[0x7c]), None);
        let last = parse(&[0x7c, 0x45, 0x88]).expect("a payload");
        assert!(last.end_of_nal && !last.start_of_nal && last.has(IDR));
    }

    #[test]
    fn nal_ref_idc_tells_what_is_discardable() {
        let discardable = |payload: &[u8]| parse(payload).expect("a payload").discardable;
        assert!(discardable(&[0x01, 0xe0]) && !discardable(&[0x61, 0xe0]) && !discardable(&[0x21, 0xe0]));
        assert!(discardable(&[0x1c, 0x81, 0xe0]) && !discardable(&[0x7c, 0x81, 0xe0]), "fragments");
        assert!(discardable(&[0x18, 0, 2, 0x06, 1, 0, 2, 0x01, 0xe0]), "SEI before the slice");
        assert!(!discardable(&[0x78, 0, 2, 0x01, 0xe0, 0, 2, 0x41, 0xe0]), "one slice of two");
        assert!(!discardable(&[0x78, 0, 2, 0x41, 0xe0, 0, 2, 0x01, 0xe0]), "one slice of two");
        assert!(!discardable(&[0x06, 1]), "no slice");
    }

    /// Chromium sends the dependency descriptor beside: two parsers of two formats must tell the same.
    #[test]
    fn the_dependency_descriptor_tells_the_same_of_what_chromium_sends() {
        let mut reader = dependency::Reader::default();
        let mut layers = [0; 2];
        let mut ended = None;
        for packet in packets(vectors::H264_L1T2) {
            let other = reader.read(&packet.descriptor, packet.timestamp).expect("a dependency descriptor").layer();
            let ours = parse(&packet.payload).expect("a payload").layer(packet.marker);
            let what = format!("{:?}: {ours:?}", packet.sequence_number);
            assert_eq!((ours.temporal, ours.discardable), (other.temporal, other.discardable), "{what}");
            assert_eq!((ours.inter_picture, ours.end_of_frame), (other.inter_picture, other.end_of_frame), "{what}");
            assert!(ours.start_of_frame || !other.start_of_frame, "{what}");
            if ended == Some(packet.sequence_number) {
                assert!(other.start_of_frame && ours.start_of_frame, "{what}");
            }
            ended = ours.end_of_frame.then_some(packet.sequence_number.next());
            layers[ours.temporal as usize] += 1;
        }
        assert!(layers.iter().all(|packets| *packets > 80), "{layers:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(payload in prop::collection::vec(any::<u8>(), 0..40), header in 20u8..32) {
            let _ = parse(&payload);
            let _ = parse(&[&[header], &payload[..]].concat());
        }
    }
}
