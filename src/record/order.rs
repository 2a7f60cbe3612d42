//! What was ordered: a recording of a room or of something in it, and the files that it becomes side by side.

use std::collections::{BTreeMap, BTreeSet};

use super::disk::Disk;
use super::recording::{Recording, Title};
use super::track::KeyFrameWanted;
use crate::config::{RecordFiles, RecordPlan};
use crate::limits::ROOM_FILE_TRACKS_MAX;
use crate::metrics::WorkerMetrics;
use crate::rtp::config::MediaKind;
use crate::units::{Micros, PeerId, TrackId};
use crate::worker::tap::{Happening, Publisher, TappedTrack};

/// What one file at a time is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Participant(PeerId),
    Track(TrackId),
    /// A room's tracks, as many as one file takes; further ones in further files.
    Room(u32),
}

pub struct Order {
    pub room: String,
    label: String,
    plan: RecordPlan,
    disk: Disk,
    epoch: i64,
    paused: bool,
    /// Who is in the room.
    present: BTreeSet<String>,
    pub recordings: BTreeMap<Key, Recording>,
    /// It has been ended; what is still in the rings may come until then.
    pub ends: Option<Micros>,
}

impl Order {
    pub fn new(room: String, label: String, plan: RecordPlan, disk: Disk, present: Vec<String>, epoch: i64) -> Order {
        let (paused, recordings, ends) = (false, BTreeMap::new(), None);
        Order { room, label, plan, disk, epoch, paused, present: present.into_iter().collect(), recordings, ends }
    }

    /// Has these tracks of a publisher from now on, and no others. Gives where each of them goes.
    pub fn take(&mut self, publisher: &Publisher, tracks: &[TappedTrack], offset: Option<i64>, now: Micros) -> Vec<(TrackId, Key)> {
        // What has something of this publisher may lose all of it.
        let of = self.recordings.iter().filter(|(_, recording)| recording.is_of(publisher.id));
        let mut shares: BTreeMap<Key, Vec<TappedTrack>> = of.map(|(key, _)| (*key, Vec::new())).collect();
        let mut homes = Vec::with_capacity(tracks.len());
        for track in tracks {
            let key = self.key_of(publisher, track, &shares);
            homes.push((track.id, key));
            shares.entry(key).or_default().push(track.clone());
        }
        for (key, tracks) in shares {
            if !self.recordings.contains_key(&key) {
                let title = self.title(key, publisher, &tracks);
                self.recordings.insert(key, Recording::new(title, self.plan.clone(), self.disk.clone(), self.paused));
            }
            if let Some(recording) = self.recordings.get_mut(&key) {
                recording.take(publisher, &tracks, offset, now);
            }
        }
        homes
    }

    /// `shares`: what of the publisher's tracks has its place already.
    fn key_of(&self, publisher: &Publisher, track: &TappedTrack, shares: &BTreeMap<Key, Vec<TappedTrack>>) -> Key {
        match self.plan.files {
            RecordFiles::Participant => Key::Participant(publisher.id),
            RecordFiles::Track => Key::Track(track.id),
            RecordFiles::Room => {
                let is_there = self.recordings.iter().find(|(_, recording)| recording.has(track.id)).map(|(key, _)| *key);
                let has_room = |key: &Key| {
                    let others = self.recordings.get(key).map_or(0, |recording| recording.live_beside(publisher.id));
                    others + shares.get(key).map_or(0, Vec::len) < ROOM_FILE_TRACKS_MAX
                };
                is_there.unwrap_or_else(|| (0..).map(Key::Room).find(has_room).unwrap_or(Key::Room(0)))
            }
        }
    }

    fn title(&self, key: Key, publisher: &Publisher, tracks: &[TappedTrack]) -> Title {
        let label = if self.label.is_empty() { String::new() } else { format!("{}-", self.label) };
        let session = &publisher.session;
        let name = match key {
            Key::Participant(_) => format!("{session}-{label}"),
            Key::Room(number) => self.free(|count| format!("room{count}-{label}"), number + 1),
            Key::Track(_) => {
                let is_video = tracks.iter().any(|track| track.codec.codec.kind() == MediaKind::Video);
                let kind = if is_video { "video" } else { "audio" };
                self.free(|count| format!("{session}-{label}{kind}{count}-"), 1)
            }
        };
        let session = (!matches!(key, Key::Room(_))).then(|| session.clone());
        Title { room: self.room.clone(), session, label: self.label.clone(), name, epoch: self.epoch }
    }

    /// The first name of `video`, `video2` and so on that nothing has.
    fn free(&self, name: impl Fn(&str) -> String, from: u32) -> String {
        let mut count = from;
        loop {
            let name = name(&if count > 1 { count.to_string() } else { String::new() });
            if self.recordings.values().all(|recording| recording.name() != name) {
                return name;
            }
            count += 1;
        }
    }

    pub fn pause(&mut self, paused: bool, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        self.paused = paused;
        self.recordings.values_mut().flat_map(|recording| recording.pause(paused, now, metrics)).collect()
    }

    pub fn happened(&mut self, what: &Happening, now: Micros) {
        match what {
            Happening::Joined { identity } => drop(self.present.insert(identity.clone())),
            Happening::Left { identity } => drop(self.present.remove(identity)),
            _ => {}
        }
        self.recordings.values_mut().for_each(|recording| recording.happened(what, now));
    }

    /// Timers. `behind`: so many packets did not get here.
    pub fn tick(&mut self, behind: u64, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        let mut wanted = Vec::new();
        let present = &self.present;
        self.recordings.retain(|_, recording| {
            if behind > 0 {
                recording.behind(behind, now);
            }
            wanted.extend(recording.tick(now, metrics));
            recording.introduce(present.iter(), now);
            let over = recording.is_over();
            if over {
                recording.end(now, metrics);
            }
            !over
        });
        wanted
    }

    pub fn end(&mut self, now: Micros, metrics: &WorkerMetrics) {
        self.recordings.values_mut().for_each(|recording| recording.end(now, metrics));
    }
}
