//! A live run, from its launch or adoption to the moment when nothing of it is left.

use std::{
    borrow::Cow,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use jiff::Timestamp;
use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags},
};

use super::{
    Supervisor,
    hooks::Standing,
    outdated::VERSION,
    state::{self, RunRecord},
    voice::Voice,
};
pub(super) use crate::launch::exit_kind;
use crate::{
    cgroup,
    init::{self, wire},
    launch::{self, LaunchFault, Run, Traces},
    machine::{ExitKind, RunId, Usage, fleet::Report},
    plan::{Fd, LaunchPlan, Seen, Session, Steps, lower},
    spec::{Namespace, Unit, UnitName},
    sys::{SysError, socket},
};

/// What a run has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The init itself: readable when it has ended.
    Init,
    /// Its messages.
    Channel,
    /// The service's standard output (0) or error (1).
    Output(usize),
    /// Where it says how it is.
    Notify,
    /// Where it says that it is ready.
    Ready,
    /// Its control group.
    Empty,
    /// A command on the host.
    Hook,
}

/// One run.
#[derive(Debug)]
pub(super) struct LiveRun {
    /// Whose sandbox it is now; with `restart.mode = "in-place"` a sandbox is handed from run to run.
    pub(super) run: RunId,
    /// Pid and start time of the init.
    pub(super) init: Option<(u32, u64)>,
    /// The main process, as the host counts.
    pub(super) main: Option<u32>,
    /// As it is counted inside.
    pub(super) main_inside: Option<i64>,
    /// The commands around it.
    pub(super) hooks: Standing,
    /// Write ends of `outputs` for those, once there are any.
    pub(super) writers: [Option<OwnedFd>; 2],
    pub(super) traces: Traces,
    /// What was read back before its program was executed.
    pub(super) attested: Vec<String>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) channel: Option<OwnedFd>,
    pub(super) outputs: [Option<OwnedFd>; 2],
    /// What it says about itself.
    pub(super) voice: Voice,
    /// What the init was given last, to name the step that fails; not known of an adopted run.
    steps: Option<Steps>,
    /// The fleet knows how the main process ended, or why it never began.
    pub(super) is_over: bool,
    /// The init has ended.
    is_dead: bool,
    /// Of each output: bytes in the pipe that a predecessor has written to the log already.
    pub(super) surplus: [super::output::Surplus; 2],
    /// Of each output: where in a line it is, as far as `log.rate` asks.
    pub(super) places: [crate::logs::Place; 2],
    /// The file of the last words, for the notes behind them.
    notes: Option<File>,
    /// What earlier runs took in the same sandbox.
    pub(super) before: Usage,
    /// Which version of Palisade made its sandbox, where that is known.
    pub(super) version: Option<Cow<'static, str>>,
    /// `cgroup.events`, while processes are left after the end of the init.
    events: Option<OwnedFd>,
}

impl LiveRun {
    /// A run that we launched.
    pub(super) fn launched(run: RunId, launched: Run, plan: LaunchPlan, unit: &Unit) -> Self {
        let _ = rustix::io::ioctl_fionbio(&launched.channel, true);
        let (is_deferred, has_hooks) = (plan.is_deferred(), !plan.hooks.is_empty());
        let mut live = Self {
            run,
            init: state::start_time(launched.pid).map(|time| (launched.pid, time)),
            main: None,
            main_inside: None,
            hooks: Standing::launched(is_deferred),
            writers: [None, None],
            traces: launched.traces,
            attested: crate::plan::attested(unit, plan.child()),
            pidfd: Some(launched.pidfd),
            channel: Some(launched.channel),
            outputs: [launched.stdout, launched.stderr],
            // It is made anew with the process that is to have it.
            voice: Voice::new(launched.notify, launched.ready.filter(|_| !is_deferred)),
            steps: Some(plan.into()),
            is_over: false,
            is_dead: false,
            surplus: Default::default(),
            places: Default::default(),
            notes: None,
            before: Usage::default(),
            version: Some(VERSION.into()),
            events: None,
        };
        if has_hooks {
            // Before the output is looked at: a pipe that nobody can write to is at its end.
            live.hold_writers();
        }
        if is_deferred {
            // Nothing says by itself that the sandbox stands.
            live.say(wire::SAY_STATUS, 0, 0);
        }
        live
    }

    /// A run that a predecessor launched.
    pub(super) fn adopted(run: RunId, traces: Traces, record: Option<&RunRecord>) -> Self {
        Self {
            run,
            init: None,
            main: record.and_then(|record| record.main),
            main_inside: None,
            hooks: Standing::adopted(record.and_then(|record| record.hook)),
            writers: [None, None],
            traces,
            attested: record.map(|record| record.attested.clone()).unwrap_or_default(),
            pidfd: None,
            channel: None,
            outputs: [None, None],
            voice: Voice::adopted(record),
            steps: None,
            is_over: false,
            is_dead: false,
            surplus: Default::default(),
            places: Default::default(),
            notes: None,
            before: Usage::default(),
            version: record.and_then(|record| record.version.clone()),
            events: None,
        }
    }

    /// What to poll.
    pub(super) fn interests(&self) -> impl Iterator<Item = (Part, BorrowedFd<'_>, PollFlags)> {
        let pidfd = self.pidfd.as_ref().filter(|_| !self.is_dead);
        let outputs =
            self.outputs.iter().enumerate().filter_map(|(n, fd)| Some((Part::Output(n), fd.as_ref()?)));
        let readable = pidfd
            .map(|fd| (Part::Init, fd))
            .into_iter()
            .chain(self.channel.as_ref().map(|fd| (Part::Channel, fd)))
            .chain(outputs)
            .chain(self.voice.interests())
            .map(|(part, fd)| (part, fd.as_fd(), PollFlags::IN));
        let hook = self.hooks.interest().map(|fd| (Part::Hook, fd, PollFlags::IN));
        // The kernel tells of a change of cgroup.events by POLLPRI (cgroup-v2.rst).
        readable.chain(hook).chain(self.events.as_ref().map(|fd| (Part::Empty, fd.as_fd(), PollFlags::PRI)))
    }

    /// Whether it has to be looked at again after some time, be there news of it or not.
    pub(super) fn is_timed(&self) -> bool {
        self.hooks.until().is_some() || self.voice.is_timed()
    }

    /// Whether its init has ended.
    pub(super) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// What the steps of its main process are called after.
    pub(super) fn has_steps(&mut self, steps: impl Into<Steps>) {
        self.steps = Some(steps.into());
    }

    /// Opens write ends of its output, where they are not open yet.
    pub(super) fn open_writers(&mut self) -> Result<(), SysError> {
        let new = launch::hooks::writers(&self.outputs)?;
        for (held, new) in self.writers.iter_mut().zip(new) {
            *held = held.take().or(new);
        }
        Ok(())
    }

    /// As [`LiveRun::open_writers`], where commands may come.
    fn hold_writers(&mut self) {
        if let Err(error) = self.open_writers() {
            tracing::error!("commands have no output: {error}");
        }
    }

    /// Sends a signal to the process group of a session.
    pub(super) fn signal_session(&self, session: u32, signal: i32) {
        if let Some(channel) = &self.channel {
            let message = wire::Message::new(wire::SAY_SIGNAL, session, i64::from(signal), 0);
            let _ = socket::send(channel.as_fd(), &init::message_bytes(&message), &[]);
        }
    }

    /// Its init, for as long as that lives and is not on its way out.
    pub(super) fn init_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().filter(|_| !self.is_dead && !self.is_over).map(AsFd::as_fd)
    }

    /// What a further process of the sandbox is to find there.
    pub(super) fn seen(&self) -> Result<Seen, SysError> {
        let gone = || SysError::new("stat", "the init's namespaces", libc::ESRCH);
        let (pid, start_time) = self.init.ok_or_else(gone)?;
        let seen = launch::of_session(pid)?;
        // After the look: the number was not somebody else's meanwhile.
        if is_alive(pid, start_time) { Ok(seen) } else { Err(gone()) }
    }

    /// Where it is noted what is under way of its output.
    pub(super) fn notes(&mut self) -> Option<&File> {
        if self.notes.is_none() {
            self.notes = File::options().read(true).write(true).open(&self.traces.words).ok();
        }
        self.notes.as_ref()
    }

    /// Says something to the init. One that is ending does not listen any more.
    pub(super) fn say(&self, verb: u32, a: i64, b: i64) {
        self.say_message(&wire::Message::new(verb, 0, a, b));
    }

    /// As `say`.
    pub(super) fn say_message(&self, message: &wire::Message) {
        if let Some(channel) = &self.channel {
            let _ = socket::send(channel.as_fd(), &init::message_bytes(message), &[]);
        }
    }

    /// Its last words, if it had any since its main process was started.
    pub(super) fn last_words(&self) -> Option<wire::Words> {
        std::fs::read(&self.traces.words).ok().and_then(|bytes| init::words_from(&bytes))
    }

    /// Takes the words about an earlier main process back, before another one is started in the same sandbox.
    fn forget_words(&self) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&self.traces.words);
        // Written over, not truncated: the room stays.
        let _ = file.and_then(|file| file.write_all_at(&[0; size_of::<wire::Words>()], 0));
    }
}

impl Supervisor {
    pub(super) fn channel_ready(&mut self, name: &UnitName) {
        loop {
            let Some(channel) = self.runs.get(name).and_then(|run| run.channel.as_ref()) else { return };
            let received = match socket::receive(channel.as_fd(), size_of::<wire::Message>()) {
                Ok(received) => received,
                Err(error) if error.errno == libc::EAGAIN => return,
                Err(_) => socket::Received::default(),
            };
            let Some(message) = init::message_from(&received.bytes) else {
                // The end. What the init had to say after it lies in its last words.
                if let Some(run) = self.runs.get_mut(name) {
                    run.channel = None;
                    if run.pidfd.is_none() {
                        self.init_ended(name);
                    }
                }
                return;
            };
            self.heard(name, &message, received);
        }
    }

    fn heard(&mut self, name: &UnitName, message: &wire::Message, received: socket::Received) {
        if message.session & wire::AWAITED != 0 {
            self.hook_heard(name, message);
            return;
        }
        if message.session != 0 {
            self.session_heard(name, message, received);
            return;
        }
        let Some(run) = self.runs.get_mut(name) else { return };
        let id = run.run;
        match message.verb {
            wire::SAY_HELLO => {
                run.main = received.pid;
                self.has_process(name, id);
                self.persist(name);
                self.point(name, "heard-hello");
            }
            wire::SAY_STARTED => {
                run.main_inside = Some(message.a);
                // With a thousand services those that are done would be what takes most of our memory.
                run.steps.iter_mut().for_each(Steps::executed);
                self.point(name, "heard-started");
                self.report(name, Report::Started(id));
            }
            wire::SAY_MAIN => self.followed(name, message, &received.fds),
            wire::SAY_FAULT => {
                let number = usize::try_from(message.a).unwrap_or_default();
                let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
                let fault =
                    LaunchFault::child(number, run.steps.as_ref().and_then(|steps| steps.get(number)), errno);
                run.is_over = true;
                self.launch_failed(name, id, fault);
            }
            wire::SAY_EXITED => {
                run.is_over = true;
                (run.main, run.main_inside) = (None, None);
                self.exited(name, id, exit_kind(message.a));
            }
            wire::SAY_KEPT => {
                let label = init::label_text(&message.label);
                let output = [Fd::KeepStdout, Fd::KeepStderr].iter().position(|fd| fd.label() == label);
                let Some(fd) = received.fds.into_iter().next() else { return };
                let _ = rustix::io::ioctl_fionbio(&fd, true);
                let Some(n) = output else { return run.voice.take(&label, fd) };
                {
                    run.outputs[n] = Some(fd);
                    if self.fleet.entry(name).is_some_and(|entry| !entry.unit.service.hooks.is_empty()) {
                        run.hold_writers();
                    }
                    self.output_back(name, n);
                    self.point(name, "heard-kept");
                }
            }
            // The master of the service's own terminal.
            wire::SAY_FD => {
                if let Some(fd) = received.fds.into_iter().next() {
                    let _ = rustix::io::ioctl_fionbio(&fd, true);
                    // The last master to close hangs the terminal up: the init holds one, so that a supervisor's death
                    // is no SIGHUP for the service, and hands it over as the output that it is.
                    let label = init::label(Fd::KeepStdout.label());
                    let keep = wire::Message { label, ..wire::Message::new(wire::SAY_KEEP, 0, 0, 0) };
                    if let Some(channel) = &run.channel {
                        let _ = socket::send(channel.as_fd(), &init::message_bytes(&keep), &[fd.as_fd()]);
                    }
                    run.outputs[0] = Some(fd);
                }
            }
            // It has a main process: the predecessor's word was on its way.
            wire::SAY_FULL => run.say(wire::SAY_STATUS, 0, 0),
            wire::SAY_STATE => {
                self.point(name, "heard-state");
                self.identified(name, received.pid, message.a);
            }
            _ => {}
        }
    }

    /// The init has ended, and with it, where the pid namespace is its own, everything in the sandbox.
    pub(super) fn init_ended(&mut self, name: &UnitName) {
        // What it still said comes first.
        if self.runs.get(name).is_some_and(|run| run.channel.is_some() && run.pidfd.is_some()) {
            self.channel_ready(name);
        }
        self.point(name, "init-ended");
        let Some(run) = self.runs.get_mut(name) else { return };
        run.is_dead = true;
        if let Some(pidfd) = &run.pidfd {
            launch::reap(pidfd);
        }
        run.channel = None;
        let (id, is_over) = (run.run, run.is_over);
        run.is_over = true;
        let words = run.last_words();
        if let (Some(tree), Some(group)) = (self.launcher.tree(), &run.traces.cgroup)
            && let Err(error) = tree.kill(group)
        {
            tracing::error!(unit = %name, "{error}");
        }
        for stream in 0..2 {
            self.drain(name, stream);
        }
        if !is_over {
            let kind = words.map_or(ExitKind::Unknown, |words| exit_kind(i64::from(words.status)));
            self.exited(name, id, kind);
        }
        self.point(name, "init-told");
        self.hooks_without_init(name);
        if self.fleet.entry(name).is_some_and(|entry| entry.unit.service.hooks.has_privileged()) {
            // Some of what follows its end runs outside, and goes before the end of the run.
            self.pump();
        }
        self.maybe_gone(name);
    }

    /// Reads what is left in a pipe that nobody writes to any more.
    fn drain(&mut self, name: &UnitName, stream: usize) {
        // Bounded: where a process of a shared pid namespace is left, it might write for ever.
        for _ in 0..64 {
            let Some(fd) = self.runs.get(name).and_then(|run| run.outputs[stream].as_ref()) else { return };
            let mut poll = [rustix::event::PollFd::new(fd, PollFlags::IN)];
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            if !rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0) {
                return;
            }
            self.output_ready(name, stream);
        }
    }

    /// Whether the control group is empty; if not, we are woken when it changes.
    pub(super) fn maybe_gone(&mut self, name: &UnitName) {
        let Some(run) = self.runs.get_mut(name).filter(|run| !run.hooks.is_busy()) else { return };
        if let (Some(tree), Some(group)) = (self.launcher.tree(), &run.traces.cgroup) {
            let path = tree.path(group).join("cgroup.events");
            if run.events.is_none() {
                run.events = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
            }
            // Opened before it is read: no change in between goes unnoticed.
            if run.events.as_ref().is_some_and(cgroup::is_populated) {
                return;
            }
        }
        run.events = None;
        let id = run.run;
        self.note_usage(name, None);
        self.report(name, Report::Gone(id));
    }

    pub(super) fn tear_down(&mut self, name: &UnitName) {
        // While there is a file to note it in.
        self.tell_dropped(name);
        let Some(run) = self.runs.remove(name) else { return };
        for error in self.launcher.tear_down(&run.traces) {
            tracing::error!(unit = %name, "not removed: {error}");
        }
        let base = name.base();
        // The other run goes on in it.
        if !self.is_shared(name)
            && let Some(log) = self.logs.get_mut(&base)
        {
            let _ = log.finish(Timestamp::now());
            self.clients.wrote(&base);
            self.forwards.wrote(&base);
        }
        self.point(name, "torn-down");
        self.sessions_ended(name);
        self.reload_ended(name);
        if self.nets.get(name).is_some_and(|net| net.is_fleeting) {
            self.release(name);
        }
        self.persist(name);
    }

    /// Sends a signal to the main process, or to every process of the sandbox.
    pub(super) fn signal(&self, name: &UnitName, signal: i32, everybody: bool) {
        let Some(run) = self.runs.get(name) else { return };
        // Where the pid namespace has members of another service, too, it says nothing about who is meant.
        let shared = self.fleet.entries().iter().any(|(other, entry)| match &entry.unit.namespaces.pid {
            Namespace::Own => false,
            Namespace::Host => other == name,
            Namespace::Join(of) => other == name || of == name,
        });
        match (self.launcher.tree(), &run.traces.cgroup) {
            // The init must not signal everybody whom it sees.
            (Some(tree), Some(group)) if everybody && shared => {
                if let Ok(signal) = nix::sys::signal::Signal::try_from(signal) {
                    tree.signal(group, signal, run.init.map(|(pid, _)| pid));
                }
            }
            _ => run.say(wire::SAY_SIGNAL, i64::from(signal), i64::from(everybody)),
        }
    }

    pub(super) fn kill_tree(&mut self, name: &UnitName) {
        if self.forget_fetch(name) {
            return;
        }
        let Some(run) = self.runs.get_mut(name) else { return };
        let was_busy = run.hooks.is_busy();
        run.hooks.forget();
        if let (Some(tree), Some(group)) = (self.launcher.tree(), &run.traces.cgroup)
            && let Err(error) = tree.kill(group)
        {
            tracing::error!(unit = %name, "{error}");
        }
        if let Some(pidfd) = &run.pidfd {
            launch::kill(pidfd.as_fd());
        }
        if was_busy && run.is_dead {
            self.maybe_gone(name);
        }
    }

    /// SIGKILL to all that runs for it but the init.
    pub(super) fn kill_all(&mut self, name: &UnitName) {
        self.kill_hooks(name);
        self.signal(name, libc::SIGKILL, true);
    }

    /// The main process once more, in the sandbox that stands.
    pub(super) fn relaunch(&mut self, name: &UnitName, run: RunId) {
        let Some(unit) = self.unit_of(name) else { return };
        if !self.suits(name, run, true) {
            return;
        }
        self.mark_for_start(name);
        if unit.service.hooks.go_before() {
            return self.prepare_again(name, run);
        }
        let sent = self.respawn(name, &unit, run);
        self.point(name, "relaunch-sent");
        let before = self.used_in_all(name);
        if let Some(live) = self.runs.get_mut(name) {
            live.run = run;
            live.before = before;
            live.is_over = sent.is_err();
        }
        if let Err(fault) = sent {
            self.launch_failed(name, run, fault);
        }
        self.persist(name);
    }

    /// As [`Supervisor::relaunch`], where commands go before.
    fn prepare_again(&mut self, name: &UnitName, run: RunId) {
        let before = self.used_in_all(name);
        self.faults.remove(name);
        if let Some(live) = self.runs.get_mut(name) {
            live.forget_words();
            (live.run, live.before, live.is_over) = (run, before, false);
        }
        self.prepare(name);
    }

    fn respawn(&mut self, name: &UnitName, unit: &Unit, run: RunId) -> Result<(), Box<LaunchFault>> {
        self.admit(unit)?;
        self.hold_sockets_for(name)?;
        let mut assigned = self.assign(unit, run, true)?;
        let (_, sockets, stored) = self.give(name, unit, &mut assigned)?;
        let plan = self.plan(unit, &assigned);
        let after = crate::plan::kept_anew(unit);
        let session = Session { number: 0, steps: plan.service, after, flags: plan.flags };
        let refused = |error: SysError| LaunchFault::refused("relaunch", &error.to_string());
        let owner = crate::plan::owner(unit, &assigned);
        let (mut fds, outputs) = launch::stdio(unit, owner, None).map_err(refused)?;
        let given = sockets.into_iter().map(|(_, fd)| fd).chain(stored);
        fds.extend((0..).map(Fd::Given).zip(given));
        let live = self.runs.get_mut(name).ok_or_else(LaunchFault::init_died)?;
        live.forget_words();
        live.voice.begin_again();
        let channel = live.channel.as_ref().ok_or_else(LaunchFault::init_died)?;
        if let Some((theirs, ours)) = launch::ready::later(unit, channel.as_fd()).map_err(refused)? {
            fds.push((Fd::Ready, theirs));
            live.voice.ready = Some(ours);
        }
        let seen = live.seen().map_err(refused)?;
        let bytes = lower::lower_session(&session, &seen);
        launch::send_plan(channel.as_fd(), wire::SAY_SPAWN, 0, &bytes, &session.fds(), &fds)
            .map_err(refused)?;
        live.outputs = outputs;
        live.writers = [None, None];
        live.has_steps(session);
        Ok(())
    }
}

/// Whether this process is still the one that a record tells of.
pub(super) fn is_alive(pid: u32, start_time: u64) -> bool {
    Path::new("/proc").join(pid.to_string()).exists() && state::start_time(pid) == Some(start_time)
}
