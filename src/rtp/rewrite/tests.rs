//! What a receiver sees of sources that change, of layers that are left out, and of packets that come late.

use super::*;
use crate::mem::{Arena, Slots};
use crate::rtp::cache::Cache;
use crate::wire::layer::Layer;
use crate::wire::picture::PictureIds;
use crate::wire::vectors::{self, Captured};
use crate::wire::{dependency, vp9};

const NO_CLOCKS: [Option<SenderClock>; QUALITIES_MAX] = [None; QUALITIES_MAX];

/// A publisher's packets, made one by one.
struct Stream {
    slots: Slots,
    track: u32,
    encoding: u8,
}

impl Stream {
    fn new(track: u32) -> Stream {
        Stream { slots: Arena::leak(64), track, encoding: 0 }
    }

    fn media(&mut self, sequence: u64, timestamp: u32, picture_id: u16, millis: u64) -> Media {
        Media {
            track: TrackId { slot: self.track, generation: 0 },
            packet: self.slots.take().expect("a slot").freeze(),
            header_len: 12,
            payload_len: 0,
            padding: 0,
            stream: self.encoding,
            encoding: self.encoding,
            layer: Layer::default(),
            marker: false,
            key_frame: true,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(timestamp),
            arrival: Micros::from_millis(millis),
            extensions: Default::default(),
            dependency: None,
            picture: PictureIds {
                picture_id: Some((2, true, picture_id)),
                tl0_pic_idx: Some((4, picture_id as u8)),
                gapless: true,
            },
        }
    }

    /// A packet of a temporal layer, with the sequence number's lower bits as picture id.
    fn temporal(&mut self, sequence: u64, temporal: u8, switch_up: bool) -> Media {
        let mut media = self.media(sequence, sequence as u32 * 3_000, sequence as u16 & 0x7fff, sequence * 33);
        media.key_frame = false;
        // As VP8's Y.
        let (switch_from, switch_to) = if switch_up { (temporal - 1, temporal) } else { (1, 0) };
        media.layer = Layer { temporal, switch_from, switch_to, start_of_frame: true, inter_picture: true, ..Layer::default() };
        media
    }
}

fn take(rewriter: &mut Rewriter, media: &Media, history: &mut History) -> Option<Rewritten> {
    rewriter.take(media, true, 90_000, &NO_CLOCKS, Some(history)).expect("not dropped")
}

#[test]
fn packets_of_nothing_are_followed_by_a_source_without_a_seam_and_never_stand_within_one() {
    let mut rewriter = Rewriter::new(0x1234);
    let mut stream = Stream::new(1);
    let (first, began) = rewriter.fill(Micros::from_millis(1_000), 90_000).expect("there is no source");
    let (second, later) = rewriter.fill(Micros::from_millis(1_100), 90_000).expect("there is no source");
    assert_eq!((first.0, second.0, later.0.wrapping_sub(began.0)), (0x1235, 0x1236, 9_000));
    let media = stream.media(70_000, 5, 7, 3_100);
    let numbers = rewriter.take(&media, true, 90_000, &NO_CLOCKS, None).unwrap().expect("it is wanted");
    assert_eq!((numbers.sequence.0, numbers.timestamp.0.wrapping_sub(later.0)), (0x1237, 180_000), "two seconds later");
    assert!(rewriter.fill(Micros::from_millis(3_200), 90_000).is_none());
    // Nothing was lost that could be sent again.
    assert_eq!(rewriter.origin(second.number(), None), None);
    assert_eq!(rewriter.origin(numbers.sequence.number(), None).map(|(_, number)| number.0), Some(70_000));
}

#[test]
fn a_change_of_publisher_is_continuous_in_every_number() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(0x1234_5678_9abc_def0), History::default());
    let a = take(&mut rewriter, &source.media(70_000, 4_000_000_000, 32_767, 1_000), &mut history).expect("sent");
    let b = take(&mut rewriter, &source.media(70_001, 4_000_003_000, 0, 1_033), &mut history).expect("sent");
    assert_eq!(b.sequence.0, a.sequence.0 + 1);
    assert_eq!(b.timestamp.distance(a.timestamp), 3_000);
    assert_eq!(b.picture_number, (a.picture_number + 1) & 0x7fff);

    let mut other = Stream::new(2);
    let c = take(&mut rewriter, &other.media(65_600, 17, 5, 3_033), &mut history).expect("sent");
    assert_eq!(c.sequence.0, b.sequence.0 + 1);
    assert_eq!(c.timestamp.distance(b.timestamp), 180_000, "two seconds passed");
    assert_eq!(c.picture_number, (b.picture_number + 1) & 0x7fff);
    assert_eq!(c.tl0_pic_idx, b.tl0_pic_idx.wrapping_add(1));
    let early = other.media(65_599, 17, 5, 3_034);
    assert_eq!(rewriter.take(&early, true, 90_000, &NO_CLOCKS, Some(&mut history)), Err(DropReason::TooLate));
}

#[test]
fn an_outgoing_number_finds_the_packet_it_was_made_from() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    let first = source.media(70_000, 0, 0, 0);
    let out = take(&mut rewriter, &first, &mut history).expect("sent").sequence.number();
    take(&mut rewriter, &source.media(70_005, 0, 0, 0), &mut history);
    let here = Source::of(&first);
    assert_eq!(rewriter.origin(out.add(3), Some(&history)), Some((here, ExtendedSequence(70_003))));
    assert_eq!(rewriter.origin(SequenceNumber(out.0.wrapping_sub(1)), Some(&history)), None, "before the source began");
    assert_eq!(rewriter.origin(out.add(6), Some(&history)), None, "not sent yet");
}

#[test]
fn layers_left_out_leave_no_hole_in_any_number_and_come_back_at_a_switching_point() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    let key = source.media(70_000, 70_000 * 3_000, (70_000 & 0x7fff_u32) as u16, 70_000 * 33);
    let mut last = take(&mut rewriter, &key, &mut history).expect("sent");
    rewriter.aim(Some(Target { temporal: 0, ..Target::all(0) }));
    let mut sent = vec![(key, last)];
    // T2 T1 T2 T0, a packet each, as Chromium's L1T3; switching points from 70,017 on.
    for sequence in 70_001..70_033u64 {
        let temporal = [0, 2, 1, 2][sequence as usize % 4];
        if sequence == 70_016 {
            rewriter.aim(Some(Target::all(0)));
        }
        let media = source.temporal(sequence, temporal, temporal > 0 && sequence >= 70_021);
        match take(&mut rewriter, &media, &mut history) {
            Some(numbers) => {
                assert_eq!(numbers.sequence.0, last.sequence.0 + 1, "at {sequence}");
                assert_eq!(numbers.picture_number, (last.picture_number + 1) & 0x7fff, "at {sequence}");
                last = numbers;
                sent.push((media, numbers));
            }
            None => assert!(temporal > 0 && sequence < 70_023, "{temporal} at {sequence}"),
        }
    }
    // Down to T0 at the first picture after the choice: 4 in 16; T1 from 70,022, all from 70,023.
    assert_eq!(sent.len(), 1 + 5 + 1 + 10, "{:?}", sent.iter().map(|(media, _)| media.sequence.0).collect::<Vec<_>>());
    for (media, numbers) in &sent {
        assert_eq!(rewriter.renumber(media, Some(&history)), Some(*numbers), "again, at {}", media.sequence.0);
        assert_eq!(
            rewriter.origin(numbers.sequence.number(), Some(&history)),
            Some((Source::of(media), media.sequence)),
            "back, from {}",
            media.sequence.0
        );
    }
}

#[test]
fn a_late_packet_of_a_layer_left_out_is_sent_empty_in_its_place() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    take(&mut rewriter, &source.media(70_000, 210_000_000, 0, 0), &mut history);
    rewriter.aim(Some(Target { temporal: 0, ..Target::all(0) }));
    assert_eq!(take(&mut rewriter, &source.temporal(70_001, 1, false), &mut history), None);
    // 70,002 is missing upstream: nobody knows of which layer it is, so it keeps a number.
    let next = take(&mut rewriter, &source.temporal(70_003, 0, false), &mut history).expect("sent");
    let late = source.temporal(70_002, 1, false);
    let numbers = take(&mut rewriter, &late, &mut history).expect("sent");
    assert!(numbers.blank && numbers.sequence.0 + 1 == next.sequence.0);
    assert_eq!(rewriter.renumber(&late, Some(&history)), Some(numbers), "a retransmission is the same");
}

#[test]
fn an_encoding_changes_at_a_key_frame_and_by_the_senders_clocks() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    let before = take(&mut rewriter, &source.media(70_000, 1_000_000, 100, 10_000), &mut history).expect("sent");
    rewriter.aim(Some(Target::all(1)));
    assert_eq!(rewriter.awaits(), Some(1));
    source.encoding = 1;
    let mut delta = source.media(80_000, 500, 9, 10_010);
    delta.key_frame = false;
    assert_eq!(take(&mut rewriter, &delta, &mut history), None);
    source.encoding = 0;
    let mut old = source.media(70_001, 1_003_000, 101, 10_033);
    old.key_frame = false;
    assert!(take(&mut rewriter, &old, &mut history).is_some(), "goes on until then");
    source.encoding = 1;
    let key = source.media(80_001, 3_500, 10, 10_100);
    // By arrival 67 ms later, by its sender's clocks 33 ms.
    let clock = |stream, rtp| Some(SenderClock { stream, ntp: 77 << 32, rtp: RtpTime(rtp), at: Micros::ZERO });
    let clocks = [clock(0, 1_003_000), clock(1, 500), None, None];
    let after = rewriter.take(&key, true, 90_000, &clocks, Some(&mut history)).expect("not dropped").expect("sent");
    assert_eq!((after.sequence.0, after.timestamp.distance(before.timestamp)), (before.sequence.0 + 2, 6_000));
    assert_eq!(rewriter.awaits(), None);
    // What was lost of the other just before can still be asked for.
    let numbers = rewriter.renumber(&old, Some(&history)).expect("of the encoding before");
    assert_eq!(numbers.sequence.0, before.sequence.0 + 1);
    assert_eq!(rewriter.origin(numbers.sequence.number(), Some(&history)), Some((Source::of(&old), old.sequence)));
}

#[test]
fn spatial_layers_left_out_move_the_marker_to_the_last_that_is_sent() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    rewriter.aim(Some(Target { encoding: 0, spatial: 0, temporal: 0 }));
    let mut sequence = 70_000;
    let mut markers = Vec::new();
    for picture in 0..4u32 {
        for spatial in 0..3u8 {
            let mut media = source.media(sequence, picture * 3_000, picture as u16, picture as u64 * 33);
            media.key_frame = picture % 3 == 0 && spatial == 0;
            media.layer = Layer { spatial, end_of_frame: true, ..Layer::default() };
            media.marker = spatial == 2;
            media.picture.gapless = false;
            if picture == 2 {
                rewriter.aim(Some(Target { spatial: 1, ..Target::all(0) }));
            }
            if let Some(numbers) = take(&mut rewriter, &media, &mut history) {
                assert_eq!(rewriter.renumber(&media, Some(&history)), Some(numbers));
                markers.push((picture, spatial, numbers.marker));
            }
            sequence += 1;
        }
    }
    assert_eq!(markers, [(0, 0, true), (1, 0, true), (2, 0, true), (3, 0, false), (3, 1, true)]);
}

#[test]
fn nothing_is_sent_without_a_target_and_a_key_frame_brings_it_back() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    let last = take(&mut rewriter, &source.media(70_000, 0, 0, 0), &mut history).expect("sent");
    rewriter.aim(None);
    assert_eq!(take(&mut rewriter, &source.media(70_001, 3_000, 1, 33), &mut history), None);
    rewriter.aim(Some(Target::all(0)));
    let delta = source.temporal(70_002, 0, false);
    assert_eq!(rewriter.take(&delta, true, 90_000, &NO_CLOCKS, Some(&mut history)), Err(DropReason::AwaitingKeyFrame));
    let next = take(&mut rewriter, &source.media(70_003, 9_000, 3, 99), &mut history).expect("sent");
    assert_eq!(next.sequence.0, last.sequence.0 + 1);
}

/// The last picture was of second 1; the cached key frame is of second 4, whenever it is sent.
#[test]
fn a_source_that_comes_back_from_the_cache_goes_on_in_its_own_time() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    assert!(!rewriter.has_sent(Micros::ZERO));
    let last = take(&mut rewriter, &source.media(70_000, 0, 0, 1_000), &mut history).expect("sent");
    rewriter.aim(None);
    rewriter.aim(Some(Target::all(0)));
    assert!(rewriter.has_sent(Micros::from_millis(999)) && rewriter.has_sent(Micros::from_millis(1_000)));
    assert!(!rewriter.has_sent(Micros::from_millis(1_001)));
    let key = take(&mut rewriter, &source.media(70_090, 270_000, 90, 4_000), &mut history).expect("sent");
    assert_eq!((key.sequence.0, key.timestamp.distance(last.timestamp)), (last.sequence.0 + 1, 270_000));
    let next = take(&mut rewriter, &source.media(70_091, 273_000, 91, 4_033), &mut history).expect("sent");
    assert_eq!((next.sequence.0, next.timestamp.distance(key.timestamp)), (key.sequence.0 + 1, 3_000));
}

/// Where frames are held, a key frame of the other encoding may have come before the last packet that was sent.
#[test]
fn a_key_frame_that_came_a_little_earlier_is_a_later_picture_all_the_same() {
    let (mut source, mut rewriter, mut history) = (Stream::new(1), Rewriter::new(7), History::default());
    let last = take(&mut rewriter, &source.media(70_000, 0, 0, 1_005), &mut history).expect("sent");
    rewriter.aim(Some(Target::all(1)));
    source.encoding = 1;
    let key = take(&mut rewriter, &source.media(80_000, 77, 0, 1_000), &mut history).expect("sent");
    assert_eq!((key.sequence.0, key.timestamp.distance(last.timestamp)), (last.sequence.0 + 1, 1));
}

/// A captured stream as a publisher's packets, with their dependency descriptors; what follows a gap begins with its key frame.
fn captured(capture: &str, is_vp9: bool, source: &mut Stream) -> Vec<(Media, Captured)> {
    let mut reader = dependency::Reader::default();
    let (mut media, mut expected) = (Vec::new(), None);
    for packet in vectors::packets(capture) {
        let told = reader.read(&packet.descriptor, packet.timestamp).ok().filter(|_| !is_vp9);
        let vp9 = is_vp9.then(|| vp9::parse(&packet.payload).expect("a payload"));
        let layer = vp9.as_ref().map_or_else(|| told.as_ref().expect("a descriptor").layer(), vp9::Descriptor::layer);
        let key_frame = layer.key_frame() && layer.spatial == 0;
        if expected != Some(packet.sequence_number) && !key_frame {
            continue;
        }
        expected = Some(packet.sequence_number.next());
        let mut next = source.media(80_000 + media.len() as u64, packet.timestamp.0, 0, media.len() as u64 * 10);
        (next.layer, next.key_frame, next.marker) = (layer, key_frame, packet.marker);
        next.picture = vp9.map_or(PictureIds::default(), |descriptor| descriptor.picture_ids());
        next.dependency = told.and_then(|descriptor| descriptor.forwarding());
        media.push((next, packet));
    }
    media
}

/// What a receiver can make of a stream: every frame that a frame refers to has been sent, by the numbers that it is sent with.
#[derive(Default)]
struct Receiver {
    reader: dependency::Reader,
    /// Frame numbers; for VP9 picture ids with the spatial layer.
    sent: Vec<(u16, u8)>,
    last: Option<(Rewritten, u16)>,
    /// Pictures without a marked packet.
    unmarked: u32,
}

impl Receiver {
    fn packet(&mut self, media: &Media, packet: &Captured, numbers: &Rewritten) {
        let what = format!("{:?}, S{}T{}", packet.sequence_number, media.layer.spatial, media.layer.temporal);
        let number = numbers.picture_number;
        if let Some((last, last_number)) = &self.last {
            assert_eq!(numbers.sequence.0, last.sequence.0 + 1, "{what}");
            let same = last.timestamp == numbers.timestamp;
            assert!(!(last.marker && same), "{what}: the marker ends a picture");
            // A key frame may come before the end of a picture.
            self.unmarked += (!last.marker && !same && !media.key_frame) as u32;
            // Of one source frame numbers may have gaps; the captures have one of unknown size before their second run.
            assert!(media.key_frame || number.wrapping_sub(*last_number) < 32, "{what}: {last_number}, {number}");
        }
        let lacks = |frame: (u16, u8)| !self.sent.contains(&frame);
        let spatial = media.layer.spatial;
        if let Some(forwarding) = &media.dependency {
            let mut space = [0; dependency::DESCRIPTOR_BYTES_MAX];
            let len =
                forwarding.write(&packet.descriptor, number, numbers.template_id_shift, numbers.limits, &mut space).expect("room");
            let read = self.reader.read(&space[..len], numbers.timestamp).expect("a descriptor");
            assert_eq!(read.layout.frame_number, number, "{what}");
            for back in &read.dependencies {
                assert!(!lacks((number.wrapping_sub(*back), 0)), "{what} refers to a frame that was not sent");
            }
            let structure = self.reader.structure().expect("a structure");
            let (top, fastest) = numbers.limits.unwrap_or((u8::MAX, u8::MAX));
            for (index, target) in structure.targets.iter().enumerate() {
                let gets = target.spatial <= top && target.temporal <= fastest;
                assert!(gets || read.active_decode_targets >> index & 1 == 0, "{what}: target {index} is not sent");
            }
            assert!(read.active_decode_targets != 0, "{what}");
            self.sent.push((number, 0));
        } else {
            let read = vp9::parse(&packet.payload).expect("a payload");
            for back in &read.references {
                assert!(!lacks((number.wrapping_sub(*back as u16) & 0x7fff, spatial)), "{what} refers to a picture {back} back");
            }
            let inter_layer = read.layer_indices.is_some_and(|indices| indices.inter_layer);
            assert!(!inter_layer || spatial > 0 && !lacks((number, spatial - 1)), "{what} refers to the layer below");
            self.sent.push((number, spatial));
        }
        self.last = Some((*numbers, number));
    }
}

/// Somebody comes in the midst of what Chromium sends, and begins with what is cached: with all layers, or with the lowest alone.
#[test]
fn who_begins_with_a_cached_run_can_decode_all_of_it() {
    let captures = [
        (vectors::AV1_L3T3, false, 0),
        (vectors::AV1_L3T3_KEY, false, 0),
        (vectors::AV1_L1T3, false, u8::MAX),
        (vectors::VP9_L3T3, true, 0),
        (vectors::VP9_L3T3_KEY, true, 0),
        (vectors::H264_L1T2, false, u8::MAX),
    ];
    for (capture, is_vp9, lowest) in captures {
        for (spatial, temporal) in [(u8::MAX, u8::MAX), (lowest, 0)] {
            let mut source = Stream { slots: Arena::leak(400), track: 1, encoding: 0 };
            let packets = captured(capture, is_vp9, &mut source);
            let (mut rewriter, mut history, mut receiver) = (Rewriter::new(7), History::default(), Receiver::default());
            rewriter.aim(Some(Target { encoding: 0, spatial, temporal }));
            let (before, after) = packets.split_at(60);
            let mut cache = Cache::new(128);
            before.iter().for_each(|(media, _)| cache.insert(media.clone()));
            let run = cache.run(after[0].0.arrival).expect("a run");
            assert!(run.packets > 20, "{}", run.packets);
            let of_run = cache.packets(run).map(|media| media.sequence);
            let of_run = of_run.filter_map(|sequence| before.iter().find(|(media, _)| media.sequence == sequence));
            for (media, packet) in of_run.chain(after) {
                if let Some(numbers) = take(&mut rewriter, media, &mut history) {
                    receiver.packet(media, packet, &numbers);
                }
            }
            assert!(receiver.sent.len() > 10, "{}", receiver.sent.len());
        }
    }
}

/// Limits are forced to and fro on what Chromium sends, from one capture to the next as from encoding to encoding.
#[test]
fn what_chromium_sends_stays_decodable_through_forced_changes() {
    let groups: [(&[&str], bool, u8); 4] = [
        (&[vectors::AV1_L3T3, vectors::AV1_L3T3_KEY, vectors::AV1_L3T3], false, 2),
        (&[vectors::AV1_L1T3, vectors::AV1_L1T3], false, 0),
        (&[vectors::VP9_L3T3, vectors::VP9_L3T3_KEY, vectors::VP9_L3T3_PLAIN], true, 2),
        (&[vectors::H264_L1T2], false, 0),
    ];
    for (captures, is_vp9, top) in groups {
        let mut seen = std::collections::HashSet::new();
        // Changes after so many packets, beginning with another limit each time.
        for (period, phase) in [(7, 0), (13, 1), (20, 2), (31, 3), (50, 4), (9, 5)] {
            let (mut rewriter, mut history, mut receiver) = (Rewriter::new(7), History::default(), Receiver::default());
            for (encoding, capture) in captures.iter().enumerate() {
                let mut source = Stream { slots: Arena::leak(400), track: 1, encoding: encoding as u8 };
                for (index, (media, packet)) in captured(capture, is_vp9, &mut source).iter().enumerate() {
                    if index % period == 0 {
                        let step = index / period + phase;
                        let (spatial, temporal) = ([u8::MAX, 0, 1][step / 4 % 3], [u8::MAX, 0, 1, 2][step % 4]);
                        let target =
                            Target { encoding: encoding as u8, spatial: if top == 0 { u8::MAX } else { spatial }, temporal };
                        rewriter.aim(Some(target));
                    }
                    if let Some(numbers) = take(&mut rewriter, media, &mut history) {
                        receiver.packet(media, packet, &numbers);
                        assert_eq!(rewriter.renumber(media, Some(&history)), Some(numbers), "sent again");
                        seen.insert((media.layer.spatial, media.layer.temporal));
                        let (spatial, temporal) = rewriter.passing();
                        assert!(media.layer.is_within(spatial, temporal));
                    }
                }
            }
            // Where layers were added or left out just then, Chromium has marked none itself.
            assert!(receiver.unmarked <= 2 && receiver.sent.len() > 60, "{} of {}", receiver.unmarked, receiver.sent.len());
        }
        assert!((0..=top).all(|spatial| (0..2).all(|temporal| seen.contains(&(spatial, temporal)))), "{seen:?}");
    }
}

/// Two encodings that both count their templates from the same id (A.8.3): what is sent again of the first after the second has begun
/// names no template of the second.
#[test]
fn sources_one_after_the_other_have_different_template_ids() {
    let (mut rewriter, mut history) = (Rewriter::new(7), History::default());
    let mut first = None;
    let mut ids = [Vec::new(), Vec::new(), Vec::new()];
    for (encoding, ids) in ids.iter_mut().enumerate() {
        let mut source = Stream { slots: Arena::leak(400), track: 1, encoding: encoding as u8 };
        rewriter.aim(Some(Target::all(encoding as u8)));
        for (media, packet) in captured(vectors::AV1_L3T3, false, &mut source).iter().take(40) {
            let numbers = take(&mut rewriter, media, &mut history).expect("all of it");
            let forwarding = media.dependency.expect("a descriptor");
            let mut space = [0; dependency::DESCRIPTOR_BYTES_MAX];
            let shift = numbers.template_id_shift;
            forwarding.write(&packet.descriptor, numbers.picture_number, shift, numbers.limits, &mut space).expect("room");
            ids.push(space[0] & 63);
            if ids.len() == 3 {
                first = first.or(Some((media.clone(), numbers)));
            }
            if encoding == 1 {
                let (media, numbers) = first.as_ref().expect("sent");
                assert_eq!(rewriter.renumber(media, Some(&history)).as_ref(), Some(numbers), "as it was sent");
            }
        }
    }
    assert!(ids[0].iter().all(|id| !ids[1].contains(id)) && ids[1].iter().all(|id| !ids[2].contains(id)), "{ids:?}");
    assert!(ids[0].len() == 40 && ids[0].iter().any(|id| *id != ids[0][0]));
}
