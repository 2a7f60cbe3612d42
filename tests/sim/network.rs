//! What lies between a client and the server: time, and everything that can happen to a datagram.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;

use super::random::Random;

/// How one client is connected. Both directions are alike, but for the bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub latency_micros: u64,
    /// Up to this much more, for each datagram on its own: what overtakes what is left to chance.
    pub jitter_micros: u64,
    pub loss: f64,
    pub duplication: f64,
    /// What the way to the client carries, in bits per second of UDP payload, and how many milliseconds of that its queue holds; what
    /// does not fit is lost. None: everything.
    pub bottleneck: Option<(u64, u64)>,
    /// Datagrams of which one to three bits are flipped.
    pub corruption: f64,
}

impl Link {
    /// 15 ms each way, everything arrives, in order.
    pub const fn clean() -> Link {
        Link { latency_micros: 15_000, jitter_micros: 0, loss: 0.0, duplication: 0.0, corruption: 0.0, bottleneck: None }
    }

    pub const fn lossy(loss: f64) -> Link {
        Link { loss, ..Link::clean() }
    }

    pub const fn narrow(bits_per_second: u64, queue_millis: u64) -> Link {
        Link { bottleneck: Some((bits_per_second, queue_millis)), ..Link::clean() }
    }

    pub const fn jittery(jitter_micros: u64, duplication: f64) -> Link {
        Link { jitter_micros, duplication, ..Link::clean() }
    }

    pub const fn corrupting(corruption: f64) -> Link {
        Link { corruption, ..Link::clean() }
    }
}

/// A datagram on its way.
pub struct InFlight {
    due: u64,
    /// Of those due at the same time, the first sent arrives first.
    order: u64,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// All datagrams on their way, and what has happened to those before them.
pub struct Network {
    random: Random,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    sent: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    /// When the bottleneck on the way to a client will be free.
    free_at: HashMap<SocketAddr, u64>,
    /// Who shares one, that of the first.
    pub sharing: Vec<SocketAddr>,
    /// Bytes that a bottleneck let pass, by whom they were for.
    pub passed: HashMap<SocketAddr, u64>,
    /// Whose datagrams to note as they leave the server.
    pub watched: Vec<SocketAddr>,
    /// When, to whom, how many bytes.
    pub departures: Vec<(u64, SocketAddr, usize)>,
    /// How long each of them waited in the bottleneck's queue.
    pub waited: Vec<(u64, SocketAddr, u64)>,
}

impl Network {
    pub fn new(random: Random) -> Network {
        Network {
            random,
            in_flight: BinaryHeap::new(),
            sent: 0,
            lost: 0,
            duplicated: 0,
            corrupted: 0,
            free_at: HashMap::new(),
            sharing: Vec::new(),
            passed: HashMap::new(),
            watched: Vec::new(),
            departures: Vec::new(),
            waited: Vec::new(),
        }
    }

    /// To a client, through its bottleneck.
    pub fn send_down(&mut self, link: &Link, now: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.watched.contains(&to) {
            self.departures.push((now, to, bytes.len()));
        }
        if let Some(left) = self.pass(link, now, to, bytes.len()) {
            self.send(link, left, from, to, bytes);
        }
    }

    /// When something of that size has left the bottleneck on the way to `to`; none if there is no room for it.
    pub fn pass(&mut self, link: &Link, now: u64, to: SocketAddr, bytes: usize) -> Option<u64> {
        let Some((rate, queue_millis)) = link.bottleneck else { return Some(now) };
        let whose = self.sharing.first().filter(|_| self.sharing.contains(&to)).unwrap_or(&to);
        let free_at = self.free_at.entry(*whose).or_default();
        let begins = now.max(*free_at);
        let leaves = begins + bytes as u64 * 8_000_000 / rate;
        if begins > now && leaves - now > queue_millis * 1000 {
            self.lost += 1;
            return None;
        }
        if self.watched.contains(&to) {
            self.waited.push((now, to, begins - now));
        }
        *free_at = leaves;
        *self.passed.entry(to).or_default() += bytes as u64;
        Some(leaves)
    }

    pub fn send(&mut self, link: &Link, now: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let mut copies = 1;
        if self.random.chance(link.duplication) {
            self.duplicated += 1;
            copies = 2;
        }
        for _ in 0..copies {
            if self.random.chance(link.loss) {
                self.lost += 1;
                continue;
            }
            let mut bytes = bytes.to_vec();
            if self.random.chance(link.corruption) && !bytes.is_empty() {
                self.corrupted += 1;
                for _ in 0..1 + self.random.below(3) {
                    let bit = self.random.below(8 * bytes.len());
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
            let jitter = if link.jitter_micros == 0 { 0 } else { self.random.next() % link.jitter_micros };
            self.sent += 1;
            let due = now + link.latency_micros + jitter;
            self.in_flight.push(Reverse(InFlight { due, order: self.sent, from, to, bytes }));
        }
    }

    /// The next datagram that has arrived by `now`.
    pub fn arrived(&mut self, now: u64) -> Option<InFlight> {
        if self.in_flight.peek().is_none_or(|Reverse(next)| next.due > now) {
            return None;
        }
        self.in_flight.pop().map(|Reverse(datagram)| datagram)
    }
}
