//! A service that says how it is, step by step: what it says, on what, and on which signal it goes on.

use std::{
    fs::File,
    io::{Read, Write},
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::net::UnixDatagram,
    },
    process::Command,
};

use nix::sys::{
    signal::{SigSet, Signal},
    socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
};

/// Takes the steps one after the other, then waits for the end.
///
/// `send:TEXT` on the notify socket, `\n` being a line end and `\e` an escape · `reloading` · `barrier` waits until everything before it was heard ·
/// `store:NAME` a file in memory that holds NAME · `stored` prints what there is · `flood:COUNT` · `fd:N:TEXT` writes a line · `usr1`, `usr2` and `hup` wait for the signal · `pid-file:PATH` ·
/// `child:STEPS` does STEPS, parted by commas, in a child that is not waited for · `main:STEPS` the same, and names the child as
/// the main process · `echo:TEXT` · `exit:CODE`
pub fn main(steps: &[&str]) {
    // Before there is anybody who could send one.
    let mut blocked = signals();
    // As a sign for whoever wants to send one: it is never waited for.
    blocked.add(Signal::SIGWINCH);
    blocked.thread_block().expect("sigprocmask");
    for step in steps {
        let (what, rest) = step.split_once(':').unwrap_or((step, ""));
        match what {
            "send" => send(&rest.replace("\\n", "\n").replace("\\e", "\x1b"), &[]),
            "reloading" => send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic()), &[]),
            "barrier" => barrier(),
            "flood" => (0..rest.parse().expect("a number"))
                .for_each(|n: u32| send(&format!("STATUS=\x1b[2J{n}"), &[])),
            "fd" => line(rest),
            "store" => store(rest),
            "stored" => stored(),
            "usr1" => await_signal(Signal::SIGUSR1),
            "usr2" => await_signal(Signal::SIGUSR2),
            "hup" => await_signal(Signal::SIGHUP),
            "pid-file" => {
                std::fs::write(rest, format!("{}\n", std::process::id())).expect("a writable directory");
            }
            "child" => drop(child(rest)),
            "main" => send(&format!("MAINPID={}", child(rest)), &[]),
            "echo" => println!("{rest}"),
            "exit" => std::process::exit(rest.parse().expect("a number")),
            _ => panic!("{step} is no step"),
        }
    }
    loop {
        std::thread::park();
    }
}

fn signals() -> SigSet {
    [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP].into_iter().collect()
}

fn await_signal(wanted: Signal) {
    while signals().wait().expect("sigwait") != wanted {}
}

/// On CLOCK_MONOTONIC, in microseconds.
fn monotonic() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

fn send(text: &str, fds: &[i32]) {
    let socket = UnixDatagram::unbound().expect("a socket");
    let path = std::env::var("NOTIFY_SOCKET").expect("NOTIFY_SOCKET is set");
    let address = UnixAddr::new(path.as_str()).expect("a path");
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let io = [std::io::IoSlice::new(text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &io, rights, MsgFlags::empty(), Some(&address)).expect("it is sent");
}

/// sd_notify_barrier(3).
fn barrier() {
    let (read, write) = rustix::pipe::pipe().expect("pipe2");
    send("BARRIER=1", &[write.as_raw_fd()]);
    drop(write);
    // The end comes when the last copy is closed.
    let read = File::from(read).read(&mut [0; 1]).expect("a pipe");
    assert_eq!(read, 0);
    println!("the barrier is down");
}

/// sd_pid_notify_with_fds(3).
fn store(name: &str) {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create(name, flags).expect("memory"));
    file.write_all(name.as_bytes()).expect("memory");
    send(&format!("FDSTORE=1\nFDNAME={name}"), &[file.as_raw_fd()]);
}

/// sd_listen_fds_with_names(3).
fn stored() {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    for (n, name) in names.split(':').enumerate() {
        let text = std::fs::read_to_string(format!("/proc/self/fd/{}", n + 3)).unwrap_or_default();
        println!("stored {name} {text}");
    }
}

/// As s6 has it: a line, then nothing more.
fn line(rest: &str) {
    let (fd, text) = rest.split_once(':').expect("fd:N:TEXT");
    // SAFETY of ownership: the number was given to this process for this, and it is closed once.
    let mut file = ManuallyDrop::new(owned(fd.parse().expect("a number")));
    writeln!(file, "{text}").expect("somebody reads");
    ManuallyDrop::into_inner(file);
}

#[expect(unsafe_code, reason = "a descriptor that comes by its number alone")]
fn owned(fd: i32) -> File {
    // SAFETY: whoever starts this program leaves the descriptor open for it, and nothing else here knows its number.
    unsafe { File::from_raw_fd(fd) }
}

/// Another one of these as a child that nobody waits for.
fn child(steps: &str) -> u32 {
    let me = std::env::current_exe().expect("own path");
    let child = Command::new(me).args(["__probe", "say"]).args(steps.split(',')).spawn();
    child.expect("another probe").id()
}
