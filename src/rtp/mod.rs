//! RTP as state machines without sockets or clocks: reception statistics, loss recovery, reports, and the rewriting that makes
//! one continuous stream out of what publishers come and go. One concern a file.

pub mod allocate;
pub mod cache;
pub mod config;
pub mod fec;
pub mod gcc;
pub mod layers;
pub mod level;
pub mod media;
pub mod nack;
pub mod reception;
pub mod recover;
pub mod red;
pub mod report;
pub mod rewrite;
pub mod thinning;
pub mod transport_cc;
