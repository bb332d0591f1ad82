//! `[unit]` condition and assert: what the host must be like for a service to be started. Pure; a [`Host`] is asked each time.

use std::{
    cmp::Ordering,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

mod version;

pub use version::order as order_of_versions;

/// One thing that must hold, or, with `negated`, must not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The value began with `!`.
    pub negated: bool,
    /// What is looked at.
    pub test: Test,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Something about a path of the host.
    Path(At, PathBuf),
    /// `yes`, `no`, `vm`, `container`, or a technology as systemd-detect-virt(1) calls it.
    Virtualization(String),
    /// The release of the kernel, as a pattern.
    KernelLike(String),
    /// The release of the kernel, compared.
    Kernel(Compare, String),
    /// A word of the kernel's command line, with or without what follows its `=`.
    KernelCommandLine(String),
    /// The host's name, as a pattern, or its machine id.
    Host(String),
    /// Bytes of memory of the host.
    Memory(Compare, u64),
    /// CPUs that the supervisor may run on.
    Cpus(Compare, u64),
    /// As `uname -m` says it.
    Architecture(String),
    /// A variable of the supervisor's environment, with or without its value.
    Environment(String),
}

/// What there is to be at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// Something.
    Exists,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// The root of what is mounted there.
    MountPoint,
    /// Something on a file system that can be written to.
    ReadWrite,
    /// A directory that holds something.
    FullDirectory,
    /// A regular file that holds something.
    FullFile,
    /// A regular file that somebody may execute.
    Executable,
}

impl At {
    /// The key of the file.
    pub fn key(self) -> &'static str {
        match self {
            At::Exists => "path_exists",
            At::Directory => "path_is_directory",
            At::Link => "path_is_symbolic_link",
            At::MountPoint => "path_is_mount_point",
            At::ReadWrite => "path_is_read_write",
            At::FullDirectory => "directory_not_empty",
            At::FullFile => "file_not_empty",
            At::Executable => "file_is_executable",
        }
    }
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `=`
    Equal,
    /// `!=`
    Other,
    /// `>=`
    AtLeast,
    /// `>`
    More,
}

/// The spellings; of those that begin alike the longer goes first, and the last of each kind is the one that is shown.
const COMPARISONS: [(&str, Compare); 8] = [
    ("<=", Compare::AtMost),
    (">=", Compare::AtLeast),
    ("<>", Compare::Other),
    ("!=", Compare::Other),
    ("==", Compare::Equal),
    ("<", Compare::Less),
    (">", Compare::More),
    ("=", Compare::Equal),
];

impl Compare {
    /// The comparison that `text` begins with, and what follows.
    pub fn split(text: &str) -> (Option<Self>, &str) {
        let found = COMPARISONS.iter().find_map(|(sign, compare)| Some((*compare, text.strip_prefix(sign)?)));
        found.map_or((None, text.trim()), |(compare, rest)| (Some(compare), rest.trim()))
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Less => order.is_lt(),
            Compare::AtMost => order.is_le(),
            Compare::Equal => order.is_eq(),
            Compare::Other => order.is_ne(),
            Compare::AtLeast => order.is_ge(),
            Compare::More => order.is_gt(),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = COMPARISONS.iter().rev().find(|(_, compare)| compare == self);
        f.write_str(sign.map_or("", |(sign, _)| sign))
    }
}

/// Who knows what the host is like at the moment.
pub trait Host {
    /// Whether that is there.
    fn is_at(&self, at: At, path: &Path) -> bool;
    /// What it runs on, as systemd-detect-virt(1) calls it, and whether that is a container; none: bare metal.
    fn virtualization(&self) -> Option<(String, bool)>;
    /// The kernel's release.
    fn kernel(&self) -> String;
    /// The kernel's command line.
    fn command_line(&self) -> String;
    /// The host's name, and its machine id.
    fn names(&self) -> [String; 2];
    /// Bytes of memory.
    fn memory(&self) -> u64;
    /// CPUs.
    fn cpus(&self) -> u64;
    /// As `uname -m` says it.
    fn architecture(&self) -> String;
    /// A variable of the supervisor's environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// What speaks against a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// Of `condition`: the service is skipped.
    Condition(Check),
    /// Of `assert`: the start has failed.
    Assert(Check),
}

/// What speaks against a start now. As with systemd, nothing is asserted of a service that is skipped.
pub fn unmet(condition: &[Check], assert: &[Check], host: &impl Host) -> Option<Unmet> {
    let first = |checks: &[Check]| checks.iter().find(|check| !check.holds(host)).cloned();
    first(condition).map(Unmet::Condition).or_else(|| first(assert).map(Unmet::Assert))
}

impl Check {
    /// Whether it holds.
    pub fn holds(&self, host: &impl Host) -> bool {
        self.test.holds(host) != self.negated
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "!" } else { "" };
        match &self.test {
            Test::Path(at, path) => write!(f, "{} = \"{not}{}\"", at.key(), path.display()),
            Test::Virtualization(word) => write!(f, "virtualization = \"{not}{word}\""),
            Test::KernelLike(pattern) => write!(f, "kernel = \"{not}{pattern}\""),
            Test::Kernel(compare, version) => write!(f, "kernel = \"{not}{compare}{version}\""),
            Test::KernelCommandLine(word) => write!(f, "kernel_command_line = \"{not}{word}\""),
            Test::Host(text) => write!(f, "host = \"{not}{text}\""),
            Test::Memory(compare, bytes) => write!(f, "memory = \"{not}{compare}{bytes}\""),
            Test::Cpus(compare, count) => write!(f, "cpus = \"{not}{compare}{count}\""),
            Test::Architecture(word) => write!(f, "architecture = \"{not}{word}\""),
            Test::Environment(text) => write!(f, "environment = \"{not}{text}\""),
        }
    }
}

impl Test {
    fn holds(&self, host: &impl Host) -> bool {
        match self {
            Test::Path(at, path) => host.is_at(*at, path),
            Test::Virtualization(word) => match (host.virtualization(), word.as_str()) {
                (found, "yes") => found.is_some(),
                (found, "no") => found.is_none(),
                (found, "vm") => found.is_some_and(|(_, is_container)| !is_container),
                (found, "container") => found.is_some_and(|(_, is_container)| is_container),
                (found, word) => found.is_some_and(|(name, _)| name == word),
            },
            Test::KernelLike(pattern) => matches(pattern, &host.kernel()),
            Test::Kernel(compare, version) => compare.holds(order_of_versions(&host.kernel(), version)),
            Test::KernelCommandLine(word) => host.command_line().split_ascii_whitespace().any(|found| {
                let key = found.split_once('=').map_or(found, |(key, _)| key);
                found == word || (!word.contains('=') && key == word)
            }),
            Test::Host(text) => {
                let [name, id] = host.names();
                matches(&text.to_lowercase(), &name.to_lowercase()) || *text == id
            }
            Test::Memory(compare, bytes) => compare.holds(host.memory().cmp(bytes)),
            Test::Cpus(compare, count) => compare.holds(host.cpus().cmp(count)),
            Test::Architecture(word) => *word == host.architecture(),
            Test::Environment(text) => match text.split_once('=') {
                Some((name, value)) => host.variable(name).is_some_and(|found| found == value),
                None => host.variable(text).is_some(),
            },
        }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests;
