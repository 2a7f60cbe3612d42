//! Scenarios in the simulator: the server under loss, reordering, duplication, corruption, clock jumps, and clients that come, go,
//! move and vanish. See `sim/mod.rs` for how to run one seed or many.

#[path = "sim/mod.rs"]
mod sim;

use distributary::metrics::{Counter, DropReason};
use sim::network::Link;
use sim::{World, for_seeds, watching};

#[test]
fn everything_arrives_over_a_clean_network() {
    for_seeds(&[1, 2, 3], |seed| {
        let mut world = World::new(seed, 1 + (seed % 3) as usize);
        watching(&mut world, |world| {
            let publisher = world.publish("room", Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(5);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert_eq!((seen.lost, seen.lost_sounds, seen.undecodable), (0, 0, 0));
            assert!(seen.frames > 140 && seen.sounds > 240, "{} pictures, {} sounds", seen.frames, seen.sounds);
            assert!(world.publisher(publisher).key_frames <= 4);
            assert_eq!([Counter::NacksSent, Counter::NacksReceived].map(|nacks| world.server.count(nacks)), [0, 0]);
            assert_eq!(world.server.dropped(DropReason::SrtpAuthentication), 0);
        });
    });
}

/// A worker that is too busy for more makes the server refuse sessions; those there are go on, and later ones are taken again.
#[test]
fn a_busy_server_refuses_more_and_keeps_those_it_has() {
    for_seeds(&[5], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            world.publish("room", Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            assert!(world.server.ready());
            world.server.busy = 97;
            world.run_seconds(3);
            let refusal = world.refused("room").expect("refused");
            assert_eq!((refusal.status(), refusal.retry_after_secs()), (503, Some(10)));
            assert!(refusal.to_string().contains("limits.load"), "{refusal}");
            assert!(!world.server.ready(), "a load balancer is told");
            let before = world.viewer(viewer).frames;
            world.run_seconds(2);
            assert!(world.viewer(viewer).frames >= before + 55, "who is there goes on watching");
            world.server.busy = 60;
            world.run_seconds(3);
            let late = world.watch("room", Link::clean());
            world.run_seconds(2);
            world.assert_no_violations();
            assert!(world.server.ready() && world.viewer(late).frames > 30);
            assert_eq!(world.viewer(viewer).lost, 0);
        });
    });
}

/// One publisher and one viewer, both with lossy links in both directions.
fn under_loss(seed: u64, loss: f64, delivered_min: f64) {
    let mut world = World::new(seed, 1 + (seed % 2) as usize);
    watching(&mut world, |world| {
        world.publish("room", Link::lossy(loss));
        let viewer = world.watch("room", Link::lossy(loss));
        assert!(world.connect(20), "handshakes survive loss");
        world.run_seconds(10);
        world.assert_no_violations();
        let server = &world.server;
        let seen = world.viewer(viewer);
        let expected = (seen.frames + seen.lost) as f64;
        let delivered = (seen.frames - seen.undecodable) as f64 / expected;
        assert!(expected > 230.0, "{expected} pictures");
        assert!(delivered >= delivered_min, "{delivered:.4} of the pictures could be shown");
        // Sound is not retransmitted: what is asked for is most of the packets, not all.
        let recovered = server.count(Counter::Recovered) as f64 / server.count(Counter::MediaReceived) as f64;
        assert!(recovered > 0.15 * loss && recovered < 1.6 * loss, "{recovered:.4} recovered from the publisher");
        let repeated = server.count(Counter::Retransmitted) as f64 / server.count(Counter::MediaForwarded) as f64;
        assert!(repeated > 0.15 * loss && repeated < 3.0 * loss, "{repeated:.4} retransmitted to the viewer");
    });
}

#[test]
fn two_percent_loss_is_repaired() {
    for_seeds(&[11, 12, 13], |seed| under_loss(seed, 0.02, 0.95));
}

#[test]
fn ten_percent_loss_is_repaired() {
    for_seeds(&[21, 22, 23], |seed| under_loss(seed, 0.10, 0.80));
}

#[test]
fn reordering_and_duplication_do_no_harm() {
    for_seeds(&[31, 32], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            world.publish("room", Link::jittery(8_000, 0.05));
            let viewer = world.watch("room", Link::jittery(8_000, 0.05));
            assert!(world.connect(5));
            world.run_seconds(6);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert!(seen.frames > 160 && seen.lost == 0, "{} pictures, {} lost", seen.frames, seen.lost);
            assert!(seen.undecodable < 20, "{} undecodable at the start", seen.undecodable);
            let doubles = world.server.dropped(DropReason::SrtpReplay) + world.server.dropped(DropReason::Duplicate);
            assert!(doubles > 0, "the server saw duplicates");
        });
    });
}

/// The key frame that a viewer begins with is put in order again from the cache.
#[test]
fn a_publishers_reordering_is_repaired_for_the_viewer() {
    for_seeds(&[35, 36, 37, 38], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            world.publish("room", Link::jittery(8_000, 0.0));
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(5));
            world.run_seconds(2);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert!(seen.frames > 50, "{} pictures", seen.frames);
            assert_eq!((seen.lost, seen.undecodable, seen.gaps), (0, 0, 0));
            assert_eq!(world.server.dropped(DropReason::NackTooOld), 0);
        });
    });
}

#[test]
fn corrupted_packets_are_counted_and_go_no_further() {
    for_seeds(&[41, 42], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            // From the handshakes on: DTLS sends these in the clear, and a bit flipped there ends them (UDP's own checksum is there
            // to prevent it).
            world.publish("room", Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            for client in &mut world.clients {
                client.link = Link::corrupting(0.05);
            }
            world.run_seconds(6);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert!(seen.frames > 150, "{} pictures", seen.frames);
            assert!(world.server.dropped(DropReason::SrtpAuthentication) > 20);
        });
    });
}

/// Whatever becomes of handshakes over a network that corrupts: nothing is left of those that fail.
#[test]
fn handshakes_that_fail_leave_nothing_behind() {
    for_seeds(&[45, 46], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            for _ in 0..8 {
                world.watch("room", Link { loss: 0.1, ..Link::corrupting(0.2) });
            }
            world.run_seconds(40);
            assert_eq!(world.server.gauges.handshakes.load(std::sync::atomic::Ordering::Relaxed), 0);
            for client in &mut world.clients {
                client.link = Link::clean();
                client.alive &= client.connected;
            }
            world.run_seconds(35);
            let alive = world.clients.iter().filter(|client| client.alive).count();
            let viewers = world.server.rooms().first().map_or(0, |room| room.viewers);
            assert!(viewers <= alive, "{viewers} sessions, {alive} clients");
            assert_eq!(world.server.sessions(), viewers);
        });
    });
}

#[test]
fn a_viewer_stays_while_publishers_come_and_go() {
    for_seeds(&[51, 52, 53], |seed| {
        let mut world = World::new(seed, 1 + (seed % 3) as usize);
        watching(&mut world, |world| {
            let first = world.publish("room", Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(2);
            assert!(world.viewer(viewer).frames > 40);
            world.leave(first);
            world.run_seconds(1);
            let second = world.publish("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(3);
            let third_before = world.viewer(viewer).frames;
            world.leave(second);
            // At once, before anything has settled.
            world.publish("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(2);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert_eq!(seen.publishers.len(), 3, "saw {:?}", seen.publishers);
            assert!(seen.frames > third_before + 40);
            assert_eq!(seen.gaps, 0, "sequence numbers go on");
            // Opus, VP8, and RTX if anything was sent on it.
            assert!(seen.ssrcs.len() <= 3, "one SSRC for each stream: {:?}", seen.ssrcs);
        });
    });
}

#[test]
fn a_viewer_who_comes_first_gets_the_picture_when_it_starts() {
    for_seeds(&[61, 62], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(2);
            world.publish("room", Link::clean());
            assert!(world.connect(3));
            world.run_millis(1_200);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert!(seen.frames > 20 && seen.sounds > 40, "{} pictures, {} sounds", seen.frames, seen.sounds);
        });
    });
}

#[test]
fn a_viewer_who_comes_late_gets_the_picture_at_once() {
    for_seeds(&[65, 66], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            world.publish("room", Link::clean());
            assert!(world.connect(3));
            world.run_millis(3_000);
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_millis(300);
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert!(seen.frames > 3, "{} pictures 300 ms after the connection", seen.frames);
        });
    });
}

#[test]
fn media_follows_clients_whose_address_changes() {
    for_seeds(&[71, 72, 73], |seed| {
        let mut world = World::new(seed, 3);
        watching(&mut world, |world| {
            let publisher = world.publish("room", Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(2);
            for client in [viewer, publisher, viewer] {
                let before = world.viewer(viewer).frames;
                let address = world.address_elsewhere(world.clients[client].public);
                world.rebind(client, address);
                // Until the next check of the client's ICE, which is a few seconds away.
                world.run_seconds(6);
                assert!(world.viewer(viewer).frames > before + 30, "{} pictures", world.viewer(viewer).frames - before);
            }
            world.assert_no_violations();
            assert_eq!(world.server.count(Counter::AddressChanges), 3);
            assert!(world.server.count(Counter::HandedOver) > 500, "media was handed over between workers");
            assert_eq!(world.server.sessions(), 2);
            let flowing = world.viewer(viewer).last_at;
            assert!(world.now - flowing < 100_000, "still flows at the end");
        });
    });
}

#[test]
fn ice_restarts_while_media_flows() {
    for_seeds(&[81, 82], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            let publisher = world.publish("room", Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(1);
            for client in [viewer, publisher, viewer, viewer] {
                world.restart_ice(client);
                assert!(world.connect(5), "connected again");
                let before = world.viewer(viewer).frames;
                world.run_seconds(1);
                assert!(world.viewer(viewer).frames > before + 25);
            }
            world.assert_no_violations();
            assert_eq!(world.server.sessions(), 2);
        });
    });
}

#[test]
fn a_client_that_vanishes_is_given_up_after_thirty_seconds() {
    for_seeds(&[91], |seed| {
        let mut world = World::with_places(seed, 2, 2);
        watching(&mut world, |world| {
            let gone = world.watch("room", Link::clean());
            world.watch("room", Link::clean());
            assert!(world.connect(3));
            assert_eq!(world.server.sessions(), 2);
            world.vanish(gone);
            world.run_seconds(27);
            assert_eq!(world.server.sessions(), 2, "consent is good for 30 s");
            world.run_seconds(8);
            assert_eq!(world.server.sessions(), 1);
            assert_eq!(world.server.count(Counter::SessionsExpired), 1);
            assert_eq!(world.server.rooms()[0].viewers, 1);
            // Its place can be taken.
            world.watch("room", Link::clean());
            assert!(world.connect(3));
            assert_eq!(world.server.sessions(), 2);
        });
    });
}

#[test]
fn sixty_viewers_on_three_workers_get_everything() {
    for_seeds(&[101], |seed| {
        let mut world = World::new(seed, 3);
        watching(&mut world, |world| {
            world.publish("room", Link::clean());
            let viewers: Vec<usize> = (0..60).map(|_| world.watch("room", Link::clean())).collect();
            assert!(world.connect(5));
            world.run_seconds(3);
            world.assert_no_violations();
            for viewer in viewers {
                let seen = world.viewer(viewer);
                assert!(seen.frames > 80 && seen.sounds > 140, "{viewer}: {} pictures, {} sounds", seen.frames, seen.sounds);
                assert_eq!((seen.lost, seen.undecodable, seen.lost_sounds), (0, 0, 0), "viewer {viewer}");
            }
            assert!(world.server.workers.iter().all(|worker| worker.sessions() > 10), "all workers have their share");
            assert!(world.server.count(Counter::MeshSent) > 0);
            assert_eq!(world.server.dropped(DropReason::MeshFull), 0);
        });
    });
}

#[test]
fn a_jump_of_the_servers_clock_is_survived() {
    for_seeds(&[111, 112], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            world.publish("room", Link::lossy(0.01));
            let viewer = world.watch("room", Link::lossy(0.01));
            assert!(world.connect(10));
            world.run_seconds(2);
            for _ in 0..3 {
                let before = world.viewer(viewer).frames;
                world.server.skew += 5_000_000;
                world.run_seconds(2);
                assert!(world.viewer(viewer).frames > before + 50, "{} pictures", world.viewer(viewer).frames - before);
            }
            world.assert_no_violations();
            let seen = world.viewer(viewer);
            assert!(seen.lost + seen.undecodable < 30, "{} lost, {} undecodable", seen.lost, seen.undecodable);
            assert_eq!(world.server.sessions(), 2);
        });
    });
}

#[test]
fn rooms_do_not_hear_each_other() {
    for_seeds(&[121], |seed| {
        let mut world = World::new(seed, 3);
        watching(&mut world, |world| {
            let mut viewers = Vec::new();
            for room in 0..4 {
                let publisher = world.publish(&format!("room {room}"), Link::clean());
                let id = world.publisher(publisher).id;
                viewers.extend((0..3).map(|_| (id, world.watch(&format!("room {room}"), Link::clean()))));
            }
            assert!(world.connect(5));
            world.run_seconds(2);
            world.assert_no_violations();
            for (publisher, viewer) in viewers {
                assert_eq!(world.viewer(viewer).publishers, [publisher].into());
            }
        });
    });
}

/// A run is its seed, as far as chance is the simulator's: the same seed gives the same counters.
#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = World::new(seed, 1);
        world.publish("room", Link::clean());
        let viewer = world.watch("room", Link { jitter_micros: 5_000, ..Link::lossy(0.02) });
        assert!(world.connect(10));
        world.run_seconds(3);
        let seen = world.viewer(viewer);
        (seen.frames, seen.sounds, seen.lost, seen.last, world.network.lost)
    };
    for seed in [131, 132] {
        assert_eq!(run(seed), run(seed));
    }
}

/// What the server thinks of a viewer's path, in kilobits per second.
fn target(world: &mut World, viewer: usize) -> Option<u64> {
    let address = world.clients[viewer].public;
    let rooms = world.server.rooms();
    let session = rooms.iter().flat_map(|room| &room.sessions).find(|session| session.remote_address == Some(address))?;
    session.target_bitrate.map(|rate| rate / 1000)
}

/// A stream that is larger than the path of one viewer: the estimate settles within what the path carries; the other viewer, on a
/// wide path, loses nothing.
#[test]
fn the_estimate_settles_within_a_narrow_path() {
    for_seeds(&[131, 132], |seed| {
        let mut world = World::new(seed, 2);
        watching(&mut world, |world| {
            let publisher = world.publish("room", Link::clean());
            let narrow = world.watch("room", Link::narrow(1_000_000, 300));
            let wide = world.watch("room", Link::clean());
            assert!(world.connect(3));
            for (link, enlarged, settle, seconds) in [(1_000, 3, 10, 15), (300, 1, 8, 15)] {
                world.enlarge(publisher, enlarged);
                world.clients[narrow].link = Link::narrow(link * 1_000, 300);
                world.run_seconds(settle);
                let mut targets = Vec::new();
                for _ in 0..seconds {
                    world.run_seconds(1);
                    targets.extend(target(world, narrow));
                }
                let mean = targets.iter().sum::<u64>() / targets.len() as u64;
                assert!((link * 7 / 10..=link * 21 / 20).contains(&mean), "{mean} of {link} kb/s: {targets:?}");
            }
            world.assert_no_violations();
            let seen = world.viewer(wide);
            assert_eq!((seen.lost, seen.undecodable), (0, 0));
            assert!(target(world, wide) > Some(5_000), "{:?} on a path without limit", target(world, wide));
            assert!(world.server.dropped(DropReason::PacerFull) > 0, "what does not fit is not sent");
        });
    });
}

/// A key frame of some 16 kB leaves spread out to a narrow path, and at once to a wide one.
#[test]
fn a_key_frame_is_paced_as_its_path_allows() {
    for_seeds(&[141, 142, 143], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            world.publish("room", Link::clean());
            let viewers = [Link::narrow(1_000_000, 300), Link::clean()].map(|link| world.watch("room", link));
            assert!(world.connect(3));
            world.run_seconds(8);
            world.network.watched = viewers.map(|viewer| world.clients[viewer].public).to_vec();
            world.run_seconds(4);
            world.assert_no_violations();
            // The most bytes that left within so many milliseconds.
            let departures = &world.network.departures;
            let burst = |viewer: usize, millis: u64| {
                let of: Vec<_> = departures.iter().filter(|(_, to, _)| *to == world.clients[viewer].public).collect();
                let within = |from: u64| of.iter().filter(move |(at, ..)| (from..from + millis * 1000).contains(at));
                of.iter().map(|(from, ..)| within(*from).map(|(_, _, bytes)| bytes).sum::<usize>()).max().unwrap_or(0)
            };
            let [narrow, wide] = viewers.map(|viewer| [burst(viewer, 1), burst(viewer, 20)]);
            assert!(wide[0] > 9_000, "{wide:?}: {:?}", target(world, viewers[1]));
            assert!(narrow[0] < 6_000 && narrow[1] < 11_000, "{narrow:?}: {:?}", target(world, viewers[0]));
            for viewer in viewers {
                let seen = world.viewer(viewer);
                assert_eq!((seen.lost, seen.undecodable, seen.lost_sounds), (0, 0, 0), "viewer {viewer}");
            }
        });
    });
}
