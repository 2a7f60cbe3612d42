//! Why an offer was refused: a text for the person at the other end, and the HTTP status that goes with it.

use std::fmt;

use crate::limits;

/// What went wrong, as far as HTTP has to know (RFC 9725 §4.2 and §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not an SDP offer, or one that breaks a rule of its RFC: 400 Bad Request.
    Malformed,
    /// Longer than the server reads: 413 Content Too Large.
    TooLarge,
    /// A well-formed offer that the server cannot serve: 422 Unprocessable Content. RFC 9725 §4.4.2 and §4.4.3 name 422 for
    /// unsupported tracks and for what would otherwise be a half-accepted offer.
    Unprocessable,
}

impl ErrorKind {
    pub const fn status(self) -> u16 {
        match self {
            ErrorKind::Malformed => 400,
            ErrorKind::TooLarge => 413,
            ErrorKind::Unprocessable => 422,
        }
    }
}

/// An m-line as error texts name it: its position from 1 and its media type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub number: usize,
    pub media: String,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m-line {} ({})", self.number, self.media)
    }
}

/// A refused offer or fragment. `Display` is a sentence or two for a `text/plain` body: what was wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NegotiateError {
    TooLong { bytes: usize, bytes_max: usize },
    NotSdp { reason: String },
    TooManySections { count: usize },
    NoSections,
    MissingMid { section: Section },
    BadMid { section: Section },
    DuplicateMid { mid: String },
    MissingBundle,
    NotBundled { section: Section },
    MissingRtcpMux { section: Section },
    UnknownProtocol { section: Section, protocol: String },
    BadPayloadType { section: Section, text: String },
    PayloadTypeConflict { payload_type: u8 },
    DuplicateSsrc { ssrc: u32 },
    BothIceLite,
    MissingIceCredentials,
    BadIceCredentials { attribute: &'static str },
    MissingFingerprint,
    UnusableFingerprint,
    BadSetup { value: String },
    WrongDirection { section: Section, offered: &'static str, wanted: &'static str },
    SecondTrack { section: Section },
    NoCommonCodec { section: Section, offered: String, handled: String },
    NothingToSend,
    NothingToReceive,
}

impl NegotiateError {
    pub const fn kind(&self) -> ErrorKind {
        use NegotiateError::*;
        match self {
            TooLong { .. } => ErrorKind::TooLarge,
            NotSdp { .. }
            | TooManySections { .. }
            | NoSections
            | MissingMid { .. }
            | BadMid { .. }
            | DuplicateMid { .. }
            | BadPayloadType { .. }
            | PayloadTypeConflict { .. }
            | DuplicateSsrc { .. }
            | MissingIceCredentials
            | BadIceCredentials { .. }
            | MissingFingerprint
            | BadSetup { .. } => ErrorKind::Malformed,
            MissingBundle
            | NotBundled { .. }
            | MissingRtcpMux { .. }
            | UnknownProtocol { .. }
            | BothIceLite
            | UnusableFingerprint
            | WrongDirection { .. }
            | SecondTrack { .. }
            | NoCommonCodec { .. }
            | NothingToSend
            | NothingToReceive => ErrorKind::Unprocessable,
        }
    }
}

impl fmt::Display for NegotiateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use NegotiateError::*;
        match self {
            TooLong { bytes, bytes_max } => {
                write!(f, "The SDP is {bytes} bytes long; the server reads at most {bytes_max}.")
            }
            NotSdp { reason } => write!(f, "The body is not an SDP description (RFC 8866): {reason}."),
            TooManySections { count } => {
                write!(f, "The offer has {count} m-lines; the server reads at most {}.", limits::MEDIA_SECTIONS_MAX)
            }
            NoSections => f.write_str("The offer has no m-line. Add an audio or video transceiver before making the offer."),
            MissingMid { section } => {
                write!(f, "{section} has no a=mid. BUNDLE needs a mid on every m-line (RFC 8843 §7): add a=mid and a=group:BUNDLE.")
            }
            BadMid { section } => {
                write!(f, "{section} has an a=mid that is not a token of 1 to 16 characters. Use a short one, like 0 or video.")
            }
            DuplicateMid { mid } => write!(f, "Two m-lines have a=mid:{mid}. Give each its own mid."),
            MissingBundle => {
                f.write_str("The offer has no a=group:BUNDLE. All media go over one transport here: offer BUNDLE (RFC 8843).")
            }
            NotBundled { section } => {
                write!(
                    f,
                    "{section} is not in the a=group:BUNDLE. All media go over one transport here: put its mid into the group."
                )
            }
            MissingRtcpMux { section } => {
                write!(f, "{section} has no a=rtcp-mux. RTP and RTCP share one port here: offer a=rtcp-mux (RFC 5761).")
            }
            UnknownProtocol { section, protocol } => {
                write!(f, "{section} has the transport {protocol}. Only DTLS-SRTP is spoken here: offer UDP/TLS/RTP/SAVPF.")
            }
            BadPayloadType { section, text } => {
                write!(f, "{section} lists the payload type {text:?}. Payload types are numbers from 0 to 127.")
            }
            PayloadTypeConflict { payload_type } => write!(
                f,
                "Payload type {payload_type} stands for two codecs in one BUNDLE group (RFC 8843 §9.1.1). Give each its own number."
            ),
            DuplicateSsrc { ssrc } => write!(f, "SSRC {ssrc} is announced for two streams. Give each stream its own SSRC."),
            BothIceLite => f.write_str(
                "The offer says a=ice-lite, and so does this server: nobody would check the path. Offer full ICE (RFC 8445).",
            ),
            MissingIceCredentials => f.write_str("The offer has no a=ice-ufrag and a=ice-pwd. Add them (RFC 8839 §5.4)."),
            BadIceCredentials { attribute } => {
                write!(
                    f,
                    "The a={attribute} is not well-formed: RFC 8839 §5.4 asks for 4–256 (ufrag) or 22–256 (pwd) letters, digits, + or /."
                )
            }
            MissingFingerprint => {
                f.write_str("The offer has no a=fingerprint. DTLS needs the certificate's fingerprint (RFC 8122): add one.")
            }
            UnusableFingerprint => {
                f.write_str("No a=fingerprint of the offer is well-formed with sha-256, sha-384 or sha-512. Use sha-256.")
            }
            BadSetup { value } => write!(f, "a=setup:{value} cannot be answered. Offer a=setup:actpass (RFC 8842 §5.2)."),
            WrongDirection { section, offered, wanted } => {
                write!(f, "{section} is offered {offered}, which this endpoint cannot use. Offer it {wanted}.")
            }
            SecondTrack { section } => write!(
                f,
                "{section} is a second track of its kind. One session publishes one audio and one video track (RFC 9725 §4.4.2): \
                 open another session for it."
            ),
            NoCommonCodec { section, offered, handled } => {
                write!(f, "{section} offers {offered}; none of it is handled here. Offer one of {handled}.")
            }
            NothingToSend => f.write_str("No m-line of the offer can be sent to. Offer audio or video as recvonly."),
            NothingToReceive => f.write_str("No m-line of the offer can be received. Offer audio or video as sendonly."),
        }
    }
}

impl std::error::Error for NegotiateError {}
