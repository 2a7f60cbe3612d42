//! A network of queues, for the simulator and for tests of the worker: time is what it is set to, nothing waits.
//!
//! Trains come out as the datagrams that a network would carry. Buffers are kept and used again, so a run that takes
//! [`Fake::outbound`] and gives the buffers to [`Fake::recycle`] allocates nothing once it is warm.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::tally::Tally;
use super::{Received, Waker, address, receive_limit};
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::mem::{SendBatch, Slots};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::units::Micros;

/// Datagrams that each queue and the store of spare buffers hold without allocating.
const QUEUE: usize = 4096;

pub struct Fake {
    pub(super) slots: Slots,
    /// What has arrived and was not received yet: source, datagram.
    inbound: VecDeque<(SocketAddr, Vec<u8>)>,
    /// What was sent: destination, datagram. The simulator takes from it.
    pub outbound: Vec<(SocketAddr, Vec<u8>)>,
    /// What [`super::Io::now`] says.
    pub now: Micros,
    /// What [`super::Io::cpu_time`] says.
    pub cpu_time: Micros,
    spare: Vec<Vec<u8>>,
    pub(super) wake: Waker,
}

impl Fake {
    pub fn new(slots: Slots) -> Fake {
        Fake {
            slots,
            inbound: VecDeque::with_capacity(QUEUE),
            outbound: Vec::with_capacity(QUEUE),
            now: Micros::ZERO,
            cpu_time: Micros::ZERO,
            spare: (0..QUEUE).map(|_| Vec::with_capacity(DATAGRAM_BYTES_MAX)).collect(),
            wake: Waker::silent(),
        }
    }

    /// A datagram arrives.
    pub fn deliver(&mut self, from: SocketAddr, datagram: &[u8]) {
        let buffer = self.buffer(datagram);
        self.inbound.push_back((address::canonical(from), buffer));
    }

    /// Datagrams that arrived and were not received yet.
    pub fn waiting(&self) -> usize {
        self.inbound.len()
    }

    /// Gives a buffer taken from [`Fake::outbound`] back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < self.spare.capacity() {
            self.spare.push(buffer);
        }
    }

    fn buffer(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        buffer
    }

    pub(super) fn receive(&mut self, into: &mut Vec<Received>, metrics: &WorkerMetrics) {
        let limit = receive_limit(into);
        while into.len() < limit && !self.inbound.is_empty() {
            // As with a socket: without a free slot, datagrams wait where they are.
            let Some(mut packet) = self.slots.take() else {
                metrics.count_drop(DropReason::ArenaExhausted);
                break;
            };
            let Some((from, datagram)) = self.inbound.pop_front() else { break };
            metrics.add(Counter::DatagramsReceived, 1);
            match datagram.len() {
                0 => metrics.count_drop(DropReason::Empty),
                len if len > DATAGRAM_BYTES_MAX => metrics.count_drop(DropReason::Oversize),
                len => {
                    metrics.add(Counter::BytesReceived, len as u64);
                    packet.fill(&datagram);
                    into.push(Received { packet, from });
                }
            }
            self.recycle(datagram);
        }
        self.wake.clear_sleeping();
    }

    pub(super) fn send(&mut self, batch: &SendBatch, metrics: &WorkerMetrics) {
        let mut tally = Tally::default();
        for operation in batch.operations() {
            let bytes = batch.bytes(operation);
            for datagram in bytes.chunks(operation.segment.max(1) as usize) {
                let buffer = self.buffer(datagram);
                self.outbound.push((operation.to, buffer));
            }
            tally.accepted(operation.segments as usize, bytes.len());
        }
        tally.count(metrics);
    }
}
