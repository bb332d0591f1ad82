//! Reads the output of services back, from the last lines of the past to whatever is being written.

use std::{
    io, mem,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    AGES, LogEntry, Stream,
    file::LogFile,
    path,
    record::{Record, TEXT_MAX, decode, stamp},
};
use crate::sys::SysError;

/// Bytes read at once.
const BLOCK: usize = 64 << 10;
/// Bytes of log that are read for one batch, at most.
const BATCH: usize = 4 * BLOCK;
/// Bytes read at once where many logs are read beside each other.
const BLOCK_LEAST: usize = 4 << 10;
/// A line of a log file that is longer than this is no record.
const LINE_MAX: usize = TEXT_MAX + 64;

/// What [`Follower::read`] gives.
#[derive(Debug, Default)]
pub struct Batch {
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// There is more to be had at once; otherwise after [`Follower::wrote`].
    pub more: bool,
    /// All that there was when the reading began has been given with this batch; in no other.
    pub is_past_over: bool,
}

/// What is to be read of each log.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// So many lines of the past; none: all of them.
    pub lines: Option<u64>,
    /// None that was written before.
    pub since: Option<Timestamp>,
    /// None that was written at that time or later.
    pub until: Option<Timestamp>,
    /// Go on after the end.
    pub follow: bool,
}

/// From when, and until when without that time itself, in the form of records: their text compares as the times do.
#[derive(Debug, Default)]
struct Span {
    since: Option<String>,
    until: Option<String>,
}

impl Span {
    fn has(&self, time: &str) -> bool {
        !self.is_before(time) && !self.is_after(time)
    }

    fn is_before(&self, time: &str) -> bool {
        self.since.as_deref().is_some_and(|since| time < since)
    }

    fn is_after(&self, time: &str) -> bool {
        self.until.as_deref().is_some_and(|until| time >= until)
    }
}

/// Reads the logs of some services, at its caller's pace.
///
/// It watches nothing: whoever writes the logs tells it. (An inotify instance for each would let callers who may only look
/// use up those that the host's root has, fs.inotify.max_user_instances, 128 in all.)
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    span: Span,
    follow: bool,
    /// The past was given.
    is_live: bool,
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    name: String,
    /// None: there was none yet.
    file: Option<LogFile>,
    offset: u64,
    /// The last read ended in the middle of this line.
    rest: Vec<u8>,
    /// Lines of stdout and stderr whose end was not read yet: time and text.
    unfinished: [Option<(String, Vec<u8>)>; 2],
    /// There may be something that was not read yet.
    is_stale: bool,
    /// Read, and not given yet: another log may have something older.
    ready: Vec<LogEntry>,
    /// What comes next was written after the span.
    is_over: bool,
    /// The place behind what was given, as far as no line is unfinished there.
    given: Cursor,
    /// Entries that were given of what is behind it.
    behind: u64,
}

/// A place in a log, which outlives rotation and compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Of the file; 0: none, and the oldest that there is then comes next.
    pub inode: u64,
    /// Bytes of text before it.
    pub offset: u64,
}

/// The last `lines` lines of one service.
///
/// # Errors
/// `SysError` of open(2) or read(2). A service that has not written anything yet has no lines.
pub fn tail(dir: &Path, name: &str, lines: u64) -> Result<Vec<LogEntry>, SysError> {
    let wanted = Wanted { lines: Some(lines), ..Wanted::default() };
    let mut follower = Follower::open(dir, &[name], &wanted)?;
    let mut entries = Vec::new();
    loop {
        let batch = follower.read()?;
        entries.extend(batch.entries);
        if !batch.more {
            return Ok(entries);
        }
    }
}

impl Follower {
    /// Begins where the first line is that is wanted. Without `follow` it ends where the log ends now.
    ///
    /// # Errors
    /// `SysError` of open(2) or read(2).
    pub fn open<S: AsRef<str>>(dir: &Path, names: &[S], wanted: &Wanted) -> Result<Self, SysError> {
        let span = Span { since: wanted.since.map(stamp), until: wanted.until.map(stamp) };
        let mut sources = Vec::new();
        for name in names {
            let mut source = Source {
                name: name.as_ref().to_owned(),
                file: None,
                offset: 0,
                rest: Vec::new(),
                unfinished: [None, None],
                is_stale: true,
                ready: Vec::new(),
                is_over: false,
                given: Cursor::default(),
                behind: 0,
            };
            source.begin(dir, wanted.lines, &span).map_err(|error| source.error(dir, error))?;
            sources.push(source);
        }
        Ok(Self { dir: dir.to_owned(), span, follow: wanted.follow, is_live: false, sources })
    }

    /// Goes on at a place in the log of one service, and follows it; none: where it ends now.
    ///
    /// # Errors
    /// `SysError` of open(2) or read(2).
    pub fn resume(dir: &Path, name: &str, at: Option<Cursor>) -> Result<Self, SysError> {
        let wanted = Wanted { lines: Some(0), follow: true, ..Wanted::default() };
        let mut follower = Self::open(dir, &[name], &wanted)?;
        let source = &mut follower.sources[0];
        source.go_to(dir, at).map_err(|error| source.error(dir, error))?;
        Ok(follower)
    }

    /// A place in the first log, and how many entries behind it have been given.
    pub fn place(&self) -> (Cursor, u64) {
        self.sources.first().map(|source| (source.given, source.behind)).unwrap_or_default()
    }

    /// Something was written to the log of this service. Whether that is one of those that are followed: then
    /// [`Follower::read`] has something to give.
    pub fn wrote(&mut self, name: &str) -> bool {
        let source = self.sources.iter_mut().find(|source| self.follow && source.name == name);
        source.map(|source| source.is_stale = true).is_some()
    }

    /// What has been written since, of all logs in the order of time; never waits.
    ///
    /// # Errors
    /// `SysError` of read(2).
    pub fn read(&mut self) -> Result<Batch, SysError> {
        let block = (BATCH / self.sources.len().max(1)).clamp(BLOCK_LEAST, BLOCK);
        let mut budget = BATCH;
        let mut batch = Batch::default();
        loop {
            // Only when each log has given something, or has nothing left, is it known what comes next.
            for source in &mut self.sources {
                while source.ready.is_empty() && source.is_stale && budget > 0 {
                    let read = source.read(&self.dir, &self.span, block, self.follow);
                    let read = read.map_err(|error| source.error(&self.dir, error))?;
                    budget = budget.saturating_sub(read);
                }
            }
            let is_waiting = |source: &Source| source.ready.is_empty() && source.is_stale;
            if self.sources.iter().any(is_waiting) {
                batch.more = true;
                return Ok(batch);
            }
            self.give(&mut batch.entries);
            if self.sources.iter().all(|source| source.ready.is_empty() && !source.is_stale) {
                batch.is_past_over = !mem::replace(&mut self.is_live, true);
                return Ok(batch);
            }
        }
    }

    /// Gives what nothing that is still to be read comes before.
    fn give(&mut self, entries: &mut Vec<LogEntry>) {
        let newest = |source: &Source| source.ready.iter().map(|entry| entry.time.clone()).max();
        let stale = self.sources.iter().filter(|source| source.is_stale);
        let bound = stale.filter_map(newest).min();
        let begin = entries.len();
        for source in &mut self.sources {
            let is_due = |entry: &LogEntry| bound.as_ref().is_none_or(|bound| entry.time <= *bound);
            let due = source.ready.iter().take_while(|entry| is_due(entry)).count();
            entries.extend(source.ready.drain(..due));
        }
        if self.sources.len() > 1 {
            entries[begin..].sort_by(|one, other| one.time.cmp(&other.time));
        }
    }
}

impl Source {
    /// Looks for the place that is `lines` lines before the end of the span, or at its beginning.
    fn begin(&mut self, dir: &Path, lines: Option<u64>, span: &Span) -> io::Result<()> {
        let mut found = 0;
        for age in 0..AGES {
            let Some(file) = LogFile::open(dir, &self.name, age)? else {
                // Between two files of a rotation the current one may be missing.
                if age == 0 {
                    continue;
                }
                return Ok(());
            };
            let start = match lines {
                Some(lines) => seek_back(&file, lines, span, &mut found)?,
                None => seek_time(&file, span)?,
            };
            self.file = Some(file);
            self.offset = start.unwrap_or(0);
            if start.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn go_to(&mut self, dir: &Path, at: Option<Cursor>) -> io::Result<()> {
        let mut oldest = None;
        for age in 0..AGES {
            match LogFile::open(dir, &self.name, age)? {
                Some(file) => {
                    let is_it = at.is_none_or(|at| at.inode == file.origin());
                    let end = file.len()?;
                    (self.offset, oldest) = (at.map_or(end, |at| at.offset.min(end)), Some(file));
                    if is_it {
                        break;
                    }
                    self.offset = 0;
                }
                None if age == 0 => {}
                None => break,
            }
        }
        let inode = oldest.as_ref().map_or(0, LogFile::origin);
        self.given = Cursor { inode, offset: self.offset };
        self.file = oldest;
        Ok(())
    }

    /// Reads a block, over the ends of files that were rotated away: how many bytes.
    fn read(&mut self, dir: &Path, span: &Span, block: usize, follow: bool) -> io::Result<usize> {
        // A file that is no longer the current one is read to its end once more: something may have been written between
        // the read that found the end and the rotation.
        let mut is_last_round = false;
        while !self.is_over {
            let Some(file) = &self.file else {
                self.file = LogFile::open(dir, &self.name, 0)?;
                match self.file {
                    Some(_) => continue,
                    None => break,
                }
            };
            let mut bytes = vec![0; block];
            let count = file.read_at(&mut bytes, self.offset)?;
            if count > 0 {
                self.offset += count as u64;
                self.take(&bytes[..count], span);
                return Ok(count);
            } else if file.len()? < self.offset {
                // Somebody has emptied it.
                self.offset = 0;
                self.rest.clear();
            } else if let Some(next) = self.newer(dir)? {
                if is_last_round {
                    self.file = Some(next);
                    self.offset = 0;
                    self.rest.clear();
                }
                is_last_round = !is_last_round;
            } else {
                break;
            }
        }
        self.is_stale = false;
        if !follow {
            self.give_unfinished(span);
        }
        Ok(0)
    }

    /// The file that was begun after the one that is being read.
    fn newer(&self, dir: &Path) -> io::Result<Option<LogFile>> {
        let Some(own) = &self.file else { return Ok(None) };
        let mut newest_seen = None;
        for age in 0..AGES {
            match LogFile::open(dir, &self.name, age) {
                Ok(Some(other)) if other.is_of(own) => break,
                Ok(Some(other)) => newest_seen = Some(other),
                Ok(None) | Err(_) if age == 0 => {}
                // The one that is being read was removed: the oldest that is left comes next.
                Ok(None) | Err(_) => break,
            }
        }
        Ok(newest_seen)
    }

    /// Takes a block of a log file apart.
    fn take(&mut self, block: &[u8], span: &Span) {
        let inode = self.file.as_ref().map_or(0, LogFile::origin);
        let mut offset = self.offset - block.len() as u64;
        for piece in block.split_inclusive(|&byte| byte == b'\n') {
            offset += piece.len() as u64;
            self.rest.extend_from_slice(piece);
            if let Some(line) = self.rest.strip_suffix(b"\n") {
                if let Some(record) = decode(line) {
                    self.is_over |= span.is_after(record.time);
                    let whole = join(&self.name, &mut self.unfinished, &record);
                    self.behind += u64::from(whole.is_some());
                    self.ready.extend(whole.filter(|entry| span.has(&entry.time)));
                }
                self.rest.clear();
                if self.unfinished.iter().all(Option::is_none) {
                    (self.given, self.behind) = (Cursor { inode, offset }, 0);
                }
            }
            // No record; its end will not decode and be passed over.
            self.rest.truncate(LINE_MAX);
        }
    }

    fn give_unfinished(&mut self, span: &Span) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some((time, text)) =
                self.unfinished[stream as usize].take().filter(|(time, _)| span.has(time))
            {
                self.ready.push(entry(&self.name, time, stream, true, &text));
            }
        }
    }

    fn error(&self, dir: &Path, error: io::Error) -> SysError {
        SysError::new("read", format!("{:?}", path(dir, &self.name, 0).display()), error)
    }
}

/// The time of the first record in the current file; none: it has none yet.
pub(super) fn begins(dir: &Path, name: &str) -> Option<Timestamp> {
    let file = LogFile::open(dir, name, 0).ok()??;
    first_record(&file, 0).ok()??.parse().ok()
}

/// Puts the parts of a line together, up to [`TEXT_MAX`] bytes.
fn join(
    name: &str,
    unfinished: &mut [Option<(String, Vec<u8>)>; 2],
    record: &Record<'_>,
) -> Option<LogEntry> {
    let slot = &mut unfinished[record.stream as usize];
    let (time, mut text) = slot.take().unwrap_or_else(|| (record.time.to_owned(), Vec::new()));
    text.extend_from_slice(record.text);
    if record.partial && text.len() < TEXT_MAX {
        *slot = Some((time, text));
        return None;
    }
    Some(entry(name, time, record.stream, record.partial, &text))
}

fn entry(name: &str, time: String, stream: Stream, partial: bool, text: &[u8]) -> LogEntry {
    let text = String::from_utf8_lossy(text).into_owned();
    LogEntry { name: name.to_owned(), time, stream, partial, text }
}

/// Where the `lines`th whole line before the end of `file`, or of the span, begins, `found` of which were found in newer
/// files, or where the span begins; none: in an older file.
fn seek_back(file: &LogFile, lines: u64, span: &Span, found: &mut u64) -> io::Result<Option<u64>> {
    let length_now = file.len()?;
    let mut position = match span.until {
        // What cannot be read is passed over: there may be something of the span behind it. A block more, for the line in
        // the middle of which the place may be.
        Some(_) => {
            let (_, high) = bisect(file, |time| !time.is_some_and(|time| span.is_after(time)))?;
            length_now.min(high + BLOCK as u64)
        }
        None => length_now,
    };
    // Whether a line is the last one that is not wanted.
    let mut is_enough = |line: &[u8]| {
        let Some(record) = decode(line) else { return false };
        let is_one = !record.partial && !span.is_after(record.time);
        *found += u64::from(is_one);
        (is_one && *found > lines) || span.is_before(record.time)
    };
    // What stands between `position` and the line that was looked at last.
    let mut rest: Vec<u8> = Vec::new();
    while position > 0 {
        let length = position.min(BLOCK as u64);
        position -= length;
        let mut block = vec![0; usize::try_from(length).expect("at most a block")];
        file.read_exact_at(&mut block, position)?;
        block.extend_from_slice(&rest);
        let mut end = block.len();
        // From line end to line end, backwards; what comes before the first one belongs to the block before.
        while let Some(at) = block[..end].iter().rposition(|&byte| byte == b'\n') {
            if is_enough(&block[at + 1..end]) {
                // The line after this one is the first that is wanted.
                return Ok(Some((position + end as u64 + 1).min(length_now)));
            }
            end = at;
        }
        block.truncate(end);
        rest = block;
        if rest.len() > LINE_MAX {
            rest.clear();
        }
    }
    match is_enough(&rest) {
        true => Ok(Some((rest.len() as u64 + 1).min(length_now))),
        false => Ok(None),
    }
}

/// Where the span begins in `file`, as far as its times go up; none: it may begin in an older file.
fn seek_time(file: &LogFile, span: &Span) -> io::Result<Option<u64>> {
    // What cannot be read is read again, by whoever takes it apart.
    let is_before = |time: Option<&str>| time.is_some_and(|time| span.is_before(time));
    if !is_before(first_record(file, 0)?.as_deref()) {
        return Ok(None);
    }
    let (low, _) = bisect(file, is_before)?;
    let block = read_block(file, low)?;
    let end = block.iter().position(|&byte| byte == b'\n').filter(|_| low > 0);
    Ok(Some(low + end.map_or(0, |end| end as u64 + 1)))
}

/// Two places in `file`, a block apart at most: the first record behind the one is early or the file's first, and the
/// first behind the other is not, if there is any.
///
/// By halves: a file may be large, and whoever serves the reader has others to serve.
fn bisect(file: &LogFile, is_early: impl Fn(Option<&str>) -> bool) -> io::Result<(u64, u64)> {
    let (mut low, mut high) = (0, file.len()?);
    while high - low > BLOCK as u64 {
        let middle = low.midpoint(high);
        match is_early(first_record(file, middle)?.as_deref()) {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok((low, high))
}

/// The time of the first record behind `at`, which may be in the middle of another one.
fn first_record(file: &LogFile, at: u64) -> io::Result<Option<String>> {
    let block = read_block(file, at)?;
    let lines = block.split(|&byte| byte == b'\n').skip(usize::from(at > 0));
    Ok(lines.filter_map(decode).next().map(|record| record.time.to_owned()))
}

fn read_block(file: &LogFile, at: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    let count = file.read_at(&mut block, at)?;
    block.truncate(count);
    Ok(block)
}
