//! Reads the output of services back, from the last lines of the past to whatever is being written.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    LogEntry, Stream, path,
    record::{Record, TEXT_MAX, decode},
};
use crate::sys::SysError;

/// Bytes read at once.
const BLOCK: usize = 64 << 10;
/// Bytes of log that one batch is made of, at most, for each service.
const BATCH: usize = 4 * BLOCK;
/// A line of a log file that is longer than this is no record.
const LINE_MAX: usize = TEXT_MAX + 64;
/// The most rotated files that are looked for.
const AGES: u32 = 1000;

/// What [`Follower::read`] gives.
#[derive(Debug, Default)]
pub struct Batch {
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// There is more to be had at once; otherwise after [`Follower::wrote`].
    pub more: bool,
}

/// Reads the logs of some services, at its caller's pace.
///
/// It watches nothing: whoever writes the logs tells it. (An inotify instance for each would let callers who may only look
/// use up those that the host's root has, fs.inotify.max_user_instances, 128 in all.)
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    follow: bool,
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    name: String,
    /// None: there was none yet.
    file: Option<File>,
    offset: u64,
    /// The last read ended in the middle of this line.
    rest: Vec<u8>,
    /// Lines of stdout and stderr whose end was not read yet: time and text.
    unfinished: [Option<(String, Vec<u8>)>; 2],
    /// There may be something that was not read yet.
    is_stale: bool,
}

/// The last `lines` lines of one service.
///
/// # Errors
/// `SysError` of open(2) or read(2). A service that has not written anything yet has no lines.
pub fn tail(dir: &Path, name: &str, lines: u64) -> Result<Vec<LogEntry>, SysError> {
    let mut follower = Follower::open(dir, &[name], lines, false)?;
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
    /// Begins `lines` lines before the end of each log. Without `follow` it ends where the log ends now.
    ///
    /// # Errors
    /// `SysError` of open(2) or read(2).
    pub fn open<S: AsRef<str>>(dir: &Path, names: &[S], lines: u64, follow: bool) -> Result<Self, SysError> {
        let mut sources = Vec::new();
        for name in names {
            let mut source = Source {
                name: name.as_ref().to_owned(),
                file: None,
                offset: 0,
                rest: Vec::new(),
                unfinished: [None, None],
                is_stale: true,
            };
            source.begin(dir, lines).map_err(|error| source.error(dir, error))?;
            sources.push(source);
        }
        Ok(Self { dir: dir.to_owned(), follow, sources })
    }

    /// Something was written to the log of this service. Whether that is one of those that are followed: then
    /// [`Follower::read`] has something to give.
    pub fn wrote(&mut self, name: &str) -> bool {
        let source = self.sources.iter_mut().find(|source| self.follow && source.name == name);
        source.map(|source| source.is_stale = true).is_some()
    }

    /// What has been written since; never waits.
    ///
    /// # Errors
    /// `SysError` of read(2).
    pub fn read(&mut self) -> Result<Batch, SysError> {
        let mut batch = Batch::default();
        for source in self.sources.iter_mut().filter(|source| source.is_stale) {
            let more = source.read(&self.dir, &mut batch.entries);
            source.is_stale = more.map_err(|error| source.error(&self.dir, error))?;
            if !source.is_stale && !self.follow {
                source.give_unfinished(&mut batch.entries);
            }
            batch.more |= source.is_stale;
        }
        if self.sources.len() > 1 {
            batch.entries.sort_by(|one, other| one.time.cmp(&other.time));
        }
        Ok(batch)
    }
}

impl Source {
    /// Looks for the place that is `lines` lines before the end.
    fn begin(&mut self, dir: &Path, lines: u64) -> io::Result<()> {
        let mut found = 0;
        for age in 0..AGES {
            let Some(file) = open(&path(dir, &self.name, age))? else {
                // Between two files of a rotation the current one may be missing.
                if age == 0 {
                    continue;
                }
                return Ok(());
            };
            let start = seek_back(&file, lines, &mut found)?;
            self.file = Some(file);
            self.offset = start.unwrap_or(0);
            if start.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads on, over the ends of files that were rotated away; true: there is more.
    fn read(&mut self, dir: &Path, entries: &mut Vec<LogEntry>) -> io::Result<bool> {
        let mut budget = BATCH;
        // A file that is no longer the current one is read to its end once more: something may have been written between
        // the read that found the end and the rotation.
        let mut is_last_round = false;
        loop {
            let Some(file) = &self.file else {
                self.file = open(&path(dir, &self.name, 0))?;
                match self.file {
                    Some(_) => continue,
                    None => return Ok(false),
                }
            };
            let mut block = vec![0; BLOCK];
            let count = file.read_at(&mut block, self.offset)?;
            if count > 0 {
                self.offset += count as u64;
                self.take(&block[..count], entries);
                budget = budget.saturating_sub(count);
                if budget == 0 {
                    return Ok(true);
                }
            } else if file.metadata()?.len() < self.offset {
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
                return Ok(false);
            }
        }
    }

    /// The file that was begun after the one that is being read.
    fn newer(&self, dir: &Path) -> io::Result<Option<File>> {
        let Some(file) = &self.file else { return Ok(None) };
        let own = file.metadata()?;
        let mut newest_seen = None;
        for age in 0..AGES {
            let path = path(dir, &self.name, age);
            match fs::symlink_metadata(&path) {
                Ok(other) if (other.dev(), other.ino()) == (own.dev(), own.ino()) => break,
                Ok(_) => newest_seen = Some(path),
                Err(_) if age == 0 => {}
                // The one that is being read was removed: the oldest that is left comes next.
                Err(_) => break,
            }
        }
        match newest_seen {
            Some(path) => open(&path),
            None => Ok(None),
        }
    }

    /// Takes a block of a log file apart.
    fn take(&mut self, block: &[u8], entries: &mut Vec<LogEntry>) {
        for piece in block.split_inclusive(|&byte| byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if let Some(line) = self.rest.strip_suffix(b"\n") {
                if let Some(record) = decode(line) {
                    entries.extend(join(&self.name, &mut self.unfinished, &record));
                }
                self.rest.clear();
            }
            // No record; its end will not decode and be passed over.
            self.rest.truncate(LINE_MAX);
        }
    }

    fn give_unfinished(&mut self, entries: &mut Vec<LogEntry>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some((time, text)) = self.unfinished[stream as usize].take() {
                entries.push(entry(&self.name, time, stream, true, &text));
            }
        }
    }

    fn error(&self, dir: &Path, error: io::Error) -> SysError {
        SysError::new("read", format!("{:?}", path(dir, &self.name, 0).display()), error)
    }
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

/// Where the `lines`th whole line before the end of `file` begins, `found` of which were found in newer files; none: in
/// an older file.
fn seek_back(file: &File, lines: u64, found: &mut u64) -> io::Result<Option<u64>> {
    let length_now = file.metadata()?.len();
    let mut position = length_now;
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
            let is_line_end = decode(&block[at + 1..end]).is_some_and(|record| !record.partial);
            *found += u64::from(is_line_end);
            if is_line_end && *found > lines {
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
    *found += u64::from(decode(&rest).is_some_and(|record| !record.partial));
    match *found > lines {
        true => Ok(Some((rest.len() as u64 + 1).min(length_now))),
        false => Ok(None),
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
