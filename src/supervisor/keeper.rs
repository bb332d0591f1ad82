//! The keeper: the waiting init outside any sandbox. It holds the network namespaces and ports of services, so that the
//! death of the supervisor loses none of them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::state;
use crate::{
    init::{self, wire},
    launch,
    plan::{Fd, lower},
    sys::{
        SysError,
        clone::{self, Spawn},
        file, socket,
    },
};

/// The connection to a keeper. It is started when there is something to keep.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    channel: Option<OwnedFd>,
    /// The process: to be reaped if it is our child, to be killed if it does not answer.
    process: Option<OwnedFd>,
}

impl Keeper {
    /// No keeper yet; it listens at `dir`/keeper.sock.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("keeper.sock"), channel: None, process: None }
    }

    /// Connects to the keeper that a predecessor left, and takes a copy of everything that it holds.
    ///
    /// # Errors
    /// Of the socket calls, where there is a keeper.
    pub(super) fn find(&mut self) -> Result<BTreeMap<String, OwnedFd>, SysError> {
        let Some(channel) = connect(&self.path)? else { return Ok(BTreeMap::new()) };
        self.process = self.predecessor();
        let held = hand_over(&channel);
        match &held {
            Ok(_) => self.channel = Some(channel),
            // Stopped, most likely. What it holds is out of reach, and must not stay taken.
            Err(_) => self.kill(),
        }
        held
    }

    /// The process of the keeper that a predecessor started.
    fn predecessor(&self) -> Option<OwnedFd> {
        let text = std::fs::read_to_string(self.identity()).ok()?;
        let (pid, start_time) = text.trim().split_once(' ')?;
        let (pid, start_time): (u32, u64) = (pid.parse().ok()?, start_time.parse().ok()?);
        let process = super::adopt::open_pidfd(pid)?;
        // Looked at after the descriptor was opened: from here on it cannot become another process.
        (state::start_time(pid) == Some(start_time)).then_some(process)
    }

    /// Where pid and start time of the keeper are written down.
    fn identity(&self) -> PathBuf {
        self.path.with_extension("pid")
    }

    /// Ends one that does not answer, and waits for what it held to be free.
    fn kill(&self) {
        let Some(process) = &self.process else { return };
        tracing::error!("the keeper does not answer: it is killed");
        launch::kill(process.as_fd());
        let mut poll = [PollFd::new(process, PollFlags::IN)];
        let _ = rustix::event::poll(&mut poll, Some(&rustix::time::Timespec { tv_sec: 2, tv_nsec: 0 }));
    }

    /// Hands it a descriptor.
    ///
    /// # Errors
    /// Of starting it, and of the socket calls.
    pub(super) fn keep(&mut self, label: &str, fd: BorrowedFd<'_>) -> Result<(), SysError> {
        if self.channel.is_none() {
            self.channel = Some(self.start()?);
        }
        let channel = self.channel.as_ref().expect("just started");
        say(channel.as_fd(), wire::SAY_KEEP, label, &[fd])
    }

    /// Lets it close what it holds under these labels, and waits until it has: a port may be wanted again at once.
    pub(super) fn let_go<'a>(&self, labels: impl IntoIterator<Item = &'a String>) {
        let mut labels = labels.into_iter().peekable();
        let Some(channel) = self.channel.as_ref().filter(|_| labels.peek().is_some()) else { return };
        // A keeper that is gone holds nothing; that it is gone shows on its channel.
        for label in labels {
            let _ = say(channel.as_fd(), wire::SAY_DROP, label, &[]);
        }
        let _ = say(channel.as_fd(), wire::SAY_STATUS, "", &[]);
        while let Some(message) = self.listen() {
            if message.verb == wire::SAY_STATE {
                return;
            }
        }
        // Its end shows on its channel, and another one takes its place.
        self.kill();
    }

    /// Its next message. None: it has ended, or does not answer.
    fn listen(&self) -> Option<wire::Message> {
        let received = socket::receive(self.channel.as_ref()?.as_fd(), size_of::<wire::Message>()).ok()?;
        let message = init::message_from(&received.bytes)?;
        if message.verb == wire::SAY_FULL {
            tracing::error!(
                "the keeper has no room for more: what it was given is lost with this supervisor"
            );
        }
        Some(message)
    }

    /// Whether it has ended. To be asked when its channel is readable.
    pub(super) fn has_ended(&self) -> bool {
        self.listen().is_none()
    }

    /// Readable at its end: whoever killed it took what it held.
    pub(super) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// It is gone.
    pub(super) fn lost(&mut self) {
        self.channel = None;
        if let Some(process) = self.process.take() {
            launch::reap(&process);
        }
    }

    /// Ends it.
    pub(super) fn end(&mut self) {
        if let Some(channel) = self.channel.take() {
            let _ = say(channel.as_fd(), wire::SAY_END, "", &[]);
            // It answers with its end: its socket file goes after it, so that nobody connects to one that is ending.
            let _ = socket::receive(channel.as_fd(), size_of::<wire::Message>());
            self.lost();
        }
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.identity());
    }

    fn start(&mut self) -> Result<OwnedFd, SysError> {
        let program = file::sealed("palisade-keeper", init::PID1)?;
        let (ours, theirs) = launch::channel()?;
        be_patient(&ours)?;
        let listen = launch::listen(&self.path)?;
        let child = clone::spawn(&Spawn {
            namespaces: 0,
            cgroup: None,
            program: program.as_fd(),
            channel: theirs.as_fd(),
        })?;
        let start_time = state::start_time(child.pid).unwrap_or_default();
        self.process = Some(child.pidfd);
        std::fs::write(self.identity(), format!("{} {start_time}\n", child.pid))
            .map_err(|error| SysError::new("write", self.identity().display().to_string(), error))?;
        let fds = [(Fd::Listen, listen)];
        launch::send_plan(ours.as_fd(), wire::SAY_SETUP, 0, &lower::keeper(), &[Fd::Listen], &fds)?;
        Ok(ours)
    }
}

/// A copy of everything that a keeper holds.
fn hand_over(channel: &OwnedFd) -> Result<BTreeMap<String, OwnedFd>, SysError> {
    be_patient(channel)?;
    say(channel.as_fd(), wire::SAY_HAND_OVER, "", &[])?;
    let mut held = BTreeMap::new();
    loop {
        let received = socket::receive(channel.as_fd(), size_of::<wire::Message>())?;
        let Some(message) = init::message_from(&received.bytes) else {
            return Err(SysError::new("recvmsg", "keeper", rustix::io::Errno::CONNRESET));
        };
        if message.verb == wire::SAY_STATE {
            return Ok(held);
        }
        if let Some(fd) = received.fds.into_iter().next() {
            held.insert(init::label_text(&message.label), fd);
        }
    }
}

/// A keeper answers at once: it does nothing else. A bound all the same, for one that was stopped with SIGSTOP.
fn be_patient(channel: &OwnedFd) -> Result<(), SysError> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    let patience = Some(std::time::Duration::from_secs(2));
    for (which, name) in [(Timeout::Recv, "SO_RCVTIMEO"), (Timeout::Send, "SO_SNDTIMEO")] {
        set_socket_timeout(channel, which, patience)
            .map_err(|errno| SysError::new("setsockopt", name, errno))?;
    }
    Ok(())
}

fn say(channel: BorrowedFd<'_>, verb: u32, label: &str, fds: &[BorrowedFd<'_>]) -> Result<(), SysError> {
    let message = wire::Message { label: init::label(label), ..wire::Message::new(verb, 0, 0, 0) };
    socket::send(channel, &init::message_bytes(&message), fds)
}

/// Connects to an init that listens; none where none does.
pub(super) fn connect(path: &Path) -> Result<Option<OwnedFd>, SysError> {
    let fault = |call, errno: rustix::io::Errno| SysError::new(call, path.display().to_string(), errno);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| fault("socket", errno))?;
    let address = SocketAddrUnix::new(path).map_err(|errno| fault("connect", errno))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => return Err(fault("connect", errno)),
    }
    rustix::net::sockopt::set_socket_passcred(&socket, true).map_err(|errno| fault("setsockopt", errno))?;
    Ok(Some(socket))
}
