//! A media sender that is told what to send by a congestion control, and its receiver: frames, a pacer, probes of padding,
//! transport-wide feedback. The control is what is compared; all else is the same for all.

use std::collections::VecDeque;

use distributary::rtp::gcc::probe::Cluster;
use distributary::rtp::gcc::{Estimator, Outcome};
use distributary::units::{Bitrate, Micros};

use crate::encoder::{Encoder, FRAME_INTERVAL, Layers};
use crate::path::{MILLISECOND, SECOND, Time};
use crate::sim::{Datagram, End, Flow};

/// Bits per second: where every control begins, and its bounds.
pub const START: u64 = 300_000;
pub const MIN: u64 = 30_000;
pub const MAX: u64 = 10_000_000;
/// With the headers of IP and UDP.
const PACKET: usize = 1200;
const FEEDBACK_INTERVAL: Time = 50 * MILLISECOND;
const FEEDBACK_BYTES: usize = 100;
/// Packets of a frame leave so many times as fast as the target: libwebrtc's pacing factor.
const PACING: f64 = 2.5;
/// The sender has too little to send when it sends less than this part of the target (libwebrtc's `alr_detector.cc`).
const IDLE_BELOW: f64 = 0.65;
const IDLE_WINDOW: u64 = 15;

/// A congestion control.
pub trait Control {
    /// What became of packets, in the order of sending.
    fn feedback(&mut self, outcomes: &[Outcome], round_trip: Time, now: Time);
    fn target(&self) -> u64;
    fn probe(&mut self) -> Option<Cluster> {
        None
    }
    fn set_idle(&mut self, _idle: bool) {}
}

pub struct Ours(Estimator);

impl Ours {
    pub fn new(now: Time) -> Self {
        Ours(Estimator::new(Bitrate(START), Bitrate(MIN), Bitrate(MAX), Micros(now)))
    }
}

impl Control for Ours {
    fn feedback(&mut self, outcomes: &[Outcome], round_trip: Time, now: Time) {
        self.0.feedback(outcomes.iter().copied(), Micros(round_trip), Micros(now));
    }

    fn target(&self) -> u64 {
        self.0.target().0
    }

    fn probe(&mut self) -> Option<Cluster> {
        self.0.probe()
    }

    fn set_idle(&mut self, idle: bool) {
        self.0.set_idle(idle);
    }
}

pub struct Sender<C> {
    control: C,
    encoder: Encoder,
    next_frame: Time,
    /// Bytes of packets that wait for the pacer.
    paced: VecDeque<usize>,
    next_packet: Time,
    /// The probe that is being sent, and packets and bytes of it that were.
    probe: Option<(Cluster, u32, usize)>,
    /// Media of the last frames, for the idle test.
    frames: VecDeque<usize>,
    next_key: u64,
    /// Packets that nothing was heard of; the first one's number is `next_key` less their number.
    under_way: VecDeque<Outcome>,
    /// At the receiver: what has come since the last feedback, and when the next one is due.
    arrived: Vec<(u64, Time)>,
    next_feedback: Time,
    /// Feedback under way, in order.
    reports: VecDeque<Vec<(u64, Time)>>,
}

impl<C: Control> Sender<C> {
    pub fn new(control: C, layers: Layers, start: Time, seed: u64) -> Self {
        Sender {
            control,
            encoder: Encoder::new(layers, seed),
            next_frame: start,
            paced: VecDeque::new(),
            next_packet: start,
            probe: None,
            frames: VecDeque::new(),
            next_key: 0,
            under_way: VecDeque::new(),
            arrived: Vec::new(),
            next_feedback: Time::MAX,
            reports: VecDeque::new(),
        }
    }

    fn has_packets(&self) -> bool {
        !self.paced.is_empty() || self.probe.is_some()
    }

    fn frame(&mut self, now: Time) {
        self.next_frame = now + FRAME_INTERVAL;
        let mut bytes = self.encoder.frame(self.control.target());
        self.frames.push_back(bytes);
        if self.frames.len() as u64 > IDLE_WINDOW {
            self.frames.pop_front();
            let rate = self.frames.iter().sum::<usize>() as u64 * 8 * SECOND / (IDLE_WINDOW * FRAME_INTERVAL);
            self.control.set_idle((rate as f64) < IDLE_BELOW * self.control.target() as f64);
        }
        if !self.has_packets() {
            self.next_packet = self.next_packet.max(now);
        }
        while bytes > 0 {
            let packet = bytes.min(PACKET);
            self.paced.push_back(packet);
            bytes -= packet;
        }
    }

    fn packet(&mut self, now: Time, out: &mut Vec<Datagram>) {
        let media = self.paced.pop_front();
        let bytes = media.unwrap_or(PACKET);
        let (mut rate, mut cluster) = (PACING * self.control.target() as f64, 0);
        if let Some((probe, packets, sent)) = &mut self.probe {
            (rate, cluster) = (probe.rate.0 as f64, probe.id);
            *packets += 1;
            *sent += bytes;
            if *packets >= probe.packets && *sent >= probe.bytes {
                self.probe = None;
            }
        }
        self.next_packet = now + (bytes as f64 * 8.0 * SECOND as f64 / rate) as Time + 1;
        self.under_way.push_back(Outcome { sent: Micros(now), arrived: None, bytes, cluster });
        out.push(Datagram { to: End::Receiver, bytes, key: self.next_key, media: media.is_some() });
        self.next_key += 1;
    }

    fn take_probe(&mut self, now: Time) {
        if self.probe.is_none() {
            self.probe = self.control.probe().map(|probe| (probe, 0, 0));
            if self.probe.is_some() {
                self.next_packet = now;
            }
        }
    }

    fn report(&mut self, now: Time) {
        let Some(report) = self.reports.pop_front() else { return };
        let Some((last, _)) = report.last().copied() else { return };
        let first = self.next_key - self.under_way.len() as u64;
        for (key, at) in &report {
            self.under_way[(key - first) as usize].arrived = Some(Micros(*at));
        }
        let outcomes: Vec<Outcome> = self.under_way.drain(..=(last - first) as usize).collect();
        let round_trip = outcomes.last().map_or(0, |outcome| now - outcome.sent.0);
        self.control.feedback(&outcomes, round_trip, now);
    }
}

impl<C: Control> Flow for Sender<C> {
    fn due(&self) -> Time {
        let packet = if self.has_packets() { self.next_packet } else { Time::MAX };
        self.next_frame.min(packet).min(self.next_feedback)
    }

    fn timeout(&mut self, now: Time, out: &mut Vec<Datagram>) {
        if now >= self.next_frame {
            self.frame(now);
            self.take_probe(now);
        }
        if self.has_packets() && now >= self.next_packet {
            self.packet(now, out);
        }
        if now >= self.next_feedback {
            self.next_feedback = Time::MAX;
            self.reports.push_back(std::mem::take(&mut self.arrived));
            out.push(Datagram { to: End::Sender, bytes: FEEDBACK_BYTES, key: 0, media: false });
        }
    }

    fn arrive(&mut self, now: Time, to: End, key: u64, _: &mut Vec<Datagram>) {
        match to {
            End::Receiver => {
                self.arrived.push((key, now));
                if self.next_feedback == Time::MAX {
                    self.next_feedback = now + FEEDBACK_INTERVAL;
                }
            }
            End::Sender => {
                self.report(now);
                self.take_probe(now);
            }
        }
    }

    fn target(&self) -> u64 {
        self.control.target()
    }
}
