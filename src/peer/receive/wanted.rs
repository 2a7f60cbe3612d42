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

    /// Whether to ask now. Stays so until the key frame comes: a request can be lost too, or fall on deaf ears.
    pub fn is_due(&self, now: Micros) -> bool {
        let deaf = KEY_FRAME_DEAF_MILLIS * 1_000;
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
        assert!(!wanted.is_due(at(0)));
        wanted.want();
        assert!(wanted.is_due(at(1_000)));
        wanted.requested(at(1_000));
        assert!(!wanted.is_due(at(1_499)) && wanted.is_due(at(1_500)), "it may have been lost");
        wanted.came(at(1_050));
        assert!(!wanted.is_due(at(5_000)));
        wanted.want();
        assert!(!wanted.is_due(at(1_400)) && wanted.is_due(at(1_500)));
        // Another stream's request had this one's key frame come too.
        wanted.came(at(3_000));
        wanted.want();
        assert!(wanted.is_due(at(3_100)), "not all publishers are deaf then");
        wanted.requested(at(3_100));
        assert!(!wanted.is_due(at(3_299)) && wanted.is_due(at(3_300)));
        wanted.requested(at(3_300));
        assert!(!wanted.is_due(at(3_799)) && wanted.is_due(at(3_800)));
    }
}
