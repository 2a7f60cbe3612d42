//! One run: start, join, settle, measure, report.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use distributary::secure::dtls::Identity;

use crate::awake::Awake;
use crate::cli::{Audio, Options};
use crate::http::{Client, Url};
use crate::join::{self, Plan, wait_for};
use crate::process::{self, CpuTime, CpuUse, Launch, Machine, Server};
use crate::publisher::{Publisher, Publishers, State};
use crate::receiver::{Finished, Mode, ReceiverThread};
use crate::report::{self, GeneratorReport, Latency, MachineReport, PublisherReport, Report, SinkReport, Spread, StormReport};
use crate::sdp::Answer;
use crate::sink::Sink;
use crate::viewer::{Counts, Milestones};
use crate::{storm, sys, transport};

/// When nothing has come for so long, all has come; short, as the server's CPU time is counted to its end. And how long an overloaded
/// server may take to get there.
pub const DRAIN_QUIET: Duration = Duration::from_millis(300);
pub const DRAIN_MAX: Duration = Duration::from_secs(15);
/// How long after the measurement began a storm begins.
const STORM_AFTER: Duration = Duration::from_millis(500);
const PUBLISHER_TIME_MAX: Duration = Duration::from_secs(20);
/// A receiving thread above this part of a core may have been what limited.
pub const LOAD_MAX: f64 = 0.9;
/// The publisher's packets should leave when they are due.
const LATE_MAX: u64 = 10_000_000;

/// Where to publish, where to watch, and whom to watch.
struct Target {
    /// Of each room.
    whip: Vec<Url>,
    whep: Vec<Url>,
    /// The server's root, where it has other things to ask for.
    root: Option<Url>,
    pid: Option<u32>,
    server: Option<Server>,
    // After the server, which lives in it.
    sink: Option<Sink>,
}

pub fn run(options: &Options) -> Result<String, String> {
    let (server_cores, own_cores) = divide_cores(&options.server_cores, &options.cores, options.workers);
    let mut target = target(options, &server_cores)?;
    sys::pin(&own_cores).map_err(|error| format!("cannot run on cores {own_cores:?}: {error}"))?;
    eprintln!("loadgen: server {} on cores {server_cores:?}, generator on {own_cores:?}", target.whip[0]);
    let _awake = options.awake.then(Awake::start).transpose().map_err(|error| format!("keeping the cores awake: {error}"))?;
    std::thread::sleep(Duration::from_millis(500));
    let idle_rss_kib = target.pid.and_then(process::resident_kib);

    let identity = Identity::generate().map_err(|error| error.to_string())?;
    let crew = Publishers::start(options, &target.whip, &identity)?;
    let publishers = &crew.all;
    let set_meager = |on: bool| publishers.iter().for_each(|publisher| publisher.state.meager.store(on, Relaxed));
    set_meager(target.sink.is_some());
    let connected = || publishers.iter().all(|publisher| publisher.state.connected.load(Relaxed));
    wait_for(PUBLISHER_TIME_MAX, connected, || publisher_failure(publishers))?;
    eprintln!("loadgen: publishing {} kb/s{}", options.bitrate / 1000, if options.rooms > 1 { " in each room" } else { "" });
    let published_rss_kib = target.pid.and_then(process::resident_kib);

    let mode = Mode { gro: !options.no_gro, spin: options.spin, sink: options.sink };
    let threads: Result<Vec<_>, _> =
        (0..options.receivers).map(|index| ReceiverThread::start(&format!("lg-recv{index}"), mode)).collect();
    let threads = threads.map_err(|error| format!("receiving thread: {error}"))?;
    let plan = Plan {
        options,
        whep: &target.whep,
        identity: &identity,
        threads: &threads,
        sink: target.sink.as_ref(),
        viewers: options.viewers,
        concurrency: options.join_concurrency,
        rate: 0,
    };
    let mut sessions = join::join_all(&plan)?;
    eprintln!("loadgen: {} viewers watch", options.viewers);
    if let Some(sink) = &target.sink {
        sink.open()?;
        set_meager(false);
    }
    std::thread::sleep(Duration::from_secs(options.settle.into()));

    eprintln!("loadgen: measuring for {} s", options.seconds);
    let (mut measured, more) = measure(options, &mut target, &identity, publishers, &threads)?;
    measured.idle_rss_kib = idle_rss_kib;
    measured.published_rss_kib = published_rss_kib;
    sessions.extend(more);
    let report = make_report(options, &target, publishers, measured);
    if target.sink.is_none() {
        leave(options, publishers, sessions);
    }
    crew.stop();
    serde_json::to_string(&report).map_err(|error| error.to_string())
}

/// The server's cores and ours.
pub fn divide_cores(server: &[usize], own: &[usize], workers: u32) -> (Vec<usize>, Vec<usize>) {
    let all = sys::allowed_cores();
    let (mut server, mut own) = (server.to_vec(), own.to_vec());
    if server.is_empty() {
        server = all.iter().copied().take(workers as usize).collect();
    }
    if own.is_empty() {
        own = all.iter().copied().filter(|core| !server.contains(core)).collect();
    }
    if own.is_empty() {
        own = all;
    }
    (server, own)
}

fn target(options: &Options, cores: &[usize]) -> Result<Target, String> {
    let below = |root: &Url, kind: &str| -> Vec<Url> {
        let name = |room: u32| if options.rooms == 1 { options.room.clone() } else { format!("{}-{room}", options.room) };
        (0..options.rooms).map(|room| root.below(&format!("/{kind}/{}", name(room)))).collect()
    };
    if let Some(binary) = &options.server_binary {
        let sink = options.sink.then(Sink::new).transpose()?;
        let launch = Launch { binary, workers: options.workers, io: &options.io, arguments: &options.server_argument };
        let server = Server::start(&launch, cores, sink.as_ref())?;
        let root = server.url.clone();
        let pid = Some(server.pid());
        let (whip, whep) = (below(&root, "whip"), below(&root, "whep"));
        return Ok(Target { whip, whep, root: Some(root), pid, server: Some(server), sink });
    }
    let pick = |given: &Option<Url>, kind: &str| {
        given
            .clone()
            .map(|url| vec![url])
            .or_else(|| options.url.as_ref().map(|root| below(root, kind)))
            .ok_or("no URL of the server")
    };
    let (whip, whep) = (pick(&options.whip_url, "whip")?, pick(&options.whep_url, "whep")?);
    Ok(Target { whip, whep, root: options.url.clone(), pid: options.server_pid, server: None, sink: None })
}

fn publisher_failure(publishers: &[Publisher]) -> Option<String> {
    publishers.iter().find_map(|publisher| {
        let failure = publisher.state.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        failure.as_ref().map(|why| format!("a publisher failed: {why}"))
    })
}

/// What a measurement gave.
struct Measured {
    seconds: f64,
    /// Time that CPU use and the machine's state refer to: until the last packet had come.
    accounted_seconds: f64,
    backlog: Duration,
    /// From the server's metrics.
    totals: Option<Totals>,
    freed: Option<u64>,
    storm: Option<StormReport>,
    counts: Counts,
    milestones: Vec<Milestones>,
    socket_drops: u64,
    sampled: u64,
    profiles: Vec<&'static str>,
    server_cpu: Option<CpuUse>,
    own_cpu: CpuUse,
    server_socket_drops: Option<u64>,
    /// At the start, with the publishers alone, and with everybody.
    idle_rss_kib: Option<u64>,
    published_rss_kib: Option<u64>,
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

/// Gives the sessions of a storm's viewers too.
fn measure(
    options: &Options,
    target: &mut Target,
    identity: &Identity,
    publishers: &[Publisher],
    threads: &[ReceiverThread],
) -> Result<(Measured, Vec<Url>), String> {
    let next = || -> Vec<[u64; 2]> {
        publishers.iter().map(|publisher| [0, 1].map(|kind: usize| publisher.state.next[kind].load(Relaxed))).collect()
    };
    let turns = || {
        let sum = |(all, idle): (u64, u64), thread: &ReceiverThread| {
            (all + thread.progress.turns.load(Relaxed), idle + thread.progress.idle_turns.load(Relaxed))
        };
        threads.iter().fold((0, 0), sum)
    };
    let media_port = target.server_media_port(options);
    let pid = target.pid;
    let drops = || Some(process::socket_drops(pid?, media_port?));
    let cpu = |pid: Option<u32>| pid.and_then(CpuTime::of);

    let totals_before = target.totals();
    let freed_before = target.sink.as_ref().and_then(Sink::freed);
    publishers.iter().for_each(|publisher| publisher.state.late_max.store(0, Relaxed));
    let (drops_before, turns_before, machine_before) = (drops(), turns(), Machine::now());
    let (server_before, own_before) = (cpu(target.pid), cpu(Some(std::process::id())).unwrap_or_default());
    let start = Instant::now();
    let began = next();
    threads.iter().for_each(ReceiverThread::restart);
    let (mut storm, mut sessions) = (None, Vec::new());
    if options.storm > 0 {
        // Those who watch are to have watched a moment undisturbed.
        std::thread::sleep(STORM_AFTER);
        let (whep, viewers, rate) = (&target.whep, options.storm, options.storm_rate);
        let plan = Plan { options, whep, identity, threads, sink: None, viewers, concurrency: 1, rate };
        let (report, joined) = storm::run(plan, &began)?;
        (storm, sessions) = (Some(report), joined);
    }
    for second in 1..=options.seconds {
        std::thread::sleep((start + Duration::from_secs(second.into())).saturating_duration_since(Instant::now()));
        if let Some(status) = target.server.as_mut().and_then(Server::status) {
            return Err(format!("the server ended in the middle ({status})"));
        }
        if let Some(why) = publisher_failure(publishers) {
            return Err(why);
        }
        if second % 10 == 0 {
            eprintln!("loadgen: {second} s");
        }
    }
    let late_max = publishers.iter().map(|publisher| publisher.state.late_max.load(Relaxed)).max().unwrap_or(0);
    publishers.iter().for_each(|publisher| publisher.state.pause.store(true, Relaxed));
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
        totals: target.totals().zip(totals_before).map(|(after, before)| after.since(&before)),
        freed: target.sink.as_ref().and_then(Sink::freed).zip(freed_before).map(|(after, before)| after - before),
        storm,
        counts: Counts::default(),
        milestones: Vec::new(),
        socket_drops: 0,
        sampled: 0,
        profiles: Vec::new(),
        server_cpu,
        own_cpu,
        server_socket_drops,
        idle_rss_kib: None,
        published_rss_kib: None,
        rss_kib,
        publisher_packets: ended.iter().flatten().sum::<u64>() - began.iter().flatten().sum::<u64>(),
        late_max,
        busy_turns,
        machine: Machine::now().since(machine_before),
    };
    for thread in threads {
        let Finished { counts, milestones, socket_drops, profiles, sampled } = thread.finish(&began, &ended)?;
        measured.counts.add(&counts);
        measured.milestones.extend(milestones);
        measured.socket_drops += socket_drops;
        measured.profiles.extend(profiles);
        measured.sampled += sampled;
    }
    Ok((measured, sessions))
}

/// Of the server's own counters.
pub struct Totals {
    pub datagrams: f64,
    pub sends: f64,
    /// RTP packets, for each receiver.
    pub forwarded: f64,
    /// Datagrams that the kernel did not take.
    pub refused: f64,
}

impl Totals {
    pub fn since(&self, before: &Totals) -> Totals {
        Totals {
            datagrams: self.datagrams - before.datagrams,
            sends: self.sends - before.sends,
            forwarded: self.forwarded - before.forwarded,
            refused: self.refused - before.refused,
        }
    }
}

impl Target {
    /// Port of the server's media socket, for its drops: of a server here, from an answer.
    fn server_media_port(&self, options: &Options) -> Option<u16> {
        let identity = Identity::generate().ok()?;
        self.pid?;
        let offer = transport::offer(&identity, &transport::credentials(), "actpass", (false, true), None, false);
        let mut client = Client::default();
        let response = client.request("POST", &self.whep[0], options.token.as_deref(), Some(&offer)).ok()?;
        let port = Answer::read(&response.body).ok()?.address.port();
        let session = self.whep[0].join(&response.location?).ok()?;
        // A session that stays ends by itself.
        let _ = client.request("DELETE", &session, options.token.as_deref(), None);
        Some(port)
    }

    fn totals(&self) -> Option<Totals> {
        Totals::of(self.root.as_ref()?)
    }
}

fn metrics(root: &Url) -> Option<String> {
    Some(Client::default().request("GET", &root.below("/metrics"), None, None).ok()?.body)
}

/// The commit that a server's metrics name.
pub fn commit(root: &Url) -> Option<String> {
    let metrics = metrics(root)?;
    let line = metrics.lines().find(|line| line.starts_with("distributary_build_info{"))?;
    Some(line.split_once("commit=\"")?.1.split_once('"')?.0.to_owned())
}

impl Totals {
    /// What this server has counted, if it is one.
    pub fn of(root: &Url) -> Option<Totals> {
        let metrics = metrics(root)?;
        let sum = |name: &str, label: &str| {
            let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).reduce(|sum: f64, value: f64| sum + value)
        };
        Some(Totals {
            datagrams: sum("distributary_sent_datagrams_total", "")?,
            sends: sum("distributary_send_operations_total", "")?,
            forwarded: sum("distributary_forwarded_media_packets_total", "")?,
            refused: sum("distributary_dropped_packets_total", "\"send_failed\"")?,
        })
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

/// `machine`: parts of all cores that were stolen, and used.
pub fn machine_report(machine: (f64, f64), seconds: f64, server: Option<&CpuUse>, generator: &CpuUse) -> MachineReport {
    let cores = sys::configured_cores();
    let in_cores = |part: f64| part * cores as f64;
    let own = |usage: &CpuUse| usage.total_us / (seconds * 1e6);
    let (stolen, used) = (in_cores(machine.0), in_cores(machine.1));
    let other = server.map(|server| (used - own(server) - own(generator)).max(0.0));
    MachineReport {
        cores,
        stolen_cores: report::thousandths(stolen),
        other_cores: other.map(report::thousandths),
        quiet: stolen < DISTURBANCE_MAX && other.is_none_or(|other| other < DISTURBANCE_MAX),
    }
}

/// What the device freed, beside what the server says that it forwarded.
fn sink_report(options: &Options, measured: &Measured) -> Option<SinkReport> {
    let (totals, freed) = (measured.totals.as_ref()?, measured.freed?);
    // Every room has as many viewers, give or take one.
    let expected = measured.publisher_packets as f64 * f64::from(options.viewers) / f64::from(options.rooms);
    Some(SinkReport {
        forwarded: totals.forwarded as u64,
        forwarded_of_expected: (totals.forwarded / expected * 1e6).round() / 1e6,
        refused: totals.refused as u64,
        sends_freed: freed,
        sends: totals.sends as u64,
    })
}

fn make_report(options: &Options, target: &Target, publishers: &[Publisher], measured: Measured) -> Report {
    let Counts { received, expected, .. } = measured.counts;
    let missing = expected.saturating_sub(received);
    let lost_by_generator = missing.min(measured.socket_drops);
    let window_us = measured.accounted_seconds * 1e6;
    let receiver_us = measured.own_cpu.threads.iter().filter(|(name, _)| name.starts_with("lg-recv")).map(|(_, micros)| *micros);
    let receiver_load = if options.spin { measured.busy_turns } else { receiver_us.fold(0.0, f64::max) / window_us };
    let reasons = bottlenecks(options, &measured, if options.spin { 0.0 } else { receiver_load });
    // With a sink most packets are received by nobody.
    let served = match &measured.totals {
        Some(totals) if options.sink => totals.forwarded,
        _ => received as f64,
    };
    let per_packet = |micros: f64| report::thousandths(micros / served.max(1.0));
    let per_viewer = |before: Option<u64>| {
        let (rss, before) = measured.rss_kib.zip(before)?;
        Some(report::tenths((rss as f64 - before as f64) / f64::from(options.viewers + options.storm)))
    };
    let times = |of: &dyn Fn(&Milestones) -> Option<u64>| measured.milestones.iter().filter_map(of).collect::<Vec<u64>>();
    let first_posted = measured.milestones.iter().map(|m| m.posted).min().unwrap_or(0);
    let last_first = measured.milestones.iter().filter_map(|m| m.first_packet).max().unwrap_or(0);
    let mut profiles = measured.profiles.clone();
    profiles.sort_unstable();
    profiles.dedup();
    let rounded = |threads: &[(String, f64)]| threads.iter().map(|(name, micros)| (name.clone(), micros.round())).collect();
    let sum = |of: &dyn Fn(&State) -> u64| publishers.iter().map(|publisher| of(&publisher.state)).sum();
    let cpu = measured.server_cpu.as_ref();
    Report {
        viewers: options.viewers,
        rooms: options.rooms,
        seconds: options.seconds,
        workers: target.server.as_ref().map(|_| options.workers),
        io: target.server.as_ref().and_then(|server| server.io.clone()),
        commit: target.root.as_ref().and_then(commit),
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
        datagrams_per_send: measured.totals.as_ref().map(|all| report::thousandths(all.datagrams / all.sends.max(1.0))),
        cpu_us_by_thread: cpu.map(|cpu| rounded(&cpu.threads)),
        backlog_ms: report::tenths(measured.backlog.as_secs_f64() * 1e3),
        latency_us: Latency::of(&measured.counts.to_socket),
        latency_read_us: Latency::of(&measured.counts.to_reader),
        idle_rss_kib: measured.idle_rss_kib,
        rss_kib: measured.rss_kib,
        rss_kib_per_viewer: per_viewer(measured.idle_rss_kib),
        rss_kib_per_viewer_beyond_publisher: per_viewer(measured.published_rss_kib),
        joins_per_second: report::tenths(f64::from(options.viewers) * 1e9 / last_first.saturating_sub(first_posted).max(1) as f64),
        join_to_first_packet_ms: Spread::of(times(&|m| Some(m.first_packet?.saturating_sub(m.posted)))),
        join_to_answer_ms: Spread::of(times(&|m| Some(m.answered.saturating_sub(m.posted)))),
        began_without_key_frame: measured.milestones.iter().filter(|m| m.began_with_key_frame == Some(false)).count() as u64,
        sink: sink_report(options, &measured),
        machine: machine_report(measured.machine, measured.accounted_seconds, cpu, &measured.own_cpu),
        publisher: PublisherReport {
            packets: measured.publisher_packets,
            key_frames: sum(&|state| state.key_frames.load(Relaxed)),
            key_frame_requests: sum(&|state| state.key_frame_requests.load(Relaxed)),
            nacked: sum(&|state| state.nacked.load(Relaxed)),
            retransmitted: sum(&|state| state.retransmitted.load(Relaxed)),
            send_errors: sum(&|state| state.send_errors.load(Relaxed)),
            late_us_max: measured.late_max / 1000,
        },
        generator: GeneratorReport {
            receiver_load: report::thousandths(receiver_load),
            cpu_us_by_thread: rounded(&measured.own_cpu.threads),
            gro: !options.no_gro,
            spin: options.spin,
            awake: options.awake,
            bottleneck: !reasons.is_empty(),
            bottleneck_reasons: reasons,
        },
        storm: measured.storm,
    }
}

/// Ends the sessions as a client should (RFC 9725 §4.2). What fails here changes nothing any more.
fn leave(options: &Options, publishers: &[Publisher], sessions: Vec<Url>) {
    let mut client = Client::default();
    let refused = sessions
        .iter()
        .chain(publishers.iter().filter_map(|publisher| publisher.session.as_ref()))
        .filter(|session| {
            client.request("DELETE", session, options.token.as_deref(), None).map_or(true, |answer| answer.status >= 300)
        })
        .count();
    if refused > 0 {
        eprintln!("loadgen: {refused} sessions could not be deleted");
    }
}
