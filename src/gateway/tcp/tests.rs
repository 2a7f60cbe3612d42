//! The relay between real sockets: a media port that echoes, and clients good and bad.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread::JoinHandle;

use super::*;

struct Relay {
    address: SocketAddr,
    media: UdpSocket,
    metrics: Arc<WorkerMetrics>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start() -> Relay {
        let media = UdpSocket::bind("127.0.0.1:0").unwrap();
        media.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, to) = (listener.local_addr().unwrap(), media.local_addr().unwrap());
        let (metrics, stop) = (Arc::<WorkerMetrics>::default(), Arc::<AtomicBool>::default());
        let (table, stopped) = (metrics.clone(), stop.clone());
        let thread = std::thread::spawn(move || run(listener, to, table, &stopped).unwrap());
        Relay { address, media, metrics, stop, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// A datagram that a client's frame became, and from where it came.
    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = [0; 2048];
        let (length, from) = self.media.recv_from(&mut bytes).unwrap();
        (bytes[..length].to_vec(), from)
    }

    fn until_counted(&self, reason: DropReason, count: u64) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while self.metrics.dropped(reason) < count {
            assert!(std::time::Instant::now() < end, "{} of {count} {}", self.metrics.dropped(reason), reason.label());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// A binding request without attributes (RFC 8489 §5).
fn binding_request() -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.extend([7; 12]);
    message
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes()[..], packet].concat()
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut frame).unwrap();
    frame
}

/// Whether the relay ends the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 16]), Ok(0)) || stream.peer_addr().is_err()
}

#[test]
fn frames_become_datagrams_and_back_however_they_are_cut() {
    let relay = Relay::start();
    let mut client = relay.connect();
    let largest = vec![0x80; DATAGRAM_BYTES_MAX];
    let stream = [framed(&binding_request()), framed(&[0x80, 1, 2, 3]), framed(&largest)].concat();
    // A few bytes at a time, so that lengths and frames are cut anywhere.
    for piece in stream.chunks(7) {
        client.write_all(piece).unwrap();
    }
    let (request, from) = relay.receive();
    assert_eq!(request, binding_request());
    assert_eq!(relay.receive(), (vec![0x80, 1, 2, 3], from));
    assert_eq!(relay.receive(), (largest.clone(), from));
    for packet in [&b"answer"[..], b"media", &largest] {
        relay.media.send_to(packet, from).unwrap();
        assert_eq!(read_frame(&mut client), packet);
    }
    // Another client is another address.
    let mut other = relay.connect();
    other.write_all(&framed(&binding_request())).unwrap();
    assert_ne!(relay.receive().1, from);
    assert_eq!(relay.metrics.get(Counter::TcpConnections), 2);
}

#[test]
fn who_does_not_begin_with_a_check_is_sent_away() {
    let relay = Relay::start();
    let response = [&[1, 1][..], &binding_request()[2..]].concat();
    let bad: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", &framed(b"\x16\xfe\xfd hello"), &framed(&response), &[0, 0], &[0xff, 0xff, 0, 1]];
    for (count, bytes) in bad.iter().enumerate() {
        let mut client = relay.connect();
        client.write_all(bytes).unwrap();
        assert!(is_closed(&mut client), "{bytes:?}");
        assert_eq!(relay.metrics.dropped(DropReason::TcpMalformed), count as u64 + 1);
    }
    // One that says nothing is waited for 5 s.
    let mut silent = relay.connect();
    assert!(is_closed(&mut silent));
    assert_eq!(relay.metrics.dropped(DropReason::TcpMalformed), bad.len() as u64 + 1);
    // A frame too long in the middle: what follows it cannot be read.
    let mut client = relay.connect();
    client.write_all(&[framed(&binding_request()), vec![0xff, 0xff]].concat()).unwrap();
    assert!(is_closed(&mut client));
    relay.until_counted(DropReason::TcpMalformed, bad.len() as u64 + 2);
}

#[test]
fn a_connection_that_nobody_answers_ends() {
    let relay = Relay::start();
    let mut client = relay.connect();
    client.write_all(&framed(&binding_request())).unwrap();
    let began = std::time::Instant::now();
    assert!(is_closed(&mut client));
    assert!(began.elapsed() >= ANSWER_TIME - Duration::from_secs(1));
}

#[test]
fn a_client_that_does_not_read_loses_packets_and_nobody_else_does() {
    let relay = Relay::start();
    let (mut slow, mut quick) = (relay.connect(), relay.connect());
    slow.write_all(&framed(&binding_request())).unwrap();
    let (_, slow_address) = relay.receive();
    quick.write_all(&framed(&binding_request())).unwrap();
    let (_, quick_address) = relay.receive();
    // What the buffers of its connection take, and a queue.
    let mut sent = 0;
    while relay.metrics.dropped(DropReason::TcpSlowReader) == 0 {
        (0..50).for_each(|_| drop(relay.media.send_to(&[1; 1200], slow_address)));
        std::thread::sleep(Duration::from_micros(500));
        sent += 50;
        assert!(sent < 100_000, "it cannot have taken all that");
    }
    for number in 0..100u8 {
        relay.media.send_to(&[number; 100], quick_address).unwrap();
        assert_eq!(read_frame(&mut quick), [number; 100]);
    }
    // Reading again, it gets whole packets, and then new ones.
    for _ in 0..TCP_WAITING_FRAMES {
        assert_eq!(read_frame(&mut slow), [1; 1200]);
    }
    loop {
        relay.media.send_to(&[2; 1200], slow_address).unwrap();
        match read_frame(&mut slow) {
            frame if frame == [2; 1200] => break,
            frame => assert_eq!(frame, [1; 1200]),
        }
    }
}

#[test]
fn connections_of_one_source_are_limited() {
    let relay = Relay::start();
    let held: Vec<TcpStream> = (0..TCP_CONNECTIONS_PER_SOURCE).map(|_| relay.connect()).collect();
    let mut more = relay.connect();
    assert!(is_closed(&mut more));
    assert_eq!(relay.metrics.dropped(DropReason::TcpLimit), 1);
    drop(held);
    // Places come back.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut client = relay.connect();
        let _ = client.write_all(&framed(&binding_request()));
        relay.media.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        if relay.media.recv_from(&mut [0; 64]).is_ok() {
            break;
        }
        assert!(std::time::Instant::now() < end);
    }
}
