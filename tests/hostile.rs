//! What strangers and ill-meaning members can send: each datagram costs a counter, none a panic, an answer that would make the
//! server a reflector, or a table that grows; and everybody else's media keeps flowing.

#[path = "sim/mod.rs"]
mod sim;

use std::collections::HashMap;
use std::net::SocketAddr;

use distributary::limits::{CANDIDATES_MAX, MEDIA_SECTIONS_MAX, SDP_BYTES_MAX, SESSIONS_MAX, STREAMS_PER_PEER};
use distributary::metrics::{Counter, DropReason};
use distributary::secure::dtls::Identity;
use distributary::signal::api::Purpose;
use distributary::units::{Micros, PayloadType, RtpTime, SequenceNumber, Ssrc};
use distributary::wire::rtp::Header;
use distributary::wire::{rtcp, rtp, twcc};
use sim::native::{AUDIO, AUDIO_SSRC, Native, VIDEO, VIDEO_SSRC, offer, plain_rtp};
use sim::network::Link;
use sim::random::Random;
use sim::{World, for_seeds, watching};

/// A world in which somebody publishes and somebody watches.
fn busy_world(seed: u64, workers: usize) -> (World, usize) {
    let mut world = World::new(seed, workers);
    world.publish("others", Link::clean());
    let viewer = world.watch("others", Link::clean());
    assert!(world.connect(5));
    world.run_millis(500);
    (world, viewer)
}

/// Whatever happened, the others saw everything.
fn assert_undisturbed(world: &mut World, viewer: usize) {
    world.run_millis(500);
    world.assert_no_violations();
    let seen = world.viewer(viewer);
    assert!(world.now - seen.last_at < 100_000, "the last picture came {} ms ago", (world.now - seen.last_at) / 1000);
    assert_eq!((seen.lost, seen.undecodable, seen.lost_sounds), (0, 0, 0), "{} pictures", seen.frames);
}

/// As [`costs`], and no answer goes back.
fn costs_a_stranger(world: &mut World, reason: DropReason, from: SocketAddr, datagram: &[u8]) {
    world.heard.clear();
    costs(world, reason, from, datagram);
    assert!(world.heard.is_empty(), "{} was answered", reason.label());
}

/// Delivers a datagram and says that it costs one drop of this reason.
fn costs(world: &mut World, reason: DropReason, from: SocketAddr, datagram: &[u8]) {
    if !world.listen.contains(&from) {
        world.listen.push(from);
    }
    let (sessions, dropped) = (world.server.sessions(), world.server.dropped(reason));
    world.server.deliver(from, datagram);
    world.run_millis(2);
    let what = || format!("{} bytes, {:02x?}…", datagram.len(), &datagram[..datagram.len().min(16)]);
    assert_eq!(world.server.dropped(reason), dropped + 1, "{} is {}: {}", what(), reason.label(), world.server.tally());
    assert_eq!(world.server.sessions(), sessions);
}

/// Everything dropped for what it was; not what a receiver could not be shown yet.
fn refused(world: &World) -> u64 {
    let reasons = DropReason::ALL.iter().filter(|reason| **reason != DropReason::AwaitingKeyFrame);
    reasons.map(|reason| world.server.dropped(*reason)).sum()
}

/// A STUN message of these attributes, its FINGERPRINT right (RFC 8489 §14.7) if it has one.
fn stun(kind: u16, attributes: &[(u16, &[u8])], fingerprint: bool) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend_from_slice(&[0, 0, 0x21, 0x12, 0xa4, 0x42]);
    message.extend_from_slice(&[7; 12]);
    for (attribute, value) in attributes {
        message.extend_from_slice(&attribute.to_be_bytes());
        message.extend_from_slice(&(value.len() as u16).to_be_bytes());
        message.extend_from_slice(value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let len = message.len() - 20 + if fingerprint { 8 } else { 0 };
    message[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    if fingerprint {
        let crc = message.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ *byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        });
        message.extend_from_slice(&[0x80, 0x28, 0, 4]);
        message.extend_from_slice(&(!crc ^ 0x5354_554e).to_be_bytes());
    }
    message
}

#[test]
fn strangers_are_counted_and_not_answered() {
    let (mut world, viewer) = busy_world(1, 2);
    let mut member = Native::join(&mut world, "room", Purpose::Publish);
    let stranger = world.new_address();
    let user = format!("{}:nativ", member.server_ufrag);

    let world_ref = &mut world;
    let mut expect = |reason, datagram: &[u8]| costs_a_stranger(world_ref, reason, stranger, datagram);
    expect(DropReason::StunMalformed, &[0; 20]);
    expect(DropReason::StunMalformed, &[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42]);
    // Integrity and fingerprint are asked for, both of them (RFC 8445 §7.1).
    expect(DropReason::StunUnauthenticated, &stun(1, &[], false));
    expect(DropReason::StunUnauthenticated, &stun(1, &[(6, user.as_bytes())], false));
    expect(DropReason::StunUnauthenticated, &stun(1, &[(6, user.as_bytes())], true));
    expect(DropReason::StunUnauthenticated, &stun(1, &[(6, user.as_bytes()), (8, &[0; 20])], true));
    expect(DropReason::StunUnauthenticated, &stun(1, &[(6, b"no colon")], true));
    expect(DropReason::StunUnknownUser, &stun(1, &[(6, b"nobody:nativ")], true));
    expect(DropReason::StunUnknownUser, &stun(1, &[(6, b"a user name longer than any of ours can be:x")], true));
    expect(DropReason::StunUnknownUser, &stun(1, &[(6, b"\xff\xfe\xfd:x")], true));
    expect(DropReason::StunUnexpected, &stun(0x101, &[], true));
    expect(DropReason::StunUnexpected, &stun(0x011, &[], true));
    expect(DropReason::StunUnexpected, &stun(0x111, &[], true));
    let ufrag = member.server_ufrag.clone();
    expect(DropReason::StunUnauthenticated, &member.check_with(&ufrag, "not the password of the server"));
    expect(DropReason::StunUnknownUser, &member.check_with("unknown", &member.server_password.clone()));
    expect(DropReason::UnknownSource, &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
    expect(DropReason::UnknownSource, &plain_rtp(VIDEO_SSRC, VIDEO, 1, &[0; 50]).0);
    expect(DropReason::UnknownSource, &[0x80, 200, 0, 1, 0, 0, 0, 0]);
    expect(DropReason::RtpMalformed, &[0x80]);
    expect(DropReason::UnknownProtocol, &[0x41; 30]);
    expect(DropReason::Empty, &[]);
    expect(DropReason::Oversize, &[0x80; 1700]);
    assert_undisturbed(&mut world, viewer);
}

#[test]
fn members_can_send_nothing_that_harms_others() {
    let (mut world, viewer) = busy_world(2, 2);
    let mut publisher = Native::join(&mut world, "room", Purpose::Publish);
    publisher.claim(&mut world);
    let from = publisher.address;
    costs(&mut world, DropReason::BeforeKeys, from, &plain_rtp(VIDEO_SSRC, VIDEO, 1, &[0; 50]).0);
    costs(&mut world, DropReason::BeforeKeys, from, &[0x80, 201, 0, 1, 0, 0, 0, 1]);
    publisher.connect(&mut world);

    costs(&mut world, DropReason::SrtpAuthentication, from, &plain_rtp(VIDEO_SSRC, VIDEO, 1, &[0; 50]).0);
    let packet = publisher.rtp(AUDIO_SSRC, AUDIO, 1, &[0xf8; 40]);
    world.server.deliver(from, &packet);
    world.tick();
    costs(&mut world, DropReason::SrtpReplay, from, &packet);
    costs(&mut world, DropReason::SsrcUnknown, from, &publisher.rtp(Ssrc(1), PayloadType(77 + 23), 1, &[1; 40]));
    costs(&mut world, DropReason::PayloadTypeUnknown, from, &publisher.rtp(AUDIO_SSRC, PayloadType(100), 2, &[1; 40]));
    costs(&mut world, DropReason::PayloadMalformed, from, &publisher.rtp(VIDEO_SSRC, VIDEO, 1, &[0x90, 0xff]));
    // Whatever is cut off: never authentic.
    let whole = publisher.rtp(VIDEO_SSRC, VIDEO, 2, &[0x10; 60]);
    for len in 1..whole.len() {
        let before = refused(&world);
        world.server.deliver(from, &whole[..len]);
        world.tick();
        assert_eq!(refused(&world), before + 1, "{len} of {} bytes", whole.len());
    }
    // A flood of SSRCs ends at the limit.
    let limited = |world: &World| world.server.dropped(DropReason::SsrcLimit);
    for ssrc in 0..200 {
        let packet = publisher.rtp(Ssrc(1000 + ssrc), VIDEO, 1, &[0x10; 20]);
        world.server.deliver(from, &packet);
        world.tick();
    }
    assert!(limited(&world) >= 200 - STREAMS_PER_PEER as u64, "{}", limited(&world));

    let mut watcher = Native::join(&mut world, "room", Purpose::Watch);
    watcher.claim(&mut world);
    watcher.connect(&mut world);
    let from = watcher.address;
    costs(&mut world, DropReason::NotPublishing, from, &watcher.rtp(VIDEO_SSRC, VIDEO, 1, &[0x10; 20]));
    assert_undisturbed(&mut world, viewer);
}

#[test]
fn rtcp_that_lies_is_refused() {
    let (mut world, viewer) = busy_world(3, 1);
    let mut watcher = Native::join(&mut world, "others", Purpose::Watch);
    watcher.claim(&mut world);
    watcher.connect(&mut world);
    let from = watcher.address;
    // Lengths beyond the end, of the first packet and of the second; a wrong version; report blocks that are not there.
    for lie in [
        &[0x80, 201, 0xff, 0xff, 0, 0, 0, 1][..],
        &[0x80, 201, 0, 1, 0, 0, 0, 1, 0x81, 206, 0, 200, 0, 0, 0, 1],
        &[0x40, 201, 0, 1, 0, 0, 0, 1],
        &[0x9f, 201, 0, 1, 0, 0, 0, 1],
        &[0x9f, 200, 0, 1, 0, 0, 0, 1],
        &[0xa0, 201, 0, 2, 0, 0, 0, 1, 0, 0, 0, 99],
    ] {
        let datagram = watcher.rtcp(lie);
        let before = refused(&world);
        world.server.deliver(from, &datagram);
        world.tick();
        assert_eq!(refused(&world), before + 1, "{lie:02x?}: {}", world.server.tally());
    }
    // NACKs for everything there could be, again and again: answered from what is kept, within the receiver's allowance.
    let media: Vec<u32> =
        watcher.answer.lines().filter_map(|line| line.strip_prefix("a=ssrc:")?.split(' ').next()?.parse().ok()).collect();
    let numbers: Vec<SequenceNumber> = (0..=u16::MAX).step_by(16).map(SequenceNumber).collect();
    for _ in 0..20 {
        for ssrc in media.iter().chain(&[1]) {
            for chunk in numbers.chunks(200) {
                let mut space = [0; 1500];
                let len = rtcp::write_nack(&mut space, Ssrc(9), Ssrc(*ssrc), chunk).expect("room enough");
                let datagram = watcher.rtcp(&space[..len]);
                world.server.deliver(from, &datagram);
            }
            let mut space = [0; 64];
            let len = rtcp::write_pli(&mut space, Ssrc(9), Ssrc(*ssrc)).expect("room enough");
            let datagram = watcher.rtcp(&space[..len]);
            world.server.deliver(from, &datagram);
        }
        world.tick();
    }
    assert!(world.server.dropped(DropReason::NackTooOld) > 10_000);
    assert!(world.server.count(Counter::KeyFrameRequests) < 6, "key-frame requests are merged");
    assert_undisturbed(&mut world, viewer);
}

#[test]
fn a_hundred_thousand_random_datagrams_change_nothing() {
    for_seeds(&[5], |seed| {
        let (mut world, viewer) = busy_world(seed, 2);
        watching(&mut world, |world| {
            let mut random = Random::new(seed);
            let mut publisher = Native::join(world, "room", Purpose::Publish);
            publisher.claim(world);
            publisher.connect(world);
            let mut watcher = Native::join(world, "room", Purpose::Watch);
            watcher.claim(world);
            watcher.connect(world);
            // Also in the name of those who are well-behaved: source addresses can be forged.
            let mut sources: Vec<SocketAddr> = world.clients.iter().map(|client| client.public).collect();
            sources.extend([publisher.address, watcher.address, world.new_address()]);
            let samples = [
                publisher.check(),
                stun(1, &[(6, b"someone:else"), (8, &[1; 20])], true),
                vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                vec![23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 9, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                vec![21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40],
                plain_rtp(VIDEO_SSRC, VIDEO, 9, &[0x10; 900]).0,
                vec![0x80, 200, 0, 6, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
            ];
            let sessions = world.server.sessions();
            for round in 0..100_000 {
                let mut datagram = if random.chance(0.5) {
                    let mut bytes = vec![0; random.below(200)];
                    random.fill(&mut bytes);
                    bytes
                } else {
                    let mut bytes = samples[random.below(samples.len())].clone();
                    for _ in 0..1 + random.below(4) {
                        let at = random.below(bytes.len());
                        // Never the byte it was: a check that is still good would be one.
                        bytes[at] ^= 1 + random.below(255) as u8;
                    }
                    bytes
                };
                if random.chance(0.2) {
                    datagram.truncate(random.below(datagram.len() + 1));
                }
                world.server.deliver(sources[random.below(sources.len())], &datagram);
                if round % 100 == 0 {
                    world.tick();
                    world.heard.clear();
                }
            }
            world.run_millis(100);
            assert_eq!(world.server.sessions(), sessions);
            assert_undisturbed(world, viewer);
        });
    });
}

/// One member with very many source ports must not use up the table of addresses for all others.
#[test]
fn a_member_of_many_addresses_leaves_room_for_others() {
    let (mut world, viewer) = busy_world(6, 2);
    let mut member = Native::join(&mut world, "room", Purpose::Watch);
    member.claim(&mut world);
    // All of them to the worker that does not have the session, and more than any table holds.
    let elsewhere = |world: &World, from: SocketAddr| world.server.worker_of(from) != world.server.worker_of(member.address);
    let all = (0..u32::MAX).map(|number| SocketAddr::from((number.wrapping_add(0xcb00_0000).to_be_bytes(), 4_000)));
    let sources: Vec<SocketAddr> = all.filter(|from| elsewhere(&world, *from)).take(2 * SESSIONS_MAX).collect();
    for (number, from) in sources.into_iter().enumerate() {
        let check = member.check();
        world.server.deliver(from, &check);
        if number % 128 == 0 {
            world.tick();
        }
    }
    world.run_millis(100);
    for _ in 0..4 {
        world.watch("others", Link::clean());
    }
    assert!(world.connect(5), "others can still join: {}", world.server.tally());
    assert_undisturbed(&mut world, viewer);
}

#[test]
fn offers_beyond_all_measure_are_refused_in_words() {
    let mut world = World::new(4, 1);
    let identity = Identity::generate().expect("a certificate");
    let good = offer(Purpose::Publish, &identity);
    let candidates = |count: usize| {
        let lines: String =
            (0..count).map(|at| format!("a=candidate:{at} 1 udp 1 10.0.0.1 {} typ host\r\n", 1 + at % 60_000)).collect();
        format!("{good}{lines}")
    };
    let sections = |count: usize| {
        let lines: String = (0..count).map(|at| format!("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:x{at}\r\n")).collect();
        format!("{good}{lines}")
    };
    let refusals = [
        ("a megabyte of attributes", format!("{good}{}", "a=x\r\n".repeat(200_000)), 413),
        ("a megabyte in a line", format!("{good}a={}\r\n", "x".repeat(1 << 20)), 413),
        ("a megabyte of nothing", "\0".repeat(1 << 20), 413),
        ("10,000 candidates", candidates(10_000), 413),
        ("a thousand m-lines", sections(1_000), 400),
        ("one m-line too many", sections(MEDIA_SECTIONS_MAX), 400),
        ("no SDP", "hello".to_owned(), 400),
        ("nothing", String::new(), 400),
    ];
    for (what, offer, status) in refusals {
        let refusal = world.server.join("room", Purpose::Publish, offer).expect_err(what);
        assert_eq!(refusal.status(), status, "{what}: {refusal}");
        assert!(refusal.to_string().len() < 400, "{what}: {refusal}");
    }
    assert!(world.server.rooms().is_empty(), "nothing is left of them");
    // Many, but within what is read: taken, and the surplus ignored.
    let many = candidates(20 * CANDIDATES_MAX);
    assert!(many.len() < SDP_BYTES_MAX);
    world.server.join("room", Purpose::Publish, many).unwrap_or_else(|refusal| panic!("{refusal}"));
}

/// Clients without consent freshness (webrtcbin of GStreamer 1.22) check at first and never again: while authentic media comes
/// they are there. What anybody could have sent is no sign of life.
#[test]
fn a_publisher_that_never_checks_again_stays_while_its_packets_are_authentic() {
    let mut world = World::new(70, 2);
    let mut publisher = Native::join(&mut world, "room", Purpose::Publish);
    publisher.claim(&mut world);
    publisher.connect(&mut world);
    for number in 0..40 {
        let packet = publisher.rtp(AUDIO_SSRC, AUDIO, number, &[0; 40]);
        world.server.deliver(publisher.address, &packet);
        world.run_seconds(1);
    }
    assert_eq!(world.server.sessions(), 1);
    for number in 40..75 {
        let mut packet = publisher.rtp(AUDIO_SSRC, AUDIO, number, &[0; 40]);
        *packet.last_mut().expect("a tag") ^= 1;
        world.server.deliver(publisher.address, &packet);
        world.run_seconds(1);
    }
    assert_eq!(world.server.sessions(), 0);
    assert_eq!(world.server.count(Counter::SessionsExpired), 1);
}

/// What a viewer offers that tells of its path.
const TELLS: &str = "a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtcp-fb:96 transport-cc\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n";

/// The target that the API shows for a client's path.
fn target(world: &mut World, viewer: &Native) -> Option<u64> {
    let rooms = world.server.rooms();
    let mut sessions = rooms.iter().flat_map(|room| &room.sessions);
    sessions.find(|session| session.remote_address == Some(viewer.address))?.target_bitrate
}

#[test]
fn lies_about_a_path_are_counted_and_bounded() {
    for_seeds(&[61, 62], |seed| {
        let (mut world, others) = busy_world(seed, 1);
        watching(&mut world, |world| {
            let mut viewer = Native::join_with(world, "others", Purpose::Watch, TELLS);
            viewer.claim(world);
            viewer.connect(world);
            world.heard.clear();
            world.run_millis(300);
            // In the clear: the header and its extension.
            let numbers: Vec<u16> = world
                .heard
                .iter()
                .filter(|(to, bytes)| *to == viewer.address && bytes[0] >> 6 == 2)
                .filter_map(|(_, bytes)| Some(u16::from_be_bytes(Header::parse(bytes).ok()?.extension(3)?.try_into().ok()?)))
                .collect();
            assert!(numbers.len() > 10 && numbers.is_sorted_by(|a, b| b.wrapping_sub(*a) == 1), "one count: {numbers:?}");
            let first = numbers[0];
            let tell = |world: &mut World, viewer: &mut Native, base: u16, arrivals: &[Option<u64>]| {
                let mut space = [0; 1200];
                let arrivals = arrivals.iter().map(|at| at.map(Micros));
                let (len, _) =
                    twcc::write_feedback(&mut space, Ssrc(9), Ssrc(9), SequenceNumber(base), 0, arrivals).expect("arrivals");
                let packet = viewer.rtcp(&space[..len]);
                world.server.deliver(viewer.address, &packet);
                world.run_millis(1);
            };
            // Of packets that were never sent, and many more than that.
            tell(world, &mut viewer, first.wrapping_add(20_000), &[Some(0); 9]);
            tell(world, &mut viewer, first, &[Some(0); 400]);
            assert_eq!(world.server.dropped(DropReason::FeedbackUnsent), 2);
            world.run_millis(1_100);
            assert_eq!(target(world, &viewer), None, "nothing was learnt");
            // Everything arrived at once, then an hour earlier; twice, and then hundreds of times.
            tell(world, &mut viewer, first, &[Some(3_600_000_000); 10]);
            tell(world, &mut viewer, first, &[Some(0); 10]);
            for number in 0..400u16 {
                tell(world, &mut viewer, first.wrapping_add(number % 10), &[Some(number as u64 * 10_000)]);
            }
            assert!(world.server.dropped(DropReason::FeedbackFlood) > 200, "{}", world.server.tally());
            world.run_seconds(2);
            let told = target(world, &viewer).expect("something was told");
            assert!((30_000..=20_000_000).contains(&told), "{told}");
            assert_undisturbed(world, others);
        });
    });
}

/// What a viewer offers that tells of its path by stream and sequence number (RFC 8888).
const TELLS_BY_STREAM: &str = "a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtcp-fb:* ack ccfb\r\n";

/// RFC 8888's feedback, laid out by hand: from SSRC 9, made at a time in 1/65536 s; of each stream its SSRC, first number, and metrics.
fn ccfb(made: u32, blocks: &[(u32, u16, &[u16])]) -> Vec<u8> {
    let mut report = vec![0x8b, 205, 0, 0, 0, 0, 0, 9];
    for (ssrc, begin, metrics) in blocks {
        report.extend_from_slice(&ssrc.to_be_bytes());
        report.extend_from_slice(&begin.to_be_bytes());
        report.extend_from_slice(&(metrics.len() as u16).to_be_bytes());
        metrics.iter().for_each(|metric| report.extend_from_slice(&metric.to_be_bytes()));
        report.resize(report.len().next_multiple_of(4), 0);
    }
    report.extend_from_slice(&made.to_be_bytes());
    let words = (report.len() / 4 - 1) as u16;
    report[2..4].copy_from_slice(&words.to_be_bytes());
    report
}

#[test]
fn lies_about_a_path_by_stream_are_counted_and_bounded() {
    for_seeds(&[63, 64], |seed| {
        let (mut world, others) = busy_world(seed, 1);
        watching(&mut world, |world| {
            let mut viewer = Native::join_with(world, "others", Purpose::Watch, TELLS_BY_STREAM);
            assert!(viewer.answer.contains("a=rtcp-fb:* ack ccfb") && !viewer.answer.contains("transport-"));
            viewer.claim(world);
            viewer.connect(world);
            world.heard.clear();
            world.run_millis(300);
            // In the clear: SSRC and number of each packet of video.
            let sent: Vec<(u32, u16)> = world
                .heard
                .iter()
                .filter(|(to, bytes)| *to == viewer.address && bytes[0] >> 6 == 2 && bytes[1] & 0x7f == VIDEO.0)
                .map(|(_, bytes)| Header::parse(bytes).map(|header| (header.ssrc.0, header.sequence_number.0)).expect("RTP"))
                .collect();
            assert!(sent.len() > 10 && sent.is_sorted_by(|a, b| b.1.wrapping_sub(a.1) == 1), "{sent:?}");
            let (ssrc, first) = sent[0];
            let tell = |world: &mut World, viewer: &mut Native, report: &[u8]| {
                let packet = viewer.rtcp(report);
                world.server.deliver(viewer.address, &packet);
                world.run_millis(1);
            };
            // Of packets that were never sent, many more than that, a stream that is not, and one that is beside it.
            let arrived = [0x8001; 400];
            let unsent: [&[(u32, u16, &[u16])]; 4] = [
                &[(ssrc, first.wrapping_add(20_000), &arrived[..9])],
                &[(ssrc, first, &arrived)],
                &[(ssrc.wrapping_add(77), first, &arrived[..1])],
                &[(ssrc, first, &arrived[..4]), (9, first, &arrived[..4])],
            ];
            for (count, blocks) in unsent.into_iter().enumerate() {
                tell(world, &mut viewer, &ccfb(1 << 20, blocks));
                assert_eq!(world.server.dropped(DropReason::FeedbackUnsent), 1 + count as u64, "{blocks:?}");
            }
            // Cut off at every word, and a count beyond its end.
            let whole = ccfb(1 << 20, &[(ssrc, first, &arrived[..6])]);
            let malformed = world.server.dropped(DropReason::RtcpMalformed);
            let cut = (2..whole.len() / 4).filter(|words| !matches!(words, 3 | 8)).collect::<Vec<_>>();
            for words in &cut {
                let mut part = whole[..words * 4].to_vec();
                part[2..4].copy_from_slice(&(*words as u16 - 1).to_be_bytes());
                tell(world, &mut viewer, &part);
            }
            for count in [7u16, 1_000, 16_385, u16::MAX] {
                let mut long = whole.clone();
                long[14..16].copy_from_slice(&count.to_be_bytes());
                tell(world, &mut viewer, &long);
            }
            let refused = world.server.dropped(DropReason::RtcpMalformed) - malformed;
            assert_eq!(refused as usize, cut.len() + 4, "{}", world.server.tally());
            world.run_millis(1_100);
            assert_eq!(target(world, &viewer), None, "nothing was learnt");
            // Everything arrived at once, then hours earlier and later, then at no time; twice, and then hundreds of times.
            for made in [1 << 20, 0x9000_0000, 0x1000_0000, 0] {
                tell(world, &mut viewer, &ccfb(made, &[(ssrc, first, &arrived[..10])]));
            }
            tell(world, &mut viewer, &ccfb(7, &[(ssrc, first, &[0x9fff, 0x9ffe, 0xfffd, 0x7fff])]));
            for number in 0..400u16 {
                let metrics = [0x8000 | (number * 20)];
                tell(world, &mut viewer, &ccfb(number as u32 * 1_000, &[(ssrc, first.wrapping_add(number % 10), &metrics)]));
            }
            assert!(world.server.dropped(DropReason::FeedbackFlood) > 200, "{}", world.server.tally());
            world.run_seconds(2);
            let told = target(world, &viewer).expect("something was told");
            assert!((30_000..=20_000_000).contains(&told), "{told}");
            assert_undisturbed(world, others);
        });
    });
}

/// Both encodings' next packets are sent; what the viewer gets of them.
fn flows(world: &mut World, send: &mut impl FnMut(&mut World, u32, &[u8]) -> Vec<SequenceNumber>) -> SequenceNumber {
    let seen = [send(world, 1, b"f"), send(world, 2, b"h")].concat();
    assert_eq!(seen.len(), 1, "of the one encoding that was chosen: {}", world.server.tally());
    seen[0]
}

/// Rids that change in the middle of a stream, that nobody offered, and on ever new SSRCs: who watches goes on with what it had.
#[test]
fn rids_that_change_cost_the_viewer_nothing() {
    let mut world = World::new(66, 1);
    let lines =
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na=rid:f send\r\na=rid:h send\r\na=simulcast:send f;h\r\n";
    let mut publisher = Native::join_with(&mut world, "room", Purpose::Publish, lines);
    publisher.claim(&mut world);
    publisher.connect(&mut world);
    let mut watcher = Native::join(&mut world, "room", Purpose::Watch);
    watcher.claim(&mut world);
    watcher.connect(&mut world);
    // Key frames of one packet: RFC 7741 §4.2, RFC 6386 §9.1.
    let payload = [0x10, 0, 0, 0, 0x9d, 1, 0x2a, 0, 1, 0, 1, 0];
    let mut numbers = HashMap::new();
    let mut send = |world: &mut World, ssrc: u32, rid: &[u8]| {
        let number = *numbers.entry(ssrc).and_modify(|number| *number += 1).or_insert(1u16);
        let mut space = [0; 128];
        let (sequence, time) = (SequenceNumber(number), RtpTime(number as u32 * 3_000));
        let elements = [(4, rid)].into_iter().filter(|(_, rid)| !rid.is_empty());
        let header_len = rtp::write_header(&mut space, true, VIDEO, sequence, time, Ssrc(ssrc), elements).expect("room enough");
        space[header_len..header_len + payload.len()].copy_from_slice(&payload);
        let packet = publisher.seal(&space[..header_len + payload.len()], header_len, number as u64);
        world.heard.clear();
        world.server.deliver(publisher.address, &packet);
        world.run_millis(40);
        let video = |bytes: &[u8]| bytes[0] >> 6 == 2 && bytes[1] & 0x7f == VIDEO.0;
        let seen = world.heard.iter().filter(|(to, bytes)| *to == watcher.address && video(bytes));
        seen.map(|(_, bytes)| Header::parse(bytes).expect("RTP").sequence_number).collect::<Vec<_>>()
    };
    // Until layers were measured and chosen.
    for _ in 0..60 {
        send(&mut world, 1, b"f");
        send(&mut world, 2, b"h");
    }
    let mut last = flows(&mut world, &mut send);
    for (ssrc, rid, reason) in [
        (1, &b"h"[..], DropReason::RidChanged),
        (2, b"f", DropReason::RidChanged),
        (1, b"x", DropReason::RidChanged),
        (3, b"x", DropReason::SsrcUnknown),
        (3, b"", DropReason::SsrcUnknown),
    ] {
        let before = world.server.dropped(reason);
        assert_eq!(send(&mut world, ssrc, rid), [], "SSRC {ssrc}");
        assert_eq!(world.server.dropped(reason), before + 1, "SSRC {ssrc}, {}", reason.label());
        let next = flows(&mut world, &mut send);
        // What was refused of its own stream is missing.
        assert!(matches!(next.distance(last), 1 | 2), "the viewer's numbers go on: {last:?}, {next:?}");
        last = next;
    }
    for ssrc in 100..200 {
        send(&mut world, ssrc, b"x");
    }
    assert_eq!(flows(&mut world, &mut send), last.next());
}

#[test]
fn remb_of_nothing_and_of_everything_is_clamped() {
    for_seeds(&[65], |seed| {
        let (mut world, others) = busy_world(seed, 1);
        watching(&mut world, |world| {
            let mut viewer = Native::join_with(world, "others", Purpose::Watch, "a=rtcp-fb:96 goog-remb\r\n");
            assert!(viewer.answer.contains("a=rtcp-fb:96 goog-remb"));
            viewer.claim(world);
            viewer.connect(world);
            world.run_seconds(2);
            assert_eq!(target(world, &viewer), None, "nothing is known yet");
            // Exponent and mantissa: 0, 2^63, 600,000 b/s.
            for (exponent, mantissa, expected) in [(0, 0, 30_000), (46, 0x2_0000, 20_000_000), (3, 75_000, 600_000)] {
                let mut remb = vec![0x8f, 206, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0];
                remb.extend_from_slice(b"REMB");
                remb.extend_from_slice(&(1u32 << 24 | exponent << 18 | mantissa).to_be_bytes());
                remb.extend_from_slice(&10u32.to_be_bytes());
                let packet = viewer.rtcp(&remb);
                world.server.deliver(viewer.address, &packet);
                world.run_millis(1_500);
                assert_eq!(target(world, &viewer), Some(expected), "2^{exponent} * {mantissa}");
            }
            assert_undisturbed(world, others);
        });
    });
}
