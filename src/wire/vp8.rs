//! The VP8 payload descriptor (RFC 7741 §4.2) and, in a key frame's first packet, the frame header (RFC 7741 §4.3).
//!
//! When temporal layers are left out, picture ids must be made continuous: a gap in them is a lost picture. TL0PICIDX stays.
//! Chromium leaves picture ids, TL0PICIDX and temporal layers out of the descriptor when it sends dependency descriptors.

use super::layer::Layer;
use super::picture::{PictureIds, read_picture_id};
use crate::metrics::DropReason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes of the descriptor.
    pub len: usize,
    /// N: no other picture refers to this one.
    pub non_reference: bool,
    /// S: first packet of a partition.
    pub start_of_partition: bool,
    /// PID: partition index.
    pub partition: u8,
    pub picture: PictureIds,
    /// TID: temporal layer, and Y: the picture refers to the newest picture of layer 0 only.
    pub temporal: Option<(u8, bool)>,
    /// KEYIDX.
    pub key_index: Option<u8>,
    /// First packet of a key frame.
    pub key_frame: bool,
    /// Width and height, in a key frame's first packet.
    pub resolution: Option<(u16, u16)>,
}

impl Descriptor {
    pub fn picture_ids(&self) -> PictureIds {
        self.picture
    }

    /// `marker` is the packet's: the last packet of a frame has it. Of a frame's packets, only the first tells whether it refers to
    /// earlier pictures; the others say that it does.
    pub fn layer(&self, marker: bool) -> Layer {
        let (temporal, sync) = self.temporal.unwrap_or_default();
        // Layer by layer: a picture that Y says nothing of may refer to one of the layer between.
        let (switch_from, switch_to) = if sync && temporal > 0 { (temporal - 1, temporal) } else { (1, 0) };
        Layer {
            switch_from,
            switch_to,
            start_of_frame: self.start_of_partition && self.partition == 0,
            end_of_frame: marker,
            inter_picture: !self.key_frame,
            discardable: self.non_reference,
            ..Layer::of_temporal(temporal)
        }
    }
}

/// Reads an RTP payload.
pub fn parse(payload: &[u8]) -> Result<Descriptor, DropReason> {
    read(payload).ok_or(DropReason::PayloadMalformed)
}

fn read(payload: &[u8]) -> Option<Descriptor> {
    let first = *payload.first()?;
    let mut at = 1;
    let mut picture = PictureIds { gapless: true, ..PictureIds::default() };
    let (mut temporal, mut key_index) = (None, None);
    // X: an extension byte follows, its bits I, L, T and K say what comes after.
    if first & 0x80 != 0 {
        let present = *payload.get(at)?;
        at += 1;
        if present & 0x80 != 0 {
            let (picture_id, next) = read_picture_id(payload, at)?;
            (picture.picture_id, at) = (Some(picture_id), next);
        }
        if present & 0x40 != 0 {
            picture.tl0_pic_idx = Some((at as u8, *payload.get(at)?));
            at += 1;
        }
        if present & 0x30 != 0 {
            let byte = *payload.get(at)?;
            temporal = (present & 0x20 != 0).then_some((byte >> 6, byte & 0x20 != 0));
            key_index = (present & 0x10 != 0).then_some(byte & 0x1f);
            at += 1;
        }
    }
    let frame = payload.get(at..).filter(|frame| !frame.is_empty())?;
    let (start_of_partition, partition) = (first & 0x10 != 0, first & 0x07);
    // RFC 7741 §4.3: P, the lowest bit of a frame's first byte, is 0 in key frames.
    let key_frame = start_of_partition && partition == 0 && frame.first().is_some_and(|byte| byte & 1 == 0);
    Some(Descriptor {
        len: at,
        non_reference: first & 0x20 != 0,
        start_of_partition,
        partition,
        picture,
        temporal,
        key_index,
        key_frame,
        resolution: if key_frame { resolution(frame) } else { None },
    })
}

/// Width and height from a key frame's header (RFC 6386 §9.1): little endian, 14 bits and 2 of scaling.
fn resolution(frame: &[u8]) -> Option<(u16, u16)> {
    match frame.get(3..)? {
        &[0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] => {
            Some((u16::from_le_bytes([w0, w1]) & 0x3fff, u16::from_le_bytes([h0, h1]) & 0x3fff))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::dependency;
    use crate::wire::vectors::{self, packets};

    #[test]
    fn a_key_frame_with_every_field() {
        let payload = [0x90, 0xf0, 0xd2, 0x34, 0x56, 0x71, 0x50, 0x01, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x41, 7];
        let descriptor = parse(&payload).expect("a descriptor");
        assert_eq!(descriptor.len, 6);
        assert!(descriptor.start_of_partition && descriptor.key_frame && !descriptor.non_reference);
        assert_eq!(
            descriptor.picture,
            PictureIds { picture_id: Some((2, true, 0x5234)), tl0_pic_idx: Some((4, 0x56)), gapless: true }
        );
        assert_eq!(descriptor.temporal, Some((1, true)));
        assert_eq!(descriptor.key_index, Some(0x11));
        assert_eq!(descriptor.resolution, Some((640, 360)));

        let mut patched = payload;
        descriptor.picture_ids().patch(&mut patched, 0xffff, 0xee);
        assert_eq!(patched[2..5], [0xff, 0xff, 0xee]);
        descriptor.picture_ids().patch(&mut patched[..3], 0, 0);
        let reread = parse(&patched).expect("a descriptor");
        assert_eq!(reread.picture.picture_id, Some((2, true, 0x7fff)), "no room, not written");
    }

    #[test]
    fn short_picture_ids_and_none() {
        // RFC 7741 §4.5.2 and §4.5.3's examples: no extension, and a 7-bit picture id.
        let plain = parse(&[0x10, 0x01]).expect("a descriptor");
        assert_eq!((plain.len, plain.picture, plain.key_frame), (1, PictureIds { gapless: true, ..PictureIds::default() }, false));
        let short = [0x90, 0x80, 0x11, 0x00];
        let descriptor = parse(&short).expect("a descriptor");
        assert_eq!((descriptor.len, descriptor.picture.picture_id), (3, Some((2, false, 0x11))));
        assert!(descriptor.key_frame);
        assert_eq!(descriptor.resolution, None, "no start code");
        let mut patched = short;
        descriptor.picture.patch(&mut patched, 0x1ff, 1);
        assert_eq!(patched, [0x90, 0x80, 0x7f, 0x00]);
    }

    #[test]
    fn later_packets_begin_no_key_frame() {
        assert!(!parse(&[0x00, 0x00]).expect("a descriptor").key_frame, "no start of partition");
        assert!(!parse(&[0x11, 0x00]).expect("a descriptor").key_frame, "partition 1");
    }

    #[test]
    fn truncated_descriptors_are_malformed() {
        let payload = [0x90, 0xf0, 0xd2, 0x34, 0x56, 0x71, 0x00];
        for len in 0..payload.len() {
            assert_eq!(parse(&payload[..len]), Err(DropReason::PayloadMalformed));
        }
        assert!(parse(&payload).is_ok());
    }

    /// The dependency descriptors of another capture of the same mode name the same layers at the same places of the pattern.
    #[test]
    fn temporal_layers_of_chromium() {
        let layers = |capture| {
            let mut reader = dependency::Reader::default();
            let first_packets = packets(capture).into_iter().filter_map(move |packet| {
                let descriptor = parse(&packet.payload).expect("a payload");
                let ours = descriptor.layer(packet.marker);
                let other = reader.read(&packet.descriptor, packet.timestamp).map(|read| read.layer());
                ours.start_of_frame.then_some((descriptor, ours, other))
            });
            first_packets.take(40).collect::<Vec<_>>()
        };
        let (plain, described) = (layers(vectors::VP8_L1T3_PLAIN), layers(vectors::VP8_L1T3));
        for (index, ((descriptor, ours, _), (bare, _, other))) in plain.iter().zip(&described).enumerate() {
            let other = other.expect("a dependency descriptor");
            assert_eq!(bare.temporal, None, "not told twice");
            assert_eq!((ours.temporal, ours.inter_picture), (other.temporal, other.inter_picture), "frame {index}");
            assert_eq!(ours.discardable, other.discardable, "frame {index}");
            assert_eq!(descriptor.temporal.is_some_and(|(_, sync)| sync) && ours.temporal > 0, ours.switch_to > 0);
        }
        let raised = plain.iter().fold((0, 0), |(limit, raised), (_, layer, _)| {
            let next = layer.temporal_limit(limit, 2);
            (if layer.temporal == 0 { 0 } else { next }, raised + (next > limit && layer.inter_picture) as u32)
        });
        assert!(raised.1 > 0, "there are switching points");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut payload in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(descriptor) = parse(&payload) {
                prop_assert!(descriptor.len < payload.len());
                let before = descriptor;
                descriptor.picture.patch(&mut payload, 0x1234, 9);
                let after = parse(&payload).expect("still a descriptor");
                prop_assert_eq!((after.len, after.temporal), (before.len, before.temporal));
            }
        }
    }
}
