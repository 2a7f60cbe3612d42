//! The data channels of the sessions: an SCTP association in each whose SDP has them, between its DTLS and the director.

use std::sync::Arc;

use super::{Handshakes, Notice, Session};
use crate::limits::{CHANNELS_PER_PEER, DATA_EARLY_BYTES, DATA_MESSAGE_COST};
use crate::metrics::{DropReason, WorkerMetrics};
use crate::rtp::config::DataSection;
use crate::secure::dtls::Association;
use crate::secure::sctp::{self, Event, Open, Settings};
use crate::units::{Micros, PeerId};
use crate::worker::mail::Command;

/// A message for a data channel.
#[derive(Clone)]
pub(super) struct Message {
    pub label: Arc<str>,
    pub binary: bool,
    pub payload: Arc<[u8]>,
}

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

    /// `keep`: for who has not opened the channel yet.
    pub(super) fn send_data(&mut self, peers: &[PeerId], message: Message, keep: bool, now: Micros) {
        let metrics = self.metrics.clone();
        for &peer in peers {
            let Some(session) = self.session_of(peer) else { continue };
            let goes = session.send(&message, now) || (keep && session.keep(&message));
            if !goes {
                metrics.count_drop(DropReason::DataUnknownChannel);
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
        let peer = session.peer;
        while let Some(event) = session.sctp.as_mut().filter(|_| session.worker.is_some()).and_then(|sctp| sctp.poll_event()) {
            if matches!(event, Event::Opened { .. }) {
                session.send_early(now);
            }
            // The director ends with the server; then nobody wants to know.
            let _ = self.notices.send(match event {
                Event::Opened { channel, .. } => Notice::DataOpen { peer, channel },
                Event::Message { label, binary, payload, .. } => Notice::Data { peer, label, binary, payload },
                Event::ChannelClosed { label, .. } => Notice::DataChannelClosed { peer, label },
                Event::Closed { reason } => Notice::DataClosed { peer, reason },
            });
        }
        let (Some(sctp), Some(association), Some((worker, _))) = (&mut session.sctp, &mut session.association, session.worker)
        else {
            return;
        };
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
        self.send_early(now);
    }

    /// Gives a message to its channel; false if that is not open.
    fn send(&mut self, message: &Message, now: Micros) -> bool {
        let Some(sctp) = &mut self.sctp else { return false };
        let Some(id) = sctp.channel(&message.label) else { return false };
        // What does not go has been counted.
        let _ = sctp.send(id, message.binary, &message.payload, now);
        true
    }

    /// Keeps a message until its channel is open; false if there is no room.
    fn keep(&mut self, message: &Message) -> bool {
        let bytes = self.early_bytes + message.payload.len() + DATA_MESSAGE_COST;
        let ended = self.sctp.as_deref().is_some_and(sctp::Association::is_closed);
        if self.data.is_none() || ended || bytes > DATA_EARLY_BYTES {
            return false;
        }
        self.early_bytes = bytes;
        self.early.push(message.clone());
        true
    }

    /// Sends what was kept for channels that are open now.
    fn send_early(&mut self, now: Micros) {
        let early = std::mem::take(&mut self.early);
        self.early_bytes = 0;
        for message in early {
            if !self.send(&message, now) {
                self.keep(&message);
            }
        }
    }
}
