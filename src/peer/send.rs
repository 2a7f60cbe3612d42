//! What a session is sent: one [`Sender`] for each m-line the server sends on. A packet is written once, straight into the send
//! arena: header, extensions, payload; then numbers inside the payload are made continuous and the whole is encrypted in place.

use std::mem::offset_of;
use std::net::SocketAddr;

use super::{Keys, Peer};
use crate::limits::CACHE_LINE_BYTES;
use crate::mem::SendBatch;
use crate::metrics::DropReason;
use crate::rtp::config::{MediaConfig, MediaKind, Mid, StreamPair};
use crate::rtp::media::Media;
use crate::rtp::report::{LastReport, SenderClock, compact};
use crate::rtp::rewrite::{Rewriter, Rewritten, Source};
use crate::units::{ExtendedSequence, Micros, PayloadType, SequenceNumber, TrackId};
use crate::wire::extension::{ExtensionKind, ExtensionMap};
use crate::wire::{rtcp, rtp};

/// What a sender is fed from, and in which format the receiver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    pub track: TrackId,
    pub payload_type: PayloadType,
    pub rtx: Option<PayloadType>,
    pub clock_rate: u32,
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

    pub stats: SenderStats,

    rtx_sequence: ExtendedSequence,
    /// Retransmissions still allowed in this second: a receiver that asks for everything again must not starve the rest.
    retransmissions_left: u64,
    packets_at_refill: u64,
    last_report: LastReport,
}

const _: () = assert!(size_of::<Rewriter>() == CACHE_LINE_BYTES);
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
            stats: SenderStats::default(),
            rtx_sequence: ExtendedSequence(seed >> 32 & 0x7fff),
            retransmissions_left: RETRANSMISSIONS_MIN,
            packets_at_refill: 0,
            last_report: LastReport::default(),
        })
    }

    pub fn binding(&self) -> Option<&Binding> {
        self.binding.as_ref()
    }

    /// Feeds this sender from a track from its next key frame on (audio: at once).
    pub fn bind(&mut self, binding: Option<Binding>) {
        self.binding = binding;
        self.rewriter.detach();
    }

    pub fn owns(&self, ssrc: crate::units::Ssrc) -> bool {
        self.stream.media == ssrc || self.stream.rtx == Some(ssrc)
    }

    pub fn media_ssrc(&self) -> crate::units::Ssrc {
        self.stream.media
    }

    /// Bound to a video track, but nothing to show yet.
    pub fn awaits_key_frame(&self) -> bool {
        self.binding.is_some() && self.kind == MediaKind::Video && self.rewriter.source().is_none()
    }

    /// The track's sequence number behind an outgoing one, to answer a NACK.
    pub fn origin(&self, number: SequenceNumber) -> Option<(Source, ExtendedSequence)> {
        Some((self.rewriter.source()?, self.rewriter.origin(number)?))
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

    fn forward(&mut self, media: &Media, keys: &mut Keys, to: SocketAddr, batch: &mut SendBatch) -> Result<(), DropReason> {
        let Some(binding) = self.binding else { return Err(DropReason::NotPublishing) };
        if self.rewriter.source() != Some(Source::of(media)) {
            if self.kind == MediaKind::Video && !media.key_frame {
                return Err(DropReason::AwaitingKeyFrame);
            }
            self.rewriter.switch(media, binding.clock_rate);
        }
        let Some(numbers) = self.rewriter.rewrite(media) else { return Err(DropReason::TooLate) };
        let payload = self.write(media, &numbers, binding.payload_type, None, keys, to, batch)?;
        self.stats.packets += 1;
        self.stats.octets += payload as u64;
        Ok(())
    }

    /// Sends a packet again: as RTX (RFC 4588 §4) where agreed, else bit by bit as before. That it is bit by bit the same packet
    /// is a matter of security: its SRTP index is, and AES-GCM must not encrypt two packets under one. So nothing that changes
    /// from one sending to the next (a time, a transport-wide number) may ever be written on this path.
    fn retransmit(&mut self, media: &Media, keys: &mut Keys, to: SocketAddr, batch: &mut SendBatch) -> Result<(), DropReason> {
        let Some(binding) = self.binding else { return Err(DropReason::NotPublishing) };
        if self.retransmissions_left == 0 || self.rewriter.source() != Some(Source::of(media)) {
            return Err(DropReason::NackTooOld);
        }
        self.retransmissions_left -= 1;
        let numbers = self.rewriter.renumber(media);
        match (binding.rtx, self.stream.rtx) {
            (Some(payload_type), Some(_)) => {
                self.rtx_sequence.0 += 1;
                self.write(media, &numbers, payload_type, Some(self.rtx_sequence), keys, to, batch)?;
            }
            _ => {
                self.write(media, &numbers, binding.payload_type, None, keys, to, batch)?;
            }
        }
        self.stats.retransmitted += 1;
        Ok(())
    }

    /// Writes, patches and encrypts one packet; returns its payload's length.
    #[allow(clippy::too_many_arguments)] // one call, two callers, on the packet path: a struct would only rename the list
    fn write(
        &self,
        media: &Media,
        numbers: &Rewritten,
        payload_type: PayloadType,
        rtx: Option<ExtendedSequence>,
        keys: &mut Keys,
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
        let passed = media.extensions.iter().filter_map(|range| match range.kind {
            ExtensionKind::Mid => None,
            kind => Some((self.extensions.id(kind)?, media.extension(range))),
        });
        let elements = mid.into_iter().chain(passed);
        let header_len = rtp::write_header(space, media.marker, payload_type, sequence.number(), numbers.timestamp, ssrc, elements)
            .ok_or(DropReason::Oversize)?;
        let mut at = header_len;
        if rtx.is_some() {
            // The original sequence number (RFC 4588 §4).
            let original = space.get_mut(at..at + 2).ok_or(DropReason::Oversize)?;
            original.copy_from_slice(&numbers.sequence.number().0.to_be_bytes());
            at += 2;
        }
        let payload = media.payload();
        let target = space.get_mut(at..at + payload.len()).ok_or(DropReason::Oversize)?;
        target.copy_from_slice(payload);
        media.picture.patch(target, numbers.picture_id, numbers.tl0_pic_idx);
        let mut len = at + payload.len();
        if rtx.is_none() && media.padding > 0 {
            len = rtp::pad(space, len, media.padding).ok_or(DropReason::Oversize)?;
        }
        // RFC 3711 §3.3.1: index = 2^16 * ROC + SEQ; our extended sequence numbers start at roll-over 0.
        let sealed = keys.outbound.protect_rtp(space, header_len, len, sequence.0).ok_or(DropReason::Oversize)?;
        batch.commit(to, sealed);
        Ok(payload.len())
    }

    /// Once a second: more retransmissions allowed, in proportion to what was sent.
    fn refill(&mut self) {
        let sent = self.stats.packets - self.packets_at_refill;
        self.packets_at_refill = self.stats.packets;
        self.retransmissions_left = sent / 2 + RETRANSMISSIONS_MIN;
    }
}

/// Retransmissions a receiver may ask for in a second beyond half of what it is sent: a short outage must be repairable.
const RETRANSMISSIONS_MIN: u64 = 200;

impl Peer {
    /// Sends a media packet on one of this session's m-lines.
    pub fn forward(&mut self, sender: u16, media: &Media, batch: &mut SendBatch) -> Result<(), DropReason> {
        let Some(to) = self.address else { return Err(DropReason::BeforeKeys) };
        let Some(keys) = self.keys.as_deref_mut() else { return Err(DropReason::BeforeKeys) };
        self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?.forward(media, keys, to, batch)
    }

    /// Sends a media packet again.
    pub fn retransmit(&mut self, sender: u16, media: &Media, batch: &mut SendBatch) -> Result<(), DropReason> {
        let (Some(to), Some(keys)) = (self.address, self.keys.as_deref_mut()) else { return Err(DropReason::BeforeKeys) };
        self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?.retransmit(media, keys, to, batch)
    }

    /// Once a second: a sender report for each m-line that flows, in the receiver's numbers.
    pub fn report(&mut self, now: Micros, clock_of: impl Fn(TrackId) -> Option<SenderClock>, batch: &mut SendBatch) {
        for index in 0..self.senders.len() {
            let sender = &mut self.senders[index];
            sender.refill();
            let (Some(binding), Some(source)) = (sender.binding, sender.rewriter.source()) else { continue };
            let Some(clock) = clock_of(binding.track).filter(|clock| clock.stream == source.stream) else { continue };
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
