//! What HTTP asks of the director, and what the director answers: the only door between the async services and the thread
//! that owns all sessions.
//!
//! The director is an ordinary thread without a runtime. A request goes into its bounded queue together with a one-shot
//! sender for the answer, and the thread is unparked. A full queue is [`Refusal::Busy`] at once: a storm of joins is refused
//! early and never grows a backlog. All statuses a refusal can have in HTTP are decided here, in [`Refusal::status`].

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::Thread;
use std::time::Duration;

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::negotiate::NegotiateError;
pub use super::negotiate::Purpose;
use crate::config::RecordWish;

/// How long HTTP waits for the director before it gives up with [`Refusal::Busy`].
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// A POST to `/whip/{room}` or `/whep/{room}`, already authorized.
#[derive(Clone, Debug)]
pub struct Join {
    /// A valid room name (1 to [`crate::limits::ROOM_NAME_CHARS_MAX`] characters).
    pub room: String,
    pub purpose: Purpose,
    /// The SDP offer, at most [`crate::limits::SDP_BYTES_MAX`] bytes.
    pub offer: String,
    /// `sub` of the token.
    pub identity: Option<String>,
    /// Address of the HTTP client, for logs and per-source limits; not the address that media will come from.
    pub client: IpAddr,
    /// `User-Agent`, cut to a length fit for a log line; may be empty.
    pub user_agent: String,
}

/// A session that was made.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Unguessable and safe in a URL path (RFC 9725 §4.2: at least 128 bits): whoever knows it may end the session.
    pub session: String,
    /// Opaque tag of the ICE generation (RFC 9725 §4.3.1), without quotes.
    pub etag: String,
    /// The SDP answer.
    pub answer: String,
}

/// The session that a URL names. All three parts must agree: a WHEP URL does not end a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPath {
    pub room: String,
    pub purpose: Purpose,
    pub session: String,
}

/// `If-Match` of a PATCH (RFC 9110 §13.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// No tag sent, or `*` (which RFC 9725 §4.3.3 wants for an ICE restart): the current one, whichever it is.
    ///
    /// RFC 9725 §4.3.1 would have a missing tag answered with 428; real clients leave it out, so it is taken as `*`.
    Any,
    /// The tags sent, without quotes.
    Tags(Vec<String>),
}

impl IfMatch {
    pub fn accepts(&self, current: &str) -> bool {
        match self {
            IfMatch::Any => true,
            IfMatch::Tags(tags) => tags.iter().any(|tag| tag == current),
        }
    }
}

/// A member of a room, as one connection of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberKey {
    pub room: String,
    pub identity: String,
    pub connection: u64,
}

/// A client of LiveKit's signalling that wants into a room, already authorized.
#[derive(Debug)]
pub struct Attend {
    pub room: String,
    pub identity: String,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub permission: proto::ParticipantPermission,
    pub kind: i32,
    /// The API key of its token.
    pub key: String,
    pub client: IpAddr,
    pub user_agent: String,
    /// One peer connection for both directions.
    pub single: bool,
    pub auto_subscribe: bool,
    /// The sid of the member to come back as.
    pub resume: Option<String>,
    /// What it publishes at once.
    pub tracks: Vec<proto::AddTrackRequest>,
    pub offer: Option<proto::SessionDescription>,
    pub outbox: mpsc::Sender<proto::SignalResponse>,
}

#[derive(Clone, Debug)]
pub struct Attended {
    pub member: MemberKey,
}

/// What applications ask of rooms (LiveKit's RoomService), already authorized.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // it is boxed as a whole
pub enum RoomCall {
    Create(proto::CreateRoomRequest),
    List(proto::ListRoomsRequest),
    Delete(proto::DeleteRoomRequest),
    Members(proto::ListParticipantsRequest),
    Member(proto::RoomParticipantIdentity),
    Remove(proto::RoomParticipantIdentity),
    Mute(proto::MuteRoomTrackRequest),
    Update(proto::UpdateParticipantRequest),
    Subscriptions(proto::UpdateSubscriptionsRequest),
    Data(proto::SendDataRequest),
    Metadata(proto::UpdateRoomMetadataRequest),
}

/// And what they are told.
#[derive(Clone, Debug)]
pub enum RoomAnswer {
    Room(proto::Room),
    Rooms(Vec<proto::Room>),
    Members(Vec<proto::ParticipantInfo>),
    Member(Box<proto::ParticipantInfo>),
    Track(proto::TrackInfo),
    Done,
}

/// What a PATCH did.
#[derive(Clone, Debug)]
pub enum Patched {
    /// Candidates were taken: 204.
    NoContent,
    /// ICE restarted: 200 with the new tag (without quotes) and the server's own fragment.
    Restarted { etag: String, fragment: String },
}

/// Why the director said no. `Display` is the plain-text body.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The offer or fragment itself.
    Offer(NegotiateError),
    /// A fragment that cannot be applied to this session, with a sentence that says why.
    Fragment {
        reason: String,
    },
    /// A choice of layers that this session cannot make, with a sentence that says why.
    Layer {
        reason: String,
    },
    PublisherExists {
        room: String,
    },
    RoomFull {
        room: String,
        sessions_max: usize,
    },
    ServerFull {
        sessions_max: usize,
    },
    /// One address joins too often.
    TooManyJoins {
        joins_per_minute: u32,
    },
    /// A worker has no time left for more, in percent of its core.
    Overloaded {
        busy: u64,
        load_max: u64,
    },
    UnknownSession,
    NoSuchRoom {
        room: String,
    },
    NoSuchMember {
        room: String,
        identity: String,
    },
    NoSuchTrack {
        sid: String,
    },
    TooLong {
        what: &'static str,
        bytes_max: usize,
    },
    /// A WHIP publisher of the room has this identity.
    IdentityTaken {
        identity: String,
    },
    /// Nothing can be recorded: the server was given no folder.
    NoRecorder,
    /// Nobody asked for this room to be recorded, and nobody in it is.
    NotRecorded {
        room: String,
    },
    /// The tag sent is not the session's current one.
    StaleTag {
        current: String,
    },
    /// The server is shutting down.
    Draining,
    /// The director is too far behind to answer in time.
    Busy,
}

impl Refusal {
    /// HTTP status (RFC 9725 §4.2, §4.3, §4.5).
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Offer(error) => error.kind().status(),
            Refusal::Fragment { .. } | Refusal::Layer { .. } => 422,
            Refusal::NoSuchRoom { .. } | Refusal::NoSuchMember { .. } | Refusal::NoSuchTrack { .. } => 404,
            Refusal::TooLong { .. } => 413,
            Refusal::TooManyJoins { .. } => 429,
            Refusal::PublisherExists { .. } | Refusal::IdentityTaken { .. } => 409,
            Refusal::UnknownSession | Refusal::NotRecorded { .. } => 404,
            Refusal::NoRecorder => 501,
            Refusal::StaleTag { .. } => 412,
            Refusal::RoomFull { .. }
            | Refusal::ServerFull { .. }
            | Refusal::Overloaded { .. }
            | Refusal::Draining
            | Refusal::Busy => 503,
        }
    }

    /// `Retry-After` in seconds, for those that pass by themselves.
    pub fn retry_after_secs(&self) -> Option<u32> {
        match self {
            Refusal::RoomFull { .. } | Refusal::ServerFull { .. } => Some(30),
            Refusal::Draining | Refusal::Overloaded { .. } => Some(10),
            Refusal::TooManyJoins { .. } => Some(60),
            Refusal::Busy => Some(2),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Offer(error) => error.fmt(f),
            Refusal::Fragment { reason } | Refusal::Layer { reason } => f.write_str(reason),
            Refusal::PublisherExists { room } => {
                write!(f, "Room {room:?} already has a publisher. End its session first, or publish to another room.")
            }
            Refusal::NoSuchRoom { room } => write!(f, "There is no room {room:?}."),
            Refusal::NoSuchMember { room, identity } => write!(f, "Nobody is in room {room:?} as {identity:?}."),
            Refusal::NoSuchTrack { sid } => write!(f, "No track {sid:?} is published by that participant."),
            Refusal::TooLong { what, bytes_max } => write!(f, "Too long: {what} may have at most {bytes_max} bytes."),
            Refusal::IdentityTaken { identity } => {
                write!(f, "Somebody who publishes by WHIP is in the room as {identity:?}. Join under another identity.")
            }
            Refusal::RoomFull { room, sessions_max } => {
                write!(
                    f,
                    "Room {room:?} is full: it has all of its {sessions_max} sessions (limits.room_sessions). Try again later."
                )
            }
            Refusal::ServerFull { sessions_max } => {
                write!(f, "The server is full: it has all of its {sessions_max} sessions (limits.sessions). Try again later.")
            }
            Refusal::TooManyJoins { joins_per_minute } => {
                write!(
                    f,
                    "Too many joins: one address may make {joins_per_minute} in a minute (limits.joins_per_minute). Try again later."
                )
            }
            Refusal::Overloaded { busy, load_max } => {
                write!(
                    f,
                    "The server is at its limit: a worker is {busy} % busy, and from {load_max} % on (limits.load) no session is \
                     taken, so that those there are keep their latency. Try again later."
                )
            }
            Refusal::UnknownSession => {
                f.write_str("No such session. It has ended, or the URL is not the one the server gave in Location.")
            }
            Refusal::NoRecorder => f.write_str("This server records nothing: it was started without a folder (record.folder)."),
            Refusal::NotRecorded { room } => write!(f, "Room {room:?} is not being recorded."),
            Refusal::StaleTag { current } => {
                write!(f, "If-Match is not the session's current ETag, \"{current}\": ICE has been restarted since.")
            }
            Refusal::Draining => f.write_str("The server is shutting down and takes no new sessions."),
            Refusal::Busy => f.write_str("The server is too busy to answer now. Try again shortly."),
        }
    }
}

impl std::error::Error for Refusal {}

/// What [`Request::Record`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub room: String,
    /// Whether somebody publishes who is being recorded now; else whoever comes next is.
    pub publishing: bool,
}

/// One room of `GET /api/v1/rooms`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RoomView {
    pub room: String,
    pub publishers: usize,
    pub viewers: usize,
    /// Whether its publisher is being recorded.
    pub recording: bool,
    /// Id of the session of the dominant speaker, once somebody has spoken.
    pub speaker: Option<String>,
    pub sessions: Vec<SessionView>,
}

/// One session with its latest statistics. Directions are the server's: `in` is what it receives.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SessionView {
    /// Short public id, the one in log lines; never the secret of the session URL.
    pub id: String,
    /// `publish` or `watch`.
    pub purpose: &'static str,
    pub identity: Option<String>,
    /// `new`, `connecting`, `connected` or `closing`.
    pub state: &'static str,
    /// Worker that owns the session, once it is claimed.
    pub worker: Option<u8>,
    pub remote_address: Option<SocketAddr>,
    pub client: Option<IpAddr>,
    pub user_agent: String,
    /// Name of the SRTP protection profile (RFC 5764, RFC 7714), once DTLS is done.
    pub srtp_profile: Option<&'static str>,
    /// Seconds since the session was made.
    pub since_seconds: u64,
    /// Of the last report of a receiver, or else of its transport-wide feedback.
    pub rtt_ms: Option<f64>,
    /// Bits per second that a viewer's path carries, by the estimate; none while nothing is known of it.
    pub target_bitrate: Option<u64>,
    /// Bits per second that arrive, by what the viewer tells.
    pub acknowledged_bitrate: Option<u64>,
    /// Of a viewer's packets of the last seconds, from 0 to 1.
    pub loss: Option<f64>,
    /// Bytes that wait for their turn on a viewer's path.
    pub waiting_bytes: Option<u32>,
    /// How often a viewer's picture stood still, and for how long, by its own word; none if it has not told (`POST {session}/seen`).
    pub freezes: Option<u64>,
    pub frozen_seconds: Option<f64>,
    pub bitrate_in: u64,
    pub bitrate_out: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub packets_lost: u64,
    pub packets_retransmitted: u64,
    pub nacks: u64,
    pub plis: u64,
    /// Of a viewer's picture: what was chosen for it, and what it is sent until that can begin (at a key frame).
    pub layer_wanted: Option<LayerView>,
    pub layer_sent: Option<LayerView>,
    /// Of a publisher's picture: what flows.
    pub layers: Vec<QualityView>,
    /// Of a publisher: its simulcast encodings that nobody is sent or would be next. It may switch them off
    /// (`RTCRtpEncodingParameters.active`) until they are no longer named here.
    pub unwatched: Vec<String>,
    /// Whether a publisher speaks; none without sound. Whether it does is known only of clients that send RFC 6464 levels.
    pub speaking: Option<bool>,
    /// How loud it was last, in dBov: 0 the loudest, -127 silence.
    pub audio_level: Option<i8>,
    pub tracks: Vec<TrackView>,
}

/// Where a picture stands among the layers of its track.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerView {
    /// The encoding's rid, or its index; none if the publisher sends a single one.
    pub encoding: Option<String>,
    /// Index of the spatial layer.
    pub spatial: u8,
    /// Index of the highest temporal layer.
    pub temporal: u8,
}

/// One simulcast encoding or spatial layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QualityView {
    pub encoding: Option<String>,
    pub spatial: u8,
    /// Bits a second of each temporal layer by itself.
    pub bitrates: Vec<u32>,
}

/// What a viewer wants of a picture: the body of `POST {session}/layer`. What is said of layers takes the place of all that was; size and
/// priority stay until they are told anew. An empty object takes everything back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerWish {
    /// The m-line's mid; without it the first video.
    pub media_id: Option<String>,
    /// The publisher's rid, or the encoding's index.
    pub encoding_id: Option<String>,
    #[serde(alias = "spatialLayerId")]
    pub max_spatial_layer_id: Option<u8>,
    #[serde(alias = "temporalLayerId")]
    pub max_temporal_layer_id: Option<u8>,
    /// `false`: no picture, until another wish.
    pub active: Option<bool>,
    /// Of the place where it is shown, in pixels of the screen: no larger picture than fills it is sent.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Among the session's pictures when not all fit: 1 comes first.
    pub priority: Option<u32>,
}

/// What a viewer tells of its picture, since the session began: the body of `POST {session}/seen`. The names are those of the W3C's
/// `RTCInboundRtpStreamStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seen {
    pub freeze_count: u64,
    /// In seconds.
    pub total_freezes_duration: f64,
}

/// One m-line of a session.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrackView {
    pub mid: String,
    /// LiveKit's id of what comes in.
    pub sid: Option<String>,
    /// `audio` or `video`.
    pub kind: &'static str,
    /// Encoding name in SDP.
    pub codec: Option<&'static str>,
    /// `in` or `out`.
    pub direction: &'static str,
    /// Of a picture that is sent: it waits until the viewer's path carries it.
    pub paused: bool,
}

/// One answer on its way back. The receiver may have gone (the HTTP client hung up): sending never fails loudly.
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }
    /// Whether nobody waits any more.
    pub fn abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// What the director is asked, each with where the answer goes.
pub enum Request {
    Join {
        join: Join,
        reply: Reply<Result<Joined, Refusal>>,
    },
    Patch {
        path: SessionPath,
        if_match: IfMatch,
        fragment: String,
        reply: Reply<Result<Patched, Refusal>>,
    },
    Leave {
        path: SessionPath,
        reply: Reply<Result<(), Refusal>>,
    },
    /// GET, HEAD and OPTIONS of a session: does it exist, and what is its tag (without quotes)?
    Probe {
        path: SessionPath,
        reply: Reply<Result<String, Refusal>>,
    },
    Describe {
        path: SessionPath,
        reply: Reply<Result<SessionView, Refusal>>,
    },
    Layer {
        path: SessionPath,
        wish: LayerWish,
        reply: Reply<Result<(), Refusal>>,
    },
    Seen {
        path: SessionPath,
        seen: Seen,
        reply: Reply<Result<(), Refusal>>,
    },
    /// Every room with its sessions.
    Rooms {
        reply: Reply<Vec<RoomView>>,
    },
    /// Record who publishes in a room, now and later: as the room's own recording, or under a label beside that.
    Record {
        room: String,
        label: String,
        wish: RecordWish,
        reply: Reply<Result<Recorded, Refusal>>,
    },
    /// Keep nothing of a recorded room for now, or everything again.
    PauseRecording {
        room: String,
        label: String,
        paused: bool,
        reply: Reply<Result<(), Refusal>>,
    },
    /// Record one publisher, by its public id, for as long as it stays, beside whatever else records it: all of its tracks, or those with
    /// these sids or mids. `label` is what ends it, and what the files have in their names.
    RecordSession {
        session: String,
        tracks: Option<Vec<String>>,
        label: String,
        wish: RecordWish,
        reply: Reply<Result<Recorded, Refusal>>,
    },
    StopRecordingLabelled {
        label: String,
        reply: Reply<Result<(), Refusal>>,
    },
    StopRecording {
        room: String,
        label: String,
        reply: Reply<Result<(), Refusal>>,
    },
    Attend {
        attend: Box<Attend>,
        reply: Reply<Result<Attended, Refusal>>,
    },
    Room {
        call: Box<RoomCall>,
        reply: Reply<Result<RoomAnswer, Refusal>>,
    },
    /// What a member's client says. There is no answer but by its outbox.
    Signal {
        member: MemberKey,
        message: Box<proto::SignalRequest>,
    },
    /// The server is about to end.
    Farewell,
    /// Its connection has ended.
    Hung {
        member: MemberKey,
    },
}

/// What the director tells without being asked, for `/readyz` and `/metrics`.
#[derive(Default)]
pub struct Gauges {
    /// Whether new sessions are taken.
    pub ready: AtomicBool,
    pub rooms: AtomicU64,
    pub publishers: AtomicU64,
    pub viewers: AtomicU64,
    /// Sessions whose ICE and DTLS are done.
    pub connected: AtomicU64,
    pub handshakes: AtomicU64,
    /// Sessions made since the start.
    pub joins: AtomicU64,
    /// Joins refused by the director since the start.
    pub refusals: AtomicU64,
    /// Webhooks that were taken, and that were given up.
    pub webhooks_sent: AtomicU64,
    pub webhooks_lost: AtomicU64,
}

/// The services' end of the director's queue.
#[derive(Clone)]
pub struct Handle {
    requests: SyncSender<Request>,
    director: Thread,
    gauges: Arc<Gauges>,
}

impl Handle {
    /// `director` is the thread that holds the queue's other end; it is unparked after every request.
    pub fn new(requests: SyncSender<Request>, director: Thread, gauges: Arc<Gauges>) -> Self {
        Handle { requests, director, gauges }
    }

    pub async fn join(&self, join: Join) -> Result<Joined, Refusal> {
        self.ask(|reply| Request::Join { join, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn attend(&self, attend: Attend) -> Result<Attended, Refusal> {
        self.ask(|reply| Request::Attend { attend: Box::new(attend), reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn room_call(&self, call: RoomCall) -> Result<RoomAnswer, Refusal> {
        self.ask(|reply| Request::Room { call: Box::new(call), reply }).await.ok_or(Refusal::Busy)?
    }

    /// False if the director is too far behind: the connection cannot go on.
    pub fn signal(&self, member: &MemberKey, message: proto::SignalRequest) -> bool {
        self.tell(Request::Signal { member: member.clone(), message: Box::new(message) })
    }

    /// Tells members that the server is about to end.
    pub fn farewell(&self) -> bool {
        self.tell(Request::Farewell)
    }

    pub fn hung(&self, member: MemberKey) -> bool {
        self.tell(Request::Hung { member })
    }

    fn tell(&self, request: Request) -> bool {
        let told = self.requests.try_send(request).is_ok();
        self.director.unpark();
        told
    }

    pub async fn patch(&self, path: SessionPath, if_match: IfMatch, fragment: String) -> Result<Patched, Refusal> {
        self.ask(|reply| Request::Patch { path, if_match, fragment, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn leave(&self, path: SessionPath) -> Result<(), Refusal> {
        self.ask(|reply| Request::Leave { path, reply }).await.ok_or(Refusal::Busy)?
    }

    /// The session's current tag.
    pub async fn probe(&self, path: SessionPath) -> Result<String, Refusal> {
        self.ask(|reply| Request::Probe { path, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn describe(&self, path: SessionPath) -> Result<SessionView, Refusal> {
        self.ask(|reply| Request::Describe { path, reply }).await.ok_or(Refusal::Busy)?
    }

    /// Sets the best that a viewer wants of a picture.
    pub async fn layer(&self, path: SessionPath, wish: LayerWish) -> Result<(), Refusal> {
        self.ask(|reply| Request::Layer { path, wish, reply }).await.ok_or(Refusal::Busy)?
    }

    /// Notes what a viewer tells of its picture.
    pub async fn seen(&self, path: SessionPath, seen: Seen) -> Result<(), Refusal> {
        self.ask(|reply| Request::Seen { path, seen, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn rooms(&self) -> Result<Vec<RoomView>, Refusal> {
        self.ask(|reply| Request::Rooms { reply }).await.ok_or(Refusal::Busy)
    }

    pub async fn record(&self, room: String, label: String, wish: RecordWish) -> Result<Recorded, Refusal> {
        self.ask(|reply| Request::Record { room, label, wish, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn pause_recording(&self, room: String, label: String, paused: bool) -> Result<(), Refusal> {
        self.ask(|reply| Request::PauseRecording { room, label, paused, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn record_session(
        &self,
        session: String,
        tracks: Option<Vec<String>>,
        label: String,
        wish: RecordWish,
    ) -> Result<Recorded, Refusal> {
        self.ask(|reply| Request::RecordSession { session, tracks, label, wish, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn stop_recording_labelled(&self, label: String) -> Result<(), Refusal> {
        self.ask(|reply| Request::StopRecordingLabelled { label, reply }).await.ok_or(Refusal::Busy)?
    }

    pub async fn stop_recording(&self, room: String, label: String) -> Result<(), Refusal> {
        self.ask(|reply| Request::StopRecording { room, label, reply }).await.ok_or(Refusal::Busy)?
    }

    /// Whether new sessions are taken: the director has started, is not draining and has not died.
    pub fn ready(&self) -> bool {
        self.gauges.ready.load(Ordering::Relaxed)
    }

    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// None if the queue is full, the director gone or slower than [`ANSWER_TIME_MAX`].
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        match self.requests.try_send(request(Reply(sender))) {
            Ok(()) => self.director.unpark(),
            Err(TrySendError::Full(_)) => return None,
            Err(TrySendError::Disconnected(_)) => {
                self.gauges.ready.store(false, Ordering::Relaxed);
                return None;
            }
        }
        tokio::time::timeout(ANSWER_TIME_MAX, receiver).await.ok()?.ok()
    }
}
