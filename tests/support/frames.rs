//! Ethernet frames of one's own making, and who hears them: what a service with CAP_NET_RAW can send, and the oracles.
//!
//! Every frame carries its name, so that whoever hears it can tell which attack got through.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// What stands before the name in every frame; a semicolon stands behind it.
const MARK: &[u8] = b"PALISADE:";
/// The port that every datagram goes to.
pub const PORT: u16 = 9999;

type Mac = [u8; 6];

/// Who is where.
struct Scene {
    own: (Mac, Ipv4Addr),
    gateway: (Mac, Ipv4Addr),
    victim: (Mac, Ipv4Addr),
    /// Addresses of the host beside the gateway's.
    host: Vec<Ipv4Addr>,
}

/// A packet socket bound to `interface`. The address comes from getifaddrs(3): no structure is put together here.
fn packet_socket(interface: &str) -> OwnedFd {
    // ETH_P_ALL in network order.
    let all = Protocol::from_raw(std::num::NonZeroU32::new(u32::from(3_u16.to_be())).expect("it is 768"));
    let socket =
        rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(all))
            .expect("a packet socket");
    let address = nix::ifaddrs::getifaddrs()
        .expect("netlink")
        .find(|one| {
            one.interface_name == interface && one.address.is_some_and(|a| a.as_link_addr().is_some())
        })
        .and_then(|one| one.address)
        .unwrap_or_else(|| panic!("no interface {interface}"));
    let address = address.as_link_addr().expect("looked at above");
    nix::sys::socket::bind(socket.as_raw_fd(), address).expect("an interface of our own");
    socket
}

/// Sends every frame of the catalogue from `interface`, thrice.
///
/// `args`: own MAC and address, the gateway's, the victim's, then more addresses of the host.
pub fn attack(interface: &str, args: &[&str]) {
    let [own_mac, own, gateway_mac, gateway, victim_mac, victim, host @ ..] = args else {
        panic!("three pairs of MAC and address");
    };
    let pair = |hardware: &str, address: &str| (mac(hardware), address.parse().expect("an address"));
    let scene = Scene {
        own: pair(own_mac, own),
        gateway: pair(gateway_mac, gateway),
        victim: pair(victim_mac, victim),
        host: host.iter().map(|address| address.parse().expect("an address")).collect(),
    };
    let socket = packet_socket(interface);
    let frames = catalogue(&scene);
    for _ in 0..3 {
        for (name, frame) in &frames {
            rustix::net::send(&socket, frame, SendFlags::empty()).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    println!("sent {}", frames.len());
}

/// The names of all attacks.
pub fn names() -> Vec<String> {
    let nobody = ([2, 0, 0, 0, 0, 1], Ipv4Addr::LOCALHOST);
    let scene = Scene { own: nobody, gateway: nobody, victim: nobody, host: vec![Ipv4Addr::LOCALHOST] };
    let mut names: Vec<String> = catalogue(&scene).into_iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    names
}

/// Prints the name in each frame that `interface` sees, once each.
pub fn sniff(interface: &str) {
    let socket = packet_socket(interface);
    println!("listening");
    hear(|bytes| rustix::net::recv(&socket, bytes, RecvFlags::empty()).map_or(0, |(_, length)| length));
}

/// Prints the name in each packet that this network namespace delivers to itself, once each.
pub fn listen() {
    let raw = |family, number| {
        let protocol = Protocol::from_raw(std::num::NonZeroU32::new(number).expect("none is 0"));
        rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))
            .expect("a raw socket")
    };
    // ICMP, IGMP, UDP, IPv6 within; ICMPv6, UDP.
    let four = [1, 2, 17, 41].map(|number| raw(AddressFamily::INET, number));
    let six = [58, 17].map(|number| raw(AddressFamily::INET6, number));
    println!("listening");
    hear(|bytes| {
        let mut poll: Vec<_> = four
            .iter()
            .chain(&six)
            .map(|fd| rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN))
            .collect();
        let _ = rustix::event::poll(&mut poll, None);
        let ready: Vec<bool> = poll.iter().map(|one| !one.revents().is_empty()).collect();
        let socket = four.iter().chain(&six).zip(ready).find(|(_, ready)| *ready).map(|(socket, _)| socket);
        socket.map_or(0, |fd| {
            rustix::net::recv(fd, &mut *bytes, RecvFlags::empty()).map_or(0, |(_, length)| length)
        })
    });
}

fn hear(mut next: impl FnMut(&mut [u8]) -> usize) {
    let mut known = std::collections::BTreeSet::new();
    let mut bytes = vec![0; 65536];
    loop {
        let length = next(&mut bytes);
        if let Some(name) = marked(&bytes[..length.min(65536)])
            && known.insert(name.clone())
        {
            println!("{name}");
            let _ = std::io::stdout().flush();
        }
    }
}

fn marked(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let end = bytes[at..].iter().position(|byte| *byte == b';')?;
    Some(String::from_utf8_lossy(&bytes[at..at + end]).into_owned())
}

/// A payload that tells its name.
pub fn mark(name: &str) -> Vec<u8> {
    [MARK, name.as_bytes(), b";"].concat()
}

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC")).collect();
    bytes.try_into().expect("six bytes")
}

/// Makes the payload of a frame that carries this mark, with its EtherType.
type Packet<'a> = &'a dyn Fn(&[u8]) -> (u16, Vec<u8>);

fn catalogue(scene: &Scene) -> Vec<(String, Vec<u8>)> {
    let ((own_mac, own), (gw_mac, gw), (victim_mac, victim)) = (scene.own, scene.gateway, scene.victim);
    let outside = Ipv4Addr::new(198, 51, 100, 9);
    let all: Mac = [0xff; 6];
    let mut frames: Vec<(String, Vec<u8>)> = Vec::new();
    // Each by the way of the host and straight to the victim.
    let mut both = |name: &str, from: Mac, packet: Packet<'_>| {
        for to in [gw_mac, victim_mac] {
            let (kind, body) = packet(&mark(name));
            frames.push((name.to_owned(), ethernet(to, from, kind, &body)));
        }
    };
    let plain =
        |from: Ipv4Addr, to: Ipv4Addr| move |mark: &[u8]| (0x0800, ip4(from, to, 17, &udp(mark), &[], 0));
    both("reach-another", own_mac, &plain(own, victim));
    both("mac-of-the-gateway", gw_mac, &plain(own, victim));
    both("mac-of-nobody", [2, 1, 2, 3, 4, 5], &plain(own, victim));
    both("address-of-the-victim", own_mac, &plain(victim, gw));
    both("address-of-the-gateway", own_mac, &plain(gw, victim));
    both("address-of-an-outsider", own_mac, &plain(outside, victim));
    both("address-of-loopback", own_mac, &plain(Ipv4Addr::LOCALHOST, victim));
    both("address-of-nobody", own_mac, &plain(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST));
    both("to-the-gateway", own_mac, &plain(own, gw));
    for (n, address) in scene.host.iter().enumerate() {
        both(&format!("to-the-host-{n}"), own_mac, &plain(own, *address));
    }
    both("to-the-broadcast-address", own_mac, &plain(own, Ipv4Addr::BROADCAST));
    both("to-a-multicast-address", own_mac, &plain(own, Ipv4Addr::new(224, 0, 0, 1)));
    both("igmp", own_mac, &|mark| {
        (
            0x0800,
            ip4(
                own,
                Ipv4Addr::new(224, 0, 0, 1),
                2,
                &checked([&[0x11, 0, 0, 0, 0, 0, 0, 0], mark].concat()),
                &[],
                0,
            ),
        )
    });
    // Loose source routing by way of the gateway.
    let [a, b, c, d] = victim.octets();
    both("source-route", own_mac, &|mark| {
        (0x0800, ip4(own, gw, 17, &udp(mark), &[0x83, 7, 4, a, b, c, d, 0], 0))
    });
    both("record-route", own_mac, &|mark| {
        (0x0800, ip4(own, victim, 17, &udp(mark), &[7, 7, 4, 0, 0, 0, 0, 0], 0))
    });
    both("first-fragment", own_mac, &|mark| (0x0800, ip4(gw, victim, 17, &udp(&padded(mark)), &[], 0x2000)));
    both("last-fragment", own_mac, &|mark| (0x0800, ip4(gw, victim, 17, &padded(mark), &[], 4)));
    both("own-fragment", own_mac, &|mark| (0x0800, ip4(own, victim, 17, &udp(&padded(mark)), &[], 0x2000)));
    both("redirect", own_mac, &|mark| {
        let about = ip4(victim, outside, 17, &udp(mark), &[], 0);
        (0x0800, ip4(gw, victim, 1, &checked([&[5, 1, 0, 0][..], &own.octets(), &about].concat()), &[], 0))
    });
    both("unreachable", own_mac, &|mark| {
        let about = ip4(victim, outside, 17, &udp(mark), &[], 0);
        (0x0800, ip4(own, victim, 1, &checked([&[3, 4, 0, 0, 0, 0, 2, 0][..], &about].concat()), &[], 0))
    });
    both("vlan-0", own_mac, &|mark| tagged(&[0], &ip4(own, gw, 17, &udp(mark), &[], 0)));
    both("vlan-5", own_mac, &|mark| tagged(&[5], &ip4(own, gw, 17, &udp(mark), &[], 0)));
    both("vlan-in-vlan", own_mac, &|mark| tagged(&[0, 5], &ip4(own, victim, 17, &udp(mark), &[], 0)));
    both("unknown-protocol", own_mac, &|mark| (0x88b5, padded(mark)));
    both("arp-reply", own_mac, &|mark| {
        (0x0806, [arp(2, (own_mac, gw), (victim_mac, victim)), padded(mark)].concat())
    });
    both("neighbour-advertisement", own_mac, &|mark| {
        let body =
            [&[136, 0, 0, 0, 0xa0, 0, 0, 0][..], &link_local(1).octets(), &[2, 1], &own_mac, &option6(mark)]
                .concat();
        (0x86dd, ip6(link_local(1), "ff02::1".parse().expect("literal"), 58, body))
    });
    // The addresses that the link has, beside those that nobody has there.
    let (own6, gw6, victim6) = (six(own), six(gw), six(victim));
    let outside6 = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
    let ula = |last: u16| Ipv6Addr::new(0xfd00, 0x83, 0, 0, 0, 0, 0, last);
    let plain6 = |from: Ipv6Addr, to: Ipv6Addr| move |mark: &[u8]| (0x86dd, ip6(from, to, 17, udp(mark)));
    both("reach-another-by-ipv6", own_mac, &plain6(own6, victim6));
    both("mac-of-nobody-by-ipv6", [2, 1, 2, 3, 4, 5], &plain6(own6, victim6));
    both("six-of-the-victim", own_mac, &plain6(victim6, gw6));
    both("six-of-the-gateway", own_mac, &plain6(gw6, victim6));
    both("six-of-an-outsider", own_mac, &plain6(outside6, victim6));
    both("to-the-gateway-by-ipv6", own_mac, &plain6(own6, gw6));
    // Next header 0 and 60: options for every hop and for the receiver.
    for (name, next) in [("hop-by-hop", 0), ("destination-options", 60)] {
        both(name, own_mac, &|mark| {
            let body = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &summed6(own6, gw6, 17, udp(mark))].concat();
            (0x86dd, header6(own6, gw6, next, &body))
        });
    }
    both("unreachable-by-ipv6", own_mac, &|mark| {
        let about = ip6(victim6, outside6, 17, udp(mark));
        (0x86dd, ip6(own6, victim6, 58, [&[2, 0, 0, 0, 0, 0, 5, 0][..], &about].concat()))
    });
    both("advertisement-of-the-gateway", own_mac, &|mark| {
        let body =
            [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &gw6.octets(), &[2, 1], &own_mac, &option6(mark)].concat();
        (0x86dd, ip6(gw6, victim6, 58, body))
    });
    both("address6-of-the-gateway", own_mac, &plain6(link_local(1), link_local(2)));
    both("address6-of-the-victim", own_mac, &plain6(link_local(2), link_local(1)));
    both("address6-of-loopback", own_mac, &plain6(Ipv6Addr::LOCALHOST, link_local(1)));
    both("address6-of-a-network", own_mac, &plain6(ula(9), ula(1)));
    both("mapped-addresses", own_mac, &plain6(own.to_ipv6_mapped(), victim.to_ipv6_mapped()));
    both("to-the-host-by-ipv6", own_mac, &plain6(link_local(9), Ipv6Addr::LOCALHOST));
    both("mac-of-the-gateway-by-ipv6", gw_mac, &plain6(link_local(1), link_local(2)));
    // Next header 43, a routing header of type 0 by way of the gateway.
    both("source-route-by-ipv6", own_mac, &|mark| {
        let (from, way, to) = (link_local(9), link_local(1), link_local(2));
        let head = [&[17, 2, 0, 1, 0, 0, 0, 0][..], &to.octets(), &summed6(from, to, 17, udp(mark))];
        (0x86dd, header6(from, way, 43, &head.concat()))
    });
    // Next header 44, the first of two.
    both("fragment-by-ipv6", own_mac, &|mark| {
        let (from, to) = (link_local(9), link_local(1));
        let body = [&[17, 0, 0, 1, 0, 0, 0, 1][..], &summed6(from, to, 17, udp(&padded(mark)))].concat();
        (0x86dd, header6(from, to, 44, &body))
    });
    both("redirect-by-ipv6", own_mac, &|mark| {
        let (target, about) = (link_local(9).octets(), ula(1).octets());
        let body = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &target, &about, &option6(mark)].concat();
        (0x86dd, ip6(link_local(1), link_local(2), 58, body))
    });
    both("neighbour-solicitation", own_mac, &|mark| {
        let body =
            [&[135, 0, 0, 0, 0, 0, 0, 0][..], &link_local(1).octets(), &[1, 1], &own_mac, &option6(mark)]
                .concat();
        (0x86dd, ip6(link_local(9), link_local(1), 58, body))
    });
    both("ipv6-in-ipv4", own_mac, &|mark| {
        let (_, inner) = plain6(link_local(9), link_local(1))(mark);
        (0x0800, ip4(own, gw, 41, &inner, &[], 0))
    });
    let everybody = |name: &str, to: Mac, packet: Packet<'_>| {
        let (kind, body) = packet(&mark(name));
        (name.to_owned(), ethernet(to, own_mac, kind, &body))
    };
    let six: Mac = [0x33, 0x33, 0, 0, 0, 1];
    frames.push(everybody("arp-for-the-gateway", all, &|mark| {
        (0x0806, [arp(1, (own_mac, gw), ([0; 6], gw)), padded(mark)].concat())
    }));
    frames.push(everybody("arp-for-the-victim", all, &|mark| {
        (0x0806, [arp(1, (own_mac, victim), ([0; 6], gw)), padded(mark)].concat())
    }));
    frames.push(everybody("ethernet-broadcast", all, &plain(own, Ipv4Addr::BROADCAST)));
    frames.push(everybody(
        "ethernet-multicast",
        [1, 0, 0x5e, 0, 0, 1],
        &plain(own, Ipv4Addr::new(224, 0, 0, 1)),
    ));
    frames.push(everybody("router-advertisement", six, &|mark| {
        let prefix =
            [&[3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0][..], &[0xfd, 0x66], &[0; 14]].concat();
        let body =
            [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix, &option6(mark)].concat();
        (0x86dd, ip6(link_local(9), "ff02::1".parse().expect("literal"), 58, body))
    }));
    frames.push(everybody("ipv6-datagram", six, &|mark| {
        (0x86dd, ip6(link_local(9), "ff02::1".parse().expect("literal"), 17, udp(mark)))
    }));
    // The last: a bridge believes it, and sends what is for the victim to whoever says so.
    for to in [gw_mac, victim_mac] {
        let (kind, body) = plain(own, gw)(&mark("mac-of-the-victim"));
        frames.push(("mac-of-the-victim".to_owned(), ethernet(to, victim_mac, kind, &body)));
    }
    frames
}

fn ethernet(to: Mac, from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind.to_be_bytes(), body].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn tagged(vlans: &[u16], packet: &[u8]) -> (u16, Vec<u8>) {
    let mut body = [&0x0800_u16.to_be_bytes()[..], packet].concat();
    for (n, vlan) in vlans.iter().rev().enumerate() {
        let inner: &[u8] = if n == 0 { &[] } else { &[0x81, 0] };
        body = [&vlan.to_be_bytes()[..], inner, &body].concat();
    }
    (0x8100, body)
}

fn padded(mark: &[u8]) -> Vec<u8> {
    let mut bytes = mark.to_vec();
    bytes.resize(bytes.len().next_multiple_of(8).max(32), 0);
    bytes
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    // 0: no checksum, which IPv4 allows.
    [&40000_u16.to_be_bytes()[..], &PORT.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

fn ip4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8], options: &[u8], fragment: u16) -> Vec<u8> {
    let header = 20 + options.len();
    let length = u16::try_from(header + payload.len()).expect("short");
    let words = u8::try_from(header / 4).expect("short");
    let mut bytes =
        [&[0x40 | words, 0][..], &length.to_be_bytes(), &[0x12, 0x34], &fragment.to_be_bytes()].concat();
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(options);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A message of ICMP or IGMP with its checksum.
fn checked(mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn ip6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    header6(from, to, protocol, &summed6(from, to, protocol, payload))
}

/// A message of ICMPv6, or else of UDP, with its checksum.
fn summed6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, mut payload: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    let at = if protocol == 58 { 2 } else { 6 };
    let pseudo =
        [&from.octets()[..], &to.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, protocol], &payload]
            .concat();
    let sum = checksum(&pseudo);
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    payload
}

fn header6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[next, 255], &from.octets(), &to.octets(), payload]
        .concat()
}

/// An option of neighbour discovery that nobody knows, with a mark in it.
fn option6(mark: &[u8]) -> Vec<u8> {
    let mut bytes = [&[200, 0][..], mark].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes[1] = u8::try_from(bytes.len() / 8).expect("short");
    bytes
}

/// The IPv6 address of whoever has this address: the tests' prefixes number them alike.
fn six(address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, high, low] = address.octets();
    Ipv6Addr::new(0xfd50, 0x5300, 0x83, 0, 0, 0, 0, u16::from_be_bytes([high, low]))
}

fn link_local(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
}

fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &sender.1.octets(), &target.0, &target.1.octets()].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// Reads what a [`sniff`] or [`listen`] has printed so far.
pub fn heard(file: &mut std::fs::File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("a file of ours");
    text
}
