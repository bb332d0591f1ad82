//! The system call filter: from names and groups to the two programs that seccomp(2) loads.
//!
//! Pure. `spec` asks which names there are, `plan` has a [`Policy`] compiled and puts the finished programs into the
//! plan; the init only loads them. Two, because a filter is logged as a whole: the first decides everything, and what it
//! denies becomes an audit line; the second, loaded over it, denies once more and in silence what libraries try again
//! and again only to fall back (glibc's clone3 for every thread). Of two filters that deny a call with an error the one
//! that was loaded last answers for it.
//!
//! A filter sees registers, not what they point to. A call whose restricted argument lies in memory (clone3, openat2)
//! therefore answers ENOSYS, as a kernel would that does not have it; every library falls back. Arguments that the
//! kernel takes as `int` are compared in their low 32 bits, for the kernel ignores the others (CVE-2019-7303).

pub mod groups;
mod program;
mod rules;
#[cfg(test)]
mod tests;
mod why;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

pub use self::{
    program::{MAX_INSTRUCTIONS, Program},
    rules::{FAMILIES, HAS_OTHER_ABI, is_call},
    why::{Decides, call, decides},
};

/// What happens to a call that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denial {
    /// It fails with EPERM.
    Eperm,
    /// It fails with ENOSYS, as on a kernel without it.
    Enosys,
    /// The process is killed, with SIGSYS.
    Kill,
    /// It is let through and logged.
    Log,
}

/// `network.address_families`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// unix, inet and inet6, and what a granted capability is for.
    Default,
    /// All that the kernel has.
    Any,
    /// These, by their names in [`FAMILIES`].
    Only(Vec<String>),
}

/// Everything that a filter is made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// Names and groups of what is allowed, in order; `~` takes out again.
    pub allow: Vec<String>,
    /// What kills the process.
    pub kill: Vec<String>,
    /// What is allowed and logged.
    pub log: Vec<String>,
    /// What happens to the rest.
    pub denial: Denial,
    /// Processes of the machine's other architecture are killed at their first call.
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
    /// The address families of sockets.
    pub families: Families,
    /// The service makes sandboxes of its own.
    pub nested: bool,
    /// Names of the capabilities that it is granted, as `CAP_SYS_PTRACE`.
    pub capabilities: BTreeSet<String>,
    /// The filter is loaded before the process has given up its privileges, because without no_new_privs loading needs
    /// one: what the steps behind it call is allowed.
    pub early: bool,
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Decides everything; loaded first, with SECCOMP_FILTER_FLAG_LOG.
    pub main: Program,
    /// Denies in silence; loaded second, without.
    pub quiet: Program,
    /// What it is about, in one line.
    pub summary: String,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // FNV-1a: it tells two filters apart, nobody relies on it.
        let bytes = self.main.bytes().iter().chain(self.quiet.bytes());
        let digest = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let (main, quiet) = (self.main.len(), self.quiet.len());
        write!(f, "{}; {main}+{quiet} instructions {digest:016x}", self.summary)
    }
}

/// The compiled form of `policy`; each is compiled once, however many sandboxes and sessions it is for.
pub fn compile(policy: &Policy) -> Arc<Filter> {
    static COMPILED: Mutex<BTreeMap<Policy, Arc<Filter>>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = compiled.get(policy) {
        return Arc::clone(filter);
    }
    // More than any host has service files; a reload brings new ones and the old are not missed.
    if compiled.len() >= 1024 {
        compiled.clear();
    }
    let filter = Arc::new(rules::filter(policy));
    compiled.insert(policy.clone(), Arc::clone(&filter));
    filter
}

/// The calls that a list of names and groups stands for; `~` takes out what came before it. A list that begins with a
/// removal begins with the default group.
pub fn listed(words: &[String], granted: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let begins_with_default = words.first().is_none_or(|word| word.starts_with('~'));
    let mut calls = if begins_with_default { of_word(groups::DEFAULT, granted) } else { BTreeSet::new() };
    for word in words {
        match word.strip_prefix('~') {
            Some(word) => of_word(word, granted).iter().for_each(|call| {
                calls.remove(call);
            }),
            None => calls.extend(of_word(word, granted)),
        }
    }
    calls
}

/// The calls that one name or group stands for; none for a name that is not known (any more).
fn of_word(word: &str, granted: &BTreeSet<String>) -> BTreeSet<&'static str> {
    if word == KNOWN {
        return rules::known().clone();
    }
    let Some(group) = groups::group(word) else {
        return rules::known().get(word).copied().into_iter().collect();
    };
    let mut calls = group.calls().clone();
    if word == groups::DEFAULT {
        for (capability, words) in groups::CAPABILITIES {
            if granted.contains(*capability) {
                calls.extend(groups::expand(words));
            }
        }
    }
    calls
}

/// The group of every call that this version knows.
pub const KNOWN: &str = "@known";

/// Every name that a list may have.
pub fn names() -> impl Iterator<Item = &'static str> {
    groups::GROUPS.iter().map(|group| group.name).chain([KNOWN]).chain(rules::known().iter().copied())
}
