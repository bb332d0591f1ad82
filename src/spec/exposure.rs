//! What a service opens, what each of it costs, and what is to be said about it: the one table that `check`, `score` and
//! the ceiling of a policy go by.
//!
//! Prices are tenths of a point on the scale of `systemd-analyze security`, 0 (closed) to 10 (open). They are added, up to
//! 10, and a key costs the same whatever else a file says, so that its price can be named. A row of which much can be
//! opened (ports, mounts) has a most that all of it costs together.

use std::{cell::LazyCell, collections::BTreeSet, path::Path};

use super::{
    Allowed, Base, Capability, Credential, Denial, Destination, Dev, Dns, Egress, Families, Firewall, Format,
    Hook, Host, IdSpec, IoPrio, Landlock, Listen, Mount, Named, Namespace, NetworkMode, Publish, Seccomp,
    Socket, Stdin, Unit, UserNamespace, UserSpec, Writable, credential::Source, limits::Rlimit,
};
use crate::seccomp;

/// The top of the scale, in tenths of a point.
pub const MOST: u32 = 100;

/// One thing that a service can open.
#[derive(Debug)]
pub struct Row {
    /// Its name in a policy and a report: the key of the service file, or that with the field that opens.
    pub name: &'static str,
    /// The most that it costs, in tenths of a point.
    pub most: u32,
    /// What holds while it is closed.
    pub closed: &'static str,
    /// What somebody inside has from it once it is open.
    pub opens: &'static str,
    /// What a unit opens of it; nothing: it is closed.
    pub find: fn(&Unit) -> Vec<Opening>,
}

/// Something that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The path of the key in the service file: `rootfs.mounts[0].ro`.
    pub at: String,
    /// What is opened, as a policy can name it.
    pub value: String,
    /// How it came to be.
    pub standing: Standing,
    /// In tenths of a point.
    pub price: u32,
}

/// How something came to be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is the default: no policy forbids it.
    Default,
    /// It is what the key is for: a policy can forbid it, `check` does not name it.
    Use,
    /// It takes a wall away: a loosening, which `check` names.
    Loosening,
}

/// Every row, in the order of the tables of a service file.
pub const TABLE: &[Row] = &[
    Row {
        name: "service.user",
        most: 30,
        closed: "it is not root, not even inside",
        opens: "root of its sandbox can do more with a hole in the kernel; under the host's ids it is the host's root",
        find: |unit| {
            let is_root = match &unit.service.user {
                UserSpec::Named(IdSpec::Number(id)) => *id == 0,
                UserSpec::Named(IdSpec::Name(name)) => name == "root",
                UserSpec::Dynamic => false,
            };
            let price = if unit.namespaces.user == UserNamespace::Off { 30 } else { 3 };
            let mut all = loosening_if(is_root, "service.user", "root", price);
            all.extend(hooks(unit, ".user", |hook| {
                let user = hook.user.as_ref().map(|user| &user.user);
                let is_root = user == Some(&UserSpec::Named(IdSpec::Number(0)));
                is_root.then(|| ("root".to_owned(), price))
            }));
            all
        },
    },
    Row {
        name: "service.hooks_privileged",
        most: 20,
        closed: "none of the commands around it runs outside",
        opens: "the command runs on the host, as root; what the service has written it may read there",
        find: |unit| hooks(unit, ".privileged", |hook| hook.privileged.then(|| (hook.to_string(), 10))),
    },
    Row {
        name: "service.extra_groups",
        most: 15,
        closed: "no group of the host's is its own",
        opens: "under the host's ids: it may what the host lets members of that group do",
        find: |unit| {
            // In a user namespace of its own a group by that name is not the host's.
            let is_hosts = unit.namespaces.user == UserNamespace::Off;
            let each = |group: &IdSpec| {
                let value = match group {
                    IdSpec::Name(name) => name.clone(),
                    IdSpec::Number(id) => id.to_string(),
                };
                opening("service.extra_groups", &value, Standing::Loosening, 5)
            };
            unit.service.extra_groups.iter().filter(|_| is_hosts).map(each).collect()
        },
    },
    Row {
        name: "service.nice",
        most: 2,
        closed: "it gets no more of the CPU than others",
        opens: "it is scheduled before others",
        find: |unit| {
            let nice = unit.service.nice.unwrap_or(0);
            loosening_if(nice < 0, "service.nice", &nice.to_string(), 2)
        },
    },
    Row {
        name: "service.oom_score_adj",
        most: 3,
        closed: "the kernel ends it no later than others when memory runs out",
        opens: "when it eats the memory, others are killed in its place",
        find: |unit| {
            let score = unit.service.oom_score_adj.unwrap_or(0);
            loosening_if(score < 0, "service.oom_score_adj", &score.to_string(), 3)
        },
    },
    Row {
        name: "service.sched",
        most: 3,
        closed: "it waits for a CPU as others do",
        opens: "while it computes, everybody else waits",
        find: |unit| match unit.service.sched {
            Some(sched) if sched.is_realtime() => loosening("service.sched", &sched.to_string(), 3),
            Some(_) | None => Vec::new(),
        },
    },
    Row {
        name: "service.ioprio",
        most: 2,
        closed: "it waits for a disk as others do",
        opens: "while it reads and writes, everybody else waits",
        find: |unit| match unit.service.ioprio {
            Some(ioprio @ IoPrio::Realtime(_)) => loosening("service.ioprio", &ioprio.to_string(), 2),
            Some(IoPrio::None | IoPrio::BestEffort(_) | IoPrio::Idle) | None => Vec::new(),
        },
    },
    Row {
        name: "service.stdin",
        most: 5,
        closed: "its standard input is nobody's file",
        opens: "it reads a file of the host, whoever may read that outside",
        find: |unit| match &unit.service.stdin {
            Stdin::File(path) => match named_price(path, SIGHTS) {
                0 => vec![opening("service.stdin", &shown(path), Standing::Use, 0)],
                price => vec![opening("service.stdin", &shown(path), Standing::Loosening, price)],
            },
            Stdin::Null | Stdin::Inherit | Stdin::Socket => Vec::new(),
        },
    },
    Row {
        name: "namespaces.pid",
        most: 12,
        closed: "it sees its own processes alone",
        opens: "it sees the processes of others, and may signal and trace those whose ids it has",
        find: |unit| namespace("namespaces.pid", &unit.namespaces.pid, 12),
    },
    Row {
        name: "namespaces.uts",
        most: 2,
        closed: "it has a host name of its own",
        opens: "it shares the host name of others",
        find: |unit| namespace("namespaces.uts", &unit.namespaces.uts, 2),
    },
    Row {
        name: "namespaces.ipc",
        most: 6,
        closed: "it has System V IPC and message queues of its own",
        opens: "it reaches the shared memory, semaphores and message queues of others",
        find: |unit| namespace("namespaces.ipc", &unit.namespaces.ipc, 6),
    },
    Row {
        name: "namespaces.cgroup",
        most: 3,
        closed: "it sees the control group tree from its own group on",
        opens: "it sees the control groups of others",
        find: |unit| namespace("namespaces.cgroup", &unit.namespaces.cgroup, 3),
    },
    Row {
        name: "namespaces.user",
        most: 25,
        closed: "its ids are its own: root inside is nobody outside",
        opens: "it has ids that others have as well: whatever they may read and write, it may",
        find: |unit| match &unit.namespaces.user {
            UserNamespace::Auto => Vec::new(),
            UserNamespace::Shared(name) => loosening("namespaces.user", &format!("shared:{name}"), 5),
            UserNamespace::Off => loosening("namespaces.user", "off", 25),
        },
    },
    Row {
        name: "namespaces.nested",
        most: 15,
        closed: "it makes no sandboxes of its own",
        opens: "it mounts, and makes namespaces in which it is root: kernel code that is for root alone; there is no Landlock domain",
        find: |unit| loosening_if(unit.namespaces.nested, "namespaces.nested", "true", 15),
    },
    Row {
        name: "rootfs.base",
        most: 1,
        closed: "it sees nothing of the host's /usr",
        opens: "it reads and runs the programs of the host's /usr",
        find: |unit| match unit.rootfs.base {
            Base::Host => default("rootfs.base", "host", 1),
            Base::Dir(_) | Base::None => Vec::new(),
        },
    },
    Row {
        name: "rootfs.writable",
        most: 3,
        closed: "its root is read-only",
        opens: "it can change the programs that it runs; a persistent root keeps what an intruder leaves there",
        find: |unit| match unit.rootfs.writable {
            Writable::No => Vec::new(),
            Writable::Ephemeral => loosening("rootfs.writable", "ephemeral", 2),
            Writable::Persistent => loosening("rootfs.writable", "persistent", 3),
        },
    },
    Row {
        name: "rootfs.mounts",
        most: 40,
        closed: "it sees no file of the host beside its root",
        opens: "it sees files of the host; a socket among them is a way to who listens there",
        find: |unit| {
            mounts(unit, "", |mount| {
                match named_price(&mount.src, SOCKETS).max(named_price(&mount.src, SIGHTS)) {
                    0 => Some((Standing::Use, 0)),
                    price => Some((Standing::Loosening, price)),
                }
            })
        },
    },
    Row {
        name: "rootfs.mounts_rw",
        most: 40,
        closed: "what it sees of the host is read-only",
        opens: "it writes into the host's files: whoever reads those outside reads what an intruder wrote",
        find: |unit| {
            mounts(unit, ".ro", |mount| (!mount.ro).then(|| (Standing::Loosening, written_price(&mount.src))))
        },
    },
    Row {
        name: "rootfs.mounts_exec",
        most: 4,
        closed: "it runs programs of its root alone",
        opens: "it runs programs from a mount; from a writable one, also those that it has written itself",
        find: |unit| {
            mounts(unit, ".exec", |mount| match (mount.exec, mount.ro) {
                (false, _) => None,
                (true, true) => Some((Standing::Use, 0)),
                (true, false) => Some((Standing::Loosening, 2)),
            })
        },
    },
    Row {
        name: "rootfs.mounts_unshifted",
        most: 6,
        closed: "of what it writes nothing belongs to an id of the host",
        opens: "it writes files that belong to ids as they are outside",
        find: |unit| {
            let is_shifted = unit.namespaces.user != UserNamespace::Off;
            mounts(unit, ".idmap", |mount| {
                (is_shifted && !mount.idmap && !mount.ro).then_some((Standing::Loosening, 3))
            })
        },
    },
    Row {
        name: "rootfs.tmpfs_exec",
        most: 2,
        closed: "nothing in a memory file system can be executed",
        opens: "it runs programs that it has written or downloaded itself",
        find: |unit| {
            let all = unit.rootfs.tmpfs.iter().filter(|tmpfs| tmpfs.exec);
            all.map(|tmpfs| opening("rootfs.tmpfs", &shown(&tmpfs.dst), Standing::Loosening, 2)).collect()
        },
    },
    Row {
        name: "rootfs.dev",
        most: 40,
        closed: "it has /dev/null and its like, no device",
        opens: "it speaks to drivers of the host; a disk is every file on it, a memory device is the kernel",
        find: |unit| match &unit.rootfs.dev {
            Dev::Host => loosening("rootfs.dev", "host", 40),
            Dev::Minimal(nodes) => nodes.iter().map(|node| device("rootfs.dev", node)).collect(),
        },
    },
    Row {
        name: "rootfs.proc",
        most: 1,
        closed: "it has no /proc",
        opens: "it reads what the kernel tells everybody about the machine",
        find: |unit| if unit.rootfs.proc { default("rootfs.proc", "own", 1) } else { Vec::new() },
    },
    Row {
        name: "rootfs.sys",
        most: 1,
        closed: "it has no /sys",
        opens: "it reads what the kernel tells everybody about the hardware",
        find: |unit| if unit.rootfs.sys { default("rootfs.sys", "own", 1) } else { Vec::new() },
    },
    Row {
        name: "network.mode",
        most: 20,
        closed: "it has no network but its own loopback",
        opens: "with a link it is reached on its published ports; with one in a network of the host's (macvlan, ipvlan) on all, and reaches everybody there; on the host's network nothing separates it from anybody",
        find: |unit| match &unit.network.mode {
            NetworkMode::None => Vec::new(),
            NetworkMode::Join(of) => vec![opening("network.mode", &format!("join:{of}"), Standing::Use, 2)],
            NetworkMode::Veth => default("network.mode", "veth", 2),
            NetworkMode::Attached(attached) => loosening("network.mode", attached.kind.name(), 12),
            NetworkMode::Host => loosening("network.mode", "host", 20),
        },
    },
    Row {
        name: "network.publish",
        most: 10,
        closed: "nobody outside reaches it",
        opens: "whoever reaches the port talks to it: this host on 127.0.0.1, everybody else elsewhere",
        find: |unit| unit.network.publish.iter().enumerate().map(published).collect(),
    },
    Row {
        name: "socket.listen",
        most: 10,
        closed: "Palisade listens nowhere for it",
        opens: "whoever reaches the socket talks to it: this host on 127.0.0.1, ::1 or a path, everybody else elsewhere",
        find: |unit| unit.sockets.iter().enumerate().map(listened).collect(),
    },
    Row {
        name: "network.egress",
        most: 5,
        closed: "it begins no conversation with the outside",
        opens: "it can fetch what an intruder needs, and send what an intruder finds",
        find: |unit| match &unit.network.egress {
            Egress::None => Vec::new(),
            Egress::Only(list) => {
                let names = unit.network.egress_names.iter().map(reachable_by_name);
                list.iter().enumerate().map(reachable).chain(names).collect()
            }
            Egress::Any => loosening("network.egress", "any", 5),
        },
    },
    Row {
        name: "network.dns",
        most: 1,
        closed: "names outside are asked for at the host's servers",
        opens: "the host asks servers that the file chooses, which learn what it looks for",
        find: |unit| match &unit.network.dns {
            Dns::Host | Dns::None => Vec::new(),
            Dns::Servers(servers) => {
                let one = |server: &std::net::IpAddr| {
                    opening(&format!("network.dns[\"{server}\"]"), &server.to_string(), Standing::Use, 1)
                };
                servers.iter().map(one).collect()
            }
        },
    },
    Row {
        name: "network.allow_to",
        most: 3,
        closed: "it begins no conversation with another service",
        opens: "an intruder in it can try what those services answer",
        find: |unit| talks("network.allow_to", &unit.network.allow_to),
    },
    Row {
        name: "network.allow_from",
        most: 3,
        closed: "no other service begins a conversation with it",
        opens: "an intruder in those services can try what it answers",
        find: |unit| talks("network.allow_from", &unit.network.allow_from),
    },
    Row {
        name: "http.host",
        most: 3,
        closed: "nobody passes requests of others on to it",
        opens: "whoever reaches a service with [ingress] asks it by that name",
        find: |unit| {
            let hosts = unit.http.iter().flat_map(|http| &http.hosts);
            let each = |host: &Host| {
                opening(&format!("http.host[{:?}]", host.as_str()), host.as_str(), Standing::Use, 1)
            };
            hosts.map(each).collect()
        },
    },
    Row {
        name: "ingress.format",
        most: 3,
        closed: "it begins no conversation with those who have [http]",
        opens: "an intruder in it can try what they answer, and reads and changes what passes through",
        find: |unit| {
            let all = unit.ingress.iter();
            all.map(|ingress| {
                let (name, _) =
                    Format::ALL.iter().find(|(_, one)| *one == ingress.format).expect("each has a name");
                opening("ingress.format", name, Standing::Use, 3)
            })
            .collect()
        },
    },
    Row {
        name: "network.firewall",
        most: 1,
        closed: "no table of others is changed for it",
        opens: "the host's other tables accept what goes through services' links, which ours alone judges then",
        find: |unit| loosening_if(unit.network.firewall == Firewall::Insert, "network.firewall", "insert", 1),
    },
    Row {
        name: "security.no_new_privs",
        most: 10,
        closed: "nothing that it executes gains privileges",
        opens: "set-user-ID programs and file capabilities of its root work",
        find: |unit| loosening_if(!unit.security.no_new_privs, "security.no_new_privs", "false", 10),
    },
    Row {
        name: "security.capabilities",
        most: 60,
        closed: "it has no capability, and root inside has none either",
        opens: "root inside has it over what the sandbox owns, and the kernel code behind it; under the host's ids over the host",
        find: |unit| {
            let is_host = unit.namespaces.user == UserNamespace::Off;
            let each = |capability: &Capability| {
                let at = format!("security.capabilities[{:?}]", capability.name());
                opening(&at, capability.name(), Standing::Loosening, capability_price(*capability, is_host))
            };
            unit.security.capabilities.iter().map(each).collect()
        },
    },
    Row {
        name: "security.ambient",
        most: 5,
        closed: "a user other than root has no capability",
        opens: "it has the capability without being root",
        find: |unit| {
            let each = |capability: &Capability| {
                let at = format!("security.ambient[{:?}]", capability.name());
                opening(&at, capability.name(), Standing::Loosening, 1)
            };
            unit.security.ambient.iter().map(each).collect()
        },
    },
    Row {
        name: "security.devices",
        most: 40,
        closed: "no device of the host belongs to it",
        opens: "it speaks to drivers of the host; a disk is every file on it, a memory device is the kernel",
        find: |unit| {
            unit.security.devices.iter().map(|entry| device("security.devices", &entry.path)).collect()
        },
    },
    Row {
        name: "security.seccomp",
        most: 40,
        closed: "it makes no system call",
        opens: "what the kernel does for a system call can be tried for holes; the fewer calls, the fewer holes",
        find: system_calls,
    },
    Row {
        name: "security.native_abi_only",
        most: 5,
        closed: "it makes system calls in one way only",
        opens: "it makes the calls of the machine's other architecture, whose code fewer have looked at",
        find: |unit| switched_off(unit.security.native_abi_only, "security.native_abi_only", 5),
    },
    Row {
        name: "security.lock_personality",
        most: 2,
        closed: "the kernel treats it as what it is",
        opens: "it has itself treated as another kind of program, without address randomisation if it likes",
        find: |unit| switched_off(unit.security.lock_personality, "security.lock_personality", 2),
    },
    Row {
        name: "security.no_realtime",
        most: 2,
        closed: "it cannot take a CPU for itself",
        opens: "it can take a CPU for itself by realtime scheduling, where its limits let it",
        find: |unit| switched_off(unit.security.no_realtime, "security.no_realtime", 2),
    },
    Row {
        name: "security.no_suid",
        most: 3,
        closed: "it makes no file whose caller becomes its owner",
        opens: "it makes files whose caller becomes their owner",
        find: |unit| switched_off(unit.security.no_suid, "security.no_suid", 3),
    },
    Row {
        name: "security.no_namespaces",
        most: 10,
        closed: "it makes no namespace, in which it would be root again",
        opens: "it makes namespaces: root in one of its own, it reaches kernel code that is for root alone",
        find: |unit| switched_off(unit.security.no_namespaces, "security.no_namespaces", 10),
    },
    Row {
        name: "security.no_wx",
        most: 2,
        closed: "no memory that it has written can be executed",
        opens: "it executes what it has written into its memory, as interpreters do that compile",
        find: |unit| if unit.security.no_wx { Vec::new() } else { default("security.no_wx", "false", 2) },
    },
    Row {
        name: "security.landlock",
        most: 5,
        closed: "a second wall inside the mounts allows no more than they do",
        opens: "a hole in the mounts is not met by a second wall",
        find: |unit| loosening_if(unit.security.landlock == Landlock::Off, "security.landlock", "off", 5),
    },
    Row {
        name: "security.apparmor",
        most: 5,
        closed: "no label loosens what the host's security module says",
        opens: "the host's AppArmor does not hold it",
        find: |unit| {
            let is_free = unit.security.apparmor.as_deref() == Some("unconfined");
            loosening_if(is_free, "security.apparmor", "unconfined", 5)
        },
    },
    Row {
        name: "security.selinux",
        most: 5,
        closed: "no label loosens what the host's security module says",
        opens: "the host's SELinux does not hold it",
        find: |unit| {
            // user:role:type:level; of the types those that the common policies allow everything.
            let label = unit.security.selinux.as_deref().unwrap_or_default();
            let kind = label.split(':').nth(2).unwrap_or_default();
            let is_free = ["unconfined_t", "unconfined_service_t", "spc_t", "initrc_t", "init_t", "kernel_t"]
                .contains(&kind);
            loosening_if(is_free, "security.selinux", kind, 5)
        },
    },
    Row {
        name: "network.address_families",
        most: 10,
        closed: "it speaks the Internet's protocols and those of Unix sockets, no others",
        opens: "it speaks protocols whose kernel code few have looked at",
        find: |unit| match &unit.network.address_families {
            Families::Default => Vec::new(),
            Families::Any => loosening("network.address_families", "any", 10),
            Families::Only(names) => {
                let strange = names.iter().filter(|name| !["unix", "inet", "inet6"].contains(&name.as_str()));
                let each = |name: &String| {
                    let at = format!("network.address_families[{name:?}]");
                    opening(&at, name, Standing::Loosening, 2)
                };
                strange.map(each).collect()
            }
        },
    },
    Row {
        name: "limits.memory.max",
        most: 3,
        closed: "its memory has a bound",
        opens: "it can take all memory there is",
        find: |unit| unbounded(unit, unit.limits.memory.max, "limits.memory.max"),
    },
    Row {
        name: "limits.pids.max",
        most: 3,
        closed: "the number of its processes has a bound",
        opens: "it can make processes until no one else can",
        find: |unit| {
            let nproc = unit.limits.rlimits.get(&Rlimit::Nproc).and_then(|bounds| bounds.hard);
            unbounded(unit, unit.limits.pids.or(nproc), "limits.pids.max")
        },
    },
    Row {
        name: "limits.best_effort",
        most: 2,
        closed: "a limit that cannot be enforced keeps it from starting",
        opens: "it starts without the limits that this host cannot enforce",
        find: |unit| loosening_if(unit.limits.best_effort, "limits.best_effort", "true", 2),
    },
    Row {
        name: "limits.rlimits.core",
        most: 2,
        closed: "its crashes start no program of the host",
        opens: "its crashes start the host's core dump handler, on data that an intruder has chosen",
        find: |unit| {
            let core = unit.limits.rlimits.get(&Rlimit::Core).map_or(Some(0), |bounds| bounds.hard);
            // core(5): with a limit of 1 the handler is not started.
            let is_open = core.is_none_or(|core| core > 1);
            loosening_if(
                is_open,
                "limits.rlimits.core",
                &core.map_or("infinity".to_owned(), |c| c.to_string()),
                2,
            )
        },
    },
    Row {
        name: "security.credentials",
        most: 2,
        closed: "it is given no secret",
        opens: "it has secrets that an intruder can read; a command that fetches one is run by Palisade, outside",
        find: |unit| {
            let each = |(index, credential): (usize, &Credential)| {
                let (value, price) = match &credential.source {
                    Source::File(path) => (format!("file:{}", shown(path)), 0),
                    Source::Command(argv) => (format!("command:{}", argv.join(" ")), 1),
                    Source::Env(name) => (format!("env:{name}"), 0),
                };
                opening(&format!("security.credentials[{index}]"), &value, Standing::Use, price)
            };
            unit.security.credentials.iter().enumerate().map(each).collect()
        },
    },
];

/// How much a service may take of something: a policy can say the most.
#[derive(Debug)]
pub struct Measure {
    /// Its name in a policy.
    pub name: &'static str,
    /// The path of the key in the service file.
    pub at: &'static str,
    /// In what it is counted.
    pub kind: Kind,
    /// What a unit takes at most; none: there is no bound.
    pub find: fn(&Unit) -> Option<u64>,
}

/// In what something is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Size,
    /// Pieces.
    Number,
}

/// Every measure.
pub const MEASURES: &[Measure] = &[
    Measure {
        name: "rootfs.tmpfs_size",
        at: "rootfs.tmpfs",
        kind: Kind::Size,
        find: |unit| Some(unit.rootfs.tmpfs.iter().fold(0, |sum: u64, tmpfs| sum.saturating_add(tmpfs.size))),
    },
    Measure {
        name: "limits.memory.max",
        at: "limits.memory.max",
        kind: Kind::Size,
        find: |unit| unit.limits.memory.max,
    },
    Measure {
        name: "limits.pids.max",
        at: "limits.pids.max",
        kind: Kind::Number,
        find: |unit| {
            let nproc = unit.limits.rlimits.get(&Rlimit::Nproc).and_then(|bounds| bounds.hard);
            unit.limits.pids.or(nproc)
        },
    },
    Measure {
        name: "log.size",
        at: "log.max_size",
        kind: Kind::Size,
        find: |unit| Some(unit.log.max_size.saturating_mul(unit.log.files.into())),
    },
];

/// The row of that name.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// What all of it costs, in tenths of a point.
pub fn score<'a>(opened: impl IntoIterator<Item = (&'a Row, &'a Opening)>) -> u32 {
    let mut sums: Vec<(&str, u32, u32)> = Vec::new();
    for (row, opening) in opened {
        match sums.iter_mut().find(|(name, ..)| *name == row.name) {
            Some((_, sum, _)) => *sum += opening.price,
            None => sums.push((row.name, opening.price, row.most)),
        }
    }
    sums.iter().map(|(_, sum, most)| sum.min(most)).sum::<u32>().min(MOST)
}

/// What a unit costs.
pub fn score_of(unit: &Unit) -> u32 {
    let opened: Vec<(&Row, Opening)> = TABLE
        .iter()
        .flat_map(|row| (row.find)(unit).into_iter().map(move |opening| (row, opening)))
        .collect();
    score(opened.iter().map(|(row, opening)| (*row, opening)))
}

/// The word for a score, as `systemd-analyze security` has it.
pub fn word(score: u32) -> &'static str {
    match score {
        100.. => "DANGEROUS",
        90.. => "UNSAFE",
        75.. => "EXPOSED",
        50.. => "MEDIUM",
        10.. => "OK",
        1.. => "SAFE",
        0 => "PERFECT",
    }
}

fn opening(at: &str, value: &str, standing: Standing, price: u32) -> Opening {
    Opening { at: at.to_owned(), value: value.to_owned(), standing, price }
}

fn default(at: &str, value: &str, price: u32) -> Vec<Opening> {
    vec![opening(at, value, Standing::Default, price)]
}

fn loosening(at: &str, value: &str, price: u32) -> Vec<Opening> {
    vec![opening(at, value, Standing::Loosening, price)]
}

fn loosening_if(open: bool, at: &str, value: &str, price: u32) -> Vec<Opening> {
    if open { loosening(at, value, price) } else { Vec::new() }
}

/// A switch that is on unless a file says otherwise.
fn switched_off(is_on: bool, at: &str, price: u32) -> Vec<Opening> {
    loosening_if(!is_on, at, "false", price)
}

/// No bound: by the file's word a loosening, for want of what the host would need no doing of the file's.
fn unbounded(unit: &Unit, bound: Option<u64>, key: &str) -> Vec<Opening> {
    let standing = match unit.limits.bent.iter().any(|bent| bent.key == key) {
        true => Standing::Default,
        false => Standing::Loosening,
    };
    match bound {
        Some(_) => Vec::new(),
        None => vec![opening(key, "infinity", standing, 3)],
    }
}

/// What is allowed beyond the default, word by word, and what is left of that.
fn system_calls(unit: &Unit) -> Vec<Opening> {
    const KEY: &str = "security.seccomp";
    const DEFAULT: &str = seccomp::groups::DEFAULT;
    let Seccomp { allow, log, action, .. } = &unit.security.seccomp;
    let calls = |words: &[String]| seccomp::listed(words, &BTreeSet::new());
    // Most ask for nothing, and all of them are asked at every reload.
    let usual = LazyCell::new(|| calls(&[]));
    // A word that takes calls out opens nothing, and stands for the default as the first of a list.
    let added = |word: &String| -> Vec<&str> {
        match word.starts_with('~') || word == DEFAULT {
            true => Vec::new(),
            false => calls(std::slice::from_ref(word)).difference(&usual).copied().collect(),
        }
    };
    let is_all = *allow == [DEFAULT] || calls(allow).is_superset(&usual);
    let mut all =
        default(KEY, if is_all { "@service" } else { "less than @service" }, if is_all { 2 } else { 1 });
    for word in allow.iter().chain(log) {
        let price = added(word).into_iter().map(call_price).sum::<u32>().min(20);
        if price > 0 {
            all.push(opening(KEY, word, Standing::Loosening, price));
        }
    }
    if *action == Denial::Log {
        all.push(opening(KEY, "action:log", Standing::Loosening, 20));
    }
    all
}

/// What a system call costs that is not allowed by default.
fn call_price(call: &str) -> u32 {
    match call {
        "bpf" | "init_module" | "finit_module" | "kexec_load" | "kexec_file_load" | "open_by_handle_at" => 10,
        "io_uring_setup" | "userfaultfd" | "perf_event_open" | "keyctl" | "add_key" | "request_key"
        | "mount" | "ptrace" | "process_vm_writev" | "iopl" | "ioperm" => 4,
        _ => 1,
    }
}

/// The host's costs all, that of another service a third.
/// Every command around the main program of which `opens` says what it opens, and the price.
fn hooks(unit: &Unit, field: &str, opens: impl Fn(&Hook) -> Option<(String, u32)>) -> Vec<Opening> {
    let all = unit.service.hooks.all();
    all.filter_map(|(stage, n, hook)| {
        let (value, price) = opens(hook)?;
        Some(opening(&format!("{}[{n}]{field}", stage.key()), &value, Standing::Loosening, price))
    })
    .collect()
}

fn namespace(at: &str, namespace: &Namespace, price: u32) -> Vec<Opening> {
    match namespace {
        Namespace::Own => Vec::new(),
        Namespace::Join(name) => loosening(at, &format!("join:{name}"), price.div_ceil(3)),
        Namespace::Host => loosening(at, "host", price),
    }
}

/// Sockets whose other end does what it is told, with rights of its own.
const SOCKETS: &[(&str, u32)] = &[
    ("/run/docker.sock", 40),
    ("/var/run/docker.sock", 40),
    ("/run/containerd", 40),
    ("/run/podman", 40),
    ("/run/crio", 40),
    ("/run/libvirt", 40),
    ("/run/palisade", 10),
    ("/run/systemd", 10),
    ("/run/dbus", 10),
];

/// Trees in which a reader finds more than a service should know.
const SIGHTS: &[(&str, u32)] = &[
    ("/root", 5),
    ("/home", 3),
    ("/etc/shadow", 5),
    ("/etc/ssl/private", 3),
    ("/proc", 5),
    ("/sys", 3),
    ("/dev", 5),
];

/// Trees whose writer has the host; what lies in one of them and is not named itself is a quarter of that.
const SYSTEM: &[(&str, u32)] = &[
    ("/etc", 40),
    ("/etc/cron.d", 40),
    ("/etc/ld.so.conf.d", 40),
    ("/etc/palisade", 40),
    ("/etc/pam.d", 40),
    ("/etc/profile.d", 40),
    ("/etc/sudoers.d", 40),
    ("/etc/systemd", 40),
    ("/etc/udev", 40),
    ("/usr", 40),
    ("/boot", 40),
    ("/root", 40),
    ("/bin", 40),
    ("/sbin", 40),
    ("/lib", 40),
    ("/lib64", 40),
    ("/proc", 40),
    ("/sys", 40),
    ("/dev", 40),
    ("/run", 20),
    ("/var/run", 20),
    ("/var/lib/palisade", 40),
    ("/var/spool/cron", 40),
    ("/home", 10),
    ("/opt", 10),
];

/// The dearest of the named paths that a mount of `src` shows: one that it lies in, or that lies in it.
fn named_price(src: &Path, named: &[(&str, u32)]) -> u32 {
    let shows = |path: &str| src.starts_with(path) || Path::new(path).starts_with(src);
    named.iter().filter(|(path, _)| shows(path)).map(|(_, price)| *price).max().unwrap_or(0)
}

/// What it costs to write to `src`.
fn written_price(src: &Path) -> u32 {
    let price = |(path, price): &(&str, u32)| match (Path::new(path).starts_with(src), src.starts_with(path))
    {
        (true, _) => *price,
        (false, true) => *price / 4,
        (false, false) => 0,
    };
    SYSTEM.iter().map(price).max().unwrap_or(0).max(3)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn mounts(unit: &Unit, field: &str, price: impl Fn(&Mount) -> Option<(Standing, u32)>) -> Vec<Opening> {
    let entry = |(index, mount): (usize, &Mount)| {
        let (standing, price) = price(mount)?;
        Some(opening(&format!("rootfs.mounts[{index}]{field}"), &shown(&mount.src), standing, price))
    };
    unit.rootfs.mounts.iter().enumerate().filter_map(entry).collect()
}

/// What a capability costs: over the sandbox's own user namespace it is a way to more of the kernel's code, over the
/// host's it is what its name says.
fn capability_price(capability: Capability, is_host: bool) -> u32 {
    match (capability.name(), is_host) {
        ("CAP_SYS_MODULE" | "CAP_SYS_RAWIO" | "CAP_SYS_ADMIN", true) => 60,
        ("CAP_SYS_PTRACE" | "CAP_BPF" | "CAP_PERFMON" | "CAP_MKNOD" | "CAP_CHECKPOINT_RESTORE", true) => 30,
        (
            "CAP_DAC_OVERRIDE"
            | "CAP_DAC_READ_SEARCH"
            | "CAP_CHOWN"
            | "CAP_FOWNER"
            | "CAP_FSETID"
            | "CAP_SETUID"
            | "CAP_SETGID"
            | "CAP_SETPCAP"
            | "CAP_SETFCAP"
            | "CAP_MAC_OVERRIDE"
            | "CAP_MAC_ADMIN",
            true,
        ) => 20,
        ("CAP_NET_ADMIN" | "CAP_SYS_BOOT" | "CAP_SYS_TIME" | "CAP_SYSLOG", true) => 10,
        ("CAP_NET_BIND_SERVICE", _) => 1,
        (_, true) => 5,
        (_, false) if capability.is_only_the_hosts() => 1,
        ("CAP_SYS_ADMIN", false) => 15,
        ("CAP_NET_ADMIN", false) => 8,
        ("CAP_NET_RAW" | "CAP_SYS_PTRACE" | "CAP_CHECKPOINT_RESTORE", false) => 4,
        ("CAP_DAC_OVERRIDE" | "CAP_DAC_READ_SEARCH" | "CAP_SYS_CHROOT" | "CAP_SYS_RESOURCE", false) => 2,
        (_, false) => 1,
    }
}

/// A device node by what its driver can do.
fn device(at: &str, node: &Path) -> Opening {
    let name = node.strip_prefix("/dev").unwrap_or(node).display().to_string();
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let price = match name.as_str() {
        "mem" | "kmem" | "port" | "kmsg" => 40,
        _ if begins(&[
            "sd", "vd", "xvd", "hd", "nvme", "mmcblk", "dm-", "mapper/", "md", "loop", "disk/", "sg", "nbd",
        ]) =>
        {
            30
        }
        "fuse" | "kvm" | "uinput" | "snapshot" => 5,
        _ => 3,
    };
    let node = shown(node);
    opening(&format!("{at}[{node:?}]"), &node, Standing::Loosening, price)
}

/// As a port that is published there.
fn listened((index, socket): (usize, &Socket)) -> Opening {
    let (standing, price) = match &socket.listen {
        Listen::Unix(_) => (Standing::Use, 1),
        Listen::Ip(address) if address.ip().is_loopback() => (Standing::Use, 1),
        Listen::Ip(address) if address.ip().is_unspecified() => (Standing::Loosening, 3),
        Listen::Ip(_) => (Standing::Loosening, 2),
    };
    opening(&format!("socket[{index}].listen"), &socket.to_string(), standing, price)
}

fn reachable((index, to): (usize, &Destination)) -> Opening {
    opening(&format!("network.egress[{index}]"), &to.to_string(), Standing::Loosening, 2)
}

fn reachable_by_name(to: &Named) -> Opening {
    opening(&format!("network.egress[\"{to}\"]"), &to.to_string(), Standing::Loosening, 2)
}

/// Named ones are what it is for; whoever is meant by a pattern nobody has looked at.
fn talks(key: &str, peers: &[Allowed]) -> Vec<Opening> {
    let one = |(index, peer): (usize, &Allowed)| {
        let (standing, price) = if peer.is_pattern() { (Standing::Loosening, 3) } else { (Standing::Use, 1) };
        opening(&format!("{key}[{index}]"), &peer.to_string(), standing, price)
    };
    peers.iter().enumerate().map(one).collect()
}

fn published((index, publish): (usize, &Publish)) -> Opening {
    let (standing, price) = match publish.address {
        address if address.is_loopback() => (Standing::Use, 1),
        address if address.is_unspecified() => (Standing::Loosening, 3),
        _ => (Standing::Loosening, 2),
    };
    opening(&format!("network.publish[{index}]"), &publish.to_string(), standing, price)
}
