//! How good a picture members are to be sent, and how good it need be published: what each says of size and quality becomes a choice of
//! layers, and what nobody wants is switched off at the publisher (LiveKit's clients call it dynacast).

use livekit_protocol as proto;
use proto::signal_response::Message;

use super::feeds::Feed;
use super::members::{Member, Publication};
use super::rooms::Room;
use super::{Director, Part};
use crate::limits::QUALITIES_MAX;
use crate::rtp::config::{MediaConfig, MediaKind};
use crate::rtp::layers::{Choice, Wish};
use crate::units::TrackId;

/// LiveKit's names of simulcast encodings, from the lowest quality.
const RIDS: [&str; 3] = ["q", "h", "f"];
/// Every temporal layer.
const ALL: u8 = crate::limits::TEMPORAL_LAYERS_MAX as u8 - 1;

impl Director {
    /// Tells the worker what a member wants of a track that it is sent.
    pub(super) fn apply_wish(&mut self, room: &str, identity: &str, track: TrackId) {
        let Some(member) = self.member(room, identity) else { return };
        let Some(slot) = member.subscriber else { return };
        let feed = self.sessions.get(&slot).and_then(|session| session.feeds.iter().find(|feed| feed.track == track));
        let Some((sender, sent)) = feed.map(|feed| (feed.sender, feed.sent)) else { return };
        let told = self.publication_from(room, track).and_then(|publication| member.wanted.get(&publication.info.sid));
        let choice = |quality| Choice { quality: self.encoding_of(sent, quality), temporal: ALL };
        // A size is for the worker, who knows how large each layer is.
        let (size, whole) = (told.map_or((0, 0), |wanted| wanted.size), Choice::whole(u8::MAX));
        let wanted = self.quality_wanted(room, identity, track);
        let most = if size == (0, 0) { wanted.map(choice) } else { wanted.map(|_| whole) };
        let side = |pixels: u32| pixels.min(u16::MAX.into()) as u16;
        let priority = told.map(|wanted| wanted.priority).filter(|priority| *priority > 0);
        let priority = priority.unwrap_or_else(|| self.usual_priority(room, track));
        let frame_rate = told.map_or(0, |wanted| wanted.frame_rate);
        self.want(slot, sender, Wish { most, size: (side(size.0), side(size.1)), frame_rate, priority });
    }

    /// Of a track of which its viewer has not said how much it matters: a screen is looked at.
    fn usual_priority(&self, room: &str, track: TrackId) -> u8 {
        let source = self.publication_from(room, track).map(|publication| publication.info.source);
        if source == Some(proto::TrackSource::ScreenShare as i32) { Wish::PRIORITY / 2 } else { Wish::PRIORITY }
    }

    pub(super) fn publication_from(&self, room: &str, track: TrackId) -> Option<&Publication> {
        let publications = self.rooms.get(room)?.members.values().flat_map(|member| &member.publications);
        publications.into_iter().find(|publication| publication.track == Some(track))
    }

    /// Tells a member which of its pictures do not fit any more, or fit again.
    pub(super) fn tell_paused(&mut self, slot: u32, before: u64) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let (paused, Part::Member { identity }) = (session.stats.paused, &session.part) else { return };
        let (room, identity) = (&session.room, identity.clone());
        let changed = session.feeds.iter().filter(|feed| (paused ^ before).checked_shr(feed.sender.into()).unwrap_or(0) & 1 != 0);
        let state = |feed: &Feed| {
            let members = self.rooms.get(room)?.members.values();
            let mut published = members.flat_map(|member| member.publications.iter().map(move |publication| (member, publication)));
            let (member, publication) = published.find(|(_, publication)| publication.track == Some(feed.track))?;
            let state = if paused >> feed.sender & 1 != 0 { proto::StreamState::Paused } else { proto::StreamState::Active };
            let (participant_sid, track_sid) = (member.sid.clone(), publication.info.sid.clone());
            Some(proto::StreamStateInfo { participant_sid, track_sid, state: state as i32 })
        };
        let stream_states: Vec<_> = changed.filter_map(state).collect();
        let room = room.clone();
        if !stream_states.is_empty()
            && let Some(member) = self.member_mut(&room, &identity)
        {
            member.tell(Message::StreamStateUpdate(proto::StreamStateUpdate { stream_states }));
        }
    }

    /// LiveKit's quality (0 to 2) that a member wants of a track; none: nothing.
    fn quality_wanted(&self, room: &str, identity: &str, track: TrackId) -> Option<u8> {
        let publication = self.publication_from(room, track)?;
        let member = self.rooms.get(room)?.members.get(identity)?;
        let Some(wanted) = member.wanted.get(&publication.info.sid) else { return Some(2) };
        if wanted.disabled {
            return None;
        }
        if let Some(quality) = wanted.quality {
            return Some(quality);
        }
        Some(by_size(&publication.info, wanted.size))
    }

    /// Tells a room how good a member's connection is, if that has changed.
    pub(super) fn note_quality(&mut self, slot: u32) {
        use proto::ConnectionQuality::{Excellent, Good, Poor};
        let Some(session) = self.sessions.get(&slot) else { return };
        let Part::Member { identity } = session.part.clone() else { return };
        let room = session.room.clone();
        let Some(member) = self.member(&room, &identity) else { return };
        let sessions = [member.publisher, member.subscriber].into_iter().flatten().filter_map(|slot| self.sessions.get(&slot));
        let (mut loss, mut round_trip) = (0.0f64, 0);
        for session in sessions {
            let path = session.stats.path;
            loss = loss.max(session.loss_in).max(path.map_or(0.0, |path| path.loss));
            round_trip = round_trip.max(session.stats.inbound.round_trip.0).max(path.map_or(0, |path| path.round_trip.0));
        }
        let quality = match (loss, round_trip) {
            (loss, round_trip) if loss < 0.02 && round_trip < 250_000 => Excellent,
            (loss, round_trip) if loss < 0.06 && round_trip < 500_000 => Good,
            _ => Poor,
        };
        let Some(member) = self.member_mut(&room, &identity).filter(|member| member.quality != Some(quality)) else { return };
        member.quality = Some(quality);
        let score = [4.5, 3.5, 2.0][match quality {
            Excellent => 0,
            Good => 1,
            _ => 2,
        }];
        let info = proto::ConnectionQualityInfo { participant_sid: member.sid.clone(), quality: quality as i32, score };
        self.tell_room(&room, &Message::ConnectionQuality(proto::ConnectionQualityUpdate { updates: vec![info] }));
    }

    /// The index of the encoding that is of a quality; the best where there is but one.
    fn encoding_of(&self, track: TrackId, quality: u8) -> u8 {
        let video = self.track(track).filter(|track| track.kind == MediaKind::Video);
        let Some(media) = video.and_then(|_| self.media_of(track)) else { return u8::MAX };
        encoding(media, quality)
    }

    /// The m-line that a track comes on.
    fn media_of(&self, track: TrackId) -> Option<&MediaConfig> {
        let publisher = self.sessions.values().find(|session| session.tracks.contains(&track))?;
        let index = publisher.tracks.iter().position(|own| *own == track)?;
        let (mid, _) = publisher.sources.get(index)?;
        publisher.agreed.media.iter().find(|media| media.mid == *mid)
    }

    /// Tells publishers which qualities of their pictures anybody wants, where that has changed.
    pub(super) fn tell_qualities(&mut self, name: &str) {
        let Some(room) = self.rooms.get(name) else { return };
        let mut changed = Vec::new();
        for member in room.members.values().filter(|member| !member.whip) {
            for publication in &member.publications {
                let Some(track) = publication.track.filter(|_| publication.info.r#type == proto::TrackType::Video as i32) else {
                    continue;
                };
                let wanted = self.qualities_wanted(name, room, member, publication, track);
                if publication.told != Some(wanted) {
                    changed.push((member.identity.clone(), publication.info.sid.clone(), wanted));
                }
            }
        }
        for (identity, sid, wanted) in changed {
            let Some(member) = self.member_mut(name, &identity) else { continue };
            let Some(publication) = member.publication_of(&sid) else { continue };
            publication.told = Some(wanted);
            let first = publication.info.mime_type.trim_start_matches("video/").to_lowercase();
            let second = publication.backup.as_ref().map(|backup| backup.codec.name().to_lowercase());
            let quality = |quality, wanted: u8| proto::SubscribedQuality { quality, enabled: quality < i32::from(wanted) };
            let qualities = |wanted: u8| (0..3).map(|number| quality(number, wanted)).collect();
            let codecs = std::iter::once(first).chain(second).zip(wanted);
            let codecs = codecs.map(|(codec, wanted)| proto::SubscribedCodec { codec, qualities: qualities(wanted) }).collect();
            member.tell(Message::SubscribedQualityUpdate(subscribed(sid, qualities(wanted[0]), codecs)));
        }
    }

    /// How many qualities anybody wants of each codec of a publication.
    fn qualities_wanted(&self, name: &str, room: &Room, of: &Member, publication: &Publication, track: TrackId) -> [u8; 2] {
        let mut wanted = [0; 2];
        let codec_of = |slot: u32| {
            let feed = self.sessions.get(&slot)?.feeds.iter().find(|feed| feed.track == track)?;
            self.codec_for(slot, feed, publication)
        };
        for other in room.members.values() {
            let best = self.quality_wanted(name, &other.identity, track);
            if let Some(codec) = other.subscriber.and_then(codec_of) {
                wanted[codec] = wanted[codec].max(best.map_or(0, |best| best + 1));
            }
        }
        // Viewers without an account of what they want get all, and so do recordings.
        let codecs = 1 + usize::from(publication.backup.is_some());
        for codec in room.viewers.iter().filter_map(|slot| codec_of(*slot)) {
            wanted[codec] = 3;
            // One speaks for all.
            if wanted.iter().take(codecs).all(|wanted| *wanted == 3) {
                break;
            }
        }
        if of.publisher.and_then(|slot| self.sessions.get(&slot)).is_some_and(|session| self.is_tapped(session.id, track)) {
            wanted[0] = 3;
        }
        wanted
    }
}

#[allow(deprecated)] // what older clients still read
fn subscribed(
    track_sid: String,
    subscribed_qualities: Vec<proto::SubscribedQuality>,
    subscribed_codecs: Vec<proto::SubscribedCodec>,
) -> proto::SubscribedQualityUpdate {
    proto::SubscribedQualityUpdate { track_sid, subscribed_qualities, subscribed_codecs }
}

/// The lowest quality that fills a place of that size.
#[allow(deprecated)]
fn by_size(info: &proto::TrackInfo, (width, height): (u32, u32)) -> u8 {
    let fills = |layer: &&proto::VideoLayer| layer.width >= width || layer.height >= height;
    let best = info.layers.iter().filter(fills).map(|layer| layer.quality).min();
    best.map_or(2, |quality| quality.clamp(0, 2) as u8)
}

/// Encodings are numbered from the best. Those that are called as LiveKit's clients call them are found by name, others by their rank.
fn encoding(media: &MediaConfig, quality: u8) -> u8 {
    if media.kind != MediaKind::Video {
        return u8::MAX;
    }
    let named = RIDS.get(quality as usize).and_then(|name| media.rids.iter().position(|rid| rid.as_str() == *name));
    let count = media.rids.len().min(QUALITIES_MAX);
    match named {
        Some(index) => index as u8,
        // Spatial layers of one stream are numbered from the lowest.
        None if count < 2 => quality,
        None => count.saturating_sub(1).saturating_sub(quality as usize) as u8,
    }
}
