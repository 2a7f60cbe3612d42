//! `distributary::wire` against other people's implementations of the same RFCs: what one writes, the other must read, and what
//! one refuses, the other should not take for something else.

use std::net::SocketAddr;

use distributary::units::{Micros, PayloadType, RtpTime, SequenceNumber, Ssrc};
use distributary::wire::{ccfb, rtcp, rtp, stun, twcc};
use proptest::prelude::*;
use rtc_rtcp::transport_feedbacks::cc_feedback_report::{CcFeedbackMetricBlock, CcFeedbackReport, CcFeedbackReportBlock, Ecn};
use rtcp_types::prelude::*;
use stun_types::attribute::{ErrorCode, RawAttribute, Username, XorMappedAddress};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, Message, MessageClass, MessageIntegrityCredentials, MessageWrite, MessageWriteExt,
    MessageWriteVec, ShortTermCredentials,
};

fn elements() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    prop::collection::vec((1u8..20, prop::collection::vec(any::<u8>(), 0..20)), 0..6)
}

proptest! {
    #[test]
    fn rtp_headers_agree(
        marker in any::<bool>(),
        payload_type in 0u8..128,
        number in any::<u16>(),
        time in any::<u32>(),
        ssrc in any::<u32>(),
        elements in elements(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut space = [0; 512];
        let pairs = elements.iter().map(|(id, data)| (*id, &data[..]));
        let (pt, number, time, ssrc) = (PayloadType(payload_type), SequenceNumber(number), RtpTime(time), Ssrc(ssrc));
        let len = rtp::write_header(&mut space, marker, pt, number, time, ssrc, pairs).expect("space");
        let mut packet = space[..len].to_vec();
        packet.extend_from_slice(&payload);
        let oracle = rtp_types::RtpPacket::parse(&packet).expect("the oracle reads it");
        prop_assert_eq!((oracle.marker_bit(), oracle.payload_type()), (marker, payload_type));
        prop_assert_eq!((oracle.sequence_number(), oracle.timestamp(), oracle.ssrc()), (number.0, time.0, ssrc.0));
        prop_assert_eq!(oracle.payload(), &payload[..]);
        let header = rtp::Header::parse(&packet).expect("a header");
        let read: Vec<_> = header.extensions().map(|(id, data)| (id, data.to_vec())).collect();
        prop_assert_eq!(read, elements);
    }

    #[test]
    fn any_rtp_is_read_alike(first in 0x80u8..0xc0, body in prop::collection::vec(any::<u8>(), 11..100), words in 0u8..12) {
        let mut packet = vec![first];
        packet.extend_from_slice(&body);
        // Where an extension's length may lie: keep it small, so that some fit.
        let length_at = 14 + 4 * (first & 15) as usize;
        if let Some(length) = packet.get_mut(length_at..length_at + 2) {
            length.copy_from_slice(&[0, words]);
        }
        let ours = rtp::Header::parse(&packet).ok().and_then(|header| Some((header, header.payload_range(&packet)?)));
        match (rtp_types::RtpPacket::parse(&packet), ours) {
            (Ok(oracle), Some((header, payload))) => {
                prop_assert_eq!(oracle.payload_offset(), header.header_len);
                prop_assert_eq!(oracle.payload(), &packet[payload]);
                prop_assert_eq!(oracle.extension().unwrap_or_default(), (header.extension_profile, header.extension_data));
                prop_assert!(oracle.csrc().eq(header.csrcs(&packet).map(|csrc| csrc.0)));
            }
            (Err(_), None) => {}
            (oracle, ours) => prop_assert!(false, "{:?} against {:?}", oracle, ours),
        }
    }
}

fn block() -> impl Strategy<Value = rtcp::ReportBlock> {
    let losses = (any::<u8>(), 0i32..0x80_0000);
    (any::<u32>(), losses, any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(ssrc, (fraction_lost, cumulative_lost), extended_highest, jitter, last_sr, delay_since_last_sr)| rtcp::ReportBlock {
            ssrc: Ssrc(ssrc),
            fraction_lost,
            cumulative_lost,
            extended_highest,
            jitter,
            last_sr,
            delay_since_last_sr,
        },
    )
}

fn of_oracle(block: rtcp_types::ReportBlock) -> rtcp::ReportBlock {
    rtcp::ReportBlock {
        ssrc: Ssrc(block.ssrc()),
        fraction_lost: block.fraction_lost(),
        cumulative_lost: block.cumulative_lost() as i32,
        extended_highest: block.extended_sequence_number(),
        jitter: block.interarrival_jitter(),
        last_sr: block.last_sender_report_timestamp(),
        delay_since_last_sr: block.delay_since_last_sender_report_timestamp(),
    }
}

fn ascending(first: u16, gaps: &[u16]) -> Vec<SequenceNumber> {
    let mut numbers = vec![SequenceNumber(first)];
    for gap in gaps {
        numbers.push(numbers[numbers.len() - 1].add(*gap));
    }
    numbers
}

proptest! {
    #[test]
    fn the_oracle_reads_our_reports(ntp in any::<u64>(), blocks in prop::collection::vec(block(), 0..5)) {
        let mut space = [0; 1200];
        let info = rtcp::SenderInfo { ssrc: Ssrc(1), ntp, rtp: RtpTime(2), packets: 3, octets: 4 };
        let mut len = rtcp::write_sender_report(&mut space, &info, &blocks).expect("space");
        len += rtcp::write_receiver_report(&mut space[len..], Ssrc(5), &blocks).expect("space");
        len += rtcp::write_sdes_cname(&mut space[len..], Ssrc(1), "name").expect("space");
        len += rtcp::write_bye(&mut space[len..], &[Ssrc(1), Ssrc(5)]).expect("space");
        let mut packets = rtcp_types::Compound::parse(&space[..len]).expect("the oracle reads it").map(|packet| packet.expect("a packet"));
        let Some(rtcp_types::Packet::Sr(report)) = packets.next() else { panic!("no sender report") };
        prop_assert_eq!((report.ssrc(), report.ntp_timestamp(), report.rtp_timestamp()), (1, ntp, 2));
        prop_assert_eq!((report.packet_count(), report.octet_count()), (3, 4));
        prop_assert_eq!(report.report_blocks().map(of_oracle).collect::<Vec<_>>(), blocks.clone());
        let Some(rtcp_types::Packet::Rr(report)) = packets.next() else { panic!("no receiver report") };
        prop_assert_eq!(report.report_blocks().map(of_oracle).collect::<Vec<_>>(), blocks);
        let Some(rtcp_types::Packet::Sdes(description)) = packets.next() else { panic!("no source description") };
        let chunk = description.chunks().next().expect("a chunk");
        let item = chunk.items().next().expect("an item");
        prop_assert_eq!((chunk.ssrc(), item.type_(), item.value()), (1, 1, &b"name"[..]));
        let Some(rtcp_types::Packet::Bye(bye)) = packets.next() else { panic!("no BYE") };
        prop_assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn nacks_agree(first in any::<u16>(), gaps in prop::collection::vec(1u16..30, 0..60)) {
        let numbers = ascending(first, &gaps);
        let mut space = [0; 1200];
        let len = rtcp::write_nack(&mut space, Ssrc(1), Ssrc(2), &numbers).expect("space");
        let packet = rtcp_types::TransportFeedback::parse(&space[..len]).expect("the oracle reads it");
        let nack = packet.parse_fci::<rtcp_types::Nack>().expect("a NACK");
        prop_assert!(nack.entries().eq(numbers.iter().map(|number| number.0)));

        let builder = numbers.iter().fold(rtcp_types::Nack::builder(), |builder, number| builder.add_rtp_sequence(number.0));
        let len = rtcp_types::TransportFeedback::builder_owned(builder).sender_ssrc(1).media_ssrc(2).write_into(&mut space);
        let len = len.expect("the oracle writes it");
        let Ok(packets) = rtcp::packets(&space[..len]) else { panic!("not RTCP") };
        let packets: Vec<_> = packets.collect();
        let [Ok(rtcp::Feedback::Nack(nack))] = packets[..] else { panic!("{packets:?}") };
        let mut ours: Vec<_> = nack.sequence_numbers().map(|number| number.0.wrapping_sub(first)).collect();
        ours.sort();
        prop_assert!(ours.into_iter().eq(numbers.iter().map(|number| number.0.wrapping_sub(first))));
    }

    #[test]
    fn the_oracle_reads_our_transport_wide_feedback(
        base in any::<u16>(),
        steps in prop::collection::vec(prop::option::weighted(0.8, 0u64..300_000), 1..420),
    ) {
        let mut time = 70_000;
        let arrivals: Vec<_> = steps.iter().map(|step| {
            time += step.unwrap_or_default();
            step.map(|_| Micros(time))
        }).collect();
        let mut space = [0; 1200];
        let written = twcc::write_feedback(&mut space, Ssrc(1), Ssrc(2), SequenceNumber(base), 3, arrivals.iter().copied());
        let Some((len, covered)) = written else {
            prop_assert!(arrivals.iter().all(|arrival| arrival.is_none()));
            return Ok(());
        };
        let packet = rtcp_types::TransportFeedback::parse(&space[..len]).expect("the oracle reads it");
        let feedback = packet.parse_fci::<rtcp_types::Twcc>().expect("feedback");
        prop_assert_eq!((feedback.base_sequence_number(), feedback.feedback_packet_count()), (base, 3));
        let mut ticks = feedback.reference_time() as u64 * 256;
        let mut count = 0;
        for (index, packet) in feedback.packets().enumerate() {
            let (number, status) = packet.expect("a status");
            prop_assert_eq!(number, base.wrapping_add(index as u16));
            let arrival = match status {
                rtcp_types::TwccPacketStatus::NotReceived => None,
                rtcp_types::TwccPacketStatus::Received { delta } => {
                    ticks = ticks.wrapping_add_signed(delta as i64);
                    Some(ticks)
                }
            };
            prop_assert_eq!(arrival, arrivals[index].map(|time| time.0 / 250));
            count += 1;
        }
        prop_assert_eq!(count, covered);
    }

    #[test]
    fn we_read_the_oracles_transport_wide_feedback(
        base in any::<u16>(),
        deltas in prop::collection::vec(prop::option::of(prop_oneof![0i16..256, any::<i16>()]), 1..300),
    ) {
        use rtcp_types::TwccPacketStatus::{NotReceived, Received};
        let statuses: Vec<_> = deltas.iter().map(|delta| delta.map_or(NotReceived, |delta| Received { delta })).collect();
        let fci = rtcp_types::Twcc::builder(base, 0x123456, 9, &statuses, None);
        prop_assert_eq!(fci.packet_status_count(), deltas.len());
        let mut space = [0; 1500];
        let len = rtcp_types::TransportFeedback::builder(&fci).sender_ssrc(1).media_ssrc(2).write_into(&mut space);
        let len = len.expect("the oracle writes it");
        let Ok(packets) = rtcp::packets(&space[..len]) else { panic!("not RTCP") };
        let packets: Vec<_> = packets.collect();
        let [Ok(rtcp::Feedback::TransportWide(feedback))] = packets[..] else { panic!("{packets:?}") };
        let report = twcc::Report::parse(feedback.bytes).expect("a report");
        prop_assert_eq!((report.base.0, report.reference_time, report.count), (base, 0x123456, 9));
        prop_assert!(report.packets().map(|(_, delta)| delta).eq(deltas));
    }

    #[test]
    fn we_read_the_oracles_congestion_control_feedback(
        made in any::<u32>(),
        streams in prop::collection::vec(
            (any::<u32>(), any::<u16>(), prop::collection::vec(prop::option::of((0u8..4, 0u16..0x2000)), 0..60)),
            0..6,
        ),
    ) {
        let metric = |metric: &Option<(u8, u16)>| CcFeedbackMetricBlock {
            received: metric.is_some(),
            ecn: [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce][metric.map_or(0, |(ecn, _)| ecn as usize)],
            arrival_time_offset: metric.map_or(0, |(_, offset)| offset),
        };
        let block = |(ssrc, begin, metrics): &(u32, u16, Vec<_>)| CcFeedbackReportBlock {
            media_ssrc: *ssrc,
            begin_sequence: *begin,
            metric_blocks: metrics.iter().map(metric).collect(),
        };
        let report = CcFeedbackReport { sender_ssrc: 7, report_blocks: streams.iter().map(block).collect(), report_timestamp: made };
        let packet = rtc_rtcp::packet::marshal(&[Box::new(report)]).expect("the oracle writes it");
        let Ok(packets) = rtcp::packets(&packet) else { panic!("not RTCP") };
        let packets: Vec<_> = packets.collect();
        let [Ok(rtcp::Feedback::CongestionControl(feedback))] = packets[..] else { panic!("{packets:?}") };
        prop_assert_eq!(feedback.sender_ssrc, Ssrc(7));
        let report = ccfb::Report::parse(feedback.bytes).expect("a report");
        prop_assert_eq!(report.timestamp, made);
        let read: Vec<_> = report.blocks().collect();
        prop_assert_eq!(read.len(), streams.len());
        for (block, (ssrc, begin, metrics)) in read.iter().zip(&streams) {
            prop_assert_eq!((block.ssrc, block.begin, block.len() as usize), (Ssrc(*ssrc), SequenceNumber(*begin), metrics.len()));
            for (index, metric) in metrics.iter().enumerate() {
                let expected = metric.map_or(ccfb::Metric::NotReceived, |(_, offset)| {
                    ccfb::Metric::Received((offset < 0x1ffe).then_some(offset))
                });
                prop_assert_eq!(block.of(SequenceNumber(begin.wrapping_add(index as u16))), Some(expected));
            }
        }
    }

    #[test]
    fn any_congestion_control_feedback_is_read_alike(body in prop::collection::vec(any::<u8>(), 4..80), counts in any::<[u8; 3]>()) {
        let mut packet = vec![0x8b, 205, 0, (body.len() / 4) as u8];
        packet.extend_from_slice(&body[..body.len() & !3]);
        // Where counts may lie: small, so that some fit.
        for (count, at) in counts.into_iter().zip([14, 26, 38]) {
            if let Some(place) = packet.get_mut(at..at + 2) {
                place.copy_from_slice(&[0, count % 8]);
            }
        }
        let feedback = rtcp::packets(&packet).ok().and_then(|mut packets| packets.next()?.ok());
        let ours = match feedback {
            Some(rtcp::Feedback::CongestionControl(feedback)) => ccfb::Report::parse(feedback.bytes).ok(),
            _ => None,
        };
        let oracle = rtc_rtcp::packet::unmarshal(&mut &packet[..]).ok();
        let oracle = oracle.and_then(|packets| packets.first()?.as_any().downcast_ref::<CcFeedbackReport>().cloned());
        prop_assert_eq!(ours.is_some(), oracle.is_some());
        if let (Some(ours), Some(oracle)) = (ours, oracle) {
            prop_assert_eq!(ours.timestamp, oracle.report_timestamp);
            let lens: Vec<_> = ours.blocks().map(|block| (block.ssrc.0, block.begin.0, block.len() as usize)).collect();
            let expected = oracle.report_blocks.iter();
            let expected: Vec<_> = expected.map(|block| (block.media_ssrc, block.begin_sequence, block.metric_blocks.len())).collect();
            prop_assert_eq!(lens, expected);
        }
    }

    #[test]
    fn any_compound_is_framed_alike(
        parts in prop::collection::vec((0u8..32, 203u8..212, prop::collection::vec(any::<u8>(), 0..40)), 1..4),
        cut in 0usize..4,
    ) {
        // Starts with a receiver report: the oracle knows no reduced-size packets.
        let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
        for (format, packet_type, body) in &parts {
            compound.extend_from_slice(&[0x80 | format, *packet_type, 0, (body.len() / 4) as u8]);
            compound.extend_from_slice(&body[..body.len() & !3]);
        }
        compound.truncate(compound.len() - cut);
        let count = rtcp::packets(&compound).map(|packets| packets.count()).ok();
        prop_assert_eq!(count, (cut == 0).then_some(parts.len() + 1));
        if let Ok(packets) = rtcp_types::Compound::parse(&compound) {
            // It stops at the first it cannot read.
            let read = packets.take_while(|packet| packet.is_ok()).count();
            prop_assert!(count.is_some_and(|count| read <= count));
        }
    }
}

#[test]
fn key_frame_requests_agree() {
    let mut space = [0; 64];
    let len = rtcp::write_pli(&mut space, Ssrc(1), Ssrc(2)).expect("space");
    let packet = rtcp_types::PayloadFeedback::parse(&space[..len]).expect("the oracle reads it");
    assert!(packet.parse_fci::<rtcp_types::Pli>().is_ok());
    assert_eq!((packet.sender_ssrc(), packet.media_ssrc()), (1, 2));
    let len = rtcp::write_fir(&mut space, Ssrc(1), &[(Ssrc(2), 3), (Ssrc(4), 5)]).expect("space");
    let packet = rtcp_types::PayloadFeedback::parse(&space[..len]).expect("the oracle reads it");
    let fir = packet.parse_fci::<rtcp_types::Fir>().expect("a FIR");
    assert_eq!(fir.entries().map(|entry| (entry.ssrc(), entry.sequence())).collect::<Vec<_>>(), [(2, 3), (4, 5)]);
}

const PASSWORD: &str = "a password of a session";
const TRANSACTION: stun::TransactionId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn credentials() -> MessageIntegrityCredentials {
    ShortTermCredentials::new(PASSWORD.to_owned()).into()
}

fn oracle_transaction() -> stun_types::message::TransactionId {
    let mut bytes = [0; 16];
    bytes[4..].copy_from_slice(&TRANSACTION);
    u128::from_be_bytes(bytes).into()
}

#[test]
fn the_oracle_believes_our_request() {
    let request = stun::Request {
        transaction_id: TRANSACTION,
        remote_ufrag: b"remote",
        local_ufrag: b"me",
        priority: 0x6e7f_1eff,
        role: stun::Role::Controlling(42),
        use_candidate: true,
    };
    let mut space = [0; 256];
    let len = stun::write_request(&mut space, &request, &stun::IntegrityKey::new(PASSWORD.as_bytes())).expect("space");
    let message = Message::from_bytes(&space[..len]).expect("the oracle reads it, FINGERPRINT and all");
    assert!(message.has_class(MessageClass::Request) && message.has_method(BINDING));
    assert_eq!(message.transaction_id(), oracle_transaction());
    assert!(message.validate_integrity(&credentials()).is_ok());
    assert_eq!(message.attribute::<Username>().expect("USERNAME").username(), "remote:me");
    assert_eq!(&message.raw_attribute(0x0024.into()).expect("PRIORITY").value[..], 0x6e7f_1effu32.to_be_bytes());
    assert_eq!(&message.raw_attribute(0x802a.into()).expect("ICE-CONTROLLING").value[..], 42u64.to_be_bytes());
    assert!(message.raw_attribute(0x0025.into()).is_some());
}

#[test]
fn the_oracle_believes_our_answers() {
    let key = stun::IntegrityKey::new(PASSWORD.as_bytes());
    let mut space = [0; 256];
    for address in ["192.0.2.7:49152", "[2001:db8::7]:1"] {
        let address: SocketAddr = address.parse().expect("an address");
        let len = stun::write_success(&mut space, &TRANSACTION, address, &key).expect("space");
        let message = Message::from_bytes(&space[..len]).expect("the oracle reads it");
        assert!(message.has_class(MessageClass::Success));
        assert!(message.validate_integrity(&credentials()).is_ok());
        let mapped = message.attribute::<XorMappedAddress>().expect("XOR-MAPPED-ADDRESS");
        assert_eq!(mapped.addr(message.transaction_id()), address);
    }
    let errors = [stun::ErrorCode::BadRequest, stun::ErrorCode::Unauthenticated, stun::ErrorCode::RoleConflict];
    for error in errors.into_iter().chain([stun::ErrorCode::UnknownAttribute(0x7001)]) {
        let len = stun::write_error(&mut space, &TRANSACTION, error, None).expect("space");
        let message = Message::from_bytes(&space[..len]).expect("the oracle reads it");
        assert!(message.has_class(MessageClass::Error));
        assert_eq!(message.attribute::<ErrorCode>().expect("ERROR-CODE").code(), error.code());
    }
}

#[test]
fn we_believe_the_oracles_messages() {
    let key = stun::IntegrityKey::new(PASSWORD.as_bytes());
    let mut writer = Message::builder_request(BINDING, MessageWriteVec::new());
    writer.add_attribute(&Username::new("remote:me").expect("a user")).expect("space");
    writer.add_attribute(&RawAttribute::new(0x8029.into(), &7u64.to_be_bytes())).expect("space");
    writer.add_message_integrity(&credentials(), IntegrityAlgorithm::Sha1).expect("space");
    writer.add_fingerprint().expect("space");
    let bytes = writer.finish();
    let message = stun::Message::parse(&bytes).expect("a message");
    assert!(message.has_fingerprint() && message.has_integrity(&key));
    assert_eq!(message.ufrags(), Some((&b"remote"[..], &b"me"[..])));
    assert_eq!(message.role, Some(stun::Role::Controlled(7)));

    let request = Message::from_bytes(&bytes).expect("its own message");
    let mut writer = Message::builder_success(&request, MessageWriteVec::new());
    let address: SocketAddr = "[2001:db8::9]:443".parse().expect("an address");
    writer.add_attribute(&XorMappedAddress::new(address, request.transaction_id())).expect("space");
    writer.add_message_integrity(&credentials(), IntegrityAlgorithm::Sha1).expect("space");
    writer.add_fingerprint().expect("space");
    assert_eq!(stun::verify_success(&writer.finish(), &message.transaction_id, &key), Some(address));
}
