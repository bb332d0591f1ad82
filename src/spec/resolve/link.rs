//! `[network]`: what is said about the link itself.

use std::{net::Ipv4Addr, ops::Range};

use ipnet::Ipv4Net;

use super::{Claims, Reader};
use crate::{
    config::{
        schema::{Scalar, Text, WordOrList},
        value::{self, Refusal},
    },
    net::addr::Mac,
    spec::{
        Attached, AttachedKind, Bandwidth, Capability, NetworkMode, Unit,
        bandwidth::{LEAST_RATE, MOST_BURST, least_burst},
    },
};

/// IFNAMSIZ without the NUL.
const MAX_NAME: usize = 15;

/// What a link on one of the host's needs; none: something of it is missing or wrong, and was refused.
pub(super) fn attached(
    reader: &mut Reader<'_>,
    kind: AttachedKind,
    span: Range<usize>,
    claims: &mut Claims,
) -> Option<Attached> {
    let table = &reader.file.tables.network;
    for (key, what, is_given) in [
        (
            "parent",
            "the link of the host's that it is on, such as `parent = \"eth0\"`",
            table.parent.is_some(),
        ),
        (
            "address",
            "an address in that network, such as `address = \"192.0.2.10/24\"`",
            table.address.is_some(),
        ),
    ] {
        if !is_given {
            let refusal = Refusal::new(format!("`mode = \"{}\"` needs `{key}`", kind.name()));
            reader.refuse(span.clone(), refusal.hint(format!("add {what}")));
        }
    }
    if let (AttachedKind::Ipvlan, Some(mac)) = (kind, &table.mac) {
        let refusal = Refusal::new("an ipvlan has the hardware address of its parent");
        reader.refuse(mac.span(), refusal.hint("leave `mac` out, or write `mode = \"macvlan\"`"));
    }
    let parent = table.parent.as_ref();
    let parent = parent.and_then(|text| Some((reader.text(text)?, text.span())));
    let parent = parent.and_then(|(name, span)| reader.take(span, interface_name(&name)));
    let address = table.address.as_ref();
    let address = address.and_then(|text| Some((reader.text(text)?, text.span())));
    let address = address.and_then(|(text, span)| {
        let address = reader.take(span.clone(), address_in(&text))?;
        claims.address = Some((address.addr(), span));
        Some(address)
    });
    let gateway = match &table.gateway {
        None => None,
        Some(text) => {
            let written = reader.text(text)?;
            Some(reader.take(text.span(), gateway(&written, address))?)
        }
    };
    Some(Attached { kind, parent: parent?, address: address?, gateway })
}

/// An address of one host, with how much of its network is next to it.
fn address_in(text: &str) -> Result<Ipv4Net, Refusal> {
    let hint = "write an IPv4 address with the length of its network, such as \"192.0.2.10/24\"";
    let bad = |why: &str| Refusal::new(format!("{text:?} {why}")).hint(hint);
    let net: Ipv4Net = match text.contains('/') {
        true => text.parse().map_err(|_| bad("is not an IPv4 address with a network"))?,
        false => return Err(bad("does not say how large its network is")),
    };
    let address = net.addr();
    let ends = net.prefix_len() < 31 && (address == net.network() || address == net.broadcast());
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    match ends || is_special || net.prefix_len() == 0 {
        true => Err(bad("is not the address of one host")),
        false => Ok(net),
    }
}

fn gateway(text: &str, address: Option<Ipv4Net>) -> Result<Ipv4Addr, Refusal> {
    let gateway: Ipv4Addr = text.parse().map_err(|_| {
        Refusal::new(format!("{text:?} is not an IPv4 address")).hint("write such as \"192.0.2.1\"")
    })?;
    match address {
        Some(net) if gateway == net.addr() => {
            Err(Refusal::new(format!("{gateway} is the service itself"))
                .hint("write the address of the router"))
        }
        Some(net) if !net.contains(&gateway) => {
            Err(Refusal::new(format!("{gateway} is not in {}", net.trunc()))
                .hint("write the router's address in that network"))
        }
        _ => Ok(gateway),
    }
}

/// Refuses what the host's packet filter and its end of a link would have to do: nothing of this link passes there.
pub(super) fn past_the_filter(reader: &mut Reader<'_>, kind: AttachedKind) {
    let table = &reader.file.tables.network;
    let egress = table.egress.as_ref().filter(|egress| *egress.get_ref() != WordOrList::List(Vec::new()));
    let spans = [
        ("publish", table.publish.iter().flatten().next().map(Text::span)),
        ("egress", egress.map(toml::Spanned::span)),
        ("allow_to", table.allow_to.iter().flatten().next().map(Text::span)),
        ("allow_from", table.allow_from.iter().flatten().next().map(Text::span)),
        ("bandwidth", table.bandwidth.as_ref().map(toml::Spanned::span)),
        ("bridge", table.bridge.as_ref().map(Text::span)),
        ("firewall", table.firewall.as_ref().map(Text::span)),
    ];
    for (key, span) in spans {
        if let Some(span) = span {
            let refusal = Refusal::new(format!(
                "`{key}` rests on the host, which the packets of `mode = \"{}\"` pass by",
                kind.name()
            ));
            let hint = "leave it out and say it to a firewall of that network's, or write `mode = \"veth\"`";
            reader.refuse(span, refusal.hint(hint));
        }
    }
}

pub(super) fn mac(reader: &mut Reader<'_>, bridge: Option<&str>, claims: &mut Claims) -> Option<Mac> {
    let text = reader.file.tables.network.mac.as_ref()?;
    let parsed = reader.text(text)?.parse::<Mac>().map_err(|error| error.to_string());
    let mac = parsed.and_then(|mac| match bridge {
        Some(_) if mac.is_derived() => Err(format!("{mac} is one of those that others on the bridge have")),
        _ => Ok(mac),
    });
    let hint = "write such as \"02:00:00:00:00:07\": 02 marks it as one of your own";
    let mac = reader.take(text.span(), mac.map_err(|why| Refusal::new(why).hint(hint)))?;
    claims.port = bridge.map(|bridge| ((bridge.to_owned(), mac), text.span()));
    Some(mac)
}

pub(super) fn bridge(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.file.tables.network.bridge.as_ref()?;
    let name = reader.text(text)?;
    reader.take(text.span(), value::parse_bridge(&name))
}

pub(super) fn interface(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.file.tables.network.interface.as_ref()?;
    let name = reader.text(text)?;
    reader.take(text.span(), interface_name(&name))
}

/// What the kernel takes as the name of a link, as far as programs cope with it.
fn interface_name(name: &str) -> Result<String, Refusal> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let refusal = match name {
        // Links of every namespace, and what /proc/sys/net has beside links.
        "lo" | "all" | "default" | "." | ".." => Refusal::new(format!("no link can be called {name:?}")),
        _ if name.len() > MAX_NAME => {
            Refusal::new(format!("{name:?} is longer than the {MAX_NAME} bytes that a link's name may have"))
        }
        _ if name.is_empty() || name.starts_with('-') || !name.bytes().all(good) => {
            Refusal::new(format!("{name:?} is not the name of a link"))
        }
        _ => return Ok(name.to_owned()),
    };
    Err(refusal.hint("write such as \"web0\": letters, digits, \".\", \"_\" and \"-\""))
}

pub(super) fn bandwidth(reader: &mut Reader<'_>, mtu: Option<u32>) -> Bandwidth {
    let Some(table) = &reader.file.tables.network.bandwidth else { return Bandwidth::default() };
    let span = table.span();
    let table = table.get_ref();
    let given = table.ingress.is_some() || table.egress.is_some();
    let ingress = table.ingress.as_ref().and_then(|value| reader.checked(value, rate));
    let egress = table.egress.as_ref().and_then(|value| reader.checked(value, rate));
    let burst = table.burst.as_ref().and_then(|value| reader.checked(value, |value| burst(value, mtu)));
    if !given {
        let refusal = Refusal::new("`bandwidth` bounds neither direction");
        reader.refuse(span, refusal.hint("add such as `ingress = \"20Mbit\"` or `egress = \"2MB/s\"`"));
    }
    Bandwidth { ingress, egress, burst }
}

/// A rate with a unit: of a network nobody knows whether a bare number counts bits or bytes.
fn rate(value: &Scalar) -> Result<u64, Refusal> {
    let unclear = |number: &str, prefix: &str| {
        Refusal::new(format!("{value} may be bits or bytes a second"))
            .hint(format!("write \"{number}{prefix}bit\" for bits or \"{number}{prefix}B/s\" for bytes"))
    };
    let number = match value {
        Scalar::Text(text) => text.trim().to_owned(),
        Scalar::Int(number) => return Err(unclear(&number.to_string(), "")),
        Scalar::Float(number) => return Err(unclear(&number.to_string(), "")),
    };
    let digits = number.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = number[digits.len()..].trim();
    if let ("B" | "KB" | "kB" | "MB" | "GB" | "KiB" | "MiB" | "GiB", false) = (unit, digits.is_empty()) {
        let refusal = Refusal::new(format!("{value} is a size, not a rate"));
        return Err(refusal.hint(format!("write \"{digits}{unit}/s\"")));
    }
    // `20M`, `20Mb`, `20Mbps`, `20mbit/s`: what people write, and mean one of two things by.
    let lower = unit.to_ascii_lowercase();
    let prefix = match lower.strip_suffix("bps").or(lower.strip_suffix("b")).unwrap_or(&lower) {
        "" => Some(""),
        "k" => Some("K"),
        "m" => Some("M"),
        "g" => Some("G"),
        _ => None,
    };
    if let (Some(prefix), false) = (prefix, digits.is_empty()) {
        return Err(unclear(digits, prefix));
    }
    match value::parse_rate(value)? {
        rate if rate < LEAST_RATE => Err(Refusal::new(format!("{value} is less than a connection needs"))
            .hint("write \"8Kbit\" or more, or `mode = \"none\"` for no network at all")),
        rate => Ok(rate),
    }
}

fn burst(value: &Scalar, mtu: Option<u32>) -> Result<u32, Refusal> {
    let bytes = value::parse_size(value, None)?;
    let least = least_burst(mtu);
    match u32::try_from(bytes) {
        Ok(burst) if burst < least => {
            Err(Refusal::new(format!("{value} is less than one frame, {least} bytes: none would ever pass"))
                .hint("write such as \"64K\", or leave `burst` out for what suits the rate"))
        }
        Ok(burst) if bytes <= MOST_BURST => Ok(burst),
        _ => Err(Refusal::new(format!("{value} in one go is no bound")).hint("write \"1G\" or less")),
    }
}

/// Refuses what whoever has power over the service's end of the link could take away.
pub(super) fn held_by_power(reader: &mut Reader<'_>, unit: &Unit) {
    let table = reader.file.tables.network.bandwidth.as_ref();
    let Some(egress) = table.and_then(|table| table.get_ref().egress.as_ref()) else { return };
    let power = [Capability::NET_ADMIN, Capability::NET_RAW];
    let held = power.iter().find(|one| unit.security.capabilities.contains(one));
    if let Some(one) = held.filter(|_| unit.has_network_power()) {
        let message = format!("`bandwidth.egress` does not hold a service with {one}");
        let hint = "the bound is at its own end of the link, which it has power over: leave `egress` or the capability out";
        reader.refuse(egress.span(), Refusal::new(message).hint(hint));
    }
}

/// Refuses power over a network that is not the service's alone.
pub(super) fn no_power_over_others(reader: &mut Reader<'_>, unit: &Unit) {
    let Some(text) = reader.file.tables.network.mode.as_ref().filter(|_| unit.has_network_power()) else {
        return;
    };
    let (why, hint) = match &unit.network.mode {
        NetworkMode::Join(of) => {
            ("the service would have another's", format!("leave the capability out, or the network of {of}"))
        }
        NetworkMode::Attached(attached) => (
            "nothing would stand between it and all that are in the same",
            format!(
                "leave the capability out, or write `mode = \"veth\"` in place of \"{}\"",
                attached.kind.name()
            ),
        ),
        NetworkMode::Veth | NetworkMode::None | NetworkMode::Host => return,
    };
    let message = format!("CAP_NET_ADMIN and CAP_NET_RAW are power over a network of one's own, and {why}");
    reader.refuse(text.span(), Refusal::new(message).hint(hint));
}
