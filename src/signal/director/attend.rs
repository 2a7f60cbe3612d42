//! Members come and go: joining a room, coming back after the connection was cut, being asked to leave.

use std::collections::HashMap;

use livekit_protocol as proto;
use proto::leave_request::Action;
use proto::participant_info::State;
use proto::signal_response::Message;
use tracing::info;

use super::Director;
use super::data_tracks::DataTracks;
use super::members::{Member, Outbox, enabled_codecs};
use super::talk::fits;
use super::transports::Watching;
use crate::limits::{METADATA_BYTES_MAX, NAME_BYTES_MAX};
use crate::signal::api::{Attend, Attended, MemberKey, Refusal};

/// Seconds between two pings of a client, and until it takes the connection for dead.
const PING_INTERVAL: i32 = 5;
const PING_TIMEOUT: i32 = 15;
/// The version of LiveKit's server whose protocol this is: clients look at it to know what they may do.
pub const SERVER_VERSION: &str = "1.9.1";
const PROTOCOL: i32 = 16;

impl Director {
    /// Lets a member in, or back in.
    pub(super) fn attend(&mut self, attend: Attend) -> Result<Attended, Refusal> {
        self.connections += 1;
        let connection = self.connections;
        let key = MemberKey { room: attend.room.clone(), identity: attend.identity.clone(), connection };
        if let Some(sid) = &attend.resume {
            return self.resume(attend.outbox, key, &sid.clone(), attend.offer);
        }
        if !fits(&attend.name, &attend.metadata, &attend.attributes) || attend.identity.len() > NAME_BYTES_MAX {
            return Err(Refusal::TooLong { what: "identity, name, metadata or attributes", bytes_max: METADATA_BYTES_MAX });
        }
        let known = self.member(&attend.room, &attend.identity).is_some();
        if !known {
            self.admit(&attend.room, attend.client)?;
            let room = self.rooms.get(&attend.room);
            let full =
                room.map(|room| (room.members.len(), room.settings.members_max)).filter(|(count, max)| *max > 0 && count >= max);
            if let Some((_, sessions_max)) = full {
                return Err(Refusal::RoomFull { room: attend.room, sessions_max });
            }
        }
        if known {
            if self.member(&attend.room, &attend.identity).is_some_and(|member| member.whip) {
                return Err(Refusal::IdentityTaken { identity: attend.identity });
            }
            // Whoever comes later is the one who is there.
            self.dismiss(&attend.room, &attend.identity, proto::DisconnectReason::DuplicateIdentity, Action::Disconnect);
        }
        let Attend { room, identity, name, metadata, attributes, permission, kind, key: api_key, client, user_agent, .. } = attend;
        let member = Member {
            sid: format!("PA_{}", self.token(12)),
            identity: identity.clone(),
            name,
            metadata,
            attributes,
            permission,
            kind,
            key: api_key,
            renewal: self.now,
            state: State::Joined,
            since: self.now,
            version: 0,
            client,
            user_agent,
            outbox: Some(Outbox::new(attend.outbox)),
            connection,
            away: None,
            single: attend.single,
            auto_subscribe: attend.auto_subscribe,
            publisher: None,
            subscriber: None,
            watching: Watching::default(),
            asked: false,
            publications: Vec::new(),
            wanted: HashMap::new(),
            viewers: None,
            data: DataTracks::default(),
            whip: false,
            quality: None,
        };
        info!(room, identity, client = %client, single = member.single, user_agent = member.user_agent, "member joined");
        let entered = self.room_mut(&room);
        (entered.empty, entered.used) = (None, true);
        entered.members.insert(identity.clone(), member);
        let welcome = self.welcome(&room, &identity);
        if let Some(member) = self.member_mut(&room, &identity) {
            member.tell(Message::Join(welcome));
        }
        self.tell_of(&room, &identity);
        for track in attend.tracks {
            self.add_track(&key, track);
        }
        match attend.offer {
            Some(offer) => self.take_offer(&room, &identity, &offer),
            None => self.resubscribe_member(&room, &identity),
        }
        Ok(Attended { member: key })
    }

    fn welcome(&self, room: &str, identity: &str) -> proto::JoinResponse {
        let epoch = self.settings.epoch;
        let members = || self.rooms.get(room).into_iter().flat_map(|room| room.members.values());
        let others = members().filter(|other| other.identity != identity && !other.hidden());
        let own = members().find(|member| member.identity == identity);
        proto::JoinResponse {
            room: self.room_info(room),
            participant: own.map(|member| member.info(epoch)),
            other_participants: others.map(|other| other.info(epoch)).collect(),
            server_version: SERVER_VERSION.to_owned(),
            ice_servers: self.ice_servers(),
            subscriber_primary: own.is_some_and(|member| !member.single),
            ping_timeout: PING_TIMEOUT,
            ping_interval: PING_INTERVAL,
            server_region: self.settings.room.region.clone().unwrap_or_default(),
            server_info: Some(self.server_info()),
            enabled_publish_codecs: enabled_codecs(&self.settings.codecs),
            fast_publish: false,
            ..Default::default()
        }
    }

    fn ice_servers(&self) -> Vec<proto::IceServer> {
        let told = self.settings.ice_servers.iter().map(|server| proto::IceServer {
            urls: server.urls.clone(),
            username: server.username.clone().unwrap_or_default(),
            credential: server.credential.clone().unwrap_or_default(),
        });
        told.collect()
    }

    /// A client comes back to its session over a new connection.
    fn resume(
        &mut self,
        outbox: tokio::sync::mpsc::Sender<proto::SignalResponse>,
        key: MemberKey,
        sid: &str,
        offer: Option<proto::SessionDescription>,
    ) -> Result<Attended, Refusal> {
        let (servers, epoch, now) = (self.ice_servers(), self.settings.epoch, self.now);
        let server = self.server_info();
        let mut outbox = Outbox::new(outbox);
        let back = self.member_mut(&key.room, &key.identity).filter(|member| member.sid == sid && !member.whip);
        let Some(member) = back else {
            // It has been away for too long: it is to join anew.
            let (reason, action) = (proto::DisconnectReason::StateMismatch as i32, Action::Reconnect as i32);
            outbox.send(Message::Leave(proto::LeaveRequest { can_reconnect: true, reason, action, ..Default::default() }));
            return Err(Refusal::UnknownSession);
        };
        (member.connection, member.away, member.renewal) = (key.connection, None, now);
        outbox.send(Message::Reconnect(proto::ReconnectResponse {
            ice_servers: servers,
            server_info: Some(server),
            ..Default::default()
        }));
        member.outbox = Some(outbox);
        info!(room = key.room, identity = key.identity, "member came back");
        // What happened meanwhile.
        let members = self.rooms.get(&key.room).into_iter().flat_map(|room| room.members.values());
        let participants: Vec<_> =
            members.filter(|other| !other.hidden() || other.sid == sid).map(|other| other.info(epoch)).collect();
        let room = self.room_info(&key.room);
        if let Some(member) = self.member_mut(&key.room, &key.identity) {
            member.tell(Message::Update(proto::ParticipantUpdate { participants }));
            member.tell(Message::RoomUpdate(proto::RoomUpdate { room }));
            member.asked = false;
        }
        match offer {
            Some(offer) => self.take_offer(&key.room, &key.identity, &offer),
            None => self.restart_watching(&key.room, &key.identity),
        }
        Ok(Attended { member: key })
    }

    /// A connection has ended. The member stays for a while: it may come back.
    pub(super) fn hung(&mut self, key: &MemberKey) {
        let now = self.now;
        let Some(member) = self.speaker_for(key) else { return };
        (member.outbox, member.away) = (None, Some(now));
    }

    /// Asks a member's client to leave, or to come anew, and takes the member out.
    pub(super) fn dismiss(&mut self, room: &str, identity: &str, reason: proto::DisconnectReason, action: Action) {
        let Some(member) = self.member_mut(room, identity) else { return };
        if member.whip {
            if let Some(slot) = member.publisher {
                self.end(slot, "it was asked to leave");
            }
            return;
        }
        let can_reconnect = action != Action::Disconnect;
        let (reason_number, action) = (reason as i32, action as i32);
        member.tell(Message::Leave(proto::LeaveRequest { can_reconnect, reason: reason_number, action, ..Default::default() }));
        self.remove_member(room, identity, reason);
    }

    /// Tells all members' clients that the server is about to end: they are to come anew, to whoever takes its place.
    pub(super) fn dismiss_all(&mut self) {
        let (reason, action) = (proto::DisconnectReason::ServerShutdown as i32, Action::Reconnect as i32);
        let leave = Message::Leave(proto::LeaveRequest { can_reconnect: true, reason, action, ..Default::default() });
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        names.iter().for_each(|room| self.tell_room(room, &leave));
        let members = self.rooms.values_mut().flat_map(|room| room.members.values_mut());
        members.for_each(|member| member.outbox = None);
    }

    fn server_info(&self) -> proto::ServerInfo {
        proto::ServerInfo {
            edition: proto::server_info::Edition::Standard as i32,
            version: SERVER_VERSION.to_owned(),
            protocol: PROTOCOL,
            region: self.settings.room.region.clone().unwrap_or_default(),
            ..Default::default()
        }
    }

    /// A peer connection of a member is there: the member is.
    pub(super) fn member_connected(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let super::Part::Member { identity } = session.part.clone() else { return };
        let room = session.room.clone();
        let Some(member) = self.member_mut(&room, &identity) else { return };
        if member.state != State::Active {
            member.state = State::Active;
            self.tell_of(&room, &identity);
            self.tell_of_arrival(&room, &identity);
        }
    }
}
