//! How long packets wait on the path, from one to the next: what the trendline, which smooths over half a second, tells late.
//!
//! The delay of a packet above the least of the last moments. Two clocks are in it, and routes change; so the least is that of one
//! or two windows, and a delay that stays is no queue any more after that. A queue in which a tenth of a second has gathered within a
//! second is not the path's jitter, and the distances at which its packets leave it tell what the path carries (the draft has nothing
//! like it; its detector tells of a path that has lost two thirds of its rate some 400 ms later, when a queue of 200 ms has long
//! overflowed).

use crate::units::{Bitrate, Micros};

/// What has waited for so long, in milliseconds, left the queue right after the packet before it.
const WAITS_MS: f64 = 10.0;
/// Time in which packets left the queue that tells a rate, and that over which it is told, in microseconds.
const SERVED_MIN: u64 = 50_000;
const SERVED_MAX: u64 = 200_000;

/// The least of a value in the present and in the previous window.
#[derive(Clone, Debug)]
pub struct Least {
    window: u64,
    began: Micros,
    values: [i64; 2],
}

impl Least {
    /// `window`: for how long, at least, a value is remembered.
    pub fn new(window: Micros) -> Self {
        Least { window: window.0, began: Micros::ZERO, values: [i64::MAX; 2] }
    }

    /// Takes the value of a moment; gives the least, this one included.
    pub fn take(&mut self, value: i64, at: Micros) -> i64 {
        if at.since(self.began) >= self.window {
            (self.began, self.values) = (at, [value, self.values[0]]);
        }
        self.values[0] = self.values[0].min(value);
        self.get()
    }

    /// [`i64::MAX`] if there was none yet.
    pub fn get(&self) -> i64 {
        self.values[0].min(self.values[1])
    }
}

/// The least delay and the last packet's, in microseconds of two clocks.
#[derive(Clone, Debug)]
pub struct Queue {
    least: Least,
    latest: i64,
    arrived: Micros,
    /// Bytes that left the queue one after the other, and the microseconds that this took.
    served: (u64, u64),
}

impl Queue {
    /// `window`: for how long, at least, a delay is remembered.
    pub fn new(window: Micros) -> Self {
        Queue { least: Least::new(window), latest: 0, arrived: Micros::ZERO, served: (0, 0) }
    }

    /// Takes a packet, in the order of sending.
    pub fn packet(&mut self, sent: Micros, arrived: Micros, bytes: usize) {
        self.latest = arrived.0.wrapping_sub(sent.0) as i64;
        self.least.take(self.latest, sent);
        let gap = arrived.since(std::mem::replace(&mut self.arrived, arrived));
        if self.ms() < WAITS_MS {
            self.served = (0, 0);
            return;
        }
        self.served = (self.served.0 + bytes as u64, self.served.1 + gap);
        if self.served.1 > SERVED_MAX {
            self.served = (self.served.0 / 2, self.served.1 / 2);
        }
    }

    /// Milliseconds that the last packet has waited.
    pub fn ms(&self) -> f64 {
        let least = self.least.get();
        if least == i64::MAX { 0.0 } else { self.latest.saturating_sub(least) as f64 / 1e3 }
    }

    /// How fast what waited left the queue: the rate of the path. None if that has not waited for long.
    pub fn served(&self) -> Option<Bitrate> {
        let (bytes, micros) = self.served;
        (micros >= SERVED_MIN).then(|| Bitrate(bytes * 8_000_000 / micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of 1,000 bytes; the clocks are a day apart.
    fn packet(queue: &mut Queue, millis: u64, waits: u64) -> f64 {
        queue.packet(Micros::from_millis(millis), Micros::from_millis(86_400_000 + 20 + millis + waits), 1000);
        queue.ms()
    }

    #[test]
    fn a_queue_is_seen_with_its_first_packets_and_a_longer_way_is_forgotten() {
        let mut queue = Queue::new(Micros::from_millis(500));
        assert_eq!(queue.ms(), 0.0);
        let mut after = |millis, waits| packet(&mut queue, millis, waits);
        assert_eq!([after(1_000, 0), after(1_100, 30), after(1_200, 130), after(1_300, 10)], [0.0, 30.0, 130.0, 10.0]);
        assert_eq!(after(1_400, 100), 100.0);
        let longer: Vec<f64> = (15..30).map(|step| after(100 * step, 100)).collect();
        assert_eq!(longer.first(), Some(&100.0), "it may be a queue yet");
        assert_eq!(longer.last(), Some(&0.0));
        assert_eq!(after(3_000, 20), 0.0, "and now a shorter one");
    }

    #[test]
    fn what_waits_tells_the_rate_of_the_path() {
        let mut queue = Queue::new(Micros::from_millis(500));
        // A packet in 20 ms; then one a millisecond, of which the path takes one in 10 ms.
        for step in 0..20 {
            packet(&mut queue, 1_000 + 20 * step, 0);
        }
        assert_eq!(queue.served(), None, "400 kb/s are what is sent, not what could be");
        for step in 0..10 {
            packet(&mut queue, 1_400 + step, 9 * step);
        }
        let rate = queue.served().expect("80 ms of packets that waited").0;
        assert!((795_000..900_000).contains(&rate), "{rate}");
        packet(&mut queue, 1_600, 0);
        assert_eq!(queue.served(), None);
    }
}
