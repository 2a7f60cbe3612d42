//! Wire formats as views over bytes: the length is checked once, then fields are read where they lie. Nothing here allocates,
//! keeps state, or panics on any input; a malformed packet is a [`DropReason`](crate::metrics::DropReason).
//!
//! | file | format |
//! |---|---|
//! | `demux` | which protocol a datagram is (RFC 7983) |
//! | `stun` | STUN as ICE uses it (RFC 8489, RFC 8445) |
//! | `rtp`, `extension` | RTP headers (RFC 3550) and their extensions (RFC 8285) |
//! | `rtcp`, `twcc` | RTCP (RFC 3550, 4585, 5104, 3611) and transport-wide feedback |
//! | `vp8`, `vp9`, `h264`, `av1` | payload descriptors: key frames, layers, picture ids |

mod bytes;

pub mod av1;
pub mod demux;
pub mod extension;
pub mod h264;
pub mod picture;
pub mod rtcp;
pub mod rtp;
pub mod stun;
pub mod twcc;
pub mod vp8;
pub mod vp9;
