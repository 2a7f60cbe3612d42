//! Ways in besides UDP.

pub mod tcp;
