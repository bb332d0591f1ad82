//! What is read back from the kernel before the program is executed: whatever the plan has put there, by the kernel's own
//! word. A difference refuses the start; what agreed is shown by `status`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{Assigned, ChildStep, Module, child, has_user_namespace, landlock, notifies, render, shows_sys};
use crate::{
    notify,
    spec::{Base, Dev, IoPrio, Namespace, NetworkMode, Sched, Unit, Writable, credential, security::mask},
};

/// One thing that is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested {
    /// This kind of namespace is the one that the supervisor sees its process in.
    Namespace(&'static str),
    /// `/` is the directory that the supervisor has put together.
    Root,
    /// What is found under a name is mounted with at least these flags.
    Mount(PathBuf, MountFlags),
    /// Real, effective, saved and file system user id.
    User,
    /// As `User`, of the group.
    Group,
    /// The supplementary groups, no more and no fewer.
    Groups,
    /// Effective, permitted and inheritable capabilities.
    Capabilities {
        /// Effective and permitted.
        held: u64,
        /// Inheritable.
        inheritable: u64,
    },
    /// The bounding set.
    Bounding(u64),
    /// The ambient set.
    Ambient(u64),
    /// Nothing that is executed gains privileges.
    NoNewPrivs,
    /// The policy of the scheduler, and the priority within it.
    Scheduler(Sched),
    /// The class and level of its I/O.
    IoPriority(IoPrio),
    /// The session keyring is an anonymous one of root's inside, not that of whoever started the supervisor.
    Keyring,
}

/// Flags of a mount, those that take something away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Read-only.
    pub ro: bool,
    /// No set-user-ID programs.
    pub nosuid: bool,
    /// No device nodes.
    pub nodev: bool,
    /// No programs.
    pub noexec: bool,
}

impl MountFlags {
    const NOSUID: Self = Self { ro: false, nosuid: true, nodev: false, noexec: false };
    const NODEV: Self = Self { nodev: true, ..Self::NOSUID };
    const CLOSED: Self = Self { ro: true, noexec: true, ..Self::NODEV };

    fn ro(self, ro: bool) -> Self {
        Self { ro: self.ro || ro, ..self }
    }

    fn noexec(self, noexec: bool) -> Self {
        Self { noexec: self.noexec || noexec, ..self }
    }
}

impl fmt::Display for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.ro, "ro"), (self.nosuid, "nosuid"), (self.nodev, "nodev"), (self.noexec, "noexec")];
        let set: Vec<&str> = all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
        f.write_str(&set.join(","))
    }
}

impl fmt::Display for Attested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attested::Namespace(kind) => return write!(f, "namespace:{kind}"),
            Attested::Scheduler(sched) => return write!(f, "sched {sched}"),
            Attested::IoPriority(ioprio) => return write!(f, "ioprio {ioprio}"),
            Attested::Mount(dst, flags) => return write!(f, "mount:{}={flags}", dst.display()),
            Attested::Root => "root",
            Attested::User => "user",
            Attested::Group => "group",
            Attested::Groups => "groups",
            Attested::Capabilities { .. } => "capabilities",
            Attested::Bounding(_) => "bounding_set",
            Attested::Ambient(_) => "ambient",
            Attested::NoNewPrivs => "no_new_privs",
            Attested::Keyring => "keyring",
        })
    }
}

/// The kinds of namespaces that are looked at, as /proc/PID/ns names them.
pub const NAMESPACES: [&str; 7] = ["mnt", "pid", "uts", "ipc", "cgroup", "user", "net"];

/// Those of them that are not the host's.
pub fn namespaces(unit: &Unit) -> Vec<&'static str> {
    let ns = &unit.namespaces;
    let kinds = [
        ("mnt", true),
        ("pid", ns.pid != Namespace::Host),
        ("uts", ns.uts != Namespace::Host),
        ("ipc", ns.ipc != Namespace::Host),
        ("cgroup", ns.cgroup != Namespace::Host),
        ("user", has_user_namespace(unit)),
        ("net", unit.network.mode != NetworkMode::Host),
    ];
    kinds.into_iter().filter(|(_, own)| *own).map(|(kind, _)| kind).collect()
}

/// What the process that becomes the service, or a session, reads back about itself.
pub(super) fn process(unit: &Unit, held: u64) -> Vec<Attested> {
    let ambient = mask(&unit.security.ambient);
    let mut all = vec![
        Attested::User,
        Attested::Group,
        Attested::Groups,
        Attested::Capabilities { held, inheritable: ambient },
        Attested::Bounding(mask(&unit.security.capabilities)),
        Attested::Ambient(ambient),
    ];
    // Otherwise the filter is in place by now, and denies to ask.
    if unit.security.no_new_privs {
        all.extend([Attested::Keyring, Attested::NoNewPrivs]);
        all.extend(unit.service.sched.map(Attested::Scheduler));
        // Of no class of its own the kernel tells what follows from the niceness.
        let ioprio = unit.service.ioprio.filter(|ioprio| *ioprio != IoPrio::None);
        all.extend(ioprio.map(Attested::IoPriority));
    }
    // Read through its own /proc; where it has none, those of its parent are, which it was born into.
    if unit.rootfs.proc {
        all.extend(namespaces(unit).into_iter().map(Attested::Namespace));
    }
    all
}

/// What the init reads back about the root.
pub(super) fn root(unit: &Unit, assigned: &Assigned, steps: &[ChildStep]) -> Vec<Attested> {
    let mut mounts = mounts(unit, shows_sys(unit, assigned), steps);
    if notifies(unit, assigned) {
        let dir = Path::new(notify::SOCKET).parent().expect("it is a path");
        mounts.push((dir.to_path_buf(), MountFlags::CLOSED));
    }
    let mounts = mounts.into_iter().map(|(dst, flags)| Attested::Mount(dst, flags));
    std::iter::once(Attested::Root).chain(mounts).collect()
}

/// What is mounted where, each with what lies over it taken into account.
fn mounts(unit: &Unit, shows_sys: bool, steps: &[ChildStep]) -> Vec<(PathBuf, MountFlags)> {
    let rootfs = &unit.rootfs;
    let nodev = MountFlags::NODEV;
    let mut all: Vec<(PathBuf, MountFlags)> = vec![("/".into(), nodev.ro(rootfs.writable == Writable::No))];
    if rootfs.base == Base::Host {
        all.push(("/usr".into(), nodev.ro(true)));
    }
    if matches!(rootfs.dev, Dev::Minimal(_)) {
        all.push(("/dev".into(), MountFlags::NOSUID.ro(true).noexec(true)));
    }
    if shows_sys {
        all.push(("/sys".into(), MountFlags::CLOSED));
    }
    all.extend(rootfs.tmpfs.iter().map(|tmpfs| (tmpfs.dst.clone(), nodev.noexec(!tmpfs.exec))));
    all.extend(rootfs.mounts.iter().map(|mount| (mount.dst.clone(), nodev.ro(mount.ro).noexec(!mount.exec))));
    if !unit.security.credentials.is_empty() {
        all.push((credential::directory(&unit.name), MountFlags::CLOSED));
    }
    // The later mount is what a name leads to.
    for n in (1..all.len()).rev() {
        let (later, dst) = (all[n..].to_vec(), all[n - 1].0.clone());
        if later.iter().any(|(over, _)| dst.starts_with(over) && dst.as_path() != std::path::Path::new("/")) {
            all.remove(n - 1);
        }
    }
    for path in &rootfs.read_only {
        for (_, flags) in all.iter_mut().filter(|(dst, _)| dst.starts_with(path)) {
            *flags = flags.ro(true);
        }
    }
    all.retain(|(dst, _)| !rootfs.hide.iter().any(|hidden| dst.starts_with(hidden)));
    let hidden = |path: &&PathBuf| !rootfs.hide.iter().any(|over| path != &over && path.starts_with(over));
    all.extend(rootfs.hide.iter().filter(hidden).map(|path| (path.clone(), MountFlags::CLOSED)));
    for step in steps {
        match step {
            ChildStep::Proc => {
                all.push(("/proc".into(), MountFlags { ro: false, ..MountFlags::CLOSED }));
            }
            ChildStep::ProcMask => all.push(("/proc/sys".into(), MountFlags::CLOSED)),
            ChildStep::DevPts(_) => all.push(("/dev/pts".into(), MountFlags::NOSUID.noexec(true))),
            ChildStep::CgroupFs => all.push(("/sys/fs/cgroup".into(), MountFlags::CLOSED)),
            _ => {}
        }
    }
    all
}

/// What holds of a sandbox whose service was executed, in words: for `status`.
pub fn attested<'a>(unit: &Unit, steps: impl Iterator<Item = &'a ChildStep>) -> Vec<String> {
    let mut all = Vec::new();
    let mut landlock = match landlock::absent(unit) {
        Some(key) => format!("none: {key}"),
        None => "none: this kernel has no Landlock, or it was not switched on at boot".to_owned(),
    };
    let mut namespaces: Vec<&str> = Vec::new();
    for step in steps {
        match step {
            ChildStep::Attest(items) => {
                for item in items {
                    match item {
                        Attested::Namespace(kind) if namespaces.contains(kind) => {}
                        Attested::Namespace(kind) => namespaces.push(kind),
                        Attested::Mount(dst, flags) => all.push(format!("{} {flags}", dst.display())),
                        other => all.push(other.to_string()),
                    }
                }
            }
            // These two read back what they have written.
            ChildStep::NoUserNamespaces { .. } => all.push("no user namespaces".to_owned()),
            ChildStep::Rlimits(_) => all.push("rlimits".to_owned()),
            ChildStep::Landlock(domain) => landlock = child::landlock_text(domain),
            ChildStep::Label(Module::AppArmor, label) => all.push(format!("apparmor {label}")),
            ChildStep::Label(Module::SeLinux, label) => all.push(format!("selinux {label}")),
            ChildStep::Seccomp(_) => all.push(format!("seccomp {}", render::child(step).1)),
            ChildStep::Recede { .. } => all.push("init not dumpable".to_owned()),
            _ => {}
        }
    }
    all.insert(0, format!("namespaces {}", namespaces.join(" ")));
    all.push(format!("landlock {landlock}"));
    all
}
