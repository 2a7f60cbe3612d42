//! Sending a batch: sendmmsg(2) of up to [`MESSAGES`] operations, each a single datagram or a train (UDP_SEGMENT).
//!
//! Both backends send this way. io_uring's SENDMSG, submitted together, was measured beside it and costs more: each request has a
//! price of its own, and the kernel carries it out with the same call. A send never blocks, and when [`Outgoing::send`] returns
//! nothing refers to the batch any more.

use std::os::fd::RawFd;
use std::{io, ptr};

use super::address::Name;
use super::tally::{Tally, Trains};
use crate::mem::{SendBatch, Transmit};
use crate::metrics::WorkerMetrics;

/// Messages of one call: enough to make it cheap, few enough for their table to stay in the cache.
const MESSAGES: usize = 64;

/// Control data: one UDP_SEGMENT of a `u16`, 24 bytes.
type Control = [u64; 3];

// SAFETY: CMSG_SPACE is arithmetic only.
const _: () = assert!(unsafe { libc::CMSG_SPACE(2) } as usize == size_of::<Control>());

/// What a header points to, besides the datagrams.
struct Parts {
    vector: libc::iovec,
    name: Name,
    control: Control,
}

/// What a message is made of, for the accounts.
#[derive(Clone, Copy, Default)]
struct Queued {
    operation: usize,
    datagrams: usize,
    bytes: usize,
}

/// The messages of one call, allocated once.
pub(super) struct Outgoing {
    headers: Box<[libc::mmsghdr]>,
    parts: Box<[Parts]>,
    queued: Vec<Queued>,
    pub(super) trains: Trains,
    socket: RawFd,
    ipv6: bool,
}

// SAFETY: the pointers in `headers` are written anew by `fill` before each call, and point into `parts` and to the batch of that
// call; nothing belongs to a thread.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// `socket` must stay open as long as this lives.
    pub(super) fn new(socket: RawFd, ipv6: bool) -> Outgoing {
        // SAFETY: all-zero is a valid value: null pointers, zero lengths.
        let headers = (0..MESSAGES).map(|_| unsafe { std::mem::zeroed() }).collect();
        let part = || Parts { vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }, name: Name::EMPTY, control: [0; 3] };
        let parts = (0..MESSAGES).map(|_| part()).collect();
        Outgoing { headers, parts, queued: Vec::with_capacity(MESSAGES), trains: Trains::default(), socket, ipv6 }
    }

    /// Sends every operation of the batch; what the kernel refuses is counted.
    pub(super) fn send(&mut self, batch: &SendBatch, metrics: &WorkerMetrics) {
        let mut tally = Tally::default();
        for (index, operation) in batch.operations().iter().enumerate() {
            let bytes = batch.bytes(operation);
            if operation.segments > 1 && !self.trains.whole() {
                for datagram in bytes.chunks(operation.segment.max(1) as usize) {
                    self.queue(batch, index, operation, datagram, 1, &mut tally);
                }
            } else {
                self.queue(batch, index, operation, bytes, operation.segments as usize, &mut tally);
            }
        }
        self.flush(batch, &mut tally);
        tally.count(metrics);
    }

    /// Adds a message: one datagram of an operation, or the whole of it. The table is sent first if it is full.
    fn queue(&mut self, batch: &SendBatch, index: usize, operation: &Transmit, bytes: &[u8], datagrams: usize, tally: &mut Tally) {
        if self.queued.len() == MESSAGES {
            self.flush(batch, tally);
        }
        self.fill(self.queued.len(), operation, bytes, datagrams > 1);
        self.queued.push(Queued { operation: index, datagrams, bytes: bytes.len() });
    }

    fn fill(&mut self, at: usize, operation: &Transmit, bytes: &[u8], train: bool) {
        let (parts, header) = (&mut self.parts[at], &mut self.headers[at].msg_hdr);
        header.msg_namelen = parts.name.set(operation.to, self.ipv6);
        header.msg_name = (&raw mut parts.name).cast();
        parts.vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_iov = &raw mut parts.vector;
        header.msg_iovlen = 1;
        if train {
            parts.control = control(operation.segment);
            header.msg_control = (&raw mut parts.control).cast();
            header.msg_controllen = size_of::<Control>() as _;
        } else {
            header.msg_control = ptr::null_mut();
            header.msg_controllen = 0;
        }
    }

    /// Hands messages from `first` on to the kernel: how many it took, or why it refused the first.
    fn hand_over(&mut self, first: usize, count: usize) -> Result<usize, i32> {
        let headers = &mut self.headers[first..first + count];
        // SAFETY: the headers were filled for this batch, and all they point to is live until the call returns.
        let sent = unsafe {
            libc::sendmmsg(self.socket, headers.as_mut_ptr(), headers.len() as u32, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        if sent > 0 { Ok(sent as usize) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    }

    /// Sends the messages in the table. The kernel stops at the first one it refuses: that one is settled, and the rest goes on.
    fn flush(&mut self, batch: &SendBatch, tally: &mut Tally) {
        let mut at = 0;
        while at < self.queued.len() {
            match self.hand_over(at, self.queued.len() - at) {
                Ok(sent) => {
                    self.queued[at..at + sent].iter().for_each(|queued| tally.accepted(queued.datagrams, queued.bytes));
                    at += sent;
                }
                Err(libc::EINTR) => {}
                Err(errno) => {
                    let refused = self.queued[at];
                    if refused.datagrams > 1 && Trains::blamed(errno) {
                        self.send_singly(batch, at, tally);
                    } else {
                        tally.refused(refused.datagrams);
                    }
                    at += 1;
                }
            }
        }
        self.queued.clear();
    }

    /// Sends a train that the kernel refused as single datagrams. If they pass, it was the train that it did not like.
    fn send_singly(&mut self, batch: &SendBatch, at: usize, tally: &mut Tally) {
        let Some(operation) = batch.operations().get(self.queued[at].operation) else { return };
        let mut all = true;
        for datagram in batch.bytes(operation).chunks(operation.segment.max(1) as usize) {
            self.fill(at, operation, datagram, false);
            if self.hand_over(at, 1).is_ok() {
                tally.accepted(1, datagram.len());
            } else {
                all = false;
                tally.refused(1);
            }
        }
        if all {
            self.trains.suspend();
        }
    }
}

/// A cmsghdr of 16 bytes (length, level, type), then the segment size.
fn control(segment: u16) -> Control {
    // SAFETY: CMSG_LEN is arithmetic only.
    let len = u64::from(unsafe { libc::CMSG_LEN(2) });
    let mut kind = [0; 8];
    kind[0..4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    kind[4..8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    let mut data = [0; 8];
    data[0..2].copy_from_slice(&segment.to_ne_bytes());
    [len, u64::from_ne_bytes(kind), u64::from_ne_bytes(data)]
}
