//! What a test needs from the machine, and whether it is there.

use std::{fmt, path::Path};

/// One need.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Uid 0 of the initial user namespace.
    Root,
    /// A cgroup v2 tree in which groups can be made and killed (hybrid will do).
    CgroupV2,
    /// A cgroup v2 tree whose root offers this controller.
    Controller(&'static str),
    /// User namespaces may be made.
    UserNs,
    /// nft(8), and a kernel with nf_tables.
    Nft,
    /// A program in one of the usual directories.
    Program(&'static str),
    /// A package of Debian's Python 3.
    Python(&'static str),
}

impl Need {
    /// Whether the machine has it.
    pub fn is_met(&self) -> bool {
        match self {
            Need::Root => is_root(),
            Need::CgroupV2 => cgroup2_mount().is_some(),
            Need::Controller(name) => cgroup2_mount().is_some_and(|dir| {
                let file = Path::new(&dir).join("cgroup.controllers");
                std::fs::read_to_string(file).is_ok_and(|all| all.split_whitespace().any(|c| c == *name))
            }),
            Need::UserNs => std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
                .is_ok_and(|max| max.trim() != "0"),
            Need::Nft => program("nft").is_some(),
            Need::Program(name) => program(name).is_some(),
            Need::Python(name) => {
                program("python3").is_some()
                    && Path::new("/usr/lib/python3/dist-packages").join(name).exists()
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Root => f.write_str("root"),
            Need::CgroupV2 => f.write_str("cgroup v2"),
            Need::Controller(name) => write!(f, "the {name} controller of cgroup v2"),
            Need::UserNs => f.write_str("user namespaces"),
            Need::Nft => f.write_str("nft"),
            Need::Program(name) => f.write_str(name),
            Need::Python(name) => write!(f, "Python's {name}"),
        }
    }
}

/// Whether a missing need is a failure (`PALISADE_TEST_REQUIRE=all`) instead of an ignored test.
pub fn all_required() -> bool {
    std::env::var_os("PALISADE_TEST_REQUIRE").is_some_and(|v| v == "all")
}

/// The full path of `name` in the directories that Debian installs programs to.
pub fn program(name: &str) -> Option<String> {
    let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    dirs.iter().map(|dir| format!("{dir}/{name}")).find(|path| Path::new(path).is_file())
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, on hybrid hosts `/sys/fs/cgroup/unified`.
pub fn cgroup2_mount() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): the type is the first field after the lone dash, the mount point the fifth of all.
        let (fields, rest) = line.split_once(" - ")?;
        rest.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).map(str::to_owned))?
    })
}

/// Real root: in a user namespace of its own, uid 0 has no power over the host's cgroups and links.
fn is_root() -> bool {
    let whole = |map: String| map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    rustix::process::geteuid().is_root() && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
}
