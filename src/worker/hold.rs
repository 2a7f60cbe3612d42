//! How long the packets of a video frame may wait for each other before they are forwarded.
//!
//! A send costs much and a further packet of the same train little, so waiting for the rest of a frame saves most of a
//! worker's work; but a publisher spreads a frame's packets over milliseconds, and waiting costs as much latency. An idle
//! worker has no use for the saving and a busy one for nothing else. So the wait follows the worker's load: nothing while it
//! is less than seven tenths busy, the configured bound from nine tenths on. (Long turns form trains by themselves: between a
//! half and eight tenths a wait was measured to add 6 ms at the 99th percentile for a fifth less work.) It can be fixed at
//! both ends.

use crate::config::HoldChoice;
use crate::units::Micros;

/// Percentages of a core between which the wait grows from nothing to the bound.
const BUSY: std::ops::Range<u64> = 70..90;

/// A worker's wait.
#[derive(Clone, Debug)]
pub struct Hold {
    choice: HoldChoice,
    max: Micros,
    bound: Micros,
}

impl Hold {
    pub fn new(choice: HoldChoice, max: Micros) -> Self {
        let bound = if choice == HoldChoice::Frame { max } else { Micros::ZERO };
        Hold { choice, max, bound }
    }

    /// The longest that a packet waits now.
    pub fn bound(&self) -> Micros {
        self.bound
    }

    /// Follows the load: percentages of a core, one after each interval of [`super::load`].
    pub fn adapt(&mut self, percent: u64) {
        if self.choice != HoldChoice::Adaptive {
            return;
        }
        let above = percent.clamp(BUSY.start, BUSY.end) - BUSY.start;
        let wanted = self.max.0 * above / (BUSY.end - BUSY.start);
        // Half way at a time: the saving lowers the load that caused it.
        self.bound = Micros((self.bound.0 + wanted).div_ceil(2));
        if wanted == 0 && self.bound.0 < 100 {
            self.bound = Micros::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the bound settles at a constant load.
    fn settled(choice: HoldChoice, percent: u64) -> u64 {
        let mut hold = Hold::new(choice, Micros::from_millis(15));
        for _ in 0..50 {
            hold.adapt(percent);
        }
        hold.bound().0
    }

    #[test]
    fn the_wait_follows_the_load_between_its_ends() {
        assert_eq!([0, 30, 70].map(|percent| settled(HoldChoice::Adaptive, percent)), [0; 3]);
        assert!((7_400..7_600).contains(&settled(HoldChoice::Adaptive, 80)), "{}", settled(HoldChoice::Adaptive, 80));
        assert_eq!([90, 100].map(|percent| settled(HoldChoice::Adaptive, percent)), [15_000; 2]);
        assert_eq!([0, 100].map(|percent| settled(HoldChoice::Off, percent)), [0; 2]);
        assert_eq!([0, 100].map(|percent| settled(HoldChoice::Frame, percent)), [15_000; 2]);
    }
}
