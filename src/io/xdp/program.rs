//! The program in the kernel (`xdp/distributary.bpf.c`): loaded, attached to an interface, and spoken to through its maps.
//!
//! It is attached by a link that ends with the descriptor: when this process is gone, however it went, so is the program.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::programs::xdp::{XdpLinkId, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};

/// Compiled by the build script where it found clang, else as committed.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/distributary.bpf.o"));

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver, before the kernel makes anything of a frame.
    Native,
    /// In the stack's first step, for drivers without XDP.
    Generic,
}

/// What the program counts: `COUNT_…` of `xdp/distributary.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Count {
    Redirected = 0,
    Passed = 1,
    Junk = 2,
    Flood = 3,
    FloodStun = 4,
}

const COUNTS: [Count; 5] = [Count::Redirected, Count::Passed, Count::Junk, Count::Flood, Count::FloodStun];

/// `struct address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(4))]
struct Address([u8; 16]);

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Address {
        Address(match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        })
    }
}

/// `struct source`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Source {
    address: Address,
    port: [u8; 2],
    zero: u16,
}

/// `struct settings`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Settings {
    port: [u8; 2],
    flood: u16,
}

// SAFETY: sixteen bytes, any value.
unsafe impl Pod for Address {}
// SAFETY: numbers without padding between them, any value.
unsafe impl Pod for Source {}
// SAFETY: numbers without padding between them, any value.
unsafe impl Pod for Settings {}

const _: () = assert!(size_of::<Source>() == 20 && align_of::<Source>() == 4 && size_of::<Settings>() == 4);

/// Why the program cannot be used: the step, and what the kernel said.
#[derive(Debug)]
pub(super) struct Failure {
    pub step: &'static str,
    pub reason: String,
}

pub(super) struct Program {
    ebpf: Ebpf,
    link: Option<XdpLinkId>,
    pub hook: Hook,
    device: u32,
    port: u16,
    sockets: XskMap<MapData>,
    settings: Array<MapData, Settings>,
    addresses: HashMap<MapData, Address, u8>,
    known: HashMap<MapData, Source, u8>,
    counters: PerCpuArray<MapData, u64>,
    /// What each counter was when it was last read.
    counted: [u64; COUNTS.len()],
}

impl Program {
    /// Loads the program for a media port and attaches it to an interface, in the driver if that can. It passes everything on
    /// until it is told of sockets and addresses.
    pub fn attach(device: u32, port: u16) -> Result<Program, Failure> {
        let failed = |step| move |error: &dyn fmt::Display| Failure { step, reason: error.to_string() };
        let load = failed("load the eBPF program");
        // Without the kernel's own types: nothing in the program refers to them, and reading them takes a tenth of a second.
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT).map_err(|error| load(&chain(&error)))?;
        let missing = || load(&"the object lacks a map or the program");
        let mut map = |name| ebpf.take_map(name).ok_or_else(missing);
        let unfit = |error: aya::maps::MapError| load(&chain(&error));
        let sockets = XskMap::try_from(map("sockets")?).map_err(unfit)?;
        let settings = Array::try_from(map("settings")?).map_err(unfit)?;
        let addresses = HashMap::try_from(map("addresses")?).map_err(unfit)?;
        let known = HashMap::try_from(lru(map("known")?)).map_err(unfit)?;
        let counters = PerCpuArray::try_from(map("counters")?).map_err(unfit)?;
        let program: &mut Xdp =
            ebpf.program_mut("distributary").ok_or_else(missing)?.try_into().map_err(|error| load(&chain(&error)))?;
        program.load().map_err(|error| load(&chain(&error)))?;
        let mut program = Program {
            ebpf,
            link: None,
            hook: Hook::Native,
            device,
            port,
            sockets,
            settings,
            addresses,
            known,
            counters,
            counted: [0; COUNTS.len()],
        };
        program.flood(false)?;
        if program.hang(XdpMode::Driver, Hook::Native).is_err() {
            program.hang(XdpMode::Skb, Hook::Generic)?;
        }
        Ok(program)
    }

    /// Goes over to generic mode: for a driver that runs the program but has no use for it.
    pub fn make_generic(&mut self) -> Result<(), Failure> {
        self.detach();
        self.hang(XdpMode::Skb, Hook::Generic)
    }

    fn program(&mut self) -> Option<&mut Xdp> {
        self.ebpf.program_mut("distributary")?.try_into().ok()
    }

    fn hang(&mut self, mode: XdpMode, hook: Hook) -> Result<(), Failure> {
        let device = self.device;
        let failure = |reason| Failure { step: "attach the eBPF program", reason };
        let program = self.program().ok_or_else(|| failure("it is gone".to_owned()))?;
        self.link = Some(program.attach_to_if_index(device, mode).map_err(|error| failure(chain(&error)))?);
        self.hook = hook;
        Ok(())
    }

    fn detach(&mut self) {
        if let Some(link) = self.link.take()
            && let Some(program) = self.program()
        {
            let _ = program.detach(link);
        }
    }

    /// Gives a queue's media to a socket from now on.
    pub fn serve(&mut self, queue: u32, socket: RawFd) -> Result<(), Failure> {
        self.sockets
            .set(queue, socket, 0)
            .map_err(|error| Failure { step: "enter a socket in the program's map", reason: chain(&error) })
    }

    pub fn flood(&mut self, on: bool) -> Result<(), Failure> {
        let settings = Settings { port: self.port.to_be_bytes(), flood: on.into() };
        self.settings.set(0, settings, 0).map_err(|error| Failure { step: "set the program's port", reason: chain(&error) })
    }

    /// Takes media for exactly these addresses. Those that find no room are left to the kernel.
    pub fn listen(&mut self, wanted: &[IpAddr]) {
        let wanted: Vec<Address> = wanted.iter().copied().map(Address::from).collect();
        let present: Vec<Address> = self.addresses.keys().flatten().collect();
        for address in present.iter().filter(|address| !wanted.contains(address)) {
            let _ = self.addresses.remove(address);
        }
        for address in wanted.iter().filter(|address| !present.contains(address)) {
            let _ = self.addresses.insert(address, 1, 0);
        }
    }

    /// A flood shall not cut this client off.
    pub fn know(&mut self, client: SocketAddr) {
        let source = Source { address: client.ip().into(), port: client.port().to_be_bytes(), zero: 0 };
        // A full table gives up the one not seen for longest.
        let _ = self.known.insert(source, 1, 0);
    }

    /// What was counted since the last call.
    pub fn count(&mut self, count: Count) -> u64 {
        let Ok(values) = self.counters.get(&(count as u32), 0) else { return 0 };
        let now: u64 = values.iter().sum();
        let before = std::mem::replace(&mut self.counted[count as usize], now);
        now.saturating_sub(before)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The kind of map that forgets what was not used for longest is a hash table like the other, but aya keeps them apart by name.
fn lru(map: Map) -> Map {
    match map {
        Map::LruHashMap(map) => Map::HashMap(map),
        map => map,
    }
}

/// An error with its causes: the one that matters is the last.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            // The verifier's log is for us, not for an operator.
            text.push_str(part.lines().next().unwrap_or_default());
        }
        cause = error.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{DATAGRAM_BYTES_MAX, XDP_ADDRESSES, XDP_PEERS, XDP_QUEUES};

    /// The value of a `#define` of the shared header.
    fn defined(name: &str) -> usize {
        let header = include_str!("../../../xdp/distributary.h");
        let line = header.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not defined")).split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn the_shared_header_says_the_same() {
        assert_eq!(defined("QUEUES_MAX"), XDP_QUEUES);
        assert_eq!(defined("ADDRESSES_MAX"), XDP_ADDRESSES);
        assert_eq!(defined("PAYLOAD_MAX"), DATAGRAM_BYTES_MAX);
        assert!(defined("KNOWN_MAX") >= XDP_PEERS, "a flood must not cut off clients that one worker has");
        assert_eq!(defined("COUNTERS"), COUNTS.len());
        let names = ["COUNT_REDIRECTED", "COUNT_PASSED", "COUNT_JUNK", "COUNT_FLOOD", "COUNT_FLOOD_STUN"];
        for (count, name) in COUNTS.into_iter().zip(names) {
            assert_eq!(count as usize, defined(name));
        }
    }
}
