//! Many viewers that join at once, while others watch: how long that takes them, and whether the others notice.

use std::time::Duration;

use crate::awake;
use crate::join::{self, Plan};
use crate::process::CpuTime;
use crate::receiver::{Mode, ReceiverThread};
use crate::report::{Spread, StormReport, thousandths};

/// Requests under way at a time; an open loop needs a thread for each that waits.
const CONCURRENCY: u32 = 128;
/// Above this part of a core the generator's own side of the handshakes may have been what limited.
const LOAD_MAX: f64 = 0.9;

/// A storm on threads of its own, so that its viewers are not counted among the others. `began` are the numbers of the publishers'
/// next packets. To be called in the middle of a measurement.
pub fn run(plan: Plan, began: &[[u64; 2]]) -> Result<(StormReport, Vec<crate::http::Url>), String> {
    let (viewers, rate) = (plan.viewers, plan.rate);
    let mode = Mode { gro: !plan.options.no_gro, spin: false, sink: false };
    let thread = ReceiverThread::start("lg-storm", mode).map_err(|error| format!("receiving thread: {error}"))?;
    let threads = [thread];
    let own = CpuTime::of(std::process::id()).unwrap_or_default();
    let start = std::time::Instant::now();
    let sessions = join::join_all(&Plan { threads: &threads, concurrency: CONCURRENCY, ..plan })?;
    let seconds = start.elapsed().as_secs_f64();
    let used = CpuTime::of(std::process::id()).unwrap_or_default().since(&own);
    // What they are sent from now on is not of interest, but their leaving must not be part of the storm.
    std::thread::sleep(Duration::from_millis(500));
    let finished = threads[0].finish(began, began)?;
    let times =
        |of: &dyn Fn(&crate::viewer::Milestones) -> Option<u64>| Spread::of(finished.milestones.iter().filter_map(of).collect());
    let cores = |micros: &f64| micros / (seconds * 1e6);
    let threads = || used.threads.iter().filter(|(name, _)| !name.starts_with(awake::NAME)).map(|(_, micros)| cores(micros));
    let report = StormReport {
        viewers,
        rate,
        seconds: thousandths(seconds),
        to_answer_ms: times(&|m| Some(m.answered.saturating_sub(m.posted))),
        to_connected_ms: times(&|m| Some(m.connected?.saturating_sub(m.posted))),
        to_first_packet_ms: times(&|m| Some(m.first_packet?.saturating_sub(m.posted))),
        generator_cores: thousandths(threads().sum()),
        generator_limited: threads().any(|load| load > LOAD_MAX),
    };
    Ok((report, sessions))
}
