//! The commands around a service's main program: which of them runs, and what becomes of the run when it ends.
//!
//! Inside they are sessions of the sandbox's init, which keeps how the last one ended, so that a successor of this
//! supervisor hears it: none runs twice, and none is cut short because the supervisor was. A privileged one is a child of
//! the supervisor and ends with it; the successor kills what it has started and runs it again.
//! ```text
//! persist which, as session n         killed here: the successor's init knows no session n: it is run
//! Spawn n                     ----->  killed here: the init knows it, and tells when it ends
//! Exited n, kept until n+1    <-----  killed here: the init tells it again
//! persist the next one
//! ```
//! Where commands go before the main program, the sandbox is made without it. When they are done, it is spawned as session
//! 0, as it is when it is started again in the same sandbox; the init refuses a second one while the first lives.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{Supervisor, now, points::staged, runs, runs::LiveRun};
use crate::{
    init::wire,
    launch::{
        LaunchFault,
        hooks::{self, Outside, Told},
        ready,
    },
    machine::{
        End, ExitKind, Failure, Mono, Phase, Rules, RunId, State, Then,
        fleet::{Entry, Report},
        hooks::{HookEnd, Next, Progress},
    },
    plan::{self, Fd, Session},
    spec::{Hook, Hooks, Stage, StopMode, Unit, UnitName},
    sys::SysError,
};

/// The command that was begun last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HookRecord {
    /// Which.
    progress: Progress,
    /// Its session; 0: it runs outside.
    session: u32,
    /// When its own time is up.
    until: Option<Mono>,
}

/// Where the commands of a run stand.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What a successor has to know.
    pub(super) record: Option<HookRecord>,
    active: Option<Active>,
    /// The newest session.
    last: u32,
    /// The init is yet to say what runs in it.
    awaits_init: bool,
    /// What is to be run then.
    wanted: Option<Stage>,
    /// What the predecessor had begun.
    resume: Option<HookRecord>,
    /// A session that the init knows, and its end, if it has ended.
    told: Option<(u32, Option<HookEnd>)>,
}

#[derive(Debug)]
struct Active {
    progress: Progress,
    on: On,
    until: Option<Mono>,
    /// It was killed because its time was up.
    is_late: bool,
    /// What comes of it does not count: the run is being stopped.
    is_cancelled: bool,
}

/// Where it runs.
#[derive(Debug)]
enum On {
    /// As a session, whose steps are not known of a predecessor's.
    Inside(u32, Option<Session>),
    /// On the host.
    Outside(Outside),
}

impl Standing {
    /// Of a run that was just launched.
    pub(super) fn launched(is_deferred: bool) -> Self {
        Self { awaits_init: is_deferred, ..Self::default() }
    }

    /// Of a predecessor's run.
    pub(super) fn adopted(record: Option<HookRecord>) -> Self {
        let last = record.map(|record| record.session & !wire::AWAITED).unwrap_or_default();
        Self { record, resume: record, last, awaits_init: true, ..Self::default() }
    }

    /// A command on the host that runs.
    pub(super) fn interest(&self) -> Option<BorrowedFd<'_>> {
        match &self.active.as_ref()?.on {
            On::Outside(outside) => Some(outside.interest()),
            On::Inside(..) => None,
        }
    }

    /// One runs on the host.
    pub(super) fn is_outside(&self) -> bool {
        self.interest().is_some()
    }

    /// Some run.
    pub(super) fn is_busy(&self) -> bool {
        self.active.is_some()
    }

    /// Nothing runs any more: a command on the host is killed, one inside is left to whoever kills what is inside.
    pub(super) fn forget(&mut self) {
        self.active = None;
    }

    pub(super) fn until(&self) -> Option<Mono> {
        self.active.as_ref()?.until
    }

    fn is_before(&self) -> bool {
        self.active.as_ref().is_some_and(|active| goes_before(active.progress.stage))
    }
}

/// Whether the main program comes after it.
fn goes_before(stage: Stage) -> bool {
    match stage {
        Stage::Condition | Stage::PreStart => true,
        Stage::PostStart | Stage::PreStop | Stage::PostStop => false,
    }
}

/// What came of the attempt to begin a command.
enum Begun {
    Runs,
    /// There is no sandbox any more that it could run in.
    LeftOut,
    Failed(Box<LaunchFault>),
}

/// The requests: a stage is to be run, or nothing any more.
impl Supervisor {
    /// The sandbox stands, and nothing of the service runs yet.
    pub(super) fn prepare(&mut self, name: &UnitName) {
        let Some(run) = self.runs.get(name) else { return };
        self.report(name, Report::Preparing(run.run));
        self.run_hooks(name, Stage::Condition);
    }

    /// Runs the commands of a stage; before the main program those of both.
    pub(super) fn run_hooks(&mut self, name: &UnitName, stage: Stage) {
        let (Some(hooks), Some(run)) = (self.hooks_of(name), self.runs.get_mut(name)) else { return };
        if run.hooks.awaits_init && run.channel.is_some() {
            run.hooks.wanted = Some(stage);
            return;
        }
        run.end_hook();
        let same = |record: &HookRecord| {
            record.progress.stage == stage || goes_before(record.progress.stage) && goes_before(stage)
        };
        let Some(record) = run.hooks.resume.take().filter(same) else {
            return self.next_hook(name, stage, Progress::first(stage).next(&hooks), None);
        };
        let HookRecord { progress, session, until } = record;
        match run.hooks.told.take().filter(|(told, _)| session != 0 && *told == session) {
            Some((_, ended)) => {
                let on = On::Inside(session, None);
                let (is_late, is_cancelled) = (false, false);
                run.hooks.active = Some(Active { progress, on, until, is_late, is_cancelled });
                if let Some(end) = ended {
                    self.hook_ended(name, end, None);
                }
            }
            None => self.next_hook(name, progress.stage, progress.next(&hooks), None),
        }
    }

    /// A run is to be stopped. False: its main process is to be asked.
    pub(super) fn stop_preparing(&mut self, name: &UnitName) -> bool {
        let signal = self.fleet.entry(name).map_or(libc::SIGTERM, |entry| entry.unit.service.stop.signal);
        let Some(run) = self.runs.get_mut(name) else { return false };
        if run.hooks.awaits_init && run.channel.is_some() {
            run.hooks.wanted = Some(Stage::PreStop);
            return true;
        }
        if !run.hooks.is_before() {
            return false;
        }
        if let Some(active) = &mut run.hooks.active {
            active.is_cancelled = true;
        }
        run.signal_hook(signal);
        true
    }

    /// Everything in the sandbox is about to be killed, and what runs outside for it.
    pub(super) fn kill_hooks(&mut self, name: &UnitName) {
        let Some(run) = self.runs.get_mut(name) else { return };
        if run.hooks.is_outside() {
            let (id, was_before) = (run.run, run.hooks.is_before());
            run.hooks.forget();
            if was_before {
                self.report(name, Report::Finished(id));
            }
        }
    }

    /// When the time of the first command is up.
    pub(super) fn hook_deadline(&self) -> Option<Mono> {
        self.runs.timed().filter_map(|(_, run)| run.hooks.until()).min()
    }

    /// Kills those whose time is up.
    pub(super) fn hooks_overdue(&mut self) {
        let now = now();
        let is_late = |run: &LiveRun| run.hooks.until().is_some_and(|at| at <= now);
        let late = self.runs.timed().filter(|(_, run)| is_late(run)).map(|(name, _)| name.clone());
        for name in late.collect::<Vec<_>>() {
            let Some(run) = self.runs.get_mut(&name) else { continue };
            if let Some(active) = &mut run.hooks.active {
                (active.until, active.is_late) = (None, true);
            }
            run.signal_hook(libc::SIGKILL);
        }
    }
}

/// What is heard.
impl Supervisor {
    /// A command inside has something to say.
    pub(super) fn hook_heard(&mut self, name: &UnitName, message: &wire::Message) {
        let Some(run) = self.runs.get_mut(name) else { return };
        if run.hooks.awaits_init {
            let end = match message.verb {
                wire::SAY_EXITED => Some(HookEnd::Exit(runs::exit_kind(message.a))),
                wire::SAY_FAULT => Some(HookEnd::NotExecuted),
                _ => None,
            };
            run.hooks.told = Some((message.session, end));
            return;
        }
        let Some(Active { on: On::Inside(number, session), .. }) = &run.hooks.active else { return };
        if *number != message.session {
            return;
        }
        let (end, fault) = match message.verb {
            wire::SAY_EXITED => (HookEnd::Exit(runs::exit_kind(message.a)), None),
            wire::SAY_FAULT => {
                let number = usize::try_from(message.a).unwrap_or_default();
                let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
                let step = session.as_ref().and_then(|session| session.step(number));
                (HookEnd::NotExecuted, Some(LaunchFault::child(number, step, errno)))
            }
            wire::SAY_FULL => {
                let fault = LaunchFault::refused("session", "the sandbox has no room for another session");
                (HookEnd::NotExecuted, Some(fault))
            }
            _ => return,
        };
        self.hook_ended(name, end, fault.as_deref());
    }

    /// A command on the host may have ended.
    pub(super) fn hook_ready(&mut self, name: &UnitName) {
        let active = self.runs.get_mut(name).and_then(|run| run.hooks.active.as_mut());
        if let Some(Active { on: On::Outside(outside), .. }) = active
            && let Some(exit) = outside.ended()
        {
            self.hook_ended(name, HookEnd::Exit(exit), None);
        }
    }

    /// The init has said whether the main process lives, and what it knows of sessions: here is what was to be run.
    pub(super) fn hooks_known(&mut self, name: &UnitName, is_main_alive: bool) {
        let Some(run) = self.runs.get_mut(name) else { return };
        if !std::mem::take(&mut run.hooks.awaits_init) {
            return;
        }
        let wanted = run.hooks.wanted.take();
        let is_yet_to_come = !is_main_alive && !run.is_over;
        let starts = self.fleet.entry(name).is_some_and(|entry| {
            matches!(entry.life.state, State::Starting { phase: Phase::Launching | Phase::Preparing, .. })
                && entry.unit.service.hooks.go_before()
        });
        match wanted {
            // It was to be stopped before its main program was executed.
            Some(Stage::PreStop) if is_yet_to_come => self.resume_cancelled(name),
            Some(Stage::PreStop) => self.terminate(name),
            Some(stage) => self.run_hooks(name, stage),
            None if is_yet_to_come && starts => self.prepare(name),
            None => {}
        }
        if let Some(run) = self.runs.get_mut(name) {
            run.hooks.resume = None;
        }
    }

    /// What a predecessor had begun before the main program is to end.
    fn resume_cancelled(&mut self, name: &UnitName) {
        let Some(run) = self.runs.get_mut(name) else { return };
        let id = run.run;
        match (run.hooks.resume.take(), run.hooks.told.take()) {
            (Some(record), Some((told, None))) if record.session == told => {
                let HookRecord { progress, session, .. } = record;
                let on = On::Inside(session, None);
                let active = Active { progress, on, until: None, is_late: false, is_cancelled: false };
                run.hooks.active = Some(active);
                self.stop_preparing(name);
            }
            _ => self.report(name, Report::Finished(id)),
        }
    }

    /// The init has ended: what ran inside has ended as well, and what was to run there cannot any more.
    pub(super) fn hooks_without_init(&mut self, name: &UnitName) {
        let Some(run) = self.runs.get_mut(name) else { return };
        run.hooks.awaits_init = false;
        let wanted = run.hooks.wanted.take();
        let inside = matches!(&run.hooks.active, Some(Active { on: On::Inside(..), .. }));
        let stage = run.hooks.active.as_ref().map(|active| active.progress.stage);
        if inside && stage == Some(Stage::PostStop) {
            self.hook_ended(name, HookEnd::Exit(ExitKind::Unknown), None);
        } else if inside {
            run.hooks.forget();
        } else if wanted == Some(Stage::PostStop) {
            self.run_hooks(name, Stage::PostStop);
        }
    }

    fn hook_ended(&mut self, name: &UnitName, end: HookEnd, inner: Option<&LaunchFault>) {
        let (Some(hooks), Some(run)) = (self.hooks_of(name), self.runs.get_mut(name)) else { return };
        let Some(Active { progress, is_late, is_cancelled, .. }) = run.hooks.active.take() else { return };
        let id = run.run;
        self.moment(name, staged(progress.stage), "heard");
        if is_cancelled {
            return self.report(name, Report::Finished(id));
        }
        let end = if is_late { HookEnd::TimedOut } else { end };
        let fault = (end != HookEnd::Exit(ExitKind::Code(0))).then(|| {
            let hook = hooks.of(progress.stage).get(progress.place);
            hook.map(|hook| hooks::fault(progress.stage, hook, end, inner))
        });
        let next = progress.after(&hooks, end);
        if let Some(fault) = fault.as_ref().and_then(Option::as_ref) {
            tell(name, fault, next);
        }
        self.next_hook(name, progress.stage, next, fault.flatten());
    }
}

/// One after another.
impl Supervisor {
    fn hooks_of(&self, name: &UnitName) -> Option<Hooks> {
        self.fleet.entry(name).map(|entry| entry.unit.service.hooks.clone())
    }

    /// Begins what is next, or says what has become of the stage.
    fn next_hook(
        &mut self,
        name: &UnitName,
        stage: Stage,
        mut next: Next,
        mut fault: Option<Box<LaunchFault>>,
    ) {
        let (Some(hooks), Some(id)) = (self.hooks_of(name), self.runs.get(name).map(|run| run.run)) else {
            return;
        };
        loop {
            next = match next {
                Next::Run(progress) => match self.begin_hook(name, progress, &hooks) {
                    Begun::Runs => return,
                    Begun::LeftOut => progress.after(&hooks, HookEnd::Exit(ExitKind::Code(0))),
                    Begun::Failed(failed) => {
                        let next = progress.after(&hooks, HookEnd::NotExecuted);
                        tell(name, &failed, next);
                        fault = Some(failed);
                        next
                    }
                },
                Next::Done => return self.hooks_done(name, (stage, id)),
                Next::Skip => return self.report(name, Report::Skipped(id, None)),
                Next::Fail => {
                    let fault = fault.unwrap_or_else(|| LaunchFault::refused(stage.key(), "failed"));
                    return self.hooks_failed(name, (stage, id), fault);
                }
            };
        }
    }

    fn hooks_done(&mut self, name: &UnitName, (stage, id): (Stage, RunId)) {
        match stage {
            Stage::Condition | Stage::PreStart => self.spawn_service(name),
            Stage::PostStart => self.report(name, Report::Finished(id)),
            Stage::PreStop => self.ask_to_stop(name),
            Stage::PostStop => {
                self.report(name, Report::Finished(id));
                self.gone_after_hooks(name);
            }
        }
    }

    fn hooks_failed(&mut self, name: &UnitName, (stage, id): (Stage, RunId), fault: Box<LaunchFault>) {
        let text = fault.to_string();
        match stage {
            Stage::Condition | Stage::PreStart => {
                if let Some(run) = self.runs.get_mut(name) {
                    run.is_over = true;
                }
                self.launch_failed(name, id, fault);
            }
            Stage::PostStart => {
                self.faults.insert(name.clone(), fault);
                self.report(name, Report::HookFailed(id, text));
            }
            Stage::PreStop => {
                self.faults.insert(name.clone(), fault);
                self.ask_to_stop(name);
            }
            Stage::PostStop => {
                // Why the run had failed before is the more telling.
                let is_first = !self.faults.contains_key(name);
                self.report(name, if is_first { Report::HookFailed(id, text) } else { Report::Finished(id) });
                self.faults.entry(name.clone()).or_insert(fault);
                self.gone_after_hooks(name);
            }
        }
    }

    /// The end of the sandbox was held back, so that the record of the run outlives its commands.
    fn gone_after_hooks(&mut self, name: &UnitName) {
        if self.runs.get(name).is_some_and(LiveRun::is_dead) {
            self.maybe_gone(name);
        }
    }

    fn begin_hook(&mut self, name: &UnitName, progress: Progress, hooks: &Hooks) -> Begun {
        let hook = &hooks.of(progress.stage)[progress.place];
        let Some(entry) = self.fleet.entry(name) else { return Begun::LeftOut };
        let unit = Unit { name: name.base(), ..entry.unit.clone() };
        let told = self.told(entry, progress.stage, hook.privileged);
        let main_runs = matches!(progress.stage, Stage::PostStart | Stage::PreStop);
        let Some(run) = self.runs.get_mut(name) else { return Begun::LeftOut };
        if !hook.privileged && (run.is_dead() || run.channel.is_none()) {
            tracing::warn!(unit = %name, "{}: `{hook}` is left out: the sandbox is gone", progress.stage.key());
            return Begun::LeftOut;
        }
        let until = hook.timeout.map(|timeout| now().after(timeout));
        run.hooks.last = (run.hooks.last + 1) & !wire::AWAITED;
        let session = if hook.privileged { 0 } else { run.hooks.last | wire::AWAITED };
        run.hooks.record = Some(HookRecord { progress, session, until });
        let before = progress.place > 0 || progress.stage == Stage::PreStart;
        if !main_runs && before {
            // As with systemd: a command leaves nothing running to the next one.
            self.signal(name, libc::SIGKILL, true);
        }
        // First of all: a successor must not run it once more.
        self.persist(name);
        self.moment(name, staged(progress.stage), "noted");
        let begun = match hook.privileged {
            true => self.begin_outside(name, hook, &told),
            false => self.begin_inside(name, (&unit, hook), &told, session),
        };
        self.moment(name, staged(progress.stage), "sent");
        match (begun, self.runs.get_mut(name)) {
            (Ok(on), Some(run)) => {
                let (is_late, is_cancelled) = (false, false);
                run.hooks.active = Some(Active { progress, on, until, is_late, is_cancelled });
                Begun::Runs
            }
            (Ok(_), None) => Begun::LeftOut,
            (Err(error), _) => {
                let inner = LaunchFault::refused("hook", &error.to_string());
                Begun::Failed(hooks::fault(progress.stage, hook, HookEnd::NotExecuted, Some(&inner)))
            }
        }
    }

    fn begin_outside(&mut self, name: &UnitName, hook: &Hook, told: &Told) -> Result<On, SysError> {
        let gone = || SysError::new("run", name.to_string(), libc::ESRCH);
        let run = self.runs.get_mut(name).ok_or_else(gone)?;
        run.open_writers()?;
        let tree = self.launcher.tree();
        let group = tree.map(|tree| (tree, tree.outside(name.as_str(), run.run.0)));
        let group = group.as_ref().map(|(tree, group)| (*tree, group.as_path()));
        Outside::start(hook, told, &run.writers, group).map(On::Outside)
    }

    fn begin_inside(
        &mut self,
        name: &UnitName,
        (unit, hook): (&Unit, &Hook),
        told: &Told,
        session: u32,
    ) -> Result<On, SysError> {
        let gone = || SysError::new("connect", "the sandbox's PID 1", libc::ESRCH);
        let run = self.runs.get_mut(name).ok_or_else(gone)?;
        run.open_writers()?;
        let seen = run.seen()?;
        let channel = run.channel.as_ref().ok_or_else(gone)?;
        let steps = plan::hook(unit, hook, told, false);
        let session = (session, steps);
        let sent = hooks::inside(channel.as_fd(), session, &seen, &run.writers)?;
        Ok(On::Inside(sent.number, Some(sent)))
    }

    /// What a command is told, as systemd tells it.
    fn told(&self, entry: &Entry, stage: Stage, is_outside: bool) -> Told {
        let run = self.runs.get(&entry.unit.name);
        let main = run.and_then(|run| if is_outside { run.main.map(i64::from) } else { run.main_inside });
        let mut told = match stage {
            Stage::Condition | Stage::PreStart | Stage::PostStart => Vec::new(),
            Stage::PreStop | Stage::PostStop => result(entry, run.map(|run| run.run)),
        };
        told.extend(
            main.filter(|_| matches!(stage, Stage::PostStart | Stage::PreStop))
                .map(|pid| ("MAINPID", pid.to_string())),
        );
        told
    }
}

/// The main program, and its end.
impl Supervisor {
    /// The commands before it are done: the service's own process is made.
    fn spawn_service(&mut self, name: &UnitName) {
        let (Some(unit), Some(run)) = (self.unit_of(name), self.runs.get_mut(name)) else {
            return;
        };
        let progress = Progress { stage: Stage::PreStart, place: usize::MAX };
        run.hooks.record = Some(HookRecord { progress, session: 0, until: None });
        let id = run.run;
        self.signal(name, libc::SIGKILL, true);
        // The commands before it may have written what it reads.
        self.mark_for_start(name);
        self.persist(name);
        self.point(name, "service-noted");
        let sent = self.send_service(name, &unit, id);
        self.point(name, "service-sent");
        if let Err(fault) = sent {
            if let Some(run) = self.runs.get_mut(name) {
                run.is_over = true;
            }
            self.launch_failed(name, id, fault);
        }
    }

    fn send_service(&mut self, name: &UnitName, unit: &Unit, id: RunId) -> Result<(), Box<LaunchFault>> {
        self.admit(unit)?;
        self.hold_sockets_for(name)?;
        let mut assigned = self.assign(unit, id, true)?;
        let (connection, sockets, stored) = self.give(name, unit, &mut assigned)?;
        let given = sockets.into_iter().map(|(_, fd)| fd).chain(stored);
        let mut given: Vec<(Fd, OwnedFd)> = (0..).map(Fd::Given).zip(given).collect();
        let plan = self.plan(unit, &assigned);
        let refused = |error: SysError| LaunchFault::refused("spawn", &error.to_string());
        let stdin = hooks::stdin(unit, connection).map_err(refused)?;
        let has_no_stdout = unit.service.stdin == crate::spec::Stdin::Socket;
        if has_no_stdout {
            given.push((Fd::Stdout, crate::launch::copy(stdin.as_fd()).map_err(refused)?));
        }
        let run = self.runs.get_mut(name).ok_or_else(LaunchFault::init_died)?;
        run.open_writers().map_err(refused)?;
        if run.writers.iter().skip(usize::from(has_no_stdout)).any(Option::is_none) {
            // It was made for a file without commands, and nobody holds what the service would write to.
            let mut fault = LaunchFault::refused("spawn", "the sandbox has no output any more");
            fault.retry = crate::launch::Retry::Later;
            return Err(fault);
        }
        let channel = run.channel.as_ref().ok_or_else(LaunchFault::init_died)?;
        let seen = run.seen().map_err(refused)?;
        run.voice.begin_again();
        if let Some((theirs, ours)) = ready::later(unit, channel.as_fd()).map_err(refused)? {
            given.push((Fd::Ready, theirs));
            run.voice.ready = Some(ours);
        }
        hooks::service(channel.as_fd(), &plan, &seen, (stdin, given, &run.writers)).map_err(refused)?;
        run.has_steps(plan);
        Ok(())
    }

    /// In the way of `service.stop`: the command, or the signal.
    fn ask_to_stop(&mut self, name: &UnitName) {
        let Some(stop) = self.fleet.entry(name).map(|entry| entry.unit.service.stop.clone()) else { return };
        if let Some(command) = &stop.command
            && self.run_inside(name, command, super::sessions::Purpose::Stop).is_ok()
        {
            return;
        }
        self.signal(name, stop.signal, stop.mode == StopMode::ControlGroup);
    }

    pub(super) fn terminate(&mut self, name: &UnitName) {
        if self.forget_fetch(name) || self.stop_preparing(name) {
            return;
        }
        match self.runs.get(name) {
            Some(run) if !run.is_over => self.run_hooks(name, Stage::PreStop),
            // The main process has ended: it is the others who are asked.
            _ => self.ask_to_stop(name),
        }
    }
}

impl LiveRun {
    /// Ends the command that runs, for something else is to.
    fn end_hook(&mut self) {
        self.signal_hook(libc::SIGKILL);
        self.hooks.forget();
    }

    fn signal_hook(&self, signal: i32) {
        match self.hooks.active.as_ref().map(|active| &active.on) {
            Some(On::Inside(session, _)) => self.signal_session(*session, signal),
            Some(On::Outside(outside)) => outside.signal(signal),
            None => {}
        }
    }
}

/// One line for the supervisor's own log.
fn tell(name: &UnitName, fault: &LaunchFault, next: Next) {
    match next {
        Next::Skip => tracing::info!(unit = %name, "{fault}: it is not to run now"),
        Next::Fail => tracing::error!(unit = %name, "{fault}"),
        Next::Run(_) | Next::Done => tracing::warn!(unit = %name, "{fault}; ignored"),
    }
}

/// How the run ended, for those who come after it.
fn result(entry: &Entry, run: Option<RunId>) -> Told {
    let past = entry.history.last().filter(|past| Some(past.run) == run);
    let exit = past.and_then(|past| match past.end {
        End::Exit(exit) => Some(exit),
        _ => None,
    });
    let end = match &entry.life.state {
        State::Stopping { then: Then::Fail(Failure::Ended(end)) | Then::Backoff(end), .. } => Some(*end),
        State::Stopping { then: Then::Fail(Failure::StartLimit { last, .. }), .. } => Some(*last),
        _ => None,
    };
    let rules = Rules::of(&entry.unit, 0);
    crate::machine::hooks::result(&rules, end, exit, past.and_then(|past| past.cause))
}
