//! Makes the workers' sockets: one UDP port, as many SO_REUSEPORT sockets as there are workers.
//!
//! The kernel hashes each 4-tuple to one of the sockets and stays with it, so a peer's datagrams always come to one worker.
//!
//! - A wildcard or IPv6 address gives dual-stack sockets (IPV6_V6ONLY off); an IPv4 address, or a host without IPv6, IPv4 ones.
//! - Datagrams leave with Don't Fragment set and without regard to the path MTU that the kernel has learnt (`PROBE`): media is
//!   packetised for 1200 bytes or so, a fragment is worse than a loss, and a forged ICMP message must not change what is sent.
//!   It matters doubly with trains, which the kernel was seen to cut above the MTU and fragment without it.
//! - Buffers are as large as the system lets them be: a worker may be busy for a millisecond while packets arrive.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::IoError;

/// Bytes asked of SO_RCVBUF: about 50 ms of 1 Gb/s, for one worker.
pub const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Bytes asked of SO_SNDBUF: several full batches.
pub const SEND_BUFFER_BYTES: usize = 8 << 20;

/// The sockets of all workers, and what became of the wishes.
pub struct Sockets {
    pub sockets: Vec<UdpSocket>,
    /// Where they are bound: with the port that was picked, if 0 was asked for.
    pub local: SocketAddr,
    /// Bytes of the receive and send buffers that the kernel granted (it doubles what it is asked, for its own records).
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    /// What an operator should know, for the log.
    pub warnings: Vec<String>,
}

/// Makes `count` sockets on one address and port (0: the kernel picks one).
pub fn bind(address: SocketAddr, count: usize) -> Result<Sockets, IoError> {
    let mut warnings = Vec::new();
    let address = match reserve(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            warnings.push(format!("no IPv6 on this host ({error}); listening on IPv4 only"));
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            reserve(v4).map_err(|error| IoError::Bind { address: v4, error })?;
            v4
        }
        Err(error) => return Err(IoError::Bind { address, error }),
        Ok(()) => address,
    };
    let mut local = address;
    let mut sockets = Vec::with_capacity(count);
    let (mut receive_buffer_bytes, mut send_buffer_bytes) = (usize::MAX, usize::MAX);
    for _ in 0..count {
        let bind_error = |error| IoError::Bind { address: local, error };
        let socket = datagram_socket(local).map_err(bind_error)?;
        socket.set_reuse_port(true).map_err(|error| IoError::Option { name: "SO_REUSEPORT", error })?;
        forbid_fragments(&socket, local.is_ipv6())?;
        receive_buffer_bytes = receive_buffer_bytes.min(enlarge(&socket, Buffer::Receive));
        send_buffer_bytes = send_buffer_bytes.min(enlarge(&socket, Buffer::Send));
        socket.bind(&SockAddr::from(local)).map_err(bind_error)?;
        let socket = UdpSocket::from(socket);
        local = socket.local_addr().map_err(bind_error)?;
        sockets.push(socket);
    }
    for (name, granted, wanted, sysctl) in [
        ("receive", receive_buffer_bytes, RECEIVE_BUFFER_BYTES, "net.core.rmem_max"),
        ("send", send_buffer_bytes, SEND_BUFFER_BYTES, "net.core.wmem_max"),
    ] {
        if granted < wanted {
            warnings
                .push(format!("{name} buffers have {granted} bytes instead of {wanted}: raise {sysctl} or grant CAP_NET_ADMIN"));
        }
    }
    Ok(Sockets { sockets, local, receive_buffer_bytes, send_buffer_bytes, warnings })
}

/// Finds out whether the port is free. SO_REUSEPORT alone would let a second instance of this server bind the same port and
/// take half of the first one's peers, so the port is bound once without it.
fn reserve(address: SocketAddr) -> io::Result<()> {
    datagram_socket(address)?.bind(&SockAddr::from(address))
}

fn datagram_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// Sets Don't Fragment, for both families of a dual-stack socket.
fn forbid_fragments(socket: &Socket, ipv6: bool) -> Result<(), IoError> {
    let fd = socket.as_raw_fd();
    set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
        .map_err(|error| IoError::Option { name: "IP_MTU_DISCOVER", error })?;
    if ipv6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            .map_err(|error| IoError::Option { name: "IPV6_MTU_DISCOVER", error })?;
        // PROBE alone still lets the sender itself make fragments.
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
            .map_err(|error| IoError::Option { name: "IPV6_DONTFRAG", error })?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Buffer {
    Receive,
    Send,
}

/// Enlarges a buffer beyond the system's maximum if privileged, up to it if not, and gives the bytes reached.
fn enlarge(socket: &Socket, buffer: Buffer) -> usize {
    let fd = socket.as_raw_fd();
    let (forced, bytes) = match buffer {
        Buffer::Receive => (libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES),
        Buffer::Send => (libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES),
    };
    // A refusal shows in the size that is read back.
    if set_option(fd, libc::SOL_SOCKET, forced, bytes as libc::c_int).is_err() {
        let _ = match buffer {
            Buffer::Receive => socket.set_recv_buffer_size(bytes),
            Buffer::Send => socket.set_send_buffer_size(bytes),
        };
    }
    match buffer {
        Buffer::Receive => socket.recv_buffer_size(),
        Buffer::Send => socket.send_buffer_size(),
    }
    .unwrap_or(0)
}

/// Reads an integer option.
pub(super) fn get_option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let (mut value, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: at most `len` bytes of a live local are written.
    match unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an integer option.
pub(super) fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `len` bytes of a live local are read.
    match unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
