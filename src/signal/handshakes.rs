//! The DTLS handshakes of all sessions, on threads of their own: a storm of joins costs those who are already watching nothing.
//! Each thread has its part of the sessions ([`handshakes_of`](crate::worker::mail::handshakes_of)) and shares nothing with others.
//!
//! Data channels are inside DTLS, so they are here too ([`data`]): a worker never sees SCTP.
//!
//! Workers pass DTLS records in, in their arena slots; datagrams and finished keys go back as commands. The state machine is
//! sans-I/O like the worker's: [`Handshakes::turn`] takes the time and returns when it wants to be called again.

mod data;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use rtrb::Consumer;

use data::Message;

use super::api::Gauges;
use crate::limits::{HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE, STREAMS_PER_PEER};
use crate::metrics::{DropReason, WorkerMetrics};
use crate::peer::Keys;
use crate::rtp::config::DataSection;
use crate::secure::dtls::{Association, DtlsError, Fingerprint, Identity, Role};
use crate::secure::sctp::{self, Open};
use crate::secure::srtp::{self, KeyingMaterial, Profile};
use crate::units::{Micros, PeerId, WorkerId};
use crate::worker::mail::{Command, HandshakeEvent, HandshakeOffice, Outbox};

/// Time between two looks at the retransmission timers.
const TIMER_INTERVAL: Micros = Micros::from_millis(20);

/// SSRCs under which a session that only watches may send RTCP.
const VIEWER_STREAMS: usize = 4;

/// What the director asks.
pub enum Order {
    /// A session exists, and its certificate must have one of these fingerprints.
    Expect { peer: PeerId, role: Role, fingerprints: Vec<Fingerprint>, publishes: bool, data: Option<DataSection> },
    /// A later offer of the session has data channels; without effect if one had before.
    AgreeData { peer: PeerId, data: DataSection },
    /// To open on the session's side that is ours, as soon as there is an association. The client may open more.
    OpenChannels { peer: PeerId, channels: Vec<Open> },
    /// A message for each of these sessions, on its channel with this label. Sessions of other threads are passed over, so that all threads
    /// can be given the same list. What does not go is counted: [`sctp::Association::send`]. `keep`: some of it until the channel is open.
    SendData { peers: Arc<[PeerId]>, label: Arc<str>, binary: bool, payload: Arc<[u8]>, keep: bool },
    /// The session ended.
    Forget { peer: PeerId },
    /// The server stops: say goodbye to everybody.
    CloseAll,
}

/// What the director is told.
#[derive(Debug)]
pub enum Notice {
    Connected {
        peer: PeerId,
        profile: Profile,
    },
    Failed {
        peer: PeerId,
        reason: String,
    },
    /// The client closed the association.
    Closed {
        peer: PeerId,
    },
    /// A data channel is open, whoever opened it.
    DataOpen {
        peer: PeerId,
        channel: Open,
    },
    /// `payload` is UTF-8 if it is not `binary`.
    Data {
        peer: PeerId,
        label: Arc<str>,
        binary: bool,
        payload: Arc<[u8]>,
    },
    /// The client closed a data channel.
    DataChannelClosed {
        peer: PeerId,
        label: Arc<str>,
    },
    /// All data channels of the session are closed for good; its media go on.
    DataClosed {
        peer: PeerId,
        reason: String,
    },
}

struct Session {
    peer: PeerId,
    role: Role,
    /// Empty once they have been handed to the association.
    fingerprints: Vec<Fingerprint>,
    publishes: bool,
    /// Known from the claim on.
    worker: Option<(WorkerId, SocketAddr)>,
    association: Option<Association>,
    /// Agreed on.
    data: Option<DataSection>,
    /// To be opened with the association.
    to_open: Vec<Open>,
    /// Messages for channels that are not open yet, and what they are counted for.
    early: Vec<Message>,
    early_bytes: usize,
    /// From the end of the handshake on, if data channels were agreed on.
    sctp: Option<Box<sctp::Association>>,
    /// When its timer is due, as in [`Handshakes::due`].
    due: Option<Micros>,
}

/// The sessions of one thread, by slot.
pub struct Handshakes {
    identity: Identity,
    sessions: HashMap<u32, Session>,
    /// Slots whose handshake is not finished, for the timers.
    in_flight: Vec<u32>,
    /// When which slot's SCTP wants to be called.
    due: BTreeSet<(Micros, u32)>,
    per_source: HashMap<IpAddr, usize>,
    orders: Receiver<Order>,
    notices: Sender<Notice>,
    commands: Vec<Office>,
    events: Vec<Consumer<HandshakeEvent>>,
    metrics: Arc<WorkerMetrics>,
    gauges: Arc<Gauges>,
    /// What of the gauge is this thread's.
    gauged: u64,
    next_timer: Micros,
}

impl Session {
    fn new(peer: PeerId, role: Role, fingerprints: Vec<Fingerprint>, publishes: bool, data: Option<DataSection>) -> Self {
        let (worker, association, to_open, early, sctp, due) = (None, None, Vec::new(), Vec::new(), None, None);
        Session { peer, role, fingerprints, publishes, worker, association, data, to_open, early, early_bytes: 0, sctp, due }
    }
}

/// A ring to a worker with a place for what does not fit at once.
pub struct Office {
    outbox: Outbox<Command>,
    waiting: std::collections::VecDeque<Command>,
}

impl Office {
    pub fn new(outbox: Outbox<Command>) -> Self {
        Office { outbox, waiting: Default::default() }
    }

    pub fn send(&mut self, command: Command) {
        self.waiting.push_back(command);
    }

    /// Moves what fits into the ring, and wakes the worker. True if nothing had to stay.
    pub fn flush(&mut self) -> bool {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(command) = self.outbox.push(command) {
                self.waiting.push_front(command);
                break;
            }
        }
        self.outbox.flush();
        self.waiting.is_empty()
    }
}

/// The rings of [`Handshakes`].
pub struct Links {
    pub orders: Receiver<Order>,
    pub notices: Sender<Notice>,
    pub office: HandshakeOffice,
}

impl Handshakes {
    /// `metrics` is this thread's own table.
    pub fn new(identity: Identity, links: Links, metrics: Arc<WorkerMetrics>, gauges: Arc<Gauges>) -> Self {
        Handshakes {
            identity,
            sessions: HashMap::new(),
            in_flight: Vec::new(),
            due: BTreeSet::new(),
            per_source: HashMap::new(),
            orders: links.orders,
            notices: links.notices,
            commands: links.office.commands.into_iter().map(Office::new).collect(),
            events: links.office.events,
            metrics,
            gauges,
            gauged: 0,
            next_timer: Micros::ZERO,
        }
    }

    /// Works off what has come. Returns when to call again at the latest.
    pub fn turn(&mut self, now: Micros) -> Micros {
        self.read_orders(now);
        for worker in 0..self.events.len() {
            while let Ok(event) = self.events[worker].pop() {
                self.event(event, now);
            }
        }
        if now >= self.next_timer {
            self.next_timer = now + TIMER_INTERVAL;
            self.timers(now);
        }
        self.data_timers(now);
        let in_flight = self.in_flight.len() as u64;
        let before = std::mem::replace(&mut self.gauged, in_flight);
        if in_flight != before {
            // One sum of all threads; going down wraps around, and adds up.
            self.gauges.handshakes.fetch_add(in_flight.wrapping_sub(before), Ordering::Relaxed);
        }
        let mut idle = self.in_flight.is_empty();
        for office in &mut self.commands {
            idle &= office.flush();
        }
        let next = if idle { now + Micros::from_secs(1) } else { self.next_timer };
        self.due.first().map_or(next, |(due, _)| next.min(*due))
    }

    fn read_orders(&mut self, now: Micros) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Expect { peer, role, fingerprints, publishes, data } => {
                    let session = Session::new(peer, role, fingerprints, publishes, data);
                    if let Some(before) = self.sessions.insert(peer.slot, session) {
                        before.due.map(|due| self.due.remove(&(due, peer.slot)));
                    }
                }
                Order::AgreeData { peer, data } => self.agree_data(peer, data, now),
                Order::OpenChannels { peer, channels } => self.open_channels(peer, channels, now),
                Order::SendData { peers, label, binary, payload, keep } => {
                    self.send_data(&peers, Message { label, binary, payload }, keep, now);
                }
                Order::Forget { peer } => {
                    if self.sessions.get(&peer.slot).is_some_and(|session| session.peer == peer) {
                        self.settle(peer.slot);
                        let session = self.sessions.remove(&peer.slot);
                        session.and_then(|session| session.due).map(|due| self.due.remove(&(due, peer.slot)));
                    }
                }
                Order::CloseAll => {
                    for slot in self.sessions.keys().copied().collect::<Vec<_>>() {
                        if let Some(association) = self.association(slot) {
                            association.close();
                        }
                        self.collect(slot, Ok(()), now);
                    }
                }
            }
        }
    }

    fn event(&mut self, event: HandshakeEvent, now: Micros) {
        let peer = match &event {
            HandshakeEvent::Claimed { peer, .. } | HandshakeEvent::Datagram { peer, .. } => *peer,
        };
        if self.sessions.get(&peer.slot).is_none_or(|session| session.peer != peer) {
            // The order may still be in the channel: it was sent before the worker could know of the session.
            self.read_orders(now);
        }
        let Some(session) = self.sessions.get_mut(&peer.slot).filter(|session| session.peer == peer) else {
            return;
        };
        match event {
            HandshakeEvent::Claimed { worker, address, .. } => {
                session.worker = Some((worker, address));
                if session.role == Role::Client && session.association.is_none() {
                    self.begin(peer.slot, now);
                }
            }
            HandshakeEvent::Datagram { packet, .. } => {
                if session.association.is_none() && !self.begin(peer.slot, now) {
                    return;
                }
                let Some(association) = self.association(peer.slot) else { return };
                let outcome = association.handle(packet.bytes(), now);
                self.collect(peer.slot, outcome, now);
            }
        }
    }

    /// Starts a handshake, unless there are too many. Only a session with a checked address gets here, so the cost of a
    /// handshake cannot be caused from a spoofed source.
    fn begin(&mut self, slot: u32, now: Micros) -> bool {
        let Some(session) = self.sessions.get_mut(&slot) else { return false };
        let Some((_, address)) = session.worker else { return false };
        let from_source = self.per_source.entry(address.ip().to_canonical()).or_default();
        if self.in_flight.len() >= HANDSHAKES_MAX || *from_source >= HANDSHAKES_PER_SOURCE {
            self.metrics.count_drop(DropReason::DtlsLimit);
            return false;
        }
        match Association::new(&self.identity, session.role, std::mem::take(&mut session.fingerprints), now) {
            Ok(association) => {
                *from_source += 1;
                session.association = Some(association);
                self.in_flight.push(slot);
                self.collect(slot, Ok(()), now);
                true
            }
            Err(error) => {
                let _ = self.notices.send(Notice::Failed { peer: session.peer, reason: error.to_string() });
                false
            }
        }
    }

    /// Passes on what a handshake has to say after it was given something.
    fn collect(&mut self, slot: u32, outcome: Result<(), DtlsError>, now: Micros) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let (peer, role, Some((worker, _))) = (session.peer, session.role, session.worker) else { return };
        let Some(association) = session.association.as_mut() else { return };
        let Some(office) = self.commands.get_mut(worker.0 as usize) else { return };
        while let Some(datagram) = association.poll_transmit() {
            office.send(Command::Datagram { peer, bytes: datagram.into() });
        }
        if let Err(error) = outcome {
            self.metrics.count_drop(DropReason::DtlsFailed);
            let _ = self.notices.send(Notice::Failed { peer, reason: error.to_string() });
            self.settle(slot);
            return;
        }
        let closed = association.closed_by_peer();
        if let Some(keys) = association.keys() {
            let profile = keys.profile;
            match make_keys(profile, &keys.exporter, role, session.publishes) {
                Some(keys) => {
                    office.send(Command::Keys { peer, keys: Box::new(keys) });
                    let _ = self.notices.send(Notice::Connected { peer, profile });
                }
                None => {
                    let _ = self.notices.send(Notice::Failed { peer, reason: "exported keys have the wrong length".to_owned() });
                }
            }
            self.settle(slot);
        }
        self.receive_data(slot, now);
        if closed {
            let _ = self.notices.send(Notice::Closed { peer });
            self.settle(slot);
        }
    }

    /// A handshake is over, well or not.
    fn settle(&mut self, slot: u32) {
        let before = self.in_flight.len();
        self.in_flight.retain(|other| *other != slot);
        if before == self.in_flight.len() {
            return;
        }
        let source = self.sessions.get(&slot).and_then(|session| session.worker).map(|(_, address)| address.ip().to_canonical());
        if let Some(source) = source
            && let Some(count) = self.per_source.get_mut(&source)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
    }

    fn association(&mut self, slot: u32) -> Option<&mut Association> {
        self.sessions.get_mut(&slot)?.association.as_mut()
    }

    fn timers(&mut self, now: Micros) {
        for slot in self.in_flight.clone() {
            let due = |association: &&mut Association| association.poll_timeout().is_some_and(|at| at <= now);
            let Some(association) = self.association(slot).filter(due) else { continue };
            let outcome = association.handle_timeout(now);
            self.collect(slot, outcome, now);
        }
    }
}

/// Keys of both directions from the exporter's bytes (RFC 5764 §4.2): ours to send with, the peer's to receive with.
fn make_keys(profile: Profile, exporter: &[u8], role: Role, publishes: bool) -> Option<Keys> {
    let (local, remote) = KeyingMaterial::from_exporter(profile, exporter).ok()?.split(role == Role::Server);
    // Only a publisher's packets need a table of SSRCs, and a viewer may answer with a few of its own.
    let streams = if publishes { STREAMS_PER_PEER } else { VIEWER_STREAMS };
    Some(Keys { inbound: srtp::Receiver::new(&remote, streams), outbound: srtp::Sender::new(&local) })
}
