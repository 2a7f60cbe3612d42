//! Tracks that become one file at a time, of one publisher or of several.
//!
//! A file begins when every track has its first frame (of video: a key frame), and no other has come for [`SETTLE`], or
//! [`BEGIN_WAIT`] after the first of them. A track that comes later, which the file's header lacks, makes another file necessary, and
//! so does a file that is as long or as large as files may get. Then each track **goes over** to the next file where it can, and no
//! frame is left out: video with its next key frame, which is asked for, sound as soon as any video has. What has gone over waits
//! until all have, or for [`BEGIN_WAIT`]; then the other file begins, and the one ends: at once, or when the last video has gone over, or
//! after [`LEAVE_MAX`]. So two files that follow each other may
//! overlap in time, and the first line of each sidecar tells when it begins. A track that ends has no more frames; the next file
//! lacks it.
//!
//! Each publisher's tracks are aligned by its sender reports, publishers with each other by when their packets come.
//!
//! Of simulcast encodings the one that was asked for is recorded, or that with the most bytes, changed at its next key frame.
//!
//! A pause is cut out: what comes after it follows what was before it, video with a key frame. The sidecar says how long it was.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::LINGER;
use super::assemble::{Assembled, Frame};
use super::disk::Disk;
use super::part::Part;
use super::sidecar::folder_of;
use super::track::{KeyFrameWanted, Placed, Taken, Track};
use crate::config::RecordPlan;
use crate::limits::{EVENTS_PER_SECOND, FILE_TRACKS_MAX, PRESENT_TOLD};
use crate::metrics::{Counter, WorkerMetrics};
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::units::{Micros, PeerId, TrackId};
use crate::worker::tap::{Happening, Publisher, TappedTrack};

/// How long the first frames of a file wait for tracks that have none yet. With [`super::assemble::PATIENCE`] that is what a crash costs at
/// most.
const BEGIN_WAIT: Micros = Micros::from_millis(1_400);
/// And, once all have some, whether another track comes: clients publish one after the other.
const SETTLE: Micros = Micros::from_millis(700);
/// What the first frame after a pause comes after the last one before it.
const FRAME_MICROS: i64 = 20_000;
/// Why nothing comes of a track that sends.
const UNDESCRIBED: &str = "its key frames lack what a decoder needs first (H264: parameter sets; AV1: a sequence header)";
/// How long a file that another follows is kept open for video that never sends a key frame.
const LEAVE_MAX: Micros = Micros::from_secs(10);
/// Over so long it is counted how much flows of each encoding.
const MEASURE: u64 = 1_000_000;
/// Why a file ends and another begins.
const ADDED: &str = "a track has come that it lacks";
const FULL: &str = "it is as long or as large as files may get";

enum Output {
    /// The first frames wait for the file to begin.
    Waiting,
    Open(Box<Part>),
    /// No more is written: the file could not be made or written.
    Failed,
}

/// A file that another one follows already: video goes on in it that has had no key frame to go over with.
struct Leaving {
    part: Box<Part>,
    /// Of its last event.
    fields: Value,
    since: Micros,
}

/// Whether what comes is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    No,
    Paused,
    /// Since then a frame is waited for with which the file goes on.
    Ending(Micros),
}

/// What a recording is, and what its files are called.
#[derive(Clone, Debug)]
pub struct Title {
    pub room: String,
    /// Id of the publisher's session; none if there may be several.
    pub session: Option<String>,
    /// What it was asked for by, if it has such a name.
    pub label: String,
    /// What comes between the time and the number in names of files.
    pub name: String,
    /// The wall clock at the server's time 0, in milliseconds.
    pub epoch: i64,
}

pub struct Recording {
    title: Title,
    plan: RecordPlan,
    disk: Disk,
    tracks: Vec<Track>,
    output: Output,
    leaving: Option<Leaving>,
    /// Frames of the next file with the index of their track, since when, and why there is to be one.
    next: VecDeque<(usize, i64, Frame)>,
    next_since: Option<Micros>,
    why: &'static str,
    pause: Pause,
    parts: u32,
    measured: Micros,
    /// When a track came last.
    came: Micros,
    /// What happened since the frames wait with which the file will begin; of very much, the last.
    early: VecDeque<(String, Micros, Value)>,
}

impl Recording {
    pub fn new(title: Title, plan: RecordPlan, disk: Disk, paused: bool) -> Recording {
        let (tracks, next, output) = (Vec::new(), VecDeque::new(), Output::Waiting);
        let pause = if paused { Pause::Paused } else { Pause::No };
        let (next_since, why, parts, measured, came) = (None, "", 0, Micros::ZERO, Micros::ZERO);
        let (leaving, early) = (None, VecDeque::new());
        Recording { title, plan, disk, tracks, output, leaving, next, next_since, why, pause, parts, measured, came, early }
    }

    /// Has these tracks of a publisher from now on, and no others of it. `offset`: of its clock, if that is known.
    pub fn take(&mut self, publisher: &Publisher, tracks: &[TappedTrack], offset: Option<i64>, now: Micros) {
        let of = |track: &&mut Track| track.publisher.id == publisher.id;
        for track in self.tracks.iter_mut().filter(of).filter(|own| tracks.iter().all(|track| track.id != own.id())) {
            track.gone.get_or_insert(now);
        }
        for what in tracks {
            match self.tracks.iter_mut().find(|own| own.id() == what.id) {
                Some(track) => track.stay(what.clone()),
                None => {
                    self.tracks.push(Track::new(what.clone(), publisher.clone(), &self.plan.layer, offset));
                    self.came = now;
                    if matches!(self.output, Output::Failed) {
                        // There may be room again.
                        self.output = Output::Waiting;
                    }
                }
            }
        }
    }

    /// Whether it has a track, or waits for what is on its way of one.
    pub fn has(&self, track: TrackId) -> bool {
        self.tracks.iter().any(|own| own.id() == track && !own.over)
    }

    /// Tracks of other publishers that have not gone.
    pub fn live_beside(&self, publisher: PeerId) -> usize {
        self.tracks.iter().filter(|track| track.gone.is_none() && track.publisher.id != publisher).count()
    }

    /// What comes between the time and the number in names of files.
    pub fn name(&self) -> &str {
        &self.title.name
    }

    pub fn is_of(&self, publisher: PeerId) -> bool {
        self.tracks.iter().any(|track| track.publisher.id == publisher && !track.over)
    }

    /// Whether all of its tracks have gone, and nothing is on its way any more.
    pub fn is_over(&self) -> bool {
        self.tracks.iter().all(|track| track.over)
    }

    /// A sender report of one of its tracks. Gives what the publisher's clock is to be taken for, if that was not known.
    pub fn clock(&mut self, track: TrackId, encoding: u8, clock: SenderClock) -> Option<i64> {
        self.tracks.iter_mut().find(|own| own.id() == track)?.clock(encoding, clock)
    }

    /// What to add to a publisher's clock to have the server's.
    pub fn agree(&mut self, publisher: PeerId, offset: i64) {
        self.tracks.iter_mut().filter(|track| track.publisher.id == publisher).for_each(|track| track.agree(offset));
    }

    /// Takes a packet; says which key frames are needed now.
    pub fn media(&mut self, media: &Media, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        let Some(index) = self.tracks.iter().position(|own| own.id() == media.track && !own.over) else { return Vec::new() };
        self.tracks[index].heard = now;
        if self.pause == Pause::Paused {
            return Vec::new();
        }
        let mut came = Vec::new();
        self.tracks[index].packet(media, now, &mut |assembled| came.push((media.encoding, assembled)));
        self.follow(index, came, now, metrics)
    }

    /// Timers: gives up lost packets, measures encodings, begins a file that has waited long enough, ends a cluster that nothing ends.
    pub fn tick(&mut self, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        let mut wanted = Vec::new();
        for index in 0..self.tracks.len() {
            let (track, mut came) = (&mut self.tracks[index], Vec::new());
            if track.over {
                continue;
            }
            track.expire(now, &mut |encoding, assembled| came.push((encoding, assembled)));
            if track.gone.is_some_and(|since| now.since(since) >= LINGER.0) {
                track.finish(&mut |encoding, assembled| came.push((encoding, assembled)));
                wanted.extend(self.follow(index, came, now, metrics));
                self.tracks[index].over = true;
            } else {
                wanted.extend(self.follow(index, came, now, metrics));
            }
        }
        if now.since(self.measured) >= MEASURE || self.tracks.iter().any(|track| track.is_silent(now)) {
            self.measured = now;
            wanted.extend(self.tracks.iter_mut().filter_map(|track| track.measure(now)));
        }
        if self.next_since.is_some() && self.all_ready(now) {
            self.go_over(None, metrics);
        } else if self.next_since.is_some_and(|since| now.since(since) > BEGIN_WAIT.0) {
            self.go_over(Some(now), metrics);
        }
        if matches!(&self.output, Output::Open(part) if part.is_idle(now)) {
            self.flush(metrics);
        }
        self.follow_leaving(now, metrics);
        if self.due(now.0 as i64) {
            wanted.extend(self.video_wanted(now));
        }
        self.sweep();
        wanted
    }

    /// Forgets tracks that are over, once no file has them.
    fn sweep(&mut self) {
        if self.next.is_empty() {
            let open = matches!(self.output, Output::Open(_));
            self.tracks.retain(|track| !track.over || open && track.number > 0);
        }
    }

    /// Key frames of video with which it can go over, unless they were asked for just now.
    fn video_wanted(&mut self, now: Micros) -> Vec<KeyFrameWanted> {
        let stays = |track: &&mut Track| track.number > 0 && track.is_video() && !track.moved && track.gone.is_none();
        self.tracks.iter_mut().filter(stays).filter_map(|track| track.ask_chosen(now)).collect()
    }

    /// Whether another file is to begin.
    fn due(&self, now: i64) -> bool {
        matches!(self.output, Output::Open(_)) && (self.next_since.is_some() || self.full(now))
    }

    /// The file is as long or as large as files may get.
    fn full(&self, now: i64) -> bool {
        let Output::Open(part) = &self.output else { return false };
        let old = self.plan.split_after.is_some_and(|after| now - part.zero >= after.0 as i64);
        self.pause == Pause::No && (old || self.plan.split_bytes.is_some_and(|bytes| part.bytes() >= bytes))
    }

    /// The recorder got fewer packets than there were: its ring was full.
    pub fn behind(&mut self, packets: u64, now: Micros) {
        self.event("behind", now, json!({ "packets": packets }));
    }

    /// Something happened in the room.
    pub fn happened(&mut self, what: &Happening, now: Micros) {
        let track = |identity: &str, sid: &str, source: &str| json!({ "identity": identity, "sid": sid, "source": source });
        let (event, fields) = match what {
            Happening::Joined { identity } => ("joined", json!({ "identity": identity })),
            Happening::Left { identity } => ("left", json!({ "identity": identity })),
            Happening::Published { identity, sid, source } => ("published", track(identity, sid, source)),
            Happening::Unpublished { identity, sid, source } => ("unpublished", track(identity, sid, source)),
            Happening::Muted { identity, sid, source, muted: true } => ("muted", track(identity, sid, source)),
            Happening::Muted { identity, sid, source, muted: false } => ("unmuted", track(identity, sid, source)),
            Happening::Speakers(speakers) => {
                let all: Vec<Value> =
                    speakers.iter().map(|(identity, level)| json!({ "identity": identity, "level": level })).collect();
                ("speakers", json!({ "speakers": all }))
            }
        };
        self.event(event, now, fields);
    }

    /// Tells at the beginning of a file who is in the room.
    pub fn introduce<'a>(&mut self, present: impl ExactSizeIterator<Item = &'a String>, now: Micros) {
        let Output::Open(part) = &mut self.output else { return };
        if std::mem::replace(&mut part.introduced, true) {
            return;
        }
        let all = present.len();
        let named: Vec<&String> = present.take(PRESENT_TOLD).collect();
        let more = all - named.len();
        // A line has a few thousand characters at most, as others have.
        for identities in named.chunks(8) {
            self.event("present", now, json!({ "identities": identities, "more": more }));
        }
    }

    /// Keeps nothing for now, or everything again; says which key frames are needed for that.
    pub fn pause(&mut self, paused: bool, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        if paused == (self.pause == Pause::Paused) {
            return Vec::new();
        }
        if paused {
            self.finish_tracks(now, metrics);
            self.go_over(None, metrics);
            self.flush(metrics);
            self.leave(metrics);
            self.pause = Pause::Paused;
            self.event("paused", now, json!({}));
            return Vec::new();
        }
        self.pause = Pause::Ending(now);
        self.event("resumed", now, json!({}));
        self.tracks.iter_mut().for_each(Track::restart);
        self.tracks.iter_mut().filter(|track| track.is_video()).map(|track| track.ask_chosen_now(now)).collect()
    }

    /// Nothing comes any more: ends the file.
    pub fn end(&mut self, now: Micros, metrics: &WorkerMetrics) {
        self.finish_tracks(now, metrics);
        self.go_over(None, metrics);
        self.leave(metrics);
        self.close(None, metrics);
    }

    /// Takes what the tracks have of whole frames.
    fn finish_tracks(&mut self, now: Micros, metrics: &WorkerMetrics) {
        for index in 0..self.tracks.len() {
            let mut came = Vec::new();
            self.tracks[index].finish(&mut |encoding, assembled| came.push((encoding, assembled)));
            self.follow(index, came, now, metrics);
        }
    }

    /// What follows from packets of a track, each with its encoding.
    fn follow(&mut self, index: usize, came: Vec<(u8, Assembled)>, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        let mut ask = None;
        for (encoding, assembled) in came {
            let track = &mut self.tracks[index];
            let (slot, kind, chosen) = (track.id().slot, track.kind(), track.is_chosen(encoding));
            match assembled {
                Assembled::Frame(frame) => {
                    match track.takes(encoding, frame.key) {
                        Taken::No => continue,
                        Taken::Yes => {}
                        Taken::GoesOver => self.event("layer", now, json!({ "track": slot, "encoding": encoding })),
                    }
                    if !self.frame(index, frame, now, metrics) {
                        ask = Some(encoding);
                    }
                }
                Assembled::Gap { packets } if chosen => {
                    track.gaps += 1;
                    ask = track.is_video().then_some(encoding);
                    metrics.add(Counter::RecordingGaps, 1);
                    self.event("gap", now, json!({ "track": slot, "kind": kind, "packets": packets }));
                }
                Assembled::Malformed if chosen => {
                    self.event("malformed", now, json!({ "track": slot, "kind": kind }));
                    ask = Some(encoding);
                }
                Assembled::Undecodable if chosen => ask = Some(encoding),
                _ => {}
            }
        }
        let mut wanted: Vec<KeyFrameWanted> = ask.and_then(|encoding| self.tracks[index].ask(encoding, now)).into_iter().collect();
        if self.next_since.is_some() && matches!(self.output, Output::Open(_)) {
            wanted.extend(self.video_wanted(now));
        }
        wanted
    }

    /// A frame of the encoding that is recorded. False if it is of no use without a key frame.
    fn frame(&mut self, index: usize, frame: Frame, now: Micros, metrics: &WorkerMetrics) -> bool {
        let track = &mut self.tracks[index];
        let Placed { at, leapt, undescribed } = track.place(&frame);
        let (entered, slot, is_video, codec) = (track.entered, track.id().slot, track.is_video(), track.codec());
        if undescribed {
            let Publisher { session, .. } = &track.publisher;
            tracing::warn!(room = self.title.room, session, codec, "not recorded: {UNDESCRIBED}");
            self.event("undescribed", now, json!({ "track": slot, "reason": UNDESCRIBED }));
        }
        if leapt {
            self.event("clock", now, json!({ "track": slot, "reason": "its RTP time leapt" }));
        }
        if !entered {
            self.write_leaving(index, at, &frame, metrics);
        }
        if !entered || !self.goes_on(is_video, at, &frame, now) {
            return !is_video || matches!(self.output, Output::Failed);
        }
        self.tracks[index].left = 0;
        if matches!(self.output, Output::Failed) {
            return true;
        }
        if !self.waits(index, at, frame.key, now) {
            self.write(index, at, &frame, metrics);
            return true;
        }
        self.next.push_back((index, at, frame));
        self.next_since.get_or_insert(now);
        if self.all_ready(now) {
            self.go_over(None, metrics);
        }
        true
    }

    /// Whether a frame is one of the next file.
    fn waits(&mut self, index: usize, at: i64, key: bool, now: Micros) -> bool {
        let (due, full, has_video) = (self.due(at), self.full(at), self.has_video(now));
        let lacks = self.tracks[index].number == 0;
        if matches!(self.output, Output::Waiting) || lacks {
            self.tracks[index].moved = true;
        } else if due && !self.tracks[index].moved && key && (self.tracks[index].is_video() || !has_video) {
            // Video is entered at key frames only, sound anywhere; of both, video says where.
            self.tracks[index].moved = true;
            self.tracks.iter_mut().filter(|track| !track.is_video()).for_each(|track| track.moved = true);
        }
        if self.next_since.is_none() && self.tracks[index].moved {
            self.why = if full && !lacks { FULL } else { ADDED };
        }
        self.tracks[index].moved
    }

    /// Whether there is video in the file, and comes.
    fn has_video(&self, now: Micros) -> bool {
        self.tracks.iter().any(|track| track.number > 0 && track.is_video() && track.gone.is_none() && track.flows(now))
    }

    /// Whether each track has what the next file needs of it.
    fn all_ready(&self, now: Micros) -> bool {
        let waiting = matches!(self.output, Output::Waiting);
        let has = |track: &Track| track.over || track.is_described() && (track.moved || waiting);
        now.since(self.came) >= SETTLE.0 && self.tracks.iter().all(has)
    }

    /// Whether the file can go on with this frame after a pause. If so the pause is cut out.
    fn goes_on(&mut self, is_video: bool, at: i64, frame: &Frame, now: Micros) -> bool {
        let Pause::Ending(since) = self.pause else { return self.pause == Pause::No };
        let has_video = self.has_video(now);
        if let Output::Open(part) = &mut self.output {
            // Video may have been switched off meanwhile.
            let enters = frame.key && (is_video || !has_video || now.since(since) > BEGIN_WAIT.0);
            if !enters {
                return false;
            }
            part.zero += (at - part.written - FRAME_MICROS).max(0);
        }
        self.pause = Pause::No;
        true
    }

    /// Ends the file, if there is one, and begins the next with the frames that wait for that. `late`: now, if some tracks could not go over
    /// yet, which go on in the file that there is.
    fn go_over(&mut self, late: Option<Micros>, metrics: &WorkerMetrics) {
        self.next_since = None;
        let mut frames = std::mem::take(&mut self.next);
        let Some(zero) = frames.iter().map(|(_, at, _)| *at).min() else { return };
        match late.filter(|now| self.leaving.is_none() && self.stay_behind(*now)) {
            Some(since) => {
                if let Output::Open(part) = std::mem::replace(&mut self.output, Output::Waiting) {
                    self.leaving = Some(Leaving { part, fields: self.last_words(Some(self.why)), since });
                }
            }
            None => self.close(Some(self.why), metrics),
        }
        if matches!(self.output, Output::Failed) {
            return;
        }
        self.number(&frames);
        match self.open(zero) {
            Ok(part) => {
                self.output = Output::Open(Box::new(part));
                metrics.add(Counter::Recordings, 1);
            }
            Err(error) => return self.fail(&error, metrics),
        }
        frames.make_contiguous().sort_by_key(|(_, at, _)| *at);
        for (index, at, frame) in frames {
            self.write(index, at, &frame, metrics);
        }
    }

    /// Gives the tracks of the next file, which begins with these frames, their numbers: video first.
    fn number(&mut self, frames: &VecDeque<(usize, i64, Frame)>) {
        let mut order: Vec<usize> = (0..self.tracks.len()).collect();
        order.sort_by_key(|index| (self.tracks[*index].gone.is_some(), !self.tracks[*index].is_video()));
        let mut number = 0;
        for index in order {
            let (track, has_frames) = (&mut self.tracks[index], frames.iter().any(|(of, ..)| *of == index));
            (track.number, track.file_at, track.moved, track.gaps) = (0, i64::MIN, false, 0);
            let stays = track.gone.is_none() || has_frames;
            if stays && track.is_described() && number < FILE_TRACKS_MAX as u8 {
                number += 1;
                track.number = number;
                track.entered = !track.is_video() || has_frames;
            }
        }
    }

    fn open(&mut self, zero: i64) -> std::io::Result<Part> {
        let mut tracks: Vec<&Track> = self.tracks.iter().filter(|track| track.number > 0).collect();
        tracks.sort_by_key(|track| track.number);
        let entries: Vec<_> = tracks.iter().filter_map(|track| track.entry()).collect();
        let views: Vec<Value> = tracks.iter().map(|track| track.view()).collect();
        let mut start = json!({ "room": self.title.room, "tracks": views });
        if let Some(session) = &self.title.session {
            start["session"] = json!(session);
        }
        if !self.title.label.is_empty() {
            start["name"] = json!(self.title.label);
        }
        self.parts += 1;
        let (folder, name) = (self.plan.folder.join(folder_of(&self.title.room)), (self.title.name.as_str(), self.parts));
        let mut part = Part::open(&self.plan, &self.disk, folder, name, &entries, (zero, self.title.epoch), start)?;
        for (event, at, fields) in self.early.drain(..).filter(|(event, at, _)| at.0 as i64 >= zero && event != "undescribed") {
            part.tell(&event, at, false, fields);
        }
        let begins = Micros(zero.max(0) as u64);
        for track in self.tracks.iter().filter(|track| track.told && !track.is_described()) {
            part.tell("undescribed", begins, false, json!({ "track": track.id().slot, "reason": UNDESCRIBED }));
        }
        // It did not go over in time: what comes before its next key frame is left out.
        for track in tracks.iter().filter(|track| !track.entered && track.left == 0 && track.flows(begins)) {
            part.tell(
                "gap",
                begins,
                false,
                json!({ "track": track.id().slot, "kind": "video", "reason": "it awaits a key frame" }),
            );
        }
        Ok(part)
    }

    fn write(&mut self, index: usize, at: i64, frame: &Frame, metrics: &WorkerMetrics) {
        let Output::Open(part) = &mut self.output else { return };
        let (track, time) = (&mut self.tracks[index], at - part.zero);
        // Sound from before the frame with which a pause ended; or it left, and found no place.
        if time <= track.file_at || track.number == 0 {
            return;
        }
        track.file_at = time;
        if let Err(error) = part.frame(track.number, at, frame.key, &frame.data, metrics) {
            self.fail(&error, metrics);
        }
    }

    /// Has video that sends and has not gone over keep its place in the file; whether there is any.
    fn stay_behind(&mut self, now: Micros) -> bool {
        let stays = |track: &Track| track.entered && track.is_video() && !track.moved && track.gone.is_none() && track.flows(now);
        let open = matches!(self.output, Output::Open(_));
        for track in self.tracks.iter_mut().filter(|track| open && stays(track)) {
            track.left = track.number;
        }
        self.tracks.iter().any(|track| track.left > 0)
    }

    /// A frame of a track that has not gone over.
    fn write_leaving(&mut self, index: usize, at: i64, frame: &Frame, metrics: &WorkerMetrics) {
        let (Some(leaving), number @ 1..) = (&mut self.leaving, self.tracks[index].left) else { return };
        if let Err(error) = leaving.part.frame(number, at, frame.key, &frame.data, metrics) {
            self.leave(metrics);
            self.fail(&error, metrics);
        }
    }

    /// Ends the file that another follows when nothing goes on in it any more, or nothing can be waited for any longer.
    fn follow_leaving(&mut self, now: Micros, metrics: &WorkerMetrics) {
        let Some(leaving) = &mut self.leaving else { return };
        let idle = leaving.part.is_idle(now);
        let flushed = if idle { leaving.part.flush(metrics) } else { Ok(()) };
        let late = now.since(leaving.since) > LEAVE_MAX.0;
        if flushed.is_err() || late || self.tracks.iter().all(|track| track.left == 0 || track.over) {
            self.leave(metrics);
        }
    }

    fn leave(&mut self, metrics: &WorkerMetrics) {
        self.tracks.iter_mut().for_each(|track| track.left = 0);
        let Some(Leaving { part, fields, .. }) = self.leaving.take() else { return };
        if let Err(error) = part.end(fields, metrics) {
            tracing::error!(room = self.title.room, %error, "the end of a recording failed");
        }
    }

    /// What the last event of a file says; `why`: another one follows.
    fn last_words(&self, why: Option<&str>) -> Value {
        let mut fields = json!({ "gaps": self.tracks.iter().map(|track| track.gaps).sum::<u64>() });
        if let Some(why) = why {
            fields["why"] = json!(why);
        }
        fields
    }

    /// Writes what there is.
    fn flush(&mut self, metrics: &WorkerMetrics) {
        let Output::Open(part) = &mut self.output else { return };
        if let Err(error) = part.flush(metrics) {
            self.fail(&error, metrics);
        }
    }

    /// Ends the file; `why`: another one follows.
    fn close(&mut self, why: Option<&str>, metrics: &WorkerMetrics) {
        let fields = self.last_words(why);
        if !matches!(self.output, Output::Open(_)) {
            return;
        }
        if let Output::Open(part) = std::mem::replace(&mut self.output, Output::Waiting)
            && let Err(error) = part.end(fields, metrics)
        {
            self.failed(&error);
        }
    }

    /// Stops: the disk is full, or the folder has gone.
    fn fail(&mut self, error: &std::io::Error, metrics: &WorkerMetrics) {
        match std::mem::replace(&mut self.output, Output::Failed) {
            Output::Open(part) => part.fail(error),
            _ => metrics.add(Counter::RecordingsFailed, 1),
        }
        self.failed(error);
    }

    fn failed(&mut self, error: &std::io::Error) {
        let session = self.title.session.as_deref().unwrap_or("-");
        tracing::error!(room = self.title.room, session, %error, "recording failed: no more of this is recorded until another track comes");
        self.output = Output::Failed;
        self.next.clear();
        self.next_since = None;
    }

    fn event(&mut self, event: &str, now: Micros, fields: Value) {
        match &mut self.output {
            Output::Open(part) => part.tell(event, now, self.pause == Pause::Paused, fields),
            Output::Waiting => {
                if self.early.len() >= EVENTS_PER_SECOND as usize {
                    self.early.pop_front();
                }
                self.early.push_back((event.to_owned(), now, fields));
            }
            Output::Failed => {}
        }
    }
}
