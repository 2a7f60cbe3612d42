//! Others that fill the queue: a flow that gives way to delay ends with nothing beside one that gives way to loss alone, as TCP's
//! Reno and CUBIC do. The adaptive threshold of the detector is too slow to help in a queue of more than a round trip.
//!
//! Source: Copa's switch to a competitive mode (Arun and Balakrishnan, "Copa: Practical Delay-Based Congestion Control for the
//! Internet", NSDI 2018, §2.2; libwebrtc has nothing like it): a queue that does not empty although we gave way is somebody else's, and as long
//! as that is so we do as they do. The rate then follows RFC 5348's idea of what is fair to TCP: what a window would grow by, and a
//! cut where it would be cut. Such a cut empties a queue that is ours alone, and that ends it; so does a queue that is too long
//! for a conversation, in which nobody is competed with.

use crate::units::Micros;

/// Below this nothing waits.
const EMPTY_MS: f64 = 20.0;
/// A longer queue is not competed in.
const LONG_MS: f64 = 350.0;
/// A queue that is ours is empty after so long.
const PATIENCE: Micros = Micros::from_secs(3);

/// Whether the queue is somebody else's.
#[derive(Clone, Debug, Default)]
pub struct Competition {
    standing_since: Option<Micros>,
    competing: bool,
}

impl Competition {
    pub fn is_on(&self) -> bool {
        self.competing
    }

    /// `over`: the detector wants us to give way, because of a queue of so many milliseconds.
    pub fn update(&mut self, queue_ms: f64, over: bool, now: Micros) {
        if !(EMPTY_MS..LONG_MS).contains(&queue_ms) {
            *self = Competition::default();
            return;
        }
        let since = *self.standing_since.get_or_insert(now);
        self.competing |= over && now.since(since) >= PATIENCE.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_stays_is_somebody_elses_until_it_empties_or_grows_too_long() {
        let mut competition = Competition::default();
        let mut at = |second, queue_ms, over| {
            competition.update(queue_ms, over, Micros::from_secs(second));
            competition.is_on()
        };
        assert!(!at(1, 100.0, true));
        assert!(!at(3, 100.0, true), "it may be ours, and drain yet");
        assert!(!at(4, 100.0, false), "nothing asks us to give way");
        assert!(at(5, 100.0, true));
        assert!(at(6, 200.0, false));
        assert!(!at(7, 10.0, false));
        assert!(!at(8, 100.0, true) && at(11, 100.0, true));
        assert!(!at(12, 400.0, true));
    }
}
