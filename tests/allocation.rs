//! The law: a worker allocates nothing after start-up. A counting allocator watches every turn of every worker in a simulated run
//! with traffic, loss and its repair, joins, leaves, publishers that change, clients that move, vanish and restart ICE.
#![allow(unsafe_code)] // an allocator cannot be written without

#[path = "sim/mod.rs"]
mod sim;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use distributary::metrics::Counter;
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

/// The watch itself works: what allocates is seen.
#[test]
fn an_allocation_is_seen() {
    WATCHING.set(true);
    let boxed = std::hint::black_box(Box::new(1));
    drop(boxed);
    WATCHING.set(false);
    assert_eq!((ALLOCATIONS.get(), RELEASES.get()), (1, 1));
}
