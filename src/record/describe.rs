//! What a file's track list says of a codec, read from a key frame: the size of the picture and what a decoder needs first.

use super::container::TrackEntry;
use crate::rtp::config::Codec;
use crate::wire::av1::{self, Sequence, leb128};
use crate::wire::bits::Bits;
use crate::wire::h264;

/// The entry of a track that begins with this frame; none if the frame does not say enough.
pub fn describe(codec: Codec, frame: &[u8]) -> Option<TrackEntry> {
    let (private, size) = match codec {
        Codec::Opus => (opus_head(), (0, 0)),
        Codec::Vp8 => (Vec::new(), vp8_size(frame)?),
        Codec::Vp9 => (Vec::new(), vp9_size(frame)?),
        Codec::H264 => avc_configuration(frame)?,
        Codec::Av1 => av1_configuration(frame)?,
    };
    Some(TrackEntry { codec, private, size })
}

/// RFC 7845 §5.1. WebRTC's Opus has no pre-skip that anybody tells of.
fn opus_head() -> Vec<u8> {
    let mut head = b"OpusHead\x01\x02".to_vec();
    head.extend_from_slice(&0u16.to_le_bytes());
    head.extend_from_slice(&48_000u32.to_le_bytes());
    head.extend_from_slice(&[0, 0, 0]);
    head
}

/// RFC 6386 §9.1.
fn vp8_size(frame: &[u8]) -> Option<(u32, u32)> {
    let &[_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = frame else { return None };
    let side = |low, high| (u16::from_le_bytes([low, high]) & 0x3fff) as u32;
    Some((side(w0, w1), side(h0, h1)))
}

/// The uncompressed header of a key frame (VP9 specification, section 6.2).
fn vp9_size(frame: &[u8]) -> Option<(u32, u32)> {
    let mut bits = Bits::new(frame, 0);
    let marker = bits.take(2)?;
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.take(1)?;
    }
    // show_existing_frame, frame_type, show_frame, error_resilient_mode.
    let (existing, inter) = (bits.take(1)?, bits.take(1)?);
    bits.take(2)?;
    if marker != 2 || existing == 1 || inter == 1 || bits.take(24)? != 0x49_83_42 {
        return None;
    }
    if profile >= 2 {
        bits.take(1)?;
    }
    // color_space: 7 is RGB.
    if bits.take(3)? != 7 {
        bits.take(1)?;
        if profile & 1 == 1 {
            bits.take(3)?;
        }
    } else if profile & 1 == 1 {
        bits.take(1)?;
    }
    Some((bits.take(16)? + 1, bits.take(16)? + 1))
}

/// AVCDecoderConfigurationRecord (ISO 14496-15 §5.3.3) of the frame's parameter sets.
fn avc_configuration(frame: &[u8]) -> Option<(Vec<u8>, (u32, u32))> {
    let (mut sequence, mut picture) = (None, None);
    let mut rest = frame;
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (unit, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        match unit.first().map(|header| header & 0x1f) {
            Some(7) => sequence = sequence.or(Some(unit)),
            Some(8) => picture = picture.or(Some(unit)),
            _ => {}
        }
        rest = after;
    }
    let (sequence, picture) = (sequence?, picture?);
    let size = h264::sequence_size(sequence)?;
    let mut record = vec![1, *sequence.get(1)?, *sequence.get(2)?, *sequence.get(3)?, 0xff, 0xe1];
    record.extend_from_slice(&(sequence.len() as u16).to_be_bytes());
    record.extend_from_slice(sequence);
    record.push(1);
    record.extend_from_slice(&(picture.len() as u16).to_be_bytes());
    record.extend_from_slice(picture);
    Some((record, size))
}

/// AV1CodecConfigurationRecord ("AV1 Codec ISO Media File Format Binding", section 2.3) of the frame's sequence header.
fn av1_configuration(frame: &[u8]) -> Option<(Vec<u8>, (u32, u32))> {
    let mut rest = frame;
    loop {
        let (&header, after) = rest.split_first()?;
        let after = after.get((header & 4 != 0) as usize..)?;
        let (len, content) = leb128(after)?;
        let (content, after) = content.split_at_checked(len)?;
        if header >> 3 & 15 == 1 {
            let sequence = rest.get(..rest.len() - after.len())?;
            let Sequence { profile, level, tier, size } = av1::sequence_header(content)?;
            // 4:2:0 of 8 bits: the rest of the record as the main profile has it.
            let mut record = vec![0x81, profile << 5 | level, tier << 7 | 0x0c, 0];
            record.extend_from_slice(sequence);
            return Some((record, size));
        }
        rest = after;
    }
}
