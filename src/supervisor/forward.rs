//! `log.target`: lines go from a service's log on to the host's journald or syslog.
//!
//! The log is what waits while nobody takes them, or not so fast: no service waits for that, nor does the loop. How far they
//! have gone stands in a file beside the state, written after each line: a supervisor that is killed in between sends that
//! one line twice, and the next boot goes on where this one ended.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    os::{fd::BorrowedFd, unix::fs::FileExt},
    path::PathBuf,
};

use super::{Supervisor, now};
use crate::{
    logs::{Cursor, Follower, Levels, LogEntry, Sink},
    machine::Mono,
    spec::{LogTarget, UnitName},
    sys::SysError,
};

/// Lines of a service that are sent before others have their turn.
const TURN: usize = 256;
/// Milliseconds after which who does not listen is looked for again.
const AGAIN: u64 = 1000;

/// The services whose lines go on.
#[derive(Debug, Default)]
pub(super) struct Forwards(BTreeMap<UnitName, Forward>);

#[derive(Debug)]
struct Forward {
    target: LogTarget,
    follower: Follower,
    levels: Levels,
    /// Read, and not taken yet: each with its level and where its text begins, for a line is asked for them once.
    pending: VecDeque<(LogEntry, u8, usize)>,
    /// Where those begin.
    cursor: Cursor,
    /// How many of what is behind it have been taken.
    sent: u64,
    /// Of those, which a predecessor has sent, so many are yet to be read.
    skip: u64,
    /// Where both are noted.
    note: File,
    /// None: nobody listens, as far as is known.
    sink: Option<Sink>,
    wait: Wait,
    /// That nobody listens was said.
    is_away: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// There may be something to send.
    No,
    /// For something to be written.
    Lines,
    /// Until it takes more.
    Room,
    /// For somebody to listen.
    Until(Mono),
}

impl Forward {
    fn open(
        dir: &std::path::Path,
        path: &PathBuf,
        name: &UnitName,
        target: LogTarget,
    ) -> Result<Self, SysError> {
        let fault = |error| SysError::new("open", format!("{:?}", path.display()), error);
        let note =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(fault)?;
        let mut bytes = [0; 24];
        let known = note.read_exact_at(&mut bytes, 0).is_ok();
        let word = |n: usize| bytes[8 * n..8 * n + 8].try_into().map_or(0, u64::from_ne_bytes);
        let at = known.then(|| Cursor { inode: word(0), offset: word(1) });
        let follower = Follower::resume(dir, name.as_str(), at)?;
        let (cursor, _) = follower.place();
        // In another file nothing of it was sent.
        let sent = if at == Some(cursor) { word(2) } else { 0 };
        let forward = Self {
            target,
            follower,
            levels: Levels::default(),
            pending: VecDeque::new(),
            cursor,
            sent,
            skip: sent,
            note,
            sink: None,
            wait: Wait::No,
            is_away: false,
        };
        forward.note();
        Ok(forward)
    }

    /// Without it lines are sent again by a successor; that stops nobody.
    fn note(&self) {
        let words = [self.cursor.inode, self.cursor.offset, self.sent].map(u64::to_ne_bytes).concat();
        let _ = self.note.write_all_at(&words, 0);
    }

    /// Sends what there is, as far as it is taken.
    fn step(&mut self) -> Result<(), SysError> {
        for _ in 0..TURN {
            if self.pending.is_empty() {
                self.refill()?;
            }
            let Some((entry, level, begin)) = self.pending.front() else { return Ok(()) };
            if self.sink.is_none() {
                self.sink = Some(Sink::open(self.target)?);
            }
            let Some(sink) = &self.sink else { return Ok(()) };
            match sink.send(entry, *level, entry.text.get(*begin..).unwrap_or_default()) {
                Ok(()) => {}
                Err(error) if error.symbol() == "EAGAIN" => {
                    self.wait = Wait::Room;
                    return Ok(());
                }
                Err(error) => {
                    self.sink = None;
                    return Err(error);
                }
            }
            self.pending.pop_front();
            self.sent += 1;
            self.note();
        }
        Ok(())
    }

    /// Reads more, once all that was read has been taken.
    fn refill(&mut self) -> Result<(), SysError> {
        let batch = loop {
            let place = self.follower.place();
            if place != (self.cursor, self.sent) && self.skip == 0 {
                (self.cursor, self.sent) = place;
                self.note();
            }
            let batch = self.follower.read()?;
            if !batch.entries.is_empty() || !batch.more {
                break batch;
            }
        };
        if batch.entries.is_empty() {
            self.wait = Wait::Lines;
        }
        for entry in batch.entries {
            let (level, text) = self.levels.read(&entry);
            let begin = entry.text.len() - text.len();
            match self.skip.checked_sub(1) {
                Some(left) => self.skip = left,
                None => self.pending.push_back((entry, level, begin)),
            }
        }
        Ok(())
    }
}

impl Forwards {
    /// Something was written to the log of this service.
    pub(super) fn wrote(&mut self, name: &UnitName) {
        if let Some(forward) = self.0.get_mut(name) {
            forward.follower.wrote(name.as_str());
            if forward.wait == Wait::Lines {
                forward.wait = Wait::No;
            }
        }
    }

    pub(super) fn interests(&self) -> impl Iterator<Item = (&UnitName, BorrowedFd<'_>)> {
        let waiting = self.0.iter().filter(|(_, forward)| forward.wait == Wait::Room);
        waiting.filter_map(|(name, forward)| Some((name, forward.sink.as_ref()?.fd())))
    }

    /// There is room for more.
    pub(super) fn ready(&mut self, name: &UnitName) {
        if let Some(forward) = self.0.get_mut(name) {
            forward.wait = Wait::No;
        }
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let until = |forward: &Forward| match forward.wait {
            Wait::No => Some(now()),
            Wait::Until(at) => Some(at),
            Wait::Lines | Wait::Room => None,
        };
        self.0.values().filter_map(until).min()
    }
}

impl Supervisor {
    /// What is forwarded, and where to, as the file of a service has it.
    pub(super) fn settle_forward(&mut self, name: &UnitName, target: LogTarget) {
        let dir = self.options.state.join("forwarded");
        let path = dir.join(name.as_str());
        if target.socket().is_none() {
            self.forwards.0.remove(name);
            // What is written from now on was never meant for it.
            let _ = fs::remove_file(path);
            return;
        }
        if self.forwards.0.get(name).is_some_and(|forward| forward.target == target) {
            return;
        }
        let _ = fs::create_dir(&dir);
        match Forward::open(&self.options.log, &path, name, target) {
            Ok(forward) => drop(self.forwards.0.insert(name.clone(), forward)),
            Err(error) => {
                tracing::error!(unit = %name, "its log is not forwarded to {}: {error}", target.as_str());
            }
        }
    }

    /// Sends what there is to whom it is for.
    pub(super) fn forward(&mut self) {
        let is_due = |forward: &&mut Forward| match forward.wait {
            Wait::No => true,
            Wait::Until(at) => at <= now(),
            Wait::Lines | Wait::Room => false,
        };
        for (name, forward) in &mut self.forwards.0 {
            let Some(forward) = Some(forward).filter(is_due) else { continue };
            forward.wait = Wait::No;
            let target = forward.target.as_str();
            match forward.step() {
                Ok(()) if forward.is_away && forward.sink.is_some() => {
                    forward.is_away = false;
                    tracing::info!(unit = %name, "{target} takes its log again");
                }
                Ok(()) => {}
                Err(error) => {
                    forward.wait = Wait::Until(Mono(now().0 + AGAIN));
                    if !std::mem::replace(&mut forward.is_away, true) {
                        tracing::error!(unit = %name, "{target} does not take its log, which keeps it: {error}");
                    }
                }
            }
        }
    }
}
