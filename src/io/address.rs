//! Socket addresses as the kernel lays them out, read and written as bytes.
//!
//! A dual-stack socket reports IPv4 peers as IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2). Above this module an IPv4
//! peer is always `SocketAddr::V4`, so that one peer has one address whatever the socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of a `sockaddr_in`.
const V4_BYTES: usize = size_of::<libc::sockaddr_in>();
/// Bytes of a `sockaddr_in6`, the longer one.
pub(super) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// Room for either kind of socket address.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Name([u8; NAME_BYTES]);

impl Name {
    pub(super) const EMPTY: Name = Name([0; NAME_BYTES]);

    /// Writes `to` for a socket of the given family and gives its length.
    pub(super) fn set(&mut self, to: SocketAddr, ipv6: bool) -> u32 {
        match for_socket(to, ipv6) {
            SocketAddr::V4(to) => {
                self.0[0..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                self.0[2..4].copy_from_slice(&to.port().to_be_bytes());
                self.0[4..8].copy_from_slice(&to.ip().octets());
                self.0[8..16].fill(0);
                V4_BYTES as u32
            }
            SocketAddr::V6(to) => {
                self.0[0..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                self.0[2..4].copy_from_slice(&to.port().to_be_bytes());
                self.0[4..8].fill(0);
                self.0[8..24].copy_from_slice(&to.ip().octets());
                self.0[24..28].copy_from_slice(&to.scope_id().to_ne_bytes());
                NAME_BYTES as u32
            }
        }
    }
}

/// The address that the kernel wrote, IPv4 where it is IPv4.
pub(super) fn parse(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *name.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(canonical(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into()))
        }
        _ => None,
    }
}

/// IPv4-mapped IPv6 becomes IPv4; a flow label, which is not part of who somebody is, becomes 0.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddrV4::new(v4, v6.port()).into(),
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
    }
}

/// The address as a socket of the given family wants it: IPv4 goes out of an IPv6 socket as a mapped address.
pub(super) fn for_socket(to: SocketAddr, ipv6: bool) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) if ipv6 => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_kernel_and_back() {
        for text in ["192.0.2.7:40000", "[2001:db8::1]:1", "[fe80::1%3]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            for ipv6 in [true, address.is_ipv6()] {
                let mut name = Name::EMPTY;
                let len = name.set(address, ipv6) as usize;
                assert_eq!(parse(&name.0[..len]), Some(address));
            }
        }
    }

    #[test]
    fn short_or_foreign_names_are_no_address() {
        let mut name = Name::EMPTY;
        assert_eq!(parse(&name.0), None);
        let len = name.set("[::1]:5".parse().unwrap(), true) as usize;
        for short in 0..len {
            assert_eq!(parse(&name.0[..short]), None);
        }
    }
}
