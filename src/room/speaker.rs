//! Who speaks in a room: computed once for the room, from the levels that packets carry (RFC 6464), not once for each viewer.
//!
//! Three times count, as in Volfin and Cohen ("Dominant speaker identification for multipoint videoconferencing", 2013), whose
//! scores conferences use: the moment, half a second, and some seconds. Theirs compares likelihoods of sub-bands of each; here,
//! with levels only, they are
//! - the moment: how far a level is above the track's own background, so that a fan is no speaker however loud;
//! - half a second: that, smoothed. It orders the loudest, and tells who speaks;
//! - some seconds: who is dominant stays so until another has been clearly more active for a while, or is silent and another is
//!   not. A cough is too short for that, and of two who talk at a time the first keeps the floor.
//!
//! Time is an argument, and how often levels come does not matter. Bounded: of more tracks than have a place, silent ones give
//! theirs up.

use arrayvec::ArrayVec;

use crate::rtp::level::Level;
use crate::units::{Micros, TrackId};

/// The background is taken to be within these, in dB above the quietest that a level can say (-127 dBov).
const BACKGROUND: std::ops::RangeInclusive<f32> = 52.0..=95.0;
/// Where it is assumed to be at first, at most: -60 dBov.
const BACKGROUND_FIRST: f32 = 67.0;
/// How fast it rises under a steady sound, in dB/s. It falls at once: speech has pauses.
const BACKGROUND_RISE: f32 = 2.0;
/// dB above the background where activity begins, and where it is full.
const MARGIN: f32 = 9.0;
const FULL: f32 = 24.0;
/// Time constant of activity, in seconds.
const SMOOTHING: f32 = 0.5;
/// A sample stands for this long at most; what is longer ago was silence.
const SAMPLE_MICROS_MAX: u64 = 120_000;
/// Activity (0 to 1) from which on a track speaks, and until which it does.
const SPEAKS: f32 = 0.25;
const SPEAKS_STILL: f32 = 0.08;
/// A challenger has to be more active than this share of the dominant speaker and this much more,
const CLEARLY: f32 = 1.3;
const CLEARLY_MORE: f32 = 0.2;
/// for this long.
const HOLD_MICROS: u64 = 700_000;

/// One track.
#[derive(Clone, Copy, Debug)]
struct Voice {
    track: TrackId,
    background: f32,
    activity: f32,
    level: Level,
    heard: Micros,
    speaking: bool,
    /// It has told voice from other sound at least once, and so can be believed when it does not.
    tells_voice: bool,
}

impl Voice {
    fn new(track: TrackId, level: Level, now: Micros) -> Self {
        let background = loudness(level).clamp(*BACKGROUND.start(), BACKGROUND_FIRST);
        let heard = Micros(now.0.saturating_sub(SAMPLE_MICROS_MAX));
        Voice { track, background, activity: 0.0, level, heard, speaking: false, tells_voice: false }
    }

    fn hear(&mut self, level: Level, now: Micros) {
        let elapsed = now.since(self.heard);
        let sample = elapsed.min(SAMPLE_MICROS_MAX);
        self.activity = decayed(self.activity, elapsed - sample);
        let seconds = sample as f32 / 1e6;
        let loud = loudness(level);
        self.background = match loud < self.background {
            true => loud,
            false => loud.min(self.background + BACKGROUND_RISE * seconds),
        };
        self.background = self.background.clamp(*BACKGROUND.start(), *BACKGROUND.end());
        self.tells_voice |= level.voice;
        let moment = match self.tells_voice && !level.voice {
            true => 0.0,
            false => ((loud - self.background - MARGIN) / (FULL - MARGIN)).clamp(0.0, 1.0),
        };
        let kept = decayed(1.0, sample);
        self.activity = self.activity * kept + moment * (1.0 - kept);
        (self.level, self.heard) = (level, self.heard.max(now));
        self.judge(self.activity);
    }

    fn judge(&mut self, activity: f32) {
        self.speaking = activity > if self.speaking { SPEAKS_STILL } else { SPEAKS };
    }
}

fn loudness(level: Level) -> f32 {
    127.0 - f32::from(level.below_full)
}

fn decayed(activity: f32, micros: u64) -> f32 {
    activity * (-(micros as f32) / 1e6 / SMOOTHING).exp()
}

/// What is known of a track's sound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    pub level: Level,
    /// 0 to 1.
    pub activity: f32,
    pub speaking: bool,
}

/// The tracks of sound of one room.
#[derive(Debug)]
pub struct Speakers {
    voices: Vec<Voice>,
    tracks_max: usize,
    /// Time between two samples of a track that sends; what is not heard for longer falls silent.
    interval: Micros,
    dominant: Option<TrackId>,
    challenger: Option<(TrackId, Micros)>,
}

impl Speakers {
    /// `interval`: time between two [`Speakers::hear`] of a track that sends, at most.
    pub fn new(tracks_max: usize, interval: Micros) -> Self {
        Speakers { voices: Vec::new(), tracks_max, interval, dominant: None, challenger: None }
    }

    /// A track was as loud as this. Then, when all of a moment are heard, [`Speakers::settle`].
    pub fn hear(&mut self, track: TrackId, level: Level, now: Micros) {
        if let Some(voice) = self.voices.iter_mut().find(|voice| voice.track == track) {
            return voice.hear(level, now);
        }
        if self.voices.len() >= self.tracks_max {
            // The least active, so that of several who begin at a time none takes the other's place.
            let silent = self.voices.iter().enumerate().filter(|(_, voice)| !voice.speaking && Some(voice.track) != self.dominant);
            let least = silent.min_by(|(_, a), (_, b)| self.activity_of(a, now).total_cmp(&self.activity_of(b, now)));
            let Some((index, _)) = least else { return };
            self.voices.swap_remove(index);
        }
        let mut voice = Voice::new(track, level, now);
        voice.hear(level, now);
        self.voices.push(voice);
    }

    /// A track has ended.
    pub fn forget(&mut self, track: TrackId) {
        self.voices.retain(|voice| voice.track != track);
        self.dominant = self.dominant.filter(|dominant| *dominant != track);
        self.challenger = self.challenger.filter(|challenger| challenger.0 != track);
    }

    /// Decides who is dominant now.
    pub fn settle(&mut self, now: Micros) {
        for index in 0..self.voices.len() {
            let activity = self.activity_of(&self.voices[index], now);
            self.voices[index].judge(activity);
        }
        let dominant = self.dominant.and_then(|track| self.find(track)).map_or(0.0, |voice| self.activity_of(voice, now));
        let best = self.loudest::<1>(now).first().copied().filter(|track| self.dominant != Some(*track));
        let challenger = best.and_then(|track| self.find(track)).filter(|voice| {
            let activity = self.activity_of(voice, now);
            voice.speaking && activity > dominant * CLEARLY + CLEARLY_MORE
        });
        let Some(track) = challenger.map(|voice| voice.track) else {
            self.challenger = None;
            return;
        };
        let since = self.challenger.filter(|(before, _)| *before == track).map_or(now, |(_, since)| since);
        self.challenger = Some((track, since));
        if now.since(since) >= HOLD_MICROS {
            (self.dominant, self.challenger) = (Some(track), None);
        }
    }

    /// The dominant speaker. Stays when everybody is silent.
    pub fn dominant(&self) -> Option<TrackId> {
        self.dominant
    }

    /// Whether anybody speaks.
    pub fn anybody(&self) -> bool {
        self.voices.iter().any(|voice| voice.speaking)
    }

    /// The `N` most active tracks that speak, most active first.
    pub fn loudest<const N: usize>(&self, now: Micros) -> ArrayVec<TrackId, N> {
        let mut loudest: ArrayVec<(f32, TrackId), N> = ArrayVec::new();
        for voice in self.voices.iter().filter(|voice| voice.speaking) {
            let activity = self.activity_of(voice, now);
            let place = loudest.iter().position(|(other, _)| activity > *other).unwrap_or(loudest.len());
            if place < N {
                if loudest.is_full() {
                    loudest.pop();
                }
                loudest.insert(place, (activity, voice.track));
            }
        }
        loudest.into_iter().map(|(_, track)| track).collect()
    }

    /// What is known of a track; silence of one that was never heard.
    pub fn activity(&self, track: TrackId, now: Micros) -> Activity {
        let Some(voice) = self.find(track) else { return Activity::default() };
        let silent = self.silent_for(voice, now) > 0;
        let level = if silent { Level::SILENCE } else { voice.level };
        Activity { level, activity: self.activity_of(voice, now), speaking: voice.speaking }
    }

    fn find(&self, track: TrackId) -> Option<&Voice> {
        self.voices.iter().find(|voice| voice.track == track)
    }

    fn activity_of(&self, voice: &Voice, now: Micros) -> f32 {
        decayed(voice.activity, self.silent_for(voice, now))
    }

    /// How long ago a track should have been heard again (DTX).
    fn silent_for(&self, voice: &Voice, now: Micros) -> u64 {
        now.since(voice.heard).saturating_sub(self.interval.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A track, and its level by the packet's number.
    type Member<'a> = (TrackId, &'a dyn Fn(u64) -> Option<u8>);

    const ANNA: TrackId = TrackId { slot: 1, generation: 1 };
    const BEN: TrackId = TrackId { slot: 2, generation: 1 };
    const CARO: TrackId = TrackId { slot: 3, generation: 1 };

    /// A room whose members send a packet every 20 ms.
    struct Talk {
        speakers: Speakers,
        now: u64,
    }

    impl Talk {
        fn new() -> Talk {
            Talk { speakers: Speakers::new(8, Micros::from_millis(60)), now: 1_000 }
        }

        /// For so long, each of these says at a time in milliseconds how many dB below full its packet is; none: no packet.
        fn go_on(&mut self, millis: u64, members: &[Member<'_>]) {
            for at in (0..millis).step_by(20) {
                self.now += 20;
                for (track, level) in members {
                    if let Some(below_full) = level(at) {
                        self.speakers.hear(*track, Level { below_full, voice: false }, Micros::from_millis(self.now));
                    }
                }
                self.speakers.settle(Micros::from_millis(self.now));
            }
        }

        fn loudest(&self) -> Vec<TrackId> {
            self.speakers.loudest::<2>(Micros::from_millis(self.now)).to_vec()
        }

        fn activity(&self, track: TrackId) -> f32 {
            self.speakers.activity(track, Micros::from_millis(self.now)).activity
        }
    }

    /// Syllables of 160 ms with gaps of 80, and a pause of 300 ms every two seconds; 25 dB below full.
    fn speech(at: u64) -> Option<u8> {
        let sounds = at % 240 < 160 && at % 2_000 < 1_700;
        Some(if sounds { 25 } else { 68 })
    }

    fn quiet(_: u64) -> Option<u8> {
        Some(70)
    }

    #[test]
    fn turns_are_followed_and_interruptions_wait() {
        let mut talk = Talk::new();
        talk.go_on(3_000, &[(ANNA, &quiet), (BEN, &quiet)]);
        assert_eq!((talk.speakers.dominant(), talk.loudest()), (None, vec![]), "nobody speaks yet");
        talk.go_on(2_000, &[(ANNA, &speech), (BEN, &quiet)]);
        assert_eq!((talk.speakers.dominant(), talk.loudest()), (Some(ANNA), vec![ANNA]));
        // Both at a time: who had the floor keeps it, both are among the loudest.
        talk.go_on(3_000, &[(ANNA, &speech), (BEN, &speech)]);
        assert_eq!(talk.speakers.dominant(), Some(ANNA));
        assert_eq!(talk.loudest().len(), 2);
        // She stops: it is his within 1.2 s.
        talk.go_on(1_200, &[(ANNA, &quiet), (BEN, &speech)]);
        assert_eq!(talk.speakers.dominant(), Some(BEN));
        talk.go_on(4_000, &[(ANNA, &quiet), (BEN, &quiet)]);
        assert_eq!((talk.speakers.dominant(), talk.loudest()), (Some(BEN), vec![]), "silence takes the floor from nobody");
        talk.speakers.forget(BEN);
        assert_eq!(talk.speakers.dominant(), None);
    }

    #[test]
    fn a_cough_takes_the_floor_from_nobody() {
        let cough = |at: u64| Some(if at < 300 { 10 } else { 70 });
        let mut talk = Talk::new();
        talk.go_on(4_000, &[(ANNA, &speech), (BEN, &quiet)]);
        for _ in 0..5 {
            talk.go_on(2_000, &[(ANNA, &speech), (BEN, &cough)]);
            assert_eq!(talk.speakers.dominant(), Some(ANNA));
        }
        talk.go_on(4_000, &[(ANNA, &quiet), (BEN, &quiet)]);
        talk.go_on(3_000, &[(ANNA, &quiet), (BEN, &cough)]);
        assert_eq!(talk.speakers.dominant(), Some(ANNA), "nor in silence");
    }

    #[test]
    fn noise_is_no_speaker_however_loud() {
        let fan = |at: u64| Some(38 + (at / 20 % 3) as u8);
        let mut talk = Talk::new();
        talk.go_on(15_000, &[(ANNA, &quiet), (BEN, &fan)]);
        assert!(!talk.loudest().contains(&BEN), "activity {}", talk.activity(BEN));
        talk.go_on(3_000, &[(ANNA, &speech), (BEN, &fan)]);
        assert_eq!((talk.speakers.dominant(), talk.loudest()), (Some(ANNA), vec![ANNA]));
        // Somebody who speaks above the fan is heard all the same.
        let above = |at: u64| speech(at).map(|level| if level < 60 { 12 } else { 39 });
        talk.go_on(5_000, &[(ANNA, &quiet), (BEN, &above)]);
        assert_eq!(talk.speakers.dominant(), Some(BEN));
    }

    #[test]
    fn a_client_that_tells_voice_from_sound_is_believed() {
        let mut speakers = Speakers::new(8, Micros::from_millis(60));
        for step in 0..200u64 {
            let (music, now) = (Level { below_full: 20, voice: step < 5 }, Micros::from_millis(1_000 + 20 * step));
            speakers.hear(ANNA, music, now);
            speakers.hear(BEN, Level { below_full: if step % 10 < 7 { 30 } else { 70 }, voice: true }, now);
            speakers.settle(now);
        }
        assert_eq!(speakers.dominant(), Some(BEN));
    }

    #[test]
    fn without_packets_activity_ends() {
        let mut talk = Talk::new();
        talk.go_on(3_000, &[(ANNA, &speech)]);
        let before = talk.activity(ANNA);
        let nothing = |_: u64| None;
        let mut last = before;
        for _ in 0..10 {
            talk.go_on(200, &[(ANNA, &nothing)]);
            assert!(talk.activity(ANNA) < last || last < 1e-3);
            last = talk.activity(ANNA);
        }
        let end = talk.speakers.activity(ANNA, Micros::from_millis(talk.now));
        assert!(before > 0.4 && !end.speaking && end.level == Level::SILENCE && talk.loudest().is_empty(), "{before}: {end:?}");
        // And at once again when they come.
        talk.go_on(1_000, &[(ANNA, &speech)]);
        assert_eq!(talk.loudest(), [ANNA]);
    }

    #[test]
    fn a_full_room_makes_room_for_who_speaks() {
        let mut talk = Talk::new();
        for slot in 10..30 {
            talk.go_on(100, &[(TrackId { slot, generation: 1 }, &quiet)]);
        }
        assert_eq!(talk.speakers.voices.len(), 8);
        talk.go_on(2_000, &[(CARO, &speech)]);
        assert_eq!((talk.speakers.dominant(), talk.speakers.voices.len()), (Some(CARO), 8));
        // Two who begin at the same time, and are heard ten times a second, do not take each other's place.
        talk.go_on(3_000, &[(CARO, &quiet)]);
        let tenth = |at: u64| at.is_multiple_of(100).then_some(25);
        talk.go_on(1_000, &[(ANNA, &tenth), (BEN, &tenth)]);
        assert_eq!(talk.loudest().len(), 2, "{:?}", talk.loudest());
    }
}
