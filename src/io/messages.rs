//! The headers of outgoing messages, allocated once: what sendmsg(2) needs besides the datagrams themselves.

use std::net::SocketAddr;

use super::address::Name;

/// Control data: one UDP_SEGMENT of a `u16`, 24 bytes.
type Control = [u64; 3];

// SAFETY: CMSG_SPACE is arithmetic only.
const _: () = assert!(unsafe { libc::CMSG_SPACE(2) } as usize == size_of::<Control>());

/// One message: its header and all that the header points to.
#[repr(C)]
struct Message {
    header: libc::msghdr,
    vector: libc::iovec,
    name: Name,
    control: Control,
}

/// A table of messages whose addresses never change, for the kernel to read.
pub(super) struct Messages {
    /// Leaked, like the arenas: a ring that refers to them may end after its owner.
    base: *mut Message,
    len: usize,
}

// SAFETY: the table is owned alone through `base`; nothing in it belongs to a thread.
unsafe impl Send for Messages {}

impl Messages {
    pub(super) fn leak(len: usize) -> Messages {
        // SAFETY: all-zero is a valid value of every part: null pointers, zero lengths, bytes.
        let table: Box<[Message]> = (0..len).map(|_| unsafe { std::mem::zeroed() }).collect();
        Messages { base: Box::leak(table).as_mut_ptr(), len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Fills message `index` and gives the header to hand to the kernel. With `segment`, the bytes are a train. The bytes must
    /// stay where they are until the kernel is done with the message.
    pub(super) fn fill(
        &mut self,
        index: usize,
        to: SocketAddr,
        ipv6: bool,
        bytes: &[u8],
        segment: Option<u16>,
    ) -> *const libc::msghdr {
        assert!(index < self.len);
        // SAFETY: `index` lies within the table, and `&mut self` makes this the only access to it.
        let message = unsafe { self.base.add(index) };
        // SAFETY: as above; only fields of this message are touched, through raw pointers, since the header keeps pointers to
        // its siblings.
        unsafe {
            let header = &raw mut (*message).header;
            (*header).msg_namelen = (*message).name.set(to, ipv6);
            (*header).msg_name = (&raw mut (*message).name).cast();
            (*message).vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            (*header).msg_iov = &raw mut (*message).vector;
            (*header).msg_iovlen = 1;
            match segment {
                Some(segment) => {
                    (*message).control = control(segment);
                    (*header).msg_control = (&raw mut (*message).control).cast();
                    (*header).msg_controllen = size_of::<Control>() as _;
                }
                None => {
                    (*header).msg_control = std::ptr::null_mut();
                    (*header).msg_controllen = 0;
                }
            }
            header
        }
    }

    /// Makes all messages refer to nothing, so that a stale request cannot read freed memory: the kernel refuses it.
    pub(super) fn clear(&mut self) {
        for index in 0..self.len {
            // SAFETY: as in `fill`; zero is a valid header.
            unsafe { (&raw mut (*self.base.add(index)).header).write_bytes(0, 1) };
        }
    }
}

/// A cmsghdr of 16 bytes (length, level, type), then the segment size.
fn control(segment: u16) -> Control {
    // SAFETY: CMSG_LEN is arithmetic only.
    let len = u64::from(unsafe { libc::CMSG_LEN(2) });
    let mut kind = [0; 8];
    kind[0..4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    kind[4..8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    let mut data = [0; 8];
    data[0..2].copy_from_slice(&segment.to_ne_bytes());
    [len, u64::from_ne_bytes(kind), u64::from_ne_bytes(data)]
}
