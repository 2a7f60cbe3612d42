//! One continuous stream for a receiver, whatever comes and goes at the source.
//!
//! A receiver sees one SSRC whose sequence numbers, timestamps, picture ids and TL0PICIDX go on without a seam when the source
//! changes: another stream of the same publisher, or another publisher. Within one source the numbers are shifted by a constant,
//! so loss and reordering upstream look the same downstream and a late packet still finds its place.

use crate::rtp::media::Media;
use crate::units::{ExtendedSequence, Micros, RtpTime, TrackId};

/// The stream a receiver is being fed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub track: TrackId,
    pub stream: u8,
}

impl Source {
    pub fn of(media: &Media) -> Source {
        Source { track: media.track, stream: media.stream }
    }
}

/// What is written into the outgoing packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    pub sequence: ExtendedSequence,
    pub timestamp: RtpTime,
    pub picture_id: u16,
    pub tl0_pic_idx: u8,
}

/// The numbering of one outgoing stream.
#[derive(Debug)]
pub struct Rewriter {
    source: Option<Source>,
    /// Outgoing minus incoming sequence number.
    sequence_delta: i64,
    timestamp_delta: u32,
    picture_id_delta: u16,
    tl0_pic_idx_delta: u8,
    /// Packets of the source before this one were never meant for this receiver.
    first: ExtendedSequence,
    /// The newest packet sent.
    highest: ExtendedSequence,
    timestamp: RtpTime,
    picture_id: u16,
    tl0_pic_idx: u8,
    arrival: Micros,
    started: bool,
}

impl Rewriter {
    /// `seed` sets the random first numbers (RFC 3550 §5.1); the sequence number starts in the lower half so that an early loss
    /// cannot confuse the receiver's roll-over counter (RFC 3711 §3.3.1).
    pub fn new(seed: u64) -> Self {
        Rewriter {
            source: None,
            sequence_delta: 0,
            timestamp_delta: 0,
            picture_id_delta: 0,
            tl0_pic_idx_delta: 0,
            first: ExtendedSequence(0),
            highest: ExtendedSequence(seed & 0x7fff),
            timestamp: RtpTime((seed >> 16) as u32),
            picture_id: (seed >> 48) as u16 & 0x3fff,
            tl0_pic_idx: (seed >> 40) as u8,
            arrival: Micros(0),
            started: false,
        }
    }

    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// Outgoing minus incoming timestamp, to translate sender reports.
    pub fn timestamp_delta(&self) -> u32 {
        self.timestamp_delta
    }

    /// Timestamp of the newest packet sent.
    pub fn timestamp(&self) -> RtpTime {
        self.timestamp
    }

    /// No source any more; the numbers go on from here with the next.
    pub fn detach(&mut self) {
        self.source = None;
    }

    /// Begins a new source with `media` as its first packet.
    pub fn switch(&mut self, media: &Media, clock_rate: u32) {
        let ticks = if self.started {
            // Time went on while nothing was sent; at least one tick, so that it is a new picture.
            let elapsed = media.arrival.since(self.arrival);
            ((elapsed as u128 * clock_rate as u128 / 1_000_000) as u32).max(1)
        } else {
            0
        };
        self.source = Some(Source::of(media));
        self.first = media.sequence;
        self.sequence_delta = (self.highest.0 + 1) as i64 - media.sequence.0 as i64;
        self.timestamp_delta = self.timestamp.add(ticks).0.wrapping_sub(media.timestamp.0);
        if let Some((_, _, picture_id)) = media.picture.picture_id {
            self.picture_id_delta = self.picture_id.wrapping_add(1).wrapping_sub(picture_id);
        }
        if let Some((_, tl0_pic_idx)) = media.picture.tl0_pic_idx {
            self.tl0_pic_idx_delta = self.tl0_pic_idx.wrapping_add(1).wrapping_sub(tl0_pic_idx);
        }
        self.started = true;
    }

    /// The numbers for a packet of the current source; none if it is from before the switch.
    pub fn rewrite(&mut self, media: &Media) -> Option<Rewritten> {
        if media.sequence < self.first {
            return None;
        }
        let rewritten = self.renumber(media);
        if rewritten.sequence > self.highest {
            self.highest = rewritten.sequence;
            self.timestamp = rewritten.timestamp;
            self.arrival = media.arrival;
            if media.picture.picture_id.is_some() {
                self.picture_id = rewritten.picture_id;
            }
            if media.picture.tl0_pic_idx.is_some() {
                self.tl0_pic_idx = rewritten.tl0_pic_idx;
            }
        }
        Some(rewritten)
    }

    /// The numbers a packet of the current source has, without sending it: for retransmissions.
    pub fn renumber(&self, media: &Media) -> Rewritten {
        Rewritten {
            sequence: ExtendedSequence(media.sequence.0.wrapping_add_signed(self.sequence_delta)),
            timestamp: media.timestamp.add(self.timestamp_delta),
            picture_id: media.picture.picture_id.map_or(0, |(_, _, id)| id.wrapping_add(self.picture_id_delta)) & 0x7fff,
            tl0_pic_idx: media.picture.tl0_pic_idx.map_or(0, |(_, index)| index.wrapping_add(self.tl0_pic_idx_delta)),
        }
    }

    /// The source's sequence number of an outgoing one, if it belongs to the current source.
    pub fn origin(&self, number: crate::units::SequenceNumber) -> Option<ExtendedSequence> {
        let out = self.highest.nearest(number);
        let incoming = ExtendedSequence(out.0.checked_add_signed(self.sequence_delta.checked_neg()?)?);
        (self.source.is_some() && out <= self.highest && incoming >= self.first).then_some(incoming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Arena;
    use crate::units::SequenceNumber;
    use crate::wire::picture::PictureIds;

    fn media(slots: &mut crate::mem::Slots, track: u32, sequence: u64, timestamp: u32, picture_id: u16, millis: u64) -> Media {
        Media {
            track: TrackId { slot: track, generation: 0 },
            packet: slots.take().expect("a slot").freeze(),
            header_len: 12,
            payload_len: 0,
            padding: 0,
            stream: 0,
            marker: false,
            key_frame: true,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(timestamp),
            arrival: Micros::from_millis(millis),
            extensions: Default::default(),
            picture: PictureIds { picture_id: Some((2, true, picture_id)), tl0_pic_idx: Some((4, picture_id as u8)) },
        }
    }

    #[test]
    fn a_change_of_publisher_is_continuous_in_every_number() {
        let mut slots = Arena::leak(16);
        let mut rewriter = Rewriter::new(0x1234_5678_9abc_def0);
        let first = media(&mut slots, 1, 70_000, 4_000_000_000, 32_767, 1_000);
        rewriter.switch(&first, 90_000);
        let a = rewriter.rewrite(&first).expect("first packet");
        let b = rewriter.rewrite(&media(&mut slots, 1, 70_001, 4_000_003_000, 0, 1_033)).expect("second packet");
        assert_eq!(b.sequence.0, a.sequence.0 + 1);
        assert_eq!(b.timestamp.distance(a.timestamp), 3_000);
        assert_eq!(b.picture_id, (a.picture_id + 1) & 0x7fff);

        let other = media(&mut slots, 2, 65_600, 17, 5, 3_033);
        rewriter.switch(&other, 90_000);
        let c = rewriter.rewrite(&other).expect("first packet of the other publisher");
        assert_eq!(c.sequence.0, b.sequence.0 + 1);
        assert_eq!(c.timestamp.distance(b.timestamp), 180_000, "two seconds passed");
        assert_eq!(c.picture_id, (b.picture_id + 1) & 0x7fff);
        assert_eq!(c.tl0_pic_idx, b.tl0_pic_idx.wrapping_add(1));
        assert!(rewriter.rewrite(&media(&mut slots, 2, 65_599, 17, 5, 3_034)).is_none(), "from before the switch");
    }

    #[test]
    fn an_outgoing_number_finds_the_packet_it_was_made_from() {
        let mut slots = Arena::leak(16);
        let mut rewriter = Rewriter::new(7);
        let first = media(&mut slots, 1, 70_000, 0, 0, 0);
        rewriter.switch(&first, 90_000);
        let out = rewriter.rewrite(&first).expect("first packet").sequence.number();
        rewriter.rewrite(&media(&mut slots, 1, 70_005, 0, 0, 0));
        assert_eq!(rewriter.origin(out.add(3)), Some(ExtendedSequence(70_003)));
        assert_eq!(rewriter.origin(SequenceNumber(out.0.wrapping_sub(1))), None, "before the source began");
        assert_eq!(rewriter.origin(out.add(6)), None, "not sent yet");
    }
}
