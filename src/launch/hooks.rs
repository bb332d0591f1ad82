//! Commands around the main program: inside as sessions of the init, which is [`inside`], or outside, which is [`Outside`].

use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, Signal},
};

use super::{LaunchFault, Retry, open_null, send_plan};
use crate::{
    cgroup::Tree,
    init::wire,
    machine::{ExitKind, hooks::HookEnd},
    plan::{self, Fd, LaunchPlan, Seen, Session, lower},
    spec::{Hook, Stage, Stdin, Unit},
    sys::{SysError, clone},
};

/// What a command is told beside its environment.
pub type Told = Vec<(&'static str, String)>;

/// Write ends of the pipes that the service's output goes through, from our own ends of them.
///
/// # Errors
/// open(2).
pub fn writers(outputs: &[Option<OwnedFd>; 2]) -> Result<[Option<OwnedFd>; 2], SysError> {
    let again = |output: &Option<OwnedFd>| {
        let Some(fd) = output else { return Ok(None) };
        // The other end of the same pipe: proc_pid_fd(5). We hold the reading end, so nothing waits.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        opened.map(Some).map_err(|errno| SysError::new("open", path, errno))
    };
    Ok([again(&outputs[0])?, again(&outputs[1])?])
}

/// Standard input, output and error: nothing, and where the service writes to as well; nowhere where it has no output.
fn stdio(writers: &[Option<OwnedFd>; 2]) -> Result<Vec<(Fd, OwnedFd)>, SysError> {
    let copy = |writer: &Option<OwnedFd>| match writer {
        Some(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 3)
            .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno)),
        None => open_null(OFlags::WRONLY),
    };
    let input = open_null(OFlags::RDONLY)?;
    // Where the service's output is a connection, no command is to write to it.
    let output = if writers[0].is_some() { &writers[0] } else { &writers[1] };
    Ok(vec![(Fd::Stdin, input), (Fd::Stdout, copy(output)?), (Fd::Stderr, copy(&writers[1])?)])
}

/// Has the init execute a command as session `number`.
///
/// # Errors
/// memfd_create(2), sendmsg(2).
pub fn inside(
    channel: BorrowedFd<'_>,
    (number, steps): (u32, Vec<plan::ChildStep>),
    seen: &Seen,
    writers: &[Option<OwnedFd>; 2],
) -> Result<Session, SysError> {
    let session = Session { number, steps, after: Vec::new(), flags: 0 };
    let bytes = lower::lower_session(&session, seen);
    let fds = stdio(writers)?;
    send_plan(channel, wire::SAY_SPAWN, number, &bytes, &session.fds(), &fds)?;
    Ok(session)
}

/// What a service reads, the descriptors that it is given beside its standard streams, and where it writes to.
pub type Streams<'a> = (OwnedFd, Vec<(Fd, OwnedFd)>, &'a [Option<OwnedFd>; 2]);

/// Has the init make the service's own process, which [`LaunchPlan::is_deferred`] has left out.
///
/// # Errors
/// As [`inside`]; open(2) of the input.
pub fn service(
    channel: BorrowedFd<'_>,
    plan: &LaunchPlan,
    seen: &Seen,
    (stdin, given, writers): Streams<'_>,
) -> Result<(), SysError> {
    let bytes = lower::lower_deferred(plan, seen);
    let mut fds = stdio(writers)?;
    fds[0].1 = stdin;
    // A connection is the output as well.
    fds.retain(|(fd, _)| given.iter().all(|(other, _)| other != fd));
    fds.extend(given);
    send_plan(channel, wire::SAY_SPAWN, 0, &bytes, &plan.deferred_fds(), &fds)
}

/// What the service reads.
///
/// # Errors
/// open(2).
pub fn stdin(unit: &Unit, inherited: Option<OwnedFd>) -> Result<OwnedFd, SysError> {
    let input = match (&unit.service.stdin, inherited) {
        (Stdin::Null, _) | (Stdin::Inherit, None) => open_null(OFlags::RDONLY)?,
        (Stdin::Inherit | Stdin::Socket, Some(fd)) => fd,
        (Stdin::Socket, None) => return Err(SysError::new("accept", "connection", libc::EBADF)),
        (Stdin::File(path), _) => super::open_input(path)?,
    };
    super::refuse_directory(input.as_fd())?;
    Ok(input)
}

/// A command on the host, in a session and a control group of its own. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub struct Outside {
    child: Child,
    pidfd: OwnedFd,
    group: Option<(Tree, PathBuf)>,
    has_ended: bool,
}

impl Outside {
    /// Executes it. `group` is made for it.
    ///
    /// # Errors
    /// mkdir(2), fork(2), execve(2).
    pub fn start(
        hook: &Hook,
        told: &Told,
        writers: &[Option<OwnedFd>; 2],
        group: Option<(&Tree, &Path)>,
    ) -> Result<Self, SysError> {
        let mut command = Command::new(&hook.command[0]);
        command.args(&hook.argv(told)[1..]).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(told.iter().map(|(name, value)| (*name, value)));
        let [stdin, stdout, stderr] = <[_; 3]>::try_from(stdio(writers)?).expect("there are three");
        command.stdin(stdin.1).stdout(stdout.1).stderr(stderr.1);
        let mut procs = None;
        if let Some((tree, group)) = group {
            drop(tree.create(group)?);
            procs = Some(tree.open_procs(group)?);
        }
        let group = group.map(|(tree, group)| (tree.clone(), group.to_path_buf()));
        let fault = |error| SysError::new("execve", hook.command[0].clone(), error);
        let started = clone::spawn_apart(&mut command, procs);
        let mut child = started.inspect_err(|_| remove(&group)).map_err(fault)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd, group, has_ended: false }),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                remove(&group);
                Err(SysError::new("pidfd_open", "", errno))
            }
        }
    }

    /// Readable when it has ended.
    pub fn interest(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Asks it to end.
    pub fn signal(&self, signal: i32) {
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::KILL);
        if let Some(group) = self.pid().filter(|_| !self.has_ended) {
            // Whose number is nobody else's while it has not been waited for.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// How it ended; none: it has not yet.
    pub fn ended(&mut self) -> Option<ExitKind> {
        let status = self.child.try_wait().ok()??;
        self.finish();
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => ExitKind::Code(u8::try_from(code).unwrap_or(u8::MAX)),
            (None, Some(signal)) if status.core_dumped() => ExitKind::Core(signal),
            (None, Some(signal)) => ExitKind::Signal(signal),
            (None, None) => ExitKind::Unknown,
        })
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Ends what it has started and left behind.
    fn finish(&mut self) {
        self.has_ended = true;
        remove(&self.group);
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if !self.has_ended {
            self.signal(libc::SIGKILL);
            if let Some((tree, group)) = &self.group {
                let _ = tree.kill(group);
            }
            let _ = self.child.wait();
            self.finish();
        }
    }
}

/// Bounded, as every end of a control group is.
fn remove(group: &Option<(Tree, PathBuf)>) {
    if let Some((tree, group)) = group
        && let Err(error) = tree.clear(group)
    {
        tracing::error!("{error}");
    }
}

/// A failure in the words that `status` shows.
pub fn fault(stage: Stage, hook: &Hook, end: HookEnd, inner: Option<&LaunchFault>) -> Box<LaunchFault> {
    let what = match (end, inner) {
        (_, Some(inner)) => inner.error.clone(),
        (HookEnd::Exit(exit), None) => exit.to_string(),
        (HookEnd::TimedOut, None) => {
            let limit = hook.timeout.map(humantime::format_duration);
            format!("did not end within {}", limit.map(|limit| limit.to_string()).unwrap_or_default())
        }
        (HookEnd::NotExecuted, None) => "not executed".to_owned(),
    };
    Box::new(LaunchFault {
        step: stage.key().to_owned(),
        object: hook.to_string(),
        error: format!("`{hook}`: {what}"),
        hint: inner.and_then(|inner| inner.hint.clone()),
        // What the command was not content with may change; a program that is not there does not come by itself.
        retry: inner.map_or(Retry::Later, |inner| inner.retry),
        cleanup: Vec::new(),
        errno: inner.and_then(|inner| inner.errno),
    })
}
