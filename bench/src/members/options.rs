//! The options of `loadgen members`.

use std::path::PathBuf;

use clap::Args;

use crate::cli;
use crate::http::Url;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  loadgen members --server-binary target/release/distributary --rooms 50 --members 6
  loadgen members --server-binary target/release/distributary --members 300 --talking 10 --server-argument=--room-speakers=10

Whoever talks sends 50 packets of 120 bytes a second, whose levels (RFC 6464) are those of speech; whoever is silent sends one of 28 bytes
in 400 ms, as Opus does with DTX. A started server is pinned to core 0 (cores 0 to N-1 with N workers), the generator to the others.
Exit codes: 0 with a report, whatever it says; 1 when there is none; 2 for a mistake in the command line.")]
pub struct Options {
    /// Server to start: the distributary program. Ports are chosen by the kernel
    #[arg(long, value_name = "FILE", required_unless_present = "url", conflicts_with_all = ["url", "server_pid"])]
    pub server_binary: Option<PathBuf>,
    /// Server that runs already
    #[arg(long, value_parser = Url::parse)]
    pub url: Option<Url>,
    /// Process of a server that runs already, for its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// API key that tokens are signed for
    #[arg(long, default_value = "devkey")]
    pub key: String,
    /// Its secret
    #[arg(long, default_value = "secret")]
    pub secret: String,
    /// Beginning of the rooms' names
    #[arg(long, default_value = "load")]
    pub room: String,
    /// Rooms
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rooms: u32,
    /// Members of each room
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub members: u32,
    /// How many of each room's members talk. Without it all do
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub talking: Option<u32>,
    /// Bits per second of each member's video, 15 frames a second. 0: none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub video: u64,
    /// Seconds to measure, after everybody has had something of every track
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Seconds between that and the measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub settle: u32,
    /// Members that join in a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub join_rate: u32,
    /// Seconds in which all members must be connected, and then in which everybody must have had something of every track
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub join_seconds_max: u32,
    /// Measure even if not everybody gets every track; the report says how many are missing
    #[arg(long)]
    pub partial: bool,
    /// Of so many members, one has its latency measured
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// Threads that send and receive the members' media
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub pumps: u32,
    /// Worker threads of a started server
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// I/O backend of a started server: auto, uring, mmsg or xdp:INTERFACE
    #[arg(long, default_value = "auto", value_parser = cli::io_backend)]
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
}

impl Options {
    /// What the types of the options do not say.
    pub fn check(&self) -> Result<(), String> {
        cli::check_binary(self.server_binary.as_deref())?;
        if self.talking.is_some_and(|talking| talking > self.members) {
            return Err(format!("--talking {}: a room has {} members", self.talking.unwrap_or(0), self.members));
        }
        if self.talking.is_some() && self.video > 0 {
            return Err("--talking and --video do not go together: whose video is whose turn is not followed here".into());
        }
        if self.rooms * self.members > 30_000 {
            return Err(format!("--rooms {} of --members {}: 30000 members are the most", self.rooms, self.members));
        }
        cli::check_cores(self.server_cores.iter().chain(&self.cores))
    }

    /// Whether a member talks: those who do are spread over the order in which all join.
    pub fn talks(&self, member: u32) -> bool {
        let place = member % self.members;
        self.talking.is_none_or(|talking| (place + 1) * talking / self.members > place * talking / self.members)
    }

    pub fn room_of(&self, member: u32) -> u32 {
        member / self.members
    }

    /// Of one member.
    fn tracks(&self, member: u32) -> u32 {
        u32::from(self.talks(member)) + u32::from(self.video > 0)
    }

    /// How many tracks are to come to members, counted once for each that it is to come to.
    pub fn tracks_wanted(&self) -> u64 {
        let published: u32 = (0..self.members).map(|member| self.tracks(member)).sum();
        u64::from(self.rooms) * u64::from(published) * u64::from(self.members - 1)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        let all = ["members", "--url", "http://127.0.0.1:1"].iter().chain(arguments);
        Line::try_parse_from(all).expect("valid").options
    }

    #[test]
    fn talkers_are_as_many_as_asked_for_and_not_the_first() {
        for (members, talking) in [("300", 10), ("7", 3), ("5", 5)] {
            let options = options(&["--members", members, "--talking", &talking.to_string(), "--rooms", "2"]);
            let of = |room: u32| (0..options.members).filter(|place| options.talks(room * options.members + place)).count();
            assert_eq!((of(0), of(1)), (talking, talking));
            assert_eq!(options.talks(0), talking == 5);
        }
    }

    #[test]
    fn every_track_is_for_all_others() {
        assert_eq!(options(&["--rooms", "50"]).tracks_wanted(), 50 * 6 * 5);
        assert_eq!(options(&["--video", "100000"]).tracks_wanted(), 6 * 5 * 2);
        assert_eq!(options(&["--members", "300", "--talking", "10"]).tracks_wanted(), 10 * 299);
        assert!(options(&["--talking", "7"]).check().is_err() && options(&["--talking", "2", "--video", "9"]).check().is_err());
    }
}
