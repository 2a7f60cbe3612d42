//! What receiving costs the reader: so many packets wait in a socket's buffer, and are taken out of it. How they got there, which
//! is the work of the device's interrupts, or on loopback of the sender, is not in it.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use serde_json::{Value, json};

use crate::{SIZES, generator_sys, spread, sys};

const PACKETS: usize = 512;
const TRAIN: usize = 8;
const TRAINS_AT_A_TIME: usize = 8;
const BUFFER: usize = 8 << 20;
/// A train of ours has less.
const TRAIN_BYTES_MAX: usize = 16 * 1024;
/// How often a socket may be found empty before all has come.
const EMPTY_MAX: usize = 1000;

const STEPS: [(&str, bool); 2] = [("recvmmsg x64", false), ("recvmmsg x64, UDP_GRO, trains of 8", true)];

pub struct Receive {
    sender: UdpSocket,
    sockets: Vec<UdpSocket>,
    batch: generator_sys::Batch,
    /// A step and a size; nanoseconds per packet of each round.
    results: Vec<Vec<f64>>,
}

impl Receive {
    pub fn new() -> io::Result<Receive> {
        let socket = |gro: bool| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_nonblocking(true)?;
            generator_sys::set_receive_buffer(&socket, BUFFER);
            if gro {
                generator_sys::enable_gro(&socket)?;
            }
            Ok(socket)
        };
        Ok(Receive {
            sender: UdpSocket::bind("127.0.0.1:0")?,
            sockets: STEPS.iter().map(|(_, gro)| socket(*gro)).collect::<io::Result<_>>()?,
            batch: generator_sys::Batch::new(64, TRAIN_BYTES_MAX),
            results: vec![Vec::new(); STEPS.len() * SIZES.len()],
        })
    }

    pub fn round(&mut self, arena: &[u8]) -> io::Result<()> {
        let Receive { sender, sockets, batch, results } = self;
        let places = sockets.iter().flat_map(|socket| SIZES.map(|size| (socket, size)));
        for ((socket, size), result) in places.zip(results) {
            let SocketAddr::V4(target) = socket.local_addr()? else { continue };
            for _ in 0..PACKETS / TRAIN / TRAINS_AT_A_TIME {
                sys::send_messages(sender, arena, TRAIN * size, size, &[target; TRAINS_AT_A_TIME])?;
            }
            let (mut packets, mut empty) = (0, 0);
            let before = sys::thread_cpu_ns();
            while packets < PACKETS && empty < EMPTY_MAX {
                let datagrams = batch.receive(socket);
                empty += usize::from(datagrams == 0);
                packets += (0..datagrams)
                    .map(|index| {
                        let received = batch.get(index);
                        received.bytes.len().div_ceil(received.segment_len)
                    })
                    .sum::<usize>();
            }
            result.push((sys::thread_cpu_ns() - before) as f64 / packets.max(1) as f64);
        }
        Ok(())
    }

    pub fn forget(&mut self) {
        self.results.iter_mut().for_each(Vec::clear);
    }

    pub fn report(&self) -> Value {
        let mut results = self.results.iter();
        let steps = STEPS.iter().map(|(name, _)| {
            let sizes = SIZES.iter().zip(&mut results).map(|(size, ns)| (size.to_string(), spread(ns)));
            json!({ "step": name, "ns": sizes.collect::<serde_json::Map<_, _>>() })
        });
        steps.collect()
    }
}
