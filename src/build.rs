//! Tells the binary which commit it was built from, for `--version` and the metrics, and lays the eBPF program ready: compiled
//! where there is clang, else the committed object.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=DISTRIBUTARY_COMMIT");
    // Packagers who build without a repository name the commit themselves.
    let commit = std::env::var("DISTRIBUTARY_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(commit_from_git);
    println!("cargo::rustc-env=DISTRIBUTARY_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    program();
}

/// `xdp/distributary.bpf.o` in `OUT_DIR`. `CLANG` names the compiler; an empty one asks for the committed object.
fn program() {
    println!("cargo::rerun-if-env-changed=CLANG");
    for name in ["distributary.bpf.c", "distributary.h", "distributary.bpf.o"] {
        println!("cargo::rerun-if-changed=xdp/{name}");
    }
    let object = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("distributary.bpf.o");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // Of the machine's byte order, like the maps that it shares with the server.
    let little = std::env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|endian| endian == "little");
    let target = if little { "bpfel" } else { "bpfeb" };
    let mut compile = Command::new(&clang);
    compile.args(["-O2", "-g", "-target", target, "-c", "xdp/distributary.bpf.c", "-o"]).arg(&object);
    if !clang.is_empty() && compile.output().is_ok_and(|output| output.status.success()) {
        return;
    }
    assert!(little, "building for a big-endian machine needs clang: the committed eBPF object is little-endian");
    fs::copy("xdp/distributary.bpf.o", &object).expect("xdp/distributary.bpf.o is in the repository");
}

/// The short hash of HEAD, if this is a checkout and git is installed.
fn commit_from_git() -> Option<String> {
    // HEAD changes on a checkout, its log and the file of its branch on a commit. A path that does not exist would
    // make cargo run this on every build.
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        watch(&git(&["rev-parse", "--git-path", name])?);
    }
    if let Some(branch) = git(&["symbolic-ref", "--quiet", "HEAD"]) {
        watch(&git(&["rev-parse", "--git-path", &branch])?);
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn watch(path: &str) {
    if Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
