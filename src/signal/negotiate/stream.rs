//! What an m-line sends: SSRCs and their groups (RFC 5576), rids and simulcast (RFC 8851, RFC 8853), header extensions (RFC 8285).

use arrayvec::ArrayVec;

use super::error::NegotiateError;
use super::offer::{Extmap, Media, OfferedRid};
use super::{Purpose, codec::AgreedCodec};
use crate::rtp::config::{self, MediaKind, StreamPair};
use crate::units::Ssrc;
use crate::wire::extension::{ExtensionKind, ExtensionMap};

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
#[derive(Default)]
pub struct BundleExtensions {
    ids: ExtensionMap,
}

impl BundleExtensions {
    /// The extensions answered for one m-line, with the offerer's ids. Where an m-line contradicts an earlier one, it goes without.
    pub fn agree(&mut self, media: &Media, kind: MediaKind, purpose: Purpose) -> (ExtensionMap, Vec<Extmap>) {
        let mut map = ExtensionMap::default();
        let mut lines = Vec::new();
        for extmap in media.extmaps.iter().filter(|extmap| handled(kind, purpose).contains(&extmap.kind)) {
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

/// What is read from publishers and written (or passed on) to viewers. Viewers get no transport-wide sequence numbers yet: the
/// sender's bandwidth estimate does without them.
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
        ],
        // Towards viewers only what is passed on as it came: times and sequence numbers of a hop, and the dependency
        // descriptor with its frame numbers, would have to be written anew.
        (Purpose::Watch, MediaKind::Audio) => &[Mid, AudioLevel, AbsCaptureTime],
        (Purpose::Watch, MediaKind::Video) => &[Mid, VideoOrientation, PlayoutDelay, VideoContentType, ColorSpace, AbsCaptureTime],
    }
}
