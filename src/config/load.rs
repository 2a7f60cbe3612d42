//! Lays the file over the defaults, the environment over the file, and the flags over the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::Value;

use super::options::{OPTIONS, OptionSpec, Settings};
use super::{Machine, Plan, resolve};

/// Variables of the environment that are not options but have the prefix.
const OTHER_VARIABLES: &[&str] = &["DISTRIBUTARY_CONFIG", "DISTRIBUTARY_COMMIT"];

/// Where values come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub dev: bool,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// Variables of the environment whose names start with `DISTRIBUTARY_`.
    pub environment: BTreeMap<String, String>,
    /// Values of flags, by the path of their option.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

/// Why there is no plan. `Display` names the key, the value and what is allowed, or what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    Unreadable { file: PathBuf, reason: String },
    NotToml { file: PathBuf, reason: String },
    UnknownKey { key: String, source: String, nearest: Option<&'static str> },
    BadValue { key: &'static str, value: String, source: String, wanted: String },
    NoKeys,
    HalfTls { missing: &'static str },
    BadFile { key: &'static str, file: PathBuf, reason: String },
    BadFolder { key: &'static str, folder: PathBuf, reason: String },
    Empty { key: &'static str, wanted: &'static str },
    Cores { cores: usize, workers: usize },
    CoreAbsent { core: usize, available: Vec<usize> },
    SteerUnpinned { workers: usize, cores: usize },
    Together { set: &'static str, missing: &'static str, why: &'static str },
    BadText { key: &'static str, value: String, wanted: &'static str },
    BadFilter { value: String, reason: String },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ConfigError::*;
        match self {
            Unreadable { file, reason } => write!(f, "cannot read the config file {}: {reason}", file.display()),
            NotToml { file, reason } => write!(f, "{} is not TOML: {reason}", file.display()),
            UnknownKey { key, source, nearest } => {
                write!(f, "unknown key {key} in {source}")?;
                match nearest {
                    Some(nearest) => write!(f, "; the nearest known one is {nearest}"),
                    None => write!(f, "; `distributary config --print-default` lists all"),
                }
            }
            BadValue { key, value, source, wanted } => write!(f, "{key} = {value} (from {source}) must be {wanted}"),
            NoKeys => write!(
                f,
                "keys = {{}} must have at least one API key with its secret: without one anybody could publish. Put\n\n    \
                 [keys]\n    my-key = \"the output of: openssl rand -hex 32\"\n\ninto a config file and name it with --config, or \
                 use --dev to try the server on this machine alone"
            ),
            HalfTls { missing } => {
                write!(f, "{missing} is not set: TLS needs http.cert_file and http.key_file, plain HTTP neither")
            }
            BadFile { key, file, reason } => {
                write!(f, "{key} = {:?} must be a readable file: {reason}", file.display().to_string())
            }
            BadFolder { key, folder, reason } => {
                write!(f, "{key} = {:?} must be a folder that can be written to: {reason}", folder.display().to_string())
            }
            Empty { key, wanted } => write!(f, "{key} = [] must have {wanted}"),
            Cores { cores, workers } => {
                write!(f, "media.cores has {cores} cores for {workers} workers (media.workers): it must have one for each, or none")
            }
            CoreAbsent { core, available } => {
                write!(f, "media.cores = [… {core} …] must be of the cores this process may use: {available:?}")
            }
            SteerUnpinned { workers, cores } => write!(
                f,
                "media.steer = \"cpu\" must go with pinned workers, and {workers} workers on {cores} cores are not: set \
                 media.workers to {cores} or fewer, or media.steer to \"hash\""
            ),
            Together { set, missing, why } => write!(f, "{set} is set and {missing} is not: {why}"),
            BadText { key, value, wanted } => write!(f, "{key} = {value:?} must be {wanted}"),
            BadFilter { value, reason } => {
                write!(f, "log.level = {value:?} must be error, warn, info, debug, trace or filter directives: {reason}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Sources {
    /// The process's own environment, without a file or flags yet.
    pub fn from_environment() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .filter(|(name, _)| name.starts_with("DISTRIBUTARY_"))
            .collect();
        Sources { environment, ..Sources::default() }
    }

    /// The value of every option.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        if let Some(file) = &self.file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| ConfigError::Unreadable { file: file.clone(), reason: error.to_string() })?;
            let table = text
                .parse::<toml::Table>()
                .map_err(|error| ConfigError::NotToml { file: file.clone(), reason: error.to_string().trim_end().to_owned() })?;
            apply_table(&mut settings, &table, &file.display().to_string())?;
        }
        for option in OPTIONS {
            if let Some(text) = self.environment.get(&option.variable()) {
                apply(&mut settings, option, &(option.from_text)(text), &format!("the variable {}", option.variable()))?;
            }
        }
        for (path, texts) in &self.flags {
            let Some(option) = OptionSpec::find(path) else { continue };
            let source = format!("--{}", option.flag.unwrap_or(path));
            let mut values = texts.iter().map(|text| (option.from_text)(text));
            let value = match option.list {
                true => Value::Array(values.flat_map(|value| value.as_array().cloned().unwrap_or_default()).collect()),
                false => values.next_back().unwrap_or_else(|| Value::String(String::new())),
            };
            apply(&mut settings, option, &value, &source)?;
        }
        Ok(settings)
    }

    /// The whole plan, checked.
    pub fn plan(&self, machine: &Machine) -> Result<Plan, ConfigError> {
        let mut plan = resolve::plan(&self.settings()?, self.dev, machine)?;
        for name in self.environment.keys() {
            if !OTHER_VARIABLES.contains(&name.as_str()) && !OPTIONS.iter().any(|option| option.variable() == *name) {
                plan.warnings.push(format!("the environment variable {name} is no option of this server and does nothing"));
            }
        }
        Ok(plan)
    }
}

fn apply_table(settings: &mut Settings, table: &toml::Table, source: &str) -> Result<(), ConfigError> {
    apply_section(settings, "", table, source)
}

/// Applies what is in a section, and in those within it.
fn apply_section(settings: &mut Settings, section: &str, table: &toml::Table, source: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        let is_section = OPTIONS.iter().any(|option| is_within(option.section_and_key().0, &path));
        match (OptionSpec::find(&path), value.as_table()) {
            (Some(option), _) => apply(settings, option, value, source)?,
            (None, Some(inner)) if is_section => apply_section(settings, &path, inner, source)?,
            _ => return Err(unknown(path, source)),
        }
    }
    Ok(())
}

/// Whether a section is `outer`, or one within it.
fn is_within(section: &str, outer: &str) -> bool {
    section.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn apply(settings: &mut Settings, option: &'static OptionSpec, value: &Value, source: &str) -> Result<(), ConfigError> {
    if (option.set)(settings, value) {
        return Ok(());
    }
    // A secret must not end up in a log.
    let value = if option.secret { "…".to_owned() } else { value.to_string() };
    Err(ConfigError::BadValue { key: option.path, value, source: source.to_owned(), wanted: (option.wanted)() })
}

fn unknown(key: String, source: &str) -> ConfigError {
    let nearest = OPTIONS.iter().map(|option| (distance(&key, option.path), option.path)).min();
    // The bare key may be right and only its section wrong or missing.
    let same_key = OPTIONS.iter().find(|option| option.section_and_key().1 == key.rsplit('.').next().unwrap_or(&key));
    let nearest = match nearest {
        Some((distance, path)) if distance <= 3 => Some(path),
        _ => same_key.map(|option| option.path),
    };
    ConfigError::UnknownKey { key, source: source.to_owned(), nearest }
}

/// Edit distance (Levenshtein), one row at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().take(128).enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, r) in row.iter_mut().skip(1).zip(&right) {
            let change = diagonal + usize::from(l != *r);
            diagonal = *cell;
            before = change.min(before + 1).min(*cell + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IoChoice;

    fn with_file(text: &str) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        apply_table(&mut settings, &text.parse().unwrap(), "test.toml").map(|()| settings)
    }

    fn message(text: &str) -> String {
        with_file(text).unwrap_err().to_string()
    }

    #[test]
    fn flags_go_over_environment_over_file_over_defaults() {
        let directory = std::env::temp_dir().join(format!("distributary-config-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("a.toml");
        std::fs::write(&file, "[http]\nport = 1\n[media]\nport = 2\nworkers = 3\nexternal_ips = [\"192.0.2.1\"]\n").unwrap();
        let mut sources = Sources { file: Some(file), ..Sources::default() };
        sources.environment.insert("DISTRIBUTARY_MEDIA_PORT".into(), "20".into());
        sources.environment.insert("DISTRIBUTARY_MEDIA_WORKERS".into(), "30".into());
        sources.flags.push(("media.workers", vec!["33".into()]));
        sources.flags.push(("media.external_ips", vec!["192.0.2.2,192.0.2.3".into(), "::1".into()]));
        let settings = sources.settings().unwrap();
        assert_eq!((settings.http_port, settings.media_port, settings.media_workers), (1, 20, 33));
        assert_eq!(settings.media_external_ips.len(), 3);
        assert_eq!(settings.limits_sessions, crate::limits::SESSIONS_MAX);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_error_names_key_value_source_and_range() {
        assert_eq!(message("[media]\nworkers = 900"), "media.workers = 900 (from test.toml) must be a whole number from 0 to 64");
        assert_eq!(
            message("[media]\nbusy_poll_us = 1001"),
            "media.busy_poll_us = 1001 (from test.toml) must be a whole number from 0 to 1000"
        );
        assert!(message("[media]\nsteer = \"numa\"").ends_with("must be one of hash, cpu"));
        assert!(message("[media]\nhuge_pages = true").ends_with("must be one of auto, transparent, off"));
        assert_eq!(
            message("[media]\nio = \"epoll\""),
            "media.io = \"epoll\" (from test.toml) must be one of auto, uring, mmsg, xdp:INTERFACE"
        );
        for bad in ["xdp", "xdp:", "xdp:a/b", "xdp:a b", "xdp:sixteen-letters0"] {
            assert!(message(&format!("[media]\nio = {bad:?}")).contains("must be one of"), "{bad}");
        }
        let IoChoice::Xdp(name) = with_file("[media]\nio = \"xdp:eth0.5\"").unwrap().media_io else { panic!("xdp") };
        assert_eq!(&name, "eth0.5");
        assert!(message("[http]\nport = \"80\"").contains("http.port = \"80\""));
        let short = message("[keys]\na = \"short\"");
        assert!(short.contains("at least 32 bytes") && !short.contains("short"), "{short}");
        let mut sources = Sources::default();
        sources.flags.push(("http.port", vec!["70000".into()]));
        let error = sources.settings().unwrap_err().to_string();
        assert_eq!(error, "http.port = 70000 (from --http-port) must be a whole number from 0 to 65535");
        sources.flags.clear();
        sources.environment.insert("DISTRIBUTARY_BIND".into(), "here".into());
        assert!(sources.settings().unwrap_err().to_string().contains("(from the variable DISTRIBUTARY_BIND) must be an IPv4"));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        assert_eq!(message("[http]\nprot = 1"), "unknown key http.prot in test.toml; the nearest known one is http.port");
        assert_eq!(message("workers = 1"), "unknown key workers in test.toml; the nearest known one is media.workers");
        assert!(message("http = 1").starts_with("unknown key http in"));
        assert!(message("[nonsense]\nx = 1").contains("--print-default"));
    }

    #[test]
    fn structured_options_are_read() {
        let settings = with_file(
            "[media]\nio = \"mmsg\"\ncodecs = [\"vp8\", \"OPUS\"]\n[[ice.servers]]\nurls = \"stun:stun.example.org\"\n[[ice.servers]]\n\
             urls = [\"turn:t\"]\nusername = \"u\"\ncredential = \"p\"\n[keys]\nk = \"0123456789abcdef0123456789abcdef\"\n",
        )
        .unwrap();
        assert_eq!(settings.media_io, IoChoice::Mmsg);
        assert_eq!((settings.ice_servers.len(), settings.media_codecs.len(), settings.keys.0.len()), (2, 2, 1));
        assert!(message("[[ice.servers]]\nurls = [\"http://x\"]").contains("ice.servers"));
        assert!(message("[[ice.servers]]\nurls = [\"turn:x\"]\nusername = \"only\"").contains("credential"));
        assert!(message("[[ice.servers]]\nurls = [\"turn:x\"]\nuser = \"only\"").contains("ice.servers"));

        let mut sources = Sources::default();
        sources.environment.insert("DISTRIBUTARY_KEYS".into(), "k:0123456789abcdef0123456789abcdef".into());
        sources.environment.insert("DISTRIBUTARY_ICE_SERVERS".into(), "stun:a,stun:b".into());
        let settings = sources.settings().unwrap();
        assert_eq!((settings.keys.0.len(), settings.ice_servers.len()), (1, 2));
        let one = "[{urls=[\"turn:a\"], username=\"u\", credential=\"p\"}]";
        sources.environment.insert("DISTRIBUTARY_ICE_SERVERS".into(), one.into());
        assert_eq!(sources.settings().unwrap().ice_servers[0].username.as_deref(), Some("u"));
    }

    #[test]
    fn edit_distance() {
        assert_eq!(distance("http.prot", "http.port"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
