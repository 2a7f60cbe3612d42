//! Recording: from the tap ([`crate::worker::tap`]) to files that any player opens, without a browser and without transcoding.
//!
//! ```text
//!   worker ──Tapped──► Recorder ── by publisher ──► recording: assemble → depacketize → timeline → container ──► file
//!   director ──Notice──┘                                                                    └──► events, a JSON object a line
//! ```
//!
//! One publisher session is one file, its video and its sound together, in a folder named after its room: WebM (Matroska with H264),
//! fragmented MP4, or Ogg for sound alone; several, one after the other, where `record.split_…` says so, and one for each track where
//! `record.files` does. A [`Recording`] is what becomes one file at a time, of any number of tracks.
//!
//! **A crash** loses what was not written: a cluster (fragment, page) is written whole when it is a second old, and a lost packet is waited
//! for half a second, so at most two seconds. What is there plays; the next start gives such files, which have `.part` in their names, their
//! length and index ([`complete`]). `record.sync` says whether the same holds when the power fails.
//!
//! **A full disk**, or any other error of a file, ends that recording: a log line, `distributary_failed_recordings_total`, an event in
//! the sidecar if that can still be written; the file is made whole up to its last whole piece, if it can be. The room, its viewers and other recordings go on; the publisher's next session
//! tries again.
//!
//! **A slow disk** holds up nobody for some seconds: another thread writes ([`disk`]).
//!
//! **Uploads** of files that have ended are another thread's ([`store`]), which finds them by looking at the folder.
//!
//! **A recorder that falls behind** loses packets at its ring, which are counted (`tap_full`), told in every sidecar of the time
//! (`behind`) and gaps in the file; no viewer waits for it.

mod assemble;
mod complete;
mod container;
mod depacketize;
mod describe;
mod disk;
mod ending;
pub mod files;
mod matroska;
mod mp4;
mod ogg;
mod recording;
mod sidecar;
pub mod store;
mod timeline;

use std::collections::HashMap;
use std::slice;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{RecordFiles, RecordPlan};
use crate::metrics::{DropReason, WorkerMetrics};
use crate::rtp::config::MediaKind;
use crate::units::{Micros, PeerId, TrackId, WorkerId};
use crate::worker::mail::Command;
use crate::worker::tap::{Notice, Office, Tapped, TappedTrack};
pub use complete::{EXTENSIONS, complete_all, lock, unfinished};
pub use disk::{Disk, Writer};
use recording::Recording;
pub use sidecar::{UNFINISHED, folder_of};

/// The time, safe in a file's name.
pub fn time_of_now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    sidecar::stamp(now.as_millis() as i64)
}

/// Time between two looks at timers.
pub const TICK: Micros = Micros::from_millis(50);
/// Items taken from one worker before the next has its turn.
const TURN_ITEMS: usize = 1024;
/// How long packets of a publisher that has gone may still be on their way.
const LINGER: Micros = Micros::from_millis(100);

/// The recorder's queues.
pub struct Links {
    pub notices: Receiver<Notice>,
    pub office: Office,
    /// The workers' tables: what did not fit into the rings.
    pub tables: Vec<Arc<WorkerMetrics>>,
}

/// Of one publisher.
struct Entry {
    recordings: Vec<Recording>,
    owner: WorkerId,
    closes: Option<Micros>,
}

/// All recordings. A state machine: [`Recorder::turn`] takes the time, everything else comes through queues.
pub struct Recorder {
    plan: RecordPlan,
    disk: Disk,
    links: Links,
    metrics: Arc<WorkerMetrics>,
    recordings: HashMap<PeerId, Entry>,
    by_track: HashMap<TrackId, PeerId>,
    epoch: i64,
    next_tick: Micros,
    missed: u64,
}

impl Recorder {
    /// `epoch`: milliseconds of Unix time at time 0; `metrics`: a table of its own.
    pub fn new(plan: RecordPlan, disk: Disk, links: Links, metrics: Arc<WorkerMetrics>, epoch: i64) -> Recorder {
        let (recordings, by_track) = Default::default();
        Recorder { plan, disk, links, metrics, recordings, by_track, epoch, next_tick: Micros::ZERO, missed: 0 }
    }

    /// Works off what has come. Returns when to call again at the latest.
    pub fn turn(&mut self, now: Micros) -> Micros {
        let mut more = false;
        while let Ok(notice) = self.links.notices.try_recv() {
            self.notice(notice, now);
        }
        for worker in 0..self.links.office.tapped.len() {
            for _ in 0..TURN_ITEMS {
                let Ok(item) = self.links.office.tapped[worker].pop() else { break };
                self.tapped(item, now);
            }
            more |= !self.links.office.tapped[worker].is_empty();
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        self.links.office.flush();
        if more { now } else { self.next_tick }
    }

    /// Ends all files: the server stops.
    pub fn end(&mut self, now: Micros) {
        for (_, mut entry) in self.recordings.drain() {
            entry.end(now, &self.metrics);
        }
        self.by_track.clear();
    }

    fn notice(&mut self, notice: Notice, now: Micros) {
        match notice {
            Notice::Opened { publisher, owner, room, session, tracks, wish } => {
                self.by_track.extend(tracks.iter().map(|track| (track.id, publisher)));
                // Stopped a moment ago, and begun again; or wanted otherwise now.
                if let Some(mut before) = self.recordings.remove(&publisher) {
                    before.end(now, &self.metrics);
                }
                let (plan, disk, epoch) = (self.plan.with(&wish), self.disk.clone(), self.epoch);
                let begin = |part_of: String, tracks: &[TappedTrack]| {
                    Recording::new(room.clone(), session.clone(), part_of, tracks, plan.clone(), disk.clone(), epoch)
                };
                let recordings = match plan.files {
                    RecordFiles::Participant => vec![begin(String::new(), &tracks)],
                    RecordFiles::Track => {
                        let parts = tracks.iter().enumerate();
                        parts.map(|(index, track)| begin(format!("{}-", name_of(&tracks, index)), slice::from_ref(track))).collect()
                    }
                };
                self.recordings.insert(publisher, Entry { recordings, owner, closes: None });
            }
            Notice::Paused { publisher, paused } => {
                let Some(entry) = self.recordings.get_mut(&publisher) else { return };
                for recording in &mut entry.recordings {
                    for wanted in recording.pause(paused, now, &self.metrics) {
                        ask(&mut self.links.office, entry.owner, Some(wanted));
                    }
                }
            }
            Notice::Closed { publisher } => {
                if let Some(entry) = self.recordings.get_mut(&publisher) {
                    entry.closes = Some(now + LINGER);
                }
            }
        }
    }

    fn tapped(&mut self, item: Tapped, now: Micros) {
        let track = match &item {
            Tapped::Media(media) => media.track,
            Tapped::Clock { track, .. } => *track,
            // A recorder injects nothing.
            Tapped::KeyFrame { .. } => return,
        };
        let Some(entry) = self.by_track.get(&track).and_then(|publisher| self.recordings.get_mut(publisher)) else { return };
        match item {
            Tapped::Media(media) => {
                let Some(recording) = entry.recordings.iter_mut().find(|recording| recording.has(track)) else { return };
                let wanted = recording.media(&media, now, &self.metrics);
                ask(&mut self.links.office, entry.owner, wanted);
            }
            Tapped::Clock { track, encoding, clock } => {
                // All of the publisher's go by one clock.
                let known = entry.recordings.iter_mut().find_map(|recording| recording.clock(track, encoding, clock));
                if let Some(offset) = known {
                    entry.recordings.iter_mut().for_each(|recording| recording.agree(offset));
                }
            }
            Tapped::KeyFrame { .. } => {}
        }
    }

    fn tick(&mut self, now: Micros) {
        let missed = self.links.tables.iter().map(|table| table.dropped(DropReason::TapFull)).sum();
        let behind = missed - std::mem::replace(&mut self.missed, missed);
        for entry in self.recordings.values_mut() {
            for recording in &mut entry.recordings {
                if behind > 0 {
                    recording.behind(behind, now);
                }
                for wanted in recording.tick(now, &self.metrics) {
                    ask(&mut self.links.office, entry.owner, Some(wanted));
                }
            }
        }
        let metrics = &self.metrics;
        self.recordings.retain(|_, entry| {
            let closes = entry.closes.is_some_and(|at| now >= at);
            if closes {
                entry.end(now, metrics);
            }
            !closes
        });
        let has = |entry: &Entry, track| entry.recordings.iter().any(|recording| recording.has(track));
        self.by_track.retain(|track, publisher| self.recordings.get(publisher).is_some_and(|entry| has(entry, *track)));
    }
}

impl Entry {
    fn end(&mut self, now: Micros, metrics: &WorkerMetrics) {
        self.recordings.iter_mut().for_each(|recording| recording.end(now, metrics));
    }
}

/// What a track is called beside the session's others: `video`, `audio`, `video2`.
fn name_of(tracks: &[TappedTrack], index: usize) -> String {
    let kind = tracks[index].codec.codec.kind();
    let name = if kind == MediaKind::Video { "video" } else { "audio" };
    match tracks[..index].iter().filter(|track| track.codec.codec.kind() == kind).count() {
        0 => name.to_owned(),
        before => format!("{name}{}", before + 1),
    }
}

/// Asks the publisher's worker for a key frame. One that gets lost is asked for again.
fn ask(office: &mut Office, owner: WorkerId, wanted: Option<(TrackId, u8)>) {
    if let (Some((track, encoding)), Some(outbox)) = (wanted, office.commands.get_mut(owner.0 as usize)) {
        let _ = outbox.push(Command::KeyFrame { track, encoding });
    }
}
