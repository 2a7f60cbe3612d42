//! The command line. A mistake ends the process with a message and code 2.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::http::Url;
use crate::members;

/// Loads a WHIP and WHEP server with publishers and many viewers, and measures it.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// One publisher for each room, N viewers, S seconds. Prints one line of JSON; progress goes to stderr.
    Run(Options),
    /// Rooms whose members all publish and are sent what the others do, by LiveKit's signalling. Prints one line of JSON too.
    Members(members::Options),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Audio {
    /// Video and audio
    On,
    /// Video alone
    Off,
    /// Audio alone
    Only,
}

/// What viewers tell of their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathFeedback {
    /// Nothing, and nothing is offered
    Off,
    /// Transport-wide feedback every 60 ms, as browsers send it
    TransportCc,
}

/// The offer's DTLS role of the publisher; viewers always offer both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Setup {
    Actpass,
    Active,
    Passive,
}

impl Setup {
    pub fn name(self) -> &'static str {
        match self {
            Setup::Actpass => "actpass",
            Setup::Active => "active",
            Setup::Passive => "passive",
        }
    }
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  loadgen run --server-binary target/release/distributary --viewers 200 --seconds 60
  loadgen run --url http://127.0.0.1:7880 --server-pid 1234 --viewers 50 --seconds 10

A started server is pinned to core 0 (cores 0 to N-1 with N workers), all its threads, and the generator to the others. On
loopback the kernel bills the receiving side of every packet to the sender: figures from loopback are not a server's capacity.
Exit codes: 0 with a report, whatever it says; 1 when there is none; 2 for a mistake in the command line.")]
pub struct Options {
    /// Server to start: the distributary program. Ports are chosen by the kernel
    #[arg(long, value_name = "FILE", required_unless_present_any = ["url", "whip_url"], conflicts_with_all = ["url", "server_pid", "whip_url", "whep_url"])]
    pub server_binary: Option<PathBuf>,
    /// Server that runs already
    #[arg(long, value_parser = Url::parse)]
    pub url: Option<Url>,
    /// WHIP endpoint, where it is not /whip/ROOM below --url
    #[arg(long, value_parser = Url::parse, requires = "whep_url")]
    pub whip_url: Option<Url>,
    /// WHEP endpoint, where it is not /whep/ROOM below --url
    #[arg(long, value_parser = Url::parse, requires = "whip_url")]
    pub whep_url: Option<Url>,
    /// Process of a server that runs already, for its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Bearer token for WHIP and WHEP
    #[arg(long)]
    pub token: Option<String>,
    /// Room to publish to and to watch
    #[arg(long, default_value = "load")]
    pub room: String,
    /// Rooms, each with a publisher; --room is the beginning of their names. The viewers are spread over them, one by one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rooms: u32,
    /// Viewers
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub viewers: u32,
    /// Seconds to measure, after all viewers have joined
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Seconds between the last join and the measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub settle: u32,
    /// Video bits per second
    #[arg(long, default_value_t = 2_500_000, value_parser = clap::value_parser!(u64).range(100_000..=100_000_000))]
    pub bitrate: u64,
    /// Whether there is audio, 50 packets of 120 bytes a second
    #[arg(long, value_enum, default_value_t = Audio::On, num_args = 0..=1, default_missing_value = "on")]
    pub audio: Audio,
    /// How much faster than --bitrate a frame's packets leave: 1 spreads them over the whole frame interval, 2.5 is what
    /// browsers do
    #[arg(long, default_value_t = 2.5)]
    pub pacing: f64,
    /// The publisher's DTLS role in its offer
    #[arg(long, value_enum, default_value_t = Setup::Actpass)]
    pub setup: Setup,
    /// Worker threads of a started server
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// I/O backend of a started server: auto, uring, mmsg or xdp:INTERFACE. With --sink the interfaces are veth-server and ifb-sink
    #[arg(long, default_value = "auto", value_parser = io_backend)]
    pub io: String,
    /// Cores for a started server, like 0,1. Default: as many as workers, from 0
    #[arg(long, value_delimiter = ',', value_name = "CORES")]
    pub server_cores: Vec<usize>,
    /// Cores for the generator. Default: all others
    #[arg(long, value_delimiter = ',', value_name = "CORES")]
    pub cores: Vec<usize>,
    /// Further argument for a started server; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub server_argument: Vec<String>,
    /// Of so many viewers, one decrypts and checks every packet, and measures latency
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// Viewers ask for lost packets again. Without it every loss stays visible
    #[arg(long)]
    pub nack: bool,
    /// What viewers offer and tell of their paths, for servers that estimate bandwidth and pace
    #[arg(long, value_enum, default_value_t = PathFeedback::Off)]
    pub feedback: PathFeedback,
    /// Joins under way at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub join_concurrency: u32,
    /// Seconds in which all viewers must have joined
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub join_seconds_max: u32,
    /// Threads that receive for the viewers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub receivers: u32,
    /// Receive each datagram for itself, without UDP_GRO
    #[arg(long)]
    pub no_gro: bool,
    /// Start the server in a network namespace, and let a device count and free what viewers outside the sample are sent, as a
    /// network card would: no receiver is billed to the server. Takes root, iproute2 and the kernel's ifb
    #[arg(long)]
    pub sink: bool,
    /// Viewers that join during the measurement; the others' losses are reported, and how long these take
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub storm: u32,
    /// How many of them ask to join in a second, whether or not the server keeps up. 0: all at once
    #[arg(long, default_value_t = 0)]
    pub storm_rate: u32,
    /// Never sleep while receiving: the server is not billed for waking the generator
    #[arg(long)]
    pub spin: bool,
    /// Keep all cores from sleeping, by threads that everything else goes before: on a virtual machine a core that slept may take
    /// milliseconds to wake
    #[arg(long)]
    pub awake: bool,
}

/// Parses the process's arguments.
pub fn from_environment() -> Action {
    let cli = Cli::parse();
    let checked = match &cli.action {
        Action::Run(options) => check(options),
        Action::Members(options) => options.check(),
    };
    if let Err(message) = checked {
        Cli::command().error(ErrorKind::ValueValidation, message).exit();
    }
    cli.action
}

/// Whether the server was built with it, and has that interface, it says itself.
pub fn io_backend(text: &str) -> Result<String, String> {
    let known = match text.split_once(':') {
        Some((kind, interface)) => kind == "xdp" && !interface.is_empty(),
        None => ["auto", "uring", "mmsg"].contains(&text),
    };
    if known { Ok(text.to_owned()) } else { Err("there are: auto, uring, mmsg, xdp:INTERFACE".into()) }
}

/// What the types of the options do not say.
fn check(options: &Options) -> Result<(), String> {
    if !(1.0..=100.0).contains(&options.pacing) {
        return Err(format!("--pacing {} must be from 1 to 100", options.pacing));
    }
    check_binary(options.server_binary.as_deref())?;
    if options.server_binary.is_none() && (options.io != "auto" || options.workers != 1 || !options.server_cores.is_empty()) {
        return Err("--io, --workers and --server-cores are for a server started with --server-binary".into());
    }
    if options.rooms > 1 && options.whip_url.is_some() {
        return Err("--rooms is for servers with /whip/ROOM and /whep/ROOM, not for --whip-url".into());
    }
    if options.sink && options.server_binary.is_none() {
        return Err("--sink is for a server started with --server-binary".into());
    }
    if options.sink && options.storm > 0 {
        return Err("--storm and --sink do not go together: who joins late would get nothing".into());
    }
    if options.room.is_empty() || options.room.chars().any(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
        return Err(format!("--room {:?} may have letters, digits, '-', '_' and '.'", options.room));
    }
    check_cores(options.server_cores.iter().chain(&options.cores))
}

pub fn check_binary(binary: Option<&Path>) -> Result<(), String> {
    match binary.filter(|binary| !binary.is_file()) {
        Some(binary) => {
            Err(format!("--server-binary {}: there is no such file; build it with: cargo build --release", binary.display()))
        }
        None => Ok(()),
    }
}

pub fn check_cores<'a>(mut wanted: impl Iterator<Item = &'a usize>) -> Result<(), String> {
    let cores = crate::sys::allowed_cores();
    match wanted.find(|core| !cores.contains(core)) {
        Some(core) => Err(format!("core {core}: this process may use {cores:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn audio_is_a_flag_and_an_option() {
        let audio = |arguments: &[&str]| {
            let all = ["loadgen", "run", "--url", "http://127.0.0.1:1"].iter().chain(arguments);
            match Cli::try_parse_from(all).expect("valid").action {
                Action::Run(options) => options.audio,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(audio(&[]), Audio::On);
        assert_eq!(audio(&["--audio"]), Audio::On);
        assert_eq!(audio(&["--audio", "only"]), Audio::Only);
        assert_eq!(audio(&["--audio", "off", "--nack"]), Audio::Off);
    }

    #[test]
    fn mistakes_are_refused() {
        let refused = |arguments: &[&str]| Cli::try_parse_from(["loadgen", "run"].iter().chain(arguments)).is_err();
        assert!(refused(&[]));
        assert!(refused(&["--url", "ftp://x"]));
        assert!(refused(&["--url", "http://127.0.0.1:1", "--viewers", "0"]));
        assert!(refused(&["--url", "http://127.0.0.1:1", "--server-binary", "/bin/true"]));
        assert!(refused(&["--whip-url", "http://127.0.0.1:1/a"]));
        for io in ["epoll", "xdp", "xdp:", "mmsg:eth0"] {
            assert!(refused(&["--server-binary", "/bin/true", "--io", io]), "{io}");
        }
    }
}
