//! Asks the host what it has and allows: addresses, limits, io_uring operations, socket options. For the plan and `doctor`;
//! never on the packet path.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode};

/// Addresses of all interfaces that are up, without loopback and link-local ones (a candidate has no scope to name the
/// interface by). IPv4 first, each family in the kernel's order. Empty if the kernel does not say.
pub fn local_addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer that getifaddrs writes when it returns 0.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    let mut entry = list;
    // SAFETY: `entry` is null or an element of the list, which lives until freeifaddrs below.
    while let Some(interface) = unsafe { entry.as_ref() } {
        entry = interface.ifa_next;
        let up = interface.ifa_flags & libc::IFF_UP as u32 != 0;
        if !up || interface.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: ifa_addr is not null and points to a sockaddr whose family says its true type, which is at least as long.
        let address = unsafe {
            match i32::from((*interface.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let raw = interface.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    IpAddr::V4(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)))
                }
                libc::AF_INET6 => {
                    let raw = interface.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    IpAddr::V6(Ipv6Addr::from(raw.sin6_addr.s6_addr))
                }
                _ => continue,
            }
        };
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if !address.is_loopback() && !link_local && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // SAFETY: `list` came from getifaddrs and nothing borrows from it any more.
    unsafe { libc::freeifaddrs(list) };
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// A resource limit of this process: soft and hard, None for "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    OpenFiles,
    LockedMemory,
}

pub fn limit(resource: Resource) -> io::Result<Limit> {
    let resource = match resource {
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let finite = |value| (value != libc::RLIM_INFINITY).then_some(value);
    Ok(Limit { soft: finite(limit.rlim_cur), hard: finite(limit.rlim_max) })
}

/// What this kernel's io_uring offers to this process.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Operations that the workers use and the kernel does not have.
    pub missing: Vec<&'static str>,
    /// DEFER_TASKRUN and SINGLE_ISSUER (Linux 6.1): completions are handled where and when the worker asks.
    pub deferred: bool,
}

/// Makes a ring and asks it for its operations. The error is the kernel's: ENOSYS where io_uring is not built in, EPERM where
/// a seccomp filter or `kernel.io_uring_disabled` forbids it.
pub fn ring() -> io::Result<Ring> {
    let ring = IoUring::new(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let wanted = [
        (opcode::RecvMsgMulti::CODE, "multishot recvmsg (Linux 6.0)"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::PollAdd::CODE, "poll"),
    ];
    let missing = wanted.into_iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| name).collect();
    let deferred = IoUring::<io_uring::squeue::Entry>::builder().setup_single_issuer().setup_defer_taskrun().build(8).is_ok();
    Ok(Ring { missing, deferred })
}

/// A UDP socket option that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpOption {
    /// UDP_SEGMENT (Linux 4.18): one send of many datagrams.
    Segment,
    /// UDP_GRO (Linux 5.0): one receive of many datagrams.
    Gro,
}

/// Whether the kernel takes the option on a fresh socket.
pub fn udp_option(option: UdpOption) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (name, value): (_, libc::c_int) = match option {
        UdpOption::Segment => (libc::UDP_SEGMENT, 1200),
        UdpOption::Gro => (libc::UDP_GRO, 1),
    };
    // SAFETY: the descriptor is open, and pointer and length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether an AF_XDP socket can be made: EAFNOSUPPORT where the kernel is built without, EPERM without CAP_NET_RAW.
pub fn xdp_socket() -> io::Result<()> {
    socket2::Socket::new(socket2::Domain::from(libc::AF_XDP), socket2::Type::RAW, None).map(drop)
}

/// Receive queues that an interface has now (`ethtool -l`); None if its driver does not tell.
pub fn receive_queues(interface: &str) -> Option<u32> {
    /// `struct ethtool_channels`: the command; maxima and present numbers of receive, send, other and combined queues.
    #[repr(C)]
    struct Channels {
        command: u32,
        max: [u32; 4],
        now: [u32; 4],
    }
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, max: [0; 4], now: [0; 4] };
    // SAFETY: all-zero is a valid value: an empty name, a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: the request names the interface, ends with a zero byte, and points to a live structure of the command's layout.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } != 0 {
        return None;
    }
    let [receive, _, _, combined] = channels.now;
    Some(receive + combined).filter(|queues| *queues > 0)
}

/// Release of the running kernel, like `6.1.0-18-amd64`.
pub fn kernel_release() -> Option<String> {
    // SAFETY: utsname is plain bytes, for which all zeros is a value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a valid place for the result.
    if unsafe { libc::uname(&mut name) } != 0 {
        return None;
    }
    // SAFETY: the kernel ends each field with a zero byte, and the array was zeroed before.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    Some(release.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_answers() {
        assert!(kernel_release().is_some_and(|release| release.contains('.')));
        assert!(limit(Resource::OpenFiles).unwrap().soft.is_none_or(|files| files > 0));
        assert!(limit(Resource::LockedMemory).is_ok());
        assert!(local_addresses().iter().all(|address| !address.is_loopback() && !address.is_unspecified()));
    }

    #[test]
    fn probes_give_an_answer_or_the_kernels_error() {
        if let Ok(ring) = ring() {
            assert!(ring.missing.len() <= 3);
        }
        for option in [UdpOption::Segment, UdpOption::Gro] {
            if let Err(error) = udp_option(option) {
                assert!(error.raw_os_error().is_some());
            }
        }
        let _ = xdp_socket();
    }
}
