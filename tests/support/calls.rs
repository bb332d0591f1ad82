//! System calls that a service has no business with, made for real. Whatever the answer, nothing changes: each has an
//! argument that the kernel refuses, so that even root on an open host only gets another error than the filter's.

#![allow(unsafe_code, reason = "no safe wrapper makes calls that are meant to fail")]

use std::collections::BTreeMap;

use nix::{errno::Errno, libc};

/// The address that no process has anything at.
const NOWHERE: i64 = 1;
const NONE: i64 = -1;

/// What each answers: `ok`, or the name of the error.
pub fn all() -> BTreeMap<&'static str, String> {
    let mut said: BTreeMap<&str, String> =
        TABLE.iter().map(|(name, nr, args)| (*name, outcome(raw(*nr, *args)))).collect();
    said.extend(of_this_machine());
    // The garbage in the upper half is not looked at by the kernel, so it must not be by the filter.
    let injected = raw(libc::SYS_ioctl, [NONE, 0x7_0000_5412, NOWHERE, 0, 0, 0]);
    said.insert("ioctl TIOCSTI and more", outcome(injected));
    said
}

/// Linux' own numbers: (what, number, arguments).
type Row = (&'static str, libc::c_long, [i64; 6]);

const TABLE: &[Row] = &[
    ("acct", libc::SYS_acct, [NOWHERE, 0, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [NOWHERE, NOWHERE, NOWHERE, 1, 0, 0]),
    ("adjtimex", libc::SYS_adjtimex, [NOWHERE, 0, 0, 0, 0, 0]),
    ("bpf", libc::SYS_bpf, [9999, NOWHERE, 8, 0, 0, 0]),
    ("chroot", libc::SYS_chroot, [NOWHERE, 0, 0, 0, 0, 0]),
    ("clock_adjtime", libc::SYS_clock_adjtime, [0, NOWHERE, 0, 0, 0, 0]),
    ("clock_settime", libc::SYS_clock_settime, [0, NOWHERE, 0, 0, 0, 0]),
    // CLONE_NEWUSER and CLONE_FS do not go together; nor do CLONE_NEWNS and CLONE_FS.
    ("clone NEWUSER", libc::SYS_clone, [0x1000_0200, 0, 0, 0, 0, 0]),
    ("clone NEWNS", libc::SYS_clone, [0x0002_0200, 0, 0, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [NOWHERE, 0, 0, 0, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [NOWHERE, 0, 0, 0, 0, 0]),
    ("fanotify_init", libc::SYS_fanotify_init, [NONE, 0, 0, 0, 0, 0]),
    ("fchmod 4755", libc::SYS_fchmod, [NONE, 0o4755, 0, 0, 0, 0]),
    ("fchmodat 2755", libc::SYS_fchmodat, [NONE, NOWHERE, 0o2755, 0, 0, 0]),
    ("finit_module", libc::SYS_finit_module, [NONE, NOWHERE, 0, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [NOWHERE, 0, 0, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [NOWHERE, 0, NOWHERE, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0, NOWHERE, 0, 0, 0, 0]),
    ("ioctl TIOCLINUX", libc::SYS_ioctl, [NONE, 0x541c, NOWHERE, 0, 0, 0]),
    ("ioctl TIOCSETD", libc::SYS_ioctl, [NONE, 0x5423, NOWHERE, 0, 0, 0]),
    ("ioctl TIOCSTI", libc::SYS_ioctl, [NONE, 0x5412, NOWHERE, 0, 0, 0]),
    ("kcmp", libc::SYS_kcmp, [NONE, NONE, 0, 0, 0, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0, 99_999, NOWHERE, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [9999, 0, 0, 0, 0, 0]),
    ("mknodat 4755", libc::SYS_mknodat, [NONE, NOWHERE, 0o14755, 0, 0, 0]),
    ("mount", libc::SYS_mount, [NOWHERE, NOWHERE, NOWHERE, 0, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [NONE, NOWHERE, 0, NOWHERE, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [NONE, NOWHERE, NONE, NOWHERE, 0, 0]),
    ("move_pages", libc::SYS_move_pages, [NONE, 1, NOWHERE, 0, NOWHERE, 0]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [NONE, NOWHERE, NOWHERE, NOWHERE, NONE, 0]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [NONE, NOWHERE, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [NONE, NOWHERE, 0, 0, 0, 0]),
    // O_CREAT | O_WRONLY, and O_TMPFILE | O_RDWR.
    ("openat O_CREAT 4755", libc::SYS_openat, [NONE, NOWHERE, 0o101, 0o4755, 0, 0]),
    ("openat O_TMPFILE 2755", libc::SYS_openat, [NONE, NOWHERE, 0o20_200_002, 0o2755, 0, 0]),
    ("openat2", libc::SYS_openat2, [NONE, NOWHERE, NOWHERE, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [NOWHERE, 0, NONE, NONE, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [NONE, 0, 0, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [NOWHERE, NOWHERE, 0, 0, 0, 0]),
    ("process_madvise", libc::SYS_process_madvise, [NONE, NOWHERE, 1, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [NONE, NOWHERE, 1, NOWHERE, 1, 0]),
    ("process_vm_writev", libc::SYS_process_vm_writev, [NONE, NOWHERE, 1, NOWHERE, 1, 0]),
    ("ptrace", libc::SYS_ptrace, [0xffff, NONE, 0, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [NONE, NOWHERE, 0, NOWHERE, 0, 0]),
    ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0, 0]),
    ("request_key", libc::SYS_request_key, [NOWHERE, NOWHERE, NOWHERE, 0, 0, 0]),
    ("sched_setattr", libc::SYS_sched_setattr, [0, 0, 0, 0, 0, 0]),
    // Priority 0 is none of SCHED_FIFO's, and an address that is none has no priority at all.
    ("sched_setscheduler FIFO", libc::SYS_sched_setscheduler, [0, 1, NOWHERE, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [NOWHERE, -1, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [NONE, 0, 0, 0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [NOWHERE, 0, 0, 0, 0, 0]),
    // No socket has type 15, and the kernel looks at the type before the family.
    ("socket ALG", libc::SYS_socket, [38, 15, 0, 0, 0, 0]),
    ("socket BLUETOOTH", libc::SYS_socket, [31, 15, 0, 0, 0, 0]),
    ("socket CAN", libc::SYS_socket, [29, 15, 0, 0, 0, 0]),
    ("socket NETLINK NETFILTER", libc::SYS_socket, [16, 15, 12, 0, 0, 0]),
    ("socket PACKET", libc::SYS_socket, [17, 15, 0, 0, 0, 0]),
    ("socket VSOCK", libc::SYS_socket, [40, 15, 0, 0, 0, 0]),
    ("socketpair TIPC", libc::SYS_socketpair, [30, 15, 0, NOWHERE, 0, 0]),
    ("swapoff", libc::SYS_swapoff, [NOWHERE, 0, 0, 0, 0, 0]),
    ("swapon", libc::SYS_swapon, [NOWHERE, -1, 0, 0, 0, 0]),
    ("syslog", libc::SYS_syslog, [9999, 0, 0, 0, 0, 0]),
    ("umount2", libc::SYS_umount2, [NOWHERE, -1, 0, 0, 0, 0]),
    // A flag that is none beside it.
    ("unshare NEWUSER", libc::SYS_unshare, [0x1000_0001, 0, 0, 0, 0, 0]),
    ("unshare NEWTIME", libc::SYS_unshare, [0x81, 0, 0, 0, 0, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, [0x4_0000, 0, 0, 0, 0, 0]),
    // What services do need, beside the same calls above: each as far as it goes without a good argument.
    ("allowed clone", libc::SYS_clone, [0x0000_0800, 0, 0, 0, 0, 0]),
    ("allowed fchmod", libc::SYS_fchmod, [NONE, 0o755, 0, 0, 0, 0]),
    ("allowed ioctl", libc::SYS_ioctl, [NONE, 0x5401, NOWHERE, 0, 0, 0]),
    ("allowed io_setup", libc::SYS_io_setup, [0, NOWHERE, 0, 0, 0, 0]),
    ("allowed openat", libc::SYS_openat, [NONE, NOWHERE, 0o101, 0o644, 0, 0]),
    ("allowed personality", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]),
    ("allowed socket INET", libc::SYS_socket, [2, 15, 0, 0, 0, 0]),
    ("allowed socket INET6", libc::SYS_socket, [10, 15, 0, 0, 0, 0]),
    ("allowed socket NETLINK ROUTE", libc::SYS_socket, [16, 15, 0, 0, 0, 0]),
    ("allowed socket UNIX", libc::SYS_socket, [1, 15, 0, 0, 0, 0]),
    ("allowed unshare FILES", libc::SYS_unshare, [0x400, 0, 0, 0, 0, 0]),
];

#[cfg(target_arch = "x86_64")]
fn of_this_machine() -> Vec<(&'static str, String)> {
    let table: &[Row] = &[
        ("chmod 4755", libc::SYS_chmod, [NOWHERE, 0o4755, 0, 0, 0, 0]),
        ("creat 4755", libc::SYS_creat, [NOWHERE, 0o4755, 0, 0, 0, 0]),
        ("ioperm", libc::SYS_ioperm, [-1, 1, 1, 0, 0, 0]),
        ("iopl", libc::SYS_iopl, [9, 0, 0, 0, 0, 0]),
        ("modify_ldt", libc::SYS_modify_ldt, [9999, NOWHERE, 0, 0, 0, 0]),
        ("open O_CREAT 4755", libc::SYS_open, [NOWHERE, 0o101, 0o4755, 0, 0, 0]),
        ("sysfs", libc::SYS_sysfs, [9999, 0, 0, 0, 0, 0]),
        ("ustat", libc::SYS_ustat, [NONE, NOWHERE, 0, 0, 0, 0]),
    ];
    table.iter().map(|(name, nr, args)| (*name, outcome(raw(*nr, *args)))).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn of_this_machine() -> Vec<(&'static str, String)> {
    Vec::new()
}

/// Memory that is written and executed, in every way that there is.
pub fn writable_code() -> BTreeMap<&'static str, String> {
    let page = raw(libc::SYS_mmap, [0, 4096, 3, 0x22, -1, 0]).expect("a page of memory");
    BTreeMap::from([
        ("mmap", outcome(raw(libc::SYS_mmap, [0, 4096, 7, 0x22, -1, 0]))),
        ("mprotect", outcome(raw(libc::SYS_mprotect, [page, 4096, 5, 0, 0, 0]))),
        ("pkey_mprotect", outcome(raw(libc::SYS_pkey_mprotect, [page, 4096, 5, -1, 0, 0]))),
        ("memfd_create", outcome(raw(libc::SYS_memfd_create, [NOWHERE, 0, 0, 0, 0, 0]))),
        ("shmat", outcome(raw(libc::SYS_shmat, [-1, 0, 0o100_000, 0, 0, 0]))),
        ("allowed mmap", outcome(raw(libc::SYS_mmap, [0, 4096, 5, 0x22, -1, 0]))),
        ("allowed mprotect", outcome(raw(libc::SYS_mprotect, [page, 4096, 1, 0, 0, 0]))),
    ])
}

/// Another personality; the process keeps it, where it gets it.
pub fn personality() -> String {
    outcome(raw(libc::SYS_personality, [0x0008, 0, 0, 0, 0, 0]))
}

/// getpid(2) as an i386 program asks for it, from this 64-bit one.
#[cfg(target_arch = "x86_64")]
pub fn i386(number: i32) -> i32 {
    let result;
    // SAFETY: the kernel's convention for `int 0x80`: the number and result in eax, nothing else is touched for a call
    // without arguments; r8 to r11 are not preserved by older kernels.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") number => result,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    result
}

/// getpid(2) of the x32 ABI.
pub fn x32() -> String {
    outcome(raw(0x4000_0000 + libc::SYS_getpid, [0; 6]))
}

/// Nanoseconds for a call that is always allowed, which the kernel remembers, and for one whose arguments are looked at.
pub fn nanoseconds(count: u32) -> [f64; 2] {
    let calls = [(libc::SYS_getppid, [0; 6]), (libc::SYS_ioctl, [NONE, 0x5401, NOWHERE, 0, 0, 0])];
    calls.map(|(number, args)| {
        let began = std::time::Instant::now();
        for _ in 0..count {
            // Whatever it says.
            let _ = raw(number, args);
        }
        began.elapsed().as_nanos() as f64 / f64::from(count)
    })
}

fn raw(number: libc::c_long, args: [i64; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: every call here either has no good pointer to write through, or asks for fresh memory.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

fn outcome(result: Result<i64, Errno>) -> String {
    result.map_or_else(|errno| format!("{errno:?}"), |_| "ok".to_owned())
}
