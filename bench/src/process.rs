//! The server as a process: starting it, and what `/proc` says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::http::Url;
use crate::sink::Sink;
use crate::sys;

const START_TIME_MAX: Duration = Duration::from_secs(20);
const STOP_TIME_MAX: Duration = Duration::from_secs(3);

/// A server that was started here, and ends when this is dropped.
pub struct Server {
    child: Child,
    pub url: Url,
    /// How it names its I/O backend.
    pub io: Option<String>,
}

/// How a server is started.
pub struct Launch<'a> {
    pub binary: &'a Path,
    pub workers: u32,
    pub io: &'a str,
    pub arguments: &'a [String],
}

impl Server {
    /// Starts `distributary serve --dev` on ports that the kernel chooses, its threads on `cores`.
    pub fn start(launch: &Launch, cores: &[usize], sink: Option<&Sink>) -> Result<Server, String> {
        let binary = launch.binary;
        let list: Vec<String> = (0..launch.workers as usize).map(|worker| cores[worker % cores.len()].to_string()).collect();
        let mut command = match sink {
            Some(sink) => {
                let [program, arguments @ ..] = sink.enter();
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        // What is beyond the server's own limits is of interest too.
        for (limit, none) in [("DISTRIBUTARY_LIMITS_LOAD", "100"), ("DISTRIBUTARY_LIMITS_JOINS_PER_MINUTE", "0")] {
            if std::env::var_os(limit).is_none() {
                command.env(limit, none);
            }
        }
        command.args(["serve", "--dev", "--http-port", "0", "--media-port", "0", "--tcp-port", "0", "--log-level", "warn"]);
        command.args(["--workers", &launch.workers.to_string(), "--io", launch.io]);
        if let Some(sink) = sink {
            command.args(["--bind", &sink.server().to_string()]);
        }
        // Workers may share cores only by not being pinned one by one.
        if launch.workers as usize <= cores.len() {
            list.iter().for_each(|core| _ = command.args(["--cores", core]));
        }
        command.args(launch.arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        sys::bind_child(&mut command, cores.to_vec());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
        let stdout = child.stdout.take().ok_or("no output of the server")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Read on when nobody listens any more: a full pipe would stop the server.
                let _ = sender.send(line);
            }
        });
        let mut server = Server { child, url: Url { authority: String::new(), path: "/".into() }, io: None };
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            let line =
                lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|_| match server.status() {
                    Some(status) => format!("the server ended at once ({status})"),
                    None => "the server did not say where it listens".to_owned(),
                })?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("http"), Some("tcp")) => {
                    let address = words.next().map(|word| word.trim_end_matches(','));
                    let address: Option<SocketAddr> = address.and_then(|address| address.parse().ok());
                    server.url.authority = address.ok_or("the server's HTTP address cannot be read")?.to_string();
                }
                (Some("I/O"), Some(_)) => server.io = line.split_once(' ').map(|(_, io)| io.trim().to_owned()),
                (Some("page"), _) => return Ok(server),
                _ => {}
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        sys::interrupt(self.child.id());
        let deadline = Instant::now() + STOP_TIME_MAX;
        while self.status().is_none() {
            if Instant::now() > deadline {
                eprintln!("loadgen: the server did not stop when asked to; killed");
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// CPU time of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ThreadTime {
    id: u32,
    name: String,
    nanoseconds: u64,
    /// Ready to run, and not running.
    waited: u64,
}

/// CPU time of a process's threads, as `/proc` has it at one moment.
#[derive(Clone, Debug, Default)]
pub struct CpuTime {
    threads: Vec<ThreadTime>,
    user_ticks: u64,
    system_ticks: u64,
}

/// What was used between two moments, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuUse {
    pub total_us: f64,
    /// Time that threads were ready to run and others had their core; time that the host took is not in it.
    pub waited_us: f64,
    /// Of 1, the part spent in the kernel; coarse.
    pub system_share: f64,
    pub threads: Vec<(String, f64)>,
}

impl CpuTime {
    pub fn of(pid: u32) -> Option<CpuTime> {
        let mut time = CpuTime::default();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
            // A thread that has just ended has no files any more.
            let (Some(stat), Some(schedule)) = (read("stat"), read("schedstat")) else { continue };
            let Some((id, name, user, system)) = parse_stat(&stat) else { continue };
            // Time on the CPU in nanoseconds (Documentation/scheduler/sched-stats.rst); `stat` has ticks of 10 ms.
            let mut times = schedule.split_whitespace().map(|time| time.parse().unwrap_or(0));
            let (nanoseconds, waited) = (times.next().unwrap_or(0), times.next().unwrap_or(0));
            time.threads.push(ThreadTime { id, name, nanoseconds, waited });
            time.user_ticks += user;
            time.system_ticks += system;
        }
        Some(time)
    }

    /// From `before` to `self`.
    pub fn since(&self, before: &CpuTime) -> CpuUse {
        let mut usage = CpuUse::default();
        for thread in &self.threads {
            let earlier = before.threads.iter().find(|earlier| earlier.id == thread.id);
            let (ran, waited) = earlier.map_or((0, 0), |earlier| (earlier.nanoseconds, earlier.waited));
            let micros = thread.nanoseconds.saturating_sub(ran) as f64 / 1e3;
            usage.waited_us += thread.waited.saturating_sub(waited) as f64 / 1e3;
            usage.total_us += micros;
            match usage.threads.iter_mut().find(|(name, _)| *name == thread.name) {
                Some((_, sum)) => *sum += micros,
                None => usage.threads.push((thread.name.clone(), micros)),
            }
        }
        let user = self.user_ticks.saturating_sub(before.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(before.system_ticks) as f64;
        usage.system_share = if user + system > 0.0 { system / (user + system) } else { 0.0 };
        usage
    }
}

/// Id, name, user and system ticks (proc(5)). The name stands in parentheses and may contain any of them.
fn parse_stat(stat: &str) -> Option<(u32, String, u64, u64)> {
    let (before, rest) = stat.split_once('(')?;
    let (name, fields) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Some((before.trim().parse().ok()?, name.to_owned(), fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?))
}

/// What all cores did up to one moment, in ticks: `/proc/stat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    total: u64,
    idle: u64,
    stolen: u64,
}

impl Machine {
    pub fn now() -> Machine {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<u64> =
            stat.lines().next().unwrap_or("").split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let at = |index: usize| fields.get(index).copied().unwrap_or(0);
        Machine { total: fields.iter().sum(), idle: at(3) + at(4), stolen: at(7) }
    }

    /// Of all cores' time since `before`: the part that other guests of the host took, and the part in use here.
    pub fn since(self, before: Machine) -> (f64, f64) {
        let total = self.total.saturating_sub(before.total).max(1) as f64;
        let (idle, stolen) = (self.idle.saturating_sub(before.idle) as f64, self.stolen.saturating_sub(before.stolen) as f64);
        (stolen / total, (total - idle - stolen) / total)
    }
}

/// VmRSS in KiB.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
}

/// Datagrams that found a buffer of the UDP sockets on `port` full, in the network namespace of a process.
pub fn socket_drops(pid: u32, port: u16) -> u64 {
    let wanted = format!(":{port:04X}");
    let sum = |file: &str| -> u64 {
        let table = fs::read_to_string(file).unwrap_or_default();
        let local = |line: &&str| line.split_whitespace().nth(1).is_some_and(|address| address.ends_with(&wanted));
        let drops = |line: &str| line.split_whitespace().last().and_then(|drops| drops.parse::<u64>().ok());
        table.lines().skip(1).filter(local).filter_map(drops).sum()
    };
    sum(&format!("/proc/{pid}/net/udp")) + sum(&format!("/proc/{pid}/net/udp6"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 700 80 0 0 20 0";
        assert_eq!(parse_stat(stat), Some((12, "a (b) c".into(), 700, 80)));
    }

    #[test]
    fn this_process_uses_the_cpu() {
        let pid = std::process::id();
        let before = CpuTime::of(pid).expect("a process");
        let start = Instant::now();
        // On a busy machine, time that passes is not yet time that is used.
        loop {
            let usage = CpuTime::of(pid).expect("a process").since(&before);
            if usage.total_us > 1_000.0 {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{usage:?}");
        }
        assert!(resident_kib(pid).is_some_and(|kib| kib > 100));
    }
}
