//! What a worker and the other threads say to each other, all of it through bounded lock-free rings.
//!
//! ```text
//!   director ──Command──► worker ──Event──► director        joins, subscriptions, statistics
//!   handshakes ──Command──► worker ──Handshake──► handshakes  DTLS records, keys; by session to one of some threads
//!   worker ──Tapped──► recorder                               packets of tapped tracks ([`super::tap`])
//!   worker ◄──Mesh──► worker                                  media, packets of each other's sessions
//! ```
//!
//! Values that a worker is done with (boxes made by a slow-path thread) go back in [`Event::Spent`] and are freed there.

use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayString;
use rtrb::{Consumer, Producer, RingBuffer};

use super::tap::Tapped;
use crate::io::Waker;
use crate::limits::{COMMANDS, EVENTS, MESH};
use crate::mem::Packet;
use crate::peer::path::PathStats;
use crate::peer::receive::InboundStats;
use crate::peer::send::{Binding, SenderStats};
use crate::peer::{Growth, Keys, Peer};
use crate::room::shard::{Shard, Subscriber};
use crate::rtp::layers::{Choice, Layers, Wish};
use crate::rtp::level::Level;
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::units::{Micros, PeerId, TrackId, WorkerId};

/// A local ICE user name fragment; the server makes them all of one length.
pub type Ufrag = ArrayString<16>;
/// A local ICE password.
pub type IcePassword = ArrayString<32>;

/// What a slow-path thread asks of a worker.
pub enum Command {
    /// A session may be claimed by its first check with these credentials; after an ICE restart, further ones for the same.
    Expect {
        peer: PeerId,
        ufrag: Ufrag,
        password: IcePassword,
    },
    /// These credentials are no longer good.
    Forget {
        ufrag: Ufrag,
    },
    /// The session has ended: give its state back, forget its addresses.
    Remove {
        peer: PeerId,
    },
    /// More was agreed on with the session.
    Grow {
        peer: PeerId,
        growth: Box<Growth>,
    },
    /// A datagram of DTLS to send to the session.
    Datagram {
        peer: PeerId,
        bytes: Box<[u8]>,
    },
    /// SRTP keys of a finished handshake.
    Keys {
        peer: PeerId,
        keys: Box<Keys>,
    },
    /// This worker's shard of a track: it has the publisher, or will get subscribers.
    OpenShard {
        shard: Box<Shard>,
    },
    /// The track has ended here.
    CloseShard {
        track: TrackId,
    },
    /// On the publisher's worker: which other workers have subscribers.
    Route {
        track: TrackId,
        others: u64,
    },
    Subscribe {
        subscriber: Subscriber,
        peer: PeerId,
        binding: Binding,
    },
    Unsubscribe {
        subscriber: Subscriber,
        peer: PeerId,
    },
    /// After [`Command::Subscribe`]: its client may learn of the track by the first packet alone, so it is sent some of nothing if the track
    /// is silent ([`super::fill`]).
    Fill {
        subscriber: Subscriber,
        peer: PeerId,
    },
    /// On the publisher's worker: its packets go to the tap as long as the track lives, beginning with a key frame.
    Tap {
        track: TrackId,
    },
    /// Ends that.
    Untap {
        track: TrackId,
    },
    /// Whoever reads the tap cannot go on without a key frame.
    KeyFrame {
        track: TrackId,
        encoding: u8,
    },
    /// An RTP packet in the clear of a session that a program beside the server publishes by ([`super::tap`]): the first one claims the
    /// session, which its user name fragment names.
    Inject {
        ufrag: Ufrag,
        bytes: Box<[u8]>,
    },
    /// What a subscriber wants of its track.
    Wish {
        subscriber: Subscriber,
        peer: PeerId,
        wish: Wish,
    },
}

/// Statistics of a session, once a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerStats {
    /// When they were taken.
    pub at: Micros,
    pub address: Option<SocketAddr>,
    pub inbound: InboundStats,
    /// Sums over all senders; the round trip is the largest.
    pub outbound: SenderStats,
    /// Of a viewer that tells of its path.
    pub path: Option<PathStats>,
    pub awaits_key_frame: bool,
    /// Of the first video: what was chosen for it, and what flows.
    pub chosen: Option<Choice>,
    pub flowing: Option<Choice>,
    /// The senders whose pictures are paused because they do not fit, a bit each: the first 64.
    pub paused: u64,
    /// Of a publisher's first video.
    pub layers: Option<Layers>,
}

/// What a worker tells the director.
#[allow(clippy::large_enum_variant)] // a worker does not allocate boxes, and the ring holds what it holds
pub enum Event {
    Claimed {
        peer: PeerId,
        worker: WorkerId,
        address: SocketAddr,
    },
    /// The session's packets go to another address now.
    Moved {
        peer: PeerId,
        address: SocketAddr,
    },
    /// Nothing authentic from the client for too long.
    Expired {
        peer: PeerId,
    },
    Stats {
        peer: PeerId,
        stats: PeerStats,
    },
    /// How loud a publisher was in the tenth of a second before `at`, ten times a second; of silence, only its beginning.
    Sound {
        peer: PeerId,
        level: Level,
        at: Micros,
    },
    Spent(Spent),
}

/// What a worker tells a thread of handshakes.
pub enum HandshakeEvent {
    /// The session has an address now: a client's handshake can begin.
    Claimed { peer: PeerId, worker: WorkerId, address: SocketAddr },
    /// A DTLS record from the session's address.
    Datagram { peer: PeerId, packet: Packet, at: Micros },
}

/// Boxes on their way back to where they were made.
pub enum Spent {
    Peer(Box<Peer>),
    Shard(Box<Shard>),
    Keys(Box<Keys>),
    Growth(Box<Growth>),
    Bytes(Box<[u8]>),
}

/// What workers tell each other.
pub enum Mesh {
    /// A packet of a track with subscribers on the other worker.
    Media(Media),
    /// A datagram of a session that the other worker owns.
    Datagram { peer: PeerId, packet: Packet, from: SocketAddr },
    /// A subscriber of the other worker's publisher needs a key frame.
    KeyFrame { track: TrackId, encoding: u8 },
    /// The publisher's clock of an encoding.
    Clock { track: TrackId, encoding: u8, clock: SenderClock },
    /// What flows of a track.
    Layers { track: TrackId, layers: Layers },
}

/// One end of a ring to another thread, with what wakes it.
pub struct Outbox<T> {
    ring: Producer<T>,
    wake: Wake,
    pushed: bool,
}

impl<T> Outbox<T> {
    /// Adds an item; gives it back if the ring is full. The reader is woken by [`Outbox::flush`].
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.ring.push(item).map_err(|rtrb::PushError::Full(item)| item)?;
        self.pushed = true;
        Ok(())
    }

    /// Whether there is room beyond what is kept for events that must not be lost.
    pub fn has_spare(&self) -> bool {
        self.ring.slots() > self.ring.buffer().capacity() / 4
    }

    /// Wakes the reader if anything was pushed since the last time: once a turn, not once an item.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.pushed) {
            (self.wake)();
        }
    }
}

/// A bounded ring whose writer wakes its reader.
pub fn ring<T>(capacity: usize, wake: Wake) -> (Outbox<T>, Consumer<T>) {
    let (producer, consumer) = RingBuffer::new(capacity);
    (Outbox { ring: producer, wake, pushed: false }, consumer)
}

/// All rings of one worker.
pub struct Mail {
    /// From the director, then from the threads of handshakes.
    pub commands: Vec<Consumer<Command>>,
    pub events: Outbox<Event>,
    handshakes: Vec<Outbox<HandshakeEvent>>,
    /// By worker; none at its own place.
    pub mesh_out: Vec<Option<Outbox<Mesh>>>,
    pub mesh_in: Vec<Consumer<Mesh>>,
    /// To the thread that reads tapped tracks, if there is one: [`super::tap`].
    pub tap: Option<Outbox<Tapped>>,
}

impl Mail {
    /// Whether anything waits to be read.
    pub fn is_empty(&self) -> bool {
        self.commands.iter().all(Consumer::is_empty) && self.mesh_in.iter().all(Consumer::is_empty)
    }

    /// To the thread that a session's handshake is on.
    pub fn handshakes(&mut self, peer: PeerId) -> &mut Outbox<HandshakeEvent> {
        let thread = handshakes_of(peer, self.handshakes.len());
        &mut self.handshakes[thread]
    }

    /// Wakes everybody something was pushed for.
    pub fn flush(&mut self) {
        self.events.flush();
        self.handshakes.iter_mut().for_each(Outbox::flush);
        for outbox in self.mesh_out.iter_mut().flatten() {
            outbox.flush();
        }
        if let Some(tap) = &mut self.tap {
            tap.flush();
        }
    }
}

/// Which of `threads` threads a session's handshake is on.
pub fn handshakes_of(peer: PeerId, threads: usize) -> usize {
    peer.slot as usize % threads
}

/// What wakes a thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The slow path's ends of all workers' rings.
pub struct Offices {
    /// To each worker, from the director.
    pub director: Vec<Outbox<Command>>,
    pub events: Vec<Consumer<Event>>,
    pub handshakes: Vec<HandshakeOffice>,
}

/// The ends of one thread of handshakes: to and from each worker.
#[derive(Default)]
pub struct HandshakeOffice {
    pub commands: Vec<Outbox<Command>>,
    pub events: Vec<Consumer<HandshakeEvent>>,
}

/// Lays the rings between `wakers.len()` workers, the director, and as many threads of handshakes as there are ways to wake one.
pub fn connect(wakers: &[Waker], wake_director: Wake, wake_handshakes: &[Wake]) -> (Vec<Mail>, Offices) {
    let count = wakers.len();
    let wakes: Vec<Wake> = wakers
        .iter()
        .map(|waker| {
            let waker = waker.clone();
            Arc::new(move || waker.wake()) as Wake
        })
        .collect();
    let handshakes = wake_handshakes.iter().map(|_| HandshakeOffice::default()).collect();
    let mut offices = Offices { director: Vec::new(), events: Vec::new(), handshakes };
    let mut mesh_out: Vec<Vec<Option<Outbox<Mesh>>>> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
    let mut mesh_in: Vec<Vec<Consumer<Mesh>>> = (0..count).map(|_| Vec::new()).collect();
    for (from, out) in mesh_out.iter_mut().enumerate() {
        for to in (0..count).filter(|to| *to != from) {
            let (outbox, inbox) = ring(MESH, wakes[to].clone());
            out[to] = Some(outbox);
            mesh_in[to].push(inbox);
        }
    }
    let mails = mesh_out.into_iter().zip(mesh_in).zip(&wakes).map(|((mesh_out, mesh_in), wake)| {
        let (to_worker, from_director) = ring(COMMANDS, wake.clone());
        let (events, to_director) = ring(EVENTS, wake_director.clone());
        offices.director.push(to_worker);
        offices.events.push(to_director);
        let (mut commands, mut handshakes) = (vec![from_director], Vec::new());
        for (office, wake_thread) in offices.handshakes.iter_mut().zip(wake_handshakes) {
            let (keys_to_worker, from_handshakes) = ring(COMMANDS, wake.clone());
            let (outbox, to_handshakes) = ring(EVENTS, wake_thread.clone());
            office.commands.push(keys_to_worker);
            office.events.push(to_handshakes);
            commands.push(from_handshakes);
            handshakes.push(outbox);
        }
        Mail { commands, events, handshakes, mesh_out, mesh_in, tap: None }
    });
    (mails.collect(), offices)
}
