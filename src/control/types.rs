//! What travels in replies. Field for field the types of `io.palisade.varlink`; a test compares them.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    ingress::Site,
    machine::{Cause, ExitKind, Reason, Usage, fleet::How, health::HealthState},
    spec::Proto,
};

/// A point in time, on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since 1970, CLOCK_REALTIME.
    pub unix: i64,
    /// Milliseconds, CLOCK_MONOTONIC.
    pub mono: u64,
}

/// What a service is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Its program runs, or it is a oneshot that ended well and counts as active.
    Active,
    /// Being launched.
    Starting,
    /// For what it requires or comes after.
    Waiting,
    /// Told to stop, not gone yet.
    Stopping,
    /// Ended, and started again at a known time.
    Backoff,
    /// Ended badly, and is not started again.
    Failed,
    /// Not running; the next connection starts it.
    Listening,
    /// Not running, as it should be.
    Stopped,
    /// A oneshot that ended well.
    Done,
    /// Its file is a link to `/dev/null`.
    Masked,
    /// Its file has errors.
    Broken,
}

impl ServiceState {
    /// All of them.
    pub const ALL: &[Self] = &[
        ServiceState::Active,
        ServiceState::Starting,
        ServiceState::Waiting,
        ServiceState::Stopping,
        ServiceState::Backoff,
        ServiceState::Failed,
        ServiceState::Listening,
        ServiceState::Stopped,
        ServiceState::Done,
        ServiceState::Masked,
        ServiceState::Broken,
    ];

    /// The word, as in the JSON form.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceState::Active => "active",
            ServiceState::Starting => "starting",
            ServiceState::Waiting => "waiting",
            ServiceState::Stopping => "stopping",
            ServiceState::Backoff => "backoff",
            ServiceState::Failed => "failed",
            ServiceState::Listening => "listening",
            ServiceState::Stopped => "stopped",
            ServiceState::Done => "done",
            ServiceState::Masked => "masked",
            ServiceState::Broken => "broken",
        }
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The host's address; `0.0.0.0` is every one.
    pub address: IpAddr,
    /// On the host.
    pub host_port: u16,
    /// Of the service.
    pub port: u16,
    /// TCP or UDP.
    pub proto: Proto,
}

impl From<crate::spec::Publish> for Port {
    fn from(publish: crate::spec::Publish) -> Self {
        let crate::spec::Publish { address, host_port, port, proto } = publish;
        Self { address, host_port, port, proto }
    }
}

/// In which way a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndKind {
    /// By exit(2).
    Exited,
    /// By a signal.
    Killed,
    /// By a signal, with a core dump.
    Dumped,
    /// Nobody lived to see it.
    Unknown,
}

/// One run that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which launch it was, counted from 1.
    pub run: u64,
    /// In which way.
    pub kind: EndKind,
    /// The exit status, when it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal number, when it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// When its program was executed; none: it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
    /// When that was noticed.
    pub ended: Moment,
    /// Why the kernel ended it, where it did so for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// For what it was ended, where it would have gone on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Reason>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl ExitRecord {
    /// Puts the end of a run down.
    pub fn new(run: u64, exit: ExitKind, started: Option<Moment>, ended: Moment) -> Self {
        let (kind, code, signal) = match exit {
            ExitKind::Code(code) => (EndKind::Exited, Some(code), None),
            ExitKind::Signal(signal) => (EndKind::Killed, None, Some(signal)),
            ExitKind::Core(signal) => (EndKind::Dumped, None, Some(signal)),
            ExitKind::Unknown => (EndKind::Unknown, None, None),
        };
        Self { run, kind, code, signal, started, ended, cause: None, why: None, usage: None }
    }
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The step of the plan, as `palisade plan` shows it: `child step 9 pivot_root`.
    pub step: String,
    /// What the step worked on.
    pub object: String,
    /// The kernel's answer.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Something other than a packet that a service was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// By which wall.
    pub layer: Layer,
    /// What, and to whom: text that the service may have a part in.
    pub what: String,
    /// How often, as far as it is told.
    pub count: u64,
    /// When the last time was, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Moment>,
    /// What decides it; in the same object.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What decides that a service is refused something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What decides it, and what would allow it, for people.
    pub why: String,
    /// The key that decides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `FILE:LINE` of the key, or the file that does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The item to add there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<String>,
}

/// What a refusal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The filter of system calls.
    Seccomp,
    /// The same, of what a capability is for.
    Capability,
    /// The Landlock domain.
    Landlock,
    /// The control group.
    Cgroup,
    /// The root: a file is not there.
    Root,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Seccomp => "seccomp",
            Layer::Capability => "capability",
            Layer::Landlock => "landlock",
            Layer::Cgroup => "cgroup",
            Layer::Root => "root",
        })
    }
}

/// How a service that is checked is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What its checks add up to.
    pub state: HealthState,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// How many have failed in a row.
    pub failures: u32,
    /// When the last one was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Moment>,
    /// Whether it was well then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// What the check had to say; comes from the service.
    pub output: String,
}

/// One limit of a service that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The file of the control group, or the key of the service file.
    pub key: String,
    /// What the file or the default asks for.
    pub asked: String,
    /// What the kernel says that it enforces; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<String>,
    /// What of it is used at the moment: bytes, processes, or, of `cpu.max`, percent of a CPU on average over the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// Why that is not what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A process of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As the host counts.
    pub pid: i32,
    /// The process that it is a child of, as the host counts.
    pub parent: i32,
    /// As it is counted in its sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<i32>,
    /// At most 15 bytes of it; comes from the service.
    pub name: String,
    /// Bytes that are resident.
    pub memory: u64,
}

/// A chain of others that drops what a service sends or receives, unless one of its rules accepts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// Family and name of its table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What in it does so.
    pub why: String,
    /// The commands that let the service through.
    pub allow: Vec<String>,
}

/// Packets of a service, or to it, that were refused. Addresses and ports are what stood in the packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The counter of the packet filter that they are counted in, among others' there: `no_egress`.
    pub reason: String,
    /// `tcp`, `udp`, `icmp`, …; empty: it was no packet of IP.
    pub proto: String,
    /// Where the last of them came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// Where they were to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<IpAddr>,
    /// To which port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How many were told of; beyond ten a second of one reason the kernel tells of none.
    pub count: u64,
    /// When the last one was.
    pub last: Moment,
    /// What decides it; in the same object.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The timer of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerStatus {
    /// When it elapses next; none: never, or when something else has come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Moment>,
    /// When it last elapsed at a moment of civil time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Moment>,
    /// By how much it is late because of its jitter, in milliseconds; `next` has it in.
    pub late_ms: u64,
    /// It has elapsed, and waits for the run to end.
    pub queued: bool,
    /// False: the service is not enabled, and its timer does nothing.
    pub in_force: bool,
}

/// Everything the supervisor knows about one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: ServiceState,
    /// Why, in a few words; may be empty.
    pub reason: String,
    /// Its own line for people.
    pub description: String,
    /// Started when the supervisor comes up.
    pub enabled: bool,
    /// The number of its latest launch; 0: never launched.
    pub run: u64,
    /// How many of its launches were restarts after an end that nobody had asked for.
    pub restarts: u64,
    /// How many runs have failed in a row.
    pub failures: u32,
    /// The main process, as the host sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its `service.type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it says about itself (sd_notify(3)), in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// PID 1 of the sandbox, as the host sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_pid: Option<i32>,
    /// What was read back from the kernel before its program was executed, and agreed.
    #[serde(default)]
    pub attested: Vec<String>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// What of it is published on the host.
    pub ports: Vec<Port>,
    /// By which names it is asked over HTTP.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Where Palisade listens for it.
    #[serde(default)]
    pub sockets: Vec<String>,
    /// What of the host's other tables stands in its way; told by `Status` alone.
    #[serde(default)]
    pub firewall: Vec<Obstacle>,
    /// What of it the packet filter has refused lately, the last one first; told by `Status` alone.
    #[serde(default)]
    pub denials: Vec<Denial>,
    /// What else it was refused lately; told by `Status` alone.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
    /// Why what runs of it is not what would be started now, for people; told by `Status` alone. Of libraries nothing is
    /// known here: who may read what processes have mapped looks himself.
    #[serde(default)]
    pub restart_needed: Vec<String>,
    /// How it is, where it is checked and up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// When it entered its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// When it is started again, in backoff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
    /// When the clock starts it, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<TimerStatus>,
    /// Its latest runs, the newest last.
    pub exits: Vec<ExitRecord>,
    /// What it has taken since its launch; told by `Status` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Its processes, 128 at most; told by `Status` alone.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// How it is bounded; told by `Status` alone.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// Why the latest launch failed, while that is the last word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Its cgroup below the mount point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The file that its output goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The file that describes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// What a verb did to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The service.
    pub name: String,
    /// `restarted (run 7, was up 3h)`.
    pub what: String,
    /// Whether that is what was asked for.
    pub ok: bool,
}

/// What other files do to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The service.
    pub name: String,
    /// What becomes of it.
    pub how: How,
    /// The keys that differ.
    pub keys: Vec<String>,
    /// The same, for people.
    pub what: String,
}

/// Reply of `Plan`, `Apply` and `Revert`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChanges {
    /// One for each service concerned.
    pub changes: Vec<Planned>,
}

/// Reply of `Confirm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {}

/// Which of the two output streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One line of a service's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The service.
    pub name: String,
    /// When the supervisor read it: RFC 3339, UTC, microseconds.
    pub time: String,
    /// Where it was written to.
    pub stream: Stream,
    /// The line goes on in the next entry of the same stream.
    pub partial: bool,
    /// Without the line end; bytes that are not UTF-8 are replaced by U+FFFD.
    pub text: String,
}

/// What happens to services, by `kind` of [`Event`], with what it means.
pub const EVENT_KINDS: &[(&str, &str)] = &[
    ("waiting", "it is wanted up, and waits for others"),
    ("starting", "a run was launched"),
    ("active", "its program runs, and is ready where it says so"),
    ("ended", "a run is over; `exit` says how, where its program was executed"),
    ("backoff", "it is started again at `until`"),
    ("stopping", "its sandbox is being brought down"),
    ("stopped", "nothing of it runs, as it should be"),
    ("done", "it ended well, and counts as active"),
    ("failed", "it is wanted up in vain; `text` says why"),
    ("killed", "it did not stop in time"),
    ("unknown", "its checks begin anew"),
    ("healthy", "its checks pass"),
    ("unhealthy", "its checks fail; `text` is what the last one had to say"),
    ("reload", "it is told to read its configuration again"),
    ("added", "a file describes it that did not before"),
    ("changed", "its file has changed; `text` names the keys"),
    ("removed", "its file is gone"),
    ("rolls_out", "another run comes up beside the one that goes on"),
    ("changed_places", "the new run has taken the place of the old one"),
    ("rolled_back", "the new run was none, and the old one goes on"),
    ("tripped", "connections started it too often"),
    ("elapsed", "its timer has elapsed; `text` says what came of it"),
    (
        "denied",
        "packets of it were refused, told at most once in ten seconds; `palisade why` has all of them",
    ),
    ("rules_restored", "somebody had changed the packet filter, and it was put right"),
];

/// Something that happened to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Moment,
    /// The service.
    pub name: String,
    /// One of [`EVENT_KINDS`].
    pub kind: String,
    /// The state that it led to.
    pub state: ServiceState,
    /// Of which run.
    pub run: u64,
    /// How many runs have failed in a row.
    pub failures: u32,
    /// When the service is started again, in backoff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
    /// The run that ended, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
    /// For people.
    pub text: String,
}

/// Reply of `Ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Of the supervisor.
    pub version: String,
    /// Of the supervisor.
    pub pid: u32,
}

/// Reply of `List` and `Status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// In the order of their names.
    pub services: Vec<ServiceStatus>,
}

/// Reply of `Sites`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// By host, and of each the longer path first.
    pub sites: Vec<Site>,
}

/// Reply of `Metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Prometheus' text format, version 0.0.4.
    pub text: String,
}

/// What a service takes. CPU time, bytes and pressure only grow, as long as the run is the same: two samples make a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The service.
    pub name: String,
    /// What it is doing.
    pub state: ServiceState,
    /// The number of its latest launch.
    pub run: u64,
    /// How many of its launches were restarts after an end that nobody had asked for.
    pub restarts: u64,
    /// When it entered its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// Whether its checks pass, where it is checked and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// When this was measured: milliseconds, CLOCK_MONOTONIC.
    pub at: u64,
    /// CPU time of all its processes, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// CPUs that it may use at the same time (`cpu.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes: `memory.current`, or where there is no such controller what is resident of its processes, added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Bytes: `memory.max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// How many there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// Microseconds that some of its processes waited, by what for: `cpu`, `memory`, `io`.
    #[serde(default)]
    pub pressure: BTreeMap<String, u64>,
    /// Bytes that came to it over its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Bytes that it has sent over its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
}

/// Reply of `Samples`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// In the order of their names.
    pub services: Vec<Sample>,
}

/// Reply of every verb that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// One for each service concerned.
    pub changes: Vec<Change>,
}

/// One reply of `Logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntries {
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// These are the last of the past: what follows is written from now on. Said once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_past_over: bool,
}

/// One reply of `Events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
}

/// One reply of `Exec`: the first has the pid, the last `code` or `signal` (neither: nobody knows).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Of the command, as the host sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}
