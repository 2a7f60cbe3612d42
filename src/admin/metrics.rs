//! `GET /metrics`: the workers' tables, the director's gauges and the process, in Prometheus' text format 0.0.4.
//!
//! The data plane declares its counters in `metrics.rs`; this file only writes them down, so a new counter shows up by itself.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::signal::api::Gauges;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// USER_HZ: what `/proc/self/stat` counts CPU time in, 100 on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// The table of one thread, with the thread's name as its `worker` label.
pub type Table = (String, Arc<WorkerMetrics>);

/// All metrics.
pub fn render(workers: &[Table], gauges: &Gauges, started: SystemTime) -> String {
    let mut text = Text(String::with_capacity(16 * 1024));
    text.family("distributary_build_info", "gauge", "Version and commit, as labels.");
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("DISTRIBUTARY_COMMIT"));
    text.sample("distributary_build_info", &[("version", version), ("commit", commit)], 1.0);
    director(&mut text, gauges);
    let name = "distributary_worker_busy_ratio";
    text.family(name, "gauge", "Share of its core that a worker uses, averaged over about a second.");
    for (label, worker) in workers {
        text.sample(name, &[("worker", label)], worker.busy() as f64 / 1000.0);
    }
    for &counter in Counter::ALL {
        counter_of_workers(&mut text, counter, workers);
    }
    let name = "distributary_dropped_packets_total";
    text.family(name, "counter", "Packets and datagrams that went no further, by reason.");
    for (label, worker) in workers {
        for &reason in DropReason::ALL {
            text.sample(name, &[("worker", label), ("reason", reason.label())], worker.dropped(reason) as f64);
        }
    }
    process(&mut text, started);
    text.0
}

fn director(text: &mut Text, gauges: &Gauges) {
    let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as f64;
    text.one("distributary_rooms", "gauge", "Rooms with at least one session.", load(&gauges.rooms));
    text.family("distributary_sessions", "gauge", "Sessions, by what they are for.");
    text.sample("distributary_sessions", &[("purpose", "publish")], load(&gauges.publishers));
    text.sample("distributary_sessions", &[("purpose", "watch")], load(&gauges.viewers));
    text.one("distributary_connected_sessions", "gauge", "Sessions whose ICE and DTLS are done.", load(&gauges.connected));
    text.one("distributary_dtls_handshakes", "gauge", "DTLS handshakes in flight.", load(&gauges.handshakes));
    text.one("distributary_joins_total", "counter", "Sessions made.", load(&gauges.joins));
    text.one("distributary_refused_joins_total", "counter", "Joins refused by the director.", load(&gauges.refusals));
    text.one("distributary_sent_webhooks_total", "counter", "Webhooks that were taken.", load(&gauges.webhooks_sent));
    text.one(
        "distributary_lost_webhooks_total",
        "counter",
        "Webhooks given up: not taken, or too many.",
        load(&gauges.webhooks_lost),
    );
    let ready = f64::from(u8::from(gauges.ready.load(Ordering::Relaxed)));
    text.one("distributary_ready", "gauge", "1 while new sessions are taken.", ready);
}

fn counter_of_workers(text: &mut Text, counter: Counter, workers: &[Table]) {
    let name = format!("distributary_{}_total", counter.label());
    text.family(&name, "counter", counter.help());
    for (label, worker) in workers {
        text.sample(&name, &[("worker", label)], worker.get(counter) as f64);
    }
}

/// What every Prometheus client library tells of its process. A value that `/proc` does not give is left out.
fn process(text: &mut Text, started: SystemTime) {
    let start = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    text.one("process_start_time_seconds", "gauge", "Start of the process as Unix time.", start);
    if let Some(seconds) = cpu_seconds() {
        text.one("process_cpu_seconds_total", "counter", "User and system CPU time.", seconds);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    if let Some(kibibytes) = field("VmRSS") {
        text.one("process_resident_memory_bytes", "gauge", "Resident memory.", kibibytes * 1024.0);
    }
    if let Some(kibibytes) = field("VmSize") {
        text.one("process_virtual_memory_bytes", "gauge", "Virtual memory.", kibibytes * 1024.0);
    }
    if let Some(threads) = field("Threads") {
        text.one("process_threads", "gauge", "Threads.", threads);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        text.one("process_open_fds", "gauge", "Open file descriptors.", entries.count() as f64);
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may have spaces. After it comes field 3; utime and stime are 14 and 15 (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Writes the format. Writing to a string cannot fail.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', " ");
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn sample() -> String {
        let workers = ["0", "1"].map(|label| (label.to_owned(), Arc::new(WorkerMetrics::default())));
        workers[1].1.add(Counter::Turns, 25);
        workers[1].1.count_drop(DropReason::SrtpReplay);
        let gauges = Gauges::default();
        workers[1].1.set_busy(250);
        gauges.viewers.store(7, Ordering::Relaxed);
        render(&workers, &gauges, SystemTime::now())
    }

    #[test]
    fn every_counter_and_reason_is_written() {
        let text = sample();
        assert!(text.contains("\ndistributary_turns_total{worker=\"1\"} 25\n"), "{text}");
        assert!(text.contains("\ndistributary_dropped_packets_total{worker=\"1\",reason=\"srtp_replay\"} 1\n"));
        assert!(text.contains("\ndistributary_worker_busy_ratio{worker=\"1\"} 0.25\n"), "{text}");
        assert!(text.contains("\ndistributary_sessions{purpose=\"watch\"} 7\n"));
        assert!(text.contains("\nprocess_cpu_seconds_total "));
        for reason in DropReason::ALL {
            assert!(text.contains(&format!("reason=\"{}\"", reason.label())));
        }
        assert_eq!(text.matches(" counter\n").count(), Counter::ALL.len() + 6);
    }

    #[test]
    fn no_family_comes_twice_and_every_sample_follows_its_own() {
        let text = sample();
        let (mut seen, mut current) = (HashSet::new(), "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(seen.insert(current), "{current} comes twice");
            } else if !line.starts_with('#') {
                assert_eq!(line.split(['{', ' ']).next(), Some(current));
            }
        }
    }
}
