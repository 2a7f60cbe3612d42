//! A histogram of durations: 64 steps to each power of two, so a percentile is right to within 1.6 %.

const STEPS_LOG2: u32 = 6;
const STEPS: usize = 1 << STEPS_LOG2;
/// Up to 2^40 ns, 18 minutes; what is longer counts as that.
const BUCKETS: usize = (40 - STEPS_LOG2 as usize + 1) * STEPS;

/// Counts of nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0, largest: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds).min(BUCKETS - 1)) {
            *count += 1;
        }
        self.total += 1;
        self.largest = self.largest.max(nanoseconds);
    }

    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
        self.total += other.total;
        self.largest = self.largest.max(other.largest);
    }

    pub fn len(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> u64 {
        self.largest
    }

    /// The value that a fraction of all does not exceed; 0 if there are none.
    pub fn quantile(&self, fraction: f64) -> u64 {
        let wanted = (self.total as f64 * fraction).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(index).min(self.largest);
            }
        }
        self.largest
    }
}

fn bucket(value: u64) -> usize {
    let exponent = value.checked_ilog2().unwrap_or(0);
    if exponent < STEPS_LOG2 {
        return value as usize;
    }
    let shift = exponent - STEPS_LOG2;
    (shift as usize + 1) * STEPS + (value >> shift) as usize - STEPS
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    (((bucket % STEPS + STEPS) as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..10_000).chain((0..40).map(|shift| 1 << shift)).chain((8..40).map(|shift| (1 << shift) - 1)) {
            let upper = upper(bucket(value));
            assert!(upper >= value && upper - value <= value / 64, "{value}: {upper}");
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=1000).for_each(|value| histogram.record(value * 1000));
        let near = |fraction, wanted: u64| histogram.quantile(fraction).abs_diff(wanted) * 50 < wanted;
        assert!(near(0.5, 500_000) && near(0.99, 990_000) && near(1.0, 1_000_000));
        let mut both = histogram.clone();
        both.add(&histogram);
        assert_eq!((both.len(), both.max()), (2000, 1_000_000));
    }
}
