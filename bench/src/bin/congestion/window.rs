//! What TCP may send: a window, halved by a loss (Reno, RFC 5681) or cut and regrown by a cubic (CUBIC, RFC 9438), and what is under way.
//! Every packet is acknowledged by itself, as with SACK; what is lost is made up for by what follows. Time comes in and numbers of packets
//! go out: the server's own simulator (tests/sim) has this file too.

use std::collections::BTreeMap;

/// With the headers of IP and TCP.
pub const PACKET: usize = 1500;
const WINDOW_FIRST: f64 = 10.0;
/// A packet is lost when so many that were sent after it have arrived.
const REORDERING: u64 = 3;
/// Microseconds.
const SECOND: u64 = 1_000_000;
const TIMEOUT_MIN: u64 = 200_000;
const ROUND_TRIP_FIRST: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    Reno,
    Cubic,
}

/// Constants of RFC 9438 §5.
const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;

pub struct Window {
    law: Law,
    next: u64,
    /// When each of the packets under way was sent.
    under_way: BTreeMap<u64, u64>,
    window: f64,
    slow_start_until: f64,
    /// Losses of what was sent before this number belong to the last reduction.
    recovery_until: u64,
    window_max: f64,
    epoch: Option<u64>,
    round_trip: u64,
    /// When something was sent or acknowledged last.
    progress: u64,
}

impl Window {
    pub fn new(law: Law, start: u64) -> Self {
        Window {
            law,
            next: 0,
            under_way: BTreeMap::new(),
            window: WINDOW_FIRST,
            slow_start_until: f64::INFINITY,
            recovery_until: 0,
            window_max: 0.0,
            epoch: None,
            round_trip: ROUND_TRIP_FIRST,
            progress: start,
        }
    }

    /// The number of the next packet, if it may leave now.
    pub fn send(&mut self, now: u64) -> Option<u64> {
        let may = (self.under_way.len() as f64) < self.window.floor().max(1.0);
        may.then(|| {
            self.under_way.insert(self.next, now);
            self.next += 1;
            self.next - 1
        })
    }

    /// A packet was acknowledged.
    pub fn acknowledge(&mut self, number: u64, now: u64) {
        let Some(sent) = self.under_way.remove(&number) else { return };
        self.progress = now;
        self.round_trip = (7 * self.round_trip + (now - sent)) / 8;
        let lost: Vec<u64> = self.under_way.range(..number.saturating_sub(REORDERING - 1)).map(|(number, _)| *number).collect();
        for number in &lost {
            self.under_way.remove(number);
        }
        match lost.last() {
            Some(last) if *last >= self.recovery_until => self.reduce(),
            _ => self.grow(now),
        }
    }

    /// When everything under way is taken for lost if nothing is acknowledged until then; before the first packet, when that leaves.
    pub fn timeout_at(&self) -> u64 {
        if self.next == 0 { self.progress } else { self.progress + (2 * self.round_trip).max(TIMEOUT_MIN) }
    }

    pub fn timeout(&mut self, now: u64) {
        self.progress = now;
        if self.next > 0 {
            self.reduce();
            self.window = 1.0;
            self.under_way.clear();
        }
    }

    /// Bits per second that it may send.
    pub fn rate(&self) -> u64 {
        (self.window * PACKET as f64 * 8.0 * SECOND as f64 / self.round_trip.max(1) as f64) as u64
    }

    fn grow(&mut self, now: u64) {
        if self.window < self.slow_start_until {
            self.window += 1.0;
            return;
        }
        if self.law == Law::Reno {
            self.window += 1.0 / self.window;
            return;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let elapsed = (now - epoch) as f64 / SECOND as f64;
        let round_trip = self.round_trip as f64 / SECOND as f64;
        let plateau = (self.window_max * (1.0 - CUBIC_BETA) / CUBIC_C).cbrt();
        let cubic = CUBIC_C * (elapsed + round_trip - plateau).powi(3) + self.window_max;
        let alpha = 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA);
        let reno = self.window_max * CUBIC_BETA + alpha * elapsed / round_trip;
        let wanted = cubic.max(reno).min(1.5 * self.window);
        self.window += ((wanted - self.window) / self.window).max(0.0);
    }

    fn reduce(&mut self) {
        let factor = if self.law == Law::Reno { 0.5 } else { CUBIC_BETA };
        self.window_max = self.window;
        self.window = (self.window * factor).max(2.0);
        self.slow_start_until = self.window;
        self.epoch = None;
        self.recovery_until = self.next;
    }
}
