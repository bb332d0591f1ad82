//! A service's output on its way into the log: every byte once, whenever the supervisor is killed.
//!
//! ```text
//! tee(2) into a pipe of our own      killed here: everything is still in the service's pipe
//! note: so many bytes, log so long   killed here: the log is as long as noted, nothing was written
//! write to the log                   killed here: the log is longer, or another file: so many bytes are to be passed over
//! read them from the service's pipe  killed here: the same, but they are not in the pipe any more
//! note: nothing
//! ```
//! Whether they are still there shows by a sum of them in the note: what is at the front of the pipe has it or not. Of
//! what is dropped for `log.rate` ([`super::rates`]) nothing is written, and the note says so.
//! While nobody supervises, and the pipe is full, the init may drop what is oldest (`log.full`): it counts the bytes behind
//! the notes, and those that were in the log already are no loss.
//!
//! The note stands behind the last words, in the file that a run has for those. A terminal cannot be copied from, and
//! what is read from one is lost when the supervisor dies before it is written.

use std::{
    borrow::Cow,
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::Path,
};

use jiff::Timestamp;
use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags},
};

use super::{Supervisor, runs::LiveRun};
use crate::{
    control::types::Stream,
    init::wire::{DROPPED_AT, OUTPUT_NOTE, Words},
    logs::{self, LogWriter},
    spec::{LogTarget, UnitName},
    sys::SysError,
};

/// Bytes that are taken at once; what a pipe holds by default.
const PIECE: usize = 65536;

/// A pipe of our own, empty between two pieces.
#[derive(Debug)]
pub(super) struct Copier {
    read: OwnedFd,
    write: OwnedFd,
}

impl Copier {
    pub(super) fn open() -> Result<Self, SysError> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|errno| SysError::new("pipe2", "", errno))?;
        Ok(Self { read, write })
    }

    /// A copy of what is in a pipe, which stays there; empty at its end.
    fn copy(&self, from: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let count = rustix::pipe::tee(from, &self.write, PIECE, SpliceFlags::NONBLOCK)?;
        read_exactly(self.read.as_fd(), count)
    }
}

/// What a predecessor has written to the log and may not have taken out of the pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Surplus {
    /// Bytes; 0: nothing.
    count: usize,
    /// What they sum up to; 0: an older program has not noted it.
    sum: u32,
}

impl Surplus {
    fn of(bytes: &[u8]) -> Self {
        // FNV-1a. Never 0.
        let add = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        Self { count: bytes.len(), sum: bytes.iter().fold(0x811c_9dc5, add).max(1) }
    }

    /// Whether it is what comes next in a pipe.
    fn is_front_of(self, bytes: &[u8]) -> bool {
        self.sum == 0 || bytes.get(..self.count).is_some_and(|front| Self::of(front) == self)
    }

    /// One word: the sum above the number.
    fn to_word(self) -> u64 {
        u64::from(self.sum) << 32 | self.count as u64
    }

    fn from_word(word: u64) -> Self {
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
        Self { count: half(word) as usize, sum: half(word >> 32) }
    }
}

/// What is under way from one stream into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    what: Surplus,
    /// Which log file, and how long it was.
    inode: u64,
    size: u64,
}

impl Note {
    pub(super) const NOTHING: Self = Self { what: Surplus { count: 0, sum: 0 }, inode: 0, size: 0 };

    /// So much is about to be written to the log as it is now.
    fn about(what: Surplus, log: &Path) -> Self {
        let (inode, size) = log.metadata().map_or((0, 0), |log| (log.ino(), log.len()));
        Self { what, inode, size }
    }

    /// So much is about to be passed over: the log stays as it is.
    fn about_nothing(what: Surplus) -> Self {
        Self { what, inode: 0, size: u64::MAX }
    }

    /// A line that is in no pipe is about to be written.
    pub(super) fn about_us(log: &Path) -> Self {
        Self::about(Surplus::default(), log)
    }

    fn place(stream: usize) -> u64 {
        (size_of::<Words>() + stream * OUTPUT_NOTE) as u64
    }

    fn read(file: &File, stream: usize) -> Self {
        let mut bytes = [0; OUTPUT_NOTE];
        if file.read_exact_at(&mut bytes, Self::place(stream)).is_err() {
            return Self::NOTHING;
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        Self { what: Surplus::from_word(word(0)), inode: word(8), size: word(16) }
    }

    /// Without the note a byte may be written twice or not at all by a successor; that stops nobody.
    pub(super) fn write(self, file: &File, stream: usize) {
        let bytes = [self.what.to_word(), self.inode, self.size].map(u64::to_ne_bytes).concat();
        let _ = file.write_all_at(&bytes, Self::place(stream));
    }
}

impl Supervisor {
    pub(super) fn output_ready(&mut self, name: &UnitName, stream: usize) {
        let path = logs::path(&self.options.log, name.base().as_str(), 0);
        let Some(run) = self.runs.get_mut(name) else { return };
        let Some(fd) = run.outputs[stream].as_ref() else { return };
        let (taken, is_copy) = match self.copier.copy(fd.as_fd()) {
            // A terminal: what is read is gone.
            Err(Errno::INVAL) => (read_some(fd.as_fd()), false),
            taken => (taken, true),
        };
        let bytes = match taken {
            Err(Errno::AGAIN | Errno::INTR) => return,
            // EIO: the last process has closed the terminal.
            Err(_) => Vec::new(),
            Ok(bytes) => bytes,
        };
        if bytes.is_empty() {
            run.outputs[stream] = None;
            return;
        }
        self.rates_overdue();
        let taken = self.within_rate(name, stream, &bytes);
        let Some(run) = self.runs.get_mut(name) else { return };
        if let Some(notes) = run.notes().filter(|_| is_copy) {
            let note = match taken.is_empty() {
                true => Note::about_nothing(Surplus::of(&bytes)),
                false => Note::about(Surplus::of(&bytes), &path),
            };
            note.write(notes, stream);
        }
        match taken.is_empty() {
            true => self.point(name, "dropped-noted"),
            false => self.write_log(name, stream, &taken),
        }
        let text = self.without_returns(name, &bytes);
        self.watch_output(name, stream, &text);
        if is_copy {
            self.point(name, "output-written");
            self.pass_over(name, stream, bytes.len());
        }
    }

    pub(super) fn write_log(&mut self, name: &UnitName, stream: usize, bytes: &[u8]) {
        if self.is_unlogged(name) {
            return;
        }
        let text = self.without_returns(name, bytes);
        let kind = if stream == 0 { Stream::Stdout } else { Stream::Stderr };
        if let Some(log) = self.log(name)
            && let Some(error) = log.write(kind, &text, Timestamp::now())
        {
            tracing::error!(unit = %name, "output is lost: {error}");
        }
        if self.log(name).is_some_and(LogWriter::has_begun_one) {
            self.ages.look_at(&name.base());
        }
        self.clients.wrote(&name.base());
        self.forwards.wrote(&name.base());
    }

    /// `log.target = "none"`.
    pub(super) fn is_unlogged(&self, name: &UnitName) -> bool {
        self.fleet.entry(name).is_some_and(|entry| entry.unit.log.target == LogTarget::None)
    }

    /// A terminal ends lines with CR LF (termios(3), ONLCR); in a log each CR would show as an escape.
    fn without_returns<'a>(&self, name: &UnitName, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.fleet.entry(name).is_none_or(|entry| !entry.unit.service.tty) {
            return bytes.into();
        }
        let is_end = |at: usize| bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n');
        (0..bytes.len()).filter(|at| !is_end(*at)).map(|at| bytes[at]).collect()
    }

    /// An output has come back to us: what a predecessor has written of it is passed over, and what was dropped is told.
    pub(super) fn output_back(&mut self, name: &UnitName, stream: usize) {
        let Some(run) = self.runs.get_mut(name) else { return };
        let surplus = std::mem::take(&mut run.surplus[stream]);
        let dropped = run.notes().map_or(0, |notes| newly_dropped(notes, stream));
        let known = dropped.min(surplus.count as u64);
        if surplus.count > 0 {
            // Where a part of it was dropped the rest is not told by its sum, and the pipe was full: it was there.
            let is_there = known > 0
                || run.outputs[stream].as_ref().is_some_and(|fd| {
                    self.copier.copy(fd.as_fd()).is_ok_and(|bytes| surplus.is_front_of(&bytes))
                });
            let rest = surplus.count - usize::try_from(known).unwrap_or_default();
            self.pass_over(name, stream, if is_there { rest } else { 0 });
        }
        let lost = dropped - known;
        if lost > 0 {
            let output = ["standard output", "standard error"][stream];
            tracing::warn!(unit = %name, "{lost} bytes of its {output} were dropped while nobody supervised");
            let line = format!("[palisade: {lost} bytes were dropped here while nobody supervised]\n");
            self.write_log(name, stream, line.as_bytes());
            if let Some(log) = self.log(name) {
                log.missed(lost);
            }
        }
    }

    /// Takes what is in the log out of the service's pipe.
    pub(super) fn pass_over(&mut self, name: &UnitName, stream: usize, count: usize) {
        let Some(run) = self.runs.get_mut(name) else { return };
        if let Some(fd) = run.outputs[stream].as_ref() {
            let _ = read_exactly(fd.as_fd(), count);
        }
        self.point(name, "output-taken");
        self.rate_written(name);
        let Some(run) = self.runs.get_mut(name) else { return };
        if let Some(notes) = run.notes() {
            Note::NOTHING.write(notes, stream);
        }
    }
}

impl Supervisor {
    /// Takes over what a predecessor had under way from a run into the log. Before anything else is written.
    pub(super) fn adopt_notes(&mut self, name: &UnitName, run: &mut LiveRun) {
        let path = logs::path(&self.options.log, name.base().as_str(), 0);
        let Some(file) = run.notes() else { return };
        let notes = [0, 1].map(|stream| Note::read(file, stream));
        // Where the log is as it was, nothing of it was written.
        let is_written = notes.map(|note| {
            note != Note::NOTHING && note.what.count <= PIECE && Note::about(note.what, &path) != note
        });
        run.surplus = [0, 1].map(|n| if is_written[n] { notes[n].what } else { Surplus::default() });
        self.adopt_rate(name, run, is_written);
        for stream in 0..2 {
            // Not written, and the log may be another by and by; or not the service's, and waits for no output.
            if (!is_written[stream] || notes[stream].what.count == 0)
                && notes[stream] != Note::NOTHING
                && let Some(file) = run.notes()
            {
                Note::NOTHING.write(file, stream);
            }
        }
    }
}

/// How many bytes of an output its init has dropped that nobody was told of: from now on they are.
fn newly_dropped(notes: &File, stream: usize) -> u64 {
    let place = |which: usize| (DROPPED_AT + (2 * which + stream) * 8) as u64;
    let number = |which| {
        let mut bytes = [0; 8];
        // An older init has no room for it, and drops nothing.
        notes.read_exact_at(&mut bytes, place(which)).map_or(0, |()| u64::from_ne_bytes(bytes))
    };
    let (dropped, told) = (number(0), number(1));
    if dropped != told {
        // At worst it is told again.
        let _ = notes.write_all_at(&dropped.to_ne_bytes(), place(1));
    }
    dropped.saturating_sub(told)
}

fn read_some(from: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; PIECE];
    let count = rustix::io::read(from, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// So many bytes that are there.
fn read_exactly(from: BorrowedFd<'_>, count: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; count];
    let mut at = 0;
    while at < count {
        match rustix::io::read(from, &mut bytes[at..])? {
            0 => break,
            read => at += read,
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_out_is_told_from_what_is_still_there() {
        let noted = Surplus::of(b"the first\n");
        assert!(noted.is_front_of(b"the first\n"));
        assert!(noted.is_front_of(b"the first\nand more\n"));
        for other in [&b""[..], b"the fir", b"another and more\n"] {
            assert!(!noted.is_front_of(other), "{other:?}");
        }
    }

    #[test]
    fn a_note_without_a_sum_is_believed() {
        assert_eq!(Surplus::from_word(17), Surplus { count: 17, sum: 0 });
        assert!(Surplus::from_word(17).is_front_of(b""));
        let noted = Surplus::of(&[b'x'; PIECE]);
        assert_eq!((Surplus::from_word(noted.to_word()), noted.count), (noted, PIECE));
    }
}
