//! What a session is sent: one [`Sender`] for each m-line the server sends on. A packet is written once, straight into the send
//! arena: header, extensions, payload; then numbers inside the payload are made continuous and the whole is encrypted in place. On a long and
//! lossy path video goes in RED, with FEC packets among it ([`crate::rtp::fec`]): those are made from the plaintext, just before it is encrypted.

mod fill;

use std::mem::offset_of;
use std::net::SocketAddr;

use arrayvec::ArrayVec;

use super::path::{Leaving, Path};
use super::{Keys, Peer};
use crate::limits::{CACHE_LINE_BYTES, PATH_HISTORY, QUALITIES_MAX};
use crate::mem::SendBatch;
use crate::metrics::DropReason;
use crate::rtp::config::{MediaConfig, MediaKind, Mid, StreamPair};
use crate::rtp::fec::{Ends, Protection};
use crate::rtp::layers::{Choice, Wish};
use crate::rtp::media::Media;
use crate::rtp::red::{self, Block, Redundancy};
use crate::rtp::report::{LastReport, SenderClock, compact};
use crate::rtp::rewrite::{History, Rewriter, Rewritten, Source, Target};
use crate::units::{ExtendedSequence, Micros, PayloadType, SequenceNumber, TrackId};
use crate::wire::dependency::{DESCRIPTOR_BYTES_MAX, Forwarding};
use crate::wire::extension::{Elements, ExtensionKind, ExtensionMap};
use crate::wire::{rtcp, rtp};

/// What a sender is fed from, and in which format the receiver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    pub track: TrackId,
    pub payload_type: PayloadType,
    pub rtx: Option<PayloadType>,
    pub clock_rate: u32,
    /// From end to end: its packets go as they are, each by itself.
    pub encrypted: bool,
}

/// Counters of one sender, read by the control plane once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)] // what each packet counts comes first
pub struct SenderStats {
    pub packets: u64,
    pub octets: u64,
    pub retransmitted: u64,
    pub nacks: u64,
    pub key_frame_requests: u64,
    /// Of the receiver's last report: round trip, packets lost, jitter in clock ticks, fraction lost in 1/256.
    pub round_trip: Micros,
    pub lost: u32,
    pub jitter: u32,
    pub fraction_lost: u8,
}

impl SenderStats {
    /// Adds another sender's counters; of reports, the worst and latest count.
    pub fn add(&mut self, other: &SenderStats) {
        self.packets += other.packets;
        self.octets += other.octets;
        self.retransmitted += other.retransmitted;
        self.nacks += other.nacks;
        self.key_frame_requests += other.key_frame_requests;
        self.lost += other.lost;
        self.fraction_lost = self.fraction_lost.max(other.fraction_lost);
        self.jitter = self.jitter.max(other.jitter);
        self.round_trip = self.round_trip.max(other.round_trip);
    }
}

/// One outgoing m-line: a subscription, once it is bound to a track. Laid out by cache lines, because a fan-out to thousands finds
/// none of them in the cache: a packet reads and writes the first, reads the second and writes the third; the fourth waits for
/// reports and retransmissions.
#[repr(C, align(64))]
pub struct Sender {
    rewriter: Rewriter,

    binding: Option<Binding>,
    stream: StreamPair,
    mid: Mid,
    extensions: ExtensionMap,
    pub kind: MediaKind,
    /// Of sound: earlier packets that go along with each (RFC 2198). Of video: not 0 once there have been FEC packets among its packets,
    /// whose numbers are shifted by that.
    repairs: u8,

    pub stats: SenderStats,

    rtx_sequence: ExtendedSequence,
    last_report: LastReport,
    /// Retransmissions still allowed in this second: a receiver that asks for everything again must not starve the rest.
    retransmissions_left: u16,
    /// Wraps.
    packets_at_refill: u16,
    /// Where its subscription hangs in the worker's list.
    pub link: u32,
    pub wish: Wish,
    /// It does not fit into what the path carries.
    pub paused: bool,
    /// What was chosen for it.
    pub choice: Option<Choice>,
    redundancy: Option<Redundancy>,
    /// For video, of which layers can be left out and lost packets asked for again.
    history: Option<Box<History>>,
    /// For video of a receiver who takes it.
    fec: Option<Box<Protection>>,
}

const _: () = assert!(offset_of!(Sender, rewriter) == 0 && offset_of!(Sender, binding) == CACHE_LINE_BYTES);
const _: () = assert!(offset_of!(Sender, kind) < 2 * CACHE_LINE_BYTES && offset_of!(Sender, stats) == 2 * CACHE_LINE_BYTES);
const _: () = assert!(offset_of!(SenderStats, octets) < CACHE_LINE_BYTES);
const _: () = assert!(offset_of!(Sender, rtx_sequence) == 3 * CACHE_LINE_BYTES && size_of::<Sender>() == 4 * CACHE_LINE_BYTES);

impl Sender {
    /// None if the m-line is not one the server sends on.
    pub fn new(media: &MediaConfig, seed: u64) -> Option<Self> {
        let stream = media.local_stream?;
        Some(Sender {
            rewriter: Rewriter::new(seed),
            binding: None,
            stream,
            mid: media.mid,
            extensions: media.extensions,
            kind: media.kind,
            repairs: 0,
            stats: SenderStats::default(),
            rtx_sequence: ExtendedSequence(seed >> 32 & 0x7fff),
            retransmissions_left: RETRANSMISSIONS_MIN,
            packets_at_refill: 0,
            last_report: LastReport::default(),
            link: u32::MAX,
            wish: Wish::default(),
            paused: false,
            choice: None,
            history: (media.kind == MediaKind::Video).then(Box::default),
            redundancy: media.codecs.iter().find_map(|codec| Some(Redundancy::new(codec.red?))),
            fec: media.fec.map(|agreed| Box::new(Protection::new(agreed))),
        })
    }

    pub fn binding(&self) -> Option<&Binding> {
        self.binding.as_ref()
    }

    /// Feeds this sender from a track from its next key frame on (audio: at once).
    pub fn bind(&mut self, binding: Option<Binding>) {
        (self.binding, self.paused) = (binding, false);
        self.rewriter.detach();
    }

    pub fn owns(&self, ssrc: crate::units::Ssrc) -> bool {
        self.stream.media == ssrc || self.stream.rtx == Some(ssrc)
    }

    pub fn media_ssrc(&self) -> crate::units::Ssrc {
        self.stream.media
    }

    /// The encoding of a bound video track of which a key frame is needed to show anything, or to change to.
    pub fn awaits_key_frame(&self) -> Option<u8> {
        self.binding.filter(|_| self.kind == MediaKind::Video).and_then(|_| self.rewriter.awaits())
    }

    /// Whether this sender can go on with a key frame that came then: it sends nothing now, and its receiver is not taken back to what
    /// it has seen.
    pub fn may_begin_with(&self, arrival: Micros) -> bool {
        self.rewriter.source().is_none() && !self.rewriter.has_sent(arrival)
    }

    /// What the receiver is to be given, from the next chance on; none: nothing.
    pub fn aim(&mut self, target: Option<Target>) {
        self.rewriter.aim(target);
    }

    pub fn target(&self) -> Option<Target> {
        self.rewriter.target()
    }

    /// The stream that flows now, and its spatial and temporal layers that pass.
    pub fn flowing(&self) -> Option<(Source, u8, u8)> {
        let (spatial, temporal) = self.rewriter.passing();
        self.rewriter.source().map(|source| (source, spatial, temporal))
    }

    /// The encodings this receiver is given, a bit each: the one that flows, and the one it waits for.
    pub fn encodings(&self) -> u8 {
        let target = self.rewriter.target().map_or(0, |target| 1 << target.encoding);
        target | self.rewriter.source().map_or(0, |source| 1 << source.encoding)
    }

    /// The track's packet behind an outgoing sequence number, to answer a NACK.
    pub fn origin(&self, number: SequenceNumber) -> Option<(Source, ExtendedSequence)> {
        let number = match self.fec.as_deref().filter(|_| self.is_shifted()) {
            Some(fec) => fec.inner(fec.newest().nearest(number))?.number(),
            None => number,
        };
        self.rewriter.origin(number, self.history.as_deref())
    }

    /// Notes a receiver's report block about this sender.
    pub fn reported(&mut self, block: &rtcp::ReportBlock, now: Micros) {
        self.stats.fraction_lost = block.fraction_lost;
        self.stats.lost = block.cumulative_lost.max(0) as u32;
        self.stats.jitter = block.jitter;
        if let Some(round_trip) = self.last_report.round_trip(block.last_sr, block.delay_since_last_sr, now) {
            self.stats.round_trip = round_trip;
        }
    }

    /// Notes what a receiver's report says of the path; of any stream.
    pub fn path_lost(&mut self, fraction_lost: u8) {
        if let Some(redundancy) = &mut self.redundancy {
            redundancy.reported(fraction_lost);
            self.repairs = redundancy.blocks();
        }
    }

    /// How many earlier packets go along with each.
    pub fn earlier(&self) -> usize {
        if self.repairs == 0 || self.kind != MediaKind::Audio || self.binding.as_ref().is_none_or(|binding| binding.encrypted) {
            return 0;
        }
        self.repairs as usize
    }

    fn is_shifted(&self) -> bool {
        self.kind == MediaKind::Video && self.repairs > 0
    }

    /// Whether its packets have transport-wide numbers.
    fn is_numbered(&self) -> bool {
        self.extensions.id(ExtensionKind::TransportSequence).is_some()
    }

    /// Whether its packets may have dependency descriptors.
    fn describes(&self) -> bool {
        self.extensions.id(ExtensionKind::DependencyDescriptor).is_some()
    }

    /// The packet sent before the newest one by so many numbers, as the track counts.
    pub fn recent(&self, back: u16) -> Option<(Source, ExtendedSequence)> {
        self.rewriter.origin(SequenceNumber(self.rewriter.newest().0.wrapping_sub(back)), self.history.as_deref())
    }

    /// The numbers that a packet of the track is sent with; none if it is of a layer that this receiver is not given.
    fn take(&mut self, media: &Media, clocks: &[Option<SenderClock>; QUALITIES_MAX]) -> Result<Option<Rewritten>, DropReason> {
        let Some(binding) = self.binding else { return Err(DropReason::NotPublishing) };
        let is_video = self.kind == MediaKind::Video;
        let taken = self.rewriter.take(media, is_video, binding.clock_rate, clocks, self.history.as_deref_mut());
        if self.is_shifted() { self.shift(media, taken) } else { taken }
    }

    /// Makes room for FEC packets among the numbers.
    #[inline(never)] // few paths are so bad
    fn shift(&mut self, media: &Media, taken: Result<Option<Rewritten>, DropReason>) -> Result<Option<Rewritten>, DropReason> {
        let Some(mut numbers) = taken? else { return Ok(None) };
        let counts = numbers.sequence.number() == self.rewriter.newest() && is_protectable(media, &numbers);
        if let Some(fec) = self.fec.as_deref_mut() {
            numbers.sequence = fec.number(numbers.sequence, counts.then_some(Ends(numbers.marker)))?;
        }
        Ok(Some(numbers))
    }

    /// From here on there is a FEC packet for about so many packets; 0: none.
    fn protect(&mut self, each: u8) {
        if let Some(fec) = self.fec.as_deref_mut() {
            fec.protect(each);
            self.repairs |= (each > 0) as u8;
        }
    }

    /// Sends a packet that was taken.
    #[allow(clippy::too_many_arguments)] // as `write`
    fn send(
        &mut self,
        media: &Media,
        numbers: &Rewritten,
        earlier: &[&Media],
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let Some(binding) = self.binding else { return Err(DropReason::NotPublishing) };
        let red = self.redundancy.filter(|_| !earlier.is_empty());
        let redundant = red.map(|_| red::blocks(media, earlier, binding.payload_type)).unwrap_or_default();
        let payload_type = red.filter(|_| !redundant.is_empty()).map_or(binding.payload_type, |red| red.payload_type);
        let payload = match self.is_shifted() && is_protectable(media, numbers) {
            true => self.send_protected(media, numbers, payload_type, keys, leaving, to, batch)?,
            false => self.write(media, &redundant, numbers, payload_type, None, None, keys, leaving, to, batch)?,
        };
        self.stats.packets += 1;
        self.stats.octets += payload as u64;
        Ok(())
    }

    /// Sends a packet that FEC packets are made from while there are any; returns its payload's length.
    #[allow(clippy::too_many_arguments)] // as `write`
    #[inline(never)] // few paths are so bad
    fn send_protected(
        &mut self,
        media: &Media,
        numbers: &Rewritten,
        payload_type: PayloadType,
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<usize, DropReason> {
        let mut fec = self.fec.take();
        let on = fec.as_deref_mut().filter(|fec| fec.is_on());
        let payload_type = on.as_ref().map_or(payload_type, |fec| fec.agreed.red);
        let written = self.write(media, &[], numbers, payload_type, None, on, keys, leaving, to, batch);
        self.fec = fec;
        written
    }

    /// Sends the FEC packets that follow the last packet of a frame, if any do.
    #[inline(never)] // few paths are so bad
    fn send_fec(
        &mut self,
        numbers: &Rewritten,
        keys: &mut Keys,
        mut path: Option<&mut Path>,
        now: Micros,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) {
        let Some(mut fec) = self.fec.take() else { return };
        let mut due = fec.due_after(numbers.sequence).peekable();
        let ends = due.peek().is_some();
        for (index, sequence) in due {
            let leaving = path.as_deref_mut().map(|path| Leaving { path, now, cluster: 0 });
            let Some(payload) = self.write_fec(&mut fec, index, sequence, numbers, keys, leaving, to, batch) else { break };
            self.stats.packets += 1;
            self.stats.octets += payload as u64;
        }
        if ends {
            fec.clear();
        }
        self.fec = Some(fec);
    }

    /// Sends a packet again: as RTX (RFC 4588 §4) where agreed, else bit by bit as before. That it is bit by bit the same packet
    /// is a matter of security: its SRTP index is, and AES-GCM must not encrypt two packets under one. So nothing that changes
    /// from one sending to the next (a time, a transport-wide number) may ever be written on this path; and a sender whose packets
    /// have such numbers, or dependency descriptors (which tell what the receiver gets now), repeats by RTX alone, which has indices of its
    /// own, or not at all.
    fn retransmit(
        &mut self,
        media: &Media,
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let Some(binding) = self.binding else { return Err(DropReason::NotPublishing) };
        if (self.redundancy.is_some() || self.fec.is_some()) && binding.rtx.is_none() {
            return Err(DropReason::NackTooOld);
        }
        let numbers = self.renumber(media).ok_or(DropReason::NackTooOld)?;
        self.retransmissions_left = self.retransmissions_left.checked_sub(1).ok_or(DropReason::NackTooOld)?;
        match (binding.rtx, self.stream.rtx) {
            (Some(payload_type), Some(_)) => {
                self.rtx_sequence.0 += 1;
                self.write(media, &[], &numbers, payload_type, Some(self.rtx_sequence), None, keys, leaving, to, batch)?;
            }
            _ if self.is_numbered() || self.describes() => return Err(DropReason::NackTooOld),
            _ => {
                self.write(media, &[], &numbers, binding.payload_type, None, None, keys, leaving, to, batch)?;
            }
        }
        self.stats.retransmitted += 1;
        Ok(())
    }

    /// The numbers a packet was sent with.
    fn renumber(&self, media: &Media) -> Option<Rewritten> {
        let mut numbers = self.rewriter.renumber(media, self.history.as_deref())?;
        if let Some(fec) = self.fec.as_deref().filter(|_| self.is_shifted()) {
            numbers.sequence = fec.outer(numbers.sequence)?;
        }
        Some(numbers)
    }

    /// Packets from this one on were not sent.
    pub fn take_back(&mut self, numbers: &Rewritten) {
        let (mut numbers, is_shifted) = (*numbers, self.is_shifted());
        if let Some(fec) = self.fec.as_deref_mut().filter(|_| is_shifted) {
            let Some(inner) = fec.inner(numbers.sequence) else { return };
            numbers.sequence = inner;
            fec.take_back(inner);
        }
        self.rewriter.take_back(&numbers);
    }

    /// Whether a number is one of the last of its video, which can be sent again as RTX.
    pub fn repeats(&self, number: SequenceNumber) -> bool {
        let newest = match self.fec.as_deref().filter(|_| self.is_shifted()) {
            Some(fec) => fec.newest().number(),
            None => self.rewriter.newest(),
        };
        let back = newest.distance(number);
        self.kind == MediaKind::Video && self.repeats_by_rtx() && (0..=PATH_HISTORY as i16).contains(&back)
    }

    /// Retransmissions are packets of their own (RFC 4588).
    fn repeats_by_rtx(&self) -> bool {
        self.stream.rtx.is_some() && self.binding.is_some_and(|binding| binding.rtx.is_some())
    }

    /// What comes before the next key frame is not sent: the path has no room for it.
    pub fn interrupt(&mut self) {
        self.rewriter.detach();
    }

    /// Whether probes can be sent on it: video with RTX that has begun. It may be interrupted now, then they are padding.
    fn can_probe(&self, path: &Path) -> bool {
        let told = self.is_numbered() || self.stream.rtx.is_some_and(|ssrc| path.follows(ssrc));
        self.kind == MediaKind::Video && self.repeats_by_rtx() && told && self.stats.packets > 0
    }

    /// Sends a packet of a probe: `media` once more, or padding; both as RTX.
    fn probe(
        &mut self,
        media: Option<&Media>,
        keys: &mut Keys,
        leaving: Leaving<'_>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let (Some(payload_type), Some(ssrc)) = (self.binding.and_then(|binding| binding.rtx), self.stream.rtx) else {
            return Err(DropReason::NotPublishing);
        };
        self.rtx_sequence.0 += 1;
        if let Some(media) = media {
            let numbers = self.renumber(media).ok_or(DropReason::NackTooOld)?;
            return self
                .write(media, &[], &numbers, payload_type, Some(self.rtx_sequence), None, keys, Some(leaving), to, batch)
                .map(|_| ());
        }
        if !batch.has_room() {
            return Err(DropReason::SendFailed);
        }
        let (stream, times) = ((payload_type, ssrc), (self.rtx_sequence, self.rewriter.timestamp()));
        self.send_own(stream, times, &[], PROBE_PADDING, keys, Some(leaving), to, batch)
    }

    /// Id and data of the transport-wide number of a packet that is about to leave.
    fn number(&self, leaving: Option<&Leaving<'_>>) -> Option<(u8, [u8; 2])> {
        Some((self.extensions.id(ExtensionKind::TransportSequence)?, leaving?.number()?.0.to_be_bytes()))
    }

    /// The extensions that few packets have, written for this receiver.
    #[inline(never)]
    fn rare(&self, media: &Media, numbers: &Rewritten, playout: Option<[u8; 3]>) -> Rare {
        let described = media.dependency.as_ref().and_then(|dependency| self.describe(media, dependency, numbers));
        let delay = playout.and_then(|data| Some((self.extensions.id(ExtensionKind::PlayoutDelay)?, data.into_iter().collect())));
        described.into_iter().chain(delay).collect()
    }

    /// Id and data of the packet's dependency descriptor as this receiver gets it. What is sent without its payload is of no frame.
    fn describe(&self, media: &Media, dependency: &Forwarding, numbers: &Rewritten) -> Option<(u8, Data)> {
        let id = self.extensions.id(ExtensionKind::DependencyDescriptor).filter(|_| !numbers.blank)?;
        let range = media.extensions.iter().find(|range| range.kind == ExtensionKind::DependencyDescriptor)?;
        let mut data = ArrayVec::from([0; DESCRIPTOR_BYTES_MAX]);
        let len = dependency.write(
            media.extension(range),
            numbers.picture_number,
            numbers.template_id_shift,
            numbers.limits,
            &mut data,
        )?;
        data.truncate(len);
        Some((id, data))
    }

    /// Writes and encrypts a FEC packet behind `numbers`; returns its payload's length, or none if there is no room.
    #[allow(clippy::too_many_arguments)] // as `write`
    fn write_fec(
        &self,
        fec: &mut Protection,
        index: usize,
        sequence: ExtendedSequence,
        numbers: &Rewritten,
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Option<usize> {
        if !batch.has_room() {
            return None;
        }
        let space = batch.space();
        let mid = self.extensions.id(ExtensionKind::Mid).map(|id| (id, self.mid.as_bytes()));
        let number = self.number(leaving.as_ref());
        let elements = mid.into_iter().chain(number.as_ref().map(|(id, number)| (*id, &number[..])));
        let (payload_type, ssrc) = (fec.agreed.red, self.stream.media);
        let header_len = rtp::write_header(space, false, payload_type, sequence.number(), numbers.timestamp, ssrc, elements)?;
        let payload = fec.write(index, space.get_mut(header_len..)?)?;
        let sealed = keys.outbound.protect_rtp(space, header_len, header_len + payload, sequence.0)?;
        batch.commit(to, sealed);
        if let Some(leaving) = leaving {
            leaving.left(number.is_some(), false, ssrc, sequence.number(), sealed);
        }
        Some(payload)
    }

    /// Writes, patches and encrypts one packet, with `redundant` blocks if there are any, and in RED if it is to be protected by `fec`;
    /// returns its payload's length.
    #[allow(clippy::too_many_arguments)] // one call, two callers, on the packet path: a struct would only rename the list
    fn write(
        &self,
        media: &Media,
        redundant: &[Block<'_>],
        numbers: &Rewritten,
        payload_type: PayloadType,
        rtx: Option<ExtendedSequence>,
        fec: Option<&mut Protection>,
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<usize, DropReason> {
        if !batch.has_room() {
            return Err(DropReason::SendFailed);
        }
        let space = batch.space();
        let (ssrc, sequence) = match (rtx, self.stream.rtx) {
            (Some(sequence), Some(ssrc)) => (ssrc, sequence),
            _ => (self.stream.media, numbers.sequence),
        };
        let mid = self.extensions.id(ExtensionKind::Mid).map(|id| (id, self.mid.as_bytes()));
        let number = self.number(leaving.as_ref());
        // A viewer of video on a lossy path is told a playout delay: one whose packets have numbers, because those are repeated by RTX alone.
        let numbered = leaving.as_ref().filter(|_| number.is_some() && self.kind == MediaKind::Video);
        let playout = numbered.and_then(|leaving| leaving.path.playout.data());
        let passed = media.extensions.iter().filter_map(|range| match range.kind {
            ExtensionKind::Mid | ExtensionKind::DependencyDescriptor => None,
            ExtensionKind::PlayoutDelay if playout.is_some() => None,
            kind => Some((self.extensions.id(kind)?, media.extension(range))),
        });
        let is_rare = media.dependency.is_some() || playout.is_some();
        let rare = if is_rare { self.rare(media, numbers, playout) } else { Rare::new() };
        let own = mid.into_iter().chain(number.as_ref().map(|(id, number)| (*id, &number[..])));
        let elements = own.chain(passed).chain(rare.iter().map(|(id, data)| (*id, &data[..])));
        let header_len =
            rtp::write_header(space, numbers.marker, payload_type, sequence.number(), numbers.timestamp, ssrc, elements)
                .ok_or(DropReason::Oversize)?;
        let mut at = header_len;
        if rtx.is_some() {
            // The original sequence number (RFC 4588 §4).
            let original = space.get_mut(at..at + 2).ok_or(DropReason::Oversize)?;
            original.copy_from_slice(&numbers.sequence.number().0.to_be_bytes());
            at += 2;
        }
        let red = fec.as_ref().and(self.binding).map(|binding| binding.payload_type);
        if let Some(payload_type) = red {
            // The one block (RFC 2198 §3).
            *space.get_mut(at).ok_or(DropReason::Oversize)? = payload_type.0;
            at += 1;
        }
        let payload = if numbers.blank { &[] } else { media.payload() };
        let space_left = space.get_mut(at..).ok_or(DropReason::Oversize)?;
        let payload_len = if let [Block { payload_type, .. }, ..] = *redundant {
            red::write(space_left, &Block { payload_type, offset: 0, payload }, redundant).ok_or(DropReason::Oversize)?
        } else {
            let target = space_left.get_mut(..payload.len()).ok_or(DropReason::Oversize)?;
            target.copy_from_slice(payload);
            media.picture.patch(target, numbers.picture_number, numbers.tl0_pic_idx);
            payload.len()
        };
        let mut len = at + payload_len;
        if rtx.is_none() && redundant.is_empty() && media.padding > 0 && !numbers.blank {
            len = rtp::pad(space, len, media.padding).ok_or(DropReason::Oversize)?;
        }
        if let (Some(fec), Some(payload_type)) = (fec, red) {
            let number = number.as_ref().map(|(id, _)| *id);
            protect(fec, space.get(..len).unwrap_or_default(), header_len, number, payload_type, sequence);
        }
        // RFC 3711 §3.3.1: index = 2^16 * ROC + SEQ; our extended sequence numbers start at roll-over 0.
        let sealed = keys.outbound.protect_rtp(space, header_len, len, sequence.0).ok_or(DropReason::Oversize)?;
        batch.commit(to, sealed);
        if let Some(leaving) = leaving {
            let repeatable = rtx.is_none() && self.kind == MediaKind::Video && self.stream.rtx.is_some();
            leaving.left(number.is_some(), repeatable, ssrc, sequence.number(), sealed);
        }
        Ok(payload_len)
    }

    /// Once a second: more retransmissions allowed, in proportion to what was sent.
    fn refill(&mut self) {
        let sent = (self.stats.packets as u16).wrapping_sub(self.packets_at_refill);
        self.packets_at_refill = self.stats.packets as u16;
        self.retransmissions_left = sent / 2 + RETRANSMISSIONS_MIN;
        if let Some(redundancy) = &mut self.redundancy {
            redundancy.tick();
            self.repairs = redundancy.blocks();
        }
    }
}

/// Whether a packet of video may be lost for good without stopping the picture: see [`crate::rtp::fec`].
fn is_protectable(media: &Media, numbers: &Rewritten) -> bool {
    media.picture.picture_id.is_some() && !numbers.blank
}

/// Has a packet in RED protected as what it is outside of it, with zeros for its transport-wide number: a receiver does so too before it
/// recovers others (libwebrtc's `ZeroMutableExtensions`), because a number is written last.
fn protect(
    fec: &mut Protection,
    packet: &[u8],
    header_len: usize,
    number: Option<u8>,
    payload_type: PayloadType,
    sequence: ExtendedSequence,
) {
    let (Some(header), Some([_, payload @ ..])) = (packet.get(..header_len), packet.get(header_len..)) else { return };
    let mut copy = [0; HEADER_BYTES_MAX];
    let Some(copy) = copy.get_mut(..header_len) else { return };
    copy.copy_from_slice(header);
    if let (Some(number), [_, _, _, _, _, _, _, _, _, _, _, _, p0, p1, _, _, elements @ ..]) = (number, header) {
        let place = Elements::new(u16::from_be_bytes([*p0, *p1]), elements).ranges(16).find(|(id, _)| *id == number);
        place.and_then(|(_, range)| copy.get_mut(range)).unwrap_or_default().fill(0);
    }
    fec.add(copy, payload, payload_type, sequence);
}

/// Data of an extension that is written for one receiver, and all of those that few packets have.
type Data = ArrayVec<u8, DESCRIPTOR_BYTES_MAX>;
type Rare = ArrayVec<(u8, Data), 2>;

/// Bytes of the headers that are protected; those of larger ones are not.
const HEADER_BYTES_MAX: usize = 256;
/// Retransmissions a receiver may ask for in a second beyond half of what it is sent: a short outage must be repairable.
const RETRANSMISSIONS_MIN: u16 = 200;
/// Bytes of padding in a packet of nothing else (libwebrtc's kMaxPaddingLength; one byte counts them).
const PROBE_PADDING: u8 = 224;

impl Peer {
    /// The numbers that a packet is sent with on an m-line; none if it is of a layer that this session is not given. `clocks`: the
    /// publisher's, by encoding.
    pub fn take(
        &mut self,
        sender: u16,
        media: &Media,
        clocks: &[Option<SenderClock>; QUALITIES_MAX],
    ) -> Result<Option<Rewritten>, DropReason> {
        if self.address.is_none() || self.keys.is_none() {
            return Err(DropReason::BeforeKeys);
        }
        self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?.take(media, clocks)
    }

    /// Sends a packet that was taken. `earlier`: packets before it, oldest first, of which those that fit go along
    /// ([`Sender::earlier`]).
    pub fn send(
        &mut self,
        sender: u16,
        media: &Media,
        numbers: &Rewritten,
        earlier: &[&Media],
        now: Micros,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let Some(to) = self.address else { return Err(DropReason::BeforeKeys) };
        let Some(keys) = self.keys.as_deref_mut() else { return Err(DropReason::BeforeKeys) };
        let sender = self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?;
        // It may have waited while its track came to an end.
        if sender.binding.is_none_or(|binding| binding.track != media.track) {
            return Err(DropReason::NotPublishing);
        }
        let leaving = self.path.as_deref_mut().map(|path| Leaving { path, now, cluster: 0 });
        sender.send(media, numbers, earlier, keys, leaving, to, batch)?;
        if numbers.marker && sender.is_shifted() {
            sender.send_fec(numbers, keys, self.path.as_deref_mut(), now, to, batch);
        }
        Ok(())
    }

    /// Takes and sends; false if the packet is of a layer that this session is not given.
    pub fn forward(
        &mut self,
        sender: u16,
        media: &Media,
        clocks: &[Option<SenderClock>; QUALITIES_MAX],
        earlier: &[&Media],
        now: Micros,
        batch: &mut SendBatch,
    ) -> Result<bool, DropReason> {
        let Some(numbers) = self.take(sender, media, clocks)? else { return Ok(false) };
        self.send(sender, media, &numbers, earlier, now, batch)?;
        Ok(true)
    }

    /// Sends a media packet again; `asked`: the receiver has asked for it.
    pub fn retransmit(
        &mut self,
        sender: u16,
        media: &Media,
        asked: bool,
        now: Micros,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let (Some(to), Some(keys)) = (self.address, self.keys.as_deref_mut()) else { return Err(DropReason::BeforeKeys) };
        let sender = self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?;
        // Where too much is on its way, what a lower encoding takes over from, or has, is not worth it.
        let is_left = sender.target().is_some_and(|target| target.encoding != media.encoding);
        let may = |path: &mut Path| !(is_left && path.drains(now)) && path.may_repeat(media.payload_len as usize, now);
        if self.path.as_deref_mut().is_some_and(|path| !may(path)) {
            return Err(DropReason::RetransmissionLimit);
        }
        let twice = asked && sender.repeats_by_rtx() && self.path.as_deref().is_some_and(Path::repeats_twice);
        for _ in 0..1 + twice as usize {
            let leaving = self.path.as_deref_mut().map(|path| Leaving { path, now, cluster: 0 });
            sender.retransmit(media, keys, leaving, to, batch)?;
        }
        Ok(())
    }

    /// The m-line on which probes of the path are sent.
    pub fn probing_sender(&self) -> Option<u16> {
        let path = self.path.as_deref()?;
        self.senders.iter().position(|sender| sender.can_probe(path)).map(|index| index as u16)
    }

    /// Sends a packet of a probe: `media` once more, or padding.
    pub fn probe(
        &mut self,
        sender: u16,
        media: Option<&Media>,
        cluster: u32,
        now: Micros,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let (Some(to), Some(keys)) = (self.address, self.keys.as_deref_mut()) else { return Err(DropReason::BeforeKeys) };
        let Some(path) = self.path.as_deref_mut() else { return Err(DropReason::NotPublishing) };
        let sender = self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?;
        sender.probe(media, keys, Leaving { path, now, cluster }, to, batch)
    }

    /// Once a second: as much FEC as the path asks for. Returns how many FEC packets were sent since the last time.
    pub fn protect(&mut self) -> u64 {
        let each = self.path.as_deref_mut().map_or(0, Path::protect);
        let senders = self.senders.iter_mut();
        senders
            .map(|sender| {
                sender.protect(each);
                sender.fec.as_deref_mut().map_or(0, Protection::take_sent)
            })
            .sum()
    }

    /// Once a second: a sender report for each m-line that flows, in the receiver's numbers.
    pub fn report(&mut self, now: Micros, clock_of: impl Fn(Source) -> Option<SenderClock>, batch: &mut SendBatch) {
        for index in 0..self.senders.len() {
            let sender = &mut self.senders[index];
            sender.refill();
            let (Some(binding), Some(source)) = (sender.binding, sender.rewriter.source()) else { continue };
            let Some(clock) = clock_of(source).filter(|clock| clock.stream == source.stream) else { continue };
            let (ntp, source_time) = clock.at(now, binding.clock_rate);
            let report = rtcp::SenderInfo {
                ssrc: sender.stream.media,
                ntp,
                rtp: source_time.add(sender.rewriter.timestamp_delta()),
                packets: sender.stats.packets as u32,
                octets: sender.stats.octets as u32,
            };
            let ssrc = sender.stream.media;
            sender.last_report = LastReport { compact_ntp: compact(ntp), at: now };
            self.send_rtcp(batch, |space| {
                let len = rtcp::write_sender_report(space, &report, &[])?;
                // RFC 3550 §6.1: each compound packet has an SDES with a CNAME.
                Some(len + rtcp::write_sdes_cname(space.get_mut(len..)?, ssrc, CNAME)?)
            });
        }
    }
}

/// The canonical name the server sends under; the SDP says the same.
pub const CNAME: &str = "distributary";
