//! The steps inside the sandbox.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use super::{
    Assigned, Attested, Fd, attest, etc, has_user_namespace,
    landlock::{self, Landlock},
    notifies, owns_network, shows_sys, unprivileged,
};
use crate::{
    init::wire,
    machine::RestartMode,
    notify,
    seccomp::{self, Filter},
    spec::{
        Capability, Full, Hook, HostFacts, IdSpec, Kind, Namespace, Seccomp, Stdin, Unit, UserSpec,
        limits::{Bounds, Rlimit},
        security::mask,
    },
};

/// Whom the waiting init is in a user namespace: the last id of the range, which no distribution gives to anybody.
const INIT_ID: u32 = 65535;
/// The group of terminals, everywhere.
const TTY: u32 = 5;

/// What the machine is built of, what its kernel has loaded and how it is laid out, and what it consumes (CVE-2020-8694), is no
/// business of a service. Directories below /sys.
pub const SYS_HIDDEN_DIRS: [&str; 15] = [
    "devices/virtual/dmi",
    "devices/virtual/powercap",
    "firmware",
    "fs/bpf",
    "fs/pstore",
    "hypervisor",
    "kernel/boot_params",
    "kernel/btf",
    "kernel/debug",
    "kernel/irq",
    "kernel/security",
    "kernel/slab",
    "kernel/tracing",
    "module",
    "power",
];
/// As above, files.
pub const SYS_HIDDEN_FILES: [&str; 2] = ["kernel/notes", "kernel/vmcoreinfo"];

/// One step of the init or of the process that becomes the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildStep {
    /// Becomes root of the user namespace: until here the init runs as an id that is not mapped.
    IdsRoot,
    /// An empty session keyring: keyrings know no namespaces, and whoever inherits one possesses its keys.
    Keyring,
    /// Where the pid namespace is shared: orphans become children of the init.
    Subreaper,
    /// Keeps mount events from reaching the host.
    MountPrivate,
    /// Goes to the root that the host has put together.
    RootEnter(PathBuf),
    /// Mounts the processes of this pid namespace; before the old root goes, or the kernel refuses.
    Proc,
    /// No user namespace can be made below the sandbox's own: a second wall beside the system call filter, and one that
    /// holds for who gets past that.
    NoUserNamespaces {
        /// A procfs of the sandbox's is on its place already; else the host's still is.
        own: bool,
    },
    /// Reads back what the steps before it have done.
    Attest(Vec<Attested>),
    /// Enters a Landlock domain, which whoever is forked from here on is born into.
    Landlock(Landlock),
    /// What is executed next gets this label of a security module.
    Label(Module, String),
    /// Mounts sysfs of the network namespace, read-only and without its hidden parts; where the sandbox owns that namespace,
    /// and also before the old root goes.
    Sysfs,
    /// Makes the entered directory the root and detaches the old one.
    PivotRoot,
    /// Pseudo-terminals of its own, of this group.
    DevPts(Option<u32>),
    /// The view of the control groups, read-only.
    CgroupFs,
    /// Empties or write-protects the parts of /proc that speak of the whole machine.
    ProcMask,
    /// Sets the host name.
    Hostname(String),
    /// Sets the NIS domain name.
    Domainname(String),
    /// Shifts the clocks, in seconds.
    ClockOffset(i64),
    /// Leaves the process that becomes the service behind.
    Fork,
    /// A session of its own, without a terminal.
    Session,
    /// Standard input, output and error.
    Stdio,
    /// A pseudo-terminal as standard input, output and error, its master end sent to the supervisor.
    Terminal {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// Marks every other descriptor close-on-exec.
    CloseFds,
    /// The held sockets and stored descriptors with these names, from 3 on: sd_listen_fds(3).
    Given(Vec<String>),
    /// Tells the supervisor which process this is.
    Hello,
    /// Takes everything but these out of the bounding set, while there is still the right to.
    BoundingSet(BTreeSet<Capability>),
    /// Groups and user.
    Credentials(Credentials),
    /// What this one process may take, and its children each.
    Rlimits(Vec<(Rlimit, Bounds)>),
    /// The other four capability sets.
    Capabilities {
        /// Permitted and effective.
        held: BTreeSet<Capability>,
        /// Inheritable and ambient: what somebody other than root keeps when the program is executed.
        ambient: BTreeSet<Capability>,
    },
    /// File mode creation mask.
    Umask(u32),
    /// Working directory.
    WorkingDir(PathBuf),
    /// No signal blocked, every one at its default.
    Signals,
    /// SIGALRM after this time, which outlasts the execution of a program: the end of a check that hangs, also where no
    /// supervisor is left that would kill it.
    Alarm(Duration),
    /// The descriptor on which the service says that it is ready.
    ReadyFd(i32),
    /// Nothing executed from here on gains privileges.
    NoNewPrivs,
    /// The system call filter. Everything behind it is filtered too, up to the program's own calls.
    Seccomp(Arc<Filter>),
    /// Becomes the service.
    Exec {
        /// argv.
        command: Vec<String>,
        /// `NAME=value`.
        env: Vec<String>,
        /// Directories that are searched for a program without a slash.
        path: Vec<String>,
    },
    /// Asks without executing a program, and ends.
    Ask(Question),
    /// The waiting init looks here for the process that it is to follow.
    PidFile(PathBuf),
    /// The waiting init keeps the descriptors that must outlive the supervisor.
    Keep(Vec<Fd>),
    /// The waiting init gives up every capability but those that sessions need, and is closed to tracing.
    Recede {
        /// In a user namespace it also becomes somebody else than root, so that root inside can neither signal nor limit it.
        id: Option<u32>,
        /// What sessions are to have: nobody can be given what the init has not.
        capabilities: BTreeSet<Capability>,
    },
}

/// What a process of the sandbox can find out by system calls alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether there is something at this path.
    Exists(PathBuf),
    /// Whether the stream socket at this path takes a connection.
    Connect(PathBuf),
}

/// A security module that labels processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// By profile.
    AppArmor,
    /// By security context.
    SeLinux,
}

/// Whom the service runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user, and with a name also its primary group and memberships.
    pub user: User,
    /// Another primary group.
    pub group: Option<IdSpec>,
    /// More groups.
    pub extra: Vec<IdSpec>,
    /// Capabilities are to outlast the change of user, until the next step has set them.
    pub keep_capabilities: bool,
    /// The groups of who made the sandbox stay, being nobody's inside: the kernel lets him drop none (setgroups(2) is denied
    /// to whoever has no subordinate ids).
    pub keep_groups: bool,
    /// The pipes of the output become the user's.
    pub takes_output: bool,
}

/// A user, as far as it is known before the sandbox exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Looked up in the sandbox's /etc/passwd.
    Name(String),
    /// A number, with the group of the same number.
    Id(u32),
}

impl ChildStep {
    /// The descriptors that the step works on.
    pub(super) fn fds(&self) -> Vec<Fd> {
        match self {
            ChildStep::Stdio => vec![Fd::Stdin, Fd::Stdout, Fd::Stderr],
            ChildStep::Given(names) => (0..).map(Fd::Given).take(names.len()).collect(),
            ChildStep::Keep(fds) => fds.clone(),
            ChildStep::ReadyFd(_) => vec![Fd::Ready],
            ChildStep::Landlock(landlock) if landlock.stdin => vec![Fd::Stdin],
            ChildStep::IdsRoot
            | ChildStep::Keyring
            | ChildStep::Subreaper
            | ChildStep::MountPrivate
            | ChildStep::RootEnter(_)
            | ChildStep::Proc
            | ChildStep::NoUserNamespaces { .. }
            | ChildStep::Attest(_)
            | ChildStep::Landlock(_)
            | ChildStep::Label(..)
            | ChildStep::Sysfs
            | ChildStep::PivotRoot
            | ChildStep::DevPts(_)
            | ChildStep::CgroupFs
            | ChildStep::ProcMask
            | ChildStep::Hostname(_)
            | ChildStep::Domainname(_)
            | ChildStep::ClockOffset(_)
            | ChildStep::Fork
            | ChildStep::Session
            | ChildStep::Terminal { .. }
            | ChildStep::CloseFds
            | ChildStep::Hello
            | ChildStep::BoundingSet(_)
            | ChildStep::Credentials(_)
            | ChildStep::Rlimits(_)
            | ChildStep::Capabilities { .. }
            | ChildStep::Umask(_)
            | ChildStep::WorkingDir(_)
            | ChildStep::Signals
            | ChildStep::Alarm(_)
            | ChildStep::PidFile(_)
            | ChildStep::NoNewPrivs
            | ChildStep::Seccomp(_)
            | ChildStep::Exec { .. }
            | ChildStep::Ask(_)
            | ChildStep::Recede { .. } => Vec::new(),
        }
    }
}

pub(super) fn init_steps(unit: &Unit, assigned: &Assigned, facts: &HostFacts) -> Vec<ChildStep> {
    let ns = &unit.namespaces;
    // The way to the root leads through directories that only the host's root may pass, and until `IdsRoot` that is
    // whom the file system sees.
    let mut steps = vec![ChildStep::MountPrivate, ChildStep::RootEnter(assigned.root.clone())];
    if has_user_namespace(unit) {
        steps.push(ChildStep::IdsRoot);
    }
    // After the change of ids, so that the keyring counts against the sandbox's root.
    steps.push(ChildStep::Keyring);
    if ns.pid != Namespace::Own {
        steps.push(ChildStep::Subreaper);
    }
    // While a /proc is there for certain: the service may have asked for none.
    steps.extend(ns.clock_offset.map(ChildStep::ClockOffset));
    let own_proc = unit.rootfs.proc && ns.pid == Namespace::Own;
    if own_proc {
        steps.push(ChildStep::Proc);
    }
    if unit.rootfs.sys && owns_network(unit, assigned) {
        steps.push(ChildStep::Sysfs);
    }
    // Where the ids are the host's so is the budget of namespaces.
    if has_user_namespace(unit) && !ns.nested && unit.security.no_namespaces {
        steps.push(ChildStep::NoUserNamespaces { own: own_proc });
    }
    // While a /proc is there for certain, and nobody inside has had a hand in it.
    steps.push(ChildStep::Attest(attest::namespaces(unit).into_iter().map(Attested::Namespace).collect()));
    steps.push(ChildStep::PivotRoot);
    if matches!(unit.rootfs.dev, crate::spec::Dev::Minimal(_)) {
        steps.push(ChildStep::DevPts(Some(TTY)));
    }
    if shows_sys(unit, assigned) && assigned.cgroup.is_some() && ns.cgroup == Namespace::Own {
        steps.push(ChildStep::CgroupFs);
    }
    // The kernel lets nobody mount a procfs who sees none that is whole.
    if unit.rootfs.proc && !ns.nested {
        steps.push(ChildStep::ProcMask);
    }
    if ns.uts == Namespace::Own {
        steps.push(ChildStep::Hostname(ns.hostname.clone()));
        if !ns.domainname.is_empty() {
            steps.push(ChildStep::Domainname(ns.domainname.clone()));
        }
    }
    steps.push(ChildStep::Attest(attest::root(unit, assigned, &steps)));
    // After everything that mounts, which it forbids.
    steps.extend(landlock::landlock(unit, facts.landlock).map(ChildStep::Landlock));
    fitted(steps, assigned)
}

/// As they are for a sandbox that has a single id, where it has.
fn fitted(steps: Vec<ChildStep>, assigned: &Assigned) -> Vec<ChildStep> {
    match &assigned.unprivileged {
        Some(made) if made.is_single() => unprivileged::single(steps),
        Some(_) | None => steps,
    }
}

pub(super) fn service_steps(unit: &Unit, assigned: &Assigned) -> Vec<ChildStep> {
    let stdio =
        if unit.service.tty { ChildStep::Terminal { columns: 80, rows: 24 } } else { ChildStep::Stdio };
    let mut steps = session(unit, &unit.service.command, stdio);
    if let Some(ChildStep::Exec { env, .. }) = steps.last_mut() {
        let told = readiness_env(unit, assigned);
        env.retain(|entry| !told.iter().any(|(name, _)| entry.split('=').next() == Some(name)));
        env.extend(told.iter().map(|(name, value)| format!("{name}={value}")));
    }
    give(&mut steps, unit, assigned);
    if let Some(fd) = unit.service.ready_fd() {
        let at = before_rlimits(&steps);
        steps.insert(at, ChildStep::ReadyFd(fd));
    }
    fitted(steps, assigned)
}

/// Hands the main process, and nobody else, what Palisade holds for the service.
fn give(steps: &mut Vec<ChildStep>, unit: &Unit, assigned: &Assigned) {
    let sockets = unit.sockets_given().iter().map(|socket| socket.name.clone());
    let names: Vec<String> = sockets.chain(assigned.stored.iter().cloned()).collect();
    if names.is_empty() {
        return;
    }
    if let Some(ChildStep::Exec { env, .. }) = steps.last_mut() {
        // LISTEN_PID is not known before the process is there.
        env.retain(|entry| !entry.starts_with("LISTEN_"));
        env.push(format!("LISTEN_FDS={}", names.len()));
        env.push(format!("LISTEN_FDNAMES={}", names.join(":")));
    }
    let at = before_rlimits(steps);
    steps.insert(at, ChildStep::Given(names));
}

/// The steps of a command around the service, with what it is told beside the service's environment. `single`: the sandbox
/// has one id.
pub fn hook(unit: &Unit, hook: &Hook, told: &[(&'static str, String)], single: bool) -> Vec<ChildStep> {
    let mut unit = unit.clone();
    if let Some(user) = &hook.user {
        unit.service.user = user.user.clone();
        unit.service.group = user.group.clone();
        unit.service.extra_groups = user.extra_groups.clone();
        unit.service.env.extend(user.env.clone());
    }
    unit.service.env.extend(told.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let mut steps = session(&unit, &hook.argv(told), ChildStep::Stdio);
    for step in &mut steps {
        if let ChildStep::Credentials(credentials) = step {
            // They are the service's.
            credentials.takes_output = hook.user.is_none();
        }
    }
    if single { unprivileged::single(steps) } else { steps }
}

/// Where descriptors get numbers of their own: behind everything that has others in use, which may be those; and before the
/// limit on descriptors, for on the way they have higher numbers than they end with.
fn before_rlimits(steps: &[ChildStep]) -> usize {
    steps.iter().position(|step| matches!(step, ChildStep::Rlimits(_))).unwrap_or(steps.len())
}

/// What the main process is told about how to say where it stands; its sessions are not.
fn readiness_env(unit: &Unit, assigned: &Assigned) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if notifies(unit, assigned) {
        env.push(("NOTIFY_SOCKET".to_owned(), notify::SOCKET.to_owned()));
        // Without WATCHDOG_PID: whoever is heard may ping.
        env.extend(
            unit.service
                .watchdog
                .map(|interval| ("WATCHDOG_USEC".to_owned(), interval.as_micros().to_string())),
        );
    }
    env
}

/// The steps of a process in the sandbox of `unit`: the service itself, or a session with the same confinement.
pub fn session(unit: &Unit, command: &[String], stdio: ChildStep) -> Vec<ChildStep> {
    let service = &unit.service;
    let terminal = matches!(stdio, ChildStep::Terminal { .. });
    let mut steps = vec![ChildStep::Session];
    if !terminal {
        steps.push(stdio.clone());
    }
    let security = &unit.security;
    let filter = ChildStep::Seccomp(seccomp::compile(&policy(unit)));
    steps.extend([ChildStep::CloseFds, ChildStep::Hello]);
    if !security.no_new_privs {
        // seccomp(2): whoever may still gain privileges needs CAP_SYS_ADMIN to filter himself.
        steps.push(filter.clone());
    }
    steps.push(ChildStep::BoundingSet(security.capabilities.clone()));
    let credentials = credentials(unit);
    // What root of the sandbox has by being root, another user gets from the ambient set alone. Who has a name may be either.
    let may_be_root = !matches!(credentials.user, User::Id(id) if id != 0);
    let held = if may_be_root { &security.capabilities } else { &security.ambient };
    let attested = attest::process(unit, mask(held));
    let held = ChildStep::Capabilities { held: held.clone(), ambient: security.ambient.clone() };
    steps.push(ChildStep::Credentials(credentials));
    if terminal {
        // After the change of user, so that the terminal is the user's.
        steps.push(stdio);
    }
    let rlimits = unit.limits.rlimits.iter().map(|(limit, bounds)| (*limit, *bounds)).collect();
    steps.extend([
        // After the change of user: who has too many processes already is told so by execve(2), not by setresuid(2).
        ChildStep::Rlimits(rlimits),
        held,
        ChildStep::Umask(service.umask),
        ChildStep::WorkingDir(service.working_dir.clone()),
        ChildStep::Signals,
    ]);
    steps.extend(security.no_new_privs.then_some(ChildStep::NoNewPrivs));
    // At most one of the two: the kernel has one that labels.
    let labels = [(Module::AppArmor, &security.apparmor), (Module::SeLinux, &security.selinux)];
    for (module, label) in labels {
        steps.extend(label.as_ref().map(|label| ChildStep::Label(module, label.clone())));
    }
    steps.push(ChildStep::Attest(attested));
    // The last of all.
    steps.extend(security.no_new_privs.then_some(filter));
    let env: Vec<String> = service.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let path = service.env.get("PATH").map(|path| path.split(':').map(str::to_owned).collect());
    let path = path.unwrap_or_default();
    steps.push(ChildStep::Exec { command: command.to_vec(), env, path });
    steps
}

/// How much longer than `health.timeout` the alarm of a check waits: the supervisor, where there is one, comes first.
const GRACE: Duration = Duration::from_secs(1);

/// The steps of a command that checks a service: a session that ends in time.
pub fn check(unit: &Unit, command: &[String], timeout: Duration) -> Vec<ChildStep> {
    let mut steps = session(unit, command, ChildStep::Stdio);
    // Before the filter, which need not let it through.
    let at = steps.iter().position(|step| matches!(step, ChildStep::Signals)).map_or(0, |at| at + 1);
    steps.insert(at, ChildStep::Alarm(timeout.saturating_add(GRACE)));
    steps
}

/// The steps of a process that asks as the service's user and executes nothing. What it does lies in the plan, so there is
/// nobody whom the filter would have to keep from anything, and a filter that knows no sockets does not stand in its way.
pub fn question(unit: &Unit, question: Question, timeout: Duration) -> Vec<ChildStep> {
    let credentials = Credentials { keep_capabilities: false, ..credentials(unit) };
    vec![
        ChildStep::Session,
        ChildStep::Stdio,
        ChildStep::Hello,
        ChildStep::Credentials(credentials),
        ChildStep::Capabilities { held: BTreeSet::new(), ambient: BTreeSet::new() },
        ChildStep::Signals,
        ChildStep::Alarm(timeout.saturating_add(GRACE)),
        ChildStep::Ask(question),
    ]
}

/// What the filter of a service is made from.
pub fn policy(unit: &Unit) -> seccomp::Policy {
    let security = &unit.security;
    let Seccomp { allow, kill, log, action } = security.seccomp.clone();
    seccomp::Policy {
        allow,
        kill,
        log,
        denial: action,
        native_abi_only: security.native_abi_only,
        lock_personality: security.lock_personality,
        no_realtime: security.no_realtime,
        no_suid: security.no_suid,
        no_namespaces: security.no_namespaces,
        no_wx: security.no_wx,
        families: unit.network.address_families.clone(),
        nested: unit.namespaces.nested,
        capabilities: security.capabilities.iter().map(|capability| capability.name().to_owned()).collect(),
        early: !security.no_new_privs,
    }
}

fn credentials(unit: &Unit) -> Credentials {
    let service = &unit.service;
    let user = match &service.user {
        UserSpec::Dynamic => User::Id(etc::DYNAMIC_ID),
        UserSpec::Named(IdSpec::Number(id)) => User::Id(*id),
        // Known to every /etc/passwd, and to roots that have none.
        UserSpec::Named(IdSpec::Name(name)) if name == "root" => User::Id(0),
        UserSpec::Named(IdSpec::Name(name)) => User::Name(name.clone()),
    };
    Credentials {
        user,
        group: service.group.clone(),
        extra: service.extra_groups.clone(),
        keep_capabilities: !unit.security.capabilities.is_empty(),
        keep_groups: false,
        takes_output: true,
    }
}

/// The pipes that its output goes to.
fn kept_outputs(unit: &Unit) -> Vec<Fd> {
    match &unit.service.stdin {
        _ if unit.service.tty => Vec::new(),
        Stdin::Socket => vec![Fd::KeepStderr],
        Stdin::Null | Stdin::Inherit | Stdin::File(_) => vec![Fd::KeepStdout, Fd::KeepStderr],
    }
}

pub(super) fn waiting_steps(unit: &Unit, assigned: &Assigned) -> Vec<ChildStep> {
    let mut kept = vec![Fd::Listen, Fd::Words];
    kept.extend(kept_outputs(unit));
    // Where its own end takes nobody along, and nobody is left who would look after them.
    if unit.namespaces.pid != Namespace::Own && assigned.ends_with_launcher && assigned.cgroup.is_some() {
        kept.push(Fd::Kill);
    }
    if notifies(unit, assigned) {
        kept.push(Fd::Notify);
    }
    kept.extend(unit.service.ready_fd().map(|_| Fd::KeepReady));
    let id = has_user_namespace(unit).then_some(INIT_ID);
    let mut capabilities = unit.security.capabilities.clone();
    if unit.service.pid_file.is_some() {
        // The file is whoever's the daemon runs as, and nobody else's to read.
        capabilities.insert(Capability::DAC_READ_SEARCH);
    }
    let mut steps = vec![ChildStep::Keep(kept)];
    steps.extend(unit.service.pid_file.clone().map(ChildStep::PidFile));
    steps.push(ChildStep::Recede { id, capabilities });
    fitted(steps, assigned)
}

/// What the init does after it has started the main process once more in the sandbox that stands.
pub fn kept_anew(unit: &Unit) -> Vec<ChildStep> {
    let kept = kept_outputs(unit);
    let mut steps: Vec<_> = unit.service.pid_file.clone().map(ChildStep::PidFile).into_iter().collect();
    if !kept.is_empty() {
        steps.push(ChildStep::Keep(kept));
    }
    steps
}

pub(super) fn flags(unit: &Unit, assigned: &Assigned) -> u32 {
    let mut flags = 0;
    let in_place = unit.restart.mode == RestartMode::InPlace && unit.service.kind != Kind::Oneshot;
    // Who comes after the main process needs a sandbox to run in.
    if in_place || unit.service.hooks.post_stop.iter().any(|hook| !hook.privileged) {
        flags |= wire::STAY;
    }
    if unit.service.kind == Kind::Forking {
        flags |= wire::FOLLOWS;
    }
    if unit.namespaces.pid != Namespace::Own {
        flags |= wire::NOT_PID1;
    }
    if assigned.ends_with_launcher {
        flags |= wire::ENDS_WITH_LAUNCHER;
    }
    // A terminal that is full does not show it.
    if unit.log_full == Full::Drop && !unit.service.tty {
        flags |= wire::DROP;
    }
    flags
}

pub(super) fn landlock_text(landlock: &Landlock) -> String {
    let scoped = match landlock.scoped {
        0 => "",
        1 => ", scoped: abstract sockets",
        _ => ", scoped: abstract sockets, signals",
    };
    format!("version {}, {} rules{scoped}", landlock.version, landlock.rules.len())
}
