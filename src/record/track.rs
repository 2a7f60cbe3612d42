//! A track of a recording: its encodings, which of them is recorded, and where its frames belong.

use serde_json::{Value, json};

use super::assemble::{Assembled, Assembler, Frame, Packet};
use super::container::TrackEntry;
use super::describe::describe;
use super::timeline::Timeline;
use crate::limits::QUALITIES_MAX;
use crate::rtp::config::MediaKind;
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::units::{Micros, TrackId, WorkerId};
use crate::worker::tap::{Publisher, TappedTrack};

/// How long nothing may come of the encoding that is recorded before another is.
const SILENCE: Micros = Micros::from_millis(500);
/// From when on nothing is expected of a track that sends nothing: a camera may have been switched off.
const STILL: Micros = Micros::from_secs(5);
/// Time between two requests for a key frame.
const REQUEST_INTERVAL: u64 = 1_000_000;
/// Of whom it is, in a container's track list.
const TITLE_CHARS_MAX: usize = 120;

/// What a recorder asks of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFrameWanted {
    pub owner: WorkerId,
    pub track: TrackId,
    pub encoding: u8,
}

struct Encoding {
    assembler: Assembler,
    clock: Option<SenderClock>,
    /// Bytes since the last measure, and in the one before.
    bytes: u64,
    rate: u64,
}

pub struct Track {
    what: TappedTrack,
    pub publisher: Publisher,
    encodings: Vec<Encoding>,
    /// The encoding recorded, and the one that is to be.
    chosen: u8,
    wanted: u8,
    /// The one that was asked for.
    named: Option<u8>,
    /// When its first packet came, and its last.
    since: Option<Micros>,
    pub heard: Micros,
    timeline: Timeline,
    /// The publisher's clock against the server's.
    offset: Option<i64>,
    entry: Option<TrackEntry>,
    /// In the file, from 1; 0: the file lacks it.
    pub number: u8,
    /// In the file that another follows, as long as it has not gone over to that; 0: it has.
    pub left: u8,
    /// The file has, or is about to have, a frame of it that needs no earlier one.
    pub entered: bool,
    /// Its frames are for the next file.
    pub moved: bool,
    last_at: i64,
    /// Time in the file of its last frame.
    pub file_at: i64,
    asked: Micros,
    /// It was told that its key frames lack something.
    pub told: bool,
    pub gaps: u64,
    /// It is recorded no more since then, and what was on its way has come.
    pub gone: Option<Micros>,
    pub over: bool,
}

/// A frame, and where it belongs.
pub struct Placed {
    pub at: i64,
    /// The publisher's clock leapt.
    pub leapt: bool,
    /// A key frame that lacks what a decoder needs, and nothing was told of that yet.
    pub undescribed: bool,
}

impl Track {
    /// `layer`: the encoding to record, by its rid or its index; `offset`: of the publisher's clock, if it is known.
    pub fn new(what: TappedTrack, publisher: Publisher, layer: &str, offset: Option<i64>) -> Track {
        let by_rid = what.rids.iter().position(|rid| rid.as_str() == layer);
        let named = by_rid.or_else(|| layer.parse().ok()).filter(|index| *index < QUALITIES_MAX).map(|index| index as u8);
        let encoding = |_| Encoding { assembler: Assembler::new(what.codec.codec), clock: None, bytes: 0, rate: 0 };
        let (first, timeline) = (named.unwrap_or(0), Timeline::new(what.codec.clock_rate));
        Track {
            encodings: (0..QUALITIES_MAX).map(encoding).collect(),
            what,
            publisher,
            chosen: first,
            wanted: first,
            named,
            since: None,
            heard: Micros::ZERO,
            timeline,
            offset,
            entry: None,
            number: 0,
            left: 0,
            entered: false,
            moved: false,
            last_at: i64::MIN,
            file_at: i64::MIN,
            asked: Micros::ZERO,
            told: false,
            gaps: 0,
            gone: None,
            over: false,
        }
    }

    pub fn id(&self) -> TrackId {
        self.what.id
    }

    pub fn is_video(&self) -> bool {
        self.what.codec.codec.kind() == MediaKind::Video
    }

    pub fn kind(&self) -> &'static str {
        if self.is_video() { "video" } else { "audio" }
    }

    pub fn codec(&self) -> &'static str {
        self.what.codec.codec.name()
    }

    /// Whether it is to be in the file that begins.
    pub fn is_described(&self) -> bool {
        self.entry.is_some()
    }

    /// It is recorded still, or again; what is known of it may have changed.
    pub fn stay(&mut self, what: TappedTrack) {
        if std::mem::take(&mut self.over) {
            self.restart();
        }
        (self.what, self.gone) = (what, None);
    }

    /// A packet: what follows from it.
    pub fn packet(&mut self, media: &Media, now: Micros, out: &mut impl FnMut(Assembled)) {
        let Some(encoding) = self.encodings.get_mut(media.encoding as usize) else { return };
        self.since.get_or_insert(now);
        encoding.bytes += media.payload_len as u64;
        encoding.assembler.push(Packet::of(media), out);
    }

    /// Gives up what has been waited for for too long; `out` is told the encoding, too.
    pub fn expire(&mut self, now: Micros, out: &mut impl FnMut(u8, Assembled)) {
        for (index, encoding) in self.encodings.iter_mut().enumerate() {
            encoding.assembler.expire(now, &mut |assembled| out(index as u8, assembled));
        }
    }

    /// Nothing comes any more for now: what there is of whole frames.
    pub fn finish(&mut self, out: &mut impl FnMut(u8, Assembled)) {
        let chosen = self.chosen;
        self.encodings[chosen as usize].assembler.finish(&mut |assembled| out(chosen, assembled));
    }

    /// Forgets what it was about: frames were left out. Video goes on with a key frame.
    pub fn restart(&mut self) {
        let codec = self.what.codec.codec;
        self.encodings.iter_mut().for_each(|encoding| encoding.assembler = Assembler::new(codec));
        self.entered = false;
    }

    /// A sender report. Gives what the publisher's clock is to be taken for, if that was not known.
    pub fn clock(&mut self, encoding: u8, clock: SenderClock) -> Option<i64> {
        self.encodings.get_mut(encoding as usize)?.clock = Some(clock);
        let tells = self.offset.is_none() && encoding == self.chosen;
        tells.then(|| self.timeline.offset(&clock))
    }

    /// What to add to the publisher's clock to have the server's, the same for all its tracks.
    pub fn agree(&mut self, offset: i64) {
        self.offset.get_or_insert(offset);
    }

    /// Whether a frame of this encoding is recorded: of the one that is, or with a key frame of the one that is to be, to which it goes
    /// over.
    pub fn takes(&mut self, encoding: u8, key: bool) -> Taken {
        if self.chosen == encoding {
            return Taken::Yes;
        }
        if !(key && self.wanted == encoding) {
            return Taken::No;
        }
        self.chosen = encoding;
        self.timeline.restart();
        Taken::GoesOver
    }

    pub fn is_chosen(&self, encoding: u8) -> bool {
        self.chosen == encoding
    }

    /// Where a frame of the encoding that is recorded belongs.
    pub fn place(&mut self, frame: &Frame) -> Placed {
        let reports = self.encodings[self.chosen as usize].clock.zip(self.offset);
        let (at, leapt) = self.timeline.place(frame.timestamp, frame.arrival, reports);
        // Frames of one track never go back in time.
        self.last_at = at.max(self.last_at.saturating_add(1_000));
        // The last one counts: another file may begin with this frame.
        let described = if frame.key { describe(self.what.codec.codec, &frame.data) } else { None };
        // What cannot be described (H264 without parameter sets) cannot be decoded either.
        let undescribed = frame.key && described.is_none() && self.entry.is_none() && !std::mem::replace(&mut self.told, true);
        self.entry = described.or(self.entry.take());
        self.entered |= frame.key && self.entry.is_some();
        Placed { at: self.last_at, leapt, undescribed }
    }

    /// Whether a key frame may be asked for again; it is then.
    pub fn ask(&mut self, encoding: u8, now: Micros) -> Option<KeyFrameWanted> {
        let due = now.since(self.asked) >= REQUEST_INTERVAL || self.asked == Micros::ZERO;
        due.then(|| self.ask_now(encoding, now))
    }

    fn ask_now(&mut self, encoding: u8, now: Micros) -> KeyFrameWanted {
        self.asked = now;
        KeyFrameWanted { owner: self.publisher.owner, track: self.what.id, encoding }
    }

    /// The same of the encoding that is recorded.
    pub fn ask_chosen(&mut self, now: Micros) -> Option<KeyFrameWanted> {
        self.ask(self.chosen, now)
    }

    pub fn ask_chosen_now(&mut self, now: Micros) -> KeyFrameWanted {
        self.ask_now(self.chosen, now)
    }

    /// Whether anything has come of it lately.
    pub fn flows(&self, now: Micros) -> bool {
        now.since(self.heard) < STILL.0
    }

    /// Packets come, but none of the encoding that is to be recorded: another has to do until they do.
    pub fn is_silent(&self, now: Micros) -> bool {
        let is_late = self.since.is_some_and(|since| now.since(since) > SILENCE.0);
        let chosen = &self.encodings[self.chosen as usize];
        self.entry.is_none() && self.wanted == self.chosen && is_late && chosen.bytes + chosen.rate == 0
    }

    /// Chooses the encoding that was asked for, or else the one that most flows of; says which key frame it needs for that.
    pub fn measure(&mut self, now: Micros) -> Option<KeyFrameWanted> {
        for encoding in &mut self.encodings {
            encoding.rate = std::mem::take(&mut encoding.bytes);
        }
        let rate = |encoding: u8| self.encodings[encoding as usize].rate;
        let named = self.named.filter(|named| rate(*named) > 0);
        let best = (0..self.encodings.len() as u8).max_by_key(|encoding| (rate(*encoding), u8::MAX - encoding))?;
        // A fifth more, for encodings of one size swap places all the time.
        let better = rate(best) * 5 > rate(self.chosen) * 6;
        self.wanted = named.unwrap_or(if better { best } else { self.chosen });
        let due = self.wanted != self.chosen && now.since(self.asked) >= REQUEST_INTERVAL;
        due.then(|| self.ask_now(self.wanted, now))
    }

    /// As a container has it, with whose it is and what it shows.
    pub fn entry(&self) -> Option<TrackEntry> {
        let Publisher { identity, session, .. } = &self.publisher;
        let who = if identity.is_empty() { session } else { identity };
        let title = format!("{who} {}", self.what.source).replace(char::is_control, " ");
        Some(TrackEntry { title: title.chars().take(TITLE_CHARS_MAX).collect(), ..self.entry.clone()? })
    }

    pub fn view(&self) -> Value {
        let size = self.entry.as_ref().map(|entry| entry.size).unwrap_or_default();
        let Publisher { identity, session, .. } = &self.publisher;
        json!({
            "track": self.what.id.slot, "number": self.number, "codec": self.codec(), "width": size.0, "height": size.1,
            "session": session, "identity": identity, "sid": self.what.sid, "source": self.what.source,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    No,
    Yes,
    /// From another encoding.
    GoesOver,
}
