//! Recordings of publishers that do what none should: each is told of, and everything else is recorded as if nothing were.

#[path = "sim/mod.rs"]
mod sim;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use distributary::config::RecordFormat;
use distributary::rtp::config::Codec;
use distributary::units::{Micros, PayloadType, RtpTime, SequenceNumber, Ssrc};
use distributary::wire::rtp;
use serde_json::Value;
use sim::recorded::{Feed, Folder, decoded, encoded, events, generated, length, probe, record, time_of};

const BEGIN: Micros = Micros::from_secs(1);
const LATER: Micros = Micros::from_secs(1);

fn h264() -> Vec<Vec<u8>> {
    encoded(&["-c:v", "libx264", "-profile:v", "baseline", "-bf", "0", "-bsf:v", "dump_extra=freq=keyframe"])
}

fn vp8() -> Vec<Vec<u8>> {
    encoded(&["-c:v", "libvpx", "-deadline", "realtime"])
}

fn opus() -> Vec<Vec<u8>> {
    generated(&["-i", "sine=frequency=440:duration=1.5:sample_rate=48000", "-c:a", "libopus", "-b:a", "32k"])
}

/// The events of these names in a file's sidecar.
fn told(file: &std::path::Path, names: &[&str]) -> Vec<Value> {
    let mut events = events(&file.with_extension("jsonl"));
    events.retain(|event| names.iter().any(|name| event["event"] == *name));
    events
}

/// Sound is recorded though video cannot be; and video with it as soon as it says what it is.
#[test]
fn h264_without_parameter_sets() {
    let folder = Folder::new("no-sps");
    let (video, sound) = (h264(), opus());
    // Sequence and picture parameter sets come in packets of their own, or together in a STAP-A.
    let is_parameters =
        |packet: &[u8]| matches!(rtp::Header::parse(packet).map(|header| packet[header.header_len] & 0x1f), Ok(7 | 8 | 24));
    let bare: Vec<Vec<u8>> = video.iter().filter(|packet| !is_parameters(packet)).cloned().collect();
    assert!(bare.len() < video.len(), "ffmpeg sent no parameter sets");
    let mut feed = Feed::new(folder.plan("*"));
    feed.publish("room", &[Codec::H264, Codec::Opus]);
    // Twice without, so that the file has begun, and once with.
    let mut now = BEGIN;
    let mut number = 0;
    for (pictures, _) in [(&bare, 0), (&bare, 1), (&video, 2)] {
        let renumbered = |packets: &[Vec<u8>], number: &mut u16, rate: u64| -> Vec<Vec<u8>> {
            let (first, from) = (time_of(&packets[0]), (now.0 * rate / 1_000_000) as u32);
            packets
                .iter()
                .map(|packet| {
                    *number += 1;
                    rewritten(packet, *number, time_of(packet).wrapping_sub(first).wrapping_add(from))
                })
                .collect()
        };
        let mut sounds = (now.0 / 20_000) as u16;
        let (pictures, sounds) = (renumbered(pictures, &mut number, 90_000), renumbered(&sound, &mut sounds, 48_000));
        now = feed.all(&[&pictures, &sounds], now) + Micros::from_millis(20);
    }
    feed.recorder.end(now + LATER);
    let files = folder.media();
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(probe(&files[0]).0, ["opus"]);
    assert!((length(&files[0]) - 3.0).abs() < 0.3, "{} s", length(&files[0]));
    assert_eq!(told(&files[0], &["undescribed"]).len(), 1);
    let (codecs, packets) = probe(&files[1]);
    assert_eq!((codecs, packets[0].len()), (vec!["h264".to_owned(), "opus".to_owned()], 45));
    assert!(packets[0][0].key && packets[1].len() > 70, "{} sounds", packets[1].len());
}

/// The same payload with another number and time.
fn rewritten(bytes: &[u8], number: u16, time: u32) -> Vec<u8> {
    let header = rtp::Header::parse(bytes).expect("RTP");
    packet(header.marker, number, time, &bytes[header.payload_range(bytes).expect("a payload")])
}

fn packet(marker: bool, number: u16, time: u32, payload: &[u8]) -> Vec<u8> {
    let mut space = vec![0; 64];
    let number = SequenceNumber(number);
    let len = rtp::write_header(&mut space, marker, PayloadType(96), number, RtpTime(time), Ssrc(1), std::iter::empty());
    space.truncate(len.expect("room enough"));
    space.extend_from_slice(payload);
    space
}

/// RTP packets of ffmpeg's test picture in AV1: one OBU after the other. (This ffmpeg has no packetizer for it.)
fn av1() -> Vec<Vec<u8>> {
    let path = std::env::temp_dir().join(format!("distributary-record-{}.obu", std::process::id()));
    let encoder = ["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-lag-in-frames", "0", "-g", "15", "-b:v", "300k"];
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=30", "-frames:v", "45", "-pix_fmt", "yuv420p"])
        .args(encoder)
        .args(["-f", "obu"])
        .arg(&path)
        .output()
        .expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stream = fs::read(&path).expect("what ffmpeg wrote");
    let _ = fs::remove_file(&path);
    let mut units: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut rest = stream.as_slice();
    while let Some(&header) = rest.first() {
        let extension = (header & 4 != 0) as usize;
        let (len, after) = distributary::wire::av1::leb128(&rest[1 + extension..]).expect("a size");
        let whole = rest.len() - after.len() + len;
        match header >> 3 & 15 {
            2 => units.push(Vec::new()),
            _ => units.last_mut().expect("a temporal delimiter first").push(rest[..whole].to_vec()),
        }
        rest = &rest[whole..];
    }
    let mut packets = Vec::new();
    for (index, unit) in units.iter().enumerate() {
        for (place, obu) in unit.iter().enumerate() {
            let chunks = obu.chunks(1_100).count();
            for (part, chunk) in obu.chunks(1_100).enumerate() {
                let (continues, continued) = (part > 0, part + 1 < chunks);
                // One element (W = 1); N where a coded video sequence begins.
                let begins = place == 0 && part == 0 && obu[0] >> 3 & 15 == 1;
                let flags = (continues as u8) << 7 | (continued as u8) << 6 | 0x10 | (begins as u8) << 3;
                let marker = place + 1 == unit.len() && !continued;
                let payload = [&[flags], chunk].concat();
                packets.push(packet(marker, packets.len() as u16, index as u32 * 3_000, &payload));
            }
        }
    }
    packets
}

/// A unit that says it is longer than it is: it is left out, and so is what refers to it.
#[test]
fn av1_with_a_broken_size() {
    let packets = av1();
    for format in [RecordFormat::Webm, RecordFormat::Mp4] {
        let folder = Folder::new("av1");
        let (file, _) = record(&folder, format, Codec::Av1, &packets);
        assert_eq!((probe(&file).0, decoded(&file)), (vec!["av1".to_owned()], 45));
        let mut broken = packets.clone();
        // Aggregation header, header of the OBU, its size: of one picture after the key frame.
        let at = broken.iter().position(|packet| time_of(packet) == 20 * 3_000).expect("a picture");
        let start = rtp::Header::parse(&broken[at]).expect("RTP").header_len + 2;
        broken[at][start] |= 0x7f;
        broken[at].truncate(start + 60);
        let folder = Folder::new("av1-broken");
        let (file, _) = record(&folder, format, Codec::Av1, &broken);
        let (_, read) = probe(&file);
        assert_eq!((read[0].len(), decoded(&file)), (35, 35), "up to 20, and from the key frame of 30 on");
        assert_eq!(told(&file, &["malformed"]).len(), 1);
        assert!((length(&file) - 1.5).abs() < 0.1, "{} s", length(&file));
    }
}

/// Timestamps leap by hours, forth and back: the file goes on in the time that passes.
#[test]
fn timestamps_that_leap() {
    let folder = Folder::new("leap");
    let hours = 3 * 3_600 * 90_000;
    let packets = vp8();
    let first = time_of(&packets[0]);
    let mut feed = Feed::new(folder.plan("*"));
    feed.publish("room", &[Codec::Vp8]);
    let mut now = BEGIN;
    for (number, packet) in packets.iter().enumerate() {
        let time = time_of(packet).wrapping_sub(first);
        now = BEGIN + Micros(time as u64 * 1_000_000 / 90_000);
        let leapt = if (60_000..90_000).contains(&time) { time.wrapping_add(hours) } else { time };
        feed.packet(0, &rewritten(packet, number as u16, leapt), now);
    }
    feed.recorder.end(now + LATER);
    let file = folder.media().pop().expect("a file");
    let (_, read) = probe(&file);
    assert_eq!((read[0].len(), decoded(&file)), (45, 45));
    assert!((length(&file) - 1.5).abs() < 0.1, "{} s", length(&file));
    let steps: Vec<f64> = read[0].windows(2).map(|pair| pair[1].time - pair[0].time).collect();
    assert!(steps.iter().all(|step| (0.02..0.06).contains(step)), "{steps:?}");
    assert_eq!(told(&file, &["clock"]).len(), 2);
}

/// A publisher that comes back with another codec every second: each time is a file that plays.
#[test]
fn another_codec_every_second() {
    let folder = Folder::new("codecs");
    let (vp8, h264, sound) = (vp8(), h264(), opus());
    let mut feed = Feed::new(folder.plan("*"));
    let mut now = BEGIN;
    for turn in 0..6 {
        let (codec, packets) = if turn % 2 == 0 { (Codec::Vp8, &vp8) } else { (Codec::H264, &h264) };
        feed.publish("room", &[codec, Codec::Opus]);
        now = feed.all(&[packets, &sound], now) + Micros::from_millis(40);
    }
    feed.recorder.end(now + LATER);
    let files: Vec<PathBuf> = folder.media();
    assert_eq!(files.len(), 6, "{files:?}");
    for (turn, file) in files.iter().enumerate() {
        let (codecs, packets) = probe(file);
        assert_eq!(codecs, [if turn % 2 == 0 { "vp8" } else { "h264" }, "opus"]);
        assert_eq!(packets[0].len(), 45, "{}", file.display());
        assert!(packets[1].len() >= 70 && told(file, &["gap", "malformed"]).is_empty());
    }
}
