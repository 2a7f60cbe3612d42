//! The portable backend, on quinn-udp: recvmmsg into arena slots, poll(2) to wait.
//!
//! Generic receive offload stays off ([`super`] has the measurement): datagrams lie in their slots as with io_uring, without a
//! copy.

use std::array;
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};

use super::outgoing::Outgoing;
use super::socket::set_option;
use super::{IoError, Received, STARVED_WAIT, Waker, address, receive_limit};
use crate::limits::{DATAGRAM_BYTES_MAX, HEADROOM_BYTES};
use crate::mem::{PacketMut, Slots};
use crate::metrics::{Counter, DropReason, WorkerMetrics};

/// One byte more than is accepted, which tells a datagram of the largest size from one that was cut to it.
const BUFFER_BYTES: usize = DATAGRAM_BYTES_MAX + 1;

pub struct Mmsg {
    pub(super) socket: UdpSocket,
    state: UdpSocketState,
    pub(super) slots: Slots,
    /// Slots that the next recvmmsg may fill.
    empty: ArrayVec<PacketMut, BATCH_SIZE>,
    starved: bool,
    pub(super) outgoing: Outgoing,
    pub(super) wake: Waker,
    pub(super) base: Instant,
}

impl Mmsg {
    pub(super) fn open(socket: UdpSocket, slots: Slots, base: Instant) -> Result<Mmsg, IoError> {
        let option = |name| move |error| IoError::Option { name, error };
        let ipv6 = socket.local_addr().map_err(option("local address"))?.is_ipv6();
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).map_err(option("of quinn-udp"))?;
        // quinn-udp asks for receive offload (see above) and for control data with every datagram that nobody reads here.
        for (level, name) in [
            (libc::SOL_UDP, libc::UDP_GRO),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
            (libc::IPPROTO_IP, libc::IP_RECVTOS),
            (libc::IPPROTO_IP, libc::IP_PKTINFO),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        ] {
            if level != libc::IPPROTO_IPV6 || ipv6 {
                // What a kernel does not know is off.
                let _ = set_option(socket.as_raw_fd(), level, name, 0);
            }
        }
        let wake = Waker::new().map_err(option("eventfd"))?;
        let outgoing = Outgoing::new(socket.as_raw_fd(), ipv6);
        Ok(Mmsg { socket, state, slots, empty: ArrayVec::new(), starved: false, outgoing, wake, base })
    }

    pub(super) fn receive(&mut self, into: &mut Vec<Received>, wait: Duration, metrics: &WorkerMetrics) {
        let before = into.len();
        self.drain_socket(into, metrics);
        if into.len() == before && !wait.is_zero() {
            self.sleep(wait, metrics);
            self.drain_socket(into, metrics);
        }
        self.wake.clear_sleeping();
    }

    /// Receives until the socket is empty or `into` full.
    pub(super) fn drain_socket(&mut self, into: &mut Vec<Received>, metrics: &WorkerMetrics) {
        let limit = receive_limit(into);
        while into.len() < limit {
            let wanted = BATCH_SIZE.min(limit - into.len());
            self.take_slots(metrics);
            let wanted = wanted.min(self.empty.len());
            if wanted == 0 {
                return;
            }
            let mut meta: [RecvMeta; BATCH_SIZE] = array::from_fn(|_| RecvMeta::default());
            let mut buffers: ArrayVec<IoSliceMut<'_>, BATCH_SIZE> = ArrayVec::new();
            for packet in &mut self.empty[..wanted] {
                buffers.push(IoSliceMut::new(&mut packet.slot_mut()[HEADROOM_BYTES..HEADROOM_BYTES + BUFFER_BYTES]));
            }
            // An error other than "nothing there" concerns one datagram or the interface; either way the next turn tries again.
            let Ok(count) = self.state.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut meta) else { return };
            drop(buffers);
            accept(self.empty.drain(..count), &meta, into, metrics);
            if count < wanted {
                return;
            }
        }
    }

    /// Fills `empty` up. Counts once when there is nothing left to receive into.
    fn take_slots(&mut self, metrics: &WorkerMetrics) {
        while !self.empty.is_full()
            && let Some(packet) = self.slots.take()
        {
            self.empty.push(packet);
        }
        let starved = self.empty.is_empty();
        if starved && !self.starved {
            metrics.count_drop(DropReason::ArenaExhausted);
        }
        self.starved = starved;
    }

    fn sleep(&mut self, wait: Duration, metrics: &WorkerMetrics) {
        // Without a slot, a readable socket is no reason to get up.
        let (socket, wait) = if self.starved { (-1, wait.min(STARVED_WAIT)) } else { (self.socket.as_raw_fd(), wait) };
        let mut fds = [socket, self.wake.event()].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let time = libc::timespec { tv_sec: wait.as_secs() as libc::time_t, tv_nsec: wait.subsec_nanos() as libc::c_long };
        // Interrupted or not, the worker goes on with its turn.
        // SAFETY: `fds` holds the given number of live entries, `time` is live, a null mask is allowed.
        unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const time, std::ptr::null()) };
        if fds[1].revents != 0 && self.wake.drain() {
            metrics.add(Counter::Wakeups, 1);
        }
    }

    /// Slots that are free or laid ready: all that no packet holds.
    #[cfg(test)]
    pub(super) fn free_slots(&mut self) -> usize {
        self.slots.available() + self.empty.len()
    }
}

/// Turns filled slots into received datagrams; what is not accepted gives its slot back.
fn accept(filled: impl Iterator<Item = PacketMut>, meta: &[RecvMeta], into: &mut Vec<Received>, metrics: &WorkerMetrics) {
    let (mut datagrams, mut bytes) = (0, 0);
    for (mut packet, meta) in filled.zip(meta) {
        datagrams += 1;
        match meta.len {
            0 => metrics.count_drop(DropReason::Empty),
            BUFFER_BYTES.. => metrics.count_drop(DropReason::Oversize),
            len => {
                bytes += len as u64;
                packet.set_range(HEADROOM_BYTES, len);
                into.push(Received { packet, from: address::canonical(meta.addr) });
            }
        }
    }
    metrics.add(Counter::DatagramsReceived, datagrams);
    metrics.add(Counter::BytesReceived, bytes);
}
