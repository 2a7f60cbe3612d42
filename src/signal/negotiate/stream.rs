//! What an m-line sends: SSRCs and their groups (RFC 5576), rids and simulcast (RFC 8851, RFC 8853), header extensions (RFC 8285).

use arrayvec::ArrayVec;

use super::error::NegotiateError;
use super::offer::{Extmap, Media, OfferedRid};
use super::write::Accepted;
use super::{Purpose, codec::AgreedCodec};
use crate::rtp::config::{self, Codec, Direction, MediaKind, StreamPair};
use crate::units::Ssrc;
use crate::wire::extension::ExtensionKind::{self, DependencyDescriptor};
use crate::wire::extension::ExtensionMap;

/// Media SSRCs with their retransmission SSRCs, at most four. A group may name SSRCs without lines of their own (ffmpeg's does).
pub fn announced(media: &Media) -> Result<ArrayVec<StreamPair, 4>, NegotiateError> {
    // The second member of these groups is not a media stream: RTX (RFC 5576 §4.2) and FEC (RFC 5956 §4.3).
    let mut secondary: Vec<u32> = Vec::new();
    let mut retransmissions: Vec<(u32, u32)> = Vec::new();
    let mut primary: Vec<u32> = Vec::new();
    for (semantics, members) in &media.ssrc_groups {
        match (*semantics, members.as_slice()) {
            ("FID", &[stream, rtx]) => {
                if stream == rtx || retransmissions.iter().any(|pair| pair.0 == stream || pair.1 == rtx) {
                    return Err(NegotiateError::DuplicateSsrc { ssrc: rtx });
                }
                retransmissions.push((stream, rtx));
                secondary.push(rtx);
            }
            ("FEC" | "FEC-FR", &[_, fec]) => secondary.push(fec),
            // Chromium's old simulcast, lowest layer first; reversed to give the highest first.
            ("SIM", streams) if primary.is_empty() => primary = streams.iter().rev().copied().collect(),
            _ => {}
        }
    }
    for ssrc in retransmissions.iter().map(|pair| pair.0).chain(media.ssrcs.iter().copied()) {
        if !primary.contains(&ssrc) && !secondary.contains(&ssrc) {
            primary.push(ssrc);
        }
    }
    let mut pairs = ArrayVec::new();
    for ssrc in primary {
        if let Some(pair) = retransmissions.iter().find(|pair| pair.1 == ssrc) {
            return Err(NegotiateError::DuplicateSsrc { ssrc: pair.1 });
        }
        let rtx = retransmissions.iter().find(|pair| pair.0 == ssrc).map(|pair| Ssrc(pair.1));
        // Zero is no SSRC that a stream could be found by.
        if ssrc != 0 && pairs.try_push(StreamPair { media: Ssrc(ssrc), rtx }).is_err() {
            break;
        }
    }
    Ok(pairs)
}

/// A rid that is answered, with the restrictions repeated.
#[derive(Clone, Debug)]
pub struct AgreedRid {
    pub id: config::Rid,
    pub restrictions: String,
}

/// The rids accepted from a publisher, best first: by `max-width` × `max-height` or by `max-br` if all have them, else as listed
/// (RFC 8853 §5.2: the most preferred comes first, though clients differ).
pub fn rids(media: &Media, codec: &AgreedCodec) -> (ArrayVec<AgreedRid, 4>, Vec<config::Rid>) {
    // Paused streams and those without a rid line are no different here; a rid outside a=simulcast is a single stream.
    let listed = |rid: &&OfferedRid| media.simulcast.is_empty() || media.simulcast.contains(&rid.id);
    let mut agreed: ArrayVec<AgreedRid, 4> = ArrayVec::new();
    let mut quality: ArrayVec<(u64, u64, config::Rid), 4> = ArrayVec::new();
    for rid in media.rids.iter().filter(listed) {
        let Ok(id) = config::Rid::from(rid.id) else { continue };
        let Some(restrictions) = restrictions(rid, codec) else { continue };
        if agreed.is_full() || agreed.iter().any(|other| other.id == id) {
            continue;
        }
        let value = |name| restriction(rid, name).and_then(|v| v.parse::<u32>().ok()).map_or(0, u64::from);
        quality.push((value("max-width") * value("max-height"), value("max-br"), id));
        agreed.push(AgreedRid { id, restrictions });
    }
    if quality.iter().all(|entry| entry.0 > 0) {
        quality.sort_by_key(|entry| std::cmp::Reverse(entry.0));
    } else if quality.iter().all(|entry| entry.1 > 0) {
        quality.sort_by_key(|entry| std::cmp::Reverse(entry.1));
    }
    (agreed, quality.into_iter().map(|entry| entry.2).collect())
}

fn restriction<'s>(rid: &OfferedRid<'s>, name: &str) -> Option<&'s str> {
    rid.restrictions.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

/// RFC 8851 §6.2: restrictions are repeated, unknown ones dropped, payload types limited to those answered. `None` if the rid is
/// for other payload types only.
fn restrictions(rid: &OfferedRid, codec: &AgreedCodec) -> Option<String> {
    const KNOWN: [&str; 7] = ["max-width", "max-height", "max-fps", "max-fs", "max-br", "max-pps", "max-bpp"];
    let mut kept = Vec::new();
    if let Some(list) = restriction(rid, "pt") {
        let payload_type = codec.config.payload_type.0;
        if !list.split(',').any(|number| number.parse() == Ok(payload_type)) {
            return None;
        }
        kept.push(format!("pt={payload_type}"));
    }
    for name in KNOWN {
        let value = restriction(rid, name);
        if let Some(value) = value.filter(|v| v.len() <= 12 && v.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')) {
            kept.push(format!("{name}={value}"));
        }
    }
    Some(kept.join(";"))
}

/// Extension ids of the whole BUNDLE group: before its first packet's mid is read, a packet belongs to no m-line, so one id must
/// mean one kind everywhere (RFC 8843 §12, RFC 8285 §5).
///
/// The dependency descriptor is taken where it can be used. With a structure it is longer than the 16 bytes of a one-byte element,
/// and without `a=extmap-allow-mixed` a stream may not have elements of both kinds (RFC 8285 §4.1.2). VP8 and VP9 tell their layers
/// in the payload, for viewers with and without the extension; and Chromium, which offers it with simulcast and SVC, leaves picture
/// ids and temporal layers out of VP8's own descriptors once it is accepted.
pub struct BundleExtensions {
    ids: ExtensionMap,
    /// The offer has `a=extmap-allow-mixed` for all m-lines.
    allow_mixed: bool,
    /// Rids are answered on m-lines that the server sends on too: Chromium offers later m-lines with what was answered on the first,
    /// and cannot offer simulcast without.
    keeps_rids: bool,
}

impl BundleExtensions {
    pub fn new(allow_mixed: bool, keeps_rids: bool) -> Self {
        BundleExtensions { ids: ExtensionMap::default(), allow_mixed, keeps_rids }
    }

    /// The extensions answered for one m-line whose first codec is `codec`, with the offerer's ids. Where an m-line contradicts an
    /// earlier one, it goes without.
    pub fn agree(&mut self, media: &Media, codec: Codec, purpose: Purpose) -> (ExtensionMap, Vec<Extmap>) {
        let mut map = ExtensionMap::default();
        let mut lines = Vec::new();
        let describable = (self.allow_mixed || media.extmap_allow_mixed)
            && (purpose == Purpose::Watch || matches!(codec, Codec::Av1 | Codec::H264));
        let is_rid = |kind| matches!(kind, ExtensionKind::Rid | ExtensionKind::RepairedRid);
        let kept = self.keeps_rids && purpose == Purpose::Watch && codec.kind() == MediaKind::Video;
        let wanted = |kind| {
            (handled(codec.kind(), purpose).contains(&kind) || (kept && is_rid(kind)))
                && (kind != DependencyDescriptor || describable)
        };
        for extmap in media.extmaps.iter().filter(|extmap| wanted(extmap.kind)) {
            let flows = extmap.direction.is_none_or(|direction| match purpose {
                Purpose::Publish => direction.sends(),
                Purpose::Watch => direction.receives(),
            });
            let consistent = match (self.ids.id(extmap.kind), self.ids.kind(extmap.id)) {
                (None, None) => true,
                (Some(id), Some(kind)) => id == extmap.id && kind == extmap.kind,
                _ => false,
            };
            if flows && consistent {
                self.ids.set(extmap.kind, extmap.id);
                map.set(extmap.kind, extmap.id);
                lines.push(*extmap);
            }
        }
        (map, lines)
    }
}

/// How a viewer tells what its path carries, if it is to: by transport-wide feedback where numbers may be written, else by congestion control
/// feedback (RFC 8888), else by REMB, else not at all. Of those offered one is answered, as RFC 8888 §6 asks for. Transport-wide
/// feedback comes first: it counts all streams as one, its times are four times as fine, and it is what has been tried with browsers.
///
/// A packet that is sent again without RTX (RFC 4588) must be bit by bit the one sent before, because it is encrypted under the same
/// index; a transport-wide number is another at each sending. So an m-line gets numbers only if nothing of it is ever repeated that
/// way: it has RTX, and the codecs of it that have none lose their `nack`; or no codec of it has `nack`. Dependency descriptors tell
/// what the viewer gets when they are written, so it is the same with them; but they are given up rather than `nack`. And what is
/// told by a stream's own numbers (RFC 8888) must be told of one sending each: it is asked for where numbers could be written.
pub fn settle_feedback(accepted: &mut [Accepted], estimates: bool) {
    let sent_once = |line: &Accepted| {
        let codecs = &line.config.codecs;
        codecs.iter().any(|codec| codec.rtx.is_some()) || !codecs.iter().any(|codec| codec.feedback.nack)
    };
    let numbered = |line: &Accepted| {
        estimates
            && line.config.extensions.id(ExtensionKind::TransportSequence).is_some()
            && line.config.codecs.iter().all(|codec| codec.feedback.transport_cc)
            && sent_once(line)
    };
    let by_stream = |line: &Accepted| estimates && line.config.codecs.iter().all(|codec| codec.feedback.ccfb) && sent_once(line);
    let is_sent = |line: &&Accepted| line.config.direction == Direction::SendOnly;
    let any_numbered = accepted.iter().filter(is_sent).any(numbered);
    let any_by_stream = !any_numbered && accepted.iter().filter(is_sent).any(by_stream);
    for line in accepted.iter_mut().filter(|line| is_sent(&&**line)) {
        if line.config.codecs.iter().any(|codec| codec.rtx.is_none() && codec.feedback.nack) {
            line.leave_out(DependencyDescriptor);
        }
        let (numbered, by_stream) = (numbered(line), any_by_stream && by_stream(line));
        if !numbered {
            line.leave_out(ExtensionKind::TransportSequence);
            // Nobody tells of its losses as they are, and what is protected must not be repeated without RTX either.
            line.config.fec = None;
        }
        for config in line.config.codecs.iter_mut().chain(line.codecs.iter_mut().map(|codec| &mut codec.config)) {
            (config.feedback.transport_cc, config.feedback.ccfb) = (numbered, by_stream);
            config.feedback.nack &= !(numbered || by_stream) || config.rtx.is_some();
            config.feedback.remb &= estimates && !(any_numbered || any_by_stream);
        }
    }
}

impl Accepted {
    pub(super) fn leave_out_redundancy(&mut self) {
        let configs = self.config.codecs.iter_mut().chain(self.codecs.iter_mut().map(|codec| &mut codec.config));
        configs.for_each(|config| config.red = None);
        self.config.fec = None;
    }

    fn leave_out(&mut self, kind: ExtensionKind) {
        self.config.extensions.clear(kind);
        self.extmaps.retain(|extmap| extmap.kind != kind);
    }
}

/// What is read from publishers and written (or passed on) to viewers.
const fn handled(kind: MediaKind, purpose: Purpose) -> &'static [ExtensionKind] {
    use ExtensionKind::*;
    match (purpose, kind) {
        (Purpose::Publish, MediaKind::Audio) => &[Mid, AudioLevel, TransportSequence, AbsSendTime, AbsCaptureTime],
        (Purpose::Publish, MediaKind::Video) => &[
            Mid,
            Rid,
            RepairedRid,
            TransportSequence,
            AbsSendTime,
            VideoOrientation,
            PlayoutDelay,
            VideoContentType,
            ColorSpace,
            AbsCaptureTime,
            DependencyDescriptor,
        ],
        // Towards viewers what is passed on as it came, transport-wide numbers of our own, and the dependency descriptor, which is
        // written anew.
        (Purpose::Watch, MediaKind::Audio) => &[Mid, AudioLevel, AbsCaptureTime, TransportSequence],
        (Purpose::Watch, MediaKind::Video) => &[
            Mid,
            VideoOrientation,
            PlayoutDelay,
            VideoContentType,
            ColorSpace,
            AbsCaptureTime,
            TransportSequence,
            DependencyDescriptor,
        ],
    }
}
