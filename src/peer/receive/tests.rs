//! Publishers that contradict themselves, or tell of what there is not: it is counted, and who watches keeps what it had.

use super::*;
use crate::mem::{Arena, Slots};
use crate::rtp::config::{Feedback, Format, Mid, Rid};
use crate::rtp::rewrite::{History, Rewriter, Target};
use crate::units::PayloadType;
use crate::wire::extension::ExtensionMap;
use crate::wire::vectors;

const MEDIA: PayloadType = PayloadType(96);
const RTX: PayloadType = PayloadType(97);
const RID_ID: u8 = 4;
const REPAIRED_RID_ID: u8 = 5;
const DEPENDENCY_ID: u8 = 6;
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
            fec: None,
            remote_streams: ArrayVec::new(),
            rids: rids.iter().map(|rid| Rid::from(rid).unwrap()).collect(),
            local_stream: None,
        };
        let mut rewriter = Rewriter::new(1);
        rewriter.aim(Some(target));
        Scene {
            inbound: Inbound::new(&[media], &[TrackId::default()]),
            metrics: WorkerMetrics::default(),
            slots: Arena::leak(64),
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
