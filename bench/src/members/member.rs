//! One member's media, without I/O: what it sends, and what comes of everybody else's. `pump` owns the sockets.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use distributary::units::{SequenceNumber, Ssrc};
use distributary::wire::rtcp::{self, Feedback, ReportBlock};
use distributary::wire::rtp::{self, Header};

use super::{MediaState, Options};
use crate::histogram::Histogram;
use crate::media::{self, Kind, Picture};
use crate::publisher::{AUDIO_INTERVAL, AUDIO_PAYLOAD, Elements, Extensions, PACKET_MAX, REPORT_INTERVAL, SPACE, Stream};
use crate::sdp::{self, Answer};
use crate::tally::{Arrival, Tally};
use crate::transport::{self, Event, Transport};

const FRAME_INTERVAL: u64 = 1_000_000_000 / 15;
/// Between two packets of a silent microphone (Opus with DTX), in intervals of one that is not.
const SILENT_INTERVALS: u64 = 20;
/// A key frame is so many times as large as others.
const KEY_FRAME_FACTOR: u64 = 4;
/// Report blocks in one RTCP packet (RFC 3550 §6.4.2).
const BLOCKS_MAX: usize = 31;
/// Of a payload's number: the lower bits count packets, the upper ones say whose they are.
const COUNT_BITS: u32 = 40;

/// A stream that is sent.
pub struct Outgoing {
    kind: Kind,
    stream: Stream,
    due: u64,
    /// Intervals so far.
    turns: u64,
}

impl Outgoing {
    pub fn new(kind: Kind, ssrc: u32) -> Outgoing {
        let payload_type = if kind == Kind::Audio { sdp::OPUS } else { sdp::VP8 };
        Outgoing { kind, stream: Stream::new(ssrc, payload_type), due: u64::MAX, turns: 0 }
    }
}

/// A stream that is received.
#[derive(Default)]
struct Incoming {
    /// Whose it is; more than one, if the server reused the SSRC.
    of: Vec<(u32, Kind)>,
    highest: u64,
    /// Middle of the last sender report's time, and when it came.
    last_report: (u32, u64),
}

/// What a member has been sent.
#[derive(Default)]
pub struct Came {
    pub member: u32,
    /// By member and kind: packets, each counted once, and repeated ones.
    pub tracks: Vec<((u32, Kind), u64, u64)>,
    /// By SSRC: whose packets came under it.
    pub sources: Vec<(u32, Vec<(u32, Kind)>)>,
    pub packets: u64,
    pub bytes: u64,
    pub damaged: u64,
    pub to_socket: Histogram,
    pub profile: Option<&'static str>,
}

pub struct Member {
    pub index: u32,
    pub transport: Transport,
    pub in_sample: bool,
    room: u32,
    members: u32,
    talks: bool,
    video: u64,
    /// The others who talk, and whose first packet is waited for.
    talkers: Vec<bool>,
    extensions: Extensions,
    outgoing: Vec<Outgoing>,
    transport_sequence: u16,
    picture_id: u16,
    key_frame_wanted: bool,
    incoming: HashMap<u32, Incoming>,
    tallies: HashMap<(u32, Kind), Tally>,
    heard: HashSet<(u32, Kind)>,
    ssrc: Ssrc,
    next_report: u64,
    /// RTP packets that came.
    pub packets: u64,
    bytes: u64,
    damaged: u64,
    to_socket: Histogram,
}

impl Member {
    pub fn new(index: u32, options: &Options, answer: &Answer, transport: Transport, outgoing: Vec<Outgoing>) -> Member {
        let first = options.room_of(index) * options.members;
        Member {
            index,
            transport,
            // Not the first of every room.
            in_sample: (index + options.room_of(index)).is_multiple_of(options.sample),
            room: options.room_of(index),
            members: options.members,
            talks: options.talks(index),
            video: options.video,
            talkers: (first..first + options.members).map(|other| options.talks(other)).collect(),
            extensions: Extensions::of(answer),
            outgoing,
            transport_sequence: 0,
            picture_id: 0,
            key_frame_wanted: true,
            incoming: HashMap::new(),
            tallies: HashMap::new(),
            heard: HashSet::new(),
            ssrc: Ssrc(u32::from_ne_bytes(transport::random()).max(1)),
            next_report: u64::MAX,
            packets: 0,
            bytes: 0,
            damaged: 0,
            to_socket: Histogram::default(),
        }
    }

    pub fn due(&self) -> u64 {
        let media = self.outgoing.iter().map(|outgoing| outgoing.due).min().unwrap_or(u64::MAX);
        media.min(self.transport.due()).min(self.next_report)
    }

    pub fn poll(&mut self, now: u64, state: &MediaState, send: &mut dyn FnMut(&[u8])) {
        self.transport.poll(now, send);
        for index in 0..self.outgoing.len() {
            if now >= self.outgoing[index].due {
                self.send_media(index, now, state, send);
            }
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(now, send);
        }
    }

    /// `at_socket`: when it came, by the kernel's clock made monotonic.
    pub fn handle(
        &mut self,
        datagram: &mut [u8],
        now: u64,
        at_socket: Option<u64>,
        state: &MediaState,
        send: &mut dyn FnMut(&[u8]),
    ) {
        match self.transport.handle(datagram, now, send) {
            Event::Handled => {}
            Event::Connected => {
                state.connected.fetch_add(1, Relaxed);
                // Not all at once.
                let phase = |interval| u64::from(u32::from_ne_bytes(transport::random())) % interval;
                for outgoing in &mut self.outgoing {
                    outgoing.due = now + phase(if outgoing.kind == Kind::Audio { AUDIO_INTERVAL } else { FRAME_INTERVAL });
                    outgoing.turns = phase(100);
                }
                self.next_report = now + phase(REPORT_INTERVAL);
            }
            Event::Rtcp => self.handle_rtcp(datagram, now, state),
            Event::Rtp => self.handle_rtp(datagram, at_socket, state),
        }
    }

    fn send_media(&mut self, index: usize, now: u64, state: &MediaState, send: &mut dyn FnMut(&[u8])) {
        let outgoing = &mut self.outgoing[index];
        state.late_max.fetch_max(now - outgoing.due, Relaxed);
        outgoing.turns += 1;
        let (interval, clock) = match outgoing.kind {
            Kind::Audio => (AUDIO_INTERVAL, 960),
            Kind::Video => (FRAME_INTERVAL, 6000),
        };
        let turn = outgoing.turns;
        if !state.pause.load(Relaxed) {
            match outgoing.kind {
                Kind::Audio if self.talks && state.talk.load(Relaxed) => {
                    let level = speech(turn);
                    let since = &state.loud_since[self.index as usize];
                    if level < 60 && since.load(Relaxed) == 0 {
                        since.store(now, Relaxed);
                    }
                    self.send_audio(index, AUDIO_PAYLOAD, level, state, send);
                }
                Kind::Audio if turn.is_multiple_of(SILENT_INTERVALS) => {
                    self.send_audio(index, media::AUDIO_PAYLOAD_MIN, 127, state, send);
                }
                Kind::Audio => {}
                Kind::Video => self.send_frame(index, state, send),
            }
        }
        let outgoing = &mut self.outgoing[index];
        outgoing.due += interval;
        outgoing.stream.timestamp = outgoing.stream.timestamp.add(clock);
    }

    fn send_audio(&mut self, index: usize, len: usize, level: u8, state: &MediaState, send: &mut dyn FnMut(&[u8])) {
        let (mut space, number) = ([0; SPACE], self.number(index));
        let mid = index.to_string();
        let elements = Elements::new(&self.extensions, &mid, &mut self.transport_sequence).at_level(&self.extensions, level);
        let Some(header_len) = self.outgoing[index].write_header(&mut space, false, &elements) else { return };
        let payload = &mut space[header_len..header_len + len];
        media::write_audio(payload, number);
        self.seal(index, &mut space, header_len, len, state, send);
    }

    fn send_frame(&mut self, index: usize, state: &MediaState, send: &mut dyn FnMut(&[u8])) {
        let key_frame = std::mem::take(&mut self.key_frame_wanted);
        let mean = self.video / 8 / 15;
        let frame_len = (if key_frame { KEY_FRAME_FACTOR * mean } else { mean }).max(media::PAYLOAD_MIN as u64);
        self.picture_id = self.picture_id.wrapping_add(1) & 0x7fff;
        let count = frame_len.div_ceil((PACKET_MAX - rtp::FIXED_HEADER_LEN - 24) as u64);
        for part in 0..count {
            let len = (frame_len * (part + 1) / count - frame_len * part / count) as usize;
            let (mut space, number) = ([0; SPACE], self.number(index));
            let mid = index.to_string();
            let elements = Elements::new(&self.extensions, &mid, &mut self.transport_sequence);
            let Some(header_len) = self.outgoing[index].write_header(&mut space, part + 1 == count, &elements) else { return };
            let picture = Picture {
                id: self.picture_id,
                tl0_pic_idx: self.picture_id as u8,
                key_frame,
                first_packet: part == 0,
                frame_len: frame_len as u32,
            };
            media::write_video(&mut space[header_len..header_len + len], &picture, number);
            self.seal(index, &mut space, header_len, len, state, send);
        }
    }

    /// What the next payload of a stream says of itself.
    fn number(&self, index: usize) -> u64 {
        u64::from(self.index + 1) << COUNT_BITS | self.outgoing[index].stream.number
    }

    fn seal(
        &mut self,
        index: usize,
        space: &mut [u8],
        header_len: usize,
        len: usize,
        state: &MediaState,
        send: &mut dyn FnMut(&[u8]),
    ) {
        let Outgoing { kind, stream, .. } = &mut self.outgoing[index];
        media::set_sent(&mut space[header_len..header_len + len], *kind, crate::sys::monotonic_ns());
        let packet = stream.index;
        stream.index += 1;
        stream.number += 1;
        stream.packets += 1;
        stream.octets = stream.octets.wrapping_add(len as u32);
        state.next[self.index as usize][*kind as usize].store(stream.number, Relaxed);
        let Some(keys) = self.transport.keys() else { return };
        if let Some(len) = keys.outbound.protect_rtp(space, header_len, header_len + len, packet) {
            send(&space[..len]);
        }
    }

    fn handle_rtp(&mut self, packet: &mut [u8], at_socket: Option<u64>, state: &MediaState) {
        self.packets += 1;
        self.bytes += packet.len() as u64;
        let Ok(header) = Header::parse(packet) else {
            self.damaged += 1;
            return;
        };
        let (header_len, ssrc, kind) = (header.header_len, header.ssrc.0, kind_of(header.payload_type.0));
        let Some(keys) = self.transport.keys() else { return };
        let Ok((len, extended)) = keys.inbound.unprotect_rtp(packet, header_len) else {
            self.damaged += 1;
            return;
        };
        // Retransmissions, and padding of probes: nothing here is asked for again.
        let Some(kind) = kind else { return };
        let payload = Header::parse(&packet[..len]).ok().and_then(|header| header.payload_range(&packet[..len]));
        let Some((stamp, _)) = payload.and_then(|range| media::read(&packet[range], kind)) else {
            self.damaged += 1;
            return;
        };
        let publisher = (stamp.number >> COUNT_BITS) as u32 - 1;
        let of = (publisher, kind);
        let incoming = self.incoming.entry(ssrc).or_default();
        incoming.highest = incoming.highest.max(extended);
        if !incoming.of.contains(&of) {
            incoming.of.push(of);
        }
        let arrival = self.tallies.entry(of).or_default().arrived(stamp.number as u16);
        if let (Some(at), true, true) = (at_socket, self.in_sample, arrival != Arrival::Duplicate) {
            self.to_socket.record(at.saturating_sub(stamp.sent));
        }
        if self.is_wanted(of) && state.talk.load(Relaxed) && self.heard.insert(of) {
            state.heard.fetch_add(1, Relaxed);
        }
    }

    /// Whether a track is one that everybody else in the room is to be sent.
    fn is_wanted(&self, (publisher, kind): (u32, Kind)) -> bool {
        let place = publisher.checked_sub(self.room * self.members).map(|place| place as usize);
        let talks = place.and_then(|place| self.talkers.get(place)).copied();
        publisher != self.index && talks.is_some_and(|talks| talks || kind == Kind::Video)
    }

    fn handle_rtcp(&mut self, packet: &mut [u8], now: u64, state: &MediaState) {
        let Some(keys) = self.transport.keys() else { return };
        let Ok(len) = keys.inbound.unprotect_rtcp(packet) else {
            self.damaged += 1;
            return;
        };
        let Ok(packets) = rtcp::packets(&packet[..len]) else { return };
        for packet in packets.flatten() {
            match packet {
                Feedback::SenderReport(report) => {
                    if let Some(incoming) = self.incoming.get_mut(&report.ssrc.0) {
                        incoming.last_report = ((report.ntp >> 16) as u32, now);
                    }
                }
                Feedback::Pli(_) | Feedback::Fir(_) => {
                    self.key_frame_wanted = true;
                    state.key_frame_requests.fetch_add(1, Relaxed);
                }
                _ => {}
            }
        }
    }

    /// Sender reports of what is sent, and a receiver report of what is received. It tells no loss: that would be acted on, and is to be
    /// measured.
    fn report(&mut self, now: u64, send: &mut dyn FnMut(&[u8])) {
        let mut space = [0; 1500];
        for outgoing in &self.outgoing {
            let len = outgoing.stream.write_report(&mut space, now);
            send_rtcp(&mut self.transport, &mut space, len, send);
        }
        let block = |(ssrc, incoming): (&u32, &Incoming)| ReportBlock {
            ssrc: Ssrc(*ssrc),
            fraction_lost: 0,
            cumulative_lost: 0,
            extended_highest: incoming.highest as u32,
            jitter: 0,
            last_sr: incoming.last_report.0,
            delay_since_last_sr: match incoming.last_report {
                (0, _) => 0,
                (_, at) => ((u128::from(now - at) << 16) / 1_000_000_000) as u32,
            },
        };
        let blocks: Vec<ReportBlock> = self.incoming.iter().map(block).collect();
        for blocks in blocks.chunks(BLOCKS_MAX) {
            let len = rtcp::write_receiver_report(&mut space, self.ssrc, blocks);
            send_rtcp(&mut self.transport, &mut space, len, send);
        }
    }

    /// From now on what comes counts. Nothing is on its way.
    pub fn restart(&mut self) {
        self.tallies.clear();
        (self.packets, self.bytes, self.damaged, self.to_socket) = (0, 0, 0, Histogram::default());
    }

    pub fn finish(&self) -> Came {
        Came {
            member: self.index,
            tracks: self.tallies.iter().map(|(of, tally)| (*of, tally.received, tally.duplicates + tally.ancient)).collect(),
            sources: self.incoming.iter().map(|(ssrc, incoming)| (*ssrc, incoming.of.clone())).collect(),
            packets: self.packets,
            bytes: self.bytes,
            damaged: self.damaged,
            to_socket: self.to_socket.clone(),
            profile: self.transport.profile().map(|profile| profile.name()),
        }
    }
}

impl Outgoing {
    fn write_header(&self, space: &mut [u8], marker: bool, elements: &Elements) -> Option<usize> {
        let Stream { ssrc, payload_type, index, timestamp, .. } = self.stream;
        rtp::write_header(space, marker, payload_type, SequenceNumber(index as u16), timestamp, ssrc, elements.iter())
    }
}

fn send_rtcp(transport: &mut Transport, space: &mut [u8], len: Option<usize>, send: &mut dyn FnMut(&[u8])) {
    let (Some(len), Some(keys)) = (len, transport.keys()) else { return };
    if let Some(len) = keys.outbound.protect_rtcp(space, len) {
        send(&space[..len]);
    }
}

fn kind_of(payload_type: u8) -> Option<Kind> {
    match payload_type {
        sdp::OPUS => Some(Kind::Audio),
        sdp::VP8 => Some(Kind::Video),
        _ => None,
    }
}

/// The level of the packet of a 20-ms interval of speech, in dB below full scale: syllables of 160 ms with gaps of 80.
fn speech(turn: u64) -> u8 {
    if turn % 12 < 8 { 25 } else { 68 }
}
