//! What members say: each message of LiveKit's signalling, and what it does.

use std::collections::{BTreeMap, BTreeSet};

use livekit_protocol as proto;
use prost::Message as _;
use proto::request_response::{Reason, Request};
use proto::signal_request::Message as Said;
use proto::signal_response::Message;

use super::Director;
use super::backup::{Backup, announced, backup_of, described};
use super::members::{Publication, Wanted, mime, mime_of};
use crate::limits::{ATTRIBUTES_BYTES_MAX, MEDIA_PER_PEER, METADATA_BYTES_MAX, NAME_BYTES_MAX, TRACK_BYTES_MAX};
use crate::rtp::config::{Codec, MediaKind};
use crate::signal::api::MemberKey;
use crate::units::TrackId;

impl Director {
    /// Does what a member says.
    pub(super) fn signal(&mut self, key: &MemberKey, request: proto::SignalRequest) {
        if self.speaker_for(key).is_none() {
            return;
        }
        let (room, identity) = (&key.room, &key.identity);
        match request.message {
            Some(Said::Offer(offer)) => self.take_offer(room, identity, &offer),
            Some(Said::Answer(answer)) => self.take_answer(room, identity, &answer),
            Some(Said::AddTrack(request)) => self.add_track(key, request),
            Some(Said::Mute(request)) => self.mute(room, identity, &request.sid, request.muted),
            Some(Said::Subscription(request)) => self.subscription(key, &request),
            Some(Said::TrackSetting(request)) => self.track_setting(key, &request),
            Some(Said::Leave(_)) => self.remove_member(room, identity, proto::DisconnectReason::ClientInitiated),
            Some(Said::SubscriptionPermission(request)) => self.subscription_permission(key, &request),
            Some(Said::SyncState(state)) => self.sync_state(key, &state),
            Some(Said::Ping(timestamp)) => self.reply(key, Message::Pong(timestamp)),
            Some(Said::PingReq(ping)) => {
                let timestamp = self.settings.epoch + (self.now.0 / 1_000) as i64;
                self.reply(key, Message::PongResp(proto::Pong { last_ping_timestamp: ping.timestamp, timestamp }));
            }
            Some(Said::UpdateMetadata(request)) => self.update_metadata(key, request),
            Some(Said::UpdateAudioTrack(request)) => {
                let Some(member) = self.speaker_for(key) else { return };
                if let Some(publication) = member.publication_of(&request.track_sid) {
                    publication.info.audio_features = request.features;
                    self.tell_of(room, identity);
                }
            }
            Some(Said::UpdateVideoTrack(request)) => {
                let Some(member) = self.speaker_for(key) else { return };
                if let Some(publication) = member.publication_of(&request.track_sid) {
                    (publication.info.width, publication.info.height) = (request.width, request.height);
                    self.tell_of(room, identity);
                }
            }
            Some(Said::Simulate(request)) => self.simulate(key, &request),
            Some(Said::PublishDataTrackRequest(request)) => self.publish_data_track(key, request),
            Some(Said::UnpublishDataTrackRequest(request)) => self.unpublish_data_track(key, request),
            Some(Said::UpdateDataSubscription(request)) => self.subscribe_to_data(key, request),
            // An ICE-lite server learns where its clients are from their checks, and layers are measured, not told; blobs it does not keep.
            _ => {}
        }
    }

    fn reply(&mut self, key: &MemberKey, message: Message) {
        if let Some(member) = self.speaker_for(key) {
            member.tell(message);
        }
    }

    pub(super) fn refuse(&mut self, key: &MemberKey, request_id: u32, reason: Reason, message: &str, request: Option<Request>) {
        let (reason, message) = (reason as i32, message.to_owned());
        self.reply(key, Message::RequestResponse(proto::RequestResponse { request_id, reason, message, request }));
    }

    /// A track is about to be published: it gets its id. The others are told when it is agreed on.
    pub(super) fn add_track(&mut self, key: &MemberKey, request: proto::AddTrackRequest) {
        if !request.sid.is_empty() {
            return self.add_backup(key, request);
        }
        let sid = format!("TR_{}", self.token(12));
        let codecs = announced(&request, &self.settings.codecs);
        let Some(member) = self.speaker_for(key) else { return };
        let names = &member.permission.can_publish_sources;
        let granted = member.permission.can_publish && (names.is_empty() || names.contains(&request.source));
        if !granted {
            let text = "The token does not allow publishing this.";
            return self.refuse(key, 0, Reason::NotAllowed, text, Some(Request::AddTrack(request)));
        }
        let again = member.publications.iter().find(|publication| publication.cids.contains(&request.cid));
        if let Some(publication) = again {
            let track = Some(publication.info.clone());
            return self.reply(key, Message::TrackPublished(proto::TrackPublishedResponse { cid: request.cid, track }));
        }
        if member.publications.len() >= MEDIA_PER_PEER || request.encoded_len() > TRACK_BYTES_MAX {
            let text = "No more tracks can be published, or none that is described at such length.";
            return self.refuse(key, 0, Reason::LimitExceeded, text, Some(Request::AddTrack(request)));
        }
        let (cid, info) = (request.cid.clone(), track_info(sid, &request, &codecs));
        let mut codecs = codecs.into_iter();
        let (first, second) = (codecs.next(), codecs.next());
        let cids = std::iter::once(request.cid).chain(first.iter().map(|(_, asked)| asked.cid.clone()));
        let cids = cids.filter(|cid| !cid.is_empty()).collect();
        let codec = first.map(|(codec, _)| codec);
        let backup = second.map(|(codec, _)| Backup { codec, cid: None, track: None });
        member.publications.push(Publication { info: info.clone(), cids, codec, track: None, backup, told: None });
        member.tell(Message::TrackPublished(proto::TrackPublishedResponse { cid, track: Some(info) }));
        // It may have been agreed on before it was announced.
        if let Some(slot) = member.publisher {
            self.attach(&key.room, &key.identity, slot);
        }
    }

    /// Finds out which of a member's announced tracks are agreed on, and tells the others what has changed.
    pub(super) fn attach(&mut self, room: &str, identity: &str, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let received = session.agreed.media.iter();
        let sent: Vec<(TrackId, Option<String>, _)> = session
            .tracks
            .iter()
            .zip(&session.sources)
            .map(|(track, (mid, source))| (*track, source.clone(), received.clone().find(|media| media.mid == *mid).cloned()))
            .collect();
        let epoch = self.settings.epoch;
        let Some(member) = self.member_mut(room, identity).filter(|member| member.publisher == Some(slot)) else { return };
        let before = member.publications.len();
        let alive = |track: TrackId| sent.iter().any(|(other, ..)| *other == track);
        let mut changed = false;
        let (mut unpublished, mut published, mut encrypted) = (Vec::new(), Vec::new(), Vec::new());
        member.publications.retain_mut(|publication| {
            if let Some(backup) = publication.backup.as_mut() {
                backup.track = backup.track.filter(|track| alive(*track));
            }
            let gone = publication.track.is_some_and(|track| !alive(track));
            // A client that changes a track's codec or its m-line names it as before.
            let again =
                gone && sent.iter().any(|(_, source, _)| source.as_ref().is_some_and(|name| publication.cids.contains(name)));
            if gone && !again {
                unpublished.push(publication.info.clone());
            }
            !gone || again
        });
        changed |= member.publications.len() != before;
        for (track, source, media) in &sent {
            if member.publications.iter().any(|own| [own.track, own.backup_track()].contains(&Some(*track))) {
                continue;
            }
            let Some(media) = media else { continue };
            if let Some(backup) = backup_of(&mut member.publications, source.as_deref(), media) {
                backup.track = Some(*track);
                continue;
            }
            let kind = if media.kind == MediaKind::Audio { proto::TrackType::Audio } else { proto::TrackType::Video } as i32;
            let free =
                |publication: &Publication| publication.track.is_none_or(|track| !alive(track)) && publication.info.r#type == kind;
            let named = |publication: &Publication| source.as_ref().is_some_and(|name| publication.cids.contains(name));
            let publications = &member.publications;
            // Some clients' SDP has names of its own: then it is the first that waits.
            let index = publications
                .iter()
                .position(|publication| free(publication) && named(publication))
                .or_else(|| publications.iter().position(|publication| free(publication) && publication.track.is_none()));
            let Some(publication) = index.and_then(|index| member.publications.get_mut(index)) else { continue };
            publication.track = Some(*track);
            publication.told = None;
            publication.info.mid = media.mid.to_string();
            publication.info.mime_type = media.codecs.first().map_or("", mime).to_owned();
            published.push(publication.info.clone());
            encrypted.extend((publication.info.encryption != proto::encryption::Type::None as i32).then_some(*track));
            changed = true;
        }
        for info in &unpublished {
            let track_sid = info.sid.clone();
            member.tell(Message::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid }));
        }
        let ended: Vec<String> = unpublished.iter().map(|info| info.sid.clone()).collect();
        if member.state == proto::participant_info::State::Active {
            let info = member.info(epoch);
            published.into_iter().for_each(|track| self.happened("track_published", room, Some(info.clone()), Some(track)));
            unpublished.into_iter().for_each(|track| self.happened("track_unpublished", room, Some(info.clone()), Some(track)));
        }
        self.forget_wishes(room, &ended);
        for id in &encrypted {
            if let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == *id) {
                track.encrypted = true;
            }
        }
        if !encrypted.is_empty() {
            self.published(slot);
        }
        if self.back_up_all(room, identity) || changed {
            // What the tracks are called is known only now.
            self.tap(slot);
            self.tell_of(room, identity);
            self.resubscribe(room);
            self.set_stage(room);
        }
    }

    /// Tracks have ended: what members said of them is of no use.
    pub(super) fn forget_wishes(&mut self, room: &str, sids: &[String]) {
        let members = self.rooms.get_mut(room).into_iter().flat_map(|room| room.members.values_mut());
        members.for_each(|member| member.wanted.retain(|sid, _| !sids.contains(sid)));
    }

    /// A track falls silent, or is heard and seen again; by its publisher, or by who looks after the room.
    pub(super) fn mute(&mut self, room: &str, identity: &str, sid: &str, muted: bool) {
        let Some(member) = self.member_mut(room, identity) else { return };
        let Some(publication) = member.publication_of(sid) else { return };
        if publication.info.muted != muted {
            publication.info.muted = muted;
            let info = publication.info.clone();
            self.tell_of(room, identity);
            self.note_mute(room, identity, &info);
        }
    }

    fn subscription(&mut self, key: &MemberKey, request: &proto::UpdateSubscription) {
        let sids = request.track_sids.iter().chain(request.participant_tracks.iter().flat_map(|tracks| &tracks.track_sids));
        let sids: Vec<String> = sids.take(MEDIA_PER_PEER).cloned().collect();
        self.set_subscribed(&key.room, &key.identity, &sids, request.subscribe);
    }

    pub(super) fn set_subscribed(&mut self, room: &str, identity: &str, sids: &[String], subscribed: bool) {
        let known = |director: &Director, sid: &String| director.publication(room, sid).is_some();
        let sids: Vec<String> = sids.iter().filter(|sid| known(self, sid)).cloned().collect();
        let Some(member) = self.member_mut(room, identity) else { return };
        for sid in sids {
            let unset = Wanted { subscribed: None, disabled: false, quality: None, size: (0, 0), frame_rate: 0, priority: 0 };
            member.wanted.entry(sid).or_insert(unset).subscribed = Some(subscribed);
        }
        self.resubscribe_member(room, identity);
    }

    fn publication(&self, room: &str, sid: &str) -> Option<&Publication> {
        let members = self.rooms.get(room)?.members.values();
        members.flat_map(|member| &member.publications).find(|publication| publication.info.sid == sid)
    }

    fn track_setting(&mut self, key: &MemberKey, request: &proto::UpdateTrackSettings) {
        let mut tracks = Vec::new();
        for sid in request.track_sids.iter().take(MEDIA_PER_PEER) {
            let track = self.publication(&key.room, sid).and_then(|publication| publication.track);
            let Some(member) = self.speaker_for(key) else { return };
            let subscribed = member.said(sid);
            let sized = request.width > 0 && request.height > 0;
            let quality = (!sized).then(|| request.quality.clamp(0, 2) as u8);
            let size = if sized { (request.width, request.height) } else { (0, 0) };
            let priority = request.priority.min(u8::MAX.into()) as u8;
            let frame_rate = request.fps.min(u8::MAX.into()) as u8;
            let wanted = Wanted { subscribed, disabled: request.disabled, quality, size, frame_rate, priority };
            if track.is_some() {
                member.wanted.insert(sid.clone(), wanted);
            }
            tracks.extend(track);
        }
        for track in tracks {
            self.apply_wish(&key.room, &key.identity, track);
        }
        self.tell_qualities(&key.room);
    }

    fn subscription_permission(&mut self, key: &MemberKey, request: &proto::SubscriptionPermission) {
        let mut by_sid: BTreeMap<String, String> = BTreeMap::new();
        if let Some(room) = self.rooms.get(&key.room) {
            by_sid.extend(room.members.values().map(|member| (member.sid.clone(), member.identity.clone())));
        }
        let viewers = (!request.all_participants).then(|| {
            let named = request.track_permissions.iter().filter_map(|permission| {
                let identity = match permission.participant_identity.is_empty() {
                    true => by_sid.get(&permission.participant_sid).cloned()?,
                    false => permission.participant_identity.clone(),
                };
                let sids: BTreeSet<String> = permission.track_sids.iter().cloned().collect();
                // No tracks named: none, unless all are meant.
                (permission.all_tracks || !sids.is_empty())
                    .then(|| (identity, if permission.all_tracks { BTreeSet::new() } else { sids }))
            });
            named.take(crate::limits::MEMBERS_NAMED_MAX).collect()
        });
        let Some(member) = self.speaker_for(key) else { return };
        let before = std::mem::replace(&mut member.viewers, viewers);
        self.tell_permissions(&key.room, &key.identity, before.as_ref());
        self.resubscribe(&key.room);
    }

    /// Tells those whose permission to watch a member's tracks has changed.
    fn tell_permissions(&mut self, room: &str, identity: &str, before: Option<&BTreeMap<String, BTreeSet<String>>>) {
        let Some(of) = self.member(room, identity) else { return };
        let (sid, sids) = (of.sid.clone(), of.publications.iter().map(|own| own.info.sid.clone()).collect::<Vec<_>>());
        let allowed = |viewers: Option<&BTreeMap<String, BTreeSet<String>>>, who: &str, track: &String| {
            viewers.is_none_or(|viewers| viewers.get(who).is_some_and(|sids| sids.is_empty() || sids.contains(track)))
        };
        let now = of.viewers.clone();
        let Some(room) = self.rooms.get_mut(room) else { return };
        for member in room.members.values_mut().filter(|member| member.identity != identity) {
            for track_sid in &sids {
                let is = allowed(now.as_ref(), &member.identity, track_sid);
                if is != allowed(before, &member.identity, track_sid) {
                    let (participant_sid, track_sid) = (sid.clone(), track_sid.clone());
                    let update = proto::SubscriptionPermissionUpdate { participant_sid, track_sid, allowed: is };
                    member.tell(Message::SubscriptionPermissionUpdate(update));
                }
            }
        }
    }

    /// A client that comes back tells what it had: what it wants is taken over, the rest the server still knows.
    fn sync_state(&mut self, key: &MemberKey, state: &proto::SyncState) {
        let Some(member) = self.speaker_for(key) else { return };
        let auto = member.auto_subscribe;
        if let Some(subscription) = &state.subscription {
            // What is named is the exception to what it gets by itself.
            let request = proto::UpdateSubscription { subscribe: !auto, ..subscription.clone() };
            self.subscription(key, &request);
        }
        if let Some(subscription) = &state.data_subscription {
            self.subscribe_to_data(key, subscription.clone());
        }
        for sid in state.track_sids_disabled.iter().take(MEDIA_PER_PEER) {
            let Some(member) = self.speaker_for(key) else { return };
            if let Some(wanted) = member.wanted.get_mut(sid) {
                wanted.disabled = true;
            }
        }
    }

    fn update_metadata(&mut self, key: &MemberKey, request: proto::UpdateParticipantMetadata) {
        let id = request.request_id;
        let Some(member) = self.speaker_for(key) else { return };
        if !member.permission.can_update_metadata {
            let text = "The token does not allow this: video.canUpdateOwnMetadata is not true.";
            return self.refuse(key, id, Reason::NotAllowed, text, Some(Request::UpdateMetadata(request)));
        }
        if !fits(&request.name, &request.metadata, &request.attributes) {
            let text = "Name, metadata or attributes are too long.";
            return self.refuse(key, id, Reason::LimitExceeded, text, Some(Request::UpdateMetadata(request)));
        }
        self.set_metadata(&key.room, &key.identity, &request);
        self.refuse(key, id, Reason::Ok, "", None);
    }

    /// What is empty stays as it was; an attribute with an empty value goes.
    pub(super) fn set_metadata(&mut self, room: &str, identity: &str, request: &proto::UpdateParticipantMetadata) {
        let Some(member) = self.member_mut(room, identity) else { return };
        if !request.name.is_empty() {
            member.name = request.name.clone();
        }
        if !request.metadata.is_empty() {
            member.metadata = request.metadata.clone();
        }
        for (key, value) in &request.attributes {
            match value.is_empty() {
                true => drop(member.attributes.remove(key)),
                false => drop(member.attributes.insert(key.clone(), value.clone())),
            }
        }
        self.tell_of(room, identity);
    }

    /// What LiveKit's clients ask for in their own tests: to be cut off in one way or another.
    fn simulate(&mut self, key: &MemberKey, request: &proto::SimulateScenario) {
        use proto::leave_request::Action;
        use proto::simulate_scenario::Scenario;
        let leave = |action| {
            let reason = proto::DisconnectReason::ServerShutdown as i32;
            Message::Leave(proto::LeaveRequest { can_reconnect: true, reason, action: action as i32, ..Default::default() })
        };
        match request.scenario {
            Some(Scenario::ServerLeave(true)) => {
                self.dismiss(&key.room, &key.identity, proto::DisconnectReason::ServerShutdown, Action::Disconnect);
            }
            Some(Scenario::NodeFailure(true) | Scenario::LeaveRequestFullReconnect(true)) => {
                self.dismiss(&key.room, &key.identity, proto::DisconnectReason::ServerShutdown, Action::Reconnect);
            }
            Some(Scenario::Migration(true)) => self.reply(key, leave(Action::Resume)),
            // Its connection is closed with the outbox.
            Some(Scenario::DisconnectSignalOnResume(true) | Scenario::DisconnectSignalOnResumeNoMessages(true)) => self.hung(key),
            _ => {}
        }
    }
}

/// Whether what is told of a member is short enough.
pub(super) fn fits(name: &str, metadata: &str, attributes: &std::collections::HashMap<String, String>) -> bool {
    let bytes: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    name.len() <= NAME_BYTES_MAX && metadata.len() <= METADATA_BYTES_MAX && bytes <= ATTRIBUTES_BYTES_MAX
}

#[allow(deprecated)] // what older clients still read
fn track_info(sid: String, request: &proto::AddTrackRequest, codecs: &[(Codec, proto::SimulcastCodec)]) -> proto::TrackInfo {
    let first = request.simulcast_codecs.first();
    let layers = first.map(|codec| &codec.layers).filter(|layers| !layers.is_empty()).unwrap_or(&request.layers);
    let is_video = request.r#type == proto::TrackType::Video as i32;
    proto::TrackInfo {
        sid,
        r#type: request.r#type,
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: layers.len() > 1,
        disable_dtx: request.disable_dtx,
        source: request.source,
        layers: layers.clone(),
        mime_type: codecs.first().map_or(String::new(), |(codec, _)| mime_of(*codec).to_owned()),
        codecs: codecs.iter().filter(|_| is_video).map(|(codec, asked)| described(*codec, asked)).collect(),
        stereo: request.stereo,
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: request.stream.clone(),
        audio_features: request.audio_features.clone(),
        backup_codec_policy: request.backup_codec_policy,
        ..Default::default()
    }
}
