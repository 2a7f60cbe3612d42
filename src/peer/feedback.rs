//! RTCP from a session: a receiver's reports and requests, a publisher's clock. Returns what the worker has to do elsewhere.

use arrayvec::ArrayVec;

use super::Peer;
use super::path::Path;
use super::send::Sender;
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
    /// It asks; else it only told that it was lost.
    pub asked: bool,
}

/// What one RTCP packet asks for.
#[derive(Debug, Default)]
pub struct Requests {
    pub retransmissions: ArrayVec<Wanted, NACKS_PER_PACKET>,
    /// Sequence numbers asked for that no longer lead anywhere.
    pub too_old: u64,
    pub nacks: u64,
    /// Messages taken about the path.
    pub path_feedback: u64,
    /// Tracks, and encodings of them, of which a key frame is wanted.
    pub key_frames: ArrayVec<(TrackId, u8), MEDIA_PER_PEER>,
    /// New clocks of the tracks, and their encodings, that this session publishes.
    pub clocks: ArrayVec<(TrackId, u8, SenderClock), MEDIA_PER_PEER>,
}

impl Requests {
    pub fn clear(&mut self) {
        self.retransmissions.clear();
        self.key_frames.clear();
        self.clocks.clear();
        (self.too_old, self.nacks, self.path_feedback) = (0, 0, 0);
    }
}

impl Peer {
    /// Takes a datagram of SRTCP in.
    pub fn feedback(&mut self, mut packet: PacketMut, now: Micros, requests: &mut Requests) -> Result<(), DropReason> {
        let Some(keys) = self.keys.as_deref_mut() else { return Err(DropReason::BeforeKeys) };
        let len = keys.inbound.unprotect_rtcp(packet.bytes_mut())?;
        self.last_heard = now;
        packet.truncate(len);
        let mut outcome = Ok(());
        for part in rtcp::packets(packet.bytes())? {
            match part? {
                Feedback::TransportWide(feedback) => {
                    outcome = outcome.and(self.told(requests, |path| path.report(feedback.bytes, now)))
                }
                Feedback::CongestionControl(feedback) => {
                    outcome = outcome.and(self.told(requests, |path| path.ccfb(feedback.bytes, now)))
                }
                Feedback::Remb(remb) => outcome = outcome.and(self.told(requests, |path| path.remb(remb.bitrate, now))),
                part => self.take_in(&part, now, requests),
            }
        }
        outcome
    }

    /// A viewer tells of its path. Where nothing was agreed, nobody listens.
    fn told(&mut self, requests: &mut Requests, tell: impl FnOnce(&mut Path) -> Result<(), DropReason>) -> Result<(), DropReason> {
        let Some(path) = self.path.as_deref_mut() else { return Ok(()) };
        tell(path)?;
        requests.path_feedback += 1;
        for number in path.take_lost() {
            // Numbers of several pictures lie far apart; if they do not, what is sent for nothing is one packet.
            let near = |sender: &Sender| sender.repeats(number).then(|| sender.origin(number)).flatten();
            let found = self.senders.iter().enumerate().find_map(|(index, sender)| Some((index, near(sender)?)));
            if let Some((index, (source, sequence))) = found {
                let _ = requests.retransmissions.try_push(Wanted { sender: index as u16, source, sequence, asked: false });
            }
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
                    let wanted = sender.origin(number).map(|(source, sequence)| Wanted {
                        sender: index as u16,
                        source,
                        sequence,
                        asked: true,
                    });
                    if wanted.is_none_or(|wanted| requests.retransmissions.try_push(wanted).is_err()) {
                        requests.too_old += 1;
                    }
                }
            }
            Feedback::ExtendedReport(report) => {
                let Some(inbound) = self.inbound.as_deref_mut() else { return };
                for answer in report.delays_since_last_rr().filter(|answer| answer.ssrc == self.rtcp_ssrc) {
                    inbound.reference_answered(&answer, now);
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
            if self.path.as_deref().is_some_and(|path| path.ran_over(now)) {
                return;
            }
            self.senders.iter_mut().for_each(|sender| sender.path_lost(block.fraction_lost));
        }
    }

    fn key_frame_asked(&mut self, ssrc: crate::units::Ssrc, requests: &mut Requests) {
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.media_ssrc() == ssrc) {
            sender.stats.key_frame_requests += 1;
            // Of the encoding it sees; of the one it is going to if it sees none.
            let flowing = sender.flowing().map(|(source, ..)| source.encoding);
            let encoding = flowing.or(sender.target().map(|target| target.encoding));
            if let (Some(binding), Some(encoding)) = (sender.binding(), encoding) {
                let _ = requests.key_frames.try_push((binding.track, encoding));
            }
        }
    }
}
