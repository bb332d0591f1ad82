//! What a service file means: the [`Unit`], with every default filled in and every name made sure of.
//!
//! Pure. `config` hands in what the user typed, [`HostFacts`] what the host is like; nothing here reads either.
//! A `Unit` is serialised into the run-time state, so that the next supervisor knows what a live run was started with.

mod attached;
pub mod bandwidth;
pub mod condition;
pub mod credential;
pub mod defaults;
pub mod exposure;
mod hook;
mod http;
pub mod limits;
mod log;
mod network;
mod owner;
pub mod probe;
mod resolve;
mod schedule;
pub mod security;
pub mod socket;
mod timer;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::attached::{Attached, AttachedKind};
pub use self::bandwidth::Bandwidth;
pub use self::log::{Full, LogPolicy, LogRate, LogTarget};
pub use self::owner::Owner;
pub use self::resolve::{Claims, resolve, resolve_with_claims};
pub(crate) use self::resolve::{MOST, clash, parse_owner};
pub use self::{
    credential::Credential,
    hook::{Hook, HookUser, Hooks, Stage, later},
    http::{CertDir, Format, Host, Http, INGRESS_DIR, Ingress, Tls, WebPath},
    limits::Limits,
    network::{
        Allowed, Destination, Dns, Door, Egress, Firewall, Named, Network, NetworkMode, Proto, Publish,
    },
    probe::{HealthCheck, HttpTarget, OnFail, Ready, Test},
    schedule::{IoPrio, Sched},
    security::{Capability, Device, Landlock, Seccomp, Security},
    socket::{Activation, Listen, Peer, Socket, SocketKind},
    timer::{Overlap, Timer},
};
use crate::machine::Policy;
pub use crate::seccomp::{Denial, Families};

/// The name of a service: `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`, for an instance of a template followed by `@inst`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// What the name of a second run ends with.
const TWIN: &str = "~next";

impl TryFrom<String> for UnitName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.strip_suffix(TWIN) {
            Some(base) => Self::new(base).map(|base| base.twin()),
            None => Self::said(&name),
        }
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> String {
        name.0
    }
}

impl UnitName {
    /// Checks `name` against the grammar above.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name.
    pub fn new(name: &str) -> Result<Self, String> {
        let part = |part: &str| {
            let mut bytes = part.bytes();
            let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
            first && part.len() <= 63 && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        let good = match name.split_once('@') {
            Some((prefix, instance)) => part(prefix) && part(instance),
            None => part(name),
        };
        match good {
            true => Ok(Self(name.to_owned())),
            false => Err(format!(
                "{name:?} is not a service name: a letter or digit, then up to 62 letters, digits, '_' or '-'"
            )),
        }
    }

    /// As [`UnitName::new`], or that of a connection's run: what people name a service by.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name.
    pub fn said(name: &str) -> Result<Self, String> {
        let of_peer = |c: char| c.is_ascii_alphanumeric() || ['.', ':', '-'].contains(&c);
        match name.rsplit_once('@') {
            Some((base, peer)) if peer.contains(':') && peer.len() <= 80 && peer.chars().all(of_peer) => {
                Self::new(base).map(|_| Self(name.to_owned()))
            }
            _ => Self::new(name),
        }
    }

    /// The name of the run that answers connection `number` of the service (`socket.accept`), which came from `peer`; no file
    /// can have it, for its colon.
    #[must_use]
    pub fn connection(&self, number: u64, peer: &Peer) -> Self {
        Self(format!("{self}@{number}-{peer}"))
    }

    /// Whether it is that of a run that answers one connection.
    pub fn is_connection(&self) -> bool {
        self.0.rsplit_once('@').is_some_and(|(_, peer)| peer.contains(':'))
    }

    /// Whether it is that of a service, and not of a further run of one.
    pub fn is_service(&self) -> bool {
        !self.is_twin() && !self.is_connection()
    }

    /// The name of a second run of the service, while one takes the place of the other (`service.rollout`); no file can have
    /// it.
    #[must_use]
    pub fn twin(&self) -> Self {
        Self(format!("{}{TWIN}", self.0))
    }

    /// Whether it is that of a second run.
    pub fn is_twin(&self) -> bool {
        self.0.ends_with(TWIN)
    }

    /// The service whose run it is.
    #[must_use]
    pub fn base(&self) -> Self {
        let listener = self.0.rsplit_once('@').filter(|_| self.is_connection()).map(|(base, _)| base);
        Self(listener.or(self.0.strip_suffix(TWIN)).unwrap_or(&self.0).to_owned())
    }

    /// Whether it names an instance of a template.
    pub fn is_instance(&self) -> bool {
        self.0.contains('@') && !self.is_connection()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything Palisade knows about one service before it is launched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The file's name without `.toml`.
    pub name: UnitName,
    /// One line for people.
    pub description: String,
    /// What the host must be like for it to be started; otherwise it is skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub condition: Vec<condition::Check>,
    /// As `condition`; otherwise the start has failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assert: Vec<condition::Check>,
    /// Where to read more.
    pub documentation: Vec<String>,
    /// What lay below its file.
    #[serde(default)]
    pub profile: Option<String>,
    /// Who, beside root, may operate it.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Started by the supervisor when it comes up.
    pub enabled: bool,
    /// Services without which this one is not started.
    pub requires: Vec<UnitName>,
    /// Services that are started with this one, which does without them.
    #[serde(default)]
    pub wants: Vec<UnitName>,
    /// As `requires`, and this one is up only while they are.
    #[serde(default)]
    pub binds_to: Vec<UnitName>,
    /// Services with which this one is stopped and restarted.
    #[serde(default)]
    pub part_of: Vec<UnitName>,
    /// Services that are started whenever they are found down while this one is up.
    #[serde(default)]
    pub upholds: Vec<UnitName>,
    /// Services that are stopped when this one is started, and the other way round.
    #[serde(default)]
    pub conflicts: Vec<UnitName>,
    /// Services that must have come so far before this one is started, where they are started at all.
    pub after: Vec<After>,
    /// Services that wait for this one to have come so far, where it is started at all.
    #[serde(default)]
    pub before: Vec<After>,
    /// Services that are started when this one has failed.
    #[serde(default)]
    pub on_failure: Vec<UnitName>,
    /// Services that are started when this one has ended with success.
    #[serde(default)]
    pub on_success: Vec<UnitName>,
    /// The program and its process attributes.
    pub service: Service,
    /// What happens when a run ends.
    pub restart: Policy,
    /// Which kernel namespaces are the service's own.
    pub namespaces: Namespaces,
    /// What the service sees as `/`.
    pub rootfs: Rootfs,
    /// Its link to the world.
    pub network: Network,
    /// Where Palisade listens for it.
    #[serde(default)]
    pub sockets: Vec<Socket>,
    /// What starts it.
    #[serde(default)]
    pub activation: Activation,
    /// What it may ask of the kernel.
    pub security: Security,
    /// How much it may take.
    pub limits: Limits,
    /// How it is checked while it runs.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// Where its output goes.
    pub log: LogPolicy,
    /// What its measurements are marked with, beside its name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it is started by the clock, instead of when the supervisor comes up.
    #[serde(default)]
    pub timer: Option<Timer>,
    /// What becomes of output for which there is no room while nobody supervises.
    #[serde(default)]
    pub log_full: Full,
    /// By which names it is asked over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// It passes such requests on to those who have `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
}

impl Unit {
    /// Whether the service has power over its own network namespace: it may change links, addresses and routes in it, or
    /// send packets of its own making. What it leaves there is nothing that another run should find.
    pub fn has_network_power(&self) -> bool {
        let power = [Capability::NET_ADMIN, Capability::NET_RAW];
        self.network.mode != NetworkMode::Host
            && power.iter().any(|capability| self.security.capabilities.contains(capability))
    }

    /// Shows an ingress what a supervisor makes for it in its run-time directory, and has it reload when that changes.
    pub fn show_ingress(&mut self, run: &Path) {
        if let Some(ingress) = &self.ingress {
            self.service.reload_watch.push(ingress.file(run, &self.name));
            self.rootfs.mounts.push(Ingress::mount(run, &self.name));
        }
    }

    /// Whether it is a run for each connection, and itself only listens (`socket.accept`).
    pub fn accepts(&self) -> bool {
        self.sockets.iter().any(|socket| socket.accept.is_some())
    }

    /// The sockets that a run finds from descriptor 3 on: one connection where it was accepted, none where that is its
    /// standard input.
    pub fn sockets_given(&self) -> &[Socket] {
        match (&self.service.stdin, self.accepts()) {
            (Stdin::Socket, _) => &[],
            (_, true) => &self.sockets[..1],
            (_, false) => &self.sockets,
        }
    }
}

/// One ordering edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The other service: of `after` the one that goes first, of `before` the one that waits.
    pub name: UnitName,
    /// How far the first must have come.
    pub milestone: Milestone,
}

/// How far a service has come, for `after` and `before`. A oneshot has come to all of them at once: when it has ended with
/// success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Milestone {
    /// Its program was executed.
    Started,
    /// It says that it is ready, where it says so at all.
    Ready,
    /// Its health check has passed, where it has one.
    Healthy,
    /// It has ended with success.
    Done,
}

/// `[service]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// argv; never empty, already expanded.
    pub command: Vec<String>,
    /// How the service signals that it has started.
    pub kind: Kind,
    /// What makes it ready, where that is more than having been executed.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// Where a daemon that its starter has left behind writes its pid, inside.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// How often it is to say that it is alive.
    #[serde(default)]
    pub watchdog: Option<Duration>,
    /// The whole environment, including what the user and the service type imply (HOME, USER, PATH, ...).
    pub env: BTreeMap<String, String>,
    /// Absolute, inside the sandbox.
    pub working_dir: PathBuf,
    /// File mode creation mask.
    pub umask: u32,
    /// Whom it runs as.
    pub user: UserSpec,
    /// The primary group, when it is not the user's own.
    pub group: Option<IdSpec>,
    /// Supplementary groups beside the user's own.
    pub extra_groups: Vec<IdSpec>,
    /// Standard input.
    pub stdin: Stdin,
    /// A pseudo-terminal of its own as standard input, output and error.
    pub tty: bool,
    /// How it is stopped.
    pub stop: StopPolicy,
    /// How it is told to read its configuration again; none: reload is refused.
    pub reload: Option<Reload>,
    /// Paths of the host with which it reloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reload_watch: Vec<PathBuf>,
    /// From launch to `started`.
    pub start_timeout: Option<Duration>,
    /// From `started` to the end; none is no bound.
    pub run_timeout: Option<Duration>,
    /// Commands around the main program.
    #[serde(default)]
    pub hooks: Hooks,
    /// What counts as success beside exit status 0 (and, for daemons, SIGHUP, SIGINT, SIGTERM, SIGPIPE).
    pub success_exit: Vec<ExitMatch>,
    /// A oneshot that ended well counts as active.
    pub remain_after_exit: bool,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// The policy of the scheduler.
    #[serde(default)]
    pub sched: Option<Sched>,
    /// The class and level of its I/O.
    #[serde(default)]
    pub ioprio: Option<IoPrio>,
    /// How many descriptors that it hands over are kept for its next run.
    #[serde(default)]
    pub fd_store_max: u32,
    /// How a run takes the place of another.
    #[serde(default)]
    pub rollout: Rollout,
}

/// `service.rollout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rollout {
    /// The old one ends first.
    #[default]
    Restart,
    /// The new one is up first.
    BlueGreen,
}

impl Service {
    /// Whether it is given a socket to say on how it is.
    pub fn notifies(&self) -> bool {
        let by_kind = match self.kind {
            Kind::Notify | Kind::NotifyReload => true,
            Kind::Exec | Kind::Simple | Kind::Forking | Kind::Oneshot => false,
        };
        by_kind || self.ready == Some(Ready::Notify) || self.watchdog.is_some() || self.fd_store_max > 0
    }

    /// Whether it has started only when it says so, or is found to be ready.
    pub fn reports_ready(&self) -> bool {
        let by_kind = match self.kind {
            Kind::Notify | Kind::NotifyReload | Kind::Forking => true,
            Kind::Exec | Kind::Simple | Kind::Oneshot => false,
        };
        by_kind || self.ready.is_some()
    }

    /// The descriptor that it says on that it is ready.
    pub fn ready_fd(&self) -> Option<i32> {
        match self.ready {
            Some(Ready::Fd(fd)) => Some(fd),
            Some(Ready::Notify | Ready::Tcp(_) | Ready::Http(_) | Ready::File(_) | Ready::Log(_)) | None => {
                None
            }
        }
    }
}

/// `service.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Started when the program was executed.
    Exec,
    /// Started when its process was made, whether or not the program can be executed.
    Simple,
    /// Started when it says so on its notify socket.
    Notify,
    /// As `Notify`; it says there as well when it has read its configuration again.
    NotifyReload,
    /// Started when the program has ended with success; what it has left behind is the service.
    Forking,
    /// Started when the program has ended with success.
    Oneshot,
}

impl Kind {
    /// As a service file has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Exec => "exec",
            Kind::Simple => "simple",
            Kind::Notify => "notify",
            Kind::NotifyReload => "notify-reload",
            Kind::Forking => "forking",
            Kind::Oneshot => "oneshot",
        }
    }
}

/// `service.user`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserSpec {
    /// An id of its own with no entry on the host.
    #[default]
    Dynamic,
    /// A number, or a name that the sandbox's own /etc/passwd must know.
    Named(IdSpec),
}

/// A user or group id as the file gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IdSpec {
    /// Inside the user namespace.
    Number(u32),
    /// Looked up in the sandbox's own files by the init.
    Name(String),
}

/// `service.stdin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// What `palisade run` was given; the supervisor has none to give.
    Inherit,
    /// A file of the host, opened read-only by the supervisor.
    File(PathBuf),
    /// The connection that was accepted, which is the standard output as well.
    Socket,
}

/// `service.stop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// The first signal.
    pub signal: i32,
    /// A command to run inside instead of the signal; the signal follows when it has ended.
    pub command: Option<Vec<String>>,
    /// From the first signal to `cgroup.kill`; none waits for ever.
    pub timeout: Option<Duration>,
    /// Whom the first signal goes to.
    pub mode: StopMode,
}

/// `service.stop.mode`, named as systemd's `KillMode=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// The signal to the main process, SIGKILL to whatever is left when it has ended or the time is up.
    Mixed,
    /// The signal to every process of the sandbox.
    ControlGroup,
}

/// `service.reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reload {
    /// A signal to the main process.
    Signal(i32),
    /// A command run inside.
    Command(Vec<String>),
}

/// One entry of `success_exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitMatch {
    /// An exit status, 0 to 255.
    Code(u8),
    /// A signal number.
    Signal(i32),
}

/// `[namespaces]`. The mount namespace is always the service's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// The view of the cgroup tree.
    pub cgroup: Namespace,
    /// User and group ids.
    pub user: UserNamespace,
    /// It may make namespaces of its own.
    #[serde(default)]
    pub nested: bool,
    /// Clocks; with the offset of the monotonic and boot-time clocks in seconds.
    pub clock_offset: Option<i64>,
    /// What `hostname` prints.
    pub hostname: String,
    /// The NIS domain name.
    pub domainname: String,
    /// 32 hexadecimal digits for /etc/machine-id; none: derived from the host's and the service's name.
    pub machine_id: Option<String>,
}

impl Namespaces {
    /// The services whose namespaces are joined.
    pub fn joined(&self) -> impl Iterator<Item = &UnitName> {
        let spaces = [&self.pid, &self.uts, &self.ipc, &self.cgroup];
        spaces.into_iter().filter_map(|space| match space {
            Namespace::Join(name) => Some(name),
            Namespace::Own | Namespace::Host => None,
        })
    }
}

/// Where a namespace comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Made for this service.
    Own,
    /// That of another service, which must be running.
    Join(UnitName),
    /// The host's.
    Host,
}

/// `namespaces.user`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserNamespace {
    /// 65536 ids of its own.
    Auto,
    /// The id range of another service, in a user namespace of its own.
    Shared(UnitName),
    /// The host's ids.
    Off,
}

/// `[rootfs]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rootfs {
    /// What `/` is made from.
    pub base: Base,
    /// What becomes of writes to it.
    pub writable: Writable,
    /// Host files and directories that the service sees, in the order of the file.
    pub mounts: Vec<Mount>,
    /// Memory file systems, /tmp, /run and /dev/shm included.
    pub tmpfs: Vec<Tmpfs>,
    /// Paths that the service finds empty.
    pub hide: Vec<PathBuf>,
    /// Paths made read-only.
    pub read_only: Vec<PathBuf>,
    /// Devices beside the minimal set; `host` is all of /dev.
    pub dev: Dev,
    /// /proc is mounted.
    pub proc: bool,
    /// /sys is mounted, read-only.
    pub sys: bool,
}

/// `rootfs.base`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// The host's /usr, read-only, and an /etc made for the service.
    Host,
    /// A directory tree.
    Dir(PathBuf),
    /// An empty directory.
    None,
}

/// `rootfs.writable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writable {
    /// Read-only.
    No,
    /// Writes go to memory and are gone with the run.
    Ephemeral,
    /// Writes go to the state directory and stay.
    Persistent,
}

/// One entry of `rootfs.mounts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host.
    pub src: PathBuf,
    /// Inside.
    pub dst: PathBuf,
    /// Read-only.
    pub ro: bool,
    /// Ids are shifted into the service's range.
    pub idmap: bool,
    /// Programs in it may be executed.
    pub exec: bool,
    /// A missing source is passed over.
    pub optional: bool,
}

/// One memory file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Inside.
    pub dst: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Mode of its root directory.
    pub mode: u32,
    /// Programs in it may be executed.
    pub exec: bool,
}

/// `rootfs.dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dev {
    /// null zero full random urandom tty pts shm, and these device nodes of the host beside them.
    Minimal(Vec<PathBuf>),
    /// The host's /dev.
    Host,
}

/// One line of an id map: `count` ids from `inside` are `outside` for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IdRange {
    /// First id in the user namespace, or on disk.
    pub inside: u32,
    /// First id of the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// What resolution needs to know about the host; gathered once by `sys`, so that resolution runs anywhere.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// /etc/passwd of the host: name to (uid, gid, home, shell).
    pub users: BTreeMap<String, HostUser>,
    /// /etc/group of the host: name to (gid, members).
    pub groups: BTreeMap<String, (u32, Vec<String>)>,
    /// The environment of Palisade itself, for `pass_env` alone.
    pub env: BTreeMap<String, String>,
    /// What `%H` stands for.
    pub hostname: String,
    /// /etc/resolv.conf, and the list of servers that the host's own resolver asks in turn, where there is one.
    pub resolv_conf: Vec<String>,
    /// A cgroup v2 tree in which a process tree can be killed at once (`cgroup.kill`, Linux 5.14).
    pub cgroup_kill: bool,
    /// What can be limited here.
    pub limits: limits::HostLimits,
    /// The version of Landlock's interface that the kernel offers; 0: it has none, or it was not switched on at boot.
    pub landlock: u32,
    /// The kernel speaks IPv6.
    pub ipv6: bool,
    /// AppArmor is on.
    pub apparmor: bool,
    /// SELinux is on.
    pub selinux: bool,
    /// Whether the host has the rules of a time zone; none: any name is good.
    pub zone_exists: Option<fn(&str) -> bool>,
}

/// One line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}
