//! Ethernet frames around datagrams: read on arrival, written from a client's [`Headers`] on departure.
//!
//! **UDP checksums.** Written always, or left to the device where the kernel takes care that it can (copy mode, from Linux 6.11 on). IPv6 demands one (RFC 8200 §8.1); IPv4 would allow none (RFC 768), but then a NAT64 on the
//! way has to compute it, or drops the datagram (RFC 7915 §4.5), while it costs some 60 ns for 1200 bytes in the cache and 20 for
//! 120. Not checked on arrival: what is accepted in the end carries an authentication tag (SRTP, DTLS, STUN's
//! MESSAGE-INTEGRITY), and between virtual devices a checksum may be left to hardware that is not there.
//!
//! **Fragments.** Sent with Don't Fragment and identification 0 (RFC 6864 §4.1); received ones go to the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

const ETHERNET: usize = 14;
const VLAN: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
pub(super) const UDP: usize = 8;
/// Where the checksum is in a UDP header.
pub(super) const UDP_CHECKSUM: usize = 6;
/// VLAN tags of one frame: two for a provider's tag around a customer's (IEEE 802.1ad).
pub(super) const TAGS_MAX: usize = 2;
/// All headers at their longest.
pub(super) const HEADERS_MAX: usize = ETHERNET + TAGS_MAX * VLAN + IPV6 + UDP;
const _: () = assert!(HEADERS_MAX <= crate::limits::HEADROOM_BYTES);

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
pub(super) const TYPE_VLAN: u16 = 0x8100;
pub(super) const TYPE_PROVIDER_VLAN: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
/// As the kernel's sockets do (net.ipv4.ip_default_ttl).
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// A VLAN tag: what kind, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// [`TYPE_VLAN`] or [`TYPE_PROVIDER_VLAN`].
    pub kind: u16,
    pub id: u16,
}

/// The datagram in a received frame: who sent it, and where it lies. None for what is not a whole, unfragmented UDP datagram
/// without IP options; the XDP program has let nothing else through. `interface` becomes the scope of link-local addresses.
pub(super) fn parse(frame: &[u8], interface: u32) -> Option<(SocketAddr, Range<usize>)> {
    let mut at = ETHERNET;
    let mut kind = u16_at(frame, at - 2)?;
    while (kind == TYPE_VLAN || kind == TYPE_PROVIDER_VLAN) && at < ETHERNET + TAGS_MAX * VLAN {
        kind = u16_at(frame, at + 2)?;
        at += VLAN;
    }
    let source: IpAddr;
    let end;
    match kind {
        TYPE_IPV4 => {
            let ip: &[u8; IPV4] = frame.get(at..)?.first_chunk()?;
            let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
            if ip[0] != 0x45 || ip[9] != PROTOCOL_UDP || fragment != 0 {
                return None;
            }
            source = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]).into();
            end = at + usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            at += IPV4;
        }
        TYPE_IPV6 => {
            let ip: &[u8; IPV6] = frame.get(at..)?.first_chunk()?;
            if ip[0] >> 4 != 6 || ip[6] != PROTOCOL_UDP {
                return None;
            }
            source = Ipv6Addr::from(*ip[8..].first_chunk::<16>()?).into();
            at += IPV6;
            end = at + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        }
        _ => return None,
    }
    let udp: &[u8; UDP] = frame.get(at..)?.first_chunk()?;
    let port = u16::from_be_bytes([udp[0], udp[1]]);
    // Short frames are padded to the least that Ethernet carries: the lengths in the headers count.
    let datagram = at + UDP..at + usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    if datagram.end < datagram.start || datagram.end > end || end > frame.len() {
        return None;
    }
    let from = match source {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, interface).into(),
        ip => SocketAddr::new(ip, port),
    };
    Some((crate::io::address::canonical(from), datagram))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The way to one client: everything before a datagram, but for lengths and checksums.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    bytes: [u8; HEADERS_MAX],
    len: u8,
    /// Where the IP header begins.
    ip: u8,
    /// Largest datagram that the way carries unfragmented.
    payload_max: u16,
    /// Sums of what does not change: of the IPv4 header, and of UDP's pseudo-header.
    ip_sum: u32,
    pseudo_sum: u32,
}

/// What [`Headers`] are made of.
#[derive(Clone, Debug)]
pub(super) struct Way<'a> {
    pub source: Mac,
    pub next_hop: Mac,
    /// Outermost first.
    pub tags: &'a [Tag],
    /// Of the same family.
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Of the link: bytes of an IP packet.
    pub mtu: usize,
}

impl Headers {
    /// None for addresses of two families, or for more tags than are followed.
    pub fn new(way: &Way<'_>) -> Option<Headers> {
        let mut bytes = [0; HEADERS_MAX];
        let mut len = 0;
        let mut put = |part: &[u8]| {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        };
        if way.tags.len() > TAGS_MAX {
            return None;
        }
        put(&way.next_hop);
        put(&way.source);
        for tag in way.tags {
            put(&tag.kind.to_be_bytes());
            put(&(tag.id & 0x0fff).to_be_bytes());
        }
        let ip = ETHERNET + way.tags.len() * VLAN;
        let addresses = match (way.from.ip(), way.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                put(&TYPE_IPV4.to_be_bytes());
                put(&[0x45, 0, 0, 0, 0, 0]);
                put(&DONT_FRAGMENT.to_be_bytes());
                put(&[TTL, PROTOCOL_UDP, 0, 0]);
                put(&from.octets());
                put(&to.octets());
                ip + 12..ip + IPV4
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                put(&TYPE_IPV6.to_be_bytes());
                put(&[0x60, 0, 0, 0, 0, 0, PROTOCOL_UDP, TTL]);
                put(&from.octets());
                put(&to.octets());
                ip + 8..ip + IPV6
            }
            _ => return None,
        };
        put(&way.from.port().to_be_bytes());
        put(&way.to.port().to_be_bytes());
        put(&[0; 4]);
        let payload_max = way.mtu.saturating_sub(len - ip).min(usize::from(u16::MAX) - IPV6 - UDP) as u16;
        let pseudo_sum = u32::from(fold(sum(&bytes[addresses]) + sum(&[0, PROTOCOL_UDP])));
        let ip_sum = u32::from(fold(sum(&bytes[ip..ip + IPV4])));
        Some(Headers { bytes, len: len as u8, ip: ip as u8, payload_max, ip_sum, pseudo_sum })
    }

    pub fn fits(&self, datagram: usize) -> bool {
        datagram <= usize::from(self.payload_max)
    }

    /// Writes the headers before the datagram at `datagram` in `slot`, and says where the frame lies. Its UDP checksum is whole, or, where it is
    /// `left` to a device, the sum of the pseudo-header: what that adds the rest to.
    ///
    /// # Panics
    /// If there is not [`HEADERS_MAX`] of room before the datagram, or the datagram does not fit ([`Headers::fits`]).
    pub fn write(&self, slot: &mut [u8], datagram: Range<usize>, left: bool) -> Range<usize> {
        assert!(self.fits(datagram.len()));
        let (len, ip) = (usize::from(self.len), usize::from(self.ip));
        let start = datagram.start - len;
        let payload_sum = if left { 0 } else { sum(&slot[datagram.clone()]) };
        let headers = &mut slot[start..datagram.start];
        headers.copy_from_slice(&self.bytes[..len]);
        let udp_len = (UDP + datagram.len()) as u16;
        let (network, udp) = headers[ip..].split_at_mut(len - ip - UDP);
        if network.len() == IPV4 {
            let total = udp_len + IPV4 as u16;
            network[2..4].copy_from_slice(&total.to_be_bytes());
            let sum = u64::from(self.ip_sum) + u64::from(total.to_be());
            network[10..12].copy_from_slice(&(!fold(sum)).to_ne_bytes());
        } else {
            network[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let pseudo_sum = u64::from(self.pseudo_sum) + u64::from(udp_len.to_be());
        let checksum = if left {
            fold(pseudo_sum)
        } else {
            // A sum of zero is written as all ones (RFC 768): zero means that there is none.
            match !fold(pseudo_sum + sum(&udp[..UDP_CHECKSUM]) + payload_sum) {
                0 => u16::MAX,
                checksum => checksum,
            }
        };
        udp[UDP_CHECKSUM..].copy_from_slice(&checksum.to_ne_bytes());
        start..datagram.end
    }
}

/// The sum of 16-bit words (RFC 1071), not yet folded. Words are read as the machine reads them: the ones' complement sum of
/// swapped words is the swapped sum.
fn sum(bytes: &[u8]) -> u64 {
    // Four chains of eight bytes at a time, each with room for its carries: twice as fast as what compilers make of four bytes.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u128; 4];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let wide: u128 = lanes.iter().sum();
    let low = wide as u64;
    let (words, rest) = rest.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let words: u64 = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    (low & 0xffff_ffff) + (low >> 32) + (wide >> 64) as u64 + words
}

fn fold(sum: u64) -> u16 {
    let mut sum = (sum & 0xffff_ffff) + (sum >> 32);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::u64_16bit_word};

    use super::*;
    use crate::limits::{HEADROOM_BYTES, SLOT_BYTES};

    const ONE_TAG: &[Tag] = &[Tag { kind: TYPE_VLAN, id: 9 }];
    const TWO_TAGS: &[Tag] = &[Tag { kind: TYPE_PROVIDER_VLAN, id: 4094 }, Tag { kind: TYPE_VLAN, id: 1 }];

    fn way<'a>(from: &str, to: &str, tags: &'a [Tag]) -> Way<'a> {
        Way {
            source: [2, 0, 0, 0, 0, 1],
            next_hop: [2, 0, 0, 0, 0, 2],
            tags,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            mtu: 1500,
        }
    }

    /// A slot with a datagram in it, and the frame around that, its checksum whole or left to a device.
    fn frames(way: &Way<'_>, payload: &[u8]) -> [Vec<u8>; 2] {
        [false, true].map(|left| {
            let mut slot = [0xee; SLOT_BYTES];
            let datagram = HEADROOM_BYTES..HEADROOM_BYTES + payload.len();
            slot[datagram.clone()].copy_from_slice(payload);
            let frame = Headers::new(way).unwrap().write(&mut slot, datagram, left);
            slot[frame].into()
        })
    }

    fn framed(way: &Way<'_>, payload: &[u8]) -> Vec<u8> {
        let [frame, _] = frames(way, payload);
        frame
    }

    fn payload(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + seed * 31 + at * at / 3) as u8).collect()
    }

    #[test]
    fn another_parser_reads_what_was_written_and_finds_the_checksums_right() {
        for (from, to) in [("192.0.2.1:7882", "198.51.100.77:40000"), ("[2001:db8::1]:7882", "[2001:db8:ffff::ff00:1]:65535")] {
            for tags in [&[], ONE_TAG, TWO_TAGS] {
                for len in [1, 2, 3, 4, 5, 31, 120, 1199, 1200, 1400] {
                    let (way, payload) = (way(from, to, tags), payload(len, tags.len()));
                    let frame = framed(&way, &payload);
                    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
                    let ids = sliced.vlan_ids();
                    assert!(ids.iter().map(|id| id.value()).eq(tags.iter().map(|tag| tag.id)), "{ids:?}");
                    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("UDP") };
                    assert_eq!((udp.source_port(), udp.destination_port()), (way.from.port(), way.to.port()));
                    assert_eq!(udp.payload(), payload);
                    let checksum = match sliced.net.unwrap() {
                        NetSlice::Ipv4(ip) => {
                            let ip = ip.header().to_header();
                            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                            assert!(ip.dont_fragment && ip.time_to_live == 64 && ip.total_len as usize == 28 + len);
                            assert_eq!(way.from.ip(), IpAddr::from(ip.source));
                            assert_eq!(way.to.ip(), IpAddr::from(ip.destination));
                            udp.to_header().calc_checksum_ipv4(&ip, &payload).unwrap()
                        }
                        NetSlice::Ipv6(ip) => {
                            let ip = ip.header().to_header();
                            assert_eq!(way.from.ip(), IpAddr::from(ip.source));
                            assert_eq!(way.to.ip(), IpAddr::from(ip.destination));
                            assert!(ip.hop_limit == 64 && ip.payload_length as usize == 8 + len);
                            udp.to_header().calc_checksum_ipv6(&ip, &payload).unwrap()
                        }
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(udp.checksum(), checksum, "{from} {tags:?} {len}");
                    // What a device does: the sum from the UDP header on, over what was left in the checksum's place.
                    let [_, mut left] = frames(&way, &payload);
                    let (start, place) = (left.len() - len - UDP, left.len() - len - UDP + UDP_CHECKSUM);
                    let finished = !fold(sum(&left[start..]));
                    left[place..place + 2].copy_from_slice(&finished.to_ne_bytes());
                    assert_eq!(left, frame, "{from} {tags:?} {len}");
                }
            }
        }
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_written_as_ones() {
        let way = way("192.0.2.1:1", "192.0.2.2:2", &[]);
        let zeros = framed(&way, &[0, 0]);
        // A payload of the checksum that zeros get makes the sum all ones, and its complement zero.
        let frame = framed(&way, &zeros[40..42]);
        assert_eq!(frame[40..42], [0xff, 0xff]);
    }

    #[test]
    fn sums_of_any_length_are_those_of_16_bit_words() {
        for len in 0..70 {
            let bytes = payload(len, 3);
            assert_eq!(fold(sum(&bytes)), u64_16bit_word::add_slice(0, &bytes).pipe_fold(), "{len}");
        }
    }

    trait Fold {
        fn pipe_fold(self) -> u16;
    }

    impl Fold for u64 {
        /// The oracle's own folding ends with a complement.
        fn pipe_fold(self) -> u16 {
            !u64_16bit_word::ones_complement(self)
        }
    }

    #[test]
    fn what_was_written_is_read_back_also_with_padding_behind_it() {
        for tags in [&[], ONE_TAG, TWO_TAGS] {
            for (from, to) in [("192.0.2.1:7882", "192.0.2.2:1"), ("[fe80::5]:1", "[2001:db8::2]:2")] {
                let mut frame = framed(&way(from, to, tags), &[1, 2, 3]);
                frame.resize(frame.len().max(60) + 4, 0);
                let (source, datagram) = parse(&frame, 7).unwrap();
                let scoped = source.ip() == "fe80::5".parse::<IpAddr>().unwrap();
                assert_eq!(source, if scoped { "[fe80::5%7]:1".parse().unwrap() } else { from.parse::<SocketAddr>().unwrap() });
                assert_eq!(frame[datagram], [1, 2, 3]);
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_no_plain_datagram_is_none() {
        for to in ["192.0.2.2:1", "[2001:db8::2]:2"] {
            let from = if to.starts_with('[') { "[2001:db8::1]:1" } else { "192.0.2.1:1" };
            let frame = framed(&way(from, to, ONE_TAG), &payload(100, 1));
            for short in 0..frame.len() {
                assert!(parse(&frame[..short], 1).is_none(), "{short} bytes");
            }
            let at = ETHERNET + VLAN;
            let changed = |at: usize, byte: u8| {
                let mut frame = frame.clone();
                frame[at] = byte;
                parse(&frame, 1).is_none()
            };
            assert!(changed(12, 0x55) && changed(at, 0x46), "another protocol, options");
            assert!(changed(frame.len() - 100 - 3, 200) && changed(frame.len() - 100 - 3, 7), "a UDP length beyond, or too short");
            if to.starts_with('1') {
                assert!(changed(at + 6, 0x20) && changed(at + 7, 1), "more fragments, a later fragment");
                assert!(changed(at + 9, 6), "TCP");
            } else {
                assert!(changed(at + 6, 44), "a fragment header");
            }
        }
    }

    #[test]
    fn a_way_has_one_family_and_its_mtu() {
        assert!(Headers::new(&way("192.0.2.1:1", "[2001:db8::2]:2", &[])).is_none());
        let three = [Tag { kind: TYPE_VLAN, id: 1 }; 3];
        assert!(Headers::new(&way("192.0.2.1:1", "192.0.2.2:2", &three)).is_none());
        let v4 = Headers::new(&way("192.0.2.1:1", "192.0.2.2:2", ONE_TAG)).unwrap();
        assert!(v4.fits(1472) && !v4.fits(1473), "the tag is not part of the IP packet");
        let v6 = Headers::new(&way("[2001:db8::1]:1", "[2001:db8::2]:2", &[])).unwrap();
        assert!(v6.fits(1452) && !v6.fits(1453));
        let none = Headers::new(&Way { mtu: 20, ..way("192.0.2.1:1", "192.0.2.2:2", &[]) }).unwrap();
        assert!(none.fits(0) && !none.fits(1));
    }
}
