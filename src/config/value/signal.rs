//! Signals and exit statuses.

use std::str::FromStr;

use nix::sys::signal::Signal;

use super::{Refusal, nearest};
use crate::{config::schema::Scalar, spec::ExitMatch};

/// The kernel's highest signal, signal(7).
const LAST: i32 = 64;
/// The first real-time signal that glibc and musl leave to programs; the kernel's is 32.
const FIRST_REALTIME: i32 = 34;

/// A signal: `"TERM"`, `"SIGTERM"`, `"RTMIN+3"`, `"15"` or 15.
///
/// # Errors
/// No such signal; the hint names the nearest.
pub fn parse_signal(value: &Scalar) -> Result<i32, Refusal> {
    let text = match value {
        Scalar::Int(number) => return number_in_range(*number),
        Scalar::Float(_) => return Err(unknown(&value.to_string())),
        Scalar::Text(text) => text.as_str(),
    };
    if let Some(number) = digits(text) {
        return number_in_range(number.into());
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(number) = realtime(name) {
        return Ok(number);
    }
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| unknown(text))
}

/// A small number without the sign that `parse` would take.
fn digits(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn realtime(name: &str) -> Option<i32> {
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        _ => digits(text.strip_prefix(sign)?).map(i32::from),
    };
    let number = match name.strip_prefix("RTMIN") {
        Some(rest) => FIRST_REALTIME + offset(rest, '+')?,
        None => LAST - offset(name.strip_prefix("RTMAX")?, '-')?,
    };
    (FIRST_REALTIME..=LAST).contains(&number).then_some(number)
}

fn number_in_range(number: i64) -> Result<i32, Refusal> {
    i32::try_from(number)
        .ok()
        .filter(|number| (1..=LAST).contains(number))
        .ok_or_else(|| unknown(&number.to_string()))
}

fn unknown(text: &str) -> Refusal {
    let bare = text.to_ascii_uppercase();
    let bare = bare.strip_prefix("SIG").unwrap_or(&bare);
    let names: Vec<&str> = Signal::iterator().map(|signal| &signal.as_str()[3..]).collect();
    let refusal = Refusal::new(format!("{text:?} is not a signal"));
    match nearest(bare, names) {
        Some(name) => refusal.hint(format!("did you mean \"{name}\"?")),
        None => refusal.hint("write a name, such as \"TERM\", or a number, 1 to 64"),
    }
}

/// An exit status, 0 to 255, or the name of a signal. Here a number is a status, never a signal.
///
/// # Errors
/// Neither of the two.
pub fn parse_exit(value: &Scalar) -> Result<ExitMatch, Refusal> {
    let bad = |number: &dyn std::fmt::Display| {
        Refusal::new(format!("{number} is not an exit status")).hint("exit statuses are 0 to 255")
    };
    match value {
        Scalar::Int(number) => u8::try_from(*number).map(ExitMatch::Code).map_err(|_| bad(number)),
        Scalar::Float(number) => Err(bad(number)),
        Scalar::Text(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map(ExitMatch::Code).map_err(|_| bad(text))
        }
        Scalar::Text(_) => parse_signal(value).map(ExitMatch::Signal),
    }
}
