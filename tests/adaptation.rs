//! Viewers on paths that change: each gets the best layer that its path carries, and comes through every change without a long freeze.
//!
//! A simulcast publisher on str0m sends 150, 600 and 2,200 kb/s; the paths are the simulator's. `SIM_TRACE=1` prints each second.

#[path = "sim/mod.rs"]
mod sim;

use std::cell::RefCell;
use std::net::SocketAddr;

use distributary::signal::api::LayerWish;
use sim::client::{Part, RIDS};
use sim::network::Link;
use sim::{World, for_seeds, watching};

/// Sizes of the encodings in quarters of 440 kb/s, and what each of them needs with the sound, in kilobits per second.
const ENCODINGS: [u8; 3] = [1, 5, 20];

/// What the server thinks of a viewer's path, in kilobits per second.
fn target(world: &mut World, viewer: SocketAddr) -> Option<u64> {
    let rooms = world.server.rooms();
    let session = rooms.iter().flat_map(|room| &room.sessions).find(|session| session.remote_address == Some(viewer))?;
    session.target_bitrate.map(|rate| rate / 1000)
}

/// The layer that the server says it sends to a viewer.
fn sent(world: &mut World, viewer: usize) -> Option<String> {
    let address = world.clients[viewer].public;
    let rooms = world.server.rooms();
    let session = rooms.iter().flat_map(|room| &room.sessions).find(|session| session.remote_address == Some(address))?;
    session.layer_sent.as_ref().and_then(|layer| layer.encoding.clone())
}

/// The size of the pictures that a viewer sees.
fn size(world: &World, viewer: usize) -> u8 {
    world.viewer(viewer).decoder.sizes.last().map_or(0, |(_, size)| *size)
}

fn trace(world: &mut World, viewer: usize, what: &str) {
    if std::env::var_os("SIM_TRACE").is_some() {
        let address = world.clients[viewer].public;
        let target = target(world, address);
        let seen = &world.viewer(viewer).decoder;
        let waited = world.network.waited.last().map_or(0, |(_, _, micros)| micros / 1000);
        eprintln!(
            "{:>6} ms {what}: size {}, target {:?}, queue {waited} ms, freezes {:?}",
            world.now / 1000,
            size(world, viewer),
            target,
            seen.pauses.iter().map(|(at, pause)| (at / 1000, pause / 1000)).collect::<Vec<_>>(),
        );
    }
}

/// What one viewer saw since a time, in microseconds.
#[derive(Debug)]
struct Seen {
    /// The share of the time in which it saw the size that was asked for.
    best: f64,
    /// 95th percentile of the time in the bottleneck's queue, in milliseconds.
    queue: u64,
    /// Changes of the size.
    changes: usize,
    /// The longest pause before a picture, and all pauses of more than 200 ms together, in milliseconds.
    pause: u64,
    pauses: u64,
}

fn seen(world: &World, viewer: usize, best: u8, from: u64) -> Seen {
    let decoder = &world.viewer(viewer).decoder;
    let since = |at: u64| at.clamp(from, world.now);
    let ends = decoder.sizes.iter().skip(1).map(|(at, _)| *at).chain([world.now]);
    let shown = decoder.sizes.iter().zip(ends).filter(|((_, size), _)| *size == best);
    let shown: u64 = shown.map(|((at, _), end)| since(end) - since(*at)).sum();
    let waited = world.network.waited.iter().filter(|(at, to, _)| *at >= from && *to == world.clients[viewer].public);
    let mut waited: Vec<u64> = waited.map(|(.., waited)| waited / 1000).collect();
    waited.sort_unstable();
    let pauses = || decoder.pauses.iter().filter(|(at, _)| *at >= from).map(|(_, pause)| pause / 1000);
    Seen {
        best: shown as f64 / (world.now - from) as f64,
        queue: waited.get(waited.len() * 95 / 100).copied().unwrap_or(0),
        changes: decoder.sizes.iter().filter(|(at, _)| *at >= from).count(),
        pause: pauses().max().unwrap_or(0),
        pauses: pauses().sum(),
    }
}

/// Time of a path that goes on until its viewer's layer is judged to be steady.
const SETTLED: u64 = 5_000_000;

/// Steps of a path: 3, 1, 0.3 and 3 Mb/s. A step down is seen within a second, without a freeze of more than half of one, and a step up
/// within ten seconds; in between the best layer that fits is seen, and the queue is short.
#[test]
fn the_layer_follows_the_path() {
    let uses = RefCell::new(Vec::new());
    for_seeds(&[201, 202, 203, 204, 205, 206], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            world.publish_simulcast("room", &ENCODINGS, Link::clean());
            let viewer = world.watch("room", Link::narrow(3_000_000, 200));
            world.network.watched = vec![world.clients[viewer].public];
            assert!(world.connect(3));
            for (link, best, is_down) in [(3_000, 20, false), (1_000, 5, true), (300, 1, true), (3_000, 20, false)] {
                let began = world.now;
                world.clients[viewer].link = Link::narrow(link * 1_000, 200);
                let mut followed = None;
                // Not in step with the publisher's key frames, one in ten seconds.
                for _ in 0..180 + world.random.below(50) {
                    world.run_millis(100);
                    if size(world, viewer) == best || (is_down && size(world, viewer) < best) {
                        followed = followed.or(Some((world.now - began) / 1000));
                    }
                    if (world.now - began) % 1_000_000 == 0 {
                        trace(world, viewer, &format!("{link} kb/s"));
                    }
                }
                let (whole, steady) = (seen(world, viewer, best, began), seen(world, viewer, best, began + SETTLED));
                let all = format!("{link} kb/s: followed after {followed:?} ms; {whole:?}; then {steady:?}");
                trace(world, viewer, &all);
                let followed = followed.unwrap_or(u64::MAX);
                assert!(followed <= if is_down { 1_000 } else { 10_000 }, "{all}");
                assert!(!is_down || whole.pause <= 500, "{all}");
                assert!(steady.queue < 100 && steady.changes <= 2, "{all}");
                uses.borrow_mut().push(whole.best);
            }
            world.assert_no_violations();
        });
    });
    let uses = uses.into_inner();
    let mean = uses.iter().sum::<f64>() / uses.len() as f64;
    assert!(mean >= 0.85, "{mean}: {uses:?}");
}

/// A path that carries nothing but sound: the picture pauses, and comes back by itself.
#[test]
fn a_picture_that_does_not_fit_pauses_and_comes_back() {
    for_seeds(&[211, 212], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            world.publish_simulcast("room", &ENCODINGS, Link::clean());
            let viewer = world.watch("room", Link::narrow(1_000_000, 200));
            assert!(world.connect(3));
            world.run_seconds(10);
            world.clients[viewer].link = Link::narrow(80_000, 200);
            world.run_seconds(15);
            let (pictures, sounds) = (world.viewer(viewer).decoder.pictures, world.viewer(viewer).sounds);
            world.run_seconds(10);
            let paused = world.viewer(viewer);
            assert!(paused.decoder.pictures - pictures < 60, "{} pictures in ten seconds", paused.decoder.pictures - pictures);
            assert!(paused.sounds - sounds > 450, "{} sounds in ten seconds", paused.sounds - sounds);
            assert_eq!(sent(world, viewer), None, "the API tells that no layer is sent");
            world.clients[viewer].link = Link::narrow(1_000_000, 200);
            world.run_seconds(12);
            assert_eq!(size(world, viewer), 5, "target {:?}", target(world, world.clients[viewer].public));
            world.assert_no_violations();
        });
    });
}

/// Five percent of loss at a round trip of 150 ms, ten minutes: what is lost is repaired before it is missed.
#[test]
fn loss_is_repaired_before_anybody_sees_it() {
    for_seeds(&[221], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            world.publish_simulcast("room", &ENCODINGS, Link::clean());
            let viewer = world.watch("room", Link { latency_micros: 75_000, ..Link::lossy(0.05) });
            world.delay(viewer, 200_000);
            assert!(world.connect(10));
            world.run_seconds(600);
            let seen = seen(world, viewer, 20, 0);
            if std::env::var_os("SIM_TRACE").is_some() {
                eprintln!("{seed}: {seen:?}");
            }
            // 1 %; seeds 221 and 222 give 0.2 %.
            assert!(seen.pauses < 6_000, "{seen:?}");
            assert!(world.viewer(viewer).decoder.pictures > 17_000, "{}", world.viewer(viewer).decoder.pictures);
            world.assert_no_violations();
        });
    });
}

/// A fifth of everything lost: the picture goes on.
#[test]
fn a_picture_survives_heavy_loss() {
    for_seeds(&[231, 232], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            world.publish_simulcast("room", &ENCODINGS, Link::clean());
            let viewer = world.watch("room", Link::lossy(0.2));
            assert!(world.connect(20));
            world.run_seconds(60);
            let seen = seen(world, viewer, 1, 0);
            assert!(world.viewer(viewer).decoder.pictures > 1_200, "{}; {seen:?}", world.viewer(viewer).decoder.pictures);
            world.assert_no_violations();
        });
    });
}

/// The same where there is but one encoding, of 1.3 Mb/s: losses alone are no reason to show nothing.
#[test]
fn a_picture_that_cannot_be_made_smaller_survives_heavy_loss() {
    for_seeds(&[233, 234], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            let publisher = world.publish("room", Link::clean());
            world.enlarge(publisher, 3);
            let viewer = world.watch("room", Link::lossy(0.2));
            world.delay(viewer, 300_000);
            assert!(world.connect(20));
            world.run_seconds(60);
            // Of 1,800, 1,100 to 1,500 were seen; what is repaired too late stands still. It was paused most of the time before.
            let pictures = world.viewer(viewer).decoder.pictures;
            assert!(pictures > 900, "{pictures}; {:?}", seen(world, viewer, 12, 0));
            world.assert_no_violations();
        });
    });
}

/// Encodings that nobody watches are named to their publisher. It switches them off, as our page does after a while, and on again when
/// they are no longer named: whoever asks for one sees it soon. Nobody is asked for key frames that nobody waits for.
#[test]
fn encodings_that_nobody_watches_can_be_switched_off() {
    for_seeds(&[241, 242], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let publisher = world.publish_simulcast("room", &ENCODINGS, Link::clean());
            let [first, second] = [world.watch("room", Link::clean()), world.watch("room", Link::narrow(300_000, 300))];
            assert!(world.connect(3));
            let path = |world: &World, client: usize| world.clients[client].path.clone().expect("a session");
            let unwatched = |world: &mut World| {
                let path = path(world, publisher);
                world.server.describe(path).expect("a session").unwatched
            };
            let ask = |world: &mut World, viewer: usize, encoding: &str| {
                let wish = LayerWish { encoding_id: Some(encoding.to_owned()), ..LayerWish::default() };
                let path = path(world, viewer);
                world.server.layer(path, wish).expect("a wish");
            };
            let obey = |world: &mut World| {
                let off = unwatched(world);
                if let Part::Publisher(publisher) = &mut world.clients[publisher].part {
                    let named = |index: usize| off.iter().any(|name| name == RIDS[index]);
                    publisher.encodings = (0..3).map(|index| if named(index) { 0 } else { ENCODINGS[index] }).collect();
                }
                off
            };
            // Everything is for who has just come.
            world.run_seconds(8);
            assert_eq!(unwatched(world), [""; 0]);
            assert_eq!(size(world, first), 20);
            // The other sees the lowest, and might see the next.
            ask(world, first, "q");
            world.run_seconds(8);
            assert_eq!(obey(world), ["f"]);
            world.run_seconds(4);
            assert_eq!([first, second].map(|viewer| size(world, viewer)), [1, 1]);
            assert_eq!(obey(world), ["f"], "that it is off changes nothing");
            ask(world, second, "q");
            world.run_seconds(2);
            assert_eq!(obey(world), ["h", "f"]);
            world.run_seconds(2);
            // As soon as somebody asks for it.
            ask(world, first, "f");
            assert_eq!(obey(world), ["h"]);
            world.run_millis(2_500);
            assert_eq!([first, second].map(|viewer| size(world, viewer)), [20, 1]);
            // It ends while it is watched: that is noticed, and who saw it sees the next.
            if let Part::Publisher(publisher) = &mut world.clients[publisher].part {
                publisher.encodings = vec![1, 5, 0];
            }
            world.run_seconds(3);
            assert_eq!(size(world, first), 5);
            // Pictures break: key frames are asked for, of what is watched.
            ask(world, first, "q");
            world.run_seconds(2);
            let before = world.publisher(publisher).key_frames_asked;
            for viewer in [first, second] {
                world.clients[viewer].link = Link::lossy(0.3);
            }
            world.run_seconds(5);
            let after = world.publisher(publisher).key_frames_asked;
            assert!(after[0] > before[0] && after[1..] == before[1..], "{before:?}, then {after:?}");
            // Nobody is left.
            for viewer in [first, second] {
                world.leave(viewer);
            }
            world.run_seconds(2);
            assert_eq!(unwatched(world), ["h", "f"]);
            world.assert_no_violations();
        });
    });
}
