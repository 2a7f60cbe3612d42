//! Which of the offered codecs are agreed, with what parameters and feedback.

use arrayvec::ArrayVec;

use super::offer::{Encoding, Media};
use super::{CodecPolicy, Purpose};
use crate::rtp::config::{Codec, CodecConfig, FecConfig, Feedback, Format, MediaKind};
use crate::units::PayloadType;

/// An agreed codec and the format parameters of its `a=fmtp` in the answer (empty: no such line).
#[derive(Clone, Debug)]
pub struct AgreedCodec {
    pub config: CodecConfig,
    pub parameters: String,
    /// Channels in `a=rtpmap`, for Opus.
    pub channels: u8,
}

/// The codecs of one m-line: one for a publisher, so that what arrives is known: the one it said it would send, else the first handled
/// one; all handled ones for a viewer, so that any publisher suits it. In the offerer's order (RFC 3264 §6.1 lets the answerer choose;
/// the client knows what its hardware does best).
pub fn agree(
    media: &Media,
    purpose: Purpose,
    policy: &CodecPolicy,
    transport_sequence: bool,
    preferred: Option<Codec>,
) -> ArrayVec<AgreedCodec, 16> {
    let mut agreed: Vec<AgreedCodec> = Vec::new();
    let is = |encoding: &&Encoding, codec| handled(encoding, media.kind, policy).is_some_and(|handled| handled.0 == codec);
    let preferred = preferred.filter(|codec| purpose == Purpose::Publish && media.encodings.iter().any(|own| is(&own, *codec)));
    for encoding in media.encodings.iter().filter(|own| preferred.is_none_or(|codec| is(own, codec))) {
        if purpose == Purpose::Publish && !agreed.is_empty() {
            break;
        }
        agreed.extend(agreed_codec(media, encoding, purpose, policy, transport_sequence));
    }
    bounded(agreed)
}

fn agreed_codec(
    media: &Media,
    encoding: &Encoding,
    purpose: Purpose,
    policy: &CodecPolicy,
    transport_sequence: bool,
) -> Option<AgreedCodec> {
    let (codec, format, parameters) = handled(encoding, media.kind, policy)?;
    let payload_type = PayloadType(encoding.payload_type);
    let (rtx, red) = (retransmission(media, encoding), redundancy(media, encoding));
    let mut feedback = feedback(media, encoding.payload_type, codec.kind(), purpose, transport_sequence);
    // What is sent with redundancy cannot be repeated under its own number (see `rtp::red`).
    feedback.nack &= purpose == Purpose::Publish || red.is_none() || rtx.is_some();
    let config = CodecConfig { codec, payload_type, rtx, red, clock_rate: encoding.clock_rate, format, feedback };
    Some(AgreedCodec { config, parameters, channels: encoding.channels })
}

/// What a member's answer names after the codec that it is to send: some clients (pion's) offer on later m-lines only what was answered on
/// the first, and could publish nothing else any more. What is sent in them here is dropped.
pub fn others(media: &Media, policy: &CodecPolicy, transport_sequence: bool, first: PayloadType) -> Vec<AgreedCodec> {
    let others = media.encodings.iter().filter(|encoding| encoding.payload_type != first.0);
    let all = others.filter_map(|encoding| agreed_codec(media, encoding, Purpose::Publish, policy, transport_sequence));
    bounded(all.collect()).into_iter().collect()
}

/// The first sixteen. Some browsers list a dozen H264 profiles before their only AV1: further profiles give way, from the last,
/// so that no codec is lost.
fn bounded(mut agreed: Vec<AgreedCodec>) -> ArrayVec<AgreedCodec, 16> {
    const MAX: usize = 16;
    while agreed.len() > MAX {
        let repeated = agreed
            .iter()
            .enumerate()
            .rposition(|(index, codec)| agreed.iter().take(index).any(|earlier| earlier.config.codec == codec.config.codec));
        match repeated {
            Some(index) => drop(agreed.remove(index)),
            None => agreed.truncate(MAX),
        }
    }
    agreed.into_iter().collect()
}

/// Names of what was offered, for an error text.
pub fn offered_names(media: &Media) -> String {
    let mut names: Vec<&str> = Vec::new();
    for encoding in &media.encodings {
        if !names.iter().any(|name| name.eq_ignore_ascii_case(encoding.name)) && names.len() < 12 && encoding.name.len() <= 32 {
            names.push(encoding.name);
        }
    }
    if names.is_empty() { "no codec with an a=rtpmap".into() } else { names.join(", ") }
}

/// RFC 5761 §4: with RTP and RTCP on one port, 64–95 cannot be told from RTCP packet types.
const fn usable(payload_type: u8) -> bool {
    !matches!(payload_type, 64..=95)
}

fn handled(encoding: &Encoding, kind: Option<MediaKind>, policy: &CodecPolicy) -> Option<(Codec, Format, String)> {
    let codec = [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1]
        .into_iter()
        .find(|codec| codec.name().eq_ignore_ascii_case(encoding.name))?;
    let clock_rate = match codec {
        Codec::Opus => 48_000, // RFC 7587 §7: always, and always two channels
        _ => 90_000,
    };
    let suits = kind == Some(codec.kind()) && encoding.clock_rate == clock_rate && usable(encoding.payload_type);
    if !suits || !policy.allows(codec) {
        return None;
    }
    let (format, parameters) = match codec {
        Codec::Opus => (Format::Any, opus_parameters(encoding)),
        Codec::Vp8 => (Format::Any, String::new()),
        Codec::Vp9 => vp9_format(encoding)?,
        Codec::Av1 => av1_format(encoding)?,
        Codec::H264 => h264_format(encoding)?,
    };
    Some((codec, format, parameters))
}

/// The value of one format parameter; names are compared without case (RFC 8866 §6.15 leaves it to the codec; RFC 6838 §4.3).
fn parameter<'s>(encoding: &Encoding<'s>, name: &str) -> Option<&'s str> {
    encoding.parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// RFC 7587 §6.1. What the publisher's encoder may do is said by *our* parameters, so they repeat its own.
fn opus_parameters(encoding: &Encoding) -> String {
    const KEPT: [&str; 7] = ["minptime", "useinbandfec", "stereo", "usedtx", "cbr", "maxaveragebitrate", "maxplaybackrate"];
    let mut kept: Vec<String> = KEPT
        .into_iter()
        .filter_map(|name| parameter(encoding, name)?.parse::<u32>().ok().map(|value| format!("{name}={value}")))
        .collect();
    if parameter(encoding, "sprop-stereo") == Some("1") && parameter(encoding, "stereo").is_none() {
        kept.push("stereo=1".into());
    }
    kept.join(";")
}

/// RFC 9628 §6.1: profile 0 if none is named.
fn vp9_format(encoding: &Encoding) -> Option<(Format, String)> {
    match parameter(encoding, "profile-id") {
        None => Some((Format::Profile(0), String::new())),
        Some(value) => {
            let profile = value.parse::<u8>().ok().filter(|profile| *profile <= 3)?;
            Some((Format::Profile(profile), format!("profile-id={profile}")))
        }
    }
}

/// AV1 RTP payload format, §7.2: profile 0, level-idx 5 and tier 0 if none is named.
fn av1_format(encoding: &Encoding) -> Option<(Format, String)> {
    let number = |name, max: u8| match parameter(encoding, name) {
        None => Some(None),
        Some(value) => value.parse::<u8>().ok().filter(|value| *value <= max).map(Some),
    };
    let (level, profile, tier) = (number("level-idx", 31)?, number("profile", 2)?, number("tier", 1)?);
    let named = [("level-idx", level), ("profile", profile), ("tier", tier)];
    let kept: Vec<String> = named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
    Some((Format::Profile(profile.unwrap_or(0)), kept.join(";")))
}

/// RFC 6184 §8.1: Baseline profile at level 1 and packetization mode 0 if none is named. Mode 2 (interleaved) is not handled.
fn h264_format(encoding: &Encoding) -> Option<(Format, String)> {
    let profile_level_id = match parameter(encoding, "profile-level-id") {
        Some(text) if text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(text, 16).ok()?,
        Some(_) => return None,
        None => 0x42_00_0a,
    };
    let packetization_mode = match parameter(encoding, "packetization-mode") {
        None | Some("0") => 0,
        Some("1") => 1,
        Some(_) => return None,
    };
    let [_, profile_idc, profile_iop, _] = profile_level_id.to_be_bytes();
    // RFC 6184 §8.2.2: the profile is symmetric, the level only without level-asymmetry-allowed; the echo satisfies both.
    let asymmetry = if parameter(encoding, "level-asymmetry-allowed") == Some("1") { "level-asymmetry-allowed=1;" } else { "" };
    let parameters = format!("{asymmetry}packetization-mode={packetization_mode};profile-level-id={profile_level_id:06x}");
    Some((Format::H264 { profile_idc, profile_iop, packetization_mode }, parameters))
}

/// RFC 4588 §8.1: the payload type whose `apt` is this one.
fn retransmission(media: &Media, of: &Encoding) -> Option<PayloadType> {
    let rtx = media.encodings.iter().find(|encoding| {
        encoding.name.eq_ignore_ascii_case("rtx")
            && encoding.clock_rate == of.clock_rate
            && usable(encoding.payload_type)
            && parameter(encoding, "apt").and_then(|apt| apt.parse().ok()) == Some(of.payload_type)
    })?;
    Some(PayloadType(rtx.payload_type))
}

/// RFC 2198 §5: the payload type of sound whose blocks are all of this one.
fn redundancy(media: &Media, of: &Encoding) -> Option<PayloadType> {
    let red = media.encodings.iter().find(|encoding| {
        let mut blocks = encoding.parameters.split('/').map(|block| block.trim().parse::<u8>().ok());
        encoding.name.eq_ignore_ascii_case("red")
            && (encoding.clock_rate, encoding.channels) == (of.clock_rate, of.channels)
            && usable(encoding.payload_type)
            && blocks.all(|block| block == Some(of.payload_type))
    })?;
    (media.kind == Some(MediaKind::Audio)).then_some(PayloadType(red.payload_type))
}

/// RFC 5109 §14.1: ULPFEC for video, in RED, if a codec agreed on can be protected ([`crate::rtp::fec`]) and lost packets of it are sent
/// again as others. A publisher sends all its video in RED then, and repeats that: without RTX for it nothing could be asked for again.
pub fn fec(media: &Media, agreed: &[AgreedCodec], purpose: Purpose) -> Option<FecConfig> {
    let suits = |codec: &AgreedCodec| matches!(codec.config.codec, Codec::Vp8 | Codec::Vp9) && codec.config.rtx.is_some();
    let offered = |name: &str| {
        media.encodings.iter().find(|encoding| {
            encoding.name.eq_ignore_ascii_case(name) && encoding.clock_rate == 90_000 && usable(encoding.payload_type)
        })
    };
    let (red, ulpfec) = (offered("red")?, offered("ulpfec")?);
    let red_rtx = match purpose {
        Purpose::Publish => Some(retransmission(media, red)?),
        Purpose::Watch => None,
    };
    let fec = FecConfig { red: PayloadType(red.payload_type), ulpfec: PayloadType(ulpfec.payload_type), red_rtx };
    agreed.iter().any(suits).then_some(fec)
}

/// The feedback both ends know. Of what a viewer's path carries one kind is answered, [`super::stream::settle_feedback`] chooses.
/// RFC 8888's is offered for all payload types at once (§6), or for each (Pion).
fn feedback(media: &Media, payload_type: u8, kind: MediaKind, purpose: Purpose, transport_sequence: bool) -> Feedback {
    let offered = |wanted: &str| {
        media.feedback.iter().any(|(number, value)| number.is_none_or(|number| number == payload_type) && *value == wanted)
    };
    let video = kind == MediaKind::Video;
    Feedback {
        nack: offered("nack"),
        pli: video && offered("nack pli"),
        fir: video && offered("ccm fir"),
        transport_cc: transport_sequence && offered("transport-cc"),
        ccfb: purpose == Purpose::Watch && offered("ack ccfb"),
        remb: purpose == Purpose::Watch && offered("goog-remb"),
    }
}
