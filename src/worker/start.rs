//! What a viewer that has no picture begins with: the cached run of its encoding ([`crate::rtp::cache`]), or else the publisher's next
//! key frame, which is asked for.
//!
//! A run goes the way of all packets: it is numbered, and what the path does not take at once waits at its pace ([`super::pace`]), what
//! is live behind it. Between two fan-outs each packet is either in the cache or yet to be forwarded. So whoever is given the run then
//! gets every packet once and in order, whatever the turn still holds.
//!
//! A run is the past, and the viewer has to catch up. It is not given where the path has no room for that beside what is live, nor to
//! a viewer that would see again what it has seen. To change from one encoding to another it is of no use: the other still flows, and
//! is ahead of it. And a worker gives no more than [`RUN_PACKETS`](crate::limits::RUN_PACKETS) in a tick: in a storm of viewers the
//! rest has one key frame asked for, which serves all of them and makes the runs of those who follow short.

use super::Worker;
use super::turn::Outlet;
use crate::metrics::Counter;
use crate::peer::Peer;
use crate::rtp::config::MediaKind;
use crate::units::{Bitrate, Micros, TrackId};

impl Worker {
    /// Begins whatever a session is bound to and has no picture of, and asks for the key frames that it waits for otherwise.
    pub(super) fn start(&mut self, slot: u32, now: Micros) {
        let count = self.peers.get(slot as usize).and_then(Option::as_deref).map_or(0, |peer| peer.senders.len());
        for index in 0..count as u16 {
            let peer = self.peers.get(slot as usize).and_then(Option::as_deref);
            let Some((track, encoding)) = peer.and_then(|peer| awaited(peer, index)) else { continue };
            if !self.give_run(slot, index, (track, encoding), now) {
                self.want_key_frame(track, encoding);
            }
        }
    }

    /// Gives a viewer the cached run of an encoding. False if there is none that it can begin with.
    fn give_run(&mut self, slot: u32, index: u16, (track, encoding): (TrackId, u8), now: Micros) -> bool {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return false };
        let Some(shard) = self.shards.get(track) else { return false };
        let Some(cache) = shard.encodings.get(encoding as usize).map(|encoding| &encoding.cache) else { return false };
        let may_begin = |arrival| peer.senders.get(index as usize).is_some_and(|sender| sender.may_begin_with(arrival));
        let run = cache.run(now).filter(|run| run.packets <= self.run_packets && may_begin(run.arrival));
        let Some(run) = run else { return false };
        let chosen = peer.senders.iter().filter_map(|sender| Some((self.shards.get(sender.binding()?.track)?, sender.choice?)));
        let rate = Bitrate(chosen.map(|(shard, choice)| shard.layers.rate(choice).0).sum());
        let mut left = i64::MAX;
        if let Some(path) = peer.path.as_deref_mut() {
            if run.bytes as u64 > path.room_for_past(rate, now) || !self.pace.has_room(&path.waiting, run.packets) {
                return false;
            }
            left = path.allowance(now);
        }
        self.run_packets -= run.packets;
        let (io, batch, pace, metrics) = (&mut self.io, &mut self.batch, &mut self.pace, &self.metrics);
        let mut outlet = Outlet { io, batch, pace, metrics, now, left, forwarded: 0 };
        for media in cache.packets(run) {
            outlet.give(peer, index, MediaKind::Video, media, &shard.clocks, &[]);
        }
        self.metrics.add(Counter::MediaForwarded, outlet.forwarded);
        let begun = peer.senders.get(index as usize).is_some_and(|sender| sender.flowing().is_some());
        self.metrics.add(Counter::Runs, begun as u64);
        begun
    }
}

/// The track and the encoding of it that an m-line of a session waits for, if it could be sent a key frame now.
fn awaited(peer: &Peer, index: u16) -> Option<(TrackId, u8)> {
    let sender = peer.senders.get(index as usize)?;
    let has_room = peer.path.as_deref().is_none_or(|path| path.has_room_for_key_frame());
    (peer.has_keys() && has_room).then_some((sender.binding()?.track, sender.awaits_key_frame()?))
}
