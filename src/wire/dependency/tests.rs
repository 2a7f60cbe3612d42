//! Against the specification's own examples and against what Chromium sends.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::wire::vectors::{self, Captured, packets};

/// A row of a table in A.10.2: spatial and temporal layer, frame differences, chains, indications.
type Row = (u8, u8, &'static [u8], &'static [u8], &'static str);

/// A.10.2.1.
const L1T3: [Row; 5] = [
    (0, 0, &[], &[0], "SSS"),
    (0, 0, &[4], &[4], "SSS"),
    (0, 1, &[2], &[2], "SD-"),
    (0, 2, &[1], &[1], "D--"),
    (0, 2, &[1], &[3], "D--"),
];
/// A.10.2.2. The decode targets are HD at 30, 15 and 7.5 frames a second, VGA, QVGA.
const L3T3: [Row; 15] = [
    (0, 0, &[], &[0, 0, 0], "SSSSSSSSS"),
    (0, 0, &[12], &[12, 11, 10], "RRRRRRSSS"),
    (0, 1, &[6], &[6, 5, 4], "RR-RR-SD-"),
    (0, 2, &[3], &[3, 2, 1], "R--R--D--"),
    (0, 2, &[3], &[9, 8, 7], "R--R--D--"),
    (1, 0, &[1], &[1, 1, 1], "SSSSSS---"),
    (1, 0, &[12, 1], &[1, 1, 1], "RRRSSS---"),
    (1, 1, &[6, 1], &[7, 6, 5], "RR-SD----"),
    (1, 2, &[3, 1], &[4, 3, 2], "R--D-----"),
    (1, 2, &[3, 1], &[10, 9, 8], "R--D-----"),
    (2, 0, &[1], &[2, 1, 1], "SSS------"),
    (2, 0, &[12, 1], &[2, 1, 1], "SSS------"),
    (2, 1, &[6, 1], &[8, 7, 6], "SD-------"),
    (2, 2, &[3, 1], &[5, 4, 3], "D--------"),
    (2, 2, &[3, 1], &[11, 10, 9], "D--------"),
];

const SVC: [(&str, &str); 9] = [
    ("AV1 L1T3", vectors::AV1_L1T3),
    ("AV1 L3T3", vectors::AV1_L3T3),
    ("AV1 L3T3_KEY", vectors::AV1_L3T3_KEY),
    ("VP9 L3T3", vectors::VP9_L3T3),
    ("VP9 L3T3_KEY", vectors::VP9_L3T3_KEY),
    ("VP8 L1T3", vectors::VP8_L1T3),
    ("H264 L1T2", vectors::H264_L1T2),
    ("AV1 L2T2_KEY_SHIFT", vectors::AV1_L2T2_KEY_SHIFT),
    ("VP9 L2T2_KEY_SHIFT", vectors::VP9_L2T2_KEY_SHIFT),
];

fn symbol(indication: Indication) -> char {
    match indication {
        Indication::NotPresent => '-',
        Indication::Discardable => 'D',
        Indication::Switch => 'S',
        Indication::Required => 'R',
    }
}

/// A template as a row of the specification's tables, with the decode targets in the order of `targets`.
fn row(template: &Template, targets: impl Iterator<Item = usize>) -> (u8, u8, Vec<u8>, Vec<u8>, String) {
    let indications = targets.map(|target| symbol(template.indications.of(target))).collect();
    (template.spatial, template.temporal, template.dependencies.to_vec(), template.chains.to_vec(), indications)
}

fn owned((spatial, temporal, dependencies, chains, indications): &Row) -> (u8, u8, Vec<u8>, Vec<u8>, String) {
    (*spatial, *temporal, dependencies.to_vec(), chains.to_vec(), (*indications).into())
}

/// Bits as text, the way the syntax tables of A.8.2 are read.
fn field(bits: &mut String, value: u32, width: usize) {
    bits.push_str(&format!("{value:032b}")[32 - width..]);
}

fn packed(bits: &str) -> Vec<u8> {
    let byte = |bits: &[u8]| bits.iter().enumerate().fold(0, |byte, (place, bit)| byte | (bit - b'0') << (7 - place));
    bits.as_bytes().chunks(8).map(byte).collect()
}

/// The first descriptor of a stream with this table, its templates counted from id 62 so that they wrap. `protected_by` is ns(3).
fn key_descriptor(table: &[Row], protected_by: &[&str]) -> Vec<u8> {
    let mut bits = String::new();
    field(&mut bits, 0b10, 2);
    field(&mut bits, 62, 6);
    field(&mut bits, 0xfffe, 16);
    bits.push_str("10000");
    field(&mut bits, 62, 6);
    let targets = table[0].4.len();
    field(&mut bits, targets as u32 - 1, 5);
    for pair in table.windows(2) {
        let next = if pair[1].0 > pair[0].0 { 2 } else { (pair[1].1 - pair[0].1) as u32 };
        field(&mut bits, next, 2);
    }
    field(&mut bits, 3, 2);
    for symbol in table.iter().flat_map(|row| row.4.chars()) {
        field(&mut bits, "-DSR".find(symbol).expect("a symbol") as u32, 2);
    }
    for row in table {
        for back in row.2 {
            field(&mut bits, 0x10 | (back - 1) as u32, 5);
        }
        field(&mut bits, 0, 1);
    }
    // chain_cnt: ns(4) for three targets, ns(10) for nine; both have the values used here in as many bits as ilog2.
    field(&mut bits, table[0].3.len() as u32, (targets + 1).ilog2() as usize);
    bits.push_str(&protected_by.concat());
    for back in table.iter().flat_map(|row| row.3) {
        field(&mut bits, *back as u32, 4);
    }
    bits.push('0');
    packed(&bits)
}

#[test]
fn the_examples_of_the_specification() {
    #[allow(clippy::type_complexity)] // a table
    let cases: [(&[Row], Vec<&str>, &[(u8, u8)]); 2] = [
        (&L1T3, vec![""; 3], &[(0, 2), (0, 1), (0, 0)]),
        // ns(3): 0 is 0, 1 is 10, 2 is 11.
        (
            &L3T3,
            ["11"; 3].into_iter().chain(["10"; 3]).chain(["0"; 3]).collect(),
            &[(2, 2), (2, 1), (2, 0), (1, 2), (1, 1), (1, 0), (0, 2), (0, 1), (0, 0)],
        ),
    ];
    for (table, protected_by, layers) in cases {
        let data = key_descriptor(table, &protected_by);
        let mut reader = Reader::default();
        let descriptor = reader.read(&data, RtpTime(0)).expect("a descriptor");
        let structure = reader.structure().expect("a structure");
        let targets = layers.len();
        let read: Vec<_> = structure.templates.iter().map(|template| row(template, 0..targets)).collect();
        assert_eq!(read, table.iter().map(owned).collect::<Vec<_>>());
        assert_eq!(structure.targets.iter().map(|target| (target.spatial, target.temporal)).collect::<Vec<_>>(), layers);
        assert!(structure.targets.iter().all(|target| target.chain == Some(target.spatial)), "in these examples");
        assert_eq!(descriptor.active_decode_targets, (1 << targets) - 1, "all, unless told otherwise");
        assert_eq!((descriptor.layout.frame_number, descriptor.layout.bits), (0xfffe, descriptor.layout.active_at));
        assert!(descriptor.start_of_frame && !descriptor.end_of_frame && descriptor.layer().key_frame());
        assert_eq!(structure.target_layers.expect("few enough").within(0, 1), if targets == 3 { 0b110 } else { 0b1_1000_0000 });

        // The steady state of the lowest layer: template 1, of which the id has wrapped.
        let layer = reader.read(&[0xc0 | 63, 0, 10], RtpTime(9)).expect("a descriptor").layer();
        assert_eq!((layer.switch_from, layer.switch_to), (0, 2));
        assert!(layer.inter_picture && !layer.inter_layer && !layer.discardable && layer.start_of_frame && layer.end_of_frame);
        assert_eq!(reader.read(&[0xc0 | 14, 0, 11], RtpTime(9)), Err(DropReason::DependencyUnknown), "template 16");
    }
}

/// What Chromium calls L1T3 and L3T3 is what the specification calls so, with the decode targets counted upwards.
#[test]
fn chromium_sends_the_structures_of_the_specification() {
    let cases: [(&str, &[Row]); 3] = [(vectors::AV1_L1T3, &L1T3), (vectors::AV1_L3T3, &L3T3), (vectors::VP9_L3T3, &L3T3)];
    for (capture, table) in cases {
        let mut reader = Reader::default();
        reader.read(&packets(capture)[0].descriptor, RtpTime(0)).expect("a descriptor");
        let structure = reader.structure().expect("a structure");
        let mut sent: Vec<_> =
            structure.templates.iter().map(|template| row(template, (0..structure.targets.len()).rev())).collect();
        let mut specified: Vec<_> = table.iter().map(owned).collect();
        sent.sort();
        specified.sort();
        assert_eq!(sent, specified);
    }
}

/// Reads a whole capture; each descriptor with its packet.
fn read_all(capture: &str) -> (Reader, Vec<(Captured, Descriptor)>) {
    let mut reader = Reader::default();
    let read = packets(capture).into_iter().map(|packet| {
        let descriptor = reader.read(&packet.descriptor, packet.timestamp).expect("a descriptor");
        (packet, descriptor)
    });
    let read = read.collect();
    (reader, read)
}

#[test]
fn captures_are_consistent() {
    for (name, capture) in SVC {
        let (_, read) = read_all(capture);
        let structures = read.iter().filter(|(_, descriptor)| descriptor.layout.structure).count();
        assert!(structures >= 2, "{name}: the first key frame, and the one that was asked for");
        assert!(read[0].1.layer().key_frame(), "{name}");
        for pair in read.windows(2) {
            let ((before, old), (packet, new)) = (&pair[0], &pair[1]);
            if packet.sequence_number != before.sequence_number.next() {
                continue;
            }
            let what = format!("{name}, {:?}", packet.sequence_number);
            let step = new.layout.frame_number.wrapping_sub(old.layout.frame_number);
            assert_eq!((old.end_of_frame, new.start_of_frame), (step == 1, step == 1), "{what}");
            assert!(step <= 1, "{what}: frame numbers have no gaps");
            if before.marker {
                assert!(old.end_of_frame && before.timestamp != packet.timestamp, "{what}: a marked packet ends the picture");
            }
            if before.timestamp == packet.timestamp && step == 1 {
                let shifts = name.contains("SHIFT") || new.temporal == old.temporal;
                assert!(new.spatial > old.spatial && shifts, "{what}: spatial layers rise within a picture");
            }
            if new.layout.structure {
                assert!(new.layer().key_frame() && new.spatial == 0, "{what}: a structure comes with a key frame");
            }
            let size = new.resolution.map(|(width, _)| width);
            // With one spatial layer, Chromium begins small and grows.
            assert!(size.is_none_or(|width| top(name) == 0 || width == 1280 >> (top(name) - new.spatial)), "{what}: {size:?}");
        }
    }
}

/// The highest spatial layer of a mode.
fn top(name: &str) -> u8 {
    ["L1", "L2", "L3"].iter().position(|layers| name.contains(layers)).expect("a mode") as u8
}

/// A receiver that is sent what [`Layer`] says is for it has all that it is sent refer to: for each pair of limits, and for limits
/// that go up and down.
#[test]
fn what_a_receiver_is_sent_refers_to_nothing_that_it_lacks() {
    for (name, capture) in SVC {
        let (_, read) = read_all(capture);
        for (spatial, temporal) in (0..=top(name)).flat_map(|spatial| [0, 1, 2, 9].map(|temporal| (spatial, temporal))) {
            let mut sent: Vec<u16> = Vec::new();
            // 9: to and fro, as fast as switching points allow.
            let mut limit = if temporal == 9 { 0 } else { temporal };
            let mut raised = 0;
            let mut previous = None;
            for (index, (packet, descriptor)) in read.iter().enumerate() {
                if previous.is_some_and(|number| packet.sequence_number != number) {
                    // What was sent between the two runs is not known: the second counts from its key frame.
                    sent.clear();
                    previous = None;
                }
                let layer = descriptor.layer();
                if sent.is_empty() && !layer.key_frame() {
                    continue;
                }
                previous = Some(packet.sequence_number.next());
                if temporal == 9 && layer.start_of_frame && layer.spatial == spatial {
                    let wanted = if index / 40 % 2 == 0 { 2 } else { 0 };
                    raised += (layer.temporal_limit(limit, wanted) > limit) as u32;
                    limit = layer.temporal_limit(limit, wanted);
                }
                if !layer.is_within(spatial, limit) {
                    continue;
                }
                for back in &descriptor.dependencies {
                    let number = descriptor.layout.frame_number.wrapping_sub(*back);
                    let what = format!(
                        "{name}, S{spatial} T{temporal}: {:?} of S{}T{}",
                        packet.sequence_number, layer.spatial, layer.temporal
                    );
                    assert!(sent.contains(&number), "{what} refers to {number}");
                }
                sent.push(descriptor.layout.frame_number);
            }
            assert!(sent.len() > 3, "{name}: S{spatial} T{temporal}: {sent:?}");
            assert!(temporal != 9 || raised >= 2, "{name}: the limit rises");
        }
    }
}

/// Spatial layers that are of different temporal ones: nothing of a picture is left out by its temporal layer, else what is left would be
/// a part of a picture that lacks its end.
#[test]
fn shifted_temporal_layers_are_one() {
    for capture in [vectors::AV1_L2T2_KEY_SHIFT, vectors::VP9_L2T2_KEY_SHIFT] {
        let (_, read) = read_all(capture);
        // The first picture in which the upper spatial layer is of another temporal one.
        let first = read.iter().position(|(_, descriptor)| (descriptor.spatial, descriptor.temporal) == (1, 1));
        let shifted = &read[first.expect("a shifted picture")..];
        assert!(shifted.iter().any(|(_, descriptor)| (descriptor.spatial, descriptor.temporal) == (0, 1)));
        for (packet, descriptor) in shifted {
            let layer = descriptor.layer();
            assert!(layer.is_within(1, 0) && layer.temporal_limit(0, 3) == 3, "{:?}", packet.sequence_number);
        }
    }
}

fn written(packet: &Captured, descriptor: &Descriptor, rewrite: &Rewrite) -> Vec<u8> {
    let mut space = [0xff; DESCRIPTOR_BYTES_MAX];
    let len = write(&packet.descriptor, &descriptor.layout, rewrite, &mut space).expect("room");
    space[..len].to_vec()
}

#[test]
fn a_new_frame_number_changes_only_its_bits() {
    for (_, capture) in SVC {
        for (packet, descriptor) in read_all(capture).1 {
            let same = Rewrite { frame_number: descriptor.layout.frame_number, ..Rewrite::default() };
            assert_eq!(written(&packet, &descriptor, &same), packet.descriptor);
            let mut expected = packet.descriptor.clone();
            expected[1..3].copy_from_slice(&[0xab, 0xcd]);
            assert_eq!(written(&packet, &descriptor, &Rewrite { frame_number: 0xabcd, ..Rewrite::default() }), expected);
        }
    }
}

/// What was written reads back as what it was made of, but for what was to change.
fn check_written(source: &Reader, packet: &Captured, descriptor: &Descriptor, rewrite: &Rewrite) {
    let data = written(packet, descriptor, rewrite);
    let mut reader = source.clone();
    if let Some(structure) = &mut reader.structure {
        structure.id_offset = structure.id_offset.wrapping_add(rewrite.template_id_shift) & 63;
    }
    let read = reader.read(&data, packet.timestamp).expect("a descriptor");
    let mask = rewrite.active_decode_targets.map(|mask| mask & source.structure().expect("a structure").all_targets());
    let all = rewrite.structure.map(Structure::all_targets).filter(|_| !descriptor.layout.active);
    let mut layout = descriptor.layout;
    layout.frame_number = rewrite.frame_number;
    layout.structure |= rewrite.structure.is_some();
    layout.active |= rewrite.active_decode_targets.is_some();
    (layout.active_at, layout.bits) = (read.layout.active_at, read.layout.bits);
    let expected = Descriptor {
        layout,
        active_decode_targets: mask.or(all).unwrap_or(descriptor.active_decode_targets),
        ..descriptor.clone()
    };
    assert_eq!(read, expected);
    assert!(data.len() <= packet.descriptor.len() + 5 + rewrite.structure.map_or(0, |structure| structure.bits.len()));
}

#[test]
fn decode_targets_structures_and_template_ids_are_rewritten() {
    for (_, capture) in SVC {
        let mut reader = Reader::default();
        for (index, packet) in packets(capture).into_iter().enumerate() {
            let descriptor = reader.read(&packet.descriptor, packet.timestamp).expect("a descriptor");
            if descriptor.layout.bits == 24 && index % 16 != 0 {
                // Most are of three bytes and alike.
                continue;
            }
            let structure = reader.structure().expect("a structure");
            for mask in [None, Some(0), Some(1), Some(u32::MAX), structure.target_layers.map(|layers| layers.within(1, 1))] {
                for structure in [None, Some(structure)] {
                    for template_id_shift in [0, 1, 60, 255] {
                        let rewrite = Rewrite { frame_number: 7, template_id_shift, active_decode_targets: mask, structure };
                        let mut before = reader.clone();
                        // The frame numbers were others, too.
                        (before.structured, before.updated) = (0, 0);
                        before.pictures.newest = before.pictures.newest.map(|(time, first)| {
                            (time, first.wrapping_sub(descriptor.layout.frame_number).wrapping_add(rewrite.frame_number))
                        });
                        check_written(&before, &packet, &descriptor, &rewrite);
                    }
                }
            }
        }
    }
}

#[test]
fn a_structure_is_re_emitted_as_it_was() {
    let (reader, read) = read_all(vectors::AV1_L3T3);
    let (packet, descriptor) = read.last().expect("packets");
    let structure = reader.structure().expect("a structure");
    let data = written(packet, descriptor, &Rewrite { frame_number: 1, structure: Some(structure), ..Rewrite::default() });
    let mut fresh = Reader::default();
    fresh.read(&data, packet.timestamp).expect("needs nothing that came before");
    assert_eq!(fresh.structure(), Some(structure));
}

#[test]
fn what_refers_to_nothing_is_told_from_what_is_broken() {
    let first = packets(vectors::AV1_L3T3).swap_remove(0).descriptor;
    let mut reader = Reader::default();
    assert_eq!(reader.read(&[0x80, 0, 1], RtpTime(0)), Err(DropReason::DependencyUnknown), "no structure yet");
    assert_eq!(reader.read(&[0xc0, 0, 1, 0x20], RtpTime(0)), Err(DropReason::DependencyUnknown), "custom, of no structure");
    for len in 0..first.len() {
        let error = if len == 3 { DropReason::DependencyUnknown } else { DropReason::DependencyMalformed };
        assert_eq!(reader.read(&first[..len], RtpTime(0)), Err(error), "{len} bytes");
    }
    assert!(reader.structure().is_none(), "an error changes nothing");
    assert!(reader.read(&first, RtpTime(0)).is_ok());
    assert_eq!(reader.read(&[0xbf, 0, 1], RtpTime(0)), Err(DropReason::DependencyUnknown), "template 63");
    assert_eq!(reader.read(&[0x80, 0, 1, 0x20], RtpTime(0)), Err(DropReason::DependencyMalformed), "no custom indications");

    // Nine dependencies: each "01" and four bits, after the flag of custom dependencies.
    let mut bits = "1".repeat(2) + "000000" + &"0".repeat(15) + "1" + "00010";
    bits += &"010000".repeat(FRAME_DEPENDENCIES);
    assert!(reader.read(&packed(&(bits.clone() + "00")), RtpTime(0)).is_ok());
    assert_eq!(reader.read(&packed(&(bits + "01000000")), RtpTime(0)), Err(DropReason::DependencyMalformed));
    // Layers without end.
    let layers =
        |step: &str, count: usize| packed(&("11".to_owned() + &"0".repeat(22) + "10000" + &"0".repeat(11) + &step.repeat(count)));
    for step in ["01", "10", "00"] {
        assert_eq!(reader.read(&layers(step, 200), RtpTime(0)), Err(DropReason::DependencyMalformed));
    }
}

#[test]
fn a_late_packet_brings_no_old_structure_back() {
    let (_, read) = read_all(vectors::AV1_L1T3);
    let with_structure: Vec<&Captured> = read.iter().filter(|(_, d)| d.layout.structure).map(|(packet, _)| packet).collect();
    let (old, new) = (with_structure[0], with_structure[1]);
    let mut reader = Reader::default();
    let mut newer = new.clone();
    newer.descriptor[1..3].copy_from_slice(&[0, 200]);
    reader.read(&newer.descriptor, newer.timestamp).expect("a descriptor");
    let kept = reader.structure().cloned();
    let late = reader.read(&old.descriptor, old.timestamp).expect("readable by itself");
    assert_eq!((late.spatial, late.layout.frame_number), (0, 1));
    assert_eq!(reader.structure().cloned(), kept);
    // Far behind, it is a new beginning.
    newer.descriptor[1..3].copy_from_slice(&[0x80, 0]);
    reader.read(&newer.descriptor, newer.timestamp).expect("a descriptor");
    reader.read(&old.descriptor, old.timestamp).expect("a descriptor");
    assert_ne!(reader.structure().cloned(), kept);
}

#[test]
fn a_late_frame_is_not_read_by_a_newer_structure() {
    let (_, read) = read_all(vectors::AV1_L1T3);
    let first = &read[0].0;
    let mut reader = Reader::default();
    let key = |number: u16| {
        let mut data = first.descriptor.clone();
        data[1..3].copy_from_slice(&number.to_be_bytes());
        data
    };
    let delta = |number: u16| [0xc0 | (first.descriptor[0] & 0x3f), (number >> 8) as u8, number as u8];
    reader.read(&key(100), RtpTime(0)).expect("a descriptor");
    reader.read(&delta(99), RtpTime(0)).expect_err("of the time before");
    for number in [100, 101, 130] {
        reader.read(&delta(number), RtpTime(9)).expect("a descriptor");
    }
    reader.read(&key(140), RtpTime(90)).expect("a descriptor");
    assert_eq!(reader.read(&delta(139), RtpTime(80)), Err(DropReason::DependencyUnknown), "of the structure before");
    reader.read(&delta(141), RtpTime(99)).expect("a descriptor");
    // Numbers wrap, and what was behind is ahead again.
    for step in 0..400u16 {
        reader.read(&delta(step.wrapping_mul(331).wrapping_add(141)), RtpTime(100)).expect("a descriptor");
    }
}

/// The packets of all captures, and what has read them.
static READ: LazyLock<Vec<(Reader, Vec<Captured>)>> =
    LazyLock::new(|| SVC.iter().map(|(_, capture)| (read_all(capture).0, packets(capture))).collect());

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(capture in 0..SVC.len(), bytes in prop::collection::vec(any::<u8>(), 0..255)) {
        let _ = Reader::default().read(&bytes, RtpTime(0));
        let _ = READ[capture].0.clone().read(&bytes, RtpTime(0));
    }

    #[test]
    fn mutations_are_read_and_written_back_or_refused(
        capture in 0..SVC.len(),
        index in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..6),
        frame_number in any::<u16>(),
        mask in any::<Option<u32>>(),
    ) {
        let all = &READ[capture].1;
        // Long descriptors, which have most to mutate, half of the time.
        let long: Vec<&Captured> = all.iter().filter(|packet| packet.descriptor.len() > 3).collect();
        let packet = if frame_number % 2 == 0 { index.get(all) } else { index.get(&long) };
        let mut data = packet.descriptor.clone();
        for (byte, bit) in flips {
            let at = byte.index(data.len());
            data[at] ^= 1 << bit;
        }
        let mut reader = Reader::default();
        reader.read(&all[0].descriptor, all[0].timestamp).expect("a descriptor");
        // Any frame number is to be one that comes after it.
        reader.structured = 0;
        let mut space = [0; DESCRIPTOR_BYTES_MAX];
        if let Ok(descriptor) = reader.clone().read(&data, packet.timestamp) {
            let rewrite = Rewrite { frame_number, active_decode_targets: mask, ..Rewrite::default() };
            if let Some(len) = write(&data, &descriptor.layout, &rewrite, &mut space) {
                let read = reader.read(&space[..len], packet.timestamp).expect("what was written is read");
                prop_assert_eq!(read.layout.frame_number, frame_number);
                let told = mask.map(|mask| mask & ((1u64 << descriptor.layout.targets) - 1) as u32);
                prop_assert_eq!(read.active_decode_targets, told.unwrap_or(descriptor.active_decode_targets));
                prop_assert_eq!((read.indications, read.dependencies, read.chains, read.temporal),
                    (descriptor.indications, descriptor.dependencies, descriptor.chains, descriptor.temporal));
            }
            // Any space is too small or enough.
            for len in 0..data.len() {
                let _ = write(&data, &descriptor.layout, &rewrite, &mut space[..len]);
            }
        }
    }
}
