//! Durations and sizes.

use std::time::Duration;

use super::Refusal;
use crate::config::schema::Scalar;

const NANO: u128 = 1_000_000_000;
/// 100 years: more is a typing error, and every sum of two still fits the machine's 64-bit milliseconds.
const LONGEST: u128 = 100 * 31_557_600 * NANO;

/// Nanoseconds of each unit of time.
const TIME_UNITS: &[(&str, u128)] = &[
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", NANO),
    ("sec", NANO),
    ("second", NANO),
    ("seconds", NANO),
    ("m", 60 * NANO),
    ("min", 60 * NANO),
    ("minute", 60 * NANO),
    ("minutes", 60 * NANO),
    ("h", 3_600 * NANO),
    ("hr", 3_600 * NANO),
    ("hour", 3_600 * NANO),
    ("hours", 3_600 * NANO),
    ("d", 86_400 * NANO),
    ("day", 86_400 * NANO),
    ("days", 86_400 * NANO),
    ("w", 604_800 * NANO),
    ("week", 604_800 * NANO),
    ("weeks", 604_800 * NANO),
];

/// Bytes of each unit of size.
const SIZE_UNITS: &[(&str, u128)] = &[
    ("", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
];

/// A duration: `"500ms"`, `"1h30m"`, `"2min"`, a number of seconds; none is `"infinity"`.
///
/// # Errors
/// No unit of time, a month (it has no length), a negative number, more than 100 years.
pub fn parse_duration(value: &Scalar) -> Result<Option<Duration>, Refusal> {
    let nanos = match value {
        Scalar::Text(text) if text.trim() == "infinity" => return Ok(None),
        Scalar::Text(text) => duration_text(text)?,
        Scalar::Int(seconds) => {
            u128::try_from(*seconds).map_err(|_| negative(&seconds.to_string()))?.saturating_mul(NANO)
        }
        Scalar::Float(seconds) if *seconds < 0.0 => return Err(negative(&seconds.to_string())),
        Scalar::Float(seconds) => Duration::try_from_secs_f64(*seconds).map_err(|_| too_long())?.as_nanos(),
    };
    if nanos > LONGEST {
        return Err(too_long());
    }
    let seconds = u64::try_from(nanos / NANO).map_err(|_| too_long())?;
    let rest = u32::try_from(nanos % NANO).map_err(|_| too_long())?;
    Ok(Some(Duration::new(seconds, rest)))
}

fn negative(number: &str) -> Refusal {
    Refusal::new(format!("{number} is negative, a duration is not"))
}

fn too_long() -> Refusal {
    Refusal::new("the duration is longer than 100 years").hint("write \"infinity\" for no bound")
}

fn bad_duration(text: &str) -> Refusal {
    Refusal::new(format!("{text:?} is not a duration"))
        .hint("write a number with a unit, such as \"500ms\", \"5s\", \"2min\", \"1h30m\" or \"1d\"")
}

/// Nanoseconds of `1h30m`, `1 h 30 min`, `1.5h`, `90`.
fn duration_text(text: &str) -> Result<u128, Refusal> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad_duration(text));
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = take_number(rest).ok_or_else(|| bad_duration(text))?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale = match unit {
            // A bare number is seconds, but "1h30" is a slip: seconds or minutes?
            "" if after.is_empty() && total == 0 => NANO,
            "" => return Err(bad_duration(text)),
            _ => time_unit(unit).ok_or_else(|| bad_time_unit(unit))?,
        };
        total = total.checked_add(number.times(scale).ok_or_else(too_long)?).ok_or_else(too_long)?;
        rest = after.trim_start();
    }
    Ok(total)
}

fn time_unit(unit: &str) -> Option<u128> {
    TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

fn bad_time_unit(unit: &str) -> Refusal {
    let refusal = Refusal::new(format!("{unit:?} is not a unit of time"));
    match unit {
        "M" | "mo" | "month" | "months" | "y" | "yr" | "year" | "years" => {
            refusal.hint("months and years have no fixed length; write days, or \"m\" for minutes")
        }
        _ => refusal.hint("the units are us, ms, s, min (or m), h, d and w"),
    }
}

/// A size in bytes: `"64K"`, `"512MiB"`, `"1.5G"`, a number of bytes; `"50%"` of `ram` where that is given.
///
/// # Errors
/// Powers of 1000 (`MB`), which everybody reads differently; a fraction of a byte; a percentage without `ram`.
pub fn parse_size(value: &Scalar, ram: Option<u64>) -> Result<u64, Refusal> {
    let text = match value {
        Scalar::Int(bytes) => {
            return u64::try_from(*bytes)
                .map_err(|_| Refusal::new(format!("{bytes} is negative, a size is not")));
        }
        Scalar::Float(_) => return Err(bad_size(&value.to_string())),
        Scalar::Text(text) => text.trim(),
    };
    let (number, unit) = take_number(text).ok_or_else(|| bad_size(text))?;
    let unit = unit.trim_start();
    if unit == "%" {
        return share_of(&number, text, ram);
    }
    let scale = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let scale = scale.ok_or_else(|| bad_size_unit(text, unit))?;
    let bytes = number.times(scale).ok_or_else(|| too_large(text))?;
    u64::try_from(bytes).ok().filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| too_large(text))
}

fn share_of(number: &Decimal, text: &str, ram: Option<u64>) -> Result<u64, Refusal> {
    let ram = ram.ok_or_else(|| {
        Refusal::new(format!("{text:?}: a share of the memory has no meaning here"))
            .hint("write a size, such as \"64M\"")
    })?;
    let bytes = number.times(u128::from(ram)).ok_or_else(|| too_large(text))? / 100;
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= ram => Ok(bytes),
        _ => Err(Refusal::new(format!("{text:?} is more than all of the memory"))),
    }
}

fn too_large(text: &str) -> Refusal {
    Refusal::new(format!("{text:?} is larger than any file or memory can be"))
}

fn bad_size(text: &str) -> Refusal {
    Refusal::new(format!("{text:?} is not a size"))
        .hint("write a number with K, M, G or T (powers of 1024), such as \"64M\"")
}

fn bad_size_unit(text: &str, unit: &str) -> Refusal {
    let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
    match (letter, unit.to_ascii_lowercase().as_str()) {
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), "kb" | "mb" | "gb" | "tb") => {
            let number = text.strip_suffix(unit).unwrap_or(text).trim_end();
            Refusal::new(format!("{unit:?} is a power of 1000 to some and of 1024 to others"))
                .hint(format!("write \"{number}{letter}\" (or \"{number}{letter}iB\"), a power of 1024"))
        }
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), "k" | "m" | "g" | "t" | "kib" | "mib" | "gib" | "tib") => {
            Refusal::new(format!("{unit:?} is not a unit of size")).hint(format!("write \"{letter}\""))
        }
        _ => Refusal::new(format!("{unit:?} is not a unit of size"))
            .hint("the units are K, M, G and T (or KiB, MiB, GiB, TiB), powers of 1024"),
    }
}

/// Bits of each unit of a rate.
const RATE_UNITS: &[(&str, u128)] = &[
    ("B/s", 8),
    ("KB/s", 8_000),
    ("kB/s", 8_000),
    ("MB/s", 8_000_000),
    ("GB/s", 8_000_000_000),
    ("KiB/s", 8 << 10),
    ("MiB/s", 8 << 20),
    ("GiB/s", 8 << 30),
    ("bit", 1),
    ("Kbit", 1_000),
    ("kbit", 1_000),
    ("Mbit", 1_000_000),
    ("Gbit", 1_000_000_000),
];

/// A rate in bytes a second: `"20MB/s"`, `"10MiB/s"`, `"80Mbit"`, a number of bytes.
///
/// # Errors
/// Nothing at all, a size without `/s`, an unknown unit.
pub fn parse_rate(value: &Scalar) -> Result<u64, Refusal> {
    let bad = || {
        Refusal::new(format!("{value} is not a rate"))
            .hint("write a number with B/s, KB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s, Kbit, Mbit or Gbit")
    };
    let bytes = match value {
        Scalar::Int(bytes) => u64::try_from(*bytes).ok(),
        Scalar::Float(_) => None,
        Scalar::Text(text) => {
            let (number, unit) = take_number(text.trim()).ok_or_else(bad)?;
            let (_, bits) = RATE_UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(bad)?;
            number.times(*bits).and_then(|bits| u64::try_from(bits / 8).ok())
        }
    };
    match bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) {
        Some(0) => {
            Err(Refusal::new("a rate of nothing would stop the service for ever").hint("write a rate"))
        }
        Some(bytes) => Ok(bytes),
        None => Err(bad()),
    }
}

/// `text`, a decimal number, times `scale`, rounded down; none for anything else.
pub fn parse_decimal(text: &str, scale: u64) -> Option<u64> {
    match take_number(text)? {
        (number, "") => number.times(u128::from(scale)).and_then(|product| u64::try_from(product).ok()),
        _ => None,
    }
}

/// A decimal number, kept exact: `digits` divided by ten to the `places`.
struct Decimal {
    digits: u128,
    places: u32,
}

impl Decimal {
    /// The product, rounded down; none when it overflows.
    fn times(&self, scale: u128) -> Option<u128> {
        Some(self.digits.checked_mul(scale)? / 10_u128.checked_pow(self.places)?)
    }
}

/// The number at the start of `text`, and what follows it. At most 9 decimal places and 19 digits.
fn take_number(text: &str) -> Option<(Decimal, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let mut end = whole;
    let mut places = 0;
    if whole > 0 && text[whole..].starts_with('.') {
        places = digits(&text[whole + 1..]);
        end = whole + 1 + places;
    }
    if whole == 0 || whole > 19 || places > 9 || (places == 0 && end != whole) {
        return None;
    }
    let digits: u128 =
        format!("{}{}", &text[..whole], text[whole..end].trim_start_matches('.')).parse().ok()?;
    Some((Decimal { digits, places: u32::try_from(places).ok()? }, &text[end..]))
}
