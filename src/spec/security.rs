//! `[security]`: what a service may ask of the kernel.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Credential;
use crate::seccomp::Denial;

/// `[security]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Nothing that is executed gains privileges: `PR_SET_NO_NEW_PRIVS(2const)`.
    pub no_new_privs: bool,
    /// The bounding set: what root of the sandbox has, and nobody in it can have more.
    pub capabilities: BTreeSet<Capability>,
    /// Of these the ones that a user other than root has as well.
    pub ambient: BTreeSet<Capability>,
    /// Device nodes of the host that the service's user may use.
    pub devices: Vec<Device>,
    /// Secrets, as files in memory.
    pub credentials: Vec<Credential>,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Processes of other architectures are killed.
    pub native_abi_only: bool,
    /// personality(2) is nailed down.
    pub lock_personality: bool,
    /// No realtime scheduling.
    pub no_realtime: bool,
    /// No file gets a set-user-id or set-group-id bit.
    pub no_suid: bool,
    /// No namespace is made or entered.
    pub no_namespaces: bool,
    /// No memory is both writable and executable, nor becomes executable.
    pub no_wx: bool,
    /// The second wall inside the first.
    #[serde(default)]
    pub landlock: Landlock,
    /// Executed under this AppArmor profile.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// Executed under this SELinux label.
    #[serde(default)]
    pub selinux: Option<String>,
}

/// `security.landlock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Landlock {
    /// Where the kernel has it.
    #[default]
    Auto,
    /// Or there is no start.
    Require,
    /// Not at all.
    Off,
}

/// `security.seccomp`: names and groups as the file has them, which `seccomp::compile` expands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// What is allowed, in order; `~` takes out again.
    pub allow: Vec<String>,
    /// What kills the process.
    pub kill: Vec<String>,
    /// What is allowed and logged.
    pub log: Vec<String>,
    /// What becomes of the rest.
    pub action: Denial,
}

/// One entry of `security.devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Below /dev, on the host and inside.
    pub path: PathBuf,
    /// It may be read.
    pub read: bool,
    /// It may be written.
    pub write: bool,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read, write) = (if self.read { "r" } else { "" }, if self.write { "w" } else { "" });
        write!(f, "{} {read}{write}", self.path.display())
    }
}

/// A capability, capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(u8);

/// linux/capability.h: the number of each is its place.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl Capability {
    /// Reading files and searching directories, whatever their modes.
    pub const DAC_READ_SEARCH: Self = Self(2);
    /// Power over the links, addresses, routes and packet filter of a network namespace.
    pub const NET_ADMIN: Self = Self(12);
    /// Raw and packet sockets.
    pub const NET_RAW: Self = Self(13);
    /// Power over mounts, and much else.
    pub const SYS_ADMIN: Self = Self(21);

    /// The capability of this name, in any case and with or without its `CAP_`.
    pub fn from_name(name: &str) -> Option<Self> {
        let same = |known: &&str| {
            known.eq_ignore_ascii_case(name) || known["CAP_".len()..].eq_ignore_ascii_case(name)
        };
        let number = NAMES.iter().position(same)?;
        Some(Self(u8::try_from(number).expect("the table has 41 entries")))
    }

    /// Every capability that Linux has.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).take(NAMES.len()).map(Self)
    }

    /// As the kernel spells it.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }

    /// As the kernel counts it.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Whether it counts for nothing in a user namespace: the kernel asks for it over the host's own alone.
    pub fn is_only_the_hosts(self) -> bool {
        const HOSTS: [&str; 17] = [
            "CAP_LINUX_IMMUTABLE",
            "CAP_SYS_MODULE",
            "CAP_SYS_RAWIO",
            "CAP_SYS_PACCT",
            "CAP_SYS_BOOT",
            "CAP_SYS_TIME",
            "CAP_SYS_TTY_CONFIG",
            "CAP_MKNOD",
            "CAP_AUDIT_CONTROL",
            "CAP_MAC_OVERRIDE",
            "CAP_MAC_ADMIN",
            "CAP_SYSLOG",
            "CAP_WAKE_ALARM",
            "CAP_BLOCK_SUSPEND",
            "CAP_AUDIT_READ",
            "CAP_PERFMON",
            "CAP_BPF",
        ];
        HOSTS.contains(&self.name())
    }
}

/// The set as the kernel's calls take it: bit n is capability n.
pub fn mask(set: &BTreeSet<Capability>) -> u64 {
    set.iter().fold(0, |mask, capability| mask | 1 << capability.0)
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<String> for Capability {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::from_name(&name).ok_or_else(|| format!("{name:?} is not a capability"))
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> String {
        capability.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_in_any_case_and_with_or_without_the_prefix() {
        for name in ["CAP_NET_RAW", "cap_net_raw", "NET_RAW", "net_raw"] {
            assert_eq!(Capability::from_name(name), Some(Capability::NET_RAW), "{name}");
        }
        for name in ["", "CAP_", "CAP_CAP_CHOWN", "13", "ALL", "CAP_NET", " CAP_CHOWN", "CAP_CHOWN\n"] {
            assert_eq!(Capability::from_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        let number = |name| Capability::from_name(name).unwrap().number();
        assert_eq!([number("CHOWN"), number("SETPCAP"), number("BPF")], [0, 8, 39]);
        assert_eq!(number("CHECKPOINT_RESTORE"), 40);
        assert_eq!(
            (Capability::NET_ADMIN.name(), Capability::SYS_ADMIN.name()),
            ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
        );
        assert_eq!(mask(&Capability::all().collect()), (1 << 41) - 1);
    }

    #[test]
    fn a_capability_is_written_down_by_its_name() {
        let text = serde_json::to_string(&Capability::NET_RAW).unwrap();
        assert_eq!(text, "\"CAP_NET_RAW\"");
        assert_eq!(serde_json::from_str::<Capability>(&text).unwrap(), Capability::NET_RAW);
        assert!(serde_json::from_str::<Capability>("\"CAP_NONE\"").is_err());
    }
}
