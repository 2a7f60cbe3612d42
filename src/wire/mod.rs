//! Wire formats as views over bytes: the length is checked once, then fields are read where they lie. Nothing here allocates,
//! keeps state, or panics on any input; a malformed packet is a [`DropReason`](crate::metrics::DropReason).
//!
//! | file | format |
//! |---|---|
//! | `demux` | which protocol a datagram is (RFC 7983) |
//! | `stun` | STUN as ICE uses it (RFC 8489, RFC 8445) |
//! | `rtp`, `extension` | RTP headers (RFC 3550) and their extensions (RFC 8285) |
//! | `rtcp`, `twcc`, `ccfb` | RTCP (RFC 3550, 4585, 5104, 3611), transport-wide feedback, and congestion control feedback (RFC 8888) |
//! | `ulpfec` | forward error correction by parity (RFC 5109) |
//! | `vp8`, `vp9`, `h264`, `av1` | payload descriptors: key frames, layers, picture ids |
//! | `bits` | a bit string, read most significant bit first |
//! | `dependency` | the dependency descriptor of scalable video (AV1 RTP specification, appendix A) |
//! | `layer` | what `vp8`, `vp9`, `h264` and `dependency` say about layers, in common words |

mod bytes;

pub mod av1;
pub(crate) mod bits;
pub mod ccfb;
pub mod demux;
pub mod dependency;
pub mod extension;
pub mod h264;
pub mod layer;
pub mod picture;
pub mod rtcp;
pub mod rtp;
pub mod stun;
pub mod twcc;
pub mod ulpfec;
#[cfg(test)]
pub(crate) mod vectors;
pub mod vp8;
pub mod vp9;
