//! A cross flow that behaves as TCP does: a window, halved by a loss (Reno, RFC 5681) or cut and regrown by a cubic (CUBIC, RFC 9438).
//! Every packet is acknowledged by itself, as with SACK; what is lost is made up for by what follows.

use std::collections::BTreeMap;

use crate::path::{MILLISECOND, SECOND, Time};
use crate::sim::{Datagram, End, Flow};

const PACKET: usize = 1500;
const WINDOW_FIRST: f64 = 10.0;
/// A packet is lost when so many that were sent after it have arrived.
const REORDERING: u64 = 3;
const TIMEOUT_MIN: Time = 200 * MILLISECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    Reno,
    Cubic,
}

/// Constants of RFC 9438 §5.
const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;

pub struct Tcp {
    law: Law,
    next: u64,
    /// When each of the packets under way was sent.
    under_way: BTreeMap<u64, Time>,
    window: f64,
    slow_start_until: f64,
    /// Losses of what was sent before this number belong to the last reduction.
    recovery_until: u64,
    window_max: f64,
    epoch: Option<Time>,
    round_trip: Time,
    /// When something was sent or acknowledged last.
    progress: Time,
    start: Time,
}

impl Tcp {
    pub fn new(law: Law, start: Time) -> Self {
        Tcp {
            law,
            next: 0,
            under_way: BTreeMap::new(),
            window: WINDOW_FIRST,
            slow_start_until: f64::INFINITY,
            recovery_until: 0,
            window_max: 0.0,
            epoch: None,
            round_trip: 100 * MILLISECOND,
            progress: start,
            start,
        }
    }

    fn fill(&mut self, now: Time, out: &mut Vec<Datagram>) {
        while (self.under_way.len() as f64) < self.window.floor().max(1.0) {
            self.under_way.insert(self.next, now);
            out.push(Datagram { to: End::Receiver, bytes: PACKET, key: self.next, media: true });
            self.next += 1;
        }
    }

    fn grow(&mut self, now: Time) {
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

    fn timeout_at(&self) -> Time {
        self.progress + (2 * self.round_trip).max(TIMEOUT_MIN)
    }
}

impl Flow for Tcp {
    fn due(&self) -> Time {
        if self.next == 0 { self.start } else { self.timeout_at() }
    }

    fn timeout(&mut self, now: Time, out: &mut Vec<Datagram>) {
        self.progress = now;
        if self.next > 0 {
            self.reduce();
            self.window = 1.0;
            self.under_way.clear();
        }
        self.fill(now, out);
    }

    fn arrive(&mut self, now: Time, to: End, key: u64, out: &mut Vec<Datagram>) {
        if to == End::Receiver {
            out.push(Datagram { to: End::Sender, bytes: 40, key, media: false });
            return;
        }
        let Some(sent) = self.under_way.remove(&key) else { return };
        self.progress = now;
        self.round_trip = (7 * self.round_trip + (now - sent)) / 8;
        let lost: Vec<u64> = self.under_way.range(..key.saturating_sub(REORDERING - 1)).map(|(key, _)| *key).collect();
        for key in &lost {
            self.under_way.remove(key);
        }
        match lost.last() {
            Some(last) if *last >= self.recovery_until => self.reduce(),
            _ => self.grow(now),
        }
        self.fill(now, out);
    }

    fn target(&self) -> u64 {
        (self.window * PACKET as f64 * 8.0 * SECOND as f64 / self.round_trip.max(1) as f64) as u64
    }
}
