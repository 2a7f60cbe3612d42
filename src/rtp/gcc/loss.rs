//! The loss-based estimate: what rate would explain the losses seen?
//!
//! Source: libwebrtc's `goog_cc/loss_based_bwe_v2.cc`. A path is modelled by a bandwidth and an inherent loss: below the bandwidth a packet is
//! lost by the inherent chance, above it by the excess as well. Of a few candidates the one is taken that makes the observations of the
//! last seconds most likely, with a preference for more bandwidth while losses are few. So a radio link that loses one packet in fifty is
//! not taken for a full one.

use arrayvec::ArrayVec;

use crate::units::{Bitrate, Micros};

const OBSERVATIONS: usize = 20;
const OBSERVATION_MICROS: u64 = 250_000;
/// How much less an observation counts than the one after it.
const WEIGHT: f64 = 0.9;
const CANDIDATES: [f64; 3] = [1.02, 1.0, 0.95];
const INHERENT_LOSS_FIRST: f64 = 0.01;
const INHERENT_LOSS_MIN: f64 = 0.001;
/// What of the losses may be inherent falls with the bandwidth: such paths are slow ones.
const INHERENT_LOSS_OFFSET: f64 = 0.05;
const INHERENT_LOSS_KBPS: f64 = 100.0;
const NEWTON_STEP: f64 = 0.75;
const BIAS: f64 = 0.0002;
const BIAS_LOG: f64 = 0.02;
/// Losses above which more bandwidth is not preferred any more.
const BIAS_LOSS_MAX: f64 = 0.20;
/// Above this loss the rate is bounded at once, whatever the model says.
const BOUND_LOSS: f64 = 0.05;
const BOUND_KBPS: f64 = 100.0;
/// Growth in so much time after a reduction.
const GROWTH_MAX: f64 = 1.3;
const GROWTH_WINDOW: u64 = 300_000;

#[derive(Clone, Copy, Debug, Default)]
struct Observation {
    packets: f64,
    lost: f64,
    /// Kilobits per second.
    sent: f64,
}

impl Observation {
    /// As it is kept: there are many paths.
    fn kept(self) -> [f32; 3] {
        [self.packets as f32, self.lost as f32, self.sent as f32]
    }

    fn of([packets, lost, sent]: [f32; 3]) -> Observation {
        Observation { packets: packets.into(), lost: lost.into(), sent: sent.into() }
    }
}

/// The model's two parameters; bandwidth in kilobits per second.
#[derive(Clone, Copy, Debug)]
struct Channel {
    inherent_loss: f64,
    bandwidth: f64,
}

#[derive(Clone, Debug)]
pub struct LossBased {
    observations: ArrayVec<[f32; 3], OBSERVATIONS>,
    partial: Observation,
    partial_bits: f64,
    partial_began: Option<Micros>,
    channel: Channel,
    /// When and where growth was limited last.
    window: (Micros, f64),
}

impl LossBased {
    pub fn new(start: Bitrate) -> Self {
        let bandwidth = start.0 as f64 / 1e3;
        LossBased {
            observations: ArrayVec::new(),
            partial: Observation::default(),
            partial_bits: 0.0,
            partial_began: None,
            channel: Channel { inherent_loss: INHERENT_LOSS_FIRST, bandwidth },
            window: (Micros::ZERO, bandwidth),
        }
    }

    /// What becomes known of a packet.
    pub fn packet(&mut self, sent: Micros, bytes: usize, lost: bool) {
        self.partial_began.get_or_insert(sent);
        self.partial.packets += 1.0;
        self.partial.lost += f64::from(u8::from(lost));
        self.partial_bits += bytes as f64 * 8.0;
        let elapsed = self.partial_began.map_or(0, |began| sent.since(began));
        if elapsed >= OBSERVATION_MICROS {
            self.partial.sent = self.partial_bits * 1e3 / elapsed as f64;
            if self.observations.is_full() {
                self.observations.remove(0);
            }
            self.observations.push(self.partial.kept());
            (self.partial, self.partial_bits, self.partial_began) = (Observation::default(), 0.0, None);
        }
    }

    /// Of the packets in the window, weighed by age.
    pub fn loss(&self) -> f64 {
        let (lost, packets) =
            self.weighed().fold((0.0, 0.0), |(lost, all), (seen, weight)| (lost + weight * seen.lost, all + weight * seen.packets));
        if packets > 0.0 { lost / packets } else { 0.0 }
    }

    /// Of the packets of the last observation alone.
    pub fn recent(&self) -> f64 {
        let last = self.observations.last().map(|kept| Observation::of(*kept));
        last.map_or(0.0, |seen| seen.lost / seen.packets.max(1.0))
    }

    /// The bound on the rate, given what the delays allow and what arrives.
    pub fn estimate(&mut self, delay_based: Bitrate, acknowledged: Option<Bitrate>, now: Micros) -> Bitrate {
        let delay_based = delay_based.0 as f64 / 1e3;
        if self.observations.is_empty() {
            self.channel.bandwidth = delay_based;
            return Bitrate((delay_based * 1e3) as u64);
        }
        let acknowledged = acknowledged.map(|rate| rate.0 as f64 / 1e3);
        let loss = self.loss();
        let mut best = (f64::NEG_INFINITY, self.channel);
        let candidates = CANDIDATES.iter().map(|factor| self.channel.bandwidth * factor).chain(acknowledged).chain([delay_based]);
        for bandwidth in candidates {
            let mut channel = Channel { inherent_loss: self.channel.inherent_loss, bandwidth: bandwidth.max(1.0) };
            self.newton(&mut channel);
            let score = self.score(&channel, loss);
            if score > best.0 {
                best = (score, channel);
            }
        }
        let mut channel = best.1;
        // More losses than the path has by itself: this is not the time to grow.
        if channel.bandwidth > self.channel.bandwidth && channel.inherent_loss < loss && loss > BOUND_LOSS {
            channel.bandwidth = self.channel.bandwidth;
        }
        if channel.bandwidth < self.channel.bandwidth {
            self.window = (now, channel.bandwidth);
        } else if loss > BOUND_LOSS {
            if now.since(self.window.0) >= GROWTH_WINDOW {
                self.window = (now, self.channel.bandwidth);
            }
            channel.bandwidth = channel.bandwidth.min(self.window.1 * GROWTH_MAX);
        }
        self.channel = channel;
        let bound = if loss > BOUND_LOSS { BOUND_KBPS / (loss - BOUND_LOSS) } else { f64::INFINITY };
        Bitrate((channel.bandwidth.min(bound.max(acknowledged.unwrap_or(0.0) * 0.5)).min(delay_based) * 1e3) as u64)
    }

    fn weighed(&self) -> impl Iterator<Item = (Observation, f64)> + '_ {
        self.observations.iter().rev().scan(1.0, |weight, kept| {
            let this = *weight;
            *weight *= WEIGHT;
            Some((Observation::of(*kept), this))
        })
    }

    /// One step towards the inherent loss that makes the observations most likely.
    fn newton(&self, channel: &mut Channel) {
        let (mut first, mut second) = (0.0, 0.0);
        for (seen, weight) in self.weighed() {
            let chance = chance(channel, seen.sent);
            let received = seen.packets - seen.lost;
            first += weight * (seen.lost / chance - received / (1.0 - chance));
            second -= weight * (seen.lost / (chance * chance) + received / ((1.0 - chance) * (1.0 - chance)));
        }
        if second < 0.0 {
            channel.inherent_loss -= NEWTON_STEP * first / second;
        }
        let most = (INHERENT_LOSS_OFFSET + INHERENT_LOSS_KBPS / channel.bandwidth).min(1.0);
        channel.inherent_loss = channel.inherent_loss.clamp(INHERENT_LOSS_MIN, most.max(INHERENT_LOSS_MIN));
    }

    /// Logarithm of the observations' likelihood, with the preference for bandwidth.
    fn score(&self, channel: &Channel, loss: f64) -> f64 {
        let preference = (1.0 - loss / BIAS_LOSS_MAX).max(0.0);
        let bias = preference * (BIAS * channel.bandwidth + BIAS_LOG * (1.0 + channel.bandwidth).ln());
        self.weighed()
            .map(|(seen, weight)| {
                let chance = chance(channel, seen.sent);
                weight * (seen.lost * chance.ln() + (seen.packets - seen.lost) * (1.0 - chance).ln() + bias * seen.packets)
            })
            .sum()
    }
}

/// That a packet is lost which is sent at a rate of `sent`.
fn chance(channel: &Channel, sent: f64) -> f64 {
    let excess = ((sent - channel.bandwidth) / sent.max(1.0)).max(0.0);
    (channel.inherent_loss + (1.0 - channel.inherent_loss) * excess).clamp(1e-6, 1.0 - 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of 1 Mb/s of which every `one_in`th packet is lost.
    fn after(seconds: u64, one_in: u64) -> Bitrate {
        let mut based = LossBased::new(Bitrate::kbps(1000));
        let mut target = Bitrate::kbps(1000);
        let mut packet = 0;
        for step in 0..seconds * 10 {
            let now = Micros::from_millis(1000 + step * 100);
            for index in 0..10 {
                packet += 1;
                based.packet(now + Micros(index * 9_600), 1200, packet % one_in == 0);
            }
            target = based.estimate(Bitrate::kbps(1500), Some(Bitrate::kbps(1000)), now);
        }
        target
    }

    #[test]
    fn no_loss_binds_nothing_and_a_little_is_inherent() {
        assert_eq!(after(10, u64::MAX), Bitrate::kbps(1500));
        assert!(after(20, 50) >= Bitrate::kbps(1000), "2 % are a radio link: {:?}", after(20, 50));
    }

    #[test]
    fn heavy_loss_is_a_full_path() {
        assert!(after(10, 4) <= Bitrate::kbps(600), "{:?}", after(10, 4));
        assert!(after(10, 2) <= after(10, 4));
    }
}
