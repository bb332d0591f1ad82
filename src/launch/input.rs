//! Our standard input on its way into a foreground service that must not hold it itself.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::PollFlags;

use crate::sys::SysError;

/// Where it goes, and what has been read and not been taken yet: a service that does not read holds up its input and
/// nothing else.
#[derive(Debug)]
pub(super) struct Input {
    to: OwnedFd,
    pending: Vec<u8>,
}

impl Input {
    /// Copies to `to`, which becomes non-blocking.
    pub(super) fn new(to: OwnedFd) -> Result<Self, SysError> {
        rustix::io::ioctl_fionbio(&to, true).map_err(|errno| SysError::new("ioctl", "FIONBIO", errno))?;
        Ok(Self { to, pending: Vec::new() })
    }

    /// What to wait for.
    pub(super) fn interest<'a>(&'a self, stdin: &'a io::Stdin) -> (BorrowedFd<'a>, PollFlags) {
        match self.pending.is_empty() {
            true => (stdin.as_fd(), PollFlags::IN),
            false => (self.to.as_fd(), PollFlags::OUT),
        }
    }

    /// Goes on copying; false at the end of either side.
    pub(super) fn go_on(&mut self, stdin: &io::Stdin) -> bool {
        use rustix::io::Errno;
        if self.pending.is_empty() {
            let mut bytes = [0; 4096];
            // Not through the buffer of std: poll(2) would know nothing of what lies there.
            match rustix::io::read(stdin, &mut bytes) {
                Ok(0) => return false,
                Ok(read) => self.pending.extend_from_slice(&bytes[..read]),
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
        match rustix::io::write(&self.to, &self.pending) {
            Ok(written) => {
                self.pending.drain(..written);
                true
            }
            Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
        }
    }
}
