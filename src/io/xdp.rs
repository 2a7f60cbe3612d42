//! The AF_XDP backend: frames of one interface straight from its receive queues into the arena, and from the arena out of it,
//! past the kernel's network stack.
//!
//! ```text
//!   interface ─► program (xdp/) ─► AF_XDP socket of the queue ─► slot of the arena ─► worker: opened in place
//!                   │ not ours                                                          │ sealed into another slot
//!                   ▼                                                                   ▼
//!              the kernel ───────► the worker's ordinary socket      headers known? ─ yes ─► headers before it ─► interface
//!                                          ▲                              │ no
//!                                          └──────────────────────────────┘
//! ```
//!
//! - **Queues.** Each receive queue of the interface has a socket ([`socket`]), and workers take queues in turn. A worker may
//!   have several; it sends by the first. A worker without one has ordinary I/O.
//! - **The ordinary socket stays.** It keeps the port bound, receives what comes by other interfaces, and sends to whomever no
//!   headers are known for: who is not behind this interface, or not found yet, and what is too long for it. So nothing is lost
//!   for want of headers, and nobody has to wait for them. Headers come from the [`guide`], on a thread of its own; what it asks
//!   the kernel is in [`routes`].
//! - **Memory.** The arena is registered with the kernel (and so locked: [`ARENA_SLOTS`](crate::limits::ARENA_SLOTS) slots a
//!   worker). A frame lies in one slot from the device to the last of its readers. Those to be sent are written by the packet
//!   path where they leave from: [`SendBatch::of_frames`](crate::mem::SendBatch::of_frames).
//! - **Syscalls.** None to receive while frames come; one to send some 32 frames in copy mode, the kernel's own measure, or one
//!   a batch with zero-copy; one to sleep. The ordinary socket is looked at when a wait says so, and now and then when there is
//!   no waiting.
//! - **Modes.** Zero-copy where the driver has it, else the driver hands frames over by copying, else the program runs in the
//!   kernel's stack ("generic") and works with every Ethernet device.
//! - **What it goes past.** Firewall rules, traffic control, packet captures and connection tracking of the kernel see neither
//!   direction of this traffic. A client reached through a tunnel, a bridge or a bond on top of the interface is sent to by the
//!   socket; VLAN devices on top of it are understood.
//! - **Bounded**: `XDP_…` in [`limits`](crate::limits) says what happens when what is full.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::tally::Tally;
use super::{IoError, Mmsg, Received, STARVED_WAIT, Waker, receive_limit};
use crate::limits::{HEADROOM_BYTES, XDP_QUEUES, XDP_SEND_FRAMES};
use crate::mem::{PacketMut, SendBatch, Slots};
use crate::metrics::{Counter, DropReason, WorkerMetrics};

mod frame;
mod guide;
mod netlink;
mod peers;
mod program;
mod ring;
mod routes;
mod socket;

pub use guide::Guide;
use peers::{Desk, Peers};
pub use program::Hook;
use program::Program;
use ring::Descriptor;
use routes::{Link, Routes};
pub use socket::Transfer;
use socket::{Place, Statistics, Xsk, slot_address, slot_of};

/// While frames keep coming, the ordinary socket is looked at once in so many turns.
const SOCKET_TURNS: u32 = 16;

/// An interface with the program attached, whose sockets are being opened.
pub struct Interface {
    name: String,
    index: u32,
    queues: u32,
    program: Program,
    routes: Routes,
    transfer: Option<Transfer>,
    desks: Vec<Desk>,
    statistics: Vec<Statistics>,
    generation: Arc<AtomicU32>,
    local: SocketAddr,
    wake: Waker,
}

/// The AF_XDP sockets of one worker, and its table of clients.
pub struct Queues {
    sockets: Vec<Xsk>,
    peers: Peers,
    batch: SendBatch,
    interface: u32,
}

impl Interface {
    /// Attaches the program to the interface of that name, for media at `local`. Everything still goes to the kernel.
    pub fn attach(name: &str, local: SocketAddr) -> Result<Interface, IoError> {
        let failed =
            |step| move |error: std::io::Error| IoError::Xdp { interface: name.to_owned(), step, reason: error.to_string() };
        let links =
            routes::links(&mut netlink::Netlink::open(0).map_err(failed("open rtnetlink"))?).map_err(failed("list interfaces"))?;
        let Some((&index, link)) = links.iter().find(|(_, link)| link.name == name) else {
            let mut there: Vec<String> = links.into_values().filter(|link| link.ethernet).map(|link| link.name).collect();
            there.sort();
            return Err(IoError::NoInterface { name: name.to_owned(), there });
        };
        usable(link).map_err(|reason| IoError::Xdp { interface: name.to_owned(), step: "use the interface", reason })?;
        let routes = Routes::open(index, local).map_err(failed("read routes"))?;
        let program = Program::attach(index, local.port()).map_err(|failure| IoError::Xdp {
            interface: name.to_owned(),
            step: failure.step,
            reason: failure.reason,
        })?;
        let wake = Waker::new().map_err(failed("make an eventfd"))?;
        let queues = super::probe::receive_queues(name).unwrap_or(link.queues).clamp(1, XDP_QUEUES as u32);
        Ok(Interface {
            name: name.to_owned(),
            index,
            queues,
            program,
            routes,
            transfer: None,
            desks: Vec::new(),
            statistics: Vec::new(),
            generation: Arc::new(AtomicU32::new(1)),
            local,
            wake,
        })
    }

    /// Opens the sockets of one of `workers` workers over its arena; none if there is no queue left for it. To be called for
    /// each worker, in order. After an error this is to be dropped; slots that opened sockets had do not come back.
    pub fn open(&mut self, worker: usize, workers: usize, slots: &mut Slots) -> Result<Option<Queues>, IoError> {
        let own = (worker as u32..self.queues).step_by(workers);
        // All queues of a worker together leave three quarters of the arena to packets on their way.
        let share = slots.arena().slots() / 4 / own.len().max(1);
        let mut sockets: Vec<Xsk> = Vec::new();
        for queue in own {
            let socket = self.open_socket(Place { interface: self.index, queue, share }, sockets.first(), slots)?;
            self.program.serve(queue, socket.fd()).map_err(|failure| self.error(failure.step, failure.reason))?;
            let statistics = socket.statistics().map_err(|error| self.error("duplicate a descriptor", error.to_string()))?;
            self.statistics.push(statistics);
            sockets.push(socket);
        }
        if sockets.is_empty() {
            return Ok(None);
        }
        let batch = SendBatch::of_frames(slots, XDP_SEND_FRAMES)
            .ok_or_else(|| self.error("set slots of the arena apart", "it is too small".to_owned()))?;
        let (peers, desk) = Peers::new(self.generation.clone(), self.wake.clone());
        self.desks.push(desk);
        Ok(Some(Queues { sockets, peers, batch, interface: self.index }))
    }

    /// The best way that works is found with the first socket; the others follow.
    fn open_socket(&mut self, place: Place, first: Option<&Xsk>, slots: &mut Slots) -> Result<Xsk, IoError> {
        if let Some(transfer) = self.transfer {
            return Xsk::open(place, transfer, first, slots).map_err(|(step, error)| self.error(step, error.to_string()));
        }
        let native = [Transfer::ZeroCopy, Transfer::Copy].into_iter().filter(|_| self.program.hook == Hook::Native);
        for transfer in native {
            if let Ok(socket) = Xsk::open(place, transfer, None, slots) {
                self.transfer = Some(transfer);
                return Ok(socket);
            }
        }
        if self.program.hook == Hook::Native {
            self.program.make_generic().map_err(|failure| self.error(failure.step, failure.reason))?;
        }
        let socket = Xsk::open(place, Transfer::Copy, None, slots).map_err(|(step, error)| self.error(step, error.to_string()))?;
        self.transfer = Some(Transfer::Copy);
        Ok(socket)
    }

    fn error(&self, step: &'static str, reason: String) -> IoError {
        IoError::Xdp { interface: self.name.clone(), step, reason }
    }

    /// For the operator.
    pub fn description(&self) -> String {
        let hook = match self.program.hook {
            Hook::Native => "native",
            Hook::Generic => "generic",
        };
        let transfer = match self.transfer {
            Some(Transfer::ZeroCopy) => "zero-copy",
            _ => "copy",
        };
        let plural = if self.queues == 1 { "" } else { "s" };
        format!("AF_XDP on {}, {} queue{plural}, {hook} mode, {transfer}", self.name, self.queues)
    }

    /// What the operator should know when there are more workers than queues.
    pub fn warning(&self, workers: usize) -> Option<String> {
        let idle = workers.saturating_sub(self.queues as usize);
        (idle > 0).then(|| {
            format!(
                "{idle} of {workers} workers have no queue of {}: they serve only what comes by other interfaces. Give it more queues \
                 (ethtool -L {} combined {workers}) or use fewer workers",
                self.name, self.name
            )
        })
    }

    /// What is left when all sockets are open. The program stays attached as long as the guide lives.
    pub fn guide(self, metrics: Arc<WorkerMetrics>, workers: Vec<Arc<WorkerMetrics>>) -> Guide {
        let Interface { program, routes, desks, statistics, generation, local, wake, .. } = self;
        let parts = guide::Parts { program, routes, desks, statistics, generation, local: local.ip(), wake };
        Guide::new(parts, metrics, workers)
    }
}

fn usable(link: &Link) -> Result<(), String> {
    match link {
        Link { ethernet: false, .. } => Err("it is no Ethernet device".to_owned()),
        Link { busy: true, name, .. } => {
            Err(format!("another XDP program is attached to it; if it is not needed: ip link set dev {name} xdp off"))
        }
        _ => Ok(()),
    }
}

/// See the module.
pub struct Xdp {
    sockets: Vec<Xsk>,
    peers: Peers,
    /// Until the worker takes it.
    batch: Option<SendBatch>,
    interface: u32,
    /// The ordinary socket, and the slots.
    pub(super) mmsg: Mmsg,
    /// What a wait is for: the eventfd, the ordinary socket, the AF_XDP sockets.
    waits: Vec<libc::pollfd>,
    turns: u32,
    /// Some fill ring is not full: no slot was free.
    starved: bool,
}

impl Xdp {
    /// Takes over the sockets of [`Interface::open`], the arena they lie over, and the worker's ordinary socket.
    pub fn new(queues: Queues, socket: UdpSocket, slots: Slots, base: Instant) -> Result<Xdp, IoError> {
        let mmsg = Mmsg::open(socket, slots, base)?;
        let Queues { sockets, peers, batch, interface } = queues;
        let fds = [mmsg.wake.event(), mmsg.socket.as_raw_fd()].into_iter().chain(sockets.iter().map(Xsk::fd));
        let waits = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        Ok(Xdp { sockets, peers, batch: Some(batch), interface, mmsg, waits, turns: 0, starved: false })
    }

    /// The batch to send by, once.
    pub(super) fn take_batch(&mut self) -> Option<SendBatch> {
        self.batch.take()
    }

    pub(super) fn receive(&mut self, into: &mut Vec<Received>, mut wait: Duration, metrics: &WorkerMetrics) {
        let before = into.len();
        self.turns = self.turns.wrapping_add(1);
        if !self.sockets[0].flush() || self.starved {
            wait = wait.min(STARVED_WAIT);
        }
        self.take_frames(into, metrics);
        let idle = into.len() == before;
        let mut look = self.turns.is_multiple_of(SOCKET_TURNS) || (idle && wait.is_zero());
        if idle && !wait.is_zero() {
            look |= self.sleep(wait, metrics);
            self.take_frames(into, metrics);
        }
        if look {
            self.mmsg.drain_socket(into, metrics);
        }
        self.mmsg.wake.clear_sleeping();
    }

    /// Takes frames from all receive rings, as far as `into` has room, and gives the kernel free slots for them.
    fn take_frames(&mut self, into: &mut Vec<Received>, metrics: &WorkerMetrics) {
        let limit = receive_limit(into);
        let before = into.len();
        let mut bytes = 0;
        let queues = self.sockets.len();
        let mut starved = false;
        for queue in 0..queues {
            // Another one first in each turn: when `into` is full the last ones go without.
            let socket = &mut self.sockets[(queue + self.turns as usize) % queues];
            while into.len() < limit
                && let Some(frame) = socket.pop()
            {
                let (slot, at) = slot_of(frame.address);
                // SAFETY: `refill` gave the slot out by `into_slot`, and the kernel gives each back once.
                let mut packet = unsafe { PacketMut::from_slot(self.mmsg.slots.arena(), slot) };
                let whole = packet.slot_mut().get(at..at + frame.len as usize);
                let Some((from, datagram)) = whole.and_then(|frame| frame::parse(frame, self.interface)) else {
                    // The program lets nothing else through; still, no frame is trusted.
                    metrics.count_drop(DropReason::UnknownProtocol);
                    continue;
                };
                bytes += datagram.len() as u64;
                packet.set_range(at + datagram.start, datagram.len());
                into.push(Received { packet, from });
            }
            starved |= !socket.refill(&mut self.mmsg.slots);
        }
        if starved && !self.starved {
            metrics.count_drop(DropReason::ArenaExhausted);
        }
        self.starved = starved;
        let datagrams = (into.len() - before) as u64;
        if datagrams > 0 {
            metrics.add(Counter::DatagramsReceived, datagrams);
            metrics.add(Counter::BytesReceived, bytes);
            metrics.add(Counter::XdpReceived, datagrams);
        }
    }

    /// Waits for a frame, a datagram or the waker. True if the ordinary socket has something.
    fn sleep(&mut self, wait: Duration, metrics: &WorkerMetrics) -> bool {
        poll(&mut self.waits, wait);
        if self.waits[0].revents != 0 && self.mmsg.wake.drain() {
            metrics.add(Counter::Wakeups, 1);
        }
        self.waits[1].revents != 0
    }

    pub(super) fn send(&mut self, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        let (peers, socket) = (&mut self.peers, &mut self.sockets[0]);
        let mut tally = Tally::default();
        let mut sent = 0;
        peers.update();
        batch.hand_out(|operation, slot| {
            let len = operation.len as usize;
            let Some(headers) = peers.headers(operation.to).filter(|headers| headers.fits(len)) else { return false };
            let left = socket.leaves_checksum(len);
            let frame = headers.write(slot, HEADROOM_BYTES..HEADROOM_BYTES + len, left);
            let options = if left { Xsk::leave_checksum(slot, frame.start, HEADROOM_BYTES - frame::UDP) } else { 0 };
            let address = slot_address(operation.slot()) + frame.start as u64;
            // With no room, which means that the device is far behind, the kernel may queue it or not.
            if socket.send.push(Descriptor { address, len: frame.len() as u32, options }).is_err() {
                return false;
            }
            tally.accepted(1, len);
            sent += 1;
            true
        });
        socket.send.publish();
        socket.flush();
        socket.reclaim(batch);
        peers.send_questions();
        tally.count(metrics);
        metrics.add(Counter::XdpSent, sent);
        let lost = batch.lost();
        if lost > 0 {
            metrics.count_drops(DropReason::SendFailed, lost);
        }
        if !batch.is_empty() {
            self.mmsg.outgoing.send(batch, metrics);
        }
    }
}

/// poll(2); what came of it is in the entries. Interrupted or not, the caller goes on.
fn poll(fds: &mut [libc::pollfd], wait: Duration) {
    let time = libc::timespec { tv_sec: wait.as_secs() as libc::time_t, tv_nsec: wait.subsec_nanos() as libc::c_long };
    // A poll that fails writes nothing.
    fds.iter_mut().for_each(|fd| fd.revents = 0);
    // SAFETY: `fds` holds the given number of live entries, `time` is live, a null mask is allowed.
    unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const time, std::ptr::null()) };
}
