//! What flows: published tracks, and which m-line of which session is fed from which of them.
//!
//! A track has a shard on its publisher's worker and on each worker with a subscriber of it; the publisher's worker knows which
//! those are. Both follow from counting subscribers per worker here. Who may be fed from what is decided elsewhere (`rooms`, `members`).

use arrayvec::ArrayVec;

use super::{Director, State};
use crate::limits::{QUALITIES_MAX, TRACK_CACHE, WORKERS_MAX};
use crate::peer::send::Binding;
use crate::room::shard::{Shard, Subscriber};
use crate::rtp::config::{CodecConfig, Direction, Format, MediaConfig, MediaKind, Rid};
use crate::signal::negotiate::Agreed;
use crate::units::{PeerId, TrackId, WorkerId};
use crate::worker::mail::Command;

/// A published m-line.
pub(super) struct Track {
    pub id: TrackId,
    publisher: PeerId,
    pub kind: MediaKind,
    /// Simulcast encodings that were agreed on; at least one.
    encodings: usize,
    pub rids: ArrayVec<Rid, QUALITIES_MAX>,
    pub codec: CodecConfig,
    /// From end to end.
    pub encrypted: bool,
    /// The publisher's worker, once claimed: where the owning shard is.
    owner: Option<WorkerId>,
    /// Subscribers on each worker.
    subscribers: [u32; WORKERS_MAX],
}

/// An m-line that is to be fed from a track.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feed {
    pub sender: u16,
    pub track: TrackId,
    /// The worker was told: both the session and the track's publisher have one.
    flows: bool,
}

impl Director {
    /// Gives track ids to the m-lines that a session sends.
    pub(super) fn open_tracks(&mut self, publisher: PeerId, agreed: &Agreed) -> Vec<TrackId> {
        let received = agreed.media.iter().filter(|media| media.direction == Direction::RecvOnly);
        received.filter_map(|media| self.open_track(publisher, media)).collect()
    }

    /// None if there are too many tracks.
    pub(super) fn open_track(&mut self, publisher: PeerId, media: &MediaConfig) -> Option<TrackId> {
        let codec = media.codecs.first().copied()?;
        let slot = self.free_tracks.pop_front()?;
        self.track_generation = self.track_generation.wrapping_add(1);
        let id = TrackId { slot, generation: self.track_generation };
        let encodings = media.rids.len().max(media.remote_streams.len());
        let (kind, rids, subscribers) = (media.kind, media.rids.clone(), [0; WORKERS_MAX]);
        self.tracks.insert(slot, Track { id, publisher, kind, encodings, rids, codec, encrypted: false, owner: None, subscribers });
        Some(id)
    }

    pub(super) fn track(&self, id: TrackId) -> Option<&Track> {
        self.tracks.get(&id.slot).filter(|track| track.id == id)
    }

    /// A track's publisher has a worker: it gets its shard, and whoever waits for it is fed.
    pub(super) fn own_track(&mut self, id: TrackId, worker: WorkerId) {
        let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == id && track.owner.is_none()) else { return };
        track.owner = Some(worker);
        self.open_shard(id, worker);
        let waits = |feeds: &[Feed]| feeds.iter().any(|feed| feed.track == id);
        let waiting: Vec<u32> =
            self.sessions.values().filter(|session| waits(&session.feeds)).map(|session| session.id.slot).collect();
        waiting.into_iter().for_each(|slot| self.let_flow(slot));
    }

    /// Gives a worker its shard of a track.
    fn open_shard(&mut self, id: TrackId, worker: WorkerId) {
        let Some(track) = self.track(id) else { return };
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
        let is_video = |id: &&TrackId| self.track(**id).is_some_and(|track| track.kind == MediaKind::Video);
        publisher.tracks.iter().find(is_video).copied()
    }

    /// Feeds an m-line from a track, as soon as both have a worker; what fed it until now ends.
    pub(super) fn feed(&mut self, slot: u32, sender: u16, track: TrackId) {
        let Some(session) = self.sessions.get(&slot) else { return };
        if session.feeds.iter().any(|feed| (feed.sender, feed.track) == (sender, track)) {
            return;
        }
        self.starve(slot, sender);
        if let Some(session) = self.sessions.get_mut(&slot) {
            session.feeds.push(Feed { sender, track, flows: false });
        }
        self.let_flow(slot);
    }

    /// Tells a session's worker of the feeds that can flow now.
    pub(super) fn let_flow(&mut self, slot: u32) {
        let Some(session) = self.sessions.get(&slot).filter(|session| session.state != State::Ending) else { return };
        let Some(worker) = session.worker else { return };
        let waiting: Vec<Feed> = session.feeds.iter().copied().filter(|feed| !feed.flows).collect();
        for feed in waiting {
            self.subscribe(slot, worker, feed);
        }
    }

    fn subscribe(&mut self, slot: u32, worker: WorkerId, feed: Feed) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let Some(track) = self.track(feed.track) else { return };
        let Some(owner) = track.owner else { return };
        let line = session.lines.get(feed.sender as usize);
        let Some(codec) = line.and_then(|line| line.codecs.iter().find(|codec| decodes(codec, &track.codec)).copied()) else {
            tracing::warn!(
                session = session.name,
                room = session.room,
                codec = track.codec.codec.name(),
                "viewer cannot decode the track"
            );
            return;
        };
        let binding = Binding {
            track: feed.track,
            payload_type: codec.payload_type,
            rtx: codec.rtx,
            clock_rate: track.codec.clock_rate,
            encrypted: track.encrypted,
        };
        let (peer, wish) = (session.id, session.wishes.iter().find(|(index, _)| *index == feed.sender).copied());
        let first_here = track.subscribers[worker.0 as usize] == 0;
        if first_here && worker != owner {
            self.open_shard(feed.track, worker);
        }
        if let Some(track) = self.tracks.get_mut(&feed.track.slot) {
            track.subscribers[worker.0 as usize] += 1;
        }
        if first_here {
            self.route(feed.track);
        }
        if let Some(session) = self.sessions.get_mut(&slot) {
            session.feeds.iter_mut().filter(|own| own.sender == feed.sender).for_each(|own| own.flows = true);
        }
        if let Some(office) = self.workers.get_mut(worker.0 as usize) {
            let subscriber = Subscriber { peer: slot, sender: feed.sender };
            office.send(Command::Subscribe { subscriber, peer, binding });
            if let Some((_, wish)) = wish {
                office.send(Command::Wish { subscriber, peer, wish });
            }
        }
    }

    /// Ends what feeds an m-line.
    pub(super) fn starve(&mut self, slot: u32, sender: u16) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let Some(index) = session.feeds.iter().position(|feed| feed.sender == sender) else { return };
        let feed = session.feeds.swap_remove(index);
        let (peer, worker) = (session.id, session.worker);
        let Some(worker) = worker.filter(|_| feed.flows) else { return };
        if let Some(office) = self.workers.get_mut(worker.0 as usize) {
            office.send(Command::Unsubscribe { subscriber: Subscriber { peer: slot, sender }, peer });
        }
        self.one_less(feed.track, worker);
    }

    /// Ends everything that feeds a session. The worker itself unbinds what belongs to a session that it removes.
    pub(super) fn starve_all(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let (feeds, worker) = (std::mem::take(&mut session.feeds), session.worker);
        for feed in feeds.into_iter().filter(|feed| feed.flows) {
            if let Some(worker) = worker {
                self.one_less(feed.track, worker);
            }
        }
    }

    /// One subscriber less of a track on a worker.
    fn one_less(&mut self, id: TrackId, worker: WorkerId) {
        let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == id) else { return };
        let subscribers = &mut track.subscribers[worker.0 as usize];
        *subscribers = subscribers.saturating_sub(1);
        if *subscribers == 0 {
            let owner = track.owner;
            self.route(id);
            if owner != Some(worker)
                && let Some(office) = self.workers.get_mut(worker.0 as usize)
            {
                office.send(Command::CloseShard { track: id });
            }
        }
    }

    /// Tells the publisher's worker which others want the track.
    fn route(&mut self, id: TrackId) {
        let Some(track) = self.track(id) else { return };
        let Some(owner) = track.owner else { return };
        let mut others = 0u64;
        for (worker, subscribers) in track.subscribers.iter().enumerate() {
            if *subscribers > 0 && worker != owner.0 as usize {
                others |= 1 << worker;
            }
        }
        if let Some(office) = self.workers.get_mut(owner.0 as usize) {
            office.send(Command::Route { track: id, others });
        }
    }

    /// Ends a track, and everything that is fed from it.
    pub(super) fn close_track(&mut self, id: TrackId) {
        if self.track(id).is_none() {
            return;
        }
        let Some(track) = self.tracks.remove(&id.slot) else { return };
        for (worker, office) in self.workers.iter_mut().enumerate() {
            let owns = track.owner.is_some_and(|owner| owner.0 as usize == worker);
            if owns || track.subscribers.get(worker).is_some_and(|subscribers| *subscribers > 0) {
                office.send(Command::CloseShard { track: id });
            }
        }
        for session in self.sessions.values_mut() {
            session.feeds.retain(|feed| feed.track != id);
        }
        self.free_tracks.push_back(id.slot);
    }
}

/// A viewer's m-line for a track, among those that the server sends on.
pub(super) fn line_for(lines: &[MediaConfig], track: &Track) -> Option<u16> {
    let suits = |line: &MediaConfig| line.kind == track.kind && decodable(line, &track.codec);
    lines.iter().position(suits).map(|index| index as u16)
}

/// Whether what is published so can be sent on an m-line.
pub(super) fn decodable(line: &MediaConfig, sent: &CodecConfig) -> bool {
    line.codecs.iter().any(|codec| decodes(codec, sent))
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
