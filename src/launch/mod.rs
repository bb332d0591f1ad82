//! The parent's side of one launch: does the host steps of a plan in order, and undoes them when one fails.
//!
//! Every step that makes something pushes what takes it away again. A failure unwinds in reverse and reports the
//! first cause first; success leaves a [`Run`], which knows how to tear itself down, and a [`Net`], which outlives it.

pub mod credentials;
mod fault;
pub mod hooks;
mod input;
mod join;
pub mod limits;
mod network;
pub mod ready;
pub mod run;
mod seen;
pub mod unprivileged;
mod user_link;

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Resource, Rlimit},
};

pub use crate::sys::{clone::reap, socket::channel};
pub use fault::{LaunchFault, Retry, StepError};
pub use join::Peers;
pub use network::{Journal, Net, NetworkHost};
pub use seen::of_session;

use crate::{
    cgroup,
    config::settings::IDS_PER_SERVICE,
    init::{self, wire},
    machine::ExitKind,
    net::netns::NetNs,
    plan::{Assigned, FailAt, Fd, HostStep, LaunchPlan, NsKind, Seen, lower, render},
    rootfs::{self, IdRange, Workshop, write_id_maps},
    spec::{Socket, Stdin, Unit, UnitName},
    sys::{
        SysError,
        clone::{self, Child, Spawn},
        file, schedule, socket,
    },
};

/// What every launch needs.
#[derive(Debug)]
pub struct Launcher {
    /// Channels and last words of runs.
    dir: PathBuf,
    workshop: Workshop,
    program: OwnedFd,
    /// Where an init finds its channel.
    low: clone::Low,
    tree: Option<cgroup::Tree>,
    /// RLIMIT_NOFILE of inits: 1024; the hard limit is ours, so that a service can be given up to that.
    descriptors: Rlimit,
    sockets: ready::Sockets,
    /// The host's side of the network.
    pub network: NetworkHost,
}

/// A launched sandbox. The init goes on by itself; it is watched through these.
#[derive(Debug)]
pub struct Run {
    /// Of the init.
    pub pid: u32,
    /// Of the init.
    pub pidfd: OwnedFd,
    /// Messages of `init::wire`.
    pub channel: OwnedFd,
    /// Read end of the service's standard output.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error.
    pub stderr: Option<OwnedFd>,
    /// Where it says how it is.
    pub notify: Option<OwnedFd>,
    /// Where it says that it is ready.
    pub ready: Option<OwnedFd>,
    /// What is to be removed when the run has ended.
    pub traces: Traces,
}

/// What a run leaves on the host for as long as it lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Traces {
    /// The control group, relative to the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// The init's listening socket.
    pub socket: PathBuf,
    /// The last words.
    pub words: PathBuf,
}

/// What a launch is given beside its plan.
#[derive(Debug, Default)]
pub struct Given {
    /// The service's own ids on the host, where they are known before the sandbox exists.
    pub service: Option<(u32, u32)>,
    /// What `stdin = "inherit"` inherits.
    pub stdin: Option<OwnedFd>,
    /// The services whose namespaces may be joined.
    pub peers: Peers,
    /// The network namespace that is joined.
    pub joined: Option<NetNs>,
    /// The credentials, where they were read already.
    pub secrets: Option<Vec<credentials::Secret>>,
    /// Copies of the held sockets.
    pub sockets: Vec<(Socket, OwnedFd)>,
    /// Copies of what earlier runs have stored, in the order of their names.
    pub stored: Vec<OwnedFd>,
}

/// Takes back one step.
enum Undo {
    Cgroup(PathBuf),
    Net,
    Root,
    File(PathBuf),
    Child,
}

/// Where one launch stands.
pub struct Launch<'a> {
    unit: &'a Unit,
    assigned: &'a Assigned,
    plan: &'a LaunchPlan,
    net: &'a mut Option<Net>,
    undo: Vec<Undo>,
    cgroup: Option<OwnedFd>,
    fds: Vec<(Fd, OwnedFd)>,
    ours: Option<OwnedFd>,
    theirs: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
    notify: Option<OwnedFd>,
    ready: Option<OwnedFd>,
    child: Option<Child>,
    traces: Traces,
    given: Given,
    joins: join::Joins,
    seen: Seen,
}

impl Launcher {
    /// Prepares to launch, for an ordinary user or for all: a mount namespace, the sealed init, the control group tree.
    ///
    /// # Errors
    /// Of [`Workshop::open`] and of the sealed memfd.
    pub fn open(
        dir: &Path,
        tree: Option<cgroup::Tree>,
        network: NetworkHost,
        is_users: bool,
    ) -> Result<Self, SysError> {
        let ours = rustix::process::getrlimit(Resource::Nofile);
        let at_most = |limit: Option<u64>, bound: u64| Some(limit.unwrap_or(bound).min(bound));
        let descriptors = Rlimit { current: at_most(ours.current, 1024), maximum: ours.maximum };
        let dir = dir.join("init");
        make_private(&dir)?;
        let program = file::sealed("palisade-init", init::PID1)?;
        let again = rustix::io::fcntl_dupfd_cloexec(&program, 3)
            .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))?;
        let workshop = Workshop::open(&dir, again, is_users)?;
        if let Some(tree) = &tree {
            tree.prepare()?;
        }
        let sockets = ready::Sockets::default();
        let low = clone::Low::keep()?;
        Ok(Self { dir, workshop, program, low, tree, descriptors, sockets, network })
    }

    /// Where roots are put together; part of every plan.
    pub fn root(&self) -> &Path {
        self.workshop.root()
    }

    /// Does `what` as if nothing had been launched: in the mount namespace that we came from.
    ///
    /// # Errors
    /// As [`Workshop::outside`].
    pub fn outside<T>(&self, what: impl FnOnce() -> T) -> Result<T, SysError> {
        self.workshop.outside(what)
    }

    /// The control groups, where the host has them.
    pub fn tree(&self) -> Option<&cgroup::Tree> {
        self.tree.as_ref()
    }

    /// Does the host steps of `plan`. `net` is the service's network from before, or becomes the one that is made.
    ///
    /// # Errors
    /// The step that failed; whatever the steps before it had made is gone again.
    pub fn launch(
        &mut self,
        what: (&Unit, &Assigned, &LaunchPlan),
        net: &mut Option<Net>,
        given: Given,
    ) -> Result<Run, Box<LaunchFault>> {
        let launch = self.prepare(what, net, given)?;
        self.go(launch)
    }

    /// As [`Launcher::launch`], up to the step that lets the init begin: what stands then can be written down before
    /// anything of the service is executed.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn prepare<'a>(
        &mut self,
        (unit, assigned, plan): (&'a Unit, &'a Assigned, &'a LaunchPlan),
        net: &'a mut Option<Net>,
        given: Given,
    ) -> Result<Launch<'a>, Box<LaunchFault>> {
        let mut launch = Launch {
            unit,
            assigned,
            plan,
            net,
            undo: Vec::new(),
            cgroup: None,
            fds: Vec::new(),
            ours: None,
            theirs: None,
            outputs: [None, None],
            notify: None,
            ready: None,
            child: None,
            traces: Traces { cgroup: None, ..self.traces(&unit.name, assigned.run) },
            given,
            joins: join::Joins::default(),
            seen: Seen::default(),
        };
        for (n, step) in plan.host.iter().enumerate().filter(|(_, step)| **step != HostStep::Go) {
            launch = self.attempt(launch, n + 1, step)?;
        }
        Ok(launch)
    }

    /// Sends the init its plan. Until then it has executed nothing, and ends with whoever prepared it.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn go(&mut self, launch: Launch<'_>) -> Result<Run, Box<LaunchFault>> {
        let last = launch.plan.host.len();
        let launch = self.attempt(launch, last, &HostStep::Go)?;
        let Child { pid, pidfd } = launch.child.expect("every plan has a clone step");
        let [stdout, stderr] = launch.outputs;
        let channel = launch.ours.expect("every plan has a channel step");
        let (notify, ready) = (launch.notify, launch.ready);
        Ok(Run { pid, pidfd, channel, stdout, stderr, notify, ready, traces: launch.traces })
    }

    fn attempt<'a>(
        &mut self,
        mut launch: Launch<'a>,
        number: usize,
        step: &HostStep,
    ) -> Result<Launch<'a>, Box<LaunchFault>> {
        let done = match launch.plan.fail_at {
            Some(FailAt::Host(at)) if at == number => {
                Err(SysError::new("injected", render::host(step).0, libc::EIO).into())
            }
            Some(FailAt::DieAtHost(at)) if at == number => crate::sys::die(),
            _ => self.step(&mut launch, step),
        };
        match done {
            Ok(()) => Ok(launch),
            Err(error) => {
                let cleanup = self.unwind(launch);
                Err(LaunchFault::host(number, step, &error, cleanup))
            }
        }
    }

    fn unwind(&mut self, mut launch: Launch<'_>) -> Vec<String> {
        let mut errors = Vec::new();
        // The init ends with its channel, where it was started.
        launch.ours = None;
        launch.theirs = None;
        while let Some(undo) = launch.undo.pop() {
            let undone = match undo {
                Undo::Cgroup(group) => self.remove_group(&group),
                Undo::Net => match launch.net.take() {
                    Some(net) => self.network.release(net).map_err(|error| error.to_string()),
                    None => Ok(()),
                },
                Undo::Root => {
                    self.workshop.clear();
                    Ok(())
                }
                Undo::File(path) => std::fs::remove_file(&path).map_err(|error| error.to_string()),
                Undo::Child => {
                    if let Some(child) = launch.child.take() {
                        kill(child.pidfd.as_fd());
                        reap(&child.pidfd);
                    }
                    Ok(())
                }
            };
            errors.extend(undone.err());
        }
        errors
    }

    fn remove_group(&self, group: &Path) -> Result<(), String> {
        let Some(tree) = &self.tree else { return Ok(()) };
        tree.clear(group).map_err(|error| error.to_string())
    }

    fn step(&mut self, launch: &mut Launch<'_>, step: &HostStep) -> Result<(), StepError> {
        let range = IdRange { inside: 0, outside: launch.assigned.id_base, count: IDS_PER_SERVICE };
        let mapped = crate::plan::has_user_namespace(launch.unit);
        let owner = crate::plan::owner(launch.unit, launch.assigned);
        match step {
            HostStep::Cgroup(group) => {
                let tree = self.tree.as_ref().expect("a group is assigned only where there is a tree");
                launch.cgroup = Some(tree.create(group)?);
                if launch.plan.fds().contains(&Fd::Kill) {
                    launch.fds.push((Fd::Kill, tree.open_kill(group)?));
                }
                launch.traces.cgroup = Some(group.clone());
                launch.undo.push(Undo::Cgroup(group.clone()));
            }
            HostStep::Limit(knob) => {
                let group = launch.cgroup.as_ref().expect("limits come after the group");
                limits::set(group.as_fd(), knob)?;
            }
            HostStep::Join { kind, of } => launch.joins.add(*kind, of, &launch.given.peers)?,
            // Done before there was anything of a launch: whoever is in the namespaces of others cannot come back.
            HostStep::Unprivileged(_) | HostStep::UserLink(_) => {}
            HostStep::NetNs if launch.assigned.unprivileged.is_some() => {}
            HostStep::NetNs => {
                let is_fleeting = launch.unit.has_network_power();
                *launch.net = Some(Net { is_fleeting, ..Net::new(NetNs::create()?) });
                launch.undo.push(Undo::Net);
            }
            HostStep::NetNsJoin(of) => {
                let joined = launch.given.joined.take().ok_or_else(|| StepError::NotRunning(of.clone()))?;
                // Whose it is keeps it.
                *launch.net = Some(Net { is_fleeting: true, ..Net::new(joined) });
                launch.undo.push(Undo::Net);
            }
            HostStep::NetNsOwn => {
                let child = launch.child.as_ref().expect("it is born with the sandbox");
                let netns = NetNs::of_pid(child.pidfd.as_fd())?;
                netns.furnish()?;
                *launch.net = Some(Net { is_fleeting: true, ..Net::new(netns) });
                launch.undo.push(Undo::Net);
            }
            // The caller has put it in order already: had that failed, the plan would make another.
            HostStep::NetNsKept => {}
            HostStep::Publish(publish) => {
                let net = launch.net.as_mut().expect("ports come after the namespace");
                net.reserved.push((*publish, crate::net::reserve::reserve(publish)?));
            }
            HostStep::Veth(link) => {
                let net = launch.net.as_mut().expect("the link comes after the namespace");
                self.network.connect(net, link)?;
            }
            HostStep::Attach(plan) => {
                let net = launch.net.as_mut().expect("the link comes after the namespace");
                self.network.attach(net, plan)?;
            }
            HostStep::Bandwidth(bandwidth) => {
                let net = launch.net.as_mut().expect("its bounds come after the link");
                self.network.shape(net, *bandwidth)?;
            }
            HostStep::Egress(egress, names) => {
                let net = launch.net.as_mut().expect("egress comes after the link");
                self.network.let_out(net, (egress, names))?;
            }
            HostStep::Talk(talk) => {
                let net = launch.net.as_mut().expect("talk comes after the link");
                let all = net.talk.iter().chain([talk]).copied().collect();
                self.network.allow(net, &all)?;
            }
            HostStep::Firewall(_) => {
                let net = launch.net.as_mut().expect("the link comes before");
                self.network.let_pass(net)?;
            }
            HostStep::IdMap(_) => {
                self.workshop.id_map(range, range).map_err(|error| no_namespace(error, true))?;
            }
            HostStep::RootMemory => {
                launch.undo.push(Undo::Root);
                self.workshop.begin_memory(owner)?;
            }
            HostStep::RootDir { src, idmap, writable, upper } => {
                launch.undo.push(Undo::Root);
                let layers = (*writable, upper.as_deref());
                self.workshop.begin_dir(src, idmap.then_some(range), layers, owner)?;
            }
            HostStep::RootHost => self.workshop.host()?,
            HostStep::File { dst, content, over } => self.workshop.file(dst, content, *over)?,
            HostStep::Bind(mount) => {
                let is_there = self.workshop.bind(mount, mapped.then_some(range), launch.given.service)?;
                launch.seen.absent.extend((!is_there).then(|| mount.dst.clone()));
            }
            HostStep::Tmpfs(tmpfs) => self.workshop.tmpfs(tmpfs, owner)?,
            HostStep::DevMinimal { shown, given } => {
                self.workshop.dev(shown, (given, launch.given.service), owner)?;
            }
            HostStep::DevHost => self.workshop.dev_host()?,
            HostStep::ProcPoint => self.workshop.point(Path::new("/proc"))?,
            HostStep::SysPoint => self.workshop.point(Path::new("/sys"))?,
            HostStep::ProcOf(Some(_)) => self.workshop.proc(launch.joins.procfs()?.as_fd())?,
            HostStep::ProcOf(None) => self.workshop.proc(rootfs::procfs()?.as_fd())?,
            HostStep::Sysfs => match launch.net.as_ref() {
                // sysfs shows the network namespace of whoever mounts it.
                Some(net) => net.netns.within(|| self.workshop.sysfs())??,
                None => self.workshop.sysfs()?,
            },
            HostStep::Credentials { dst, files } => {
                let secrets = match launch.given.secrets.take() {
                    Some(secrets) => secrets,
                    None => credentials::gather_all(files)?,
                };
                let (uid, gid) = launch.given.service.unwrap_or((owner, owner));
                let shift = |id: u32| match &launch.assigned.unprivileged {
                    Some(made) => made.ids(id, 0).map_or(owner, |(uid, _)| uid),
                    None if mapped => launch.assigned.id_base + id,
                    None => id,
                };
                let inside = files.iter().zip(&secrets).map(|(file, secret)| rootfs::SecretFile {
                    name: &file.name,
                    content: secret.bytes(),
                    mode: file.mode,
                    owner: (file.owner.map_or(uid, shift), gid),
                });
                self.workshop.secrets(dst, &inside.collect::<Vec<_>>())?;
            }
            HostStep::Notify => {
                let (kept, ours) = self.sockets.make()?;
                self.workshop.socket(Path::new(crate::notify::SOCKET), ours.as_fd())?;
                launch.fds.push((Fd::Notify, kept));
                launch.notify = Some(ours);
            }
            HostStep::Hide(dst) => self.workshop.hide(dst)?,
            HostStep::ReadOnly(dst) => self.workshop.read_only(dst)?,
            HostStep::RootSeal => self.workshop.seal()?,
            HostStep::Stdio(_) => {
                let (fds, outputs) = stdio(launch.unit, owner, launch.given.stdin.take())?;
                launch.fds.extend(fds);
                launch.outputs = outputs;
            }
            HostStep::Listen(socket) => {
                let held = launch.given.sockets.iter().position(|(held, _)| held.is_at(socket));
                let at = held.ok_or_else(|| SysError::new("listen", socket.to_string(), libc::EBADF))?;
                let (_, fd) = launch.given.sockets.remove(at);
                launch.give(fd);
            }
            HostStep::Stored(_) => {
                for fd in std::mem::take(&mut launch.given.stored) {
                    launch.give(fd);
                }
            }
            HostStep::Ready(_) => {
                let ready::Pipe { theirs, kept, ours } = ready::pipe()?;
                launch.fds.extend([(Fd::Ready, theirs), (Fd::KeepReady, kept)]);
                launch.ready = Some(ours);
            }
            HostStep::Channel => launch.channel()?,
            HostStep::Clone(namespaces) => self.clone(launch, namespaces)?,
            HostStep::Ids(uids, gids) => {
                let child = launch.child.as_ref().expect("ids come after the clone");
                write_id_maps(child.pid, uids, gids)?;
            }
            HostStep::Raise(raised) => {
                let child = launch.child.as_ref().expect("limits come after the clone");
                limits::raise(child.pid, raised)?;
            }
            HostStep::Sched { nice, oom_score_adj, sched, ioprio } => {
                let child = launch.child.as_ref().expect("priorities come after the clone");
                prioritise(child.pid, *nice, *oom_score_adj)?;
                if let Some(sched) = sched {
                    schedule::set_scheduler(child.pid, sched.policy(), sched.priority())?;
                }
                if let Some(ioprio) = ioprio {
                    schedule::set_io_priority(child.pid, ioprio.value())?;
                }
            }
            HostStep::Go => launch.go()?,
        }
        Ok(())
    }

    fn clone(&mut self, launch: &mut Launch<'_>, namespaces: &[&str]) -> Result<(), StepError> {
        launch.seen.root = Some(self.workshop.identity()?);
        let late = launch.joins.has(NsKind::Cgroup);
        let channel = launch.theirs.take().expect("the channel comes before the clone");
        let spawn = |channel: BorrowedFd<'_>| {
            clone::spawn(&Spawn {
                namespaces: clone_flags(namespaces),
                // Where the tree is delegated (`nsdelegate`), a group outside the joined cgroup namespace cannot be named
                // from inside it: the init, which does nothing before it gets its plan, is put into its group afterwards.
                cgroup: launch.cgroup.as_ref().filter(|_| !late).map(AsFd::as_fd),
                program: self.program.as_fd(),
                channel,
            })
        };
        let spawn = || self.low.with(channel.as_fd(), spawn).and_then(|done| done);
        let child = match launch.net.as_ref() {
            // The host's user namespace owns the network namespace, so a child that has one of its own could not
            // enter it any more: it is born there.
            Some(net) => net.netns.within(|| launch.joins.within(spawn))??,
            None => launch.joins.within(spawn)?,
        };
        drop(channel);
        let child = child.map_err(|error| no_namespace(error, namespaces.contains(&"user")))?;
        let pid = child.pid;
        // The child has its copy of the root.
        self.workshop.clear();
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or_default());
        launch.child = Some(child);
        launch.undo.push(Undo::Child);
        rustix::process::prlimit(process, Resource::Nofile, self.descriptors)
            .map_err(|errno| SysError::new("prlimit", "RLIMIT_NOFILE", errno))?;
        let (nice, oom_score_adj) = not_inherited()?;
        prioritise(pid, nice, oom_score_adj)?;
        as_usual(pid)?;
        if let (true, Some(tree), Some(group)) = (late, &self.tree, &launch.traces.cgroup) {
            tree.attach(group, pid)?;
        }
        Ok(())
    }

    /// The names of what a run leaves.
    pub fn traces(&self, name: &UnitName, run: u64) -> Traces {
        let stem = self.dir.join(format!("{name}.{run}"));
        let cgroup = self.tree.as_ref().map(|tree| tree.group(name.as_str(), run));
        Traces { cgroup, socket: with_suffix(&stem, "sock"), words: with_suffix(&stem, "words") }
    }

    /// Removes the sockets and last words in our directory that are not in `known`.
    pub fn sweep(&self, known: &BTreeSet<PathBuf>) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let is_trace = path.extension().is_some_and(|suffix| suffix == "sock" || suffix == "words");
            let is_keeper = path.file_name().is_some_and(|name| name == "keeper.sock");
            if is_trace && !is_keeper && !known.contains(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Removes our directory: nothing runs any more.
    pub fn clear(self) {
        let dir = self.dir.clone();
        drop(self);
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::warn!("{}: {error}", dir.display());
        }
    }

    /// Takes away what a run leaves when its init has ended.
    ///
    /// # Errors
    /// What could not be removed; the rest is.
    pub fn tear_down(&self, traces: &Traces) -> Vec<String> {
        let mut errors = Vec::new();
        if let Some(group) = &traces.cgroup {
            errors.extend(self.remove_group(group).err());
        }
        for path in [&traces.socket, &traces.words] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                errors.push(SysError::new("unlink", path.display().to_string(), error).to_string());
            }
        }
        errors
    }
}

impl Launch<'_> {
    /// The init, once it was cloned.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// What is to be removed when the run has ended.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The service's network.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    /// The next of the descriptors that the service is given.
    fn give(&mut self, fd: OwnedFd) {
        let given = self.fds.iter().filter(|(fd, _)| matches!(fd, Fd::Given(_))).count();
        self.fds.push((Fd::Given(u8::try_from(given).expect("a service is given few")), fd));
    }

    fn channel(&mut self) -> Result<(), SysError> {
        let (ours, theirs) = channel()?;
        rustix::net::sockopt::set_socket_passcred(&ours, true)
            .map_err(|errno| SysError::new("setsockopt", "SO_PASSCRED", errno))?;
        self.ours = Some(ours);
        self.theirs = Some(theirs);
        let listen = listen(&self.traces.socket)?;
        self.undo.push(Undo::File(self.traces.socket.clone()));
        self.fds.push((Fd::Listen, listen));
        let path = self.traces.words.display().to_string();
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::CLOEXEC;
        let words = rustix::fs::open(&self.traces.words, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| SysError::new("open", &*path, errno))?;
        self.undo.push(Undo::File(self.traces.words.clone()));
        // The room is made now: the last words must not meet a full file system.
        rustix::io::pwrite(&words, &[0; wire::WORDS_FILE], 0)
            .map_err(|errno| SysError::new("pwrite", path, errno))?;
        self.fds.push((Fd::Words, words));
        Ok(())
    }

    fn go(&mut self) -> Result<(), SysError> {
        let child = self.child.as_ref().expect("the start comes after the clone");
        let net = self.net.as_ref().map(|net| &net.netns);
        self.seen.namespaces = seen::verify(self.unit, child.pid, net, self.assigned.unprivileged.is_some())?;
        let ours = self.ours.as_ref().expect("the channel comes before the start");
        let bytes = lower::lower(self.plan, &self.seen);
        send_plan(ours.as_fd(), wire::SAY_SETUP, 0, &bytes, &self.plan.fds(), &self.fds)?;
        self.fds.clear();
        Ok(())
    }
}

/// Descriptors for a plan, by what they are for.
type Descriptors = Vec<(Fd, OwnedFd)>;

/// What a service gets as standard input, output and error, and our ends of the output. `owner` is root of the sandbox.
///
/// # Errors
/// pipe2(2), open(2) of the input.
pub fn stdio(
    unit: &Unit,
    owner: u32,
    inherited: Option<OwnedFd>,
) -> Result<(Descriptors, [Option<OwnedFd>; 2]), SysError> {
    let mut outputs = [None, None];
    if unit.service.tty {
        return Ok((Vec::new(), outputs));
    }
    let mut fds = vec![(Fd::Stdin, hooks::stdin(unit, inherited)?)];
    let kinds = [(Fd::Stdout, Fd::KeepStdout), (Fd::Stderr, Fd::KeepStderr)];
    let is_connection = unit.service.stdin == Stdin::Socket;
    if is_connection {
        fds.push((Fd::Stdout, copy(fds[0].1.as_fd())?));
    }
    for (output, (write_end, kept_end)) in outputs.iter_mut().zip(kinds).skip(usize::from(is_connection)) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| SysError::new("pipe2", "", errno))?;
        // So that the service may open /dev/stdout, which is this pipe by another name.
        rustix::fs::fchown(&write, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
            .map_err(|errno| SysError::new("fchown", "pipe", errno))?;
        rustix::io::ioctl_fionbio(&read, true).map_err(|errno| SysError::new("ioctl", "FIONBIO", errno))?;
        let kept = copy(read.as_fd())?;
        fds.extend([(write_end, write), (kept_end, kept)]);
        *output = Some(read);
    }
    Ok((fds, outputs))
}

/// Another descriptor of the same.
///
/// # Errors
/// fcntl(2).
pub fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))
}

/// Standard input, output and error of a command that nobody listens to.
///
/// # Errors
/// open(2).
pub fn null_stdio() -> Result<Descriptors, SysError> {
    let fds = [Fd::Stdin, Fd::Stdout, Fd::Stderr];
    fds.into_iter().map(|fd| Ok((fd, open_null(OFlags::RDWR)?))).collect()
}

/// A directory of the host in a service's hands is a way out: openat(2) goes up from it (CVE-2024-21626 and its kind).
fn refuse_directory(input: BorrowedFd<'_>) -> Result<(), SysError> {
    let stat = rustix::fs::fstat(input).map_err(|errno| SysError::new("fstat", "stdin", errno))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => Err(SysError::new("standard input", "", libc::EISDIR)),
        _ => Ok(()),
    }
}

/// A file of the host as standard input.
fn open_input(path: &Path) -> Result<OwnedFd, SysError> {
    // O_NONBLOCK: a fifo that nobody writes to must not stop the supervisor; the service itself may wait for data.
    let file = file::open_host(path, OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK)?;
    rustix::io::ioctl_fionbio(&file, false).map_err(|errno| SysError::new("ioctl", "FIONBIO", errno))?;
    Ok(file)
}

fn open_null(flags: OFlags) -> Result<OwnedFd, SysError> {
    rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SysError::new("open", "/dev/null", errno))
}

/// Sends a lowered plan and its descriptors over a channel.
///
/// # Errors
/// memfd_create(2), sendmsg(2).
pub fn send_plan(
    channel: BorrowedFd<'_>,
    verb: u32,
    session: u32,
    plan: &[u8],
    order: &[Fd],
    fds: &[(Fd, OwnedFd)],
) -> Result<(), SysError> {
    let length = i64::try_from(plan.len()).expect("a plan fits into memory");
    let plan = file::sealed("palisade-plan", plan)?;
    let mut sent = vec![plan.as_fd()];
    for wanted in order {
        let found = fds.iter().find(|(fd, _)| fd == wanted).map(|(_, fd)| fd.as_fd());
        sent.push(found.expect("the steps made what the plan lists"));
    }
    let message = wire::Message::new(verb, session, length, 0);
    socket::send(channel, &init::message_bytes(&message), &sent)
}

/// A sequenced-packet socket that listens at `path`.
///
/// # Errors
/// socket(2), bind(2), listen(2).
pub fn listen(path: &Path) -> Result<OwnedFd, SysError> {
    let fault = |call, errno: rustix::io::Errno| SysError::new(call, path.display().to_string(), errno);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| fault("socket", errno))?;
    let address = rustix::net::SocketAddrUnix::new(path).map_err(|errno| fault("bind", errno))?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(SysError::new("unlink", path.display().to_string(), error));
        }
        _ => {}
    }
    rustix::net::bind(&socket, &address).map_err(|errno| fault("bind", errno))?;
    rustix::net::listen(&socket, 8).map_err(|errno| fault("listen", errno))?;
    Ok(socket)
}

/// The end of a process as wait4(2) tells it.
pub fn exit_kind(status: i64) -> ExitKind {
    let status = i32::try_from(status).unwrap_or_default();
    if status == wire::UNSEEN {
        return ExitKind::Unknown;
    }
    if libc::WIFEXITED(status) {
        return ExitKind::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX));
    }
    match libc::WCOREDUMP(status) {
        true => ExitKind::Core(libc::WTERMSIG(status)),
        false => ExitKind::Signal(libc::WTERMSIG(status)),
    }
}

/// SIGKILL to an init: the kernel takes its pid namespace along. That it has ended already is no error.
pub fn kill(pidfd: BorrowedFd<'_>) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
}

/// Why a clone was refused, with the host's limits in mind.
fn no_namespace(error: SysError, has_user: bool) -> StepError {
    let is_none = |name: &String| {
        let limit = std::fs::read_to_string(format!("/proc/sys/user/{name}"));
        limit.is_ok_and(|limit| limit.trim() == "0")
    };
    let entries = std::fs::read_dir("/proc/sys/user").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut limits: Vec<String> =
        names.filter(|name| name.ends_with("_namespaces")).filter(is_none).collect();
    limits.sort();
    fault::no_namespace(error, has_user, &limits)
}

fn clone_flags(namespaces: &[&str]) -> u64 {
    let flag = |name: &&str| match *name {
        "mnt" => libc::CLONE_NEWNS,
        "pid" => libc::CLONE_NEWPID,
        "uts" => libc::CLONE_NEWUTS,
        "ipc" => libc::CLONE_NEWIPC,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "user" => libc::CLONE_NEWUSER,
        "net" => libc::CLONE_NEWNET,
        other => unreachable!("plans name no namespace {other}"),
    };
    namespaces.iter().map(flag).fold(0, |all, flag| all | u64::try_from(flag).unwrap_or_default())
}

/// Priorities of a supervisor that its services do not get: it may be protected, they are not. One that was started
/// with less than the usual cannot give more.
fn not_inherited() -> Result<(Option<i32>, Option<i32>), SysError> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let nice = rustix::process::getpriority_process(None)
        .map_err(|errno| SysError::new("getpriority", "PRIO_PROCESS", errno))?;
    let score = std::fs::read_to_string(SCORE).map_err(|error| SysError::new("read", SCORE, error))?;
    let score: i32 = score
        .trim()
        .parse()
        .map_err(|_| SysError::new("read", format!("{SCORE} {score:?}"), libc::EINVAL))?;
    Ok(((nice < 0).then_some(0), (score < 0).then_some(0)))
}

/// What a supervisor that was started with less than the usual passes on as little, as far as it may: the policy of the
/// scheduler, a niceness, a score for the OOM killer, what goes into a core file.
fn as_usual(pid: u32) -> Result<(), SysError> {
    // Without CAP_SYS_NICE the niceness stays what it is; and what is nobody's to see (hidepid) is not there.
    let far = |done: Result<(), SysError>| match done {
        Err(error) if [libc::EPERM, libc::EACCES, libc::ENOENT].contains(&error.errno) => Ok(()),
        other => other,
    };
    let filter = std::fs::write(format!("/proc/{pid}/coredump_filter"), "0x33");
    far(schedule::set_scheduler(pid, libc::SCHED_OTHER, 0))?;
    far(prioritise(pid, Some(0), None))?;
    far(prioritise(pid, None, Some(0)))?;
    far(filter.map_err(|error| SysError::new("write", "coredump_filter 0x33", error)))
}

fn prioritise(pid: u32, nice: Option<i32>, oom_score_adj: Option<i32>) -> Result<(), SysError> {
    if let Some(nice) = nice {
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or_default());
        rustix::process::setpriority_process(process, nice)
            .map_err(|errno| SysError::new("setpriority", nice.to_string(), errno))?;
    }
    if let Some(score) = oom_score_adj {
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
            .map_err(|error| SysError::new("write", format!("oom_score_adj {score}"), error))?;
    }
    Ok(())
}

pub(crate) fn make_private(dir: &Path) -> Result<(), SysError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .map_err(|error| SysError::new("mkdir", dir.display().to_string(), error))
}

fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
