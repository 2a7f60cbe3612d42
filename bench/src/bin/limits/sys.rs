//! What `limits` needs of Linux beyond the generator's: sends in batches and trains, frames, a thread's CPU time, a network namespace.
//! All `unsafe` of this program is here and in the generator's module.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Messages of one sendmmsg at most.
pub const MESSAGES_MAX: usize = 64;
/// Words of a control message with one u16: header of two, and one for the data.
const CONTROL_WORDS: usize = 3;

const _: () = assert!(size_of::<libc::cmsghdr>() == 16, "a control message begins with two words");

/// CPU time of the calling thread. On loopback and on virtual devices the receiving side is in it.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to be written; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Moves the calling thread, and the processes that it starts, into a network namespace of its own; needs root.
pub fn enter_new_network() -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// From now on what is sent by this socket is cut into datagrams of `segment_len` (UDP_SEGMENT, udp(7)).
pub fn set_segment(socket: &UdpSocket, segment_len: usize) -> io::Result<()> {
    let value = segment_len as libc::c_int;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a c_int of the length said, and is read only.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends one message each to `targets`, by one sendmmsg: of `message_len` bytes, which the kernel or the device cuts into
/// datagrams of `segment_len` (UDP_SEGMENT, udp(7)) if that is less. Message i's bytes start at i × `message_len` of `bytes`.
pub fn send_messages(
    socket: &UdpSocket,
    bytes: &[u8],
    message_len: usize,
    segment_len: usize,
    targets: &[SocketAddrV4],
) -> io::Result<()> {
    assert!(targets.len() <= MESSAGES_MAX && targets.len() * message_len <= bytes.len());
    // SAFETY: addresses, iovecs and message headers of zeros are empty ones.
    let (mut addresses, mut parts, mut messages): (
        [libc::sockaddr_in; MESSAGES_MAX],
        [libc::iovec; MESSAGES_MAX],
        [libc::mmsghdr; MESSAGES_MAX],
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    let level_and_type = u64::from(libc::SOL_UDP as u32) | u64::from(libc::UDP_SEGMENT as u32) << 32;
    // cmsg_len, level and type, data; little-endian as all machines that this runs on.
    let mut control: [u64; CONTROL_WORDS] = [size_of::<libc::cmsghdr>() as u64 + 2, level_and_type, segment_len as u64];
    let places = addresses.iter_mut().zip(&mut parts).zip(&mut messages);
    for ((target, message_bytes), ((address, part), message)) in targets.iter().zip(bytes.chunks(message_len)).zip(places) {
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = target.port().to_be();
        address.sin_addr.s_addr = u32::from(*target.ip()).to_be();
        *part = libc::iovec { iov_base: message_bytes.as_ptr().cast_mut().cast(), iov_len: message_len };
        message.msg_hdr.msg_name = (&raw mut *address).cast();
        message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        if segment_len < message_len {
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of_val(&control);
        }
    }
    // SAFETY: these headers were filled above; all they point to lives until the call returns, and is only read.
    unsafe { send_all(socket.as_raw_fd(), &mut messages[..targets.len()]) }
}

/// # Safety
///
/// What the messages point to must be there until this returns, of the lengths they say.
unsafe fn send_all(fd: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<()> {
    let mut sent = 0;
    while sent < messages.len() {
        let rest = &mut messages[sent..];
        // SAFETY: as the caller promises; it is only read, but for the counts in the headers.
        let result = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), rest.len() as u32, 0) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        sent += result as usize;
    }
    Ok(())
}

/// A socket that sends whole Ethernet frames by a device, each after a virtio-net header (packet(7), PACKET_VNET_HDR): that says
/// where the kernel, or the device, is to fill in the checksum and to cut a train.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Needs CAP_NET_RAW.
    pub fn open(device: &str) -> io::Result<PacketSocket> {
        let name = CString::new(device)?;
        // SAFETY: a string that ends with 0.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // Protocol 0: it receives nothing.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if index == 0 || fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let on: libc::c_int = 1;
        // SAFETY: an option of a c_int, read only.
        let set = unsafe {
            let len = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const on).cast(), len)
        };
        // SAFETY: an address of zeros is one.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_ifindex = index as libc::c_int;
        // SAFETY: an address of the length said, read only.
        let bound = unsafe {
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len)
        };
        if set < 0 || bound < 0 { Err(io::Error::last_os_error()) } else { Ok(PacketSocket(fd)) }
    }

    /// Sends by one sendmmsg: header i, and then `message_len` bytes from i × `message_len` of `bytes`.
    pub fn send<const HEADER_LEN: usize>(&self, headers: &[[u8; HEADER_LEN]], bytes: &[u8], message_len: usize) -> io::Result<()> {
        assert!(headers.len() <= MESSAGES_MAX && headers.len() * message_len <= bytes.len());
        // SAFETY: iovecs and message headers of zeros are empty ones.
        let (mut parts, mut messages): ([[libc::iovec; 2]; MESSAGES_MAX], [libc::mmsghdr; MESSAGES_MAX]) =
            unsafe { (zeroed(), zeroed()) };
        for ((header, payload), (part, message)) in
            headers.iter().zip(bytes.chunks(message_len)).zip(parts.iter_mut().zip(&mut messages))
        {
            part[0] = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: HEADER_LEN };
            part[1] = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: message_len };
            message.msg_hdr.msg_iov = part.as_mut_ptr();
            message.msg_hdr.msg_iovlen = 2;
        }
        // SAFETY: these headers were filled above; all they point to lives until the call returns, and is only read.
        unsafe { send_all(self.0.as_raw_fd(), &mut messages[..headers.len()]) }
    }
}
