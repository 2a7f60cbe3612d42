//! Datagrams in and out of a worker: one enum, one file for each way to the network. The other place with `unsafe` (besides
//! `mem/`).
//!
//! ```text
//!            received datagrams, each in an arena slot                a turn's ciphertext, trains and single datagrams
//!   kernel ──────────────── Io::receive ───────────────► worker ─────────────── Io::send ───────────────► kernel
//! ```
//!
//! - [`Uring`]: io_uring. The kernel writes received datagrams into arena slots by itself.
//! - [`Mmsg`]: recvmmsg, wherever io_uring is missing or forbidden.
//! - [`Xdp`]: AF_XDP, frames of one interface past the network stack; with an `Mmsg` beside it for everything else.
//! - [`Fake`]: queues, for the simulator.
//!
//! The first two send with sendmmsg ([`outgoing`]). Options of the sockets, for hosts that are tuned: [`steer`], [`busy_poll`]. What
//! holds for all: nothing allocates after [`Io::open`]; [`Io::send`] never blocks and is done with the batch when it returns (of
//! frames, AF_XDP keeps those that the device still reads); a peer has one address, IPv4 where it is IPv4; a datagram that is empty
//! or larger than
//! [`DATAGRAM_BYTES_MAX`](crate::limits::DATAGRAM_BYTES_MAX) is counted and goes no further.
//!
//! **No receive offload (UDP_GRO).** It joins datagrams of one flow to up to 64 KiB, which no slot holds, so each would have to be
//! copied out of a large buffer to a slot of its own. Trains that a sender made are received in two thirds of the time that
//! way; but publishers send single datagrams, paced, and many of them in turn. Measured over veth, with NAPI's GRO on, recvmmsg
//! of 64 and the copy, on two busy cores (medians of 7; ratios more than times are to be believed), reader + NAPI a packet:
//!
//! | publishers, each sends 1200 bytes | datagrams in a buffer | without | with UDP_GRO |
//! |---|--:|--:|--:|
//! | 100, one every 3 ms | 1.0 | 1.9 + 2.5 µs | 2.0 + 2.0 µs |
//! | 100, 3 together every 10 ms (as browsers pace) | 1.7 | 1.5 + 2.0 µs | 1.7 + 1.9 µs |
//! | 20, 8 together every 30 ms (a frame, unpaced) | 2.2 | 2.1 + 2.5 µs | 3.8 + 2.6 µs |
//!
//! Less in the kernel, more in the worker, nothing in the sum, so it stays off. Real cards, which gather interrupts, may join more.
//!
//! A gap: the sockets are bound to one address, usually the wildcard, and a reply leaves from the address that the kernel's
//! routing picks, not from the one the datagram came to (that would need IP_PKTINFO in both directions and a local address
//! in every peer). On a host with several addresses of a family in one subnet, bind to the one that is announced.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::limits::TURN_DATAGRAMS;
use crate::mem::{PacketMut, SendBatch, Slots};
use crate::metrics::WorkerMetrics;
use crate::units::Micros;

mod address;
mod buffers;
pub mod busy_poll;
pub mod fake;
pub mod mmsg;
pub mod numa;
mod outgoing;
pub mod probe;
pub mod socket;
pub mod steer;
mod tally;
#[cfg(test)]
mod tests;
pub mod uring;
pub mod wake;
pub mod xdp;

pub use fake::Fake;
pub use mmsg::Mmsg;
pub use uring::Uring;
pub use wake::Waker;
pub use xdp::Xdp;

/// A datagram and who sent it.
pub struct Received {
    pub packet: PacketMut,
    /// IPv4-mapped IPv6 addresses come as IPv4.
    pub from: SocketAddr,
}

/// The longest sleep while no receive buffer is free: slots that come back do not wake the worker.
const STARVED_WAIT: Duration = Duration::from_millis(1);

/// Which way to the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoKind {
    /// io_uring, or recvmmsg where it cannot be had.
    #[default]
    Auto,
    Uring,
    Mmsg,
}

impl FromStr for IoKind {
    type Err = IoError;

    fn from_str(text: &str) -> Result<Self, IoError> {
        match text {
            "auto" => Ok(IoKind::Auto),
            "uring" => Ok(IoKind::Uring),
            "mmsg" => Ok(IoKind::Mmsg),
            _ => Err(IoError::UnknownKind(text.to_owned())),
        }
    }
}

/// A worker's way to the network.
// The variants differ in size, but there is one of them in a worker, and it stays where it is.
#[allow(clippy::large_enum_variant)]
pub enum Io {
    Uring(Uring),
    Mmsg(Mmsg),
    Xdp(Xdp),
    Fake(Fake),
}

impl Io {
    /// Takes over a socket of [`socket::bind`] and the slots to receive into. `base` is time zero of [`Io::now`], the same for all
    /// workers. Gives the backend and, for the log, why it is this one.
    ///
    /// The `Io` may be moved to its worker's thread afterwards; from the first `receive` or `send` on it stays on that thread.
    pub fn open(kind: IoKind, socket: UdpSocket, slots: Slots, base: Instant) -> Result<(Io, String), IoError> {
        let because = match kind {
            IoKind::Mmsg => "recvmmsg, as configured".to_owned(),
            IoKind::Auto | IoKind::Uring => match uring::Ring::open(&socket, &slots) {
                Ok(ring) => {
                    let why = format!("io_uring ({})", ring.description());
                    return Ok((Io::Uring(Uring::new(ring, socket, slots, base)), why));
                }
                Err(error) if kind == IoKind::Uring => return Err(error),
                Err(error) => format!("recvmmsg, because of: {error}"),
            },
        };
        Ok((Io::Mmsg(Mmsg::open(socket, slots, base)?), because))
    }

    /// The batch to fill for [`Io::send`]: made so that this backend sends from it. Asked for once.
    pub fn batch(&mut self) -> SendBatch {
        let own = match self {
            Io::Xdp(xdp) => xdp.take_batch(),
            Io::Uring(_) | Io::Mmsg(_) | Io::Fake(_) => None,
        };
        own.unwrap_or_default()
    }

    /// Appends received datagrams to `into`, up to [`TURN_DATAGRAMS`] in all and never beyond its capacity. Waits at most `wait`
    /// when nothing has arrived; a [`Waker`] ends the wait. Zero does not wait.
    pub fn receive(&mut self, into: &mut Vec<Received>, wait: Duration, metrics: &WorkerMetrics) {
        match self {
            Io::Uring(uring) => uring.receive(into, wait, metrics),
            Io::Mmsg(mmsg) => mmsg.receive(into, wait, metrics),
            Io::Xdp(xdp) => xdp.receive(into, wait, metrics),
            Io::Fake(fake) => fake.receive(into, metrics),
        }
    }

    /// Sends every operation of the batch. Does not block: what the kernel refuses is counted as `send_failed`. The batch may be
    /// cleared and refilled as soon as this returns.
    pub fn send(&mut self, batch: &mut SendBatch, metrics: &WorkerMetrics) {
        if batch.is_empty() {
            return;
        }
        match self {
            Io::Uring(uring) => uring.outgoing.send(batch, metrics),
            Io::Mmsg(mmsg) => mmsg.outgoing.send(batch, metrics),
            Io::Xdp(xdp) => xdp.send(batch, metrics),
            Io::Fake(fake) => fake.send(batch, metrics),
        }
    }

    /// The time: the one reading of the clock in a turn.
    pub fn now(&self) -> Micros {
        match self {
            Io::Uring(uring) => micros_since(uring.base),
            Io::Mmsg(mmsg) => micros_since(mmsg.base),
            Io::Xdp(xdp) => micros_since(xdp.mmsg.base),
            Io::Fake(fake) => fake.now,
        }
    }

    /// CPU time that this thread has used: how busy the worker is. A clock of its own, so it is asked ten times a second only.
    pub fn cpu_time(&self) -> Micros {
        match self {
            Io::Uring(_) | Io::Mmsg(_) | Io::Xdp(_) => thread_cpu_time(),
            Io::Fake(fake) => fake.cpu_time,
        }
    }

    /// What other threads wake this worker with.
    pub fn waker(&self) -> Waker {
        self.wake().clone()
    }

    /// Says that this worker is about to sleep. Then it must look at all of its rings once more, and either call
    /// [`Io::receive`] with the wait, or with zero if there was something after all. See [`wake`] for why no wake-up is lost.
    pub fn prepare_sleep(&self) {
        self.wake().set_sleeping();
    }

    /// A free slot of this worker's arena, for a datagram that comes from another worker.
    pub fn take_slot(&mut self) -> Option<PacketMut> {
        match self {
            Io::Uring(uring) => uring.slots.take(),
            Io::Mmsg(mmsg) => mmsg.slots.take(),
            Io::Xdp(xdp) => xdp.mmsg.slots.take(),
            Io::Fake(fake) => fake.slots.take(),
        }
    }

    /// False while trains are cut here instead of by the kernel, because the outgoing device refused one.
    pub fn trains_in_use(&self) -> bool {
        match self {
            Io::Uring(uring) => uring.outgoing.trains.in_use(),
            Io::Mmsg(mmsg) => mmsg.outgoing.trains.in_use(),
            Io::Xdp(xdp) => xdp.mmsg.outgoing.trains.in_use(),
            Io::Fake(_) => true,
        }
    }

    fn wake(&self) -> &Waker {
        match self {
            Io::Uring(uring) => &uring.wake,
            Io::Mmsg(mmsg) => &mmsg.wake,
            Io::Xdp(xdp) => &xdp.mmsg.wake,
            Io::Fake(fake) => &fake.wake,
        }
    }
}

fn micros_since(base: Instant) -> Micros {
    Micros(base.elapsed().as_micros() as u64)
}

fn thread_cpu_time() -> Micros {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and of the kernel's layout.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if read == 0 { Micros(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000) } else { Micros::ZERO }
}

/// Datagrams that may lie in `into` at the end of a turn's receive.
fn receive_limit(into: &Vec<Received>) -> usize {
    TURN_DATAGRAMS.min(into.capacity())
}

/// Why a worker has no way to the network. Each message ends with the likely remedy.
#[derive(Debug)]
pub enum IoError {
    UnknownKind(String),
    /// A socket could not be made or bound.
    Bind {
        address: SocketAddr,
        error: io::Error,
    },
    /// A socket lacks an option that the server cannot do without.
    Option {
        name: &'static str,
        error: io::Error,
    },
    /// io_uring cannot be used.
    Uring {
        step: &'static str,
        error: io::Error,
    },
    /// AF_XDP cannot be used.
    Xdp {
        interface: String,
        step: &'static str,
        reason: String,
    },
    /// There is no such interface; there are these.
    NoInterface {
        name: String,
        there: Vec<String>,
    },
    /// More slots than a buffer number can name.
    ArenaTooLarge {
        slots: usize,
    },
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoError::UnknownKind(text) => write!(f, "unknown I/O backend \"{text}\"; it is one of auto, uring, mmsg"),
            IoError::Bind { address, error } => {
                write!(f, "cannot bind UDP {} port {}: {error}{}", address.ip(), address.port(), bind_remedy(error))
            }
            IoError::Option { name, error } => write!(f, "cannot set socket option {name}: {error}{}", option_remedy(name, error)),
            IoError::Uring { step, error } => write!(f, "io_uring is not usable ({step}: {error}){}", uring_remedy(error)),
            IoError::Xdp { interface, step, reason } => {
                write!(f, "AF_XDP is not usable on {interface} (cannot {step}: {reason}){}", xdp_remedy(reason))
            }
            IoError::NoInterface { name, there } => {
                write!(f, "media.io = \"xdp:{name}\": there is no interface {name}; Ethernet ones are {}", there.join(", "))
            }
            IoError::ArenaTooLarge { slots } => write!(f, "{slots} arena slots; io_uring can name 65536 buffers; use fewer slots"),
        }
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            IoError::Bind { error, .. } | IoError::Option { error, .. } | IoError::Uring { error, .. } => Some(error),
            _ => None,
        }
    }
}

fn bind_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "; another program, perhaps another instance of this server, has the port: stop it or choose another port"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "; ports below 1024 need a privilege: choose a higher port or grant CAP_NET_BIND_SERVICE"
        }
        Some(libc::EADDRNOTAVAIL) => "; no interface of this host has that address: choose one that does, or [::] for all",
        Some(libc::EAFNOSUPPORT) => "; this kernel has no IPv6: bind to an IPv4 address",
        Some(libc::EMFILE | libc::ENFILE) => "; too many open files: raise the limit (ulimit -n, LimitNOFILE=)",
        _ => "",
    }
}

fn option_remedy(name: &str, error: &io::Error) -> &'static str {
    match (name, error.raw_os_error()) {
        ("SO_BUSY_POLL", Some(libc::EPERM)) => {
            "; grant CAP_NET_ADMIN, or set sysctl net.core.busy_read to as many microseconds, or do without media.busy_poll_us"
        }
        ("SO_BUSY_POLL", Some(libc::ENOPROTOOPT)) => "; the kernel has no busy polling: do without media.busy_poll_us",
        _ => "",
    }
}

fn xdp_remedy(reason: &str) -> &'static str {
    let mentions = |errno: i32| reason.contains(&format!("(os error {errno})"));
    if mentions(libc::EPERM) {
        "; run as root or grant CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON"
    } else if mentions(libc::ENOBUFS) || mentions(libc::ENOMEM) {
        "; memory that may be locked is used up: raise ulimit -l (LimitMEMLOCK=) by 128 MiB a worker, or grant CAP_IPC_LOCK"
    } else if mentions(libc::EAFNOSUPPORT) || mentions(libc::ENOSYS) {
        "; the kernel is built without AF_XDP (CONFIG_XDP_SOCKETS) or eBPF"
    } else if mentions(libc::EBUSY) {
        "; another program has the queue or the interface: stop that one"
    } else {
        ""
    }
}

fn uring_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; it is switched off by sysctl kernel.io_uring_disabled or by a container's seccomp profile: allow it, or choose mmsg"
        }
        Some(libc::ENOSYS) => "; the kernel has none, or a container's seccomp profile hides it: allow it, or choose mmsg",
        Some(libc::ENOMEM) => "; memory that may be locked is used up: raise ulimit -l (LimitMEMLOCK=), or choose mmsg",
        Some(libc::EINVAL) => "; the kernel is older than 6.0: upgrade it, or choose mmsg",
        Some(libc::EMFILE | libc::ENFILE) => "; too many open files: raise the limit (ulimit -n, LimitNOFILE=)",
        _ => "; choose mmsg",
    }
}
