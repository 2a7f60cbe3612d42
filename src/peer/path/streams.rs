//! Packets by stream and sequence number, for viewers that tell of them so (RFC 8888) and not by one count of all that is sent.
//!
//! The path counts as ever, and keeps what it remembers of each packet by that count; here is beside it which packet of which stream
//! that was. A report is read along the history, in the order of sending, as the estimator wants it; so it costs the history's
//! length, whatever it claims.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::limits::{PATH_HISTORY, PATH_STREAMS};
use crate::metrics::DropReason;
use crate::rtp::config::{Direction, MediaConfig};
use crate::units::{Micros, SequenceNumber, Ssrc};
use crate::wire::ccfb::{Block, Metric, OFFSET_TICKS, Report};

/// One SSRC that is sent under.
struct Stream {
    ssrc: Ssrc,
    /// What is told of it is made use of: no packet of it leaves twice.
    followed: bool,
    /// Its newest packet that was sent.
    newest: Option<SequenceNumber>,
}

/// The streams of a session, and the packets in its path's history.
pub struct Streams {
    streams: ArrayVec<Stream, PATH_STREAMS>,
    /// Place in `streams`, and number.
    sent: [(u8, SequenceNumber); PATH_HISTORY],
    /// The receiver's clock: time of the last report as told, and without its wraps.
    clock: Option<(u32, i64)>,
}

const _: () = assert!(PATH_STREAMS < u8::MAX as usize && size_of::<Streams>() <= 3 * 1024);

impl Streams {
    /// None if no such feedback is agreed.
    pub fn new(media: &[MediaConfig]) -> Option<Box<Streams>> {
        let mut streams = ArrayVec::new();
        for line in media.iter().filter(|line| line.direction == Direction::SendOnly) {
            let followed = line.codecs.iter().any(|codec| codec.feedback.ccfb);
            let ssrcs = line.local_stream.into_iter().flat_map(|pair| [Some(pair.media), pair.rtx]).flatten();
            // What there is no room for is not followed.
            ssrcs.for_each(|ssrc| drop(streams.try_push(Stream { ssrc, followed, newest: None })));
        }
        let any = streams.iter().any(|stream| stream.followed);
        any.then(|| Box::new(Streams { streams, sent: [(u8::MAX, SequenceNumber(0)); PATH_HISTORY], clock: None }))
    }

    fn find(&self, ssrc: Ssrc) -> Option<usize> {
        self.streams.iter().position(|stream| stream.ssrc == ssrc)
    }

    pub fn follows(&self, ssrc: Ssrc) -> bool {
        self.streams.iter().any(|stream| stream.ssrc == ssrc && stream.followed)
    }

    /// Notes a packet that left as the path's next one, which is `count`. False if its stream is not followed: then it does not count.
    pub fn left(&mut self, ssrc: Ssrc, number: SequenceNumber, count: u64) -> bool {
        let Some(index) = self.find(ssrc) else { return false };
        let stream = &mut self.streams[index];
        if stream.newest.is_none_or(|newest| number.newer_than(newest)) {
            stream.newest = Some(number);
        }
        if stream.followed {
            self.sent[count as usize % PATH_HISTORY] = (index as u8, number);
        }
        stream.followed
    }

    /// What a report says of the path's packets `counts`, at most as many as the history has: each that it reports on with its arrival
    /// by the receiver's clock, none if it has not arrived. Packets of which it tells no time are left out. A report about a stream
    /// that is not sent, or a packet that was not, is refused whole.
    pub fn told<'a>(
        &'a mut self,
        report: &Report<'a>,
        counts: Range<u64>,
    ) -> Result<impl Iterator<Item = (u64, Option<Micros>)> + use<'a>, DropReason> {
        let mut blocks: [Option<Block<'a>>; PATH_STREAMS] = [None; PATH_STREAMS];
        for block in report.blocks() {
            let index = self.find(block.ssrc).ok_or(DropReason::FeedbackUnsent)?;
            let newest = self.streams[index].newest;
            let last = block.begin.add(block.len().wrapping_sub(1));
            if !block.is_empty() && newest.is_none_or(|newest| last.newer_than(newest)) {
                return Err(DropReason::FeedbackUnsent);
            }
            // Of two about one stream the first counts.
            blocks[index].get_or_insert(block);
        }
        let made = self.unwrap(report.timestamp);
        let sent = &self.sent;
        Ok(counts.filter_map(move |count| {
            let (index, number) = sent[count as usize % PATH_HISTORY];
            match blocks.get(index as usize)?.as_ref()?.of(number)? {
                Metric::NotReceived => Some((count, None)),
                Metric::Received(offset) => Some((count, Some(time(made - offset? as i64 * OFFSET_TICKS)))),
            }
        }))
    }

    /// A report's time without its wraps, from an origin far from zero.
    fn unwrap(&mut self, told: u32) -> i64 {
        let time = match self.clock {
            Some((last, time)) => time.saturating_add(told.wrapping_sub(last) as i32 as i64),
            None => 1 << 36,
        };
        self.clock = Some((told, time));
        time
    }
}

/// Time from ticks of 1/65536 s.
fn time(ticks: i64) -> Micros {
    Micros((ticks.max(0) as u64).saturating_mul(15_625) >> 10)
}
