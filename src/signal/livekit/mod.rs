//! LiveKit's protocol, so that apps made with its SDKs work against this server by changing one URL: its clients' signalling over a
//! WebSocket ([`socket`], [`join`]), its services over Twirp ([`twirp`]), [`service`] and [`egress`], and what it tells applications by
//! itself ([`webhook`]). What clients' messages do is the director's ([`super::director`]).

pub mod egress;
pub(super) mod join;
mod service;
mod socket;
pub mod twirp;
pub mod webhook;

use std::sync::Arc;

use axum::Router;

use super::http::Services;

/// `/rtc…` and `/twirp/livekit.RoomService/…`.
pub fn routes() -> Router<Arc<Services>> {
    socket::routes().merge(service::routes())
}

/// Letters and digits of an id that nobody can guess.
fn random_id() -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = [0u8; 16];
    // As for sessions: without randomness nothing is safe.
    getrandom::fill(&mut bytes).expect("the operating system's random numbers");
    bytes.iter().map(|byte| char::from(ALPHABET[*byte as usize % ALPHABET.len()])).collect()
}
