//! What the benches and the instruction counts measure on: a publisher's packets, receivers with keys of their own, and a whole
//! worker on a network of queues.
//!
//! A packet has 1200 bytes or so of VP8 and the extensions that browsers send. All packets are first ones of key frames, so that
//! none is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use distributary::config::HoldChoice;
use distributary::io::{Fake, Io};
use distributary::limits::SESSIONS_MAX;
use distributary::mem::{Arena, Handoff, PacketMut, SendBatch, Slots};
use distributary::metrics::{Counter, WorkerMetrics};
use distributary::peer::send::Binding;
use distributary::peer::{Keys, Peer};
use distributary::room::shard::{Shard, Subscriber};
use distributary::rtp::config::{Codec, CodecConfig, Direction, Feedback, Format, MediaConfig, MediaKind, Mid, StreamPair};
use distributary::rtp::media::Media;
use distributary::secure::srtp::{KeyingMaterial, Profile, Receiver, Sender};
use distributary::units::{Micros, PayloadType, PeerId, RtpTime, SequenceNumber, Ssrc, TrackId, WorkerId};
use distributary::wire::extension::{ExtensionKind, ExtensionMap};
use distributary::wire::rtp;
use distributary::wire::stun::{IntegrityKey, Request, Role, write_request};
use distributary::worker::hold::Hold;
use distributary::worker::mail::{self, Command, Offices, Ufrag};
use distributary::worker::{Worker, mail::IcePassword};

pub const PROFILE: Profile = Profile::AeadAes128Gcm;
const PAYLOAD: usize = 1160;
const VIDEO: PayloadType = PayloadType(96);
const PUBLISHER_SSRC: Ssrc = Ssrc(7);
const TRACK: TrackId = TrackId { slot: 0, generation: 0 };
const PASSWORD: &str = "0123456789abcdefghijklmn";

/// Keying material of one session, different for each.
pub fn exporter(session: usize) -> Vec<u8> {
    let mut state = session as u64 + 1;
    (0..PROFILE.keying_material_len())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn material(session: usize) -> KeyingMaterial {
    KeyingMaterial::from_exporter(PROFILE, &exporter(session)).expect("its length")
}

/// What a client seals with.
pub fn client(session: usize) -> Sender {
    Sender::new(&material(session).split(false).0)
}

/// The server's end of the same session.
pub fn keys(session: usize) -> Box<Keys> {
    let (outbound, inbound) = material(session).split(true);
    Box::new(Keys { outbound: Sender::new(&outbound), inbound: Receiver::new(&inbound, 4) })
}

/// A plaintext packet as a publisher sends it; the lengths of its header and of all.
pub fn packet(space: &mut [u8], sequence: u16) -> (usize, usize) {
    let (number, time) = (SequenceNumber(sequence), RtpTime(u32::from(sequence) * 100));
    let transport = sequence.to_be_bytes();
    let elements: [(u8, &[u8]); 3] = [(4, b"1"), (3, &transport), (2, &[1, 2, 3])];
    let header = rtp::write_header(space, true, VIDEO, number, time, PUBLISHER_SSRC, elements.into_iter()).expect("space");
    let payload = &mut space[header..header + PAYLOAD];
    payload.fill(0x5a);
    payload[..6].copy_from_slice(&[0x90, 0xe0, 0x81, 0x02, 3, 0]);
    (header, header + PAYLOAD)
}

fn config(direction: Direction, stream: StreamPair) -> MediaConfig {
    let mut extensions = ExtensionMap::default();
    for (kind, id) in [(ExtensionKind::AbsSendTime, 2), (ExtensionKind::Mid, 4)] {
        extensions.set(kind, id);
    }
    // Viewers that tell nothing of their paths.
    if direction == Direction::RecvOnly {
        extensions.set(ExtensionKind::TransportSequence, 3);
    }
    let feedback = Feedback { nack: true, pli: true, fir: false, transport_cc: true, ..Feedback::default() };
    let codec = CodecConfig {
        codec: Codec::Vp8,
        payload_type: VIDEO,
        rtx: None,
        red: None,
        clock_rate: 90_000,
        format: Format::Any,
        feedback,
    };
    let publishes = direction == Direction::RecvOnly;
    MediaConfig {
        mid: Mid::from("1").expect("short"),
        kind: MediaKind::Video,
        direction,
        codecs: ArrayVec::from_iter([codec]),
        extensions,
        fec: None,
        remote_streams: publishes.then_some(stream).into_iter().collect(),
        rids: ArrayVec::new(),
        local_stream: (!publishes).then_some(stream),
    }
}

fn peer_id(slot: usize) -> PeerId {
    PeerId { slot: slot as u32, generation: 0 }
}

fn address(slot: usize) -> SocketAddr {
    ([192, 0, 2, 1 + (slot / 50_000) as u8], 10_000 + (slot % 50_000) as u16).into()
}

/// The session that publishes: slot 0.
fn publisher() -> Peer {
    let media = config(Direction::RecvOnly, StreamPair { media: PUBLISHER_SSRC, rtx: None });
    Peer::new(peer_id(0), &[media], Some(&[TRACK]), Ssrc(1), || 0)
}

fn viewer(slot: usize) -> Peer {
    let media = config(Direction::SendOnly, StreamPair { media: Ssrc(1_000 + slot as u32), rtx: None });
    Peer::new(peer_id(slot), &[media], None, Ssrc(1), || slot as u64 * 0x1_0001_0001)
}

fn binding() -> Binding {
    Binding { track: TRACK, payload_type: VIDEO, rtx: None, clock_rate: 90_000, encrypted: false }
}

/// A publisher's session alone, up to what its packets become.
pub struct Receiving {
    peer: Peer,
    client: Sender,
    slots: Slots,
    metrics: WorkerMetrics,
    next: u64,
}

impl Default for Receiving {
    fn default() -> Self {
        let mut peer = publisher();
        peer.set_keys(keys(0));
        Receiving { peer, client: client(0), slots: Arena::leak(512), metrics: WorkerMetrics::default(), next: 100 }
    }
}

impl Receiving {
    /// The next packet, as the network brings it.
    pub fn sealed(&mut self) -> PacketMut {
        self.next += 1;
        let mut space = [0; 1500];
        let (header, len) = packet(&mut space, self.next as u16);
        let sealed = self.client.protect_rtp(&mut space, header, len, self.next).expect("space");
        let mut packet = self.slots.take().expect("a slot");
        packet.fill(&space[..sealed]);
        packet
    }

    pub fn receive(&mut self, packet: PacketMut) -> Media {
        let now = Micros(self.next * 1_000);
        self.peer.receive(packet, now, &self.metrics).expect("in order")
    }
}

/// One packet after the other to many receivers, without a worker around.
pub struct FanOut {
    receivers: Vec<Peer>,
    media: Vec<Media>,
    batch: SendBatch,
}

impl FanOut {
    /// `burst` packets go to each receiver at a time.
    pub fn new(receivers: usize, burst: usize) -> FanOut {
        let mut receiving = Receiving::default();
        let media = (0..burst).map(|_| receiving.sealed()).collect::<Vec<_>>();
        let media = media.into_iter().map(|packet| receiving.receive(packet)).collect();
        let receivers = (1..=receivers).map(|slot| {
            let mut peer = viewer(slot);
            peer.checked(address(slot), true, Micros::ZERO);
            peer.set_keys(keys(slot));
            peer.senders[0].bind(Some(binding()));
            peer
        });
        FanOut { receivers: receivers.collect(), media, batch: SendBatch::default() }
    }

    /// Sends the burst to all; the next one has the numbers that follow.
    pub fn turn(&mut self) {
        for peer in &mut self.receivers {
            for media in &self.media {
                if !self.batch.has_room() {
                    self.batch.clear();
                }
                peer.forward(0, media, &Default::default(), &[], media.arrival, &mut self.batch).expect("bound");
            }
        }
        let burst = self.media.len() as u64;
        self.media.iter_mut().for_each(|media| media.sequence.0 += burst);
    }
}

/// A worker with one publisher and its viewers.
pub struct Room {
    worker: Worker,
    offices: Offices,
    metrics: Arc<WorkerMetrics>,
    publisher: Sender,
    viewers: usize,
    next: u64,
    forwarded: u64,
}

impl Room {
    pub fn new(viewers: usize) -> Room {
        let io = Io::Fake(Fake::new(Arena::leak(4096)));
        let (mut mails, offices) = mail::connect(&[io.waker()], Arc::new(|| {}), &[Arc::new(|| {})]);
        let (handoff, metrics) = (Arc::new(Handoff::new(SESSIONS_MAX)), Arc::<WorkerMetrics>::default());
        let hold = Hold::new(HoldChoice::Off, Micros::ZERO);
        let worker = Worker::new(WorkerId(0), io, mails.remove(0), handoff.clone(), metrics.clone(), hold);
        let mut room = Room { worker, offices, metrics, publisher: client(0), viewers, next: 100, forwarded: 0 };
        room.join(&handoff, publisher());
        let shard = Shard::new(TRACK, WorkerId(0), 0, MediaKind::Video, None, 1, 1024);
        room.tell(Command::OpenShard { shard: Box::new(shard) });
        for slot in 1..=viewers {
            room.join(&handoff, viewer(slot));
            let subscriber = Subscriber { peer: slot as u32, sender: 0 };
            room.tell(Command::Subscribe { subscriber, peer: peer_id(slot), binding: binding() });
        }
        // The first packets find the sources, and grow what grows once.
        (0..20).for_each(|_| room.turn(1));
        room
    }

    /// What the control plane, a client's check and its handshake do.
    fn join(&mut self, handoff: &Handoff<Peer>, peer: Peer) {
        let (id, slot) = (peer.id, peer.id.slot as usize);
        let ufrag = Ufrag::from(&format!("user{slot:012}")).expect("its length");
        handoff.put(id.slot, Box::new(peer));
        self.tell(Command::Expect { peer: id, ufrag, password: IcePassword::from(PASSWORD).expect("its length") });
        let check = Request {
            transaction_id: [0; 12],
            remote_ufrag: ufrag.as_bytes(),
            local_ufrag: b"it",
            priority: 1,
            role: Role::Controlling(1),
            use_candidate: true,
        };
        let mut space = [0; 256];
        let len = write_request(&mut space, &check, &IntegrityKey::new(PASSWORD.as_bytes())).expect("space");
        self.network().deliver(address(slot), &space[..len]);
        self.step();
        self.tell(Command::Keys { peer: id, keys: keys(slot) });
    }

    fn tell(&mut self, command: Command) {
        assert!(self.offices.director[0].push(command).is_ok());
        self.step();
    }

    fn network(&mut self) -> &mut Fake {
        match self.worker.io_mut() {
            Io::Fake(fake) => fake,
            _ => unreachable!("made with it"),
        }
    }

    fn step(&mut self) {
        self.worker.step();
        let network = self.network();
        while let Some((_, datagram)) = network.outbound.pop() {
            network.recycle(datagram);
        }
        while self.offices.events[0].pop().is_ok() {}
        while self.offices.handshakes[0].events[0].pop().is_ok() {}
    }

    /// A millisecond later `burst` packets arrive, and are forwarded to all viewers. Every tenth turn has timers to serve too.
    pub fn turn(&mut self, burst: usize) {
        self.network().now.0 += 1_000;
        for _ in 0..burst {
            self.next += 1;
            let mut space = [0; 1500];
            let (header, len) = packet(&mut space, self.next as u16);
            let sealed = self.publisher.protect_rtp(&mut space, header, len, self.next).expect("space");
            self.network().deliver(address(0), &space[..sealed]);
        }
        self.step();
        self.forwarded += (burst * self.viewers) as u64;
        assert_eq!(self.metrics.get(Counter::MediaForwarded), self.forwarded, "every packet to every viewer");
    }
}
