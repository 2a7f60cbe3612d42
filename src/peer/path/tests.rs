//! A path and what is told of it.

mod by_stream;
mod leaving;

use arrayvec::ArrayVec;

use super::*;
use crate::rtp::config::{Codec, CodecConfig, Feedback, Format, MediaKind, Mid, StreamPair};
use crate::units::{PayloadType, Ssrc};
use crate::wire::extension::ExtensionMap;
use crate::wire::twcc;

const NUMBER_ID: u8 = 3;
const VIDEO: PayloadType = PayloadType(96);
const RTX: PayloadType = PayloadType(97);

fn config(numbered: bool, rtx: bool, remb: bool) -> MediaConfig {
    let mut extensions = ExtensionMap::default();
    if numbered {
        extensions.set(ExtensionKind::TransportSequence, NUMBER_ID);
    }
    let feedback = Feedback { nack: true, pli: true, fir: true, transport_cc: numbered, ccfb: false, remb };
    let rtx_type = rtx.then_some(RTX);
    let codec = CodecConfig {
        codec: Codec::Vp8,
        payload_type: VIDEO,
        rtx: rtx_type,
        red: None,
        clock_rate: 90_000,
        format: Format::Any,
        feedback,
    };
    MediaConfig {
        mid: Mid::from("1").unwrap(),
        kind: MediaKind::Video,
        direction: Direction::SendOnly,
        codecs: ArrayVec::from_iter([codec]),
        extensions,
        fec: None,
        remote_streams: ArrayVec::new(),
        rids: ArrayVec::new(),
        local_stream: Some(StreamPair { media: Ssrc(10), rtx: rtx.then_some(Ssrc(11)) }),
    }
}

fn path() -> Box<Path> {
    Path::new(&[config(true, true, false)], 65_500).expect("agreed")
}

/// So many packets of 1200 bytes leave together; the number of the first.
fn leave(path: &mut Path, count: usize, now: Micros) -> SequenceNumber {
    let first = Leaving { path, now, cluster: 0 }.number().expect("numbered");
    for _ in 0..count {
        Leaving { path, now, cluster: 0 }.left(true, false, Ssrc(10), SequenceNumber(0), 1200);
    }
    first
}

/// A report as another stack's writer would make it, given when each packet arrived.
fn report(path: &mut Path, base: SequenceNumber, arrivals: &[Option<u64>], now: Micros) -> Result<(), DropReason> {
    let mut space = [0; 1200];
    let arrivals = arrivals.iter().map(|at| at.map(Micros));
    let (len, _) = twcc::write_feedback(&mut space, Ssrc(1), Ssrc(2), base, 0, arrivals).expect("something arrived");
    path.report(&space[12..len], now)
}

#[test]
fn a_packet_is_remembered_in_eight_bytes() {
    let now = Micros(u32::MAX as u64 * 3 + 77);
    let mut packet = Sent::new(Micros(now.0 - 500_000), 1472, 5, None);
    assert_eq!((packet.at(now), packet.bytes(), packet.tag()), (Micros(now.0 - 500_000), 1472, 5));
    assert!(packet.tell(false) && !packet.tell(false), "lost, told once");
    assert!(packet.tell(true) && !packet.tell(true) && !packet.tell(false), "and came after all");
    assert_eq!((packet.bytes(), packet.tag(), packet.number()), (1472, 5, None));
    let repeatable = Sent::new(Micros(now.0 - 500_000), 1472, 5, Some(SequenceNumber(65_535)));
    assert_eq!((repeatable.at(now), repeatable.bytes(), repeatable.tag()), (Micros(now.0 - 500_000), 1472, 5));
    assert_eq!((repeatable.number(), size_of::<Sent>()), (Some(SequenceNumber(65_535)), 8));
}

/// Sends 20 packets in each round trip, of which `lost` do not come; what was told to be lost then, to be sent again.
fn rounds(path: &mut Path, rounds: u16, round_trip: u64, lost: &[u16], now: &mut Micros) -> Vec<SequenceNumber> {
    let mut told = Vec::new();
    for round in 0..rounds {
        let base = Leaving { path, now: *now, cluster: 0 }.number().expect("numbered");
        for packet in 0..20 {
            let (number, repeatable) = (SequenceNumber(100 * round + packet), packet != 3);
            Leaving { path, now: *now, cluster: 0 }.left(true, repeatable, Ssrc(10), number, 1200);
        }
        *now = *now + Micros::from_millis(round_trip);
        let arrivals: Vec<_> =
            (0..20).map(|packet| (!lost.contains(&packet)).then_some(now.0 - 10_000 + packet as u64 * 250)).collect();
        report(path, base, &arrivals, *now).unwrap();
        told = path.take_lost().to_vec();
        assert!(path.take_lost().is_empty());
        // More of them in a second would be a flood.
        if round_trip >= 40 {
            report(path, base, &arrivals, *now).unwrap();
            assert!(path.take_lost().is_empty(), "nothing new");
        }
    }
    told
}

/// On a long and lossy path a request may be lost as well. What feedback tells is lost is told once, and only of what can be sent again.
#[test]
fn losses_that_are_told_are_repaired_where_requests_may_be_lost() {
    let told = |round_trip: u64| rounds(&mut path(), 20, round_trip, &[3, 7], &mut Micros::from_secs(1));
    assert_eq!(told(150), [SequenceNumber(1_907)]);
    assert_eq!(told(40), [], "a request comes soon");
}

/// Viewers on lossy paths are told to show video as late as repairs may come, and when that is over.
#[test]
fn repairs_come_in_time_to_be_shown() {
    let told = |path: &Path| {
        path.playout.data().map(|[a, b, c]| (u32::from(a) << 4 | u32::from(b) >> 4, (u32::from(b) & 15) << 8 | u32::from(c)))
    };
    // Round trip, losses of 20, and what is told, in hundredths of a second: repairs of one round, or of three; a short path's come by themselves.
    for (round_trip, lost, expected) in [
        (150, &[7][..], Some((23, 1_000))),
        (30, &[7], None),
        (150, &[], None),
        (30, &[3, 7, 11, 15], Some((35, 1_000))),
        (150, &[3, 7, 11, 15], Some((57, 1_000))),
        (400, &[3, 7, 11, 15], Some((70, 1_000))),
    ] {
        let (mut path, mut now) = (path(), Micros::from_secs(1));
        rounds(&mut path, 60, round_trip, lost, &mut now);
        path.protect();
        assert_eq!(told(&path), expected, "{round_trip} ms, {} lost", lost.len());
        rounds(&mut path, 200, round_trip, &[], &mut now);
        for _ in 0..playout::SECONDS {
            path.protect();
            assert_eq!(told(&path), expected, "not at once");
        }
        path.protect();
        path.protect();
        assert_eq!(told(&path), expected.map(|_| (0, 1_000)));
    }
}

#[test]
fn numbers_are_one_count_over_the_wrap_and_feedback_finds_its_packets() {
    let mut path = path();
    let mut now = Micros::from_secs(5);
    for round in 0..200u64 {
        let first = leave(&mut path, 3, now);
        assert_eq!(first, SequenceNumber(65_500).add(3 * round as u16));
        let arrived = now.0 + 20_000 + 7_000_000;
        now = now + Micros::from_millis(40);
        report(&mut path, first, &[Some(arrived), None, Some(arrived + 250)], now).unwrap();
        now = now + Micros::from_millis(10);
    }
    assert_eq!(path.round_trip(), Some(Micros::from_millis(40)));
    assert!((0.30..0.36).contains(&path.loss()), "{}", path.loss());
}

#[test]
fn lies_do_not_move_the_estimate() {
    let mut path = path();
    let now = Micros::from_secs(5);
    assert_eq!(path.target(), None);
    let first = leave(&mut path, 20, now);
    let later = now + Micros::from_millis(60);
    let future = [Some(1); 21];
    assert_eq!(report(&mut path, first, &future, later), Err(DropReason::FeedbackUnsent), "one more than was sent");
    assert_eq!(report(&mut path, first.add(20), &[Some(1)], later), Err(DropReason::FeedbackUnsent));
    assert_eq!(report(&mut path, first.add(0x7fff), &[Some(1)], later), Err(DropReason::FeedbackUnsent));
    // Of the time before the first packet, and of a history that is gone: nothing.
    for back in [900, 10] {
        report(&mut path, SequenceNumber(first.0.wrapping_sub(back)), &[Some(1)], later).unwrap();
    }
    assert_eq!(path.target(), None, "nothing was learnt");
    let truth: Vec<_> = (0..20).map(|index| Some(30_000 + index * 9_600)).collect();
    report(&mut path, first, &truth, later).unwrap();
    let (target, acknowledged) = (path.target(), path.stats().acknowledged);
    assert!(target.is_some());
    // The same again, with all lost, or with times that run backwards.
    let backwards: Vec<_> = (0..20).map(|index| Some(9_000_000 - index * 400_000)).collect();
    for lie in [&truth[..], &backwards] {
        report(&mut path, first, lie, later).unwrap();
    }
    assert_eq!((path.target(), path.stats().acknowledged), (target, acknowledged));
    // Garbage, and what cannot have been meant.
    assert_eq!(path.report(&[0; 7], later), Err(DropReason::RtcpMalformed));
}

#[test]
fn for_a_while_after_its_queue_grew_losses_are_not_by_chance() {
    let (mut path, mut now, mut arrived) = (path(), Micros::from_secs(1), 30_000);
    assert!(!path.ran_over(now));
    // 960 kb/s, of which two thirds get through.
    for _ in 0..100 {
        let first = leave(&mut path, 2, now);
        arrived += 30_000;
        report(&mut path, first, &[Some(arrived - 15_000), Some(arrived)], now).unwrap();
        now = now + Micros::from_millis(20);
    }
    assert!(path.ran_over(now), "{:?}", path.target());
    assert!(path.ran_over(now + Micros::from_secs(4)) && !path.ran_over(now + Micros::from_secs(6)));
}

#[test]
fn the_past_has_the_room_that_what_is_live_leaves() {
    let (mut path, mut silent, now) = (path(), path(), Micros::from_secs(5));
    let room = |path: &Path, kbps| path.room_for_past(Bitrate::kbps(kbps), now);
    assert_eq!(room(&path, 5_000), 125_000, "nothing is known: as much as may wait");
    path.waiting.bytes = 25_000;
    assert_eq!(room(&path, 5_000), 100_000);
    path.waiting.bytes = 0;
    path.heard = true;
    assert_eq!([0, 600, 900, 1_100].map(|kbps| room(&path, kbps)), [125_000, 100_000, 25_000, 0], "of 1 Mb/s in two seconds");
    path.flooded = true;
    assert_eq!(room(&path, 0), 0);
    leave(&mut silent, 1, now);
    assert_eq!(silent.room_for_past(Bitrate::kbps(5_000), now + Micros::from_secs(2)), u64::MAX, "it is not paced");
}

#[test]
fn whatever_is_told_the_estimate_stays_within_its_bounds() {
    let mut path = path();
    let mut random = 3u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let (mut taken, mut now) = (0, Micros::from_secs(1));
    for _ in 0..3_000 {
        let first = leave(&mut path, 1 + (next() % 30) as usize, now);
        now = now + Micros(next() % 60_000);
        let base = first.add((next() % 40) as u16).0.wrapping_sub(10);
        let mut time = next() << 12;
        let mut arrivals: Vec<_> = (0..1 + next() % 40)
            .map(|_| {
                time = (time + next() % 4_000_000).saturating_sub(2_000_000);
                (next() % 4 > 0).then_some(time)
            })
            .collect();
        arrivals.push(Some(time));
        taken += report(&mut path, SequenceNumber(base), &arrivals, now).is_ok() as u32;
        assert!(path.target().is_none_or(|target| (MIN.0 - 8..=MAX.0).contains(&target.0)), "{:?}", path.target());
        assert!(path.round_trip().is_none_or(|time| time.0 <= ROUND_TRIP_MAX) && path.loss() <= 1.0);
        assert!(path.allowance(now) <= (MAX.0 * 5 / 2 / 8 / BURST_PARTS) as i64);
    }
    assert!(taken > 500, "{taken}");
}

#[test]
fn a_flood_of_feedback_is_bounded() {
    let mut path = path();
    let now = Micros::from_secs(5);
    let first = leave(&mut path, 200, now);
    let taken = (0..200u16).filter(|index| report(&mut path, first.add(*index), &[Some(9)], now).is_ok()).count();
    assert_eq!(taken, PATH_FEEDBACK as usize);
    assert_eq!(report(&mut path, first, &[Some(9)], now), Err(DropReason::FeedbackFlood));
    assert_eq!(path.remb(Bitrate::kbps(500), now), Err(DropReason::FeedbackFlood));
    assert_eq!(report(&mut path, first, &[Some(9)], now + Micros::from_secs(1)), Ok(()));
}

#[test]
fn remb_is_the_target_where_there_is_nothing_better_and_is_clamped() {
    let mut path = Path::new(&[config(false, false, true)], 1).expect("agreed");
    let now = Micros::from_secs(1);
    assert_eq!((path.target(), path.allowance(now)), (None, i64::MAX), "nothing is known, nothing is paced");
    for (told, target) in [(0, MIN), (1 << 63, MAX), (u64::MAX, MAX), (800_000, Bitrate::kbps(800))] {
        path.remb(Bitrate(told), now).unwrap();
        assert_eq!(path.target(), Some(target));
    }
    assert!(path.allowance(now) < i64::MAX);
    assert_eq!(path.report(&[0; 20], now), Err(DropReason::FeedbackUnsent), "nothing of the kind was agreed");
    let mut numbered = self::path();
    numbered.remb(Bitrate::kbps(100), now).unwrap();
    assert_eq!(numbered.target(), None, "transport-wide feedback is better");
    assert!(Path::new(&[config(false, true, false)], 1).is_none());
}

/// Milliseconds in which so many packets of 1200 bytes leave.
fn time_to_leave(path: &mut Path, packets: usize, from: Micros) -> u64 {
    let (mut left, mut now) = (packets, from);
    loop {
        let mut allowance = path.allowance_of_waiting(now);
        while left > 0 && allowance > 0 {
            Leaving { path, now, cluster: 0 }.left(false, false, Ssrc(10), SequenceNumber(0), 1200);
            (allowance, left) = (allowance - 1200, left - 1);
        }
        if left == 0 {
            return now.since(from) / 1000;
        }
        now = now + Micros::from_millis(5);
    }
}

#[test]
fn a_key_frame_leaves_in_a_burst_or_spread_out_as_the_path_is_wide() {
    let mut path = Path::new(&[config(false, false, true)], 1).expect("agreed");
    let now = Micros::from_secs(1);
    // 30 kB.
    let mut time = |kilobits| {
        path.remb(Bitrate::kbps(kilobits), now).unwrap();
        path.allowance(now);
        (path.budget, path.surplus, path.refilled) = (i64::MAX / 2, 0, Micros::ZERO);
        time_to_leave(&mut path, 25, now)
    };
    assert_eq!(time(20_000), 0);
    // A quarter above the target, after the first of it left at once.
    let (wide, narrow) = (time(1_000), time(300));
    assert!((160..190).contains(&wide), "{wide}");
    assert!((540..620).contains(&narrow), "{narrow}");
}

#[test]
fn more_than_the_target_does_not_leave_for_long() {
    let mut path = Path::new(&[config(false, false, true)], 1).expect("agreed");
    let now = Micros::from_secs(1);
    path.remb(Bitrate::kbps(800), now).unwrap();
    // Ten seconds of the target.
    let time = time_to_leave(&mut path, 833, now);
    assert!((9_000..10_000).contains(&time), "{time}");
}

#[test]
fn a_viewer_that_never_tells_is_not_paced_for_long() {
    let mut path = path();
    let mut now = Micros::from_secs(5);
    assert!(path.allowance(now) < i64::MAX, "feedback may come");
    leave(&mut path, 5, now);
    now = now + Micros::from_millis(900);
    assert!(path.allowance(now) < i64::MAX);
    now = now + Micros::from_millis(200);
    assert_eq!((path.allowance(now), path.target()), (i64::MAX, None));
    let first = leave(&mut path, 5, now);
    report(&mut path, first, &[Some(1)], now + Micros::from_millis(50)).unwrap();
    assert!(path.allowance(now) < i64::MAX && path.target().is_some());
}

#[test]
fn retransmissions_have_their_share() {
    let mut path = Path::new(&[config(false, false, true)], 1).expect("agreed");
    path.remb(Bitrate::kbps(1_000), Micros::from_secs(1)).unwrap();
    let repeated = (0..10_000).filter(|step| path.may_repeat(1200, Micros::from_secs(1) + Micros(step * 1_000))).count();
    let rate = repeated * 1200 * 8 / 10;
    assert!((300_000..320_000).contains(&rate), "{rate} b/s of 1 Mb/s");
}
