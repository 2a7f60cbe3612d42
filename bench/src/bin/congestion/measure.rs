//! What is read out of the record of a run.

use serde::Serialize;

use crate::path::{MILLISECOND, Profile, SECOND, Time};
use crate::sim::{BIN, Bin, Record};

/// At the beginning, and after each step, so long is not steady state.
const SETTLING: Time = 10 * SECOND;
/// A step up is followed when so much of the capacity is sent.
const FOLLOWED: f64 = 0.85;
/// Rates are averaged over so many bins: frames come in lumps.
const WINDOW: usize = 3;

/// One flow of a run. Times in seconds, delays in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Measures {
    /// New media that arrived, of what the path could carry beside the other flows' share.
    pub utilisation: f64,
    /// Waiting in the bottleneck's queue, whole run.
    pub queue_p50: f64,
    pub queue_p95: f64,
    /// The same without the seconds after a step.
    pub steady_queue_p95: f64,
    pub steady_utilisation: f64,
    /// The same of what was not too late.
    pub steady_timely: f64,
    /// From the beginning, and from each step up: until 85 % of the capacity is sent. None: never.
    pub up: Vec<Option<f64>>,
    /// From each step down: until no more than the capacity is sent.
    pub down: Vec<Option<f64>>,
    /// Packets that did not fit into the queue, of those sent.
    pub dropped: f64,
}

/// The steps of a profile: time, rate before, rate after.
fn steps(profile: &Profile) -> impl Iterator<Item = (Time, u64, u64)> {
    profile.rates.windows(2).map(|pair| (pair[1].0, pair[0].1, pair[1].1))
}

/// `share`: of the capacity, for one flow; `from`: when the flow began.
pub fn measure(record: &Record, profile: &Profile, from: Time, until: Time, share: f64) -> Measures {
    let begins: Vec<Time> = std::iter::once(from).chain(steps(profile).map(|step| step.0)).collect();
    let steady = |now: Time| !begins.iter().any(|begin| (*begin..begin + SETTLING).contains(&now));
    let used = |of: fn(&Bin) -> u64, which: &dyn Fn(Time) -> bool| {
        let bins = || (from / BIN..until / BIN).filter(|bin| which(bin * BIN));
        let capacity: u64 = bins().map(|bin| profile.rate(bin * BIN) / (SECOND / BIN) / 8).sum();
        let media: u64 = bins().map(|bin| record.bins.get(bin as usize).map_or(0, of)).sum();
        if capacity == 0 { 0.0 } else { media as f64 / (capacity as f64 * share) }
    };
    let all: Vec<Time> = record.queued.iter().map(|(_, queued)| *queued).collect();
    let settled: Vec<Time> = record.queued.iter().filter(|(at, _)| steady(*at)).map(|(_, queued)| *queued).collect();
    let ends = |begin: Time| steps(profile).map(|step| step.0).find(|at| *at > begin).unwrap_or(until);
    let mut up = vec![reached(record, from, ends(from), |sent| sent >= FOLLOWED * share * profile.rate(from) as f64)];
    let mut down = Vec::new();
    for (at, before, after) in steps(profile) {
        if after > before {
            up.push(reached(record, at, ends(at), |sent| sent >= FOLLOWED * share * after as f64));
        } else {
            down.push(reached(record, at, ends(at), |sent| sent <= after as f64));
        }
    }
    Measures {
        utilisation: used(|bin| bin.media, &|_| true),
        queue_p50: percentile(all.clone(), 0.5),
        queue_p95: percentile(all, 0.95),
        steady_queue_p95: percentile(settled, 0.95),
        steady_utilisation: used(|bin| bin.media, &steady),
        steady_timely: used(|bin| bin.timely, &steady),
        up,
        down,
        dropped: record.dropped as f64 / record.packets.max(1) as f64,
    }
}

/// Seconds from `from` until the rate of sending begins to fulfil the condition, as a mean.
fn reached(record: &Record, from: Time, until: Time, fulfils: impl Fn(f64) -> bool) -> Option<f64> {
    let first = (from / BIN) as usize;
    let last = (until / BIN) as usize;
    (first + WINDOW..=last.min(record.bins.len())).find_map(|end| {
        let sent: u64 = record.bins[end - WINDOW..end].iter().map(|bin| bin.sent).sum();
        let rate = sent as f64 * 8.0 * (SECOND / BIN) as f64 / WINDOW as f64;
        fulfils(rate).then(|| (end - WINDOW - first) as f64 * BIN as f64 / SECOND as f64)
    })
}

fn percentile(mut values: Vec<Time>, part: f64) -> f64 {
    values.sort_unstable();
    let index = (values.len() as f64 * part) as usize;
    values.get(index.min(values.len().saturating_sub(1))).map_or(0.0, |value| *value as f64 / MILLISECOND as f64)
}

/// Bits per second that arrived in the second half of a run.
pub fn late_rate(record: &Record, until: Time) -> f64 {
    let half = (until / 2 / BIN) as usize;
    let bits: u64 = record.bins.iter().skip(half).map(|bin| bin.arrived * 8).sum();
    bits as f64 * SECOND as f64 / (until / 2) as f64
}

/// Jain's index of fairness: 1 if all get the same, 1/n if one gets all.
pub fn jain(rates: &[f64]) -> f64 {
    let (sum, squares) = rates.iter().fold((0.0, 0.0), |(sum, squares), rate| (sum + rate, squares + rate * rate));
    if squares == 0.0 { 0.0 } else { sum * sum / (rates.len() as f64 * squares) }
}
