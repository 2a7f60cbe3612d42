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
mod stream;
#[cfg(test)]
mod tests;
mod write;

use std::net::SocketAddr;

use arrayvec::ArrayVec;

pub use error::{ErrorKind, NegotiateError, Section};
pub use fragment::{IceFragment, parse_fragment, restart_fragment};

use crate::limits;
use crate::rtp::config::{Codec, Direction, FecConfig, MediaConfig, MediaKind, Mid, StreamPair};
use crate::units::Ssrc;
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

/// Answers an offer. `new_ssrc` gives a fresh random SSRC at each call (never one given before to this session).
pub fn answer(
    offer: &str,
    purpose: Purpose,
    local: &LocalTransport,
    new_ssrc: &mut dyn FnMut() -> u32,
    policy: &CodecPolicy,
) -> Result<Agreed, NegotiateError> {
    let session = offer::parse_lines(offer)?;
    let offer = Offer::read(&session)?;
    // RFC 8445 §6.1.1 would have both sides send to default candidates; consent (RFC 7675) needs checks from one of them.
    if offer.ice_lite {
        return Err(NegotiateError::BothIceLite);
    }
    let accepted = accept(&offer, purpose, new_ssrc, policy)?;
    let (bundle, tagged) = bundle(&offer, &accepted);
    let transport = Transport { offer: &offer, tagged };
    let dtls_role = transport.dtls_role()?;
    let fingerprints = transport.fingerprints()?;
    let (remote_ufrag, remote_pwd) = transport.ice_credentials()?;
    let mids: Vec<&str> = bundle.iter().map(Mid::as_str).collect();
    let common = write::Common { local, dtls_role, bundle: mids.join(" "), tagged, extmap_allow_mixed: offer.extmap_allow_mixed };
    let answer = write::answer(&offer.media, &accepted, &common);
    Ok(Agreed {
        media: accepted.into_iter().map(|accepted| accepted.config).collect(),
        dtls_role,
        fingerprints,
        remote_ufrag,
        remote_pwd,
        remote_candidates: transport.candidates(),
        bundle,
        answer,
    })
}

/// Decides on every m-line. At least one is accepted, or it is an error.
fn accept(
    offer: &Offer,
    purpose: Purpose,
    new_ssrc: &mut dyn FnMut() -> u32,
    policy: &CodecPolicy,
) -> Result<Vec<Accepted>, NegotiateError> {
    let mut accepted: Vec<Accepted> = Vec::new();
    let mut extensions = stream::BundleExtensions::new(offer.extmap_allow_mixed);
    // Why an m-line was passed over; told if nothing is left.
    let mut reason = None;
    for (index, media) in offer.media.iter().enumerate() {
        let Some(kind) = media.kind.filter(|_| !media.disabled) else { continue };
        if !flows(media, purpose) {
            let wanted = if purpose == Purpose::Publish { "sendonly" } else { "recvonly" };
            let offered = media.direction.name();
            reason = reason.or(Some(NegotiateError::WrongDirection { section: media.label.clone(), offered, wanted }));
            continue;
        }
        if accepted.iter().any(|other| other.config.kind == kind) {
            match purpose {
                Purpose::Publish => return Err(NegotiateError::SecondTrack { section: media.label.clone() }),
                Purpose::Watch => continue,
            }
        }
        let mid = check_section(offer, media)?;
        match accept_media(index, media, kind, mid, purpose, policy, &mut extensions)? {
            Some(media) => accepted.push(media),
            None => {
                let error = no_common_codec(media, kind, policy);
                // RFC 9725 §4.4.3: a publisher is accepted whole or not at all. A viewer gets what there is.
                if purpose == Purpose::Publish {
                    return Err(error);
                }
                reason = reason.or(Some(error));
            }
        }
    }
    if accepted.is_empty() {
        return Err(reason.unwrap_or(match purpose {
            Purpose::Publish => NegotiateError::NothingToReceive,
            Purpose::Watch => NegotiateError::NothingToSend,
        }));
    }
    check_conflicts(&accepted)?;
    if purpose == Purpose::Watch {
        stream::settle_feedback(&mut accepted, policy);
        for accepted in &mut accepted {
            let media = Ssrc(new_ssrc());
            let rtx = accepted.config.codecs.iter().any(|codec| codec.rtx.is_some()).then(|| Ssrc(new_ssrc()));
            accepted.config.local_stream = Some(StreamPair { media, rtx });
        }
    }
    Ok(accepted)
}

fn flows(media: &Media, purpose: Purpose) -> bool {
    match purpose {
        Purpose::Publish => media.direction.sends(),
        Purpose::Watch => media.direction.receives(),
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

/// The agreement on one m-line, or `None` without a common codec.
fn accept_media(
    index: usize,
    media: &Media,
    kind: MediaKind,
    mid: Mid,
    purpose: Purpose,
    policy: &CodecPolicy,
    extensions: &mut stream::BundleExtensions,
) -> Result<Option<Accepted>, NegotiateError> {
    let transport_sequence = media.extmaps.iter().any(|extmap| extmap.kind == ExtensionKind::TransportSequence);
    let codecs = codec::agree(media, purpose, policy, transport_sequence);
    let Some(first) = codecs.first() else { return Ok(None) };
    let (map, extmaps) = extensions.agree(media, first.config.codec, purpose);
    let mut config = MediaConfig {
        mid,
        kind,
        direction: match purpose {
            Purpose::Publish => Direction::RecvOnly,
            Purpose::Watch => Direction::SendOnly,
        },
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

/// Payload types and SSRCs are shared by the whole BUNDLE group (RFC 8843 §9.1): none may have two meanings.
fn check_conflicts(accepted: &[Accepted]) -> Result<(), NegotiateError> {
    let mut payload_types = 0_u128;
    let mut ssrcs: Vec<Ssrc> = Vec::new();
    for accepted in accepted {
        let fec = accepted.config.fec.iter().flat_map(FecConfig::payload_types);
        let of_codecs = accepted.config.codecs.iter().flat_map(|codec| [Some(codec.payload_type), codec.rtx, codec.red]);
        for payload_type in of_codecs.flatten().chain(fec) {
            let bit = 1_u128.checked_shl(u32::from(payload_type.0)).unwrap_or(0);
            if payload_types & bit != 0 {
                return Err(NegotiateError::PayloadTypeConflict { payload_type: payload_type.0 });
            }
            payload_types |= bit;
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
fn bundle(offer: &Offer, accepted: &[Accepted]) -> (Vec<Mid>, usize) {
    let mut group: Vec<&Accepted> = Vec::with_capacity(accepted.len());
    for mid in &offer.bundle {
        let member = accepted.iter().find(|accepted| accepted.config.mid.as_str() == *mid);
        group.extend(member.filter(|member| !group.iter().any(|other| other.index == member.index)));
    }
    let tagged = group.first().map_or(0, |accepted| accepted.index);
    (group.into_iter().map(|accepted| accepted.config.mid).collect(), tagged)
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
