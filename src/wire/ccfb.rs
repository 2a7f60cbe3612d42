//! RTP congestion control feedback (RFC 8888 §3.1): of each stream, which packets arrived, and when.
//!
//! A report has a block for each SSRC, and a block two bytes for each sequence number from its first on. Arrival times are told by
//! how long they were before the report's own time. The ECN bits are not read: nothing is sent as ECN-capable.

use super::bytes::{u16_at, u32_at};
use crate::metrics::DropReason;
use crate::units::{SequenceNumber, Ssrc};

/// Units of the report's time in one unit of an arrival time offset: 1/65536 s and 1/1024 s.
pub const OFFSET_TICKS: i64 = 64;
/// Most packets of one block: a quarter of the circle of sequence numbers.
const METRICS_MAX: u16 = 16_384;
/// Offsets from this one on tell no time: longer ago than could be told, or not known.
const OVER_RANGE: u16 = 0x1ffe;
/// SSRC, first number, count.
const BLOCK_HEADER_LEN: usize = 8;

/// What a report says of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    NotReceived,
    /// Received, so many units of 1/1024 s before the report's time; none if that is not told.
    Received(Option<u16>),
}

/// What a report says of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub ssrc: Ssrc,
    /// Number of the first packet reported on.
    pub begin: SequenceNumber,
    metrics: &'a [[u8; 2]],
}

impl<'a> Block<'a> {
    /// The first block, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Block<'a>, &'a [u8])> {
        let count = u16_at(bytes, 6)?;
        if count > METRICS_MAX {
            return None;
        }
        let len = 2 * count as usize;
        let metrics = bytes.get(BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + len)?.as_chunks().0;
        let block = Block { ssrc: Ssrc(u32_at(bytes, 0)?), begin: SequenceNumber(u16_at(bytes, 4)?), metrics };
        // Two bytes of padding after an odd number of packets.
        Some((block, bytes.get(BLOCK_HEADER_LEN + len.next_multiple_of(4)..)?))
    }

    /// How many packets it reports on, 0..=16384.
    pub fn len(&self) -> u16 {
        self.metrics.len() as u16
    }

    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// What it says of a packet; none if it does not report on it.
    pub fn of(&self, number: SequenceNumber) -> Option<Metric> {
        let metric = u16::from_be_bytes(*self.metrics.get(number.0.wrapping_sub(self.begin.0) as usize)?);
        let offset = metric & 0x1fff;
        Some(match metric >> 15 {
            0 => Metric::NotReceived,
            _ => Metric::Received((offset < OVER_RANGE).then_some(offset)),
        })
    }
}

/// A received report, checked whole.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// When it was made, by the receiver's clock: the middle 32 bits of an NTP timestamp, in 1/65536 s; wraps.
    pub timestamp: u32,
    blocks: &'a [u8],
}

impl<'a> Report<'a> {
    /// Reads what follows the sender's SSRC: [`super::rtcp::CongestionControl::bytes`].
    pub fn parse(bytes: &'a [u8]) -> Result<Report<'a>, DropReason> {
        Report::read(bytes).ok_or(DropReason::RtcpMalformed)
    }

    fn read(bytes: &'a [u8]) -> Option<Report<'a>> {
        let (blocks, timestamp) = bytes.split_last_chunk()?;
        let mut rest = blocks;
        while !rest.is_empty() {
            (_, rest) = Block::split(rest)?;
        }
        Some(Report { timestamp: u32::from_be_bytes(*timestamp), blocks })
    }

    pub fn blocks(&self) -> impl Iterator<Item = Block<'a>> + Clone + use<'a> {
        let mut rest = self.blocks;
        std::iter::from_fn(move || {
            let (block, after) = Block::split(rest)?;
            rest = after;
            Some(block)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::rtcp::{self, Feedback};

    /// Laid out by hand after the figure of RFC 8888 §3.1: two streams, the second with an odd number of packets.
    const REPORT: [u8; 44] = [
        0x8b, 205, 0, 10, 0, 0, 0, 9, // FMT=11, PT=205; from SSRC 9
        0, 0, 0, 1, 0xff, 0xfe, 0, 4, // SSRC 1 from 65534 on, four packets
        0x82, 0x00, 0x00, 0x00, 0xff, 0xfd, 0x9f, 0xfe, // half a second before; lost; CE and 8189/1024 s; longer ago
        0, 0, 0, 2, 0, 7, 0, 3, // SSRC 2 from 7 on, three packets
        0x80, 0x00, 0x9f, 0xff, 0x7f, 0xff, 0, 0, // at once; not known; lost, whatever else is set; padding
        0x12, 0x34, 0x56, 0x78, // when
    ];

    fn all(block: &Block) -> Vec<Metric> {
        (0..block.len()).map(|index| block.of(block.begin.add(index)).expect("within")).collect()
    }

    #[test]
    fn the_layout_of_the_standard() {
        let parsed: Vec<_> = rtcp::packets(&REPORT).expect("RTCP").map(|packet| packet.expect("feedback")).collect();
        let [Feedback::CongestionControl(feedback)] = parsed[..] else { panic!("not one report: {parsed:?}") };
        assert_eq!(feedback.sender_ssrc, Ssrc(9));
        let report = Report::parse(feedback.bytes).expect("a report");
        assert_eq!(report.timestamp, 0x1234_5678);
        let blocks: Vec<_> = report.blocks().collect();
        let [first, second] = &blocks[..] else { panic!("{blocks:?}") };
        use Metric::{NotReceived, Received};
        assert_eq!(
            (first.ssrc, first.begin, second.ssrc, second.begin),
            (Ssrc(1), SequenceNumber(0xfffe), Ssrc(2), SequenceNumber(7))
        );
        assert_eq!(all(first), [Received(Some(512)), NotReceived, Received(Some(0x1ffd)), Received(None)]);
        assert_eq!(all(second), [Received(Some(0)), Received(None), NotReceived]);
        assert_eq!(first.of(SequenceNumber(1)), Some(Received(None)), "numbers wrap");
        assert_eq!(
            (first.of(SequenceNumber(2)), first.of(SequenceNumber(0xfffd)), second.of(SequenceNumber(10))),
            (None, None, None)
        );
    }

    #[test]
    fn lies_are_malformed() {
        let report =
            |bytes: &[u8]| Report::parse(bytes).map(|report| report.blocks().map(|block| block.len()).collect::<Vec<_>>()).ok();
        assert_eq!(report(&REPORT[8..]), Some(vec![4, 3]));
        assert_eq!(report(&[0, 0, 0, 1]), Some(vec![]), "of no streams");
        assert_eq!(report(&[0, 0, 0, 1, 0, 0, 0, 0, 9, 9, 9, 9]), Some(vec![0]), "of no packets");
        for len in 0..REPORT.len() - 8 {
            // The report's time is what the last four bytes are; where they are cut off, blocks end in the middle of something.
            let fits = matches!(len, 4 | 20 | 36);
            assert_eq!(report(&REPORT[8..8 + len]).is_some(), fits, "{len} bytes");
        }
        let mut long = REPORT[8..].to_vec();
        long[6..8].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(report(&long), None, "more packets than there are bytes");
        let many = |count: u16| {
            let mut bytes = vec![0, 0, 0, 1, 0, 0];
            bytes.extend_from_slice(&count.to_be_bytes());
            bytes.resize(bytes.len() + 2 * count as usize + 4, 0);
            report(&bytes)
        };
        assert_eq!((many(16_384), many(16_386)), (Some(vec![16_384]), None), "more than may be reported on");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..96), counts in any::<[u8; 3]>()) {
            let mut bytes = bytes;
            // Where counts may lie: small, so that some fit.
            for (count, at) in counts.into_iter().zip([6, 18, 30]) {
                if let Some(place) = bytes.get_mut(at..at + 2) {
                    place.copy_from_slice(&[0, count % 8]);
                }
            }
            if let Ok(report) = Report::parse(&bytes) {
                let read: usize = report.blocks().map(|block| BLOCK_HEADER_LEN + all(&block).len().next_multiple_of(2) * 2).sum();
                prop_assert_eq!(read + 4, bytes.len());
            }
        }
    }
}
