//! The content of a service's credentials, gathered when its sandbox is made and forgotten as soon as it lies there.

use std::{
    io::Read,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, PidfdFlags, Signal},
};

use super::{LaunchFault, StepError};
use crate::{
    config,
    spec::{
        Credential,
        credential::{LARGEST, Source},
    },
    sys::clone,
};

/// How long the program of a credential may take.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Bytes that are overwritten when they are not needed any more, and that nothing prints.
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // So that the writing is not left out as useless.
        std::hint::black_box(&self.0);
    }
}

/// The programs of a service's credentials, under way. Dropped, they are ended.
#[derive(Debug)]
pub struct Fetch {
    programs: Vec<(String, Program)>,
    deadline: Instant,
}

impl Fetch {
    /// Starts them, all at once; none where every credential is at hand.
    ///
    /// # Errors
    /// [`StepError::Credential`]: the first that cannot be executed.
    pub fn start(credentials: &[Credential]) -> Result<Option<Self>, StepError> {
        let mut programs = Vec::new();
        for credential in credentials {
            if let Source::Command(argv) = &credential.source {
                let program = Program::start(argv).map_err(|reason| failed(&credential.name, reason))?;
                programs.push((credential.name.clone(), program));
            }
        }
        let deadline = Instant::now() + COMMAND_TIME;
        Ok((!programs.is_empty()).then_some(Self { programs, deadline }))
    }

    /// What to wait for.
    pub fn interests(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.programs.iter().filter_map(|(_, program)| program.interest())
    }

    /// When their time is up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes what they have printed; true when all have ended well.
    ///
    /// # Errors
    /// [`StepError::Credential`]: the first that failed, or has taken too long.
    pub fn go_on(&mut self) -> Result<bool, StepError> {
        let is_late = Instant::now() >= self.deadline;
        for (name, program) in &mut self.programs {
            program.go_on().map_err(|reason| failed(name, reason))?;
            if is_late && !program.is_done() {
                return Err(failed(name, program.says("took longer than 10s")));
            }
        }
        Ok(self.programs.iter().all(|(_, program)| program.is_done()))
    }

    /// What they printed, in the order of the credentials.
    fn printed(self) -> Vec<Secret> {
        self.programs.into_iter().map(|(_, program)| program.printed()).collect()
    }

    /// Waits for the next thing to happen.
    fn wait(&self) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let fds: Vec<BorrowedFd<'_>> = self.interests().collect();
        let mut poll: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // EINTR and its like: whoever waited looks again.
        let _ = rustix::event::poll(&mut poll, Some(&timeout));
    }
}

/// Reads every credential of a service, in their order. `fetch` has ended, where it was started before.
///
/// # Errors
/// [`StepError::Credential`] with the name of the first that cannot be had.
pub fn gather(credentials: &[Credential], fetch: Option<Fetch>) -> Result<Vec<Secret>, StepError> {
    let mut printed = fetch.map(Fetch::printed).unwrap_or_default().into_iter();
    credentials.iter().map(|credential| one(credential, &mut printed)).collect()
}

/// As [`gather`], waiting for the programs.
///
/// # Errors
/// As [`gather`].
pub fn gather_all(credentials: &[Credential]) -> Result<Vec<Secret>, StepError> {
    let mut fetch = Fetch::start(credentials)?;
    if let Some(fetch) = &mut fetch {
        while !fetch.go_on()? {
            fetch.wait();
        }
    }
    gather(credentials, fetch)
}

/// A credential that could not be had before there was a plan.
pub fn fault(error: &StepError) -> Box<LaunchFault> {
    LaunchFault::before("root.credentials", error)
}

fn failed(name: &str, (errno, reason): (i32, String)) -> StepError {
    StepError::Credential { name: name.to_owned(), reason, errno }
}

fn one(credential: &Credential, printed: &mut impl Iterator<Item = Secret>) -> Result<Secret, StepError> {
    let secret = match &credential.source {
        Source::File(path) => match config::secret(path, LARGEST) {
            Ok(Some(bytes)) => Ok(Secret::new(bytes)),
            Ok(None) => Err((libc::ENOENT, format!("there is no file {}", path.display()))),
            Err(refusal) => {
                let hint = refusal.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
                Err((libc::EPERM, format!("{}: {}{hint}", path.display(), refusal.message)))
            }
        },
        Source::Command(_) => printed.next().ok_or((libc::EAGAIN, "its program was not run".to_owned())),
        Source::Env(name) => match std::env::var_os(name) {
            Some(value) => Ok(Secret::new(std::os::unix::ffi::OsStringExt::into_vec(value))),
            None => Err((libc::ENOENT, format!("Palisade has no variable {name} in its environment"))),
        },
    };
    let secret = secret.map_err(|reason| failed(&credential.name, reason))?;
    match secret.bytes().len() {
        0..=LARGEST => Ok(secret),
        _ => Err(failed(&credential.name, (libc::EFBIG, "it is larger than 1 MiB".to_owned()))),
    }
}

/// A program of the host, in a process group of its own, and what it has printed so far.
#[derive(Debug)]
struct Program {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    /// Until its end.
    stdout: Option<ChildStdout>,
    secret: Secret,
    length: usize,
    ended: Option<ExitStatus>,
}

impl Program {
    /// Whatever it fails with may be otherwise next time: EAGAIN.
    fn start(argv: &[String]) -> Result<Self, (i32, String)> {
        let name = argv[0].clone();
        let failed = |text: String| (libc::EAGAIN, format!("{name} {text}"));
        let mut command = Command::new(&name);
        command.args(&argv[1..]).current_dir("/").env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
        // It ends with us; and by its group, with whatever it has started.
        let mut child = clone::spawn_bound(&mut command)
            .map_err(|error| failed(format!("cannot be executed: {error}")))?;
        let stdout = child.stdout.take().expect("it is a pipe");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        let opened = rustix::io::ioctl_fionbio(&stdout, true)
            .and_then(|()| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = match opened {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("was lost: {errno}")));
            }
        };
        // All the room at once: growing would leave copies behind.
        let secret = Secret::new(vec![0; LARGEST + 1]);
        Ok(Self { name, child, pidfd, stdout: Some(stdout), secret, length: 0, ended: None })
    }

    fn says(&self, text: &str) -> (i32, String) {
        (libc::EAGAIN, format!("{} {text}", self.name))
    }

    fn is_done(&self) -> bool {
        self.ended.is_some()
    }

    /// Its output, and then its end.
    fn interest(&self) -> Option<BorrowedFd<'_>> {
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        stdout.or(Some(self.pidfd.as_fd())).filter(|_| self.ended.is_none())
    }

    fn go_on(&mut self) -> Result<(), (i32, String)> {
        while let Some(stdout) = &mut self.stdout {
            match stdout.read(&mut self.secret.0[self.length..]) {
                Ok(0) => self.stdout = None,
                Ok(read) => self.length += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(self.says("could not be read from")),
            }
            if self.length > LARGEST {
                return Err(self.says("printed more than 1 MiB"));
            }
        }
        let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_ended = rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0);
        if self.ended.is_some() || !has_ended {
            return Ok(());
        }
        // How it ends tells whether that was all.
        match self.end() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.says(&format!("ended with {status}"))),
            None => Err(self.says("was lost")),
        }
    }

    /// Kills what is left of its group, whose number is nobody else's while it has not been waited for.
    fn end(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
            self.ended = self.child.wait().ok();
        }
        self.ended
    }

    fn printed(mut self) -> Secret {
        let mut secret = std::mem::replace(&mut self.secret, Secret::new(Vec::new()));
        secret.0.truncate(self.length);
        secret
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}
