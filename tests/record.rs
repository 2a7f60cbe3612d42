//! Recordings of simulated publishers, read by ffprobe: every picture and sound is in the file once, in time, and a crash or a bad file
//! system costs no more than it says.

#[path = "sim/mod.rs"]
mod sim;

use std::fs;

use distributary::config::{RecordFiles, RecordFormat, RecordPlan, RecordWish};
use distributary::metrics::Counter;
use distributary::record::{complete_all, unfinished};
use distributary::rtp::config::Codec;
use distributary::units::Micros;
use distributary::wire::rtp;
use sim::network::Link;
use sim::recorded::{Folder, Packet, decoded, encoded, events, generated, length, probe, record};
use sim::{World, picture, watching};

#[test]
fn everything_a_viewer_saw_is_in_the_file() {
    let folder = Folder::new("whole");
    let mut world = World::recording(1, 2, folder.plan("*"));
    watching(&mut world, |world| {
        let publisher = world.publish("room", Link::clean());
        let viewer = world.watch("room", Link::clean());
        assert!(world.connect(5));
        world.run_seconds(10);
        let (frames, sounds) = (world.viewer(viewer).frames, world.viewer(viewer).sounds);
        let id = world.publisher(publisher).id;
        world.leave(publisher);
        world.run_seconds(1);
        let (codecs, packets) = probe(&folder.files(".webm")[0]);
        assert_eq!(codecs, ["vp8", "opus"]);
        assert!((packets[0].len() as i64 - frames as i64).abs() <= 3, "{} of {frames} pictures", packets[0].len());
        assert!((packets[1].len() as i64 - sounds as i64).abs() <= 5, "{} of {sounds} sounds", packets[1].len());
        assert!(packets[0][0].key && packets[0][0].time < 0.1);
        // Sizes follow from the numbers: it is these pictures, all of them, in order.
        let is_from = |first: u64| {
            let expected = (first..).zip(&packets[0]).map(|(number, packet)| (packet, picture::video(id, number, packet.key, 4)));
            expected.into_iter().all(|(packet, picture)| packet.size == picture.len())
        };
        assert!((0..60).any(is_from));
        for (track, step) in [(0, 1.0 / 30.0), (1, 0.02)] {
            let longest = packets[track].windows(2).map(|pair| ((pair[1].time - pair[0].time) - step).abs()).fold(0.0, f64::max);
            assert!(longest < 0.01, "track {track}: {longest}");
        }
        let ends: Vec<f64> = packets.iter().map(|packets| packets.last().expect("packets").time).collect();
        assert!((ends[0] - ends[1]).abs() < 0.06, "{ends:?}");
        let events = events(&folder.files(".jsonl")[0]);
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(names, ["start", "end"]);
        assert_eq!((&events[0]["room"], &events[1]["gaps"]), (&"room".into(), &0.into()));
        assert!(unfinished(&folder.0).is_empty());
    });
}

/// Lost packets come by retransmission; sound and pictures stay where they belong.
#[test]
fn loss_moves_nothing() {
    let folder = Folder::new("loss");
    let mut world = World::recording(2, 1, folder.plan("room*"));
    watching(&mut world, |world| {
        let publisher = world.publish("room 1", Link::clean());
        // Nothing is lost on its way: what it lacks retransmission did not bring.
        let viewer = world.watch("room 1", Link::clean());
        assert!(world.connect(5));
        world.clients[publisher].link = Link::lossy(0.05);
        world.run_seconds(20);
        world.clients[publisher].link = Link::clean();
        world.run_seconds(1);
        world.leave(publisher);
        world.run_seconds(1);
        let file = &folder.files(".webm")[0];
        assert!(file.parent().is_some_and(|room| room.ends_with("room%201")));
        let (_, packets) = probe(file);
        // 630 pictures, of which retransmission saves nearly all; sound is not asked for again.
        assert!(packets[0].len() > 560, "{} pictures", packets[0].len());
        assert!((0.92..0.99).contains(&(packets[1].len() as f64 / 1_050.0)), "{} sounds", packets[1].len());
        for (track, step) in [(0, 1.0 / 30.0), (1, 0.02)] {
            for packet in &packets[track] {
                let steps = (packet.time - packets[track][0].time) / step;
                assert!((steps - steps.round()).abs() * step < 0.015, "track {track} at {}", packet.time);
            }
        }
        let ends: Vec<f64> = packets.iter().map(|packets| packets.last().expect("packets").time).collect();
        assert!((ends[0] - ends[1]).abs() < 0.06, "{ends:?}");
        let events = events(&folder.files(".jsonl")[0]);
        let gaps: Vec<&serde_json::Value> = events.iter().filter(|event| event["event"] == "gap").collect();
        let (video, sound): (Vec<&serde_json::Value>, Vec<_>) =
            gaps.iter().copied().partition(|gap: &&serde_json::Value| gap["kind"] == "video");
        assert_eq!(gaps.len() as u64, world.server.count(Counter::RecordingGaps));
        assert!(sound.len() > 10);
        // What never came, by the server's own count of what it gave up, and what a viewer could decode of it.
        let never: u64 = video.iter().filter_map(|gap| gap["packets"].as_u64()).sum();
        assert!(never <= world.server.count(Counter::LostUpstream), "{never} packets of video; {}", world.server.tally());
        let viewer = world.viewer(viewer);
        let decoded = viewer.frames - viewer.undecodable;
        assert!(packets[0].len() as f64 >= 0.99 * decoded as f64, "{} pictures of {decoded}", packets[0].len());
    });
}

/// The recorder is there no more at some moment: what it wrote plays, and lacks two seconds at most.
#[test]
fn a_crash_costs_two_seconds_at_most() {
    for moment in [3_000, 4_321, 5_999] {
        let folder = Folder::new(&format!("crash-{moment}"));
        let mut world = World::recording(moment, 1, folder.plan("*"));
        watching(&mut world, |world| {
            world.publish("../etc", Link::clean());
            assert!(world.connect(5));
            world.run_millis(moment);
            // What a killed process leaves: its files as they are at this moment.
            let file = folder.files(".part.webm")[0].clone();
            assert_eq!(unfinished(&folder.0), std::slice::from_ref(&file));
            assert!(file.starts_with(folder.0.join("%2e.%2fetc")));
            let copy = folder.0.join("killed.webm");
            fs::copy(&file, &copy).expect("a copy");
            let (codecs, packets) = probe(&copy);
            assert_eq!(codecs, ["vp8", "opus"]);
            for packets in packets {
                let last = packets.last().expect("packets").time;
                assert!(last > moment as f64 / 1_000.0 - 2.0, "{last} of {moment} ms");
            }
        });
    }
}

/// The folder cannot be written to: that recording ends, the room does not notice.
#[test]
fn a_file_that_cannot_be_made_harms_nobody() {
    let folder = Folder::new("absent");
    // A file where the room's folder would be.
    fs::write(folder.0.join("room"), b"").expect("a file");
    let mut world = World::recording(4, 1, folder.plan("*"));
    watching(&mut world, |world| {
        world.publish("room", Link::clean());
        let viewer = world.watch("room", Link::clean());
        assert!(world.connect(5));
        world.run_seconds(5);
        world.assert_no_violations();
        assert!(world.viewer(viewer).frames > 140);
        assert_eq!(world.server.count(Counter::RecordingsFailed), 1);
    });
}

#[test]
fn rooms_that_match_nothing_are_not_recorded() {
    let folder = Folder::new("other");
    let mut world = World::recording(5, 1, folder.plan("lesson-*"));
    watching(&mut world, |world| {
        world.publish("room", Link::clean());
        assert!(world.connect(5));
        world.run_seconds(3);
        assert_eq!(world.server.count(Counter::Tapped), 0);
        assert!(folder.files("").is_empty());
    });
}

/// What is too long for one file goes on in the next: nothing is lost between them, and each begins with a key frame.
#[test]
fn files_follow_each_other_without_a_gap() {
    let folder = Folder::new("split");
    let plan = RecordPlan { split_after: Some(Micros::from_secs(3)), ..folder.plan("*") };
    let mut world = World::recording(6, 1, plan);
    watching(&mut world, |world| {
        let publisher = world.publish("room", Link::clean());
        let viewer = world.watch("room", Link::clean());
        assert!(world.connect(5));
        world.run_seconds(11);
        let (frames, sounds) = (world.viewer(viewer).frames, world.viewer(viewer).sounds);
        world.leave(publisher);
        world.run_seconds(1);
        let files = folder.files(".webm");
        assert!((3..=5).contains(&files.len()), "{files:?}");
        let probed: Vec<Vec<Vec<Packet>>> = files.iter().map(|file| probe(file).1).collect();
        let count = |track: usize| probed.iter().map(|packets| packets[track].len() as i64).sum::<i64>();
        assert!((count(0) - frames as i64).abs() <= 3, "{} of {frames} pictures", count(0));
        assert!((count(1) - sounds as i64).abs() <= 5, "{} of {sounds} sounds", count(1));
        for packets in &probed {
            assert!(packets[0][0].key && packets[0][0].time < 0.1 && packets[1][0].time < 0.1);
        }
        // Each is as long as it may be, but for the last, and for the time to a key frame.
        let ends = probed.iter().map(|packets| packets[0].last().expect("pictures").time);
        assert!(ends.take(files.len() - 1).all(|end| (2.9..4.2).contains(&end)));
    });
}

/// A pause is cut out of the file: what comes after it follows what was before it.
#[test]
fn a_pause_is_cut_out() {
    let folder = Folder::new("pause");
    let mut world = World::recording(7, 1, folder.plan("*"));
    watching(&mut world, |world| {
        let publisher = world.publish("room", Link::clean());
        assert!(world.connect(5));
        assert!(world.server.pause_recording("nobody", true).is_ok(), "the pattern matches it");
        world.run_seconds(4);
        world.server.pause_recording("room", true).expect("it is recorded");
        world.run_seconds(6);
        world.server.pause_recording("room", false).expect("it is recorded");
        world.run_seconds(4);
        world.leave(publisher);
        world.run_seconds(1);
        let [file] = &folder.media()[..] else { panic!("{:?}", folder.media()) };
        let (_, packets) = probe(file);
        let events = events(&folder.files(".jsonl")[0]);
        let times: Vec<(&str, i64)> =
            events.iter().map(|event| (event["event"].as_str().unwrap_or("?"), event["at_ms"].as_i64().unwrap_or(-1))).collect();
        let [("start", 0), ("paused", paused), ("resumed", _), ("end", end)] = times[..] else { panic!("{times:?}") };
        assert!((paused - 4_000).abs() < 300 && (end - 8_000).abs() < 400, "{times:?}");
        let wall = |index: usize| events[index]["time"].as_str().expect("a time")[17..23].parse::<f64>().expect("seconds");
        assert!(((wall(2) - wall(1)).rem_euclid(60.0) - 6.0).abs() < 0.1, "{events:?}");
        // About eight seconds of each, in steps as before but for one, and a key frame behind that.
        for (track, step, count) in [(0, 1.0 / 30.0, 240), (1, 0.02, 400)] {
            let steps: Vec<f64> = packets[track].windows(2).map(|pair| pair[1].time - pair[0].time).collect();
            let odd: Vec<&f64> = steps.iter().filter(|found| (**found - step).abs() > 0.01).collect();
            assert!(odd.len() <= 1 && odd.iter().all(|odd| **odd < 0.12), "track {track}: {odd:?}");
            assert!((packets[track].len() as i64 - count).abs() < count / 20, "track {track}: {}", packets[track].len());
        }
        let behind = packets[0].iter().find(|packet| packet.time > paused as f64 / 1_000.0).expect("pictures");
        assert!(behind.key, "{behind:?}");
        let ends: Vec<f64> = packets.iter().map(|packets| packets.last().expect("packets").time).collect();
        assert!((ends[0] - ends[1]).abs() < 0.06, "{ends:?}");
    });
}

/// Of simulcast the encoding that was asked for is recorded, or the best; and whoever is asked again gets another file.
#[test]
fn an_encoding_can_be_chosen() {
    let folder = Folder::new("layers");
    let mut world = World::recording(8, 1, RecordPlan { rooms: Vec::new(), ..folder.plan("*") });
    watching(&mut world, |world| {
        let wish = |layer: &str| RecordWish { layer: Some(layer.to_owned()), ..RecordWish::default() };
        world.server.record("room", wish("q")).expect("there is a recorder");
        let publisher = world.publish_simulcast("room", &[1, 2, 4], Link::clean());
        assert!(world.connect(5));
        world.run_seconds(4);
        for layer in ["h", "best", "absent"] {
            let recorded = world.server.record("room", wish(layer)).expect("there is a recorder");
            assert!(recorded.publishing);
            world.run_seconds(4);
        }
        world.leave(publisher);
        world.run_seconds(1);
        let files = folder.media();
        assert_eq!(files.len(), 4, "{files:?}");
        let rates: Vec<usize> = files.iter().map(|file| rate(&probe(file).1[0])).collect();
        // 440 kb/s for the largest, as much as that for the one that does not exist; a half and a quarter before.
        let expected = [110_000, 220_000, 440_000, 440_000];
        let close = rates.iter().zip(expected).all(|(rate, expected)| rate.abs_diff(expected) < expected / 3);
        assert!(close, "{rates:?} bits a second");
    });
}

/// Bits a second of pictures after the first.
fn rate(pictures: &[Packet]) -> usize {
    let (first, last) = (&pictures[0], &pictures[pictures.len() - 1]);
    let bytes: usize = pictures.iter().skip(1).filter(|picture| !picture.key).map(|picture| picture.size).sum();
    (bytes as f64 * 8.0 / (last.time - first.time)) as usize
}

/// Each track in a file of its own, whose beginnings the sidecars tell by one clock.
#[test]
fn tracks_can_have_files_of_their_own() {
    let folder = Folder::new("tracks");
    let mut world = World::recording(9, 2, RecordPlan { files: RecordFiles::Track, ..folder.plan("*") });
    watching(&mut world, |world| {
        let publisher = world.publish("room", Link::clean());
        assert!(world.connect(5));
        world.run_seconds(5);
        world.leave(publisher);
        world.run_seconds(1);
        let mut kinds = Vec::new();
        let mut begun = Vec::new();
        for file in folder.media() {
            let (codecs, packets) = probe(&file);
            let start = &events(&file.with_extension("jsonl"))[0];
            let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
            kinds.push((codecs[0].clone(), name.contains("-video-"), name.contains("-audio-")));
            begun.push(start["unix_ms"].as_i64().expect("a time"));
            assert_eq!((codecs.len(), start["tracks"].as_array().map(Vec::len)), (1, Some(1)));
            assert!((packets[0].last().expect("packets").time - 5.0).abs() < 0.3);
        }
        kinds.sort();
        assert_eq!(kinds, [("opus".to_owned(), false, true), ("vp8".to_owned(), true, false)]);
        assert!((begun[0] - begun[1]).abs() < 60, "{begun:?}");
    });
}

/// A codec, its name, and ffmpeg's options for an encoder as browsers have it.
const ENCODERS: [(Codec, &str, &[&str]); 3] = [
    (Codec::Vp8, "vp8", &["-c:v", "libvpx", "-deadline", "realtime"]),
    (Codec::Vp9, "vp9", &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-lag-in-frames", "0"]),
    (Codec::H264, "h264", &["-c:v", "libx264", "-profile:v", "baseline", "-bsf:v", "dump_extra=freq=keyframe"]),
];

#[test]
fn what_encoders_made_is_decoded_without_errors() {
    for (codec, name, encoder) in ENCODERS {
        let packets = encoded(encoder);
        for format in [RecordFormat::Webm, RecordFormat::Mp4] {
            let folder = Folder::new(name);
            let (file, before) = record(&folder, format, codec, &packets);
            let extension = match (format, codec) {
                (RecordFormat::Mp4, Codec::Vp9 | Codec::H264) => "mp4",
                (_, Codec::H264) => "mkv",
                _ => "webm",
            };
            assert_eq!(file.extension().and_then(|extension| extension.to_str()), Some(extension));
            let (codecs, read) = probe(&file);
            assert_eq!((codecs, read[0].len(), decoded(&file)), (vec![name.to_owned()], 45, 45));
            assert_eq!(read[0].iter().filter(|packet| packet.key).count(), 3, "{name}");
            assert!((1.4..1.6).contains(&length(&file)), "{name}: {} s", length(&file));
            cut_off(name, extension, &before, &read[0]);
            if codec == Codec::Vp9 {
                // ffmpeg's packetizer sets no P bit (RFC 9628 §4.2): each of its pictures claims to refer to none.
                continue;
            }
            // One packet of a picture between key frames is lost: all up to the next key frame is left out, and nothing is shown torn.
            let timestamps: Vec<u32> = packets.iter().map(|packet| rtp::Header::parse(packet).expect("RTP").timestamp.0).collect();
            let mut pictures = timestamps.clone();
            pictures.dedup();
            let lost = timestamps.iter().position(|time| *time == pictures[20]).expect("a picture");
            let torn: Vec<Vec<u8>> =
                packets.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, packet)| packet.clone()).collect();
            let folder = Folder::new(&format!("{name}-torn"));
            let (file, _) = record(&folder, format, codec, &torn);
            let (_, read) = probe(&file);
            assert_eq!((read[0].len(), decoded(&file)), (35, 35), "{name}");
            let after = &read[0][20];
            assert!(after.key && (after.time - 1.0).abs() < 0.01, "{name}: {after:?}");
        }
    }
}

/// A file cut off anywhere is made whole at the next start: it has its name, its length, and the pictures of all its whole pieces.
fn cut_off(name: &str, extension: &str, bytes: &[u8], whole: &[Packet]) {
    let folder = Folder::new(&format!("{name}-cut"));
    fs::create_dir_all(folder.0.join("room")).expect("a folder");
    let mut most = 0;
    for twelfth in 1..=12 {
        let path = folder.0.join(format!("room/{twelfth}.part.{extension}"));
        fs::write(&path, &bytes[..bytes.len() * twelfth / 12]).expect("a file");
        assert_eq!(unfinished(&folder.0), std::slice::from_ref(&path));
        complete_all(vec![path.clone()], 0);
        let ended = folder.0.join(format!("room/{twelfth}.{extension}"));
        if !ended.exists() {
            // Nothing of it was ever whole.
            assert_eq!(most, 0, "{name}, {twelfth}/12");
            let _ = fs::remove_file(path);
            continue;
        }
        let (_, read) = probe(&ended);
        let pictures = read.first().map_or(0, Vec::len);
        assert!(pictures >= most && pictures <= whole.len(), "{name}, {twelfth}/12: {pictures} pictures after {most}");
        most = pictures;
        if pictures > 0 {
            assert_eq!(decoded(&ended), pictures);
            assert!((length(&ended) - read[0][pictures - 1].time).abs() < 0.05, "{name}, {twelfth}/12: {} s", length(&ended));
            let pairs = read[0].iter().zip(whole);
            assert!(pairs.into_iter().all(|(cut, whole)| cut.size == whole.size && (cut.time - whole.time).abs() < 0.002));
        }
        let told = events(&ended.with_extension("jsonl"));
        assert_eq!(told.last().map(|event| event["event"].clone()), Some("completed".into()));
    }
    assert!(most >= whole.len() - 16, "{name}: {most} of {} pictures", whole.len());
}

/// Sound alone is Ogg, and what was lost takes its time there too.
#[test]
fn sound_alone_is_ogg() {
    let packets = generated(&["-i", "sine=frequency=440:duration=3:sample_rate=48000", "-c:a", "libopus", "-b:a", "32k"]);
    let lossy: Vec<Vec<u8>> =
        packets.iter().enumerate().filter(|(index, _)| !(50..75).contains(index)).map(|(_, packet)| packet.clone()).collect();
    for (name, packets) in [("sound", &packets), ("sound-lossy", &lossy)] {
        let folder = Folder::new(name);
        let (file, before) = record(&folder, RecordFormat::Mp4, Codec::Opus, packets);
        assert_eq!(file.extension().and_then(|extension| extension.to_str()), Some("ogg"));
        let (codecs, read) = probe(&file);
        assert_eq!((codecs, decoded(&file)), (vec!["opus".to_owned()], read[0].len()));
        assert!((read[0].len() as i64 - 150).abs() <= 2, "{name}: {} packets", read[0].len());
        assert!((length(&file) - 3.0).abs() < 0.05, "{name}: {} s", length(&file));
        let cut = folder.0.join("room/cut.part.ogg");
        fs::write(&cut, &before[..before.len() - 100]).expect("a file");
        complete_all(vec![cut], 0);
        let cut = folder.0.join("room/cut.ogg");
        assert!(probe(&cut).1[0].len() >= 45 && (0.9..3.0).contains(&length(&cut)), "{name}: {} s", length(&cut));
    }
}
