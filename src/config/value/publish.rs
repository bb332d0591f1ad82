//! Published ports, and whom a service may talk to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Refusal, nearest};
use ipnet::IpNet;

use crate::spec::{Allowed, Destination, Door, Named, Proto, Publish, UnitName, defaults};

/// What names of services end with, as in `names::ZONE`.
const ZONE: &str = "palisade";

/// `[addr:]hostport:port[/proto]`; the address is 127.0.0.1, the protocol tcp where they are left out. An IPv6 address
/// stands in brackets.
///
/// # Errors
/// Port 0, a range of ports, an address that nothing can be published on, an unknown protocol.
pub fn parse_publish(text: &str) -> Result<Publish, Refusal> {
    let (ports, proto) = match text.rsplit_once('/') {
        Some((ports, proto)) => (ports, parse_proto(proto)?),
        None => (text, Proto::Tcp),
    };
    if !ports.starts_with('[') && ports.matches(':').count() > 2 {
        return Err(Refusal::new(format!("{text:?} has too many colons"))
            .hint("an IPv6 address stands in brackets, such as \"[2001:db8::1]:8080:80\""));
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

fn parse_address(text: &str) -> Result<IpAddr, Refusal> {
    let everywhere =
        "names are not looked up; 0.0.0.0 is every IPv4 address of the host, [::] every IPv6 address";
    let address = match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    let Ok(address) = address else {
        let refusal = Refusal::new(format!("{text:?} is not an address"));
        return Err(match text.parse::<Ipv6Addr>() {
            Ok(_) => refusal.hint(format!("write \"[{text}]\"")),
            Err(_) => refusal.hint(everywhere),
        });
    };
    match address {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Err(Refusal::new(
            "a port cannot be published on [::1]: the kernel routes nothing from there to a service"
                .to_owned(),
        )
        .hint("publish it on 127.0.0.1, or have a [[socket]] listened on")),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() || address.is_unicast_link_local() => {
            Err(Refusal::new(format!("a port cannot be published on [{address}]")).hint(everywhere))
        }
        IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Err(Refusal::new(format!("{address} is not an address that a host can have")))
        }
        _ if address.is_multicast() => {
            Err(Refusal::new(format!("{address} is not an address that a host can have")))
        }
        _ => Ok(address),
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

/// `CIDR:PORT[/PROTO]`, with `*` for every port; what is IPv6 stands in brackets.
///
/// # Errors
/// No port, bits beyond the prefix, addresses that are never outside.
pub fn parse_destination(text: &str) -> Result<Destination, Refusal> {
    let hint = "write \"ADDRESS:PORT\" or \"NETWORK/BITS:PORT\", such as \"192.0.2.0/24:443\" or \"[2001:db8::/32]:443\"";
    let (net, door) = split_door(text, hint)?;
    let parsed = match net.strip_prefix('[').and_then(|net| net.strip_suffix(']')) {
        Some(net) => parse_net(net).filter(|net| matches!(net, IpNet::V6(_))),
        None => parse_net(net).filter(|net| matches!(net, IpNet::V4(_))),
    };
    let Some(net) = parsed else {
        return Err(Refusal::new(format!("{net:?} is neither an address nor a network")).hint(hint));
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
        ("::1/128", "the service's own loopback"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    for (range, what) in never {
        let range: IpNet = range.parse().expect("a constant");
        if range.contains(&net) {
            return Err(Refusal::new(format!("{net} is {what}: nobody goes out there")).hint("leave it out"));
        }
    }
    Ok(Destination { net, door })
}

fn parse_net(text: &str) -> Option<IpNet> {
    match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// `NAME:PORT[/PROTO]` or `*.NAME:PORT[/PROTO]`. None: it is no name that is meant.
///
/// # Errors
/// No port, a name that nobody outside can have.
pub fn parse_named(text: &str) -> Result<Option<Named>, Refusal> {
    let hint =
        "write \"NAME:PORT\", such as \"api.example.org:443\", or \"*.example.org:443\" for every name below";
    let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
    let is_name = name.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'*');
    if !is_name || name.contains([':', '/', '[']) {
        return Ok(None);
    }
    let (name, door) = split_door(text, hint)?;
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    if !is_host_name(plain) {
        return Err(Refusal::new(format!("{name:?} is not the name of a host")).hint(hint));
    }
    let is_ours = plain == ZONE || plain.strip_suffix(ZONE).is_some_and(|rest| rest.ends_with('.'));
    if is_ours || !plain.contains('.') && plain.len() == name.len() {
        let refusal = Refusal::new(format!("{name:?} is never outside: it can be a service's name alone"));
        return Err(refusal.hint("write `allow_to` for services, and names outside in full"));
    }
    Ok(Some(Named { name, door }))
}

/// Whether a name is made of labels as hosts have them; `_` is let pass, as everywhere.
pub fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let good = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        good && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    // What ends in a number is an address, or was to be one.
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
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
