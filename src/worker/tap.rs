//! The tap: every plaintext RTP packet of chosen publishers, for a thread that is no participant (a recorder, a gateway, processing).
//!
//! ```text
//!   director ──Notice──► reader      which tracks are tapped, of whom; their end; and what recordings there are of them
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

mod source;

use std::sync::mpsc::Receiver;

use arrayvec::ArrayVec;
use rtrb::Consumer;

use super::mail::{Command, Mail, Outbox, Ufrag, Wake, ring};
use crate::config::RecordWish;
use crate::io::Waker;
use crate::limits::{COMMANDS, QUALITIES_MAX, TAP};
use crate::rtp::config::{CodecConfig, Rid};
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::units::{PeerId, TrackId, WorkerId};
pub use source::{Recording, Share, Source};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TappedTrack {
    pub id: TrackId,
    pub codec: CodecConfig,
    /// The names of its simulcast encodings, by index; empty if they have none.
    pub rids: ArrayVec<Rid, QUALITIES_MAX>,
    /// LiveKit's id of it; empty as long as it has none.
    pub sid: String,
    /// What it shows, as LiveKit names that: `camera`, `microphone`, `screen_share`, `screen_share_audio`.
    pub source: &'static str,
}

/// Whose tracks these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    pub id: PeerId,
    pub owner: WorkerId,
    /// The session's name in logs and in the API.
    pub session: String,
    /// Who it is to the room; empty if that is not known.
    pub identity: String,
}

/// One recording: several may have the same tracks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordingId(pub u64);

/// What the director tells the reader.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A worker has a publisher that is to be tapped: packets of these tracks come from now on. Where it has others later, it is closed and
    /// opened again; what it keeps goes on meanwhile.
    Opened { publisher: Publisher, room: String, tracks: Vec<TappedTrack> },
    /// The session has ended, or is tapped no more; packets still in the rings may follow.
    Closed { publisher: PeerId },
    /// What of all that is tapped is to be recorded, and how: another reader than the recorder has no use for it.
    Record(Order),
}

/// What the recorder is told of a recording.
#[derive(Clone, Debug)]
pub enum Order {
    Begin {
        recording: RecordingId,
        room: String,
        /// What its files have in their names beside the publisher's; empty for a room's own recording.
        label: String,
        wish: RecordWish,
        /// Identities of those who are in the room.
        present: Vec<String>,
    },
    /// It has these tracks of a publisher from now on, and no others; packets of others may still be in the rings.
    Take {
        recording: RecordingId,
        publisher: Publisher,
        tracks: Vec<TappedTrack>,
    },
    /// Nothing is to be kept for now, or everything again.
    Pause {
        recording: RecordingId,
        paused: bool,
    },
    End {
        recording: RecordingId,
    },
    /// Something happened in a room of which something is recorded.
    Happened {
        room: String,
        what: Happening,
    },
}

/// What is told beside a recording of those who are in the room, by their identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    Joined {
        identity: String,
    },
    Left {
        identity: String,
    },
    Published {
        identity: String,
        sid: String,
        source: &'static str,
    },
    Unpublished {
        identity: String,
        sid: String,
        source: &'static str,
    },
    Muted {
        identity: String,
        sid: String,
        source: &'static str,
        muted: bool,
    },
    /// These speak now and nobody else, the loudest first, each with the loudest level of its last second in dBov.
    Speakers(Vec<(String, i8)>),
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
