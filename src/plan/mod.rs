//! The launch plan: everything that will be done for one run, as data.
//!
//! Pure. [`build`] turns a [`Unit`] and what was assigned to it into steps; [`render`] prints them, [`lower`] turns the child
//! steps into what the init understands, `launch` carries out the host steps and knows how to undo each. The order of the
//! steps is the order that the kernel demands; `tests` in this module hold it fast.

mod attest;
mod child;
mod etc;
mod host;
mod landlock;
pub mod lower;
pub mod render;
#[cfg(test)]
mod tests;
pub mod unprivileged;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use attest::{Attested, MountFlags, NAMESPACES, attested, namespaces};
pub use child::{
    ChildStep, Credentials, Module, Question, SYS_HIDDEN_DIRS, SYS_HIDDEN_FILES, User, check, hook,
    kept_anew, question, session,
};
pub use host::{Dest, HostStep, NsKind};
pub use landlock::{Landlock, Rule};
pub use lower::Seen;

use crate::{
    net::{addr::Talk, link::LinkPlan},
    spec::{Hook, HostFacts, Stage, Unit, UserNamespace},
};

/// What the supervisor hands out to one run; the unit says nothing about these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Which launch of this service.
    pub run: u64,
    /// First of the service's 65536 ids, for a user namespace.
    pub id_base: u32,
    /// The run's control group, relative to the cgroup2 mount; none where the host has no cgroup v2 tree.
    pub cgroup: Option<PathBuf>,
    /// Where the root is put together, in the supervisor's own mount namespace.
    pub root: PathBuf,
    /// Where the upper layers of persistent roots are.
    pub state: PathBuf,
    /// The service's link, for `mode = "veth"`.
    pub link: Option<LinkPlan>,
    /// What its file lets it and other services talk.
    #[serde(default)]
    pub talk: BTreeSet<Talk>,
    /// The names and addresses of those that it may talk to.
    #[serde(default)]
    pub peers: Vec<(String, IpAddr)>,
    /// The network namespace is there already, with its link.
    pub netns_kept: bool,
    /// The names of the descriptors that earlier runs have stored.
    #[serde(default)]
    pub stored: Vec<String>,
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// The sandbox ends with the process that launched it (`palisade run`).
    pub ends_with_launcher: bool,
    /// It is made by an ordinary user.
    pub unprivileged: Option<unprivileged::Unprivileged>,
}

/// What will be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchPlan {
    /// Whom for.
    pub name: String,
    /// Done by the supervisor.
    pub host: Vec<HostStep>,
    /// Done by the sandbox's PID 1 before it forks.
    pub init: Vec<ChildStep>,
    /// Done by the process that becomes the service.
    pub service: Vec<ChildStep>,
    /// Done by PID 1 after the fork, before it waits.
    pub waiting: Vec<ChildStep>,
    /// Commands around the service, in the order of its life. Where some go before it, its own process is made when they
    /// are done, and not by the init as it sets up.
    pub hooks: Vec<(Stage, Hook)>,
    /// Flags of the init: see `init::wire`.
    pub flags: u32,
    /// A step that fails without being done: how the tests reach every unwinding.
    pub fail_at: Option<FailAt>,
}

/// One step of a plan, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailAt {
    /// Of the supervisor.
    Host(usize),
    /// Inside the sandbox.
    Child(usize),
    /// Inside the sandbox, where this one of the things that the step reads back is expected to be what it is not.
    Attested(usize, usize),
    /// Before this step of the supervisor there is an end of the supervisor.
    DieAtHost(usize),
    /// At this step inside the sandbox there is a wait for the end of the supervisor.
    WaitAtChild(usize),
}

/// Which descriptor of the launch a child step works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fd {
    /// The listening end of the init's channel.
    Listen,
    /// Where the last words go.
    Words,
    /// The service's standard input.
    Stdin,
    /// Write end of its standard output.
    Stdout,
    /// Write end of its standard error.
    Stderr,
    /// Read end of its standard output, kept by the init.
    KeepStdout,
    /// Read end of its standard error, kept by the init.
    KeepStderr,
    /// The control group's `cgroup.kill`.
    Kill,
    /// What the service is given beside its standard streams: held sockets in the order of the file, then stored
    /// descriptors.
    Given(u8),
    /// The receiving end of the notify socket, kept by the init.
    Notify,
    /// Write end of the pipe that the service says on that it is ready.
    Ready,
    /// Its read end, kept by the init.
    KeepReady,
}

impl Fd {
    /// The label under which the init keeps it.
    pub fn label(self) -> &'static str {
        match self {
            Fd::Listen => "listen",
            Fd::Words => "words",
            Fd::Stdin => "stdin",
            Fd::Stdout | Fd::KeepStdout => "stdout",
            Fd::Stderr | Fd::KeepStderr => "stderr",
            Fd::Kill => "kill",
            Fd::Given(_) => "given",
            Fd::Notify => "notify",
            Fd::Ready | Fd::KeepReady => "ready",
        }
    }
}

/// Works out the plan of one run.
pub fn build(unit: &Unit, assigned: &Assigned, facts: &HostFacts) -> LaunchPlan {
    LaunchPlan {
        name: unit.name.to_string(),
        host: host::steps(unit, assigned, facts),
        init: child::init_steps(unit, assigned, facts),
        service: child::service_steps(unit, assigned),
        waiting: child::waiting_steps(unit, assigned),
        hooks: unit.service.hooks.all().map(|(stage, _, hook)| (stage, hook.clone())).collect(),
        flags: child::flags(unit, assigned),
        fail_at: None,
    }
}

impl LaunchPlan {
    /// The child steps in the order in which they are numbered: the init's, the fork, the service's, the waiting init's.
    pub fn child(&self) -> impl Iterator<Item = &ChildStep> {
        self.init.iter().chain(std::iter::once(&ChildStep::Fork)).chain(&self.service).chain(&self.waiting)
    }

    /// Whether commands go before the service.
    pub fn is_deferred(&self) -> bool {
        self.hooks.iter().any(|(stage, _)| matches!(stage, Stage::Condition | Stage::PreStart))
    }

    /// The descriptors that the init is sent when the service's own process is made later.
    pub fn deferred_fds(&self) -> Vec<Fd> {
        let mut fds: Vec<Fd> = self.service.iter().flat_map(ChildStep::fds).collect();
        fds.sort_unstable();
        fds.dedup();
        fds
    }

    /// The child step with this number, counted from 1.
    pub fn child_step(&self, number: usize) -> Option<&ChildStep> {
        place(number).0.checked_sub(1).and_then(|n| self.child().nth(n))
    }

    /// The descriptors that the init is sent, in the order of its registers (the plan itself is register 0).
    pub fn fds(&self) -> Vec<Fd> {
        let mut fds: Vec<Fd> = self.child().flat_map(ChildStep::fds).collect();
        fds.sort_unstable();
        fds.dedup();
        fds
    }
}

/// A further process of a sandbox that stands: an `exec` session, a stop command, the service itself once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// 0 is the service.
    pub number: u32,
    /// Done by the new process.
    pub steps: Vec<ChildStep>,
    /// Done by the init after the fork.
    pub after: Vec<ChildStep>,
    /// Of the init; meant only with number 0.
    pub flags: u32,
}

impl Session {
    /// The descriptors that the init is sent, in the order of its registers.
    pub fn fds(&self) -> Vec<Fd> {
        let mut fds: Vec<Fd> = self.steps.iter().chain(&self.after).flat_map(ChildStep::fds).collect();
        fds.sort_unstable();
        fds.dedup();
        fds
    }

    /// The step with this number; the fork is the first.
    pub fn step(&self, number: usize) -> Option<&ChildStep> {
        let all = std::iter::once(&ChildStep::Fork).chain(&self.steps).chain(&self.after);
        place(number).0.checked_sub(1).and_then(|n| all.clone().nth(n))
    }
}

pub use child::policy as filter_policy;

/// The key of a service file that a step is made from, by the step's name; none: from several, or from none.
pub fn key_of(step: &str) -> Option<&'static str> {
    let keys = [
        ("exec", "service.command"),
        ("publish", "network.publish"),
        ("root.bind", "rootfs.mounts"),
        ("root.dir", "rootfs.dir"),
        ("user", "service.user"),
        ("working_dir", "service.working_dir"),
    ];
    keys.iter().find(|(name, _)| *name == step).map(|(_, key)| *key)
}

/// The steps of what an init was given that may still fail, by number.
#[derive(Debug)]
pub struct Steps {
    /// The number of the first of them.
    first: usize,
    all: Vec<ChildStep>,
    /// How many of them the init does beside the program, once that has been made.
    beside: usize,
}

impl Steps {
    /// The step with this number.
    pub fn get(&self, number: usize) -> Option<&ChildStep> {
        place(number).0.checked_sub(self.first).and_then(|n| self.all.get(n))
    }

    /// The program has been executed: what led to that is done.
    pub fn executed(&mut self) {
        let done = self.all.len() - self.beside;
        self.first += done;
        self.all = self.all.split_off(done);
    }
}

impl From<LaunchPlan> for Steps {
    fn from(plan: LaunchPlan) -> Self {
        let beside = plan.waiting.len();
        let all = plan.init.into_iter().chain([ChildStep::Fork]).chain(plan.service).chain(plan.waiting);
        Self { first: 1, all: all.collect(), beside }
    }
}

impl From<Session> for Steps {
    fn from(session: Session) -> Self {
        let beside = session.after.len();
        let all = std::iter::once(ChildStep::Fork).chain(session.steps).chain(session.after);
        Self { first: 1, all: all.collect(), beside }
    }
}

/// The number of the step and, of what it reads back, of the item, both from 1, out of what a fault says; 0 is none.
pub fn place(number: usize) -> (usize, usize) {
    let shift = u32::from(crate::init::wire::FAULT_ITEM_SHIFT);
    (number & ((1 << shift) - 1), number >> shift)
}

/// Whether the run gets a user namespace.
pub(crate) fn has_user_namespace(unit: &Unit) -> bool {
    unit.namespaces.user != UserNamespace::Off
}

/// Whether the network namespace belongs to the service's user namespace, which alone makes a capability count in it. Then it
/// is born with the sandbox, and the link is made when the init waits for its plan. An ordinary user's Palisade keeps it.
pub(crate) fn owns_network(unit: &Unit, assigned: &Assigned) -> bool {
    has_user_namespace(unit) && unit.has_network_power() && assigned.unprivileged.is_none()
}

/// Whether there is a notify socket. Under `palisade run` nobody would read from it.
pub(crate) fn notifies(unit: &Unit, assigned: &Assigned) -> bool {
    unit.service.notifies() && !assigned.ends_with_launcher
}

/// Whether the sandbox has a /sys. It shows a network namespace, and is mounted by whoever has power over that one.
pub(crate) fn shows_sys(unit: &Unit, assigned: &Assigned) -> bool {
    unit.rootfs.sys && assigned.unprivileged.as_ref().is_none_or(|made| made.has_netns)
}

/// Root of the sandbox, as the host counts.
pub fn owner(unit: &Unit, assigned: &Assigned) -> u32 {
    if let Some(unprivileged) = &assigned.unprivileged {
        return unprivileged.owner();
    }
    if has_user_namespace(unit) { assigned.id_base } else { 0 }
}

/// The ids of the service as the host counts them, where they are known before the sandbox exists.
pub fn ids_on_host(unit: &Unit, assigned: &Assigned, facts: &HostFacts) -> Option<(u32, u32)> {
    match &assigned.unprivileged {
        Some(unprivileged) => service_ids(unit, 0, facts).and_then(|(uid, gid)| unprivileged.ids(uid, gid)),
        None => service_ids(unit, owner(unit, assigned), facts),
    }
}

/// The same, counted from `base`.
fn service_ids(unit: &Unit, base: u32, facts: &HostFacts) -> Option<(u32, u32)> {
    use crate::spec::{Base, IdSpec, UserSpec};
    let known = |name: &str| {
        let user = (unit.rootfs.base == Base::Host).then(|| facts.users.get(name)).flatten();
        user.map(|user| (user.uid, user.gid))
    };
    let (uid, gid) = match &unit.service.user {
        UserSpec::Dynamic => (etc::DYNAMIC_ID, etc::DYNAMIC_ID),
        UserSpec::Named(IdSpec::Number(id)) => (*id, *id),
        UserSpec::Named(IdSpec::Name(name)) if name == "root" => (0, 0),
        UserSpec::Named(IdSpec::Name(name)) => known(name)?,
    };
    let gid = match &unit.service.group {
        None => gid,
        Some(IdSpec::Number(gid)) => *gid,
        Some(IdSpec::Name(name)) => facts.groups.get(name).map(|(gid, _)| *gid)?,
    };
    Some((base + uid, base + gid))
}

/// A machine id for a service: always the same on this host, and different from those of others.
pub fn machine_id(host: &str, service: &str) -> String {
    // FNV-1a, twice with different beginnings; an identifier, not a secret.
    let hash = |seed: u64| {
        let bytes = host.bytes().chain([0]).chain(service.bytes());
        bytes.fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142))
}
