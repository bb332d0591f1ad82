//! The content of a service's credentials, gathered when its sandbox is made and forgotten as soon as it lies there.

use std::{
    io::Read,
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal},
};

use super::StepError;
use crate::{
    config,
    spec::{
        Credential,
        credential::{LARGEST, Source},
    },
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

/// Reads every credential of a service, in their order.
///
/// # Errors
/// [`StepError::Credential`] with the name of the first that cannot be had.
pub fn gather(credentials: &[Credential]) -> Result<Vec<Secret>, StepError> {
    credentials.iter().map(one).collect()
}

fn one(credential: &Credential) -> Result<Secret, StepError> {
    let failed = |(errno, reason)| StepError::Credential { name: credential.name.clone(), reason, errno };
    let secret = match &credential.source {
        Source::File(path) => match config::secret(path, LARGEST) {
            Ok(Some(bytes)) => Ok(Secret::new(bytes)),
            Ok(None) => Err((libc::ENOENT, format!("there is no file {}", path.display()))),
            Err(refusal) => {
                let hint = refusal.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
                Err((libc::EPERM, format!("{}: {}{hint}", path.display(), refusal.message)))
            }
        },
        Source::Command(argv) => run(argv),
        Source::Env(name) => match std::env::var_os(name) {
            Some(value) => Ok(Secret::new(std::os::unix::ffi::OsStringExt::into_vec(value))),
            None => Err((libc::ENOENT, format!("Palisade has no variable {name} in its environment"))),
        },
    };
    let secret = secret.map_err(failed)?;
    match secret.bytes().len() {
        0..=LARGEST => Ok(secret),
        _ => Err(failed((libc::EFBIG, "it is larger than 1 MiB".to_owned()))),
    }
}

/// What a program prints. Whatever it fails with may be otherwise next time: EAGAIN.
fn run(argv: &[String]) -> Result<Secret, (i32, String)> {
    let program = &argv[0];
    let failed = |reason: String| (libc::EAGAIN, format!("{program} {reason}"));
    let mut command = Command::new(program);
    command
        .args(&argv[1..])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    // Its own process group, to be ended with whatever it has started.
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be executed: {error}")))?;
    let printed = read_in_time(&mut child);
    // A group that has ended is nobody's: its number is not given away while the child has not been waited for.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(|error| failed(format!("was lost: {error}")))?;
    let secret = printed.map_err(|reason| failed(reason.to_owned()))?;
    match status.success() {
        true => Ok(secret),
        false => Err(failed(format!("ended with {status}"))),
    }
}

/// Reads standard output to its end, and waits for the program's own.
fn read_in_time(child: &mut Child) -> Result<Secret, &'static str> {
    let deadline = Instant::now() + COMMAND_TIME;
    let mut stdout = child.stdout.take().expect("it is a pipe");
    // All the room at once: growing would leave copies behind.
    let mut secret = Secret::new(Vec::with_capacity(LARGEST + 1));
    let mut at = 0;
    secret.0.resize(LARGEST + 1, 0);
    loop {
        wait(&stdout, deadline)?;
        match stdout.read(&mut secret.0[at..]) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err("could not be read from"),
        }
        if at > LARGEST {
            return Err("printed more than 1 MiB");
        }
    }
    secret.0.truncate(at);
    // It has closed its output; how it ends tells whether that was all.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    wait(&pidfd.map_err(|_| "was lost")?, deadline)?;
    Ok(secret)
}

fn wait(fd: &impl AsFd, deadline: Instant) -> Result<(), &'static str> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut poll = [PollFd::new(fd, PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Ok(0) => return Err("took longer than 10s"),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err("could not be waited for"),
        }
    }
}
