//! The unsafe part of the probes: system calls by their numbers, and children that may die.
//!
//! Whoever tries to break out does not ask a library first: a wrapper checks arguments that the kernel must check.

#![allow(unsafe_code, reason = "a probe makes calls that no wrapper offers")]

use std::{
    io::{PipeReader, Read, Write},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    libc::{self, c_long},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// What a system call answered.
pub type Answer = Result<usize, Errno>;

/// One system call. Pointers are given as numbers: what they point to lives until the call returns.
pub fn call(nr: c_long, args: &[usize]) -> Answer {
    let arg = |n: usize| args.get(n).copied().unwrap_or_default();
    // SAFETY: syscall(2) takes any numbers; the probes hand it buffers of their own that outlive it, or nonsense that the
    // kernel refuses. None of them maps over or unmaps memory of this program.
    let result = unsafe { libc::syscall(nr, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    Errno::result(result).map(|n| usize::try_from(n).unwrap_or_default())
}

/// The address of a C text or buffer, for [`call`].
pub fn at<T: ?Sized>(value: &T) -> usize {
    std::ptr::from_ref(value).cast::<u8>() as usize
}

/// getpid(2) by the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub fn getpid_i386() -> i64 {
    let mut result: i64 = 20;
    // SAFETY: the gate takes its number in eax and answers there; getpid has no argument and writes no memory.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    };
    result
}

/// How a child ended.
pub enum End {
    /// With this status, after having said this.
    Exited(i32, String),
    /// By this signal, and whether it left a core file.
    Signal(i32, bool),
    /// Not at all within the time; it was killed.
    Stuck,
}

/// Runs `what` in a child of its own and returns what it said.
///
/// # Panics
/// When no child can be made.
pub fn in_child(time: Duration, what: impl FnOnce() -> String) -> End {
    let (mut read, mut write) = std::io::pipe().expect("a pipe");
    // SAFETY: this program has one thread, so that the child may do whatever its parent may.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", Errno::last());
    if pid == 0 {
        drop(read);
        let said = what();
        let ok = write.write_all(said.as_bytes()).is_ok();
        leave(i32::from(!ok));
    }
    drop(write);
    let said = read_until(&mut read, time);
    if said.is_none() {
        // It is our child, and not reaped yet.
        let _ = call(libc::SYS_kill, &[number(pid), number(libc::SIGKILL)]);
    }
    let mut status = 0;
    // SAFETY: the status is written to a local of the right type.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 && Errno::last() == Errno::EINTR {}
    match said {
        None => End::Stuck,
        Some(_) if libc::WIFSIGNALED(status) => End::Signal(libc::WTERMSIG(status), libc::WCOREDUMP(status)),
        Some(said) => End::Exited(libc::WEXITSTATUS(status), said),
    }
}

/// Everything up to the end of the pipe; none when that does not come in time.
fn read_until(read: &mut PipeReader, time: Duration) -> Option<String> {
    let mut said = Vec::new();
    let limit = PollTimeout::try_from(time).unwrap_or(PollTimeout::NONE);
    loop {
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, limit) {
            Ok(0) => return None,
            Err(Errno::EINTR) => continue,
            _ => {}
        }
        let mut part = [0; 4096];
        match read.read(&mut part) {
            Ok(0) | Err(_) => return Some(String::from_utf8_lossy(&said).into_owned()),
            Ok(n) => said.extend_from_slice(&part[..n]),
        }
    }
}

/// As many children as there may be, up to `most`; all of them are gone when this returns.
pub fn fork_until(most: usize) -> (usize, Option<Errno>) {
    let mut pids = Vec::new();
    let mut error = None;
    while pids.len() < most && error.is_none() {
        // SAFETY: as for `in_child`; the child only waits to be killed.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: pause(2) has no argument.
                unsafe { libc::pause() };
            },
            pid if pid > 0 => pids.push(pid),
            _ => error = Some(Errno::last()),
        }
    }
    for pid in &pids {
        let _ = call(libc::SYS_kill, &[number(*pid), number(libc::SIGKILL)]);
    }
    for pid in &pids {
        // SAFETY: our own child, and no status is asked for.
        unsafe { libc::waitpid(*pid, std::ptr::null_mut(), 0) };
    }
    (pids.len(), error)
}

/// Leaves a child behind that no process of this tree waits for: forked twice, in a session of its own.
pub fn daemonise(what: impl FnOnce()) {
    // SAFETY: as for `in_child`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _ = call(libc::SYS_setsid, &[]);
        // SAFETY: as for `in_child`.
        if unsafe { libc::fork() } == 0 {
            for fd in 0..3 {
                let _ = call(libc::SYS_close, &[fd]);
            }
            what();
        }
        leave(0);
    }
    // SAFETY: our own child, and no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// Ends a child without what is due at the end of a program.
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit(2) takes any status.
    unsafe { libc::_exit(status) }
}

/// A signed number as the kernel takes it: in the low half of a register.
pub fn number(n: i32) -> usize {
    n.cast_unsigned() as usize
}

/// A descriptor as an argument of [`call`].
pub fn fd(fd: &impl AsRawFd) -> usize {
    number(fd.as_raw_fd())
}
