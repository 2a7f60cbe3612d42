//! When a key frame of a stream is asked for.

use crate::limits::{KEY_FRAME_DEAF_MILLIS, KEY_FRAME_REQUEST_MILLIS_MIN};
use crate::units::Micros;

/// Whether somebody waits for one, and what was done about it.
#[derive(Debug, Default)]
pub struct WantedKeyFrame {
    wanted: bool,
    requested: Option<Micros>,
    came: Option<Micros>,
}

impl WantedKeyFrame {
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Nobody waits any more.
    pub fn forget(&mut self) {
        self.wanted = false;
    }

    pub fn came(&mut self, now: Micros) {
        (self.wanted, self.came) = (false, Some(now));
    }

    /// Whether to ask now. Stays so until the key frame comes: a request can be lost too, or fall on deaf ears. `round_trip`: to the publisher and
    /// back, if that is known.
    pub fn is_due(&self, now: Micros, round_trip: Option<Micros>) -> bool {
        // Whose request it was that had the last one come, it was made at least a round trip before.
        let deaf = round_trip.map_or(0, |round_trip| (KEY_FRAME_DEAF_MILLIS * 1_000).saturating_sub(round_trip.0));
        self.wanted
            && match (self.requested, self.came) {
                (None, _) => true,
                (Some(at), Some(came)) if at >= came && at.since(came) < deaf => now.since(came) >= deaf,
                (Some(at), _) => now.since(at) >= KEY_FRAME_REQUEST_MILLIS_MIN * 1_000,
            }
    }

    pub fn requested(&mut self, now: Micros) {
        self.requested = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_sooner_if_it_came_too_soon_after_a_key_frame() {
        let at = Micros::from_millis;
        let mut wanted = WantedKeyFrame::default();
        let due = |wanted: &WantedKeyFrame, millis, round_trip: u64| {
            wanted.is_due(at(millis), (round_trip > 0).then_some(at(round_trip)))
        };
        assert!(!due(&wanted, 0, 20));
        wanted.want();
        assert!(due(&wanted, 1_000, 20));
        wanted.requested(at(1_000));
        assert!(!due(&wanted, 1_499, 20) && due(&wanted, 1_500, 20), "it may have been lost");
        wanted.came(at(1_050));
        assert!(!due(&wanted, 5_000, 20));
        wanted.want();
        assert!(!due(&wanted, 1_400, 20) && due(&wanted, 1_500, 20));
        // Another stream's request had this one's key frame come too.
        wanted.came(at(3_000));
        wanted.want();
        assert!(due(&wanted, 3_100, 20), "not all publishers are deaf then");
        wanted.requested(at(3_100));
        assert!(!due(&wanted, 3_279, 20) && due(&wanted, 3_280, 20));
        for round_trip in [0, 200, 300, 900] {
            assert!(!due(&wanted, 3_599, round_trip) && due(&wanted, 3_600, round_trip), "it was not deaf, or nobody knows");
        }
    }
}
