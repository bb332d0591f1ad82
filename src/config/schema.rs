//! A service file exactly as the user typed it: every key an `Option`, every value with the place it stands at.
//!
//! No default and no meaning here: `spec::resolve` gives both. The doc comment of a key says what it means, its unit
//! and its default; the reference is made from them.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{
    Deserialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use toml::Spanned;

pub mod condition;

use self::condition::ConditionTable;
use super::{diagnostic::SourceMap, tables::Places};
use crate::spec::UnitName;

/// One service: the merged tables of its file and drop-ins, and the texts that they came from.
#[derive(Clone, Debug)]
pub struct ServiceFile {
    /// From the file name.
    pub name: UnitName,
    /// What the spans of `tables` point into.
    pub sources: SourceMap,
    /// The span of every key.
    pub places: Places,
    /// What the user typed.
    pub tables: Tables,
    /// What was found under the paths of `service.env_file`, specifiers replaced.
    pub env_files: BTreeMap<PathBuf, EnvFile>,
}

/// What was found where `service.env_file` points.
#[derive(Clone, Debug)]
pub enum EnvFile {
    /// Its text.
    Text(String),
    /// No such file.
    Missing,
    /// A file that cannot or must not be read: why, and what to do.
    Refused(String, Option<String>),
}

/// A string and its place.
pub type Text = Spanned<String>;

/// The top level of a service file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct Tables {
    /// What the service is to the others.
    pub unit: UnitTable,
    /// The program and its process attributes.
    pub service: ServiceTable,
    /// What happens when a run ends.
    pub restart: RestartTable,
    /// Which kernel namespaces are the service's own.
    pub namespaces: NamespacesTable,
    /// What the service sees as `/`.
    pub rootfs: RootfsTable,
    /// Its link to the world.
    pub network: NetworkTable,
    /// Where Palisade listens for it.
    pub socket: Vec<Spanned<SocketTable>>,
    /// What it may ask of the kernel.
    pub security: SecurityTable,
    /// How much it may take.
    pub limits: LimitsTable,
    /// How it is checked while it runs.
    pub health: Option<Spanned<HealthTable>>,
    /// Where its output goes.
    pub log: LogTable,
    /// What its measurements are marked with.
    pub metrics: MetricsTable,
    /// When it is started by the clock.
    pub timer: Option<Spanned<TimerTable>>,
    /// By which host names it is asked.
    pub http: Option<Spanned<HttpTable>>,
    /// How it passes such requests on.
    pub ingress: Option<Spanned<IngressTable>>,
}

/// `[unit]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct UnitTable {
    /// One line for people. Default: the service's name.
    pub description: Option<Text>,
    /// Where to read more: URLs or man pages. Default: none.
    pub documentation: Option<Vec<Text>>,
    /// What lies below this file: `default`, `web`, `worker`, `job`, `untrusted`, `legacy`, or the name of a file in
    /// `profiles.d`. Default: `default`, which says nothing.
    pub profile: Option<Text>,
    /// Who may start, stop, restart and reload it and read its output, beside root: names or ids of users, `group:` and
    /// the name or id of a group. Default: nobody.
    pub owners: Option<Vec<Text>>,
    /// Started by the supervisor when it comes up. Default: true.
    pub enabled: Option<bool>,
    /// Of a template, the file `NAME@.toml`: how many instances there are, `NAME@1` and so on, or a list of what follows the
    /// `@` in their names. Others that a file names, or `palisade start` by root, are made of it as well, and are started
    /// only by that. A file `NAME@x.toml` takes the template's place for that one. Default: none.
    pub instances: Option<Spanned<Instances>>,
    /// Services without which this one is not started: they are started with it and come first. When somebody stops or
    /// restarts one of them, this one goes with it. One that crashes leaves it alone. Default: none.
    pub requires: Option<Vec<Text>>,
    /// Services that are started with this one, which does without them where they fail. Default: none.
    pub wants: Option<Vec<Text>>,
    /// As `requires`, and this one is up only while they are: it goes down when one of them does, for whatever reason, and
    /// comes back with it. Default: none.
    pub binds_to: Option<Vec<Text>>,
    /// Services with which this one is stopped and restarted on request, but not started. Default: none.
    pub part_of: Option<Vec<Text>>,
    /// Services that are started whenever they are found down while this one is up, also when somebody stopped them; each
    /// time in a row after a longer delay, as `restart` of their own file says. Default: none.
    pub upholds: Option<Vec<Text>>,
    /// Services that are never up together with this one: whichever is started stops the other, and waits until that is
    /// gone. Where both are asked for at once, the one stays that says so. Default: none.
    pub conflicts: Option<Vec<Text>>,
    /// Services that come first where they are started at all: names, and tables of name to `started` (its program was
    /// executed), `ready` (it says so, where it does), `healthy` (its health check has passed, where it has one) or `done`
    /// (it has ended with success). A bare name waits for `ready`; a oneshot is all of that when it has ended with
    /// success. What `requires` and `binds_to` name comes first by itself, and has to be `ready` unless it is named here
    /// too. Default: none.
    pub after: Option<AfterText>,
    /// Services that wait for this one, as `after` in their files would say. Default: none.
    pub before: Option<AfterText>,
    /// Services that are started when this one has failed for good: no restart follows, or what it needs did not come.
    /// Default: none.
    pub on_failure: Option<Vec<Text>>,
    /// Services that are started when this one has ended by itself with success. Default: none.
    pub on_success: Option<Vec<Text>>,
    /// What the host must be like; otherwise the service is skipped.
    pub condition: ConditionTable,
    /// What the host must be like; otherwise the start has failed.
    pub assert: ConditionTable,
}

/// `[service]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ServiceTable {
    /// The main program: a list is argv, one string is split with systemd's quoting rules. Never a shell. Required.
    pub command: Option<Spanned<WordOrList>>,
    /// When it has started: `exec`, when the program was executed; `simple`, when its process was made; `notify`, when it
    /// says so on the socket that `NOTIFY_SOCKET` names (sd_notify(3)); `notify-reload`, as `notify`, and `reload` waits until
    /// it says that it has read its configuration again; `forking`, when the program has ended with success and left a
    /// daemon behind, which is the main process from then on; `oneshot`, when the program has ended with success, for work that
    /// has an end. Default: `exec`.
    pub r#type: Option<Text>,
    /// What makes it ready, where that is more than what `type` says, for `after` and for who waits. `notify`: it says
    /// `READY=1` on the socket that `NOTIFY_SOCKET` names, on which its main process is heard, and whoever could send that one a
    /// signal: its user, and root of the sandbox. `fd` or `fd:N`: it writes a line to descriptor 3 or N, 3 to 255, as s6 has
    /// it. `tcp:PORT`: a connection is taken. `http:PORT/path` (or `http://ADDRESS:PORT/path`): a request is answered with a
    /// status of 200 to 399. `file:/path`: there is something. `log:REGEX`: a line of its output, of which 4096 bytes are looked
    /// at, matches. Ports are asked in its own network namespace, on 127.0.0.1 unless an address stands before the port; paths are
    /// those of the sandbox. It is asked after 10ms, 20ms and so on, then every 500ms, until `timeout.start` is over. Under
    /// `run` there is no socket, and nobody waits. Default: by type.
    pub ready: Option<Text>,
    /// Where the daemon of a `forking` service writes its pid, inside, up to 255 bytes. It may be written after the program
    /// has ended, and anew when the daemon replaces itself. Default: none; the daemon is the one process that is left.
    pub pid_file: Option<Text>,
    /// How often it is to say `WATCHDOG=1` on its notify socket once it is ready, a duration of at least 1ms; `WATCHDOG_USEC`
    /// tells it. Where it does not it is ended by SIGABRT, and has failed. Default: none.
    pub watchdog: Option<Spanned<Scalar>>,
    /// Environment variables. Default: none.
    pub env: BTreeMap<Text, Spanned<Scalar>>,
    /// Files of the host with lines NAME=VALUE; a leading `-` lets one be missing. `env` wins over them. Default: none.
    pub env_file: Option<Vec<Text>>,
    /// Names of variables that are taken over from Palisade's own environment. Default: none.
    pub pass_env: Option<Vec<Text>>,
    /// Absolute, inside the sandbox. Default: `/`.
    pub working_dir: Option<Text>,
    /// File mode creation mask, octal, as a string. Default: `"0077"`.
    pub umask: Option<Text>,
    /// Whom the program runs as: a name, an id, or `dynamic`. Default: `dynamic`, an id with no entry on the host.
    pub user: Option<Spanned<Scalar>>,
    /// Primary group: a name or an id. Default: the user's own.
    pub group: Option<Spanned<Scalar>>,
    /// Supplementary groups beside the user's own: names or ids. Default: none.
    pub extra_groups: Option<Vec<Spanned<Scalar>>>,
    /// Standard input: `null`, `inherit` (under `run` alone), `file:` and a path of the host, or, with `socket.accept`,
    /// `socket`: the connection, which then is the standard output, too, and no further descriptor. Default: `null`.
    pub stdin: Option<Text>,
    /// A pseudo-terminal of its own as standard input, output and error. Default: false.
    pub tty: Option<Spanned<bool>>,
    /// How it is stopped.
    pub stop: StopTable,
    /// How it is told to read its configuration again. Default: not at all, `reload` is refused.
    pub reload: Option<Spanned<ReloadTable>>,
    /// How long things may take.
    pub timeout: TimeoutTable,
    /// Exit statuses (0 to 255) and signal names that count as success beside 0. Default: none.
    pub success_exit: Option<Vec<Spanned<Scalar>>>,
    /// A oneshot that ended well counts as active. Default: false.
    pub remain_after_exit: Option<Spanned<bool>>,
    /// Scheduling priority, -20 to 19. Default: 0, or the supervisor's where that is lower (a larger number).
    pub nice: Option<Spanned<i64>>,
    /// How willingly the kernel kills it when memory runs out, -1000 to 1000. Default: 0, or the supervisor's
    /// where that is more willing.
    pub oom_score_adj: Option<Spanned<i64>>,
    /// Whether it is to run at all: commands that are executed inside before anything else of the service, one after another.
    /// One that ends with 1 to 254 says no, and the service is skipped; with 255, or by a signal, the start has failed. As in the four lists below, an item is a command line, a list that is argv, or a table with more (see there). All run
    /// behind the walls of the service, with its environment and their output in its log. Default: none.
    pub condition: Option<Spanned<HooksText>>,
    /// Commands before the main program, in the sandbox that it will have. When the supervisor ends meanwhile, they go on,
    /// and the next one waits for them. Whatever they leave running is killed. A failure is a failed start. Default: none.
    pub pre_start: Option<Spanned<HooksText>>,
    /// Commands when the service is ready; it has started when they are done. MAINPID is in their environment, and
    /// `$MAINPID` in the command itself. After a failure the service is stopped and has failed. Default: none.
    pub post_start: Option<Spanned<HooksText>>,
    /// Commands before it is asked to stop, that is before `stop.command` and `stop.signal`, within `stop.timeout`. MAINPID
    /// and SERVICE_RESULT are in their environment. A failure leaves out those that follow. Default: none.
    pub pre_stop: Option<Spanned<HooksText>>,
    /// Commands when the main process has ended, also after a start that failed, and after a stop that took too long; not
    /// after a condition that said no, not after `kill`, and with `restart.mode = "in-place"` not between two runs. They
    /// have `stop.timeout` to themselves. SERVICE_RESULT, EXIT_CODE and EXIT_STATUS are in their environment as
    /// systemd.exec(5) has them. Where the init of the sandbox has been killed, only privileged ones are left. Default: none.
    pub post_stop: Option<Spanned<HooksText>>,
    /// When it gets a CPU: `other`, `batch`, `idle` (when nobody else wants one), or realtime, `fifo:N` and `rr:N` with N
    /// from 1 to 99, who go before everybody and need `security.no_realtime = false`. Default: `other`.
    pub sched: Option<Text>,
    /// When it gets the disk, class and level: `none` (by its niceness), `best-effort:0` (first) to `best-effort:7`, `idle`
    /// (when nobody else wants it), or before everybody, `realtime:0` to `realtime:7`. Default: `none`.
    pub ioprio: Option<Text>,
    /// How many descriptors of its own it may hand over (sd_notify(3), `FDSTORE=1`) to have them given to its next run,
    /// behind the held sockets; up to 128. They are closed when the service is stopped. Default: 0.
    pub fd_store_max: Option<Spanned<i64>>,
    /// How a run takes the place of another when the service is restarted, by hand or because its file has changed:
    /// `restart` (the old one ends, then the new one starts), or `blue-green`: the new one starts beside the old one, on the
    /// same held sockets, and only when it is ready, and well where it is checked, is the old one stopped; when it fails, the
    /// old one stays. The two share the network namespace, so each sees the other's ports on the loopback, and neither can
    /// bind one that the other has; a check over the network may be answered by either. Each has the limits to itself.
    /// One that is bound to another service, or has joined its namespaces, restarts all the same.
    /// Default: `restart`.
    pub rollout: Option<Text>,
}

/// An item of `service.condition`, `pre_start`, `post_start`, `pre_stop`, `post_stop`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table { command, … }")]
pub struct HookTable {
    /// As `service.command`; of a privileged one the path of a program of the host. Required.
    pub command: Option<Spanned<WordOrList>>,
    /// Whom it runs as inside: a name or an id. Default: the service's user.
    pub user: Option<Spanned<Scalar>>,
    /// Whether it succeeds changes nothing. Default: false.
    pub ignore_failure: Option<bool>,
    /// It runs outside: on the host, as root, in a control group of its own, with PATH and the variables of its stage as
    /// its environment. When the supervisor ends meanwhile it is killed, and the next one runs it again; an upgrade
    /// waits for it. Default: false.
    pub privileged: Option<Spanned<bool>>,
    /// After which it is killed and has failed, a duration. Default: what `timeout.start` or `stop.timeout` leaves.
    pub timeout: Option<Spanned<Scalar>>,
}

/// `[service.stop]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct StopTable {
    /// The first signal: `TERM`, `SIGTERM` or 15. Default: `TERM`.
    pub signal: Option<Spanned<Scalar>>,
    /// A command that is run inside first; the signal follows when it has ended. Default: none.
    pub command: Option<Spanned<WordOrList>>,
    /// From the first signal to the end by SIGKILL, a duration or `infinity`. Default: 15s.
    pub timeout: Option<Spanned<Scalar>>,
    /// Whom the first signal goes to: `mixed` (the main process) or `control-group` (all). Default: `mixed`.
    pub mode: Option<Text>,
}

/// `[service.reload]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ReloadTable {
    /// A signal to the main process. Default: none; `HUP` for `type = "notify-reload"`.
    pub signal: Option<Spanned<Scalar>>,
    /// A command that is run inside instead. Default: none.
    pub command: Option<Spanned<WordOrList>>,
    /// Up to 64 files and directories of the host with which a running service reloads by itself when they change: a file when it
    /// is written and closed, replaced, removed or made, or a link on the way to it leads elsewhere; a directory when that
    /// happens to what it holds, names with a `.` before or a `~` behind them and further directories aside. What changes
    /// while no supervisor lives, or before a reload that fails, is also what `plan` shows, and `daemon-reload` and `apply`
    /// take up. The service must see what has changed: mount the directory of a file, not the file, which would stay the one
    /// that it was when it is replaced. Credentials are read at the start alone. Under `run` nobody
    /// watches. Default: none.
    pub watch: Option<Spanned<Vec<Text>>>,
}

/// `[service.timeout]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct TimeoutTable {
    /// From launch to `started`, a duration or `infinity`. Default: 90s.
    pub start: Option<Spanned<Scalar>>,
    /// From `started` to the end, a duration or `infinity`. Default: `infinity`.
    pub run: Option<Spanned<Scalar>>,
}

/// `[restart]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RestartTable {
    /// Which ends are followed by another run: `always`, `on-failure`, `on-abnormal`, `on-success` or `never`.
    /// Default: `on-failure`.
    pub policy: Option<Text>,
    /// Before the first restart, a duration. Default: 200ms.
    pub delay: Option<Spanned<Scalar>>,
    /// By which each further delay grows, 1 to 100. Default: 2.
    pub factor: Option<Spanned<Scalar>>,
    /// Upper bound of the delay, a duration. Default: 60s.
    pub max_delay: Option<Spanned<Scalar>>,
    /// Share by which the delay is varied in both directions, `"0%"` to `"100%"`. Default: 20%.
    pub jitter: Option<Spanned<Scalar>>,
    /// A run that lived so long starts the count of failures again, a duration. Default: 60s.
    pub reset_after: Option<Spanned<Scalar>>,
    /// How many restarts are allowed `within` a time. Default: no bound.
    pub max: Option<Spanned<i64>>,
    /// The time for `max`, a duration. Default: none; goes together with `max`.
    pub within: Option<Spanned<Scalar>>,
    /// Exit statuses and signal names after which there is no restart. Default: none.
    pub prevent_exit: Option<Vec<Spanned<Scalar>>>,
    /// Exit statuses and signal names after which there always is one. Default: none.
    pub force_exit: Option<Vec<Spanned<Scalar>>>,
    /// `fresh`: a new sandbox on the kept network namespace; `in-place`: the same sandbox. Default: `fresh`.
    pub mode: Option<Text>,
}

/// `[namespaces]`; the mount namespace is always the service's own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct NamespacesTable {
    /// Process ids: `true`, `"join:NAME"` or `"host"`. Default: true.
    pub pid: Option<Spanned<Switch>>,
    /// Host and domain name: `true`, `"join:NAME"` or `"host"`. Default: true.
    pub uts: Option<Spanned<Switch>>,
    /// System V IPC and POSIX message queues: `true`, `"join:NAME"` or `"host"`. Default: true.
    pub ipc: Option<Spanned<Switch>>,
    /// The view of the cgroup tree: `true`, `"join:NAME"` or `"host"`. Default: true.
    pub cgroup: Option<Spanned<Switch>>,
    /// Ids: `auto` (65536 of its own), `shared:NAME` (another service's range) or `off` (the host's). Default: `auto`.
    pub user: Option<Text>,
    /// A time namespace of its own. Default: false.
    pub time: Option<Spanned<bool>>,
    /// By which its monotonic and boot-time clocks are ahead, whole seconds or a duration, negative for behind.
    /// Default: 0s.
    pub clock_offset: Option<Spanned<Scalar>>,
    /// The service may make sandboxes of its own, as a CI runner does: user namespaces, mounts, its own /proc. It has no
    /// Landlock domain and nothing of its /proc is masked then. A user other than root needs no capability for it, root
    /// CAP_SETFCAP. Default: false.
    pub nested: Option<Spanned<bool>>,
    /// What `hostname` prints. Default: the service's name.
    pub hostname: Option<Text>,
    /// The NIS domain name. Default: empty.
    pub domainname: Option<Text>,
    /// 32 hexadecimal digits for /etc/machine-id. Default: random and stable.
    pub machine_id: Option<Text>,
}

/// `[rootfs]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RootfsTable {
    /// `host`: a read-only view of /usr and an /etc of its own; `dir`: the tree at `dir`; `none`: an empty directory.
    /// Default: `host`.
    pub base: Option<Text>,
    /// A directory tree of the host, for `base = "dir"`. Default: none.
    pub dir: Option<Text>,
    /// What becomes of writes: `no`, `ephemeral` (in memory, up to 512M, gone with the run) or `persistent`. Default: `no`.
    pub writable: Option<Text>,
    /// Files and directories of the host that the service sees. Default: none.
    pub mounts: Option<Vec<Spanned<MountTable>>>,
    /// Memory file systems. Default: /tmp 64M, /run 16M, /dev/shm 64M; an entry here replaces the one at its `dst`.
    pub tmpfs: Option<Vec<Spanned<TmpfsTable>>>,
    /// Paths that the service finds empty. Default: none.
    pub hide: Option<Vec<Text>>,
    /// Paths made read-only. Default: none.
    pub read_only: Option<Vec<Text>>,
    /// `minimal`, a list of device nodes beside the minimal set, or `host`. Default: `minimal`.
    pub dev: Option<Spanned<WordOrList>>,
    /// `own` or `none`. Default: `own`.
    pub proc: Option<Text>,
    /// `own` (read-only) or `none`. Default: `own`.
    pub sys: Option<Text>,
}

/// One entry of `rootfs.mounts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table { src, dst, … }")]
pub struct MountTable {
    /// On the host. Required.
    pub src: Option<Text>,
    /// Inside. Required.
    pub dst: Option<Text>,
    /// Read-only. Default: true.
    pub ro: Option<bool>,
    /// Ids are shifted into the service's range; of a read-only mount where its file system can do that. Of a writable mount
    /// the source's owner, who must not be root, is the service's user inside, its group the service's, and nobody else is
    /// anybody: where the group is root's, the kernel lets nobody write. Default: true.
    pub idmap: Option<bool>,
    /// Programs in it may be executed. Default: false.
    pub exec: Option<bool>,
    /// A missing source is passed over. Default: false.
    pub optional: Option<bool>,
}

/// One entry of `rootfs.tmpfs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table { dst, … }")]
pub struct TmpfsTable {
    /// Inside. Required.
    pub dst: Option<Text>,
    /// A size. Default: 64M, or that of the default entry at this `dst`.
    pub size: Option<Spanned<Scalar>>,
    /// Mode of its root directory, octal, as a string. Default: `"0755"`, or that of the default entry at this `dst`.
    pub mode: Option<Text>,
    /// Programs in it may be executed. Default: false.
    pub exec: Option<bool>,
}

/// `[network]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct NetworkTable {
    /// `veth` (a routed point-to-point link), `none` (loopback alone), `join:NAME` (all that the service of this name has,
    /// ports included: it is required, and started before; what is said of links, ports and destinations stands in its file),
    /// `macvlan` and `ipvlan` (a link in a network of the host's, see `parent`) or `host`. Default: `veth`.
    pub mode: Option<Text>,
    /// A fixed IPv4 address; with `parent` one of that network, with its length: `192.0.2.10/24`. Default: one is assigned and
    /// kept; with `parent` it is required.
    pub address: Option<Text>,
    /// For `macvlan` and `ipvlan`: the link of the host in whose network the service gets one of its own. What passes over it
    /// passes by the host and by Palisade's packet filter: everybody there reaches every port of the service, and it reaches
    /// everybody but the host itself and other services on the same `parent`. Required there.
    pub parent: Option<Text>,
    /// For `macvlan` and `ipvlan`: the router of that network. Default: none, it does not leave that network.
    pub gateway: Option<Text>,
    /// A fixed hardware address of one host, such as `02:00:00:00:00:07`. Default: one that follows from the address.
    pub mac: Option<Text>,
    /// What the link is called inside, at most 15 bytes. Default: `eth0`.
    pub interface: Option<Text>,
    /// The bridge that the host's end of the link is a port of: one interface of the host's for all services that name it, such
    /// as `apps`, which `ip link` shows behind the tag of this supervisor (`ps1a2b-apps`). It is for the host to tell them by,
    /// and no segment that they share: they reach each other only as `allow_to` says. At most 8 bytes, beginning with a letter.
    /// `network.bridges` of palisade.toml gives it a range of addresses. Default: none.
    pub bridge: Option<Text>,
    /// Largest packet of the link in bytes, 68 to 65535; on a bridge the smallest of its links holds for all. Default: the
    /// kernel's.
    pub mtu: Option<Spanned<i64>>,
    /// Ports of the host that lead to the service: `[addr:]hostport:port[/proto]`; `0.0.0.0:` is every IPv4 address of the host,
    /// `[::]:` every IPv6 address. Default: none; addr 127.0.0.1, tcp.
    pub publish: Option<Vec<Text>>,
    /// Where it may begin to talk to outside: `"any"`, or a list of `CIDR:PORT[/PROTO]`, such as `192.0.2.0/24:443` or
    /// `[2001:db8::/32]:443`, a single address or `*` for every port and protocol included, and of `NAME:PORT[/PROTO]`, such as
    /// `api.example.org:443` or `*.example.org:443` for every name below: it may ask for that name, and talk to the addresses
    /// that it is told for as long as the answer holds, 30 seconds at least and an hour at most. Neither other services nor the
    /// host, nor link-local and metadata addresses, are ever outside. Default: `[]`, nowhere.
    pub egress: Option<Spanned<WordOrList>>,
    /// Services that it may begin to talk to: `NAME:PORT[/PROTO]`, `NAME:*` for every port and protocol; a name with `*` is
    /// every service whose name fits, such as `web@*`. It finds them by their names (`dns`). Either side's file is
    /// enough. What is taken out ends connections that rest on it. Default: none.
    pub allow_to: Option<Vec<Text>>,
    /// Services that may begin to talk to it, in the same way; the port is its own. Default: none.
    pub allow_from: Option<Vec<Text>>,
    /// Who answers on 127.0.0.53 what names mean: Palisade itself, which knows the services that this one may talk to and
    /// asks others only for whom `egress` lets out. A list of IP addresses, such as `["192.0.2.53"]`: these servers are asked
    /// in place of those of the host's /etc/resolv.conf, from the host's network. `none`: nobody answers. With `parent` the
    /// service asks the servers itself, and a change takes a restart. Default: the host's servers.
    pub dns: Option<Spanned<WordOrList>>,
    /// What further names mean: `{ "NAME" = "ADDRESS" }`, in /etc/hosts and by `dns`. Default: none.
    pub hosts: BTreeMap<Text, Text>,
    /// What is done where another table of the host drops what is forwarded (firewalld, ufw, Docker): `detect` (the service
    /// starts; `status` and `check` name the chain and the command that lets it through) or `insert` (two rules at the head
    /// of such a chain accept the links of all services, which our own table judges all the same; they go with the last
    /// service that asks for it). Default: `detect`.
    pub firewall: Option<Text>,
    /// How much its link carries. What changes here changes what runs, without a restart. Default: no bound.
    pub bandwidth: Option<Spanned<BandwidthTable>>,
    /// Which sockets may be made: a list of `unix`, `inet`, `inet6`, `netlink`, `packet`, `vsock` and the kernel's other
    /// families, or `any`; others fail with EAFNOSUPPORT. With inet or inet6 comes what lists addresses (rtnetlink).
    /// Default: unix inet inet6, with CAP_NET_ADMIN netlink, with CAP_NET_RAW packet.
    pub address_families: Option<Spanned<WordOrList>>,
}

/// `[network.bandwidth]`; rates are `"20Mbit"` (bits a second; K, M, G are powers of 1000) or `"2MB/s"` (bytes), and count whole
/// Ethernet frames. What is too much waits for a moment, and is dropped when it becomes more. Needs the kernel's token bucket
/// filter (sch_tbf).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct BandwidthTable {
    /// A rate towards the service. Default: no bound.
    pub ingress: Option<Spanned<Scalar>>,
    /// A rate from the service; refused with CAP_NET_ADMIN and CAP_NET_RAW, which have power over the end that is bounded.
    /// Default: no bound.
    pub egress: Option<Spanned<Scalar>>,
    /// A size that may go at once after a pause, in each direction, one frame at least. Default: a hundredth of a second's
    /// worth, 16K at least.
    pub burst: Option<Spanned<Scalar>>,
}

/// `[[socket]]`; Palisade listens on the host and hands every run of the service the sockets, in the order of the file, as
/// sd_listen_fds(3) has them: descriptors from 3 on, `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`. The service needs no network
/// for it. They are held while it restarts and while no supervisor lives, so that nobody who connects meanwhile is refused;
/// when it is stopped they are closed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table { listen, … }")]
pub struct SocketTable {
    /// `ADDRESS:PORT`, `[IPV6]:PORT`, a port alone for 127.0.0.1, or the absolute path of a Unix socket, whose missing
    /// directories are made. `0.0.0.0` is every IPv4 address of the host, `[::]` every IPv6 address. Required.
    pub listen: Option<Spanned<Scalar>>,
    /// `stream` (TCP), `dgram` (UDP) or, of a Unix socket, `seqpacket`. Default: `stream`.
    pub r#type: Option<Text>,
    /// What it is called in `LISTEN_FDNAMES`. Default: the service's name; with `accept`, `connection`.
    pub name: Option<Text>,
    /// How many connections may wait to be accepted; the host's `net.core.somaxconn` bounds it. Default: 4096.
    pub backlog: Option<Spanned<i64>>,
    /// Mode of the file of a Unix socket, octal, as a string; whoever may write to it may connect. Default: `"0660"`.
    pub mode: Option<Text>,
    /// Whose the file is: a name or an id of the host. Default: root.
    pub user: Option<Spanned<Scalar>>,
    /// The group of the file. Default: root.
    pub group: Option<Spanned<Scalar>>,
    /// `boot`, or `on-demand`: the service is not started with the supervisor but by the first connection or datagram, and
    /// again by the next one after it has ended well. The same for all sockets of a service. Default: `boot`.
    pub activation: Option<Text>,
    /// Each connection is accepted by Palisade and answered by a run of its own, as with `Accept=yes` of systemd and inetd.
    /// The run finds the connection as its only socket, or, with `service.stdin = "socket"`, as standard input and output, and
    /// who has connected in `REMOTE_ADDR` and `REMOTE_PORT`. It is listed as `NAME@NUMBER-ADDRESS:PORT`, of a Unix socket
    /// `NAME@NUMBER-uid:UID`, and never restarted. The same for all sockets of a service. Default: false.
    pub accept: Option<Spanned<bool>>,
    /// How many connections of this socket are answered at a time, 1 to 4096; who comes beyond that is hung up on. Default:
    /// 64, with `accept` alone.
    pub max_connections: Option<Spanned<i64>>,
}

/// `[security]`; every key that says less than its default is a door.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct SecurityTable {
    /// Nothing that is executed gains privileges, whatever the file's mode says. Default: true.
    pub no_new_privs: Option<bool>,
    /// Capabilities that root of the sandbox has, and the most that anybody in it can have: names of capabilities(7). They
    /// count over what is the service's own; with `user = "off"` over the host. `CAP_NET_RAW` and `CAP_NET_ADMIN` make the
    /// network namespace the service's own, new in every run. Default: none.
    pub capabilities: Option<Vec<Text>>,
    /// Those of `capabilities` that another user than root has as well. Default: none.
    pub ambient: Option<Vec<Text>>,
    /// Device nodes of the host that the service's user may open, whatever their mode there: a path below /dev, and `r`, `w`
    /// or `rw` behind it. Default: none; `rw`.
    pub devices: Option<Vec<Text>>,
    /// Secrets as files in memory, never swapped, below `$CREDENTIALS_DIRECTORY` (`/run/credentials/NAME`). Default: none.
    pub credentials: Option<Vec<Spanned<CredentialTable>>>,
    /// System calls that it may make: names and groups (docs/system-calls.md), in order; `~` takes out what came before,
    /// from the default where it comes first. A table says more. Default: `@service`, whatever else fails with EPERM.
    pub seccomp: Option<Spanned<SeccompText>>,
    /// A process of another architecture, or of x32, is killed at its first system call. With false i386 programs run
    /// too, under the same filter; without `address_families = "any"` they make sockets only where their C library
    /// does not use socketcall(2). Default: true.
    pub native_abi_only: Option<Spanned<bool>>,
    /// personality(2) changes nothing. Default: true.
    pub lock_personality: Option<bool>,
    /// No realtime scheduling policy; sched_setattr(2) is denied as a whole. Default: true.
    pub no_realtime: Option<bool>,
    /// No file gets a set-user-id or set-group-id bit; openat2(2) says ENOSYS. Default: true.
    pub no_suid: Option<bool>,
    /// No namespace is made or entered; clone3(2) says ENOSYS. Default: true.
    pub no_namespaces: Option<Spanned<bool>>,
    /// No memory is writable and executable at once, or becomes executable, and there is no memfd_create(2); compilers at
    /// run time do not work. Default: false.
    pub no_wx: Option<bool>,
    /// A second wall inside the first: a Landlock domain that allows below each mount what the mount allows. `auto`: where
    /// the kernel has it; `require`: or the service does not start; `off`. Default: `auto`.
    pub landlock: Option<Text>,
    /// The AppArmor profile that the program is executed under; it must be loaded. Default: what the supervisor's implies.
    pub apparmor: Option<Text>,
    /// The SELinux label (`user:role:type:level`) that the program is executed under. Default: what the policy says.
    pub selinux: Option<Text>,
}

/// `[security.seccomp]`; in place of a list: what is allowed, and what becomes of the rest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct SeccompTable {
    /// As the list that may stand in the table's place. Default: `@service`.
    pub allow: Option<Spanned<WordOrList>>,
    /// Calls that kill the process, with SIGSYS. Default: none.
    pub kill: Option<Spanned<WordOrList>>,
    /// Calls that are allowed and logged. Default: none.
    pub log: Option<Spanned<WordOrList>>,
    /// What becomes of a call in none of the lists: it fails with `EPERM` or `ENOSYS`, the process is killed (`kill`), or
    /// it is allowed and logged (`log`). Default: `EPERM`.
    pub action: Option<Text>,
}

/// One entry of `security.credentials`; it has one of `file`, `command` and `env`. Their content is read when a sandbox is
/// made, at most 1 MiB, and is neither in the environment nor in an argument, a plan, a log or the state of Palisade.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table { name, … }")]
pub struct CredentialTable {
    /// The name of its file: letters, digits, `.`, `_`, `-`. Required.
    pub name: Option<Text>,
    /// A file of the host, of root or of who runs Palisade, that nobody else may write and that others may not read.
    pub file: Option<Text>,
    /// A program of the host and its arguments; what it prints. It runs as Palisade itself does, outside of every sandbox and
    /// with an empty environment but for PATH, and is ended after 10s.
    pub command: Option<Spanned<WordOrList>>,
    /// A variable of Palisade's own environment.
    pub env: Option<Text>,
    /// Mode of the file, octal, as a string: bits to read alone. Default: `"0400"`.
    pub mode: Option<Text>,
    /// Whose it is inside: a name or an id. Its group is the service's. Default: the service's user.
    pub owner: Option<Spanned<Scalar>>,
}

/// `[limits]`; what a file asks for is enforced, or the service is not started; a default bends to what the host can do.
/// Limits on a service as a whole need cgroup v2; a size may be a share of the host's memory, such as `"25%"`, and
/// `"infinity"` is no bound.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LimitsTable {
    /// Of all processes together.
    pub memory: MemoryTable,
    /// Of all processes together.
    pub cpu: CpuTable,
    /// Of all processes together.
    pub io: IoTable,
    /// Processes and threads.
    pub pids: PidsTable,
    /// Of each process.
    pub rlimits: RlimitsTable,
    /// When the memory is used up: `kill-group` (the whole service, and it counts as killed) or `kill-one` (a process of
    /// the kernel's choice). Default: `kill-group`.
    pub oom: Option<Text>,
    /// What this host cannot enforce is left out, and `status` says so. Default: false.
    pub best_effort: Option<bool>,
}

/// `[limits.memory]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct MemoryTable {
    /// A size beyond which processes are killed (`memory.max`); files in memory count. Default: 75% of the host's.
    pub max: Option<Spanned<Scalar>>,
    /// A size beyond which they are slowed down (`memory.high`). Default: 90% of `max`.
    pub high: Option<Spanned<Scalar>>,
    /// A size that is not taken away for others (`memory.low`). Default: none.
    pub low: Option<Spanned<Scalar>>,
    /// A size in swap space (`memory.swap.max`). Default: `"infinity"`.
    pub swap_max: Option<Spanned<Scalar>>,
}

/// `[limits.cpu]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct CpuTable {
    /// `"150%"` or 1.5 is one and a half CPUs (`cpu.max`). Default: `"infinity"`.
    pub max: Option<Spanned<Scalar>>,
    /// Its share where CPUs are short, 1 to 10000 (`cpu.weight`). Default: the kernel's, 100.
    pub weight: Option<Spanned<i64>>,
    /// The CPUs that it runs on, such as `"0-3,5"` (`cpuset.cpus`). Default: all.
    pub pin: Option<Text>,
}

/// `[limits.io]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct IoTable {
    /// Its share where a disk is short, 1 to 10000 (`io.weight`); needs a kernel and disk with iocost. Default: the
    /// kernel's, 100.
    pub weight: Option<Spanned<i64>>,
    /// Bounds for single disks (`io.max`). Default: none.
    pub max: Option<Vec<Spanned<IoMaxTable>>>,
}

/// One entry of `limits.io.max`; at least one bound.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table { device, … }")]
pub struct IoMaxTable {
    /// A block device, or a file or directory on the disk that is meant. Required.
    pub device: Option<Text>,
    /// Bytes read in a second: `"20MB/s"`, `"10MiB/s"`, `"80Mbit"`, or a number. Default: no bound.
    pub rbps: Option<Spanned<Scalar>>,
    /// Bytes written in a second, as `rbps`. Default: no bound.
    pub wbps: Option<Spanned<Scalar>>,
    /// Reads in a second. Default: no bound.
    pub riops: Option<Spanned<i64>>,
    /// Writes in a second. Default: no bound.
    pub wiops: Option<Spanned<i64>>,
}

/// `[limits.pids]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct PidsTable {
    /// How many there may be at a time (`pids.max`; where that is not to be had, RLIMIT_NPROC in the service's own user
    /// namespace). Default: 512.
    pub max: Option<Spanned<Scalar>>,
}

/// `[limits.rlimits]`; of each process, as setrlimit(2) has them: a number, `"soft:hard"`, or `"infinity"`. What is left out
/// is not taken from whoever started Palisade, but has the default, or Palisade's own hard limit where that is lower and
/// cannot be raised.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RlimitsTable {
    /// Address space, a size. Default: `"infinity"`.
    pub r#as: Option<Spanned<Scalar>>,
    /// Core dumps, a size. With 0, no handler in `kernel.core_pattern` is started either (core(5)). Default: 0.
    pub core: Option<Spanned<Scalar>>,
    /// CPU time, seconds or a duration. Default: `"infinity"`.
    pub cpu: Option<Spanned<Scalar>>,
    /// Data segment, a size. Default: `"infinity"`.
    pub data: Option<Spanned<Scalar>>,
    /// Largest file, a size. Default: `"infinity"`.
    pub fsize: Option<Spanned<Scalar>>,
    /// File locks. Default: `"infinity"`.
    pub locks: Option<Spanned<Scalar>>,
    /// Memory that is locked, a size. Default: `"8M"`.
    pub memlock: Option<Spanned<Scalar>>,
    /// POSIX message queues, a size. Default: 819200.
    pub msgqueue: Option<Spanned<Scalar>>,
    /// 20 less the lowest nice value, 0 to 40. Default: 0.
    pub nice: Option<Spanned<Scalar>>,
    /// Open files. Default: `"1024:65536"`.
    pub nofile: Option<Spanned<Scalar>>,
    /// Processes and threads of its user in its user namespace. Default: the host's.
    pub nproc: Option<Spanned<Scalar>>,
    /// Nothing to the kernels of today. Default: `"infinity"`.
    pub rss: Option<Spanned<Scalar>>,
    /// Realtime priority, 0 to 99. Default: 0.
    pub rtprio: Option<Spanned<Scalar>>,
    /// Time under realtime scheduling without a blocking call, microseconds or a duration. Default: `"infinity"`.
    pub rttime: Option<Spanned<Scalar>>,
    /// Signals that wait. Default: 4096.
    pub sigpending: Option<Spanned<Scalar>>,
    /// Stack, a size. Default: `"8M:infinity"`.
    pub stack: Option<Spanned<Scalar>>,
}

/// `[health]`; how a daemon is checked while it runs under a supervisor, the first time as soon as it has started. It is
/// `unknown` until a check succeeds (`healthy`) or too many fail in a row (`unhealthy`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct HealthTable {
    /// What is asked: a connection to `tcp:PORT` is taken; a request to `http:PORT/path` (or `http://ADDRESS:PORT/path`) is
    /// answered with a status of 200 to 399; a connection to the stream socket at `unix:/path` is taken; or a command, which
    /// runs in the sandbox as the service does, ends with status 0. Ports are asked in the service's network namespace, on
    /// 127.0.0.1 unless an address stands before the port. Required.
    pub test: Option<Spanned<WordOrList>>,
    /// From one answer to the next check, a duration of 10ms or more. Default: 30s.
    pub interval: Option<Spanned<Scalar>>,
    /// A check that takes longer has failed, and its processes are killed. Default: 5s.
    pub timeout: Option<Spanned<Scalar>>,
    /// How many failures in a row make it unhealthy, 1 to 1000. Default: 3.
    pub retries: Option<Spanned<i64>>,
    /// How long, after it has started, failures do not count; the first success ends it. Default: 30s.
    pub start_period: Option<Spanned<Scalar>>,
    /// From one answer to the next check for as long as failures do not count, a duration of 10ms or more and in any case
    /// no longer than `interval`. Default: 1s.
    pub start_interval: Option<Spanned<Scalar>>,
    /// What becomes of an unhealthy service: `restart` (stopped as on request, and started again whatever
    /// `restart.policy`, but within `restart.max`), `kill` (as that, by SIGKILL at once), `stop` (it has failed) or `none` (it
    /// is shown and told as an event). Default: `restart`.
    pub on_fail: Option<Text>,
}

/// `[log]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LogTable {
    /// Where its output goes: into files (`file`), from these to `journald` or `syslog` as well, or nowhere (`none`).
    /// Default: `file`.
    pub target: Option<Text>,
    /// A size after which the log file is rotated, at least 4K. Default: 10M.
    pub max_size: Option<Spanned<Scalar>>,
    /// How many files are kept, the current one included, 1 to 1000. Default: 5.
    pub files: Option<Spanned<i64>>,
    /// How long after its last line a rotated file is kept, 1h or more, or `"infinity"`. The current one is rotated this
    /// long after its first line, divided by `files` - 1. Default: 30d.
    pub max_age: Option<Spanned<Scalar>>,
    /// Rotated files but for the newest are compressed with gzip. Default: true.
    pub compress: Option<bool>,
    /// While no supervisor runs, output waits in a pipe of 64K. When that is full, `drop` loses what is oldest, which the next
    /// supervisor counts and tells, and `block` has the service wait for the next supervisor. With `service.tty` it waits.
    /// Default: `drop`.
    pub full: Option<Text>,
    /// How many lines are taken within a time of 1s to 1d, both outputs together, such as `"10000/30s"` or `"100/s"`, or
    /// `"off"`. Those beyond are dropped until the time is over, and the log says how many. A line of more than 16K counts
    /// once for each 16K. Default: `"off"`.
    pub rate: Option<Text>,
}

/// `[metrics]`; what is measured of the service, for Prometheus.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct MetricsTable {
    /// Labels that everything measured of the service has beside Palisade's own: up to 16, whose names are letters, digits and
    /// `_`, and whose values are one line of at most 200 bytes. Default: none.
    pub labels: BTreeMap<Text, Text>,
}

/// A string or a number, for values with a unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Int(number) => write!(f, "{number}"),
            Scalar::Float(number) => write!(f, "{number}"),
            Scalar::Text(text) => f.write_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a number")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Int(number))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(number))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A boolean or a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// `true` or `false`.
    Bool(bool),
    /// A string.
    Word(String),
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Switch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean or a string")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Switch, E> {
                Ok(Switch::Bool(value))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch, E> {
                Ok(Switch::Word(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// `[timer]`; a service with this table is started by the clock instead of when the supervisor comes up; `unit.enabled`
/// then says whether the clock does so. It can be started by hand all the same, and stopped: the clock goes on. `run`
/// passes this table over. Moments of civil time follow the host's clock, whatever it is set to: what it was set over is
/// made up for once, and what has had its start does not have another when the clock is set back. All other times are
/// CLOCK_MONOTONIC's, which stands still while the host is suspended. With several occasions each of them counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct TimerTable {
    /// An expression of systemd.time(7), or a list of them: `[WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]] [ZONE]`, such
    /// as `"Mon..Fri 08..18:0/30"`, `"*-*~01 23:00 UTC"` (the last day of the month), `"daily"`. A time that the clock skips
    /// when it is put forward elapses at the skip; one that comes twice elapses once, unless every hour is meant.
    /// Default: none.
    pub calendar: Option<Spanned<WordOrList>>,
    /// Five fields of crontab(5) or a word such as `@daily`, or a list of them. Where both the day of the month and that
    /// of the week are restricted, one of them is enough. Default: none.
    pub cron: Option<Spanned<WordOrList>>,
    /// The time zone of `calendar` and `cron` where they name none, such as `Europe/Berlin`. Default: the host's.
    pub timezone: Option<Text>,
    /// So long after its last start, by whomever, a duration of 1s or more; as long as there was none, after this table
    /// came into force. Default: not.
    pub every: Option<Spanned<Scalar>>,
    /// So long after the host was booted, a duration: once, at once where that is over. Default: not.
    pub after_boot: Option<Spanned<Scalar>>,
    /// So long after its last run ended, a duration of 1s or more; as long as there was none, after this table came into
    /// force. Default: not.
    pub after_end: Option<Spanned<Scalar>>,
    /// A duration: by how much at most it is late, so that not all services of all hosts start at once. By how much is
    /// drawn once for each service and host, and stays; intervals keep their length. Default: 0s.
    pub jitter: Option<Spanned<Scalar>>,
    /// A moment of `calendar` or `cron` that came while the supervisor or the host was down is made up for once when it is
    /// back, and `every` goes on from where it was. What the death of the supervisor alone made it miss is always made up
    /// for. Default: false.
    pub persistent: Option<Spanned<bool>>,
    /// When its moment comes while it still runs (or waits, or is to be restarted): `skip` it, `queue` it, which starts it
    /// again as soon as that run has ended, or `restart` it. Default: `skip`.
    pub overlap: Option<Text>,
}

/// `[http]`; requests for these hosts are the service's: whoever has `[ingress]` passes them on to it, and may begin to talk
/// to it for that, on that port. Without such a service `palisade ingress` prints the same for any proxy.
/// `run` passes this table over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct HttpTable {
    /// A host name, or a list of them, in lower case; `*.example.org` is every name with one label before that, where no
    /// other file has the name itself. Each is one service's, or that of all instances of a template, which take turns.
    /// Required.
    pub host: Option<Spanned<WordOrList>>,
    /// The service's own port, which answers HTTP. Default: 80.
    pub port: Option<Spanned<i64>>,
    /// What the paths of its requests begin with, such as `/blog`, which is `/blog` itself and all below `/blog/`; they are
    /// passed on as they are. The longest one that fits counts. Nothing below `/.well-known`, which speaks for the whole host.
    /// Default: `/`.
    pub path: Option<Text>,
}

/// `[ingress]`; the service passes HTTP requests on by host name: Palisade makes the part of its configuration that says which
/// host is whose, `/run/ingress/nginx.conf` or `/run/ingress/Caddyfile` inside, makes it anew when files change, and has
/// the service reload then. It may begin to talk to every service with `[http]`, on the port that is named there. `run`
/// passes this table over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct IngressTable {
    /// What it is: `nginx`, to be included in the block `http`, or `caddy`, to be imported by its Caddyfile. Required.
    pub format: Option<Text>,
    /// `off`: HTTP on port 80. `auto`: HTTPS on 443 and a redirection on 80, with certificates that Caddy gets by itself. Or a
    /// directory inside that has `HOST/fullchain.pem` and `HOST/privkey.pem` (of `*.example.org` in `example.org`), for
    /// the same. Default: `off`.
    pub tls: Option<Text>,
}

/// `unit.instances`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instances {
    /// So many, named by their numbers.
    Count(i64),
    /// These.
    Names(Vec<Text>),
}

impl<'de> Deserialize<'de> for Instances {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Instances;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of strings")
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Instances, E> {
                Ok(Instances::Count(count))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Instances, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = seq.next_element()? {
                    list.push(name);
                }
                Ok(Instances::Names(list))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One string, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordOrList {
    /// One string.
    Word(String),
    /// A list.
    List(Vec<Text>),
}

impl<'de> Deserialize<'de> for WordOrList {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = WordOrList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<WordOrList, E> {
                Ok(WordOrList::Word(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WordOrList, A::Error> {
                let mut list = Vec::new();
                while let Some(word) = seq.next_element()? {
                    list.push(word);
                }
                Ok(WordOrList::List(list))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Commands: one, or a list of them.
#[derive(Clone, Debug)]
pub struct HooksText(pub Vec<Spanned<HookText>>);

impl<'de> Deserialize<'de> for HooksText {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = HooksText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of commands")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HooksText, A::Error> {
                let mut list = Vec::new();
                while let Some(hook) = seq.next_element()? {
                    list.push(hook);
                }
                Ok(HooksText(list))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub enum HookText {
    /// A command line.
    Line(String),
    /// argv.
    Argv(Vec<Text>),
    /// More than that.
    Table(HookTable),
}

impl<'de> Deserialize<'de> for HookText {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = HookText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of strings or a table")
            }
            fn visit_str<E: de::Error>(self, line: &str) -> Result<HookText, E> {
                Ok(HookText::Line(line.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HookText, A::Error> {
                let mut argv = Vec::new();
                while let Some(word) = seq.next_element()? {
                    argv.push(word);
                }
                Ok(HookText::Argv(argv))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HookText, A::Error> {
                HookTable::deserialize(de::value::MapAccessDeserializer::new(map)).map(HookText::Table)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// `security.seccomp`: a name, a list of them, or the table.
#[derive(Clone, Debug)]
pub enum SeccompText {
    /// What is allowed.
    Calls(WordOrList),
    /// More than that.
    Table(SeccompTable),
}

impl<'de> Deserialize<'de> for SeccompText {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = SeccompText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of strings or a table")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SeccompText, E> {
                Ok(SeccompText::Calls(WordOrList::Word(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SeccompText, A::Error> {
                let mut list = Vec::new();
                while let Some(word) = seq.next_element()? {
                    list.push(word);
                }
                Ok(SeccompText::Calls(WordOrList::List(list)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SeccompText, A::Error> {
                let table = SeccompTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(SeccompText::Table(table))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// `unit.after`: names, and the milestones of those that are given in a table.
#[derive(Clone, Debug)]
pub struct AfterText(pub Vec<(Text, Option<Text>)>);

impl<'de> Deserialize<'de> for AfterText {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = AfterText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names or a table of name to milestone")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AfterText, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element::<Spanned<AfterItem>>()? {
                    let span = item.span();
                    match item.into_inner() {
                        AfterItem::Name(name) => list.push((Text::new(span, name), None)),
                        AfterItem::Table(table) => list.extend(table),
                    }
                }
                Ok(AfterText(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AfterText, A::Error> {
                milestones(map).map(AfterText)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One entry of `unit.after`.
enum AfterItem {
    Name(String),
    Table(Vec<(Text, Option<Text>)>),
}

impl<'de> Deserialize<'de> for AfterItem {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = AfterItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a table of name to milestone")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<AfterItem, E> {
                Ok(AfterItem::Name(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AfterItem, A::Error> {
                milestones(map).map(AfterItem::Table)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn milestones<'de, A: MapAccess<'de>>(mut map: A) -> Result<Vec<(Text, Option<Text>)>, A::Error> {
    let mut list = Vec::new();
    while let Some((name, milestone)) = map.next_entry()? {
        list.push((name, Some(milestone)));
    }
    Ok(list)
}
