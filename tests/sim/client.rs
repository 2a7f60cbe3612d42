//! A publisher or a viewer on str0m, a WebRTC stack that shares no code with the server: real offers and answers, ICE, DTLS,
//! SRTP, NACK, RTX and feedback. Time and network are the simulator's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Once;
use std::time::{Duration, Instant};

use distributary::signal::api::{Purpose, SessionPath};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, KeyframeRequestKind, MediaData, MediaKind, MediaTime, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RawPacket;
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};

use super::decoder::Decoder;
use super::member::{self, Line, SCREEN, Watcher};
use super::network::Link;
use super::picture::{self, Frame};

/// 30 pictures a second.
const VIDEO_INTERVAL: u64 = 33_333;
/// 50 packets of sound a second.
const AUDIO_INTERVAL: u64 = 20_000;
/// Time between two key-frame requests of a viewer that cannot go on.
const KEY_FRAME_INTERVAL: u64 = 300_000;

/// Payload types that str0m gives VP8 and its retransmissions.
const VP8: u8 = 96;
const VP8_RTX: u8 = 97;
/// And redundant sound.
pub const RED: u8 = 63;
/// Names of simulcast encodings.
pub const RIDS: [&str; 3] = ["q", "h", "f"];

/// What a publisher makes.
pub struct Publisher {
    pub id: u32,
    pub frames: u64,
    pub sounds: u64,
    pub key_frames: u64,
    pub key_frame_requests: u64,
    /// By encoding.
    pub key_frames_asked: [u64; RIDS.len()],
    /// Sizes of its pictures in quarters of the usual; more than one: simulcast, by [`RIDS`]. 0: switched off.
    pub encodings: Vec<u8>,
    /// Size of the pictures of a second video, in one encoding; 0: there is none.
    pub screen: u8,
    /// Which packets before it each of sound repeats (RFC 2198), counted back; none: it is not offered.
    pub red: Vec<u32>,
    /// Of which encodings the next picture is a key frame, a bit each.
    pub key_wanted: u8,
    next_video: u64,
    next_audio: u64,
}

/// What a viewer got.
#[derive(Default)]
pub struct Viewer {
    /// Takes redundant sound (RFC 2198).
    pub red: bool,
    pub frames: u64,
    pub sounds: u64,
    /// Pictures of one publisher between the first and the last seen that never came.
    pub lost: u64,
    pub lost_sounds: u64,
    /// Pictures that follow a lost one, up to the next key frame.
    pub undecodable: u64,
    pub key_frames: u64,
    pub publishers: BTreeSet<u32>,
    /// What must never happen, in words.
    pub violations: Vec<String>,
    pub last: Option<Frame>,
    pub first_at: u64,
    pub last_at: u64,
    /// What a browser would show of its packets: it does not wait as long as str0m does.
    pub decoder: Decoder,
    /// Whether the last frames make a picture.
    pub picture: bool,
    last_sound: Option<Frame>,
    last_time: [u64; 2],
    /// Video's last sequence number, and how often the next was not the one after.
    last_sequence: Option<u64>,
    pub gaps: u64,
    /// Sequence numbers of video, in the order in which they came; and all packets but retransmissions.
    pub numbers: Vec<u16>,
    pub packets: u64,
    /// Payload types and SSRCs that came.
    pub ssrcs: BTreeSet<(u8, u32)>,
    asked: u64,
}

impl Publisher {
    pub fn new(id: u32) -> Publisher {
        Publisher::simulcast(id, &[4])
    }

    pub fn simulcast(id: u32, encodings: &[u8]) -> Publisher {
        Publisher {
            id,
            frames: 0,
            sounds: 0,
            key_frames: 0,
            key_frame_requests: 0,
            key_frames_asked: [0; RIDS.len()],
            encodings: encodings.to_vec(),
            screen: 0,
            red: Vec::new(),
            key_wanted: 0,
            next_video: 0,
            next_audio: 0,
        }
    }
}

#[allow(clippy::large_enum_variant)] // a few of them
pub enum Part {
    Publisher(Publisher),
    Viewer(Viewer),
    /// A member of a room, who watches.
    Watcher(Watcher),
}

pub struct Client {
    rtc: Rtc,
    base: Instant,
    /// The address the client itself knows.
    local: SocketAddr,
    /// The address the server sees: another one after a rebinding on the way.
    pub public: SocketAddr,
    server: SocketAddr,
    pub link: Link,
    pub path: Option<SessionPath>,
    pub part: Part,
    /// Of a member: how it is told things.
    pub line: Option<Line>,
    pub connected: bool,
    /// Connected once, and lost since.
    pub disconnected: bool,
    /// Set to false, nothing of it is heard any more.
    pub alive: bool,
    pub joined_at: u64,
    pub connected_at: u64,
    video: Mid,
    audio: Mid,
    screen: Option<Mid>,
    answer: String,
    pending: Option<SdpPendingOffer>,
    /// When it wants to be called, in microseconds.
    pub next: u64,
}

impl Client {
    /// A client and its offer. `patience`: packets for which it waits for a lost one.
    pub fn new(
        part: Part,
        local: SocketAddr,
        server: SocketAddr,
        link: Link,
        base: Instant,
        now: u64,
        patience: usize,
    ) -> (Client, String) {
        static CRYPTO: Once = Once::new();
        CRYPTO.call_once(|| str0m::crypto::from_feature_flags().install_process_default());
        let (red, distances) = match &part {
            Part::Publisher(publisher) => (!publisher.red.is_empty(), &publisher.red[..]),
            Part::Viewer(viewer) => (viewer.red, &[][..]),
            Part::Watcher(_) => (false, &[][..]),
        };
        let mut rtc = Rtc::builder()
            .clear_codecs()
            .enable_vp8(true)
            .enable_opus(true, red)
            .set_red_distances(distances)
            .enable_raw_packets(true)
            .set_reordering_size_video(patience)
            .build(base + Duration::from_micros(now));
        rtc.add_local_candidate(Candidate::host(local, "udp").expect("a candidate"));
        let direction = if matches!(part, Part::Publisher(_)) { Direction::SendOnly } else { Direction::RecvOnly };
        let mut change = rtc.sdp_api();
        let name = |what: &str| match &part {
            Part::Publisher(publisher) => (Some(format!("of-{}", publisher.id)), Some(format!("{what}-{}", publisher.id))),
            _ => (None, None),
        };
        let ((stream, mic), (_, camera), (_, shared)) = (name("mic"), name("camera"), name("screen"));
        let audio = change.add_media(MediaKind::Audio, direction, stream.clone(), mic, None);
        let simulcast = match &part {
            Part::Publisher(publisher) if publisher.encodings.len() > 1 => {
                let layers = RIDS.iter().take(publisher.encodings.len());
                Some(Simulcast { send: layers.map(|rid| SimulcastLayer::new(rid)).collect(), recv: Vec::new() })
            }
            _ => None,
        };
        let video = change.add_media(MediaKind::Video, direction, stream.clone(), camera, simulcast);
        let mut screen = None;
        match &part {
            Part::Publisher(publisher) if publisher.screen > 0 => {
                screen = Some(change.add_media(MediaKind::Video, direction, stream, shared, None));
            }
            Part::Watcher(watcher) => {
                let more = std::iter::repeat_n(MediaKind::Audio, watcher.sounds - 1);
                for kind in more.chain(std::iter::repeat_n(MediaKind::Video, watcher.pictures - 1)) {
                    change.add_media(kind, direction, None, None, None);
                }
            }
            _ => {}
        }
        let (offer, pending) = change.apply().expect("an offer");
        let client = Client {
            rtc,
            base,
            local,
            public: local,
            server,
            link,
            path: None,
            part,
            line: None,
            connected: false,
            disconnected: false,
            alive: true,
            joined_at: now,
            connected_at: 0,
            video,
            audio,
            screen,
            answer: String::new(),
            pending: Some(pending),
            next: now,
        };
        (client, offer.to_sdp_string())
    }

    pub fn purpose(&self) -> Purpose {
        match self.part {
            Part::Publisher(_) => Purpose::Publish,
            Part::Viewer(_) | Part::Watcher(_) => Purpose::Watch,
        }
    }

    /// What a member says that it publishes.
    pub fn tracks(&self) -> Vec<livekit_protocol::AddTrackRequest> {
        use livekit_protocol::{TrackSource, TrackType};
        let Part::Publisher(Publisher { id, screen, .. }) = &self.part else { return Vec::new() };
        let mut tracks = vec![
            member::track(format!("mic-{id}"), TrackType::Audio, TrackSource::Microphone),
            member::track(format!("camera-{id}"), TrackType::Video, TrackSource::Camera),
        ];
        if *screen > 0 {
            tracks.push(member::track(format!("screen-{id}"), TrackType::Video, TrackSource::ScreenShare));
        }
        tracks
    }

    pub fn accept(&mut self, answer: &str, path: impl Into<Option<SessionPath>>) {
        self.path = path.into();
        self.answer = answer.to_owned();
        let parsed = SdpAnswer::from_sdp_string(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let pending = self.pending.take().expect("an offer was made");
        self.rtc.sdp_api().accept_answer(pending, parsed).expect("an acceptable answer");
        if let Part::Publisher(_) = self.part {
            // By default str0m stops retransmitting when that is more than 15 % of what it sends.
            for mid in [Some(self.audio), Some(self.video), self.screen].into_iter().flatten() {
                if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, None) {
                    stream.set_rtx_cache(2048, Duration::from_secs(3), None);
                }
            }
        }
    }

    /// The fragment of a PATCH that restarts ICE.
    pub fn restart(&mut self) -> String {
        let mut change = self.rtc.sdp_api();
        let credentials = change.ice_restart(true);
        let (_, pending) = change.apply().expect("an offer");
        self.pending = Some(pending);
        let mid = self.audio;
        format!("a=ice-ufrag:{}\r\na=ice-pwd:{}\r\nm=audio 9 RTP/AVP 0\r\na=mid:{mid}\r\n", credentials.ufrag, credentials.pass)
    }

    /// The server's fragment: its new credentials, put into the answer it gave before.
    pub fn restarted(&mut self, fragment: &str) {
        let value = |name: &str| fragment.lines().find_map(|line| line.strip_prefix(name)).expect("credentials").trim().to_owned();
        let (ufrag, pwd) = (value("a=ice-ufrag:"), value("a=ice-pwd:"));
        let lines = self.answer.lines().map(|line| match line.split_once(':') {
            Some(("a=ice-ufrag", _)) => format!("a=ice-ufrag:{ufrag}\r\n"),
            Some(("a=ice-pwd", _)) => format!("a=ice-pwd:{pwd}\r\n"),
            _ => format!("{line}\r\n"),
        });
        let answer: String = lines.collect();
        let parsed = SdpAnswer::from_sdp_string(&answer).expect("an answer");
        self.connected = false;
        self.disconnected = false;
        self.rtc.sdp_api().accept_answer(self.pending.take().expect("a restart"), parsed).expect("a restart");
        self.answer = answer;
    }

    fn instant(&self, now: u64) -> Instant {
        self.base + Duration::from_micros(now)
    }

    pub fn receive(&mut self, bytes: &[u8], now: u64, sent: &mut Vec<Vec<u8>>) {
        if !self.alive {
            return;
        }
        // What is not a protocol it knows (a flipped bit can make that) is not for it.
        let Ok(receive) = Receive::new(Protocol::Udp, self.server, self.local, bytes) else { return };
        let _ = self.rtc.handle_input(Input::Receive(self.instant(now), receive));
        self.poll(now, sent);
    }

    /// Its turn: timers, and what it has to publish.
    pub fn turn(&mut self, now: u64, sent: &mut Vec<Vec<u8>>) {
        if !self.alive {
            return;
        }
        let _ = self.rtc.handle_input(Input::Timeout(self.instant(now)));
        self.poll(now, sent);
        if self.connected && self.publish(now) {
            self.poll(now, sent);
        }
    }

    fn poll(&mut self, now: u64, sent: &mut Vec<Vec<u8>>) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    let at = at.saturating_duration_since(self.base).as_micros() as u64;
                    self.next = at.max(now + 1);
                    break;
                }
                Ok(Output::Transmit(transmit)) => sent.push(transmit.contents.to_vec()),
                Ok(Output::Event(event)) => self.event(event, now),
                Err(_) => {
                    self.alive = false;
                    return;
                }
            }
        }
        if let Part::Publisher(publisher) = &self.part
            && self.connected
        {
            self.next = self.next.min(publisher.next_video).min(publisher.next_audio);
        }
    }

    fn event(&mut self, event: Event, now: u64) {
        match event {
            Event::Connected => {
                self.connected = true;
                self.connected_at = now;
                if let Part::Publisher(publisher) = &mut self.part {
                    (publisher.next_video, publisher.next_audio) = (now, now);
                }
            }
            Event::IceConnectionStateChange(state) => match state {
                IceConnectionState::Disconnected => self.disconnected = true,
                IceConnectionState::Connected | IceConnectionState::Completed => {
                    self.disconnected = false;
                    self.connected |= self.connected_at > 0;
                }
                _ => {}
            },
            Event::KeyframeRequest(request) => {
                if let Part::Publisher(publisher) = &mut self.part {
                    let encoding = RIDS.iter().position(|rid| request.rid == Some(Rid::from(*rid))).unwrap_or(0);
                    publisher.key_wanted |= 1 << encoding;
                    publisher.key_frame_requests += 1;
                    publisher.key_frames_asked[encoding] += 1;
                }
            }
            Event::MediaData(data) => self.media(data, now),
            Event::RawPacket(packet) => {
                if let (RawPacket::RtpRx(header, payload), Part::Viewer(viewer)) = (*packet, &mut self.part) {
                    viewer.ssrcs.insert((*header.payload_type, *header.ssrc));
                    viewer.packets += (*header.payload_type != VP8_RTX) as u64;
                    match *header.payload_type {
                        VP8 => {
                            viewer.numbers.push(header.sequence_number);
                            viewer.decoder.packet(header.sequence_number, header.timestamp, header.marker, &payload, now);
                        }
                        // RFC 4588 §4: the original number comes first.
                        VP8_RTX if payload.len() > 2 => {
                            let original = u16::from_be_bytes([payload[0], payload[1]]);
                            viewer.decoder.packet(original, header.timestamp, header.marker, &payload[2..], now);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn publish(&mut self, now: u64) -> bool {
        let Part::Publisher(publisher) = &mut self.part else { return false };
        let at = self.base + Duration::from_micros(now);
        let mut wrote = false;
        while publisher.next_video <= now {
            // One in ten seconds, as encoders do, and whenever somebody asks.
            let time = MediaTime::from_90khz(publisher.next_video * 9 / 100);
            for (index, quarters) in publisher.encodings.iter().enumerate().filter(|(_, quarters)| **quarters > 0) {
                let key = publisher.key_wanted >> index & 1 != 0 || publisher.frames % 300 == 0;
                let frame = picture::video(publisher.id, publisher.frames, key, *quarters);
                let rid = (publisher.encodings.len() > 1).then(|| Rid::from(RIDS[index]));
                write(&mut self.rtc, self.video, rid, Codec::Vp8, at, time, frame);
                publisher.key_frames += key as u64;
            }
            if let Some(screen) = self.screen {
                // Whoever asks, asks for all.
                let key = publisher.key_wanted != 0 || publisher.frames % 300 == 0;
                let frame = picture::video(publisher.id + SCREEN, publisher.frames, key, publisher.screen);
                write(&mut self.rtc, screen, None, Codec::Vp8, at, time, frame);
            }
            publisher.key_wanted = 0;
            publisher.frames += 1;
            publisher.next_video += VIDEO_INTERVAL;
            wrote = true;
        }
        while publisher.next_audio <= now {
            let packet = picture::audio(publisher.id, publisher.sounds);
            let time = MediaTime::new(publisher.next_audio * 48 / 1_000, str0m::media::Frequency::FORTY_EIGHT_KHZ);
            write(&mut self.rtc, self.audio, None, Codec::Opus, at, time, packet);
            publisher.sounds += 1;
            publisher.next_audio += AUDIO_INTERVAL;
            wrote = true;
        }
        wrote
    }

    fn media(&mut self, data: MediaData, now: u64) {
        if let Part::Watcher(watcher) = &mut self.part {
            let video = data.params.spec().codec.is_video();
            return watcher.take(&data.data, video, now);
        }
        let Part::Viewer(viewer) = &mut self.part else { return };
        let video = data.mid == self.video;
        let time = data.time.numer();
        let last = &mut viewer.last_time[video as usize];
        if time <= *last {
            viewer.violations.push(format!("{now}: timestamp {time} after {last}, video: {video}"));
        }
        *last = time;
        if !video {
            return viewer.hear(&data.data, now);
        }
        viewer.gaps += viewer.last_sequence.is_some_and(|last| **data.seq_range.start() != last + 1) as u64;
        viewer.last_sequence = Some(**data.seq_range.end());
        // What str0m makes of a stream's first packets when they are lost or out of order is not the server's doing.
        let strict = self.link.jitter_micros == 0 && self.link.loss == 0.0 && self.link.corruption == 0.0;
        viewer.see(&data.data, strict, now);
        if !viewer.picture && now >= viewer.asked + KEY_FRAME_INTERVAL {
            viewer.asked = now;
            if let Some(mut writer) = self.rtc.writer(self.video) {
                let _ = writer.request_keyframe(None, KeyframeRequestKind::Pli);
            }
        }
    }

    pub fn viewer(&self) -> &Viewer {
        match &self.part {
            Part::Viewer(viewer) => viewer,
            _ => panic!("no viewer"),
        }
    }

    pub fn watcher(&self) -> &Watcher {
        match &self.part {
            Part::Watcher(watcher) => watcher,
            _ => panic!("no member who watches"),
        }
    }

    pub fn publisher(&self) -> &Publisher {
        match &self.part {
            Part::Publisher(publisher) => publisher,
            _ => panic!("no publisher"),
        }
    }
}

fn write(rtc: &mut Rtc, mid: Mid, rid: Option<Rid>, codec: Codec, at: Instant, time: MediaTime, data: Vec<u8>) {
    let mut writer = rtc.writer(mid).expect("an m-line to send on");
    if let Some(rid) = rid {
        writer = writer.rid(rid);
    }
    let payload_type = writer.payload_params().find(|params| params.spec().codec == codec).expect("the codec").pt();
    writer.write(payload_type, at, time, data).expect("written");
}

impl Viewer {
    fn see(&mut self, bytes: &[u8], strict: bool, now: u64) {
        let Some(frame) = picture::read_video(bytes) else {
            // Incomplete pictures must not come out of a receiver at all, wrong ones even less.
            return self.violations.push(format!("{now}: a picture of {} bytes is not what was sent", bytes.len()));
        };
        if self.frames == 0 {
            self.first_at = now;
        }
        self.frames += 1;
        self.key_frames += frame.key as u64;
        self.last_at = now;
        self.publishers.insert(frame.publisher);
        match self.last {
            None if !frame.key && strict => self.violations.push(format!("{now}: the first picture is no key frame: {frame:?}")),
            Some(last) if last.publisher == frame.publisher => {
                // The same moment may come in two encodings, where one takes over from the other.
                let same = frame.counter == last.counter && frame.quarters != last.quarters && frame.key;
                if same {
                } else if frame.counter <= last.counter {
                    self.violations.push(format!("{now}: {frame:?} after {last:?}"));
                } else {
                    self.lost += frame.counter - last.counter - 1;
                    self.picture &= frame.counter == last.counter + 1;
                }
            }
            Some(last) if !frame.key && strict => {
                self.violations.push(format!("{now}: {frame:?} begins a stream after {last:?}"));
            }
            _ => self.picture = false,
        }
        self.picture |= frame.key;
        self.undecodable += !self.picture as u64;
        self.last = Some(frame);
    }

    fn hear(&mut self, bytes: &[u8], now: u64) {
        let Some(packet) = picture::read_audio(bytes) else {
            return self.violations.push(format!("{now}: a sound of {} bytes is not what was sent", bytes.len()));
        };
        self.sounds += 1;
        if let Some(last) = self.last_sound
            && last.publisher == packet.publisher
        {
            self.lost_sounds += packet.counter.saturating_sub(last.counter + 1);
        }
        self.last_sound = Some(packet);
    }
}
