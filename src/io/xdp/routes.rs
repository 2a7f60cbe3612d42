//! How the kernel would send to an address: which link, which next hop, from which address. Asked of the kernel itself, by
//! rtnetlink, so that routes, policy rules, VLAN devices and neighbours configured by any means count.
//!
//! Links, addresses and neighbours are mirrored here and kept up to date by the kernel's notifications; a route is asked for
//! each address anew.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use super::frame::{Headers, Mac, TAGS_MAX, TYPE_VLAN, Tag, Way};
use super::netlink::{Message, Netlink, Request, attributes, u16_at, u32_at};

/// Bytes of the fixed part of messages: `ifinfomsg`, `ifaddrmsg`, `ndmsg`, `rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const NEIGHBOUR: usize = 12;
const ROUTE: usize = 12;

/// `linux/if_link.h`, where libc lacks it.
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFLA_XDP_ATTACHED: u16 = 2;
const ARPHRD_ETHER: u16 = 1;
/// `linux/rtnetlink.h`.
const RTAX_MTU: u16 = 2;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub name: String,
    pub ethernet: bool,
    pub up: bool,
    pub mac: Mac,
    pub mtu: usize,
    /// Receive queues that it was made with.
    pub queues: u32,
    /// An XDP program is attached.
    pub busy: bool,
    /// Of a VLAN device: the link below, and its tag.
    below: Option<(u32, Tag)>,
}

/// What became of a question.
pub(super) enum Answer {
    Headers(Headers),
    /// The next hop does not answer yet: to be asked again when something has changed.
    Unresolved,
    /// Not out of this device: a tunnel, a bridge, this host itself, no route at all.
    Elsewhere,
}

/// What has changed since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Former answers may be wrong.
    pub ways: bool,
    /// A next hop that did not answer may do so now.
    pub neighbours: bool,
    pub addresses: bool,
}

pub(super) struct Routes {
    requests: Netlink,
    notifications: Netlink,
    /// The interface that frames are sent on.
    device: u32,
    /// Local end of all datagrams; of the wildcard address, the kernel picks one for each.
    local: SocketAddr,
    links: HashMap<u32, Link>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Next hops of answers: those that matter.
    hops: HashSet<(u32, IpAddr)>,
    pub addresses: HashSet<IpAddr>,
}

impl Routes {
    pub fn open(device: u32, local: SocketAddr) -> io::Result<Routes> {
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_NEIGH
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        let mut routes = Routes {
            requests: Netlink::open(0)?,
            // Before the dumps: what changes meanwhile is told.
            notifications: Netlink::open(groups as u32)?,
            device,
            local,
            links: HashMap::new(),
            neighbours: HashMap::new(),
            hops: HashSet::new(),
            addresses: HashSet::new(),
        };
        routes.read_all()?;
        Ok(routes)
    }

    /// To wait for a change on.
    pub fn fd(&self) -> RawFd {
        self.notifications.fd()
    }

    fn read_all(&mut self) -> io::Result<()> {
        self.links = links(&mut self.requests)?;
        let (neighbours, addresses) = (&mut self.neighbours, &mut self.addresses);
        neighbours.clear();
        addresses.clear();
        self.requests.ask(Request::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &[0; NEIGHBOUR]), |message| {
            if let Some((hop, Some(neighbour))) = neighbour(message) {
                neighbours.insert(hop, neighbour);
            }
        })?;
        self.requests.ask(Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS]), |message| {
            addresses.extend(address(message));
        })
    }

    /// Takes in what the kernel has told.
    pub fn follow(&mut self) -> Changed {
        let mut changed = Changed::default();
        let Routes { links, neighbours, hops, addresses, .. } = self;
        let complete = self.notifications.notifications(|message| match message.kind {
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                let Some((hop, now)) = neighbour(message) else { return };
                let now = now.filter(|_| message.kind == libc::RTM_NEWNEIGH);
                let before = match now {
                    Some(now) => neighbours.insert(hop, now),
                    None => neighbours.remove(&hop),
                };
                if before.map(|before| before.mac) != now.map(|now| now.mac) && hops.contains(&hop) {
                    changed.neighbours = true;
                    changed.ways |= before.is_some();
                }
            }
            libc::RTM_NEWLINK => {
                let Some((index, link)) = link(message) else { return };
                // Wireless and statistics notifications come often and change nothing.
                changed.ways |= links.insert(index, link.clone()) != Some(link);
            }
            libc::RTM_DELLINK => changed.ways |= link(message).is_some_and(|(index, _)| links.remove(&index).is_some()),
            libc::RTM_NEWADDR => changed.addresses |= address(message).is_some_and(|address| addresses.insert(address)),
            libc::RTM_DELADDR => changed.addresses |= address(message).is_some_and(|address| addresses.remove(&address)),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changed.ways = true,
            _ => {}
        });
        if !complete {
            // An error leaves the tables as far as they were read; the next change reads on.
            let _ = self.read_all();
            changed = Changed { ways: true, neighbours: true, addresses: true };
        }
        changed.ways |= changed.addresses;
        changed
    }

    /// How to send to `to`.
    pub fn way(&mut self, to: SocketAddr) -> Answer {
        let Some(route) = self.route(to.ip()) else { return Answer::Elsewhere };
        let mut tags = Vec::with_capacity(TAGS_MAX);
        let Some(mac) = self.source(route.link, &mut tags) else { return Answer::Elsewhere };
        let from = if self.local.ip().is_unspecified() { route.from } else { Some(self.local.ip()) };
        let Some(from) = from else { return Answer::Elsewhere };
        let hop = (route.link, route.gateway.unwrap_or(to.ip()));
        self.hops.insert(hop);
        let Some(Neighbour { mac: next_hop, .. }) = self.neighbours.get(&hop).copied() else {
            self.resolve(hop);
            return Answer::Unresolved;
        };
        let mtu = self.links.get(&route.link).map_or(0, |link| link.mtu).min(route.mtu.unwrap_or(usize::MAX));
        let from = SocketAddr::new(from, self.local.port());
        match Headers::new(&Way { source: mac, next_hop, tags: &tags, from, to, mtu }) {
            Some(headers) => Answer::Headers(headers),
            None => Answer::Elsewhere,
        }
    }

    /// The Ethernet address that frames of a link carry, and the tags they get on the way down to the device, outermost first.
    /// None if the link does not end at the device, or something on the way is down.
    fn source(&self, link: u32, tags: &mut Vec<Tag>) -> Option<Mac> {
        let mac = self.links.get(&link)?.mac;
        let mut at = link;
        loop {
            let link = self.links.get(&at).filter(|link| link.up)?;
            if at == self.device {
                return Some(mac);
            }
            let (below, tag) = link.below?;
            if tags.len() == TAGS_MAX {
                return None;
            }
            tags.insert(0, tag);
            at = below;
        }
    }

    fn route(&mut self, to: IpAddr) -> Option<Route> {
        if to.is_multicast() || to.is_loopback() || matches!(to, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            return None;
        }
        let mut body = [0; ROUTE];
        let octets = Octets::of(to);
        (body[0], body[1]) = (octets.family(), octets.bytes().len() as u8 * 8);
        let mut request = Request::new(libc::RTM_GETROUTE, 0, &body).attribute(libc::RTA_DST, octets.bytes());
        if !self.local.ip().is_unspecified() {
            let from = Octets::of(self.local.ip());
            if from.family() != octets.family() {
                return None;
            }
            request = request.attribute(libc::RTA_SRC, from.bytes());
        }
        let mut found = None;
        // No route is an error of the kernel's; the socket will meet it too, and count it.
        self.requests.ask(request, |message| found = route(message)).ok()?;
        found
    }

    /// Has the kernel find out who has the next hop's address, or see that it is still so: as a socket that sends would.
    fn resolve(&mut self, hop: (u32, IpAddr)) {
        let octets = Octets::of(hop.1);
        let mut body = [0; NEIGHBOUR];
        body[0] = octets.family();
        body[4..8].copy_from_slice(&hop.0.to_ne_bytes());
        body[10] = libc::NTF_USE;
        let request = Request::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_ACK, &body);
        // Without the privilege, the datagrams that go by the socket meanwhile do the same.
        let _ = self.requests.ask(request.attribute(libc::NDA_DST, octets.bytes()), |_| {});
    }

    /// Says to the kernel that the next hops are in use, so that it goes on to look after them. To be called every few seconds. Those that an
    /// operator has set for good are left alone: since Linux 5.16 they would be so no longer.
    pub fn refresh(&mut self) {
        let looked_after = |hop: &&_| self.neighbours.get(*hop).is_none_or(|neighbour| !neighbour.permanent);
        let hops: Vec<_> = self.hops.iter().filter(looked_after).copied().collect();
        hops.into_iter().for_each(|hop| self.resolve(hop));
    }

    /// Forgets which next hops are in use: before all questions are asked again.
    pub fn forget_hops(&mut self) {
        self.hops.clear();
    }
}

/// What is known of a next hop.
#[derive(Clone, Copy)]
struct Neighbour {
    mac: Mac,
    permanent: bool,
}

struct Route {
    link: u32,
    gateway: Option<IpAddr>,
    from: Option<IpAddr>,
    mtu: Option<usize>,
}

/// An address as bytes.
enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Octets {
    fn of(ip: IpAddr) -> Octets {
        match ip {
            IpAddr::V4(ip) => Octets::V4(ip.octets()),
            IpAddr::V6(ip) => Octets::V6(ip.octets()),
        }
    }
    fn bytes(&self) -> &[u8] {
        match self {
            Octets::V4(bytes) => bytes,
            Octets::V6(bytes) => bytes,
        }
    }
    fn family(&self) -> u8 {
        match self {
            Octets::V4(_) => libc::AF_INET as u8,
            Octets::V6(_) => libc::AF_INET6 as u8,
        }
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// All links, by index.
pub(super) fn links(netlink: &mut Netlink) -> io::Result<HashMap<u32, Link>> {
    let mut links = HashMap::new();
    netlink.ask(Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK]), |message| links.extend(link(message)))?;
    Ok(links)
}

fn link(message: Message<'_>) -> Option<(u32, Link)> {
    let index = u32_at(message.body, 4)?;
    let flags = u32_at(message.body, 8)?;
    let mut link =
        Link { ethernet: u16_at(message.body, 2)? == ARPHRD_ETHER, up: flags & libc::IFF_UP as u32 != 0, ..Link::default() };
    let (mut below, mut vlan) = (None, None);
    for (kind, value) in attributes(message.body, LINK) {
        match kind {
            libc::IFLA_IFNAME => link.name = String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned(),
            libc::IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)? as usize,
            libc::IFLA_NUM_RX_QUEUES => link.queues = u32_at(value, 0)?,
            libc::IFLA_LINK => below = u32_at(value, 0),
            libc::IFLA_LINKINFO => vlan = vlan_tag(value),
            libc::IFLA_XDP => {
                link.busy = attributes(value, 0).any(|(kind, value)| kind == IFLA_XDP_ATTACHED && value.first() != Some(&0));
            }
            _ => {}
        }
    }
    link.below = below.zip(vlan);
    Some((index, link))
}

fn vlan_tag(info: &[u8]) -> Option<Tag> {
    let part = |wanted| attributes(info, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if part(libc::IFLA_INFO_KIND)?.strip_suffix(b"\0") != Some(b"vlan") {
        return None;
    }
    let mut tag = Tag { kind: TYPE_VLAN, id: 0 };
    for (kind, value) in attributes(part(libc::IFLA_INFO_DATA)?, 0) {
        match kind {
            IFLA_VLAN_ID => tag.id = u16_at(value, 0)?,
            // This one in network byte order.
            IFLA_VLAN_PROTOCOL => tag.kind = u16::from_be(u16_at(value, 0)?),
            _ => {}
        }
    }
    Some(tag)
}

fn address(message: Message<'_>) -> Option<IpAddr> {
    let of = |wanted| attributes(message.body, ADDRESS).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value));
    // On a point-to-point link IFA_ADDRESS is the other end.
    of(libc::IFA_LOCAL).or_else(|| of(libc::IFA_ADDRESS))
}

/// A next hop, and what is known of it if its Ethernet address is.
fn neighbour(message: Message<'_>) -> Option<((u32, IpAddr), Option<Neighbour>)> {
    let index = u32_at(message.body, 4)?;
    let state = u16_at(message.body, 8)?;
    let permanent = libc::NUD_PERMANENT | libc::NUD_NOARP;
    let known = permanent | libc::NUD_REACHABLE | libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE;
    let (mut of, mut mac) = (None, None);
    for (kind, value) in attributes(message.body, NEIGHBOUR) {
        match kind {
            libc::NDA_DST => of = ip(value),
            libc::NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    let mac: Option<Mac> = mac.filter(|_| state & known != 0);
    Some(((index, of?), mac.map(|mac| Neighbour { mac, permanent: state & permanent != 0 })))
}

fn route(message: Message<'_>) -> Option<Route> {
    if message.kind != libc::RTM_NEWROUTE || *message.body.get(7)? != libc::RTN_UNICAST {
        return None;
    }
    let (mut link, mut gateway, mut from, mut mtu) = (None, None, None, None);
    for (kind, value) in attributes(message.body, ROUTE) {
        match kind {
            libc::RTA_OIF => link = u32_at(value, 0),
            libc::RTA_GATEWAY => gateway = ip(value),
            // A gateway of the other family, after its family.
            libc::RTA_VIA => gateway = ip(value.get(2..)?),
            libc::RTA_PREFSRC => from = ip(value),
            libc::RTA_METRICS => {
                let metric = attributes(value, 0).find(|(kind, _)| *kind == RTAX_MTU);
                mtu = metric.and_then(|(_, value)| u32_at(value, 0)).map(|mtu| mtu as usize);
            }
            // Lightweight tunnels and the like wrap the packet.
            libc::RTA_ENCAP => return None,
            _ => {}
        }
    }
    Some(Route { link: link?, gateway, from, mtu })
}
