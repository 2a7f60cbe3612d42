//! `congestion`: congestion controls over simulated paths. Ours, and with the feature `compare` those of the crates
//! rtc-interceptor and str0m: the same bottleneck, the same source, the same other flows.
//!
//! Prints a table; with `--out` it writes the table, the measures as JSON and plots as SVG to a folder.

mod encoder;
#[cfg(feature = "compare")]
mod interceptor;
mod measure;
mod path;
mod plot;
mod report;
mod scenario;
mod sender;
mod sim;
#[cfg(feature = "compare")]
mod str0m_sender;
mod tcp;
mod window;

use std::path::PathBuf;

use clap::Parser;

/// Congestion controls over simulated paths.
#[derive(Parser)]
struct Arguments {
    /// Folder for the table, the measures and the plots.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Of all that is random, but what str0m draws.
    #[arg(long, default_value_t = scenario::SEED)]
    seed: u64,
    /// Scenarios to run, by name; all if none is named.
    scenarios: Vec<String>,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let chosen = |name: &str| arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|wanted| wanted == name);
    let mut results = Vec::new();
    for scenario in scenario::all().into_iter().filter(|scenario| chosen(scenario.name)) {
        let outcomes: Vec<_> = scenario::Who::ALL.iter().map(|who| scenario.run(*who, arguments.seed)).collect();
        print!("{}", report::section(&scenario, &outcomes));
        results.push((scenario, outcomes));
    }
    if let Some(folder) = arguments.out {
        std::fs::create_dir_all(&folder)?;
        report::write(&folder, &results)?;
        for (scenario, outcomes) in &results {
            std::fs::write(folder.join(format!("congestion-{}.svg", scenario.name)), plot::draw(scenario, outcomes))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
