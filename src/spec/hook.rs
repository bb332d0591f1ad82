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

    /// The variables that a command of this stage is told, and that are not known before.
    pub fn told(self) -> &'static [&'static str] {
        match self {
            Stage::Condition | Stage::PreStart => &[],
            Stage::PostStart => &["MAINPID"],
            Stage::PreStop => &["MAINPID", "SERVICE_RESULT"],
            Stage::PostStop => &["SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"],
        }
    }

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

/// What stands in a command for a variable that is known when it runs.
pub fn later(name: &str) -> String {
    format!("{LATER}{name}{LATER}")
}

/// No word of a file has a reason to hold it.
const LATER: char = '\u{1}';

impl Hook {
    /// argv with what the command is told; a word that is a variable without a value is left out, as with systemd.
    pub fn argv(&self, told: &[(&'static str, String)]) -> Vec<String> {
        let names = Stage::ALL.into_iter().flat_map(Stage::told);
        let value = |name: &str| told.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        let known: BTreeMap<String, &str> = names.map(|name| (later(name), value(name))).collect();
        let word = |word: &String| {
            let said = known.iter().fold(word.clone(), |word, (name, value)| word.replace(name, value));
            (!said.is_empty() || !word.contains(LATER)).then_some(said)
        };
        self.command.iter().filter_map(word).collect()
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.command.join(" ");
        for name in Stage::ALL.into_iter().flat_map(Stage::told) {
            line = line.replace(&later(name), &format!("${name}"));
        }
        f.write_str(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_later_comes_into_the_command_later() {
        let words = ["/bin/kill", "-HUP", &later("MAINPID"), &format!("pid={}", later("MAINPID"))];
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        let hook = Hook { command, user: None, ignore_failure: false, privileged: false, timeout: None };
        assert_eq!(hook.to_string(), "/bin/kill -HUP $MAINPID pid=$MAINPID");
        let told = [("MAINPID", "7".to_owned())];
        assert_eq!(hook.argv(&told), ["/bin/kill", "-HUP", "7", "pid=7"]);
        assert_eq!(hook.argv(&[]), ["/bin/kill", "-HUP", "pid="]);
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
