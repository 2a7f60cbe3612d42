//! Two of ours with a network between them that loses, delays and reorders; then peers that are nobody's client. tests/data.rs has str0m,
//! aiortc and Chromium on the other side.

use std::sync::Arc;

use super::gate::seal;
use super::*;
use crate::limits::SCTP_TSN_WINDOW;

/// Deterministic (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn channel(label: &str, ordered: bool, reliability: Reliability) -> Open {
    Open { label: label.into(), protocol: "".into(), ordered, reliability }
}

fn association(role: Role, now: Micros) -> (Association, Arc<WorkerMetrics>) {
    let metrics = Arc::new(WorkerMetrics::default());
    (Association::new(role, Settings { port: PORT, max_message_size: 0 }, metrics.clone(), now), metrics)
}

struct Side {
    association: Association,
    metrics: Arc<WorkerMetrics>,
    events: Vec<Event>,
}

impl Side {
    fn new(role: Role) -> Self {
        let (association, metrics) = association(role, Micros::ZERO);
        Side { association, metrics, events: Vec::new() }
    }

    fn messages(&self, id: u16) -> Vec<&[u8]> {
        let of = |event| match event {
            &Event::Message { id: on, ref payload, .. } if on == id => Some(&payload[..]),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    fn opened(&self, label: &str) -> Option<u16> {
        self.events.iter().find_map(|event| match event {
            Event::Opened { id, channel } if *channel.label == *label => Some(*id),
            _ => None,
        })
    }
}

struct Network {
    now: Micros,
    sides: [Side; 2],
    /// When, to whom, what.
    underway: Vec<(Micros, usize, Bytes)>,
    random: Random,
    loss_percent: u64,
    dropped: u64,
}

impl Network {
    fn new(seed: u64, loss_percent: u64) -> Self {
        let sides = [Side::new(Role::Client), Side::new(Role::Server)];
        Network { now: Micros::ZERO, sides, underway: Vec::new(), random: Random(seed), loss_percent, dropped: 0 }
    }

    /// Lets `millis` pass.
    fn run(&mut self, millis: u64) {
        let end = self.now + Micros::from_millis(millis);
        while self.now < end {
            self.now = self.now + Micros::from_millis(1);
            let due: Vec<_> = self.underway.extract_if(.., |(at, _, _)| *at <= self.now).collect();
            for (_, to, packet) in due {
                self.sides[to].association.receive(packet.to_vec(), self.now);
            }
            for from in 0..2 {
                self.exchange(from);
            }
        }
    }

    fn exchange(&mut self, from: usize) {
        let side = &mut self.sides[from];
        if side.association.poll_timeout().is_some_and(|at| at <= self.now) {
            side.association.handle_timeout(self.now);
        }
        while let Some(packet) = side.association.poll_transmit() {
            assert!(packet.len() <= APPLICATION_DATA_MAX, "{} bytes", packet.len());
            if self.random.below(100) < self.loss_percent {
                self.dropped += 1;
                continue;
            }
            let delay = Micros(10_000 + self.random.below(if self.loss_percent > 0 { 8_000 } else { 1 }));
            self.underway.push((self.now + delay, 1 - from, packet));
        }
        while let Some(event) = side.association.poll_event() {
            side.events.push(event);
        }
    }

    fn send(&mut self, from: usize, label: &str, binary: bool, payload: &[u8]) -> Result<(), SendError> {
        let association = &mut self.sides[from].association;
        let id = association.channel(label).expect(label);
        association.send(id, binary, &payload.into(), self.now)
    }
}

#[test]
fn channels_of_both_sides_carry_messages_of_all_kinds() {
    let mut network = Network::new(1, 0);
    network.sides[0].association.open(channel("ours", true, Reliability::Reliable), Micros::ZERO).unwrap();
    network.sides[1].association.open(channel("theirs", false, Reliability::MaxRetransmits(0)), Micros::ZERO).unwrap();
    network.run(2_000);
    let open = |side: usize, label: &str| network.sides[side].opened(label);
    // RFC 8832 §6: DTLS's client has the even ones.
    assert_eq!((open(0, "ours"), open(1, "ours"), open(0, "theirs"), open(1, "theirs")), (Some(0), Some(0), Some(1), Some(1)));
    let long: Vec<u8> = (0..DATA_MESSAGE_BYTES_MAX).map(|at| (at % 251) as u8).collect();
    for (label, id) in [("ours", 0), ("theirs", 1)] {
        for from in 0..2 {
            network.send(from, label, true, b"binary").unwrap();
            network.run(50);
            network.send(from, label, false, "téxt".as_bytes()).unwrap();
            network.run(50);
            network.send(from, label, true, b"").unwrap();
            network.run(50);
            network.send(from, label, false, b"").unwrap();
            network.run(50);
            network.send(from, label, true, &long).unwrap();
            network.run(2_000);
            let to = 1 - from;
            let got: Vec<(bool, &[u8])> = network.sides[to]
                .events
                .iter()
                .filter_map(|event| match event {
                    Event::Message { id: on, binary, payload, .. } if *on == id => Some((*binary, &payload[..])),
                    _ => None,
                })
                .collect();
            assert_eq!(
                got,
                [(true, &b"binary"[..]), (false, "téxt".as_bytes()), (true, b""), (false, b""), (true, &long)],
                "{label}"
            );
        }
    }
    let too_long = vec![0; DATA_MESSAGE_BYTES_MAX + 1];
    assert_eq!(network.send(0, "ours", true, &too_long), Err(SendError::TooLong));
    assert_eq!(network.sides[0].metrics.dropped(DropReason::DataTooLong), 1);
    // Nothing is left of all that in anybody's queues.
    assert_eq!(network.sides.each_ref().map(|side| side.association.waiting_bytes()), [0, 0]);
}

#[test]
fn on_a_lossy_path_reliable_channels_lose_nothing_and_unreliable_ones_wait_for_nothing() {
    for seed in 0..5 {
        let mut network = Network::new(seed, 10);
        network.sides[0].association.open(channel("ordered", true, Reliability::Reliable), Micros::ZERO).unwrap();
        network.sides[0].association.open(channel("any order", false, Reliability::Reliable), Micros::ZERO).unwrap();
        network.sides[0].association.open(channel("lossy", false, Reliability::MaxRetransmits(0)), Micros::ZERO).unwrap();
        network.run(20_000);
        let ids = ["ordered", "any order", "lossy"].map(|label| network.sides[1].opened(label).expect(label));
        // 200 messages on each, every tenth of many fragments, 50 a second.
        for number in 0..200u32 {
            for label in ["ordered", "any order", "lossy"] {
                let length = if number % 10 == 0 && label != "lossy" { 20_000 } else { 100 };
                let mut payload = number.to_be_bytes().to_vec();
                payload.resize(length, number as u8);
                network.send(0, label, true, &payload).unwrap();
            }
            network.run(20);
        }
        network.run(60_000);
        let numbers = |id: u16| -> Vec<u32> {
            network.sides[1].messages(id).iter().map(|payload| u32::from_be_bytes(payload[..4].try_into().unwrap())).collect()
        };
        assert_eq!(numbers(ids[0]), (0..200).collect::<Vec<_>>(), "seed {seed}: all, in order");
        let mut any_order = numbers(ids[1]);
        any_order.sort_unstable();
        assert_eq!(any_order, (0..200).collect::<Vec<_>>(), "seed {seed}: all");
        let mut lossy = numbers(ids[2]);
        assert!(lossy.len() < 200 && lossy.len() > 120, "seed {seed}: {} of 200 on the lossy channel", lossy.len());
        lossy.sort_unstable();
        lossy.dedup();
        assert_eq!(lossy.len(), network.sides[1].messages(ids[2]).len(), "seed {seed}: none twice");
        assert!(network.dropped > 50, "{} packets lost", network.dropped);
        assert!(
            !network.sides[0].association.is_closed() && !network.sides[1].association.is_closed(),
            "{:?}",
            network.sides[1].events.last()
        );
    }
}

#[test]
fn bulk_in_both_directions_over_loss_goes_on() {
    let mut network = Network::new(7, 3);
    network.sides[0].association.open(channel("bulk", true, Reliability::Reliable), Micros::ZERO).unwrap();
    network.run(10_000);
    let payload = vec![7; DATA_MESSAGE_BYTES_MAX];
    for _ in 0..12 {
        (0..2).for_each(|from| network.send(from, "bulk", true, &payload).unwrap());
    }
    network.run(120_000);
    let got = network.sides.each_ref().map(|side| side.messages(0).len());
    assert_eq!(got, [12, 12], "{:?}", network.sides[0].events.last());
}

/// All lengths that a chunk's padding can have, bundled as the library likes.
#[test]
fn bundles_of_small_messages_arrive() {
    for (length_max, loss_percent, millis) in [(4, 0, 1_000), (60, 0, 1_000), (600, 0, 2_000), (60, 10, 20_000)] {
        let mut network = Network::new(8, 0);
        network.sides[0].association.open(channel("c", true, Reliability::Reliable), Micros::ZERO).unwrap();
        network.run(2_000);
        network.loss_percent = loss_percent;
        for number in 0..500u32 {
            let length = 1 + network.random.below(length_max) as usize;
            network.send(0, "c", true, &vec![number as u8; length]).unwrap();
        }
        network.run(millis);
        let numbers: Vec<u8> = network.sides[1].messages(0).iter().map(|payload| payload[0]).collect();
        assert_eq!(numbers, (0..500u32).map(|number| number as u8).collect::<Vec<_>>(), "up to {length_max} bytes");
    }
}

/// A client that takes nothing any more.
#[test]
fn a_receiver_that_stops_reading_costs_bounded_memory_and_loses_its_channels() {
    let mut network = Network::new(3, 0);
    network.sides[0].association.open(channel("reliable", true, Reliability::Reliable), Micros::ZERO).unwrap();
    network.sides[0].association.open(channel("lossy", false, Reliability::MaxRetransmits(0)), Micros::ZERO).unwrap();
    network.run(2_000);
    network.loss_percent = 100;
    for number in 0..100_000u32 {
        network.send(0, "lossy", true, &number.to_be_bytes()).unwrap();
        assert!(network.sides[0].association.waiting_bytes() < DATA_WAITING_UNRELIABLE_BYTES + SCTP_SEND_BYTES + 1024);
        if number % 100 == 0 {
            network.run(1);
        }
    }
    let full = network.sides[0].metrics.dropped(DropReason::DataFull);
    assert!(full > 90_000, "{full} dropped");
    let payload = vec![0; 1000];
    let sent = (0..10_000).take_while(|_| network.send(0, "reliable", true, &payload).is_ok()).count();
    assert!((900..1_200).contains(&sent), "{sent} KB waited");
    network.exchange(0);
    assert!(matches!(network.sides[0].events.last(), Some(Event::Closed { .. })));
    assert_eq!(network.sides[0].metrics.dropped(DropReason::DataSlowReceiver), 1);
    assert_eq!(network.sides[0].association.waiting_bytes(), 0);
}

#[test]
fn an_abort_tells_the_peer() {
    let mut network = Network::new(4, 0);
    network.sides[0].association.open(channel("c", true, Reliability::Reliable), Micros::ZERO).unwrap();
    network.run(2_000);
    assert!(network.sides[1].opened("c").is_some());
    network.sides[0].association.close();
    network.run(100);
    assert!(network.sides[1].association.is_closed());
    assert!(matches!(network.sides[1].events.last(), Some(Event::Closed { .. })), "{:?}", network.sides[1].events);
    assert_eq!(network.sides[1].association.poll_timeout(), None);
}

#[test]
fn a_queue_of_one_channel_does_not_starve_another() {
    let mut network = Network::new(5, 0);
    network.sides[0].association.open(channel("flood", false, Reliability::MaxRetransmits(0)), Micros::ZERO).unwrap();
    network.sides[0].association.open(channel("talk", true, Reliability::Reliable), Micros::ZERO).unwrap();
    network.run(2_000);
    let payload = vec![1; 1_000];
    for _ in 0..40 {
        (0..400).for_each(|_| network.send(0, "flood", true, &payload).unwrap());
        network.send(0, "talk", true, b"word").unwrap();
        network.run(50);
    }
    network.run(300);
    let id = network.sides[1].opened("talk").unwrap();
    assert_eq!(network.sides[1].messages(id).len(), 40);
    assert!(network.sides[0].metrics.dropped(DropReason::DataFull) > 1_000, "the flood is more than goes");
}

#[test]
fn channels_beyond_the_limit_are_not_acknowledged() {
    let mut network = Network::new(6, 0);
    for number in 0..CHANNELS_PER_PEER {
        network.sides[0].association.open(channel(&format!("c{number}"), true, Reliability::Reliable), Micros::ZERO).unwrap();
    }
    let one_more = network.sides[0].association.open(channel("more", true, Reliability::Reliable), Micros::ZERO);
    assert_eq!(one_more, Err(SendError::ChannelLimit));
    network.run(3_000);
    assert!(network.sides[1].opened("c31").is_some());
    assert_eq!(
        network.sides[1].association.open(channel("more", true, Reliability::Reliable), Micros::ZERO),
        Err(SendError::ChannelLimit)
    );
}

// ---- peers that are no client of ours -------------------------------------------------------------------------------------------------

/// Speaks SCTP by hand: an association of ours that took its INIT and its COOKIE ECHO.
struct Forger {
    victim: Association,
    metrics: Arc<WorkerMetrics>,
    tag: u32,
    tsn: u32,
    now: Micros,
}

impl Forger {
    fn new() -> Self {
        let (victim, metrics) = association(Role::Server, Micros::ZERO);
        let mut forger = Forger { victim, metrics, tag: 0, tsn: 1000, now: Micros::ZERO };
        let mut init = vec![1, 0, 0, 24];
        init.extend(77u32.to_be_bytes());
        init.extend((1u32 << 20).to_be_bytes());
        init.extend([0xff, 0xff, 0xff, 0xff]);
        init.extend(1000u32.to_be_bytes());
        // Supported extensions: RE-CONFIG, FORWARD TSN (RFC 5061 §4.2.7).
        init.extend([0x80, 0x08, 0, 6, 130, 192, 0, 0]);
        init[3] = 28;
        // The parameter's length is 6, the chunk's ends with its padding.
        forger.give_tagged(0, &[init]);
        let answer = forger.victim.poll_transmit().expect("INIT ACK");
        assert_eq!(answer[12], 2);
        forger.tag = u32::from_be_bytes(answer[16..20].try_into().unwrap());
        let cookie_at = answer.windows(4).position(|window| window == [0, 7, 0, 36]).expect("a cookie of 32 bytes");
        let mut echo = vec![10, 0, 0, 36];
        echo.extend(&answer[cookie_at + 4..cookie_at + 36]);
        forger.give(&[echo]);
        assert_eq!(forger.victim.poll_transmit().expect("COOKIE ACK")[12], 11);
        forger
    }

    fn give(&mut self, chunks: &[Vec<u8>]) {
        self.give_tagged(self.tag, chunks);
    }

    fn give_tagged(&mut self, tag: u32, chunks: &[Vec<u8>]) {
        let mut packet = vec![0x13, 0x88, 0x13, 0x88];
        packet.extend(tag.to_be_bytes());
        packet.extend([0; 4]);
        for chunk in chunks {
            packet.extend(chunk);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        seal(&mut packet);
        self.now = self.now + Micros(500);
        self.victim.receive(packet, self.now);
    }

    /// DATA with the next TSN.
    fn data(&mut self, flags: u8, stream: u16, ssn: u16, ppid: u32, payload: &[u8]) -> Vec<u8> {
        let tsn = self.tsn;
        self.tsn = self.tsn.wrapping_add(1);
        data(tsn, flags, stream, ssn, ppid, payload)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.victim.poll_event()).collect()
    }

    fn answers(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.victim.poll_transmit()).collect()
    }
}

fn data(tsn: u32, flags: u8, stream: u16, ssn: u16, ppid: u32, payload: &[u8]) -> Vec<u8> {
    let mut chunk = vec![0, flags];
    chunk.extend((16 + payload.len() as u16).to_be_bytes());
    chunk.extend(tsn.to_be_bytes());
    chunk.extend(stream.to_be_bytes());
    chunk.extend(ssn.to_be_bytes());
    chunk.extend(ppid.to_be_bytes());
    chunk.extend(payload);
    chunk
}

const WHOLE: u8 = 3;
const MIDDLE: u8 = 0;
const BEGIN: u8 = 2;

fn open_message(label: &str) -> Vec<u8> {
    dcep::Message::Open(channel(label, true, Reliability::Reliable)).write()
}

#[test]
fn the_forger_is_understood() {
    let mut forger = Forger::new();
    let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
    let hello = forger.data(WHOLE, 0, 1, 51, b"hello");
    forger.give(&[open, hello]);
    let events = forger.events();
    assert!(
        matches!(&events[..], [Event::Opened { id: 0, .. }, Event::Message { id: 0, binary: false, payload, .. }] if **payload == *b"hello")
    );
    // Not UTF-8, on a channel that nobody opened, of a protocol that nobody knows.
    let chunks = [forger.data(WHOLE, 0, 2, 51, &[0xff]), forger.data(WHOLE, 2, 0, 51, b"x"), forger.data(WHOLE, 0, 3, 99, b"x")];
    forger.give(&chunks);
    assert_eq!(forger.events(), []);
    assert_eq!(forger.metrics.dropped(DropReason::SctpMalformed), 2);
    assert_eq!(forger.metrics.dropped(DropReason::DataUnknownChannel), 1);
}

#[test]
fn repeated_and_further_inits_change_nothing() {
    let mut forger = Forger::new();
    for tag in 1..2_000u32 {
        let mut init = vec![1, 0, 0, 20];
        init.extend(tag.to_be_bytes());
        init.extend([0, 1, 0, 0, 0, 9, 0, 9, 0, 0, 0, 1]);
        forger.give_tagged(0, &[init]);
    }
    assert_eq!(forger.metrics.dropped(DropReason::SctpMalformed), 1_999);
    assert!(forger.answers().is_empty());
    let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
    forger.give(&[open]);
    assert!(matches!(forger.events()[..], [Event::Opened { .. }]));
}

#[test]
fn chunks_that_say_nothing_are_skipped_and_repeated_ones_refused() {
    let mut forger = Forger::new();
    let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
    let (pad, error, heartbeat_ack) = (vec![0x84, 0, 0, 4], vec![9, 0, 0, 8, 0, 1, 0, 4], vec![5, 0, 0, 4]);
    forger.give(&[pad, error, heartbeat_ack, open]);
    assert!(matches!(forger.events()[..], [Event::Opened { .. }]));
    forger.answers();
    let heartbeat = vec![4, 0, 0, 12, 0, 1, 0, 8, 1, 2, 3, 4];
    forger.give(&vec![heartbeat.clone(); 90]);
    assert_eq!(forger.metrics.dropped(DropReason::SctpMalformed), 1);
    forger.give(&[heartbeat]);
    assert!(forger.answers().iter().any(|packet| packet[12] == 5), "HEARTBEAT ACK");
    // A type of which the rest is not to be processed (RFC 9260 §3.2): I-DATA, which nobody agreed on.
    let message = forger.data(WHOLE, 0, 1, 51, b"behind it");
    forger.give(&[vec![0x40, 0, 0, 4], message]);
    assert_eq!(forger.events(), []);
}

#[test]
fn what_is_too_far_ahead_is_dropped() {
    let mut forger = Forger::new();
    for ahead in 1..2_000u32 {
        forger.give(&[data(1000 + ahead, WHOLE, 0, ahead as u16, 51, &[0; 1000])]);
        forger.answers();
    }
    assert!(forger.metrics.dropped(DropReason::SctpFlood) >= 2_000 - 1 - SCTP_TSN_WINDOW as u64);
    assert!(!forger.victim.is_closed(), "such a loss may be honest");
    let forward: Vec<u8> = [&[192u8, 0, 0, 8][..], &(1000u32 + (1 << 30)).to_be_bytes()].concat();
    forger.give(&[forward]);
    assert_eq!(forger.metrics.dropped(DropReason::SctpMalformed), 1);
}

/// Gives chunks until the association ends; how many it took.
fn until_closed(mut next: impl FnMut(&mut Forger, u32) -> Vec<u8>) -> u32 {
    let mut forger = Forger::new();
    let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
    forger.give(&[open]);
    forger.events();
    for number in 0..50_000 {
        let chunk = next(&mut forger, number);
        forger.give(&[chunk]);
        assert!(forger.answers().iter().all(|packet| packet.len() <= APPLICATION_DATA_MAX));
        if forger.victim.is_closed() {
            assert!(matches!(forger.events()[..], [Event::Closed { .. }]));
            assert_eq!(forger.metrics.dropped(DropReason::SctpMalformed), 1);
            return number;
        }
    }
    panic!("went on for ever");
}

#[test]
fn what_can_never_be_delivered_ends_the_association() {
    // One byte a fragment.
    let fragments = until_closed(|forger, number| forger.data(if number == 0 { BEGIN } else { MIDDLE }, 0, 1, 53, b"x"));
    assert!((1_000..1_100).contains(&fragments), "{fragments} fragments");
    // In order, but the first is never sent.
    let skipped = until_closed(|forger, number| forger.data(WHOLE, 0, 2 + number as u16, 53, b"x"));
    assert!(skipped < 1_100, "{skipped} messages");
    // A message on each stream, and none whole: fragments of several messages between each other.
    let interleaved = until_closed(|forger, number| forger.data(BEGIN, (number % 1024) as u16, 9, 53, &[0; 100]));
    assert!(interleaved < 1_100, "{interleaved} messages");
    // A packet that only the library refuses (a wrong parameter), so that ours and its count differ.
    let unlike = until_closed(|forger, number| match number {
        0 => [data(forger.tsn, WHOLE, 0, 1, 53, &[0; 4]), vec![130, 0, 0, 8, 0, 99, 0, 9]].concat(),
        _ => {
            forger.tsn += u32::from(number == 1);
            forger.data(WHOLE, 0, 5 + number as u16, 53, b"x")
        }
    });
    assert!(unlike < 1_100, "{unlike} messages");
}

#[test]
fn a_message_longer_than_ours_may_be_ends_the_association() {
    let mut forger = Forger::new();
    for number in 0..70 {
        let chunk = forger.data(if number == 0 { BEGIN } else { MIDDLE }, 0, 0, 53, &[0; 1000]);
        forger.give(&[chunk]);
    }
    assert!(forger.victim.is_closed());
}

#[test]
fn more_than_a_session_may_send_is_dropped_as_by_a_network() {
    let mut forger = Forger::new();
    let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
    forger.give(&[open]);
    let second = forger.now.0 / 1_000_000;
    for number in 0..20_000u32 {
        forger.give(&[data(1001 + number, WHOLE, 0, 1 + number as u16, 53, b"x")]);
        forger.now = Micros(forger.now.0 - 400); // 10,000 a second
        forger.answers();
    }
    assert_eq!(second, 0);
    let got = forger.events().len() as u64;
    // Two seconds, and the burst; what was dropped is not sent again here, so that the window of TSNs ends it.
    assert!(got <= 1 + 2 * crate::limits::SCTP_CHUNKS_PER_SECOND + crate::limits::SCTP_CHUNKS_PER_SECOND / 2, "{got}");
    assert!(forger.metrics.dropped(DropReason::SctpFlood) > 5_000);
    assert!(!forger.victim.is_closed());
}

#[test]
fn an_abort_and_a_shutdown_end_the_association() {
    let mut forger = Forger::new();
    forger.give(&[vec![6, 0, 0, 4]]);
    assert!(forger.victim.is_closed());
    let mut forger = Forger::new();
    forger.give(&[[&[7u8, 0, 0, 8][..], &0u32.to_be_bytes()].concat()]);
    assert!(forger.answers().iter().any(|packet| packet[12] == 8), "SHUTDOWN ACK");
    forger.give(&[vec![14, 0, 0, 4]]);
    assert!(forger.victim.is_closed());
}

#[test]
fn garbage_is_counted_and_harms_nothing() {
    let mut random = Random(11);
    let mut forger = Forger::new();
    let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
    forger.give(&[open]);
    for length in 0..1_500 {
        let bytes = (0..length).map(|_| random.next() as u8).collect();
        forger.victim.receive(bytes, forger.now);
    }
    // Absurd lengths: longer than the packet, shorter than a header.
    for length in [0u16, 1, 3, 17, 500, 0xffff] {
        let mut chunk = data(forger.tsn, WHOLE, 0, 1, 53, b"x");
        chunk[2..4].copy_from_slice(&length.to_be_bytes());
        forger.give(&[chunk]);
    }
    assert!(forger.metrics.dropped(DropReason::SctpMalformed) > 1_490);
    assert!(!forger.victim.is_closed());
    let hello = forger.data(WHOLE, 0, 1, 51, b"hello");
    forger.give(&[hello]);
    assert!(matches!(forger.events().last(), Some(Event::Message { .. })));
}

/// Packets of a real exchange with bytes changed and the checksum made right again: never a panic, whatever else.
#[test]
fn mutated_packets_never_panic() {
    let mut random = Random(12);
    for round in 0..400u32 {
        let mut forger = Forger::new();
        let open = forger.data(WHOLE, 0, 0, 50, &open_message("c"));
        forger.give(&[open]);
        for step in 0..20 {
            let mut chunk = match random.below(7) {
                0 => forger.data(
                    random.below(16) as u8,
                    random.below(4) as u16,
                    random.below(4) as u16,
                    50 + random.below(8) as u32,
                    b"payload",
                ),
                1 => [&[3u8, 0, 0, 20][..], &random.next().to_be_bytes(), &[0, 1, 0, 0, 0, 1, 0, 2]].concat(),
                2 => [&[192u8, 0, 0, 12][..], &(forger.tsn + 1).to_be_bytes(), &[0, 0, 0, 1]].concat(),
                3 => [
                    &[130u8, 0, 0, 22, 0, 13, 0, 18][..],
                    &1000u32.to_be_bytes(),
                    &[0; 4],
                    &(forger.tsn - 1).to_be_bytes(),
                    &[0, 0],
                ]
                .concat(),
                4 => vec![4, 0, 0, 12, 0, 1, 0, 8, 1, 2, 3, 4],
                5 => vec![10, 0, 0, 8, 1, 2, 3, 4],
                _ => [&[7u8, 0, 0, 8][..], &0u32.to_be_bytes()].concat(),
            };
            if random.below(2) == 0 {
                let at = random.below(chunk.len() as u64) as usize;
                chunk[at] = random.next() as u8;
            }
            forger.give(&[chunk]);
            if step % 3 == 0 {
                forger.victim.handle_timeout(forger.now + Micros::from_secs(u64::from(round % 7)));
            }
            let id = forger.victim.channel("c");
            id.map(|id| forger.victim.send(id, true, &Arc::from(&b"answer"[..]), forger.now));
            forger.answers();
            let failed = forger.events().iter().any(|event| matches!(event, Event::Closed { reason } if reason.contains("failed")));
            assert!(!failed, "round {round}: the library panicked");
        }
    }
}
