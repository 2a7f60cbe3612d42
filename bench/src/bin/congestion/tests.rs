//! What our congestion control keeps to, on the paths that it is compared on.

use crate::measure::jain;
use crate::path::{Bottleneck, MILLISECOND, Profile, Random, SECOND};
use crate::scenario::{Outcome, SEED, Scenario, Who, all, beside_tcp, steps};
use crate::window::Law;

/// What is published is of the first; nothing is made to fit it.
const SEEDS: [u64; 5] = [SEED, 11, 23, 42, 99];

fn ours(scenario: &Scenario) -> impl Iterator<Item = Outcome> {
    SEEDS.into_iter().map(|seed| scenario.run(Who::Ours, seed))
}

fn named(name: &str) -> Vec<Outcome> {
    ours(all().iter().find(|scenario| scenario.name == name).expect("a scenario of that name")).collect()
}

#[test]
fn it_follows_steps_down_within_a_second_and_up_within_ten() {
    for outcome in ours(&steps()) {
        let measures = &outcome.measures[0];
        assert_eq!((measures.down.len(), measures.up.len()), (2, 2));
        assert!(measures.down.iter().all(|down| down.is_some_and(|seconds| seconds <= 1.0)), "{measures:?}");
        assert!(measures.up.iter().all(|up| up.is_some_and(|seconds| seconds <= 10.0)), "{measures:?}");
        assert!(measures.steady_utilisation >= 0.92, "{measures:?}");
        assert!(measures.steady_queue_p95 < 100.0, "{measures:?}");
    }
}

#[test]
fn losses_by_chance_and_short_queues_are_used_well() {
    for (name, used) in [("constant", 0.9), ("lossy", 0.86), ("short", 0.82), ("bloated", 0.9)] {
        for outcome in named(name) {
            let measures = &outcome.measures[0];
            assert!(measures.steady_utilisation >= used && measures.steady_queue_p95 < 100.0, "{name}: {measures:?}");
        }
    }
}

#[test]
fn jitter_and_stalls_are_no_overuse() {
    let outcomes = named("wireless");
    let mean = |of: fn(&crate::measure::Measures) -> f64| outcomes.iter().map(|one| of(&one.measures[0])).sum::<f64>() / 5.0;
    let (used, queue) = (mean(|measures| measures.steady_utilisation), mean(|measures| measures.steady_queue_p95));
    assert!(used >= 0.9 && queue < 100.0, "{used} {queue}");
}

#[test]
fn nobody_starves_beside_tcp() {
    let cases = [Law::Reno, Law::Cubic].into_iter().flat_map(|law| [50, 100, 150, 200, 250, 300].map(|queue_ms| (law, queue_ms)));
    let unfair = cases.filter_map(|(law, queue_ms)| {
        let scenario = beside_tcp(law, queue_ms * MILLISECOND);
        let unfair = ours(&scenario).filter(|outcome| outcome.jain < 0.8);
        let rates = |outcome: &Outcome| outcome.rates.iter().map(|rate| *rate as u64 / 1000).collect::<Vec<_>>();
        let unfair: Vec<_> = unfair.map(|outcome| (outcome.jain, rates(&outcome))).collect();
        (!unfair.is_empty()).then(|| format!("{law:?}, queue of {queue_ms} ms: {unfair:.2?} kb/s"))
    });
    let unfair: Vec<String> = unfair.collect();
    assert!(unfair.is_empty(), "{unfair:#?}");
}

#[test]
fn one_that_joins_late_gets_its_share() {
    for outcome in named("late") {
        assert!(outcome.jain >= 0.9, "{} {:?}", outcome.jain, outcome.rates);
    }
}

// ---- the simulation itself ------------------------------------------------------------------------------------------------

#[test]
fn the_bottleneck_drains_at_its_rate_and_drops_what_does_not_fit() {
    let profile = Profile::constant(1_000_000, 100 * MILLISECOND, 50 * MILLISECOND);
    let mut path = Bottleneck::new(profile, 1);
    let fitted = (0..20).filter(|packet| path.enter(0, 1250, *packet)).count();
    assert_eq!(fitted, 10, "12,500 bytes are 100 ms");
    for packet in 0..10 {
        let now = path.due();
        assert_eq!(now, (packet + 1) * 10 * MILLISECOND);
        let left = path.leave(now).expect("it is due");
        assert_eq!((left.packet, left.queued), (packet, packet * 10 * MILLISECOND));
        assert_eq!(left.arrives, Some(now + 25 * MILLISECOND));
    }
    assert!(path.leave(SECOND).is_none());
}

#[test]
fn chance_has_the_means_that_were_asked_for() {
    let mut random = Random::new(3);
    let mean = (0..100_000).map(|_| random.exponential(4.0)).sum::<f64>() / 100_000.0;
    assert!((mean - 4.0).abs() < 0.1, "{mean}");
    let mut path = Bottleneck::new(Profile { loss: 0.05, ..Profile::constant(1_000_000, SECOND, 0) }, 1);
    let lost = (0..20_000).filter(|packet| {
        path.enter(packet * 20 * MILLISECOND, 1250, ());
        path.leave(path.due()).is_some_and(|left| left.arrives.is_none())
    });
    let lost = lost.count();
    assert!((900..1_100).contains(&lost), "{lost}");
}

#[test]
fn the_index_of_fairness_is_jains() {
    assert_eq!(jain(&[2.0, 2.0, 2.0]), 1.0);
    assert!((jain(&[1.0, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-12);
}

/// A cross flow that did not take what is free, or shared badly with its like, would make the fairness of ours worth nothing.
#[test]
fn the_cross_flow_fills_the_path_and_shares_it_with_its_like() {
    use crate::measure::late_rate;
    use crate::sim::{Flow, run};
    use crate::tcp::Tcp;
    for law in [Law::Reno, Law::Cubic] {
        let profile = Profile::constant(3_000_000, 100 * MILLISECOND, 50 * MILLISECOND);
        let mut flows: Vec<Box<dyn Flow>> = vec![Box::new(Tcp::new(law, 0)), Box::new(Tcp::new(law, 5 * SECOND))];
        let records = run(&profile, &mut flows, 120 * SECOND, 1);
        let rates: Vec<f64> = records.iter().map(|record| late_rate(record, 120 * SECOND)).collect();
        assert!(rates.iter().sum::<f64>() > 2_850_000.0, "{law:?} {rates:?}");
        assert!(jain(&rates) > 0.9, "{law:?} {rates:?}");
    }
}
