//! The server's own offers: to members of rooms whose clients keep a peer connection to receive with, and wait to be offered what
//! there is to watch. Each names everything that the server can forward, with payload types of its own, in the order in which tracks
//! came; what a client takes of that is in its answer.

use super::write::{Lines, connection, session, text, write_data, write_streams, write_transport};
use super::{CodecPolicy, LocalTransport, Msid};
use crate::rtp::config::{Codec, MediaKind, Mid, StreamPair};
use crate::wire::extension::ExtensionKind;

/// One m-line of an offer, in its order.
#[derive(Clone, Debug)]
pub struct OwnLine {
    pub mid: Mid,
    pub kind: MediaKind,
    pub stream: StreamPair,
    /// What is sent; none: nothing for now.
    pub sent: Option<Msid>,
}

/// A codec as it is offered: payload type, that of its retransmissions, format parameters.
struct OwnCodec {
    codec: Codec,
    payload_type: u8,
    rtx: u8,
    parameters: &'static str,
}

/// Those that browsers use, so that what they send to each other looks the same here.
const VIDEO: [OwnCodec; 8] = [
    OwnCodec { codec: Codec::Vp8, payload_type: 96, rtx: 97, parameters: "" },
    OwnCodec { codec: Codec::Vp9, payload_type: 98, rtx: 99, parameters: "profile-id=0" },
    OwnCodec { codec: Codec::H264, payload_type: 102, rtx: 103, parameters: h264("42e01f") },
    OwnCodec { codec: Codec::H264, payload_type: 104, rtx: 105, parameters: h264("42001f") },
    OwnCodec { codec: Codec::H264, payload_type: 106, rtx: 107, parameters: h264("4d001f") },
    OwnCodec { codec: Codec::H264, payload_type: 108, rtx: 109, parameters: h264("640032") },
    OwnCodec { codec: Codec::Av1, payload_type: 45, rtx: 46, parameters: "level-idx=5;profile=0;tier=0" },
    OwnCodec { codec: Codec::Vp9, payload_type: 100, rtx: 101, parameters: "profile-id=2" },
];

/// RFC 6184 §8.2.2: the level may differ in the two directions.
const fn h264(profile_level_id: &'static str) -> &'static str {
    match profile_level_id.as_bytes() {
        b"42e01f" => "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        b"42001f" => "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f",
        b"4d001f" => "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f",
        _ => "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640032",
    }
}

const OPUS: u8 = 111;
const OPUS_RED: u8 = 63;

/// Ids of header extensions, the same in all m-lines.
const AUDIO_EXTENSIONS: [(u8, ExtensionKind); 4] = [
    (1, ExtensionKind::AudioLevel),
    (3, ExtensionKind::TransportSequence),
    (4, ExtensionKind::Mid),
    (9, ExtensionKind::AbsCaptureTime),
];
const VIDEO_EXTENSIONS: [(u8, ExtensionKind); 8] = [
    (3, ExtensionKind::TransportSequence),
    (4, ExtensionKind::Mid),
    (5, ExtensionKind::PlayoutDelay),
    (6, ExtensionKind::VideoContentType),
    (7, ExtensionKind::ColorSpace),
    (8, ExtensionKind::VideoOrientation),
    (9, ExtensionKind::AbsCaptureTime),
    (12, ExtensionKind::DependencyDescriptor),
];

/// Offers what is on `lines`, and data channels on an m-line of their own, the first. `version` grows with each offer (RFC 3264 §8).
pub fn offer_to_watch(lines: &[OwnLine], data: &str, local: &LocalTransport, version: u64, policy: &CodecPolicy) -> String {
    let mids: Vec<&str> = std::iter::once(data).chain(lines.iter().map(|line| line.mid.as_str())).collect();
    let mut session = session(local.session_id, version, &mids.join(" "), true);
    let mut first = media("application", "UDP/DTLS/SCTP", "webrtc-datachannel".into(), local);
    let mut attributes = Lines(&mut first.attributes);
    write_transport(&mut attributes, true, local, "actpass");
    write_data(&mut attributes, data);
    session.medias.push(first);
    session.medias.extend(lines.iter().map(|line| watched(line, local, policy)));
    text(&session)
}

fn watched(line: &OwnLine, local: &LocalTransport, policy: &CodecPolicy) -> sdp_types::Media {
    let mut formats = Vec::new();
    let mut codecs = Vec::new();
    let mut describe = Lines(&mut codecs);
    match line.kind {
        MediaKind::Audio => {
            formats.extend([OPUS, OPUS_RED].map(|number| number.to_string()));
            describe.value("rtpmap", format!("{OPUS} opus/48000/2"));
            describe.value("rtcp-fb", format!("{OPUS} transport-cc"));
            // RFC 7587 §6.1: what the receiver may be sent: what its publisher's encoder makes.
            describe.value("fmtp", format!("{OPUS} minptime=10;useinbandfec=1;stereo=1"));
            describe.value("rtpmap", format!("{OPUS_RED} red/48000/2"));
            describe.value("fmtp", format!("{OPUS_RED} {OPUS}/{OPUS}"));
        }
        MediaKind::Video => {
            for OwnCodec { codec, payload_type, rtx, parameters } in VIDEO.iter().filter(|own| policy.allows(own.codec)) {
                formats.extend([payload_type, rtx].map(|number| number.to_string()));
                describe.value("rtpmap", format!("{payload_type} {}/90000", codec.name()));
                for feedback in ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"] {
                    describe.value("rtcp-fb", format!("{payload_type} {feedback}"));
                }
                if !parameters.is_empty() {
                    describe.value("fmtp", format!("{payload_type} {parameters}"));
                }
                describe.value("rtpmap", format!("{rtx} rtx/90000"));
                describe.value("fmtp", format!("{rtx} apt={payload_type}"));
            }
        }
    }
    let kind = if line.kind == MediaKind::Audio { "audio" } else { "video" };
    let mut media = media(kind, "UDP/TLS/RTP/SAVPF", formats.join(" "), local);
    let mut attributes = Lines(&mut media.attributes);
    write_transport(&mut attributes, false, local, "actpass");
    attributes.value("mid", line.mid.as_str());
    let extensions: &[_] = if line.kind == MediaKind::Audio { &AUDIO_EXTENSIONS } else { &VIDEO_EXTENSIONS };
    for (id, kind) in extensions {
        attributes.value("extmap", format!("{id} {}", kind.uri()));
    }
    attributes.flag("extmap-allow-mixed");
    attributes.flag(if line.sent.is_some() { "sendonly" } else { "inactive" });
    attributes.flag("rtcp-mux");
    attributes.flag("rtcp-rsize");
    attributes.0.append(&mut codecs);
    if let Some(msid) = &line.sent {
        write_streams(&mut attributes, line.stream, msid, local.cname);
    }
    media
}

fn media(kind: &str, proto: &str, fmt: String, local: &LocalTransport) -> sdp_types::Media {
    let default = local.candidates.first().copied();
    sdp_types::Media {
        media: kind.to_owned(),
        port: default.map_or(9, |address| address.port()),
        num_ports: None,
        proto: proto.to_owned(),
        fmt,
        media_title: None,
        connections: vec![connection(default)],
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}
