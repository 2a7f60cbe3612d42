//! Memory of the packet path: arenas of fixed slots, handles to packets in them, batches to send. One of the two places
//! with `unsafe` (the other is `io/`).
#![allow(unsafe_code)]

pub mod arena;
pub mod batch;
pub mod handoff;
pub mod packet;

pub use arena::{Arena, Slots};
pub use batch::{SendBatch, Transmit};
pub use handoff::Handoff;
pub use packet::{Packet, PacketMut};
