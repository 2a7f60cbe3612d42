//! Missing packets of one received stream: when to ask for them (RFC 4585 generic NACK), when to ask again, when to give up.
//!
//! A hole is first asked for after a short wait, since on many paths it is only reordering; then once per round trip, until
//! the packet comes, the tries are used up, or it is too old to be of use. The round trip is measured from the answers
//! themselves: a publisher reports none to a receiver that sends no media.

use arrayvec::ArrayVec;

use crate::limits::{NACK_PENDING, NACK_TRIES};
use crate::units::{ExtendedSequence, Micros};

/// Wait before the first request: reordering resolves itself within this.
const REORDER_MICROS: u64 = 10_000;
/// Least time between two requests for the same packet.
const RETRY_MICROS_MIN: u64 = 20_000;
/// Assumed round trip until one is measured.
const ROUND_TRIP_MICROS_INITIAL: u64 = 80_000;
/// Age at which a missing packet is given up.
const AGE_MICROS_MAX: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Hole {
    sequence: ExtendedSequence,
    since: Micros,
    ask_at: Micros,
    tries: u8,
}

/// The holes of one stream, oldest first.
#[derive(Debug)]
pub struct Missing {
    holes: ArrayVec<Hole, NACK_PENDING>,
    /// Holes given up since the last [`Missing::take_given_up`].
    given_up: u64,
    /// Smoothed time from a request to its answer.
    round_trip: Micros,
}

impl Default for Missing {
    fn default() -> Self {
        Missing { holes: ArrayVec::new(), given_up: 0, round_trip: Micros(ROUND_TRIP_MICROS_INITIAL) }
    }
}

impl Missing {
    /// The `gap` numbers before `next` did not arrive.
    pub fn gap(&mut self, next: ExtendedSequence, gap: u64, now: Micros) {
        if gap as usize > NACK_PENDING {
            // Too much to repair: a key frame will have to.
            self.given_up += gap + self.holes.len() as u64;
            self.holes.clear();
            return;
        }
        for sequence in next.0 - gap..next.0 {
            if self.holes.is_full() {
                self.holes.remove(0);
                self.given_up += 1;
            }
            let ask_at = now + Micros(REORDER_MICROS);
            self.holes.push(Hole { sequence: ExtendedSequence(sequence), since: now, ask_at, tries: 0 });
        }
    }

    /// A packet arrived late. True if it had been asked for.
    pub fn filled(&mut self, sequence: ExtendedSequence, now: Micros) -> bool {
        let Ok(index) = self.holes.binary_search_by_key(&sequence, |hole| hole.sequence) else { return false };
        let hole = self.holes.remove(index);
        if hole.tries == 1 {
            // Asked once, so this answer belongs to that request (Karn's rule).
            let sample = now.since(Micros(hole.ask_at.0.saturating_sub(self.retry().0)));
            self.round_trip = Micros((self.round_trip.0 * 7 + sample) / 8);
        }
        hole.tries > 0
    }

    /// Sequence numbers to ask for now, ascending.
    pub fn due(&mut self, now: Micros) -> ArrayVec<ExtendedSequence, NACK_PENDING> {
        let mut due = ArrayVec::new();
        let retry = self.retry();
        let given_up = &mut self.given_up;
        self.holes.retain(|hole| {
            if hole.ask_at > now {
                return true;
            }
            if hole.tries >= NACK_TRIES || now.since(hole.since) > AGE_MICROS_MAX {
                *given_up += 1;
                return false;
            }
            hole.tries += 1;
            hole.ask_at = now + retry;
            due.push(hole.sequence);
            true
        });
        due
    }

    /// Time between two requests for one packet: a round trip and a quarter.
    fn retry(&self) -> Micros {
        Micros((self.round_trip.0 + self.round_trip.0 / 4).clamp(RETRY_MICROS_MIN, AGE_MICROS_MAX))
    }

    pub fn is_empty(&self) -> bool {
        self.holes.is_empty()
    }

    /// Packets given up since they were last taken.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Packets given up since the last call: the picture is broken until a key frame.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    /// Everything before `sequence` no longer matters (a key frame has come).
    pub fn forget_before(&mut self, sequence: ExtendedSequence) {
        self.holes.retain(|hole| hole.sequence >= sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_after_the_reordering_wait_then_once_a_round_trip_then_gives_up() {
        let mut missing = Missing { round_trip: Micros::from_millis(40), ..Missing::default() };
        missing.gap(ExtendedSequence(105), 3, Micros(0));
        assert!(missing.due(Micros(5_000)).is_empty(), "may be reordering");
        assert!(!missing.filled(ExtendedSequence(103), Micros(6_000)), "arrived before it was asked for");
        let asked = missing.due(Micros(10_000));
        assert_eq!(asked.as_slice(), [ExtendedSequence(102), ExtendedSequence(104)]);
        assert!(missing.due(Micros(40_000)).is_empty(), "a round trip has not passed");
        assert_eq!(missing.due(Micros(60_000)).len(), 2);
        assert!(missing.filled(ExtendedSequence(102), Micros(70_000)));
        let mut tries = 2;
        let mut now = 60_000;
        while !missing.is_empty() {
            now += 50_000;
            tries += missing.due(Micros(now)).len();
        }
        assert_eq!((tries, missing.take_given_up()), (NACK_TRIES as usize, 1));
    }

    #[test]
    fn a_gap_beyond_repair_is_given_up_at_once() {
        let mut missing = Missing::default();
        missing.gap(ExtendedSequence(100_000), 5_000, Micros(0));
        assert!(missing.is_empty());
        assert_eq!(missing.take_given_up(), 5_000);
    }
}
