//! Files in memory, and paths that are walked once.

use std::{
    io::Write,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, Gid, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, Uid};

use super::SysError;

/// A file in memory that nobody can change any more, not even through /proc/PID/exe (CVE-2019-5736).
///
/// # Errors
/// memfd_create(2), write(2), fcntl(2).
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, SysError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC (Linux 6.3) keeps `vm.memfd_noexec` hosts working; older kernels answer EINVAL and need no flag.
    let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .map_err(|errno| SysError::new("memfd_create", name, errno))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).map_err(|error| SysError::new("write", name, error))?;
    let fd = OwnedFd::from(file);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(|errno| SysError::new("fcntl", "F_ADD_SEALS", errno))?;
    Ok(fd)
}

/// A descriptor that was left open for us across execve(2), under this number; closed at the next one.
///
/// # Errors
/// fcntl(2): EBADF where there is none, or for a standard stream.
#[allow(unsafe_code, reason = "a number becomes a descriptor")]
pub fn inherited(number: i32) -> Result<OwnedFd, SysError> {
    use std::os::fd::FromRawFd;
    let fault = |errno: rustix::io::Errno| SysError::new("fcntl", format!("descriptor {number}"), errno);
    if number < 3 {
        return Err(fault(rustix::io::Errno::BADF));
    }
    // SAFETY: borrow_raw wants a number that is not -1, which the line above sees to, and one that stays open for the call:
    // there is one thread, and nobody else closes it.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).map_err(fault)?;
    // SAFETY: from_raw_fd wants an open descriptor that nobody else owns: the call above found it open, and whoever executed
    // us said that it is for the one place that asks for it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Opens a path of the host without following any link: what a service file names is what is opened, also where somebody
/// who may write to a part of the path swaps it for a link (CVE-2022-23648 and its kind).
///
/// # Errors
/// openat2(2), with the path; ELOOP where a part of it is a link.
pub fn open_host(path: &Path, flags: OFlags) -> Result<OwnedFd, SysError> {
    rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|errno| SysError::new("openat2", path.display().to_string(), errno))
}

/// Opens a path inside a root that may be hostile. No link of any kind is followed: what is opened lies where its
/// name says, or the call fails.
///
/// # Errors
/// openat2(2): ELOOP where a part of the path is a link.
pub fn open_inside(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, SysError> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(|errno| SysError::new("openat2", path.display().to_string(), errno))
}

/// Opens a directory inside a root, making what is missing of it with mode 0755 for `owner`.
///
/// # Errors
/// As [`open_inside`], mkdirat(2), fchownat(2).
pub fn make_dirs_inside(root: BorrowedFd<'_>, path: &Path, owner: u32) -> Result<OwnedFd, SysError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut at = open_inside(root, Path::new("/"), flags)?;
    for part in path.components().filter(|part| matches!(part, std::path::Component::Normal(_))) {
        let part = Path::new(part.as_os_str());
        match open_inside(at.as_fd(), part, flags) {
            Ok(next) => at = next,
            Err(error) if error.errno == libc::ENOENT => {
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))
                    .map_err(|errno| SysError::new("mkdirat", path.display().to_string(), errno))?;
                at = open_inside(at.as_fd(), part, flags)?;
                give(at.as_fd(), owner)
                    .map_err(|error| SysError { args: path.display().to_string(), ..error })?;
            }
            Err(error) => return Err(SysError::new(error.call, path.display().to_string(), error.errno)),
        }
    }
    Ok(at)
}

/// Makes `owner` the user and the group of what a descriptor names.
///
/// # Errors
/// fchownat(2).
pub fn give(fd: BorrowedFd<'_>, owner: u32) -> Result<(), SysError> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .map_err(|errno| SysError::new("fchownat", owner.to_string(), errno))
}

/// Whether two descriptors are the same open file. Where the kernel does not tell (kcmp(2)), they are not.
#[allow(unsafe_code)]
pub fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    // linux/kcmp.h
    const KCMP_FILE: libc::c_int = 0;
    let me = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the call reads five numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, me, me, KCMP_FILE, a.as_raw_fd(), b.as_raw_fd()) == 0 }
}

/// Whether nobody can make us wait who closes it: a socket, a pipe, an anonymous thing of the kernel's, or memory. The file of
/// a file system that a sandbox may have made itself is none of those, and is not looked at in any way that asks it.
pub fn is_storable(fd: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()));
    // A path of any file system begins with a slash.
    let is_anonymous = |link: std::path::PathBuf| {
        let text = link.to_string_lossy().into_owned();
        ["socket:", "pipe:", "anon_inode:"].iter().any(|kind| text.starts_with(kind))
    };
    link.is_ok_and(is_anonymous) || rustix::fs::fcntl_get_seals(fd).is_ok()
}
