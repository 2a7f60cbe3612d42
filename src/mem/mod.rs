//! Memory of the packet path: arenas of fixed slots, handles to packets in them, batches to send. One of the two places
//! with `unsafe` (the other is `io/`).
#![allow(unsafe_code)]

pub mod arena;
pub mod batch;
pub mod handoff;
pub mod memory;
#[cfg(all(test, feature = "model"))]
mod model;
pub mod packet;
mod prefetch;
mod sync;

pub use arena::{Arena, Slots};
pub use batch::{SendBatch, Transmit};
pub use handoff::Handoff;
pub use memory::{MemoryError, Pages};
pub use packet::{Packet, PacketMut};
pub use prefetch::prefetch;
