//! A worker's table of clients and the headers that lead to them, and its questions to the guide.
//!
//! ```text
//!   worker                                       guide (slow path)
//!   headers(to): unknown or out of date ──to──►  asks the kernel
//!   table ◄──────────────────────────── answer ─ headers, or none: the socket shall send
//!   generation ◄───────────────────────── +1  ── something has changed: everything is out of date
//! ```
//!
//! What is out of date is used until its new answer comes: a moment later, and nearly always the same. Each question gets one
//! answer and no more questions are open than a ring holds, so that neither ring is ever full.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::frame::Headers;
use crate::io::Waker;
use crate::limits::{XDP_PEERS, XDP_QUESTIONS};
use crate::mem::prefetch;

/// The guide's word on an address.
pub(super) struct Answer {
    pub to: SocketAddr,
    pub headers: Option<Headers>,
}

/// The guide's end of the rings of one worker.
pub(super) struct Desk {
    pub questions: rtrb::Consumer<SocketAddr>,
    pub answers: rtrb::Producer<Answer>,
}

struct Peer {
    to: SocketAddr,
    /// The generation in which it was asked for last.
    asked: u32,
    /// The place that is looked up after this one: a fan-out goes to the same receivers in the same order.
    next: u32,
    /// It was another one the last time. Only what comes again is followed: reports go in an order of their own, now and then.
    doubted: bool,
    headers: Option<Headers>,
}

pub(super) struct Peers {
    /// Places in `peers`. Apart from them, because it is as large as it may ever get, and they lie next to each other.
    places: FxHashMap<SocketAddr, u32>,
    peers: Vec<Peer>,
    /// The place looked up last.
    last: usize,
    questions: rtrb::Producer<SocketAddr>,
    answers: rtrb::Consumer<Answer>,
    /// Questions without an answer yet.
    open: usize,
    /// Questions since the guide was woken.
    asked: bool,
    generation: Arc<AtomicU32>,
    /// As this turn sees it.
    current: u32,
    guide: Waker,
}

impl Peers {
    pub fn new(generation: Arc<AtomicU32>, guide: Waker) -> (Peers, Desk) {
        let (ask, questions) = rtrb::RingBuffer::new(XDP_QUESTIONS);
        let (answer, answers) = rtrb::RingBuffer::new(XDP_QUESTIONS);
        let places = FxHashMap::with_capacity_and_hasher(XDP_PEERS, FxBuildHasher);
        let table = Vec::with_capacity(XDP_PEERS);
        let current = generation.load(Ordering::Relaxed);
        let peers =
            Peers { places, peers: table, last: 0, questions: ask, answers, open: 0, asked: false, generation, current, guide };
        (peers, Desk { questions, answers: answer })
    }

    /// Takes in what the guide has said: before each batch.
    pub fn update(&mut self) {
        self.current = self.generation.load(Ordering::Acquire);
        while let Ok(answer) = self.answers.pop() {
            self.open -= 1;
            if let Some(place) = self.places.get(&answer.to) {
                self.peers[*place as usize].headers = answer.headers;
            }
        }
    }

    /// The headers for an address; none if its datagrams go by the socket, for now or for good.
    pub fn headers(&mut self, to: SocketAddr) -> Option<&Headers> {
        let place = self.follow(to).or_else(|| self.places.get(&to).map(|place| *place as usize));
        let current = place.filter(|place| self.peers[*place].asked == self.current);
        let place = match current {
            Some(place) => place,
            None => self.ask(to)?,
        };
        if place != self.last {
            if let Some(last) = self.peers.get_mut(self.last) {
                let surprise = last.next != place as u32;
                if surprise && last.doubted {
                    last.next = place as u32;
                }
                last.doubted = surprise && !last.doubted;
            }
            self.last = place;
        }
        let peer = &self.peers[place];
        if let Some(next) = self.peers.get(peer.next as usize) {
            prefetch(next, 3);
        }
        peer.headers.as_ref()
    }

    /// The place of an address without a search, if it is the one looked up last or the one that followed that the time before.
    fn follow(&self, to: SocketAddr) -> Option<usize> {
        let last = self.peers.get(self.last)?;
        if last.to == to {
            return Some(self.last);
        }
        let next = last.next as usize;
        self.peers.get(next).filter(|peer| peer.to == to).map(|_| next)
    }

    /// Asks for an address, if there is room for a question, and says where it is in the table.
    #[cold]
    fn ask(&mut self, to: SocketAddr) -> Option<usize> {
        let place = self.places.get(&to).map(|place| *place as usize);
        if self.open == XDP_QUESTIONS || self.questions.push(to).is_err() {
            return place;
        }
        self.open += 1;
        self.asked = true;
        if let Some(place) = place {
            self.peers[place].asked = self.current;
            return Some(place);
        }
        if self.peers.len() == XDP_PEERS {
            self.places.clear();
            self.peers.clear();
        }
        let place = self.peers.len();
        self.peers.push(Peer { to, asked: self.current, next: 0, doubted: true, headers: None });
        self.places.insert(to, place as u32);
        Some(place)
    }

    /// Wakes the guide if it was asked: after each batch.
    pub fn send_questions(&mut self) {
        if std::mem::take(&mut self.asked) {
            self.guide.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::xdp::frame::Way;

    fn address(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 16) as u8, 1], number as u16))
    }

    fn headers(to: SocketAddr, mtu: usize) -> Option<Headers> {
        Headers::new(&Way { source: [2; 6], next_hop: [4; 6], tags: &[], from: "10.0.0.9:1".parse().unwrap(), to, mtu })
    }

    #[test]
    fn each_address_is_asked_once_a_generation_and_answers_hold_until_the_next() {
        let generation = Arc::new(AtomicU32::new(1));
        let (mut peers, mut desk) = Peers::new(generation.clone(), Waker::silent());
        let to = address(7);
        assert!(peers.headers(to).is_none() && peers.headers(to).is_none());
        assert_eq!((desk.questions.pop().ok(), desk.questions.pop().ok()), (Some(to), None));
        assert!(desk.answers.push(Answer { to, headers: headers(to, 1500) }).is_ok());
        peers.update();
        assert!(peers.headers(to).is_some_and(|headers| headers.fits(1472) && !headers.fits(1473)));
        generation.store(2, Ordering::Release);
        peers.update();
        assert!(peers.headers(to).is_some(), "used until the new answer comes");
        assert_eq!(desk.questions.pop().ok(), Some(to));
        assert!(desk.answers.push(Answer { to, headers: None }).is_ok());
        peers.update();
        assert!(peers.headers(to).is_none() && desk.questions.pop().is_err());
    }

    #[test]
    fn questions_and_table_are_bounded() {
        let (mut peers, mut desk) = Peers::new(Arc::new(AtomicU32::new(1)), Waker::silent());
        for number in 0..XDP_QUESTIONS + 5 {
            assert!(peers.headers(address(number)).is_none());
        }
        assert_eq!(desk.questions.slots(), XDP_QUESTIONS);
        let capacity = (peers.places.capacity(), peers.peers.capacity());
        for number in 0..XDP_PEERS + XDP_QUESTIONS {
            let to = address(number);
            while let Ok(to) = desk.questions.pop() {
                assert!(desk.answers.push(Answer { to, headers: headers(to, 1500) }).is_ok());
            }
            peers.update();
            peers.headers(to);
        }
        assert!(peers.peers.len() <= XDP_PEERS && peers.places.len() == peers.peers.len());
        assert_eq!((peers.places.capacity(), peers.peers.capacity()), capacity);
        let last = address(XDP_PEERS + XDP_QUESTIONS - 1);
        let to = desk.questions.pop().unwrap();
        assert_eq!(to, last);
        assert!(desk.answers.push(Answer { to, headers: headers(to, 1500) }).is_ok());
        peers.update();
        assert!(peers.headers(last).is_some());
    }
}
