//! Arrival times by transport-wide sequence number, reported back to the publisher so that its bandwidth estimator can work
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use crate::limits::TWCC_PACKETS;
use crate::units::{ExtendedSequence, Micros, SequenceNumber};

/// Time between two feedback messages: what libwebrtc uses at medium bitrates.
const INTERVAL: Micros = Micros::from_millis(60);
/// And when something is missing: the sender should know of loss soon. Two ticks, in which what was only reordered arrives.
const INTERVAL_LOSS: Micros = Micros::from_millis(20);
/// Arrivals kept: a report may not span more.
const WINDOW: usize = 1024;

/// The arrivals not yet reported.
pub struct Arrivals {
    /// By sequence number modulo [`WINDOW`]; [`Micros::NEVER`] where nothing has arrived.
    times: Box<[Micros; WINDOW]>,
    /// First number of the next report.
    next: ExtendedSequence,
    highest: ExtendedSequence,
    started: bool,
    /// Numbers were skipped since the last report.
    gap: bool,
    reported: Micros,
    /// Count of feedback messages (field "fb pkt. count").
    pub count: u8,
}

impl Default for Arrivals {
    fn default() -> Self {
        Arrivals {
            times: Box::new([Micros::NEVER; WINDOW]),
            next: ExtendedSequence(0),
            highest: ExtendedSequence(0),
            started: false,
            gap: false,
            reported: Micros::ZERO,
            count: 0,
        }
    }
}

impl Arrivals {
    /// A packet with this transport-wide number arrived.
    pub fn record(&mut self, number: SequenceNumber, now: Micros) {
        if !self.started {
            let first = ExtendedSequence::first(number);
            (self.started, self.next, self.highest) = (true, first, first);
        }
        let sequence = self.highest.nearest(number);
        if sequence.0 >= self.next.0 + WINDOW as u64 {
            // A jump beyond what can be reported: start over from here.
            self.times.fill(Micros::NEVER);
            (self.next, self.highest) = (sequence, sequence);
        }
        if sequence < self.next {
            // Reported as lost already: report again from here, as far as the window allows.
            if self.highest.0 - sequence.0 >= WINDOW as u64 {
                return;
            }
            self.next = sequence;
        }
        self.gap |= sequence.0 > self.highest.0 + 1;
        self.highest = self.highest.max(sequence);
        self.times[sequence.0 as usize % WINDOW] = now;
    }

    /// Whether a report should be made now.
    pub fn due(&mut self, now: Micros) -> bool {
        self.skip_holes();
        let interval = if self.gap { INTERVAL_LOSS } else { INTERVAL };
        self.started && self.highest >= self.next && now.since(self.reported) >= interval.0
    }

    /// Skips numbers at the front of which nothing has arrived for longer than a report can span: a report has to begin where it
    /// has a time to refer to.
    fn skip_holes(&mut self) {
        while self.pending().1.take_while(Option::is_none).count() >= TWCC_PACKETS {
            self.next.0 += TWCC_PACKETS as u64;
        }
    }

    /// The first number to report and the arrivals from it on.
    pub fn pending(&self) -> (SequenceNumber, impl Iterator<Item = Option<Micros>> + Clone + '_) {
        let count = (self.highest.0 + 1).saturating_sub(self.next.0).min(TWCC_PACKETS as u64);
        let arrivals = (self.next.0..self.next.0 + count).map(|sequence| {
            let time = self.times[sequence as usize % WINDOW];
            (time != Micros::NEVER).then_some(time)
        });
        (self.next.number(), arrivals)
    }

    /// `count` numbers have been reported.
    pub fn reported(&mut self, count: usize, now: Micros) {
        for sequence in self.next.0..self.next.0 + count as u64 {
            self.times[sequence as usize % WINDOW] = Micros::NEVER;
        }
        self.next.0 += count as u64;
        self.count = self.count.wrapping_add(1);
        if self.next > self.highest {
            (self.reported, self.gap) = (now, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_each_number_once_with_its_holes() {
        let mut arrivals = Arrivals::default();
        for (number, millis) in [(65_534u16, 1), (65_535, 2), (2, 9)] {
            arrivals.record(SequenceNumber(number), Micros::from_millis(millis));
        }
        assert!(arrivals.due(Micros::from_millis(100)));
        let (base, times) = arrivals.pending();
        assert_eq!(base, SequenceNumber(65_534));
        let millis: Vec<_> = times.map(|time| time.map(|time| time.as_millis())).collect();
        assert_eq!(millis, [Some(1), Some(2), None, None, Some(9)]);
        arrivals.reported(5, Micros::from_millis(100));
        assert!(!arrivals.due(Micros::from_secs(9)), "nothing new");
        // A hole longer than a report is skipped, not reported for ever.
        arrivals.record(SequenceNumber(3 + 2 * TWCC_PACKETS as u16), Micros::from_millis(200));
        assert!(arrivals.due(Micros::from_millis(300)));
        let pending = arrivals.pending().1.count();
        assert!(pending <= TWCC_PACKETS && arrivals.pending().1.any(|time| time.is_some()));
        arrivals.reported(pending, Micros::from_millis(200));
        // A jump of thousands does not report thousands of holes.
        arrivals.record(SequenceNumber(30_000), Micros::from_millis(300));
        assert_eq!(arrivals.pending().1.count(), 1);
    }

    #[test]
    fn loss_is_reported_sooner() {
        let mut arrivals = Arrivals::default();
        let mut reports = Vec::new();
        for millis in 0..1_000u64 {
            let number = millis / 5;
            // Every fifth millisecond a packet; in the second half one of twenty is lost.
            if millis % 5 == 0 && (millis < 500 || number % 20 != 0) {
                arrivals.record(SequenceNumber(number as u16), Micros::from_millis(millis));
            }
            if millis % 10 == 0 && arrivals.due(Micros::from_millis(millis)) {
                let count = arrivals.pending().1.count();
                arrivals.reported(count, Micros::from_millis(millis));
                reports.push(millis);
            }
        }
        let steps = |from: u64, to: u64| -> Vec<u64> {
            let within: Vec<u64> = reports.iter().copied().filter(|at| (from..to).contains(at)).collect();
            within.windows(2).map(|pair| pair[1] - pair[0]).collect()
        };
        assert!(steps(0, 500).iter().all(|step| *step == 60), "{reports:?}");
        assert!(steps(500, 1_000).iter().all(|step| (20..=60).contains(step)), "{reports:?}");
        // 5 of the numbers 100 to 200 are lost: of each there is a report within two ticks and a packet.
        for lost in [100u64, 120, 140, 160, 180] {
            assert!(reports.iter().any(|at| (lost * 5 + 5..=lost * 5 + 25).contains(at)), "{lost}: {reports:?}");
        }
    }
}
