//! Others that fill the queue: a flow that gives way to delay ends with nothing beside one that gives way to loss alone, as TCP's
//! Reno and CUBIC do. The adaptive threshold of the detector is too slow to help in a queue of more than a round trip.
//!
//! Source: Copa's switch to a competitive mode (Arun and Balakrishnan, "Copa: Practical Delay-Based Congestion Control for the
//! Internet", NSDI 2018, §2.2; libwebrtc has nothing like it): a queue that does not empty although we gave way is somebody else's, and as long
//! as that is so we do as they do. The rate then follows RFC 5348's idea of what is fair to TCP: what a window would grow by, and a
//! cut where it would be cut. Such a cut empties a queue that is ours alone, or a deeper one now and then, and that ends it; so does a
//! queue that is too long for a conversation, in which nobody is competed with.

use crate::units::Micros;

/// Below this nothing waits.
const EMPTY_MS: f64 = 20.0;
/// A queue that is competed in has to be emptier to be taken for ours: the others' cuts leave little of a short one, ours alone leave nothing.
const EMPTIED_MS: f64 = 12.0;
/// A longer queue is not competed in.
const LONG_MS: f64 = 350.0;
/// A queue that has stood for so long, more than it was empty, is not ours: that would have drained. Reno and CUBIC empty it now and then too.
const PATIENCE: u64 = 3_000_000;
/// Longest time between two looks that counts.
const PAUSE_MAX: u64 = 500_000;

/// Whether the queue is somebody else's.
#[derive(Clone, Debug, Default)]
pub struct Competition {
    /// Microseconds for which it stood, less those for which it was empty.
    stood: u64,
    looked: Option<Micros>,
    competing: bool,
}

impl Competition {
    pub fn is_on(&self) -> bool {
        self.competing
    }

    /// `over`: the detector wants us to give way, because of a queue of so many milliseconds. One that `drains` may yet be ours.
    pub fn update(&mut self, queue_ms: f64, over: bool, drains: bool, now: Micros) {
        let elapsed = self.looked.replace(now).map_or(0, |looked| now.since(looked).min(PAUSE_MAX));
        if queue_ms < if self.competing { EMPTIED_MS } else { EMPTY_MS } {
            (self.stood, self.competing) = (self.stood.saturating_sub(elapsed), false);
        } else if queue_ms < LONG_MS {
            self.stood = (self.stood + if drains { 0 } else { elapsed }).min(PATIENCE);
            self.competing |= over && self.stood >= PATIENCE;
        } else {
            (self.stood, self.competing) = (0, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_stays_is_somebody_elses_until_it_empties_or_grows_too_long() {
        let mut competition = Competition::default();
        let mut at = |millis: u64, queue_ms, over| {
            for step in 0..10 {
                competition.update(queue_ms, over, false, Micros::from_millis(millis + step * 100));
            }
            competition.is_on()
        };
        assert!(!at(1_000, 100.0, true));
        assert!(!at(2_000, 100.0, true), "it may be ours, and drain yet");
        assert!(!at(3_000, 100.0, false) && !at(4_000, 100.0, false), "nothing asks us to give way");
        assert!(at(5_000, 100.0, true));
        assert!(at(6_000, 200.0, false));
        assert!(at(7_000, 15.0, false), "others' cuts leave as much");
        assert!(!at(8_000, 5.0, false));
        assert!(!at(9_000, 100.0, false) && at(10_000, 100.0, true), "a second was not long enough to forget");
        assert!(!at(11_000, 5.0, false) && !at(12_000, 10.0, false) && !at(13_000, 10.0, false));
        assert!(!at(14_000, 100.0, true) && !at(15_000, 100.0, true));
        assert!(at(16_000, 100.0, true) || at(17_000, 100.0, true));
        assert!(!at(18_000, 400.0, true));
    }
}
