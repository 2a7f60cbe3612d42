//! The whole server but its threads, sockets and HTTP: real workers on [`Fake`] I/O, the real director, real handshakes, each
//! given its turn by hand.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use distributary::config::{HoldChoice, RecordPlan, RecordWish};
use distributary::io::{Fake, Io};
use distributary::limits::SESSIONS_MAX;
use distributary::mem::{Arena, Handoff};
use distributary::metrics::{Counter, DropReason, WorkerMetrics};
use distributary::record::{self, Recorder};
use distributary::rtp::config::Codec;
use distributary::secure::dtls::Identity;
use distributary::signal::api::{
    Attend, Gauges, Handle, Join, Joined, LayerWish, MemberKey, Purpose, Recorded, Refusal, RoomView, SessionPath, SessionView,
};
use distributary::signal::director::{self, Director, Settings};
use distributary::signal::handshakes::{self, Handshakes};
use distributary::signal::negotiate::CodecPolicy;
use distributary::units::{Micros, WorkerId};
use distributary::worker::hold::Hold;
use distributary::worker::mail::Wake;
use distributary::worker::{Worker, mail, tap};
use livekit_protocol as proto;

use super::random::{Random, mix};

/// Where clients find the media sockets, all workers the same.
pub const ADDRESS: &str = "192.0.2.1:7882";
/// Slots of each worker's arena: enough for the caches of a few tracks and what is in flight.
const SLOTS: usize = 8192;
/// Unix time in milliseconds at the simulation's beginning, for recordings.
pub const EPOCH: i64 = 1_900_000_000_000;

pub struct Server {
    pub address: SocketAddr,
    pub workers: Vec<Worker>,
    /// Of the workers, then of the handshakes.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    pub director: Director,
    pub gauges: Arc<Gauges>,
    /// Two threads' worth, so that which one a session is on matters.
    handshakes: Vec<Handshakes>,
    /// If anything is recorded; its table is the last.
    pub recorder: Option<Recorder>,
    handle: Handle,
    /// Microseconds by which the server's clock has jumped ahead of everybody else's.
    pub skew: u64,
    now: Micros,
    /// Percentage of their cores that the workers use.
    pub busy: u64,
    cpu_time: Micros,
    /// Called with true before and false after each step of a worker.
    pub watch: fn(bool),
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn new(workers: usize, sessions_max: usize, random: Random) -> Server {
        Server::recording(workers, sessions_max, random, None)
    }

    /// A server that records. Its wall clock begins at [`EPOCH`].
    pub fn recording(workers: usize, sessions_max: usize, mut random: Random, record: Option<RecordPlan>) -> Server {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        let ios: Vec<Io> = (0..workers).map(|_| Io::Fake(Fake::new(Arena::leak(SLOTS)))).collect();
        let wakers: Vec<_> = ios.iter().map(Io::waker).collect();
        let (mut mails, offices) = mail::connect(&wakers, Arc::new(|| {}), &[Arc::new(|| {}), Arc::new(|| {})]);
        let identity = Identity::generate().expect("a certificate");
        let handoff = Arc::new(Handoff::new(SESSIONS_MAX));
        let gauges: Arc<Gauges> = Arc::default();
        let metrics: Vec<Arc<WorkerMetrics>> = (0..workers + 3).map(|_| Arc::default()).collect();
        let (tap, recorder) = match record {
            Some(plan) => {
                let (notice_sender, notices) = mpsc::channel();
                let wake: Wake = Arc::new(|| {});
                let office = tap::connect(&mut mails, &wakers, &wake);
                let links = record::Links { notices, office, tables: metrics[..workers].to_vec() };
                let source = tap::Source::new(plan.rooms.clone(), notice_sender, wake);
                (Some(source), Some(Recorder::new(plan, links, metrics[workers + 2].clone(), EPOCH)))
            }
            None => (None, None),
        };
        let (order_senders, orders): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel()).unzip();
        let (notice_sender, notices) = mpsc::channel();
        let (request_sender, requests) = mpsc::sync_channel(64);
        let settings = Settings {
            fingerprint: identity.fingerprint(),
            candidates: vec![address],
            tcp_port: None,
            sessions_max,
            room_sessions_max: sessions_max,
            load_max: 90,
            joins_per_minute: 0,
            codecs: CodecPolicy::new([Codec::Opus, Codec::Vp8]),
            ice_servers: Vec::new(),
            epoch: EPOCH,
        };
        let links = director::Links {
            requests,
            notices,
            handshakes: order_senders.into_iter().map(|orders| (orders, Arc::new(|| {}) as Wake)).collect(),
            commands: offices.director,
            events: offices.events,
            tables: metrics[..workers].to_vec(),
            tap,
            happenings: None,
        };
        // Whatever is held, every scenario must hold.
        let choice = [HoldChoice::Off, HoldChoice::Adaptive, HoldChoice::Frame][random.below(3)];
        let hold = Hold::new(choice, Micros::from_millis(15));
        let chance = Box::new(move || random.next());
        let director = Director::new(settings, links, handoff.clone(), gauges.clone(), chance);
        let threads = offices.handshakes.into_iter().zip(orders).zip(&metrics[workers..]);
        let handshakes = threads
            .map(|((office, orders), table)| {
                let links = handshakes::Links { orders, notices: notice_sender.clone(), office };
                Handshakes::new(identity.clone(), links, table.clone(), gauges.clone())
            })
            .collect();
        let parts = ios.into_iter().zip(mails).enumerate();
        let workers = parts
            .map(|(index, (io, mail))| (WorkerId(index as u8), io, mail, metrics[index].clone()))
            .map(|(id, io, mail, metrics)| Worker::new(id, io, mail, handoff.clone(), metrics, hold.clone()))
            .collect();
        let handle = Handle::new(request_sender, std::thread::current(), gauges.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (skew, now, cpu_time) = (0, Micros::ZERO, Micros::ZERO);
        // As busy as can be without being refused sessions: an adaptive worker holds.
        let busy = 88;
        Server {
            address,
            workers,
            metrics,
            director,
            gauges,
            handshakes,
            recorder,
            handle,
            skew,
            now,
            busy,
            cpu_time,
            watch: |_| {},
            runtime,
        }
    }

    /// The worker that the kernel would give the datagrams of a source to.
    pub fn worker_of(&self, from: SocketAddr) -> usize {
        let SocketAddr::V4(from) = from else { return 0 };
        let key = u64::from(u32::from(*from.ip())) << 16 | u64::from(from.port());
        (mix(key) % self.workers.len() as u64) as usize
    }

    fn fake(&mut self, worker: usize) -> &mut Fake {
        match self.workers[worker].io_mut() {
            Io::Fake(fake) => fake,
            _ => unreachable!("made with Io::Fake"),
        }
    }

    /// A datagram arrives from the network.
    pub fn deliver(&mut self, from: SocketAddr, bytes: &[u8]) {
        let worker = self.worker_of(from);
        self.fake(worker).deliver(from, bytes);
    }

    /// Everybody's turn. `sent` gets each datagram with its destination.
    pub fn turn(&mut self, now: u64, mut sent: impl FnMut(SocketAddr, &[u8])) {
        let before = std::mem::replace(&mut self.now, Micros(now + self.skew));
        self.cpu_time = self.cpu_time + Micros(self.now.since(before) * self.busy / 100);
        for index in 0..self.workers.len() {
            loop {
                self.step(index, &mut sent);
                if self.fake(index).waiting() == 0 {
                    break;
                }
            }
        }
        for handshakes in &mut self.handshakes {
            handshakes.turn(self.now);
        }
        self.director.turn(self.now);
        if let Some(recorder) = &mut self.recorder {
            recorder.turn(self.now);
        }
    }

    fn step(&mut self, index: usize, sent: &mut impl FnMut(SocketAddr, &[u8])) {
        let (now, cpu_time, watch) = (self.now, self.cpu_time, self.watch);
        let fake = self.fake(index);
        (fake.now, fake.cpu_time) = (now, cpu_time);
        watch(true);
        self.workers[index].step();
        watch(false);
        let fake = self.fake(index);
        // By index: taking the queue itself would make the worker allocate another.
        for at in 0..fake.outbound.len() {
            let (to, bytes) = &mut fake.outbound[at];
            sent(*to, bytes);
            let bytes = std::mem::take(bytes);
            fake.recycle(bytes);
        }
        fake.outbound.clear();
    }

    /// Waits for the director's answer as HTTP does, giving it its turns meanwhile.
    fn ask<T>(&mut self, request: impl Future<Output = T>) -> T {
        let _entered = self.runtime.enter();
        let mut request = Box::pin(request);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(answer) = request.as_mut().poll(&mut context) {
                return answer;
            }
            self.director.turn(self.now);
        }
    }

    pub fn join(&mut self, room: &str, purpose: Purpose, offer: String) -> Result<Joined, Refusal> {
        let handle = self.handle.clone();
        let client = "192.0.2.200".parse().expect("an address");
        let join = Join { room: room.to_owned(), purpose, offer, identity: None, client, user_agent: "simulator".to_owned() };
        self.ask(async move { handle.join(join).await })
    }

    pub fn leave(&mut self, path: SessionPath) -> Result<(), Refusal> {
        let handle = self.handle.clone();
        self.ask(async move { handle.leave(path).await })
    }

    pub fn patch(&mut self, path: SessionPath, fragment: String) -> Result<distributary::signal::api::Patched, Refusal> {
        let handle = self.handle.clone();
        self.ask(async move { handle.patch(path, distributary::signal::api::IfMatch::Any, fragment).await })
    }

    pub fn layer(&mut self, path: SessionPath, wish: LayerWish) -> Result<(), Refusal> {
        let handle = self.handle.clone();
        self.ask(async move { handle.layer(path, wish).await })
    }

    /// A member enters, with a connection of its own.
    pub fn attend(&mut self, attend: Attend) -> Result<MemberKey, Refusal> {
        let handle = self.handle.clone();
        self.ask(async move { handle.attend(attend).await }).map(|attended| attended.member)
    }

    /// A member's client says something.
    pub fn signal(&mut self, member: &MemberKey, message: proto::signal_request::Message) {
        assert!(self.handle.signal(member, proto::SignalRequest { message: Some(message) }));
    }

    pub fn describe(&mut self, path: SessionPath) -> Result<SessionView, Refusal> {
        let handle = self.handle.clone();
        self.ask(async move { handle.describe(path).await })
    }

    pub fn rooms(&mut self) -> Vec<RoomView> {
        let handle = self.handle.clone();
        self.ask(async move { handle.rooms().await }).expect("the director answers")
    }

    pub fn record(&mut self, room: &str, wish: RecordWish) -> Result<Recorded, Refusal> {
        let (handle, room) = (self.handle.clone(), room.to_owned());
        self.ask(async move { handle.record(room, wish).await })
    }

    pub fn pause_recording(&mut self, room: &str, paused: bool) -> Result<(), Refusal> {
        let (handle, room) = (self.handle.clone(), room.to_owned());
        self.ask(async move { handle.pause_recording(room, paused).await })
    }

    /// What `/readyz` says.
    pub fn ready(&self) -> bool {
        self.handle.ready()
    }

    /// A counter, over all workers.
    pub fn count(&self, counter: Counter) -> u64 {
        self.metrics.iter().map(|metrics| metrics.get(counter)).sum()
    }

    /// Datagrams and packets dropped for a reason, over all workers.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.metrics.iter().map(|metrics| metrics.dropped(reason)).sum()
    }

    /// Sessions that workers own.
    pub fn sessions(&self) -> usize {
        self.workers.iter().map(Worker::sessions).sum()
    }

    /// Everything counted, for a failure's message.
    pub fn tally(&self) -> String {
        let counters = Counter::ALL.iter().map(|counter| (counter.label(), self.count(*counter)));
        let drops = DropReason::ALL.iter().map(|reason| (reason.label(), self.dropped(*reason)));
        let all: Vec<String> =
            counters.chain(drops).filter(|(_, count)| *count > 0).map(|(label, count)| format!("{label} {count}")).collect();
        all.join(", ")
    }
}
