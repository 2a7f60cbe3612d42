//! Pictures and sounds that carry their own proof: who made them, which one it is, and bytes that follow from both.
//!
//! To the server and to the codec-aware parts of the clients a picture is a VP8 frame: it begins with a frame tag (RFC 6386
//! §9.1) that says whether it is a key frame.

use super::random::{Random, mix};

/// What a received frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub publisher: u32,
    pub counter: u64,
    pub key: bool,
    /// Of a picture: its size, in quarters of the usual one.
    pub quarters: u8,
}

/// Largest that a picture is taken for.
const QUARTERS_MAX: u8 = 64;
const START_CODE: [u8; 3] = [0x9d, 0x01, 0x2a];

/// The VP8 frame of a number. Key frames are about ten times larger than the others, as real ones are.
///
/// `quarters`: its size, 4 for the usual one of 440 kb/s at 30 pictures a second; it is written into the frame tag too.
pub fn video(publisher: u32, counter: u64, key: bool, quarters: u8) -> Vec<u8> {
    let mut random = content(publisher, counter);
    let size = quarters as usize * if key { 14_000 + random.below(4_000) } else { 900 + random.below(1_800) } / 4;
    let mut frame = vec![if key { 0x10 } else { 0x11 }, quarters, 0];
    if key {
        frame.extend_from_slice(&START_CODE);
        let (width, height) = resolution(quarters);
        frame.extend_from_slice(&width.to_le_bytes());
        frame.extend_from_slice(&height.to_le_bytes());
    }
    write(&mut frame, publisher, counter, size, &mut random);
    frame
}

/// What a picture of a size says of its width and height in pixels.
pub fn resolution(quarters: u8) -> (u16, u16) {
    match quarters {
        0..=2 => (320, 180),
        3..=8 => (640, 360),
        _ => (1280, 720),
    }
}

/// Reads a frame back. None if a single bit of it is wrong.
pub fn read_video(bytes: &[u8]) -> Option<Frame> {
    let key = bytes.first()? & 1 == 0;
    let (publisher, counter) = identity(bytes.get(if key { 10 } else { 3 }..)?)?;
    let quarters = *bytes.get(1)?;
    let made = || video(publisher, counter, key, quarters);
    (quarters <= QUARTERS_MAX && made() == bytes).then_some(Frame { publisher, counter, key, quarters })
}

/// An Opus packet to all who do not decode it.
pub fn audio(publisher: u32, counter: u64) -> Vec<u8> {
    let mut random = content(publisher, counter ^ 0xa0d1_0000_0000_0000);
    let size = 60 + random.below(60);
    // TOC: CELT, fullband, 20 ms, mono, one frame (RFC 6716 §3.1).
    let mut packet = vec![0xf8];
    write(&mut packet, publisher, counter, size, &mut random);
    packet
}

pub fn read_audio(bytes: &[u8]) -> Option<Frame> {
    let (publisher, counter) = identity(bytes.get(1..)?)?;
    (audio(publisher, counter) == bytes).then_some(Frame { publisher, counter, key: false, quarters: 0 })
}

fn content(publisher: u32, counter: u64) -> Random {
    Random::new(mix(publisher as u64) ^ counter)
}

fn write(into: &mut Vec<u8>, publisher: u32, counter: u64, size: usize, random: &mut Random) {
    into.extend_from_slice(&publisher.to_be_bytes());
    into.extend_from_slice(&counter.to_be_bytes());
    let start = into.len();
    into.resize(start + size, 0);
    random.fill(&mut into[start..]);
}

fn identity(bytes: &[u8]) -> Option<(u32, u64)> {
    let publisher = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let counter = u64::from_be_bytes(bytes.get(4..12)?.try_into().ok()?);
    Some((publisher, counter))
}
