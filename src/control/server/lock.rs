//! Which supervisor a directory belongs to: the one that holds the lock of a file there.
//!
//! The kernel gives a lock up with the last descriptor of the file that was opened for it. A process that has just been
//! cloned has copies of all of its maker's until it executes something; where its maker is killed in that moment, the lock is
//! held by nobody who supervises, for as long as that takes. So whoever holds it says in the file which process it is,
//! and one that has ended is waited for. The same goes for the socket that it listened on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::{
        fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::BindError;
use crate::sys::SysError;

/// How long what a dead supervisor was making may take to execute, on a host that is all but standing still.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing tells when it has: nobody here is its parent, and of two who wait for the lock only one gets it.
const PACE: Duration = Duration::from_millis(5);

/// Takes the lock of the file at `path`, for the supervisor that listens on `socket`.
pub(super) fn take(path: &Path, socket: &Path) -> Result<(File, PathBuf), BindError> {
    let failed = |call: &'static str| {
        move |error: io::Error| SysError::new(call, format!("{:?}", path.display()), error)
    };
    let until = Instant::now() + PATIENCE;
    let mut has_told = false;
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            // Others must not be able to open it: whoever can could hold the lock.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                if !is_left_behind(&file) || Instant::now() > until {
                    return Err(BindError::Live(socket.to_owned()));
                }
                if !has_told {
                    tracing::info!("the last supervisor was killed: waiting for what it was making");
                    has_told = true;
                }
                std::thread::sleep(PACE);
                continue;
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed("flock")(error).into()),
        }
        // Its last owner may have removed the file between our open and our lock.
        let ours = file.metadata().map_err(failed("fstat"))?.ino();
        if fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
            sign(&file);
            return Ok((file, path.to_owned()));
        }
    }
}

/// Says in the file who holds its lock. Where that cannot be written, a successor waits for nobody, and says who is there.
fn sign(file: &File) {
    let pid = std::process::id();
    let text = format!("{pid} {}\n", start_time(pid).unwrap_or_default());
    let _ = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
}

/// Whether the process that took the lock has ended.
fn is_left_behind(mut file: &File) -> bool {
    let mut text = String::new();
    // Bounded, though only we write to it.
    let read = Read::by_ref(&mut file).take(64).read_to_string(&mut text);
    let Some((pid, time)) = read.ok().and_then(|_| text.trim_end().split_once(' ')) else { return false };
    let (Ok(pid), Ok(time)) = (pid.parse(), time.parse::<u64>()) else { return false };
    start_time(pid) != Some(time)
}

/// When a process that lives was started, in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name, in parentheses, may hold anything; behind it the state, and 22 is the 20th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !has_ended)
}

/// Removes a socket on which nobody listens who lives.
pub(super) fn remove_dead(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::Unsafe { path: path.to_owned(), reason: "is not a socket" }),
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(SysError::new("connect", format!("{:?}", path.display()), error).into()),
        // unix(7): the credentials are those of whoever called listen(2).
        Ok(stream) => {
            let who = rustix::net::sockopt::socket_peercred(&stream).ok();
            let pid = who.and_then(|who| u32::try_from(who.pid.as_raw_nonzero().get()).ok());
            if pid.is_none_or(|pid| start_time(pid).is_some()) {
                return Err(BindError::Live(path.to_owned()));
            }
        }
    }
    let args = format!("{:?}", path.display());
    fs::remove_file(path).map_err(|error| SysError::new("unlink", args, error).into())
}
