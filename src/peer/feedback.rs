//! RTCP from a session: a receiver's reports and requests, a publisher's clock. Returns what the worker has to do elsewhere.

use arrayvec::ArrayVec;

use super::Peer;
use crate::limits::{MEDIA_PER_PEER, NACKS_PER_PACKET};
use crate::mem::PacketMut;
use crate::metrics::DropReason;
use crate::rtp::report::SenderClock;
use crate::rtp::rewrite::Source;
use crate::units::{ExtendedSequence, Micros, TrackId};
use crate::wire::rtcp::{self, Feedback};

/// A packet that a receiver asks to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub sender: u16,
    pub source: Source,
    pub sequence: ExtendedSequence,
}

/// What one RTCP packet asks for.
#[derive(Debug, Default)]
pub struct Requests {
    pub retransmissions: ArrayVec<Wanted, NACKS_PER_PACKET>,
    /// Sequence numbers asked for that no longer lead anywhere.
    pub too_old: u64,
    pub nacks: u64,
    /// Tracks of which a key frame is wanted.
    pub key_frames: ArrayVec<TrackId, MEDIA_PER_PEER>,
    /// New clocks of tracks this session publishes.
    pub clocks: ArrayVec<(TrackId, SenderClock), MEDIA_PER_PEER>,
}

impl Requests {
    pub fn clear(&mut self) {
        self.retransmissions.clear();
        self.key_frames.clear();
        self.clocks.clear();
        (self.too_old, self.nacks) = (0, 0);
    }
}

impl Peer {
    /// Takes a datagram of SRTCP in.
    pub fn feedback(&mut self, mut packet: PacketMut, now: Micros, requests: &mut Requests) -> Result<(), DropReason> {
        let Some(keys) = self.keys.as_deref_mut() else { return Err(DropReason::BeforeKeys) };
        let len = keys.inbound.unprotect_rtcp(packet.bytes_mut())?;
        self.last_heard = now;
        packet.truncate(len);
        for part in rtcp::packets(packet.bytes())? {
            self.take_in(&part?, now, requests);
        }
        Ok(())
    }

    fn take_in(&mut self, part: &Feedback<'_>, now: Micros, requests: &mut Requests) {
        match part {
            Feedback::SenderReport(report) => {
                for block in report.blocks() {
                    self.reported(&block, now);
                }
                let clock =
                    self.inbound.as_deref_mut().and_then(|inbound| inbound.sender_report(report.ssrc, report.ntp, report.rtp, now));
                if let Some(clock) = clock {
                    let _ = requests.clocks.try_push(clock);
                }
            }
            Feedback::ReceiverReport(report) => {
                for block in report.blocks() {
                    self.reported(&block, now);
                }
            }
            Feedback::Nack(nack) => {
                let Some(index) = self.senders.iter().position(|sender| sender.media_ssrc() == nack.media_ssrc) else { return };
                let sender = &mut self.senders[index];
                for number in nack.sequence_numbers() {
                    sender.stats.nacks += 1;
                    requests.nacks += 1;
                    let wanted = sender.origin(number).map(|(source, sequence)| Wanted { sender: index as u16, source, sequence });
                    if wanted.is_none_or(|wanted| requests.retransmissions.try_push(wanted).is_err()) {
                        requests.too_old += 1;
                    }
                }
            }
            Feedback::Pli(pli) => self.key_frame_asked(pli.media_ssrc, requests),
            Feedback::Fir(fir) => {
                for (ssrc, _) in fir.entries() {
                    self.key_frame_asked(ssrc, requests);
                }
            }
            _ => {}
        }
    }

    fn reported(&mut self, block: &rtcp::ReportBlock, now: Micros) {
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.media_ssrc() == block.ssrc) {
            sender.reported(block, now);
        }
    }

    fn key_frame_asked(&mut self, ssrc: crate::units::Ssrc, requests: &mut Requests) {
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.media_ssrc() == ssrc) {
            sender.stats.key_frame_requests += 1;
            if let Some(binding) = sender.binding() {
                let _ = requests.key_frames.try_push(binding.track);
            }
        }
    }
}
