//! Control groups, version 2: one for every run, so that its processes can be found and killed at once.

use std::{
    fs,
    io::ErrorKind,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::sys::SysError;

/// Where the cgroup2 file system is mounted; on a hybrid host that is a tree without controllers.
pub fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): the file system type follows the separator.
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let (root, point) = (mount.nth(3)?, mount.next()?);
        (root == "/" && filesystem.starts_with("cgroup2 ")).then(|| PathBuf::from(point))
    })
}

/// The control group of this process, relative to the mount.
pub fn own() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    PathBuf::from(path)
}

/// The tree that one supervisor makes its groups in.
#[derive(Clone, Debug)]
pub struct Tree {
    mount: PathBuf,
    base: PathBuf,
}

impl Tree {
    /// The tree below `base`, a path relative to the mount; by default a group below that of this process, which is
    /// the one that a service manager has delegated to it. None where the host has no cgroup2 mount.
    pub fn find(base: Option<&Path>) -> Option<Self> {
        let mount = mount_point()?;
        let base =
            base.map_or_else(|| own().join("palisade"), |base| base.strip_prefix("/").unwrap_or(base).into());
        Some(Self { mount, base })
    }

    /// Whether an ordinary user may make groups in it: the group that he is in was given to him, with the right to move
    /// processes (cgroups(7), delegation).
    pub fn is_delegated(&self) -> bool {
        let own = self.path(&own());
        let may = |path: &Path| {
            rustix::fs::accessat(
                rustix::fs::CWD,
                path,
                rustix::fs::Access::WRITE_OK,
                rustix::fs::AtFlags::empty(),
            )
            .is_ok()
        };
        self.base.starts_with(crate::cgroup::own()) && may(&own) && may(&own.join("cgroup.procs"))
    }

    /// The group of a run, relative to the mount.
    pub fn group(&self, service: &str, run: u64) -> PathBuf {
        self.base.join(format!("{service}.{run}"))
    }

    /// Where a group is in the file system.
    pub fn path(&self, group: &Path) -> PathBuf {
        self.mount.join(group)
    }

    /// Makes a group and those above it.
    ///
    /// # Errors
    /// mkdir(2), open(2).
    pub fn create(&self, group: &Path) -> Result<OwnedFd, SysError> {
        let path = self.path(group);
        let fault = |call, error: std::io::Error| SysError::new(call, path.display().to_string(), error);
        fs::create_dir_all(&path).map_err(|error| fault("mkdir", error))?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| fault("open", errno.into()))
    }

    /// Moves a process into a group.
    ///
    /// # Errors
    /// open(2), write(2).
    pub fn attach(&self, group: &Path, pid: u32) -> Result<(), SysError> {
        fs::write(self.path(group).join("cgroup.procs"), pid.to_string()).map_err(|error| {
            SysError::new("write", format!("{}/cgroup.procs: {pid}", group.display()), error)
        })
    }

    /// Kills every process of a group at once (`cgroup.kill`, Linux 5.14). A group that is gone has none.
    ///
    /// # Errors
    /// open(2), write(2).
    pub fn kill(&self, group: &Path) -> Result<(), SysError> {
        match fs::write(self.path(group).join("cgroup.kill"), "1") {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(SysError::new("write", format!("{}/cgroup.kill", group.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// `cgroup.kill` of a group, for whoever is to end it from within.
    ///
    /// # Errors
    /// open(2).
    pub fn open_kill(&self, group: &Path) -> Result<OwnedFd, SysError> {
        let path = self.path(group).join("cgroup.kill");
        rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::new("open", path.display().to_string(), errno))
    }

    /// Sends a signal to every process of a group.
    pub fn signal(&self, group: &Path, signal: nix::sys::signal::Signal) {
        for pid in self.processes(group) {
            if let Ok(pid) = i32::try_from(pid) {
                // The process may have ended since: then there is nothing to signal.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
            }
        }
    }

    /// The processes of a group and of those below it, as this pid namespace counts.
    pub fn processes(&self, group: &Path) -> Vec<u32> {
        let mut found = Vec::new();
        walk(&self.path(group), &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        });
        found
    }

    /// Removes a group with those below it (a service in a cgroup namespace may have made some).
    ///
    /// # Errors
    /// rmdir(2): EBUSY while a process is left.
    pub fn remove(&self, group: &Path) -> Result<(), SysError> {
        let mut dirs = Vec::new();
        walk(&self.path(group), &mut |dir| dirs.push(dir.to_path_buf()));
        for dir in dirs.iter().rev() {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(SysError::new("rmdir", dir.display().to_string(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the base group once nothing is left in it.
    pub fn remove_base(&self) {
        // Another supervisor may share an upper group: what is not empty stays.
        let mut base = self.base.clone();
        while base.components().next().is_some() && self.path(&base) != self.path(&own()) {
            if fs::remove_dir(self.path(&base)).is_err() || !base.pop() {
                return;
            }
        }
    }

    /// The runs that have a group: service and run.
    pub fn runs(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.path(&self.base)).into_iter().flatten().flatten();
        let run = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (service, run) = name.rsplit_once('.')?;
            Some((service.to_owned(), run.parse().ok()?))
        };
        entries.filter_map(run).collect()
    }
}

/// Visits a directory and those below it, upper ones first. Depth is bounded by the kernel's `cgroup.max.depth`
/// and by the directories there are.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        visit(&dir);
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(dirs.map(|entry| entry.path()));
    }
}
