//! Whom a service reaches: the host, its neighbours, the world. Each of these listens, and notes who came.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::linux::net::SocketAddrExt,
    os::unix::net::{SocketAddr as UnixAddr, UnixStream},
    time::Duration,
};

use nix::libc;

use crate::{
    battery::{Facts, Probe, Verdict, any, works},
    probes,
    raw::{call, number},
};

/// See [`crate::battery`].
pub const PROBES: &[Probe] = probes! {
    E Gateway "listener-at-the-hosts-addresses" => |facts| {
        any(facts.list("addresses").into_iter().map(|address| connects(facts, address, facts.get("port"))))
    };
    E Gateway "listener-at-the-gateway" => |facts| {
        let gateways = gateways();
        // A place without a gateway is the host itself.
        let all = if gateways.is_empty() { vec!["127.0.0.1".to_owned()] } else { gateways };
        any(all.iter().map(|address| connects(facts, address, facts.get("port"))))
    };
    E Gateway "datagram-to-the-host" => |facts| any(facts.list("addresses").into_iter().chain(["127.0.0.1"]).map(|address| {
        let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return Verdict::Held("no socket".to_owned()) };
        let to = format!("{address}:{}", facts.get("port"));
        let sent = socket.send_to(b"palisade", &to).and_then(|_| socket.set_read_timeout(Some(patience(facts))));
        match sent.and_then(|()| socket.recv(&mut [0; 16])) {
            Ok(_) => Verdict::Escaped(to),
            Err(error) => Verdict::Held(format!("{to}: {error}")),
        }
    }));
    E Abstract "loopback-of-the-host" => |facts| connects(facts, "127.0.0.1", facts.get("port"));
    E Abstract "loopback-of-the-host-by-ipv6" => |facts| connects(facts, "[::1]", facts.get("port"));
    E Gateway "any-address-is-the-host" => |facts| connects(facts, "0.0.0.0", facts.get("port"));
    E Gateway "link-local-address-of-the-host" => |facts| {
        any(facts.list("links").into_iter().chain(["fe80::1"]).map(|address| {
            let Ok(address) = address.parse() else { return Verdict::Held("no address".to_owned()) };
            let scopes = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
            let scopes = scopes.lines().filter_map(|l| u32::from_str_radix(l.split(' ').nth(1)?, 16).ok());
            any(scopes.map(|scope| {
                let to = std::net::SocketAddrV6::new(address, facts.number("port").try_into().unwrap_or_default(), 0, scope);
                works(TcpStream::connect_timeout(&to.into(), patience(facts)))
            }))
        }))
    };
    E Neighbours "another-service" => |facts| connects(facts, facts.get("other"), "80");
    E Neighbours "published-port-of-another-service" => |facts| {
        let gateways = gateways();
        any(gateways.iter().map(String::as_str).chain(["127.0.0.1"]).map(|address| connects(facts, address, facts.get("published"))))
    };
    E Egress "metadata-service" => |facts| connects(facts, "169.254.169.254", facts.get("port"));
    E Egress "world-outside" => |facts| connects(facts, facts.get("outside"), facts.get("port"));
    E Abstract "abstract-socket" => |facts| {
        let address = UnixAddr::from_abstract_name(facts.get("word"));
        works(address.and_then(|address| UnixStream::connect_addr(&address)))
    };
    E Control "control-socket" => |facts| {
        any([facts.get("control"), "/run/palisade/control.sock"].map(|path| works(UnixStream::connect(path))))
    };
    E Control "sockets-of-other-daemons" => |facts| works(UnixStream::connect(facts.get("socket")));
    S Neighbours "link-is-set-down" => |_| {
        // SIOCSIFFLAGS with what there is already.
        let mut request = [0u8; 40];
        request[..2].copy_from_slice(b"lo");
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(|_| nix::errno::Errno::EPERM);
        works(socket.and_then(|socket| {
            call(libc::SYS_ioctl, &[crate::raw::fd(&socket), 0x8913, request.as_mut_ptr() as usize])?;
            call(libc::SYS_ioctl, &[crate::raw::fd(&socket), 0x8914, request.as_mut_ptr() as usize])
        }))
    };
    S Neighbours "ping-socket" => |_| {
        let args = [number(libc::AF_INET), number(libc::SOCK_RAW | libc::SOCK_CLOEXEC), number(libc::IPPROTO_RAW)];
        works(call(libc::SYS_socket, &args))
    };
};

/// How long an answer may take that would come at once.
fn patience(facts: &Facts) -> Duration {
    Duration::from_millis(facts.number("patience").try_into().unwrap_or_default())
}

fn connects(facts: &Facts, address: &str, port: &str) -> Verdict {
    let to = format!("{address}:{port}");
    let Ok(parsed) = to.parse::<SocketAddr>() else { return Verdict::Held(format!("{to} is no address")) };
    match TcpStream::connect_timeout(&parsed, patience(facts)) {
        Ok(_) => Verdict::Escaped(to),
        Err(error) => Verdict::Held(format!("{to}: {error}")),
    }
}

/// The next hops of this place's routes.
fn gateways() -> Vec<String> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let hop = |line: &str| {
        let hop = u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()?;
        (hop != 0).then(|| Ipv4Addr::from(hop.to_ne_bytes()).to_string())
    };
    routes.lines().skip(1).filter_map(hop).collect()
}
