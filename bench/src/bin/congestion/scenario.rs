//! The paths that controls are compared on, and who shares them.

use crate::encoder::Layers;
use crate::measure::{Measures, jain, late_rate, measure};
use crate::path::{MILLISECOND, Profile, SECOND, Time};
use crate::sender::{Ours, Sender};
use crate::sim::{Flow, Record, run};
use crate::tcp::Tcp;
use crate::window::Law;

/// Bits per second of a simulcast stream's layers, temporal ones among them.
const LAYERS: Layers = Some(&[100_000, 200_000, 400_000, 800_000, 1_400_000, 2_200_000]);
/// What the published results are made with.
pub const SEED: u64 = 7;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Ours,
    #[cfg(feature = "compare")]
    RtcInterceptor,
    #[cfg(feature = "compare")]
    Str0m,
}

impl Who {
    #[cfg(feature = "compare")]
    pub const ALL: &[Who] = &[Who::Ours, Who::RtcInterceptor, Who::Str0m];
    #[cfg(not(feature = "compare"))]
    pub const ALL: &[Who] = &[Who::Ours];

    pub fn name(self) -> &'static str {
        match self {
            Who::Ours => "distributary",
            #[cfg(feature = "compare")]
            Who::RtcInterceptor => "rtc-interceptor",
            #[cfg(feature = "compare")]
            Who::Str0m => "str0m",
        }
    }

    fn flow(self, layers: Layers, start: Time, seed: u64) -> Box<dyn Flow> {
        match self {
            Who::Ours => Box::new(Sender::new(Ours::new(start), layers, start, seed)),
            #[cfg(feature = "compare")]
            Who::RtcInterceptor => Box::new(Sender::new(crate::interceptor::Control::new(), layers, start, seed)),
            #[cfg(feature = "compare")]
            Who::Str0m => Box::new(crate::str0m_sender::Session::new(layers, start, seed)),
        }
    }
}

/// A flow of a scenario.
#[derive(Clone, Copy)]
pub enum Part {
    /// Of the control that is compared; it begins at that time.
    Compared(Time),
    Tcp(Law, Time),
}

pub struct Scenario {
    pub name: &'static str,
    pub title: String,
    pub profile: Profile,
    pub parts: Vec<Part>,
    pub layers: Layers,
    pub length: Time,
}

/// What became of a scenario.
pub struct Outcome {
    pub who: Who,
    pub measures: Vec<Measures>,
    /// Over the second half: bits per second of each flow, and how evenly they share.
    pub rates: Vec<f64>,
    pub jain: f64,
    pub records: Vec<Record>,
}

impl Scenario {
    pub fn run(&self, who: Who, seed: u64) -> Outcome {
        let flows = self.parts.iter().enumerate().map(|(index, part)| match *part {
            Part::Compared(start) => who.flow(self.layers, start, seed + index as u64),
            Part::Tcp(law, start) => Box::new(Tcp::new(law, start)),
        });
        let mut flows: Vec<Box<dyn Flow>> = flows.collect();
        let records = run(&self.profile, &mut flows, self.length, seed);
        let share = 1.0 / self.parts.len() as f64;
        let measures = self.parts.iter().zip(&records).map(|(part, record)| {
            let (Part::Compared(start) | Part::Tcp(_, start)) = *part;
            measure(record, &self.profile, start, self.length, share)
        });
        let measures = measures.collect();
        let rates: Vec<f64> = records.iter().map(|record| late_rate(record, self.length)).collect();
        Outcome { who, measures, jain: jain(&rates), rates, records }
    }
}

fn alone(name: &'static str, title: &str, profile: Profile, seconds: u64) -> Scenario {
    let parts = vec![Part::Compared(0)];
    Scenario { name, title: title.to_owned(), profile, parts, layers: None, length: seconds * SECOND }
}

pub fn steps() -> Scenario {
    let mut profile = Profile::constant(3_000_000, 300 * MILLISECOND, 50 * MILLISECOND);
    profile.rates.extend([(30 * SECOND, 1_000_000), (60 * SECOND, 300_000), (90 * SECOND, 3_000_000)]);
    alone("steps", "3, 1, 0.3 and 3 Mb/s, 30 s each", profile, 120)
}

/// Two of the control that is compared, and one that does as TCP does.
pub fn beside_tcp(law: Law, queue: Time) -> Scenario {
    let profile = Profile::constant(3_000_000, queue, 50 * MILLISECOND);
    let title = format!("two and one {law:?} flow at 3 Mb/s, queue of {} ms", queue / MILLISECOND);
    let parts = vec![Part::Compared(0), Part::Compared(SECOND), Part::Tcp(law, 10 * SECOND)];
    Scenario { name: "tcp", title, profile, parts, layers: None, length: 120 * SECOND }
}

pub fn all() -> Vec<Scenario> {
    let path = |rate, queue_ms| Profile::constant(rate, queue_ms * MILLISECOND, 50 * MILLISECOND);
    let lossy = Profile { loss: 0.05, round_trip: 150 * MILLISECOND, ..path(3_000_000, 300) };
    let wireless = Profile { jitter: 4 * MILLISECOND, stalls: Some((2 * SECOND, 40 * MILLISECOND)), ..path(3_000_000, 300) };
    let late = Scenario {
        parts: vec![Part::Compared(0), Part::Compared(30 * SECOND)],
        ..alone("late", "a second one joins after 30 s, 3 Mb/s", path(3_000_000, 300), 120)
    };
    let layers = Scenario { layers: LAYERS, name: "layers", title: "the same steps, layers to choose from".to_owned(), ..steps() };
    vec![
        alone("constant", "1 Mb/s, queue of 300 ms", path(1_000_000, 300), 60),
        steps(),
        layers,
        alone("lossy", "3 Mb/s, 150 ms round trip, 5 % lost by chance", lossy, 60),
        alone("wireless", "3 Mb/s, jitter of 4 ms, stalls of 40 ms", wireless, 60),
        alone("short", "3 Mb/s, queue of 30 ms", path(3_000_000, 30), 60),
        alone("bloated", "1 Mb/s, queue of 1 s", path(1_000_000, 1000), 60),
        late,
        Scenario { name: "tcp-50", ..beside_tcp(Law::Cubic, 50 * MILLISECOND) },
        Scenario { name: "tcp-200", ..beside_tcp(Law::Cubic, 200 * MILLISECOND) },
    ]
}
