//! What the host is like, read once.

use std::{collections::BTreeMap, path::Path};

use crate::spec::{HostFacts, HostUser};

/// Reads the host's users, groups, name and control groups.
pub fn gather() -> HostFacts {
    HostFacts {
        users: users(&read("/etc/passwd")),
        groups: groups(&read("/etc/group")),
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
        // systemd-resolved(8)
        resolv_conf: ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"].map(read).into(),
        cgroup_kill: crate::cgroup::mount_point().is_some(),
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
