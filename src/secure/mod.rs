//! What makes a session trustworthy: connectivity checks with consent ([`ice`]), the handshake ([`dtls`]), encrypted media ([`srtp`]).

pub mod dtls;
pub mod ice;
pub mod srtp;
