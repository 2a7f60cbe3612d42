//! Members of a room, by LiveKit's protocol: who publishes a camera and a screen, and who watches all of them on one peer connection.

use std::collections::BTreeMap;

use distributary::signal::api::MemberKey;
use livekit_protocol as proto;
use proto::signal_response::Message;
use tokio::sync::mpsc::Receiver;

use super::picture;

/// What is added to a publisher's number to make that of its screen.
pub const SCREEN: u32 = 1_000;

/// What a member saw and heard, by publisher.
#[derive(Default)]
pub struct Watcher {
    /// M-lines that it offers to be sent on.
    pub sounds: usize,
    pub pictures: usize,
    /// When the size of the pictures changed, in microseconds, and to what.
    pub sizes: BTreeMap<u32, Vec<(u64, u8)>>,
    pub seen: BTreeMap<u32, u64>,
    pub heard: BTreeMap<u32, u64>,
    pub violations: Vec<String>,
}

impl Watcher {
    pub fn new(sounds: usize, pictures: usize) -> Watcher {
        Watcher { sounds, pictures, ..Watcher::default() }
    }

    pub fn take(&mut self, bytes: &[u8], video: bool, now: u64) {
        if !video {
            match picture::read_audio(bytes) {
                Some(sound) => *self.heard.entry(sound.publisher).or_default() += 1,
                None => self.violations.push(format!("{now}: a sound of {} bytes is not what was sent", bytes.len())),
            }
            return;
        }
        let Some(frame) = picture::read_video(bytes) else {
            return self.violations.push(format!("{now}: a picture of {} bytes is not what was sent", bytes.len()));
        };
        *self.seen.entry(frame.publisher).or_default() += 1;
        let sizes = self.sizes.entry(frame.publisher).or_default();
        if sizes.last().is_none_or(|(_, size)| *size != frame.quarters) {
            sizes.push((now, frame.quarters));
        }
    }

    /// The size of the pictures that it sees of a publisher.
    pub fn size(&self, publisher: u32) -> u8 {
        self.sizes.get(&publisher).and_then(|sizes| sizes.last()).map_or(0, |(_, size)| *size)
    }

    /// Pictures so far.
    pub fn count(&self, publisher: u32) -> u64 {
        self.seen.get(&publisher).copied().unwrap_or(0)
    }

    /// Changes of size since a time.
    pub fn changes(&self, publisher: u32, from: u64) -> usize {
        self.sizes.get(&publisher).map_or(0, |sizes| sizes.iter().filter(|(at, _)| *at >= from).count())
    }
}

/// A member's signalling connection.
pub struct Line {
    pub key: MemberKey,
    outbox: Receiver<proto::SignalResponse>,
    pub told: Vec<Message>,
}

impl Line {
    pub fn new(key: MemberKey, outbox: Receiver<proto::SignalResponse>) -> Line {
        Line { key, outbox, told: Vec::new() }
    }

    pub fn read(&mut self) {
        while let Ok(response) = self.outbox.try_recv() {
            self.told.extend(response.message);
        }
    }

    pub fn answer(&self) -> Option<&str> {
        let answer = |message: &Message| matches!(message, Message::Answer(_));
        match self.told.iter().rfind(|message| answer(message)) {
            Some(Message::Answer(answer)) => Some(&answer.sdp),
            _ => None,
        }
    }

    /// What the server calls a track that its publisher calls by this name.
    pub fn sid(&self, cid: &str) -> Option<String> {
        self.told.iter().find_map(|message| match message {
            Message::TrackPublished(published) if published.cid == cid => published.track.as_ref().map(|track| track.sid.clone()),
            _ => None,
        })
    }

    /// Whether a track is said to be paused: the last word on it.
    pub fn paused(&self, sid: &str) -> Option<bool> {
        let mut states = self.told.iter().flat_map(|message| match message {
            Message::StreamStateUpdate(update) => &update.stream_states[..],
            _ => &[],
        });
        states.rfind(|state| state.track_sid == sid).map(|state| state.state == proto::StreamState::Paused as i32)
    }
}

pub fn track(cid: String, kind: proto::TrackType, source: proto::TrackSource) -> proto::AddTrackRequest {
    proto::AddTrackRequest { cid, r#type: kind as i32, source: source as i32, ..Default::default() }
}
