//! Which layers a track has, and what each of them costs: measured where the publisher is, read wherever somebody watches.
//!
//! A track's picture comes in up to [`QUALITIES_MAX`] qualities: simulcast encodings, each a stream of its own, or spatial layers of
//! one stream, each built on those below. Each quality has up to [`TEMPORAL_LAYERS_MAX`] temporal layers, which are always built
//! on those below.

use crate::limits::{QUALITIES_MAX, TEMPORAL_LAYERS_MAX};
use crate::rtp::rewrite::Target;
use crate::units::{Bitrate, Micros};

/// Time over which a layer's bit rate is counted before it enters the average.
pub const WINDOW: Micros = Micros::from_millis(250);
/// Share of the newest window in the average: it forgets within about a second.
const WEIGHT: f64 = 0.2;
/// Key frames are large and rare: what they take is spread over several seconds, so that one of them does not make its layer look dear.
const KEY_FRAME_WEIGHT: f64 = 0.06;
/// Windows without a packet after which a quality is taken for switched off, if another one flows.
const SILENT_WINDOWS: u8 = 2;

/// Up to where a receiver gets a track: a quality, and the temporal layers of it up to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Index of the simulcast encoding or of the spatial layer.
    pub quality: u8,
    pub temporal: u8,
}

impl Choice {
    /// All temporal layers of a quality.
    pub const fn whole(quality: u8) -> Choice {
        Choice { quality, temporal: TEMPORAL_LAYERS_MAX as u8 - 1 }
    }
}

/// What a receiver wants of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The best; none if it wants nothing for now.
    pub most: Option<Choice>,
    /// Width and height in pixels of the place where it is shown; zeros: not told.
    pub size: (u16, u16),
    /// Pictures a second that are enough; 0: not told.
    pub frame_rate: u8,
    /// Who comes first when the path does not carry everything: 1 before 2.
    pub priority: u8,
}

impl Wish {
    /// Of what is wanted without a word on how much.
    pub const PRIORITY: u8 = 128;
}

impl Default for Wish {
    fn default() -> Self {
        Wish { most: Some(Choice::whole(u8::MAX)), size: (0, 0), frame_rate: 0, priority: Wish::PRIORITY }
    }
}

/// Width and height of each quality in pixels; zeros: not told.
pub type Sizes = [(u16, u16); QUALITIES_MAX];

/// Pictures a second of each temporal layer of a stream by itself.
pub type Frames = [u8; TEMPORAL_LAYERS_MAX];

/// Of a wanted frame rate, how much is enough: encoders make a few pictures less than they are asked for.
const FRAMES_PERCENT: u32 = 90;
/// By how much a frame rate may change before that is a change.
const FRAMES_SWAY_PERCENT: u32 = 25;

/// The layers of a track that flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Bits a second of each temporal layer by itself. All zero: the quality does not flow.
    rates: [[u32; TEMPORAL_LAYERS_MAX]; QUALITIES_MAX],
    /// Bits a second of each quality when it last flowed: how they rank, also while one of them does not.
    known: [u32; QUALITIES_MAX],
    sizes: Sizes,
    frames: [Frames; QUALITIES_MAX],
    /// Qualities are spatial layers of one stream, rather than encodings of their own.
    scalable: bool,
}

impl Layers {
    pub fn new(rates: [[u32; TEMPORAL_LAYERS_MAX]; QUALITIES_MAX], scalable: bool) -> Layers {
        Layers { rates, known: rates.map(|row| row.iter().sum()), scalable, ..Layers::default() }
    }

    /// The same with so many pictures a second in each quality.
    pub fn paced(mut self, frames: [Frames; QUALITIES_MAX]) -> Layers {
        self.frames = frames;
        self
    }

    /// The same with pictures of these sizes.
    pub fn sized(mut self, sizes: Sizes) -> Layers {
        self.sizes = sizes;
        self
    }

    /// The same with what was known before of qualities that do not flow now.
    pub fn after(mut self, before: &Layers) -> Layers {
        for (size, before) in self.sizes.iter_mut().zip(before.sizes) {
            if *size == (0, 0) {
                *size = before;
            }
        }
        for (known, before) in self.known.iter_mut().zip(before.known) {
            if *known == 0 {
                *known = before;
            }
        }
        self
    }

    pub fn scalable(&self) -> bool {
        self.scalable
    }

    pub fn flows(&self, quality: u8) -> bool {
        self.own_rate(quality, TEMPORAL_LAYERS_MAX as u8 - 1) > 0
    }

    /// Bits a second of a quality when it last flowed; 0 if it never has.
    pub fn known(&self, quality: u8) -> u32 {
        self.known.get(quality as usize).copied().unwrap_or(0)
    }

    /// Bits a second of a quality's temporal layers, each by itself, up to the highest that flows.
    pub fn rates(&self, quality: u8) -> &[u32] {
        let rates = self.rates.get(quality as usize).map_or(&[][..], |rates| &rates[..]);
        rates.get(..=self.temporal(quality) as usize).unwrap_or_default()
    }

    /// The highest temporal layer that flows in a quality.
    pub fn temporal(&self, quality: u8) -> u8 {
        let rates = self.rates.get(quality as usize);
        rates.and_then(|rates| rates.iter().rposition(|rate| *rate > 0)).unwrap_or(0) as u8
    }

    fn own_rate(&self, quality: u8, temporal: u8) -> u64 {
        let rates = self.rates.get(quality as usize).into_iter().flatten();
        rates.take(temporal as usize + 1).map(|rate| *rate as u64).sum()
    }

    /// What a receiver of `choice` is sent, with the spatial layers below it that it needs.
    pub fn rate(&self, choice: Choice) -> Bitrate {
        let below = if self.scalable { 0 } else { choice.quality };
        Bitrate((below..=choice.quality).map(|quality| self.own_rate(quality, choice.temporal)).sum())
    }

    /// Everything a receiver can be given, from the cheapest to the dearest. Of two that cost about the same, the one of the
    /// better quality would be wanted: callers take the last that fits.
    pub fn choices(&self) -> impl Iterator<Item = Choice> + '_ {
        let all = (0..QUALITIES_MAX as u8).filter(|quality| self.flows(*quality)).flat_map(|quality| {
            let temporal = 0..=self.temporal(quality);
            temporal.map(move |temporal| Choice { quality, temporal })
        });
        let mut sorted: arrayvec::ArrayVec<Choice, { QUALITIES_MAX * TEMPORAL_LAYERS_MAX }> = all.collect();
        sorted.sort_unstable_by_key(|choice| self.rate(*choice));
        sorted.into_iter()
    }

    /// Whether one quality is better than another: spatial layers by their index, encodings (which clients number either way) by what
    /// they cost when they last flowed.
    pub fn better(&self, one: u8, other: u8) -> bool {
        let known = |quality: u8| self.known.get(quality as usize).copied().unwrap_or(u32::MAX);
        if self.scalable { one > other } else { known(one) > known(other) }
    }

    /// The lowest quality that fills a place of that size, into which a picture is fitted whole: its width or its height does. None if
    /// that cannot be said, or none does.
    pub fn enough(&self, (width, height): (u16, u16)) -> Option<u8> {
        let fills = |quality: &u8| {
            let size = self.sizes[*quality as usize];
            self.known(*quality) > 0 && size != (0, 0) && (size.0 >= width || size.1 >= height)
        };
        let area = |quality: u8| self.sizes[quality as usize].0 as u32 * self.sizes[quality as usize].1 as u32;
        let sized = (width, height) != (0, 0);
        // Of two of one size, the better.
        let cost = |quality: &u8| (area(*quality), u32::MAX - self.known(*quality));
        (0..QUALITIES_MAX as u8).filter(|_| sized).filter(fills).min_by_key(cost)
    }

    /// The lowest temporal layer of a quality with which so many pictures a second come; all, if that is not told, not known or not
    /// reached.
    pub fn smooth(&self, quality: u8, frame_rate: u8) -> u8 {
        let frames = self.frames.get(quality as usize).copied().unwrap_or_default();
        let enough = u32::from(frame_rate) * FRAMES_PERCENT;
        let sums = frames.iter().scan(0, |sum, frames| {
            *sum += u32::from(*frames) * 100;
            Some(*sum)
        });
        let reached = if frame_rate > 0 { sums.into_iter().position(|sum| sum >= enough) } else { None };
        reached.map_or(u8::MAX, |temporal| temporal as u8)
    }

    /// The highest quality that flows up to an index.
    pub fn highest_up_to(&self, quality: u8) -> u8 {
        (0..QUALITIES_MAX as u8).rev().find(|index| *index <= quality && self.flows(*index)).unwrap_or(0)
    }

    /// Which layers flow, a bit each: what decides whether others have to be chosen.
    pub fn shape(&self) -> u16 {
        let flows = self.rates.as_flattened().iter().enumerate().filter(|(_, rate)| **rate > 0);
        flows.fold(0, |shape, (bit, _)| shape | 1 << bit)
    }

    /// Whether others have to be chosen when these layers take the place of those.
    pub fn differs(&self, other: &Layers) -> bool {
        let sways = |(one, other): (&u8, &u8)| {
            u32::from(one.abs_diff(*other)) * 100 > u32::from(*one.max(other)) * FRAMES_SWAY_PERCENT && one.abs_diff(*other) > 1
        };
        let both = self.frames.as_flattened().iter().zip(other.frames.as_flattened());
        self.shape() != other.shape() || self.sizes != other.sizes || both.into_iter().any(sways)
    }

    /// What has to be forwarded for a choice. The highest of what flows is open to what may come above it.
    pub fn target(&self, choice: Choice) -> Target {
        let temporal = if choice.temporal < self.temporal(choice.quality) { choice.temporal } else { u8::MAX };
        match self.scalable {
            true => {
                let is_top = !(choice.quality + 1..QUALITIES_MAX as u8).any(|quality| self.flows(quality));
                Target { encoding: 0, spatial: if is_top { u8::MAX } else { choice.quality }, temporal }
            }
            false => Target { encoding: choice.quality, spatial: u8::MAX, temporal },
        }
    }

    /// The best there is: the dearest.
    pub fn best(&self) -> Option<Choice> {
        self.choices().last()
    }
}

/// Counts the bytes of one stream's layers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    bytes: [[u32; TEMPORAL_LAYERS_MAX]; QUALITIES_MAX],
    /// Of key frames, by spatial layer.
    key_bytes: [u32; QUALITIES_MAX],
    key_rates: [f32; QUALITIES_MAX],
    rates: [[f32; TEMPORAL_LAYERS_MAX]; QUALITIES_MAX],
    /// Pictures that ended, by temporal layer.
    frames: [u16; TEMPORAL_LAYERS_MAX],
    frame_rates: [f32; TEMPORAL_LAYERS_MAX],
    silent: u8,
    started: bool,
}

impl Meter {
    /// Notes a packet; layers beyond the bounds count as the highest.
    pub fn packet(&mut self, spatial: u8, temporal: u8, is_key_frame: bool, bytes: usize) {
        let spatial = (spatial as usize).min(QUALITIES_MAX - 1);
        let sum = match is_key_frame {
            true => &mut self.key_bytes[spatial],
            false => &mut self.bytes[spatial][(temporal as usize).min(TEMPORAL_LAYERS_MAX - 1)],
        };
        *sum = sum.saturating_add(bytes as u32);
    }

    /// Notes the end of a picture.
    pub fn picture(&mut self, temporal: u8) {
        let frames = &mut self.frames[(temporal as usize).min(TEMPORAL_LAYERS_MAX - 1)];
        *frames = frames.saturating_add(1);
    }

    /// Ends a window that took `elapsed`.
    pub fn window(&mut self, elapsed: Micros) {
        let any = self.bytes.as_flattened().iter().chain(&self.key_bytes).any(|bytes| *bytes > 0);
        self.silent = if any { 0 } else { self.silent.saturating_add(1) };
        let weight = if self.started { WEIGHT } else { 1.0 };
        self.started |= any;
        for (rate, bytes) in self.rates.as_flattened_mut().iter_mut().zip(self.bytes.as_flattened_mut()) {
            let now = std::mem::take(bytes) as f64 * 8e6 / elapsed.0.max(1) as f64;
            *rate += ((now - *rate as f64) * weight) as f32;
        }
        for (rate, frames) in self.frame_rates.iter_mut().zip(&mut self.frames) {
            let now = std::mem::take(frames) as f64 * 1e6 / elapsed.0.max(1) as f64;
            *rate += ((now - *rate as f64) * weight) as f32;
        }
        for (rate, bytes) in self.key_rates.iter_mut().zip(&mut self.key_bytes) {
            let now = std::mem::take(bytes) as f64 * 8e6 / elapsed.0.max(1) as f64;
            *rate += ((now - *rate as f64) * KEY_FRAME_WEIGHT) as f32;
        }
    }

    /// Pictures a second by temporal layer.
    pub fn frames(&self) -> Frames {
        self.frame_rates.map(|rate| rate.round() as u8)
    }

    pub fn is_silent(&self) -> bool {
        !self.started || self.silent >= SILENT_WINDOWS
    }

    /// Bits a second by spatial and temporal layer; what has come to less than a bit is over.
    pub fn rates(&self) -> [[u32; TEMPORAL_LAYERS_MAX]; QUALITIES_MAX] {
        let mut rates = self.rates;
        for (row, key_rate) in rates.iter_mut().zip(self.key_rates) {
            row[0] += key_rate;
        }
        rates.map(|row| row.map(|rate| rate as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulcast() -> Layers {
        Layers::new([[100_000, 50_000, 0, 0], [400_000, 100_000, 0, 0], [1_500_000, 0, 0, 0], [0; 4]], false)
    }

    #[test]
    fn choices_rise_in_cost_and_leave_out_what_does_not_flow() {
        let layers = simulcast();
        let choices: Vec<(u8, u8, u64)> =
            layers.choices().map(|choice| (choice.quality, choice.temporal, layers.rate(choice).0)).collect();
        assert_eq!(choices, [(0, 0, 100_000), (0, 1, 150_000), (1, 0, 400_000), (1, 1, 500_000), (2, 0, 1_500_000)]);
        assert_eq!(layers.best(), Some(Choice { quality: 2, temporal: 0 }));
        assert_eq!(Layers::default().best(), None);
    }

    #[test]
    fn a_place_is_filled_by_the_lowest_that_does() {
        let layers = simulcast().sized([(320, 180), (640, 360), (1280, 720), (0, 0)]);
        let enough = |width, height| layers.enough((width, height));
        assert_eq!([enough(100, 100), enough(320, 180), enough(321, 181), enough(640, 360)], [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(enough(300, 900), Some(0), "it is as wide as the place");
        assert_eq!(enough(2000, 300), Some(1), "it is as high as the place");
        assert_eq!([enough(1920, 1080), enough(0, 0)], [None; 2]);
        assert_eq!(simulcast().enough((100, 100)), None, "sizes are not known");
        let alike = simulcast().sized([(640, 360), (640, 360), (1280, 720), (0, 0)]);
        assert_eq!(alike.enough((640, 360)), Some(1), "the better of two");
    }

    #[test]
    fn a_frame_rate_is_reached_by_the_lowest_temporal_layer_that_does() {
        let layers = simulcast().paced([[8, 7, 0, 0], [5, 5, 10, 0], [30, 0, 0, 0], [0; 4]]);
        assert_eq!([layers.smooth(0, 8), layers.smooth(0, 9), layers.smooth(0, 15), layers.smooth(0, 17)], [0, 1, 1, u8::MAX]);
        assert_eq!([layers.smooth(1, 5), layers.smooth(1, 10), layers.smooth(1, 11), layers.smooth(1, 20)], [0, 1, 1, 2]);
        assert_eq!(
            [layers.smooth(2, 1), layers.smooth(3, 1), layers.smooth(0, 0), layers.smooth(9, 5)],
            [0, u8::MAX, u8::MAX, u8::MAX]
        );
        assert!(
            layers.differs(&simulcast()) && !layers.differs(&layers.paced([[8, 6, 0, 0], [5, 5, 11, 0], [29, 0, 0, 0], [0; 4]]))
        );
        let mut meter = Meter::default();
        for _ in 0..8 {
            for picture in 0..5 {
                meter.packet(0, picture % 2, false, 1_000);
                meter.picture(picture % 2);
            }
            meter.window(WINDOW);
        }
        assert_eq!(meter.frames(), [12, 8, 0, 0]);
    }

    #[test]
    fn spatial_layers_need_those_below() {
        let layers = Layers::new([[100, 50, 0, 0], [200, 100, 0, 0], [0; 4], [0; 4]], true);
        assert_eq!(layers.rate(Choice { quality: 1, temporal: 0 }), Bitrate(300));
        assert_eq!(layers.rate(Choice::whole(1)), Bitrate(450));
    }

    #[test]
    fn a_meter_follows_its_stream_and_notices_silence() {
        let mut meter = Meter::default();
        assert!(meter.is_silent());
        for _ in 0..8 {
            meter.packet(0, 0, false, 20_000);
            meter.packet(0, 1, false, 10_000);
            meter.window(WINDOW);
        }
        let rates = meter.rates();
        assert!((rates[0][0] as i64 - 640_000).abs() < 1_000 && (rates[0][1] as i64 - 320_000).abs() < 1_000, "{rates:?}");
        meter.window(WINDOW);
        assert!(!meter.is_silent());
        meter.window(WINDOW);
        assert!(meter.is_silent());
        meter.packet(7, 9, true, 1);
        meter.window(WINDOW);
        assert!(!meter.is_silent());
    }
}
