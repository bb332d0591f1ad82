//! Network namespaces, held by descriptor.
//!
//! A namespace lives as long as somebody holds it: a process in it, a mount, or a descriptor such as [`NetNs`]. It
//! outlives a run, so that a restart finds its address and links (DESIGN.md); closing the last holder returns at once,
//! and the kernel takes the links away some 20 ms later.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};
use nix::sched::{CloneFlags, setns, unshare};

use super::{
    NetError,
    netlink::{Netlink, Request},
    sysctl::Protocol,
};
use crate::sys::SysError;

/// The loopback interface is the first of every network namespace.
const LO_INDEX: u32 = 1;

/// A network namespace.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// Makes a namespace for a service: loopback up, low ports free to bind, nothing believed that a peer announces.
    ///
    /// # Errors
    /// From unshare(2), and whatever the settings inside meet with; the namespace is gone then.
    pub fn create() -> Result<Self, NetError> {
        let home = Return::prepare()?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| SysError::new("unshare", "CLONE_NEWNET", errno))?;
        let made = furnish().and_then(|()| Ok(Self(current()?)));
        drop(home);
        made
    }

    /// Sets up a namespace that came about elsewhere as [`NetNs::create`] does its own.
    ///
    /// # Errors
    /// Whatever the settings inside meet with.
    pub fn furnish(&self) -> Result<(), NetError> {
        self.within(furnish)?
    }

    /// Takes over a descriptor of a network namespace, as the keeper or the init hands it back.
    ///
    /// # Errors
    /// EINVAL: it is the descriptor of something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SysError> {
        let netns = Self(fd);
        netns.within(|| ())?;
        Ok(netns)
    }

    /// The namespace that a process is in, by its pidfd: no race with a pid that is used again.
    ///
    /// # Errors
    /// From setns(2) (Linux 5.8); ESRCH: the process has ended.
    pub fn of_pid(pidfd: BorrowedFd<'_>) -> Result<Self, SysError> {
        enter(pidfd, current)?.map(Self)
    }

    /// The calling thread's own.
    ///
    /// # Errors
    /// From open(2).
    pub fn own() -> Result<Self, SysError> {
        current().map(Self)
    }

    /// Runs `f` with the calling thread inside; a clone(2) in `f` makes its child there.
    ///
    /// Aborts the process when it cannot come back: a supervisor in a service's namespace would take the service's
    /// network for the host's.
    ///
    /// # Errors
    /// From setns(2), before `f` runs.
    pub fn within<T>(&self, f: impl FnOnce() -> T) -> Result<T, SysError> {
        enter(self.0.as_fd(), f)
    }

    /// Another descriptor of the same namespace.
    ///
    /// # Errors
    /// From fcntl(2), EMFILE.
    pub fn try_clone(&self) -> Result<Self, SysError> {
        self.0.try_clone().map(Self).map_err(|error| SysError::new("fcntl", "F_DUPFD_CLOEXEC", error))
    }

    /// The descriptor, to be kept elsewhere.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn current() -> Result<OwnedFd, SysError> {
    // Not /proc/self: that is the thread group's leader, and namespaces belong to threads.
    let path = "/proc/thread-self/ns/net";
    File::open(path).map(OwnedFd::from).map_err(|error| SysError::new("open", format!("{path:?}"), error))
}

fn enter<T>(target: BorrowedFd<'_>, f: impl FnOnce() -> T) -> Result<T, SysError> {
    let home = Return::prepare()?;
    setns(target, CloneFlags::CLONE_NEWNET).map_err(|errno| SysError::new("setns", "CLONE_NEWNET", errno))?;
    let done = f();
    drop(home);
    Ok(done)
}

/// Brings the thread back to where it was, also when a panic unwinds.
struct Return(OwnedFd);

impl Return {
    fn prepare() -> Result<Self, SysError> {
        current().map(Self)
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
            tracing::error!("there is no way back into the host's network namespace: {errno}");
            process::abort();
        }
    }
}

/// Sets up the namespace that the calling thread is in, and that nobody else uses yet.
///
/// # Errors
/// From open(2), write(2) and netlink.
pub fn furnish() -> Result<(), NetError> {
    // With the namespace owned by the host no capability inside counts, so binding port 80 rests on this alone.
    let ipv4 = Protocol::ipv4()?;
    ipv4.set("ip_unprivileged_port_start", "0")?;
    for scope in ["all", "default"] {
        ipv4.set(&format!("conf/{scope}/accept_redirects"), "0")?;
    }
    if let Some(ipv6) = Protocol::ipv6()? {
        for scope in ["all", "default"] {
            ipv6.set(&format!("conf/{scope}/accept_ra"), "0")?;
            ipv6.set(&format!("conf/{scope}/accept_redirects"), "0")?;
        }
        // 1: none. `default` is what eth0 starts with; lo keeps ::1.
        ipv6.set("conf/default/addr_gen_mode", "1")?;
    }
    let mut lo = LinkMessage::default();
    lo.header.index = LO_INDEX;
    lo.header.flags = LinkFlags::Up;
    lo.header.change_mask = LinkFlags::Up;
    let what = ("RTM_SETLINK", "\"lo\", up".to_owned());
    Netlink::route()?.request(Request::new(RouteNetlinkMessage::SetLink(lo), 0, what))
}
