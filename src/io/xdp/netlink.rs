//! The kernel's routing socket (rtnetlink), as far as it is needed: requests with attributes, dumps, and notifications.
//!
//! A message is a header (length, type, flags, sequence, port), a body of fixed size, and attributes (length, type, value, padded
//! to four bytes); numbers are the machine's. What does not parse is skipped: the kernel is trusted, but never with an index.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Header of a message; header of an attribute.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// Larger than any datagram of a dump.
const BUFFER_BYTES: usize = 64 * 1024;
/// The kernel answers at once; this is a net under a bug.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Notifications that may wait while the thread is busy.
const NOTIFICATION_BYTES: usize = 1 << 20;

/// A connection to rtnetlink.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

/// A message to the kernel.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// `body` is the fixed part that belongs to `kind`.
    pub fn new(kind: u16, flags: i32, body: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(body);
        Request(bytes)
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self
    }
}

/// A message from the kernel.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub kind: u16,
    /// Body and attributes.
    pub body: &'a [u8],
}

impl Netlink {
    /// Joins multicast groups (0: none). With groups, reads do not block.
    pub fn open(groups: u32) -> io::Result<Netlink> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: sockaddr_nl is plain numbers, shorter than the storage, which is aligned for any address.
        let address = unsafe { storage.view_as::<libc::sockaddr_nl>() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups;
        // SAFETY: the storage holds a sockaddr_nl of that length.
        socket.bind(&unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_nl>() as libc::socklen_t) })?;
        if groups == 0 {
            socket.set_read_timeout(Some(ANSWER_WAIT))?;
        } else {
            socket.set_nonblocking(true)?;
            let _ = socket.set_recv_buffer_size(NOTIFICATION_BYTES);
        }
        Ok(Netlink { socket, buffer: vec![0; BUFFER_BYTES], sequence: 0 })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Asks, and gives each message of the answer to `each`. An error is the kernel's.
    pub fn ask(&mut self, request: Request, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut bytes = request.0;
        self.sequence += 1;
        let len = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let dump = i32::from(u16::from_ne_bytes([bytes[6], bytes[7]])) & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        self.socket.send(&bytes)?;
        loop {
            let read = self.socket.read(&mut self.buffer)?;
            let mut ended = false;
            for (sequence, message) in messages(&self.buffer[..read]) {
                if sequence != self.sequence {
                    // The rest of an answer that was given up.
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => ended = true,
                    libc::NLMSG_ERROR => {
                        let code = i32_at(message.body, 0).unwrap_or(-libc::EPROTO);
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => {
                        each(message);
                        ended |= !dump;
                    }
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Gives each notification that has arrived to `each`. False if some were lost.
    pub fn notifications(&mut self, mut each: impl FnMut(Message<'_>)) -> bool {
        loop {
            match self.socket.read(&mut self.buffer) {
                Ok(read) => messages(&self.buffer[..read]).for_each(|(_, message)| each(message)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.raw_os_error() != Some(libc::ENOBUFS),
            }
        }
    }
}

/// The messages of one datagram, each with its sequence number.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Message<'_>)> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..len).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u32_at(message, 8)?, Message { kind: u16_at(message, 4)?, body: &message[HEADER..] }))
    })
}

/// The attributes in `bytes`, which begin after a body of `skip` bytes: type, value. The flag for nested ones is taken off.
pub(super) fn attributes(bytes: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = bytes.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(ATTRIBUTE..len)?;
        let kind = u16_at(bytes, 2)? & !(libc::NLA_F_NESTED as u16);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_no_message_and_no_attribute() {
        let mut bytes = Request::new(24, 0, &[1; 12]).attribute(1, &[2; 5]).attribute(7, &[3; 4]).0;
        let len = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        let (_, message) = messages(&bytes).next().unwrap();
        assert_eq!(message.kind, 24);
        assert_eq!(attributes(message.body, 12).collect::<Vec<_>>(), [(1, &[2; 5][..]), (7, &[3; 4][..])]);
        for short in 0..bytes.len() {
            assert!(messages(&bytes[..short]).next().is_none());
            assert!(attributes(&bytes[..short], HEADER + 12).count() < 2);
        }
        // A length of less than its own header must not stand still.
        assert_eq!(attributes(&[0; 64], 0).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }

    #[test]
    fn the_kernel_tells_of_the_loopback() {
        let mut netlink = Netlink::open(0).unwrap();
        let mut found = false;
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16]);
        netlink
            .ask(request, |message| {
                found |= attributes(message.body, 16).any(|(kind, value)| kind == libc::IFLA_IFNAME && value == b"lo\0");
            })
            .unwrap();
        assert!(found);
        let error = netlink.ask(Request::new(libc::RTM_GETLINK, 0, &[0; 16]), |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
