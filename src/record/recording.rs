//! The recording of one publisher: its tracks in one file, as long as their codecs stay what they are.
//!
//! A file begins when every track has its first frame (of video: a key frame), or [`BEGIN_WAIT`] after the first of them; a track that
//! comes later begins another file, and so does the first key frame after a file is as long or as large as files may get. Of simulcast encodings the one with the most bytes is recorded, changed at its next key frame.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;

use serde_json::json;

use super::assemble::{Assembled, Assembler, Frame, PATIENCE, Packet};
use super::container::{Container, FRAGMENT_MICROS, Kind, TrackEntry};
use super::describe::describe;
use super::sidecar::{Sidecar, UNFINISHED, folder_of, stamp};
use super::timeline::{Timeline, offset};
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
    timeline: Timeline,
    entry: Option<TrackEntry>,
    /// In the file, from 1.
    number: u8,
    last_at: i64,
    asked: Micros,
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
        zero: i64,
    },
    /// No more is written: the file could not be made or written.
    Failed,
}

/// What a recorder asks of the publisher.
pub type KeyFrameWanted = (TrackId, u8);

pub struct Recording {
    room: String,
    session: String,
    plan: RecordPlan,
    tracks: Vec<Track>,
    output: Output,
    /// The publisher's clock against the server's.
    offset: Option<i64>,
    /// The wall clock at the server's time 0, in milliseconds.
    epoch: i64,
    parts: u32,
    measured: Micros,
}

impl Recording {
    /// `epoch`: milliseconds of Unix time at the server's time 0.
    pub fn new(room: String, session: String, tracks: &[TappedTrack], plan: RecordPlan, epoch: i64) -> Recording {
        // Video first: where it can be entered is what the file's cues are about.
        let mut tracks: Vec<TappedTrack> = tracks.to_vec();
        tracks.sort_by_key(|track| track.codec.codec.kind() == MediaKind::Audio);
        let track = |track: &TappedTrack| Track {
            id: track.id,
            codec: track.codec.codec,
            encodings: (0..QUALITIES_MAX)
                .map(|_| Encoding { assembler: Assembler::new(track.codec.codec), clock: None, bytes: 0, rate: 0 })
                .collect(),
            chosen: 0,
            wanted: 0,
            timeline: Timeline::new(track.codec.clock_rate),
            entry: None,
            number: 0,
            last_at: i64::MIN,
            asked: Micros::ZERO,
            gaps: 0,
        };
        let tracks = tracks.iter().map(track).collect();
        let output = Output::Waiting { frames: VecDeque::new(), since: None };
        Recording { room, session, plan, tracks, output, offset: None, epoch, parts: 0, measured: Micros::ZERO }
    }

    pub fn has(&self, track: TrackId) -> bool {
        self.tracks.iter().any(|own| own.id == track)
    }

    pub fn clock(&mut self, track: TrackId, encoding: u8, clock: SenderClock) {
        let Some(track) = self.tracks.iter_mut().find(|own| own.id == track) else { return };
        self.offset.get_or_insert_with(|| offset(&clock));
        if let Some(place) = track.encodings.get_mut(encoding as usize) {
            place.clock = Some(clock);
        }
    }

    /// Takes a packet; says which key frame is needed now, if one is.
    pub fn media(&mut self, media: &Media, now: Micros, metrics: &WorkerMetrics) -> Option<KeyFrameWanted> {
        let index = self.tracks.iter().position(|own| own.id == media.track)?;
        let encoding = self.tracks[index].encodings.get_mut(media.encoding as usize)?;
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
        if now.since(self.measured) >= MEASURE {
            self.measured = now;
            wanted.extend(self.tracks.iter_mut().filter_map(|track| track.measure(now)));
        }
        if let Output::Waiting { since: Some(since), .. } = &self.output
            && now.since(*since) > BEGIN_WAIT.0
        {
            self.begin(metrics);
        }
        if let Output::Open { file, zero, .. } = &mut self.output {
            let idle =
                file.unwritten_since().is_some_and(|since| now.0 as i64 - *zero > since + FRAGMENT_MICROS + PATIENCE.0 as i64);
            if idle && let Err(error) = file.flush() {
                self.fail(&error, metrics);
            }
        }
        if self.full(now.0 as i64)
            && let Some(track) = self.tracks.iter_mut().find(|track| track.number > 0 && track.codec.kind() == MediaKind::Video)
            && now.since(track.asked) >= REQUEST_INTERVAL
        {
            track.asked = now;
            wanted.push((track.id, track.chosen));
        }
        wanted
    }

    /// The file is as long or as large as files may get.
    fn full(&self, now: i64) -> bool {
        let Output::Open { file, zero, .. } = &self.output else { return false };
        let old = self.plan.split_after.is_some_and(|after| now - *zero >= after.0 as i64);
        old || self.plan.split_bytes.is_some_and(|bytes| file.bytes() >= bytes)
    }

    /// The recorder got fewer packets than there were: its ring was full.
    pub fn behind(&mut self, packets: u64, now: Micros) {
        self.event("behind", now, json!({ "packets": packets }));
    }

    /// The publisher has gone.
    pub fn end(&mut self, now: Micros, metrics: &WorkerMetrics) {
        for index in 0..self.tracks.len() {
            let chosen = self.tracks[index].chosen;
            let mut came = Vec::new();
            self.tracks[index].encodings[chosen as usize].assembler.finish(&mut |assembled| came.push(assembled));
            self.take(index, chosen, came, now, metrics);
        }
        self.begin(metrics);
        self.close(metrics);
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
                    self.frame(index, frame, now, metrics);
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
        let track = &mut self.tracks[index];
        let due = now.since(track.asked) >= REQUEST_INTERVAL || track.asked == Micros::ZERO;
        ask.filter(|_| due).inspect(|_| track.asked = now)
    }

    /// A frame of the encoding that is recorded.
    fn frame(&mut self, index: usize, frame: Frame, now: Micros, metrics: &WorkerMetrics) {
        let track = &mut self.tracks[index];
        let reports = track.encodings[track.chosen as usize].clock.zip(self.offset);
        let (at, leapt) = track.timeline.place(frame.timestamp, frame.arrival, reports);
        // Frames of one track never go back in time.
        let at = at.max(track.last_at.saturating_add(1_000));
        track.last_at = at;
        // The last one counts: another file may begin with this frame.
        if frame.key
            && let Some(entry) = describe(track.codec, &frame.data)
        {
            track.entry = Some(entry);
        }
        let (described, number, slot) = (track.entry.is_some(), track.number, track.id.slot);
        if leapt {
            self.event("clock", now, json!({ "track": slot, "reason": "its RTP time leapt" }));
        }
        match &mut self.output {
            // What cannot be described (H264 without parameter sets) cannot be decoded either.
            Output::Failed => {}
            _ if !described => {}
            Output::Waiting { frames, since } => {
                frames.push_back((index, at, frame));
                since.get_or_insert(now);
                if self.tracks.iter().all(|track| track.entry.is_some()) {
                    self.begin(metrics);
                }
            }
            Output::Open { .. } if number == 0 => {
                self.close(metrics);
                self.output = Output::Waiting { frames: VecDeque::from([(index, at, frame)]), since: Some(now) };
            }
            Output::Open { .. } => {
                // Video is entered at key frames only, sound anywhere; of both, video says where.
                let enters = frame.key && number == 1;
                if enters && self.full(at) {
                    self.close(metrics);
                    self.output = Output::Waiting { frames: VecDeque::from([(index, at, frame)]), since: Some(now) };
                    self.begin(metrics);
                } else {
                    self.write(index, at, &frame, metrics);
                }
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
            track.number = 0;
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
        let name = format!("{}-{}-{}", stamp(unix_millis), self.session, self.parts);
        let kind = Kind::of(self.plan.format, &entries);
        let path = folder.join(format!("{name}{UNFINISHED}.{}", kind.extension()));
        let mut sidecar = Sidecar::create(&folder.join(format!("{name}.jsonl")))?;
        let file = Container::new(kind, File::create(&path)?, &entries, unix_millis)?;
        let tracks: Vec<_> = self.tracks.iter().filter(|track| track.number > 0).map(Track::view).collect();
        let fields =
            json!({ "room": self.room, "session": self.session, "part": self.parts, "unix_ms": unix_millis, "tracks": tracks });
        sidecar.write("start", 0, unix_millis, fields);
        tracing::info!(room = self.room, session = self.session, file = %path.display(), "recording begun");
        Ok(Output::Open { file, sidecar, path, zero })
    }

    fn write(&mut self, index: usize, at: i64, frame: &Frame, metrics: &WorkerMetrics) {
        let Output::Open { file, zero, .. } = &mut self.output else { return };
        let before = file.bytes();
        let written = file.frame(self.tracks[index].number, at - *zero, frame.key, &frame.data);
        let synced = written.and_then(|ended| match ended && self.plan.sync == RecordSync::Cluster {
            true => file.out().sync_data(),
            false => Ok(()),
        });
        metrics.add(Counter::RecordedFrames, 1);
        metrics.add(Counter::RecordedBytes, file.bytes() - before);
        if let Err(error) = synced {
            self.fail(&error, metrics);
        }
    }

    /// Ends the file.
    fn close(&mut self, metrics: &WorkerMetrics) {
        let output = std::mem::replace(&mut self.output, Output::Waiting { frames: VecDeque::new(), since: None });
        let Output::Open { mut file, mut sidecar, path, zero } = output else {
            if matches!(output, Output::Failed) {
                self.output = Output::Failed;
            }
            return;
        };
        let last = self.tracks.iter().map(|track| track.last_at).max().unwrap_or(zero).max(zero);
        let gaps: u64 = self.tracks.iter().map(|track| track.gaps).sum();
        let name = path.to_string_lossy().replace(&format!("{UNFINISHED}."), ".");
        let ended = file.finish().and_then(|()| file.out().sync_all()).and_then(|()| std::fs::rename(&path, &name));
        let fields = json!({ "file": name, "bytes": file.bytes(), "gaps": gaps });
        match ended {
            Ok(()) => {
                sidecar.write("end", (last - zero) / 1_000, self.epoch + last / 1_000, fields);
                tracing::info!(room = self.room, session = self.session, file = name, bytes = file.bytes(), "recording ended");
            }
            Err(error) => {
                self.output = Output::Open { file, sidecar, path, zero };
                self.fail(&error, metrics);
            }
        }
    }

    /// Stops for good: the disk is full, or the folder has gone. What was written stays as it is.
    fn fail(&mut self, error: &std::io::Error, metrics: &WorkerMetrics) {
        metrics.add(Counter::RecordingsFailed, 1);
        tracing::error!(room = self.room, session = self.session, %error, "recording failed: no more of this publisher is recorded");
        if let Output::Open { sidecar, zero, .. } = &mut self.output {
            let last = self.tracks.iter().map(|track| track.last_at).max().unwrap_or(*zero).max(*zero);
            let fields = json!({ "reason": error.to_string() });
            sidecar.write("failed", (last - *zero) / 1_000, self.epoch + last / 1_000, fields);
        }
        self.output = Output::Failed;
    }

    fn event(&mut self, event: &str, now: Micros, fields: serde_json::Value) {
        if let Output::Open { sidecar, zero, .. } = &mut self.output {
            sidecar.write(event, (now.0 as i64 - *zero) / 1_000, self.epoch + now.0 as i64 / 1_000, fields);
        }
    }
}

impl Track {
    /// Chooses the encoding that most flows of; says which key frame it needs for that.
    fn measure(&mut self, now: Micros) -> Option<KeyFrameWanted> {
        for encoding in &mut self.encodings {
            encoding.rate = std::mem::take(&mut encoding.bytes);
        }
        let rate = |encoding: u8| self.encodings[encoding as usize].rate;
        let best = (0..self.encodings.len() as u8).max_by_key(|encoding| (rate(*encoding), u8::MAX - encoding))?;
        // A fifth more, for encodings of one size swap places all the time.
        let better = rate(best) * 5 > rate(self.chosen) * 6;
        self.wanted = if better { best } else { self.chosen };
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
