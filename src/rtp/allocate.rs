//! What one receiver is given of all it watches, when its path does not carry everything.
//!
//! Sound comes first, whole. Then every picture gets its cheapest layers, in the order of priority; then those of the first priority take
//! the next step that fits, each in turn, until they have all that they want, and those of the next after them. What does not even get the
//! cheapest pauses, and comes back by itself when it fits again. No picture is larger than the place where it is shown.

use arrayvec::ArrayVec;

use crate::limits::{MEDIA_PER_PEER, QUALITIES_MAX, TEMPORAL_LAYERS_MAX};
use crate::rtp::config::MediaKind;
use crate::rtp::layers::{Choice, Layers, Wish};
use crate::units::{Bitrate, Micros};

/// Of a step up, how much of its total must fit: so that a rate that sways does not make the picture flap.
const UP_PERCENT: u64 = 108;
/// Of the cheapest picture, if it flows, how much must fit for it to go on: an estimate that sways does not end it.
const LAST_PERCENT: u64 = 80;
/// And of any other that flows: it is proven, and what overwhelms the path lowers the estimate by more.
const STAY_PERCENT: u64 = 90;
/// For so long a picture goes on that does not fit at all.
const PATIENCE: Micros = Micros::from_secs(2);
/// After a picture had to be lowered nothing rises for so long; twice as long each time that this came soon after it had risen.
const REST: Micros = Micros::from_secs(2);
const REST_MAX: Micros = Micros::from_secs(16);
const SOON: Micros = Micros::from_secs(8);

/// One track that the receiver watches.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    pub kind: MediaKind,
    pub layers: Layers,
    /// What it gets now.
    pub current: Option<Choice>,
    pub wish: Wish,
    /// It did not fit any more, and does not flow since.
    pub paused: bool,
    /// How often each packet is sent: sound can carry its past along.
    pub copies: u8,
}

impl Demand {
    fn rate(&self, choice: Option<Choice>) -> u64 {
        choice.map_or(0, |choice| self.layers.rate(choice).0 * self.copies as u64)
    }
}

/// By demand; none: nothing.
pub type Allocation = ArrayVec<Option<Choice>, MEDIA_PER_PEER>;

type Steps = ArrayVec<Choice, { QUALITIES_MAX * TEMPORAL_LAYERS_MAX }>;

/// What a demand can be given, from the cheapest to the dearest, its quality never falling. Above the lowest quality at most one
/// temporal layer is left out: more pixels are not worth a picture that stutters.
fn steps(demand: &Demand) -> Steps {
    let mut steps = Steps::new();
    let Some(wish) = demand.wish.most else { return steps };
    let layers = &demand.layers;
    let enough = layers.enough(demand.wish.size);
    // What was wished for may not flow; then the best below it, and if there is none, the lowest there is.
    let lowest = (0..QUALITIES_MAX as u8)
        .filter(|quality| layers.flows(*quality))
        .min_by_key(|quality| layers.rate(Choice::whole(*quality)));
    let Some(lowest) = lowest else { return steps };
    for choice in layers.choices() {
        let larger =
            layers.better(choice.quality, wish.quality) || enough.is_some_and(|enough| layers.better(choice.quality, enough));
        let wished = !larger || choice.quality == lowest;
        let temporal = layers.smooth(choice.quality, demand.wish.frame_rate).min(wish.temporal);
        let smooth = choice.quality == lowest || choice.temporal + 1 >= layers.temporal(choice.quality).min(temporal);
        let rises = steps.last().is_none_or(|last| last.quality == choice.quality || layers.better(choice.quality, last.quality));
        if wished && choice.temporal <= temporal && smooth && rises {
            steps.push(choice);
        }
    }
    steps
}

/// Divides `budget`, the bits a second that the receiver's path carries; without one, everybody gets the best that they want.
pub fn allocate(budget: Option<Bitrate>, demands: &[Demand]) -> Allocation {
    let mut allocation: Allocation = demands.iter().take(MEDIA_PER_PEER).map(|_| None).collect();
    let Some(Bitrate(budget)) = budget else {
        for (given, demand) in allocation.iter_mut().zip(demands) {
            *given = steps(demand).last().copied();
        }
        return allocation;
    };
    let mut left = budget;
    // Sound, whatever it costs.
    for (given, demand) in allocation.iter_mut().zip(demands).filter(|(_, demand)| demand.kind == MediaKind::Audio) {
        *given = steps(demand).last().copied();
        left = left.saturating_sub(demand.rate(*given));
    }
    let mut video: ArrayVec<(usize, Steps), MEDIA_PER_PEER> = demands
        .iter()
        .enumerate()
        .take(MEDIA_PER_PEER)
        .filter(|(_, demand)| demand.kind == MediaKind::Video)
        .map(|(index, demand)| (index, steps(demand)))
        .collect();
    let priority = |index: usize| demands.get(index).map_or(u8::MAX, |demand| demand.wish.priority);
    video.sort_unstable_by_key(|(index, _)| (priority(*index), *index));
    for (index, steps) in &video {
        climb(&demands[*index], steps, 0, &mut allocation[*index], &mut left);
    }
    for equals in video.chunk_by(|one, other| priority(one.0) == priority(other.0)) {
        for rung in 1..QUALITIES_MAX * TEMPORAL_LAYERS_MAX {
            for (index, steps) in equals {
                climb(&demands[*index], steps, rung, &mut allocation[*index], &mut left);
            }
        }
    }
    allocation
}

/// Gives a picture a step if that fits into what is left. Whoever missed one stays where it is.
fn climb(demand: &Demand, steps: &Steps, rung: usize, given: &mut Option<Choice>, left: &mut u64) {
    let Some(choice) = steps.get(rung).copied() else { return };
    if rung > 0 && *given != steps.get(rung - 1).copied() {
        return;
    }
    let rate = demand.rate(Some(choice));
    let price = rate.saturating_sub(demand.rate(*given));
    let needed = if demand.current.is_none() || rate > demand.rate(demand.current) {
        price + rate * (UP_PERCENT - 100) / 100
    } else if rung == 0 {
        price - rate * (100 - LAST_PERCENT) / 100
    } else {
        price.saturating_sub(rate * (100 - STAY_PERCENT) / 100)
    };
    if needed <= *left {
        *left = left.saturating_sub(price);
        *given = Some(choice);
    }
}

/// What the whole would take if one picture got its next step; if each has its best, what it takes.
pub fn next(demands: &[Demand], allocation: &Allocation) -> Bitrate {
    let both = || demands.iter().zip(allocation);
    let total: u64 = both().map(|(demand, given)| demand.rate(*given)).sum();
    let dearer = both().filter(|(demand, _)| demand.kind == MediaKind::Video).filter_map(|(demand, given)| {
        let has = demand.rate(*given);
        let step = steps(demand).into_iter().map(|choice| demand.rate(Some(choice))).find(|rate| *rate > has)?;
        Some(step * UP_PERCENT / 100 - has)
    });
    Bitrate(total + dearer.min().unwrap_or(0))
}

/// What the sounds and the cheapest layers of all pictures take, which cannot be made smaller; and the sounds and the best of all, more
/// than which is of no use.
pub fn extremes(demands: &[Demand]) -> (Bitrate, Bitrate) {
    let (mut least, mut most) = (0, 0);
    for demand in demands {
        let steps = steps(demand);
        let best = demand.rate(steps.last().copied());
        match demand.kind {
            MediaKind::Audio => (least, most) = (least + best, most + best),
            MediaKind::Video => {
                least += demand.rate(steps.first().copied()) * UP_PERCENT / 100;
                most += best * UP_PERCENT / 100;
            }
        }
    }
    (Bitrate(least), Bitrate(most))
}

/// Keeps one receiver's pictures from flapping where its path sways.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steadiness {
    /// A picture has not had its cheapest layers since then.
    starves: Option<Micros>,
    lowered: Option<Micros>,
    raised: Option<Micros>,
    /// How long nothing rises after `lowered`.
    rest: Micros,
}

impl Steadiness {
    /// Amends what was allocated: a picture does not pause before it has starved for a while, and after one was lowered none rises for a
    /// while. What the receiver asks for itself is not delayed. `competes`: the path is shared with TCP, which makes the rate sway whether or
    /// not anything has risen.
    pub fn settle(&mut self, demands: &[Demand], allocation: &mut Allocation, competes: bool, now: Micros) {
        let recently = |time: Option<Micros>, span: Micros| time.is_some_and(|time| now.since(time) < span.0);
        let rests = recently(self.lowered, self.rest);
        let (mut starves, mut lowers, mut raises) = (false, false, false);
        for (given, demand) in allocation.iter_mut().zip(demands).filter(|(_, demand)| demand.kind == MediaKind::Video) {
            let steps = steps(demand);
            if given.is_none() && !steps.is_empty() && !demand.paused {
                starves = true;
                if self.starves.is_none() || recently(self.starves, PATIENCE) {
                    *given = steps.first().copied();
                }
            }
            let (before, after) = (demand.rate(demand.current), demand.rate(*given));
            if rests && before > 0 && after > before {
                *given = demand.current;
            } else {
                raises |= after > before;
            }
            lowers |= after < before && *given != steps.last().copied();
        }
        self.starves = starves.then(|| self.starves.unwrap_or(now));
        if lowers {
            let failed = recently(self.raised, SOON) && !competes;
            self.rest = if failed { Micros((self.rest.0 * 2).clamp(REST.0, REST_MAX.0)) } else { REST };
            self.lowered = Some(now);
            self.raised = None;
        } else if raises {
            self.raised = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three encodings of two temporal layers: 100 and 150, 350 and 500, 1200 and 1700 kb/s.
    fn simulcast() -> Layers {
        let k = |kilobits: u32| kilobits * 1_000;
        Layers::new([[k(100), k(50), 0, 0], [k(350), k(150), 0, 0], [k(1_200), k(500), 0, 0], [0; 4]], false)
    }

    fn video() -> Demand {
        Demand { kind: MediaKind::Video, layers: simulcast(), current: None, wish: Wish::default(), paused: false, copies: 1 }
    }

    fn wish(quality: u8, temporal: u8) -> Wish {
        Wish { most: Some(Choice { quality, temporal }), ..Wish::default() }
    }

    const NOTHING: Wish = Wish { most: None, size: (0, 0), frame_rate: 0, priority: Wish::PRIORITY };

    fn audio() -> Demand {
        Demand { kind: MediaKind::Audio, layers: Layers::new([[40_000, 0, 0, 0], [0; 4], [0; 4], [0; 4]], false), ..video() }
    }

    fn given(budget: u64, demands: &[Demand]) -> Vec<Option<(u8, u8)>> {
        let allocation = allocate(Some(Bitrate::kbps(budget)), demands);
        allocation.iter().map(|choice| choice.map(|choice| (choice.quality, choice.temporal))).collect()
    }

    #[test]
    fn without_an_estimate_everybody_gets_what_they_want() {
        let limited = Demand { wish: wish(1, 0), ..video() };
        let hidden = Demand { wish: NOTHING, ..video() };
        let allocation = allocate(None, &[audio(), video(), limited, hidden]);
        let best = Some(Choice { quality: 2, temporal: 1 });
        assert_eq!(&allocation[1..], [best, Some(Choice { quality: 1, temporal: 0 }), None]);
        assert!(allocation[0].is_some());
    }

    #[test]
    fn the_highest_layer_that_fits() {
        for (budget, expected) in [
            (90, None),
            (148, Some((0, 0))),
            (210, Some((0, 1))),
            (420, Some((1, 0))),
            (600, Some((1, 1))),
            (1_500, Some((2, 0))),
            (2_000, Some((2, 1))),
        ] {
            assert_eq!(given(budget, &[audio(), video()]), [Some((0, 0)), expected], "{budget} kb/s");
        }
        assert_eq!(given(10, &[audio(), video()]), [Some((0, 0)), None], "sound is never left out");
    }

    #[test]
    fn what_is_given_stays_while_it_fits_and_a_step_up_needs_some_room() {
        assert_eq!(given(510, &[video()]), [Some((1, 0))]);
        let has = |quality, temporal| Demand { current: Some(Choice { quality, temporal }), ..video() };
        assert_eq!(given(510, &[has(1, 1)]), [Some((1, 1))]);
        assert_eq!(given(470, &[has(1, 1)]), [Some((1, 1))], "a little too little is not enough to fall");
        assert_eq!(given(430, &[has(1, 1)]), [Some((1, 0))]);
    }

    #[test]
    fn the_last_picture_goes_on_while_most_of_it_fits() {
        let flows = Demand { current: Some(Choice { quality: 0, temporal: 0 }), ..video() };
        assert_eq!(given(85, &[flows]), [Some((0, 0))]);
        assert_eq!(given(75, &[flows]), [None]);
    }

    #[test]
    fn what_the_next_step_takes() {
        let next_of = |budget: u64, demands: &[Demand]| next(demands, &allocate(Some(Bitrate::kbps(budget)), demands)).0 / 1_000;
        assert_eq!(next_of(50, &[audio(), video()]), 40 + 108);
        assert_eq!(next_of(300, &[audio(), video()]), 40 + 378);
        assert_eq!(next_of(700, &[video()]), 1_296);
        assert_eq!(next_of(9_000, &[audio(), video()]), 40 + 1_700);
    }

    #[test]
    fn the_least_is_sound_and_the_cheapest_of_each_picture_and_the_most_the_best() {
        let of = |demands: &[Demand]| [extremes(demands).0, extremes(demands).1].map(|rate| rate.0 / 1_000);
        assert_eq!(of(&[audio(), video(), Demand { wish: NOTHING, ..video() }]), [40 + 108, 40 + 1_836]);
        assert_eq!(
            of(&[Demand { copies: 2, ..audio() }, video(), Demand { wish: wish(1, 1), ..video() }]),
            [80 + 216, 80 + 1_836 + 540]
        );
    }

    #[test]
    fn a_picture_pauses_only_after_it_has_starved_and_comes_back_when_it_fits() {
        let mut steadiness = Steadiness::default();
        let mut demands = [Demand { current: Some(Choice { quality: 1, temporal: 1 }), ..video() }];
        let mut step = |budget: u64, millis: u64| {
            let mut allocation = allocate(Some(Bitrate::kbps(budget)), &demands);
            steadiness.settle(&demands, &mut allocation, false, Micros::from_millis(millis));
            (demands[0].current, demands[0].paused) = (allocation[0], allocation[0].is_none());
            allocation[0].map(|choice| (choice.quality, choice.temporal))
        };
        assert_eq!(step(50, 10_000), Some((0, 0)));
        assert_eq!(step(50, 11_900), Some((0, 0)));
        assert_eq!(step(50, 12_100), None);
        assert_eq!(step(100, 12_200), None);
        assert_eq!(step(110, 20_000), Some((0, 0)));
        assert_eq!(step(50, 21_000), Some((0, 0)), "its patience begins anew");
    }

    #[test]
    fn after_a_fall_nothing_rises_for_a_while_unless_it_is_wanted() {
        let mut steadiness = Steadiness::default();
        let mut demand = Demand { current: Some(Choice { quality: 2, temporal: 1 }), ..video() };
        let mut step = |budget: u64, seconds: u64, wish: u8| {
            demand.wish.most = Some(Choice::whole(wish));
            let mut allocation = allocate(Some(Bitrate::kbps(budget)), &[demand]);
            steadiness.settle(&[demand], &mut allocation, false, Micros::from_secs(seconds));
            demand.current = allocation[0];
            allocation[0].map(|choice| choice.quality)
        };
        assert_eq!(step(600, 10, 2), Some(1));
        assert_eq!(step(5_000, 11, 2), Some(1));
        assert_eq!(step(5_000, 12, 2), Some(2));
        assert_eq!((step(5_000, 13, 0), step(5_000, 13, 2)), (Some(0), Some(2)));
    }

    #[test]
    fn who_falls_again_and_again_rests_longer() {
        let mut steadiness = Steadiness::default();
        let mut demand = Demand { current: Some(Choice { quality: 2, temporal: 1 }), ..video() };
        let mut falls = Vec::new();
        // Too little in the first second of each time above.
        for second in 0..80u64 {
            let is_high = demand.current.is_some_and(|choice| choice.quality == 2);
            let budget = Bitrate::kbps(if is_high { 600 } else { 5_000 });
            let mut allocation = allocate(Some(budget), &[demand]);
            steadiness.settle(&[demand], &mut allocation, false, Micros::from_secs(second));
            demand.current = allocation[0];
            if is_high {
                falls.push(second);
            }
        }
        assert_eq!(falls, [0, 3, 8, 17, 34, 51, 68]);
    }

    #[test]
    fn several_pictures_rise_together_and_the_first_goes_first() {
        assert_eq!(given(300, &[video(), video(), video()]), [Some((0, 1)), Some((0, 0)), None]);
        assert_eq!(given(650, &[video(), video()]), [Some((1, 0)), Some((0, 1))]);
        assert_eq!(given(1_100, &[video(), video()]), [Some((1, 1)), Some((1, 1))]);
    }

    #[test]
    fn the_first_priority_has_what_it_wants_before_the_next_rises_and_the_last_pauses_first() {
        let of = |priority| Demand { wish: Wish { priority, ..Wish::default() }, ..video() };
        assert_eq!(given(1_400, &[of(128), of(1)]), [Some((0, 1)), Some((2, 0))]);
        assert_eq!(given(5_000, &[of(128), of(1)]), [Some((2, 1)); 2]);
        assert_eq!(
            given(250, &[of(3), of(2), of(1)]),
            [None, Some((0, 0)), Some((0, 0))],
            "something for each that it is enough for"
        );
        assert_eq!(given(130, &[audio(), of(128), of(1)]), [Some((0, 0)), None, None]);
        assert_eq!(given(150, &[audio(), of(128), of(1)]), [Some((0, 0)), None, Some((0, 0))]);
    }

    #[test]
    fn no_picture_is_larger_than_its_place() {
        let layers = simulcast().sized([(320, 180), (640, 360), (1280, 720), (0, 0)]);
        let of = |size| Demand { layers, wish: Wish { size, ..Wish::default() }, ..video() };
        assert_eq!(given(9_000, &[of((600, 300)), of((1920, 1080)), of((10, 10))]), [Some((1, 1)), Some((2, 1)), Some((0, 1))]);
        let both = Demand { wish: Wish { size: (1280, 720), ..wish(0, 3) }, ..of((0, 0)) };
        assert_eq!(given(9_000, &[both]), [Some((0, 1))], "what was asked for by name is the limit too");
    }

    #[test]
    fn no_more_pictures_come_than_are_wanted() {
        let layers = simulcast().paced([[8, 7, 0, 0], [15, 15, 0, 0], [15, 15, 0, 0], [0; 4]]);
        let of = |frame_rate| Demand { layers, wish: Wish { frame_rate, ..Wish::default() }, ..video() };
        assert_eq!(given(9_000, &[of(15), of(30), of(0), of(60)]), [Some((2, 0)), Some((2, 1)), Some((2, 1)), Some((2, 1))]);
        assert_eq!(given(170, &[of(15)]), [Some((0, 1))], "the lowest has but eight in its first layer");
    }

    #[test]
    fn one_that_is_paused_does_not_use_up_the_patience_with_another() {
        let mut steadiness = Steadiness::default();
        let of = |priority| Demand { current: Some(Choice::default()), wish: Wish { priority, ..Wish::default() }, ..video() };
        let mut demands = [of(1), of(2)];
        let mut step = |budget: u64, seconds: u64| {
            let mut allocation = allocate(Some(Bitrate::kbps(budget)), &demands);
            steadiness.settle(&demands, &mut allocation, false, Micros::from_secs(seconds));
            for (demand, given) in demands.iter_mut().zip(&allocation) {
                (demand.current, demand.paused) = (*given, given.is_none());
            }
            [0, 1].map(|index| allocation[index].is_some())
        };
        assert_eq!([step(150, 10), step(150, 13)], [[true, true], [true, false]]);
        assert_eq!(
            [step(150, 20), step(50, 30), step(50, 31), step(50, 33)],
            [[true, false], [true, false], [true, false], [false; 2]]
        );
        assert_eq!([step(150, 34), step(230, 35)], [[true, false], [true; 2]]);
    }

    #[test]
    fn a_wish_that_does_not_flow_gets_what_is_nearest() {
        let layers = Layers::new([[0; 4], [350_000, 0, 0, 0], [1_200_000, 0, 0, 0], [0; 4]], false);
        let layers = layers.after(&simulcast());
        let demand = Demand { layers, wish: wish(0, 3), ..video() };
        assert_eq!(given(5_000, &[demand]), [Some((1, 0))]);
        // Clients number their encodings either way: the best comes first here, and is switched off.
        let layers = Layers::new([[0; 4], [350_000, 0, 0, 0], [100_000, 0, 0, 0], [0; 4]], false);
        let layers = layers.after(&Layers::new([[900_000, 0, 0, 0], [0; 4], [0; 4], [0; 4]], false));
        assert_eq!(given(5_000, &[Demand { layers, wish: wish(0, 3), ..video() }]), [Some((1, 0))]);
    }

    #[test]
    fn a_picture_of_a_quarter_of_the_frames_only_where_nothing_else_fits() {
        let layers = Layers::new([[60_000, 30_000, 30_000, 0], [200_000, 100_000, 100_000, 0], [0; 4], [0; 4]], false);
        let demand = Demand { layers, ..video() };
        assert_eq!(given(70, &[demand]), [Some((0, 0))]);
        assert_eq!(given(250, &[demand]), [Some((0, 2))], "not a quarter of the frames of the next");
        assert_eq!(given(330, &[demand]), [Some((1, 1))]);
    }
}
