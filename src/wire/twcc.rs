//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1): which packets of a
//! transport arrived, and when.
//!
//! Arrival times are counted in ticks of 250 µs from a reference time in units of 64 ms. Each is written as its distance from the
//! one before, and every time is rounded on its own, so rounding errors do not add up.

use arrayvec::ArrayVec;

use super::bytes::{Writer, u16_at, u24_at};
use super::rtcp;
use crate::limits::TWCC_PACKETS;
use crate::metrics::DropReason;
use crate::units::{Micros, SequenceNumber, Ssrc};

/// Microseconds of one tick.
pub const TICK_MICROS: u64 = 250;
/// Ticks of one unit of the reference time: 64 ms.
pub const REFERENCE_TICKS: i64 = 256;

/// RTCP header and feedback header before the first chunk.
const HEADER_LEN: usize = 20;
/// Most statuses in one report that a reader believes: more than half of the circle of sequence numbers is ambiguous.
const STATUSES_MAX: u16 = 1 << 15;
/// Longest run in a run-length chunk.
const RUN_MAX: usize = 0x1fff;

const NOT_RECEIVED: u16 = 0;
const SMALL_DELTA: u16 = 1;
const LARGE_DELTA: u16 = 2;

/// What the report says of one packet.
#[derive(Clone, Copy)]
enum Status {
    NotReceived,
    Small(u8),
    Large(i16),
}

impl Status {
    const fn symbol(self) -> u16 {
        match self {
            Status::NotReceived => NOT_RECEIVED,
            Status::Small(_) => SMALL_DELTA,
            Status::Large(_) => LARGE_DELTA,
        }
    }
}

/// Writes the RTCP packet that reports `arrivals`, the first of them of the packet numbered `base`. Returns its length and how
/// many arrivals it covers: fewer than given when there are more than [`TWCC_PACKETS`], when `space` ends, or before an arrival
/// more than 8 s from the one before; the rest is for the next report. `count` is the report's own number.
///
/// `None`: nothing arrived (there is no reference time then), or `space` is too small for anything.
pub fn write_feedback(
    space: &mut [u8],
    from: Ssrc,
    media: Ssrc,
    base: SequenceNumber,
    count: u8,
    arrivals: impl Iterator<Item = Option<Micros>>,
) -> Option<(usize, usize)> {
    let (reference, statuses) = statuses(arrivals, space.len());
    let mut writer = rtcp::start_transport_wide(space, from, media)?;
    writer.u16(base.0)?;
    writer.u16(statuses.len().try_into().ok()?)?;
    // 24 bits that wrap after 12 days.
    writer.u24(reference? as u32)?;
    writer.u8(count)?;
    write_chunks(&mut writer, &statuses)?;
    for status in &statuses {
        match *status {
            Status::NotReceived => {}
            Status::Small(delta) => writer.u8(delta)?,
            Status::Large(delta) => writer.u16(delta as u16)?,
        }
    }
    Some((rtcp::finish(writer)?, statuses.len()))
}

/// The statuses that fit one report, and its reference time if anything arrived.
fn statuses(arrivals: impl Iterator<Item = Option<Micros>>, space: usize) -> (Option<u64>, ArrayVec<Status, TWCC_PACKETS>) {
    let mut statuses = ArrayVec::new();
    let mut reference = None;
    let mut previous = 0;
    let mut deltas_len = 0;
    for arrival in arrivals.take(TWCC_PACKETS) {
        let mut ticks = previous;
        let status = match arrival {
            None => Status::NotReceived,
            Some(time) => {
                ticks = (time.0 / TICK_MICROS) as i64;
                let reference = *reference.get_or_insert(ticks / REFERENCE_TICKS);
                if deltas_len == 0 {
                    previous = reference * REFERENCE_TICKS;
                }
                match ticks.saturating_sub(previous) {
                    delta @ 0..=255 => Status::Small(delta as u8),
                    delta => match i16::try_from(delta) {
                        Ok(delta) => Status::Large(delta),
                        Err(_) => break,
                    },
                }
            }
        };
        // A delta has as many bytes as its symbol says, and no chunk but the last covers fewer than seven statuses.
        let delta_len = status.symbol() as usize;
        let len = HEADER_LEN + 2 * (statuses.len() + 1).div_ceil(7) + deltas_len + delta_len;
        if len.next_multiple_of(4) > space || statuses.try_push(status).is_err() {
            break;
        }
        deltas_len += delta_len;
        previous = ticks;
    }
    (reference.filter(|_| deltas_len > 0).map(|reference| reference as u64), statuses)
}

/// Packet status chunks: at each place the kind that covers most (draft §3.1.2 to §3.1.4).
fn write_chunks(writer: &mut Writer, statuses: &[Status]) -> Option<()> {
    let mut rest = statuses;
    while let Some(first) = rest.first() {
        let symbol = first.symbol();
        let run = rest.iter().take(RUN_MAX).take_while(|status| status.symbol() == symbol).count();
        // A vector chunk that is not the last must be full.
        let one_bit = rest.len().min(14);
        let fits_one_bit = rest.iter().take(one_bit).all(|status| status.symbol() != LARGE_DELTA);
        let two_bit = rest.len().min(7);
        let vector = |len: usize, width: u16| {
            let bits = rest.iter().take(len).fold(0, |bits, status| bits << width | status.symbol());
            bits << (width * (14 / width - len as u16))
        };
        let (chunk, covered) = if run >= if fits_one_bit { one_bit } else { two_bit } {
            (symbol << 13 | run as u16, run)
        } else if fits_one_bit {
            (0x8000 | vector(one_bit, 1), one_bit)
        } else {
            (0xc000 | vector(two_bit, 2), two_bit)
        };
        writer.u16(chunk)?;
        rest = rest.get(covered..)?;
    }
    Some(())
}

/// A packet status chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk(u16);

impl Chunk {
    /// Statuses it holds.
    const fn len(self) -> u16 {
        match self.0 >> 14 {
            0 | 1 => self.0 & RUN_MAX as u16,
            2 => 14,
            _ => 7,
        }
    }

    /// Symbol of the status at `index`, which is below `len`.
    const fn symbol(self, index: u16) -> u16 {
        match self.0 >> 14 {
            0 | 1 => self.0 >> 13 & 3,
            2 => self.0 >> 13_u16.saturating_sub(index) & 1,
            _ => self.0 >> 12_u16.saturating_sub(2 * index) & 3,
        }
    }

    /// Bytes of the deltas of its first `len` statuses; `None` if one has the reserved symbol.
    fn deltas_len(self, len: u16) -> Option<usize> {
        let size = |symbol: u16| (symbol <= LARGE_DELTA).then_some(symbol as usize);
        match self.0 >> 15 {
            0 => Some(size(self.symbol(0))? * len as usize),
            _ => (0..len).map(|index| size(self.symbol(index))).sum(),
        }
    }
}

/// A received report, checked whole.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Number of the first packet reported on.
    pub base: SequenceNumber,
    /// In units of 64 ms, 24 bits signed; wraps.
    pub reference_time: i32,
    /// The report's own number, to notice lost reports.
    pub count: u8,
    status_count: u16,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> Report<'a> {
    /// Reads what follows the SSRCs: [`rtcp::TransportWide::bytes`].
    pub fn parse(bytes: &'a [u8]) -> Result<Report<'a>, DropReason> {
        Report::read(bytes).ok_or(DropReason::RtcpMalformed)
    }

    fn read(bytes: &'a [u8]) -> Option<Report<'a>> {
        let status_count = u16_at(bytes, 2)?;
        if !(1..=STATUSES_MAX).contains(&status_count) {
            return None;
        }
        // A run costs two bytes whatever its length, so the work is bounded by the bytes, not by what they claim.
        let (mut at, mut left, mut deltas_len) = (8, status_count, 0);
        while left > 0 {
            let chunk = Chunk(u16_at(bytes, at)?);
            let len = chunk.len().min(left);
            deltas_len += chunk.deltas_len(len)?;
            left -= len;
            at += 2;
        }
        Some(Report {
            base: SequenceNumber(u16_at(bytes, 0)?),
            reference_time: (u24_at(bytes, 4)? << 8) as i32 >> 8,
            count: *bytes.get(7)?,
            status_count,
            chunks: bytes.get(8..at)?,
            deltas: bytes.get(at..at + deltas_len)?,
        })
    }

    /// How many packets it reports on, 1..=32768.
    pub fn status_count(&self) -> u16 {
        self.status_count
    }

    /// Every packet reported on, in order: its number and, if it arrived, the ticks since the one that arrived before it (the
    /// first: since the reference time).
    pub fn packets(&self) -> Packets<'a> {
        Packets {
            next: self.base,
            left: self.status_count,
            chunks: self.chunks,
            chunk: Chunk::default(),
            index: 0,
            deltas: self.deltas,
        }
    }
}

/// See [`Report::packets`].
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    next: SequenceNumber,
    left: u16,
    chunks: &'a [u8],
    chunk: Chunk,
    index: u16,
    deltas: &'a [u8],
}

impl Iterator for Packets<'_> {
    type Item = (SequenceNumber, Option<i16>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        while self.index >= self.chunk.len() {
            let (chunk, rest) = self.chunks.split_first_chunk()?;
            (self.chunk, self.chunks, self.index) = (Chunk(u16::from_be_bytes(*chunk)), rest, 0);
        }
        let symbol = self.chunk.symbol(self.index);
        self.index += 1;
        let delta = match symbol {
            SMALL_DELTA => {
                let (delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                Some(*delta as i16)
            }
            LARGE_DELTA => {
                let (delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                Some(i16::from_be_bytes(*delta))
            }
            _ => None,
        };
        let number = self.next;
        self.next = number.next();
        Some((number, delta))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(space: &mut [u8], base: u16, arrivals: &[Option<u64>]) -> Option<(usize, usize)> {
        let arrivals = arrivals.iter().map(|arrival| arrival.map(Micros));
        write_feedback(space, Ssrc(1), Ssrc(2), SequenceNumber(base), 9, arrivals)
    }

    /// What a report's reader makes of it: arrival times in ticks.
    fn read(packet: &[u8], base: u16) -> Vec<Option<i64>> {
        let parsed: Vec<_> = rtcp::packets(packet).expect("RTCP").map(|packet| packet.expect("feedback")).collect();
        let [rtcp::Feedback::TransportWide(feedback)] = parsed[..] else { panic!("not one report") };
        assert_eq!((feedback.sender_ssrc, feedback.media_ssrc), (Ssrc(1), Ssrc(2)));
        let report = Report::parse(feedback.bytes).expect("a report");
        assert_eq!((report.base, report.count), (SequenceNumber(base), 9));
        let mut time = report.reference_time as i64 * REFERENCE_TICKS;
        let mut arrivals = Vec::new();
        for (index, (number, delta)) in report.packets().enumerate() {
            assert_eq!(number, report.base.add(index as u16));
            arrivals.push(delta.map(|delta| {
                time += delta as i64;
                time
            }));
        }
        assert_eq!(arrivals.len(), report.status_count() as usize);
        arrivals
    }

    #[test]
    fn each_kind_of_chunk() {
        let mut space = [0; 1200];
        let at = |tick: u64| Some(64_000 + tick * 250);
        // One run of small deltas.
        let run: Vec<_> = (0..100).map(|index| at(index * 4)).collect();
        let (len, packets) = write(&mut space, 65_500, &run).expect("space");
        assert_eq!((len, packets), (20 + 2 + 100 + 2, 100));
        assert_eq!(space[20..22], [0x20, 100]);
        // Losses among small deltas: 14 to a chunk.
        let holes: Vec<_> = (0..14).map(|index| (index % 2 == 0).then_some(64_000)).collect();
        let (len, _) = write(&mut space, 1, &holes).expect("space");
        assert_eq!(len, 20 + 2 + 7 + 3);
        assert_eq!(space[20..22], [0b1010_1010, 0b1010_1010]);
        // A large and a negative delta: 7 to a chunk.
        let mixed = [at(0), at(1_000), None, at(900), at(901)];
        let (len, _) = write(&mut space, 1, &mixed).expect("space");
        assert_eq!(space[20..22], [0b1101_1000, 0b1001_0000]);
        assert_eq!(space[22..28], [0, 0x03, 0xe8, 0xff, 0x9c, 1]);
        assert_eq!(read(&space[..len], 1), [Some(256), Some(1256), None, Some(1156), Some(1157)]);
    }

    #[test]
    fn a_report_ends_before_a_delta_that_cannot_be_told() {
        let mut space = [0; 1200];
        let arrivals = [Some(0), None, Some(9_000_000), Some(9_000_250)];
        assert_eq!(write(&mut space, 7, &arrivals).map(|(_, packets)| packets), Some(2));
        assert_eq!(write(&mut space, 9, &arrivals[2..]).map(|(_, packets)| packets), Some(2));
        assert_eq!(write(&mut space, 9, &[None, None]), None, "nothing arrived");
        assert_eq!(write(&mut space, 9, &[]), None);
        assert_eq!(write(&mut space[..23], 9, &arrivals), None);
        assert_eq!(write(&mut space[..24], 9, &arrivals).map(|(_, packets)| packets), Some(2));
        let many = vec![Some(1); TWCC_PACKETS + 5];
        assert_eq!(write(&mut space, 9, &many).map(|(_, packets)| packets), Some(TWCC_PACKETS));
    }

    #[test]
    fn lies_are_malformed() {
        let report = |bytes: &[u8]| Report::parse(bytes).map(|report| report.packets().count()).ok();
        let header = [0, 1, 0, 3, 0, 0, 0, 0];
        let with = |rest: &[u8]| report(&[&header[..], rest].concat());
        assert_eq!(with(&[0x20, 3, 1, 1, 1]), Some(3));
        assert_eq!(with(&[0x20, 9, 1, 1, 1]), Some(3), "a run longer than the count");
        assert_eq!(with(&[0x20, 3, 1, 1]), None, "a delta is missing");
        assert_eq!(with(&[0x20, 2, 1, 1]), None, "a chunk is missing");
        assert_eq!(with(&[0x20, 0, 0x20, 0, 0x20, 3, 1, 1, 1]), Some(3), "empty runs");
        assert_eq!(with(&[0x60, 3, 0, 0, 0, 0, 0, 0]), None, "the reserved symbol");
        assert_eq!(report(&[0, 1, 0, 0, 0, 0, 0, 0]), None, "no packets");
        assert_eq!(report(&[0, 1, 0xff, 0xff, 0, 0, 0, 0, 0x1f, 0xff]), None);
        assert_eq!(report(&[0, 1, 0x10, 0, 0, 0, 0, 0, 0x1f, 0xff]), Some(0x1000));
    }

    proptest! {
        #[test]
        fn written_reports_read_back(
            base in any::<u16>(),
            start in 0u64..1 << 40,
            steps in prop::collection::vec((prop::option::weighted(0.8, 0u64..4_000), prop::bool::weighted(0.02)), 1..500),
            space in 24usize..1300,
        ) {
            let mut bytes = vec![0; space];
            let mut time = start;
            let arrivals: Vec<_> = steps.iter().map(|(step, jump)| {
                time += step.unwrap_or(0) + if *jump { 3_000_000 } else { 0 };
                step.map(|_| time)
            }).collect();
            let Some((len, packets)) = write(&mut bytes, base, &arrivals) else { return Ok(()) };
            prop_assert!(len <= space && packets <= arrivals.len());
            // The reference time's 24 bits wrap; 2^24 units are 2^32 ticks.
            let expected: Vec<_> = arrivals[..packets].iter().map(|arrival| arrival.map(|time| (time / 250) as u32)).collect();
            let got: Vec<_> = read(&bytes[..len], base).into_iter().map(|time| time.map(|ticks| ticks as u32)).collect();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), count in 0u8..64) {
            let mut bytes = bytes;
            if let Some(status_count) = bytes.get_mut(2..4) {
                status_count.copy_from_slice(&[0, count]);
            }
            if let Ok(report) = Report::parse(&bytes) {
                prop_assert_eq!(report.packets().count(), report.status_count() as usize);
            }
        }
    }
}
