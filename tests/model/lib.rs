//! The crate's `mem` once more, with loom's atomics: its tests in `mem::model` try every interleaving that the memory model allows. A package
//! of its own, so that only this module is built twice.
#![allow(dead_code, unused_imports)] // what only the packet path uses of it

#[path = "../../src/mem/mod.rs"]
mod mem;

mod config {
    pub use distributary::config::HugePages;
}

mod limits {
    pub use distributary::limits::*;
}

mod units {
    pub use distributary::units::*;
}
