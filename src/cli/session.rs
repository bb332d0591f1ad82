//! `exec` and `shell`: the caller's end of a session inside a sandbox.
//!
//! The caller's own terminal, files and pipes never go in: the command gets fresh pipes, or a pseudo-terminal made inside,
//! and this process carries the bytes. One poll loop, no thread.

use std::{
    env, io,
    io::IsTerminal,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
    termios::{Winsize, tcgetwinsize},
};

use super::{Exit, output};
use crate::{
    control::{
        client::{CallError, Client, Reply},
        proto::{Exec, Method},
        types::Session,
    },
    sys::{SysError, terminal},
};

/// What is to be run where.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) tty: bool,
    pub(super) user: Option<String>,
    pub(super) env: Vec<String>,
}

/// `palisade shell`.
pub(super) fn shell(client: Client, name: String, user: Option<String>) -> Result<Exit, CallError> {
    // In a script it is fed from a pipe.
    let tty = io::stdin().is_terminal();
    exec(client, Wanted { name, command: vec!["/bin/sh".to_owned()], tty, user, env: Vec::new() })
}

/// `palisade exec`.
pub(super) fn exec(client: Client, wanted: Wanted) -> Result<Exit, CallError> {
    match wanted.tty {
        true => on_terminal(client, wanted),
        false => on_pipes(client, wanted),
    }
}

fn method(wanted: Wanted, size: Option<Winsize>) -> Method {
    let Wanted { name, command, tty, user, mut env } = wanted;
    if let (true, Ok(term)) = (tty, env::var("TERM")) {
        env.insert(0, format!("TERM={term}"));
    }
    let (cols, rows) = (size.map(|size| size.ws_col), size.map(|size| size.ws_row));
    Method::Exec(Exec { name, command, tty, cols, rows, env, user })
}

fn on_pipes(mut client: Client, wanted: Wanted) -> Result<Exit, CallError> {
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| SysError::new("pipe2", "", errno))
    };
    let ((stdin, input), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
    client.send(&method(wanted, None), &[stdin, stdout, stderr])?;
    let first: Reply<Session> = client.receive()?;
    if !first.continues {
        // Why it never began was said before the answer. Not waited for: nobody has to be there to close the other end.
        rustix::io::ioctl_fionbio(&errors, true).map_err(|errno| SysError::new("ioctl", "FIONBIO", errno))?;
        let _ = io::copy(&mut std::fs::File::from(errors), &mut io::stderr());
        return Ok(exit_of(&first.value));
    }
    let outputs = vec![Output { from: output, to: To::Stdout }, Output { from: errors, to: To::Stderr }];
    Relay::new(client, input, outputs, None)?.run()
}

fn on_terminal(mut client: Client, wanted: Wanted) -> Result<Exit, CallError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        output::error("--tty: standard input is not a terminal");
        return Ok(Exit::Usage);
    }
    client.send(&method(wanted, tcgetwinsize(&stdin).ok()), &[])?;
    let mut first: Reply<Session> = client.receive()?;
    if !first.continues {
        return Ok(exit_of(&first.value));
    }
    let master = first.fds.pop().ok_or_else(|| CallError::Nonsense("no terminal came with it".to_owned()))?;
    let dup = |fd: &OwnedFd| fd.try_clone().map_err(|error| SysError::new("dup", "pty", error));
    let outputs = vec![Output { from: dup(&master)?, to: To::Stdout }];
    let terminal = Terminal::new(dup(&master)?)?;
    Relay::new(client, master, outputs, Some(terminal))?.run()
}

/// How the session ended, as an exit code.
fn exit_of(session: &Session) -> Exit {
    match (session.code, session.signal) {
        (Some(code), _) => Exit::Payload(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Broken,
    }
}

/// The local terminal while its keys go to the session: in raw mode, and as it was again when this is dropped.
struct Terminal {
    _raw: terminal::Raw,
    master: OwnedFd,
    resized: UnixStream,
    /// Signals that would end this process: the terminal has to be put in order before.
    ends: Vec<(i32, UnixStream)>,
}

impl Terminal {
    fn new(master: OwnedFd) -> Result<Self, CallError> {
        let resized = signal_pipe(libc::SIGWINCH)?;
        let ends = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]
            .map(|signal| (signal, signal_pipe(signal)));
        let ends: Vec<(i32, UnixStream)> =
            ends.into_iter().map(|(signal, pipe)| Ok((signal, pipe?))).collect::<Result<_, SysError>>()?;
        let terminal = Self { _raw: terminal::Raw::enter()?, master, resized, ends };
        // The size may have changed since it was sent, unheard.
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the size of the local terminal to the one inside; the kernel tells the programs there.
    fn resize(&self) {
        terminal::copy_size(&self.master);
    }
}

/// A stream that becomes readable when the signal arrives.
fn signal_pipe(signal: i32) -> Result<UnixStream, SysError> {
    let failed = |error| SysError::new("sigaction", signal.to_string(), error);
    let (read, write) = UnixStream::pair().map_err(failed)?;
    read.set_nonblocking(true).map_err(failed)?;
    signal_hook::low_level::pipe::register(signal, write).map_err(failed)?;
    Ok(read)
}

#[derive(Clone, Copy)]
enum To {
    Stdout,
    Stderr,
}

struct Output {
    from: OwnedFd,
    to: To,
}

/// Carries bytes until the supervisor says that the session is over.
struct Relay {
    client: Client,
    /// Into the session; none: it reads no more, or there is nothing more to read.
    input: Option<OwnedFd>,
    /// Read, but not taken by the session yet.
    pending: Vec<u8>,
    outputs: Vec<Output>,
    terminal: Option<Terminal>,
}

/// What poll(2) found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Client,
    Stdin,
    Input,
    Output(usize),
    Resized,
    Signal(i32),
}

impl Relay {
    fn new(
        client: Client,
        input: OwnedFd,
        outputs: Vec<Output>,
        terminal: Option<Terminal>,
    ) -> Result<Self, CallError> {
        // A session that does not read its input must not keep us from carrying its output.
        for fd in outputs.iter().map(|output| &output.from).chain([&input]) {
            let flags =
                rustix::fs::fcntl_getfl(fd).map_err(|errno| SysError::new("fcntl", "F_GETFL", errno))?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
                .map_err(|errno| SysError::new("fcntl", "F_SETFL", errno))?;
        }
        Ok(Self { client, input: Some(input), pending: Vec::new(), outputs, terminal })
    }

    fn run(mut self) -> Result<Exit, CallError> {
        loop {
            for ready in self.wait()? {
                match ready {
                    Ready::Client => {
                        let reply: Reply<Session> = self.client.receive()?;
                        if !reply.continues {
                            self.drain();
                            return Ok(exit_of(&reply.value));
                        }
                    }
                    Ready::Stdin => self.read_stdin(),
                    Ready::Input => self.feed(),
                    Ready::Output(index) => {
                        self.carry(index);
                        // The indices of the others may have changed.
                        break;
                    }
                    Ready::Resized => self.resize(),
                    // The terminal is put in order on the way out; the end of the connection ends the session.
                    Ready::Signal(signal) => return Ok(Exit::Signal(signal)),
                }
            }
        }
    }

    fn wait(&self) -> Result<Vec<Ready>, CallError> {
        if self.client.has_reply() {
            return Ok(vec![Ready::Client]);
        }
        let stdin = io::stdin();
        let mut sources: Vec<(Ready, BorrowedFd<'_>, PollFlags)> =
            vec![(Ready::Client, self.client.as_fd(), PollFlags::IN)];
        if let Some(terminal) = &self.terminal {
            sources.push((Ready::Resized, terminal.resized.as_fd(), PollFlags::IN));
            let ends = terminal.ends.iter();
            sources.extend(ends.map(|(signal, pipe)| (Ready::Signal(*signal), pipe.as_fd(), PollFlags::IN)));
        }
        match &self.input {
            Some(_) if self.pending.is_empty() => sources.push((Ready::Stdin, stdin.as_fd(), PollFlags::IN)),
            Some(input) => sources.push((Ready::Input, input.as_fd(), PollFlags::OUT)),
            None => {}
        }
        let outputs = self.outputs.iter().enumerate();
        sources.extend(
            outputs.map(|(index, output)| (Ready::Output(index), output.from.as_fd(), PollFlags::IN)),
        );
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("poll", "", errno).into()),
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((ready, ..), _)| *ready).collect())
    }

    fn read_stdin(&mut self) {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(count) if count > 0 => {
                self.pending = buffer[..count].to_vec();
                self.feed();
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The end of ours is the end of theirs.
            Ok(_) | Err(_) => self.input = None,
        }
    }

    fn feed(&mut self) {
        let Some(input) = &self.input else { return };
        match rustix::io::write(input, &self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // It reads no more; what it writes still counts.
            Err(_) => self.input = None,
        }
    }

    /// Carries what one output has to give now; true: there may be more.
    fn carry(&mut self, index: usize) -> bool {
        let mut buffer = [0; 64 << 10];
        let Output { from, to } = &self.outputs[index];
        let written = match rustix::io::read(from, &mut buffer) {
            Ok(count) if count > 0 => match to {
                To::Stdout => write_all(io::stdout().as_fd(), &buffer[..count]),
                To::Stderr => write_all(io::stderr().as_fd(), &buffer[..count]),
            },
            Err(Errno::INTR) => Ok(()),
            Err(Errno::AGAIN) => return false,
            // EIO is how a pseudo-terminal ends.
            Ok(_) | Err(_) => Err(Errno::PIPE),
        };
        if written.is_err() {
            // Closed, so that the command learns that nobody listens.
            self.outputs.remove(index);
        }
        written.is_ok()
    }

    /// Carries what was written before the end. Others inside may hold the other end open for ever: no waiting.
    fn drain(&mut self) {
        for index in (0..self.outputs.len()).rev() {
            while self.carry(index) {}
        }
    }

    fn resize(&self) {
        let Some(terminal) = &self.terminal else { return };
        let mut bytes = [0; 64];
        while rustix::io::read(&terminal.resized, &mut bytes).is_ok_and(|count| count > 0) {}
        terminal.resize();
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody who shares the file description made it non-blocking.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None)),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
