//! The control plane: one thread that owns the list of sessions, rooms and tracks, decides who is joined to what, and tells the
//! workers. It is a state machine like they are: [`Director::turn`] takes the time, everything else comes through queues.
//!
//! A session's life: `join` makes its state and leaves it in the [`Handoff`] table; a worker claims it with the first
//! authenticated check; the handshakes' thread delivers keys; `end` takes it apart again, and its slot is free once the worker
//! has given the state back.

mod attend;
mod backup;
mod data;
mod data_tracks;
mod feeds;
mod floor;
mod joins;
mod layer;
mod members;
mod quality;
mod recording;
mod rooms;
mod service;
mod talk;
mod token;
mod transports;
mod view;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use livekit_protocol as proto;
use rtrb::Consumer;
use tracing::{info, warn};

use super::api::{Gauges, IfMatch, Join, Joined, Patched, Purpose, Refusal, Request, Seen, SessionPath};
use super::handshakes::{Notice, Office, Order};
use super::negotiate::{self, Agreed, CodecPolicy, DtlsRole, LocalTransport};
use crate::config::{IceServer, KeyRing, RoomPlan};
use crate::limits::{CONSENT_MILLIS_MAX, TRACKS_MAX};
use crate::mem::Handoff;
use crate::metrics::WorkerMetrics;
use crate::peer::send::CNAME;
use crate::peer::{Growth, Peer};
use crate::rtp::config::{Direction, MediaConfig, Mid};
use crate::rtp::layers::Wish;
use crate::rtp::level::STEP;
use crate::secure::dtls::{Fingerprint, Role};
use crate::secure::srtp::Profile;
use crate::units::{Micros, PeerId, Ssrc, TrackId, WorkerId};
use crate::worker::mail::{Command, Event, IcePassword, Outbox, PeerStats, Spent, Ufrag, Wake, handshakes_of};
use crate::worker::tap;
use feeds::{Feed, Track};
use joins::Joins;
use rooms::Room;
pub use rooms::RoomSettings;

/// Time between two looks at what has expired, and two updates of the gauges.
const TICK: Micros = Micros::from_millis(250);
/// Between two looks at who speaks, in rooms where anybody does: how often workers tell of sound.
const LOOK: Micros = STEP;

/// What the director needs to know of the configuration.
pub struct Settings {
    pub fingerprint: Fingerprint,
    /// Addresses of the media sockets as clients reach them.
    pub candidates: Vec<SocketAddr>,
    pub tcp_port: Option<u16>,
    pub sessions_max: usize,
    pub room_sessions_max: usize,
    /// Percentage of a core from which on a worker counts as full. 100: never.
    pub load_max: u64,
    /// Of one address; 0: any number.
    pub joins_per_minute: u32,
    pub room: RoomPlan,
    /// What members' tokens are renewed with.
    pub keys: KeyRing,
    pub codecs: CodecPolicy,
    /// What members' clients are told of STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// Milliseconds of Unix time at time 0.
    pub epoch: i64,
}

/// The director's queues.
pub struct Links {
    pub requests: Receiver<Request>,
    pub notices: Receiver<Notice>,
    /// To each thread of handshakes, and what wakes it.
    pub handshakes: Vec<(Sender<Order>, Wake)>,
    pub commands: Vec<Outbox<Command>>,
    pub events: Vec<Consumer<Event>>,
    /// The workers' tables, for their load.
    pub tables: Vec<Arc<WorkerMetrics>>,
    /// To whoever reads the tap.
    pub tap: Option<tap::Source>,
    /// To whoever tells applications what happens in rooms.
    pub happenings: Option<tokio::sync::mpsc::Sender<proto::WebhookEvent>>,
}

/// Random 64 bits, cryptographically strong in the server, seeded in the simulator.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for its first check.
    New,
    /// A worker has it; DTLS goes on.
    Connecting,
    Connected,
    /// Its worker has been told to give it back.
    Ending,
}

/// What a session is in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Came by WHIP.
    Publisher,
    /// Came by WHEP.
    Viewer,
    /// A peer connection of a member.
    Member { identity: String },
}

impl Part {
    fn purpose(&self) -> Option<Purpose> {
        match self {
            Part::Publisher => Some(Purpose::Publish),
            Part::Viewer => Some(Purpose::Watch),
            Part::Member { .. } => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Part::Publisher => "publish",
            Part::Viewer => "watch",
            Part::Member { .. } => "member",
        }
    }
}

struct Session {
    id: PeerId,
    /// The last part of the session URL; whoever knows it may end the session.
    secret: String,
    /// For logs and the API.
    name: String,
    room: String,
    part: Part,
    identity: Option<String>,
    client: IpAddr,
    user_agent: String,
    since: Micros,
    state: State,
    worker: Option<WorkerId>,
    address: Option<SocketAddr>,
    /// When a change of address was last logged.
    moved_at: Micros,
    profile: Option<Profile>,
    /// Of its m-lines, those received on.
    agreed: Agreed,
    /// The client's ICE credentials of this generation, to tell a restart from a trickled candidate.
    remote_ufrag: String,
    /// Local credentials, newest last.
    credentials: Vec<(Ufrag, IcePassword)>,
    etag: String,
    /// Published tracks, in the order of the m-lines received; of each its m-line and what its client calls it.
    tracks: Vec<TrackId>,
    sources: Vec<(Mid, Option<String>)>,
    /// The m-lines that the server sends on, by sender.
    lines: Vec<MediaConfig>,
    /// What they are fed from.
    feeds: Vec<Feed>,
    /// Of a member: what its client was told last is sent on them.
    told: Vec<(Mid, TrackId)>,
    /// And those on which anything ever was.
    used: BTreeSet<Mid>,
    /// Agreed on while a worker had the session and the director did not know yet which.
    #[allow(clippy::vec_box)] // they go on to a worker in their boxes
    growth: Vec<Box<Growth>>,
    /// What a viewer wants, by m-line that the server sends on; what is not in it: everything.
    wishes: Vec<(u16, Wish)>,
    /// What a viewer told of its picture.
    seen: Option<Seen>,
    stats: PeerStats,
    stats_at: Micros,
    /// Of what it sent in the last second, what never came.
    loss_in: f64,
    /// Its client said goodbye.
    closed: bool,
    bitrate_in: u64,
    bitrate_out: u64,
}

/// What a session is made of.
struct Opening {
    room: String,
    part: Part,
    identity: Option<String>,
    client: IpAddr,
    user_agent: String,
    credentials: (Ufrag, IcePassword),
    agreed: Agreed,
}

/// The control plane's state.
pub struct Director {
    settings: Settings,
    fingerprint: String,
    handoff: Arc<Handoff<Peer>>,
    random: Random,
    requests: Receiver<Request>,
    notices: Receiver<Notice>,
    handshakes: Vec<(Sender<Order>, Wake)>,
    workers: Vec<Office>,
    events: Vec<Consumer<Event>>,
    tables: Vec<Arc<WorkerMetrics>>,
    tap: Option<tap::Source>,
    happenings: Option<tokio::sync::mpsc::Sender<proto::WebhookEvent>>,
    gauges: Arc<Gauges>,
    sessions: HashMap<u32, Session>,
    by_secret: HashMap<String, u32>,
    free_slots: VecDeque<u32>,
    generation: u32,
    rooms: HashMap<String, Room>,
    tracks: HashMap<u32, Track>,
    free_tracks: VecDeque<u32>,
    track_generation: u32,
    /// Of members' clients, so far.
    connections: u64,
    now: Micros,
    next_tick: Micros,
    next_look: Micros,
    draining: bool,
    joins: Joins,
}

impl Director {
    pub fn new(settings: Settings, links: Links, handoff: Arc<Handoff<Peer>>, gauges: Arc<Gauges>, random: Random) -> Self {
        Director {
            fingerprint: settings.fingerprint.to_string(),
            free_slots: (0..settings.sessions_max as u32).collect(),
            settings,
            handoff,
            random,
            requests: links.requests,
            notices: links.notices,
            handshakes: links.handshakes,
            workers: links.commands.into_iter().map(Office::new).collect(),
            events: links.events,
            tables: links.tables,
            tap: links.tap,
            happenings: links.happenings,
            gauges,
            sessions: HashMap::new(),
            by_secret: HashMap::new(),
            generation: 0,
            rooms: HashMap::new(),
            tracks: HashMap::new(),
            free_tracks: (0..TRACKS_MAX as u32).collect(),
            track_generation: 0,
            connections: 0,
            now: Micros::ZERO,
            next_tick: Micros::ZERO,
            next_look: Micros::ZERO,
            draining: false,
            joins: Joins::default(),
        }
    }

    /// Works off what has come. Returns when to call again at the latest.
    pub fn turn(&mut self, now: Micros) -> Micros {
        self.now = now;
        while let Ok(notice) = self.notices.try_recv() {
            self.notice(notice);
        }
        for worker in 0..self.events.len() {
            while let Ok(event) = self.events[worker].pop() {
                self.event(event, now);
            }
        }
        while let Ok(request) = self.requests.try_recv() {
            self.request(request, now);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.listen();
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.expire_unclaimed(now);
            self.expire_members();
            self.renew_tokens();
            self.tidy_rooms();
            self.tidy_recordings();
            self.publish_gauges();
        }
        if self.flush() { self.next_tick.min(self.next_look) } else { now + Micros::from_millis(1) }
    }

    /// Gives the workers what is meant for them; false if something had to stay.
    fn flush(&mut self) -> bool {
        self.workers.iter_mut().fold(true, |flushed, office| office.flush() & flushed)
    }

    /// Takes no more sessions and says goodbye to those there are.
    pub fn drain(&mut self) {
        self.draining = true;
        self.gauges.ready.store(false, Ordering::Relaxed);
        self.handshakes.iter().for_each(|thread| self.order_of(thread, Order::CloseAll));
    }

    fn request(&mut self, request: Request, now: Micros) {
        match request {
            Request::Join { join, reply } => {
                // Nobody waits any more: the client would never learn of the session.
                if reply.abandoned() {
                    return;
                }
                let outcome = self.join(join, now);
                let counter = if outcome.is_ok() { &self.gauges.joins } else { &self.gauges.refusals };
                counter.fetch_add(1, Ordering::Relaxed);
                // The workers first: a client may check as soon as it has the answer, and ffmpeg does so only once.
                self.flush();
                reply.send(outcome);
            }
            Request::Patch { path, if_match, fragment, reply } => {
                let outcome = self.patch(&path, &if_match, &fragment);
                self.flush();
                reply.send(outcome);
            }
            Request::Leave { path, reply } => {
                reply.send(self.find(&path).map(|slot| self.end(slot, "the client left")));
            }
            Request::Probe { path, reply } => reply.send(self.find(&path).map(|slot| self.sessions[&slot].etag.clone())),
            Request::Describe { path, reply } => {
                reply.send(self.find(&path).map(|slot| self.session_view(&self.sessions[&slot], now)));
            }
            Request::Layer { path, wish, reply } => reply.send(self.wish(&path, &wish)),
            Request::Seen { path, seen, reply } => {
                let slot = self.find(&path);
                let session = slot.map(|slot| self.sessions.get_mut(&slot));
                reply.send(session.map(|session| session.into_iter().for_each(|session| session.seen = Some(seen))));
            }
            Request::Rooms { reply } => reply.send(self.room_views(now)),
            Request::Record { room, label, wish, reply } => reply.send(self.start_recording(room, label, wish)),
            Request::PauseRecording { room, label, paused, reply } => reply.send(self.pause_recording(&room, &label, paused)),
            Request::RecordSession { session, tracks, label, wish, reply } => {
                reply.send(self.record_session(session, tracks, label, wish));
            }
            Request::StopRecordingLabelled { label, reply } => reply.send(self.stop_recording_labelled(&label)),
            Request::StopRecording { room, label, reply } => reply.send(self.stop_recording(&room, &label)),
            Request::Attend { attend, reply } => {
                if reply.abandoned() {
                    return;
                }
                let outcome = self.attend(*attend);
                let counter = if outcome.is_ok() { &self.gauges.joins } else { &self.gauges.refusals };
                counter.fetch_add(1, Ordering::Relaxed);
                self.flush();
                reply.send(outcome);
            }
            Request::Room { call, reply } => {
                let outcome = self.room_call(*call);
                self.flush();
                reply.send(outcome);
            }
            Request::Signal { member, message } => {
                self.signal(&member, *message);
                self.flush();
            }
            Request::Farewell => self.dismiss_all(),
            Request::Hung { member } => self.hung(&member),
        }
    }

    /// Makes a session out of an offer.
    pub fn join(&mut self, join: Join, now: Micros) -> Result<Joined, Refusal> {
        self.now = now;
        self.admit(&join.room, join.client)?;
        let publishes = join.purpose == Purpose::Publish;
        if publishes && self.rooms.get(&join.room).is_some_and(|room| room.publisher.is_some()) {
            return Err(Refusal::PublisherExists { room: join.room });
        }
        let credentials = self.credentials();
        let agreed = self.with_local(credentials, |local, ssrc, codecs| {
            negotiate::answer(&join.offer, join.purpose, local, ssrc, codecs).map_err(Refusal::Offer)
        })?;
        let part = if publishes { Part::Publisher } else { Part::Viewer };
        let Join { room, identity, client, user_agent, .. } = join;
        let slot = self.open_session(Opening { room, part, identity, client, user_agent, credentials, agreed })?;
        if publishes {
            self.announce_publisher(slot);
        }
        let Some(session) = self.sessions.get_mut(&slot) else { return Err(Refusal::UnknownSession) };
        // The answer is not needed again, and it is the largest part of a session.
        let answer = std::mem::take(&mut session.agreed.answer);
        Ok(Joined { session: session.secret.clone(), etag: session.etag.clone(), answer })
    }

    /// New local ICE credentials.
    fn credentials(&mut self) -> (Ufrag, IcePassword) {
        let (ufrag, password) = (self.token(8), self.token(24));
        (fit(&ufrag), fit(&password))
    }

    /// Negotiates something with these credentials as the server's.
    fn with_local<T>(
        &mut self,
        (ufrag, password): (Ufrag, IcePassword),
        negotiate: impl FnOnce(&LocalTransport, &mut dyn FnMut() -> u32, &CodecPolicy) -> T,
    ) -> T {
        let session_id = (self.random)() >> 2;
        let local = LocalTransport {
            ufrag: &ufrag,
            pwd: &password,
            fingerprint: &self.fingerprint,
            candidates: &self.settings.candidates,
            tcp_port: self.settings.tcp_port,
            session_id,
            cname: CNAME,
        };
        let random = &mut self.random;
        let mut ssrc = || ((random)() as u32).max(1);
        negotiate(&local, &mut ssrc, &self.settings.codecs)
    }

    /// Makes a session out of what was agreed on with its client.
    fn open_session(&mut self, opening: Opening) -> Result<u32, Refusal> {
        let Opening { room, part, identity, client, user_agent, credentials: (ufrag, password), mut agreed } = opening;
        let full = || Refusal::ServerFull { sessions_max: self.settings.sessions_max };
        let received = || agreed.media.iter().zip(&agreed.sources).filter(|(media, _)| media.direction == Direction::RecvOnly);
        if received().count() > self.free_tracks.len() {
            return Err(full());
        }
        let slot = self.free_slots.pop_front().ok_or_else(full)?;
        self.generation = self.generation.wrapping_add(1);
        let id = PeerId { slot, generation: self.generation };
        let tracks = self.open_tracks(id, &agreed);
        let sources = received().map(|(media, source)| (media.mid, source.clone())).collect();
        let rtcp_ssrc = Ssrc(((self.random)() as u32).max(1));
        let publishes = part != Part::Viewer;
        let peer = Peer::new(id, &agreed.media, publishes.then_some(&tracks), rtcp_ssrc, &mut self.random);
        let lines = agreed.take_sent();
        self.handoff.put(slot, Box::new(peer));
        let role = match agreed.dtls_role {
            DtlsRole::Client => Role::Client,
            DtlsRole::Server => Role::Server,
        };
        self.order(id, Order::Expect { peer: id, role, fingerprints: fingerprints(&agreed), publishes, data: agreed.data });
        for worker in &mut self.workers {
            worker.send(Command::Expect { peer: id, ufrag, password });
        }
        let session = Session {
            id,
            secret: self.token(32),
            name: self.token(8),
            room,
            part,
            identity,
            client,
            user_agent,
            since: self.now,
            state: State::New,
            worker: None,
            address: None,
            moved_at: Micros::ZERO,
            profile: None,
            remote_ufrag: agreed.remote_ufrag.clone(),
            agreed,
            credentials: vec![(ufrag, password)],
            etag: self.token(12),
            tracks,
            sources,
            lines,
            feeds: Vec::new(),
            told: Vec::new(),
            used: BTreeSet::new(),
            growth: Vec::new(),
            wishes: Vec::new(),
            stats: PeerStats::default(),
            seen: None,
            stats_at: self.now,
            loss_in: 0.0,
            closed: false,
            bitrate_in: 0,
            bitrate_out: 0,
        };
        info!(session = session.name, room = session.room, purpose = session.part.name(), client = %session.client,
            identity = session.identity.as_deref().unwrap_or("-"), user_agent = session.user_agent, "session made");
        self.by_secret.insert(session.secret.clone(), slot);
        self.enter_room(&session);
        self.sessions.insert(slot, session);
        Ok(slot)
    }

    /// Whether there is a place for one more.
    fn admit(&mut self, name: &str, client: IpAddr) -> Result<(), Refusal> {
        self.joins.count(client, self.settings.joins_per_minute, self.now)?;
        if self.draining {
            return Err(Refusal::Draining);
        }
        if let Some(busy) = self.overload() {
            return Err(Refusal::Overloaded { busy, load_max: self.settings.load_max });
        }
        let sessions_max = self.settings.room_sessions_max;
        let room = self.rooms.get(name);
        if room.is_some_and(|room| room.len() >= sessions_max) {
            return Err(Refusal::RoomFull { room: name.to_owned(), sessions_max });
        }
        Ok(())
    }

    /// Load of the busiest worker in percent of its core, if that is too much. A new session comes to whichever worker the flow hash
    /// gives it to, so it is the busiest that decides whether somebody would be slowed down.
    fn overload(&self) -> Option<u64> {
        let busy = self.tables.iter().map(|table| table.busy()).max().unwrap_or(0) / 10;
        (self.settings.load_max < 100 && busy >= self.settings.load_max).then_some(busy)
    }

    /// A fragment of SDP: candidates, which an ICE-lite server does not need, or new credentials, which restart ICE
    /// (RFC 9725 §4.3).
    pub fn patch(&mut self, path: &SessionPath, if_match: &IfMatch, fragment: &str) -> Result<Patched, Refusal> {
        let slot = self.find(path)?;
        let session = &self.sessions[&slot];
        if !if_match.accepts(&session.etag) {
            return Err(Refusal::StaleTag { current: session.etag.clone() });
        }
        let parsed = negotiate::parse_fragment(fragment).map_err(Refusal::Offer)?;
        let restart = parsed.ufrag.as_deref().is_some_and(|ufrag| ufrag != session.remote_ufrag);
        if !restart {
            return Ok(Patched::NoContent);
        }
        if parsed.pwd.is_none() {
            return Err(Refusal::Fragment { reason: "A new a=ice-ufrag restarts ICE and needs a=ice-pwd beside it.".to_owned() });
        }
        let remote = parsed.ufrag.unwrap_or_default();
        let (ufrag, password) = self.restart_ice(slot, remote);
        let (etag, session_id) = (self.token(12), (self.random)() >> 2);
        let Some(session) = self.sessions.get_mut(&slot) else { return Err(Refusal::UnknownSession) };
        session.etag = etag.clone();
        let local = LocalTransport {
            ufrag: &ufrag,
            pwd: &password,
            fingerprint: &self.fingerprint,
            candidates: &self.settings.candidates,
            tcp_port: self.settings.tcp_port,
            session_id,
            cname: CNAME,
        };
        let tagged = session.agreed.bundle.first();
        let media = session.media().find(|media| Some(&media.mid) == tagged).or(session.media().next());
        let (kind, mid) = media.map_or(("audio", ""), |media| (view::kind_name(media.kind), media.mid.as_str()));
        info!(session = session.name, room = session.room, "ICE restarted");
        Ok(Patched::Restarted { etag, fragment: negotiate::restart_fragment(&local, kind, mid) })
    }

    /// New local credentials beside the last ones; `remote`: the client's new name.
    fn restart_ice(&mut self, slot: u32, remote: String) -> (Ufrag, IcePassword) {
        let (ufrag, password) = self.credentials();
        let Some(session) = self.sessions.get_mut(&slot) else { return (ufrag, password) };
        session.remote_ufrag = remote;
        session.credentials.push((ufrag, password));
        let outdated = (session.credentials.len() > 2).then(|| session.credentials.remove(0).0);
        for worker in &mut self.workers {
            worker.send(Command::Expect { peer: session.id, ufrag, password });
            if let Some(ufrag) = outdated {
                worker.send(Command::Forget { ufrag });
            }
        }
        (ufrag, password)
    }

    /// The slot of the session that a URL names.
    fn find(&self, path: &SessionPath) -> Result<u32, Refusal> {
        let slot = *self.by_secret.get(&path.session).ok_or(Refusal::UnknownSession)?;
        let session = self.sessions.get(&slot).ok_or(Refusal::UnknownSession)?;
        if session.room == path.room && session.part.purpose() == Some(path.purpose) {
            Ok(slot)
        } else {
            Err(Refusal::UnknownSession)
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Connected { peer, profile } => {
                if let Some(session) = self.session(peer) {
                    session.state = State::Connected;
                    session.profile = Some(profile);
                    info!(session = session.name, room = session.room, srtp = profile.name(), "session connected");
                    self.member_connected(peer.slot);
                }
            }
            Notice::Failed { peer, reason } => {
                if let Some(session) = self.session(peer) {
                    warn!(session = session.name, room = session.room, %reason, "DTLS failed");
                    self.end(peer.slot, "DTLS failed");
                }
            }
            Notice::Closed { peer } => {
                if let Some(session) = self.session(peer) {
                    session.closed = true;
                    self.end(peer.slot, "the client closed DTLS");
                }
            }
            Notice::Data { peer, label, payload, .. } => self.data(peer, &label, &payload),
            Notice::DataClosed { peer, reason } => {
                if let Some(session) = self.session(peer) {
                    warn!(session = session.name, room = session.room, %reason, "data channels ended");
                }
            }
            Notice::DataOpen { .. } | Notice::DataChannelClosed { .. } => {}
        }
    }

    fn event(&mut self, event: Event, now: Micros) {
        match event {
            Event::Claimed { peer, worker, address } => self.claimed(peer, worker, address),
            Event::Moved { peer, address } => {
                if let Some(session) = self.session(peer) {
                    // A client that hops from port to port gets one line a second, not one a hop.
                    if now.since(session.moved_at) >= 1_000_000 {
                        session.moved_at = now;
                        info!(session = session.name, room = session.room, from = ?session.address, to = %address, "address changed");
                    }
                    session.address = Some(address);
                }
            }
            Event::Expired { peer } => {
                if self.session(peer).is_some() {
                    self.end(peer.slot, "nothing authentic came from the client for 30 s");
                }
            }
            Event::Stats { peer, stats } => {
                if let Some(session) = self.session(peer) {
                    let before = session.stats.paused;
                    session.take_stats(stats, now);
                    self.tell_paused(peer.slot, before);
                    self.note_quality(peer.slot);
                }
            }
            Event::Sound { peer, level, at } => self.hear(peer, level, at),
            Event::Spent(Spent::Peer(peer)) => self.release(peer.id),
            Event::Spent(_) => {}
        }
    }

    fn claimed(&mut self, peer: PeerId, worker: WorkerId, address: SocketAddr) {
        let Some(session) = self.session(peer) else {
            // It ended before it was claimed, and the claim was already on its way.
            if let Some(office) = self.workers.get_mut(worker.0 as usize) {
                office.send(Command::Remove { peer });
            }
            return;
        };
        if session.worker.is_some() {
            return;
        }
        session.worker = Some(worker);
        session.address = Some(address);
        if session.state == State::New {
            session.state = State::Connecting;
        }
        info!(session = session.name, room = session.room, worker = worker.0, %address, "session claimed");
        let growth = std::mem::take(&mut session.growth);
        if let Some(office) = self.workers.get_mut(worker.0 as usize) {
            growth.into_iter().for_each(|growth| office.send(Command::Grow { peer, growth }));
        }
        self.connect_media(peer.slot);
    }

    /// Ends a session.
    fn end(&mut self, slot: u32, why: &str) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        if session.state == State::Ending {
            return;
        }
        session.state = State::Ending;
        info!(session = session.name, room = session.room, purpose = session.part.name(), why, "session ended");
        let (id, worker, part) = (session.id, session.worker, session.part.clone());
        self.by_secret.remove(&session.secret);
        let credentials = std::mem::take(&mut session.credentials);
        self.disconnect_media(slot);
        self.leave_room(slot);
        self.order(id, Order::Forget { peer: id });
        for office in &mut self.workers {
            for (ufrag, _) in &credentials {
                office.send(Command::Forget { ufrag: *ufrag });
            }
            // To all: others may have learnt its addresses.
            office.send(Command::Remove { peer: id });
        }
        self.session_ended(slot, &part);
        if worker.is_none() && self.handoff.take(slot).is_some() {
            self.release(id);
        }
    }

    /// Nobody has the session's state any more: its slot is free.
    fn release(&mut self, id: PeerId) {
        if self.sessions.get(&id.slot).is_some_and(|session| session.id == id) {
            self.sessions.remove(&id.slot);
            self.free_slots.push_back(id.slot);
        }
    }

    /// Sessions whose client never sent a check.
    fn expire_unclaimed(&mut self, now: Micros) {
        let late = |session: &Session| session.state == State::New && now.since(session.since) > CONSENT_MILLIS_MAX * 1_000;
        let slots: Vec<u32> = self.sessions.values().filter(|session| late(session)).map(|session| session.id.slot).collect();
        for slot in slots {
            self.end(slot, "no connectivity check within 30 s");
        }
    }

    fn session(&mut self, peer: PeerId) -> Option<&mut Session> {
        self.sessions.get_mut(&peer.slot).filter(|session| session.id == peer && session.state != State::Ending)
    }

    /// Tells the thread of handshakes that a session is on.
    fn order(&self, peer: PeerId, order: Order) {
        self.order_of(&self.handshakes[handshakes_of(peer, self.handshakes.len())], order);
    }

    fn order_of(&self, (orders, wake): &(Sender<Order>, Wake), order: Order) {
        // The receiver lives as long as the server.
        let _ = orders.send(order);
        wake();
    }

    /// A random token of letters and digits, all of them ice-chars (RFC 8839 §5.4) and safe in a URL: 5.95 bits each, so 32 are
    /// 190 bits.
    fn token(&mut self, length: usize) -> String {
        const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut token = String::with_capacity(length);
        while token.len() < length {
            let mut bits = (self.random)();
            for _ in 0..10 {
                // Values above 61 are thrown away, so that every letter is equally likely.
                if let Some(letter) = LETTERS.get((bits & 63) as usize)
                    && token.len() < length
                {
                    token.push(*letter as char);
                }
                bits >>= 6;
            }
        }
        token
    }
}

/// A token made to fit.
fn fit<const N: usize>(token: &str) -> arrayvec::ArrayString<N> {
    token.chars().take(N).collect::<String>().as_str().try_into().unwrap_or_default()
}

/// The fingerprints of hash functions that are good enough; the negotiation saw to it that there is one.
fn fingerprints(agreed: &Agreed) -> Vec<Fingerprint> {
    let text = |(algorithm, bytes): &(String, Vec<u8>)| {
        let digest: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        format!("{algorithm} {}", digest.join(":"))
    };
    agreed.fingerprints.iter().filter_map(|fingerprint| text(fingerprint).parse().ok()).collect()
}
