//! Viewers that join: threads that POST offers, many at a time, and hand each viewer with its socket to a receiving thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use distributary::secure::dtls::Identity;

use crate::cli::{Audio, Options, PathFeedback};
use crate::http::{Client, Url};
use crate::receiver::ReceiverThread;
use crate::sdp::{self, Answer};
use crate::sink::Sink;
use crate::sys;
use crate::transport::{self, Transport};
use crate::viewer::{Milestones, Viewer};

const VIEWER_RECEIVE_BUFFER: usize = 2 << 20;

/// Who joins, where and how.
pub struct Plan<'a> {
    pub options: &'a Options,
    /// Of each room.
    pub whep: &'a [Url],
    pub identity: &'a Identity,
    pub threads: &'a [ReceiverThread],
    pub sink: Option<&'a Sink>,
    pub viewers: u32,
    /// Requests under way at a time.
    pub concurrency: u32,
    /// When each asks to join: so many in a second, from now on. 0: as soon as one of those before has its answer.
    pub rate: u32,
}

/// What joiners share.
struct Joining<'a> {
    plan: &'a Plan<'a>,
    start: u64,
    next: AtomicU32,
    stop: AtomicBool,
    sessions: Mutex<Vec<Url>>,
    failure: Mutex<Option<String>>,
}

/// All viewers join; returns their sessions when each has had its first packet.
pub fn join_all(plan: &Plan) -> Result<Vec<Url>, String> {
    let joining = Joining {
        plan,
        start: sys::monotonic_ns(),
        next: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        sessions: Mutex::default(),
        failure: Mutex::default(),
    };
    let (threads, viewers) = (plan.threads, plan.viewers);
    let watching = || threads.iter().map(|thread| thread.progress.watching.load(Relaxed)).sum::<u64>();
    let connected = || threads.iter().map(|thread| thread.progress.connected.load(Relaxed)).sum::<u64>();
    let failure = || {
        let of = |place: &Mutex<Option<String>>| place.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        of(&joining.failure).or_else(|| threads.iter().find_map(|thread| of(&thread.progress.failure)))
    };
    let limit = Duration::from_secs(plan.options.join_seconds_max.into());
    let result = std::thread::scope(|scope| {
        for _ in 0..plan.concurrency.min(viewers) {
            scope.spawn(|| joining.work());
        }
        let result = wait_for(limit, || watching() >= viewers.into(), failure);
        joining.stop.store(true, Relaxed);
        result
    });
    result.map_err(|error| {
        let (joined, connected, watching) = (joining.next.load(Relaxed).min(viewers), connected(), watching());
        format!("{error} ({joined} of {viewers} viewers asked to join, {connected} connected, {watching} got media)")
    })?;
    Ok(joining.sessions.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

pub fn wait_for(limit: Duration, done: impl Fn() -> bool, failure: impl Fn() -> Option<String>) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !done() {
        if let Some(why) = failure() {
            return Err(why);
        }
        if Instant::now() > deadline {
            return Err(format!("not connected after {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

impl Joining<'_> {
    fn work(&self) {
        let mut client = Client::default();
        while !self.stop.load(Relaxed) {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= self.plan.viewers {
                return;
            }
            let due = self.wait_for_turn(index);
            if let Err(error) = self.join(index, due, &mut client) {
                self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                return;
            }
        }
    }

    /// When this viewer was to ask: what it waits for a free thread here counts as waiting for the server, or a slow server
    /// would be asked less and look quicker.
    fn wait_for_turn(&self, index: u32) -> u64 {
        let now = sys::monotonic_ns();
        if self.plan.rate == 0 {
            return now;
        }
        let due = self.start + u64::from(index) * 1_000_000_000 / u64::from(self.plan.rate);
        std::thread::sleep(Duration::from_nanos(due.saturating_sub(now)));
        due
    }

    fn join(&self, index: u32, posted: u64, client: &mut Client) -> Result<(), String> {
        let (plan, options) = (self.plan, self.plan.options);
        let rooms = plan.whep.len() as u32;
        let (room, place) = (index % rooms, index / rooms);
        let whep = &plan.whep[room as usize];
        // Not the first of every room: who is served first has the lowest latency.
        let in_sample = (place + room).is_multiple_of(options.sample);
        let credentials = transport::credentials();
        let media = (options.audio != Audio::Off, options.audio != Audio::Only);
        let offer =
            transport::offer(plan.identity, &credentials, "actpass", media, None, options.feedback == PathFeedback::TransportCc);
        let response = client.request("POST", whep, options.token.as_deref(), Some(&offer))?;
        if response.status != 201 {
            return Err(format!("viewer {index} was refused: {} {}", response.status, response.body.trim()));
        }
        let answered = sys::monotonic_ns();
        let answer = Answer::read(&response.body)?;
        if let Some(session) = response.location.and_then(|location| whep.join(&location).ok()) {
            self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(session);
        }
        let local: IpAddr = match (plan.sink, answer.address.ip()) {
            (Some(sink), _) => if in_sample { sink.sampled() } else { sink.others() }.into(),
            (None, IpAddr::V4(ip)) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(local, 0)).and_then(|socket| socket.connect(answer.address).map(|()| socket));
        let socket = socket.map_err(|error| format!("viewer's socket: {error} (is the limit of open files too low?)"))?;
        sys::set_receive_buffer(&socket, VIEWER_RECEIVE_BUFFER);
        let transport = Transport::new(plan.identity, credentials, &answer, 3, sys::monotonic_ns());
        let milestones = Milestones { posted, answered, ..Milestones::default() };
        let ssrc = u32::from_ne_bytes(transport::random());
        // It was offered only if it is to be sent.
        let numbered = answer.extensions.contains(&sdp::TRANSPORT_SEQUENCE_ID);
        let viewer = Viewer::new(transport, milestones, room as usize, in_sample, options.nack, numbered, ssrc);
        plan.threads[index as usize % plan.threads.len()].add(viewer, socket);
        Ok(())
    }
}
