//! Synthetic media: real payload descriptors around payloads that say who they are, when they left, and whether they are whole.
//!
//! ```text
//!   VP8    descriptor (RFC 7741 §4.2), 6 bytes │ frame header or filler, 10 bytes │ stamp │ fill
//!   Opus   TOC byte (RFC 6716 §3.1)            │ filler, 7 bytes                  │ stamp │ fill
//! ```

use distributary::wire::vp8;

/// Bytes of a VP8 descriptor with 15-bit picture id, TL0PICIDX and TID.
pub const DESCRIPTOR_LEN: usize = 6;
/// Bytes of a key frame's header (RFC 6386 §9.1); in other packets as many of filler, so that all stamps lie alike.
pub const FRAME_HEADER_LEN: usize = 10;
const AUDIO_HEADER_LEN: usize = 8;
const MAGIC: u32 = 0x5354_4d50;
pub const STAMP_LEN: usize = 20;
/// Least bytes of a payload, of audio and of video.
pub const AUDIO_PAYLOAD_MIN: usize = AUDIO_HEADER_LEN + STAMP_LEN;
pub const PAYLOAD_MIN: usize = DESCRIPTOR_LEN + FRAME_HEADER_LEN + STAMP_LEN;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Audio,
    Video,
}

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the packet in its stream, from 0 and without wrap.
    pub number: u64,
    /// When it was sent: CLOCK_MONOTONIC, nanoseconds.
    pub sent: u64,
}

/// Place of a packet in the video.
#[derive(Clone, Copy, Debug)]
pub struct Picture {
    pub id: u16,
    pub tl0_pic_idx: u8,
    pub key_frame: bool,
    pub first_packet: bool,
    /// Bytes of the whole frame, for its header.
    pub frame_len: u32,
}

/// Writes all of `payload`; the time comes with [`set_sent`].
pub fn write_video(payload: &mut [u8], picture: &Picture, number: u64) {
    let [id_high, id_low] = picture.id.to_be_bytes();
    let start = if picture.first_packet { 0x10 } else { 0 };
    // X and S; I, L and T; M with 15 bits of picture id; TL0PICIDX; TID 0 with Y clear.
    let descriptor = [0x80 | start, 0xe0, 0x80 | id_high, id_low, picture.tl0_pic_idx, 0];
    let mut frame = [0xff; FRAME_HEADER_LEN];
    if picture.first_packet {
        // Frame tag: the length of the first partition, show_frame, version 0, and 0 for a key frame (RFC 6386 §9.1).
        let tag = (picture.frame_len & 0x7ffff) << 5 | 1 << 4 | u32::from(!picture.key_frame);
        frame[..3].copy_from_slice(&tag.to_le_bytes()[..3]);
        if picture.key_frame {
            frame[3..6].copy_from_slice(&[0x9d, 0x01, 0x2a]);
            frame[6..8].copy_from_slice(&1280u16.to_le_bytes());
            frame[8..].copy_from_slice(&720u16.to_le_bytes());
        }
    }
    payload[..DESCRIPTOR_LEN].copy_from_slice(&descriptor);
    payload[DESCRIPTOR_LEN..DESCRIPTOR_LEN + FRAME_HEADER_LEN].copy_from_slice(&frame);
    write_body(&mut payload[DESCRIPTOR_LEN + FRAME_HEADER_LEN..], Kind::Video, number);
}

/// As [`write_video`]: a stereo frame of 20 ms in CELT mode, by its TOC.
pub fn write_audio(payload: &mut [u8], number: u64) {
    payload[..AUDIO_HEADER_LEN].fill(0);
    payload[0] = 31 << 3 | 1 << 2;
    write_body(&mut payload[AUDIO_HEADER_LEN..], Kind::Audio, number);
}

fn write_body(body: &mut [u8], kind: Kind, number: u64) {
    let (stamp, fill) = body.split_at_mut(STAMP_LEN);
    stamp[..4].copy_from_slice(&MAGIC.to_be_bytes());
    stamp[4..12].copy_from_slice(&number.to_be_bytes());
    stamp[12..].fill(0);
    for (pattern, chunk) in pattern(kind, number).zip(fill.chunks_mut(8)) {
        chunk.copy_from_slice(&pattern[..chunk.len()]);
    }
}

/// Writes the time into a payload, as late as possible.
pub fn set_sent(payload: &mut [u8], kind: Kind, sent: u64) {
    let at = match kind {
        Kind::Audio => AUDIO_HEADER_LEN,
        Kind::Video => DESCRIPTOR_LEN + FRAME_HEADER_LEN,
    };
    payload[at + 12..at + STAMP_LEN].copy_from_slice(&sent.to_be_bytes());
}

/// Reads a decrypted payload; `None` if it is not as it was written. A server may rewrite the descriptor.
pub fn read(payload: &[u8], kind: Kind) -> Option<(Stamp, Option<vp8::Descriptor>)> {
    let (header, descriptor) = match kind {
        Kind::Audio => (AUDIO_HEADER_LEN, None),
        Kind::Video => {
            let descriptor = vp8::parse(payload).ok()?;
            (descriptor.len + FRAME_HEADER_LEN, Some(descriptor))
        }
    };
    let (stamp, fill) = payload.get(header..)?.split_at_checked(STAMP_LEN)?;
    let word = |at: usize| Some(u64::from_be_bytes(*stamp.get(at..)?.first_chunk()?));
    if *stamp.first_chunk()? != MAGIC.to_be_bytes() {
        return None;
    }
    let stamp = Stamp { number: word(4)?, sent: word(12)? };
    let whole = pattern(kind, stamp.number).zip(fill.chunks(8)).all(|(pattern, chunk)| pattern[..chunk.len()] == *chunk);
    whole.then_some((stamp, descriptor))
}

fn pattern(kind: Kind, number: u64) -> impl Iterator<Item = [u8; 8]> {
    let seed = number.wrapping_add(1 + kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0u64..).map(move |index| seed.rotate_left(index as u32 & 63).wrapping_add(index).to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_read_back_and_damage_is_seen() {
        let picture = Picture { id: 0x7fff, tl0_pic_idx: 9, key_frame: true, first_packet: true, frame_len: 5000 };
        for (kind, len) in [(Kind::Audio, 120), (Kind::Video, 1163), (Kind::Video, PAYLOAD_MIN)] {
            let mut payload = vec![0; len];
            match kind {
                Kind::Audio => write_audio(&mut payload, 77),
                Kind::Video => write_video(&mut payload, &picture, 77),
            }
            set_sent(&mut payload, kind, 123_456);
            let (stamp, descriptor) = read(&payload, kind).expect("whole");
            assert_eq!(stamp, Stamp { number: 77, sent: 123_456 });
            if let Some(descriptor) = descriptor {
                assert!(descriptor.key_frame);
                assert_eq!((descriptor.len, descriptor.resolution), (DESCRIPTOR_LEN, Some((1280, 720))));
                assert_eq!(descriptor.picture.tl0_pic_idx.map(|(_, index)| index), Some(9));
            }
            if len > PAYLOAD_MIN {
                *payload.last_mut().expect("a byte") ^= 1;
                assert_eq!(read(&payload, kind), None);
            }
        }
        let mut payload = vec![0; 200];
        write_video(&mut payload, &Picture { key_frame: false, ..picture }, 0);
        assert!(!vp8::parse(&payload).expect("valid").key_frame);
        write_video(&mut payload, &Picture { first_packet: false, ..picture }, 0);
        assert!(!vp8::parse(&payload).expect("valid").start_of_partition);
    }
}
