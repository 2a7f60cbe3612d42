//! Recordings read back: files by ffprobe, events as JSON; and packets of real encoders given to a recorder as workers would.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use distributary::config::{BEST_LAYER, RecordFiles, RecordFormat, RecordPlan, RecordSync, RecordWish, RoomPattern};
use distributary::mem::{Arena, Slots};
use distributary::metrics::WorkerMetrics;
use distributary::record::{Disk, Links, Recorder, unfinished};
use distributary::rtp::config::{Codec, CodecConfig, Feedback, Format};
use distributary::rtp::media::Media;
use distributary::units::{ExtendedSequence, Micros, PayloadType, PeerId, TrackId, WorkerId};
use distributary::wire::{av1, h264, rtp, vp8, vp9};
use distributary::worker::mail::{Command as Order, Outbox, ring};
use distributary::worker::tap::{Notice, Office, Order as Recorded, Publisher, RecordingId, Tapped, TappedTrack};

/// A folder of its own, gone at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("distributary-record-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub fn plan(&self, rooms: &str) -> RecordPlan {
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

    /// The files of media under it.
    pub fn media(&self) -> Vec<PathBuf> {
        let mut files = self.files("");
        files.retain(|file| file.extension().is_some_and(|extension| extension != "jsonl"));
        files
    }

    /// Files under it, by the ends of their names.
    pub fn files(&self, end: &str) -> Vec<PathBuf> {
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
pub struct Packet {
    pub time: f64,
    pub size: usize,
    pub key: bool,
}

/// Codecs of a file's tracks, and the packets of each.
pub fn probe(file: &Path) -> (Vec<String>, Vec<Vec<Packet>>) {
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

pub fn events(file: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(file).expect("a sidecar");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// RTP packets of a second and a half of ffmpeg's test picture, which an encoder and a packetizer of other people made.
pub fn encoded(encoder: &[&str]) -> Vec<Vec<u8>> {
    let picture = ["-i", "testsrc=size=640x360:rate=30", "-frames:v", "45", "-pix_fmt", "yuv420p", "-b:v", "300k", "-g", "15"];
    generated(&[picture.as_slice(), encoder].concat())
}

pub fn generated(options: &[&str]) -> Vec<Vec<u8>> {
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
pub fn media(arena: &mut distributary::mem::Slots, track: TrackId, codec: Codec, bytes: &[u8], arrival: Micros) -> Media {
    let header = rtp::Header::parse(bytes).expect("RTP");
    let payload = &bytes[header.payload_range(bytes).expect("a payload")];
    let (key_frame, picture, layer) = match codec {
        Codec::Opus => Ok((true, Default::default(), Default::default())),
        Codec::Vp8 => vp8::parse(payload).map(|read| (read.key_frame, read.picture, read.layer(header.marker))),
        Codec::Av1 => av1::parse(payload).map(|read| (read.key_frame, Default::default(), Default::default())),
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

/// A recorder that is given what a worker would have handed over.
pub struct Feed {
    pub recorder: Recorder,
    outbox: Outbox<Tapped>,
    notices: mpsc::Sender<Notice>,
    /// What it asks of the worker.
    pub asked: rtrb::Consumer<Order>,
    arena: Slots,
    publishers: u32,
    recordings: u64,
    tracks: Vec<(TrackId, Codec)>,
}

impl Feed {
    pub fn new(plan: RecordPlan) -> Feed {
        let (outbox, tapped) = ring(8192, Arc::new(|| {}));
        let (commands, asked) = ring(1024, Arc::new(|| {}));
        let (notices, noticed) = mpsc::channel();
        let office = Office { commands: vec![commands], tapped: vec![tapped] };
        let links = Links { notices: noticed, office, tables: Vec::new() };
        let recorder = Recorder::new(plan, Disk::at_once(Arc::default()), links, Arc::<WorkerMetrics>::default(), 0);
        Feed { recorder, outbox, notices, asked, arena: Arena::leak(8192), publishers: 0, recordings: 0, tracks: Vec::new() }
    }

    /// A publisher of these codecs comes, in place of the one there was.
    pub fn publish(&mut self, room: &str, codecs: &[Codec]) {
        self.leave();
        self.tracks.clear();
        let recording = self.begin(room, "", RecordWish::default());
        let (publisher, tracks) = self.publisher("", codecs);
        self.order(Recorded::Take { recording, publisher, tracks });
    }

    pub fn begin(&mut self, room: &str, label: &str, wish: RecordWish) -> RecordingId {
        self.recordings += 1;
        let recording = RecordingId(self.recordings);
        let (room, label, present) = (room.to_owned(), label.to_owned(), Vec::new());
        self.order(Recorded::Begin { recording, room, label, wish, present });
        recording
    }

    /// A publisher whose tracks follow those there are in number. It is in no recording yet.
    pub fn publisher(&mut self, identity: &str, codecs: &[Codec]) -> (Publisher, Vec<TappedTrack>) {
        self.publishers += 1;
        let generation = self.publishers;
        let config = |codec: Codec| CodecConfig {
            codec,
            payload_type: PayloadType(96),
            rtx: None,
            red: None,
            clock_rate: clock_rate(codec) as u32,
            format: Format::Any,
            feedback: Feedback::default(),
        };
        let track = |(slot, codec): (usize, &Codec)| TappedTrack {
            id: TrackId { slot: slot as u32, generation },
            codec: config(*codec),
            rids: Default::default(),
            sid: String::new(),
            source: if *codec == Codec::Opus { "microphone" } else { "camera" },
        };
        let tracks: Vec<TappedTrack> = codecs.iter().enumerate().map(track).collect();
        self.tracks.extend(tracks.iter().map(|track| (track.id, track.codec.codec)));
        let id = PeerId { slot: 0, generation };
        let publisher =
            Publisher { id, owner: WorkerId(0), session: format!("session{generation}"), identity: identity.to_owned() };
        (publisher, tracks)
    }

    pub fn leave(&mut self) {
        if !self.tracks.is_empty() {
            self.order(Recorded::End { recording: RecordingId(self.recordings) });
        }
    }

    pub fn order(&self, order: Recorded) {
        self.notices.send(Notice::Record(order)).expect("a recorder");
    }

    /// One packet of the publisher's track of that index.
    pub fn packet(&mut self, track: usize, bytes: &[u8], now: Micros) {
        let (id, codec) = self.tracks[track];
        let media = media(&mut self.arena, id, codec, bytes, now);
        assert!(self.outbox.push(Tapped::Media(media)).is_ok());
        self.recorder.turn(now);
    }

    /// The packets of several tracks, each at the time that it says, the first of each at `from`; and the time of the last.
    pub fn all(&mut self, tracks: &[&[Vec<u8>]], from: Micros) -> Micros {
        let streams: Vec<_> =
            tracks.iter().enumerate().map(|(track, packets)| (track, self.tracks[track].1, *packets, from)).collect();
        let timed = timed(&streams);
        for (at, track, bytes) in &timed {
            self.packet(*track, bytes, *at);
        }
        timed.last().map_or(from, |(at, ..)| *at)
    }
}

/// The packets of several tracks in order of time, each at the time that it says, the first of each when that one begins.
pub fn timed<'a>(streams: &[(usize, Codec, &'a [Vec<u8>], Micros)]) -> Vec<(Micros, usize, &'a [u8])> {
    let mut timed: Vec<(Micros, usize, &[u8])> = Vec::new();
    for (track, codec, packets, from) in streams {
        let first = packets.first().map_or(0, |bytes| time_of(bytes));
        let at = |bytes: &[u8]| *from + Micros(time_of(bytes).wrapping_sub(first) as u64 * 1_000_000 / clock_rate(*codec));
        timed.extend(packets.iter().map(|bytes| (at(bytes), *track, bytes.as_slice())));
    }
    timed.sort_by_key(|(at, ..)| *at);
    timed
}

pub fn clock_rate(codec: Codec) -> u64 {
    if codec == Codec::Opus { 48_000 } else { 90_000 }
}

/// Of an RTP packet.
pub fn time_of(packet: &[u8]) -> u32 {
    rtp::Header::parse(packet).expect("RTP").timestamp.0
}

/// Records `packets`; the file, and what there was of it before its end.
pub fn record(folder: &Folder, format: RecordFormat, codec: Codec, packets: &[Vec<u8>]) -> (PathBuf, Vec<u8>) {
    let mut feed = Feed::new(RecordPlan { format, ..folder.plan("*") });
    feed.publish("room", &[codec]);
    let last = feed.all(&[packets], Micros::from_secs(1));
    feed.recorder.turn(last + Micros::from_secs(1));
    let before = fs::read(unfinished(&folder.0).pop().expect("a file")).expect("a file");
    feed.recorder.end(last + Micros::from_secs(1));
    (folder.media().pop().expect("a file"), before)
}

/// Decodes a file as a player would; how many pictures it has.
pub fn decoded(file: &Path) -> usize {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().trim_matches(',').parse().expect("a count")
}

/// Seconds that a file says it is long.
pub fn length(file: &Path) -> f64 {
    let output =
        Command::new("ffprobe").args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(file).output();
    let text = String::from_utf8(output.expect("ffprobe is installed").stdout).expect("text");
    text.trim().parse().unwrap_or_else(|_| panic!("{} says no length: {text}", file.display()))
}
