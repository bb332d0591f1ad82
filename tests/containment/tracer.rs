//! A tracer that lets one system call of a process tree fail: `__inject OUT TARGET ERRNO SECONDS PROGRAM ARGUMENTS...`
//!
//! strace(1) counts the calls of every process for itself and lets the nth of each fail; this one names one call of one
//! process. A process is named by its descent (`0` is the program, `0.1` its second child), because the order in which
//! a single-threaded program makes children is the same every time.

#![allow(unsafe_code, reason = "ptrace(2) has no safe form")]

use std::{collections::BTreeMap, ffi::CString, fmt::Write, fs, os::unix::ffi::OsStrExt, ptr};

use nix::libc::{self, c_long, c_void, pid_t};

/// One traced process.
#[derive(Default)]
struct Tracee {
    name: String,
    children: usize,
    calls: usize,
    fails: bool,
}

/// What is traced, and what has been seen.
struct Tracer {
    target: String,
    errno: c_long,
    tracees: BTreeMap<pid_t, Tracee>,
    /// Stopped before their parent has told of them.
    early: Vec<pid_t>,
    seen: String,
}

fn ptrace(request: libc::c_uint, pid: pid_t, address: usize, data: usize) -> c_long {
    // SAFETY: addresses are null or those of live locals of the size that the request wants; the tracee's memory is not ours.
    unsafe {
        libc::ptrace(
            request,
            pid,
            ptr::with_exposed_provenance_mut::<c_void>(address),
            ptr::with_exposed_provenance_mut::<c_void>(data),
        )
    }
}

fn goes_on(pid: pid_t, signal: i32) {
    // One that was killed meanwhile is waited for like any other.
    ptrace(libc::PTRACE_SYSCALL, pid, 0, usize::try_from(signal).unwrap_or_default());
}

/// Runs the program and writes what was called to `out`. Ends as the program ended; after `seconds` by SIGALRM.
pub fn main(out: &str, target: &str, errno: &str, seconds: &str, program: &[&str]) -> u8 {
    let all: Vec<CString> = program.iter().map(|arg| CString::new(*arg).expect("an argument")).collect();
    let mut argv: Vec<*const libc::c_char> = all.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(ptr::null());
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        // SAFETY: raise(3) takes any signal.
        unsafe { libc::raise(libc::SIGSTOP) };
        // SAFETY: the vector ends with a null and its texts are alive.
        unsafe { libc::execv(argv[0], argv.as_ptr()) };
        crate::raw::leave(99);
    }
    // SAFETY: alarm(2) takes any number; its signal ends this process, and with it, by PTRACE_O_EXITKILL, all others.
    unsafe { libc::alarm(seconds.parse().expect("a number")) };
    let errno = errno.parse().expect("a number");
    let mut tracer = Tracer {
        target: target.to_owned(),
        errno,
        tracees: BTreeMap::new(),
        early: vec![],
        seen: String::new(),
    };
    tracer.tracees.insert(pid, Tracee { name: "0".to_owned(), ..Tracee::default() });
    let status = tracer.follow(pid);
    fs::write(out, &tracer.seen).expect("our own directory");
    status
}

impl Tracer {
    fn follow(&mut self, main: pid_t) -> u8 {
        let mut ended = 98;
        let mut began = false;
        loop {
            let mut status = 0;
            // SAFETY: the status is a live local.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
            if pid < 0 {
                return ended;
            }
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                if pid == main {
                    let code = if libc::WIFEXITED(status) {
                        libc::WEXITSTATUS(status)
                    } else {
                        128 + libc::WTERMSIG(status)
                    };
                    ended = u8::try_from(code).unwrap_or(97);
                }
                self.tracees.remove(&pid);
                continue;
            }
            if !began {
                began = true;
                let wanted = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_TRACEVFORK
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACEEXEC
                    | libc::PTRACE_O_EXITKILL;
                ptrace(libc::PTRACE_SETOPTIONS, pid, 0, usize::try_from(wanted).unwrap_or_default());
                goes_on(pid, 0);
                continue;
            }
            self.stopped(pid, status);
        }
    }

    fn stopped(&mut self, pid: pid_t, status: i32) {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if !self.tracees.contains_key(&pid) {
            self.early.push(pid);
            return;
        }
        if signal == libc::SIGTRAP | 0x80 {
            self.call(pid);
        } else if event == libc::PTRACE_EVENT_EXEC {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let name = &self.tracees[&pid].name;
            let program = String::from_utf8_lossy(program.as_os_str().as_bytes()).into_owned();
            let _ = writeln!(self.seen, "{name} exec {program}");
        } else if event != 0 {
            self.born(pid);
        } else if signal != libc::SIGTRAP && !(signal == libc::SIGSTOP && self.tracees[&pid].calls == 0) {
            goes_on(pid, signal);
            return;
        }
        goes_on(pid, 0);
    }

    fn born(&mut self, parent: pid_t) {
        let mut child: libc::c_ulong = 0;
        ptrace(libc::PTRACE_GETEVENTMSG, parent, 0, (&raw mut child).expose_provenance());
        let child = pid_t::try_from(child).unwrap_or_default();
        let of = self.tracees.get_mut(&parent).expect("it was stopped");
        let name = format!("{}.{}", of.name, of.children);
        of.children += 1;
        self.tracees.insert(child, Tracee { name, ..Tracee::default() });
        if let Some(at) = self.early.iter().position(|pid| *pid == child) {
            self.early.swap_remove(at);
            goes_on(child, 0);
        }
    }

    /// The entry of a call, or its end.
    fn call(&mut self, pid: pid_t) {
        // SAFETY: a structure of integers.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::ptrace_syscall_info>();
        ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, (&raw mut info).expose_provenance());
        let tracee = self.tracees.get_mut(&pid).expect("it was looked for");
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            tracee.calls += 1;
            // SAFETY: at an entry the kernel has filled this member.
            let nr = unsafe { info.u.entry.nr };
            let name = format!("{} {}", tracee.name, tracee.calls);
            let _ = writeln!(self.seen, "{name} call {nr}");
            if name == self.target {
                let _ = writeln!(self.seen, "{name} fails {nr}");
                tracee.fails = true;
                set(pid, libc::c_ulonglong::MAX, None);
            }
        } else if info.op == libc::PTRACE_SYSCALL_INFO_EXIT && tracee.fails {
            tracee.fails = false;
            set(pid, 0, Some(-self.errno));
        }
    }
}

/// Puts no call in place of the one that is entered, or an answer in place of the one that it gave.
#[cfg(target_arch = "x86_64")]
fn set(pid: pid_t, nr: libc::c_ulonglong, answer: Option<c_long>) {
    // SAFETY: a structure of integers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, 0, (&raw mut registers).expose_provenance());
    match answer {
        Some(answer) => registers.rax = answer.cast_unsigned(),
        None => registers.orig_rax = nr,
    }
    ptrace(libc::PTRACE_SETREGS, pid, 0, (&raw mut registers).expose_provenance());
}

/// As above, where the number of the call has a register set of its own.
#[cfg(target_arch = "aarch64")]
fn set(pid: pid_t, _: libc::c_ulonglong, answer: Option<c_long>) {
    // NT_PRSTATUS and NT_ARM_SYSTEM_CALL.
    let (mut registers, mut none) = ([0u64; 34], -1i32);
    let set = |kind: usize, base: usize, length: usize, request: libc::c_uint| {
        let mut io = [base, length];
        ptrace(request, pid, kind, io.as_mut_ptr().expose_provenance());
    };
    match answer {
        Some(answer) => {
            let base = registers.as_mut_ptr().expose_provenance();
            set(1, base, size_of_val(&registers), libc::PTRACE_GETREGSET);
            registers[0] = answer.cast_unsigned();
            set(1, base, size_of_val(&registers), libc::PTRACE_SETREGSET);
        }
        None => set(0x404, (&raw mut none).expose_provenance(), 4, libc::PTRACE_SETREGSET),
    }
}
