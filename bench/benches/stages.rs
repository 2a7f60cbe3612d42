//! What the stages of a packet's way cost, with a 1200-byte video packet and, where keys matter, 500 receivers in turn: one
//! receiver's keys in the cache would flatter.
//!
//! The baseline allocates and is generic: without fat link-time optimisation it looks three times worse than it is. So:
//!
//! ```text
//! CARGO_PROFILE_BENCH_LTO=fat CARGO_PROFILE_BENCH_CODEGEN_UNITS=1 cargo bench -p distributary-bench
//! ```

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use distributary::mem::{Arena, SendBatch, Slots};
use distributary::rtp::media::Media;
use distributary::rtp::rewrite::Rewriter;
use distributary::secure::srtp::{KeyingMaterial, Profile, Receiver, Sender};
use distributary::units::{ExtendedSequence, Micros, PayloadType, RtpTime, SequenceNumber, Ssrc, TrackId};
use distributary::wire::{demux, rtp, vp8};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const RECEIVERS: usize = 500;
const PAYLOAD: usize = 1160;
const PROFILE: Profile = Profile::AeadAes128Gcm;
const MID: (u8, &[u8]) = (4, b"1");

/// Keying material of one session, different for each.
fn exporter(session: usize) -> Vec<u8> {
    let mut state = session as u64 + 1;
    (0..PROFILE.keying_material_len())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn sender(session: usize) -> Sender {
    let material = KeyingMaterial::from_exporter(PROFILE, &exporter(session)).expect("its length");
    Sender::new(&material.split(true).0)
}

/// The opposite end of [`sender`].
fn receiver(session: usize) -> Receiver {
    let material = KeyingMaterial::from_exporter(PROFILE, &exporter(session)).expect("its length");
    Receiver::new(&material.split(false).1, 4)
}

/// A plaintext packet as a publisher sends it, and the length of its header.
fn packet(space: &mut [u8], sequence: u16) -> (usize, usize) {
    let number = SequenceNumber(sequence);
    let elements = [MID, (3, &[0, 1]), (2, &[1, 2, 3])].into_iter();
    let header = rtp::write_header(space, false, PayloadType(96), number, RtpTime(90_000), Ssrc(7), elements).expect("space");
    let payload = &mut space[header..header + PAYLOAD];
    payload.fill(0x5a);
    payload[..6].copy_from_slice(&[0x90, 0xe0, 0x81, 0x02, 3, 0]);
    (header, header + PAYLOAD)
}

fn media(slots: &mut Slots) -> Media {
    let mut space = [0; 1500];
    let (header_len, len) = packet(&mut space, 100);
    let mut packet = slots.take().expect("a slot");
    packet.fill(&space[..len]);
    Media {
        track: TrackId::default(),
        packet: packet.freeze(),
        header_len: header_len as u16,
        payload_len: PAYLOAD as u16,
        padding: 0,
        stream: 0,
        marker: false,
        key_frame: true,
        sequence: ExtendedSequence::first(SequenceNumber(100)),
        timestamp: RtpTime(90_000),
        arrival: Micros(0),
        extensions: Default::default(),
        picture: vp8::parse(&space[header_len..len]).expect("a descriptor").picture_ids(),
    }
}

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
    let (mut sealer, mut opener) = (sender(0), receiver(0));
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

/// One receiver's part of the fan-out, as `peer::send` does it.
struct Subscription {
    rewriter: Rewriter,
    keys: Sender,
    to: SocketAddr,
}

impl Subscription {
    fn send(&mut self, media: &Media, batch: &mut SendBatch) {
        let numbers = self.rewriter.rewrite(media).expect("after the switch");
        let space = batch.space();
        let (sequence, time) = (numbers.sequence.number(), numbers.timestamp);
        let elements = std::iter::once(MID);
        let header = rtp::write_header(space, media.marker, PayloadType(96), sequence, time, Ssrc(9), elements).expect("space");
        let len = header + media.payload().len();
        let payload = &mut space[header..len];
        payload.copy_from_slice(media.payload());
        media.picture.patch(payload, numbers.picture_id, numbers.tl0_pic_idx);
        let sealed = self.keys.protect_rtp(space, header, len, numbers.sequence.0).expect("space");
        batch.commit(self.to, sealed);
    }
}

fn rewrite_and_seal(criterion: &mut Criterion) {
    let mut slots = Arena::leak(64);
    let mut media = media(&mut slots);
    let mut subscriptions: Vec<Subscription> = (0..RECEIVERS)
        .map(|session| {
            let mut rewriter = Rewriter::new(session as u64 * 77);
            rewriter.switch(&media, 90_000);
            Subscription { rewriter, keys: sender(session), to: ([127, 0, 0, 1], 1000 + session as u16).into() }
        })
        .collect();
    let mut batch = SendBatch::default();
    let mut group = criterion.benchmark_group("fan-out to 500");
    group.throughput(Throughput::Elements(RECEIVERS as u64));
    for burst in [1, 8] {
        group.throughput(Throughput::Elements((RECEIVERS * burst) as u64));
        group.bench_function(format!("rewrite and seal (GCM-128), {burst} packets each"), |bencher| {
            bencher.iter(|| {
                for subscription in &mut subscriptions {
                    for packet in 0..burst as u64 {
                        if !batch.has_room() {
                            batch.clear();
                        }
                        let mut next = media.clone();
                        next.sequence.0 += packet;
                        subscription.send(&next, &mut batch);
                    }
                }
                media.sequence.0 += burst as u64;
            });
        });
    }
    group.finish();
}

fn baseline(criterion: &mut Criterion) {
    let mut contexts: Vec<Context> = (0..RECEIVERS)
        .map(|session| {
            let exporter = exporter(session);
            let (keys, salts) = exporter.split_at(2 * PROFILE.key_len());
            let (key, salt) = (&keys[PROFILE.key_len()..], &salts[PROFILE.salt_len()..]);
            Context::new(key, salt, ProtectionProfile::AeadAes128Gcm, None, None).expect("its lengths")
        })
        .collect();
    let mut space = [0; 1500];
    let mut sequence = 100u16;
    let mut group = criterion.benchmark_group("fan-out to 500");
    group.throughput(Throughput::Elements(RECEIVERS as u64));
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

criterion_group!(stages, parse, open, rewrite_and_seal, baseline);
criterion_main!(stages);
