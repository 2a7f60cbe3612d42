//! Steering by core: a datagram goes to the worker that is pinned to the core on which the kernel received it, so that a flow stays
//! on the core that its NIC queue interrupts, and its packet in that core's cache.
//!
//! A classic BPF program of the SO_REUSEPORT group says so: a chain of "this CPU? then that socket", and for every other CPU an
//! index that is none, with which the kernel falls back to the flow's hash. Not SO_INCOMING_CPU, which would be an option of
//! each socket: before Linux 6.2 the group's choice by hash went over it.
//!
//! It pays only where a flow's CPU does not change: each NIC queue bound to one core. If it changes all the same, the other
//! worker hands on what it gets, from the client's next connectivity check there on (some seconds); before that it does not
//! know the address, and drops.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use super::IoError;
use crate::limits::WORKERS_MAX;

/// Two instructions a core, one before and one after; the kernel takes 4096.
const _: () = assert!(2 * WORKERS_MAX + 2 <= 4096);

/// An index that no socket has.
const BY_HASH: u32 = u32::MAX;

/// Steers to the sockets of one address, in the order in which they were bound: `cores[i]` is the core of `sockets[i]`.
pub fn by_core(sockets: &[UdpSocket], cores: &[usize]) -> Result<(), IoError> {
    // The program belongs to the group, so any socket of it will do.
    let Some(socket) = sockets.first() else { return Ok(()) };
    let mut program = program(cores);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (option, len) = (libc::SO_ATTACH_REUSEPORT_CBPF, size_of_val(&program) as libc::socklen_t);
    // SAFETY: `len` bytes of a live local are read, and as many instructions as it says where it points to, live too.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), len) } {
        0 => Ok(()),
        _ => Err(IoError::Option { name: "SO_ATTACH_REUSEPORT_CBPF", error: io::Error::last_os_error() }),
    }
}

fn program(cores: &[usize]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jump_if_false: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_false, k };
    let answer = |index: u32| instruction(libc::BPF_RET | libc::BPF_K, 0, index);
    let cpu = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, cpu)];
    for (index, core) in cores.iter().enumerate() {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, *core as u32));
        program.push(answer(index as u32));
    }
    program.push(answer(BY_HASH));
    program
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::SocketAddr;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::io::socket;

    /// Sends from sockets of its own, on the loopback, where a datagram is received on the core that sends it.
    fn send_on(core: usize, to: SocketAddr, count: usize) -> HashSet<SocketAddr> {
        let sender = thread::spawn(move || {
            assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }));
            let flows: Vec<UdpSocket> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            flows.iter().for_each(|flow| assert_eq!(flow.send_to(b"flow", to).unwrap(), 4));
            flows.iter().map(|flow| flow.local_addr().unwrap()).collect()
        });
        sender.join().unwrap()
    }

    fn sources(socket: &UdpSocket) -> HashSet<SocketAddr> {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        std::iter::from_fn(|| socket.recv_from(&mut [0; 64]).ok()).map(|(_, from)| from).collect()
    }

    #[test]
    fn a_flow_comes_to_the_worker_on_its_core() {
        // The other way round than the kernel numbers them, so that the order shows.
        let mut cores: Vec<usize> = core_affinity::get_core_ids().unwrap().into_iter().map(|core| core.id).take(2).collect();
        cores.reverse();
        let sockets = socket::bind("127.0.0.1:0".parse().unwrap(), cores.len()).unwrap();
        by_core(&sockets.sockets, &cores).unwrap();
        for (core, socket) in cores.iter().zip(&sockets.sockets) {
            let flows = send_on(*core, sockets.local, 40);
            assert_eq!(sources(socket), flows, "core {core} of {cores:?}");
        }
        for socket in &sockets.sockets {
            assert!(sources(socket).is_empty());
        }
    }

    #[test]
    fn what_arrives_on_another_core_goes_by_its_hash() {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let sockets = socket::bind("[::]:0".parse().unwrap(), 2).unwrap();
        by_core(&sockets.sockets, &[100_000, 100_001]).unwrap();
        let flows = send_on(core, SocketAddr::new("127.0.0.1".parse().unwrap(), sockets.local.port()), 40);
        let received: Vec<usize> = sockets.sockets.iter().map(|socket| sources(socket).len()).collect();
        assert!(received.iter().all(|count| *count > 0) && received.iter().sum::<usize>() == flows.len(), "{received:?}");
    }
}
