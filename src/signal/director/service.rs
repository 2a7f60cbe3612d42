//! What applications do with rooms and their members: LiveKit's RoomService, and the events that its webhooks tell.

use std::sync::atomic::Ordering;

use livekit_protocol as proto;
use proto::data_packet::Value;
use proto::leave_request::Action;
use proto::signal_response::Message;

use super::data::{LOSSY, RELIABLE};
use super::members::{Member, Publication};
use super::talk::fits;
use super::{Director, RoomSettings};
use crate::limits::METADATA_BYTES_MAX;
use crate::signal::api::{Refusal, RoomAnswer, RoomCall};
use crate::units::Micros;

/// LiveKit's own, where a request names none.
const EMPTY_TIMEOUT: Micros = Micros::from_secs(300);
const DEPARTURE_TIMEOUT: Micros = Micros::from_secs(20);

impl Director {
    pub(super) fn room_call(&mut self, call: RoomCall) -> Result<RoomAnswer, Refusal> {
        match call {
            RoomCall::Create(asked) => self.create_room(asked),
            RoomCall::List(asked) => {
                let wanted = |name: &&String| asked.names.is_empty() || asked.names.contains(name);
                let rooms = self.rooms.keys().filter(wanted).filter_map(|name| self.room_info(name));
                Ok(RoomAnswer::Rooms(rooms.collect()))
            }
            RoomCall::Delete(asked) => self.delete_room(&asked.room),
            RoomCall::Members(asked) => {
                let room = self.rooms.get(&asked.room).ok_or_else(|| Refusal::NoSuchRoom { room: asked.room.clone() })?;
                Ok(RoomAnswer::Members(room.members.values().map(|member| member.info(self.settings.epoch)).collect()))
            }
            RoomCall::Member(asked) => {
                let member = self.known(&asked.room, &asked.identity)?;
                Ok(RoomAnswer::Member(Box::new(member.info(self.settings.epoch))))
            }
            RoomCall::Remove(asked) => {
                self.known(&asked.room, &asked.identity)?;
                let reason = proto::DisconnectReason::ParticipantRemoved;
                self.dismiss(&asked.room, &asked.identity, reason, Action::Disconnect);
                Ok(RoomAnswer::Done)
            }
            RoomCall::Mute(asked) => self.mute_by_request(&asked),
            RoomCall::Update(asked) => self.update_member(asked),
            RoomCall::Subscriptions(asked) => {
                self.known(&asked.room, &asked.identity)?;
                let named = asked.participant_tracks.into_iter().flat_map(|tracks| tracks.track_sids);
                let sids: Vec<String> = asked.track_sids.into_iter().chain(named).collect();
                self.set_subscribed(&asked.room, &asked.identity, &sids, asked.subscribe);
                Ok(RoomAnswer::Done)
            }
            RoomCall::Data(asked) => self.send_by_request(asked),
            RoomCall::Metadata(asked) => {
                if asked.metadata.len() > METADATA_BYTES_MAX {
                    return Err(Refusal::TooLong { what: "metadata", bytes_max: METADATA_BYTES_MAX });
                }
                let no_room = || Refusal::NoSuchRoom { room: asked.room.clone() };
                self.rooms.get_mut(&asked.room).ok_or_else(no_room)?.settings.metadata = asked.metadata;
                let info = self.room_info(&asked.room).ok_or_else(no_room)?;
                self.tell_room(&asked.room, &Message::RoomUpdate(proto::RoomUpdate { room: Some(info.clone()) }));
                Ok(RoomAnswer::Room(info))
            }
        }
    }

    fn known(&self, room: &str, identity: &str) -> Result<&Member, Refusal> {
        let no_room = || Refusal::NoSuchRoom { room: room.to_owned() };
        let members = &self.rooms.get(room).ok_or_else(no_room)?.members;
        members.get(identity).ok_or_else(|| Refusal::NoSuchMember { room: room.to_owned(), identity: identity.to_owned() })
    }

    fn create_room(&mut self, asked: proto::CreateRoomRequest) -> Result<RoomAnswer, Refusal> {
        if asked.metadata.len() > METADATA_BYTES_MAX {
            return Err(Refusal::TooLong { what: "metadata", bytes_max: METADATA_BYTES_MAX });
        }
        if self.rooms.len() >= self.settings.sessions_max && !self.rooms.contains_key(&asked.name) {
            return Err(Refusal::ServerFull { sessions_max: self.settings.sessions_max });
        }
        let timeout = |seconds: u32, or: Micros| if seconds > 0 { Micros::from_secs(seconds.into()) } else { or };
        let known = self.rooms.contains_key(&asked.name);
        let room = self.room_mut(&asked.name);
        let settings = RoomSettings {
            made: true,
            empty_timeout: timeout(asked.empty_timeout, EMPTY_TIMEOUT),
            departure_timeout: timeout(asked.departure_timeout, DEPARTURE_TIMEOUT),
            members_max: asked.max_participants as usize,
            metadata: asked.metadata,
        };
        // A room that is there stays as it is: LiveKit's does too.
        if !known || !room.settings.made {
            let metadata =
                if settings.metadata.is_empty() { std::mem::take(&mut room.settings.metadata) } else { settings.metadata.clone() };
            room.settings = RoomSettings { metadata, ..settings };
        }
        self.room_info(&asked.name).map(RoomAnswer::Room).ok_or(Refusal::NoSuchRoom { room: asked.name })
    }

    fn delete_room(&mut self, name: &str) -> Result<RoomAnswer, Refusal> {
        let room = self.rooms.get_mut(name).ok_or_else(|| Refusal::NoSuchRoom { room: name.to_owned() })?;
        room.settings.made = false;
        let members: Vec<String> = room.members.keys().cloned().collect();
        let sessions = room.all_sessions();
        for identity in members {
            self.dismiss(name, &identity, proto::DisconnectReason::RoomDeleted, Action::Disconnect);
        }
        sessions.into_iter().for_each(|slot| self.end(slot, "its room was deleted"));
        self.tidy_room(name);
        Ok(RoomAnswer::Done)
    }

    fn mute_by_request(&mut self, asked: &proto::MuteRoomTrackRequest) -> Result<RoomAnswer, Refusal> {
        self.known(&asked.room, &asked.identity)?;
        let no_track = || Refusal::NoSuchTrack { sid: asked.track_sid.clone() };
        let member = self.member_mut(&asked.room, &asked.identity).ok_or_else(no_track)?;
        let publication = member.publication_of(&asked.track_sid).ok_or_else(no_track)?;
        let changed = publication.info.muted != asked.muted;
        publication.info.muted = asked.muted;
        let info = publication.info.clone();
        // Its client does it: what is muted is not sent.
        member.tell(Message::Mute(proto::MuteTrackRequest { sid: asked.track_sid.clone(), muted: asked.muted }));
        self.tell_of(&asked.room, &asked.identity);
        if changed {
            self.note_mute(&asked.room, &asked.identity, &info);
        }
        Ok(RoomAnswer::Track(info))
    }

    fn update_member(&mut self, asked: proto::UpdateParticipantRequest) -> Result<RoomAnswer, Refusal> {
        self.known(&asked.room, &asked.identity)?;
        if !fits(&asked.name, &asked.metadata, &asked.attributes) {
            return Err(Refusal::TooLong { what: "name, metadata or attributes", bytes_max: METADATA_BYTES_MAX });
        }
        if let (Some(permission), Some(member)) = (asked.permission, self.member_mut(&asked.room, &asked.identity)) {
            member.permission = permission;
            self.enforce(&asked.room, &asked.identity);
        }
        let update = proto::UpdateParticipantMetadata {
            metadata: asked.metadata,
            name: asked.name,
            attributes: asked.attributes,
            ..Default::default()
        };
        self.set_metadata(&asked.room, &asked.identity, &update);
        self.resubscribe(&asked.room);
        let member = self.known(&asked.room, &asked.identity)?;
        Ok(RoomAnswer::Member(Box::new(member.info(self.settings.epoch))))
    }

    /// A member may publish less than before: what it may not any more ends.
    fn enforce(&mut self, room: &str, identity: &str) {
        let epoch = self.settings.epoch;
        let Some(member) = self.member_mut(room, identity) else { return };
        let permission = member.permission.clone();
        let sources = &permission.can_publish_sources;
        let may = |own: &Publication| permission.can_publish && (sources.is_empty() || sources.contains(&own.info.source));
        let (kept, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut member.publications).into_iter().partition(may);
        member.publications = kept;
        let slot = member.publisher;
        let info = member.info(epoch);
        for publication in &ended {
            let track_sid = publication.info.sid.clone();
            member.tell(Message::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid }));
        }
        for publication in &ended {
            self.happened("track_unpublished", room, Some(info.clone()), Some(publication.info.clone()));
        }
        for track in ended.into_iter().flat_map(|own| [own.track, own.backup_track()]).flatten() {
            self.close_track(track);
            if let Some(session) = slot.and_then(|slot| self.sessions.get_mut(&slot))
                && let Some(index) = session.tracks.iter().position(|own| *own == track)
            {
                session.tracks.remove(index);
                session.sources.remove(index);
            }
        }
    }

    #[allow(deprecated)] // where older clients look
    fn send_by_request(&mut self, asked: proto::SendDataRequest) -> Result<RoomAnswer, Refusal> {
        if !self.rooms.contains_key(&asked.room) {
            return Err(Refusal::NoSuchRoom { room: asked.room });
        }
        let label = if asked.kind == proto::data_packet::Kind::Lossy as i32 { LOSSY } else { RELIABLE };
        let user = proto::UserPacket {
            payload: asked.data,
            destination_sids: asked.destination_sids,
            topic: asked.topic,
            nonce: asked.nonce,
            ..Default::default()
        };
        let destination_identities = asked.destination_identities;
        let packet = proto::DataPacket { destination_identities, value: Some(Value::User(user)), ..Default::default() };
        self.send_data(&asked.room, label, packet, None);
        Ok(RoomAnswer::Done)
    }

    /// Tells recordings what happened, and the application, if it wants to know.
    pub(super) fn happened(
        &self,
        event: &str,
        room: &str,
        participant: Option<proto::ParticipantInfo>,
        track: Option<proto::TrackInfo>,
    ) {
        if let Some(member) = &participant {
            self.note(event, room, member, track.as_ref());
        }
        let Some(happenings) = &self.happenings else { return };
        let room = self.room_info(room).or_else(|| Some(proto::Room { name: room.to_owned(), ..Default::default() }));
        let event = proto::WebhookEvent { event: event.to_owned(), room, participant, track, ..Default::default() };
        if happenings.try_send(event).is_err() {
            self.gauges.webhooks_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
