//! The life of one service as a pure, total function.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[restart]`: what happens when a run ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Which ends are followed by another run.
    pub on: RestartOn,
    /// Before the first restart.
    pub delay: Duration,
    /// By which each further delay grows.
    pub factor: f64,
    /// Upper bound of the delay.
    pub max_delay: Duration,
    /// Share of the delay, 0.0 to 1.0, by which it is varied in both directions.
    pub jitter: f64,
    /// A run that lived so long starts the count of failures again.
    pub reset_after: Duration,
    /// How many restarts are allowed within how long; none is no bound.
    pub max: Option<(u32, Duration)>,
    /// Exit statuses and signals after which there is no restart.
    pub prevent_exit: Vec<crate::spec::ExitMatch>,
    /// Exit statuses and signals after which there always is one.
    pub force_exit: Vec<crate::spec::ExitMatch>,
    /// Whether the sandbox is made anew.
    pub mode: RestartMode,
}

/// `restart.policy`, named as systemd's `Restart=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartOn {
    /// After every end.
    Always,
    /// After an end that is no success.
    OnFailure,
    /// After a signal, a core dump or a time-out.
    OnAbnormal,
    /// After a success.
    OnSuccess,
    /// Not at all.
    Never,
}

/// `restart.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// A new sandbox on the kept network namespace.
    Fresh,
    /// The same sandbox: its PID 1 starts the program again.
    InPlace,
}

/// A point on CLOCK_MONOTONIC, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

/// How a run ended, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    /// Exit status of the main process.
    Code(u8),
    /// The main process was ended by this signal.
    Signal(i32),
    /// As `Signal`, and the kernel dumped core.
    Core(i32),
    /// Nobody lived to see it: the init itself was killed.
    Unknown,
}
