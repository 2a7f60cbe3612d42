//! What one turn sends: ciphertext of many receivers and a list of send operations. It lies in one of two places:
//!
//! - **One buffer** ([`SendBatch::default`]), for sockets: datagrams one after the other. Packets for one receiver lie next to
//!   each other, so a run of equal-sized ones is one operation with a segment size (UDP_SEGMENT): [`SendBatch::commit`] joins
//!   them by itself.
//! - **Frames** ([`SendBatch::of_frames`]), for AF_XDP: each datagram in a slot of the worker's arena, with room for headers
//!   before it, because the device sends it from there. The slots are the batch's own from the start and go round:
//!
//! ```text
//!   free ──space, commit──► operations ──hand_out──► the kernel ──give_back──► free
//!                               └──────────────clear──────────────────────────► free
//! ```

use std::net::SocketAddr;

use super::arena::{Arena, Slots};
use crate::limits::{DATAGRAM_BYTES_MAX, HEADROOM_BYTES, SEND_ARENA_BYTES, SEND_OPS, SLOT_BYTES, TRAIN_BYTES, TRAIN_SEGMENTS};

/// One send operation: `bytes[start..start + len]` to `to`, cut into datagrams of `segment` bytes (the last may be shorter).
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    pub to: SocketAddr,
    pub start: u32,
    pub len: u32,
    /// Bytes of each datagram; equal to `len` for a single one.
    pub segment: u16,
    pub segments: u16,
    /// A shorter last segment was added, or the train is at its limit: nothing more may join.
    closed: bool,
}

impl Transmit {
    /// The slot in which a frame's datagram lies.
    pub(crate) fn slot(&self) -> u32 {
        self.start / SLOT_BYTES as u32
    }
}

/// The send arena of a worker.
pub struct SendBatch {
    memory: Memory,
    operations: Vec<Transmit>,
}

enum Memory {
    Buffer { bytes: Box<[u8]>, used: usize },
    Frames(Frames),
}

/// Slots that are the batch's to write into.
struct Frames {
    arena: &'static Arena,
    free: Vec<u32>,
    /// Where datagrams are written when no slot is free; they are not sent. So a caller always gets space.
    spare: u32,
    /// Datagrams that were written there since [`SendBatch::lost`] was asked.
    lost: u64,
}

impl Default for SendBatch {
    fn default() -> Self {
        SendBatch {
            memory: Memory::Buffer { bytes: vec![0; SEND_ARENA_BYTES].into(), used: 0 },
            operations: Vec::with_capacity(SEND_OPS),
        }
    }
}

impl SendBatch {
    /// A batch of frames: takes `count` slots, and one more, out of the arena for good. None if there are not as many, or if
    /// they cannot be told by a 32-bit offset.
    pub fn of_frames(slots: &mut Slots, count: usize) -> Option<SendBatch> {
        let arena = slots.arena();
        if slots.available() <= count || arena.slots() * SLOT_BYTES > u32::MAX as usize {
            return None;
        }
        let spare = slots.take()?.into_slot();
        let free: Vec<u32> = (0..count).filter_map(|_| slots.take()).map(|packet| packet.into_slot()).collect();
        let frames = Frames { arena, free, spare, lost: 0 };
        Some(SendBatch { memory: Memory::Frames(frames), operations: Vec::with_capacity(SEND_OPS) })
    }

    /// Room for one more datagram? If not, the batch has to be sent and cleared first.
    pub fn has_room(&self) -> bool {
        let fits = match &self.memory {
            Memory::Buffer { bytes, used } => used + DATAGRAM_BYTES_MAX <= bytes.len(),
            Memory::Frames(frames) => !frames.free.is_empty(),
        };
        fits && self.operations.len() < SEND_OPS
    }

    /// Where the next datagram is written. Call [`SendBatch::commit`] with its length afterwards.
    pub fn space(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Buffer { bytes, used } => &mut bytes[*used..],
            Memory::Frames(frames) => {
                let slot = frames.free.last().copied().unwrap_or(frames.spare);
                // SAFETY: the slot is SLOT_BYTES long and came out of the arena for this batch alone (`of_frames`); while it is in
                // `free`, or is `spare`, neither an operation nor the kernel refers to it. The borrow is that of the batch.
                unsafe {
                    let start = frames.arena.slot(slot).as_ptr().add(HEADROOM_BYTES);
                    std::slice::from_raw_parts_mut(start, SLOT_BYTES - HEADROOM_BYTES)
                }
            }
        }
    }

    /// Adds the datagram just written to [`SendBatch::space`]; joins it to the train before it when it may.
    pub fn commit(&mut self, to: SocketAddr, len: usize) {
        let start = match &mut self.memory {
            Memory::Buffer { bytes, used } => {
                debug_assert!(len > 0 && *used + len <= bytes.len());
                let start = *used as u32;
                *used += len;
                start
            }
            Memory::Frames(frames) => {
                debug_assert!(len > 0 && len <= SLOT_BYTES - HEADROOM_BYTES);
                let Some(slot) = frames.free.pop() else {
                    frames.lost += 1;
                    return;
                };
                let start = slot * SLOT_BYTES as u32 + HEADROOM_BYTES as u32;
                let single = Transmit { to, start, len: len as u32, segment: len as u16, segments: 1, closed: true };
                return self.operations.push(single);
            }
        };
        if let Some(last) = self.operations.last_mut()
            && !last.closed
            && last.to == to
            && len <= last.segment as usize
            && last.len as usize + len <= TRAIN_BYTES
        {
            last.len += len as u32;
            last.segments += 1;
            last.closed = len < last.segment as usize || last.segments as usize == TRAIN_SEGMENTS;
            return;
        }
        self.operations.push(Transmit { to, start, len: len as u32, segment: len as u16, segments: 1, closed: false });
    }

    pub fn operations(&self) -> &[Transmit] {
        &self.operations
    }

    /// The bytes of one operation of this batch.
    pub fn bytes(&self, transmit: &Transmit) -> &[u8] {
        match &self.memory {
            Memory::Buffer { bytes, .. } => &bytes[transmit.start as usize..(transmit.start + transmit.len) as usize],
            Memory::Frames(frames) => {
                let at = transmit.start as usize % SLOT_BYTES;
                assert!(at + transmit.len as usize <= SLOT_BYTES);
                // SAFETY: within the slot, as was just checked; an operation's slot is written by nobody until it is cleared or
                // handed out, both of which need the batch mutably.
                unsafe { std::slice::from_raw_parts(frames.arena.slot(transmit.slot()).as_ptr().add(at), transmit.len as usize) }
            }
        }
    }

    /// Offers each operation to `take`, with the whole slot it lies in (headers may be written before the datagram). Those that
    /// it takes leave the batch; their slots are whoever took them's, until [`SendBatch::give_back`]. Of one buffer, offers none.
    pub(crate) fn hand_out(&mut self, mut take: impl FnMut(&Transmit, &mut [u8; SLOT_BYTES]) -> bool) {
        let Memory::Frames(frames) = &self.memory else { return };
        self.operations.retain(|operation| {
            // SAFETY: as in `space`: an operation's slot is this batch's alone, and each operation has a slot of its own.
            let slot = unsafe { &mut *frames.arena.slot(operation.slot()).as_ptr().cast() };
            !take(operation, slot)
        });
    }

    /// Takes a slot back.
    ///
    /// # Safety
    /// [`SendBatch::hand_out`] of this batch gave `slot` out, it was not given back since, and nobody reads it any more.
    pub(crate) unsafe fn give_back(&mut self, slot: u32) {
        if let Memory::Frames(frames) = &mut self.memory {
            // `free` was made with room for every slot, so this never allocates.
            frames.free.push(slot);
        }
    }

    /// Datagrams that found no free frame since the last call, and are lost.
    pub(crate) fn lost(&mut self) -> u64 {
        match &mut self.memory {
            Memory::Buffer { .. } => 0,
            Memory::Frames(frames) => std::mem::take(&mut frames.lost),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn clear(&mut self) {
        match &mut self.memory {
            Memory::Buffer { used, .. } => *used = 0,
            Memory::Frames(frames) => frames.free.extend(self.operations.iter().map(Transmit::slot)),
        }
        self.operations.clear();
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_to_one_receiver_form_a_train_that_a_shorter_one_ends() {
        let (a, b) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut batch = SendBatch::default();
        for (to, len) in [(a, 1200), (a, 1200), (a, 700), (a, 1200), (b, 1200), (b, 1201)] {
            batch.commit(to, len);
        }
        let shapes: Vec<_> = batch.operations().iter().map(|op| (op.to, op.len, op.segment, op.segments)).collect();
        assert_eq!(shapes, [(a, 3100, 1200, 3), (a, 1200, 1200, 1), (b, 1200, 1200, 1), (b, 1201, 1201, 1)]);
    }

    #[test]
    fn frames_go_round_and_never_run_out_of_space_to_write() {
        let to = "127.0.0.1:1".parse().unwrap();
        let mut slots = Arena::leak(16);
        assert!(SendBatch::of_frames(&mut slots, 16).is_none(), "the spare one is a slot too");
        let mut batch = SendBatch::of_frames(&mut slots, 4).unwrap();
        assert_eq!(slots.available(), 11);
        for round in 0..3u8 {
            for value in 0..6u8 {
                assert_eq!(batch.has_room(), value < 4);
                batch.space()[..10].fill(round * 10 + value);
                batch.commit(to, 10);
            }
            assert_eq!((batch.operations().len(), batch.lost(), batch.lost()), (4, 2, 0));
            let mut handed = Vec::new();
            batch.hand_out(|operation, slot| {
                assert_eq!(slot[HEADROOM_BYTES..HEADROOM_BYTES + 10], [round * 10 + handed.len() as u8; 10]);
                slot[..HEADROOM_BYTES].fill(9);
                handed.push(operation.slot());
                handed.len() <= 3
            });
            let left: Vec<_> = batch.operations().iter().map(|operation| batch.bytes(operation)).collect();
            assert_eq!(left, [[round * 10 + 3; 10]]);
            batch.clear();
            assert!(batch.is_empty() && batch.has_room());
            for slot in &handed[..3] {
                // SAFETY: handed out above, and nobody has it.
                unsafe { batch.give_back(*slot) };
            }
        }
    }
}
