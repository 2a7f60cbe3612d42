//! What leaves along a path, opened by the viewer's end of the session: media, what is repeated, FEC and probes.

use super::by_stream::ccfb;
use super::*;
use crate::mem::{Arena, SendBatch};
use crate::peer::send::Binding;
use crate::peer::{Keys, Peer};
use crate::rtp::config::FecConfig;
use crate::rtp::media::Media;
use crate::rtp::rewrite::Target;
use crate::secure::srtp::{KeyingMaterial, Profile, Receiver, Sender};
use crate::units::{PeerId, RtpTime, TrackId};
use crate::wire::layer::Layer;
use crate::wire::picture::PictureIds;
use crate::wire::rtp::Header;

const RED: PayloadType = PayloadType(118);
const TRACK: TrackId = TrackId { slot: 0, generation: 0 };

/// A session that watches, its receiver, and packets for it.
struct Session {
    peer: Peer,
    receiver: Receiver,
    slots: crate::mem::Slots,
    batch: SendBatch,
}

impl Session {
    fn new(numbered: bool, rtx: bool) -> Session {
        let mut media = config(numbered, rtx, false);
        media.fec = (numbered && rtx).then_some(FecConfig { red: RED, ulpfec: PayloadType(120), red_rtx: None });
        Session::of(media)
    }

    fn of(media: MediaConfig) -> Session {
        let rtx = media.codecs[0].rtx.is_some();
        let profile = Profile::AeadAes128Gcm;
        let material = KeyingMaterial::from_exporter(profile, &vec![7; profile.keying_material_len()]).unwrap();
        let ((outbound, inbound), (_, remote)) = (material.clone().split(true), material.split(false));
        let mut peer = Peer::new(PeerId::default(), &[media], None, Ssrc(1), || 0x1234);
        peer.set_keys(Box::new(Keys { outbound: Sender::new(&outbound), inbound: Receiver::new(&inbound, 0) }));
        peer.checked("192.0.2.1:5000".parse().unwrap(), true, Micros::ZERO);
        let rtx = rtx.then_some(RTX);
        peer.senders[0].bind(Some(Binding { track: TRACK, payload_type: VIDEO, rtx, clock_rate: 90_000, encrypted: false }));
        peer.senders[0].aim(Some(Target::all(0)));
        Session { peer, receiver: Receiver::new(&remote, 4), slots: Arena::leak(64), batch: SendBatch::default() }
    }

    fn media(&mut self, sequence: u64) -> Media {
        let mut packet = self.slots.take().expect("a slot");
        packet.fill(&[sequence as u8; 900]);
        Media {
            track: TRACK,
            packet: packet.freeze(),
            header_len: 0,
            payload_len: 900,
            padding: 0,
            stream: 0,
            encoding: 0,
            layer: Layer::default(),
            marker: true,
            key_frame: true,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(0),
            arrival: Micros::from_secs(1),
            extensions: Default::default(),
            dependency: None,
            picture: PictureIds::default(),
        }
    }

    /// What was sent last, as it left.
    fn sent(&mut self) -> Vec<u8> {
        let last = self.batch.operations().last().copied().expect("something was sent");
        let bytes = self.batch.bytes(&last).to_vec();
        self.batch.clear();
        bytes
    }

    /// Its payload type, sequence number, transport-wide number and payload, once opened.
    fn open(&mut self, mut packet: Vec<u8>) -> (u8, u16, Option<u16>, Vec<u8>) {
        let header_len = Header::parse(&packet).unwrap().header_len;
        let (len, _) = self.receiver.unprotect_rtp(&mut packet, header_len).expect("authentic, and new");
        packet.truncate(len);
        let header = Header::parse(&packet).unwrap();
        let number = header.extension(NUMBER_ID).map(|data| u16::from_be_bytes(data.try_into().unwrap()));
        let payload = packet[header.payload_range(&packet).unwrap()].to_vec();
        (header.payload_type.0, header.sequence_number.0, number, payload)
    }
}

const AT: [Micros; 3] = [Micros::from_secs(1), Micros::from_secs(2), Micros::from_secs(3)];

#[test]
fn what_is_repeated_without_rtx_is_bit_by_bit_the_same() {
    let mut session = Session::new(false, false);
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    let first = session.sent();
    session.peer.retransmit(0, &media, true, AT[1], &mut session.batch).unwrap();
    assert_eq!(session.sent(), first);
    assert_eq!(session.open(first).2, None);
}

#[test]
fn what_has_a_number_is_repeated_by_rtx_with_another_or_not_at_all() {
    let mut session = Session::new(true, true);
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    let first = session.sent();
    let (payload_type, sequence, Some(number), payload) = session.open(first) else { panic!("no number") };
    assert_eq!((payload_type, &payload[..]), (96, media.payload()));
    let mut rtx_sequence = None;
    for (step, at) in AT.into_iter().enumerate() {
        session.peer.retransmit(0, &media, true, at, &mut session.batch).unwrap();
        let again = session.sent();
        let (payload_type, sequence_of_rtx, number_of_rtx, payload) = session.open(again);
        assert_eq!((payload_type, number_of_rtx), (97, Some(number.wrapping_add(1 + step as u16))));
        assert_eq!((&payload[..2], &payload[2..]), (&sequence.to_be_bytes()[..], media.payload()), "RFC 4588 §4");
        assert_ne!(rtx_sequence.replace(sequence_of_rtx), Some(sequence_of_rtx), "an SRTP index of its own");
    }
    // Negotiation does not let this come about; if it did, one index would protect two packets.
    let mut session = Session::new(true, false);
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    session.batch.clear();
    assert_eq!(session.peer.retransmit(0, &media, true, AT[1], &mut session.batch), Err(DropReason::NackTooOld));
    assert!(session.batch.is_empty());
}

#[test]
fn packets_of_nothing_stand_for_a_silent_track_until_it_is_heard() {
    let open = |session: &mut Session| {
        let packet = session.sent();
        let padded = packet[0] & 0x20 != 0;
        (padded, session.open(packet))
    };
    let mut session = Session::new(true, true);
    session.peer.fill(0, AT[0], &mut session.batch).unwrap();
    let (padded, (payload_type, first, number, payload)) = open(&mut session);
    assert_eq!((padded, payload_type, payload.len()), (true, VIDEO.0, 0), "padding of the media's own stream");
    session.peer.fill(0, AT[1], &mut session.batch).unwrap();
    let (_, (_, second, next, _)) = open(&mut session);
    assert_eq!((second, next), (first + 1, number.map(|number| number + 1)));
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[2], &mut session.batch).unwrap();
    let (padded, (_, third, _, payload)) = open(&mut session);
    assert_eq!((padded, third, &payload[..]), (false, second + 1, media.payload()));
    assert_eq!(session.peer.fill(0, AT[2], &mut session.batch), Err(DropReason::NotPublishing), "the track is heard");
    assert!(session.batch.is_empty());

    // Of sound it is silence, unless it is encrypted from end to end: that would be no frame of the track's.
    for encrypted in [false, true] {
        let mut sound = config(true, false, false);
        sound.kind = MediaKind::Audio;
        let mut session = Session::of(sound);
        let binding = Binding { track: TRACK, payload_type: VIDEO, rtx: None, clock_rate: 48_000, encrypted };
        session.peer.senders[0].bind(Some(binding));
        session.peer.fill(0, AT[0], &mut session.batch).unwrap();
        let (padded, (.., payload)) = open(&mut session);
        assert_eq!((padded, &payload[..]), (encrypted, if encrypted { &[][..] } else { &[0xf8, 0xff, 0xfe][..] }));
    }
}

#[test]
fn fec_follows_the_loss_of_a_long_path_and_ends_some_time_after_it() {
    let each = |lost: usize, round_trip: u64| {
        let mut path = path();
        let mut now = Micros::from_secs(1);
        for _ in 0..20 {
            let base = leave(&mut path, 100, now);
            now = now + Micros::from_millis(round_trip);
            let arrivals: Vec<_> =
                (0..100).map(|packet| (packet % 100 >= lost).then_some(now.0 - 10_000 + packet as u64 * 250)).collect();
            report(&mut path, base, &arrivals, now).unwrap();
            now = now + Micros::from_millis(100);
        }
        (path.protect(), path)
    };
    assert_eq!(each(1, 150).0, 0, "little is lost");
    assert_eq!(each(8, 40).0, 0, "what is asked for comes soon");
    assert_eq!(each(15, 40).0, 4, "unless that is lost too");
    let (light, heavy) = (each(4, 150).0, each(8, 150));
    assert!((5..=8).contains(&light) && heavy.0 == 4, "{light}, {}", heavy.0);
    let mut path = heavy.1;
    assert!(path.repeats_twice());
    path.waiting.packets = 1;
    assert!(!path.repeats_twice(), "a second copy is not to keep others waiting");
    path.round_trip = Some(Micros::from_millis(40));
    assert_eq!((0..20).take_while(|_| path.protect() == 4).count(), FEC_SECONDS as usize - 1);
    assert_eq!(path.protect(), 0);
}

/// What left, packet by packet: all of it, as a receiver sees it after decryption.
fn opened(session: &mut Session) -> Vec<Vec<u8>> {
    let packets: Vec<_> = session.batch.operations().iter().map(|sent| session.batch.bytes(sent).to_vec()).collect();
    session.batch.clear();
    let open = |mut packet: Vec<u8>| {
        let header_len = Header::parse(&packet).unwrap().header_len;
        let (len, _) = session.receiver.unprotect_rtp(&mut packet, header_len).expect("authentic, and new");
        packet.truncate(len);
        packet
    };
    packets.into_iter().map(open).collect()
}

#[test]
fn fec_packets_stand_among_the_others_and_what_is_lost_can_be_computed() {
    let mut session = Session::new(true, true);
    let frame = |session: &mut Session, first: u64| -> (Vec<Media>, Vec<Vec<u8>>) {
        let (mut media, mut sent) = (Vec::new(), Vec::new());
        for sequence in first..first + 4 {
            let mut packet = session.media(sequence);
            (packet.marker, packet.picture.picture_id) = (sequence == first + 3, Some((1, true, 7)));
            session.peer.forward(0, &packet, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
            sent.extend(opened(session));
            media.push(packet);
        }
        (media, sent)
    };
    let plain = frame(&mut session, 70_000).1;
    session.peer.path.as_deref_mut().unwrap().protection = (4, 10);
    assert_eq!(session.peer.protect(), 0);
    let (media, with_fec) = frame(&mut session, 70_004);
    let (_, next) = frame(&mut session, 70_008);
    assert_eq!([plain.len(), with_fec.len(), next.len()], [4, 5, 5]);
    // No seam in the numbers of the stream, nor in those of the path; all on one SSRC.
    let all: Vec<_> = plain.iter().chain(&with_fec).chain(&next).map(|packet| (Header::parse(packet).unwrap(), packet)).collect();
    for pair in all.windows(2) {
        let number = |(header, _): &(Header, _)| u16::from_be_bytes(header.extension(NUMBER_ID).unwrap().try_into().unwrap());
        assert_eq!(pair[1].0.sequence_number, pair[0].0.sequence_number.next());
        assert_eq!(number(&pair[1]), number(&pair[0]).wrapping_add(1));
        assert_eq!(pair[1].0.ssrc, Ssrc(10));
    }
    let types: Vec<_> = all.iter().map(|(header, packet)| (header.payload_type.0, packet[header.header_len])).collect();
    assert!(types[..4].iter().all(|(payload_type, _)| *payload_type == 96));
    assert_eq!(types[4..9], [(118, 96), (118, 96), (118, 96), (118, 96), (118, 120)]);
    // The third is lost. Outside of RED, with zeros for its number:
    let bare = |packet: &[u8]| {
        let header_len = Header::parse(packet).unwrap().header_len;
        let (mut bare, number) = (packet[..header_len].to_vec(), 17);
        (bare[1], bare[number], bare[number + 1]) = (bare[1] & 0x80 | 96, 0, 0);
        bare.extend(&packet[header_len + 1..]);
        bare
    };
    let (fec_header, fec) = (&all[8].0, all[8].1);
    let fec = &fec[fec_header.header_len + 1..];
    let mut recovered = [&fec[..2], &fec[4..8], &fec[14..]].concat();
    for index in [0, 1, 3] {
        let packet = bare(&with_fec[index]);
        let sum = [&packet[..2], &packet[4..8], &packet[12..]].concat();
        recovered.iter_mut().zip(sum).for_each(|(byte, other)| *byte ^= other);
    }
    let lost = bare(&with_fec[2]);
    assert_eq!((recovered[0] & 0x3f, &recovered[1..]), (lost[0] & 0x3f, &[&lost[1..2], &lost[4..8], &lost[12..]].concat()[..]));
    assert!(lost.ends_with(&media[2].payload()[3..]));
    // Asked for all the same, it is sent again under the number it had; a FEC packet never is.
    let (number, of_fec) = (all[6].0.sequence_number, fec_header.sequence_number);
    assert_eq!(session.peer.senders[0].origin(number).map(|(_, sequence)| sequence), Some(media[2].sequence));
    assert_eq!(session.peer.senders[0].origin(of_fec), None);
    session.peer.retransmit(0, &media[2], true, AT[1], &mut session.batch).unwrap();
    let again = opened(&mut session).remove(0);
    let header = Header::parse(&again).unwrap();
    assert_eq!((header.payload_type, &again[header.header_len..][..2]), (RTX, &number.0.to_be_bytes()[..]));
    assert_eq!(session.peer.protect(), 2);
}

#[test]
fn what_is_told_by_stream_is_told_of_media_retransmissions_and_probes() {
    let mut media = config(false, true, false);
    media.codecs[0].feedback.ccfb = true;
    let mut session = Session::of(media);
    let mut numbers = Vec::new();
    for step in 0..4 {
        let media = session.media(70_000 + step);
        session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
        let packet = session.sent();
        numbers.push(session.open(packet));
        if step == 1 {
            session.peer.retransmit(0, &media, true, AT[0], &mut session.batch).unwrap();
        } else if step == 2 {
            assert_eq!(session.peer.probing_sender(), Some(0));
            session.peer.probe(0, None, 7, AT[0], &mut session.batch).unwrap();
        } else {
            continue;
        }
        let packet = session.sent();
        numbers.push(session.open(packet));
    }
    assert!(numbers.iter().all(|(_, _, number, _)| number.is_none()), "no transport-wide numbers");
    let of = |wanted: u8| -> Vec<u16> {
        numbers.iter().filter(|(payload_type, ..)| *payload_type == wanted).map(|(_, number, ..)| *number).collect()
    };
    let (media, rtx) = (of(96), of(97));
    assert_eq!((media.len(), rtx.len()), (4, 2));
    let path = session.peer.path.as_deref_mut().unwrap();
    let beyond = ccfb(1 << 20, &[(11, rtx[0], &[Some(9); 3])]);
    assert_eq!(path.ccfb(&beyond, AT[1]), Err(DropReason::FeedbackUnsent), "a third of RTX");
    path.ccfb(&ccfb(1 << 20, &[(11, rtx[0], &[Some(9); 2])]), AT[1]).unwrap();
    assert_eq!((path.target().is_some(), path.round_trip()), (true, Some(Micros::from_secs(1))), "both of RTX are known");
    let newest = path.transport.as_ref().map(|transport| transport.next.0);
    assert_eq!(newest, Some((1 << 16 | 0x1234) + 6), "one count for all");
    path.ccfb(&ccfb(1 << 20, &[(10, media[0], &[Some(9); 4])]), AT[2]).unwrap();
    assert!(path.round_trip() > Some(Micros::from_secs(1)), "and those of media");
}

#[test]
fn probes_are_retransmissions_or_padding_on_the_rtx_stream() {
    let mut session = Session::new(true, true);
    assert_eq!(session.peer.probing_sender(), None, "nothing flows");
    let media = session.media(70_000);
    session.peer.forward(0, &media, &[None; 4], &[], AT[0], &mut session.batch).unwrap();
    session.batch.clear();
    let path = session.peer.path.as_deref_mut().unwrap();
    assert!(path.wants_probe() && path.begin_probe(AT[0]), "the first one of the start");
    let (cluster, bytes) = path.probe_due(AT[0]).expect("its first packet");
    assert_eq!(bytes, 1_125, "of 3 Mb/s for 15 ms in five packets");
    assert_eq!(session.peer.probing_sender(), Some(0));
    assert_eq!(session.peer.senders[0].recent(0).map(|(_, sequence)| sequence), Some(media.sequence));
    session.peer.probe(0, Some(&media), cluster, AT[0], &mut session.batch).unwrap();
    let packet = session.sent();
    let (payload_type, sequence, _, payload) = session.open(packet);
    assert_eq!((payload_type, &payload[2..]), (97, media.payload()));
    session.peer.probe(0, None, cluster, AT[0], &mut session.batch).unwrap();
    let packet = session.sent();
    assert!(packet.len() > 224 && packet[0] & 0x20 != 0);
    assert_eq!(&packet[8..12], &11u32.to_be_bytes(), "never on the media SSRC");
    let (payload_type, next, number, payload) = session.open(packet);
    assert_eq!((payload_type, next, payload.len()), (97, sequence.wrapping_add(1), 0));
    assert!(number.is_some());
    // At its pace: 3 Mb/s.
    let path = session.peer.path.as_deref_mut().unwrap();
    assert_eq!(path.probe_due(AT[0]), None);
    assert_eq!(path.probe_due(AT[0] + Micros::from_millis(4)), Some((cluster, bytes)));
    assert_eq!(path.probe_due(AT[1]), None, "too late");
    assert!(!path.has_probe());
}
