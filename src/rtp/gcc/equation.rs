//! What TCP would have in our place, from how often packets are lost and the round trip: the bound on growth for one that shares a queue
//! with TCP and sends less than it may. A rate that is not used proves nothing (RFC 9002 §7.8), but what is lost meanwhile does.
//!
//! Source: RFC 5348 (TFRC): loss events (§5.2), their average interval (§5.4), the throughput equation (§3.1). Packets count whatever their
//! size, and the equation has that of a full one, as in RFC 4828 (TFRC-SP): queues drop packets.

use arrayvec::ArrayVec;

use crate::units::{Bitrate, Micros};

/// Of loss events' intervals, the newest first.
const WEIGHTS: [f64; 8] = [1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2];
const PACKET_BITS: f64 = 1200.0 * 8.0;
/// Of the round trip: TCP's timeout.
const TIMEOUT: f64 = 4.0;

/// Loss events of one path.
#[derive(Clone, Debug, Default)]
pub struct LossEvents {
    /// Packets from one to the next, the newest first.
    intervals: ArrayVec<u32, { WEIGHTS.len() }>,
    /// Packets since the last one.
    open: u32,
    /// When the first packet was sent that was lost in it.
    began: Option<Micros>,
}

impl LossEvents {
    /// What becomes known of a packet, in the order of sending. What is lost within a round trip is one event.
    pub fn packet(&mut self, sent: Micros, lost: bool, round_trip: Micros) {
        self.open = self.open.saturating_add(1);
        if !lost || self.began.is_some_and(|began| sent.since(began) <= round_trip.0) {
            return;
        }
        // What was before the first is no interval (§6.3.1).
        if self.began.replace(sent).is_some() {
            if self.intervals.is_full() {
                self.intervals.pop();
            }
            self.intervals.insert(0, self.open);
        }
        self.open = 0;
    }

    /// None as long as nothing was lost.
    pub fn rate(&self, round_trip: Micros) -> Option<Bitrate> {
        self.began?;
        // The open interval counts if that makes the average larger.
        let closed = average(self.intervals.iter().copied());
        let interval = closed.max(average(std::iter::once(self.open).chain(self.intervals.iter().copied()))).max(1.0);
        let chance = 1.0 / interval;
        let often = (2.0 * chance / 3.0).sqrt();
        let timeouts = TIMEOUT * (3.0 * (3.0 * chance / 8.0).sqrt()).min(1.0) * chance * (1.0 + 32.0 * chance * chance);
        let seconds = round_trip.0.max(1) as f64 / 1e6;
        Some(Bitrate((PACKET_BITS / (seconds * (often + timeouts))) as u64))
    }
}

fn average(intervals: impl Iterator<Item = u32>) -> f64 {
    let (sum, weights) = intervals
        .zip(WEIGHTS)
        .fold((0.0, 0.0), |(sum, weights), (interval, weight)| (sum + weight * f64::from(interval), weights + weight));
    if weights > 0.0 { sum / weights } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is allowed after so many packets, 10 ms apart, of which the first and then every `one_in`th and those `burst` before it are lost.
    fn after(packets: u64, one_in: u64, burst: u64, round_trip: u64) -> u64 {
        let (mut events, round_trip) = (LossEvents::default(), Micros::from_millis(round_trip));
        for packet in 0..packets {
            events.packet(Micros::from_millis(1_000 + 10 * packet), packet % one_in < burst, round_trip);
        }
        events.rate(round_trip).map_or(0, |rate| rate.0 / 1_000)
    }

    #[test]
    fn it_gives_what_the_equation_gives() {
        // §3.1 by hand: p = 0.01 and R = 0.1 s give 96,000 / (0.0816 + 0.0073) b/s.
        assert!((1_050..1_110).contains(&after(1_001, 100, 1, 100)), "{}", after(1_001, 100, 1, 100));
        assert!((525..555).contains(&after(1_001, 100, 1, 200)), "{}", after(1_001, 100, 1, 200));
        assert_eq!(after(1_001, 100, 5, 100), after(1_001, 100, 1, 100), "what is lost together is one event");
        assert!(after(1_001, 25, 1, 100) < after(1_001, 100, 1, 100) / 2);
    }

    #[test]
    fn a_time_without_losses_counts_when_it_is_long() {
        assert_eq!(after(1_050, 100, 1, 100), after(1_001, 100, 1, 100));
        let mut events = LossEvents::default();
        assert_eq!(events.rate(Micros::from_millis(100)), None);
        let mut rates = Vec::new();
        for packet in 0..400 {
            events.packet(Micros::from_millis(1_000 + 10 * packet), packet == 0, Micros::from_millis(100));
            rates.extend(events.rate(Micros::from_millis(100)));
        }
        assert!(rates.is_sorted() && rates[0] < Bitrate::kbps(100) && rates[399] > Bitrate::kbps(1_500), "{rates:?}");
    }
}
