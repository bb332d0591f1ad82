//! Messages with descriptors over sequenced-packet sockets.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials};

use super::SysError;

/// What one receive gave.
#[derive(Debug, Default)]
pub struct Received {
    /// The bytes; empty at the end of the connection.
    pub bytes: Vec<u8>,
    /// The descriptors that came along.
    pub fds: Vec<OwnedFd>,
    /// The sender's pid, as the kernel gives it to this pid namespace; only with SO_PASSCRED.
    pub pid: Option<u32>,
}

/// A pair of connected sequenced-packet sockets.
///
/// # Errors
/// socketpair(2).
pub fn channel() -> Result<(OwnedFd, OwnedFd), SysError> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    rustix::net::socketpair(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, flags, None)
        .map_err(|errno| SysError::new("socketpair", "", errno))
}

/// Sends one message with descriptors.
///
/// # Errors
/// sendmsg(2): EAGAIN where the other side does not read, EPIPE where there is none.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), SysError> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &control[..0] } else { &control[..] };
    let io = [std::io::IoSlice::new(bytes)];
    nix::sys::socket::sendmsg::<()>(socket.as_raw_fd(), &io, control, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
        .map_err(|errno| SysError::new("sendmsg", "", errno))
}

/// Receives one message; descriptors are close-on-exec.
///
/// # Errors
/// recvmsg(2): EAGAIN on a non-blocking socket without a message.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> Result<Received, SysError> {
    let mut bytes = vec![0; limit];
    let mut space = nix::cmsg_space!([RawFd; 32], UnixCredentials);
    let mut io = [std::io::IoSliceMut::new(&mut bytes)];
    let message = nix::sys::socket::recvmsg::<()>(
        socket.as_raw_fd(),
        &mut io,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(|errno| SysError::new("recvmsg", "", errno))?;
    let mut received = Received::default();
    for control in message.cmsgs().into_iter().flatten() {
        match control {
            ControlMessageOwned::ScmRights(fds) => {
                received.fds.extend(fds.into_iter().map(own));
            }
            ControlMessageOwned::ScmCredentials(credentials) => {
                received.pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0);
            }
            _ => {}
        }
    }
    let length = message.bytes;
    bytes.truncate(length);
    received.bytes = bytes;
    Ok(received)
}

/// The supplementary groups of who is at the other end of a connected Unix socket, as they were at connect(2): unix(7),
/// SO_PEERGROUPS.
///
/// # Errors
/// getsockopt(2).
#[allow(unsafe_code)]
pub fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, SysError> {
    let failed = || SysError::new("getsockopt", "SO_PEERGROUPS", std::io::Error::last_os_error());
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let room = std::mem::size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(room).unwrap_or(libc::socklen_t::MAX);
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
        // SAFETY: the kernel writes at most `length` bytes, which is how large the vector is, and then sets `length`.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), level, option, groups.as_mut_ptr().cast(), &raw mut length)
        };
        let count = usize::try_from(length).unwrap_or_default() / size_of::<libc::gid_t>();
        match result {
            0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            // ERANGE says how much room it takes; there are at most NGROUPS_MAX.
            _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE)
                && count > groups.len()
                && count <= 65_536 =>
            {
                groups.resize(count, 0);
            }
            _ => return Err(failed()),
        }
    }
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us (SCM_RIGHTS) and nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
