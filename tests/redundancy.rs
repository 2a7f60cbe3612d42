//! Sound that publishers send with redundancy (RFC 2198): what is lost on the way to the server comes along with later packets, and
//! goes on to viewers as if it had not been lost.

#[path = "sim/mod.rs"]
mod sim;

use distributary::limits::RED_BLOCKS_READ;
use distributary::metrics::{Counter, DropReason};
use distributary::signal::api::Purpose;
use distributary::units::{PayloadType, RtpTime};
use distributary::wire::rtp::Header;
use sim::native::{AUDIO, LEVEL, Native, RED, with_level, with_redundancy};
use sim::network::Link;
use sim::random::Random;
use sim::{World, client, for_seeds, picture, watching};

/// Of `seconds`, the share of a viewer's sounds that came.
fn share_heard(world: &mut World, viewer: usize, seconds: u64) -> f64 {
    let counts = |world: &World| [world.viewer(viewer).sounds, world.viewer(viewer).lost_sounds];
    let before = counts(world);
    world.run_seconds(seconds);
    let [heard, lost] = [0, 1].map(|index| counts(world)[index] - before[index]);
    heard as f64 / (heard + lost) as f64
}

/// Whether redundant sound came to a viewer.
fn got_red(world: &World, viewer: usize) -> bool {
    world.viewer(viewer).ssrcs.iter().any(|(payload_type, _)| *payload_type == client::RED)
}

/// A sound is gone for good if it and all packets that repeat it are lost.
#[test]
fn sound_is_as_whole_as_the_publishers_redundancy_promises() {
    const LOSS: f64 = 0.2;
    for_seeds(&[1, 2], |seed| {
        for distances in [&[][..], &[1], &[1, 2], &[1, 3]] {
            let mut world = World::new(seed, 1 + (seed % 2) as usize);
            watching(&mut world, |world| {
                let publisher = world.publish_redundant("room", distances, Link::clean());
                let viewer = world.watch("room", Link::clean());
                assert!(world.connect(5));
                world.clients[publisher].link = Link::lossy(LOSS);
                world.run_seconds(1);
                let heard = share_heard(world, viewer, 20);
                let promised = 1.0 - LOSS.powi(1 + distances.len() as i32);
                // Of 1000 sounds; four times what chance makes of it.
                let tolerance = 4.0 * (promised * (1.0 - promised) / 1000.0).sqrt();
                assert!((heard - promised).abs() < tolerance, "{distances:?}: {heard:.4} of {promised:.4} ± {tolerance:.4}");
                world.assert_no_violations();
                assert!(!got_red(world, viewer), "the publisher's redundancy goes no further than the server");
            });
        }
    });
}

/// What was recovered goes along with later packets as everything else does.
#[test]
fn viewers_are_sent_the_servers_own_redundancy_whatever_the_publisher_sends() {
    for_seeds(&[11, 12], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let publisher = world.publish_redundant("room", &[1], Link::clean());
            let [plain, redundant] = [world.watch("room", Link::clean()), world.watch_redundant("room", Link::clean())];
            assert!(world.connect(5));
            for client in [publisher, plain, redundant] {
                world.clients[client].link = Link::lossy(0.2);
            }
            // Until loss has been reported.
            world.run_seconds(8);
            let before = world.viewer(plain).sounds as f64 / (world.viewer(plain).sounds + world.viewer(plain).lost_sounds) as f64;
            let heard = share_heard(world, redundant, 20);
            world.assert_no_violations();
            // One repetition before the server, two behind it: 0.96 * 0.992; and 0.96 * 0.8 without the latter.
            assert!((0.92..0.985).contains(&heard), "{heard:.4}");
            assert!((0.7..0.84).contains(&before), "{before:.4} without redundancy");
            assert!(got_red(world, redundant) && !got_red(world, plain));
        });
    });
}

/// A publisher and a viewer whose packets are looked at one by one. Packet and sound of one number belong together.
struct Talk {
    world: World,
    publisher: Native,
    viewer: Native,
    /// Number and time, as the viewer counts, of packet 0.
    zero: Option<(u16, u32)>,
}

/// Of packet 0: the time wraps after some.
const TIME: u32 = 0_u32.wrapping_sub(65_536 * 960);

impl Talk {
    fn new(seed: u64) -> Talk {
        let mut world = World::new(seed, 1);
        let mut publisher = Native::join_as(&mut world, "room", Purpose::Publish, |offer| with_level(with_redundancy(offer)));
        assert!(publisher.answer.contains(" UDP/TLS/RTP/SAVPF 63 111\r\n"), "{}", publisher.answer);
        let mut viewer = Native::join_as(&mut world, "room", Purpose::Watch, with_level);
        for native in [&mut publisher, &mut viewer] {
            native.claim(&mut world);
            native.connect(&mut world);
        }
        Talk { world, publisher, viewer, zero: None }
    }

    fn time(number: u64) -> RtpTime {
        RtpTime(TIME.wrapping_add(number as u32 * 960))
    }

    fn send(&mut self, number: u64, payload_type: PayloadType, payload: &[u8]) {
        let packet = self.publisher.sound(payload_type, number, Talk::time(number), Some(30), payload);
        self.world.server.deliver(self.publisher.address, &packet);
        self.world.run_millis(1);
    }

    /// A sound and earlier ones once more.
    fn say(&mut self, number: u64, earlier: &[u64]) {
        self.send(number, RED, &redundant(number, earlier));
    }

    /// A sound alone.
    fn plain(&mut self, number: u64) {
        self.send(number, AUDIO, &picture::audio(7, number));
    }

    /// These came since the last time, in this order, and nothing else: whether each of them says how loud it is.
    fn came(&mut self, numbers: &[u64]) -> Vec<bool> {
        // Longer than any of it is held.
        self.world.run_millis(20);
        let packets = self.viewer.heard(&mut self.world);
        let (mut came, mut told) = (Vec::new(), Vec::new());
        for packet in &packets {
            let header = Header::parse(packet).expect("a header");
            let payload = &packet[header.payload_range(packet).expect("a payload")];
            let number = picture::read_audio(payload).expect("a sound, alone").counter;
            let here = (header.sequence_number.0, header.timestamp.0);
            let there = (number as u16, Talk::time(number).0);
            let zero = (here.0.wrapping_sub(there.0), here.1.wrapping_sub(there.1));
            assert_eq!(zero, *self.zero.get_or_insert(zero), "number and time of {number}");
            assert_eq!(header.payload_type, AUDIO);
            came.push(number);
            told.push(header.extension(LEVEL).is_some_and(|level| level == [30]));
        }
        assert_eq!(came, numbers);
        told
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.world.server.dropped(reason)
    }
}

/// By RFC 2198 §3: four bytes a block, oldest first, one for the primary, then what they are about.
fn redundant(number: u64, earlier: &[u64]) -> Vec<u8> {
    let sounds: Vec<Vec<u8>> = earlier.iter().chain([&number]).map(|number| picture::audio(7, *number)).collect();
    let mut payload = Vec::new();
    for (other, sound) in earlier.iter().zip(&sounds) {
        let offset = (number - other) as u32 * 960;
        payload.extend_from_slice(&(1 << 31 | 111 << 24 | offset << 10 | sound.len() as u32).to_be_bytes());
    }
    payload.push(111);
    payload.extend(sounds.concat());
    payload
}

#[test]
fn what_was_lost_goes_on_once_under_its_own_number_and_time() {
    let mut talk = Talk::new(21);
    let n = 65_534;
    talk.say(n, &[]);
    talk.came(&[n]);
    // Two are lost, one on each side of where numbers and time begin anew.
    talk.say(n + 3, &[n + 1, n + 2]);
    talk.came(&[n + 1, n + 2, n + 3]);
    // They were only late.
    talk.say(n + 2, &[n, n + 1]);
    talk.plain(n + 1);
    talk.came(&[]);
    assert_eq!(talk.dropped(DropReason::Duplicate), 2);
    // The packet itself is there before others that repeat it.
    talk.plain(n + 5);
    talk.say(n + 4, &[n + 2, n + 3]);
    talk.say(n + 6, &[n + 4, n + 5]);
    talk.came(&[n + 5, n + 4, n + 6]);
    // Lost, asked for and sent again.
    let nacks = |talk: &Talk| talk.world.server.count(Counter::NacksSent);
    assert_eq!(nacks(&talk), 0);
    talk.plain(n + 8);
    talk.world.run_millis(30);
    assert_eq!(nacks(&talk), 1);
    talk.plain(n + 7);
    talk.say(n + 9, &[n + 7, n + 8]);
    talk.came(&[n + 8, n + 7, n + 9]);
    // Lost, asked for, and brought along before that was answered: not asked for again.
    talk.plain(n + 11);
    talk.world.run_millis(60);
    assert_eq!(nacks(&talk), 2);
    talk.say(n + 12, &[n + 10, n + 11]);
    talk.came(&[n + 11, n + 10, n + 12]);
    talk.world.run_seconds(1);
    assert_eq!((nacks(&talk), talk.world.server.count(Counter::LostUpstream)), (2, 0));
    // Each packet repeats the one before the last only.
    talk.say(n + 15, &[n + 13]);
    talk.say(n + 16, &[n + 14]);
    talk.came(&[n + 13, n + 15, n + 14, n + 16]);
    // Sent again, and brought along three times.
    assert_eq!(talk.world.server.count(Counter::Recovered), 1 + 2 + 1 + 2);
    assert_eq!(talk.dropped(DropReason::Duplicate), 2);
}

/// Header extensions are not repeated (RFC 2198 has no place for them).
#[test]
fn a_recovered_sound_says_nothing_of_how_loud_it_is() {
    let mut talk = Talk::new(31);
    talk.say(0, &[]);
    assert_eq!(talk.came(&[0]), [true]);
    for number in (2..200).step_by(2) {
        talk.say(number, &[number - 1]);
        assert_eq!(talk.came(&[number - 1, number]), [false, true]);
    }
    // What the API tells is what arrived, although every other packet was lost. A moment in which nothing has come yet is silent.
    let mut loudest = None;
    for number in (200..500).step_by(2) {
        talk.say(number, &[number - 1]);
        talk.world.run_millis(39);
        let rooms = talk.world.server.rooms();
        let levels = rooms[0].sessions.iter().filter_map(|session| session.audio_level);
        loudest = loudest.max(levels.max());
    }
    assert_eq!(loudest, Some(-30));
}

#[test]
fn redundancy_that_makes_no_sense_is_counted_and_goes_no_further() {
    let mut talk = Talk::new(41);
    talk.say(0, &[]);
    talk.came(&[0]);
    let whole = redundant(9, &[8]);
    let block = |payload_type: u32, offset: u32, len: u32| (1 << 31 | payload_type << 24 | offset << 10 | len).to_be_bytes();
    let with = |blocks: &[[u8; 4]], primary: u8| [blocks.as_flattened(), &[primary], &[0xf8; 40]].concat();
    let mut bad = vec![
        Vec::new(),
        whole[..1].to_vec(),
        whole[..3].to_vec(),
        whole[..4].to_vec(),
        // A block of more bytes than there are, alone and after another.
        with(&[block(111, 960, 41)], 111),
        with(&[block(111, 1_920, 20), block(111, 960, 21)], 111),
        with(&[block(111, 16_383, 1_023)], 111),
        // Of the moment of the primary; redundancy of redundancy; too much of it.
        with(&[block(111, 0, 20)], 111),
        with(&[block(63, 960, 20)], 111),
        with(&[block(111, 960, 20)], 63),
        with(&[block(111, 960, 1); RED_BLOCKS_READ + 1], 111),
        // Headers without end.
        [0xff; 1_000].to_vec(),
    ];
    for (number, payload) in (1..).zip(&bad) {
        talk.send(number, RED, payload);
        assert_eq!(talk.dropped(DropReason::RedMalformed), number, "{:02x?}", &payload[..payload.len().min(8)]);
    }
    let mut number = bad.len() as u64 + 1;
    talk.send(number, RED, &with(&[block(111, 960, 20)], 96));
    assert_eq!(talk.dropped(DropReason::PayloadTypeUnknown), 1);
    // None of it has been taken for sound; the last was lost like any other.
    talk.came(&[]);
    talk.say(number + 1, &[number]);
    talk.came(&[number, number + 1]);
    // Blocks of other codecs, of nothing, and older than anything: the primary counts.
    let sound = picture::audio(7, number + 3);
    let mut payload = [block(13, 960, 2), block(111, 960, 0), block(111, 16_000, 2)].concat();
    payload.extend([&[111][..], &[0; 4], &sound[..]].concat());
    talk.send(number + 3, RED, &payload);
    talk.came(&[number + 3]);
    number += 3;

    bad.extend([whole, redundant(number, &[number - 2, number - 1])]);
    let mut random = Random::new(41);
    for _ in 0..20_000 {
        number += 1;
        let mut payload = bad[random.below(bad.len())].clone();
        for _ in 0..random.below(4).min(payload.len()) {
            let at = random.below(payload.len());
            payload[at] = random.next() as u8;
        }
        let packet = talk.publisher.sound(RED, number, Talk::time(number), None, &payload);
        if random.chance(0.8) {
            talk.world.server.deliver(talk.publisher.address, &packet);
        }
        if number.is_multiple_of(50) {
            talk.world.tick();
        }
    }
    talk.world.run_millis(20);
    talk.viewer.heard(&mut talk.world);
    talk.say(number + 1, &[]);
    talk.came(&[number + 1]);
}
