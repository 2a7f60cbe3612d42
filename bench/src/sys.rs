//! What Linux has and std has not: batches of datagrams, epoll, cores and priorities, socket counters. All `unsafe` of the
//! generator is here.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

/// Words of control data for one datagram: GRO's segment size and a timestamp.
const CONTROL_WORDS: usize = 16;
/// In the answer to SO_MEMINFO, the socket's drops (linux/sock_diag.h).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

const _: () = assert!(size_of::<usize>() == 8, "control messages are read in words of 64 bits");

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to be written; the clocks asked for always exist.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_MONOTONIC: the same for all processes of a machine.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// What to subtract from the kernel's timestamps, which are CLOCK_REALTIME, to have CLOCK_MONOTONIC. To be asked again now and
/// then: the one is disciplined and the other is not stepped.
pub fn realtime_offset_ns() -> u64 {
    let attempt = || {
        let before = monotonic_ns();
        let realtime = clock_ns(libc::CLOCK_REALTIME);
        let after = monotonic_ns();
        (after - before, realtime.wrapping_sub(before + (after - before) / 2))
    };
    (0..5).map(|_| attempt()).min().map_or(0, |(_, offset)| offset)
}

/// Cores this process may run on.
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: a cpu_set_t of zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: the set is as long as said.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return vec![0];
    }
    // SAFETY: the numbers are below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

/// Cores that are online, whether this process may use them or not.
pub fn configured_cores() -> usize {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize
}

/// Keeps the calling thread, and those it starts, on these cores.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    // SAFETY: a cpu_set_t of zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    for core in cores.iter().filter(|core| **core < libc::CPU_SETSIZE as usize) {
        // SAFETY: the number is below the set's size.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    // SAFETY: the set is as long as said; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// Lets the calling thread run as soon as it wants to, and wakes it without slack. False if the process may not.
pub fn prioritise() -> bool {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: no pointers but to `parameters`, which is read; 0 is the calling thread.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) == 0
            && libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) == 0
    }
}

/// Lets the calling thread run only where nothing else wants to. False if the kernel refused.
pub fn yield_to_all() -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: no pointers but to `parameters`, which is read; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) == 0 }
}

/// Makes a command's process run on `cores` only, and end when the calling thread does.
pub fn bind_child(command: &mut Command, cores: Vec<usize>) {
    let bind = move || {
        pin(&cores)?;
        // SAFETY: no pointers.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong) }).map(drop)
    };
    // SAFETY: between fork and exec only two system calls happen; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(bind) };
}

/// Asks a process to end, as Ctrl-C does.
pub fn interrupt(pid: u32) {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGINT) };
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a c_int of the length said, and is read only.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) }).map(drop)
}

/// Past net.core.rmem_max if the process may do that.
pub fn set_receive_buffer(socket: &UdpSocket, bytes: usize) {
    let (fd, bytes) = (socket.as_raw_fd(), bytes as libc::c_int);
    if set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        // Smaller, then; a loss for lack of it is seen and reported.
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
    }
}

/// Trains of equal datagrams arrive as one (UDP_GRO).
pub fn enable_gro(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// The kernel says when each datagram arrived.
pub fn enable_timestamps(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
}

/// Datagrams that found the socket's buffer full.
pub fn drops(socket: &UdpSocket) -> u64 {
    let mut answer = [0u32; SK_MEMINFO_VARS];
    let mut len = size_of_val(&answer) as libc::socklen_t;
    // SAFETY: at most `len` bytes are written to `answer`.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, answer.as_mut_ptr().cast(), &mut len) };
    if result == 0 { u64::from(answer[SK_MEMINFO_DROPS]) } else { 0 }
}

/// Waits until the socket has something or the time is over.
pub fn wait_readable(socket: &UdpSocket, nanoseconds: u64) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i64 };
    // SAFETY: one pollfd and one timespec, as said; no signal mask.
    unsafe { libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) };
}

/// Which of many sockets have something.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new(events: usize) -> io::Result<Epoll> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a new descriptor, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; events] })
    }

    /// `token` comes back from [`Self::wait`].
    pub fn add(&self, source: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: `event` is read during the call only.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, source.as_raw_fd(), &mut event) }).map(drop)
    }

    /// How many are ready; [`Self::token`] tells which.
    pub fn wait(&mut self, milliseconds: i32) -> usize {
        let capacity = self.events.len() as libc::c_int;
        // SAFETY: at most `capacity` events are written to the vector, which has as many.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), capacity, milliseconds) };
        count.max(0) as usize
    }

    pub fn token(&self, index: usize) -> u64 {
        self.events[index].u64
    }
}

/// A counter to wait for: how other threads wake one that sits in [`Epoll::wait`].
pub fn event_counter() -> io::Result<std::fs::File> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Room for several received datagrams or trains of them.
pub struct Batch {
    space: Vec<u8>,
    datagram_len: usize,
    control: Vec<[u64; CONTROL_WORDS]>,
    lengths: Vec<(usize, usize)>,
}

/// One datagram, or a train of datagrams of equal size (the last may be shorter).
pub struct Received<'a> {
    pub bytes: &'a mut [u8],
    /// Bytes of each datagram of a train; that of all if it is none.
    pub segment_len: usize,
    /// When it arrived, CLOCK_REALTIME in nanoseconds, if the socket was asked to tell.
    pub arrived: Option<u64>,
}

impl Batch {
    pub fn new(datagrams: usize, datagram_len: usize) -> Batch {
        Batch {
            space: vec![0; datagrams * datagram_len],
            datagram_len,
            control: vec![[0; CONTROL_WORDS]; datagrams],
            lengths: vec![(0, 0); datagrams],
        }
    }

    pub fn capacity(&self) -> usize {
        self.lengths.len()
    }

    /// Takes what is there, without waiting; how much that was.
    pub fn receive(&mut self, socket: &UdpSocket) -> usize {
        const MAX: usize = 64;
        // SAFETY: iovecs and message headers of zeros are empty ones.
        let (mut parts, mut messages): ([libc::iovec; MAX], [libc::mmsghdr; MAX]) = unsafe { (zeroed(), zeroed()) };
        let count = self.capacity().min(MAX);
        let places = self.space.chunks_exact_mut(self.datagram_len).zip(&mut self.control);
        for (((bytes, control), part), message) in places.zip(&mut parts).zip(&mut messages) {
            *part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of_val(control);
        }
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the first `count` headers were just filled and point to memory of this batch that nothing else uses meanwhile.
        let received = unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as u32, flags, null_mut()) };
        let received = received.max(0) as usize;
        for (lengths, message) in self.lengths.iter_mut().zip(&messages).take(received) {
            *lengths = (message.msg_len as usize, message.msg_hdr.msg_controllen);
        }
        received
    }

    /// One of those that [`Self::receive`] took.
    pub fn get(&mut self, index: usize) -> Received<'_> {
        let (len, control_len) = self.lengths[index];
        let start = index * self.datagram_len;
        let bytes = &mut self.space[start..start + len.min(self.datagram_len)];
        let mut received = Received { segment_len: bytes.len().max(1), bytes, arrived: None };
        read_control(&self.control[index][..control_len.div_ceil(8).min(CONTROL_WORDS)], &mut received);
        received
    }
}

/// Control messages (cmsg(3)): length, level and type, data; each from a word's begin.
fn read_control(mut words: &[u64], received: &mut Received) {
    while let [len, kind, data @ ..] = words {
        let [l0, l1, l2, l3, t0, t1, t2, t3] = kind.to_ne_bytes();
        let (level, kind) = (i32::from_ne_bytes([l0, l1, l2, l3]), i32::from_ne_bytes([t0, t1, t2, t3]));
        match (level, kind, data) {
            (libc::SOL_UDP, libc::UDP_GRO, [size, ..]) => {
                let [s0, s1, s2, s3, ..] = size.to_ne_bytes();
                received.segment_len = (i32::from_ne_bytes([s0, s1, s2, s3]).max(1)) as usize;
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, [seconds, nanoseconds, ..]) => {
                received.arrived = Some(seconds.wrapping_mul(1_000_000_000).wrapping_add(*nanoseconds));
            }
            _ => {}
        }
        words = words.get((*len as usize).div_ceil(8).max(2)..).unwrap_or(&[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_bytes_and_times() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(receiver.local_addr().expect("an address")).expect("loopback");
        enable_timestamps(&receiver).expect("timestamps");
        set_receive_buffer(&receiver, 1 << 20);
        let mut batch = Batch::new(4, 2048);
        assert_eq!(batch.receive(&receiver), 0);
        let sent = monotonic_ns();
        for byte in 0..6u8 {
            sender.send(&vec![byte; 10 + byte as usize]).expect("sent");
        }
        wait_readable(&receiver, 1_000_000_000);
        assert_eq!(batch.receive(&receiver), 4);
        let received = batch.get(3);
        assert_eq!((&*received.bytes, received.segment_len), (&[3u8; 13][..], 13));
        let arrived = received.arrived.expect("a time").wrapping_sub(realtime_offset_ns());
        assert!(arrived.wrapping_sub(sent) < 1_000_000_000);
        assert_eq!(batch.receive(&receiver), 2);
        assert_eq!(drops(&receiver), 0);
    }

    #[test]
    fn overflow_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(receiver.local_addr().expect("an address")).expect("loopback");
        set_receive_buffer(&receiver, 4096);
        for _ in 0..100 {
            sender.send(&[0; 1000]).expect("sent");
        }
        assert!(drops(&receiver) > 50);
    }

    #[test]
    fn epoll_and_counters_wake() {
        use std::io::{Read, Write};
        let mut epoll = Epoll::new(4).expect("epoll");
        let mut counter = event_counter().expect("a counter");
        epoll.add(&counter, 7).expect("added");
        assert_eq!(epoll.wait(0), 0);
        counter.write_all(&1u64.to_ne_bytes()).expect("written");
        assert_eq!((epoll.wait(1000), epoll.token(0)), (1, 7));
        counter.read_exact(&mut [0; 8]).expect("read");
        assert_eq!(epoll.wait(0), 0);
    }

    #[test]
    fn this_process_may_run_somewhere() {
        let cores = allowed_cores();
        assert!(!cores.is_empty());
        pin(&cores).expect("allowed");
    }
}
