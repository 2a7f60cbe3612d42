//! What flows: published tracks, and which m-line of which session is fed from which of them.
//!
//! A track has a shard on its publisher's worker and on each worker with a subscriber of it; the publisher's worker knows which
//! those are. Both follow from counting subscribers per worker here. Who may be fed from what is decided elsewhere (`rooms`, `members`).
//!
//! A track can have a backup: another one with the same picture in another codec, from the same publisher, for whoever cannot decode the
//! first. Everybody else speaks of the first only; which of both flows on an m-line is decided here.

use arrayvec::ArrayVec;

use super::{Director, Part, State};
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
    /// The same picture in another codec, and whether everybody who can is given that.
    pub backup: Option<(TrackId, bool)>,
    /// It is the backup of another.
    pub backs: Option<TrackId>,
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
    /// The track itself, or its backup.
    pub sent: TrackId,
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
        let track = Track {
            id,
            publisher,
            kind,
            encodings,
            rids,
            codec,
            backup: None,
            backs: None,
            encrypted: false,
            owner: None,
            subscribers,
        };
        self.tracks.insert(slot, track);
        Some(id)
    }

    pub(super) fn track(&self, id: TrackId) -> Option<&Track> {
        self.tracks.get(&id.slot).filter(|track| track.id == id)
    }

    /// A track's publisher has a worker: it gets its shard, and whoever waits for it is fed.
    pub(super) fn own_track(&mut self, id: TrackId, worker: WorkerId) {
        let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == id && track.owner.is_none()) else { return };
        track.owner = Some(worker);
        let first = track.backs.unwrap_or(id);
        self.open_shard(id, worker);
        self.fed_from(first).into_iter().for_each(|slot| self.let_flow(slot));
    }

    /// The sessions that are fed from a track, or wait for it.
    pub(super) fn fed_from(&self, id: TrackId) -> Vec<u32> {
        let fed = |feeds: &[Feed]| feeds.iter().any(|feed| feed.track == id);
        self.sessions.values().filter(|session| fed(&session.feeds)).map(|session| session.id.slot).collect()
    }

    /// Sets or takes away what stands in for a track; `always`: whoever can decode both is given that too.
    pub(super) fn back_up(&mut self, id: TrackId, backup: Option<TrackId>, always: bool) {
        let backup = backup.filter(|backup| self.track(*backup).is_some()).map(|backup| (backup, always));
        let Some(track) = self.tracks.get_mut(&id.slot).filter(|track| track.id == id && track.backup != backup) else { return };
        track.backup = backup;
        if let Some(other) = backup.and_then(|(other, _)| self.tracks.get_mut(&other.slot)) {
            other.backs = Some(id);
        }
        for slot in self.fed_from(id) {
            let feeds = self.sessions.get(&slot).into_iter().flat_map(|session| &session.feeds);
            let own = feeds.filter(|feed| feed.track == id);
            let changed = own.filter(|feed| self.variant(slot, feed.sender, id).is_some_and(|sent| sent != feed.sent));
            let changed: Vec<u16> = changed.map(|feed| feed.sender).collect();
            for sender in changed {
                self.starve(slot, sender);
                self.feed(slot, sender, id);
            }
        }
    }

    /// What of a track can be sent on an m-line: itself, its backup, or nothing.
    pub(super) fn variant(&self, slot: u32, sender: u16, id: TrackId) -> Option<TrackId> {
        let line = self.sessions.get(&slot)?.lines.get(sender as usize)?;
        let track = self.track(id)?;
        let suits = |track: &&Track| decodable(line, &track.codec);
        let backup = track.backup.and_then(|(backup, _)| self.track(backup)).filter(suits);
        let first = Some(track).filter(suits);
        let always = track.backup.is_some_and(|(_, always)| always);
        let best = if always { backup.or(first) } else { first.or(backup) };
        best.map(|track| track.id)
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
        let sent = self.variant(slot, sender, track).unwrap_or(track);
        if let Some(session) = self.sessions.get_mut(&slot) {
            session.feeds.push(Feed { sender, track, sent, flows: false });
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
        let sent = self.variant(slot, feed.sender, feed.track).unwrap_or(feed.track);
        let Some(session) = self.sessions.get(&slot) else { return };
        let Some(track) = self.track(sent) else { return };
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
            track: sent,
            payload_type: codec.payload_type,
            rtx: codec.rtx,
            clock_rate: track.codec.clock_rate,
            encrypted: track.encrypted,
        };
        let is_member = matches!(session.part, Part::Member { .. });
        let (peer, wish) = (session.id, session.wishes.iter().find(|(index, _)| *index == feed.sender).copied());
        let first_here = track.subscribers[worker.0 as usize] == 0;
        if first_here && worker != owner {
            self.open_shard(sent, worker);
        }
        if let Some(track) = self.tracks.get_mut(&sent.slot) {
            track.subscribers[worker.0 as usize] += 1;
        }
        if first_here {
            self.route(sent);
        }
        if let Some(session) = self.sessions.get_mut(&slot) {
            let own = session.feeds.iter_mut().filter(|own| own.sender == feed.sender);
            own.for_each(|own| (own.sent, own.flows) = (sent, true));
        }
        if let Some(office) = self.workers.get_mut(worker.0 as usize) {
            let subscriber = Subscriber { peer: slot, sender: feed.sender };
            office.send(Command::Subscribe { subscriber, peer, binding });
            if is_member {
                office.send(Command::Fill { subscriber, peer });
            }
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
        self.one_less(feed.sent, worker);
    }

    /// Ends everything that feeds a session. The worker itself unbinds what belongs to a session that it removes.
    pub(super) fn starve_all(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let (feeds, worker) = (std::mem::take(&mut session.feeds), session.worker);
        for feed in feeds.into_iter().filter(|feed| feed.flows) {
            if let Some(worker) = worker {
                self.one_less(feed.sent, worker);
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
            // Of a backup: its shards are gone, and who was fed from it with them.
            session.feeds.iter_mut().filter(|feed| feed.sent == id).for_each(|feed| (feed.sent, feed.flows) = (feed.track, false));
        }
        self.free_tracks.push_back(id.slot);
        if let Some((backup, _)) = track.backup
            && let Some(other) = self.tracks.get_mut(&backup.slot).filter(|other| other.id == backup)
        {
            other.backs = None;
        }
        if let Some(first) = track.backs {
            if let Some(other) = self.tracks.get_mut(&first.slot).filter(|other| other.id == first) {
                other.backup = None;
            }
            self.fed_from(first).into_iter().for_each(|slot| self.let_flow(slot));
        }
    }
}

/// A viewer's m-line for a track, among those that the server sends on: the first on which it can be sent, else the first of its kind.
pub(super) fn line_for(lines: &[MediaConfig], track: &Track) -> Option<u16> {
    let alike = lines.iter().enumerate().filter(|(_, line)| line.kind == track.kind);
    let best = alike.min_by_key(|(_, line)| !decodable(line, &track.codec));
    best.map(|(index, _)| index as u16)
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
