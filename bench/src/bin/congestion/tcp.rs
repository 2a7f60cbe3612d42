//! A cross flow that behaves as TCP does.

use crate::path::Time;
use crate::sim::{Datagram, End, Flow};
use crate::window::{Law, PACKET, Window};

pub struct Tcp(Window);

impl Tcp {
    pub fn new(law: Law, start: Time) -> Self {
        Tcp(Window::new(law, start))
    }

    fn fill(&mut self, now: Time, out: &mut Vec<Datagram>) {
        while let Some(key) = self.0.send(now) {
            out.push(Datagram { to: End::Receiver, bytes: PACKET, key, media: true });
        }
    }
}

impl Flow for Tcp {
    fn due(&self) -> Time {
        self.0.timeout_at()
    }

    fn timeout(&mut self, now: Time, out: &mut Vec<Datagram>) {
        self.0.timeout(now);
        self.fill(now, out);
    }

    fn arrive(&mut self, now: Time, to: End, key: u64, out: &mut Vec<Datagram>) {
        if to == End::Receiver {
            out.push(Datagram { to: End::Sender, bytes: 40, key, media: false });
            return;
        }
        self.0.acknowledge(key, now);
        self.fill(now, out);
    }

    fn target(&self) -> u64 {
        self.0.rate()
    }
}
