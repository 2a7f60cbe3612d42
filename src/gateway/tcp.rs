//! ICE over TCP for clients whose network drops UDP: passive candidates (RFC 6544), packets framed by their length (RFC 4571).
//!
//! A relay beside the data plane, on one thread. Each connection gets a UDP socket of its own, connected to the media port over the
//! loopback, and frames are copied to datagrams and back. To a worker such a client is one more address, `127.0.0.1` with a port of its
//! own: nothing on the packet path knows of TCP. Trains (UDP_SEGMENT) are cut by the kernel for a socket without UDP_GRO, so that one read
//! here is one packet; AF_XDP leaves loopback addresses to the ordinary socket.
//!
//! A connection is worth two file descriptors, so it has to earn them: the first frame is a STUN binding request, something is answered
//! to it within [`ANSWER_TIME`], and then the client is heard of as often as consent wants (RFC 7675). They are limited in all, and for
//! each source address.
//!
//! What a client does not read in time is dropped here as by a full queue in the network (`tcp_slow_reader`): it is asked for again, or
//! adapted to. The kernel's send buffer is kept small for the same reason: what waits there is late for ever.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::limits::{
    CONSENT_MILLIS_MAX, DATAGRAM_BYTES_MAX, TCP_CONNECTIONS_MAX, TCP_CONNECTIONS_PER_SOURCE, TCP_SEND_BUFFER_BYTES,
    TCP_WAITING_FRAMES,
};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::wire::stun::{Class, Message};

/// For the first frame, and for the first answer to the client.
const FIRST_FRAME_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Without a frame of the client.
const IDLE_TIME: Duration = Duration::from_millis(CONSENT_MILLIS_MAX);
const BACKLOG: i32 = 256;
/// How soon the end of the server is noticed.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// The socket, dual-stack if the address is IPv6.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // What accepted sockets begin with.
    socket.set_send_buffer_size(TCP_SEND_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Relays between `listener` and the media sockets at `media` until `stop`. `metrics` is this thread's own table.
pub fn run(listener: std::net::TcpListener, media: SocketAddr, metrics: Arc<WorkerMetrics>, stop: &AtomicBool) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let local = tokio::task::LocalSet::new();
        local.run_until(accept(listener, reachable(media), metrics, stop)).await;
        Ok(())
    })
}

/// Where the media sockets are reached from this host.
fn reachable(media: SocketAddr) -> SocketAddr {
    match media.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), media.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), media.port()),
        _ => media,
    }
}

/// Connections by source address: shared by tasks of one thread.
type Open = std::rc::Rc<std::cell::RefCell<HashMap<IpAddr, usize>>>;

async fn accept(listener: TcpListener, media: SocketAddr, metrics: Arc<WorkerMetrics>, stop: &AtomicBool) {
    let open = Open::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(accepted) = timeout(STOP_INTERVAL, listener.accept()).await else { continue };
        let Ok((stream, from)) = accepted else {
            // No file descriptors left, most likely: some will be.
            tokio::time::sleep(STOP_INTERVAL).await;
            continue;
        };
        let source = from.ip().to_canonical();
        let Some(place) = Place::take(&open, source) else {
            metrics.count_drop(DropReason::TcpLimit);
            continue;
        };
        let metrics = metrics.clone();
        tokio::task::spawn_local(async move {
            // However it ends, the client sees that it has.
            let _ = relay(stream, media, &metrics).await;
            drop(place);
        });
    }
}

/// One of the connections that there may be; given back when dropped.
struct Place {
    open: Open,
    source: IpAddr,
}

impl Place {
    fn take(open: &Open, source: IpAddr) -> Option<Place> {
        let mut counts = open.borrow_mut();
        let total: usize = counts.values().sum();
        let from_source = counts.get(&source).copied().unwrap_or(0);
        if total >= TCP_CONNECTIONS_MAX || from_source >= TCP_CONNECTIONS_PER_SOURCE {
            return None;
        }
        counts.insert(source, from_source + 1);
        Some(Place { open: open.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.borrow_mut();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

async fn relay(stream: TcpStream, media: SocketAddr, metrics: &WorkerMetrics) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Not every kernel has it from the listener.
    let _ = SockRef::from(&stream).set_send_buffer_size(TCP_SEND_BUFFER_BYTES);
    let (tcp_in, tcp_out) = stream.into_split();
    let mut frames = Frames::new(tcp_in);
    let Ok(Ok(Some(first))) = timeout(FIRST_FRAME_TIME, frames.next()).await else {
        metrics.count_drop(DropReason::TcpMalformed);
        return Ok(());
    };
    if !Message::parse(first).is_ok_and(|message| message.class == Class::Request) {
        metrics.count_drop(DropReason::TcpMalformed);
        return Ok(());
    }
    let udp = UdpSocket::bind(SocketAddr::new(media.ip(), 0)).await?;
    udp.connect(media).await?;
    udp.send(first).await?;
    metrics.add(Counter::TcpConnections, 1);
    let (queue, queued) = mpsc::channel(TCP_WAITING_FRAMES);
    // Whichever ends first ends the connection.
    tokio::select! {
        done = to_media(&mut frames, &udp, metrics) => done,
        done = to_queue(&udp, queue, metrics) => done,
        done = to_client(queued, tcp_out) => done,
    }
}

/// Frames of the client, as datagrams.
async fn to_media(frames: &mut Frames, udp: &UdpSocket, metrics: &WorkerMetrics) -> io::Result<()> {
    while let Ok(frame) = timeout(IDLE_TIME, frames.next()).await {
        let frame = frame.inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                metrics.count_drop(DropReason::TcpMalformed);
            }
        })?;
        let Some(frame) = frame else { break };
        // A worker's full buffer loses datagrams; so it would by UDP.
        let _ = udp.try_send(frame);
    }
    Ok(())
}

/// Datagrams for the client, as far as it keeps up.
async fn to_queue(udp: &UdpSocket, queue: mpsc::Sender<Vec<u8>>, metrics: &WorkerMetrics) -> io::Result<()> {
    let mut bytes = [0; 2 + DATAGRAM_BYTES_MAX];
    let (answer_until, mut answered) = (Instant::now() + ANSWER_TIME, false);
    loop {
        let received = match answered {
            true => udp.recv(&mut bytes[2..]).await,
            // Nobody here knows it: what it sent first was no check for one of our sessions.
            false => match timeout_at(answer_until, udp.recv(&mut bytes[2..])).await {
                Ok(received) => received,
                Err(_) => return Ok(()),
            },
        };
        // The port is unreachable for a moment when workers start or stop.
        let Ok(length) = received else { continue };
        answered = true;
        bytes[..2].copy_from_slice(&(length as u16).to_be_bytes());
        match queue.try_send(bytes[..2 + length].to_vec()) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => metrics.count_drop(DropReason::TcpSlowReader),
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
        }
    }
}

async fn to_client(mut queued: mpsc::Receiver<Vec<u8>>, mut tcp: OwnedWriteHalf) -> io::Result<()> {
    let mut batch = Vec::new();
    while let Some(frame) = queued.recv().await {
        batch.clear();
        batch.extend(frame);
        // One write for what is there, up to what the kernel takes at once.
        while batch.len() < TCP_SEND_BUFFER_BYTES / 2
            && let Ok(frame) = queued.try_recv()
        {
            batch.extend(frame);
        }
        tcp.write_all(&batch).await?;
    }
    Ok(())
}

/// Reads frames (RFC 4571 §2) in bounded memory: one frame, and what came behind it.
struct Frames {
    tcp: OwnedReadHalf,
    buffer: Vec<u8>,
    /// The frame that was given out last.
    taken: usize,
}

impl Frames {
    fn new(tcp: OwnedReadHalf) -> Self {
        Frames { tcp, buffer: Vec::new(), taken: 0 }
    }

    /// The next frame; none at the end. A longer one than any datagram can be is an error: nothing after it could be trusted. What
    /// has been read stays if the future is dropped.
    async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        loop {
            if let Some(&[high, low]) = self.buffer.first_chunk() {
                let length = usize::from(u16::from_be_bytes([high, low]));
                if length == 0 || length > DATAGRAM_BYTES_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if self.buffer.len() >= 2 + length {
                    self.taken = 2 + length;
                    return Ok(Some(&self.buffer[2..2 + length]));
                }
            }
            self.tcp.readable().await?;
            let mut bytes = [0; 4096];
            match self.tcp.try_read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.buffer.extend(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
