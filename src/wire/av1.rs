//! AV1 payloads (RTP Payload Format For AV1, v1.0.0, section 4): the aggregation header, and what the OBU elements after it are.

use super::bits::Bits;
use crate::metrics::DropReason;

/// OBU types (AV1 specification, section 6.2.2).
const OBU_SEQUENCE_HEADER: u8 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Z: the first element continues one from the packet before.
    pub continues: bool,
    /// Y: the last element goes on in the next packet.
    pub continued: bool,
    /// N: first packet of a coded video sequence.
    pub new_sequence: bool,
    /// A sequence header begins in this packet.
    pub sequence_header: bool,
    /// Temporal and spatial layer, from the first OBU that tells.
    pub layer: Option<(u8, u8)>,
    /// First packet of a picture that needs no earlier one.
    pub key_frame: bool,
}

/// Reads an RTP payload.
pub fn parse(payload: &[u8]) -> Result<Descriptor, DropReason> {
    read(payload).ok_or(DropReason::PayloadMalformed)
}

fn read(payload: &[u8]) -> Option<Descriptor> {
    // Z, Y, two bits of W, N.
    let &header = payload.first()?;
    let mut descriptor = Descriptor {
        continues: header & 0x80 != 0,
        continued: header & 0x40 != 0,
        new_sequence: header & 0x08 != 0,
        ..Descriptor::default()
    };
    // A coded video sequence begins with a new OBU.
    if payload.len() < 2 || descriptor.continues && descriptor.new_sequence {
        return None;
    }
    let mut count = 0;
    for element in elements(payload) {
        count += 1;
        let element = element?;
        if count > 1 || !descriptor.continues {
            descriptor.add(element)?;
        }
    }
    if count < header as usize >> 4 & 3 {
        return None;
    }
    descriptor.key_frame = descriptor.new_sequence;
    Some(descriptor)
}

impl Descriptor {
    /// Reads an OBU's header (AV1 specification, section 5.3.2); an empty element is none.
    fn add(&mut self, element: &[u8]) -> Option<()> {
        let Some(header) = element.first() else { return Some(()) };
        // obu_forbidden_bit
        if header & 0x80 != 0 {
            return None;
        }
        self.sequence_header |= header >> 3 & 0x0f == OBU_SEQUENCE_HEADER;
        if header & 0x04 != 0 {
            let extension = element.get(1)?;
            self.layer.get_or_insert((extension >> 5, extension >> 3 & 3));
        }
        Some(())
    }
}

/// What a sequence header says of its pictures (AV1 specification, section 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub profile: u8,
    pub level: u8,
    pub tier: u8,
    /// Width and height, at most.
    pub size: (u32, u32),
}

/// The sequence header that begins in a payload, if there is one, whole.
pub fn sequence(payload: &[u8]) -> Option<Sequence> {
    let header = |element: &&[u8]| element.first().is_some_and(|header| header >> 3 & 0x0f == OBU_SEQUENCE_HEADER);
    let obu = elements(payload).map_while(|element| element).find(header)?;
    let after = obu.get(1 + (obu[0] >> 2 & 1) as usize..)?;
    // has_size_field: elements need none.
    let content = if obu[0] & 0x02 != 0 { leb128(after)?.1 } else { after };
    sequence_header(content)
}

/// Reads a sequence header OBU's content.
pub fn sequence_header(content: &[u8]) -> Option<Sequence> {
    let mut bits = Bits::new(content, 0);
    let (profile, _still, reduced) = (bits.take(3)?, bits.take(1)?, bits.take(1)?);
    let (mut level, mut tier) = (0, 0);
    if reduced == 1 {
        level = bits.take(5)?;
    } else {
        // timing_info_present_flag: no encoder for real time sends it.
        if bits.take(1)? == 1 {
            return None;
        }
        let delays = bits.take(1)?;
        for point in 0..=bits.take(5)? {
            bits.take(12)?;
            let here = bits.take(5)?;
            let here_tier = if here > 7 { bits.take(1)? } else { 0 };
            if delays == 1 && bits.take(1)? == 1 {
                bits.take(4)?;
            }
            if point == 0 {
                (level, tier) = (here, here_tier);
            }
        }
    }
    let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
    let size = (bits.take(width_bits as usize)? + 1, bits.take(height_bits as usize)? + 1);
    Some(Sequence { profile: profile as u8, level: level as u8, tier: tier as u8, size })
}

/// The elements of a payload, the aggregation header in front: OBUs, of which the first and the last may be parts. An element that
/// does not fit into the packet is `None`, and the last.
pub fn elements(payload: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let (count, mut rest) = payload.split_first().map_or((0, &[][..]), |(header, rest)| (header >> 4 & 3, rest));
    let mut index = 0usize;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        index += 1;
        // With W elements, the last goes to the end of the packet and has no length before it.
        if index == count as usize {
            return Some(Some(std::mem::take(&mut rest)));
        }
        let split = leb128(std::mem::take(&mut rest)).and_then(|(len, after)| after.split_at_checked(len));
        Some(split.map(|(element, after)| {
            rest = after;
            element
        }))
    })
}

/// A length in little-endian groups of seven bits, at most eight of them (AV1 specification, section 4.10.5), and what follows.
pub fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(8) {
        value |= ((byte & 0x7f) as u64) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value.try_into().ok()?, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_sequence() {
        // W = 2: a sequence header of three bytes, then a frame with an extension byte.
        let payload = [0x28, 3, 0x08, 1, 2, 0x34, 0x48, 9, 9];
        let descriptor = parse(&payload).expect("a payload");
        assert!(descriptor.key_frame && descriptor.new_sequence && descriptor.sequence_header);
        assert_eq!(descriptor.layer, Some((2, 1)));
        // The same with W = 0: every element has its length.
        let payload = [0x08, 3, 0x08, 1, 2, 4, 0x34, 0x48, 9, 9];
        assert_eq!(parse(&payload), Ok(descriptor));
    }

    #[test]
    fn fragments_are_not_read_as_headers() {
        let middle = parse(&[0xd0, 0x88, 9]).expect("a payload");
        assert!(middle.continues && middle.continued && !middle.key_frame && !middle.sequence_header);
        // The first element continues, the second is a sequence header.
        let tail = parse(&[0xa0, 1, 0xff, 0x08, 9]).expect("a payload");
        assert!(tail.continues && tail.sequence_header && !tail.key_frame);
    }

    #[test]
    fn elements_beyond_the_packet_are_malformed() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[0x10]).is_err());
        assert!(parse(&[0x20, 4, 1, 2, 3]).is_err());
        assert!(parse(&[0x20, 3, 1, 2, 3]).is_err(), "the second element is missing");
        assert!(parse(&[0x00, 0x80]).is_err(), "half a length");
        assert!(parse(&[0x00, 0x80, 0x80, 0x80, 0x80, 0x00]).is_ok(), "a long way to say nothing");
        assert!(parse(&[0x00, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).is_err(), "nine groups");
        assert!(parse(&[0x10, 0x80]).is_err(), "forbidden bit");
        assert!(parse(&[0x98, 0x08, 1]).is_err(), "a new sequence that continues a packet");
        let mut many = [0; 300];
        assert!(parse(&many).is_ok(), "very many empty elements");
        many[299] = 5;
        assert!(parse(&many).is_err(), "the last of very many is not whole");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&payload);
        }
    }
}
