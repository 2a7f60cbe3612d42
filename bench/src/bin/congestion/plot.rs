//! A scenario as SVG: for each control the capacity, its target and what arrives, and below it the queue, over time.

use std::fmt::Write;

use crate::path::{MILLISECOND, SECOND, Time};
use crate::scenario::{Outcome, Part, Scenario};
use crate::sim::{BIN, Record};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const RATES: f64 = 120.0;
const QUEUE: f64 = 50.0;
const GAP: f64 = 44.0;
/// Colours of the flows, in order.
const COLOURS: [&str; 3] = ["#08519c", "#1b9e77", "#d95f02"];
const CAPACITY: &str = "#bbbbbb";
/// Points are half a second apart.
const STEP: usize = 5;
const QUEUE_MAX: f64 = 400.0;

pub fn draw(scenario: &Scenario, outcomes: &[Outcome]) -> String {
    let height = TOP + outcomes.len() as f64 * (RATES + QUEUE + GAP) + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, LEFT, 18.0, "start", &format!("{}: {}", scenario.name, scenario.title));
    text(
        &mut svg,
        LEFT,
        33.0,
        "start",
        "Mb/s: capacity grey, target dashed, arriving solid. Below: the longest wait in the queue, ms, up to 400",
    );
    let rates = scenario.profile.rates.iter().map(|(_, rate)| *rate);
    let most = rates.max().unwrap_or(1) as f64 * 1.25;
    let x = |at: Time| LEFT + at as f64 / scenario.length as f64 * (WIDTH - LEFT - RIGHT);
    let mut top = TOP;
    for outcome in outcomes {
        let y = |rate: f64| top + RATES - rate.min(most) / most * RATES;
        text(&mut svg, LEFT + 4.0, top + 10.0, "start", outcome.who.name());
        for tick in 0..=(most / 1e6) as u32 {
            rule(&mut svg, y(f64::from(tick) * 1e6));
            text(&mut svg, LEFT - 6.0, y(f64::from(tick) * 1e6) + 4.0, "end", &tick.to_string());
        }
        let capacity = (0..=scenario.length).step_by(SECOND as usize / 2).map(|at| (x(at), y(scenario.profile.rate(at) as f64)));
        line(&mut svg, capacity, CAPACITY, "");
        for ((record, colour), part) in outcome.records.iter().zip(COLOURS).zip(&scenario.parts) {
            if matches!(part, Part::Compared(_)) {
                line(&mut svg, means(record, |bin| bin.target as f64).map(|(at, rate)| (x(at), y(rate))), colour, "3 3");
            }
            let arrived = means(record, |bin| bin.arrived as f64 * 8.0 * (SECOND / BIN) as f64);
            line(&mut svg, arrived.map(|(at, rate)| (x(at), y(rate))), colour, "");
        }
        let bottom = top + RATES + 8.0 + QUEUE;
        rule(&mut svg, bottom);
        text(&mut svg, LEFT - 6.0, bottom + 4.0, "end", "0 ms");
        text(&mut svg, LEFT - 6.0, bottom - QUEUE + 8.0, "end", "400");
        let waits = waits(&outcome.records, scenario.length);
        line(&mut svg, waits.map(|(at, wait)| (x(at), bottom - wait.min(QUEUE_MAX) / QUEUE_MAX * QUEUE)), "#7570b3", "");
        for at in (0..=scenario.length).step_by(10 * SECOND as usize) {
            text(&mut svg, x(at), bottom + 15.0, "middle", &format!("{} s", at / SECOND));
        }
        top += RATES + QUEUE + GAP;
    }
    svg + "</svg>\n"
}

/// Means over half a second.
fn means(record: &Record, value: impl Fn(&crate::sim::Bin) -> f64) -> impl Iterator<Item = (Time, f64)> {
    let bins = record.bins.chunks(STEP).enumerate();
    bins.map(move |(index, bins)| ((index * STEP) as Time * BIN, bins.iter().map(&value).sum::<f64>() / bins.len() as f64))
}

/// The longest wait of any packet in each half of a second, in milliseconds.
fn waits(records: &[Record], length: Time) -> impl Iterator<Item = (Time, f64)> {
    let step = STEP as Time * BIN;
    let mut most = vec![0; (length / step) as usize + 1];
    for (at, wait) in records.iter().flat_map(|record| &record.queued) {
        let slot = &mut most[(at / step) as usize];
        *slot = (*slot).max(*wait);
    }
    most.into_iter().enumerate().map(move |(index, wait)| (index as Time * step, wait as f64 / MILLISECOND as f64))
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"#222\">{text}</text>");
}

fn rule(svg: &mut String, y: f64) {
    _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#eee\"/>", WIDTH - RIGHT);
}

fn line(svg: &mut String, points: impl Iterator<Item = (f64, f64)>, colour: &str, dashes: &str) {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.0},{y:.0}")).collect();
    let dashes = if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
    _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"{dashes}/>", points.join(" "));
}
