//! Signalling: how clients come in ([`http`]: WHIP and WHEP; [`livekit`]: members of rooms), what is agreed with them ([`negotiate`]), and the two threads that
//! look after their sessions ([`director`], [`handshakes`]).

pub mod api;
pub mod auth;
pub mod director;
pub mod handshakes;
pub mod http;
pub mod livekit;
pub mod negotiate;
mod whep;
mod whip;
