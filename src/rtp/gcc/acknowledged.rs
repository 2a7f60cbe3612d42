//! The acknowledged bitrate: how much of what was sent has arrived lately.
//!
//! Source: libwebrtc's `goog_cc/bitrate_estimator.cc`: windows of 150 ms, each a sample that is believed the less the further it is from
//! the estimate (a Bayesian update), and less still if it is low while the sender had little to send.

use crate::units::{Bitrate, Micros};

const WINDOW_FIRST_MS: f64 = 500.0;
const WINDOW_MS: f64 = 150.0;
const UNCERTAINTY: f64 = 10.0;
const UNCERTAINTY_IDLE: f64 = 20.0;
const VARIANCE_FIRST: f64 = 50.0;
/// Added with every sample: the true rate may have changed meanwhile.
const VARIANCE_STEP: f64 = 5.0;
const VARIANCE_FAST_CHANGE: f64 = 200.0;

#[derive(Clone, Debug)]
pub struct Acknowledged {
    bytes: f64,
    window_ms: f64,
    last: Option<Micros>,
    /// In kilobits per second.
    estimate: Option<f64>,
    variance: f64,
    /// Of the last window alone.
    latest: f64,
}

impl Default for Acknowledged {
    fn default() -> Self {
        Acknowledged { bytes: 0.0, window_ms: 0.0, last: None, estimate: None, variance: VARIANCE_FIRST, latest: 0.0 }
    }
}

impl Acknowledged {
    pub fn bitrate(&self) -> Option<Bitrate> {
        self.estimate.map(|kilobits| Bitrate((kilobits * 1e3) as u64))
    }

    /// What arrived while there was a queue: the estimate, or the last window if that is more. A sender that pauses between bursts has
    /// an average far below what the path carried when its queue grew, and must not be reduced to that.
    pub fn busy(&self) -> Option<Bitrate> {
        self.estimate.map(|kilobits| Bitrate((kilobits.max(self.latest) * 1e3) as u64))
    }

    /// A packet of `bytes` arrived. `idle`: the sender is limited by what it has to send (ALR).
    pub fn packet(&mut self, arrived: Micros, bytes: usize, idle: bool) {
        let window = if self.estimate.is_some() { WINDOW_MS } else { WINDOW_FIRST_MS };
        let Some(sample) = self.sample(arrived, bytes, window) else { return };
        self.latest = sample;
        let Some(estimate) = self.estimate else {
            self.estimate = Some(sample);
            return;
        };
        let scale = if idle && sample < estimate { UNCERTAINTY_IDLE } else { UNCERTAINTY };
        let uncertainty = scale * (estimate - sample).abs() / estimate.max(1.0);
        let (sampled, predicted) = (uncertainty * uncertainty, self.variance + VARIANCE_STEP);
        self.estimate = Some((sampled * estimate + predicted * sample) / (sampled + predicted));
        self.variance = sampled * predicted / (sampled + predicted);
    }

    /// The sender had little to send and has more now: the rate may jump.
    pub fn expect_fast_change(&mut self) {
        self.variance += VARIANCE_FAST_CHANGE;
    }

    /// Kilobits per second of a window that has just ended.
    fn sample(&mut self, now: Micros, bytes: usize, window: f64) -> Option<f64> {
        let mut sample = None;
        if let Some(last) = self.last {
            if now < last {
                // Out of order: it counts, and moves no window.
                self.bytes += bytes as f64;
                return None;
            }
            let elapsed = now.since(last) as f64 / 1e3;
            self.window_ms += elapsed;
            if elapsed > window {
                (self.bytes, self.window_ms) = (0.0, self.window_ms % window);
            }
            if self.window_ms >= window {
                sample = Some(8.0 * self.bytes / window);
                (self.bytes, self.window_ms) = (0.0, self.window_ms - window);
            }
        }
        self.last = Some(now);
        self.bytes += bytes as f64;
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many packets of 1200 bytes, so many microseconds apart.
    fn feed(rate: &mut Acknowledged, from: &mut Micros, packets: u32, apart: u64, idle: bool) {
        for _ in 0..packets {
            *from = *from + Micros(apart);
            rate.packet(*from, 1200, idle);
        }
    }

    #[test]
    fn it_follows_the_rate() {
        let (mut rate, mut now) = (Acknowledged::default(), Micros::from_secs(1));
        feed(&mut rate, &mut now, 10, 9_600, false);
        assert_eq!(rate.bitrate(), None, "half a second is the first window");
        feed(&mut rate, &mut now, 200, 9_600, false);
        assert!((950_000..1_050_000).contains(&rate.bitrate().unwrap().0), "{:?}", rate.bitrate());
        feed(&mut rate, &mut now, 800, 4_800, false);
        assert!((1_800_000..2_050_000).contains(&rate.bitrate().unwrap().0), "{:?}", rate.bitrate());
    }

    #[test]
    fn a_pause_of_an_idle_sender_is_half_believed() {
        let settle = |idle| {
            let (mut rate, mut now) = (Acknowledged::default(), Micros::from_secs(1));
            feed(&mut rate, &mut now, 400, 4_800, false);
            feed(&mut rate, &mut now, 10, 48_000, idle);
            rate.bitrate().unwrap().0
        };
        assert!(settle(true) > settle(false) + 100_000, "{} {}", settle(true), settle(false));
    }
}
