//! What has arrived of one RTP stream: extended sequence numbers, duplicates, loss and jitter (RFC 3550 §6.4.1, §A.3, §A.8).

use crate::units::{ExtendedSequence, Micros, RtpTime, SequenceNumber};

/// Sequence numbers behind the highest in which a duplicate is recognised.
const WINDOW: u64 = 1024;

/// What became of a packet's sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Newer than all before; `gap` numbers between it and the highest before are missing.
    Next {
        gap: u64,
    },
    /// Older than the highest, and it had not arrived yet.
    Late,
    Duplicate,
    /// So old that nothing is known of it.
    TooOld,
}

/// Statistics of one received stream.
#[derive(Debug)]
pub struct Reception {
    started: bool,
    highest: ExtendedSequence,
    base: ExtendedSequence,
    /// Bit n: `highest - n` has arrived, as a ring of bits indexed by sequence number.
    seen: [u64; (WINDOW / 64) as usize],
    /// The same for those of them that have not arrived themselves.
    recovered: [u64; (WINDOW / 64) as usize],
    received: u64,
    bytes: u64,
    expected_prior: u64,
    received_prior: u64,
    /// Interarrival jitter in 1/16 clock ticks (RFC 3550 §A.8).
    jitter_16: u32,
    last_transit: Option<i64>,
    clock_rate: u32,
}

impl Reception {
    pub fn new(clock_rate: u32) -> Self {
        Reception {
            started: false,
            highest: ExtendedSequence(0),
            base: ExtendedSequence(0),
            seen: [0; (WINDOW / 64) as usize],
            recovered: [0; (WINDOW / 64) as usize],
            received: 0,
            bytes: 0,
            expected_prior: 0,
            received_prior: 0,
            jitter_16: 0,
            last_transit: None,
            clock_rate,
        }
    }

    /// Takes a packet's sequence number in.
    pub fn receive(&mut self, number: SequenceNumber, bytes: usize) -> (ExtendedSequence, Arrival) {
        if !self.started {
            let first = ExtendedSequence::first(number);
            (self.started, self.highest, self.base) = (true, first, first);
            self.mark(first);
            self.count(bytes);
            return (first, Arrival::Next { gap: 0 });
        }
        let sequence = self.highest.nearest(number);
        if sequence > self.highest {
            let gap = sequence.0 - self.highest.0 - 1;
            for skipped in 1..=(gap + 1).min(WINDOW) {
                self.clear(ExtendedSequence(self.highest.0 + skipped));
            }
            if gap >= WINDOW {
                (self.seen, self.recovered) = Default::default();
            }
            self.highest = sequence;
            self.mark(sequence);
            self.count(bytes);
            return (sequence, Arrival::Next { gap });
        }
        if self.highest.0 - sequence.0 >= WINDOW {
            return (sequence, Arrival::TooOld);
        }
        if self.has(sequence) {
            let (word, bit) = Self::bit(sequence);
            if self.recovered[word] & bit != 0 {
                self.recovered[word] &= !bit;
                self.count(bytes);
            }
            return (sequence, Arrival::Duplicate);
        }
        self.mark(sequence);
        self.count(bytes);
        (sequence, Arrival::Late)
    }

    /// Takes the number of a packet in that was computed (RFC 5109): until it arrives itself it counts as lost, as with [`Self::recovered`].
    pub fn computed(&mut self, number: SequenceNumber) -> (ExtendedSequence, Arrival) {
        let sequence = self.highest.nearest(number);
        if sequence >= self.highest || self.highest.0 - sequence.0 >= WINDOW {
            return (sequence, Arrival::TooOld);
        }
        if self.has(sequence) {
            return (sequence, Arrival::Duplicate);
        }
        self.recovered(sequence);
        (sequence, Arrival::Late)
    }

    /// What a packet of the window would have brought came along with another (RFC 2198): if it still arrives it is a duplicate. Until
    /// then it counts as lost, for that is what reports are about (RFC 3550 §6.4.1).
    pub fn recovered(&mut self, sequence: ExtendedSequence) {
        let (word, bit) = Self::bit(sequence);
        self.seen[word] |= bit;
        self.recovered[word] |= bit;
    }

    /// Updates the jitter estimate; for packets that came in their first transmission.
    pub fn transit(&mut self, timestamp: RtpTime, arrival: Micros) {
        let ticks = (arrival.0 as i128 * self.clock_rate as i128 / 1_000_000) as i64;
        let transit = ticks.wrapping_sub(timestamp.0 as i64) as i32 as i64;
        if let Some(last) = self.last_transit {
            let difference = (transit.wrapping_sub(last) as i32).unsigned_abs();
            // A jump of seconds is a new timeline, not jitter.
            if difference < self.clock_rate {
                self.jitter_16 = self.jitter_16 + difference - ((self.jitter_16 + 8) >> 4);
            }
        }
        self.last_transit = Some(transit);
    }

    pub fn started(&self) -> bool {
        self.started
    }
    pub fn highest(&self) -> ExtendedSequence {
        self.highest
    }
    pub fn packets(&self) -> u64 {
        self.received
    }
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    /// Jitter in clock ticks.
    pub fn jitter(&self) -> u32 {
        self.jitter_16 >> 4
    }
    /// Packets expected minus packets received; negative never, since duplicates are not counted.
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received)
    }

    /// Fraction lost since the last call, in 1/256 (RFC 3550 §A.3).
    pub fn fraction_lost(&mut self) -> u8 {
        let expected = self.expected() - self.expected_prior;
        let received = self.received - self.received_prior;
        (self.expected_prior, self.received_prior) = (self.expected(), self.received);
        if expected == 0 || received >= expected { 0 } else { (((expected - received) << 8) / expected).min(255) as u8 }
    }

    fn expected(&self) -> u64 {
        if self.started { self.highest.0 - self.base.0 + 1 } else { 0 }
    }
    fn count(&mut self, bytes: usize) {
        self.received += 1;
        self.bytes += bytes as u64;
    }
    fn bit(sequence: ExtendedSequence) -> (usize, u64) {
        let place = sequence.0 % WINDOW;
        ((place / 64) as usize, 1 << (place % 64))
    }
    fn mark(&mut self, sequence: ExtendedSequence) {
        // A packet that was sent before the first one we saw lowers the base, so that it does not count as a surplus.
        self.base = self.base.min(sequence);
        let (word, bit) = Self::bit(sequence);
        self.seen[word] |= bit;
    }
    fn clear(&mut self, sequence: ExtendedSequence) {
        let (word, bit) = Self::bit(sequence);
        self.seen[word] &= !bit;
        self.recovered[word] &= !bit;
    }
    fn has(&self, sequence: ExtendedSequence) -> bool {
        let (word, bit) = Self::bit(sequence);
        self.seen[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(reception: &mut Reception, number: u16) -> Arrival {
        reception.receive(SequenceNumber(number), 100).1
    }

    #[test]
    fn gaps_late_packets_and_duplicates_over_the_wrap() {
        let mut reception = Reception::new(90_000);
        assert_eq!(receive(&mut reception, 65_534), Arrival::Next { gap: 0 });
        assert_eq!(receive(&mut reception, 1), Arrival::Next { gap: 2 });
        assert_eq!(receive(&mut reception, 0), Arrival::Late);
        assert_eq!(receive(&mut reception, 0), Arrival::Duplicate);
        assert_eq!(reception.lost(), 1);
        assert_eq!(reception.fraction_lost(), 64);
        assert_eq!(receive(&mut reception, 65_535), Arrival::Late);
        assert_eq!(reception.lost(), 0);
        assert_eq!(receive(&mut reception, 40_000), Arrival::TooOld);
    }

    #[test]
    fn a_gap_larger_than_the_window_leaves_nothing_marked() {
        let mut reception = Reception::new(90_000);
        for number in 0..1024 {
            receive(&mut reception, number);
        }
        assert_eq!(receive(&mut reception, 9_000), Arrival::Next { gap: 9_000 - 1_024 });
        assert_eq!(receive(&mut reception, 8_500), Arrival::Late);
    }

    #[test]
    fn what_came_along_with_another_packet_is_lost_until_it_arrives_and_then_a_duplicate() {
        let mut reception = Reception::new(48_000);
        receive(&mut reception, 65_534);
        receive(&mut reception, 1);
        for back in 1..=2 {
            reception.recovered(ExtendedSequence(reception.highest().0 - back));
        }
        assert_eq!((reception.lost(), reception.fraction_lost()), (2, 128));
        // It was only late, and sent twice.
        assert_eq!([0, 0].map(|number| receive(&mut reception, number)), [Arrival::Duplicate; 2]);
        assert_eq!(reception.lost(), 1);
        // The next to have its place in the window is another packet.
        receive(&mut reception, 1_000);
        receive(&mut reception, 1_030);
        let lost = reception.lost();
        assert_eq!([1_023, 1_023].map(|number| receive(&mut reception, number)), [Arrival::Late, Arrival::Duplicate]);
        assert_eq!(reception.lost(), lost - 1);
    }

    #[test]
    fn jitter_follows_the_formula_of_rfc_3550() {
        let mut reception = Reception::new(8_000);
        // Sent every 20 ms (160 ticks), arriving alternately 0 and 5 ms (40 ticks) late: |D| is 40 each time.
        for packet in 0..200u64 {
            let late = if packet % 2 == 0 { 0 } else { 5_000 };
            reception.transit(RtpTime(packet as u32 * 160), Micros(packet * 20_000 + late));
        }
        assert!((38..=40).contains(&reception.jitter()), "{}", reception.jitter());
    }
}
