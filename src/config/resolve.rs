//! From the values of all options to a plan: what depends on several of them, or on this machine.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::load::ConfigError;
use super::options::Settings;
use super::{DEV_KEY, Keys, LogPlan, Machine, Plan, RecordPlan, RoomPattern, RoomPlan, Steer, StoragePlan, TlsFiles, WebhookPlan};
use crate::limits;
use crate::rtp::config::MediaKind;
use crate::units::Micros;

/// Checks what depends on more than one option and takes from the machine what is left open.
pub fn plan(settings: &Settings, dev: bool, machine: &Machine) -> Result<Plan, ConfigError> {
    let mut warnings = Vec::new();
    let keys = keys(settings, dev)?;
    let bind = settings.bind.unwrap_or(if dev { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::UNSPECIFIED.into() });
    let http_bind = SocketAddr::new(settings.http_bind.unwrap_or(bind), settings.http_port);
    let media_bind = SocketAddr::new(settings.media_bind.unwrap_or(bind), settings.media_port);
    let tls = tls(settings)?;
    if dev && !http_bind.ip().is_loopback() {
        warnings.push(format!("--dev with HTTP on {}: everybody who reaches it can publish and watch", http_bind.ip()));
    }
    if !dev && tls.is_none() && !http_bind.ip().is_loopback() {
        warnings.push(
            "HTTP without TLS: tokens go in the clear, and browsers give no camera to the page but on localhost. Set http.cert_file \
             and http.key_file, or listen on 127.0.0.1 behind a proxy that does TLS"
                .into(),
        );
    }
    if settings.media_codecs.is_empty() {
        return Err(ConfigError::Empty { key: "media.codecs", wanted: "at least one codec" });
    }
    if !settings.media_codecs.iter().any(|codec| codec.kind() == MediaKind::Audio) {
        warnings.push("media.codecs has no audio codec: all audio is refused".into());
    }
    let (workers, cores) = workers(settings, &machine.cores, &mut warnings)?;
    if settings.media_steer == Steer::Cpu && cores.is_empty() {
        return Err(ConfigError::SteerUnpinned { workers, cores: machine.cores.len() });
    }
    // What is not a worker keeps off the workers' cores, where it can.
    let slow_cores: Vec<usize> = match cores.is_empty() {
        true => Vec::new(),
        false => machine.cores.iter().copied().filter(|core| !cores.contains(core)).collect(),
    };
    let handshake_threads = match settings.media_handshake_threads {
        0 => slow_cores.len().clamp(1, 4),
        threads => threads,
    };
    tracing_subscriber::EnvFilter::try_new(&settings.log_level)
        .map_err(|error| ConfigError::BadFilter { value: settings.log_level.clone(), reason: error.to_string() })?;
    Ok(Plan {
        dev,
        http_bind,
        tls,
        media_bind,
        tcp_port: Some(settings.media_tcp_port).filter(|port| *port != 0),
        workers,
        cores,
        slow_cores,
        handshake_threads,
        io: settings.media_io,
        steer: settings.media_steer,
        busy_poll_us: settings.media_busy_poll_us,
        huge_pages: settings.media_huge_pages,
        hold: settings.media_hold,
        max_hold: Micros::from_millis(settings.media_max_hold_ms as u64),
        estimation: settings.media_bandwidth_estimation,
        spin: Micros(settings.media_spin_us as u64),
        candidates: candidates(settings, media_bind.ip(), &machine.addresses, &mut warnings),
        webhook: webhook(settings, &keys)?,
        keys: keys.into(),
        ice_servers: settings.ice_servers.clone(),
        sessions_max: settings.limits_sessions,
        room_sessions_max: settings.limits_room_sessions.min(settings.limits_sessions),
        load_max: settings.limits_load as u64,
        joins_per_minute: settings.limits_joins_per_minute as u32,
        codecs: settings.media_codecs.clone(),
        room: RoomPlan {
            names: settings.room_names.iter().cloned().map(RoomPattern).collect(),
            speakers: settings.room_speakers,
            last_n: settings.room_last_n,
            region: settings.room_region.clone(),
        },
        record: record(settings)?,
        storage: storage(settings, &mut warnings)?,
        log: LogPlan { format: settings.log_format, level: settings.log_level.clone() },
        warnings,
    })
}

fn keys(settings: &Settings, dev: bool) -> Result<Keys, ConfigError> {
    let mut keys = settings.keys.clone();
    if dev {
        keys.0.entry(DEV_KEY.0.to_owned()).or_insert_with(|| DEV_KEY.1.to_owned());
    } else if keys.0.is_empty() {
        return Err(ConfigError::NoKeys);
    }
    Ok(keys)
}

fn tls(settings: &Settings) -> Result<Option<TlsFiles>, ConfigError> {
    let readable = |key: &'static str, file: &PathBuf| {
        File::open(file).map_err(|error| ConfigError::BadFile { key, file: file.clone(), reason: error.to_string() })
    };
    match (&settings.http_cert_file, &settings.http_key_file) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::HalfTls { missing: "http.key_file" }),
        (None, Some(_)) => Err(ConfigError::HalfTls { missing: "http.cert_file" }),
        (Some(cert), Some(key)) => {
            readable("http.cert_file", cert)?;
            readable("http.key_file", key)?;
            Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone() }))
        }
    }
}

/// What is recorded. The folder is made if it is not there.
fn record(settings: &Settings) -> Result<Option<RecordPlan>, ConfigError> {
    let Some(folder) = &settings.record_folder else { return Ok(None) };
    let bad = |reason: String| ConfigError::BadFolder { key: "record.folder", folder: folder.clone(), reason };
    std::fs::create_dir_all(folder).map_err(|error| bad(error.to_string()))?;
    let trial = folder.join(format!(".trial-{}", std::process::id()));
    File::create(&trial).and_then(|_| std::fs::remove_file(&trial)).map_err(|error| bad(error.to_string()))?;
    let rooms = settings.record_rooms.iter().cloned().map(RoomPattern).collect();
    let split_after = Some(settings.record_split_minutes as u64).filter(|minutes| *minutes > 0);
    let split_bytes = Some(settings.record_split_mib as u64).filter(|mib| *mib > 0);
    Ok(Some(RecordPlan {
        folder: folder.clone(),
        rooms,
        format: settings.record_format,
        files: settings.record_files,
        layer: settings.record_layer.clone(),
        sync: settings.record_sync,
        split_after: split_after.map(|minutes| Micros::from_secs(minutes * 60)),
        split_bytes: split_bytes.map(|mib| mib << 20),
    }))
}

/// Where recordings are uploaded to.
fn storage(settings: &Settings, warnings: &mut Vec<String>) -> Result<Option<StoragePlan>, ConfigError> {
    const BUCKET: &str = "record.s3.bucket";
    let set = [
        ("record.s3.endpoint", settings.record_s3_endpoint.is_some()),
        ("record.s3.access_key_id", settings.record_s3_access_key_id.is_some()),
        ("record.s3.secret_access_key", settings.record_s3_secret_access_key.is_some()),
        ("record.s3.prefix", settings.record_s3_prefix.is_some()),
    ];
    let Some(bucket) = settings.record_s3_bucket.clone() else {
        return match set.into_iter().find(|(_, set)| *set) {
            Some((set, _)) => Err(ConfigError::Together { set, missing: BUCKET, why: "without a bucket nothing is uploaded" }),
            None => Ok(None),
        };
    };
    if settings.record_folder.is_none() {
        let why = "what is uploaded is recorded into a folder first";
        return Err(ConfigError::Together { set: BUCKET, missing: "record.folder", why });
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#%\\\"<>".contains(&byte));
    if !plain(&bucket) || bucket.contains("..") {
        return Err(ConfigError::BadText { key: BUCKET, value: bucket, wanted: "the name of a bucket, without slashes" });
    }
    if let Some(endpoint) = &settings.record_s3_endpoint {
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://")).unwrap_or_default();
        if host.is_empty() || !host.trim_end_matches('/').split('/').all(|part| !part.is_empty() && plain(part)) {
            let (key, wanted) = ("record.s3.endpoint", "an address that begins with https:// or http://, without the bucket");
            return Err(ConfigError::BadText { key, value: endpoint.clone(), wanted });
        }
        let local = ["localhost", "127.", "[::1]"].iter().any(|own| host.starts_with(own));
        if endpoint.starts_with("http://") && !local {
            warnings.push(format!("record.s3.endpoint = {endpoint:?}: recordings go to the store in the clear"));
        }
    }
    let credentials = match (&settings.record_s3_access_key_id, &settings.record_s3_secret_access_key) {
        (Some(id), Some(secret)) => Some((id.clone(), secret.clone())),
        (None, None) => None,
        (id, _) => {
            let (id, secret) = (("record.s3.access_key_id", id.is_some()), "record.s3.secret_access_key");
            let (set, missing) = if id.1 { (id.0, secret) } else { (secret, id.0) };
            return Err(ConfigError::Together { set, missing, why: "credentials are both of them" });
        }
    };
    let prefix = settings.record_s3_prefix.as_deref().unwrap_or_default().trim_matches('/');
    if prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains("//") || prefix.contains(char::is_control) {
        let (key, wanted) = ("record.s3.prefix", "names separated by single slashes, none of them . or ..");
        return Err(ConfigError::BadText { key, value: prefix.to_owned(), wanted });
    }
    Ok(Some(StoragePlan {
        bucket,
        endpoint: settings.record_s3_endpoint.as_ref().map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
        region: settings.record_s3_region.clone(),
        credentials,
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        keep_local: settings.record_s3_keep_local,
        uploads: settings.record_s3_uploads,
    }))
}

/// Whom to tell what happens.
fn webhook(settings: &Settings, keys: &Keys) -> Result<WebhookPlan, ConfigError> {
    let urls = settings.webhook_urls.clone();
    if urls.len() > limits::WEBHOOK_ADDRESSES_MAX {
        return Err(ConfigError::BadText { key: "webhook.urls", value: format!("{} addresses", urls.len()), wanted: "fewer" });
    }
    if let Some(wrong) = urls.iter().find(|url| !(url.starts_with("https://") || url.starts_with("http://"))) {
        let wanted = "addresses that begin with https:// or http://";
        return Err(ConfigError::BadText { key: "webhook.urls", value: wrong.clone(), wanted });
    }
    match &settings.webhook_api_key {
        Some(key) if !keys.0.contains_key(key) => {
            Err(ConfigError::BadText { key: "webhook.api_key", value: key.clone(), wanted: "one of [keys]" })
        }
        Some(key) => Ok(WebhookPlan { urls, api_key: key.clone() }),
        None => Ok(WebhookPlan { urls, api_key: keys.0.keys().next().cloned().unwrap_or_default() }),
    }
}

/// How many workers, and on which cores. The first core is left to the slow path and the kernel's interrupts, which land
/// there more often than elsewhere.
fn workers(settings: &Settings, available: &[usize], warnings: &mut Vec<String>) -> Result<(usize, Vec<usize>), ConfigError> {
    let wanted: Vec<usize> = settings.media_cores.iter().copied().map(usize::from).collect();
    if let Some(core) = wanted.iter().find(|core| !available.contains(core)) {
        return Err(ConfigError::CoreAbsent { core: *core, available: available.to_vec() });
    }
    let workers = match settings.media_workers {
        0 if !wanted.is_empty() => wanted.len(),
        0 => available.len().saturating_sub(1).max(1),
        workers => workers,
    };
    let workers = workers.min(limits::WORKERS_MAX);
    if !wanted.is_empty() {
        return match wanted.len() == workers {
            true => Ok((workers, wanted)),
            false => Err(ConfigError::Cores { cores: wanted.len(), workers }),
        };
    }
    if workers > available.len() {
        warnings.push(format!("media.workers = {workers} is more than the {} cores there are: not pinned", available.len()));
        return Ok((workers, Vec::new()));
    }
    let cores = available.iter().copied().skip(available.len() - workers).collect();
    Ok((workers, cores))
}

/// Addresses to offer. Those that were configured, if any; else the one bound to; else all local ones.
fn candidates(settings: &Settings, bind: IpAddr, local: &[IpAddr], warnings: &mut Vec<String>) -> Vec<IpAddr> {
    let mut candidates: Vec<IpAddr> = Vec::new();
    candidates.extend(settings.media_external_ips.iter().chain(&settings.media_addresses));
    if candidates.is_empty() {
        if bind.is_unspecified() {
            let v4_only = bind.is_ipv4();
            candidates.extend(local.iter().filter(|address| !v4_only || address.is_ipv4()));
        } else {
            candidates.push(bind);
        }
    }
    let mut seen = std::collections::HashSet::new();
    candidates.retain(|address| !address.is_unspecified() && !address.is_multicast() && seen.insert(*address));
    if candidates.is_empty() {
        warnings.push("this machine has no address but loopback: only clients on it can connect".into());
        candidates.push(Ipv4Addr::LOCALHOST.into());
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{IceServer, Secret, Sources};

    /// What `plan` gives on a machine with four cores and two addresses.
    fn plan(settings: &Settings, dev: bool) -> Result<Plan, ConfigError> {
        super::plan(settings, dev, &machine())
    }

    fn machine() -> Machine {
        Machine { cores: vec![0, 1, 2, 3], addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()] }
    }

    fn closed() -> Settings {
        let mut settings = Settings::default();
        settings.keys.0.insert("k".into(), "0123456789abcdef0123456789abcdef".into());
        settings
    }

    #[test]
    fn dev_is_open_on_loopback_and_nothing_else_starts_open() {
        let dev = plan(&Settings::default(), true).unwrap();
        assert_eq!(dev.http_bind.to_string(), "127.0.0.1:7880");
        assert_eq!(dev.media_bind.to_string(), "127.0.0.1:7882");
        assert_eq!(dev.candidates, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(dev.keys.secret("devkey").as_deref(), Some("secret"));
        assert!(dev.warnings.is_empty() && dev.workers == 3 && dev.cores == [1, 2, 3]);
        assert!(dev.slow_cores == [0] && dev.handshake_threads == 1);
        assert!(matches!(plan(&Settings::default(), false), Err(ConfigError::NoKeys)));
        let closed = plan(&closed(), false).unwrap();
        assert_eq!(closed.http_bind.to_string(), "[::]:7880");
        assert!(closed.keys.secret("devkey").is_none() && closed.candidates == machine().addresses);
        assert!(closed.warnings.iter().any(|warning| warning.contains("TLS")));
    }

    #[test]
    fn steering_by_core_wants_pinned_workers() {
        let settings = Settings { media_steer: Steer::Cpu, ..closed() };
        assert_eq!(plan(&settings, false).unwrap().steer, Steer::Cpu);
        let error = plan(&Settings { media_workers: 5, ..settings }, false).unwrap_err().to_string();
        assert!(error.contains("5 workers on 4 cores") && error.contains("media.workers to 4"), "{error}");
    }

    #[test]
    fn what_depends_on_two_options_is_checked() {
        let half = Settings { http_cert_file: Some("/dev/null".into()), ..closed() };
        assert!(plan(&half, false).unwrap_err().to_string().starts_with("http.key_file is not set"));
        let absent = Settings { http_key_file: Some("/nowhere/key.pem".into()), ..half };
        assert!(plan(&absent, false).unwrap_err().to_string().contains("http.key_file = \"/nowhere/key.pem\""));
        let cores = Settings { media_cores: vec![0], media_workers: 2, ..closed() };
        assert!(matches!(plan(&cores, false), Err(ConfigError::Cores { cores: 1, workers: 2 })));
        let few = plan(&Settings { media_cores: vec![2], ..closed() }, false).unwrap();
        assert!(few.slow_cores == [0, 1, 3] && few.handshake_threads == 3);
        let all = plan(&Settings { media_workers: 4, media_handshake_threads: 2, ..closed() }, false).unwrap();
        assert!(all.slow_cores.is_empty() && all.handshake_threads == 2);
        let cores = Settings { media_cores: vec![4000], ..closed() };
        assert!(matches!(plan(&cores, false), Err(ConfigError::CoreAbsent { core: 4000, .. })));
        let codecs = Settings { media_codecs: vec![], ..closed() };
        assert!(matches!(plan(&codecs, false), Err(ConfigError::Empty { .. })));
        let many = plan(&Settings { media_workers: 64, ..closed() }, false).unwrap();
        assert!(many.workers == 64 && many.cores.is_empty() && many.warnings.iter().any(|warning| warning.contains("not pinned")));
        let recorded = Settings { record_folder: Some("/dev/null/recordings".into()), ..closed() };
        let error = plan(&recorded, false).unwrap_err().to_string();
        assert!(error.starts_with("record.folder = \"/dev/null/recordings\" must be a folder"), "{error}");
        let on_request = Settings { record_folder: Some(std::env::temp_dir()), record_rooms: vec![], ..closed() };
        assert_eq!(plan(&on_request, false).unwrap().record.map(|record| record.rooms), Some(vec![]));
        let stored = |change: fn(&mut Settings)| {
            let mut settings = Settings { record_folder: Some(std::env::temp_dir()), ..closed() };
            settings.record_s3_bucket = Some("recordings".into());
            change(&mut settings);
            plan(&settings, false).map(|plan| plan.storage).map_err(|error| error.to_string())
        };
        let storage = stored(|settings| settings.record_s3_prefix = Some("/a/b/".into())).unwrap().unwrap();
        assert!(storage.prefix == "a/b/" && storage.keep_local && storage.credentials.is_none(), "{storage:?}");
        for (change, told) in [
            ((|settings| settings.record_folder = None) as fn(&mut Settings), "record.folder is not"),
            (|settings| settings.record_s3_access_key_id = Some("id".into()), "record.s3.secret_access_key is not"),
            (|settings| settings.record_s3_secret_access_key = Some(Secret("s".into())), "record.s3.access_key_id is not"),
            (
                |settings| settings.record_s3_endpoint = Some("s3.example.org".into()),
                "must be an address that begins with https://",
            ),
            (|settings| settings.record_s3_endpoint = Some("http://".into()), "must be an address"),
            (|settings| settings.record_s3_bucket = Some("a/b".into()), "record.s3.bucket = \"a/b\" must be"),
            (|settings| settings.record_s3_prefix = Some("a/../b".into()), "none of them . or .."),
        ] {
            let error = stored(change).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let hooked = |url: &str, key: &str| {
            let settings = Settings { webhook_urls: vec![url.into()], webhook_api_key: Some(key.into()), ..closed() };
            plan(&settings, false).map(|plan| plan.webhook.api_key).map_err(|error| error.to_string())
        };
        assert_eq!(hooked("https://example.org/", "k").as_deref(), Ok("k"));
        assert!(hooked("example.org", "k").unwrap_err().contains("webhook.urls = \"example.org\" must be addresses"));
        assert!(hooked("https://example.org/", "other").unwrap_err().contains("webhook.api_key = \"other\" must be one of [keys]"));
        let unused = Settings { record_s3_prefix: Some("a".into()), ..closed() };
        assert!(plan(&unused, false).unwrap_err().to_string().contains("record.s3.bucket is not"));
        let level = Settings { log_level: "a=b=c".into(), ..closed() };
        assert!(plan(&level, false).unwrap_err().to_string().starts_with("log.level = \"a=b=c\""));
    }

    #[test]
    fn configured_addresses_replace_local_ones() {
        let external: IpAddr = "203.0.113.7".parse().unwrap();
        let nat = Settings { media_external_ips: vec![external, external], ..closed() };
        assert_eq!(plan(&nat, false).unwrap().candidates, [external]);
        let v4 = Settings { media_bind: Some("0.0.0.0".parse().unwrap()), ..closed() };
        assert_eq!(plan(&v4, false).unwrap().candidates, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        let bound = Settings { media_bind: Some("127.0.0.1".parse().unwrap()), ..closed() };
        assert_eq!(plan(&bound, false).unwrap().candidates, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut settings = closed();
        settings.ice_servers =
            vec![IceServer { urls: vec!["turn:t".into()], username: Some("u".into()), credential: Some("hidden".into()) }];
        settings.record_folder = Some(std::env::temp_dir());
        settings.record_s3_bucket = Some("b".into());
        settings.record_s3_access_key_id = Some("id".into());
        settings.record_s3_secret_access_key = Some(Secret("hidden".into()));
        let text = format!("{settings:?} {:?}", plan(&settings, false).unwrap());
        assert!(!text.contains("hidden") && !text.contains("0123456789abcdef"), "{text}");
    }

    #[test]
    fn variables_that_mean_nothing_are_mentioned() {
        let mut sources = Sources { dev: true, ..Sources::default() };
        sources.environment.insert("DISTRIBUTARY_MEDIA_PROT".into(), "1".into());
        assert!(sources.plan(&machine()).unwrap().warnings[0].contains("DISTRIBUTARY_MEDIA_PROT"));
    }
}
