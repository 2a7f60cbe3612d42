//! The director's end of the tap: what is tapped, and what recordings there are of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::mpsc::Sender;

use super::{Happening, Notice, Order, RecordingId, TappedTrack};
use crate::config::{RecordWish, RoomPattern};
use crate::units::{PeerId, TrackId};
use crate::worker::mail::Wake;

/// Of what there is to be recorded, one recording's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// Whoever publishes in the room.
    Room,
    /// One session, by its name: all of its tracks, or those of these ids (sids, or mids).
    Session { session: String, tracks: Option<Vec<String>> },
}

/// A recording as the director keeps it.
#[derive(Clone, Debug)]
pub struct Recording {
    pub room: String,
    /// What its files have in their names, and it is called by; empty for a room's own recording.
    pub label: String,
    pub share: Share,
    pub wish: RecordWish,
    /// Somebody asked for it, so it stays while nobody publishes; else a rule did.
    pub asked: bool,
    /// What it has: the recorder was told so.
    pub takes: BTreeMap<PeerId, Vec<TappedTrack>>,
}

/// Each session may have any number of recordings; a track is tapped as long as one of them has it.
pub struct Source {
    /// Rooms whose publishers are tapped by rule.
    rooms: Vec<RoomPattern>,
    pub recordings: BTreeMap<RecordingId, Recording>,
    by_room: HashMap<String, Vec<RecordingId>>,
    /// Publishers whose recording by rule somebody has ended.
    pub stopped: BTreeSet<PeerId>,
    /// Rooms of whose recordings of a label nothing is kept for now.
    pub paused: BTreeSet<(String, String)>,
    /// What is tapped.
    pub open: BTreeMap<PeerId, BTreeSet<TrackId>>,
    notices: Sender<Notice>,
    wake: Wake,
    begun: u64,
}

impl Source {
    pub fn new(rooms: Vec<RoomPattern>, notices: Sender<Notice>, wake: Wake) -> Source {
        let (recordings, by_room, stopped, paused, open) = Default::default();
        Source { rooms, recordings, by_room, stopped, paused, open, notices, wake, begun: 0 }
    }

    /// Whether the rule has a room recorded.
    pub fn matches(&self, room: &str) -> bool {
        self.rooms.iter().any(|pattern| pattern.matches(room))
    }

    /// The recordings of a room and of sessions in it.
    pub fn of(&self, room: &str) -> Vec<RecordingId> {
        self.by_room.get(room).cloned().unwrap_or_default()
    }

    /// Whether anything of a room is to be recorded.
    pub fn has(&self, room: &str) -> bool {
        self.by_room.contains_key(room)
    }

    /// The recording of all of a room that has this label: none, its own, by rule or because somebody asked for it.
    pub fn of_all(&self, room: &str, label: &str) -> Option<RecordingId> {
        let is = |recording: &Recording| recording.share == Share::Room && recording.label == label;
        self.by_room.get(room)?.iter().find(|id| self.recordings.get(id).is_some_and(is)).copied()
    }

    /// Begins a recording that has nothing yet. `present`: who is in the room.
    pub fn begin(&mut self, recording: Recording, present: Vec<String>) -> RecordingId {
        self.begun += 1;
        let id = RecordingId(self.begun);
        let Recording { room, label, wish, share, .. } = recording.clone();
        self.by_room.entry(room.clone()).or_default().push(id);
        let paused = share == Share::Room && self.paused.contains(&(room.clone(), label.clone()));
        self.recordings.insert(id, recording);
        self.tell(Notice::Record(Order::Begin { recording: id, room, label, wish, present }));
        if paused {
            self.tell(Notice::Record(Order::Pause { recording: id, paused }));
        }
        id
    }

    pub fn end(&mut self, recording: RecordingId) -> Option<Recording> {
        let ended = self.recordings.remove(&recording)?;
        if let Some(others) = self.by_room.get_mut(&ended.room) {
            others.retain(|other| *other != recording);
            if others.is_empty() {
                self.by_room.remove(&ended.room);
            }
        }
        self.tell(Notice::Record(Order::End { recording }));
        Some(ended)
    }

    /// Something happened in a room: told if anything of it is recorded.
    pub fn happened(&self, room: &str, what: Happening) {
        if self.has(room) {
            self.tell(Notice::Record(Order::Happened { room: room.to_owned(), what }));
        }
    }

    pub fn tell(&self, notice: Notice) {
        // A reader that has ended needs no notices.
        let _ = self.notices.send(notice);
        (self.wake)();
    }
}
