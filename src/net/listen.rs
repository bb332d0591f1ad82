//! Held sockets: made once, and listened to until their service is stopped.

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, StatxFlags, Uid},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
    },
};
use serde::{Deserialize, Serialize};

use super::{NetError, reserve::taker};
use crate::{
    spec::{Listen, Proto, Socket, SocketKind},
    sys::{SysError, file},
};

/// A held socket.
#[derive(Debug)]
pub struct Held {
    /// What it is.
    pub socket: Socket,
    /// The kernel's.
    pub fd: OwnedFd,
    /// What there is of it in the file system.
    pub file: Option<SocketFile>,
}

/// The file of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    /// Inode and time of birth: somebody else's under the same name is left alone.
    identity: (u64, i64, u32),
    /// The directories that were made for it, the uppermost first.
    made: Vec<PathBuf>,
}

/// Listens in the network and mount namespace of the calling thread.
///
/// # Errors
/// [`NetError::Taken`] and [`NetError::PathTaken`] name who is there already; otherwise the kernel's word.
pub fn open(socket: &Socket) -> Result<Held, NetError> {
    let (fd, file) = match &socket.listen {
        Listen::Ip(address) => (open_ip(*address, socket)?, None),
        Listen::Unix(path) => {
            let (fd, file) = open_unix(path, socket)?;
            (fd, Some(file))
        }
    };
    let held = Held { socket: socket.clone(), fd, file };
    match held.begin() {
        Ok(()) => Ok(held),
        Err(error) => {
            held.close();
            Err(error.into())
        }
    }
}

impl Held {
    /// Takes on what can be changed while it is held: backlog, mode and owner of the file, name.
    ///
    /// # Errors
    /// The kernel's word; what it was stays.
    pub fn change(&mut self, socket: &Socket) -> Result<(), NetError> {
        if let (Listen::Unix(path), Some(file)) = (&socket.listen, &self.file) {
            let (dir, name) = place(path)?;
            let (at, identity) = look(dir.as_fd(), &name, path)?;
            if identity == file.identity {
                give(at.as_fd(), path, socket)?;
            }
        }
        self.socket = socket.clone();
        // For a socket that listens already, another backlog.
        Ok(self.begin()?)
    }

    fn begin(&self) -> Result<(), SysError> {
        match self.socket.kind.is_connected() {
            true => listen(&self.fd, self.socket.backlog)
                .map_err(|errno| SysError::new("listen", self.socket.to_string(), errno)),
            false => Ok(()),
        }
    }

    /// Lets go of it, and takes its file away.
    pub fn close(self) {
        if let (Listen::Unix(path), Some(file)) = (&self.socket.listen, &self.file) {
            remove(path, file);
        }
    }
}

/// Takes the file of a socket away, where it is still there.
pub fn remove(path: &Path, file: &SocketFile) {
    let gone = place(path).and_then(|(dir, name)| {
        let (_, identity) = look(dir.as_fd(), &name, path)?;
        if identity == file.identity {
            rustix::fs::unlinkat(&dir, &name, AtFlags::empty())
                .map_err(|errno| SysError::new("unlink", path.display().to_string(), errno))?;
        }
        Ok(())
    });
    match gone {
        Err(error) if error.errno != libc::ENOENT => tracing::warn!("{error}"),
        _ => {}
    }
    for dir in file.made.iter().rev() {
        // Others may have put something there.
        let _ = fs::remove_dir(dir);
    }
}

fn open_ip(address: SocketAddr, socket: &Socket) -> Result<OwnedFd, NetError> {
    let failed = |call, errno| SysError::new(call, format!("\"{socket}\""), errno);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, proto) = match socket.kind {
        SocketKind::Stream | SocketKind::Seqpacket => (SocketType::STREAM, Proto::Tcp),
        SocketKind::Dgram => (SocketType::DGRAM, Proto::Udp),
    };
    let fd =
        socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(|errno| failed("socket", errno))?;
    if proto == Proto::Tcp {
        // Past what a former server has left in TIME_WAIT. It does not let a second one listen.
        sockopt::set_socket_reuseaddr(&fd, true).map_err(|errno| failed("setsockopt", errno))?;
    }
    if address.is_ipv6() {
        // `[::]` means what it says, whatever the host's default is.
        sockopt::set_ipv6_v6only(&fd, true).map_err(|errno| failed("setsockopt", errno))?;
    }
    match bind(&fd, &address) {
        Ok(()) => Ok(fd),
        Err(Errno::ADDRINUSE) => {
            let (address, port) = (address.ip(), address.port());
            Err(NetError::Taken { address, port, proto, by: taker(address, port, proto) })
        }
        Err(errno) => Err(failed("bind", errno).into()),
    }
}

fn open_unix(path: &Path, socket: &Socket) -> Result<(OwnedFd, SocketFile), NetError> {
    let failed = |call, errno| SysError::new(call, path.display().to_string(), errno);
    let kind = match socket.kind {
        SocketKind::Stream => SocketType::STREAM,
        SocketKind::Dgram => SocketType::DGRAM,
        SocketKind::Seqpacket => SocketType::SEQPACKET,
    };
    let fd = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("socket", errno))?;
    // unix(7): the file gets the socket's own mode, less the umask: nobody sends a datagram before it has its owner.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o600)).map_err(|errno| failed("fchmod", errno))?;
    let made = make_parents(path)?;
    let opened = (|| {
        let (dir, name) = place(path)?;
        free(dir.as_fd(), &name, path, kind)?;
        bind(&fd, &address(dir.as_fd(), &name, path)?).map_err(|errno| failed("bind", errno))?;
        let (at, identity) = look(dir.as_fd(), &name, path)?;
        if let Err(error) = give(at.as_fd(), path, socket) {
            let _ = rustix::fs::unlinkat(&dir, &name, AtFlags::empty());
            return Err(error.into());
        }
        Ok(identity)
    })();
    match opened {
        Ok(identity) => Ok((fd, SocketFile { identity, made })),
        Err(error) => {
            for dir in made.iter().rev() {
                let _ = fs::remove_dir(dir);
            }
            Err(error)
        }
    }
}

/// Makes the directories of a path that are missing; those that it made. Of what is there no link is followed.
fn make_parents(path: &Path) -> Result<Vec<PathBuf>, NetError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let missing: Vec<&Path> =
        parent.ancestors().take_while(|dir| fs::symlink_metadata(dir).is_err()).collect();
    let mut made = Vec::new();
    for dir in missing.into_iter().rev() {
        let (above, name) = place(dir)?;
        rustix::fs::mkdirat(&above, &name, Mode::from_raw_mode(0o755))
            .map_err(|errno| SysError::new("mkdir", dir.display().to_string(), errno))?;
        // Whatever the umask has left of it.
        let new = rustix::fs::openat(
            &above,
            &name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let _ = new.and_then(|new| rustix::fs::fchmod(&new, Mode::from_raw_mode(0o755)));
        made.push(dir.to_owned());
    }
    Ok(made)
}

/// The directory that a path names, and its last part.
fn place(path: &Path) -> Result<(OwnedFd, PathBuf), SysError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    Ok((file::open_host(parent, OFlags::PATH | OFlags::DIRECTORY)?, name.into()))
}

/// The name of a socket in a directory that is held open: whoever moves the directory does not move us.
fn address(dir: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<SocketAddrUnix, SysError> {
    let at = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    SocketAddrUnix::new(at).map_err(|errno| SysError::new("bind", path.display().to_string(), errno))
}

/// Makes room for a socket: one that nobody listens on any more is taken away, anything else stays.
fn free(dir: BorrowedFd<'_>, name: &Path, path: &Path, kind: SocketType) -> Result<(), NetError> {
    let taken = |by: &str| NetError::PathTaken { path: path.display().to_string(), by: by.to_owned() };
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat.map_err(|errno| SysError::new("stat", path.display().to_string(), errno))?,
    };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return Err(taken(" by a file that is no socket"));
    }
    // Of either kind: EPROTOTYPE says that somebody listens in another way.
    let asks = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|errno| SysError::new("socket", path.display().to_string(), errno))?;
    match connect(&asks, &address(dir, name, path)?) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        _ => return Err(taken(" by a socket that somebody listens on")),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(SysError::new("unlink", path.display().to_string(), errno).into()),
    }
}

/// What has the name now: its descriptor and its identity. The number of an inode alone may be used again.
fn look(dir: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<(OwnedFd, (u64, i64, u32)), SysError> {
    let failed = |errno| SysError::new("stat", path.display().to_string(), errno);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let at = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed)?;
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(&at, "", AtFlags::EMPTY_PATH, wanted).map_err(failed)?;
    match rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) {
        rustix::fs::FileType::Socket => {
            Ok((at, (stat.stx_ino, stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)))
        }
        _ => Err(failed(Errno::NOENT)),
    }
}

/// Gives the file its owner and mode; by descriptor, so that no link that took its name gets them.
fn give(at: BorrowedFd<'_>, path: &Path, socket: &Socket) -> Result<(), SysError> {
    let failed = |call, errno| SysError::new(call, path.display().to_string(), errno);
    let (user, group) = (Uid::from_raw(socket.user), Gid::from_raw(socket.group));
    rustix::fs::chownat(at, "", Some(user), Some(group), AtFlags::EMPTY_PATH)
        .map_err(|errno| failed("chown", errno))?;
    let by_descriptor = Path::new("/proc/self/fd").join(at.as_raw_fd().to_string());
    rustix::fs::chmod(&by_descriptor, Mode::from_raw_mode(socket.mode))
        .map_err(|errno| failed("chmod", errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Socket {
        let (listen, name) = (Listen::Unix(path.to_owned()), "test".to_owned());
        let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Socket { listen, kind: SocketKind::Stream, name, backlog: 8, mode: 0o620, user, group, accept: None }
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_leaves_no_directory() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("one/two/web.sock");
        let held = open(&unix(&path)).expect("nobody is there");
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o620);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        let error = open(&unix(&path)).expect_err("somebody is there").to_string();
        assert!(error.ends_with("by a socket that somebody listens on"), "{error}");
        held.close();
        assert!(!dir.path().join("one").exists());
    }

    #[test]
    fn what_is_stale_is_replaced_and_what_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("web.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("nobody is there"));
        open(&unix(&path)).expect("nobody listens there").close();
        assert!(!path.exists());
        fs::write(&path, "text").expect("our own directory");
        assert!(open(&unix(&path)).is_err());
        fs::remove_file(&path).expect("it is there");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("our own directory");
        assert!(open(&unix(&path)).is_err());
        assert!(fs::symlink_metadata(&path).expect("it is there").is_symlink());
    }

    #[test]
    fn somebody_elses_file_is_not_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("web.sock");
        let held = open(&unix(&path)).expect("nobody is there");
        fs::remove_file(&path).expect("it is there");
        let other = std::os::unix::net::UnixListener::bind(&path).expect("nobody is there");
        held.close();
        assert!(path.exists());
        drop(other);
    }
}
