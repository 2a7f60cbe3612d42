//! Who is joined to what: the sessions and members of each room, and what its viewers are shown.
//!
//! A room has at most one WHIP publisher, any number of members ([`super::members`]), who may all publish, and any number of viewers
//! (WHEP). A viewer has one m-line for sound and one for video, so it is shown one publisher at a time, who is said to be on stage: the
//! WHIP publisher if there is one, else whichever of the members who publish spoke last.

use std::collections::{BTreeMap, BTreeSet};

use super::feeds::{decodable, line_for};
use super::members::Member;
use super::{Director, Part, Session};
use crate::config::RoomPlan;
use crate::limits::SPEAKERS_MAX;
use crate::room::floor::Floor;
use crate::room::speaker::Speakers;
use crate::rtp::level::STEP;
use crate::units::{Micros, TrackId};

/// The sessions of one name.
pub(super) struct Room {
    /// LiveKit's id of it.
    pub sid: String,
    pub since: Micros,
    pub publisher: Option<u32>,
    pub viewers: BTreeSet<u32>,
    /// By identity.
    pub members: BTreeMap<String, Member>,
    /// Whom viewers are shown: the session that publishes.
    pub stage: Option<u32>,
    pub speakers: Speakers,
    /// Something was heard since the last look.
    pub stirred: bool,
    /// What members were last told of who speaks: ids of members; and when.
    pub speaking: Vec<String>,
    /// And recordings: identities, in order.
    pub noted: Vec<String>,
    pub told: Micros,
    /// Where not everything is sent: whose microphones and whose cameras are.
    pub heard: Option<Floor>,
    pub seen: Option<Floor>,
    /// Of a room that was made by request or has had members: how it is kept, and what is told of it.
    pub settings: RoomSettings,
    /// Since when nobody is in it.
    pub empty: Option<Micros>,
    /// Somebody was in it.
    pub used: bool,
}

/// What `CreateRoom` says of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomSettings {
    /// Made by request: it stays while nobody is there, for a time.
    pub made: bool,
    /// How long it stays before anybody came, and after the last one left.
    pub empty_timeout: Micros,
    pub departure_timeout: Micros,
    /// 0: as many as the server takes.
    pub members_max: usize,
    pub metadata: String,
}

impl Room {
    pub fn new(sid: String, name: &str, plan: &RoomPlan, now: Micros) -> Room {
        let limited = plan.names.iter().any(|pattern| pattern.matches(name));
        let floor = |places: usize| (limited && places > 0).then(|| Floor::new(places));
        Room {
            sid,
            since: now,
            publisher: None,
            viewers: BTreeSet::new(),
            members: BTreeMap::new(),
            stage: None,
            speakers: Speakers::new(SPEAKERS_MAX, Micros(2 * STEP.0)),
            stirred: false,
            speaking: Vec::new(),
            noted: Vec::new(),
            told: Micros::ZERO,
            heard: floor(plan.speakers),
            seen: floor(plan.last_n),
            settings: RoomSettings::default(),
            empty: Some(now),
            used: false,
        }
    }

    pub fn len(&self) -> usize {
        let members = self.members.values().filter(|member| !member.whip).count();
        self.viewers.len() + members + self.publisher.is_some() as usize
    }

    /// All sessions that may publish.
    pub fn publishers(&self) -> impl Iterator<Item = u32> + '_ {
        let members = self.members.values().filter(|member| !member.whip).filter_map(|member| member.publisher);
        self.publisher.into_iter().chain(members)
    }

    fn sessions(&self) -> impl Iterator<Item = u32> + '_ {
        let watching = self.members.values().filter(|member| member.subscriber != member.publisher);
        self.publishers().chain(watching.filter_map(|member| member.subscriber)).chain(self.viewers.iter().copied())
    }

    /// Every session of the room, publishers first.
    pub fn all_sessions(&self) -> Vec<u32> {
        self.sessions().collect()
    }
}

impl Director {
    /// The room of a name, made if there is none.
    pub(super) fn room_mut(&mut self, name: &str) -> &mut Room {
        let now = self.now;
        if !self.rooms.contains_key(name) {
            let sid = format!("RM_{}", self.token(12));
            self.rooms.insert(name.to_owned(), Room::new(sid, name, &self.settings.room, now));
            self.happened("room_started", name, None, None);
        }
        let plan = &self.settings.room;
        self.rooms.entry(name.to_owned()).or_insert_with(|| Room::new(String::new(), name, plan, now))
    }

    pub(super) fn enter_room(&mut self, session: &Session) {
        let slot = session.id.slot;
        let room = self.room_mut(&session.room);
        room.empty = None;
        room.used = true;
        match session.part {
            Part::Publisher => room.publisher = Some(slot),
            Part::Viewer => {
                room.viewers.insert(slot);
            }
            Part::Member { .. } => {}
        }
    }

    pub(super) fn leave_room(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let name = session.room.clone();
        let Some(room) = self.rooms.get_mut(&name) else { return };
        room.viewers.remove(&slot);
        if room.publisher == Some(slot) {
            room.publisher = None;
        }
        self.set_stage(&name);
        self.tell_qualities(&name);
    }

    /// A room in which nobody is left goes, unless it is to stay for a while.
    pub(super) fn tidy_room(&mut self, name: &str) {
        let now = self.now;
        let Some(room) = self.rooms.get_mut(name).filter(|room| room.len() == 0) else { return };
        let since = *room.empty.get_or_insert(now);
        let RoomSettings { made, empty_timeout, departure_timeout, .. } = room.settings;
        let stays = if room.used { departure_timeout } else { empty_timeout };
        if !made || now.since(since) >= stays.0 {
            self.happened("room_finished", name, None, None);
            self.rooms.remove(name);
        }
    }

    /// Ends empty rooms whose time has come.
    pub(super) fn tidy_rooms(&mut self) {
        let empty: Vec<String> = self.rooms.iter().filter(|(_, room)| room.len() == 0).map(|(name, _)| name.clone()).collect();
        empty.iter().for_each(|name| self.tidy_room(name));
    }

    /// Shows the viewers whoever is to be on stage now.
    pub(super) fn set_stage(&mut self, name: &str) {
        let Some(room) = self.rooms.get(name) else { return };
        let publishes = |slot: &u32| self.sessions.get(slot).is_some_and(|session| !session.tracks.is_empty());
        let speaks = |track: TrackId| {
            let of = |slot: &u32| self.sessions.get(slot).is_some_and(|session| session.tracks.contains(&track));
            room.publishers().find(of)
        };
        let stays = room.stage.filter(|slot| room.publishers().any(|other| other == *slot)).filter(publishes);
        let speaker = room.speakers.dominant().and_then(speaks);
        let stage = room.publisher.or(speaker).or(stays).or_else(|| room.publishers().find(publishes));
        if stage == room.stage {
            return;
        }
        let viewers: Vec<u32> = room.viewers.iter().copied().collect();
        if let Some(room) = self.rooms.get_mut(name) {
            room.stage = stage;
        }
        for viewer in viewers {
            self.starve_lines(viewer);
            self.watch_stage(viewer);
        }
        self.tell_qualities(name);
    }

    fn starve_lines(&mut self, slot: u32) {
        let senders: Vec<u16> =
            self.sessions.get(&slot).map(|session| session.feeds.iter().map(|feed| feed.sender).collect()).unwrap_or_default();
        senders.into_iter().for_each(|sender| self.starve(slot, sender));
    }

    /// Feeds a viewer's m-lines from whoever is on stage.
    pub(super) fn watch_stage(&mut self, viewer: u32) {
        let Some(session) = self.sessions.get(&viewer).filter(|session| session.part == Part::Viewer) else { return };
        let mut on_stage = self.on_stage(session).map(|publisher| publisher.tracks.clone()).unwrap_or_default();
        // A picture that it can decode before one that would have to come in another codec.
        let decodes =
            |id: &TrackId| self.track(*id).is_some_and(|own| session.lines.iter().any(|line| decodable(line, &own.codec)));
        on_stage.sort_by_key(|id| !decodes(id));
        for id in on_stage {
            let Some(track) = self.track(id).filter(|track| track.backs.is_none()) else { continue };
            let Some(session) = self.sessions.get(&viewer) else { return };
            let Some(line) = line_for(&session.lines, track) else {
                // It watches without sound, or without a picture.
                continue;
            };
            if session.feeds.iter().all(|feed| feed.sender != line) {
                self.feed(viewer, line, id);
            }
        }
    }

    /// The session that a viewer is shown.
    pub(super) fn on_stage(&self, viewer: &Session) -> Option<&Session> {
        self.sessions.get(&self.rooms.get(&viewer.room)?.stage?)
    }

    /// What a session publishes has changed: viewers and members are given it, and so are recordings.
    pub(super) fn published(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let (room, worker, tracks) = (session.room.clone(), session.worker, session.tracks.clone());
        if let Some(worker) = worker {
            tracks.iter().for_each(|track| self.own_track(*track, worker));
            self.tap(slot);
        }
        self.set_stage(&room);
        let on_stage = self.rooms.get(&room).filter(|room| room.stage == Some(slot));
        let viewers: Vec<u32> = on_stage.map(|room| room.viewers.iter().copied().collect()).unwrap_or_default();
        viewers.into_iter().for_each(|viewer| self.watch_stage(viewer));
    }

    /// A session has a worker now: its tracks get their shards, what it is fed from begins to flow.
    pub(super) fn connect_media(&mut self, slot: u32) {
        self.published(slot);
        self.watch_stage(slot);
        self.let_flow(slot);
        // A member that nobody watched may send nothing.
        if let Some(session) = self.sessions.get(&slot).filter(|session| session.part == Part::Viewer) {
            let room = session.room.clone();
            self.tell_qualities(&room);
        }
    }

    /// Undoes [`Director::connect_media`].
    pub(super) fn disconnect_media(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let (tracks, room) = (session.tracks.clone(), session.room.clone());
        self.tap(slot);
        self.starve_all(slot);
        for id in tracks {
            if let Some(room) = self.rooms.get_mut(&room) {
                room.speakers.forget(id);
            }
            self.close_track(id);
        }
    }
}
