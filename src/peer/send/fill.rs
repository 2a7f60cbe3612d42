//! Packets of nothing, for a client that waits for the first packet of a track that is silent (`worker::fill`).

use std::net::SocketAddr;

use super::Sender;
use crate::mem::SendBatch;
use crate::metrics::DropReason;
use crate::peer::path::Leaving;
use crate::peer::{Keys, Peer};
use crate::rtp::config::MediaKind;
use crate::units::{ExtendedSequence, Micros, PayloadType, RtpTime, Ssrc};
use crate::wire::extension::ExtensionKind;
use crate::wire::rtp;

/// Bytes of padding in a packet of nothing else.
const FILL_PADDING: u8 = 16;
/// A frame of 20 ms of Opus that holds no sound: CELT, full band, mono (RFC 6716 §3.1).
const OPUS_SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];

impl Sender {
    /// Sends a packet of nothing: of sound a frame of silence, of pictures, and of what is encrypted from end to end, padding.
    fn fill(
        &mut self,
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        now: Micros,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let binding = self.binding.filter(|_| !self.is_shifted()).ok_or(DropReason::NotPublishing)?;
        if !batch.has_room() {
            return Err(DropReason::SendFailed);
        }
        let (sequence, timestamp) = self.rewriter.fill(now, binding.clock_rate).ok_or(DropReason::NotPublishing)?;
        let silent = self.kind == MediaKind::Audio && !binding.encrypted;
        let (payload, padding): (&[u8], u8) = if silent { (&OPUS_SILENCE, 0) } else { (&[], FILL_PADDING) };
        let stream = (binding.payload_type, self.stream.media);
        self.send_own(stream, (sequence, timestamp), payload, padding, keys, leaving, to, batch)?;
        self.stats.packets += 1;
        self.stats.octets += payload.len() as u64;
        Ok(())
    }

    /// Sends a packet that is made here, of so much payload and padding (0: none), for which the batch has room.
    #[allow(clippy::too_many_arguments)] // as `write`
    pub(super) fn send_own(
        &self,
        (payload_type, ssrc): (PayloadType, Ssrc),
        (sequence, timestamp): (ExtendedSequence, RtpTime),
        payload: &[u8],
        padding: u8,
        keys: &mut Keys,
        leaving: Option<Leaving<'_>>,
        to: SocketAddr,
        batch: &mut SendBatch,
    ) -> Result<(), DropReason> {
        let space = batch.space();
        let mid = self.extensions.id(ExtensionKind::Mid).map(|id| (id, self.mid.as_bytes()));
        let number = self.number(leaving.as_ref());
        let elements = mid.into_iter().chain(number.as_ref().map(|(id, number)| (*id, &number[..])));
        let header_len = rtp::write_header(space, false, payload_type, sequence.number(), timestamp, ssrc, elements)
            .ok_or(DropReason::Oversize)?;
        let mut len = header_len + payload.len();
        space.get_mut(header_len..len).ok_or(DropReason::Oversize)?.copy_from_slice(payload);
        if padding > 0 {
            len = rtp::pad(space, len, padding).ok_or(DropReason::Oversize)?;
        }
        let sealed = keys.outbound.protect_rtp(space, header_len, len, sequence.0).ok_or(DropReason::Oversize)?;
        batch.commit(to, sealed);
        if let Some(leaving) = leaving {
            leaving.left(number.is_some(), false, ssrc, sequence.number(), sealed);
        }
        Ok(())
    }
}

impl Peer {
    /// Sends a packet of nothing on an m-line that is silent, if nothing waits for this session: what waits may be taken back, with its
    /// numbers and all after them.
    pub fn fill(&mut self, sender: u16, now: Micros, batch: &mut SendBatch) -> Result<(), DropReason> {
        let (Some(to), Some(keys)) = (self.address, self.keys.as_deref_mut()) else { return Err(DropReason::BeforeKeys) };
        if self.path.as_deref().is_some_and(|path| path.waiting.packets > 0) {
            return Err(DropReason::PacerFull);
        }
        let sender = self.senders.get_mut(sender as usize).ok_or(DropReason::NotPublishing)?;
        let leaving = self.path.as_deref_mut().map(|path| Leaving { path, now, cluster: 0 });
        sender.fill(keys, leaving, now, to, batch)
    }
}
