//! How many instructions a packet costs, stage by stage, against `baseline.json`: a change that makes the packet path longer fails
//! the tests, on any machine and however busy.
//!
//! ```text
//! bench/instructions/run             compares; fails if a stage is more than 15 % over its baseline
//! bench/instructions/run --update    measures and writes the baseline: commit it with the change that explains it
//! ```
//!
//! A stage runs twice under callgrind, once longer; the difference is the stage without its preparations, to the instruction.
//! Counted is this repository's code, what the compiler has put into it included, and not ciphers or libc. Instructions are no
//! time: `cargo bench` measures that.

#[path = "../benches/scene/mod.rs"]
mod scene;

mod callgrind;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use distributary::rtp::rewrite::{History, Rewriter};
use distributary::wire::{demux, rtp};
use scene::{FanOut, Receiving, Room, packet};
use serde::{Deserialize, Serialize};

/// Per cent by which a stage may be over its baseline: changes elsewhere move what the compiler inlines, and 13 % were seen of that
/// alone.
const TOLERANCE: f64 = 15.0;
/// Rounds of a stage; the second run has as many more.
const ROUNDS: u64 = 40;
const RECEIVERS: usize = 50;
const BURST: usize = 8;

struct Stage {
    name: &'static str,
    /// In a round.
    packets: u64,
    /// Runs so many rounds.
    run: fn(u64),
}

const STAGES: [Stage; 5] = [
    Stage { name: "parse", packets: 1, run: parse },
    Stage { name: "receive", packets: 1, run: receive },
    Stage { name: "rewrite", packets: 1, run: rewrite },
    Stage { name: "fan-out", packets: (RECEIVERS * BURST) as u64, run: fan_out },
    Stage { name: "whole-turn", packets: (RECEIVERS * BURST) as u64, run: whole_turn },
];

fn parse(rounds: u64) {
    let mut space = [0; 1500];
    let (_, len) = packet(&mut space, 100);
    for _ in 0..rounds {
        let packet = black_box(&space[..len]);
        black_box(demux::classify(packet).expect("RTP"));
        black_box(rtp::Header::parse(packet).expect("a header").extensions().count());
    }
}

fn receive(rounds: u64) {
    let mut receiving = Receiving::default();
    for _ in 0..rounds {
        let packet = receiving.sealed();
        black_box(receiving.receive(packet));
    }
}

fn rewrite(rounds: u64) {
    let mut receiving = Receiving::default();
    let sealed = receiving.sealed();
    let mut media = receiving.receive(sealed);
    let (mut rewriter, mut history, clocks) = (Rewriter::new(7), History::default(), Default::default());
    for _ in 0..rounds {
        media.sequence.0 += 1;
        let _ = black_box(rewriter.take(black_box(&media), true, 90_000, &clocks, Some(&mut history)));
    }
}

fn fan_out(rounds: u64) {
    let mut fan_out = FanOut::new(RECEIVERS, BURST);
    (0..rounds).for_each(|_| fan_out.turn());
}

fn whole_turn(rounds: u64) {
    let mut room = Room::new(RECEIVERS);
    (0..rounds).for_each(|_| room.turn(BURST));
}

/// The committed file: instructions a packet (of a receiver, in the last two stages), and the compiler that made them.
#[derive(Deserialize, Serialize)]
struct Baseline {
    rustc: String,
    stages: BTreeMap<String, f64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["stage", name, rounds] => stage(name, rounds),
        ["--update"] => update(),
        [] => compare(),
        _ => Err("bench/instructions/run [--update]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("instructions: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What runs under callgrind.
fn stage(name: &str, rounds: &str) -> Result<(), String> {
    let stage = STAGES.iter().find(|stage| stage.name == name).ok_or("no such stage")?;
    (stage.run)(rounds.parse().map_err(|_| "rounds is a number")?);
    Ok(())
}

fn measure() -> Result<Baseline, String> {
    let version = Command::new("rustc").arg("--version").output().map_err(|error| format!("rustc --version: {error}"))?;
    let rustc = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let run = |name: &str, rounds: u64| {
        let record = std::env::temp_dir().join(format!("distributary-callgrind-{}-{name}-{rounds}", std::process::id()));
        callgrind::instructions(&program, &["stage", name, &rounds.to_string()], &record)
    };
    let mut stages = BTreeMap::new();
    for Stage { name, packets, .. } in STAGES {
        let (short, long) = std::thread::scope(|scope| {
            let short = scope.spawn(|| run(name, ROUNDS));
            (run(name, 2 * ROUNDS), short.join().expect("no panic"))
        });
        let (short, long) = (long?, short?);
        let difference = long.checked_sub(short).ok_or_else(|| format!("{name}: twice the rounds were fewer instructions"))?;
        let each = difference as f64 / (ROUNDS * packets) as f64;
        stages.insert(name.to_owned(), (each * 10.0).round() / 10.0);
    }
    Ok(Baseline { rustc, stages })
}

/// From the root of the repository, where `run` starts this.
fn file() -> PathBuf {
    PathBuf::from("bench/instructions/baseline.json")
}

fn update() -> Result<(), String> {
    let measured = measure()?;
    let text = serde_json::to_string_pretty(&measured).map_err(|error| error.to_string())?;
    std::fs::write(file(), text.clone() + "\n").map_err(|error| format!("{}: {error}", file().display()))?;
    println!("{text}");
    Ok(())
}

fn compare() -> Result<(), String> {
    let text = std::fs::read_to_string(file()).map_err(|error| format!("{}: {error}", file().display()))?;
    let baseline = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file().display()))?;
    let measured = measure()?;
    let (lines, over) = verdict(&baseline, &measured);
    lines.iter().for_each(|line| println!("{line}"));
    if over.is_empty() {
        return Ok(());
    }
    let reason = match baseline.rustc == measured.rustc {
        true => "The packet path has become longer. If that is worth it".to_owned(),
        false => format!(
            "The baseline is of {} and this is {}: that alone may be the reason. If it is, or if the change is worth it",
            baseline.rustc, measured.rustc
        ),
    };
    Err(format!(
        "over the baseline: {}.\n{reason}: bench/instructions/run --update, and commit its baseline.json.",
        over.join(", ")
    ))
}

/// A line for each stage, and the stages that cost too much. A stage that only one of them has is one: the baseline is out of date.
fn verdict(baseline: &Baseline, measured: &Baseline) -> (Vec<String>, Vec<String>) {
    let (mut lines, mut over) = (Vec::new(), Vec::new());
    for (stage, now) in &measured.stages {
        let Some(before) = baseline.stages.get(stage) else {
            lines.push(format!("{stage:<12} {now:>9.1} instructions a packet, no baseline"));
            over.push(format!("{stage} (new)"));
            continue;
        };
        let change = 100.0 * (now - before) / before;
        let remark = match change {
            change if change > TOLERANCE => {
                over.push(format!("{stage} ({before:.1} → {now:.1}, {change:+.1} %)"));
                format!(": more than {TOLERANCE} % over")
            }
            change if change < -TOLERANCE => ": better; --update keeps it that way".to_owned(),
            _ => String::new(),
        };
        lines.push(format!("{stage:<12} {now:>9.1} instructions a packet, baseline {before:.1}, {change:+.1} %{remark}"));
    }
    over.extend(
        baseline.stages.keys().filter(|stage| !measured.stages.contains_key(*stage)).map(|stage| format!("{stage} (gone)")),
    );
    (lines, over)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(stages: &[(&str, f64)]) -> Baseline {
        Baseline { rustc: "rustc".into(), stages: stages.iter().map(|(name, count)| ((*name).into(), *count)).collect() }
    }

    #[test]
    fn what_inlining_changes_is_let_through_and_not_more() {
        let baseline = table(&[("a", 100.0), ("b", 100.0), ("c", 100.0), ("d", 100.0)]);
        let (lines, over) = verdict(&baseline, &table(&[("a", 115.0), ("b", 115.1), ("c", 80.0), ("e", 1.0)]));
        assert_eq!(over, ["b (100.0 → 115.1, +15.1 %)", "e (new)", "d (gone)"]);
        assert!(lines[1].ends_with("more than 15 % over") && lines[2].contains("--update"), "{lines:?}");
    }

    #[test]
    fn the_committed_baseline_has_every_stage() {
        let baseline: Baseline = serde_json::from_str(include_str!("baseline.json")).expect("a baseline");
        let stages: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        assert!(baseline.stages.len() == stages.len() && stages.iter().all(|stage| baseline.stages.contains_key(*stage)));
    }
}
