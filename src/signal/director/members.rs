//! The members of rooms: who they are, what they publish, and what the others are told of it.
//!
//! A member comes by LiveKit's signalling ([`super::attend`], [`super::talk`]) and has up to two peer connections
//! ([`super::transports`]); a WHIP publisher is a member too, one that is told nothing. What is said here is said in LiveKit's
//! messages, which every client of a room understands.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use livekit_protocol as proto;
use proto::signal_response::Message;
use tokio::sync::mpsc;

use super::backup::Backup;
use super::data_tracks::DataTracks;
use super::rooms::Room;
use super::transports::Watching;
use super::{Director, Part};
use crate::config::ALL_CODECS;
use crate::rtp::config::{Codec, CodecConfig, MediaKind};
use crate::signal::api::MemberKey;
use crate::signal::negotiate::CodecPolicy;
use crate::units::{Micros, TrackId};

/// How long a client has to come back to its session (LiveKit's clients try for about so long).
pub(super) const AWAY_MAX: Micros = Micros::from_secs(15);

/// Messages on their way to a member's client.
pub(super) struct Outbox {
    sender: mpsc::Sender<proto::SignalResponse>,
    /// It does not read: the queue was full.
    pub stuck: bool,
}

impl Outbox {
    pub fn new(sender: mpsc::Sender<proto::SignalResponse>) -> Outbox {
        Outbox { sender, stuck: false }
    }

    pub fn send(&mut self, message: Message) {
        let full = |error| matches!(error, mpsc::error::TrySendError::Full(_));
        self.stuck |= self.sender.try_send(proto::SignalResponse { message: Some(message) }).is_err_and(full);
    }
}

/// What a track of a member is to the others.
pub(super) struct Publication {
    pub info: proto::TrackInfo,
    /// The client's names of it.
    pub cids: Vec<String>,
    /// What it is to be sent in, if the client said.
    pub codec: Option<Codec>,
    /// Once it is agreed on.
    pub track: Option<TrackId>,
    pub backup: Option<Backup>,
    /// What its publisher was last told of how many qualities are watched, of the first codec and the second.
    pub told: Option<[u8; 2]>,
}

impl Publication {
    /// Whether it is not to be sent with redundancy.
    pub fn is_plain(&self) -> bool {
        self.info.disable_red || self.info.encryption != proto::encryption::Type::None as i32
    }
}

/// What a member wants of somebody's track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// None: it did not say.
    pub subscribed: Option<bool>,
    pub disabled: bool,
    /// LiveKit's: 0 low, 1 medium, 2 high; none: by size, or the best.
    pub quality: Option<u8>,
    pub size: (u32, u32),
    /// Pictures a second; 0: it did not say.
    pub frame_rate: u8,
    /// 1 comes first; 0: it did not say.
    pub priority: u8,
}

pub(super) struct Member {
    pub sid: String,
    pub identity: String,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub permission: proto::ParticipantPermission,
    pub kind: i32,
    /// The API key of its token, and when its client is given another.
    pub key: String,
    pub renewal: Micros,
    pub state: proto::participant_info::State,
    pub since: Micros,
    pub version: u32,
    pub client: IpAddr,
    pub user_agent: String,
    /// None for a WHIP publisher, and while the client is away.
    pub outbox: Option<Outbox>,
    /// Which of its connections that is.
    pub connection: u64,
    /// Since when the client is away.
    pub away: Option<Micros>,
    /// One peer connection for both directions, on which the client makes all offers.
    pub single: bool,
    pub auto_subscribe: bool,
    /// Sessions: the peer connection on which the client publishes, and the one on which it is sent.
    pub publisher: Option<u32>,
    pub subscriber: Option<u32>,
    /// Of a client with two: what it is offered.
    pub watching: Watching,
    /// Of a client with one: it was asked for an offer.
    pub asked: bool,
    pub publications: Vec<Publication>,
    /// What was said of tracks, by sid.
    pub wanted: HashMap<String, Wanted>,
    /// Who may watch its tracks: none: everybody; else by identity the sids, empty for all.
    pub viewers: Option<BTreeMap<String, BTreeSet<String>>>,
    pub data: DataTracks,
    pub whip: bool,
    /// What was last told of its connection.
    pub quality: Option<proto::ConnectionQuality>,
}

impl Member {
    pub fn tell(&mut self, message: Message) {
        if let Some(outbox) = &mut self.outbox {
            outbox.send(message);
        }
    }

    pub fn hidden(&self) -> bool {
        self.permission.hidden
    }

    pub fn publication_of(&mut self, sid: &str) -> Option<&mut Publication> {
        self.publications.iter_mut().find(|publication| publication.info.sid == sid)
    }

    /// Whether another member may watch a track of this one.
    pub fn may_be_watched(&self, by: &Member, sid: &str) -> bool {
        let Some(viewers) = &self.viewers else { return true };
        viewers.get(&by.identity).is_some_and(|sids| sids.is_empty() || sids.contains(sid))
    }

    /// Whether it wants a track.
    pub fn wants(&self, sid: &str) -> bool {
        self.permission.can_subscribe && self.said(sid).unwrap_or(self.auto_subscribe)
    }

    /// What it said of whether it wants a track.
    pub fn said(&self, sid: &str) -> Option<bool> {
        self.wanted.get(sid).and_then(|wanted| wanted.subscribed)
    }

    pub fn info(&self, epoch: i64) -> proto::ParticipantInfo {
        let joined_at_ms = epoch + (self.since.0 / 1_000) as i64;
        let published = self.publications.iter().filter(|publication| publication.track.is_some());
        proto::ParticipantInfo {
            sid: self.sid.clone(),
            identity: self.identity.clone(),
            state: self.state as i32,
            tracks: published.clone().map(|publication| publication.info.clone()).collect(),
            metadata: self.metadata.clone(),
            joined_at: joined_at_ms / 1_000,
            joined_at_ms,
            name: self.name.clone(),
            version: self.version,
            permission: Some(self.permission.clone()),
            is_publisher: published.count() > 0,
            kind: self.kind,
            attributes: self.attributes.clone(),
            data_tracks: self.data.published.clone(),
            ..Default::default()
        }
    }
}

impl Room {
    /// Whether members are fed by anything here; they need not say so.
    pub fn watched_by_members(&self) -> bool {
        self.members.values().any(|member| !member.whip && member.permission.can_subscribe)
    }

    #[allow(deprecated)] // where tokens say who records
    pub fn info(&self, name: &str, epoch: i64, recording: bool) -> proto::Room {
        let seen = || self.members.values().filter(|member| !member.hidden());
        let creation_time_ms = epoch + (self.since.0 / 1_000) as i64;
        proto::Room {
            sid: self.sid.clone(),
            name: name.to_owned(),
            empty_timeout: (self.settings.empty_timeout.0 / 1_000_000) as u32,
            departure_timeout: (self.settings.departure_timeout.0 / 1_000_000) as u32,
            max_participants: self.settings.members_max as u32,
            creation_time: creation_time_ms / 1_000,
            creation_time_ms,
            metadata: self.settings.metadata.clone(),
            num_participants: seen().count() as u32,
            num_publishers: seen().filter(|member| !member.publications.is_empty()).count() as u32,
            active_recording: recording || self.members.values().any(|member| member.permission.recorder),
            ..Default::default()
        }
    }
}

/// What the server forwards.
pub(super) fn enabled_codecs(policy: &CodecPolicy) -> Vec<proto::Codec> {
    let codecs = ALL_CODECS.into_iter().filter(|codec| policy.allows(*codec)).map(mime_of);
    let names = codecs.chain(["audio/red", "video/rtx"]);
    names.map(|mime| proto::Codec { mime: mime.to_owned(), fmtp_line: String::new() }).collect()
}

pub(super) fn mime(codec: &CodecConfig) -> &'static str {
    match codec.codec {
        Codec::Opus if codec.red.is_some() => "audio/red",
        other => mime_of(other),
    }
}

pub(super) fn mime_of(codec: Codec) -> &'static str {
    match codec {
        Codec::Opus => "audio/opus",
        Codec::Vp8 => "video/VP8",
        Codec::Vp9 => "video/VP9",
        Codec::H264 => "video/H264",
        Codec::Av1 => "video/AV1",
    }
}

impl Director {
    pub(super) fn member(&self, room: &str, identity: &str) -> Option<&Member> {
        self.rooms.get(room)?.members.get(identity)
    }

    pub(super) fn member_mut(&mut self, room: &str, identity: &str) -> Option<&mut Member> {
        self.rooms.get_mut(room)?.members.get_mut(identity)
    }

    /// The member that a connection speaks for, if it still does.
    pub(super) fn speaker_for(&mut self, key: &MemberKey) -> Option<&mut Member> {
        self.member_mut(&key.room, &key.identity).filter(|member| member.connection == key.connection && !member.whip)
    }

    /// Tells all members of a room something.
    pub(super) fn tell_room(&mut self, room: &str, message: &Message) {
        let Some(room) = self.rooms.get_mut(room) else { return };
        room.members.values_mut().for_each(|member| member.tell(message.clone()));
    }

    /// Tells a room how a member is now; of one that is hidden, nobody but itself.
    pub(super) fn tell_of(&mut self, room: &str, identity: &str) {
        let epoch = self.settings.epoch;
        let Some(member) = self.member_mut(room, identity) else { return };
        member.version += 1;
        let (info, hidden) = (member.info(epoch), member.hidden());
        let message = Message::Update(proto::ParticipantUpdate { participants: vec![info] });
        match hidden {
            true => member.tell(message),
            false => self.tell_room(room, &message),
        }
    }

    /// LiveKit's id of a track.
    pub(super) fn sid_of(&self, room: &str, track: TrackId) -> Option<String> {
        let publications = self.rooms.get(room)?.members.values().flat_map(|member| &member.publications);
        publications
            .into_iter()
            .find(|publication| [publication.track, publication.backup_track()].contains(&Some(track)))
            .map(|publication| publication.info.sid.clone())
    }

    pub(super) fn room_info(&self, name: &str) -> Option<proto::Room> {
        let room = self.rooms.get(name)?;
        let enabled_codecs = enabled_codecs(&self.settings.codecs);
        Some(proto::Room { enabled_codecs, ..room.info(name, self.settings.epoch, self.records(room)) })
    }

    /// A WHIP publisher appears among the members, with its tracks.
    pub(super) fn announce_publisher(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let (room, name, wished) = (session.room.clone(), session.name.clone(), session.identity.clone());
        let (client, user_agent) = (session.client, session.user_agent.clone());
        let received = session.agreed.media.iter();
        let tracks: Vec<_> = received.zip(&session.tracks).map(|(media, id)| (media.clone(), *id)).collect();
        let publications = tracks.into_iter().map(|(media, id)| {
            let sid = format!("TR_{}", self.token(12));
            let (source, kind) = match media.kind {
                MediaKind::Audio => (proto::TrackSource::Microphone, proto::TrackType::Audio),
                MediaKind::Video => (proto::TrackSource::Camera, proto::TrackType::Video),
            };
            let mime_type = media.codecs.first().map_or("", mime).to_owned();
            let (r#type, source, mid) = (kind as i32, source as i32, media.mid.to_string());
            let info = proto::TrackInfo { sid, r#type, source, mime_type, mid, ..Default::default() };
            Publication { info, cids: Vec::new(), codec: None, track: Some(id), backup: None, told: None }
        });
        let publications = publications.collect();
        let taken = |identity: &String| self.member(&room, identity).is_some();
        let identity = wished.filter(|identity| !taken(identity)).unwrap_or(format!("whip-{name}"));
        let permission = proto::ParticipantPermission { can_publish: true, ..Default::default() };
        let member = Member {
            sid: format!("PA_{}", self.token(12)),
            name: identity.clone(),
            identity: identity.clone(),
            metadata: String::new(),
            attributes: HashMap::new(),
            permission,
            kind: proto::participant_info::Kind::Ingress as i32,
            key: String::new(),
            renewal: Micros::NEVER,
            state: proto::participant_info::State::Active,
            since: self.now,
            version: 0,
            client,
            user_agent,
            outbox: None,
            connection: 0,
            away: None,
            single: true,
            auto_subscribe: false,
            publisher: Some(slot),
            subscriber: Some(slot),
            watching: Watching::default(),
            asked: false,
            publications,
            wanted: HashMap::new(),
            viewers: None,
            data: DataTracks::default(),
            whip: true,
            quality: None,
        };
        self.room_mut(&room).members.insert(identity.clone(), member);
        self.tell_of(&room, &identity);
        self.tell_of_arrival(&room, &identity);
        self.resubscribe(&room);
    }

    /// Tells the application who has come, and what it publishes.
    pub(super) fn tell_of_arrival(&self, room: &str, identity: &str) {
        let Some(member) = self.member(room, identity) else { return };
        let info = member.info(self.settings.epoch);
        let tracks: Vec<_> = info.tracks.clone();
        self.happened("participant_joined", room, Some(info.clone()), None);
        for track in tracks {
            self.happened("track_published", room, Some(info.clone()), Some(track));
        }
    }

    /// A session has ended: what it was to its room ends too.
    pub(super) fn session_ended(&mut self, slot: u32, part: &Part) {
        let Some(room) = self.sessions.get(&slot).map(|session| session.room.clone()) else { return };
        match part {
            Part::Viewer => {}
            Part::Publisher => {
                let members = self.rooms.get(&room).into_iter().flat_map(|room| room.members.values());
                let own = members.filter(|member| member.whip).find(|member| member.publisher == Some(slot));
                if let Some(identity) = own.map(|member| member.identity.clone()) {
                    self.remove_member(&room, &identity, proto::DisconnectReason::ClientInitiated);
                }
            }
            Part::Member { identity } => self.transport_ended(&room, identity, slot),
        }
        self.tidy_room(&room);
    }

    /// Takes a member out of its room, with its sessions, and tells the others.
    pub(super) fn remove_member(&mut self, room: &str, identity: &str, reason: proto::DisconnectReason) {
        let epoch = self.settings.epoch;
        let Some(mut member) = self.rooms.get_mut(room).and_then(|room| room.members.remove(identity)) else { return };
        tracing::info!(room, identity, reason = reason.as_str_name(), "member left");
        for slot in [member.publisher, member.subscriber].into_iter().flatten().filter(|_| !member.whip) {
            self.end(slot, "its member left");
        }
        member.state = proto::participant_info::State::Disconnected;
        member.version += 1;
        let mut info = member.info(epoch);
        info.disconnect_reason = reason as i32;
        for publication in member.publications.iter().filter(|publication| publication.track.is_some()) {
            self.happened("track_unpublished", room, Some(info.clone()), Some(publication.info.clone()));
        }
        self.happened("participant_left", room, Some(info.clone()), None);
        if !member.hidden() {
            self.tell_room(room, &Message::Update(proto::ParticipantUpdate { participants: vec![info] }));
        }
        let ended: Vec<String> = member.publications.iter().map(|publication| publication.info.sid.clone()).collect();
        self.forget_wishes(room, &ended);
        let data_tracks: Vec<String> = member.data.published.iter().map(|info| info.sid.clone()).collect();
        self.forget_data_tracks(room, &data_tracks);
        self.resubscribe(room);
        self.tell_qualities(room);
        self.set_stage(room);
        self.tidy_room(room);
    }

    /// Members whose client has been away for too long, never came, or does not read what it is told.
    pub(super) fn expire_members(&mut self) {
        let now = self.now;
        let mut gone: Vec<(String, String, bool)> = Vec::new();
        for (name, room) in &self.rooms {
            for member in room.members.values().filter(|member| !member.whip) {
                let stuck = member.outbox.as_ref().is_some_and(|outbox| outbox.stuck);
                if stuck || member.away.is_some_and(|since| now.since(since) > AWAY_MAX.0) {
                    gone.push((name.clone(), member.identity.clone(), stuck));
                }
            }
        }
        for (room, identity, stuck) in gone {
            let reason = match stuck {
                true => proto::DisconnectReason::StateMismatch,
                false => proto::DisconnectReason::ConnectionTimeout,
            };
            self.remove_member(&room, &identity, reason);
        }
    }
}
