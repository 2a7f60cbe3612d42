//! The command line: subcommands and flags. The flags of options come from the table in `config/options.rs`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};

use crate::admin::VERSION;
use crate::config::{OPTIONS, Sources};

/// A WebRTC media server for people who own their machines: one stream in, very many out.
#[derive(Debug, Parser)]
#[command(name = "distributary", version = VERSION, args_conflicts_with_subcommands = true)]
#[command(after_help = "Without any argument: serve --dev.")]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run the server (also without naming this command)
    Serve(ServeArgs),
    /// Check the configuration as serve would use it, and say what it comes to
    CheckConfig(ServeArgs),
    /// Work with the configuration file
    Config(ConfigArgs),
    /// Tell what this host offers, and how to enable what is missing
    Doctor,
    /// Make an access token
    Token(TokenArgs),
    /// Have a running server record a room, stop it, or list what there is
    Record(RecordArgs),
}

#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Try the server on this machine: listens on loopback, needs no token, accepts tokens of devkey with the secret "secret"
    #[arg(long)]
    pub dev: bool,
    /// TOML file with the configuration
    #[arg(long, short, value_name = "FILE", env = "DISTRIBUTARY_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    options: OptionFlags,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Print a commented file with every option, its range and its default
    #[arg(long, required = true)]
    pub print_default: bool,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Room the token is for
    #[arg(long, short)]
    pub room: String,
    /// Allow publishing. Without --publish and --subscribe: both
    #[arg(long)]
    pub publish: bool,
    /// Allow watching
    #[arg(long)]
    pub subscribe: bool,
    /// Allow listing rooms by the API
    #[arg(long)]
    pub list: bool,
    /// Allow recording rooms, and reading recordings, by the API
    #[arg(long)]
    pub record: bool,
    /// Who the token is for
    #[arg(long)]
    pub identity: Option<String>,
    /// How long it is valid: seconds, or a number with s, m, h or d
    #[arg(long, default_value = "6h", value_parser = ttl_secs)]
    pub ttl: u64,
    /// API key. Default: the first of the configuration, else devkey
    #[arg(long, requires = "secret")]
    pub key: Option<String>,
    /// Its secret
    #[arg(long, requires = "key")]
    pub secret: Option<String>,
    /// TOML file with the keys
    #[arg(long, short, value_name = "FILE", env = "DISTRIBUTARY_CONFIG")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Room to record, whoever publishes in it now and later. Without: list the recordings
    pub room: Option<String>,
    /// Stop recording it
    #[arg(long, requires = "room")]
    pub stop: bool,
    /// Keep nothing of it until --resume; the pause is cut out
    #[arg(long, requires = "room", conflicts_with = "stop")]
    pub pause: bool,
    /// Go on after --pause
    #[arg(long, requires = "room", conflicts_with_all = ["stop", "pause"])]
    pub resume: bool,
    /// Another recording of this room beside the one it has: start, stop, pause that one. Letters and digits
    #[arg(long, requires = "room")]
    pub name: Option<String>,
    /// As record.format of the configuration, for this room: webm or mp4
    #[arg(long, requires = "room")]
    pub format: Option<String>,
    /// As record.files, for this room: participant, track or room
    #[arg(long, requires = "room")]
    pub files: Option<String>,
    /// As record.layer, for this room: best, or the rid of a simulcast encoding
    #[arg(long, requires = "room")]
    pub layer: Option<String>,
    /// The server's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7880", env = "DISTRIBUTARY_SERVER")]
    pub server: String,
    /// Take any certificate
    #[arg(long)]
    pub insecure: bool,
    /// API key. Default: the first of the configuration; without one none is sent, as --dev allows
    #[arg(long, requires = "secret")]
    pub key: Option<String>,
    /// Its secret
    #[arg(long, requires = "key")]
    pub secret: Option<String>,
    /// TOML file with the keys
    #[arg(long, short, value_name = "FILE", env = "DISTRIBUTARY_CONFIG")]
    pub config: Option<PathBuf>,
}

/// What the flags of options were given.
#[derive(Debug, Default)]
struct OptionFlags(Vec<(&'static str, Vec<String>)>);

impl Cli {
    /// Parses the process's arguments; a mistake ends the process with a message and code 2.
    pub fn from_environment() -> Action {
        Cli::parse().action(std::env::args_os().len() > 1)
    }

    fn action(mut self, any: bool) -> Action {
        self.serve.dev |= !any;
        self.command.unwrap_or(Action::Serve(self.serve))
    }
}

impl ServeArgs {
    /// File, environment and flags together.
    pub fn sources(self) -> Sources {
        Sources { dev: self.dev, file: self.config, flags: self.options.0, ..Sources::from_environment() }
    }
}

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        OPTIONS.iter().fold(command, |command, option| {
            let Some(flag) = option.flag else { return command };
            let action = if option.list { ArgAction::Append } else { ArgAction::Set };
            let help = format!("{} [config: {}; env: {}]", option.help, option.path, option.variable());
            command.arg(
                Arg::new(option.path)
                    .long(flag)
                    .value_name("VALUE")
                    .action(action)
                    .help(help)
                    .help_heading("Options of the configuration"),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |path| matches.try_get_many::<String>(path).ok().flatten().map(|values| values.cloned().collect());
        let options = OPTIONS.iter().filter(|option| option.flag.is_some());
        Ok(OptionFlags(options.filter_map(|option| Some((option.path, given(option.path)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `90`, `90s`, `15m`, `6h`, `7d`: at most ten years.
fn ttl_secs(text: &str) -> Result<u64, String> {
    let wanted = || format!("{text:?} must be seconds or a number with s, m, h or d, from 1s to 3650d");
    let (number, unit) = match text.find(|character: char| !character.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wanted()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.filter(|seconds| (1..=3_650 * 86_400).contains(seconds)).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Action, clap::Error> {
        let all = std::iter::once("distributary").chain(arguments.iter().copied());
        Cli::try_parse_from(all).map(|cli| cli.action(!arguments.is_empty()))
    }

    fn serve(arguments: &[&str]) -> ServeArgs {
        match parse(arguments) {
            Ok(Action::Serve(serve)) => serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_arguments_mean_dev_and_only_that() {
        assert!(serve(&[]).dev);
        assert!(!serve(&["serve"]).dev && !serve(&["--http-port", "1"]).dev);
        assert!(serve(&["--dev"]).dev && serve(&["serve", "--dev"]).dev);
    }

    #[test]
    fn flags_become_sources() {
        let flags = serve(&["serve", "--workers", "2", "--external-ip", "192.0.2.1", "--external-ip", "192.0.2.2", "--io", "mmsg"]);
        let settings = Sources { environment: Default::default(), ..flags.sources() }.settings().unwrap();
        assert_eq!((settings.media_workers, settings.media_external_ips.len()), (2, 2));
        assert!(parse(&["serve", "--wrokers", "2"]).unwrap_err().to_string().contains("--workers"));
        assert!(parse(&["nonsense"]).is_err());
    }

    #[test]
    fn time_to_live() {
        assert_eq!((ttl_secs("90"), ttl_secs("15m"), ttl_secs("7d")), (Ok(90), Ok(900), Ok(604_800)));
        for bad in ["", "0", "h", "1w", "-1", "1.5h", "99999999999999999999", "4000d"] {
            assert!(ttl_secs(bad).is_err(), "{bad}");
        }
    }
}
