//! The life of one service as a pure, total function; [`fleet`] makes many of them one.
//!
//! [`step`] takes where a service stands, what has happened and the time, and answers where it stands now and
//! what is to be done. It knows no pid, no clock, no file and no other service. The supervisor owns those: it
//! feeds events, carries out actions, and persists the state in between.
//!
//! # Specification
//! A service is at rest in **Stopped** (well so) or **Failed** (wanted up in vain); nothing of it is left
//! then, and nothing happens to it until somebody asks. In every other state something is under way, and
//! which way it goes is part of the state, so that there is no desired state beside the current one that
//! could contradict it.
//!
//! *Coming up.* `Start` leads to **Waiting**. The fleet answers with `Go` when everything that has to come
//! first is there: this is the only door to a launch, so no launch, automatic restarts included, passes by a
//! dependency. `Launch` leads to **Starting**. Of kind exec, a service is **Running** as soon as its program
//! was executed, or, where it reports that, once it is ready. Of kind oneshot, it stays Starting while its program
//! works, and has started when that ends with success; then it is **Done** with `remain_after_exit`, otherwise
//! Stopped. Commands that go before the program run in its sandbox (`Preparing`), and one of them, or before there
//! is a sandbox the host, may be why the service is not to run now (`Skipped`). Commands that follow it (`PostStart`) keep it Starting until they are done.
//!
//! *Going down.* Every run ends in **Stopping**, and leaves it by `Gone`, which says that no process of its
//! sandbox is left; then it is torn down, once. `Terminate` asks politely; at `kill` the rest is killed. When
//! the main process has ended, the others are killed at once (`stop.mode = "mixed"`) or asked as well and
//! killed in time (`"control-group"`). A program that was not executed yet is killed without being asked,
//! because nobody is there who would hear. With `post_stop`, the end of the main process is followed by its commands
//! (`PostStop`) in what stands of the sandbox, and at `kill` everything but the init is killed first (`KillAll`), so
//! that they still can. `ForceStop` kills at once, and nothing follows. A run of which one hears nothing but
//! `Gone` has ended with an exit status unknown to all.
//!
//! *Ending by itself.* The end is a success, a failure or abnormal (a signal, a core dump, a time-out, a watchdog that
//! heard nothing, an unknown status, a launch that failed for want of something). A daemon that ends well before it was
//! ready has failed. Ill health is followed by another run whatever the policy: whether it is an end at all, `[health]` says. `prevent_exit`, then `force_exit`, then the
//! policy decide whether another run follows. If one does and `restart.max` allows it, the service is in
//! **Backoff** for [`backoff::delay`] from the moment when the sandbox was gone, and then Waiting. With
//! `restart.mode = "in-place"` a sandbox whose main process ended by itself is left standing through Backoff
//! and Waiting, and `RelaunchInPlace` gives it to the next run; when it goes away meanwhile, the next run
//! gets a new one. A launch that cannot succeed ([`Retry::Never`]) is not repeated. A oneshot that succeeded
//! is not either.
//!
//! *Patience.* `Extend` puts every time-out off until then, for as long as the service stays in the state in which it
//! asked for that.
//!
//! *Counting.* [`Tally::failures`] counts automatic restarts in a row and sets the delay. It starts again
//! when a run lived for `reset_after` after it had started, and with `Start`, `Restart` and `SpecChanged`.
//! Independently of it, no more than `max` automatic restarts are launched within any window of that length;
//! the next one is refused and the service has failed.
//!
//! *What is kept.* `Teardown` ends a run, `Release` ends what outlives runs (network namespace, link, ports).
//! A service is released whenever it comes to rest, and between two runs when its network was changed.
//!
//! *Runs.* A [`RunId`] is given to each launch and never again. A report about a run other than the one that
//! stands is stale and dropped at the head of [`step`].
//!
//! # Table
//! What each event does, for `policy = "on-failure"`, `mode = "fresh"`, `stop.mode = "mixed"` and kind exec
//! where nothing else is said. What is not listed leaves the state as it is and asks for nothing. A test
//! makes this table from [`step`] and compares.
#![doc = include_str!("table.md")]
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod backoff;
pub mod fleet;
pub mod health;
pub mod hooks;
mod policy;
mod state;
pub mod timer;
mod usage;

pub use policy::{Policy, RestartMode, RestartOn, Rules};
pub use state::{
    Action, By, End, Event, ExitKind, Failure, Kept, Kill, Life, Main, Mono, Phase, Reason, Retry, RunId,
    Site, State, Tally, Then, Why,
};
pub use usage::{Cause, Usage};

use crate::spec::{Kind, OnFail, StopMode};
use std::time::Duration;

/// What happens next in the life of one service. Total: every event is answered in every state.
///
/// The actions are to be carried out in order, after the new life was persisted.
pub fn step(rules: &Rules<'_>, life: Life, event: Event, now: Mono) -> (Life, Vec<Action>) {
    // The one place where reports about a run that is over are dropped: nothing below compares run ids.
    if event.run().is_some_and(|run| life.state.run() != Some(run)) {
        return (life, Vec::new());
    }
    let before = std::mem::discriminant(&life.state);
    let Life { state, last, tally, extended } = life;
    let mut turn = Turn { rules, now, last, tally, extended, actions: Vec::new() };
    if let Event::Extend(_, until) = event {
        turn.extended = turn.extended.max(Some(until));
    }
    let state = match state {
        State::Stopped(why) => turn.stopped(why, &event),
        State::Failed(failure) => turn.failed(failure, event),
        State::Waiting { site } => turn.waiting(site, event),
        State::Starting { run, since, phase } => turn.starting(Run { run, since }, phase, event),
        State::Running { run, since } => turn.running(Run { run, since }, event),
        State::Done { run, since } => turn.done(Run { run, since }, event),
        State::Stopping { run, since, main, kill, then } => {
            turn.stopping(Run { run, since }, Leaving { main, kill, then }, event)
        }
        State::Backoff { until, site, after } => turn.backoff(until, site, after, event),
    };
    // Whoever asked for time to start did not ask for time to stop.
    let extended = turn.extended.filter(|_| before == std::mem::discriminant(&state));
    (Life { state, last: turn.last, tally: turn.tally, extended }, turn.actions)
}

/// One call of [`step`]: what it reads, and what it changes beside the state.
struct Turn<'a> {
    rules: &'a Rules<'a>,
    now: Mono,
    last: RunId,
    tally: Tally,
    extended: Option<Mono>,
    actions: Vec<Action>,
}

/// A run, and since when.
#[derive(Clone, Copy)]
struct Run {
    run: RunId,
    since: Mono,
}

/// What Stopping knows beside its run.
struct Leaving {
    main: Main,
    kill: Kill,
    then: Then,
}

/// The states, and what each event does in them.
impl Turn<'_> {
    fn stopped(&mut self, why: Why, event: &Event) -> State {
        match event {
            Event::Start | Event::Restart => self.wait(Site::Empty),
            Event::Go
            | Event::DependencyFailed(_)
            | Event::Stop(_)
            | Event::ForceStop(_)
            | Event::SpecChanged(_)
            | Event::Tick
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::LaunchFailed(..)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..)
            | Event::Exited(..)
            | Event::Gone(_) => State::Stopped(why),
        }
    }

    fn failed(&mut self, failure: Failure, event: Event) -> State {
        match event {
            // Another file is another chance: whoever mended it expects the service to come back.
            Event::Start | Event::Restart | Event::SpecChanged(_) => self.wait(Site::Empty),
            Event::Stop(by) | Event::ForceStop(by) => State::Stopped(Why::Asked(by)),
            Event::Go
            | Event::DependencyFailed(_)
            | Event::Tick
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::LaunchFailed(..)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..)
            | Event::Exited(..)
            | Event::Gone(_) => State::Failed(failure),
        }
    }

    fn waiting(&mut self, site: Site, event: Event) -> State {
        match event {
            Event::Go => self.launch(site),
            Event::Start => self.wait(site),
            Event::Restart => self.renew(site, Kept::Network),
            Event::SpecChanged(kept) => self.renew(site, kept),
            Event::Stop(by) | Event::ForceStop(by) => self.clear(site, Then::Rest(Why::Asked(by))),
            Event::DependencyFailed(name) => self.clear(site, Then::Fail(Failure::Dependency(name))),
            Event::Gone(run) => {
                self.act(Action::Teardown(run));
                State::Waiting { site: Site::Empty }
            }
            Event::Tick
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::LaunchFailed(..)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..)
            | Event::Exited(..) => State::Waiting { site },
        }
    }

    fn starting(&mut self, run: Run, phase: Phase, event: Event) -> State {
        let at = |phase| State::Starting { run: run.run, since: run.since, phase };
        match event {
            Event::Preparing(_) if phase == Phase::Launching => at(Phase::Preparing),
            Event::Started(_) => match phase {
                Phase::Executed | Phase::Settling => at(phase),
                Phase::Launching | Phase::Preparing
                    if self.rules.kind != Kind::Oneshot && !self.rules.reports_ready =>
                {
                    self.ready(run)
                }
                Phase::Launching | Phase::Preparing => at(Phase::Executed),
            },
            // It may have said so before we heard that it was executed.
            Event::Ready(_) if self.rules.reports_ready && phase != Phase::Settling => self.ready(run),
            // Its file does not ask for that any more.
            Event::Ready(_) if self.rules.kind != Kind::Oneshot && phase == Phase::Executed => {
                self.ready(run)
            }
            // Not yet started is no health, however long it took.
            Event::LaunchFailed(_, retry) => self.end(run, phase, End::Launch(retry), Duration::ZERO),
            Event::Exited(_, exit) => {
                let end =
                    match self.rules.reports_ready && phase == Phase::Executed && self.rules.is_success(exit)
                    {
                        true => End::NotReady(exit),
                        false => End::Exit(exit),
                    };
                self.end(run, phase, end, Duration::ZERO)
            }
            Event::Skipped(_, unmet) if matches!(phase, Phase::Launching | Phase::Preparing) => {
                self.kill(run, Main::Ended, Then::Rest(unmet.map_or(Why::Skipped, Why::Unmet)))
            }
            Event::Finished(_) if phase == Phase::Settling => {
                State::Running { run: run.run, since: self.now }
            }
            Event::HookFailed(_) if phase == Phase::Settling => {
                self.give_up(run, phase, End::Hook, Duration::ZERO)
            }
            Event::HookFailed(_) if phase == Phase::Preparing => {
                self.end(run, phase, End::Launch(Retry::Later), Duration::ZERO)
            }
            Event::WatchdogExpired(_) if matches!(phase, Phase::Executed | Phase::Settling) => {
                self.abort(run, Duration::ZERO)
            }
            Event::Gone(_) => self.vanish(run, Duration::ZERO),
            Event::Stop(by) => self.take_down(run, phase, Then::Rest(Why::Asked(by))),
            Event::ForceStop(by) => self.kill(run, Main::Alive, Then::Rest(Why::Asked(by))),
            Event::Restart => self.replace(run, phase, Kept::Network),
            Event::SpecChanged(kept) => self.replace(run, phase, kept),
            Event::Tick => match self.overdue(run.since, self.rules.start_timeout) {
                Some(limit) => self.give_up(run, phase, End::StartTimeout(limit), Duration::ZERO),
                None => at(phase),
            },
            Event::Start
            | Event::Go
            | Event::DependencyFailed(_)
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Ready(_)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..) => at(phase),
        }
    }

    fn running(&mut self, run: Run, event: Event) -> State {
        let lived = self.now.since(run.since);
        let phase = Phase::Executed;
        match event {
            Event::Exited(_, exit) => self.end(run, phase, End::Exit(exit), lived),
            Event::LaunchFailed(_, retry) => self.end(run, phase, End::Launch(retry), lived),
            Event::WatchdogExpired(_) => self.abort(run, lived),
            Event::Unhealthy(_) => self.unhealthy(run, lived),
            Event::Gone(_) => self.vanish(run, lived),
            Event::Stop(by) => self.take_down(run, phase, Then::Rest(Why::Asked(by))),
            Event::ForceStop(by) => self.kill(run, Main::Alive, Then::Rest(Why::Asked(by))),
            Event::Restart => self.replace(run, phase, Kept::Network),
            Event::SpecChanged(kept) => self.replace(run, phase, kept),
            Event::Tick => match self.overdue(run.since, self.rules.run_timeout) {
                Some(limit) => self.give_up(run, phase, End::RunTimeout(limit), lived),
                None => State::Running { run: run.run, since: run.since },
            },
            Event::Start
            | Event::Go
            | Event::DependencyFailed(_)
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::Extend(..) => State::Running { run: run.run, since: run.since },
        }
    }

    fn done(&mut self, run: Run, event: Event) -> State {
        match event {
            Event::Restart => self.renew(Site::Empty, Kept::Network),
            Event::SpecChanged(kept) => self.renew(Site::Empty, kept),
            Event::Stop(by) | Event::ForceStop(by) => self.arrive(Then::Rest(Why::Asked(by))),
            Event::Start
            | Event::Go
            | Event::DependencyFailed(_)
            | Event::Tick
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::LaunchFailed(..)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..)
            | Event::Exited(..)
            | Event::Gone(_) => State::Done { run: run.run, since: run.since },
        }
    }

    fn stopping(&mut self, run: Run, leaving: Leaving, event: Event) -> State {
        let Leaving { mut main, mut kill, mut then } = leaving;
        match event {
            Event::Gone(_) => {
                self.act(Action::Teardown(run.run));
                return self.arrive(then);
            }
            Event::Exited(..) | Event::LaunchFailed(..) | Event::Finished(_) | Event::HookFailed(_) => {
                // stop.mode = "mixed": the polite word was for the main process alone.
                let waits =
                    matches!(event, Event::Exited(..)) && self.rules.stop_mode == StopMode::ControlGroup;
                (main, kill) = self.after_main(run, main, kill, waits);
            }
            Event::Tick => {
                if let Kill::At(at) = kill
                    && at.max(self.not_before()) <= self.now
                {
                    match main {
                        Main::Alive if self.rules.post_stop => {
                            self.act(Action::KillAll(run.run));
                            (main, kill) = (Main::Killed, self.patience());
                        }
                        Main::Alive | Main::Killed | Main::Hooks | Main::Ended => {
                            kill = self.kill_once(run, kill);
                        }
                    }
                }
            }
            Event::Stop(by) => then = rest(then, by),
            Event::ForceStop(by) => {
                then = rest(then, by);
                kill = self.kill_once(run, kill);
            }
            Event::Start => {
                // A oneshot on its way to Done has started.
                if then != Then::Done {
                    then = self.again(&then, Kept::Network);
                }
            }
            Event::Restart => then = self.again(&then, Kept::Network),
            Event::SpecChanged(kept) => {
                if !matches!(then, Then::Rest(_)) {
                    then = self.again(&then, kept);
                }
            }
            Event::Go
            | Event::DependencyFailed(_)
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..) => {}
        }
        State::Stopping { run: run.run, since: run.since, main, kill, then }
    }

    fn backoff(&mut self, until: Mono, site: Site, after: End, event: Event) -> State {
        match event {
            Event::Tick if until <= self.now => State::Waiting { site },
            Event::Start => self.wait(site),
            Event::Restart => self.renew(site, Kept::Network),
            Event::SpecChanged(kept) => self.renew(site, kept),
            Event::Stop(by) | Event::ForceStop(by) => self.clear(site, Then::Rest(Why::Asked(by))),
            Event::Gone(run) => {
                self.act(Action::Teardown(run));
                State::Backoff { until, site: Site::Empty, after }
            }
            Event::Tick
            | Event::Go
            | Event::DependencyFailed(_)
            | Event::Preparing(_)
            | Event::Skipped(..)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::LaunchFailed(..)
            | Event::Finished(_)
            | Event::HookFailed(_)
            | Event::WatchdogExpired(_)
            | Event::Unhealthy(_)
            | Event::Extend(..)
            | Event::Exited(..) => State::Backoff { until, site, after },
        }
    }
}

/// The moves that several states share.
impl Turn<'_> {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Somebody wants it up: what was held against the service is forgotten.
    fn wait(&mut self, site: Site) -> State {
        self.tally = Tally::default();
        State::Waiting { site }
    }

    fn launch(&mut self, site: Site) -> State {
        // A count above zero marks an automatic restart: whatever somebody asked for has cleared it.
        if let Some((_, within)) = self.rules.restart.max
            && self.tally.failures > 0
        {
            self.tally.restarts.retain(|at| self.now.since(*at) < within);
            self.tally.restarts.push(self.now);
        }
        self.last = RunId(self.last.0 + 1);
        let run = self.last;
        self.act(match site {
            Site::Empty => Action::Launch(run),
            Site::Standing(sandbox) => Action::RelaunchInPlace { run, sandbox },
        });
        State::Starting { run, since: self.now, phase: Phase::Launching }
    }

    /// It is ready; whether something follows before it has started the file says.
    fn ready(&mut self, Run { run, since }: Run) -> State {
        if self.rules.post_start {
            self.act(Action::PostStart(run));
            return State::Starting { run, since, phase: Phase::Settling };
        }
        State::Running { run, since: self.now }
    }

    /// The main process has ended by itself, or will never be.
    fn end(&mut self, run: Run, phase: Phase, end: End, lived: Duration) -> State {
        let then = self.decide(end, lived);
        let Run { run, since } = run;
        let exited = matches!(end, End::Exit(_) | End::NotReady(_));
        if exited && matches!(then, Then::Backoff(_)) && self.rules.restart.mode == RestartMode::InPlace {
            return self.back_off(Site::Standing(run), end);
        }
        if self.rules.post_stop && phase != Phase::Launching {
            self.act(Action::PostStop(run));
            return State::Stopping { run, since, main: Main::Hooks, kill: self.patience(), then };
        }
        if exited && self.rules.stop_mode == StopMode::ControlGroup {
            self.act(Action::Terminate(run));
            return State::Stopping { run, since, main: Main::Ended, kill: self.patience(), then };
        }
        self.kill(Run { run, since }, Main::Ended, then)
    }

    /// While it is being stopped, the main process has ended, or the commands around it have. `waits`: others of the
    /// sandbox are given the time that is left.
    fn after_main(&mut self, run: Run, main: Main, kill: Kill, waits: bool) -> (Main, Kill) {
        match main {
            _ if kill == Kill::Sent => (Main::Ended, kill),
            Main::Alive | Main::Killed if self.rules.post_stop => {
                self.act(Action::PostStop(run.run));
                (Main::Hooks, self.patience())
            }
            Main::Alive | Main::Killed | Main::Ended if waits => (Main::Ended, kill),
            Main::Alive | Main::Killed | Main::Hooks | Main::Ended => {
                (Main::Ended, self.kill_once(run, kill))
            }
        }
    }

    /// It lives, and must not any longer.
    fn give_up(&mut self, run: Run, phase: Phase, end: End, lived: Duration) -> State {
        let then = self.decide(end, lived);
        self.take_down(run, phase, then)
    }

    /// It is not well; what that means the file says.
    fn unhealthy(&mut self, run: Run, lived: Duration) -> State {
        match self.rules.on_unhealthy {
            OnFail::Restart => self.give_up(run, Phase::Executed, End::Unhealthy, lived),
            OnFail::Kill => {
                let then = self.decide(End::Unhealthy, lived);
                self.kill(run, Main::Alive, then)
            }
            OnFail::Stop => self.take_down(run, Phase::Executed, Then::Fail(Failure::Ended(End::Unhealthy))),
            OnFail::None => State::Running { run: run.run, since: run.since },
        }
    }

    /// It hangs.
    fn abort(&mut self, Run { run, since }: Run, lived: Duration) -> State {
        let then = self.decide(End::Watchdog, lived);
        self.act(Action::Abort(run));
        State::Stopping { run, since, main: Main::Alive, kill: self.patience(), then }
    }

    /// The sandbox is gone, and nobody has said how its main process ended.
    fn vanish(&mut self, run: Run, lived: Duration) -> State {
        let then = self.decide(End::Exit(ExitKind::Unknown), lived);
        self.act(Action::Teardown(run.run));
        self.arrive(then)
    }

    /// Where to go after `end`; counts the restart if there is to be one.
    fn decide(&mut self, end: End, lived: Duration) -> Then {
        if !self.rules.restarts_after(end) {
            return self.rules.rest_after(end);
        }
        let policy = self.rules.restart;
        if lived >= policy.reset_after {
            self.tally.failures = 0;
        }
        if let Some((max, within)) = policy.max {
            self.tally.restarts.retain(|at| self.now.since(*at) < within);
            if self.tally.restarts.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
                return Then::Fail(Failure::StartLimit { max, within, last: end });
            }
        }
        self.tally.failures = self.tally.failures.saturating_add(1);
        Then::Backoff(end)
    }

    fn take_down(&mut self, run: Run, phase: Phase, then: Then) -> State {
        match phase {
            Phase::Launching => self.kill(run, Main::Alive, then),
            Phase::Preparing | Phase::Executed | Phase::Settling => {
                self.act(Action::Terminate(run.run));
                let (kill, Run { run, since }) = (self.patience(), run);
                State::Stopping { run, since, main: Main::Alive, kill, then }
            }
        }
    }

    /// A new run in a new sandbox is wanted instead of this one.
    fn replace(&mut self, run: Run, phase: Phase, kept: Kept) -> State {
        self.tally = Tally::default();
        self.take_down(run, phase, Then::Wait(kept))
    }

    fn kill(&mut self, run: Run, main: Main, then: Then) -> State {
        self.act(Action::KillTree(run.run));
        State::Stopping { run: run.run, since: run.since, main, kill: Kill::Sent, then }
    }

    fn kill_once(&mut self, run: Run, kill: Kill) -> Kill {
        if kill != Kill::Sent {
            self.act(Action::KillTree(run.run));
        }
        Kill::Sent
    }

    fn patience(&self) -> Kill {
        match self.rules.stop_timeout.map(|limit| self.now.after(limit)) {
            None | Some(Mono(u64::MAX)) => Kill::Never,
            Some(at) => Kill::At(at),
        }
    }

    /// No run is under way; a sandbox that still stands is brought down first.
    fn clear(&mut self, site: Site, then: Then) -> State {
        match site {
            Site::Empty => self.arrive(then),
            Site::Standing(run) => self.kill(Run { run, since: self.now }, Main::Ended, then),
        }
    }

    /// No run is under way, and the next one is wanted now and in a new sandbox.
    fn renew(&mut self, site: Site, kept: Kept) -> State {
        self.tally = Tally::default();
        self.clear(site, Then::Wait(kept))
    }

    /// It is wanted up again while it is on the way down.
    fn again(&mut self, then: &Then, kept: Kept) -> Then {
        self.tally = Tally::default();
        match then {
            Then::Wait(earlier) => Then::Wait(kept.max(*earlier)),
            Then::Backoff(_) | Then::Done => Then::Wait(kept),
            // To rest would have released everything, and what has changed since is not known here.
            Then::Rest(_) | Then::Fail(_) => Then::Wait(Kept::Nothing),
        }
    }

    /// Nothing of the last run is left.
    fn arrive(&mut self, then: Then) -> State {
        match then {
            Then::Rest(why) => {
                self.act(Action::Release);
                State::Stopped(why)
            }
            Then::Fail(failure) => {
                self.act(Action::Release);
                State::Failed(failure)
            }
            Then::Wait(kept) => {
                if kept == Kept::Nothing {
                    self.act(Action::Release);
                }
                State::Waiting { site: Site::Empty }
            }
            Then::Backoff(end) => self.back_off(Site::Empty, end),
            Then::Done => State::Done { run: self.last, since: self.now },
        }
    }

    fn back_off(&self, site: Site, after: End) -> State {
        let delay = backoff::delay(self.rules.restart, self.rules.seed, self.tally.failures);
        State::Backoff { until: self.now.after(delay), site, after }
    }

    /// The limit, if it has been reached.
    fn overdue(&self, since: Mono, limit: Option<Duration>) -> Option<Duration> {
        limit.filter(|limit| since.after(*limit).max(self.not_before()) <= self.now)
    }

    /// No time-out counts before.
    fn not_before(&self) -> Mono {
        self.extended.unwrap_or(Mono(0))
    }
}

/// Wanted down while on the way down: the first reason stays.
fn rest(then: Then, by: By) -> Then {
    match then {
        Then::Rest(why) => Then::Rest(why),
        Then::Fail(_) | Then::Wait(_) | Then::Backoff(_) | Then::Done => Then::Rest(Why::Asked(by)),
    }
}

#[cfg(test)]
mod tests;
