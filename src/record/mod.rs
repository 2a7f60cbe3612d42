//! Recording: from the tap ([`crate::worker::tap`]) to files that any player opens, without a browser and without transcoding.
//!
//! ```text
//!   worker ──Tapped──► Recorder ──► orders ──► recordings: tracks (assemble → depacketize → timeline) ──► part: container ──► file
//!   director ──Notice──┘                                                                           └──► events, a JSON object a line
//! ```
//!
//! What is to be recorded is an [`order::Order`]: of a room (by rule, or because somebody asked for it) or of a session or of some of its
//! tracks (LiveKit's egresses). A packet goes to every order that has its track. By `record.files` an order becomes one file for each
//! publisher, for each track, or for all publishers of the room, one after the other where `record.split_…` says so or a track comes that
//! the file lacks ([`recording`]): in a folder named after the room, WebM (Matroska with H264), fragmented MP4, or Ogg for sound alone.
//! Beside each lies what happened meanwhile ([`sidecar`]).
//!
//! **A crash** loses what was not written: a cluster (fragment, page) is written whole when it is a second old, and a lost packet is waited
//! for half a second, so at most two seconds. What is there plays; the next start gives such files, which have `.part` in their names, their
//! length and index ([`complete`]). `record.sync` says whether the same holds when the power fails.
//!
//! **A full disk**, or any other error of a file, ends that recording: a log line, `distributary_failed_recordings_total`, an event in
//! the sidecar if that can still be written; the file is made whole up to its last whole piece, if it can be. The room, its viewers and other recordings go on; the publisher's next session
//! tries again.
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
mod order;
mod part;
mod recording;
mod sidecar;
pub mod store;
mod timeline;
mod track;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::RecordPlan;
use crate::metrics::{DropReason, WorkerMetrics};
use crate::units::{Micros, PeerId, TrackId};
use crate::worker::mail::Command;
use crate::worker::tap::{Notice, Office, Order, RecordingId, Tapped};
pub use complete::{EXTENSIONS, complete_all, lock, unfinished};
pub use disk::{Disk, Writer};
use order::Key;
pub use sidecar::{UNFINISHED, folder_of};
use track::KeyFrameWanted;

/// The time, safe in a file's name.
pub fn time_of_now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    sidecar::stamp(now.as_millis() as i64)
}

/// Time between two looks at timers.
pub const TICK: Micros = Micros::from_millis(50);
/// What comes for so long is worked off together: hundreds of packets of each worker, where its ring holds thousands.
pub const REST: Duration = Duration::from_millis(5);
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

/// A track that packets come of: its publisher, and where they go.
struct Stream {
    publisher: PeerId,
    homes: Vec<(RecordingId, Key)>,
}

/// All recordings. A state machine: [`Recorder::turn`] takes the time, everything else comes through queues.
pub struct Recorder {
    plan: RecordPlan,
    disk: Disk,
    links: Links,
    metrics: Arc<WorkerMetrics>,
    orders: HashMap<RecordingId, order::Order>,
    by_room: HashMap<String, Vec<RecordingId>>,
    streams: HashMap<TrackId, Stream>,
    /// What to add to a publisher's clock to have the server's, once it is known.
    offsets: HashMap<PeerId, i64>,
    epoch: i64,
    next_tick: Micros,
    missed: u64,
}

impl Recorder {
    /// `epoch`: milliseconds of Unix time at time 0; `metrics`: a table of its own.
    pub fn new(plan: RecordPlan, disk: Disk, links: Links, metrics: Arc<WorkerMetrics>, epoch: i64) -> Recorder {
        let (orders, by_room, streams, offsets) = Default::default();
        Recorder { plan, disk, links, metrics, orders, by_room, streams, offsets, epoch, next_tick: Micros::ZERO, missed: 0 }
    }

    /// Works off what has come. Returns when to call again at the latest.
    pub fn turn(&mut self, now: Micros) -> Micros {
        let mut more = false;
        while let Ok(notice) = self.links.notices.try_recv() {
            if let Notice::Record(order) = notice {
                self.order(order, now);
            }
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
        for (_, mut order) in self.orders.drain() {
            order.end(now, &self.metrics);
        }
        self.streams.clear();
    }

    fn order(&mut self, order: Order, now: Micros) {
        match order {
            Order::Begin { recording, room, label, wish, present } => {
                self.by_room.entry(room.clone()).or_default().push(recording);
                let order = order::Order::new(room, label, self.plan.with(&wish), self.disk.clone(), present, self.epoch);
                self.orders.insert(recording, order);
            }
            Order::Take { recording, publisher, tracks } => {
                let Some(order) = self.orders.get_mut(&recording) else { return };
                let offset = self.offsets.get(&publisher.id).copied();
                for (track, key) in order.take(&publisher, &tracks, offset, now) {
                    let stream = || Stream { publisher: publisher.id, homes: Vec::new() };
                    let homes = &mut self.streams.entry(track).or_insert_with(stream).homes;
                    if !homes.contains(&(recording, key)) {
                        homes.push((recording, key));
                    }
                }
            }
            Order::Pause { recording, paused } => {
                let Some(order) = self.orders.get_mut(&recording) else { return };
                for wanted in order.pause(paused, now, &self.metrics) {
                    ask(&mut self.links.office, wanted);
                }
            }
            Order::End { recording } => {
                if let Some(order) = self.orders.get_mut(&recording) {
                    order.ends = Some(now + LINGER);
                }
            }
            Order::Happened { room, what } => {
                for recording in self.by_room.get(&room).into_iter().flatten() {
                    if let Some(order) = self.orders.get_mut(recording) {
                        order.happened(&what, now);
                    }
                }
            }
        }
    }

    fn tapped(&mut self, item: Tapped, now: Micros) {
        let Recorder { links, metrics, orders, streams, offsets, .. } = self;
        match item {
            Tapped::Media(media) => {
                for (recording, key) in streams.get(&media.track).into_iter().flat_map(|stream| &stream.homes) {
                    let recording = orders.get_mut(recording).and_then(|order| order.recordings.get_mut(key));
                    let wanted = recording.map(|recording| recording.media(&media, now, metrics));
                    wanted.into_iter().flatten().for_each(|wanted| ask(&mut links.office, wanted));
                }
            }
            Tapped::Clock { track, encoding, clock } => {
                let Some(Stream { publisher, homes }) = streams.get(&track) else { return };
                for (recording, key) in homes {
                    let recording = orders.get_mut(recording).and_then(|order| order.recordings.get_mut(key));
                    let Some(offset) = recording.and_then(|recording| recording.clock(track, encoding, clock)) else { continue };
                    // All of the publisher's go by one clock, in all recordings.
                    let offset = *offsets.entry(*publisher).or_insert(offset);
                    let all = orders.values_mut().flat_map(|order| order.recordings.values_mut());
                    all.for_each(|recording| recording.agree(*publisher, offset));
                }
            }
            // A recorder injects nothing.
            Tapped::KeyFrame { .. } => {}
        }
    }

    fn tick(&mut self, now: Micros) {
        let missed = self.links.tables.iter().map(|table| table.dropped(DropReason::TapFull)).sum();
        let behind = missed - std::mem::replace(&mut self.missed, missed);
        let Recorder { links, metrics, orders, by_room, streams, offsets, .. } = self;
        orders.retain(|id, order| {
            for wanted in order.tick(behind, now, metrics) {
                ask(&mut links.office, wanted);
            }
            let ends = order.ends.is_some_and(|at| now >= at);
            if ends {
                order.end(now, metrics);
                if let Some(others) = by_room.get_mut(&order.room) {
                    others.retain(|other| other != id);
                    if others.is_empty() {
                        by_room.remove(&order.room);
                    }
                }
            }
            !ends
        });
        let before = streams.len();
        streams.retain(|track, stream| {
            let has = |(recording, key): &(RecordingId, Key)| {
                let recording = orders.get(recording).and_then(|order| order.recordings.get(key));
                recording.is_some_and(|recording| recording.has(*track))
            };
            stream.homes.retain(has);
            !stream.homes.is_empty()
        });
        if streams.len() < before {
            offsets.retain(|publisher, _| streams.values().any(|stream| stream.publisher == *publisher));
        }
    }
}

/// Asks the publisher's worker for a key frame. One that gets lost is asked for again.
fn ask(office: &mut Office, KeyFrameWanted { owner, track, encoding }: KeyFrameWanted) {
    if let Some(outbox) = office.commands.get_mut(owner.0 as usize) {
        let _ = outbox.push(Command::KeyFrame { track, encoding });
    }
}
