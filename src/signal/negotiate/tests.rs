//! Offers of real clients (captured 2026-11, see `tests/fixtures/sdp`), offers broken on purpose, and mutations of both.

use proptest::prelude::*;

use super::*;
use crate::rtp::config::{FecConfig, Feedback, Format};
use crate::units::PayloadType;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sdp/", $name, ".sdp"))
    };
}

const PUBLISHERS: [(&str, &str); 14] = [
    ("chromium", fixture!("chromium-publish")),
    ("chromium h264", fixture!("chromium-publish-h264")),
    ("chromium vp9", fixture!("chromium-publish-vp9")),
    ("chromium av1", fixture!("chromium-publish-av1")),
    ("chromium simulcast", fixture!("chromium-publish-simulcast")),
    ("chromium svc", fixture!("chromium-publish-svc")),
    ("chromium datachannel", fixture!("chromium-publish-datachannel")),
    ("chromium dependency descriptor", fixture!("chromium-publish-dd")),
    ("firefox", fixture!("firefox-publish")),
    ("firefox simulcast", fixture!("firefox-publish-simulcast")),
    ("ffmpeg", fixture!("ffmpeg-publish")),
    ("ffmpeg, dtls_active", fixture!("ffmpeg-publish-dtls-active")),
    ("aiortc", fixture!("aiortc-publish")),
    ("gstreamer", fixture!("gstreamer-publish")),
];
const VIEWERS: [(&str, &str); 4] = [
    ("chromium", fixture!("chromium-watch")),
    ("chromium max-bundle", fixture!("chromium-watch-max-bundle")),
    ("firefox", fixture!("firefox-watch")),
    ("aiortc", fixture!("aiortc-watch")),
];
const CHROMIUM: &str = fixture!("chromium-publish");
const SIMULCAST: &str = fixture!("chromium-publish-simulcast");

fn negotiate(offer: &str, purpose: Purpose) -> Result<Agreed, NegotiateError> {
    negotiate_by(offer, purpose, &CodecPolicy::default())
}

fn negotiate_by(offer: &str, purpose: Purpose, policy: &CodecPolicy) -> Result<Agreed, NegotiateError> {
    let fingerprint = format!("sha-256 {}", ["AB"; 32].join(":"));
    let candidates = ["192.0.2.1:7000".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap()];
    let local = LocalTransport {
        ufrag: "abcdefgh",
        pwd: "abcdefghijklmnopqrstuvwx",
        fingerprint: &fingerprint,
        candidates: &candidates,
        tcp_port: None,
        session_id: 77,
        cname: "room",
    };
    let mut ssrc = 1000;
    answer(offer, purpose, &local, &mut || (ssrc += 1, ssrc).1, policy)
}

fn publish(offer: &str) -> Agreed {
    negotiate(offer, Purpose::Publish).unwrap_or_else(|error| panic!("{error}"))
}
fn refused(offer: &str) -> NegotiateError {
    negotiate(offer, Purpose::Publish).expect_err("must be refused")
}
fn lines<'a>(sdp: &'a str, prefix: &str) -> Vec<&'a str> {
    sdp.lines().filter(|line| line.starts_with(prefix)).collect()
}
/// `offer` without its lines that begin with `prefix`.
fn without(offer: &str, prefix: &str) -> String {
    offer.split_inclusive('\n').filter(|line| !line.starts_with(prefix)).collect()
}
/// The audio m-line, and no other, of an offer.
fn audio_only(offer: &str) -> String {
    let end = offer.find("m=video").unwrap();
    offer[..end].replace("BUNDLE 0 1", "BUNDLE 0")
}

/// What every answer must be, whatever the offer.
fn check_invariants(offer: &str, purpose: Purpose, agreed: &Agreed) {
    let session = sdp_types::Session::parse(agreed.answer.as_bytes()).expect("the answer parses");
    let offered = sdp_types::Session::parse(offer.as_bytes()).unwrap();
    assert_eq!(session.medias.len(), offered.medias.len());
    let open: Vec<_> = session.medias.iter().filter(|media| media.port != 0).collect();
    assert_eq!(open.len(), agreed.media.len());
    assert_eq!(agreed.bundle.len(), agreed.media.len());
    assert!(!agreed.media.is_empty());
    let group = format!("a=group:BUNDLE {}", agreed.bundle.iter().map(Mid::as_str).collect::<Vec<_>>().join(" "));
    assert_eq!(lines(&agreed.answer, "a=group:"), [group]);
    assert_eq!(lines(&agreed.answer, "a=ice-lite").len(), 1);
    assert_eq!(lines(&agreed.answer, "a=candidate:").len(), 2);
    assert_eq!(lines(&agreed.answer, "a=end-of-candidates").len(), 1);
    assert_eq!(lines(&agreed.answer, "a=rtcp-mux").len(), open.len());
    for (line, config) in open.iter().zip(&agreed.media) {
        assert_eq!(line.get_first_attribute_value("mid"), Some(Some(config.mid.as_str())));
        assert!(!config.codecs.is_empty());
        let numbers: Vec<u8> = line.fmt.split(' ').map(|number| number.parse().unwrap()).collect();
        let expected = config.codecs.iter().flat_map(|codec| [codec.red, Some(codec.payload_type), codec.rtx]);
        let fec = config.fec.iter().flat_map(FecConfig::payload_types);
        assert_eq!(numbers, expected.flatten().chain(fec).map(|payload_type| payload_type.0).collect::<Vec<_>>());
        match purpose {
            Purpose::Publish => {
                assert_eq!(config.codecs.len(), 1);
                assert_eq!((config.direction, config.local_stream), (Direction::RecvOnly, None));
                assert!(config.rids.is_empty() || config.remote_streams.is_empty());
            }
            Purpose::Watch => {
                assert_eq!(config.direction, Direction::SendOnly);
                assert!(config.local_stream.is_some());
                // What is numbered is never repeated but by RTX (see `stream::settle_feedback`).
                let numbered = config.extensions.id(ExtensionKind::TransportSequence).is_some();
                assert!(config.codecs.iter().all(|codec| codec.feedback.transport_cc == numbered));
                let told = numbered || config.codecs.iter().any(|codec| codec.feedback.ccfb);
                assert!(!told || config.codecs.iter().all(|codec| codec.rtx.is_some() || !codec.feedback.nack));
            }
        }
        let extmaps = line.attributes.iter().filter(|attribute| attribute.attribute == "extmap").count();
        let known = ExtensionKind::ALL.into_iter().filter(|kind| config.extensions.id(*kind).is_some()).count();
        assert_eq!(extmaps, known);
    }
    assert!(!agreed.fingerprints.is_empty() && agreed.remote_ufrag.len() >= 4 && agreed.remote_pwd.len() >= 22);
    assert!(agreed.remote_candidates.len() <= limits::CANDIDATES_MAX);
}

#[test]
fn every_publisher_seen_is_accepted_with_audio_and_video() {
    for (name, offer) in PUBLISHERS {
        let agreed = negotiate(offer, Purpose::Publish).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_invariants(offer, Purpose::Publish, &agreed);
        let mut kinds: Vec<_> = agreed.media.iter().map(|media| media.kind).collect();
        kinds.sort_by_key(|kind| *kind == MediaKind::Video); // GStreamer puts video first
        assert_eq!(kinds, [MediaKind::Audio, MediaKind::Video], "{name}");
    }
}

#[test]
fn every_viewer_seen_is_accepted_with_audio_and_video() {
    for (name, offer) in VIEWERS {
        let agreed = negotiate(offer, Purpose::Watch).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_invariants(offer, Purpose::Watch, &agreed);
        assert_eq!(agreed.media.len(), 2, "{name}");
        // aiortc knows nothing else than REMB.
        let kinds = ["transport-cc", "goog-remb"].map(|kind| agreed.answer.contains(kind));
        assert_eq!(kinds, [name != "aiortc", name == "aiortc"], "{name}");
    }
}

#[test]
fn what_is_repeated_without_rtx_gets_no_transport_wide_numbers() {
    let chromium = VIEWERS[0].1;
    let numbers = |offer: &str| {
        let agreed = negotiate(offer, Purpose::Watch).unwrap();
        check_invariants(offer, Purpose::Watch, &agreed);
        let numbered: Vec<_> =
            agreed.media.iter().map(|media| media.extensions.id(ExtensionKind::TransportSequence).is_some()).collect();
        (numbered, agreed)
    };
    assert_eq!(numbers(chromium).0, [true, true]);
    let no_rtx: String = chromium.split_inclusive('\n').filter(|line| !line.contains("apt=")).collect();
    let (numbered, agreed) = numbers(&no_rtx);
    assert_eq!(numbered, [true, false], "NACK without RTX");
    assert!(agreed.media[1].codecs.iter().all(|codec| codec.feedback.nack));
    let no_nack: String = no_rtx.split_inclusive('\n').filter(|line| !line.contains(" nack")).collect();
    assert_eq!(numbers(&no_nack).0, [true, true], "nothing is repeated");
    let some: String = chromium.split_inclusive('\n').filter(|line| !line.contains("apt=98")).collect();
    let (numbered, agreed) = numbers(&some);
    assert_eq!(numbered, [true, true]);
    let lost: Vec<_> =
        agreed.media[1].codecs.iter().filter(|codec| !codec.feedback.nack).map(|codec| codec.payload_type.0).collect();
    assert_eq!(lost, [98], "a codec without RTX beside others with it");
    let neither = without(chromium, "a=extmap:3 ");
    let (numbered, agreed) = numbers(&neither);
    assert_eq!(numbered, [false, false]);
    assert!(agreed.answer.contains("goog-remb") && !agreed.answer.contains("transport-cc"));
}

/// RFC 8888 §6.
#[test]
fn congestion_control_feedback_is_agreed_where_transport_wide_feedback_is_not() {
    let chromium = VIEWERS[0].1;
    let wild = |offer: &str| offer.replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=rtcp-fb:* ack ccfb\r\n");
    let agreed = |offer: &str| {
        let agreed = negotiate(offer, Purpose::Watch).unwrap();
        check_invariants(offer, Purpose::Watch, &agreed);
        let by_stream: Vec<_> = agreed.media.iter().map(|media| media.codecs.iter().all(|codec| codec.feedback.ccfb)).collect();
        assert_eq!(lines(&agreed.answer, "a=rtcp-fb:* ack ccfb").len(), by_stream.iter().filter(|by| **by).count());
        assert_eq!(agreed.answer.matches("ccfb").count(), by_stream.iter().filter(|by| **by).count());
        (by_stream, agreed)
    };
    assert_eq!(agreed(chromium).0, [false, false], "not offered");
    let (by_stream, both) = agreed(&wild(chromium));
    assert_eq!(by_stream, [false, false]);
    assert!(both.answer.contains("transport-cc"), "of both, the one that is known");
    // No numbers can be written, or nobody tells of them.
    for lacks in ["a=extmap:3 ", "transport-cc"] {
        let offer: String = chromium.split_inclusive('\n').filter(|line| !line.contains(lacks)).collect();
        let (by_stream, one) = agreed(&wild(&offer));
        assert_eq!(by_stream, [true, true], "{lacks}");
        assert!(!one.answer.contains("transport-") && !one.answer.contains("goog-remb"));
        let no_rtx: String = offer.split_inclusive('\n').filter(|line| !line.contains("apt=")).collect();
        let (by_stream, one) = agreed(&wild(&no_rtx));
        assert_eq!(by_stream, [true, false], "what is sent again under its old number would be told of twice");
        assert!(one.media[1].codecs.iter().all(|codec| codec.feedback.nack));
    }
    // As Pion offers it: of each payload type.
    let each: String = chromium.split_inclusive('\n').map(|line| line.replace(" transport-cc", " ack ccfb")).collect();
    assert_eq!(agreed(&each).0, [true, true]);
    let policy = CodecPolicy::default().estimating(false);
    assert!(!negotiate_by(&wild(chromium), Purpose::Watch, &policy).unwrap().answer.contains("ccfb"));
    assert!(!publish(&wild(CHROMIUM)).answer.contains("ccfb"), "publishers are told as before");
}

#[test]
fn ulpfec_is_agreed_on_for_video_that_can_be_protected() {
    let chromium = VIEWERS[0].1;
    let fec = |offer: &str| {
        let agreed = negotiate(offer, Purpose::Watch).unwrap();
        check_invariants(offer, Purpose::Watch, &agreed);
        let of: Vec<_> = agreed.media.iter().map(|media| media.fec.map(|fec| (fec.red.0, fec.ulpfec.0))).collect();
        assert_eq!(agreed.answer.contains("ulpfec"), of.iter().any(Option::is_some));
        (of, agreed.answer)
    };
    let numbers = |name: &str| {
        let line = chromium.lines().find(|line| line.starts_with("a=rtpmap:") && line.contains(name)).expect("offered");
        line["a=rtpmap:".len()..].split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let (red, ulpfec): (u8, u8) = (numbers(" red/90000"), numbers(" ulpfec/90000"));
    let (of, answer) = fec(chromium);
    assert_eq!(of, [None, Some((red, ulpfec))]);
    let lines = format!("a=rtpmap:{red} red/90000\r\na=rtpmap:{ulpfec} ulpfec/90000\r\n");
    assert!(answer.contains(&lines), "{answer}");
    let video = answer.lines().find(|line| line.starts_with("m=video")).expect("video");
    assert!(video.ends_with(&format!(" {red} {ulpfec}")), "{video}");
    for missing in ["ulpfec/90000", " red/90000", "apt=", "transport-cc", "VP8/90000\nVP9/90000"] {
        let missing: Vec<_> = missing.split('\n').collect();
        let offer: String =
            chromium.split_inclusive('\n').filter(|line| !missing.iter().any(|missing| line.contains(missing))).collect();
        assert_eq!(fec(&offer).0, [None, None], "without {missing:?}");
    }
}

/// A publisher that may send all its video in RED has to be able to repeat that.
#[test]
fn a_publishers_ulpfec_is_agreed_on_with_its_retransmission() {
    let chromium = CHROMIUM.to_owned();
    let fec = |offer: &str| {
        let agreed = publish(offer);
        check_invariants(offer, Purpose::Publish, &agreed);
        let fec = agreed.media.iter().find_map(|media| media.fec);
        assert_eq!(agreed.answer.contains("ulpfec"), fec.is_some());
        (fec, agreed.answer)
    };
    let (agreed, answer) = fec(&chromium);
    let FecConfig { red, ulpfec, red_rtx } = agreed.expect("Chromium offers it");
    let (red, ulpfec, rtx) = (red.0, ulpfec.0, red_rtx.expect("and its retransmission").0);
    let lines = format!(
        "a=rtpmap:{red} red/90000\r\na=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={red}\r\na=rtpmap:{ulpfec} ulpfec/90000\r\n"
    );
    assert!(answer.contains(&lines), "{answer}");
    let apt = format!("apt={red}\r");
    for missing in ["ulpfec/90000", " red/90000", apt.as_str()] {
        let offer: String = chromium.split_inclusive('\n').filter(|line| !line.contains(missing)).collect();
        assert_eq!(fec(&offer).0, None, "without {missing:?}");
    }
}

#[test]
fn estimation_can_be_switched_off() {
    for (name, offer) in VIEWERS {
        let agreed = negotiate_by(offer, Purpose::Watch, &CodecPolicy::default().estimating(false)).unwrap();
        check_invariants(offer, Purpose::Watch, &agreed);
        assert!(!agreed.answer.contains("transport-") && !agreed.answer.contains("goog-remb"), "{name}");
        assert!(agreed.answer.contains(" nack"), "{name}");
    }
    let agreed = negotiate_by(CHROMIUM, Purpose::Publish, &CodecPolicy::default().estimating(false)).unwrap();
    assert!(agreed.answer.contains("transport-cc"), "publishers are told as before");
}

#[test]
fn a_publisher_gets_the_codec_it_prefers() {
    let video = |offer| publish(offer).media[1].codecs[0];
    assert_eq!(video(CHROMIUM).codec, Codec::Vp8);
    assert_eq!(video(fixture!("chromium-publish-vp9")).format, Format::Profile(0));
    assert_eq!(video(fixture!("chromium-publish-av1")).codec, Codec::Av1);
    let h264 = video(fixture!("chromium-publish-h264"));
    assert_eq!(h264.format, Format::H264 { profile_idc: 0x42, profile_iop: 0, packetization_mode: 1 });
    assert_eq!(h264.feedback, Feedback { nack: true, pli: true, fir: true, transport_cc: true, ..Feedback::default() });
    assert!(h264.rtx.is_some());
    let answer = publish(fixture!("chromium-publish-h264")).answer;
    assert_eq!(lines(&answer, "a=fmtp:102"), ["a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f"]);
}

#[test]
fn a_track_is_sent_in_the_codec_that_was_said_outside_of_sdp() {
    let named = |codec| Described { name: "d1052ef2-ab16-4f72-929e-c1acafd8d158".into(), plain: false, codec: Some(codec) };
    let (ufrag, pwd, fingerprint, cname) = ("u", "p", "f", "c");
    let local = LocalTransport { ufrag, pwd, fingerprint, candidates: &[], tcp_port: None, session_id: 1, cname };
    let video = |described: &[Described]| {
        let mut assign = |media: &[MediaConfig], _: &[Option<String>]| vec![None; media.len()];
        let standing = Standing { previous: &[], described, assign: &mut assign };
        let agreed = answer_further(CHROMIUM, Ways::Each, &local, &mut || 1, &CodecPolicy::default(), standing).unwrap();
        let video = agreed.media.iter().find(|media| media.kind == MediaKind::Video).unwrap();
        assert_eq!(video.codecs.len(), 1);
        video.codecs[0].codec
    };
    assert_eq!(video(&[]), Codec::Vp8);
    assert_eq!(video(&[named(Codec::Av1)]), Codec::Av1);
    assert_eq!(video(&[named(Codec::Vp9)]), Codec::Vp9);
    assert_eq!(video(&[named(Codec::Opus)]), Codec::Vp8, "not offered");
    assert_eq!(video(&[Described { name: "another".into(), ..named(Codec::Av1) }]), Codec::Vp8);
}

#[test]
fn policy_limits_the_codecs() {
    let local = LocalTransport {
        ufrag: "u",
        pwd: "p",
        fingerprint: "f",
        candidates: &[],
        tcp_port: None,
        session_id: u64::MAX,
        cname: "c",
    };
    let only = |codecs: &[Codec]| answer(CHROMIUM, Purpose::Publish, &local, &mut || 1, &CodecPolicy::new(codecs.iter().copied()));
    let agreed = only(&[Codec::Opus, Codec::Av1]).unwrap();
    assert_eq!(agreed.media[1].codecs[0].codec, Codec::Av1);
    assert!(agreed.answer.contains("o=- 9223372036854775807 1 IN IP4 127.0.0.1\r\n"));
    assert!(agreed.answer.contains("m=audio 9 "));
    let error = only(&[Codec::Opus]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unprocessable);
    assert!(error.to_string().contains("m-line 2 (video) offers VP8, rtx, H264"), "{error}");
}

#[test]
fn simulcast_is_answered_in_the_offers_order() {
    let agreed = publish(SIMULCAST);
    assert_eq!(lines(&agreed.answer, "a=rid:"), ["a=rid:q recv", "a=rid:h recv", "a=rid:f recv"]);
    assert_eq!(lines(&agreed.answer, "a=simulcast:"), ["a=simulcast:recv q;h;f"]);
    let video = &agreed.media[1];
    assert_eq!(video.rids.iter().map(|rid| rid.as_str()).collect::<Vec<_>>(), ["q", "h", "f"]);
    assert!(video.extensions.id(ExtensionKind::Rid).is_some() && video.extensions.id(ExtensionKind::RepairedRid).is_some());
    assert!(publish(fixture!("firefox-publish-simulcast")).media[1].remote_streams.is_empty());
}

#[test]
fn rid_restrictions_order_the_layers_and_are_repeated() {
    let offer = SIMULCAST
        .replace("a=rid:q send", "a=rid:q send pt=96;max-width=320;max-height=180;unknown=1")
        .replace("a=rid:h send", "a=rid:h send max-width=640;max-height=360")
        .replace("a=rid:f send", "a=rid:f send max-width=1280;max-height=720")
        .replace("send q;h;f", "send ~q;h,f;f");
    let agreed = publish(&offer);
    assert_eq!(agreed.media[1].rids.iter().map(|rid| rid.as_str()).collect::<Vec<_>>(), ["f", "h", "q"]);
    assert_eq!(lines(&agreed.answer, "a=rid:q"), ["a=rid:q recv pt=96;max-width=320;max-height=180"]);
    // A rid for another payload type only is not received.
    let agreed = publish(&offer.replace("pt=96", "pt=98,100"));
    assert_eq!(lines(&agreed.answer, "a=simulcast:"), ["a=simulcast:recv h;f"]);
}

#[test]
fn extension_directions_are_reversed() {
    let agreed = publish(fixture!("firefox-publish-simulcast"));
    let rid = lines(&agreed.answer, "a=extmap:9");
    assert_eq!(rid, ["a=extmap:9/recvonly urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"]);
    // Offered as recvonly: a publisher does not send it.
    assert_eq!(agreed.media[1].extensions.id(ExtensionKind::PlayoutDelay), None);
}

#[test]
fn ffmpeg_is_answered_active_and_keeps_its_unannounced_rtx() {
    let agreed = publish(fixture!("ffmpeg-publish"));
    assert_eq!(agreed.dtls_role, DtlsRole::Client);
    assert_eq!(lines(&agreed.answer, "a=setup:"), ["a=setup:active"; 2]);
    assert!(agreed.media[1].remote_streams[0].rtx.is_some());
    assert!(agreed.remote_candidates.is_empty());
    assert_eq!(publish(fixture!("ffmpeg-publish-dtls-active")).dtls_role, DtlsRole::Server);
}

#[test]
fn setup_roles() {
    for (offered, role) in [("actpass", DtlsRole::Server), ("active", DtlsRole::Server), ("passive", DtlsRole::Client)] {
        assert_eq!(publish(&CHROMIUM.replace("setup:actpass", &format!("setup:{offered}"))).dtls_role, role);
    }
    assert_eq!(publish(&without(CHROMIUM, "a=setup")).dtls_role, DtlsRole::Server);
    let error = refused(&CHROMIUM.replace("setup:actpass", "setup:holdconn"));
    assert_eq!(error, NegotiateError::BadSetup { value: "holdconn".into() });
}

#[test]
fn data_channels_are_rejected_alone() {
    let agreed = publish(fixture!("chromium-publish-datachannel"));
    assert_eq!(lines(&agreed.answer, "m=application"), ["m=application 0 UDP/DTLS/SCTP webrtc-datachannel"]);
    assert_eq!(lines(&agreed.answer, "a=group"), ["a=group:BUNDLE 0 1"]);
}

#[test]
fn viewers_get_ssrcs_and_one_stream() {
    let agreed = negotiate(VIEWERS[0].1, Purpose::Watch).unwrap();
    let [audio, video] = agreed.media.as_slice() else { panic!() };
    assert_eq!(audio.local_stream, Some(StreamPair { media: Ssrc(1001), rtx: None }));
    assert_eq!(video.local_stream, Some(StreamPair { media: Ssrc(1002), rtx: Some(Ssrc(1003)) }));
    assert_eq!(lines(&agreed.answer, "a=ssrc-group:"), ["a=ssrc-group:FID 1002 1003"]);
    assert_eq!(lines(&agreed.answer, "a=msid:"), ["a=msid:room room-audio", "a=msid:room room-video"]);
    let codecs: Vec<_> = video.codecs.iter().map(|codec| codec.codec).collect();
    for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
        assert!(codecs.contains(&codec));
    }
}

#[test]
fn many_profiles_push_out_no_codec() {
    let mut offer = String::from(&CHROMIUM[..CHROMIUM.find("m=video").unwrap()]);
    let numbers: Vec<u8> = (0..20).chain([127]).collect();
    let list: Vec<String> = numbers.iter().map(u8::to_string).collect();
    offer += &format!("m=video 9 UDP/TLS/RTP/SAVPF {}\r\na=mid:1\r\na=rtcp-mux\r\na=recvonly\r\n", list.join(" "));
    for number in 0..20 {
        offer += &format!("a=rtpmap:{number} H264/90000\r\na=fmtp:{number} profile-level-id=4200{number:02x}\r\n");
    }
    offer += "a=rtpmap:127 AV1/90000\r\n";
    let agreed = negotiate(&offer, Purpose::Watch).unwrap();
    let codecs = &agreed.media[0].codecs;
    assert_eq!((codecs.len(), codecs[15].codec), (16, Codec::Av1));
    assert_eq!(lines(&agreed.answer, "m=audio"), ["m=audio 0 UDP/TLS/RTP/SAVPF 111"]);
}

#[test]
fn missing_parts_are_named() {
    let kinds = |error: NegotiateError| error.kind().status();
    let cases: [(&str, u16, &str); 7] = [
        ("a=group", 422, "a=group:BUNDLE"),
        ("a=rtcp-mux", 422, "m-line 1 (audio) has no a=rtcp-mux"),
        ("a=mid", 400, "m-line 1 (audio) has no a=mid"),
        ("a=ice-ufrag", 400, "a=ice-ufrag"),
        ("a=ice-pwd", 400, "a=ice-pwd"),
        ("a=fingerprint", 400, "a=fingerprint"),
        ("a=rtpmap", 422, "no codec with an a=rtpmap"),
    ];
    for (prefix, status, text) in cases {
        let error = refused(&without(CHROMIUM, prefix));
        assert!(error.to_string().contains(text), "{prefix}: {error}");
        assert_eq!(kinds(error), status, "{prefix}");
    }
    assert_eq!(refused(&CHROMIUM.replace("t=0 0", "t=0 0\r\na=ice-lite")), NegotiateError::BothIceLite);
    assert_eq!(refused(&CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0")).kind(), ErrorKind::Unprocessable);
    assert_eq!(refused(&CHROMIUM.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP")).kind(), ErrorKind::Unprocessable);
    assert_eq!(refused(&CHROMIUM.replace("a=mid:1", "a=mid:0")), NegotiateError::DuplicateMid { mid: "0".into() });
    assert!(matches!(refused(&CHROMIUM.replace("a=mid:1", "a=mid:12345678901234567")), NegotiateError::BadMid { .. }));
    assert!(matches!(refused("{\"sdp\":\"v=0\"}"), NegotiateError::NotSdp { .. }));
    assert!(matches!(refused(""), NegotiateError::NotSdp { .. }));
    assert!(matches!(refused("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"), NegotiateError::NoSections));
    let sha1 = CHROMIUM.replace("fingerprint:sha-256", "fingerprint:sha-1");
    assert_eq!(refused(&sha1), NegotiateError::UnusableFingerprint);
    assert!(matches!(refused(&CHROMIUM.replace("a=ice-ufrag:", "a=ice-ufrag:?")), NegotiateError::BadIceCredentials { .. }));
}

#[test]
fn directions_must_suit_the_purpose() {
    assert!(matches!(negotiate(CHROMIUM, Purpose::Watch), Err(NegotiateError::WrongDirection { offered: "sendonly", .. })));
    assert!(matches!(negotiate(VIEWERS[0].1, Purpose::Publish), Err(NegotiateError::WrongDirection { offered: "recvonly", .. })));
    // One m-line the wrong way round is rejected, the other serves; the transport is found all the same.
    let offer = CHROMIUM.replacen("a=sendonly", "a=inactive", 1);
    let agreed = publish(&offer);
    check_invariants(&offer, Purpose::Publish, &agreed);
    assert_eq!(agreed.bundle[0].as_str(), "1");
    assert_eq!(publish(&CHROMIUM.replace("a=sendonly", "a=sendrecv")).media.len(), 2);
    assert_eq!(refused(&CHROMIUM.replace("m=audio", "m=text").replace("m=video", "m=image")), NegotiateError::NothingToReceive);
}

#[test]
fn a_second_track_is_refused_for_publishers_and_left_out_for_viewers() {
    let double = |offer: &str| {
        let video = offer[offer.find("m=video").unwrap()..].replace("a=mid:1", "a=mid:2");
        format!("{offer}{video}").replace("BUNDLE 0 1", "BUNDLE 0 1 2")
    };
    assert!(matches!(refused(&double(CHROMIUM)), NegotiateError::SecondTrack { section } if section.number == 3));
    let agreed = negotiate(&double(VIEWERS[0].1), Purpose::Watch).unwrap();
    assert_eq!(agreed.media.len(), 2);
    assert_eq!(lines(&agreed.answer, "m=video 0 ").len(), 1);
}

#[test]
fn numbers_shared_by_two_streams_are_refused() {
    let offer = CHROMIUM.replace("SAVPF 111", "SAVPF 96").replace(":111 ", ":96 ");
    assert_eq!(refused(&offer), NegotiateError::PayloadTypeConflict { payload_type: 96 });
    let ssrc = publish(CHROMIUM).media[1].remote_streams[0].media.0;
    let offer = format!("{}a=ssrc:{ssrc} cname:x\r\n{}", audio_only(CHROMIUM), &CHROMIUM[CHROMIUM.find("m=video").unwrap()..])
        .replace("BUNDLE 0", "BUNDLE 0 1");
    assert_eq!(refused(&offer), NegotiateError::DuplicateSsrc { ssrc });
    let same_pair = format!("{CHROMIUM}a=ssrc-group:FID 5 5\r\n");
    assert_eq!(refused(&same_pair), NegotiateError::DuplicateSsrc { ssrc: 5 });
}

#[test]
fn the_dependency_descriptor_is_taken_where_it_can_be_used() {
    let id = |offer: &str| {
        let agreed = publish(offer);
        let id = agreed.media[1].extensions.id(ExtensionKind::DependencyDescriptor);
        assert_eq!(agreed.answer.contains(ExtensionKind::DependencyDescriptor.uri()), id.is_some());
        id
    };
    let av1 = fixture!("chromium-publish-dd");
    assert_eq!(id(av1), Some(9));
    assert_eq!(id(fixture!("chromium-publish-svc")), None, "VP9 tells its layers in the payload");
    assert_eq!(id(SIMULCAST), None, "VP8 would say less in its own descriptor");
    assert_eq!(id(&without(av1, "a=extmap-allow-mixed")), None, "longer than a one-byte element");
    assert_eq!(id(CHROMIUM), None, "not offered");
    let watching = |offer: &str| {
        let agreed = negotiate(offer, Purpose::Watch).expect("an answer");
        agreed.media.iter().find_map(|media| media.extensions.id(ExtensionKind::DependencyDescriptor))
    };
    let viewer = av1.replace("a=sendonly", "a=recvonly");
    assert_eq!(watching(&viewer), Some(9));
    let no_rtx: String = viewer.split_inclusive('\n').filter(|line| !line.contains("apt=")).collect();
    assert_eq!(watching(&no_rtx), None, "it would have to be repeated as it was");
}

#[test]
fn contradicting_extension_ids_are_left_out() {
    let video = CHROMIUM.find("m=video").unwrap();
    let offer = format!("{}{}", &CHROMIUM[..video], CHROMIUM[video..].replace("a=extmap:4 ", "a=extmap:1 "));
    let agreed = publish(&offer);
    assert_eq!(agreed.media[0].extensions.id(ExtensionKind::Mid), Some(4));
    assert_eq!(agreed.media[1].extensions.id(ExtensionKind::Mid), None);
    let agreed = publish(&CHROMIUM.replace("a=extmap:4 ", "a=extmap:15 "));
    assert_eq!(agreed.media[0].extensions.id(ExtensionKind::Mid), None);
}

#[test]
fn opus_parameters_are_repeated() {
    let offer =
        CHROMIUM.replace("minptime=10;useinbandfec=1", "minptime=10; useinbandfec=1;stereo=1;usedtx=1;x-foo=a;maxaveragebitrate=x");
    assert_eq!(lines(&publish(&offer).answer, "a=fmtp:111"), ["a=fmtp:111 minptime=10;useinbandfec=1;stereo=1;usedtx=1"]);
}

#[test]
fn of_sound_alone_no_path_is_estimated() {
    for (name, offer) in VIEWERS {
        // What a viewer offers who wants no picture.
        let (audio, _) = offer.split_once("m=video").unwrap();
        let audio = audio.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0");
        let agreed = negotiate(&audio, Purpose::Watch).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_invariants(&audio, Purpose::Watch, &agreed);
        let feedback = agreed.media[0].codecs[0].feedback;
        assert!(!feedback.transport_cc && !feedback.ccfb && !feedback.remb, "{name}: {feedback:?}");
        assert!(!agreed.answer.contains("transport-"), "{name}: {}", agreed.answer);
        assert_eq!(agreed.media[0].codecs[0].red.is_some(), offer.contains("a=rtpmap:63 red/48000/2"), "{name}");
    }
    assert!(negotiate(VIEWERS[0].1, Purpose::Watch).unwrap().media[0].codecs[0].feedback.transport_cc, "beside a picture it is");
}

#[test]
fn sound_is_redundant_where_it_is_offered() {
    for (name, offer) in VIEWERS {
        let audio = negotiate(offer, Purpose::Watch).unwrap().media[0].codecs[0];
        let red = offer.contains("a=rtpmap:63 red/48000/2").then_some(PayloadType(63));
        assert_eq!(audio.red, red, "{name}");
    }
    let offer = VIEWERS[0].1.replace("a=rtcp-fb:111 transport-cc", "a=rtcp-fb:111 nack");
    let red = |offer: &str| {
        let agreed = negotiate(offer, Purpose::Watch).unwrap();
        check_invariants(offer, Purpose::Watch, &agreed);
        (agreed.media[0].codecs[0].red, agreed.media[0].codecs[0].feedback.nack, agreed.answer)
    };
    let (with, nack, answer) = red(&offer);
    assert_eq!((with, nack), (Some(PayloadType(63)), false), "what changes from one sending to the next is not repeated");
    assert_eq!(lines(&answer, "a=rtpmap:63"), ["a=rtpmap:63 red/48000/2"]);
    assert_eq!(lines(&answer, "a=fmtp:63"), ["a=fmtp:63 111/111"]);
    assert!(lines(&answer, "m=audio")[0].ends_with(" 63 111"));
    for other in ["a=fmtp:63 0/111", "a=fmtp:63 111/x", "a=fmtp:63 ", "a=fmtp:99 111/111"] {
        let (with, nack, answer) = red(&offer.replace("a=fmtp:63 111/111", other));
        assert_eq!((with, nack, answer.contains(" red/48000")), (None, true, false), "{other}");
    }
    let agreed = publish(CHROMIUM);
    assert_eq!(agreed.media[0].codecs[0].red, Some(PayloadType(63)));
    assert!(lines(&agreed.answer, "m=audio")[0].ends_with(" 63 111"), "Chromium repeats itself only where that comes first");
    let plain = publish(&CHROMIUM.replace("a=fmtp:63 111/111", "a=fmtp:63 0/111"));
    assert_eq!((plain.media[0].codecs[0].red, plain.answer.contains(" red/48000")), (None, false));
}

#[test]
fn static_and_rtcp_payload_types_are_not_used() {
    let offer =
        audio_only(CHROMIUM).replace("SAVPF 111", "SAVPF 72 111").replace("a=rtpmap:63", "a=rtpmap:72 opus/48000/2\r\na=rtpmap:63");
    assert_eq!(publish(&offer).media[0].codecs[0].payload_type, PayloadType(111));
    let error = refused(&CHROMIUM.replace("SAVPF 111", "SAVPF 128 111"));
    assert!(matches!(error, NegotiateError::BadPayloadType { text, .. } if text == "128"));
}

#[test]
fn floods_are_bounded() {
    let error = refused(&"a".repeat(1 << 20));
    assert_eq!((error.kind(), error.kind().status()), (ErrorKind::TooLarge, 413));
    let many = format!("{CHROMIUM}{}", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n".repeat(1000));
    assert!(matches!(refused(&many), NegotiateError::TooManySections { count: 1002 }));
    let candidates: String =
        (0..1100).map(|n| format!("a=candidate:1 1 udp 1 10.0.{}.{} 9000 typ host\r\n", n / 256, n % 256)).collect();
    assert_eq!(publish(&format!("{CHROMIUM}{candidates}")).remote_candidates.len(), limits::CANDIDATES_MAX);
    let list = " 96 97".repeat(8000);
    publish(&CHROMIUM.replace("SAVPF 96", &format!("SAVPF 96{list}")));
}

#[test]
fn fragments_are_read_and_written() {
    let body = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:EsAw\r\n\
                a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0\r\n\
                a=candidate:1 1 udp 1 f8a0e8ce-1c77-41a4-bc0c-9dc3c5e5ae8e.local 5 typ host\r\n\
                a=candidate:3471623853 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\na=end-of-candidates\r\n";
    let fragment = parse_fragment(body).unwrap();
    assert_eq!(fragment.ufrag.as_deref(), Some("EsAw"));
    assert_eq!(fragment.mid.as_deref(), Some("0"));
    assert_eq!(fragment.candidates, ["192.0.2.1:61764".parse::<std::net::SocketAddr>().unwrap()]);
    assert!(fragment.end_of_candidates);
    assert_eq!(parse_fragment("").unwrap(), IceFragment::default());
    assert!(parse_fragment("{}").is_err());
    assert_eq!(parse_fragment("a=ice-ufrag:EsAw\r\n"), Err(NegotiateError::MissingIceCredentials));
    let candidates = ["[2001:db8::1]:7000".parse().unwrap(), "192.0.2.1:7000".parse().unwrap()];
    let local = LocalTransport {
        ufrag: "abcdefgh",
        pwd: "abcdefghijklmnopqrstuvwx",
        fingerprint: "",
        candidates: &candidates,
        tcp_port: None,
        session_id: 0,
        cname: "",
    };
    let text = restart_fragment(&local, "audio", "0");
    let read = parse_fragment(&text).unwrap();
    assert_eq!(read.candidates, candidates);
    assert!(read.end_of_candidates && text.starts_with("a=ice-lite\r\n"));
    assert_eq!((read.ufrag.as_deref(), read.pwd.as_deref()), (Some(local.ufrag), Some(local.pwd)));
}

/// Changes of one line of an offer: what attackers and half-finished clients send.
fn mutate(offer: &str, edits: &[(prop::sample::Index, u8, prop::sample::Index, String)]) -> String {
    let mut lines: Vec<String> = offer.lines().map(str::to_owned).collect();
    for (at, edit, other, text) in edits {
        if lines.is_empty() {
            break;
        }
        let (index, other) = (at.index(lines.len()), other.index(lines.len()));
        match edit % 6 {
            0 => drop(lines.remove(index)),
            1 => lines.insert(other, lines[index].clone()),
            2 => lines.swap(index, other),
            3 => {
                let cut = lines[index].char_indices().map(|(n, _)| n).nth(text.len()).unwrap_or(0);
                lines[index].truncate(cut);
            }
            4 => {
                // Another number in the place of each one of the line.
                let number = text.len().pow(3).to_string();
                lines[index] = lines[index]
                    .split(' ')
                    .map(|w| if w.parse::<u32>().is_ok() { &number } else { w })
                    .collect::<Vec<_>>()
                    .join(" ");
            }
            _ => lines[index] = format!("{}{text}", lines[index].split_inclusive([':', '=']).take(2).collect::<String>()),
        }
    }
    lines.join("\r\n") + "\r\n"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mutated_offers_never_panic(
        which in 0..PUBLISHERS.len() + VIEWERS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>(), "[ -~é]{0,24}"), 0..12),
    ) {
        let (_, offer) = PUBLISHERS.iter().chain(&VIEWERS).nth(which).unwrap();
        let offer = mutate(offer, &edits);
        for purpose in [Purpose::Publish, Purpose::Watch] {
            match negotiate(&offer, purpose) {
                Ok(agreed) => check_invariants(&offer, purpose, &agreed),
                Err(error) => prop_assert!(error.to_string().len() < 800),
            }
        }
        let _ = parse_fragment(&offer);
    }

    #[test]
    fn any_text_never_panics(text in "(?s).{0,400}") {
        let _ = negotiate(&text, Purpose::Publish);
        let _ = parse_fragment(&text);
    }
}

/// RFC 6544 §4.5 gives the line's form; its priorities must not be above UDP's.
#[test]
fn tcp_candidates_follow_those_of_udp() {
    let candidates: [SocketAddr; 2] = ["192.0.2.1:7882".parse().unwrap(), "[2001:db8::1]:7882".parse().unwrap()];
    let local = LocalTransport {
        ufrag: "u",
        pwd: "p",
        fingerprint: "f",
        candidates: &candidates,
        tcp_port: Some(7881),
        session_id: 1,
        cname: "c",
    };
    let mut attributes = Vec::new();
    super::write::write_transport(&mut super::write::Lines(&mut attributes), true, &local, "passive");
    let lines: Vec<Vec<String>> = attributes
        .iter()
        .filter(|attribute| attribute.attribute == "candidate")
        .map(|attribute| attribute.value.as_deref().unwrap_or_default().split(' ').map(str::to_owned).collect())
        .collect();
    let of = |transport: &str| lines.iter().filter(|line| line[2] == transport).collect::<Vec<_>>();
    let (udp, tcp) = (of("udp"), of("tcp"));
    assert_eq!(tcp[0][4..], ["192.0.2.1", "7881", "typ", "host", "tcptype", "passive"].map(str::to_owned));
    assert_eq!(tcp[1][4..], ["2001:db8::1", "7881", "typ", "host", "tcptype", "passive"].map(str::to_owned));
    let priority = |line: &&Vec<String>| line[3].parse::<u32>().unwrap();
    assert!(tcp.iter().map(priority).max() < udp.iter().map(priority).min());
    assert!(priority(&tcp[1]) > priority(&tcp[0]), "IPv6 first");
    let mut foundations: Vec<&str> = lines.iter().map(|line| line[0].as_str()).collect();
    foundations.dedup();
    assert_eq!(foundations.len(), 4);
}
