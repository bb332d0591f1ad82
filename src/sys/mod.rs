//! Everything that talks to the kernel below the level of rustix and nix; the only unsafe code of the package.

pub mod change;
pub mod clone;
pub mod facts;
pub mod file;
pub mod ids;
pub mod landlock;
pub mod mount;
pub mod present;
pub mod schedule;
pub mod socket;
pub mod terminal;

use std::fmt;

/// A system call that went wrong: the call, what it was called with, and the kernel's answer.
///
/// Prints as `mount("proc", "/proc"): EPERM (operation not permitted)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysError {
    /// Name of the system call, or of the operation where several calls make one.
    pub call: &'static str,
    /// Its telling arguments, as they are to be printed between the parentheses.
    pub args: String,
    /// The error number, errno(3).
    pub errno: i32,
}

impl SysError {
    /// Puts an error number together with the call that gave it.
    pub fn new(call: &'static str, args: impl Into<String>, errno: impl Into<Errno>) -> Self {
        Self { call, args: args.into(), errno: errno.into().0 }
    }

    /// The symbol of the error number, such as `EPERM`.
    pub fn symbol(&self) -> String {
        format!("{:?}", nix::errno::Errno::from_raw(self.errno))
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = nix::errno::Errno::from_raw(self.errno);
        let text = errno.desc();
        let mut chars = text.chars();
        let first = chars.next().map(|c| c.to_ascii_lowercase()).unwrap_or_default();
        write!(f, "{}({}): {errno:?} ({first}{})", self.call, self.args, chars.as_str())
    }
}

impl std::error::Error for SysError {}

/// Ends this process as SIGKILL from outside would: at once, and without a word.
pub fn die() -> ! {
    // Cannot fail: a process may signal itself.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

/// An error number, whichever library it came from.
pub struct Errno(i32);

impl From<i32> for Errno {
    fn from(raw: i32) -> Self {
        Self(raw)
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Self {
        Self(errno as i32)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Waits until nobody can write into a pipe any more, but not for ever: a process that another test starts has a copy of
    /// every descriptor until it executes.
    pub(crate) fn hung_up(reader: &OwnedFd) {
        let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
        poll(&mut [PollFd::new(reader, PollFlags::empty())], Some(&minute)).expect("poll(2)");
    }
}
