//! The four rings that an AF_XDP socket shares with the kernel, mapped into memory: one side appends, the other takes.
//!
//! ```text
//!   fill        slots to receive into      we append, the kernel takes
//!   receive     frames that arrived        the kernel appends, we take
//!   send        frames to be sent          we append, the kernel takes
//!   completion  slots that were sent from  the kernel appends, we take
//! ```
//!
//! An index counts for ever and wraps; its entry is the index masked to the capacity. Whoever appends writes entries, then
//! stores its index (release); whoever takes loads that index (acquire), reads, then stores its own (release).

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the kernel calls `struct xdp_desc`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Descriptor {
    /// Offset into the arena.
    pub address: u64,
    pub len: u32,
    pub options: u32,
}

/// A ring's memory, unmapped with it.
struct Ring<T> {
    map: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    capacity: u32,
}

// SAFETY: the mapping is owned alone through these pointers, and what the kernel shares of it are atomics and entries that the
// indices assign to one side; nothing in it belongs to a thread.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `capacity` entries (a power of two, as it was set) of the socket.
    fn map(socket: RawFd, page: libc::off_t, offsets: &libc::xdp_ring_offset, capacity: usize) -> io::Result<Ring<T>> {
        let bytes = offsets.desc as usize + capacity * size_of::<T>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address that the kernel picks.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, socket, page) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel gave these offsets for this mapping.
        let at = |offset: u64| unsafe { map.add(offset as usize) };
        Ok(Ring {
            map,
            bytes,
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            entries: at(offsets.desc).cast(),
            capacity: capacity as u32,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned, and only reached as an atomic.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the index is masked to the capacity.
        unsafe { self.entries.add((index & (self.capacity - 1)) as usize) }
    }

    /// Whether the kernel waits for a call before it goes on with this ring.
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and the pointers into it end with this.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.bytes) };
    }
}

/// A ring that we append to.
pub(super) struct Appender<T> {
    ring: Ring<T>,
    /// Where the next entry goes; the kernel sees it after `publish`.
    at: u32,
    /// How far the kernel was when last looked at.
    taken: u32,
}

impl<T: Copy> Appender<T> {
    pub(super) fn map(socket: RawFd, page: libc::off_t, offsets: &libc::xdp_ring_offset, capacity: usize) -> io::Result<Self> {
        Ok(Appender { ring: Ring::map(socket, page, offsets, capacity)?, at: 0, taken: 0 })
    }

    /// Appends an entry; gives it back if there is no room.
    pub(super) fn push(&mut self, entry: T) -> Result<(), T> {
        if self.at.wrapping_sub(self.taken) == self.ring.capacity {
            self.taken = self.ring.consumer().load(Ordering::Acquire);
            if self.at.wrapping_sub(self.taken) == self.ring.capacity {
                return Err(entry);
            }
        }
        // SAFETY: the entry lies within the mapping, and the kernel is done with it: it has taken what was there before.
        unsafe { self.ring.entry(self.at).write(entry) };
        self.at = self.at.wrapping_add(1);
        Ok(())
    }

    /// Shows the kernel what was appended.
    pub(super) fn publish(&mut self) {
        self.ring.producer().store(self.at, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn waiting(&mut self) -> u32 {
        self.taken = self.ring.consumer().load(Ordering::Acquire);
        self.at.wrapping_sub(self.taken)
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that we take from.
pub(super) struct Taker<T> {
    ring: Ring<T>,
    at: u32,
    /// How far the kernel was when last looked at.
    appended: u32,
}

impl<T: Copy> Taker<T> {
    pub(super) fn map(socket: RawFd, page: libc::off_t, offsets: &libc::xdp_ring_offset, capacity: usize) -> io::Result<Self> {
        Ok(Taker { ring: Ring::map(socket, page, offsets, capacity)?, at: 0, appended: 0 })
    }

    /// The next entry, if there is one. The kernel may use its place again after `release`.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.at == self.appended {
            self.appended = self.ring.producer().load(Ordering::Acquire);
            if self.at == self.appended {
                return None;
            }
        }
        // SAFETY: within the mapping, and the kernel has written this entry and does not touch it before it is released.
        let entry = unsafe { self.ring.entry(self.at).read() };
        self.at = self.at.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of what was taken back to the kernel.
    pub(super) fn release(&mut self) {
        self.ring.consumer().store(self.at, Ordering::Release);
    }
}
