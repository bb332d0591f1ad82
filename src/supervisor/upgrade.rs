//! `palisade upgrade`: another program in this very process, without a moment in which nobody listens.
//!
//! execve(2) keeps the process, its children and the descriptors that we leave open: the listening control socket, the
//! lock, and the connection of whoever asked. Everything else the new program finds as a successor does, so that an
//! upgrade can go wrong in no other way than a supervisor that was killed.

use std::{
    ffi::{CString, OsString},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::sys::signal::SigSet;
use rustix::io::FdFlags;

use super::{Supervisor, state};
use crate::{
    control::{
        proto::{self, Error},
        server::{ClientId, Held},
        types::Pong,
    },
    sys::{SysError, file},
};

/// The option of `supervise` that says what a predecessor has left open.
const INHERIT: &str = "--inherit";

/// What a predecessor in this very process has left open: numbers of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherit {
    /// The listening control socket.
    pub listener: i32,
    /// The lock.
    pub lock: i32,
    /// The connection of whoever asked for the upgrade.
    pub client: i32,
}

impl Inherit {
    /// Reads the argument of `--inherit`.
    ///
    /// # Errors
    /// A sentence that says what is wanted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let numbers: Vec<i32> = text.split(',').filter_map(|number| number.parse().ok()).collect();
        match numbers[..] {
            [listener, lock, client] => Ok(Self { listener, lock, client }),
            _ => Err("LISTENER,LOCK,CLIENT is wanted".to_owned()),
        }
    }

    /// The descriptors: for the server, and of the client.
    ///
    /// # Errors
    /// As [`file::inherited`].
    pub(super) fn open(self) -> Result<(Held, OwnedFd), SysError> {
        let (listener, lock) = (file::inherited(self.listener)?, file::inherited(self.lock)?);
        Ok((Held { listener, lock }, file::inherited(self.client)?))
    }
}

impl Supervisor {
    /// Takes the request in; it is carried out when no verb is under way.
    pub(super) fn upgrade(&mut self, client: ClientId, wanted: &proto::Upgrade) {
        let binary = PathBuf::from(&wanted.binary);
        match is_fit(&binary, wanted.state) {
            Ok(()) => self.upgrade = Some((client, binary)),
            Err(reason) => self.server.error(client, &Error::Refused { reason }),
        }
    }

    /// Becomes another program, if somebody asked for that and nobody has to wait for an answer. Returns only where that
    /// was not to be.
    pub(super) fn maybe_upgrade(&mut self) {
        if self.upgrade.is_none() {
            return;
        }
        // A program of the host's that runs for a service is a child of ours, whose end another program would not hear of.
        let has_children = !self.fetches.is_empty() || self.runs.values().any(|run| run.hooks.is_outside());
        if self.stopping || self.clients.has_pending() || has_children {
            return;
        }
        let Some((client, binary)) = self.upgrade.take() else { return };
        // Whoever asked may have hung up.
        let Some(fds) = self.server.held(client) else { return };
        self.point_of_all("upgrade-asked");
        tracing::info!("going on as {}", binary.display());
        let numbers = fds.map(|fd| fd.as_raw_fd().to_string()).join(",");
        let arguments = arguments(std::env::args_os(), &numbers);
        // What comes meanwhile waits for the new program's handlers.
        let _ = SigSet::all().thread_block();
        let keep = |flags| fds.iter().try_for_each(|fd| rustix::io::fcntl_setfd(fd, flags));
        let executed = match keep(FdFlags::empty()) {
            Ok(()) => self.launcher.outside(|| execute(&binary, &arguments)).and_then(|failed| failed),
            Err(errno) => Err(SysError::new("fcntl", "F_SETFD", errno)),
        };
        let _ = keep(FdFlags::CLOEXEC);
        let _ = SigSet::all().thread_unblock();
        let reason = executed.err().map(|error| error.to_string()).unwrap_or_default();
        tracing::error!("not upgraded: {reason}");
        self.server.error(client, &Error::Failed { reason });
    }

    /// Tells whoever asked for the upgrade that this is the new program.
    pub(super) fn tell_upgraded(&mut self, client: OwnedFd) {
        let Some(client) = self.server.owe(client) else { return };
        let pong = Pong { version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id() };
        self.server.reply(client, &pong, false);
    }
}

/// Whether what is there may take our place: nobody but root could have put it there, and it reads our state.
fn is_fit(binary: &Path, state: u32) -> Result<(), String> {
    let there = binary.metadata().map_err(|error| format!("{}: {error}", binary.display()))?;
    let us = rustix::process::geteuid().as_raw();
    if !there.is_file() || there.mode() & 0o022 != 0 || ![0, us].contains(&there.uid()) {
        return Err(format!("{}: not a file of root's that nobody else may write", binary.display()));
    }
    // What was written by a newer program an older one must not take for garbage.
    if state < state::VERSION {
        return Err(format!(
            "{}: reads state of version {state}, and here is version {}: stop all services first",
            binary.display(),
            state::VERSION
        ));
    }
    Ok(())
}

/// Our own arguments, with what is left open in the place of what was left to us.
fn arguments(ours: impl Iterator<Item = OsString>, inherit: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut ours = ours;
    while let Some(argument) = ours.next() {
        match argument == INHERIT {
            true => drop(ours.next()),
            false => arguments.push(argument),
        }
    }
    arguments.extend([INHERIT.into(), inherit.into()]);
    arguments
}

fn execute(binary: &Path, arguments: &[OsString]) -> Result<(), SysError> {
    let fault = |errno| SysError::new("execve", binary.display().to_string(), errno);
    let text = |text: OsString| CString::new(text.into_vec()).map_err(|_| fault(nix::errno::Errno::EINVAL));
    let path = text(binary.as_os_str().to_owned())?;
    let arguments = arguments.iter().cloned().map(text).collect::<Result<Vec<CString>, SysError>>()?;
    // nix, because the standard library would unblock the signals.
    nix::unistd::execv(&path, &arguments).map_err(fault).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_to_us_is_not_left_on() {
        let ours = ["palisade", "--run", "/r", "supervise", INHERIT, "3,4,5"];
        let theirs = arguments(ours.into_iter().map(OsString::from), "7,8,9");
        assert_eq!(theirs, ["palisade", "--run", "/r", "supervise", INHERIT, "7,8,9"]);
        assert_eq!(Inherit::parse("7,8,9"), Ok(Inherit { listener: 7, lock: 8, client: 9 }));
        for wrong in ["", "7", "7,8", "7,8,9,10", "a,b,c"] {
            assert!(Inherit::parse(wrong).is_err(), "{wrong}");
        }
    }
}
