//! The Landlock domain of a sandbox: a second wall inside the first, made of the same mounts.
//!
//! Below each mount the domain allows what the mount allows. It holds where the first wall does not: a directory of the
//! host that leaks in as a descriptor, or is reached through somebody's /proc/PID/root, lies below no rule. What it cannot say
//! is "not here": a rule for a directory holds for everything below it, so a writable root leaves read-only mounts to their
//! mount flags. The init enters it before it forks, so the service and all its sessions are in one domain: they may
//! trace and signal each other, and nobody beyond.

use std::path::PathBuf;

use crate::spec::{Base, Capability, Landlock as Wanted, Namespace, Unit, Writable};

// linux/landlock.h
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
const SCOPE_ABSTRACT_UNIX: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

const READ: u64 = READ_FILE | READ_DIR;
const WRITE: u64 = WRITE_FILE
    | TRUNCATE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_SYM
    | REFER;
/// What a rule for something that is no directory may have.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landlock {
    /// The version of the interface that it is written for.
    pub version: u32,
    /// Rights on files that are denied where no rule allows them.
    pub handled: u64,
    /// Whom nobody beyond the domain can be reached by: abstract sockets, signals.
    pub scoped: u64,
    /// Where something is allowed.
    pub rules: Vec<Rule>,
    /// What standard input names may be read: it may lie outside, and be opened again by its name in /proc/self/fd.
    pub stdin: bool,
    /// Flags of landlock_restrict_self(2): from Linux 6.15 on the audit log tells of what the service is denied, and not of what
    /// the init is.
    pub logged: u32,
    /// POSIX message queues may be opened: the sandbox's own, which lie in a file system that is mounted nowhere.
    pub queues: bool,
}

/// What is allowed at and below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Inside.
    pub path: PathBuf,
    /// `LANDLOCK_ACCESS_FS_*`.
    pub access: u64,
    /// It may be something else than a directory.
    pub may_be_file: bool,
}

impl Rule {
    /// The part that the kernel takes for what is no directory.
    pub fn of_files(&self) -> u64 {
        self.access & OF_FILES
    }
}

impl Landlock {
    /// The right on standard input.
    pub const STDIN: u64 = READ_FILE;
    /// The rights on message queues.
    pub const QUEUES: u64 = READ_FILE | WRITE_FILE;
}

/// The domain of `unit` on a kernel with this version of the interface; none where there is to be none.
pub(super) fn landlock(unit: &Unit, version: u32) -> Option<Landlock> {
    if version == 0 || absent(unit).is_some() {
        return None;
    }
    let known = match version {
        1 => REFER - 1,
        2 => TRUNCATE - 1,
        3 | 4 => IOCTL_DEV - 1,
        _ => (IOCTL_DEV << 1) - 1,
    };
    let scoped = match version {
        0..6 => 0,
        // Where pids are shared on purpose, signalling the others is what it is for.
        _ if unit.namespaces.pid != Namespace::Own => SCOPE_ABSTRACT_UNIX,
        _ => SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL,
    };
    let mut rules = rules(unit);
    for rule in &mut rules {
        rule.access &= known;
    }
    let queues = unit.namespaces.ipc == Namespace::Own;
    // LOG_SAME_EXEC_OFF and LOG_NEW_EXEC_ON
    let logged = if version >= 7 { 1 | 2 } else { 0 };
    Some(Landlock { version, handled: known, scoped, rules, stdin: !unit.service.tty, logged, queues })
}

/// Which key of the service's file has it that there is no domain.
pub(super) fn absent(unit: &Unit) -> Option<&'static str> {
    let is_auto = unit.security.landlock == Wanted::Auto;
    match unit.security.landlock {
        Wanted::Off => Some("security.landlock"),
        // Inside a domain nothing can be mounted, whatever one's capabilities (landlock(7)).
        _ if unit.namespaces.nested => Some("namespaces.nested"),
        _ if is_auto && unit.security.capabilities.contains(&Capability::SYS_ADMIN) => Some("CAP_SYS_ADMIN"),
        _ => None,
    }
}

fn rules(unit: &Unit) -> Vec<Rule> {
    let rootfs = &unit.rootfs;
    let if_so = |wanted: bool, access: u64| if wanted { access } else { 0 };
    let writable = rootfs.writable != Writable::No;
    // In a sealed root of ours nothing lies but mount points and files of ours; whatever may be executed has a rule of its own.
    let executable = writable || matches!(rootfs.base, Base::Dir(_));
    let mut rules = Vec::new();
    let mut rule = |path: PathBuf, access: u64| rules.push(Rule { path, access, may_be_file: false });
    rule("/".into(), READ | if_so(executable, EXECUTE) | if_so(writable, WRITE));
    if rootfs.base == Base::Host {
        for dir in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            rule(dir.into(), READ | EXECUTE);
        }
    }
    // Nodes are written to and told things by ioctl(2); below /proc a process writes to files of its own.
    rule("/dev".into(), READ | WRITE_FILE | IOCTL_DEV);
    if rootfs.proc {
        rule("/proc".into(), READ | WRITE_FILE | TRUNCATE);
    }
    for tmpfs in &rootfs.tmpfs {
        rule(tmpfs.dst.clone(), READ | WRITE | if_so(tmpfs.exec, EXECUTE));
    }
    let mounts = rootfs.mounts.iter().filter(|mount| !mount.ro || mount.exec).map(|mount| Rule {
        path: mount.dst.clone(),
        access: READ | if_so(!mount.ro, WRITE) | if_so(mount.exec, EXECUTE),
        may_be_file: true,
    });
    rules.extend(mounts);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::parse_str, spec::HostFacts};

    const MAKE_CHAR: u64 = 1 << 6;
    const MAKE_BLOCK: u64 = 1 << 11;

    fn domain(keys: &str, version: u32) -> Option<Landlock> {
        let facts = HostFacts { landlock: version, cgroup_kill: true, ..HostFacts::default() };
        let text = format!("service.command = '/bin/web'\n{keys}\n");
        landlock(&parse_str("web", &text, &facts).unwrap(), version)
    }

    fn access(domain: &Landlock, path: &str) -> u64 {
        let rules = domain.rules.iter().filter(|rule| rule.path.as_os_str() == path);
        rules.fold(0, |all, rule| all | rule.access)
    }

    #[test]
    fn no_version_is_asked_for_a_right_that_it_does_not_know() {
        for (version, last) in
            [(1, MAKE_SYM), (2, REFER), (3, TRUNCATE), (4, TRUNCATE), (5, IOCTL_DEV), (9, IOCTL_DEV)]
        {
            let domain = domain("rootfs.tmpfs = [{ dst = '/x', exec = true }]", version).unwrap();
            assert_eq!(domain.handled, (last << 1) - 1, "version {version}");
            for rule in &domain.rules {
                assert_eq!(rule.access & !domain.handled, 0, "{rule:?}, version {version}");
            }
            assert_eq!(domain.scoped != 0, version >= 6);
        }
    }

    #[test]
    fn every_right_is_handled_and_devices_are_made_nowhere() {
        let domain =
            domain("rootfs.writable = 'ephemeral'\nrootfs.base = 'dir'\nrootfs.dir = '/srv/x'", 7).unwrap();
        for right in 0..16 {
            assert_ne!(domain.handled & 1 << right, 0, "right {right}");
        }
        for rule in &domain.rules {
            assert_eq!(rule.access & (MAKE_CHAR | MAKE_BLOCK), 0, "{rule:?}");
        }
    }

    #[test]
    fn only_what_is_mounted_writable_is_written_and_only_what_is_executable_executed() {
        let keys = "rootfs.mounts = [{ src = '/a', dst = '/a' }, { src = '/b', dst = '/b', ro = false }, \
                    { src = '/c', dst = '/c', exec = true }]";
        let domain = domain(keys, 7).unwrap();
        assert_eq!(access(&domain, "/"), READ);
        assert_eq!(access(&domain, "/a"), 0, "what is read-only has the root's rights");
        assert_eq!(access(&domain, "/b"), READ | WRITE);
        assert_eq!(access(&domain, "/c"), READ | EXECUTE);
        assert_eq!(access(&domain, "/tmp"), READ | WRITE);
        assert_eq!(access(&domain, "/usr"), READ | EXECUTE);
    }

    #[test]
    fn there_is_none_where_the_file_or_the_kernel_says_so() {
        assert_eq!(domain("", 0), None);
        assert_eq!(domain("security.landlock = 'off'", 7), None);
        assert_eq!(domain("namespaces.nested = true", 7), None);
        let mounts = "security.capabilities = ['CAP_SYS_ADMIN']";
        assert_eq!(domain(mounts, 7), None, "it may mount");
        assert!(domain(&format!("{mounts}\nsecurity.landlock = 'require'"), 7).is_some());
        let joined = domain("namespaces.pid = 'host'", 7).unwrap();
        assert_eq!(joined.scoped, SCOPE_ABSTRACT_UNIX);
        assert!(joined.queues && !domain("namespaces.ipc = 'host'", 7).unwrap().queues);
    }
}
