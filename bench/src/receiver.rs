//! A thread that owns viewers' sockets: waits for any of them, takes what came in batches, and sends reports and checks.

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver as Inbox, Sender as Outbox};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::sys::{self, Batch, Epoll};
use crate::viewer::{Arrived, Counts, Milestones, Viewer};

/// Between two looks at the viewers' timers.
const TICK: u64 = 5_000_000;
/// Between two looks at the difference of the clocks.
const CLOCK_INTERVAL: u64 = 1_000_000_000;
const EVENTS: usize = 256;
/// The token of the thread's own counter; sockets have the viewer's index.
const WAKE: u64 = u64::MAX;
/// Trains have up to 64 KiB; a batch should stay in the cache.
const GRO_BATCH: (usize, usize) = (8, 65_536);
const PLAIN_BATCH: (usize, usize) = (32, 2048);

enum Command {
    Add(Box<Viewer>, UdpSocket),
    Restart(Outbox<()>),
    Finish { began: Vec<[u64; 2]>, ended: Vec<[u64; 2]>, reply: Outbox<Finished> },
    Quit,
}

/// What a thread's viewers saw.
pub struct Finished {
    pub counts: Counts,
    pub milestones: Vec<Milestones>,
    pub socket_drops: u64,
    pub profiles: Vec<&'static str>,
    /// Viewers in the sample.
    pub sampled: u64,
}

/// What a thread tells while it runs.
#[derive(Default)]
pub struct Progress {
    /// Viewers whose first packet has come.
    pub watching: AtomicU64,
    pub connected: AtomicU64,
    pub failed: AtomicU64,
    /// RTP packets of all viewers.
    pub packets: AtomicU64,
    /// Turns, and those that found nothing: how busy a spinning thread is.
    pub turns: AtomicU64,
    pub idle_turns: AtomicU64,
    pub failure: Mutex<Option<String>>,
}

/// A handle to one thread.
pub struct ReceiverThread {
    commands: Outbox<Command>,
    wake: File,
    pub progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub gro: bool,
    pub spin: bool,
    /// While measuring, viewers outside the sample get nothing.
    pub sink: bool,
}

impl ReceiverThread {
    pub fn start(name: &str, mode: Mode) -> std::io::Result<ReceiverThread> {
        let wake = sys::event_counter()?;
        let epoll = Epoll::new(EVENTS)?;
        epoll.add(&wake, WAKE)?;
        let (commands, inbox) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let (datagrams, len) = if mode.gro { GRO_BATCH } else { PLAIN_BATCH };
        let mut worker = Worker {
            mode,
            epoll: Some(epoll),
            wake: wake.try_clone()?,
            inbox,
            progress: progress.clone(),
            viewers: Vec::new(),
            batch: Batch::new(datagrams, len),
            measuring: false,
            drops_before: 0,
            clock_offset: sys::realtime_offset_ns(),
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?;
        Ok(ReceiverThread { commands, wake, progress, thread: Some(thread) })
    }

    pub fn add(&self, viewer: Viewer, socket: UdpSocket) {
        self.tell(Command::Add(Box::new(viewer), socket));
    }

    /// From now on counts what comes; returns when it does.
    pub fn restart(&self) {
        let (reply, answer) = mpsc::channel();
        self.tell(Command::Restart(reply));
        // An error is a thread that has panicked, which `finish` will see.
        let _ = answer.recv();
    }

    /// `began` and `ended`: of each room's publisher, the numbers of the next packets when the measurement began, and now.
    pub fn finish(&self, began: &[[u64; 2]], ended: &[[u64; 2]]) -> Result<Finished, String> {
        let (reply, answer) = mpsc::channel();
        self.tell(Command::Finish { began: began.to_vec(), ended: ended.to_vec(), reply });
        answer.recv().map_err(|_| "a receiving thread has died".to_owned())
    }

    fn tell(&self, command: Command) {
        // A thread that is gone is noticed where its answer is missing.
        let _ = self.commands.send(command);
        let _ = (&self.wake).write_all(&1u64.to_ne_bytes());
    }
}

impl Drop for ReceiverThread {
    fn drop(&mut self) {
        self.tell(Command::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Place {
    viewer: Box<Viewer>,
    socket: UdpSocket,
    due: u64,
    failed: bool,
}

struct Worker {
    mode: Mode,
    /// `None` only while it is waited on.
    epoll: Option<Epoll>,
    wake: File,
    inbox: Inbox<Command>,
    progress: Arc<Progress>,
    viewers: Vec<Place>,
    batch: Batch,
    measuring: bool,
    drops_before: u64,
    clock_offset: u64,
}

impl Worker {
    fn run(&mut self) {
        let Some(mut epoll) = self.epoll.take() else { return };
        let (mut next_tick, mut next_clock) = (0, 0);
        loop {
            let count = epoll.wait(if self.mode.spin { 0 } else { 5 });
            self.progress.turns.fetch_add(1, Relaxed);
            if count == 0 {
                self.progress.idle_turns.fetch_add(1, Relaxed);
            }
            for index in 0..count {
                match epoll.token(index) {
                    WAKE => {
                        if !self.work_off_commands(&epoll) {
                            return;
                        }
                    }
                    viewer => self.receive(viewer as usize),
                }
            }
            let now = sys::monotonic_ns();
            if now >= next_tick {
                next_tick = now + TICK;
                self.poll(now);
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
                Command::Add(viewer, socket) => self.add(viewer, socket, epoll),
                Command::Restart(reply) => {
                    self.drops_before = self.drops();
                    self.viewers.iter_mut().for_each(|place| place.viewer.restart());
                    if self.mode.sink {
                        let others = self.viewers.iter_mut().filter(|place| !place.viewer.in_sample);
                        others.for_each(|place| place.viewer.transport.expect_no_answers());
                    }
                    self.measuring = true;
                    let _ = reply.send(());
                }
                Command::Finish { began, ended, reply } => {
                    let _ = reply.send(self.finish(&began, &ended));
                }
                Command::Quit => return false,
            }
        }
        true
    }

    fn add(&mut self, viewer: Box<Viewer>, socket: UdpSocket, epoll: &Epoll) {
        if self.mode.gro
            && let Err(error) = sys::enable_gro(&socket)
        {
            self.fail(format!("UDP_GRO: {error}; try --no-gro"));
        }
        if viewer.asks_when()
            && let Err(error) = sys::enable_timestamps(&socket)
        {
            self.fail(format!("timestamps: {error}"));
        }
        let token = self.viewers.len() as u64;
        if let Err(error) = epoll.add(&socket, token) {
            self.fail(format!("epoll: {error}"));
        }
        self.viewers.push(Place { viewer, socket, due: 0, failed: false });
        self.poll_one(token as usize, sys::monotonic_ns());
    }

    fn fail(&self, why: String) {
        self.progress.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(why);
    }

    fn receive(&mut self, index: usize) {
        let Some(place) = self.viewers.get_mut(index) else { return };
        let before = (place.viewer.milestones.connected, place.viewer.milestones.first_packet);
        let packets_before = place.viewer.packets;
        loop {
            let count = self.batch.receive(&place.socket);
            let now = sys::monotonic_ns();
            let mut send = sender(&place.socket);
            for datagram in 0..count {
                let received = self.batch.get(datagram);
                let at_socket = received.arrived.map(|at| at.wrapping_sub(self.clock_offset));
                let arrived = Arrived { now, at_socket, measured: self.measuring };
                for segment in received.bytes.chunks_mut(received.segment_len) {
                    place.viewer.handle(segment, arrived, &mut send);
                }
            }
            if count < self.batch.capacity() {
                break;
            }
        }
        self.progress.packets.fetch_add(place.viewer.packets - packets_before, Relaxed);
        place.due = place.viewer.due();
        let after = (place.viewer.milestones.connected, place.viewer.milestones.first_packet);
        if before.0.is_none() && after.0.is_some() {
            self.progress.connected.fetch_add(1, Relaxed);
        }
        if before.1.is_none() && after.1.is_some() {
            self.progress.watching.fetch_add(1, Relaxed);
        }
    }

    fn poll(&mut self, now: u64) {
        for index in 0..self.viewers.len() {
            if self.viewers[index].due <= now {
                self.poll_one(index, now);
            }
        }
    }

    fn poll_one(&mut self, index: usize, now: u64) {
        let place = &mut self.viewers[index];
        place.viewer.poll(now, &mut sender(&place.socket));
        place.due = place.viewer.due();
        if let (Some(why), false) = (place.viewer.transport.failure(), place.failed) {
            place.failed = true;
            let why = why.to_owned();
            self.progress.failed.fetch_add(1, Relaxed);
            self.fail(format!("a viewer failed: {why}"));
        }
    }

    fn drops(&self) -> u64 {
        self.viewers.iter().map(|place| sys::drops(&place.socket)).sum()
    }

    fn finish(&mut self, began: &[[u64; 2]], ended: &[[u64; 2]]) -> Finished {
        let mut counts = Counts::default();
        for place in &mut self.viewers {
            if place.viewer.in_sample || !self.mode.sink {
                counts.add(&place.viewer.finish(began[place.viewer.room], ended[place.viewer.room]));
            }
        }
        Finished {
            counts,
            milestones: self.viewers.iter().map(|place| place.viewer.milestones).collect(),
            socket_drops: self.drops() - self.drops_before,
            profiles: self
                .viewers
                .iter()
                .filter_map(|place| place.viewer.transport.profile())
                .map(|profile| profile.name())
                .collect(),
            sampled: self.viewers.iter().filter(|place| place.viewer.in_sample).count() as u64,
        }
    }
}

/// Sends or forgets: a datagram that the kernel refuses is as good as lost.
fn sender(socket: &UdpSocket) -> impl FnMut(&[u8]) + '_ {
    move |datagram| {
        let _ = socket.send(datagram);
    }
}
