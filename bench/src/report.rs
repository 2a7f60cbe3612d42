//! The one line of JSON. Times are in the unit of their names; `null` is what could not be known.

use serde::Serialize;

use crate::histogram::Histogram;
use crate::process::CpuUse;

#[derive(Debug, Serialize)]
pub struct Report {
    pub viewers: u32,
    pub rooms: u32,
    pub seconds: u32,
    pub workers: Option<u32>,
    pub io: Option<String>,
    pub commit: Option<String>,
    pub srtp_profile: Option<String>,
    pub bitrate: u64,
    pub audio: &'static str,
    pub pacing: f64,
    /// Publisher's packets times viewers.
    pub packets_expected: u64,
    pub packets_received: u64,
    pub packets_per_second: f64,
    pub bits_per_second: f64,
    /// Expected, never received, and not dropped at the viewers' own sockets.
    pub lost: u64,
    /// Dropped at the viewers' sockets, whose buffers were full: the generator's fault.
    pub lost_by_generator: u64,
    /// Of `lost`, dropped at the server's socket because it did not read in time.
    pub server_socket_drops: Option<u64>,
    pub duplicates: u64,
    pub reordered: u64,
    /// Probes among them, and unlike the others since the viewers joined.
    pub retransmissions: u64,
    pub recovered: u64,
    pub ssrc_changes: u64,
    /// Packets of the sample, decrypted and compared, and those that were not as sent.
    pub packets_intact: u64,
    pub packets_damaged: u64,
    pub viewers_sampled: u64,
    /// Server's CPU time for each packet that a viewer received, or with a sink that was forwarded: all threads, and the workers alone.
    pub cpu_us_per_forwarded_packet: Option<f64>,
    pub worker_cpu_us_per_forwarded_packet: Option<f64>,
    pub cpu_system_share: Option<f64>,
    pub cpu_cores: Option<f64>,
    /// Cores' worth of time that the server was ready to run and did not, because of other processes.
    pub cpu_starved_cores: Option<f64>,
    /// Length of the server's trains, all its datagrams counted; as its metrics have it.
    pub datagrams_per_send: Option<f64>,
    pub cpu_us_by_thread: Option<Vec<(String, f64)>>,
    /// From the publisher's last packet to the last that a viewer received: large if the server could not keep up.
    pub backlog_ms: f64,
    /// From the publisher's send to the viewer's socket.
    pub latency_us: Latency,
    /// From the publisher's send to the generator's read of it, which includes waiting for the generator.
    pub latency_read_us: Latency,
    pub idle_rss_kib: Option<u64>,
    pub rss_kib: Option<u64>,
    /// Above the idle server, and above the one with its publishers.
    pub rss_kib_per_viewer: Option<f64>,
    pub rss_kib_per_viewer_beyond_publisher: Option<f64>,
    /// From the first POST to the last viewer's first packet.
    pub joins_per_second: f64,
    pub join_to_first_packet_ms: Spread,
    pub join_to_answer_ms: Spread,
    /// Viewers whose first video packet did not begin a key frame.
    pub began_without_key_frame: u64,
    pub storm: Option<StormReport>,
    pub sink: Option<SinkReport>,
    pub machine: MachineReport,
    pub publisher: PublisherReport,
    pub generator: GeneratorReport,
}

/// Viewers who joined during the measurement.
#[derive(Debug, Serialize)]
pub struct StormReport {
    pub viewers: u32,
    /// How many asked in a second; 0: all at once.
    pub rate: u32,
    /// From the first one's request to the last one's first packet.
    pub seconds: f64,
    pub to_answer_ms: Spread,
    pub to_connected_ms: Spread,
    pub to_first_packet_ms: Spread,
    /// What the generator's side of the handshakes took.
    pub generator_cores: f64,
    pub generator_limited: bool,
}

/// With a sink: what the server says it forwarded, and what the device freed.
#[derive(Debug, Serialize)]
pub struct SinkReport {
    pub forwarded: u64,
    /// Of the publishers' packets times viewers.
    pub forwarded_of_expected: f64,
    /// Datagrams that the kernel refused.
    pub refused: u64,
    /// The device's count, a train as one; and the server's, those to the sample and its answers among them.
    pub sends_freed: u64,
    pub sends: u64,
}

/// Whether the machine was quiet. Latencies mean little if it was not.
#[derive(Debug, Serialize)]
pub struct MachineReport {
    pub cores: usize,
    /// Cores' worth of time that the host gave to others while something here wanted to run.
    pub stolen_cores: f64,
    /// Cores' worth of time that processes other than the server and the generator took.
    pub other_cores: Option<f64>,
    pub quiet: bool,
}

#[derive(Debug, Serialize)]
pub struct PublisherReport {
    pub packets: u64,
    pub key_frames: u64,
    pub key_frame_requests: u64,
    pub nacked: u64,
    pub retransmitted: u64,
    pub send_errors: u64,
    /// How long after its time a packet left, at worst.
    pub late_us_max: u64,
}

#[derive(Debug, Serialize)]
pub struct GeneratorReport {
    /// Of one core, for the busiest receiving thread.
    pub receiver_load: f64,
    pub cpu_us_by_thread: Vec<(String, f64)>,
    pub gro: bool,
    pub spin: bool,
    pub awake: bool,
    /// The generator was what limited, and why.
    pub bottleneck: bool,
    pub bottleneck_reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub samples: u64,
}

impl Latency {
    pub fn of(histogram: &Histogram) -> Latency {
        let at = |fraction| tenths(histogram.quantile(fraction) as f64 / 1e3);
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: tenths(histogram.max() as f64 / 1e3),
            samples: histogram.len(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p95: f64,
    pub max: f64,
}

impl Spread {
    /// Of nanoseconds, in milliseconds.
    pub fn of(mut nanoseconds: Vec<u64>) -> Spread {
        nanoseconds.sort_unstable();
        let at = |fraction: f64| {
            let index = (nanoseconds.len() as f64 * fraction).ceil() as usize;
            tenths(nanoseconds.get(index.saturating_sub(1)).copied().unwrap_or(0) as f64 / 1e6)
        };
        Spread { p50: at(0.5), p95: at(0.95), max: at(1.0) }
    }
}

/// CPU time of the threads whose names begin so.
pub fn threads_us(usage: &CpuUse, prefix: &str) -> f64 {
    usage.threads.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, micros)| micros).sum()
}

pub fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

pub fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
