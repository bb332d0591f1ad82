//! How a service says that it is ready: the notify socket, and the pipe of a descriptor of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{
    init::{self, wire},
    net::{netns::NetNs, sysctl},
    plan::Fd,
    spec::Unit,
    sys::{SysError, socket},
};

/// Messages that wait while no supervisor reads them; whoever sends one more waits as well (unix(7)). The kernel's own number
/// is 10, which a watchdog fills in a few seconds. Their memory is counted as the sender's.
const WAITING: &str = "4096";

/// Makes notify sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// A network namespace with nothing in it but a larger bound on what waits: that is set by the namespace that a socket was
    /// made in, and the host's is not ours to change.
    roomy: Option<NetNs>,
}

impl Sockets {
    /// A socket that is not bound yet, twice: for the init to keep, and for us.
    ///
    /// # Errors
    /// socket(2), setsockopt(2), fcntl(2).
    pub(super) fn make(&mut self) -> Result<(OwnedFd, OwnedFd), SysError> {
        if self.roomy.is_none() {
            self.roomy = roomy();
        }
        let ours = match &self.roomy {
            Some(netns) => netns.within(socket)??,
            None => socket()?,
        };
        rustix::net::sockopt::set_socket_passcred(&ours, true)
            .map_err(|errno| SysError::new("setsockopt", "SO_PASSCRED", errno))?;
        Ok((duplicate(&ours)?, ours))
    }
}

/// None where the host lets nobody make one: then its own bound holds.
fn roomy() -> Option<NetNs> {
    let made = NetNs::create().map_err(|error| error.to_string()).and_then(|netns| {
        let set = netns.within(|| sysctl::set("unix/max_dgram_qlen", WAITING)).and_then(|set| set);
        set.map(|()| netns).map_err(|error| error.to_string())
    });
    made.map_err(|error| tracing::warn!("notify sockets hold few messages: {error}")).ok()
}

fn socket() -> Result<OwnedFd, SysError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(|errno| SysError::new("socket", "AF_UNIX, SOCK_DGRAM", errno))
}

/// The pipe on which a service says that it is ready.
#[derive(Debug)]
pub struct Pipe {
    /// Its own end.
    pub theirs: OwnedFd,
    /// The init's.
    pub kept: OwnedFd,
    /// Ours.
    pub ours: OwnedFd,
}

/// Makes one.
///
/// # Errors
/// pipe2(2), fcntl(2).
pub fn pipe() -> Result<Pipe, SysError> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| SysError::new("pipe2", "", errno))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| SysError::new("ioctl", "FIONBIO", errno))?;
    Ok(Pipe { theirs, kept: duplicate(&ours)?, ours })
}

/// Makes one for a service whose process is made in a sandbox that stands, and has the init keep its end: the service's end,
/// and ours. None where the service has no such descriptor.
///
/// # Errors
/// As [`pipe`]; sendmsg(2).
pub fn later(unit: &Unit, channel: BorrowedFd<'_>) -> Result<Option<(OwnedFd, OwnedFd)>, SysError> {
    if unit.service.ready_fd().is_none() {
        return Ok(None);
    }
    let Pipe { theirs, kept, ours } = pipe()?;
    let label = init::label(Fd::KeepReady.label());
    let keep = wire::Message { label, ..wire::Message::new(wire::SAY_KEEP, 0, 0, 0) };
    socket::send(channel, &init::message_bytes(&keep), &[kept.as_fd()])?;
    Ok(Some((theirs, ours)))
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, SysError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))
}
