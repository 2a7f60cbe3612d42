//! When a frame belongs: from the RTP time of a stream to microseconds of the server's clock, the same for sound and video of a publisher.
//!
//! Within a stream the RTP clock counts. Where it starts is told by arrival at first, and by the publisher's sender reports (RFC 3550
//! §6.4.1) as soon as there are any: they say which RTP time of each stream is which moment of one clock. The first stream that has one
//! stays where it is, the others come to it. The difference is not jumped but walked, one twentieth of what passes at most, so that neither sound nor picture stumbles. A clock that leaps is not believed: a
//! step that differs by more than [`LEAP`] from what arrival says begins anew where arrival says, and a sender report that would move
//! a stream by as much is not used.

use crate::rtp::report::SenderClock;
use crate::units::{Micros, RtpTime};

/// Microseconds by which a clock must not differ from the time of arrival.
pub const LEAP: i64 = 5_000_000;

/// Of one track.
pub struct Timeline {
    rate: i64,
    last: Option<Last>,
}

#[derive(Clone, Copy)]
struct Last {
    rtp: RtpTime,
    arrival: Micros,
    at: i64,
    /// What rounding left, in ticks times a million.
    rest: i64,
}

/// Microseconds of the publisher's clock.
fn ntp_micros(ntp: u64) -> i64 {
    ((ntp as u128 * 1_000_000) >> 32) as i64
}

impl Timeline {
    pub fn new(clock_rate: u32) -> Timeline {
        Timeline { rate: clock_rate.max(1) as i64, last: None }
    }

    /// The stream is another now, with an RTP clock of its own.
    pub fn restart(&mut self) {
        self.last = None;
    }

    /// What to add to the publisher's clock to have the server's, from its first sender report: what makes the stream of that report stay
    /// where it is, so that only others are moved, towards it. (Of GStreamer's reports both sound and video may seem seconds late.)
    pub fn offset(&self, clock: &SenderClock) -> i64 {
        let reported = clock.at.0 as i64;
        let placed = self.last.map(|last| last.at + clock.rtp.distance(last.rtp) as i64 * 1_000_000 / self.rate);
        placed.filter(|placed| (placed - reported).abs() < LEAP).unwrap_or(reported) - ntp_micros(clock.ntp)
    }

    /// When a frame belongs, and whether its clock leapt. `reports`: the stream's sender report and the publisher's [`Timeline::offset`].
    pub fn place(&mut self, rtp: RtpTime, arrival: Micros, reports: Option<(SenderClock, i64)>) -> (i64, bool) {
        let arrived = arrival.0 as i64;
        let told = reports.map(|(clock, offset)| ntp_micros(clock.ntp_at(rtp, self.rate as u32)) + offset);
        let told = told.filter(|told| (told - arrived).abs() < LEAP);
        let Some(last) = self.last else {
            let at = told.unwrap_or(arrived);
            self.last = Some(Last { rtp, arrival, at, rest: 0 });
            return (at, false);
        };
        let ticks = rtp.distance(last.rtp) as i64 * 1_000_000 + last.rest;
        let (step, elapsed) = (ticks.div_euclid(self.rate), arrived - last.arrival.0 as i64);
        if (step - elapsed).abs() > LEAP {
            let at = last.at + elapsed.max(0);
            self.last = Some(Last { rtp, arrival, at, rest: 0 });
            return (at, true);
        }
        let mut at = last.at + step;
        if let Some(told) = told {
            let walk = step.abs() / 20;
            at += (told - at).clamp(-walk, walk);
        }
        self.last = Some(Last { rtp, arrival, at, rest: ticks.rem_euclid(self.rate) });
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_and_video_come_together_by_their_reports() {
        // Video arrives 200 ms after it was taken, sound at once.
        let (mut sound, mut video) = (Timeline::new(48_000), Timeline::new(90_000));
        let second = 1u64 << 32;
        let report = |rtp: u32| SenderClock { stream: 0, ntp: 1_000 * second, rtp: RtpTime(rtp), at: Micros::from_secs(50) };
        let (of_sound, of_video) = (report(7), report(4_000_000_000));
        // As if it had been long on its way: what counts is how the streams lie to each other.
        let late = SenderClock { at: Micros::from_secs(53), ..of_sound };
        let mut offset = None;
        let mut apart = 0;
        for index in 0..400u32 {
            let taken = Micros::from_secs(50).0 + index as u64 * 20_000;
            let known = index > 100;
            if known {
                offset.get_or_insert_with(|| sound.offset(&late));
            }
            let heard = sound.place(RtpTime(7 + index * 960), Micros(taken), offset.map(|offset| (of_sound, offset))).0;
            assert!(heard.abs_diff(taken as i64) <= 2, "sound stays: {heard}, {taken}");
            let rtp = RtpTime(4_000_000_000u32.wrapping_add(index * 1_800));
            let seen = video.place(rtp, Micros(taken + 200_000), offset.map(|offset| (of_video, offset))).0;
            apart = seen - heard;
            if index <= 100 {
                assert_eq!(apart, 200_000);
            }
        }
        assert!(apart.abs() <= 2, "{apart}");
    }

    #[test]
    fn a_clock_that_leaps_by_hours_is_not_followed() {
        let mut video = Timeline::new(90_000);
        assert_eq!(video.place(RtpTime(5), Micros::from_secs(1), None), (1_000_000, false));
        let hours = 5 + 3 * 3_600 * 90_000;
        assert_eq!(video.place(RtpTime(hours), Micros::from_millis(1_040), None), (1_040_000, true));
        assert_eq!(video.place(RtpTime(hours + 3_600), Micros::from_millis(1_090), None), (1_080_000, false));
        let wrong = SenderClock { stream: 0, ntp: 9 << 50, rtp: RtpTime(hours), at: Micros::from_secs(1) };
        assert_eq!(video.place(RtpTime(hours + 7_200), Micros::from_millis(1_120), Some((wrong, 0))), (1_120_000, false));
    }
}
