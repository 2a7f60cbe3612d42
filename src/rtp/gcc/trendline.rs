//! The delay detector: is the queue on the path growing, shrinking or neither?
//!
//! Source: draft-ietf-rmcat-gcc-02 §5.4 for the adaptive threshold; the filter is libwebrtc's `goog_cc/trendline_estimator.cc`: a
//! line through the smoothed delays of the last 20 groups, whose slope is compared with the threshold.

use arrayvec::ArrayVec;

use super::delta::Deltas;
use crate::units::Micros;

/// Groups that the line is laid through.
const WINDOW: usize = 20;
const SMOOTHING: f64 = 0.9;
const GAIN: f64 = 4.0;
/// More groups than this do not make the slope more credible.
const DELTAS_MAX: u32 = 60;
/// Milliseconds that the slope must be too steep before that is believed.
const OVERUSE_MS: f64 = 10.0;
/// The threshold in milliseconds, how fast it follows the slope up and down, and what is too far off to follow.
const THRESHOLD_FIRST: f64 = 12.5;
const THRESHOLD: (f64, f64) = (6.0, 600.0);
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
const THRESHOLD_OFFSET_MAX: f64 = 15.0;
const THRESHOLD_STEP_MS_MAX: f64 = 100.0;

/// How fast the least delay seen is forgotten, in milliseconds a millisecond: clocks drift, and routes change.
const BASE_DRIFT: f64 = 0.001;

/// What the path is used like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    #[default]
    Normal,
    Over,
    Under,
}

#[derive(Clone, Debug)]
pub struct Trendline {
    deltas: u32,
    first_arrived: Option<Micros>,
    accumulated: f64,
    smoothed: f64,
    /// The least of it lately: an empty queue.
    base: f64,
    base_held: bool,
    /// Arrival and smoothed delay, in milliseconds.
    points: ArrayVec<(f64, f64), WINDOW>,
    slope: f64,
    previous_slope: f64,
    threshold: f64,
    threshold_at: Option<Micros>,
    over_ms: Option<f64>,
    over_count: u32,
    usage: Usage,
}

impl Default for Trendline {
    fn default() -> Self {
        Trendline {
            deltas: 0,
            first_arrived: None,
            accumulated: 0.0,
            smoothed: 0.0,
            base: 0.0,
            base_held: false,
            points: ArrayVec::new(),
            slope: 0.0,
            previous_slope: 0.0,
            threshold: THRESHOLD_FIRST,
            threshold_at: None,
            over_ms: None,
            over_count: 0,
            usage: Usage::Normal,
        }
    }
}

impl Trendline {
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Milliseconds in the queue, above the least there were lately.
    pub fn queue_ms(&self) -> f64 {
        self.smoothed - self.base
    }

    /// Whether the least delay is remembered: the queue does not empty, for a reason that is known.
    pub fn hold_base(&mut self, hold: bool) {
        self.base_held = hold;
    }

    /// Takes the distances of two groups, the later of which has arrived at `arrived`.
    pub fn update(&mut self, deltas: Deltas, arrived: Micros) {
        let sent_ms = deltas.sent as f64 / 1e3;
        self.deltas = (self.deltas + 1).min(1000);
        let first = *self.first_arrived.get_or_insert(arrived);
        self.accumulated += deltas.arrived as f64 / 1e3 - sent_ms;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.accumulated;
        let drift = if self.base_held { 0.0 } else { BASE_DRIFT };
        self.base = (self.base + drift * sent_ms).min(self.smoothed);
        if self.points.is_full() {
            self.points.remove(0);
        }
        self.points.push((arrived.since(first) as f64 / 1e3, self.smoothed));
        if self.points.is_full() {
            self.slope = slope(&self.points).unwrap_or(self.slope);
        }
        self.detect(sent_ms, arrived);
    }

    fn detect(&mut self, sent_ms: f64, now: Micros) {
        if self.deltas < 2 {
            return;
        }
        let trend = f64::from(self.deltas.min(DELTAS_MAX)) * self.slope * GAIN;
        if trend > self.threshold {
            // The first time, half of the interval is assumed.
            let over = self.over_ms.map_or(sent_ms / 2.0, |over| over + sent_ms);
            self.over_ms = Some(over);
            self.over_count += 1;
            if over > OVERUSE_MS && self.over_count > 1 && self.slope >= self.previous_slope {
                (self.over_ms, self.over_count) = (Some(0.0), 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over_ms, self.over_count) = (None, 0);
            self.usage = if trend < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        self.previous_slope = self.slope;
        self.adapt(trend.abs(), now);
    }

    /// Follows the slope, quickly down and slowly up: so that a path with jitter of its own is not taken for an overused one, nor
    /// starved by others that fill the queue (draft-ietf-rmcat-gcc-02 §5.4).
    fn adapt(&mut self, trend: f64, now: Micros) {
        let last = self.threshold_at.replace(now).unwrap_or(now);
        if trend > self.threshold + THRESHOLD_OFFSET_MAX {
            return;
        }
        let rate = if trend < self.threshold { THRESHOLD_DOWN } else { THRESHOLD_UP };
        let elapsed = (now.since(last) as f64 / 1e3).min(THRESHOLD_STEP_MS_MAX);
        self.threshold = (self.threshold + rate * (trend - self.threshold) * elapsed).clamp(THRESHOLD.0, THRESHOLD.1);
    }
}

/// Of the line with the least squares; none if all points have one abscissa.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let (sum_x, sum_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for (x, y) in points {
        numerator += (x - mean_x) * (y - mean_y);
        denominator += (x - mean_x) * (x - mean_x);
    }
    (denominator > 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups every 20 ms, each delayed by so many microseconds more than the one before.
    fn after(groups: u64, growth: i64) -> Usage {
        let mut line = Trendline::default();
        let mut arrived = Micros::from_secs(1);
        for _ in 0..groups {
            arrived = Micros(arrived.0.saturating_add_signed(20_000 + growth));
            line.update(Deltas { sent: 20_000, arrived: 20_000 + growth }, arrived);
        }
        line.usage()
    }

    #[test]
    fn a_growing_queue_is_overuse_and_a_shrinking_one_underuse() {
        assert_eq!(after(60, 0), Usage::Normal);
        assert_eq!(after(60, 4_000), Usage::Over);
        assert_eq!(after(60, -4_000), Usage::Under);
        assert_eq!(after(10, 4_000), Usage::Normal, "too few groups for a line");
    }

    #[test]
    fn jitter_is_neither() {
        let mut line = Trendline::default();
        let mut arrived = Micros::from_secs(1);
        for group in 0..500i64 {
            // Back and forth by up to 3 ms.
            let growth = [3_000, -1_000, -2_000, 1_000, -1_000][group as usize % 5];
            arrived = Micros(arrived.0.saturating_add_signed(20_000 + growth));
            line.update(Deltas { sent: 20_000, arrived: 20_000 + growth }, arrived);
            assert_ne!(line.usage(), Usage::Over, "group {group}");
        }
    }

    #[test]
    fn a_line_has_its_slope() {
        let points: Vec<_> = (0..20).map(|x| (f64::from(x), 3.0 + 0.5 * f64::from(x))).collect();
        assert!((slope(&points).unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }
}
