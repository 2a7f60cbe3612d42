//! LiveKit's protocol: its clients' signalling over a WebSocket ([`socket`], [`join`]), so that apps made with its SDKs work against
//! this server by changing one URL. What the messages do is the director's ([`super::director`]).

mod join;
mod socket;

pub use socket::routes;
