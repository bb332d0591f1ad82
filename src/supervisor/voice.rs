//! What services say about themselves: on the notify socket (sd_notify(3)), and on the descriptor of `ready = "fd"`.
//!
//! Both are kept by the init, so that nothing that was said while no supervisor lived is lost. For the same reason a message is
//! looked at first, and taken out only when what it has led to is written down: a supervisor that dies in between leaves it to
//! the next one, and to hear a thing twice is no harm.
//!
//! Whoever is in the sandbox may send. Heard is the main process, and whoever could send that one a signal anyway: its
//! user, and root of the sandbox. Nobody gains anything by it that he could not have done to the main process himself. The
//! kernel says who has sent a message, as of when it was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Supervisor, now,
    runs::{LiveRun, Part},
    state::RunRecord,
};
use crate::{
    control::{
        server::ClientId,
        types::{Change, Changes},
    },
    init::{self, wire},
    machine::{Mono, RunId, State, fleet::Report},
    notify::{self, Message, Ping},
    plan::Fd,
    spec::{Kind, Ready, UnitName},
    sys::socket::{self, Received},
};

/// Messages of one service that are heard before anybody else has his turn.
const BATCH: usize = 32;
/// Messages of one service that are heard in a second; those beyond it wait.
const PER_SECOND: u32 = 1000;
const SECOND: Duration = Duration::from_secs(1);

/// What of it is to be known to a successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    status: Option<String>,
    errno: Option<i32>,
    error: Option<String>,
    watchdog_usec: Option<u64>,
    reloading: bool,
    stopping: bool,
}

impl Told {
    /// In one line, for people.
    pub(super) fn text(&self) -> Option<String> {
        let mut parts = Vec::new();
        parts.extend(self.reloading.then(|| "reloading".to_owned()));
        parts.extend(self.stopping.then(|| "stopping".to_owned()));
        parts.extend(self.status.clone());
        parts.extend(self.errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string()));
        parts.extend(self.error.clone());
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The ways on which a run says something, and what it has said.
#[derive(Debug)]
pub(super) struct Voice {
    socket: Option<OwnedFd>,
    pub(super) ready: Option<OwnedFd>,
    pub(super) told: Told,
    /// When it said last that it is alive.
    pinged: Mono,
    /// The beginning of a second, and how many messages were heard in it.
    heard: (Mono, u32),
}

impl Voice {
    pub(super) fn new(socket: Option<OwnedFd>, ready: Option<OwnedFd>) -> Self {
        Self { socket, ready, told: Told::default(), pinged: now(), heard: (now(), 0) }
    }

    /// The descriptors are with the init. Time that passed while nobody listened does not count.
    pub(super) fn adopted(record: Option<&RunRecord>) -> Self {
        let told = record.map(|record| record.told.clone()).unwrap_or_default();
        Self { told, ..Self::new(None, None) }
    }

    /// Another main process in the same sandbox: what is left of the one before was about that.
    pub(super) fn begin_again(&mut self) {
        if let Some(socket) = &self.socket {
            while socket::receive(socket.as_fd(), 1).is_ok() {}
        }
        *self = Self::new(self.socket.take(), None);
    }

    /// A descriptor that the init has kept.
    pub(super) fn take(&mut self, label: &str, fd: OwnedFd) {
        if label == Fd::Notify.label() {
            self.socket = Some(fd);
        } else if label == Fd::KeepReady.label() {
            self.ready = Some(fd);
        }
    }

    pub(super) fn interests(&self) -> impl Iterator<Item = (Part, &OwnedFd)> {
        let socket = self.socket.as_ref().filter(|_| self.paused_until(now()).is_none());
        let socket = socket.map(|fd| (Part::Notify, fd));
        socket.into_iter().chain(self.ready.as_ref().map(|fd| (Part::Ready, fd)))
    }

    /// It has said more than is heard at once.
    fn paused_until(&self, now: Mono) -> Option<Mono> {
        let (since, count) = self.heard;
        let until = since.after(SECOND);
        (count >= PER_SECOND && now < until).then_some(until)
    }

    /// Whether it has to be looked at again after some time.
    pub(super) fn is_timed(&self) -> bool {
        self.heard.1 >= PER_SECOND || self.told.stopping || self.told.watchdog_usec.is_some()
    }

    fn count(&mut self, now: Mono) {
        if now.since(self.heard.0) >= SECOND {
            self.heard = (now, 0);
        }
        self.heard.1 += 1;
    }
}

/// Reloads that are to be answered when the service has said that it is done.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    asked: BTreeMap<UnitName, Asked>,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Asked {
    /// On CLOCK_MONOTONIC, in microseconds.
    at_usec: u64,
    deadline: Option<Mono>,
    /// `RELOADING=1` was heard.
    began: bool,
}

#[derive(Debug)]
struct Pending {
    client: ClientId,
    changes: Vec<Change>,
    waiting: BTreeSet<UnitName>,
}

impl Reloads {
    /// Somebody has hung up.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.pending.retain(|pending| pending.client != client);
    }
}

impl Supervisor {
    /// Hears what there is.
    pub(super) fn notified(&mut self, name: &UnitName) {
        let Some(run) = self.runs.get(name).map(|live| live.run) else { return };
        for _ in 0..BATCH {
            let Some(live) = self.runs.get_mut(name).filter(|live| live.run == run) else { return };
            let Some(socket) =
                live.voice.socket.as_ref().filter(|_| live.voice.paused_until(now()).is_none())
            else {
                return;
            };
            let received = match socket::peek(socket.as_fd(), notify::LARGEST + 1) {
                Ok(received) => received,
                Err(error) if error.errno == libc::EAGAIN => return,
                Err(error) => {
                    tracing::error!(unit = %name, "its notify socket is not heard any more: {error}");
                    live.voice.socket = None;
                    return;
                }
            };
            live.voice.count(now());
            self.hear(name, run, received);
            self.point(name, "notice-heard");
            if !self.inputs.is_empty() {
                self.pump();
            }
            self.point(name, "notice-noted");
            // What it has led to is written down.
            let live = self.runs.get(name).filter(|live| live.run == run);
            if let Some(socket) = live.and_then(|live| live.voice.socket.as_ref()) {
                let _ = socket::receive(socket.as_fd(), 1);
            }
        }
    }

    fn hear(&mut self, name: &UnitName, run: RunId, received: Received) {
        let Some(live) = self.runs.get_mut(name) else { return };
        if !is_heard(live, &received) {
            tracing::debug!(unit = %name, "process {:?} is not heard on its notify socket", received.pid);
            return;
        }
        let message = notify::parse(&received.bytes).filter(|_| !received.is_cut);
        let Some(message) = message else {
            tracing::warn!(unit = %name, "a message on its notify socket is none, or too long");
            return;
        };
        let (before, has_main) = (live.voice.told.clone(), live.main.is_some());
        live.voice.note(&message);
        if let Some(pid) = message.main_pid {
            live.say(wire::SAY_FOLLOW, i64::from(pid), 0);
        }
        if live.voice.told != before {
            self.persist(name);
        }
        self.keep_descriptors(name, &message, received.fds);
        if message.watchdog == Some(Ping::Trigger) {
            self.report(name, Report::WatchdogExpired(run));
        }
        if let Some(usec) = message.extend_usec {
            self.report(name, Report::Extend(run, now().after(Duration::from_micros(usec))));
        }
        if message.reloading {
            self.reload_began(name, message.monotonic_usec);
        }
        if message.ready {
            if self.says_when_ready(name) {
                self.is_ready(name, run, has_main);
            }
            self.reload_done(name);
        }
    }

    /// The descriptor store: sd_pid_notify_with_fds(3).
    fn keep_descriptors(&mut self, name: &UnitName, message: &Message, fds: Vec<OwnedFd>) {
        let called = message.name.as_deref();
        if let (true, Some(called)) = (message.remove, called) {
            self.drop_fd(name, called);
        }
        // A barrier is to be closed, and nothing else.
        for fd in fds.into_iter().filter(|_| message.store && !message.barrier) {
            self.store_fd(name, called.unwrap_or("stored"), fd);
        }
    }

    /// The first line on the descriptor of `ready = "fd"`, whatever is in it.
    pub(super) fn ready_said(&mut self, name: &UnitName) {
        let Some(live) = self.runs.get_mut(name) else { return };
        let (run, has_main) = (live.run, live.main.is_some());
        let Some(pipe) = &live.voice.ready else { return };
        match first_line(pipe) {
            Ok(Line::Whole) => {
                self.point(name, "line-heard");
                self.is_ready(name, run, has_main);
                self.pump();
                self.point(name, "line-noted");
            }
            Ok(Line::Part) => return,
            Ok(Line::Closed) => {
                tracing::warn!(unit = %name, "it has closed the descriptor for `ready` without a line");
            }
            Err(errno) if errno == rustix::io::Errno::AGAIN => return,
            Err(errno) => tracing::error!(unit = %name, "its descriptor for `ready`: {errno}"),
        }
        // Nothing that comes after it means anything.
        let Some(live) = self.runs.get_mut(name).filter(|live| live.run == run) else { return };
        live.voice.ready = None;
        let label = init::label(Fd::KeepReady.label());
        live.say_message(&wire::Message { label, ..wire::Message::new(wire::SAY_DROP, 0, 0, 0) });
    }

    fn is_ready(&mut self, name: &UnitName, run: RunId, has_main: bool) {
        if has_main {
            // Who speaks was executed, also where the init has not come to say so.
            self.report(name, Report::Started(run));
        }
        self.report(name, Report::Ready(run));
    }

    fn says_when_ready(&self, name: &UnitName) -> bool {
        self.fleet.entry(name).is_some_and(|entry| {
            let service = &entry.unit.service;
            let by_kind = matches!(service.kind, Kind::Notify | Kind::NotifyReload);
            by_kind || service.ready == Some(Ready::Notify)
        })
    }

    /// The process that becomes the service is there.
    pub(super) fn has_process(&mut self, name: &UnitName, run: RunId) {
        if self.fleet.entry(name).is_some_and(|entry| entry.unit.service.kind == Kind::Simple) {
            self.report(name, Report::Started(run));
        }
    }

    /// The init follows another process, or says why not.
    pub(super) fn followed(&mut self, name: &UnitName, message: &wire::Message, fds: &[OwnedFd]) {
        let Some(live) = self.runs.get_mut(name) else { return };
        if message.b != 0 {
            let errno = i32::try_from(message.b).unwrap_or(libc::EIO);
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(unit = %name, "process {} inside is not its main process: {error}", message.a);
            return;
        }
        // None where nobody knows which one it is.
        live.main = fds.first().and_then(pid_of);
        live.main_inside = (message.a > 0).then_some(message.a);
        let run = live.run;
        self.persist(name);
        let is_daemon = self.fleet.entry(name).is_some_and(|entry| {
            entry.unit.service.kind == Kind::Forking && entry.unit.service.ready.is_none()
        });
        if is_daemon {
            self.is_ready(name, run, true);
        }
    }

    /// When somebody's patience with what a service says, or does not say, ends.
    pub(super) fn voice_deadline(&self) -> Option<Mono> {
        let now = now();
        let runs = self.listened().into_iter();
        let runs = runs.flat_map(|(name, live)| [self.patience(name, live), live.voice.paused_until(now)]);
        let reloads = self.reloads.asked.values().map(|asked| asked.deadline);
        runs.chain(reloads).flatten().min()
    }

    /// The runs of which something may be due: by what they have said, and by their files.
    fn listened(&self) -> BTreeMap<&UnitName, &LiveRun> {
        let by_file = self.fleet.stirring().filter_map(|entry| self.runs.get_key_value(&entry.unit.name));
        self.runs.timed().chain(by_file).collect()
    }

    /// Until when it is to say that it is alive, or that it is not stopping for ever.
    fn patience(&self, name: &UnitName, live: &LiveRun) -> Option<Mono> {
        let entry = self.fleet.entry(name)?;
        let State::Running { run, since } = entry.life.state else { return None };
        let service = &entry.unit.service;
        let told = &live.voice.told;
        let limit = match (told.stopping, told.watchdog_usec) {
            (true, _) => service.stop.timeout,
            (false, Some(0)) => None,
            (false, Some(usec)) => Some(Duration::from_micros(usec).max(Duration::from_millis(1))),
            (false, None) => service.watchdog,
        };
        let since = since.max(live.voice.pinged);
        limit.filter(|_| run == live.run && !live.is_over).map(|limit| since.after(limit))
    }

    /// Whoever has not said in time what he was to say.
    pub(super) fn voices_overdue(&mut self) {
        let is_late = |supervisor: &Self, name: &UnitName| {
            let live = supervisor.runs.get(name);
            live.and_then(|live| supervisor.patience(name, live)).is_some_and(|at| at <= now())
        };
        let late = self.listened().into_keys().filter(|name| is_late(self, name));
        let late: Vec<UnitName> = late.cloned().collect();
        for name in late {
            // What has come meanwhile counts; we may be the one who is late.
            self.notified(&name);
            if let (true, Some(run)) = (is_late(self, &name), self.runs.get(&name).map(|live| live.run)) {
                self.report(&name, Report::WatchdogExpired(run));
            }
        }
        let now = now();
        let late = self.reloads.asked.iter().filter(|(_, asked)| asked.deadline.is_some_and(|at| at <= now));
        let late: Vec<(UnitName, bool)> = late.map(|(name, asked)| (name.clone(), asked.began)).collect();
        for (name, began) in late {
            let missing = if began { "READY=1" } else { "RELOADING=1" };
            self.reload_answer(&name, &format!("not reloaded: it has not said {missing} in time"), false);
        }
    }

    /// Whether `reload` waits for its word.
    pub(super) fn says_when_reloaded(&self, name: &UnitName) -> bool {
        self.fleet.entry(name).is_some_and(|entry| entry.unit.service.kind == Kind::NotifyReload)
    }

    /// From now on something is to come of a reload: its own word, or the end of a command.
    pub(super) fn await_reload(&mut self, name: &UnitName) {
        let limit = self.fleet.entry(name).and_then(|entry| entry.unit.service.start_timeout);
        let deadline = limit.map(|limit| now().after(limit));
        let asked = Asked { at_usec: now().0.saturating_mul(1000), deadline, began: false };
        self.reloads.asked.insert(name.clone(), asked);
    }

    /// Whether it has been told to reload, and has not said that it has.
    pub(super) fn is_reloading(&self, name: &UnitName) -> bool {
        self.reloads.asked.contains_key(name)
    }

    /// Answers as soon as everybody has reloaded that was told to.
    pub(super) fn answer_reload(
        &mut self,
        client: ClientId,
        changes: Vec<Change>,
        waiting: BTreeSet<UnitName>,
    ) {
        match waiting.is_empty() {
            true => self.server.reply(client, &Changes { changes }, false),
            false => self.reloads.pending.push(Pending { client, changes, waiting }),
        }
    }

    fn reload_began(&mut self, name: &UnitName, at_usec: Option<u64>) {
        if let Some(asked) = self.reloads.asked.get_mut(name) {
            // One that began before it was asked for is another one.
            asked.began |= at_usec.is_none_or(|at| at >= asked.at_usec);
            self.point(name, "reload-begun");
        }
    }

    fn reload_done(&mut self, name: &UnitName) {
        if self.reloads.asked.get(name).is_some_and(|asked| asked.began) {
            self.point(name, "reload-done");
            self.reload_answer(name, "reloaded", true);
        }
    }

    /// The run is over.
    pub(super) fn reload_ended(&mut self, name: &UnitName) {
        self.reload_answer(name, "not reloaded: it has ended", false);
    }

    /// That is what has come of it.
    pub(super) fn reload_answer(&mut self, name: &UnitName, what: &str, ok: bool) {
        if self.reloads.asked.remove(name).is_none() {
            return;
        }
        self.reload_came_to(name, what, ok);
        for pending in &mut self.reloads.pending {
            if pending.waiting.remove(name) {
                pending.changes.push(Change { name: name.to_string(), what: what.to_owned(), ok });
            }
        }
        let all = std::mem::take(&mut self.reloads.pending);
        let (done, pending) = all.into_iter().partition(|pending| pending.waiting.is_empty());
        self.reloads.pending = pending;
        for Pending { client, mut changes, .. } in done {
            changes.sort_by(|a, b| a.name.cmp(&b.name));
            self.server.reply(client, &Changes { changes }, false);
        }
    }
}

impl Voice {
    /// What changes nothing but what is known of it.
    fn note(&mut self, message: &Message) {
        let told = &mut self.told;
        if let Some(status) = &message.status {
            told.status = Some(status.clone()).filter(|status| !status.is_empty());
        }
        told.errno = message.errno.or(told.errno);
        told.error = message.error.clone().or_else(|| told.error.take());
        told.watchdog_usec = message.watchdog_usec.or(told.watchdog_usec);
        // Of a message that says both, the reload has ended.
        told.reloading = (told.reloading || message.reloading) && !message.ready;
        let is_news = message.watchdog == Some(Ping::Alive)
            || message.watchdog_usec.is_some()
            || (message.stopping && !told.stopping);
        told.stopping |= message.stopping;
        if is_news {
            self.pinged = now();
        }
    }
}

/// Whether the sender of a message is the main process, or might as well be.
fn is_heard(live: &LiveRun, received: &Received) -> bool {
    let (Some(pid), Some(uid)) = (received.pid, received.uid) else { return false };
    if live.main == Some(pid) {
        return true;
    }
    // The init has not buried it, or we had heard of its end: the number is its own.
    let user = live.main.and_then(|main| field(&format!("/proc/{main}/status"), "Uid:", 0));
    let root = live.init.and_then(|(init, _)| field(&format!("/proc/{init}/uid_map"), "0", 0));
    user == Some(uid) || root == Some(uid)
}

/// The number at this place behind a word at the beginning of a line.
fn field(path: &str, word: &str, place: usize) -> Option<u32> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(word)).then_some(words)
    });
    line?.nth(place)?.parse().ok()
}

/// The process of a pidfd, as this process counts: proc_pid_fdinfo(5).
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    field(&format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()), "Pid:", 0)
}

/// What there is in the pipe of `ready = "fd"`.
enum Line {
    Whole,
    Part,
    Closed,
}

/// Looks for the end of a line. It stays in the pipe, for a successor if need be; what comes before it does not.
fn first_line(pipe: &OwnedFd) -> Result<Line, rustix::io::Errno> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut bytes = [0; 4096];
    let flags = rustix::pipe::SpliceFlags::NONBLOCK;
    let count = rustix::pipe::tee(pipe, write, bytes.len(), flags)?;
    if count == 0 {
        return Ok(Line::Closed);
    }
    let count = rustix::io::read(read, &mut bytes)?;
    if bytes[..count].contains(&b'\n') {
        return Ok(Line::Whole);
    }
    rustix::io::read(pipe, &mut bytes[..count])?;
    Ok(Line::Part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_line_is_found_and_left_where_it_is() {
        let (read, write) = rustix::pipe::pipe().expect("pipe2");
        rustix::io::ioctl_fionbio(&read, true).expect("non-blocking");
        assert!(first_line(&read).is_err());
        rustix::io::write(&write, b"almost").expect("room");
        assert!(matches!(first_line(&read), Ok(Line::Part)));
        assert!(first_line(&read).is_err(), "what is no end is gone");
        rustix::io::write(&write, b" there\nand more").expect("room");
        assert!(matches!(first_line(&read), Ok(Line::Whole)));
        assert!(matches!(first_line(&read), Ok(Line::Whole)), "it is still there");
        drop(write);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe2");
        drop(write);
        crate::sys::tests::hung_up(&read);
        assert!(matches!(first_line(&read), Ok(Line::Closed)));
    }

    #[test]
    fn a_pidfd_says_whose_it_is() {
        let own =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        assert_eq!(pid_of(&own.expect("pidfd_open")), Some(std::process::id()));
    }

    #[test]
    fn what_was_said_is_told_in_one_line() {
        let mut voice = Voice::new(None, None);
        assert_eq!(voice.told.text(), None);
        voice.note(&notify::parse(b"RELOADING=1\nSTATUS=half way").expect("a message"));
        assert_eq!(voice.told.text().as_deref(), Some("reloading; half way"));
        voice.note(&notify::parse(b"READY=1\nSTATUS=\nERRNO=2").expect("a message"));
        assert_eq!(voice.told.text().as_deref(), Some("No such file or directory (os error 2)"));
    }
}
