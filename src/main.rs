//! Starts and ends the server, and runs the small commands around it.
//!
//! Exit codes: 0 when all went well, 1 when the server could not start or failed, 2 for a mistake in the command line or the
//! configuration.

use std::fmt::Display;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use distributary::admin::{self, VERSION, Views};
use distributary::cli::{Action, Cli, RecordArgs, ServeArgs, TokenArgs};
use distributary::client::Client;
use distributary::config::{self, DEV_KEY, KeyRing, LogFormat, LogPlan, Machine, Plan, Sources};
use distributary::signal::auth::{self, Claims, Gate, VideoGrants};
use distributary::signal::http::{self, Certificate, Listener, Services};
use distributary::signal::livekit::egress::{self, Egress};
use distributary::signal::livekit::webhook::Webhooks;
use distributary::{doctor, io::probe, topology};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for HTTP: few, because all it does is wait for the director.
const HTTP_THREADS: usize = 2;
/// Time for members' clients to be told that the server ends.
const FAREWELL: Duration = Duration::from_millis(50);
/// After this a stop that hangs is cut short.
const STOP_TIME_MAX: Duration = Duration::from_millis(900);

/// What ends the process with a message.
struct Fatal {
    code: u8,
    message: String,
}

impl Fatal {
    fn usage(error: impl Display) -> Self {
        Fatal { code: 2, message: error.to_string() }
    }
    fn failure(error: impl Display) -> Self {
        Fatal { code: 1, message: error.to_string() }
    }
}

fn main() -> ExitCode {
    let done = match Cli::from_environment() {
        Action::Serve(arguments) => serve(arguments),
        Action::CheckConfig(arguments) => check_config(arguments),
        Action::Config(_) => {
            print!("{}", config::print_default());
            Ok(())
        }
        Action::Doctor => {
            print!("{}", doctor::report());
            Ok(())
        }
        Action::Token(arguments) => token(arguments),
        Action::Record(arguments) => record(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal { code, message }) => {
            eprintln!("distributary: {message}");
            ExitCode::from(code)
        }
    }
}

fn plan(sources: &Sources) -> Result<Plan, Fatal> {
    let cores = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let machine = Machine { cores, addresses: probe::local_addresses() };
    sources.plan(&machine).map_err(Fatal::usage)
}

fn serve(arguments: ServeArgs) -> Result<(), Fatal> {
    let sources = arguments.sources();
    let plan = plan(&sources)?;
    start_log(&plan.log)?;
    // The port first: if the server is running already, nothing else has been touched.
    let listener = Listener::bind(plan.http_bind).map_err(Fatal::failure)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("http")
        .on_thread_start({
            let (plan, started) = (plan.clone(), AtomicUsize::new(0));
            move || topology::keep_off_workers(&plan, started.fetch_add(1, Ordering::Relaxed))
        })
        .enable_all()
        .build()
        .map_err(|error| Fatal::failure(format!("cannot start the HTTP threads: {error}")))?;
    let certificate = plan.tls.as_ref().map(|files| runtime.block_on(Certificate::read(files))).transpose();
    let certificate = certificate.map_err(Fatal::failure)?;
    let mut running = topology::start(&plan).map_err(Fatal::failure)?;
    announce(&plan, &listener, &running.summary);

    let services = Services::new(&plan, running.handle.clone());
    let views = Views::new(&plan, running.handle.clone(), running.metrics.clone());
    let webhooks = Webhooks::new(plan.webhook.clone(), plan.keys.clone(), running.handle.clone(), runtime.handle().clone());
    let webhooks = webhooks.map_err(|error| Fatal::failure(format!("cannot send webhooks: {error}")))?;
    if let Some(mut happenings) = running.happenings.take() {
        let webhooks = webhooks.clone();
        runtime.spawn(async move {
            while let Some(event) = happenings.recv().await {
                webhooks.send(event, &[]);
            }
        });
    }
    let recordings = egress::Sources::new(&plan, running.handle.clone());
    let egress = Egress::start(Gate::new(&plan.keys, plan.dev), recordings, webhooks, runtime.handle());
    runtime.spawn(reload_when_asked(sources, plan.keys.clone(), certificate.clone()));
    let routes = http::finish(http::routes(services).merge(egress::routes(egress)).merge(admin::routes(views)));
    let (stop_http, handle) = (listener.stopper(), running.handle.clone());
    let served = runtime.block_on(async {
        let asked = async {
            stop_asked().await;
            tracing::info!("stopping");
            stop_watchdog();
            if handle.farewell() {
                tokio::time::sleep(FAREWELL).await;
            }
            stop_http();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = listener.serve(routes, certificate) => served,
            () = asked => Ok(()),
        }
    });
    runtime.shutdown_background();
    running.stop();
    tracing::info!("stopped");
    served.map_err(Fatal::failure)
}

/// Waits for Ctrl-C or the service manager's request.
async fn stop_asked() {
    let mut terminate = signal(SignalKind::terminate()).ok();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        Some(()) = async { terminate.as_mut()?.recv().await } => {}
    }
}

/// At SIGHUP: reads the API keys and the certificate again. What is wrong with them is said, and the old ones stay.
async fn reload_when_asked(sources: Sources, keys: KeyRing, certificate: Option<Certificate>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match plan(&sources) {
            Ok(plan) => {
                keys.replace(plan.keys.keys());
                tracing::info!(keys = plan.keys.names().join(", "), "API keys read again; other options want a restart");
            }
            Err(Fatal { message, .. }) => tracing::error!("API keys stay as they were: {message}"),
        }
        let Some(certificate) = &certificate else { continue };
        match certificate.reload().await {
            Ok(()) => tracing::info!("certificate read again"),
            Err(error) => tracing::error!("the certificate stays as it was: {error}"),
        }
    }
}

/// A clean end is quick; one that hangs is still an end.
fn stop_watchdog() {
    std::thread::spawn(|| {
        std::thread::sleep(STOP_TIME_MAX);
        tracing::warn!("not stopped after {} ms: ending at once", STOP_TIME_MAX.as_millis());
        std::process::exit(0);
    });
}

/// The few lines an operator reads first.
fn announce(plan: &Plan, listener: &Listener, summary: &[String]) {
    let scheme = if plan.tls.is_some() { "https" } else { "http" };
    let address = listener.address();
    let host = match address.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        ip if ip.is_ipv6() => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let access = if plan.dev { "open (--dev): no token needed" } else { "tokens needed" };
    let mut lines = vec![format!("distributary {VERSION}"), format!("http    tcp {address}, {access}")];
    lines.extend(summary.iter().cloned());
    lines.push(format!("page    {scheme}://{host}:{}/", address.port()));
    for line in lines {
        match plan.log.format {
            LogFormat::Human => println!("{line}"),
            LogFormat::Json => tracing::info!("{line}"),
        }
    }
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
}

/// Log lines go to standard error, so that the start lines can be read apart from them.
fn start_log(log: &LogPlan) -> Result<(), Fatal> {
    // The DTLS library warns of every extension that it does not know, several times for each client; that of SCTP of every
    // packet that is not to its liking, and those are counted.
    let filter =
        tracing_subscriber::EnvFilter::try_new(format!("rtc_dtls=error,sctp_proto=off,{}", log.level)).map_err(Fatal::usage)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn check_config(arguments: ServeArgs) -> Result<(), Fatal> {
    let plan = plan(&arguments.sources())?;
    println!("The configuration is good.");
    println!("http    tcp {}{}", plan.http_bind, if plan.tls.is_some() { " with TLS" } else { "" });
    let (io, steer) = (plan.io.name(), plan.steer.name());
    println!("media   udp {}, workers {} on cores {:?}, I/O {io}, steered by {steer}", plan.media_bind, plan.workers, plan.cores);
    let candidates: Vec<String> = plan.candidates.iter().map(ToString::to_string).collect();
    println!("offers  {}", candidates.join(", "));
    println!("keys    {}", plan.keys.names().join(", "));
    println!(
        "limits  {} sessions, {} in one room, none while a worker is {} % busy",
        plan.sessions_max, plan.room_sessions_max, plan.load_max
    );
    for warning in &plan.warnings {
        println!("warning {warning}");
    }
    Ok(())
}

fn token(arguments: TokenArgs) -> Result<(), Fatal> {
    let (key, secret) = match (arguments.key, arguments.secret) {
        (Some(key), Some(secret)) => (key, secret),
        _ => {
            let sources = Sources { file: arguments.config, ..Sources::from_environment() };
            let keys = sources.settings().map_err(Fatal::usage)?.keys.0;
            keys.into_iter().next().unwrap_or_else(|| {
                eprintln!("distributary: no key configured: this token is for a server that runs with --dev");
                (DEV_KEY.0.to_owned(), DEV_KEY.1.to_owned())
            })
        }
    };
    let all = !arguments.publish && !arguments.subscribe;
    let video = VideoGrants {
        room: Some(arguments.room),
        room_join: true,
        can_publish: Some(all || arguments.publish),
        can_subscribe: Some(all || arguments.subscribe),
        room_list: arguments.list,
        room_record: arguments.record,
        can_update_own_metadata: Some(true),
        ..VideoGrants::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Fatal::failure)?.as_secs();
    let (exp, nbf) = (now + arguments.ttl, Some(now));
    let claims = Claims { iss: key, sub: arguments.identity, nbf, exp, video, ..Claims::default() };
    println!("{}", auth::sign(&claims, &secret).map_err(Fatal::failure)?);
    Ok(())
}

fn record(arguments: RecordArgs) -> Result<(), Fatal> {
    let key = match (arguments.key, arguments.secret) {
        (Some(key), Some(secret)) => Some((key, secret)),
        _ => {
            let sources = Sources { file: arguments.config, ..Sources::from_environment() };
            sources.settings().map_err(Fatal::usage)?.keys.0.into_iter().next()
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Fatal::failure)?.as_secs();
    let video = VideoGrants { room_record: true, ..VideoGrants::default() };
    let claims = |iss| Claims { iss, exp: now + 60, video, ..Claims::default() };
    let token = key.map(|(iss, secret)| auth::sign(&claims(iss), &secret));
    let client = Client::new(&arguments.server, token.transpose().map_err(Fatal::failure)?, arguments.insecure);
    match arguments.room {
        Some(room) if arguments.stop => {
            client.stop_recording(&room, arguments.name.as_deref()).map_err(Fatal::failure)?;
            println!("{room:?} is recorded no more.");
        }
        Some(room) if arguments.pause || arguments.resume => {
            client.pause_recording(&room, arguments.name.as_deref(), arguments.pause).map_err(Fatal::failure)?;
            match arguments.pause {
                true => println!("{room:?} pauses. Go on with: distributary record --resume {room:?}"),
                false => println!("{room:?} is being recorded again."),
            }
        }
        Some(room) => {
            let mut wish = serde_json::json!({ "room": room });
            let RecordArgs { name, format, files, layer, .. } = arguments;
            for (field, value) in [("name", name), ("format", format), ("files", files), ("layer", layer)] {
                if let Some(value) = value {
                    wish[field] = value.into();
                }
            }
            match client.record(&wish).map_err(Fatal::failure)?["publishing"].as_bool() {
                Some(true) => println!("{room:?} is being recorded. Stop it with: distributary record --stop {room:?}"),
                _ => {
                    println!(
                        "{room:?} will be recorded when somebody publishes. Stop that with: distributary record --stop {room:?}"
                    )
                }
            }
        }
        None => {
            let list = client.recordings().map_err(Fatal::failure)?;
            for recording in list["recordings"].as_array().into_iter().flatten() {
                let text = |field: &str| recording[field].as_str().unwrap_or("-").to_owned();
                let (seconds, bytes) = (recording["seconds"].as_f64().unwrap_or(0.0), recording["bytes"].as_u64().unwrap_or(0));
                let gaps = recording["gaps"].as_u64().map_or("-".to_owned(), |gaps| gaps.to_string());
                let mib = bytes as f64 / f64::from(1 << 20);
                let (state, room, began, url) = (text("state"), text("room"), text("began"), text("url"));
                println!("{state:9} {began} {seconds:8.1} s {mib:9.2} MiB  gaps {gaps:4} {room:?} {url}");
            }
        }
    }
    Ok(())
}
