//! The commands around the service of a foreground run, as `supervisor::hooks` has them for many: here nobody takes over.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use super::{Due, Foreground, Held, kill_init, say};
use crate::{
    init::{self, wire},
    launch::{
        LaunchFault, Run, exit_kind,
        hooks::{self, Outside, Told},
    },
    machine::{
        self, End, ExitKind, Rules,
        hooks::{HookEnd, Next, Progress},
    },
    plan::{self, Fd, LaunchPlan, Session},
    spec::{Hook, Stage},
    sys::{SysError, socket},
};

/// What a foreground run knows of them.
#[derive(Default)]
pub(super) struct Around {
    active: Option<Active>,
    /// The newest session.
    last: u32,
    writers: [Option<OwnedFd>; 2],
    /// The main process, inside and outside.
    main: Option<i64>,
    pub(super) host: Option<u32>,
    exit: Option<ExitKind>,
    /// What the service is given when it is its turn.
    stdin: Option<OwnedFd>,
    given: Vec<(Fd, OwnedFd)>,
    /// The init has said that the sandbox stands.
    stands: bool,
    /// It is over for the service: `post_stop` has begun, or is not to run.
    is_over: bool,
    /// A condition said no.
    pub(super) skipped: bool,
    /// The init has ended.
    is_dead: bool,
    /// The sandbox has one id.
    is_single: bool,
}

struct Active {
    progress: Progress,
    on: On,
    until: Option<Instant>,
    is_late: bool,
    is_cancelled: bool,
}

enum On {
    Inside(u32, Session),
    Outside(Outside),
}

impl Around {
    /// What of it is to be waited for.
    pub(super) fn interest(&self) -> Option<BorrowedFd<'_>> {
        match &self.active.as_ref()?.on {
            On::Outside(outside) => Some(outside.interest()),
            On::Inside(..) => None,
        }
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.active.as_ref()?.until
    }

    /// Something runs, or may yet.
    pub(super) fn is_busy(&self) -> bool {
        self.active.is_some()
    }

    /// Nothing is to follow.
    pub(super) fn give_up(&mut self) {
        self.is_over = true;
        self.active = None;
    }
}

impl Foreground<'_> {
    /// Where commands go before the service, what that is to be given is kept for later.
    pub(super) fn keep_for_later(&mut self, stdin: Option<&OwnedFd>, held: &[Held]) -> Result<(), SysError> {
        let copy = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3)
                .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))
        };
        self.around.stdin = stdin.map(|fd| copy(fd.as_fd())).transpose()?;
        for (n, held) in (0..).zip(held) {
            self.around.given.push((Fd::Given(n), copy(held.fd.as_fd())?));
        }
        Ok(())
    }

    /// The sandbox was launched.
    pub(super) fn begin(&mut self, run: &Run, plan: &LaunchPlan, is_single: bool) -> Result<(), SysError> {
        self.around.is_single = is_single;
        if !plan.hooks.is_empty() {
            self.hold_writers(run)?;
        }
        if plan.is_deferred() {
            say(run, wire::SAY_STATUS, 0, 0);
        }
        Ok(())
    }

    /// As long as they may write, the output is not at its end.
    fn hold_writers(&mut self, run: &Run) -> Result<(), SysError> {
        let copy = |fd: &Option<OwnedFd>| {
            let copy = fd.as_ref().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).transpose();
            copy.map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))
        };
        self.around.writers = hooks::writers(&[copy(&run.stdout)?, copy(&run.stderr)?])?;
        Ok(())
    }

    /// The init has spoken of something that concerns them; true: it concerns nobody else.
    pub(super) fn heard_around(&mut self, message: &wire::Message, run: &Run, plan: &LaunchPlan) -> bool {
        match (message.verb, message.session) {
            (_, session) if session & wire::AWAITED != 0 => self.heard_hook(message, run, plan),
            (wire::SAY_STATE, 0) if plan.is_deferred() && !self.around.stands => {
                self.around.stands = true;
                self.stage(Stage::Condition, run, plan);
            }
            (wire::SAY_STARTED, 0) => {
                self.around.main = Some(message.a);
                if self.unit.service.hooks.post_start.is_empty() {
                    return false;
                }
                self.started = true;
                self.stage(Stage::PostStart, run, plan);
            }
            (wire::SAY_EXITED, 0) => {
                self.around.exit = Some(exit_kind(message.a));
                self.is_ending(run, plan);
            }
            (wire::SAY_FAULT, 0) if self.around.stands => {
                let number = usize::try_from(message.a).unwrap_or_default();
                let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
                self.fault = Some(LaunchFault::child(number, plan.child_step(number), errno));
                self.is_ending(run, plan);
            }
            _ => return false,
        }
        true
    }

    fn heard_hook(&mut self, message: &wire::Message, run: &Run, plan: &LaunchPlan) {
        let Some(Active { on: On::Inside(number, session), .. }) = &self.around.active else { return };
        if *number != message.session {
            return;
        }
        let (end, fault) = match message.verb {
            wire::SAY_EXITED => (HookEnd::Exit(exit_kind(message.a)), None),
            wire::SAY_FAULT => {
                let number = usize::try_from(message.a).unwrap_or_default();
                let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
                (HookEnd::NotExecuted, Some(LaunchFault::child(number, session.step(number), errno)))
            }
            wire::SAY_FULL => (HookEnd::NotExecuted, None),
            _ => return,
        };
        self.hook_ended(end, fault.as_deref(), run, plan);
    }

    /// A command on the host may have ended.
    pub(super) fn outside_ready(&mut self, run: &Run, plan: &LaunchPlan) {
        if let Some(Active { on: On::Outside(outside), .. }) = &mut self.around.active
            && let Some(exit) = outside.ended()
        {
            self.hook_ended(HookEnd::Exit(exit), None, run, plan);
        }
    }

    /// A command whose own time is up is killed.
    pub(super) fn hook_overdue(&mut self, run: &Run) {
        if self.around.until().is_some_and(|at| at <= Instant::now()) {
            if let Some(active) = &mut self.around.active {
                (active.until, active.is_late) = (None, true);
            }
            self.signal_hook(run, libc::SIGKILL);
        }
    }

    /// The run is to end: what goes before the service is asked, or what goes before its stop begins. False: there is none.
    pub(super) fn stop_around(&mut self, run: &Run, plan: &LaunchPlan) -> bool {
        let before = |progress: &Progress| matches!(progress.stage, Stage::Condition | Stage::PreStart);
        match &mut self.around.active {
            Some(active) if before(&active.progress) => {
                active.is_cancelled = true;
                self.signal_hook(run, self.unit.service.stop.signal);
                true
            }
            _ if self.around.main.is_some() && self.around.exit.is_none() => {
                self.stage(Stage::PreStop, run, plan);
                true
            }
            _ => false,
        }
    }

    /// The service had its time to stop. False: there is nothing that could follow it inside, and all is to be killed.
    pub(super) fn kill_but_init(&mut self, run: &Run) -> bool {
        if self.around.is_over || self.around.is_dead || self.unit.service.hooks.post_stop.is_empty() {
            return false;
        }
        // It ends by this, and its end is heard.
        say(run, wire::SAY_SIGNAL, i64::from(libc::SIGKILL), 1);
        if let Some(Active { on: On::Outside(_), .. }) = &self.around.active {
            self.signal_hook(run, libc::SIGKILL);
        }
        self.after(self.unit.service.stop.timeout, Due::Kill);
        true
    }

    /// The init has ended.
    pub(super) fn without_init(&mut self, run: &Run, plan: &LaunchPlan) {
        self.around.is_dead = true;
        let inside = matches!(&self.around.active, Some(Active { on: On::Inside(..), .. }));
        if inside && self.around.is_over {
            self.hook_ended(HookEnd::Exit(ExitKind::Unknown), None, run, plan);
        } else if !self.around.is_over {
            let words = std::fs::read(&run.traces.words).ok().and_then(|bytes| init::words_from(&bytes));
            let exit = words.map(|words| exit_kind(i64::from(words.status)));
            self.around.exit = self.around.exit.or(exit).or(Some(ExitKind::Unknown));
            self.is_ending(run, plan);
        }
        if !self.around.is_busy() {
            self.around.writers = [None, None];
        }
    }

    /// The service is over, or never began: what follows begins.
    fn is_ending(&mut self, run: &Run, plan: &LaunchPlan) {
        if std::mem::replace(&mut self.around.is_over, true) {
            return;
        }
        // Of a sandbox that was never whole there is nothing to clear up.
        if !self.started && !self.around.stands || self.unit.service.hooks.post_stop.is_empty() {
            self.signal_hook(run, libc::SIGKILL);
            self.around.active = None;
            return self.is_done(run);
        }
        self.after(self.unit.service.stop.timeout, Due::Kill);
        self.stage(Stage::PostStop, run, plan);
    }

    /// Whatever runs of another stage ends.
    fn stage(&mut self, stage: Stage, run: &Run, plan: &LaunchPlan) {
        self.signal_hook(run, libc::SIGKILL);
        self.around.active = None;
        let next = Progress::first(stage).next(&self.unit.service.hooks);
        self.next_hook(stage, next, None, run, plan);
    }

    fn signal_hook(&self, run: &Run, signal: i32) {
        match self.around.active.as_ref().map(|active| &active.on) {
            Some(On::Inside(session, _)) => {
                let message = wire::Message::new(wire::SAY_SIGNAL, *session, i64::from(signal), 0);
                let _ = socket::send(run.channel.as_fd(), &init::message_bytes(&message), &[]);
            }
            Some(On::Outside(outside)) => outside.signal(signal),
            None => {}
        }
    }

    fn hook_ended(&mut self, end: HookEnd, inner: Option<&LaunchFault>, run: &Run, plan: &LaunchPlan) {
        let Some(Active { progress, is_late, is_cancelled, .. }) = self.around.active.take() else { return };
        if is_cancelled {
            return self.is_ending(run, plan);
        }
        let hooks = &self.unit.service.hooks;
        let end = if is_late { HookEnd::TimedOut } else { end };
        let hook = &hooks.of(progress.stage)[progress.place];
        let fault =
            (end != HookEnd::Exit(ExitKind::Code(0))).then(|| hooks::fault(progress.stage, hook, end, inner));
        self.next_hook(progress.stage, progress.after(hooks, end), fault, run, plan);
    }

    fn next_hook(
        &mut self,
        stage: Stage,
        mut next: Next,
        mut fault: Option<Box<LaunchFault>>,
        run: &Run,
        plan: &LaunchPlan,
    ) {
        let hooks = &self.unit.service.hooks;
        loop {
            if let (Some(fault), Next::Run(_) | Next::Done) = (&fault, next) {
                tracing::warn!("{}: {fault}; ignored", self.unit.name);
            }
            next = match next {
                Next::Run(progress) => {
                    let hook = &hooks.of(progress.stage)[progress.place];
                    if self.around.is_dead && !hook.privileged {
                        let key = progress.stage.key();
                        tracing::warn!(
                            "{}: {key}: `{hook}` is left out: the sandbox is gone",
                            self.unit.name
                        );
                        fault = None;
                        next = progress.after(hooks, HookEnd::Exit(ExitKind::Code(0)));
                        continue;
                    }
                    match self.begin_hook(progress, hook, run) {
                        Ok(()) => return,
                        Err(error) => {
                            let inner = LaunchFault::refused("hook", &error.to_string());
                            let end = HookEnd::NotExecuted;
                            fault = Some(hooks::fault(progress.stage, hook, end, Some(&inner)));
                            progress.after(hooks, end)
                        }
                    }
                }
                Next::Done => return self.stage_done(stage, run, plan),
                Next::Skip => {
                    self.around.skipped = true;
                    self.around.give_up();
                    return kill_init(run);
                }
                Next::Fail => return self.stage_failed(stage, fault, run, plan),
            };
        }
    }

    fn begin_hook(&mut self, progress: Progress, hook: &Hook, run: &Run) -> Result<(), SysError> {
        let told = self.told(progress.stage, hook.privileged);
        let until = hook.timeout.map(|timeout| Instant::now() + timeout);
        let on = if hook.privileged {
            let tree = self.launcher.tree();
            let id = u64::from(std::process::id());
            let group = tree.map(|tree| (tree, tree.outside(self.unit.name.as_str(), id)));
            let group = group.as_ref().map(|(tree, group)| (*tree, group.as_path()));
            On::Outside(Outside::start(hook, &told, &self.around.writers, group)?)
        } else {
            if !matches!(progress.stage, Stage::PostStart | Stage::PreStop) {
                say(run, wire::SAY_SIGNAL, i64::from(libc::SIGKILL), 1);
            }
            self.around.last += 1;
            let steps = plan::hook(self.unit, hook, &told, self.around.is_single);
            let number = self.around.last | wire::AWAITED;
            let seen = crate::launch::of_session(run.pid)?;
            let sent = hooks::inside(run.channel.as_fd(), (number, steps), &seen, &self.around.writers)?;
            On::Inside(number, sent)
        };
        self.around.active = Some(Active { progress, on, until, is_late: false, is_cancelled: false });
        Ok(())
    }

    fn stage_done(&mut self, stage: Stage, run: &Run, plan: &LaunchPlan) {
        match stage {
            Stage::Condition | Stage::PreStart => {
                if let Err(error) = self.spawn_service(run, plan) {
                    self.fault = Some(LaunchFault::refused("spawn", &error.to_string()));
                    self.is_ending(run, plan);
                }
            }
            Stage::PostStart => self.after(self.unit.service.run_timeout, Due::TimeOut),
            Stage::PreStop => self.ask_to_stop(run),
            Stage::PostStop => self.is_done(run),
        }
    }

    fn stage_failed(&mut self, stage: Stage, fault: Option<Box<LaunchFault>>, run: &Run, plan: &LaunchPlan) {
        let fault = fault.unwrap_or_else(|| LaunchFault::refused(stage.key(), "failed"));
        match stage {
            Stage::Condition | Stage::PreStart => {
                self.fault = Some(fault);
                self.is_ending(run, plan);
            }
            Stage::PostStart => {
                self.fault = Some(fault);
                self.stop(run, plan);
            }
            Stage::PreStop => {
                tracing::warn!("{}: {fault}", self.unit.name);
                self.ask_to_stop(run);
            }
            Stage::PostStop => {
                tracing::warn!("{}: {fault}", self.unit.name);
                self.is_done(run);
            }
        }
    }

    /// Nothing follows any more.
    fn is_done(&mut self, run: &Run) {
        self.around.writers = [None, None];
        if !self.around.is_dead {
            kill_init(run);
        }
    }

    fn spawn_service(&mut self, run: &Run, plan: &LaunchPlan) -> Result<(), SysError> {
        say(run, wire::SAY_SIGNAL, i64::from(libc::SIGKILL), 1);
        let stdin = hooks::stdin(self.unit, self.around.stdin.take())?;
        let mut given = std::mem::take(&mut self.around.given);
        // Nobody waits for it, and the init reads as little: what is written there lies there.
        let ready = crate::launch::ready::later(self.unit, run.channel.as_fd())?;
        given.extend(ready.map(|(theirs, _)| (Fd::Ready, theirs)));
        let seen = crate::launch::of_session(run.pid)?;
        hooks::service(run.channel.as_fd(), plan, &seen, (stdin, given, &self.around.writers))
    }

    fn told(&self, stage: Stage, is_outside: bool) -> Told {
        let main = if is_outside { self.around.host.map(i64::from) } else { self.around.main };
        let mut told = match stage {
            Stage::Condition | Stage::PreStart | Stage::PostStart => Vec::new(),
            Stage::PreStop | Stage::PostStop => {
                let end = match (&self.fault, self.timed_out, self.around.exit) {
                    (Some(_), ..) if self.started => Some(End::Hook),
                    (Some(_), ..) => Some(End::Launch(machine::Retry::Later)),
                    (None, true, _) => {
                        Some(End::RunTimeout(self.unit.service.run_timeout.unwrap_or_default()))
                    }
                    (None, false, exit) => exit.filter(|_| !self.stopping).map(End::Exit),
                };
                machine::hooks::result(&Rules::of(self.unit, 0), end, self.around.exit, None)
            }
        };
        let is_alive = matches!(stage, Stage::PostStart | Stage::PreStop);
        told.extend(main.filter(|_| is_alive).map(|pid| ("MAINPID", pid.to_string())));
        told
    }
}
