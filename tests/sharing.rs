//! Viewers who share a bottleneck with a TCP connection of somebody else: nobody starves, and sound stays whole.
//!
//! A simulcast publisher on str0m sends 150, 700 and 2,000 kb/s: unlike the encoder of `bench/congestion`, which meets any rate, that leaves
//! much of a fair share unused, or is far more than it. `SIM_TRACE=1` prints each second.

#[path = "sim/mod.rs"]
mod sim;

use std::cell::RefCell;
use std::net::SocketAddr;

use sim::network::Link;
use sim::{World, for_seeds, watching};

/// Sizes of the encodings in quarters of 440 kb/s.
const ENCODINGS: [u8; 3] = [1, 6, 18];
/// Time that viewers have before the connection begins, and until all have found their share.
const ALONE: u64 = 8;
const SETTLES: u64 = 20;
const SHARED: u64 = 60;

/// Bits per second that each viewer and the connection got, and how many sounds the viewers missed.
struct Shares {
    rates: Vec<u64>,
    sounds_lost: f64,
}

impl Shares {
    /// Jain's index: 1 if all get the same, 1 / n if one gets everything.
    fn jain(&self) -> f64 {
        let sum = self.rates.iter().sum::<u64>() as f64;
        sum * sum / (self.rates.len() as f64 * self.rates.iter().map(|rate| (rate * rate) as f64).sum::<f64>())
    }
}

fn passed(world: &World) -> Vec<u64> {
    let passed = |address: &SocketAddr| world.network.passed.get(address).copied().unwrap_or(0);
    world.network.sharing.iter().map(passed).collect()
}

fn trace(world: &mut World, viewers: &[usize], before: &[u64]) {
    let rooms = world.server.rooms();
    let sessions = || rooms.iter().flat_map(|room| &room.sessions);
    let told = viewers.iter().map(|viewer| {
        let address = world.clients[*viewer].public;
        let session = sessions().find(|session| session.remote_address == Some(address));
        let layer = session.and_then(|session| session.layer_sent.clone()?.encoding);
        format!("{:?} {:?}", session.and_then(|session| session.target_bitrate).map(|rate| rate / 1000), layer)
    });
    let told: Vec<String> = told.collect();
    let rates: Vec<u64> = passed(world).iter().zip(before).map(|(now, before)| 8 * (now - before) / 1000).collect();
    let waited = world.network.waited.last().map_or(0, |(_, _, micros)| micros / 1000);
    eprintln!("{:>4} s: targets {told:?}, kb/s {rates:?}, queue {waited} ms", world.now / 1_000_000);
}

/// So many viewers and a connection over 3 Mb/s with a queue of so many milliseconds.
fn share(seed: u64, viewers: usize, queue_millis: u64, latency_micros: u64) -> Shares {
    let mut world = World::new(seed, 1);
    let mut shares = Shares { rates: Vec::new(), sounds_lost: 0.0 };
    watching(&mut world, |world| {
        world.publish_simulcast("room", &ENCODINGS, Link::clean());
        let link = Link { latency_micros, ..Link::narrow(3_000_000, queue_millis) };
        let viewers: Vec<usize> = (0..viewers).map(|_| world.watch("room", link)).collect();
        world.share(&viewers, ALONE * 1_000_000);
        world.network.watched = vec![world.clients[viewers[0]].public];
        assert!(world.connect(3));
        let heard = |world: &World| viewers.iter().map(|viewer| world.viewer(*viewer).sounds).sum::<u64>();
        let (mut before, mut sounds) = (Vec::new(), 0);
        while world.now < (ALONE + SETTLES + SHARED) * 1_000_000 {
            let second = passed(world);
            world.run_seconds(1);
            if std::env::var_os("SIM_TRACE").is_some() {
                trace(world, &viewers, &second);
            }
            if before.is_empty() && world.now >= (ALONE + SETTLES) * 1_000_000 {
                (before, sounds) = (passed(world), heard(world));
            }
        }
        shares.rates = passed(world).iter().zip(&before).map(|(now, before)| 8 * (now - before) / SHARED).collect();
        shares.sounds_lost = 1.0 - (heard(world) - sounds) as f64 / (50 * SHARED * viewers.len() as u64) as f64;
        world.assert_no_violations();
    });
    shares
}

/// Jain's index that is wanted is 0.8. With both viewers on the second encoding all the time it is 0.92; 0.89 to 0.92 are reached, and were 0.77 to
/// 0.89 when layers followed each cut and frames left at once. A queue of 50 ms is not held here: where it is no longer than the round trip the
/// others' cuts empty it, and viewers that take it for their own give way.
#[test]
fn nobody_starves_beside_tcp() {
    let unfair = RefCell::new(Vec::new());
    for (queue_millis, latency_micros) in [(100, 10_000), (100, 25_000), (200, 25_000)] {
        for_seeds(&[301, 303, 305], |seed| {
            let shares = share(seed, 2, queue_millis, latency_micros);
            let path = format!("queue of {queue_millis} ms, round trip of {} ms", latency_micros / 500);
            let told = format!(
                "{seed}, {path}: {:.3} {:?} b/s, {:.3} of the sounds lost",
                shares.jain(),
                shares.rates,
                shares.sounds_lost
            );
            if std::env::var_os("SIM_TRACE").is_some() {
                eprintln!("{told}");
            }
            if shares.jain() < 0.85 || shares.sounds_lost >= 0.05 {
                unfair.borrow_mut().push(told);
            }
        });
    }
    let unfair = unfair.into_inner();
    assert!(unfair.is_empty(), "{unfair:#?}");
}
