//! Ports of the host, bound so that nobody else takes them while a service has them published.
//!
//! Nothing is ever received here: translation happens before a packet would reach a socket.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::NetError;
use crate::{
    spec::{Proto, Publish},
    sys::SysError,
};

/// Binds the host's side of a published port in the calling thread's network namespace; the port is free again when
/// the descriptor is closed.
///
/// # Errors
/// [`NetError::Taken`] with the owner's name and pid where /proc shows it; EADDRNOTAVAIL: the host has no such
/// address.
pub fn reserve(publish: &Publish) -> Result<OwnedFd, NetError> {
    let at = SocketAddr::new(publish.address, publish.host_port);
    let failed = |call, errno| SysError::new(call, format!("\"{at}/{}\"", publish.proto), errno);
    let kind = match publish.proto {
        Proto::Tcp => SocketType::STREAM,
        Proto::Udp => SocketType::DGRAM,
    };
    let family = if at.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd =
        socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(|errno| failed("socket", errno))?;
    if at.is_ipv6() {
        // [::] is every IPv6 address and not, as some hosts have it, every address.
        sockopt::set_ipv6_v6only(&fd, true).map_err(|errno| failed("setsockopt", errno))?;
    }
    if publish.proto == Proto::Tcp {
        // Past what a former server of the host has left in TIME_WAIT. Taken back below: with it, and without
        // listening, another program with SO_REUSEADDR could listen beside us.
        sockopt::set_socket_reuseaddr(&fd, true).map_err(|errno| failed("setsockopt", errno))?;
    } else {
        // A datagram that comes before the translation is there is not worth keeping.
        sockopt::set_socket_recv_buffer_size(&fd, 0).map_err(|errno| failed("setsockopt", errno))?;
    }
    match bind(&fd, &at) {
        Ok(()) => (),
        Err(rustix::io::Errno::ADDRINUSE) => {
            let (address, port, proto) = (publish.address, publish.host_port, publish.proto);
            return Err(NetError::Taken { address, port, proto, by: taker(address, port, proto) });
        }
        Err(errno) => return Err(failed("bind", errno).into()),
    }
    sockopt::set_socket_reuseaddr(&fd, false).map_err(|errno| failed("setsockopt", errno))?;
    Ok(fd)
}

/// ` by nginx (pid 123)`, as far as /proc shows it.
pub(super) fn taker(address: IpAddr, port: u16, proto: Proto) -> String {
    let inodes = owners(address, port, proto);
    if inodes.is_empty() {
        // proc_net(5) shows neither a bound socket that does not listen, such as ours, nor who had TIME_WAIT's.
        return " by a socket that does not listen: a port that is published already, or connections that are ending"
            .to_owned();
    }
    match inodes.iter().find_map(|inode| holder(*inode)) {
        Some((pid, _)) if pid == std::process::id() => " by another service".to_owned(),
        Some((pid, name)) => format!(" by {name} (pid {pid})"),
        None => " by a process that is not visible here".to_owned(),
    }
}

/// Inodes of the sockets that stand in the way, from proc_net(5).
fn owners(address: IpAddr, port: u16, proto: Proto) -> Vec<u64> {
    // thread-self: the leader of the thread group may be in another network namespace.
    let table = |suffix| fs::read_to_string(format!("/proc/thread-self/net/{proto}{suffix}"));
    let lines = |text: &str| -> Vec<u64> {
        text.lines().skip(1).filter_map(|line| owner(line, address, port)).collect()
    };
    ["", "6"].into_iter().filter_map(|suffix| table(suffix).ok()).flat_map(|text| lines(&text)).collect()
}

/// The inode of one line of such a table, where its local end overlaps the one that was asked for.
fn owner(line: &str, address: IpAddr, port: u16) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, at) = fields.nth(1)?.split_once(':')?;
    if u16::from_str_radix(at, 16).ok()? != port {
        return None;
    }
    // An address is printed as the words it is stored in, in the byte order of the machine; the last word of an IPv6
    // address that stands for an IPv4 address is that address, and all zero is every address of both families.
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok();
    let last = Ipv4Addr::from(word(ip.len().checked_sub(8)?)?.to_ne_bytes());
    let overlaps = match address {
        IpAddr::V4(address) => last.is_unspecified() || address.is_unspecified() || last == address,
        // One of IPv6 alone is not in the way of those of IPv4, nor they in its own.
        IpAddr::V6(_) if ip.len() == 8 => false,
        IpAddr::V6(address) => {
            let mut bytes = [0; 16];
            for (n, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(n * 8)?.to_ne_bytes());
            }
            let held = Ipv6Addr::from(bytes);
            held.is_unspecified() || address.is_unspecified() || held == address
        }
    };
    // local, remote, state, queues, timer, retransmissions, uid, time-out, inode; 0: no process holds it.
    fields.nth(7)?.parse().ok().filter(|inode| overlaps && *inode != 0)
}

/// Pid and name of a process that holds the socket.
fn holder(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let all = fs::read_dir("/proc").ok()?.flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Ourselves first: a process that we are just making has copies of what is ours until it executes.
    for pid in std::iter::once(std::process::id()).chain(all) {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let is_holder = fds
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()));
        if is_holder {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some((pid, name.trim_end().escape_debug().to_string()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100";
    const LINE6: &str = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A \
                         00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100";

    #[test]
    fn a_line_of_proc_net_is_matched_by_port_and_address() {
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(owner(LINE, local, 8080), Some(4711));
        assert_eq!(owner(LINE, Ipv4Addr::UNSPECIFIED.into(), 8080), Some(4711));
        assert_eq!(owner(LINE, Ipv4Addr::new(192, 0, 2, 1).into(), 8080), None);
        assert_eq!(owner(LINE, local, 8081), None);
        assert_eq!(owner(LINE6, local, 8080), Some(4712));
        assert_eq!(owner(&LINE.replace("4711", "0"), local, 8080), None);
        let local6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(owner(LINE6, local6, 8080), Some(4712));
        assert_eq!(owner(LINE, local6, 8080), None);
        assert_eq!(owner(&LINE6.replacen("00000000", "B80D0120", 1), local6, 8080), None);
        for end in 0..LINE.len() {
            let _ = owner(&LINE[..end], local, 8080);
        }
    }
}
