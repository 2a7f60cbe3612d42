//! One AF_XDP socket: bound to one receive queue of one interface, over a worker's arena (the kernel's "UMEM").
//!
//! Several sockets of one worker share its arena, each with its own four rings. A slot of the arena is in one place at a time:
//! free, held by a packet, in a fill ring, in a receive ring; or, of those to send from, in the batch, in a send ring, in a
//! completion ring.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::frame::{HEADERS_MAX, UDP_CHECKSUM};
use super::ring::{Appender, Descriptor, Taker};
use crate::io::socket::{SEND_BUFFER_BYTES, set_option};
use crate::limits::{HEADROOM_BYTES, SLOT_BYTES, XDP_RING};
use crate::mem::{PacketMut, SendBatch, Slots};

/// How frames get from the device to the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The device reads and writes the arena itself.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

/// Where a socket is bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub interface: u32,
    pub queue: u32,
    /// Slots that it has to receive into at a time; at most [`XDP_RING`].
    pub share: usize,
}

/// What went wrong, in which step.
pub(super) type Failure = (&'static str, io::Error);

pub(super) struct Xsk {
    // The rings first: they are unmapped before the socket is closed.
    fill: Appender<u64>,
    received: Taker<Descriptor>,
    pub send: Appender<Descriptor>,
    completed: Taker<u64>,
    fd: OwnedFd,
    /// Slots that the kernel has to receive into, those of frames that were not taken yet among them.
    held: usize,
    /// And how many it shall have.
    share: usize,
    /// Frames may leave without their UDP checksum: [`Xsk::leave_checksum`].
    leaves_checksums: bool,
}

/// Bytes before a frame whose UDP checksum is left to the device, as the kernel's `struct xsk_tx_metadata` begins: flags, where
/// the UDP header begins in the frame, where the checksum is in that, and nothing.
const METADATA: usize = 16;
const _: () = assert!(METADATA + HEADERS_MAX <= HEADROOM_BYTES && METADATA.is_multiple_of(8));
/// Datagrams from this length on are left without: at 150 bytes it costs as much as it saves, at 1,200 it saves a twentieth of all work.
const LEFT_MIN: usize = 400;

impl Xsk {
    /// Opens a socket over the arena, `first` of the worker's or sharing the arena of an open one, and gives it slots to receive
    /// into. When it fails the slots are free again.
    pub fn open(place: Place, transfer: Transfer, first: Option<&Xsk>, slots: &mut Slots) -> Result<Xsk, Failure> {
        let mut xsk = Xsk::with_rings(place.share.min(XDP_RING), first.is_none().then_some(&*slots))?;
        // Where the kernel makes packets of frames it does what the device cannot. What a driver does by itself is not known.
        xsk.leaves_checksums &= transfer == Transfer::Copy;
        let given = xsk.give(slots);
        match xsk.bind(place, transfer, first) {
            Ok(()) => Ok(xsk),
            Err(error) => {
                drop(xsk);
                for slot in given {
                    // SAFETY: given out above; the socket that had it was never bound and is closed.
                    drop(unsafe { PacketMut::from_slot(slots.arena(), slot) });
                }
                Err(("bind an AF_XDP socket", error))
            }
        }
    }

    /// Fills the fill ring, and says with which slots.
    fn give(&mut self, slots: &mut Slots) -> Vec<u32> {
        let mut given = Vec::with_capacity(self.share);
        while self.held < self.share
            && let Some(packet) = slots.take()
        {
            let slot = packet.into_slot();
            given.push(slot);
            self.append(slot);
        }
        self.fill.publish();
        given
    }

    /// Lays a slot ready to receive into. There is room: no more slots are held than the ring has places.
    fn append(&mut self, slot: u32) {
        let appended = self.fill.push(slot_address(slot));
        debug_assert!(appended.is_ok());
        self.held += 1;
    }

    /// An unbound socket with its rings; over this arena, or later over another socket's.
    fn with_rings(share: usize, arena: Option<&Slots>) -> Result<Xsk, Failure> {
        let failed = |step| move |error| (step, error);
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(("make an AF_XDP socket", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let raw = fd.as_raw_fd();
        // What the kernel holds copies of, in copy mode, counts against this; the default lets fewer than a hundred go.
        let bytes = SEND_BUFFER_BYTES as libc::c_int;
        if set_option(raw, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes).is_err() {
            let _ = set_option(raw, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes);
        }
        let mut leaves_checksums = false;
        if let Some(slots) = arena {
            // SAFETY: all-zero is a valid value: no headroom of the kernel's, no flags, no metadata.
            let mut memory: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
            memory.addr = slots.arena().base().as_ptr() as u64;
            memory.len = (slots.arena().slots() * SLOT_BYTES) as u64;
            memory.chunk_size = SLOT_BYTES as u32;
            (memory.flags, memory.tx_metadata_len) = (libc::XDP_UMEM_TX_METADATA_LEN, METADATA as u32);
            // Kernels before 6.11 know no metadata.
            leaves_checksums = set(raw, libc::XDP_UMEM_REG, &memory).is_ok();
            if !leaves_checksums {
                (memory.flags, memory.tx_metadata_len) = (0, 0);
                set(raw, libc::XDP_UMEM_REG, &memory).map_err(failed("register the arena with AF_XDP"))?;
            }
        }
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set(raw, ring, &(XDP_RING as u32)).map_err(failed("make AF_XDP rings"))?;
        }
        // SAFETY: all-zero is a valid value, overwritten below.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
        get(raw, libc::XDP_MMAP_OFFSETS, &mut offsets).map_err(failed("locate AF_XDP rings"))?;
        let mapped = failed("map AF_XDP rings");
        Ok(Xsk {
            fill: Appender::map(raw, libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t, &offsets.fr, XDP_RING).map_err(mapped)?,
            completed: Taker::map(raw, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t, &offsets.cr, XDP_RING)
                .map_err(mapped)?,
            received: Taker::map(raw, libc::XDP_PGOFF_RX_RING as libc::off_t, &offsets.rx, XDP_RING).map_err(mapped)?,
            send: Appender::map(raw, libc::XDP_PGOFF_TX_RING as libc::off_t, &offsets.tx, XDP_RING).map_err(mapped)?,
            fd,
            held: 0,
            share,
            leaves_checksums,
        })
    }

    fn bind(&self, place: Place, transfer: Transfer, first: Option<&Xsk>) -> io::Result<()> {
        // SAFETY: all-zero is a valid value.
        let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
        address.sxdp_family = libc::AF_XDP as u16;
        address.sxdp_ifindex = place.interface;
        address.sxdp_queue_id = place.queue;
        match first {
            // It does as the first one does; saying so is an error.
            Some(first) => {
                address.sxdp_flags = libc::XDP_SHARED_UMEM;
                address.sxdp_shared_umem_fd = first.fd() as u32;
            }
            None => {
                let how = if transfer == Transfer::ZeroCopy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
                address.sxdp_flags = how | libc::XDP_USE_NEED_WAKEUP;
            }
        }
        let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        // SAFETY: `len` bytes of a live local are read.
        match unsafe { libc::bind(self.fd(), (&raw const address).cast(), len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// A second descriptor of the socket, to read its statistics on another thread.
    pub fn statistics(&self) -> io::Result<Statistics> {
        Ok(Statistics { fd: self.fd.try_clone()?, lost: 0 })
    }

    /// A frame that arrived.
    pub fn pop(&mut self) -> Option<Descriptor> {
        let frame = self.received.pop()?;
        self.held -= 1;
        Some(frame)
    }

    /// Gives the places of frames that were taken back, and new slots to receive into. False if there are too few of them.
    pub fn refill(&mut self, slots: &mut Slots) -> bool {
        if self.held == self.share {
            return true;
        }
        self.received.release();
        while self.held < self.share {
            let Some(packet) = slots.take() else { break };
            self.append(packet.into_slot());
        }
        self.fill.publish();
        if self.fill.needs_wakeup() {
            let none = std::ptr::null_mut();
            // SAFETY: no memory is referred to.
            unsafe { libc::recvfrom(self.fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast()) };
        }
        self.held == self.share
    }

    /// Whether the UDP checksum of a datagram of so many bytes is better left to the device.
    pub fn leaves_checksum(&self, datagram: usize) -> bool {
        self.leaves_checksums && datagram >= LEFT_MIN
    }

    /// Has the device, or the kernel in its place, finish the UDP checksum of the frame in `slot` that begins at `start` and whose UDP header is at
    /// `udp`. Returns the options of the frame's descriptor.
    pub fn leave_checksum(slot: &mut [u8; SLOT_BYTES], start: usize, udp: usize) -> u32 {
        let metadata = &mut slot[start - METADATA..start];
        metadata.fill(0);
        metadata[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
        metadata[8..10].copy_from_slice(&((udp - start) as u16).to_ne_bytes());
        metadata[10..12].copy_from_slice(&(UDP_CHECKSUM as u16).to_ne_bytes());
        libc::XDP_TX_METADATA
    }

    /// Lets the kernel send what is in the send ring; in copy mode it takes a few dozen frames a call. False if it has to be
    /// called again for the rest: the device's queue is full, or completions are behind.
    pub fn flush(&mut self) -> bool {
        let mut waiting = self.send.waiting();
        while waiting > 0 && self.send.needs_wakeup() {
            // SAFETY: no memory is referred to.
            unsafe { libc::sendto(self.fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
            let left = self.send.waiting();
            if left == waiting {
                return false;
            }
            waiting = left;
        }
        true
    }

    /// Gives the batch back what the kernel has sent of it.
    pub fn reclaim(&mut self, batch: &mut SendBatch) {
        let mut any = false;
        while let Some(address) = self.completed.pop() {
            // SAFETY: the slot was handed out by this worker's only batch, and the kernel completes each descriptor once.
            unsafe { batch.give_back(slot_of(address).0) };
            any = true;
        }
        if any {
            self.completed.release();
        }
    }
}

/// A slot as the kernel names it: its offset in the arena.
pub(super) fn slot_address(slot: u32) -> u64 {
    u64::from(slot) * SLOT_BYTES as u64
}

/// Slot and place in it of an offset in the arena.
pub(super) fn slot_of(address: u64) -> (u32, usize) {
    ((address / SLOT_BYTES as u64) as u32, address as usize % SLOT_BYTES)
}

/// What a socket could not take.
pub(super) struct Statistics {
    fd: OwnedFd,
    lost: u64,
}

impl Statistics {
    /// Frames lost since the last call: no room in the receive ring, no slot in the fill ring, or too long for one.
    pub fn lost(&mut self) -> u64 {
        // SAFETY: all-zero is a valid value, overwritten below.
        let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        if get(self.fd.as_raw_fd(), libc::XDP_STATISTICS, &mut statistics).is_err() {
            return 0;
        }
        let lost = statistics.rx_dropped + statistics.rx_ring_full;
        let new = lost.saturating_sub(self.lost);
        self.lost = lost;
        new
    }
}

/// Sets an option of AF_XDP. `T` is what the kernel expects of that option.
fn set<T>(fd: RawFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `len` bytes of a live value are read.
    match unsafe { libc::setsockopt(fd, libc::SOL_XDP, name, std::ptr::from_ref(value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads an option of AF_XDP. `T` is of plain numbers.
fn get<T>(fd: RawFd, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: at most `len` bytes of a live value are written, and numbers take any.
    match unsafe { libc::getsockopt(fd, libc::SOL_XDP, name, std::ptr::from_mut(value).cast(), &raw mut len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
