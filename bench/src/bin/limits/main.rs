//! `limits`: what sealing and sending one packet costs on this machine, in nanoseconds of CPU time, whatever the server.
//!
//! All steps are measured in every round, one after the other, so that a disturbance or a change of clock speed meets all of
//! them; the median over the rounds counts. The thread's CPU time is taken, not the wall clock. Sinks:
//!
//! - loopback, read by a thread on another core that is never woken by the sender. The kernel bills the receiving side of every
//!   packet to the sender: that is what all servers pay in a benchmark on one machine, and none pays in service.
//! - an `ifb` device in a private network namespace, as near to a NIC as one gets without one: it takes trains whole
//!   (segmentation offload) and frees what is sent.
//! - the same, made to refuse trains (`gso_max_segs 1`), so that the kernel cuts them: a NIC without segmentation offload.

//!
//! A step that this process may not take, or that a sink does not have, has no figures.

mod frame;
#[path = "../../sys.rs"]
#[allow(dead_code, reason = "the generator's module; only a part is needed here")]
mod generator_sys;
mod receive;
mod ring;
mod sys;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use distributary::secure::srtp::{MasterKey, Profile, Sender};
use serde_json::{Value, json};

use receive::Receive;
use ring::Ring;
use sys::PacketSocket;

const RECEIVERS: usize = 500;
/// A receiver's share of a round. A multiple of the longest train.
const PACKETS_EACH: usize = 32;
const SIZES: [usize; 2] = [1200, 120];
const RTP_HEADER_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Memory that packets are sealed into and sent from in turn: as large as a server's, which is not all in the cache.
const ARENA: usize = 4 << 20;

/// Measures what a packet costs to seal and to send here. Prints one line of JSON.
#[derive(Parser)]
#[command(name = "limits")]
struct Options {
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Core to measure on. What is sent to loopback is read on the others
    #[arg(long, default_value_t = 0)]
    core: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Sendto,
    /// A send for each train, by a socket of its own for each receiver.
    Connected {
        train: usize,
    },
    /// The same, 64 at a time by io_uring.
    Ring {
        train: usize,
    },
    /// sendmmsg of so many messages, each a train of so many packets.
    Batch {
        messages: usize,
        train: usize,
    },
    /// The same of frames, by AF_PACKET.
    Frames {
        messages: usize,
        train: usize,
    },
}

impl Step {
    fn train(self) -> usize {
        match self {
            Step::Sendto => 1,
            Step::Connected { train } | Step::Ring { train } | Step::Batch { train, .. } | Step::Frames { train, .. } => train,
        }
    }
}

const STEPS: [(&str, Step); 10] = [
    ("sendto", Step::Sendto),
    ("connected socket per receiver, send", Step::Connected { train: 1 }),
    ("the same, trains of 8", Step::Connected { train: 8 }),
    ("the same by io_uring SEND x64", Step::Ring { train: 1 }),
    ("the same by io_uring, trains of 8", Step::Ring { train: 8 }),
    ("sendmmsg x64", Step::Batch { messages: 64, train: 1 }),
    ("sendmmsg x8, trains of 8", Step::Batch { messages: 8, train: 8 }),
    ("sendmmsg x2, trains of 32", Step::Batch { messages: 2, train: 32 }),
    ("AF_PACKET, virtio-net header x64", Step::Frames { messages: 64, train: 1 }),
    ("AF_PACKET, virtio-net header x8, trains of 8", Step::Frames { messages: 8, train: 8 }),
];

/// Where packets go: a socket, 500 addresses, and as many connected sockets.
struct Sink {
    name: &'static str,
    socket: UdpSocket,
    /// Where frames say that they are from.
    from: SocketAddrV4,
    targets: Vec<SocketAddrV4>,
    connected: Vec<UdpSocket>,
    frames: Option<PacketSocket>,
    ring: Option<Ring>,
    /// A step and a size; nanoseconds per packet of each round.
    results: Vec<Vec<f64>>,
}

impl Sink {
    /// The receivers are successive addresses from `first` on. `device` is where frames are sent to.
    fn new(name: &'static str, device: Option<&str>, from: Ipv4Addr, first: Ipv4Addr, port: u16) -> io::Result<Sink> {
        let targets: Vec<_> =
            (0..RECEIVERS as u32).map(|index| SocketAddrV4::new((u32::from(first) + index).into(), port)).collect();
        let connect = |target: &SocketAddrV4| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(target).map(|()| socket)
        };
        let connected = targets.iter().map(connect).collect::<io::Result<_>>()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        Ok(Sink {
            name,
            from: SocketAddrV4::new(from, socket.local_addr()?.port()),
            socket,
            targets,
            connected,
            frames: device.and_then(|device| PacketSocket::open(device).ok()),
            ring: Ring::new().ok(),
            results: vec![Vec::new(); STEPS.len() * SIZES.len()],
        })
    }

    fn round(&mut self, arena: &[u8]) -> io::Result<()> {
        for (place, (step, size)) in STEPS.iter().flat_map(|(_, step)| SIZES.map(|size| (*step, size))).enumerate() {
            match step {
                Step::Frames { .. } if self.frames.is_none() => continue,
                Step::Ring { .. } if self.ring.is_none() => continue,
                Step::Connected { .. } | Step::Ring { .. } => {
                    self.connected.iter().try_for_each(|socket| sys::set_segment(socket, size))?;
                }
                _ => {}
            }
            let before = sys::thread_cpu_ns();
            let packets = self.send_all(step, size, arena)?;
            self.results[place].push((sys::thread_cpu_ns() - before) as f64 / packets as f64);
        }
        Ok(())
    }

    /// Every receiver its packets; how many that were together.
    fn send_all(&mut self, step: Step, size: usize, arena: &[u8]) -> io::Result<usize> {
        let train = step.train();
        let turns = PACKETS_EACH / train;
        let mut at = 0;
        let mut take = |len: usize| {
            at = if at + len > arena.len() { 0 } else { at };
            at += len;
            &arena[at - len..at]
        };
        for _ in 0..turns {
            match step {
                Step::Sendto => {
                    for target in &self.targets {
                        self.socket.send_to(take(size), target)?;
                    }
                }
                Step::Connected { .. } => {
                    for socket in &self.connected {
                        socket.send(take(train * size))?;
                    }
                }
                Step::Ring { .. } => {
                    let Some(ring) = &mut self.ring else { continue };
                    for sockets in self.connected.chunks(ring::SENDS_MAX) {
                        ring.send(sockets, take(sockets.len() * train * size))?;
                    }
                }
                Step::Batch { messages, .. } => {
                    for targets in self.targets.chunks(messages) {
                        let bytes = take(targets.len() * train * size);
                        sys::send_messages(&self.socket, bytes, train * size, size, targets)?;
                    }
                }
                Step::Frames { messages, .. } => {
                    let Some(frames) = &self.frames else { continue };
                    let mut headers = [[0; frame::HEADER_LEN]; sys::MESSAGES_MAX];
                    for targets in self.targets.chunks(messages) {
                        for (header, target) in headers.iter_mut().zip(targets) {
                            *header = frame::write(self.from, *target, train * size, size);
                        }
                        let bytes = take(targets.len() * train * size);
                        frames.send(&headers[..targets.len()], bytes, train * size)?;
                    }
                }
            }
        }
        Ok(turns * train * RECEIVERS)
    }

    fn report(&self) -> Value {
        let mut results = self.results.iter();
        let steps = STEPS.iter().map(|(name, _)| {
            let sizes = SIZES.iter().zip(&mut results).map(|(size, ns)| (size.to_string(), spread(ns)));
            json!({ "step": name, "ns": sizes.collect::<serde_json::Map<_, _>>() })
        });
        json!({ "name": self.name, "steps": steps.collect::<Vec<_>>() })
    }
}

fn spread(values: &[f64]) -> Value {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).map(|value| value.round());
    json!({ "median": at(values.len() / 2), "min": at(0), "max": at(values.len().saturating_sub(1)) })
}

/// Takes all that comes to one socket. It sleeps between looks instead of waiting in the socket: the sender is not billed for
/// waking it, as by a server's busy clients.
fn read_all(socket: &UdpSocket, quit: &AtomicBool) {
    let mut batch = generator_sys::Batch::new(64, 2048);
    while !quit.load(Relaxed) {
        if batch.receive(socket) == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn device(name: &'static str, device: &str, network: u8, segments_max: Option<u32>) -> Result<Sink, String> {
    ip(&format!("link add {device} type ifb"))?;
    if let Some(segments) = segments_max {
        ip(&format!("link set {device} gso_max_segs {segments}"))?;
    }
    ip(&format!("addr add 10.{network}.0.1/16 dev {device}"))?;
    ip(&format!("link set {device} up"))?;
    Sink::new(name, Some(device), Ipv4Addr::new(10, network, 0, 1), Ipv4Addr::new(10, network, 1, 1), 9)
        .map_err(|error| error.to_string())
}

const NIC: &str = "ifb with segmentation offload";
const PLAIN_NIC: &str = "ifb without";

/// What can be had of the devices, and why the others cannot. Changes the calling thread's network.
fn devices() -> (Vec<Sink>, Vec<(&'static str, String)>) {
    if let Err(error) = sys::enter_new_network() {
        let why = format!("no network namespace: {error}; run as root");
        return (Vec::new(), [NIC, PLAIN_NIC].map(|name| (name, why.clone())).into());
    }
    let (mut sinks, mut missing) = (Vec::new(), Vec::new());
    for (name, result) in [(NIC, device(NIC, "sink0", 77, None)), (PLAIN_NIC, device(PLAIN_NIC, "sink1", 78, Some(1)))] {
        match result {
            Ok(sink) => sinks.push(sink),
            Err(why) => missing.push((name, why)),
        }
    }
    (sinks, missing)
}

/// Copying a packet and protecting it, each for another receiver. Nanoseconds for one.
fn seal(senders: &mut [Sender], plain: &mut [u8], arena: &mut [u8], size: usize, index: &mut u64) -> Result<f64, String> {
    let before = sys::thread_cpu_ns();
    for (slot, receiver) in (0..RECEIVERS * PACKETS_EACH).enumerate() {
        let slots = arena.len() / 2048;
        let place = &mut arena[slot % slots * 2048..][..size];
        // An index is used once with a key.
        *index += u64::from(receiver % RECEIVERS == 0);
        plain[2..4].copy_from_slice(&(*index as u16).to_be_bytes());
        place[..size - TAG_LEN].copy_from_slice(&plain[..size - TAG_LEN]);
        let sealed = senders[receiver % RECEIVERS].protect_rtp(place, RTP_HEADER_LEN, size - TAG_LEN, *index);
        if sealed != Some(size) {
            return Err("a packet could not be protected".into());
        }
    }
    Ok((sys::thread_cpu_ns() - before) as f64 / (RECEIVERS * PACKETS_EACH) as f64)
}

fn measure(options: &Options) -> Result<Value, String> {
    let text = |error: io::Error| error.to_string();
    let cores = generator_sys::allowed_cores();
    if !cores.contains(&options.core) {
        return Err(format!("--core {}: this process may use {cores:?}", options.core));
    }
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| error.to_string())?;
    let master = |receiver: usize| {
        let mut key = key;
        key[..2].copy_from_slice(&(receiver as u16).to_be_bytes());
        MasterKey::new(Profile::AeadAes128Gcm, &key, &key[..12]).map_err(|_| "a key of the wrong length")
    };
    let mut senders = (0..RECEIVERS).map(|receiver| Ok(Sender::new(&master(receiver)?))).collect::<Result<Vec<_>, String>>()?;
    let mut arena = vec![0u8; ARENA];
    let mut plain = [0u8; 2048];
    plain[0] = 0x80;

    // All of 127.0.0.0/8 is this machine's, so one socket can stand for many receivers.
    let reading = UdpSocket::bind("0.0.0.0:0").map_err(text)?;
    reading.set_nonblocking(true).map_err(text)?;
    generator_sys::set_receive_buffer(&reading, 32 << 20);
    let port = reading.local_addr().map_err(text)?.port();
    let quit = Arc::new(AtomicBool::new(false));
    let others: Vec<usize> = cores.iter().copied().filter(|core| *core != options.core).collect();
    generator_sys::pin(if others.is_empty() { &cores } else { &others }).map_err(text)?;
    let (reading, reader_quit) = (Arc::new(reading), quit.clone());
    let read = reading.clone();
    let reader = std::thread::spawn(move || read_all(&read, &reader_quit));
    generator_sys::pin(&[options.core]).map_err(text)?;

    // Loopback takes a frame for one from outside, which may not be for 127.0.0.0/8.
    let mut sinks = vec![Sink::new("loopback", None, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 1, 0, 1), port).map_err(text)?];
    let mut receive = Receive::new().map_err(text)?;
    let (more, missing) = devices();
    sinks.extend(more);
    let (mut seals, mut index) = (vec![Vec::new(); SIZES.len()], 0);
    for round in 0..=options.rounds {
        for (size, ns) in SIZES.iter().zip(&mut seals) {
            ns.push(seal(&mut senders, &mut plain, &mut arena, *size, &mut index)?);
        }
        for sink in &mut sinks {
            sink.round(&arena).map_err(|error| format!("{}: {error}", sink.name))?;
        }
        receive.round(&arena).map_err(|error| format!("receiving: {error}"))?;
        // The first warms caches, routes and branch predictors.
        if round == 0 {
            seals.iter_mut().chain(sinks.iter_mut().flat_map(|sink| &mut sink.results)).for_each(Vec::clear);
            receive.forget();
        }
    }
    quit.store(true, Relaxed);
    // It has no way to fail.
    let _ = reader.join();
    let seals = SIZES.iter().zip(&seals).map(|(size, ns)| (size.to_string(), spread(ns)));
    Ok(json!({
        "rounds": options.rounds,
        "receivers": RECEIVERS,
        "seal_ns": seals.collect::<serde_json::Map<_, _>>(),
        "sinks": sinks.iter().map(Sink::report).collect::<Vec<_>>(),
        "receive": receive.report(),
        "missing": missing.iter().map(|(name, why)| json!({ "name": name, "reason": why })).collect::<Vec<_>>(),
        "loopback_drops": generator_sys::drops(&reading),
    }))
}

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("limits: {error}");
            ExitCode::FAILURE
        }
    }
}
