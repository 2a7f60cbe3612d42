//! Forward error correction towards a viewer on a path that loses: parity packets (RFC 5109, [`crate::wire::ulpfec`]) among those of
//! its video, so that most of what is lost is there again without being asked for.
//!
//! It is ULPFEC in RED (RFC 5109 §14.1, RFC 2198) because that is what browsers as they are offer and decode; Chromium has FlexFEC behind
//! a switch alone. What follows from that: FEC packets take numbers of the stream they protect, and what is protected goes in RED too, with
//! a header of one byte, since receivers look nowhere else for it. Retransmissions are not in RED: they need no protection.
//!
//! **Numbers.** The rewriter counts as if there were no FEC packets. [`Numbering`] lies between it and the receiver: it shifts what comes
//! after a FEC packet by one, remembers where the last ones stand, and so leads every number back. One that belongs to a FEC packet leads
//! nowhere: it is never sent again.
//!
//! **Groups.** FEC packets follow the last packet of a frame, never stand inside one: a receiver that lost one would wait for it, or take
//! the frame for incomplete. They are for all packets since the last ones, in turn: of `n` FEC packets each has every `n`th packet, so that
//! of `n` losses in a row all are recovered. There is one for about so many packets as the path's loss says; frames of few packets share
//! theirs.
//!
//! A receiver must know frames apart without their sequence numbers, else a lost FEC packet, of which it cannot know that it was none of
//! media, stops its picture. So only frames with picture ids are protected (VP8, VP9), as libwebrtc does it
//! (`PayloadTypeSupportsSkippingFecPackets`).

use std::collections::VecDeque;

use crate::limits::{FEC_BYTES_MAX, FEC_PLACES};
use crate::metrics::DropReason;
use crate::rtp::config::FecConfig;
use crate::units::{ExtendedSequence, PayloadType};
use crate::wire::ulpfec::{MASK_BITS, Parity};

/// Packets of a group are dealt out to so many; fewer FEC packets are sums of them.
const LANES: usize = 4;
/// Frames after which a group ends that has fewer packets than a FEC packet is meant for: later it would come too late.
const FRAMES: u8 = 4;

/// FEC packets in a row, in the middle of the numbers that the receiver sees.
#[derive(Clone, Copy)]
struct Place {
    /// The packet before them, as the rewriter counts.
    after: u64,
    /// How many they are, and all before them too.
    count: u64,
    total: u64,
}

impl Place {
    /// The last of them, as the receiver counts.
    fn last(&self) -> u64 {
        self.after + self.total
    }
}

/// Numbers as the rewriter counts (inner), and as the receiver does (outer): FEC packets are among them.
struct Numbering {
    /// The newest last.
    places: VecDeque<Place>,
    /// The last place of which no more is known: the packet before it, and all FEC packets up to there.
    forgotten: (u64, u64),
}

impl Numbering {
    fn new() -> Self {
        Numbering { places: VecDeque::with_capacity(FEC_PLACES), forgotten: (0, 0) }
    }

    fn total(&self) -> u64 {
        self.places.back().map_or(self.forgotten.1, |place| place.total)
    }

    /// The receiver's number for one of the rewriter's; none if it is too old to tell.
    fn outer(&self, inner: u64) -> Option<u64> {
        match self.places.iter().rev().find(|place| place.after < inner) {
            Some(place) => Some(inner + place.total),
            None => (self.forgotten.1 == 0 || inner > self.forgotten.0).then_some(inner + self.forgotten.1),
        }
    }

    /// And back; none too if it is that of a FEC packet.
    fn inner(&self, outer: u64) -> Option<u64> {
        let (after, total) = self.forgotten;
        match self.places.iter().rev().find(|place| outer > place.last() - place.count) {
            Some(place) => (outer > place.last()).then(|| outer - place.total),
            None => (total == 0 || outer > after + total).then(|| outer - total),
        }
    }

    /// Keeps `count` numbers after the newest packet.
    fn keep(&mut self, newest: u64, count: u64) {
        if self.places.len() == FEC_PLACES {
            self.forgotten = self.places.pop_front().map_or(self.forgotten, |place| (place.after, place.total));
        }
        let total = self.total() + count;
        self.places.push_back(Place { after: newest, count, total });
    }

    /// FEC packets kept after one of the rewriter's numbers: the receiver's number of the first, and how many.
    fn kept_after(&self, outer: u64) -> Option<(u64, u64)> {
        let place = self.places.iter().rev().find(|place| place.last() - place.count <= outer)?;
        (place.last() - place.count == outer).then_some((outer + 1, place.count))
    }

    /// The rewriter goes on with `first`. Numbers behind a place that is forgotten stay as they are: a gap, but never one number twice.
    fn take_back(&mut self, first: u64) {
        self.forgotten.0 = self.forgotten.0.min(first.saturating_sub(1));
        while self.places.back().is_some_and(|place| place.after >= first) {
            self.places.pop_back();
        }
    }
}

/// The FEC agreed with a receiver for one of its streams.
pub struct Protection {
    pub agreed: FecConfig,
    /// Media packets for each FEC packet; 0: none are sent.
    each: u8,
    numbering: Numbering,
    newest: ExtendedSequence,
    /// Packets, and frames, that were numbered since the last FEC packets were.
    packets: u8,
    frames: u8,
    /// The receiver's number of the first packet in the group that is being sent, and the packets in it.
    base: u64,
    dealt: usize,
    lanes: [Parity<FEC_BYTES_MAX>; LANES],
    /// FEC packets sent since this was last asked.
    sent: u64,
}

impl Protection {
    pub fn new(agreed: FecConfig) -> Self {
        Protection {
            agreed,
            each: 0,
            numbering: Numbering::new(),
            newest: ExtendedSequence(0),
            packets: 0,
            frames: 0,
            base: 0,
            dealt: 0,
            lanes: Default::default(),
            sent: 0,
        }
    }

    /// From here on there is a FEC packet for about `each` packets; 0: none.
    pub fn protect(&mut self, each: u8) {
        self.each = each;
        if each == 0 {
            (self.packets, self.frames) = (0, 0);
            self.clear();
        }
    }

    pub fn is_on(&self) -> bool {
        self.each > 0
    }

    /// The receiver's number of a packet, given the rewriter's. Of the newest packet: `ends` says whether it ends a frame; then numbers
    /// may be kept for FEC packets behind it.
    pub fn number(&mut self, inner: ExtendedSequence, newest: Option<Ends>) -> Result<ExtendedSequence, DropReason> {
        let outer = self.numbering.outer(inner.0).ok_or(DropReason::TooLate)?;
        self.newest = self.newest.max(ExtendedSequence(outer));
        if let Some(ends) = newest.filter(|_| self.is_on()) {
            self.packets = self.packets.saturating_add(1);
            self.frames += ends.0 as u8;
            let count = if ends.0 { self.due() } else { 0 };
            if count > 0 {
                self.numbering.keep(inner.0, count);
                (self.packets, self.frames) = (0, 0);
            }
        }
        Ok(ExtendedSequence(outer))
    }

    /// FEC packets that are due at the end of a frame.
    fn due(&self) -> u64 {
        match self.packets / self.each.max(1) {
            0 if self.frames < FRAMES => 0,
            0 | 1 => 1,
            2 => 2,
            _ => LANES as u64,
        }
    }

    /// The receiver's number for one of the rewriter's; none if it is too old to tell.
    pub fn outer(&self, inner: ExtendedSequence) -> Option<ExtendedSequence> {
        self.numbering.outer(inner.0).map(ExtendedSequence)
    }

    /// The newest number that the receiver has for a packet of media.
    pub fn newest(&self) -> ExtendedSequence {
        self.newest
    }

    /// The rewriter's number for one of the receiver's; none for that of a FEC packet.
    pub fn inner(&self, outer: ExtendedSequence) -> Option<ExtendedSequence> {
        self.numbering.inner(outer.0).map(ExtendedSequence)
    }

    /// The packets from this one on, as the rewriter counts, were not sent, and get other numbers.
    pub fn take_back(&mut self, first: ExtendedSequence) {
        self.numbering.take_back(first.0);
    }

    /// Takes a packet in that is sent: its header (in which what changes on the way is zero) and its payload with padding, as it is outside
    /// of RED.
    pub fn add(&mut self, header: &[u8], payload: &[u8], payload_type: PayloadType, outer: ExtendedSequence) {
        if self.dealt == 0 {
            self.base = outer.0;
        }
        let Some(place) = outer.0.checked_sub(self.base).filter(|place| *place < MASK_BITS) else { return };
        let lane = &mut self.lanes[self.dealt % LANES];
        self.dealt += lane.add(header, payload, payload_type, place) as usize;
    }

    /// The numbers of the FEC packets that follow this one, if there is anything that they are for.
    pub fn due_after(&mut self, outer: ExtendedSequence) -> impl Iterator<Item = (usize, ExtendedSequence)> + use<> {
        let (first, count) = self.numbering.kept_after(outer.0).filter(|_| self.dealt > 0).unwrap_or_default();
        let count = count as usize;
        // Of four lanes, two FEC packets have two each, and one has all.
        for lane in count..if count > 0 { LANES } else { 0 } {
            let (into, rest) = self.lanes.split_at_mut(lane);
            if let (Some(into), Some(lane)) = (into.get_mut(lane % count), rest.first()) {
                into.merge(lane);
            }
        }
        (0..count).map(move |index| (index, ExtendedSequence(first + index as u64)))
    }

    /// Writes the payload of one of them, in RED.
    pub fn write(&mut self, index: usize, space: &mut [u8]) -> Option<usize> {
        let (red, space) = space.split_first_mut()?;
        *red = self.agreed.ulpfec.0;
        let len = 1 + self.lanes.get(index)?.write(space, self.base as u16)?;
        self.sent += 1;
        Some(len)
    }

    /// The next group begins.
    pub fn clear(&mut self) {
        self.lanes.iter_mut().for_each(Parity::clear);
        self.dealt = 0;
    }

    /// FEC packets sent since this was last asked.
    pub fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent)
    }
}

/// Whether a packet ends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends(pub bool);

#[cfg(test)]
mod tests;
