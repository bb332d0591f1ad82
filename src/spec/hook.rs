//! `service.condition`, `pre_start`, `post_start`, `pre_stop`, `post_stop`: commands around the main program.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{IdSpec, UserSpec};

/// When a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// First of all in the sandbox: whether the service is to run at all.
    Condition,
    /// Before the main program.
    PreStart,
    /// When it is ready.
    PostStart,
    /// Before it is asked to stop.
    PreStop,
    /// When it has ended, however it did.
    PostStop,
}

impl Stage {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 5] =
        [Self::Condition, Self::PreStart, Self::PostStart, Self::PreStop, Self::PostStop];

    /// Its key in a service file.
    pub fn key(self) -> &'static str {
        match self {
            Stage::Condition => "service.condition",
            Stage::PreStart => "service.pre_start",
            Stage::PostStart => "service.post_start",
            Stage::PreStop => "service.pre_stop",
            Stage::PostStop => "service.post_stop",
        }
    }
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// argv; never empty, already expanded.
    pub command: Vec<String>,
    /// Somebody else than the service's user.
    pub user: Option<HookUser>,
    /// Its failure changes nothing.
    pub ignore_failure: bool,
    /// It runs on the host, as root.
    pub privileged: bool,
    /// After which it is killed and has failed.
    pub timeout: Option<Duration>,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command.join(" "))
    }
}

/// Whom a command runs as, inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookUser {
    /// The user.
    pub user: UserSpec,
    /// The primary group, when it is not the user's own.
    pub group: Option<IdSpec>,
    /// Supplementary groups beside the user's own.
    pub extra_groups: Vec<IdSpec>,
    /// Variables that follow from the user.
    pub env: BTreeMap<String, String>,
}

/// All of a service, each list in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// `service.condition`.
    pub condition: Vec<Hook>,
    /// `service.pre_start`.
    pub pre_start: Vec<Hook>,
    /// `service.post_start`.
    pub post_start: Vec<Hook>,
    /// `service.pre_stop`.
    pub pre_stop: Vec<Hook>,
    /// `service.post_stop`.
    pub post_stop: Vec<Hook>,
}

impl Hooks {
    /// Those of one stage.
    pub fn of(&self, stage: Stage) -> &[Hook] {
        match stage {
            Stage::Condition => &self.condition,
            Stage::PreStart => &self.pre_start,
            Stage::PostStart => &self.post_start,
            Stage::PreStop => &self.pre_stop,
            Stage::PostStop => &self.post_stop,
        }
    }

    /// Every one with its stage and its place there.
    pub fn all(&self) -> impl Iterator<Item = (Stage, usize, &Hook)> {
        Stage::ALL
            .into_iter()
            .flat_map(|stage| self.of(stage).iter().enumerate().map(move |(n, hook)| (stage, n, hook)))
    }

    /// The main program comes after others.
    pub fn go_before(&self) -> bool {
        !self.condition.is_empty() || !self.pre_start.is_empty()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Some run on the host.
    pub fn has_privileged(&self) -> bool {
        self.all().any(|(_, _, hook)| hook.privileged)
    }
}
