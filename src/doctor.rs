//! `distributary doctor`: what this host offers the server, each line with a verdict and, where it is not ok, the fix.
//!
//! Nothing is changed; every check asks the kernel for the thing itself rather than for a version, where it can.

use std::fmt::Write;
use std::fs;

use crate::io::probe::{self, Resource, UdpOption};

/// Open files that a full server may need: HTTP connections, above all.
const FILES_WANTED: u64 = 65_536;
/// Bytes of socket buffer that a worker asks for: 20 ms of 10 Gb/s, rounded up.
const SOCKET_BUFFER_WANTED: u64 = 26_214_400;
/// Bytes of locked memory that io_uring and AF_XDP may need on kernels that count it.
const LOCKED_WANTED: u64 = 64 << 20;

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
    findings.push(socket_buffer("receive buffer", "net.core.rmem_max", "/proc/sys/net/core/rmem_max"));
    findings.push(socket_buffer("send buffer", "net.core.wmem_max", "/proc/sys/net/core/wmem_max"));
    findings.push(cores());
    findings.extend(interfaces());
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
        Ok(()) => Finding::ok("UDP GRO", "runs of datagrams arrive in one receive"),
        Err(error) => Finding::missing("UDP GRO", format!("the kernel refuses UDP_GRO: {error}"), "upgrade to Linux 5.0 or newer"),
    }
}

fn xdp() -> Finding {
    match probe::xdp_socket() {
        Ok(()) => Finding::ok("AF_XDP", "sockets can be made (nothing uses them yet)"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Finding::degraded(
            "AF_XDP",
            "there, but not for this user",
            "give the binary CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF (nothing uses AF_XDP yet)",
        ),
        Err(error) => {
            Finding::missing("AF_XDP", error.to_string(), "use a kernel with CONFIG_XDP_SOCKETS (nothing uses AF_XDP yet)")
        }
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
            format!("ulimit -n {FILES_WANTED}, or LimitNOFILE={FILES_WANTED} in the systemd unit"),
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
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit (kernels before 5.12 count io_uring's memory)",
        ),
        soft => {
            let size = soft.map_or("unlimited".into(), |soft| format!("{} MiB", soft >> 20));
            Finding::ok(what, format!("RLIMIT_MEMLOCK is {size}"))
        }
    }
}

fn socket_buffer(what: &'static str, name: &str, path: &str) -> Finding {
    match number(path) {
        Some(bytes) if bytes >= SOCKET_BUFFER_WANTED => Finding::ok(what, format!("{name} = {bytes}")),
        Some(bytes) => Finding::degraded(
            what,
            format!("{name} = {bytes}: bursts may be lost"),
            format!("sysctl -w {name}={SOCKET_BUFFER_WANTED}, and the same in /etc/sysctl.d/distributary.conf"),
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
                    "ethtool -L {name} combined {cores}, if the card has as many; else spread by RPS in /sys/class/net/{name}/queues"
                ),
            ),
        }
    };
    names.into_iter().map(finding).collect()
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
    #[test]
    fn every_line_has_a_verdict() {
        let report = super::report();
        for what in ["kernel", "io_uring", "UDP GSO", "AF_XDP", "open files", "net.core.rmem_max", "cores", "NIC queues"] {
            assert!(report.contains(what), "{report}");
        }
        for line in report.lines().filter(|line| !line.trim_start().starts_with('→')) {
            assert!(["ok", "degraded", "missing"].iter().any(|verdict| line.starts_with(verdict)), "{line}");
        }
    }
}
