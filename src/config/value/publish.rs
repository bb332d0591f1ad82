//! Published ports, and whom a service may talk to.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Refusal, nearest};
use ipnet::Ipv4Net;

use crate::spec::{Allowed, Destination, Door, Proto, Publish, UnitName, defaults};

/// `[addr:]hostport:port[/proto]`; the address is 127.0.0.1, the protocol tcp where they are left out.
///
/// # Errors
/// Port 0, a range of ports, an IPv6 or multicast address, an unknown protocol.
pub fn parse_publish(text: &str) -> Result<Publish, Refusal> {
    let (ports, proto) = match text.split_once('/') {
        Some((ports, proto)) => (ports, parse_proto(proto)?),
        None => (text, Proto::Tcp),
    };
    if ports.starts_with('[') || ports.matches(':').count() > 2 {
        return Err(Refusal::new(format!("{text:?}: ports cannot be published on IPv6 addresses yet"))
            .hint("write an IPv4 address, 0.0.0.0 for every one of the host; for IPv6, have a [[socket]] listened on"));
    }
    let mut parts = ports.rsplitn(3, ':');
    let (Some(port), Some(host_port)) = (parts.next(), parts.next()) else {
        return Err(Refusal::new(format!("{text:?} names no host port")).hint(format!(
            "write \"HOSTPORT:PORT\", such as \"8080:{}\"",
            if ports.is_empty() { "80" } else { ports }
        )));
    };
    let address = match parts.next() {
        Some(address) => parse_address(address)?,
        None => defaults::PUBLISH_ADDRESS,
    };
    Ok(Publish { address, host_port: parse_port(host_port)?, port: parse_port(port)?, proto })
}

fn parse_address(text: &str) -> Result<Ipv4Addr, Refusal> {
    let address: Ipv4Addr = text.parse().map_err(|_| match text.parse::<Ipv6Addr>() {
        Ok(_) => Refusal::new(format!("{text:?}: ports cannot be published on IPv6 addresses yet"))
            .hint("write an IPv4 address, 0.0.0.0 for every one of the host; for IPv6, have a [[socket]] listened on"),
        Err(_) => Refusal::new(format!("{text:?} is not an IPv4 address"))
            .hint("names are not looked up; 0.0.0.0 is every address of the host"),
    })?;
    match address.is_multicast() || address.is_broadcast() {
        true => Err(Refusal::new(format!("{address} is not an address that a host can have"))),
        false => Ok(address),
    }
}

fn parse_port(text: &str) -> Result<u16, Refusal> {
    if text.contains('-') {
        return Err(Refusal::new(format!("{text:?}: a range of ports is not a feature"))
            .hint("write one entry for each port"));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match digits.then(|| text.parse::<u16>()) {
        Some(Ok(port)) if port != 0 => Ok(port),
        _ => Err(Refusal::new(format!("{text:?} is not a port")).hint("ports are 1 to 65535")),
    }
}

fn parse_proto(text: &str) -> Result<Proto, Refusal> {
    match text {
        "tcp" => Ok(Proto::Tcp),
        "udp" => Ok(Proto::Udp),
        _ => {
            let refusal = Refusal::new(format!("{text:?} is not a protocol with ports"));
            Err(match nearest(text, ["tcp", "udp"]) {
                Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
                None => refusal.hint("write \"tcp\" or \"udp\""),
            })
        }
    }
}

/// `NAME:PORT[/PROTO]`, with `*` for every port and in the name.
///
/// # Errors
/// No port, no name of a service.
pub fn parse_allowed(text: &str) -> Result<Allowed, Refusal> {
    let hint = "write \"NAME:PORT\", such as \"db:5432\", or \"NAME:*\" for every port";
    let (name, door) = split_door(text, hint)?;
    // Whatever a star stands for is letters of a name.
    UnitName::new(&name.replace('*', "x"))
        .map_err(|_| Refusal::new(format!("{name:?} is not the name of a service")).hint(hint))?;
    Ok(Allowed { name: name.to_owned(), door })
}

/// `CIDR:PORT[/PROTO]`, with `*` for every port.
///
/// # Errors
/// No port, a name, an IPv6 address, bits beyond the prefix, addresses that are never outside.
pub fn parse_destination(text: &str) -> Result<Destination, Refusal> {
    let hint = "write \"ADDRESS:PORT\" or \"NETWORK/BITS:PORT\", such as \"192.0.2.0/24:443\"";
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return Err(Refusal::new(format!(
            "{text:?}: IPv6 destinations are not a feature of this version yet"
        ))
        .hint(hint));
    }
    let (net, door) = split_door(text, hint)?;
    let parsed = match net.contains('/') {
        true => net.parse::<Ipv4Net>().ok(),
        false => net.parse::<Ipv4Addr>().ok().map(Ipv4Net::from),
    };
    if parsed.is_none() && net.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        let refusal =
            Refusal::new(format!("{net:?}: destinations by name are not a feature of this version yet"));
        return Err(refusal.hint("write its addresses"));
    }
    let Some(net) = parsed else {
        return Err(Refusal::new(format!("{net:?} is neither an IPv4 address nor a network")).hint(hint));
    };
    if net.trunc() != net {
        return Err(
            Refusal::new(format!("{net} has host bits set")).hint(format!("write \"{}\"", net.trunc()))
        );
    }
    let never = [
        ("127.0.0.0/8", "the service's own loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
    ];
    for (range, what) in never {
        let range: Ipv4Net = range.parse().expect("a constant");
        if range.contains(&net) {
            return Err(Refusal::new(format!("{net} is {what}: nobody goes out there")).hint("leave it out"));
        }
    }
    Ok(Destination { net, door })
}

fn split_door<'a>(text: &'a str, hint: &str) -> Result<(&'a str, Door), Refusal> {
    let Some((left, right)) = text.rsplit_once(':') else {
        return Err(Refusal::new(format!("{text:?} names no port")).hint(hint));
    };
    if right == "*" {
        return Ok((left, Door::Any));
    }
    let (port, proto) = match right.split_once('/') {
        Some((port, proto)) => (port, parse_proto(proto)?),
        None => (right, Proto::Tcp),
    };
    Ok((left, Door::One(parse_port(port)?, proto)))
}
