//! The numbers, the groups, and what can be computed from them as RFC 5109 §9 says.

use proptest::prelude::*;

use super::*;

fn protection(each: u8) -> Protection {
    let mut protection = Protection::new(FecConfig { red: PayloadType(116), ulpfec: PayloadType(118), red_rtx: None });
    protection.protect(each);
    protection
}

/// A packet of media with this outer number, as it is outside of RED.
fn packet(outer: u64) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend((outer as u16).to_be_bytes());
    packet.extend((outer as u32 * 3_000).to_be_bytes());
    packet.extend(7u32.to_be_bytes());
    packet.extend((0..20 + outer % 9).map(|at| (at * 31 + outer * 7) as u8));
    packet
}

/// Numbers and sends frames of so many packets each: the receiver's numbers of media, and the FEC packets (number and payload).
fn send(protection: &mut Protection, first: u64, frames: &[u64]) -> (Vec<u64>, Vec<(u64, Vec<u8>)>) {
    let (mut media, mut fec, mut inner) = (Vec::new(), Vec::new(), first);
    for frame in frames {
        for left in (0..*frame).rev() {
            let outer = protection.number(ExtendedSequence(inner), Some(Ends(left == 0))).expect("new");
            let packet = packet(outer.0);
            protection.add(&packet[..12], &packet[12..], PayloadType(96), outer);
            media.push(outer.0);
            inner += 1;
            let due: Vec<_> = protection.due_after(outer).collect();
            for (index, number) in &due {
                let mut space = [0; 1500];
                let len = protection.write(*index, &mut space).expect("room");
                fec.push((number.0, space[..len].to_vec()));
            }
            if !due.is_empty() {
                protection.clear();
            }
        }
    }
    (media, fec)
}

/// As RFC 5109 §9 tells a receiver to: the packet of this number (16 bits), from all others. None if this FEC packet is not for it, or
/// another one that it is for is lost too.
fn recover(fec: &[u8], lost: u64, others: &[u64]) -> Option<Vec<u8>> {
    let base = u16::from_be_bytes([fec[2], fec[3]]);
    let long = fec[0] & 0x40 != 0;
    let (mask, body) = fec[12..].split_at(if long { 6 } else { 2 });
    let protects = |number: u64| {
        let place = (number as u16).wrapping_sub(base) as usize;
        mask.get(place / 8).is_some_and(|byte| byte & 0x80 >> (place % 8) != 0)
    };
    let count: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let received: Vec<_> =
        others.iter().filter(|number| **number != lost && protects(**number)).map(|number| packet(*number)).collect();
    if !protects(lost) || received.len() as u32 != count - 1 {
        return None;
    }
    let sum = |start: u8, at: usize| received.iter().fold(start, |sum, packet| sum ^ packet.get(at).copied().unwrap_or(0));
    let length = received.iter().fold(u16::from_be_bytes([fec[8], fec[9]]), |sum, packet| sum ^ (packet.len() - 12) as u16);
    let mut packet = vec![0x80 | sum(fec[0], 0) & 0x3f, sum(fec[1], 1)];
    packet.extend((lost as u16).to_be_bytes());
    packet.extend((4..8).map(|at| sum(fec[at], at)));
    packet.extend(7u32.to_be_bytes());
    packet.extend((0..length as usize).map(|at| sum(body[at], 12 + at)));
    Some(packet)
}

#[test]
fn each_lost_packet_is_recovered_and_as_many_in_a_row_as_there_are_fec_packets() {
    for (frame, each, count) in [(4, 4, 1), (7, 4, 1), (8, 4, 2), (11, 4, 2), (12, 4, 4), (16, 4, 4), (40, 4, 4), (29, 10, 2)] {
        let mut protection = protection(each);
        // Across the wrap of the sequence numbers.
        let (media, fec) = send(&mut protection, 65_530, &[frame]);
        assert_eq!(fec.len(), count, "a frame of {frame}");
        let numbers: Vec<_> = fec.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (65_530 + frame..65_530 + frame + count as u64).collect::<Vec<_>>(), "right after the frame");
        for start in 0..=frame as usize - count {
            let lost = &media[start..start + count];
            let left: Vec<_> = media.iter().copied().filter(|number| !lost.contains(number)).collect();
            for number in lost {
                let recovered = fec.iter().find_map(|(_, fec)| recover(&fec[1..], *number, &left));
                assert_eq!(recovered.as_deref(), Some(&packet(*number)[..]), "{number} of a frame of {frame}");
            }
        }
        assert!(fec.iter().all(|(_, fec)| fec[0] == 118), "in RED, as ULPFEC");
    }
}

#[test]
fn small_frames_share_a_fec_packet_and_do_not_wait_long_for_it() {
    let mut protection = protection(6);
    let (_, fec) = send(&mut protection, 100, &[2, 2, 2, 1, 1, 1, 1, 1, 9]);
    // After six packets; after four frames; after nine more, and the one before them.
    assert_eq!(fec.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [106, 111, 122]);
    assert_eq!(protection.take_sent(), 3);
    assert_eq!(protection.take_sent(), 0);
}

#[test]
fn what_is_behind_the_mask_or_too_long_is_sent_without() {
    let mut protection = protection(4);
    let (media, fec) = send(&mut protection, 1, &[60]);
    let recovered = |lost: u64| fec.iter().find_map(|(_, fec)| recover(&fec[1..], lost, &media));
    assert!(recovered(media[47]).is_some() && recovered(media[48]).is_none());
    let outer = protection.number(ExtendedSequence(61), Some(Ends(true))).expect("new");
    protection.add(&[0x80; 12], &[0; FEC_BYTES_MAX + 1], PayloadType(96), outer);
    assert_eq!(protection.due_after(outer).count(), 0);
}

#[test]
fn switched_off_nothing_more_is_kept_and_numbers_go_on() {
    let mut protection = protection(4);
    let (media, fec) = send(&mut protection, 10, &[5, 5]);
    assert_eq!((media.last(), fec.len()), (Some(&20), 2));
    protection.protect(0);
    let (media, fec) = send(&mut protection, 20, &[5, 5]);
    assert_eq!((media, fec.len()), ((22..32).collect(), 0));
    assert_eq!(protection.inner(ExtendedSequence(15)), None, "a FEC packet is not sent again");
    assert_eq!(protection.inner(ExtendedSequence(16)), Some(ExtendedSequence(15)));
}

#[test]
fn what_was_not_sent_gives_its_numbers_back() {
    let mut protection = protection(4);
    send(&mut protection, 10, &[5, 5, 5]);
    // The rewriter goes on with 17: the FEC packets after 19 and 24 have not left.
    protection.take_back(ExtendedSequence(17));
    assert_eq!(protection.number(ExtendedSequence(17), None), Ok(ExtendedSequence(18)));
    assert_eq!(protection.outer(ExtendedSequence(14)), Some(ExtendedSequence(14)));
}

#[test]
fn even_when_all_is_taken_back_that_is_known_no_number_comes_twice() {
    let mut numbering = Numbering::new();
    for inner in 1_000..1_000 + 2 * FEC_PLACES as u64 {
        numbering.keep(inner, 1);
    }
    numbering.take_back(1_010);
    // The last that was sent, and the FEC packet behind it.
    let newest = 1_009 + 9 + 1;
    assert!(numbering.outer(1_010).is_some_and(|outer| outer > newest));
    assert_eq!(numbering.outer(1_009), None);
}

proptest! {
    /// Against the plain way: a list of everything in the order in which the receiver sees it.
    #[test]
    fn numbers_are_shifted_without_a_seam_and_lead_back(runs in prop::collection::vec((1u64..9, 1u64..=4), 1..300), start in 65_000u64..66_000) {
        let mut numbering = Numbering::new();
        let (mut outer, mut inner) = (start, start);
        let mut seen = Vec::new();
        for (packets, fec) in &runs {
            for _ in 0..*packets {
                prop_assert_eq!(numbering.outer(inner), Some(outer));
                seen.push((outer, Some(inner)));
                (outer, inner) = (outer + 1, inner + 1);
            }
            numbering.keep(inner - 1, *fec);
            prop_assert_eq!(numbering.kept_after(outer - 1), Some((outer, *fec)));
            seen.extend((outer..outer + fec).map(|outer| (outer, None)));
            outer += fec;
        }
        let known = numbering.forgotten.0;
        for (outer, inner) in seen {
            match inner {
                Some(inner) if inner > known || runs.len() <= FEC_PLACES => {
                    prop_assert_eq!(numbering.inner(outer), Some(inner));
                    prop_assert_eq!(numbering.outer(inner), Some(outer));
                }
                // Too old to tell, and no other's.
                _ => prop_assert_eq!(numbering.inner(outer), None),
            }
        }
    }
}
