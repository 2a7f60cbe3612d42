//! LiveKit's interfaces towards applications: its services over Twirp ([`twirp`]), of which this is [`egress`], and what it tells by
//! itself ([`webhook`]). Messages are those of the crate `livekit-protocol`.

pub mod egress;
pub mod twirp;
pub mod webhook;
