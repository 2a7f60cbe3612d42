//! The packets of a turn: where each datagram belongs, and the fan-out.

use std::net::SocketAddr;

use super::Worker;
use super::directory::Place;
use super::mail::{Event, HandshakeEvent, Mesh};
use crate::mem::PacketMut;
use crate::metrics::{Counter, DropReason};
use crate::rtp::config::MediaKind;
use crate::rtp::media::Media;
use crate::secure::ice;
use crate::units::{Micros, PeerId, TrackId, WorkerId};
use crate::wire::demux::{Protocol, classify};

/// Mesh items taken in one turn from each worker.
const MESH_PER_TURN: usize = 256;

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
                match peer.receive(packet, now, &self.metrics)? {
                    Some(media) => self.publish(media),
                    None => Ok(()),
                }
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

    /// Takes a session that nobody has yet. True if it is ours now.
    fn claim(&mut self, id: PeerId, from: SocketAddr, now: Micros) -> bool {
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
        let mut too_old = requests.too_old;
        for wanted in &requests.retransmissions {
            if !self.batch.has_room() {
                self.flush();
            }
            let shard = self.shards.get(wanted.source.track);
            let media = shard.and_then(|shard| shard.cache.get(wanted.sequence.0 as u32));
            let peer = self.peers.get_mut(id.slot as usize).and_then(Option::as_deref_mut);
            let sent = match (media, peer) {
                (Some(media), Some(peer)) => peer.retransmit(wanted.sender, media, &mut self.batch).is_ok(),
                _ => false,
            };
            if sent {
                self.metrics.add(Counter::Retransmitted, 1);
            } else {
                too_old += 1;
            }
        }
        if too_old > 0 {
            self.metrics.count_drops(DropReason::NackTooOld, too_old);
        }
        for track in &requests.key_frames {
            self.metrics.add(Counter::KeyFrameRequestsReceived, 1);
            self.want_key_frame(*track);
        }
        for (track, clock) in &requests.clocks {
            let others = self.shards.get(*track).map_or(0, |shard| shard.others);
            if let Some(shard) = self.shards.get_mut(*track) {
                shard.clock = Some(*clock);
            }
            self.tell_others(others, || Mesh::Clock { track: *track, clock: *clock });
        }
        self.requests = requests;
        outcome
    }

    /// A packet of a track that is published here: to this turn's fan-out, and to the workers with subscribers.
    fn publish(&mut self, media: Media) -> Result<(), DropReason> {
        let others = self.shards.get(media.track).map_or(0, |shard| shard.others);
        self.tell_others(others, || Mesh::Media(media.clone()));
        self.queue(media)
    }

    /// Adds a packet to this turn's fan-out; forwards first what is there when it is full.
    fn queue(&mut self, media: Media) -> Result<(), DropReason> {
        if self.media.is_full() {
            self.forward(media.arrival);
        }
        self.media.push(media, &mut self.shards)
    }

    fn tell_others(&mut self, others: u64, item: impl Fn() -> Mesh) {
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

    /// A key frame of a track is needed here: its publisher is asked, wherever it is.
    pub(super) fn want_key_frame(&mut self, track: TrackId) {
        let Some(shard) = self.shards.get(track) else { return };
        if shard.owner != self.id {
            let owner = shard.owner;
            return self.tell_others(1 << owner.0, || Mesh::KeyFrame { track });
        }
        let publisher = shard.publisher;
        if let Some(inbound) =
            self.peers.get_mut(publisher as usize).and_then(Option::as_deref_mut).and_then(|peer| peer.inbound.as_deref_mut())
        {
            inbound.want_key_frame(track);
        }
    }

    pub(super) fn read_mesh(&mut self, now: Micros) {
        for inbox in 0..self.mail.mesh_in.len() {
            for _ in 0..MESH_PER_TURN {
                let Ok(item) = self.mail.mesh_in[inbox].pop() else { break };
                let outcome = match item {
                    Mesh::Media(media) => self.queue(media),
                    Mesh::Datagram { peer, packet, from } => self.handed(peer, &packet, from, now),
                    Mesh::KeyFrame { track } => {
                        self.want_key_frame(track);
                        Ok(())
                    }
                    Mesh::Clock { track, clock } => {
                        if let Some(shard) = self.shards.get_mut(track) {
                            shard.clock = Some(clock);
                        }
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
        for track in self.media.tracks() {
            for subscriber in self.shards.subscribers(*track) {
                let Some(peer) = self.peers.get_mut(subscriber.peer as usize).and_then(Option::as_deref_mut) else { continue };
                if peer.turn_mark != self.turns {
                    peer.turn_mark = self.turns;
                    self.receivers.push(subscriber.peer);
                }
            }
        }
        let mut receivers = std::mem::take(&mut self.receivers);
        for slot in receivers.drain(..) {
            self.serve(slot);
        }
        self.receivers = receivers;
        self.media.finish(&mut self.shards);
        // A second fan-out in the same turn marks its receivers anew.
        self.turns += 1;
    }

    /// Sends one receiver its packets of this turn.
    fn serve(&mut self, slot: u32) {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        if !peer.has_keys() {
            return;
        }
        let mut forwarded = 0;
        // Video first: a shorter packet can only be the last of a train.
        let all = 0..peer.senders.len() as u16;
        let kinds = [MediaKind::Video, MediaKind::Audio];
        for (kind, index) in kinds.into_iter().flat_map(|kind| all.clone().map(move |index| (kind, index))) {
            let sender = &peer.senders[index as usize];
            let Some(binding) = sender.binding().filter(|_| sender.kind == kind) else { continue };
            let Some(shard) = self.shards.get(binding.track) else { continue };
            for media in self.media.packets(shard) {
                if !self.batch.has_room() {
                    self.io.send(&mut self.batch, &self.metrics);
                    self.batch.clear();
                }
                match peer.forward(index, media, &mut self.batch) {
                    Ok(()) => forwarded += 1,
                    Err(reason) => self.metrics.count_drop(reason),
                }
            }
        }
        self.metrics.add(Counter::MediaForwarded, forwarded);
    }
}
