//! The main process where that is not the one that was started: a daemon that its starter has left behind, or whichever
//! the service names (`MAINPID=`).

use core::mem::zeroed;

use crate::{
    CONNECTIONS, EINVAL, ESRCH, Init, Usage, call, close,
    raw::{AT_FDCWD, Call, O_NOFOLLOW},
    send, send_fd,
    text::decimal,
    wire::{FOLLOWS, Message, NOT_PID1, PID_FILE, SAY_MAIN, UNSEEN},
};

/// What is known of it. Descriptors are -1 where there is none.
pub(crate) struct Daemon {
    /// Of the main process, where that is one that was followed.
    pub(crate) pidfd: i64,
    /// Tells of changes of the directory of the pid file, while that is waited for.
    pub(crate) watch: i64,
    /// The starter has ended well, and nobody has taken its place.
    pub(crate) is_sought: bool,
    /// How the process ended that was reaped last.
    pub(crate) last: i32,
    pid_file: [u8; PID_FILE],
}

/// Who is left of those that the starter has started.
enum Left {
    Nobody,
    One(i64),
    Several,
}

// fcntl.h, inotify.h, wait.h
const O_CLOEXEC_NONBLOCK_NOCTTY: u64 = 0o2000000 | 0o4000 | 0o400;
const O_DIRECTORY_ANY: u64 = 0o2004000;
const IN_ANY_CHANGE: u64 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100;
const P_ALL: u64 = 0;
const P_PIDFD: u64 = 3;
const WEXITED_NOHANG_NOWAIT: u64 = 4 | 1 | 0x0100_0000;
const SEEK_END: u64 = 2;

impl Daemon {
    pub(crate) const fn none() -> Self {
        Self { pidfd: 0, watch: 0, is_sought: false, last: 0, pid_file: [0; PID_FILE] }
    }
}

impl Init {
    /// The program of the service was executed.
    pub(crate) fn begin(&mut self, pid: i64) {
        self.leave();
        self.main = pid;
    }

    pub(crate) fn set_pid_file(&mut self, path: &[u8]) -> i64 {
        if path.len() >= PID_FILE {
            return -EINVAL;
        }
        self.daemon.pid_file = [0; PID_FILE];
        self.daemon.pid_file[..path.len()].copy_from_slice(path);
        0
    }

    /// Takes `pid` for the main process, if it is one of the sandbox, and tells whoever listens.
    pub(crate) fn follow(&mut self, pid: i64) -> i64 {
        if pid <= 1 {
            return -EINVAL;
        }
        if pid == self.main {
            return 0;
        }
        // There is no service any more, or not yet.
        if self.main == 0 && !self.daemon.is_sought {
            return -ESRCH;
        }
        let pidfd = call(Call::PidFdOpen, [pid as u64, 0, 0, 0, 0, 0]);
        if pidfd < 0 {
            return pidfd;
        }
        // A pid namespace of its own has no other processes. Elsewhere it must be a child of this one.
        if self.flags & NOT_PID1 != 0 {
            let child = call(Call::WaitId, [P_PIDFD, pidfd as u64, 0, WEXITED_NOHANG_NOWAIT, 0, 0]);
            if child < 0 {
                close(pidfd);
                return child;
            }
        }
        self.leave();
        self.main = pid;
        self.daemon.pidfd = pidfd;
        self.say_daemon_to_all();
        0
    }

    /// Forgets which process was followed.
    fn leave(&mut self) {
        for fd in [&mut self.daemon.pidfd, &mut self.daemon.watch] {
            if *fd >= 0 {
                close(*fd);
            }
            *fd = -1;
        }
        self.daemon.is_sought = false;
    }

    /// The main process has ended: whether the service goes on without it.
    pub(crate) fn goes_on(&mut self, status: i32) -> bool {
        let was_followed = self.daemon.pidfd >= 0;
        self.leave();
        if self.flags & FOLLOWS == 0 || (status != 0 && !was_followed) {
            return false;
        }
        // While it is so, `follow` may choose.
        self.daemon.is_sought = true;
        let goes_on = match (self.daemon.pid_file[0] != 0, was_followed) {
            // A daemon that replaces itself has written the file anew before it ends.
            (true, true) => self.follow_file(),
            (true, false) => {
                // First, so that no change goes unnoticed.
                self.watch();
                self.follow_file();
                true
            }
            (false, true) => false,
            (false, false) => match self.left() {
                Left::Nobody => false,
                Left::One(pid) => self.follow(pid) == 0,
                Left::Several => {
                    self.say_daemon_to_all();
                    true
                }
            },
        };
        self.daemon.is_sought &= goes_on;
        goes_on
    }

    /// The descriptor says that the process which is followed has ended.
    pub(crate) fn daemon_ended(&mut self, pidfd: i64) {
        if self.daemon.pidfd != pidfd {
            return;
        }
        let main = self.main;
        self.reap();
        if self.main == main && self.daemon.pidfd == pidfd {
            // Somebody else is its parent.
            // SAFETY: plain integers.
            let usage: Usage = unsafe { zeroed() };
            self.main_ended(UNSEEN, &usage);
        }
    }

    /// Something has changed where the pid file is to appear.
    pub(crate) fn look_again(&mut self) {
        let mut events = [0u64; 512];
        let length = size_of_val(&events) as u64;
        call(Call::Read, [self.daemon.watch as u64, events.as_mut_ptr() as u64, length, 0, 0, 0]);
        // Its directory may be there by now.
        self.watch();
        self.follow_file();
    }

    /// Watches the directory of the pid file, or the nearest above it that there is.
    fn watch(&mut self) {
        if self.daemon.watch < 0 {
            self.daemon.watch = call(Call::InotifyInit1, [O_DIRECTORY_ANY, 0, 0, 0, 0, 0]);
        }
        let mut path = self.daemon.pid_file;
        let mut end = path.iter().position(|byte| *byte == 0).unwrap_or(PID_FILE - 1);
        while end > 0 {
            end = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            path[end.max(1)] = 0;
            let at = path.as_ptr() as u64;
            let added = call(Call::InotifyAddWatch, [self.daemon.watch as u64, at, IN_ANY_CHANGE, 0, 0, 0]);
            if added >= 0 {
                return;
            }
        }
    }

    fn follow_file(&mut self) -> bool {
        let mut bytes = [0u8; 32];
        let length = read_file(&self.daemon.pid_file, true, &mut bytes);
        let digits = bytes[..length].strip_suffix(b"\n").unwrap_or(&bytes[..length]);
        // As long as there is room for more it was read whole.
        length < bytes.len() && decimal(digits).is_some_and(|pid| self.follow(i64::from(pid)) == 0)
    }

    /// The children of this process that are no sessions.
    fn left(&self) -> Left {
        let mut bytes = [0u8; 1024];
        let length = read_file(b"/proc/thread-self/children\0", false, &mut bytes);
        if length == 0 || length == bytes.len() {
            let any = call(Call::WaitId, [P_ALL, 0, 0, WEXITED_NOHANG_NOWAIT, 0, 0]);
            return if any < 0 { Left::Nobody } else { Left::Several };
        }
        let mut left = Left::Nobody;
        for pid in bytes[..length].split(|byte| *byte == b' ').filter_map(decimal).map(i64::from) {
            if self.sessions.iter().all(|session| session.pid != pid) {
                left = match left {
                    Left::Nobody => Left::One(pid),
                    Left::One(_) | Left::Several => return Left::Several,
                };
            }
        }
        left
    }

    fn say_daemon_to_all(&self) {
        for n in 0..CONNECTIONS {
            if self.connections[n] >= 0 {
                self.say_daemon(self.connections[n]);
            }
        }
    }

    /// Which process is followed, if one is.
    pub(crate) fn say_daemon(&self, connection: i64) {
        if self.daemon.pidfd >= 0 {
            send_fd(connection, &Message::new(SAY_MAIN, 0, self.main, 0), self.daemon.pidfd as i32);
        } else if self.daemon.is_sought && self.daemon.pid_file[0] == 0 {
            send(connection, &Message::new(SAY_MAIN, 0, 0, 0));
        }
    }
}

/// The first bytes of a file whose path ends with a NUL; none of what is no regular file, where it is to be one.
#[inline(never)]
fn read_file(path: &[u8], is_regular: bool, bytes: &mut [u8]) -> usize {
    // It may be anything: a fifo or a terminal must neither stop us nor become ours.
    let flags = O_CLOEXEC_NONBLOCK_NOCTTY | O_NOFOLLOW;
    let fd = call(Call::OpenAt, [AT_FDCWD, path.as_ptr() as u64, flags, 0, 0, 0]);
    if fd < 0 {
        return 0;
    }
    // Neither a fifo nor a terminal has an end.
    let is_good = !is_regular || call(Call::LSeek, [fd as u64, 0, SEEK_END, 0, 0, 0]) > 0;
    let mut length = 0;
    while is_good && length < bytes.len() {
        let (at, room) = (bytes[length..].as_mut_ptr() as u64, (bytes.len() - length) as u64);
        // Read from its beginning, whatever was looked at.
        let read = call(Call::PRead64, [fd as u64, at, room, length as u64, 0, 0]);
        if read <= 0 {
            break;
        }
        length += read as usize;
    }
    close(fd);
    length
}
