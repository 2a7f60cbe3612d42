//! What makes a session trustworthy: connectivity checks with consent ([`ice`]), the handshake ([`dtls`]), encrypted media ([`srtp`]),
//! and the data channels inside DTLS ([`sctp`]).

pub mod dtls;
pub mod ice;
pub mod sctp;
pub mod srtp;
