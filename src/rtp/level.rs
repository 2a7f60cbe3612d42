//! How loud a track of sound is, as its packets say themselves (RFC 6464): nothing has to be decoded. The last second is kept in
//! steps of a tenth, so that a reader who looks now and then sees who spoke when.

use crate::units::Micros;

/// The client-to-mixer audio level of a packet (RFC 6464 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Decibels below the loudest a sample can be: 0 is the loudest, 127 silence.
    pub below_full: u8,
    /// The encoder believes that it is voice. Clients without such a belief never set it, Chromium always.
    pub voice: bool,
}

impl Level {
    pub const SILENCE: Level = Level { below_full: 127, voice: false };

    /// Reads the element's data; none if it is empty.
    pub fn parse(data: &[u8]) -> Option<Level> {
        let octet = *data.first()?;
        Some(Level { below_full: octet & 0x7f, voice: octet & 0x80 != 0 })
    }

    /// The louder of two, voice if either is.
    fn and(self, other: Level) -> Level {
        Level { below_full: self.below_full.min(other.below_full), voice: self.voice || other.voice }
    }
}

impl Default for Level {
    fn default() -> Self {
        Level::SILENCE
    }
}

/// Steps that are kept.
pub const STEPS: usize = 10;
/// Length of one.
pub const STEP: Micros = Micros::from_millis(100);

/// The loudest levels of the last steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// By number modulo [`STEPS`].
    steps: [Level; STEPS],
    /// Number of the newest step: its time in units of [`STEP`].
    newest: u64,
}

impl Levels {
    /// A packet of this level arrived.
    pub fn record(&mut self, level: Level, now: Micros) {
        let step = self.go_on(now);
        self.steps[step] = self.steps[step].and(level);
    }

    /// The last steps up to `now`, oldest first. Where nothing came (DTX, loss) there is silence.
    pub fn until(mut self, now: Micros) -> [Level; STEPS] {
        let newest = self.go_on(now);
        self.steps.rotate_left((newest + 1) % STEPS);
        self.steps
    }

    /// The last step that is over, and when it ended.
    pub fn last(&self, now: Micros) -> (Level, Micros) {
        let number = now.0 / STEP.0;
        let kept = number > 0 && number <= self.newest + 1 && number + STEPS as u64 > self.newest + 1;
        let level = if kept { self.steps[(number - 1) as usize % STEPS] } else { Level::SILENCE };
        (level, Micros(number * STEP.0))
    }

    /// Steps up to `now`; its place.
    fn go_on(&mut self, now: Micros) -> usize {
        let number = now.0 / STEP.0;
        for passed in self.newest + 1..=number.min(self.newest + STEPS as u64) {
            self.steps[passed as usize % STEPS] = Level::SILENCE;
        }
        if number > self.newest + STEPS as u64 {
            self.steps = [Level::SILENCE; STEPS];
        }
        self.newest = self.newest.max(number);
        self.newest as usize % STEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_octet_is_that_of_rfc_6464() {
        assert_eq!(Level::parse(&[0x80 | 30, 0]), Some(Level { below_full: 30, voice: true }));
        assert_eq!(Level::parse(&[127]), Some(Level::SILENCE));
        assert_eq!(Level::parse(&[]), None);
    }

    #[test]
    fn each_step_has_its_loudest_and_gaps_are_silent() {
        let mut levels = Levels::default();
        for (millis, below_full, voice) in [(5_000, 40, false), (5_020, 30, false), (5_090, 50, true), (5_310, 20, false)] {
            levels.record(Level { below_full, voice }, Micros::from_millis(millis));
        }
        let at = |levels: Levels, millis| levels.until(Micros::from_millis(millis)).map(|level| level.below_full);
        assert_eq!(at(levels, 5_399), [127, 127, 127, 127, 127, 127, 30, 127, 127, 20]);
        assert_eq!(at(levels, 5_900), [30, 127, 127, 20, 127, 127, 127, 127, 127, 127]);
        assert_eq!(at(levels, 6_200), [20, 127, 127, 127, 127, 127, 127, 127, 127, 127]);
        assert_eq!(at(levels, 6_300), [127; STEPS]);
        assert_eq!(at(levels, 900_000), [127; STEPS]);
        assert!(levels.until(Micros::from_millis(5_399))[6].voice);
        let last = |millis| levels.last(Micros::from_millis(millis));
        assert_eq!(last(5_400), (Level { below_full: 20, voice: false }, Micros::from_millis(5_400)));
        assert_eq!([5_399, 5_450, 5_500, 900_000].map(|millis| last(millis).0.below_full), [127, 20, 127, 127]);
        // A clock that jumps back changes nothing.
        levels.record(Level { below_full: 10, voice: false }, Micros::ZERO);
        assert_eq!(at(levels, 5_399)[9], 10);
    }
}
