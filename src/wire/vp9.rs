//! The VP9 payload descriptor (RFC 9628 §4.2), in flexible and non-flexible mode.
//!
//! When upper spatial layers are left out, nothing in it changes: B and E are those of the layer frame, and the structure may describe
//! layers that are not sent. Only the RTP marker moves ([`crate::wire::layer::Layer::marker`]). When temporal layers are left out,
//! picture ids keep their gaps: the references of flexible mode and the picture groups of the other count in them.

use arrayvec::ArrayVec;

use super::bytes::u16_at;
use super::layer::Layer;
use super::picture::{PictureIds, read_picture_id};
use crate::metrics::DropReason;

/// Which layer a frame is of (RFC 9628 §4.2, the L bit's bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerIndices {
    pub temporal: u8,
    /// U: later pictures of higher temporal layers refer to no picture of those layers before this one.
    pub switching_up_point: bool,
    pub spatial: u8,
    /// D: refers to the spatial layer below.
    pub inter_layer: bool,
}

/// The scalability structure, as far as it is of use here (RFC 9628 §4.2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    pub spatial_layers: u8,
    /// Width and height of each spatial layer, if told.
    pub resolutions: ArrayVec<(u16, u16), 8>,
}

/// P_DIFF bytes of one packet at most.
const REFERENCES: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes of the descriptor.
    pub len: usize,
    /// P: refers to earlier pictures.
    pub inter_picture: bool,
    /// F: flexible mode, references told in each packet.
    pub flexible: bool,
    /// B and E: first and last packet of a layer frame.
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    /// Z: no higher spatial layer refers to this one.
    pub not_a_reference: bool,
    pub picture: PictureIds,
    pub layer_indices: Option<LayerIndices>,
    /// P_DIFF: how many picture ids back the pictures lie that this one refers to; in flexible mode only.
    pub references: ArrayVec<u8, REFERENCES>,
    pub structure: Option<Structure>,
    /// First packet of a picture that needs no earlier one.
    pub key_frame: bool,
}

impl Descriptor {
    pub fn picture_ids(&self) -> PictureIds {
        self.picture
    }

    /// Of discardable pictures the descriptor tells nothing.
    pub fn layer(&self) -> Layer {
        let indices = self.layer_indices.unwrap_or_default();
        Layer {
            spatial: indices.spatial,
            temporal: indices.temporal,
            switch_from: indices.temporal,
            switch_to: if indices.switching_up_point { u8::MAX } else { indices.temporal },
            start_of_frame: self.start_of_frame,
            end_of_frame: self.end_of_frame,
            inter_picture: self.inter_picture,
            inter_layer: indices.inter_layer,
            discardable: false,
        }
    }
}

/// Reads an RTP payload.
pub fn parse(payload: &[u8]) -> Result<Descriptor, DropReason> {
    read(payload).ok_or(DropReason::PayloadMalformed)
}

fn read(payload: &[u8]) -> Option<Descriptor> {
    // I, P, L, F, B, E, V, Z.
    let flags = *payload.first()?;
    let has = |bit: u8| flags & bit != 0;
    let (inter_picture, flexible) = (has(0x40), has(0x10));
    let mut at = 1;
    let mut picture = PictureIds::default();
    if has(0x80) {
        let (picture_id, next) = read_picture_id(payload, at)?;
        (picture.picture_id, at) = (Some(picture_id), next);
    }
    let mut layer_indices = None;
    if has(0x20) {
        let byte = *payload.get(at)?;
        at += 1;
        layer_indices = Some(LayerIndices {
            temporal: byte >> 5,
            switching_up_point: byte & 0x10 != 0,
            spatial: byte >> 1 & 7,
            inter_layer: byte & 1 != 0,
        });
        if !flexible {
            picture.tl0_pic_idx = Some((at as u8, *payload.get(at)?));
            at += 1;
        }
    }
    let mut references = ArrayVec::new();
    if flexible && inter_picture {
        (references, at) = read_references(payload, at)?;
    }
    let mut structure = None;
    if has(0x02) {
        let (read, next) = read_structure(payload, at)?;
        (structure, at) = (Some(read), next);
    }
    // A descriptor describes something.
    payload.get(at)?;
    let start_of_frame = has(0x08);
    Some(Descriptor {
        len: at,
        inter_picture,
        flexible,
        start_of_frame,
        end_of_frame: has(0x04),
        not_a_reference: has(0x01),
        picture,
        layer_indices,
        references,
        structure,
        key_frame: !inter_picture && start_of_frame && layer_indices.unwrap_or_default().spatial == 0,
    })
}

/// Up to three P_DIFF bytes, each saying whether another follows.
fn read_references(payload: &[u8], mut at: usize) -> Option<(ArrayVec<u8, REFERENCES>, usize)> {
    let mut references = ArrayVec::new();
    loop {
        let byte = *payload.get(at)?;
        at += 1;
        references.try_push(byte >> 1).ok()?;
        if byte & 1 == 0 {
            return Some((references, at));
        }
    }
}

/// N_S, Y, G; then resolutions (Y) and picture group (G).
fn read_structure(payload: &[u8], mut at: usize) -> Option<(Structure, usize)> {
    let byte = *payload.get(at)?;
    at += 1;
    let spatial_layers = (byte >> 5) + 1;
    let mut resolutions = ArrayVec::new();
    if byte & 0x10 != 0 {
        for _ in 0..spatial_layers {
            resolutions.try_push((u16_at(payload, at)?, u16_at(payload, at + 2)?)).ok()?;
            at += 4;
        }
    }
    if byte & 0x08 != 0 {
        let pictures = *payload.get(at)?;
        at += 1;
        for _ in 0..pictures {
            // R, in bits 2 and 3, is how many P_DIFF bytes follow.
            at += 1 + (payload.get(at)? >> 2 & 3) as usize;
        }
    }
    Some((Structure { spatial_layers, resolutions }, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::dependency;
    use crate::wire::vectors::{self, packets};

    #[test]
    fn non_flexible_key_frame_with_structure() {
        let payload = [
            0xaa, 0x92, 0x34, 0x01, 0x77, // I L B V, picture id, layer with D, TL0PICIDX
            0x38, 0x01, 0x40, 0x00, 0xb4, 0x02, 0x80, 0x01, 0x68, // two spatial layers, Y G
            0x02, 0x04, 0x01, 0x58, 0x01, 0x02, // two pictures with one and two references
            0x99,
        ];
        let descriptor = parse(&payload).expect("a descriptor");
        assert_eq!(descriptor.len, payload.len() - 1);
        assert!(descriptor.key_frame && descriptor.start_of_frame && !descriptor.end_of_frame && !descriptor.flexible);
        assert_eq!(
            descriptor.picture,
            PictureIds { picture_id: Some((1, true, 0x1234)), tl0_pic_idx: Some((4, 0x77)), gapless: false }
        );
        let indices = LayerIndices { temporal: 0, switching_up_point: false, spatial: 0, inter_layer: true };
        assert_eq!(descriptor.layer_indices, Some(indices));
        let structure = descriptor.structure.expect("a structure");
        assert_eq!((structure.spatial_layers, &structure.resolutions[..]), (2, &[(320, 180), (640, 360)][..]));
        for len in 0..payload.len() {
            assert_eq!(parse(&payload[..len]), Err(DropReason::PayloadMalformed));
        }
    }

    #[test]
    fn flexible_mode_has_references_and_no_tl0_pic_idx() {
        let payload = [0xfd, 0x11, 0x54, 0x03, 0x02, 0x99];
        let descriptor = parse(&payload).expect("a descriptor");
        assert_eq!(descriptor.len, 5);
        assert!(descriptor.flexible && descriptor.inter_picture && descriptor.not_a_reference && descriptor.end_of_frame);
        assert!(!descriptor.key_frame);
        assert_eq!(descriptor.picture, PictureIds { picture_id: Some((1, false, 0x11)), tl0_pic_idx: None, gapless: false });
        let indices = LayerIndices { temporal: 2, switching_up_point: true, spatial: 2, inter_layer: false };
        assert_eq!((descriptor.layer_indices, &descriptor.references[..]), (Some(indices), &[1, 1][..]));
        let layer = descriptor.layer();
        assert_eq!((layer.spatial, layer.temporal), (2, 2));
        assert_eq!((layer.temporal_limit(1, 3), layer.temporal_limit(2, 3)), (1, 3));
        assert!(parse(&[0x50, 0x03, 0x05, 0x07, 0x02, 0x99]).is_err(), "four references");
    }

    #[test]
    fn only_the_first_packet_of_the_lowest_layer_begins_a_key_frame() {
        assert!(parse(&[0x08, 1]).expect("a descriptor").key_frame);
        assert!(!parse(&[0x04, 1]).expect("a descriptor").key_frame, "a later packet");
        assert!(!parse(&[0x28, 0x02, 0, 1]).expect("a descriptor").key_frame, "a higher spatial layer");
        assert!(!parse(&[0x48, 1]).expect("a descriptor").key_frame, "refers to earlier pictures");
    }

    /// Chromium sends the dependency descriptor beside: two parsers of two formats must tell the same.
    #[test]
    fn the_dependency_descriptor_tells_the_same_of_what_chromium_sends() {
        for capture in [vectors::VP9_L3T3, vectors::VP9_L3T3_KEY] {
            let mut reader = dependency::Reader::default();
            let (mut upper_layers, mut later_pictures) = (0, 0);
            for packet in packets(capture) {
                let read = reader.read(&packet.descriptor, packet.timestamp).expect("a dependency descriptor");
                let descriptor = parse(&packet.payload).expect("a payload");
                let (ours, other) = (descriptor.layer(), read.layer());
                let what = format!("{:?}: {descriptor:?}", packet.sequence_number);
                assert_eq!((ours.spatial, ours.temporal), (other.spatial, other.temporal), "{what}");
                assert_eq!((ours.start_of_frame, ours.end_of_frame), (other.start_of_frame, other.end_of_frame), "{what}");
                assert_eq!((ours.inter_picture, ours.inter_layer), (other.inter_picture, other.inter_layer), "{what}");
                assert_eq!(descriptor.key_frame, ours.key_frame() && other.key_frame(), "{what}");
                // A reference within the picture is told by D, others by P_DIFF.
                let references = read.dependencies.len() - ours.inter_layer as usize;
                assert_eq!(descriptor.references.len(), references, "{what}");
                if let Some(structure) = &descriptor.structure {
                    let told: Vec<_> = structure.resolutions.iter().map(|(w, h)| (*w as u32, *h as u32)).collect();
                    assert_eq!(told[ours.spatial as usize], read.resolution.expect("a resolution"), "{what}");
                }
                upper_layers += (ours.spatial == 2) as u32;
                later_pictures += (ours.inter_picture && ours.temporal > 0) as u32;
            }
            assert!(upper_layers > 50 && later_pictures > 50);
        }
    }

    #[test]
    fn scalable_video_of_chromium_without_a_dependency_descriptor() {
        let all = packets(vectors::VP9_L3T3_PLAIN);
        let read: Vec<_> = all.iter().map(|packet| (packet, parse(&packet.payload).expect("a payload"))).collect();
        let mut pictures = [0; 3];
        let mut unmarked = 0;
        for pair in read.windows(2) {
            let ((before, old), (packet, new)) = (&pair[0], &pair[1]);
            if packet.sequence_number != before.sequence_number.next() {
                continue;
            }
            // A key frame may come before the end of a frame: Chromium then drops what waits to be sent.
            assert!(new.flexible && (old.end_of_frame == new.start_of_frame || new.key_frame));
            let (old_id, new_id) = (old.picture.picture_id.expect("an id").2, new.picture.picture_id.expect("an id").2);
            let same = packet.timestamp == before.timestamp;
            assert_eq!(new_id, (old_id + !same as u16) & 0x7fff, "one id a picture, without gaps");
            assert!(!(before.marker && same), "the marker ends the picture, of all its layers");
            // Where layers were added or left out just then, Chromium has marked no packet.
            unmarked += (!before.marker && !same) as u32;
            // Where the picture ends for who gets fewer layers.
            for spatial in 0..3 {
                let marker = old.layer().marker(before.marker, spatial);
                pictures[spatial as usize] += (marker && old.layer().is_within(spatial, 7)) as u32;
            }
        }
        assert!(unmarked <= 2 && pictures.iter().all(|ends| *ends > 20), "{unmarked} of {pictures:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut payload in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(descriptor) = parse(&payload) {
                prop_assert!(descriptor.len < payload.len());
                descriptor.picture.patch(&mut payload, 0x1234, 9);
                prop_assert_eq!(parse(&payload).map(|after| after.len), Ok(descriptor.len));
            }
        }
    }
}
