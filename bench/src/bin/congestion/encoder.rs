//! What there is to send: frames whose size follows a target, as an encoder's do or as a server's that chooses among layers.

use crate::path::{Random, SECOND, Time};

pub const FRAME_INTERVAL: Time = SECOND / 30;
/// A key frame comes so often, and is so many times as large as another frame. The frames after it are smaller until that is made up for.
const KEY_FRAME_INTERVAL: u64 = 300;
const KEY_FRAME_FACTOR: f64 = 5.0;
const SAVING: f64 = 0.85;
/// Sizes of frames vary by so much of the mean.
const NOISE: f64 = 0.2;

/// Bits per second of the layers that a server may choose from; none: an encoder that meets any rate.
pub type Layers = Option<&'static [u64]>;

/// Bits per second of what is sent for a target: the largest layer that fits, or the least.
pub fn media_rate(layers: Layers, target: u64) -> u64 {
    let Some(layers) = layers else { return target };
    layers.iter().rev().find(|rate| **rate <= target).or(layers.first()).copied().unwrap_or(target)
}

pub struct Encoder {
    layers: Layers,
    frames: u64,
    /// Bytes that key frames took beyond the rate.
    owed: f64,
    random: Random,
}

impl Encoder {
    pub fn new(layers: Layers, seed: u64) -> Self {
        Encoder { layers, frames: 0, owed: 0.0, random: Random::new(seed) }
    }

    /// Bytes of the next frame.
    pub fn frame(&mut self, target: u64) -> usize {
        let mean = media_rate(self.layers, target) as f64 / 8.0 * FRAME_INTERVAL as f64 / SECOND as f64;
        let noise = 1.0 + NOISE * (2.0 * self.random.unit() - 1.0);
        let key_frame = self.frames.is_multiple_of(KEY_FRAME_INTERVAL);
        self.frames += 1;
        let factor = if key_frame {
            KEY_FRAME_FACTOR
        } else if self.owed > 0.0 {
            SAVING
        } else {
            1.0
        };
        self.owed = (self.owed + mean * (factor - 1.0)).max(0.0);
        (mean * factor * noise).max(100.0) as usize
    }
}
