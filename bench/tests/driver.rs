//! The part of `bench/run` that is Python: its own tests, and its answers to mistakes.

use std::path::Path;
use std::process::{Command, Output};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/compare");

fn python(arguments: &[&str]) -> Output {
    Command::new("python3").arg("-B").args(arguments).current_dir(FOLDER).output().expect("python3 is installed")
}

#[test]
fn its_own_tests_pass() {
    let output = python(&["-m", "unittest", "driver_test"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn mistakes_end_with_code_2_and_a_reason() {
    for (arguments, reason) in [
        (&["--parts", "everything"][..], "saturation"),
        (&["--parts", "latency"], "half of saturation"),
        (&["--backends", "epoll"], "xdp:INTERFACE"),
        (&["--viewers", "0"], "no list of numbers"),
        (&["--seconds", "4h"], "from 1 to 3600"),
        (&["--binaries", "/nonexistent"], "there is no loadgen"),
    ] {
        let output = python(&[&[&*Path::new(FOLDER).join("driver.py").to_string_lossy()], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
    }
}
