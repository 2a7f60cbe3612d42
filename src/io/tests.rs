//! The backends on a real loopback, and the fake.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fake, Io, IoError, IoKind, Received, socket};
use crate::limits::{DATAGRAM_BYTES_MAX, HEADROOM_BYTES, TURN_DATAGRAMS};
use crate::mem::{Arena, SendBatch};
use crate::metrics::{Counter, DropReason, WorkerMetrics};
use crate::units::Micros;

const BOTH: [IoKind; 2] = [IoKind::Uring, IoKind::Mmsg];
const SOON: Duration = Duration::from_secs(5);

/// A worker's end with its counters, and where it listens.
struct Worker {
    io: Io,
    metrics: WorkerMetrics,
    received: Vec<Received>,
    address: SocketAddr,
}

impl Worker {
    fn at(kind: IoKind, address: &str, slots: usize) -> Worker {
        let sockets = socket::bind(address.parse().unwrap(), 1).unwrap();
        let socket = sockets.sockets.into_iter().next().unwrap();
        Worker::over(kind, socket, slots)
    }

    fn over(kind: IoKind, socket: UdpSocket, slots: usize) -> Worker {
        let mut address = socket.local_addr().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip("127.0.0.1".parse().unwrap());
        }
        let (io, _why) = Io::open(kind, socket, Arena::leak(slots), Instant::now()).unwrap();
        Worker { io, metrics: WorkerMetrics::default(), received: Vec::with_capacity(TURN_DATAGRAMS), address }
    }

    /// Receives until `count` datagrams are there.
    fn expect(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::new();
        let end = Instant::now() + SOON;
        while all.len() < count {
            assert!(Instant::now() < end, "{} of {count} datagrams", all.len());
            self.io.receive(&mut self.received, Duration::from_millis(100), &self.metrics);
            all.append(&mut self.received);
        }
        assert_eq!(all.len(), count);
        all
    }

    /// Receives until the counter of a drop reason gets there.
    fn expect_dropped(&mut self, reason: DropReason, count: u64) {
        let end = Instant::now() + SOON;
        while self.metrics.dropped(reason) < count {
            assert!(Instant::now() < end);
            self.io.receive(&mut self.received, Duration::from_millis(10), &self.metrics);
            assert!(self.received.is_empty());
        }
    }

    fn send(&mut self, datagrams: &[(SocketAddr, Vec<u8>)]) {
        let mut batch = SendBatch::default();
        for (to, bytes) in datagrams {
            batch.space()[..bytes.len()].copy_from_slice(bytes);
            batch.commit(*to, bytes.len());
        }
        self.io.send(&mut batch, &self.metrics);
    }
}

fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn read(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 4096];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

#[test]
fn echoes_to_ipv4_and_ipv6_peers() {
    for kind in BOTH {
        for (bind, mut peers) in [
            ("[::]:0", vec!["127.0.0.1:0", "[::1]:0"]),
            ("0.0.0.0:0", vec!["127.0.0.1:0"]),
            ("127.0.0.1:0", vec!["127.0.0.1:0"]),
            ("[::1]:0", vec!["[::1]:0"]),
        ] {
            let mut worker = Worker::at(kind, bind, 64);
            for bind in peers.drain(..) {
                let peer = peer(bind);
                let to = SocketAddr::new(peer.local_addr().unwrap().ip(), worker.address.port());
                for len in [1, 100, DATAGRAM_BYTES_MAX] {
                    let datagram: Vec<u8> = (0..len).map(|i| i as u8).collect();
                    peer.send_to(&datagram, to).unwrap();
                    let mut received = worker.expect(1);
                    assert_eq!(received[0].packet.bytes(), datagram, "{kind:?}");
                    assert_eq!(received[0].from, peer.local_addr().unwrap(), "{kind:?}");
                    let headroom = received[0].packet.slot_mut().as_ptr() as usize + HEADROOM_BYTES;
                    assert_eq!(received[0].packet.bytes().as_ptr() as usize, headroom);
                    worker.send(&[(received[0].from, datagram.clone())]);
                    assert_eq!(read(&peer), (datagram, to));
                }
            }
            assert_eq!(worker.metrics.get(Counter::DatagramsReceived), worker.metrics.get(Counter::DatagramsSent));
            assert_eq!(worker.metrics.get(Counter::BytesReceived), worker.metrics.get(Counter::BytesSent));
            assert_eq!(worker.metrics.dropped(DropReason::SendFailed), 0);
        }
    }
}

#[test]
fn trains_arrive_as_the_datagrams_they_were() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "[::]:0", 64);
        for (a, b) in [(peer("127.0.0.1:0"), peer("[::1]:0")), (peer("[::1]:0"), peer("127.0.0.1:0"))] {
            let (to_a, to_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
            let lens_a = [1200, 1200, 1200, 700, 1200, 1200, 33];
            let lens_b = [60; 130];
            let datagram = |(number, len): (usize, &usize)| vec![number as u8; *len];
            let mut datagrams: Vec<_> = lens_a.iter().enumerate().map(|d| (to_a, datagram(d))).collect();
            datagrams.extend(lens_b.iter().enumerate().map(|d| (to_b, datagram(d))));
            worker.send(&datagrams);
            for d in lens_a.iter().enumerate() {
                assert_eq!(read(&a).0, datagram(d), "{kind:?}");
            }
            for d in lens_b.iter().enumerate() {
                assert_eq!(read(&b).0, datagram(d), "{kind:?}");
            }
        }
        assert_eq!(worker.metrics.get(Counter::DatagramsSent), 2 * 137);
        // 1200 ×3 + 700, 1200 ×2 + 33, 60 ×64, ×64, ×2.
        assert_eq!(worker.metrics.get(Counter::SendOperations), 2 * 5);
        assert!(worker.io.trains_in_use());
    }
}

#[test]
fn more_operations_than_one_submission_are_all_sent() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", 64);
        let peers: Vec<_> = (0..8).map(|_| peer("127.0.0.1:0")).collect();
        let datagrams: Vec<_> = (0..800usize).map(|n| (peers[n % 8].local_addr().unwrap(), n.to_be_bytes().to_vec())).collect();
        worker.send(&datagrams);
        for n in 0..800usize {
            assert_eq!(read(&peers[n % 8]).0, n.to_be_bytes(), "{kind:?}");
        }
        assert_eq!(worker.metrics.get(Counter::SendOperations), 800);
    }
}

#[test]
fn refused_sends_are_counted_and_do_not_disturb_the_others() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "0.0.0.0:0", 64);
        let good = peer("127.0.0.1:0");
        let to = good.local_addr().unwrap();
        let nowhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let ipv6: SocketAddr = "[::1]:9".parse().unwrap();
        let one = |to: SocketAddr, n: u8| (to, vec![n; 10]);
        // Port 0 is EINVAL, as a device without segmentation may say: it must not cost the others their trains.
        worker.send(&[one(to, 1), one(nowhere, 2), one(nowhere, 3), one(to, 4), one(to, 5), one(ipv6, 6), one(to, 7)]);
        for n in [1, 4, 5, 7] {
            assert_eq!(read(&good).0, [n; 10], "{kind:?}");
        }
        assert_eq!(worker.metrics.dropped(DropReason::SendFailed), 3, "{kind:?}");
        assert_eq!(worker.metrics.get(Counter::DatagramsSent), 4);
        assert_eq!(worker.metrics.get(Counter::BytesSent), 40);
        assert!(worker.io.trains_in_use());
    }
}

#[test]
fn a_refused_train_arrives_as_single_datagrams_and_ends_trains() {
    use std::os::fd::AsRawFd;
    for kind in BOTH {
        let socket = socket::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().sockets.remove(0);
        // The kernel refuses to cut trains without checksums (EINVAL) and sends single datagrams so: like a device without offload.
        socket::set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let mut worker = Worker::over(kind, socket, 64);
        let peer = peer("127.0.0.1:0");
        for round in 1..=2 {
            let datagrams: Vec<_> = (1..=4u8).map(|n| (peer.local_addr().unwrap(), vec![n; 104 - n as usize / 4])).collect();
            worker.send(&datagrams);
            for (_, datagram) in datagrams {
                assert_eq!(read(&peer).0, datagram, "{kind:?}");
            }
            assert!(!worker.io.trains_in_use());
            assert_eq!(worker.metrics.get(Counter::SendOperations), 4 * round);
            assert_eq!(worker.metrics.get(Counter::DatagramsSent), 4 * round);
            assert_eq!(worker.metrics.dropped(DropReason::SendFailed), 0);
        }
    }
}

#[test]
fn trains_are_cut_here_while_the_kernel_does_not() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", 64);
        match &mut worker.io {
            Io::Uring(uring) => uring.outgoing.trains.suspend(),
            Io::Mmsg(mmsg) => mmsg.outgoing.trains.suspend(),
            Io::Xdp(_) | Io::Fake(_) => unreachable!(),
        }
        let peer = peer("127.0.0.1:0");
        let lens = [500, 500, 500, 20];
        worker.send(&lens.map(|len| (peer.local_addr().unwrap(), vec![7; len])));
        for len in lens {
            assert_eq!(read(&peer).0.len(), len);
        }
        assert_eq!(worker.metrics.get(Counter::SendOperations), 4);
        assert_eq!(worker.metrics.get(Counter::DatagramsSent), 4);
        assert!(!worker.io.trains_in_use());
    }
}

#[test]
fn a_hundred_thousand_datagrams_and_every_slot_comes_back() {
    const COUNT: u32 = 100_000;
    const SLOTS: usize = 2048;
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", SLOTS);
        let to = worker.address;
        let progress = Arc::new(AtomicU64::new(0));
        let seen = progress.clone();
        let sender = thread::spawn(move || {
            let peer = peer("127.0.0.1:0");
            for n in 0..COUNT {
                // Never more on the way than the socket buffer holds.
                while u64::from(n) >= seen.load(Ordering::Acquire) + 1000 {
                    thread::yield_now();
                }
                peer.send_to(&n.to_be_bytes(), to).unwrap();
            }
        });
        let mut next = 0u32;
        let end = Instant::now() + 12 * SOON;
        while next < COUNT {
            assert!(Instant::now() < end, "{next} datagrams");
            worker.io.receive(&mut worker.received, Duration::from_millis(10), &worker.metrics);
            for received in worker.received.drain(..) {
                assert_eq!(received.packet.bytes(), next.to_be_bytes());
                next += 1;
            }
            progress.store(u64::from(next), Ordering::Release);
        }
        sender.join().unwrap();
        assert_eq!(worker.metrics.get(Counter::DatagramsReceived), u64::from(COUNT));
        assert_eq!(worker.metrics.dropped(DropReason::ArenaExhausted), 0);
        // All slots but those laid ready for the next datagrams are free.
        let free = match &mut worker.io {
            Io::Uring(uring) => uring.free_slots(),
            Io::Mmsg(mmsg) => mmsg.free_slots(),
            Io::Xdp(_) | Io::Fake(_) => unreachable!(),
        };
        assert_eq!(free, SLOTS, "{kind:?}");
    }
}

#[test]
fn empty_and_oversize_datagrams_are_counted_and_go_no_further() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", 64);
        let peer = peer("127.0.0.1:0");
        // More rounds than there are slots: the slots come back.
        for round in 1..=100 {
            for len in [DATAGRAM_BYTES_MAX + 1, 0, 9000] {
                peer.send_to(&vec![1; len], worker.address).unwrap();
            }
            worker.expect_dropped(DropReason::Oversize, 2 * round);
            worker.expect_dropped(DropReason::Empty, round);
        }
        peer.send_to(b"fits", worker.address).unwrap();
        assert_eq!(worker.expect(1)[0].packet.bytes(), b"fits");
        assert_eq!(worker.metrics.get(Counter::DatagramsReceived), 301);
        assert_eq!(worker.metrics.get(Counter::BytesReceived), 4);
    }
}

#[test]
fn receiving_goes_on_when_slots_come_back() {
    const SLOTS: usize = 32;
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", SLOTS);
        let peer = peer("127.0.0.1:0");
        for _ in 0..20 {
            for n in 0..100u8 {
                peer.send_to(&[n], worker.address).unwrap();
            }
            // All slots are taken; the rest waits in the socket, and waiting does not spin.
            let held = worker.expect(SLOTS);
            let before = worker.metrics.dropped(DropReason::ArenaExhausted);
            let start = Instant::now();
            let mut turns = 0;
            while start.elapsed() < Duration::from_millis(10) {
                worker.io.receive(&mut worker.received, Duration::from_millis(10), &worker.metrics);
                turns += 1;
            }
            assert!(worker.received.is_empty() && turns <= 20, "{kind:?}: {turns}");
            let exhausted = worker.metrics.dropped(DropReason::ArenaExhausted);
            assert!(exhausted > 0 && exhausted <= before + 1, "{kind:?}: a spell is counted once");
            for (n, received) in held.iter().enumerate() {
                assert_eq!(received.packet.bytes(), [n as u8]);
            }
            // Another thread gives them back.
            thread::spawn(move || drop(held)).join().unwrap();
            let mut next = SLOTS as u8;
            let end = Instant::now() + SOON;
            while next < 100 {
                assert!(Instant::now() < end);
                worker.io.receive(&mut worker.received, Duration::from_millis(10), &worker.metrics);
                for received in worker.received.drain(..) {
                    assert_eq!(received.packet.bytes(), [next]);
                    next += 1;
                }
            }
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    const TRIES: u64 = 10_000;
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", 64);
        let waker = worker.io.waker();
        let item = Arc::new(AtomicBool::new(false));
        let ring = item.clone();
        let (answer, answered) = mpsc::sync_channel::<u64>(1);
        let other = thread::spawn(move || {
            // Hands over one item after the other, at changing distances from the moment the worker goes to sleep.
            for n in answered {
                for _ in 0..(n * 7919) % 3000 {
                    std::hint::spin_loop();
                }
                ring.store(true, Ordering::Release);
                waker.wake();
            }
        });
        for n in 0..TRIES {
            let start = Instant::now();
            answer.send(n).unwrap();
            while !item.swap(false, Ordering::AcqRel) {
                worker.io.prepare_sleep();
                // With a lost wake-up, this sleeps for ten seconds.
                let wait = if item.load(Ordering::Acquire) { Duration::ZERO } else { Duration::from_secs(10) };
                worker.io.receive(&mut worker.received, wait, &worker.metrics);
            }
            assert!(start.elapsed() < SOON, "{kind:?}: {:?}", start.elapsed());
        }
        assert!(worker.metrics.get(Counter::Wakeups) > 0);
        drop(answer);
        other.join().unwrap();
    }
}

#[test]
fn a_wait_ends_by_a_waker_a_datagram_or_in_time() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", 64);
        let waker = worker.io.waker();
        // Awake, nobody is woken.
        waker.wake();
        worker.io.prepare_sleep();
        let start = Instant::now();
        worker.io.receive(&mut worker.received, Duration::from_millis(30), &worker.metrics);
        assert!(start.elapsed() >= Duration::from_millis(29), "{kind:?}: {:?}", start.elapsed());
        assert_eq!(worker.metrics.get(Counter::Wakeups), 0);

        // Again and again: it may find the worker still awake.
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            while ended.recv_timeout(Duration::from_millis(30)) == Err(mpsc::RecvTimeoutError::Timeout) {
                waker.wake();
            }
        });
        let start = Instant::now();
        worker.io.prepare_sleep();
        worker.io.receive(&mut worker.received, SOON, &worker.metrics);
        assert!(start.elapsed() < Duration::from_secs(1));
        drop(end);
        other.join().unwrap();
        assert_eq!(worker.metrics.get(Counter::Wakeups), 1);

        let to = worker.address;
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            peer("127.0.0.1:0").send_to(b"x", to).unwrap();
        });
        let start = Instant::now();
        worker.io.prepare_sleep();
        worker.io.receive(&mut worker.received, SOON, &worker.metrics);
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(worker.received.len(), 1);
        other.join().unwrap();
    }
}

#[test]
fn every_reuseport_socket_gets_flows_and_keeps_them() {
    for kind in BOTH {
        let sockets = socket::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(sockets.sockets.len(), 2);
        let mut workers: Vec<_> = sockets.sockets.into_iter().map(|socket| Worker::over(kind, socket, 512)).collect();
        let peers: Vec<_> = (0..64).map(|_| peer("127.0.0.1:0")).collect();
        let mut sources = [HashSet::new(), HashSet::new()];
        for _ in 0..3 {
            for peer in &peers {
                peer.send_to(b"flow", sockets.local).unwrap();
            }
            for (worker, sources) in workers.iter_mut().zip(&mut sources) {
                worker.io.receive(&mut worker.received, Duration::from_millis(100), &worker.metrics);
                sources.extend(worker.received.drain(..).map(|received| received.from));
            }
        }
        assert!(!sources[0].is_empty() && !sources[1].is_empty());
        assert!(sources[0].is_disjoint(&sources[1]));
        assert_eq!(sources[0].len() + sources[1].len(), 64);
    }
}

#[test]
fn a_worker_may_start_on_another_thread_than_it_was_made_on() {
    for kind in BOTH {
        let mut worker = Worker::at(kind, "127.0.0.1:0", 64);
        let to = worker.address;
        let other = thread::spawn(move || worker.expect(3).len());
        for _ in 0..3 {
            peer("127.0.0.1:0").send_to(b"x", to).unwrap();
        }
        assert_eq!(other.join().unwrap(), 3);
    }
}

#[test]
fn datagrams_leave_with_dont_fragment() {
    let sockets = socket::bind("[::]:0".parse().unwrap(), 1).unwrap();
    let get = |level, name| {
        use std::os::fd::AsRawFd;
        let (mut value, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: the value and its length are live.
        let result =
            unsafe { libc::getsockopt(sockets.sockets[0].as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
        assert_eq!(result, 0);
        value
    };
    assert_eq!(get(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER), libc::IP_PMTUDISC_PROBE);
    assert_eq!(get(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER), libc::IPV6_PMTUDISC_PROBE);
    assert_eq!(get(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG), 1);
    assert!(sockets.receive_buffer_bytes > 0 && sockets.send_buffer_bytes > 0);
}

#[test]
fn bind_errors_name_the_address_and_a_remedy() {
    let first = socket::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    // A second instance would share the port by SO_REUSEPORT; it must not.
    let error = socket::bind(first.local, 2).err().unwrap().to_string();
    assert!(error.contains("127.0.0.1") && error.contains(&first.local.port().to_string()), "{error}");
    assert!(error.contains("another instance"), "{error}");
    let error = socket::bind("192.0.2.1:4000".parse().unwrap(), 1).err().unwrap().to_string();
    assert!(error.contains("192.0.2.1 port 4000") && error.contains("no interface"), "{error}");
    // The port is free again when the sockets are closed, also those of a ring.
    let local = first.local;
    drop(first);
    for kind in BOTH {
        let mut worker = Worker::over(kind, socket::bind(local, 1).unwrap().sockets.remove(0), 64);
        worker.io.receive(&mut worker.received, Duration::ZERO, &worker.metrics);
    }
    socket::bind(local, 1).unwrap();
}

/// Makes io_uring_setup fail on this thread, as a container's seccomp profile does.
fn forbid_io_uring(errno: i32) {
    let number = libc::SYS_io_uring_setup as u32;
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its filter are live during the calls; they affect this thread only.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[test]
fn where_io_uring_is_forbidden_auto_falls_back_and_says_why() {
    for (errno, remedy) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "seccomp"), (libc::ENOMEM, "ulimit -l"), (libc::EINVAL, "6.0")]
    {
        let check = move || {
            forbid_io_uring(errno);
            let open = |kind| {
                let socket = socket::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().sockets.remove(0);
                Io::open(kind, socket, Arena::leak(64), Instant::now())
            };
            let error = open(IoKind::Uring).err().unwrap();
            assert!(matches!(error, IoError::Uring { step: "io_uring_setup", .. }));
            assert!(error.to_string().contains(remedy), "{error}");
            let (io, why) = open(IoKind::Auto).unwrap();
            assert!(matches!(io, Io::Mmsg(_)));
            assert!(why.starts_with("recvmmsg, because of: io_uring is not usable"), "{why}");
        };
        thread::spawn(check).join().unwrap();
    }
}

#[test]
fn auto_prefers_io_uring() {
    let socket = socket::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().sockets.remove(0);
    let (io, why) = Io::open(IoKind::Auto, socket, Arena::leak(64), Instant::now()).unwrap();
    assert!(matches!(io, Io::Uring(_)), "{why}");
    assert!(io.now() < Micros::from_secs(5));
}

#[test]
fn the_fake_cuts_trains_and_keeps_time() {
    let mut fake = Fake::new(Arena::leak(4));
    let peer: SocketAddr = "192.0.2.1:9".parse().unwrap();
    fake.now = Micros(77);
    fake.deliver("[::ffff:192.0.2.1]:9".parse().unwrap(), b"one");
    fake.deliver(peer, &[]);
    fake.deliver(peer, &[0; DATAGRAM_BYTES_MAX + 1]);
    fake.deliver(peer, b"two");
    let mut worker = Worker {
        io: Io::Fake(fake),
        metrics: WorkerMetrics::default(),
        received: Vec::with_capacity(TURN_DATAGRAMS),
        address: peer,
    };
    assert_eq!(worker.io.now(), Micros(77));
    worker.io.waker().wake();
    let received = worker.expect(2);
    assert!(received.iter().all(|received| received.from == peer));
    assert_eq!(received[1].packet.bytes(), b"two");
    assert_eq!(worker.metrics.dropped(DropReason::Empty), 1);
    assert_eq!(worker.metrics.dropped(DropReason::Oversize), 1);
    worker.send(&[(peer, vec![1; 10]), (peer, vec![2; 10]), (peer, vec![3; 4])]);
    let Io::Fake(fake) = &mut worker.io else { unreachable!() };
    let sent: Vec<_> = fake.outbound.drain(..).map(|(_, bytes)| bytes).collect();
    assert_eq!(sent, [vec![1; 10], vec![2; 10], vec![3; 4]]);
    assert_eq!(worker.metrics.get(Counter::SendOperations), 1);
    assert_eq!(worker.metrics.get(Counter::DatagramsSent), 3);
}
