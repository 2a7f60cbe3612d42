//! A [`Plan`] made real: which threads there are, on which cores, and what connects them.
//!
//! ```text
//!   distributary-w0 … wN   a worker each: socket, ring, arena; pinned
//!   distributary-dtls0 …   handshakes, each thread of its part of the sessions
//!   distributary-ctl       the director
//!   distributary-rec       the recorder, if anything is recorded
//!   distributary-disk      what writes its files
//!   distributary-store     uploads of recordings, if there is a store
//!   distributary-route     with AF_XDP: ways to clients, floods
//!   distributary-tcp       the relay for ICE over TCP
//!   tokio                  HTTP; talks to the director through `api::Handle`
//! ```
//!
//! Where the workers leave a core, all other threads keep to those that are left: a storm of joins must not take time from a worker.

use std::fmt;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Estimation, IoChoice, Plan, RecordPlan, RoomPattern, Steer};
use crate::gateway::tcp;
use crate::io::numa::Nodes;
use crate::io::xdp::{Guide, Interface, Queues};
use crate::io::{Io, IoError, IoKind, Waker, Xdp, busy_poll, socket, steer};
use crate::limits::{ARENA_SLOTS, SESSIONS_MAX, SLOT_BYTES, WEBHOOKS_WAITING};
use crate::mem::{Arena, Handoff, MemoryError, Pages, Slots};
use crate::metrics::WorkerMetrics;
use crate::record::store::Storage;
use crate::record::{self, Disk, Recorder, Writer};
use crate::secure::dtls::{DtlsError, Identity};
use crate::signal::api::{Gauges, Handle};
use crate::signal::director::{self, Director, Settings};
use crate::signal::handshakes::{self, Handshakes};
use crate::signal::negotiate::CodecPolicy;
use crate::units::{Micros, WorkerId};
use crate::worker::Worker;
use crate::worker::hold::Hold;
use crate::worker::mail::{self, Wake};
use crate::worker::tap;

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
    Thread {
        name: String,
        error: std::io::Error,
    },
    Core {
        worker: usize,
        core: usize,
    },
    /// Of recordings.
    Folder {
        folder: PathBuf,
        reason: String,
    },
    /// What recordings are uploaded to.
    Storage {
        reason: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Io(error) => error.fmt(f),
            StartError::Memory(error) => error.fmt(f),
            StartError::Dtls(error) => write!(f, "cannot make the DTLS certificate: {error}"),
            StartError::Thread { name, error } => write!(f, "cannot start thread {name}: {error}"),
            StartError::Folder { folder, reason } => write!(f, "record.folder = {folder:?} cannot be used: {reason}"),
            StartError::Storage { reason } => f.write_str(reason),
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
    /// A table for each thread that counts, with the thread's name: the workers first, by number.
    pub metrics: Vec<(String, Arc<WorkerMetrics>)>,
    /// What happens in rooms, for the webhooks, if there are any.
    pub happenings: Option<tokio::sync::mpsc::Receiver<livekit_protocol::WebhookEvent>>,
    /// What was started, in a few lines for the operator.
    pub summary: Vec<String>,
    /// Where the media sockets are bound.
    pub media: SocketAddr,
    stop: Arc<Stop>,
    wakers: Vec<Waker>,
    sleepers: Vec<Arc<Sleeper>>,
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

fn wake(sleeper: &Arc<Sleeper>) -> Wake {
    let sleeper = sleeper.clone();
    Arc::new(move || sleeper.wake())
}

/// Binds this thread to one of the cores that the workers leave. Which one is not important enough to fail for.
pub fn keep_off_workers(plan: &Plan, thread: usize) {
    if !plan.slow_cores.is_empty() {
        pin(plan.slow_cores[thread % plan.slow_cores.len()]);
    }
}

/// Starts everything but HTTP.
pub fn start(plan: &Plan) -> Result<Running, StartError> {
    launch(plan, None).map(|(running, _)| running)
}

/// The same for a program that reads what is published in some rooms itself, and may publish through the tap: [`tap`]. `wake` is called
/// when there is something to read. A tap has one reader, so nothing is recorded.
pub fn start_tapped(plan: &Plan, rooms: Vec<RoomPattern>, wake: Wake) -> Result<(Running, tap::Reader), StartError> {
    let plan = Plan { record: None, ..plan.clone() };
    let (running, reader) = launch(&plan, Some((rooms, wake)))?;
    Ok((running, reader.expect("what was asked for is given back")))
}

/// `reader`: who is to read the tap if not the recorder, of which rooms, and what wakes it. It is given back its ends.
fn launch(plan: &Plan, reader: Option<(Vec<RoomPattern>, Wake)>) -> Result<(Running, Option<tap::Reader>), StartError> {
    let base = Instant::now();
    let sockets = socket::bind(plan.media_bind, plan.workers).map_err(StartError::Io)?;
    let media = sockets.local;
    let mut summary: Vec<String> = sockets.warnings.clone();
    if plan.steer == Steer::Cpu {
        steer::by_core(&sockets.sockets, &plan.cores).map_err(StartError::Io)?;
    }
    let metrics: Vec<Arc<WorkerMetrics>> = (0..plan.workers + plan.handshake_threads).map(|_| Arc::default()).collect();
    let Ways { ios, backend, arenas, guide } = ways(plan, sockets.sockets, media, base, &metrics[..plan.workers], &mut summary)?;
    let wakers: Vec<Waker> = ios.iter().map(Io::waker).collect();
    let director_sleeper = Arc::new(Sleeper::default());
    let handshake_sleepers: Vec<Arc<Sleeper>> = (0..plan.handshake_threads).map(|_| Arc::default()).collect();
    let wake_handshakes: Vec<Wake> = handshake_sleepers.iter().map(wake).collect();
    let (mut mails, offices) = mail::connect(&wakers, wake(&director_sleeper), &wake_handshakes);
    let recorder_sleeper = Arc::new(Sleeper::default());
    let recorded = plan.record.as_ref().map(|record| (record.rooms.clone(), wake(&recorder_sleeper)));
    let tapped = reader.or(recorded).map(|(rooms, wake)| {
        let (notices, noticed) = mpsc::channel();
        let office = tap::connect(&mut mails, &wakers, &wake);
        (tap::Source::new(rooms, notices, wake), tap::Reader { notices: noticed, office })
    });
    let (source, mut reader) = tapped.unzip();
    let identity = Identity::generate().map_err(StartError::Dtls)?;
    let handoff = Arc::new(Handoff::new(SESSIONS_MAX));
    let gauges = Arc::new(Gauges::default());
    let stop = Arc::new(Stop { drain: AtomicBool::new(false), slow: AtomicBool::new(false), workers: AtomicBool::new(false) });

    let (order_senders, orders): (Vec<_>, Vec<_>) = wake_handshakes.iter().map(|_| mpsc::channel()).unzip();
    let (notice_sender, notices) = mpsc::channel();
    let (request_sender, requests) = mpsc::sync_channel(REQUESTS);
    let tcp_listener = listen_tcp(plan, media, &mut summary);
    let settings = Settings {
        fingerprint: identity.fingerprint(),
        candidates: plan.candidates.iter().map(|ip| SocketAddr::new(*ip, media.port())).collect(),
        tcp_port: tcp_listener.as_ref().map(|(_, port)| *port),
        sessions_max: plan.sessions_max,
        room_sessions_max: plan.room_sessions_max,
        load_max: plan.load_max,
        joins_per_minute: plan.joins_per_minute,
        room: plan.room.clone(),
        keys: plan.keys.clone(),
        codecs: CodecPolicy::new(plan.codecs.iter().copied()).estimating(plan.estimation == Estimation::On),
        ice_servers: plan.ice_servers.clone(),
        epoch: epoch(base),
    };
    let mut storage = None;
    let recorder = match plan.record.as_ref().and_then(|record| Some((record, reader.take()?))) {
        Some((record, reader)) => Some(prepare(plan, record, reader, &metrics[..plan.workers], base, &mut summary, &mut storage)?),
        None => None,
    };
    let (happenings_sender, happenings) =
        (!plan.webhook.urls.is_empty()).then(|| tokio::sync::mpsc::channel(WEBHOOKS_WAITING)).unzip();
    let links = director::Links {
        requests,
        notices,
        handshakes: order_senders.into_iter().zip(wake_handshakes).collect(),
        commands: offices.director,
        events: offices.events,
        tables: metrics[..plan.workers].to_vec(),
        tap: source,
        happenings: happenings_sender,
    };
    let mut director = Director::new(settings, links, handoff.clone(), gauges.clone(), Box::new(strong_random()));

    let name = |index: usize| match index.checked_sub(plan.workers) {
        None => index.to_string(),
        Some(thread) => format!("handshakes{thread}"),
    };
    let mut named: Vec<_> = metrics.iter().enumerate().map(|(index, table)| (name(index), table.clone())).collect();
    let mut wakers = wakers;
    let mut threads = Vec::new();
    if let Some((mut guide, table)) = guide {
        named.push(("xdp".to_owned(), table));
        wakers.push(guide.waker());
        let ending = stop.clone();
        threads.push(spawn("distributary-route", move || {
            while !ending.workers.load(Ordering::Relaxed) {
                guide.turn(Micros(base.elapsed().as_micros() as u64));
                guide.wait(&ending.workers);
            }
        })?);
    }
    if let Some((mut recorder, table, disk, lock)) = recorder {
        named.push(("recorder".to_owned(), table));
        let table = Arc::<WorkerMetrics>::default();
        named.push(("disk".to_owned(), table.clone()));
        let slow_plan = plan.clone();
        threads.push(spawn("distributary-disk", move || {
            keep_off_workers(&slow_plan, 0);
            disk.run(&table);
            drop(lock);
        })?);
        let (told, slow_plan) = (stop.clone(), plan.clone());
        let thread = spawn("distributary-rec", move || {
            keep_off_workers(&slow_plan, 0);
            let now = || Micros(base.elapsed().as_micros() as u64);
            while !told.slow.load(Ordering::Relaxed) {
                let next = recorder.turn(now());
                // Not parked it is not woken, which would cost the workers a system call for each of their turns.
                std::thread::sleep(Duration::from_micros(next.since(now())).min(record::REST));
                std::thread::park_timeout(Duration::from_micros(next.since(now())));
            }
            recorder.end(now());
        })?;
        let _ = recorder_sleeper.0.set(thread.thread().clone());
        threads.push(thread);
    }
    if let Some(storage) = storage {
        let table = Arc::<WorkerMetrics>::default();
        named.push(("store".to_owned(), table.clone()));
        let (told, slow_plan) = (stop.clone(), plan.clone());
        threads.push(spawn("distributary-store", move || {
            keep_off_workers(&slow_plan, 0);
            storage.run(table, || told.slow.load(Ordering::Relaxed));
        })?);
    }
    if let Some((listener, _)) = tcp_listener {
        let table = Arc::<WorkerMetrics>::default();
        named.push(("tcp".to_owned(), table.clone()));
        let (told, slow_plan) = (stop.clone(), plan.clone());
        threads.push(spawn("distributary-tcp", move || {
            keep_off_workers(&slow_plan, 0);
            if let Err(error) = tcp::run(listener, media, table, &told.slow) {
                tracing::error!(%error, "ICE over TCP ended");
            }
        })?);
    }
    for (index, (io, mail)) in ios.into_iter().zip(mails).enumerate() {
        let (handoff, metrics, ending) = (handoff.clone(), metrics[index].clone(), stop.clone());
        let core = plan.cores.get(index).copied();
        let (hold, spin) = (Hold::new(plan.hold, plan.max_hold), plan.spin);
        let (told, pinned) = mpsc::channel();
        threads.push(spawn(&format!("distributary-w{index}"), move || {
            let _ = told.send(core.is_none_or(pin));
            Worker::new(WorkerId(index as u8), io, mail, handoff, metrics, hold).with_spin(spin).run(&ending.workers);
        })?);
        if let Some(core) = core
            && !pinned.recv().unwrap_or(false)
        {
            stop.workers.store(true, Ordering::Relaxed);
            return Err(StartError::Core { worker: index, core });
        }
    }
    for (index, (office, orders)) in offices.handshakes.into_iter().zip(orders).enumerate() {
        let links = handshakes::Links { orders, notices: notice_sender.clone(), office };
        let (identity, table) = (identity.clone(), metrics[plan.workers + index].clone());
        let mut handshakes = Handshakes::new(identity, links, table, gauges.clone());
        let (to_director, told, plan) = (director_sleeper.clone(), stop.clone(), plan.clone());
        let dtls = spawn(&format!("distributary-dtls{index}"), move || {
            keep_off_workers(&plan, index + 1);
            while !told.slow.load(Ordering::Relaxed) {
                let now = Micros(base.elapsed().as_micros() as u64);
                let next = handshakes.turn(now);
                // Notices go through a channel that does not wake its reader.
                to_director.wake();
                std::thread::park_timeout(Duration::from_micros(next.since(now)));
            }
        })?;
        let _ = handshake_sleepers[index].0.set(dtls.thread().clone());
        threads.push(dtls);
    }
    let (told, slow_plan) = (stop.clone(), plan.clone());
    let control = spawn("distributary-ctl", move || {
        keep_off_workers(&slow_plan, 0);
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
    let sleepers = [director_sleeper, recorder_sleeper].into_iter().chain(handshake_sleepers).collect();
    Ok((Running { handle, metrics: named, happenings, summary, media, stop, wakers, sleepers, threads }, reader))
}

/// The recorder, its table, what writes for it, and the lock on its folder; and the way to the store that its files go to, if they do. What an earlier one left unfinished is completed by a thread of its own.
fn prepare(
    plan: &Plan,
    record: &RecordPlan,
    reader: tap::Reader,
    tables: &[Arc<WorkerMetrics>],
    base: Instant,
    summary: &mut Vec<String>,
    storage: &mut Option<Storage>,
) -> Result<(Recorder, Arc<WorkerMetrics>, Writer, File), StartError> {
    let lock = record::lock(&record.folder).map_err(|reason| StartError::Folder { folder: record.folder.clone(), reason })?;
    let unfinished = record::unfinished(&record.folder);
    for file in &unfinished {
        summary.push(format!("record  {} was cut off; it is given its length and index", file.display()));
    }
    summary.push(format!("record  into {}", record.folder.display()));
    if let Some(plan) = &plan.storage {
        let opened = Storage::new(plan.clone(), &record.folder).map_err(|reason| StartError::Storage { reason })?;
        summary.push(opened.description());
        *storage = Some(opened);
    }
    if !unfinished.is_empty() {
        spawn("distributary-end", move || record::complete_all(unfinished, epoch(base)))?;
    }
    let table = Arc::<WorkerMetrics>::default();
    let links = record::Links { notices: reader.notices, office: reader.office, tables: tables.to_vec() };
    let (disk, writer) = Disk::new();
    Ok((Recorder::new(record.clone(), disk, links, table.clone(), epoch(base)), table, writer, lock))
}

/// Milliseconds of Unix time at `base`.
fn epoch(base: Instant) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(base.elapsed()).as_millis() as i64
}

/// The workers' I/O.
struct Ways {
    ios: Vec<Io>,
    /// For the operator.
    backend: String,
    /// What each worker's packets lie in.
    arenas: Vec<Pages>,
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
    let core_of = |worker: usize| plan.cores.get(worker).copied();
    let absent = |worker: usize| StartError::Core { worker, core: core_of(worker).unwrap_or(0) };
    let (mut arenas, mut pages): (Vec<Slots>, Vec<Pages>) = Default::default();
    for (worker, socket) in sockets.iter().enumerate() {
        if plan.busy_poll_us > 0 {
            busy_poll::set(socket, plan.busy_poll_us).map_err(StartError::Io)?;
        }
        let mapped = on_core(core_of(worker), || Arena::map(ARENA_SLOTS, plan.huge_pages)).ok_or_else(|| absent(worker))?;
        let (slots, lie_in) = mapped.map_err(StartError::Memory)?;
        arenas.push(slots);
        pages.push(lie_in);
    }
    let kind = match plan.io {
        IoChoice::Auto | IoChoice::Xdp(_) => IoKind::Auto,
        IoChoice::Uring => IoKind::Uring,
        IoChoice::Mmsg => IoKind::Mmsg,
    };
    let mut queues: Vec<Option<Queues>> = sockets.iter().map(|_| None).collect();
    let mut interface = None;
    if let IoChoice::Xdp(name) = &plan.io {
        match express(name, media, &mut arenas) {
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
    for (worker, ((socket, slots), queues)) in sockets.into_iter().zip(arenas).zip(queues).enumerate() {
        let open = || match queues {
            Some(queues) => Xdp::new(queues, socket, slots, base).map(|xdp| (Io::Xdp(xdp), String::new())),
            None => Io::open(kind, socket, slots, base),
        };
        let (io, why) = on_core(core_of(worker), open).ok_or_else(|| absent(worker))?.map_err(StartError::Io)?;
        ios.push(io);
        backend = why;
    }
    if let Some(interface) = &interface {
        backend = interface.description();
    }
    let guide = interface.map(|interface| {
        let table = Arc::<WorkerMetrics>::default();
        (interface.guide(table.clone(), metrics.to_vec()), table)
    });
    Ok(Ways { ios, backend, arenas: pages, guide })
}

/// The socket of ICE over TCP and its port. Another server's on the same host is no reason not to start: most clients need none.
fn listen_tcp(plan: &Plan, media: SocketAddr, summary: &mut Vec<String>) -> Option<(TcpListener, u16)> {
    let address = SocketAddr::new(media.ip(), plan.tcp_port?);
    match tcp::bind(address) {
        Ok(listener) => {
            summary.push(format!("tcp     {address}, for clients without UDP"));
            Some((listener, address.port()))
        }
        Err(error) => {
            summary.push(format!("tcp     none: {address} cannot be used ({error}); media.tcp_port chooses another port"));
            None
        }
    }
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
