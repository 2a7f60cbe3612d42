//! What Chromium sends as scalable video, captured by `tests/browser/capture.mjs` into `tests/vectors/layers`.

use crate::units::{RtpTime, SequenceNumber};

macro_rules! captures {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub const $name: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/layers/", $file, ".txt"));)*
    };
}

captures! {
    AV1_L1T3 = "av1-l1t3",
    AV1_L3T3 = "av1-l3t3",
    AV1_L3T3_KEY = "av1-l3t3_key",
    AV1_L2T2_KEY_SHIFT = "av1-l2t2_key_shift",
    VP9_L3T3 = "vp9-l3t3",
    VP9_L3T3_KEY = "vp9-l3t3_key",
    VP9_L2T2_KEY_SHIFT = "vp9-l2t2_key_shift",
    VP9_L3T3_PLAIN = "vp9-l3t3-plain",
    VP8_L1T3 = "vp8-l1t3",
    VP8_L1T3_PLAIN = "vp8-l1t3-plain",
    H264_L1T2 = "h264-l1t2",
}

/// One captured packet.
#[derive(Clone, Debug)]
pub struct Captured {
    pub sequence_number: SequenceNumber,
    pub timestamp: RtpTime,
    pub marker: bool,
    /// The dependency descriptor; empty if the packet has none.
    pub descriptor: Vec<u8>,
    /// As long as it was, but zeros after its first 32 bytes.
    pub payload: Vec<u8>,
}

/// The packets of a capture, in the order in which they were sent. There is a gap before the second run.
pub fn packets(capture: &str) -> Vec<Captured> {
    let lines = capture.lines().filter(|line| !line.starts_with('#'));
    let packets: Vec<Captured> = lines.map(packet).collect();
    assert!(packets.len() > 230, "a capture has two runs of up to 150 packets");
    packets
}

fn packet(line: &str) -> Captured {
    let fields: Vec<&str> = line.split(' ').collect();
    let [sequence_number, timestamp, marker, descriptor, len, head] = fields[..] else { panic!("{line}") };
    let mut payload = bytes(head);
    payload.resize(len.parse().expect("a length"), 0);
    Captured {
        sequence_number: SequenceNumber(sequence_number.parse().expect("a sequence number")),
        timestamp: RtpTime(timestamp.parse().expect("a timestamp")),
        marker: marker == "1",
        descriptor: if descriptor == "-" { Vec::new() } else { bytes(descriptor) },
        payload,
    }
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}
