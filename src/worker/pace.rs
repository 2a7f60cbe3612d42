//! Packets that wait for their turn on a viewer's path ([`crate::peer::path`]), and the probes of paths.
//!
//! Most packets never come here: what the path's allowance permits leaves at once, in the turn in which it came. The rest waits as
//! handles in one slab of the worker, a list for each viewer, and leaves at the path's pace. The timer for that exists only while
//! something waits. Sound never waits.
//!
//! The past that a viewer begins with (`worker::start`) waits here too, before what is live, and at most in half of the room.
//!
//! What waits has its numbers already. A path that does not carry its stream fills its list up. Then whole frames are dropped, up to the
//! next key frame for which there is room; a frame that has begun is not cut, so that a key frame passes whatever its size. Nothing
//! that is dropped was numbered: the viewer sees a still picture and no loss that it would ask to have repaired.

use super::Worker;
use crate::limits::{PACED_PACKETS, PACED_PER_PEER, SESSIONS_MAX};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::peer::Peer;
use crate::peer::path::{Path, Waiting};
use crate::peer::send::Sender;
use crate::rtp::media::Media;
use crate::rtp::rewrite::Rewritten;
use crate::units::Micros;

/// Time between two looks at what waits.
pub(super) const INTERVAL: Micros = Micros::from_millis(5);
/// And at a probe, which lasts 15 ms.
const PROBE_INTERVAL: Micros = Micros::from_millis(1);
const NONE: u32 = u32::MAX;
/// Older packets that are looked at for one long enough to probe with, and how long that is.
const CANDIDATES: u16 = 8;
const PROBE_PAYLOAD_MIN: usize = 500;

struct Place {
    media: Option<Media>,
    sender: u16,
    numbers: Rewritten,
    /// Next packet for the same viewer, or next free place.
    next: u32,
}

/// The packets that wait, and the viewers they wait for.
pub struct Pace {
    places: Vec<Place>,
    free: u32,
    count: usize,
    /// Slots of viewers with packets that wait, or with a probe under way.
    pub(super) listed: Vec<u32>,
    /// When to look at them.
    pub(super) due: Micros,
}

impl Default for Pace {
    fn default() -> Self {
        let (places, listed) = (Vec::with_capacity(PACED_PACKETS), Vec::with_capacity(SESSIONS_MAX));
        Pace { places, free: NONE, count: 0, listed, due: Micros::NEVER }
    }
}

impl Pace {
    /// Adds a packet to a viewer's list; false if there is no room.
    fn push(&mut self, list: &mut Waiting, sender: u16, numbers: Rewritten, media: Media) -> bool {
        if self.count >= PACED_PACKETS || list.packets as usize >= PACED_PER_PEER {
            return false;
        }
        let (bytes, frame) = (media.payload_len as u32, (media.encoding, media.timestamp));
        let place = Place { media: Some(media), sender, numbers, next: NONE };
        let index = match self.places.get_mut(self.free as usize) {
            Some(free) => {
                let index = std::mem::replace(&mut self.free, free.next);
                *free = place;
                index
            }
            None => {
                self.places.push(place);
                (self.places.len() - 1) as u32
            }
        };
        match self.places.get_mut(list.last as usize) {
            Some(last) => last.next = index,
            None => list.first = index,
        }
        (list.last, list.frame) = (index, frame);
        list.packets += 1;
        list.bytes += bytes;
        self.count += 1;
        true
    }

    /// Whether so many packets of the past may wait for a viewer. Half of the room of all is left to what is live.
    pub(super) fn has_room(&self, list: &Waiting, packets: usize) -> bool {
        self.count + packets <= PACED_PACKETS / 2 && list.packets as usize + packets <= PACED_PER_PEER
    }

    /// Takes the first packet of a list, the sender it is for, and its numbers.
    fn pop(&mut self, list: &mut Waiting) -> Option<(Media, u16, Rewritten)> {
        let place = self.places.get_mut(list.first as usize)?;
        let media = place.media.take()?;
        let (sender, numbers) = (place.sender, place.numbers);
        let next = std::mem::replace(&mut place.next, std::mem::replace(&mut self.free, list.first));
        list.first = next;
        if next == NONE {
            list.last = NONE;
        }
        list.packets -= 1;
        list.bytes -= media.payload_len as u32;
        self.count -= 1;
        Some((media, sender, numbers))
    }

    /// A viewer has packets that wait, or a probe to send.
    fn enlist(&mut self, slot: u32, listed: &mut bool, due: Micros) {
        if !std::mem::replace(listed, true) {
            self.listed.push(slot);
        }
        self.due = self.due.min(due);
    }

    /// Lets a packet of video, which has its numbers, wait for its turn on the path.
    pub(super) fn hold(
        &mut self,
        peer: &mut Peer,
        sender: u16,
        media: &Media,
        numbers: Rewritten,
        due: Micros,
        metrics: &WorkerMetrics,
    ) {
        let Some(path) = peer.path.as_deref_mut() else { return };
        if self.push(&mut path.waiting, sender, numbers, media.clone()) {
            self.enlist(peer.id.slot, &mut path.listed, due);
            metrics.add(Counter::Paced, 1);
        } else {
            peer.senders.get_mut(sender as usize).into_iter().for_each(Sender::interrupt);
            metrics.count_drop(DropReason::PacerFull);
        }
    }

    /// A lower encoding takes over, with a key frame: what waits of the one before it need not be sent any more, nor the rest of a frame
    /// that has begun to leave. Its numbers are taken back.
    pub(super) fn cut(&mut self, peer: &mut Peer, sender: u16) {
        let Some(path) = peer.path.as_deref_mut() else { return };
        let mut first = None;
        for _ in 0..path.waiting.packets {
            match self.pop(&mut path.waiting) {
                Some((_, of, numbers)) if of == sender => first = first.or(Some(numbers)),
                Some((media, of, numbers)) => {
                    self.push(&mut path.waiting, of, numbers, media);
                }
                None => break,
            }
        }
        if let (Some(numbers), Some(sender)) = (first, peer.senders.get_mut(sender as usize)) {
            sender.take_back(&numbers);
        }
    }

    /// A session ends.
    pub(super) fn forget(&mut self, peer: &mut Peer) {
        let Some(path) = peer.path.as_deref_mut() else { return };
        while self.pop(&mut path.waiting).is_some() {}
        if std::mem::take(&mut path.listed) {
            self.listed.retain(|slot| *slot != peer.id.slot);
        }
    }
}

/// Whether with this key frame a sender goes over to an encoding that costs less.
pub(super) fn lowers(peer: &Peer, sender: u16, media: &Media) -> bool {
    let awaits = peer.senders.get(sender as usize).and_then(Sender::awaits_key_frame);
    awaits == Some(media.encoding) && peer.path.as_deref().is_some_and(|path| path.hurries)
}

/// Whether a packet of video that would have to wait finds no room: a frame is not begun when there is too much before it. Then the sender
/// goes on with its next key frame.
pub(super) fn overflows(peer: &mut Peer, sender: u16, media: &Media) -> bool {
    let (Some(path), Some(sender)) = (peer.path.as_deref(), peer.senders.get_mut(sender as usize)) else { return false };
    let list = &path.waiting;
    let leaves = sender.awaits_key_frame().is_some_and(|encoding| encoding != media.encoding);
    let begins = list.packets == 0 || list.frame != (media.encoding, media.timestamp);
    let flows = sender.flowing().is_some_and(|(source, ..)| source.encoding == media.encoding) || media.key_frame;
    let overflows = begins && flows && list.bytes as u64 > path.waiting_max(leaves);
    if overflows {
        sender.interrupt();
    }
    overflows
}

impl Worker {
    /// Sends what may leave by now of what waits, and of probes.
    pub(super) fn drain(&mut self, now: Micros) {
        let mut due = Micros::NEVER;
        for index in (0..self.pace.listed.len()).rev() {
            let slot = self.pace.listed[index];
            self.send_waiting(slot, now);
            self.send_probe(slot, now);
            let Some(path) = self.path(slot) else { continue };
            if path.has_probe() {
                due = due.min(now + PROBE_INTERVAL);
            } else if path.waiting.packets > 0 {
                due = due.min(now + INTERVAL);
            } else {
                path.listed = false;
                self.pace.listed.swap_remove(index);
            }
        }
        self.pace.due = due;
    }

    fn path(&mut self, slot: u32) -> Option<&mut Path> {
        self.peers.get_mut(slot as usize)?.as_deref_mut()?.path.as_deref_mut()
    }

    /// The path's next probe, if media flows to send it among.
    pub(super) fn begin_probe(&mut self, slot: u32, now: Micros) {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        if peer.probing_sender().is_some()
            && let Some(path) = peer.path.as_deref_mut()
            && path.begin_probe(now)
        {
            self.pace.enlist(slot, &mut path.listed, now);
        }
    }

    fn send_waiting(&mut self, slot: u32, now: Micros) {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let Some(path) = peer.path.as_deref_mut() else { return };
        let mut left = path.allowance_of_waiting(now);
        let mut forwarded = 0;
        while left > 0 {
            let Some((media, sender, numbers)) = peer.path.as_deref_mut().and_then(|path| self.pace.pop(&mut path.waiting)) else {
                break;
            };
            left -= media.payload_len as i64;
            if !self.batch.has_room() {
                self.io.send(&mut self.batch, &self.metrics);
                self.batch.clear();
            }
            match peer.send(sender, &media, &numbers, &[], now, &mut self.batch) {
                Ok(()) => forwarded += 1,
                Err(reason) => self.metrics.count_drop(reason),
            }
        }
        self.metrics.add(Counter::MediaForwarded, forwarded);
    }

    /// Sends what is due of a probe: recent packets again, the newest first, or padding where none is kept, or the rate so low that a few whole
    /// packets would be a queue.
    fn send_probe(&mut self, slot: u32, now: Micros) {
        // What waits has not been sent.
        let mut back = self.path(slot).map_or(0, |path| path.waiting.packets as u16);
        while let Some((cluster, bytes)) = self.path(slot).and_then(|path| path.probe_due(now)) {
            if !self.batch.has_room() {
                self.flush();
            }
            let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
            let Some(sender) = peer.probing_sender() else { return peer.path.iter_mut().for_each(|path| path.give_up_probe()) };
            let shards = &self.shards;
            let candidate = |back| {
                let (source, sequence) = peer.senders.get(sender as usize)?.recent(back)?;
                let encoding = shards.get(source.track)?.encodings.get(source.encoding as usize)?;
                let media = encoding.cache.get(sequence.0 as u32)?;
                (usize::from(media.payload_len) >= PROBE_PAYLOAD_MIN).then_some(media)
            };
            let candidates = if bytes <= PROBE_PAYLOAD_MIN { 0 } else { CANDIDATES };
            let found = (back..back + candidates).find_map(|back| Some((back, candidate(back)?)));
            back = found.map_or(back, |(found, _)| found + 1);
            if peer.probe(sender, found.map(|(_, media)| media), cluster, now, &mut self.batch).is_err() {
                return peer.path.iter_mut().for_each(|path| path.give_up_probe());
            }
            self.metrics.add(Counter::Probed, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Arena, Slots};
    use crate::units::{ExtendedSequence, RtpTime, TrackId};
    use crate::wire::layer::Layer;
    use crate::wire::picture::PictureIds;

    fn media(slots: &mut Slots, sequence: u64, payload_len: u16) -> Media {
        Media {
            track: TrackId::default(),
            packet: slots.take().expect("a slot").freeze(),
            header_len: 12,
            payload_len,
            padding: 0,
            stream: 0,
            encoding: 0,
            layer: Layer::default(),
            marker: false,
            key_frame: false,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(sequence as u32 / 10),
            arrival: Micros::ZERO,
            extensions: Default::default(),
            dependency: None,
            picture: PictureIds::default(),
        }
    }

    fn numbers(sequence: u64) -> Rewritten {
        let sequence = ExtendedSequence(1_000 + sequence);
        Rewritten {
            sequence,
            timestamp: RtpTime(0),
            picture_number: 0,
            tl0_pic_idx: 0,
            marker: false,
            blank: false,
            template_id_shift: 0,
            limits: None,
        }
    }

    #[test]
    fn each_viewers_packets_wait_in_their_order_and_places_are_used_again() {
        let mut slots = Arena::leak(256);
        let (mut pace, mut lists) = (Pace::default(), [Waiting::default(); 3]);
        for round in 0..5u64 {
            for step in 0..60 {
                let list = &mut lists[step as usize % 3];
                assert!(pace.push(list, step as u16 % 2, numbers(60 * round + step), media(&mut slots, 60 * round + step, 1000)));
            }
            assert_eq!(lists.map(|list| (list.packets, list.bytes)), [(20, 20_000); 3]);
            for (index, list) in lists.iter_mut().enumerate() {
                let popped: Vec<_> = std::iter::from_fn(|| pace.pop(list)).collect();
                let expected: Vec<_> = (0..20).map(|step| 60 * round + index as u64 + 3 * step).collect();
                assert_eq!(popped.iter().map(|(media, ..)| media.sequence.0).collect::<Vec<_>>(), expected);
                assert!(popped.iter().all(|(media, sender, numbers)| {
                    (*sender, numbers.sequence.0) == (media.sequence.0 as u16 % 2, 1_000 + media.sequence.0)
                }));
                assert_eq!((list.first, list.last, list.packets, list.bytes), (NONE, NONE, 0, 0));
            }
        }
        assert_eq!((pace.count, pace.places.len(), slots.available()), (0, 60, 256));
    }

    #[test]
    fn one_viewer_has_its_share_of_the_room_and_no_more() {
        let mut slots = Arena::leak(PACED_PER_PEER + 8);
        let (mut pace, mut list) = (Pace::default(), Waiting::default());
        let taken = (0..PACED_PER_PEER as u64 + 4)
            .filter(|step| pace.push(&mut list, 0, numbers(*step), media(&mut slots, *step, 100)))
            .count();
        assert_eq!(taken, PACED_PER_PEER);
        assert!(!pace.has_room(&list, 1));
        let mut another = Waiting::default();
        assert!(pace.has_room(&another, PACED_PER_PEER) && !pace.has_room(&another, PACED_PER_PEER + 1));
        pace.count = PACED_PACKETS / 2 - 10;
        assert!(pace.has_room(&another, 10) && !pace.has_room(&another, 11), "half is for what is live");
        assert!(pace.push(&mut another, 0, numbers(1), media(&mut slots, 1, 100)));
    }
}
