//! The data channels of the sessions: an SCTP association in each whose SDP has them, between its DTLS and the director.

use std::sync::Arc;

use super::{Handshakes, Notice, Session};
use crate::limits::CHANNELS_PER_PEER;
use crate::metrics::{DropReason, WorkerMetrics};
use crate::rtp::config::DataSection;
use crate::secure::dtls::Association;
use crate::secure::sctp::{self, Event, Open, Settings};
use crate::units::{Micros, PeerId};
use crate::worker::mail::Command;

impl Handshakes {
    pub(super) fn agree_data(&mut self, peer: PeerId, data: DataSection, now: Micros) {
        let Some(session) = self.session_of(peer) else { return };
        session.data.get_or_insert(data);
        self.receive_data(peer.slot, now);
    }

    pub(super) fn open_channels(&mut self, peer: PeerId, channels: Vec<Open>, now: Micros) {
        let Some(session) = self.session_of(peer) else { return };
        match &mut session.sctp {
            // Refused only beyond the limit of channels, which the client may have used up.
            Some(sctp) => {
                for channel in channels {
                    let _ = sctp.open(channel, now);
                }
            }
            None => session.to_open.extend(channels.into_iter().take(CHANNELS_PER_PEER)),
        }
        self.pass_on(peer.slot, now);
    }

    pub(super) fn send_data(&mut self, peers: &[PeerId], label: &str, binary: bool, payload: &Arc<[u8]>, now: Micros) {
        for &peer in peers {
            let Some(session) = self.session_of(peer) else { continue };
            let sctp = session.sctp.as_mut();
            match sctp.and_then(|sctp| Some((sctp.channel(label)?, sctp))) {
                // What does not go has been counted.
                Some((id, sctp)) => {
                    let _ = sctp.send(id, binary, payload, now);
                }
                None => self.metrics.count_drop(DropReason::DataUnknownChannel),
            }
            self.pass_on(peer.slot, now);
        }
    }

    /// After the session's DTLS was given something: what there is for SCTP.
    pub(super) fn receive_data(&mut self, slot: u32, now: Micros) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        session.begin_data(&self.metrics, now);
        let Some(association) = &mut session.association else { return };
        // Without data channels, application data is read and let go.
        while let Some(packet) = association.poll_application_data() {
            if let Some(sctp) = &mut session.sctp {
                sctp.receive(packet, now);
            }
        }
        self.pass_on(slot, now);
    }

    pub(super) fn data_timers(&mut self, now: Micros) {
        while let Some(&(due, slot)) = self.due.first().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, slot));
            let Some(session) = self.sessions.get_mut(&slot) else { continue };
            session.due = None;
            if let Some(sctp) = &mut session.sctp {
                sctp.handle_timeout(now);
            }
            self.pass_on(slot, now);
        }
    }

    /// What SCTP has to say: to the client by DTLS, to the director, and when it wants to be called again.
    fn pass_on(&mut self, slot: u32, now: Micros) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let (Some(sctp), Some(association), Some((worker, _))) = (&mut session.sctp, &mut session.association, session.worker)
        else {
            return;
        };
        let peer = session.peer;
        while let Some(event) = sctp.poll_event() {
            // The director ends with the server; then nobody wants to know.
            let _ = self.notices.send(match event {
                Event::Opened { channel, .. } => Notice::DataOpen { peer, channel },
                Event::Message { label, binary, payload, .. } => Notice::Data { peer, label, binary, payload },
                Event::ChannelClosed { label, .. } => Notice::DataChannelClosed { peer, label },
                Event::Closed { reason } => Notice::DataClosed { peer, reason },
            });
        }
        if let Some(office) = self.commands.get_mut(worker.0 as usize) {
            while let Some(packet) = sctp.poll_transmit() {
                // It fits, and if the client has just closed DTLS nothing is owed.
                let _ = association.send_application_data(&packet);
                while let Some(datagram) = association.poll_transmit() {
                    office.send(Command::Datagram { peer, bytes: datagram.into() });
                }
            }
        }
        // A timer that is overdue waits for the next turn, not for nothing.
        let due = sctp.poll_timeout().map(|due| due.max(now + Micros(1)));
        if due != session.due {
            session.due.map(|before| self.due.remove(&(before, slot)));
            session.due = due;
            due.map(|due| self.due.insert((due, slot)));
        }
    }

    fn session_of(&mut self, peer: PeerId) -> Option<&mut Session> {
        self.sessions.get_mut(&peer.slot).filter(|session| session.peer == peer)
    }
}

impl Session {
    /// Makes the association once DTLS is connected, if data channels were agreed on.
    fn begin_data(&mut self, metrics: &Arc<WorkerMetrics>, now: Micros) {
        let connected = self.association.as_ref().is_some_and(Association::is_connected);
        let (true, None, Some(data)) = (connected, &self.sctp, self.data) else { return };
        let settings = Settings { port: data.sctp_port, max_message_size: data.max_message_size };
        let mut sctp = sctp::Association::new(self.role, settings, metrics.clone(), now);
        for channel in std::mem::take(&mut self.to_open) {
            // There are no more of them than it takes.
            let _ = sctp.open(channel, now);
        }
        self.sctp = Some(Box::new(sctp));
    }
}
