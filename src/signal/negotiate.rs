//! SDP negotiation: one offer in, one answer out, and what both mean for the data plane.
//!
//! The server is always the answerer, ICE-lite (RFC 8445 §2.5) and behind one port, so an offer must bundle its media (RFC 8843)
//! and mux RTCP (RFC 5761). Each m-line ends in one of three ways: it is accepted; it is rejected with port 0 (data channels,
//! unused directions, a viewer's second video); or the offer as a whole is refused with an error that says what to do, because
//! RFC 9725 §4.4.3 wants no half-accepted publisher. Only slow-path threads come here, so it may allocate; what an offer can make
//! it allocate is bounded by the limits of its length.
//!
//! `offer` reads, `codec` and `stream` decide, `write` writes, `fragment` does trickle ICE and restarts. Nothing is kept: an
//! `Agreed` is the whole result. Deviations from the RFCs, and why, stand at their lines.

mod candidate;
mod codec;
mod error;
mod fragment;
mod offer;
mod own;
mod stream;
#[cfg(test)]
mod tests;
mod write;

use std::net::SocketAddr;

use arrayvec::ArrayVec;

pub use error::{ErrorKind, NegotiateError, Section};
pub use fragment::{IceFragment, parse_fragment, restart_fragment};
pub use own::{OwnLine, offer_to_watch};

use crate::limits;
use crate::rtp::config::{Codec, DataSection, Direction, MediaConfig, MediaKind, Mid, StreamPair};
use crate::units::{PayloadType, Ssrc};
use crate::wire::extension::ExtensionKind;
use offer::{Media, Offer};
use write::Accepted;

/// Our side of the transport, as the answer announces it.
#[derive(Clone, Copy, Debug)]
pub struct LocalTransport<'a> {
    pub ufrag: &'a str,
    pub pwd: &'a str,
    /// Value of `a=fingerprint`: `sha-256 AA:BB:…`.
    pub fingerprint: &'a str,
    /// UDP host candidates, best first. The first is also the default address of `m=` and `c=`.
    pub candidates: &'a [SocketAddr],
    /// At the same addresses, for TCP.
    pub tcp_port: Option<u16>,
    pub session_id: u64,
    /// A token; names the MediaStream too.
    pub cname: &'a str,
}

/// Which way media flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// WHIP: the server receives.
    Publish,
    /// WHEP: the server sends.
    Watch,
}

/// What the m-lines of a description are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// All for one purpose, at most one m-line of a kind; no data channels.
    Only(Purpose),
    /// Of a member of a room: each m-line for what its direction says.
    Each,
}

/// Names a track that the server sends: its MediaStream and itself (RFC 8830).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msid {
    pub stream: String,
    pub track: String,
}

/// What a client said of a track outside of SDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The client's name of it (the second part of `a=msid`).
    pub name: String,
    /// It is not to be sent with redundancy (RFC 2198): nobody could unwrap what is encrypted from end to end.
    pub plain: bool,
    /// The codec that it is to be sent in, if that is offered; else the first.
    pub codec: Option<Codec>,
}

/// What was agreed before in the same session, and what is to be sent now.
pub struct Standing<'a> {
    /// The SSRCs of the m-lines that the server sends on: they keep them.
    pub previous: &'a [(Mid, StreamPair)],
    /// What the client said of its tracks.
    pub described: &'a [Described],
    /// Given the m-lines agreed on: what the server sends on each, in their order; none: nothing, for now. Not asked about m-lines
    /// that the client sends on.
    #[allow(clippy::type_complexity)]
    pub assign: &'a mut dyn FnMut(&[MediaConfig], &[Option<String>]) -> Vec<Option<Msid>>,
}

/// The codecs an endpoint may use (the order is the offerer's), and whether viewers' bandwidth is estimated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecPolicy {
    allowed: ArrayVec<Codec, 8>,
    estimates: bool,
}

impl CodecPolicy {
    pub fn new(codecs: impl IntoIterator<Item = Codec>) -> CodecPolicy {
        let mut allowed = ArrayVec::new();
        for codec in codecs {
            if !allowed.contains(&codec) {
                // There are fewer codecs than places.
                let _ = allowed.try_push(codec);
            }
        }
        CodecPolicy { allowed, estimates: true }
    }
    /// Whether viewers are asked to tell what their paths carry (`media.bandwidth_estimation`).
    pub fn estimating(self, estimates: bool) -> CodecPolicy {
        CodecPolicy { estimates, ..self }
    }
    pub fn estimates(&self) -> bool {
        self.estimates
    }
    pub fn allows(&self, codec: Codec) -> bool {
        self.allowed.contains(&codec)
    }
}

impl Default for CodecPolicy {
    /// Every codec the server forwards.
    fn default() -> CodecPolicy {
        CodecPolicy::new([Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1])
    }
}

/// Our role in the DTLS handshake (RFC 8842).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsRole {
    /// `setup:active`: we send the ClientHello.
    Client,
    /// `setup:passive`: we wait for it.
    Server,
}

/// Everything an offer and our answer agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The accepted m-lines, in the offer's order.
    pub media: Vec<MediaConfig>,
    /// By m-line: the client's name of the track it sends (the second part of `a=msid`).
    pub sources: Vec<Option<String>>,
    /// The accepted m-line of data channels.
    pub data: Option<DataSection>,
    pub dtls_role: DtlsRole,
    /// Hash function in lower case and digest; the peer's certificate must match one of them (RFC 8122 §5).
    pub fingerprints: Vec<(String, Vec<u8>)>,
    pub remote_ufrag: String,
    pub remote_pwd: String,
    /// UDP addresses of the offer, at most [`limits::CANDIDATES_MAX`].
    pub remote_candidates: Vec<SocketAddr>,
    /// Mids of the BUNDLE group; the first is the tagged m-line, the one an ICE restart's fragment names.
    pub bundle: Vec<Mid>,
    /// The SDP to send back.
    pub answer: String,
}

impl Agreed {
    /// The m-lines that the server sends on, which are then no longer here: thousands of viewers have nothing else.
    pub fn take_sent(&mut self) -> Vec<MediaConfig> {
        let mut sent = std::mem::take(&mut self.media);
        self.media = sent.extract_if(.., |media| media.local_stream.is_none()).collect();
        self.media.shrink_to_fit();
        sent.shrink_to_fit();
        sent
    }
}

/// Answers an offer. `new_ssrc` gives a fresh random SSRC at each call (never one given before to this session).
pub fn answer(
    offer: &str,
    purpose: Purpose,
    local: &LocalTransport,
    new_ssrc: &mut dyn FnMut() -> u32,
    policy: &CodecPolicy,
) -> Result<Agreed, NegotiateError> {
    // One MediaStream, named like the CNAME, holds all tracks sent, so that a viewer synchronises them.
    let mut assign = |media: &[MediaConfig], _: &[Option<String>]| {
        let name = |media: &MediaConfig| {
            let track = if media.kind == MediaKind::Audio { "audio" } else { "video" };
            Some(Msid { stream: local.cname.to_owned(), track: format!("{}-{track}", local.cname) })
        };
        media.iter().map(name).collect()
    };
    answer_further(
        offer,
        Ways::Only(purpose),
        local,
        new_ssrc,
        policy,
        Standing { previous: &[], described: &[], assign: &mut assign },
    )
}

/// Answers an offer of a session that may have been agreed on before.
pub fn answer_further(
    offer: &str,
    ways: Ways,
    local: &LocalTransport,
    new_ssrc: &mut dyn FnMut() -> u32,
    policy: &CodecPolicy,
    standing: Standing,
) -> Result<Agreed, NegotiateError> {
    let bytes_max = if ways == Ways::Each { limits::SIGNAL_BYTES_MAX } else { limits::SDP_BYTES_MAX };
    let session = offer::parse_lines(offer, bytes_max)?;
    let offer = Offer::read(&session)?;
    let (mut agreed, accepted, tagged) = agree(&offer, ways, new_ssrc, policy, standing.previous, standing.described)?;
    let sent = (standing.assign)(&agreed.media, &agreed.sources);
    let mids: Vec<&str> = agreed.bundle.iter().map(Mid::as_str).collect();
    let (dtls_role, bundle, data) = (agreed.dtls_role, mids.join(" "), agreed.data.as_ref());
    let common =
        write::Common { local, dtls_role, bundle, tagged, extmap_allow_mixed: offer.extmap_allow_mixed, sent: &sent, data };
    agreed.answer = write::answer(&offer.media, &accepted, &common);
    Ok(agreed)
}

/// Reads the answer to an offer of the server's ([`offer_to_watch`]), of whose m-lines the client accepts some.
pub fn read_answer(answer: &str, policy: &CodecPolicy, previous: &[(Mid, StreamPair)]) -> Result<Agreed, NegotiateError> {
    let session = offer::parse_lines(answer, limits::SIGNAL_BYTES_MAX)?;
    let offer = Offer::read(&session)?;
    let (agreed, ..) = agree(&offer, Ways::Each, &mut || 0, policy, previous, &[])?;
    Ok(agreed)
}

/// The client's ICE name in a description, to tell whether ICE is restarted.
pub fn ufrag_of(description: &str) -> Option<String> {
    description.lines().find_map(|line| Some(line.strip_prefix("a=ice-ufrag:")?.trim().to_owned()))
}

/// What both sides can do, by a description of the other side: an offer, or the answer to ours.
fn agree(
    offer: &Offer,
    ways: Ways,
    new_ssrc: &mut dyn FnMut() -> u32,
    policy: &CodecPolicy,
    previous: &[(Mid, StreamPair)],
    described: &[Described],
) -> Result<(Agreed, Vec<Accepted>, usize), NegotiateError> {
    // RFC 8445 §6.1.1 would have both sides send to default candidates; consent (RFC 7675) needs checks from one of them.
    if offer.ice_lite {
        return Err(NegotiateError::BothIceLite);
    }
    let data = if ways == Ways::Each { accept_data(offer)? } else { None };
    let standing = (previous, described);
    let mut accepted = accept(offer, ways, new_ssrc, policy, standing, data.is_some())?;
    let is_plain = |accepted: &&mut Accepted| {
        let own = offer.media.get(accepted.index).and_then(|media| description(media, described));
        accepted.config.direction == Direction::RecvOnly && own.is_some_and(|own| own.plain)
    };
    accepted.iter_mut().filter(is_plain).for_each(Accepted::leave_out_redundancy);
    let (bundle, tagged) = bundle(offer, &accepted, data.as_ref());
    let transport = Transport { offer, tagged };
    let (remote_ufrag, remote_pwd) = transport.ice_credentials()?;
    let source = |accepted: &Accepted| offer.media.get(accepted.index)?.msid.map(str::to_owned);
    let agreed = Agreed {
        media: accepted.iter().map(|accepted| accepted.config.clone()).collect(),
        sources: accepted.iter().map(source).collect(),
        data,
        dtls_role: transport.dtls_role()?,
        fingerprints: transport.fingerprints()?,
        remote_ufrag,
        remote_pwd,
        remote_candidates: transport.candidates(),
        bundle,
        answer: String::new(),
    };
    Ok((agreed, accepted, tagged))
}

/// The m-line of data channels (RFC 8841), the first if there are several.
fn accept_data(offer: &Offer) -> Result<Option<DataSection>, NegotiateError> {
    // RFC 8841 §4.4: the default port of SCTP over DTLS is what everybody uses; §6.1: 64 KiB if no size is told.
    let suits = |media: &&Media| {
        media.line.media == "application"
            && !media.disabled
            && matches!(media.line.proto.as_str(), "UDP/DTLS/SCTP" | "TCP/DTLS/SCTP")
    };
    let Some(media) = offer.media.iter().find(suits) else { return Ok(None) };
    let section = || media.label.clone();
    let mid = media.mid.ok_or_else(|| NegotiateError::MissingMid { section: section() })?;
    let token = mid_token(mid).ok_or_else(|| NegotiateError::BadMid { section: section() })?;
    if !offer.bundle.contains(&mid) {
        return Err(NegotiateError::NotBundled { section: section() });
    }
    let sctp_port = media.sctp_port.unwrap_or(5000);
    Ok(Some(DataSection { mid: token, sctp_port, max_message_size: media.max_message_size.unwrap_or(64 * 1024) }))
}

/// What the client said of the track that it sends on an m-line.
fn description<'a>(media: &Media, described: &'a [Described]) -> Option<&'a Described> {
    described.iter().find(|own| Some(&*own.name) == media.msid)
}

/// Decides on every m-line. At least one is accepted, or it is an error.
fn accept(
    offer: &Offer,
    ways: Ways,
    new_ssrc: &mut dyn FnMut() -> u32,
    policy: &CodecPolicy,
    (previous, described): (&[(Mid, StreamPair)], &[Described]),
    data: bool,
) -> Result<Vec<Accepted>, NegotiateError> {
    let mut accepted: Vec<Accepted> = Vec::new();
    let mut extensions = stream::BundleExtensions::new(offer.extmap_allow_mixed, ways == Ways::Each);
    // Why an m-line was passed over; told if nothing is left.
    let mut reason = None;
    for (index, media) in offer.media.iter().enumerate() {
        let Some(kind) = media.kind.filter(|_| !media.disabled) else { continue };
        let Some(purpose) = purpose_of(media, ways) else {
            let wanted = if ways == Ways::Only(Purpose::Publish) { "sendonly" } else { "recvonly" };
            let offered = media.direction.name();
            reason = reason.or(Some(NegotiateError::WrongDirection { section: media.label.clone(), offered, wanted }));
            continue;
        };
        if accepted.iter().any(|other| other.config.kind == kind) {
            match ways {
                Ways::Only(Purpose::Publish) => return Err(NegotiateError::SecondTrack { section: media.label.clone() }),
                Ways::Only(Purpose::Watch) => continue,
                Ways::Each => {}
            }
        }
        let mid = check_section(offer, media)?;
        let transport_sequence = media.extmaps.iter().any(|extmap| extmap.kind == ExtensionKind::TransportSequence);
        let preferred = description(media, described).and_then(|own| own.codec);
        let codecs = codec::agree(media, purpose, policy, transport_sequence, preferred);
        match accept_media(index, media, kind, mid, purpose, codecs, &mut extensions)? {
            Some(mut own) => {
                if ways == Ways::Each && purpose == Purpose::Publish && kind == MediaKind::Video {
                    let first = own.config.codecs.first().map_or(PayloadType(0), |codec| codec.payload_type);
                    own.codecs.extend(codec::others(media, policy, transport_sequence, first));
                }
                accepted.push(own);
            }
            None => {
                let error = no_common_codec(media, kind, policy);
                // RFC 9725 §4.4.3: a publisher is accepted whole or not at all. Others get what there is.
                if ways == Ways::Only(Purpose::Publish) {
                    return Err(error);
                }
                reason = reason.or(Some(error));
            }
        }
    }
    if accepted.is_empty() && !data {
        return Err(reason.unwrap_or(match ways {
            Ways::Only(Purpose::Publish) => NegotiateError::NothingToReceive,
            Ways::Only(Purpose::Watch) | Ways::Each => NegotiateError::NothingToSend,
        }));
    }
    check_conflicts(&accepted)?;
    if ways != Ways::Only(Purpose::Publish) {
        // Of sound alone nothing can be adapted to what a path carries, and what it loses is told by receiver reports. Chromium would tell
        // sixteen times a second. A member may be sent pictures yet; a viewer is sent what it has asked for once.
        let adapts = ways == Ways::Each || accepted.iter().any(|accepted| accepted.config.kind == MediaKind::Video);
        stream::settle_feedback(&mut accepted, policy.estimates() && adapts);
    }
    for accepted in accepted.iter_mut().filter(|accepted| accepted.config.direction == Direction::SendOnly) {
        let before = previous.iter().find(|(mid, _)| *mid == accepted.config.mid).map(|(_, stream)| *stream);
        let has_rtx = accepted.config.codecs.iter().any(|codec| codec.rtx.is_some());
        let new = || {
            let media = Ssrc(new_ssrc());
            StreamPair { media, rtx: has_rtx.then(|| Ssrc(new_ssrc())) }
        };
        accepted.config.local_stream = Some(before.unwrap_or_else(new));
    }
    Ok(accepted)
}

/// What an m-line is used for, if it is.
fn purpose_of(media: &Media, ways: Ways) -> Option<Purpose> {
    let (sends, receives) = (media.direction.sends(), media.direction.receives());
    match ways {
        Ways::Only(Purpose::Publish) => sends.then_some(Purpose::Publish),
        Ways::Only(Purpose::Watch) => receives.then_some(Purpose::Watch),
        Ways::Each if sends => Some(Purpose::Publish),
        Ways::Each => receives.then_some(Purpose::Watch),
    }
}

/// What every accepted m-line must have.
fn check_section(offer: &Offer, media: &Media) -> Result<Mid, NegotiateError> {
    let section = || media.label.clone();
    // RFC 8829 §5.1.2 and §5.1.3: these are offered, and all mean the same today.
    const PROTOCOLS: [&str; 6] =
        ["UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "TCP/DTLS/RTP/SAVPF", "TCP/DTLS/RTP/SAVP", "RTP/SAVPF", "RTP/SAVP"];
    if !PROTOCOLS.contains(&media.line.proto.as_str()) {
        let protocol = media.line.proto.chars().take(32).collect();
        return Err(NegotiateError::UnknownProtocol { section: section(), protocol });
    }
    if offer.bundle.is_empty() {
        return Err(NegotiateError::MissingBundle);
    }
    let Some(mid) = media.mid else {
        return Err(NegotiateError::MissingMid { section: section() });
    };
    let token = mid_token(mid).ok_or_else(|| NegotiateError::BadMid { section: section() })?;
    if !offer.bundle.contains(&mid) {
        return Err(NegotiateError::NotBundled { section: section() });
    }
    if !media.rtcp_mux {
        return Err(NegotiateError::MissingRtcpMux { section: section() });
    }
    Ok(token)
}

/// A mid is a token (RFC 5888 §4, RFC 8866 §9); 16 bytes fit its header extension.
fn mid_token(mid: &str) -> Option<Mid> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte);
    if mid.is_empty() || !mid.bytes().all(token) {
        return None;
    }
    Mid::from(mid).ok()
}

/// The agreement on one m-line, or `None` without a codec.
fn accept_media(
    index: usize,
    media: &Media,
    kind: MediaKind,
    mid: Mid,
    purpose: Purpose,
    codecs: ArrayVec<codec::AgreedCodec, 16>,
    extensions: &mut stream::BundleExtensions,
) -> Result<Option<Accepted>, NegotiateError> {
    let Some(first) = codecs.first() else { return Ok(None) };
    let (map, extmaps) = extensions.agree(media, first.config.codec, purpose);
    let mut config = MediaConfig {
        mid,
        kind,
        direction: if purpose == Purpose::Publish { Direction::RecvOnly } else { Direction::SendOnly },
        codecs: codecs.iter().map(|codec| codec.config).collect(),
        extensions: map,
        fec: (kind == MediaKind::Video).then(|| codec::fec(media, &codecs, purpose)).flatten(),
        remote_streams: ArrayVec::new(),
        rids: ArrayVec::new(),
        local_stream: None,
    };
    let mut rids = ArrayVec::new();
    if purpose == Purpose::Publish {
        // Without the header extension nobody could tell the streams of two rids apart.
        if map.id(ExtensionKind::Rid).is_some() {
            let (agreed, by_quality) = stream::rids(media, first);
            config.rids = by_quality.into_iter().take(4).collect();
            rids = agreed;
        }
        // Firefox announces SSRCs beside its rids, without saying which is whose: the rids count.
        let announced = stream::announced(media)?;
        if config.rids.is_empty() {
            config.remote_streams = announced;
        }
    }
    Ok(Some(Accepted {
        index,
        config,
        codecs: codecs.into_iter().collect(),
        extmaps,
        rids: rids.into_iter().collect(),
        simulcast: !media.simulcast.is_empty(),
    }))
}

fn no_common_codec(media: &Media, kind: MediaKind, policy: &CodecPolicy) -> NegotiateError {
    let names: Vec<&str> = policy.allowed.iter().filter(|codec| codec.kind() == kind).map(|codec| codec.name()).collect();
    let handled = if names.is_empty() { "no codec of this kind".to_owned() } else { names.join(", ") };
    NegotiateError::NoCommonCodec { section: media.label.clone(), offered: codec::offered_names(media), handled }
}

/// Payload types and SSRCs are shared by the whole BUNDLE group (RFC 8843 §9.1): none may have two meanings, though several m-lines
/// may give a payload type the same one.
fn check_conflicts(accepted: &[Accepted]) -> Result<(), NegotiateError> {
    /// The kind of media, the format, and for redundancy and retransmissions what they are of.
    type Meaning<'a> = (MediaKind, &'a str, Option<PayloadType>);
    let mut meanings: Vec<(PayloadType, Meaning)> = Vec::new();
    let mut ssrcs: Vec<Ssrc> = Vec::new();
    for accepted in accepted {
        let kind = accepted.config.kind;
        let fec = accepted.config.fec.iter().flat_map(|fec| {
            let repeats = fec.red_rtx.map(|rtx| (rtx, "rtx", Some(fec.red)));
            [(fec.red, "red", None), (fec.ulpfec, "ulpfec", None)].into_iter().chain(repeats)
        });
        let of_codecs = accepted.config.codecs.iter().flat_map(|codec| {
            let own = codec.payload_type;
            let repeats = [(codec.rtx, "rtx"), (codec.red, "red")];
            let repeats = repeats.into_iter().filter_map(move |(number, name)| Some((number?, name, Some(own))));
            std::iter::once((own, codec.codec.name(), None)).chain(repeats)
        });
        let mut own: Vec<PayloadType> = Vec::new();
        for (payload_type, name, of) in of_codecs.chain(fec) {
            let meaning = (kind, name, of);
            let known = meanings.iter().find(|(number, _)| *number == payload_type);
            if own.contains(&payload_type) || known.is_some_and(|(_, other)| *other != meaning) {
                return Err(NegotiateError::PayloadTypeConflict { payload_type: payload_type.0 });
            }
            own.push(payload_type);
            if known.is_none() {
                meanings.push((payload_type, meaning));
            }
        }
        for pair in &accepted.config.remote_streams {
            for ssrc in [Some(pair.media), pair.rtx].into_iter().flatten() {
                if ssrcs.contains(&ssrc) {
                    return Err(NegotiateError::DuplicateSsrc { ssrc: ssrc.0 });
                }
                ssrcs.push(ssrc);
            }
        }
    }
    Ok(())
}

/// The answer's BUNDLE group, in the offer's order, and the index of its tagged m-line (RFC 8843 §7.3).
fn bundle(offer: &Offer, accepted: &[Accepted], data: Option<&DataSection>) -> (Vec<Mid>, usize) {
    let index_of = |mid: &str| offer.media.iter().position(|media| media.mid == Some(mid));
    let mut group: Vec<(usize, Mid)> = Vec::with_capacity(accepted.len() + 1);
    for mid in &offer.bundle {
        let of_media = accepted.iter().map(|accepted| accepted.config.mid).find(|own| own.as_str() == *mid);
        let member = of_media.or(data.map(|data| data.mid).filter(|own| own.as_str() == *mid));
        if let (Some(member), Some(index)) = (member, index_of(mid))
            && !group.iter().any(|(other, _)| *other == index)
        {
            group.push((index, member));
        }
    }
    let tagged = group.first().map_or(0, |(index, _)| *index);
    (group.into_iter().map(|(_, mid)| mid).collect(), tagged)
}
/// The peer's transport: attributes of the tagged m-line, else of the session, else of the first m-line that has them (a
/// `bundle-only` m-line has none, and becomes the tagged one when those before it are rejected).
struct Transport<'o, 's> {
    offer: &'o Offer<'s>,
    tagged: usize,
}

impl<'o, 's> Transport<'o, 's> {
    fn find<T: Copy>(&self, session: Option<T>, attribute: impl Fn(&Media<'s>) -> Option<T>) -> Option<T> {
        let tagged = self.offer.media.get(self.tagged).and_then(&attribute);
        tagged.or(session).or_else(|| self.offer.media.iter().find_map(&attribute))
    }

    /// RFC 8842 §5.3: we are passive unless the offerer insists on it; then we open the handshake.
    fn dtls_role(&self) -> Result<DtlsRole, NegotiateError> {
        match self.find(self.offer.setup, |media| media.setup) {
            // RFC 4145 §4: active is an offer's default.
            Some("actpass" | "active") | None => Ok(DtlsRole::Server),
            Some("passive") => Ok(DtlsRole::Client),
            Some(value) => Err(NegotiateError::BadSetup { value: value.chars().take(16).collect() }),
        }
    }

    fn ice_credentials(&self) -> Result<(String, String), NegotiateError> {
        // Both from the same place.
        let session = self.offer.ice_ufrag.zip(self.offer.ice_pwd);
        let (ufrag, pwd) =
            self.find(session, |media| media.ice_ufrag.zip(media.ice_pwd)).ok_or(NegotiateError::MissingIceCredentials)?;
        Ok((offer::ice_credential("ice-ufrag", ufrag, 4)?, offer::ice_credential("ice-pwd", pwd, 22)?))
    }

    /// RFC 8122 §5: every fingerprint with a hash function that is still good.
    fn fingerprints(&self) -> Result<Vec<(String, Vec<u8>)>, NegotiateError> {
        let session = (!self.offer.fingerprints.is_empty()).then_some(());
        let tagged = self.offer.media.get(self.tagged).filter(|media| !media.fingerprints.is_empty());
        let any = || self.offer.media.iter().find(|media| !media.fingerprints.is_empty());
        let values = match (tagged, session) {
            (Some(media), _) => &media.fingerprints,
            (None, Some(())) => &self.offer.fingerprints,
            (None, None) => &any().ok_or(NegotiateError::MissingFingerprint)?.fingerprints,
        };
        let fingerprints: Vec<_> = values.iter().filter_map(|value| fingerprint(value)).take(8).collect();
        if fingerprints.is_empty() { Err(NegotiateError::UnusableFingerprint) } else { Ok(fingerprints) }
    }

    fn candidates(&self) -> Vec<SocketAddr> {
        let mut candidates: Vec<SocketAddr> = Vec::new();
        let tagged = self.offer.media.get(self.tagged).into_iter();
        for address in tagged.chain(&self.offer.media).flat_map(|media| &media.candidates) {
            if candidates.len() < limits::CANDIDATES_MAX && !candidates.contains(address) {
                candidates.push(*address);
            }
        }
        candidates
    }
}

/// Reads `<hash function> <hex>:<hex>:…`.
fn fingerprint(value: &str) -> Option<(String, Vec<u8>)> {
    let (algorithm, digest) = value.split_once(' ')?;
    let algorithm = algorithm.to_ascii_lowercase();
    let length = match algorithm.as_str() {
        "sha-256" => 32,
        "sha-384" => 48,
        "sha-512" => 64,
        _ => return None,
    };
    let hex = |byte: &str| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten();
    let digest: Vec<u8> = digest.trim().split(':').take(length + 1).map(hex).collect::<Option<_>>()?;
    (digest.len() == length).then_some((algorithm, digest))
}
