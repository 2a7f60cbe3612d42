//! Arrival times by transport-wide sequence number, reported back to the publisher so that its bandwidth estimator can work
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use crate::limits::TWCC_PACKETS;
use crate::units::{ExtendedSequence, Micros, SequenceNumber};

/// Time between two feedback messages: what libwebrtc uses at medium bitrates.
const INTERVAL: Micros = Micros::from_millis(60);
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
        self.highest = self.highest.max(sequence);
        self.times[sequence.0 as usize % WINDOW] = now;
    }

    /// Whether a report should be made now.
    pub fn due(&mut self, now: Micros) -> bool {
        self.skip_holes();
        self.started && self.highest >= self.next && now.since(self.reported) >= INTERVAL.0
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
            self.reported = now;
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
}
