//! The groups of system calls, by systemd's names, and what a capability is for.
//!
//! A group lists names of every architecture that we know; where one does not have a call the name stands for nothing.
//! A test holds that each name that the kernel's tables know is in a group, or in [`UNGROUPED`] with a reason.

use std::{collections::BTreeSet, sync::OnceLock};

/// What a service may call that asks for nothing: `@service`.
pub const DEFAULT: &str = "@service";

/// A set of system calls under one name.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// With the `@`.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Names of calls and of other groups; `~` takes out again.
    members: &'static str,
}

/// All groups but `@known`, which is everything.
pub const GROUPS: &[Group] = &[
    Group {
        name: DEFAULT,
        about: "what servers call: the default; with it come the calls that a granted capability is for",
        members: "@default @aio ~io_uring_enter ~io_uring_register ~io_uring_setup
            @basic-io @chown @file-system @io-event @ipc ~process_vm_readv ~process_vm_writev @memlock ~memfd_secret
            @network-io @pkey @process @resources ~migrate_pages ~move_pages @sandbox @setuid @signal @sync @timer
            capget capset copy_file_range fadvise64 fadvise64_64 flock get_mempolicy getcpu getpriority ioctl ioprio_get
            madvise mincore mremap personality readahead sched_getaffinity sched_getattr sched_getparam
            sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
            sched_rr_get_interval_time64 sendfile sendfile64 splice sysinfo tee umask uname unshare vmsplice cachestat",
    },
    Group {
        name: "@system-service",
        about: "what systemd calls a reasonable set for services: @service, and the kernel's keyring",
        members: "@service @keyring kcmp name_to_handle_at remap_file_pages",
    },
    Group {
        name: "@default",
        about: "always allowed: execution itself, memory, time, who one is, locks",
        members: "arch_prctl brk clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
            clock_nanosleep_time64 execve exit exit_group futex futex_requeue futex_time64 futex_wait futex_waitv
            futex_wake get_robust_list get_thread_area getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
            getgroups32 getpgid getpgrp getpid getppid getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
            getsid gettid gettimeofday getuid getuid32 map_shadow_stack membarrier mmap mmap2 mprotect mseal munmap
            nanosleep pause restart_syscall rseq rt_sigreturn sched_yield set_robust_list set_thread_area
            set_tid_address sigreturn time ugetrlimit uprobe uretprobe",
    },
    Group {
        name: "@aio",
        about: "asynchronous input and output; io_uring, which is not in @service",
        members: "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
            io_uring_enter io_uring_register io_uring_setup",
    },
    Group {
        name: "@basic-io",
        about: "reading, writing and seeking in what is open",
        members: "_llseek close close_range dup dup2 dup3 lseek pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
            readv write writev",
    },
    Group {
        name: "@chown",
        about: "changing who owns a file",
        members: "chown chown32 fchown fchown32 fchownat lchown lchown32",
    },
    Group {
        name: "@clock",
        about: "setting the host's clocks",
        members: "adjtimex clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime",
    },
    Group {
        name: "@cpu-emulation",
        about: "segments and emulation modes of old programs",
        members: "modify_ldt vm86 vm86old",
    },
    Group {
        name: "@debug",
        about: "looking into other processes and into the kernel",
        members: "kcmp lookup_dcookie perf_event_open pidfd_getfd process_madvise process_vm_readv process_vm_writev
            ptrace",
    },
    Group {
        name: "@file-system",
        about: "opening, making, naming and removing files and directories",
        members: "access chdir chmod close creat faccessat faccessat2 fallocate fchdir fchmod fchmodat fchmodat2 fcntl
            fcntl64 fgetxattr file_getattr file_setattr flistxattr fremovexattr fsetxattr fstat fstat64 fstatat
            fstatat64 fstatfs fstatfs64 ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat
            inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lgetxattr link linkat listmount listxattr
            listxattrat llistxattr lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat newfstatat oldfstat
            oldlstat oldstat open openat openat2 readdir readlink readlinkat removexattr removexattrat rename renameat
            renameat2 rmdir setxattr setxattrat stat stat64 statfs statfs64 statmount statx symlink symlinkat truncate
            truncate64 unlink unlinkat utime utimensat utimensat_time64 utimes",
    },
    Group {
        name: "@io-event",
        about: "waiting for input and output",
        members: "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
            epoll_wait_old eventfd eventfd2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select",
    },
    Group {
        name: "@ipc",
        about: "pipes, shared memory, semaphores and message queues; reaching into another process's memory",
        members: "ipc memfd_create mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
            mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 process_vm_readv process_vm_writev
            semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    },
    Group {
        name: "@keyring",
        about: "the kernel's keys, which know no namespaces",
        members: "add_key keyctl request_key",
    },
    Group {
        name: "@memlock",
        about: "keeping memory from being swapped out",
        members: "memfd_secret mlock mlock2 mlockall munlock munlockall",
    },
    Group { name: "@module", about: "kernel modules", members: "delete_module finit_module init_module" },
    Group {
        name: "@mount",
        about: "mounting, and changing the root",
        members: "chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr
            pivot_root umount umount2",
    },
    Group {
        name: "@network-io",
        about: "sockets",
        members: "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg
            recvmmsg_time64 recvmsg sendmmsg sendmsg sendto setsockopt shutdown socket socketcall socketpair",
    },
    Group {
        name: "@obsolete",
        about: "rare, replaced, or never there",
        members: "_sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle lock mpx
            nfsservctl oldolduname olduname prof profil putpmsg query_module remap_file_pages security sgetmask ssetmask stty sysfs tuxcall
            ulimit uselib ustat vserver",
    },
    Group {
        name: "@pkey",
        about: "memory protection keys",
        members: "pkey_alloc pkey_free pkey_mprotect",
    },
    Group {
        name: "@privileged",
        about: "what needs a capability",
        members: "@chown @clock @module @raw-io @reboot @swap _sysctl acct bpf capset chroot fanotify_init
            fanotify_mark lookup_dcookie mount mount_setattr move_mount nfsservctl open_by_handle_at perf_event_open
            pivot_root quotactl quotactl_fd setdomainname setfsgid setfsgid32 setfsuid setfsuid32 setgroups setgroups32
            sethostname setns syslog umount umount2 vhangup",
    },
    Group {
        name: "@process",
        about: "making, executing, waiting for and signalling processes; namespaces",
        members: "arch_prctl clone clone3 execve execveat fork getrusage kill pidfd_open pidfd_send_signal prctl
            process_mrelease rt_sigqueueinfo rt_tgsigqueueinfo setpgid setsid tgkill times tkill unshare vfork wait4
            waitid waitpid",
    },
    Group { name: "@raw-io", about: "the machine's ports", members: "ioperm iopl" },
    Group { name: "@reboot", about: "the end of the machine", members: "kexec_file_load kexec_load reboot" },
    Group {
        name: "@resources",
        about: "limits, scheduling, and where memory lies",
        members: "ioprio_set mbind migrate_pages move_pages nice prlimit64 sched_setaffinity sched_setattr
            sched_setparam sched_setscheduler set_mempolicy set_mempolicy_home_node setpriority setrlimit",
    },
    Group {
        name: "@sandbox",
        about: "walls that a program puts up around itself",
        members: "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    },
    Group {
        name: "@setuid",
        about: "becoming somebody else",
        members: "setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32
            setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    },
    Group {
        name: "@signal",
        about: "signal masks and actions",
        members: "rt_sigaction rt_sigpending rt_sigprocmask rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
            sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigsuspend",
    },
    Group { name: "@swap", about: "swap space", members: "swapoff swapon" },
    Group {
        name: "@sync",
        about: "writing out what is in memory",
        members: "fdatasync fsync msync sync sync_file_range syncfs",
    },
    Group {
        name: "@timer",
        about: "alarms and timers of one's own",
        members: "alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
            timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
            timerfd_settime64 times",
    },
];

/// In none of the groups: attack surface that no group's purpose needs, and what asks the security modules.
pub const UNGROUPED: &str = "lsm_get_self_attr lsm_list_modules lsm_set_self_attr userfaultfd";

/// What a capability is for, and `@service` gets where it is granted.
pub const CAPABILITIES: &[(&str, &str)] = &[
    ("CAP_BPF", "bpf"),
    ("CAP_CHECKPOINT_RESTORE", "kcmp"),
    ("CAP_DAC_READ_SEARCH", "name_to_handle_at open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "@mount fanotify_init fanotify_mark lookup_dcookie quotactl quotactl_fd setdomainname sethostname setns syslog",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "@module"),
    ("CAP_SYS_NICE", "migrate_pages move_pages process_madvise"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "@raw-io"),
    ("CAP_SYS_TIME", "@clock"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// What a program needs that makes sandboxes of its own: bubblewrap, runc, podman.
pub const NESTED: &str = "@mount keyctl setdomainname sethostname setns";

/// What the start itself does behind the filter, and what every program does without asking: these cannot be taken away.
pub const INDISPENSABLE: &[&str] = &["execve", "exit", "exit_group", "rt_sigreturn", "write"];

/// The steps that come behind a filter that has to be loaded early: to give up privileges, and to read back that they are
/// gone.
pub const EARLY: &str = "capget capset chdir close dup3 fchown fstatfs getcwd getgroups getresgid getresuid ioctl
    landlock_add_rule landlock_create_ruleset landlock_restrict_self openat prctl prlimit64 read rt_sigprocmask sendmsg
    setfsgid setfsuid setgroups setresgid setresuid statx umask";

/// The group with this name.
pub fn group(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.name == name)
}

impl Group {
    /// The names of the calls in it: worked out once, for every service asks.
    pub fn calls(&self) -> &'static BTreeSet<&'static str> {
        static CALLS: [OnceLock<BTreeSet<&str>>; GROUPS.len()] = [const { OnceLock::new() }; GROUPS.len()];
        let own = GROUPS.iter().zip(&CALLS).find(|(group, _)| group.name == self.name);
        own.expect("there are no other groups").1.get_or_init(|| {
            let mut calls = BTreeSet::new();
            for word in self.members.split_whitespace() {
                match word.strip_prefix('~') {
                    Some(name) => {
                        calls.remove(name);
                    }
                    None => calls.extend(expand(word)),
                }
            }
            calls
        })
    }
}

/// The names of the calls that a list without `~` stands for.
pub fn expand(words: &'static str) -> BTreeSet<&'static str> {
    let calls = |word: &'static str| match group(word) {
        Some(group) => group.calls().clone(),
        None => BTreeSet::from([word]),
    };
    words.split_whitespace().flat_map(calls).collect()
}
