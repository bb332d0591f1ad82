//! Namespaces of services that run: found by pidfd, entered by the supervisor around a clone, left again at once.
//!
//! Nobody enters a sandbox that way: the one who is inside for a moment is the supervisor's thread, and the process that
//! stays is born there, executes the init and has received nothing yet. What the kernel demands, as tried on 6.18:
//! setns(2) needs CAP_SYS_ADMIN over the user namespace that owns the target *and* over one's own, so the init, in a user
//! namespace of its own, gets EPERM whether or not it has the same ids as the target's; the supervisor gets in. A
//! joined pid namespace refuses a procfs to whoever has no power over its owner, so that, too, is the supervisor's to
//! mount. Hence a join works between services with different id ranges as well: they see each other, and
//! file modes, signals and ptrace are judged by ids, which `user = "shared:NAME"` makes the same.
//!
//! An init in the owner's own user namespace may do all of this itself [6.18]. It is not put there: a capability of the one
//! service would then count in the sandbox of the other, and the limits that the kernel counts per user namespace
//! (RLIMIT_NPROC, /proc/sys/user) would be one for both.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    process,
};

use nix::sched::{CloneFlags, setns};
use rustix::event::{PollFd, PollFlags};

use super::StepError;
use crate::{
    plan::NsKind,
    spec::UnitName,
    sys::{SysError, clone},
};

/// The inits of the services whose namespaces are joined, by pidfd: a number could by now be another process.
pub type Peers = BTreeMap<UnitName, OwnedFd>;

/// What one launch joins.
#[derive(Debug, Default)]
pub(super) struct Joins(Vec<(NsKind, OwnedFd)>);

impl Joins {
    /// Takes hold of a namespace of `of`.
    pub(super) fn add(&mut self, kind: NsKind, of: &UnitName, peers: &Peers) -> Result<(), StepError> {
        let not_running = || StepError::NotRunning(of.clone());
        let pidfd = peers.get(of).ok_or_else(not_running)?;
        // A pidfd is readable once its process has ended.
        let mut poll = [PollFd::new(pidfd, PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ended| ended > 0) {
            return Err(not_running());
        }
        let held = rustix::io::fcntl_dupfd_cloexec(pidfd, 3)
            .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))?;
        self.0.push((kind, held));
        Ok(())
    }

    /// Whether a namespace of this kind is joined.
    pub(super) fn has(&self, kind: NsKind) -> bool {
        self.0.iter().any(|(joined, _)| *joined == kind)
    }

    /// Runs `f` with the calling thread inside, or, for pid namespaces, with its children born inside.
    ///
    /// Aborts the process when it cannot come back, as [`crate::net::netns::NetNs::within`] does.
    ///
    /// # Errors
    /// open(2), setns(2) with a pidfd (Linux 5.8), before `f` runs. ESRCH: the service has ended meanwhile.
    pub(super) fn within<T>(&self, f: impl FnOnce() -> T) -> Result<T, SysError> {
        let home = Return::prepare(self.0.iter().map(|(kind, _)| *kind))?;
        for (kind, pidfd) in &self.0 {
            setns(pidfd, flag(*kind)).map_err(|errno| SysError::new("setns", kind.name(), errno))?;
        }
        let done = f();
        drop(home);
        Ok(done)
    }

    /// procfs of the joined pid namespace, attached nowhere yet.
    ///
    /// # Errors
    /// As [`Joins::within`] and [`clone::procfs_of_children`].
    pub(super) fn procfs(&self) -> Result<OwnedFd, SysError> {
        self.within(clone::procfs_of_children)?
    }
}

fn flag(kind: NsKind) -> CloneFlags {
    match kind {
        NsKind::Pid => CloneFlags::CLONE_NEWPID,
        NsKind::Uts => CloneFlags::CLONE_NEWUTS,
        NsKind::Ipc => CloneFlags::CLONE_NEWIPC,
        NsKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
    }
}

/// Brings the thread back to where it was, also when a panic unwinds.
struct Return(Vec<(NsKind, OwnedFd)>);

impl Return {
    fn prepare(kinds: impl Iterator<Item = NsKind>) -> Result<Self, SysError> {
        let open = |kind: NsKind| {
            // Not /proc/self: namespaces belong to threads. `ns/pid` is the one that the thread itself is in, which it
            // never leaves.
            let path = format!("/proc/thread-self/ns/{}", kind.name());
            let file = File::open(&path).map_err(|error| SysError::new("open", path, error))?;
            Ok((kind, OwnedFd::from(file)))
        };
        kinds.map(open).collect::<Result<_, _>>().map(Self)
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        for (kind, home) in &self.0 {
            if let Err(errno) = setns(home.as_fd(), flag(*kind)) {
                tracing::error!("there is no way back into the host's {kind:?} namespace: {errno}");
                process::abort();
            }
        }
    }
}
