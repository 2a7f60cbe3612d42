//! Programs that are made of the library, over real sockets with str0m for clients: the examples, and what they promise.

#[path = "../bench/examples/tap.rs"]
mod echo;
#[path = "../bench/examples/sfu.rs"]
mod sfu;
#[path = "sim/mod.rs"]
#[allow(unused)] // of the simulator only its clients
mod sim;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use distributary::config::Plan;
use distributary::signal::api::{Handle, Join, SessionPath};
use sim::client::{Client, Part, Publisher, Viewer};
use sim::network::Link;

/// Clients of the simulator on sockets of their own.
struct Clients {
    base: Instant,
    clients: Vec<(Client, UdpSocket)>,
}

impl Clients {
    fn new() -> Clients {
        Clients { base: Instant::now(), clients: Vec::new() }
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_micros() as u64
    }

    /// A client and its offer; `accept` is told of the answer by its index.
    fn add(&mut self, part: Part, server: SocketAddr) -> (usize, String) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(server).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let local = socket.local_addr().expect("an address");
        let (client, offer) = Client::new(part, local, server, Link::clean(), self.base, self.now(), 100);
        self.clients.push((client, socket));
        (self.clients.len() - 1, offer)
    }

    /// Runs all of them until `done` or for so many seconds at most.
    fn run(&mut self, seconds: u64, mut done: impl FnMut(&Clients) -> bool) {
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut buffer, mut sent) = ([0; 2048], Vec::new());
        while Instant::now() < end && !done(self) {
            let now = self.now();
            for (client, socket) in &mut self.clients {
                while let Ok(len) = socket.recv(&mut buffer) {
                    client.receive(&buffer[..len], now, &mut sent);
                }
                if client.next <= now {
                    client.turn(now, &mut sent);
                }
                for bytes in sent.drain(..) {
                    let _ = socket.send(&bytes);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn join(runtime: &tokio::runtime::Runtime, handle: &Handle, client: &mut Client, room: &str, offer: String) {
    let purpose = client.purpose();
    let address = "127.0.0.1".parse().expect("an address");
    let join = Join { room: room.to_owned(), purpose, offer, identity: None, client: address, user_agent: "test".to_owned() };
    let joined = runtime.block_on(handle.join(join)).unwrap_or_else(|refusal| panic!("{refusal}"));
    client.accept(&joined.answer, Some(SessionPath { room: room.to_owned(), purpose, session: joined.session }));
}

/// What is published in one room comes, through the program, to a viewer of another: whole pictures, byte for byte what was sent.
#[test]
fn a_program_reads_what_is_published_and_publishes_it_again() {
    let runtime = Arc::new(tokio::runtime::Runtime::new().expect("a runtime"));
    let (told, started) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let (in_program, ends) = (runtime.clone(), stop.clone());
    let program = std::thread::spawn(move || {
        let (running, mut echo) = echo::Echo::start(&Plan::default(), std::thread::current()).expect("a server");
        told.send((running.handle.clone(), running.media)).expect("the test waits");
        while !ends.load(Ordering::Relaxed) {
            echo.turn(|asked| in_program.block_on(asked.answer()));
            std::thread::park_timeout(Duration::from_millis(5));
        }
        running.stop();
        (echo.packets, echo.bytes)
    });
    let (handle, server) = started.recv().expect("a server");
    let mut clients = Clients::new();
    let (publisher, offer) = clients.add(Part::Publisher(Publisher::new(7)), server);
    join(&runtime, &handle, &mut clients.clients[publisher].0, "stage", offer);
    // Whoever is there for the first picture needs no other key frame: the viewer comes later.
    clients.run(30, |clients| clients.clients[publisher].0.publisher().frames >= 10);
    let asked = clients.clients[publisher].0.publisher().key_frames_asked[0];
    let (viewer, offer) = clients.add(Part::Viewer(Viewer::default()), server);
    join(&runtime, &handle, &mut clients.clients[viewer].0, "stage-echo", offer);
    clients.run(60, |clients| {
        let viewer = clients.clients[viewer].0.viewer();
        viewer.frames >= 60 && viewer.sounds >= 100
    });
    stop.store(true, Ordering::Relaxed);
    let (packets, bytes) = program.join().expect("the program ends");
    let (seen, made) = (clients.clients[viewer].0.viewer(), clients.clients[publisher].0.publisher());
    assert!(seen.frames >= 60 && seen.sounds >= 100, "{} pictures and {} sounds of the echo", seen.frames, seen.sounds);
    assert!(seen.violations.is_empty(), "{:?}", seen.violations);
    assert_eq!(seen.publishers.iter().copied().collect::<Vec<_>>(), [7]);
    assert!(made.frames > seen.frames && made.key_frames_asked[0] > asked, "a viewer of the echo makes a key frame be asked for");
    assert!(packets >= seen.frames + seen.sounds && bytes > 10_000, "{packets} packets, {bytes} bytes");
}

/// An SFU that is none of the server's: two viewers, one from before the publisher, see and hear all of it.
#[test]
fn an_sfu_of_the_parts_forwards() {
    let mut own = sfu::Sfu::new(UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("an SFU");
    let mut clients = Clients::new();
    let parts = [Part::Viewer(Viewer::default()), Part::Publisher(Publisher::new(9)), Part::Viewer(Viewer::default())];
    for part in parts {
        let publishes = matches!(part, Part::Publisher(_));
        let (index, offer) = clients.add(part, own.address);
        let client = &mut clients.clients[index].0;
        let answer = own.join(publishes, &offer).expect("an answer");
        client.accept(&answer, None);
        clients.run(5, |clients| {
            own.turn();
            clients.clients[index].0.connected
        });
        assert!(clients.clients[index].0.connected, "client {index}");
    }
    let all = |clients: &Clients| {
        let viewers = clients.clients.iter().filter(|(client, _)| matches!(client.part, Part::Viewer(_)));
        viewers.map(|(client, _)| client.viewer()).all(|viewer| viewer.frames >= 60 && viewer.sounds >= 100)
    };
    clients.run(30, |clients| {
        own.turn();
        all(clients)
    });
    for viewer in [0, 2] {
        let viewer = clients.clients[viewer].0.viewer();
        assert!(viewer.frames >= 60 && viewer.sounds >= 100, "{} pictures and {} sounds", viewer.frames, viewer.sounds);
        assert!(viewer.violations.is_empty(), "{:?}", viewer.violations);
        assert_eq!((viewer.lost, viewer.publishers.iter().copied().collect::<Vec<_>>()), (0, vec![9]));
    }
    let refused = own.join(true, "v=0\r\n").expect_err("there is a publisher");
    assert_eq!(refused, "somebody publishes already");
}
