//! Distributary: a WebRTC media server for people who own their machines. One stream comes in, very many go out.
//!
//! # The life of a packet
//! Open these files in this order to follow a packet through the server:
//!
//! 1. [`worker`] `turn()`: commands, mesh, what arrived, fan-out, timers, send. Its second half is `worker/turn.rs`.
//! 2. [`io`]: a batch of datagrams, each in a slot of the worker's arena ([`mem`]).
//! 3. [`peer::receive`]: decrypted in place, assigned to its stream, counted; out comes a [`rtp::media::Media`].
//! 4. [`room::forward`]: packets by track, held for the rest of their frame if the worker is busy ([`worker::hold`]); other
//!    workers with subscribers get handles through their rings.
//! 5. [`peer::send`]: written once per receiver into the send arena, renumbered ([`rtp::rewrite`]), encrypted there. What is more than
//!    its path ([`peer::path`]) carries at once waits for its turn before that ([`worker::pace`]).
//! 6. [`io`] again: all of a turn at once, one receiver's equal-sized packets as one train. With AF_XDP ([`io::xdp`]), frame by
//!    frame from the arena itself.
//!
//! Of publishers that are recorded, handles go to the recorder as well ([`worker::tap`]), or to the program that has the server inside it,
//! which may publish the same way back.
//!
//! # Who does what
//! Workers (one pinned thread each) own sessions and forward. A thread of handshakes does DTLS, and the data channels inside it. The director decides who is
//! joined to what, among them the members of rooms that speak LiveKit's protocol (`signal::livekit`). HTTP runs on tokio and only
//! ever talks to the director. They meet in bounded rings: [`worker::mail`].
//!
//! Imports point downwards: services (`signal`, `admin`) → `topology` → `worker` → `peer`, `room`, `io` → `secure`, `rtp` →
//! `wire`, `mem` → `units`, `limits`, `metrics`, `config`. `tests/tidy.rs` holds us to it.

pub mod io;
pub mod limits;
pub mod mem;
pub mod metrics;
pub mod peer;
pub mod room;
pub mod rtp;
pub mod secure;
pub mod units;
pub mod wire;
pub mod worker;

pub mod config;

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod client;
#[cfg(feature = "server")]
pub mod doctor;
#[cfg(feature = "server")]
pub mod gateway;
#[cfg(feature = "server")]
pub mod record;
#[cfg(feature = "server")]
pub mod signal;
#[cfg(feature = "server")]
pub mod topology;
