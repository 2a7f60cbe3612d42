//! The units of the data plane, as types: a bitrate cannot be added to a sequence number.
//!
//! Names are the RFCs' own (RFC 3550 for RTP). Everything here is `Copy` and wraps as the standard says it wraps.

use std::fmt;
use std::ops::{Add, Sub};

/// Monotonic time in microseconds since the server started (in the simulator: since the simulation started).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    pub const ZERO: Micros = Micros(0);
    /// Later than any real time: "no deadline".
    pub const NEVER: Micros = Micros(u64::MAX);

    pub const fn from_millis(millis: u64) -> Self {
        Micros(millis * 1_000)
    }
    pub const fn from_secs(secs: u64) -> Self {
        Micros(secs * 1_000_000)
    }
    /// Microseconds from `earlier` to `self`; 0 if `earlier` is in fact later.
    pub const fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }
    pub const fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add for Micros {
    type Output = Micros;
    fn add(self, other: Micros) -> Micros {
        Micros(self.0.saturating_add(other.0))
    }
}

/// Synchronisation source (RFC 3550 §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ssrc(pub u32);

impl fmt::Display for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// RTP payload type, 0..=127.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadType(pub u8);

/// RTP sequence number: 16 bits, wraps (RFC 3550 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SequenceNumber(pub u16);

impl SequenceNumber {
    /// Signed distance from `other` to `self` on the 16-bit circle: positive when `self` is newer.
    pub const fn distance(self, other: SequenceNumber) -> i16 {
        self.0.wrapping_sub(other.0) as i16
    }
    pub const fn newer_than(self, other: SequenceNumber) -> bool {
        self.distance(other) > 0
    }
    pub const fn next(self) -> SequenceNumber {
        SequenceNumber(self.0.wrapping_add(1))
    }
    pub const fn add(self, n: u16) -> SequenceNumber {
        SequenceNumber(self.0.wrapping_add(n))
    }
}

/// Extended sequence number: the 16-bit number plus its roll-overs (RFC 3550 §A.1), never wraps in practice.
///
/// The first packet of a stream starts at roll-over 1, so that a reordered packet just before it still has a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedSequence(pub u64);

impl ExtendedSequence {
    /// The first packet seen of a stream.
    pub const fn first(number: SequenceNumber) -> Self {
        ExtendedSequence((1 << 16) | number.0 as u64)
    }
    /// The extended number nearest to `self` whose low 16 bits are `number`.
    pub const fn nearest(self, number: SequenceNumber) -> Self {
        let delta = number.0.wrapping_sub(self.0 as u16) as i16;
        ExtendedSequence(self.0.saturating_add_signed(delta as i64))
    }
    pub const fn number(self) -> SequenceNumber {
        SequenceNumber(self.0 as u16)
    }
}

/// RTP timestamp in units of the codec's clock, wraps (RFC 3550 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RtpTime(pub u32);

impl RtpTime {
    /// Signed distance from `other` to `self` in clock ticks.
    pub const fn distance(self, other: RtpTime) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
    pub const fn add(self, ticks: u32) -> RtpTime {
        RtpTime(self.0.wrapping_add(ticks))
    }
}

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(pub u64);

impl Bitrate {
    pub const fn kbps(kilobits: u64) -> Bitrate {
        Bitrate(kilobits * 1_000)
    }
}

impl Sub for Bitrate {
    type Output = Bitrate;
    fn sub(self, other: Bitrate) -> Bitrate {
        Bitrate(self.0.saturating_sub(other.0))
    }
}

/// A worker thread, 0-based. The mesh addresses workers by it; a set of workers is a 64-bit mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

/// One transport (one ICE/DTLS association) of one session. `slot` indexes tables, `generation` tells a reused slot's
/// new tenant from its old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    pub slot: u32,
    pub generation: u32,
}

/// One published track (one m-line of a publisher: an audio or a video source with all of its layers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId {
    pub slot: u32,
    pub generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_across_the_wrap() {
        assert!(SequenceNumber(2).newer_than(SequenceNumber(65_534)));
        assert_eq!(SequenceNumber(2).distance(SequenceNumber(65_534)), 4);
        assert!(!SequenceNumber(65_534).newer_than(SequenceNumber(2)));
    }

    #[test]
    fn extension_follows_wraps_both_ways() {
        let first = ExtendedSequence::first(SequenceNumber(65_535));
        let next = first.nearest(SequenceNumber(0));
        assert_eq!(next.0, first.0 + 1);
        assert_eq!(next.nearest(SequenceNumber(65_530)).0, first.0 - 5);
    }
}
