//! The io_uring backend (Linux 6.0 or later).
//!
//! ```text
//!   Slots ──take──► buffer ring ──► kernel: one multishot recvmsg ──► completions ──► pending ──► PacketMut in its slot
//! ```
//!
//! **Receive.** A single request stays with the kernel and fills one buffer of the ring for each datagram. The buffers are arena
//! slots and a buffer's number is its slot's, so nothing is copied and nothing is looked up. The kernel writes its header and
//! the source address just before [`HEADROOM_BYTES`], the datagram begins there. When the ring is empty the request ends
//! (ENOBUFS) and datagrams wait in the socket; the next `receive` that finds slots starts it again. So does it after an
//! empty datagram, which ends the request too.
//!
//! **Wake.** A multishot poll of the eventfd, edge-triggered: every write makes a completion, and nobody has to read it.
//!
//! A socket that is to be polled busily ([`busy_poll`]) has its ring do so while it waits (6.9).
//!
//! With deferred task work (6.1) the kernel does nothing between two calls that would disturb the worker, and a flag in shared
//! memory says whether there is anything to collect: a `receive` that finds nothing costs no syscall.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fixed, Napi, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, cqueue, opcode};

use super::address::{self, NAME_BYTES};
use super::buffers::BufferRing;
use super::busy_poll;
use super::outgoing::Outgoing;
use super::{IoError, Received, STARVED_WAIT, Waker, receive_limit};
use crate::limits::{DATAGRAM_BYTES_MAX, HEADROOM_BYTES, RECV_BUFFERS, SLOT_BYTES};
use crate::mem::{PacketMut, Slots};
use crate::metrics::{Counter, DropReason, WorkerMetrics};

/// Room for the requests that are started again.
const SUBMISSIONS: u32 = 16;
/// Room for a completion of every receive buffer, and some more.
const COMPLETIONS: u32 = 2 * RECV_BUFFERS as u32;
/// Rounds of collecting deferred work in one `receive`: the kernel receives some 32 datagrams in each.
const ROUNDS: usize = 16;

/// Bytes before the datagram in a buffer: `struct io_uring_recvmsg_out`, then the source address.
const PREFIX_BYTES: usize = 16 + NAME_BYTES;
/// Where a buffer begins in its slot, so that the datagram begins at `HEADROOM_BYTES`.
const BUFFER_START: usize = HEADROOM_BYTES - PREFIX_BYTES;
const BUFFER_BYTES: usize = PREFIX_BYTES + DATAGRAM_BYTES_MAX;
const _: () = assert!(BUFFER_START + BUFFER_BYTES <= SLOT_BYTES);

/// The registered files, and the one group of buffers.
const SOCKET: Fixed = Fixed(0);
const EVENT: Fixed = Fixed(1);
const BUFFER_GROUP: u16 = 0;

/// What a completion belongs to: `user_data` of its request.
const RECEIVE: u64 = 1;
const WAKE: u64 = 2;

/// A ring that is set up but not yet bound to a thread.
pub(super) struct Ring {
    ring: IoUring,
    buffers: BufferRing,
    wake: Waker,
    deferred: bool,
    /// Microseconds that it polls the NIC before it sleeps.
    busy_poll: u32,
}

impl Ring {
    /// Sets a ring up, with all that can fail.
    pub(super) fn open(socket: &UdpSocket, slots: &Slots) -> Result<Ring, IoError> {
        let failed = |step| move |error| IoError::Uring { step, error };
        if slots.arena().slots() > usize::from(u16::MAX) + 1 {
            return Err(IoError::ArenaTooLarge { slots: slots.arena().slots() });
        }
        // IORING_SETUP_SINGLE_ISSUER came with 6.0, as did multishot recvmsg: a kernel that takes it has all that is needed.
        let (ring, deferred) = match builder().setup_defer_taskrun().build(SUBMISSIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (builder().setup_coop_taskrun().build(SUBMISSIONS), false),
            built => (built, true),
        };
        let ring = ring.map_err(failed("io_uring_setup"))?;
        let wake = Waker::new().map_err(failed("eventfd"))?;
        let submitter = ring.submitter();
        submitter.register_files(&[socket.as_raw_fd(), wake.event()]).map_err(failed("register files"))?;
        let buffers = BufferRing::leak(RECV_BUFFERS);
        // SAFETY: the memory holds that many entries and is never freed.
        unsafe { submitter.register_buf_ring_with_flags(buffers.address(), buffers.capacity() as u16, BUFFER_GROUP, 0) }
            .map_err(failed("register buffer ring"))?;
        // A file that does not block makes io_uring give up instead of waiting for the socket.
        socket.set_nonblocking(false).map_err(failed("socket flags"))?;
        let busy_poll = busy_poll::micros(socket);
        // What an older kernel does not know, it does without: the socket's own option still counts.
        let mut napi = Napi::new().set_busy_poll_timeout(busy_poll).set_prefer_busy_poll(busy_poll::preferred(socket));
        let polls = busy_poll > 0 && submitter.register_napi(&mut napi).is_ok();
        Ok(Ring { ring, buffers, wake, deferred, busy_poll: if polls { busy_poll } else { 0 } })
    }

    pub(super) fn description(&self) -> String {
        let work = if self.deferred { "deferred" } else { "cooperative" };
        let poll = if self.busy_poll > 0 { format!(", busy poll {} µs", self.busy_poll) } else { String::new() };
        format!("multishot receive, {work} task work{poll}")
    }
}

/// Disabled at first: the thread that enables the ring is the one that it belongs to.
fn builder() -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_r_disabled().setup_single_issuer().setup_submit_all().setup_taskrun_flag().setup_cqsize(COMPLETIONS).dontfork();
    builder
}

/// The header that says what the multishot recvmsg shall report. Leaked: the kernel may read it as long as the ring lives.
struct Template(&'static libc::msghdr);

// SAFETY: the header is never written, and its pointers are null.
unsafe impl Send for Template {}

impl Template {
    fn leak() -> Template {
        // SAFETY: all-zero is a valid header: null pointers, zero lengths.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        Template(Box::leak(Box::new(header)))
    }
}

/// A buffer that the kernel filled.
struct Filled {
    slot: u16,
    len: usize,
}

pub struct Uring {
    ring: IoUring,
    /// Kept open for the ring and for `outgoing`.
    _socket: UdpSocket,
    pub(super) slots: Slots,
    buffers: BufferRing,
    template: Template,
    /// Filled buffers in order of arrival; never more than the kernel had.
    pending: VecDeque<Filled>,
    pub(super) outgoing: Outgoing,
    /// Requests that are with the kernel.
    receiving: bool,
    polling: bool,
    woken: bool,
    starved: bool,
    enabled: bool,
    pub(super) wake: Waker,
    pub(super) base: Instant,
}

impl Uring {
    pub(super) fn new(ring: Ring, socket: UdpSocket, slots: Slots, base: Instant) -> Uring {
        let ipv6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        let outgoing = Outgoing::new(socket.as_raw_fd(), ipv6);
        Uring {
            ring: ring.ring,
            _socket: socket,
            slots,
            buffers: ring.buffers,
            template: Template::leak(),
            pending: VecDeque::with_capacity(RECV_BUFFERS),
            outgoing,
            receiving: false,
            polling: false,
            woken: false,
            starved: false,
            enabled: false,
            wake: ring.wake,
            base,
        }
    }

    pub(super) fn receive(&mut self, into: &mut Vec<Received>, wait: Duration, metrics: &WorkerMetrics) {
        self.enable();
        self.drain();
        self.refill(metrics);
        let limit = receive_limit(into).saturating_sub(into.len());
        self.collect(limit);
        if self.pending.is_empty() && !self.woken && !wait.is_zero() {
            self.sleep(if self.starved { wait.min(STARVED_WAIT) } else { wait });
        }
        self.wake.clear_sleeping();
        if self.woken {
            self.woken = false;
            metrics.add(Counter::Wakeups, 1);
        }
        self.deliver(into, limit, metrics);
    }

    /// Binds the ring to this thread, on first use.
    fn enable(&mut self) {
        if !self.enabled {
            self.ring.submitter().register_enable_rings().expect("a fresh ring can be enabled");
            self.enabled = true;
        }
    }

    /// Gives the kernel free slots to receive into, and starts requests that have ended.
    fn refill(&mut self, metrics: &WorkerMetrics) {
        let mut appended = false;
        while !self.buffers.is_full()
            && let Some(packet) = self.slots.take()
        {
            let slot = packet.into_slot();
            // SAFETY: the slot is 2 KiB long, so the range lies within it (asserted above).
            let buffer = unsafe { self.slots.arena().slot(slot).add(BUFFER_START) };
            // SAFETY: `into_slot` gave up the only handle; the slot is taken back when the kernel has reported it.
            unsafe { self.buffers.append(buffer.as_ptr(), BUFFER_BYTES, slot as u16) };
            appended = true;
        }
        if appended {
            self.buffers.publish();
        }
        let starved = self.buffers.held() == 0;
        if starved && !self.starved {
            metrics.count_drop(DropReason::ArenaExhausted);
        }
        self.starved = starved;
        if !self.receiving && !starved {
            let receive = opcode::RecvMsgMulti::new(SOCKET, self.template.0, BUFFER_GROUP).build().user_data(RECEIVE);
            // SAFETY: the header and the buffers live as long as the process.
            self.receiving = unsafe { self.ring.submission().push(&receive) }.is_ok();
        }
        if !self.polling {
            let poll = opcode::PollAdd::new(EVENT, libc::POLLIN as u32).multi(true).build().user_data(WAKE);
            // SAFETY: the request refers to no memory.
            self.polling = unsafe { self.ring.submission().push(&poll) }.is_ok();
        }
    }

    /// Submits what was started and collects what has arrived, without waiting. No syscall if there is neither.
    fn collect(&mut self, limit: usize) {
        for _ in 0..ROUNDS {
            let queue = self.ring.submission();
            let nothing = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
            drop(queue);
            if nothing || self.pending.len() >= limit {
                return;
            }
            // Errors (interrupted, out of memory) leave everything where it is for the next round.
            let _ = self.ring.submit();
            self.drain();
        }
    }

    fn sleep(&mut self, wait: Duration) {
        let time = Timespec::from(wait);
        // It may also end by a timeout or a signal; the worker's turn goes on the same way.
        let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time));
        self.drain();
    }

    /// Takes all completions from the ring and notes what they mean.
    fn drain(&mut self) {
        for completion in self.ring.completion() {
            let ended = !cqueue::more(completion.flags());
            match completion.user_data() {
                RECEIVE => {
                    if let Some(slot) = cqueue::buffer_select(completion.flags()) {
                        self.buffers.used();
                        self.pending.push_back(Filled { slot, len: completion.result().max(0) as usize });
                    }
                    self.receiving &= !ended;
                }
                WAKE => {
                    self.woken = true;
                    self.polling &= !ended;
                }
                _ => {}
            }
        }
    }

    /// Turns filled buffers into received datagrams; what is not accepted gives its slot back.
    fn deliver(&mut self, into: &mut Vec<Received>, limit: usize, metrics: &WorkerMetrics) {
        let (mut datagrams, mut bytes) = (0, 0);
        for filled in self.pending.drain(..limit.min(self.pending.len())) {
            // SAFETY: `refill` gave this slot out by `into_slot`, and the kernel reports each buffer once.
            let mut packet = unsafe { PacketMut::from_slot(self.slots.arena(), u32::from(filled.slot)) };
            let buffer = &packet.slot_mut()[BUFFER_START..BUFFER_START + filled.len.min(BUFFER_BYTES)];
            let Ok(message) = RecvMsgOut::parse(buffer, self.template.0) else { continue };
            datagrams += 1;
            let len = message.payload_data().len();
            if message.is_payload_truncated() || message.incoming_payload_len() as usize > len {
                metrics.count_drop(DropReason::Oversize);
            } else if len == 0 {
                metrics.count_drop(DropReason::Empty);
            } else if let Some(from) = address::parse(message.name_data()) {
                bytes += len as u64;
                packet.set_range(HEADROOM_BYTES, len);
                into.push(Received { packet, from });
            }
        }
        if datagrams > 0 {
            metrics.add(Counter::DatagramsReceived, datagrams);
            metrics.add(Counter::BytesReceived, bytes);
        }
    }

    /// Slots that are free or with the kernel: all that no packet holds.
    #[cfg(test)]
    pub(super) fn free_slots(&mut self) -> usize {
        self.slots.available() + self.buffers.held() + self.pending.len()
    }
}

impl Drop for Uring {
    /// Ends the requests and lets go of the socket now, not some time later. The slots that the kernel had stay with the arena,
    /// which nobody takes from any more. On another thread than the ring's these calls fail and the kernel takes its time.
    fn drop(&mut self) {
        let submitter = self.ring.submitter();
        let _ = submitter.register_sync_cancel(Some(Timespec::from(Duration::from_millis(100))), CancelBuilder::any());
        // Cancelled requests hold on to the socket until their completions are collected.
        let _ = submitter.submit();
        let _ = submitter.unregister_files();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::socket;
    use crate::mem::Arena;

    #[test]
    fn a_ring_polls_as_its_socket_was_told_to() {
        let socket = socket::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().sockets.remove(0);
        if busy_poll::set(&socket, 70).is_err() {
            return; // not privileged: `busy_poll` looks at that
        }
        let ring = Ring::open(&socket, &Arena::leak(64)).unwrap();
        // Ending it tells what it was.
        let mut napi = Napi::new();
        if ring.ring.submitter().unregister_napi(&mut napi).is_ok() {
            assert_eq!((napi.busy_poll_timeout(), ring.busy_poll), (70, 70));
            assert_eq!(napi.prefer_busy_poll(), busy_poll::preferred(&socket));
            assert!(ring.description().ends_with(", busy poll 70 µs"), "{}", ring.description());
        }
    }
}
