//! Tells the binary which commit it was built from, for `--version` and the metrics.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=DISTRIBUTARY_COMMIT");
    // Packagers who build without a repository name the commit themselves.
    let commit = std::env::var("DISTRIBUTARY_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(commit_from_git);
    println!("cargo::rustc-env=DISTRIBUTARY_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
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
