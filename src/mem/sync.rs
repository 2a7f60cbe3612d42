//! The atomics of this module: the standard library's, or loom's when its model checker tries every interleaving
//! (feature `model`, `mem::model`).

#[cfg(feature = "model")]
pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering, fence};
#[cfg(not(feature = "model"))]
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering, fence};
