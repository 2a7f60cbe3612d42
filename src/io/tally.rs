//! What became of a batch, and whether trains (UDP_SEGMENT) may be used. Used by `outgoing`.

use crate::metrics::{Counter, DropReason, WorkerMetrics};

/// Trains that go out as single datagrams after the kernel refused one, before a whole train is tried again. The refusal
/// depends on the outgoing device, so one strange route must not slow all the others down for ever.
const TRAINS_SPLIT: u32 = 1 << 16;

/// Counts of one batch, written to the metrics once at its end.
#[derive(Default)]
pub(super) struct Tally {
    operations: u64,
    datagrams: u64,
    bytes: u64,
    refused: u64,
}

impl Tally {
    pub(super) fn accepted(&mut self, datagrams: usize, bytes: usize) {
        self.operations += 1;
        self.datagrams += datagrams as u64;
        self.bytes += bytes as u64;
    }

    pub(super) fn refused(&mut self, datagrams: usize) {
        self.refused += datagrams as u64;
    }

    pub(super) fn count(self, metrics: &WorkerMetrics) {
        metrics.add(Counter::SendOperations, self.operations);
        metrics.add(Counter::DatagramsSent, self.datagrams);
        metrics.add(Counter::BytesSent, self.bytes);
        if self.refused > 0 {
            metrics.count_drops(DropReason::SendFailed, self.refused);
        }
    }
}

/// Whether a train may go to the kernel whole.
#[derive(Default)]
pub(super) struct Trains {
    /// Trains still to be split.
    split: u32,
}

impl Trains {
    /// Asked once for each train.
    pub(super) fn whole(&mut self) -> bool {
        if self.split == 0 {
            return true;
        }
        self.split -= 1;
        false
    }

    /// A train was refused whose datagrams pass one by one.
    pub(super) fn suspend(&mut self) {
        self.split = TRAINS_SPLIT;
    }

    pub(super) fn in_use(&self) -> bool {
        self.split == 0
    }

    /// Errors by which the kernel says that the outgoing device cannot cut a train: EIO for one without checksum offload,
    /// EINVAL from some drivers. Older kernels also say EINVAL of segments above the MTU, so the datagrams are tried one by
    /// one before trains are given up.
    pub(super) fn blamed(errno: i32) -> bool {
        matches!(errno, libc::EIO | libc::EINVAL)
    }
}
