//! `[log]`: what becomes of a service's output.

use std::time::Duration;

use super::Reader;
use crate::{
    config::{
        schema::{LogTable, Scalar},
        value::{self, Refusal},
    },
    spec::{Full, LogPolicy, LogRate, LogTarget},
};

const TARGETS: &[(&str, LogTarget)] = &[
    ("file", LogTarget::File),
    ("journald", LogTarget::Journald),
    ("syslog", LogTarget::Syslog),
    ("none", LogTarget::None),
];
const FULL: &[(&str, Full)] = &[("drop", Full::Drop), ("block", Full::Block)];
/// What is told of each time span makes a line itself.
const LEAST_WITHIN: Duration = Duration::from_secs(1);
/// What is to be gone sooner is not to be written at all.
const LEAST_AGE: Duration = Duration::from_secs(3600);
const MOST_WITHIN: Duration = Duration::from_secs(86_400);

pub(super) fn full(reader: &mut Reader<'_>, table: &LogTable) -> Full {
    reader.word("log.full", &table.full, FULL).unwrap_or_default()
}

pub(super) fn log(reader: &mut Reader<'_>, table: &LogTable) -> LogPolicy {
    let defaults = LogPolicy::default();
    let max_size = table.max_size.as_ref().and_then(|value| reader.checked(value, max_size));
    let files = table.files.as_ref().and_then(|files| reader.number(files, 1..=1000));
    let max_age = table.max_age.as_ref().and_then(|value| reader.checked(value, max_age));
    let rate = table.rate.as_ref().and_then(|value| reader.checked(value, |text| rate(text)));
    let target = reader.word("log.target", &table.target, TARGETS);
    LogPolicy {
        target: target.unwrap_or(defaults.target),
        max_size: max_size.unwrap_or(defaults.max_size),
        files: files.and_then(|files| u32::try_from(files).ok()).unwrap_or(defaults.files),
        max_age: max_age.unwrap_or(defaults.max_age),
        compress: table.compress.unwrap_or(defaults.compress),
        rate: rate.unwrap_or(defaults.rate),
    }
}

fn max_size(value: &Scalar) -> Result<u64, Refusal> {
    match value::parse_size(value, None)? {
        size if size >= 4096 => Ok(size),
        _ => {
            Err(Refusal::new("a log file of less than 4K would be rotated without end")
                .hint("write 4K or more"))
        }
    }
}

fn max_age(value: &Scalar) -> Result<Option<Duration>, Refusal> {
    match value::parse_duration(value)? {
        Some(age) if age < LEAST_AGE => {
            Err(Refusal::new(format!("{age:?} is less than the age of a log that somebody could read"))
                .hint("write 1h or more, or \"infinity\""))
        }
        age => Ok(age),
    }
}

/// `LINES/TIME`, where the time may be a unit alone; none: `off`.
fn rate(text: &str) -> Result<Option<LogRate>, Refusal> {
    let bad = || {
        Refusal::new(format!("{text:?} is not a number of lines in a time"))
            .hint("write both, such as \"10000/30s\" or \"100/s\", or \"off\"")
    };
    if text == "off" {
        return Ok(None);
    }
    let (lines, within) = text.split_once('/').ok_or_else(bad)?;
    let lines = lines.trim().parse().map_err(|_| bad())?;
    let within = within.trim();
    let is_unit = within.starts_with(|c: char| c.is_ascii_alphabetic()) && within != "infinity";
    let within = Scalar::Text(if is_unit { format!("1{within}") } else { within.to_owned() });
    let within = value::parse_duration(&within)?.ok_or_else(bad)?;
    if lines == 0 {
        return Err(
            Refusal::new("a log of no lines is none").hint("write 1 or more lines, or \"off\" for no limit")
        );
    }
    match (LEAST_WITHIN..=MOST_WITHIN).contains(&within) {
        true => Ok(Some(LogRate { lines, within })),
        false => Err(Refusal::new(format!("{within:?} is no time to count lines in"))
            .hint("write a time from 1s to 1d, such as \"10000/30s\"")),
    }
}
