//! The commands around a main program: which is next, and what the end of one means. Pure.
//!
//! As systemd has it. One after another, in the order of the file; a failure that is not ignored leaves out those that
//! follow. A condition that ends with 1 to 254 says no, with 255 or by a signal it has failed.

use serde::{Deserialize, Serialize};

use super::{Cause, End, ExitKind, Rules, state::signal_name};
use crate::spec::{Hooks, Stage};

/// Which command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When it runs.
    pub stage: Stage,
    /// Its place in the list, from 0; behind the last, all of them are done.
    pub place: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This command.
    Run(Progress),
    /// Nothing: all of the stage are done. Of those before the main program, that is next.
    Done,
    /// Nothing: the service is not to run now.
    Skip,
    /// Nothing: the command has failed.
    Fail,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEnd {
    /// By itself.
    Exit(ExitKind),
    /// It took too long, and was killed.
    TimedOut,
    /// It was not executed.
    NotExecuted,
}

impl Progress {
    /// The beginning of a stage; of those before the main program, of the first that the service has.
    pub fn first(stage: Stage) -> Self {
        Self { stage, place: 0 }
    }

    /// This command, or whatever comes in its place where the list has become shorter meanwhile.
    pub fn next(self, hooks: &Hooks) -> Next {
        match self {
            _ if self.place < hooks.of(self.stage).len() => Next::Run(self),
            Self { stage: Stage::Condition, .. } => Self::first(Stage::PreStart).next(hooks),
            Self { stage: Stage::PreStart | Stage::PostStart | Stage::PreStop | Stage::PostStop, .. } => {
                Next::Done
            }
        }
    }

    /// What follows the end of this command.
    pub fn after(self, hooks: &Hooks, end: HookEnd) -> Next {
        let ignored = hooks.of(self.stage).get(self.place).is_some_and(|hook| hook.ignore_failure);
        match (self.stage, end) {
            (_, HookEnd::Exit(ExitKind::Code(0))) => {}
            _ if ignored => {}
            (Stage::Condition, HookEnd::Exit(ExitKind::Code(1..=254))) => return Next::Skip,
            _ => return Next::Fail,
        }
        Self { place: self.place + 1, ..self }.next(hooks)
    }
}

/// What `post_stop` and `pre_stop` are told in their environment, as systemd.exec(5) has it: SERVICE_RESULT, and of a main
/// process that has ended EXIT_CODE and EXIT_STATUS.
pub fn result(
    rules: &Rules<'_>,
    end: Option<End>,
    exit: Option<ExitKind>,
    cause: Option<Cause>,
) -> Vec<(&'static str, String)> {
    let of_exit = |exit: ExitKind| match exit {
        exit if rules.is_success(exit) => "success",
        _ if cause.is_some() => "oom-kill",
        ExitKind::Code(_) => "exit-code",
        ExitKind::Signal(_) => "signal",
        ExitKind::Core(_) => "core-dump",
        ExitKind::Unknown => "resources",
    };
    let result = match end {
        None => exit.map_or("success", of_exit),
        Some(End::Exit(exit)) => of_exit(exit),
        Some(End::Launch(_)) => "resources",
        Some(End::StartTimeout(_) | End::RunTimeout(_)) => "timeout",
        Some(End::NotReady(_)) => "protocol",
        Some(End::Hook) => "exit-code",
        Some(End::Watchdog) => "watchdog",
        // systemd has no health checks: a word of our own.
        Some(End::Unhealthy) => "unhealthy",
    };
    let mut all = vec![("SERVICE_RESULT", result.to_owned())];
    let named = |signal: i32| signal_name(signal).map_or_else(|| signal.to_string(), str::to_owned);
    let told = match exit {
        Some(ExitKind::Code(code)) => Some(("exited", code.to_string())),
        Some(ExitKind::Signal(signal)) => Some(("killed", named(signal))),
        Some(ExitKind::Core(signal)) => Some(("dumped", named(signal))),
        Some(ExitKind::Unknown) | None => None,
    };
    if let Some((code, status)) = told {
        all.extend([("EXIT_CODE", code.to_owned()), ("EXIT_STATUS", status)]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::fleet::sample, spec::Hook};

    fn hook(ignore_failure: bool) -> Hook {
        let command = vec!["/bin/true".to_owned()];
        Hook { command, user: None, ignore_failure, privileged: false, timeout: None }
    }

    fn hooks() -> Hooks {
        Hooks {
            condition: vec![hook(false)],
            pre_start: vec![hook(false), hook(true)],
            post_stop: vec![hook(false)],
            ..Hooks::default()
        }
    }

    const WELL: HookEnd = HookEnd::Exit(ExitKind::Code(0));

    #[test]
    fn they_run_one_after_another_and_the_main_program_is_next() {
        let hooks = hooks();
        let mut next = Progress::first(Stage::Condition).next(&hooks);
        let mut ran = Vec::new();
        while let Next::Run(at) = next {
            ran.push((at.stage, at.place));
            next = at.after(&hooks, WELL);
        }
        assert_eq!(ran, [(Stage::Condition, 0), (Stage::PreStart, 0), (Stage::PreStart, 1)]);
        assert_eq!(next, Next::Done);
        assert_eq!(Progress::first(Stage::PostStart).next(&hooks), Next::Done, "there are none");
        let gone = Progress { stage: Stage::PostStop, place: 7 };
        assert_eq!(gone.next(&hooks), Next::Done, "the list has become shorter");
    }

    #[test]
    fn a_condition_says_no_or_fails_as_with_systemd() {
        let hooks = hooks();
        let at = Progress::first(Stage::Condition);
        for code in [1, 2, 254] {
            assert_eq!(at.after(&hooks, HookEnd::Exit(ExitKind::Code(code))), Next::Skip, "{code}");
        }
        let failures = [
            HookEnd::Exit(ExitKind::Code(255)),
            HookEnd::Exit(ExitKind::Signal(9)),
            HookEnd::Exit(ExitKind::Core(6)),
            HookEnd::Exit(ExitKind::Unknown),
            HookEnd::TimedOut,
            HookEnd::NotExecuted,
        ];
        for end in failures {
            assert_eq!(at.after(&hooks, end), Next::Fail, "{end:?}");
            let second = Progress { stage: Stage::PreStart, place: 1 };
            assert_eq!(second.after(&hooks, end), Next::Done, "{end:?} is ignored");
        }
        let first = Progress::first(Stage::PreStart);
        assert_eq!(first.after(&hooks, HookEnd::Exit(ExitKind::Code(1))), Next::Fail);
    }

    #[test]
    fn what_post_stop_is_told_is_what_systemd_tells() {
        let unit = sample::unit("web", &[]);
        let rules = Rules::of(&unit, 0);
        let told = |end, exit, cause| {
            let all = result(&rules, end, exit, cause);
            all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let exit = |exit| told(Some(End::Exit(exit)), Some(exit), None);
        assert_eq!(told(None, None, None), "SERVICE_RESULT=success");
        let asked = told(None, Some(ExitKind::Signal(15)), None);
        assert_eq!(asked, "SERVICE_RESULT=success EXIT_CODE=killed EXIT_STATUS=TERM");
        assert_eq!(exit(ExitKind::Code(3)), "SERVICE_RESULT=exit-code EXIT_CODE=exited EXIT_STATUS=3");
        assert_eq!(exit(ExitKind::Core(6)), "SERVICE_RESULT=core-dump EXIT_CODE=dumped EXIT_STATUS=ABRT");
        assert_eq!(exit(ExitKind::Unknown), "SERVICE_RESULT=resources");
        let killed = told(None, Some(ExitKind::Signal(9)), Some(Cause::MemoryMax));
        assert_eq!(killed, "SERVICE_RESULT=oom-kill EXIT_CODE=killed EXIT_STATUS=KILL");
        assert_eq!(told(Some(End::Watchdog), None, None), "SERVICE_RESULT=watchdog");
    }
}
