//! A TCP connection of somebody else's through a viewer's bottleneck.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::network::{Link, Network};
use super::window::{Law, PACKET, Window};

pub struct Cross {
    window: Window,
    link: Link,
    to: SocketAddr,
    /// Acknowledgements under way: when they arrive, and of which packet.
    acknowledged: VecDeque<(u64, u64)>,
    /// Bytes that have arrived.
    pub received: u64,
}

impl Cross {
    /// One that always has something to send, from that time on: CUBIC, as the systems' TCP is.
    pub fn new(link: Link, to: SocketAddr, begins: u64) -> Cross {
        Cross { window: Window::new(Law::Cubic, begins), link, to, acknowledged: VecDeque::new(), received: 0 }
    }

    /// Everything up to `now`, each thing at its time.
    pub fn turn(&mut self, now: u64, network: &mut Network) {
        loop {
            let acknowledged = self.acknowledged.front().map_or(u64::MAX, |(at, _)| *at);
            let at = acknowledged.min(self.window.timeout_at());
            if at > now {
                return;
            }
            if at == acknowledged {
                let number = self.acknowledged.pop_front().map_or(0, |(_, number)| number);
                self.received += PACKET as u64;
                self.window.acknowledge(number, at);
            } else {
                self.window.timeout(at);
            }
            while let Some(number) = self.window.send(at) {
                if let Some(left) = network.pass(&self.link, at, self.to, PACKET) {
                    self.acknowledged.push_back((left + 2 * self.link.latency_micros, number));
                }
            }
        }
    }
}
