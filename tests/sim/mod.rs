//! A seeded simulator of the whole appliance, faster than real time and in one thread.
//!
//! ```text
//!   clients on str0m ──► network (late, lost, twice, out of order, corrupted) ──► workers on io::Fake
//!                                                     director and handshakes: one turn each per millisecond
//! ```
//!
//! Everything that the simulator decides follows from one seed, which every failure prints; `SIM_SEED=n` runs that one, and
//! `SIM_RUNS=n` so many more. What does not follow from it: random numbers inside str0m and DTLS (keys, SSRCs, user names),
//! which change bytes but hardly ever what is sent when.
#![allow(dead_code)] // several tests use this, each another part of it

pub mod client;
pub mod cross;
pub mod decoder;
pub mod member;
pub mod native;
pub mod network;
pub mod picture;
pub mod random;
pub mod recorded;
pub mod server;
/// What TCP may send, as in the comparison of congestion controls.
#[path = "../../bench/src/bin/congestion/window.rs"]
pub mod window;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use distributary::config::RecordPlan;
use distributary::signal::api::{Attend, LayerWish, Patched, Purpose, Refusal, SessionPath};
use livekit_protocol as proto;

use client::{Client, Part, Publisher, Viewer};
use cross::Cross;
use member::{Line, Watcher};
use network::{Link, Network};
use random::Random;
use server::Server;

/// The simulator's granularity.
const TICK_MICROS: u64 = 1_000;

/// Everything there is.
pub struct World {
    /// Microseconds since the beginning; the server's clock may be ahead.
    pub now: u64,
    pub server: Server,
    pub network: Network,
    pub clients: Vec<Client>,
    /// Somebody else's TCP connection.
    pub cross: Option<Cross>,
    pub random: Random,
    by_address: HashMap<SocketAddr, usize>,
    base: Instant,
    addresses: u16,
    publishers: u32,
    /// What the server sent to addresses that no client has.
    pub strays: u64,
    /// What was sent to addresses in [`World::listen`].
    pub heard: Vec<(SocketAddr, Vec<u8>)>,
    pub listen: Vec<SocketAddr>,
    /// Packets for which a viewer waits for a lost one.
    pub patience: usize,
}

impl World {
    pub fn new(seed: u64, workers: usize) -> World {
        World::with_places(seed, workers, 1000)
    }

    /// A world whose server takes so many sessions.
    pub fn with_places(seed: u64, workers: usize, sessions_max: usize) -> World {
        World::with(seed, |random| Server::new(workers, sessions_max, random))
    }

    /// A world whose server records.
    pub fn recording(seed: u64, workers: usize, plan: RecordPlan) -> World {
        World::with(seed, |random| Server::recording(workers, 1000, random, Some(plan)))
    }

    fn with(seed: u64, server: impl FnOnce(Random) -> Server) -> World {
        let mut random = Random::new(seed);
        let server = server(random.fork());
        let network = Network::new(random.fork());
        World {
            now: 0,
            server,
            network,
            clients: Vec::new(),
            cross: None,
            random,
            by_address: HashMap::new(),
            base: Instant::now(),
            addresses: 0,
            publishers: 0,
            strays: 0,
            heard: Vec::new(),
            listen: Vec::new(),
            patience: 100,
        }
    }

    pub fn new_address(&mut self) -> SocketAddr {
        self.addresses += 1;
        SocketAddr::from(([198, 51, 100, (self.addresses % 250) as u8 + 1], 20_000 + self.addresses))
    }

    pub fn publish(&mut self, room: &str, link: Link) -> usize {
        self.publishers += 1;
        let publisher = Part::Publisher(Publisher::new(self.publishers));
        self.join(room, publisher, link)
    }

    pub fn watch(&mut self, room: &str, link: Link) -> usize {
        self.join(room, Part::Viewer(Viewer::default()), link)
    }

    fn join(&mut self, room: &str, part: Part, link: Link) -> usize {
        let address = self.new_address();
        let (mut client, offer) = Client::new(part, address, self.server.address, link, self.base, self.now, self.patience);
        let purpose = client.purpose();
        let joined = self.server.join(room, purpose, offer).unwrap_or_else(|refusal| panic!("refused: {refusal}"));
        client.accept(&joined.answer, Some(SessionPath { room: room.to_owned(), purpose, session: joined.session }));
        self.by_address.insert(address, self.clients.len());
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// Somebody enters a room as a member, with one peer connection, and publishes or watches.
    fn attend(&mut self, room: &str, part: Part, link: Link) -> usize {
        let address = self.new_address();
        let (mut client, sdp) = Client::new(part, address, self.server.address, link, self.base, self.now, self.patience);
        let identity = format!("member-{}", self.clients.len());
        let (outbox, told) = tokio::sync::mpsc::channel(256);
        let offer = proto::SessionDescription { r#type: "offer".to_owned(), sdp, id: 1, ..Default::default() };
        let permission = proto::ParticipantPermission { can_publish: true, can_subscribe: true, ..Default::default() };
        let key = self.server.attend(Attend {
            room: room.to_owned(),
            name: identity.clone(),
            identity,
            metadata: String::new(),
            attributes: HashMap::new(),
            permission,
            kind: 0,
            key: String::new(),
            client: address.ip(),
            user_agent: "simulator".to_owned(),
            single: true,
            auto_subscribe: true,
            resume: None,
            tracks: client.tracks(),
            offer: Some(offer),
            outbox,
        });
        let mut line = Line::new(key.unwrap_or_else(|refusal| panic!("refused: {refusal}")), told);
        line.read();
        client.accept(line.answer().unwrap_or_else(|| panic!("no answer: {:?}", line.told)), None);
        client.line = Some(line);
        self.by_address.insert(address, self.clients.len());
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// A member that publishes a camera of these encodings, and a screen of that size if it is not 0.
    pub fn present(&mut self, room: &str, encodings: &[u8], screen: u8) -> usize {
        self.publishers += 1;
        let mut publisher = Publisher::simulcast(self.publishers, encodings);
        publisher.screen = screen;
        self.attend(room, Part::Publisher(publisher), Link::clean())
    }

    /// A member that watches so many sounds and pictures.
    pub fn look(&mut self, room: &str, sounds: usize, pictures: usize, link: Link) -> usize {
        self.attend(room, Part::Watcher(Watcher::new(sounds, pictures)), link)
    }

    /// What a member wants of a publisher's track (`camera` or `screen`).
    pub fn want(&mut self, watcher: usize, publisher: usize, what: &str, settings: proto::UpdateTrackSettings) {
        let track_sids = vec![self.sid(publisher, what)];
        let key = self.clients[watcher].line.as_ref().expect("a member").key.clone();
        let settings = proto::UpdateTrackSettings { track_sids, ..settings };
        self.server.signal(&key, proto::signal_request::Message::TrackSetting(settings));
    }

    fn sid(&self, publisher: usize, what: &str) -> String {
        let cid = format!("{what}-{}", self.publisher(publisher).id);
        self.clients[publisher].line.as_ref().and_then(|line| line.sid(&cid)).expect("a track of that name")
    }

    /// Whether a member was told that a publisher's track is paused.
    pub fn told_paused(&self, watcher: usize, publisher: usize, what: &str) -> Option<bool> {
        self.clients[watcher].line.as_ref().and_then(|line| line.paused(&self.sid(publisher, what)))
    }

    /// What a viewer who wants to join is told if it is not taken. One that is taken is left alone.
    pub fn refused(&mut self, room: &str) -> Option<Refusal> {
        let address = self.new_address();
        let part = Part::Viewer(Viewer::default());
        let (client, offer) = Client::new(part, address, self.server.address, Link::clean(), self.base, self.now, self.patience);
        self.server.join(room, client.purpose(), offer).err()
    }

    /// A publisher of several encodings, their sizes in quarters of the usual.
    pub fn publish_simulcast(&mut self, room: &str, encodings: &[u8], link: Link) -> usize {
        self.publishers += 1;
        let publisher = Part::Publisher(Publisher::simulcast(self.publishers, encodings));
        self.join(room, publisher, link)
    }

    /// A publisher whose packets of sound repeat those so many before them.
    pub fn publish_redundant(&mut self, room: &str, distances: &[u32], link: Link) -> usize {
        self.publishers += 1;
        let mut publisher = Publisher::new(self.publishers);
        publisher.red = distances.to_vec();
        self.join(room, Part::Publisher(publisher), link)
    }

    /// A viewer who takes redundant sound.
    pub fn watch_redundant(&mut self, room: &str, link: Link) -> usize {
        let mut viewer = Viewer::default();
        viewer.red = true;
        self.join(room, Part::Viewer(viewer), link)
    }

    /// A publisher's pictures are so many times as large as usual from now on.
    pub fn enlarge(&mut self, publisher: usize, factor: u8) {
        if let Part::Publisher(publisher) = &mut self.clients[publisher].part {
            publisher.encodings = vec![4 * factor];
        }
    }

    /// A publisher's next pictures are key frames, of all its encodings.
    pub fn make_key_frame(&mut self, publisher: usize) {
        if let Part::Publisher(publisher) = &mut self.clients[publisher].part {
            publisher.key_wanted = u8::MAX;
        }
    }

    /// A viewer's page is hidden, or shown again.
    pub fn show(&mut self, viewer: usize, is_shown: bool) {
        let path = self.clients[viewer].path.clone().expect("a session");
        self.server.layer(path, LayerWish { active: Some(is_shown), ..LayerWish::default() }).expect("a session that watches");
    }

    /// These viewers, who have the same link, are behind one bottleneck from now on, and from `begins` on a TCP connection with them.
    pub fn share(&mut self, viewers: &[usize], begins: u64) {
        let to = self.new_address();
        self.network.sharing = viewers.iter().map(|viewer| self.clients[*viewer].public).chain([to]).collect();
        self.cross = Some(Cross::new(self.clients[viewers[0]].link, to, begins));
    }

    /// For so many microseconds a viewer's pictures wait for those before them.
    pub fn delay(&mut self, viewer: usize, micros: u64) {
        if let Part::Viewer(viewer) = &mut self.clients[viewer].part {
            viewer.decoder.delay = micros;
        }
    }

    /// A client ends its session and is gone.
    pub fn leave(&mut self, client: usize) {
        let path = self.clients[client].path.take().expect("a session");
        self.server.leave(path).expect("the session exists");
        self.vanish(client);
    }

    /// A client is gone without a word.
    pub fn vanish(&mut self, client: usize) {
        self.clients[client].alive = false;
    }

    /// The way to a client changes: from now on the server sees it at another address, for which the network picks a worker anew.
    pub fn rebind(&mut self, client: usize, address: SocketAddr) {
        self.by_address.remove(&self.clients[client].public);
        self.clients[client].public = address;
        self.by_address.insert(address, client);
    }

    /// An address whose datagrams go to another worker than those of `other`.
    pub fn address_elsewhere(&mut self, other: SocketAddr) -> SocketAddr {
        let worker = self.server.worker_of(other);
        loop {
            let address = self.new_address();
            if self.server.worker_of(address) != worker {
                return address;
            }
        }
    }

    pub fn restart_ice(&mut self, client: usize) {
        let fragment = self.clients[client].restart();
        let path = self.clients[client].path.clone().expect("a session");
        match self.server.patch(path, fragment) {
            Ok(Patched::Restarted { fragment, .. }) => self.clients[client].restarted(&fragment),
            Ok(Patched::NoContent) => panic!("no restart was seen"),
            Err(refusal) => panic!("refused: {refusal}"),
        }
    }

    pub fn run_seconds(&mut self, seconds: u64) {
        self.run_millis(1_000 * seconds);
    }

    pub fn run_millis(&mut self, millis: u64) {
        for _ in 0..millis {
            self.tick();
        }
    }

    /// Until everybody is connected, at most so many seconds. True if they are.
    pub fn connect(&mut self, seconds: u64) -> bool {
        for _ in 0..1_000 * seconds {
            if self.clients.iter().filter(|client| client.alive).all(|client| client.connected) {
                return true;
            }
            self.tick();
        }
        false
    }

    pub fn tick(&mut self) {
        self.now += TICK_MICROS;
        let now = self.now;
        let mut sent = Vec::new();
        while let Some(datagram) = self.network.arrived(now) {
            if datagram.to == self.server.address {
                self.server.deliver(datagram.from, &datagram.bytes);
            } else if let Some(index) = self.by_address.get(&datagram.to) {
                let client = &mut self.clients[*index];
                client.receive(&datagram.bytes, now, &mut sent);
                for bytes in sent.drain(..) {
                    self.network.send(&client.link, now, client.public, self.server.address, &bytes);
                }
            } else {
                self.strays += 1;
            }
        }
        self.clients.iter_mut().filter_map(|client| client.line.as_mut()).for_each(Line::read);
        for client in self.clients.iter_mut().filter(|client| client.alive && client.next <= now) {
            client.turn(now, &mut sent);
            for bytes in sent.drain(..) {
                self.network.send(&client.link, now, client.public, self.server.address, &bytes);
            }
        }
        if let Some(cross) = &mut self.cross {
            cross.turn(now, &mut self.network);
        }
        let (server, network, heard) = (&mut self.server, &mut self.network, &mut self.heard);
        let (clients, by_address, listen, strays) = (&self.clients, &self.by_address, &self.listen, &mut self.strays);
        let from = server.address;
        server.turn(now, |to, bytes| {
            if let Some(index) = by_address.get(&to) {
                network.send_down(&clients[*index].link, now, from, to, bytes);
            } else if listen.contains(&to) {
                heard.push((to, bytes.to_vec()));
            } else {
                *strays += 1;
            }
        });
    }

    /// Everything that must hold in every scenario.
    pub fn assert_no_violations(&self) {
        for (index, client) in self.clients.iter().enumerate() {
            let violations = match &client.part {
                Part::Viewer(viewer) => &viewer.violations,
                Part::Watcher(watcher) => &watcher.violations,
                Part::Publisher(_) => continue,
            };
            assert!(violations.is_empty(), "viewer {index}: {:?}", &violations[..violations.len().min(5)]);
        }
    }

    pub fn watcher(&self, client: usize) -> &Watcher {
        self.clients[client].watcher()
    }

    pub fn viewer(&self, client: usize) -> &Viewer {
        self.clients[client].viewer()
    }

    pub fn publisher(&self, client: usize) -> &Publisher {
        self.clients[client].publisher()
    }

    /// One line for each client and one for the server.
    pub fn summary(&self) -> String {
        let mut lines = vec![format!(
            "at {} ms: network lost {}, duplicated {}, corrupted {}, stray {}; {}",
            self.now / 1000,
            self.network.lost,
            self.network.duplicated,
            self.network.corrupted,
            self.strays,
            self.server.tally()
        )];
        for (index, client) in self.clients.iter().enumerate().take(8) {
            let connected = if client.connected { client.connected_at / 1000 } else { 0 };
            lines.push(match &client.part {
                Part::Publisher(part) => format!(
                    "{index}: publisher {}, connected at {connected} ms, {} pictures ({} key, {} asked for), {} sounds",
                    part.id, part.frames, part.key_frames, part.key_frame_requests, part.sounds
                ),
                Part::Watcher(part) => {
                    format!("{index}: member, connected at {connected} ms, saw {:?}, heard {:?}, {:?}", part.seen, part.heard, part.sizes)
                }
                Part::Viewer(part) => format!(
                    "{index}: viewer, connected at {connected} ms, {} pictures ({} key), {} lost, {} undecodable, {} sounds, {} lost",
                    part.frames, part.key_frames, part.lost, part.undecodable, part.sounds, part.lost_sounds
                ),
            });
        }
        lines.join("\n")
    }
}

/// Runs a scenario for each of its seeds, or for those of the environment, and says which one failed.
pub fn for_seeds(fixed: &[u64], scenario: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match (number("SIM_SEED"), number("SIM_RUNS")) {
        (Some(seed), None) => vec![seed],
        (seed, Some(runs)) => (0..runs).map(|run| seed.unwrap_or(1_000) + run).collect(),
        (None, None) => fixed.to_vec(),
    };
    for seed in seeds {
        if let Err(failure) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("failed with SIM_SEED={seed}");
            resume_unwind(failure);
        }
    }
}

/// Runs a scenario with its world and prints the world's summary when it fails.
pub fn watching(world: &mut World, scenario: impl FnOnce(&mut World)) {
    let outcome = catch_unwind(AssertUnwindSafe(|| scenario(world)));
    let verbose = std::env::var_os("SIM_VERBOSE").is_some();
    if outcome.is_err() || verbose {
        eprintln!("{}", world.summary());
    }
    if let Err(failure) = outcome {
        resume_unwind(failure);
    }
}

/// Says who a session belongs to, for [`Purpose`] is all that differs between the two ways to join.
pub fn path(room: &str, purpose: Purpose, session: String) -> SessionPath {
    SessionPath { room: room.to_owned(), purpose, session }
}
