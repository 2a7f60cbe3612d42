//! The results as a table and as JSON.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::measure::Measures;
use crate::scenario::{Outcome, Part, Scenario};
use crate::window::Law;

#[derive(Serialize)]
struct Row<'a> {
    scenario: &'a str,
    control: &'a str,
    flows: Vec<Flow<'a>>,
    jain: f64,
}

#[derive(Serialize)]
struct Flow<'a> {
    name: &'a str,
    late_bits_per_second: f64,
    #[serde(flatten)]
    measures: &'a Measures,
}

fn name(part: &Part, outcome: &Outcome) -> &'static str {
    match part {
        Part::Compared(_) => outcome.who.name(),
        Part::Tcp(Law::Reno, _) => "Reno",
        Part::Tcp(Law::Cubic, _) => "CUBIC",
    }
}

/// A scenario's table, in Markdown.
pub fn section(scenario: &Scenario, outcomes: &[Outcome]) -> String {
    let mut text = format!("### {}: {}\n\n", scenario.name, scenario.title);
    text += "| control | used | used, steady | in time, steady | queue p50 ms | p95 | p95, steady | up s | down s | dropped |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for outcome in outcomes {
        for (part, measures) in scenario.parts.iter().zip(&outcome.measures) {
            let Measures { queue_p50, queue_p95, steady_queue_p95, up, down, .. } = measures;
            let percent = |part: f64| format!("{:.1} %", part * 100.0);
            let (used, steady, timely) = (measures.utilisation, measures.steady_utilisation, measures.steady_timely);
            _ = writeln!(
                text,
                "| {} | {} | {} | {} | {queue_p50:.0} | {queue_p95:.0} | {steady_queue_p95:.0} | {} | {} | {} |",
                name(part, outcome),
                percent(used),
                percent(steady),
                percent(timely),
                times(up),
                times(down),
                percent(measures.dropped)
            );
        }
    }
    if scenario.parts.len() > 1 {
        text += "\nUsed is of an equal share. Jain's index of the second half: ";
        let of = outcomes.iter().map(|outcome| {
            let rates: Vec<String> = outcome.rates.iter().map(|rate| format!("{:.2}", rate / 1e6)).collect();
            format!("{} {:.2} ({} Mb/s)", outcome.who.name(), outcome.jain, rates.join(", "))
        });
        text += &of.collect::<Vec<_>>().join("; ");
        text += ".\n";
    }
    text + "\n"
}

fn times(values: &[Option<f64>]) -> String {
    let words = values.iter().map(|value| value.map_or("never".to_owned(), |seconds| format!("{seconds:.1}")));
    words.collect::<Vec<_>>().join(", ")
}

/// The mean over a scenario's flows of the compared control: what is used in steady state, the queue then, and seconds to follow steps.
struct Means {
    used: f64,
    timely: f64,
    queue: f64,
    up: f64,
    down: f64,
}

impl Means {
    fn of(scenario: &Scenario, outcome: &Outcome) -> Means {
        let flows = scenario.parts.iter().zip(&outcome.measures).filter(|(part, _)| matches!(part, Part::Compared(_)));
        let flows: Vec<&Measures> = flows.map(|(_, measures)| measures).collect();
        let mean = |of: &dyn Fn(&Measures) -> f64| flows.iter().map(|flow| of(flow)).sum::<f64>() / flows.len() as f64;
        // One that never follows takes for ever.
        let sum = |values: &[Option<f64>]| values.iter().map(|value| value.unwrap_or(f64::INFINITY)).sum::<f64>();
        Means {
            used: mean(&|flow| flow.steady_utilisation),
            timely: mean(&|flow| flow.steady_timely),
            queue: mean(&|flow| flow.steady_queue_p95),
            up: mean(&|flow| sum(&flow.up)),
            down: mean(&|flow| sum(&flow.down)),
        }
    }
}

/// Where another control is better than ours, measure by measure, and what it pays for that.
fn behind(results: &[(Scenario, Vec<Outcome>)]) -> String {
    let mut text = "## Where ours is behind\n\n".to_owned();
    let mut better = Vec::new();
    for (scenario, outcomes) in results {
        let Some((first, others)) = outcomes.split_first() else { continue };
        let ours = Means::of(scenario, first);
        for outcome in others {
            let other = Means::of(scenario, outcome);
            // A flow beside others that uses more than its share takes it from them: there Jain's index counts instead.
            let alone = scenario.parts.len() == 1;
            let fairer = !alone && outcome.jain - first.jain > 0.005;
            let uses = if alone { other.timely >= ours.timely } else { outcome.jain >= first.jain };
            if uses && other.queue <= ours.queue && other.up <= ours.up && other.down <= ours.down {
                better.push(format!("{} ({})", scenario.name, outcome.who.name()));
            }
            let behind = [
                (alone && other.used - ours.used > 0.005).then_some("used"),
                (alone && other.timely - ours.timely > 0.005).then_some("used in time"),
                (ours.queue - other.queue > 1.0).then_some("queue"),
                (ours.up - other.up > 0.1).then_some("up"),
                (ours.down - other.down > 0.1).then_some("down"),
                fairer.then_some("Jain's index"),
            ];
            let behind: Vec<&str> = behind.into_iter().flatten().collect();
            if !behind.is_empty() {
                _ = writeln!(
                    text,
                    "- {}, than {} in {}: used {:.1} % against {:.1} %, in time {:.1} % against {:.1} %, queue p95 {:.0} ms against {:.0} ms, up {:.1} s against {:.1} s",
                    scenario.name,
                    outcome.who.name(),
                    behind.join(", "),
                    ours.used * 100.0,
                    other.used * 100.0,
                    ours.timely * 100.0,
                    other.timely * 100.0,
                    ours.queue,
                    other.queue,
                    ours.up,
                    other.up
                );
            }
        }
    }
    text += "\nIn steady state; ours first; times are sums over the steps. In time is what has waited in the queue for no more than 150 ms: more \
        than ITU-T G.114 has for the whole way from mouth to ear comes too late for a conversation, and a control that fills the queue uses \
        the path with that.\n\n";
    let where_better = if better.is_empty() { "none".to_owned() } else { better.join(", ") };
    _ = writeln!(
        text,
        "Scenarios in which another is at least as good in all, use in time (beside others: fairness), queue and times: {where_better}."
    );
    text + "\n## Scenarios\n\n"
}

pub fn write(folder: &Path, results: &[(Scenario, Vec<Outcome>)]) -> std::io::Result<()> {
    let mut table = include_str!("head.md").to_owned() + &behind(results);
    let mut rows = Vec::new();
    for (scenario, outcomes) in results {
        table += &section(scenario, outcomes);
        _ = writeln!(table, "![{}](congestion-{}.svg)\n", scenario.title, scenario.name);
        for outcome in outcomes {
            let flows = scenario.parts.iter().zip(&outcome.measures).zip(&outcome.rates);
            let flows = flows.map(|((part, measures), rate)| Flow {
                name: name(part, outcome),
                late_bits_per_second: rate.round(),
                measures,
            });
            rows.push(Row { scenario: scenario.name, control: outcome.who.name(), flows: flows.collect(), jain: outcome.jain });
        }
    }
    std::fs::write(folder.join("congestion.md"), table)?;
    std::fs::write(folder.join("congestion.json"), serde_json::to_string_pretty(&rows)? + "\n")
}
