//! What `limits` needs of Linux beyond the generator's: sends in batches and trains, a thread's CPU time, a network namespace.
//! All `unsafe` of this program is here and in the generator's module.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

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
    let mut sent = 0;
    while sent < targets.len() {
        let rest = &mut messages[sent..targets.len()];
        // SAFETY: these headers were filled above; all they point to lives until the call returns, and is only read.
        let result = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        sent += result as usize;
    }
    Ok(())
}
