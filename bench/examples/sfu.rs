//! An SFU of one's own out of the library's parts, without its server: one publisher, any number of viewers, one thread. ICE, DTLS, SRTP, RTP
//! and the fan-out are the library's ([`Worker`]); who may come, and who watches whom, is decided here.
//!
//!     cargo run --release --no-default-features --example sfu
//!
//! WHIP is `POST /publish` and WHEP `POST /watch` (Opus and VP8, no trickle, no DELETE: who is silent for 30 s has gone).

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use distributary::config::HoldChoice;
use distributary::io::{Io, IoKind};
use distributary::limits::{ARENA_SLOTS, SESSIONS_MAX, TRACK_CACHE};
use distributary::mem::{Arena, Handoff};
use distributary::peer::send::Binding;
use distributary::peer::{Keys, Peer};
use distributary::room::shard::{Shard, Subscriber};
use distributary::rtp::config::{Codec, CodecConfig, Direction, Feedback, Format, MediaConfig, Mid, StreamPair};
use distributary::secure::dtls::{Association, Fingerprint, Identity, Role};
use distributary::secure::srtp::{KeyingMaterial, Receiver, Sender};
use distributary::units::{Micros, PeerId, Ssrc, TrackId, WorkerId};
use distributary::worker::Worker;
use distributary::worker::hold::Hold;
use distributary::worker::mail::{self, Command, Event, HandshakeEvent, HandshakeOffice, IcePassword, Offices, Ufrag};

struct Session {
    publishes: bool,
    media: Vec<MediaConfig>,
    tracks: Vec<TrackId>,
    fingerprint: Fingerprint,
    association: Option<Association>,
    claimed: bool,
}

pub struct Sfu {
    worker: Worker,
    identity: Identity,
    handoff: Arc<Handoff<Peer>>,
    office: Offices,
    sessions: HashMap<PeerId, Session>,
    pub address: SocketAddr,
    base: Instant,
    joined: u32,
}

impl Sfu {
    pub fn new(socket: UdpSocket) -> Result<Sfu, Box<dyn Error>> {
        let (address, base) = (socket.local_addr()?, Instant::now());
        let (io, _) = Io::open(IoKind::Auto, socket, Arena::leak(ARENA_SLOTS / 8), base)?;
        // All is one thread: nobody has to be woken.
        let (mut mails, office) = mail::connect(&[io.waker()], Arc::new(|| {}), &[Arc::new(|| {})]);
        let handoff = Arc::new(Handoff::new(SESSIONS_MAX));
        let hold = Hold::new(HoldChoice::Off, Micros::ZERO);
        let worker = Worker::new(WorkerId(0), io, mails.remove(0), handoff.clone(), Arc::default(), hold);
        let (identity, sessions) = (Identity::generate()?, HashMap::new());
        Ok(Sfu { worker, identity, handoff, office, sessions, address, base, joined: 0 })
    }

    /// Agrees on an offer; the answer, or what is wrong with it.
    pub fn join(&mut self, publishes: bool, offer: &str) -> Result<String, String> {
        if self.joined as usize == SESSIONS_MAX {
            return Err("all places are taken".to_owned());
        }
        if publishes && self.sessions.values().any(|session| session.publishes) {
            return Err("somebody publishes already".to_owned());
        }
        let value = |name: &str| offer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let fingerprint = value("a=fingerprint:").and_then(|text| text.parse().ok()).ok_or("no SHA-256 fingerprint")?;
        let media: Vec<MediaConfig> =
            offer.split("\r\nm=").skip(1).map(|part| self.line(publishes, part)).collect::<Result<_, _>>()?;
        self.joined += 1;
        let id = PeerId { slot: self.joined - 1, generation: 1 };
        let track = |index: usize| TrackId { slot: id.slot * 4 + index as u32, generation: 1 };
        let tracks: Vec<TrackId> = if publishes { (0..media.len().min(4)).map(track).collect() } else { Vec::new() };
        let (ufrag, password) = (random(4), random(16));
        let (user, secret) = (Ufrag::from(&ufrag).expect("fits"), IcePassword::from(&password).expect("fits"));
        let sent = publishes.then_some(&*tracks);
        let peer = Peer::new(id, &media, sent, Ssrc(1), || u64::from_str_radix(&random(8), 16).unwrap_or_default());
        self.handoff.put(id.slot, Box::new(peer));
        self.send(Command::Expect { peer: id, ufrag: user, password: secret });
        let answer = self.answer(&media, &ufrag, &password);
        self.sessions.insert(id, Session { publishes, media, tracks, fingerprint, association: None, claimed: false });
        Ok(answer)
    }

    /// An m-line: the one codec of it that is known here.
    fn line(&self, publishes: bool, part: &str) -> Result<MediaConfig, String> {
        let codec = if part.starts_with("audio") { Codec::Opus } else { Codec::Vp8 };
        let wanted = format!(" {}/", codec.name().to_lowercase());
        let payload_type =
            part.lines().filter_map(|line| line.strip_prefix("a=rtpmap:")).find(|map| map.to_lowercase().contains(&wanted));
        let number: u8 = payload_type.and_then(|map| map.split(' ').next()?.parse().ok()).ok_or(format!("no {}", codec.name()))?;
        let mid = part.lines().find_map(|line| line.strip_prefix("a=mid:")).unwrap_or("0");
        let codec = CodecConfig {
            codec,
            payload_type: distributary::units::PayloadType(number),
            rtx: None,
            red: None,
            clock_rate: if codec == Codec::Opus { 48_000 } else { 90_000 },
            format: Format::Any,
            feedback: Feedback { nack: true, pli: true, ..Feedback::default() },
        };
        let ssrc = Ssrc(1_000 + 2 * self.joined + u32::from(codec.codec == Codec::Opus));
        Ok(MediaConfig {
            mid: Mid::from(mid.trim()).map_err(|error| error.to_string())?,
            kind: codec.codec.kind(),
            direction: if publishes { Direction::RecvOnly } else { Direction::SendOnly },
            codecs: [codec].into_iter().collect(),
            extensions: Default::default(),
            fec: None,
            // Whose packets are whose their payload types tell.
            remote_streams: Default::default(),
            rids: Default::default(),
            local_stream: (!publishes).then_some(StreamPair { media: ssrc, rtx: None }),
        })
    }

    fn answer(&self, media: &[MediaConfig], ufrag: &str, password: &str) -> String {
        let mids: Vec<&str> = media.iter().map(|media| media.mid.as_str()).collect();
        let mut sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n".to_owned();
        sdp += &format!("a=group:BUNDLE {}\r\n", mids.join(" "));
        for media in media {
            let (codec, mid) = (media.codecs[0], media.mid);
            let (kind, channels) = if codec.codec == Codec::Opus { ("audio", "/2") } else { ("video", "") };
            let (number, name, rate) = (codec.payload_type.0, codec.codec.name(), codec.clock_rate);
            let (fingerprint, port, ip) = (self.identity.fingerprint(), self.address.port(), self.address.ip());
            sdp += &format!(
                "m={kind} 9 UDP/TLS/RTP/SAVPF {number}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=rtcp-mux\r\na=setup:passive\r\n\
                 a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=fingerprint:{fingerprint}\r\n\
                 a=candidate:1 1 udp 2130706431 {ip} {port} typ host\r\na=end-of-candidates\r\n\
                 a=rtpmap:{number} {name}/{rate}{channels}\r\na=rtcp-fb:{number} nack\r\na=rtcp-fb:{number} nack pli\r\n"
            );
            sdp += &media.local_stream.map_or("a=recvonly\r\n".to_owned(), |stream| {
                format!("a=sendonly\r\na=msid:sfu {kind}\r\na=ssrc:{} cname:sfu\r\n", stream.media.0)
            });
        }
        sdp
    }

    fn send(&mut self, command: Command) {
        // A full ring means that the worker has not had its turn: it has one before the next command.
        let _ = self.office.director[0].push(command);
    }

    /// Everything that is due: packets, handshakes, and who watches what.
    pub fn turn(&mut self) {
        self.worker.step();
        let now = Micros(self.base.elapsed().as_micros() as u64);
        while let Ok(event) = self.office.events[0].pop() {
            match event {
                Event::Claimed { peer, .. } => self.claimed(peer),
                Event::Expired { peer } => self.remove(peer),
                _ => {}
            }
        }
        let HandshakeOffice { commands, events } = &mut self.office.handshakes[0];
        while let Ok(event) = events[0].pop() {
            let HandshakeEvent::Datagram { peer, packet, .. } = event else { continue };
            let Some(session) = self.sessions.get_mut(&peer) else { continue };
            if session.association.is_none() {
                session.association = Association::new(&self.identity, Role::Server, vec![session.fingerprint.clone()], now).ok();
            }
            let _ = session.association.as_mut().map(|association| association.handle(packet.bytes(), now));
        }
        for (peer, session) in &mut self.sessions {
            let Some(association) = &mut session.association else { continue };
            if association.poll_timeout().is_some_and(|at| at <= now) {
                let _ = association.handle_timeout(now);
            }
            while let Some(bytes) = association.poll_transmit() {
                let _ = commands[0].push(Command::Datagram { peer: *peer, bytes: bytes.into_boxed_slice() });
            }
            let keys = association.keys().and_then(|keys| KeyingMaterial::from_exporter(keys.profile, &keys.exporter).ok());
            if let Some((local, remote)) = keys.map(|material| material.split(true)) {
                let keys = Keys { outbound: Sender::new(&local), inbound: Receiver::new(&remote, 8) };
                let _ = commands[0].push(Command::Keys { peer: *peer, keys: Box::new(keys) });
            }
        }
    }

    /// Its first check has come: the publisher's tracks get their shards, and viewers their share of them.
    fn claimed(&mut self, id: PeerId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.claimed = true;
        let lines: Vec<_> = session.tracks.iter().zip(&session.media).map(|(track, media)| (*track, media.kind)).collect();
        for (track, kind) in lines {
            let shard = Shard::new(track, WorkerId(0), id.slot, kind, None, 1, TRACK_CACHE);
            self.send(Command::OpenShard { shard: Box::new(shard) });
        }
        let Some(publisher) = self.sessions.values().find(|session| session.publishes && session.claimed) else { return };
        let mut wanted = Vec::new();
        let viewers = self.sessions.iter().filter(|(_, session)| !session.publishes && session.claimed);
        for (peer, session) in viewers.filter(|(peer, _)| **peer == id || self.sessions[&id].publishes) {
            for (sender, line) in session.media.iter().enumerate() {
                let Some(at) = publisher.media.iter().position(|media| media.kind == line.kind) else { continue };
                let (codec, track) = (line.codecs[0], publisher.tracks[at]);
                let (payload_type, clock_rate) = (codec.payload_type, codec.clock_rate);
                let binding = Binding { track, payload_type, rtx: None, clock_rate, encrypted: false };
                wanted.push((*peer, Subscriber { peer: peer.slot, sender: sender as u16 }, binding));
            }
        }
        for (peer, subscriber, binding) in wanted {
            self.send(Command::Subscribe { subscriber, peer, binding });
        }
    }

    fn remove(&mut self, peer: PeerId) {
        for track in self.sessions.remove(&peer).map(|session| session.tracks).unwrap_or_default() {
            self.send(Command::CloseShard { track });
        }
        self.send(Command::Remove { peer });
    }
}

/// So many bytes in hexadecimal.
fn random(bytes: usize) -> String {
    let mut space = [0; 16];
    getrandom::fill(&mut space).expect("the operating system's random numbers");
    space[..bytes].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[allow(dead_code)] // the test that includes this file has a loop of its own
fn main() -> Result<(), Box<dyn Error>> {
    let mut sfu = Sfu::new(UdpSocket::bind("127.0.0.1:7882")?)?;
    let http = TcpListener::bind("127.0.0.1:7880")?;
    http.set_nonblocking(true)?;
    loop {
        if let Ok((mut client, _)) = http.accept() {
            client.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut request = vec![0; 1 << 16];
            let mut len = 0;
            while let Ok(more @ 1..) = client.read(&mut request[len..]) {
                len += more;
            }
            let text = String::from_utf8_lossy(&request[..len]).into_owned();
            let (head, offer) = text.split_once("\r\n\r\n").unwrap_or_default();
            let (status, body) = match sfu.join(head.starts_with("POST /publish"), offer) {
                Ok(answer) => ("201 Created", answer),
                Err(reason) => ("400 Bad Request", reason),
            };
            let length = body.len();
            let header =
                format!("HTTP/1.1 {status}\r\nLocation: /session\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n");
            let _ =
                client.write_all(format!("{header}Access-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n{body}").as_bytes());
        }
        sfu.turn();
        std::thread::sleep(Duration::from_micros(500));
    }
}
