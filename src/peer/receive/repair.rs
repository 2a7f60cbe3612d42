//! What a publisher lost and a later packet brings along: sound that it repeats (RFC 2198), and video that is computed from its FEC packets
//! (ULPFEC in RED, RFC 5109; [`crate::rtp::recover`]).
//!
//! A FEC packet has a number among those of the media. It goes on as a packet without payload, so that nobody sees a hole there: receivers
//! take such packets for padding. So does the number of a FEC packet that was lost, as soon as it is clear that it was none of media.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{Arrival, Came, Inbound};
use crate::mem::PacketMut;
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::rtp::media::Media;
use crate::rtp::recover::Window;
use crate::rtp::red::Stamp;
use crate::units::{ExtendedSequence, Micros, RtpTime};
use crate::wire::layer::Layer;
use crate::wire::picture::PictureIds;
use crate::wire::rtp;

/// Holes that are looked at for each packet, the oldest.
const HOLES: usize = 16;

impl Inbound {
    /// Finds what had been lost among what `media` repeats; `before`: the newest packet until then. It goes on as if it had arrived,
    /// but for its header extensions, which are not repeated: it says nothing of how loud it is, and the levels are those of the
    /// packets around it. Nothing is copied, all parts of a datagram share it.
    pub(super) fn recover(&mut self, media: &Media, before: Option<Stamp>, metrics: &WorkerMetrics) {
        let stream = &mut self.streams[media.stream as usize];
        let codec = self.lines[stream.media as usize].codec();
        let carrier = Stamp { sequence: media.sequence, timestamp: media.timestamp };
        for (rank, block) in (1..=self.redundant.len() as u64).rev().zip(&self.redundant) {
            if block.len == 0 || codec.is_none_or(|codec| codec.payload_type != block.payload_type) {
                continue;
            }
            let Some(origin) = block.origin(rank, carrier, before) else { continue };
            // It is not asked for any more, and if it still comes it is a duplicate.
            if !stream.missing.recovered(origin.sequence) {
                continue;
            }
            stream.reception.recovered(origin.sequence);
            stream.meter.packet(0, 0, false, block.size());
            self.stats.packets += 1;
            self.stats.octets += block.len as u64;
            self.stats.recovered += 1;
            metrics.add(Counter::Recovered, 1);
            self.recovered.push(Media {
                header_len: block.start,
                payload_len: block.len,
                marker: false,
                sequence: origin.sequence,
                timestamp: origin.timestamp,
                extensions: ArrayVec::new(),
                ..media.clone()
            });
        }
    }

    /// Whether FEC packets come on a stream.
    pub(super) fn protects(&self, index: usize) -> bool {
        self.window(index).is_some_and(Window::is_on)
    }

    fn window(&self, index: usize) -> Option<&Window> {
        self.windows.get(self.streams.get(index)?.window? as usize)
    }

    fn window_mut(&mut self, index: usize) -> Option<&mut Window> {
        self.windows.get_mut(self.streams.get(index)?.window? as usize)
    }

    /// Where the FEC payload of a packet lies, if it is one: the only block of RED (RFC 2198 §3).
    pub(super) fn fec_payload(&self, index: usize, packet: &PacketMut) -> Option<Range<usize>> {
        let stream = self.streams.get(index)?;
        let fec = self.lines.get(stream.media as usize)?.config.fec?;
        stream.window?;
        let header = rtp::Header::parse(packet.bytes()).ok()?;
        let payload = header.payload_range(packet.bytes()).filter(|_| header.payload_type == fec.red)?;
        let block = packet.bytes().get(payload.clone())?.first()?;
        (*block == fec.ulpfec.0).then_some(payload.start + 1..payload.end)
    }

    /// Takes a FEC packet in; its number goes on without payload.
    pub(super) fn receive_fec(
        &mut self,
        mut packet: PacketMut,
        payload: Range<usize>,
        index: usize,
        now: Micros,
        metrics: &WorkerMetrics,
    ) -> Result<Media, DropReason> {
        let header = rtp::Header::parse(packet.bytes())?;
        let (number, timestamp) = (header.sequence_number, header.timestamp);
        let stream = &mut self.streams[index];
        let (sequence, arrival) = stream.reception.receive(number, packet.bytes().len());
        match arrival {
            Arrival::Duplicate => return Err(DropReason::Duplicate),
            Arrival::TooOld => return Err(DropReason::TooLate),
            Arrival::Next { gap } if gap > 0 => stream.missing.gap(sequence, gap, now),
            Arrival::Next { .. } => {}
            Arrival::Late => {
                stream.missing.filled(sequence, false, now);
            }
        }
        metrics.add(Counter::FecReceived, 1);
        packet.truncate(payload.end);
        let Some(window) = self.window_mut(index) else { return Err(DropReason::PayloadTypeUnknown) };
        let handle = window.any();
        // The first says that there are some; what it is for was not kept.
        let Some(handle) = handle else {
            window.begin(now);
            window.pass_over(sequence);
            let handle = packet.freeze();
            return Ok(self.blank(index, handle, sequence, timestamp, now));
        };
        if !window.take(packet, payload.start, sequence, now) {
            metrics.count_drop(DropReason::FecMalformed);
        }
        self.compute(index, now, metrics);
        Ok(self.blank(index, handle, sequence, timestamp, now))
    }

    /// Keeps a packet of media to compute others from.
    pub(super) fn keep(&mut self, media: &Media, came: Came) {
        let line = self.lines.get(self.streams[media.stream as usize].media as usize);
        let Some(payload_type) = line.and_then(|line| line.codec()).map(|codec| codec.payload_type) else { return };
        if let Some(window) = self.window_mut(media.stream as usize) {
            window.hold(media, payload_type, came != Came::Retransmitted);
        }
    }

    /// Computes what can be, and passes over numbers that were none of media.
    pub(super) fn compute(&mut self, index: usize, now: Micros, metrics: &WorkerMetrics) {
        while !self.recovered.is_full() {
            let stream = &self.streams[index];
            let (ssrc, newest) = (stream.ssrc, stream.reception.highest());
            let extensions = self.lines[stream.media as usize].config.extensions;
            let computed = self.window_mut(index).and_then(|window| window.recover(ssrc, &extensions, newest));
            let media = match computed {
                None => break,
                Some(Ok(packet)) => self.admit(packet, index, Came::Computed, now, metrics),
                Some(Err(reason)) => Err(reason),
            };
            match media {
                Ok((media, arrival)) => {
                    self.count_in(&media, arrival, Came::Computed, now, metrics);
                    metrics.add(Counter::FecRecovered, 1);
                    self.keep(&media, Came::Computed);
                    self.recovered.push(media);
                }
                Err(_) => metrics.count_drop(DropReason::FecMalformed),
            }
        }
        self.pass_over(index, now);
        self.recovered.sort_unstable_by_key(|media| media.sequence);
    }

    /// Numbers of FEC packets that were lost are not asked for.
    fn pass_over(&mut self, index: usize, now: Micros) {
        let Some(window) = self.window(index) else { return };
        let missing = &self.streams[index].missing;
        let room = self.recovered.remaining_capacity();
        let explained = missing.sequences().take(HOLES).filter(|sequence| window.explains(*sequence)).take(room);
        let explained: ArrayVec<ExtendedSequence, HOLES> = explained.collect();
        for sequence in explained {
            let stream = &mut self.streams[index];
            stream.missing.recovered(sequence);
            stream.reception.recovered(sequence);
            let Some(window) = self.window_mut(index) else { return };
            window.pass_over(sequence);
            let Some((handle, timestamp)) = window.before(sequence) else { return };
            let blank = self.blank(index, handle, sequence, timestamp, now);
            self.recovered.push(blank);
        }
    }

    /// A packet without payload in the place of one that was none of media.
    fn blank(
        &self,
        index: usize,
        packet: crate::mem::Packet,
        sequence: ExtendedSequence,
        timestamp: RtpTime,
        now: Micros,
    ) -> Media {
        let stream = &self.streams[index];
        Media {
            track: self.lines[stream.media as usize].track,
            packet,
            header_len: 0,
            payload_len: 0,
            padding: 0,
            stream: index as u8,
            encoding: stream.layer,
            layer: Layer::default(),
            marker: false,
            key_frame: false,
            sequence,
            timestamp,
            arrival: now,
            extensions: ArrayVec::new(),
            picture: PictureIds::default(),
            dependency: None,
        }
    }
}
