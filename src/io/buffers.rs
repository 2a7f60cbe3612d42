//! The ring of receive buffers that the kernel takes from (`IORING_REGISTER_PBUF_RING`): the owner appends, the kernel takes.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// The memory shared with the kernel. Leaked, like the arenas: the kernel lets go of a ring some time after it is closed.
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    mask: u16,
    /// Entries ever appended, as the kernel counts them: wraps.
    tail: u16,
    /// Buffers that the kernel holds.
    held: usize,
}

// SAFETY: the memory is owned alone through `entries`; nothing in it belongs to a thread.
unsafe impl Send for BufferRing {}

impl BufferRing {
    pub(super) fn leak(entries: usize) -> BufferRing {
        assert!(entries.is_power_of_two() && entries <= 1 << 15);
        let layout = Layout::from_size_align(entries * size_of::<BufRingEntry>(), 4096).expect("buffer ring size");
        // SAFETY: the layout has a size above zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        BufferRing { entries: base.cast(), mask: entries as u16 - 1, tail: 0, held: 0 }
    }

    pub(super) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(super) fn capacity(&self) -> usize {
        self.mask as usize + 1
    }

    /// Buffers that the kernel holds.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn is_full(&self) -> bool {
        self.held == self.capacity()
    }

    /// Appends a buffer; the kernel sees it after [`BufferRing::publish`].
    ///
    /// # Safety
    /// `len` bytes at `buffer` must be the kernel's alone to write from now on until it reports `id` as used.
    pub(super) unsafe fn append(&mut self, buffer: *mut u8, len: usize, id: u16) {
        debug_assert!(!self.is_full());
        // SAFETY: the index is masked to the capacity, and the entry at the tail is not the kernel's while the ring isn't full.
        let entry = unsafe { self.entries.add((self.tail & self.mask) as usize).as_mut() };
        entry.set_addr(buffer as u64);
        entry.set_len(len as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.held += 1;
    }

    /// Shows the kernel what was appended.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail lies in the first entry, which is live, aligned memory; only this owner writes it, the kernel reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Notes that the kernel used one buffer.
    pub(super) fn used(&mut self) {
        self.held -= 1;
    }
}
