//! The typed reading of an offer: `sdp-types` splits lines, this file gives them meaning (RFC 8866, RFC 8829 §5.8).
//!
//! Everything is read in one pass per m-line into small vectors whose length the offer's 64 KiB bound, and what a section does not
//! need is skipped: a malformed attribute counts as absent, since an unknown client's experiment must not cost it its session.
//! Errors are kept for what the server cannot do without.

use super::candidate;
use super::error::{NegotiateError, Section};
use crate::limits;
use crate::rtp::config::MediaKind;
use crate::wire::extension::ExtensionKind;
use std::net::SocketAddr;

/// Direction as the offerer sees it (RFC 8866 §6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Offered {
    pub const fn name(self) -> &'static str {
        match self {
            Offered::SendRecv => "sendrecv",
            Offered::SendOnly => "sendonly",
            Offered::RecvOnly => "recvonly",
            Offered::Inactive => "inactive",
        }
    }
    fn from_name(name: &str) -> Option<Offered> {
        [Offered::SendRecv, Offered::SendOnly, Offered::RecvOnly, Offered::Inactive].into_iter().find(|d| d.name() == name)
    }
    pub const fn sends(self) -> bool {
        matches!(self, Offered::SendRecv | Offered::SendOnly)
    }
    pub const fn receives(self) -> bool {
        matches!(self, Offered::SendRecv | Offered::RecvOnly)
    }
    /// The same seen from the other end.
    pub const fn reversed(self) -> Offered {
        match self {
            Offered::SendOnly => Offered::RecvOnly,
            Offered::RecvOnly => Offered::SendOnly,
            same => same,
        }
    }
}

/// One payload type: `a=rtpmap` with its `a=fmtp`.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'s> {
    pub payload_type: u8,
    pub name: &'s str,
    pub clock_rate: u32,
    pub channels: u8,
    /// Format parameters, unparsed; empty if there are none.
    pub parameters: &'s str,
}

/// One `a=extmap` of a kind the server knows, with an id of a one-byte element.
#[derive(Clone, Copy, Debug)]
pub struct Extmap {
    pub id: u8,
    pub kind: ExtensionKind,
    /// RFC 8285 §6: an extension may have its own direction.
    pub direction: Option<Offered>,
}

/// One `a=rid:… send` (RFC 8851 §4).
#[derive(Clone, Copy, Debug)]
pub struct OfferedRid<'s> {
    pub id: &'s str,
    pub restrictions: &'s str,
}

/// One m-line with its attributes.
#[derive(Debug)]
pub struct Media<'s> {
    pub label: Section,
    pub line: &'s sdp_types::Media,
    /// `None` for what is neither audio nor video.
    pub kind: Option<MediaKind>,
    pub mid: Option<&'s str>,
    /// Port 0 without `a=bundle-only`: the offerer does not want this m-line (RFC 3264 §5.1, RFC 8843 §6).
    pub disabled: bool,
    pub direction: Offered,
    pub rtcp_mux: bool,
    pub rtcp_rsize: bool,
    pub extmap_allow_mixed: bool,
    pub encodings: Vec<Encoding<'s>>,
    /// `a=rtcp-fb`: payload type (`None` for `*`) and value.
    pub feedback: Vec<(Option<u8>, &'s str)>,
    pub extmaps: Vec<Extmap>,
    /// SSRCs with an attribute of their own, in order, each once.
    pub ssrcs: Vec<u32>,
    /// `a=ssrc-group`: semantics and members.
    pub ssrc_groups: Vec<(&'s str, Vec<u32>)>,
    pub rids: Vec<OfferedRid<'s>>,
    /// First alternative of each stream in `a=simulcast`'s send list (RFC 8853 §5.1).
    pub simulcast: Vec<&'s str>,
    pub ice_ufrag: Option<&'s str>,
    pub ice_pwd: Option<&'s str>,
    pub setup: Option<&'s str>,
    pub fingerprints: Vec<&'s str>,
    pub candidates: Vec<SocketAddr>,
    /// The client's name of the track it sends (RFC 8830: the second part, where there is one).
    pub msid: Option<&'s str>,
    /// Of data channels (RFC 8841).
    pub sctp_port: Option<u16>,
    pub max_message_size: Option<u32>,
}

/// A whole offer.
#[derive(Debug)]
pub struct Offer<'s> {
    pub media: Vec<Media<'s>>,
    /// Mids of the first `a=group:BUNDLE`, in its order.
    pub bundle: Vec<&'s str>,
    pub extmap_allow_mixed: bool,
    pub ice_lite: bool,
    pub ice_ufrag: Option<&'s str>,
    pub ice_pwd: Option<&'s str>,
    pub setup: Option<&'s str>,
    pub fingerprints: Vec<&'s str>,
}

/// Reads the lines of an offer. Only its length and number of m-lines are judged here.
pub fn parse_lines(offer: &str, bytes_max: usize) -> Result<sdp_types::Session, NegotiateError> {
    if offer.len() > bytes_max {
        return Err(NegotiateError::TooLong { bytes: offer.len(), bytes_max });
    }
    let session = sdp_types::Session::parse(offer.as_bytes())
        .map_err(|error| NegotiateError::NotSdp { reason: error.to_string().chars().take(200).collect() })?;
    match session.medias.len() {
        0 => Err(NegotiateError::NoSections),
        count if count > limits::MEDIA_SECTIONS_MAX => Err(NegotiateError::TooManySections { count }),
        _ => Ok(session),
    }
}

impl<'s> Offer<'s> {
    /// Reads every m-line. Duplicate mids and payload types out of range are errors.
    pub fn read(session: &'s sdp_types::Session) -> Result<Offer<'s>, NegotiateError> {
        let mut offer = Offer {
            media: Vec::with_capacity(session.medias.len()),
            bundle: Vec::new(),
            extmap_allow_mixed: false,
            ice_lite: false,
            ice_ufrag: None,
            ice_pwd: None,
            setup: None,
            fingerprints: Vec::new(),
        };
        let mut direction = Offered::SendRecv;
        for (name, value) in attributes(&session.attributes) {
            match name {
                "group" if offer.bundle.is_empty() => {
                    if let Some(mids) = value.strip_prefix("BUNDLE") {
                        offer.bundle = mids.split_ascii_whitespace().take(limits::MEDIA_SECTIONS_MAX).collect();
                    }
                }
                "extmap-allow-mixed" => offer.extmap_allow_mixed = true,
                "ice-lite" => offer.ice_lite = true,
                "ice-ufrag" => offer.ice_ufrag = Some(value),
                "ice-pwd" => offer.ice_pwd = Some(value),
                "setup" => offer.setup = Some(value),
                "fingerprint" => offer.fingerprints.push(value),
                _ => direction = Offered::from_name(name).unwrap_or(direction),
            }
        }
        for (index, line) in session.medias.iter().enumerate() {
            offer.media.push(Media::read(index, line, direction)?);
        }
        for (index, media) in offer.media.iter().enumerate() {
            if let Some(mid) = media.mid
                && offer.media.iter().take(index).any(|other| other.mid == Some(mid))
            {
                return Err(NegotiateError::DuplicateMid { mid: mid.chars().take(32).collect() });
            }
        }
        Ok(offer)
    }
}

impl<'s> Media<'s> {
    fn read(index: usize, line: &'s sdp_types::Media, direction: Offered) -> Result<Media<'s>, NegotiateError> {
        let kind = match line.media.as_str() {
            "audio" => Some(MediaKind::Audio),
            "video" => Some(MediaKind::Video),
            _ => None,
        };
        let mut media = Media {
            label: Section { number: index + 1, media: line.media.chars().take(32).collect() },
            line,
            kind,
            mid: None,
            disabled: line.port == 0,
            direction,
            rtcp_mux: false,
            rtcp_rsize: false,
            extmap_allow_mixed: false,
            encodings: Vec::new(),
            feedback: Vec::new(),
            extmaps: Vec::new(),
            ssrcs: Vec::new(),
            ssrc_groups: Vec::new(),
            rids: Vec::new(),
            simulcast: Vec::new(),
            ice_ufrag: None,
            ice_pwd: None,
            setup: None,
            fingerprints: Vec::new(),
            candidates: Vec::new(),
            msid: None,
            sctp_port: None,
            max_message_size: None,
        };
        for (name, value) in attributes(&line.attributes) {
            media.read_attribute(name, value);
        }
        if kind.is_some() {
            media.encodings = read_encodings(&media.label, line)?;
        }
        Ok(media)
    }

    fn read_attribute(&mut self, name: &'s str, value: &'s str) {
        match name {
            "mid" if self.mid.is_none() => self.mid = Some(value),
            "bundle-only" => self.disabled = false,
            "rtcp-mux" => self.rtcp_mux = true,
            "rtcp-rsize" => self.rtcp_rsize = true,
            "extmap-allow-mixed" => self.extmap_allow_mixed = true,
            "rtcp-fb" => self.feedback.extend(read_feedback(value)),
            "extmap" => {
                // Of two ids for one kind, the first that fits is used.
                if let Some(extmap) = read_extmap(value)
                    && !self.extmaps.iter().any(|other| other.kind == extmap.kind || other.id == extmap.id)
                {
                    self.extmaps.push(extmap);
                }
            }
            "ssrc" => {
                // RFC 5576 §4.1: one SSRC has many such lines.
                let ssrc = value.split_ascii_whitespace().next().and_then(|id| id.parse().ok());
                if let Some(ssrc) = ssrc
                    && !self.ssrcs.contains(&ssrc)
                    && self.ssrcs.len() < SSRCS_MAX
                {
                    self.ssrcs.push(ssrc);
                }
            }
            "ssrc-group" if self.ssrc_groups.len() < SSRCS_MAX => {
                let mut fields = value.split_ascii_whitespace();
                if let Some(semantics) = fields.next() {
                    self.ssrc_groups.push((semantics, fields.filter_map(|id| id.parse().ok()).take(SSRCS_MAX).collect()));
                }
            }
            "rid" => self.rids.extend(read_rid(value).filter(|_| self.rids.len() < RIDS_MAX)),
            "simulcast" if self.simulcast.is_empty() => self.simulcast = read_simulcast(value),
            "ice-ufrag" => self.ice_ufrag = self.ice_ufrag.or(Some(value)),
            "ice-pwd" => self.ice_pwd = self.ice_pwd.or(Some(value)),
            "setup" => self.setup = self.setup.or(Some(value)),
            "msid" => self.msid = self.msid.or(value.split_ascii_whitespace().nth(1)),
            "sctp-port" => self.sctp_port = value.parse().ok(),
            "max-message-size" => self.max_message_size = value.parse().ok(),
            "fingerprint" => self.fingerprints.push(value),
            "candidate" if self.candidates.len() < limits::CANDIDATES_MAX => self.candidates.extend(candidate::parse(value)),
            _ => self.direction = Offered::from_name(name).unwrap_or(self.direction),
        }
    }
}

/// SSRCs, and groups of them, looked at in one m-line; a camera's simulcast with RTX and FEC has nine.
const SSRCS_MAX: usize = 32;
/// Rids looked at in one m-line.
const RIDS_MAX: usize = 16;

/// Names and values (empty for a property attribute), without the spaces some clients leave around them.
fn attributes(list: &[sdp_types::Attribute]) -> impl Iterator<Item = (&str, &str)> {
    list.iter().map(|a| (a.attribute.trim(), a.value.as_deref().unwrap_or("").trim()))
}

/// The m-line's payload types, in order and each once, with their `a=rtpmap` and `a=fmtp`. Those without a map (the static
/// ones of RFC 3551) are left out: none of their codecs is handled.
fn read_encodings<'s>(label: &Section, line: &'s sdp_types::Media) -> Result<Vec<Encoding<'s>>, NegotiateError> {
    let mut maps: Vec<Option<&str>> = vec![None; 128];
    let mut parameters: Vec<Option<&str>> = vec![None; 128];
    for (name, value) in attributes(&line.attributes) {
        let table = match name {
            "rtpmap" => &mut maps,
            "fmtp" => &mut parameters,
            _ => continue,
        };
        let Some((number, rest)) = value.split_once(' ') else { continue };
        if let Some(slot) = number.parse::<usize>().ok().and_then(|number| table.get_mut(number)) {
            // The first of two lines for one payload type counts.
            slot.get_or_insert(rest.trim());
        }
    }
    let mut encodings = Vec::new();
    let mut seen = 0_u128;
    for text in line.fmt.split_ascii_whitespace() {
        let Some(payload_type) = text.parse::<u8>().ok().filter(|number| *number < 128) else {
            return Err(NegotiateError::BadPayloadType { section: label.clone(), text: text.chars().take(16).collect() });
        };
        if seen & (1 << payload_type) != 0 {
            continue;
        }
        seen |= 1 << payload_type;
        let map = maps.get(usize::from(payload_type)).copied().flatten();
        let parameters = parameters.get(usize::from(payload_type)).copied().flatten().unwrap_or("");
        encodings.extend(map.and_then(|map| read_rtpmap(payload_type, map, parameters)));
    }
    Ok(encodings)
}

/// RFC 8866 §6.6: `<encoding name>/<clock rate>[/<channels>]`.
fn read_rtpmap<'s>(payload_type: u8, map: &'s str, parameters: &'s str) -> Option<Encoding<'s>> {
    let mut fields = map.split('/');
    let name = fields.next()?.trim();
    let clock_rate = fields.next()?.trim().parse().ok()?;
    let channels = match fields.next() {
        Some(channels) => channels.trim().parse().ok()?,
        None => 1,
    };
    Some(Encoding { payload_type, name, clock_rate, channels, parameters })
}

/// RFC 4585 §4.2: `<payload type or *> <value>`.
fn read_feedback(value: &str) -> Option<(Option<u8>, &str)> {
    let (number, feedback) = value.split_once(' ')?;
    let payload_type = match number {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    Some((payload_type, feedback.trim()))
}

/// RFC 8285 §8: `<id>[/<direction>] <URI> [attributes]`.
fn read_extmap(value: &str) -> Option<Extmap> {
    let mut fields = value.split_ascii_whitespace();
    let (id, uri) = (fields.next()?, fields.next()?);
    let (id, direction) = match id.split_once('/') {
        Some((id, direction)) => (id, Some(Offered::from_name(direction)?)),
        None => (id, None),
    };
    let id = id.parse::<u8>().ok().filter(|id| (1..=14).contains(id))?;
    Some(Extmap { id, kind: ExtensionKind::from_uri(uri)?, direction })
}

fn read_rid(value: &str) -> Option<OfferedRid<'_>> {
    let (id, rest) = value.split_once(' ')?;
    let (direction, restrictions) = rest.split_once(' ').unwrap_or((rest, ""));
    // RFC 8852 §3.1: letters and digits; RFC 8851 §10 also has - and _. 16 bytes fit a one-byte header extension.
    let valid = (1..=16).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    (valid && direction == "send").then_some(OfferedRid { id, restrictions })
}

/// RFC 8853 §5.1: `send a;b,c;~d recv …`: streams are separated by `;`, alternatives by `,`, `~` means paused.
fn read_simulcast(value: &str) -> Vec<&str> {
    let mut fields = value.split_ascii_whitespace();
    while let Some(field) = fields.next() {
        if field == "send" {
            let streams = fields.next().unwrap_or("").split(';');
            return streams.filter_map(|s| s.split(',').next()).map(|rid| rid.trim_start_matches('~')).take(RIDS_MAX).collect();
        }
    }
    Vec::new()
}

/// Checks an ICE credential: RFC 8839 §5.4 has ice-char, at least `length_min` and at most 256 of them.
pub fn ice_credential(attribute: &'static str, value: &str, length_min: usize) -> Result<String, NegotiateError> {
    let valid = (length_min..=256).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    if valid { Ok(value.to_owned()) } else { Err(NegotiateError::BadIceCredentials { attribute }) }
}
