//! What arrived of one RTP stream, told by its sequence numbers alone.

/// Packets below the highest of which it is known whether they came.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;
/// [`Tally::first`] until the first packet that counts.
const NOT_YET: u64 = u64::MAX;

/// One stream of one viewer.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Extended sequence number of the newest packet; 0 before the first.
    highest: u64,
    /// The first that counts: what is older, and comes late or again, was not expected.
    first: u64,
    seen: [u64; WORDS],
    pub received: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// Packets older than the window: neither counted as received nor as duplicates.
    pub ancient: u64,
}

/// What a packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    First,
    /// The next, after so many missing ones.
    Next {
        missing: u64,
    },
    Late,
    Duplicate,
}

impl Tally {
    /// Counts a packet. `number` is what its header says.
    pub fn arrived(&mut self, number: u16) -> Arrival {
        if self.highest == 0 {
            self.highest = 1 << 32 | u64::from(number);
            self.first = self.highest;
            self.seen = [0; WORDS];
            self.mark(self.highest);
            self.received += 1;
            return Arrival::First;
        }
        let extended = self.extend(number);
        if extended > self.highest {
            let missing = extended - self.highest - 1;
            // So many in a row are all places there are.
            for skipped in (self.highest + 1..=extended).take(WINDOW as usize) {
                self.clear(skipped);
            }
            self.highest = extended;
            if self.first == NOT_YET {
                self.first = extended;
            }
            self.mark(extended);
            self.received += 1;
            return Arrival::Next { missing };
        }
        if self.highest - extended >= WINDOW {
            self.ancient += 1;
            return Arrival::Duplicate;
        }
        if self.is_marked(extended) {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        self.mark(extended);
        self.received += u64::from(extended >= self.first);
        self.reordered += 1;
        Arrival::Late
    }

    /// A packet that came by retransmission; false if it was there already, or is one that was not expected.
    pub fn recovered(&mut self, number: u16) -> bool {
        let extended = self.extend(number);
        let expected = (self.first..=self.highest).contains(&extended) && self.highest - extended < WINDOW;
        if !expected || self.is_marked(extended) {
            return false;
        }
        self.mark(extended);
        self.received += 1;
        true
    }

    /// Counts anew from the next packet on, which must be newer than all before.
    pub fn restart(&mut self) {
        let Tally { highest, seen, .. } = *self;
        *self = Tally { highest, first: NOT_YET, seen, ..Tally::default() };
    }

    /// Extended highest sequence number of a report block (RFC 3550 §6.4.1).
    pub fn extended_highest(&self) -> u32 {
        self.highest as u32
    }

    fn extend(&self, number: u16) -> u64 {
        let distance = number.wrapping_sub(self.highest as u16) as i16;
        self.highest.saturating_add_signed(i64::from(distance))
    }

    fn place(extended: u64) -> (usize, u64) {
        let bit = extended % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }
    fn mark(&mut self, extended: u64) {
        let (word, bit) = Tally::place(extended);
        self.seen[word] |= bit;
    }
    fn clear(&mut self, extended: u64) {
        let (word, bit) = Tally::place(extended);
        self.seen[word] &= !bit;
    }
    fn is_marked(&self, extended: u64) -> bool {
        let (word, bit) = Tally::place(extended);
        self.seen[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_loss_and_repetition_across_the_wrap() {
        let mut tally = Tally::default();
        let arrivals: Vec<Arrival> = [65_534, 65_535, 1, 0, 0, 65_535, 2].map(|number| tally.arrived(number)).to_vec();
        let next = |missing| Arrival::Next { missing };
        let expected = [Arrival::First, next(0), next(1), Arrival::Late, Arrival::Duplicate, Arrival::Duplicate, next(0)].to_vec();
        assert_eq!(arrivals, expected);
        assert_eq!((tally.received, tally.reordered, tally.duplicates), (5, 1, 2));
    }

    #[test]
    fn retransmissions_fill_gaps_once() {
        let mut tally = Tally::default();
        tally.arrived(10);
        tally.arrived(13);
        assert!(tally.recovered(12) && !tally.recovered(12) && !tally.recovered(14) && !tally.recovered(10));
        assert_eq!(tally.received, 3);
        // Of what came before the first, or before counting began, nothing was expected.
        assert!(!tally.recovered(9));
        tally.restart();
        assert!(!tally.recovered(11));
        assert_eq!(tally.arrived(15), Arrival::Next { missing: 1 });
        assert!(!tally.recovered(14));
        tally.arrived(17);
        assert!(tally.recovered(16));
        assert_eq!(tally.received, 3);
    }

    #[test]
    fn a_long_gap_forgets_what_was_before() {
        let mut tally = Tally::default();
        (0..2000).for_each(|number| assert_ne!(tally.arrived(number), Arrival::Duplicate));
        assert_eq!(tally.arrived(7000), Arrival::Next { missing: 5000 });
        assert_eq!(tally.arrived(6500), Arrival::Late);
        assert_eq!(tally.arrived(1999), Arrival::Duplicate);
        assert_eq!((tally.ancient, tally.duplicates), (1, 0));
        for missing in [5, 1024, 1500] {
            tally.restart();
            let number = tally.extended_highest() as u16;
            tally.arrived(number.wrapping_add(missing + 1));
            (1..=missing.min(1000)).for_each(|back| {
                assert_eq!(tally.arrived(number.wrapping_add(missing + 1 - back)), Arrival::Late);
            });
        }
    }
}
