//! From a datagram of RTP to a packet of a track: decrypt in place, find its stream, undo retransmission, keep the statistics.
//!
//! SSRCs are learnt late, from the first authenticated packet: what the SDP announced, else the MID (and RID) extension
//! (RFC 8843 §9.2, RFC 8852), else the only m-line that has the payload type.

use arrayvec::ArrayVec;

use super::Peer;
use crate::limits::{KEY_FRAME_REQUEST_MILLIS_MIN, STREAMS_PER_PEER};
use crate::mem::{PacketMut, SendBatch};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::rtp::config::{Codec, CodecConfig, Direction, MediaConfig, MediaKind};
use crate::rtp::media::{ExtensionRange, Media};
use crate::rtp::nack::Missing;
use crate::rtp::reception::{Arrival, Reception};
use crate::rtp::report::{SenderClock, compact};
use crate::rtp::transport_cc::Arrivals;
use crate::units::{Micros, SequenceNumber, Ssrc, TrackId};
use crate::wire::extension::ExtensionKind;
use crate::wire::picture::PictureIds;
use crate::wire::{av1, h264, rtcp, rtp, twcc, vp8, vp9};

/// Time between two receiver reports.
const REPORT_INTERVAL: Micros = Micros::from_secs(1);

/// What an SSRC carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Media,
    /// Retransmissions of the stream at this index.
    Retransmission {
        of: u8,
    },
}

/// One received SSRC.
struct Stream {
    ssrc: Ssrc,
    /// Index of its m-line.
    media: u8,
    role: Role,
    /// Simulcast layer: index of its rid or of its announced SSRC.
    layer: u8,
    reception: Reception,
    missing: Missing,
    key_frame_wanted: bool,
    key_frame_requested: Option<Micros>,
    clock: Option<SenderClock>,
    bytes_at_choice: u64,
}

/// One m-line the client sends on.
struct Line {
    config: MediaConfig,
    track: TrackId,
    /// The stream that is forwarded, of several simulcast layers.
    active: Option<u8>,
    /// The stream that will be, from its next key frame on.
    target: Option<u8>,
}

impl Line {
    fn codec(&self) -> Option<&CodecConfig> {
        self.config.codecs.first()
    }
}

/// The publishing half of a session.
pub struct Inbound {
    lines: Vec<Line>,
    streams: ArrayVec<Stream, STREAMS_PER_PEER>,
    arrivals: Arrivals,
    next_report: Micros,
    pub stats: InboundStats,
}

/// Counters of what a session publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundStats {
    pub packets: u64,
    pub octets: u64,
    pub recovered: u64,
    pub nacks: u64,
    pub key_frame_requests: u64,
    pub lost: u64,
}

impl Inbound {
    pub(super) fn new(media: &[MediaConfig], tracks: &[TrackId]) -> Self {
        let sent = media.iter().filter(|media| media.direction == Direction::RecvOnly);
        let lines =
            sent.zip(tracks).map(|(config, track)| Line { config: config.clone(), track: *track, active: None, target: None });
        Inbound {
            lines: lines.collect(),
            streams: ArrayVec::new(),
            arrivals: Arrivals::default(),
            next_report: Micros::ZERO,
            stats: InboundStats::default(),
        }
    }

    pub fn tracks(&self) -> impl Iterator<Item = TrackId> + '_ {
        self.lines.iter().map(|line| line.track)
    }

    /// The last sender report of the stream that is being forwarded.
    pub fn clock(&self, track: TrackId) -> Option<SenderClock> {
        let line = self.lines.iter().find(|line| line.track == track)?;
        self.streams.get(line.active? as usize)?.clock
    }

    /// Somebody needs a key frame of this track.
    pub fn want_key_frame(&mut self, track: TrackId) {
        let Some(line) = self.lines.iter().find(|line| line.track == track && line.config.kind == MediaKind::Video) else { return };
        for index in [line.active, line.target].into_iter().flatten() {
            if let Some(stream) = self.streams.get_mut(index as usize) {
                stream.key_frame_wanted = true;
            }
        }
    }

    /// Notes a sender report. Returns the track whose forwarded stream it is about.
    pub(super) fn sender_report(
        &mut self,
        ssrc: Ssrc,
        ntp: u64,
        rtp: crate::units::RtpTime,
        now: Micros,
    ) -> Option<(TrackId, SenderClock)> {
        let index = self.streams.iter().position(|stream| stream.ssrc == ssrc)?;
        let stream = &mut self.streams[index];
        let clock = SenderClock { stream: index as u8, ntp, rtp, at: now };
        stream.clock = Some(clock);
        let line = self.lines.get(stream.media as usize)?;
        (line.active == Some(index as u8)).then_some((line.track, clock))
    }

    /// Finds or makes the stream of an SSRC whose packet was authenticated.
    fn stream_of(&mut self, header: &rtp::Header<'_>) -> Result<usize, DropReason> {
        if let Some(index) = self.streams.iter().position(|stream| stream.ssrc == header.ssrc) {
            return Ok(index);
        }
        let (media, role, layer) = self.resolve(header)?;
        let clock_rate = self.lines[media].codec().map_or(90_000, |codec| codec.clock_rate);
        let stream = Stream {
            ssrc: header.ssrc,
            media: media as u8,
            role,
            layer,
            reception: Reception::new(clock_rate),
            missing: Missing::default(),
            key_frame_wanted: false,
            key_frame_requested: None,
            clock: None,
            bytes_at_choice: 0,
        };
        self.streams.try_push(stream).map_err(|_| DropReason::SsrcLimit)?;
        Ok(self.streams.len() - 1)
    }

    /// Which m-line an unknown SSRC belongs to, as what, and which simulcast layer it is.
    fn resolve(&self, header: &rtp::Header<'_>) -> Result<(usize, Role, u8), DropReason> {
        if let Some((index, layer, is_rtx)) = self.announced(header.ssrc) {
            let role = if is_rtx { self.retransmission(index, layer)? } else { Role::Media };
            return Ok((index, role, layer));
        }
        let index = self.line_of(header).ok_or(DropReason::SsrcUnknown)?;
        let line = &self.lines[index];
        let codec = line.codec().ok_or(DropReason::PayloadTypeUnknown)?;
        let (kind, is_rtx) = if header.payload_type == codec.payload_type {
            (ExtensionKind::Rid, false)
        } else if codec.rtx == Some(header.payload_type) {
            (ExtensionKind::RepairedRid, true)
        } else {
            return Err(DropReason::PayloadTypeUnknown);
        };
        let layer = if line.config.rids.is_empty() {
            0
        } else {
            let rid = line.config.extensions.id(kind).and_then(|id| header.extension(id)).ok_or(DropReason::SsrcUnknown)?;
            line.config.rids.iter().position(|known| known.as_bytes() == rid).ok_or(DropReason::SsrcUnknown)? as u8
        };
        let role = if is_rtx { self.retransmission(index, layer)? } else { Role::Media };
        Ok((index, role, layer))
    }

    /// What the SDP said of an SSRC: m-line, layer, and whether it carries retransmissions.
    fn announced(&self, ssrc: Ssrc) -> Option<(usize, u8, bool)> {
        self.lines.iter().enumerate().find_map(|(index, line)| {
            let layer = line.config.remote_streams.iter().position(|pair| pair.media == ssrc || pair.rtx == Some(ssrc))?;
            Some((index, layer as u8, line.config.remote_streams[layer].media != ssrc))
        })
    }

    /// The m-line of a packet by its MID, else by its payload type where that is unambiguous.
    fn line_of(&self, header: &rtp::Header<'_>) -> Option<usize> {
        let by_mid = self.lines.iter().position(|line| {
            let id = line.config.extensions.id(ExtensionKind::Mid);
            id.and_then(|id| header.extension(id)).is_some_and(|mid| mid == line.config.mid.as_bytes())
        });
        by_mid.or_else(|| {
            let takes = |line: &Line| {
                line.codec()
                    .is_some_and(|codec| codec.payload_type == header.payload_type || codec.rtx == Some(header.payload_type))
            };
            let mut candidates = (0..self.lines.len()).filter(|index| takes(&self.lines[*index]));
            candidates.next().filter(|_| candidates.next().is_none())
        })
    }

    /// The stream that retransmissions of a layer repair; it must have been seen first.
    fn retransmission(&self, line: usize, layer: u8) -> Result<Role, DropReason> {
        let original = self
            .streams
            .iter()
            .position(|stream| stream.media as usize == line && stream.layer == layer && stream.role == Role::Media);
        Ok(Role::Retransmission { of: original.ok_or(DropReason::RtxMalformed)? as u8 })
    }

    /// Chooses the stream to forward of an m-line for a packet of `index`; true if this packet is forwarded.
    fn choose(&mut self, index: usize, key_frame: bool) -> bool {
        let line = &mut self.lines[self.streams[index].media as usize];
        if line.target == Some(index as u8) && (key_frame || line.config.kind == MediaKind::Audio) {
            (line.active, line.target) = (line.target, None);
        }
        *line.active.get_or_insert(index as u8) == index as u8
    }

    /// Once a second: of several simulcast layers, the one with the most bytes is forwarded; what a publisher has stopped
    /// sending is left for one that flows.
    fn rechoose(&mut self) {
        for (line_index, line) in self.lines.iter_mut().enumerate() {
            let mut best: Option<(u64, u8)> = None;
            let mut active_bytes = 0;
            for (index, stream) in self.streams.iter_mut().enumerate() {
                if stream.media as usize != line_index || stream.role != Role::Media {
                    continue;
                }
                let bytes = stream.reception.bytes() - stream.bytes_at_choice;
                stream.bytes_at_choice = stream.reception.bytes();
                if line.active == Some(index as u8) {
                    active_bytes = bytes;
                }
                if best.is_none_or(|(most, _)| bytes > most) {
                    best = Some((bytes, index as u8));
                }
            }
            // A quarter more, so that two similar layers do not take turns.
            if let Some((bytes, index)) = best
                && line.active.is_some_and(|active| active != index)
                && bytes > active_bytes + active_bytes / 4
            {
                line.target = Some(index);
                self.streams[index as usize].key_frame_wanted = line.config.kind == MediaKind::Video;
            }
        }
    }

    /// Takes an authenticated, decrypted packet in. None if it is not forwarded (another simulcast layer).
    fn receive(&mut self, mut packet: PacketMut, now: Micros, metrics: &WorkerMetrics) -> Result<Option<Media>, DropReason> {
        let header = rtp::Header::parse(packet.bytes())?;
        let mut index = self.stream_of(&header)?;
        let line = &self.lines[self.streams[index].media as usize];
        let transport_sequence = line.config.extensions.id(ExtensionKind::TransportSequence).and_then(|id| header.extension(id));
        if let Some(&[high, low]) = transport_sequence {
            self.arrivals.record(SequenceNumber(u16::from_be_bytes([high, low])), now);
        }
        let mut retransmitted = false;
        if let Role::Retransmission { of } = self.streams[index].role {
            let payload = header.payload_range(packet.bytes()).ok_or(DropReason::RtxMalformed)?;
            let number = header.sequence_number;
            let codec = *line.codec().ok_or(DropReason::PayloadTypeUnknown)?;
            self.streams[index].reception.receive(number, packet.bytes().len());
            index = of as usize;
            restore_original(&mut packet, payload, self.streams[index].ssrc, &codec)?;
            retransmitted = true;
        }
        let (media, arrival) = self.admit(packet, index, retransmitted, now)?;
        self.stats.packets += 1;
        self.stats.octets += media.payload_len as u64;
        let stream = &mut self.streams[index];
        match arrival {
            Arrival::Next { gap } if gap > 0 => stream.missing.gap(media.sequence, gap, now),
            Arrival::Late => {
                let asked = stream.missing.filled(media.sequence, now);
                if asked || retransmitted {
                    self.stats.recovered += 1;
                    metrics.add(Counter::Recovered, 1);
                }
            }
            _ => {}
        }
        if media.key_frame {
            stream.key_frame_wanted = false;
            stream.missing.forget_before(media.sequence);
        }
        metrics.add(Counter::MediaReceived, 1);
        Ok(self.choose(index, media.key_frame).then_some(media))
    }

    /// Reads a packet of a media stream and counts it in.
    fn admit(&mut self, packet: PacketMut, index: usize, retransmitted: bool, now: Micros) -> Result<(Media, Arrival), DropReason> {
        let stream = &mut self.streams[index];
        let line = &self.lines[stream.media as usize];
        let codec = line.codec().ok_or(DropReason::PayloadTypeUnknown)?;
        let header = rtp::Header::parse(packet.bytes())?;
        if header.payload_type != codec.payload_type {
            return Err(DropReason::PayloadTypeUnknown);
        }
        let payload = header.payload_range(packet.bytes()).ok_or(DropReason::RtpMalformed)?;
        let (key_frame, picture) = match packet.bytes().get(payload.clone()) {
            Some(bytes) if !bytes.is_empty() => describe(codec.codec, bytes)?,
            _ => (false, PictureIds::default()),
        };
        let mut extensions = ArrayVec::new();
        for (id, range) in header.extension_ranges() {
            let Some(kind) = line.config.extensions.kind(id) else { continue };
            if !is_hop_by_hop(kind)
                && extensions.try_push(ExtensionRange { kind, start: range.start as u16, len: range.len() as u8 }).is_err()
            {
                break;
            }
        }
        let (number, timestamp, marker, header_len) =
            (header.sequence_number, header.timestamp, header.marker, header.header_len as u16);
        let (sequence, arrival) = stream.reception.receive(number, packet.bytes().len());
        match arrival {
            Arrival::Duplicate => return Err(DropReason::Duplicate),
            Arrival::TooOld => return Err(DropReason::TooLate),
            _ => {}
        }
        if !retransmitted {
            stream.reception.transit(timestamp, now);
        }
        let media = Media {
            track: line.track,
            packet: packet.freeze(),
            header_len,
            payload_len: payload.len() as u16,
            padding: 0,
            stream: index as u8,
            marker,
            key_frame,
            sequence,
            timestamp,
            arrival: now,
            extensions,
            picture,
        };
        Ok((media, arrival))
    }
}

/// Extensions that mean something between two hops only, and are never passed on.
fn is_hop_by_hop(kind: ExtensionKind) -> bool {
    use ExtensionKind::*;
    matches!(kind, Mid | Rid | RepairedRid | TransportSequence | AbsSendTime | TransmissionOffset)
}

/// Whether a payload begins a picture that needs no earlier one, and its picture ids.
fn describe(codec: Codec, payload: &[u8]) -> Result<(bool, PictureIds), DropReason> {
    match codec {
        Codec::Opus => Ok((false, PictureIds::default())),
        Codec::Vp8 => vp8::parse(payload).map(|descriptor| (descriptor.key_frame, descriptor.picture_ids())),
        Codec::Vp9 => vp9::parse(payload).map(|descriptor| (descriptor.key_frame, descriptor.picture_ids())),
        Codec::H264 => h264::parse(payload).map(|descriptor| (descriptor.key_frame, PictureIds::default())),
        Codec::Av1 => av1::parse(payload).map(|descriptor| (descriptor.key_frame, PictureIds::default())),
    }
}

/// Turns a retransmission back into the packet it repeats (RFC 4588 §4): the original sequence number leaves the payload's front,
/// the header moves up by its two bytes and gets the original's SSRC and payload type.
fn restore_original(
    packet: &mut PacketMut,
    payload: std::ops::Range<usize>,
    ssrc: Ssrc,
    codec: &CodecConfig,
) -> Result<(), DropReason> {
    if payload.len() < 2 {
        // Padding on the RTX stream: a bandwidth probe.
        return Err(DropReason::Padding);
    }
    let bytes = packet.bytes_mut();
    let original = [bytes[payload.start], bytes[payload.start + 1]];
    bytes.copy_within(..payload.start, 2);
    let header = bytes.get_mut(2..14).ok_or(DropReason::RtxMalformed)?;
    header[1] = (header[1] & 0x80) | codec.payload_type.0;
    header[2..4].copy_from_slice(&original);
    header[8..12].copy_from_slice(&ssrc.0.to_be_bytes());
    packet.advance(2);
    Ok(())
}

impl Peer {
    /// Takes a datagram of SRTP in.
    pub fn receive(&mut self, mut packet: PacketMut, now: Micros, metrics: &WorkerMetrics) -> Result<Option<Media>, DropReason> {
        let Some(keys) = self.keys.as_deref_mut() else { return Err(DropReason::BeforeKeys) };
        let Some(inbound) = self.inbound.as_deref_mut() else { return Err(DropReason::NotPublishing) };
        let header_len = rtp::Header::parse(packet.bytes())?.header_len;
        let (len, _) = keys.inbound.unprotect_rtp(packet.bytes_mut(), header_len)?;
        self.last_heard = now;
        packet.truncate(len);
        inbound.receive(packet, now, metrics)
    }

    /// Sends the reports and requests that are due to a publisher: NACK, PLI, transport-wide feedback, receiver reports.
    pub fn feed_back(&mut self, now: Micros, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        let Some(mut inbound) = self.inbound.take() else { return };
        if self.keys.is_some() {
            self.ask_for_missing(&mut inbound, now, batch, metrics);
            self.ask_for_key_frames(&mut inbound, now, batch, metrics);
            self.report_arrivals(&mut inbound.arrivals, inbound.streams.first().map(|stream| stream.ssrc), now, batch);
            if now >= inbound.next_report && !inbound.streams.is_empty() {
                inbound.next_report = now + REPORT_INTERVAL;
                inbound.rechoose();
                self.report_reception(&mut inbound, now, batch);
            }
        }
        self.inbound = Some(inbound);
    }

    fn ask_for_missing(&mut self, inbound: &mut Inbound, now: Micros, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        let from = self.rtcp_ssrc;
        for index in 0..inbound.streams.len() {
            let stream = &mut inbound.streams[index];
            let line = &inbound.lines[stream.media as usize];
            if stream.missing.is_empty() && stream.missing.given_up() == 0 {
                continue;
            }
            let agreed = line.codec().is_some_and(|codec| codec.feedback.nack);
            let due = stream.missing.due(now);
            let given_up = stream.missing.take_given_up();
            if given_up > 0 {
                inbound.stats.lost += given_up;
                metrics.add(Counter::LostUpstream, given_up);
                stream.key_frame_wanted |= line.config.kind == MediaKind::Video && line.active == Some(index as u8);
            }
            if due.is_empty() || !agreed || stream.role != Role::Media {
                continue;
            }
            let ssrc = stream.ssrc;
            let numbers: ArrayVec<SequenceNumber, { crate::limits::NACK_PENDING }> =
                due.iter().map(|sequence| sequence.number()).collect();
            if self.send_rtcp(batch, |space| rtcp::write_nack(space, from, ssrc, &numbers)) {
                inbound.stats.nacks += due.len() as u64;
                metrics.add(Counter::NacksSent, due.len() as u64);
            }
        }
    }

    fn ask_for_key_frames(&mut self, inbound: &mut Inbound, now: Micros, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        let from = self.rtcp_ssrc;
        for stream in inbound.streams.iter_mut().filter(|stream| stream.key_frame_wanted) {
            let recent = |at: Micros| now.since(at) < KEY_FRAME_REQUEST_MILLIS_MIN * 1_000;
            if stream.key_frame_requested.is_some_and(recent) {
                continue;
            }
            let ssrc = stream.ssrc;
            // Stays wanted until the key frame comes: a request can be lost too.
            if self.send_rtcp(batch, |space| rtcp::write_pli(space, from, ssrc)) {
                stream.key_frame_requested = Some(now);
                inbound.stats.key_frame_requests += 1;
                metrics.add(Counter::KeyFrameRequests, 1);
            }
        }
    }

    fn report_arrivals(&mut self, arrivals: &mut Arrivals, media: Option<Ssrc>, now: Micros, batch: &mut SendBatch) {
        let Some(media) = media else { return };
        // One message covers a bounded run; more follow at once while more is pending.
        while arrivals.due(now) {
            let (base, times) = arrivals.pending();
            let (from, count) = (self.rtcp_ssrc, arrivals.count);
            let mut covered = 0;
            let sent = self.send_rtcp(batch, |space| {
                let (len, packets) = twcc::write_feedback(space, from, media, base, count, times)?;
                covered = packets;
                Some(len)
            });
            if !sent || covered == 0 {
                return;
            }
            arrivals.reported(covered, now);
        }
    }

    fn report_reception(&mut self, inbound: &mut Inbound, now: Micros, batch: &mut SendBatch) {
        let mut blocks: ArrayVec<rtcp::ReportBlock, STREAMS_PER_PEER> = ArrayVec::new();
        for stream in inbound.streams.iter_mut().filter(|stream| stream.reception.started()) {
            let (last_sr, delay) =
                stream.clock.map_or((0, 0), |clock| (compact(clock.ntp), (now.since(clock.at) * 65_536 / 1_000_000) as u32));
            blocks.push(rtcp::ReportBlock {
                ssrc: stream.ssrc,
                fraction_lost: stream.reception.fraction_lost(),
                cumulative_lost: stream.reception.lost().min(0x7f_ffff) as i32,
                extended_highest: stream.reception.highest().0 as u32,
                jitter: stream.reception.jitter(),
                last_sr,
                delay_since_last_sr: delay,
            });
        }
        let from = self.rtcp_ssrc;
        self.send_rtcp(batch, |space| {
            let len = rtcp::write_receiver_report(space, from, &blocks)?;
            Some(len + rtcp::write_sdes_cname(space.get_mut(len..)?, from, super::send::CNAME)?)
        });
    }
}
