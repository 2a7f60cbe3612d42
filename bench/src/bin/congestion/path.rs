//! The path: one bottleneck with a queue that drops what does not fit, and a delay behind it. The way back is only a delay.

use std::collections::VecDeque;

/// Microseconds since the beginning of a run.
pub type Time = u64;

pub const SECOND: Time = 1_000_000;
pub const MILLISECOND: Time = 1_000;

/// What a path is like.
#[derive(Clone)]
pub struct Profile {
    /// Bits per second, each from its time on; the first is from 0.
    pub rates: Vec<(Time, u64)>,
    /// Length of the queue: time that its bytes take at the highest rate.
    pub queue: Time,
    pub round_trip: Time,
    /// Packets lost behind the bottleneck by chance, of 1.
    pub loss: f64,
    /// Mean of an exponential delay behind the bottleneck. Nothing overtakes.
    pub jitter: Time,
    /// About so often, and for so long, nothing arrives; then all at once.
    pub stalls: Option<(Time, Time)>,
}

impl Profile {
    pub fn constant(rate: u64, queue: Time, round_trip: Time) -> Self {
        Profile { rates: vec![(0, rate)], queue, round_trip, loss: 0.0, jitter: 0, stalls: None }
    }

    pub fn rate(&self, now: Time) -> u64 {
        self.rates.iter().rev().find(|(from, _)| *from <= now).map_or(self.rates[0].1, |(_, rate)| *rate)
    }

    fn queue_bytes(&self) -> usize {
        let most = self.rates.iter().map(|(_, rate)| *rate).max().unwrap_or(0);
        (most * self.queue / 8 / SECOND) as usize
    }
}

/// xorshift64*: runs are the same every time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// The bottleneck of a profile, with what waits in it.
pub struct Bottleneck<T> {
    profile: Profile,
    random: Random,
    queue: VecDeque<(Time, usize, T)>,
    bytes: usize,
    /// When the first of the queue will have left.
    leaves: Option<Time>,
    last_arrival: Time,
    stall: (Time, Time),
}

/// What has left the bottleneck.
pub struct Left<T> {
    pub packet: T,
    /// How long it waited for others.
    pub queued: Time,
    /// When it arrives; none if it is lost on the way.
    pub arrives: Option<Time>,
}

impl<T> Bottleneck<T> {
    pub fn new(profile: Profile, seed: u64) -> Self {
        let (random, queue) = (Random::new(seed), VecDeque::new());
        Bottleneck { profile, random, queue, bytes: 0, leaves: None, last_arrival: 0, stall: (0, 0) }
    }

    /// Takes a packet if it fits.
    pub fn enter(&mut self, now: Time, bytes: usize, packet: T) -> bool {
        if !self.queue.is_empty() && self.bytes + bytes > self.profile.queue_bytes() {
            return false;
        }
        self.bytes += bytes;
        self.queue.push_back((now, bytes, packet));
        self.leaves.get_or_insert(now + transmission(bytes, self.profile.rate(now)));
        true
    }

    pub fn due(&self) -> Time {
        self.leaves.unwrap_or(Time::MAX)
    }

    /// The first of the queue leaves, at the time it is due.
    pub fn leave(&mut self, now: Time) -> Option<Left<T>> {
        let (entered, bytes, packet) = self.queue.pop_front()?;
        self.bytes -= bytes;
        let rate = self.profile.rate(now);
        self.leaves = self.queue.front().map(|(_, bytes, _)| now + transmission(*bytes, rate));
        let queued = (now - entered).saturating_sub(transmission(bytes, rate));
        if self.random.unit() < self.profile.loss {
            return Some(Left { packet, queued, arrives: None });
        }
        let mut arrives = now + self.profile.round_trip / 2;
        if self.profile.jitter > 0 {
            arrives += self.random.exponential(self.profile.jitter as f64) as Time;
        }
        if let Some((every, length)) = self.profile.stalls {
            while arrives >= self.stall.1 {
                let begins = self.stall.1 + every / 2 + self.random.exponential(every as f64 / 2.0) as Time;
                self.stall = (begins, begins + length);
            }
            if arrives >= self.stall.0 {
                arrives = self.stall.1;
            }
        }
        self.last_arrival = self.last_arrival.max(arrives);
        Some(Left { packet, queued, arrives: Some(self.last_arrival) })
    }
}

fn transmission(bytes: usize, rate: u64) -> Time {
    bytes as u64 * 8 * SECOND / rate
}
