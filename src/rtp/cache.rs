//! The recent packets of a track, shared by all its receivers on one worker: what a NACK is answered from.
//!
//! A ring indexed by sequence number; a packet leaves when its place is needed or after [`AGE_MICROS_MAX`], so that a slow
//! track does not hold arena slots for minutes.

use crate::rtp::media::Media;
use crate::units::{ExtendedSequence, Micros};

/// Age at which a packet is of no use to any receiver.
const AGE_MICROS_MAX: u64 = 1_500_000;

/// Packets of one track, newest `capacity` at most.
pub struct Cache {
    ring: Box<[Option<Media>]>,
    oldest: ExtendedSequence,
    newest: ExtendedSequence,
    stream: u8,
}

impl Cache {
    /// `capacity` must be a power of two, or 0 for a track that nobody retransmits.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity == 0 || capacity.is_power_of_two());
        Cache { ring: (0..capacity).map(|_| None).collect(), oldest: ExtendedSequence(1), newest: ExtendedSequence(0), stream: 0 }
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
    }

    /// A packet by the track's own sequence number; `low` is its lower 32 bits.
    pub fn get(&self, low: u32) -> Option<&Media> {
        if self.ring.is_empty() {
            return None;
        }
        let media = self.ring[low as usize & (self.ring.len() - 1)].as_ref()?;
        (media.sequence.0 as u32 == low).then_some(media)
    }

    /// Lets go of packets that are too old; for tracks that have stopped sending.
    pub fn expire(&mut self, now: Micros) {
        if self.newest >= self.oldest
            && !self.ring.is_empty()
            && let Some(newest) = self.get(self.newest.0 as u32)
            && now.since(newest.arrival) > AGE_MICROS_MAX
        {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.ring.fill_with(|| None);
        (self.oldest, self.newest) = (ExtendedSequence(1), ExtendedSequence(0));
    }

    fn place(&self, sequence: ExtendedSequence) -> usize {
        sequence.0 as usize & (self.ring.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Arena;
    use crate::units::{RtpTime, TrackId};
    use crate::wire::picture::PictureIds;

    #[test]
    fn keeps_the_newest_and_frees_what_leaves() {
        let mut slots = Arena::leak(64);
        let mut cache = Cache::new(16);
        for sequence in 65_536..65_636u64 {
            let mut packet = slots.take().expect("a slot");
            packet.fill(&sequence.to_be_bytes());
            cache.insert(Media {
                track: TrackId::default(),
                packet: packet.freeze(),
                header_len: 0,
                payload_len: 8,
                padding: 0,
                stream: 0,
                marker: false,
                key_frame: false,
                sequence: ExtendedSequence(sequence),
                timestamp: RtpTime(0),
                arrival: Micros(sequence * 1_000),
                extensions: Default::default(),
                picture: PictureIds::default(),
            });
        }
        assert_eq!(slots.available(), 64 - 16);
        assert_eq!(cache.get(65_635).map(|media| media.payload().to_owned()), Some(65_635u64.to_be_bytes().to_vec()));
        assert!(cache.get(65_619).is_none());
        assert!(cache.get(65_620).is_some());
        cache.expire(Micros::from_secs(100));
        assert_eq!(slots.available(), 64);
    }
}
