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
    let _alone = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let output =
        Command::new(LOADGEN).arg("run").arg("--server-binary").arg(server()).args(arguments).output().expect("loadgen runs");
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
    assert!((0.9..1.1).contains(&(received / expected)), "{received} packets instead of about {expected}: {report}");
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

#[test]
fn audio_alone() {
    check(&run(&["--viewers", "3", "--seconds", "2", "--settle", "0", "--audio", "only", "--sample", "1"]), 3, 50.0);
}

#[test]
fn mistakes_end_with_code_2_and_a_reason() {
    for (arguments, reason) in [
        (&["run", "--viewers", "3"][..], "--server-binary"),
        (&["run", "--url", "http://127.0.0.1:1", "--viewers", "0"], "--viewers"),
        (&["run", "--url", "https://example.org"], "http://"),
        (&["run", "--server-binary", "/nonexistent"], "no such file"),
        (&["run", "--url", "http://127.0.0.1:1", "--pacing", "0.5"], "--pacing"),
        (&["run", "--url", "http://127.0.0.1:1", "--cores", "1023"], "core 1023"),
        (&["walk"], "walk"),
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
}
