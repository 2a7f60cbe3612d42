//! `str0m-sfu`: a minimal SFU on the crate str0m, to compare with. One room, WHIP and WHEP over plain HTTP, RTP mode: packets are
//! forwarded as they come. As its examples do it: one thread, one socket, a `sendto` for each datagram. What they leave to be
//! wished for is done better here, so that the crate is measured and not an example: a table of addresses instead of asking
//! every session, and sessions are polled when they have something to do.
//!
//! `str0m-sfu` prints `listening on ADDRESS` when it is ready.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::media::{KeyframeRequestKind, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpPacket, RtpWrite, SeqNo};
use str0m::{Candidate, Event, Input, Output, Rtc};

/// How long a new session may wait for the socket's next datagram.
const POLL_MAX: Duration = Duration::from_millis(5);
/// One key frame serves all who joined meanwhile.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(500);
const BODY_MAX: u64 = 1 << 20;

/// A session that HTTP has made.
struct Joined {
    rtc: Rtc,
    publishes: bool,
}

struct Session {
    rtc: Rtc,
    publishes: bool,
    /// When it wants to be called again.
    due: Instant,
    /// Its audio and video section.
    mids: [Option<Mid>; 2],
    /// What is subtracted from sequence numbers: a receiver takes the first roll-over for 0.
    base: [Option<u64>; 2],
}

/// What polling a session brought for others.
#[derive(Default)]
struct Outcome {
    packets: Vec<(usize, RtpPacket)>,
    key_frame_wanted: bool,
}

fn main() -> io::Result<()> {
    str0m::crypto::from_feature_flags().install_process_default();
    let media = UdpSocket::bind("127.0.0.1:0")?;
    let http = TcpListener::bind("127.0.0.1:0")?;
    let address = media.local_addr()?;
    let (sender, joined) = mpsc::channel();
    println!("listening on {}", http.local_addr()?);
    std::thread::spawn(move || {
        for stream in http.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || serve(stream, address, &sender));
        }
    });
    Sfu { socket: media, address, sessions: Vec::new(), by_address: HashMap::new(), key_frame: None }.run(&joined)
}

// ---- HTTP -----------------------------------------------------------------------------------------------------------------

/// One connection's requests. What is wrong with them ends the connection.
fn serve(stream: TcpStream, media: SocketAddr, sender: &Sender<Joined>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = String::new();
        reader.by_ref().take(Ord::min(length, BODY_MAX)).read_to_string(&mut body).ok()?;
        let answer = match method.as_str() {
            "POST" => join(&body, path.starts_with("/whip"), media, sender),
            // Sessions end by their consent; nobody waits for that in a comparison.
            _ => Some((200, String::new())),
        };
        let (status, body) = answer.unwrap_or((400, "the offer was not accepted".into()));
        let head = format!("HTTP/1.1 {status} -\r\nContent-Type: application/sdp\r\nLocation: /session\r\n");
        write!(reader.get_mut(), "{head}Content-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    }
}

fn join(offer: &str, publishes: bool, media: SocketAddr, sender: &Sender<Joined>) -> Option<(u16, String)> {
    let offer = SdpOffer::from_sdp_string(offer).ok()?;
    let mut rtc = Rtc::builder().set_rtp_mode(true).set_ice_lite(true).build(Instant::now());
    rtc.add_local_candidate(Candidate::host(media, "udp").ok()?);
    let answer = rtc.sdp_api().accept_offer(offer).ok()?;
    sender.send(Joined { rtc, publishes }).ok()?;
    Some((201, answer.to_sdp_string()))
}

// ---- Media ----------------------------------------------------------------------------------------------------------------

struct Sfu {
    socket: UdpSocket,
    address: SocketAddr,
    sessions: Vec<Session>,
    by_address: HashMap<SocketAddr, usize>,
    /// When the last key frame was asked for.
    key_frame: Option<Instant>,
}

impl Sfu {
    fn run(mut self, joined: &Receiver<Joined>) -> io::Result<()> {
        let mut space = vec![0; 2048];
        let mut wait = POLL_MAX;
        loop {
            self.socket.set_read_timeout(Some(wait.clamp(Duration::from_millis(1), POLL_MAX)))?;
            match self.socket.recv_from(&mut space) {
                Ok((len, source)) => self.receive(&space[..len], source),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
            for Joined { rtc, publishes } in joined.try_iter() {
                self.sessions.push(Session { rtc, publishes, due: Instant::now(), mids: [None; 2], base: [None; 2] });
            }
            let now = Instant::now();
            for index in 0..self.sessions.len() {
                if self.sessions[index].due <= now {
                    self.handle(index, Input::Timeout(now));
                }
            }
            if self.sessions.iter().any(|session| !session.rtc.is_alive()) {
                self.sessions.retain(|session| session.rtc.is_alive());
                self.by_address.clear();
            }
            let due = self.sessions.iter().map(|session| session.due).min();
            wait = due.map_or(POLL_MAX, |due| due.saturating_duration_since(Instant::now()));
        }
    }

    fn receive(&mut self, datagram: &[u8], source: SocketAddr) {
        let Ok(contents) = datagram.try_into() else { return };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.address, contents };
        let input = Input::Receive(Instant::now(), receive);
        let known = self.by_address.get(&source).copied();
        let Some(index) = known.or_else(|| self.sessions.iter().position(|session| session.rtc.accepts(&input))) else { return };
        self.by_address.insert(source, index);
        self.handle(index, input);
    }

    /// Gives a session its input, and others what comes of it.
    fn handle(&mut self, index: usize, input: Input) {
        let session = &mut self.sessions[index];
        if session.rtc.handle_input(input).is_err() {
            session.rtc.disconnect();
        }
        let outcome = session.poll(&self.socket);
        for (kind, packet) in outcome.packets {
            for viewer in self.sessions.iter_mut().filter(|session| !session.publishes) {
                viewer.forward(kind, &packet);
                viewer.poll(&self.socket);
            }
        }
        if outcome.key_frame_wanted && self.key_frame.is_none_or(|at| at.elapsed() > KEY_FRAME_INTERVAL) {
            self.key_frame = Some(Instant::now());
            for publisher in self.sessions.iter_mut().filter(|session| session.publishes) {
                publisher.ask_for_key_frame();
                publisher.poll(&self.socket);
            }
        }
    }
}

impl Session {
    /// Sends what is to be sent.
    fn poll(&mut self, socket: &UdpSocket) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(due)) => {
                    self.due = due;
                    return outcome;
                }
                // A datagram that cannot be sent is lost, as on any network.
                Ok(Output::Transmit(transmit)) => _ = socket.send_to(&transmit.contents, transmit.destination),
                Ok(Output::Event(event)) => self.handle_event(event, &mut outcome),
                Err(_) => {
                    self.rtc.disconnect();
                    return outcome;
                }
            }
        }
    }

    fn handle_event(&mut self, event: Event, outcome: &mut Outcome) {
        match event {
            Event::MediaAdded(media) => self.mids[usize::from(media.kind == MediaKind::Video)] = Some(media.mid),
            Event::Connected | Event::KeyframeRequest(_) => outcome.key_frame_wanted |= !self.publishes,
            Event::RtpPacket(packet) => {
                let mid = self.rtc.direct_api().stream_rx(&packet.header.ssrc).map(|stream| stream.mid());
                if let Some(kind) = self.mids.iter().position(|own| own.is_some() && *own == mid) {
                    outcome.packets.push((kind, packet));
                }
            }
            _ => {}
        }
    }

    fn forward(&mut self, kind: usize, packet: &RtpPacket) {
        if !self.rtc.is_connected() {
            return;
        }
        let Some(mid) = self.mids[kind] else { return };
        let mut api = self.rtc.direct_api();
        let Some(stream) = api.stream_tx_by_mid(mid, None) else { return };
        let number = *packet.seq_no;
        let base = *self.base[kind].get_or_insert(number & !0xffff);
        // What is older than the first packet that was sent has no number here.
        let Some(number) = number.checked_sub(base) else { return };
        let header = &packet.header;
        let (number, payload) = (SeqNo::from(number), packet.payload.clone());
        let write = RtpWrite::new(header.payload_type, number, header.timestamp, packet.timestamp, payload);
        stream.write_rtp(write.marker(header.marker).ext_vals(header.ext_vals.clone()).nackable(kind == 1));
    }

    fn ask_for_key_frame(&mut self) {
        let Some(mid) = self.mids[1] else { return };
        if let Some(stream) = self.rtc.direct_api().stream_rx_by_mid(mid, None) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
    }
}
