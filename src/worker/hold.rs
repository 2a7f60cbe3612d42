//! How long the packets of a video frame may wait for each other before they are forwarded.
//!
//! A send costs much and a further packet of the same train little, so waiting for the rest of a frame saves most of a
//! worker's work; but a publisher spreads a frame's packets over milliseconds, and waiting costs as much latency. An idle
//! worker has no use for the saving and a busy one for nothing else. So the wait follows the worker's load: nothing while it
//! is less than half busy, the configured bound from four fifths on. It can be fixed at both ends.

use crate::config::HoldChoice;
use crate::units::Micros;

/// Between two looks at the worker's CPU time.
const INTERVAL: Micros = Micros::from_millis(100);
/// Percentages of a core between which the wait grows from nothing to the bound.
const BUSY: std::ops::Range<u64> = 50..80;

/// A worker's wait.
#[derive(Clone, Debug)]
pub struct Hold {
    choice: HoldChoice,
    max: Micros,
    bound: Micros,
    /// When the CPU time was read last, and what it was.
    looked: Micros,
    cpu: Micros,
}

impl Hold {
    pub fn new(choice: HoldChoice, max: Micros) -> Self {
        let bound = if choice == HoldChoice::Frame { max } else { Micros::ZERO };
        Hold { choice, max, bound, looked: Micros::ZERO, cpu: Micros::ZERO }
    }

    /// The longest that a packet waits now.
    pub fn bound(&self) -> Micros {
        self.bound
    }

    /// Whether it is time to look at the CPU time again: a clock is read for it, so not in every turn.
    pub fn due(&self, now: Micros) -> bool {
        self.choice == HoldChoice::Adaptive && now.since(self.looked) >= INTERVAL.0
    }

    /// Follows the load: `cpu` is the CPU time that the worker has used in all.
    pub fn adapt(&mut self, cpu: Micros, now: Micros) {
        let percent = 100 * cpu.since(self.cpu) / now.since(self.looked).max(1);
        (self.looked, self.cpu) = (now, cpu);
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
        let (mut now, mut cpu) = (Micros::ZERO, Micros::ZERO);
        for _ in 0..50 {
            (now, cpu) = (now + INTERVAL, cpu + Micros(INTERVAL.0 * percent / 100));
            if hold.due(now) {
                hold.adapt(cpu, now);
            }
        }
        hold.bound().0
    }

    #[test]
    fn the_wait_follows_the_load_between_its_ends() {
        assert_eq!([0, 30, 50].map(|percent| settled(HoldChoice::Adaptive, percent)), [0; 3]);
        assert!((7_400..7_600).contains(&settled(HoldChoice::Adaptive, 65)), "{}", settled(HoldChoice::Adaptive, 65));
        assert_eq!([80, 100].map(|percent| settled(HoldChoice::Adaptive, percent)), [15_000; 2]);
        assert_eq!([0, 100].map(|percent| settled(HoldChoice::Off, percent)), [0; 2]);
        assert_eq!([0, 100].map(|percent| settled(HoldChoice::Frame, percent)), [15_000; 2]);
    }
}
