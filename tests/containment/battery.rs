//! The battery: every probe tries one way out, with real system calls, in a child of its own, and says what came of it.
//!
//! One line for each: `probe NAME ESCAPED|HELD|NA|BROKEN detail`. The same list runs inside sandboxes of ours, where none
//! may escape, and in a place without walls, where all must: a probe that cannot fail proves nothing.

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use nix::{errno::Errno, libc};

use crate::{
    escape, leak, limit, raw,
    raw::{Answer, End, call},
    reach, surface,
};

/// A row of the list of classes: what went wrong in sandboxes, and is tried here. What goes wrong before there is an
/// inside is tried elsewhere: roots, sources and users that are traps by `tests/sandbox/hostile.rs`, values that reach a
/// second parser by the loader's own tests and `tests/diagnostics.rs`, and parsers by `fuzz/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// The runtime's own program is overwritten.
    Executable,
    /// Descriptors, and the working directory, lead out.
    Descriptors,
    /// A process that joins is traced.
    Tracing,
    /// What is mounted is not what it seems: links in the root, a /dev or /proc of somebody else.
    FreshMounts,
    /// A /proc that is none.
    FakeProc,
    /// Masks and read-only views are undone.
    Masks,
    /// Host root behind the ids.
    HostRoot,
    /// Knobs of the kernel that run programs.
    Knobs,
    /// Control groups, of version 1 and 2.
    ControlGroups,
    /// Limits that get lost.
    LostLimits,
    /// Files by handle.
    Handles,
    /// Code and variables of the wrong side.
    Loading,
    /// Files with set-id bits for the host.
    SetIdFiles,
    /// Host files by name.
    HostFiles,
    /// Capabilities left over.
    Capabilities,
    /// Groups left over.
    Groups,
    /// Ids that are more than they seem.
    Ids,
    /// Steps that failed in silence.
    SilentSteps,
    /// Terminals as a way into the operator's shell.
    Terminal,
    /// Output as a way into the terminal of who reads the log.
    Output,
    /// The control socket.
    Control,
    /// The files that say what is run, and those that are remembered.
    Configuration,
    /// Programs that raise privileges.
    Privileged,
    /// Process numbers of others.
    Pids,
    /// What the caller's own supervisor gave to the caller.
    Readiness,
    /// Privileges that outlive the run.
    Persisted,
    /// Processes that outlive the run.
    Orphans,
    /// Sockets that a network namespace does not bound.
    Abstract,
    /// Others on the network.
    Neighbours,
    /// The host through its gateway address.
    Gateway,
    /// The metadata service and the world outside.
    Egress,
    /// New user namespaces.
    UserNamespaces,
    /// Parts of the kernel that no server uses.
    Surface,
    /// Other entries of the kernel.
    OtherEntries,
    /// Keyrings.
    Keyrings,
    /// Memory and queues of others.
    Ipc,
    /// Device nodes.
    Devices,
    /// Mounting.
    Mounts,
    /// Namespaces as handles.
    NamespaceHandles,
    /// Using everything up.
    Exhaustion,
    /// State of the caller's process.
    Inherited,
    /// The sandbox's own PID 1.
    Init,
    /// What a service should not know.
    Knowledge,
}

impl Row {
    /// All of them.
    pub const ALL: [Row; 43] = [
        Row::Executable,
        Row::Descriptors,
        Row::Tracing,
        Row::FreshMounts,
        Row::FakeProc,
        Row::Masks,
        Row::HostRoot,
        Row::Knobs,
        Row::ControlGroups,
        Row::LostLimits,
        Row::Handles,
        Row::Loading,
        Row::SetIdFiles,
        Row::HostFiles,
        Row::Capabilities,
        Row::Groups,
        Row::Ids,
        Row::SilentSteps,
        Row::Terminal,
        Row::Output,
        Row::Control,
        Row::Configuration,
        Row::Privileged,
        Row::Pids,
        Row::Readiness,
        Row::Persisted,
        Row::Orphans,
        Row::Abstract,
        Row::Neighbours,
        Row::Gateway,
        Row::Egress,
        Row::UserNamespaces,
        Row::Surface,
        Row::OtherEntries,
        Row::Keyrings,
        Row::Ipc,
        Row::Devices,
        Row::Mounts,
        Row::NamespaceHandles,
        Row::Exhaustion,
        Row::Inherited,
        Row::Init,
        Row::Knowledge,
    ];
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Out, or the host is changed.
    E,
    /// The host is known.
    L,
    /// More of the kernel than needed.
    S,
    /// Others suffer.
    R,
}

/// What a kernel or machine may lack, so that a probe has nothing to try. No other reason counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Programs of 32 bits.
    I386,
    /// Programs of the x32 kind.
    X32,
    /// kexec_load(2).
    Kexec,
    /// init_module(2).
    Modules,
    /// Sockets of the crypto interface.
    AfAlg,
    /// Sockets between virtual machines.
    Vsock,
    /// `/dev/mem`.
    DevMem,
    /// `/proc/kcore`.
    Kcore,
    /// `/proc/sys/kernel/modprobe`.
    Modprobe,
    /// The magic of SysRq.
    SysRq,
    /// `/sys/kernel/uevent_helper`.
    UeventHelper,
    /// A mounted hierarchy of version 1.
    CgroupV1,
    /// A memory controller in the tree of version 2.
    MemoryController,
    /// Root with CAP_SYS_RESOURCE.
    SysResource,
    /// A disk that root may open.
    Disk,
    /// `/dev/kvm`.
    Kvm,
    /// The kernel's own firmware tables.
    Firmware,
    /// Registering formats of programs.
    BinfmtMisc,
    /// `/proc/slabinfo`.
    SlabInfo,
    /// modify_ldt(2).
    ModifyLdt,
    /// nf_tables.
    Nftables,
    /// iopl(2).
    Iopl,
}

impl Feature {
    /// All of them, for looking which ones are missing.
    pub const ALL: [Feature; 22] = [
        Feature::I386,
        Feature::X32,
        Feature::Kexec,
        Feature::Modules,
        Feature::AfAlg,
        Feature::Vsock,
        Feature::DevMem,
        Feature::Kcore,
        Feature::Modprobe,
        Feature::SysRq,
        Feature::UeventHelper,
        Feature::CgroupV1,
        Feature::MemoryController,
        Feature::SysResource,
        Feature::Disk,
        Feature::Kvm,
        Feature::Firmware,
        Feature::BinfmtMisc,
        Feature::SlabInfo,
        Feature::ModifyLdt,
        Feature::Nftables,
        Feature::Iopl,
    ];

    /// Whether the machine has it; asked on the host, as root.
    pub fn is_there(self) -> bool {
        let has = |path: &str| Path::new(path).exists();
        let knows = |answer: Answer| answer != Err(Errno::ENOSYS);
        let family = |family: i32, kind: i32, protocol: i32| {
            let args = [raw::number(family), raw::number(kind), raw::number(protocol)];
            call(libc::SYS_socket, &args).is_ok_and(|fd| call(libc::SYS_close, &[fd]).is_ok())
        };
        match self {
            Feature::I386 => surface::i386_works(),
            Feature::X32 => surface::x32_works(),
            Feature::Kexec => knows(call(libc::SYS_kexec_load, &[0, 0, 0, usize::MAX])),
            Feature::Modules => knows(call(libc::SYS_init_module, &[0, 0, 0])),
            Feature::AfAlg => family(libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            Feature::Vsock => family(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            Feature::DevMem => has("/dev/mem"),
            Feature::Kcore => has("/proc/kcore"),
            Feature::Modprobe => has("/proc/sys/kernel/modprobe"),
            Feature::SysRq => has("/proc/sys/kernel/sysrq"),
            Feature::UeventHelper => has("/sys/kernel/uevent_helper"),
            Feature::CgroupV1 => {
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                mounts.contains(" - cgroup ")
            }
            Feature::MemoryController => crate::support::Need::Controller("memory").is_met(),
            Feature::SysResource => leak::capability_set("CapEff") & (1 << 24) != 0,
            Feature::Disk => escape::disk().is_some_and(|path| fs::File::open(path).is_ok()),
            Feature::Kvm => has("/dev/kvm"),
            Feature::Firmware => fs::read_dir("/sys/firmware").is_ok_and(|mut all| all.next().is_some()),
            Feature::BinfmtMisc => has("/proc/sys/fs/binfmt_misc/register"),
            Feature::SlabInfo => has("/proc/slabinfo"),
            Feature::ModifyLdt => surface::ldt_is_there(),
            Feature::Nftables => family(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
            Feature::Iopl => surface::iopl_is_there(),
        }
    }
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It worked.
    Escaped(String),
    /// It did not.
    Held(String),
}

/// One try.
pub struct Probe {
    /// Named in the line that it prints.
    pub name: &'static str,
    /// Which class it belongs to.
    pub row: Row,
    /// What it would cost.
    pub severity: Severity,
    /// What there must be for trying.
    pub feature: Option<Feature>,
    /// The try itself.
    pub run: fn(&Facts) -> Verdict,
}

/// A list of probes: `probes! { E Init "name" => |facts| verdict; S Surface "other" if Feature => … }`.
#[macro_export]
macro_rules! probes {
    (@) => { None };
    (@ $feature:ident) => { Some($crate::battery::Feature::$feature) };
    ($($severity:ident $row:ident $name:literal $(if $feature:ident)? => $run:expr;)+) => {
        &[$($crate::battery::Probe {
            name: $name,
            row: $crate::battery::Row::$row,
            severity: $crate::battery::Severity::$severity,
            feature: $crate::probes!(@ $($feature)?),
            run: $run,
        }),+]
    };
}

/// Every probe, in the order in which they run: those that change their own surroundings last.
pub fn all() -> impl Iterator<Item = &'static Probe> {
    let lists =
        [leak::PROBES, limit::PROBES, surface::PROBES, reach::PROBES, escape::PROBES, escape::MOUNTING];
    lists.into_iter().flatten()
}

/// What the tests have planted on the host for the probes to find, and what the place is like.
pub struct Facts {
    known: BTreeMap<String, String>,
    /// The descriptors that were open when the program began, and what they were.
    pub descriptors: BTreeMap<usize, String>,
}

impl Facts {
    /// From arguments of the form `key=value`.
    pub fn parse(args: &[&str]) -> Self {
        let pair = |arg: &&str| arg.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        let open = |fd: &usize| call(libc::SYS_fcntl, &[*fd, raw::number(libc::F_GETFD)]).is_ok();
        let target = |fd: usize| {
            let link = fs::read_link(format!("/proc/self/fd/{fd}"));
            (fd, link.map(|to| to.display().to_string()).unwrap_or_default())
        };
        let known = args.iter().filter_map(pair).collect();
        Self { known, descriptors: (0..4096).filter(open).map(target).collect() }
    }

    /// One of them.
    ///
    /// # Panics
    /// When the tests forgot to hand it over.
    pub fn get(&self, key: &str) -> &str {
        self.known.get(key).unwrap_or_else(|| panic!("no fact {key}"))
    }

    /// What is in the command line of the host's own processes. Arguments are command lines too: it is handed over backwards.
    pub fn marker(&self) -> String {
        self.get("marker").chars().rev().collect()
    }

    /// One that is a number.
    pub fn number(&self, key: &str) -> usize {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} is no number"))
    }

    /// One that is a list.
    pub fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).split(',').filter(|part| !part.is_empty()).collect()
    }
}

/// Runs the battery, the program's whole purpose inside a sandbox.
pub fn main(args: &[&str]) {
    let facts = Facts::parse(args);
    for probe in all() {
        let feature = probe.feature.map(|feature| format!("{feature:?}"));
        if let Some(feature) = feature.filter(|feature| facts.list("lacks").contains(&&**feature)) {
            println!("probe {} NA {feature}", probe.name);
            continue;
        }
        println!("probe {} {}", probe.name, verdict(probe, &facts));
    }
    println!("probe end END");
}

fn verdict(probe: &Probe, facts: &Facts) -> String {
    let time = crate::support::scaled(Duration::from_secs(10));
    match raw::in_child(time, || (probe.run)(facts).to_string()) {
        End::Exited(0, said) => said,
        End::Exited(status, said) => format!("BROKEN it ended with {status}: {said}"),
        // The filter's answer to another entry of the kernel.
        End::Signal(signal @ (libc::SIGSYS | libc::SIGKILL), _) => format!("HELD killed by signal {signal}"),
        End::Signal(signal, _) => format!("BROKEN killed by signal {signal}"),
        End::Stuck => "BROKEN it did not end".to_owned(),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, detail) = match self {
            Verdict::Escaped(detail) => ("ESCAPED", detail),
            Verdict::Held(detail) => ("HELD", detail),
        };
        write!(f, "{word} {}", detail.replace(char::is_control, " "))
    }
}

/// It is out when the call worked.
pub fn works<T>(result: Result<T, impl Into<Error>>) -> Verdict {
    match result {
        Ok(_) => Verdict::Escaped("it works".to_owned()),
        Err(error) => Verdict::Held(error.into().0),
    }
}

/// It is out unless the call was denied before the kernel looked at what was asked: any other error is an answer.
pub fn is_answered(answer: Answer) -> Verdict {
    match answer {
        Err(denied @ (Errno::EPERM | Errno::ENOSYS | Errno::EAFNOSUPPORT)) => {
            Verdict::Held(denied.to_string())
        }
        Ok(_) => Verdict::Escaped("it works".to_owned()),
        Err(errno) => Verdict::Escaped(format!("the kernel looked at it: {errno}")),
    }
}

/// It is out when the claim holds.
pub fn is_out(escaped: bool, detail: impl fmt::Display) -> Verdict {
    match escaped {
        true => Verdict::Escaped(detail.to_string()),
        false => Verdict::Held(detail.to_string()),
    }
}

/// The first that is out, or the last that is not.
pub fn any(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut last = Verdict::Held("nothing to try".to_owned());
    for verdict in verdicts {
        if matches!(verdict, Verdict::Escaped(_)) {
            return verdict;
        }
        last = verdict;
    }
    last
}

/// Opens a file, reading or writing as the flags say, and changes nothing.
pub fn opens(path: &str, flags: i32) -> Verdict {
    let fd =
        nix::fcntl::open(path, nix::fcntl::OFlag::from_bits_retain(flags), nix::sys::stat::Mode::empty());
    match works(fd) {
        Verdict::Escaped(_) => Verdict::Escaped(format!("{path} opens")),
        Verdict::Held(why) => Verdict::Held(format!("{path}: {why}")),
    }
}

/// An error of either kind.
pub struct Error(String);

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self(errno.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}
