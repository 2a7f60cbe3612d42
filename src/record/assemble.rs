//! Packets of one stream, put in order again, and the frames that they make up.
//!
//! A packet that is missing is waited for, [`PATIENCE`] at most: that is as long as retransmissions take. After that it is a gap. What
//! a gap tore is dropped, and of video everything up to the next key frame, for what refers to a lost picture shows rubbish. (A lost
//! picture that nothing refers to costs as much; telling them apart needs what was lost.) A gap between two pictures that carry
//! consecutive numbers is none: those were packets of padding, or for error correction.

use std::collections::BTreeMap;

use super::depacketize::depacketize;
use crate::limits::{FRAME_BYTES_MAX, REORDER_PACKETS};
use crate::rtp::config::{Codec, MediaKind};
use crate::rtp::media::Media;
use crate::units::{Micros, RtpTime};

/// How long a missing packet is waited for.
pub const PATIENCE: Micros = Micros::from_millis(500);

/// What is kept of a packet. The bytes are a copy, so that the worker has its slot back.
#[derive(Clone, Debug)]
pub struct Packet {
    pub sequence: u64,
    pub timestamp: RtpTime,
    pub arrival: Micros,
    pub marker: bool,
    pub start_of_frame: bool,
    pub key_frame: bool,
    /// Number of the picture, and the bits it has.
    pub picture: Option<(u16, u16)>,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn of(media: &Media) -> Packet {
        let picture = match (&media.dependency, media.picture.picture_id) {
            (Some(dependency), _) => Some((dependency.layout.frame_number, u16::MAX)),
            (None, Some((_, wide, id))) => Some((id, if wide { 0x7fff } else { 0x7f })),
            (None, None) => None,
        };
        Packet {
            sequence: media.sequence.0,
            timestamp: media.timestamp,
            arrival: media.arrival,
            marker: media.marker,
            start_of_frame: media.layer.start_of_frame,
            key_frame: media.key_frame,
            picture,
            payload: media.payload().into(),
        }
    }
}

/// A whole frame of video, or a packet of sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub timestamp: RtpTime,
    /// Of its first packet.
    pub arrival: Micros,
    pub key: bool,
    /// As the container wants it.
    pub data: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assembled {
    Frame(Frame),
    /// So many packets never came.
    Gap {
        packets: u64,
    },
    /// A frame's packets make no sense.
    Malformed,
    /// A frame that cannot be decoded was left out: a key frame is needed.
    Undecodable,
}

/// One stream.
pub struct Assembler {
    codec: Codec,
    waiting: BTreeMap<u64, Packet>,
    next: Option<u64>,
    /// The frame being put together.
    parts: Vec<Packet>,
    bytes: usize,
    /// The last frame's number.
    picture: Option<(u16, u16)>,
    awaits_key: bool,
}

impl Assembler {
    pub fn new(codec: Codec) -> Assembler {
        let awaits_key = codec.kind() == MediaKind::Video;
        Assembler { codec, waiting: BTreeMap::new(), next: None, parts: Vec::new(), bytes: 0, picture: None, awaits_key }
    }

    /// Adds a packet; `out` is given what follows from it.
    pub fn push(&mut self, packet: Packet, out: &mut impl FnMut(Assembled)) {
        // Numbers that begin anew somewhere else: another life of the stream.
        if self.next.is_some_and(|next| packet.sequence.abs_diff(next) > 30_000) {
            self.skip(out);
            self.next = None;
        }
        let next = *self.next.get_or_insert(packet.sequence);
        if packet.sequence < next {
            return;
        }
        self.waiting.insert(packet.sequence, packet);
        self.advance(out);
        while self.waiting.len() > REORDER_PACKETS {
            self.skip(out);
        }
    }

    /// Gives up what has been waited for for too long.
    pub fn expire(&mut self, now: Micros, out: &mut impl FnMut(Assembled)) {
        while self.waiting.values().next().is_some_and(|packet| now.since(packet.arrival) > PATIENCE.0) {
            self.skip(out);
        }
    }

    /// Nothing comes any more.
    pub fn finish(&mut self, out: &mut impl FnMut(Assembled)) {
        while !self.waiting.is_empty() {
            self.skip(out);
        }
    }

    /// Goes on behind the gap.
    fn skip(&mut self, out: &mut impl FnMut(Assembled)) {
        let Some((&first, packet)) = self.waiting.first_key_value() else { return };
        let lost = first - self.next.unwrap_or(first);
        let follows = match (self.picture, packet.picture) {
            (Some((before, mask)), Some((number, _))) => before.wrapping_add(1) & mask == number & mask,
            _ => false,
        };
        let is_video = self.codec.kind() == MediaKind::Video;
        if !(is_video && self.parts.is_empty() && packet.start_of_frame && follows) {
            self.clear();
            self.awaits_key |= is_video;
            out(Assembled::Gap { packets: lost });
        }
        self.next = Some(first);
        self.advance(out);
    }

    fn advance(&mut self, out: &mut impl FnMut(Assembled)) {
        while let Some(next) = self.next
            && let Some(packet) = self.waiting.remove(&next)
        {
            self.next = Some(next + 1);
            self.take(packet, out);
        }
    }

    /// The next packet in order.
    fn take(&mut self, packet: Packet, out: &mut impl FnMut(Assembled)) {
        if self.codec.kind() == MediaKind::Audio {
            // An empty one says that nothing is to be heard.
            if !packet.payload.is_empty() {
                out(Assembled::Frame(Frame {
                    timestamp: packet.timestamp,
                    arrival: packet.arrival,
                    key: true,
                    data: packet.payload,
                }));
            }
            return;
        }
        // A packet of padding, or in the place of one for error correction.
        if packet.payload.is_empty() && !packet.marker {
            return;
        }
        if self.parts.first().is_some_and(|first| first.timestamp != packet.timestamp) {
            // Its last packet had no marker, but nothing is missing.
            self.end_frame(out);
        }
        self.bytes += packet.payload.len();
        if self.bytes > FRAME_BYTES_MAX {
            self.clear();
            self.awaits_key = true;
            return out(Assembled::Malformed);
        }
        let marker = packet.marker;
        self.parts.push(packet);
        if marker {
            self.end_frame(out);
        }
    }

    fn end_frame(&mut self, out: &mut impl FnMut(Assembled)) {
        let Some(first) = self.parts.first() else { return };
        let (timestamp, arrival) = (first.timestamp, first.arrival);
        // Only the first packet of a picture says that it is a key frame, so the picture's beginning is there.
        let key = self.parts.iter().any(|packet| packet.key_frame);
        self.picture = self.parts.last().and_then(|packet| packet.picture);
        if self.awaits_key && !key {
            self.clear();
            return out(Assembled::Undecodable);
        }
        let payloads = self.parts.iter().map(|packet| packet.payload.as_slice());
        let data = depacketize(self.codec, payloads);
        self.clear();
        match data {
            Some(data) => {
                self.awaits_key = false;
                out(Assembled::Frame(Frame { timestamp, arrival, key, data }));
            }
            None => {
                self.awaits_key = true;
                out(Assembled::Malformed);
            }
        }
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u64, frame: u16, start: bool, marker: bool, key: bool) -> Packet {
        // A VP8 descriptor of one byte, S set at the start.
        let payload = vec![if start { 0x10 } else { 0 }, if key { 0 } else { 1 }, sequence as u8];
        Packet {
            sequence,
            timestamp: RtpTime(frame as u32 * 3_000),
            arrival: Micros::from_millis(sequence * 10),
            marker,
            start_of_frame: start,
            key_frame: key,
            picture: Some((frame, 0x7fff)),
            payload,
        }
    }

    /// Frames by their times, gaps by their sizes, below zero.
    fn run(assembler: &mut Assembler, packets: &[Packet], until: u64) -> Vec<i64> {
        let mut came = Vec::new();
        let mut out = |assembled| match assembled {
            Assembled::Frame(frame) => came.push((frame.timestamp.0 / 3_000) as i64),
            Assembled::Gap { packets } => came.push(-(packets as i64)),
            Assembled::Malformed => came.push(1_000),
            Assembled::Undecodable => came.push(2_000),
        };
        for packet in packets {
            assembler.push(packet.clone(), &mut out);
        }
        assembler.expire(Micros::from_millis(until), &mut out);
        came
    }

    #[test]
    fn late_packets_are_waited_for_and_lost_ones_are_not() {
        let mut assembler = Assembler::new(Codec::Vp8);
        let key = [packet(10, 1, true, false, true), packet(11, 1, false, true, false)];
        assert_eq!(run(&mut assembler, &key, 120), [1]);
        let (late, next) = (packet(12, 2, true, true, false), packet(13, 3, true, true, false));
        assert_eq!(run(&mut assembler, std::slice::from_ref(&next), 140), [0i64; 0]);
        assert_eq!(run(&mut assembler, &[late.clone(), late], 140), [2, 3]);
        // 14 never comes; what refers to it is not shown, and a key frame ends that.
        let after = [packet(15, 5, true, true, false), packet(16, 6, true, true, true), packet(17, 7, true, true, false)];
        assert_eq!(run(&mut assembler, &after, 640), [0i64; 0]);
        assert_eq!(run(&mut assembler, &[], 700), [-1, 2_000, 6, 7]);
    }

    #[test]
    fn padding_between_pictures_is_no_gap() {
        let mut assembler = Assembler::new(Codec::Vp8);
        let packets = [packet(10, 1, true, true, true), packet(13, 2, true, true, false)];
        assert_eq!(run(&mut assembler, &packets, 5_000), [1, 2]);
    }
}
