//! Publishers that contradict themselves, or tell of what there is not: it is counted, and who watches keeps what it had.

use super::*;
use crate::mem::{Arena, Slots};
use crate::rtp::config::{FecConfig, Feedback, Format, Mid, Rid};
use crate::rtp::rewrite::{History, Rewriter, Target};
use crate::units::PayloadType;
use crate::wire::extension::ExtensionMap;
use crate::wire::vectors;

const MEDIA: PayloadType = PayloadType(96);
const RTX: PayloadType = PayloadType(97);
const RED: PayloadType = PayloadType(100);
const RED_RTX: PayloadType = PayloadType(101);
const ULPFEC: PayloadType = PayloadType(122);
const RID_ID: u8 = 4;
const REPAIRED_RID_ID: u8 = 5;
const DEPENDENCY_ID: u8 = 6;
const TRANSPORT_ID: u8 = 9;
const NOW: Micros = Micros::from_secs(1);

/// A publisher with one video, and a viewer of it.
struct Scene {
    inbound: Inbound,
    metrics: WorkerMetrics,
    slots: Slots,
    rewriter: Rewriter,
    history: History,
    number: u16,
}

impl Scene {
    fn new(codec: Codec, rids: &[&str], target: Target) -> Scene {
        let mut extensions = ExtensionMap::default();
        extensions.set(ExtensionKind::Rid, RID_ID);
        extensions.set(ExtensionKind::RepairedRid, REPAIRED_RID_ID);
        extensions.set(ExtensionKind::DependencyDescriptor, DEPENDENCY_ID);
        extensions.set(ExtensionKind::TransportSequence, TRANSPORT_ID);
        let feedback = Feedback { nack: true, pli: true, ..Feedback::default() };
        let codec = CodecConfig {
            codec,
            payload_type: MEDIA,
            rtx: Some(RTX),
            red: None,
            clock_rate: 90_000,
            format: Format::Any,
            feedback,
        };
        let media = MediaConfig {
            mid: Mid::from("0").unwrap(),
            kind: MediaKind::Video,
            direction: Direction::RecvOnly,
            codecs: ArrayVec::from_iter([codec]),
            extensions,
            fec: Some(FecConfig { red: RED, ulpfec: ULPFEC, red_rtx: Some(RED_RTX) }),
            remote_streams: ArrayVec::new(),
            rids: rids.iter().map(|rid| Rid::from(rid).unwrap()).collect(),
            local_stream: None,
        };
        let mut rewriter = Rewriter::new(1);
        rewriter.aim(Some(target));
        Scene {
            inbound: Inbound::new(&[media], &[TrackId::default()]),
            metrics: WorkerMetrics::default(),
            slots: Arena::leak(512),
            rewriter,
            history: History::default(),
            number: 0,
        }
    }

    /// What becomes of a packet, its number the next.
    fn receive(
        &mut self,
        (ssrc, payload_type): (u32, PayloadType),
        timestamp: RtpTime,
        marker: bool,
        element: Option<(u8, &[u8])>,
        payload: &[u8],
    ) -> Result<Media, DropReason> {
        self.number += 1;
        let mut bytes = [0; 1600];
        let (number, ssrc) = (SequenceNumber(self.number), Ssrc(ssrc));
        let len = rtp::write_header(&mut bytes, marker, payload_type, number, timestamp, ssrc, element.into_iter()).expect("room");
        bytes[len..len + payload.len()].copy_from_slice(payload);
        let mut packet = self.slots.take().expect("a slot");
        packet.fill(&bytes[..len + payload.len()]);
        self.inbound.receive(packet, NOW, &self.metrics)
    }

    /// A packet of VP8 with an RTP stream id.
    fn vp8(&mut self, ssrc: u32, rid: &str, key_frame: bool) -> Result<Media, DropReason> {
        let element = (!rid.is_empty()).then_some((RID_ID, rid.as_bytes()));
        // A descriptor of one byte, and the first of a frame's header: RFC 7741 §4.2, RFC 6386 §9.1.
        let payload = [0x10, !key_frame as u8, 0, 0, 0x9d, 1, 0x2a, 0, 1, 0, 1, 0];
        self.receive((ssrc, MEDIA), RtpTime(self.number as u32 * 3_000), true, element, &payload)
    }

    /// Whether the viewer is given a packet.
    fn is_sent(&mut self, media: &Media) -> bool {
        let taken = self.rewriter.take(media, true, 90_000, &[None; QUALITIES_MAX], Some(&mut self.history));
        taken.is_ok_and(|numbers| numbers.is_some_and(|numbers| !numbers.blank))
    }
}

/// As Chromium does: the first probes of its estimate are padding on the RTX stream, of media that has not come yet.
#[test]
fn what_cannot_be_taken_is_told_to_have_come_all_the_same() {
    let mut scene = Scene::new(Codec::Vp8, &[], Target::all(0));
    for number in 0..5u16 {
        let element = Some((TRANSPORT_ID, &number.to_be_bytes()[..]));
        assert_eq!(scene.receive((2, RTX), RtpTime(0), false, element, &[]).map(|_| ()), Err(DropReason::RtxMalformed));
    }
    let (base, times) = scene.inbound.arrivals.pending();
    assert_eq!((base, times.collect::<Vec<_>>()), (SequenceNumber(0), vec![Some(NOW); 5]));
}

#[test]
fn an_ssrc_keeps_the_rid_it_began_with() {
    let mut scene = Scene::new(Codec::Vp8, &["f", "h"], Target::all(0));
    let first = scene.vp8(1, "f", true).expect("taken");
    assert_eq!((first.encoding, scene.is_sent(&first)), (0, true));
    let other = scene.vp8(2, "h", true).expect("taken");
    assert_eq!((other.encoding, scene.is_sent(&other)), (1, false));
    for (rid, outcome) in [("", Ok(0)), ("h", Err(DropReason::RidChanged)), ("x", Err(DropReason::RidChanged)), ("f", Ok(0))] {
        assert_eq!(scene.vp8(1, rid, true).map(|media| media.encoding), outcome, "SSRC 1 says {rid:?}");
    }
    let next = scene.vp8(1, "", false).expect("taken");
    assert!(scene.is_sent(&next), "the viewer goes on");
    // Repairs say what they repair; number 1 is repeated.
    let mut repair = |rid: &[u8], original: u8| {
        let element = Some((REPAIRED_RID_ID, rid));
        scene.receive((3, RTX), RtpTime(0), true, element, &[0, original, 0x10, 1, 0, 0]).map(|media| media.encoding)
    };
    assert_eq!(repair(b"f", 1), Err(DropReason::Duplicate), "of the first stream, which has it");
    assert_eq!(repair(b"h", 1), Err(DropReason::RidChanged));
    assert_eq!(repair(b"f", 5), Ok(0), "the one that said what it was not");
}

#[test]
fn new_ssrcs_need_a_known_rid_and_are_bounded() {
    let mut scene = Scene::new(Codec::Vp8, &["f", "h"], Target::all(0));
    let first = scene.vp8(1, "f", true).expect("taken");
    assert!(scene.is_sent(&first));
    for rid in ["", "x", "ff", "F"] {
        assert_eq!(scene.vp8(2, rid, true).map(|_| ()), Err(DropReason::SsrcUnknown), "{rid:?}");
    }
    // An encoding may move to another SSRC, where a key frame begins.
    let moved = scene.vp8(3, "f", false).expect("taken");
    assert_eq!((moved.encoding, scene.is_sent(&moved)), (0, false), "in the middle of something");
    let next = scene.vp8(1, "", false).expect("taken");
    assert!(scene.is_sent(&next), "the viewer keeps what it had");
    let outcomes: Vec<_> = (100..400).map(|ssrc| scene.vp8(ssrc, "h", true).map(|media| media.encoding)).collect();
    let taken = STREAMS_PER_PEER - 2;
    assert!(outcomes[..taken].iter().all(|outcome| *outcome == Ok(1)));
    assert!(outcomes[taken..].iter().all(|outcome| *outcome == Err(DropReason::SsrcLimit)));
    assert_eq!(scene.inbound.streams.len(), STREAMS_PER_PEER);
    let next = scene.vp8(1, "f", false).expect("taken");
    assert!(scene.is_sent(&next));
}

/// What Chromium sends of AV1 in three spatial and three temporal layers, to a viewer of the lower two; between its packets,
/// descriptors that refer to nothing.
#[test]
fn descriptors_that_refer_to_nothing_leave_the_layer_as_it_was() {
    let target = Target { encoding: 0, spatial: 1, temporal: 1 };
    let mut scene = Scene::new(Codec::Av1, &[], target);
    let captured = vectors::packets(vectors::AV1_L3T3);
    let send = |scene: &mut Scene, timestamp, marker, descriptor: &[u8], payload: &[u8]| {
        scene.receive((1, MEDIA), timestamp, marker, Some((DEPENDENCY_ID, descriptor)), payload).expect("taken")
    };
    let lost = |scene: &Scene| {
        (scene.metrics.dropped(DropReason::DependencyUnknown), scene.metrics.dropped(DropReason::DependencyMalformed))
    };
    // Before any structure, template 3 of it; and a structure that is cut off.
    let key = &captured[0];
    let early = send(&mut scene, key.timestamp, false, &[0xc3, 0, 1], &[0x10, 0x30, 0, 0]);
    assert_eq!((early.dependency.is_none(), early.layer.spatial, early.layer.temporal), (true, 0, 0));
    send(&mut scene, key.timestamp, false, &key.descriptor[..30], &[0x10, 0x30, 0, 0]);
    assert_eq!(lost(&scene), (1, 1));
    assert!(!scene.is_sent(&early), "nothing flows yet");

    let mut sent = [[0; 3]; 3];
    let mut lies = 0;
    for (index, packet) in captured.iter().take(120).enumerate() {
        let media = send(&mut scene, packet.timestamp, packet.marker, &packet.descriptor, &packet.payload);
        assert!(media.dependency.is_some(), "packet {index} is read whatever came between");
        let is_sent = scene.is_sent(&media);
        let layer = media.layer;
        assert!(!is_sent || (layer.spatial <= 1 && layer.temporal <= 1), "packet {index}: {layer:?}");
        sent[layer.spatial as usize][layer.temporal as usize] += is_sent as u32;
        if index < 8 || packet.marker {
            continue;
        }
        let [high, low] = media.dependency.expect("read").layout.frame_number.to_be_bytes();
        let far = high ^ 0x40;
        let before = lost(&scene);
        let (what, lie, expected): (_, &[u8], _) = match index % 6 {
            0 => ("a template that no structure defines", &[0xbf, high, low], (1, 0)),
            1 => ("the same, far ahead", &[0xbf, far, low], (1, 0)),
            2 => ("nothing at all", &[], (0, 1)),
            3 => ("a structure without an end", &[0x80, high, low, 0x80, 0, 0, 0], (0, 1)),
            4 => ("dependencies without an end", &[0x80 | packet.descriptor[0] & 0x3f, high, low, 0x12, 0x49], (0, 1)),
            _ => ("half of its fields", &[0x80, high], (0, 1)),
        };
        let told = send(&mut scene, packet.timestamp, false, lie, &packet.payload);
        let now = lost(&scene);
        assert_eq!((now.0 - before.0, now.1 - before.1), expected, "{what}");
        assert_eq!((told.dependency, told.layer.spatial, told.layer.temporal), (None, layer.spatial, layer.temporal), "{what}");
        assert_eq!(scene.is_sent(&told), is_sent, "{what}: as the packet before");
        assert_eq!(scene.rewriter.passing(), (1, 1), "{what}");
        lies += 1;
    }
    assert!(lies > 30 && sent.iter().take(2).all(|layers| layers[0] > 5 && layers[1] > 5), "{lies}: {sent:?}");
    assert_eq!((sent[2], sent[0][2]), ([0; 3], 0));
}

/// Chains and references that lead out of all that was sent are the publisher's word to its receivers, and go on as they came.
#[test]
fn references_to_nowhere_are_bounded_and_change_no_layer() {
    let mut scene = Scene::new(Codec::Av1, &[], Target { encoding: 0, spatial: 1, temporal: 2 });
    let captured = vectors::packets(vectors::AV1_L3T3);
    let key = &captured[0];
    let mut next = |descriptor: &[u8], payload: &[u8]| {
        let media = scene.receive((1, MEDIA), key.timestamp, false, Some((DEPENDENCY_ID, descriptor)), payload).expect("taken");
        (media.dependency.is_some(), media.layer.spatial, scene.is_sent(&media), scene.rewriter.passing())
    };
    assert_eq!(next(&key.descriptor, &key.payload), (true, 0, true, (1, 2)));
    let template = key.descriptor[0] & 0x3f;
    // Custom dependencies: 4,096 frames back, twelve bits. Custom chains: 255 frames back, each.
    let far = [0x80 | template, 0, 2, 0b0001_0111, 0xff, 0xe0];
    assert_eq!(next(&far, &key.payload), (true, 0, true, (1, 2)));
    let chains = [0x80 | template, 0, 3, 0b0000_1111, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(next(&chains, &key.payload), (true, 0, true, (1, 2)));
}

/// Media and FEC packets of GStreamer in RED, as they would come from a publisher: number, whether it is media, bytes.
fn protected() -> Vec<(u16, bool, Vec<u8>)> {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ulpfec.txt"));
    let bytes = |line: &str| -> Vec<u8> {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal")).collect()
    };
    // Of two streams, the first.
    let all: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(bytes).collect();
    let number = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    let first = all.windows(2).position(|pair| number(&pair[1]) != number(&pair[0]).wrapping_add(1)).map_or(all.len(), |at| at + 1);
    let in_red = |packet: &Vec<u8>| {
        let inner = packet[1] & 0x7f;
        let mut red = packet[..12].to_vec();
        red[1] = packet[1] & 0x80 | RED.0;
        red.push(inner);
        red.extend_from_slice(&packet[12..]);
        (number(packet), inner == MEDIA.0, red)
    };
    all.iter().take(first).map(in_red).collect()
}

impl Scene {
    /// A publisher of VP8 that may send FEC: it describes its frames in the payload alone.
    fn protected() -> Scene {
        let mut scene = Scene::new(Codec::Vp8, &[], Target::all(0));
        scene.inbound.lines[0].config.extensions.clear(ExtensionKind::DependencyDescriptor);
        scene
    }

    /// What comes of a packet: what it brought along, then itself.
    fn raw(&mut self, bytes: &[u8]) -> Result<Vec<Media>, DropReason> {
        let mut packet = self.slots.take().expect("a slot");
        packet.fill(bytes);
        let media = self.inbound.receive(packet, NOW, &self.metrics)?;
        let mut all: Vec<Media> = std::mem::take(&mut self.inbound.recovered).into_iter().collect();
        all.push(media);
        Ok(all)
    }

    fn missing(&self) -> Vec<u16> {
        self.inbound.streams[0].missing.sequences().map(|sequence| sequence.number().0).collect()
    }
}

/// From FEC packets of another encoder: each packet is lost once, and comes all the same, without having been asked for.
#[test]
fn a_lost_packet_is_computed_from_the_fec_packets_behind_it() {
    let packets = protected();
    let begins = packets.iter().position(|(_, is_media, _)| !is_media).expect("a FEC packet") + 1;
    let mut computed = 0;
    for lost in begins..packets.len() {
        if !packets[lost].1 {
            continue;
        }
        let mut scene = Scene::protected();
        let mut came = std::collections::BTreeMap::new();
        for (_, _, bytes) in packets.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, packet)| packet) {
            for media in scene.raw(bytes).expect("taken") {
                let (marker, time) = (media.marker, media.timestamp);
                let again = came.insert(media.sequence, (media.payload().to_vec(), marker, time, media.picture.picture_id));
                assert!(again.is_none(), "{:?} came twice", media.sequence);
            }
        }
        let count = scene.metrics.get(Counter::FecRecovered);
        computed += count;
        if count == 0 {
            // The stream ends before its FEC packet does, or that one has gone too.
            assert_eq!(scene.missing(), [packets[lost].0]);
            continue;
        }
        assert_eq!((count, scene.missing().len(), came.len()), (1, 0, packets.len()), "packet {lost}");
        for ((number, is_media, bytes), (sequence, (payload, marker, time, _))) in packets.iter().zip(&came) {
            assert_eq!(sequence.number().0, *number);
            let expected = if *is_media { &bytes[13..] } else { &[] };
            assert_eq!((&payload[..], *marker), (expected, *is_media && bytes[1] & 0x80 != 0), "packet {number}");
            assert_eq!(time.0.to_be_bytes(), bytes[4..8]);
        }
        // If it comes after all it is a duplicate; until then it counts as lost.
        assert_eq!(scene.inbound.streams[0].reception.lost(), 1);
        assert_eq!(scene.raw(&packets[lost].2).map(|media| media.len()), Err(DropReason::Duplicate));
        assert_eq!(scene.inbound.streams[0].reception.lost(), 0);
    }
    assert!(computed > 20, "{computed}");
}

/// Nobody sends a FEC packet again: it must not be asked for, nor a key frame in its place.
#[test]
fn a_lost_fec_packet_is_missed_by_nobody() {
    let packets = protected();
    let fec: Vec<usize> = (0..packets.len()).filter(|index| !packets[*index].1).collect();
    let mut passed = 0;
    // The first says that there are any.
    for lost in fec.iter().skip(1) {
        let mut scene = Scene::protected();
        let mut numbers = Vec::new();
        for (_, _, bytes) in packets.iter().enumerate().filter(|(index, _)| index != lost).map(|(_, packet)| packet) {
            numbers.extend(scene.raw(bytes).expect("taken").iter().map(|media| media.sequence.number().0));
        }
        let (missing, after) = (scene.missing(), packets.get(lost + 1));
        // Inside of a picture nobody can tell what is missing.
        if after.is_none() || !missing.is_empty() {
            continue;
        }
        let expected: Vec<u16> = packets.iter().map(|(number, ..)| *number).collect();
        numbers.sort_by_key(|number| number.wrapping_sub(expected[0]));
        assert_eq!(numbers, expected, "in its place a packet of nothing");
        assert_eq!(scene.raw(&packets[*lost].2).map(|media| media.len()), Err(DropReason::Duplicate));
        passed += 1;
    }
    assert!(passed > 3, "{passed} of {}", fec.len());
}

/// FEC packets of a liar: bounded, counted, and nothing is made of them that its codec does not know.
#[test]
fn fec_that_makes_no_sense_is_counted() {
    let packets = protected();
    let mut scene = Scene::protected();
    let begins = packets.iter().position(|(_, is_media, _)| !is_media).expect("a FEC packet") + 1;
    let media = begins + packets[begins..].iter().position(|(_, is_media, _)| *is_media).expect("more");
    for (_, _, bytes) in &packets[..=media] {
        scene.raw(bytes).expect("taken");
    }
    let last = packets[media].0;
    let fec = |number: u16, payload: &[u8]| {
        let mut bytes = packets[begins - 1].2[..13].to_vec();
        bytes[2..4].copy_from_slice(&number.to_be_bytes());
        [&bytes[..], payload].concat()
    };
    let taken = |scene: &mut Scene, bytes: &[u8]| scene.raw(bytes).map(|all| all.iter().map(Media::payload).all(<[u8]>::is_empty));
    // Of nothing, cut short, of itself, of what is far away.
    let mut number = last;
    for payload in [&[][..], &[0; 9], &[0; 14], &[0x80; 40]] {
        number = number.wrapping_add(1);
        assert_eq!(taken(&mut scene, &fec(number, payload)), Ok(true));
    }
    assert_eq!(scene.metrics.dropped(DropReason::FecMalformed), 4);
    // What it says is missing would be a packet longer than itself.
    let missing = number.wrapping_add(1).to_be_bytes();
    number = number.wrapping_add(2);
    let lie = [0, 96, missing[0], missing[1], 0, 0, 0, 0, 0xff, 0xff, 0, 4, 0x80, 0, 1, 2, 3, 4];
    assert_eq!(taken(&mut scene, &fec(number, &lie)), Ok(true));
    assert_eq!(scene.metrics.dropped(DropReason::FecMalformed), 5);
    // Or of another codec.
    let missing = number.wrapping_add(1).to_be_bytes();
    number = number.wrapping_add(2);
    let other = [0, 50, missing[0], missing[1], 0, 0, 0, 0, 0, 4, 0, 4, 0x80, 0, 1, 2, 3, 4];
    assert_eq!(taken(&mut scene, &fec(number, &other)), Ok(true));
    assert_eq!((scene.metrics.dropped(DropReason::FecMalformed), scene.metrics.get(Counter::FecRecovered)), (6, 0));
    // Many that wait for what never comes.
    for _ in 0..300 {
        number = number.wrapping_add(3);
        let base = number.wrapping_sub(2).to_be_bytes();
        let waits = [0, 96, base[0], base[1], 0, 0, 0, 0, 0, 4, 0, 4, 0xc0, 0, 1, 2, 3, 4];
        assert_eq!(taken(&mut scene, &fec(number, &waits)), Ok(true));
    }
    assert!(scene.slots.available() > 512 - 200, "{}", scene.slots.available());
}
