//! Inter-arrival deltas: packets in groups by when they were sent, and how much further apart two groups arrived than left.
//!
//! Source: draft-ietf-rmcat-gcc-02 §5.2 and §5.3 (pre-filtering, groups of 5 ms), with what libwebrtc's
//! `goog_cc/inter_arrival_delta.cc` adds: bursts that arrive faster than they were sent belong to one group, and reordering or
//! a jump of the clock begins anew.

use crate::units::Micros;

/// Packets sent within so long of the first are one group.
const GROUP: u64 = 5_000;
/// Packets that arrive so close together are a burst, if they catch up on when they were sent.
const BURST_GAP: i64 = 5_000;
const BURST_MAX: u64 = 100_000;
/// Groups that arrived before their predecessor, one after the other, until the state is given up.
const REORDERED_MAX: u8 = 3;
/// A gap between arrivals so much longer than between the feedback that told of them is a jump of the receiver's clock.
const JUMP: i64 = 3_000_000;

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: Micros,
    last_sent: Micros,
    first_arrived: Micros,
    last_arrived: Micros,
    /// When we were told, by our clock.
    told: Micros,
}

/// Distances between two groups, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deltas {
    pub sent: i64,
    pub arrived: i64,
}

/// The last two groups.
#[derive(Clone, Debug, Default)]
pub struct InterArrival {
    current: Option<Group>,
    previous: Option<Group>,
    reordered: u8,
}

impl InterArrival {
    /// Takes a packet, in the order of sending; gives the distances of the last two groups when this one begins another.
    pub fn packet(&mut self, sent: Micros, arrived: Micros, told: Micros) -> Option<Deltas> {
        let fresh = Group { first_sent: sent, last_sent: sent, first_arrived: arrived, last_arrived: arrived, told };
        let Some(current) = &mut self.current else {
            self.current = Some(fresh);
            return None;
        };
        if sent < current.first_sent {
            return None;
        }
        if sent.since(current.first_sent) <= GROUP || in_burst(current, sent, arrived) {
            current.last_sent = current.last_sent.max(sent);
            current.last_arrived = current.last_arrived.max(arrived);
            current.told = told;
            return None;
        }
        let current = *current;
        let mut deltas = None;
        if let Some(previous) = &self.previous {
            let arrived = difference(current.last_arrived, previous.last_arrived);
            if arrived - difference(current.told, previous.told) >= JUMP {
                *self = InterArrival { current: Some(fresh), ..InterArrival::default() };
                return None;
            }
            if arrived < 0 {
                self.reordered += 1;
                if self.reordered >= REORDERED_MAX {
                    *self = InterArrival { current: Some(fresh), ..InterArrival::default() };
                }
                return None;
            }
            self.reordered = 0;
            deltas = Some(Deltas { sent: difference(current.last_sent, previous.last_sent), arrived });
        }
        self.previous = Some(current);
        self.current = Some(fresh);
        deltas
    }
}

/// Sent in a row and delayed together, a burst tells of the queue once, not once for each packet.
fn in_burst(group: &Group, sent: Micros, arrived: Micros) -> bool {
    let arrival_gap = difference(arrived, group.last_arrived);
    let catching_up = arrival_gap - difference(sent, group.last_sent);
    if difference(sent, group.last_sent) == 0 {
        return true;
    }
    catching_up < 0 && arrival_gap <= BURST_GAP && arrived.since(group.first_arrived) < BURST_MAX
}

fn difference(later: Micros, earlier: Micros) -> i64 {
    later.0.wrapping_sub(earlier.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Micros {
        Micros::from_millis(millis)
    }

    #[test]
    fn groups_are_compared_by_their_last_packets() {
        let mut inter = InterArrival::default();
        for (sent, arrived) in [(0, 100), (3, 103), (20, 121), (24, 130)] {
            assert_eq!(inter.packet(ms(sent), ms(arrived), ms(200)), None);
        }
        assert_eq!(inter.packet(ms(40), ms(150), ms(200)), Some(Deltas { sent: 21_000, arrived: 27_000 }));
    }

    #[test]
    fn a_burst_is_one_group() {
        let mut inter = InterArrival::default();
        inter.packet(ms(0), ms(100), ms(200));
        // Sent 20 ms apart, arriving together: a queue was drained.
        for step in 1..4 {
            assert_eq!(inter.packet(ms(20 * step), ms(100 + step), ms(200)), None);
        }
        assert_eq!(inter.packet(ms(80), ms(180), ms(200)), None, "the first pair of groups has just begun");
        assert_eq!(inter.packet(ms(100), ms(200), ms(220)), Some(Deltas { sent: 20_000, arrived: 77_000 }));
    }

    #[test]
    fn reordering_and_jumps_begin_anew() {
        let mut inter = InterArrival::default();
        inter.packet(ms(0), ms(1000), ms(0));
        inter.packet(ms(20), ms(1020), ms(20));
        inter.packet(ms(40), ms(1040), ms(40));
        assert_eq!(inter.packet(ms(60), ms(9000), ms(60)), Some(Deltas { sent: 20_000, arrived: 20_000 }));
        assert_eq!(inter.packet(ms(80), ms(9020), ms(80)), None, "8 s in 20 ms are no delay");
        assert!(inter.previous.is_none());
    }
}
