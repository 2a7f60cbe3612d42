//! A path and what is told of it; a session whose packets have numbers, and what it repeats.

use arrayvec::ArrayVec;

use super::*;
use crate::mem::{Arena, SendBatch};
use crate::peer::send::Binding;
use crate::peer::{Keys, Peer};
use crate::rtp::config::{Codec, CodecConfig, FecConfig, Feedback, Format, MediaKind, Mid, StreamPair};
use crate::rtp::media::Media;
use crate::rtp::rewrite::Target;
use crate::secure::srtp::{KeyingMaterial, Profile, Receiver, Sender};
use crate::units::{PayloadType, PeerId, RtpTime, Ssrc, TrackId};
use crate::wire::extension::ExtensionMap;
use crate::wire::layer::Layer;
use crate::wire::picture::PictureIds;
use crate::wire::rtp::Header;
use crate::wire::twcc;

const NUMBER_ID: u8 = 3;
const VIDEO: PayloadType = PayloadType(96);
const RTX: PayloadType = PayloadType(97);
const RED: PayloadType = PayloadType(118);
const TRACK: TrackId = TrackId { slot: 0, generation: 0 };

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

/// One whose viewer tells by stream and sequence number: of SSRC 10, and of its RTX, 11.
fn path_by_stream() -> Box<Path> {
    let mut media = config(false, true, false);
    media.codecs[0].feedback.ccfb = true;
    Path::new(&[media], 65_500).expect("agreed")
}

/// A packet of 1200 bytes leaves.
fn leave_as(path: &mut Path, ssrc: u32, number: u16, now: Micros) {
    Leaving { path, now, cluster: 0 }.left(false, false, Ssrc(ssrc), SequenceNumber(number), 1200);
}

/// What another stack writes of each stream: its SSRC, first number, and offsets of arrival; made at a time in 1/65536 s.
fn ccfb(made: u32, blocks: &[(u32, u16, &[Option<u16>])]) -> Vec<u8> {
    use rtc_rtcp::transport_feedbacks::cc_feedback_report::*;
    let metric = |offset: &Option<u16>| CcFeedbackMetricBlock {
        received: offset.is_some(),
        ecn: Ecn::NotEct,
        arrival_time_offset: offset.unwrap_or(0),
    };
    let block = |(media_ssrc, begin_sequence, offsets): &(u32, u16, &[Option<u16>])| CcFeedbackReportBlock {
        media_ssrc: *media_ssrc,
        begin_sequence: *begin_sequence,
        metric_blocks: offsets.iter().map(metric).collect(),
    };
    let report = CcFeedbackReport { sender_ssrc: 1, report_blocks: blocks.iter().map(block).collect(), report_timestamp: made };
    rtc_rtcp::packet::marshal(&[Box::new(report)]).expect("a packet")[8..].to_vec()
}

/// 1/65536 s, of which 32 bits are told.
fn ticks(time: Micros) -> u32 {
    (time.0 as u128 * 65_536 / 1_000_000) as u32
}

/// RFC 8888 §3.1: 1/1024 s before the report's time, which is in 1/65536 s.
#[test]
fn arrivals_are_so_long_before_the_report_as_it_says() {
    let mut path = path_by_stream();
    (0..4).for_each(|number| leave_as(&mut path, 10, number, Micros::from_secs(1)));
    let next = path.transport.as_ref().map(|transport| transport.next.0).expect("it tells");
    let streams = path.streams.as_deref_mut().expect("by stream");
    let mut told = |made: u32, offsets: &[Option<u16>]| -> Vec<Option<i64>> {
        let report = ccfb(made, &[(10, 0, offsets)]);
        let report = crate::wire::ccfb::Report::parse(&report).expect("a report");
        let told = streams.told(&report, next - 4..next).expect("of what was sent");
        told.map(|(_, arrived)| arrived.map(|at| at.0 as i64)).collect()
    };
    let made = u32::MAX - 0x7fff;
    let first = told(made, &[Some(512), Some(256), Some(0x1fff), None]);
    let [Some(half), Some(quarter), None] = first[..] else { panic!("{first:?}") };
    assert_eq!(quarter - half, 250_000);
    // A second later the clock has wrapped; half a second before that, a report that was late.
    assert_eq!(told(made.wrapping_add(65_536), &[Some(0), None]), [Some(half + 1_500_000), None]);
    assert_eq!(told(made.wrapping_add(32_768), &[Some(1_024)]), [Some(half)]);
}

#[test]
fn packets_are_found_by_stream_and_number_over_every_wrap() {
    let mut path = path_by_stream();
    assert_eq!(Leaving { path: &mut path, now: Micros::ZERO, cluster: 0 }.number(), None, "no numbers are written");
    assert!(path.follows(Ssrc(10)) && path.follows(Ssrc(11)) && !path.follows(Ssrc(12)));
    let mut now = Micros::from_secs(5);
    // The receiver's clock wraps after 65,536 s: within this test.
    let ahead = Micros::from_secs(65_525);
    for round in 0..200u16 {
        for (ssrc, number) in [(10, 65_400 + 2 * round as u32), (11, 65_530 + round as u32), (10, 65_401 + 2 * round as u32)] {
            leave_as(&mut path, ssrc, number as u16, now);
        }
        let arrived = ticks(now + ahead + Micros::from_millis(20));
        now = now + Micros::from_millis(40);
        let told = ticks(now + ahead);
        let offset = (told.wrapping_sub(arrived) / 64) as u16;
        // In the order of SSRCs; the second packet of media is lost.
        let (media, rtx) = (65_400u32 + 2 * round as u32, 65_530u32 + round as u32);
        let blocks = [(10, media as u16, &[Some(offset), None][..]), (11, rtx as u16, &[Some(offset)])];
        assert_eq!(path.ccfb(&ccfb(told, &blocks), now), Ok(()), "{round}");
        now = now + Micros::from_millis(10);
    }
    assert_eq!(path.round_trip(), Some(Micros::from_millis(40)));
    assert!((0.30..0.36).contains(&path.loss()), "{}", path.loss());
    // Two packets of 1200 bytes in 50 ms.
    let acknowledged = path.stats().acknowledged.expect("told").0;
    assert!((320_000..400_000).contains(&acknowledged), "{acknowledged}");
}

#[test]
fn lies_by_stream_do_not_move_the_estimate() {
    let mut path = path_by_stream();
    let now = Micros::from_secs(5);
    let told = |path: &mut Path, made: u32, blocks: &[(u32, u16, &[Option<u16>])], now| path.ccfb(&ccfb(made, blocks), now);
    (0..20).for_each(|number| leave_as(&mut path, 10, 65_530u16.wrapping_add(number), now));
    let later = now + Micros::from_millis(60);
    let one = &[Some(1)][..];
    for (what, blocks) in [
        ("one more than was sent", &[(10, 65_530, &[Some(1); 21][..])][..]),
        ("the next", &[(10, 14, one)]),
        ("half a circle ahead", &[(10, 14 + 0x7ff0, one)]),
        ("of a stream of which nothing was sent", &[(11, 0, one)]),
        ("of a stream that is not", &[(12, 65_530, one)]),
        ("beside the truth", &[(10, 65_530, one), (12, 65_530, one)]),
        ("after the truth", &[(10, 65_530, one), (10, 14, one)]),
    ] {
        assert_eq!(told(&mut path, 1 << 20, blocks, later), Err(DropReason::FeedbackUnsent), "{what}");
    }
    assert_eq!(
        (path.ccfb(&[0; 7], later), path.ccfb(&[0; 3], later)),
        (Err(DropReason::RtcpMalformed), Err(DropReason::RtcpMalformed))
    );
    // Nothing of what is followed, and no time.
    told(&mut path, 1 << 20, &[(11, 0, &[])], later).unwrap();
    told(&mut path, 1 << 20, &[], later).unwrap();
    told(&mut path, 1 << 20, &[(10, 65_530, &[Some(0x1fff), Some(0x1ffe)])], later).unwrap();
    // Before the first that was sent.
    told(&mut path, 1 << 20, &[(10, 65_500, &[Some(1); 30])], later).unwrap();
    assert_eq!(path.target(), None, "nothing was learnt");
    let truth: Vec<_> = (0..20).map(|index| Some(200 - 10 * index)).collect();
    told(&mut path, 1 << 20, &[(10, 65_530, &truth)], later).unwrap();
    let (target, acknowledged) = (path.target(), path.stats().acknowledged);
    assert!(target.is_some());
    // The same again: lost, with other times, hours before and after.
    for (made, lie) in [(1 << 20, [None; 20]), (1 << 20, [Some(0x1ffd); 20]), (1 << 31, [Some(0); 20]), (9 << 28, [Some(7); 20])] {
        told(&mut path, made, &[(10, 65_530, &lie)], later).unwrap();
    }
    assert_eq!((path.target(), path.stats().acknowledged), (target, acknowledged));
    // The other kind was not agreed.
    let mut space = [0; 64];
    let arrivals = [Some(Micros(1))].into_iter();
    let (len, _) = twcc::write_feedback(&mut space, Ssrc(1), Ssrc(10), SequenceNumber(65_500), 0, arrivals).unwrap();
    assert_eq!(path.report(&space[12..len], later), Err(DropReason::FeedbackUnsent));
    assert_eq!(self::path().ccfb(&ccfb(1, &[]), later), Err(DropReason::FeedbackUnsent));
}

#[test]
fn whatever_is_told_by_stream_the_estimate_stays_within_its_bounds() {
    let mut path = path_by_stream();
    let mut random = 5u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let (mut taken, mut now, mut number) = (0, Micros::from_secs(1), 40_000u16);
    for _ in 0..3_000 {
        let first = number;
        for _ in 0..1 + next() % 30 {
            leave_as(&mut path, 10 + (next() % 2) as u32, number, now);
            number = number.wrapping_add(1);
        }
        now = now + Micros(next() % 60_000);
        let offsets: Vec<_> = (0..next() % 40).map(|_| (next() % 4 > 0).then(|| (next() % 0x2000) as u16)).collect();
        let begin = first.wrapping_add((next() % 40) as u16).wrapping_sub(30);
        let made = if next() % 3 == 0 { next() as u32 } else { ticks(now) };
        let report = ccfb(made, &[(10, begin, &offsets), (11, begin.wrapping_sub(5), &offsets)]);
        taken += path.ccfb(&report, now).is_ok() as u32;
        assert!(path.target().is_none_or(|target| (MIN.0 - 8..=MAX.0).contains(&target.0)), "{:?}", path.target());
        assert!(path.round_trip().is_none_or(|time| time.0 <= ROUND_TRIP_MAX) && path.loss() <= 1.0);
    }
    assert!(taken > 500, "{taken}");
}

/// Both kinds of feedback over the same bottleneck of 1 Mb/s and 200 ms, with all that may leave: means of the last ten seconds' target in
/// kilobits per second, and of the queue in milliseconds.
fn over_a_bottleneck(by_stream: bool) -> (u64, u64) {
    let mut path = if by_stream { path_by_stream() } else { path() };
    let (mut free, mut targets, mut queues) = (Micros::ZERO, Vec::new(), Vec::new());
    // Packets of which nothing was told: their number, and when they arrive.
    let mut sent: Vec<(u16, Option<Micros>)> = Vec::new();
    let mut number = 65_500u16;
    for step in 0..6_000u64 {
        let now = Micros::from_secs(1) + Micros(5_000 * step);
        while path.allowance(now) > 0 {
            // A packet takes 9.6 ms.
            let queue = free.since(now);
            let arrives = (queue <= 200_000).then(|| {
                free = Micros(free.0.max(now.0) + 9_600);
                free + Micros::from_millis(20)
            });
            Leaving { path: &mut path, now, cluster: 0 }.left(!by_stream, false, Ssrc(10), SequenceNumber(number), 1200);
            sent.push((number, arrives));
            queues.push((now, queue / 1000));
            number = number.wrapping_add(1);
        }
        if step % 10 != 0 {
            continue;
        }
        // Up to the newest that has arrived, made 20 ms ago.
        let made = Micros(now.0 - 20_000);
        let has_come = |arrives: &Option<Micros>| arrives.is_some_and(|arrives| arrives <= made);
        let Some(last) = sent.iter().rposition(|(_, arrives)| has_come(arrives)) else { continue };
        let told: Vec<_> = sent.drain(..=last).collect();
        if by_stream {
            let offset = |arrives: Micros| (ticks(made).wrapping_sub(ticks(arrives)) / 64) as u16;
            let offsets: Vec<_> = told.iter().map(|(_, arrives)| arrives.map(offset)).collect();
            path.ccfb(&ccfb(ticks(made), &[(10, told[0].0, &offsets)]), now).unwrap();
        } else {
            let arrivals: Vec<_> = told.iter().map(|(_, arrives)| arrives.map(|at| at.0)).collect();
            report(&mut path, SequenceNumber(told[0].0), &arrivals, now).unwrap();
        }
        targets.push((now, path.target().expect("told").0 / 1000));
    }
    let mean = |values: &[(Micros, u64)]| {
        let late: Vec<u64> = values.iter().filter(|(at, _)| at.0 >= 21_000_000).map(|(_, value)| *value).collect();
        late.iter().sum::<u64>() / late.len() as u64
    };
    (mean(&targets), mean(&queues))
}

#[test]
fn both_kinds_of_feedback_lead_to_the_same_estimate() {
    let ((wide, wide_queue), (by_stream, queue)) = (over_a_bottleneck(false), over_a_bottleneck(true));
    assert!((800..1_100).contains(&wide) && (800..1_100).contains(&by_stream), "{wide} and {by_stream} kb/s");
    assert!(wide.abs_diff(by_stream) < 100, "{wide} and {by_stream} kb/s");
    assert!(wide_queue < 100 && queue < 100, "{wide_queue} and {queue} ms");
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

/// On a long and lossy path a request may be lost as well. What feedback tells is lost is told once, and only of what can be sent again.
#[test]
fn losses_that_are_told_are_repaired_where_requests_may_be_lost() {
    let told = |round_trip: u64| {
        let mut path = path();
        let mut now = Micros::from_secs(1);
        let mut told = Vec::new();
        for round in 0..20u16 {
            let base = Leaving { path: &mut path, now, cluster: 0 }.number().expect("numbered");
            for packet in 0..20 {
                let (number, repeatable) = (SequenceNumber(100 * round + packet), packet != 3);
                Leaving { path: &mut path, now, cluster: 0 }.left(true, repeatable, Ssrc(10), number, 1200);
            }
            now = now + Micros::from_millis(round_trip);
            let arrivals: Vec<_> =
                (0..20).map(|packet| (packet != 3 && packet != 7).then_some(now.0 - 10_000 + packet as u64 * 250)).collect();
            report(&mut path, base, &arrivals, now).unwrap();
            told = path.take_lost().to_vec();
            assert!(path.take_lost().is_empty());
            report(&mut path, base, &arrivals, now).unwrap();
            assert!(path.take_lost().is_empty(), "nothing new");
        }
        told
    };
    assert_eq!(told(150), [SequenceNumber(1_907)]);
    assert_eq!(told(40), [], "a request comes soon");
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

/// A session that watches, its receiver, and packets for it.
struct Session {
    peer: Peer,
    receiver: Receiver,
    slots: crate::mem::Slots,
    batch: SendBatch,
}

impl Session {
    fn new(numbered: bool, rtx: bool) -> Session {
        let mut media = config(numbered, rtx, false);
        media.fec = (numbered && rtx).then_some(FecConfig { red: RED, ulpfec: PayloadType(120), red_rtx: None });
        Session::of(media)
    }

    fn of(media: MediaConfig) -> Session {
        let rtx = media.codecs[0].rtx.is_some();
        let profile = Profile::AeadAes128Gcm;
        let material = KeyingMaterial::from_exporter(profile, &vec![7; profile.keying_material_len()]).unwrap();
        let ((outbound, inbound), (_, remote)) = (material.clone().split(true), material.split(false));
        let mut peer = Peer::new(PeerId::default(), &[media], None, Ssrc(1), || 0x1234);
        peer.set_keys(Box::new(Keys { outbound: Sender::new(&outbound), inbound: Receiver::new(&inbound, 0) }));
        peer.checked("192.0.2.1:5000".parse().unwrap(), true, Micros::ZERO);
        let rtx = rtx.then_some(RTX);
        peer.senders[0].bind(Some(Binding { track: TRACK, payload_type: VIDEO, rtx, clock_rate: 90_000, encrypted: false }));
        peer.senders[0].aim(Some(Target::all(0)));
        Session { peer, receiver: Receiver::new(&remote, 4), slots: Arena::leak(64), batch: SendBatch::default() }
    }

    fn media(&mut self, sequence: u64) -> Media {
        let mut packet = self.slots.take().expect("a slot");
        packet.fill(&[sequence as u8; 900]);
        Media {
            track: TRACK,
            packet: packet.freeze(),
            header_len: 0,
            payload_len: 900,
            padding: 0,
            stream: 0,
            encoding: 0,
            layer: Layer::default(),
            marker: true,
            key_frame: true,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(0),
            arrival: Micros::from_secs(1),
            extensions: Default::default(),
            dependency: None,
            picture: PictureIds::default(),
        }
    }

    /// What was sent last, as it left.
    fn sent(&mut self) -> Vec<u8> {
        let last = self.batch.operations().last().copied().expect("something was sent");
        let bytes = self.batch.bytes(&last).to_vec();
        self.batch.clear();
        bytes
    }

    /// Its payload type, sequence number, transport-wide number and payload, once opened.
    fn open(&mut self, mut packet: Vec<u8>) -> (u8, u16, Option<u16>, Vec<u8>) {
        let header_len = Header::parse(&packet).unwrap().header_len;
        let (len, _) = self.receiver.unprotect_rtp(&mut packet, header_len).expect("authentic, and new");
        packet.truncate(len);
        let header = Header::parse(&packet).unwrap();
        let number = header.extension(NUMBER_ID).map(|data| u16::from_be_bytes(data.try_into().unwrap()));
        let payload = packet[header.payload_range(&packet).unwrap()].to_vec();
        (header.payload_type.0, header.sequence_number.0, number, payload)
    }
}

const AT: [Micros; 3] = [Micros::from_secs(1), Micros::from_secs(2), Micros::from_secs(3)];

#[test]
fn what_is_repeated_without_rtx_is_bit_by_bit_the_same() {
    let mut session = Session::new(false, false);
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    let first = session.sent();
    session.peer.retransmit(0, &media, true, AT[1], &mut session.batch).unwrap();
    assert_eq!(session.sent(), first);
    assert_eq!(session.open(first).2, None);
}

#[test]
fn what_has_a_number_is_repeated_by_rtx_with_another_or_not_at_all() {
    let mut session = Session::new(true, true);
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    let first = session.sent();
    let (payload_type, sequence, Some(number), payload) = session.open(first) else { panic!("no number") };
    assert_eq!((payload_type, &payload[..]), (96, media.payload()));
    let mut rtx_sequence = None;
    for (step, at) in AT.into_iter().enumerate() {
        session.peer.retransmit(0, &media, true, at, &mut session.batch).unwrap();
        let again = session.sent();
        let (payload_type, sequence_of_rtx, number_of_rtx, payload) = session.open(again);
        assert_eq!((payload_type, number_of_rtx), (97, Some(number.wrapping_add(1 + step as u16))));
        assert_eq!((&payload[..2], &payload[2..]), (&sequence.to_be_bytes()[..], media.payload()), "RFC 4588 §4");
        assert_ne!(rtx_sequence.replace(sequence_of_rtx), Some(sequence_of_rtx), "an SRTP index of its own");
    }
    // Negotiation does not let this come about; if it did, one index would protect two packets.
    let mut session = Session::new(true, false);
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    session.batch.clear();
    assert_eq!(session.peer.retransmit(0, &media, true, AT[1], &mut session.batch), Err(DropReason::NackTooOld));
    assert!(session.batch.is_empty());
}

#[test]
fn fec_follows_the_loss_of_a_long_path_and_ends_some_time_after_it() {
    let each = |lost: usize, round_trip: u64| {
        let mut path = path();
        let mut now = Micros::from_secs(1);
        for _ in 0..20 {
            let base = leave(&mut path, 100, now);
            now = now + Micros::from_millis(round_trip);
            let arrivals: Vec<_> =
                (0..100).map(|packet| (packet % 100 >= lost).then_some(now.0 - 10_000 + packet as u64 * 250)).collect();
            report(&mut path, base, &arrivals, now).unwrap();
            now = now + Micros::from_millis(100);
        }
        (path.protect(), path)
    };
    assert_eq!(each(1, 150).0, 0, "little is lost");
    assert_eq!(each(10, 40).0, 0, "what is asked for comes soon");
    let (light, heavy) = (each(4, 150).0, each(10, 150));
    assert!((5..=8).contains(&light) && heavy.0 == 4, "{light}, {}", heavy.0);
    let mut path = heavy.1;
    path.round_trip = Some(Micros::from_millis(40));
    assert_eq!((0..20).take_while(|_| path.protect() == 4).count(), FEC_SECONDS as usize - 1);
    assert_eq!(path.protect(), 0);
}

/// What left, packet by packet: all of it, as a receiver sees it after decryption.
fn opened(session: &mut Session) -> Vec<Vec<u8>> {
    let packets: Vec<_> = session.batch.operations().iter().map(|sent| session.batch.bytes(sent).to_vec()).collect();
    session.batch.clear();
    let open = |mut packet: Vec<u8>| {
        let header_len = Header::parse(&packet).unwrap().header_len;
        let (len, _) = session.receiver.unprotect_rtp(&mut packet, header_len).expect("authentic, and new");
        packet.truncate(len);
        packet
    };
    packets.into_iter().map(open).collect()
}

#[test]
fn fec_packets_stand_among_the_others_and_what_is_lost_can_be_computed() {
    let mut session = Session::new(true, true);
    let frame = |session: &mut Session, first: u64| -> (Vec<Media>, Vec<Vec<u8>>) {
        let (mut media, mut sent) = (Vec::new(), Vec::new());
        for sequence in first..first + 4 {
            let mut packet = session.media(sequence);
            (packet.marker, packet.picture.picture_id) = (sequence == first + 3, Some((1, true, 7)));
            session.peer.forward(0, &packet, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
            sent.extend(opened(session));
            media.push(packet);
        }
        (media, sent)
    };
    let plain = frame(&mut session, 70_000).1;
    session.peer.path.as_deref_mut().unwrap().protection = (4, 10);
    assert_eq!(session.peer.protect(), 0);
    let (media, with_fec) = frame(&mut session, 70_004);
    let (_, next) = frame(&mut session, 70_008);
    assert_eq!([plain.len(), with_fec.len(), next.len()], [4, 5, 5]);
    // No seam in the numbers of the stream, nor in those of the path; all on one SSRC.
    let all: Vec<_> = plain.iter().chain(&with_fec).chain(&next).map(|packet| (Header::parse(packet).unwrap(), packet)).collect();
    for pair in all.windows(2) {
        let number = |(header, _): &(Header, _)| u16::from_be_bytes(header.extension(NUMBER_ID).unwrap().try_into().unwrap());
        assert_eq!(pair[1].0.sequence_number, pair[0].0.sequence_number.next());
        assert_eq!(number(&pair[1]), number(&pair[0]).wrapping_add(1));
        assert_eq!(pair[1].0.ssrc, Ssrc(10));
    }
    let types: Vec<_> = all.iter().map(|(header, packet)| (header.payload_type.0, packet[header.header_len])).collect();
    assert!(types[..4].iter().all(|(payload_type, _)| *payload_type == 96));
    assert_eq!(types[4..9], [(118, 96), (118, 96), (118, 96), (118, 96), (118, 120)]);
    // The third is lost. Outside of RED, with zeros for its number:
    let bare = |packet: &[u8]| {
        let header_len = Header::parse(packet).unwrap().header_len;
        let (mut bare, number) = (packet[..header_len].to_vec(), 17);
        (bare[1], bare[number], bare[number + 1]) = (bare[1] & 0x80 | 96, 0, 0);
        bare.extend(&packet[header_len + 1..]);
        bare
    };
    let (fec_header, fec) = (&all[8].0, all[8].1);
    let fec = &fec[fec_header.header_len + 1..];
    let mut recovered = [&fec[..2], &fec[4..8], &fec[14..]].concat();
    for index in [0, 1, 3] {
        let packet = bare(&with_fec[index]);
        let sum = [&packet[..2], &packet[4..8], &packet[12..]].concat();
        recovered.iter_mut().zip(sum).for_each(|(byte, other)| *byte ^= other);
    }
    let lost = bare(&with_fec[2]);
    assert_eq!((recovered[0] & 0x3f, &recovered[1..]), (lost[0] & 0x3f, &[&lost[1..2], &lost[4..8], &lost[12..]].concat()[..]));
    assert!(lost.ends_with(&media[2].payload()[3..]));
    // Asked for all the same, it is sent again under the number it had; a FEC packet never is.
    let (number, of_fec) = (all[6].0.sequence_number, fec_header.sequence_number);
    assert_eq!(session.peer.senders[0].origin(number).map(|(_, sequence)| sequence), Some(media[2].sequence));
    assert_eq!(session.peer.senders[0].origin(of_fec), None);
    session.peer.retransmit(0, &media[2], true, AT[1], &mut session.batch).unwrap();
    let again = opened(&mut session).remove(0);
    let header = Header::parse(&again).unwrap();
    assert_eq!((header.payload_type, &again[header.header_len..][..2]), (RTX, &number.0.to_be_bytes()[..]));
    assert_eq!(session.peer.protect(), 2);
}

#[test]
fn what_is_told_by_stream_is_told_of_media_retransmissions_and_probes() {
    let mut media = config(false, true, false);
    media.codecs[0].feedback.ccfb = true;
    let mut session = Session::of(media);
    let mut numbers = Vec::new();
    for step in 0..4 {
        let media = session.media(70_000 + step);
        session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
        let packet = session.sent();
        numbers.push(session.open(packet));
        if step == 1 {
            session.peer.retransmit(0, &media, true, AT[0], &mut session.batch).unwrap();
        } else if step == 2 {
            assert_eq!(session.peer.probing_sender(), Some(0));
            session.peer.probe(0, None, 7, AT[0], &mut session.batch).unwrap();
        } else {
            continue;
        }
        let packet = session.sent();
        numbers.push(session.open(packet));
    }
    assert!(numbers.iter().all(|(_, _, number, _)| number.is_none()), "no transport-wide numbers");
    let of = |wanted: u8| -> Vec<u16> {
        numbers.iter().filter(|(payload_type, ..)| *payload_type == wanted).map(|(_, number, ..)| *number).collect()
    };
    let (media, rtx) = (of(96), of(97));
    assert_eq!((media.len(), rtx.len()), (4, 2));
    let path = session.peer.path.as_deref_mut().unwrap();
    let beyond = ccfb(1 << 20, &[(11, rtx[0], &[Some(9); 3])]);
    assert_eq!(path.ccfb(&beyond, AT[1]), Err(DropReason::FeedbackUnsent), "a third of RTX");
    path.ccfb(&ccfb(1 << 20, &[(11, rtx[0], &[Some(9); 2])]), AT[1]).unwrap();
    assert_eq!((path.target().is_some(), path.round_trip()), (true, Some(Micros::from_secs(1))), "both of RTX are known");
    let newest = path.transport.as_ref().map(|transport| transport.next.0);
    assert_eq!(newest, Some((1 << 16 | 0x1234) + 6), "one count for all");
    path.ccfb(&ccfb(1 << 20, &[(10, media[0], &[Some(9); 4])]), AT[2]).unwrap();
    assert!(path.round_trip() > Some(Micros::from_secs(1)), "and those of media");
}

#[test]
fn probes_are_retransmissions_or_padding_on_the_rtx_stream() {
    let mut session = Session::new(true, true);
    assert_eq!(session.peer.probing_sender(), None, "nothing flows");
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    session.batch.clear();
    let path = session.peer.path.as_deref_mut().unwrap();
    assert!(path.wants_probe() && path.begin_probe(AT[0]), "the first one of the start");
    let cluster = path.probe_due(AT[0]).expect("its first packet");
    assert_eq!(session.peer.probing_sender(), Some(0));
    assert_eq!(session.peer.senders[0].recent(0).map(|(_, sequence)| sequence), Some(media.sequence));
    session.peer.probe(0, Some(&media), cluster, AT[0], &mut session.batch).unwrap();
    let packet = session.sent();
    let (payload_type, sequence, _, payload) = session.open(packet);
    assert_eq!((payload_type, &payload[2..]), (97, media.payload()));
    session.peer.probe(0, None, cluster, AT[0], &mut session.batch).unwrap();
    let packet = session.sent();
    assert!(packet.len() > 224 && packet[0] & 0x20 != 0);
    assert_eq!(&packet[8..12], &11u32.to_be_bytes(), "never on the media SSRC");
    let (payload_type, next, number, payload) = session.open(packet);
    assert_eq!((payload_type, next, payload.len()), (97, sequence.wrapping_add(1), 0));
    assert!(number.is_some());
    // At its pace: 3 Mb/s.
    let path = session.peer.path.as_deref_mut().unwrap();
    assert_eq!(path.probe_due(AT[0]), None);
    assert_eq!(path.probe_due(AT[0] + Micros::from_millis(4)), Some(cluster));
    assert_eq!(path.probe_due(AT[1]), None, "too late");
    assert!(!path.has_probe());
}
