//! io_uring: one SEND for each of many connected sockets, submitted together.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

pub const SENDS_MAX: usize = 64;

pub struct Ring(IoUring);

impl Ring {
    pub fn new() -> io::Result<Ring> {
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(SENDS_MAX as u32).map(Ring)
    }

    /// Sends `bytes` in equal parts, one to each socket, and waits until they are sent.
    pub fn send(&mut self, sockets: &[UdpSocket], bytes: &[u8]) -> io::Result<()> {
        assert!(!sockets.is_empty() && sockets.len() <= SENDS_MAX);
        let part = bytes.len() / sockets.len();
        for (socket, bytes) in sockets.iter().zip(bytes.chunks_exact(part)) {
            let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), part as u32).build();
            // SAFETY: the bytes are borrowed until this returns, and it waits for all.
            unsafe { self.0.submission().push(&send) }.map_err(io::Error::other)?;
        }
        let mut done = 0;
        let mut result = Ok(());
        while done < sockets.len() {
            self.0.submit_and_wait(sockets.len() - done)?;
            for completion in self.0.completion() {
                done += 1;
                if completion.result() < 0 {
                    result = Err(io::Error::from_raw_os_error(-completion.result()));
                }
            }
        }
        result
    }
}
