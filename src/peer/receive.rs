//! From a datagram of RTP to a packet of a track: decrypt in place, find its stream, undo retransmission, keep the statistics.
//!
//! SSRCs are learnt late, from the first authenticated packet: what the SDP announced, else the MID (and RID) extension
//! (RFC 8843 §9.2, RFC 8852), else the only m-line that has the payload type.

use arrayvec::ArrayVec;

use super::Peer;
use crate::limits::{QUALITIES_MAX, RECOVERED_MAX, RED_BLOCKS_READ, STREAMS_PER_PEER, TEMPORAL_LAYERS_MAX};
use crate::mem::{PacketMut, SendBatch};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::rtp::config::{Codec, CodecConfig, Direction, MediaConfig, MediaKind};
use crate::rtp::layers::{Frames, Layers, Meter, Sizes, WINDOW};
use crate::rtp::level::{Level, Levels};
use crate::rtp::media::{ExtensionRange, Media};
use crate::rtp::nack::Missing;
use crate::rtp::reception::{Arrival, Reception};
use crate::rtp::recover::Window;
use crate::rtp::red::{self, Part, Stamp};
use crate::rtp::report::{LastReport, SenderClock, compact, reference_time};
use crate::rtp::transport_cc::Arrivals;
use crate::units::{Micros, PayloadType, RtpTime, SequenceNumber, Ssrc, TrackId};
use crate::wire::extension::ExtensionKind;
use crate::wire::layer::Layer;
use crate::wire::picture::PictureIds;
use crate::wire::{av1, dependency, h264, rtcp, rtp, twcc, vp8, vp9};

mod renew;
mod repair;
mod size;
mod wanted;

use wanted::WantedKeyFrame;

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
    /// Nothing any more: its track has ended. The place is free.
    Gone,
}

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    First,
    Retransmitted,
    /// Computed from FEC packets.
    Computed,
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
    /// The newest packet.
    newest: Option<Stamp>,
    wanted: WantedKeyFrame,
    /// The last key frame: only its first packet says what it is.
    key_frame_at: Option<RtpTime>,
    clock: Option<SenderClock>,
    meter: Meter,
    /// More than one spatial layer has been seen.
    scalable: bool,
    /// By spatial layer, as its key frames tell.
    sizes: Sizes,
    /// Which of the readers of dependency descriptors is its.
    reader: Option<u8>,
    /// Where its newest described packet stands among the layers.
    layer_told: Layer,
    /// Which of the windows is its: what lost packets are computed from.
    window: Option<u8>,
}

/// One m-line the client sends on.
struct Line {
    config: MediaConfig,
    track: TrackId,
    layers: Layers,
}

impl Line {
    fn codec(&self) -> Option<&CodecConfig> {
        self.config.codecs.first()
    }

    /// The payload type of RED: for sound with redundancy, for video with FEC.
    fn red(&self) -> Option<PayloadType> {
        self.codec().and_then(|codec| codec.red).or(self.config.fec.map(|fec| fec.red))
    }

    /// Whether packets of this payload type carry its codec, or FEC.
    fn is_media(&self, payload_type: PayloadType) -> bool {
        self.codec().is_some_and(|codec| codec.is_media(payload_type)) || self.red() == Some(payload_type)
    }

    /// The payload type of what is repeated under this one.
    fn repeats(&self, payload_type: PayloadType) -> Option<PayloadType> {
        let codec = self.codec().filter(|codec| codec.rtx == Some(payload_type)).map(|codec| codec.payload_type);
        codec.or(self.config.fec.filter(|fec| fec.red_rtx == Some(payload_type)).map(|fec| fec.red))
    }
}

/// The publishing half of a session.
pub struct Inbound {
    lines: Vec<Line>,
    streams: ArrayVec<Stream, STREAMS_PER_PEER>,
    /// What is kept of the dependency descriptors of each stream that may have them: as many as there is room for.
    readers: Vec<dependency::Reader>,
    /// And of the packets of each that may have FEC packets.
    windows: Vec<Window>,
    arrivals: Arrivals,
    /// Id of the transport-wide number: all m-lines have one (RFC 8843 §12).
    transport_sequence: Option<u8>,
    next_report: Micros,
    measured: Micros,
    /// The last reference time sent, and the round trip that its answer told.
    reference: LastReport,
    round_trip: Option<Micros>,
    /// When the last step of sound ended that was told, and whether it was no silence.
    sound: (Micros, bool),
    /// What the last packet of sound repeats of earlier ones (RFC 2198).
    redundant: ArrayVec<Part, RED_BLOCKS_READ>,
    /// What had been lost and the last packet brought along, repeated or computed.
    recovered: ArrayVec<Media, RECOVERED_MAX>,
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
    /// By the publisher's answers to extended reports; zero until there is one.
    pub round_trip: Micros,
    /// How loud its sound is.
    pub levels: Levels,
}

impl Inbound {
    pub(super) fn new(media: &[MediaConfig], tracks: &[TrackId]) -> Self {
        let sent = media.iter().filter(|media| media.direction == Direction::RecvOnly);
        let lines =
            sent.zip(tracks).map(|(config, track)| Line { config: config.clone(), track: *track, layers: Layers::default() });
        let lines: Vec<Line> = lines.collect();
        let described =
            lines.iter().filter(|line| line.config.extensions.id(ExtensionKind::DependencyDescriptor).is_some()).count();
        let protected = lines.iter().filter(|line| line.config.fec.is_some());
        let windows = protected.map(|line| line.config.rids.len().max(line.config.remote_streams.len()).max(1)).sum();
        let transport_sequence = lines.iter().find_map(|line| line.config.extensions.id(ExtensionKind::TransportSequence));
        Inbound {
            lines,
            streams: ArrayVec::new(),
            readers: Vec::with_capacity(described * QUALITIES_MAX),
            windows: Vec::with_capacity(windows),
            arrivals: Arrivals::default(),
            transport_sequence,
            next_report: Micros::ZERO,
            measured: Micros::ZERO,
            reference: LastReport::default(),
            round_trip: None,
            sound: (Micros::ZERO, false),
            redundant: ArrayVec::new(),
            recovered: ArrayVec::new(),
            stats: InboundStats::default(),
        }
    }

    fn stream_at(&self, ssrc: Ssrc) -> Option<usize> {
        self.streams.iter().position(|stream| stream.ssrc == ssrc && stream.role != Role::Gone)
    }

    pub fn tracks(&self) -> impl Iterator<Item = TrackId> + '_ {
        self.lines.iter().map(|line| line.track)
    }

    /// The last sender reports of a track's encodings.
    pub fn clocks(&self, track: TrackId) -> [Option<SenderClock>; QUALITIES_MAX] {
        let mut clocks = [None; QUALITIES_MAX];
        for stream in self.media_streams(track) {
            if let Some(place) = clocks.get_mut(stream.layer as usize) {
                *place = stream.clock;
            }
        }
        clocks
    }

    /// What flows of the first video.
    pub fn video_layers(&self) -> Option<Layers> {
        self.lines.iter().find(|line| line.config.kind == MediaKind::Video).map(|line| line.layers)
    }

    fn media_streams(&self, track: TrackId) -> impl Iterator<Item = &Stream> {
        let line = self.lines.iter().position(|line| line.track == track);
        self.streams.iter().filter(move |stream| stream.role == Role::Media && Some(stream.media as usize) == line)
    }

    /// Somebody needs a key frame of an encoding of this track.
    pub fn want_key_frame(&mut self, track: TrackId, encoding: u8) {
        let Some(line) = self.lines.iter().position(|line| line.track == track && line.config.kind == MediaKind::Video) else {
            return;
        };
        for stream in &mut self.streams {
            if stream.role == Role::Media && stream.media as usize == line && stream.layer == encoding {
                stream.wanted.want();
            }
        }
    }

    /// What flows of each track, counted anew when it is time for it; a track and its layers for each call of `tell`.
    pub fn measure(&mut self, now: Micros, mut tell: impl FnMut(TrackId, Layers)) {
        let elapsed = Micros(now.since(self.measured));
        if elapsed < WINDOW {
            return;
        }
        self.measured = now;
        for stream in &mut self.streams {
            stream.meter.window(elapsed);
        }
        for (index, line) in self.lines.iter_mut().enumerate() {
            let streams = || self.streams.iter().filter(|stream| stream.role == Role::Media && stream.media as usize == index);
            // All silent: a pause, not an encoding that was switched off.
            let any = streams().any(|stream| !stream.meter.is_silent());
            let mut rates = [[0; TEMPORAL_LAYERS_MAX]; QUALITIES_MAX];
            let (mut scalable, mut sizes, mut frames) = (false, Sizes::default(), [Frames::default(); QUALITIES_MAX]);
            for stream in streams() {
                let layer = stream.layer as usize;
                if stream.scalable {
                    // Pictures end with their last layer, and are counted together.
                    (sizes, frames) = (stream.sizes, [stream.meter.frames(); QUALITIES_MAX]);
                } else if let (Some(size), Some(pace)) = (sizes.get_mut(layer), frames.get_mut(layer)) {
                    (*size, *pace) = (stream.sizes[0], stream.meter.frames());
                }
            }
            for stream in streams().filter(|stream| !stream.meter.is_silent() || !any) {
                if stream.scalable {
                    (rates, scalable) = (stream.meter.rates(), true);
                } else if let Some(place) = rates.get_mut(stream.layer as usize) {
                    *place = stream.meter.rates()[0];
                }
            }
            line.layers = Layers::new(rates, scalable).sized(sizes).paced(frames).after(&line.layers);
            tell(line.track, line.layers);
        }
    }

    /// Notes a sender report. Returns the track and the encoding it is about.
    pub(super) fn sender_report(
        &mut self,
        ssrc: Ssrc,
        ntp: u64,
        rtp: crate::units::RtpTime,
        now: Micros,
    ) -> Option<(TrackId, u8, SenderClock)> {
        let index = self.stream_at(ssrc)?;
        let stream = &mut self.streams[index];
        let clock = SenderClock { stream: index as u8, ntp, rtp, at: now };
        stream.clock = Some(clock);
        Some((self.lines.get(stream.media as usize)?.track, stream.layer, clock)).filter(|_| stream.role == Role::Media)
    }

    /// Notes the publisher's answer to a reference time (RFC 3611 §4.5).
    pub(super) fn reference_answered(&mut self, answer: &rtcp::DelaySinceLastRr, now: Micros) {
        let Some(sample) = self.reference.round_trip(answer.last_rr, answer.delay, now) else { return };
        // Half and half: one a second comes.
        let smooth = self.round_trip.map_or(sample, |before| Micros((before.0 + sample.0) / 2));
        (self.round_trip, self.stats.round_trip) = (Some(smooth), smooth);
        self.streams.iter_mut().for_each(|stream| stream.missing.reported(smooth));
    }

    /// How loud the last step of sound was, and when it ended: once a step, and of silence only the first.
    pub fn sound(&mut self, now: Micros) -> Option<(Level, Micros)> {
        let (told, sounded) = self.sound;
        let (level, ended) = self.stats.levels.last(now);
        if ended <= told {
            return None;
        }
        let sounds = level != Level::SILENCE;
        self.sound = (ended, sounds);
        (sounds || sounded).then_some((level, ended))
    }

    /// Finds or makes the stream of an SSRC whose packet was authenticated.
    fn stream_of(&mut self, header: &rtp::Header<'_>) -> Result<usize, DropReason> {
        if let Some(index) = self.stream_at(header.ssrc) {
            return Ok(index);
        }
        let (media, role, layer) = self.resolve(header)?;
        let clock_rate = self.lines[media].codec().map_or(90_000, |codec| codec.clock_rate);
        let mut missing = Missing::default();
        if let Some(round_trip) = self.round_trip {
            missing.reported(round_trip);
        }
        let described = self.lines[media].config.extensions.id(ExtensionKind::DependencyDescriptor).is_some();
        let free = self.streams.iter().position(|stream| stream.role == Role::Gone);
        let room = self.readers.len() < self.readers.capacity() && (free.is_some() || self.streams.len() < STREAMS_PER_PEER);
        let reader = (described && role == Role::Media && room).then_some(self.readers.len() as u8);
        if reader.is_some() {
            self.readers.push(dependency::Reader::default());
        }
        let room = self.windows.len() < self.windows.capacity() && (free.is_some() || self.streams.len() < STREAMS_PER_PEER);
        let protected = self.lines[media].config.fec.is_some();
        let window = (protected && role == Role::Media && room).then_some(self.windows.len() as u8);
        if window.is_some() {
            self.windows.push(Window::default());
        }
        let stream = Stream {
            ssrc: header.ssrc,
            media: media as u8,
            role,
            layer,
            reception: Reception::new(clock_rate),
            missing,
            newest: None,
            wanted: WantedKeyFrame::default(),
            key_frame_at: None,
            clock: None,
            meter: Meter::default(),
            sizes: Sizes::default(),
            scalable: false,
            reader,
            layer_told: Layer::default(),
            window,
        };
        match free.and_then(|free| self.streams.get_mut(free)) {
            Some(place) => *place = stream,
            None => self.streams.try_push(stream).map_err(|_| DropReason::SsrcLimit)?,
        }
        Ok(free.unwrap_or(self.streams.len() - 1))
    }

    /// Which m-line an unknown SSRC belongs to, as what, and which simulcast layer it is.
    fn resolve(&self, header: &rtp::Header<'_>) -> Result<(usize, Role, u8), DropReason> {
        if let Some((index, layer, is_rtx)) = self.announced(header.ssrc) {
            let role = if is_rtx { self.retransmission(index, layer)? } else { Role::Media };
            return Ok((index, role, layer));
        }
        let index = self.line_of(header).ok_or(DropReason::SsrcUnknown)?;
        let line = &self.lines[index];
        let (kind, is_rtx) = if line.is_media(header.payload_type) {
            (ExtensionKind::Rid, false)
        } else if line.repeats(header.payload_type).is_some() {
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
            let takes = |line: &Line| line.is_media(header.payload_type) || line.repeats(header.payload_type).is_some();
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

    /// Takes an authenticated, decrypted packet in.
    fn receive(&mut self, mut packet: PacketMut, now: Micros, metrics: &WorkerMetrics) -> Result<Media, DropReason> {
        self.redundant.clear();
        self.recovered.clear();
        let header = rtp::Header::parse(packet.bytes())?;
        // Whatever it is, it came: Chromium's first probes are padding on RTX streams of which nothing is known yet, and without an answer to
        // them it begins with 300 kb/s and takes half a minute to send what it could.
        if let Some(&[high, low]) = self.transport_sequence.and_then(|id| header.extension(id)) {
            self.arrivals.record(SequenceNumber(u16::from_be_bytes([high, low])), now);
        }
        let mut index = self.stream_of(&header)?;
        let line = &self.lines[self.streams[index].media as usize];
        if contradicts(line, &self.streams[index], &header) {
            return Err(DropReason::RidChanged);
        }
        let mut came = Came::First;
        if let Role::Retransmission { of } = self.streams[index].role {
            let payload = header.payload_range(packet.bytes()).ok_or(DropReason::RtxMalformed)?;
            let number = header.sequence_number;
            let original = line.repeats(header.payload_type).ok_or(DropReason::PayloadTypeUnknown)?;
            self.streams[index].reception.receive(number, packet.bytes().len());
            index = of as usize;
            restore_original(&mut packet, payload, self.streams[index].ssrc, original)?;
            came = Came::Retransmitted;
        }
        if let Some(payload) = self.fec_payload(index, &packet) {
            return self.receive_fec(packet, payload, index, now, metrics);
        }
        let (media, arrival) = self.admit(packet, index, came, now, metrics)?;
        let before = self.count_in(&media, arrival, came, now, metrics);
        if !self.redundant.is_empty() {
            self.recover(&media, before, metrics);
        }
        if self.protects(index) {
            self.keep(&media, came);
            self.compute(index, now, metrics);
        }
        Ok(media)
    }

    /// Counts a packet of media in; returns what was the newest of its stream before it.
    fn count_in(&mut self, media: &Media, arrival: Arrival, came: Came, now: Micros, metrics: &WorkerMetrics) -> Option<Stamp> {
        self.stats.packets += 1;
        self.stats.octets += media.payload_len as u64;
        let level = media.extensions.iter().find(|range| range.kind == ExtensionKind::AudioLevel);
        if let Some(level) = level.and_then(|range| Level::parse(media.extension(range))) {
            self.stats.levels.record(level, now);
        }
        let stream = &mut self.streams[media.stream as usize];
        let before = stream.newest;
        if matches!(arrival, Arrival::Next { .. }) {
            stream.newest = Some(Stamp { sequence: media.sequence, timestamp: media.timestamp });
        }
        match arrival {
            Arrival::Next { gap } if gap > 0 => stream.missing.gap(media.sequence, gap, now),
            Arrival::Late => {
                let recovered = match came {
                    Came::Computed => {
                        stream.missing.recovered(media.sequence);
                        true
                    }
                    _ => stream.missing.filled(media.sequence, came == Came::Retransmitted, now) || came == Came::Retransmitted,
                };
                if recovered {
                    self.stats.recovered += 1;
                    metrics.add(Counter::Recovered, 1);
                }
            }
            _ => {}
        }
        if media.key_frame {
            stream.wanted.came(now);
            stream.missing.forget_before(media.sequence);
            stream.key_frame_at = Some(media.timestamp);
        }
        let of_key_frame = stream.key_frame_at == Some(media.timestamp);
        let carried: usize = self.redundant.iter().map(Part::size).sum();
        stream.meter.packet(media.layer.spatial, media.layer.temporal, of_key_frame, media.packet.bytes().len() - carried);
        if media.marker {
            stream.meter.picture(media.layer.temporal);
        }
        stream.scalable |= media.layer.spatial > 0;
        metrics.add(Counter::MediaReceived, 1);
        before
    }

    /// Reads a packet of a media stream and counts it in.
    fn admit(
        &mut self,
        packet: PacketMut,
        index: usize,
        came: Came,
        now: Micros,
        metrics: &WorkerMetrics,
    ) -> Result<(Media, Arrival), DropReason> {
        let stream = &mut self.streams[index];
        let line = &self.lines[stream.media as usize];
        let codec = line.codec().ok_or(DropReason::PayloadTypeUnknown)?;
        let header = rtp::Header::parse(packet.bytes())?;
        if !line.is_media(header.payload_type) {
            return Err(DropReason::PayloadTypeUnknown);
        }
        let mut payload = header.payload_range(packet.bytes()).ok_or(DropReason::RtpMalformed)?;
        if line.red() == Some(header.payload_type) {
            let bytes = packet.bytes().get(payload.clone()).unwrap_or_default();
            let parts = red::parse(bytes, header.payload_type).ok_or(DropReason::RedMalformed)?;
            if parts.primary.payload_type != codec.payload_type {
                return Err(DropReason::PayloadTypeUnknown);
            }
            if line.config.kind == MediaKind::Video && !parts.redundant.is_empty() {
                return Err(DropReason::RedMalformed);
            }
            let blocks = parts.redundant.into_iter();
            self.redundant = blocks.map(|block| Part { start: block.start + payload.start as u16, ..block }).collect();
            payload.start += parts.primary.start as usize;
        }
        let (key_frame, picture, mut layer) = match packet.bytes().get(payload.clone()) {
            Some(bytes) if !bytes.is_empty() => describe(codec.codec, bytes, header.marker)?,
            _ => Default::default(),
        };
        if key_frame {
            size::note(codec.codec, &packet.bytes()[payload.clone()], &mut stream.sizes);
        }
        let mut extensions = ArrayVec::new();
        for (id, range) in header.extension_ranges() {
            let Some(kind) = line.config.extensions.kind(id) else { continue };
            if !is_hop_by_hop(kind)
                && extensions.try_push(ExtensionRange { kind, start: range.start as u16, len: range.len() as u8 }).is_err()
            {
                break;
            }
        }
        let (number, timestamp, marker) = (header.sequence_number, header.timestamp, header.marker);
        let (sequence, arrival) = match came {
            Came::Computed => stream.reception.computed(number),
            _ => stream.reception.receive(number, packet.bytes().len()),
        };
        match arrival {
            Arrival::Duplicate => return Err(DropReason::Duplicate),
            Arrival::TooOld => return Err(DropReason::TooLate),
            _ => {}
        }
        if came == Came::First {
            stream.reception.transit(timestamp, now);
        }
        let mut dependency = None;
        if let Some(reader) = stream.reader.and_then(|reader| self.readers.get_mut(reader as usize)) {
            let range = extensions.iter().find(|range: &&ExtensionRange| range.kind == ExtensionKind::DependencyDescriptor);
            let data = range.and_then(|range| packet.bytes().get(range.start as usize..)?.get(..range.len as usize));
            match data.map(|data| reader.read(data, timestamp)) {
                Some(Ok(descriptor)) => {
                    (layer, dependency) = (descriptor.layer(), descriptor.forwarding());
                    stream.layer_told = layer;
                    if let (Some(size), true) = (descriptor.resolution, layer.start_of_frame && !layer.inter_picture) {
                        size::note_one(&mut stream.sizes, layer.spatial, size);
                    }
                }
                // What says nothing of its layer is taken to be of the same as the one before.
                told => {
                    layer = Layer { start_of_frame: false, end_of_frame: marker, ..stream.layer_told };
                    if let Some(Err(reason)) = told {
                        metrics.count_drop(reason);
                    }
                }
            }
        }
        let media = Media {
            track: line.track,
            packet: packet.freeze(),
            header_len: payload.start as u16,
            payload_len: payload.len() as u16,
            padding: 0,
            stream: index as u8,
            encoding: stream.layer,
            layer,
            marker,
            key_frame,
            sequence,
            timestamp,
            arrival: now,
            extensions,
            picture,
            dependency,
        };
        Ok((media, arrival))
    }
}

/// Whether a packet says that it is of another encoding than its SSRC is: an encoding may move to a new SSRC, but one SSRC is never
/// of two, which no receiver could decode.
fn contradicts(line: &Line, stream: &Stream, header: &rtp::Header<'_>) -> bool {
    let Some(rid) = line.config.rids.get(stream.layer as usize) else { return false };
    let kind = match stream.role {
        Role::Media => ExtensionKind::Rid,
        Role::Retransmission { .. } | Role::Gone => ExtensionKind::RepairedRid,
    };
    let told = line.config.extensions.id(kind).and_then(|id| header.extension(id));
    told.is_some_and(|told| told != rid.as_bytes())
}

/// Extensions that mean something between two hops only, and are never passed on.
fn is_hop_by_hop(kind: ExtensionKind) -> bool {
    use ExtensionKind::*;
    matches!(kind, Mid | Rid | RepairedRid | TransportSequence | AbsSendTime | TransmissionOffset)
}

/// Whether a payload begins a picture that needs no earlier one, its picture ids, and its layers.
fn describe(codec: Codec, payload: &[u8], marker: bool) -> Result<(bool, PictureIds, Layer), DropReason> {
    match codec {
        Codec::Opus => Ok(Default::default()),
        Codec::Vp8 => {
            vp8::parse(payload).map(|descriptor| (descriptor.key_frame, descriptor.picture_ids(), descriptor.layer(marker)))
        }
        Codec::Vp9 => vp9::parse(payload).map(|descriptor| (descriptor.key_frame, descriptor.picture_ids(), descriptor.layer())),
        Codec::H264 => {
            h264::parse(payload).map(|descriptor| (descriptor.key_frame, PictureIds::default(), descriptor.layer(marker)))
        }
        Codec::Av1 => av1::parse(payload).map(|descriptor| (descriptor.key_frame, PictureIds::default(), Layer::default())),
    }
}

/// Turns a retransmission back into the packet it repeats (RFC 4588 §4): the original sequence number leaves the payload's front,
/// the header moves up by its two bytes and gets the original's SSRC and payload type.
fn restore_original(
    packet: &mut PacketMut,
    payload: std::ops::Range<usize>,
    ssrc: Ssrc,
    payload_type: PayloadType,
) -> Result<(), DropReason> {
    if payload.len() < 2 {
        // Padding on the RTX stream: a bandwidth probe.
        return Err(DropReason::Padding);
    }
    let bytes = packet.bytes_mut();
    let original = [bytes[payload.start], bytes[payload.start + 1]];
    bytes.copy_within(..payload.start, 2);
    let header = bytes.get_mut(2..14).ok_or(DropReason::RtxMalformed)?;
    header[1] = (header[1] & 0x80) | payload_type.0;
    header[2..4].copy_from_slice(&original);
    header[8..12].copy_from_slice(&ssrc.0.to_be_bytes());
    packet.advance(2);
    Ok(())
}

impl Peer {
    /// Takes a datagram of SRTP in.
    pub fn receive(&mut self, mut packet: PacketMut, now: Micros, metrics: &WorkerMetrics) -> Result<Media, DropReason> {
        let Some(keys) = self.keys.as_deref_mut() else { return Err(DropReason::BeforeKeys) };
        let Some(inbound) = self.inbound.as_deref_mut() else { return Err(DropReason::NotPublishing) };
        let header_len = rtp::Header::parse(packet.bytes())?.header_len;
        let (len, _) = keys.inbound.unprotect_rtp(packet.bytes_mut(), header_len)?;
        self.last_heard = now;
        packet.truncate(len);
        inbound.receive(packet, now, metrics)
    }

    /// Takes an RTP packet in the clear, of a program beside the server.
    pub fn inject(&mut self, packet: PacketMut, now: Micros, metrics: &WorkerMetrics) -> Result<Media, DropReason> {
        let Some(inbound) = self.inbound.as_deref_mut() else { return Err(DropReason::NotPublishing) };
        self.last_heard = now;
        inbound.receive(packet, now, metrics)
    }

    /// A track and its encoding of which a key frame is due to be asked for, of a session that is not a client's.
    pub fn key_frame_to_inject(&mut self, now: Micros) -> Option<(TrackId, u8)> {
        let inbound = self.inbound.as_deref_mut().filter(|_| self.keys.is_none() && self.address.is_none())?;
        let stream = inbound.streams.iter_mut().find(|stream| stream.wanted.is_due(now, None))?;
        stream.wanted.requested(now);
        inbound.stats.key_frame_requests += 1;
        Some((inbound.lines.get(stream.media as usize)?.track, stream.layer))
    }

    /// The next lost packet that the last received one brought along, oldest first.
    pub fn recovered(&mut self) -> Option<Media> {
        self.inbound.as_deref_mut()?.recovered.pop_at(0)
    }

    /// Sends the reports and requests that are due to a publisher: NACK, PLI, transport-wide feedback, receiver reports.
    pub fn feed_back(&mut self, now: Micros, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        let Some(mut inbound) = self.inbound.take() else { return };
        if self.keys.is_some() {
            self.ask_for_missing(&mut inbound, now, batch, metrics);
            self.ask_for_key_frames(&mut inbound, now, batch, metrics);
            let any = inbound.streams.iter().find(|stream| stream.role != Role::Gone).map(|stream| stream.ssrc);
            self.report_arrivals(&mut inbound.arrivals, any, now, batch);
            if now >= inbound.next_report && !inbound.streams.is_empty() {
                inbound.next_report = now + REPORT_INTERVAL;
                self.report_reception(&mut inbound, now, batch);
            }
        }
        self.inbound = Some(inbound);
    }

    fn ask_for_missing(&mut self, inbound: &mut Inbound, now: Micros, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        let from = self.rtcp_ssrc;
        for index in 0..inbound.streams.len() {
            let stream = &mut inbound.streams[index];
            let Some(line) = inbound.lines.get(stream.media as usize).filter(|_| stream.role != Role::Gone) else { continue };
            if stream.missing.is_empty() && stream.missing.given_up() == 0 {
                continue;
            }
            let agreed = line.codec().is_some_and(|codec| codec.feedback.nack);
            let due = stream.missing.due(now);
            let given_up = stream.missing.take_given_up();
            if given_up > 0 {
                inbound.stats.lost += given_up;
                metrics.add(Counter::LostUpstream, given_up);
                if line.config.kind == MediaKind::Video {
                    stream.wanted.want();
                }
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
        let round_trip = inbound.round_trip;
        for stream in inbound.streams.iter_mut().filter(|stream| stream.wanted.is_due(now, round_trip)) {
            let ssrc = stream.ssrc;
            if self.send_rtcp(batch, |space| rtcp::write_pli(space, from, ssrc)) {
                stream.wanted.requested(now);
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
        let flowing = |stream: &&mut Stream| stream.role != Role::Gone && stream.reception.started();
        for stream in inbound.streams.iter_mut().filter(flowing) {
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
        let (from, reference) = (self.rtcp_ssrc, reference_time(now));
        inbound.reference = LastReport { compact_ntp: compact(reference), at: now };
        self.send_rtcp(batch, |space| {
            let mut len = rtcp::write_receiver_report(space, from, &blocks)?;
            len += rtcp::write_sdes_cname(space.get_mut(len..)?, from, super::send::CNAME)?;
            // Who does not know it ignores it (RFC 3611 §3); who does answers, and the round trip is known.
            Some(len + rtcp::write_receiver_reference_time(space.get_mut(len..)?, from, reference)?)
        });
    }
}

#[cfg(test)]
mod tests;
