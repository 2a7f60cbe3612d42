//! Google congestion control: how much a path carries, from what is told of the packets that were sent over it.
//!
//! ```text
//!   results of packets ──► acknowledged ─────────────┐
//!     sent, arrived or lost  delta ─► trendline ─► rate ─► min ─► target
//!                            loss ───────────────────────┘
//!                            probe ──► rate            probes to send
//! ```
//!
//! Source: draft-ietf-rmcat-gcc-02 and, where it has moved on, libwebrtc's `modules/congestion_controller/goog_cc`; each file names its
//! part. Written anew and without I/O: time comes in, a rate goes out. Nothing allocates; a lie in feedback can lower or raise
//! the estimate between its bounds and nothing else.
//!
//! It is complete by itself and driven by its tests over simulated paths. Viewers are not sent by it yet: that needs transport-wide
//! numbers towards them, a pacer, and layers to choose from.

pub mod acknowledged;
pub mod delta;
pub mod loss;
pub mod probe;
pub mod rate;
pub mod trendline;

use crate::units::{Bitrate, Micros};
use acknowledged::Acknowledged;
use delta::InterArrival;
use loss::LossBased;
use probe::{Cluster, Prober};
use rate::RateControl;
use trendline::{Trendline, Usage};

/// A queue so long that drops so much is full: libwebrtc leaves it to the loss-based part, which takes long to tell it from a path
/// that loses by itself.
const FULL_QUEUE_MS: f64 = 80.0;
const FULL_QUEUE_LOSS: f64 = 0.02;
/// How long the queue may take to drain after a probe.
const DISTURBANCE: Micros = Micros::from_millis(100);
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
    target: Bitrate,
    idle: bool,
    /// What is sent until then may wait behind a probe.
    disturbed_until: Micros,
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
            target: start,
            idle: false,
            disturbed_until: Micros::ZERO,
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

    pub fn usage(&self) -> Usage {
        self.trendline.usage()
    }

    /// The next probe to send.
    pub fn probe(&mut self) -> Option<Cluster> {
        self.prober.next_cluster()
    }

    /// Whether the sender has less to send than it may (application-limited).
    pub fn set_idle(&mut self, idle: bool) {
        if self.idle && !idle {
            self.acknowledged.expect_fast_change();
        }
        self.idle = idle;
    }

    /// Takes one feedback message's packets, in the order of sending, at the time it came.
    pub fn feedback(&mut self, outcomes: impl IntoIterator<Item = Outcome>, round_trip: Micros, now: Micros) {
        self.rate.set_round_trip(round_trip);
        let mut probed: Option<Bitrate> = None;
        let mut over = false;
        for Outcome { sent, arrived, bytes, cluster } in outcomes {
            self.loss.packet(sent, bytes, arrived.is_none());
            let Some(arrived) = arrived else { continue };
            self.acknowledged.packet(arrived, bytes, self.idle);
            if cluster != 0 {
                self.disturbed_until = sent + DISTURBANCE;
            }
            // What a probe does to the queue was its purpose, and says nothing of the rate before it.
            if sent >= self.disturbed_until
                && let Some(deltas) = self.inter_arrival.packet(sent, arrived, now)
            {
                self.trendline.update(deltas, arrived);
                over |= self.trendline.usage() == Usage::Over;
            }
            if cluster != 0
                && let Some(rate) = self.prober.packet(cluster, sent, arrived, bytes, now)
            {
                probed = Some(rate);
            }
        }
        // A full queue does not grow, and to the detector nothing is wrong: but it drops, and it is long.
        let full = self.trendline.queue_ms() > FULL_QUEUE_MS && self.loss.recent() > FULL_QUEUE_LOSS;
        let usage = if over || full { Usage::Over } else { self.trendline.usage() };
        if usage == Usage::Normal && self.trendline.queue_ms() < EMPTY_QUEUE_MS {
            self.prober.again(self.target, now);
        }
        match probed {
            // One that met others' bursts may show less than is known.
            Some(rate) if usage != Usage::Over => self.rate.set(rate.max(self.rate.target()), now),
            _ => self.rate.update(usage, self.acknowledged.bitrate(), self.idle, now),
        }
        let delay_based = self.rate.target();
        self.target = self.loss.estimate(delay_based, self.acknowledged.bitrate(), now).min(delay_based).max(self.min);
    }
}

#[cfg(test)]
mod tests;
