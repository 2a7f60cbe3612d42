//! Whose datagram is it? A worker's table of credentials (before an address is known) and of addresses (after).
//!
//! Only authenticated checks add addresses, so a flood from unknown sources changes nothing here.

use std::collections::HashMap;
use std::net::SocketAddr;

use arrayvec::ArrayVec;
use rustc_hash::FxBuildHasher;

use super::mail::{IcePassword, Ufrag};
use crate::limits::{ADDRESSES_PER_PEER, SESSIONS_MAX};
use crate::units::{PeerId, WorkerId};

/// Where the session of an address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Here(PeerId),
    /// Another worker claimed it: its flow hash and this packet's differ (a second candidate pair, a roaming client).
    There(WorkerId, PeerId),
}

#[derive(Clone, Copy)]
struct Credentials {
    peer: PeerId,
    password: IcePassword,
}

/// The tables. Both are made with room for their limit, so they never grow in a turn.
pub struct Directory {
    users: HashMap<Ufrag, Credentials, FxBuildHasher>,
    addresses: HashMap<SocketAddr, Place, FxBuildHasher>,
    /// By slot: the addresses of a session that lives elsewhere, oldest first. As few as its owner remembers, so that one member
    /// with many source ports does not use up the table.
    elsewhere: HashMap<u32, Elsewhere, FxBuildHasher>,
}

struct Elsewhere {
    peer: PeerId,
    addresses: ArrayVec<SocketAddr, ADDRESSES_PER_PEER>,
}

impl Directory {
    /// For at most `sessions` sessions in all.
    pub fn new(sessions: usize) -> Self {
        let sessions = sessions.min(SESSIONS_MAX);
        Directory {
            // Twice: an ICE restart adds a second pair of credentials. hashbrown reuses deleted entries in place up to half load.
            users: HashMap::with_capacity_and_hasher(4 * sessions, FxBuildHasher),
            addresses: HashMap::with_capacity_and_hasher(2 * sessions + ADDRESSES_PER_PEER, FxBuildHasher),
            elsewhere: HashMap::with_capacity_and_hasher(2 * sessions, FxBuildHasher),
        }
    }

    /// False if the table is full.
    pub fn expect(&mut self, ufrag: Ufrag, peer: PeerId, password: IcePassword) -> bool {
        if self.users.len() >= self.users.capacity() / 2 && !self.users.contains_key(&ufrag) {
            return false;
        }
        self.users.insert(ufrag, Credentials { peer, password });
        true
    }

    pub fn forget_user(&mut self, ufrag: &Ufrag) {
        self.users.remove(ufrag);
    }

    /// The session and password of a local user name fragment.
    pub fn user(&self, ufrag: &str) -> Option<(PeerId, IcePassword)> {
        let credentials = self.users.get(&Ufrag::from(ufrag).ok()?)?;
        Some((credentials.peer, credentials.password))
    }

    pub fn place(&self, address: &SocketAddr) -> Option<Place> {
        self.addresses.get(address).copied()
    }

    /// Remembers an address. When the table is full it stays unknown, and the client's next check tries again.
    pub fn learn(&mut self, address: SocketAddr, place: Place) {
        if self.addresses.len() >= self.addresses.capacity() / 2 && !self.addresses.contains_key(&address) {
            return;
        }
        if let Place::There(_, peer) = place {
            self.note_elsewhere(address, peer);
        }
        self.addresses.insert(address, place);
    }

    /// Notes an address of a session that lives elsewhere; its oldest one is forgotten for it.
    fn note_elsewhere(&mut self, address: SocketAddr, peer: PeerId) {
        if self.elsewhere.get(&peer.slot).is_some_and(|known| known.peer != peer) {
            self.elsewhere.remove(&peer.slot);
        }
        let known = self.elsewhere.entry(peer.slot).or_insert_with(|| Elsewhere { peer, addresses: ArrayVec::new() });
        if known.addresses.contains(&address) {
            return;
        }
        let oldest = if known.addresses.is_full() { known.addresses.pop_at(0) } else { None };
        known.addresses.push(address);
        if let Some(oldest) = oldest {
            self.forget_there(&oldest, peer);
        }
    }

    fn forget_there(&mut self, address: &SocketAddr, peer: PeerId) {
        if matches!(self.addresses.get(address), Some(Place::There(_, other)) if *other == peer) {
            self.addresses.remove(address);
        }
    }

    /// Forgets an address if it still belongs to `peer`.
    pub fn forget_address(&mut self, address: &SocketAddr, peer: PeerId) {
        if let Some(Place::Here(owner)) = self.addresses.get(address)
            && *owner == peer
        {
            self.addresses.remove(address);
        }
    }

    /// Forgets the addresses of a session that lived elsewhere.
    pub fn forget_elsewhere(&mut self, peer: PeerId) {
        if self.elsewhere.get(&peer.slot).is_none_or(|known| known.peer != peer) {
            return;
        }
        for address in self.elsewhere.remove(&peer.slot).into_iter().flat_map(|known| known.addresses) {
            self.forget_there(&address, peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_their_session_and_leave_with_it() {
        let mut directory = Directory::new(8);
        let (a, b) = (PeerId { slot: 1, generation: 1 }, PeerId { slot: 2, generation: 1 });
        let address: SocketAddr = "127.0.0.1:5000".parse().expect("an address");
        directory.learn(address, Place::There(WorkerId(1), a));
        directory.learn(address, Place::Here(b));
        assert_eq!(directory.place(&address), Some(Place::Here(b)));
        directory.forget_address(&address, a);
        assert_eq!(directory.place(&address), Some(Place::Here(b)), "not its address any more");
        directory.learn(address, Place::There(WorkerId(1), a));
        directory.forget_elsewhere(a);
        assert_eq!(directory.place(&address), None);
    }

    #[test]
    fn a_session_elsewhere_has_a_bounded_number_of_addresses() {
        let mut directory = Directory::new(8);
        let peer = PeerId { slot: 1, generation: 1 };
        let addresses: Vec<SocketAddr> = (1..200).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        for address in &addresses {
            directory.learn(*address, Place::There(WorkerId(1), peer));
        }
        assert_eq!(directory.addresses.len(), ADDRESSES_PER_PEER);
        assert!(directory.place(&addresses[198]).is_some() && directory.place(&addresses[0]).is_none());
        directory.forget_elsewhere(peer);
        assert!(directory.addresses.is_empty() && directory.elsewhere.is_empty());
    }

    #[test]
    fn a_full_table_neither_grows_nor_loses_what_it_has() {
        let mut directory = Directory::new(4);
        let capacity = directory.users.capacity();
        let peer = PeerId::default();
        let mut kept = 0;
        for user in 0..1000 {
            let ufrag = Ufrag::from(&format!("user{user}")).expect("short");
            kept += directory.expect(ufrag, peer, IcePassword::new()) as usize;
        }
        assert_eq!(directory.users.capacity(), capacity);
        assert!(kept >= 8);
        assert!(directory.user("user0").is_some());
        assert!(directory.user("a name much longer than any of ours").is_none());
    }
}
