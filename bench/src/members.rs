//! Rooms in which everybody publishes and is sent what the others do: members that speak LiveKit's signalling, as its newer SDKs do, with
//! one peer connection on which the client makes all offers.
//!
//! ```text
//!   signal   a thread for each member: its WebSocket, its offers, what it is told
//!   pump     threads that own the members' sockets and send their media
//!   member   one member's media, without I/O
//! ```
//!
//! Every payload says whose it is and how many went before it. All are decrypted, so for each member and each track it is known how many
//! packets should have come and how many did, and whether a track is whose the server said it was.

mod member;
mod options;
mod pump;
mod report;
mod sdp;
mod signal;

pub use options::Options;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distributary::secure::dtls::Identity;

use crate::http::Url;
use crate::media::Kind;
use crate::process::{self, CpuTime, CpuUse, Launch, Machine, Server};
use crate::run::{self, Totals};
use crate::{join, sys};
use member::Came;
use pump::Pump;
use signal::Told;

/// Without media before the measurement begins, so that it begins at the same packet for all.
const PAUSE: Duration = Duration::from_secs(1);
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// What the threads of a run share.
pub struct Shared {
    pub options: Options,
    pub root: Url,
    pub identity: Identity,
    pub pumps: Vec<Pump>,
    /// By LiveKit's id of a track: whose it is.
    pub tracks: Mutex<HashMap<String, (u32, Kind)>>,
    /// By LiveKit's id of a participant: which member that is.
    pub participants: Mutex<HashMap<String, u32>>,
    pub media: Arc<MediaState>,
    pub failure: Mutex<Option<String>>,
    pub quit: std::sync::atomic::AtomicBool,
    pub answers: AtomicU64,
}

/// What the threads that send and receive media are told, and tell.
pub struct MediaState {
    /// Talkers talk, and all send.
    pub talk: std::sync::atomic::AtomicBool,
    pub pause: std::sync::atomic::AtomicBool,
    /// Of each member and kind: the number of the next packet.
    pub next: Vec<[AtomicU64; 2]>,
    /// When each began to talk; 0: not yet.
    pub loud_since: Vec<AtomicU64>,
    pub connected: AtomicU64,
    /// Members' tracks of which something has come, counted once for each that is to be sent it.
    pub heard: AtomicU64,
    /// RTP packets received.
    pub packets: AtomicU64,
    pub late_max: AtomicU64,
    pub key_frame_requests: AtomicU64,
    pub failure: Mutex<Option<String>>,
}

impl Shared {
    pub fn fail(&self, why: String) {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(why);
    }

    fn failed(&self) -> Option<String> {
        let of = |place: &Mutex<Option<String>>| place.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        of(&self.failure).or_else(|| of(&self.media.failure))
    }
}

/// What a measurement gave.
struct Measured {
    seconds: f64,
    accounted_seconds: f64,
    began: Vec<[u64; 2]>,
    ended: Vec<[u64; 2]>,
    came: Vec<Came>,
    told: Vec<Told>,
    server_cpu: Option<CpuUse>,
    own_cpu: CpuUse,
    machine: (f64, f64),
    totals: Option<Totals>,
    idle_rss_kib: Option<u64>,
    joined_rss_kib: Option<u64>,
    rss_kib: Option<u64>,
    join_seconds: f64,
    heard: u64,
    socket_drops: u64,
}

pub fn run(options: &Options) -> Result<String, String> {
    let (server_cores, own_cores) = run::divide_cores(&options.server_cores, &options.cores, options.workers);
    let (mut server, root, pid) = target(options, &server_cores)?;
    sys::pin(&own_cores).map_err(|error| format!("cannot run on cores {own_cores:?}: {error}"))?;
    eprintln!("loadgen: server {root} on cores {server_cores:?}, generator on {own_cores:?}");
    std::thread::sleep(Duration::from_millis(500));
    let idle_rss_kib = pid.and_then(process::resident_kib);

    let members = options.rooms * options.members;
    let media = Arc::new(MediaState::new(members, options.talking.is_none()));
    let pumps: Result<Vec<Pump>, _> = (0..options.pumps).map(|index| Pump::start(index, options, media.clone())).collect();
    let shared = Arc::new(Shared {
        options: options.clone(),
        root,
        identity: Identity::generate().map_err(|error| error.to_string())?,
        pumps: pumps.map_err(|error| format!("thread of media: {error}"))?,
        tracks: Mutex::default(),
        participants: Mutex::default(),
        media: media.clone(),
        failure: Mutex::default(),
        quit: false.into(),
        answers: AtomicU64::new(0),
    });
    let start = Instant::now();
    let threads = join_all(&shared, members)?;
    let joined_rss_kib = pid.and_then(process::resident_kib);
    eprintln!("loadgen: {members} members are there, after {:.1} s", start.elapsed().as_secs_f64());
    media.talk.store(true, Relaxed);
    let heard = wait_for_tracks(&shared)?;
    let join_seconds = start.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(options.settle.into()));
    eprintln!("loadgen: measuring for {} s", options.seconds);
    let mut measured = measure(&shared, &mut server, pid)?;
    (measured.idle_rss_kib, measured.joined_rss_kib, measured.join_seconds) = (idle_rss_kib, joined_rss_kib, join_seconds);
    measured.heard = heard;
    let commit = run::commit(&shared.root);
    shared.quit.store(true, Relaxed);
    measured.told = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
    let report = report::make(&shared, measured, commit);
    serde_json::to_string(&report).map_err(|error| error.to_string())
}

/// The server, if it is started here; its address; its process.
type Target = (Option<Server>, Url, Option<u32>);

fn target(options: &Options, cores: &[usize]) -> Result<Target, String> {
    if let Some(binary) = &options.server_binary {
        let launch = Launch { binary, workers: options.workers, io: &options.io, arguments: &options.server_argument };
        let server = Server::start(&launch, cores, None)?;
        let (root, pid) = (server.url.clone(), Some(server.pid()));
        return Ok((Some(server), root, pid));
    }
    Ok((None, options.url.clone().ok_or("no URL of the server")?, options.server_pid))
}

impl MediaState {
    fn new(members: u32, talk: bool) -> MediaState {
        MediaState {
            talk: talk.into(),
            pause: false.into(),
            next: (0..members).map(|_| Default::default()).collect(),
            loud_since: (0..members).map(|_| AtomicU64::new(0)).collect(),
            connected: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            late_max: AtomicU64::new(0),
            key_frame_requests: AtomicU64::new(0),
            failure: Mutex::default(),
        }
    }

    fn numbers(&self) -> Vec<[u64; 2]> {
        self.next.iter().map(|kinds| [0, 1].map(|kind: usize| kinds[kind].load(Relaxed))).collect()
    }
}

/// All members join, room by room; returns their threads when all are connected.
fn join_all(shared: &Arc<Shared>, members: u32) -> Result<Vec<JoinHandle<Told>>, String> {
    let start = Instant::now();
    let mut threads = Vec::new();
    for index in 0..members {
        let due = Duration::from_secs_f64(f64::from(index) / f64::from(shared.options.join_rate));
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        if let Some(why) = shared.failed() {
            return Err(why);
        }
        let shared = shared.clone();
        let thread = std::thread::Builder::new().name(format!("lg-m{index}")).stack_size(THREAD_STACK_BYTES);
        let thread = thread.spawn(move || signal::run(&shared, index));
        threads.push(thread.map_err(|error| format!("thread of member {index}: {error}"))?);
    }
    let limit = Duration::from_secs(shared.options.join_seconds_max.into());
    let connected = || shared.media.connected.load(Relaxed) >= u64::from(members);
    join::wait_for(limit, connected, || shared.failed())
        .map_err(|error| format!("{error} ({} of {members} members connected)", shared.media.connected.load(Relaxed)))?;
    Ok(threads)
}

/// Waits until everybody has had something of every track that it is to be sent; of how many that is so.
fn wait_for_tracks(shared: &Shared) -> Result<u64, String> {
    let (wanted, limit) = (shared.options.tracks_wanted(), Duration::from_secs(shared.options.join_seconds_max.into()));
    let heard = || shared.media.heard.load(Relaxed);
    match join::wait_for(limit, || heard() >= wanted, || shared.failed()) {
        Err(error) if !shared.options.partial => {
            Err(format!("{error} ({} of {wanted} tracks came to those they are for)", heard()))
        }
        _ => Ok(heard()),
    }
}

fn measure(shared: &Shared, server: &mut Option<Server>, pid: Option<u32>) -> Result<Measured, String> {
    let (options, media) = (&shared.options, &shared.media);
    let cpu = |pid: Option<u32>| pid.and_then(CpuTime::of);
    media.pause.store(true, Relaxed);
    std::thread::sleep(PAUSE);
    let began = media.numbers();
    shared.pumps.iter().for_each(Pump::restart);
    media.late_max.store(0, Relaxed);
    let (totals_before, machine_before) = (Totals::of(&shared.root), Machine::now());
    let (server_before, own_before) = (cpu(pid), cpu(Some(std::process::id())).unwrap_or_default());
    let start = Instant::now();
    media.pause.store(false, Relaxed);
    for second in 1..=options.seconds {
        std::thread::sleep((start + Duration::from_secs(second.into())).saturating_duration_since(Instant::now()));
        if let Some(status) = server.as_mut().and_then(Server::status) {
            return Err(format!("the server ended in the middle ({status})"));
        }
        if let Some(why) = shared.failed() {
            return Err(why);
        }
    }
    media.pause.store(true, Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    drain(media);
    let accounted_seconds = start.elapsed().as_secs_f64();
    let server_cpu = cpu(pid).zip(server_before).map(|(after, before)| after.since(&before));
    let own_cpu = cpu(Some(std::process::id())).unwrap_or_default().since(&own_before);
    let totals = Totals::of(&shared.root).zip(totals_before).map(|(after, before)| after.since(&before));
    let (machine, ended, rss_kib) = (Machine::now().since(machine_before), media.numbers(), pid.and_then(process::resident_kib));
    let (mut came, mut socket_drops) = (Vec::new(), 0);
    for pump in &shared.pumps {
        let finished = pump.finish()?;
        came.extend(finished.came);
        socket_drops += finished.socket_drops;
    }
    let (idle_rss_kib, joined_rss_kib, join_seconds, heard, told) = (None, None, 0.0, 0, Vec::new());
    Ok(Measured {
        seconds,
        accounted_seconds,
        began,
        ended,
        came,
        told,
        server_cpu,
        own_cpu,
        machine,
        totals,
        idle_rss_kib,
        joined_rss_kib,
        rss_kib,
        join_seconds,
        heard,
        socket_drops,
    })
}

/// Waits for what is still on its way.
fn drain(media: &MediaState) {
    let start = Instant::now();
    let (mut last, mut changed) = (media.packets.load(Relaxed), start);
    while changed.elapsed() < run::DRAIN_QUIET && start.elapsed() < run::DRAIN_MAX {
        std::thread::sleep(Duration::from_millis(10));
        let now = media.packets.load(Relaxed);
        if now != last {
            (last, changed) = (now, Instant::now());
        }
    }
}
