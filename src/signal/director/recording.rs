//! What of a room is recorded: its publishers' tracks are tapped, by rule or because somebody asked for it.

use super::Director;
use super::feeds::Track;
use super::rooms::Room;
use crate::config::RecordWish;
use crate::limits::ROOMS_RECORDED_MAX;
use crate::signal::api::{Recorded, Refusal};
use crate::units::{PeerId, WorkerId};
use crate::worker::mail::Command;
use crate::worker::tap::{Notice, TappedTrack};

impl Director {
    /// Taps a publisher's tracks if its room is one of those to be tapped.
    pub(super) fn open_tap(&mut self, slot: u32, worker: WorkerId) {
        let (Some(source), Some(session)) = (&mut self.tap, self.sessions.get(&slot)) else { return };
        let wanted = source.wants(&session.room) || source.sessions.contains(&session.name);
        let Some(office) = self.workers.get_mut(worker.0 as usize).filter(|_| wanted) else { return };
        let tracks = session.tracks.iter().filter_map(|id| self.tracks.get(&id.slot).filter(|track| track.id == *id));
        // Nobody could play what is encrypted from end to end.
        let tracks = tracks.filter(|track| !track.encrypted);
        let tapped = |track: &Track| TappedTrack { id: track.id, codec: track.codec, rids: track.rids.clone() };
        let tracks: Vec<TappedTrack> = tracks.map(tapped).collect();
        if tracks.is_empty() {
            return;
        }
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

    pub(super) fn close_tap(&mut self, publisher: PeerId) -> bool {
        let Some(source) = self.tap.as_mut().filter(|source| source.open.contains(&publisher)) else { return false };
        source.open.remove(&publisher);
        source.tell(Notice::Closed { publisher });
        true
    }

    /// Has whoever publishes in a room recorded, whoever comes too, until [`Director::stop_recording`].
    pub(super) fn start_recording(&mut self, room: String, wish: RecordWish) -> Result<Recorded, Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        if source.requested.len() >= ROOMS_RECORDED_MAX && !source.requested.contains_key(&room) {
            return Err(Refusal::Busy);
        }
        let changed = source.requested.insert(room.clone(), wish.clone()).unwrap_or_default() != wish;
        let mut publishing = false;
        for (slot, id, worker) in self.publishing(&room) {
            if changed || !self.is_recorded(id) {
                // Whoever is recorded otherwise than is wanted now gets another file.
                self.open_tap(slot, worker);
            }
            publishing |= self.is_recorded(id);
        }
        Ok(Recorded { room, publishing })
    }

    /// The sessions of a room that publish and have a worker.
    fn publishing(&self, room: &str) -> Vec<(u32, PeerId, WorkerId)> {
        let publishers = self.rooms.get(room).into_iter().flat_map(Room::publishers);
        let sessions = publishers.filter_map(|slot| self.sessions.get(&slot));
        sessions.filter_map(|session| Some((session.id.slot, session.id, session.worker?))).collect()
    }

    /// Ends that, and the recording of who publishes now, by whatever it was begun.
    pub(super) fn stop_recording(&mut self, room: &str) -> Result<(), Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let mut any = source.requested.remove(room).is_some();
        source.paused.remove(room);
        for (slot, id, worker) in self.publishing(room) {
            if !self.close_tap(id) {
                continue;
            }
            any = true;
            let tracks = self.sessions.get(&slot).map(|session| session.tracks.clone()).unwrap_or_default();
            if let Some(office) = self.workers.get_mut(worker.0 as usize) {
                tracks.into_iter().for_each(|track| office.send(Command::Untap { track }));
            }
        }
        if any { Ok(()) } else { Err(Refusal::NotRecorded { room: room.to_owned() }) }
    }

    /// Has one publisher recorded, by the name of its session, until it leaves or [`Director::stop_recording_session`].
    pub(super) fn record_session(&mut self, name: String) -> Result<Recorded, Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let session = self.sessions.values().find(|session| session.name == name).ok_or(Refusal::UnknownSession)?;
        let (slot, id, worker, room) = (session.id.slot, session.id, session.worker, session.room.clone());
        source.sessions.insert(name);
        if let Some(worker) = worker.filter(|_| !self.is_recorded(id)) {
            self.open_tap(slot, worker);
        }
        Ok(Recorded { room, publishing: self.is_recorded(id) })
    }

    /// Ends that; a publisher whose room is recorded too goes on to be.
    pub(super) fn stop_recording_session(&mut self, name: &str) -> Result<(), Refusal> {
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        source.sessions.remove(name);
        let session = self.sessions.values().find(|session| session.name == name).ok_or(Refusal::UnknownSession)?;
        if source.wants(&session.room) {
            return Ok(());
        }
        let (id, worker, tracks) = (session.id, session.worker, session.tracks.clone());
        self.close_tap(id);
        if let Some(office) = worker.and_then(|worker| self.workers.get_mut(worker.0 as usize)) {
            tracks.into_iter().for_each(|track| office.send(Command::Untap { track }));
        }
        Ok(())
    }

    /// Has nothing kept of a recorded room for now, or everything again.
    pub(super) fn pause_recording(&mut self, room: &str, paused: bool) -> Result<(), Refusal> {
        let publishers = self.publishing(room);
        let source = self.tap.as_mut().ok_or(Refusal::NoRecorder)?;
        let open: Vec<PeerId> = publishers.into_iter().map(|(_, id, _)| id).filter(|id| source.open.contains(id)).collect();
        if open.is_empty() && !source.wants(room) {
            return Err(Refusal::NotRecorded { room: room.to_owned() });
        }
        if paused && source.paused.len() >= ROOMS_RECORDED_MAX {
            return Err(Refusal::Busy);
        }
        let changed = if paused { source.paused.insert(room.to_owned()) } else { source.paused.remove(room) };
        for publisher in open.into_iter().filter(|_| changed) {
            source.tell(Notice::Paused { publisher, paused });
        }
        Ok(())
    }

    /// Whether a publisher is being recorded.
    pub(super) fn is_recorded(&self, publisher: PeerId) -> bool {
        self.tap.as_ref().is_some_and(|source| source.open.contains(&publisher))
    }

    /// Whether anything of a room is.
    pub(super) fn records(&self, room: &Room) -> bool {
        room.publishers().filter_map(|slot| self.sessions.get(&slot)).any(|session| self.is_recorded(session.id))
    }
}
