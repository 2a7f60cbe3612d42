//! The tap: every plaintext RTP packet of chosen publishers, for a thread that is no participant (a recorder, a gateway, processing).
//!
//! ```text
//!   director ──Notice──► reader      which tracks are tapped, of whom; their end
//!   worker ──Tapped──► reader        handles of packets, sender reports; one bounded ring from each worker
//!   reader ──Command::KeyFrame──► worker
//! ```
//!
//! What the worker pays is a reference count and a place in a ring, for tapped tracks alone. It never waits: where the ring is full the
//! packet is counted ([`crate::metrics::DropReason::TapFull`]) and the reader sees a gap in the sequence numbers. A handle keeps its slot of
//! the worker's arena until it is dropped, so a reader copies what it wants to keep and drops the handle; until it is read, the ring
//! bounds how many there are ([`crate::limits::TAP`]).
//!
//! The way back is [`Office::inject`]: packets of a publisher that is a program and no client, to be forwarded like any other's.
//! `bench/examples/tap.rs` is a program that does both.
//!
//! Packets come as they were received: late ones late, retransmitted ones with their own number (RTX and RED are unwrapped), all
//! encodings of a simulcast track, each with sequence numbers of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender};

use arrayvec::ArrayVec;
use rtrb::Consumer;

use super::mail::{Command, Mail, Outbox, Ufrag, Wake, ring};
use crate::config::{RecordWish, RoomPattern};
use crate::io::Waker;
use crate::limits::{COMMANDS, QUALITIES_MAX, TAP};
use crate::rtp::config::{CodecConfig, Rid};
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::units::{PeerId, TrackId, WorkerId};

/// What a worker tells of a tapped track.
#[allow(clippy::large_enum_variant)] // a worker does not allocate boxes, and the ring holds what it holds
pub enum Tapped {
    /// A packet, in order of arrival.
    Media(Media),
    /// The publisher's last sender report of an encoding.
    Clock { track: TrackId, encoding: u8, clock: SenderClock },
    /// Who injects this publisher's packets has to begin anew with a key frame.
    KeyFrame { publisher: PeerId, track: TrackId, encoding: u8 },
}

/// A track that is tapped.
#[derive(Clone, Debug)]
pub struct TappedTrack {
    pub id: TrackId,
    pub codec: CodecConfig,
    /// The names of its simulcast encodings, by index; empty if they have none.
    pub rids: ArrayVec<Rid, QUALITIES_MAX>,
}

/// What the director tells the reader.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A worker has a publisher whose room matches: its packets come from now on.
    Opened {
        publisher: PeerId,
        owner: WorkerId,
        room: String,
        /// The session's name in logs and in the API.
        session: String,
        tracks: Vec<TappedTrack>,
        /// What was asked for of this room.
        wish: RecordWish,
    },
    /// Nothing is to be kept of a publisher for now, or everything again.
    Paused { publisher: PeerId, paused: bool },
    /// The session has ended; packets still in the rings may follow.
    Closed { publisher: PeerId },
}

/// The director's end.
pub struct Source {
    /// Rooms whose publishers are tapped by rule.
    pub rooms: Vec<RoomPattern>,
    /// Rooms whose publishers are tapped because somebody asked for it.
    pub requested: BTreeMap<String, RecordWish>,
    /// Publishers that are tapped because somebody asked for it, by the name of their session.
    pub sessions: BTreeSet<String>,
    /// Rooms of which nothing is kept for now.
    pub paused: BTreeSet<String>,
    pub notices: Sender<Notice>,
    pub wake: Wake,
    /// Sessions that the reader was told of.
    pub open: BTreeSet<PeerId>,
}

impl Source {
    pub fn new(rooms: Vec<RoomPattern>, notices: Sender<Notice>, wake: Wake) -> Source {
        let (requested, sessions, paused, open) = Default::default();
        Source { rooms, requested, sessions, paused, notices, wake, open }
    }

    pub fn wants(&self, room: &str) -> bool {
        self.requested.contains_key(room) || self.rooms.iter().any(|pattern| pattern.matches(room))
    }

    pub fn tell(&self, notice: Notice) {
        // A reader that has ended needs no notices.
        let _ = self.notices.send(notice);
        (self.wake)();
    }
}

/// The reader's ends, by worker.
#[derive(Default)]
pub struct Office {
    pub commands: Vec<Outbox<Command>>,
    pub tapped: Vec<Consumer<Tapped>>,
}

/// Lays the rings between workers and one reader. `wakers` are the workers', `wake` is the reader's.
pub fn connect(mails: &mut [Mail], wakers: &[Waker], wake: &Wake) -> Office {
    let mut office = Office::default();
    for (mail, waker) in mails.iter_mut().zip(wakers) {
        let waker = waker.clone();
        let (commands, from_reader) = ring(COMMANDS, std::sync::Arc::new(move || waker.wake()));
        let (outbox, tapped) = ring(TAP, wake.clone());
        mail.commands.push(from_reader);
        mail.tap = Some(outbox);
        office.commands.push(commands);
        office.tapped.push(tapped);
    }
    office
}

/// The reader's side of a tap, for a program that is none of the server's own services: [`crate::topology::start_tapped`].
pub struct Reader {
    pub notices: Receiver<Notice>,
    pub office: Office,
}

impl Office {
    /// Has a worker forward an RTP packet as one of the session whose answer has this `a=ice-ufrag`. Which worker is the caller's choice,
    /// the same for all of a session. It is woken by [`Office::flush`]. Gives the packet back if the worker is too far behind.
    pub fn inject(&mut self, worker: WorkerId, ufrag: Ufrag, packet: Box<[u8]>) -> Result<(), Box<[u8]>> {
        let Some(outbox) = self.commands.get_mut(worker.0 as usize) else { return Err(packet) };
        outbox.push(Command::Inject { ufrag, bytes: packet }).map_err(|command| match command {
            Command::Inject { bytes, .. } => bytes,
            _ => Box::default(),
        })
    }

    /// Wakes the workers that were written to.
    pub fn flush(&mut self) {
        self.commands.iter_mut().for_each(Outbox::flush);
    }
}
