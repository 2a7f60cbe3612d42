//! Headers of a frame as a sender by AF_PACKET has to write them itself: virtio-net, Ethernet, IPv4, UDP.

use std::net::{Ipv4Addr, SocketAddrV4};

/// struct virtio_net_hdr (linux/virtio_net.h), then the frame's.
const VNET_LEN: usize = 10;
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
pub const HEADER_LEN: usize = VNET_LEN + ETHERNET_LEN + IPV4_LEN + UDP_LEN;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const TTL: u8 = 64;

/// For `payload_len` bytes, a train of datagrams of `segment_len` if that is less.
pub fn write(from: SocketAddrV4, to: SocketAddrV4, payload_len: usize, segment_len: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (vnet, frame) = header.split_at_mut(VNET_LEN);
    vnet[0] = NEEDS_CHECKSUM;
    if segment_len < payload_len {
        vnet[1] = GSO_UDP_L4;
        vnet[4..6].copy_from_slice(&(segment_len as u16).to_le_bytes());
    }
    vnet[2..4].copy_from_slice(&((HEADER_LEN - VNET_LEN) as u16).to_le_bytes());
    // Where the checksum's data begins, and the place of the checksum in it (RFC 768).
    vnet[6..8].copy_from_slice(&((ETHERNET_LEN + IPV4_LEN) as u16).to_le_bytes());
    vnet[8..10].copy_from_slice(&6u16.to_le_bytes());

    let (ethernet, packet) = frame.split_at_mut(ETHERNET_LEN);
    // Neither loopback nor a sink looks at the addresses.
    ethernet[12..].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    let (ip, udp) = packet.split_at_mut(IPV4_LEN);
    let udp_len = UDP_LEN + payload_len;
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((IPV4_LEN + udp_len) as u16).to_be_bytes());
    ip[8..10].copy_from_slice(&[TTL, UDP]);
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let checksum = !sum(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
    udp[6..].copy_from_slice(&pseudo_header(*from.ip(), *to.ip(), udp_len).to_be_bytes());
    header
}

/// What the kernel expects in place of a checksum that it is to finish.
fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, udp_len: usize) -> u16 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&from.octets());
    bytes[4..8].copy_from_slice(&to.octets());
    bytes[9] = UDP;
    bytes[10..].copy_from_slice(&(udp_len as u16).to_be_bytes());
    sum(&bytes)
}

/// RFC 1071, not inverted.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 §3.
    #[test]
    fn a_checksum() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_ip_header_checks() {
        let (from, to) = ("10.0.0.1:1".parse().expect("valid"), "10.1.2.3:9".parse().expect("valid"));
        let train = write(from, to, 9600, 1200);
        assert_eq!(sum(&train[VNET_LEN + ETHERNET_LEN..][..IPV4_LEN]), 0xffff);
        assert_eq!((train[1], u16::from_le_bytes([train[4], train[5]])), (GSO_UDP_L4, 1200));
        assert_eq!(write(from, to, 1200, 1200)[1], 0);
    }
}
