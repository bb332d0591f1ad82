//! `palisade run` by an ordinary user: the way into a user namespace in which Palisade is root.
//!
//! A process that does nothing is born into the new namespaces and holds them; from outside its maps are written and the
//! program that carries packets is started, because nobody comes back out. Then this process enters for good. When it
//! dies, however it dies, both end: the holder with its channel, the program by a signal of the kernel's.

use std::{
    net::IpAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sched::{CloneFlags, setns};

use super::{LaunchFault, channel, reap, user_link};
use crate::{
    cgroup,
    config::Settings,
    init,
    net::{
        self,
        addr::{METADATA4, Prefix4},
        link,
        netlink::Netlink,
        netns, nft,
    },
    plan::unprivileged::{Caller, Carrier, Unprivileged, UserLink},
    rootfs::{IdRange, write_id_maps},
    spec::HostFacts,
    sys::{
        SysError,
        clone::{self, Spawn},
        file, ids,
    },
};

/// Whether we are less than root of the host.
///
/// # Errors
/// Of [`ids::is_hosts_root`].
pub fn is_unprivileged() -> Result<bool, SysError> {
    Ok(!ids::is_hosts_root()?)
}

/// The control groups, where a service manager has given the running user some to make groups in.
///
/// # Errors
/// Of [`cgroup::mount_point`].
pub fn tree(settings: &Settings) -> Result<Option<cgroup::Tree>, SysError> {
    Ok(cgroup::Tree::find(settings.cgroup.as_deref())?.filter(cgroup::Tree::is_delegated))
}

/// Looks at what the running user has.
pub fn caller(facts: &HostFacts, tree: Option<&cgroup::Tree>) -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let has_maps = program("newuidmap").is_some() && program("newgidmap").is_some();
    let name = facts.users.iter().find(|(_, user)| user.uid == uid).map(|(name, _)| name.as_str());
    let first = |path| subordinate(&std::fs::read_to_string(path).unwrap_or_default(), name, uid);
    Caller {
        uid,
        gid,
        subordinate: first("/etc/subuid").zip(first("/etc/subgid")).filter(|_| has_maps),
        carrier: [Carrier::Pasta, Carrier::Slirp4netns]
            .into_iter()
            .find_map(|carrier| Some((carrier, program(carrier.name())?))),
        first_port: net::sysctl::get("ipv4/ip_unprivileged_port_start")
            .ok()
            .and_then(|port| port.parse().ok())
            .unwrap_or(1024),
        has_cgroup: tree.is_some(),
        has_groups: rustix::process::getgroups()
            .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() != gid)),
    }
}

/// subuid(5): the first range of 65536 ids of a user, who is named by name or number.
fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Option<u32> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let count: u32 = count.parse().ok()?;
        (Some(owner) == name || owner == uid.to_string()).then_some(())?;
        (count >= 65_536).then_some(first.parse::<u32>().ok()?)
    };
    text.lines().find_map(range)
}

/// Not by PATH, which may lead anywhere: a program that is given our namespaces.
fn program(name: &str) -> Option<PathBuf> {
    let dirs = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
    dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// The run-time directory of an ordinary user: below $XDG_RUNTIME_DIR, else one in /tmp that nobody else can enter.
///
/// # Errors
/// Somebody else has made one of that name.
pub fn run_dir() -> Result<PathBuf, SysError> {
    let uid = rustix::process::geteuid().as_raw();
    let is_ours = |path: &Path| {
        std::fs::symlink_metadata(path)
            .is_ok_and(|data| data.is_dir() && data.uid() == uid && data.mode() & 0o022 == 0)
    };
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    if let Some(dir) = given.into_iter().chain([usual]).find(|dir| dir.is_absolute() && is_ours(dir)) {
        return Ok(dir.join("palisade"));
    }
    let dir = PathBuf::from(format!("/tmp/palisade-{uid}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
    match made {
        Ok(()) => Ok(dir),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_ours(&dir) => Ok(dir),
        Err(error) => {
            let args = format!("{}: set XDG_RUNTIME_DIR to a directory of your own", dir.display());
            Err(SysError::new("mkdir", args, error))
        }
    }
}

/// The persistent state of an ordinary user.
pub fn state_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || absolute("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".local/state");
    absolute("XDG_STATE_HOME").unwrap_or_else(home).join("palisade")
}

/// The namespaces that this process has entered, and what must live as long as it.
#[derive(Debug)]
pub struct Entered {
    holder: clone::Child,
    channel: Option<OwnedFd>,
    carrier: Option<user_link::Running>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.carrier = None;
        self.channel = None;
        reap(&self.holder.pidfd);
    }
}

/// Enters a user namespace, and with it a network namespace, for good. `dir` is ours to put files in.
///
/// # Errors
/// What could not be had, with what the host would have to allow.
pub fn enter(made: &Unprivileged, dir: &Path, services: Prefix4) -> Result<Entered, Box<LaunchFault>> {
    let sys = |error: SysError| refused(&error);
    let (ours, theirs) = channel().map_err(sys)?;
    // While we still see them.
    let closed = closed(services).map_err(|error| LaunchFault::refused("user.link", &error.to_string()))?;
    let program = file::sealed("palisade-init", init::PID1).map_err(sys)?;
    let mut namespaces = libc::CLONE_NEWUSER;
    if made.has_netns {
        // Born together, the one owns the other: whoever is root of the first has power over the second.
        namespaces |= libc::CLONE_NEWNET;
    }
    let namespaces = u64::try_from(namespaces).unwrap_or_default();
    let spawn = Spawn { namespaces, cgroup: None, program: program.as_fd(), channel: theirs.as_fd() };
    let holder = clone::spawn(&spawn).map_err(sys)?;
    drop(theirs);
    let pid = holder.pid;
    let mut entered = Entered { holder, channel: Some(ours), carrier: None };
    map_ids(pid, made)?;
    if let Some(link) = &made.link {
        entered.carrier = Some(user_link::start(link, pid, dir)?);
    }
    let has_netns = made.has_netns.then_some(("net", CloneFlags::CLONE_NEWNET));
    let kinds = [("user", CloneFlags::CLONE_NEWUSER)].into_iter().chain(has_netns);
    // Both are opened before the first is entered: afterwards the holder is not ours to look at.
    let mut opened = Vec::new();
    for (name, flag) in kinds {
        let path = format!("/proc/{pid}/ns/{name}");
        let file = std::fs::File::open(&path).map_err(|error| sys(SysError::new("open", path, error)))?;
        opened.push((name, flag, file));
    }
    for (name, flag, file) in &opened {
        setns(file, *flag).map_err(|errno| sys(SysError::new("setns", *name, errno)))?;
    }
    // The change of credentials has made us somebody whom nobody may look at, /proc/self of our own included.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(|errno| sys(SysError::new("prctl", "PR_SET_DUMPABLE", errno)))?;
    if made.has_netns {
        netns::furnish().map_err(|error| {
            with_hint("netns.create", &error.to_string(), error.errno().unwrap_or(libc::EPERM))
        })?;
    }
    if let Some(link) = made.link.as_ref().filter(|link| link.has_address()) {
        nft::load(TABLE, &rules(link, &closed))
            .map_err(|error| LaunchFault::refused("user.link", &error.to_string()))?;
    }
    Ok(entered)
}

/// Says which knob of the host forbids it, where one does.
pub fn refused(error: &SysError) -> Box<LaunchFault> {
    with_hint("user.enter", &error.to_string(), error.errno)
}

fn with_hint(step: &str, error: &str, errno: i32) -> Box<LaunchFault> {
    let reads =
        |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let around = "something around us forbids user namespaces: a container, a security module, or a sandbox of Palisade's \
                  own, which then needs namespaces.nested = true";
    // A kernel of today has the call: a filter of system calls denies it, whatever the knobs say.
    let hint = if errno == libc::ENOSYS {
        around
    } else if reads("/proc/sys/user/max_user_namespaces", "0") {
        "user namespaces are switched off here: have root set user.max_user_namespaces, such as to 10000"
    } else if reads("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "ordinary users may not make user namespaces here: have root set kernel.unprivileged_userns_clone = 1"
    } else if reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor keeps user namespaces of ordinary users without power here: have root load a profile for palisade \
         that allows userns, or set kernel.apparmor_restrict_unprivileged_userns = 0"
    } else if errno == libc::ENOSPC {
        "no more user namespaces can be made here: see user.max_user_namespaces; they nest 32 deep"
    } else {
        around
    };
    let mut fault = LaunchFault::refused(step, error);
    fault.hint = Some(hint.to_owned());
    fault.errno = Some(errno);
    fault
}

fn map_ids(pid: u32, made: &Unprivileged) -> Result<(), Box<LaunchFault>> {
    if made.uids.len() == 1 && !rustix::process::geteuid().is_root() {
        // user_namespaces(7): who may drop no group may map his own.
        let path = format!("/proc/{pid}/setgroups");
        std::fs::write(&path, "deny").map_err(|error| refused(&SysError::new("write", path, error)))?;
    }
    if made.uids.len() == 1 {
        return write_id_maps(pid, &made.uids, &made.gids).map_err(|error| refused(&error));
    }
    for (name, ranges) in [("newuidmap", &made.uids), ("newgidmap", &made.gids)] {
        map_by(name, pid, ranges).map_err(|error| LaunchFault::refused("user.enter", &error))?;
    }
    Ok(())
}

fn map_by(name: &str, pid: u32, ranges: &[IdRange]) -> Result<(), String> {
    let path = program(name).ok_or_else(|| format!("{name} is not there any more"))?;
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let mut command = Command::new(path);
    command.arg(pid.to_string()).args(numbers.map(|number| number.to_string())).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name} refused the range of /etc/subuid and /etc/subgid: {}", said.trim()))
        }
    }
}

/// The packet filter of the service's network namespace.
const TABLE: &str = "palisade";

/// Where the service may not go whatever `egress` says: the host, root's services on it, and the metadata address.
fn closed(services: Prefix4) -> Result<Vec<String>, net::NetError> {
    let own = link::addresses(&mut Netlink::route()?)?;
    // IPv6 does not pass at all.
    let ipv4 = |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let own = own.into_values().flatten().filter_map(ipv4).filter(|address| !address.is_loopback());
    let mut closed: Vec<String> = ["127.0.0.0/8"].into_iter().chain(METADATA4).map(str::to_owned).collect();
    closed.push(services.to_string());
    closed.extend(own.filter(|address| !services.contains(*address)).map(|address| address.to_string()));
    closed.sort();
    closed.dedup();
    Ok(closed)
}

/// Nobody inside has power over it. What comes in was published; out goes only what answers it, or what `egress` allows.
fn rules(link: &UserLink, closed: &[String]) -> String {
    let egress = match link.egress {
        // Rule by rule: the elements of a set must not overlap.
        true => {
            let drops: String = closed.iter().map(|to| format!("\t\tip daddr {to} drop\n")).collect();
            format!("{drops}\t\tmeta nfproto ipv4 accept\n")
        }
        false => String::new(),
    };
    format!(
        "table inet {TABLE} {{\n\tchain output {{\n\t\ttype filter hook output priority filter; policy drop;\n\
         \t\toifname \"lo\" accept\n\t\tct state established,related accept\n{egress}\t}}\n}}\n"
    )
}
