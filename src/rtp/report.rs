//! Sender reports in translation: what a publisher said of its clock, said again in each receiver's numbers (RFC 3550 §6.4.1),
//! so that audio and video of one publisher stay together at every receiver; and the round trip from receiver reports.

use crate::units::{Micros, RtpTime};

/// NTP time of a publisher against the RTP time of one of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderClock {
    /// Which of the publisher's streams.
    pub stream: u8,
    /// NTP timestamp, 32.32 bits fixed point.
    pub ntp: u64,
    pub rtp: RtpTime,
    /// When the report arrived.
    pub at: Micros,
}

impl SenderClock {
    /// The publisher's NTP time and the stream's RTP time at `now`.
    pub fn at(&self, now: Micros, clock_rate: u32) -> (u64, RtpTime) {
        let elapsed = now.since(self.at) as u128;
        let ntp = self.ntp.wrapping_add(((elapsed << 32) / 1_000_000) as u64);
        (ntp, self.rtp.add((elapsed * clock_rate as u128 / 1_000_000) as u32))
    }

    /// The publisher's NTP time when the stream's clock showed `rtp`.
    pub fn ntp_at(&self, rtp: RtpTime, clock_rate: u32) -> u64 {
        let ticks = rtp.distance(self.rtp) as i128;
        self.ntp.wrapping_add(((ticks << 32) / clock_rate.max(1) as i128) as i64 as u64)
    }
}

/// A time of the server in the format of an NTP timestamp: of no use but to be sent back (RFC 3611 §4.4).
pub const fn reference_time(now: Micros) -> u64 {
    (((now.0 as u128) << 32) / 1_000_000) as u64
}

/// The middle 32 bits of an NTP timestamp (RFC 3550 §6.4.1, LSR).
pub const fn compact(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// The last sender report sent to a receiver, kept to understand its answer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))] // whoever has thousands has four bytes less of each
pub struct LastReport {
    pub compact_ntp: u32,
    pub at: Micros,
}

impl LastReport {
    /// Round trip from a report block's LSR and DLSR (1/65536 s); none if it answers another report or lies about its delay.
    pub fn round_trip(&self, last_sr: u32, delay_since_last_sr: u32, now: Micros) -> Option<Micros> {
        if last_sr == 0 || last_sr != self.compact_ntp {
            return None;
        }
        let held = delay_since_last_sr as u64 * 1_000_000 / 65_536;
        now.since(self.at).checked_sub(held).map(Micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_on_between_reports() {
        let clock = SenderClock { stream: 0, ntp: 10 << 32, rtp: RtpTime(u32::MAX - 44_999), at: Micros::from_secs(5) };
        assert_eq!(clock.at(Micros::from_secs(6), 90_000), (11 << 32, RtpTime(45_000)));
    }

    #[test]
    fn a_time_stamp_has_an_ntp_time() {
        let clock = SenderClock { stream: 0, ntp: 10 << 32, rtp: RtpTime(u32::MAX - 44_999), at: Micros::ZERO };
        assert_eq!(clock.ntp_at(RtpTime(0), 90_000), (10 << 32) + (1 << 31));
        assert_eq!(clock.ntp_at(RtpTime(u32::MAX - 134_999), 90_000), 9 << 32);
    }

    #[test]
    fn round_trip_subtracts_the_receivers_delay() {
        let last = LastReport { compact_ntp: 77, at: Micros::from_millis(1_000) };
        let half_second = 32_768;
        assert_eq!(last.round_trip(77, half_second, Micros::from_millis(1_540)), Some(Micros::from_millis(40)));
        assert_eq!(last.round_trip(76, half_second, Micros::from_millis(1_540)), None);
        assert_eq!(last.round_trip(77, u32::MAX, Micros::from_millis(1_540)), None);
    }
}
