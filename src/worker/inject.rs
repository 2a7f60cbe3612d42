//! Publishers that are no clients: a program that embeds the library, or a service beside the worker, gives packets in the clear.
//!
//! To everybody else such a session is one like others. It is agreed on by an offer, as WHIP's are, and waits to be claimed; but what claims
//! it is its first packet ([`Command::Inject`](super::mail::Command::Inject)) and not a connectivity check, and it has no address and no
//! keys. What would be asked of a client by RTCP is told through the tap: that a key frame is needed. Nothing is asked for again: a ring
//! loses nothing without saying so.

use std::net::{Ipv4Addr, SocketAddr};

use super::Worker;
use super::mail::{Event, Ufrag};
use super::tap::Tapped;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::metrics::{Counter, DropReason};
use crate::units::{Micros, PeerId};

/// In place of a client's, for logs.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Worker {
    /// Takes in a packet of a session that is published by whoever writes to this worker's ring.
    pub(super) fn inject(&mut self, ufrag: &Ufrag, bytes: &[u8], now: Micros) -> Result<(), DropReason> {
        let (id, _) = self.directory.user(ufrag).ok_or(DropReason::UnknownSource)?;
        if self.peer(id).is_none() {
            self.adopt(id)?;
        }
        let mut packet = self.io.take_slot().ok_or(DropReason::ArenaExhausted)?;
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(DropReason::RtpMalformed);
        }
        packet.fill(bytes);
        let peer = self.peers.get_mut(id.slot as usize).and_then(Option::as_deref_mut).ok_or(DropReason::UnknownSource)?;
        let media = peer.inject(packet, now, &self.metrics)?;
        self.publish(media)
    }

    /// Claims a session that no client will.
    fn adopt(&mut self, id: PeerId) -> Result<(), DropReason> {
        if !self.take(id) {
            return Err(DropReason::UnknownSource);
        }
        self.metrics.add(Counter::SessionsClaimed, 1);
        // Not to the handshakes: there will be none.
        let announced = self.mail.events.push(Event::Claimed { peer: id, worker: self.id, address: NOWHERE }).is_ok();
        if let Some(peer) = self.peer(id) {
            peer.announced = announced;
        }
        Ok(())
    }

    /// Tells who injects of the key frames that are needed.
    pub(super) fn tell_injector(&mut self, slot: usize, now: Micros) {
        while let Some((publisher, (track, encoding))) =
            self.peers[slot].as_deref_mut().and_then(|peer| Some((peer.id, peer.key_frame_to_inject(now)?)))
        {
            self.tap(Tapped::KeyFrame { publisher, track, encoding });
        }
    }
}
