//! One run: start, join, settle, measure, report.

use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use distributary::secure::dtls::Identity;

use crate::cli::{Audio, Options};
use crate::http::{Client, Url};
use crate::process::{self, CpuTime, Machine, Server};
use crate::publisher::Publisher;
use crate::receiver::{Finished, Mode, ReceiverThread};
use crate::report::{self, GeneratorReport, Latency, MachineReport, PublisherReport, Report, Spread};
use crate::sdp::Answer;
use crate::sys;
use crate::transport::{self, Transport};
use crate::viewer::{Counts, Milestones, Viewer};

/// When nothing has come for so long, all has come; and how long an overloaded server may take to get there.
const DRAIN_QUIET: Duration = Duration::from_millis(300);
const DRAIN_MAX: Duration = Duration::from_secs(15);
const PUBLISHER_TIME_MAX: Duration = Duration::from_secs(20);
const VIEWER_RECEIVE_BUFFER: usize = 2 << 20;
/// A receiving thread above this part of a core may have been what limited.
const LOAD_MAX: f64 = 0.9;
/// The publisher's packets should leave when they are due.
const LATE_MAX: u64 = 10_000_000;

/// Where to publish, where to watch, and whom to watch.
struct Target {
    whip: Url,
    whep: Url,
    /// The server's root, where it has other things to ask for.
    root: Option<Url>,
    pid: Option<u32>,
    server: Option<Server>,
}

pub fn run(options: &Options) -> Result<String, String> {
    let (server_cores, own_cores) = divide_cores(options);
    let mut target = target(options, &server_cores)?;
    sys::pin(&own_cores).map_err(|error| format!("cannot run on cores {own_cores:?}: {error}"))?;
    eprintln!("loadgen: server {} on cores {server_cores:?}, generator on {own_cores:?}", target.whip);
    std::thread::sleep(Duration::from_millis(500));
    let idle_rss_kib = target.pid.and_then(process::resident_kib);

    let identity = Identity::generate().map_err(|error| error.to_string())?;
    let publisher = Publisher::start(options, &target.whip, &identity)?;
    wait_for(PUBLISHER_TIME_MAX, || publisher.state.connected.load(Relaxed), || publisher_failure(&publisher))?;
    eprintln!("loadgen: publishing {} kb/s", options.bitrate / 1000);

    let mode = Mode { gro: !options.no_gro, spin: options.spin };
    let threads: Result<Vec<_>, _> = (0..options.receivers).map(|index| ReceiverThread::start(index, mode)).collect();
    let threads = threads.map_err(|error| format!("receiving thread: {error}"))?;
    let sessions = join_all(options, &target.whep, &identity, &threads)?;
    std::thread::sleep(Duration::from_secs(options.settle.into()));

    eprintln!("loadgen: measuring for {} s", options.seconds);
    let measured = measure(options, &mut target, &publisher, &threads)?;
    let report = make_report(options, &target, &publisher, idle_rss_kib, measured);
    leave(options, publisher, sessions);
    serde_json::to_string(&report).map_err(|error| error.to_string())
}

/// The server's cores and ours.
fn divide_cores(options: &Options) -> (Vec<usize>, Vec<usize>) {
    let all = sys::allowed_cores();
    let mut server = options.server_cores.clone();
    if server.is_empty() {
        server = all.iter().copied().take(options.workers as usize).collect();
    }
    let mut own = options.cores.clone();
    if own.is_empty() {
        own = all.iter().copied().filter(|core| !server.contains(core)).collect();
    }
    if own.is_empty() {
        own = all;
    }
    (server, own)
}

fn target(options: &Options, cores: &[usize]) -> Result<Target, String> {
    let below = |root: &Url, kind: &str| root.below(&format!("/{kind}/{}", options.room));
    if let Some(binary) = &options.server_binary {
        let server = Server::start(options, binary, cores)?;
        let root = server.url.clone();
        let pid = Some(server.pid());
        return Ok(Target { whip: below(&root, "whip"), whep: below(&root, "whep"), root: Some(root), pid, server: Some(server) });
    }
    let pick = |given: &Option<Url>, kind: &str| {
        given.clone().or_else(|| options.url.as_ref().map(|root| below(root, kind))).ok_or("no URL of the server")
    };
    let (whip, whep) = (pick(&options.whip_url, "whip")?, pick(&options.whep_url, "whep")?);
    Ok(Target { whip, whep, root: options.url.clone(), pid: options.server_pid, server: None })
}

fn wait_for(limit: Duration, done: impl Fn() -> bool, failure: impl Fn() -> Option<String>) -> Result<(), String> {
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

fn publisher_failure(publisher: &Publisher) -> Option<String> {
    let failure = publisher.state.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    failure.as_ref().map(|why| format!("the publisher failed: {why}"))
}

/// What joiners share.
struct Joining<'a> {
    options: &'a Options,
    whep: &'a Url,
    identity: &'a Identity,
    threads: &'a [ReceiverThread],
    next: AtomicU32,
    stop: AtomicBool,
    sessions: Mutex<Vec<Url>>,
    failure: Mutex<Option<String>>,
}

/// All viewers join; returns when each has had its first packet.
fn join_all(options: &Options, whep: &Url, identity: &Identity, threads: &[ReceiverThread]) -> Result<Vec<Url>, String> {
    let joining = Joining {
        options,
        whep,
        identity,
        threads,
        next: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        sessions: Mutex::default(),
        failure: Mutex::default(),
    };
    let watching = || threads.iter().map(|thread| thread.progress.watching.load(Relaxed)).sum::<u64>();
    let connected = || threads.iter().map(|thread| thread.progress.connected.load(Relaxed)).sum::<u64>();
    let failure = || {
        let of = |place: &Mutex<Option<String>>| place.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        of(&joining.failure).or_else(|| threads.iter().find_map(|thread| of(&thread.progress.failure)))
    };
    let limit = Duration::from_secs(options.join_seconds_max.into());
    let result = std::thread::scope(|scope| {
        for _ in 0..options.join_concurrency.min(options.viewers) {
            scope.spawn(|| joining.work());
        }
        let result = wait_for(limit, || watching() >= options.viewers.into(), failure);
        joining.stop.store(true, Relaxed);
        result
    });
    result.map_err(|error| {
        let (joined, connected, watching) = (joining.next.load(Relaxed).min(options.viewers), connected(), watching());
        format!("{error} ({joined} of {} viewers asked to join, {connected} connected, {watching} got media)", options.viewers)
    })?;
    eprintln!("loadgen: {} viewers watch", options.viewers);
    Ok(joining.sessions.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

impl Joining<'_> {
    fn work(&self) {
        let mut client = Client::default();
        while !self.stop.load(Relaxed) {
            let index = self.next.fetch_add(1, Relaxed);
            if index >= self.options.viewers {
                return;
            }
            if let Err(error) = self.join(index, &mut client) {
                self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                return;
            }
        }
    }

    fn join(&self, index: u32, client: &mut Client) -> Result<(), String> {
        let options = self.options;
        let credentials = transport::credentials();
        let media = (options.audio != Audio::Off, options.audio != Audio::Only);
        let offer = transport::offer(self.identity, &credentials, "actpass", media, None);
        let posted = sys::monotonic_ns();
        let response = client.request("POST", self.whep, options.token.as_deref(), Some(&offer))?;
        if response.status != 201 {
            return Err(format!("viewer {index} was refused: {} {}", response.status, response.body.trim()));
        }
        let answered = sys::monotonic_ns();
        let answer = Answer::read(&response.body)?;
        if let Some(session) = response.location.and_then(|location| self.whep.join(&location).ok()) {
            self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(session);
        }
        let any = match answer.address.ip() {
            std::net::IpAddr::V4(ip) if ip.is_loopback() => "127.0.0.1:0",
            std::net::IpAddr::V4(_) => "0.0.0.0:0",
            std::net::IpAddr::V6(_) => "[::]:0",
        };
        let socket = UdpSocket::bind(any).and_then(|socket| socket.connect(answer.address).map(|()| socket));
        let socket = socket.map_err(|error| format!("viewer's socket: {error} (is the limit of open files too low?)"))?;
        sys::set_receive_buffer(&socket, VIEWER_RECEIVE_BUFFER);
        let transport = Transport::new(self.identity, credentials, &answer, 3, sys::monotonic_ns());
        let milestones = Milestones { posted, answered, ..Milestones::default() };
        let ssrc = u32::from_ne_bytes(transport::random());
        let viewer = Viewer::new(transport, milestones, index.is_multiple_of(options.sample), options.nack, ssrc);
        self.threads[index as usize % self.threads.len()].add(viewer, socket);
        Ok(())
    }
}

/// What a measurement gave.
struct Measured {
    seconds: f64,
    /// Time that CPU use and the machine's state refer to: until the last packet had come.
    accounted_seconds: f64,
    backlog: Duration,
    sends: Option<(f64, f64)>,
    counts: Counts,
    milestones: Vec<Milestones>,
    socket_drops: u64,
    sampled: u64,
    profiles: Vec<&'static str>,
    server_cpu: Option<process::CpuUse>,
    own_cpu: process::CpuUse,
    server_socket_drops: Option<u64>,
    rss_kib: Option<u64>,
    publisher_packets: u64,
    late_max: u64,
    busy_turns: f64,
    /// Stolen and used parts of all cores.
    machine: (f64, f64),
}

/// Waits for what is still on its way. How long that took.
fn drain(threads: &[ReceiverThread]) -> Duration {
    let packets = || threads.iter().map(|thread| thread.progress.packets.load(Relaxed)).sum::<u64>();
    let start = Instant::now();
    let (mut last, mut changed) = (packets(), start);
    while changed.elapsed() < DRAIN_QUIET && start.elapsed() < DRAIN_MAX {
        std::thread::sleep(Duration::from_millis(10));
        let now = packets();
        if now != last {
            (last, changed) = (now, Instant::now());
        }
    }
    changed.duration_since(start)
}

fn measure(options: &Options, target: &mut Target, publisher: &Publisher, threads: &[ReceiverThread]) -> Result<Measured, String> {
    let next = || [publisher.state.next[0].load(Relaxed), publisher.state.next[1].load(Relaxed)];
    let turns = || {
        let sum = |(all, idle): (u64, u64), thread: &ReceiverThread| {
            (all + thread.progress.turns.load(Relaxed), idle + thread.progress.idle_turns.load(Relaxed))
        };
        threads.iter().fold((0, 0), sum)
    };
    let media_port = target.server_media_port(options);
    let drops = || media_port.map(process::socket_drops);
    let cpu = |pid: Option<u32>| pid.and_then(CpuTime::of);

    let sends_before = target.sends();
    publisher.state.late_max.store(0, Relaxed);
    let (drops_before, turns_before, machine_before) = (drops(), turns(), Machine::now());
    let (server_before, own_before) = (cpu(target.pid), cpu(Some(std::process::id())).unwrap_or_default());
    let start = Instant::now();
    let began = next();
    threads.iter().for_each(ReceiverThread::restart);
    for second in 1..=options.seconds {
        std::thread::sleep((start + Duration::from_secs(second.into())).saturating_duration_since(Instant::now()));
        if let Some(status) = target.server.as_mut().and_then(Server::status) {
            return Err(format!("the server ended in the middle ({status})"));
        }
        if let Some(why) = publisher_failure(publisher) {
            return Err(why);
        }
        if second % 10 == 0 {
            eprintln!("loadgen: {second} s");
        }
    }
    let late_max = publisher.state.late_max.load(Relaxed);
    publisher.state.pause.store(true, Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let backlog = drain(threads);
    let accounted_seconds = start.elapsed().as_secs_f64();
    let ended = next();
    let server_cpu = cpu(target.pid).zip(server_before).map(|(after, before)| after.since(&before));
    let own_cpu = cpu(Some(std::process::id())).unwrap_or_default().since(&own_before);
    let (all, idle) = turns();
    let busy_turns = 1.0 - (idle - turns_before.1) as f64 / (all - turns_before.0).max(1) as f64;
    let rss_kib = target.pid.and_then(process::resident_kib);
    let server_socket_drops = drops().zip(drops_before).map(|(after, before)| after - before);
    let mut measured = Measured {
        seconds,
        accounted_seconds,
        backlog,
        sends: target.sends().zip(sends_before).map(|(after, before)| (after.0 - before.0, after.1 - before.1)),
        counts: Counts::default(),
        milestones: Vec::new(),
        socket_drops: 0,
        sampled: 0,
        profiles: Vec::new(),
        server_cpu,
        own_cpu,
        server_socket_drops,
        rss_kib,
        publisher_packets: ended[0] + ended[1] - began[0] - began[1],
        late_max,
        busy_turns,
        machine: Machine::now().since(machine_before),
    };
    for thread in threads {
        let Finished { counts, milestones, socket_drops, profiles, sampled } = thread.finish(began, ended)?;
        measured.counts.add(&counts);
        measured.milestones.extend(milestones);
        measured.socket_drops += socket_drops;
        measured.profiles.extend(profiles);
        measured.sampled += sampled;
    }
    Ok(measured)
}

impl Target {
    /// Port of the server's media socket, for its drops: of a server here, from an answer.
    fn server_media_port(&self, options: &Options) -> Option<u16> {
        let identity = Identity::generate().ok()?;
        self.pid?;
        let offer = transport::offer(&identity, &transport::credentials(), "actpass", (false, true), None);
        let mut client = Client::default();
        let response = client.request("POST", &self.whep, options.token.as_deref(), Some(&offer)).ok()?;
        let port = Answer::read(&response.body).ok()?.address.port();
        let session = self.whep.join(&response.location?).ok()?;
        // A session that stays ends by itself.
        let _ = client.request("DELETE", &session, options.token.as_deref(), None);
        Some(port)
    }

    fn metrics(&self) -> Option<String> {
        Some(Client::default().request("GET", &self.root.as_ref()?.below("/metrics"), None, None).ok()?.body)
    }

    /// Datagrams that the server sent, and its send operations.
    fn sends(&self) -> Option<(f64, f64)> {
        let metrics = self.metrics()?;
        let sum = |name: &str| {
            let values =
                metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' ')?.1.parse().ok());
            values.reduce(|sum: f64, value: f64| sum + value)
        };
        Some((sum("distributary_sent_datagrams_total")?, sum("distributary_send_operations_total")?))
    }

    /// The commit that the server's metrics name.
    fn commit(&self) -> Option<String> {
        let metrics = self.metrics()?;
        let line = metrics.lines().find(|line| line.starts_with("distributary_build_info{"))?;
        Some(line.split_once("commit=\"")?.1.split_once('"')?.0.to_owned())
    }
}

fn bottlenecks(options: &Options, measured: &Measured, load: f64) -> Vec<String> {
    let mut reasons = Vec::new();
    if measured.socket_drops > 0 {
        reasons.push(format!("{} datagrams were dropped at the viewers' sockets", measured.socket_drops));
    }
    if load > LOAD_MAX {
        reasons.push(format!("a receiving thread was {:.0} % busy", load * 100.0));
    }
    if options.spin && measured.busy_turns > 0.98 {
        reasons.push("the receiving threads never ran out of work".into());
    }
    if measured.late_max > LATE_MAX {
        reasons.push(format!("the publisher was late by up to {} ms", measured.late_max / 1_000_000));
    }
    reasons
}

/// More than this part of a core for others, and it shows.
const DISTURBANCE_MAX: f64 = 0.05;

fn machine_report(measured: &Measured) -> MachineReport {
    let cores = sys::configured_cores();
    let in_cores = |part: f64| part * cores as f64;
    let own = |usage: &process::CpuUse| usage.total_us / (measured.accounted_seconds * 1e6);
    let (stolen, used) = (in_cores(measured.machine.0), in_cores(measured.machine.1));
    let other = measured.server_cpu.as_ref().map(|server| (used - own(server) - own(&measured.own_cpu)).max(0.0));
    MachineReport {
        cores,
        stolen_cores: report::thousandths(stolen),
        other_cores: other.map(report::thousandths),
        quiet: stolen < DISTURBANCE_MAX && other.is_none_or(|other| other < DISTURBANCE_MAX),
    }
}

fn make_report(options: &Options, target: &Target, publisher: &Publisher, idle_rss_kib: Option<u64>, measured: Measured) -> Report {
    let Counts { received, expected, .. } = measured.counts;
    let missing = expected.saturating_sub(received);
    let lost_by_generator = missing.min(measured.socket_drops);
    let window_us = measured.accounted_seconds * 1e6;
    let receiver_us = measured.own_cpu.threads.iter().filter(|(name, _)| name.starts_with("lg-recv")).map(|(_, micros)| *micros);
    let receiver_load = if options.spin { measured.busy_turns } else { receiver_us.fold(0.0, f64::max) / window_us };
    let reasons = bottlenecks(options, &measured, if options.spin { 0.0 } else { receiver_load });
    let per_packet = |micros: f64| report::thousandths(micros / received.max(1) as f64);
    let times = |of: &dyn Fn(&Milestones) -> Option<u64>| measured.milestones.iter().filter_map(of).collect::<Vec<u64>>();
    let first_posted = measured.milestones.iter().map(|m| m.posted).min().unwrap_or(0);
    let last_first = measured.milestones.iter().filter_map(|m| m.first_packet).max().unwrap_or(0);
    let mut profiles = measured.profiles.clone();
    profiles.sort_unstable();
    profiles.dedup();
    let rounded = |threads: &[(String, f64)]| threads.iter().map(|(name, micros)| (name.clone(), micros.round())).collect();
    let state = &publisher.state;
    let cpu = measured.server_cpu.as_ref();
    Report {
        viewers: options.viewers,
        seconds: options.seconds,
        workers: target.server.as_ref().map(|_| options.workers),
        io: target.server.as_ref().and_then(|server| server.io.clone()),
        commit: target.commit(),
        srtp_profile: (!profiles.is_empty()).then(|| profiles.join(" ")),
        bitrate: options.bitrate,
        audio: match options.audio {
            Audio::On => "on",
            Audio::Off => "off",
            Audio::Only => "only",
        },
        pacing: options.pacing,
        packets_expected: expected,
        packets_received: received,
        packets_per_second: report::tenths(received as f64 / measured.seconds),
        bits_per_second: (measured.counts.bytes as f64 * 8.0 / measured.seconds).round(),
        lost: missing - lost_by_generator,
        lost_by_generator,
        server_socket_drops: measured.server_socket_drops,
        duplicates: measured.counts.duplicates,
        reordered: measured.counts.reordered,
        retransmissions: measured.counts.retransmissions,
        recovered: measured.counts.recovered,
        ssrc_changes: measured.counts.ssrc_changes,
        packets_intact: measured.counts.intact,
        packets_damaged: measured.counts.damaged,
        viewers_sampled: measured.sampled,
        cpu_us_per_forwarded_packet: cpu.map(|cpu| per_packet(cpu.total_us)),
        worker_cpu_us_per_forwarded_packet: cpu.map(|cpu| per_packet(report::threads_us(cpu, "distributary-w"))),
        cpu_system_share: cpu.map(|cpu| report::thousandths(cpu.system_share)),
        cpu_cores: cpu.map(|cpu| report::thousandths(cpu.total_us / window_us)),
        cpu_starved_cores: cpu.map(|cpu| report::thousandths(cpu.waited_us / window_us)),
        datagrams_per_send: measured.sends.map(|(datagrams, sends)| report::thousandths(datagrams / sends.max(1.0))),
        cpu_us_by_thread: cpu.map(|cpu| rounded(&cpu.threads)),
        backlog_ms: report::tenths(measured.backlog.as_secs_f64() * 1e3),
        latency_us: Latency::of(&measured.counts.to_socket),
        latency_read_us: Latency::of(&measured.counts.to_reader),
        idle_rss_kib,
        rss_kib: measured.rss_kib,
        rss_kib_per_viewer: measured
            .rss_kib
            .zip(idle_rss_kib)
            .map(|(rss, idle)| report::tenths((rss as f64 - idle as f64) / f64::from(options.viewers))),
        joins_per_second: report::tenths(f64::from(options.viewers) * 1e9 / last_first.saturating_sub(first_posted).max(1) as f64),
        join_to_first_packet_ms: Spread::of(times(&|m| Some(m.first_packet?.saturating_sub(m.posted)))),
        join_to_answer_ms: Spread::of(times(&|m| Some(m.answered.saturating_sub(m.posted)))),
        began_without_key_frame: measured.milestones.iter().filter(|m| m.began_with_key_frame == Some(false)).count() as u64,
        machine: machine_report(&measured),
        publisher: PublisherReport {
            packets: measured.publisher_packets,
            key_frames: state.key_frames.load(Relaxed),
            key_frame_requests: state.key_frame_requests.load(Relaxed),
            nacked: state.nacked.load(Relaxed),
            retransmitted: state.retransmitted.load(Relaxed),
            send_errors: state.send_errors.load(Relaxed),
            late_us_max: measured.late_max / 1000,
        },
        generator: GeneratorReport {
            receiver_load: report::thousandths(receiver_load),
            cpu_us_by_thread: rounded(&measured.own_cpu.threads),
            gro: !options.no_gro,
            spin: options.spin,
            bottleneck: !reasons.is_empty(),
            bottleneck_reasons: reasons,
        },
    }
}

/// Ends the sessions as a client should (RFC 9725 §4.2). What fails here changes nothing any more.
fn leave(options: &Options, publisher: Publisher, sessions: Vec<Url>) {
    let mut client = Client::default();
    let refused = sessions
        .iter()
        .chain(&publisher.session)
        .filter(|session| {
            client.request("DELETE", session, options.token.as_deref(), None).map_or(true, |answer| answer.status >= 300)
        })
        .count();
    if refused > 0 {
        eprintln!("loadgen: {refused} sessions could not be deleted");
    }
    publisher.stop();
}
