//! Forward error correction from publishers (ULPFEC in RED, RFC 5109): what one lost is computed from the FEC packets that follow it and
//! the packets around it, so that it is there without having been asked for.
//!
//! ```text
//!   media ────► held: the last packets as they were sent ─┐
//!   FEC   ────► waiting: what may still be of use ────────┴─► one of its packets is missing: computed in the FEC packet's own slot
//! ```
//!
//! Chromium sends FEC packets once it is told of losses on a way of more than 20 ms, among the packets of media and under their SSRC, with
//! numbers of theirs. Packets are kept only while FEC packets come, so that who sends none holds nothing.
//!
//! - A packet counts as it was sent: with zeros for the header extensions that are written last (libwebrtc's `ZeroMutableExtensions`). What
//!   came as a retransmission may have other extensions than the first sending had; nothing is computed from it.
//! - FEC packets that are lost themselves look like lost media. Nobody repeats them, so they would be asked for in vain, and then a key
//!   frame. But frames have picture ids where FEC is agreed on (VP8, VP9): between the end of one and the beginning of the next nothing can
//!   be missing that matters ([`Window::explains`]).

use arrayvec::ArrayVec;

use crate::limits::{FEC_WAITING, FEC_WINDOW};
use crate::mem::{Packet, PacketMut};
use crate::metrics::DropReason;
use crate::rtp::media::Media;
use crate::units::{ExtendedSequence, Micros, PayloadType, RtpTime, Ssrc};
use crate::wire::extension::{ExtensionKind, ExtensionMap};
use crate::wire::rtp;
use crate::wire::ulpfec::{self, Protected, Recovery};

/// For so long after a FEC packet the stream's packets are kept.
const HOLD: Micros = Micros::from_secs(10);
/// Packets on either side of a hole among which its neighbours are looked for.
const NEIGHBOURS: u64 = 24;
/// Bytes of a header; a packet with a longer one is not used.
const HEADER_BYTES_MAX: usize = 256;
/// What senders write after they have computed FEC.
const MUTABLE: [ExtensionKind; 3] =
    [ExtensionKind::TransportSequence, ExtensionKind::AbsSendTime, ExtensionKind::TransmissionOffset];

struct Held {
    sequence: ExtendedSequence,
    /// None: a FEC packet.
    media: Option<HeldMedia>,
}

struct HeldMedia {
    packet: Packet,
    /// Where its payload begins, outside of RED.
    payload: u16,
    payload_type: PayloadType,
    /// As it was sent first.
    original: bool,
    starts: bool,
    ends: bool,
    /// Picture id, and the bits that it has.
    picture: Option<(u16, u16)>,
}

struct Waiting {
    packet: PacketMut,
    /// Where its payload lies, outside of RED.
    payload: usize,
    base: ExtendedSequence,
    protected: Protected,
}

impl Waiting {
    /// The numbers that it protects.
    fn sequences(&self) -> impl Iterator<Item = ExtendedSequence> + use<> {
        let (base, mask) = (self.base.0, self.protected.mask);
        (0..ulpfec::MASK_BITS).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| ExtendedSequence(base + bit))
    }
}

/// What is kept of one received stream.
pub struct Window {
    held: [Option<Held>; FEC_WINDOW],
    waiting: ArrayVec<Waiting, FEC_WAITING>,
    /// When the last FEC packet came.
    flowed: Option<Micros>,
}

impl Default for Window {
    fn default() -> Self {
        Window { held: [const { None }; FEC_WINDOW], waiting: ArrayVec::new(), flowed: None }
    }
}

impl Window {
    /// Whether FEC packets come.
    pub fn is_on(&self) -> bool {
        self.flowed.is_some()
    }

    /// FEC packets come.
    pub fn begin(&mut self, now: Micros) {
        self.flowed = Some(now);
    }

    /// Keeps a packet of media, of this payload type outside of RED; `original`: it is as it was sent first.
    pub fn hold(&mut self, media: &Media, payload_type: PayloadType, original: bool) {
        let Some(flowed) = self.flowed else { return };
        if media.arrival.since(flowed) > HOLD.0 {
            *self = Window::default();
            return;
        }
        let held = HeldMedia {
            packet: media.packet.clone(),
            payload: media.header_len,
            payload_type,
            original,
            starts: media.layer.start_of_frame && media.layer.spatial == 0,
            ends: media.marker,
            picture: media.picture.picture_id.map(|(_, is_wide, id)| (id, if is_wide { 0x7fff } else { 0x7f })),
        };
        self.insert(Held { sequence: media.sequence, media: Some(held) });
    }

    /// Takes a FEC packet in, whose payload outside of RED begins at `payload`. False if it makes no sense.
    pub fn take(&mut self, packet: PacketMut, payload: usize, sequence: ExtendedSequence, now: Micros) -> bool {
        self.flowed = Some(now);
        self.insert(Held { sequence, media: None });
        let Some(protected) = packet.bytes().get(payload..).and_then(ulpfec::parse) else { return false };
        if self.waiting.is_full() {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { packet, payload, base: sequence.nearest(protected.base), protected });
        true
    }

    /// A number that was found to matter nothing.
    pub fn pass_over(&mut self, sequence: ExtendedSequence) {
        self.insert(Held { sequence, media: None });
    }

    fn insert(&mut self, held: Held) {
        if let Some(place) = self.held.get_mut(held.sequence.0 as usize % FEC_WINDOW) {
            *place = Some(held);
        }
    }

    fn find(&self, sequence: ExtendedSequence) -> Option<&Held> {
        self.held.get(sequence.0 as usize % FEC_WINDOW)?.as_ref().filter(|held| held.sequence == sequence)
    }

    fn media(&self, sequence: ExtendedSequence) -> Option<&HeldMedia> {
        self.find(sequence)?.media.as_ref()
    }

    /// A handle of any packet, for those that have no bytes.
    pub fn any(&self) -> Option<Packet> {
        self.held.iter().flatten().find_map(|held| Some(held.media.as_ref()?.packet.clone()))
    }

    /// The packet before a number, and its time.
    pub fn before(&self, sequence: ExtendedSequence) -> Option<(Packet, RtpTime)> {
        let before = (1..=NEIGHBOURS).find_map(|back| self.media(ExtendedSequence(sequence.0.checked_sub(back)?)))?;
        Some((before.packet.clone(), rtp::Header::parse(before.packet.bytes()).ok()?.timestamp))
    }

    /// Computes a lost packet, if one can be; none or an error when nothing is left to be done. `newest`: of the stream.
    pub fn recover(
        &mut self,
        ssrc: Ssrc,
        extensions: &ExtensionMap,
        newest: ExtendedSequence,
    ) -> Option<Result<PacketMut, DropReason>> {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let missing = || waiting.sequences().filter(|sequence| self.media(*sequence).is_none());
            let (count, lost) = (missing().count(), missing().next());
            // It is of no use any more: nothing is missing, or what is has left the window.
            let is_over = count == 0 || waiting.base.0 + FEC_WINDOW as u64 <= newest.0;
            let usable = || waiting.sequences().all(|sequence| self.media(sequence).is_none_or(|held| held.original));
            match lost {
                Some(lost) if count == 1 && !is_over && usable() => {
                    let waiting = self.waiting.remove(index);
                    return Some(self.compute(waiting, lost, ssrc, extensions).ok_or(DropReason::FecMalformed));
                }
                _ if is_over => drop(self.waiting.remove(index)),
                _ => index += 1,
            }
        }
        None
    }

    fn compute(&self, mut waiting: Waiting, lost: ExtendedSequence, ssrc: Ssrc, extensions: &ExtensionMap) -> Option<PacketMut> {
        let sequences = waiting.sequences();
        let mut recovery = Recovery::new(waiting.packet.bytes_mut(), waiting.payload, &waiting.protected)?;
        for held in sequences.filter_map(|sequence| self.media(sequence)) {
            let (bytes, mut space) = (held.packet.bytes(), [0; HEADER_BYTES_MAX]);
            let parsed = rtp::Header::parse(bytes).ok()?;
            let header = space.get_mut(..parsed.header_len)?;
            header.copy_from_slice(bytes.get(..parsed.header_len)?);
            let mutable = MUTABLE.map(|kind| extensions.id(kind));
            for (_, range) in parsed.extension_ranges().filter(|(id, _)| mutable.contains(&Some(*id))) {
                header.get_mut(range)?.fill(0);
            }
            // With padding, and without what RED puts before it.
            let payload = bytes.get(held.payload as usize..)?;
            recovery.take_out(header, payload, held.payload_type)?;
        }
        let range = recovery.finish(lost.number(), ssrc)?;
        waiting.packet.truncate(range.end);
        waiting.packet.advance(range.start);
        Some(waiting.packet)
    }

    /// Whether nothing that matters can be missing at a number: it lies between the end of one picture and the beginning of the next.
    pub fn explains(&self, sequence: ExtendedSequence) -> bool {
        let before = (1..=NEIGHBOURS).find_map(|back| self.media(ExtendedSequence(sequence.0.checked_sub(back)?)));
        let after = (1..=NEIGHBOURS).find_map(|ahead| self.media(ExtendedSequence(sequence.0 + ahead)));
        let (Some(before), Some(after)) = (before, after) else { return false };
        let (Some((id, bits)), Some((next, _))) = (before.picture, after.picture) else { return false };
        before.ends && after.starts && next == id.wrapping_add(1) & bits
    }
}
