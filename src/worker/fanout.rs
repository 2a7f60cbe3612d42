//! Who is sent something in a turn: each receiver once, with its m-lines that have packets, in the order in which they were added.
//!
//! ```text
//!   by_peer   slot ──► place in receivers, if it was added in this fan-out
//!   receivers  peer, first and last of its ──► lines   m-line, next one of the same receiver
//! ```
//!
//! Peers themselves are not touched while it is made: of thousands none is in the cache, and this needs four bytes of each.

use crate::limits::{SESSIONS_MAX, SUBSCRIPTIONS};
use crate::room::shard::Subscriber;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Receiver {
    peer: u32,
    first: u32,
    last: u32,
}

#[derive(Clone, Copy)]
struct Line {
    sender: u16,
    next: u32,
}

/// The default one takes nothing.
#[derive(Default)]
pub(super) struct Fanout {
    /// By slot: where the peer is in `receivers`, or was in an earlier fan-out, if it was there at all.
    by_peer: Vec<u32>,
    receivers: Vec<Receiver>,
    lines: Vec<Line>,
}

impl Fanout {
    pub fn new() -> Self {
        let (receivers, lines) = (Vec::with_capacity(SESSIONS_MAX), Vec::with_capacity(SUBSCRIPTIONS));
        Fanout { by_peer: vec![0; SESSIONS_MAX], receivers, lines }
    }

    /// Adds an m-line, which must not be there yet. There is room for every subscription that a worker may have.
    pub fn add(&mut self, Subscriber { peer, sender }: Subscriber) {
        let Some(place) = self.by_peer.get_mut(peer as usize).filter(|_| self.lines.len() < SUBSCRIPTIONS) else { return };
        let line = self.lines.len() as u32;
        self.lines.push(Line { sender, next: NONE });
        if let Some(receiver) = self.receivers.get_mut(*place as usize).filter(|receiver| receiver.peer == peer) {
            let last = std::mem::replace(&mut receiver.last, line);
            self.lines[last as usize].next = line;
        } else {
            *place = self.receivers.len() as u32;
            self.receivers.push(Receiver { peer, first: line, last: line });
        }
    }

    /// Receivers.
    pub fn len(&self) -> usize {
        self.receivers.len()
    }

    /// The slot of a receiver.
    pub fn peer(&self, at: usize) -> Option<u32> {
        self.receivers.get(at).map(|receiver| receiver.peer)
    }

    /// The m-lines of a receiver.
    pub fn senders(&self, at: usize) -> impl Iterator<Item = u16> + '_ {
        let mut index = self.receivers.get(at).map_or(NONE, |receiver| receiver.first);
        std::iter::from_fn(move || {
            let line = self.lines.get(index as usize)?;
            index = line.next;
            Some(line.sender)
        })
    }

    pub fn clear(&mut self) {
        self.receivers.clear();
        self.lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_receiver_comes_once_with_its_lines_in_order() {
        let mut fanout = Fanout::new();
        for round in 0..2 {
            for (peer, sender) in [(7, 1), (3, 0), (7, 0), (9, round), (3, 5), (7, 4)] {
                fanout.add(Subscriber { peer, sender });
            }
            let all: Vec<(u32, Vec<u16>)> =
                (0..fanout.len()).map(|at| (fanout.peer(at).unwrap(), fanout.senders(at).collect())).collect();
            assert_eq!(all, [(7, vec![1, 0, 4]), (3, vec![0, 5]), (9, vec![round])]);
            assert!(fanout.peer(3).is_none() && fanout.senders(3).next().is_none());
            fanout.clear();
            assert_eq!(fanout.len(), 0);
        }
    }

    #[test]
    fn it_is_bounded() {
        let mut fanout = Fanout::new();
        fanout.add(Subscriber { peer: SESSIONS_MAX as u32, sender: 0 });
        assert_eq!(fanout.len(), 0, "there is no such slot");
        let capacity = (fanout.receivers.capacity(), fanout.lines.capacity());
        for at in 0..SUBSCRIPTIONS + 10 {
            fanout.add(Subscriber { peer: (at % SESSIONS_MAX) as u32, sender: (at / SESSIONS_MAX) as u16 });
        }
        assert_eq!((fanout.receivers.capacity(), fanout.lines.capacity()), capacity);
        assert_eq!(fanout.senders(5).count(), SUBSCRIPTIONS / SESSIONS_MAX);
    }
}
