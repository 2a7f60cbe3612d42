//! One session on the worker that owns it: its addresses, its keys, what it sends and what it is sent.
//!
//! A [`Peer`] is made by the control plane, boxed, handed to the worker that claims it, and given back boxed when it ends.
//! Nothing here does I/O: functions take `now` and a batch to write into, and return what the worker has to do next.
//!
//! A packet on its way to a receiver touches one cache line of its `Peer` and three of its [`Sender`], and at most nine with its
//! key in [`srtp`]; where the path's bandwidth is estimated, two of its [`Path`] and one of that one's history too. The layouts are
//! asserted where they are declared.

pub mod feedback;
pub mod path;
pub mod receive;
pub mod send;

use std::mem::offset_of;
use std::net::SocketAddr;

use arrayvec::ArrayVec;

use crate::limits::{ADDRESSES_PER_PEER, CACHE_LINE_BYTES, CONSENT_MILLIS_MAX};
use crate::mem::{SendBatch, prefetch};
use crate::rtp::config::MediaConfig;
use crate::secure::srtp;
use crate::units::{Micros, PeerId, Ssrc, TrackId};
use path::Path;
use receive::Inbound;
use send::Sender;

/// Keys of both directions, made by the slow path when DTLS ends.
#[repr(C)] // the direction of most packets first
pub struct Keys {
    pub outbound: srtp::Sender,
    pub inbound: srtp::Receiver,
}

const _: () = assert!(offset_of!(Keys, outbound) == 0);

/// One session. The first cache line is all that sending to it touches here.
#[repr(C, align(64))]
pub struct Peer {
    /// Where packets go: the remote end of the candidate pair of the last nominating check.
    address: Option<SocketAddr>,
    keys: Option<Box<Keys>>,
    pub senders: Box<[Sender]>,
    /// What is known of the way to a viewer, if it tells.
    pub path: Option<Box<Path>>,

    pub id: PeerId,
    /// Remote addresses that passed an authenticated check, newest last.
    checked: ArrayVec<SocketAddr, ADDRESSES_PER_PEER>,
    /// The last authentic word of the client.
    last_heard: Micros,
    /// Set for a session that publishes.
    pub inbound: Option<Box<Inbound>>,
    /// The SSRC under which the server sends RTCP to this session.
    rtcp_ssrc: Ssrc,
    /// The slow path knows who claimed this session.
    pub announced: bool,
}

const _: () = assert!(offset_of!(Peer, path) < CACHE_LINE_BYTES && offset_of!(Peer, id) == CACHE_LINE_BYTES);

/// What a further negotiation makes of a session. Made by the control plane with room for all of it, so that the worker allocates nothing;
/// what it replaces goes back in the same box.
pub struct Growth {
    /// The senders that are new, and room for all.
    new: Vec<Sender>,
    room: Vec<Sender>,
    /// Those that take the place of others: they send under other SSRCs.
    replaced: Vec<(u16, Sender)>,
    /// All that the client sends.
    inbound: Box<Inbound>,
    path: Option<Box<Path>>,
}

impl Growth {
    /// `media`: all m-lines that are agreed on; `sent`: those the server sends on, by sender, of which it had the first `before` already,
    /// but for those that `replaced` names: they have other SSRCs now. `tracks`: as in [`Peer::new`].
    pub fn new(
        media: &[MediaConfig],
        tracks: &[TrackId],
        sent: &[MediaConfig],
        before: usize,
        replaced: &[u16],
        mut seed: impl FnMut() -> u64,
    ) -> Self {
        let (old, new) = sent.split_at(before.min(sent.len()));
        let new: Vec<Sender> = new.iter().filter_map(|media| Sender::new(media, seed())).collect();
        let room = Vec::with_capacity(before + new.len());
        let of = |index: &u16| Some((*index, Sender::new(old.get(*index as usize)?, seed())?));
        let replaced = replaced.iter().filter_map(of).collect();
        Growth { new, room, replaced, inbound: Box::new(Inbound::new(media, tracks)), path: Path::new(media, seed()) }
    }
}

/// What an accepted STUN check changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// First time this address was seen for this session.
    pub new_address: bool,
    /// An address that had to be forgotten for it.
    pub forgotten: Option<SocketAddr>,
    /// Packets now go elsewhere than before.
    pub moved: bool,
}

impl Peer {
    /// `tracks` are the ids given to the m-lines the client sends, in order; none if it will never send any. `seed` makes the first
    /// random numbers.
    pub fn new(
        id: PeerId,
        media: &[MediaConfig],
        tracks: Option<&[TrackId]>,
        rtcp_ssrc: Ssrc,
        mut seed: impl FnMut() -> u64,
    ) -> Self {
        let inbound = tracks.map(|tracks| Box::new(Inbound::new(media, tracks)));
        let senders = media.iter().filter_map(|media| Sender::new(media, seed())).collect();
        let path = Path::new(media, seed());
        Peer {
            address: None,
            keys: None,
            senders,
            id,
            path,
            checked: ArrayVec::new(),
            last_heard: Micros::ZERO,
            inbound,
            rtcp_ssrc,
            announced: false,
        }
    }

    /// Follows a further negotiation. The senders there were keep their places and their state.
    pub fn grow(&mut self, growth: &mut Growth) {
        if growth.room.capacity() < self.senders.len() + growth.new.len() {
            return;
        }
        let mut before = std::mem::take(&mut self.senders).into_vec();
        growth.room.append(&mut before);
        growth.room.append(&mut growth.new);
        // As long as its room: nothing is allocated. The empty vector of before is given back.
        self.senders = std::mem::replace(&mut growth.room, before).into_boxed_slice();
        for (index, sender) in &mut growth.replaced {
            // What it was fed from has been unbound.
            if let Some(own) = self.senders.get_mut(*index as usize).filter(|own| own.binding().is_none()) {
                std::mem::swap(own, sender);
            }
        }
        if let Some(inbound) = self.inbound.as_deref_mut() {
            let mut keys = self.keys.as_deref_mut();
            inbound.renew(&mut growth.inbound, |ssrc| {
                if let Some(keys) = keys.as_deref_mut() {
                    keys.inbound.forget(ssrc);
                }
            });
        }
        if self.path.is_none() {
            self.path = growth.path.take();
        }
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Addresses this session has been reached at.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.checked
    }

    /// An authenticated STUN check came from `from` (RFC 8445 §7.3). The first checked address is used at once, as an ICE-lite
    /// agent may; after that the nominated one, so that a client that moves takes its stream with it.
    pub fn checked(&mut self, from: SocketAddr, nominated: bool, now: Micros) -> Checked {
        self.last_heard = now;
        let mut outcome = Checked::default();
        if !self.checked.contains(&from) {
            outcome.new_address = true;
            if self.checked.is_full() {
                // Never the one in use.
                let index = self.checked.iter().position(|address| Some(*address) != self.address).unwrap_or(0);
                outcome.forgotten = Some(self.checked.remove(index));
            }
            self.checked.push(from);
        }
        if self.address.is_none() || (nominated && self.address != Some(from)) {
            outcome.moved = self.address.is_some();
            self.address = Some(from);
        }
        outcome
    }

    /// The client has been silent for too long. Consent is renewed by its connectivity checks (RFC 7675 §5.1); but a lite agent
    /// makes no checks of its own, and clients without RFC 7675 (GStreamer 1.22's webrtcbin) make none after the
    /// first. So whatever of theirs is authentic, SRTP and SRTCP too, counts: it proves as well that they are there and want it.
    pub fn expired(&self, now: Micros) -> bool {
        now.since(self.last_heard) > CONSENT_MILLIS_MAX * 1_000
    }

    /// Asks for what sending on these m-lines will read, but for the peer itself: that has to be there.
    #[inline(always)]
    pub fn prefetch(&self, senders: impl Iterator<Item = u16>) {
        for sender in senders.filter_map(|sender| self.senders.get(sender as usize)) {
            prefetch(sender, 3);
        }
        if let Some(keys) = self.keys.as_deref() {
            prefetch(&keys.outbound, 9);
        }
        if let Some(path) = self.path.as_deref() {
            prefetch(path, 2);
        }
    }

    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Installs keys; returns the ones they replace.
    pub fn set_keys(&mut self, keys: Box<Keys>) -> Option<Box<Keys>> {
        self.keys.replace(keys)
    }

    /// Encrypts the RTCP that `write` puts into the batch, and adds it. Nothing is sent before keys and address are known.
    fn send_rtcp(&mut self, batch: &mut SendBatch, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let (Some(to), Some(keys)) = (self.address, self.keys.as_deref_mut()) else { return false };
        if !batch.has_room() {
            return false;
        }
        let space = batch.space();
        let sealed = write(space).filter(|len| *len > 0).and_then(|len| keys.outbound.protect_rtcp(space, len));
        let Some(len) = sealed else { return false };
        batch.commit(to, len);
        true
    }
}
