//! The rate that follows from the detector: additive increase, multiplicative decrease.
//!
//! Source: draft-ietf-rmcat-gcc-02 §5.5, with libwebrtc's `goog_cc/aimd_rate_control.cc` and `link_capacity_estimator.cc`: near a rate
//! at which the path was overused before it grows by about a packet a round trip, far from it by 8 % a second. What is given way, and what
//! is gone back to, is not theirs: see the constants.

use super::trendline::Usage;
use crate::units::{Bitrate, Micros};

/// What is kept of the rate at which packets arrive when the path is overused: so much that the queue drains in a fifth of a second, between
/// these. The draft keeps the least, however short the queue is; NADA (RFC 8698 §4.3) gives way in proportion to it too.
const BACKOFF: (f64, f64) = (0.85, 0.95);
const DRAIN_MS: f64 = 200.0;
/// And what is gone back to, of that rate, when the queue has drained: giving way was for that. Growing back, as the draft does, takes five
/// seconds at 1 Mb/s and a quarter of a minute at 3 (BBR, draft-ietf-ccwg-bbr, goes back to the rate that it has seen too).
const RESUMED: f64 = 0.95;
/// A queue that took longer to drain was not ours alone.
const DRAIN_MAX: Micros = Micros::from_secs(2);
/// Growth far from the known capacity, per second.
const GROWTH: f64 = 1.08;
const GROWTH_MIN_BPS: f64 = 1_000.0;
const GROWTH_NEAR_MIN_BPS: f64 = 4_000.0;
/// Packets by which the rate grows near it in the time that a change takes to show. A third more than in the draft and libwebrtc: where
/// less is given way, growth alone makes the shares of several even (Chiu and Jain, 1989).
const PACKETS_NEAR: f64 = 0.65;
/// The rate never goes further above what has arrived.
const ABOVE_ACKNOWLEDGED: f64 = 1.5;
const ABOVE_ACKNOWLEDGED_BPS: f64 = 10_000.0;
/// Nor above what a probe has shown to be all, its error aside, as long as not so much of that is used.
const ABOVE_SHOWN: f64 = 1.1;
const USED: f64 = 0.9;
const PACKET_BITS: f64 = 1200.0 * 8.0;
const FRAMES_PER_SECOND: f64 = 30.0;
/// A shorter queue has drained.
const EMPTY_MS: f64 = 5.0;
/// Time until a change shows: the round trip and what the detector takes.
const DETECTION_SECONDS: f64 = 0.1;
/// Beside TCP: a loss reduces the rate to so much, and without one it grows by so many packets a round trip, in each. These are
/// CUBIC's (RFC 9438 §4.3 and §4.6), whose region of short round trips is what a viewer shares a queue with.
const COMPETING_BACKOFF: f64 = 0.7;
const COMPETING_PACKETS: f64 = 1.0;
/// The rate of the throughput equation is the mean of this, whose peak is so much above it.
const PEAK: f64 = 2.0 / (1.0 + COMPETING_BACKOFF);
/// One of so many reductions goes so far: the queue of a slow path that is ours alone does not empty by the others.
const DEEP_EACH: u8 = 4;
const DEEP_BACKOFF: f64 = 0.5;
const REDUCTION_INTERVAL: (u64, u64) = (10_000, 200_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hold,
    Increase,
    Decrease,
}

/// What the path was seen to carry when it was overused: mean and variance, in kilobits per second.
#[derive(Clone, Debug, Default)]
struct Capacity {
    estimate: Option<f64>,
    deviation: f64,
}

impl Capacity {
    fn update(&mut self, sample: Bitrate, weight: f64) {
        let sample = sample.0 as f64 / 1e3;
        let estimate = self.estimate.map_or(sample, |estimate| (1.0 - weight) * estimate + weight * sample);
        self.estimate = Some(estimate);
        let error = estimate - sample;
        self.deviation = ((1.0 - weight) * self.deviation + weight * error * error / estimate.max(1.0)).clamp(0.4, 2.5);
    }

    /// Three standard deviations around the mean, in bits per second.
    fn bounds(&self) -> Option<(f64, f64)> {
        let estimate = self.estimate?;
        let spread = 3.0 * (self.deviation * estimate).sqrt();
        Some(((estimate - spread).max(0.0) * 1e3, (estimate + spread) * 1e3))
    }
}

/// The delay-based target.
#[derive(Clone, Debug)]
pub struct RateControl {
    state: State,
    target: f64,
    min: f64,
    max: f64,
    capacity: Capacity,
    round_trip: Micros,
    changed: Option<Micros>,
    /// What is gone back to when the queue has drained, and since when it does.
    resumed: Option<(f64, Micros)>,
    /// The last reduction for a loss beside TCP.
    competed: Option<Micros>,
    reductions: u8,
    /// A probe showed no more.
    shown: Option<Bitrate>,
}

impl RateControl {
    pub fn new(start: Bitrate, min: Bitrate, max: Bitrate) -> Self {
        RateControl {
            state: State::Hold,
            target: start.0 as f64,
            min: min.0 as f64,
            max: max.0 as f64,
            capacity: Capacity::default(),
            round_trip: Micros::from_millis(200),
            changed: None,
            resumed: None,
            competed: None,
            reductions: 0,
            shown: None,
        }
    }

    pub fn target(&self) -> Bitrate {
        Bitrate(self.target as u64)
    }

    pub fn set_round_trip(&mut self, round_trip: Micros) {
        self.round_trip = round_trip;
    }

    /// What a probe of more has shown of late.
    pub fn set_shown(&mut self, rate: Option<Bitrate>) {
        self.shown = rate;
    }

    /// A rate that is known by other means: a probe's.
    pub fn set(&mut self, target: Bitrate, now: Micros) {
        self.target = (target.0 as f64).clamp(self.min, self.max);
        self.changed = Some(now);
    }

    /// Follows what the detector says. `acknowledged`: the rate at which packets arrive; `queue_ms`: how long they wait.
    pub fn update(&mut self, usage: Usage, acknowledged: Option<Bitrate>, queue_ms: f64, idle: bool, now: Micros) {
        if usage != Usage::Over && queue_ms < EMPTY_MS {
            self.resume(now);
        }
        match (usage, acknowledged) {
            (Usage::Over, Some(rate)) if self.may_reduce(rate, now) => self.decrease(rate, queue_ms, now),
            // Nothing has been measured yet, and there is a queue: half of it, once a round trip.
            (Usage::Over, None) if self.changed.is_none_or(|at| now.since(at) >= self.reduction_interval()) => {
                self.set(Bitrate((self.target / 2.0) as u64), now);
            }
            (Usage::Over, _) => {}
            (Usage::Under, _) => self.state = State::Hold,
            (Usage::Normal, _) => self.increase(acknowledged, idle, now),
        }
    }

    /// Does as TCP does, beside which delay means nothing. `lost`: something was, of what has been told of now. `fair`: what TCP would have
    /// here; up to what is `useful` that counts as if it had arrived, or who sends little would never be allowed more.
    pub fn compete(&mut self, lost: bool, acknowledged: Option<Bitrate>, fair: Bitrate, useful: Bitrate, now: Micros) {
        let round_trip = self.round_trip.0.max(REDUCTION_INTERVAL.0) as f64 / 1e6;
        if lost && self.competed.is_none_or(|at| now.since(at) as f64 >= round_trip * 1e6) {
            self.competed = Some(now);
            if acknowledged.is_some_and(|rate| fair.0 as f64 > PEAK * rate.0 as f64) {
                // TCP would have more than is sent, and with these losses: the queue is not made by us.
                self.target = (COMPETING_BACKOFF * self.target).max(self.target.min(fair.min(useful).0 as f64));
            } else {
                self.reductions = (self.reductions + 1) % DEEP_EACH;
                self.target *= if self.reductions == 0 { DEEP_BACKOFF } else { COMPETING_BACKOFF };
            }
        } else {
            let seconds = self.changed.map_or(0.0, |at| (now.since(at) as f64 / 1e6).min(1.0));
            let limit = acknowledged.map_or(f64::INFINITY, |rate| ABOVE_ACKNOWLEDGED * rate.0 as f64 + ABOVE_ACKNOWLEDGED_BPS);
            let unused = (PEAK * fair.0 as f64).min(useful.0 as f64);
            let growth = seconds * COMPETING_PACKETS * PACKET_BITS / (round_trip * round_trip);
            self.target = (self.target + growth).min(limit.max(unused).max(self.target));
        }
        self.target = self.target.clamp(self.min, self.max);
        self.state = State::Hold;
        (self.changed, self.resumed) = (Some(now), None);
    }

    fn reduction_interval(&self) -> u64 {
        self.round_trip.0.clamp(REDUCTION_INTERVAL.0, REDUCTION_INTERVAL.1)
    }

    fn may_reduce(&self, acknowledged: Bitrate, now: Micros) -> bool {
        self.state != State::Hold
            || self.changed.is_none_or(|at| now.since(at) >= self.reduction_interval())
            || (acknowledged.0 as f64) < 0.5 * self.target
    }

    fn resume(&mut self, now: Micros) {
        // A queue that took long was somebody else's too, and what it left is theirs.
        if let Some((rate, _)) = self.resumed.take().filter(|(_, since)| now.since(*since) < DRAIN_MAX.0) {
            self.target = self.target.max(rate).clamp(self.min, self.max);
        }
    }

    fn decrease(&mut self, acknowledged: Bitrate, queue_ms: f64, now: Micros) {
        self.state = State::Decrease;
        let rate = acknowledged.0 as f64;
        let kept = (1.0 - queue_ms / DRAIN_MS).clamp(BACKOFF.0, BACKOFF.1);
        let mut reduced = kept * rate;
        if reduced > self.target
            && let Some(capacity) = self.capacity.estimate
        {
            reduced = kept * capacity * 1e3;
        }
        // Not more than before, and if it was too much again while the queue drained, not more than that either.
        let resumed = (RESUMED * rate).min(self.resumed.map_or(self.target, |(rate, _)| rate));
        self.resumed = Some((resumed, now));
        self.target = self.target.min(reduced).clamp(self.min, self.max);
        if self.capacity.bounds().is_some_and(|(lower, _)| rate < lower) {
            self.capacity = Capacity::default();
        }
        self.capacity.update(acknowledged, 0.05);
        // What is in the queue has to drain first.
        self.state = State::Hold;
        self.changed = Some(now);
    }

    fn increase(&mut self, acknowledged: Option<Bitrate>, idle: bool, now: Micros) {
        if self.state == State::Hold {
            self.state = State::Increase;
            // Growth is counted from here.
            self.changed = Some(now);
            return;
        }
        let seconds = self.changed.map_or(0.0, |at| (now.since(at) as f64 / 1e6).min(1.0));
        self.changed = Some(now);
        // An idle sender's rate proves nothing: it grows by probes alone.
        if idle {
            return;
        }
        let limit = acknowledged.map_or(f64::INFINITY, |rate| ABOVE_ACKNOWLEDGED * rate.0 as f64 + ABOVE_ACKNOWLEDGED_BPS);
        // Who sends less than it may learns nothing from that, and a probe told; unless more arrives than that showed.
        let shown = self.shown.map(|rate| ABOVE_SHOWN * rate.0 as f64);
        let shown = shown.filter(|shown| acknowledged.is_none_or(|rate| (rate.0 as f64) < USED * shown));
        let limit = limit.min(shown.unwrap_or(f64::INFINITY));
        if let (Some(rate), Some((_, upper))) = (acknowledged, self.capacity.bounds())
            && rate.0 as f64 > upper
        {
            self.capacity = Capacity::default();
        }
        if self.target < limit {
            let growth = match self.capacity.estimate {
                Some(_) => seconds * self.growth_near_capacity(),
                None => (self.target * (GROWTH.powf(seconds) - 1.0)).max(GROWTH_MIN_BPS * seconds),
            };
            self.target = (self.target + growth).min(limit).clamp(self.min, self.max);
        }
    }

    /// Bits per second, per second.
    fn growth_near_capacity(&self) -> f64 {
        let frame = self.target / FRAMES_PER_SECOND;
        let packet = frame / (frame / PACKET_BITS).ceil().max(1.0);
        let response = self.round_trip.0 as f64 / 1e6 + DETECTION_SECONDS;
        (PACKETS_NEAR * packet / response).max(GROWTH_NEAR_MIN_BPS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> RateControl {
        RateControl::new(Bitrate::kbps(1000), Bitrate::kbps(30), Bitrate::kbps(10_000))
    }

    #[test]
    fn it_grows_by_8_percent_a_second_until_overuse_and_slowly_after_that() {
        let (mut control, mut now) = (control(), Micros::from_secs(1));
        let grow = |control: &mut RateControl, now: &mut Micros| {
            for _ in 0..51 {
                control.update(Usage::Normal, Some(control.target()), 100.0, false, *now);
                *now = *now + Micros::from_millis(100);
            }
        };
        grow(&mut control, &mut now);
        let grown = control.target().0;
        assert!((1_440_000..1_490_000).contains(&grown), "{grown}");
        control.update(Usage::Over, Some(Bitrate(grown)), 100.0, false, now);
        assert_eq!(control.target().0, (0.85 * grown as f64) as u64);
        let reduced = control.target().0;
        control.update(Usage::Over, Some(Bitrate(grown)), 100.0, false, now + Micros::from_millis(50));
        assert_eq!(control.target().0, reduced, "not twice in a round trip");
        now = now + Micros::from_secs(1);
        grow(&mut control, &mut now);
        let slowly = control.target().0 - reduced;
        assert!((20_000..150_000).contains(&slowly), "{slowly}");
    }

    #[test]
    fn it_stays_within_bounds_and_near_what_arrives() {
        let mut control = control();
        let mut now = Micros::from_secs(1);
        for _ in 0..600 {
            control.update(Usage::Normal, Some(Bitrate::kbps(800)), 100.0, false, now);
            now = now + Micros::from_millis(100);
        }
        assert_eq!(control.target(), Bitrate::kbps(1210));
        for _ in 0..60 {
            control.update(Usage::Over, Some(Bitrate(control.target().0 / 2)), 100.0, false, now);
            now = now + Micros::from_millis(500);
        }
        assert_eq!(control.target(), Bitrate::kbps(30));
    }

    #[test]
    fn an_idle_sender_proves_nothing() {
        let mut control = control();
        for step in 0..100 {
            control.update(Usage::Normal, Some(Bitrate::kbps(900)), 100.0, true, Micros::from_millis(1000 + step * 100));
        }
        assert_eq!(control.target(), Bitrate::kbps(1000));
    }

    #[test]
    fn what_a_probe_has_shown_is_not_left_behind_by_growth_alone() {
        let k = Bitrate::kbps;
        let mut now = Micros::from_secs(1);
        let mut after = |shown: Option<Bitrate>, acknowledged: u64| {
            let mut control = RateControl::new(k(250), k(30), k(10_000));
            control.set_shown(shown);
            for _ in 0..200 {
                control.update(Usage::Normal, Some(k(acknowledged)), 0.0, false, now);
                now = now + Micros::from_millis(100);
            }
            control.target().0 / 1_000
        };
        assert_eq!(after(None, 220), 340);
        assert_eq!(after(Some(k(260)), 220), 286);
        assert_eq!(after(Some(k(220)), 200), 250, "and nothing is taken away");
        assert_eq!(after(Some(k(220)), 240), 370, "more arrives than that");
    }

    #[test]
    fn beside_tcp_what_is_not_used_grows_to_what_tcp_would_have_if_that_is_useful() {
        let k = Bitrate::kbps;
        let (mut control, mut now) = (RateControl::new(k(200), k(30), k(10_000)), Micros::from_secs(1));
        let mut after = |lost, fair, useful| {
            for _ in 0..100 {
                control.compete(lost, Some(k(200)), k(fair), k(useful), now);
                now = now + Micros::from_millis(100);
            }
            control.target()
        };
        assert_eq!(after(false, 0, 800), k(310), "what arrives, and half of it");
        assert_eq!(after(false, 400, 800), Bitrate((400e3 * PEAK) as u64));
        assert_eq!(after(false, 2_000, 800), k(800));
        assert!((k(500)..k(590)).contains(&after(true, 500, 800)), "losses that TCP would have at that rate too");
        assert!(after(true, 100, 800) < k(150));
    }
}
