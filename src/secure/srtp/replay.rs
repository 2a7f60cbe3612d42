//! Which packets of a source have arrived: the index of a packet from its sequence number (RFC 3711 §3.3.1), and the
//! replay list (§3.3.2) as a window of bits behind the highest index.
//!
//! Nothing here changes before a packet is authenticated: `check` only looks, `accept` remembers. So a stranger's packets
//! can neither take a place in the table nor push a window forward.

use arrayvec::ArrayVec;

use crate::limits::STREAMS_PER_PEER;
use crate::metrics::DropReason;
use crate::units::Ssrc;

/// The replay windows of the sources of one direction. A source is found by looking through the few SSRCs, which lie
/// together; the larger windows are touched only at the place found.
pub(super) struct Sources<const WORDS: usize> {
    ssrcs: ArrayVec<Ssrc, STREAMS_PER_PEER>,
    /// One for each source that there can be, so that a new one allocates nothing.
    windows: Box<[Window<WORDS>]>,
}

impl<const WORDS: usize> Sources<WORDS> {
    pub(super) fn new(capacity: usize) -> Self {
        let windows = vec![Window::new(0); capacity.min(STREAMS_PER_PEER)].into_boxed_slice();
        Sources { ssrcs: ArrayVec::new(), windows }
    }

    fn position(&self, ssrc: Ssrc) -> Option<usize> {
        self.ssrcs.iter().position(|known| *known == ssrc)
    }

    /// Where the window of `ssrc` is or, for one not seen before, will be.
    pub(super) fn find(&self, ssrc: Ssrc) -> Result<Place, DropReason> {
        match self.position(ssrc) {
            Some(at) => Ok(Place::Known(at)),
            None if self.ssrcs.len() < self.windows.len() => Ok(Place::New),
            None => Err(DropReason::SsrcLimit),
        }
    }

    pub(super) fn window(&self, place: Place) -> Option<&Window<WORDS>> {
        match place {
            Place::Known(at) => self.windows.get(at),
            Place::New => None,
        }
    }

    /// Remembers the authenticated packet `index` of `ssrc`, for which `find` gave `place`.
    pub(super) fn accept(&mut self, place: Place, ssrc: Ssrc, index: u64) {
        match place {
            Place::Known(at) => {
                if let Some(window) = self.windows.get_mut(at) {
                    window.accept(index);
                }
            }
            Place::New => {
                if let Some(window) = self.windows.get_mut(self.ssrcs.len()) {
                    *window = Window::new(index);
                    let _ = self.ssrcs.try_push(ssrc);
                }
            }
        }
    }

    pub(super) fn forget(&mut self, ssrc: Ssrc) {
        if let Some(at) = self.position(ssrc) {
            self.windows.swap(at, self.ssrcs.len() - 1);
            self.ssrcs.swap_remove(at);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ssrcs.len()
    }
}

#[derive(Clone, Copy)]
pub(super) enum Place {
    Known(usize),
    New,
}

/// The `64 * WORDS` newest indices of one source. The bit of an index is at its remainder, so moving the window on clears
/// bits and shifts nothing.
#[derive(Clone)]
pub(super) struct Window<const WORDS: usize> {
    highest: u64,
    seen: [u64; WORDS],
}

impl<const WORDS: usize> Window<WORDS> {
    const BITS: u64 = 64 * WORDS as u64;

    /// The window of a source whose first packet is `index`.
    fn new(index: u64) -> Self {
        let mut window = Window { highest: index, seen: [0; WORDS] };
        window.set(index, true);
        window
    }

    /// The index that a packet with `sequence_number` has, if it is within 2^15 of the highest one (RFC 3711 §3.3.1 and
    /// appendix A).
    ///
    /// There is no roll-over before the first: where the appendix arrives at -1, the packet is taken to be far ahead in
    /// roll-over 0. If it is not, its tag will not match.
    pub(super) fn index(&self, sequence_number: u16) -> u64 {
        let roll_over = self.highest >> 16;
        let last = self.highest as u16;
        let guess = match last < 1 << 15 {
            true if sequence_number.saturating_sub(last) > 1 << 15 => roll_over.saturating_sub(1),
            false if last - (1 << 15) > sequence_number => roll_over + 1,
            _ => roll_over,
        };
        guess << 16 | u64::from(sequence_number)
    }

    /// Whether `index` has been seen, or is older than the window reaches.
    pub(super) fn check(&self, index: u64) -> Result<(), DropReason> {
        let old = index <= self.highest && (self.highest - index >= Self::BITS || self.get(index));
        if old { Err(DropReason::SrtpReplay) } else { Ok(()) }
    }

    fn accept(&mut self, index: u64) {
        if index > self.highest {
            if index - self.highest >= Self::BITS {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.highest + 1..index {
                    self.set(skipped, false);
                }
            }
            self.highest = index;
        }
        self.set(index, true);
    }

    fn get(&self, index: u64) -> bool {
        let word = self.seen.get((index % Self::BITS / 64) as usize);
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn set(&mut self, index: u64, seen: bool) {
        if let Some(word) = self.seen.get_mut((index % Self::BITS / 64) as usize) {
            *word = *word & !(1 << (index % 64)) | u64::from(seen) << (index % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The guess of RFC 3711 appendix A, as it is written there.
    fn appendix_a(highest: u64, sequence_number: u16) -> i64 {
        let (roc, s_l, seq) = ((highest >> 16) as i64, (highest & 0xffff) as i64, i64::from(sequence_number));
        let v = if s_l < 32_768 {
            if seq - s_l > 32_768 { roc - 1 } else { roc }
        } else if s_l - 32_768 > seq {
            roc + 1
        } else {
            roc
        };
        seq + v * 65_536
    }

    #[test]
    fn indices_are_those_of_appendix_a() {
        let edges: Vec<u16> = [0u16, 1, 2, 100, 32_766, 32_767, 32_768, 32_769, 40_000, 65_534, 65_535].into();
        for roll_over in [0u64, 1, 2, 0xffff_fffe] {
            for last in &edges {
                for number in &edges {
                    let highest = roll_over << 16 | u64::from(*last);
                    let expected = appendix_a(highest, *number);
                    // Only roll-over -1 is ours to define: there is none, so roll-over 0.
                    let expected = if expected < 0 { i64::from(*number) } else { expected };
                    assert_eq!(Window::<2>::new(highest).index(*number) as i64, expected, "{highest:x} {number}");
                }
            }
        }
    }

    #[test]
    fn the_window_agrees_with_a_set() {
        let mut random = 0x2545_f491_4f6c_dd1du64;
        let mut window = Window::<2>::new(1_000);
        let (mut seen, mut highest) = (HashSet::from([1_000u64]), 1_000u64);
        for step in 0..200_000u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let reach = if step % 1_000 == 0 { 400 } else { 8 };
            let index = (highest + random % reach).saturating_sub(random >> 40 & if step % 7 == 0 { 0xff } else { 7 });
            let fresh = !seen.contains(&index) && index + 128 > highest;
            assert_eq!(window.check(index).is_ok(), fresh, "{index} {highest}");
            if fresh {
                window.accept(index);
                seen.insert(index);
                highest = highest.max(index);
            }
        }
        assert!(highest > 100_000 && seen.len() > 10_000);
    }

    #[test]
    fn a_forgotten_source_makes_room() {
        let mut sources = Sources::<2>::new(2);
        for (ssrc, index) in [(1, 10), (2, 20)] {
            let place = sources.find(Ssrc(ssrc)).unwrap();
            sources.accept(place, Ssrc(ssrc), index);
        }
        assert_eq!(sources.find(Ssrc(3)).err(), Some(DropReason::SsrcLimit));
        sources.forget(Ssrc(1));
        sources.forget(Ssrc(9));
        assert_eq!(sources.window(sources.find(Ssrc(2)).unwrap()).unwrap().highest, 20);
        let place = sources.find(Ssrc(3)).unwrap();
        assert!(sources.window(place).is_none());
        sources.accept(place, Ssrc(3), 30);
        assert_eq!(sources.len(), 2);
    }

    #[test]
    fn no_source_where_there_is_no_room() {
        assert_eq!(Sources::<2>::new(0).find(Ssrc(1)).err(), Some(DropReason::SsrcLimit));
        assert_eq!(Sources::<2>::new(1_000).windows.len(), STREAMS_PER_PEER);
    }
}
