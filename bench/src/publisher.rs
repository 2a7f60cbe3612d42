//! Publishers: they make VP8 frames and Opus packets, pace them out as browsers do, and answer key-frame requests and NACKs. One has a
//! thread of its own; where there are many, they share one, which wakes at most every quarter of a millisecond: threads of their own would
//! take a core for forty thousand packets a second.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use distributary::secure::dtls::Identity;
use distributary::units::{PayloadType, RtpTime, SequenceNumber, Ssrc};
use distributary::wire::rtcp::{self, Feedback, SenderInfo};
use distributary::wire::rtp;

use crate::cli::{Audio, Options};
use crate::http::{Client, Url};
use crate::media::{self, Kind, Picture};
use crate::sdp::{self, Answer, Sources};
use crate::sys;
use crate::transport::{self, Event, Transport};

const FRAME_INTERVAL: u64 = 1_000_000_000 / 30;
pub const AUDIO_INTERVAL: u64 = 20_000_000;
pub const REPORT_INTERVAL: u64 = 1_000_000_000;
pub const AUDIO_PAYLOAD: usize = 120;
/// Largest RTP packet before protection.
pub const PACKET_MAX: usize = 1184;
/// See [`State::meager`].
const MEAGER: u64 = 15;
/// A key frame is so many times as large as others are on average.
const KEY_FRAME_FACTOR: u64 = 4;
/// Packets kept for retransmission.
const HISTORY: usize = 2048;
pub const SPACE: usize = 1500;
/// More of them share a thread.
const ALONE_MAX: usize = 4;
/// Up to so many of them get up for each packet.
const EXACT_MAX: usize = 64;
/// That thread's shortest sleep with more, and time between two looks at the socket of one of them.
const TICK: u64 = 250_000;
const LOOK_INTERVAL: u64 = 10_000_000;

/// What the publisher tells while it runs.
#[derive(Default)]
pub struct State {
    pub quit: AtomicBool,
    /// No more media; checks and reports go on.
    pub pause: AtomicBool,
    /// One in [`MEAGER`] frames and audio packets: viewers who join over what is slower than the sink they get would overload the server, and
    /// what came of that would be measured.
    pub meager: AtomicBool,
    pub connected: AtomicBool,
    /// Numbers of the next audio and video packet.
    pub next: [AtomicU64; 2],
    pub key_frames: AtomicU64,
    pub key_frame_requests: AtomicU64,
    pub nacked: AtomicU64,
    pub retransmitted: AtomicU64,
    /// How long after its time a packet left, at worst; nanoseconds. Reset by whoever reads it.
    pub late_max: AtomicU64,
    pub send_errors: AtomicU64,
    pub failure: Mutex<Option<String>>,
}

/// A publisher that was accepted by the server.
pub struct Publisher {
    pub state: Arc<State>,
    pub session: Option<Url>,
}

/// Publishers and the threads that they run on.
pub struct Publishers {
    pub all: Vec<Publisher>,
    threads: Vec<JoinHandle<()>>,
}

impl Publishers {
    /// One for each of these addresses.
    pub fn start(options: &Options, whip: &[Url], identity: &Identity) -> Result<Publishers, String> {
        let joined: Result<Vec<_>, _> = whip.iter().map(|whip| Publisher::join(options, whip, identity)).collect();
        let (all, mut sources): (Vec<_>, Vec<_>) = joined?.into_iter().unzip();
        let mut threads = Vec::new();
        while !sources.is_empty() {
            let own = if whip.len() > ALONE_MAX { std::mem::take(&mut sources) } else { vec![sources.remove(0)] };
            let thread = std::thread::Builder::new().name("lg-publish".into()).spawn(move || run(own));
            threads.push(thread.map_err(|error| error.to_string())?);
        }
        Ok(Publishers { all, threads })
    }

    pub fn stop(self) {
        self.all.iter().for_each(|publisher| publisher.state.quit.store(true, Relaxed));
        for thread in self.threads {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Publisher {
    fn join(options: &Options, whip: &Url, identity: &Identity) -> Result<(Publisher, Source), String> {
        let sources = Sources {
            audio: u32::from_ne_bytes(transport::random()),
            video: u32::from_ne_bytes(transport::random()),
            video_rtx: u32::from_ne_bytes(transport::random()),
        };
        let credentials = transport::credentials();
        let wanted = (options.audio != Audio::Off, options.audio != Audio::Only);
        let offer = transport::offer(identity, &credentials, options.setup.name(), wanted, Some(sources), true);
        let response = Client::default().request("POST", whip, options.token.as_deref(), Some(&offer))?;
        if response.status != 201 {
            return Err(format!("the publisher was refused: {} {}", response.status, response.body.trim()));
        }
        let answer = Answer::read(&response.body)?;
        if answer.sections != usize::from(wanted.0) + usize::from(wanted.1) {
            return Err("the server refused an m-line of the publisher's offer".into());
        }
        let session = response.location.and_then(|location| whip.join(&location).ok());
        let any = if answer.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).and_then(|socket| socket.connect(answer.address).map(|()| socket));
        let socket = socket.map_err(|error| format!("publisher's socket: {error}"))?;
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        sys::set_receive_buffer(&socket, 4 << 20);
        let transport = Transport::new(identity, credentials, &answer, 2, sys::monotonic_ns());
        let state = Arc::new(State::default());
        let source = Source::new(options, sources, &answer, socket, transport, state.clone());
        Ok((Publisher { state, session }, source))
    }
}

/// Runs publishers until they are told to stop, or fail.
fn run(mut sources: Vec<Source>) {
    // Without that, packets leave late when the receivers are busy; how late is reported.
    sys::prioritise();
    let mut batch = sys::Batch::new(16, 2048);
    while !sources.is_empty() {
        let now = sys::monotonic_ns();
        sources.retain_mut(|source| source.due > now || source.turn(now));
        let due = sources.iter().map(|source| source.due).min().unwrap_or(0);
        let wait = due.saturating_sub(sys::monotonic_ns()).min(LOOK_INTERVAL);
        match &mut sources[..] {
            [source] => {
                if wait > 0 {
                    sys::wait_readable(&source.socket, wait);
                }
                source.look(&mut batch);
            }
            several => {
                let shortest = if several.len() > EXACT_MAX { TICK } else { 0 };
                std::thread::sleep(Duration::from_nanos(wait.max(shortest)));
                for source in several.iter_mut().filter(|source| now >= source.looked + LOOK_INTERVAL) {
                    source.look(&mut batch);
                    source.looked = now;
                }
            }
        }
    }
}

/// One RTP stream.
pub struct Stream {
    pub ssrc: Ssrc,
    pub payload_type: PayloadType,
    /// Index of the next packet: its low 16 bits are the sequence number.
    pub index: u64,
    /// The number of the next packet in its payload.
    pub number: u64,
    pub timestamp: RtpTime,
    pub packets: u32,
    pub octets: u32,
}

impl Stream {
    pub fn new(ssrc: u32, payload_type: u8) -> Stream {
        // A first sequence number in the lower half: no receiver can mistake the first roll-over (RFC 3711 §3.3.1).
        let index = u64::from(u16::from_ne_bytes(transport::random()) & 0x7fff);
        let timestamp = RtpTime(u32::from_ne_bytes(transport::random()));
        Stream { ssrc: Ssrc(ssrc), payload_type: PayloadType(payload_type), index, number: 0, timestamp, packets: 0, octets: 0 }
    }

    /// Writes a sender report of this stream (RFC 3550 §6.4.1); its length.
    pub fn write_report(&self, space: &mut [u8], now: u64) -> Option<usize> {
        // Any epoch does, as long as all streams share it; 32.32 bits fixed point.
        let ntp = ((u128::from(now) << 32) / 1_000_000_000) as u64;
        let (ssrc, rtp) = (self.ssrc, self.timestamp);
        let info = SenderInfo { ssrc, ntp, rtp, packets: self.packets, octets: self.octets };
        let len = rtcp::write_sender_report(space, &info, &[])?;
        Some(len + rtcp::write_sdes_cname(&mut space[len..], ssrc, "load")?)
    }
}

/// A video packet that waits for its time.
struct Paced {
    payload_len: usize,
    picture: Picture,
    last: bool,
    timestamp: RtpTime,
    due: u64,
}

/// A sent video packet: all that is needed to make its payload once more.
struct Sent {
    sequence: u16,
    number: u64,
    paced: Paced,
    sent: u64,
}

struct Source {
    socket: UdpSocket,
    transport: Transport,
    state: Arc<State>,
    bitrate: u64,
    pacing: f64,
    with_audio: bool,
    with_video: bool,
    extensions: Extensions,
    audio: Stream,
    video: Stream,
    retransmission: Stream,
    queue: VecDeque<Paced>,
    history: VecDeque<Sent>,
    next_frame: u64,
    next_audio: u64,
    next_report: u64,
    /// When the pacer may send again.
    free_at: u64,
    frames: u64,
    key_frame_wanted: bool,
    /// Bytes that key frames took and that later frames give back.
    debt: u64,
    picture_id: u16,
    transport_sequence: u16,
    /// When it has something to do, and when its socket was looked at last.
    due: u64,
    looked: u64,
}

/// Which header extensions the answer has.
pub struct Extensions {
    mid: bool,
    transport_sequence: bool,
    abs_send_time: bool,
    level: bool,
}

impl Extensions {
    pub fn of(answer: &Answer) -> Extensions {
        let has = |id: u8| answer.extensions.contains(&id);
        Extensions {
            mid: has(sdp::MID_ID),
            transport_sequence: has(sdp::TRANSPORT_SEQUENCE_ID),
            abs_send_time: has(sdp::ABS_SEND_TIME_ID),
            level: has(sdp::AUDIO_LEVEL_ID),
        }
    }
}

impl Source {
    fn new(
        options: &Options,
        sources: Sources,
        answer: &Answer,
        socket: UdpSocket,
        transport: Transport,
        state: Arc<State>,
    ) -> Source {
        Source {
            socket,
            transport,
            state,
            bitrate: options.bitrate,
            pacing: options.pacing,
            with_audio: options.audio != Audio::Off,
            with_video: options.audio != Audio::Only,
            extensions: Extensions::of(answer),
            audio: Stream::new(sources.audio, sdp::OPUS),
            video: Stream::new(sources.video, sdp::VP8),
            retransmission: Stream::new(sources.video_rtx, sdp::VP8_RTX),
            queue: VecDeque::new(),
            history: VecDeque::new(),
            next_frame: 0,
            next_audio: 0,
            next_report: 0,
            free_at: 0,
            frames: 0,
            key_frame_wanted: true,
            debt: 0,
            picture_id: u16::from_ne_bytes(transport::random()) & 0x7fff,
            transport_sequence: 0,
            due: 0,
            looked: 0,
        }
    }

    /// Does what is due; false at its end.
    fn turn(&mut self, now: u64) -> bool {
        self.transport.poll(now, &mut sender(&self.socket));
        if let Some(why) = self.transport.failure() {
            *self.state.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(why.to_owned());
            return false;
        }
        let connected = self.state.connected.load(Relaxed);
        if connected {
            self.make_media(now);
            self.send_due();
            self.report(now);
        }
        self.due = if connected { self.next() } else { u64::MAX }.min(self.transport.due()).min(now + LOOK_INTERVAL);
        !self.state.quit.load(Relaxed)
    }

    /// Takes in what has come.
    fn look(&mut self, batch: &mut sys::Batch) {
        let count = batch.receive(&self.socket);
        for index in 0..count {
            let received = batch.get(index);
            self.receive(received.bytes);
            self.due = 0;
        }
    }

    fn next(&self) -> u64 {
        let queued = self.queue.front().map_or(u64::MAX, |paced| paced.due);
        let frame = if self.with_video { self.next_frame } else { u64::MAX };
        let audio = if self.with_audio { self.next_audio } else { u64::MAX };
        queued.min(frame).min(audio).min(self.next_report)
    }

    fn receive(&mut self, datagram: &mut [u8]) {
        let now = sys::monotonic_ns();
        let event = self.transport.handle(datagram, now, &mut sender(&self.socket));
        match event {
            Event::Connected => {
                // Publishers who came at once are not in step, as people's cameras are not.
                let phase = |interval: u64| now + u64::from_ne_bytes(transport::random()) % interval;
                (self.next_frame, self.next_audio, self.next_report) = (phase(FRAME_INTERVAL), phase(AUDIO_INTERVAL), now);
                self.state.connected.store(true, Relaxed);
            }
            Event::Rtcp => {
                let Some(keys) = self.transport.keys() else { return };
                let Ok(len) = keys.inbound.unprotect_rtcp(datagram) else { return };
                self.feedback(&datagram[..len]);
            }
            Event::Handled | Event::Rtp => {}
        }
    }

    fn feedback(&mut self, compound: &[u8]) {
        let Ok(packets) = rtcp::packets(compound) else { return };
        for packet in packets.flatten() {
            match packet {
                Feedback::Pli(pli) if pli.media_ssrc == self.video.ssrc => self.request_key_frame(),
                Feedback::Fir(fir) if fir.entries().any(|(ssrc, _)| ssrc == self.video.ssrc) => self.request_key_frame(),
                Feedback::Nack(nack) if nack.media_ssrc == self.video.ssrc => {
                    for number in nack.sequence_numbers() {
                        self.retransmit(number);
                    }
                }
                _ => {}
            }
        }
    }

    fn request_key_frame(&mut self) {
        self.key_frame_wanted = true;
        self.state.key_frame_requests.fetch_add(1, Relaxed);
    }

    /// Makes the frame and the audio packet whose time has come.
    fn make_media(&mut self, now: u64) {
        let paused = self.state.pause.load(Relaxed);
        let meager = self.state.meager.load(Relaxed);
        let skips = |interval: u64, next: u64| paused || (meager && !(next / interval).is_multiple_of(MEAGER));
        if self.with_video && now >= self.next_frame {
            if !skips(FRAME_INTERVAL, self.next_frame) {
                self.make_frame();
            }
            self.next_frame += FRAME_INTERVAL;
            self.video.timestamp = self.video.timestamp.add(3000);
        }
        if self.with_audio && now >= self.next_audio {
            if !skips(AUDIO_INTERVAL, self.next_audio) {
                self.send_audio(now);
            }
            self.next_audio += AUDIO_INTERVAL;
            self.audio.timestamp = self.audio.timestamp.add(960);
        }
    }

    /// Bytes of the next frame: the mean, varied by up to 15 %, less what is owed.
    fn frame_len(&mut self, key_frame: bool) -> u64 {
        let mean = self.bitrate / 8 / 30;
        if key_frame {
            self.debt += (KEY_FRAME_FACTOR - 1) * mean;
            return KEY_FRAME_FACTOR * mean;
        }
        let varied = mean * 85 / 100 + mean * 30 / 100 * (self.frames * 7 % 16) / 15;
        let repaid = self.debt.min(mean / 8);
        self.debt -= repaid;
        varied - repaid
    }

    fn make_frame(&mut self) {
        let key_frame = std::mem::take(&mut self.key_frame_wanted);
        if key_frame {
            self.state.key_frames.fetch_add(1, Relaxed);
        }
        self.frames += 1;
        self.picture_id = self.picture_id.wrapping_add(1) & 0x7fff;
        let frame_len = self.frame_len(key_frame);
        // The payload of one packet: packets of a frame are as equal as browsers make them.
        let most = (PACKET_MAX - rtp::FIXED_HEADER_LEN - 16) as u64;
        let count = frame_len.div_ceil(most).max(1);
        for index in 0..count {
            let payload_len = (frame_len * (index + 1) / count - frame_len * index / count) as usize;
            let picture = Picture {
                id: self.picture_id,
                tl0_pic_idx: self.frames as u8,
                key_frame,
                first_packet: index == 0,
                frame_len: frame_len as u32,
            };
            let due = self.free_at.max(self.next_frame);
            self.free_at = due + (payload_len as f64 * 8e9 / (self.bitrate as f64 * self.pacing)) as u64;
            let payload_len = payload_len.max(media::PAYLOAD_MIN);
            self.queue.push_back(Paced { payload_len, picture, last: index + 1 == count, timestamp: self.video.timestamp, due });
        }
    }

    fn send_due(&mut self) {
        while self.queue.front().is_some_and(|paced| paced.due <= sys::monotonic_ns()) {
            let Some(paced) = self.queue.pop_front() else { return };
            self.state.late_max.fetch_max(sys::monotonic_ns() - paced.due, Relaxed);
            let (sequence, number) = (self.video.index as u16, self.video.number);
            let mut space = [0; SPACE];
            let header_len = self.header(&mut space, Kind::Video, paced.last, paced.timestamp);
            let payload = &mut space[header_len..header_len + paced.payload_len];
            media::write_video(payload, &paced.picture, number);
            let sent = sys::monotonic_ns();
            media::set_sent(payload, Kind::Video, sent);
            self.protect_and_send(&mut space, Kind::Video, header_len, paced.payload_len);
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(Sent { sequence, number, paced, sent });
        }
    }

    fn send_audio(&mut self, now: u64) {
        self.state.late_max.fetch_max(now.saturating_sub(self.next_audio), Relaxed);
        let mut space = [0; SPACE];
        let header_len = self.header(&mut space, Kind::Audio, false, self.audio.timestamp);
        let payload = &mut space[header_len..header_len + AUDIO_PAYLOAD];
        media::write_audio(payload, self.audio.number);
        media::set_sent(payload, Kind::Audio, sys::monotonic_ns());
        self.protect_and_send(&mut space, Kind::Audio, header_len, AUDIO_PAYLOAD);
    }

    /// Writes a header for the stream's next packet.
    fn header(&mut self, space: &mut [u8], kind: Kind, marker: bool, timestamp: RtpTime) -> usize {
        let (stream, mid) = match kind {
            Kind::Audio => (&self.audio, sdp::AUDIO_MID),
            Kind::Video => (&self.video, sdp::VIDEO_MID),
        };
        let elements = Elements::new(&self.extensions, mid, &mut self.transport_sequence);
        let sequence = SequenceNumber(stream.index as u16);
        rtp::write_header(space, marker, stream.payload_type, sequence, timestamp, stream.ssrc, elements.iter())
            .expect("space for a header")
    }

    fn protect_and_send(&mut self, space: &mut [u8], kind: Kind, header_len: usize, payload_len: usize) {
        let stream = match kind {
            Kind::Audio => &mut self.audio,
            Kind::Video => &mut self.video,
        };
        let index = stream.index;
        stream.index += 1;
        stream.number += 1;
        stream.packets += 1;
        stream.octets = stream.octets.wrapping_add(payload_len as u32);
        let Some(keys) = self.transport.keys() else { return };
        if let Some(len) = keys.outbound.protect_rtp(space, header_len, header_len + payload_len, index)
            && self.socket.send(&space[..len]).is_err()
        {
            self.state.send_errors.fetch_add(1, Relaxed);
        }
        self.state.next[kind as usize].store(stream.number, Relaxed);
    }

    /// RFC 4588 §4: the original sequence number before the payload.
    fn retransmit(&mut self, number: SequenceNumber) {
        self.state.nacked.fetch_add(1, Relaxed);
        let Some(sent) = self.history.iter().rev().find(|sent| sent.sequence == number.0) else { return };
        let mut space = [0; SPACE];
        let elements = Elements::new(&self.extensions, sdp::VIDEO_MID, &mut self.transport_sequence);
        let Stream { ssrc, payload_type, index, .. } = self.retransmission;
        let (paced, sequence) = (&sent.paced, SequenceNumber(index as u16));
        let header = rtp::write_header(&mut space, paced.last, payload_type, sequence, paced.timestamp, ssrc, elements.iter());
        let header_len = header.expect("space for a header");
        space[header_len..header_len + 2].copy_from_slice(&number.0.to_be_bytes());
        let len = header_len + 2 + paced.payload_len;
        let payload = &mut space[header_len + 2..len];
        media::write_video(payload, &paced.picture, sent.number);
        media::set_sent(payload, Kind::Video, sent.sent);
        self.retransmission.index += 1;
        let Some(keys) = self.transport.keys() else { return };
        if let Some(len) = keys.outbound.protect_rtp(&mut space, header_len, len, index) {
            self.state.retransmitted.fetch_add(1, Relaxed);
            // As good as lost once more.
            let _ = self.socket.send(&space[..len]);
        }
    }

    /// A sender report for each stream.
    fn report(&mut self, now: u64) {
        if now < self.next_report {
            return;
        }
        self.next_report = now + REPORT_INTERVAL;
        let streams = [(self.with_audio, &self.audio), (self.with_video, &self.video)];
        for (_, stream) in streams.into_iter().filter(|(with, _)| *with) {
            let mut space = [0; 256];
            let Some(len) = stream.write_report(&mut space, now) else { return };
            let Some(keys) = self.transport.keys() else { return };
            if let Some(len) = keys.outbound.protect_rtcp(&mut space, len) {
                // The next report is as good.
                let _ = self.socket.send(&space[..len]);
            }
        }
    }
}

/// The extension elements of one packet.
pub struct Elements<'a> {
    mid: Option<&'a str>,
    transport_sequence: Option<[u8; 2]>,
    abs_send_time: Option<[u8; 3]>,
    level: Option<[u8; 1]>,
}

impl<'a> Elements<'a> {
    pub fn new(extensions: &Extensions, mid: &'a str, next_transport_sequence: &mut u16) -> Elements<'a> {
        // 24 bits of seconds, 18 of them a fraction (draft: abs-send-time).
        let time = (u128::from(sys::monotonic_ns()) << 18) / 1_000_000_000;
        let [.., a, b, c] = (time as u32).to_be_bytes();
        let elements = Elements {
            mid: extensions.mid.then_some(mid),
            transport_sequence: extensions.transport_sequence.then(|| next_transport_sequence.to_be_bytes()),
            abs_send_time: extensions.abs_send_time.then_some([a, b, c]),
            level: None,
        };
        *next_transport_sequence = next_transport_sequence.wrapping_add(1);
        elements
    }

    /// With the level of a packet of sound (RFC 6464), so many dB below full scale; as Chromium, which always says that it is voice.
    pub fn at_level(self, extensions: &Extensions, below_full: u8) -> Elements<'a> {
        Elements { level: extensions.level.then_some([0x80 | below_full]), ..self }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> + Clone {
        let mid = self.mid.map(|mid| (sdp::MID_ID, mid.as_bytes()));
        let sequence = self.transport_sequence.as_ref().map(|bytes| (sdp::TRANSPORT_SEQUENCE_ID, &bytes[..]));
        let time = self.abs_send_time.as_ref().map(|bytes| (sdp::ABS_SEND_TIME_ID, &bytes[..]));
        let level = self.level.as_ref().map(|byte| (sdp::AUDIO_LEVEL_ID, &byte[..]));
        [mid, sequence, time, level].into_iter().flatten()
    }
}

/// Sends or forgets: a datagram that the kernel refuses is as good as lost.
fn sender(socket: &UdpSocket) -> impl FnMut(&[u8]) + '_ {
    move |datagram| {
        let _ = socket.send(datagram);
    }
}
