//! `[network]`: what is said about the link itself.

use super::Reader;
use crate::{
    config::{
        schema::Scalar,
        value::{self, Refusal},
    },
    net::addr::{Mac, MacError},
    spec::{
        Bandwidth, Capability, Unit,
        bandwidth::{LEAST_RATE, MOST_BURST, least_burst},
    },
};

/// IFNAMSIZ without the NUL.
const MAX_NAME: usize = 15;

pub(super) fn mac(reader: &mut Reader<'_>) -> Option<Mac> {
    let text = reader.file.tables.network.mac.as_ref()?;
    let mac = reader.text(text)?.parse().map_err(|error: MacError| {
        Refusal::new(error.to_string())
            .hint("write such as \"02:00:00:00:00:07\": 02 marks it as one of your own")
    });
    reader.take(text.span(), mac)
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

/// Refuses power over a network that is another service's.
pub(super) fn guest_without_power(reader: &mut Reader<'_>, unit: &Unit) {
    let (Some(of), true) = (unit.network.joined(), unit.has_network_power()) else { return };
    let Some(text) = &reader.file.tables.network.mode else { return };
    let message = "CAP_NET_ADMIN and CAP_NET_RAW are power over a network of one's own, and the service would have another's";
    let hint = format!("leave the capability out, or the network of {of}");
    reader.refuse(text.span(), Refusal::new(message).hint(hint));
}
