//! A [`Plan`] made real: which threads there are, on which cores, and what connects them.
//!
//! ```text
//!   distributary-w0 … wN   a worker each: socket, ring, arena; pinned
//!   distributary-dtls      handshakes of all sessions
//!   distributary-ctl       the director
//!   tokio                  HTTP; talks to the director through `api::Handle`
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::config::{IoChoice, Plan, Steer};
use crate::io::numa::Nodes;
use crate::io::{Io, IoError, IoKind, Waker, busy_poll, socket, steer};
use crate::limits::{ARENA_SLOTS, SESSIONS_MAX, SLOT_BYTES};
use crate::mem::{Arena, Handoff, MemoryError, Pages};
use crate::metrics::WorkerMetrics;
use crate::secure::dtls::{DtlsError, Identity};
use crate::signal::api::{Gauges, Handle};
use crate::signal::director::{self, Director, Settings};
use crate::signal::handshakes::{self, Handshakes};
use crate::signal::negotiate::CodecPolicy;
use crate::units::{Micros, WorkerId};
use crate::worker::Worker;
use crate::worker::hold::Hold;
use crate::worker::mail;

/// Requests from HTTP waiting for the director; more are refused with 503.
const REQUESTS: usize = 4096;
/// Time that sessions get to hear the goodbye when the server stops.
const GOODBYE: Duration = Duration::from_millis(100);

/// Why the server cannot start.
#[derive(Debug)]
pub enum StartError {
    Io(IoError),
    Memory(MemoryError),
    Dtls(DtlsError),
    Thread { name: String, error: std::io::Error },
    Core { worker: usize, core: usize },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Io(error) => error.fmt(f),
            StartError::Memory(error) => error.fmt(f),
            StartError::Dtls(error) => write!(f, "cannot make the DTLS certificate: {error}"),
            StartError::Thread { name, error } => write!(f, "cannot start thread {name}: {error}"),
            StartError::Core { worker, core } => {
                write!(f, "worker {worker} cannot be pinned to core {core}: this process may not run there; choose other cores")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A running server.
pub struct Running {
    pub handle: Handle,
    /// One table for each worker, and one for the thread of handshakes at the end.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    /// What was started, in a few lines for the operator.
    pub summary: Vec<String>,
    /// Where the media sockets are bound.
    pub media: SocketAddr,
    stop: Arc<Stop>,
    wakers: Vec<Waker>,
    sleepers: [Arc<Sleeper>; 2],
    threads: Vec<JoinHandle<()>>,
}

struct Stop {
    drain: AtomicBool,
    slow: AtomicBool,
    workers: AtomicBool,
}

/// A thread that can be woken before it is known: rings are laid before their readers run.
#[derive(Default)]
struct Sleeper(OnceLock<Thread>);

impl Sleeper {
    fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

fn wake(sleeper: &Arc<Sleeper>) -> Arc<dyn Fn() + Send + Sync> {
    let sleeper = sleeper.clone();
    Arc::new(move || sleeper.wake())
}

/// Starts everything but HTTP.
pub fn start(plan: &Plan) -> Result<Running, StartError> {
    let base = Instant::now();
    let sockets = socket::bind(plan.media_bind, plan.workers).map_err(StartError::Io)?;
    let media = sockets.local;
    let mut summary: Vec<String> = sockets.warnings.clone();
    let kind = match plan.io {
        IoChoice::Auto => IoKind::Auto,
        IoChoice::Uring => IoKind::Uring,
        IoChoice::Mmsg => IoKind::Mmsg,
    };
    if plan.steer == Steer::Cpu {
        steer::by_core(&sockets.sockets, &plan.cores).map_err(StartError::Io)?;
    }
    let mut ios = Vec::new();
    let (mut backend, mut arenas) = (String::new(), Vec::new());
    for (worker, socket) in sockets.sockets.into_iter().enumerate() {
        let core = plan.cores.get(worker).copied();
        let open = || -> Result<_, StartError> {
            if plan.busy_poll_us > 0 {
                busy_poll::set(&socket, plan.busy_poll_us).map_err(StartError::Io)?;
            }
            let (slots, pages) = Arena::map(ARENA_SLOTS, plan.huge_pages).map_err(StartError::Memory)?;
            let (io, why) = Io::open(kind, socket, slots, base).map_err(StartError::Io)?;
            Ok((io, why, pages))
        };
        let (io, why, pages) = on_core(core, open).ok_or(StartError::Core { worker, core: core.unwrap_or(0) })??;
        ios.push(io);
        backend = why;
        arenas.push(pages);
    }
    let wakers: Vec<Waker> = ios.iter().map(Io::waker).collect();
    let (director_sleeper, handshakes_sleeper) = (Arc::new(Sleeper::default()), Arc::new(Sleeper::default()));
    let (mails, offices) = mail::connect(&wakers, wake(&director_sleeper), wake(&handshakes_sleeper));
    let identity = Identity::generate().map_err(StartError::Dtls)?;
    let handoff = Arc::new(Handoff::new(SESSIONS_MAX));
    let gauges = Arc::new(Gauges::default());
    let metrics: Vec<Arc<WorkerMetrics>> = (0..=plan.workers).map(|_| Arc::default()).collect();
    let stop = Arc::new(Stop { drain: AtomicBool::new(false), slow: AtomicBool::new(false), workers: AtomicBool::new(false) });

    let (order_sender, orders) = mpsc::channel();
    let (notice_sender, notices) = mpsc::channel();
    let (request_sender, requests) = mpsc::sync_channel(REQUESTS);
    let settings = Settings {
        fingerprint: identity.fingerprint(),
        candidates: plan.candidates.iter().map(|ip| SocketAddr::new(*ip, media.port())).collect(),
        sessions_max: plan.sessions_max,
        room_sessions_max: plan.room_sessions_max,
        codecs: CodecPolicy::new(plan.codecs.iter().copied()),
    };
    let links = director::Links {
        requests,
        notices,
        orders: order_sender,
        wake_handshakes: wake(&handshakes_sleeper),
        commands: offices.director,
        events: offices.events,
    };
    let mut director = Director::new(settings, links, handoff.clone(), gauges.clone(), Box::new(strong_random()));
    let links =
        handshakes::Links { orders, notices: notice_sender, commands: offices.handshakes, events: offices.handshake_events };
    let mut handshakes = Handshakes::new(identity, links, metrics[plan.workers].clone(), gauges.clone());

    let mut threads = Vec::new();
    for (index, (io, mail)) in ios.into_iter().zip(mails).enumerate() {
        let (handoff, metrics, ending) = (handoff.clone(), metrics[index].clone(), stop.clone());
        let core = plan.cores.get(index).copied();
        let hold = Hold::new(plan.hold, plan.max_hold);
        let (told, pinned) = mpsc::channel();
        threads.push(spawn(&format!("distributary-w{index}"), move || {
            let _ = told.send(core.is_none_or(pin));
            Worker::new(WorkerId(index as u8), io, mail, handoff, metrics, hold).run(&ending.workers);
        })?);
        if let Some(core) = core
            && !pinned.recv().unwrap_or(false)
        {
            stop.workers.store(true, Ordering::Relaxed);
            return Err(StartError::Core { worker: index, core });
        }
    }
    let (to_director, told) = (director_sleeper.clone(), stop.clone());
    let dtls = spawn("distributary-dtls", move || {
        while !told.slow.load(Ordering::Relaxed) {
            let now = Micros(base.elapsed().as_micros() as u64);
            let next = handshakes.turn(now);
            // Notices go through a channel that does not wake its reader.
            to_director.wake();
            std::thread::park_timeout(Duration::from_micros(next.since(now)));
        }
    })?;
    let _ = handshakes_sleeper.0.set(dtls.thread().clone());
    threads.push(dtls);
    let told = stop.clone();
    let control = spawn("distributary-ctl", move || {
        let mut drained = false;
        while !told.slow.load(Ordering::Relaxed) {
            if told.drain.load(Ordering::Relaxed) && !drained {
                drained = true;
                director.drain();
            }
            let now = Micros(base.elapsed().as_micros() as u64);
            let next = director.turn(now);
            std::thread::park_timeout(Duration::from_micros(next.since(now)));
        }
    })?;
    let _ = director_sleeper.0.set(control.thread().clone());
    let handle = Handle::new(request_sender, control.thread().clone(), gauges);
    threads.push(control);

    let cores: Vec<String> = plan.cores.iter().map(usize::to_string).collect();
    let on = if cores.is_empty() { "not pinned".to_owned() } else { format!("on core {}", cores.join(", ")) };
    let plural = if plan.workers == 1 { "" } else { "s" };
    let steered = if plan.steer == Steer::Cpu { ", each with what arrives on its core" } else { "" };
    summary.insert(0, format!("media   udp {media}, {} worker{plural} {on}{steered}", plan.workers));
    summary.insert(1, format!("I/O     {backend}"));
    summary.insert(2, memory_line(&arenas, &plan.cores, &Nodes::of_host()));
    let sleepers = [director_sleeper, handshakes_sleeper];
    Ok(Running { handle, metrics, summary, media, stop, wakers, sleepers, threads })
}

impl Running {
    /// Says goodbye to all sessions and ends every thread.
    pub fn stop(self) {
        self.stop.drain.store(true, Ordering::Relaxed);
        self.sleepers.iter().for_each(|sleeper| sleeper.wake());
        std::thread::sleep(GOODBYE);
        self.stop.slow.store(true, Ordering::Relaxed);
        self.stop.workers.store(true, Ordering::Relaxed);
        self.sleepers.iter().for_each(|sleeper| sleeper.wake());
        self.wakers.iter().for_each(Waker::wake);
        for thread in self.threads {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// Runs `open` on a core, by a thread of its own: memory is of the NUMA node of the core that first touches it, the kernel's for a
/// ring too. None if this process may not run there.
fn on_core<T: Send>(core: Option<usize>, open: impl FnOnce() -> T + Send) -> Option<T> {
    let opened = std::thread::scope(|scope| scope.spawn(|| core.is_none_or(pin).then(open)).join());
    opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// What the packets lie in: `arenas` is what each worker got.
fn memory_line(arenas: &[Pages], cores: &[usize], nodes: &Nodes) -> String {
    let mut kinds: Vec<String> = arenas.iter().map(Pages::to_string).collect();
    kinds.dedup();
    let mib = (ARENA_SLOTS * SLOT_BYTES) >> 20;
    let numa = match (nodes.count(), nodes.of_all(cores)) {
        (0 | 1, _) => String::new(),
        (_, used) if used.is_empty() => ", on whatever NUMA node each runs".to_owned(),
        (_, used) => format!(", on its core's NUMA node ({})", used.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    format!("memory  {mib} MiB a worker as needed, {}{numa}", kinds.join(" or "))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| StartError::Thread { name: name.to_owned(), error })
}

/// From the operating system's generator, a block at a time: a session needs a few dozen numbers.
fn strong_random() -> impl FnMut() -> u64 + Send {
    let mut block = [0u8; 512];
    let mut used = block.len();
    move || {
        if used == block.len() {
            // Without randomness no session is safe: better to die than to make one.
            getrandom::fill(&mut block).expect("the operating system's random numbers");
            used = 0;
        }
        let number = u64::from_le_bytes(block[used..used + 8].try_into().unwrap_or_default());
        used += 8;
        number
    }
}
