//! Google congestion control: how much a path carries, from what is told of the packets that were sent over it.
//!
//! ```text
//!   results of packets ──► acknowledged ─────────────┐
//!     sent, arrived or lost  delta ─► trendline ─► rate ─► min ─► target
//!                            queue ─► rate
//!                            loss ───────────────────────┘
//!                            probe ──► rate            probes to send
//!                            compete ─► rate
//!                            equation ─► rate
//! ```
//!
//! Source: draft-ietf-rmcat-gcc-02 and, where it has moved on, libwebrtc's `modules/congestion_controller/goog_cc`; each file names its
//! part. Written anew and without I/O: time comes in, a rate goes out. Nothing allocates; a lie in feedback can lower or raise
//! the estimate between its bounds and nothing else.
//!
//! It is driven by its tests over simulated paths, and by [`crate::peer::path`] over real ones.

pub mod acknowledged;
pub mod compete;
pub mod delta;
pub mod equation;
pub mod loss;
pub mod probe;
pub mod queue;
pub mod rate;
pub mod trendline;

use crate::units::{Bitrate, Micros};
use acknowledged::Acknowledged;
use compete::Competition;
use delta::InterArrival;
use equation::LossEvents;
use loss::LossBased;
use probe::{Cluster, Prober, WANT_FACTOR};
use queue::{Least, Queue};
use rate::RateControl;
use trendline::{Trendline, Usage};

/// A queue so long that drops so much is full: libwebrtc leaves it to the loss-based part, which takes long to tell it from a path
/// that loses by itself.
const FULL_QUEUE_MS: f64 = 80.0;
const FULL_QUEUE_LOSS: f64 = 0.02;
/// What a probe has shown is known when so long after it nothing has spoken against it.
const CONFIRMED: Micros = Micros::from_millis(500);
/// How long the queue may take to drain after a probe.
const DISTURBANCE: Micros = Micros::from_millis(100);
/// A queue of so many milliseconds that was not there a moment ago, whatever the detector makes of it; and with a probe in it.
const SUDDEN_MS: f64 = 100.0;
const SUDDEN_PROBED_MS: f64 = 150.0;
const MOMENT: Micros = Micros::from_millis(500);
/// For so long, at least, an empty queue is remembered.
const MEMORY: Micros = Micros::from_secs(10);
/// A queue that is shorter than this at some time in each so long is none that stands, but one that frames pass through: CoDel's good queue
/// and bad queue, and its target (RFC 8289).
const STANDING_MS: f64 = 5.0;
const STANDING: Micros = Micros::from_millis(50);
/// Packets over which it is told how many are lost by chance, and the most that are taken for that.
const CHANCE_PACKETS: f64 = 1_000.0;
const CHANCE_MAX: f64 = 0.1;
/// And of a probe's; less does not keep it from being judged, and may be a short queue's.
const PROBE_CHANCE: (f64, f64) = (0.05, 0.25);
/// Less than this can be repaired: losses alone do not leave a viewer without a picture.
const BEARABLE_LOSS: f64 = 0.3;
/// A shorter queue has drained.
const OVER_QUEUE_MS: f64 = 10.0;
/// Below this nothing waits.
const EMPTY_QUEUE_MS: f64 = 20.0;

/// What became of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub sent: Micros,
    /// By the receiver's clock; none if it was lost.
    pub arrived: Option<Micros>,
    pub bytes: usize,
    /// The probe it was part of; 0 for none.
    pub cluster: u32,
}

/// The estimator of one path.
#[derive(Clone, Debug)]
pub struct Estimator {
    min: Bitrate,
    inter_arrival: InterArrival,
    trendline: Trendline,
    acknowledged: Acknowledged,
    rate: RateControl,
    loss: LossBased,
    prober: Prober,
    competition: Competition,
    events: LossEvents,
    target: Bitrate,
    /// What cannot be made smaller.
    least: Bitrate,
    /// What could be used next, and a little more.
    useful: Bitrate,
    idle: bool,
    /// When a probe raised the rate last.
    raised: Micros,
    /// What is sent until then may wait behind a probe.
    disturbed_until: Micros,
    /// What gathers in a moment, and what waits.
    gathering: Queue,
    queue: Queue,
    /// The least that has waited of late, in microseconds.
    standing: Least,
    /// Of packets that are lost on the path behind its queue, of 1.
    chance: f64,
    sudden: bool,
    draining: bool,
}

impl Estimator {
    pub fn new(start: Bitrate, min: Bitrate, max: Bitrate, now: Micros) -> Self {
        Estimator {
            min,
            inter_arrival: InterArrival::default(),
            trendline: Trendline::default(),
            acknowledged: Acknowledged::default(),
            rate: RateControl::new(start, min, max),
            loss: LossBased::new(start),
            prober: Prober::new(start, max, now),
            competition: Competition::default(),
            events: LossEvents::default(),
            target: start,
            least: Bitrate::default(),
            useful: max,
            idle: false,
            raised: Micros::ZERO,
            disturbed_until: Micros::ZERO,
            gathering: Queue::new(MOMENT),
            queue: Queue::new(MEMORY),
            standing: Least::new(STANDING),
            chance: 0.0,
            sudden: false,
            draining: false,
        }
    }

    /// What may be sent.
    pub fn target(&self) -> Bitrate {
        self.target
    }

    pub fn acknowledged(&self) -> Option<Bitrate> {
        self.acknowledged.bitrate()
    }

    /// Losses of the last seconds, of 1.
    pub fn loss(&self) -> f64 {
        self.loss.loss()
    }

    /// How long packets wait on the path, more than at the least, in milliseconds.
    pub fn queue_ms(&self) -> f64 {
        self.queue.ms()
    }

    /// How long all packets have waited of late, at least.
    fn standing_ms(&self) -> f64 {
        match self.standing.get() {
            i64::MAX => 0.0,
            micros => micros as f64 / 1e3,
        }
    }

    pub fn usage(&self) -> Usage {
        if self.sudden { Usage::Over } else { self.trendline.usage() }
    }

    /// The next probe to send.
    pub fn probe(&mut self) -> Option<Cluster> {
        self.prober.next_cluster()
    }

    /// What could be used next is probed for, and nothing above the most that could be used. In a queue that is somebody else's a probe
    /// would show that alone.
    pub fn want(&mut self, next: Bitrate, most: Bitrate, now: Micros) {
        self.useful = Bitrate((next.0 as f64 * WANT_FACTOR) as u64);
        if self.trendline.usage() == Usage::Normal && !self.competition.is_on() {
            self.prober.want(next, most, self.target, now);
        }
    }

    /// What cannot be made smaller: only a queue, or losses beyond bearing, leave less.
    pub fn set_least(&mut self, rate: Bitrate) {
        self.least = rate;
    }

    /// Whether the queue on the path is somebody else's.
    pub fn competes(&self) -> bool {
        self.competition.is_on()
    }

    /// Whether the sender has less to send than it may (application-limited).
    pub fn set_idle(&mut self, idle: bool) {
        if self.idle && !idle {
            self.acknowledged.expect_fast_change();
        }
        self.idle = idle;
    }

    /// Whether the sender holds back so that a queue drains: what arrives is less than could then.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Takes one feedback message's packets, in the order of sending, at the time it came.
    pub fn feedback(&mut self, outcomes: impl IntoIterator<Item = Outcome>, round_trip: Micros, now: Micros) {
        self.rate.set_round_trip(round_trip);
        self.rate.set_shown(self.prober.refuted(now));
        let mut probed: Option<Bitrate> = None;
        let chance = if self.chance < PROBE_CHANCE.0 { 0.0 } else { self.chance.min(PROBE_CHANCE.1) };
        let (mut over, mut lost, mut newest) = (false, 0u32, Micros::ZERO);
        let mut packets = 0u32;
        for Outcome { sent, arrived, bytes, cluster } in outcomes {
            self.loss.packet(sent, bytes, arrived.is_none());
            self.events.packet(sent, arrived.is_none(), round_trip);
            packets += 1;
            lost += arrived.is_none() as u32;
            let Some(arrived) = arrived else { continue };
            newest = sent;
            self.acknowledged.packet(arrived, bytes, self.idle);
            if cluster != 0 {
                self.disturbed_until = sent + DISTURBANCE;
            }
            self.gathering.packet(sent, arrived, bytes);
            self.queue.packet(sent, arrived, bytes);
            self.standing.take((self.queue.ms() * 1e3) as i64, sent);
            // What a probe does to the queue was its purpose, and says nothing of the rate before it.
            if sent >= self.disturbed_until
                && let Some(deltas) = self.inter_arrival.packet(sent, arrived, now)
            {
                self.trendline.update(deltas, arrived);
                over |= self.trendline.usage() == Usage::Over;
            }
            if cluster != 0
                && let Some(rate) = self.prober.packet(cluster, sent, arrived, bytes, chance, now)
            {
                probed = Some(rate);
            }
        }
        // A full queue does not grow, and to the detector nothing is wrong: but it drops, and it is long.
        let full = self.trendline.queue_ms() > FULL_QUEUE_MS && self.loss.recent() > FULL_QUEUE_LOSS;
        // A probe is no reason if what waits leaves far too slowly for that.
        let slow = self.gathering.served().is_some_and(|rate| rate.0 * 10 < self.rate.target().0 * 7);
        let disturbed = newest < self.disturbed_until && !slow;
        self.sudden = self.gathering.ms() > if disturbed { SUDDEN_PROBED_MS } else { SUDDEN_MS };
        let grew = over || full || self.sudden || self.trendline.usage() == Usage::Over;
        // What the detector saw at the beginning of the message may be over by its end: giving way again would follow our own pause.
        let drained = self.draining && self.trendline.usage() != Usage::Over && self.queue.ms() < OVER_QUEUE_MS;
        let usage = if (over && !drained) || full || self.sudden { Usage::Over } else { self.trendline.usage() };
        let standing = self.standing_ms();
        if standing < STANDING_MS {
            // What is lost while nothing waits is not lost to the queue.
            let weight = (packets as f64 / CHANCE_PACKETS).min(1.0);
            self.chance += weight * (lost as f64 / packets.max(1) as f64 - self.chance);
        }
        // A frame that waits for itself, and a stall of the link, are steep and soon over: nothing is too much that the path is done with.
        let usage = if usage == Usage::Over && standing < STANDING_MS && !full && !self.sudden { Usage::Under } else { usage };
        if usage == Usage::Normal && self.trendline.queue_ms() < EMPTY_QUEUE_MS {
            self.prober.again(self.target, now);
        }
        let drains = self.trendline.usage() == Usage::Under;
        self.competition.update(self.trendline.queue_ms(), grew, drains, now);
        self.trendline.hold_base(self.competition.is_on());
        match probed {
            _ if self.competition.is_on() => {
                let fair = self.events.rate(round_trip).unwrap_or_default();
                self.rate.compete(lost > 0, self.acknowledged.bitrate(), fair, self.useful, now);
            }
            // One that met others' bursts may show less than is known; unless that is what another has just shown, of which jitter made more.
            Some(rate) if usage != Usage::Over => {
                let known = if now.since(self.raised) < CONFIRMED.0 { Bitrate::default() } else { self.rate.target() };
                if rate > self.rate.target() {
                    // More will be sent, and if that turns out too much, what arrives must be known by then.
                    self.acknowledged.expect_fast_change();
                    self.raised = now;
                }
                self.rate.set(rate.max(known), now);
            }
            _ => {
                let rate = match usage {
                    // What has arrived before counts for nothing, if the path carries less now.
                    Usage::Over if self.sudden => self.gathering.served().or(self.acknowledged.busy()),
                    // A sender of less than it may has an average below what the path carries: what waited tells that.
                    Usage::Over => self.acknowledged.busy().map(|rate| rate.max(self.queue.served().unwrap_or_default())),
                    _ => self.acknowledged.bitrate(),
                };
                let carried = rate.map(|rate| Bitrate((rate.0 as f64 / (1.0 - self.chance.min(CHANCE_MAX))) as u64));
                let waits = if self.sudden { self.gathering.ms() } else { standing };
                self.rate.update(usage, carried, waits, self.idle, now);
            }
        }
        let delay_based = self.rate.target();
        let loss_based = self.loss.estimate(delay_based, self.acknowledged.bitrate(), now).min(delay_based);
        let least = if self.loss.loss() < BEARABLE_LOSS { self.least.min(delay_based) } else { self.min };
        self.target = loss_based.max(least).max(self.min);
    }
}

#[cfg(test)]
mod tests;
