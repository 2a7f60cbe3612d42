//! What stands between the peer and the SCTP library: a packet goes on only if an honest WebRTC client could have sent it now.
//!
//! The library's buffers are bounded in bytes of user data, not in chunks: one byte costs it some 200 and the datagram it came in.
//! And it ends the association over much that an honest network does: a repeated INIT, an ERROR chunk, an unknown one. So here
//! - chunks that are to be skipped (RFC 9260 §3.2) or say nothing that matters to us are taken out, and all but DATA may come
//!   once in a packet (a packet of 150 HEARTBEATs would be answered by 150);
//! - INIT passes only while there is no association, or for the one that is being set up;
//! - DATA has to be within a window of TSNs, of streams that may exist, and slower than a limit. What is beyond is dropped as by a
//!   network, and sent again;
//! - a message may have so many fragments, and the library may hold no more than fragments of one message and what has come
//!   ahead of a gap: fragments of a message have consecutive TSNs (RFC 9260 §3.3.1), so what is held beyond that will never be
//!   delivered, and the peer is no WebRTC client.

use std::collections::VecDeque;

use super::crc32c::crc32c;
use crate::limits::{
    SCTP_CHUNKS_PER_SECOND, SCTP_FRAGMENTS_MAX, SCTP_HELD_UNEXPLAINED, SCTP_RECEIVE_BYTES, SCTP_STREAMS, SCTP_TSN_WINDOW,
};
use crate::metrics::DropReason;
use crate::secure::dtls::DATAGRAM_MAX;
use crate::units::Micros;

pub const COMMON_HEADER: usize = 12;
const CHUNK_HEADER: usize = 4;
/// TSN, stream, sequence number, payload protocol identifier (RFC 9260 §3.3.1).
const DATA_HEADER: usize = 12;

mod chunk_type {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    pub const RE_CONFIG: u8 = 130;
    pub const FORWARD_TSN: u8 = 192;
}

/// Which setup the association is in, as far as INIT is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// No association, or one that we ask for and the peer may ask for instead.
    Open,
    /// With a peer whose INIT had this tag; it may repeat it.
    With(u32),
    /// Established, or over.
    Done,
}

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Pass this instead.
    PassRewritten(Vec<u8>),
    /// Nothing in it is for us.
    Ignore,
    Drop(DropReason),
    /// The peer is no WebRTC client: end the association.
    Abort,
}

/// A received chunk ahead of a gap.
#[derive(Clone, Copy)]
struct Ahead {
    bytes: u16,
    ending: bool,
}

/// The state of one association's gate.
pub struct Gate {
    /// The peer's cumulative TSN; none before its INIT or INIT ACK.
    cumulative: Option<u32>,
    /// By TSN from `cumulative + 1` on. Empty while nothing is missing.
    ahead: VecDeque<Option<Ahead>>,
    /// Fragments at the end of what is cumulative that are no whole message yet, and their bytes.
    fragments: usize,
    fragment_bytes: usize,
    /// The tag that our packets carry: the peer's (RFC 9260 §8.5).
    peer_tag: u32,
    /// Ports as in the peer's packets.
    ports: [u8; 4],
    /// DATA chunks that may come now, in 1/1,000,000.
    tokens: u64,
    refilled: Micros,
}

/// Chunks that may come at once.
const BURST: u64 = SCTP_CHUNKS_PER_SECOND / 2;
const TOKEN: u64 = 1_000_000;

impl Gate {
    pub fn new(now: Micros) -> Self {
        Gate {
            cumulative: None,
            ahead: VecDeque::new(),
            fragments: 0,
            fragment_bytes: 0,
            peer_tag: 0,
            ports: [0; 4],
            tokens: BURST * TOKEN,
            refilled: now,
        }
    }

    /// Looks at a packet of the peer.
    pub fn inspect(&mut self, packet: &[u8], setup: Setup, now: Micros) -> Verdict {
        let Some(chunks) = Chunks::whole(packet) else { return Verdict::Drop(DropReason::SctpMalformed) };
        let (mut seen, mut kept, mut data) = (0u64, Vec::new(), 0);
        let mut rewritten = false;
        for chunk in chunks {
            match self.judge(&chunk, packet, setup) {
                Judgement::Keep => {}
                Judgement::Skip => {
                    rewritten = true;
                    continue;
                }
                // RFC 9260 §3.2: the chunk and all after it are not processed.
                Judgement::Stop => {
                    rewritten = true;
                    break;
                }
                Judgement::Drop(reason) => return Verdict::Drop(reason),
            }
            if chunk.kind == chunk_type::DATA {
                data += 1;
            } else if seen & kind_bit(chunk.kind) != 0 {
                return Verdict::Drop(DropReason::SctpMalformed);
            } else {
                seen |= kind_bit(chunk.kind);
            }
            kept.push(chunk);
        }
        if kept.is_empty() {
            return Verdict::Ignore;
        }
        if data > 0 && !self.spend(data, now) {
            return Verdict::Drop(DropReason::SctpFlood);
        }
        for chunk in &kept {
            self.note(chunk);
        }
        if self.fragments > SCTP_FRAGMENTS_MAX {
            return Verdict::Abort;
        }
        if rewritten { Verdict::PassRewritten(rewrite(packet, &kept)) } else { Verdict::Pass }
    }

    fn judge(&self, chunk: &Chunk<'_>, packet: &[u8], setup: Setup) -> Judgement {
        match chunk.kind {
            chunk_type::DATA => self.judge_data(chunk.value),
            chunk_type::INIT => {
                // Alone, with tag 0, whole (RFC 9260 §8.5.1), and not in the middle of things.
                let alone = packet.len() < COMMON_HEADER + CHUNK_HEADER + chunk.value.len() + 4;
                let tag = chunk.value.get(..4).map(be32).unwrap_or_default();
                let expected = match setup {
                    Setup::Open => true,
                    Setup::With(with) => with == tag,
                    Setup::Done => false,
                };
                let well_formed = alone && be32(&packet[4..8]) == 0 && tag != 0 && chunk.value.len() >= 16;
                if well_formed && expected { Judgement::Keep } else { Judgement::Drop(DropReason::SctpMalformed) }
            }
            chunk_type::INIT_ACK if chunk.value.len() < 16 => Judgement::Drop(DropReason::SctpMalformed),
            chunk_type::INIT_ACK if setup != Setup::Open => Judgement::Skip,
            // We ask for no heartbeat; and of the errors that a peer may report none changes what we do.
            chunk_type::HEARTBEAT_ACK | chunk_type::ERROR => Judgement::Skip,
            chunk_type::INIT_ACK
            | chunk_type::SACK
            | chunk_type::HEARTBEAT
            | chunk_type::ABORT
            | chunk_type::SHUTDOWN
            | chunk_type::SHUTDOWN_ACK
            | chunk_type::COOKIE_ECHO
            | chunk_type::COOKIE_ACK
            | chunk_type::SHUTDOWN_COMPLETE
            | chunk_type::RE_CONFIG => Judgement::Keep,
            chunk_type::FORWARD_TSN => match chunk.value.get(..4).map(be32) {
                // No further than what the peer may have sent without our acknowledgement.
                Some(tsn) if self.offset(tsn).is_none_or(|offset| offset <= SCTP_TSN_WINDOW as u32) => Judgement::Keep,
                _ => Judgement::Drop(DropReason::SctpMalformed),
            },
            unknown if unknown & 0x80 != 0 => Judgement::Skip,
            _ => Judgement::Stop,
        }
    }

    fn judge_data(&self, value: &[u8]) -> Judgement {
        // A DATA chunk without data is a protocol violation (RFC 9260 §6.2).
        if value.len() <= DATA_HEADER || usize::from(be16(&value[4..6])) >= SCTP_STREAMS {
            return Judgement::Drop(DropReason::SctpMalformed);
        }
        if self.cumulative.is_none() {
            return Judgement::Drop(DropReason::SctpMalformed);
        }
        match self.offset(be32(&value[..4])) {
            Some(offset) if offset > SCTP_TSN_WINDOW as u32 => Judgement::Drop(DropReason::SctpFlood),
            _ => Judgement::Keep,
        }
    }

    /// How far a TSN is beyond the cumulative one; none for one that is not.
    fn offset(&self, tsn: u32) -> Option<u32> {
        let offset = tsn.wrapping_sub(self.cumulative?);
        (offset != 0 && offset < 1 << 31).then_some(offset)
    }

    fn spend(&mut self, chunks: u64, now: Micros) -> bool {
        let refill = now.since(self.refilled).saturating_mul(SCTP_CHUNKS_PER_SECOND);
        self.tokens = self.tokens.saturating_add(refill).min(BURST * TOKEN);
        self.refilled = now;
        let enough = self.tokens >= chunks * TOKEN;
        if enough {
            self.tokens -= chunks * TOKEN;
        }
        enough
    }

    /// Follows what the library will have of a chunk.
    fn note(&mut self, chunk: &Chunk<'_>) {
        match chunk.kind {
            chunk_type::INIT | chunk_type::INIT_ACK => {
                self.peer_tag = be32(&chunk.value[..4]);
                self.ports = chunk.ports;
                self.cumulative = Some(be32(&chunk.value[12..16]).wrapping_sub(1));
                self.ahead = VecDeque::new();
            }
            chunk_type::DATA => {
                let Some(offset) = self.offset(be32(&chunk.value[..4])) else { return };
                let index = offset as usize - 1;
                while self.ahead.len() <= index {
                    self.ahead.push_back(None);
                }
                let bytes = (chunk.value.len() - DATA_HEADER) as u16;
                self.ahead[index].get_or_insert(Ahead { bytes, ending: chunk.flags & 1 != 0 });
                self.advance();
            }
            chunk_type::FORWARD_TSN => {
                let Some(offset) = self.offset(be32(&chunk.value[..4])) else { return };
                self.ahead.drain(..self.ahead.len().min(offset as usize));
                self.cumulative = self.cumulative.map(|tsn| tsn.wrapping_add(offset));
                (self.fragments, self.fragment_bytes) = (0, 0);
                self.advance();
            }
            _ => {}
        }
    }

    fn advance(&mut self) {
        while let Some(Some(chunk)) = self.ahead.front().copied() {
            self.ahead.pop_front();
            self.cumulative = self.cumulative.map(|tsn| tsn.wrapping_add(1));
            if chunk.ending {
                (self.fragments, self.fragment_bytes) = (0, 0);
            } else {
                self.fragments += 1;
                self.fragment_bytes += usize::from(chunk.bytes);
            }
        }
        if self.ahead.is_empty() {
            self.ahead = VecDeque::new();
        }
    }

    /// Looks at a packet of ours: what its SACK says of what the library holds. False if that is more than a WebRTC client's
    /// packets can have led to.
    pub fn explains(&self, packet: &[u8]) -> bool {
        let sack = Chunks::whole(packet).and_then(|mut chunks| chunks.find(|chunk| chunk.kind == chunk_type::SACK));
        let Some(value) = sack.map(|chunk| chunk.value).filter(|value| value.len() >= 8) else { return true };
        let (cumulative, credit) = (be32(&value[..4]), be32(&value[4..8]) as usize);
        let held = SCTP_RECEIVE_BYTES.saturating_sub(credit);
        if Some(cumulative) != self.cumulative {
            // The library has seen less of the peer's packets than we have: they are forged in a way that only it finds out, unless
            // its buffer is full.
            return credit < DATAGRAM_MAX;
        }
        let ahead: usize = self.ahead.iter().flatten().map(|chunk| usize::from(chunk.bytes)).sum();
        held <= ahead + self.fragment_bytes + SCTP_HELD_UNEXPLAINED
    }

    /// The tag of the peer's INIT or INIT ACK; 0 before it.
    pub fn peer_tag(&self) -> u32 {
        self.peer_tag
    }

    /// An ABORT for the peer (RFC 9260 §3.3.7): the library ends an association without one. None before the peer's tag is known.
    pub fn abort(&self) -> Option<Vec<u8>> {
        let [from_high, from_low, to_high, to_low] = self.ports;
        let mut packet = vec![to_high, to_low, from_high, from_low];
        packet.extend(self.peer_tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([chunk_type::ABORT, 0, 0, CHUNK_HEADER as u8]);
        seal(&mut packet);
        (self.peer_tag != 0).then_some(packet)
    }
}

enum Judgement {
    Keep,
    Skip,
    Stop,
    Drop(DropReason),
}

struct Chunk<'a> {
    kind: u8,
    flags: u8,
    value: &'a [u8],
    /// With its padding.
    whole: &'a [u8],
    ports: [u8; 4],
}

/// The chunks of a packet of which the lengths add up.
struct Chunks<'a> {
    rest: &'a [u8],
    ports: [u8; 4],
}

impl<'a> Chunks<'a> {
    fn whole(packet: &'a [u8]) -> Option<Self> {
        let ports = packet.get(..4)?.try_into().ok()?;
        let chunks = || Chunks { rest: packet.get(COMMON_HEADER..).unwrap_or_default(), ports };
        let mut walk = chunks();
        while walk.next().is_some() {}
        (packet.len() > COMMON_HEADER && walk.rest.is_empty()).then(chunks)
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let [kind, flags, high, low] = *self.rest.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < CHUNK_HEADER {
            return None;
        }
        let value = self.rest.get(CHUNK_HEADER..length)?;
        // The padding of the last chunk may be missing: peers were seen to leave it out, and the library does not mind.
        let (whole, rest) = self.rest.split_at(length.next_multiple_of(4).min(self.rest.len()));
        self.rest = rest;
        Some(Chunk { kind, flags, value, whole, ports: self.ports })
    }
}

/// The chunks of a packet of ours that is longer than `length_max`, in packets that are not. A chunk that is longer by itself, a SACK with an
/// endless list of repeated TSNs, is left out: the next one will be shorter.
pub fn split(packet: &[u8], length_max: usize) -> Vec<Vec<u8>> {
    let (mut packets, mut kept, mut length) = (Vec::new(), Vec::new(), COMMON_HEADER);
    let chunks = Chunks::whole(packet).into_iter().flatten().filter(|chunk| COMMON_HEADER + chunk.whole.len() <= length_max);
    for chunk in chunks {
        if length + chunk.whole.len() > length_max {
            packets.push(rewrite(packet, &std::mem::take(&mut kept)));
            length = COMMON_HEADER;
        }
        length += chunk.whole.len();
        kept.push(chunk);
    }
    if !kept.is_empty() {
        packets.push(rewrite(packet, &kept));
    }
    packets
}

fn rewrite(packet: &[u8], kept: &[Chunk<'_>]) -> Vec<u8> {
    let mut rewritten = packet[..COMMON_HEADER].to_vec();
    kept.iter().for_each(|chunk| rewritten.extend(chunk.whole));
    seal(&mut rewritten);
    rewritten
}

/// Writes the checksum, which is sent least significant byte first (RFC 9260 appendix A).
pub fn seal(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let checksum = crc32c(packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// A bit for each of the types that pass.
fn kind_bit(kind: u8) -> u64 {
    match kind {
        chunk_type::RE_CONFIG => 1 << 62,
        chunk_type::FORWARD_TSN => 1 << 63,
        kind => 1 << (kind & 31),
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
