//! The packets on their way to receivers, grouped by track and encoding, so that the fan-out can go receiver by receiver: all packets that are
//! due for one receiver together, its keys and numbering touched once, sent as one train.
//!
//! Most leave in the turn in which they came. A worker that is busy holds the packets of a video frame until the frame is whole
//! or a bound is reached (`worker::hold`), so that trains get longer.

use super::shard::{Encoding, NONE, Shard, Shards};
use crate::limits::{PADDING_MAX, TRAIN_SEGMENTS, TURN_MEDIA};
use crate::metrics::DropReason;
use crate::rtp::media::Media;
use crate::units::{Micros, TrackId};

/// The waiting packets of one encoding of a track, as a list in [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    first: u32,
    last: u32,
    /// Arrival of the first.
    since: Micros,
    /// Nothing to wait for any more: the last packet ends a frame, or there are no frames.
    whole: bool,
    /// To be sent now.
    pub(super) due: bool,
}

struct Place {
    media: Option<Media>,
    /// Next packet of the same encoding, or next free place.
    next: u32,
}

/// The media packets that are on their way.
pub struct Turn {
    places: Vec<Place>,
    free: u32,
    count: usize,
    /// Encodings with packets; after [`Turn::select`], those that are due first.
    tracks: Vec<(TrackId, u8)>,
    due: usize,
    /// Those among them that are whole.
    whole: usize,
    /// Arrival of the packet that has waited longest.
    since: Micros,
}

impl Default for Turn {
    fn default() -> Self {
        let (places, tracks) = (Vec::with_capacity(TURN_MEDIA), Vec::with_capacity(TURN_MEDIA));
        Turn { places, free: NONE, count: 0, tracks, due: 0, whole: 0, since: Micros::ZERO }
    }
}

impl Turn {
    /// Adds a packet to its track's list.
    pub fn push(&mut self, media: Media, shards: &mut Shards) -> Result<(), DropReason> {
        if self.is_full() {
            return Err(DropReason::TurnFull);
        }
        // No shard: the track was closed while the packet was on its way.
        let Some(shard) = shards.get(media.track) else { return Err(DropReason::NotPublishing) };
        let (track, encoding, since, companion) = (media.track, media.encoding, media.arrival, shard.companion);
        if encoding as usize >= shard.encodings.len() {
            return Err(DropReason::SsrcLimit);
        }
        let whole = match shard.has_frames {
            true => media.marker,
            // Sound waits for the next frame of its video, if that goes to the same receivers.
            false => !companion.and_then(|video| shards.get(video)).is_some_and(Shard::has_subscribers),
        };
        let index = self.place(media);
        let place = shards.get_mut(track).and_then(|shard| shard.encodings.get_mut(encoding as usize));
        let Some(Encoding { waiting, .. }) = place else { return Err(DropReason::NotPublishing) };
        match waiting {
            Some(waiting) => {
                self.places[std::mem::replace(&mut waiting.last, index) as usize].next = index;
                self.whole += (whole && !waiting.whole) as usize;
                waiting.whole |= whole;
            }
            none => {
                *none = Some(Waiting { first: index, last: index, since, whole, due: false });
                self.since = if self.tracks.is_empty() { since } else { self.since.min(since) };
                self.whole += whole as usize;
                self.tracks.push((track, encoding));
            }
        }
        Ok(())
    }

    fn place(&mut self, media: Media) -> u32 {
        self.count += 1;
        match self.places.get_mut(self.free as usize) {
            Some(place) => {
                let index = std::mem::replace(&mut self.free, place.next);
                *place = Place { media: Some(media), next: NONE };
                index
            }
            None => {
                self.places.push(Place { media: Some(media), next: NONE });
                (self.places.len() - 1) as u32
            }
        }
    }

    /// Takes a packet out: it, and the index of the next of its encoding.
    fn take(&mut self, index: u32) -> Option<(Media, u32)> {
        let place = self.places.get_mut(index as usize)?;
        let media = place.media.take()?;
        self.count -= 1;
        let next = std::mem::replace(&mut place.next, std::mem::replace(&mut self.free, index));
        Some((media, next))
    }

    pub fn is_full(&self) -> bool {
        self.count >= TURN_MEDIA
    }

    /// When a packet that waits has waited for `hold`.
    pub fn next_due(&self, hold: Micros) -> Option<Micros> {
        (!self.tracks.is_empty()).then(|| self.since + hold)
    }

    /// Chooses what is sent now: tracks with a whole frame or without frames, and what has waited for `hold`; and makes the
    /// sizes of what is chosen equal where that costs little. True if there is something.
    pub fn select(&mut self, now: Micros, hold: Micros, shards: &mut Shards) -> bool {
        let all = self.is_full();
        if self.tracks.is_empty() || (self.whole == 0 && !all && now.since(self.since) < hold.0) {
            return false;
        }
        for index in 0..self.tracks.len() {
            let (track, encoding) = self.tracks[index];
            let Some(waiting) = shards.get(track).and_then(|shard| shard.waiting(encoding)) else { continue };
            if all || waiting.whole || now.since(waiting.since) >= hold.0 {
                self.choose(index, shards);
            }
        }
        // The sound that goes with the chosen frames; and how long the rest has waited.
        self.since = Micros::NEVER;
        for index in self.due..self.tracks.len() {
            let (track, encoding) = self.tracks[index];
            let Some(shard) = shards.get(track) else { continue };
            if shard.companion.and_then(|video| shards.get(video)).is_some_and(|video| video.due() != 0) {
                self.choose(index, shards);
            } else if let Some(waiting) = shard.waiting(encoding) {
                self.since = self.since.min(waiting.since);
            }
        }
        self.due > 0
    }

    /// Moves an encoding to those that are due.
    fn choose(&mut self, index: usize, shards: &mut Shards) {
        let (track, encoding) = self.tracks[index];
        let Some(shard) = shards.get_mut(track) else { return };
        let Some(waiting) = shard.encodings.get_mut(encoding as usize).and_then(|place| place.waiting.as_mut()) else { return };
        waiting.due = true;
        self.whole -= waiting.whole as usize;
        let first = waiting.first;
        self.even_out(first);
        self.tracks.swap(index, self.due);
        self.due += 1;
    }

    /// Tracks and their encodings with packets that are due.
    pub fn tracks(&self) -> &[(TrackId, u8)] {
        &self.tracks[..self.due]
    }

    /// The packets of one encoding that are due, in order of arrival.
    pub fn packets(&self, shard: &Shard, encoding: u8) -> impl Iterator<Item = &Media> {
        let waiting = shard.waiting(encoding).filter(|waiting| waiting.due);
        let mut index = waiting.map_or(NONE, |waiting| waiting.first);
        std::iter::from_fn(move || {
            let place = self.places.get(index as usize)?;
            index = place.next;
            place.media.as_ref()
        })
    }

    /// Ends what was due: the packets go to their tracks' retransmission caches.
    pub fn finish(&mut self, shards: &mut Shards) {
        let due = std::mem::take(&mut self.due);
        for index in 0..due {
            let (track, encoding) = self.tracks[index];
            let Some(shard) = shards.get_mut(track) else { continue };
            let watched = shard.has_subscribers();
            let Some(place) = shard.encodings.get_mut(encoding as usize) else { continue };
            let mut next = place.waiting.take().map_or(NONE, |waiting| waiting.first);
            while let Some((media, after)) = self.take(next) {
                next = after;
                if watched {
                    place.cache.insert(media);
                }
            }
        }
        self.tracks.drain(..due);
    }

    /// Drops the waiting packets of a track that is closed.
    pub fn forget(&mut self, shard: &mut Shard) {
        for place in &mut shard.encodings {
            let Some(waiting) = place.waiting.take() else { continue };
            let mut next = waiting.first;
            while let Some((_, after)) = self.take(next) {
                next = after;
            }
            self.whole -= waiting.whole as usize;
        }
        self.tracks.retain(|(track, _)| *track != shard.track);
    }

    /// Gives runs of packets that differ by a few bytes a common length by RTP padding (RFC 3550 §5.1): only equal ones can
    /// leave as one train, and a send costs as much as a kilobyte of ciphertext. The last of a run may be shorter anyway.
    ///
    /// The padding belongs to the packet, not to a receiver: a retransmission must be the same bit by bit.
    fn even_out(&mut self, first: u32) {
        let mut start = first;
        while let Some(head) = self.media(start) {
            let (mut widest, mut narrowest) = (head.payload_len, head.payload_len);
            let (mut end, mut next, mut count) = (start, self.next(start), 1);
            while let Some(media) = self.media(next)
                && count < TRAIN_SEGMENTS
                && alike(head, media)
                && widest.max(media.payload_len) - narrowest <= PADDING_MAX
            {
                let len = media.payload_len;
                widest = widest.max(len);
                (end, next, count) = (next, self.next(next), count + 1);
                if len + PADDING_MAX < widest {
                    break;
                }
                narrowest = narrowest.min(len);
            }
            while start != end {
                let Some(place) = self.places.get_mut(start as usize) else { return };
                if let Some(media) = &mut place.media {
                    media.padding = (widest - media.payload_len) as u8;
                }
                start = place.next;
            }
            start = next;
        }
    }

    fn media(&self, index: u32) -> Option<&Media> {
        self.places.get(index as usize)?.media.as_ref()
    }

    fn next(&self, index: u32) -> u32 {
        self.places.get(index as usize).map_or(NONE, |place| place.next)
    }
}

/// Whether two packets of a track have headers of equal length at every receiver.
fn alike(one: &Media, other: &Media) -> bool {
    let shapes = one.extensions.iter().zip(&other.extensions);
    one.stream == other.stream
        && one.layer.spatial == other.layer.spatial
        && one.extensions.len() == other.extensions.len()
        && shapes.into_iter().all(|(a, b)| (a.kind, a.len) == (b.kind, b.len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Arena, Slots};
    use crate::rtp::config::MediaKind;
    use crate::units::{ExtendedSequence, RtpTime, WorkerId};
    use crate::wire::layer::Layer;
    use crate::wire::picture::PictureIds;

    const VIDEO: TrackId = TrackId { slot: 1, generation: 1 };
    const AUDIO: TrackId = TrackId { slot: 2, generation: 1 };

    struct Bench {
        slots: Slots,
        shards: Shards,
        turn: Turn,
        sequence: u64,
    }

    impl Bench {
        fn new() -> Bench {
            let mut shards = Shards::default();
            for (track, kind, companion) in [(VIDEO, MediaKind::Video, None), (AUDIO, MediaKind::Audio, Some(VIDEO))] {
                shards.open(Box::new(Shard::new(track, WorkerId(0), 0, kind, companion, 1, 16)));
            }
            Bench { slots: Arena::leak(TURN_MEDIA + 16), shards, turn: Turn::default(), sequence: 100 }
        }

        fn push(&mut self, track: TrackId, millis: u64, marker: bool, payload_len: u16) {
            self.sequence += 1;
            let media = Media {
                track,
                packet: self.slots.take().expect("a slot").freeze(),
                header_len: 12,
                payload_len,
                padding: 0,
                stream: 0,
                encoding: 0,
                layer: Layer::default(),
                marker,
                key_frame: false,
                sequence: ExtendedSequence(self.sequence),
                timestamp: RtpTime(0),
                arrival: Micros::from_millis(millis),
                extensions: Default::default(),
                dependency: None,
                picture: PictureIds::default(),
            };
            self.turn.push(media, &mut self.shards).expect("room");
        }

        /// Payload length and padding of the packets of a track that are due.
        fn due(&self, track: TrackId) -> Vec<(u16, u8)> {
            let shard = self.shards.get(track).expect("open");
            self.turn.packets(shard, 0).map(|media| (media.payload_len, media.padding)).collect()
        }

        fn select(&mut self, millis: u64, hold: u64) -> bool {
            self.turn.select(Micros::from_millis(millis), Micros::from_millis(hold), &mut self.shards)
        }
    }

    #[test]
    fn sizes_that_nearly_match_are_evened_out_and_the_last_may_be_shorter() {
        let mut bench = Bench::new();
        for len in [1180, 1179, 1181, 600, 1100, 1117, 1150, 1151] {
            bench.push(VIDEO, 0, false, len);
        }
        assert!(bench.select(0, 0));
        let padded = [(1180, 1), (1179, 2), (1181, 0), (600, 0), (1100, 0), (1117, 0), (1150, 1), (1151, 0)];
        assert_eq!(bench.due(VIDEO), padded);
    }

    #[test]
    fn a_frame_waits_for_its_end_or_the_bound_and_sound_alone_for_nothing() {
        let mut bench = Bench::new();
        bench.push(VIDEO, 1, false, 1000);
        assert!(!bench.select(2, 10));
        assert_eq!(bench.turn.next_due(Micros::from_millis(10)), Some(Micros::from_millis(11)));
        bench.push(AUDIO, 3, false, 100);
        assert!(bench.select(3, 10));
        assert_eq!((bench.turn.tracks(), bench.due(AUDIO).len(), bench.due(VIDEO).len()), (&[(AUDIO, 0)][..], 1, 0));
        bench.turn.finish(&mut bench.shards);
        assert!(!bench.select(4, 10));
        bench.push(VIDEO, 5, true, 900);
        assert!(bench.select(5, 10));
        assert_eq!(bench.due(VIDEO), [(1000, 0), (900, 0)]);
        bench.turn.finish(&mut bench.shards);
        bench.push(VIDEO, 20, false, 1000);
        assert!(!bench.select(29, 10));
        assert!(bench.select(30, 10), "the bound");
        bench.turn.finish(&mut bench.shards);
        assert_eq!((bench.turn.count, bench.turn.next_due(Micros::ZERO)), (0, None));
        assert_eq!(bench.slots.available(), TURN_MEDIA + 16, "nobody watches: nothing is kept");
    }

    #[test]
    fn sound_travels_with_the_frames_of_its_video() {
        let mut bench = Bench::new();
        assert!(bench.shards.subscribe(VIDEO, super::super::shard::Subscriber { peer: 1, sender: 0 }).is_some());
        bench.push(AUDIO, 1, false, 100);
        bench.push(VIDEO, 2, false, 1000);
        assert!(!bench.select(3, 10));
        bench.push(VIDEO, 4, true, 1000);
        assert!(bench.select(4, 10));
        assert_eq!((bench.due(AUDIO).len(), bench.due(VIDEO).len()), (1, 2));
        bench.turn.finish(&mut bench.shards);
        bench.push(AUDIO, 5, false, 100);
        bench.push(VIDEO, 14, false, 1000);
        assert!(bench.select(15, 10), "the bound");
        assert_eq!((bench.due(AUDIO).len(), bench.due(VIDEO).len()), (1, 0));
    }

    #[test]
    fn a_track_that_closes_takes_its_waiting_packets_with_it() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.push(VIDEO, 1, false, 1000);
        }
        let mut shard = bench.shards.close(VIDEO, |_| ()).expect("open");
        bench.turn.forget(&mut shard);
        assert!(!bench.select(100, 0));
        assert_eq!(bench.slots.available(), TURN_MEDIA + 16);
        for _ in 0..TURN_MEDIA {
            bench.push(AUDIO, 1, false, 100);
        }
        assert!(bench.turn.is_full() && bench.turn.places.len() == TURN_MEDIA);
        assert!(bench.select(1, 1000), "full");
        assert_eq!(bench.due(AUDIO).len(), TURN_MEDIA);
    }
}
