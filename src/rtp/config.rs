//! What an offer and its answer agreed on, as the data plane needs it: plain data, made by `signal::negotiate`, read by
//! `peer` and `room`.

use arrayvec::{ArrayString, ArrayVec};

use crate::units::{PayloadType, Ssrc};
use crate::wire::extension::ExtensionMap;

/// Media stream identification (RFC 8843 §15): at most 16 bytes, so that it fits a one-byte header extension.
pub type Mid = ArrayString<16>;
/// RTP stream id (RFC 8852), same bound.
pub type Rid = ArrayString<16>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    Audio,
    Video,
}

/// Codecs the server forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    Opus,
    Vp8,
    Vp9,
    H264,
    Av1,
}

impl Codec {
    pub const fn kind(self) -> MediaKind {
        match self {
            Codec::Opus => MediaKind::Audio,
            _ => MediaKind::Video,
        }
    }
    /// Encoding name in SDP (`a=rtpmap`).
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Opus => "opus",
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
            Codec::H264 => "H264",
            Codec::Av1 => "AV1",
        }
    }
}

/// Who sends on an m-line, from the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The server sends to this client.
    SendOnly,
    /// The server receives from this client.
    RecvOnly,
    Inactive,
}

/// RTCP feedback agreed for one payload type (RFC 4585, RFC 5104, RFC 8888, transport-wide-cc draft).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
    pub transport_cc: bool,
    /// `ack ccfb` (RFC 8888 §6), from viewers with which transport-wide feedback is not agreed.
    pub ccfb: bool,
    /// `goog-remb` (draft-alvestrand-rmcat-remb-03), from viewers with which neither is agreed.
    pub remb: bool,
}

/// The parts of a codec's format that decide whether a receiver of one can decode the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Any,
    /// VP9 or AV1 profile number.
    Profile(u8),
    /// H264 (RFC 6184): first two bytes of profile-level-id and packetization-mode.
    H264 { profile_idc: u8, profile_iop: u8, packetization_mode: u8 },
}

/// One payload type of an m-line, with its retransmission twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecConfig {
    pub codec: Codec,
    pub payload_type: PayloadType,
    /// Payload type of RTX for it (RFC 4588).
    pub rtx: Option<PayloadType>,
    /// Payload type of it with redundancy (RFC 2198).
    pub red: Option<PayloadType>,
    pub clock_rate: u32,
    pub format: Format,
    pub feedback: Feedback,
}

impl CodecConfig {
    /// Whether packets of this payload type carry it; retransmissions are another matter.
    pub fn is_media(&self, payload_type: PayloadType) -> bool {
        payload_type == self.payload_type || Some(payload_type) == self.red
    }
}

/// A pair of SSRCs: media and its retransmissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPair {
    pub media: Ssrc,
    pub rtx: Option<Ssrc>,
}

/// Payload types of forward error correction for video, ULPFEC (RFC 5109) in RED (RFC 2198): under which a viewer takes it, or a
/// publisher sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FecConfig {
    pub red: PayloadType,
    pub ulpfec: PayloadType,
    /// Of RTX for what is in RED: with publishers, who repeat it so; viewers are sent it bare.
    pub red_rtx: Option<PayloadType>,
}

impl FecConfig {
    /// In the order of the answer.
    pub fn payload_types(&self) -> impl Iterator<Item = PayloadType> + use<> {
        [Some(self.red), self.red_rtx, Some(self.ulpfec)].into_iter().flatten()
    }
}

/// The negotiated m-line of data channels (RFC 8841).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSection {
    pub mid: Mid,
    /// The client's SCTP port.
    pub sctp_port: u16,
    /// Bytes of a message that the client takes; 0: any.
    pub max_message_size: u32,
}

/// One negotiated m-line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    pub mid: Mid,
    pub kind: MediaKind,
    pub direction: Direction,
    /// In the answer's order. One for `RecvOnly` (the publisher's codec), one or more for `SendOnly`.
    pub codecs: ArrayVec<CodecConfig, 16>,
    pub extensions: ExtensionMap,
    /// For video with codecs of which packets may be protected.
    pub fec: Option<FecConfig>,
    /// SSRCs the client announced (`a=ssrc`, `a=ssrc-group:FID`, `SIM`); empty for rid-based simulcast.
    pub remote_streams: ArrayVec<StreamPair, 4>,
    /// Simulcast rids the client sends, highest quality first as far as the offer tells.
    pub rids: ArrayVec<Rid, 4>,
    /// SSRCs the server announced; for `SendOnly`.
    pub local_stream: Option<StreamPair>,
}
