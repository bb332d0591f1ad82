//! A socket of ours inside a root.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Gid, Mode, Uid},
    mount::MountAttrFlags,
};

use super::Workshop;
use crate::sys::{
    SysError, file,
    mount::{self, Attributes},
};

impl Workshop {
    /// A datagram socket under this path, on which the kernel says of each message who has sent it; in a read-only file
    /// system of its own, so that nobody inside can put another in its place.
    ///
    /// # Errors
    /// Of the file, mount and socket calls.
    pub fn socket(&self, dst: &Path, socket: BorrowedFd<'_>) -> Result<(), SysError> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let options = [("mode", "0755"), ("size", "4096"), ("nr_inodes", "2")];
        let made = mount::new_filesystem("tmpfs", &options, attributes)?;
        file::give(made.as_fd(), self.owner)?;
        let fault = |call, errno: rustix::io::Errno| SysError::new(call, dst.display().to_string(), errno);
        let name = dst.file_name().ok_or_else(|| fault("bind", rustix::io::Errno::INVAL))?;
        // The longest address of a Unix socket is short, and this one leads into a mount that is nowhere yet.
        let path = Path::new("/proc/self/fd").join(made.as_raw_fd().to_string()).join(name);
        let address = rustix::net::SocketAddrUnix::new(&path).map_err(|errno| fault("bind", errno))?;
        rustix::net::bind(socket, &address).map_err(|errno| fault("bind", errno))?;
        let ids = (Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.owner)));
        rustix::fs::chownat(&made, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| fault("chown", errno))?;
        // Whoever is in the sandbox may send; who is heard is decided by who sends.
        rustix::fs::chmodat(&made, name, Mode::from_raw_mode(0o666), AtFlags::empty())
            .map_err(|errno| fault("chmod", errno))?;
        let closed = Attributes { read_only: true, no_exec: true, no_dev: true, ..Attributes::default() };
        mount::set_attributes(made.as_fd(), &closed)?;
        let dir = dst.parent().ok_or_else(|| fault("bind", rustix::io::Errno::INVAL))?;
        let target = file::make_dirs_inside(self.root_fd()?.as_fd(), dir, self.owner)?;
        mount::attach(made.as_fd(), target.as_fd())
    }
}
