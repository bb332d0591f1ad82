//! Messages with descriptors over sequenced-packet sockets.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags};

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
    /// The sender's user id, as this user namespace counts; only with SO_PASSCRED.
    pub uid: Option<u32>,
    /// There were more bytes than there was room for, or more descriptors.
    pub is_cut: bool,
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

/// The most descriptors that a message may carry to us.
const FDS_PER_MESSAGE: u32 = 32;

/// Receives one message; descriptors are close-on-exec.
///
/// Of a message that carries more than `FDS_PER_MESSAGE` descriptors none is left, here or in the table of this
/// process: the kernel installs those that fit before it says that it has cut the rest (`MSG_CTRUNC`).
///
/// # Errors
/// recvmsg(2): EAGAIN on a non-blocking socket without a message.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> Result<Received, SysError> {
    receive_with(socket, limit, 0)
}

/// As [`receive`], but the message stays where it is: it comes again, with other descriptors of the same files.
///
/// # Errors
/// As [`receive`].
pub fn peek(socket: BorrowedFd<'_>, limit: usize) -> Result<Received, SysError> {
    receive_with(socket, limit, libc::MSG_PEEK)
}

#[allow(unsafe_code)]
fn receive_with(socket: BorrowedFd<'_>, limit: usize, flags: i32) -> Result<Received, SysError> {
    // SAFETY: it only calculates.
    let rights = unsafe { libc::CMSG_SPACE(FDS_PER_MESSAGE * 4) };
    // SAFETY: it only calculates; three words of 32 bits are a ucred.
    let space = rights + unsafe { libc::CMSG_SPACE(12) };
    // Words, so that the headers in it are aligned.
    let mut control = vec![0u64; (space as usize).div_ceil(size_of::<u64>())];
    let mut bytes = vec![0u8; limit];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a msghdr without anything.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = space as _;
    // SAFETY: the header names two buffers that live until the end of this function, and their sizes.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | flags) };
    let length =
        usize::try_from(length).map_err(|_| SysError::new("recvmsg", "", std::io::Error::last_os_error()))?;
    let mut received = Received::default();
    // SAFETY: the kernel has filled the buffer with headers and set its length, and nothing has moved since.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie in the buffer whole, or null.
        let one = unsafe { next.read() };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: it only calculates.
        let size = one.cmsg_len.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (one.cmsg_level, one.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                received.fds.extend((0..size / size_of::<RawFd>()).map(|index| {
                    // SAFETY: the header's length says that so many numbers lie behind it.
                    own(unsafe { data.cast::<RawFd>().wrapping_add(index).read_unaligned() })
                }));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if size >= size_of::<libc::ucred>() => {
                // SAFETY: as above; any bits are a ucred.
                let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                received.pid = u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0);
                received.uid = Some(credentials.uid);
            }
            _ => {}
        }
        // SAFETY: `next` is a header in the buffer of `header`.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    // Credentials that nobody asked for leave room for more than there should be.
    if header.msg_flags & libc::MSG_CTRUNC != 0 || received.fds.len() > FDS_PER_MESSAGE as usize {
        received.fds.clear();
        received.is_cut = true;
    }
    received.is_cut |= header.msg_flags & libc::MSG_TRUNC != 0;
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::{channel, receive, send};
    use crate::sys::tests::hung_up;

    /// A sender that is not ours, with more descriptors than there is room for: the end of the pipe says that none of its
    /// copies is left in this process.
    #[test]
    fn a_message_with_too_many_descriptors_leaves_none_behind() {
        for (count, kept) in [(1, 1), (32, 32), (33, 0), (200, 0), (253, 0)] {
            let (ours, theirs) = channel().expect("socketpair");
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe2");
            send(theirs.as_fd(), b"mine", &vec![writer.as_fd(); count]).expect("send");
            drop(writer);
            let received = receive(ours.as_fd(), 64).expect("receive");
            assert_eq!(received.bytes, b"mine", "{count}");
            assert_eq!(received.fds.len(), kept, "{count}");
            drop(received);
            hung_up(&reader);
            rustix::io::ioctl_fionbio(&reader, true).expect("non-blocking");
            assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0), "{count}: a writer is left");
        }
    }
}
