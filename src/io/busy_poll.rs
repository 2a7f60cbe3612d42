//! Busy polling: a worker that waits asks the NIC itself for a while before it sleeps. That saves the interrupt and the wake-up on
//! each quiet receive, and pays with a core that seldom rests. It does nothing on devices without NAPI, such as the loopback, so
//! what it gains has not been measured yet: that takes a real NIC, and a generator on another machine.
//!
//! SO_BUSY_POLL is an option of the socket and does for receiving; how a worker waits is another matter:
//!
//! - io_uring: the ring is told too, and polls while it waits (Linux 6.9 or later; [`uring`](super::uring)).
//! - recvmmsg: poll(2) does so only if the sysctl net.core.busy_poll is set.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use super::IoError;
use super::socket::{get_option, set_option};

/// Sets how many microseconds a receive polls. More than the sysctl net.core.busy_read says needs CAP_NET_ADMIN, as does what
/// goes with it: that the device's interrupts wait as long as it is polled. True if they do.
pub fn set(socket: &UdpSocket, micros: u16) -> Result<bool, IoError> {
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, micros.into())
        .map_err(|error| IoError::Option { name: "SO_BUSY_POLL", error })?;
    Ok(set_option(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1).is_ok())
}

/// Microseconds that a receive of this socket polls, 0 for none: as it was told, or as the sysctl net.core.busy_read says.
pub(super) fn micros(socket: &UdpSocket) -> u32 {
    get(socket, libc::SO_BUSY_POLL).unwrap_or(0)
}

/// Whether interrupts wait for the poll.
pub(super) fn preferred(socket: &UdpSocket) -> bool {
    get(socket, libc::SO_PREFER_BUSY_POLL).is_ok_and(|set| set != 0)
}

fn get(socket: &UdpSocket, option: libc::c_int) -> io::Result<u32> {
    get_option(socket.as_raw_fd(), libc::SOL_SOCKET, option).map(|value| value.max(0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::socket;

    #[test]
    fn what_is_set_is_set() {
        let socket = socket::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().sockets.remove(0);
        assert!(!preferred(&socket));
        match set(&socket, 70) {
            Ok(preferred_) => assert_eq!((micros(&socket), preferred(&socket)), (70, preferred_)),
            // Without the privilege, and with busy_read at less.
            Err(error) => assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}"),
        }
    }
}
