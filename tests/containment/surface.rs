//! Parts of the kernel that a server does not need, each by a call that the kernel would answer.

use std::{fs, os::fd::AsRawFd, time::Duration};

use nix::{errno::Errno, libc};

use crate::{
    battery::{Probe, Verdict, any, is_answered, is_out, works},
    probes,
    raw::{self, Answer, End, at, call, number},
};

/// See [`crate::battery`].
pub const PROBES: &[Probe] = probes! {
    S Surface "bpf-map" => |_| {
        // BPF_MAP_CREATE of an array: type, key, value, entries. Before its arguments the kernel looks at the sysctl.
        let attributes: [u32; 32] = std::array::from_fn(|n| [2, 4, 4, 1].get(n).copied().unwrap_or_default());
        works(call(libc::SYS_bpf, &[0, at(&attributes), 128]))
    };
    S Surface "bpf-command" => |_| is_answered(call(libc::SYS_bpf, &[9999, 0, 0]));
    S Surface "perf-event" => |_| {
        // An attribute structure of no known size is looked at before the right to it.
        let attributes = [0u32, 4096 * 64];
        is_answered(call(libc::SYS_perf_event_open, &[at(&attributes), 0, usize::MAX, usize::MAX, 0]))
    };
    S Surface "userfaultfd" => |_| {
        // UFFD_USER_MODE_ONLY, which needs no right.
        works(call(libc::SYS_userfaultfd, &[1 | number(libc::O_CLOEXEC)]))
    };
    S Surface "userfaultfd-flags" => |_| is_answered(call(libc::SYS_userfaultfd, &[0xffff]));
    S Surface "io-uring" => |_| {
        let parameters = [0u8; 120];
        works(call(libc::SYS_io_uring_setup, &[1, at(&parameters)]))
    };
    S Surface "io-uring-register" => |_| is_answered(call(libc::SYS_io_uring_register, &[usize::MAX, 0, 0, 0]));
    S Surface "io-uring-enter" => |_| is_answered(call(libc::SYS_io_uring_enter, &[usize::MAX, 0, 0, 0]));
    S Surface "modify-ldt" if ModifyLdt => |_| modify_ldt();
    S Surface "personality" => |_| {
        // READ_IMPLIES_EXEC: every page becomes executable.
        works(call(libc::SYS_personality, &[0x040_0000]))
    };
    S Surface "kexec" if Kexec => |_| is_answered(call(libc::SYS_kexec_load, &[0, 0, 0, usize::MAX]));
    S Surface "kexec-file" if Kexec => |_| {
        is_answered(call(libc::SYS_kexec_file_load, &[usize::MAX, usize::MAX, 0, 0, usize::MAX]))
    };
    E Surface "module" if Modules => |_| is_answered(call(libc::SYS_init_module, &[0, 0, at(c"")]));
    E Surface "module-file" if Modules => |_| is_answered(call(libc::SYS_finit_module, &[usize::MAX, at(c""), 0]));
    E Surface "module-removal" if Modules => |_| {
        is_answered(call(libc::SYS_delete_module, &[at(c"palisade_is_no_module"), number(libc::O_NONBLOCK)]))
    };
    E Surface "reboot" => |_| is_answered(call(libc::SYS_reboot, &[1, 2, 3, 0]));
    E Surface "swap" => |_| is_answered(call(libc::SYS_swapoff, &[at(c"/proc/no/such/swap")]));
    E Surface "accounting" => |_| is_answered(call(libc::SYS_acct, &[at(c"/proc/no/such/file")]));
    E Surface "clock" => |_| {
        // A time that is none: EINVAL comes before the right is looked at, and nothing is set.
        is_answered(call(libc::SYS_clock_settime, &[0, at(&[0i64, -1])]))
    };
    E Surface "clock-rate" => |_| {
        let mut change = [0u8; 208];
        // ADJ_TICK with a tick that cannot be.
        change[..4].copy_from_slice(&0x4000u32.to_ne_bytes());
        is_answered(call(libc::SYS_adjtimex, &[at(&change)]))
    };
    S Surface "quota" => |_| is_answered(call(libc::SYS_quotactl, &[0x8000_0700, 0, 0, at(&[0u8; 256])]));
    S Surface "fanotify" => |_| works(call(libc::SYS_fanotify_init, &[0x200 | 0x1, 0]));
    S Surface "kcmp" => |_| {
        let own = std::process::id() as usize;
        works(call(libc::SYS_kcmp, &[own, own, 0, 0, 0]))
    };
    S Surface "iopl" if Iopl => |_| works(iopl(3));
    S Surface "ioperm" if Iopl => |_| works(ioperm());
    S Surface "chroot-call" => |_| works(call(libc::SYS_chroot, &[at(c"/")]));
    S Surface "vhangup" => |_| {
        // A session of its own has no terminal, and nothing to hang up.
        let _ = call(libc::SYS_setsid, &[]);
        works(call(libc::SYS_vhangup, &[]))
    };
    S Surface "socket-alg" if AfAlg => |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0);
    S Surface "socket-packet" => |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
    S Surface "socket-packet-datagram" => |_| socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0);
    E Abstract "socket-vsock" if Vsock => |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    S Surface "socket-raw" => |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
    S Surface "socket-netfilter" if Nftables => |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
    S Surface "socket-uevent" => |_| socket(libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_KOBJECT_UEVENT);
    S Surface "socket-audit" => |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT);
    S Surface "socket-generic" => |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC);
    S Surface "socket-diag" => |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
    S OtherEntries "i386-gate" if I386 => |_| i386();
    S OtherEntries "x32-call" if X32 => |_| match call(X32_GETPID, &[]) {
        Err(errno) => Verdict::Held(errno.to_string()),
        Ok(pid) => is_out(pid == std::process::id() as usize, pid),
    };
    S OtherEntries "a-thread-is-filtered-too" => |_| {
        let thread = std::thread::spawn(|| {
            let mut parameters = [0u8; 120];
            call(libc::SYS_io_uring_setup, &[1, parameters.as_mut_ptr() as usize])
        });
        works(thread.join().unwrap_or(Err(Errno::EPERM)))
    };
    S OtherEntries "upper-half-of-an-argument" if Nftables => |_| {
        // Rubbish above the 32 bits that the kernel looks at.
        let family = 0xdead_0000_0000_0000 | number(libc::AF_NETLINK);
        works(call(libc::SYS_socket, &[family, number(libc::SOCK_RAW), number(libc::NETLINK_NETFILTER)]))
    };
    E UserNamespaces "unshare-user" => |_| works(call(libc::SYS_unshare, &[number(libc::CLONE_NEWUSER)]));
    S UserNamespaces "unshare-mount" => |_| works(call(libc::SYS_unshare, &[number(libc::CLONE_NEWNS)]));
    S UserNamespaces "unshare-net" => |_| works(call(libc::SYS_unshare, &[number(libc::CLONE_NEWNET)]));
    S UserNamespaces "unshare-pid" => |_| works(call(libc::SYS_unshare, &[number(libc::CLONE_NEWPID)]));
    S UserNamespaces "unshare-cgroup" => |_| works(call(libc::SYS_unshare, &[number(libc::CLONE_NEWCGROUP)]));
    E UserNamespaces "clone-user" => |_| made(call(libc::SYS_clone, &[number(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0, 0, 0]));
    E UserNamespaces "clone3-user" => |_| {
        let mut arguments = [0u64; 11];
        arguments[0] = number(libc::CLONE_NEWUSER) as u64;
        arguments[4] = number(libc::SIGCHLD) as u64;
        made(call(libc::SYS_clone3, &[at(&arguments), 88]))
    };
    E UserNamespaces "clone-mount" => |_| made(call(libc::SYS_clone, &[number(libc::CLONE_NEWNS | libc::SIGCHLD), 0, 0, 0, 0]));
    E UserNamespaces "budget-of-user-namespaces" => |_| {
        // The second wall behind the filter: where the number is 0, no way into the kernel helps.
        let max = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
        is_out(max.trim().parse::<u64>().is_ok_and(|max| max > 0), max.trim())
    };
    E Terminal "tiocsti" => |_| terminal(0x5412);
    E Terminal "tiocsti-with-upper-half" => |_| terminal(0xffff_ffff_0000_5412);
    E Terminal "tioclinux" => |_| terminal(0x541c);
    E Terminal "tioclinux-with-upper-half" => |_| terminal(0x1_0000_541c);
    E Terminal "controlling-terminal" => |_| crate::battery::opens("/dev/tty", libc::O_RDWR | libc::O_NOCTTY);
    E Terminal "standard-streams-are-no-terminal" => |_| {
        let mut settings = [0u8; 64];
        let tty = (0..3).filter(|fd| call(libc::SYS_ioctl, &[*fd, 0x5401, settings.as_mut_ptr() as usize]).is_ok()).count();
        is_out(tty > 0, format!("{tty} terminals"))
    };
    S Keyrings "add-key" => |_| {
        works(call(libc::SYS_add_key, &[at(c"user"), at(c"palisade-probe"), at(c"x"), 1, number(-3)]))
    };
    S Keyrings "request-key" => |_| is_answered(call(libc::SYS_request_key, &[at(c"user"), at(c"palisade-nobody"), 0, 0]));
    S Keyrings "keyctl" => |_| {
        // KEYCTL_GET_KEYRING_ID of the session keyring.
        works(call(libc::SYS_keyctl, &[0, number(-3), 0]))
    };
    L Keyrings "key-of-the-session" => |_| key(-3);
    L Keyrings "key-of-the-user" => |_| key(-4);
    L Keyrings "key-of-the-user-session" => |_| key(-5);
    S Tracing "trace-a-child" => |_| works(trace(0x4206, || None));
    E Tracing "trace-init" => |_| works(trace(0x4206, || Some(1)));
    E Tracing "read-the-memory-of-init" => |_| {
        let (from, to) = ([0x1000usize, 16], [0u8; 16]);
        let own = [at(&to), 16];
        // An address that is not mapped: EFAULT says that there was the right to try.
        match call(libc::SYS_process_vm_readv, &[1, at(&own), 1, at(&from), 1, 0]) {
            Ok(_) | Err(Errno::EFAULT) => Verdict::Escaped("process_vm_readv".to_owned()),
            Err(errno) => Verdict::Held(errno.to_string()),
        }
    };
    E Tracing "take-a-descriptor-of-init" => |_| {
        let taken = call(libc::SYS_pidfd_open, &[1, 0]).map(|init| {
            (0..64).map(|fd| call(libc::SYS_pidfd_getfd, &[init, fd, 0])).find(|a| *a != Err(Errno::EBADF))
        });
        match taken {
            Err(errno) | Ok(Some(Err(errno))) => Verdict::Held(errno.to_string()),
            Ok(None) => Verdict::Held("it has none".to_owned()),
            Ok(Some(Ok(_))) => Verdict::Escaped("pidfd_getfd".to_owned()),
        }
    };
    S Tracing "compare-with-init" => |_| works(call(libc::SYS_kcmp, &[std::process::id() as usize, 1, 1, 0, 0]));
};

/// getpid(2) by its x32 number.
const X32_GETPID: libc::c_long = 0x4000_0000 + 39;

fn child_says(what: impl FnOnce() -> String) -> String {
    match raw::in_child(Duration::from_secs(5), what) {
        End::Exited(_, said) => said,
        End::Signal(..) | End::Stuck => String::new(),
    }
}

/// Whether this kernel runs programs of 32 bits.
#[cfg(target_arch = "x86_64")]
pub fn i386_works() -> bool {
    child_says(|| (raw::getpid_i386() == i64::from(std::process::id())).to_string()) == "true"
}

/// As there are none for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn i386_works() -> bool {
    false
}

/// Whether this kernel has the x32 calls.
pub fn x32_works() -> bool {
    cfg!(target_arch = "x86_64")
        && child_says(|| (call(X32_GETPID, &[]) == Ok(std::process::id() as usize)).to_string()) == "true"
}

#[cfg(target_arch = "x86_64")]
fn i386() -> Verdict {
    let answer = raw::getpid_i386();
    is_out(answer == i64::from(std::process::id()), answer)
}

#[cfg(not(target_arch = "x86_64"))]
fn i386() -> Verdict {
    Verdict::Held("no such gate".to_owned())
}

#[cfg(target_arch = "x86_64")]
fn modify_ldt() -> Verdict {
    is_answered(call(libc::SYS_modify_ldt, &[0, at(&[0u8; 64]), 64]))
}

#[cfg(not(target_arch = "x86_64"))]
fn modify_ldt() -> Verdict {
    Verdict::Held("no such call".to_owned())
}

/// Whether the kernel has segments of one's own.
pub fn ldt_is_there() -> bool {
    matches!(modify_ldt(), Verdict::Escaped(_))
}

#[cfg(target_arch = "x86_64")]
fn iopl(level: usize) -> Answer {
    call(libc::SYS_iopl, &[level])
}

#[cfg(not(target_arch = "x86_64"))]
fn iopl(_: usize) -> Answer {
    Err(Errno::ENOSYS)
}

#[cfg(target_arch = "x86_64")]
fn ioperm() -> Answer {
    call(libc::SYS_ioperm, &[0x80, 1, 1])
}

#[cfg(not(target_arch = "x86_64"))]
fn ioperm() -> Answer {
    Err(Errno::ENOSYS)
}

/// Whether root gets at ports at all.
pub fn iopl_is_there() -> bool {
    child_says(|| iopl(3).is_ok().to_string()) == "true"
}

fn socket(family: i32, kind: i32, protocol: i32) -> Verdict {
    works(call(libc::SYS_socket, &[number(family), number(kind | libc::SOCK_CLOEXEC), number(protocol)]))
}

/// The end of a call that clones: the child is only there to have been made.
fn made(answer: Answer) -> Verdict {
    match answer {
        Ok(0) => raw::leave(0),
        Ok(child) => {
            let _ = call(libc::SYS_wait4, &[child, 0, 0, 0]);
            Verdict::Escaped("a child was made".to_owned())
        }
        Err(errno) => Verdict::Held(errno.to_string()),
    }
}

/// A request to a terminal of one's own, which is the only one there is.
fn terminal(request: usize) -> Verdict {
    let Ok(pty) = nix::pty::openpty(None, None) else {
        return any([]);
    };
    let slave = number(pty.slave.as_raw_fd());
    // Its end would hang up the session that it is about to lead.
    std::mem::forget(pty);
    let _ = call(libc::SYS_setsid, &[]);
    // TIOCSCTTY: to one's own controlling terminal anybody may type, where the kernel lets anybody at all.
    let _ = call(libc::SYS_ioctl, &[slave, 0x540e, 0]);
    match call(libc::SYS_ioctl, &[slave, request, at(b"x\0\0\0")]) {
        // EIO is the kernel's own switch (dev.tty.legacy_tiocsti): the request was looked at.
        Err(errno @ (Errno::EPERM | Errno::ENOSYS)) => Verdict::Held(errno.to_string()),
        other => Verdict::Escaped(format!("{other:?}")),
    }
}

/// A key that the tests have planted.
fn key(keyring: i32) -> Verdict {
    // KEYCTL_SEARCH, then KEYCTL_READ.
    let name = c"palisade-canary";
    works(call(libc::SYS_keyctl, &[10, number(keyring), at(c"user"), at(name), 0]))
}

/// Traces a process, a fresh child where there is none to name.
fn trace(request: usize, whom: impl FnOnce() -> Option<usize>) -> Answer {
    let child = match whom() {
        Some(pid) => return call(libc::SYS_ptrace, &[request, pid, 0, 0]),
        None => std::process::Command::new("/proc/self/exe").args(["__probe", "wait"]).spawn(),
    };
    let mut child = child.map_err(|_| Errno::EPERM)?;
    let answer = call(libc::SYS_ptrace, &[request, child.id() as usize, 0, 0]);
    // It is our own, and was only there to be traced.
    let _ = child.kill().and_then(|()| child.wait());
    answer
}
