//! Which key of a service file decides about a call that was refused.

use super::{Policy, groups, listed, rules};

/// What decides, and what would let the call through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decides {
    /// It is of another architecture than the machine's own: `security.native_abi_only`.
    Abi,
    /// It stands in `security.seccomp.kill`.
    Kill,
    /// It is allowed, but not with these arguments: this key.
    Arguments(&'static str),
    /// It comes with a capability.
    Capability(&'static str),
    /// `security.seccomp` does not list it.
    List,
}

/// The name of a call; none: newer than this version.
pub fn call(arch: u32, number: u32) -> Option<&'static str> {
    let abi = rules::ABIS.iter().find(|abi| abi.arch == arch)?;
    abi.numbers.iter().find(|(_, known)| **known == number).map(|(name, _)| *name)
}

/// What decided that `policy` did not let the call through.
pub fn decides(policy: &Policy, arch: u32, name: &str) -> Decides {
    let is_in = |words: &[String]| !words.is_empty() && listed(words, &policy.capabilities).contains(name);
    if arch != rules::ABIS[0].arch && policy.native_abi_only {
        return Decides::Abi;
    }
    if is_in(&policy.kill) {
        return Decides::Kill;
    }
    if listed(&policy.allow, &policy.capabilities).contains(name) {
        return Decides::Arguments(of_arguments(policy, name));
    }
    // Some are part of another as well: the one that is for the least else.
    let granting = groups::CAPABILITIES.iter().filter_map(|(capability, words)| {
        let calls = groups::expand(words);
        (!policy.capabilities.contains(*capability) && calls.contains(name))
            .then_some((calls.len(), *capability))
    });
    granting.min().map_or(Decides::List, |(_, capability)| Decides::Capability(capability))
}

/// The key whose wall looks at the arguments of a call.
fn of_arguments(policy: &Policy, name: &str) -> &'static str {
    match name {
        "clone" | "clone3" | "setns" | "unshare" => "security.no_namespaces",
        "personality" if policy.lock_personality => "security.lock_personality",
        "sched_setattr" | "sched_setscheduler" => "security.no_realtime",
        "socket" | "socketcall" | "socketpair" => "network.address_families",
        "chmod" | "creat" | "fchmod" | "fchmodat" | "fchmodat2" | "mknod" | "mknodat" | "open" | "openat" => {
            "security.no_suid"
        }
        "ipc" | "memfd_create" | "memfd_secret" | "mmap" | "mmap2" | "mprotect" | "personality"
        | "pkey_mprotect" | "shmat" => "security.no_wx",
        // What would be typed into the terminal of whoever looks on.
        _ => "",
    }
}
