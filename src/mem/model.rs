//! Every interleaving that the memory model allows of what cores do to each other here, tried by loom:
//!
//! ```text
//! cargo test -p distributary-model
//! ```

use loom::sync::Arc;
use loom::thread;

use super::{Arena, Handoff};
use crate::units::WorkerId;

/// The owner writes a slot again only after every reader on other cores is done with it, and gets every slot back.
#[test]
fn a_slot_comes_back_once_and_after_its_last_reader() {
    loom::model(|| {
        let mut slots = Arena::leak(1);
        let mut packet = slots.take().expect("a fresh slot");
        packet.fill(b"first");
        let shared = packet.freeze();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let packet = shared.clone();
                thread::spawn(move || assert_eq!(packet.bytes(), b"first"))
            })
            .collect();
        drop(shared);
        // Whenever it is to be had, nobody reads it any more.
        if let Some(mut again) = slots.take() {
            again.fill(b"second");
            assert!(slots.take().is_none());
        }
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
        assert_eq!(slots.available(), 1);
    });
}

/// Slots that come back from two cores while the owner collects are neither lost nor given out twice.
#[test]
fn slots_returned_at_the_same_time_are_all_there() {
    loom::model(|| {
        let mut slots = Arena::leak(2);
        let packets = [slots.take().expect("a slot").freeze(), slots.take().expect("a slot").freeze()];
        let threads = packets.map(|packet| thread::spawn(move || drop(packet)));
        let early = slots.take();
        let other = slots.take();
        if let (Some(early), Some(other)) = (&early, &other) {
            assert_ne!(early.bytes().as_ptr(), other.bytes().as_ptr());
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        drop((early, other));
        assert_eq!(slots.available(), 2);
    });
}

/// Of two workers and the control plane that wants it back, one gets a session; the owner, once known, is who has it.
#[test]
fn a_session_is_claimed_once() {
    loom::model(|| {
        let handoff = Arc::new(Handoff::new(1));
        assert!(handoff.put(0, Box::new(7)).is_none());
        let claim = |worker| {
            let handoff = handoff.clone();
            move || handoff.claim(0, WorkerId(worker)).map(|value| (worker, *value))
        };
        let claims = [claim(0), claim(1)].map(thread::spawn);
        let taken_back = handoff.take(0);
        let claimed: Vec<_> = claims.into_iter().filter_map(|claim| claim.join().expect("no panic")).collect();
        assert_eq!(claimed.len() + taken_back.iter().len(), 1);
        assert_eq!(handoff.owner(0), claimed.first().map(|(worker, _)| WorkerId(*worker)));
    });
}
