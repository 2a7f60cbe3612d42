//! RTP headers (RFC 3550 §5.1): a view of a received one, and a writer of a new one.
//!
//! The header is in the clear in SRTP, so [`Header::parse`] works on the packet as it arrived. The padding count is not: it is the
//! packet's last byte, which only decryption reveals, so [`Header::payload_range`] is asked afterwards.

use std::ops::Range;

use super::bytes::{Writer, u16_at, u32_at};
use super::extension::{self, Elements};
use crate::metrics::DropReason;
use crate::units::{PayloadType, RtpTime, SequenceNumber, Ssrc};

/// Bytes of a header without CSRCs and extension.
pub const FIXED_HEADER_LEN: usize = 12;
/// The P bit in the first byte: the packet ends in padding.
pub const PADDING_BIT: u8 = 0x20;
const EXTENSION_BIT: u8 = 0x10;

/// The header of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The packet ends in padding.
    pub padding: bool,
    pub marker: bool,
    pub payload_type: PayloadType,
    pub sequence_number: SequenceNumber,
    pub timestamp: RtpTime,
    pub ssrc: Ssrc,
    pub csrc_count: u8,
    /// Bytes before the payload: fixed header, CSRC list and extension.
    pub header_len: usize,
    /// The extension's "defined by profile" field; 0 without extension.
    pub extension_profile: u16,
    /// What follows the extension's profile and length; empty without extension.
    pub extension_data: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads the header of an RTP or SRTP packet.
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<Header<'a>, DropReason> {
        Header::read(packet).ok_or(DropReason::RtpMalformed)
    }

    #[inline]
    fn read(packet: &'a [u8]) -> Option<Header<'a>> {
        let (&[flags, type_byte, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3], _) = packet.split_first_chunk::<FIXED_HEADER_LEN>()?;
        if flags >> 6 != 2 {
            return None;
        }
        let csrc_count = flags & 0x0f;
        let mut header_len = FIXED_HEADER_LEN + 4 * csrc_count as usize;
        let (mut extension_profile, mut extension_data) = (0, &[][..]);
        if flags & EXTENSION_BIT != 0 {
            extension_profile = u16_at(packet, header_len)?;
            let start = header_len + 4;
            header_len = start + 4 * u16_at(packet, header_len + 2)? as usize;
            extension_data = packet.get(start..header_len)?;
        }
        if header_len > packet.len() {
            return None;
        }
        Some(Header {
            padding: flags & PADDING_BIT != 0,
            marker: type_byte & 0x80 != 0,
            payload_type: PayloadType(type_byte & 0x7f),
            sequence_number: SequenceNumber(u16::from_be_bytes([s0, s1])),
            timestamp: RtpTime(u32::from_be_bytes([t0, t1, t2, t3])),
            ssrc: Ssrc(u32::from_be_bytes([c0, c1, c2, c3])),
            csrc_count,
            header_len,
            extension_profile,
            extension_data,
        })
    }

    /// Extension elements as (id, data).
    pub fn extensions(&self) -> Elements<'a> {
        Elements::new(self.extension_profile, self.extension_data)
    }

    /// Extension elements as (id, place of the data in the packet).
    pub fn extension_ranges(&self) -> impl Iterator<Item = (u8, Range<usize>)> + use<'a> {
        self.extensions().ranges(self.header_len - self.extension_data.len())
    }

    /// Data of the first extension element with this id.
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        self.extensions().find(|(found, _)| *found == id).map(|(_, data)| data)
    }

    /// Contributing sources, given the packet the header was read from.
    pub fn csrcs<'p>(&self, packet: &'p [u8]) -> impl Iterator<Item = Ssrc> + use<'p> {
        (0..self.csrc_count as usize).map_while(move |index| u32_at(packet, FIXED_HEADER_LEN + 4 * index).map(Ssrc))
    }

    /// Where the payload of the decrypted packet lies, without padding; `None` if the padding count is a lie. A packet of padding
    /// only has an empty range.
    #[inline]
    pub fn payload_range(&self, packet: &[u8]) -> Option<Range<usize>> {
        let mut end = packet.len();
        if self.padding {
            // The count includes itself, so it is never 0 (RFC 3550 §5.1).
            let count = match packet.get(self.header_len..)?.last()? {
                0 => return None,
                count => *count as usize,
            };
            end = end.checked_sub(count)?;
        }
        (self.header_len <= end).then_some(self.header_len..end)
    }
}

/// Writes a header without CSRCs or padding and returns its length; `None` if `space` is too small. Elements get one-byte headers
/// unless one of them needs two (more than 16 bytes, none, or an id above 14); one of id 0 or above 255 bytes is left out.
pub fn write_header<'e>(
    space: &mut [u8],
    marker: bool,
    payload_type: PayloadType,
    sequence_number: SequenceNumber,
    timestamp: RtpTime,
    ssrc: Ssrc,
    elements: impl Iterator<Item = (u8, &'e [u8])> + Clone,
) -> Option<usize> {
    let mut writer = Writer::new(space);
    let type_byte = (marker as u8) << 7 | payload_type.0 & 0x7f;
    let ([s0, s1], [t0, t1, t2, t3]) = (sequence_number.0.to_be_bytes(), timestamp.0.to_be_bytes());
    let [c0, c1, c2, c3] = ssrc.0.to_be_bytes();
    writer.bytes(&[0x80, type_byte, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3])?;
    extension::write(&mut writer, elements)?;
    let len = writer.len();
    if len > FIXED_HEADER_LEN {
        *space.first_mut()? |= EXTENSION_BIT;
    }
    Some(len)
}

/// Adds padding to a packet of `len` bytes (RFC 3550 §5.1); returns its new length, or none if there is no room.
pub fn pad(packet: &mut [u8], len: usize, padding: u8) -> Option<usize> {
    let end = len + padding as usize;
    let added = packet.get_mut(len..end)?;
    added.fill(0);
    *added.last_mut()? = padding;
    *packet.first_mut()? |= PADDING_BIT;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(space: &mut [u8], elements: &[(u8, &[u8])]) -> Option<usize> {
        let (payload_type, sequence_number) = (PayloadType(96), SequenceNumber(0xfffe));
        write_header(space, true, payload_type, sequence_number, RtpTime(0x01020304), Ssrc(7), elements.iter().copied())
    }

    #[test]
    fn written_headers_read_back() {
        let mut space = [0xff; 128];
        let long = [9u8; 17];
        type Case<'a> = (&'a [(u8, &'a [u8])], u16);
        let cases: [Case; 7] = [
            (&[], 0),
            (&[(14, b"1234")], 0xbede),
            (&[(1, b"0"), (14, &[1; 16]), (3, &[1, 2])], 0xbede),
            (&[(1, b"0"), (3, &long)], 0x1000),
            (&[(1, b"0"), (15, b"x")], 0x1000),
            (&[(1, b"")], 0x1000),
            (&[(1, b"123")], 0xbede),
        ];
        for (elements, profile) in cases {
            let len = write(&mut space, elements).expect("space");
            let header = Header::parse(&space[..len]).expect("a header");
            assert_eq!(header.header_len, len);
            assert_eq!(len % 4, 0);
            assert_eq!(header.extension_profile, profile);
            assert_eq!(header.extensions().collect::<Vec<_>>(), elements);
            for ((_, range), (_, data)) in header.extension_ranges().zip(elements) {
                assert_eq!(&space[range], *data);
            }
            assert!(header.marker);
            assert_eq!(header.payload_type, PayloadType(96));
            assert_eq!(header.sequence_number, SequenceNumber(0xfffe));
            assert_eq!(header.timestamp, RtpTime(0x01020304));
            assert_eq!(header.ssrc, Ssrc(7));
            assert_eq!(write(&mut space[..len], elements), Some(len));
            for short in 0..len {
                assert_eq!(write(&mut space[..short], elements), None);
            }
        }
    }

    #[test]
    fn csrcs_and_padding() {
        let mut packet = vec![0xa2, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5];
        let header_len = packet.len();
        packet.extend([1, 2, 3, 0, 0, 3]);
        let header = Header::parse(&packet).expect("a header");
        assert_eq!(header.csrcs(&packet).collect::<Vec<_>>(), [Ssrc(4), Ssrc(5)]);
        assert_eq!(header.payload_range(&packet), Some(header_len..header_len + 3));
        let with_count = |count: u8| {
            let mut packet = packet.clone();
            *packet.last_mut().expect("a byte") = count;
            Header::parse(&packet).expect("a header").payload_range(&packet)
        };
        assert_eq!(with_count(6), Some(header_len..header_len), "padding only");
        assert_eq!(with_count(7), None, "reaches into the header");
        assert_eq!(with_count(0), None);
        assert_eq!(header.payload_range(&packet[..header_len]), None);
    }

    #[test]
    fn truncated_headers_are_malformed() {
        let mut space = [0; 64];
        let len = write(&mut space, &[(1, b"ab")]).expect("space");
        for short in 0..len {
            assert_eq!(Header::parse(&space[..short]), Err(DropReason::RtpMalformed));
        }
        space[0] = 0x41;
        assert_eq!(Header::parse(&space), Err(DropReason::RtpMalformed), "version 1");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flags in 0x80u8..0xc0) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = flags;
            }
            if let Ok(header) = Header::parse(&bytes) {
                for (_, range) in header.extension_ranges() {
                    prop_assert!(range.end <= header.header_len);
                }
                if let Some(range) = header.payload_range(&bytes) {
                    prop_assert!(range.start == header.header_len && range.end <= bytes.len());
                }
            }
        }

        #[test]
        fn any_elements_are_read_without_panic(profile in prop_oneof![Just(0xbedeu16), Just(0x1000), any::<u16>()],
                                               data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Elements::new(profile, &data).count() <= data.len());
        }
    }
}
