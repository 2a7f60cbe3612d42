//! RTCP compound packets (RFC 3550 §6, RFC 4585, RFC 5104, RFC 3611, RFC 8888): typed views of what is received, and writers.
//!
//! [`packets`] checks how the compound packet divides into packets before anything is read, so a truncated one has no effect at
//! all. Reduced-size packets (RFC 5506) are taken: the first need not be a report.
//!
//! Each writer writes one RTCP packet at the start of `space` and returns its length, or `None` if it does not fit or cannot be
//! expressed; a compound packet is made by writing one after the other.

use super::bytes::{Writer, array, u16_at, u24_at, u32_at, u64_at};
use crate::metrics::DropReason;
use crate::units::{Bitrate, RtpTime, SequenceNumber, Ssrc};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
/// RTPFB and PSFB (RFC 4585 §6.1).
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const EXTENDED_REPORT: u8 = 207;

const FORMAT_NACK: u8 = 1;
/// CCFB (RFC 8888 §3.1).
const FORMAT_CONGESTION_CONTROL: u8 = 11;
const FORMAT_TRANSPORT_WIDE: u8 = 15;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const FORMAT_APPLICATION: u8 = 15;

/// SDES item CNAME (RFC 3550 §6.5.1).
const CNAME: u8 = 1;
/// XR blocks (RFC 3611 §4.4, §4.5).
const RECEIVER_REFERENCE_TIME: u8 = 4;
const DELAY_SINCE_LAST_RR: u8 = 5;

/// Most report blocks, SSRCs or chunks that the five-bit count can tell.
const COUNT_MAX: usize = 31;

/// One packet of a compound packet.
#[derive(Clone, Copy, Debug)]
pub enum Feedback<'a> {
    SenderReport(SenderReport<'a>),
    ReceiverReport(ReceiverReport<'a>),
    SourceDescription(SourceDescription<'a>),
    Bye(Bye<'a>),
    Nack(Nack<'a>),
    Pli(Pli),
    Fir(Fir<'a>),
    Remb(Remb<'a>),
    TransportWide(TransportWide<'a>),
    CongestionControl(CongestionControl<'a>),
    ExtendedReport(ExtendedReport<'a>),
    /// A packet type or feedback format the server has no use for.
    Other {
        packet_type: u8,
        format: u8,
    },
}

/// The packets of a compound packet, in order. The outer error: lengths or versions make no sense (RFC 3550 §A.2). An inner one:
/// that packet's content is shorter than it claims.
pub fn packets(compound: &[u8]) -> Result<impl Iterator<Item = Result<Feedback<'_>, DropReason>> + Clone, DropReason> {
    let mut rest = compound;
    while !rest.is_empty() {
        let (packet, after) = split(rest).ok_or(DropReason::RtcpMalformed)?;
        // Only the last packet may be padded (RFC 3550 §6.4.1), but libwebrtc pads each transport-wide report of several.
        if packet.padded && !after.is_empty() && packet.packet_type != TRANSPORT_FEEDBACK {
            return Err(DropReason::RtcpMalformed);
        }
        rest = after;
    }
    if compound.is_empty() {
        return Err(DropReason::RtcpMalformed);
    }
    let mut rest = compound;
    Ok(std::iter::from_fn(move || {
        let (packet, after) = split(rest)?;
        rest = after;
        Some(packet.read().ok_or(DropReason::RtcpMalformed))
    }))
}

/// A packet without padding and not yet understood.
struct Raw<'a> {
    padded: bool,
    /// Report count, feedback format or subtype: the low five bits of the first byte.
    format: u8,
    packet_type: u8,
    /// What follows the four bytes of common header.
    body: &'a [u8],
}

fn split(bytes: &[u8]) -> Option<(Raw<'_>, &[u8])> {
    let [flags, packet_type, high, low] = array(bytes, 0)?;
    if flags >> 6 != 2 {
        return None;
    }
    let len = 4 * (u16::from_be_bytes([high, low]) as usize + 1);
    let (packet, after) = bytes.split_at_checked(len)?;
    let padded = flags & 0x20 != 0;
    let mut body = packet.get(4..)?;
    if padded {
        // The last byte counts the padding, itself included: in steps of four (RFC 3550 §6.4.1), but transport-wide feedback is
        // padded to the next word by one to three bytes (libwebrtc, str0m).
        let count = match *body.last()? {
            0 => return None,
            count => count as usize,
        };
        body = body.get(..body.len().checked_sub(count)?)?;
    }
    Some((Raw { padded, format: flags & 0x1f, packet_type, body }, after))
}

impl<'a> Raw<'a> {
    fn read(&self) -> Option<Feedback<'a>> {
        let body = self.body;
        let other = Feedback::Other { packet_type: self.packet_type, format: self.format };
        Some(match (self.packet_type, self.format) {
            (SENDER_REPORT, count) => Feedback::SenderReport(SenderReport::read(body, count)?),
            (RECEIVER_REPORT, count) => Feedback::ReceiverReport(ReceiverReport {
                ssrc: ssrc_at(body, 0)?,
                blocks: chunks(body.get(4..)?, count as usize)?,
            }),
            (SOURCE_DESCRIPTION, count) => Feedback::SourceDescription(SourceDescription { count, chunks: body }),
            (BYE, count) => Feedback::Bye(Bye { ssrcs: chunks(body, count as usize)? }),
            (TRANSPORT_FEEDBACK, FORMAT_NACK) => Feedback::Nack(Nack {
                sender_ssrc: ssrc_at(body, 0)?,
                media_ssrc: ssrc_at(body, 4)?,
                entries: body.get(8..)?.as_chunks().0,
            }),
            (TRANSPORT_FEEDBACK, FORMAT_TRANSPORT_WIDE) => Feedback::TransportWide(TransportWide {
                sender_ssrc: ssrc_at(body, 0)?,
                media_ssrc: ssrc_at(body, 4)?,
                bytes: body.get(8..)?,
            }),
            (TRANSPORT_FEEDBACK, FORMAT_CONGESTION_CONTROL) => {
                Feedback::CongestionControl(CongestionControl { sender_ssrc: ssrc_at(body, 0)?, bytes: body.get(4..)? })
            }
            (PAYLOAD_FEEDBACK, FORMAT_PLI) => Feedback::Pli(Pli { sender_ssrc: ssrc_at(body, 0)?, media_ssrc: ssrc_at(body, 4)? }),
            (PAYLOAD_FEEDBACK, FORMAT_FIR) => {
                Feedback::Fir(Fir { sender_ssrc: ssrc_at(body, 0)?, entries: body.get(8..)?.as_chunks().0 })
            }
            (PAYLOAD_FEEDBACK, FORMAT_APPLICATION) if body.get(8..12) == Some(b"REMB") => Feedback::Remb(Remb::read(body)?),
            (EXTENDED_REPORT, _) => Feedback::ExtendedReport(ExtendedReport { ssrc: ssrc_at(body, 0)?, blocks: body.get(4..)? }),
            _ => other,
        })
    }
}

fn ssrc_at(bytes: &[u8], at: usize) -> Option<Ssrc> {
    u32_at(bytes, at).map(Ssrc)
}

/// The first `count` pieces of `N` bytes.
fn chunks<const N: usize>(bytes: &[u8], count: usize) -> Option<&[[u8; N]]> {
    bytes.as_chunks().0.get(..count)
}

/// RFC 3550 §6.4.1. Profile-specific extensions are ignored.
#[derive(Clone, Copy, Debug)]
pub struct SenderReport<'a> {
    pub ssrc: Ssrc,
    /// NTP timestamp, 32.32 bits fixed point.
    pub ntp: u64,
    pub rtp: RtpTime,
    pub packets: u32,
    pub octets: u32,
    blocks: &'a [[u8; ReportBlock::LEN]],
}

impl<'a> SenderReport<'a> {
    fn read(body: &'a [u8], count: u8) -> Option<Self> {
        Some(SenderReport {
            ssrc: ssrc_at(body, 0)?,
            ntp: u64_at(body, 4)?,
            rtp: RtpTime(u32_at(body, 12)?),
            packets: u32_at(body, 16)?,
            octets: u32_at(body, 20)?,
            blocks: chunks(body.get(24..)?, count as usize)?,
        })
    }

    pub fn blocks(&self) -> impl ExactSizeIterator<Item = ReportBlock> + Clone + use<'a> {
        self.blocks.iter().map(ReportBlock::read)
    }
}

/// RFC 3550 §6.4.2.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverReport<'a> {
    pub ssrc: Ssrc,
    blocks: &'a [[u8; ReportBlock::LEN]],
}

impl<'a> ReceiverReport<'a> {
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = ReportBlock> + Clone + use<'a> {
        self.blocks.iter().map(ReportBlock::read)
    }
}

/// What a receiver says of one source (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: Ssrc,
    /// In 1/256, since the report before.
    pub fraction_lost: u8,
    /// 24 bits signed: duplicates make it negative.
    pub cumulative_lost: i32,
    /// Highest sequence number received, with its roll-overs in the high half.
    pub extended_highest: u32,
    /// In clock ticks.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time; 0 if there was none.
    pub last_sr: u32,
    /// In 1/65536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    const LEN: usize = 24;

    fn read(bytes: &[u8; ReportBlock::LEN]) -> ReportBlock {
        let word = |index: usize| u32_at(bytes, 4 * index).unwrap_or_default();
        ReportBlock {
            ssrc: Ssrc(word(0)),
            fraction_lost: (word(1) >> 24) as u8,
            // The shift down copies the sign.
            cumulative_lost: (word(1) << 8) as i32 >> 8,
            extended_highest: word(2),
            jitter: word(3),
            last_sr: word(4),
            delay_since_last_sr: word(5),
        }
    }

    fn write(&self, writer: &mut Writer) -> Option<()> {
        writer.u32(self.ssrc.0)?;
        writer.u8(self.fraction_lost)?;
        // RFC 3550 §A.3: clamped to 24 bits signed.
        writer.u24(self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32)?;
        writer.u32(self.extended_highest)?;
        writer.u32(self.jitter)?;
        writer.u32(self.last_sr)?;
        writer.u32(self.delay_since_last_sr)
    }
}

/// RFC 3550 §6.5.
#[derive(Clone, Copy, Debug)]
pub struct SourceDescription<'a> {
    count: u8,
    chunks: &'a [u8],
}

impl<'a> SourceDescription<'a> {
    /// Sources and their CNAMEs. Ends where the chunks make no sense.
    pub fn cnames(&self) -> impl Iterator<Item = (Ssrc, Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.chunks;
        (0..self.count).map_while(move |_| {
            let ssrc = ssrc_at(rest, 0)?;
            let mut cname = None;
            let mut at = 4;
            // Items end with a zero byte, and the chunk at the next 32-bit boundary.
            while *rest.get(at)? != 0 {
                let start = at + 2;
                let end = start + *rest.get(at + 1)? as usize;
                let text = rest.get(start..end)?;
                if *rest.get(at)? == CNAME {
                    cname = Some(text);
                }
                at = end;
            }
            rest = rest.get((at + 1).next_multiple_of(4)..).unwrap_or_default();
            Some((ssrc, cname))
        })
    }
}

/// RFC 3550 §6.6.
#[derive(Clone, Copy, Debug)]
pub struct Bye<'a> {
    ssrcs: &'a [[u8; 4]],
}

impl<'a> Bye<'a> {
    pub fn ssrcs(&self) -> impl ExactSizeIterator<Item = Ssrc> + Clone + use<'a> {
        self.ssrcs.iter().map(|bytes| Ssrc(u32::from_be_bytes(*bytes)))
    }
}

/// Generic NACK (RFC 4585 §6.2.1).
#[derive(Clone, Copy, Debug)]
pub struct Nack<'a> {
    pub sender_ssrc: Ssrc,
    pub media_ssrc: Ssrc,
    entries: &'a [[u8; 4]],
}

impl<'a> Nack<'a> {
    /// The numbers asked for; at most 17 for every four bytes.
    pub fn sequence_numbers(&self) -> impl Iterator<Item = SequenceNumber> + Clone + use<'a> {
        self.entries.iter().flat_map(|&[p0, p1, b0, b1]| {
            // Bit i of BLP stands for PID + i + 1, so with PID itself as bit 0 there are 17.
            let mask = (u16::from_be_bytes([b0, b1]) as u32) << 1 | 1;
            let packet_id = SequenceNumber(u16::from_be_bytes([p0, p1]));
            (0..17u16).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| packet_id.add(bit))
        })
    }
}

/// Picture loss indication (RFC 4585 §6.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pli {
    pub sender_ssrc: Ssrc,
    pub media_ssrc: Ssrc,
}

/// Full intra request (RFC 5104 §4.3.1).
#[derive(Clone, Copy, Debug)]
pub struct Fir<'a> {
    pub sender_ssrc: Ssrc,
    entries: &'a [[u8; 8]],
}

impl<'a> Fir<'a> {
    /// Media source and command sequence number: a repeated number is the same request again.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (Ssrc, u8)> + Clone + use<'a> {
        self.entries.iter().map(|&[a, b, c, d, number, ..]| (Ssrc(u32::from_be_bytes([a, b, c, d])), number))
    }
}

/// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03 §2.2).
#[derive(Clone, Copy, Debug)]
pub struct Remb<'a> {
    pub sender_ssrc: Ssrc,
    /// Saturates at what 64 bits can tell.
    pub bitrate: Bitrate,
    ssrcs: &'a [[u8; 4]],
}

impl<'a> Remb<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let [count, high, ..] = array::<4>(body, 12)?;
        // Six bits of exponent, 18 of mantissa.
        let mantissa = (u24_at(body, 13)? & 0x3_ffff) as u128;
        let bitrate = u64::try_from(mantissa << (high >> 2)).unwrap_or(u64::MAX);
        let ssrcs = chunks(body.get(16..)?, count as usize)?;
        Some(Remb { sender_ssrc: ssrc_at(body, 0)?, bitrate: Bitrate(bitrate), ssrcs })
    }

    pub fn ssrcs(&self) -> impl ExactSizeIterator<Item = Ssrc> + Clone + use<'a> {
        self.ssrcs.iter().map(|bytes| Ssrc(u32::from_be_bytes(*bytes)))
    }
}

/// Transport-wide congestion control feedback; [`super::twcc`] reads `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct TransportWide<'a> {
    pub sender_ssrc: Ssrc,
    pub media_ssrc: Ssrc,
    pub bytes: &'a [u8],
}

/// RTP congestion control feedback (RFC 8888); [`super::ccfb`] reads `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct CongestionControl<'a> {
    pub sender_ssrc: Ssrc,
    pub bytes: &'a [u8],
}

/// RFC 3611. Only the blocks that measure a round trip without sender reports are read.
#[derive(Clone, Copy, Debug)]
pub struct ExtendedReport<'a> {
    pub ssrc: Ssrc,
    blocks: &'a [u8],
}

impl<'a> ExtendedReport<'a> {
    /// (block type, content); ends where a block is longer than the packet.
    fn blocks(&self) -> impl Iterator<Item = (u8, &'a [u8])> + Clone + use<'a> {
        let mut rest = self.blocks;
        std::iter::from_fn(move || {
            let block_type = *rest.first()?;
            let end = 4 * (u16_at(rest, 2)? as usize + 1);
            let block = rest.get(4..end)?;
            rest = rest.get(end..)?;
            Some((block_type, block))
        })
    }

    /// NTP time of a receiver reference time block: to be answered with a [`DelaySinceLastRr`] (RFC 3611 §4.4).
    pub fn receiver_reference_time(&self) -> Option<u64> {
        self.blocks().find(|(block_type, _)| *block_type == RECEIVER_REFERENCE_TIME).and_then(|(_, block)| u64_at(block, 0))
    }

    /// The answers to reference times sent before (RFC 3611 §4.5).
    pub fn delays_since_last_rr(&self) -> impl Iterator<Item = DelaySinceLastRr> + Clone + use<'a> {
        let blocks = self.blocks().filter(|(block_type, _)| *block_type == DELAY_SINCE_LAST_RR);
        blocks.flat_map(|(_, block)| block.as_chunks().0).map(|&[s0, s1, s2, s3, l0, l1, l2, l3, d0, d1, d2, d3]: &[u8; 12]| {
            DelaySinceLastRr {
                ssrc: Ssrc(u32::from_be_bytes([s0, s1, s2, s3])),
                last_rr: u32::from_be_bytes([l0, l1, l2, l3]),
                delay: u32::from_be_bytes([d0, d1, d2, d3]),
            }
        })
    }
}

/// One answer in a DLRR block (RFC 3611 §4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelaySinceLastRr {
    /// Who sent the reference time.
    pub ssrc: Ssrc,
    /// Middle 32 bits of that reference time.
    pub last_rr: u32,
    /// In 1/65536 s.
    pub delay: u32,
}

/// What a sender says of itself (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    pub ssrc: Ssrc,
    /// NTP timestamp, 32.32 bits fixed point.
    pub ntp: u64,
    pub rtp: RtpTime,
    pub packets: u32,
    pub octets: u32,
}

/// Starts a packet; [`finish`] fills its length in.
fn start(space: &mut [u8], packet_type: u8, format: u8) -> Option<Writer<'_>> {
    let mut writer = Writer::new(space);
    writer.bytes(&[0x80 | format & 0x1f, packet_type, 0, 0])?;
    Some(writer)
}

/// Starts a feedback packet (RFC 4585 §6.1).
fn start_feedback(space: &mut [u8], packet_type: u8, format: u8, from: Ssrc, media: Ssrc) -> Option<Writer<'_>> {
    let mut writer = start(space, packet_type, format)?;
    writer.u32(from.0)?;
    writer.u32(media.0)?;
    Some(writer)
}

/// Starts transport-wide feedback, for [`super::twcc`].
pub(super) fn start_transport_wide(space: &mut [u8], from: Ssrc, media: Ssrc) -> Option<Writer<'_>> {
    start_feedback(space, TRANSPORT_FEEDBACK, FORMAT_TRANSPORT_WIDE, from, media)
}

pub(super) fn finish(mut writer: Writer) -> Option<usize> {
    writer.align()?;
    writer.set_u16(2, (writer.len() / 4 - 1).try_into().ok()?)?;
    Some(writer.len())
}

/// The length of a list as the header's five-bit count.
fn count(len: usize) -> Option<u8> {
    (len <= COUNT_MAX).then_some(len as u8)
}

/// RFC 3550 §6.4.1; at most 31 blocks.
pub fn write_sender_report(space: &mut [u8], info: &SenderInfo, blocks: &[ReportBlock]) -> Option<usize> {
    let mut writer = start(space, SENDER_REPORT, count(blocks.len())?)?;
    writer.u32(info.ssrc.0)?;
    writer.u64(info.ntp)?;
    writer.u32(info.rtp.0)?;
    writer.u32(info.packets)?;
    writer.u32(info.octets)?;
    blocks.iter().try_for_each(|block| block.write(&mut writer))?;
    finish(writer)
}

/// RFC 3550 §6.4.2; at most 31 blocks.
pub fn write_receiver_report(space: &mut [u8], from: Ssrc, blocks: &[ReportBlock]) -> Option<usize> {
    let mut writer = start(space, RECEIVER_REPORT, count(blocks.len())?)?;
    writer.u32(from.0)?;
    blocks.iter().try_for_each(|block| block.write(&mut writer))?;
    finish(writer)
}

/// A source description with one CNAME of at most 255 bytes (RFC 3550 §6.5.1).
pub fn write_sdes_cname(space: &mut [u8], ssrc: Ssrc, cname: &str) -> Option<usize> {
    let mut writer = start(space, SOURCE_DESCRIPTION, 1)?;
    writer.u32(ssrc.0)?;
    writer.bytes(&[CNAME, cname.len().try_into().ok()?])?;
    writer.bytes(cname.as_bytes())?;
    // The item list ends with at least one zero byte.
    writer.u8(0)?;
    finish(writer)
}

/// RFC 3550 §6.6; at most 31 sources.
pub fn write_bye(space: &mut [u8], ssrcs: &[Ssrc]) -> Option<usize> {
    let mut writer = start(space, BYE, count(ssrcs.len())?)?;
    ssrcs.iter().try_for_each(|ssrc| writer.u32(ssrc.0))?;
    finish(writer)
}

/// Generic NACK (RFC 4585 §6.2.1) for ascending sequence numbers, which may wrap: up to 17 neighbours share four bytes.
/// `None` also if there are none.
pub fn write_nack(space: &mut [u8], from: Ssrc, media: Ssrc, numbers: &[SequenceNumber]) -> Option<usize> {
    let (mut packet_id, rest) = numbers.split_first()?;
    let mut writer = start_feedback(space, TRANSPORT_FEEDBACK, FORMAT_NACK, from, media)?;
    let mut following = 0u16;
    for number in rest {
        match number.0.wrapping_sub(packet_id.0) {
            0 => {}
            distance @ 1..=16 => following |= 1 << (distance - 1),
            _ => {
                writer.u16(packet_id.0)?;
                writer.u16(following)?;
                (packet_id, following) = (number, 0);
            }
        }
    }
    writer.u16(packet_id.0)?;
    writer.u16(following)?;
    finish(writer)
}

/// Picture loss indication (RFC 4585 §6.3.1).
pub fn write_pli(space: &mut [u8], from: Ssrc, media: Ssrc) -> Option<usize> {
    finish(start_feedback(space, PAYLOAD_FEEDBACK, FORMAT_PLI, from, media)?)
}

/// Full intra request (RFC 5104 §4.3.1): sources and command sequence numbers. The header's media source is unused, 0.
pub fn write_fir(space: &mut [u8], from: Ssrc, entries: &[(Ssrc, u8)]) -> Option<usize> {
    let mut writer = start_feedback(space, PAYLOAD_FEEDBACK, FORMAT_FIR, from, Ssrc(0))?;
    for (ssrc, number) in entries {
        writer.u32(ssrc.0)?;
        writer.bytes(&[*number, 0, 0, 0])?;
    }
    finish(writer)
}

/// Receiver estimated maximum bitrate, rounded down to 18 significant bits (draft-alvestrand-rmcat-remb-03 §2.2).
pub fn write_remb(space: &mut [u8], from: Ssrc, bitrate: Bitrate, ssrcs: &[Ssrc]) -> Option<usize> {
    let mut writer = start_feedback(space, PAYLOAD_FEEDBACK, FORMAT_APPLICATION, from, Ssrc(0))?;
    let exponent = 46u32.saturating_sub(bitrate.0.leading_zeros());
    writer.bytes(b"REMB")?;
    writer.u8(ssrcs.len().try_into().ok()?)?;
    writer.u24(exponent << 18 | (bitrate.0 >> exponent) as u32)?;
    ssrcs.iter().try_for_each(|ssrc| writer.u32(ssrc.0))?;
    finish(writer)
}

/// An extended report that answers reference times (RFC 3611 §4.5).
pub fn write_delays_since_last_rr(space: &mut [u8], from: Ssrc, delays: &[DelaySinceLastRr]) -> Option<usize> {
    let mut writer = start(space, EXTENDED_REPORT, 0)?;
    writer.u32(from.0)?;
    writer.bytes(&[DELAY_SINCE_LAST_RR, 0])?;
    writer.u16((3 * delays.len()).try_into().ok()?)?;
    for delay in delays {
        writer.u32(delay.ssrc.0)?;
        writer.u32(delay.last_rr)?;
        writer.u32(delay.delay)?;
    }
    finish(writer)
}

/// An extended report with a receiver reference time (RFC 3611 §4.4).
pub fn write_receiver_reference_time(space: &mut [u8], from: Ssrc, ntp: u64) -> Option<usize> {
    let mut writer = start(space, EXTENDED_REPORT, 0)?;
    writer.u32(from.0)?;
    writer.bytes(&[RECEIVER_REFERENCE_TIME, 0, 0, 2])?;
    writer.u64(ntp)?;
    finish(writer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(compound: &[u8]) -> Option<Vec<Feedback<'_>>> {
        packets(compound).ok()?.collect::<Result<_, _>>().ok()
    }

    fn block(ssrc: u32) -> ReportBlock {
        ReportBlock {
            ssrc: Ssrc(ssrc),
            fraction_lost: 250,
            cumulative_lost: -3,
            extended_highest: 0x1_fffe,
            jitter: 77,
            last_sr: 0xdead_beef,
            delay_since_last_sr: 65_536,
        }
    }

    #[test]
    fn a_compound_of_reports_reads_back() {
        let mut space = [0xff; 1200];
        let info = SenderInfo { ssrc: Ssrc(5), ntp: 0x0123_4567_89ab_cdef, rtp: RtpTime(9), packets: 10, octets: 11 };
        let blocks = [block(1), ReportBlock { cumulative_lost: i32::MAX, ..block(2) }];
        let mut len = write_sender_report(&mut space, &info, &blocks).expect("space");
        len += write_receiver_report(&mut space[len..], Ssrc(6), &blocks).expect("space");
        len += write_sdes_cname(&mut space[len..], Ssrc(5), "abcd").expect("space");
        len += write_bye(&mut space[len..], &[Ssrc(5), Ssrc(6)]).expect("space");
        let parsed = all(&space[..len]).expect("RTCP");
        let [
            Feedback::SenderReport(sent),
            Feedback::ReceiverReport(received),
            Feedback::SourceDescription(description),
            Feedback::Bye(bye),
        ] = parsed[..]
        else {
            panic!("{parsed:?}")
        };
        assert_eq!(SenderInfo { ssrc: sent.ssrc, ntp: sent.ntp, rtp: sent.rtp, packets: sent.packets, octets: sent.octets }, info);
        let clamped = [blocks[0], ReportBlock { cumulative_lost: 0x7f_ffff, ..blocks[1] }];
        assert_eq!(sent.blocks().collect::<Vec<_>>(), clamped);
        assert_eq!((received.ssrc, received.blocks().collect::<Vec<_>>()), (Ssrc(6), clamped.to_vec()));
        assert_eq!(description.cnames().collect::<Vec<_>>(), [(Ssrc(5), Some(&b"abcd"[..]))]);
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [Ssrc(5), Ssrc(6)]);
        for short in 0..len {
            if let Some(parsed) = all(&space[..short]) {
                assert!(parsed.len() < 4);
            }
        }
        assert_eq!(write_receiver_report(&mut space, Ssrc(6), &[block(1); 32]), None, "more than the count can tell");
    }

    fn nack(numbers: &[u16]) -> (usize, Vec<u16>) {
        let mut space = [0; 1200];
        let numbers: Vec<_> = numbers.iter().map(|number| SequenceNumber(*number)).collect();
        let len = write_nack(&mut space, Ssrc(1), Ssrc(2), &numbers).expect("space");
        let parsed = all(&space[..len]).expect("RTCP");
        let [Feedback::Nack(nack)] = parsed[..] else { panic!("{parsed:?}") };
        assert_eq!((nack.sender_ssrc, nack.media_ssrc), (Ssrc(1), Ssrc(2)));
        (len, nack.sequence_numbers().map(|number| number.0).collect())
    }

    #[test]
    fn nacks_fold_neighbours() {
        assert_eq!(nack(&[7]), (16, vec![7]));
        let wrapping: Vec<u16> = (0..17).map(|index| 65_530u16.wrapping_add(index)).collect();
        assert_eq!(nack(&wrapping), (16, wrapping.clone()));
        assert_eq!(nack(&[1, 18]), (20, vec![1, 18]));
        assert_eq!(nack(&[1, 1, 3]), (16, vec![1, 3]));
        assert_eq!(write_nack(&mut [0; 64], Ssrc(1), Ssrc(2), &[]), None);
        assert_eq!(write_nack(&mut [0; 15], Ssrc(1), Ssrc(2), &[SequenceNumber(1)]), None);
    }

    #[test]
    fn requests_and_extended_reports_read_back() {
        let mut space = [0; 256];
        let mut len = write_pli(&mut space, Ssrc(1), Ssrc(2)).expect("space");
        len += write_fir(&mut space[len..], Ssrc(1), &[(Ssrc(2), 255), (Ssrc(3), 0)]).expect("space");
        let delay = DelaySinceLastRr { ssrc: Ssrc(4), last_rr: 5, delay: 6 };
        len += write_delays_since_last_rr(&mut space[len..], Ssrc(1), &[delay, delay]).expect("space");
        len += write_receiver_reference_time(&mut space[len..], Ssrc(1), u64::MAX - 1).expect("space");
        let parsed = all(&space[..len]).expect("RTCP");
        let [Feedback::Pli(pli), Feedback::Fir(fir), Feedback::ExtendedReport(answer), Feedback::ExtendedReport(question)] =
            parsed[..]
        else {
            panic!("{parsed:?}")
        };
        assert_eq!(pli, Pli { sender_ssrc: Ssrc(1), media_ssrc: Ssrc(2) });
        assert_eq!(fir.entries().collect::<Vec<_>>(), [(Ssrc(2), 255), (Ssrc(3), 0)]);
        assert_eq!(answer.delays_since_last_rr().collect::<Vec<_>>(), [delay, delay]);
        assert_eq!(answer.receiver_reference_time(), None);
        assert_eq!(question.receiver_reference_time(), Some(u64::MAX - 1));
    }

    #[test]
    fn bitrate_estimates_keep_18_bits() {
        let mut space = [0; 64];
        for (bitrate, read) in [(0, 0), (262_143, 262_143), (1_000_001, 1_000_000), (u64::MAX, 0xffff_c000_0000_0000)] {
            let len = write_remb(&mut space, Ssrc(1), Bitrate(bitrate), &[Ssrc(7)]).expect("space");
            let parsed = all(&space[..len]).expect("RTCP");
            let [Feedback::Remb(remb)] = parsed[..] else { panic!("{parsed:?}") };
            assert_eq!(remb.bitrate, Bitrate(read));
            assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [Ssrc(7)]);
        }
        let len = write_remb(&mut space, Ssrc(1), Bitrate(1), &[]).expect("space");
        space[17..20].fill(0xff);
        let parsed = all(&space[..len]).expect("RTCP");
        assert!(matches!(parsed[..], [Feedback::Remb(Remb { bitrate: Bitrate(u64::MAX), .. })]));
    }

    #[test]
    fn compounds_that_make_no_sense_are_malformed() {
        let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        assert!(all(&pli).is_some(), "reduced size (RFC 5506)");
        assert!(all(&[]).is_none());
        assert!(all(&pli[..8]).is_none(), "truncated");
        assert!(all(&[&pli[..], &[0x80]].concat()).is_none(), "trailing byte");
        assert!(all(&[0x41, 206, 0, 0]).is_none(), "version 1");
        assert!(all(&[0x81, 206, 0, 1, 0, 0, 0, 1]).is_none(), "a PLI without media source");
        assert!(all(&[0x81, 200, 0, 6].into_iter().chain([0; 24]).collect::<Vec<u8>>()).is_none(), "no room for its block");
        let padded = [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4];
        assert!(matches!(all(&padded).as_deref(), Some([Feedback::Pli(_)])));
        assert!(all(&[&padded[..], &pli].concat()).is_none(), "only the last packet may be padded");
        for count in [0, 13, 20] {
            let mut padded = padded;
            padded[15] = count;
            assert!(all(&padded).is_none(), "padding of {count}");
        }
        assert!(matches!(all(&[0x8f, 204, 0, 0]).as_deref(), Some([Feedback::Other { packet_type: 204, format: 15 }])));
    }

    #[test]
    fn broken_items_end_a_source_description() {
        let cnames =
            |body: &[u8], count: u8| SourceDescription { count, chunks: body }.cnames().map(|(ssrc, _)| ssrc.0).collect::<Vec<_>>();
        assert_eq!(cnames(&[0, 0, 0, 1, 2, 1, b'x', 0, 0, 0, 0, 2, 0, 0, 0, 0], 2), [1, 2]);
        assert_eq!(cnames(&[0, 0, 0, 1, 1, 200, b'x', 0], 1), [0; 0]);
        assert_eq!(cnames(&[0, 0, 0, 1, 0, 0, 0, 0], 31), [1]);
    }

    fn exhaust(feedback: Feedback<'_>) -> usize {
        match feedback {
            Feedback::SenderReport(report) => report.blocks().count(),
            Feedback::ReceiverReport(report) => report.blocks().count(),
            Feedback::SourceDescription(description) => description.cnames().count(),
            Feedback::Bye(bye) => bye.ssrcs().count(),
            Feedback::Nack(nack) => nack.sequence_numbers().count(),
            Feedback::Fir(fir) => fir.entries().count(),
            Feedback::Remb(remb) => remb.ssrcs().count(),
            Feedback::TransportWide(feedback) => {
                super::super::twcc::Report::parse(feedback.bytes).map_or(0, |r| r.packets().count())
            }
            Feedback::CongestionControl(feedback) => {
                super::super::ccfb::Report::parse(feedback.bytes).map_or(0, |r| r.blocks().count())
            }
            Feedback::ExtendedReport(report) => {
                report.delays_since_last_rr().count() + report.receiver_reference_time().is_some() as usize
            }
            Feedback::Pli(_) | Feedback::Other { .. } => 0,
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            first in 0x80u8..0xc0,
            packet_type in 199u8..209,
            body in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut packet = vec![first, packet_type, 0, (body.len() / 4) as u8];
            packet.extend_from_slice(&body[..body.len() & !3]);
            for part in packets(&packet).into_iter().flatten().flatten() {
                exhaust(part);
            }
            for part in packets(&body).into_iter().flatten().flatten() {
                exhaust(part);
            }
        }

        #[test]
        fn any_nack_reads_back(first in any::<u16>(), gaps in prop::collection::vec(1u16..40, 0..100)) {
            let mut numbers = vec![first];
            for gap in gaps {
                numbers.push(numbers[numbers.len() - 1].wrapping_add(gap));
            }
            prop_assert_eq!(nack(&numbers).1, numbers);
        }
    }
}
