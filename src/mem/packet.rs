//! Handles to a datagram in an arena slot: [`PacketMut`] while it is received and decrypted in place (unique, writable), then
//! [`Packet`] (shared, read-only, counted), which other cores, the retransmission cache and taps hold.

use super::arena::Arena;
use super::sync::{Ordering, fence};
use crate::limits::{DATAGRAM_BYTES_MAX, HEADROOM_BYTES, SLOT_BYTES};

/// The only handle to a slot.
pub struct PacketMut {
    arena: &'static Arena,
    slot: u32,
    start: u16,
    len: u16,
}

impl PacketMut {
    pub(super) fn new(arena: &'static Arena, slot: u32) -> Self {
        PacketMut { arena, slot, start: HEADROOM_BYTES as u16, len: 0 }
    }

    /// The datagram's bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start + len <= SLOT_BYTES` (see `set_range`), and this is the only handle to the slot.
        unsafe { std::slice::from_raw_parts(self.arena.slot(self.slot).as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The datagram's bytes, to decrypt in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.arena.writes(self.slot);
        // SAFETY: as in `bytes`; `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.arena.slot(self.slot).as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The whole slot, for a receive backend to write into.
    pub fn slot_mut(&mut self) -> &mut [u8; SLOT_BYTES] {
        self.arena.writes(self.slot);
        // SAFETY: the slot is SLOT_BYTES long and this is the only handle to it.
        unsafe { &mut *self.arena.slot(self.slot).as_ptr().cast() }
    }

    /// Says where in the slot the datagram lies.
    pub fn set_range(&mut self, start: usize, len: usize) {
        assert!(start + len <= SLOT_BYTES);
        self.start = start as u16;
        self.len = len as u16;
    }

    /// Shortens the datagram (an authentication tag was taken off).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u16);
    }

    /// Drops `count` bytes from the front.
    pub fn advance(&mut self, count: usize) {
        let count = (count as u16).min(self.len);
        self.start += count;
        self.len -= count;
    }

    /// Copies a datagram in, cut at [`DATAGRAM_BYTES_MAX`].
    pub fn fill(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(DATAGRAM_BYTES_MAX);
        self.set_range(HEADROOM_BYTES, len);
        self.bytes_mut().copy_from_slice(&bytes[..len]);
    }

    /// Ends writing: from here on the bytes are shared and never change.
    pub fn freeze(self) -> Packet {
        let packet = Packet { arena: self.arena, slot: self.slot, start: self.start, len: self.len };
        std::mem::forget(self);
        packet
    }

    /// Gives the slot's number out, for a backend that hands the slot to the kernel; the handle ends without freeing it.
    pub(crate) fn into_slot(self) -> u32 {
        let slot = self.slot;
        std::mem::forget(self);
        slot
    }

    /// Takes a slot back that [`PacketMut::into_slot`] gave out.
    ///
    /// # Safety
    /// `slot` must come from `into_slot` of a packet of this arena, and be taken back once.
    pub(crate) unsafe fn from_slot(arena: &'static Arena, slot: u32) -> PacketMut {
        PacketMut::new(arena, slot)
    }
}

impl Drop for PacketMut {
    fn drop(&mut self) {
        self.arena.references[self.slot as usize].store(0, Ordering::Relaxed);
        self.arena.give_back(self.slot);
    }
}

/// A shared, read-only handle; cloning adds a reference, never copies bytes.
pub struct Packet {
    arena: &'static Arena,
    slot: u32,
    start: u16,
    len: u16,
}

impl Packet {
    pub fn bytes(&self) -> &[u8] {
        self.arena.reads(self.slot);
        // SAFETY: `start + len <= SLOT_BYTES`, and nobody writes to a slot while a `Packet` to it lives.
        unsafe { std::slice::from_raw_parts(self.arena.slot(self.slot).as_ptr().add(self.start as usize), self.len as usize) }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }
}

impl Clone for Packet {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones already holds a reference, as in `Arc::clone`.
        self.arena.references[self.slot as usize].fetch_add(1, Ordering::Relaxed);
        Packet { arena: self.arena, slot: self.slot, start: self.start, len: self.len }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // Release/Acquire as in `Arc::drop`: all reads of the bytes happen before the owner writes to the slot again.
        if self.arena.references[self.slot as usize].fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            self.arena.give_back(self.slot);
        }
    }
}

const _: () = assert!(size_of::<Packet>() == 16);
