//! Tracks that are silent when a member begins to watch them: muted from the start, most of all.
//!
//! Some clients learn of a track by its first packet alone (Pion's `OnTrack`, and LiveKit's SDKs on it), and would not know of a silent one
//! until it is heard. So a member's m-line that has sent nothing yet, and whose track stays silent for some ticks, is sent packets
//! of nothing for five seconds: one of them will arrive. Media that begins then goes on from their numbers, and ends them. Whoever is sent
//! media at once, as nearly all are, gets none.

use super::Worker;
use crate::limits::FILLS_MAX;
use crate::metrics::Counter;
use crate::room::shard::Subscriber;
use crate::units::{Micros, PeerId};

/// Ticks of the worker between two looks: a tenth of a second.
pub(super) const TICKS: usize = 10;
/// Looks at which a track has to be silent before the first packet is sent.
const PATIENCE: u8 = 2;
/// Looks at which one is sent.
const PACKETS: u8 = 50;
/// A track of which nothing came for so long is silent now.
const SILENT_MICROS: u64 = 200_000;

const _: () = assert!(super::SWEEP_TICKS.is_multiple_of(TICKS));

/// A subscription that has been sent nothing of its track.
pub(super) struct Fill {
    peer: PeerId,
    sender: u16,
    /// Looks at which its track was silent, and packets of nothing it was sent.
    silent: u8,
    sent: u8,
}

impl Worker {
    /// A member is subscribed to a track by an m-line that may never have sent anything.
    pub(super) fn begin_fill(&mut self, subscriber: Subscriber, peer: PeerId) {
        let sender = subscriber.sender;
        let is_new = self.peer(peer).and_then(|peer| peer.senders.get(sender as usize)).is_some_and(|own| own.stats.packets == 0);
        // One that is listed twice is soon found to have been sent something.
        if is_new && self.fills.len() < FILLS_MAX {
            self.fills.push(Fill { peer, sender, silent: 0, sent: 0 });
        }
    }

    /// Ten times a second: a packet for each subscription whose track is silent.
    pub(super) fn fill(&mut self, now: Micros) {
        let mut fills = std::mem::take(&mut self.fills);
        fills.retain_mut(|fill| self.fill_one(fill, now));
        self.fills = fills;
    }

    /// False if it needs no more.
    fn fill_one(&mut self, fill: &mut Fill, now: Micros) -> bool {
        if !self.batch.has_room() {
            self.flush();
        }
        let peer = self.peers.get_mut(fill.peer.slot as usize).and_then(Option::as_deref_mut);
        let Some(peer) = peer.filter(|peer| peer.id == fill.peer) else { return false };
        let Some(sender) = peer.senders.get(fill.sender as usize) else { return false };
        let shard = sender.binding().and_then(|binding| self.shards.get(binding.track));
        let Some(shard) = shard.filter(|_| sender.flowing().is_none() && sender.stats.packets == fill.sent as u64) else {
            return false;
        };
        let heard = shard.encodings.iter().filter_map(|encoding| encoding.cache.heard());
        if !peer.has_keys() || heard.max().is_some_and(|heard| now.since(heard) < SILENT_MICROS) {
            return true;
        }
        fill.silent += 1;
        if fill.silent > PATIENCE && peer.fill(fill.sender, now, &mut self.batch).is_ok() {
            fill.sent += 1;
            self.metrics.add(Counter::Filled, 1);
        }
        fill.silent < PATIENCE + PACKETS
    }
}
