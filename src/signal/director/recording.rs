//! What of a room is recorded: its publishers' tracks are tapped, by rule or because somebody asked for it.
//!
//! A room has one recording of its own, others of all of it that somebody asked for by a label, and any number of recordings of single
//! sessions or tracks in it ([`Share`]). Whenever something changes, in what is published or in what is to be recorded, [`Director::tap`] compares what should be with what is.

use std::collections::BTreeSet;

use livekit_protocol as proto;

use super::feeds::Track;
use super::members::Member;
use super::rooms::Room;
use super::{Director, Session, State};
use crate::config::RecordWish;
use crate::limits::{ROOMS_RECORDED_MAX, SPEAKERS_TOLD};
use crate::rtp::config::MediaKind;
use crate::signal::api::{Recorded, Refusal};
use crate::units::{PeerId, TrackId};
use crate::worker::mail::Command;
use crate::worker::tap::{Happening, Notice, Order, Publisher, Recording, RecordingId, Share, TappedTrack};

impl Director {
    /// Sees to it that of a session is tapped what is to be recorded and nothing else, and tells the recorder what has changed.
    pub(super) fn tap(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot).filter(|_| self.tap.is_some()) else { return };
        let Some(owner) = session.worker else { return };
        let tracks = if session.state == State::Ending { Vec::new() } else { self.recordable(session) };
        let identity = self.member_of(session).map(|member| member.identity.clone()).or(session.identity.clone());
        let (id, room, name) = (session.id, session.room.clone(), session.name.clone());
        let publisher = Publisher { id, owner, session: name.clone(), identity: identity.unwrap_or_default() };
        let mids: Vec<(TrackId, String)> =
            session.tracks.iter().zip(&session.sources).map(|(track, (mid, _))| (*track, mid.to_string())).collect();
        if !tracks.is_empty() {
            self.begin_by_rule(id, &room);
        }
        let Some(source) = &mut self.tap else { return };
        let (mut wanted, mut new) = (BTreeSet::new(), BTreeSet::new());
        let stopped = source.stopped.contains(&id);
        for recording in source.of(&room) {
            let Some(kept) = source.recordings.get_mut(&recording) else { continue };
            let has = |track: &&TappedTrack| match &kept.share {
                Share::Room => !stopped || !kept.label.is_empty(),
                Share::Session { session, .. } if *session != name => false,
                Share::Session { tracks: None, .. } => true,
                Share::Session { tracks: Some(names), .. } => {
                    let is = |name: &String| track.sid == *name || mids.iter().any(|(id, mid)| *id == track.id && mid == name);
                    names.iter().any(is)
                }
            };
            let tracks: Vec<TappedTrack> = tracks.iter().filter(has).cloned().collect();
            let before = kept.takes.remove(&id).unwrap_or_default();
            let ids = |tracks: &[TappedTrack]| tracks.iter().map(|track| track.id).collect::<BTreeSet<TrackId>>();
            wanted.extend(ids(&tracks));
            new.extend(ids(&tracks).difference(&ids(&before)));
            if !tracks.is_empty() {
                kept.takes.insert(id, tracks.clone());
            }
            if tracks != before {
                source.tell(Notice::Record(Order::Take { recording, publisher: publisher.clone(), tracks }));
            }
        }
        let before = source.open.remove(&id).unwrap_or_default();
        if before != wanted && !before.is_empty() {
            source.tell(Notice::Closed { publisher: id });
        }
        if before != wanted && !wanted.is_empty() {
            let tracks = tracks.into_iter().filter(|track| wanted.contains(&track.id)).collect();
            source.tell(Notice::Opened { publisher, room: room.clone(), tracks });
        }
        // The reader was told first: it would not know what packets of unknown tracks are.
        if let Some(office) = self.workers.get_mut(owner.0 as usize) {
            before.difference(&wanted).for_each(|track| office.send(Command::Untap { track: *track }));
            // Of what is tapped already another recording wants the sender reports and a key frame, too.
            new.into_iter().for_each(|track| office.send(Command::Tap { track }));
        }
        let changed = before != wanted;
        if !wanted.is_empty() {
            source.open.insert(id, wanted);
        }
        if changed {
            // What nobody watches is not sent, unless it is recorded.
            self.tell_qualities(&room);
        }
    }

    /// Whether a publisher's track is being recorded.
    pub(super) fn is_tapped(&self, publisher: PeerId, track: TrackId) -> bool {
        self.tap.as_ref().and_then(|source| source.open.get(&publisher)).is_some_and(|tracks| tracks.contains(&track))
    }

    /// The tracks of a session that anybody could play: not what is encrypted from end to end.
    fn recordable(&self, session: &Session) -> Vec<TappedTrack> {
        let member = self.member_of(session);
        // Nor what is the same picture in another codec.
        let publications = || member.into_iter().flat_map(|member| &member.publications);
        let is_second = |name: &Option<String>| {
            let names = publications().filter_map(|own| own.backup.as_ref()?.cid.as_ref());
            name.as_ref().is_some_and(|name| names.into_iter().any(|own| own == name))
        };
        let own = session.tracks.iter().zip(&session.sources).filter(|(_, (_, name))| !is_second(name)).map(|(id, _)| *id);
        let tracks = own.filter_map(|id| self.track(id)).filter(|track| !track.encrypted && track.backs.is_none());
        let tapped = |track: &Track| {
            let publication = publications().find(|publication| publication.track == Some(track.id));
            let sid = publication.map(|publication| publication.info.sid.clone()).unwrap_or_default();
            let source = publication.map_or(source_of(track.kind), |publication| source_name(&publication.info));
            TappedTrack { id: track.id, codec: track.codec, rids: track.rids.clone(), sid, source }
        };
        tracks.map(tapped).collect()
    }

    /// The member that a session publishes for.
    fn member_of(&self, session: &Session) -> Option<&Member> {
        let mut members = self.rooms.get(&session.room)?.members.values();
        members.find(|member| member.publisher == Some(session.id.slot))
    }

    /// Somebody publishes in a room that the rule has recorded.
    fn begin_by_rule(&mut self, publisher: PeerId, room: &str) {
        let Some(source) = self.tap.as_ref().filter(|source| source.matches(room) && source.of_all(room, "").is_none()) else {
            return;
        };
        if !source.stopped.contains(&publisher) {
            self.begin_recording(room, String::new(), Share::Room, RecordWish::default(), false);
        }
    }

    fn begin_recording(&mut self, room: &str, label: String, share: Share, wish: RecordWish, asked: bool) -> Option<RecordingId> {
        let members = self.rooms.get(room).into_iter().flat_map(|room| room.members.values());
        let there = members.filter(|member| member.state == proto::participant_info::State::Active && !member.hidden());
        let present = there.map(|member| member.identity.clone()).collect();
        let recording = Recording { room: room.to_owned(), label, share, wish, asked, takes: Default::default() };
        self.tap.as_mut().map(|source| source.begin(recording, present))
    }

    /// Has whoever publishes in a room recorded, whoever comes too, until [`Director::stop_recording`]; under a label beside what is
    /// recorded already.
    pub(super) fn start_recording(&mut self, room: String, label: String, wish: RecordWish) -> Result<Recorded, Refusal> {
        let publishing = self.publishing(&room);
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let known = source.of_all(&room, &label);
        let asked = |recording: &&Recording| recording.asked && recording.share == Share::Room;
        if known.is_none() && source.recordings.values().filter(asked).count() >= ROOMS_RECORDED_MAX {
            return Err(Refusal::Busy);
        }
        if label.is_empty() {
            for (_, id) in &publishing {
                source.stopped.remove(id);
            }
        }
        match known.and_then(|id| source.recordings.get_mut(&id)) {
            Some(recording) if recording.wish == wish => recording.asked = true,
            _ => {
                // Whoever is recorded otherwise than is wanted now gets another file.
                known.and_then(|id| source.end(id));
                self.begin_recording(&room, label.clone(), Share::Room, wish, true);
            }
        }
        publishing.iter().for_each(|(slot, _)| self.tap(*slot));
        let begun = self.tap.as_ref().and_then(|source| source.recordings.get(&source.of_all(&room, &label)?));
        let publishing = begun.is_some_and(|recording| !recording.takes.is_empty());
        Ok(Recorded { room, publishing })
    }

    /// The sessions of a room that publish and have a worker.
    fn publishing(&self, room: &str) -> Vec<(u32, PeerId)> {
        let publishers = self.rooms.get(room).into_iter().flat_map(Room::publishers);
        let sessions = publishers.filter_map(|slot| self.sessions.get(&slot)).filter(|session| session.worker.is_some());
        sessions.map(|session| (session.id.slot, session.id)).collect()
    }

    /// Ends that and no other, by whatever it was begun; whoever publishes now is not recorded again by rule.
    pub(super) fn stop_recording(&mut self, room: &str, label: &str) -> Result<(), Refusal> {
        let publishing = self.publishing(room);
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        source.paused.remove(&(room.to_owned(), label.to_owned()));
        let ended = source.of_all(room, label).and_then(|id| source.end(id));
        if label.is_empty() && source.matches(room) {
            source.stopped.extend(publishing.iter().map(|(_, id)| *id));
        }
        publishing.iter().for_each(|(slot, _)| self.tap(*slot));
        let ended = ended.filter(|recording| recording.asked || !recording.takes.is_empty());
        ended.map(drop).ok_or_else(|| Refusal::NotRecorded { room: room.to_owned() })
    }

    /// Has one publisher recorded, by the name of its session, or those of its tracks that have these names, until it leaves or
    /// [`Director::stop_recording_labelled`].
    pub(super) fn record_session(
        &mut self,
        name: String,
        tracks: Option<Vec<String>>,
        label: String,
        wish: RecordWish,
    ) -> Result<Recorded, Refusal> {
        self.tap.as_ref().ok_or(Refusal::NoRecorder)?;
        let session = self.sessions.values().find(|session| session.name == name).ok_or(Refusal::UnknownSession)?;
        let (slot, id, room) = (session.id.slot, session.id, session.room.clone());
        let recording = self.begin_recording(&room, label, Share::Session { session: name, tracks }, wish, true);
        self.tap(slot);
        let recording = self.tap.as_ref().zip(recording).and_then(|(source, recording)| source.recordings.get(&recording));
        Ok(Recorded { room, publishing: recording.is_some_and(|recording| recording.takes.contains_key(&id)) })
    }

    /// Ends that, and nothing else that is recorded of the same.
    pub(super) fn stop_recording_labelled(&mut self, label: &str) -> Result<(), Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let found = source.recordings.iter().find(|(_, recording)| recording.label == label).map(|(id, _)| *id);
        let ended = found.and_then(|id| source.end(id)).ok_or(Refusal::UnknownSession)?;
        ended.takes.keys().for_each(|publisher| self.tap(publisher.slot));
        Ok(())
    }

    /// Has nothing kept of a recorded room for now, or everything again.
    pub(super) fn pause_recording(&mut self, room: &str, label: &str, paused: bool) -> Result<(), Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let known = source.of_all(room, label);
        if known.is_none() && !(label.is_empty() && source.matches(room)) {
            return Err(Refusal::NotRecorded { room: room.to_owned() });
        }
        if paused && source.paused.len() >= ROOMS_RECORDED_MAX {
            return Err(Refusal::Busy);
        }
        let name = (room.to_owned(), label.to_owned());
        let changed = if paused { source.paused.insert(name) } else { source.paused.remove(&name) };
        if let Some(recording) = known.filter(|_| changed) {
            source.tell(Notice::Record(Order::Pause { recording, paused }));
        }
        Ok(())
    }

    /// Ends recordings that nobody asked for and that have nothing any more, and those of sessions that have gone.
    pub(super) fn tidy_recordings(&mut self) {
        let Some(source) = &mut self.tap else { return };
        let is_over = |recording: &Recording| match &recording.share {
            Share::Room => !recording.asked && recording.takes.is_empty(),
            Share::Session { session, .. } => {
                let is_there = |own: &Session| own.name == *session && own.state != State::Ending;
                recording.takes.is_empty() && !self.sessions.values().any(is_there)
            }
        };
        let over: Vec<RecordingId> = source.recordings.iter().filter(|(_, own)| is_over(own)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| drop(source.end(id)));
        source.stopped.retain(|id| self.sessions.get(&id.slot).is_some_and(|session| session.id == *id));
    }

    /// Whether anything of a publisher is being recorded.
    pub(super) fn is_recorded(&self, publisher: PeerId) -> bool {
        self.tap.as_ref().is_some_and(|source| source.open.contains_key(&publisher))
    }

    /// Whether anything of a room is.
    pub(super) fn records(&self, room: &Room) -> bool {
        room.publishers().filter_map(|slot| self.sessions.get(&slot)).any(|session| self.is_recorded(session.id))
    }

    /// Tells recordings of what happened to a room's members, by the name that webhooks have for it.
    pub(super) fn note(&self, event: &str, room: &str, member: &proto::ParticipantInfo, track: Option<&proto::TrackInfo>) {
        let Some(source) = &self.tap else { return };
        if member.permission.as_ref().is_some_and(|permission| permission.hidden) {
            return;
        }
        let identity = member.identity.clone();
        let what = match (event, track) {
            ("participant_joined", _) => Happening::Joined { identity },
            ("participant_left", _) => Happening::Left { identity },
            ("track_published", Some(track)) => {
                Happening::Published { identity, sid: track.sid.clone(), source: source_name(track) }
            }
            ("track_unpublished", Some(track)) => {
                Happening::Unpublished { identity, sid: track.sid.clone(), source: source_name(track) }
            }
            _ => return,
        };
        source.happened(room, what);
    }

    /// The same of a track that fell silent, or is heard and seen again.
    pub(super) fn note_mute(&self, room: &str, identity: &str, track: &proto::TrackInfo) {
        let (Some(source), Some(member)) = (&self.tap, self.member(room, identity)) else { return };
        if !member.hidden() {
            let (identity, sid, muted) = (identity.to_owned(), track.sid.clone(), track.muted);
            source.happened(room, Happening::Muted { identity, sid, source: source_name(track), muted });
        }
    }

    /// The same of who speaks, if that has changed.
    pub(super) fn note_speakers(&mut self, name: &str) {
        let Some(source) = self.tap.as_ref().filter(|source| source.has(name)) else { return };
        let Some(room) = self.rooms.get(name) else { return };
        let speaking = self.speaking(room).into_iter().filter(|(member, _)| !member.hidden());
        let level = |member: &Member| {
            let session = member.publisher.and_then(|slot| self.sessions.get(&slot))?;
            let loudest = session.stats.inbound.levels.until(session.stats.at).into_iter().map(|level| level.below_full).min()?;
            Some((member.identity.clone(), -(loudest as i8)))
        };
        let mut speakers: Vec<(String, i8)> = speaking.filter_map(|(member, _)| level(member)).collect();
        speakers.sort_by_key(|(_, level)| std::cmp::Reverse(*level));
        speakers.truncate(SPEAKERS_TOLD);
        let mut noted: Vec<String> = speakers.iter().map(|(identity, _)| identity.clone()).collect();
        noted.sort();
        if noted != room.noted {
            source.happened(name, Happening::Speakers(speakers));
            if let Some(room) = self.rooms.get_mut(name) {
                room.noted = noted;
            }
        }
    }
}

/// What LiveKit calls what a track shows.
fn source_name(track: &proto::TrackInfo) -> &'static str {
    match track.source() {
        proto::TrackSource::Camera => "camera",
        proto::TrackSource::Microphone => "microphone",
        proto::TrackSource::ScreenShare => "screen_share",
        proto::TrackSource::ScreenShareAudio => "screen_share_audio",
        proto::TrackSource::Unknown if track.r#type() == proto::TrackType::Audio => "audio",
        proto::TrackSource::Unknown => "video",
    }
}

/// And what is not known is called.
fn source_of(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}
