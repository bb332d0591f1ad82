//! Asks services whether they are ready (`service.ready`) and whether they are well (`[health]`), within the one loop.
//!
//! A port is asked over a socket that is made in the service's network namespace, everything else by a session of its
//! init: a command, or a plan that connects or looks and executes nothing. One question at a time is under way for each
//! service, it is bounded in time and in what is read of its answer, and what came of it goes to the fleet, which judges.
//!
//! Nobody tells when a port is opened or a file appears, so readiness is asked for again and again, after 10 ms, 20 ms and
//! so on up to every 500 ms. What could not be asked for want of something on this side (a descriptor, a slot of the init)
//! is no answer: it is asked again a second later.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use jiff::Timestamp;
use rustix::{event::PollFlags, io::Errno, pipe::PipeFlags};

use super::{Supervisor, now, sessions::Purpose, watch::Watch};
use crate::{
    control::types,
    launch::{self, LaunchFault},
    logs,
    machine::{
        ExitKind, Mono, Phase, RunId, State,
        fleet::{Entry, Report},
        health::{self, Answer},
    },
    net::{
        netns::NetNs,
        probe::{Connection, Outcome},
    },
    plan::{self, Fd},
    spec::{NetworkMode, Ready, Test, UnitName},
};

/// How long one attempt to find a service ready may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The first pause between two attempts; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What could not be asked is asked again after so long.
const UNASKED: Duration = Duration::from_secs(1);
/// Bytes that are read at once of what a check prints, and how many of the last ones are kept.
const PIECE: usize = 65536;
const KEPT: usize = 4096;
/// Characters of an answer that are passed on.
const TEXT_MAX: usize = 200;
/// Lines of the log in which a successor looks for the one that it may have missed.
const LINES: u64 = 1000;

/// What a service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Ready,
    Health,
}

/// A question that is under way.
#[derive(Debug)]
struct Asked {
    run: RunId,
    aim: Aim,
    until: Mono,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Connection(Connection),
    Session {
        number: u32,
        /// Read end of what it prints.
        output: Option<OwnedFd>,
        /// The end of what it has printed.
        said: Vec<u8>,
    },
    /// It took too long, was answered for and killed. Nothing else is asked before it has ended.
    Killed(u32),
}

/// Not to be asked before then.
#[derive(Clone, Copy, Debug)]
struct Pause {
    run: RunId,
    aim: Aim,
    at: Mono,
    tries: u32,
}

/// All questions.
#[derive(Debug, Default)]
pub(super) struct Probes {
    asked: BTreeMap<UnitName, Asked>,
    pauses: BTreeMap<UnitName, Pause>,
    watches: BTreeMap<UnitName, (RunId, Watch)>,
}

impl Probes {
    /// Those who are asked change places.
    pub(super) fn change_places(&mut self, a: &UnitName, b: &UnitName) {
        super::rollout::swap(&mut self.asked, a, b);
        super::rollout::swap(&mut self.pauses, a, b);
        super::rollout::swap(&mut self.watches, a, b);
    }

    pub(super) fn interests(&self) -> impl Iterator<Item = (&UnitName, BorrowedFd<'_>, PollFlags)> {
        self.asked.iter().filter_map(|(name, asked)| match &asked.way {
            Way::Connection(connection) => {
                let (fd, flags) = connection.interest();
                Some((name, fd, flags))
            }
            Way::Session { output, .. } => Some((name, output.as_ref()?.as_fd(), PollFlags::IN)),
            Way::Killed(_) => None,
        })
    }

    /// When a question to this service is due, and which.
    fn due(&self, entry: &Entry) -> Option<(RunId, Aim, Mono)> {
        let (run, aim) = aim(entry)?;
        let at = match (&entry.life.state, &entry.unit.health, aim) {
            (State::Running { since, .. }, Some(check), Aim::Health) => {
                health::due(entry.health(), check, *since)
            }
            _ => Mono(0),
        };
        match self.asked.get(&entry.unit.name) {
            Some(Asked { way: Way::Killed(_), .. }) if aim == Aim::Health => {}
            Some(_) => return None,
            None => {}
        }
        let pause = self.pauses.get(&entry.unit.name).filter(|pause| (pause.run, pause.aim) == (run, aim));
        Some((run, aim, pause.map_or(at, |pause| at.max(pause.at))))
    }
}

/// What a service is to be asked for where it stands.
fn aim(entry: &Entry) -> Option<(RunId, Aim)> {
    match &entry.life.state {
        State::Running { run, .. } => entry.unit.health.as_ref().map(|_| (*run, Aim::Health)),
        State::Starting { run, phase: Phase::Executed, .. } => match &entry.unit.service.ready {
            Some(Ready::Tcp(_) | Ready::Http(_) | Ready::File(_)) => Some((*run, Aim::Ready)),
            Some(Ready::Notify | Ready::Fd(_) | Ready::Log(_)) | None => None,
        },
        State::Starting { .. }
        | State::Stopped(_)
        | State::Failed(_)
        | State::Waiting { .. }
        | State::Done { .. }
        | State::Stopping { .. }
        | State::Backoff { .. } => None,
    }
}

impl Supervisor {
    /// When the next question is due, or the next answer.
    pub(super) fn probe_deadline(&self) -> Option<Mono> {
        let waits = |asked: &&Asked| !matches!(asked.way, Way::Killed(_));
        let answers = self.probes.asked.values().filter(waits).map(|asked| asked.until);
        let entries = self.fleet.stirring();
        answers.chain(entries.filter_map(|entry| self.probes.due(entry)).map(|(.., at)| at)).min()
    }

    /// Asks whoever is due, and gives up those who do not answer.
    pub(super) fn probe(&mut self) {
        // The fleet knows every answer before it is asked who is due.
        self.pump();
        self.forget_probes();
        let now = now();
        let is_late = |asked: &Asked| asked.until <= now && !matches!(asked.way, Way::Killed(_));
        let asked = self.probes.asked.iter();
        let late: Vec<UnitName> =
            asked.filter(|(_, asked)| is_late(asked)).map(|(name, _)| name.clone()).collect();
        for name in late {
            self.probe_overdue(&name);
        }
        self.pump();
        let due = |entry: &Entry| {
            let due = self.probes.due(entry).filter(|(.., at)| *at <= now);
            due.map(|(run, aim, _)| (entry.unit.name.clone(), run, aim))
        };
        let due: Vec<(UnitName, RunId, Aim)> = self.fleet.stirring().filter_map(due).collect();
        for (name, run, aim) in due {
            self.ask(&name, run, aim);
        }
    }

    /// Whoever has moved on is not asked any more.
    fn forget_probes(&mut self) {
        let stands = |name: &UnitName, run: RunId, of: Aim| {
            self.fleet.entry(name).and_then(aim).is_some_and(|now| now == (run, of))
        };
        let asked = self.probes.asked.iter();
        let gone: Vec<UnitName> = asked
            .filter(|(name, asked)| !stands(name, asked.run, asked.aim))
            .map(|(name, _)| name.clone())
            .collect();
        self.probes.pauses.retain(|name, pause| {
            self.fleet.entry(name).and_then(aim).is_some_and(|now| now == (pause.run, pause.aim))
        });
        self.probes.watches.retain(|name, (run, _)| {
            let state = self.fleet.entry(name).map(|entry| &entry.life.state);
            matches!(state, Some(State::Starting { run: now, .. }) if now == run)
        });
        for name in gone {
            if let Some(Asked { way: Way::Session { number, .. }, .. }) = self.probes.asked.remove(&name) {
                self.kill_session(&name, number);
            }
        }
    }

    fn ask(&mut self, name: &UnitName, run: RunId, aim: Aim) {
        if self.probes.asked.contains_key(name) {
            let text = "the check before has not ended yet".to_owned();
            return self.report(name, Report::Checked(run, Answer { ok: false, text }));
        }
        let timeout = match (aim, self.fleet.entry(name).and_then(|entry| entry.unit.health.as_ref())) {
            (Aim::Health, Some(check)) => check.timeout,
            (Aim::Ready, _) | (Aim::Health, None) => ATTEMPT,
        };
        match self.begin(name, aim, timeout) {
            Ok(way) => {
                let asked = Asked { run, aim, until: now().after(timeout), way };
                self.probes.asked.insert(name.clone(), asked);
                self.point(name, "probe-asked");
                self.probe_ready(name);
            }
            Err(why) => {
                let tries = self.pause(name, run, aim, UNASKED);
                if tries == 1 {
                    tracing::warn!(unit = %name, "is not asked how it is: {why}");
                }
            }
        }
    }

    /// Puts the next question off. Returns which pause in a row this is.
    fn pause(&mut self, name: &UnitName, run: RunId, aim: Aim, span: Duration) -> u32 {
        let before = self.probes.pauses.get(name).filter(|pause| (pause.run, pause.aim) == (run, aim));
        let tries = before.map_or(0, |pause| pause.tries).saturating_add(1);
        let pause = Pause { run, aim, at: now().after(span), tries };
        self.probes.pauses.insert(name.clone(), pause);
        tries
    }

    /// Begins to ask; the error is why nobody could be asked.
    fn begin(&mut self, name: &UnitName, aim: Aim, timeout: Duration) -> Result<Way, String> {
        let unit = self.unit_of(name).ok_or("it is gone")?;
        let question = match (aim, unit.service.ready.clone(), unit.health.clone().map(|check| check.test)) {
            (Aim::Ready, Some(Ready::Tcp(at)), _) | (Aim::Health, _, Some(Test::Tcp(at))) => {
                return self.connection(name, at, Vec::new());
            }
            (Aim::Ready, Some(Ready::Http(target)), _) | (Aim::Health, _, Some(Test::Http(target))) => {
                return self.connection(name, target.at, target.request());
            }
            (Aim::Ready, Some(Ready::File(path)), _) => plan::Question::Exists(path),
            (Aim::Health, _, Some(Test::Unix(path))) => plan::Question::Connect(path),
            (Aim::Health, _, Some(Test::Exec(command))) => {
                let (read, fds) = output_pipe().map_err(|errno| format!("pipe2: {errno}"))?;
                let steps = plan::check(&unit, &command, timeout);
                let number =
                    self.spawn_steps(name, steps, &fds, Purpose::Check).map_err(|e| e.to_string())?;
                return Ok(Way::Session { number, output: Some(read), said: Vec::new() });
            }
            (Aim::Ready, Some(Ready::Notify | Ready::Fd(_) | Ready::Log(_)) | None, _)
            | (Aim::Health, _, None) => return Err("there is nothing to ask".to_owned()),
        };
        let fds = launch::null_stdio().map_err(|error| error.to_string())?;
        let steps = plan::question(&unit, question, timeout);
        let number =
            self.spawn_steps(name, steps, &fds, Purpose::Check).map_err(|error| error.to_string())?;
        Ok(Way::Session { number, output: None, said: Vec::new() })
    }

    fn connection(&self, name: &UnitName, at: std::net::SocketAddr, request: Vec<u8>) -> Result<Way, String> {
        let mode = self.fleet.entry(name).map(|entry| &entry.unit.network.mode);
        let netns = match (mode, self.nets.get(&name.base())) {
            (Some(NetworkMode::Host), _) => None,
            (_, Some(net)) => Some(net.netns.try_clone().map_err(|error| error.to_string())?),
            // Never the host's in its place.
            (_, None) => {
                let init = self.runs.get(name).and_then(|run| run.init_fd());
                let netns = NetNs::of_pid(init.ok_or("its network namespace is not known")?);
                Some(netns.map_err(|error| error.to_string())?)
            }
        };
        let connection = Connection::open(netns.as_ref(), at, request);
        connection.map(Way::Connection).map_err(|error| error.to_string())
    }

    /// A question has an answer, or a part of it.
    pub(super) fn probe_ready(&mut self, name: &UnitName) {
        let Some(asked) = self.probes.asked.get_mut(name) else { return };
        match &mut asked.way {
            Way::Connection(connection) => {
                if let Some(outcome) = connection.go_on() {
                    self.answered(name, outcome);
                }
            }
            Way::Session { output, said, .. } => {
                if let Some(fd) = output
                    && !hear(fd.as_fd(), said)
                {
                    *output = None;
                }
            }
            Way::Killed(_) => {}
        }
    }

    fn probe_overdue(&mut self, name: &UnitName) {
        let Some(asked) = self.probes.asked.get_mut(name) else { return };
        let span = asked.until;
        let (killed, last) = match &mut asked.way {
            Way::Session { number, said, output } => {
                if let Some(fd) = output {
                    hear(fd.as_fd(), said);
                }
                (Some(*number), last_line(said))
            }
            Way::Connection(_) | Way::Killed(_) => (None, String::new()),
        };
        let (run, aim) = (asked.run, asked.aim);
        let text = match last.is_empty() {
            true => "no answer in time".to_owned(),
            false => format!("no answer in time: {last}"),
        };
        let outcome = Err(text);
        match killed {
            None => self.answered(name, outcome),
            Some(number) => {
                self.kill_session(name, number);
                self.probes
                    .asked
                    .insert(name.clone(), Asked { run, aim, until: span, way: Way::Killed(number) });
                self.pass_on(name, (run, aim), outcome);
            }
        }
    }

    fn answered(&mut self, name: &UnitName, outcome: Outcome) {
        if let Some(asked) = self.probes.asked.remove(name) {
            self.pass_on(name, (asked.run, asked.aim), outcome);
        }
    }

    /// Tells the fleet what a question has come to.
    fn pass_on(&mut self, name: &UnitName, (run, aim): (RunId, Aim), outcome: Outcome) {
        let (ok, text) = match outcome {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        };
        let text = shown(&text);
        self.point(name, "probe-answered");
        match aim {
            Aim::Health => {
                self.probes.pauses.remove(name);
                self.report(name, Report::Checked(run, Answer { ok, text }));
            }
            Aim::Ready if ok => self.report(name, Report::Ready(run)),
            Aim::Ready => {
                let tries = self.probes.pauses.get(name).map_or(0, |pause| pause.tries);
                let span = PAUSE.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
                self.pause(name, run, aim, span);
            }
        }
    }

    /// A session that asked has ended, or its plan has failed.
    pub(super) fn check_ended(&mut self, name: &UnitName, number: u32, end: Result<ExitKind, &LaunchFault>) {
        let Some(asked) = self.probes.asked.get_mut(name) else { return };
        match &mut asked.way {
            Way::Killed(killed) if *killed == number => drop(self.probes.asked.remove(name)),
            Way::Session { number: own, output, said } if *own == number => {
                if let Some(fd) = output {
                    hear(fd.as_fd(), said);
                }
                let last = last_line(said);
                let or = |text: String| if last.is_empty() { text } else { last.clone() };
                let outcome = match end {
                    Ok(ExitKind::Code(0)) => Ok(or("well".to_owned())),
                    Ok(exit) if last.is_empty() => Err(exit.to_string()),
                    Ok(exit) => Err(format!("{exit}: {last}")),
                    Err(fault) => Err(fault.error.clone()),
                };
                self.answered(name, outcome);
            }
            Way::Killed(_) | Way::Session { .. } | Way::Connection(_) => {}
        }
    }

    /// There was no room for a session: nobody was asked.
    pub(super) fn check_unasked(&mut self, name: &UnitName, number: u32) {
        let is_it = |asked: &Asked| matches!(asked.way, Way::Session { number: own, .. } if own == number);
        if self.probes.asked.get(name).is_some_and(is_it)
            && let Some(asked) = self.probes.asked.remove(name)
        {
            self.pause(name, asked.run, asked.aim, UNASKED);
        }
    }

    /// Looks for the line that makes a service ready in what it has written.
    pub(super) fn watch_output(&mut self, name: &UnitName, stream: usize, bytes: &[u8]) {
        if self.watch(name)
            && let Some((run, watch)) = self.probes.watches.get_mut(name)
            && watch.feed(stream, bytes)
        {
            let run = *run;
            self.report(name, Report::Ready(run));
        }
    }

    /// Whether its output is watched; begins with that where it is to be.
    fn watch(&mut self, name: &UnitName) -> bool {
        let Some(entry) = self.fleet.entry(name) else { return false };
        // Not in Preparing, when the commands that go before the program write to the same log.
        let (
            State::Starting { run, phase: Phase::Launching | Phase::Executed, .. },
            Some(Ready::Log(pattern)),
        ) = (&entry.life.state, &entry.unit.service.ready)
        else {
            return false;
        };
        if self.probes.watches.get(name).is_none_or(|(of, _)| of != run) {
            let Some(watch) = Watch::new(pattern) else { return false };
            self.probes.watches.insert(name.clone(), (*run, watch));
        }
        true
    }

    /// The line may have come while a predecessor died: it is looked for in what this run has written so far.
    pub(super) fn watch_again(&mut self, name: &UnitName) {
        if !self.watch(name) {
            return;
        }
        let Some(State::Starting { since, .. }) = self.fleet.entry(name).map(|entry| &entry.life.state)
        else {
            return;
        };
        let age = i64::try_from(now().since(*since).as_millis()).unwrap_or(i64::MAX);
        let launched = Timestamp::now().as_millisecond().saturating_sub(age);
        let entries = logs::tail(&self.options.log, name.as_str(), LINES).unwrap_or_default();
        let is_of_run = |entry: &&types::LogEntry| {
            let time: Option<Timestamp> = entry.time.parse().ok();
            time.is_some_and(|time| time.as_millisecond() >= launched)
        };
        let lines: Vec<(usize, String)> = entries
            .iter()
            .filter(is_of_run)
            .map(|entry| {
                let end = if entry.partial { "" } else { "\n" };
                (usize::from(entry.stream == types::Stream::Stderr), format!("{}{end}", entry.text))
            })
            .collect();
        for (stream, line) in lines {
            self.watch_output(name, stream, line.as_bytes());
        }
    }
}

/// A pipe for what a check prints, and its standard streams.
fn output_pipe() -> Result<(OwnedFd, Vec<(Fd, OwnedFd)>), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let error = rustix::io::fcntl_dupfd_cloexec(&write, 3)?;
    let null = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let input = rustix::fs::open("/dev/null", null, rustix::fs::Mode::empty())?;
    Ok((read, vec![(Fd::Stdin, input), (Fd::Stdout, write), (Fd::Stderr, error)]))
}

/// Reads what a check has printed and keeps the end of it. False: nothing more will come.
fn hear(fd: BorrowedFd<'_>, said: &mut Vec<u8>) -> bool {
    let mut bytes = vec![0; PIECE];
    match rustix::io::read(fd, &mut bytes) {
        Ok(0) => false,
        Ok(read) => {
            said.extend_from_slice(&bytes[..read]);
            let surplus = said.len().saturating_sub(KEPT);
            said.drain(..surplus);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

/// The last line that is not empty.
fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(shown).unwrap_or_default()
}

/// What comes from inside on its way to logs and terminals.
fn shown(text: &str) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(clean).take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_much_is_told_and_is_harmless() {
        assert_eq!(last_line(b"one\ntwo \n\n  \n"), "two");
        assert_eq!(last_line(b""), "");
        assert_eq!(last_line(b"\x1b[31mred\xff"), "\u{fffd}[31mred\u{fffd}");
        assert_eq!(last_line(&[b'x'; KEPT]).len(), TEXT_MAX);
        let (read, fds) = output_pipe().expect("a pipe");
        let write = &fds[1].1;
        let mut said = Vec::new();
        for _ in 0..3 {
            rustix::io::write(write, &[b'y'; 5000]).expect("there is room");
            assert!(hear(read.as_fd(), &mut said));
        }
        assert!(hear(read.as_fd(), &mut said), "nothing now, but there may be more");
        assert_eq!(said.len(), KEPT);
        drop(fds);
        crate::sys::tests::hung_up(&read);
        assert!(!hear(read.as_fd(), &mut said));
    }
}
