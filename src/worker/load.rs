//! How busy a worker is: the share of its core that it uses, looked at ten times a second.
//!
//! Two things follow it: how long packets wait for each other ([`super::hold`]), and whether the server takes new sessions.
//! For the latter it is published in the worker's table, as an average over about a second, so that neither one large key
//! frame nor one quiet moment decides.

use crate::metrics::WorkerMetrics;
use crate::units::Micros;

/// Between two looks at the worker's CPU time.
const INTERVAL: Micros = Micros::from_millis(100);
/// Intervals that the average reaches back, about.
const AVERAGED: u64 = 8;

/// A worker's load.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// When the CPU time was read last, and what it was.
    looked: Micros,
    cpu: Micros,
    /// Time since then that was spent looking for packets in vain (`media.spin_us`): it is free for better use.
    spun: Micros,
    /// In 1/1000.
    average: u64,
}

impl Load {
    /// Whether it is time to look again: a clock is read for it, so not in every turn.
    pub fn due(&self, now: Micros) -> bool {
        now.since(self.looked) >= INTERVAL.0
    }

    pub fn spun(&mut self, time: Micros) {
        self.spun = self.spun + time;
    }

    /// Takes the CPU time that the worker has used in all. Gives the percentage of its core since the last look, and publishes the average.
    pub fn measure(&mut self, cpu: Micros, now: Micros, metrics: &WorkerMetrics) -> u64 {
        let elapsed = now.since(self.looked).max(1);
        let busy = cpu.since(self.cpu).saturating_sub(self.spun.0);
        (self.looked, self.cpu, self.spun) = (now, cpu, Micros::ZERO);
        let share = (1000 * busy / elapsed).min(1000);
        self.average = ((AVERAGED - 1) * self.average + share).div_ceil(AVERAGED);
        if share == 0 && self.average < AVERAGED {
            self.average = 0;
        }
        metrics.set_busy(self.average);
        share / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published load after two seconds in which of each interval so many percent were used, and so many of those spun away.
    fn published(percent: u64, spun: u64) -> u64 {
        let (mut load, metrics) = (Load::default(), WorkerMetrics::default());
        let (mut now, mut cpu) = (Micros::ZERO, Micros::ZERO);
        for _ in 0..30 {
            (now, cpu) = (now + INTERVAL, cpu + Micros(INTERVAL.0 * percent / 100));
            load.spun(Micros(INTERVAL.0 * spun / 100));
            assert!(load.due(now));
            assert_eq!(load.measure(cpu, now, &metrics), percent - spun);
        }
        metrics.busy()
    }

    #[test]
    fn the_average_settles_at_the_load_without_what_was_spun_away() {
        assert_eq!(published(0, 0), 0);
        assert!((480..=510).contains(&published(50, 0)), "{}", published(50, 0));
        assert!((980..=1000).contains(&published(100, 0)), "{}", published(100, 0));
        assert!((190..=210).contains(&published(100, 80)), "{}", published(100, 80));
    }

    #[test]
    fn one_burst_is_not_a_load() {
        let (mut load, metrics) = (Load::default(), WorkerMetrics::default());
        load.measure(Micros::ZERO, Micros::from_secs(1), &metrics);
        load.measure(INTERVAL, Micros::from_secs(1) + INTERVAL, &metrics);
        assert!(metrics.busy() < 150, "{}", metrics.busy());
    }
}
