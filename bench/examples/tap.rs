//! A program with the server inside it: it reads every RTP packet that is published in a room, and publishes in another room what it makes
//! of them. Here that is the same again, an echo; a mixer, a transcriber or a gateway begins like this.
//!
//!     cargo run --example tap
//!
//! Publish in the room `stage` on the page that it names, and watch `stage-echo`.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

use distributary::admin::{self, Views};
use distributary::config::{Plan, RoomPattern};
use distributary::rtp::config::{Codec, CodecConfig};
use distributary::rtp::media::Media;
use distributary::signal::api::{Handle, Join, Purpose, SessionPath};
use distributary::signal::http::{self, Listener, Services};
use distributary::topology::{self, Running};
use distributary::units::{PayloadType, PeerId, Ssrc, TrackId, WorkerId};
use distributary::wire::rtp;
use distributary::worker::mail::Ufrag;
use distributary::worker::tap::{Notice, Reader, Tapped, TappedTrack};

const ROOM: &str = "stage";

/// What the echo of a track is sent as.
struct Line {
    publisher: PeerId,
    ufrag: Ufrag,
    ssrc: Ssrc,
    payload_type: PayloadType,
}

pub struct Echo {
    reader: Reader,
    handle: Handle,
    lines: HashMap<TrackId, Line>,
    /// The echoes of publishers, to be ended with them.
    sessions: HashMap<PeerId, SessionPath>,

    pub packets: u64,
    pub bytes: u64,
}

impl Echo {
    /// Starts the server, with this program as the reader of its tap. `thread` is unparked when there is something to read.
    pub fn start(plan: &Plan, thread: Thread) -> Result<(Running, Echo), Box<dyn Error>> {
        let rooms = vec![RoomPattern(ROOM.to_owned())];
        let (running, reader) = topology::start_tapped(plan, rooms, Arc::new(move || thread.unpark()))?;
        let (lines, sessions) = Default::default();
        let handle = running.handle.clone();
        Ok((running, Echo { reader, handle, lines, sessions, packets: 0, bytes: 0 }))
    }

    /// Works off what the workers and the director have told.
    pub fn turn(&mut self, wait: impl Fn(Asked) -> Option<String>) {
        while let Ok(notice) = self.reader.notices.try_recv() {
            match notice {
                Notice::Opened { publisher, tracks, .. } => self.open(publisher.id, &tracks, &wait),
                Notice::Closed { publisher } => {
                    self.lines.retain(|_, line| line.publisher != publisher);
                    if let Some(path) = self.sessions.remove(&publisher) {
                        wait(Asked::Leave(self.handle.clone(), path));
                    }
                }
                // What a recorder would record.
                Notice::Record(_) => {}
            }
        }
        for worker in 0..self.reader.office.tapped.len() {
            while let Ok(item) = self.reader.office.tapped[worker].pop() {
                match item {
                    Tapped::Media(media) => self.media(WorkerId(worker as u8), &media),
                    // Of sound and picture; whoever mixes brings them together by it.
                    Tapped::Clock { .. } => {}
                    // Somebody has come to watch the echo. Its key frames are the publisher's.
                    Tapped::KeyFrame { .. } => {
                        let office = &mut self.reader.office.commands[worker];
                        for track in self.lines.keys() {
                            let _ = office.push(distributary::worker::mail::Command::KeyFrame { track: *track, encoding: 0 });
                        }
                    }
                }
            }
        }
        self.reader.office.flush();
    }

    /// Joins the other room as a publisher of the same tracks: an offer is agreed on as any client's, and that is all.
    fn open(&mut self, publisher: PeerId, tracks: &[TappedTrack], wait: &impl Fn(Asked) -> Option<String>) {
        let room = format!("{ROOM}-echo");
        let Some(answer) = wait(Asked::Join(self.handle.clone(), room.clone(), offer(tracks))) else { return };
        let (session, answer) = answer.split_once('\n').unwrap_or_default();
        self.sessions.insert(publisher, SessionPath { room, purpose: Purpose::Publish, session: session.to_owned() });
        let Some(ufrag) = answer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")) else { return };
        let Ok(ufrag) = Ufrag::from(ufrag.trim()) else { return };
        for (index, track) in tracks.iter().enumerate() {
            let (ssrc, payload_type) = (ssrc_of(index), track.codec.payload_type);
            self.lines.insert(track.id, Line { publisher, ufrag, ssrc, payload_type });
        }
    }

    /// One packet of a publisher, decrypted, with what the server read in it; and the same on its way into the other room.
    fn media(&mut self, worker: WorkerId, media: &Media) {
        self.packets += 1;
        self.bytes += media.payload_len as u64;
        let Some(line) = self.lines.get(&media.track).filter(|_| media.encoding == 0) else { return };
        let mut packet = vec![0; 12 + media.payload_len as usize];
        let (number, nothing) = (media.sequence.number(), std::iter::empty());
        let written = rtp::write_header(&mut packet, media.marker, line.payload_type, number, media.timestamp, line.ssrc, nothing);
        let Some(payload) = written.and_then(|len| packet.get_mut(len..)) else { return };
        payload.copy_from_slice(media.payload());
        // A worker that is too far behind does not get it: a gap like others.
        let _ = self.reader.office.inject(worker, line.ufrag, packet.into_boxed_slice());
    }
}

/// What an echo asks of the server's director, whose answers come as futures.
pub enum Asked {
    Join(Handle, String, String),
    Leave(Handle, SessionPath),
}

impl Asked {
    /// Of a join the session and, in the lines after it, the answer.
    pub async fn answer(self) -> Option<String> {
        let (handle, room, offer) = match self {
            Asked::Leave(handle, path) => return handle.leave(path).await.ok().map(|()| String::new()),
            Asked::Join(handle, room, offer) => (handle, room, offer),
        };
        let (client, user_agent) = (std::net::Ipv4Addr::LOCALHOST.into(), "echo".to_owned());
        let join = Join { room, purpose: Purpose::Publish, offer, identity: None, client, user_agent };
        match handle.join(join).await {
            Ok(joined) => Some(format!("{}\n{}", joined.session, joined.answer)),
            Err(refusal) => {
                eprintln!("no echo: {refusal}");
                None
            }
        }
    }
}

fn ssrc_of(index: usize) -> Ssrc {
    Ssrc(0xec40_0000 + index as u32)
}

/// Names a transport that is never used, and the codecs of the tracks.
fn offer(tracks: &[TappedTrack]) -> String {
    let mids: Vec<String> = (0..tracks.len()).map(|index| index.to_string()).collect();
    let mut offer = format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n", mids.join(" "));
    for (index, TappedTrack { codec: CodecConfig { codec, payload_type, clock_rate, .. }, .. }) in tracks.iter().enumerate() {
        let (kind, channels) = if *codec == Codec::Opus { ("audio", "/2") } else { ("video", "") };
        let (name, number, ssrc) = (codec.name(), payload_type.0, ssrc_of(index).0);
        let print = ["AB"; 32].join(":");
        offer += &format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF {number}\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=ice-ufrag:echo\r\n\
             a=ice-pwd:nobodychecksthispassword\r\na=fingerprint:sha-256 {print}\r\na=setup:active\r\na=sendonly\r\na=mid:{index}\r\n\
             a=rtpmap:{number} {name}/{clock_rate}{channels}\r\na=ssrc:{ssrc} cname:echo\r\n"
        );
        if *codec == Codec::H264 {
            offer += &format!("a=fmtp:{number} packetization-mode=1;profile-level-id=42e01f\r\n");
        }
    }
    offer
}

#[allow(dead_code)] // the test that includes this file has a loop of its own
fn main() -> Result<(), Box<dyn Error>> {
    let plan = Plan { http_bind: ([127, 0, 0, 1], 7880).into(), ..Plan::default() };
    let listener = Listener::bind(plan.http_bind)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (running, mut echo) = Echo::start(&plan, thread::current())?;
    let views = Views::new(&plan, running.handle.clone(), running.metrics.clone());
    let routes = http::finish(http::routes(Services::new(&plan, running.handle.clone())).merge(admin::routes(views)));
    println!("publish in {ROOM} and watch {ROOM}-echo on http://{}/", listener.address());
    runtime.spawn(async move { listener.serve(routes, None).await });
    loop {
        let before = echo.packets;
        echo.turn(|asked| runtime.block_on(asked.answer()));
        if echo.packets / 1_000 > before / 1_000 {
            println!("{} packets, {} bytes", echo.packets, echo.bytes);
        }
        thread::park_timeout(Duration::from_millis(100));
    }
}
