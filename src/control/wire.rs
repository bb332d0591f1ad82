//! Bytes and descriptors over a Unix stream socket: unix(7), SCM_RIGHTS.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};

/// The most descriptors that one message carries: those of an `Exec` without a terminal.
pub(super) const FDS_PER_MESSAGE: usize = 3;

/// Reads what is there, and at most [`FDS_PER_MESSAGE`] descriptors with it; 0 bytes is the end.
///
/// Descriptors beyond those are closed, by the kernel or here.
pub(super) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry_on_intr(|| {
        let parts = &mut [IoSliceMut::new(buffer)];
        recvmsg(&socket, parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    // The padding of the control buffer has room for one more than it was asked for.
    fds.truncate(FDS_PER_MESSAGE);
    Ok((message.bytes, fds))
}

/// Sends as much of `bytes` as there is room for, the descriptors with the first of them; how many bytes went.
pub(super) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[OwnedFd],
    flags: SendFlags,
) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::TOOBIG);
    }
    // Without NOSIGNAL a caller who hangs up would end the supervisor by SIGPIPE.
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL))
}
