//! The words of the machine: where a service stands, what can happen to it, what is to be done.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::policy::Rules;
use crate::spec::UnitName;

/// A point on CLOCK_MONOTONIC, in milliseconds; of use within one boot of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// The point `span` later; the end of time where that is out of range (`"infinity"`).
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Counts the launches of one service, from 1; never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a main process ended, as far as anybody knows.
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

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitKind::Code(code) => write!(f, "exit status {code}"),
            ExitKind::Signal(signal) => write!(f, "killed by {}", SignalName(*signal)),
            ExitKind::Core(signal) => write!(f, "killed by {}, core dumped", SignalName(*signal)),
            ExitKind::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// The name of a signal as signal(7) spells it, without the SIG; x86-64 and aarch64 agree on the numbers.
pub(super) fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    usize::try_from(signal - 1).ok().and_then(|at| NAMES.get(at)).copied()
}

struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match signal_name(self.0) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// Why a run came to its end by itself or ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The main process ended.
    Exit(ExitKind),
    /// The program was never executed; the supervisor keeps the fault.
    Launch(Retry),
    /// Not started within this time.
    StartTimeout(Duration),
    /// Still running after this time.
    RunTimeout(Duration),
    /// It ended well, but before it had said that it was ready.
    NotReady(ExitKind),
    /// A `post_start` command failed.
    Hook,
    /// It did not report to its watchdog in time.
    Watchdog,
    /// Its health checks failed.
    Unhealthy,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit(exit) => exit.fmt(f),
            End::Launch(_) => f.write_str("launch failed"),
            End::StartTimeout(limit) => {
                write!(f, "not started within {}", humantime::format_duration(*limit))
            }
            End::RunTimeout(limit) => write!(f, "still running after {}", humantime::format_duration(*limit)),
            End::NotReady(exit) => write!(f, "ended before it was ready: {exit}"),
            End::Hook => f.write_str("post_start command failed"),
            End::Watchdog => f.write_str("watchdog expired"),
            End::Unhealthy => f.write_str("unhealthy"),
        }
    }
}

/// Whether a launch that failed is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The host may recover (EAGAIN, ENOMEM, a port that is taken).
    Later,
    /// The same file would fail in the same way (ENOENT, EINVAL).
    Never,
}

/// Who wanted a service down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Somebody with the right to.
    User,
    /// The supervisor stops everything.
    Shutdown,
    /// Its file is gone.
    Removed,
    /// Another run of it is to go on in its place.
    Replaced,
    /// This service, which it requires, is taken down.
    Required(UnitName),
    /// This service, of which it is a part, is taken down.
    Whole(UnitName),
    /// This service, which it conflicts with, is started.
    Conflict(UnitName),
}

/// Why a service is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Nobody has started it yet.
    NeverStarted,
    /// It was wanted down.
    Asked(By),
    /// It ended with success, and the policy asks for no other run.
    Ended(ExitKind),
    /// A command of `service.condition` said that it is not to run now.
    Skipped,
    /// This of `unit.condition` did not hold.
    Unmet(String),
}

impl Why {
    /// It has had its turn, and was not to run.
    pub fn is_skipped(&self) -> bool {
        match self {
            Why::Skipped | Why::Unmet(_) => true,
            Why::NeverStarted | Why::Asked(_) | Why::Ended(_) => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NeverStarted => f.write_str("not started yet"),
            Why::Asked(By::User) => f.write_str("stopped by user"),
            Why::Asked(By::Shutdown) => f.write_str("stopped by shutdown"),
            Why::Asked(By::Removed) => f.write_str("stopped because its file is gone"),
            Why::Asked(By::Replaced) => f.write_str("stopped because another run has taken its place"),
            Why::Asked(By::Required(name)) => write!(f, "stopped together with {name}"),
            Why::Asked(By::Whole(name)) => write!(f, "stopped as a part of {name}"),
            Why::Asked(By::Conflict(name)) => write!(f, "stopped in favour of {name}"),
            Why::Ended(exit) => write!(f, "ended: {exit}"),
            Why::Skipped => f.write_str("skipped by a condition"),
            Why::Unmet(check) => write!(f, "skipped: {check} does not hold"),
        }
    }
}

/// Why a service has failed for good, that is until somebody starts it or its file changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// So it ended, and the policy asks for no other run.
    Ended(End),
    /// Another run would exceed `restart.max` within its window.
    StartLimit {
        /// Restarts allowed.
        max: u32,
        /// The window.
        within: Duration,
        /// What the last run ended with.
        last: End,
    },
    /// A service that it requires did not start.
    Dependency(UnitName),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Ended(end) => end.fmt(f),
            Failure::StartLimit { max, within, last } => {
                let within = humantime::format_duration(*within);
                write!(f, "start limit: {max} restarts within {within}, last: {last}")
            }
            Failure::Dependency(name) => write!(f, "dependency failed: {name}"),
        }
    }
}

/// What stands of a service that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// No sandbox; at most the network namespace is kept.
    Empty,
    /// The sandbox of this run, whose main process has ended (`restart.mode = "in-place"`).
    Standing(RunId),
}

/// How far a launch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing of the service was executed yet: nobody is there whom a polite signal would reach.
    Launching,
    /// The commands that go before the program run in the sandbox.
    Preparing,
    /// The program of a oneshot is at work, or that of a daemon has yet to say that it is ready.
    Executed,
    /// It is ready, and the commands that follow run.
    Settling,
}

/// The main process of a run that is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Main {
    /// Not known to have ended.
    Alive,
    /// As `Alive`; everything in the sandbox but its init was killed, so that `post_stop` can still run there.
    Killed,
    /// Ended; the commands of `post_stop` run in the sandbox.
    Hooks,
    /// Ended; others of the sandbox may live.
    Ended,
}

/// When everything left in the sandbox is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    /// Not at all (`stop.timeout = "infinity"`).
    Never,
    /// Then.
    At(Mono),
    /// It was; the kernel is at it.
    Sent,
}

/// Whether the network namespace outlives the run that is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// It does.
    Network,
    /// Nothing is kept: the new configuration asks for another network.
    Nothing,
}

/// Where a service goes when its sandbox is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// To [`State::Stopped`].
    Rest(Why),
    /// To [`State::Failed`].
    Fail(Failure),
    /// To [`State::Waiting`], for another run.
    Wait(Kept),
    /// To [`State::Backoff`], because of this end.
    Backoff(End),
    /// To [`State::Done`].
    Done,
}

/// For what a run was ended that would have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody, or what follows from others, wanted it down.
    Stop,
    /// Another run was to take its place: a restart, or a file that has changed.
    Restart,
    /// It had not started in time.
    StartTimeout,
    /// Its time was up.
    RunTimeout,
    /// A `post_start` command had failed.
    Hook,
    /// It did not report to its watchdog.
    Watchdog,
    /// Its health checks failed.
    Unhealthy,
}

impl Reason {
    /// The word, as in the JSON form.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Stop => "stop",
            Reason::Restart => "restart",
            Reason::StartTimeout => "start_timeout",
            Reason::RunTimeout => "run_timeout",
            Reason::Hook => "hook",
            Reason::Watchdog => "watchdog",
            Reason::Unhealthy => "unhealthy",
        }
    }

    /// For people, as "it was ended because".
    pub fn text(self) -> &'static str {
        match self {
            Reason::Stop => "it was to stop",
            Reason::Restart => "it was to be restarted",
            Reason::StartTimeout => "it had not started in time",
            Reason::RunTimeout => "its time was up",
            Reason::Hook => "a post_start command had failed",
            Reason::Watchdog => "it did not report to its watchdog",
            Reason::Unhealthy => "its health checks failed",
        }
    }

    fn of(end: End) -> Option<Self> {
        match end {
            End::Exit(_) | End::Launch(_) | End::NotReady(_) => None,
            End::StartTimeout(_) => Some(Reason::StartTimeout),
            End::RunTimeout(_) => Some(Reason::RunTimeout),
            End::Hook => Some(Reason::Hook),
            End::Watchdog => Some(Reason::Watchdog),
            End::Unhealthy => Some(Reason::Unhealthy),
        }
    }
}

/// Where a service stands. Whether it is wanted up lies in the variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Down, and well so. Nothing of it is left.
    Stopped(Why),
    /// Down, and wanted up in vain. Nothing of it is left.
    Failed(Failure),
    /// Wanted up; others go first.
    Waiting {
        /// What stands of it.
        site: Site,
    },
    /// A run was launched and has not started yet.
    Starting {
        /// Which.
        run: RunId,
        /// When it was launched.
        since: Mono,
        /// How far it has come.
        phase: Phase,
    },
    /// Started.
    Running {
        /// Which run.
        run: RunId,
        /// When it started.
        since: Mono,
    },
    /// Ended with success and counted as active (`remain_after_exit`). No sandbox is left.
    Done {
        /// Which run.
        run: RunId,
        /// When its sandbox was gone.
        since: Mono,
    },
    /// The sandbox is being brought down.
    Stopping {
        /// Whose.
        run: RunId,
        /// When the run started (was launched, if it never did).
        since: Mono,
        /// Whether the main process is known to have ended.
        main: Main,
        /// When patience ends.
        kill: Kill,
        /// What follows.
        then: Then,
    },
    /// Wanted up; the next run is due later.
    Backoff {
        /// When.
        until: Mono,
        /// What stands of it.
        site: Site,
        /// What the last run ended with.
        after: End,
    },
}

impl State {
    /// For what its run is being ended; none: it is not, or has ended by itself.
    pub fn ends_for(&self) -> Option<Reason> {
        let State::Stopping { then, .. } = self else { return None };
        match then {
            Then::Rest(Why::Asked(_)) => Some(Reason::Stop),
            Then::Wait(_) => Some(Reason::Restart),
            Then::Backoff(end) | Then::Fail(Failure::Ended(end) | Failure::StartLimit { last: end, .. }) => {
                Reason::of(*end)
            }
            Then::Rest(_) | Then::Fail(Failure::Dependency(_)) | Then::Done => None,
        }
    }

    /// One word for `list`, `status` and `events`.
    pub fn name(&self) -> &'static str {
        match self {
            State::Stopped(_) => "stopped",
            State::Failed(_) => "failed",
            State::Waiting { .. } => "waiting",
            State::Starting { .. } => "starting",
            State::Running { .. } => "active",
            State::Done { .. } => "done",
            State::Stopping { .. } => "stopping",
            State::Backoff { .. } => "backoff",
        }
    }

    /// Why it stands there, for people; empty where the state says all.
    pub fn reason(&self) -> String {
        match self {
            State::Stopped(why) | State::Stopping { then: Then::Rest(why), .. } => why.to_string(),
            State::Failed(failure) | State::Stopping { then: Then::Fail(failure), .. } => failure.to_string(),
            State::Stopping { then: Then::Wait(_), .. } => "restart".to_owned(),
            State::Stopping { then: Then::Backoff(end), .. } | State::Backoff { after: end, .. } => {
                end.to_string()
            }
            State::Stopping { then: Then::Done, .. }
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Done { .. } => String::new(),
        }
    }

    /// The run whose sandbox stands; reports about any other are stale.
    pub fn run(&self) -> Option<RunId> {
        match self {
            State::Starting { run, .. }
            | State::Running { run, .. }
            | State::Stopping { run, .. }
            | State::Waiting { site: Site::Standing(run) }
            | State::Backoff { site: Site::Standing(run), .. } => Some(*run),
            State::Stopped(_)
            | State::Failed(_)
            | State::Done { .. }
            | State::Waiting { site: Site::Empty }
            | State::Backoff { site: Site::Empty, .. } => None,
        }
    }

    /// The run whose main process is not known to have ended, and since when it runs.
    pub fn alive(&self) -> Option<(RunId, Mono)> {
        match self {
            State::Starting { run, since, .. }
            | State::Running { run, since }
            | State::Stopping { run, since, main: Main::Alive | Main::Killed, .. } => Some((*run, *since)),
            State::Stopping { main: Main::Ended | Main::Hooks, .. }
            | State::Stopped(_)
            | State::Failed(_)
            | State::Done { .. }
            | State::Waiting { .. }
            | State::Backoff { .. } => None,
        }
    }

    /// Down, with nothing under way.
    pub fn is_resting(&self) -> bool {
        match self {
            State::Stopped(_) | State::Failed(_) => true,
            State::Waiting { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Done { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => false,
        }
    }

    /// When patience with it ends, or its backoff.
    fn deadline(&self, rules: &Rules<'_>) -> Option<Mono> {
        match self {
            State::Starting { since, .. } => rules.start_timeout.map(|limit| since.after(limit)),
            State::Running { since, .. } => rules.run_timeout.map(|limit| since.after(limit)),
            State::Stopping { kill: Kill::At(at), .. } => Some(*at),
            State::Backoff { until, .. } => Some(*until),
            State::Stopping { kill: Kill::Never | Kill::Sent, .. }
            | State::Stopped(_)
            | State::Failed(_)
            | State::Waiting { .. }
            | State::Done { .. } => None,
        }
    }

    /// What may be carried out once more by a supervisor that takes over and cannot know whether it was.
    ///
    /// A launch is not among it: whether the sandbox stands is for the supervisor to find out, and to report.
    pub fn owed(&self) -> Vec<Action> {
        match self {
            State::Stopping { run, kill: Kill::Sent, .. } => vec![Action::KillTree(*run)],
            State::Stopping { run, kill: Kill::Never | Kill::At(_), main, .. } => vec![match main {
                Main::Alive | Main::Ended => Action::Terminate(*run),
                Main::Killed => Action::KillAll(*run),
                Main::Hooks => Action::PostStop(*run),
            }],
            State::Starting { run, phase: Phase::Settling, .. } => vec![Action::PostStart(*run)],
            State::Stopped(_) | State::Failed(_) => vec![Action::Release],
            State::Waiting { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Done { .. }
            | State::Backoff { .. } => Vec::new(),
        }
    }
}

/// The memory of automatic restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Automatic restarts in a row: since a start by the user, or a run that lived for `reset_after`.
    pub failures: u32,
    /// When automatic restarts were launched, within the window of `restart.max`; empty without one.
    pub restarts: Vec<Mono>,
}

/// All that the machine knows about one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Where it stands.
    pub state: State,
    /// The newest run, 0 before the first.
    pub last: RunId,
    /// Automatic restarts.
    pub tally: Tally,
    /// The service has asked for patience until then; of use in the state in which it asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended: Option<Mono>,
}

impl Life {
    /// A service that was never started.
    pub fn new() -> Self {
        let state = State::Stopped(Why::NeverStarted);
        Self { state, last: RunId(0), tally: Tally::default(), extended: None }
    }

    /// When an [`Event::Tick`] is due; until then nothing happens by itself.
    pub fn deadline(&self, rules: &Rules<'_>) -> Option<Mono> {
        let due = self.state.deadline(rules)?.max(self.extended.unwrap_or(Mono(0)));
        // Out of range is for ever.
        (due < Mono(u64::MAX)).then_some(due)
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

/// What can happen to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is wanted up. What was held against it is forgotten.
    Start,
    /// Whatever it had to wait for has come.
    Go,
    /// A service that it requires will not come.
    DependencyFailed(UnitName),
    /// It is wanted down.
    Stop(By),
    /// It is wanted down at once, without a word.
    ForceStop(By),
    /// It is wanted down and up again, in a new sandbox; up, where it is down.
    Restart,
    /// Its file has changed so that what runs now must be replaced; a stopped service stays stopped.
    SpecChanged(Kept),
    /// Time has passed.
    Tick,
    /// The sandbox stands, and the commands that go before the program run in it.
    Preparing(RunId),
    /// It is not to run now: this of `unit.condition` does not hold, or else a command of `service.condition` said so.
    Skipped(RunId, Option<String>),
    /// The program was executed.
    Started(RunId),
    /// It is ready: it said so, or was found to be.
    Ready(RunId),
    /// The program will not be executed. What stands of the run ends with [`Event::Gone`].
    LaunchFailed(RunId, Retry),
    /// The commands that were asked for by [`Action::PostStart`] or [`Action::PostStop`] are done, or those that went
    /// before the program were ended by [`Action::Terminate`].
    Finished(RunId),
    /// As `Finished`, and one of them has failed.
    HookFailed(RunId),
    /// It did not report to its watchdog in time.
    WatchdogExpired(RunId),
    /// Its health checks have failed as often as they may.
    Unhealthy(RunId),
    /// It asks for patience: no time-out before then.
    Extend(RunId, Mono),
    /// The main process has ended; the sandbox may stand.
    Exited(RunId, ExitKind),
    /// No process of the run is left.
    Gone(RunId),
}

impl Event {
    /// Which run it tells about.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Event::Preparing(run)
            | Event::Skipped(run, _)
            | Event::Started(run)
            | Event::Ready(run)
            | Event::LaunchFailed(run, _)
            | Event::Finished(run)
            | Event::HookFailed(run)
            | Event::WatchdogExpired(run)
            | Event::Unhealthy(run)
            | Event::Extend(run, _)
            | Event::Exited(run, _)
            | Event::Gone(run) => Some(*run),
            Event::Start
            | Event::Go
            | Event::DependencyFailed(_)
            | Event::Stop(_)
            | Event::ForceStop(_)
            | Event::Restart
            | Event::SpecChanged(_)
            | Event::Tick => None,
        }
    }
}

/// What the supervisor has to do. To do one of them twice, or for a run that is gone, must be harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a sandbox and start the program in it. Answered by `Started` or `LaunchFailed`, and in the end by `Gone`.
    Launch(RunId),
    /// Kill what is left in the sandbox of another run and start the program in it again; from now on the sandbox
    /// belongs to `run`. Answered as `Launch` is.
    RelaunchInPlace {
        /// The new run.
        run: RunId,
        /// The run that made the sandbox or had it last.
        sandbox: RunId,
    },
    /// Run the commands of `post_start`. Answered by `Finished` or `HookFailed`.
    PostStart(RunId),
    /// Ask it to stop in the way of `service.stop`: command or signal, to whom `stop.mode` says. Commands that go before
    /// the program get the signal, and their end is answered by `Finished`.
    Terminate(RunId),
    /// SIGABRT to the main process, which is asked to stop and to leave a trace of where it hangs.
    Abort(RunId),
    /// SIGKILL to every process of the sandbox but its init. Answered by `Exited`.
    KillAll(RunId),
    /// Run the commands of `post_stop` in what stands of the sandbox. Answered by `Finished` or `HookFailed`.
    PostStop(RunId),
    /// SIGKILL to every process of the sandbox, its init included. Answered by `Gone`.
    KillTree(RunId),
    /// Undo the host steps of the run, cgroup included; not what is kept between runs. Once for each `Launch`.
    Teardown(RunId),
    /// Nothing is kept any longer: network namespace, link, ports, held descriptors.
    Release,
}
