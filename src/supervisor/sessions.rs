//! Further processes in a sandbox: `exec`, `shell`, stop and reload commands. The init forks them inside; here is who is
//! told about them.

use std::{
    collections::BTreeMap,
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

use super::{Supervisor, runs::exit_kind};
use crate::{
    config::value,
    control::{
        proto::{self, Error},
        server::{ClientId, Request},
        types,
    },
    init::wire,
    launch::{self, LaunchFault},
    machine::ExitKind,
    plan::{self, ChildStep, Fd, Session, lower},
    spec::{IdSpec, Unit, UnitName, UserSpec},
    sys::socket,
};

/// What a session is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Somebody's command.
    Client {
        /// Who.
        client: ClientId,
        /// On a terminal, whose master he is to get.
        tty: bool,
        /// A copy of his standard error, until the command was executed.
        stderr: Option<OwnedFd>,
    },
    /// `service.stop.command`: the signal follows.
    Stop,
    /// A check of `service.ready` or `[health]`.
    Check,
    /// `service.reload.command`.
    Reload,
}

#[derive(Debug)]
struct Live {
    purpose: Purpose,
    session: Session,
    pid: Option<u32>,
    master: Option<OwnedFd>,
    /// Whoever asked for it has hung up.
    is_abandoned: bool,
}

impl Live {
    /// Kills the command of somebody who has hung up, as soon as its process is known.
    fn end_if_abandoned(&self) {
        let pid = self.pid.and_then(|pid| i32::try_from(pid).ok()).map(nix::unistd::Pid::from_raw);
        if let (true, Some(pid)) = (self.is_abandoned, pid) {
            // The session leader's whole group; the init has not reaped it, or we had heard of its end.
            let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    last: u32,
    live: BTreeMap<(UnitName, u32), Live>,
}

impl Sessions {
    /// The sandboxes that they are in change places.
    pub(super) fn change_places(&mut self, a: &UnitName, b: &UnitName) {
        let renamed = |((name, number), live): ((UnitName, u32), Live)| {
            let name = match &name {
                name if name == a => b.clone(),
                name if name == b => a.clone(),
                _ => name,
            };
            ((name, number), live)
        };
        self.live = std::mem::take(&mut self.live).into_iter().map(renamed).collect();
    }
}

impl Supervisor {
    /// `exec` and `shell`.
    pub(super) fn exec(&mut self, request: Request, exec: &proto::Exec) {
        let client = request.client;
        let name = match UnitName::said(&exec.name) {
            Ok(name) if self.fleet.entry(&name).is_some() => name,
            _ => {
                self.server.error(client, &Error::NoSuchService { names: vec![exec.name.clone()] });
                return;
            }
        };
        let Some(mut unit) = self.fleet.entry(&name).map(|entry| entry.unit.clone()) else { return };
        for assignment in &exec.env {
            if let Some((key, value)) = assignment.split_once('=') {
                unit.service.env.insert(key.to_owned(), value.to_owned());
            }
        }
        if let Some(user) = &exec.user {
            match account(user) {
                Ok(id) => unit.service.user = UserSpec::Named(id),
                Err(error) => return self.server.error(client, &error),
            }
            unit.service.group = None;
        }
        let stdio = match exec.tty {
            true => ChildStep::Terminal { columns: exec.cols.unwrap_or(80), rows: exec.rows.unwrap_or(24) },
            false => ChildStep::Stdio,
        };
        let stderr = request.fds.get(2).and_then(|fd| fd.try_clone().ok());
        let fds: Vec<(Fd, OwnedFd)> =
            [Fd::Stdin, Fd::Stdout, Fd::Stderr].into_iter().zip(request.fds).collect();
        let purpose = Purpose::Client { client, tty: exec.tty, stderr };
        if let Err(error) = self.spawn(&name, &unit, &exec.command, stdio, &fds, purpose) {
            self.server.error(client, &error);
        }
    }

    /// A command of the service file, with its output in the service's log.
    pub(super) fn run_inside(
        &mut self,
        name: &UnitName,
        command: &[String],
        purpose: Purpose,
    ) -> Result<(), Error> {
        let not_running = || Error::NotRunning { name: name.to_string() };
        let unit = self.unit_of(name).ok_or_else(not_running)?;
        let fds = launch::null_stdio().map_err(|error| Error::Failed { reason: error.to_string() })?;
        self.spawn(name, &unit, command, ChildStep::Stdio, &fds, purpose)
    }

    fn spawn(
        &mut self,
        name: &UnitName,
        unit: &Unit,
        command: &[String],
        stdio: ChildStep,
        fds: &[(Fd, OwnedFd)],
        purpose: Purpose,
    ) -> Result<(), Error> {
        self.spawn_steps(name, plan::session(unit, command, stdio), fds, purpose).map(drop)
    }

    /// Another process of the sandbox, which does these steps. Returns the number of the session.
    pub(super) fn spawn_steps(
        &mut self,
        name: &UnitName,
        steps: Vec<ChildStep>,
        fds: &[(Fd, OwnedFd)],
        purpose: Purpose,
    ) -> Result<u32, Error> {
        let not_running = || Error::NotRunning { name: name.to_string() };
        let run = self.runs.get(name).filter(|run| !run.is_over).ok_or_else(not_running)?;
        let channel = run.channel.as_ref().ok_or_else(not_running)?;
        self.sessions.last = self.sessions.last.wrapping_add(1).max(1);
        let number = self.sessions.last;
        let session = Session { number, steps, after: Vec::new(), flags: 0 };
        let seen = run.seen().map_err(|error| Error::Failed { reason: error.to_string() })?;
        let bytes = lower::lower_session(&session, &seen);
        launch::send_plan(channel.as_fd(), wire::SAY_SPAWN, number, &bytes, &session.fds(), fds)
            .map_err(|error| Error::Failed { reason: error.to_string() })?;
        let live = Live { purpose, session, pid: None, master: None, is_abandoned: false };
        self.sessions.live.insert((name.clone(), number), live);
        Ok(number)
    }

    pub(super) fn session_heard(
        &mut self,
        name: &UnitName,
        message: &wire::Message,
        received: socket::Received,
    ) {
        let key = (name.clone(), message.session);
        let Some(live) = self.sessions.live.get_mut(&key) else { return };
        match message.verb {
            wire::SAY_HELLO => {
                live.pid = received.pid;
                live.end_if_abandoned();
                self.greet(&key);
            }
            wire::SAY_FD => {
                live.master = received.fds.into_iter().next();
                self.greet(&key);
            }
            wire::SAY_FAULT => {
                let number = usize::try_from(message.a).unwrap_or_default();
                let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
                let fault = LaunchFault::child(number, live.session.step(number), errno);
                self.session_failed(&key, &fault);
            }
            wire::SAY_FULL if matches!(live.purpose, Purpose::Check) => {
                self.sessions.live.remove(&key);
                self.check_unasked(name, message.session);
            }
            wire::SAY_FULL => {
                let fault = LaunchFault::refused("session", "the sandbox has no room for another session");
                self.session_failed(&key, &fault);
            }
            wire::SAY_EXITED => self.session_ended(&key, exit_kind(message.a)),
            _ => {}
        }
    }

    /// Tells the caller that his command runs, once everything that he is to get is there.
    fn greet(&mut self, key: &(UnitName, u32)) {
        let Some(live) = self.sessions.live.get_mut(key) else { return };
        let Purpose::Client { client, tty, .. } = &live.purpose else { return };
        let Some(pid) = live.pid.and_then(|pid| i32::try_from(pid).ok()) else { return };
        if *tty && live.master.is_none() {
            return;
        }
        let value = types::Session { pid: Some(pid), ..types::Session::default() };
        let fds = live.master.take().into_iter().collect();
        self.server.reply_with(*client, &value, true, fds);
    }

    fn session_failed(&mut self, key: &(UnitName, u32), fault: &LaunchFault) {
        let Some(live) = self.sessions.live.remove(key) else { return };
        match live.purpose {
            Purpose::Client { client, stderr: Some(stderr), .. } => {
                // To the caller's eyes as the shell's own complaint would be, with the shell's exit status.
                let _ = writeln!(std::fs::File::from(stderr), "palisade: {}: {fault}", key.0);
                let code = Some(fault.exit_code());
                self.server.reply(client, &types::Session { code, ..types::Session::default() }, false);
            }
            Purpose::Client { client, .. } => {
                self.server.error(client, &Error::Failed { reason: fault.to_string() });
            }
            Purpose::Stop => {
                tracing::error!(unit = %key.0, "service.stop.command: {fault}");
                self.after_stop_command(&key.0);
            }
            Purpose::Check => self.check_ended(&key.0, key.1, Err(fault)),
            Purpose::Reload => self.reload_answer(&key.0, &format!("not reloaded: {fault}"), false),
        }
    }

    fn session_ended(&mut self, key: &(UnitName, u32), exit: ExitKind) {
        let Some(live) = self.sessions.live.remove(key) else { return };
        match live.purpose {
            Purpose::Client { client, .. } => {
                let (code, signal) = match exit {
                    ExitKind::Code(code) => (Some(code), None),
                    ExitKind::Signal(signal) | ExitKind::Core(signal) => (None, Some(signal)),
                    ExitKind::Unknown => (None, None),
                };
                self.server.reply(client, &types::Session { pid: None, code, signal }, false);
            }
            Purpose::Stop => self.after_stop_command(&key.0),
            Purpose::Check => self.check_ended(&key.0, key.1, Ok(exit)),
            Purpose::Reload => {
                self.point(&key.0, "reload-command-ended");
                match exit {
                    ExitKind::Code(0) => self.reload_answer(&key.0, "reloaded", true),
                    exit => self.reload_answer(&key.0, &format!("not reloaded: {exit}"), false),
                }
            }
        }
    }

    /// As systemd: what the stop command has left gets the signal.
    fn after_stop_command(&mut self, name: &UnitName) {
        let Some(stop) = self.fleet.entry(name).map(|entry| entry.unit.service.stop.clone()) else { return };
        self.signal(name, stop.signal, stop.mode == crate::spec::StopMode::ControlGroup);
    }

    /// The sandbox is gone, and its sessions with it.
    pub(super) fn sessions_ended(&mut self, name: &UnitName) {
        let keys: Vec<_> =
            self.sessions.live.keys().filter(|(service, _)| service == name).cloned().collect();
        for key in keys {
            self.session_ended(&key, ExitKind::Signal(libc::SIGKILL));
        }
    }

    /// Nobody waits for this session any more: its processes are killed.
    pub(super) fn kill_session(&mut self, name: &UnitName, number: u32) {
        if let Some(live) = self.sessions.live.get_mut(&(name.clone(), number)) {
            live.is_abandoned = true;
            live.end_if_abandoned();
        }
    }

    /// A caller has hung up: his command ends.
    pub(super) fn end_sessions_of(&mut self, gone: ClientId) {
        for live in self.sessions.live.values_mut() {
            if matches!(&live.purpose, Purpose::Client { client, .. } if *client == gone) {
                live.is_abandoned = true;
                live.end_if_abandoned();
            }
        }
    }
}

/// Whom a session is for, as strictly as a service file says it: 4294967295 is "as before" to setresuid(2), which in the
/// init's child is the init's own id, and with a zero or a sign in front a number may be meant as anything.
fn account(user: &str) -> Result<IdSpec, Error> {
    let is_number = user.bytes().all(|byte| byte.is_ascii_digit());
    match value::parse_id(user) {
        Ok(id) => Ok(IdSpec::Number(id)),
        Err(_) if !is_number && value::is_account_name(user) => Ok(IdSpec::Name(user.to_owned())),
        Err(refusal) => Err(Error::InvalidParameter { parameter: format!("user: {}", refusal.message) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_an_id_or_a_name_and_nothing_between() {
        assert_eq!(account("0"), Ok(IdSpec::Number(0)));
        assert_eq!(account("4294967294"), Ok(IdSpec::Number(4_294_967_294)));
        assert_eq!(account("www-data"), Ok(IdSpec::Name("www-data".to_owned())));
        for user in ["4294967295", "4294967296", "+5", "-1", "007", "0x0", "0day", "", "a b", "root:x", "a\n"]
        {
            assert!(account(user).is_err(), "{user:?}");
        }
    }
}
