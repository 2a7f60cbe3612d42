//! A media packet between the peer that received it and the peers it goes to: a handle to the plaintext, and what was read from
//! it once so that no receiver has to read it again.

use arrayvec::ArrayVec;

use crate::limits::EXTENSIONS_PER_PACKET;
use crate::mem::Packet;
use crate::units::{ExtendedSequence, Micros, RtpTime, TrackId};
use crate::wire::dependency::Forwarding;
use crate::wire::extension::ExtensionKind;
use crate::wire::layer::Layer;
use crate::wire::picture::PictureIds;

/// Where a header extension's data lies in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionRange {
    pub kind: ExtensionKind,
    pub start: u16,
    pub len: u8,
}

/// A received, decrypted packet of a track.
#[derive(Clone)]
pub struct Media {
    pub track: TrackId,
    /// The whole RTP packet, plaintext, without authentication tag.
    pub packet: Packet,
    /// Bytes before the payload: header, CSRC list, extension, and what the packet repeats of others (RFC 2198).
    pub header_len: u16,
    /// Bytes of payload, padding excluded.
    pub payload_len: u16,
    /// RTP padding to be added when it is forwarded, so that it is as long as its neighbours.
    pub padding: u8,
    /// Which of the publisher's streams (SSRCs) it belongs to: each has its own sequence numbers and timestamps.
    pub stream: u8,
    /// Which of the track's simulcast encodings it belongs to.
    pub encoding: u8,
    /// Where it stands among the layers of its stream.
    pub layer: Layer,
    pub marker: bool,
    /// First packet of a picture that needs no earlier one.
    pub key_frame: bool,
    pub sequence: ExtendedSequence,
    pub timestamp: RtpTime,
    pub arrival: Micros,
    pub extensions: ArrayVec<ExtensionRange, EXTENSIONS_PER_PACKET>,
    pub picture: PictureIds,
    /// Of its dependency descriptor, if it has one that could be read.
    pub dependency: Option<Forwarding>,
}

impl Media {
    /// The number of its picture (VP8, VP9), or of its frame (dependency descriptor). No packet has both: dependency descriptors are
    /// negotiated for the other codecs.
    pub fn picture_number(&self) -> Option<u16> {
        match &self.dependency {
            Some(dependency) => Some(dependency.layout.frame_number),
            None => self.picture.picture_id.map(|(_, _, id)| id),
        }
    }

    pub fn payload(&self) -> &[u8] {
        let start = self.header_len as usize;
        self.packet.bytes().get(start..start + self.payload_len as usize).unwrap_or_default()
    }

    /// Data of one header extension element.
    pub fn extension(&self, range: &ExtensionRange) -> &[u8] {
        let start = range.start as usize;
        self.packet.bytes().get(start..start + range.len as usize).unwrap_or_default()
    }
}
