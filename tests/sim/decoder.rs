//! What a browser's jitter buffer makes of a VP8 stream: a picture is shown when all of it is there and the one before it was shown; a
//! key frame when all of it is there, whatever is missing before it.

use std::collections::BTreeMap;

/// A pause of more than this is worth noting.
const PAUSE_MICROS: u64 = 200_000;
/// Packets kept while something before them is missing.
const PACKETS_MAX: usize = 4096;

#[derive(Clone, Copy)]
struct Packet {
    timestamp: u32,
    /// First packet of a picture: whether of a key frame, and its second byte, which tells the picture's size (`picture::video`).
    starts: Option<(bool, u8)>,
    ends: bool,
}

#[derive(Default)]
pub struct Decoder {
    packets: BTreeMap<u64, Packet>,
    newest: u64,
    /// The last packet of the picture that was shown last.
    shown: Option<u64>,
    shown_at: u64,
    /// How long a picture waits for those before it, in microseconds: a browser's buffer adds the round trip where it sees repairs.
    pub delay: u64,
    /// The last timestamp without its wraps, and the shortest way of a picture, in microseconds of two clocks.
    time: u64,
    way: Option<i64>,
    pub pictures: u64,
    /// Pauses before a picture: when they began, and how long they were, in microseconds.
    pub pauses: Vec<(u64, u64)>,
    /// Sizes of the pictures shown, and since when.
    pub sizes: Vec<(u64, u8)>,
}

impl Decoder {
    /// Takes a packet: its RTP sequence number, timestamp and marker bit, and its payload.
    pub fn packet(&mut self, sequence: u16, timestamp: u32, ends: bool, payload: &[u8], now: u64) {
        if payload.is_empty() {
            return;
        }
        if self.newest == 0 {
            self.newest = 65_536 + sequence as u64;
        }
        let ahead = sequence.wrapping_sub(self.newest as u16) as i16;
        let sequence = self.newest.saturating_add_signed(ahead as i64);
        self.newest = self.newest.max(sequence);
        if self.shown.is_some_and(|shown| sequence <= shown) {
            return;
        }
        self.packets.insert(sequence, Packet { timestamp, starts: starts(payload), ends });
        if self.packets.len() > PACKETS_MAX {
            self.packets.pop_first();
        }
        while let Some((size, last)) = self.next() {
            let timestamp = self.packets.get(&last).map_or(0, |packet| packet.timestamp);
            if self.way.is_none() {
                self.time = 1 << 40 | timestamp as u64;
            }
            let ahead = timestamp.wrapping_sub(self.time as u32) as i32;
            self.time = self.time.saturating_add_signed(ahead as i64);
            let made = (self.time * 100 / 9) as i64;
            let way = self.way.map_or(now as i64 - made, |way| way.min(now as i64 - made));
            self.way = Some(way);
            let now = self.shown_at.max(now).max((made + way) as u64 + self.delay);
            let pause = now - std::mem::replace(&mut self.shown_at, now);
            if pause > PAUSE_MICROS && self.pictures > 0 {
                self.pauses.push((now - pause, pause));
            }
            self.pictures += 1;
            self.shown = Some(last);
            self.packets = self.packets.split_off(&(last + 1));
            if self.sizes.last().is_none_or(|(_, shown)| *shown != size) {
                self.sizes.push((now, size));
            }
        }
    }

    /// The size of the next picture to show, and its last packet.
    fn next(&self) -> Option<(u8, u64)> {
        self.packets.iter().find_map(|(first, packet)| {
            let (is_key_frame, size) = packet.starts?;
            let follows = self.shown.is_some_and(|shown| *first == shown + 1);
            if !is_key_frame && !follows {
                return None;
            }
            let rest = (*first..).map_while(|sequence| Some((sequence, self.packets.get(&sequence)?)));
            let mut of_picture = rest.take_while(|(_, other)| other.timestamp == packet.timestamp);
            of_picture.find(|(_, other)| other.ends).map(|(last, _)| (size, last))
        })
    }
}

/// Whether a payload begins a key frame, and the picture's second byte, if it begins one: RFC 7741 §4.2, RFC 6386 §9.1.
fn starts(payload: &[u8]) -> Option<(bool, u8)> {
    let first = *payload.first()?;
    if first & 0x17 != 0x10 {
        return None;
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        let flags = *payload.get(1)?;
        at = 2;
        if flags & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += (flags & 0x40 != 0) as usize + (flags & 0x30 != 0) as usize;
    }
    Some((payload.get(at)? & 1 == 0, *payload.get(at + 1)?))
}
