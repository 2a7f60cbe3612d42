//! From the payloads of one frame's packets to the frame as Matroska wants it: VP8 (RFC 7741), VP9 (RFC 9628), H264 (RFC 6184), AV1 (RTP
//! Payload Format For AV1, v1.0.0).
//!
//! The packets are complete and in order. Own code on the parsers in [`crate::wire`], which the worker's side has anyway: what a crate
//! (`rtc-rtp`) would add is a buffer for each packet and state that outlives a lost fragment.

use crate::rtp::config::Codec;
use crate::wire::av1::{self, leb128};
use crate::wire::{vp8, vp9};

/// One frame; none if its packets make no sense.
pub fn depacketize<'a>(codec: Codec, payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let frame = match codec {
        Codec::Opus => payloads.flatten().copied().collect(),
        Codec::Vp8 => vp8_frame(payloads)?,
        Codec::Vp9 => vp9_frame(payloads)?,
        Codec::H264 => h264_units(payloads)?,
        Codec::Av1 => av1_units(payloads)?,
    };
    (!frame.is_empty()).then_some(frame)
}

fn vp8_frame<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    for payload in payloads {
        let descriptor = vp8::parse(payload).ok()?;
        frame.extend_from_slice(payload.get(descriptor.len..)?);
    }
    Some(frame)
}

/// The frames of all spatial layers of a picture, with a superframe index behind them if there are several (VP9 specification, annex B).
fn vp9_frame<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut frame, mut starts) = (Vec::new(), Vec::new());
    for payload in payloads {
        let descriptor = vp9::parse(payload).ok()?;
        if descriptor.start_of_frame {
            starts.push(frame.len());
        }
        frame.extend_from_slice(payload.get(descriptor.len..)?);
    }
    if (2..=8).contains(&starts.len()) {
        // Sizes of four bytes each.
        let marker = 0xc0 | 3 << 3 | (starts.len() - 1) as u8;
        let ends: Vec<usize> = starts.iter().skip(1).copied().chain([frame.len()]).collect();
        frame.push(marker);
        for (start, end) in starts.iter().zip(ends) {
            frame.extend_from_slice(&((end - start) as u32).to_le_bytes());
        }
        frame.push(marker);
    }
    Some(frame)
}

/// NAL units with their sizes in four bytes before them (ISO 14496-15).
fn h264_units<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut units = Vec::new();
    // Where the size of a unit that comes in fragments stands.
    let mut open: Option<usize> = None;
    for payload in payloads {
        let (&header, rest) = payload.split_first()?;
        let nal_type = header & 0x1f;
        if !matches!(nal_type, 28 | 29) && open.is_some() {
            return None;
        }
        match nal_type {
            1..=23 => unit(&mut units, payload),
            24 => aggregate(&mut units, rest, 0)?,
            25 => aggregate(&mut units, rest.get(2..)?, 0)?,
            26 => aggregate(&mut units, rest.get(2..)?, 3)?,
            27 => aggregate(&mut units, rest.get(2..)?, 4)?,
            28 | 29 => {
                let (&fragment, content) = rest.split_first()?;
                // FU-B has a decoding order number.
                let content = if nal_type == 29 { content.get(2..)? } else { content };
                let start = fragment & 0x80 != 0;
                if start == open.is_some() {
                    return None;
                }
                let at = *open.get_or_insert(units.len());
                if start {
                    units.extend_from_slice(&[0, 0, 0, 0, header & 0xe0 | fragment & 0x1f]);
                }
                units.extend_from_slice(content);
                if fragment & 0x40 != 0 {
                    let len = (units.len() - at - 4) as u32;
                    units.get_mut(at..at + 4)?.copy_from_slice(&len.to_be_bytes());
                    open = None;
                }
            }
            _ => {}
        }
    }
    open.is_none().then_some(units)
}

fn unit(units: &mut Vec<u8>, unit: &[u8]) {
    if !unit.is_empty() {
        units.extend_from_slice(&(unit.len() as u32).to_be_bytes());
        units.extend_from_slice(unit);
    }
}

/// Units with their sizes before them, `skip` bytes between size and unit (RFC 6184 §5.7).
fn aggregate(units: &mut Vec<u8>, mut rest: &[u8], skip: usize) -> Option<()> {
    while !rest.is_empty() {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let (content, after) = after.get(skip..)?.split_at_checked(u16::from_be_bytes(*size) as usize)?;
        unit(units, content);
        rest = after;
    }
    Some(())
}

/// A temporal unit: OBUs with their sizes, without temporal delimiters ("AV1 in Matroska", section "Block data").
fn av1_units<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut units, mut open) = (Vec::new(), Vec::new());
    let mut is_open = false;
    for payload in payloads {
        let &header = payload.first()?;
        let (continues, goes_on) = (header & 0x80 != 0, header & 0x40 != 0);
        if continues != is_open {
            return None;
        }
        let mut elements = av1::elements(payload).peekable();
        while let Some(element) = elements.next() {
            open.extend_from_slice(element?);
            is_open = goes_on && elements.peek().is_none();
            if !is_open {
                obu(&mut units, &open)?;
                open.clear();
            }
        }
    }
    (!is_open).then_some(units)
}

/// One OBU, given a size field if it has none (AV1 specification, section 5.3).
fn obu(units: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    let Some(&header) = bytes.first() else { return Some(()) };
    if header & 0x80 != 0 {
        return None;
    }
    let extension = (header & 4 != 0) as usize;
    let mut content = bytes.get(1 + extension..)?;
    if header & 2 != 0 {
        let (len, after) = leb128(content)?;
        content = after.get(..len)?;
    }
    // Temporal delimiter, tile list, padding.
    if matches!(header >> 3 & 15, 2 | 8 | 15) {
        return Some(());
    }
    units.push(header | 2);
    units.extend_from_slice(&bytes[1..1 + extension]);
    let mut len = content.len();
    while len > 0x7f {
        units.push(len as u8 | 0x80);
        len >>= 7;
    }
    units.push(len as u8);
    units.extend_from_slice(content);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(codec: Codec, payloads: &[&[u8]]) -> Option<Vec<u8>> {
        depacketize(codec, payloads.iter().copied())
    }

    #[test]
    fn h264_units_of_all_kinds_of_packets() {
        // STAP-A with two parameter sets, then an IDR slice in three fragments.
        let frame = made(
            Codec::H264,
            &[&[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xce], &[0x7c, 0x85, 1, 2], &[0x7c, 0x05, 3], &[0x7c, 0x45, 4], &[0x06, 9]],
        );
        let expected = [0, 0, 0, 2, 0x67, 0x42, 0, 0, 0, 2, 0x68, 0xce, 0, 0, 0, 5, 0x65, 1, 2, 3, 4, 0, 0, 0, 2, 0x06, 9];
        assert_eq!(frame.as_deref(), Some(&expected[..]));
        assert_eq!(made(Codec::H264, &[&[0x7c, 0x85, 1], &[0x61, 1]]), None, "a fragment is missing");
        assert_eq!(made(Codec::H264, &[&[0x7c, 0x05, 1]]), None);
        assert_eq!(made(Codec::H264, &[&[0x7c, 0x85, 1]]), None);
        assert_eq!(made(Codec::H264, &[&[0x78, 0, 9, 0x67]]), None);
    }

    #[test]
    fn av1_units_get_sizes() {
        // W = 2: a sequence header with its length, a frame that goes on; its rest.
        let frame = made(Codec::Av1, &[&[0x68, 3, 0x08, 1, 2, 0x30, 5], &[0x90, 6, 7]]);
        assert_eq!(frame.as_deref(), Some(&[0x0a, 2, 1, 2, 0x32, 3, 5, 6, 7][..]));
        // A temporal delimiter is left out; a size that is there stays.
        assert_eq!(made(Codec::Av1, &[&[0x20, 2, 0x12, 0, 0x32, 1, 9]]).as_deref(), Some(&[0x32, 1, 9][..]));
        assert_eq!(made(Codec::Av1, &[&[0x20, 9, 0x12, 0]]), None, "an element beyond the packet");
        assert_eq!(made(Codec::Av1, &[&[0x10, 0x32, 9, 1]]), None, "an OBU beyond its element");
        assert_eq!(made(Codec::Av1, &[&[0x50, 0x30, 1]]), None, "its rest is missing");
    }

    #[test]
    fn vp9_layers_make_a_superframe() {
        let frame = made(Codec::Vp9, &[&[0x0c, 1, 2], &[0x0c, 3]]).expect("a frame");
        assert_eq!(frame, [1, 2, 3, 0xd9, 2, 0, 0, 0, 1, 0, 0, 0, 0xd9]);
        assert_eq!(made(Codec::Vp9, &[&[0x08, 1, 2], &[0x04, 3]]).as_deref(), Some(&[1, 2, 3][..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..4)) {
            for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
                let _ = depacketize(codec, payloads.iter().map(Vec::as_slice));
            }
        }
    }
}
