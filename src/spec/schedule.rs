//! `service.sched` and `service.ioprio`: when a service gets a CPU, and when its disk.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `service.sched`: sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sched {
    /// The usual policy.
    Other,
    /// As `Other`, but never taken for one that waits for a user.
    Batch,
    /// When nobody else wants the CPU.
    Idle,
    /// Realtime, until it waits; with a priority from 1 to 99.
    Fifo(u8),
    /// Realtime, in turn with others of its priority.
    Rr(u8),
}

impl Sched {
    /// The kernel's number of the policy.
    pub fn policy(self) -> i32 {
        match self {
            Sched::Other => libc::SCHED_OTHER,
            Sched::Batch => libc::SCHED_BATCH,
            Sched::Idle => libc::SCHED_IDLE,
            Sched::Fifo(_) => libc::SCHED_FIFO,
            Sched::Rr(_) => libc::SCHED_RR,
        }
    }

    /// The priority within it; 0 where there is none.
    pub fn priority(self) -> i32 {
        match self {
            Sched::Other | Sched::Batch | Sched::Idle => 0,
            Sched::Fifo(priority) | Sched::Rr(priority) => i32::from(priority),
        }
    }

    /// Whether it goes before everybody of the usual policies.
    pub fn is_realtime(self) -> bool {
        self.priority() > 0
    }
}

impl fmt::Display for Sched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sched::Other => f.write_str("other"),
            Sched::Batch => f.write_str("batch"),
            Sched::Idle => f.write_str("idle"),
            Sched::Fifo(priority) => write!(f, "fifo:{priority}"),
            Sched::Rr(priority) => write!(f, "rr:{priority}"),
        }
    }
}

/// `service.ioprio`: ioprio_set(2). In a class, 0 goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoPrio {
    /// As the niceness says.
    None,
    /// Level 0 to 7 of the usual class.
    BestEffort(u8),
    /// When nobody else wants the disk.
    Idle,
    /// Level 0 to 7 of those who always go first.
    Realtime(u8),
}

impl IoPrio {
    /// As the kernel has it: the class above 13 bits of level (linux/ioprio.h).
    pub fn value(self) -> i32 {
        let of = |class: i32, level: u8| class << 13 | i32::from(level);
        match self {
            IoPrio::None => of(0, 0),
            IoPrio::Realtime(level) => of(1, level),
            IoPrio::BestEffort(level) => of(2, level),
            IoPrio::Idle => of(3, 0),
        }
    }
}

impl fmt::Display for IoPrio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoPrio::None => f.write_str("none"),
            IoPrio::BestEffort(level) => write!(f, "best-effort:{level}"),
            IoPrio::Idle => f.write_str("idle"),
            IoPrio::Realtime(level) => write!(f, "realtime:{level}"),
        }
    }
}
