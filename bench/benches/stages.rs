//! What the stages of a packet's way cost, with a 1200-byte video packet and, where keys matter, 500 receivers in turn: one
//! receiver's keys in the cache would flatter. From the parts to the whole: parse, open, receive, rewrite, seal, fan-out, and a
//! worker's whole turn.
//!
//! The baseline allocates and is generic: without fat link-time optimisation it looks three times worse than it is. So:
//!
//! ```text
//! CARGO_PROFILE_BENCH_LTO=fat CARGO_PROFILE_BENCH_CODEGEN_UNITS=1 cargo bench -p distributary-bench
//! ```

mod scene;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use distributary::rtp::rewrite::{History, Rewriter};
use distributary::wire::{demux, rtp};
use scene::{FanOut, PROFILE, Receiving, Room, client, exporter, keys, packet};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const RECEIVERS: usize = 500;

fn parse(criterion: &mut Criterion) {
    let mut space = [0; 1500];
    let (_, len) = packet(&mut space, 100);
    criterion.bench_function("classify and parse header", |bencher| {
        bencher.iter(|| {
            let packet = black_box(&space[..len]);
            let protocol = demux::classify(packet).expect("RTP");
            let header = rtp::Header::parse(packet).expect("a header");
            black_box((protocol, header.extensions().count(), header))
        });
    });
}

fn open(criterion: &mut Criterion) {
    let (mut sealer, mut opener) = (client(0), keys(0).inbound);
    let mut index = 100;
    criterion.bench_function("open (GCM-128)", |bencher| {
        bencher.iter_batched(
            || {
                // Each packet anew: a repeated one would be refused before any cryptography.
                let mut space = [0; 1500];
                index += 1;
                let (header, len) = packet(&mut space, index as u16);
                let sealed = sealer.protect_rtp(&mut space, header, len, index).expect("space");
                (space, header, sealed)
            },
            |(mut space, header, sealed)| opener.unprotect_rtp(&mut space[..sealed], header).expect("authentic"),
            BatchSize::SmallInput,
        );
    });
}

fn receive(criterion: &mut Criterion) {
    let receiving = std::cell::RefCell::new(Receiving::default());
    criterion.bench_function("receive: open, find the stream, count", |bencher| {
        bencher.iter_batched(
            || receiving.borrow_mut().sealed(),
            |packet| receiving.borrow_mut().receive(packet),
            BatchSize::NumIterations(64),
        );
    });
}

fn rewrite(criterion: &mut Criterion) {
    let mut receiving = Receiving::default();
    let sealed = receiving.sealed();
    let mut media = receiving.receive(sealed);
    let mut rewriters: Vec<(Rewriter, History)> =
        (0..RECEIVERS as u64).map(|session| (Rewriter::new(session * 77), History::default())).collect();
    let clocks = Default::default();
    let mut group = criterion.benchmark_group("for 500 receivers");
    group.throughput(Throughput::Elements(RECEIVERS as u64));
    group.bench_function("rewrite", |bencher| {
        bencher.iter(|| {
            media.sequence.0 += 1;
            for (rewriter, history) in &mut rewriters {
                let numbers = rewriter.take(black_box(&media), true, 90_000, &clocks, Some(history));
                black_box(numbers.expect("not dropped").expect("not left out"));
            }
        });
    });
    let mut sealers: Vec<_> = (0..RECEIVERS).map(client).collect();
    let (mut space, mut index) = ([0; 1500], 100);
    group.bench_function("seal (GCM-128)", |bencher| {
        bencher.iter(|| {
            index += 1;
            let (header, len) = packet(&mut space, index as u16);
            for sealer in &mut sealers {
                black_box(sealer.protect_rtp(&mut space, header, len, index).expect("space"));
            }
        });
    });
    let mut contexts: Vec<Context> = (0..RECEIVERS).map(baseline).collect();
    let mut sequence = 100u16;
    group.bench_function("baseline: webrtc-srtp protects (GCM-128)", |bencher| {
        bencher.iter(|| {
            sequence = sequence.wrapping_add(1);
            let (_, len) = packet(&mut space, sequence);
            for context in &mut contexts {
                black_box(context.encrypt_rtp(&space[..len]).expect("protected"));
            }
        });
    });
    group.finish();
}

fn baseline(session: usize) -> Context {
    let exporter = exporter(session);
    let (keys, salts) = exporter.split_at(2 * PROFILE.key_len());
    let (key, salt) = (&keys[PROFILE.key_len()..], &salts[PROFILE.salt_len()..]);
    Context::new(key, salt, ProtectionProfile::AeadAes128Gcm, None, None).expect("its lengths")
}

/// What `peer::send` does of it, and what a worker does, whose network is queues (a copy of each datagram, which no kernel makes).
fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan-out to 500");
    for burst in [1, 8] {
        group.throughput(Throughput::Elements((RECEIVERS * burst) as u64));
        let mut fan_out = FanOut::new(RECEIVERS, burst);
        group.bench_function(format!("rewrite, write and seal, {burst} packets each"), |bencher| bencher.iter(|| fan_out.turn()));
        let mut room = Room::new(RECEIVERS);
        group.bench_function(format!("a whole turn, {burst} packets each"), |bencher| bencher.iter(|| room.turn(burst)));
    }
    group.finish();
}

criterion_group!(stages, parse, open, receive, rewrite, fan_out);
criterion_main!(stages);
