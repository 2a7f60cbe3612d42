//! One member's signalling: a thread that joins a room, offers what it publishes, and offers again with more m-lines when it is asked to.

use std::collections::HashSet;
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Say;
use proto::signal_response::Message as Hear;
use ring::hmac;
use tungstenite::{Error, Message, WebSocket};

use super::Shared;
use super::member::{Member, Outgoing};
use super::sdp::{self, Line};
use crate::media::Kind;
use crate::sdp::{Answer, Credentials};
use crate::sys;
use crate::transport::{self, Transport};

/// Between two pings, as the server asks for.
const PING_INTERVAL: u64 = 5_000_000_000;
const READ_TIMEOUT: Duration = Duration::from_millis(200);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const RECEIVE_BUFFER: usize = 2 << 20;
/// The most SSRCs that come to one member: its tracks, their retransmissions, and what took their m-lines later.
const STREAMS: usize = 128;

/// What a member was told, when all is over.
#[derive(Default)]
pub struct Told {
    pub member: u32,
    /// Whose track the server said is sent under which SSRC: LiveKit's id of it.
    pub labels: Vec<(u32, String)>,
    /// Offers made and answered.
    pub negotiations: u64,
    /// Messages on who speaks.
    pub speaker_updates: u64,
    /// From when a member began to talk to when this one was told; nanoseconds.
    pub speaker_after: Vec<u64>,
    /// From the WebSocket's opening to the first answer; nanoseconds.
    pub answer_after: u64,
}

struct Client<'a> {
    shared: &'a Shared,
    index: u32,
    socket: WebSocket<TcpStream>,
    lines: Vec<Line>,
    credentials: Credentials,
    offers: u32,
    /// An offer has no answer yet.
    waits: bool,
    /// And another is wanted after that.
    again: bool,
    opened: u64,
    /// Members that were named as speakers.
    known: HashSet<u32>,
    outgoing: Option<Vec<Outgoing>>,
    told: Told,
}

/// Joins, and stays until the end.
pub fn run(shared: &Shared, index: u32) -> Told {
    let outcome = Client::open(shared, index).and_then(|mut client| {
        client.stay()?;
        Ok(client.told)
    });
    outcome.unwrap_or_else(|error| {
        shared.fail(format!("member {index}: {error}"));
        Told { member: index, ..Told::default() }
    })
}

impl<'a> Client<'a> {
    fn open(shared: &'a Shared, index: u32) -> Result<Client<'a>, String> {
        let options = &shared.options;
        let mut kinds = vec![Kind::Audio];
        kinds.extend((options.video > 0).then_some(Kind::Video));
        let random = || u32::from_ne_bytes(transport::random()).max(1);
        let name = |kind: &Kind| if *kind == Kind::Audio { "sound".to_owned() } else { "picture".to_owned() };
        let lines: Vec<Line> =
            kinds.iter().map(|kind| Line { kind: *kind, source: Some((name(kind), random(), random())) }).collect();
        let credentials = transport::credentials();
        let tracks = kinds.iter().map(|kind| announcement(*kind, name(kind))).collect();
        let offer = sdp::offer(&lines, 1, &credentials, &shared.identity.fingerprint());
        let request = proto::JoinRequest {
            client_info: Some(proto::ClientInfo { version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }),
            connection_settings: Some(proto::ConnectionSettings { auto_subscribe: true, ..Default::default() }),
            add_track_requests: tracks,
            publisher_offer: Some(description(offer, 1)),
            ..Default::default()
        };
        let wrapped = proto::WrappedJoinRequest { join_request: request.encode_to_vec(), ..Default::default() };
        let room = format!("{}-{}", options.room, options.room_of(index));
        let token = token(&options.key, &options.secret, &room, &format!("member-{index:05}"));
        let join = BASE64URL_NOPAD.encode(&wrapped.encode_to_vec());
        let authority = &shared.root.authority;
        let url = format!("ws://{authority}/rtc/v1?access_token={token}&join_request={join}");
        let address = authority.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or("the host has no address")?;
        let stream = TcpStream::connect(address).map_err(|error| format!("{authority}: {error}"))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(WRITE_TIMEOUT)));
        set.map_err(|error| error.to_string())?;
        let opened = sys::monotonic_ns();
        let (socket, _) = tungstenite::client(url, stream).map_err(|error| match error {
            tungstenite::HandshakeError::Failure(Error::Http(answer)) => {
                let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                format!("refused: {} {}", answer.status(), body.trim())
            }
            other => other.to_string(),
        })?;
        socket.get_ref().set_read_timeout(Some(READ_TIMEOUT)).map_err(|error| error.to_string())?;
        let outgoing = lines.iter().filter_map(|line| line.source.as_ref().map(|source| Outgoing::new(line.kind, source.1)));
        let outgoing = Some(outgoing.collect());
        let told = Told { member: index, ..Told::default() };
        let (offers, waits, again, known) = (1, true, false, HashSet::new());
        Ok(Client { shared, index, socket, lines, credentials, offers, waits, again, opened, known, outgoing, told })
    }

    fn stay(&mut self) -> Result<(), String> {
        let mut next_ping = sys::monotonic_ns() + PING_INTERVAL;
        while !self.shared.quit.load(Relaxed) {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let response = proto::SignalResponse::decode(&*bytes).map_err(|error| format!("its message: {error}"))?;
                    self.hear(response)?;
                }
                Ok(_) => {}
                Err(Error::Io(error)) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.to_string()),
            }
            let now = sys::monotonic_ns();
            if now >= next_ping {
                next_ping = now + PING_INTERVAL;
                self.say(Say::PingReq(proto::Ping { timestamp: (now / 1_000_000) as i64, rtt: 0 }))?;
            }
        }
        self.say(Say::Leave(proto::LeaveRequest::default()))?;
        // What becomes of the connection after that is of no interest.
        let _ = self.socket.close(None).and_then(|()| self.socket.flush());
        Ok(())
    }

    fn say(&mut self, message: Say) -> Result<(), String> {
        let bytes = proto::SignalRequest { message: Some(message) }.encode_to_vec();
        self.socket.send(Message::Binary(bytes.into())).map_err(|error| error.to_string())
    }

    fn hear(&mut self, response: proto::SignalResponse) -> Result<(), String> {
        match response.message {
            Some(Hear::Join(join)) => {
                let sid = join.participant.map(|participant| participant.sid).unwrap_or_default();
                self.shared.participants.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(sid, self.index);
            }
            Some(Hear::TrackPublished(published)) => {
                let kind = if published.cid == "sound" { Kind::Audio } else { Kind::Video };
                let sid = published.track.map(|track| track.sid).unwrap_or_default();
                self.shared.tracks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(sid, (self.index, kind));
            }
            Some(Hear::Answer(answer)) => self.take_answer(&answer)?,
            Some(Hear::MediaSectionsRequirement(wanted)) => {
                let more = |kind, count: u32| (0..count).map(move |_| Line { kind, source: None });
                self.lines.extend(more(Kind::Audio, wanted.num_audios).chain(more(Kind::Video, wanted.num_videos)));
                self.again = true;
            }
            Some(Hear::SpeakersChanged(changed)) => self.note_speakers(&changed),
            Some(Hear::Leave(leave)) => return Err(format!("asked to leave: {}", leave.reason().as_str_name())),
            _ => {}
        }
        if self.again && !self.waits {
            (self.again, self.waits, self.offers) = (false, true, self.offers + 1);
            let offer = sdp::offer(&self.lines, self.offers, &self.credentials, &self.shared.identity.fingerprint());
            let offer = description(offer, self.offers);
            self.say(Say::Offer(offer))?;
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: &proto::SessionDescription) -> Result<(), String> {
        if answer.id != self.offers {
            return Err(format!("the answer has the id {}, the offer has {}", answer.id, self.offers));
        }
        self.waits = false;
        self.told.negotiations += 1;
        self.shared.answers.fetch_add(1, Relaxed);
        for (mid, ssrc) in sdp::sent(&answer.sdp) {
            let sid = answer.mid_to_track_id.get(&mid).ok_or_else(|| format!("nothing says what the m-line {mid} sends"))?;
            if !self.told.labels.iter().any(|(known, of)| *known == ssrc && of == sid) {
                self.told.labels.push((ssrc, sid.clone()));
            }
        }
        let Some(outgoing) = self.outgoing.take() else { return Ok(()) };
        self.told.answer_after = sys::monotonic_ns() - self.opened;
        let read = Answer::read(&answer.sdp)?;
        let socket = UdpSocket::bind(if read.address.ip().is_loopback() { "127.0.0.1:0" } else { "0.0.0.0:0" });
        let socket = socket.and_then(|socket| socket.connect(read.address).map(|()| socket));
        let socket = socket.map_err(|error| format!("its socket: {error} (is the limit of open files too low?)"))?;
        sys::set_receive_buffer(&socket, RECEIVE_BUFFER);
        let transport = Transport::new(&self.shared.identity, self.credentials.clone(), &read, STREAMS, sys::monotonic_ns());
        let member = Member::new(self.index, &self.shared.options, &read, transport, outgoing);
        let pumps = &self.shared.pumps;
        pumps[self.index as usize % pumps.len()].add(member, socket);
        Ok(())
    }

    fn note_speakers(&mut self, changed: &proto::SpeakersChanged) {
        self.told.speaker_updates += 1;
        let now = sys::monotonic_ns();
        let participants = self.shared.participants.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for speaker in changed.speakers.iter().filter(|speaker| speaker.active) {
            let Some(index) = participants.get(&speaker.sid) else { continue };
            let since = self.shared.media.loud_since[*index as usize].load(Relaxed);
            if since > 0 && self.known.insert(*index) {
                self.told.speaker_after.push(now.saturating_sub(since));
            }
        }
    }
}

fn description(sdp: String, id: u32) -> proto::SessionDescription {
    proto::SessionDescription { r#type: "offer".into(), sdp, id, ..Default::default() }
}

fn announcement(kind: Kind, cid: String) -> proto::AddTrackRequest {
    let (r#type, source) = match kind {
        Kind::Audio => (proto::TrackType::Audio, proto::TrackSource::Microphone),
        Kind::Video => (proto::TrackType::Video, proto::TrackSource::Camera),
    };
    proto::AddTrackRequest {
        name: cid.clone(),
        cid,
        r#type: r#type as i32,
        source: source as i32,
        // Every packet is to be seen as it is.
        disable_red: true,
        width: if kind == Kind::Video { 320 } else { 0 },
        height: if kind == Kind::Video { 180 } else { 0 },
        ..Default::default()
    }
}

/// An access token as LiveKit's SDKs make them: a JWT (RFC 7519) signed with HMAC-SHA256.
fn token(key: &str, secret: &str, room: &str, identity: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let header = serde_json::json!({ "alg": "HS256", "typ": "JWT" });
    let video = serde_json::json!({ "room": room, "roomJoin": true });
    let claims = serde_json::json!({ "iss": key, "sub": identity, "nbf": now - 10, "exp": now + 86_400, "video": video });
    let [header, claims] = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
    let signed = format!("{header}.{claims}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_signed_jwt() {
        let token = token("devkey", "secret", "a", "b");
        let parts: Vec<&str> = token.split('.').collect();
        let claims: serde_json::Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes()).expect("base64url")).expect("JSON");
        assert_eq!((claims["iss"].as_str(), claims["video"]["room"].as_str()), (Some("devkey"), Some("a")));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let signed = format!("{}.{}", parts[0], parts[1]);
        hmac::verify(&key, signed.as_bytes(), &BASE64URL_NOPAD.decode(parts[2].as_bytes()).expect("base64url")).expect("signed");
    }
}
