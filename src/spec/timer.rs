//! `[timer]`: when a service is started by the clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::calendar::Calendar;

/// When a service is started, beside being started by hand. At least one of its occasions is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Moments of civil time: `calendar` and `cron`.
    pub calendars: Vec<Calendar>,
    /// The time zone of those that name none; none: the host's.
    pub timezone: Option<String>,
    /// So long after its last start.
    pub every: Option<Duration>,
    /// So long after the host was booted, once.
    pub after_boot: Option<Duration>,
    /// So long after its last run ended.
    pub after_end: Option<Duration>,
    /// The most by which this service is late, always by the same.
    pub jitter: Duration,
    /// What was missed while the supervisor did not run is made up for.
    pub persistent: bool,
    /// What becomes of an occasion while it runs.
    pub overlap: Overlap,
}

/// `timer.overlap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// Nothing: the next one comes.
    Skip,
    /// It is started when this run has ended, once for however many.
    Queue,
    /// This run is stopped, and another started.
    Restart,
}
