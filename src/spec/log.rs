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
    /// How many lines there may be; none: any number.
    #[serde(default)]
    pub rate: Option<LogRate>,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { max_size: defaults::LOG_MAX_SIZE, files: defaults::LOG_FILES, rate: None }
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
