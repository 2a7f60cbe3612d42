//! Probing: short clusters sent faster than the estimate, to find capacity that waiting would take a minute to find.
//!
//! Source: libwebrtc's `goog_cc/probe_controller.cc` (when, and how fast) and `probe_bitrate_estimator.cc` (what a cluster tells). At the start
//! at three and six times the start rate; twice further as long as a cluster reaches 70 % of what was asked; and now and then after that.
//!
//! Libwebrtc asks again only while its sender has little to send. Here it is done whenever the queue is empty: a path that has become
//! ten times faster would else take half a minute to be believed, and a cluster of 15 ms does no harm to one that has not.

use arrayvec::ArrayVec;

use crate::units::{Bitrate, Micros};

/// Length of a cluster; and of those that repeat the first (`initial_probe_duration` is 100 ms, all of them: too much for a path of which
/// nothing is known).
const CLUSTER_MICROS: u64 = 15_000;
const LONG_CLUSTER_MICROS: u64 = 40_000;
const CLUSTER_PACKETS: u32 = 5;
/// And its bytes at least: over less, the way's jitter makes a slow path look a fifth faster now and then, and the best look counts.
const CLUSTER_BYTES: usize = 2_500;
/// Clusters that are remembered until their feedback has come.
const CLUSTERS: usize = 8;
/// A cluster without feedback for so long is lost.
const CLUSTER_TIMEOUT: u64 = 1_000_000;
/// A cluster tells something if so much of it was received.
const RECEIVED_MIN: f64 = 0.8;
const INTERVAL_MAX: u64 = 1_000_000;
/// Received slower than this part of the rate of sending: the path was full.
const SATURATED_BELOW: f64 = 0.9;
const SATURATED_TARGET: f64 = 0.95;
/// Further probing goes on while this part of the last probe's rate was reached.
const FURTHER_ABOVE: f64 = 0.7;
const FURTHER_FACTOR: f64 = 2.0;
const START_FACTORS: [f64; 2] = [3.0, 6.0];
/// Between two probes without other reason.
const AGAIN_INTERVAL: Micros = Micros::from_secs(5);
const AGAIN_FACTOR: f64 = 2.0;
/// At the beginning, for so long, sooner (`repeated_initial_probing_time_period`): a short cluster may have met jitter.
const FIRST_SECONDS: Micros = Micros::from_secs(5);
const FIRST_INTERVAL: Micros = Micros::from_secs(1);
/// Between two probes that were asked for; the more, the more often the path did not carry what was wanted.
const WANT_INTERVAL: (u64, u64) = (1_000_000, 4_000_000);
/// For how long it counts what a path did not carry.
const REFUTED: Micros = Micros::from_secs(10);
/// A short cluster shows a little less than the rate it was sent for.
pub const WANT_FACTOR: f64 = 1.2;
/// A result that arrives faster than this part of the time is not believed.
const RECEIVED_RATIO_MAX: f64 = 2.0;

/// A cluster to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub id: u32,
    pub rate: Bitrate,
    /// At least so many packets and bytes.
    pub packets: u32,
    pub bytes: usize,
}

/// What has come back of one.
#[derive(Clone, Copy, Debug)]
struct Seen {
    cluster: Cluster,
    told: Micros,
    packets: u32,
    bytes: usize,
    sent: (Micros, Micros),
    arrived: (Micros, Micros),
    last_bytes: usize,
    first_bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Prober {
    max: Bitrate,
    /// No more could be used.
    useful: Bitrate,
    next_id: u32,
    waiting: ArrayVec<Cluster, CLUSTERS>,
    seen: ArrayVec<Seen, CLUSTERS>,
    /// A result above this asks for another probe.
    further_above: Option<Bitrate>,
    probed: Micros,
    began: Micros,
    /// What was wanted with the cluster of that id, and when to ask again, in microseconds after it.
    wanted: Option<(u32, Bitrate)>,
    want_interval: u64,
    /// What was shown instead, and when.
    refuted: Option<(Bitrate, Micros)>,
}

impl Prober {
    pub fn new(start: Bitrate, max: Bitrate, now: Micros) -> Self {
        let mut prober = Prober {
            max,
            useful: max,
            next_id: 1,
            waiting: ArrayVec::new(),
            seen: ArrayVec::new(),
            further_above: None,
            probed: now,
            began: now,
            wanted: None,
            want_interval: WANT_INTERVAL.0,
            refuted: None,
        };
        for factor in START_FACTORS {
            prober.ask(Bitrate((start.0 as f64 * factor) as u64), CLUSTER_MICROS, now);
        }
        prober
    }

    /// The next cluster to send.
    pub fn next_cluster(&mut self) -> Option<Cluster> {
        self.waiting.pop_at(0)
    }

    /// Asks for a probe if there was none for a while.
    pub fn again(&mut self, estimate: Bitrate, now: Micros) {
        let first = now.since(self.began) < FIRST_SECONDS.0;
        let (interval, micros) = if first { (FIRST_INTERVAL, LONG_CLUSTER_MICROS) } else { (AGAIN_INTERVAL, CLUSTER_MICROS) };
        if now.since(self.probed) >= interval.0 && self.waiting.is_empty() && estimate < self.useful {
            self.ask(Bitrate((estimate.0 as f64 * AGAIN_FACTOR) as u64), micros, now);
        }
    }

    /// Asks for a probe of a rate that could be used if the path carried it. Nothing above the most that could be used is probed any more.
    pub fn want(&mut self, next: Bitrate, most: Bitrate, estimate: Bitrate, now: Micros) {
        let with_some = |rate: Bitrate| Bitrate((rate.0 as f64 * WANT_FACTOR) as u64);
        self.useful = with_some(most.max(next)).min(self.max);
        if estimate < next && now.since(self.probed) >= self.want_interval && self.waiting.is_empty() {
            self.wanted = Some((self.next_id, next));
            self.ask(with_some(next), CLUSTER_MICROS, now);
        }
    }

    /// A packet of a cluster arrived. Gives the rate that the cluster has shown, once enough of it has come. `chance`: that a packet is lost by,
    /// of 1; so much of a cluster is missing whatever the path carries.
    pub fn packet(&mut self, id: u32, sent: Micros, arrived: Micros, bytes: usize, chance: f64, now: Micros) -> Option<Bitrate> {
        self.seen.retain(|seen| now.since(seen.told) < CLUSTER_TIMEOUT);
        let seen = self.seen.iter_mut().find(|seen| seen.cluster.id == id)?;
        if seen.packets == 0 {
            (seen.sent, seen.arrived) = ((sent, sent), (arrived, arrived));
            (seen.first_bytes, seen.last_bytes) = (bytes, bytes);
        }
        seen.packets += 1;
        seen.bytes += bytes;
        seen.sent.0 = seen.sent.0.min(sent);
        if sent >= seen.sent.1 {
            (seen.sent.1, seen.last_bytes) = (sent, bytes);
        }
        if arrived < seen.arrived.0 {
            (seen.arrived.0, seen.first_bytes) = (arrived, bytes);
        }
        seen.arrived.1 = seen.arrived.1.max(arrived);
        let rate = shown(seen, chance)?;
        if let Some((_, next)) = self.wanted.take_if(|(wanted, _)| *wanted == id) {
            self.refuted = (rate < next).then_some((rate, now));
            self.want_interval = if rate < next { (self.want_interval * 2).min(WANT_INTERVAL.1) } else { WANT_INTERVAL.0 };
        }
        self.further(rate, now);
        Some(rate)
    }

    /// More than this was wanted of late, and the path did not carry it.
    pub fn refuted(&self, now: Micros) -> Option<Bitrate> {
        self.refuted.filter(|(_, at)| now.since(*at) < REFUTED.0).map(|(rate, _)| rate)
    }

    fn further(&mut self, rate: Bitrate, now: Micros) {
        if self.further_above.is_some_and(|above| rate > above) && self.waiting.is_empty() {
            self.ask(Bitrate((rate.0 as f64 * FURTHER_FACTOR) as u64), CLUSTER_MICROS, now);
        }
    }

    fn ask(&mut self, rate: Bitrate, micros: u64, now: Micros) {
        let rate = rate.min(self.useful);
        if self.waiting.is_full() {
            return;
        }
        let bytes = CLUSTER_BYTES.max((rate.0 * micros / 8_000_000) as usize);
        let cluster = Cluster { id: self.next_id, rate, packets: CLUSTER_PACKETS, bytes };
        self.next_id = self.next_id.wrapping_add(1).max(1);
        self.waiting.push(cluster);
        if self.seen.is_full() {
            self.seen.remove(0);
        }
        let never = (Micros::ZERO, Micros::ZERO);
        let (packets, bytes, last_bytes, first_bytes) = (0, 0, 0, 0);
        self.seen.push(Seen { cluster, told: now, packets, bytes, sent: never, arrived: never, last_bytes, first_bytes });
        // At the limit there is nothing further to find.
        self.further_above = (rate < self.useful).then_some(Bitrate((rate.0 as f64 * FURTHER_ABOVE) as u64));
        self.probed = now;
    }
}

/// The rate at which a cluster went through, if enough of it did.
fn shown(seen: &Seen, chance: f64) -> Option<Bitrate> {
    let least = RECEIVED_MIN * (1.0 - chance);
    let enough = f64::from(seen.packets) >= least * f64::from(seen.cluster.packets)
        && seen.bytes as f64 >= least * seen.cluster.bytes as f64;
    let (sending, receiving) = (seen.sent.1.since(seen.sent.0), seen.arrived.1.since(seen.arrived.0));
    if !enough || sending == 0 || receiving == 0 || sending > INTERVAL_MAX || receiving > INTERVAL_MAX {
        return None;
    }
    // The last packet sent, and the first received, mark the ends of the intervals and are not in them.
    let rate = |bytes: usize, micros: u64| bytes as f64 * 8e6 / micros as f64;
    let sent = rate(seen.bytes - seen.last_bytes, sending);
    let received = rate(seen.bytes - seen.first_bytes, receiving);
    if received > RECEIVED_RATIO_MAX * sent {
        return None;
    }
    let found = if received < SATURATED_BELOW * sent { SATURATED_TARGET * received } else { sent.min(received) };
    Some(Bitrate((found / (1.0 - chance)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends the next cluster over a path of that capacity; what it shows.
    fn probe(prober: &mut Prober, capacity: u64, now: Micros) -> Option<Bitrate> {
        let cluster = prober.next_cluster()?;
        let gap = 1200 * 8_000_000 / cluster.rate.0;
        let on_path = gap.max(1200 * 8_000_000 / capacity);
        let packets = cluster.packets.max(cluster.bytes.div_ceil(1200) as u32);
        let mut found = None;
        for index in 0..u64::from(packets) {
            let (sent, arrived) = (now + Micros(index * gap), now + Micros(30_000 + index * on_path));
            found = prober.packet(cluster.id, sent, arrived, 1200, 0.0, now + Micros::from_millis(60)).or(found);
        }
        found
    }

    #[test]
    fn what_is_lost_by_chance_is_missing_from_clusters_too() {
        let shown = |chance| {
            let mut prober = Prober::new(Bitrate::kbps(300), Bitrate::kbps(20_000), Micros::ZERO);
            let cluster = prober.next_cluster().unwrap();
            // One of four is lost.
            let arrived = (0..8u64).filter(|index| index % 4 != 2);
            arrived.fold(None, |found, index| {
                let (sent, now) = (Micros(index * 8_000), Micros::from_millis(150));
                prober.packet(cluster.id, sent, sent + Micros(30_000), cluster.bytes / 8, chance, now).or(found)
            })
        };
        assert_eq!(shown(0.0), None, "too little of it came");
        // 312 bytes each 8 ms.
        let rate = shown(0.25).unwrap();
        assert!((Bitrate::kbps(280)..Bitrate::kbps(343)).contains(&rate), "{rate:?}");
    }

    #[test]
    fn the_start_finds_a_fast_path_in_a_few_clusters() {
        let mut prober = Prober::new(Bitrate::kbps(300), Bitrate::kbps(20_000), Micros::ZERO);
        let mut found = Bitrate::default();
        let mut now = Micros::ZERO;
        while let Some(rate) = probe(&mut prober, 8_000_000, now) {
            found = found.max(rate);
            now = now + Micros::from_millis(200);
        }
        assert!((7_000_000..8_100_000).contains(&found.0), "{found:?}");
        assert!(now <= Micros::from_millis(1_200), "after {now:?}");
    }

    #[test]
    fn a_full_path_shows_its_capacity() {
        let mut prober = Prober::new(Bitrate::kbps(1000), Bitrate::kbps(20_000), Micros::ZERO);
        let shown = probe(&mut prober, 1_500_000, Micros::ZERO).unwrap();
        assert!((1_350_000..1_500_000).contains(&shown.0), "{shown:?}");
        assert!(probe(&mut prober, 1_500_000, Micros::from_millis(200)).is_some(), "the second one of the start");
        assert_eq!(prober.next_cluster(), None, "nothing further");
    }

    #[test]
    fn what_could_be_used_is_probed_and_no_more() {
        let mut prober = Prober::new(Bitrate::kbps(300), Bitrate::kbps(20_000), Micros::ZERO);
        while prober.next_cluster().is_some() {}
        let wanted = Bitrate::kbps(2_000);
        prober.want(wanted, wanted, Bitrate::kbps(900), Micros::from_millis(500));
        assert_eq!(prober.next_cluster(), None, "not so soon after the last");
        prober.want(wanted, wanted, Bitrate::kbps(900), Micros::from_secs(2));
        let asked = Some(Bitrate::kbps(2_400));
        assert_eq!(prober.next_cluster().map(|cluster| cluster.rate), asked);
        prober.again(Bitrate::kbps(2_400), Micros::from_secs(20));
        assert_eq!(prober.next_cluster(), None, "more would be of no use");
        prober.again(Bitrate::kbps(1_500), Micros::from_secs(20));
        assert_eq!(prober.next_cluster().map(|cluster| cluster.rate), asked);
        assert_eq!(prober.refuted(Micros::from_secs(21)), None, "nothing has come back");
        // A path that carries what is wanted next may carry more of what is wanted at all.
        let now = Micros::from_secs(30);
        prober.want(Bitrate::kbps(600), Bitrate::kbps(2_000), Bitrate::kbps(300), now);
        let shown = probe(&mut prober, 8_000_000, now).expect("what is next");
        assert!((600_000..760_000).contains(&shown.0), "{shown:?}");
        let more = probe(&mut prober, 8_000_000, now + Micros::from_millis(100)).expect("and more");
        assert!((1_200_000..1_500_000).contains(&more.0), "{more:?}");
        assert_eq!(prober.next_cluster().map(|cluster| cluster.rate), asked);
    }

    #[test]
    fn what_a_path_does_not_carry_is_asked_for_less_often() {
        let mut prober = Prober::new(Bitrate::kbps(300), Bitrate::kbps(20_000), Micros::ZERO);
        while prober.next_cluster().is_some() {}
        let mut asked = Vec::new();
        for second in 2..20 {
            let now = Micros::from_secs(second);
            prober.want(Bitrate::kbps(600), Bitrate::kbps(2_000), Bitrate::kbps(300), now);
            if let Some(shown) = probe(&mut prober, 350_000, now) {
                assert_eq!(prober.refuted(now), Some(shown));
                asked.push(second);
            }
        }
        assert_eq!(asked, [2, 4, 8, 12, 16]);
        assert!(prober.refuted(Micros::from_secs(25)).is_some() && prober.refuted(Micros::from_secs(27)).is_none());
        let now = Micros::from_secs(30);
        prober.want(Bitrate::kbps(600), Bitrate::kbps(2_000), Bitrate::kbps(300), now);
        assert!(probe(&mut prober, 8_000_000, now).is_some() && prober.refuted(now).is_none());
    }

    #[test]
    fn lies_are_not_believed() {
        let mut prober = Prober::new(Bitrate::kbps(1000), Bitrate::kbps(20_000), Micros::ZERO);
        let cluster = prober.next_cluster().unwrap();
        for index in 0..20 {
            // Ten times as fast as sent, and an id that was never given.
            let (sent, arrived) = (Micros(index * 3_200), Micros(30_000 + index * 320));
            assert_eq!(prober.packet(cluster.id, sent, arrived, 1200, 0.0, Micros(60_000)), None);
            assert_eq!(prober.packet(77, sent, sent, 1200, 0.0, Micros(60_000)), None);
        }
    }
}
