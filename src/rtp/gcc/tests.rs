//! The estimator over simulated paths: a queue that drains at a rate and drops what does not fit.

use std::collections::VecDeque;

use super::*;

const FEEDBACK: u64 = 50_000;
const PROPAGATION: u64 = 25_000;
const PACKET: usize = 1200;

/// A bottleneck: bits per second, and how much of a second its queue holds.
struct Path {
    capacity: u64,
    queue: u64,
    /// When it will have sent all that is in the queue.
    free_at: u64,
    /// One of so many packets is lost by chance.
    lost_one_in: u64,
    random: u64,
}

impl Path {
    /// When a packet comes out, and how long it has waited in the queue.
    fn send(&mut self, now: u64) -> Option<(u64, u64)> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let begins = self.free_at.max(now);
        if begins - now > self.queue || (self.lost_one_in > 0 && (self.random >> 33).is_multiple_of(self.lost_one_in)) {
            return None;
        }
        self.free_at = begins + PACKET as u64 * 8_000_000 / self.capacity;
        Some((self.free_at + PROPAGATION, self.free_at - now))
    }
}

/// What a run gave, second by second: target, bits that arrived, 95th percentile of the queueing delay in milliseconds.
struct Second {
    target: u64,
    arrived: u64,
    delay_p95: u64,
}

/// A sender that sends exactly what it may, in frames, for so many seconds; `capacity` by the second.
fn run(seconds: u64, capacity: impl Fn(u64) -> u64, queue_ms: u64, lost_one_in: u64) -> Vec<Second> {
    let mut estimator = Estimator::new(Bitrate::kbps(300), Bitrate::kbps(30), Bitrate::kbps(20_000), Micros::ZERO);
    let mut path = Path { capacity: capacity(0), queue: queue_ms * 1000, free_at: 0, lost_one_in, random: 7 };
    let mut outcomes: VecDeque<Outcome> = VecDeque::new();
    let (mut next_packet, mut next_feedback, mut cluster) = (0u64, FEEDBACK, None::<(Cluster, u32, usize)>);
    let mut report = Vec::new();
    let (mut arrived_bits, mut delays) = (0, Vec::new());
    for now in (0..seconds * 1_000_000).step_by(200) {
        if now % 1_000_000 == 0 {
            path.capacity = capacity(now / 1_000_000);
        }
        while next_packet <= now {
            if cluster.is_none() {
                cluster = estimator.probe().map(|cluster| (cluster, 0, 0));
            }
            let (rate, id) = match &mut cluster {
                Some((probe, packets, bytes)) => {
                    *packets += 1;
                    *bytes += PACKET;
                    let (rate, id) = (probe.rate.0, probe.id);
                    if *packets >= probe.packets && *bytes >= probe.bytes {
                        cluster = None;
                    }
                    (rate, id)
                }
                None => (estimator.target().0, 0),
            };
            let sent = path.send(next_packet);
            if let Some((_, delay)) = sent {
                arrived_bits += PACKET as u64 * 8;
                delays.push(delay / 1000);
            }
            let arrived = sent.map(|(at, _)| Micros(at));
            outcomes.push_back(Outcome { sent: Micros(next_packet), arrived, bytes: PACKET, cluster: id });
            next_packet += (PACKET as u64 * 8_000_000 / rate).max(1);
        }
        if now >= next_feedback {
            next_feedback = now + FEEDBACK;
            // Told are packets that have arrived by the time that the feedback left, and the lost ones before them.
            let left = now.saturating_sub(PROPAGATION);
            let known = outcomes.iter().rposition(|seen| seen.arrived.is_some_and(|at| at.0 <= left)).map_or(0, |last| last + 1);
            let told: Vec<Outcome> = outcomes.drain(..known).collect();
            if !told.is_empty() {
                let round_trip = told.iter().rev().find_map(|seen| Some(now - seen.sent.0).filter(|_| seen.arrived.is_some()));
                estimator.feedback(told, Micros(round_trip.unwrap_or(2 * PROPAGATION)), Micros(now));
            }
        }
        if now % 1_000_000 == 999_800 {
            delays.sort_unstable();
            let delay_p95 = delays.get(delays.len() * 95 / 100).copied().unwrap_or(0);
            report.push(Second { target: estimator.target().0, arrived: arrived_bits, delay_p95 });
            (arrived_bits, delays) = (0, Vec::new());
        }
    }
    report
}

fn used(report: &[Second], capacity: u64) -> f64 {
    report.iter().map(|second| second.arrived).sum::<u64>() as f64 / (capacity * report.len() as u64) as f64
}

/// Milliseconds in the queue: each second's 95th percentile, on average.
fn delay(report: &[Second]) -> u64 {
    report.iter().map(|second| second.delay_p95).sum::<u64>() / report.len() as u64
}

#[test]
fn steady_paths_are_used_well_and_their_queues_stay_short() {
    for (capacity, queue_ms) in [(500_000, 300), (1_000_000, 150), (3_000_000, 500), (10_000_000, 100)] {
        let report = run(60, |_| capacity, queue_ms, 0);
        let steady = &report[10..];
        assert!(used(steady, capacity) >= 0.85, "{} of {capacity} b/s", used(steady, capacity));
        assert!(delay(steady) < 70, "{} ms at {capacity} b/s", delay(steady));
    }
}

#[test]
fn it_starts_within_two_seconds() {
    let report = run(3, |_| 5_000_000, 300, 0);
    assert!(report[1].target > 3_500_000, "{}", report[1].target);
}

#[test]
fn it_follows_a_path_that_changes() {
    let capacity = |second| [3_000_000, 1_000_000, 300_000, 3_000_000][(second / 30) as usize];
    let report = run(120, capacity, 300, 0);
    for (second, limit) in [(33, 1_000_000), (63, 300_000)] {
        assert!(report[second].target <= limit * 11 / 10, "{} three seconds after the step to {limit}", report[second].target);
        let settled = &report[second + 2..second + 26];
        assert!(used(settled, limit) > 0.85 && delay(settled) < 110, "{} {}", used(settled, limit), delay(settled));
    }
    assert!(report[99].target > 2_500_000, "{} ten seconds after the step up", report[99].target);
}

#[test]
fn a_path_that_loses_one_in_fifty_is_not_taken_for_a_full_one() {
    let report = run(40, |_| 2_000_000, 200, 50);
    assert!(used(&report[15..], 2_000_000) > 0.75, "{}", used(&report[15..], 2_000_000));
}

#[test]
fn feedback_that_lies_stays_within_the_bounds() {
    let (min, max) = (Bitrate::kbps(30), Bitrate::kbps(5000));
    let mut estimator = Estimator::new(Bitrate::kbps(300), min, max, Micros::ZERO);
    let mut random = 1u64;
    for step in 0..20_000u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let arrived = (random & 3 != 0).then_some(Micros(random >> (random & 31)));
        let outcome =
            Outcome { sent: Micros(random >> 40), arrived, bytes: (random >> 50) as usize, cluster: (random >> 60) as u32 };
        estimator.feedback([outcome; 3], Micros(random >> 20), Micros(step * 1000));
        assert!((min..=max).contains(&estimator.target()), "{:?}", estimator.target());
    }
}
