//! Viewers that come, or come back, while a stream is under way: they begin with the cached run, the last key frame and what came
//! after it, where that serves them; else with a key frame for which the publisher is asked once.
//!
//! The publisher is far away, so that who has to wait for a key frame waits for long.

#[path = "sim/mod.rs"]
mod sim;

use distributary::limits::{RUN_MILLIS_MAX, RUN_PACKETS};
use distributary::metrics::Counter;
use sim::network::Link;
use sim::{World, for_seeds, watching};

const FAR: Link = Link { latency_micros: 150_000, ..Link::clean() };
/// From the wish for a key frame to its arrival at the server: a picture's time and the way.
const ON_ITS_WAY: u64 = 33 + 150;

/// A publisher, and viewers so that each worker has one.
fn stream(world: &mut World) -> (usize, usize) {
    let publisher = world.publish("room", FAR);
    let viewers: Vec<usize> = (0..6).map(|_| world.watch("room", Link::clean())).collect();
    assert!(world.connect(5));
    world.run_seconds(3);
    assert!(world.server.workers.iter().all(|worker| worker.sessions() > 0));
    (publisher, viewers[0])
}

/// A key frame comes, and so many milliseconds pass.
fn key_frame(world: &mut World, publisher: usize, millis: u64) {
    world.make_key_frame(publisher);
    world.run_millis(ON_ITS_WAY + millis);
}

/// Key frames asked for: by the server, at the publisher, and by viewers; and runs given.
fn asked(world: &World, publisher: usize) -> [u64; 4] {
    let counts = [Counter::KeyFrameRequests, Counter::KeyFrameRequestsReceived, Counter::Runs].map(|what| world.server.count(what));
    [counts[0], world.publisher(publisher).key_frame_requests, counts[1], counts[2]]
}

/// What came of the video is one stream, each packet once and in order.
fn assert_continuous(world: &World, viewer: usize) {
    let seen = world.viewer(viewer);
    let numbers = &seen.numbers;
    let broken = numbers.windows(2).position(|pair| pair[1] != pair[0].wrapping_add(1));
    assert_eq!(broken.map(|at| &numbers[at.saturating_sub(2)..at + 2]), None, "viewer {viewer}, of {}", numbers.len());
    assert_eq!((seen.lost, seen.undecodable, seen.gaps), (0, 0, 0), "viewer {viewer}");
}

/// By how many pictures a viewer is behind another one.
fn behind(world: &World, viewer: usize, other: usize) -> i64 {
    let newest = |viewer: usize| world.viewer(viewer).last.map_or(0, |frame| frame.counter) as i64;
    newest(other) - newest(viewer)
}

/// Everybody has received all that was sent, once: what was sent twice would be a replay, and not count.
fn assert_nothing_was_sent_twice(world: &mut World, publisher: usize) {
    world.vanish(publisher);
    world.run_millis(400);
    let viewers = (0..world.clients.len()).filter(|client| *client != publisher);
    let received: u64 = viewers.map(|viewer| world.viewer(viewer).packets).sum();
    assert_eq!(received, world.server.count(Counter::MediaForwarded));
}

#[test]
fn who_joins_sees_the_cached_picture_at_once_and_nobody_is_asked() {
    for_seeds(&[301, 302, 303, 304, 305, 306], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let (publisher, other) = stream(world);
            key_frame(world, publisher, 450);
            let before = asked(world, publisher);
            let came = world.now;
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            let age = 450 + (world.now - came) / 1_000;
            assert!((550..900).contains(&age), "the key frame is {age} ms old");
            world.run_millis(150);
            // A round trip until the server knows, and what a key frame takes at the pace of a path of which nothing is known.
            let seen = world.viewer(viewer);
            let waited = seen.first_at.saturating_sub(world.clients[viewer].connected_at) / 1_000;
            assert!(seen.frames > 0 && waited < 30 + 80, "{} pictures, the first after {waited} ms", seen.frames);
            world.run_millis(900);
            assert_eq!(asked(world, publisher), [before[0], before[1], before[2], before[3] + 1]);
            assert_eq!((world.viewer(viewer).key_frames, behind(world, viewer, other)), (1, 0));
            assert!(world.viewer(viewer).frames > (age + 900) / 34, "all since the key frame");
            world.assert_no_violations();
            assert_continuous(world, viewer);
            assert_continuous(world, other);
            assert_nothing_was_sent_twice(world, publisher);
        });
    });
}

/// The run is paced like everything else, what is live follows it, and after a while the viewer is not behind any more.
#[test]
fn a_narrow_path_gets_the_run_at_its_pace_and_catches_up() {
    for_seeds(&[311, 312, 313, 314], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let (publisher, other) = stream(world);
            key_frame(world, publisher, 200);
            let before = asked(world, publisher);
            let viewer = world.watch("room", Link { latency_micros: 50_000, ..Link::narrow(1_000_000, 300) });
            let address = world.clients[viewer].public;
            world.network.watched = vec![address];
            assert!(world.connect(3));
            let connected = world.now;
            let mut caught_up = None;
            for _ in 0..60 {
                world.run_millis(50);
                // The way to this viewer is a picture longer.
                let is_live = world.viewer(viewer).frames > 0 && behind(world, viewer, other) <= 3;
                caught_up = if is_live { caught_up.or(Some((world.now - connected) / 1_000)) } else { None };
            }
            let seen = world.viewer(viewer);
            let waited = seen.first_at.saturating_sub(world.clients[viewer].connected_at) / 1_000;
            assert!(waited < 300, "the first picture after {waited} ms");
            assert!(caught_up.is_some_and(|millis| millis <= 2_000), "{caught_up:?}");
            assert_eq!(asked(world, publisher)[3], before[3] + 1);
            assert_eq!(asked(world, publisher)[..2], before[..2]);
            // The most bytes of 20 ms: some 50 kB were to be sent.
            let departures = &world.network.departures;
            let within = |from: u64| departures.iter().filter(move |(at, ..)| (from..from + 20_000).contains(at));
            let burst = departures.iter().map(|(from, ..)| within(*from).map(|(.., bytes)| bytes).sum::<usize>()).max();
            assert!(burst.is_some_and(|bytes| bytes < 20_000), "{burst:?}");
            world.assert_no_violations();
            assert_eq!((seen.lost, seen.undecodable), (0, 0));
        });
    });
}

#[test]
fn an_old_run_is_not_given_and_many_who_come_ask_once() {
    for_seeds(&[321, 322, 323], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let (publisher, _) = stream(world);
            key_frame(world, publisher, RUN_MILLIS_MAX + 100);
            let before = asked(world, publisher);
            let viewers: Vec<usize> = (0..20).map(|_| world.watch("room", Link::clean())).collect();
            assert!(world.connect(3));
            world.run_millis(1_500);
            assert_eq!(asked(world, publisher), [before[0] + 1, before[1] + 1, before[2], before[3]]);
            world.assert_no_violations();
            for viewer in viewers {
                let seen = world.viewer(viewer);
                let waited = (seen.first_at - world.clients[viewer].connected_at) / 1_000;
                assert!((300..500).contains(&waited) && seen.key_frames == 1, "the first picture after {waited} ms");
                assert_continuous(world, viewer);
            }
        });
    });
}

/// More come at once than a worker gives runs: the rest is served by one key frame, and everybody by all that follows.
#[test]
fn a_storm_of_viewers_gets_some_runs_and_one_key_frame() {
    for_seeds(&[331, 332], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            let (publisher, _) = stream(world);
            key_frame(world, publisher, 300);
            let before = asked(world, publisher);
            let viewers: Vec<usize> = (0..80).map(|_| world.watch("room", Link::clean())).collect();
            assert!(world.connect(3));
            world.run_millis(1_500);
            let after = asked(world, publisher);
            let runs = (after[3] - before[3]) as usize;
            // A run has at least the packets of its key frame.
            assert!(runs > 0 && runs < RUN_PACKETS / 10 && runs < viewers.len(), "{runs} runs");
            assert_eq!((after[0], after[1]), (before[0] + 1, before[1] + 1));
            world.assert_no_violations();
            for viewer in viewers {
                assert!(world.viewer(viewer).frames > 20, "viewer {viewer}");
                assert_continuous(world, viewer);
            }
            assert_nothing_was_sent_twice(world, publisher);
        });
    });
}

/// Between the last viewer and the next one packets are not kept: what was kept before has a gap behind it, however short.
#[test]
fn what_was_cached_for_those_who_have_left_is_not_given() {
    for_seeds(&[341, 342], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            let publisher = world.publish("room", FAR);
            let first = world.watch("room", Link::clean());
            assert!(world.connect(5));
            world.run_seconds(2);
            key_frame(world, publisher, 100);
            world.leave(first);
            let before = asked(world, publisher);
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_millis(1_000);
            assert_eq!(asked(world, publisher), [before[0] + 1, before[1] + 1, before[2], before[3]]);
            assert!(world.viewer(viewer).frames > 10);
            world.assert_no_violations();
            assert_continuous(world, viewer);
        });
    });
}

/// A page that was hidden and is shown again has the picture of a key frame that came meanwhile; one that was hidden for a moment is
/// not shown again what it has seen.
#[test]
fn who_comes_back_goes_on_with_what_it_has_not_seen() {
    for_seeds(&[351, 352, 353], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let (publisher, viewer) = stream(world);
            world.show(viewer, false);
            world.run_seconds(2);
            key_frame(world, publisher, 400);
            let (before, pictures) = (asked(world, publisher), world.viewer(viewer).frames);
            world.show(viewer, true);
            world.run_millis(100);
            assert!(world.viewer(viewer).frames > pictures, "at once");
            world.run_millis(500);
            assert_eq!(asked(world, publisher), [before[0], before[1], before[2], before[3] + 1]);

            key_frame(world, publisher, 200);
            world.show(viewer, false);
            world.run_millis(200);
            world.show(viewer, true);
            world.run_millis(1_000);
            assert_eq!(asked(world, publisher), [before[0] + 1, before[1] + 1, before[2], before[3] + 1]);
            // Pictures are missed while the page is hidden, and none comes again.
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert_eq!((seen.undecodable, seen.gaps), (0, 0));
            assert!(world.now - seen.last_at < 100_000);
        });
    });
}
