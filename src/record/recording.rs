//! The recording of one publisher: its tracks in one file, as long as their codecs stay what they are.
//!
//! A file begins when every track has its first frame (of video: a key frame), or [`BEGIN_WAIT`] after the first of them. A track that
//! comes later begins another file with the next key frame of video, and so does the first key frame after a file is as long or as large
//! as files may get. Of simulcast encodings the one that was asked for is recorded, or that with the most bytes, changed at its next key
//! frame.
//!
//! A pause is cut out: what comes after it follows what was before it, video with a key frame. The sidecar says how long it was.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde_json::json;

use super::assemble::{Assembled, Assembler, Frame, PATIENCE, Packet};
use super::container::{Container, FRAGMENT_MICROS, Kind, TrackEntry};
use super::describe::describe;
use super::disk::Disk;
use super::ending::Ending;
use super::sidecar::{Sidecar, UNFINISHED, folder_of, stamp};
use super::timeline::Timeline;
use crate::config::{RecordPlan, RecordSync};
use crate::limits::QUALITIES_MAX;
use crate::metrics::{Counter, WorkerMetrics};
use crate::rtp::config::{Codec, MediaKind};
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::units::{Micros, TrackId};
use crate::worker::tap::TappedTrack;

/// How long the first frames of a file wait for tracks that have none yet.
const BEGIN_WAIT: Micros = Micros::from_millis(1_500);
/// How long nothing may come of the encoding that is recorded before another is.
const SILENCE: Micros = Micros::from_millis(500);
/// What the first frame after a pause comes after the last one before it.
const FRAME_MICROS: i64 = 20_000;
/// Why nothing comes of a track that sends.
const UNDESCRIBED: &str = "its key frames lack what a decoder needs first (H264: parameter sets; AV1: a sequence header)";
/// Time between two requests for a key frame.
const REQUEST_INTERVAL: u64 = 1_000_000;
/// Over so long it is counted how much flows of each encoding.
const MEASURE: u64 = 1_000_000;

struct Encoding {
    assembler: Assembler,
    clock: Option<SenderClock>,
    /// Bytes since the last measure, and in the one before.
    bytes: u64,
    rate: u64,
}

struct Track {
    id: TrackId,
    codec: Codec,
    encodings: Vec<Encoding>,
    /// The encoding recorded, and the one that is to be.
    chosen: u8,
    wanted: u8,
    /// The one that was asked for.
    named: Option<u8>,
    /// When its first packet came.
    since: Option<Micros>,
    timeline: Timeline,
    entry: Option<TrackEntry>,
    /// In the file, from 1.
    number: u8,
    /// The file has, or is about to have, a frame of it that needs no earlier one.
    entered: bool,
    last_at: i64,
    /// Time in the file of its last frame.
    file_at: i64,
    asked: Micros,
    /// It was told that its key frames lack something.
    told: bool,
    gaps: u64,
}

/// Frames that wait for the file to begin, and the file.
enum Output {
    Waiting {
        frames: VecDeque<(usize, i64, Frame)>,
        since: Option<Micros>,
    },
    Open {
        file: Container,
        sidecar: Sidecar,
        path: PathBuf,
        /// Server's time at the file's 0; pauses move it.
        zero: i64,
        /// Of the last frame, whatever its track.
        written: i64,
        /// Frames of tracks that came too late for this file, since when.
        late: VecDeque<(usize, i64, Frame)>,
        late_since: Option<Micros>,
    },
    /// No more is written: the file could not be made or written.
    Failed,
}

/// Whether what comes is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    No,
    Paused,
    /// Since then a frame is waited for with which the file goes on.
    Ending(Micros),
}

/// What a recorder asks of the publisher.
pub type KeyFrameWanted = (TrackId, u8);

pub struct Recording {
    room: String,
    session: String,
    /// What it has of the session, in names of files; empty if that is all.
    part_of: String,
    plan: RecordPlan,
    disk: Disk,
    tracks: Vec<Track>,
    output: Output,
    pause: Pause,
    /// The publisher's clock against the server's.
    offset: Option<i64>,
    /// The wall clock at the server's time 0, in milliseconds.
    epoch: i64,
    parts: u32,
    measured: Micros,
}

impl Recording {
    /// `part_of`: what the tracks are of the session, if they are not all; `epoch`: milliseconds of Unix time at the server's time 0.
    pub fn new(
        room: String,
        session: String,
        part_of: String,
        tracks: &[TappedTrack],
        plan: RecordPlan,
        disk: Disk,
        epoch: i64,
    ) -> Recording {
        // Video first: where it can be entered is what the file's cues are about.
        let mut tracks: Vec<TappedTrack> = tracks.to_vec();
        tracks.sort_by_key(|track| track.codec.codec.kind() == MediaKind::Audio);
        let tracks = tracks.iter().map(|track| Track::new(track, &plan.layer)).collect();
        let output = Output::waiting([], None);
        let (offset, parts, measured, pause) = (None, 0, Micros::ZERO, Pause::No);
        Recording { room, session, part_of, plan, disk, tracks, output, pause, offset, epoch, parts, measured }
    }

    pub fn has(&self, track: TrackId) -> bool {
        self.tracks.iter().any(|own| own.id == track)
    }

    /// A sender report of one of its tracks. Gives what the publisher's clock is to be taken for, if that was not known.
    pub fn clock(&mut self, track: TrackId, encoding: u8, clock: SenderClock) -> Option<i64> {
        let track = self.tracks.iter_mut().find(|own| own.id == track)?;
        track.encodings.get_mut(encoding as usize)?.clock = Some(clock);
        let tells = self.offset.is_none() && encoding == track.chosen;
        tells.then(|| track.timeline.offset(&clock))
    }

    /// What to add to the publisher's clock to have the server's, the same for all its tracks.
    pub fn agree(&mut self, offset: i64) {
        self.offset.get_or_insert(offset);
    }

    /// Takes a packet; says which key frame is needed now, if one is.
    pub fn media(&mut self, media: &Media, now: Micros, metrics: &WorkerMetrics) -> Option<KeyFrameWanted> {
        let index = self.tracks.iter().position(|own| own.id == media.track)?;
        let track = &mut self.tracks[index];
        let encoding = track.encodings.get_mut(media.encoding as usize).filter(|_| self.pause != Pause::Paused)?;
        track.since.get_or_insert(now);
        encoding.bytes += media.payload_len as u64;
        let mut came = Vec::new();
        encoding.assembler.push(Packet::of(media), &mut |assembled| came.push(assembled));
        self.take(index, media.encoding, came, now, metrics)
    }

    /// Timers: gives up lost packets, measures encodings, begins a file that has waited long enough, ends a cluster that nothing ends.
    pub fn tick(&mut self, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        let mut wanted = Vec::new();
        for index in 0..self.tracks.len() {
            for encoding in 0..self.tracks[index].encodings.len() {
                let mut came = Vec::new();
                self.tracks[index].encodings[encoding].assembler.expire(now, &mut |assembled| came.push(assembled));
                wanted.extend(self.take(index, encoding as u8, came, now, metrics));
            }
        }
        if now.since(self.measured) >= MEASURE || self.tracks.iter().any(|track| track.is_silent(now)) {
            self.measured = now;
            wanted.extend(self.tracks.iter_mut().filter_map(|track| track.measure(now)));
        }
        match &mut self.output {
            Output::Waiting { since: Some(since), .. } if now.since(*since) > BEGIN_WAIT.0 => self.begin(metrics),
            Output::Open { late_since: Some(since), .. } if now.since(*since) > BEGIN_WAIT.0 => self.follow(None, now, metrics),
            Output::Open { file, zero, .. } => {
                let idle = FRAGMENT_MICROS + PATIENCE.0 as i64;
                if file.unwritten_since().is_some_and(|since| now.0 as i64 - *zero > since + idle) {
                    self.flush(metrics);
                }
            }
            _ => {}
        }
        if self.full(now.0 as i64) {
            wanted.extend(self.video_wanted(now));
        }
        wanted
    }

    /// The key frame of video with which another file can begin, if it has not been asked for just now.
    fn video_wanted(&mut self, now: Micros) -> Option<KeyFrameWanted> {
        let is_video = |track: &&mut Track| track.number > 0 && track.codec.kind() == MediaKind::Video;
        let track = self.tracks.iter_mut().find(is_video)?;
        track.may_ask(now).then_some((track.id, track.chosen))
    }

    /// The file is as long or as large as files may get.
    fn full(&self, now: i64) -> bool {
        let Output::Open { file, zero, .. } = &self.output else { return false };
        let old = self.plan.split_after.is_some_and(|after| now - *zero >= after.0 as i64);
        self.pause == Pause::No && (old || self.plan.split_bytes.is_some_and(|bytes| file.bytes() >= bytes))
    }

    /// The recorder got fewer packets than there were: its ring was full.
    pub fn behind(&mut self, packets: u64, now: Micros) {
        self.event("behind", now, json!({ "packets": packets }));
    }

    /// Keeps nothing for now, or everything again; says which key frames are needed for that.
    pub fn pause(&mut self, paused: bool, now: Micros, metrics: &WorkerMetrics) -> Vec<KeyFrameWanted> {
        if paused == (self.pause == Pause::Paused) {
            return Vec::new();
        }
        if paused {
            self.finish_tracks(now, metrics);
            self.begin(metrics);
            self.flush(metrics);
            self.event("paused", now, json!({}));
            self.pause = Pause::Paused;
            return Vec::new();
        }
        self.event("resumed", now, json!({}));
        self.pause = Pause::Ending(now);
        let mut wanted = Vec::new();
        for track in &mut self.tracks {
            track.encodings.iter_mut().for_each(|encoding| encoding.assembler = Assembler::new(track.codec));
            track.entered = false;
            if track.codec.kind() == MediaKind::Video {
                track.asked = now;
                wanted.push((track.id, track.chosen));
            }
        }
        wanted
    }

    /// The publisher has gone.
    pub fn end(&mut self, now: Micros, metrics: &WorkerMetrics) {
        self.finish_tracks(now, metrics);
        self.begin(metrics);
        if matches!(&self.output, Output::Open { late_since: Some(_), .. }) {
            self.follow(None, now, metrics);
            self.begin(metrics);
        }
        self.close(metrics);
    }

    /// Takes what the tracks have of whole frames.
    fn finish_tracks(&mut self, now: Micros, metrics: &WorkerMetrics) {
        for index in 0..self.tracks.len() {
            let chosen = self.tracks[index].chosen;
            let mut came = Vec::new();
            self.tracks[index].encodings[chosen as usize].assembler.finish(&mut |assembled| came.push(assembled));
            self.take(index, chosen, came, now, metrics);
        }
    }

    fn take(
        &mut self,
        index: usize,
        encoding: u8,
        came: Vec<Assembled>,
        now: Micros,
        metrics: &WorkerMetrics,
    ) -> Option<KeyFrameWanted> {
        let mut ask = None;
        for assembled in came {
            let track = &mut self.tracks[index];
            let (id, chosen, kind) = (track.id, track.chosen == encoding, track.codec.kind());
            match assembled {
                Assembled::Frame(frame) => {
                    if !(chosen || frame.key && track.wanted == encoding) {
                        continue;
                    }
                    if !chosen {
                        track.chosen = encoding;
                        track.timeline.restart();
                        self.event("layer", now, json!({ "track": id.slot, "encoding": encoding }));
                    }
                    if !self.frame(index, frame, now, metrics) {
                        ask = Some((id, encoding));
                    }
                }
                Assembled::Gap { packets } if chosen => {
                    track.gaps += 1;
                    metrics.add(Counter::RecordingGaps, 1);
                    self.event("gap", now, json!({ "track": id.slot, "kind": kind_name(kind), "packets": packets }));
                    ask = Some((id, encoding)).filter(|_| kind == MediaKind::Video);
                }
                Assembled::Malformed if chosen => {
                    self.event("malformed", now, json!({ "track": id.slot, "kind": kind_name(kind) }));
                    ask = Some((id, encoding));
                }
                Assembled::Undecodable if chosen => ask = Some((id, encoding)),
                _ => {}
            }
        }
        let late = matches!(&self.output, Output::Open { late_since: Some(_), .. });
        let wanted = ask.filter(|_| self.tracks[index].may_ask(now));
        if late { wanted.or_else(|| self.video_wanted(now)) } else { wanted }
    }

    /// A frame of the encoding that is recorded. False if it is of no use without a key frame.
    fn frame(&mut self, index: usize, frame: Frame, now: Micros, metrics: &WorkerMetrics) -> bool {
        let track = &mut self.tracks[index];
        let reports = track.encodings[track.chosen as usize].clock.zip(self.offset);
        let (at, leapt) = track.timeline.place(frame.timestamp, frame.arrival, reports);
        // Frames of one track never go back in time.
        let at = at.max(track.last_at.saturating_add(1_000));
        track.last_at = at;
        // The last one counts: another file may begin with this frame.
        let described = if frame.key { describe(track.codec, &frame.data) } else { None };
        // What cannot be described (H264 without parameter sets) cannot be decoded either.
        let tells = frame.key && described.is_none() && track.entry.is_none() && !std::mem::replace(&mut track.told, true);
        track.entry = described.or(track.entry.take());
        track.entered |= frame.key && track.entry.is_some();
        let (entered, number, slot, is_video) =
            (track.entered, track.number, track.id.slot, track.codec.kind() == MediaKind::Video);
        if tells {
            let codec = self.tracks[index].codec.name();
            tracing::warn!(room = self.room, session = self.session, codec, "not recorded: {UNDESCRIBED}");
            self.event("undescribed", now, json!({ "track": slot, "reason": UNDESCRIBED }));
        }
        if leapt {
            self.event("clock", now, json!({ "track": slot, "reason": "its RTP time leapt" }));
        }
        if !entered || !self.goes_on(number, at, &frame, now) {
            return !is_video || matches!(self.output, Output::Failed);
        }
        let full = self.full(at);
        let has_video = self.tracks.iter().any(|track| track.number > 0 && track.codec.kind() == MediaKind::Video);
        match &mut self.output {
            Output::Failed => {}
            Output::Waiting { frames, since } => {
                frames.push_back((index, at, frame));
                since.get_or_insert(now);
                if self.tracks.iter().all(|track| track.entry.is_some()) {
                    self.begin(metrics);
                }
            }
            Output::Open { late, late_since, .. } if number == 0 => {
                late.push_back((index, at, frame));
                late_since.get_or_insert(now);
                if !has_video {
                    self.follow(None, now, metrics);
                }
            }
            Output::Open { late_since, .. } => {
                // Video is entered at key frames only, sound anywhere; of both, video says where.
                let follows = frame.key && number == 1 && (full || late_since.is_some());
                match follows {
                    true => self.follow(Some((index, at, frame)), now, metrics),
                    false => self.write(index, at, &frame, metrics),
                }
            }
        }
        true
    }

    /// Whether the file can go on with this frame after a pause. If so the pause is cut out.
    fn goes_on(&mut self, number: u8, at: i64, frame: &Frame, now: Micros) -> bool {
        let Pause::Ending(since) = self.pause else { return self.pause == Pause::No };
        if let Output::Open { zero, written, .. } = &mut self.output {
            // Video may have been switched off meanwhile.
            let enters = frame.key && (number == 1 || now.since(since) > BEGIN_WAIT.0);
            if !enters {
                return false;
            }
            *zero += (at - *written - FRAME_MICROS).max(0);
        }
        self.pause = Pause::No;
        true
    }

    /// Ends the file and begins the next, with those frames that came too late for this one and with `first`, from which video goes on.
    fn follow(&mut self, first: Option<(usize, i64, Frame)>, now: Micros, metrics: &WorkerMetrics) {
        let Output::Open { late, .. } = &mut self.output else { return };
        let mut frames = std::mem::take(late);
        if let Some((_, from, _)) = &first {
            // What was before would be sound to a picture of the file before.
            frames.retain(|(_, at, _)| at >= from);
        }
        frames.extend(first);
        for (index, track) in self.tracks.iter_mut().enumerate() {
            track.entered = track.codec.kind() == MediaKind::Audio || frames.iter().any(|(of, ..)| *of == index);
        }
        self.close(metrics);
        if !matches!(self.output, Output::Failed) {
            self.output = Output::waiting(frames, Some(now));
            if self.tracks.iter().all(|track| track.entry.is_some()) {
                self.begin(metrics);
            }
        }
    }

    /// Begins a file with the tracks that have frames.
    fn begin(&mut self, metrics: &WorkerMetrics) {
        let Output::Waiting { frames, .. } = &mut self.output else { return };
        let mut frames = std::mem::take(frames);
        let Some(zero) = frames.iter().map(|(_, at, _)| *at).min() else { return };
        let mut number = 0;
        for track in &mut self.tracks {
            (track.number, track.file_at) = (0, i64::MIN);
            if track.entry.is_some() {
                number += 1;
                track.number = number;
            }
        }
        match self.open(zero) {
            Ok(output) => {
                self.output = output;
                metrics.add(Counter::Recordings, 1);
            }
            Err(error) => return self.fail(&error, metrics),
        }
        frames.make_contiguous().sort_by_key(|(_, at, _)| *at);
        for (index, at, frame) in frames {
            self.write(index, at, &frame, metrics);
        }
    }

    fn open(&mut self, zero: i64) -> std::io::Result<Output> {
        let entries: Vec<TrackEntry> = self.tracks.iter().filter_map(|track| track.entry.clone()).collect();
        let unix_millis = self.epoch + zero / 1_000;
        let folder = self.plan.folder.join(folder_of(&self.room));
        std::fs::create_dir_all(&folder)?;
        self.parts += 1;
        let name = format!("{}-{}-{}{}", stamp(unix_millis), self.session, self.part_of, self.parts);
        let kind = Kind::of(self.plan.format, &entries);
        let path = folder.join(format!("{name}{UNFINISHED}.{}", kind.extension()));
        let mut sidecar = Sidecar::create(&self.disk, &folder.join(format!("{name}.jsonl")))?;
        let file = Container::new(kind, self.disk.create(&path)?, &entries, unix_millis)?;
        let tracks: Vec<_> = self.tracks.iter().filter(|track| track.number > 0).map(Track::view).collect();
        let fields =
            json!({ "room": self.room, "session": self.session, "part": self.parts, "unix_ms": unix_millis, "tracks": tracks });
        sidecar.write("start", 0, unix_millis, fields);
        for track in self.tracks.iter().filter(|track| track.told && track.entry.is_none()) {
            sidecar.write("undescribed", 0, unix_millis, json!({ "track": track.id.slot, "reason": UNDESCRIBED }));
        }
        tracing::info!(room = self.room, session = self.session, file = %path.display(), "recording begun");
        Ok(Output::Open { file, sidecar, path, zero, written: zero, late: VecDeque::new(), late_since: None })
    }

    fn write(&mut self, index: usize, at: i64, frame: &Frame, metrics: &WorkerMetrics) {
        let Output::Open { file, zero, written, .. } = &mut self.output else { return };
        let (track, time) = (&mut self.tracks[index], at - *zero);
        if time <= track.file_at {
            // Sound from before the frame with which a pause ended.
            return;
        }
        track.file_at = time;
        *written = at.max(*written);
        let before = file.bytes();
        let ended = file.frame(track.number, time, frame.key, &frame.data);
        let synced = ended.and_then(|ended| if ended { sync(file, self.plan.sync) } else { Ok(()) });
        metrics.add(Counter::RecordedFrames, 1);
        metrics.add(Counter::RecordedBytes, file.bytes() - before);
        if let Err(error) = synced {
            self.fail(&error, metrics);
        }
    }

    /// Writes what there is.
    fn flush(&mut self, metrics: &WorkerMetrics) {
        let Output::Open { file, .. } = &mut self.output else { return };
        let before = file.bytes();
        let flushed = file.flush().and_then(|()| sync(file, self.plan.sync));
        metrics.add(Counter::RecordedBytes, file.bytes() - before);
        if let Err(error) = flushed {
            self.fail(&error, metrics);
        }
    }

    /// Ends the file.
    fn close(&mut self, metrics: &WorkerMetrics) {
        let Output::Open { file, .. } = &mut self.output else { return };
        let before = file.bytes();
        if let Err(error) = file.finish() {
            return self.fail(&error, metrics);
        }
        metrics.add(Counter::RecordedBytes, file.bytes() - before);
        let gaps: u64 = self.tracks.iter().map(|track| track.gaps).sum();
        if let Some((file, ending)) = self.ending() {
            let bytes = file.bytes();
            file.into_out().end(move |written| ending.end(written, bytes, gaps));
        }
    }

    /// Stops for good: the disk is full, or the folder has gone. What was written is made a whole file, if that can be done.
    fn fail(&mut self, error: &std::io::Error, metrics: &WorkerMetrics) {
        tracing::error!(room = self.room, session = self.session, %error, "recording failed: no more of this publisher is recorded");
        let error = std::io::Error::other(error.to_string());
        match self.ending() {
            Some((file, ending)) => file.into_out().end(move |_| ending.fail(&error)),
            None => metrics.add(Counter::RecordingsFailed, 1),
        }
        self.output = Output::Failed;
    }

    /// The file, and what is left to do with it. Another may begin.
    fn ending(&mut self) -> Option<(Container, Ending)> {
        let output = std::mem::replace(&mut self.output, Output::waiting([], None));
        let Output::Open { file, path, zero, written, .. } = output else { return None };
        let (room, session) = (self.room.clone(), self.session.clone());
        let (at_millis, unix_millis) = ((written - zero) / 1_000, self.epoch + written / 1_000);
        Some((file, Ending { room, session, path, at_millis, unix_millis }))
    }

    fn event(&mut self, event: &str, now: Micros, fields: serde_json::Value) {
        if let Output::Open { sidecar, zero, .. } = &mut self.output {
            sidecar.write(event, (now.0 as i64 - *zero) / 1_000, self.epoch + now.0 as i64 / 1_000, fields);
        }
    }
}

impl Output {
    fn waiting(frames: impl IntoIterator<Item = (usize, i64, Frame)>, since: Option<Micros>) -> Output {
        Output::Waiting { frames: frames.into_iter().collect(), since }
    }
}

/// Forces to the disk what was just written, if that is wanted.
fn sync(file: &Container, sync: RecordSync) -> std::io::Result<()> {
    match sync {
        RecordSync::Cluster => file.out().sync(),
        RecordSync::End => Ok(()),
    }
}

impl Track {
    /// `layer`: the encoding to record, by its rid or its index.
    fn new(track: &TappedTrack, layer: &str) -> Track {
        let by_rid = track.rids.iter().position(|rid| rid.as_str() == layer);
        let named = by_rid.or_else(|| layer.parse().ok()).filter(|index| *index < QUALITIES_MAX).map(|index| index as u8);
        let codec = track.codec.codec;
        let encoding = |_| Encoding { assembler: Assembler::new(codec), clock: None, bytes: 0, rate: 0 };
        let first = named.unwrap_or(0);
        Track {
            id: track.id,
            codec,
            encodings: (0..QUALITIES_MAX).map(encoding).collect(),
            chosen: first,
            wanted: first,
            named,
            since: None,
            timeline: Timeline::new(track.codec.clock_rate),
            entry: None,
            number: 0,
            entered: false,
            last_at: i64::MIN,
            file_at: i64::MIN,
            asked: Micros::ZERO,
            told: false,
            gaps: 0,
        }
    }

    /// Whether a key frame may be asked for again. It is then.
    fn may_ask(&mut self, now: Micros) -> bool {
        let due = now.since(self.asked) >= REQUEST_INTERVAL || self.asked == Micros::ZERO;
        if due {
            self.asked = now;
        }
        due
    }

    /// Packets come, but none of the encoding that is to be recorded: another has to do until they do.
    fn is_silent(&self, now: Micros) -> bool {
        let is_late = self.since.is_some_and(|since| now.since(since) > SILENCE.0);
        let chosen = &self.encodings[self.chosen as usize];
        self.entry.is_none() && self.wanted == self.chosen && is_late && chosen.bytes + chosen.rate == 0
    }

    /// Chooses the encoding that was asked for, or else the one that most flows of; says which key frame it needs for that.
    fn measure(&mut self, now: Micros) -> Option<KeyFrameWanted> {
        for encoding in &mut self.encodings {
            encoding.rate = std::mem::take(&mut encoding.bytes);
        }
        let rate = |encoding: u8| self.encodings[encoding as usize].rate;
        let named = self.named.filter(|named| rate(*named) > 0);
        let best = (0..self.encodings.len() as u8).max_by_key(|encoding| (rate(*encoding), u8::MAX - encoding))?;
        // A fifth more, for encodings of one size swap places all the time.
        let better = rate(best) * 5 > rate(self.chosen) * 6;
        self.wanted = named.unwrap_or(if better { best } else { self.chosen });
        (self.wanted != self.chosen && now.since(self.asked) >= REQUEST_INTERVAL).then(|| {
            self.asked = now;
            (self.id, self.wanted)
        })
    }

    fn view(&self) -> serde_json::Value {
        let size = self.entry.as_ref().map(|entry| entry.size).unwrap_or_default();
        json!({ "track": self.id.slot, "number": self.number, "codec": self.codec.name(), "width": size.0, "height": size.1 })
    }
}

fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}
