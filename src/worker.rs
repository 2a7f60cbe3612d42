//! The worker: one pinned thread with its own socket, ring, arena, sessions and shards of rooms. [`Worker::turn`] is the whole
//! life of a packet, from `received` to `batch`: time is an argument and I/O is an enum, so a simulator drives the same code.
//!
//! A turn reads commands and the mesh, takes in what arrived, forwards it receiver by receiver, does what timers ask, and sends
//! everything at once. It allocates nothing, takes no lock, and never waits.

pub mod directory;
mod fanout;
mod fill;
pub mod hold;
mod inject;
pub mod load;
pub mod mail;
pub mod pace;
mod share;
mod start;
pub mod tap;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::io::{Io, Received};
use crate::limits::{FILLS_MAX, RUN_PACKETS, SESSIONS_MAX, TURN_DATAGRAMS};
use crate::mem::{Handoff, SendBatch};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::peer::Peer;
use crate::peer::feedback::Requests;
use crate::peer::receive::Inbound;
use crate::peer::send::SenderStats;
use crate::room::forward::Turn;
use crate::room::shard::{Shards, Subscriber};
use crate::rtp::config::MediaKind;
use crate::rtp::rewrite::Source;
use crate::units::{Micros, PeerId, WorkerId};
use directory::Directory;
use fanout::Fanout;
use fill::Fill;
use hold::Hold;
use load::Load;
use mail::{Command, Event, HandshakeEvent, Mail, PeerStats, Spent};
use pace::Pace;

/// Granularity of timers: NACKs and feedback to publishers.
const TICK: Micros = Micros::from_millis(10);
/// Each session is looked after once in this many ticks: reports, statistics, expiry.
const SWEEP_TICKS: usize = 100;
/// Commands taken in one turn from each thread.
const COMMANDS_PER_TURN: usize = 256;

/// One worker. Owned by its thread; everything it shares with others is in `mail` and `handoff`.
pub struct Worker {
    id: WorkerId,
    io: Io,
    metrics: Arc<WorkerMetrics>,
    mail: Mail,
    handoff: Arc<Handoff<Peer>>,
    directory: Directory,
    /// By slot.
    peers: Vec<Option<Box<Peer>>>,
    /// Slots of sessions owned here, and of those among them that publish.
    owned: Vec<u32>,
    publishers: Vec<u32>,
    shards: Shards,
    media: Turn,
    pace: Pace,
    /// Subscriptions that have been sent nothing yet.
    fills: Vec<Fill>,
    hold: Hold,
    load: Load,
    /// How long to look for packets before going to sleep.
    spin: Micros,
    /// Empty between uses.
    fanout: Fanout,
    received: Vec<Received>,
    batch: SendBatch,
    requests: Requests,
    next_tick: Micros,
    /// Packets of cached runs that may be given before the next tick.
    run_packets: usize,
    /// Ticks so far, modulo [`SWEEP_TICKS`]: which part of `owned` is looked after.
    ticks: usize,
}

impl Worker {
    pub fn new(id: WorkerId, mut io: Io, mail: Mail, handoff: Arc<Handoff<Peer>>, metrics: Arc<WorkerMetrics>, hold: Hold) -> Self {
        let batch = io.batch();
        Worker {
            id,
            io,
            metrics,
            mail,
            handoff,
            directory: Directory::new(SESSIONS_MAX),
            peers: (0..SESSIONS_MAX).map(|_| None).collect(),
            owned: Vec::with_capacity(SESSIONS_MAX),
            publishers: Vec::with_capacity(SESSIONS_MAX),
            shards: Shards::default(),
            media: Turn::default(),
            pace: Pace::default(),
            fills: Vec::with_capacity(FILLS_MAX),
            hold,
            load: Load::default(),
            spin: Micros::ZERO,
            fanout: Fanout::new(),
            received: Vec::with_capacity(TURN_DATAGRAMS),
            batch,
            requests: Requests::default(),
            next_tick: Micros::ZERO,
            run_packets: RUN_PACKETS,
            ticks: 0,
        }
    }

    /// Looks for packets for so long after the last ones before it goes to sleep (`media.spin_us`).
    pub fn with_spin(mut self, spin: Micros) -> Self {
        self.spin = spin;
        self
    }

    /// Turns until `stop` is set (wake the worker after setting it).
    pub fn run(&mut self, stop: &AtomicBool) {
        let mut now = self.io.now();
        let mut last_work = now;
        while !stop.load(Ordering::Relaxed) {
            let timers = self.next_tick.min(self.pace.due);
            let next = self.media.next_due(self.hold.bound()).map_or(timers, |due| due.min(timers));
            let mut wait = Micros(next.since(now));
            let spinning = now.since(last_work) < self.spin.0;
            if spinning {
                wait = Micros::ZERO;
            } else {
                self.io.prepare_sleep();
                if !self.mail.is_empty() || stop.load(Ordering::Relaxed) {
                    wait = Micros::ZERO;
                }
            }
            self.io.receive(&mut self.received, Duration::from_micros(wait.0), &self.metrics);
            let before = std::mem::replace(&mut now, self.io.now());
            if !self.received.is_empty() || !self.mail.is_empty() {
                last_work = now;
            } else if spinning {
                self.load.spun(Micros(now.since(before)));
            }
            self.turn(now);
        }
    }

    /// One turn by hand, for the simulator: receives without waiting.
    pub fn step(&mut self) {
        self.io.receive(&mut self.received, Duration::ZERO, &self.metrics);
        let now = self.io.now();
        self.turn(now);
    }

    /// The I/O, for the simulator.
    pub fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Sessions owned here.
    pub fn sessions(&self) -> usize {
        self.owned.len()
    }

    /// One turn: what has been received and what other threads said, worked off and sent.
    pub fn turn(&mut self, now: Micros) {
        self.metrics.add(Counter::Turns, 1);
        self.read_commands(now);
        self.read_mesh(now);
        let mut received = std::mem::take(&mut self.received);
        for Received { packet, from } in received.drain(..) {
            self.datagram(packet, from, now);
        }
        self.received = received;
        if now >= self.pace.due {
            self.drain(now);
        }
        self.forward(now);
        if now >= self.next_tick {
            self.tick(now);
            self.next_tick = now + TICK;
        }
        self.flush();
        self.mail.flush();
    }

    fn peer(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.slot as usize)?.as_deref_mut().filter(|peer| peer.id == id)
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.io.send(&mut self.batch, &self.metrics);
            self.batch.clear();
        }
    }

    /// Gives a box back to the slow path; frees it here only if nobody listens there.
    fn spend(&mut self, spent: Spent) {
        if self.mail.events.push(Event::Spent(spent)).is_err() {
            self.metrics.add(Counter::EventsLost, 1);
        }
    }

    fn read_commands(&mut self, now: Micros) {
        for office in 0..self.mail.commands.len() {
            for _ in 0..COMMANDS_PER_TURN {
                let Ok(command) = self.mail.commands[office].pop() else { break };
                self.command(command, now);
            }
        }
    }

    fn command(&mut self, command: Command, now: Micros) {
        match command {
            Command::Expect { peer, ufrag, password } => {
                self.directory.expect(ufrag, peer, password);
            }
            Command::Forget { ufrag } => self.directory.forget_user(&ufrag),
            Command::Remove { peer } => self.remove(peer),
            Command::Grow { peer, mut growth } => {
                if let Some(peer) = self.peer(peer) {
                    peer.grow(&mut growth);
                }
                self.spend(Spent::Growth(growth));
            }
            Command::Datagram { peer, bytes } => {
                self.send_datagram(peer, &bytes);
                self.spend(Spent::Bytes(bytes));
            }
            Command::Keys { peer, keys } => self.install(peer, keys, now),
            Command::OpenShard { shard } => {
                if let Some(mut old) = self.shards.open(shard) {
                    self.media.forget(&mut old);
                    self.spend(Spent::Shard(old));
                }
            }
            Command::CloseShard { track } => {
                let peers = &mut self.peers;
                let closed = self.shards.close(track, |subscriber| {
                    if let Some(sender) = sender_of(peers, subscriber) {
                        sender.bind(None);
                    }
                });
                if let Some(mut shard) = closed {
                    self.media.forget(&mut shard);
                    self.spend(Spent::Shard(shard));
                }
            }
            Command::Route { track, others } => {
                if let Some(shard) = self.shards.get_mut(track) {
                    shard.others = others;
                }
            }
            Command::Tap { track } => self.begin_tap(track),
            Command::Untap { track } => {
                if let Some(shard) = self.shards.get_mut(track) {
                    shard.tapped = false;
                }
            }
            Command::KeyFrame { track, encoding } => self.want_key_frame(track, encoding),
            Command::Inject { ufrag, bytes } => {
                if let Err(reason) = self.inject(&ufrag, &bytes, now) {
                    self.drop(reason);
                }
                self.spend(Spent::Bytes(bytes));
            }
            Command::Subscribe { subscriber, peer, binding } => {
                if self.peer(peer).is_none() {
                    return;
                }
                self.unbind(subscriber);
                if let Some(link) = self.shards.subscribe(binding.track, subscriber)
                    && let Some(sender) = sender_of(&mut self.peers, subscriber)
                {
                    sender.bind(Some(binding));
                    sender.link = link;
                    self.aim(subscriber.peer, now);
                }
            }
            Command::Unsubscribe { subscriber, peer } => {
                if self.peer(peer).is_some() {
                    self.unbind(subscriber);
                }
            }
            Command::Fill { subscriber, peer } => self.begin_fill(subscriber, peer),
            Command::Wish { subscriber, peer, wish } => {
                if self.peer(peer).is_some()
                    && let Some(sender) = sender_of(&mut self.peers, subscriber)
                {
                    sender.wish = wish;
                    self.aim(subscriber.peer, now);
                }
            }
        }
    }

    fn send_datagram(&mut self, peer: PeerId, bytes: &[u8]) {
        let Some(to) = self.peer(peer).and_then(|peer| peer.address()) else { return };
        if !self.batch.has_room() {
            self.flush();
        }
        if let Some(space) = self.batch.space().get_mut(..bytes.len()) {
            space.copy_from_slice(bytes);
            self.batch.commit(to, bytes.len());
        }
    }

    /// Installs keys; a session that watches can now be shown a picture.
    fn install(&mut self, id: PeerId, keys: Box<crate::peer::Keys>, now: Micros) {
        let Some(peer) = self.peer(id) else { return self.spend(Spent::Keys(keys)) };
        if let Some(old) = peer.set_keys(keys) {
            self.spend(Spent::Keys(old));
        }
        self.start(id.slot, now);
    }

    /// Ends a subscription, if there is one.
    fn unbind(&mut self, subscriber: Subscriber) {
        let Some(sender) = sender_of(&mut self.peers, subscriber) else { return };
        let Some(binding) = sender.binding().copied() else { return };
        sender.bind(None);
        self.shards.unsubscribe(binding.track, subscriber);
    }

    /// Takes a session out of all tables and gives its state back.
    fn remove(&mut self, id: PeerId) {
        self.directory.forget_elsewhere(id);
        if self.peer(id).is_none() {
            return;
        }
        let senders = self.peer(id).map_or(0, |peer| peer.senders.len());
        for sender in 0..senders {
            self.unbind(Subscriber { peer: id.slot, sender: sender as u16 });
        }
        let Some(mut peer) = self.peers.get_mut(id.slot as usize).and_then(Option::take) else { return };
        self.pace.forget(&mut peer);
        for address in peer.addresses() {
            self.directory.forget_address(address, id);
        }
        self.owned.retain(|slot| *slot != id.slot);
        self.publishers.retain(|slot| *slot != id.slot);
        self.spend(Spent::Peer(peer));
    }

    /// What timers ask: publishers are served at every tick, each session once a second.
    fn tick(&mut self, now: Micros) {
        self.run_packets = RUN_PACKETS;
        if self.load.due(now) {
            let percent = self.load.measure(self.io.cpu_time(), now, &self.metrics);
            self.hold.adapt(percent);
        }
        for index in 0..self.publishers.len() {
            if !self.batch.has_room() {
                self.flush();
            }
            let slot = self.publishers[index] as usize;
            if let Some(peer) = self.peers[slot].as_deref_mut() {
                peer.feed_back(now, &mut self.batch, &self.metrics);
                self.tell_injector(slot, now);
                self.measure(slot, now);
                self.tell_sound(slot, now);
            }
        }
        self.ticks = (self.ticks + 1) % SWEEP_TICKS;
        if self.ticks.is_multiple_of(fill::TICKS) {
            self.fill(now);
        }
        for index in (self.ticks..self.owned.len()).step_by(SWEEP_TICKS) {
            self.look_after(self.owned[index], now);
        }
    }

    /// Once a second for each session: reports, statistics, a reminder of wanted key frames, expiry.
    fn look_after(&mut self, slot: u32, now: Micros) {
        if !self.batch.has_room() {
            self.flush();
        }
        let shards = &self.shards;
        let Some(peer) = self.peers[slot as usize].as_deref_mut() else { return };
        let id = peer.id;
        let clock = |source: Source| *shards.get(source.track)?.clocks.get(source.encoding as usize)?;
        self.metrics.add(Counter::FecSent, peer.protect());
        peer.report(now, clock, &mut self.batch);
        let (announced, expired) = (peer.announced, peer.expired(now));
        if !announced {
            let announced = self.announce(slot);
            if let Some(peer) = self.peer(id) {
                peer.announced = announced;
            }
        } else if expired {
            // Told again at each sweep until the director takes it out.
            if self.mail.events.push(Event::Expired { peer: id }).is_ok() {
                self.metrics.add(Counter::SessionsExpired, 1);
            }
        } else if self.mail.events.has_spare() {
            let stats = self.stats(slot, now);
            let _ = self.mail.events.push(Event::Stats { peer: id, stats });
        } else {
            self.metrics.add(Counter::EventsLost, 1);
        }
        self.aim(slot, now);
    }

    /// Tells the director how loud a publisher is.
    fn tell_sound(&mut self, slot: usize, now: Micros) {
        let Some(peer) = self.peers[slot].as_deref_mut() else { return };
        let id = peer.id;
        let Some((level, at)) = peer.inbound.as_deref_mut().and_then(|inbound| inbound.sound(now)) else { return };
        if !self.mail.events.has_spare() || self.mail.events.push(Event::Sound { peer: id, level, at }).is_err() {
            self.metrics.add(Counter::EventsLost, 1);
        }
    }

    /// Tells the slow path that a session was claimed; false if it has to be told again.
    fn announce(&mut self, slot: u32) -> bool {
        let Some(peer) = self.peers[slot as usize].as_deref() else { return true };
        let (id, worker, Some(address)) = (peer.id, self.id, peer.address()) else { return true };
        self.mail.handshakes(id).push(HandshakeEvent::Claimed { peer: id, worker, address }).is_ok()
            && self.mail.events.push(Event::Claimed { peer: id, worker, address }).is_ok()
    }

    fn stats(&self, slot: u32, now: Micros) -> PeerStats {
        let Some(peer) = self.peers[slot as usize].as_deref() else { return PeerStats::default() };
        let mut outbound = SenderStats::default();
        for sender in &peer.senders {
            outbound.add(&sender.stats);
        }
        PeerStats {
            at: now,
            address: peer.address(),
            inbound: peer.inbound.as_deref().map(|inbound| inbound.stats).unwrap_or_default(),
            outbound,
            path: peer.path.as_deref().map(|path| path.stats()),
            awaits_key_frame: peer.senders.iter().any(|sender| sender.awaits_key_frame().is_some()),
            chosen: peer.senders.iter().find(|sender| sender.kind == MediaKind::Video).and_then(|sender| sender.choice),
            flowing: peer
                .senders
                .iter()
                .find(|sender| sender.kind == MediaKind::Video)
                .and_then(|sender| share::flowing(&self.shards, sender)),
            paused: peer.senders.iter().zip(0..u64::BITS).fold(0, |paused, (sender, bit)| paused | (sender.paused as u64) << bit),
            layers: peer.inbound.as_deref().and_then(Inbound::video_layers),
        }
    }

    fn drop(&self, reason: DropReason) {
        self.metrics.count_drop(reason);
    }
}

fn sender_of(peers: &mut [Option<Box<Peer>>], subscriber: Subscriber) -> Option<&mut crate::peer::send::Sender> {
    peers.get_mut(subscriber.peer as usize)?.as_deref_mut()?.senders.get_mut(subscriber.sender as usize)
}
