//! Who gets what, on one worker: the shard of every track that has a subscriber or its publisher here, and the fan-out of one
//! turn's packets. Policy (who may subscribe to what) is the control plane's; here is only what flows.

pub mod floor;
pub mod forward;
pub mod shard;
pub mod speaker;
