//! What one turn sends: ciphertext of many receivers, one after the other in one buffer, and a list of send operations.
//!
//! Packets for one receiver lie next to each other, so a run of equal-sized ones is one operation with a segment size
//! (UDP_SEGMENT): [`SendBatch::commit`] joins them by itself.

use std::net::SocketAddr;

use crate::limits::{DATAGRAM_BYTES_MAX, SEND_ARENA_BYTES, SEND_OPS, TRAIN_BYTES, TRAIN_SEGMENTS};

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

/// The send arena of a worker.
pub struct SendBatch {
    bytes: Box<[u8]>,
    used: usize,
    operations: Vec<Transmit>,
}

impl Default for SendBatch {
    fn default() -> Self {
        SendBatch { bytes: vec![0; SEND_ARENA_BYTES].into(), used: 0, operations: Vec::with_capacity(SEND_OPS) }
    }
}

impl SendBatch {
    /// Room for one more datagram? If not, the batch has to be sent and cleared first.
    pub fn has_room(&self) -> bool {
        self.used + DATAGRAM_BYTES_MAX <= self.bytes.len() && self.operations.len() < SEND_OPS
    }

    /// Where the next datagram is written. Call [`SendBatch::commit`] with its length afterwards.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// Adds the datagram just written to [`SendBatch::space`]; joins it to the train before it when it may.
    pub fn commit(&mut self, to: SocketAddr, len: usize) {
        debug_assert!(len > 0 && self.used + len <= self.bytes.len());
        let start = self.used as u32;
        self.used += len;
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

    /// The bytes of one operation.
    pub fn bytes(&self, transmit: &Transmit) -> &[u8] {
        &self.bytes[transmit.start as usize..(transmit.start + transmit.len) as usize]
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn clear(&mut self) {
        self.used = 0;
        self.operations.clear();
    }
}

#[cfg(test)]
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
}
