//! A short run of the load generator against the server: nobody loses a packet, and what the sample decrypts is what was sent.
//!
//! The server's program is not built by this package's tests. `cargo test --workspace` builds it, as `cargo build` does; it is
//! looked for where those put it, next to the generator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

/// One load at a time: they all want the same cores.
static MACHINE: Mutex<()> = Mutex::new(());

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

fn server() -> PathBuf {
    let server = Path::new(LOADGEN).with_file_name("distributary");
    let profile = if LOADGEN.contains("/release/") { " --release" } else { "" };
    assert!(server.is_file(), "{} is missing; build it with: cargo build{profile} --bin distributary", server.display());
    server
}

fn run(arguments: &[&str]) -> Value {
    loadgen("run", arguments)
}

fn loadgen(action: &str, arguments: &[&str]) -> Value {
    let _alone = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let output =
        Command::new(LOADGEN).arg(action).arg("--server-binary").arg(server()).args(arguments).output().expect("loadgen runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 1, "one line of JSON: {stdout}");
    serde_json::from_str(lines[0]).expect("JSON")
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

#[track_caller]
fn check(report: &Value, viewers: u32, packets_per_second: f64) {
    for none in ["/lost", "/lost_by_generator", "/duplicates", "/packets_damaged", "/ssrc_changes", "/began_without_key_frame"] {
        assert_eq!(number(report, none), 0.0, "{none} in {report}");
    }
    let received = number(report, "/packets_received");
    assert_eq!(received, number(report, "/packets_expected"), "{report}");
    let expected = packets_per_second * number(report, "/seconds") * f64::from(viewers);
    // A publisher that a busy machine made late catches up.
    assert!((0.6..1.6).contains(&(received / expected)), "{received} packets instead of about {expected}: {report}");
    assert!(number(report, "/packets_intact") > 0.9 * received / f64::from(viewers), "{report}");
    assert_eq!(report["srtp_profile"], "AEAD_AES_128_GCM");
    // Far above what a quiet machine needs: a test must pass on a busy one.
    assert!(number(report, "/latency_us/p50") < 250_000.0, "{report}");
    assert!(number(report, "/cpu_us_per_forwarded_packet") > 0.0 && number(report, "/idle_rss_kib") > 0.0, "{report}");
}

#[test]
fn twenty_viewers_lose_nothing() {
    // 260 packets of video and 50 of audio a second, and more for key frames.
    check(&run(&["--viewers", "20", "--seconds", "5"]), 20, 334.0);
}

#[test]
fn the_portable_backend_and_a_passive_publisher_lose_nothing() {
    let report = run(&["--viewers", "5", "--seconds", "2", "--settle", "1", "--io", "mmsg", "--setup", "passive", "--no-gro"]);
    check(&report, 5, 334.0);
}

/// The server estimates, paces and probes, which it does as the first packets go; on a path without limit that costs no packet.
#[test]
fn viewers_that_tell_of_their_paths_lose_nothing() {
    let report = run(&["--viewers", "5", "--seconds", "3", "--settle", "0", "--feedback", "transport-cc"]);
    check(&report, 5, 334.0);
    assert!(number(&report, "/retransmissions") > 0.0, "probes: {report}");
}

#[test]
fn audio_alone_with_cores_kept_awake() {
    let report = run(&["--viewers", "3", "--seconds", "2", "--settle", "0", "--audio", "only", "--sample", "1", "--awake"]);
    check(&report, 3, 50.0);
    // What keeps a core awake takes all that is left of it, and is the generator's own, not another process'.
    let threads = report["generator"]["cpu_us_by_thread"].as_array().unwrap();
    let awake: f64 =
        threads.iter().filter(|t| t[0].as_str().unwrap().starts_with("lg-awake")).map(|t| t[1].as_f64().unwrap()).sum();
    let (cores, other) = (number(&report, "/machine/cores"), number(&report, "/machine/other_cores"));
    assert!(awake > 0.2 * 2e6 * cores && other < cores / 2.0, "{awake} µs, and {other} of {cores} cores");
}

#[test]
fn rooms_have_a_publisher_each() {
    let report = run(&["--viewers", "9", "--rooms", "3", "--seconds", "2", "--settle", "0", "--audio", "only", "--sample", "1"]);
    check(&report, 9, 50.0);
}

/// What every measurement of members shows.
#[track_caller]
fn check_members(report: &Value, tracks: u32) {
    for none in ["/tracks_missing", "/lost", "/lost_by_generator", "/duplicates", "/damaged", "/mislabelled", "/unlabelled"] {
        assert_eq!(number(report, none), 0.0, "{none} in {report}");
    }
    assert_eq!(number(report, "/tracks_expected"), f64::from(tracks), "{report}");
    let (received, expected) = (number(report, "/packets_received"), number(report, "/packets_expected"));
    assert!(received == expected && received > 0.0, "{report}");
    assert_eq!(report["srtp_profile"], "AEAD_AES_128_GCM");
    // Told within half a second on a quiet machine; a test must pass on a busy one.
    let told = number(report, "/speaker_told_ms/p50");
    assert!((1.0..3_000.0).contains(&told), "{report}");
}

#[test]
fn members_of_rooms_get_everything_of_each_other() {
    let report = loadgen("members", &["--rooms", "5", "--members", "6", "--video", "100000", "--seconds", "2", "--settle", "1"]);
    check_members(&report, 5 * 6 * 5 * 2);
    // 50 of sound and 15 of video a second, and more for key frames.
    let expected = 65.0 * 300.0 / 2.0 * number(&report, "/seconds");
    let received = number(&report, "/packets_received");
    assert!((0.6..1.6).contains(&(received / expected)), "{received} packets instead of about {expected}: {report}");
}

#[test]
fn of_a_large_room_those_who_speak_are_sent_and_nobody_else() {
    let room = &["--members", "40", "--talking", "4", "--seconds", "2", "--settle", "1"];
    let limited = loadgen("members", &[&room[..], &["--server-argument=--room-speakers=4"]].concat());
    check_members(&limited, 4 * 39);
    assert_eq!(number(&limited, "/tracks_at_a_time_max"), 4.0, "{limited}");
    // Two for the first four, and one or two for those who speak then.
    assert!(number(&limited, "/negotiations_max") < 12.0, "{limited}");
    let whole = loadgen("members", room);
    check_members(&whole, 4 * 39);
    assert_eq!(number(&whole, "/tracks_at_a_time_max"), 39.0, "{whole}");
}

#[test]
fn a_storm_of_joins_costs_those_who_watch_nothing() {
    let report = run(&["--viewers", "5", "--seconds", "2", "--storm", "30", "--storm-rate", "30", "--audio", "only"]);
    for none in ["/lost", "/lost_by_generator", "/packets_damaged"] {
        assert_eq!(number(&report, none), 0.0, "{none} in {report}");
    }
    assert_eq!(number(&report, "/storm/viewers"), 30.0);
    // An open loop: the last asks 29/30 of a second after the first, whatever the server does.
    assert!(number(&report, "/storm/seconds") > 0.96, "{report}");
    let (answer, first) = (number(&report, "/storm/to_answer_ms/p50"), number(&report, "/storm/to_first_packet_ms/p50"));
    assert!(answer > 0.0 && answer < first && first < 10_000.0, "{report}");
}

/// With root, what the viewers outside the sample are sent is freed by a device that counts it; without, that is said.
#[test]
fn a_sink_counts_what_nobody_receives() {
    let _alone = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut command = Command::new(LOADGEN);
    command.arg("run").arg("--server-binary").arg(server());
    command.args(["--sink", "--viewers", "8", "--sample", "4", "--seconds", "2", "--settle", "1"]);
    let output = command.output().expect("loadgen runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        assert!(!is_root(), "{stderr}");
        assert!(stderr.contains("it takes root") || stderr.contains("package iproute2"), "{stderr}");
        return;
    }
    let report: Value = serde_json::from_str(stdout.trim()).expect("JSON");
    assert_eq!((number(&report, "/lost"), number(&report, "/packets_damaged"), number(&report, "/sink/refused")), (0.0, 0.0, 0.0));
    // Two of eight are in the sample, and receive; all eight are forwarded to, which is counted from some milliseconds earlier.
    let (received, forwarded) = (number(&report, "/packets_received"), number(&report, "/sink/forwarded"));
    assert_eq!(number(&report, "/viewers_sampled"), 2.0);
    assert!((3.6..5.0).contains(&(forwarded / received)), "{report}");
    // Six of eight go into the sink, in as many sends as to the others.
    let (freed, sends) = (number(&report, "/sink/sends_freed"), number(&report, "/sink/sends"));
    assert!((0.6..0.8).contains(&(freed / sends)), "{report}");
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t"))
}

#[test]
fn mistakes_end_with_code_2_and_a_reason() {
    for (arguments, reason) in [
        (&["run", "--viewers", "3"][..], "--server-binary"),
        (&["run", "--url", "http://127.0.0.1:1", "--sink"], "--server-binary"),
        (&["run", "--url", "http://127.0.0.1:1", "--viewers", "0"], "--viewers"),
        (&["run", "--url", "https://example.org"], "http://"),
        (&["run", "--server-binary", "/nonexistent"], "no such file"),
        (&["run", "--url", "http://127.0.0.1:1", "--pacing", "0.5"], "--pacing"),
        (&["run", "--url", "http://127.0.0.1:1", "--cores", "1023"], "core 1023"),
        (&["walk"], "walk"),
        (&["members", "--members", "5"], "--server-binary"),
        (&["members", "--url", "http://127.0.0.1:1", "--talking", "7"], "--talking"),
    ] {
        let output = Command::new(LOADGEN).args(arguments).output().expect("loadgen runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let output = Command::new(LOADGEN).args(["run", "--url", "http://127.0.0.1:1", "--seconds", "1"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("http://127.0.0.1:1/whip/load"));
    let output = Command::new(LOADGEN).args(["members", "--url", "http://127.0.0.1:1"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1: "));
}
