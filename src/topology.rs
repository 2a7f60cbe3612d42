//! A [`Plan`] made real: which threads there are, on which cores, and what connects them.
//!
//! ```text
//!   distributary-w0 … wN   a worker each: socket, ring, arena; pinned
//!   distributary-dtls      handshakes of all sessions
//!   distributary-ctl       the director
//!   distributary-route     with AF_XDP: ways to clients, floods
//!   tokio                  HTTP; talks to the director through `api::Handle`
//! ```

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::config::{IoChoice, Plan};
use crate::io::xdp::{Guide, Interface, Queues};
use crate::io::{Io, IoError, IoKind, Waker, Xdp, socket};
use crate::limits::{ARENA_SLOTS, SESSIONS_MAX};
use crate::mem::{Arena, Handoff, Slots};
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
    Dtls(DtlsError),
    Thread { name: String, error: std::io::Error },
    Core { worker: usize, core: usize },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Io(error) => error.fmt(f),
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
    /// One table for each worker, then one for the thread of handshakes, and one for AF_XDP if it is used.
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
    let metrics: Vec<Arc<WorkerMetrics>> = (0..=plan.workers).map(|_| Arc::default()).collect();
    let Ways { ios, backend, guide } = ways(plan, sockets.sockets, media, base, &metrics, &mut summary)?;
    let wakers: Vec<Waker> = ios.iter().map(Io::waker).collect();
    let (director_sleeper, handshakes_sleeper) = (Arc::new(Sleeper::default()), Arc::new(Sleeper::default()));
    let (mails, offices) = mail::connect(&wakers, wake(&director_sleeper), wake(&handshakes_sleeper));
    let identity = Identity::generate().map_err(StartError::Dtls)?;
    let handoff = Arc::new(Handoff::new(SESSIONS_MAX));
    let gauges = Arc::new(Gauges::default());
    let stop = Arc::new(Stop { drain: AtomicBool::new(false), slow: AtomicBool::new(false), workers: AtomicBool::new(false) });

    let (order_sender, orders) = mpsc::channel();
    let (notice_sender, notices) = mpsc::channel();
    let (request_sender, requests) = mpsc::sync_channel(REQUESTS);
    let settings = Settings {
        fingerprint: identity.fingerprint(),
        candidates: plan.candidates.iter().map(|ip| SocketAddr::new(*ip, media.port())).collect(),
        sessions_max: plan.sessions_max,
        room_sessions_max: plan.room_sessions_max,
        load_max: plan.load_max,
        codecs: CodecPolicy::new(plan.codecs.iter().copied()),
    };
    let links = director::Links {
        requests,
        notices,
        orders: order_sender,
        wake_handshakes: wake(&handshakes_sleeper),
        commands: offices.director,
        events: offices.events,
        tables: metrics[..plan.workers].to_vec(),
    };
    let mut director = Director::new(settings, links, handoff.clone(), gauges.clone(), Box::new(strong_random()));
    let links =
        handshakes::Links { orders, notices: notice_sender, commands: offices.handshakes, events: offices.handshake_events };
    let mut handshakes = Handshakes::new(identity, links, metrics[plan.workers].clone(), gauges.clone());

    let mut metrics = metrics;
    let mut wakers = wakers;
    let mut threads = Vec::new();
    if let Some((mut guide, table)) = guide {
        metrics.push(table);
        wakers.push(guide.waker());
        let ending = stop.clone();
        threads.push(spawn("distributary-route", move || {
            while !ending.workers.load(Ordering::Relaxed) {
                guide.turn(Micros(base.elapsed().as_micros() as u64));
                guide.wait(&ending.workers);
            }
        })?);
    }
    for (index, (io, mail)) in ios.into_iter().zip(mails).enumerate() {
        let (handoff, metrics, ending) = (handoff.clone(), metrics[index].clone(), stop.clone());
        let core = plan.cores.get(index).copied();
        let (hold, spin) = (Hold::new(plan.hold, plan.max_hold), plan.spin);
        let (told, pinned) = mpsc::channel();
        threads.push(spawn(&format!("distributary-w{index}"), move || {
            let _ = told.send(core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id })));
            Worker::new(WorkerId(index as u8), io, mail, handoff, metrics, hold).with_spin(spin).run(&ending.workers);
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
    summary.insert(0, format!("media   udp {media}, {} worker{} {on}", plan.workers, if plan.workers == 1 { "" } else { "s" }));
    summary.insert(1, format!("I/O     {backend}"));
    let sleepers = [director_sleeper, handshakes_sleeper];
    Ok(Running { handle, metrics, summary, media, stop, wakers, sleepers, threads })
}

/// The workers' I/O.
struct Ways {
    ios: Vec<Io>,
    /// For the operator.
    backend: String,
    /// With AF_XDP: its slow path, and the table that it counts in.
    guide: Option<(Guide, Arc<WorkerMetrics>)>,
}

/// Gives each worker its socket's I/O. AF_XDP is all or nothing: where something is missing all workers have ordinary sockets,
/// and a line says why; an interface that does not exist is a mistake and ends the start.
fn ways(
    plan: &Plan,
    sockets: Vec<UdpSocket>,
    media: SocketAddr,
    base: Instant,
    metrics: &[Arc<WorkerMetrics>],
    summary: &mut Vec<String>,
) -> Result<Ways, StartError> {
    let mut arenas: Vec<Slots> = sockets.iter().map(|_| Arena::leak(ARENA_SLOTS)).collect();
    let kind = match plan.io {
        IoChoice::Auto | IoChoice::Xdp(_) => IoKind::Auto,
        IoChoice::Uring => IoKind::Uring,
        IoChoice::Mmsg => IoKind::Mmsg,
    };
    let mut queues: Vec<Option<Queues>> = sockets.iter().map(|_| None).collect();
    let mut interface = None;
    if let IoChoice::Xdp(name) = plan.io {
        match express(&name, media, &mut arenas) {
            Ok((attached, open)) => {
                summary.extend(attached.warning(plan.workers));
                (interface, queues) = (Some(attached), open);
            }
            Err(error @ IoError::NoInterface { .. }) => return Err(StartError::Io(error)),
            Err(error) => summary.push(format!("{error}; ordinary sockets are used instead")),
        }
    }
    let mut ios = Vec::new();
    let mut backend = String::new();
    for ((socket, slots), queues) in sockets.into_iter().zip(arenas).zip(queues) {
        ios.push(match queues {
            Some(queues) => Io::Xdp(Xdp::new(queues, socket, slots, base).map_err(StartError::Io)?),
            None => {
                let (io, why) = Io::open(kind, socket, slots, base).map_err(StartError::Io)?;
                backend = why;
                io
            }
        });
    }
    if let Some(interface) = &interface {
        backend = interface.description();
    }
    let guide = interface.map(|interface| {
        let table = Arc::<WorkerMetrics>::default();
        (interface.guide(table.clone(), metrics.to_vec()), table)
    });
    Ok(Ways { ios, backend, guide })
}

/// AF_XDP on an interface, with sockets for each worker's arena.
fn express(name: &str, media: SocketAddr, arenas: &mut [Slots]) -> Result<(Interface, Vec<Option<Queues>>), IoError> {
    let mut interface = Interface::attach(name, media)?;
    let workers = arenas.len();
    let queues = arenas.iter_mut().enumerate().map(|(worker, slots)| interface.open(worker, workers, slots));
    let queues = queues.collect::<Result<Vec<_>, _>>()?;
    Ok((interface, queues))
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
