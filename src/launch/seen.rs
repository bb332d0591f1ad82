//! What the supervisor sees of a sandbox from outside: which namespaces its init is in. The processes inside compare that
//! with what they see themselves.

use std::os::fd::{AsFd, BorrowedFd};

use crate::{
    net::netns::NetNs,
    plan::{self, Seen},
    spec::Unit,
    sys::SysError,
};

/// The namespaces of a process that is not reaped, or that is otherwise known to live on.
///
/// # Errors
/// stat(2): it has ended.
fn namespaces(pid: u32) -> Result<Vec<(&'static str, u64)>, SysError> {
    let inode = |kind: &'static str| identity(&format!("/proc/{pid}/ns/{kind}")).map(|inode| (kind, inode));
    plan::NAMESPACES.into_iter().map(inode).collect()
}

fn identity(path: &str) -> Result<u64, SysError> {
    rustix::fs::stat(path).map(|stat| stat.st_ino).map_err(|errno| SysError::new("stat", path, errno))
}

/// Looks that a new init is where it was meant to be, before it is told anything: in namespaces that are not ours
/// but where the file says so, and in the network namespace that was made for it. `shares_net`: that is Palisade's own, as
/// it is where an ordinary user runs it.
///
/// # Errors
/// EPROTO, with the kind of the namespace that is another; stat(2).
pub(super) fn verify(
    unit: &Unit,
    pid: u32,
    net: Option<&NetNs>,
    shares_net: bool,
) -> Result<Vec<(&'static str, u64)>, SysError> {
    let theirs = namespaces(pid)?;
    let own = plan::namespaces(unit);
    for (kind, inode) in &theirs {
        // Not /proc/self: namespaces belong to threads.
        let is_ours = *inode == identity(&format!("/proc/thread-self/ns/{kind}"))?;
        let is_own = own.contains(kind) && !(*kind == "net" && shares_net);
        if is_ours == is_own {
            return Err(SysError::new("namespace", *kind, libc::EPROTO));
        }
    }
    if let Some(net) = net {
        let made = inode(net.as_fd())?;
        if !theirs.contains(&("net", made)) {
            return Err(SysError::new("namespace", "net", libc::EPROTO));
        }
    }
    Ok(theirs)
}

fn inode(fd: BorrowedFd<'_>) -> Result<u64, SysError> {
    rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(|errno| SysError::new("fstat", "net", errno))
}

/// What a further process of a sandbox is to find: that of its init, where `pid` is known to be it.
///
/// # Errors
/// stat(2): it has ended.
pub fn of_session(pid: u32) -> Result<Seen, SysError> {
    Ok(Seen { namespaces: namespaces(pid)?, ..Seen::default() })
}
