//! The steps of the supervisor.

use std::path::PathBuf;

use super::{
    Assigned, etc, has_user_namespace, notifies, owns_network, shows_sys,
    unprivileged::{Unprivileged, UserLink},
};
use crate::{
    net::{addr::Talk, attach::AttachPlan, link::LinkPlan},
    spec::{
        Bandwidth, Base, Credential, Dev, Device, Egress, Firewall, HostFacts, IdRange, IoPrio, Mount, Named,
        Namespace, Namespaces, NetworkMode, Publish, Sched, Service, Socket, Stdin, Tmpfs, Unit, UnitName,
        Writable, credential,
        limits::{Bounds, Knob, Rlimit},
    },
};

/// Ids of one sandbox.
const IDS: u32 = 65_536;

/// A path inside the sandbox.
pub type Dest = PathBuf;

/// A kind of namespace that one service may have of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NsKind {
    /// Process ids.
    Pid,
    /// Host and domain name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// The view of the cgroup tree.
    Cgroup,
}

impl NsKind {
    /// The kernel's name, as in /proc/PID/ns.
    pub fn name(self) -> &'static str {
        match self {
            NsKind::Pid => "pid",
            NsKind::Uts => "uts",
            NsKind::Ipc => "ipc",
            NsKind::Cgroup => "cgroup",
        }
    }

    /// Every kind, with what a service has of it.
    fn of(ns: &Namespaces) -> [(Self, &Namespace); 4] {
        [(Self::Pid, &ns.pid), (Self::Uts, &ns.uts), (Self::Ipc, &ns.ipc), (Self::Cgroup, &ns.cgroup)]
    }
}

/// One step on the host's side. `launch` knows how to do and to undo each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// Makes the run's control group.
    Cgroup(PathBuf),
    /// Bounds what is in it.
    Limit(Knob),
    /// Takes hold of a namespace of a service that runs.
    Join {
        /// Which.
        kind: NsKind,
        /// Whose.
        of: UnitName,
    },
    /// Palisade becomes root of a user namespace of its own; done before everything else.
    Unprivileged(Box<Unprivileged>),
    /// A program of the user's carries packets into the network namespace and out of it; started before that is entered.
    UserLink(UserLink),
    /// Makes the network namespace, with loopback up.
    NetNs,
    /// Uses the network namespace that the service had before; what earlier runs left on its ports was swept out.
    NetNsKept,
    /// Takes hold of the network namespace of a service that is up, for as long as the run lasts.
    NetNsJoin(UnitName),
    /// Takes hold of the network namespace that was born with the sandbox, and sets its loopback up.
    NetNsOwn,
    /// Makes the link between host and namespace.
    Veth(LinkPlan),
    /// Makes a link on one of the host's.
    Attach(AttachPlan),
    /// Takes a port of the host and leads it to the service.
    Publish(Publish),
    /// Bounds how much the link carries.
    Bandwidth(Bandwidth),
    /// Lets the service talk to the outside: to places, and to where names lead.
    Egress(Egress, Vec<Named>),
    /// Lets one service talk to another.
    Talk(Talk),
    /// Has chains of others accept links whose names begin so, where they would drop them.
    Firewall(String),
    /// Makes the user namespace that shifts file ownership into the service's range.
    IdMap(u32),
    /// An empty root in memory.
    RootMemory,
    /// A directory tree as root.
    RootDir {
        /// On the host.
        src: PathBuf,
        /// Shifted into the service's ids.
        idmap: bool,
        /// What becomes of writes.
        writable: Writable,
        /// Where persistent writes go.
        upper: Option<PathBuf>,
    },
    /// The host's programs and libraries, read-only, in an empty root.
    RootHost,
    /// A file of ours.
    File {
        /// Inside.
        dst: Dest,
        /// Its content.
        content: String,
        /// Laid over a file of the root, and left out where the root has none.
        over: bool,
    },
    /// A file or directory of the host.
    Bind(Mount),
    /// A memory file system.
    Tmpfs(Tmpfs),
    /// /dev with more nodes beside the usual ones.
    DevMinimal {
        /// As they are on the host.
        shown: Vec<PathBuf>,
        /// Made for the service's user.
        given: Vec<Device>,
    },
    /// The host's /dev.
    DevHost,
    /// An empty directory for /proc.
    ProcPoint,
    /// procfs of a pid namespace that is another service's, or with none the host's: inside, nobody may mount that.
    ProcOf(Option<UnitName>),
    /// sysfs of the service's network namespace, read-only.
    Sysfs,
    /// The service's secrets, in a file system in memory of their own.
    Credentials {
        /// Their directory.
        dst: Dest,
        /// What they are called and where they come from.
        files: Vec<Credential>,
    },
    /// The notify socket, in a file system of its own.
    Notify,
    /// An empty directory for /sys: whose network namespace is the sandbox's own, only the sandbox can mount it.
    SysPoint,
    /// Nothing to be seen here.
    Hide(Dest),
    /// Read-only from here down.
    ReadOnly(Dest),
    /// Makes the root in memory read-only.
    RootSeal,
    /// Opens standard input and the pipes of the output.
    Stdio(Stdin),
    /// Hands over a socket that listens since before the launch, and goes on listening after it.
    Listen(Socket),
    /// Hands over the descriptors that earlier runs have stored.
    Stored(Vec<String>),
    /// Makes the pipe on which the service says that it is ready, on this descriptor.
    Ready(i32),
    /// Makes the channel and the file for the last words.
    Channel,
    /// Starts the init in its namespaces and its control group.
    Clone(Vec<&'static str>),
    /// Writes the id maps: of users, and of groups.
    Ids(Vec<IdRange>, Vec<IdRange>),
    /// Lets the init give the service more than the supervisor may have itself.
    Raise(Vec<(Rlimit, Bounds)>),
    /// Sets what only the host may set: who goes first, and who goes when memory runs out.
    Sched {
        /// -20 to 19.
        nice: Option<i32>,
        /// -1000 to 1000.
        oom_score_adj: Option<i32>,
        /// The policy of the scheduler.
        sched: Option<Sched>,
        /// The class and level of its I/O.
        ioprio: Option<IoPrio>,
    },
    /// Hands the init its plan.
    Go,
}

pub(super) fn steps(unit: &Unit, assigned: &Assigned, facts: &HostFacts) -> Vec<HostStep> {
    let mut steps = Vec::new();
    // First of all: where somebody is missing, nothing is made in vain.
    steps.extend(joins(unit));
    steps.extend(assigned.unprivileged.clone().map(|made| HostStep::Unprivileged(Box::new(made))));
    if let Some(group) = &assigned.cgroup {
        steps.push(HostStep::Cgroup(group.clone()));
        // Before anything is in it: there is no moment without a bound.
        steps.extend(unit.limits.knobs().into_iter().map(HostStep::Limit));
    }
    if !owns_network(unit, assigned) {
        network(&mut steps, unit, assigned);
    }
    if has_user_namespace(unit) && assigned.unprivileged.is_none() && needs_idmap(unit) {
        steps.push(HostStep::IdMap(assigned.id_base));
    }
    root(&mut steps, unit, assigned, facts);
    steps.push(HostStep::Stdio(unit.service.stdin.clone()));
    steps.extend(unit.sockets_given().iter().cloned().map(HostStep::Listen));
    if !assigned.stored.is_empty() {
        steps.push(HostStep::Stored(assigned.stored.clone()));
    }
    steps.extend(unit.service.ready_fd().map(HostStep::Ready));
    steps.push(HostStep::Channel);
    steps.push(HostStep::Clone(namespaces(unit, assigned)));
    if has_user_namespace(unit) {
        let range = || vec![IdRange { inside: 0, outside: assigned.id_base, count: IDS }];
        steps.push(match &assigned.unprivileged {
            Some(made) => HostStep::Ids(made.inner_uids.clone(), made.inner_gids.clone()),
            None => HostStep::Ids(range(), range()),
        });
    }
    let raised = raised(unit, facts);
    if !raised.is_empty() {
        steps.push(HostStep::Raise(raised));
    }
    if owns_network(unit, assigned) {
        network(&mut steps, unit, assigned);
    }
    let Service { nice, oom_score_adj, sched, ioprio, .. } = unit.service;
    if nice.is_some() || oom_score_adj.is_some() || sched.is_some() || ioprio.is_some() {
        steps.push(HostStep::Sched { nice, oom_score_adj, sched, ioprio });
    }
    steps.push(HostStep::Go);
    steps
}

/// Limits beyond our own: the init has none of the host's capabilities, so it could not give them.
fn raised(unit: &Unit, facts: &HostFacts) -> Vec<(Rlimit, Bounds)> {
    let is_above = |limit: &Rlimit, bounds: &Bounds| {
        let own = facts.limits.rlimits.get(limit).and_then(|own| own.hard);
        own.is_some_and(|own| bounds.hard.is_none_or(|hard| hard > own))
    };
    let all = unit.limits.rlimits.iter().filter(|(limit, bounds)| is_above(limit, bounds));
    all.map(|(limit, bounds)| (*limit, *bounds)).collect()
}

fn network(steps: &mut Vec<HostStep>, unit: &Unit, assigned: &Assigned) {
    if unit.network.mode == NetworkMode::Host {
        return;
    }
    if let Some(of) = unit.network.joined() {
        steps.push(HostStep::NetNsJoin(of.clone()));
        return;
    }
    if assigned.netns_kept {
        steps.push(HostStep::NetNsKept);
        return;
    }
    steps.push(if owns_network(unit, assigned) { HostStep::NetNsOwn } else { HostStep::NetNs });
    steps.extend(assigned.unprivileged.as_ref().and_then(|made| made.link.clone()).map(HostStep::UserLink));
    if assigned.unprivileged.is_none() {
        steps.extend(AttachPlan::new(&unit.network).map(HostStep::Attach));
    }
    if let Some(link) = &assigned.link {
        steps.extend(unit.network.publish.iter().copied().map(HostStep::Publish));
        steps.push(HostStep::Veth(link.clone()));
        if !unit.network.bandwidth.is_unbounded() {
            steps.push(HostStep::Bandwidth(unit.network.bandwidth));
        }
        if unit.network.egress != Egress::None {
            let names = unit.network.egress_names.clone();
            steps.push(HostStep::Egress(unit.network.egress.clone(), names));
        }
        steps.extend(assigned.talk.iter().copied().map(HostStep::Talk));
        if unit.network.firewall == Firewall::Insert {
            let prefix = link.host_if.split_inclusive('-').next().unwrap_or_default();
            steps.push(HostStep::Firewall(prefix.to_owned()));
        }
    }
}

fn needs_idmap(unit: &Unit) -> bool {
    matches!(unit.rootfs.base, Base::Dir(_)) || unit.rootfs.mounts.iter().any(|mount| mount.idmap)
}

fn root(steps: &mut Vec<HostStep>, unit: &Unit, assigned: &Assigned, facts: &HostFacts) {
    let rootfs = &unit.rootfs;
    match &rootfs.base {
        Base::Host => steps.extend([HostStep::RootMemory, HostStep::RootHost]),
        Base::None => steps.push(HostStep::RootMemory),
        Base::Dir(src) => {
            let upper = (rootfs.writable == Writable::Persistent)
                .then(|| assigned.state.join("rootfs").join(unit.name.as_str()));
            let idmap = has_user_namespace(unit) && assigned.unprivileged.is_none();
            steps.push(HostStep::RootDir { src: src.clone(), idmap, writable: rootfs.writable, upper });
        }
    }
    let over = matches!(rootfs.base, Base::Dir(_));
    let files = if rootfs.base == Base::None { Vec::new() } else { etc::files(unit, assigned, facts) };
    steps.extend(files.into_iter().map(|(dst, content)| HostStep::File { dst, content, over }));
    match &rootfs.dev {
        Dev::Minimal(shown) => {
            let (shown, given) = (shown.clone(), unit.security.devices.clone());
            steps.push(HostStep::DevMinimal { shown, given });
        }
        Dev::Host => steps.push(HostStep::DevHost),
    }
    if rootfs.proc {
        steps.push(match &unit.namespaces.pid {
            Namespace::Own => HostStep::ProcPoint,
            Namespace::Join(of) => HostStep::ProcOf(Some(of.clone())),
            Namespace::Host => HostStep::ProcOf(None),
        });
    }
    if shows_sys(unit, assigned) {
        steps.push(if owns_network(unit, assigned) { HostStep::SysPoint } else { HostStep::Sysfs });
    }
    // A mount on a path above another would hide it: shallow ones first, the order of the file otherwise.
    let mut tmpfs = rootfs.tmpfs.clone();
    tmpfs.sort_by_key(|tmpfs| tmpfs.dst.components().count());
    steps.extend(tmpfs.into_iter().map(HostStep::Tmpfs));
    let idmap = |mount: &Mount| mount.idmap && assigned.unprivileged.is_none();
    let mounts = rootfs.mounts.iter().map(|mount| Mount { idmap: idmap(mount), ..mount.clone() });
    steps.extend(mounts.map(HostStep::Bind));
    if !unit.security.credentials.is_empty() {
        let (dst, files) = (credential::directory(&unit.name), unit.security.credentials.clone());
        steps.push(HostStep::Credentials { dst, files });
    }
    if notifies(unit, assigned) {
        steps.push(HostStep::Notify);
    }
    steps.extend(rootfs.hide.iter().cloned().map(HostStep::Hide));
    steps.extend(rootfs.read_only.iter().cloned().map(HostStep::ReadOnly));
    let in_memory = !matches!(rootfs.base, Base::Dir(_));
    if in_memory && rootfs.writable == Writable::No {
        steps.push(HostStep::RootSeal);
    }
}

fn joins(unit: &Unit) -> impl Iterator<Item = HostStep> {
    NsKind::of(&unit.namespaces).into_iter().filter_map(|(kind, namespace)| match namespace {
        Namespace::Join(of) => Some(HostStep::Join { kind, of: of.clone() }),
        Namespace::Own | Namespace::Host => None,
    })
}

fn namespaces(unit: &Unit, assigned: &Assigned) -> Vec<&'static str> {
    let mut names = vec!["mnt"];
    let own = NsKind::of(&unit.namespaces).into_iter().filter(|(_, namespace)| **namespace == Namespace::Own);
    names.extend(own.map(|(kind, _)| kind.name()));
    names.extend(owns_network(unit, assigned).then_some("net"));
    names.extend(has_user_namespace(unit).then_some("user"));
    names
}
