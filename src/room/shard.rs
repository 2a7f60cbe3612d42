//! One worker's shard of a track: its subscribers on this core, the retransmission cache they share, and where its publisher is.
//!
//! Subscribers hang on a linked list in one slab, so joining and leaving cost no allocation.

use super::forward::Waiting;
use crate::limits::{QUALITIES_MAX, SUBSCRIPTIONS, TRACKS_MAX};
use crate::rtp::cache::Cache;
use crate::rtp::config::MediaKind;
use crate::rtp::layers::Layers;
use crate::rtp::report::SenderClock;
use crate::units::{TrackId, WorkerId};

pub(super) const NONE: u32 = u32::MAX;

/// A receiver of a track: one sender (outgoing m-line) of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub peer: u32,
    pub sender: u16,
}

#[derive(Clone, Copy)]
struct Link {
    subscriber: Subscriber,
    /// The encodings it is given, a bit each.
    encodings: u8,
    next: u32,
}

/// Of one simulcast encoding of a track.
pub struct Encoding {
    pub cache: Cache,
    /// Its packets that are not yet forwarded.
    pub(super) waiting: Option<Waiting>,
}

/// This worker's part of one track. Made by the control plane, boxed, so that a worker allocates nothing.
pub struct Shard {
    pub track: TrackId,
    /// The worker that owns the publisher's session.
    pub owner: WorkerId,
    /// The publisher's slot, on the owner.
    pub publisher: u32,
    /// On the owner: the other workers with subscribers, a bit each.
    pub others: u64,
    /// On the owner: every packet goes to the tap too.
    pub tapped: bool,
    /// By their index; one for a track without simulcast.
    pub encodings: Box<[Encoding]>,
    /// The publisher's last sender report for each of them.
    pub clocks: [Option<SenderClock>; QUALITIES_MAX],
    /// What flows, and what it costs.
    pub layers: Layers,
    /// First link of the subscribers' list.
    first: u32,
    /// Packets come in frames, the last of which has the marker bit: video.
    pub has_frames: bool,
    /// The video of the same publisher, with whose frames sound may travel.
    pub(super) companion: Option<TrackId>,
}

impl Shard {
    /// `companion`: for audio, a video track of the same publisher. `cache`: packets kept of each of `encodings`.
    pub fn new(
        track: TrackId,
        owner: WorkerId,
        publisher: u32,
        kind: MediaKind,
        companion: Option<TrackId>,
        encodings: usize,
        cache: usize,
    ) -> Self {
        let encodings = (0..encodings.clamp(1, QUALITIES_MAX)).map(|_| Encoding { cache: Cache::new(cache), waiting: None });
        Shard {
            track,
            owner,
            publisher,
            others: 0,
            tapped: false,
            encodings: encodings.collect(),
            clocks: [None; QUALITIES_MAX],
            layers: Layers::default(),
            first: NONE,
            has_frames: kind == MediaKind::Video,
            companion,
        }
    }

    pub(super) fn waiting(&self, encoding: u8) -> Option<Waiting> {
        self.encodings.get(encoding as usize)?.waiting
    }

    /// The encodings of which packets are about to be sent, a bit each.
    pub fn due(&self) -> u8 {
        let is_due = |encoding: &Encoding| encoding.waiting.is_some_and(|waiting| waiting.due);
        self.encodings.iter().enumerate().fold(0, |all, (index, encoding)| all | u8::from(is_due(encoding)) << index)
    }

    pub fn has_subscribers(&self) -> bool {
        self.first != NONE
    }
}

/// All shards of one worker.
pub struct Shards {
    by_slot: Vec<Option<Box<Shard>>>,
    links: Vec<Link>,
    free: u32,
}

impl Default for Shards {
    fn default() -> Self {
        Shards { by_slot: (0..TRACKS_MAX).map(|_| None).collect(), links: Vec::with_capacity(SUBSCRIPTIONS), free: NONE }
    }
}

impl Shards {
    /// Adds a shard; returns the one it replaces, for its maker to dispose of.
    pub fn open(&mut self, shard: Box<Shard>) -> Option<Box<Shard>> {
        match self.by_slot.get_mut(shard.track.slot as usize) {
            Some(place) => place.replace(shard),
            None => Some(shard),
        }
    }

    /// Takes a shard out. Its subscribers are passed to `unbind` one by one.
    pub fn close(&mut self, track: TrackId, mut unbind: impl FnMut(Subscriber)) -> Option<Box<Shard>> {
        self.get(track)?;
        let mut shard = self.by_slot.get_mut(track.slot as usize)?.take()?;
        let mut link = std::mem::replace(&mut shard.first, NONE);
        while let Some(Link { subscriber, next, .. }) = self.links.get(link as usize).copied() {
            unbind(subscriber);
            self.release(link);
            link = next;
        }
        Some(shard)
    }

    pub fn get(&self, track: TrackId) -> Option<&Shard> {
        self.by_slot.get(track.slot as usize)?.as_deref().filter(|shard| shard.track == track)
    }

    pub fn get_mut(&mut self, track: TrackId) -> Option<&mut Shard> {
        self.by_slot.get_mut(track.slot as usize)?.as_deref_mut().filter(|shard| shard.track == track)
    }

    /// Adds a subscriber, given the first encoding. None if the track is not here or the slab is full.
    pub fn subscribe(&mut self, track: TrackId, subscriber: Subscriber) -> Option<u32> {
        let shard = self.get(track)?;
        let link = Link { subscriber, encodings: 1, next: shard.first };
        let index = match self.links.get(self.free as usize).copied() {
            Some(free) => {
                let index = self.free;
                self.free = free.next;
                self.links[index as usize] = link;
                index
            }
            None if self.links.len() < SUBSCRIPTIONS => {
                self.links.push(link);
                (self.links.len() - 1) as u32
            }
            None => return None,
        };
        if let Some(shard) = self.get_mut(track) {
            shard.first = index;
        }
        Some(index)
    }

    /// Removes a subscriber.
    pub fn unsubscribe(&mut self, track: TrackId, subscriber: Subscriber) {
        let Some(shard) = self.get(track) else { return };
        let (mut before, mut index) = (NONE, shard.first);
        while let Some(link) = self.links.get(index as usize).copied() {
            if link.subscriber == subscriber {
                match self.links.get_mut(before as usize) {
                    Some(previous) => previous.next = link.next,
                    None => {
                        if let Some(shard) = self.get_mut(track) {
                            shard.first = link.next;
                            if !shard.has_subscribers() {
                                // What comes now is not kept, and who comes next must not be given what was.
                                shard.encodings.iter_mut().for_each(|encoding| encoding.cache.clear());
                            }
                        }
                    }
                }
                self.release(index);
                return;
            }
            (before, index) = (index, link.next);
        }
    }

    /// The subscribers of a track on this worker.
    pub fn subscribers(&self, track: TrackId) -> impl Iterator<Item = Subscriber> + '_ {
        self.links_of(track).map(|link| link.subscriber)
    }

    /// Those who are given any of `encodings`, a bit each.
    pub fn receivers(&self, track: TrackId, encodings: u8) -> impl Iterator<Item = Subscriber> + '_ {
        self.links_of(track).filter(move |link| link.encodings & encodings != 0).map(|link| link.subscriber)
    }

    fn links_of(&self, track: TrackId) -> impl Iterator<Item = &Link> + '_ {
        let mut index = self.get(track).map_or(NONE, |shard| shard.first);
        std::iter::from_fn(move || {
            let link = self.links.get(index as usize)?;
            index = link.next;
            Some(link)
        })
    }

    /// Sets which encodings a subscriber is given, a bit each; `link` is what [`Shards::subscribe`] gave.
    pub fn give(&mut self, link: u32, subscriber: Subscriber, encodings: u8) {
        if let Some(link) = self.links.get_mut(link as usize).filter(|link| link.subscriber == subscriber) {
            link.encodings = encodings;
        }
    }

    fn release(&mut self, index: u32) {
        if let Some(link) = self.links.get_mut(index as usize) {
            link.next = std::mem::replace(&mut self.free, index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_come_and_go_and_links_are_reused() {
        let mut shards = Shards::default();
        let (a, b) = (TrackId { slot: 1, generation: 1 }, TrackId { slot: 2, generation: 1 });
        for track in [a, b] {
            assert!(shards.open(Box::new(Shard::new(track, WorkerId(0), 0, MediaKind::Video, None, 1, 16))).is_none());
        }
        let member = |peer| Subscriber { peer, sender: 0 };
        for peer in 0..10 {
            assert!(shards.subscribe(a, member(peer)).is_some());
            assert!(shards.subscribe(b, member(peer)).is_some());
        }
        for peer in [0, 9, 5] {
            shards.unsubscribe(a, member(peer));
        }
        let mut left: Vec<_> = shards.subscribers(a).map(|subscriber| subscriber.peer).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 2, 3, 4, 6, 7, 8]);
        assert_eq!(shards.subscribers(b).count(), 10);
        let mut unbound = 0;
        assert!(shards.close(a, |_| unbound += 1).is_some());
        assert_eq!(unbound, 7);
        assert!(shards.subscribe(a, member(1)).is_none(), "closed");
        assert!(shards.subscribe(TrackId { slot: 2, generation: 2 }, member(1)).is_none(), "another tenant of the slot");
        assert_eq!(shards.links.len(), 20);
        for peer in 10..20 {
            assert!(shards.subscribe(b, member(peer)).is_some());
        }
        assert_eq!(shards.links.len(), 20, "freed links were used again");
        let link = shards.subscribe(b, member(30)).expect("room");
        shards.give(link, member(30), 0b10);
        shards.give(link, member(31), 0b100);
        assert_eq!(shards.receivers(b, 1 << 1).map(|subscriber| subscriber.peer).collect::<Vec<_>>(), [30]);
        assert!(shards.receivers(b, 1).all(|subscriber| subscriber.peer != 30) && shards.receivers(b, 1 << 2).count() == 0);
    }
}
