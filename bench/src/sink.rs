//! A network whose far end frees packets: what a server costs when nobody's receiving is billed to it.
//!
//! On loopback, and over a veth pair, the kernel delivers a packet to its receiver inside the sender's system call. A network card
//! does not: it takes the packet, a train of them whole if it can cut them itself (UDP_SEGMENT), and that is all. The nearest
//! thing without one is an `ifb` device, which counts what it is given and frees it.
//!
//! ```text
//!   namespace of the server                            here
//!   198.18.n.2  ──── veth ──────────────────────────  198.18.n.1      publisher, viewers of the sample: all packets, both ways
//!               ◄─── veth ──────────────────────────  198.18.n+1.1    the other viewers: checks and reports
//!               ───► ifb: counted and freed                             what they are sent, once all have joined
//! ```
//!
//! While viewers join everything goes through the veth pair, so each has its handshake and its first media. Then the route to those
//! that are not in the sample is laid to the `ifb`. Their checks for consent and receiver reports go on, and are answered.

use std::net::Ipv4Addr;
use std::process::Command;

const VETH: &str = "veth-server";
const IFB: &str = "ifb-sink";

/// The network; it is taken away when this is dropped.
pub struct Sink {
    namespace: String,
    /// Our end of the veth pair.
    here: String,
    subnet: u8,
}

impl Sink {
    pub fn new() -> Result<Sink, String> {
        let pid = std::process::id();
        // Of the range for benchmarks (RFC 2544 appendix C.2.2); two subnets for each.
        let sink = Sink { namespace: format!("loadgen-{pid}"), here: format!("lg{pid}"), subnet: (pid % 127 * 2) as u8 };
        ip(&["netns", "add", &sink.namespace])?;
        let (sampled, others, server) = (sink.sampled(), sink.others(), sink.server());
        ip(&["link", "add", &sink.here, "type", "veth", "peer", "name", VETH, "netns", &sink.namespace])?;
        ip(&["addr", "add", &format!("{sampled}/24"), "dev", &sink.here])?;
        ip(&["addr", "add", &format!("{others}/24"), "dev", &sink.here])?;
        ip(&["link", "set", &sink.here, "up"])?;
        sink.inside(&["link", "set", "lo", "up"])?;
        sink.inside(&["link", "add", IFB, "type", "ifb"]).map_err(|error| format!("{error} (the kernel needs CONFIG_IFB)"))?;
        sink.inside(&["addr", "add", &format!("{server}/24"), "dev", VETH])?;
        sink.inside(&["link", "set", VETH, "up"])?;
        sink.inside(&["link", "set", IFB, "up"])?;
        sink.inside(&["route", "add", &sink.others_subnet(), "via", &sampled.to_string()])?;
        // Who sends frames itself (AF_XDP) needs to know whom to; the device has nobody to ask.
        let neighbour = ["neigh", "replace", &others.to_string(), "lladdr", "02:00:00:00:00:01", "dev", IFB, "nud", "permanent"];
        sink.inside(&neighbour)?;
        // Reports come in where no answer goes out any more.
        for device in ["all", VETH] {
            let file = format!("echo 0 > /proc/sys/net/ipv4/conf/{device}/rp_filter");
            command("ip", &["netns", "exec", &sink.namespace, "sh", "-c", &file])?;
        }
        Ok(sink)
    }

    /// Where viewers of the sample, and the publisher, have their sockets.
    pub fn sampled(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.subnet, 1)
    }

    /// Where the other viewers have theirs.
    pub fn others(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.subnet + 1, 1)
    }

    pub fn server(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.subnet, 2)
    }

    fn others_subnet(&self) -> String {
        format!("198.18.{}.0/24", self.subnet + 1)
    }

    /// What to start a program in the server's namespace with.
    pub fn enter(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.namespace]
    }

    /// From now on, what the viewers outside the sample are sent is freed.
    pub fn open(&self) -> Result<(), String> {
        self.inside(&["route", "replace", &self.others_subnet(), "dev", IFB])
    }

    /// Packets that were freed; a train is one.
    pub fn freed(&self) -> Option<u64> {
        let stats = command("ip", &["-n", &self.namespace, "-s", "-j", "link", "show", IFB]).ok()?;
        let stats: serde_json::Value = serde_json::from_str(&stats).ok()?;
        stats.pointer("/0/stats64/rx/packets")?.as_u64()
    }

    fn inside(&self, arguments: &[&str]) -> Result<(), String> {
        ip(&[&["-n", &self.namespace], arguments].concat())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // With the namespace goes its end of the veth pair, and with that ours.
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    command("ip", arguments).map(drop)
}

fn command(program: &str, arguments: &[&str]) -> Result<String, String> {
    let what = || format!("--sink: {program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{}: {error} (it is in the package iproute2)", what()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {} (it takes root)", what(), errors.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
