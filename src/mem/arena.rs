//! An arena of equal slots, owned by one worker, whose packets any core may read and drop.
//!
//! ```text
//!   owner thread                      any thread
//!   Slots::take ──► PacketMut ─freeze─► Packet ─clone─► Packet
//!      ▲                                   │ last drop
//!      │ take all at once (swap)           ▼
//!      └────────────── returned: stack of slot numbers (compare-and-swap push)
//! ```
//!
//! Invariants: a slot is either free (in `Slots::free` or on the returned stack, reference count 0) or held by exactly as
//! many handles as its count says. Only the owner takes, so the returned stack has many pushers and one taker that empties
//! it whole: there is no ABA.
//!
//! Arenas live as long as the process: workers do, and a handle is then 16 bytes and needs no count of the arena itself.

use std::ptr::NonNull;

use super::memory::{self, MemoryError, Pages};
use super::packet::PacketMut;
use super::sync::{AtomicU32, Ordering};
use crate::config::HugePages;
use crate::limits::SLOT_BYTES;

const NONE: u32 = u32::MAX;

/// The shared part: memory, reference counts, the stack of returned slots.
pub struct Arena {
    base: NonNull<u8>,
    slots: u32,
    /// Handles to each slot.
    pub(super) references: Box<[AtomicU32]>,
    /// Link of the returned stack.
    next: Box<[AtomicU32]>,
    returned: AtomicU32,
    /// For the model checker, which sees no raw memory: one cell for each slot, read and written with it.
    #[cfg(feature = "model")]
    cells: Box<[loom::cell::UnsafeCell<()>]>,
}

// SAFETY: the memory behind `base` is only reached through `PacketMut` (unique) and `Packet` (shared, read-only); the rest is atomics.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes an arena that lives as long as the process, and the owner's end of it. Call it on the core where it will be used,
    /// for its memory to be of that core's NUMA node.
    pub fn map(slots: usize, huge: HugePages) -> Result<(Slots, Pages), MemoryError> {
        assert!(slots > 0 && slots < NONE as usize);
        let (base, pages) = memory::map(slots * SLOT_BYTES, huge)?;
        Ok((Arena::over(base, slots), pages))
    }

    /// The same on small pages, for tests and tools: panics if there is no memory.
    pub fn leak(slots: usize) -> Slots {
        Arena::map(slots, HugePages::Off).expect("memory for an arena").0
    }

    fn over(base: NonNull<u8>, slots: usize) -> Slots {
        let arena: &'static Arena = Box::leak(Box::new(Arena {
            base,
            slots: slots as u32,
            references: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            next: (0..slots).map(|_| AtomicU32::new(NONE)).collect(),
            returned: AtomicU32::new(NONE),
            #[cfg(feature = "model")]
            cells: (0..slots).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }));
        Slots { arena, free: Vec::with_capacity(slots), fresh: 0 }
    }

    /// Start of the memory: `slots() * SLOT_BYTES` bytes.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// Start of one slot.
    pub(crate) fn slot(&self, slot: u32) -> NonNull<u8> {
        assert!(slot < self.slots);
        // SAFETY: the slot lies within the allocation, checked above.
        unsafe { self.base.add(slot as usize * SLOT_BYTES) }
    }

    /// A slot's bytes are read.
    #[inline]
    pub(super) fn reads(&self, _slot: u32) {
        #[cfg(feature = "model")]
        self.cells[_slot as usize].with(|_| ());
    }

    /// A slot's bytes are written.
    #[inline]
    pub(super) fn writes(&self, _slot: u32) {
        #[cfg(feature = "model")]
        self.cells[_slot as usize].with_mut(|_| ());
    }

    /// Gives a slot without handles back to the owner.
    pub(super) fn give_back(&self, slot: u32) {
        let mut head = self.returned.load(Ordering::Relaxed);
        loop {
            self.next[slot as usize].store(head, Ordering::Relaxed);
            match self.returned.compare_exchange_weak(head, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// The owner's end of an arena: where slots are taken from. One per arena, on the owner's thread.
pub struct Slots {
    arena: &'static Arena,
    /// Slots that were used and came back.
    free: Vec<u32>,
    /// Slots from this one on have never been used: their memory is not there yet. They are taken last, so that a worker
    /// occupies what it needs at a time and not what it has needed in all.
    fresh: u32,
}

impl Slots {
    /// A free slot, or none when all are held somewhere.
    pub fn take(&mut self) -> Option<PacketMut> {
        if self.free.is_empty() {
            self.reclaim();
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.fresh < self.arena.slots => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.arena.references[slot as usize].store(1, Ordering::Relaxed);
        Some(PacketMut::new(self.arena, slot))
    }

    /// Collects the slots whose last handle was dropped, here or elsewhere.
    fn reclaim(&mut self) {
        let mut slot = self.arena.returned.swap(NONE, Ordering::Acquire);
        while slot != NONE {
            let next = self.arena.next[slot as usize].load(Ordering::Relaxed);
            // `free` was made with room for every slot, so this never allocates.
            self.free.push(slot);
            slot = next;
        }
    }

    /// Slots that could be taken now.
    pub fn available(&mut self) -> usize {
        self.reclaim();
        self.free.len() + (self.arena.slots - self.fresh) as usize
    }

    pub fn arena(&self) -> &'static Arena {
        self.arena
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_from_other_threads() {
        let mut slots = Arena::leak(64);
        for round in 0..200u32 {
            let mut handles = Vec::new();
            while let Some(mut packet) = slots.take() {
                packet.fill(&round.to_be_bytes());
                handles.push(packet.freeze());
            }
            assert_eq!(handles.len(), 64);
            std::thread::scope(|scope| {
                for part in handles.chunks(16) {
                    let copies: Vec<_> = part.to_vec();
                    scope.spawn(move || {
                        for packet in &copies {
                            assert_eq!(packet.bytes(), round.to_be_bytes());
                        }
                    });
                }
            });
            assert!(slots.take().is_none(), "still held by this thread");
            drop(handles);
            assert_eq!(slots.available(), 64);
        }
    }
}
