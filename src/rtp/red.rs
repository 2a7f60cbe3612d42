//! Redundant audio data (RFC 2198): a packet of sound that carries the sounds before it once more, so that a receiver hears on
//! when packets are lost, without asking and without waiting for a round trip.
//!
//! Only viewers who offer it for Opus get it, and only while something they report is lost: [`Redundancy`] decides how many earlier
//! packets go along. A packet with none goes as plain Opus, which the answer names too, so that a clean path costs nothing. The
//! earlier payloads are those of the cache that all receivers of the track share, or of this turn.
//!
//! Publishers are asked for it too, where they offer it, with RED before Opus in the answer: Chromium then sends each sound twice. Few
//! repeat sound that a NACK asks for. What arrives is taken apart ([`parse`]) and goes on as plain Opus, so that it costs no viewer
//! anything; a packet that was lost is found in a later one, and goes on under its own number and time ([`Part::origin`]).
//!
//! What a packet carries depends on when it is sent, so it could not be sent again bit by bit the same, as repeating it under its
//! own SRTP index would require (see `peer::send`). Packets of a sender that may use RED are therefore never repeated other than as
//! RTX, and the answer has no `nack` for them.

use arrayvec::ArrayVec;

use super::cache::Cache;
use super::media::Media;
use crate::limits::{RED_BLOCKS, RED_BLOCKS_READ, RED_BYTES_MAX};
use crate::units::{ExtendedSequence, PayloadType, RtpTime};

/// Largest distance of a block's timestamp from the packet's, in clock ticks: 14 bits (RFC 2198 §3).
const OFFSET_MAX: i32 = (1 << 14) - 1;
/// Largest length of a redundant block in bytes: 10 bits.
const LENGTH_MAX: usize = (1 << 10) - 1;
/// Bytes of a redundant block's header, and of the primary's.
const BLOCK_HEADER: usize = 4;
const PRIMARY_HEADER: usize = 1;
/// First bit of a block's header: another follows.
const FOLLOWS: u8 = 0x80;

/// Fraction lost, in 1/256, from which one earlier packet goes along: 1 %. Below, concealment does.
const LOSS_FOR_ONE: u8 = 3;
/// And from which two do: 8 %. One leaves the square of the loss unrepaired, two its cube.
const LOSS_FOR_TWO: u8 = 20;
/// Seconds without loss after which redundancy ends. Chromium reports on sound every 5 s.
const HOLD_SECONDS: u8 = 15;

/// The redundancy agreed with a receiver, and how much of it it gets: as its path has lost of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redundancy {
    /// Payload type of packets with redundant blocks.
    pub payload_type: PayloadType,
    blocks: u8,
    seconds_left: u8,
}

impl Redundancy {
    pub fn new(payload_type: PayloadType) -> Self {
        Redundancy { payload_type, blocks: 0, seconds_left: 0 }
    }

    /// A receiver reported this fraction lost, in 1/256 (RFC 3550 §6.4.1), of any stream over the same path.
    pub fn reported(&mut self, fraction_lost: u8) {
        let blocks = match fraction_lost {
            LOSS_FOR_TWO.. => 2,
            LOSS_FOR_ONE.. => 1,
            _ => return,
        };
        if blocks >= self.blocks {
            (self.blocks, self.seconds_left) = (blocks, HOLD_SECONDS);
        }
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        self.seconds_left = self.seconds_left.saturating_sub(1);
        if self.seconds_left == 0 {
            self.blocks = 0;
        }
    }

    /// Earlier packets that go along with each.
    pub fn blocks(&self) -> u8 {
        self.blocks
    }
}

/// The packets before those of a turn: in the track's cache, and in the turn itself.
pub struct Recent<'a> {
    cache: &'a Cache,
    turn: ArrayVec<&'a Media, RED_BLOCKS>,
}

impl<'a> Recent<'a> {
    pub fn new(cache: &'a Cache) -> Self {
        Recent { cache, turn: ArrayVec::new() }
    }

    /// The `count` packets before `media`, oldest first; what was lost or left is not among them. Then `media` is one of those of
    /// the turn.
    pub fn before(&mut self, media: &'a Media, count: usize) -> ArrayVec<&'a Media, RED_BLOCKS> {
        let mut earlier = ArrayVec::new();
        for distance in (1..=count.min(RED_BLOCKS) as u64).rev() {
            let Some(sequence) = media.sequence.0.checked_sub(distance) else { continue };
            let of_turn = self.turn.iter().copied().find(|other| other.sequence.0 == sequence);
            earlier.extend(of_turn.or_else(|| self.cache.get(sequence as u32)).filter(|other| other.stream == media.stream));
        }
        if self.turn.is_full() {
            self.turn.remove(0);
        }
        self.turn.push(media);
        earlier
    }
}

/// A block: a payload, and how much earlier it belongs than the packet's timestamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    pub payload_type: PayloadType,
    /// Clock ticks before the packet's timestamp; 0 for the primary.
    pub offset: u16,
    pub payload: &'a [u8],
}

/// Those of `earlier` (oldest first) that can go along with `media`: near enough in time, short enough, and all together within
/// [`RED_BYTES_MAX`]. Of what does not fit, the oldest is left out first. After a silence (DTX) there is nothing near enough.
pub fn blocks<'a>(media: &Media, earlier: &[&'a Media], payload_type: PayloadType) -> ArrayVec<Block<'a>, RED_BLOCKS> {
    let mut blocks = ArrayVec::new();
    let mut len = PRIMARY_HEADER + media.payload_len as usize;
    for other in earlier.iter().rev() {
        let (payload, offset) = (other.payload(), media.timestamp.distance(other.timestamp));
        len += BLOCK_HEADER + payload.len();
        if !(1..=OFFSET_MAX).contains(&offset) || !(1..=LENGTH_MAX).contains(&payload.len()) || len > RED_BYTES_MAX {
            break;
        }
        let full = blocks.try_insert(0, Block { payload_type, offset: offset as u16, payload }).is_err();
        if full {
            break;
        }
    }
    blocks
}

/// Writes a payload of redundant blocks, oldest first, and the primary one (RFC 2198 §3). Returns its length; none if there is no
/// room.
pub fn write(space: &mut [u8], primary: &Block<'_>, earlier: &[Block<'_>]) -> Option<usize> {
    let mut at = 0;
    for block in earlier {
        let fields = u32::from(FOLLOWS | block.payload_type.0) << 24 | u32::from(block.offset) << 10 | block.payload.len() as u32;
        space.get_mut(at..at + BLOCK_HEADER)?.copy_from_slice(&fields.to_be_bytes());
        at += BLOCK_HEADER;
    }
    *space.get_mut(at)? = primary.payload_type.0;
    at += PRIMARY_HEADER;
    for block in earlier.iter().chain([primary]) {
        space.get_mut(at..at + block.payload.len())?.copy_from_slice(block.payload);
        at += block.payload.len();
    }
    Some(at)
}

/// A packet's number and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub sequence: ExtendedSequence,
    pub timestamp: RtpTime,
}

/// A block of a payload that was received, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub payload_type: PayloadType,
    /// Clock ticks before the packet's timestamp; 0 for the primary.
    pub offset: u16,
    /// Bytes before it, and its own.
    pub start: u16,
    pub len: u16,
}

/// The blocks of a payload that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    pub primary: Part,
    /// In the order in which they come: oldest first.
    pub redundant: ArrayVec<Part, RED_BLOCKS_READ>,
}

/// Takes a payload apart (RFC 2198 §3). None if it is not what its headers say, or has more than [`RED_BLOCKS_READ`] redundant blocks,
/// one of the primary's own moment, or one that is such a payload again (`red`: the payload type that it came under).
pub fn parse(payload: &[u8], red: PayloadType) -> Option<Parts> {
    let mut redundant: ArrayVec<Part, RED_BLOCKS_READ> = ArrayVec::new();
    let mut rest = payload;
    while rest.first()? & FOLLOWS != 0 {
        let (header, after) = rest.split_first_chunk::<BLOCK_HEADER>()?;
        let fields = u32::from_be_bytes(*header);
        let payload_type = PayloadType((fields >> 24) as u8 & !FOLLOWS);
        let (offset, len) = ((fields >> 10) as u16 & OFFSET_MAX as u16, fields as u16 & LENGTH_MAX as u16);
        redundant.try_push(Part { payload_type, offset, start: 0, len }).ok()?;
        rest = after;
    }
    let (primary, data) = rest.split_first()?;
    let mut start = payload.len() - data.len();
    for block in &mut redundant {
        block.start = u16::try_from(start).ok()?;
        start += block.len as usize;
    }
    let len = u16::try_from(payload.len().checked_sub(start)?).ok()?;
    let primary = Part { payload_type: PayloadType(*primary), offset: 0, start: u16::try_from(start).ok()?, len };
    let makes_sense = primary.payload_type != red && redundant.iter().all(|block| block.payload_type != red && block.offset > 0);
    makes_sense.then_some(Parts { primary, redundant })
}

impl Part {
    /// Bytes that a redundant block takes, its header's included.
    pub fn size(&self) -> usize {
        BLOCK_HEADER + self.len as usize
    }

    /// The packet that a redundant block repeats. A block tells its time only, so the number follows from what is known: `carrier`, in
    /// which it came, and `before`, the newest packet before that. Where time goes on evenly between these, it has done so between
    /// carrier and block; else (after a silence) the blocks are those of the packets just before, and this one is the `rank`-th of
    /// them counted back. None if that cannot be.
    pub fn origin(&self, rank: u64, carrier: Stamp, before: Option<Stamp>) -> Option<Stamp> {
        let offset = u32::from(self.offset);
        let timestamp = carrier.timestamp.add(offset.wrapping_neg());
        let at = |back: u64| Some(Stamp { sequence: ExtendedSequence(carrier.sequence.0.checked_sub(back)?), timestamp });
        let Some(before) = before.filter(|before| before.sequence < carrier.sequence) else { return at(rank) };
        let packets = carrier.sequence.0 - before.sequence.0;
        let ticks = carrier.timestamp.distance(before.timestamp).max(0) as u64;
        let step = ticks / packets;
        let even = step > 0 && ticks.is_multiple_of(packets) && u64::from(offset).is_multiple_of(step);
        let origin = at(if even { u64::from(offset) / step } else { rank })?;
        let is_later = timestamp.distance(before.timestamp) > 0;
        ((origin.sequence > before.sequence) == is_later).then_some(origin)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mem::{Arena, Slots};
    use crate::units::{Micros, TrackId};
    use crate::wire::layer::Layer;
    use crate::wire::picture::PictureIds;

    const OPUS: PayloadType = PayloadType(111);

    fn sound(slots: &mut Slots, sequence: u64, timestamp: u32, payload: &[u8]) -> Media {
        let mut packet = slots.take().expect("a slot");
        packet.fill(&[&[0; 12], payload].concat());
        Media {
            track: TrackId::default(),
            packet: packet.freeze(),
            header_len: 12,
            payload_len: payload.len() as u16,
            padding: 0,
            stream: 0,
            encoding: 0,
            layer: Layer::default(),
            marker: false,
            key_frame: false,
            sequence: ExtendedSequence(sequence),
            timestamp: RtpTime(timestamp),
            arrival: Micros(sequence * 20_000),
            extensions: Default::default(),
            dependency: None,
            picture: PictureIds::default(),
        }
    }

    /// Offsets and payloads that go along with `media`.
    fn along(media: &Media, earlier: &[&Media]) -> Vec<(u16, usize)> {
        blocks(media, earlier, OPUS).iter().map(|block| (block.offset, block.payload.len())).collect()
    }

    #[test]
    fn the_bytes_are_those_of_rfc_2198() {
        let mut space = [0xee; 64];
        let primary = Block { payload_type: PayloadType(5), offset: 0, payload: b"now" };
        let blocks = [
            Block { payload_type: PayloadType(7), offset: 0x3fff, payload: b"old" },
            Block { payload_type: PayloadType(7), offset: 960, payload: b"newer" },
        ];
        // F=1, PT=7, offset 16383, length 3; F=1, PT=7, offset 960, length 5; F=0, PT=5.
        let headers = [0x87, 0xff, 0xfc, 0x03, 0x87, 0x0f, 0x00, 0x05, 0x05];
        let expected = [&headers[..], b"oldnewernow"].concat();
        let len = write(&mut space, &primary, &blocks).expect("room");
        assert_eq!(space[..len], expected);
        for short in 0..len {
            assert_eq!(write(&mut space[..short], &primary, &blocks), None);
        }
        let long = [7; LENGTH_MAX];
        let mut space = [0; 2048];
        let block = Block { payload_type: PayloadType(127), offset: 1, payload: &long };
        write(&mut space, &primary, &[block]).expect("room");
        assert_eq!(space[..5], [0xff, 0x00, 0x07, 0xff, 0x05]);
    }

    #[test]
    fn what_is_too_old_too_long_or_too_much_stays_behind() {
        let mut slots = Arena::leak(16);
        let mut at = |sequence, timestamp: u32, len| sound(&mut slots, sequence, timestamp, &[1; 1400][..len]);
        let media = at(10, 500, 80);
        // Timestamps wrap.
        let (older, old) = (at(8, 500u32.wrapping_sub(1_920), 70), at(9, 500u32.wrapping_sub(960), 75));
        assert_eq!(along(&media, &[&older, &old]), [(1_920, 70), (960, 75)]);
        let silence = at(9, 500u32.wrapping_sub(16_384), 2);
        assert_eq!(along(&media, &[&older, &silence]), [], "behind a gap of DTX");
        assert_eq!(along(&media, &[&at(9, 500u32.wrapping_sub(16_383), 2)]), [(16_383, 2)]);
        assert_eq!(along(&media, &[&at(9, 500, 75)]), [], "of the same time");
        assert_eq!(along(&media, &[&at(9, 600, 75)]), [], "of a later time");
        assert_eq!(along(&media, &[&at(9, 0, 0)]), [], "of nothing");
        assert_eq!(along(&media, &[&at(9, 0, 1_024)]), [], "a length of more than 10 bits");
        assert_eq!(along(&media, &[&at(8, 0, 600), &at(9, 100, 500)]), [(400, 500)], "too much together: the older goes");
    }

    #[test]
    fn the_packets_before_come_from_the_turn_and_the_cache() {
        let mut slots = Arena::leak(16);
        let mut at = |sequence: u64| sound(&mut slots, sequence, sequence as u32 * 960, &[sequence as u8; 10]);
        let mut cache = Cache::new(8);
        for sequence in [65_536, 65_537, 65_538] {
            cache.insert(at(sequence));
        }
        let turn = [at(65_539), at(65_541), at(65_542), at(65_543)];
        let mut other = at(65_544);
        other.stream = 1;
        let mut recent = Recent::new(&cache);
        let mut before = |media, count| -> Vec<u64> {
            let earlier = recent.before(media, count);
            earlier.iter().map(|media| media.sequence.0).collect()
        };
        assert_eq!(before(&turn[0], 2), [65_537, 65_538]);
        assert_eq!(before(&turn[1], 2), [65_539], "65540 was lost");
        assert_eq!(before(&turn[2], 1), [65_541]);
        assert_eq!(before(&turn[3], 2), [65_541, 65_542]);
        assert_eq!(before(&other, 2), [0; 0], "of another stream");
    }

    #[test]
    fn redundancy_follows_the_loss_and_ends_some_time_after_it() {
        let mut redundancy = Redundancy::new(PayloadType(63));
        redundancy.reported(2);
        assert_eq!(redundancy.blocks(), 0, "less than a percent");
        redundancy.reported(3);
        assert_eq!(redundancy.blocks(), 1);
        redundancy.reported(51);
        assert_eq!(redundancy.blocks(), 2);
        for second in 0..HOLD_SECONDS {
            assert_eq!(redundancy.blocks(), 2, "after {second} s");
            redundancy.reported(0);
            redundancy.reported(3);
            redundancy.tick();
        }
        assert_eq!(redundancy.blocks(), 0);
        redundancy.reported(3);
        assert_eq!(redundancy.blocks(), 1, "as much as is lost now");
    }

    const RED: PayloadType = PayloadType(63);

    /// The example of RFC 2198 §7: DVI4 and, 20 ms before, LPC.
    #[test]
    fn a_payload_is_taken_apart_as_its_headers_say() {
        let payload = [&[0x87, 0x02, 0x80, 0x0e, 0x05][..], &[7; 14], &[5; 84]].concat();
        let lpc = Part { payload_type: PayloadType(7), offset: 160, start: 5, len: 14 };
        let dvi4 = Part { payload_type: PayloadType(5), offset: 0, start: 19, len: 84 };
        let parts = parse(&payload, RED).expect("well-formed");
        assert_eq!((parts.primary, parts.redundant.as_slice()), (dvi4, &[lpc][..]));
        assert_eq!(parse(&payload[..19], RED).map(|parts| parts.primary.len), Some(0));
        for short in 0..19 {
            assert_eq!(parse(&payload[..short], RED), None, "{short} bytes");
        }
        assert_eq!(parse(&[0x6f], RED).map(|parts| (parts.primary.start, parts.redundant.len())), Some((1, 0)), "nothing repeated");
        // The largest offset and length.
        let largest = [&[0xef, 0xff, 0xff, 0xff, 0x6f][..], &[0; 1_023]].concat();
        let parts = parse(&largest, RED).expect("well-formed");
        assert_eq!((parts.redundant[0].offset, parts.redundant[0].len, parts.primary.len), (16_383, 1_023, 0));
    }

    #[test]
    fn what_makes_no_sense_is_not_taken_apart() {
        let block = |payload_type: u8, offset: u16| [0x80 | payload_type, (offset >> 6) as u8, (offset as u8) << 2, 1];
        let with = |blocks: &[[u8; 4]], primary: u8| parse(&[blocks.as_flattened(), &[primary], &[0; 20]].concat(), RED);
        let most = [block(111, 960); RED_BLOCKS_READ];
        assert_eq!(with(&most, 111).map(|parts| parts.redundant.len()), Some(RED_BLOCKS_READ));
        assert_eq!(with(&[block(111, 960); RED_BLOCKS_READ + 1], 111), None, "one too many");
        assert_eq!(with(&[block(111, 960), block(111, 0)], 111), None, "of the primary's moment");
        assert_eq!(with(&[block(111, 960), block(63, 480)], 111), None, "redundancy of redundancy");
        assert_eq!(with(&[block(111, 960)], 63), None, "the same as the primary");
        assert!(with(&[block(13, 960)], 111).is_some(), "another codec is none of its business");
    }

    #[test]
    fn a_block_is_of_the_packet_that_had_its_time() {
        // 65,536 is number 0; the time wraps in the middle.
        let stamp = |sequence: u64, ticks: i64| Stamp { sequence: ExtendedSequence(sequence), timestamp: RtpTime(ticks as u32) };
        let origin = |offset, rank, carrier, before| {
            let part = Part { payload_type: OPUS, offset, start: 0, len: 1 };
            part.origin(rank, carrier, before).map(|stamp| (stamp.sequence.0, stamp.timestamp.0.cast_signed()))
        };
        let carrier = stamp(65_537, 480);
        // Two were lost: what is repeated are both, or the older one alone.
        let before = Some(stamp(65_534, -2_400));
        assert_eq!(origin(960, 1, carrier, before), Some((65_536, -480)));
        assert_eq!(origin(1_920, 2, carrier, before), Some((65_535, -1_440)));
        assert_eq!(origin(1_920, 1, carrier, before), Some((65_535, -1_440)));
        // None was; blocks of packets that were there anyway, or before that.
        let before = Some(stamp(65_536, -480));
        assert_eq!(origin(960, 1, carrier, before), Some((65_536, -480)));
        assert_eq!(origin(2_880, 1, carrier, before), Some((65_534, -2_400)));
        // A silence between, and one lost after it.
        let before = Some(stamp(65_535, -20_000));
        assert_eq!(origin(960, 1, carrier, before), Some((65_536, -480)));
        assert_eq!(origin(960, 3, carrier, before), None, "later than the last that came, and before it in number");
        // Time that goes back, and nothing to go by.
        assert_eq!(origin(960, 1, carrier, Some(stamp(65_535, 9_000))), None);
        assert_eq!(origin(960, 1, carrier, None), Some((65_536, -480)));
        assert_eq!(origin(960, 1, carrier, Some(stamp(65_540, 3_360))), Some((65_536, -480)), "it came late itself");
        assert_eq!(origin(960, 9, stamp(3, 960), None), None, "before all numbers");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_without_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(Parts { primary, redundant }) = parse(&payload, RED) {
                for part in redundant.iter().chain([&primary]) {
                    prop_assert!(payload.get(part.start as usize..).is_some_and(|rest| rest.len() >= part.len as usize));
                }
            }
        }

        #[test]
        fn what_is_written_reads_back(primary in prop::collection::vec(any::<u8>(), 0..300),
                                      earlier in prop::collection::vec((1u16..1 << 14, prop::collection::vec(any::<u8>(), 1..300)), 0..=2)) {
            let blocks: Vec<Block<'_>> =
                earlier.iter().map(|(offset, payload)| Block { payload_type: OPUS, offset: *offset, payload }).collect();
            let mut space = [0; 1200];
            let len = write(&mut space, &Block { payload_type: OPUS, offset: 0, payload: &primary }, &blocks).expect("room");
            let parts = parse(&space[..len], RED).expect("well-formed");
            let all = parts.redundant.iter().chain([&parts.primary]);
            let read: Vec<(u16, &[u8])> = all.map(|part| (part.offset, &space[part.start as usize..][..part.len as usize])).collect();
            let given = earlier.iter().map(|(offset, payload)| (*offset, &payload[..])).chain([(0, &primary[..])]);
            prop_assert_eq!(read, given.collect::<Vec<_>>());
        }
    }
}
