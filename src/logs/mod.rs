//! The output of services: one bounded, rotated file each, written by the supervisor and read for `palisade logs`.
//!
//! A file is lines of `TIME STREAM TAG TEXT`, the form that container runtimes write and log shippers read:
//! ```text
//! 2026-11-23T21:12:50.123456Z stdout F a line
//! 2026-11-23T21:12:50.200000Z stderr P the beginning of a line, at once, because the rest may never come;
//! 2026-11-23T21:12:51.000000Z stderr F its end
//! ```
//! `NAME.log` is being written to; `NAME.log.1` is the one before, and so on, `NAME.log.2.gz` where it is compressed. The text is what the service wrote, byte for
//! byte, and as trustworthy as the service: whoever shows it on a terminal has to escape it.

mod age;
mod file;
mod forward;
mod rate;
mod reader;
mod record;
mod squeeze;
mod writer;

use std::path::{Path, PathBuf};

pub use age::{Look, look};
pub use forward::{Levels, Sink};
pub use rate::{Place, Window};
pub use reader::{Batch, Cursor, Follower, Wanted, tail};
pub use record::{Record, TEXT_MAX, decode, encode};
pub use squeeze::Squeeze;
pub use writer::LogWriter;

pub use crate::control::types::{LogEntry, Stream};

/// The most rotated files that are looked for.
const AGES: u32 = 1000;

/// The file that a service's output goes to; with `age` 1 and above, a rotated one.
pub fn path(dir: &Path, name: &str, age: u32) -> PathBuf {
    match age {
        0 => dir.join(format!("{name}.log")),
        age => dir.join(format!("{name}.log.{age}")),
    }
}

#[cfg(test)]
mod tests;
