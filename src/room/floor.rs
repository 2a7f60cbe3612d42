//! Who has the floor in a large room: of all that is published, the few tracks that everybody is sent.
//!
//! A track that speaks gets a place; whoever has one keeps it, silent or not, until somebody else needs it, and then the one that has been
//! silent for longest gives way. So a conversation among as many as there are places changes nothing, and of those who talk at a time
//! the first keep the floor. Free places go to anybody: in a room that is small enough all are sent.
//!
//! Those who gave way are remembered, as many as there are places: what was negotiated for them can be kept, for when they speak again.

use crate::units::{Micros, TrackId};

#[derive(Debug)]
pub struct Floor {
    places: usize,
    /// And when each last spoke.
    holders: Vec<(TrackId, Micros)>,
    /// Who gave way last comes first. Never empty while there is somebody without a place.
    others: Vec<TrackId>,
}

impl Floor {
    /// `places`: at least 1.
    pub fn new(places: usize) -> Floor {
        Floor { places: places.max(1), holders: Vec::new(), others: Vec::new() }
    }

    /// Decides anew, for what is published now and whether it speaks; whether anything has changed.
    pub fn settle(&mut self, published: &[(TrackId, bool)], now: Micros) -> bool {
        let there = |track: TrackId| published.iter().any(|(own, _)| *own == track);
        let before = self.holders.len() + self.others.len();
        self.holders.retain(|(track, _)| there(*track));
        self.others.retain(|track| there(*track));
        let mut changed = before != self.holders.len() + self.others.len();
        let speaks = |track: TrackId| published.iter().any(|(own, speaks)| *own == track && *speaks);
        self.holders.iter_mut().filter(|(track, _)| speaks(*track)).for_each(|holder| holder.1 = now);
        for (track, _) in published.iter().filter(|(_, speaks)| *speaks) {
            if self.holds(*track) {
                continue;
            }
            if self.holders.len() >= self.places && !self.displace(now) {
                break;
            }
            self.seat(*track, now);
            changed = true;
        }
        let mut rest = published.iter().map(|(track, _)| *track);
        while self.holders.len() < self.places
            && let Some(next) = self.others.first().copied().or_else(|| rest.find(|track| !self.holds(*track)))
        {
            self.seat(next, Micros::ZERO);
            changed = true;
        }
        if self.others.is_empty()
            && let Some(next) = rest.find(|track| !self.holds(*track))
        {
            self.others.push(next);
            changed = true;
        }
        changed
    }

    /// Takes the place of whoever has been silent for longest; false if all speak.
    fn displace(&mut self, now: Micros) -> bool {
        let silent = self.holders.iter().enumerate().filter(|(_, (_, spoke))| *spoke < now);
        let Some((index, _)) = silent.min_by_key(|(_, (_, spoke))| *spoke) else { return false };
        let (track, _) = self.holders.remove(index);
        self.others.insert(0, track);
        self.others.truncate(self.places);
        true
    }

    fn seat(&mut self, track: TrackId, spoke: Micros) {
        self.others.retain(|other| *other != track);
        self.holders.push((track, spoke));
    }

    pub fn holds(&self, track: TrackId) -> bool {
        self.holders.iter().any(|(own, _)| *own == track)
    }

    /// Whether it had a place not long ago.
    pub fn held(&self, track: TrackId) -> bool {
        self.others.contains(&track)
    }

    /// Who is next to have a place.
    pub fn next(&self) -> Option<TrackId> {
        self.others.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A room of so many tracks, with three places.
    struct Hall {
        floor: Floor,
        tracks: u32,
        second: u64,
    }

    fn track(slot: u32) -> TrackId {
        TrackId { slot, generation: 1 }
    }

    impl Hall {
        fn new(tracks: u32) -> Hall {
            Hall { floor: Floor::new(3), tracks, second: 1 }
        }

        /// A second in which these speak; who has a place then, and whether that has changed.
        fn speak(&mut self, speakers: &[u32]) -> (Vec<u32>, bool) {
            self.second += 1;
            let published: Vec<_> = (0..self.tracks).map(|slot| (track(slot), speakers.contains(&slot))).collect();
            let changed = self.floor.settle(&published, Micros::from_secs(self.second));
            let mut holders: Vec<u32> = self.floor.holders.iter().map(|(track, _)| track.slot).collect();
            holders.sort_unstable();
            (holders, changed)
        }
    }

    #[test]
    fn in_a_small_room_all_have_a_place() {
        let mut hall = Hall::new(3);
        assert_eq!(hall.speak(&[]), (vec![0, 1, 2], true));
        assert_eq!(hall.speak(&[0, 2]), (vec![0, 1, 2], false));
        assert_eq!(hall.floor.next(), None);
    }

    #[test]
    fn who_speaks_keeps_its_place_until_another_needs_it() {
        let mut hall = Hall::new(10);
        assert_eq!(hall.speak(&[5]), (vec![0, 1, 5], true));
        assert_eq!(hall.speak(&[7]), (vec![1, 5, 7], true), "it is somebody's who never spoke");
        assert_eq!(hall.speak(&[]), (vec![1, 5, 7], false), "silence changes nothing");
        assert_eq!(hall.speak(&[8]), (vec![5, 7, 8], true));
        assert_eq!(hall.speak(&[5]), (vec![5, 7, 8], false));
        assert_eq!(hall.speak(&[9]), (vec![5, 8, 9], true), "7 has been silent for longest");
        assert!(hall.floor.next() == Some(track(7)) && hall.floor.held(track(1)) && !hall.floor.held(track(9)));
        // A conversation among those who have one costs nothing.
        for speaker in [5, 8, 9, 5, 9, 8, 5] {
            assert!(!hall.speak(&[speaker]).1);
        }
    }

    #[test]
    fn of_those_who_talk_at_a_time_the_first_keep_the_floor() {
        let mut hall = Hall::new(10);
        hall.speak(&[4, 5, 6]);
        assert_eq!(hall.speak(&[1, 2, 3, 4, 5, 6]), (vec![4, 5, 6], false));
        assert_eq!(hall.speak(&[1, 2, 3, 4, 6]), (vec![1, 4, 6], true));
    }

    #[test]
    fn whoever_ends_makes_room_and_is_forgotten() {
        let mut hall = Hall::new(10);
        for speaker in [7, 8, 9, 1] {
            hall.speak(&[speaker]);
        }
        assert!(hall.floor.held(track(7)));
        hall.tracks = 9;
        assert_eq!(hall.speak(&[]), (vec![1, 7, 8], true), "who spoke last before");
        hall.tracks = 1;
        assert_eq!(hall.speak(&[]), (vec![0], true));
        assert!(hall.floor.others.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hall = Hall::new(200);
        for speaker in 0..200 {
            assert!(hall.speak(&[speaker]).0.contains(&speaker));
            assert!(hall.floor.holders.len() <= 3 && hall.floor.others.len() <= 3);
        }
    }
}
