//! Who gets which layers: what flows of each track is measured at its publisher, and each receiver is aimed at what its path carries.

use arrayvec::ArrayVec;

use super::Worker;
use super::mail::Mesh;
use crate::limits::MEDIA_PER_PEER;
use crate::peer::path::Path;
use crate::peer::send::Sender;
use crate::room::shard::{Shards, Subscriber};
use crate::rtp::allocate::{Demand, allocate, extremes, next};
use crate::rtp::layers::{Choice, Layers};
use crate::units::{Micros, TrackId};

impl Worker {
    /// What flows of the tracks that a session publishes: noted here and told to those who have subscribers.
    pub(super) fn measure(&mut self, slot: usize, now: Micros) {
        let mut measured: ArrayVec<(TrackId, Layers), MEDIA_PER_PEER> = ArrayVec::new();
        let inbound = self.peers[slot].as_deref_mut().and_then(|peer| peer.inbound.as_deref_mut());
        if let Some(inbound) = inbound {
            inbound.measure(now, |track, layers| {
                let _ = measured.try_push((track, layers));
            });
        }
        for (track, layers) in measured {
            let others = self.shards.get(track).map_or(0, |shard| shard.others);
            self.tell_others(others, || Mesh::Layers { track, layers });
            self.layers(track, layers, now);
        }
    }

    /// Notes what flows of a track. If that is another set of layers than before, its receivers are aimed anew.
    pub(super) fn layers(&mut self, track: TrackId, layers: Layers, now: Micros) {
        let Some(shard) = self.shards.get_mut(track) else { return };
        let before = std::mem::replace(&mut shard.layers, layers);
        if !layers.differs(&before) {
            return;
        }
        let mut fanout = std::mem::take(&mut self.fanout);
        self.shards.subscribers(track).for_each(|subscriber| fanout.add(subscriber));
        for slot in (0..fanout.len()).filter_map(|at| fanout.peer(at)) {
            self.aim(slot, now);
        }
        fanout.clear();
        self.fanout = fanout;
    }

    /// Chooses what a receiver is given of all it watches, within what its path carries, begins it or asks for the key frames it
    /// needs, and has the path probed for what it could be given next.
    pub(super) fn aim(&mut self, slot: u32, now: Micros) {
        let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let mut demands: ArrayVec<Demand, MEDIA_PER_PEER> = ArrayVec::new();
        let mut demanding: ArrayVec<u16, MEDIA_PER_PEER> = ArrayVec::new();
        for (index, sender) in peer.senders.iter().enumerate() {
            let Some(shard) = sender.binding().and_then(|binding| self.shards.get(binding.track)) else { continue };
            let demand = Demand {
                kind: sender.kind,
                layers: shard.layers,
                current: sender.choice,
                wish: sender.wish,
                paused: sender.paused,
                copies: 1 + sender.earlier() as u8,
            };
            if demands.try_push(demand).is_ok() {
                demanding.push(index as u16);
            }
        }
        let budget = peer.path.as_deref().and_then(|path| path.budget(now));
        let mut allocation = allocate(budget, &demands);
        if let (Some(_), Some(path)) = (budget, peer.path.as_deref_mut()) {
            let competes = path.competes();
            path.steadiness.settle(&demands, &mut allocation, competes, now);
            path.want(next(&demands, &allocation), extremes(&demands), now);
        }
        let mut hurries = false;
        let flooded = peer.path.as_deref().is_some_and(Path::is_flooded);
        for ((index, demand), choice) in demanding.into_iter().zip(&demands).zip(allocation) {
            let sender = &mut peer.senders[index as usize];
            let rate = |choice: Option<Choice>| choice.map(|choice| demand.layers.rate(choice));
            let flows = flowing(&self.shards, sender);
            hurries |= flows.is_some() && rate(flows) > rate(choice);
            // Before anything is known of the track, its first encoding is as good as any.
            let known = demand.layers.shape() != 0;
            if known || demand.wish.most.is_none() {
                sender.choice = choice;
                sender.paused = choice.is_none() && demand.wish.most.is_some();
                sender.aim(choice.map(|choice| demand.layers.target(choice)));
            }
            let interrupts = rate(flows) > rate(choice) && flooded;
            if interrupts {
                sender.interrupt();
            }
            let (link, encodings) = (sender.link, sender.encodings());
            self.shards.give(link, Subscriber { peer: slot, sender: index }, encodings);
            if interrupts {
                // It would be lost, or keep what takes over from it waiting.
                self.pace.cut(peer, index);
            }
        }
        let Some(path) = peer.path.as_deref_mut() else { return self.start(slot, now) };
        path.hurries = hurries && budget.is_some();
        if path.wants_probe() {
            self.begin_probe(slot, now);
        }
        self.start(slot, now);
    }
}

/// What a receiver is sent now, in the terms of a choice.
pub(super) fn flowing(shards: &Shards, sender: &Sender) -> Option<Choice> {
    let (source, spatial, temporal) = sender.flowing()?;
    let layers = shards.get(source.track)?.layers;
    let quality = if layers.scalable() { layers.highest_up_to(spatial) } else { source.encoding };
    Some(Choice { quality, temporal: temporal.min(layers.temporal(quality)) })
}
