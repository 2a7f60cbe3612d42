//! Recordings of simulated publishers, read by ffprobe: every picture and sound is in the file once, in time, and a crash or a bad file
//! system costs no more than it says.

#[path = "sim/mod.rs"]
mod sim;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use distributary::config::{BEST_LAYER, RecordFiles, RecordFormat, RecordPlan, RecordSync, RecordWish, RoomPattern};
use distributary::mem::Arena;
use distributary::metrics::{Counter, WorkerMetrics};
use distributary::record::{Links, Recorder, complete_all, unfinished};
use distributary::rtp::config::{Codec, CodecConfig, Feedback, Format};
use distributary::rtp::media::Media;
use distributary::units::{ExtendedSequence, Micros, PayloadType, PeerId, TrackId, WorkerId};
use distributary::wire::{h264, rtp, vp8, vp9};
use distributary::worker::mail::ring;
use distributary::worker::tap::{Notice, Office, Tapped, TappedTrack};
use sim::network::Link;
use sim::{World, picture, watching};

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("distributary-record-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn plan(&self, rooms: &str) -> RecordPlan {
        RecordPlan {
            folder: self.0.clone(),
            rooms: vec![RoomPattern(rooms.to_owned())],
            format: RecordFormat::Webm,
            files: RecordFiles::Participant,
            layer: BEST_LAYER.to_owned(),
            sync: RecordSync::End,
            split_after: None,
            split_bytes: None,
        }
    }

    /// Files under it, by the ends of their names.
    fn files(&self, end: &str) -> Vec<PathBuf> {
        let rooms = fs::read_dir(&self.0).expect("a folder").flatten();
        let files = rooms.flat_map(|room| fs::read_dir(room.path()).into_iter().flatten().flatten());
        let mut files: Vec<PathBuf> = files.map(|file| file.path()).filter(|path| path.to_string_lossy().ends_with(end)).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Packet {
    time: f64,
    size: usize,
    key: bool,
}

/// Codecs of a file's tracks, and the packets of each.
fn probe(file: &Path) -> (Vec<String>, Vec<Vec<Packet>>) {
    let ffprobe = |entries: &str| {
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-of", "csv=p=0", "-show_entries", entries])
            .arg(file)
            .output()
            .expect("ffprobe is installed (Debian: ffmpeg)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let codecs: Vec<String> = ffprobe("stream=codec_name").lines().map(|line| line.trim_matches(',').to_owned()).collect();
    let mut packets = vec![Vec::new(); codecs.len()];
    for line in ffprobe("packet=stream_index,pts_time,size,flags").lines() {
        let fields: Vec<&str> = line.split(',').collect();
        let (stream, time): (usize, f64) = (fields[0].parse().expect("a stream"), fields[1].parse().expect("a time"));
        packets[stream].push(Packet { time, size: fields[2].parse().expect("a size"), key: fields[3].starts_with('K') });
    }
    (codecs, packets)
}

fn events(file: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(file).expect("a sidecar");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

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
        let gaps = events(&folder.files(".jsonl")[0]).iter().filter(|event| event["event"] == "gap").count();
        assert_eq!(gaps as u64, world.server.count(Counter::RecordingGaps));
        assert!(gaps > 10);
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

/// RTP packets of a second and a half of ffmpeg's test picture, which an encoder and a packetizer of other people made.
fn encoded(encoder: &[&str]) -> Vec<Vec<u8>> {
    let picture = ["-i", "testsrc=size=640x360:rate=30", "-frames:v", "45", "-pix_fmt", "yuv420p", "-b:v", "300k", "-g", "15"];
    generated(&[picture.as_slice(), encoder].concat())
}

fn generated(options: &[&str]) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
    let to = format!("rtp://127.0.0.1:{}", socket.local_addr().expect("an address").port());
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-re", "-f", "lavfi"]).args(options);
    let options = ["-strict", "experimental", "-payload_type", "96", "-f", "rtp", &to];
    let mut child = ffmpeg.args(options).stdout(std::process::Stdio::null()).spawn().expect("ffmpeg is installed");
    let (mut packets, mut buffer) = (Vec::new(), [0; 2048]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => packets.push(buffer[..len].into()),
            Err(_) if child.try_wait().expect("a process").is_some() => break,
            Err(_) => {}
        }
    }
    packets
}

/// What a worker would have handed over. RTP counts from one place for all, so that a packet that is left out is missed.
fn media(arena: &mut distributary::mem::Slots, track: TrackId, codec: Codec, bytes: &[u8], arrival: Micros) -> Media {
    let header = rtp::Header::parse(bytes).expect("RTP");
    let payload = &bytes[header.payload_range(bytes).expect("a payload")];
    let (key_frame, picture, layer) = match codec {
        Codec::Opus => Ok((true, Default::default(), Default::default())),
        Codec::Vp8 => vp8::parse(payload).map(|read| (read.key_frame, read.picture, read.layer(header.marker))),
        Codec::Vp9 => vp9::parse(payload).map(|read| (read.key_frame, read.picture, read.layer())),
        _ => h264::parse(payload).map(|read| (read.key_frame, Default::default(), read.layer(header.marker))),
    }
    .expect("a payload");
    let mut packet = arena.take().expect("a slot");
    packet.fill(bytes);
    Media {
        track,
        packet: packet.freeze(),
        header_len: header.header_len as u16,
        payload_len: payload.len() as u16,
        padding: 0,
        stream: 0,
        encoding: 0,
        layer,
        marker: header.marker,
        key_frame,
        sequence: ExtendedSequence::first(header.sequence_number),
        timestamp: header.timestamp,
        arrival,
        extensions: Default::default(),
        picture,
        dependency: None,
    }
}

/// Records `packets`; the file, and what there was of it before its end.
fn record(folder: &Folder, format: RecordFormat, codec: Codec, packets: &[Vec<u8>]) -> (PathBuf, Vec<u8>) {
    let (mut outbox, tapped) = ring(8192, Arc::new(|| {}));
    let (commands, _asked) = ring(64, Arc::new(|| {}));
    let (notices, noticed) = mpsc::channel();
    let office = Office { commands: vec![commands], tapped: vec![tapped] };
    let links = Links { notices: noticed, office, tables: Vec::new() };
    let mut recorder = Recorder::new(RecordPlan { format, ..folder.plan("*") }, links, Arc::<WorkerMetrics>::default(), 0);
    let (publisher, id) = (PeerId { slot: 0, generation: 1 }, TrackId { slot: 0, generation: 1 });
    let codec_config = CodecConfig {
        codec,
        payload_type: PayloadType(96),
        rtx: None,
        red: None,
        clock_rate: if codec == Codec::Opus { 48_000 } else { 90_000 },
        format: Format::Any,
        feedback: Feedback::default(),
    };
    let tracks = vec![TappedTrack { id, codec: codec_config, rids: Default::default() }];
    let (room, session, wish) = ("room".to_owned(), "session".to_owned(), RecordWish::default());
    notices.send(Notice::Opened { publisher, owner: WorkerId(0), room, session, tracks, wish }).expect("a recorder");
    let mut arena = Arena::leak(8192);
    let first = rtp::Header::parse(&packets[0]).expect("RTP").timestamp;
    let mut now = Micros::ZERO;
    for bytes in packets {
        let time = rtp::Header::parse(bytes).expect("RTP").timestamp.distance(first) as u64;
        now = Micros(1_000_000 + time * 1_000_000 / codec_config.clock_rate as u64);
        assert!(outbox.push(Tapped::Media(media(&mut arena, id, codec, bytes, now))).is_ok());
        recorder.turn(now);
    }
    recorder.turn(now + Micros::from_secs(1));
    let before = fs::read(unfinished(&folder.0).pop().expect("a file")).expect("a file");
    recorder.end(now + Micros::from_secs(1));
    let media = |file: &PathBuf| file.extension().is_some_and(|extension| extension != "jsonl");
    (folder.files("").into_iter().find(media).expect("a file"), before)
}

/// Decodes a file as a player would; how many pictures it has.
fn decoded(file: &Path) -> usize {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().trim_matches(',').parse().expect("a count")
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

/// Seconds that a file says it is long.
fn length(file: &Path) -> f64 {
    let output =
        Command::new("ffprobe").args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(file).output();
    let text = String::from_utf8(output.expect("ffprobe is installed").stdout).expect("text");
    text.trim().parse().unwrap_or_else(|_| panic!("{} says no length: {text}", file.display()))
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
