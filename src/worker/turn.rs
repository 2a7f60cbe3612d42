//! The packets of a turn: where each datagram belongs, and the fan-out.

use std::net::SocketAddr;

use super::Worker;
use super::directory::Place;
use super::mail::{Event, HandshakeEvent, Mesh};
use super::pace::{self, Pace};
use super::tap::Tapped;
use crate::io::Io;
use crate::limits::QUALITIES_MAX;
use crate::mem::{PacketMut, SendBatch, prefetch};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::peer::Peer;
use crate::room::shard::Subscriber;
use crate::rtp::config::MediaKind;
use crate::rtp::media::Media;
use crate::rtp::red::Recent;
use crate::rtp::report::SenderClock;
use crate::secure::ice;
use crate::units::{Micros, PeerId, TrackId, WorkerId};
use crate::wire::demux::{Protocol, classify};

/// Mesh items taken in one turn from each worker.
const MESH_PER_TURN: usize = 256;
/// So many receivers before its turn a peer is fetched into the cache,
const PEER_AHEAD: usize = 8;
/// and what it points to, its keys and its sender.
const PARTS_AHEAD: usize = 2;

impl Worker {
    /// Takes one datagram to where it belongs. Whatever cannot be used is counted.
    pub(super) fn datagram(&mut self, packet: PacketMut, from: SocketAddr, now: Micros) {
        let outcome = match classify(packet.bytes()) {
            Ok(Protocol::Stun) => self.stun(packet, from, now),
            Ok(protocol) => match self.directory.place(&from) {
                Some(Place::Here(peer)) => self.of_peer(peer, protocol, packet, now),
                Some(Place::There(worker, peer)) => self.hand_over(worker, peer, packet, from),
                None => Err(DropReason::UnknownSource),
            },
            Err(reason) => Err(reason),
        };
        if let Err(reason) = outcome {
            self.drop(reason);
        }
    }

    /// A datagram of a session that lives here.
    fn of_peer(&mut self, id: PeerId, protocol: Protocol, packet: PacketMut, now: Micros) -> Result<(), DropReason> {
        match protocol {
            Protocol::Rtp => {
                let peer = self.peers.get_mut(id.slot as usize).and_then(Option::as_deref_mut);
                let peer = peer.filter(|peer| peer.id == id).ok_or(DropReason::UnknownSource)?;
                let media = peer.receive(packet, now, &self.metrics)?;
                while let Some(recovered) = self.peer(id).and_then(Peer::recovered) {
                    if let Err(reason) = self.publish(recovered) {
                        self.drop(reason);
                    }
                }
                self.publish(media)
            }
            Protocol::Rtcp => self.rtcp(id, packet, now),
            Protocol::Dtls => {
                let record = HandshakeEvent::Datagram { peer: id, packet: packet.freeze(), at: now };
                self.mail.handshakes(id).push(record).map_err(|_| DropReason::EventsFull)
            }
            Protocol::Stun => Err(DropReason::StunUnexpected),
        }
    }

    /// A connectivity check: the way in for every session (RFC 8445 §7.3, as an ICE-lite agent).
    fn stun(&mut self, packet: PacketMut, from: SocketAddr, now: Micros) -> Result<(), DropReason> {
        let request = ice::Check::parse(packet.bytes())?;
        let (id, password) = self.directory.user(request.local_ufrag()).ok_or(DropReason::StunUnknownUser)?;
        let key = ice::IntegrityKey::new(password.as_bytes());
        if !request.authentic(&key) {
            return Err(DropReason::StunUnauthenticated);
        }
        if request.accepted() && self.peer(id).is_none() && !self.claim(id, from, now) {
            // Claimed by another worker: its answers leave from the same address and port as ours would.
            let owner = self.handoff.owner(id.slot).filter(|owner| *owner != self.id).ok_or(DropReason::StunUnknownUser)?;
            self.directory.learn(from, Place::There(owner, id));
            return self.hand_over(owner, id, packet, from);
        }
        if !self.batch.has_room() {
            self.flush();
        }
        let len = request.answer(&key, from, self.batch.space()).ok_or(DropReason::StunMalformed)?;
        self.batch.commit(from, len);
        self.metrics.add(Counter::StunRequests, 1);
        if request.accepted() {
            self.accept(id, from, request.nominates(), now);
        }
        Ok(())
    }

    /// Takes a session that nobody has yet into the tables. True if it is ours now.
    pub(super) fn take(&mut self, id: PeerId) -> bool {
        let Some(place) = self.peers.get_mut(id.slot as usize) else { return false };
        if place.is_some() {
            // The slot's former tenant has not been removed here yet.
            return false;
        }
        let Some(peer) = self.handoff.claim(id.slot, self.id) else { return false };
        let publishes = peer.inbound.is_some();
        *place = Some(peer);
        self.owned.push(id.slot);
        if publishes {
            self.publishers.push(id.slot);
        }
        true
    }

    /// Takes a session whose client's first check has come. True if it is ours now.
    fn claim(&mut self, id: PeerId, from: SocketAddr, now: Micros) -> bool {
        if !self.take(id) {
            return false;
        }
        self.metrics.add(Counter::SessionsClaimed, 1);
        self.accept(id, from, false, now);
        let announced = self.announce(id.slot);
        if let Some(peer) = self.peer(id) {
            peer.announced = announced;
        }
        true
    }

    /// Follows an authenticated check: its address belongs to the session.
    fn accept(&mut self, id: PeerId, from: SocketAddr, nominated: bool, now: Micros) {
        let Some(peer) = self.peer(id) else { return };
        let checked = peer.checked(from, nominated, now);
        if let Some(forgotten) = checked.forgotten {
            self.directory.forget_address(&forgotten, id);
        }
        if self.directory.place(&from) != Some(Place::Here(id)) {
            self.directory.learn(from, Place::Here(id));
        }
        if checked.moved {
            self.metrics.add(Counter::AddressChanges, 1);
            // The statistics of the next second tell the address too, so this one may be left out when the ring is busy.
            if self.mail.events.has_spare() {
                let _ = self.mail.events.push(Event::Moved { peer: id, address: from });
            }
        }
    }

    fn hand_over(&mut self, worker: WorkerId, peer: PeerId, packet: PacketMut, from: SocketAddr) -> Result<(), DropReason> {
        let outbox = self.mail.mesh_out.get_mut(worker.0 as usize).and_then(Option::as_mut).ok_or(DropReason::UnknownSource)?;
        outbox.push(Mesh::Datagram { peer, packet: packet.freeze(), from }).map_err(|_| DropReason::MeshFull)?;
        self.metrics.add(Counter::HandedOver, 1);
        Ok(())
    }

    fn rtcp(&mut self, id: PeerId, packet: PacketMut, now: Micros) -> Result<(), DropReason> {
        let mut requests = std::mem::take(&mut self.requests);
        requests.clear();
        let outcome = self.peer(id).ok_or(DropReason::UnknownSource).and_then(|peer| peer.feedback(packet, now, &mut requests));
        self.metrics.add(Counter::RtcpReceived, 1);
        self.metrics.add(Counter::NacksReceived, requests.nacks);
        self.metrics.add(Counter::PathFeedback, requests.path_feedback);
        let mut too_old = requests.too_old;
        for wanted in &requests.retransmissions {
            if !self.batch.has_room() {
                self.flush();
            }
            let shard = self.shards.get(wanted.source.track);
            let encoding = shard.and_then(|shard| shard.encodings.get(wanted.source.encoding as usize));
            let media = encoding.and_then(|encoding| encoding.cache.get(wanted.sequence.0 as u32));
            let peer = self.peers.get_mut(id.slot as usize).and_then(Option::as_deref_mut);
            let sent = match (media, peer) {
                (Some(media), Some(peer)) => peer.retransmit(wanted.sender, media, wanted.asked, now, &mut self.batch),
                _ => Err(DropReason::NackTooOld),
            };
            match sent {
                Ok(()) => self.metrics.add(Counter::Retransmitted, 1),
                Err(DropReason::RetransmissionLimit) => self.metrics.count_drop(DropReason::RetransmissionLimit),
                Err(_) => too_old += wanted.asked as u64,
            }
        }
        if too_old > 0 {
            self.metrics.count_drops(DropReason::NackTooOld, too_old);
        }
        for (track, encoding) in &requests.key_frames {
            self.metrics.add(Counter::KeyFrameRequestsReceived, 1);
            self.want_key_frame(*track, *encoding);
        }
        for (track, encoding, clock) in &requests.clocks {
            let (others, tapped) = self.readers_of(*track);
            self.set_clock(*track, *encoding, *clock);
            self.tell_others(others, || Mesh::Clock { track: *track, encoding: *encoding, clock: *clock });
            if tapped {
                self.tap(Tapped::Clock { track: *track, encoding: *encoding, clock: *clock });
            }
        }
        let told = requests.path_feedback > 0;
        self.requests = requests;
        if told && self.peer(id).and_then(|peer| peer.path.as_deref_mut()).is_some_and(|path| path.is_new(now)) {
            self.aim(id.slot, now);
        }
        outcome
    }

    /// A packet of a track that is published here: to this turn's fan-out, and to the workers with subscribers.
    pub(super) fn publish(&mut self, media: Media) -> Result<(), DropReason> {
        let (others, tapped) = self.readers_of(media.track);
        self.tell_others(others, || Mesh::Media(media.clone()));
        if tapped {
            self.tap(Tapped::Media(media.clone()));
        }
        self.queue(media)
    }

    /// The other workers that a track of this one goes to, and whether the tap does.
    fn readers_of(&self, track: TrackId) -> (u64, bool) {
        self.shards.get(track).map_or((0, false), |shard| (shard.others, shard.tapped))
    }

    #[inline(never)] // few tracks are tapped
    pub(super) fn tap(&mut self, item: Tapped) {
        let Some(outbox) = &mut self.mail.tap else { return };
        match outbox.push(item) {
            Ok(()) => self.metrics.add(Counter::Tapped, 1),
            Err(_) => self.metrics.count_drop(DropReason::TapFull),
        }
    }

    /// Begins to tap a track.
    pub(super) fn begin_tap(&mut self, track: TrackId) {
        let Some(shard) = self.shards.get_mut(track) else { return };
        shard.tapped = true;
        let (encodings, clocks) = (shard.encodings.len() as u8, shard.clocks);
        for encoding in 0..encodings {
            if let Some(clock) = clocks.get(encoding as usize).copied().flatten() {
                self.tap(Tapped::Clock { track, encoding, clock });
            }
            self.want_key_frame(track, encoding);
        }
    }

    /// Adds a packet to this turn's fan-out; forwards first what is there when it is full.
    fn queue(&mut self, media: Media) -> Result<(), DropReason> {
        if self.media.is_full() {
            self.forward(media.arrival);
        }
        self.media.push(media, &mut self.shards)
    }

    pub(super) fn tell_others(&mut self, others: u64, item: impl Fn() -> Mesh) {
        let mut left = others;
        while left != 0 {
            let worker = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some(outbox) = self.mail.mesh_out.get_mut(worker).and_then(Option::as_mut) else { continue };
            match outbox.push(item()) {
                Ok(()) => self.metrics.add(Counter::MeshSent, 1),
                Err(_) => self.metrics.count_drop(DropReason::MeshFull),
            }
        }
    }

    fn set_clock(&mut self, track: TrackId, encoding: u8, clock: SenderClock) {
        if let Some(place) = self.shards.get_mut(track).and_then(|shard| shard.clocks.get_mut(encoding as usize)) {
            *place = Some(clock);
        }
    }

    /// A key frame of a track's encoding is needed here: its publisher is asked, wherever it is.
    pub(super) fn want_key_frame(&mut self, track: TrackId, encoding: u8) {
        let Some(shard) = self.shards.get(track) else { return };
        if shard.owner != self.id {
            let owner = shard.owner;
            return self.tell_others(1 << owner.0, || Mesh::KeyFrame { track, encoding });
        }
        let publisher = shard.publisher;
        if let Some(inbound) =
            self.peers.get_mut(publisher as usize).and_then(Option::as_deref_mut).and_then(|peer| peer.inbound.as_deref_mut())
        {
            inbound.want_key_frame(track, encoding);
        }
    }

    pub(super) fn read_mesh(&mut self, now: Micros) {
        for inbox in 0..self.mail.mesh_in.len() {
            for _ in 0..MESH_PER_TURN {
                let Ok(item) = self.mail.mesh_in[inbox].pop() else { break };
                let outcome = match item {
                    Mesh::Media(media) => self.queue(media),
                    Mesh::Datagram { peer, packet, from } => self.handed(peer, &packet, from, now),
                    Mesh::KeyFrame { track, encoding } => {
                        self.want_key_frame(track, encoding);
                        Ok(())
                    }
                    Mesh::Clock { track, encoding, clock } => {
                        self.set_clock(track, encoding, clock);
                        Ok(())
                    }
                    Mesh::Layers { track, layers } => {
                        self.layers(track, layers, now);
                        Ok(())
                    }
                };
                if let Err(reason) = outcome {
                    self.drop(reason);
                }
            }
        }
    }

    /// A datagram that another worker received for a session of ours. It lies in the other's arena, read-only, so it is
    /// copied: this is the rare path.
    fn handed(&mut self, peer: PeerId, packet: &crate::mem::Packet, from: SocketAddr, now: Micros) -> Result<(), DropReason> {
        self.peer(peer).ok_or(DropReason::UnknownSource)?;
        let mut own = self.io.take_slot().ok_or(DropReason::ArenaExhausted)?;
        own.fill(packet.bytes());
        match classify(own.bytes())? {
            Protocol::Stun => self.stun(own, from, now),
            protocol => self.of_peer(peer, protocol, own, now),
        }
    }

    /// The fan-out of a turn: receiver by receiver, all packets for one together.
    pub(super) fn forward(&mut self, now: Micros) {
        if !self.media.select(now, self.hold.bound(), &mut self.shards) {
            return;
        }
        let mut fanout = std::mem::take(&mut self.fanout);
        // Video first: a shorter packet can only be the last of a train.
        for video in [true, false] {
            for (track, encoding) in self.media.tracks() {
                let Some(shard) = self.shards.get(*track).filter(|shard| shard.has_frames == video) else { continue };
                // All encodings of a track at once, when its first one comes by.
                let due = shard.due();
                if due.trailing_zeros() == u32::from(*encoding) {
                    self.shards.receivers(*track, due).for_each(|subscriber| fanout.add(subscriber));
                }
            }
        }
        for at in 0..fanout.len() {
            let ahead = |by: usize| self.peers.get(fanout.peer(at + by)? as usize)?.as_deref();
            if let Some(peer) = ahead(PEER_AHEAD) {
                prefetch(peer, 1);
            }
            if let Some(peer) = ahead(PARTS_AHEAD) {
                peer.prefetch(fanout.senders(at + PARTS_AHEAD));
            }
            if let Some(slot) = fanout.peer(at) {
                self.serve(slot, fanout.senders(at), now);
            }
        }
        fanout.clear();
        self.fanout = fanout;
        self.media.finish(&mut self.shards);
    }

    /// Sends one receiver its packets of this turn: those of the tracks that these m-lines are fed from.
    fn serve(&mut self, slot: u32, senders: impl Iterator<Item = u16>, now: Micros) {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        if !peer.has_keys() {
            return;
        }
        let left = peer.path.as_deref_mut().map_or(i64::MAX, |path| path.allowance(now));
        let (io, batch, pace, metrics) = (&mut self.io, &mut self.batch, &mut self.pace, &self.metrics);
        let mut outlet = Outlet { io, batch, pace, metrics, now, left, forwarded: 0 };
        for index in senders {
            let Some(sender) = peer.senders.get(index as usize) else { continue };
            let (kind, Some(binding)) = (sender.kind, sender.binding()) else { continue };
            let Some(shard) = self.shards.get(binding.track) else { continue };
            let (given, count) = (sender.encodings(), sender.earlier());
            // What flows goes before what it may change to.
            let flowing = sender.flowing().map_or(0, |(source, ..)| 1 << source.encoding);
            for encodings in [flowing, given & !flowing] {
                let Some(encoding) = encodings.checked_ilog2() else { continue };
                let Some(cache) = shard.encodings.get(encoding as usize).map(|encoding| &encoding.cache) else { continue };
                let mut recent = Recent::new(cache);
                for media in self.media.packets(shard, encoding as u8) {
                    let earlier = if count > 0 { recent.before(media, count) } else { Default::default() };
                    outlet.give(peer, index, kind, media, &shard.clocks, &earlier);
                }
            }
            let sender = &peer.senders[index as usize];
            let now_given = sender.encodings();
            if now_given != given {
                self.shards.give(sender.link, Subscriber { peer: slot, sender: index }, now_given);
            }
        }
        let probes = peer.path.as_deref().is_some_and(|path| path.wants_probe());
        self.metrics.add(Counter::MediaForwarded, outlet.forwarded);
        if probes {
            self.begin_probe(slot, now);
        }
    }
}

/// The way out for one receiver's packets.
pub(super) struct Outlet<'a> {
    pub io: &'a mut Io,
    pub batch: &'a mut SendBatch,
    pub pace: &'a mut Pace,
    pub metrics: &'a WorkerMetrics,
    pub now: Micros,
    /// Bytes of video that may leave now; what comes after them waits.
    pub left: i64,
    /// Packets that left.
    pub forwarded: u64,
}

impl Outlet<'_> {
    /// Sends a packet of a track to the receiver, or lets it wait. `earlier`: as [`Peer::send`].
    #[inline(always)] // the fan-out's innermost step
    pub fn give(
        &mut self,
        peer: &mut Peer,
        index: u16,
        kind: MediaKind,
        media: &Media,
        clocks: &[Option<SenderClock>; QUALITIES_MAX],
        earlier: &[&Media],
    ) {
        if !self.batch.has_room() {
            self.io.send(self.batch, self.metrics);
            self.batch.clear();
        }
        // Sound never waits.
        let waits = self.left <= 0 && kind == MediaKind::Video;
        if waits && pace::overflows(peer, index, media) {
            return self.metrics.count_drop(DropReason::PacerFull);
        }
        if waits && media.key_frame && pace::lowers(peer, index, media) {
            self.pace.cut(peer, index);
        }
        let numbers = match peer.take(index, media, clocks) {
            Ok(Some(numbers)) => numbers,
            Ok(None) => return,
            Err(reason) => return self.metrics.count_drop(reason),
        };
        if waits {
            return self.pace.hold(peer, index, media, numbers, self.now + pace::INTERVAL, self.metrics);
        }
        self.left = self.left.saturating_sub(media.payload_len as i64);
        match peer.send(index, media, &numbers, earlier, self.now, self.batch) {
            Ok(()) => self.forwarded += 1,
            Err(reason) => self.metrics.count_drop(reason),
        }
    }
}
