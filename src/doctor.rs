//! `distributary doctor`: what this host offers the server, each line with a verdict and, where it is not ok, the fix.
//!
//! Nothing is changed; every check asks the kernel for the thing itself rather than for a version, where it can. What a stage of
//! `tuning/` can set is judged by the values of its throughput profile, and the fix names the stage.

use std::fmt::Write;
use std::fs;

use crate::io::numa::Nodes;
use crate::io::probe::{self, Resource, UdpOption};
use crate::io::socket::{RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES};
use crate::limits::{ARENA_SLOTS, SLOT_BYTES};

/// Open files that a full server may need: HTTP connections, above all.
const FILES_WANTED: u64 = 65_536;
/// Bytes of locked memory that io_uring and AF_XDP may need on kernels that count it.
const LOCKED_WANTED: u64 = 64 << 20;
/// Huge pages of 2 MiB under one worker's arena.
const ARENA_HUGE_PAGES: usize = (ARENA_SLOTS * SLOT_BYTES) >> 21;
/// Microseconds that a core may take to wake up; deeper sleep is seen in the latency of what comes after a pause.
const WAKE_UP_US_MAX: u64 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// The server runs, slower or for fewer.
    Degraded,
    /// Not there; what uses it is off.
    Missing,
}

struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    fix: String,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Ok, what, found: found.into(), fix: String::new() }
    }
    fn degraded(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Degraded, what, found: found.into(), fix: fix.into() }
    }
    fn missing(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Missing, what, found: found.into(), fix: fix.into() }
    }
}

/// All findings as text, a line each and a second one for the fix.
pub fn report() -> String {
    let mut findings = vec![kernel(), ring(), segmentation(), receive_offload(), xdp(), files(), locked()];
    findings.push(socket_buffer("receive buffer", "net.core.rmem_max", "/proc/sys/net/core/rmem_max", RECEIVE_BUFFER_BYTES));
    findings.push(socket_buffer("send buffer", "net.core.wmem_max", "/proc/sys/net/core/wmem_max", SEND_BUFFER_BYTES));
    findings.extend([busy_poll(), huge_pages(), cores(), numa(), isolated(), governor(), sleep_states()]);
    findings.extend(interfaces());
    findings.push(interrupts());
    findings.push(addresses());
    let mut text = String::new();
    for finding in &findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Degraded => "degraded",
            Verdict::Missing => "missing",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verdict:<9} {:<16} {}", finding.what, finding.found);
        if !finding.fix.is_empty() {
            let _ = writeln!(text, "{:<9} {:<16} → {}", "", "", finding.fix);
        }
    }
    text
}

/// The fix by a stage of `tuning/`.
fn tune(stage: &str) -> String {
    format!("tuning/tune apply {stage} --yes")
}

fn kernel() -> Finding {
    let Some(release) = probe::kernel_release() else {
        return Finding::degraded("kernel", "the kernel does not tell its release", "");
    };
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (6.., 1..) | (7.., _) => Finding::ok("kernel", release),
        (6, 0) | (5, 4..) => {
            Finding::degraded("kernel", release, "Linux 6.1 or newer has all of io_uring that the workers use: upgrade the kernel")
        }
        _ => Finding::degraded("kernel", release, "older than anything this was tried on: upgrade to Linux 6.1 or newer"),
    }
}

fn ring() -> Finding {
    let disabled = number("/proc/sys/kernel/io_uring_disabled");
    match probe::ring() {
        Ok(ring) if ring.missing.is_empty() && ring.deferred => {
            Finding::ok("io_uring", "all operations and modes that the workers use")
        }
        Ok(ring) if ring.missing.is_empty() => {
            Finding::degraded("io_uring", "all operations, but no DEFER_TASKRUN", "upgrade to Linux 6.1 or newer")
        }
        Ok(ring) => Finding::missing(
            "io_uring",
            format!("this kernel lacks {}", ring.missing.join(", ")),
            "upgrade to Linux 6.1 or newer; until then the workers use recvmmsg (--io mmsg)",
        ),
        Err(error) if disabled.is_some_and(|value| value > 0) => Finding::missing(
            "io_uring",
            format!("forbidden by kernel.io_uring_disabled = {}: {error}", disabled.unwrap_or(0)),
            "sysctl -w kernel.io_uring_disabled=0; until then the workers use recvmmsg",
        ),
        Err(error) => Finding::missing(
            "io_uring",
            format!("the kernel refuses it: {error}"),
            "in a container: let its seccomp profile allow io_uring_setup, io_uring_enter and io_uring_register; until then the \
             workers use recvmmsg",
        ),
    }
}

fn segmentation() -> Finding {
    match probe::udp_option(UdpOption::Segment) {
        Ok(()) => Finding::ok("UDP GSO", "trains of datagrams leave in one send"),
        Err(error) => Finding::missing(
            "UDP GSO",
            format!("the kernel refuses UDP_SEGMENT: {error}"),
            "upgrade to Linux 4.18 or newer: without it each datagram costs a send of its own, about six times the CPU",
        ),
    }
}

fn receive_offload() -> Finding {
    match probe::udp_option(UdpOption::Gro) {
        Ok(()) => Finding::ok("UDP GRO", "there, but publishers pace their datagrams: the workers do better without"),
        Err(error) => Finding::ok("UDP GRO", format!("the kernel refuses UDP_GRO ({error}), which the workers do without")),
    }
}

fn xdp() -> Finding {
    match probe::xdp_socket() {
        Ok(()) => Finding::ok("AF_XDP", "can be used: --io xdp:INTERFACE goes past the network stack (and the firewall)"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Finding::degraded(
            "AF_XDP",
            "there, but not for this user",
            "for --io xdp:INTERFACE, run as root or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON",
        ),
        Err(error) => Finding::missing("AF_XDP", error.to_string(), "for --io xdp:INTERFACE, use a kernel with CONFIG_XDP_SOCKETS"),
    }
}

fn files() -> Finding {
    let what = "open files";
    let Ok(limit) = probe::limit(Resource::OpenFiles) else {
        return Finding::degraded(what, "the kernel does not tell RLIMIT_NOFILE", "");
    };
    match limit.soft {
        Some(soft) if soft < FILES_WANTED => Finding::degraded(
            what,
            format!("RLIMIT_NOFILE is {soft}"),
            format!("{} for logins, {} for the service", tune("60-limits"), tune("70-systemd-unit")),
        ),
        soft => Finding::ok(what, format!("RLIMIT_NOFILE is {}", soft.map_or("unlimited".into(), |soft| soft.to_string()))),
    }
}

fn locked() -> Finding {
    let what = "locked memory";
    let Ok(limit) = probe::limit(Resource::LockedMemory) else {
        return Finding::degraded(what, "the kernel does not tell RLIMIT_MEMLOCK", "");
    };
    match limit.soft {
        Some(soft) if soft < LOCKED_WANTED => Finding::degraded(
            what,
            format!("RLIMIT_MEMLOCK is {} KiB", soft / 1024),
            format!(
                "{} for logins, {} for the service (kernels before 5.12 count io_uring's memory)",
                tune("60-limits"),
                tune("70-systemd-unit")
            ),
        ),
        soft => {
            let size = soft.map_or("unlimited".into(), |soft| format!("{} MiB", soft >> 20));
            Finding::ok(what, format!("RLIMIT_MEMLOCK is {size}"))
        }
    }
}

fn socket_buffer(what: &'static str, name: &str, path: &str, wanted: usize) -> Finding {
    match number(path) {
        Some(bytes) if bytes >= wanted as u64 => Finding::ok(what, format!("{name} = {bytes}")),
        Some(bytes) => Finding::degraded(
            what,
            format!("{name} = {bytes}, workers ask for {wanted}: bursts may be lost"),
            tune("20-socket-buffers"),
        ),
        None => Finding::degraded(what, format!("{name} cannot be read"), "look at it outside of this container"),
    }
}

fn cores() -> Finding {
    let usable = core_affinity::get_core_ids().map_or(0, |cores| cores.len());
    match usable {
        0 => Finding::degraded("cores", "this process cannot see its cores: workers are not pinned", ""),
        1 => Finding::degraded("cores", "1: the worker shares it with everything else", "two or more cores keep latency flat"),
        cores => Finding::ok("cores", format!("{cores}: {} for workers, one for the rest", cores - 1)),
    }
}

/// With several nodes it matters on which one a worker's memory and its NIC are.
fn numa() -> Finding {
    match Nodes::of_host().count() {
        0 | 1 => Finding::ok("NUMA", "one node: all memory is equally far"),
        nodes => Finding::ok(
            "NUMA",
            format!("{nodes} nodes: each worker's packets lie in its core's; choose media.cores on the NIC's (numa_node in sysfs)"),
        ),
    }
}

/// Off and on are both right, for throughput and for latency: either is told, neither is wrong.
fn busy_poll() -> Finding {
    match number("/proc/sys/net/core/busy_read") {
        Some(0) => Finding::ok(
            "busy poll",
            "net.core.busy_read = 0: off, as for throughput, but for media.busy_poll_us (stage 21-busy-poll)",
        ),
        Some(us) => Finding::ok("busy poll", format!("net.core.busy_read = {us} µs: latency for CPU (stage 21-busy-poll)")),
        None => Finding::missing("busy poll", "net.core.busy_read cannot be read", "use a kernel with CONFIG_NET_RX_BUSY_POLL"),
    }
}

fn huge_pages() -> Finding {
    let what = "huge pages";
    let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = |name: &str| number(&format!("{folder}/{name}")).unwrap_or(0);
    let (reserved, free) = (count("nr_hugepages"), count("free_hugepages"));
    let reserved = format!("{free} of {reserved} reserved ones are free, a worker takes {ARENA_HUGE_PAGES} if there are as many");
    let Ok(choices) = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return Finding::missing(what, "no transparent ones", "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
    };
    match bracketed(&choices) {
        Some(choice @ ("always" | "madvise")) => Finding::ok(what, format!("transparent ones: {choice}; {reserved}")),
        choice => Finding::degraded(
            what,
            format!("transparent ones: {}; {reserved}; else packets lie on pages of 4 KiB", choice.unwrap_or("unknown")),
            tune("50-huge-pages"),
        ),
    }
}

/// None isolated is right for throughput, and so no fault.
fn isolated() -> Finding {
    let what = "isolated cores";
    match fs::read_to_string("/sys/devices/system/cpu/isolated").as_deref().map(str::trim) {
        Ok("") => Finding::ok(what, "none; for the flattest latency: tuning/tune apply 40-isolated-cores --profile latency"),
        Ok(cores) => Finding::ok(what, format!("{cores}: the workers run there only if media.cores names them")),
        Err(_) => Finding::degraded(what, "the kernel does not tell", ""),
    }
}

/// Each CPU's folder in sysfs.
fn cpus() -> Vec<String> {
    let entries = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let numbered = |name: &String| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    names.filter(numbered).map(|name| format!("/sys/devices/system/cpu/{name}")).collect()
}

fn governor() -> Finding {
    let governors = cpus().into_iter().filter_map(|cpu| fs::read_to_string(format!("{cpu}/cpufreq/scaling_governor")).ok());
    let governors: Vec<String> = governors.map(|governor| governor.trim().to_owned()).collect();
    let slow = governors.iter().filter(|governor| *governor != "performance").count();
    match (governors.len(), governors.iter().find(|governor| *governor != "performance")) {
        (0, _) => Finding::ok("governor", "this host has no say in the frequency of its cores"),
        (_, None) => Finding::ok("governor", "performance on all cores"),
        (all, Some(governor)) => Finding::degraded(
            "governor",
            format!("{governor} on {slow} of {all} cores: a worker that sleeps between bursts is slowed down"),
            tune("30-governor"),
        ),
    }
}

fn sleep_states() -> Finding {
    let mut deepest = None;
    for cpu in cpus() {
        for state in fs::read_dir(format!("{cpu}/cpuidle")).into_iter().flatten().flatten() {
            let read = |name: &str| number(&state.path().join(name).to_string_lossy());
            if read("disable") == Some(0) {
                deepest = deepest.max(read("latency"));
            }
        }
    }
    match deepest {
        None => Finding::ok("sleep states", "this host has no say in the sleep of its cores"),
        Some(us) if us <= WAKE_UP_US_MAX => Finding::ok("sleep states", format!("a core wakes up within {us} µs")),
        Some(us) => {
            Finding::degraded("sleep states", format!("a core may take {us} µs to wake up for a datagram"), tune("31-c-states"))
        }
    }
}

/// Receive queues of each real interface: with fewer than cores, some cores do no network work.
fn interfaces() -> Vec<Finding> {
    let cores = core_affinity::get_core_ids().map_or(1, |cores| cores.len());
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| fs::exists(format!("/sys/class/net/{name}/device")).unwrap_or(false))
        .collect();
    names.sort();
    if names.is_empty() {
        return vec![Finding::degraded("NIC queues", "no physical interface is visible from here", "")];
    }
    let finding = |name: String| {
        let queues = |kind: &str| {
            let entries = fs::read_dir(format!("/sys/class/net/{name}/queues")).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count()
        };
        let (receive, send) = (queues("rx-"), queues("tx-"));
        let found = format!("{name}: {receive} receive, {send} send");
        match receive >= cores.saturating_sub(1) {
            true => Finding::ok("NIC queues", found),
            false => Finding::degraded(
                "NIC queues",
                found,
                format!(
                    "{} --interface {name}, if the card has as many; else {} --interface {name}",
                    tune("10-nic-queues"),
                    tune("12-receive-steering")
                ),
            ),
        }
    };
    names.into_iter().map(finding).collect()
}

/// Whether each interrupt of the default route's card is bound to one core.
fn interrupts() -> Finding {
    let what = "NIC interrupts";
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let Some(name) = default_interface(&routes) else {
        return Finding::ok(what, "no default route over IPv4: tuning/tune check 11-nic-interrupts --interface NAME tells more");
    };
    // A virtio card's interrupts belong to the PCI device above it.
    let folders = ["device/msi_irqs", "device/../msi_irqs"].map(|folder| format!("/sys/class/net/{name}/{folder}"));
    let entries = folders.iter().find_map(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let cores = entries.filter_map(|entry| {
        let number = entry.file_name().into_string().ok()?;
        fs::read_to_string(format!("/proc/irq/{number}/smp_affinity_list")).ok()
    });
    let cores: Vec<String> = cores.collect();
    let loose = cores.iter().filter(|cores| cores.trim().parse::<u32>().is_err()).count();
    match (cores.len(), loose) {
        (0, _) => Finding::ok(what, format!("{name} has none of its own")),
        (all, 0) => {
            Finding::ok(what, format!("{name}: each of {all} is bound to a core (media.steer = \"cpu\" makes use of that)"))
        }
        (all, loose) => Finding::degraded(
            what,
            format!("{name}: {loose} of {all} may go to any core, and several to the same one"),
            tune("11-nic-interrupts"),
        ),
    }
}

/// Interface of the best default route in the text of `/proc/net/route`.
fn default_interface(routes: &str) -> Option<&str> {
    let default = routes.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        match columns[..] {
            [name, "00000000", _, flags, _, _, metric, "00000000", ..] => {
                let up = u32::from_str_radix(flags, 16).ok()? & 1 == 1; // RTF_UP
                up.then_some((metric.parse::<u32>().ok()?, name))
            }
            _ => None,
        }
    });
    default.min_by_key(|(metric, _)| *metric).map(|(_, name)| name)
}

/// The current choice in a text like `always [madvise] never`.
fn bracketed(choices: &str) -> Option<&str> {
    choices.split_once('[')?.1.split_once(']').map(|(choice, _)| choice)
}

fn addresses() -> Finding {
    let addresses: Vec<String> = probe::local_addresses().iter().map(ToString::to_string).collect();
    match addresses.is_empty() {
        false => Finding::ok("addresses", addresses.join(", ")),
        true => Finding::degraded("addresses", "loopback alone: only this machine can connect", "configure a network interface"),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_verdict() {
        let report = report();
        for what in ["kernel", "io_uring", "UDP GSO", "AF_XDP", "open files", "net.core.rmem_max", "cores", "NIC queues"] {
            assert!(report.contains(what), "{report}");
        }
        for what in ["busy poll", "huge pages", "NUMA", "isolated cores", "governor", "sleep states", "NIC interrupts"] {
            assert!(report.contains(what), "{report}");
        }
        for line in report.lines().filter(|line| !line.trim_start().starts_with('→')) {
            assert!(["ok", "degraded", "missing"].iter().any(|verdict| line.starts_with(verdict)), "{line}");
        }
    }
    #[test]
    fn the_best_default_route_is_found() {
        let heading = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let routes = "eth1\t00000000\t010200C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                      down\t00000000\t010200C0\t0002\t0\t0\t1\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth2\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_interface(&format!("{heading}{routes}")), Some("eth0"));
        for broken in ["", heading, "eth0", "eth0 00000000 x zzzz 0 0 0 00000000", "eth0 00000000 x 0003 0 0 -1 00000000"] {
            assert_eq!(default_interface(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_choice_is_the_one_in_brackets() {
        assert_eq!(bracketed("always [madvise] never\n"), Some("madvise"));
        for broken in ["", "always", "[", "]always[", "[never"] {
            assert_eq!(bracketed(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_stages_that_are_named_exist() {
        let source = include_str!("doctor.rs");
        let named: Vec<&str> =
            source.split("tune(\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(name, _)| name).collect();
        assert!(named.contains(&"20-socket-buffers"));
        for name in named.into_iter().filter(|name| name.starts_with(|first: char| first.is_ascii_digit())) {
            let file = format!("{}/tuning/stages/{name}.sh", env!("CARGO_MANIFEST_DIR"));
            assert!(fs::exists(&file).unwrap_or(false), "{file}");
        }
    }
}
