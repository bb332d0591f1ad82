//! The values of CONFIG: text in, typed value or a [`Refusal`] out. Pure; total on every input.

mod amount;
mod command;
mod env_file;
mod http;
mod listen;
mod publish;
mod signal;
mod specifier;
#[cfg(test)]
mod tests;

use std::fmt;

pub use amount::{parse_decimal, parse_duration, parse_rate, parse_size};
pub use command::{MAX_ARG, expand, split};
pub use env_file::parse_env_file;
pub use http::{parse_host, parse_tls, parse_web_path};
pub use listen::parse_listen;
pub use publish::{is_host_name, parse_allowed, parse_destination, parse_named, parse_publish};
pub use signal::{parse_exit, parse_signal};
pub use specifier::{CACHE_DIR, LOG_DIR, RUN_DIR, STATE_DIR, Specifiers};

/// Why a value is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong: lower case, no period.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// An octal mode or mask of at most four digits, such as `0077`.
///
/// # Errors
/// Anything else, signs and `0o` included.
pub fn parse_octal(text: &str) -> Result<u32, Refusal> {
    let good = (1..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match good.then(|| u32::from_str_radix(text, 8)) {
        Some(Ok(mode)) => Ok(mode),
        _ => Err(Refusal::new(format!("{text:?} is not an octal mode"))
            .hint("write up to four digits 0 to 7, such as \"0755\"")),
    }
}

/// A user or group id: decimal digits, at most 4294967294 (4294967295 means "no id" to the kernel, chown(2)).
///
/// # Errors
/// Signs, other bases, leading zeros and 4294967295 are refused.
pub fn parse_id(text: &str) -> Result<u32, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    match (digits && canonical).then(|| text.parse::<u32>()) {
        Some(Ok(id)) if id != u32::MAX => Ok(id),
        _ => Err(Refusal::new(format!("{text:?} is not a user or group id"))
            .hint("ids are decimal, 0 to 4294967294")),
    }
}

/// Bytes of a bridge's name: a link's may have 15 (IFNAMSIZ), of which the tag of the supervisor takes 7.
const BRIDGE_NAME: usize = 8;

/// The name of a bridge.
///
/// # Errors
/// It is too long, does not begin with a letter as links do not, or has anything in it but letters, digits, `_` and `-`.
pub fn parse_bridge(name: &str) -> Result<String, Refusal> {
    let good = name.len() <= BRIDGE_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    match good {
        true => Ok(name.to_owned()),
        false => Err(Refusal::new(format!("{name:?} cannot name a bridge")).hint(format!(
            "write up to {BRIDGE_NAME} lower-case letters, digits, '_' and '-', beginning with a letter"
        ))),
    }
}

/// Whether `name` can be a user or group name: what useradd(8) takes, dots included.
pub fn is_account_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first
        && name.len() <= 31
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Whether `name` can name an environment variable, environ(7) as systemd reads it.
pub fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The candidate that `word` was most likely meant to be, if any is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody mistypes a key of a hundred letters; the bound keeps the distance cheap on hostile input.
    if word.len() > 64 {
        return None;
    }
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let wanted = fold(word);
    let rank = |candidate: &'a str| {
        let folded = fold(candidate);
        let distance = distance(&wanted, &folded);
        // `working_directory` is far from `working_dir`, but begins with it.
        let begins = folded.len() >= 3
            && (wanted.starts_with(&folded) || folded.starts_with(&wanted))
            && wanted.len() >= 3;
        (begins || distance <= (candidate.len() / 3).max(1)).then_some((distance, candidate))
    };
    candidates
        .into_iter()
        .filter_map(rank)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with transpositions of neighbours as one edit.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
