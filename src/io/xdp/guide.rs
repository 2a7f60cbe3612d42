//! The slow path beside workers on AF_XDP: tells them the way to their clients, and watches over the program in the kernel.
//! It runs on a thread of its own, in turns of [`Guide::turn`].
//!
//! - **Ways.** A question is an address that a worker sends to; its answer are headers, or that the socket shall send. While a
//!   next hop does not answer ARP or neighbour discovery, the question stays open.
//! - **Changes.** Links, addresses, routes and neighbours are followed by the kernel's notifications; one that may make an answer
//!   wrong starts a new generation, in which workers ask again as they send.
//! - **Floods.** Every second the datagrams of no client are counted: those that workers received and dropped, and those that the
//!   program did. Above [`FLOOD_ON`] the program drops what comes from no known client, and lets a few STUN checks through for
//!   new ones; after [`FLOOD_CALM`] seconds below [`FLOOD_OFF`] it stops. Known is whom a worker has sent anything to, which it
//!   does only after an authentic check.
//! - **Metrics.** What the program counts is added to a table of the guide's own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::peers::{Answer as Word, Desk};
use super::program::{Count, Program};
use super::routes::{Answer, Routes};
use super::socket::Statistics;
use crate::io::Waker;
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::units::Micros;

/// Datagrams of no client a second, above which there is a flood: one costs a worker about a microsecond, so this is 2 % of a
/// core, and far more than clients that are no longer known send.
const FLOOD_ON: u64 = 20_000;
/// Below which it may be over, after so many seconds in a row.
const FLOOD_OFF: u64 = 5_000;
const FLOOD_CALM: u32 = 10;
/// What datagrams of no client are counted as in a worker.
const STRANGERS: [DropReason; 5] = [
    DropReason::UnknownSource,
    DropReason::StunUnknownUser,
    DropReason::StunUnauthenticated,
    DropReason::StunMalformed,
    DropReason::UnknownProtocol,
];

const SECOND: Micros = Micros::from_millis(1_000);
/// Between two reminders to the kernel that next hops are in use, in seconds. It forgets after 60 at the earliest.
const REFRESH_SECONDS: u64 = 5;
/// A question about a next hop that does not answer is answered with the socket after so long.
const RESOLVE_WAIT: Micros = Micros::from_millis(3_000);

struct Unresolved {
    worker: usize,
    to: SocketAddr,
    since: Micros,
}

/// See the module.
pub struct Guide {
    program: Program,
    routes: Routes,
    desks: Vec<Desk>,
    statistics: Vec<Statistics>,
    unresolved: Vec<Unresolved>,
    /// Some question was answered with the socket because its next hop did not answer.
    given_up: bool,
    generation: Arc<AtomicU32>,
    /// Where media is taken: an address of this host, or all of them.
    local: IpAddr,
    wake: Waker,
    metrics: Arc<WorkerMetrics>,
    workers: Vec<Arc<WorkerMetrics>>,
    next_second: Micros,
    seconds: u64,
    strangers: u64,
    flood: bool,
    calm: u32,
}

/// What a [`Guide`] is made of.
pub(super) struct Parts {
    pub program: Program,
    pub routes: Routes,
    pub desks: Vec<Desk>,
    pub statistics: Vec<Statistics>,
    pub generation: Arc<AtomicU32>,
    pub local: IpAddr,
    pub wake: Waker,
}

impl Guide {
    /// `metrics` is the guide's own table; of the workers' it reads.
    pub(super) fn new(parts: Parts, metrics: Arc<WorkerMetrics>, workers: Vec<Arc<WorkerMetrics>>) -> Guide {
        let Parts { program, routes, desks, statistics, generation, local, wake } = parts;
        let mut guide = Guide {
            program,
            routes,
            desks,
            statistics,
            unresolved: Vec::new(),
            given_up: false,
            generation,
            local,
            wake,
            metrics,
            workers,
            next_second: Micros::ZERO,
            seconds: 0,
            strangers: 0,
            flood: false,
            calm: 0,
        };
        guide.listen();
        guide
    }

    /// Ends the wait of [`Guide::wait`], from any thread.
    pub fn waker(&self) -> Waker {
        self.wake.clone()
    }

    /// Does what there is to do.
    pub fn turn(&mut self, now: Micros) {
        let changed = self.routes.follow();
        if changed.addresses {
            self.listen();
        }
        if changed.ways || (changed.neighbours && self.given_up) {
            self.given_up = false;
            self.routes.forget_hops();
            // Release: whoever sees the new generation and asks finds the new tables behind it.
            self.generation.fetch_add(1, Ordering::Release);
        }
        let second = now >= self.next_second;
        if changed.ways || changed.neighbours || second {
            self.ask_again(now);
        }
        self.answer_all(now);
        if second {
            self.next_second = now + SECOND;
            self.each_second();
        }
    }

    /// Waits for a question, a change or the next second. `stop` is looked at when a wake-up can no longer be lost.
    pub fn wait(&mut self, stop: &AtomicBool) {
        self.wake.set_sleeping();
        if self.desks.iter().all(|desk| desk.questions.is_empty()) && !stop.load(Ordering::Relaxed) {
            let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            super::poll(&mut [wait(self.routes.fd()), wait(self.wake.event())], Duration::from_secs(1));
        }
        self.wake.clear_sleeping();
        self.wake.drain();
    }

    fn answer_all(&mut self, now: Micros) {
        for worker in 0..self.desks.len() {
            while let Ok(to) = self.desks[worker].questions.pop() {
                self.program.know(to);
                self.answer(Unresolved { worker, to, since: now }, now);
            }
        }
    }

    fn ask_again(&mut self, now: Micros) {
        for question in std::mem::take(&mut self.unresolved) {
            self.answer(question, now);
        }
    }

    fn answer(&mut self, question: Unresolved, now: Micros) {
        let headers = match self.routes.way(question.to) {
            Answer::Headers(headers) => Some(headers),
            Answer::Unresolved if now.since(question.since) < RESOLVE_WAIT.0 => return self.unresolved.push(question),
            Answer::Unresolved => {
                self.given_up = true;
                None
            }
            Answer::Elsewhere => None,
        };
        // There is room: a worker has no more open questions than the ring has places.
        let _ = self.desks[question.worker].answers.push(Word { to: question.to, headers });
    }

    /// Tells the program for which addresses it shall take media.
    fn listen(&mut self) {
        let wanted = |ip: &IpAddr| self.local == *ip || self.local.is_unspecified() && (self.local.is_ipv6() || ip.is_ipv4());
        let addresses: Vec<IpAddr> = self.routes.addresses.iter().copied().filter(wanted).collect();
        self.program.listen(&addresses);
    }

    fn each_second(&mut self) {
        self.seconds += 1;
        if self.seconds.is_multiple_of(REFRESH_SECONDS) {
            self.routes.refresh();
        }
        let dropped = self.program.count(Count::Flood) + self.program.count(Count::FloodStun);
        self.metrics.count_drops(DropReason::XdpFlood, dropped);
        self.metrics.count_drops(DropReason::XdpJunk, self.program.count(Count::Junk));
        self.metrics.add(Counter::XdpPassed, self.program.count(Count::Passed));
        let lost = self.statistics.iter_mut().map(Statistics::lost).sum();
        self.metrics.count_drops(DropReason::XdpRingFull, lost);
        let strangers = STRANGERS.iter().flat_map(|reason| self.workers.iter().map(|worker| worker.dropped(*reason))).sum();
        let before = std::mem::replace(&mut self.strangers, strangers);
        self.judge(strangers - before + dropped);
    }

    /// Whether there is a flood, from the datagrams of no client in the last second.
    fn judge(&mut self, strangers: u64) {
        self.calm = if strangers < FLOOD_OFF { self.calm + 1 } else { 0 };
        let flood = if self.flood { self.calm < FLOOD_CALM } else { strangers > FLOOD_ON };
        if flood == self.flood || self.program.flood(flood).is_err() {
            return;
        }
        self.flood = flood;
        match flood {
            true => tracing::warn!("flood: {strangers} datagrams of no client in a second; the XDP program drops them from now on"),
            false => tracing::info!("the flood is over"),
        }
    }
}
