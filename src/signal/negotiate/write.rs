//! Writes the answer (RFC 8829 §5.3, RFC 9725 §4.2).
//!
//! ICE credentials, fingerprint and setup are repeated in each bundled m-line, though RFC 8843 §7.1.3 asks for them only in the
//! answerer-tagged one: browsers repeat them too, and simpler clients look for them in every m-line. Candidates stand once.

use std::net::{IpAddr, SocketAddr};

use super::codec::AgreedCodec;
use super::offer::{Extmap, Media};
use super::stream::AgreedRid;
use super::{DtlsRole, LocalTransport, Msid, candidate};
use crate::limits;
use crate::rtp::config::{DataSection, Direction, FecConfig, MediaConfig, MediaKind, StreamPair};

/// An accepted m-line, with what its answer repeats from the offer.
pub struct Accepted {
    /// Index of the m-line in the offer.
    pub index: usize,
    pub config: MediaConfig,
    pub codecs: Vec<AgreedCodec>,
    pub extmaps: Vec<Extmap>,
    /// In the offer's order; `config.rids` has them by quality.
    pub rids: Vec<AgreedRid>,
    /// The offer has `a=simulcast`.
    pub simulcast: bool,
}

/// The parts of the answer that belong to all m-lines.
pub struct Common<'a> {
    pub local: &'a LocalTransport<'a>,
    pub dtls_role: DtlsRole,
    pub bundle: String,
    /// Index of the answerer-tagged m-line, which carries the candidates.
    pub tagged: usize,
    pub extmap_allow_mixed: bool,
    /// By accepted m-line: the track that the server sends on it.
    pub sent: &'a [Option<Msid>],
    pub data: Option<&'a DataSection>,
}

/// The whole answer: one m-line for each of the offer's, in its order (RFC 3264 §6).
pub fn answer(offered: &[Media], accepted: &[Accepted], common: &Common) -> String {
    let mut session = session(common.local.session_id, 1, &common.bundle, common.extmap_allow_mixed);
    session.medias = offered
        .iter()
        .enumerate()
        .map(|(index, media)| {
            let own = accepted.iter().position(|accepted| accepted.index == index);
            let is_data = common.data.is_some_and(|data| media.mid == Some(data.mid.as_str()));
            match own.and_then(|own| Some((accepted.get(own)?, common.sent.get(own)?.as_ref()))) {
                Some((accepted, sent)) => accepted_media(media, accepted, sent, common),
                None if is_data => data_media(media, index == common.tagged, common),
                None => rejected_media(media),
            }
        })
        .collect();
    text(&session)
}

/// What stands before the first m-line.
pub fn session(session_id: u64, version: u64, bundle: &str, extmap_allow_mixed: bool) -> sdp_types::Session {
    // RFC 8829 §5.2.1: the session id is below 2^63; the address is not used.
    let origin = sdp_types::Origin::with_ip_addr(session_id & (u64::MAX >> 1), version, IpAddr::from([127, 0, 0, 1]));
    let mut session = sdp_types::Session::new(origin, "-");
    session.times.push(sdp_types::Time { start_time: 0, stop_time: 0, repeats: Vec::new() });
    let mut lines = Lines(&mut session.attributes);
    lines.value("group", format!("BUNDLE {bundle}"));
    if extmap_allow_mixed {
        lines.flag("extmap-allow-mixed");
    }
    lines.flag("ice-lite"); // RFC 8839 §5.3
    lines.value("ice-options", "ice2 trickle"); // RFC 8839 §5.6, RFC 8840 §4.1: more candidates may come by PATCH
    lines.value("msid-semantic", "WMS *");
    session
}

pub fn text(session: &sdp_types::Session) -> String {
    let mut bytes = Vec::with_capacity(4096);
    // Writing to a Vec cannot fail.
    let _ = session.write(&mut bytes);
    String::from_utf8(bytes).unwrap_or_default()
}

/// RFC 3264 §6: port 0, and still a format. Not in the BUNDLE group (RFC 8843 §7.3.3).
fn rejected_media(media: &Media) -> sdp_types::Media {
    let mut line = section(media, 0, media.line.fmt.split_ascii_whitespace().next().unwrap_or("0").to_owned());
    line.connections.push(connection(None));
    let mut lines = Lines(&mut line.attributes);
    if let Some(mid) = media.mid.filter(|mid| super::mid_token(mid).is_some()) {
        lines.value("mid", mid);
    }
    if media.kind.is_some() {
        lines.flag("inactive");
    }
    line
}

/// RFC 8841 §5: data channels, on the same transport.
fn data_media(media: &Media, tagged: bool, common: &Common) -> sdp_types::Media {
    let default = common.local.candidates.first().copied();
    let mut line = section(media, default.map_or(9, |address| address.port()), media.line.fmt.clone());
    line.connections.push(connection(default));
    let mut lines = Lines(&mut line.attributes);
    let setup = setup_of(common.dtls_role);
    write_transport(&mut lines, tagged, common.local, setup);
    write_data(&mut lines, media.mid.unwrap_or_default());
    line
}

/// What an m-line of data channels says, whoever offers it.
pub fn write_data(lines: &mut Lines, mid: &str) {
    lines.value("mid", mid);
    lines.value("sctp-port", "5000");
    lines.value("max-message-size", limits::DATA_MESSAGE_BYTES_MAX.to_string());
}

pub const fn setup_of(role: DtlsRole) -> &'static str {
    match role {
        DtlsRole::Client => "active",
        DtlsRole::Server => "passive",
    }
}

fn accepted_media(media: &Media, accepted: &Accepted, sent: Option<&Msid>, common: &Common) -> sdp_types::Media {
    let config = &accepted.config;
    let payload_types: Vec<String> = accepted
        .codecs
        .iter()
        .map(|codec| &codec.config)
        // Redundancy first: Chromium sends it only if it is preferred.
        .flat_map(|codec| [codec.red, Some(codec.payload_type), codec.rtx])
        .flatten()
        .chain(config.fec.iter().flat_map(FecConfig::payload_types))
        .map(|payload_type| payload_type.0.to_string())
        .collect();
    // RFC 8839 §4.2: the default address is that of a candidate.
    let default = common.local.candidates.first().copied();
    let mut line = section(media, default.map_or(9, |address| address.port()), payload_types.join(" "));
    line.connections.push(connection(default));
    let mut lines = Lines(&mut line.attributes);
    write_transport(&mut lines, accepted.index == common.tagged, common.local, setup_of(common.dtls_role));
    lines.value("mid", config.mid.as_str());
    for extmap in &accepted.extmaps {
        match extmap.direction {
            None => lines.value("extmap", format!("{} {}", extmap.id, extmap.kind.uri())),
            // RFC 8285 §6: an answered direction is the offered one seen from here.
            Some(direction) => {
                lines.value("extmap", format!("{}/{} {}", extmap.id, direction.reversed().name(), extmap.kind.uri()));
            }
        }
    }
    if media.extmap_allow_mixed {
        lines.flag("extmap-allow-mixed");
    }
    lines.flag(match config.direction {
        Direction::SendOnly if sent.is_some() => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::SendOnly | Direction::Inactive => "inactive",
    });
    lines.flag("rtcp-mux");
    if media.rtcp_rsize {
        lines.flag("rtcp-rsize"); // RFC 5506 §5
    }
    if config.codecs.iter().any(|codec| codec.feedback.ccfb) {
        lines.value("rtcp-fb", "* ack ccfb"); // RFC 8888 §6: always of all payload types
    }
    for codec in &accepted.codecs {
        write_codec(&mut lines, codec);
    }
    if let Some(fec) = config.fec {
        lines.value("rtpmap", format!("{} red/90000", fec.red.0));
        if let Some(rtx) = fec.red_rtx {
            lines.value("rtpmap", format!("{} rtx/90000", rtx.0));
            lines.value("fmtp", format!("{} apt={}", rtx.0, fec.red.0));
        }
        lines.value("rtpmap", format!("{} ulpfec/90000", fec.ulpfec.0)); // RFC 5109 §14.1
    }
    write_simulcast(&mut lines, accepted);
    if let (Some(stream), Some(msid)) = (config.local_stream, sent) {
        write_streams(&mut lines, stream, msid, common.local.cname);
    }
    line
}

pub fn write_transport(lines: &mut Lines, tagged: bool, local: &LocalTransport, setup: &str) {
    lines.value("ice-ufrag", local.ufrag);
    lines.value("ice-pwd", local.pwd);
    lines.value("fingerprint", local.fingerprint);
    lines.value("setup", setup);
    if tagged {
        for (index, address) in local.candidates.iter().enumerate() {
            lines.value("candidate", candidate::write(index, *address));
        }
        for (index, address) in local.candidates.iter().enumerate() {
            if let Some(port) = local.tcp_port {
                let foundation = local.candidates.len() + index + 1;
                lines.value("candidate", candidate::write_tcp(foundation, index, SocketAddr::new(address.ip(), port)));
            }
        }
        lines.flag("end-of-candidates"); // RFC 8840 §8.2
    }
}

fn write_codec(lines: &mut Lines, codec: &AgreedCodec) {
    let config = &codec.config;
    let number = config.payload_type.0;
    match config.codec.kind() {
        MediaKind::Audio => {
            lines.value("rtpmap", format!("{number} {}/{}/{}", config.codec.name(), config.clock_rate, codec.channels));
        }
        MediaKind::Video => lines.value("rtpmap", format!("{number} {}/{}", config.codec.name(), config.clock_rate)),
    }
    let feedback = config.feedback;
    let agreed = [
        ("goog-remb", feedback.remb),
        ("transport-cc", feedback.transport_cc),
        ("ccm fir", feedback.fir),
        ("nack", feedback.nack),
        ("nack pli", feedback.pli),
    ];
    for (name, _) in agreed.into_iter().filter(|entry| entry.1) {
        lines.value("rtcp-fb", format!("{number} {name}"));
    }
    if !codec.parameters.is_empty() {
        lines.value("fmtp", format!("{number} {}", codec.parameters));
    }
    if let Some(red) = config.red {
        lines.value("rtpmap", format!("{} red/{}/{}", red.0, config.clock_rate, codec.channels));
        lines.value("fmtp", format!("{} {number}/{number}", red.0)); // RFC 2198 §5
    }
    if let Some(rtx) = config.rtx {
        lines.value("rtpmap", format!("{} rtx/{}", rtx.0, config.clock_rate));
        lines.value("fmtp", format!("{} apt={number}", rtx.0));
    }
}

/// RFC 8853 §5.3: the answer receives what the offer sends, in the same order.
fn write_simulcast(lines: &mut Lines, accepted: &Accepted) {
    for rid in &accepted.rids {
        let space = if rid.restrictions.is_empty() { "" } else { " " };
        lines.value("rid", format!("{} recv{space}{}", rid.id, rid.restrictions));
    }
    if accepted.simulcast && !accepted.rids.is_empty() {
        let ids: Vec<&str> = accepted.rids.iter().map(|rid| rid.id.as_str()).collect();
        lines.value("simulcast", format!("recv {}", ids.join(";")));
    }
}

/// RFC 8830 and RFC 5576: what is sent, and under which SSRCs.
pub fn write_streams(lines: &mut Lines, stream: StreamPair, msid: &Msid, cname: &str) {
    let Msid { stream: of, track } = msid;
    lines.value("msid", format!("{of} {track}"));
    if let Some(rtx) = stream.rtx {
        lines.value("ssrc-group", format!("FID {} {}", stream.media.0, rtx.0));
    }
    for ssrc in [Some(stream.media), stream.rtx].into_iter().flatten() {
        lines.value("ssrc", format!("{} cname:{cname}", ssrc.0));
        lines.value("ssrc", format!("{} msid:{of} {track}", ssrc.0));
    }
}

fn section(media: &Media, port: u16, fmt: String) -> sdp_types::Media {
    sdp_types::Media {
        media: media.line.media.clone(),
        port,
        num_ports: None,
        proto: media.line.proto.clone(),
        fmt,
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

pub fn connection(address: Option<SocketAddr>) -> sdp_types::Connection {
    sdp_types::Connection::from_ip_addr(address.map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip().to_canonical()))
}

/// Appends attribute lines.
pub struct Lines<'a>(pub &'a mut Vec<sdp_types::Attribute>);

impl Lines<'_> {
    pub fn value(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(sdp_types::Attribute { attribute: name.to_owned(), value: Some(value.into()) });
    }
    pub fn flag(&mut self, name: &str) {
        self.0.push(sdp_types::Attribute { attribute: name.to_owned(), value: None });
    }
}
