//! Published ports.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Refusal, nearest};
use crate::spec::{Proto, Publish, defaults};

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
        return Err(Refusal::new(format!("{text:?}: a range of ports cannot be published"))
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
            let refusal = Refusal::new(format!("{text:?} is not a protocol that can be published"));
            Err(match nearest(text, ["tcp", "udp"]) {
                Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
                None => refusal.hint("write \"tcp\" or \"udp\""),
            })
        }
    }
}
