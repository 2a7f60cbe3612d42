//! ICE candidate lines (RFC 8839 §5.1): reading the peer's, writing ours.

use std::net::{IpAddr, SocketAddr};

/// Reads the value of an `a=candidate` and returns its address if the server could ever see packets from it: UDP, component 1
/// (RTP and RTCP are muxed), a literal address. mDNS names and TCP candidates give `None`; an ICE-lite agent learns where its
/// peer is from the checks it receives, so nothing is lost.
pub fn parse(value: &str) -> Option<SocketAddr> {
    // foundation SP component-id SP transport SP priority SP address SP port SP "typ" SP type
    let mut fields = value.split_ascii_whitespace();
    let _foundation = fields.next()?;
    let component: u16 = fields.next()?.parse().ok()?;
    let transport = fields.next()?;
    let _priority: u32 = fields.next()?.parse().ok()?;
    let address: IpAddr = fields.next()?.parse().ok()?;
    let port: u16 = fields.next()?.parse().ok()?;
    if fields.next()? != "typ" || fields.next().is_none() {
        return None;
    }
    (component == 1 && transport.eq_ignore_ascii_case("udp") && port != 0).then(|| SocketAddr::new(address, port))
}

/// The value of an `a=candidate` for our `index`th host address.
pub fn write(index: usize, address: SocketAddr) -> String {
    // RFC 8445 §5.1.2.1: type preference 126 for host, then 16 bits of local preference, component 1. IPv6 before IPv4, as
    // RFC 8421 advises; otherwise in the configured order.
    let family = if address.is_ipv6() { 0x8000_u32 } else { 0 };
    let local = family + 0x7fff_u32.saturating_sub(u32::try_from(index).unwrap_or(u32::MAX));
    let priority = (126 << 24) | (local << 8) | (256 - 1);
    format!("{} 1 udp {priority} {} {} typ host", index + 1, address.ip().to_canonical(), address.port())
}

/// The same for TCP, where we wait for the client's connection.
pub fn write_tcp(foundation: usize, index: usize, address: SocketAddr) -> String {
    // RFC 6544 §4.2: UDP is preferred by the type preference (90 is libwebrtc's too); of the local preference, 3 bits are for the
    // direction, 4 for passive ones, and 13 for the rest.
    let family = if address.is_ipv6() { 0x1000_u32 } else { 0 };
    let local = (4 << 13) | (family + 0x0fff_u32.saturating_sub(u32::try_from(index).unwrap_or(u32::MAX)));
    let priority = (90 << 24) | (local << 8) | (256 - 1);
    format!("{foundation} 1 tcp {priority} {} {} typ host tcptype passive", address.ip().to_canonical(), address.port())
}
