//! From a policy to the verdict on each call, and from those to the two programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use super::{
    Denial, Families, Filter, Policy,
    groups::{self, EARLY, INDISPENSABLE, NESTED},
    listed, of_word,
    program::{Action, Check, Program, Section, Test, Verdict},
};

/// The names of address families, and their numbers in linux/socket.h.
pub const FAMILIES: &[(&str, u32)] = &[
    ("unix", 1),
    ("inet", 2),
    ("ax25", 3),
    ("ipx", 4),
    ("appletalk", 5),
    ("x25", 9),
    ("inet6", 10),
    ("netlink", 16),
    ("packet", 17),
    ("rds", 21),
    ("pppox", 24),
    ("can", 29),
    ("tipc", 30),
    ("bluetooth", 31),
    ("alg", 38),
    ("nfc", 39),
    ("vsock", 40),
    ("kcm", 41),
    ("qipcrtr", 42),
    ("smc", 43),
    ("xdp", 44),
    ("mctp", 45),
];

const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;

/// clone(2) and unshare(2): every CLONE_NEW flag but CLONE_NEWTIME, whose bit is part of clone's exit signal.
const NEW_NAMESPACES: u32 = 0x0002_0000 // CLONE_NEWNS
    | 0x0200_0000 // CLONE_NEWCGROUP
    | 0x0400_0000 // CLONE_NEWUTS
    | 0x0800_0000 // CLONE_NEWIPC
    | 0x1000_0000 // CLONE_NEWUSER
    | 0x2000_0000 // CLONE_NEWPID
    | 0x4000_0000; // CLONE_NEWNET
const CLONE_NEWTIME: u32 = 0x80;

const S_ISUID_OR_S_ISGID: u32 = 0o6000;
/// O_CREAT, and the bit that O_TMPFILE has beside O_DIRECTORY: without either open(2) ignores its mode.
const MAKES_A_FILE: u32 = 0o100 | 0o20_000_000;
const PROT_WRITE_AND_EXEC: u32 = 0x6;
const PROT_EXEC: u32 = 0x4;
const SHM_EXEC: u32 = 0o100_000;
const READ_IMPLIES_EXEC: u32 = 0x0040_0000;
/// Asks which personality it is.
const PERSONALITY_QUERY: u32 = u32::MAX;
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
/// SCHED_OTHER, SCHED_BATCH, SCHED_IDLE.
const NOT_REALTIME: [u32; 3] = [0, 3, 5];
/// What goes to others through a terminal: input as if it were typed, the same for virtual consoles, and the line
/// discipline, which loads kernel modules.
const TERMINAL_REQUESTS: [u32; 3] = [TIOCSTI, 0x541c, 0x5423];
const TIOCSTI: u32 = 0x5412;
const PR_GET_SECCOMP: u32 = 21;
const SECCOMP_SET_MODE_FILTER: u32 = 1;

/// Set in the number of an x32 call, which shares the architecture of x86-64.
const X32: u32 = 0x4000_0000;

const EPERM: Action = Action::Errno(libc::EPERM);
const ENOSYS: Action = Action::Errno(libc::ENOSYS);

/// An architecture whose calls we know.
pub(super) struct Abi {
    /// AUDIT_ARCH of linux/audit.h.
    pub(super) arch: u32,
    pub(super) numbers: BTreeMap<&'static str, u32>,
}

macro_rules! numbers {
    ($table:ident) => {
        // By number, for the crate's own iterator leaves the last one out. A name that is a word of Rust has an `r#`.
        (0..syscalls::$table::Sysno::table_size())
            .filter_map(syscalls::$table::Sysno::new)
            .map(|call| (call.name().trim_start_matches("r#"), call.id().cast_unsigned()))
            .collect()
    };
}

/// The architecture that this is compiled for, and the one that its kernel also runs, where we filter that.
pub(super) static ABIS: LazyLock<Vec<Abi>> = LazyLock::new(|| {
    let x86_64 = || Abi { arch: 0xc000_003e, numbers: numbers!(x86_64) };
    let x86 = || Abi { arch: 0x4000_0003, numbers: numbers!(x86) };
    let aarch64 = || Abi { arch: 0xc000_00b7, numbers: numbers!(aarch64) };
    if cfg!(target_arch = "x86_64") { vec![x86_64(), x86()] } else { vec![aarch64()] }
});

/// Whether there is another architecture that `native_abi_only = false` can let in.
pub const HAS_OTHER_ABI: bool = cfg!(target_arch = "x86_64");

/// The names of all calls of all architectures: a service file is not for one machine.
pub(super) fn known() -> &'static BTreeSet<&'static str> {
    static KNOWN: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
        let tables: [Vec<(&str, u32)>; 3] = [numbers!(x86_64), numbers!(x86), numbers!(aarch64)];
        tables.into_iter().flatten().map(|(name, _)| name).collect()
    });
    &KNOWN
}

/// Whether this is the name of a system call.
pub fn is_call(name: &str) -> bool {
    known().contains(name)
}

/// Compiles a policy.
pub(super) fn filter(policy: &Policy) -> Filter {
    let rules = Rules::new(policy);
    let abis = if policy.native_abi_only { &ABIS[..1] } else { &ABIS[..] };
    let main: Vec<Section> = abis.iter().map(|abi| rules.main(abi)).collect();
    let quiet: Vec<Section> = abis.iter().map(|abi| rules.quiet(abi)).collect();
    Filter {
        main: Program::new(&main, Action::Kill),
        // What the main filter kills it kills whatever this one says.
        quiet: Program::new(&quiet, Action::Allow),
        summary: summary(policy),
    }
}

/// What a policy says about calls by name.
struct Rules<'a> {
    policy: &'a Policy,
    allow: BTreeSet<&'static str>,
    kill: BTreeSet<&'static str>,
    log: BTreeSet<&'static str>,
    families: Vec<u32>,
    namespaces: bool,
}

impl<'a> Rules<'a> {
    fn new(policy: &'a Policy) -> Self {
        let mut allow = listed(&policy.allow, &policy.capabilities);
        let taken: BTreeSet<&str> = policy
            .allow
            .iter()
            .filter_map(|word| word.strip_prefix('~'))
            .flat_map(|word| of_word(word, &policy.capabilities))
            .collect();
        // What every program needs, and every maker of sandboxes, but for what a list takes out by name.
        allow.extend(of_word("@default", &policy.capabilities).difference(&taken));
        if policy.nested {
            allow.extend(groups::expand(NESTED).difference(&taken));
        }
        if policy.early {
            allow.extend(groups::expand(EARLY));
        }
        allow.extend(INDISPENSABLE);
        let all = |words: &[String]| -> BTreeSet<&'static str> {
            words.iter().flat_map(|word| of_word(word, &policy.capabilities)).collect()
        };
        let mut kill = all(&policy.kill);
        INDISPENSABLE.iter().for_each(|call| {
            kill.remove(call);
        });
        Self {
            policy,
            allow,
            kill,
            log: all(&policy.log),
            families: families(policy),
            namespaces: policy.no_namespaces && !policy.nested,
        }
    }

    /// Decides every number.
    fn main(&self, abi: &Abi) -> Section {
        self.section(abi, &Verdict::Plain(self.denial()), |name| self.verdict(name, abi))
    }

    /// Denies what the main filter denies with ENOSYS, and lets everything else through to it.
    fn quiet(&self, abi: &Abi) -> Section {
        let plain = Verdict::Plain(Action::Allow);
        self.section(abi, &plain, |name| match self.verdict(name, abi) {
            Verdict::Plain(ENOSYS) => Verdict::Plain(ENOSYS),
            Verdict::Plain(_) | Verdict::Checked(..) => plain.clone(),
        })
    }

    fn section(&self, abi: &Abi, hole: &Verdict, verdict: impl Fn(&'static str) -> Verdict) -> Section {
        let by_number: BTreeMap<u32, &'static str> =
            abi.numbers.iter().map(|(name, number)| (*number, *name)).collect();
        let mut ranges: Vec<(u32, Verdict)> = Vec::new();
        let mut push = |from: u32, verdict: Verdict| {
            if ranges.last().is_none_or(|(_, last)| *last != verdict) {
                ranges.push((from, verdict));
            }
        };
        let mut next = 0;
        for (number, name) in by_number {
            if number > next {
                push(next, hole.clone());
            }
            push(number, verdict(name));
            next = number + 1;
        }
        // Newer than this version: as on a kernel that does not have it, so that a library falls back.
        push(next, Verdict::Plain(ENOSYS));
        if cfg!(target_arch = "x86_64") && abi.arch == ABIS[0].arch {
            let kills = *hole != Verdict::Plain(Action::Allow);
            push(X32, Verdict::Plain(if kills { Action::Kill } else { Action::Allow }));
            // What syscall(-1) asks for is no x32 call.
            push(u32::MAX, Verdict::Plain(ENOSYS));
        }
        Section { arch: abi.arch, ranges }
    }

    fn denial(&self) -> Action {
        match self.policy.denial {
            Denial::Eperm => EPERM,
            Denial::Enosys => ENOSYS,
            Denial::Kill => Action::Kill,
            Denial::Log => Action::Log,
        }
    }

    fn verdict(&self, name: &'static str, abi: &Abi) -> Verdict {
        let action = match name {
            _ if self.kill.contains(name) => Action::Kill,
            _ if self.log.contains(name) => Action::Log,
            _ if self.allow.contains(name) => Action::Allow,
            _ => self.denial(),
        };
        if action.lets_through() {
            return self.restricted(name, action, abi);
        }
        let check = |tests: Vec<Test>| Verdict::Checked(vec![Check { tests, then: Action::Allow }], action);
        match name {
            // The start reads back whether it is filtered, and loads the second filter over the first.
            "prctl" => check(vec![equal(0, PR_GET_SECCOMP)]),
            "seccomp" => check(vec![equal(0, SECCOMP_SET_MODE_FILTER), equal(1, 0)]),
            // Whoever is denied these falls back, when he is told so.
            "clone3" | "openat2" if action == EPERM => Verdict::Plain(ENOSYS),
            _ => Verdict::Plain(action),
        }
    }

    /// What is left of a call that is let through.
    fn restricted(&self, name: &str, action: Action, abi: &Abi) -> Verdict {
        let policy = self.policy;
        let deny = |tests: Vec<Test>| Verdict::Checked(vec![Check { tests, then: EPERM }], action);
        let multiplexed = abi.arch != ABIS[0].arch;
        match name {
            "clone" if self.namespaces => deny(vec![any_of(0, NEW_NAMESPACES)]),
            "unshare" if self.namespaces => deny(vec![any_of(0, NEW_NAMESPACES | CLONE_NEWTIME)]),
            "setns" if self.namespaces => Verdict::Plain(EPERM),
            "clone3" if self.namespaces => Verdict::Plain(ENOSYS),
            "chmod" | "fchmod" | "creat" | "mknod" if policy.no_suid => {
                deny(vec![any_of(1, S_ISUID_OR_S_ISGID)])
            }
            "fchmodat" | "fchmodat2" | "mknodat" if policy.no_suid => {
                deny(vec![any_of(2, S_ISUID_OR_S_ISGID)])
            }
            "open" if policy.no_suid => deny(vec![any_of(1, MAKES_A_FILE), any_of(2, S_ISUID_OR_S_ISGID)]),
            "openat" if policy.no_suid => deny(vec![any_of(2, MAKES_A_FILE), any_of(3, S_ISUID_OR_S_ISGID)]),
            "openat2" if policy.no_suid => Verdict::Plain(ENOSYS),
            "sched_setscheduler" if policy.no_realtime => {
                let policies = NOT_REALTIME.map(|policy| Test::Equal {
                    arg: 1,
                    mask: !SCHED_RESET_ON_FORK,
                    value: policy,
                });
                only(policies.map(|test| vec![test]), action, EPERM)
            }
            "sched_setattr" if policy.no_realtime => Verdict::Plain(EPERM),
            "personality" if policy.lock_personality => {
                only([vec![equal(0, 0)], vec![equal(0, PERSONALITY_QUERY)]], action, EPERM)
            }
            "personality" if policy.no_wx => {
                let query = Check { tests: vec![equal(0, PERSONALITY_QUERY)], then: action };
                let implied = Check { tests: vec![any_of(0, READ_IMPLIES_EXEC)], then: EPERM };
                Verdict::Checked(vec![query, implied], action)
            }
            // The old call of i386 has its arguments in memory.
            "mmap" if policy.no_wx && multiplexed => Verdict::Plain(EPERM),
            "mmap" | "mmap2" if policy.no_wx => {
                deny(vec![Test::Equal { arg: 2, mask: PROT_WRITE_AND_EXEC, value: PROT_WRITE_AND_EXEC }])
            }
            "mprotect" | "pkey_mprotect" if policy.no_wx => deny(vec![any_of(2, PROT_EXEC)]),
            "shmat" if policy.no_wx => deny(vec![any_of(2, SHM_EXEC)]),
            // Written through one mapping and executed through another; `ipc` has its arguments in memory.
            "memfd_create" | "memfd_secret" | "ipc" if policy.no_wx => Verdict::Plain(EPERM),
            "socket" | "socketpair" if policy.families != Families::Any => self.sockets(action),
            // Its arguments are in memory, and socket(2) is there beside it.
            "socketcall" if policy.families != Families::Any => Verdict::Plain(EPERM),
            "ioctl" => {
                let check = |request| Check { tests: vec![equal(1, request)], then: EPERM };
                Verdict::Checked(TERMINAL_REQUESTS.map(check).to_vec(), action)
            }
            _ => Verdict::Plain(action),
        }
    }

    fn sockets(&self, action: Action) -> Verdict {
        let mut ways: Vec<Vec<Test>> = self.families.iter().map(|family| vec![equal(0, *family)]).collect();
        let inet = |number: &u32| FAMILIES.iter().any(|(name, n)| n == number && name.starts_with("inet"));
        if self.families.iter().any(inet) && !self.families.contains(&AF_NETLINK) {
            // getifaddrs(3) and getaddrinfo(3) read the addresses there.
            ways.push(vec![equal(0, AF_NETLINK), equal(2, NETLINK_ROUTE)]);
        }
        only(ways, action, Action::Errno(libc::EAFNOSUPPORT))
    }
}

/// The families whose every socket is allowed.
fn families(policy: &Policy) -> Vec<u32> {
    let number = |name: &str| FAMILIES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match &policy.families {
        Families::Any => Vec::new(),
        Families::Only(names) => names.iter().filter_map(|name| number(name)).collect(),
        Families::Default => {
            let for_what = [("CAP_NET_ADMIN", "netlink"), ("CAP_NET_RAW", "packet")];
            let granted = for_what.iter().filter(|(name, _)| policy.capabilities.contains(*name));
            let names = ["unix", "inet", "inet6"].into_iter().chain(granted.map(|(_, family)| *family));
            names.filter_map(number).collect()
        }
    }
}

fn equal(arg: u8, value: u32) -> Test {
    Test::Equal { arg, mask: u32::MAX, value }
}

fn any_of(arg: u8, bits: u32) -> Test {
    Test::AnyOf { arg, bits }
}

/// `action` where all tests of one of `ways` hold.
fn only(ways: impl IntoIterator<Item = Vec<Test>>, action: Action, otherwise: Action) -> Verdict {
    let check = |tests| Check { tests, then: action };
    Verdict::Checked(ways.into_iter().map(check).collect(), otherwise)
}

/// One line: what is allowed, what is restricted, what becomes of the rest.
fn summary(policy: &Policy) -> String {
    let opens = |name: &String| groups::CAPABILITIES.iter().any(|(capability, _)| capability == name);
    let granted: Vec<String> =
        policy.capabilities.iter().filter(|name| opens(name)).map(|name| format!("+{name}")).collect();
    let mut parts = vec![[&policy.allow[..], &granted].concat().join(" ")];
    let lists = [("kill", &policy.kill), ("log", &policy.log)];
    parts.extend(
        lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name} {}", list.join(" "))),
    );
    let denial = match policy.denial {
        Denial::Eperm => "EPERM",
        Denial::Enosys => "ENOSYS",
        Denial::Kill => "kill",
        Denial::Log => "log",
    };
    parts.push(format!("else {denial}"));
    let restrictions = [
        (policy.no_namespaces && !policy.nested, "namespaces"),
        (policy.no_realtime, "realtime"),
        (policy.no_suid, "suid"),
        (policy.lock_personality, "personality"),
        (policy.native_abi_only, "foreign ABI"),
        (policy.no_wx, "writable code"),
    ];
    let without: Vec<&str> = restrictions.iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect();
    if !without.is_empty() {
        parts.push(format!("no {}", without.join(", ")));
    }
    let name = |number: &u32| FAMILIES.iter().find(|(_, known)| known == number).map(|(name, _)| *name);
    let families: Vec<&str> = families(policy).iter().filter_map(name).collect();
    parts.push(match &policy.families {
        Families::Any => "any socket".to_owned(),
        Families::Default | Families::Only(_) if families.is_empty() => "no socket".to_owned(),
        Families::Default | Families::Only(_) => format!("sockets {}", families.join(" ")),
    });
    if policy.nested {
        parts.push("sandboxes inside".to_owned());
    }
    parts.join("; ")
}
