//! What a receiver was not sent of its source: so that what is left has consecutive numbers, a late packet and a retransmission get
//! the numbers they would have had, and a NACK for an outgoing number finds the packet behind it.
//!
//! A packet that is left out when it is the newest takes no number: all later ones move up by one. One that is left out late has
//! had a number kept for it, as for any missing packet; it is sent empty, so that the receiver sees no hole.

use crate::units::ExtendedSequence;

/// Packets of the source behind the newest of which this is known.
pub const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// A flag for each of the source's last [`WINDOW`] packets, by sequence number.
#[derive(Clone, Debug, Default)]
struct Flags([u64; WORDS]);

impl Flags {
    fn place(sequence: u64) -> (usize, u64) {
        ((sequence % WINDOW / 64) as usize, 1 << (sequence % 64))
    }

    fn set(&mut self, sequence: u64) {
        let (word, bit) = Self::place(sequence);
        self.0[word] |= bit;
    }

    fn has(&self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        self.0[word] & bit != 0
    }

    /// Clears the places of the numbers `from + 1 ..= to`.
    fn advance(&mut self, from: u64, to: u64) {
        if to - from >= WINDOW {
            self.0 = [0; WORDS];
            return;
        }
        let mut next = from + 1;
        while next <= to {
            let (word, bit) = Self::place(next);
            if bit == 1 && to - next >= 63 {
                self.0[word] = 0;
                next += 64;
            } else {
                self.0[word] &= !bit;
                next += 1;
            }
        }
    }

    /// How many are set after `sequence`, up to `newest`.
    fn count_after(&self, sequence: u64, newest: u64) -> u64 {
        let mut next = sequence + 1;
        let mut count = 0;
        while next <= newest {
            let (word, _) = Self::place(next);
            // From `next` to the end of its word or to the newest.
            let in_word = 64 - next % 64;
            let take = in_word.min(newest - next + 1);
            let mask = if take == 64 { u64::MAX } else { ((1 << take) - 1) << (next % 64) };
            count += (self.0[word] & mask).count_ones() as u64;
            next += take;
        }
        count
    }
}

/// What was left out of one source, for one receiver.
#[derive(Clone, Debug, Default)]
pub struct Thinning {
    /// The newest packet of the source, sent or not.
    newest: u64,
    /// Left out without a number.
    skipped: Flags,
    /// Left out with a number: sent empty.
    blank: Flags,
    /// First packets of pictures that were left out.
    pictures: Flags,
    /// Sent with a marker bit that the source's packet lacks: the higher spatial layers behind it were left out.
    marked: Flags,
    /// Number of the newest picture of the source.
    picture: Option<u16>,
}

/// How the numbers of a packet differ from those of a newer one that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    pub packets: u64,
    pub pictures: u16,
    pub blank: bool,
    pub marked: bool,
}

impl Thinning {
    /// Nothing has been left out of a source whose newest packet is `newest`.
    pub fn start(&mut self, newest: ExtendedSequence, picture: Option<u16>) {
        *self = Thinning { newest: newest.0, picture, ..Thinning::default() };
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    fn advance(&mut self, sequence: u64) {
        for flags in [&mut self.skipped, &mut self.blank, &mut self.pictures, &mut self.marked] {
            flags.advance(self.newest, sequence);
        }
        self.newest = sequence;
    }

    /// Notes a packet that is sent.
    pub fn passed(&mut self, sequence: ExtendedSequence, picture: Option<u16>) {
        if sequence.0 > self.newest {
            self.advance(sequence.0);
            self.picture = picture;
        }
    }

    /// Notes that a packet gets the marker bit.
    pub fn mark(&mut self, sequence: ExtendedSequence) {
        if sequence.0 <= self.newest && self.newest - sequence.0 < WINDOW {
            self.marked.set(sequence.0);
        }
    }

    /// Leaves a packet out. Gives how far later packets and pictures move up; for a late packet that already has a number, `blank`.
    pub fn skip(&mut self, sequence: ExtendedSequence, picture: Option<u16>) -> Shift {
        if sequence.0 <= self.newest {
            if self.newest - sequence.0 < WINDOW && !self.skipped.has(sequence.0) {
                self.blank.set(sequence.0);
            }
            return Shift { blank: true, ..Shift::default() };
        }
        self.advance(sequence.0);
        self.skipped.set(sequence.0);
        let new_picture = picture.is_some() && picture != self.picture;
        if new_picture {
            self.pictures.set(sequence.0);
            self.picture = picture;
        }
        Shift { packets: 1, pictures: new_picture as u16, ..Shift::default() }
    }

    /// How the numbers of an older packet differ from those that a new one would get. None if it got no number, or is too old.
    pub fn shift(&self, sequence: ExtendedSequence) -> Option<Shift> {
        if sequence.0 > self.newest {
            return Some(Shift::default());
        }
        if self.newest - sequence.0 >= WINDOW || self.skipped.has(sequence.0) {
            return None;
        }
        Some(Shift {
            packets: self.skipped.count_after(sequence.0, self.newest),
            pictures: self.pictures.count_after(sequence.0, self.newest) as u16,
            blank: self.blank.has(sequence.0),
            marked: self.marked.has(sequence.0),
        })
    }

    /// The packet behind an outgoing number, given the one it would be if nothing had been left out after it.
    pub fn origin(&self, unshifted: u64) -> Option<u64> {
        let mut sequence = unshifted;
        loop {
            if sequence > self.newest {
                return Some(sequence);
            }
            if self.newest - sequence >= WINDOW {
                return None;
            }
            // Each one left out after it moves it back by one; those may pass further ones. Falls at every step, so it ends.
            let moved = unshifted.checked_sub(self.skipped.count_after(sequence, self.newest))?;
            if moved == sequence {
                break;
            }
            sequence = moved;
        }
        // Numbers belong to what was sent.
        while self.skipped.has(sequence) {
            sequence = sequence.checked_sub(1)?;
            if self.newest - sequence >= WINDOW {
                return None;
            }
        }
        Some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the plain way: a list of everything with its number.
        #[test]
        fn numbers_are_consecutive_and_lead_back(
            packets in prop::collection::vec((prop::bool::weighted(0.7), 1u64..4), 1..900),
            start in 65_536u64..70_000,
        ) {
            let mut thinning = Thinning::default();
            thinning.start(ExtendedSequence(start), None);
            let mut delta = 0i64;
            let mut sent = vec![(start, start as i64)];
            let mut sequence = start;
            for (wanted, step) in packets {
                sequence += step;
                if wanted {
                    thinning.passed(ExtendedSequence(sequence), None);
                    sent.push((sequence, sequence as i64 + delta));
                } else {
                    let shift = thinning.skip(ExtendedSequence(sequence), None);
                    prop_assert_eq!(shift.packets, 1);
                    delta -= 1;
                    prop_assert_eq!(thinning.shift(ExtendedSequence(sequence)), None);
                }
            }
            for (sequence, out) in sent {
                if thinning.newest() - sequence >= WINDOW {
                    continue;
                }
                let shift = thinning.shift(ExtendedSequence(sequence)).expect("in the window");
                prop_assert_eq!(sequence as i64 + delta + shift.packets as i64, out);
                prop_assert_eq!(thinning.origin((out - delta) as u64), Some(sequence));
            }
        }
    }

    #[test]
    fn pictures_left_out_are_counted_once_and_late_packets_are_blank() {
        let mut thinning = Thinning::default();
        thinning.start(ExtendedSequence(100), Some(7));
        assert_eq!(thinning.skip(ExtendedSequence(101), Some(8)), Shift { packets: 1, pictures: 1, ..Shift::default() });
        assert_eq!(thinning.skip(ExtendedSequence(102), Some(8)), Shift { packets: 1, pictures: 0, ..Shift::default() });
        // 103 is missing; 104 is the next picture.
        thinning.passed(ExtendedSequence(104), Some(10));
        assert_eq!(thinning.shift(ExtendedSequence(100)), Some(Shift { packets: 2, pictures: 1, ..Shift::default() }));
        assert_eq!(thinning.shift(ExtendedSequence(103)), Some(Shift::default()));
        assert!(thinning.skip(ExtendedSequence(103), Some(9)).blank);
        assert_eq!(thinning.shift(ExtendedSequence(103)), Some(Shift { blank: true, ..Shift::default() }));
        assert_eq!(thinning.shift(ExtendedSequence(101)), None);
    }
}
