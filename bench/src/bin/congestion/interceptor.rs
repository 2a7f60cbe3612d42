//! The crate rtc-interceptor's `Gcc`, to compare with. It does not probe.

use std::time::{Duration, Instant};

use distributary::rtp::gcc::Outcome;
use rtc_interceptor::{Acknowledgement, BandwidthEstimator, Gcc, PacketReport};

use crate::path::Time;
use crate::sender;

pub struct Control {
    gcc: Gcc,
    epoch: Instant,
    next: u64,
}

impl Control {
    pub fn new() -> Self {
        let gcc = Gcc::new(sender::START as f64, sender::MIN as f64, sender::MAX as f64);
        Control { gcc, epoch: Instant::now(), next: 0 }
    }
}

impl sender::Control for Control {
    fn feedback(&mut self, outcomes: &[Outcome], _: Time, now: Time) {
        let at = |time: Time| self.epoch + Duration::from_micros(time);
        let reports: Vec<PacketReport> = outcomes
            .iter()
            .zip(self.next..)
            .map(|(outcome, id)| PacketReport {
                ssrc: 1,
                id,
                rtp_sequence_number: id as u16,
                is_twcc: true,
                twcc_sequence_number: id as u16,
                size: outcome.bytes,
                arrived: outcome.arrived.is_some(),
                departure: at(outcome.sent.0),
                arrival: outcome.arrived.map(|arrived| Duration::from_micros(arrived.0)),
                // The type's name is not exported: what stands for a path without marks.
                ecn: Acknowledgement::lost(id as u16).ecn,
            })
            .collect();
        self.next += reports.len() as u64;
        self.gcc.on_reports(at(now), &reports);
    }

    fn target(&self) -> u64 {
        self.gcc.target_bitrate() as u64
    }
}
