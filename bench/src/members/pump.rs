//! A thread that owns members' sockets: sends what is due, and takes what came in batches.

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver as Inbox, Sender as Outbox};
use std::thread::JoinHandle;

use super::member::{Came, Member};
use super::{MediaState, Options};
use crate::sys::{self, Batch, Epoll};

/// Between two looks at what is due.
const TICK: u64 = 1_000_000;
/// Between two looks at the difference of the clocks.
const CLOCK_INTERVAL: u64 = 1_000_000_000;
const EVENTS: usize = 256;
/// The token of the thread's own counter; sockets have the member's place.
const WAKE: u64 = u64::MAX;
/// Trains have up to 64 KiB.
const BATCH: (usize, usize) = (8, 65_536);

enum Command {
    Add(Box<Member>, UdpSocket),
    Restart(Outbox<()>),
    Finish(Outbox<Finished>),
    Quit,
}

pub struct Finished {
    pub came: Vec<Came>,
    pub socket_drops: u64,
}

/// A handle to one thread.
pub struct Pump {
    commands: Outbox<Command>,
    wake: File,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    pub fn start(index: u32, options: &Options, state: Arc<MediaState>) -> std::io::Result<Pump> {
        let wake = sys::event_counter()?;
        let epoll = Epoll::new(EVENTS)?;
        epoll.add(&wake, WAKE)?;
        let (commands, inbox) = mpsc::channel();
        let mut worker = Worker {
            wake: wake.try_clone()?,
            inbox,
            state,
            members: Vec::with_capacity((options.rooms * options.members) as usize),
            batch: Batch::new(BATCH.0, BATCH.1),
            drops_before: 0,
            clock_offset: sys::realtime_offset_ns(),
        };
        let thread = std::thread::Builder::new().name(format!("lg-pump{index}")).spawn(move || worker.run(epoll))?;
        Ok(Pump { commands, wake, thread: Some(thread) })
    }

    pub fn add(&self, member: Member, socket: UdpSocket) {
        self.tell(Command::Add(Box::new(member), socket));
    }

    /// From now on counts what comes; returns when it does.
    pub fn restart(&self) {
        let (reply, answer) = mpsc::channel();
        self.tell(Command::Restart(reply));
        // An error is a thread that has panicked, which `finish` will see.
        let _ = answer.recv();
    }

    pub fn finish(&self) -> Result<Finished, String> {
        let (reply, answer) = mpsc::channel();
        self.tell(Command::Finish(reply));
        answer.recv().map_err(|_| "a thread of media has died".to_owned())
    }

    fn tell(&self, command: Command) {
        // A thread that is gone is noticed where its answer is missing.
        let _ = self.commands.send(command);
        let _ = (&self.wake).write_all(&1u64.to_ne_bytes());
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.tell(Command::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Place {
    member: Box<Member>,
    socket: UdpSocket,
    due: u64,
    failed: bool,
}

struct Worker {
    wake: File,
    inbox: Inbox<Command>,
    state: Arc<MediaState>,
    members: Vec<Place>,
    batch: Batch,
    drops_before: u64,
    clock_offset: u64,
}

impl Worker {
    fn run(&mut self, mut epoll: Epoll) {
        let (mut next_tick, mut next_clock) = (0, 0);
        loop {
            for index in 0..epoll.wait(1) {
                match epoll.token(index) {
                    WAKE => {
                        if !self.work_off_commands(&epoll) {
                            return;
                        }
                    }
                    member => self.receive(member as usize),
                }
            }
            let now = sys::monotonic_ns();
            if now >= next_tick {
                next_tick = now + TICK;
                self.send_due(now);
            }
            if now >= next_clock {
                next_clock = now + CLOCK_INTERVAL;
                self.clock_offset = sys::realtime_offset_ns();
            }
        }
    }

    /// False: the end.
    fn work_off_commands(&mut self, epoll: &Epoll) -> bool {
        // Nothing there: somebody else's wake was read with ours.
        let _ = self.wake.read(&mut [0; 8]);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Add(member, socket) => self.add(member, socket, epoll),
                Command::Restart(reply) => {
                    self.drops_before = self.drops();
                    self.members.iter_mut().for_each(|place| place.member.restart());
                    let _ = reply.send(());
                }
                Command::Finish(reply) => {
                    let came = self.members.iter().map(|place| place.member.finish()).collect();
                    let _ = reply.send(Finished { came, socket_drops: self.drops() - self.drops_before });
                }
                Command::Quit => return false,
            }
        }
        true
    }

    fn add(&mut self, member: Box<Member>, socket: UdpSocket, epoll: &Epoll) {
        let mut ready = sys::enable_gro(&socket);
        if member.in_sample {
            ready = ready.and_then(|()| sys::enable_timestamps(&socket));
        }
        if let Err(error) = ready.and_then(|()| epoll.add(&socket, self.members.len() as u64)) {
            self.fail(format!("a member's socket: {error}"));
        }
        // From now on it checks, at the next look.
        self.members.push(Place { member, socket, due: 0, failed: false });
    }

    fn fail(&self, why: String) {
        self.state.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(why);
    }

    fn receive(&mut self, index: usize) {
        let Some(Place { member, socket, due, .. }) = self.members.get_mut(index) else { return };
        let mut send = |datagram: &[u8]| {
            // A datagram that the kernel refuses is as good as lost.
            let _ = socket.send(datagram);
        };
        loop {
            let count = self.batch.receive(socket);
            let now = sys::monotonic_ns();
            let before = member.packets;
            for datagram in 0..count {
                let received = self.batch.get(datagram);
                let at_socket = received.arrived.map(|at| at.wrapping_sub(self.clock_offset));
                for segment in received.bytes.chunks_mut(received.segment_len) {
                    member.handle(segment, now, at_socket, &self.state, &mut send);
                }
            }
            self.state.packets.fetch_add(member.packets - before, Relaxed);
            if count < self.batch.capacity() {
                break;
            }
        }
        *due = member.due();
    }

    fn send_due(&mut self, now: u64) {
        for place in self.members.iter_mut().filter(|place| place.due <= now) {
            let Place { member, socket, due, .. } = place;
            let mut send = |datagram: &[u8]| {
                let _ = socket.send(datagram);
            };
            member.poll(now, &self.state, &mut send);
            *due = member.due();
        }
        let failed = self.members.iter_mut().find(|place| !place.failed && place.member.transport.failure().is_some());
        if let Some(place) = failed {
            place.failed = true;
            let why = format!("member {} failed: {}", place.member.index, place.member.transport.failure().unwrap_or_default());
            self.fail(why);
        }
    }

    fn drops(&self) -> u64 {
        self.members.iter().map(|place| sys::drops(&place.socket)).sum()
    }
}
