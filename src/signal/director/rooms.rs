//! Who is joined to what: rooms, tracks, and the subscriptions that follow from them.
//!
//! A track has a shard on its publisher's worker and on each worker with a viewer of it; the publisher's worker knows which
//! those are. Both follow from counting viewers per worker here.

use std::collections::BTreeSet;

use arrayvec::ArrayVec;

use super::{Director, Session, State};
use crate::config::RecordWish;
use crate::limits::{QUALITIES_MAX, ROOMS_RECORDED_MAX, SPEAKERS_MAX, TRACK_CACHE, WORKERS_MAX};
use crate::peer::send::Binding;
use crate::room::shard::{Shard, Subscriber};
use crate::room::speaker::Speakers;
use crate::rtp::config::{CodecConfig, Direction, Format, MediaConfig, MediaKind, Rid};
use crate::rtp::level::{STEP, STEPS};
use crate::signal::api::{Recorded, Refusal};
use crate::signal::negotiate::{Agreed, Purpose};
use crate::units::{Micros, PeerId, TrackId, WorkerId};
use crate::worker::mail::Command;
use crate::worker::tap::{Notice, TappedTrack};

/// The sessions of one name.
pub(super) struct Room {
    pub publisher: Option<u32>,
    pub viewers: BTreeSet<u32>,
    pub speakers: Speakers,
}

impl Default for Room {
    fn default() -> Self {
        // Levels come with the statistics, once a second.
        let speakers = Speakers::new(SPEAKERS_MAX, Micros::from_millis(1_500));
        Room { publisher: None, viewers: BTreeSet::new(), speakers }
    }
}

impl Room {
    pub fn len(&self) -> usize {
        self.viewers.len() + self.publisher.is_some() as usize
    }
}

/// A published m-line.
pub(super) struct Track {
    id: TrackId,
    publisher: PeerId,
    kind: MediaKind,
    /// Simulcast encodings that were agreed on; at least one.
    encodings: usize,
    rids: ArrayVec<Rid, QUALITIES_MAX>,
    pub codec: CodecConfig,
    /// The publisher's worker, once claimed: where the owning shard is.
    owner: Option<WorkerId>,
    /// Viewers on each worker.
    viewers: [u32; WORKERS_MAX],
}

impl Director {
    /// Gives track ids to the m-lines that a session sends.
    pub(super) fn open_tracks(&mut self, publisher: PeerId, agreed: &Agreed) -> Vec<TrackId> {
        let received = agreed.media.iter().filter(|media| media.direction == Direction::RecvOnly);
        let mut ids = Vec::new();
        for media in received {
            let (Some(slot), Some(codec)) = (self.free_tracks.pop_front(), media.codecs.first().copied()) else { continue };
            let id = TrackId { slot, generation: publisher.generation };
            self.tracks.insert(
                slot,
                Track {
                    id,
                    publisher,
                    kind: media.kind,
                    encodings: media.rids.len().max(media.remote_streams.len()),
                    rids: media.rids.clone(),
                    codec,
                    owner: None,
                    viewers: [0; WORKERS_MAX],
                },
            );
            ids.push(id);
        }
        ids
    }

    pub(super) fn enter_room(&mut self, session: &Session) {
        let room = self.rooms.entry(session.room.clone()).or_default();
        match session.purpose {
            Purpose::Publish => room.publisher = Some(session.id.slot),
            Purpose::Watch => {
                room.viewers.insert(session.id.slot);
            }
        }
    }

    pub(super) fn leave_room(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let Some(room) = self.rooms.get_mut(&session.room) else { return };
        room.viewers.remove(&slot);
        if room.publisher == Some(slot) {
            room.publisher = None;
        }
        if room.len() == 0 {
            self.rooms.remove(&session.room);
        }
    }

    /// Takes in how loud a publisher was in the last second.
    pub(super) fn listen(&mut self, slot: u32, now: Micros) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let Some(track) = session.sound() else { return };
        let Some(room) = self.rooms.get_mut(&session.room) else { return };
        for (index, level) in session.stats.inbound.levels.until(session.stats.at).into_iter().enumerate() {
            let ago = STEP.0 * (STEPS - 1 - index) as u64;
            room.speakers.hear(track, level, Micros(now.0.saturating_sub(ago)));
        }
        room.speakers.settle(now);
    }

    /// A session has a worker now: its tracks get their shards, its subscriptions begin.
    pub(super) fn connect_media(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let Some(worker) = session.worker else { return };
        let tracks = session.tracks.clone();
        let Some(room) = self.rooms.get(&session.room) else { return };
        match session.purpose {
            Purpose::Publish => {
                let viewers: Vec<u32> = room.viewers.iter().copied().collect();
                for track in &tracks {
                    self.own_track(*track, worker);
                }
                self.open_tap(slot, worker);
                for track in &tracks {
                    for viewer in &viewers {
                        self.subscribe(*viewer, *track);
                    }
                }
            }
            Purpose::Watch => {
                let publisher = room.publisher.and_then(|publisher| self.sessions.get(&publisher));
                for track in publisher.map(|publisher| publisher.tracks.clone()).unwrap_or_default() {
                    self.subscribe(slot, track);
                }
            }
        }
    }

    /// Taps a publisher's tracks if its room is one of those to be tapped.
    fn open_tap(&mut self, slot: u32, worker: WorkerId) {
        let (Some(source), Some(session)) = (&mut self.tap, self.sessions.get(&slot)) else { return };
        let Some(office) = self.workers.get_mut(worker.0 as usize).filter(|_| source.wants(&session.room)) else { return };
        let tracks = session.tracks.iter().filter_map(|id| self.tracks.get(&id.slot).filter(|track| track.id == *id));
        let tapped = |track: &Track| TappedTrack { id: track.id, codec: track.codec, rids: track.rids.clone() };
        let tracks: Vec<TappedTrack> = tracks.map(tapped).collect();
        // The reader first: it would not know what packets of unknown tracks are.
        let (room, name) = (session.room.clone(), session.name.clone());
        let (publisher, paused) = (session.id, source.paused.contains(&room));
        let wish = source.requested.get(&room).cloned().unwrap_or_default();
        source.open.insert(publisher);
        source.tell(Notice::Opened { publisher, owner: worker, room, session: name, tracks: tracks.clone(), wish });
        if paused {
            source.tell(Notice::Paused { publisher, paused });
        }
        for track in tracks {
            office.send(Command::Tap { track: track.id });
        }
    }

    fn close_tap(&mut self, publisher: PeerId) -> bool {
        let Some(source) = self.tap.as_mut().filter(|source| source.open.contains(&publisher)) else { return false };
        source.open.remove(&publisher);
        source.tell(Notice::Closed { publisher });
        true
    }

    /// Has a room's publisher recorded, whoever comes too, until [`Director::stop_recording`].
    pub(super) fn start_recording(&mut self, room: String, wish: RecordWish) -> Result<Recorded, Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        if source.requested.len() >= ROOMS_RECORDED_MAX && !source.requested.contains_key(&room) {
            return Err(Refusal::Busy);
        }
        let changed = source.requested.insert(room.clone(), wish.clone()).unwrap_or_default() != wish;
        let publisher = self.rooms.get(&room).and_then(|room| room.publisher);
        let session = publisher.and_then(|slot| Some((slot, self.sessions.get(&slot)?)));
        let joined = session.and_then(|(slot, session)| Some((slot, session.id, session.worker?)));
        if let Some((slot, id, worker)) = joined
            && (changed || !self.is_recorded(id))
        {
            // Whoever is recorded otherwise than is wanted now gets another file.
            self.open_tap(slot, worker);
        }
        Ok(Recorded { room, publishing: joined.is_some_and(|(_, id, _)| self.is_recorded(id)) })
    }

    /// Ends that, and the recording of who publishes now, by whatever it was begun.
    pub(super) fn stop_recording(&mut self, room: &str) -> Result<(), Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let requested = source.requested.remove(room).is_some();
        source.paused.remove(room);
        let publisher = self.rooms.get(room).and_then(|room| self.sessions.get(&room.publisher?));
        let session = publisher.map(|session| (session.id, session.worker, session.tracks.clone()));
        let Some((_, worker, tracks)) = session.filter(|(id, ..)| self.close_tap(*id)) else {
            return if requested { Ok(()) } else { Err(Refusal::NotRecorded { room: room.to_owned() }) };
        };
        if let Some(office) = worker.and_then(|worker| self.workers.get_mut(worker.0 as usize)) {
            tracks.into_iter().for_each(|track| office.send(Command::Untap { track }));
        }
        Ok(())
    }

    /// Has nothing kept of a recorded room for now, or everything again.
    pub(super) fn pause_recording(&mut self, room: &str, paused: bool) -> Result<(), Refusal> {
        let publisher = self.rooms.get(room).and_then(|room| self.sessions.get(&room.publisher?)).map(|session| session.id);
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let open = publisher.filter(|publisher| source.open.contains(publisher));
        if open.is_none() && !source.wants(room) {
            return Err(Refusal::NotRecorded { room: room.to_owned() });
        }
        if paused && source.paused.len() >= ROOMS_RECORDED_MAX {
            return Err(Refusal::Busy);
        }
        let changed = if paused { source.paused.insert(room.to_owned()) } else { source.paused.remove(room) };
        if let Some(publisher) = open.filter(|_| changed) {
            source.tell(Notice::Paused { publisher, paused });
        }
        Ok(())
    }

    /// Whether a publisher is being recorded.
    pub(super) fn is_recorded(&self, publisher: PeerId) -> bool {
        self.tap.as_ref().is_some_and(|source| source.open.contains(&publisher))
    }

    fn own_track(&mut self, id: TrackId, worker: WorkerId) {
        if let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == id) {
            track.owner = Some(worker);
        }
        self.open_shard(id, worker);
    }

    /// Gives a worker its shard of a track.
    fn open_shard(&mut self, id: TrackId, worker: WorkerId) {
        let Some(track) = self.tracks.get(&id.slot).filter(|track| track.id == id) else { return };
        let Some(owner) = track.owner else { return };
        let cache = if track.kind == MediaKind::Video { TRACK_CACHE } else { TRACK_CACHE / 8 };
        let shard = Shard::new(id, owner, track.publisher.slot, track.kind, self.companion(track), track.encodings, cache);
        if let Some(office) = self.workers.get_mut(worker.0 as usize) {
            office.send(Command::OpenShard { shard: Box::new(shard) });
        }
    }

    /// The video that a sound belongs to.
    fn companion(&self, track: &Track) -> Option<TrackId> {
        let publisher = self.sessions.get(&track.publisher.slot).filter(|_| track.kind == MediaKind::Audio)?;
        let is_video = |id: &&TrackId| self.tracks.get(&id.slot).is_some_and(|track| track.kind == MediaKind::Video);
        publisher.tracks.iter().find(is_video).copied()
    }

    /// Feeds a viewer's m-line of the right kind from a track, if both have a worker and the viewer can decode it.
    fn subscribe(&mut self, viewer: u32, id: TrackId) {
        let Some(track) = self.tracks.get(&id.slot).filter(|track| track.id == id) else { return };
        let Some(session) = self.sessions.get(&viewer).filter(|session| session.state != State::Ending) else { return };
        let (Some(owner), Some(worker)) = (track.owner, session.worker) else { return };
        let Some((sender, codec)) = match_sender(&session.agreed.media, track) else {
            tracing::warn!(
                session = session.name,
                room = session.room,
                codec = track.codec.codec.name(),
                "viewer cannot decode the track"
            );
            return;
        };
        let binding = Binding { track: id, payload_type: codec.payload_type, rtx: codec.rtx, clock_rate: track.codec.clock_rate };
        let (peer, wish) = (session.id, session.wishes.iter().find(|(index, _)| *index == sender).copied());
        let first_here = track.viewers[worker.0 as usize] == 0;
        if first_here && worker != owner {
            self.open_shard(id, worker);
        }
        if let Some(track) = self.tracks.get_mut(&id.slot) {
            track.viewers[worker.0 as usize] += 1;
        }
        if first_here {
            self.route(id);
        }
        if let Some(office) = self.workers.get_mut(worker.0 as usize) {
            let subscriber = Subscriber { peer: viewer, sender };
            office.send(Command::Subscribe { subscriber, peer, binding });
            if let Some((_, wish)) = wish {
                office.send(Command::Wish { subscriber, peer, wish });
            }
        }
    }

    /// Tells the publisher's worker which others want the track.
    fn route(&mut self, id: TrackId) {
        let Some(track) = self.tracks.get(&id.slot) else { return };
        let Some(owner) = track.owner else { return };
        let mut others = 0u64;
        for (worker, viewers) in track.viewers.iter().enumerate() {
            if *viewers > 0 && worker != owner.0 as usize {
                others |= 1 << worker;
            }
        }
        if let Some(office) = self.workers.get_mut(owner.0 as usize) {
            office.send(Command::Route { track: id, others });
        }
    }

    /// Undoes [`Director::connect_media`].
    pub(super) fn disconnect_media(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let worker = session.worker;
        match session.purpose {
            Purpose::Publish => {
                let (publisher, tracks) = (session.id, session.tracks.clone());
                self.close_tap(publisher);
                for id in tracks {
                    if let Some(room) = self.rooms.get_mut(&self.sessions[&slot].room) {
                        room.speakers.forget(id);
                    }
                    self.close_track(id);
                }
            }
            Purpose::Watch => {
                let publisher = self.rooms.get(&session.room).and_then(|room| self.sessions.get(&room.publisher?));
                let tracks = publisher.map(|publisher| publisher.tracks.clone()).unwrap_or_default();
                let media = session.agreed.media.clone();
                for id in tracks {
                    if let Some(worker) = worker {
                        self.unsubscribe(id, worker, &media);
                    }
                }
            }
        }
    }

    /// One viewer less of a track on a worker. The worker itself unbinds what belongs to a session it removes.
    fn unsubscribe(&mut self, id: TrackId, worker: WorkerId, media: &[MediaConfig]) {
        let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == id) else { return };
        if match_sender(media, track).is_none() || track.owner.is_none() {
            return;
        }
        let viewers = &mut track.viewers[worker.0 as usize];
        *viewers = viewers.saturating_sub(1);
        if *viewers == 0 {
            let owner = track.owner;
            self.route(id);
            if owner != Some(worker)
                && let Some(office) = self.workers.get_mut(worker.0 as usize)
            {
                office.send(Command::CloseShard { track: id });
            }
        }
    }

    fn close_track(&mut self, id: TrackId) {
        let Some(track) = self.tracks.remove(&id.slot) else { return };
        for (worker, office) in self.workers.iter_mut().enumerate() {
            let owns = track.owner.is_some_and(|owner| owner.0 as usize == worker);
            if owns || track.viewers.get(worker).is_some_and(|viewers| *viewers > 0) {
                office.send(Command::CloseShard { track: id });
            }
        }
        self.free_tracks.push_back(id.slot);
    }
}

/// The viewer's m-line for a track: index among the m-lines the server sends on, and the payload type it knows the codec by.
fn match_sender(media: &[MediaConfig], track: &Track) -> Option<(u16, CodecConfig)> {
    let sent = media.iter().filter(|media| media.local_stream.is_some()).enumerate();
    for (index, media) in sent.filter(|(_, media)| media.kind == track.kind) {
        if let Some(codec) = media.codecs.iter().find(|codec| decodes(codec, &track.codec)) {
            return Some((index as u16, *codec));
        }
    }
    None
}

/// Whether a receiver of `own` can decode a stream of `sent`.
fn decodes(own: &CodecConfig, sent: &CodecConfig) -> bool {
    if own.codec != sent.codec {
        return false;
    }
    match (own.format, sent.format) {
        (
            Format::H264 { profile_idc: own_profile, packetization_mode: own_mode, .. },
            Format::H264 { profile_idc, packetization_mode, .. },
        ) => {
            // A higher profile decodes a lower one, and mode 1 takes what mode 0 sends (RFC 6184 §8.1, table 6).
            own_mode >= packetization_mode && own_profile >= profile_idc
        }
        (own, sent) => own == sent || own == Format::Any || sent == Format::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::config::{Codec, Feedback};
    use crate::units::PayloadType;

    fn h264(profile_idc: u8, packetization_mode: u8) -> CodecConfig {
        CodecConfig {
            codec: Codec::H264,
            payload_type: PayloadType(102),
            rtx: None,
            red: None,
            clock_rate: 90_000,
            format: Format::H264 { profile_idc, profile_iop: 0xe0, packetization_mode },
            feedback: Feedback::default(),
        }
    }

    #[test]
    fn a_higher_profile_or_mode_decodes_a_lower_one() {
        assert!(decodes(&h264(0x42, 1), &h264(0x42, 1)));
        assert!(decodes(&h264(0x42, 1), &h264(0x42, 0)));
        assert!(decodes(&h264(0x64, 1), &h264(0x42, 1)));
        assert!(!decodes(&h264(0x42, 0), &h264(0x42, 1)));
        assert!(!decodes(&h264(0x42, 1), &h264(0x64, 1)));
    }
}
