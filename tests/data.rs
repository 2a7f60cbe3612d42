//! Data channels of real clients: a worker, a thread's worth of handshakes and UDP on the loopback, with str0m, aiortc (an SCTP of its own,
//! in Python) and Chromium (dcsctp) on the other side. What a client sends comes back to it on the channel on which it came, and to all on
//! "everybody".
//!
//! aiortc and Chromium are what `tests/run setup` installs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, Once, mpsc};
use std::time::{Duration, Instant};

use distributary::io::{Fake, Io};
use distributary::mem::{Arena, Handoff};
use distributary::metrics::{Counter, DropReason, WorkerMetrics};
use distributary::peer::Peer;
use distributary::secure::dtls::{Fingerprint, Identity, Role};
use distributary::secure::sctp::{Open, Reliability};
use distributary::signal::api::Gauges;
use distributary::signal::handshakes::{self, Handshakes, Notice, Order};
use distributary::signal::negotiate::{self, CodecPolicy, DtlsRole, LocalTransport, Standing, Ways};
use distributary::units::{Micros, PeerId, Ssrc, WorkerId};
use distributary::worker::Worker;
use distributary::worker::hold::Hold;
use distributary::worker::mail::{self, Command, Outbox};
use str0m::channel::{ChannelConfig, ChannelId, Reliability as TheirReliability};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

/// The server but for its director, which this test is.
struct Server {
    base: Instant,
    socket: UdpSocket,
    address: SocketAddr,
    worker: Worker,
    handshakes: Handshakes,
    commands: Outbox<Command>,
    orders: mpsc::Sender<Order>,
    notices: mpsc::Receiver<Notice>,
    handoff: Arc<Handoff<Peer>>,
    identity: Identity,
    metrics: Arc<WorkerMetrics>,
    peers: Vec<PeerId>,
    open: Vec<(PeerId, Open)>,
    got: Vec<(PeerId, String, bool, usize)>,
    closed: Vec<(PeerId, String)>,
    loss: Loss,
}

/// Loses datagrams, by chance but always the same ones (splitmix64).
#[derive(Default)]
struct Loss {
    percent: u64,
    state: u64,
}

impl Loss {
    fn loses(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100 < self.percent
    }
}

impl Server {
    fn new() -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not wait");
        let io = Io::Fake(Fake::new(Arena::leak(4096)));
        let (mut mails, offices) = mail::connect(&[io.waker()], Arc::new(|| {}), &[Arc::new(|| {})]);
        let identity = Identity::generate().expect("a certificate");
        let handoff = Arc::new(Handoff::new(64));
        let (order_sender, orders) = mpsc::channel();
        let (notice_sender, notices) = mpsc::channel();
        let metrics: Arc<WorkerMetrics> = Arc::default();
        let office = offices.handshakes.into_iter().next().expect("one thread");
        let links = handshakes::Links { orders, notices: notice_sender, office };
        let handshakes = Handshakes::new(identity.clone(), links, metrics.clone(), Arc::new(Gauges::default()));
        let hold = Hold::new(distributary::config::HoldChoice::Off, Micros::ZERO);
        let worker = Worker::new(WorkerId(0), io, mails.remove(0), handoff.clone(), Arc::default(), hold);
        Server {
            base: Instant::now(),
            address: socket.local_addr().expect("an address"),
            socket,
            worker,
            handshakes,
            commands: offices.director.into_iter().next().expect("one worker"),
            orders: order_sender,
            notices,
            handoff,
            identity,
            metrics,
            peers: Vec::new(),
            open: Vec::new(),
            got: Vec::new(),
            closed: Vec::new(),
            loss: Loss::default(),
        }
    }

    fn join(&mut self, offer: &str) -> String {
        let slot = self.peers.len() as u32;
        let id = PeerId { slot, generation: 1 };
        let (ufrag, password) = (format!("user{slot:04}"), format!("password-password-{slot:06}"));
        let local = LocalTransport {
            ufrag: &ufrag,
            pwd: &password,
            fingerprint: &self.identity.fingerprint().to_string(),
            candidates: &[self.address],
            session_id: 1,
            cname: "test",
            tcp_port: None,
        };
        let mut assign = |media: &[_], _: &[_]| vec![None; media.len()];
        let standing = Standing { previous: &[], described: &[], assign: &mut assign };
        let agreed = negotiate::answer_further(offer, Ways::Each, &local, &mut || 1, &CodecPolicy::default(), standing)
            .unwrap_or_else(|error| panic!("{error}: {offer}"));
        assert!(agreed.data.is_some(), "no data channels in {offer}");
        let mut random = || 7;
        self.handoff.put(slot, Box::new(Peer::new(id, &agreed.media, None, Ssrc(9), &mut random)));
        let fingerprints = agreed.fingerprints.iter().filter_map(|(function, digest)| {
            let digest: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("{function} {}", digest.join(":")).parse::<Fingerprint>().ok()
        });
        let role = if agreed.dtls_role == DtlsRole::Client { Role::Client } else { Role::Server };
        let order = Order::Expect { peer: id, role, fingerprints: fingerprints.collect(), publishes: false, data: agreed.data };
        self.orders.send(order).expect("the handshakes");
        let channels =
            vec![Open { label: "server".into(), protocol: "".into(), ordered: true, reliability: Reliability::Reliable }];
        self.orders.send(Order::OpenChannels { peer: id, channels }).expect("the handshakes");
        let expect = Command::Expect {
            peer: id,
            ufrag: ufrag.as_str().try_into().expect("it fits"),
            password: password.as_str().try_into().expect("it fits"),
        };
        assert!(self.commands.push(expect).is_ok(), "the ring has room");
        self.peers.push(id);
        agreed.answer
    }

    fn fake(&mut self) -> &mut Fake {
        match self.worker.io_mut() {
            Io::Fake(fake) => fake,
            _ => unreachable!("made with Io::Fake"),
        }
    }

    fn turn(&mut self) {
        let now = Micros(self.base.elapsed().as_micros() as u64);
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut bytes) {
            self.fake().deliver(from, &bytes[..length]);
        }
        self.handshakes.turn(now);
        self.fake().now = now;
        self.worker.step();
        for (to, bytes) in std::mem::take(&mut self.fake().outbound) {
            if !self.loss.loses() {
                let _ = self.socket.send_to(&bytes, to);
            }
        }
        while let Ok(notice) = self.notices.try_recv() {
            self.notice(notice);
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::DataOpen { peer, channel } => {
                if &*channel.label == "server" {
                    self.send(&[peer], "server", false, b"welcome");
                }
                self.open.push((peer, channel));
            }
            Notice::Data { peer, label, binary, payload } => {
                self.got.push((peer, label.to_string(), binary, payload.len()));
                let peers = if &*label == "everybody" { self.peers.clone() } else { vec![peer] };
                let order = Order::SendData { peers: peers.into(), label, binary, payload, keep: false };
                self.orders.send(order).expect("the handshakes");
            }
            Notice::DataClosed { peer, reason } => self.closed.push((peer, reason)),
            Notice::Failed { reason, .. } => panic!("{reason}"),
            _ => {}
        }
    }

    fn send(&self, peers: &[PeerId], label: &str, binary: bool, payload: &[u8]) {
        let order = Order::SendData { peers: peers.into(), label: label.into(), binary, payload: payload.into(), keep: false };
        self.orders.send(order).expect("the handshakes");
    }
}

// ---- str0m ----------------------------------------------------------------------------------------------------------------------------

struct Client {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    channels: HashMap<String, ChannelId>,
    got: Vec<(String, bool, Vec<u8>)>,
    loss: Loss,
}

impl Client {
    fn join(server: &mut Server, channels: &[ChannelConfig]) -> Client {
        static CRYPTO: Once = Once::new();
        CRYPTO.call_once(|| str0m::crypto::from_feature_flags().install_process_default());
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not wait");
        let local = socket.local_addr().expect("an address");
        let mut rtc = Rtc::builder().build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").expect("a candidate"));
        let mut change = rtc.sdp_api();
        for channel in channels {
            change.add_channel_with_config(channel.clone());
        }
        let (offer, pending) = change.apply().expect("an offer");
        let answer = server.join(&offer.to_sdp_string());
        let answer = str0m::change::SdpAnswer::from_sdp_string(&answer).expect("an answer");
        rtc.sdp_api().accept_answer(pending, answer).expect("an acceptable answer");
        Client { rtc, socket, local, channels: HashMap::new(), got: Vec::new(), loss: Loss::default() }
    }

    fn turn(&mut self) {
        let mut bytes = [0; 2048];
        while let Ok((length, source)) = self.socket.recv_from(&mut bytes) {
            let contents = bytes[..length].try_into().expect("known");
            let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
            self.rtc.handle_input(Input::Receive(Instant::now(), receive)).expect("str0m goes on");
            self.poll();
        }
        self.rtc.handle_input(Input::Timeout(Instant::now())).expect("str0m goes on");
        self.poll();
    }

    fn poll(&mut self) {
        loop {
            match self.rtc.poll_output().expect("str0m goes on") {
                Output::Timeout(_) => break,
                Output::Transmit(transmit) => {
                    if !self.loss.loses() {
                        let _ = self.socket.send_to(&transmit.contents, transmit.destination);
                    }
                }
                Output::Event(Event::ChannelOpen(id, label)) => {
                    self.channels.insert(label, id);
                }
                Output::Event(Event::ChannelData(data)) => {
                    let label = self.channels.iter().find(|(_, id)| **id == data.id).map(|(label, _)| label.clone());
                    self.got.push((label.unwrap_or_default(), data.binary, data.data));
                }
                Output::Event(_) => {}
            }
        }
    }

    /// False while str0m has no room.
    fn send(&mut self, label: &str, binary: bool, payload: &[u8]) -> bool {
        let id = self.channels[label];
        self.rtc.channel(id).is_some_and(|mut channel| channel.write(binary, payload).expect("a write"))
    }

    fn on(&self, label: &str) -> Vec<&[u8]> {
        self.got.iter().filter(|(on, ..)| on == label).map(|(_, _, payload)| &payload[..]).collect()
    }
}

fn channel(label: &str, ordered: bool, reliability: TheirReliability) -> ChannelConfig {
    ChannelConfig { label: label.into(), ordered, reliability, ..ChannelConfig::default() }
}

fn until(
    what: &str,
    seconds: u64,
    server: &mut Server,
    clients: &mut [Client],
    mut done: impl FnMut(&mut Server, &mut [Client]) -> bool,
) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !done(server, clients) {
        if Instant::now() >= end {
            let got: Vec<usize> = clients.iter().map(|client| client.got.len()).collect();
            panic!("{what}: not within {seconds} s; the server got {}, clients {got:?}; {}", server.got.len(), tally(server));
        }
        server.turn();
        clients.iter_mut().for_each(Client::turn);
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn tally(server: &Server) -> String {
    let drops =
        DropReason::ALL.iter().map(|reason| (reason.label(), server.metrics.dropped(*reason))).filter(|(_, count)| *count > 0);
    format!("{:?}, closed {:?}", drops.collect::<Vec<_>>(), server.closed)
}

#[test]
fn str0m_on_a_lossy_path_gets_everything_reliable_and_is_told_of_everybody() {
    let mut server = Server::new();
    let channels = [
        channel("everybody", true, TheirReliability::Reliable),
        channel("_lossy", false, TheirReliability::MaxRetransmits { retransmits: 0 }),
    ];
    let mut clients = [Client::join(&mut server, &channels), Client::join(&mut server, &channels)];
    until("channels of both sides", 20, &mut server, &mut clients, |server, clients| {
        clients.iter().all(|client| client.channels.len() == 3 && client.on("server") == [b"welcome"]) && server.open.len() == 6
    });
    let lossy = server.open.iter().find(|(_, open)| &*open.label == "_lossy").expect("the lossy one");
    assert_eq!((lossy.1.ordered, lossy.1.reliability), (false, Reliability::MaxRetransmits(0)));

    // One datagram in ten is lost, in each direction.
    server.loss = Loss { percent: 10, state: 1 };
    clients.iter_mut().zip(2..).for_each(|(client, state)| client.loss = Loss { percent: 10, state });
    let mut next = [0u32; 2];
    until("all of both at both", 90, &mut server, &mut clients, |_, clients| {
        for (client, next) in clients.iter_mut().zip(&mut next) {
            let payload = [&next.to_be_bytes()[..], &vec![1; if *next % 20 == 0 { 10_000 } else { 50 }]].concat();
            if *next < 100 && client.send("everybody", true, &payload) {
                // As much as a datagram takes: of messages that share one, the loss of a few decides.
                client.send("_lossy", true, &[&next.to_be_bytes()[..], &[1; 600]].concat());
                *next += 1;
            }
        }
        clients.iter().all(|client| client.on("everybody").len() == 200)
    });
    for client in &clients {
        // All of both senders: 100 numbers, twice.
        let number = |payload: &&[u8]| u32::from_be_bytes(payload[..4].try_into().unwrap());
        let numbers: Vec<u32> = client.on("everybody").iter().map(number).collect();
        for number in 0..100 {
            assert_eq!(numbers.iter().filter(|n| **n == number).count(), 2, "{number}");
        }
        let lossy = client.on("_lossy").len();
        assert!((50..100).contains(&lossy), "{lossy} of 100 came back, of which either direction lost some");
    }
    assert_eq!(server.closed, []);
}

#[test]
fn the_kinds_of_messages_survive_str0m() {
    let mut server = Server::new();
    let mut clients = [Client::join(&mut server, &[channel("echo", true, TheirReliability::Reliable)])];
    until("channels", 20, &mut server, &mut clients, |_, clients| clients[0].channels.len() == 2);
    let long = vec![b'x'; 64 * 1024];
    let messages: [(bool, &[u8]); 4] = [(true, b"binary"), (false, "téxt".as_bytes()), (true, &long), (false, &long)];
    for (binary, payload) in messages {
        until("room", 5, &mut server, &mut clients, |_, clients| clients[0].send("echo", binary, payload));
    }
    until("echoes", 20, &mut server, &mut clients, |_, clients| clients[0].on("echo").len() == messages.len());
    let got: Vec<(bool, &[u8])> =
        clients[0].got.iter().filter(|(label, ..)| label == "echo").map(|(_, binary, payload)| (*binary, &payload[..])).collect();
    assert_eq!(got, messages);
    // On a channel that it has not: counted.
    server.send(&server.peers.clone(), "nowhere", true, b"x");
    server.turn();
    assert_eq!(server.metrics.dropped(DropReason::DataUnknownChannel), 1);
    assert_eq!(server.metrics.get(Counter::DataReceived), 4);
}

/// A member that others know of is promised what they say from then on, though its channels take a while yet.
#[test]
fn what_comes_before_a_channel_is_open_is_kept_for_it_up_to_a_bound() {
    let mut server = Server::new();
    let mut clients = [Client::join(&mut server, &[channel("late", true, TheirReliability::Reliable)])];
    let early = |server: &Server, label: &str, payload: Vec<u8>| {
        let peers = server.peers.clone().into();
        let order = Order::SendData { peers, label: label.into(), binary: true, payload: payload.into(), keep: true };
        server.orders.send(order).expect("the handshakes");
    };
    for number in 0..10 {
        early(&server, "late", vec![number; 10_000]);
    }
    early(&server, "server", vec![10; 10_000]);
    // There is no room for more, and none of what was kept is lost for it.
    for _ in 0..3 {
        early(&server, "late", vec![11; 40_000]);
    }
    until("what was kept", 20, &mut server, &mut clients, |_, clients| {
        clients[0].on("late").len() == 10 && clients[0].on("server").len() == 2
    });
    assert!(clients[0].on("late").iter().zip(0..).all(|(payload, number)| **payload == vec![number; 10_000]));
    assert_eq!(clients[0].on("server"), [&vec![10; 10_000][..], b"welcome"]);
    assert_eq!(server.metrics.dropped(DropReason::DataUnknownChannel), 3);
    // And with the channel open there is nothing to keep.
    early(&server, "late", vec![12; 40_000]);
    until("what is live", 20, &mut server, &mut clients, |_, clients| clients[0].on("late").len() == 11);
}

/// What goes to ten receivers, each gets, one message after the other.
#[test]
fn ten_receivers_get_every_message() {
    let mut server = Server::new();
    let mut clients: Vec<Client> =
        (0..10).map(|_| Client::join(&mut server, &[channel("c", true, TheirReliability::Reliable)])).collect();
    until("channels", 20, &mut server, &mut clients, |_, clients| clients.iter().all(|client| client.channels.len() == 2));
    let (payload, peers): (Arc<[u8]>, Arc<[PeerId]>) = (vec![7; 200].into(), server.peers.clone().into());
    let rounds = 200;
    for round in 1..=rounds {
        let order =
            Order::SendData { peers: peers.clone(), label: "c".into(), binary: true, payload: payload.clone(), keep: false };
        server.orders.send(order).expect("the handshakes");
        until("arrivals", 20, &mut server, &mut clients, |_, clients| clients.iter().all(|client| client.on("c").len() >= round));
    }
}

// ---- others ---------------------------------------------------------------------------------------------------------------------------

/// A client in another process: it says its offer in one line of JSON, is told the answer, and says what it saw.
fn talk_to(program: &mut Program) -> (Server, String) {
    let mut child = Ended(program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program"));
    let mut input = child.0.stdin.take().expect("its input");
    let output = child.0.stdout.take().expect("its output");
    let (line_sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).for_each(|line| drop(line_sender.send(line)));
    });
    let offer = lines.recv_timeout(Duration::from_secs(60)).expect("an offer");
    let offer: String = serde_json::from_str(&offer).unwrap_or_else(|error| panic!("{error}: {offer}"));
    let mut server = Server::new();
    let answer = server.join(&offer);
    writeln!(input, "{}", serde_json::to_string(&answer).expect("a string")).expect("it listens");
    let mut said = None;
    until("its report", 90, &mut server, &mut [], |_, _| {
        said = said.take().or_else(|| lines.try_recv().ok());
        said.is_some()
    });
    (server, said.expect("a report"))
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn judge(server: &Server, report: &str) {
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}"));
    assert_eq!(report["server"], serde_json::json!(["welcome"]), "{report}");
    assert_eq!(
        report["echoes"],
        serde_json::json!(["text:t\u{e9}xt", "binary:6", "text:", "binary:0", "text:60000", "binary:60000"]),
        "{report}"
    );
    assert_eq!(report["numbers"], serde_json::json!((0..300).collect::<Vec<u32>>()), "{report}");
    let lossy = report["lossy"].as_array().map(Vec::len);
    assert!(lossy.is_some_and(|lossy| lossy > 200), "{lossy:?} of 300 on a loopback that loses next to nothing");
    let kinds: Vec<(&str, bool, Reliability)> =
        server.open.iter().map(|(_, open)| (&*open.label, open.ordered, open.reliability)).collect();
    assert!(kinds.contains(&("_lossy", false, Reliability::MaxRetransmits(0))), "{kinds:?}");
    assert!(kinds.contains(&("_reliable", true, Reliability::Reliable)), "{kinds:?}");
    assert_eq!(server.closed, [], "{}", tally(server));
}

#[test]
fn aiortc() {
    let python = std::env::var_os("VENV_PYTHON").map_or_else(|| tests().join(".cache/venv/bin/python"), PathBuf::from);
    assert!(python.exists(), "there is no {}: tests/run setup installs it", python.display());
    let (server, report) = talk_to(Program::new(python).arg(tests().join("interop/data_client.py")));
    judge(&server, &report);
}

#[test]
fn chromium() {
    let installed = tests().join("node_modules/puppeteer-core").exists() && Path::new("/usr/bin/chromium").exists();
    assert!(installed, "there is no Chromium or no puppeteer-core: tests/run setup installs them");
    let (server, report) = talk_to(Program::new("node").arg(tests().join("browser/data_client.mjs")));
    judge(&server, &report);
}
