//! How late a viewer on a lossy path shows video: as late as a repair may come. libwebrtc's jitter buffer does not wait for repairs by itself (with
//! FEC agreed it takes no account of the round trip at all), so that each one that FEC does not make needless is seen as a freeze. It is
//! told by its header extension `playout-delay`: minimum and maximum, twelve bits each, in hundredths of a second.

use super::{Micros, VERY_LOSSY, loses_repairs};

/// After so many round trips, each with the time until the loss is noticed, and a little more.
const ROUNDS: u64 = 1;
const ROUNDS_OF_MANY: u64 = 3;
const NOTICED: Micros = Micros::from_millis(20);
const MORE: Micros = Micros::from_millis(60);
/// What is lost again is asked for again only after so long: a browser that sends nothing knows no round trip, and libwebrtc takes it for this.
const AGAIN: Micros = Micros::from_millis(100);
/// With fewer losses, late repairs are seen from such round trips on.
const SEEN: Micros = Micros::from_millis(40);
/// For so long after the path was last like that.
pub(super) const SECONDS: u8 = 10;
/// What the extension counts in: microseconds.
const UNIT: u64 = 10_000;
/// In these units: the longest delay; a difference that is not worth a change, because a change is seen; and the longest that a frame may be
/// kept, libwebrtc's own.
const DELAY_MAX: u64 = 70;
const STEP: u16 = 5;
const KEPT_MAX: u32 = 1_000;

/// What a viewer is told. Four bytes, because each packet of video asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Playout {
    delay: u16,
    seconds: u8,
    /// From the first time on, so that its end is told too.
    told: bool,
}

impl Playout {
    /// Once a second: follows the path. `loss`: of 1.
    pub fn follow(&mut self, loss: f64, round_trip: Option<Micros>) {
        match round_trip.filter(|round_trip| loses_repairs(loss, *round_trip, SEEN)) {
            Some(round_trip) => {
                let rounds = if loss > VERY_LOSSY { ROUNDS_OF_MANY } else { ROUNDS };
                let again = (rounds - 1) * (round_trip.max(AGAIN) + NOTICED).0;
                let wanted = (((round_trip + NOTICED + MORE).0 + again) / UNIT).min(DELAY_MAX) as u16;
                if wanted.abs_diff(self.delay) > STEP {
                    self.delay = wanted;
                }
                (self.seconds, self.told) = (SECONDS, true);
            }
            None if self.seconds > 0 => self.seconds -= 1,
            None => self.delay = 0,
        }
    }

    /// The extension's data, for each packet of video.
    pub fn data(&self) -> Option<[u8; 3]> {
        let [_, data @ ..] = (u32::from(self.delay) << 12 | KEPT_MAX).to_be_bytes();
        self.told.then_some(data)
    }
}
