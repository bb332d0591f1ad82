//! Why a launch failed, in the words of the plan.

use serde::{Deserialize, Serialize};

use crate::{
    net::NetError,
    plan::{self, ChildStep, HostStep, render},
    spec::{Socket, UnitName, condition::Check},
    sys::SysError,
};

/// What went wrong in one host step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A system call.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// Something of the network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A sandbox cannot have the user namespace, or another, that its file asks for.
    #[error("{cause}: {why}")]
    NoNamespace {
        /// What the kernel said.
        cause: SysError,
        /// What that means here.
        why: String,
    },
    /// A service whose namespace is joined.
    #[error("{0} is not running")]
    NotRunning(UnitName),
    /// A credential that cannot be had.
    #[error("{name:?}: {reason}")]
    Credential {
        /// Its name.
        name: String,
        /// Why, without a word of what it holds.
        reason: String,
        /// The kind of trouble.
        errno: i32,
    },
}

impl StepError {
    fn call(&self) -> &'static str {
        match self {
            StepError::Sys(error) | StepError::NoNamespace { cause: error, .. } => error.call,
            StepError::Net(_) | StepError::NotRunning(_) | StepError::Credential { .. } => "",
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            StepError::Sys(error) | StepError::NoNamespace { cause: error, .. } => Some(error.errno),
            StepError::Net(error) => error.errno(),
            StepError::NotRunning(_) => Some(libc::ESRCH),
            StepError::Credential { errno, .. } => Some(*errno),
        }
    }
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// What is short now may be there later.
    Later,
    /// It fails until somebody changes a file or the host.
    Never,
}

/// A failed launch; kept and shown for as long as it is the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFault {
    /// `host step 4 publish`.
    pub step: String,
    /// What the step was about.
    pub object: String,
    /// What went wrong.
    pub error: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether trying again can help.
    pub retry: Retry,
    /// What could not be undone, which is worth a look of its own.
    pub cleanup: Vec<String>,
    /// The error number, where there is one.
    pub errno: Option<i32>,
}

impl LaunchFault {
    pub(super) fn host(number: usize, step: &HostStep, error: &StepError, cleanup: Vec<String>) -> Box<Self> {
        let (name, object) = render::host(step);
        let errno = error.errno();
        let (hint, retry) = match error {
            StepError::NoNamespace { .. } => (Some(NO_NAMESPACE), Retry::Never),
            _ => (errno.and_then(|errno| hint(name, error.call(), errno)), retry(errno)),
        };
        Box::new(Self {
            step: format!("host step {number} {name}"),
            object,
            error: error.to_string(),
            hint: hint.map(str::to_owned),
            retry,
            cleanup,
            errno,
        })
    }

    /// The init said that a step of its plan failed.
    pub fn child(number: usize, step: Option<&ChildStep>, errno: i32) -> Box<Self> {
        let (number, item) = plan::place(number);
        let (name, mut object) = step.map_or(("plan", String::new()), render::child);
        // Of all that the step reads back, what was not as it should be.
        if let Some(ChildStep::Attest(items)) = step
            && let Some(item) = item.checked_sub(1).and_then(|n| items.get(n))
        {
            object = item.to_string();
        }
        let error = SysError::new(call(name), object.clone(), errno);
        Box::new(Self {
            step: format!("child step {number} {name}"),
            object,
            error: error.to_string(),
            hint: hint(name, call(name), errno).map(str::to_owned),
            retry: retry(Some(errno)),
            cleanup: Vec::new(),
            errno: Some(errno),
        })
    }

    /// Something that is not there to be had, before any step was done.
    pub fn refused(what: &str, error: &str) -> Box<Self> {
        Box::new(Self {
            step: what.to_owned(),
            object: String::new(),
            error: error.to_owned(),
            hint: None,
            retry: Retry::Never,
            cleanup: Vec::new(),
            errno: None,
        })
    }

    /// `unit.assert`: the host is not what the service's file wants it to be.
    pub fn asserted(check: &Check) -> Box<Self> {
        Self::refused("unit.assert", &format!("{check} does not hold"))
    }

    /// A socket that is to listen before the launch, and after it.
    pub fn listen(socket: &Socket, error: NetError) -> Box<Self> {
        let mut fault = Self::before("listen", &StepError::Net(error));
        fault.object = socket.to_string();
        fault.hint = fault.errno.and_then(|errno| hint("listen", "", errno)).map(str::to_owned);
        fault
    }

    /// Something that is not there to be had now, before any step was done.
    pub fn passing(what: &str, error: &SysError) -> Box<Self> {
        Self::before(what, &error.clone().into())
    }

    /// A part of a step that is done before there is a plan to number it in.
    pub(super) fn before(step: &str, error: &StepError) -> Box<Self> {
        let mut fault = Self::refused(step, &error.to_string());
        fault.errno = error.errno();
        fault.retry = retry(fault.errno);
        fault
    }

    /// The init ended before it had started the service.
    pub fn init_died() -> Box<Self> {
        Box::new(Self {
            step: "child steps".into(),
            object: String::new(),
            error: "the sandbox's PID 1 ended before the service was started".into(),
            hint: None,
            retry: Retry::Later,
            cleanup: Vec::new(),
            errno: None,
        })
    }

    /// The exit status of `palisade run` for this fault: 126 and 127 as a shell has them, 125 for all that is ours.
    pub fn exit_code(&self) -> u8 {
        match self.errno {
            Some(libc::ENOENT) if self.step.ends_with(" exec") => 127,
            Some(_) if self.step.ends_with(" exec") => 126,
            _ => 125,
        }
    }
}

impl std::fmt::Display for LaunchFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)?;
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        for error in &self.cleanup {
            write!(f, "; while undoing: {error}")?;
        }
        Ok(())
    }
}

/// What to do without a namespace.
const NO_NAMESPACE: &str = "allow it on the host; a service that is to do without a user namespace has to say \
     `namespaces.user = \"off\"`, with a `service.user` of the host";

/// What it means that the kernel did not make namespaces. `limits` are those of /proc/sys/user that are 0.
pub(super) fn no_namespace(cause: SysError, has_user: bool, limits: &[String]) -> StepError {
    let why = match (cause.errno, has_user, limits) {
        (libc::ENOSPC, _, [_, ..]) => {
            format!("the host allows none: user.{} = 0", limits.join(" = 0, user."))
        }
        (libc::EPERM, true, _) => {
            "user namespaces are denied to palisade, by a security module or whoever started it".to_owned()
        }
        (libc::EINVAL, true, _) => "this kernel has no user namespaces".to_owned(),
        (libc::EUSERS, true, _) => "palisade itself is too deep in user namespaces".to_owned(),
        _ => return cause.into(),
    };
    StepError::NoNamespace { cause, why }
}

/// The system call that a child step is named after in messages.
fn call(step: &str) -> &'static str {
    match step {
        "exec" => "execve",
        "working_dir" => "chdir",
        "user" => "lookup",
        "hostname" => "sethostname",
        "proc" => "mount",
        "pivot_root" => "pivot_root",
        "capabilities" => "capset",
        "seccomp" => "seccomp",
        "bounding_set" => "prctl",
        "attest" => "read back",
        "connect" => "connect",
        "exists" => "access",
        _ => "step",
    }
}

fn retry(errno: Option<i32>) -> Retry {
    match errno {
        None
        | Some(
            libc::EAGAIN
            | libc::ENOMEM
            | libc::EBUSY
            | libc::ENOSPC
            | libc::EMFILE
            | libc::ENFILE
            | libc::EEXIST
            | libc::ESRCH
            // Whoever has the port may let it go.
            | libc::EADDRINUSE,
        ) => Retry::Later,
        Some(_) => Retry::Never,
    }
}

// Of macvlan and ipvlan alike.
const NO_PARENT: &str = "network.parent names no link that the host has: see `ip link`";
const BUSY_PARENT: &str = "network.parent belongs to a bridge, a bond or another kind of such links: name that one, or one that is free";
const BAD_PARENT: &str = "network.parent cannot carry such links, or not with this network.mtu";

/// (step, call or nothing for any, error number) to what to do about it. One table, so that every hint is written once.
const HINTS: &[(&str, &str, i32, &str)] = &[
    (
        "seccomp",
        "",
        libc::EINVAL,
        "this kernel cannot filter system calls (CONFIG_SECCOMP_FILTER), and nothing is started without a filter",
    ),
    (
        "seccomp",
        "",
        libc::ENOSYS,
        "this kernel cannot filter system calls, or what runs Palisade denies it: nothing is started without a filter",
    ),
    (
        "bandwidth",
        "",
        libc::ENOENT,
        "this kernel has no token bucket filter (CONFIG_NET_SCH_TBF; `modprobe sch_tbf`): nothing starts without a bound that its file asks for, so provide it or leave network.bandwidth out",
    ),
    (
        "cgroup.limit",
        "open",
        libc::ENOENT,
        "the kernel has no such limit here: leave the key of [limits] out, or hand its controller down to Palisade's group (`Delegate=yes`)",
    ),
    ("cgroup.limit", "stat", libc::ENOENT, "limits.io.max names a device that does not exist"),
    (
        "cgroup.limit",
        "stat",
        libc::ENOTBLK,
        "limits.io.max needs a block device, or a path on a file system that lies on one",
    ),
    ("cgroup.limit", "write", libc::ENODEV, "limits.io.max names no whole disk that can be bounded"),
    (
        "cgroup.limit",
        "cpuset.cpus.effective",
        libc::EINVAL,
        "limits.cpu.pin names CPUs that are offline, or that the groups above Palisade's do not have",
    ),
    (
        "rlimits.raise",
        "",
        libc::EPERM,
        "limits.rlimits asks for more than Palisade may give: raise its own limits",
    ),
    (
        "ns.join",
        "",
        libc::ESRCH,
        "a namespace can only be joined while its owner runs under the same supervisor: start that service first",
    ),
    (
        "macvlan.create",
        "",
        libc::EOPNOTSUPP,
        "this kernel has no macvlan (CONFIG_MACVLAN; `modprobe macvlan`): provide it, or choose another network.mode",
    ),
    ("macvlan.create", "", libc::ENODEV, NO_PARENT),
    ("macvlan.create", "", libc::EBUSY, BUSY_PARENT),
    ("macvlan.create", "", libc::EINVAL, BAD_PARENT),
    (
        "ipvlan.create",
        "",
        libc::EOPNOTSUPP,
        "this kernel has no ipvlan (CONFIG_IPVLAN; `modprobe ipvlan`): provide it, or choose another network.mode",
    ),
    ("ipvlan.create", "", libc::ENODEV, NO_PARENT),
    ("ipvlan.create", "", libc::EBUSY, BUSY_PARENT),
    ("ipvlan.create", "", libc::EINVAL, BAD_PARENT),
    (
        "netns.join",
        "",
        libc::ESRCH,
        "a network can only be joined while its service is up under the same supervisor: start that service first",
    ),
    (
        "exec",
        "",
        libc::ENOENT,
        "the program, or the interpreter that it asks for, does not exist inside the sandbox: it sees the root of rootfs.base and rootfs.mounts",
    ),
    (
        "exec",
        "",
        libc::EACCES,
        "the program is not executable for the service's user, or lies on a noexec mount: exec = true in rootfs.mounts",
    ),
    (
        "exec",
        "",
        libc::ENOEXEC,
        "the program is neither an executable of this machine nor a script with a #! line",
    ),
    ("listen", "", libc::EADDRINUSE, "stop who has it, or listen elsewhere"),
    ("listen", "", libc::EADDRNOTAVAIL, "this host does not have the address that socket.listen names"),
    (
        "listen",
        "",
        libc::EACCES,
        "ports below 1024 are root's alone; of a path, its directory is somebody else's",
    ),
    (
        "listen",
        "",
        libc::ELOOP,
        "socket.listen leads through a symbolic link: write the path that it points to",
    ),
    (
        "working_dir",
        "",
        libc::ENOENT,
        "service.working_dir does not exist inside the sandbox: rootfs.mounts brings a directory of the host there",
    ),
    (
        "user",
        "",
        libc::ENOENT,
        "the sandbox's /etc/passwd or /etc/group does not know the name in service.user or service.group",
    ),
    (
        "user",
        "",
        libc::EPERM,
        "the sandbox's /etc/passwd says that service.user is root: mend it, or write user = \"root\" if that is meant",
    ),
    ("root.dir", "", libc::ENOENT, "rootfs.dir does not exist on the host"),
    ("root.dir", "", libc::ENOTDIR, "rootfs.dir is not a directory"),
    (
        "root.dir",
        "",
        libc::ELOOP,
        "rootfs.dir leads through a symbolic link: write the path that it points to",
    ),
    (
        "root.dir",
        "mount_setattr",
        libc::EINVAL,
        "the file system of rootfs.dir cannot be id-mapped on this kernel: move the tree to ext4, xfs or btrfs, or set namespaces.user = \"off\"",
    ),
    (
        "root.bind",
        "",
        libc::ENOENT,
        "rootfs.mounts names a source that does not exist; optional = true passes over it",
    ),
    (
        "root.bind",
        "",
        libc::ELOOP,
        "a source of rootfs.mounts leads through a symbolic link: write the path that it points to",
    ),
    (
        "root.bind",
        "",
        libc::EROFS,
        "the mount point does not exist and the root is read-only: make it, or set rootfs.writable",
    ),
    (
        "root.bind",
        "mount_setattr",
        libc::EINVAL,
        "the file system of the source cannot be id-mapped on this kernel: set idmap = false",
    ),
    (
        "root.bind",
        "",
        libc::EPERM,
        "a writable mount must belong to a user and a group other than root: `chown USER: SOURCE`",
    ),
    (
        "root.tmpfs",
        "",
        libc::EROFS,
        "the mount point does not exist and the root is read-only: make it, or set rootfs.writable",
    ),
    ("root.dev", "device node", libc::ENOTBLK, "security.devices and rootfs.dev take device nodes alone"),
    (
        "root.dev",
        "device node",
        libc::EINVAL,
        "security.devices needs the user's number: write service.user as one",
    ),
    (
        "root.dev",
        "",
        libc::ELOOP,
        "a path in security.devices or rootfs.dev is a symbolic link: write the path that it points to",
    ),
    (
        "sysfs",
        "",
        libc::EPERM,
        "the host's /sys is not mounted, or parts of it are hidden: mount it, or set rootfs.sys = \"none\"",
    ),
    (
        "bounding_set",
        "",
        libc::EPROTO,
        "this kernel, or the bounding set of palisade itself, lacks one of security.capabilities",
    ),
    ("capabilities", "", libc::EPERM, "palisade itself does not have every one of security.capabilities"),
    (
        "root.sysfs",
        "",
        libc::EPERM,
        "a /sys with masked parts, as containers and sandboxes have it, cannot be mounted anew: set rootfs.sys = \"none\"",
    ),
    (
        "proc",
        "",
        libc::EPERM,
        "a /proc with masked parts, as containers and sandboxes have it, cannot be mounted anew: in a sandbox of Palisade's own that takes namespaces.nested = true, elsewhere rootfs.proc = \"none\"",
    ),
    (
        "attest",
        "",
        libc::EPROTO,
        "the kernel says otherwise than the plan: nothing was executed; if nobody works on the service's root at this moment, this is a bug",
    ),
    (
        "attest",
        "",
        libc::ENOENT,
        "something else lies over this mount point, or somebody has taken it away: look at what rootfs.mounts and rootfs.tmpfs put above each other",
    ),
    (
        "apparmor",
        "",
        libc::ENOENT,
        "no such profile is loaded: apparmor_parser(8) loads one, aa-status(8) lists them",
    ),
    (
        "sched",
        "sched_setscheduler",
        libc::EPERM,
        "palisade itself may not give realtime (CAP_SYS_NICE), or the control group has none to give (cpu.rt_runtime_us)",
    ),
    (
        "sched",
        "ioprio_set",
        libc::EPERM,
        "palisade itself may not give this class of I/O: it takes CAP_SYS_NICE",
    ),
    (
        "sched",
        "setpriority",
        libc::EACCES,
        "palisade itself may not give a niceness below its own: it takes CAP_SYS_NICE",
    ),
    (
        "veth.create",
        "RTM_NEWNEIGH",
        libc::EEXIST,
        "another service on that network.bridge has this hardware address: give it another `network.mac`",
    ),
    (
        "veth.create",
        "RTM_NEWLINK",
        libc::EOPNOTSUPP,
        "this kernel cannot make such a link (CONFIG_VETH, and CONFIG_BRIDGE for network.bridge; `modprobe veth bridge`): provide it, or write network.mode = \"none\"",
    ),
    (
        "veth.create",
        "",
        libc::EPROTONOSUPPORT,
        "the kernel has no nf_tables (CONFIG_NF_TABLES_INET, NFT_NAT, NFT_MASQ, NFT_FIB_INET, as modules or built in): without it nothing keeps services apart, and network.mode = \"none\" is what there is",
    ),
    ("selinux", "", libc::EINVAL, "the loaded policy knows no such label"),
    (
        "user_namespaces",
        "",
        libc::EROFS,
        "/proc/sys is read-only where Palisade runs, as in most containers: give it a writable one, or set namespaces.nested = true",
    ),
    ("idmap.create", "", libc::ENOSPC, "the host's limit of namespaces is reached: see /proc/sys/user"),
    ("clone", "", libc::ENOSPC, "the host's limit of namespaces is reached: see /proc/sys/user"),
    (
        "root.dir",
        "fsconfig",
        libc::EINVAL,
        "the state directory lies on a file system that cannot hold the upper layer of an overlay, such as another overlay",
    ),
];

fn hint(step: &str, call: &str, errno: i32) -> Option<&'static str> {
    let fits = |(name, of, number, _): &&(&str, &str, i32, &str)| {
        *name == step && *number == errno && (of.is_empty() || *of == call)
    };
    HINTS.iter().find(fits).map(|(.., hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_user_namespaces_is_told_what_to_write() {
        let said = |errno, has_user, limits: &[String]| {
            let error = no_namespace(SysError::new("clone3", "flags", errno), has_user, limits);
            LaunchFault::host(3, &HostStep::Clone(vec!["mnt", "user"]), &error, Vec::new())
        };
        let none = said(libc::ENOSPC, true, &["max_user_namespaces".to_owned()]);
        assert!(none.to_string().contains("the host allows none: user.max_user_namespaces = 0"), "{none}");
        assert!(none.to_string().contains("`namespaces.user = \"off\"`"), "{none}");
        assert_eq!(none.retry, Retry::Never);
        for errno in [libc::EPERM, libc::EINVAL, libc::EUSERS] {
            let fault = said(errno, true, &[]);
            assert!(fault.hint.as_deref().is_some_and(|hint| hint.contains("off")), "{fault}");
        }
        // A limit that is reached is not one that is 0, and without a user namespace nobody speaks of one.
        assert_eq!(said(libc::ENOSPC, true, &[]).retry, Retry::Later);
        assert!(!said(libc::EPERM, false, &[]).to_string().contains("off"));
    }

    #[test]
    fn a_kernel_without_the_token_bucket_is_named() {
        let bandwidth = crate::spec::Bandwidth { ingress: Some(1_000), ..Default::default() };
        let cause = SysError::new("RTM_NEWQDISC", "\"ps0-0a\", tbf", libc::ENOENT);
        let error = NetError::Netlink { cause, text: "Specified qdisc kind is unknown".to_owned() };
        let fault = LaunchFault::host(5, &HostStep::Bandwidth(bandwidth), &error.into(), Vec::new());
        assert!(fault.to_string().contains("qdisc kind is unknown"), "{fault}");
        assert!(fault.to_string().contains("sch_tbf"), "{fault}");
        assert_eq!((fault.step.as_str(), fault.retry), ("host step 5 bandwidth", Retry::Never));
    }
}
