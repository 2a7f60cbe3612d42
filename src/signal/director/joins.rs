//! How often each address joins: whoever does so in a loop is refused before it costs anything, and costs nobody else.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::limits::JOIN_SOURCES_MAX;
use crate::signal::api::Refusal;
use crate::units::Micros;

const MINUTE: Micros = Micros::from_secs(60);

/// Joins of this minute, by address.
#[derive(Default)]
pub(super) struct Joins {
    since: Micros,
    counts: HashMap<IpAddr, u32>,
}

impl Joins {
    /// Counts one more, or refuses it. `joins_per_minute`: 0, any number. This machine's own are not counted: a proxy's, a relay's, a test's.
    pub fn count(&mut self, client: IpAddr, joins_per_minute: u32, now: Micros) -> Result<(), Refusal> {
        if joins_per_minute == 0 || client.is_loopback() || client.is_unspecified() {
            return Ok(());
        }
        if now.since(self.since) >= MINUTE.0 {
            self.since = now;
            self.counts.clear();
        }
        // With more addresses than are counted, those that are not known yet go uncounted: it is no single one that floods.
        let room = self.counts.len() < JOIN_SOURCES_MAX;
        let count = match self.counts.get_mut(&client) {
            Some(count) => count,
            None if room => self.counts.entry(client).or_default(),
            None => return Ok(()),
        };
        if *count >= joins_per_minute {
            return Err(Refusal::TooManyJoins { joins_per_minute });
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_held_to_its_number_and_others_are_not() {
        let mut joins = Joins::default();
        let [busy, other, own]: [IpAddr; 3] = ["192.0.2.1", "2001:db8::1", "127.0.0.1"].map(|address| address.parse().unwrap());
        let mut join = |client, seconds| joins.count(client, 3, Micros::from_secs(seconds)).is_ok();
        assert_eq!([0, 1, 2, 3, 59].map(|second| join(busy, second)), [true, true, true, false, false]);
        assert!(join(other, 30) && (0..10).all(|second| join(own, second)));
        assert!(join(busy, 60), "the next minute");
    }
}
