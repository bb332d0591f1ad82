//! `[log]`: what becomes of a service's output.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::defaults;

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// Bytes after which a log file is rotated.
    pub max_size: u64,
    /// How many files are kept, the current one included.
    pub files: u32,
    /// How long it is kept; none: for ever.
    #[serde(default = "max_age")]
    pub max_age: Option<Duration>,
    /// Where else it goes.
    #[serde(default)]
    pub target: LogTarget,
    /// Whether rotated files are compressed, but for the newest.
    #[serde(default = "compress")]
    pub compress: bool,
    /// How many lines there may be; none: any number.
    #[serde(default)]
    pub rate: Option<LogRate>,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self {
            max_size: defaults::LOG_MAX_SIZE,
            files: defaults::LOG_FILES,
            max_age: max_age(),
            compress: compress(),
            target: LogTarget::File,
            rate: None,
        }
    }
}

impl LogPolicy {
    /// How long after its first line a file is rotated, however small it is: the oldest file that there may be, which is
    /// removed for another one, is as old as files may become then.
    pub fn rotate_after(&self) -> Option<Duration> {
        Some(self.max_age? / self.files.saturating_sub(1).max(1))
    }
}

/// What an older program has not written of a unit.
fn max_age() -> Option<Duration> {
    Some(defaults::LOG_MAX_AGE)
}

fn compress() -> bool {
    defaults::LOG_COMPRESS
}

/// `log.target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// Into files of its own.
    #[default]
    File,
    /// From those to journald as well.
    Journald,
    /// From those to syslog as well.
    Syslog,
    /// Nowhere.
    None,
}

impl LogTarget {
    /// Where those listen that it is forwarded to.
    pub fn socket(self) -> Option<&'static str> {
        match self {
            LogTarget::Journald => Some("/run/systemd/journal/socket"),
            LogTarget::Syslog => Some("/dev/log"),
            LogTarget::File | LogTarget::None => None,
        }
    }

    /// As a file spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogTarget::File => "file",
            LogTarget::Journald => "journald",
            LogTarget::Syslog => "syslog",
            LogTarget::None => "none",
        }
    }
}

/// `log.rate`: so many lines of both outputs together within so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRate {
    /// At least 1.
    pub lines: u32,
    /// At least a second.
    pub within: Duration,
}

impl fmt::Display for LogRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.lines, self.within)
    }
}

/// `log.full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Full {
    /// What is oldest is dropped, and counted.
    #[default]
    Drop,
    /// Who writes waits for the next supervisor.
    Block,
}
