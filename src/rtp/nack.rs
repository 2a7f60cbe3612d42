//! Missing packets of one received stream: when to ask for them (RFC 4585 generic NACK), when to ask again, when to give up.
//!
//! A hole is first asked for after a short wait, since on many paths it is only reordering. How long that takes is learnt: what
//! comes late by itself makes the wait longer, what had to be sent again makes it shorter. Then it is asked for once per round
//! trip, until the packet comes, the tries are used up, or it is too old to be of use; a key frame has to repair what is given up.
//! The round trip is the publisher's answer to an extended report (RFC 3611 §4.5), or for those who give none, the time that
//! answers to the requests themselves take.

use arrayvec::ArrayVec;

use crate::limits::{NACK_PENDING, NACK_TRIES};
use crate::units::{ExtendedSequence, Micros};

/// Wait before the first request: the least, with which it begins, and the most.
const REORDER_MICROS_MIN: u64 = 10_000;
const REORDER_MICROS_MAX: u64 = 50_000;
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
    /// The last request for it, once there was one.
    asked_at: Micros,
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
    /// The same by RTCP, if the publisher takes part.
    reported_round_trip: Option<Micros>,
    /// Wait before the first request.
    wait: Micros,
}

impl Default for Missing {
    fn default() -> Self {
        Missing {
            holes: ArrayVec::new(),
            given_up: 0,
            round_trip: Micros(ROUND_TRIP_MICROS_INITIAL),
            reported_round_trip: None,
            wait: Micros(REORDER_MICROS_MIN),
        }
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
            let (sequence, ask_at) = (ExtendedSequence(sequence), now + self.wait);
            self.holes.push(Hole { sequence, since: now, asked_at: now, ask_at, tries: 0 });
        }
    }

    /// The publisher's round trip by RTCP.
    pub fn reported(&mut self, round_trip: Micros) {
        self.reported_round_trip = Some(round_trip);
    }

    /// A packet came along with another (RFC 2198), or was computed: it is not asked for any more. True if it was missing.
    pub fn recovered(&mut self, sequence: ExtendedSequence) -> bool {
        let index = self.holes.binary_search_by_key(&sequence, |hole| hole.sequence);
        index.is_ok_and(|index| self.holes.pop_at(index).is_some())
    }

    /// A packet arrived late; `retransmitted` if it came as RTX. True if it had been asked for.
    pub fn filled(&mut self, sequence: ExtendedSequence, retransmitted: bool, now: Micros) -> bool {
        let Ok(index) = self.holes.binary_search_by_key(&sequence, |hole| hole.sequence) else { return false };
        let hole = self.holes.remove(index);
        let answered_in = now.since(hole.asked_at);
        // Sooner than an answer can be, and not a retransmission: it was on its way all the time.
        let reordered = hole.tries == 0 || (!retransmitted && answered_in < self.round_trip().0 / 2);
        if reordered {
            let late = now.since(hole.since);
            let wait = self.wait.0.max((self.wait.0 + late + late / 4) / 2);
            self.wait = Micros(wait.min(REORDER_MICROS_MAX));
        } else {
            self.wait = Micros((self.wait.0 - self.wait.0 / 16).max(REORDER_MICROS_MIN));
            if hole.tries == 1 {
                // Asked once, so this answer belongs to that request (Karn's rule).
                self.round_trip = Micros((self.round_trip.0 * 7 + answered_in) / 8);
            }
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
            (hole.asked_at, hole.ask_at) = (now, now + retry);
            due.push(hole.sequence);
            true
        });
        due
    }

    /// Time between two requests for one packet: a round trip and a quarter.
    fn retry(&self) -> Micros {
        let round_trip = self.round_trip().0;
        Micros((round_trip + round_trip / 4).clamp(RETRY_MICROS_MIN, AGE_MICROS_MAX))
    }

    fn round_trip(&self) -> Micros {
        self.reported_round_trip.unwrap_or(self.round_trip)
    }

    /// What is missing, ascending.
    pub fn sequences(&self) -> impl Iterator<Item = ExtendedSequence> + '_ {
        self.holes.iter().map(|hole| hole.sequence)
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
        assert!(!missing.filled(ExtendedSequence(103), false, Micros(6_000)), "arrived before it was asked for");
        let asked = missing.due(Micros(10_000));
        assert_eq!(asked.as_slice(), [ExtendedSequence(102), ExtendedSequence(104)]);
        assert!(missing.due(Micros(40_000)).is_empty(), "a round trip has not passed");
        assert_eq!(missing.due(Micros(60_000)).len(), 2);
        assert!(missing.filled(ExtendedSequence(102), true, Micros(70_000)));
        let mut tries = 2;
        let mut now = 60_000;
        while !missing.is_empty() {
            now += 50_000;
            tries += missing.due(Micros(now)).len();
        }
        assert_eq!((tries, missing.take_given_up()), (NACK_TRIES as usize, 1));
    }

    #[test]
    fn what_came_along_with_another_packet_is_not_asked_for_again() {
        let mut missing = Missing::default();
        missing.gap(ExtendedSequence(105), 3, Micros(0));
        assert_eq!([102, 104, 101, 102].map(|sequence| missing.recovered(ExtendedSequence(sequence))), [true, true, false, false]);
        assert_eq!(missing.due(Micros(10_000)).as_slice(), [ExtendedSequence(103)]);
        assert!(missing.recovered(ExtendedSequence(103)), "asked for before");
        assert_eq!((missing.due(Micros::from_secs(1)).len(), missing.take_given_up()), (0, 0));
    }

    #[test]
    fn a_gap_beyond_repair_is_given_up_at_once() {
        let mut missing = Missing::default();
        missing.gap(ExtendedSequence(100_000), 5_000, Micros(0));
        assert!(missing.is_empty());
        assert_eq!(missing.take_given_up(), 5_000);
    }

    /// Asks for one hole made at 0, fills it `late`; the time of the first request.
    fn first_request(missing: &mut Missing, sequence: u64, retransmitted: bool, late: u64) -> u64 {
        missing.gap(ExtendedSequence(sequence + 1), 1, Micros(0));
        let asked = (0..late).step_by(1_000).find(|now| !missing.due(Micros(*now)).is_empty());
        missing.filled(ExtendedSequence(sequence), retransmitted, Micros(late));
        asked.unwrap_or(u64::MAX)
    }

    #[test]
    fn a_path_that_reorders_is_given_time_and_one_that_loses_is_not() {
        let mut missing = Missing::default();
        let mut requests = Vec::new();
        for sequence in 0..20 {
            requests.push(first_request(&mut missing, 100 + 2 * sequence, false, 25_000));
        }
        assert_eq!(requests[0], 10_000, "nothing is known of the path");
        assert!(requests[8..].iter().all(|asked| *asked == u64::MAX), "25 ms late is not lost: {requests:?}");
        for sequence in 0..40 {
            requests.push(first_request(&mut missing, 200 + 2 * sequence, true, 130_000));
        }
        assert_eq!(requests[59], 10_000, "what is lost is asked for soon again: {requests:?}");
        // However late: the wait has a bound.
        for sequence in 0..20 {
            requests.push(first_request(&mut missing, 400 + 2 * sequence, false, 400_000));
        }
        assert!(requests[79] <= REORDER_MICROS_MAX, "{requests:?}");
    }

    #[test]
    fn a_reported_round_trip_spaces_the_requests() {
        for (reported, expected) in [(Some(200), 250), (Some(4), 20), (None, 100)] {
            let mut missing = Missing::default();
            if let Some(millis) = reported {
                missing.reported(Micros::from_millis(millis));
            }
            missing.gap(ExtendedSequence(101), 1, Micros(0));
            let times: Vec<u64> = (0..1_200).filter(|millis| !missing.due(Micros::from_millis(*millis)).is_empty()).collect();
            let steps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(steps.iter().all(|step| *step == expected), "{reported:?}: {steps:?}");
            assert!(times.len() <= NACK_TRIES as usize && *times.last().expect("asked") <= 1_000);
            assert_eq!((missing.is_empty(), missing.take_given_up()), (true, 1));
        }
    }
}
