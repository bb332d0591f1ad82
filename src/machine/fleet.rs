//! Many services: who goes first, who goes with whom, what a new set of files changes. Pure, as
//! [`super::step`] is.
//!
//! # Specification
//! Each [`Entry`] has a [`Goal`] beside its life: what somebody last asked for and what the machine was not
//! told yet, because others go first. [`Fleet::apply`] takes in one thing that happened, sets goals, and then
//! *settles*: it tells the machines whatever is due, until nothing is due any more.
//!
//! *Up.* `Start` also starts what a service needs (`requires`, `binds_to`, whose namespaces it joins), `wants` and
//! `upholds`. A Waiting service gets its `Go` when everything it needs is ready and nothing that it comes `after`,
//! by its own word or by the other's `before`, is on its way to the milestone that is waited for. A oneshot is all
//! of started, ready and healthy when it ended with success. When a needed service is down and not on its way up,
//! the service fails with "dependency failed"; it waits again as soon as that one is started. A required service
//! that crashes and is restarted leaves those that run alone; one that is launched meanwhile waits for it. Only
//! who has joined a namespace of its sandbox, which is gone, is restarted after it. No more than
//! [`Fleet::set_parallel_starts`] says are on their way up at the same time; a oneshot at work does not count.
//!
//! *Down.* When somebody stops or restarts a service, everything up that needs it or is a part of it goes down with
//! it (and after a restart comes up again). Who went down only because of one that it needs comes back when that
//! one is started again, for whatever reason; a part does not. Of those that go down, whoever needs another or comes
//! after it is gone before that one is asked to stop. `Shutdown` stops everything in this order; the second kills
//! everything at once.
//!
//! *Bound.* Who `binds_to` another is up only while that one is: it is told to go at the first word of the other's
//! end, waits where the other is restarted, rests where it is not, and comes back with it.
//!
//! *Conflicts.* Of two that conflict, whoever says so, the one that is started takes the other down, and is launched
//! when that one's sandbox is gone. Where both were asked for by one input, or where files say so of two that are up,
//! the one whose file says it stays; where both say it, the first by name.
//!
//! *Upheld.* What a service `upholds` is started again whenever it rests while that one is up, after the delay that
//! `[restart]` of its own file gives for so many times in a row; not where it conflicts with one that is up, and not
//! where it misses another, with which it comes.
//!
//! *Calls.* A service that has failed starts those of `on_failure`, one that ended with success those of
//! `on_success`; not one that was to go down anyway, and not, of those that miss one that they need, what they need.
//! What an end brings about is written down before the end is ([`Touched`]): no call is lost with the supervisor.
//!
//! *Reload.* [`diff()`] tells what a new file changes: nothing, something that the machine reads anyway, or
//! something that needs another sandbox. Only in the last case is the service restarted, and it alone. A
//! service whose file is gone is stopped and forgotten. A service that is new, or newly enabled, is started.
//! A stopped service stays stopped.
//!
//! *Timers.* A service with `[timer]` is not started at boot, nor when it is new or newly enabled: its timer comes into
//! force instead, and starts it as a user would ([`super::timer`]). Where it runs at that moment, `overlap` decides.
//!
//! *Rollout.* With `service.rollout = "blue-green"` a restart of a service that runs brings the next run up beside the old
//! one; see [`rollout`].
//!
//! *Connections.* A service with `socket.accept` is never launched itself; see [`connections`].
//!
//! *Cycles* are refused when files are loaded. Were one to come here, one of its edges would be ignored, so
//! that nothing waits for ever.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Action, By, Cause, End, Event, ExitKind, Failure, Kept, Life, Mono, Phase, Reason, Retry, Rules, RunId,
    State, Then, Usage, Why,
    health::{Answer, Health, HealthState},
    step,
    timer::{Clocks, Progress, Stamp},
};
use crate::calendar::Zones;
use crate::spec::{Kind, Milestone, Unit, UnitName};

mod bonds;
pub mod connections;
mod demand;
mod diff;
mod entries;
mod preview;
pub mod rollout;
#[cfg(test)]
pub(super) mod sample;
#[cfg(test)]
mod tests;
mod timers;
mod touched;
mod verbs;

use bonds::{Bonds, Verdict};
pub use connections::Connection;
pub use demand::Demand;
pub use diff::{Change, Diff, diff};
use entries::Entries;
pub use preview::{How, Planned};
pub use rollout::Role;
pub use touched::Touched;

/// How many past runs an entry remembers.
pub const HISTORY: usize = 20;

/// One run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Which.
    pub run: RunId,
    /// When it started, or was launched if it never did.
    pub started: Mono,
    /// When its main process ended.
    pub ended: Mono,
    /// How: [`End::Exit`] or [`End::Launch`].
    pub end: End,
    /// What it took, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Usage>,
    /// Why the kernel ended it, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// For what it was ended, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Reason>,
}

/// What is wanted of a service and was not carried to its machine yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// What the machine does by itself is right.
    Up,
    /// Down and up again, on request.
    Restart,
    /// Down and up again, because the file has changed.
    Renew(Kept),
    /// Down; stays so until somebody starts it.
    Down(By),
}

/// One service: all that has to survive the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its configuration, of the next launch at the latest.
    pub unit: Unit,
    /// Where it stands.
    pub life: Life,
    /// Since when.
    pub since: Mono,
    /// What is wanted.
    pub goal: Goal,
    /// Its last runs, the oldest first; at most [`HISTORY`].
    pub history: Vec<Past>,
    /// What the last launch that failed had to say; cleared by the next start.
    pub fault: Option<String>,
    /// What a connection does while it is down.
    #[serde(default)]
    pub demand: Demand,
    /// Which of two runs it is about.
    #[serde(default)]
    pub role: Role,
    /// Why the run that was to take the place of this one did not, as long as that is the last word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
    /// When connections have started it of late.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    calls: Vec<Mono>,
    /// What its checks have found, of the newest run that was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
    /// How often in a row it was started because another upholds it.
    #[serde(default, skip_serializing_if = "is_zero")]
    upheld: u32,
    /// What a run took of which the end was not told yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<(RunId, Usage, Option<Cause>)>,
    /// How far its timer has come, where it has one and it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<Progress>,
}

impl Entry {
    fn new(unit: Unit, now: Mono) -> Self {
        let (life, history) = (Life::new(), Vec::new());
        Self {
            unit,
            life,
            since: now,
            goal: Goal::Up,
            history,
            fault: None,
            demand: Demand::No,
            role: Role::Own,
            rolled_back: None,
            calls: Vec::new(),
            health: None,
            upheld: 0,
            used: None,
            timer: None,
        }
    }

    /// Nothing asked for is outstanding: it is up, at rest, or stands where only time or another service moves it.
    pub fn is_settled(&self) -> bool {
        let arrived = match &self.life.state {
            State::Stopped(_)
            | State::Failed(_)
            | State::Running { .. }
            | State::Done { .. }
            | State::Backoff { .. } => true,
            State::Waiting { .. } | State::Starting { .. } | State::Stopping { .. } => false,
        };
        let asked = match &self.goal {
            Goal::Up => false,
            Goal::Restart | Goal::Renew(_) => true,
            Goal::Down(_) => !self.life.state.is_resting(),
        };
        arrived && !asked
    }

    /// What the checks of the run that is up have found.
    pub fn health(&self) -> Option<&Health> {
        let State::Running { run, .. } = &self.life.state else { return None };
        self.health.as_ref().filter(|health| health.run == *run && self.unit.health.is_some())
    }

    /// Takes the answer to a check in. What it makes of the run that is up, where that is something else than before.
    fn note_check(&mut self, of: RunId, answer: Answer, now: Mono) -> Option<HealthState> {
        let State::Running { run, since } = self.life.state else { return None };
        let check = self.unit.health.as_ref().filter(|_| run == of)?;
        let health = self.health.take().filter(|health| health.run == run);
        let health = self.health.insert(health.unwrap_or_else(|| Health::new(run, since)));
        health.note(check, since, now, answer)
    }

    /// Puts runs of a twin down among its own.
    fn remember(&mut self, past: Vec<Past>) {
        self.history.extend(past);
        self.history.sort_by_key(|past| past.run);
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }

    fn note_usage(&mut self, run: RunId, used: Usage, cause: Option<Cause>) {
        match self.history.iter_mut().rev().find(|past| past.run == run) {
            Some(past) => (past.used, past.cause) = (Some(used), past.cause.or(cause)),
            None => self.used = Some((run, used, cause)),
        }
    }

    /// Those without which it is not launched: `requires`, `binds_to`, and the owners of namespaces that it joins.
    fn needs(&self) -> impl Iterator<Item = &UnitName> {
        self.unit
            .requires
            .iter()
            .chain(&self.unit.binds_to)
            .chain(self.joined())
            .chain(self.unit.network.joined())
    }

    /// The owners of namespaces that it joins.
    fn joined(&self) -> impl Iterator<Item = &UnitName> {
        self.unit.namespaces.joined()
    }

    /// Whether it has come as far as `milestone`, and nobody wants it back.
    fn reached(&self, milestone: Milestone) -> bool {
        let done = matches!(self.life.state, State::Done { .. } | State::Stopped(Why::Ended(_)));
        if self.unit.accepts() {
            return self.is_accepting();
        }
        self.goal == Goal::Up
            && match (self.unit.service.kind, milestone) {
                (Kind::Oneshot, _) | (_, Milestone::Done) => done,
                (_, Milestone::Started) => self.is_up() || self.is_executed(),
                (_, Milestone::Ready) => self.is_up(),
                (_, Milestone::Healthy) => {
                    let passed = self.health().is_some_and(|health| health.verdict == HealthState::Healthy);
                    self.is_up() && (passed || self.unit.health.is_none())
                }
            }
    }

    fn is_up(&self) -> bool {
        matches!(self.life.state, State::Running { .. } | State::Done { .. })
    }

    /// Its program runs, and is not known to be ready.
    fn is_executed(&self) -> bool {
        match &self.life.state {
            State::Starting { phase, .. } => match phase {
                Phase::Executed | Phase::Settling => true,
                Phase::Launching | Phase::Preparing => false,
            },
            State::Stopped(_)
            | State::Failed(_)
            | State::Waiting { .. }
            | State::Running { .. }
            | State::Done { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => false,
        }
    }

    /// Whether it takes one of the places for those on their way up. A oneshot at work has come as far as it will for a
    /// long time.
    fn is_being_started(&self) -> bool {
        let is_at_work = self.unit.service.kind == Kind::Oneshot && self.is_executed();
        matches!(self.life.state, State::Starting { .. }) && !is_at_work
    }

    /// Whether it is up or on its way up.
    fn is_coming(&self) -> bool {
        !matches!(self.goal, Goal::Down(_)) && !self.life.state.is_resting()
    }

    /// As `is_coming`, and what is under way does not end with it at rest.
    fn is_rising(&self) -> bool {
        let rests = matches!(self.life.state, State::Stopping { then: Then::Rest(_) | Then::Fail(_), .. });
        self.is_coming() && !rests
    }

    /// Whether it has a sandbox, and is to lose it.
    fn is_leaving(&self) -> bool {
        let stopping = matches!(self.life.state, State::Stopping { .. });
        stopping || (self.goal != Goal::Up && self.life.state.run().is_some())
    }
}

/// Something that happened, as the supervisor tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The supervisor is up: start what is enabled and was never started, or was stopped by a shutdown.
    Boot,
    /// Somebody wants these up.
    Start(Vec<UnitName>),
    /// Somebody wants these down.
    Stop(Vec<UnitName>),
    /// Somebody wants these down and up again.
    Restart(Vec<UnitName>),
    /// What was held against these is forgotten.
    Forgive(Vec<UnitName>),
    /// Somebody has connected to a socket of a service that is down.
    Demand(UnitName),
    /// Somebody has connected to a service that is a run for each connection.
    Connected(Connection),
    /// Everything goes down; the second time without being asked.
    Shutdown,
    /// The files were read again; this is all there is now.
    Reload(BTreeMap<UnitName, Unit>),
    /// News of a run of this service.
    Report(UnitName, Report),
    /// Time has passed.
    Tick,
    /// What time it is, for those who go by civil time, with the stamps of new timers that have one.
    Clock(Clocks, BTreeMap<UnitName, Stamp>),
}

/// News of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The sandbox stands, and the commands that go before the program run.
    Preparing(RunId),
    /// A command of `service.condition` said no, or this of `unit.condition` does not hold.
    Skipped(RunId, Option<String>),
    /// The program was executed.
    Started(RunId),
    /// It is ready.
    Ready(RunId),
    /// The program will not be executed; what went wrong, in words. [`Report::Gone`] is to follow.
    LaunchFailed(RunId, Retry, String),
    /// The commands that were asked for are done.
    Finished(RunId),
    /// One of them has failed; what went wrong, in words.
    HookFailed(RunId, String),
    /// It did not report to its watchdog in time.
    WatchdogExpired(RunId),
    /// How a check of its health has gone.
    Checked(RunId, Answer),
    /// It asks for patience until then.
    Extend(RunId, Mono),
    /// The main process has ended.
    Exited(RunId, ExitKind),
    /// What the run has taken so far; told just before its end, and again when the last of its processes has gone.
    Used(RunId, Usage, Option<Cause>),
    /// No process of the run is left.
    Gone(RunId),
}

impl Report {
    /// Which run it tells about.
    fn run(&self) -> RunId {
        match self {
            Report::Preparing(run)
            | Report::Skipped(run, _)
            | Report::Started(run)
            | Report::Ready(run)
            | Report::LaunchFailed(run, ..)
            | Report::Finished(run)
            | Report::HookFailed(run, _)
            | Report::WatchdogExpired(run)
            | Report::Checked(run, _)
            | Report::Extend(run, _)
            | Report::Exited(run, _)
            | Report::Used(run, ..)
            | Report::Gone(run) => *run,
        }
    }
}

/// One thing to be done for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Which service.
    pub name: UnitName,
    /// What.
    pub action: Action,
}

/// One line for the log and for `events`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    /// Which service.
    pub name: UnitName,
    /// When.
    pub at: Mono,
    /// What.
    #[serde(flatten)]
    pub news: News,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum News {
    /// It went from one state to another.
    State {
        /// See [`State::name`].
        from: &'static str,
        /// See [`State::name`].
        to: &'static str,
        /// Why; empty where there is nothing to add. For `waiting`: for whom.
        reason: String,
        /// The newest run; 0 before the first.
        run: RunId,
        /// In backoff: when the next run is due.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Mono>,
        /// In backoff: which automatic restart in a row this will be.
        #[serde(skip_serializing_if = "is_zero")]
        failures: u32,
    },
    /// A run is over.
    Ended(Past),
    /// Its checks add up to something else than before.
    Health {
        /// Which run.
        run: RunId,
        /// To what.
        state: HealthState,
        /// What the check had to say.
        text: String,
    },
    /// It did not stop in time, and was killed.
    Killed {
        /// Which run.
        run: RunId,
    },
    /// Another run comes up beside this one, which it is to replace.
    RollsOut {
        /// Which run is to be replaced.
        old: Option<RunId>,
    },
    /// It has come up, and this is the service now; the old one is stopped.
    ChangedPlaces {
        /// The service's.
        run: Option<RunId>,
        /// The one that goes.
        old: Option<RunId>,
    },
    /// It has not come up, and the old one stays.
    RolledBack {
        /// Which run has failed.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// Connections have started it too often in too short a time: nobody listens for it any more.
    Tripped,
    /// The clock wanted it started.
    Elapsed {
        /// What came of that.
        taken: Taken,
    },
    /// Its file has changed.
    Changed(Diff),
    /// It has a file now.
    Added,
    /// Its file is gone, and so is the service.
    Removed,
}

/// What an elapsed timer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// It started the service.
    Started,
    /// Nothing, for the service still runs.
    Skipped,
    /// It will, when the run has ended.
    Queued,
    /// It stops the run, and starts another.
    Restarted,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What [`Fleet::apply`] answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Services of which all that belongs to a run changes places with what their twin has, before anything else is done.
    pub swapped: Vec<UnitName>,
    /// To be carried out in this order, after `touched` was persisted in its own.
    pub effects: Vec<Effect>,
    /// To be told, in this order.
    pub notices: Vec<Notice>,
    /// Entries that are not what they were; those that [`Fleet::entry`] no longer knows are to be forgotten.
    pub touched: Touched,
}

/// All services of one supervisor.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    seed: u64,
    entries: Entries,
    shutdown: Shutdown,
    /// How many may be on their way up at the same time; none is no bound.
    parallel_starts: Option<usize>,
    /// Derived from `entries`.
    bonds: Bonds,
    /// Who is to be started because of how another ended, which comes first; empty between two inputs.
    called: Vec<(UnitName, UnitName)>,
    /// What calendars are read by.
    zones: Zones,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    No,
    Asked,
}

impl Fleet {
    /// No services yet; `seed` varies the jitter of all of them.
    pub fn new(seed: u64) -> Self {
        Self::restore(seed, [])
    }

    /// Takes over from the supervisor that persisted `entries` during this boot of the host.
    ///
    /// Times stay valid, and nothing is decided. Feed what became of every run in [`State::run`] first, carry out
    /// [`State::owed`] for those that stand, then `Reload` with the files as they are now, then [`Input::Boot`].
    pub fn restore(seed: u64, entries: impl IntoIterator<Item = Entry>) -> Self {
        let entries = Entries::restore(entries, seed);
        let (bonds, zones) = (Bonds::of(&entries), Zones::utc());
        let (shutdown, parallel_starts, called) = (Shutdown::No, None, Vec::new());
        Self { seed, entries, shutdown, parallel_starts, bonds, called, zones }
    }

    /// At most `limit` services are on their way up at the same time; the others wait for them. None is no bound.
    pub fn set_parallel_starts(&mut self, limit: Option<usize>) {
        self.parallel_starts = limit.map(|limit| limit.max(1));
    }

    /// The services by name.
    pub fn entries(&self) -> &BTreeMap<UnitName, Entry> {
        &self.entries
    }

    /// One of them.
    pub fn entry(&self, name: &UnitName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Those that have something to wait for beside news of them, checks and watchdogs among it; maybe more.
    pub fn stirring(&self) -> impl Iterator<Item = &Entry> {
        self.entries.stirring()
    }

    /// When the next [`Input::Tick`] is due; none where only reports and requests move anything.
    pub fn deadline(&self) -> Option<Mono> {
        let due = |entry| self.due(entry).into_iter().chain(self.timer_due(entry));
        let upheld = self.bonds.upheld().filter_map(|name| self.uphold_due(self.entries.get(name)?));
        self.entries.stirring().flat_map(due).chain(upheld).min()
    }

    /// Everything is down: after a shutdown the supervisor may go.
    pub fn is_resting(&self) -> bool {
        self.entries.values().all(|entry| entry.life.state.is_resting())
    }

    /// For whom a Waiting service waits; empty for any other.
    pub fn waits_for(&self, name: &UnitName) -> Vec<UnitName> {
        match self.entry(name) {
            Some(entry) if matches!(entry.life.state, State::Waiting { .. }) => {
                let mut names = self.missing(entry);
                if names.is_empty() {
                    names = self.crowd().cloned().collect();
                }
                names.sort();
                names.dedup();
                names
            }
            _ => Vec::new(),
        }
    }

    /// Takes in what happened at `now` and works out everything that follows from it.
    ///
    /// Names that no file has are passed over: whoever asks checks them first.
    pub fn apply(&mut self, input: Input, now: Mono) -> Outcome {
        let mut out = Outcome::default();
        match input {
            Input::Boot => self.boot(now, &mut out),
            Input::Start(names) => self.start(&names, now, &mut out),
            Input::Stop(names) => self.stop(&names, &By::User, &mut out),
            Input::Restart(names) => self.restart(&names, now, &mut out),
            Input::Forgive(names) => self.forgive(&names, now, &mut out),
            Input::Demand(name) => self.demanded(&name, now, &mut out),
            Input::Connected(connection) => self.connected(connection, now, &mut out),
            Input::Shutdown => self.shut_down(now, &mut out),
            Input::Reload(units) => self.reload(units, now, &mut out),
            Input::Report(name, report) => self.report(&name, report, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
            Input::Clock(clocks, stamps) => self.clock(clocks, stamps, now, &mut out),
        }
        self.settle(now, &mut out);
        while self.start_the_queued(now, &mut out) {
            self.settle(now, &mut out);
        }
        self.name_the_awaited(&mut out);
        self.entries.calm_down(self.seed);
        out
    }

    fn report(&mut self, name: &UnitName, report: Report, now: Mono, out: &mut Outcome) {
        let name = &self.holder(name, report.run());
        let Some(entry) = self.entries.get_mut(name) else { return };
        let event = match report {
            Report::Used(run, used, cause) => {
                entry.note_usage(run, used, cause);
                out.touched.insert(name.clone());
                return;
            }
            Report::Preparing(run) => Event::Preparing(run),
            Report::Skipped(run, unmet) => Event::Skipped(run, unmet),
            Report::Started(run) => Event::Started(run),
            Report::Ready(run) => Event::Ready(run),
            Report::Finished(run) => Event::Finished(run),
            Report::WatchdogExpired(run) => Event::WatchdogExpired(run),
            Report::Checked(run, answer) => match checked(entry, run, answer, now, out) {
                Some(event) => event,
                None => return,
            },
            Report::Extend(run, until) => Event::Extend(run, until),
            Report::Exited(run, exit) => Event::Exited(run, exit),
            Report::Gone(run) => Event::Gone(run),
            Report::LaunchFailed(run, retry, fault) => {
                note_fault(entry, run, fault, out);
                Event::LaunchFailed(run, retry)
            }
            Report::HookFailed(run, fault) => {
                note_fault(entry, run, fault, out);
                Event::HookFailed(run)
            }
        };
        let is_gone = matches!(event, Event::Gone(_)) && event.run() == entry.life.state.run();
        self.deliver(name, event, now, out);
        // Of a run that never took the place of another nobody has anything.
        if is_gone && !(name.is_twin() && self.entries.get(name).is_some_and(|twin| twin.role == Role::Next))
        {
            let owner = name.base();
            self.follow(|entry| entry.joined().any(|name| *name == owner), out);
        }
    }

    /// A sandbox, or a network, is gone: who has joined a namespace of it shares that with nobody any more, and follows into
    /// the next.
    fn follow(&mut self, has_joined: impl Fn(&Entry) -> bool, out: &mut Outcome) {
        let is_left = |entry: &&Entry| {
            has_joined(entry)
                && entry.goal == Goal::Up
                && matches!(entry.life.state, State::Starting { .. } | State::Running { .. })
        };
        let left: Vec<UnitName> =
            self.entries.values().filter(is_left).map(|entry| entry.unit.name.clone()).collect();
        for name in left {
            self.aim(&name, Goal::Restart, out);
        }
    }

    fn tick(&mut self, now: Mono, out: &mut Outcome) {
        let due: Vec<UnitName> = self
            .entries
            .stirring()
            .filter(|entry| self.due(entry).is_some_and(|at| at <= now))
            .map(|entry| entry.unit.name.clone())
            .collect();
        for name in due {
            self.deliver(&name, Event::Tick, now, out);
        }
        self.elapse_the_due(now, out);
    }

    fn due(&self, entry: &Entry) -> Option<Mono> {
        entry.life.deadline(&Rules::of(&entry.unit, self.seed))
    }

    /// Tells the machines what is due until nothing is.
    fn settle(&mut self, now: Mono, out: &mut Outcome) {
        let mut answered = BTreeSet::new();
        // More than any story takes: each pass moves somebody on, and nobody goes round in a circle.
        let passes = 16 * (self.entries.len() + 4);
        for pass in 0..=passes {
            debug_assert!(pass < passes, "no end of settling: {:?}", self.entries);
            let mut moved = self.answer_calls(&mut answered, now, out);
            moved |= self.uphold(now, out);
            moved |= self.rejoin(now, out);
            moved |= self.take_down(out);
            let order = self.in_order();
            for name in &order {
                moved |= self.raise(name, &mut 0, now, out);
            }
            // Nobody is told to go before all who go are known: some of them have to go first. So those come first who have
            // nothing to lose, and may be on their way up by it.
            for has_run in [false, true] {
                moved |= self.take_down(out);
                for name in order.iter().rev() {
                    moved |= self.has_run(name) == has_run && self.lower(name, now, out);
                }
            }
            // Launches come last: whoever is called by what fails here may have to go before them.
            if !moved {
                let mut room = self.room();
                for name in &order {
                    moved |= self.raise(name, &mut room, now, out);
                }
            }
            if !moved {
                break;
            }
        }
        self.forget_the_removed(now, out);
    }

    /// Those whom a change of others may move, everybody after those whom it comes after. A second run moves its service.
    fn in_order(&self) -> Vec<UnitName> {
        let is_moved = |entry: &Entry| {
            let state = &entry.life.state;
            let waits = matches!(state, State::Waiting { .. } | State::Failed(Failure::Dependency(_)));
            waits || entry.goal != Goal::Up
        };
        let names = self.entries.stirring().flat_map(|entry| {
            let name = &entry.unit.name;
            let service = name.is_twin().then(|| name.base());
            is_moved(entry).then(|| name.clone()).into_iter().chain(service)
        });
        self.bonds.in_order(names)
    }

    fn has_run(&self, name: &UnitName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.life.state.run().is_some())
    }

    /// Decides who has to go because of conflicts, and because of those that he is bound to.
    fn take_down(&mut self, out: &mut Outcome) -> bool {
        let mut moved = false;
        while self.part(out) | self.unbind(out) {
            moved = true;
        }
        moved
    }

    /// Starts those that others name for their own end; each once, so that two that name each other and cannot be
    /// launched come to an end.
    fn answer_calls(&mut self, answered: &mut BTreeSet<UnitName>, now: Mono, out: &mut Outcome) -> bool {
        let called = std::mem::take(&mut self.called);
        called.iter().for_each(|(caller, name)| out.touched.bring(caller, name));
        let called = called.into_iter().map(|(_, name)| name);
        let names: Vec<UnitName> = called.filter(|name| answered.insert(name.clone())).collect();
        self.start(&names, now, out);
        !names.is_empty()
    }

    /// Tells a service to go down if that is wanted and nobody has to go before it.
    fn lower(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) -> bool {
        if let Some(moved) = self.roll(name, now, out) {
            return moved;
        }
        let Some(entry) = self.entries.get(name) else { return false };
        let state = &entry.life.state;
        let event = match &entry.goal {
            Goal::Up => return false,
            Goal::Restart => Event::Restart,
            Goal::Renew(kept) => Event::SpecChanged(*kept),
            Goal::Down(_) if matches!(state, State::Stopped(_)) => return false,
            Goal::Down(_) if matches!(state, State::Stopping { then: Then::Rest(_), .. }) => return false,
            Goal::Down(by) => Event::Stop(by.clone()),
        };
        if state.run().is_some() && self.is_held(name) {
            return false;
        }
        if !matches!(entry.goal, Goal::Down(_)) {
            self.aim(name, Goal::Up, out);
        }
        self.deliver(name, event, now, out);
        true
    }

    /// Lets a service go, or fail, or try again, according to what it requires and follows.
    fn raise(&mut self, name: &UnitName, room: &mut usize, now: Mono, out: &mut Outcome) -> bool {
        let Some(entry) = self.entries.get(name) else { return false };
        if entry.goal != Goal::Up {
            return false;
        }
        let event = match &entry.life.state {
            State::Waiting { .. } => match self.verdict(entry) {
                Verdict::Go if *room == 0 => return false,
                Verdict::Go => {
                    *room -= 1;
                    Event::Go
                }
                Verdict::Wait => return false,
                Verdict::Fail(name) => Event::DependencyFailed(name),
            },
            State::Failed(Failure::Dependency(_)) if !matches!(self.verdict(entry), Verdict::Fail(_)) => {
                Event::Start
            }
            State::Stopped(_)
            | State::Failed(_)
            | State::Starting { .. }
            | State::Running { .. }
            | State::Done { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => return false,
        };
        self.deliver(name, event, now, out);
        true
    }

    /// The one way to a machine: carries the event there, and everything that comes of it into the entry and `out`.
    fn deliver(&mut self, name: &UnitName, event: Event, now: Mono, out: &mut Outcome) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        // Only the first word about the end of a main process counts, and only of the run that stands.
        if let (Some(end), Some((run, started))) = (end_in(&event), entry.life.state.alive())
            && event.run() == Some(run)
        {
            let noted = entry.used.take().filter(|(of, ..)| *of == run);
            let (used, cause) = noted.map_or((None, None), |(_, used, cause)| (Some(used), cause));
            let why = entry.life.state.ends_for();
            let past = Past { run, started, ended: now, end, used, cause, why };
            entry.history.push(past);
            let surplus = entry.history.len().saturating_sub(HISTORY);
            entry.history.drain(..surplus);
            out.notices.push(Notice { name: name.clone(), at: now, news: News::Ended(past) });
        }
        if matches!(event, Event::Started(_)) && event.run() == entry.life.state.run() {
            entry.fault = None;
            // A run that is being killed may still report that it started, and change nothing else.
            out.touched.insert(name.clone());
        }
        let before = entry.life.clone();
        let is_tick = event == Event::Tick;
        let (life, actions) = step(&Rules::of(&entry.unit, self.seed), before.clone(), event, now);
        if before != life || !actions.is_empty() {
            out.touched.insert(name.clone());
        }
        entry.life = life;
        note_start(entry, &actions, now);
        // Whoever is to be down ends because of that.
        if let Some(end) = arrived(&before.state, &entry.life.state).filter(|_| entry.goal == Goal::Up) {
            let mut called = if end { &entry.unit.on_success } else { &entry.unit.on_failure }.clone();
            if let State::Failed(Failure::Dependency(_)) = entry.life.state {
                // It would come, fail and be called again without a pause.
                let needed = self.needed_by(name);
                called.retain(|name| !needed.contains(name));
            }
            self.called.extend(called.into_iter().map(|other| (name.clone(), other)));
        }
        let Some(entry) = self.entries.get_mut(name) else { return };
        if before.state.name() != entry.life.state.name() {
            entry.since = now;
        }
        if let (true, State::Stopping { run, .. }) = (is_tick && !actions.is_empty(), &before.state) {
            let news = News::Killed { run: *run };
            out.notices.push(Notice { name: name.clone(), at: now, news });
        }
        tell(name, &before.state, entry, out);
        let is_released = actions.contains(&Action::Release);
        out.effects.extend(actions.into_iter().map(|action| Effect { name: name.clone(), action }));
        self.count_as_one(name, out);
        if is_released {
            // A network outlives the runs in it, and is joined for as long.
            self.follow(|entry| entry.unit.network.joined() == Some(name), out);
        }
    }

    fn aim(&mut self, name: &UnitName, goal: Goal, out: &mut Outcome) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let goal = match goal {
            // What a connection was started for does not come again.
            Goal::Restart | Goal::Renew(_) if entry.role == Role::Connection => Goal::Down(By::Replaced),
            Goal::Up | Goal::Down(_) | Goal::Restart | Goal::Renew(_) => goal,
        };
        if entry.goal != goal {
            entry.goal = goal;
            out.touched.insert(name.clone());
        }
    }

    /// Says for whom those wait who were left waiting.
    fn name_the_awaited(&self, out: &mut Outcome) {
        for notice in &mut out.notices {
            if let News::State { to: "waiting", reason, .. } = &mut notice.news {
                let names = self.waits_for(&notice.name);
                *reason = names.iter().map(UnitName::as_str).collect::<Vec<_>>().join(" ");
            }
        }
    }

    fn forget_the_removed(&mut self, now: Mono, out: &mut Outcome) {
        self.forget_the_past(out);
        let is_over = |entry: &Entry| entry.goal == Goal::Down(By::Removed) && entry.life.state.is_resting();
        let over = self.entries.stirring().filter(|entry| is_over(entry) && entry.unit.name.is_service());
        let over: Vec<UnitName> = over.map(|entry| entry.unit.name.clone()).collect();
        if over.is_empty() {
            return;
        }
        let doubles: BTreeSet<UnitName> =
            self.entries.keys().filter(|name| !name.is_service()).map(UnitName::base).collect();
        for name in over.into_iter().filter(|name| !doubles.contains(name)) {
            self.entries.remove(&name);
            out.touched.insert(name.clone());
            out.notices.push(Notice { name, at: now, news: News::Removed });
        }
        self.arrange();
    }
}

/// Intervals are counted from each launch, whoever wanted it.
fn note_start(entry: &mut Entry, actions: &[Action], now: Mono) {
    let is_launch = |action: &Action| matches!(action, Action::Launch(_) | Action::RelaunchInPlace { .. });
    if let (Some(progress), Some(timer)) = (&mut entry.timer, &entry.unit.timer)
        && actions.iter().any(is_launch)
    {
        progress.started(timer, now);
    }
}

/// Whether a service has come to its end by itself just now: with success or without.
fn arrived(before: &State, after: &State) -> Option<bool> {
    let end = |state: &State| match state {
        State::Failed(_) => Some(false),
        State::Stopped(Why::Ended(_)) | State::Done { .. } => Some(true),
        State::Stopped(_)
        | State::Waiting { .. }
        | State::Starting { .. }
        | State::Running { .. }
        | State::Stopping { .. }
        | State::Backoff { .. } => None,
    };
    end(after).filter(|_| end(before).is_none())
}

/// The end of a main process that an event tells of.
fn end_in(event: &Event) -> Option<End> {
    match event {
        Event::Exited(_, exit) => Some(End::Exit(*exit)),
        Event::LaunchFailed(_, retry) => Some(End::Launch(*retry)),
        Event::Gone(_) => Some(End::Exit(ExitKind::Unknown)),
        Event::Start
        | Event::Go
        | Event::DependencyFailed(_)
        | Event::Stop(_)
        | Event::ForceStop(_)
        | Event::Restart
        | Event::SpecChanged(_)
        | Event::Tick
        | Event::Preparing(_)
        | Event::Skipped(..)
        | Event::Started(_)
        | Event::Ready(_)
        | Event::Finished(_)
        | Event::HookFailed(_)
        | Event::WatchdogExpired(_)
        | Event::Unhealthy(_)
        | Event::Extend(..) => None,
    }
}

/// A check was answered. The event that follows, where it is one for the machine.
fn checked(entry: &mut Entry, run: RunId, answer: Answer, now: Mono, out: &mut Outcome) -> Option<Event> {
    let failures = |entry: &Entry| entry.health().map(|health| health.failures);
    let (before, text) = (failures(entry), answer.text.clone());
    let state = entry.note_check(run, answer, now);
    let name = &entry.unit.name;
    // What a check had to say is worth no write of its own: a successor asks again.
    if state.is_some() || failures(entry) != before {
        out.touched.insert(name.clone());
    }
    let state = state?;
    out.notices.push(Notice { name: name.clone(), at: now, news: News::Health { run, state, text } });
    (state == HealthState::Unhealthy).then_some(Event::Unhealthy(run))
}

/// Keeps what went wrong with the run that stands.
fn note_fault(entry: &mut Entry, run: RunId, fault: String, out: &mut Outcome) {
    if entry.life.state.run() == Some(run) {
        entry.fault = Some(fault);
        out.touched.insert(entry.unit.name.clone());
    }
}

/// Adds the notice of a change of state. A Waiting that is over at once is not worth a line of its own.
fn tell(name: &UnitName, before: &State, entry: &Entry, out: &mut Outcome) {
    let (mut from, to) = (before.name(), entry.life.state.name());
    if from == to {
        return;
    }
    let is_wait =
        |notice: &Notice| notice.name == *name && matches!(notice.news, News::State { to: "waiting", .. });
    if from == "waiting"
        && let Some(at) = out.notices.iter().rposition(is_wait)
        && let News::State { from: earlier, .. } = out.notices.remove(at).news
    {
        from = earlier;
    }
    let (until, failures) = match &entry.life.state {
        State::Backoff { until, .. } => (Some(*until), entry.life.tally.failures),
        State::Stopped(_)
        | State::Failed(_)
        | State::Waiting { .. }
        | State::Starting { .. }
        | State::Running { .. }
        | State::Done { .. }
        | State::Stopping { .. } => (None, 0),
    };
    let (reason, run) = (entry.life.state.reason(), entry.life.last);
    let news = News::State { from, to, reason, run, until, failures };
    out.notices.push(Notice { name: name.clone(), at: entry.since, news });
}
