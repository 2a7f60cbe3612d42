//! Data channels: one SCTP association over DTLS (RFC 8831, RFC 8261), its channels announced in it (RFC 8832), without I/O.
//!
//! What DTLS received and the time go in, what DTLS is to send and [`Event`]s come out. This is slow-path code: it allocates, and
//! never runs in a worker.
//!
//! SCTP itself is sctp-proto 0.10: sans-I/O, and what str0m runs on. What is done in front of it:
//! - a [`gate`] lets only packets pass that an honest client could have sent, because the library keeps more of others than it
//!   counts, and ends the association over some that an honest network delivers;
//! - messages to send wait here, shared by all receivers of one, and the library gets a little at a time: it has no limit, cannot
//!   drop what is too old, and would let channels without order starve those with;
//! - it makes packets of many small chunks longer than they may be: they are split;
//! - it ends associations in silence, so the ABORT comes from here;
//! - it runs behind `catch_unwind`: a panic over what one peer sent costs that peer its channels, not the thread of all sessions.
//!
//! # Who asks
//! Clients ask for the association: all that we know do, as ICE's controlling side, as DTLS's client, or in any case. If none has asked for
//! [`ASK_AFTER`], we do. A client that asks just then wins: ours is forgotten. As DTLS's server we wait twice as long, so that two servers
//! of this kind do not both give way.
//!
//! # Slow receivers
//! An unreliable channel loses its oldest messages (`data_full`). A reliable one cannot lose any and stay what it was promised to be, so when
//! [`DATA_WAITING_BYTES`] are waiting the association is aborted (`data_slow_receiver`): the client sees its channels closed.

mod crc32c;
mod dcep;
mod gate;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sctp_proto::{
    AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Payload, PayloadProtocolIdentifier, ReliabilityType,
    ServerConfig, StreamEvent, TransportConfig,
};

pub use dcep::Open;
use gate::{Gate, Setup, Verdict};

use crate::limits::{
    CHANNELS_PER_PEER, DATA_MESSAGE_BYTES_MAX, DATA_MESSAGE_COST, DATA_WAITING_BYTES, DATA_WAITING_UNRELIABLE_BYTES,
    SCTP_RECEIVE_BYTES, SCTP_SEND_BYTES, SCTP_SEND_MESSAGES, SCTP_STREAMS,
};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::secure::dtls::{APPLICATION_DATA_MAX, Role};
use crate::units::Micros;

/// The SCTP port in our SDP (RFC 8841 §5).
pub const PORT: u16 = 5000;
/// How long we wait for the client's INIT.
pub const ASK_AFTER: Micros = Micros::from_secs(1);

/// The most data of one chunk: with its header and the packet's it fits a DTLS record. When the library bundles chunks it forgets the last one's
/// header and all padding; what gets too long by that is split again ([`gate::split`]).
const PAYLOAD_MAX: u32 = (APPLICATION_DATA_MAX - 28) as u32 & !3;
/// The library wants an address for its peer; it has one peer and sends nothing itself.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9));

static ENDPOINT: LazyLock<Arc<EndpointConfig>> = LazyLock::new(|| {
    let mut config = EndpointConfig::new();
    config.max_payload_size(PAYLOAD_MAX);
    Arc::new(config)
});

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let mut config = ServerConfig::new();
    config.transport = Arc::new(transport());
    Arc::new(config)
});

fn transport() -> TransportConfig {
    TransportConfig::default()
        .with_max_receive_buffer_size(SCTP_RECEIVE_BYTES as u32)
        .with_max_receive_message_size(DATA_MESSAGE_BYTES_MAX as u32)
        .with_max_num_inbound_streams(SCTP_STREAMS as u16)
        .with_max_num_outbound_streams(SCTP_STREAMS as u16)
        // Beyond the 200 ms for which a receiver may hold a SACK back (RFC 9260 §6.2), and far below its minimum of a second (§16), which is
        // a long time for those who talk: libwebrtc's choice too.
        .with_rto_initial_ms(500)
        .with_rto_min_ms(400)
        .with_rto_max_ms(5_000)
}

/// What a channel does about losses (RFC 8832 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reliability {
    Reliable,
    MaxRetransmits(u32),
    MaxLifetimeMillis(u32),
}

/// What the peer's SDP says of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub port: u16,
    /// 0: any.
    pub max_message_size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A channel is open, whoever opened it.
    Opened { id: u16, channel: Open },
    /// `payload` is UTF-8 if it is not `binary`.
    Message { id: u16, label: Arc<str>, binary: bool, payload: Arc<[u8]> },
    /// The peer closed a channel.
    ChannelClosed { id: u16, label: Arc<str> },
    /// The association is over, and with it all channels.
    Closed { reason: String },
}

/// Why nothing was sent, or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    NoChannel,
    /// Longer than the peer takes.
    TooLong,
    /// The receiver was too slow: the association has been aborted.
    SlowReceiver,
    ChannelLimit,
}

/// One association.
pub struct Association {
    metrics: Arc<WorkerMetrics>,
    role: Role,
    settings: Settings,
    /// The library's time runs from here on.
    base: (Instant, Micros),
    phase: Phase,
    gate: Gate,
    /// By stream identifier.
    channels: Vec<Channel>,
    /// Channels to be opened once there is an association.
    to_open: Vec<Open>,
    /// Which channel is next to send.
    turn: usize,
    events: VecDeque<Event>,
    transmits: VecDeque<Bytes>,
}

enum Phase {
    /// Nobody has asked yet; we do at this time.
    Waiting(Micros),
    Running(Box<Running>),
    Closed,
}

/// The library's state.
struct Running {
    endpoint: Endpoint,
    handle: AssociationHandle,
    association: sctp_proto::Association,
    setup: Setup,
    connected: bool,
}

struct Channel {
    id: u16,
    open: Open,
    /// Opened by us, and not acknowledged yet: everything goes in order until then (RFC 8832 §6).
    unacknowledged: bool,
    waiting: VecDeque<Message>,
    /// Bytes of `waiting`, with [`DATA_MESSAGE_COST`].
    waiting_bytes: usize,
    /// Sizes of messages with the library, the oldest first, and their sum.
    handed: VecDeque<u32>,
    handed_bytes: usize,
}

struct Message {
    payload: Arc<[u8]>,
    binary: bool,
    at: Micros,
}

impl Message {
    fn cost(&self) -> usize {
        self.payload.len() + DATA_MESSAGE_COST
    }
}

impl Association {
    /// For a DTLS association in `role` that has just been set up. `metrics` is the calling thread's own table.
    pub fn new(role: Role, settings: Settings, metrics: Arc<WorkerMetrics>, now: Micros) -> Self {
        Association {
            metrics,
            role,
            settings,
            base: (Instant::now(), now),
            phase: Phase::Waiting(if role == Role::Client { now + ASK_AFTER } else { now + ASK_AFTER + ASK_AFTER }),
            gate: Gate::new(now),
            channels: Vec::new(),
            to_open: Vec::new(),
            turn: 0,
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// Takes a packet of the peer.
    pub fn receive(&mut self, packet: Vec<u8>, now: Micros) {
        let setup = match &self.phase {
            Phase::Waiting(_) => Setup::Open,
            Phase::Running(running) => running.setup,
            Phase::Closed => return,
        };
        let packet = match self.gate.inspect(&packet, setup, now) {
            Verdict::Pass => Bytes::from(packet),
            Verdict::PassRewritten(packet) => Bytes::from(packet),
            Verdict::Ignore => return,
            Verdict::Drop(reason) => return self.metrics.count_drop(reason),
            Verdict::Abort => return self.abort(DropReason::SctpMalformed, "a message of too many fragments"),
        };
        self.guarded(|this| {
            this.feed(packet, now);
            this.pump(now);
        });
    }

    /// To be called at or after [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Micros) {
        self.guarded(|this| {
            let at = this.instant(now);
            match &mut this.phase {
                Phase::Waiting(ask_at) if *ask_at <= now => this.ask(),
                Phase::Running(running) => running.association.handle_timeout(at),
                _ => {}
            }
            this.pump(now);
        });
    }

    pub fn poll_timeout(&self) -> Option<Micros> {
        match &self.phase {
            Phase::Waiting(ask_at) => Some(*ask_at),
            Phase::Running(running) => running.association.poll_timeout().map(|at| self.micros(at)),
            Phase::Closed => None,
        }
    }

    /// The next packet for DTLS to send, at most [`APPLICATION_DATA_MAX`] bytes.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        next_of(&mut self.transmits)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        next_of(&mut self.events)
    }

    /// Opens a channel, now or when there is an association.
    pub fn open(&mut self, channel: Open, now: Micros) -> Result<(), SendError> {
        if self.channels.len() + self.to_open.len() >= CHANNELS_PER_PEER {
            return Err(SendError::ChannelLimit);
        }
        self.to_open.push(channel);
        self.guarded(|this| this.pump(now));
        Ok(())
    }

    /// The first open channel with this label.
    pub fn channel(&self, label: &str) -> Option<u16> {
        self.channels.iter().find(|channel| *channel.open.label == *label).map(|channel| channel.id)
    }

    /// Sends a message. What does not go is counted.
    pub fn send(&mut self, id: u16, binary: bool, payload: &Arc<[u8]>, now: Micros) -> Result<(), SendError> {
        let limit = match self.settings.max_message_size {
            0 => DATA_MESSAGE_BYTES_MAX,
            size => (size as usize).min(DATA_MESSAGE_BYTES_MAX),
        };
        let reliable_bytes: usize =
            self.channels.iter().filter(|channel| channel.is_reliable()).map(|channel| channel.waiting_bytes).sum();
        let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == id) else {
            self.metrics.count_drop(DropReason::DataUnknownChannel);
            return Err(SendError::NoChannel);
        };
        if payload.len() > limit {
            self.metrics.count_drop(DropReason::DataTooLong);
            return Err(SendError::TooLong);
        }
        let message = Message { payload: payload.clone(), binary, at: now };
        if channel.is_reliable() {
            if reliable_bytes + message.cost() > DATA_WAITING_BYTES {
                self.abort(DropReason::DataSlowReceiver, "the client does not read its reliable data channels");
                return Err(SendError::SlowReceiver);
            }
        } else {
            while channel.waiting_bytes + message.cost() > DATA_WAITING_UNRELIABLE_BYTES {
                channel.take();
                self.metrics.count_drop(DropReason::DataFull);
            }
        }
        channel.waiting_bytes += message.cost();
        channel.waiting.push_back(message);
        // Looking through all that is on its way is not for free: only if there is more now.
        self.guarded(|this| {
            if this.flush(now) {
                this.transmit(this.instant(now));
            }
        });
        Ok(())
    }

    /// Ends the association with an ABORT.
    pub fn close(&mut self) {
        if !matches!(self.phase, Phase::Closed) {
            self.transmits.extend(self.gate.abort().map(Bytes::from));
            self.end();
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Bytes that wait to be sent, those with the library included; each message counts [`DATA_MESSAGE_COST`] beside.
    pub fn waiting_bytes(&self) -> usize {
        self.channels.iter().map(|c| c.waiting_bytes + c.handed_bytes + c.handed.len() * DATA_MESSAGE_COST).sum()
    }

    fn abort(&mut self, reason: DropReason, text: &str) {
        self.metrics.count_drop(reason);
        self.close();
        self.events.push_back(Event::Closed { reason: text.to_owned() });
    }

    /// Gives back all but what is still to be polled.
    fn end(&mut self) {
        self.phase = Phase::Closed;
        (self.channels, self.to_open) = (Vec::new(), Vec::new());
        self.gate = Gate::new(Micros::ZERO);
    }

    /// Work with the library, whose panics end the association only.
    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.abort(DropReason::SctpMalformed, "the SCTP library failed");
        }
    }

    /// Asks the peer for an association.
    fn ask(&mut self) {
        let mut endpoint = Endpoint::new(ENDPOINT.clone(), Some(SERVER.clone()));
        let mut config = ClientConfig::new();
        config.transport = Arc::new(transport().with_local_port(PORT).with_remote_port(self.settings.port));
        match endpoint.connect(config, PEER) {
            Ok((handle, association)) => self.run(endpoint, handle, association, Setup::Open),
            Err(error) => self.lost(error.to_string()),
        }
    }

    fn run(&mut self, endpoint: Endpoint, handle: AssociationHandle, mut association: sctp_proto::Association, setup: Setup) {
        association.set_max_send_message_size(DATA_MESSAGE_BYTES_MAX as u32);
        self.phase = Phase::Running(Box::new(Running { endpoint, handle, association, setup, connected: false }));
    }

    /// Gives the library a packet that the gate let pass.
    fn feed(&mut self, packet: Bytes, now: Micros) {
        let at = self.instant(now);
        if let Phase::Running(running) = &mut self.phase {
            match running.endpoint.handle(at, PEER, None, None, packet) {
                Some((handle, DatagramEvent::AssociationEvent(event))) if handle == running.handle => {
                    running.association.handle_event(event);
                    if running.setup == Setup::Open && self.gate.peer_tag() != 0 {
                        // The answer to our INIT.
                        running.setup = Setup::Done;
                    }
                }
                Some((handle, DatagramEvent::NewAssociation(association))) => {
                    // The peer asks while we do.
                    let Phase::Running(running) = std::mem::replace(&mut self.phase, Phase::Closed) else { return };
                    self.run(running.endpoint, handle, association, Setup::With(self.gate.peer_tag()));
                }
                _ => {}
            }
            return;
        }
        let mut endpoint = Endpoint::new(ENDPOINT.clone(), Some(SERVER.clone()));
        if let Some((handle, DatagramEvent::NewAssociation(association))) = endpoint.handle(at, PEER, None, None, packet) {
            self.run(endpoint, handle, association, Setup::With(self.gate.peer_tag()));
        }
    }

    /// Takes from the library what it has for us, and gives it what may go.
    fn pump(&mut self, now: Micros) {
        let at = self.instant(now);
        loop {
            let Phase::Running(running) = &mut self.phase else { return };
            while running.association.accept_stream().is_some() {}
            let Some(event) = running.association.poll() else { break };
            match event {
                sctp_proto::Event::Connected => (running.setup, running.connected) = (Setup::Done, true),
                sctp_proto::Event::HandshakeFailed { reason } | sctp_proto::Event::AssociationLost { reason } => {
                    // What it still has to say, an ABORT for want of memory.
                    self.transmit(at);
                    return self.lost(reason.to_string());
                }
                sctp_proto::Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                sctp_proto::Event::Stream(StreamEvent::Finished { id }) => {
                    if let Some(index) = self.channels.iter().position(|channel| channel.id == id) {
                        let label = self.channels.remove(index).open.label;
                        self.events.push_back(Event::ChannelClosed { id, label });
                    }
                }
                _ => {}
            }
        }
        self.open_channels();
        self.flush(now);
        self.transmit(at);
    }

    fn transmit(&mut self, at: Instant) {
        let Phase::Running(running) = &mut self.phase else { return };
        let mut explained = true;
        while let Some(transmit) = running.association.poll_transmit(at) {
            let Payload::RawEncode(packets) = transmit.payload else { continue };
            for packet in packets {
                explained &= self.gate.explains(&packet);
                if packet.len() <= APPLICATION_DATA_MAX {
                    self.transmits.push_back(packet);
                } else {
                    self.transmits.extend(gate::split(&packet, APPLICATION_DATA_MAX).into_iter().map(Bytes::from));
                }
            }
        }
        if !explained {
            self.abort(DropReason::SctpMalformed, "the client sends what can never be delivered");
        }
    }

    fn lost(&mut self, reason: String) {
        self.end();
        self.events.push_back(Event::Closed { reason });
    }

    fn read(&mut self, id: u16) {
        loop {
            let Phase::Running(running) = &mut self.phase else { return };
            let Ok(mut stream) = running.association.stream(id) else { return };
            let Ok(Some(chunks)) = stream.read_sctp() else { return };
            let mut payload = vec![0; chunks.len()];
            if chunks.read(&mut payload).is_ok() {
                self.message(id, chunks.ppi, payload);
            }
        }
    }

    fn message(&mut self, id: u16, ppid: PayloadProtocolIdentifier, payload: Vec<u8>) {
        // An empty message is one byte of another protocol identifier (RFC 8831 §6.6).
        let (binary, payload) = match ppid {
            PayloadProtocolIdentifier::Dcep => return self.establish(id, &payload),
            PayloadProtocolIdentifier::String => (false, payload),
            PayloadProtocolIdentifier::Binary => (true, payload),
            PayloadProtocolIdentifier::StringEmpty => (false, Vec::new()),
            PayloadProtocolIdentifier::BinaryEmpty => (true, Vec::new()),
            PayloadProtocolIdentifier::Unknown => return self.metrics.count_drop(DropReason::SctpMalformed),
        };
        let Some(label) = self.channels.iter().find(|channel| channel.id == id).map(|channel| channel.open.label.clone()) else {
            return self.metrics.count_drop(DropReason::DataUnknownChannel);
        };
        if !binary && std::str::from_utf8(&payload).is_err() {
            return self.metrics.count_drop(DropReason::SctpMalformed);
        }
        self.acknowledged(id);
        self.metrics.add(Counter::DataReceived, 1);
        self.metrics.add(Counter::DataBytesReceived, payload.len() as u64);
        self.events.push_back(Event::Message { id, label, binary, payload: payload.into() });
    }

    fn establish(&mut self, id: u16, message: &[u8]) {
        match dcep::Message::read(message) {
            Some(dcep::Message::Ack) => self.acknowledged(id),
            Some(dcep::Message::Open(open)) if self.channels.len() + self.to_open.len() < CHANNELS_PER_PEER => {
                let Phase::Running(running) = &mut self.phase else { return };
                if self.channels.iter().any(|channel| channel.id == id) {
                    return self.metrics.count_drop(DropReason::SctpMalformed);
                }
                let mut channel = Channel::new(id, open, false);
                if channel.configure(running) {
                    channel.hand(running, dcep::Message::Ack.write().into(), PayloadProtocolIdentifier::Dcep);
                    self.events.push_back(Event::Opened { id, channel: channel.open.clone() });
                    self.channels.push(channel);
                }
            }
            Some(dcep::Message::Open(_)) => self.metrics.count_drop(DropReason::DataUnknownChannel),
            None => self.metrics.count_drop(DropReason::SctpMalformed),
        }
    }

    /// The peer knows a channel of ours: its acknowledgement came, or a message (RFC 8832 §6).
    fn acknowledged(&mut self, id: u16) {
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == id && channel.unacknowledged) {
            channel.unacknowledged = false;
            channel.configure(running);
        }
    }

    fn open_channels(&mut self) {
        let Phase::Running(running) = &mut self.phase else { return };
        if !running.connected {
            return;
        }
        for open in std::mem::take(&mut self.to_open) {
            // DTLS's client has the even streams, its server the odd ones (RFC 8832 §6).
            let first = if self.role == Role::Client { 0 } else { 1 };
            for id in (first..SCTP_STREAMS as u16).step_by(2) {
                if running.association.open_stream(id, PayloadProtocolIdentifier::Binary).is_err() {
                    continue;
                }
                let mut channel = Channel::new(id, open.clone(), true);
                if channel.configure(running) {
                    channel.hand(running, dcep::Message::Open(open.clone()).write().into(), PayloadProtocolIdentifier::Dcep);
                    self.events.push_back(Event::Opened { id, channel: open });
                    self.channels.push(channel);
                }
                break;
            }
        }
    }

    /// Hands messages to the library, one of each channel in turn, as far as it should have more. True if it got any.
    fn flush(&mut self, now: Micros) -> bool {
        let Phase::Running(running) = &mut self.phase else { return false };
        if self.channels.is_empty() || !running.connected {
            return false;
        }
        let (mut bytes, mut messages) = (0, 0);
        for channel in &mut self.channels {
            channel.settle(running);
            bytes += channel.handed_bytes;
            messages += channel.handed.len();
        }
        let (mut idle, mut handed) = (0, false);
        while idle < self.channels.len() && bytes < SCTP_SEND_BYTES && messages < SCTP_SEND_MESSAGES {
            let index = self.turn % self.channels.len();
            self.turn = index + 1;
            let channel = &mut self.channels[index];
            let Some(message) = channel.take() else {
                idle += 1;
                continue;
            };
            idle = 0;
            if let Reliability::MaxLifetimeMillis(millis) = channel.open.reliability
                && now.since(message.at) / 1_000 > u64::from(millis)
            {
                self.metrics.count_drop(DropReason::DataFull);
                continue;
            }
            let length = message.payload.len();
            if channel.send(running, message) {
                self.metrics.add(Counter::DataSent, 1);
                self.metrics.add(Counter::DataBytesSent, length as u64);
                handed = true;
            } else {
                // The stream is being reset: the channel is about to be closed.
                self.metrics.count_drop(DropReason::DataUnknownChannel);
            }
            (bytes, messages) = (bytes + length, messages + 1);
        }
        handed
    }

    fn instant(&self, now: Micros) -> Instant {
        self.base.0 + Duration::from_micros(now.since(self.base.1))
    }

    fn micros(&self, at: Instant) -> Micros {
        // Rounded up: a microsecond before it is due the library would do nothing.
        self.base.1 + Micros(at.saturating_duration_since(self.base.0).as_nanos().div_ceil(1_000) as u64)
    }
}

impl Channel {
    fn new(id: u16, open: Open, unacknowledged: bool) -> Self {
        let (waiting, handed) = (VecDeque::new(), VecDeque::new());
        Channel { id, open, unacknowledged, waiting, waiting_bytes: 0, handed, handed_bytes: 0 }
    }

    fn is_reliable(&self) -> bool {
        self.open.reliability == Reliability::Reliable
    }

    fn take(&mut self) -> Option<Message> {
        let message = next_of(&mut self.waiting)?;
        self.waiting_bytes -= message.cost();
        Some(message)
    }

    /// Tells the library how the channel is to be served.
    fn configure(&self, running: &mut Running) -> bool {
        let (kind, value) = match self.open.reliability {
            Reliability::Reliable => (ReliabilityType::Reliable, 0),
            Reliability::MaxRetransmits(count) => (ReliabilityType::Rexmit, count),
            Reliability::MaxLifetimeMillis(millis) => (ReliabilityType::Timed, millis),
        };
        let unordered = !self.open.ordered && !self.unacknowledged;
        let stream = running.association.stream(self.id);
        stream.and_then(|mut stream| stream.set_reliability_params(unordered, kind, value)).is_ok()
    }

    fn send(&mut self, running: &mut Running, message: Message) -> bool {
        const EMPTY: &[u8] = &[0];
        let (ppid, bytes) = match (message.binary, message.payload.is_empty()) {
            (true, false) => (PayloadProtocolIdentifier::Binary, Bytes::from_owner(Shared(message.payload))),
            (false, false) => (PayloadProtocolIdentifier::String, Bytes::from_owner(Shared(message.payload))),
            (true, true) => (PayloadProtocolIdentifier::BinaryEmpty, Bytes::from_static(EMPTY)),
            (false, true) => (PayloadProtocolIdentifier::StringEmpty, Bytes::from_static(EMPTY)),
        };
        self.hand(running, bytes, ppid)
    }

    /// Gives the library a message, uncopied.
    fn hand(&mut self, running: &mut Running, bytes: Bytes, ppid: PayloadProtocolIdentifier) -> bool {
        let length = bytes.len();
        let Ok(mut stream) = running.association.stream(self.id) else { return false };
        let handed = stream.set_default_payload_type(ppid).and_then(|()| stream.write_chunks(&mut [bytes]));
        if handed.is_ok() {
            self.handed.push_back(length as u32);
            self.handed_bytes += length;
        }
        handed.is_ok()
    }

    /// Counts out what the library has no more. It tells bytes only: the oldest messages go first.
    fn settle(&mut self, running: &mut Running) {
        let buffered = running.association.stream(self.id).and_then(|stream| stream.buffered_amount()).unwrap_or(0);
        while let Some(oldest) = self.handed.front().map(|length| *length as usize) {
            if self.handed_bytes < buffered + oldest {
                break;
            }
            self.handed_bytes -= oldest;
            next_of(&mut self.handed);
        }
    }
}

/// A message that several receivers have in common.
struct Shared(Arc<[u8]>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Takes the first, and lets an empty queue keep no memory: most associations are idle as a rule.
fn next_of<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let next = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    next
}

#[cfg(test)]
mod tests;
