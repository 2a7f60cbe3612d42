//! Recordings of simulated publishers, read by ffprobe: every picture and sound is in the file once, in time, and a crash or a bad file
//! system costs no more than it says.

#[path = "sim/mod.rs"]
mod sim;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use distributary::config::{RecordFiles, RecordFormat, RecordPlan, RecordWish};
use distributary::limits::{EVENTS_PER_SECOND, ROOM_FILE_TRACKS_MAX};
use distributary::metrics::Counter;
use distributary::record::{complete_all, unfinished};
use distributary::rtp::config::Codec;
use distributary::units::Micros;
use distributary::wire::rtp;
use distributary::worker::tap::{Happening, Order};
use sim::network::Link;
use sim::recorded::{Feed, Folder, Packet, decoded, encoded, events, generated, length, probe, record, timed};
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
        assert_eq!(names, ["start", "present", "unpublished", "unpublished", "left", "end"]);
        assert_eq!((&events[0]["room"], &events[5]["gaps"]), (&"room".into(), &0.into()));
        let identity = &events[4]["identity"];
        assert_eq!((&events[1]["identities"][0], &events[0]["tracks"][0]["identity"]), (identity, identity));
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
        // It was alone in its room, which ends with it.
        assert_eq!(events.iter().filter(|event| event["event"] == "left").count(), 1);
        let of_members = ["present", "unpublished", "left"];
        let events: Vec<_> = events.into_iter().filter(|event| of_members.iter().all(|name| event["event"] != *name)).collect();
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
        // Where none was named, or none that there is, it began with one and went over to the best, which is told.
        let layers = files.iter().map(|file| events(&file.with_extension("jsonl"))).map(|events| {
            events
                .iter()
                .filter(|event| event["event"] == "layer")
                .filter_map(|event| event["encoding"].as_u64())
                .collect::<Vec<_>>()
        });
        assert_eq!(layers.collect::<Vec<_>>(), [vec![], vec![], vec![2], vec![2]]);
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

/// All publishers of a room are in one file, each named; when somebody comes another begins, and no frame is lost between them.
#[test]
fn a_room_is_one_file_at_a_time() {
    let sound = generated(&["-i", "sine=frequency=440:duration=5:sample_rate=48000", "-c:a", "libopus", "-b:a", "32k"]);
    let picture = ["-i", "testsrc=size=320x180:rate=30", "-frames:v", "150", "-pix_fmt", "yuv420p", "-b:v", "300k", "-g", "30"];
    for (codec, name, encoder) in [ENCODERS[0], ENCODERS[2]] {
        let video = generated(&[picture.as_slice(), encoder].concat());
        let folder = Folder::new(&format!("room-{name}"));
        let (format, extension) = if codec == Codec::Vp8 { (RecordFormat::Webm, "webm") } else { (RecordFormat::Mp4, "mp4") };
        let mut feed = Feed::new(RecordPlan { files: RecordFiles::Room, format, ..folder.plan("*") });
        let recording = feed.begin("room", "", RecordWish::default());
        let (begin, comes) = (Micros::from_secs(1), Micros::from_millis(3_510));
        let mut coming = vec![("bob", comes), ("ada", begin)];
        let streams: [(usize, Codec, &[Vec<u8>], Micros); 4] = [
            (0, codec, &video, begin),
            (1, Codec::Opus, &sound, begin),
            (2, codec, &video, comes),
            (3, Codec::Opus, &sound, comes),
        ];
        let mut before = Vec::new();
        for (at, track, bytes) in timed(&streams) {
            if let Some((identity, _)) = coming.pop_if(|(_, comes)| at >= *comes) {
                let (publisher, tracks) = feed.publisher(identity, &[codec, Codec::Opus]);
                feed.order(Order::Take { recording, publisher, tracks });
                feed.order(Order::Happened { room: "room".into(), what: Happening::Joined { identity: identity.into() } });
            }
            if before.is_empty() && at > Micros::from_secs(8) {
                before = fs::read(&unfinished(&folder.0)[0]).expect("a file");
            }
            feed.packet(track, bytes, at);
        }
        feed.recorder.end(Micros::from_secs(10));
        let files = folder.media();
        assert_eq!(files.len(), 2, "{files:?}");
        let ends = |file: &Path, part: u32| file.to_string_lossy().ends_with(&format!("-room-{part}.{extension}"));
        assert!(ends(&files[0], 1) && ends(&files[1], 2), "{files:?}");
        let ((first_codecs, first), (second_codecs, second)) = (probe(&files[0]), probe(&files[1]));
        assert_eq!(
            (first_codecs.as_slice(), second_codecs.as_slice()),
            (
                &["vp8", "opus"].map(|codec| if codec == "vp8" { name } else { codec }.to_owned())[..],
                &[name, name, "opus", "opus"].map(str::to_owned)[..]
            )
        );
        assert_eq!(titles(&files[1], format), ["ada camera", "bob camera", "ada microphone", "bob microphone"]);
        // All there was: of ada in two files, of bob in one.
        let sounds = sound.len();
        assert_eq!(
            (first[0].len() + second[0].len(), second[1].len()),
            (150, 150),
            "{name}: {} and {}",
            first[0].len(),
            second[0].len()
        );
        assert_eq!((first[1].len() + second[2].len(), second[3].len()), (sounds, sounds), "{name}");
        assert!(second[0][0].key && second[1][0].key);
        // By the wall clock, which begins at 0 here, each is where it came.
        let told: Vec<_> = files.iter().map(|file| events(&file.with_extension("jsonl"))).collect();
        let starts: Vec<f64> = told.iter().map(|events| events[0]["unix_ms"].as_f64().expect("a time") / 1_000.0).collect();
        let bob = starts[1] + second[1][0].time;
        assert!((bob - 3.51).abs() < 0.01 && (starts[1] + second[3][0].time - 3.51).abs() < 0.01, "{bob}");
        let ada: Vec<f64> = [&first[0], &second[0]]
            .iter()
            .zip(&starts)
            .flat_map(|(read, start)| read.iter().map(move |p| start + p.time))
            .collect();
        assert!(ada.windows(2).all(|pair| (0.02..0.05).contains(&(pair[1] - pair[0]))), "{name}: {ada:?}");
        assert_eq!(told[0].last().map(|end| end["why"].as_str().is_some()), Some(true));
        let joined: Vec<&str> =
            told[0].iter().filter(|event| event["event"] == "joined").filter_map(|event| event["identity"].as_str()).collect();
        assert_eq!((joined, told[1][0]["tracks"][1]["identity"].as_str()), (vec!["ada", "bob"], Some("bob")));
        // Cut off, it is made whole with all of them.
        let path = folder.0.join(format!("room/cut.part.{extension}"));
        fs::write(&path, &before).expect("a file");
        complete_all(vec![path], 0);
        let cut = folder.0.join(format!("room/cut.{extension}"));
        assert!(titles(&cut, format).len() == 4 && length(&cut) > 2.0, "{} s", length(&cut));
    }
}

/// Of each stream, what it says it is.
fn titles(file: &Path, format: RecordFormat) -> Vec<String> {
    let tag = if format == RecordFormat::Mp4 { "handler_name" } else { "title" };
    let output = Process::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0", "-show_entries", &format!("stream_tags={tag}")])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    String::from_utf8(output.stdout).expect("text").lines().map(|line| line.trim_matches([',', '"']).to_owned()).collect()
}

/// Of one publisher several recordings are made at a time, each of what it has; and each ends by itself.
#[test]
fn several_recordings_have_the_same_tracks() {
    let folder = Folder::new("several");
    let (video, sound) = (encoded(ENCODERS[0].2), sound());
    let mut feed = Feed::new(folder.plan("*"));
    let (publisher, tracks) = feed.publisher("ada", &[Codec::Vp8, Codec::Opus]);
    let wish = RecordWish { files: Some(RecordFiles::Track), ..RecordWish::default() };
    let recordings = [
        (feed.begin("room", "", RecordWish::default()), &tracks[..]),
        (feed.begin("room", "EG_sound", RecordWish::default()), &tracks[1..]),
        (feed.begin("room", "EG_each", wish), &tracks[..]),
    ];
    for (recording, tracks) in &recordings {
        feed.order(Order::Take { recording: *recording, publisher: publisher.clone(), tracks: tracks.to_vec() });
    }
    let streams: [(usize, Codec, &[Vec<u8>], Micros); 2] =
        [(0, Codec::Vp8, &video, Micros::from_secs(1)), (1, Codec::Opus, &sound, Micros::from_secs(1))];
    let mut ended = false;
    for (at, track, bytes) in timed(&streams) {
        if at >= Micros::from_millis(1_900) && !std::mem::replace(&mut ended, true) {
            feed.order(Order::End { recording: recordings[1].0 });
        }
        feed.packet(track, bytes, at);
    }
    feed.recorder.end(Micros::from_secs(3));
    let files = folder.media();
    let named = |within: &str| {
        let found: Vec<&PathBuf> = files.iter().filter(|file| file.to_string_lossy().contains(within)).collect();
        assert_eq!(found.len(), 1, "{within}: {files:?}");
        (probe(found[0]), length(found[0]))
    };
    assert_eq!(files.len(), 4, "{files:?}");
    assert_eq!(named("-session1-1.webm").0.0, ["vp8", "opus"]);
    assert_eq!(named("-session1-EG_each-video-1.webm").0.0, ["vp8"]);
    assert_eq!(named("-session1-EG_each-audio-1.ogg").0.0, ["opus"]);
    let ((codecs, _), seconds) = named("-session1-EG_sound-1.ogg");
    assert!(codecs == ["opus"] && (0.8..1.2).contains(&seconds), "{seconds} s");
    let pictures = named("-session1-1.webm").0.1[0].len();
    assert_eq!((pictures, named("-EG_each-video-").0.1[0].len()), (45, 45));
}

fn sound() -> Vec<Vec<u8>> {
    generated(&["-i", "sine=frequency=440:duration=1.5:sample_rate=48000", "-c:a", "libopus", "-b:a", "32k"])
}

/// A file takes so many tracks; those of further publishers go into another one. And so many events in a second.
#[test]
fn a_room_of_very_many_has_files_and_events_without_end() {
    let folder = Folder::new("many");
    let sound = sound();
    let mut feed = Feed::new(RecordPlan { files: RecordFiles::Room, ..folder.plan("*") });
    let recording = feed.begin("room", "", RecordWish::default());
    let count = ROOM_FILE_TRACKS_MAX + 3;
    for number in 0..count {
        let (publisher, tracks) = feed.publisher(&format!("member {number}"), &[Codec::Opus]);
        feed.order(Order::Take { recording, publisher, tracks });
    }
    for (index, bytes) in sound.iter().enumerate() {
        for track in 0..count {
            feed.packet(track, bytes, Micros::from_millis(1_000 + index as u64 * 20));
        }
        if index == 50 {
            for number in 0..1_000 {
                let what = Happening::Left { identity: format!("guest {number}") };
                feed.order(Order::Happened { room: "room".into(), what });
            }
        }
    }
    feed.recorder.end(Micros::from_secs(4));
    let files = folder.media();
    let streams: Vec<usize> = files.iter().map(|file| probe(file).0.len()).collect();
    assert_eq!(streams, [ROOM_FILE_TRACKS_MAX, 3], "{files:?}");
    for file in &files {
        assert!(probe(file).1.iter().all(|packets| packets.len() == sound.len()));
        let events = events(&file.with_extension("jsonl"));
        let left = events.iter().filter(|event| event["event"] == "left").count();
        let omitted: u64 = events.iter().filter_map(|event| event["events"].as_u64()).sum();
        assert!(left <= EVENTS_PER_SECOND as usize && left as u64 + omitted == 1_000, "{left} and {omitted}");
    }
}

/// The rule's recording and one that was asked for under a name go on beside each other, and each ends by itself.
#[test]
fn what_is_asked_for_under_a_name_is_another_recording() {
    let folder = Folder::new("named");
    let mut world = World::recording(10, 2, folder.plan("*"));
    watching(&mut world, |world| {
        let publisher = world.publish("room", Link::clean());
        assert!(world.connect(5));
        world.run_seconds(1);
        let each = RecordWish { files: Some(RecordFiles::Track), ..RecordWish::default() };
        let all = RecordWish { files: Some(RecordFiles::Room), ..RecordWish::default() };
        assert!(world.server.record_as("room", "each", each).expect("a recorder").publishing);
        assert!(world.server.record_as("room", "all", all).expect("a recorder").publishing);
        world.run_seconds(3);
        assert!(world.server.stop_recording("room", "other").is_err());
        world.server.stop_recording("room", "each").expect("it is recorded");
        world.run_seconds(3);
        world.server.stop_recording("room", "").expect("it is recorded");
        world.run_seconds(2);
        world.leave(publisher);
        world.run_seconds(1);
        let found: Vec<(String, Vec<String>, f64)> = folder
            .media()
            .iter()
            .map(|file| {
                let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
                let session =
                    events(&file.with_extension("jsonl"))[0]["tracks"][0]["session"].as_str().expect("a session").to_owned();
                let (_, name) = name.split_once("Z-").expect("a time");
                (name.replace(&session, "S"), probe(file).0, length(file))
            })
            .collect();
        let mut found = found;
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<(&str, usize)> = found.iter().map(|(name, codecs, _)| (name.as_str(), codecs.len())).collect();
        assert_eq!(names, [("S-1.webm", 2), ("S-each-audio-1.ogg", 1), ("S-each-video-1.webm", 1), ("room-all-1.webm", 2)]);
        let lengths: Vec<f64> = found.iter().map(|(.., length)| *length).collect();
        let expected = [7.0, 3.0, 3.0, 8.0];
        assert!(lengths.iter().zip(expected).all(|(length, expected)| (length - expected).abs() < 0.6), "{lengths:?}");
    });
}

/// Files of a room that get too long: each track goes over to the next with its own key frame, and no frame is lost, whoever's it is.
#[test]
fn files_of_a_room_follow_each_other_without_a_gap() {
    let sound = generated(&["-i", "sine=frequency=440:duration=5:sample_rate=48000", "-c:a", "libopus", "-b:a", "32k"]);
    let picture = ["-i", "testsrc=size=320x180:rate=30", "-frames:v", "150", "-pix_fmt", "yuv420p", "-b:v", "300k", "-g", "30"];
    let video = generated(&[picture.as_slice(), ENCODERS[0].2].concat());
    let folder = Folder::new("room-split");
    let plan = RecordPlan { files: RecordFiles::Room, split_after: Some(Micros::from_secs(2)), ..folder.plan("*") };
    let mut feed = Feed::new(plan);
    let recording = feed.begin("room", "", RecordWish::default());
    let begins = [Micros::from_secs(1), Micros::from_millis(1_510), Micros::from_millis(1_730)];
    let mut streams: Vec<(usize, Codec, &[Vec<u8>], Micros)> = Vec::new();
    for (number, begin) in begins.into_iter().enumerate() {
        let (publisher, tracks) = feed.publisher(&format!("member {number}"), &[Codec::Vp8, Codec::Opus]);
        feed.order(Order::Take { recording, publisher, tracks });
        streams.extend([(2 * number, Codec::Vp8, &video[..], begin), (2 * number + 1, Codec::Opus, &sound[..], begin)]);
    }
    for (at, track, bytes) in timed(&streams) {
        feed.packet(track, bytes, at);
    }
    feed.recorder.end(Micros::from_secs(8));
    let files = folder.media();
    assert!((2..=4).contains(&files.len()), "{files:?}");
    let mut counts = [0; 6];
    for file in &files {
        let (codecs, packets) = probe(file);
        assert_eq!(codecs, ["vp8", "vp8", "vp8", "opus", "opus", "opus"]);
        assert!(packets[..3].iter().all(|packets| packets[0].key), "{}", file.display());
        counts.iter_mut().zip(&packets).for_each(|(count, packets)| *count += packets.len());
        assert_eq!(decoded_all(file), packets[..3].iter().map(Vec::len).sum::<usize>());
    }
    assert_eq!(counts, [150, 150, 150, sound.len(), sound.len(), sound.len()]);
    let why = |file: &PathBuf| events(&file.with_extension("jsonl")).last().and_then(|end| end["why"].as_str().map(str::to_owned));
    assert!(files[..files.len() - 1].iter().all(|file| why(file).is_some_and(|why| why.contains("as long or as large"))));
    assert_eq!(why(&files[files.len() - 1]), None);
}

/// Pictures of all streams of a file.
fn decoded_all(file: &Path) -> usize {
    let output = Process::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    // Of a stream that has none it says "N/A".
    String::from_utf8_lossy(&output.stdout).lines().map(|count| count.trim_matches(',').parse::<usize>().unwrap_or(0)).sum()
}

/// Killed at any moment, also while somebody comes and one file gives way to the next, the files of a room lack two seconds at most.
#[test]
fn a_room_that_is_cut_off_lacks_two_seconds_at_most() {
    let sound = generated(&["-i", "sine=frequency=440:duration=5:sample_rate=48000", "-c:a", "libopus", "-b:a", "32k"]);
    // Key frames are rare, and do not come when they are asked for: the files wait for each other as long as they may.
    let picture = [
        "-i",
        "testsrc=size=160x90:rate=30",
        "-frames:v",
        "150",
        "-pix_fmt",
        "yuv420p",
        "-b:v",
        "100k",
        "-g",
        "75",
        "-keyint_min",
        "75",
    ];
    let video = generated(&[picture.as_slice(), ENCODERS[0].2].concat());
    let folder = Folder::new("room-killed");
    let mut feed = Feed::new(RecordPlan { files: RecordFiles::Room, ..folder.plan("*") });
    let recording = feed.begin("room", "", RecordWish::default());
    let begins = [("ada", Micros::from_secs(1)), ("bob", Micros::from_millis(1_810)), ("eve", Micros::from_millis(3_270))];
    let mut streams: Vec<(usize, Codec, &[Vec<u8>], Micros)> = Vec::new();
    for (number, (_, begin)) in begins.into_iter().enumerate() {
        streams.extend([(2 * number, Codec::Vp8, &video[..], begin), (2 * number + 1, Codec::Opus, &sound[..], begin)]);
    }
    let (mut come, mut next, mut most) = (0, 1_500, 0.0f64);
    for (at, track, bytes) in timed(&streams) {
        if let Some((identity, _)) = begins.get(come).filter(|(_, begin)| at >= *begin) {
            come += 1;
            let (publisher, tracks) = feed.publisher(identity, &[Codec::Vp8, Codec::Opus]);
            feed.order(Order::Take { recording, publisher, tracks });
        }
        if at >= Micros::from_millis(next) && next <= 6_000 {
            let copy = Folder::new(&format!("room-killed-{next}"));
            fs::create_dir_all(copy.0.join("room")).expect("a folder");
            for file in folder.files("") {
                fs::copy(&file, copy.0.join("room").join(file.file_name().expect("a name"))).expect("a copy");
            }
            complete_all(unfinished(&copy.0), 0);
            let tracks = tracks_of(&copy);
            for (identity, _) in begins.iter().filter(|(_, begin)| at > *begin + Micros::from_secs(2)) {
                for kind in ["camera", "microphone"] {
                    let title = format!("{identity} {kind}");
                    let last = tracks.iter().filter(|(own, ..)| *own == title).map(|(_, last, _)| *last).fold(0.0, f64::max);
                    let lacks = at.0 as f64 / 1e6 - last;
                    most = most.max(lacks);
                    assert!(lacks < 2.0, "{title}: to {last} of {next} ms");
                }
            }
            next += 370;
        }
        feed.packet(track, bytes, at);
    }
    assert!(come == 3 && next > 6_000 && most > 0.3, "{most} s were lacking at most");
    feed.recorder.end(Micros::from_secs(9));
    // And in the end nothing does: what could not go over in time went on in the file before, which ended when it had.
    let tracks = tracks_of(&folder);
    for (identity, _) in begins {
        let count = |kind: &str| -> usize {
            tracks.iter().filter(|(title, ..)| *title == format!("{identity} {kind}")).map(|(.., packets)| packets).sum()
        };
        assert_eq!((count("camera"), count("microphone")), (150, sound.len()), "{identity}");
    }
    let told: Vec<_> = folder.media().iter().map(|file| events(&file.with_extension("jsonl"))).collect();
    let (ends, begins) = (&told[0][told[0].len() - 1], &told[1][0]);
    let overlap = told[0][0]["unix_ms"].as_i64().zip(ends["at_ms"].as_i64()).zip(begins["unix_ms"].as_i64());
    let overlap = overlap.map(|((from, length), next)| from + length - next).expect("times");
    assert!((1_500..2_500).contains(&overlap), "{overlap} ms");
    for file in folder.media() {
        assert!(decoded_all(&file) > 0, "{}", file.display());
    }
}

/// Of each track in each file its title, when its last packet came in seconds of the wall clock, and how many there are.
fn tracks_of(folder: &Folder) -> Vec<(String, f64, usize)> {
    let mut tracks = Vec::new();
    for file in folder.media() {
        let began = events(&file.with_extension("jsonl"))[0]["unix_ms"].as_f64().expect("a time") / 1_000.0;
        for (title, packets) in titles(&file, RecordFormat::Webm).into_iter().zip(probe(&file).1) {
            tracks.push((title, began + packets.last().map_or(0.0, |last| last.time), packets.len()));
        }
    }
    tracks
}
