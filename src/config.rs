//! What the server is to do, decided and checked: the [`Plan`].
//!
//! Everything an operator can set is declared once, in `config/options.rs`; a file, the environment and flags are laid over
//! the defaults there, and the result becomes a `Plan` that needs no further checking. A program that embeds the data plane
//! without the feature `server` makes its `Plan` itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use arrayvec::ArrayString;

use crate::rtp::config::Codec;
use crate::units::Micros;

#[cfg(feature = "server")]
mod document;
#[cfg(feature = "server")]
mod load;
#[cfg(feature = "server")]
mod options;
#[cfg(feature = "server")]
mod resolve;
#[cfg(feature = "server")]
mod setting;

#[cfg(feature = "server")]
pub use document::print_default;
#[cfg(feature = "server")]
pub use load::{ConfigError, Sources};
#[cfg(feature = "server")]
pub use options::{OPTIONS, OptionSpec, Settings};

/// Key and secret that `--dev` accepts, the ones LiveKit's tools use by default.
pub const DEV_KEY: (&str, &str) = ("devkey", "secret");

/// A server, planned.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Open on purpose: no token is needed.
    pub dev: bool,
    pub http_bind: SocketAddr,
    pub tls: Option<TlsFiles>,
    pub media_bind: SocketAddr,
    /// Of ICE over TCP.
    pub tcp_port: Option<u16>,
    /// 1 to [`crate::limits::WORKERS_MAX`].
    pub workers: usize,
    /// Core of each worker, in order. Empty: the workers are not pinned.
    pub cores: Vec<usize>,
    /// Cores that no worker is pinned to, for all other threads. Empty: these run anywhere.
    pub slow_cores: Vec<usize>,
    /// 1 to [`crate::limits::HANDSHAKE_THREADS_MAX`].
    pub handshake_threads: usize,
    pub io: IoChoice,
    pub steer: Steer,
    /// Microseconds that a waiting worker polls the NIC before it sleeps; 0: none.
    pub busy_poll_us: u16,
    pub huge_pages: HugePages,
    pub hold: HoldChoice,
    pub max_hold: Micros,
    pub estimation: Estimation,
    /// How long a worker looks for packets before it goes to sleep.
    pub spin: Micros,
    /// Addresses to offer as ICE candidates, with the port that the media sockets are bound to. Never empty.
    pub candidates: Vec<IpAddr>,
    /// API key → secret, for access tokens. Empty only with `dev` off and no HTTP.
    pub keys: KeyRing,
    pub ice_servers: Vec<IceServer>,
    /// 1 to [`crate::limits::SESSIONS_MAX`].
    pub sessions_max: usize,
    pub room_sessions_max: usize,
    /// Percentage of a core from which on a busy worker makes the server refuse sessions. 100: never.
    pub load_max: u64,
    /// Of one address; 0: any number.
    pub joins_per_minute: u32,
    /// Codecs negotiated, never empty.
    pub codecs: Vec<Codec>,
    pub room: RoomPlan,
    /// What is recorded; none: nothing is.
    pub record: Option<RecordPlan>,
    /// Where recordings are uploaded to; none: they stay. Only where something is recorded.
    pub storage: Option<StoragePlan>,
    pub webhook: WebhookPlan,
    pub log: LogPlan,
    /// What the operator should know about the plan, said once at the start.
    pub warnings: Vec<String>,
}

impl Default for Plan {
    /// What `serve --dev` plans, but for one unpinned worker and ports that the kernel chooses: for tests and embedding.
    fn default() -> Self {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        Plan {
            dev: true,
            http_bind: SocketAddr::new(loopback, 0),
            tls: None,
            media_bind: SocketAddr::new(loopback, 0),
            tcp_port: None,
            workers: 1,
            cores: Vec::new(),
            slow_cores: Vec::new(),
            handshake_threads: 1,
            io: IoChoice::Auto,
            steer: Steer::Hash,
            busy_poll_us: 0,
            huge_pages: HugePages::Auto,
            hold: HoldChoice::Adaptive,
            max_hold: Micros::from_millis(15),
            estimation: Estimation::On,
            spin: Micros::ZERO,
            candidates: vec![loopback],
            keys: Keys(BTreeMap::from([(DEV_KEY.0.to_owned(), DEV_KEY.1.to_owned())])).into(),
            ice_servers: Vec::new(),
            sessions_max: crate::limits::SESSIONS_MAX,
            room_sessions_max: crate::limits::ROOM_SESSIONS_MAX,
            load_max: 100,
            joins_per_minute: 0,
            codecs: ALL_CODECS.to_vec(),
            room: RoomPlan::default(),
            record: None,
            storage: None,
            webhook: WebhookPlan::default(),
            log: LogPlan::default(),
            warnings: Vec::new(),
        }
    }
}

/// How many of the others members of a room are sent at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomPlan {
    /// Rooms that this is for; in others everybody is sent everything.
    pub names: Vec<RoomPattern>,
    /// Of those who speak; 0: all.
    pub speakers: usize,
    /// Cameras, of those who spoke last; 0: all.
    pub last_n: usize,
    /// Where this server is, which members of all rooms are told.
    pub region: Option<String>,
}

/// What is recorded, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPlan {
    /// Exists, and may be written to.
    pub folder: PathBuf,
    /// Rooms of which every publisher is recorded.
    pub rooms: Vec<RoomPattern>,
    pub format: RecordFormat,
    pub files: RecordFiles,
    /// Name of the simulcast encoding to record, or [`BEST_LAYER`].
    pub layer: String,
    pub sync: RecordSync,
    /// A file is ended at the first key frame after so long, or after so many bytes, and another begun.
    pub split_after: Option<Micros>,
    pub split_bytes: Option<u64>,
}

/// The simulcast encoding that most flows of.
pub const BEST_LAYER: &str = "best";

/// What somebody asked for of one room; where nothing is said the [`RecordPlan`] holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordWish {
    pub format: Option<RecordFormat>,
    pub files: Option<RecordFiles>,
    pub layer: Option<String>,
}

impl RecordPlan {
    /// The plan for a room of which this was asked.
    pub fn with(&self, wish: &RecordWish) -> RecordPlan {
        RecordPlan {
            format: wish.format.unwrap_or(self.format),
            files: wish.files.unwrap_or(self.files),
            layer: wish.layer.clone().unwrap_or_else(|| self.layer.clone()),
            ..self.clone()
        }
    }
}

/// A bucket of an S3-compatible store, and how recordings get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoragePlan {
    pub bucket: String,
    /// `http://` or `https://`; none: AWS's of the region.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Key id and secret; none: those that the environment has in `AWS_…`, or the role that the machine has.
    pub credentials: Option<(String, Secret)>,
    /// Comes before the names of objects: empty, or with a slash at its end.
    pub prefix: String,
    /// Whether files stay where they are when the store has confirmed them.
    pub keep_local: bool,
    /// Recordings that are uploaded at a time: 1 to [`crate::limits::UPLOADS_MAX`].
    pub uploads: usize,
}

/// Whom to tell what happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookPlan {
    pub urls: Vec<String>,
    /// One of the keys: what is told is signed with it.
    pub api_key: String,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Names of rooms: `*` stands for any number of any characters, everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPattern(pub String);

impl RoomPattern {
    pub fn matches(&self, room: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == room };
        let Some(mut room) = room.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let Some(at) = room.find(part) else { return false };
            room = &room[at + part.len()..];
        }
        room.ends_with(last)
    }
}

/// What a plan has to know of the machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: Vec<usize>,
    /// Its addresses but for loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// In the order in which `codecs` lists them by default.
pub const ALL_CODECS: [Codec; 5] = [Codec::Vp8, Codec::H264, Codec::Vp9, Codec::Av1, Codec::Opus];

/// PEM files of the HTTP server's certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPlan {
    pub format: LogFormat,
    /// Level or filter directives of `tracing`.
    pub level: String,
}

/// API keys and their secrets. Does not print the secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(pub BTreeMap<String, String>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The API keys that count now, shared by all who ask for them: a server that runs can be given others.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Arc<RwLock<Keys>>);

impl KeyRing {
    pub fn secret(&self, key: &str) -> Option<String> {
        self.read().0.get(key).cloned()
    }

    pub fn names(&self) -> Vec<String> {
        self.read().0.keys().cloned().collect()
    }

    pub fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = keys;
    }

    pub fn keys(&self) -> Keys {
        self.read().clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl From<Keys> for KeyRing {
    fn from(keys: Keys) -> KeyRing {
        KeyRing(Arc::new(RwLock::new(keys)))
    }
}

/// A STUN or TURN server that clients are told of by `Link` headers (RFC 9725 §4.6).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` or `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    pub username: Option<String>,
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).field("username", &self.username).finish_non_exhaustive()
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$help:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$help])* $variant,)* }

        impl $name {
            pub const NAMES: &'static [&'static str] = &[$($text,)*];
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some($name::$variant),)* _ => None }
            }
        }
    };
}

/// The I/O backend of the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where the kernel has and allows what is needed, else the portable one.
    #[default]
    Auto,
    /// io_uring, or no start.
    Uring,
    /// recvmmsg and GSO by `quinn-udp`.
    Mmsg,
    /// AF_XDP on an interface, or as `Auto` where that cannot be had.
    Xdp(InterfaceName),
}

/// Name of a network interface: at most 15 bytes (IFNAMSIZ).
pub type InterfaceName = ArrayString<15>;

impl IoChoice {
    pub const NAMES: &'static [&'static str] = &["auto", "uring", "mmsg", "xdp:INTERFACE"];

    pub fn name(&self) -> Cow<'static, str> {
        match self {
            IoChoice::Auto => "auto".into(),
            IoChoice::Uring => "uring".into(),
            IoChoice::Mmsg => "mmsg".into(),
            IoChoice::Xdp(interface) => format!("xdp:{interface}").into(),
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(IoChoice::Auto),
            "uring" => Some(IoChoice::Uring),
            "mmsg" => Some(IoChoice::Mmsg),
            // What the kernel allows in a name.
            _ => {
                let interface = name.strip_prefix("xdp:")?;
                let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
                let good = !interface.is_empty() && interface.bytes().all(allowed);
                InterfaceName::from(interface).ok().filter(|_| good).map(IoChoice::Xdp)
            }
        }
    }
}

choice! {
    /// Which worker a datagram comes to first.
    Steer {
        /// The one that the kernel's hash of the flow says, always the same.
        #[default]
        Hash = "hash",
        /// The one pinned to the core on which the datagram arrived; see [`crate::io::steer`].
        Cpu = "cpu",
    }
}

choice! {
    /// What the workers' arenas lie on; see [`crate::mem::memory`].
    HugePages {
        /// Reserved huge pages if enough are free, else transparent ones.
        #[default]
        Auto = "auto",
        Transparent = "transparent",
        /// Pages of 4 KiB.
        Off = "off",
    }
}

choice! {
    /// Whether packets of a video frame wait for each other; see [`crate::worker::hold`].
    HoldChoice {
        /// As long as the worker is busy.
        #[default]
        Adaptive = "adaptive",
        /// Never: the lowest latency at any load.
        Off = "off",
        /// Always: the most viewers.
        Frame = "frame",
    }
}

choice! {
    /// Whether viewers are asked what their paths carry, and sent accordingly; see [`crate::peer::path`].
    Estimation {
        #[default]
        On = "on",
        /// Everything leaves at once, as it comes.
        Off = "off",
    }
}

choice! {
    /// What is recorded into. Sound alone becomes Ogg.
    RecordFormat {
        /// WebM, Matroska with H264.
        #[default]
        Webm = "webm",
        /// Fragmented MP4; WebM with VP8.
        Mp4 = "mp4",
    }
}

choice! {
    /// What becomes one file.
    RecordFiles {
        /// A publisher's video and sound together.
        #[default]
        Participant = "participant",
        /// Each track by itself.
        Track = "track",
        /// All publishers of a room together.
        Room = "room",
    }
}

choice! {
    /// When what was recorded is forced to the disk (`fdatasync`); a crash of the server alone loses nothing that was written.
    RecordSync {
        /// After each cluster, so that a power cut loses no more than a crash does.
        Cluster = "cluster",
        /// When the file ends.
        #[default]
        End = "end",
    }
}

choice! {
    LogFormat {
        #[default]
        Human = "human",
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let matches = |pattern: &str, room: &str| RoomPattern(pattern.to_owned()).matches(room);
        assert!(matches("*", "") && matches("*", "any/room") && matches("lesson-*", "lesson-7") && matches("a*b*c", "a-b-b-c"));
        assert!(matches("stage", "stage") && !matches("stage", "stages") && !matches("lesson-*", "a lesson-7"));
        assert!(!matches("a*a", "a") && !matches("a*b*c", "a-c-b") && matches("*x*", "x") && !matches("*x*", "y"));
    }
}
