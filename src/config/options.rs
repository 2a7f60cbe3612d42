//! Every option there is, declared once: the struct that holds it, its default, its range, its flag, its help. The parser,
//! the command line and `config --print-default` are made from this table.

use std::net::IpAddr;
use std::path::PathBuf;

use toml::Value;

use super::setting::Setting;
use super::{
    ALL_CODECS, Estimation, HoldChoice, HugePages, IceServer, IoChoice, Keys, LogFormat, RecordFiles, RecordFormat, RecordSync,
    Secret, Steer,
};
use crate::limits;
use crate::rtp::config::Codec;

/// One option, its type erased.
pub struct OptionSpec {
    /// `section.key`, where a section may be one of another (`record.s3`), or `key` for one before the first section.
    pub path: &'static str,
    /// Its flag on the command line, without the dashes.
    pub flag: Option<&'static str>,
    pub help: &'static str,
    /// What to show for an option that has no default, as TOML.
    pub example: &'static str,
    /// Completes the sentence "must be …".
    pub wanted: fn() -> String,
    /// Whether its flag may be given more than once.
    pub list: bool,
    /// Whether its value must not end up in a log.
    pub secret: bool,
    pub from_text: fn(&str) -> Value,
    /// False if the value is not what is wanted.
    pub set: fn(&mut Settings, &Value) -> bool,
    /// As TOML, None if there is nothing to write.
    pub write: fn(&Settings) -> Option<String>,
}

impl OptionSpec {
    pub fn find(path: &str) -> Option<&'static OptionSpec> {
        OPTIONS.iter().find(|option| option.path == path)
    }

    /// Section and key. The section is empty for an option before the first one.
    pub fn section_and_key(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }

    /// Name of its environment variable: `DISTRIBUTARY_` and the path in capitals.
    pub fn variable(&self) -> String {
        format!("DISTRIBUTARY_{}", self.path.replace('.', "_").to_uppercase())
    }
}

macro_rules! options {
    ($($field:ident: $type:ty = $default:expr, $path:literal, $flag:expr, $range:expr, $example:literal, $help:literal;)*) => {
        /// The value of every option.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings { $(#[doc = $help] pub $field: $type,)* }

        impl Default for Settings {
            fn default() -> Self {
                Settings { $($field: $default,)* }
            }
        }

        pub const OPTIONS: &[OptionSpec] = &[$(OptionSpec {
            path: $path,
            flag: $flag,
            help: $help,
            example: $example,
            wanted: || <$type as Setting>::wanted($range),
            list: <$type as Setting>::LIST,
            secret: <$type as Setting>::SECRET,
            from_text: <$type as Setting>::from_text,
            set: |settings, value| match <$type as Setting>::read(value, $range) {
                Some(value) => {
                    settings.$field = value;
                    true
                }
                None => false,
            },
            write: |settings| settings.$field.write(),
        },)*];
    };
}

const ANY: (i64, i64) = (0, 0);
const PORT: (i64, i64) = (0, 65_535);

options! {
    bind: Option<IpAddr> = None, "bind", Some("bind"), ANY, "\"::\"",
        "Address to listen on, for HTTP and for media. Default: 127.0.0.1 with --dev, else :: (all addresses of both families).";
    http_bind: Option<IpAddr> = None, "http.bind", Some("http-bind"), ANY, "\"127.0.0.1\"",
        "Address for HTTP alone, where it differs from bind.";
    http_port: u16 = 7880, "http.port", Some("http-port"), PORT, "7880",
        "TCP port of HTTP. 0: the kernel chooses.";
    http_cert_file: Option<PathBuf> = None, "http.cert_file", Some("tls-cert"), ANY, "\"/etc/distributary/cert.pem\"",
        "PEM file with the certificate chain; with key_file it turns HTTP into HTTPS.";
    http_key_file: Option<PathBuf> = None, "http.key_file", Some("tls-key"), ANY, "\"/etc/distributary/key.pem\"",
        "PEM file with the certificate's private key.";
    media_bind: Option<IpAddr> = None, "media.bind", Some("media-bind"), ANY, "\"::\"",
        "Address for media alone, where it differs from bind.";
    media_port: u16 = 7882, "media.port", Some("media-port"), PORT, "7882",
        "UDP port of media: one for all workers. 0: the kernel chooses.";
    media_tcp_port: u16 = 7881, "media.tcp_port", Some("tcp-port"), PORT, "7881",
        "TCP port of media, at the same addresses, for clients whose network drops UDP (ICE-TCP). 0: none. If it is taken, the server says so at the start and does without.";
    media_workers: usize = 0, "media.workers", Some("workers"), (0, limits::WORKERS_MAX as i64), "0",
        "Worker threads. 0: all cores but one, at least one.";
    media_cores: Vec<u16> = Vec::new(), "media.cores", Some("cores"), (0, 4095), "[1, 2, 3]",
        "Cores to pin the workers to, one each. Empty: the last cores that the process may use.";
    media_handshake_threads: usize = 0, "media.handshake_threads", Some("handshake-threads"), (0, limits::HANDSHAKE_THREADS_MAX as i64), "0",
        "Threads for the DTLS handshakes of joining sessions; each does some 2000 a second. 0: one for each core that the workers leave, at least 1 and at most 4.";
    media_io: IoChoice = IoChoice::Auto, "media.io", Some("io"), ANY, "\"auto\"",
        "I/O backend. auto: io_uring where the kernel has and allows it, else mmsg (recvmmsg and segmentation offload). xdp:INTERFACE: AF_XDP on that network interface, past the kernel's network stack and its firewall; auto where it cannot be had.";
    media_steer: Steer = Steer::Hash, "media.steer", Some("steer"), ANY, "\"hash\"",
        "Which worker a datagram comes to. hash: the kernel's hash of its flow says. cpu: the worker pinned to the core on which it arrived, for hosts whose NIC queues are each bound to a worker's core; what arrives elsewhere goes by its hash.";
    media_busy_poll_us: u16 = 0, "media.busy_poll_us", Some("busy-poll-us"), (0, 1000), "50",
        "Microseconds that a waiting worker polls the NIC before it sleeps: latency for CPU. 0: off. Needs CAP_NET_ADMIN, or sysctl net.core.busy_read of as much; with mmsg, net.core.busy_poll too.";
    media_huge_pages: HugePages = HugePages::Auto, "media.huge_pages", Some("huge-pages"), ANY, "\"auto\"",
        "Pages under the packet buffers, 128 MiB a worker. auto: reserved huge ones if enough are free, else transparent. transparent: leave the reserved ones alone. off: 4 KiB.";
    media_hold: HoldChoice = HoldChoice::Adaptive, "media.hold", Some("hold"), ANY, "\"adaptive\"",
        "Whether the packets of a video frame wait for each other, so that they leave as one train. off: never. frame: always, which carries the most viewers. adaptive: the busier a worker is.";
    media_max_hold_ms: u16 = 15, "media.max_hold_ms", Some("max-hold-ms"), (1, 100), "15",
        "Milliseconds that a packet waits for the rest of its frame at most.";
    media_bandwidth_estimation: Estimation = Estimation::On, "media.bandwidth_estimation", Some("bandwidth-estimation"), ANY, "\"on\"",
        "Whether viewers are asked what their paths carry (transport-wide feedback, RFC 8888's, or REMB), and what they are sent is paced accordingly; who takes sound alone is not asked. off: everything leaves at once, as it comes.";
    media_spin_us: u16 = 0, "media.spin_us", Some("spin-us"), (0, 50_000), "0",
        "Microseconds that a worker goes on looking for packets before it sleeps. It saves the time to wake up, and takes a core whole while there is traffic: for workers with cores of their own. Not counted as load.";
    media_external_ips: Vec<IpAddr> = Vec::new(), "media.external_ips", Some("external-ip"), ANY, "[\"203.0.113.7\"]",
        "Public addresses in front of a NAT that forwards the media port here. If set, local addresses are offered only if they are in media.addresses.";
    media_addresses: Vec<IpAddr> = Vec::new(), "media.addresses", Some("address"), ANY, "[\"192.0.2.10\"]",
        "Local addresses to offer to clients as ICE candidates. Empty: the address bound to, or all local ones.";
    media_codecs: Vec<Codec> = ALL_CODECS.to_vec(), "media.codecs", Some("codecs"), ANY, "[\"VP8\", \"opus\"]",
        "Codecs to negotiate.";
    limits_sessions: usize = limits::SESSIONS_MAX, "limits.sessions", Some("sessions-max"), (1, limits::SESSIONS_MAX as i64), "1000",
        "Sessions of the whole server; further joins get 503.";
    limits_room_sessions: usize = limits::ROOM_SESSIONS_MAX, "limits.room_sessions", Some("room-sessions-max"),
        (1, limits::SESSIONS_MAX as i64), "100",
        "Sessions of one room; further joins get 503.";
    limits_joins_per_minute: usize = 600, "limits.joins_per_minute", Some("joins-per-minute"), (0, 1_000_000), "600",
        "Sessions that one address may make or try to make in a minute: WHIP, WHEP and members. Further ones get 429. Not counted: this machine's own. 0: any number.";
    limits_load: u16 = 90, "limits.load", Some("load-max"), (1, 100), "90",
        "Percentage of a core: while a worker is busier than that, averaged over a second, further joins get 503, and those who are there keep their latency. 100: never.";
    room_names: Vec<String> = vec!["*".into()], "room.names", Some("room-name"), ANY, "[\"lecture-*\", \"stage\"]",
        "Names of the rooms that speakers and last_n are for; * stands for any characters.";
    room_speakers: usize = 0, "room.speakers", Some("room-speakers"), (0, limits::FLOOR_MAX as i64), "10",
        "Microphones of a room that its members are sent at a time: of those who speak, and, where places are left, of those who did last. What a client subscribes to by name it is sent besides. 0: all, as far as a session's 64 tracks go.";
    room_last_n: usize = 0, "room.last_n", Some("room-last-n"), (0, limits::FLOOR_MAX as i64), "5",
        "Cameras of a room that its members are sent at a time: of the dominant speaker and those before. Shared screens, and what a client subscribes to by name, it is sent besides. 0: all, as far as a session's 64 tracks go.";
    room_region: Option<String> = None, "room.region", Some("room-region"), ANY, "\"eu-central\"",
        "Name of the region this server is in, which LiveKit's clients are told.";
    ice_servers: Vec<IceServer> = Vec::new(), "ice.servers", None, ANY,
        "[{ urls = [\"turn:turn.example.org:3478\"], username = \"user\", credential = \"password\" }]",
        "STUN and TURN servers that clients are told of: of WHIP and WHEP in Link headers, LiveKit's when they join. Clients rarely need one: this server has its own address.";
    record_folder: Option<PathBuf> = None, "record.folder", Some("record-folder"), ANY, "\"/var/lib/distributary/recordings\"",
        "Folder to record into: each publisher of a matching room becomes a file and, beside it, a JSON-lines file of events. Unset: nothing is recorded.";
    record_rooms: Vec<String> = vec!["*".into()], "record.rooms", Some("record-room"), ANY, "[\"lesson-*\", \"stage\"]",
        "Names of rooms to record, where record.folder is set; * stands for any characters. []: those that are asked for by the API or distributary record.";
    record_format: RecordFormat = RecordFormat::Webm, "record.format", Some("record-format"), ANY, "\"webm\"",
        "What to record into. webm: WebM, or Matroska with H264. mp4: fragmented MP4, but WebM with VP8. Sound alone becomes Ogg with either.";
    record_files: RecordFiles = RecordFiles::Participant, "record.files", Some("record-files"), ANY, "\"participant\"",
        "What becomes a file. participant: a publisher's video and sound together. track: each track by itself. room: all publishers of a room together, another file whenever somebody comes.";
    record_layer: String = "best".into(), "record.layer", Some("record-layer"), ANY, "\"best\"",
        "Which simulcast encoding is recorded: best, the one that most flows of, or the rid of one (\"h\"). Where that one does not flow the best is taken.";
    record_split_minutes: usize = 0, "record.split_minutes", Some("record-split-minutes"), (0, 1_440), "60",
        "A file is ended at the first key frame after so many minutes, and the next one begins there. 0: never.";
    record_split_mib: usize = 0, "record.split_mib", Some("record-split-mib"), (0, 1_048_576), "1024",
        "The same after so many MiB. 0: never.";
    record_sync: RecordSync = RecordSync::End, "record.sync", Some("record-sync"), ANY, "\"end\"",
        "When a recording is forced to the disk. cluster: about once a second, so that a power cut loses no more than a crash of the server does. end: when the file ends.";
    record_s3_bucket: Option<String> = None, "record.s3.bucket", None, ANY, "\"recordings\"",
        "Bucket of an S3-compatible store to which recordings, and the events beside them, are uploaded as soon as they have ended. Unset: none is.";
    record_s3_endpoint: Option<String> = None, "record.s3.endpoint", None, ANY, "\"https://s3.example.org\"",
        "Address of the store, https:// or http://, without the bucket. Unset: Amazon's in the region.";
    record_s3_region: Option<String> = None, "record.s3.region", None, ANY, "\"eu-central-1\"",
        "Region of the bucket. Unset: what AWS_REGION says, else us-east-1, which stores without regions take.";
    record_s3_access_key_id: Option<String> = None, "record.s3.access_key_id", None, ANY, "\"AKIAIOSFODNN7EXAMPLE\"",
        "Key id for the store. Unset: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment, else the role that the machine or container has.";
    record_s3_secret_access_key: Option<Secret> = None, "record.s3.secret_access_key", None, ANY, "\"a secret\"",
        "The secret that belongs to access_key_id.";
    record_s3_prefix: Option<String> = None, "record.s3.prefix", None, ANY, "\"recordings/2026\"",
        "What objects' names begin with. They go on as below record.folder: ROOM/FILE.";
    record_s3_keep_local: bool = true, "record.s3.keep_local", None, ANY, "true",
        "Whether files stay in record.folder. false: each is deleted when the store has confirmed that it has all of it, and its events.";
    record_s3_uploads: usize = 2, "record.s3.uploads", None, (1, limits::UPLOADS_MAX as i64), "2",
        "Recordings that are uploaded at a time, in parts of 8 MiB (larger beyond 80 GiB) that are in memory one by one.";
    webhook_urls: Vec<String> = Vec::new(), "webhook.urls", Some("webhook"), ANY, "[\"https://example.org/livekit\"]",
        "Addresses that are told of events by POST, as LiveKit's server does: rooms, their participants and tracks, and egresses begin and end (room_started, participant_joined, track_published, egress_ended and so on).";
    webhook_api_key: Option<String> = None, "webhook.api_key", Some("webhook-api-key"), ANY, "\"my-key\"",
        "API key of [keys] that webhooks are signed with. Unset: the first one.";
    log_format: LogFormat = LogFormat::Human, "log.format", Some("log"), ANY, "\"human\"",
        "Log lines for people, or one JSON object each.";
    log_level: String = "info".into(), "log.level", Some("log-level"), ANY, "\"info\"",
        "error, warn, info, debug or trace, or filter directives like info,distributary::signal=debug.";
    keys: Keys = Keys::default(), "keys", None, ANY, "{ my-key = \"a secret of 32 bytes or more\" }",
        "API keys and their secrets, for access tokens. Required without --dev. Make a secret with: openssl rand -hex 32";
}
