//! The recent packets of one encoding of a track, shared by all its receivers on one worker: what a NACK is answered from, and what a
//! viewer that comes can begin with.
//!
//! A ring indexed by sequence number; a packet leaves when its place is needed or after [`AGE_MICROS_MAX`], so that a slow
//! track does not hold arena slots for minutes.
//!
//! The newest key frame and all that came after it are a [`Run`]. Who begins with it has a picture at once, and the publisher need not
//! be asked for a key frame, which would be a burst to everybody else. But it begins in the past, by the age of the key frame, and has
//! to catch up. So a run is given only while it is young ([`RUN_MILLIS_MAX`]: then what is lost of it on the way can still be sent
//! again from here for half a second) and small ([`RUN_BYTES_MAX`]).

use crate::limits::{RUN_BYTES_MAX, RUN_MILLIS_MAX};
use crate::rtp::media::Media;
use crate::units::{ExtendedSequence, Micros, RtpTime};

/// Age at which a packet is of no use to any receiver.
const AGE_MICROS_MAX: u64 = 1_500_000;
/// For so long what is missing of a run may yet be repaired: the publisher is asked for it, and all receivers wait alike.
const REPAIR_MICROS_MAX: u64 = 200_000;

const _: () = assert!(RUN_MILLIS_MAX * 1_000 + 500_000 <= AGE_MICROS_MAX);

/// Packets of one encoding, newest `capacity` at most.
pub struct Cache {
    ring: Box<[Option<Media>]>,
    oldest: ExtendedSequence,
    newest: ExtendedSequence,
    stream: u8,
    run: Option<Run>,
}

/// A key frame and everything that came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    first: ExtendedSequence,
    timestamp: RtpTime,
    /// When the key frame's first packet came.
    pub arrival: Micros,
    pub packets: usize,
    /// Of payload.
    pub bytes: usize,
    /// When nothing of it was missing.
    whole_at: Micros,
}

impl Cache {
    /// `capacity` must be a power of two, or 0 for a track that nobody retransmits.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity == 0 || capacity.is_power_of_two());
        let (oldest, newest) = (ExtendedSequence(1), ExtendedSequence(0));
        Cache { ring: (0..capacity).map(|_| None).collect(), oldest, newest, stream: 0, run: None }
    }

    /// Keeps a packet.
    pub fn insert(&mut self, media: Media) {
        if self.ring.is_empty() {
            return;
        }
        if media.stream != self.stream {
            self.clear();
            self.stream = media.stream;
        }
        let (sequence, now) = (media.sequence, media.arrival);
        if self.newest < self.oldest || sequence.0 >= self.newest.0 + self.ring.len() as u64 {
            self.clear();
            (self.oldest, self.newest) = (sequence, sequence);
        } else if sequence > self.newest {
            self.newest = sequence;
        } else if sequence < self.oldest {
            // Reordered around the first packet kept: there is room for it as long as nothing newer has its place.
            if self.newest.0 - sequence.0 >= self.ring.len() as u64 {
                return;
            }
            self.oldest = sequence;
        }
        let place = self.place(sequence);
        self.ring[place] = Some(media);
        while self.oldest < self.newest {
            let place = self.place(self.oldest);
            let overtaken = self.newest.0 - self.oldest.0 >= self.ring.len() as u64;
            let expired = self.ring[place].as_ref().is_none_or(|old| now.since(old.arrival) > AGE_MICROS_MAX);
            if !overtaken && !expired {
                break;
            }
            // When overtaken, the place already holds the newer packet.
            if self.ring[place].as_ref().is_some_and(|old| old.sequence == self.oldest) {
                self.ring[place] = None;
            }
            self.oldest.0 += 1;
        }
        self.follow(sequence, now);
    }

    /// Counts a packet that was kept into the run, or begins a new one with it.
    fn follow(&mut self, sequence: ExtendedSequence, now: Micros) {
        if self.run.is_some_and(|run| run.first < self.oldest) {
            self.run = None;
        }
        let Some(media) = self.get(sequence.0 as u32) else { return };
        let (timestamp, bytes) = (media.timestamp, media.payload_len as usize);
        // Without the templates nothing after it could be read (AV1 RTP specification, A.4).
        let decodable = media.dependency.as_ref().is_none_or(|dependency| dependency.layout.structure);
        let begins = media.key_frame
            && decodable
            && self.run.is_none_or(|run| match run.timestamp == timestamp {
                // More than one packet of a key frame may look like its first: parameter sets, then the slice.
                true => sequence < run.first,
                false => sequence > run.first,
            });
        if begins {
            // What follows it may have come before it.
            let (mut packets, mut bytes) = (0, 0);
            for media in self.since(sequence) {
                packets += 1;
                bytes += media.payload_len as usize;
            }
            self.run = Some(Run { first: sequence, timestamp, arrival: now, packets, bytes, whole_at: now });
        } else if let Some(run) = self.run.as_mut().filter(|run| sequence > run.first) {
            run.packets += 1;
            run.bytes += bytes;
        }
        let newest = self.newest;
        if let Some(run) = self.run.as_mut().filter(|run| run.is_whole(newest)) {
            run.whole_at = now;
        }
    }

    /// The newest key frame and what came after it, for a viewer that begins now. None if there is none, if it is too old or too large,
    /// or if something of it is missing that will hardly come any more.
    pub fn run(&self, now: Micros) -> Option<&Run> {
        let run = self.run.as_ref()?;
        let repaired = run.is_whole(self.newest) || now.since(run.whole_at) <= REPAIR_MICROS_MAX;
        let useful = now.since(run.arrival) <= RUN_MILLIS_MAX * 1_000 && run.bytes <= RUN_BYTES_MAX;
        (repaired && useful).then_some(run)
    }

    /// When the newest packet came, if any has.
    pub fn heard(&self) -> Option<Micros> {
        self.get(self.newest.0 as u32).map(|media| media.arrival)
    }

    /// The packets of a run, in order.
    pub fn packets(&self, run: &Run) -> impl Iterator<Item = &Media> {
        self.since(run.first)
    }

    fn since(&self, first: ExtendedSequence) -> impl Iterator<Item = &Media> {
        (first.0..=self.newest.0).filter_map(|sequence| self.get(sequence as u32))
    }

    /// A packet by the track's own sequence number; `low` is its lower 32 bits.
    pub fn get(&self, low: u32) -> Option<&Media> {
        if self.ring.is_empty() {
            return None;
        }
        let media = self.ring[low as usize & (self.ring.len() - 1)].as_ref()?;
        (media.sequence.0 as u32 == low).then_some(media)
    }

    /// Lets go of everything: nobody watches any more, and what is kept later does not follow what was kept before.
    pub fn clear(&mut self) {
        self.ring.fill_with(|| None);
        (self.oldest, self.newest) = (ExtendedSequence(1), ExtendedSequence(0));
        self.run = None;
    }

    fn place(&self, sequence: ExtendedSequence) -> usize {
        sequence.0 as usize & (self.ring.len() - 1)
    }
}

impl Run {
    fn is_whole(&self, newest: ExtendedSequence) -> bool {
        self.packets as u64 == newest.0 - self.first.0 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Arena, Slots};
    use crate::units::TrackId;
    use crate::wire::layer::Layer;
    use crate::wire::picture::PictureIds;

    /// A packet every ten milliseconds, three to a picture.
    fn media(slots: &mut Slots, sequence: u64, key_frame: bool) -> Media {
        let mut packet = slots.take().expect("a slot");
        packet.fill(&sequence.to_be_bytes());
        Media {
            track: TrackId::default(),
            packet: packet.freeze(),
            header_len: 0,
            payload_len: 8,
            padding: 0,
            stream: 0,
            encoding: 0,
            layer: Layer::default(),
            marker: false,
            key_frame,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(sequence as u32 / 3),
            arrival: at(sequence),
            extensions: Default::default(),
            dependency: None,
            picture: PictureIds::default(),
        }
    }

    fn at(sequence: u64) -> Micros {
        Micros::from_millis(sequence * 10)
    }

    /// A cache that was given these packets, in this order; those in `keys` begin key frames.
    fn filled(sequences: impl IntoIterator<Item = u64>, keys: &[u64]) -> Cache {
        let (mut slots, mut cache) = (Arena::leak(256), Cache::new(128));
        for sequence in sequences {
            cache.insert(media(&mut slots, sequence, keys.contains(&sequence)));
        }
        cache
    }

    /// The sequence numbers that a viewer would be given when so many milliseconds have passed since packet 0.
    fn run(cache: &Cache, millis: u64) -> Option<Vec<u64>> {
        let run = cache.run(Micros::from_millis(millis))?;
        let packets: Vec<u64> = cache.packets(run).map(|media| media.sequence.0).collect();
        assert_eq!((run.packets, run.bytes), (packets.len(), 8 * packets.len()));
        Some(packets)
    }

    #[test]
    fn keeps_the_newest_and_frees_what_leaves() {
        let mut slots = Arena::leak(64);
        let mut cache = Cache::new(16);
        for sequence in 65_536..65_636u64 {
            cache.insert(media(&mut slots, sequence, false));
        }
        assert_eq!(slots.available(), 64 - 16);
        assert_eq!(cache.get(65_635).map(|media| media.payload().to_owned()), Some(65_635u64.to_be_bytes().into()));
        assert!(cache.get(65_619).is_none());
        assert!(cache.get(65_620).is_some());
        cache.clear();
        assert_eq!(slots.available(), 64);
    }

    #[test]
    fn a_run_is_the_newest_key_frame_and_all_after_it() {
        assert_eq!(run(&filled(300..340, &[]), 3_400), None, "no key frame");
        assert_eq!(run(&filled(300..340, &[300, 321]), 3_400), Some((321..340).collect()));
        assert_eq!(run(&filled(300..340, &[339]), 3_400), Some(vec![339]));
        // Parameter sets and the slice both look like the first packet: 321, 322 and 323 are one picture.
        assert_eq!(run(&filled(300..340, &[321, 322]), 3_400), Some((321..340).collect()));
        assert_eq!(run(&filled((300..321).chain([322, 321]).chain(323..340), &[321, 322]), 3_400), Some((321..340).collect()));
    }

    #[test]
    fn what_comes_out_of_order_is_given_in_order() {
        let late = |late: u64, after: u64| (300..=after).filter(move |other| *other != late).chain([late]).chain(after + 1..340);
        assert_eq!(run(&filled(late(325, 327), &[321]), 3_400), Some((321..340).collect()));
        assert_eq!(run(&filled(late(321, 324), &[321]), 3_400), Some((321..340).collect()), "its first packet comes late");
        assert_eq!(run(&filled(late(310, 324), &[310, 321]), 3_400), Some((321..340).collect()), "an older key frame comes late");
    }

    #[test]
    fn what_is_missing_is_waited_for_a_while_and_not_for_ever() {
        let cache = filled((300..330).chain(331..345), &[321]);
        assert_eq!(run(&cache, 3_450), Some((321..345).filter(|sequence| *sequence != 330).collect()), "it may still come");
        let cache = filled((300..330).chain(331..360), &[321]);
        assert_eq!(run(&cache, 3_600), None, "it is given up");
        let cache = filled((300..330).chain(331..360).chain([330]), &[321]);
        assert_eq!(run(&cache, 3_600), Some((321..360).collect()), "it came");
        let cache = filled((300..330).chain(331..360), &[321, 333]);
        assert_eq!(run(&cache, 3_600), Some((333..360).collect()), "it is of before the key frame");
    }

    #[test]
    fn what_is_old_large_or_of_another_stream_is_not_given() {
        let cache = filled(300..340, &[321]);
        assert!(run(&cache, 3_210 + RUN_MILLIS_MAX).is_some());
        assert_eq!(run(&cache, 3_211 + RUN_MILLIS_MAX), None);
        // The ring is full before the second is over.
        let cache = filled(300..400, &[300]);
        assert!(run(&cache, 4_000).is_some());
        let mut slots = Arena::leak(512);
        let fast = |slots: &mut Slots, sequence: u64| Media { arrival: at(300), ..media(slots, sequence, sequence == 300) };
        let mut cache = Cache::new(128);
        (300..428).for_each(|sequence| cache.insert(fast(&mut slots, sequence)));
        assert_eq!(cache.run(at(300)).map(|run| run.packets), Some(128));
        cache.insert(fast(&mut slots, 428));
        assert_eq!(cache.run(at(300)), None, "the key frame has left the ring");

        let large = |slots: &mut Slots, sequence: u64| Media { payload_len: 32 * 1024, ..media(slots, sequence, sequence == 300) };
        let mut cache = Cache::new(128);
        let most = (RUN_BYTES_MAX / (32 * 1024)) as u64;
        (300..300 + most).for_each(|sequence| cache.insert(large(&mut slots, sequence)));
        assert_eq!(cache.run(at(310)).map(|run| run.bytes), Some(RUN_BYTES_MAX));
        cache.insert(large(&mut slots, 300 + most));
        assert_eq!(cache.run(at(310)), None);

        let mut cache = filled(300..340, &[321]);
        cache.insert(Media { stream: 1, ..media(&mut slots, 340, false) });
        assert_eq!(run(&cache, 3_400), None, "its numbers are not those of the stream before it");
        let mut cache = filled(300..340, &[321]);
        cache.clear();
        cache.insert(media(&mut slots, 341, false));
        assert_eq!(run(&cache, 3_420), None);
    }
}
