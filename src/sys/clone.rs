//! Starting a process without copying the caller: clone3(2) with the caller's memory, on a stack of its own.
//!
//! A plain fork of a supervisor copies its page tables, milliseconds for some megabytes; this costs the same however large
//! the caller is. The caller stands still until the child has executed the init, so what runs in between is a
//! handful of system calls and nothing else. Nor are descriptors copied, but those below the two that the child is given:
//! [`Low`] keeps a low number for whoever will have thousands.

#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use libc::{c_int, c_void, pid_t};
use rustix::{
    fs::{Mode, OFlags},
    io::DupFlags,
};

use super::SysError;

/// How to start an init.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// CLONE_NEW* flags.
    pub namespaces: u64,
    /// The directory of the control group to start in (CLONE_INTO_CGROUP, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The executable, a sealed memfd.
    pub program: BorrowedFd<'a>,
    /// Becomes descriptor 3.
    pub channel: BorrowedFd<'a>,
}

/// A started child.
#[derive(Debug)]
pub struct Child {
    /// As the caller's pid namespace counts.
    pub pid: u32,
    /// Names this very process, also when its number is used again.
    pub pidfd: OwnedFd,
}

/// Shared with the child, which runs in the same memory while the caller waits.
struct Start {
    program: c_int,
    channel: c_int,
    /// The first number behind the two.
    behind: u32,
    raise: bool,
    step: &'static str,
    errno: c_int,
}

const STACK: usize = 32 * 1024;

/// The channel's: the last number that the child puts something onto.
const LAST_STANDARD: c_int = 3;

/// Starts the init: clone3, and in the child nothing but capabilities that survive the exec, two descriptors, exec.
///
/// In a new user namespace the child holds every capability but its id is not mapped yet; an exec in that state loses them,
/// unless they are ambient (capabilities(7)). So the child raises them, executes at once, and the caller writes the
/// maps afterwards.
///
/// # Errors
/// clone3(2), or the step of the child that failed. No process is left then.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Child, SysError> {
    // Signals wait until the child has executed: a handler that ran in it would run in the caller's memory.
    let blocked = SignalsBlocked::new();
    let stack = Stack::new()?;
    // The child puts the channel onto 0 to 3: neither of the two may lie there, to be overwritten or lost by exec.
    let mut copies = [None, None];
    let program = above_standard(spawn.program, &mut copies[0])?;
    let channel = above_standard(spawn.channel, &mut copies[1])?;
    let new_user = libc::CLONE_NEWUSER as u64;
    let mut start = Start {
        program,
        channel,
        behind: program.max(channel).unsigned_abs() + 1,
        raise: spawn.namespaces & new_user != 0,
        step: "",
        errno: 0,
    };
    let mut pidfd: c_int = -1;
    // SAFETY: an all-zero clone_args is valid, it is a struct of integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = spawn.namespaces
        | (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD) as u64
        | CLONE_CLEAR_SIGHAND;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.base as u64;
    args.stack_size = STACK as u64;
    if let Some(cgroup) = spawn.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: `args` asks for CLONE_VM on a stack of 32 KiB that nothing else uses and that lives until this function
    // returns; CLONE_VFORK keeps the caller, whose frame `start` lies in, from going on before the child has left
    // this memory by exec or _exit; `child` never returns and allocates nothing.
    let pid = unsafe { clone3(&raw const args, child, (&raw mut start).cast()) };
    drop(blocked);
    if pid < 0 {
        let errno = i32::try_from(-pid).unwrap_or(libc::EIO);
        return Err(SysError::new("clone3", format!("flags {:#x}", args.flags), errno));
    }
    // SAFETY: clone3 stored a new descriptor here, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = u32::try_from(pid).expect("a pid is positive");
    if start.errno != 0 {
        reap_child(pid);
        return Err(SysError::new(start.step, "in the new process", start.errno));
    }
    Ok(Child { pid, pidfd })
}

/// Starts a program of the host's that the kernel kills when the calling thread ends.
///
/// # Errors
/// fork(2), execve(2).
pub fn spawn_bound(command: &mut std::process::Command) -> std::io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let bind = move || {
        // SAFETY: this prctl takes numbers; it is async-signal-safe, as what follows.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: getppid(2) has no precondition.
        let now = unsafe { libc::getppid() };
        // The parent may have ended before the signal was set.
        match u32::try_from(now) == Ok(parent) {
            true => Ok(()),
            false => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: two system calls in the child of a program with one thread, and no allocation.
    unsafe { command.pre_exec(bind) };
    command.spawn()
}

/// As [`spawn_bound`], in a session and, with the `cgroup.procs` of one, in a control group of its own, with no descriptor
/// but the standard ones and with the usual limit of descriptors, umask and directory.
///
/// # Errors
/// As [`spawn_bound`]; write(2) where the group is gone.
pub fn spawn_apart(
    command: &mut std::process::Command,
    procs: Option<OwnedFd>,
) -> std::io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    let part = move || {
        if let Some(procs) = &procs {
            // SAFETY: write(2) reads one byte of a literal; 0 is whoever writes it (cgroups(7)).
            if unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
                return Err(std::io::Error::last_os_error());
            }
        }
        // SAFETY: setsid(2) has no precondition; a child that was just forked leads no group, so it does not fail.
        unsafe { libc::setsid() };
        // SAFETY: umask(2) takes a number.
        unsafe { libc::umask(0o022) };
        // SAFETY: getrlimit(2) writes, setrlimit(2) reads a structure of integers.
        let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
            limit.rlim_cur = limit.rlim_max.min(1024);
            // SAFETY: as above. Lowering needs no right.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        }
        let (first, all) = (3u32, u32::MAX);
        // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC only sets a flag on descriptors.
        match unsafe { libc::syscall(libc::SYS_close_range, first, all, libc::CLOSE_RANGE_CLOEXEC) } {
            0.. => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    command.current_dir("/");
    // SAFETY: a handful of system calls in the child of a program with one thread, and no allocation.
    unsafe { command.pre_exec(part) };
    spawn_bound(command)
}

/// Waits for a child that is ending. A process that is not our child (it was adopted) is not ours to reap.
pub fn reap(pidfd: &OwnedFd) {
    let wait = rustix::process::WaitId::PidFd(pidfd.as_fd());
    let _ = rustix::process::waitid(wait, rustix::process::WaitIdOptions::EXITED);
}

/// The number of `fd`, or of a copy that lies above the standard ones.
fn above_standard(fd: BorrowedFd<'_>, copy: &mut Option<OwnedFd>) -> Result<c_int, SysError> {
    if fd.as_raw_fd() > LAST_STANDARD {
        return Ok(fd.as_raw_fd());
    }
    Ok(copy.insert(copy_above(fd)?).as_raw_fd())
}

fn copy_above(fd: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    rustix::io::fcntl_dupfd_cloexec(fd, LAST_STANDARD + 1)
        .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))
}

/// A low descriptor number, kept for what children are to be given while thousands are open.
#[derive(Debug)]
pub struct Low {
    nothing: OwnedFd,
    place: OwnedFd,
}

impl Low {
    /// The lowest that is free now.
    ///
    /// # Errors
    /// From open(2), fcntl(2).
    pub fn keep() -> Result<Self, SysError> {
        let nothing = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::new("open", "/dev/null", errno))?;
        let place = copy_above(nothing.as_fd())?;
        Ok(Self { nothing, place })
    }

    /// Does something with `fd` under this number.
    ///
    /// # Errors
    /// From dup3(2), before `f` runs.
    pub fn with<T>(
        &mut self,
        fd: BorrowedFd<'_>,
        f: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Result<T, SysError> {
        put(fd, &mut self.place)?;
        let done = f(self.place.as_fd());
        // Whoever waits for the end of `fd` must not wait for this copy of it.
        put(self.nothing.as_fd(), &mut self.place)?;
        Ok(done)
    }
}

fn put(fd: BorrowedFd<'_>, place: &mut OwnedFd) -> Result<(), SysError> {
    rustix::io::dup3(fd, place, DupFlags::CLOEXEC).map_err(|errno| SysError::new("dup3", "", errno))
}

/// What the child of [`procfs_of_children`] has to say.
struct Mounting {
    mount: c_int,
    step: &'static str,
    errno: c_int,
}

/// procfs of the pid namespace that children of the calling thread are born into, attached nowhere.
///
/// The kernel takes the namespace of whoever mounts it (the option `pidns` came with Linux 6.17), so a child mounts it that
/// shares the caller's memory and descriptors and is gone when this returns. Inside the namespace it is root of the
/// host: it can be seen there for that moment, and neither signalled nor traced.
///
/// # Errors
/// clone3(2), fsopen(2), fsconfig(2), fsmount(2).
pub fn procfs_of_children() -> Result<OwnedFd, SysError> {
    let blocked = SignalsBlocked::new();
    let stack = Stack::new()?;
    let mut mounting = Mounting { mount: -1, step: "", errno: 0 };
    // SAFETY: an all-zero clone_args is valid, it is a struct of integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES) as u64 | CLONE_CLEAR_SIGHAND;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.base as u64;
    args.stack_size = STACK as u64;
    // SAFETY: as in `spawn`.
    let pid = unsafe { clone3(&raw const args, mount_procfs, (&raw mut mounting).cast()) };
    drop(blocked);
    if pid < 0 {
        let errno = i32::try_from(-pid).unwrap_or(libc::EIO);
        return Err(SysError::new("clone3", "in the joined pid namespace", errno));
    }
    reap_child(u32::try_from(pid).expect("a pid is positive"));
    if mounting.errno != 0 || mounting.mount < 0 {
        return Err(SysError::new(mounting.step, "proc, in the joined pid namespace", mounting.errno));
    }
    // SAFETY: the child stored a new descriptor of the common table here, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(mounting.mount) })
}

/// The child. Shares the caller's memory and descriptors: three system calls, no allocation.
extern "C" fn mount_procfs(mounting: *mut c_void) -> ! {
    // SAFETY: `procfs_of_children` passed a pointer to its `Mounting`, which lives while the caller is suspended.
    let mounting = unsafe { &mut *mounting.cast::<Mounting>() };
    let (cloexec, create) = (1u32, 6u32);
    let none = ptr::null::<libc::c_char>();
    mounting.step = "fsopen";
    // SAFETY: fsopen(2) reads a literal.
    let fs = unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), cloexec) };
    if fs >= 0 {
        mounting.step = "fsconfig";
        // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value.
        if unsafe { libc::syscall(libc::SYS_fsconfig, fs, create, none, none, 0) } >= 0 {
            mounting.step = "fsmount";
            let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
            // SAFETY: fsmount(2) takes numbers.
            let mount = unsafe { libc::syscall(libc::SYS_fsmount, fs, cloexec, attributes) };
            mounting.mount = c_int::try_from(mount).unwrap_or(-1);
        }
    }
    if mounting.mount < 0 {
        // errno is the calling thread's: parent and child share its memory, and only the child runs.
        mounting.errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    // SAFETY: closes what was opened here, or nothing.
    unsafe { libc::syscall(libc::SYS_close, fs) };
    // SAFETY: _exit(2) has no precondition.
    unsafe { libc::_exit(0) }
}

/// Reaps a child that has ended, or is about to.
fn reap_child(pid: u32) {
    let pid = pid_t::try_from(pid).expect("pids fit pid_t");
    // SAFETY: waitpid(2) with a null status writes nothing.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
}

/// The child. Shares the caller's memory: no allocation, no lock, nothing that a half-way stopped caller could hold.
extern "C" fn child(start: *mut c_void) -> ! {
    // SAFETY: `spawn` passed a pointer to its `Start`, which lives while the caller is suspended.
    let start = unsafe { &mut *start.cast::<Start>() };
    let failed = run_child(start);
    start.step = failed;
    // errno is the calling thread's: parent and child share its memory, and only the child runs.
    start.errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: _exit(2) has no precondition.
    unsafe { libc::_exit(127) }
}

/// The steps; returns the name of the one that failed.
fn run_child(start: &Start) -> &'static str {
    if start.raise && !raise_ambient() {
        return "capset";
    }
    // The table becomes the child's own with what lies in front of `behind`, and the rest is not even looked at. Before,
    // whatever is done to it is done to the caller's.
    let all = u32::MAX;
    // SAFETY: close_range(2) with CLOSE_RANGE_UNSHARE closes nothing of the caller's.
    if unsafe { libc::syscall(libc::SYS_close_range, start.behind, all, libc::CLOSE_RANGE_UNSHARE) } < 0 {
        return "close_range";
    }
    // 0, 1 and 2 as well: so what the init receives later never gets one of these numbers, and nothing of the caller's
    // standard streams reaches the sandbox.
    for fd in 0..=LAST_STANDARD {
        // SAFETY: dup2(2) takes any two numbers.
        if unsafe { libc::dup2(start.channel, fd) } < 0 {
            return "dup2";
        }
    }
    let first = LAST_STANDARD.unsigned_abs() + 1;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC only sets a flag on descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, all, libc::CLOSE_RANGE_CLOEXEC) };
    if closed < 0 {
        return "close_range";
    }
    const NAME: &CStr = c"palisade-init";
    let argv = [NAME.as_ptr(), ptr::null()];
    let envp: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: argv and envp end with a null pointer; the empty path with AT_EMPTY_PATH names the descriptor.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            start.program,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    "execveat"
}

/// Makes every permitted capability inheritable and ambient.
fn raise_ambient() -> bool {
    #[repr(C)]
    struct Head {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3
    let mut head = Head { version: 0x2008_0522, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes two elements of `data`.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut head, data.as_mut_ptr()) } < 0 {
        return false;
    }
    for half in &mut data {
        half.inheritable = half.permitted;
    }
    // SAFETY: version 3 reads two elements of `data`.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const head, data.as_ptr()) } < 0 {
        return false;
    }
    for (half, base) in data.iter().zip([0u32, 32]) {
        for bit in 0..32u32 {
            if half.permitted & (1 << bit) == 0 {
                continue;
            }
            let capability = libc::c_ulong::from(base + bit);
            let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
            // SAFETY: this prctl takes numbers.
            if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) } < 0 {
                return false;
            }
        }
    }
    true
}

/// A stack with a guard page below it.
struct Stack {
    map: *mut c_void,
    base: *mut c_void,
}

impl Stack {
    const GUARD: usize = 4096;

    fn new() -> Result<Self, SysError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let map = unsafe { libc::mmap(ptr::null_mut(), Self::GUARD + STACK, libc::PROT_NONE, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(SysError::new("mmap", "stack", std::io::Error::last_os_error()));
        }
        let base = map.wrapping_byte_add(Self::GUARD);
        let stack = Self { map, base };
        // SAFETY: the range lies inside the mapping just made.
        if unsafe { libc::mprotect(base, STACK, libc::PROT_READ | libc::PROT_WRITE) } < 0 {
            return Err(SysError::new("mprotect", "stack", std::io::Error::last_os_error()));
        }
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: `map` was mapped with this length by `new` and nothing points into it any more.
        unsafe { libc::munmap(self.map, Self::GUARD + STACK) };
    }
}

/// Every signal blocked, until dropped.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        // SAFETY: a sigset_t is an array of integers.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: points to a set of ours.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: both point to sets of ours.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
        Self(before)
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

// linux/sched.h; beyond the 32 bits that libc's constants have.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) whose child calls `entry(argument)` on the stack that `args` names.
///
/// # Safety
/// With CLONE_VM the stack must be nobody else's and outlive the child, and `entry` may do only what is
/// allowed in a vfork(2) child.
unsafe fn clone3(
    args: *const libc::clone_args,
    entry: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> i64 {
    let result: i64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the convention of syscall(2). The child starts with the given stack, so it must not touch this frame: it
    // has what it needs in registers, and the stack top is 16-byte aligned as `call` expects.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args, in("rsi") size_of::<libc::clone_args>(),
            in("r12") entry, in("r13") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above, with the registers of aarch64.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, #0",
            "mov x0, x21",
            "blr x20",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") args => result, in("x1") size_of::<libc::clone_args>(),
            in("x20") entry, in("x21") argument,
        );
    }
    result
}
