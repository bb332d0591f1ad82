//! The keeper: the waiting init outside any sandbox. It holds the network namespaces and ports of services, so that the
//! death of the supervisor loses none of them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

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
    /// Of a keeper that is our child, to be reaped.
    child: Option<OwnedFd>,
}

impl Keeper {
    /// No keeper yet; it listens at `dir`/keeper.sock.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("keeper.sock"), channel: None, child: None }
    }

    /// Connects to the keeper that a predecessor left, and takes a copy of everything that it holds.
    ///
    /// # Errors
    /// Of the socket calls, where there is a keeper.
    pub(super) fn find(&mut self) -> Result<BTreeMap<String, OwnedFd>, SysError> {
        let Some(channel) = connect(&self.path)? else { return Ok(BTreeMap::new()) };
        // It answers at once: it does nothing else. A bound all the same, for one that was stopped with SIGSTOP.
        let patience = Some(std::time::Duration::from_secs(2));
        rustix::net::sockopt::set_socket_timeout(&channel, rustix::net::sockopt::Timeout::Recv, patience)
            .map_err(|errno| SysError::new("setsockopt", "SO_RCVTIMEO", errno))?;
        say(channel.as_fd(), wire::SAY_HAND_OVER, "", &[])?;
        let mut held = BTreeMap::new();
        loop {
            let received = socket::receive(channel.as_fd(), size_of::<wire::Message>())?;
            let Some(message) = init::message_from(&received.bytes) else { return Ok(BTreeMap::new()) };
            if message.verb == wire::SAY_STATE {
                break;
            }
            if let Some(fd) = received.fds.into_iter().next() {
                held.insert(init::label_text(&message.label), fd);
            }
        }
        self.channel = Some(channel);
        Ok(held)
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

    /// Lets it close what it holds under a label.
    pub(super) fn let_go(&self, label: &str) {
        if let Some(channel) = &self.channel {
            // A keeper that is gone holds nothing.
            let _ = say(channel.as_fd(), wire::SAY_DROP, label, &[]);
        }
    }

    /// Readable at its end: whoever killed it took what it held.
    pub(super) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// It is gone.
    pub(super) fn lost(&mut self) {
        self.channel = None;
        if let Some(child) = self.child.take() {
            launch::reap(&child);
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
    }

    fn start(&mut self) -> Result<OwnedFd, SysError> {
        let program = file::sealed("palisade-keeper", init::PID1)?;
        let (ours, theirs) = launch::channel()?;
        let listen = launch::listen(&self.path)?;
        let child = clone::spawn(&Spawn {
            namespaces: 0,
            cgroup: None,
            program: program.as_fd(),
            channel: theirs.as_fd(),
        })?;
        self.child = Some(child.pidfd);
        let fds = [(Fd::Listen, listen)];
        launch::send_plan(ours.as_fd(), wire::SAY_SETUP, 0, &lower::keeper(), &[Fd::Listen], &fds)?;
        Ok(ours)
    }
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
