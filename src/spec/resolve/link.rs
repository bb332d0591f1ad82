//! `[network]`: what is said about the link itself.

use super::Reader;
use crate::{
    config::{
        schema::Scalar,
        value::{self, Refusal},
    },
    spec::{
        Bandwidth, Capability, Unit,
        bandwidth::{LEAST_RATE, MOST_BURST, least_burst},
    },
};

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
