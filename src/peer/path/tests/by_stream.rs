//! Feedback by stream and sequence number (RFC 8888).

use super::*;

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
pub fn ccfb(made: u32, blocks: &[(u32, u16, &[Option<u16>])]) -> Vec<u8> {
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
