//! What the host is like, read once.

use std::{collections::BTreeMap, path::Path};

use rustix::process::Resource;

use crate::{
    cgroup,
    spec::{
        HostFacts, HostUser,
        limits::{Bounds, CpuSet, HostLimits, Rlimit},
    },
};

/// Reads the host's users, groups, name, and what can be limited in groups below `cgroup` (`[cgroup] path`).
pub fn gather(cgroup: Option<&Path>) -> HostFacts {
    HostFacts {
        users: users(&read("/etc/passwd")),
        groups: groups(&read("/etc/group")),
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        // systemd-resolved(8)
        resolv_conf: ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"].map(read).into(),
        cgroup_kill: cgroup::mount_point().is_ok_and(|mount| mount.is_some()),
        limits: limits(cgroup),
        landlock: super::landlock::version(),
        apparmor: read("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
        ipv6: Path::new("/proc/sys/net/ipv6/conf").exists(),
        // The kernel makes the directory where SELinux was initialised (selinuxfs, sel_fill_super).
        selinux: Path::new("/sys/fs/selinux").exists(),
        zone_exists: Some(|name| jiff::tz::TimeZone::get(name).is_ok()),
    }
}

fn limits(base: Option<&Path>) -> HostLimits {
    let (most, cpus) = cgroup::bounds(base);
    let total = read("/proc/meminfo").lines().find_map(|line| {
        let kib: u64 = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    });
    let cpus = cpus.unwrap_or_else(|| read("/sys/devices/system/cpu/online").trim().to_owned());
    let own = |(limit, ..): (Rlimit, &str, u32)| {
        let rustix::process::Rlimit { current, maximum } = rustix::process::getrlimit(resource(limit));
        (limit, Bounds { soft: current, hard: maximum })
    };
    HostLimits {
        memory: total.into_iter().chain(most).min().unwrap_or_default(),
        missing: cgroup::missing(base),
        cpus: CpuSet::parse(&cpus).unwrap_or_default(),
        rlimits: Rlimit::ALL.into_iter().map(own).collect(),
        can_raise: can_raise(),
        nr_open: read("/proc/sys/fs/nr_open").trim().parse().unwrap_or_default(),
    }
}

/// CAP_SYS_RESOURCE in the user namespace of the host: prlimit(2) asks for it there.
fn can_raise() -> bool {
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let map = read("/proc/self/uid_map");
    let is_host = map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    is_host && effective & (1 << CAP_SYS_RESOURCE) != 0
}

/// linux/capability.h
const CAP_SYS_RESOURCE: u32 = 24;

/// A limit as rustix calls it.
pub fn resource(limit: Rlimit) -> Resource {
    match limit {
        Rlimit::As => Resource::As,
        Rlimit::Core => Resource::Core,
        Rlimit::Cpu => Resource::Cpu,
        Rlimit::Data => Resource::Data,
        Rlimit::Fsize => Resource::Fsize,
        Rlimit::Locks => Resource::Locks,
        Rlimit::Memlock => Resource::Memlock,
        Rlimit::Msgqueue => Resource::Msgqueue,
        Rlimit::Nice => Resource::Nice,
        Rlimit::Nofile => Resource::Nofile,
        Rlimit::Nproc => Resource::Nproc,
        Rlimit::Rss => Resource::Rss,
        Rlimit::Rtprio => Resource::Rtprio,
        Rlimit::Rttime => Resource::Rttime,
        Rlimit::Sigpending => Resource::Sigpending,
        Rlimit::Stack => Resource::Stack,
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn users(text: &str) -> BTreeMap<String, HostUser> {
    let user = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some((name.to_owned(), HostUser { uid, gid, home: home.to_owned(), shell: shell.to_owned() }))
    };
    text.lines().filter_map(user).collect()
}

fn groups(text: &str) -> BTreeMap<String, (u32, Vec<String>)> {
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
        Some((name.to_owned(), (gid.parse().ok()?, members)))
    };
    text.lines().filter_map(group).collect()
}
