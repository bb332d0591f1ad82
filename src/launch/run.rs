//! `palisade run FILE`: one service in the foreground, without a supervisor, with its exit status as ours.

mod around;

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use super::{
    Given, Journal, LaunchFault, Launcher, Net, NetworkHost, Run, StepError, credentials, input::Input,
    unprivileged,
};
use crate::{
    cgroup,
    config::settings::{IDS_PER_SERVICE, Settings},
    init::{self, wire},
    machine::Cause,
    net::{
        addr::MOST_RUNS,
        forwarding::Changed,
        link::LinkPlan,
        listen::{self, Held},
    },
    plan::{self, Assigned, unprivileged::Unprivileged},
    spec::{
        HostFacts, NetworkMode, Stdin, StopMode, Unit,
        condition::{Unmet, unmet},
    },
    sys::{SysError, present::Present, socket, terminal},
};

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// With this exit status, or 128 and the number of the signal.
    Code(u8),
    /// `timeout.start` or `timeout.run` was over.
    TimedOut,
    /// It never started.
    Fault(Box<LaunchFault>),
}

/// Runs `unit` until it ends. `dir` is Palisade's run-time directory, `state` its persistent one.
///
/// # Errors
/// What kept Palisade from preparing a launch at all.
pub fn run(
    unit: &Unit,
    facts: &HostFacts,
    settings: &Settings,
    dir: &Path,
    state: &Path,
) -> Result<Ended, SysError> {
    match unmet(&unit.condition, &unit.assert, &Present) {
        Some(Unmet::Condition(check)) => {
            tracing::warn!("{}: not run: {check} does not hold", unit.name);
            return Ok(Ended::Code(0));
        }
        Some(Unmet::Assert(check)) => return Ok(Ended::Fault(LaunchFault::asserted(&check))),
        None => {}
    }
    let is_users = unprivileged::is_unprivileged()?;
    let tree = match is_users {
        true => unprivileged::tree(settings)?,
        false => cgroup::Tree::find(settings.cgroup.as_deref())?,
    };
    let made = match is_users
        .then(|| plan::unprivileged::decide(unit, &unprivileged::caller(facts, tree.as_ref()), facts))
    {
        Some(Err(refused)) => return Ok(Ended::Fault(LaunchFault::refused(refused.key, &refused.reason))),
        Some(Ok(made)) => Some(made),
        None => None,
    };
    if unit.accepts() {
        let error = "a run for each connection is for `palisade supervise`: nobody here would count them";
        return Ok(Ended::Fault(LaunchFault::refused("socket.accept", error)));
    }
    if let Some(name) = unit.network.egress_names.first() {
        let error = format!(
            "where {} leads `palisade supervise` watches: nobody here answers what names mean, write addresses",
            name.name
        );
        return Ok(Ended::Fault(LaunchFault::refused("network.egress", &error)));
    }
    let slot = Slot::take(dir)?;
    // Where the host's network and files still are those of this process.
    let mut held = Vec::new();
    for socket in &unit.sockets {
        match listen::open(socket) {
            Ok(socket) => held.push(socket),
            Err(error) => {
                held.into_iter().for_each(Held::close);
                slot.clear();
                return Ok(Ended::Fault(LaunchFault::listen(socket, error)));
            }
        }
    }
    let ended = within(&slot, unit, facts, (settings, state), (tree, made, &held));
    held.into_iter().for_each(Held::close);
    // Whatever came of it: what is left here would be the next one's to clear.
    slot.clear();
    ended
}

/// The run itself, with a number of its own; for an ordinary user with what was `made` of its wishes.
fn within(
    slot: &Slot,
    unit: &Unit,
    facts: &HostFacts,
    (settings, state): (&Settings, &Path),
    (tree, made, held): (Option<cgroup::Tree>, Option<Unprivileged>, &[Held]),
) -> Result<Ended, SysError> {
    let is_users = made.is_some();
    let id_base = if is_users { 0 } else { id_base(settings, slot.number)? };
    let ended = match &made {
        None => Ok((None, None)),
        Some(made) => enter(unit, made, slot, settings),
    };
    let (entered, secrets) = match ended {
        Ok(entered) => entered,
        Err(fault) => return Ok(Ended::Fault(fault)),
    };
    // Runs of this kind count from the top of every range, a supervisor counts from the bottom.
    let network = settings.network.of_run(slot.number);
    let link = match &unit.network.mode {
        NetworkMode::Veth if !is_users => {
            // The name of the link of whoever had the slot before us is taken for a moment longer.
            let generation = std::process::id() % 26;
            let position = match unit.network.address {
                Some(address) => network.prefix4.slot(address).ok(),
                None => {
                    let places = network.places(unit.network.bridge.as_deref());
                    usize::try_from(slot.number).ok().and_then(|number| places.iter().rev().nth(number))
                }
            };
            position.and_then(|position| LinkPlan::of(&network, (position, generation), &unit.network))
        }
        NetworkMode::Veth
        | NetworkMode::None
        | NetworkMode::Attached(_)
        | NetworkMode::Join(_)
        | NetworkMode::Host => None,
    };
    let group = tree.as_ref().map(|tree| tree.group(unit.name.as_str(), u64::from(std::process::id())));
    let (dir, of) = (slot.dir.clone(), group.clone());
    let journal = Journal::new(move |changed| Slot::note(&dir, of.as_deref(), changed));
    let mut launcher = match Launcher::open(&slot.dir, tree, NetworkHost::new(network, journal), is_users) {
        Err(error) if is_users => {
            return Ok(Ended::Fault(unprivileged::refused(&error)));
        }
        launcher => launcher?,
    };
    let assigned = Assigned {
        run: u64::from(std::process::id()),
        id_base,
        cgroup: group,
        root: launcher.root().to_path_buf(),
        state: state.to_path_buf(),
        link,
        netns_kept: false,
        talk: BTreeSet::new(),
        peers: Vec::new(),
        stored: Vec::new(),
        machine_id: plan::machine_id(&facts.hostname, unit.name.as_str()),
        ends_with_launcher: true,
        unprivileged: made,
    };
    slot.clear_left(&mut launcher, is_users);
    Slot::note(&slot.dir, assigned.cgroup.as_deref(), launcher.network.changed())?;
    let foreground = Foreground::new(&mut launcher, unit);
    let ended = foreground.and_then(|foreground| foreground.launch(&assigned, facts, (secrets, held)));
    // Before the groups: what ends with it is in one of them.
    drop(entered);
    if let Some(tree) = launcher.tree() {
        tree.remove_base();
    }
    if let Err(error) = launcher.network.close() {
        tracing::warn!("{}: {error}", unit.name);
    }
    drop(launcher);
    ended
}

/// The first id of run `number`: the ranges from the top, none below `ids.base`, where the host's own users are.
fn id_base(settings: &Settings, number: u32) -> Result<u32, SysError> {
    let own = (number < settings.run_ranges()).then_some(number + 1);
    match own.and_then(|own| settings.id_count.checked_sub(own)) {
        Some(range) => Ok(settings.id_base + range * IDS_PER_SERVICE),
        None => {
            let args = format!("run {number}, ids.count = {}", settings.id_count);
            Err(SysError::new("ids", args, libc::EUSERS))
        }
    }
}

/// What an ordinary user's run begins with: afterwards this process is root, of a user namespace of its own.
fn enter(
    unit: &Unit,
    made: &Unprivileged,
    slot: &Slot,
    settings: &Settings,
) -> Result<Begun, Box<LaunchFault>> {
    // Before: there, the host's root is nobody, and whose a file is cannot be told any more.
    let secrets =
        credentials::gather_all(&unit.security.credentials).map_err(|error| credentials::fault(&error))?;
    let entered = unprivileged::enter(made, &slot.dir, settings.network.prefix4)?;
    if !made.missing.is_empty() {
        tracing::warn!("{}: without root: {}", unit.name, made.missing.join("; "));
    }
    Ok((Some(entered), Some(secrets)))
}

/// The namespaces that were entered, and what was read before.
type Begun = (Option<unprivileged::Entered>, Option<Vec<credentials::Secret>>);

/// A number that no other `palisade run` has at the moment: ids, addresses and directories derive from it. The lock goes
/// with the process, however it ends.
struct Slot {
    number: u32,
    dir: PathBuf,
    lock: PathBuf,
    _held: std::fs::File,
    /// What a run that was killed has left here.
    left: Option<Left>,
}

/// What outlives a run whose `palisade` is killed: the kernel takes everything else along.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Left {
    group: Option<PathBuf>,
    forwarding: Changed,
}

impl Left {
    /// A file that was cut off tells of nothing.
    fn read(text: &[u8]) -> Self {
        serde_json::from_slice(text).unwrap_or_default()
    }
}

/// For `fuzz/`.
#[cfg(fuzzing)]
pub fn left(text: &[u8]) -> bool {
    Left::read(text).group.is_some()
}

fn is_same_file(file: &std::fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |data: std::fs::Metadata| (data.dev(), data.ino());
    matches!((file.metadata().map(id), path.metadata().map(id)), (Ok(ours), Ok(there)) if ours == there)
}

impl Slot {
    /// The run-time directory stays when everything else goes: a lock in a directory that may vanish locks nothing.
    fn take(dir: &Path) -> Result<Self, SysError> {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o755)
            .create(dir)
            .map_err(|error| SysError::new("mkdir", dir.display().to_string(), error))?;
        for number in 0..MOST_RUNS {
            let path = dir.join(format!("run-{number}.lock"));
            let lock = std::fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(|error| SysError::new("open", path.display().to_string(), error))?;
            // Whoever had it before may have removed the file between our open and our lock.
            match lock.try_lock() {
                Ok(()) if is_same_file(&lock, &path) => {}
                Ok(()) | Err(std::fs::TryLockError::WouldBlock) => continue,
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(SysError::new("flock", path.display().to_string(), error));
                }
            }
            let dir = dir.join(format!("run-{number}"));
            let left = std::fs::read(dir.join("left.json")).ok();
            let left = left.map(|text| Left::read(&text));
            return Ok(Self { number, dir, lock: path, _held: lock, left });
        }
        Err(SysError::new("flock", dir.display().to_string(), libc::EAGAIN))
    }

    /// Takes away what a predecessor with this number left. What cannot be removed is told, and in nobody's way.
    fn clear_left(&self, launcher: &mut Launcher, is_users: bool) {
        let Some(left) = &self.left else { return };
        let group = match (launcher.tree(), &left.group) {
            (Some(tree), Some(group)) => tree.clear(group).map_err(StepError::from),
            _ => Ok(()),
        };
        // An ordinary user's was in a namespace that went with it.
        let network = match is_users {
            true => Ok(()),
            false => launcher.network.clear_left(left.forwarding.clone()).map_err(StepError::from),
        };
        for error in [group, network].into_iter().filter_map(Result::err) {
            tracing::warn!("left by a run that was killed: {error}");
        }
    }

    /// Notes what would be left if we were killed now.
    fn note(dir: &Path, group: Option<&Path>, changed: &Changed) -> Result<(), SysError> {
        let left = Left { group: group.map(Path::to_path_buf), forwarding: changed.clone() };
        let text = serde_json::to_vec(&left).expect("paths and names have a JSON form");
        // In one piece: whoever reads half of it puts nothing back.
        let (path, new) = (dir.join("left.json"), dir.join("left.new"));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|error| SysError::new("write", path.display().to_string(), error))
    }

    fn clear(&self) {
        for removed in [std::fs::remove_dir_all(&self.dir), std::fs::remove_file(&self.lock)] {
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("{}: {error}", self.dir.display());
            }
        }
    }
}

/// What the loop of one foreground run knows.
struct Foreground<'a> {
    launcher: &'a mut Launcher,
    unit: &'a Unit,
    signals: OwnedFd,
    /// Which signal came is in here; the pipe only wakes.
    seen: Vec<(i32, std::sync::Arc<std::sync::atomic::AtomicBool>)>,
    /// When something must happen that no descriptor announces.
    deadline: Option<(Instant, Due)>,
    started: bool,
    timed_out: bool,
    fault: Option<Box<LaunchFault>>,
    /// Our standard input, where it is copied.
    input: Option<Input>,
    /// The service's terminal.
    terminal: Option<OwnedFd>,
    /// Ours, while its keys go there.
    raw: Option<terminal::Raw>,
    /// Outputs that have come to their end.
    silent: [bool; 2],
    /// Of each output, what was read and waits for our own to take it.
    pending: [Vec<u8>; 2],
    /// A signal wants an end of it: a reader who does not read is not waited for any longer than [`PATIENCE`].
    stopping: bool,
    around: around::Around,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    TimeOut,
    Kill,
}

/// How long a reader may take none of what is left of the output, once a signal has asked for the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a pipe takes without blocking once poll(2) says that it takes something: PIPE_BUF, pipe(7).
const PIECE: usize = 4096;

const RELAYED: [i32; 4] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];
const STOPPING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

impl<'a> Foreground<'a> {
    fn new(launcher: &'a mut Launcher, unit: &'a Unit) -> Result<Self, SysError> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
                .map_err(|errno| SysError::new("pipe2", "", errno))?;
        let mut seen = Vec::new();
        for signal in RELAYED.into_iter().chain(STOPPING) {
            let fault = |error| SysError::new("sigaction", signal.to_string(), error);
            let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            signal_hook::flag::register(signal, flag.clone()).map_err(fault)?;
            let write = write.try_clone().map_err(fault)?;
            signal_hook::low_level::pipe::register(signal, write).map_err(fault)?;
            seen.push((signal, flag));
        }
        Ok(Self {
            launcher,
            unit,
            signals: read,
            seen,
            deadline: None,
            started: false,
            timed_out: false,
            fault: None,
            input: None,
            terminal: None,
            raw: None,
            silent: [false; 2],
            pending: [Vec::new(), Vec::new()],
            stopping: false,
            around: around::Around::default(),
        })
    }

    fn launch(
        mut self,
        assigned: &Assigned,
        facts: &HostFacts,
        (secrets, held): (Option<Vec<credentials::Secret>>, &[Held]),
    ) -> Result<Ended, SysError> {
        let plan = plan::build(self.unit, assigned, facts);
        let stdin = self.stdin()?;
        let service = plan::ids_on_host(self.unit, assigned, facts);
        let mut net: Option<Net> = None;
        let copy = |held: &Held| {
            let copy = rustix::io::fcntl_dupfd_cloexec(&held.fd, 3);
            Ok((held.socket.clone(), copy.map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))?))
        };
        let sockets: Result<Vec<_>, SysError> = held.iter().map(copy).collect();
        if plan.is_deferred() {
            self.keep_for_later(stdin.as_ref(), held)?;
        }
        let given = Given { service, stdin, secrets, sockets: sockets?, ..Given::default() };
        let launched = self.launcher.launch((self.unit, assigned, &plan), &mut net, given);
        let run = match launched {
            Ok(run) => run,
            Err(fault) => return Ok(Ended::Fault(fault)),
        };
        self.after(self.unit.service.start_timeout, Due::TimeOut);
        let ended = rustix::io::ioctl_fionbio(&run.channel, true)
            .map_err(|errno| SysError::new("ioctl", "FIONBIO", errno))
            .and_then(|()| {
                self.begin(&run, &plan, assigned.unprivileged.as_ref().is_some_and(Unprivileged::is_single))
            })
            .and_then(|()| self.watch(&run, &plan));
        if ended.is_err() {
            // Nobody watches over it any more.
            let _ = rustix::process::pidfd_send_signal(&run.pidfd, rustix::process::Signal::KILL);
            super::reap(&run.pidfd);
            self.around.give_up();
        }
        self.raw = None;
        if let (Some(tree), Some(group)) = (self.launcher.tree(), &run.traces.cgroup)
            && tree.usage(group).oom_kills > 0
        {
            let cause = if tree.is_out_of_memory(group) { Cause::MemoryMax } else { Cause::MemoryElsewhere };
            tracing::warn!("{}: killed: {cause}", self.unit.name);
        }
        for error in self.launcher.tear_down(&run.traces) {
            tracing::warn!("{}: {error}", self.unit.name);
        }
        if let Some(net) = net
            && let Err(error) = self.launcher.network.release(net)
        {
            tracing::warn!("{}: {error}", self.unit.name);
        }
        ended
    }

    /// What the service gets as standard input. Where ours is a terminal, a pipe that it is copied into: the service
    /// never holds the operator's terminal.
    fn stdin(&mut self) -> Result<Option<OwnedFd>, SysError> {
        if self.unit.service.stdin != Stdin::Inherit {
            return Ok(None);
        }
        let stdin = std::io::stdin();
        if !rustix::termios::isatty(&stdin) {
            let copy = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)
                .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))?;
            return Ok(Some(copy));
        }
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| SysError::new("pipe2", "", errno))?;
        self.input = Some(Input::new(write)?);
        Ok(Some(read))
    }

    fn after(&mut self, delay: Option<Duration>, due: Due) {
        self.deadline = delay.map(|delay| (Instant::now() + delay, due));
    }

    fn watch(&mut self, run: &Run, plan: &plan::LaunchPlan) -> Result<Ended, SysError> {
        let mut channel = Some(&run.channel);
        let mut lives = true;
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let ours = [stdout.as_fd(), stderr.as_fd()];
        while lives
            || self.around.is_busy()
            || (0..2).any(|n| self.output(run, n).is_some() || !self.pending[n].is_empty())
        {
            let mut fds = vec![(0, self.signals.as_fd(), PollFlags::IN)];
            fds.extend(lives.then_some((1, run.pidfd.as_fd(), PollFlags::IN)));
            fds.extend(channel.map(|fd| (2, fd.as_fd(), PollFlags::IN)));
            fds.extend((0..2).filter_map(|n| match self.pending[n].is_empty() {
                true => Some((3 + n, self.output(run, n)?.as_fd(), PollFlags::IN)),
                false => Some((3 + n, ours[n], PollFlags::OUT)),
            }));
            fds.extend(
                self.input.as_ref().map(|input| input.interest(&stdin)).map(|(fd, flags)| (5, fd, flags)),
            );
            fds.extend(self.around.interest().map(|fd| (6, fd, PollFlags::IN)));
            let lives_on = lives || self.around.is_busy();
            let ready = self.wait(&fds, lives_on)?;
            if !lives_on && self.stopping && ready.is_empty() {
                break;
            }
            if ready.contains(&0) {
                self.signalled(run, plan);
            }
            // Whatever was said before the init ended is heard before its end is looked at.
            if (ready.contains(&2) || ready.contains(&1)) && channel.is_some() && !self.messages(run, plan)? {
                channel = None;
            }
            for (n, ours) in ours.iter().enumerate() {
                if ready.contains(&(3 + n)) {
                    self.carry(run, n, *ours);
                }
            }
            if ready.contains(&5) && self.input.as_mut().is_some_and(|input| !input.go_on(&stdin)) {
                self.input = None;
            }
            if ready.contains(&1) {
                lives = false;
                super::reap(&run.pidfd);
                // Where the pid namespace is shared, processes may be left, and hold the pipes open.
                if let (Some(tree), Some(group)) = (self.launcher.tree(), &run.traces.cgroup) {
                    tree.kill(group)?;
                }
                self.without_init(run, plan);
            }
            if ready.contains(&6) {
                self.outside_ready(run, plan);
            }
            self.hook_overdue(run);
            self.due(run, plan);
        }
        Ok(self.ended(run))
    }

    /// What the service writes to standard output (0) or error (1), until it ends.
    fn output<'r>(&'r self, run: &'r Run, n: usize) -> Option<&'r OwnedFd> {
        let piped = [&run.stdout, &run.stderr][n].as_ref();
        let terminal = self.terminal.as_ref().filter(|_| n == 0);
        piped.or(terminal).filter(|_| !self.silent[n])
    }

    /// Reads a piece of output, or writes what was read: each when poll(2) says that it does not block, for a reader of
    /// ours who does not read must not keep us from hearing signals.
    fn carry(&mut self, run: &Run, n: usize, ours: BorrowedFd<'_>) {
        if self.pending[n].is_empty() {
            let Some(output) = self.output(run, n) else { return };
            let mut bytes = [0; 65536];
            match rustix::io::read(output, &mut bytes) {
                Ok(read) if read > 0 => self.pending[n].extend_from_slice(&bytes[..read]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => self.silent[n] = true,
            }
            return;
        }
        let piece = self.pending[n].len().min(PIECE);
        match rustix::io::write(ours, &self.pending[n][..piece]) {
            Ok(written) => drop(self.pending[n].drain(..written)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // A reader that went away is no reason to stop the service: as with a log that nobody reads.
            Err(_) => self.pending[n].clear(),
        }
    }

    /// Waits; the numbers of the descriptors that are ready.
    fn wait(&self, fds: &[(usize, BorrowedFd<'_>, PollFlags)], lives: bool) -> Result<Vec<usize>, SysError> {
        let timeout = match lives || !self.stopping {
            true => {
                let deadline = self.deadline.map(|(at, _)| at).into_iter().chain(self.around.until()).min();
                deadline.map(|at| at.saturating_duration_since(Instant::now()))
            }
            false => Some(PATIENCE),
        };
        let timeout = timeout.map(|left| rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut poll: Vec<PollFd<'_>> =
            fds.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match rustix::event::poll(&mut poll, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("poll", "", errno)),
        }
        let ready = fds.iter().zip(&poll).filter(|(_, poll)| !poll.revents().is_empty());
        Ok(ready.map(|((number, ..), _)| *number).collect())
    }

    /// Hears everything that the init has said; false at the end.
    fn messages(&mut self, run: &Run, plan: &plan::LaunchPlan) -> Result<bool, SysError> {
        loop {
            let received = match socket::receive(run.channel.as_fd(), size_of::<wire::Message>()) {
                Ok(received) => received,
                Err(error) if error.errno == libc::EAGAIN => return Ok(true),
                Err(error) if error.errno == libc::ECONNRESET => return Ok(false),
                Err(error) => return Err(error),
            };
            let Some(message) = init::message_from(&received.bytes) else { return Ok(false) };
            if message.verb == wire::SAY_HELLO && message.session == 0 {
                self.around.host = received.pid;
            }
            if !self.heard_around(&message, run, plan) {
                self.heard(&message, received.fds, plan)?;
            }
        }
    }

    fn heard(
        &mut self,
        message: &wire::Message,
        fds: Vec<OwnedFd>,
        plan: &plan::LaunchPlan,
    ) -> Result<(), SysError> {
        match message.verb {
            wire::SAY_STARTED => {
                self.started = true;
                self.after(self.unit.service.run_timeout, Due::TimeOut);
            }
            wire::SAY_FAULT => {
                let number = usize::try_from(message.a).unwrap_or_default();
                let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
                self.fault = Some(LaunchFault::child(number, plan.child_step(number), errno));
            }
            wire::SAY_FD => {
                if let Some(master) = fds.into_iter().next() {
                    self.on_terminal(master)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The service has a terminal: what we are given goes there, ours becomes its mirror.
    fn on_terminal(&mut self, master: OwnedFd) -> Result<(), SysError> {
        let again = rustix::io::fcntl_dupfd_cloexec(&master, 3)
            .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))?;
        self.input = Some(Input::new(again)?);
        if rustix::termios::isatty(std::io::stdin()) {
            terminal::copy_size(&master);
            self.raw = Some(terminal::Raw::enter()?);
        }
        self.terminal = Some(master);
        Ok(())
    }

    fn signalled(&mut self, run: &Run, plan: &plan::LaunchPlan) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.signals, &mut bytes).is_ok_and(|read| read > 0) {}
        let came: Vec<i32> = self
            .seen
            .iter()
            .filter(|(_, flag)| flag.swap(false, std::sync::atomic::Ordering::SeqCst))
            .map(|(signal, _)| *signal)
            .collect();
        self.stopping |= came.iter().any(|signal| STOPPING.contains(signal));
        for signal in came {
            if let (libc::SIGWINCH, Some(master)) = (signal, &self.terminal) {
                terminal::copy_size(master);
            } else if !STOPPING.contains(&signal) {
                say(run, wire::SAY_SIGNAL, i64::from(signal), 0);
            } else if self.deadline.is_some_and(|(_, due)| due == Due::Kill) {
                // Asked twice.
                self.around.give_up();
                kill_init(run);
            } else {
                self.stop(run, plan);
            }
        }
    }

    fn stop(&mut self, run: &Run, plan: &plan::LaunchPlan) {
        self.after(self.unit.service.stop.timeout, Due::Kill);
        if !self.stop_around(run, plan) {
            self.ask_to_stop(run);
        }
    }

    fn ask_to_stop(&self, run: &Run) {
        let stop = &self.unit.service.stop;
        let everybody = i64::from(stop.mode == StopMode::ControlGroup);
        say(run, wire::SAY_SIGNAL, i64::from(stop.signal), everybody);
    }

    fn due(&mut self, run: &Run, plan: &plan::LaunchPlan) {
        match self.deadline {
            Some((at, due)) if at <= Instant::now() => {
                self.deadline = None;
                if due == Due::TimeOut {
                    self.timed_out = true;
                    self.stop(run, plan);
                } else if !self.kill_but_init(run) {
                    self.around.give_up();
                    kill_init(run);
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, run: &Run) -> Ended {
        if let Some(fault) = self.fault.take() {
            return Ended::Fault(fault);
        }
        if self.timed_out {
            return Ended::TimedOut;
        }
        if self.around.skipped {
            tracing::warn!("{}: not run: service.condition said no", self.unit.name);
            return Ended::Code(0);
        }
        if !self.started {
            return Ended::Fault(LaunchFault::init_died());
        }
        let words = std::fs::read(&run.traces.words).ok().and_then(|bytes| init::words_from(&bytes));
        // Without last words the init itself was killed.
        let status = words.map_or(libc::SIGKILL, |words| words.status);
        let code = match libc::WIFEXITED(status) {
            true => libc::WEXITSTATUS(status),
            false => 128 + libc::WTERMSIG(status),
        };
        Ended::Code(u8::try_from(code).unwrap_or(u8::MAX))
    }
}

/// SIGKILL to the init, which takes everything inside along.
fn kill_init(run: &Run) {
    super::kill(run.pidfd.as_fd());
}

/// Says something to the init. One that is ending does not listen any more.
fn say(run: &Run, verb: u32, a: i64, b: i64) {
    let message = wire::Message::new(verb, 0, a, b);
    let _ = socket::send(run.channel.as_fd(), &init::message_bytes(&message), &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_runs_than_id_ranges_do_not_reach_the_hosts_own_ids() {
        let settings = Settings { id_base: IDS_PER_SERVICE, id_count: 24, ..Settings::default() };
        let bases: Vec<_> = (0..3).map(|number| id_base(&settings, number).unwrap()).collect();
        assert_eq!(bases, [24 << 16, 23 << 16, 22 << 16]);
        assert_eq!(settings.service_ranges(), 21, "none is a service's and a run's");
        assert_eq!(id_base(&settings, 3).unwrap_err().errno, libc::EUSERS);
    }
}
