use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const NATIVE: u32 = if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 };

const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const KILL: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0000 + 38;
const EAFNOSUPPORT: u32 = 0x0005_0000 + 97;

/// What an empty service file gives.
fn default() -> Policy {
    Policy {
        allow: words(&["@service"]),
        kill: Vec::new(),
        log: Vec::new(),
        denial: Denial::Eperm,
        native_abi_only: true,
        lock_personality: true,
        no_realtime: true,
        no_suid: true,
        no_namespaces: true,
        no_wx: false,
        families: Families::Default,
        nested: false,
        capabilities: BTreeSet::new(),
        early: false,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn table(arch: u32) -> BTreeMap<&'static str, u32> {
    macro_rules! table {
        ($name:ident) => {
            (0..=469)
                .filter_map(syscalls::$name::Sysno::new)
                .map(|call| (call.name().trim_start_matches("r#"), call.id().cast_unsigned()))
                .collect()
        };
    }
    match arch {
        X86_64 => table!(x86_64),
        I386 => table!(x86),
        _ => table!(aarch64),
    }
}

/// Runs a program as kernel/seccomp.c and net/core/filter.c do.
fn run(program: &Program, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0x5555_5555_0000_u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let word = |at: usize, bytes: &[u8]| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut a) = (0, 0);
    loop {
        let code = &program.bytes()[at * 8..at * 8 + 8];
        let (kind, value) = (u16::from_ne_bytes([code[0], code[1]]), word(4, code));
        let branch = |holds: bool| usize::from(if holds { code[2] } else { code[3] });
        at += 1;
        match kind {
            0x20 => a = word(usize::try_from(value).unwrap(), &data),
            0x54 => a &= value,
            0x05 => at += usize::try_from(value).unwrap(),
            0x15 => at += branch(a == value),
            0x35 => at += branch(a >= value),
            0x45 => at += branch(a & value != 0),
            0x06 => return value,
            other => panic!("{other:#x} is no instruction of ours"),
        }
    }
}

/// What the kernel does with a call that both programs look at: the last loaded is asked first, and another one only
/// counts when it is stricter. Says also whether the denial is logged.
fn verdict(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> (u32, bool) {
    let quiet = run(&filter.quiet, arch, number, args);
    let main = run(&filter.main, arch, number, args);
    let strictness = |value: u32| (value & 0xffff_0000).cast_signed();
    if strictness(main) < strictness(quiet) { (main, true) } else { (quiet, false) }
}

/// The verdict on a native call by name.
fn on(policy: &Policy, name: &str, args: &[u64]) -> u32 {
    on_abi(policy, NATIVE, name, args)
}

fn on_abi(policy: &Policy, arch: u32, name: &str, args: &[u64]) -> u32 {
    let number = table(arch).get(name).copied().unwrap_or_else(|| panic!("{name} is no call"));
    let mut all = [0xdead_beef_0000_0000_u64; 6];
    all.iter_mut().zip(args).for_each(|(to, from)| *to |= *from);
    verdict(&compile(policy), arch, number, all).0
}

#[test]
fn every_known_call_is_in_a_group_or_listed_as_ungrouped() {
    let grouped: BTreeSet<&str> = groups::GROUPS.iter().flat_map(groups::Group::calls).copied().collect();
    let ungrouped = groups::expand(groups::UNGROUPED);
    let missing: Vec<&&str> = rules::known()
        .iter()
        .filter(|name| !grouped.contains(**name) && !ungrouped.contains(**name))
        .collect();
    assert_eq!(missing, Vec::<&&str>::new());
    assert_eq!(grouped.intersection(&ungrouped).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn the_groups_name_only_what_there_is() {
    let all = groups::GROUPS
        .iter()
        .flat_map(groups::Group::calls)
        .copied()
        .chain(groups::expand(groups::UNGROUPED));
    let more = [groups::NESTED, groups::EARLY].into_iter().flat_map(groups::expand);
    let capabilities = groups::CAPABILITIES.iter().flat_map(|(_, words)| groups::expand(words));
    let indispensable = groups::INDISPENSABLE.iter().copied();
    let unknown: BTreeSet<&str> =
        all.chain(more).chain(capabilities).chain(indispensable).filter(|name| !is_call(name)).collect();
    assert_eq!(unknown, BTreeSet::new());
}

#[test]
fn the_numbers_are_those_of_libc() {
    let pairs = [
        ("read", libc::SYS_read),
        ("clone3", libc::SYS_clone3),
        ("openat2", libc::SYS_openat2),
        ("execve", libc::SYS_execve),
        ("seccomp", libc::SYS_seccomp),
        ("ptrace", libc::SYS_ptrace),
        ("mount", libc::SYS_mount),
        ("bpf", libc::SYS_bpf),
    ];
    for (name, number) in pairs {
        assert_eq!(i64::from(table(NATIVE)[name]), number, "{name}");
    }
}

#[test]
fn the_default_list_is_about_what_servers_call() {
    let calls: BTreeSet<&str> = listed(&default().allow, &BTreeSet::new());
    let native: Vec<&&str> = calls.iter().filter(|name| table(NATIVE).contains_key(**name)).collect();
    assert!((230..=310).contains(&native.len()), "{} calls", native.len());
    for name in [
        "read",
        "writev",
        "openat",
        "epoll_wait",
        "accept4",
        "sendfile",
        "mmap",
        "futex",
        "clone",
        "execve",
        "wait4",
        "io_submit",
        "shmget",
        "semtimedop",
        "setgroups",
        "prlimit64",
        "memfd_create",
        "inotify_add_watch",
        "rseq",
        "pidfd_open",
        "timerfd_create",
        "sched_setaffinity",
        "mbind",
        "mlock",
        "uretprobe",
        "landlock_restrict_self",
        "statx",
        "copy_file_range",
        "getrandom",
        "membarrier",
    ] {
        assert!(calls.contains(name), "{name} is missing");
    }
    for name in [
        "io_uring_setup",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "request_key",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "mount",
        "umount2",
        "move_mount",
        "fsopen",
        "open_tree",
        "pivot_root",
        "chroot",
        "setns",
        "open_by_handle_at",
        "name_to_handle_at",
        "quotactl",
        "acct",
        "swapon",
        "swapoff",
        "reboot",
        "settimeofday",
        "clock_settime",
        "adjtimex",
        "clock_adjtime",
        "iopl",
        "ioperm",
        "nfsservctl",
        "lookup_dcookie",
        "modify_ldt",
        "kcmp",
        "pidfd_getfd",
        "process_madvise",
        "move_pages",
        "migrate_pages",
        "fanotify_init",
        "syslog",
        "sethostname",
        "vhangup",
        "memfd_secret",
        "uselib",
        "sysfs",
        "ustat",
        "remap_file_pages",
    ] {
        assert!(!calls.contains(name), "{name} is allowed");
    }
}

#[test]
fn what_is_not_allowed_fails_and_says_so() {
    let policy = default();
    for name in ["bpf", "mount", "keyctl", "ptrace", "io_uring_setup", "setns", "reboot"] {
        assert_eq!(on(&policy, name, &[]), EPERM, "{name}");
        let filter = compile(&policy);
        assert_eq!(verdict(&filter, NATIVE, table(NATIVE)[name], [0; 6]), (EPERM, true), "{name} is logged");
    }
    assert_eq!(on(&policy, "read", &[]), ALLOW);
}

#[test]
fn what_libraries_try_first_is_denied_in_silence() {
    let filter = compile(&default());
    let newest = table(NATIVE).values().max().unwrap() + 1;
    for number in [table(NATIVE)["clone3"], table(NATIVE)["openat2"], newest, 0x3fff_ffff, u32::MAX] {
        assert_eq!(verdict(&filter, NATIVE, number, [0; 6]), (ENOSYS, false), "{number:#x}");
        if number != u32::MAX {
            // Neither program relies on the other.
            assert_eq!(run(&filter.main, NATIVE, number, [0; 6]), ENOSYS, "{number:#x}");
        }
    }
}

#[test]
fn other_architectures_and_x32_are_killed() {
    let filter = compile(&default());
    for number in [0, 1, 20, 11, 1000, u32::MAX] {
        for arch in [I386, X86_64, AARCH64, 0, 0x4000_0028].into_iter().filter(|arch| *arch != NATIVE) {
            assert_eq!(verdict(&filter, arch, number, [0; 6]).0, KILL, "{arch:#x} {number}");
        }
    }
    if NATIVE == X86_64 {
        for number in [0x4000_0000, 0x4000_0001, 0x4000_0200, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe] {
            assert_eq!(verdict(&filter, NATIVE, number, [0; 6]).0, KILL, "{number:#x}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn i386_is_filtered_by_its_own_numbers() {
    let policy = Policy { native_abi_only: false, ..default() };
    assert_eq!(on_abi(&policy, I386, "getpid", &[]), ALLOW);
    // mkdir and exit of the other table have these numbers here.
    assert_eq!(on_abi(&policy, I386, "ptrace", &[]), EPERM);
    assert_eq!(on_abi(&policy, I386, "mount", &[]), EPERM);
    assert_eq!(on_abi(&policy, I386, "socketcall", &[1]), EPERM);
    assert_eq!(on_abi(&policy, I386, "socket", &[40]), EAFNOSUPPORT);
    assert_eq!(on_abi(&policy, I386, "clone", &[0x1000_0000]), EPERM);
    assert_eq!(on_abi(&policy, I386, "clone3", &[]), ENOSYS);
    let filter = compile(&policy);
    assert_eq!(verdict(&filter, X86_64, 0x4000_0000, [0; 6]).0, KILL, "x32 is never let in");
    assert_eq!(verdict(&filter, AARCH64, 0, [0; 6]).0, KILL);
    let policy = Policy { no_wx: true, families: Families::Any, ..policy };
    assert_eq!(on_abi(&policy, I386, "socketcall", &[1]), ALLOW);
    assert_eq!(on_abi(&policy, I386, "mmap", &[]), EPERM);
    assert_eq!(on_abi(&policy, I386, "mmap2", &[0, 0, 5]), ALLOW);
    assert_eq!(on_abi(&policy, I386, "mmap2", &[0, 0, 7]), EPERM);
}

#[test]
fn arguments_are_compared_in_their_low_half() {
    // `on` puts garbage into every upper half.
    let policy = default();
    for request in [0x5412, 0x541c, 0x5423] {
        assert_eq!(on(&policy, "ioctl", &[0, request]), EPERM, "{request:#x}");
    }
    assert_eq!(on(&policy, "ioctl", &[0, 0x5401]), ALLOW);
    assert_eq!(on(&policy, "personality", &[0]), ALLOW);
    assert_eq!(on(&policy, "personality", &[0xffff_ffff]), ALLOW);
    assert_eq!(on(&policy, "personality", &[0x0004_0000]), EPERM);
    assert_eq!(on(&Policy { lock_personality: false, ..policy }, "personality", &[8]), ALLOW);
}

#[test]
fn sockets_are_of_the_families_that_are_listed() {
    let policy = default();
    for call in ["socket", "socketpair"] {
        for (family, protocol, wanted) in [
            (1, 0, ALLOW),
            (2, 6, ALLOW),
            (10, 17, ALLOW),
            (16, 0, ALLOW),
            (16, 12, EAFNOSUPPORT),
            (17, 0, EAFNOSUPPORT),
            (38, 0, EAFNOSUPPORT),
            (40, 0, EAFNOSUPPORT),
            (0, 0, EAFNOSUPPORT),
            (0xffff_ffff, 0, EAFNOSUPPORT),
        ] {
            assert_eq!(on(&policy, call, &[family, 1, protocol]), wanted, "{call} {family} {protocol}");
        }
    }
    let of = |names: &[&str]| Policy { families: Families::Only(words(names)), ..policy.clone() };
    assert_eq!(on(&of(&[]), "socket", &[1]), EAFNOSUPPORT);
    assert_eq!(on(&of(&["unix"]), "socket", &[16, 3, 0]), EAFNOSUPPORT);
    assert_eq!(on(&of(&["inet"]), "socket", &[16, 3, 0]), ALLOW);
    assert_eq!(on(&of(&["inet", "netlink"]), "socket", &[16, 3, 12]), ALLOW);
    assert_eq!(on(&of(&["vsock"]), "socket", &[40]), ALLOW);
    assert_eq!(on(&Policy { families: Families::Any, ..policy.clone() }, "socket", &[38]), ALLOW);
    let capabilities =
        |name: &str| Policy { capabilities: BTreeSet::from([name.to_owned()]), ..policy.clone() };
    assert_eq!(on(&capabilities("CAP_NET_RAW"), "socket", &[17]), ALLOW);
    assert_eq!(on(&capabilities("CAP_NET_ADMIN"), "socket", &[16, 3, 12]), ALLOW);
    let spelled_out = Policy { families: Families::Only(words(&["inet"])), ..capabilities("CAP_NET_RAW") };
    assert_eq!(on(&spelled_out, "socket", &[17]), EAFNOSUPPORT);
}

#[test]
fn namespaces_are_neither_made_nor_entered() {
    let policy = default();
    for bit in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(on(&policy, "clone", &[bit | 17]), EPERM, "{bit:#x}");
        assert_eq!(on(&policy, "unshare", &[bit]), EPERM, "{bit:#x}");
    }
    assert_eq!(on(&policy, "unshare", &[0x80]), EPERM, "CLONE_NEWTIME");
    assert_eq!(on(&policy, "unshare", &[0x400]), ALLOW, "CLONE_FILES");
    // A thread of glibc's.
    assert_eq!(on(&policy, "clone", &[0x003d_0f00]), ALLOW);
    assert_eq!(on(&policy, "clone3", &[]), ENOSYS);
    let free = Policy { no_namespaces: false, ..default() };
    assert_eq!(on(&free, "clone3", &[]), ALLOW);
    assert_eq!(on(&free, "clone", &[0x1000_0000]), ALLOW);
    assert_eq!(on(&free, "setns", &[]), EPERM, "not in the default list");
    let nested = Policy { nested: true, ..default() };
    for name in ["clone3", "unshare", "setns", "mount", "pivot_root", "chroot", "sethostname", "keyctl"] {
        assert_eq!(on(&nested, name, &[0x1000_0000]), ALLOW, "{name}");
    }
    for name in ["bpf", "ptrace", "perf_event_open", "kexec_load", "open_by_handle_at", "io_uring_setup"] {
        assert_eq!(on(&nested, name, &[]), EPERM, "{name}");
    }
}

#[test]
fn no_file_gets_a_set_user_id_bit() {
    let policy = default();
    for mode in [0o4755, 0o2755, 0o6000] {
        assert_eq!(on(&policy, "fchmod", &[3, mode]), EPERM);
        assert_eq!(on(&policy, "fchmodat", &[3, 0, mode]), EPERM);
        assert_eq!(on(&policy, "fchmodat2", &[3, 0, mode]), EPERM);
        assert_eq!(on(&policy, "mknodat", &[3, 0, mode]), EPERM);
        for makes in [0o101, 0o20_200_002] {
            assert_eq!(on(&policy, "openat", &[3, 0, makes, mode]), EPERM, "{makes:o}");
        }
        assert_eq!(on(&policy, "openat", &[3, 0, 0o2, mode]), ALLOW, "the mode means nothing then");
    }
    assert_eq!(on(&policy, "fchmod", &[3, 0o1777]), ALLOW);
    assert_eq!(on(&policy, "openat", &[3, 0, 0o101, 0o644]), ALLOW);
    assert_eq!(on(&policy, "openat2", &[]), ENOSYS);
    let free = Policy { no_suid: false, ..default() };
    assert_eq!((on(&free, "fchmod", &[3, 0o4755]), on(&free, "openat2", &[])), (ALLOW, ALLOW));
    if NATIVE == X86_64 {
        for name in ["chmod", "creat", "mknod"] {
            assert_eq!(on(&policy, name, &[0, 0o4755]), EPERM, "{name}");
        }
        assert_eq!(on(&policy, "open", &[0, 0o100, 0o2755]), EPERM);
        assert_eq!(on(&policy, "open", &[0, 0, 0o2755]), ALLOW);
    }
}

#[test]
fn nothing_becomes_realtime() {
    let policy = default();
    for wanted in [1, 2, 6, 7, 0x4000_0001] {
        assert_eq!(on(&policy, "sched_setscheduler", &[0, wanted]), EPERM, "{wanted}");
    }
    for allowed in [0, 3, 5, 0x4000_0000, 0x4000_0003] {
        assert_eq!(on(&policy, "sched_setscheduler", &[0, allowed]), ALLOW, "{allowed}");
    }
    assert_eq!(on(&policy, "sched_setattr", &[]), EPERM);
    assert_eq!(on(&Policy { no_realtime: false, ..policy }, "sched_setattr", &[]), ALLOW);
}

#[test]
fn no_memory_is_written_and_executed() {
    let free = default();
    let policy = Policy { no_wx: true, ..default() };
    for (name, args, wanted) in [
        ("mmap", &[0, 4096, 7][..], EPERM),
        ("mmap", &[0, 4096, 6], EPERM),
        ("mmap", &[0, 4096, 5], ALLOW),
        ("mmap", &[0, 4096, 3], ALLOW),
        ("mprotect", &[0, 4096, 5], EPERM),
        ("mprotect", &[0, 4096, 3], ALLOW),
        ("pkey_mprotect", &[0, 4096, 4], EPERM),
        ("shmat", &[0, 0, 0o100_000], EPERM),
        ("shmat", &[0, 0, 0o10_000], ALLOW),
        ("memfd_create", &[], EPERM),
    ] {
        assert_eq!(on(&policy, name, args), wanted, "{name} {args:?}");
        assert_eq!(on(&free, name, args), ALLOW, "{name} {args:?} without no_wx");
    }
    let unlocked = Policy { lock_personality: false, ..policy };
    assert_eq!(on(&unlocked, "personality", &[0x0040_0000]), EPERM);
    assert_eq!(on(&unlocked, "personality", &[0xffff_ffff]), ALLOW);
    assert_eq!(on(&unlocked, "personality", &[8]), ALLOW);
}

#[test]
fn lists_begin_with_nothing_or_with_the_default() {
    let with = |allow: &[&str]| Policy { allow: words(allow), ..default() };
    // Alone, a name stands for itself and what every program needs.
    let alone = with(&["@basic-io"]);
    assert_eq!(
        (on(&alone, "read", &[]), on(&alone, "execve", &[]), on(&alone, "futex", &[])),
        (ALLOW, ALLOW, ALLOW)
    );
    assert_eq!((on(&alone, "socket", &[1]), on(&alone, "openat", &[])), (EPERM, EPERM));
    // A removal in front takes out of the default.
    let less = with(&["~@network-io", "~futex"]);
    assert_eq!((on(&less, "openat", &[]), on(&less, "socket", &[1])), (ALLOW, EPERM));
    assert_eq!(on(&less, "futex", &[]), EPERM, "also out of what every program needs");
    let more = with(&["@service", "bpf", "~@basic-io"]);
    assert_eq!((on(&more, "bpf", &[]), on(&more, "read", &[])), (ALLOW, EPERM));
    for name in groups::INDISPENSABLE {
        assert_eq!(on(&more, name, &[]), ALLOW, "{name}");
    }
    assert_eq!(on(&with(&["@known"]), "mount", &[]), ALLOW);
    assert_eq!(on(&with(&["@known"]), "clone", &[0x1000_0000]), EPERM, "restrictions are keys of their own");
    assert_eq!(on(&with(&["gone_with_an_older_version"]), "mount", &[]), EPERM);
}

#[test]
fn the_start_can_read_back_and_filter_whatever_is_allowed() {
    let tight = Policy { allow: words(&["@basic-io"]), ..default() };
    assert_eq!((on(&tight, "prctl", &[21]), on(&tight, "prctl", &[22])), (ALLOW, EPERM));
    assert_eq!((on(&tight, "seccomp", &[1, 0]), on(&tight, "seccomp", &[1, 8])), (ALLOW, EPERM));
    let early = Policy { early: true, ..tight };
    for name in ["setgroups", "setresuid", "capset", "prctl", "chdir", "umask", "openat"] {
        assert_eq!(on(&early, name, &[]), ALLOW, "{name}");
    }
}

#[test]
fn a_list_says_what_becomes_of_a_call() {
    let policy = Policy { kill: words(&["@reboot", "@basic-io"]), log: words(&["@mount"]), ..default() };
    assert_eq!((on(&policy, "reboot", &[]), on(&policy, "read", &[])), (KILL, KILL));
    assert_eq!((on(&policy, "mount", &[]), on(&policy, "bpf", &[])), (LOG, EPERM));
    assert_eq!(on(&policy, "write", &[]), ALLOW, "or no fault could be reported");
    for (denial, wanted) in
        [(Denial::Eperm, EPERM), (Denial::Enosys, ENOSYS), (Denial::Kill, KILL), (Denial::Log, LOG)]
    {
        let policy = Policy { denial, ..default() };
        assert_eq!(on(&policy, "bpf", &[]), wanted, "{denial:?}");
        assert_eq!(on(&policy, "socket", &[40]), EAFNOSUPPORT, "restrictions hold whatever {denial:?}");
        assert_eq!(on(&policy, "clone3", &[]), ENOSYS);
    }
}

#[test]
fn a_capability_opens_what_it_is_for() {
    let granted = |name: &str| Policy { capabilities: BTreeSet::from([name.to_owned()]), ..default() };
    for (capability, call) in [
        ("CAP_SYS_PTRACE", "ptrace"),
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_BPF", "bpf"),
    ] {
        assert_eq!((on(&granted(capability), call, &[]), on(&default(), call, &[])), (ALLOW, EPERM));
        let less = Policy { allow: words(&["@service", &format!("~{call}")]), ..granted(capability) };
        assert_eq!(on(&less, call, &[]), EPERM, "{call} is taken out by name");
        let none = Policy { allow: words(&["@basic-io"]), ..granted(capability) };
        assert_eq!(on(&none, call, &[]), EPERM, "{call} comes with the default alone");
    }
    assert_eq!(on(&granted("CAP_SYS_ADMIN"), "setns", &[]), EPERM, "no_namespaces is a key of its own");
}

#[test]
fn a_filter_is_compiled_once_and_stays_short() {
    let (one, two) = (compile(&default()), compile(&default()));
    assert!(Arc::ptr_eq(&one, &two));
    println!("{} and {} instructions", one.main.len(), one.quiet.len());
    assert!(one.main.len() < 250, "{} instructions", one.main.len());
    assert!(one.quiet.len() < 30, "{} instructions", one.quiet.len());
    let both = compile(&Policy { native_abi_only: false, no_wx: true, ..default() });
    assert!(both.main.len() < MAX_INSTRUCTIONS / 2, "{} instructions", both.main.len());
}

/// Every number of every architecture, under short programs and under ones that are longer than a jump reaches.
#[test]
fn each_number_is_judged_by_its_own_name() {
    for (allow, no_wx) in
        [(&["@service"][..], true), (&["@known"], false), (&["@basic-io", "~@default"], true)]
    {
        let policy = Policy { allow: words(allow), native_abi_only: false, no_wx, ..default() };
        let filter = compile(&policy);
        let listed = listed(&policy.allow, &policy.capabilities);
        let needed: BTreeSet<&str> = match allow.len() {
            1 => groups::group("@default").unwrap().calls().clone(),
            _ => groups::INDISPENSABLE.iter().copied().collect(),
        };
        for arch in [NATIVE, I386].into_iter().take(if NATIVE == X86_64 { 2 } else { 1 }) {
            let names: BTreeMap<u32, &str> =
                table(arch).into_iter().map(|(name, number)| (number, name)).collect();
            for number in 0..1000 {
                let value = verdict(&filter, arch, number, [0; 6]).0;
                let name = names.get(&number).copied();
                let may = name
                    .is_some_and(|name| listed.contains(name) || needed.contains(name) || name == "write");
                assert!(may || value != ALLOW, "{allow:?} {arch:#x} {number} {name:?}");
                // With arguments that no restriction minds, but for calls that are denied as a whole.
                let whole = [
                    "clone3",
                    "openat2",
                    "setns",
                    "sched_setattr",
                    "socketcall",
                    "socket",
                    "socketpair",
                    "memfd_create",
                    "memfd_secret",
                    "ipc",
                ];
                let old_mmap = name == Some("mmap") && arch == I386;
                if may && !old_mmap && !name.is_some_and(|name| whole.contains(&name)) {
                    assert_eq!(value, ALLOW, "{allow:?} {arch:#x} {number} {name:?}");
                }
            }
        }
    }
}

/// How many instructions are run for a call.
fn path(program: &Program, number: u32) -> usize {
    let (mut at, mut a, mut steps) = (0_usize, 0_u32, 0);
    loop {
        let code = &program.bytes()[at * 8..at * 8 + 8];
        let value = u32::from_ne_bytes(code[4..8].try_into().unwrap());
        let branch = |holds: bool| usize::from(if holds { code[2] } else { code[3] });
        (at, steps) = (at + 1, steps + 1);
        match u16::from_ne_bytes([code[0], code[1]]) {
            0x20 => a = [number, NATIVE].get(usize::try_from(value).unwrap() / 4).copied().unwrap_or(0),
            0x54 => a &= value,
            0x05 => at += usize::try_from(value).unwrap(),
            0x15 => at += branch(a == value),
            0x35 => at += branch(a >= value),
            0x45 => at += branch(a & value != 0),
            _ => return steps,
        }
    }
}

#[test]
fn a_call_is_found_in_a_few_steps() {
    let filter = compile(&default());
    for (name, number) in table(NATIVE) {
        assert!(path(&filter.main, number) < 32, "{name}: {}", path(&filter.main, number));
    }
}

proptest! {
    /// Whatever the list, number and arguments: what is let through is on the list, and what is not gets the errno.
    #[test]
    fn nothing_passes_but_what_is_listed(
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        taken in proptest::collection::vec(any::<proptest::sample::Index>(), 0..4),
        number in prop_oneof![0_u32..600, any::<u32>()],
        args in any::<[u64; 6]>(),
        foreign in any::<bool>(),
    ) {
        let all: Vec<&str> = names().collect();
        let allow: Vec<String> = picks.iter().map(|pick| pick.get(&all).to_string())
            .chain(taken.iter().map(|pick| format!("~{}", pick.get(&all)))).collect();
        let policy = Policy { allow, ..default() };
        let filter = compile(&policy);
        let arch = if foreign { if NATIVE == X86_64 { I386 } else { X86_64 } } else { NATIVE };
        let (value, _) = verdict(&filter, arch, number, args);
        let known: BTreeMap<u32, &str> = table(NATIVE).into_iter().map(|(name, number)| (number, name)).collect();
        let name = known.get(&number).copied();
        let listed = listed(&policy.allow, &policy.capabilities);
        let needed = groups::group("@default").unwrap().calls();
        if foreign {
            prop_assert_eq!(value, KILL);
        } else if value == ALLOW {
            let name = name.expect("a number that no call has is let through");
            prop_assert!(listed.contains(name) || needed.contains(name) || name == "write"
                || name == "prctl" && args[0] & 0xffff_ffff == 21
                || name == "seccomp" && args[0] & 0xffff_ffff == 1 && args[1] & 0xffff_ffff == 0, "{}", name);
        } else if NATIVE == X86_64 && (0x4000_0000..u32::MAX).contains(&number) {
            prop_assert_eq!(value, KILL);
        } else {
            prop_assert!([EPERM, ENOSYS, EAFNOSUPPORT].contains(&value), "{:#x}", value);
        }
    }
}
