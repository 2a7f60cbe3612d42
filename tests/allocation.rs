//! The law: a worker allocates nothing after start-up. A counting allocator watches every turn of every worker in a simulated run
//! with traffic, loss and its repair, joins, leaves, publishers that change, clients that move, vanish and restart ICE.
#![allow(unsafe_code)] // an allocator cannot be written without

#[path = "sim/mod.rs"]
mod sim;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use distributary::metrics::Counter;
use distributary::peer::{Growth, Peer};
use distributary::rtp::config::MediaConfig;
use distributary::signal::negotiate::{self, CodecPolicy, LocalTransport, Purpose};
use distributary::units::{PeerId, Ssrc, TrackId};
use sim::World;
use sim::network::Link;

/// The system's allocator, with an eye on the thread that asks to be watched.
struct Watched;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static RELEASES: Cell<u64> = const { Cell::new(0) };
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

fn allocated() {
    if WATCHING.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        if ALLOCATIONS.get() <= 3 {
            // Where: the message allocates too, unwatched.
            WATCHING.set(false);
            eprintln!("allocation in a turn:\n{}", std::backtrace::Backtrace::force_capture());
            WATCHING.set(true);
        }
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated();
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        allocated();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if WATCHING.get() {
            RELEASES.set(RELEASES.get() + 1);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

#[test]
fn a_worker_allocates_nothing() {
    let mut world = World::new(7, 3);
    world.server.watch = |begins| {
        TURNS.set(TURNS.get() + begins as u64);
        WATCHING.set(begins);
    };
    let link = Link { jitter_micros: 4_000, duplication: 0.01, ..Link::lossy(0.03) };
    let mut publisher = world.publish("room", link);
    let mut viewers: Vec<usize> = (0..9).map(|_| world.watch("room", link)).collect();
    world.run_seconds(3);
    for round in 0..12 {
        // Not before: a bit flipped in a handshake's clear text ends it, and with it the session.
        for client in world.clients.iter_mut().filter(|client| client.connected) {
            client.link.corruption = 0.01;
        }
        let leaving = viewers.remove(0);
        if round % 3 == 0 {
            world.vanish(leaving);
        } else {
            world.leave(leaving);
        }
        viewers.push(world.watch("room", link));
        if round % 4 == 3 {
            world.leave(publisher);
            publisher = world.publish("room", link);
        }
        let moving = viewers[1];
        let address = world.address_elsewhere(world.clients[moving].public);
        world.rebind(moving, address);
        world.restart_ice(viewers[2]);
        world.run_millis(500);
    }
    // Long enough for those who vanished to be given up; the publisher's clock is not what is tested here.
    world.leave(publisher);
    world.run_seconds(2);
    world.server.skew += 26_000_000;
    world.run_seconds(3);
    let server = &world.server;
    for counter in [Counter::MediaForwarded, Counter::Retransmitted, Counter::HandedOver, Counter::NacksSent] {
        assert!(server.count(counter) > 10, "{}: {}", counter.label(), server.count(counter));
    }
    assert!(server.count(Counter::Runs) > 0, "nobody began with what is cached");
    assert!(TURNS.get() > 20_000, "{} turns were watched", TURNS.get());
    assert_eq!((ALLOCATIONS.get(), RELEASES.get()), (0, 0), "allocations and releases in {} turns", TURNS.get());
}

/// A member that publishes and watches more than before.
#[test]
fn a_session_grows_without_allocating() {
    let media = |offer, purpose| {
        let fingerprint = format!("sha-256 {}", ["AB"; 32].join(":"));
        let candidates = ["192.0.2.1:7000".parse().expect("an address")];
        let local = LocalTransport {
            ufrag: "abcdefgh",
            pwd: "abcdefghijklmnopqrstuvwx",
            fingerprint: &fingerprint,
            candidates: &candidates,
            tcp_port: None,
            session_id: 1,
            cname: "room",
        };
        let mut ssrc = 1000;
        negotiate::answer(offer, purpose, &local, &mut || (ssrc += 1, ssrc).1, &CodecPolicy::default()).expect("an offer").media
    };
    let watched = media(include_str!("fixtures/sdp/chromium-watch.sdp"), Purpose::Watch);
    let published = media(include_str!("fixtures/sdp/chromium-publish-simulcast.sdp"), Purpose::Publish);
    let tracks: Vec<TrackId> = (0..published.len() as u32).map(|slot| TrackId { slot, generation: 1 }).collect();
    let mut peer = Peer::new(PeerId::default(), &watched[..1], Some(&[]), Ssrc(1), || 7);
    let before = peer.senders[0].media_ssrc();
    let other: Vec<MediaConfig> = watched.iter().rev().cloned().collect();
    let all: Vec<MediaConfig> = published.iter().chain(&other).cloned().collect();
    let mut growth = Growth::new(&all, &tracks, &other, 1, &[0], || 7);
    WATCHING.set(true);
    peer.grow(&mut growth);
    WATCHING.set(false);
    assert_eq!((ALLOCATIONS.get(), RELEASES.get()), (0, 0));
    assert_eq!((peer.senders.len(), peer.senders[1].media_ssrc()), (2, before), "the second m-line is what was the first");
    assert_ne!(peer.senders[0].media_ssrc(), before);
    assert_eq!(peer.inbound.as_deref().map(|inbound| inbound.tracks().count()), Some(tracks.len()));
}

/// The watch itself works: what allocates is seen.
#[test]
fn an_allocation_is_seen() {
    WATCHING.set(true);
    let boxed = std::hint::black_box(Box::new(1));
    drop(boxed);
    WATCHING.set(false);
    assert_eq!((ALLOCATIONS.get(), RELEASES.get()), (1, 1));
}
