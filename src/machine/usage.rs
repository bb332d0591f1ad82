//! What a run has taken, and whether the kernel ended it for taking too much. Values alone: who reads them is told nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a run has taken, all processes of its sandbox together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Microseconds of CPU in programs.
    pub cpu_user_usec: u64,
    /// Microseconds of CPU in the kernel.
    pub cpu_system_usec: u64,
    /// Bytes of memory at the worst moment; of the main process alone where there is no memory controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// Bytes read from disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Bytes written to disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_written_bytes: Option<u64>,
    /// Processes that were killed because memory was used up.
    #[serde(default)]
    pub oom_kills: u64,
}

impl Usage {
    /// What was taken since `earlier`, in a sandbox that has gone from run to run. The worst moment has no such difference.
    #[must_use]
    pub fn since(self, earlier: &Self) -> Self {
        let less = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then.unwrap_or_default()));
        Self {
            cpu_user_usec: self.cpu_user_usec.saturating_sub(earlier.cpu_user_usec),
            cpu_system_usec: self.cpu_system_usec.saturating_sub(earlier.cpu_system_usec),
            memory_peak: self.memory_peak,
            io_read_bytes: less(self.io_read_bytes, earlier.io_read_bytes),
            io_written_bytes: less(self.io_written_bytes, earlier.io_written_bytes),
            oom_kills: self.oom_kills.saturating_sub(earlier.oom_kills),
        }
    }
}

/// Why the kernel ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its own `memory.max` was used up.
    MemoryMax,
    /// The memory of the host, or of a group above its own, was used up.
    MemoryElsewhere,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::MemoryMax => "its memory.max was used up",
            Cause::MemoryElsewhere => "the memory of the host, or of a group above, was used up",
        })
    }
}
