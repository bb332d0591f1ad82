//! Writes the output of one service.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Stream, path,
    record::{Record, TEXT_MAX, decode, encode, stamp},
    squeeze::{move_age, remove_age},
};
use crate::{spec::LogPolicy, sys::SysError};

/// How much of an existing file's end is looked at, to know whether a line is unfinished there.
const LOOK_BACK: u64 = 4 * TEXT_MAX as u64;

/// The log file of one service.
///
/// Nothing is kept back: what was given to [`LogWriter::write`] is with the kernel when it returns, so that a supervisor
/// that is killed loses no output. A disk that is full costs output, and is counted, but never stops anything.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    name: String,
    policy: LogPolicy,
    /// None: it could not be opened, and is tried again with the next output.
    file: Option<File>,
    /// Bytes in it.
    size: u64,
    /// It ends in the middle of a record.
    torn: bool,
    /// Of stdout and stderr: the last record was partial.
    unfinished: [bool; 2],
    written: Written,
    /// Lines that end among the records that wait to be written.
    waiting: u64,
    is_failing: bool,
    /// A file was begun, or will be with the next output.
    is_begun: bool,
}

/// What has become of the output that a writer was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Lines that were written to their end.
    pub lines: u64,
    /// Bytes of log that were written, time stamps included.
    pub bytes: u64,
    /// Bytes that are in no log, time stamps included where they had one.
    pub dropped: u64,
}

impl LogWriter {
    /// Opens `DIR/NAME.log`, to go on at its end; makes the directory (0750) and the file (0640) if need be.
    ///
    /// # Errors
    /// `SysError` of mkdir(2) or open(2).
    pub fn open(dir: &Path, name: &str, policy: LogPolicy) -> Result<Self, SysError> {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(dir);
        made.map_err(|error| SysError::new("mkdir", format!("{:?}", dir.display()), error))?;
        let mut writer = Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            policy,
            file: None,
            size: 0,
            torn: false,
            unfinished: [false; 2],
            written: Written::default(),
            waiting: 0,
            is_failing: false,
            is_begun: true,
        };
        writer.reopen()?;
        writer.remove_surplus();
        Ok(writer)
    }

    /// Opens the file by its name again, after somebody else has moved it away.
    ///
    /// # Errors
    /// `SysError` of open(2); the next output tries again.
    pub fn reopen(&mut self) -> Result<(), SysError> {
        self.file = None;
        self.is_begun = true;
        let path = path(&self.dir, &self.name, 0);
        let opened = (|| {
            let is_new = !path.exists();
            let mut file = OpenOptions::new()
                .append(true)
                .read(true)
                .create(true)
                .mode(0o640)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)?;
            if is_new {
                // Whatever the umask: the group that may read logs is that of the directory's owner to give.
                file.set_permissions(fs::Permissions::from_mode(0o640))?;
            }
            self.look_back(&mut file)?;
            io::Result::Ok(file)
        })();
        self.file = Some(opened.map_err(|error| self.error("open", error))?);
        Ok(())
    }

    /// Whether a file has got its first line since this was asked last: when others are too old may be another time now.
    pub fn has_begun_one(&mut self) -> bool {
        self.size > 0 && std::mem::take(&mut self.is_begun)
    }

    /// Takes over a changed `[log]`; it holds from the next output on.
    pub fn set_policy(&mut self, policy: LogPolicy) {
        self.policy = policy;
        self.remove_surplus();
    }

    /// The file that is written to.
    pub fn path(&self) -> PathBuf {
        path(&self.dir, &self.name, 0)
    }

    /// What was written and what was not, since this writer was made.
    pub fn written(&self) -> Written {
        self.written
    }

    /// So many bytes of output were lost before they came here.
    pub fn missed(&mut self, count: u64) {
        self.written.dropped += count;
    }

    /// Writes what was read from the service at `now`; an unfinished line is written as far as it has come.
    ///
    /// An error is given for the first of a series of failures alone; what could not be written is gone, and counted.
    #[must_use = "a failure is reported once"]
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Option<SysError> {
        let time = stamp(now);
        let mut records = Vec::with_capacity(bytes.len() + 256);
        let mut outcome = Ok(());
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, is_whole) = match line.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (line, false),
            };
            let parts = text.len().div_ceil(TEXT_MAX).max(1);
            for part in 0..parts {
                let text = &text[part * TEXT_MAX..text.len().min((part + 1) * TEXT_MAX)];
                let partial = !is_whole || part + 1 < parts;
                let record = Record { time: &time, stream, partial, text };
                outcome = outcome.and(self.append(&mut records, &record));
                self.unfinished[stream as usize] = partial;
            }
        }
        outcome = outcome.and(self.flush(&mut records));
        match outcome {
            Ok(()) => {
                self.is_failing = false;
                None
            }
            Err(error) => (!std::mem::replace(&mut self.is_failing, true)).then_some(error),
        }
    }

    /// Ends an unfinished line, because nothing will follow: the run is over.
    #[must_use = "a failure is reported once"]
    pub fn finish(&mut self, now: Timestamp) -> Option<SysError> {
        let mut outcome = None;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.unfinished[stream as usize] {
                outcome = outcome.or(self.write(stream, b"\n", now));
            }
        }
        outcome
    }

    /// Adds a record to those that wait to be written, and makes room in the file when it is full.
    fn append(&mut self, records: &mut Vec<u8>, record: &Record<'_>) -> Result<(), SysError> {
        let before = records.len();
        encode(records, record);
        let total = self.size + records.len() as u64;
        let mut outcome = Ok(());
        if total > self.policy.max_size && self.size + before as u64 > 0 {
            let last = records.split_off(before);
            outcome = self.flush(records).and(self.rotate());
            *records = last;
        }
        self.waiting += u64::from(!record.partial);
        outcome
    }

    /// Writes the records out; they are gone then, written or not.
    fn flush(&mut self, records: &mut Vec<u8>) -> Result<(), SysError> {
        if records.is_empty() {
            return Ok(());
        }
        let outcome = self.put(records);
        let (all, whole) = (records.len() as u64, std::mem::take(&mut self.waiting));
        match outcome {
            Ok(()) => {
                self.written.bytes += all;
                self.written.lines += whole;
            }
            Err(_) => self.written.dropped += all,
        }
        records.clear();
        outcome
    }

    fn put(&mut self, records: &[u8]) -> Result<(), SysError> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut rest = records;
        if self.torn {
            // One line is lost; without this the first of ours would be lost with it.
            file.write_all(b"\n").map_err(|error| self.error("write", error))?;
            self.size += 1;
            self.torn = false;
        }
        while !rest.is_empty() {
            let Some(file) = &mut self.file else { return Ok(()) };
            match file.write(rest) {
                Ok(count) => {
                    self.size += count as u64;
                    self.torn = rest[..count].last() != Some(&b'\n');
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("write", error)),
            }
        }
        Ok(())
    }

    /// Moves every file one further, the last one out, and begins a new one.
    ///
    /// # Errors
    /// `SysError` of rename(2), or of open(2) for the new one.
    pub fn rotate(&mut self) -> Result<(), SysError> {
        self.is_begun = true;
        let oldest = self.policy.files.saturating_sub(1);
        if oldest > 0 {
            let _ = remove_age(&self.dir, &self.name, oldest);
        }
        for age in (1..oldest).rev() {
            move_age(&self.dir, &self.name, age, age + 1);
        }
        let current = path(&self.dir, &self.name, 0);
        let moved = match oldest {
            0 => fs::remove_file(&current),
            _ => fs::rename(&current, path(&self.dir, &self.name, 1)),
        };
        match moved {
            // Already gone, by somebody else's hand.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The bound holds, come what may.
                let emptied = self.file.as_ref().map_or(Ok(()), |file| file.set_len(0));
                self.size = if emptied.is_ok() { 0 } else { self.size };
                Err(self.error("rename", error))
            }
            _ => self.reopen(),
        }
    }

    /// Removes rotated files that are more than there may be.
    fn remove_surplus(&self) {
        let surplus = self.policy.files.max(1)..;
        for age in surplus {
            if !remove_age(&self.dir, &self.name, age).unwrap_or(false) {
                return;
            }
        }
    }

    /// Finds out how an existing file ends.
    fn look_back(&mut self, file: &mut File) -> io::Result<()> {
        self.size = file.metadata()?.len();
        let mut end = Vec::new();
        file.seek(SeekFrom::Start(self.size.saturating_sub(LOOK_BACK)))?;
        file.take(LOOK_BACK).read_to_end(&mut end)?;
        self.torn = end.last().is_some_and(|&byte| byte != b'\n');
        for record in end.split(|&byte| byte == b'\n').filter_map(decode) {
            self.unfinished[record.stream as usize] = record.partial;
        }
        Ok(())
    }

    fn error(&self, call: &'static str, error: io::Error) -> SysError {
        SysError::new(call, format!("{:?}", path(&self.dir, &self.name, 0).display()), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_reported_once_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let policy = LogPolicy { max_size: 1000, files: 2, ..LogPolicy::default() };
        let mut writer = LogWriter::open(dir.path(), "web", policy).unwrap();
        writer.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
        let error = writer.write(Stream::Stdout, b"lost\n", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((error.call, error.symbol().as_str()), ("write", "ENOSPC"));
        assert_eq!(writer.write(Stream::Stdout, b"lost, too\n", Timestamp::UNIX_EPOCH), None);
        assert_eq!(writer.written().lines, 0);
        assert_eq!(
            writer.written().dropped,
            2 * "1970-01-01T00:00:00.000000Z stdout F lost\n".len() as u64 + 5
        );
        writer.reopen().unwrap();
        assert_eq!(writer.write(Stream::Stdout, b"kept\n", Timestamp::UNIX_EPOCH), None);
        writer.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
        assert!(writer.write(Stream::Stdout, b"lost again\n", Timestamp::UNIX_EPOCH).is_some());
        let text = fs::read_to_string(dir.path().join("web.log")).unwrap();
        assert_eq!((writer.written().lines, writer.written().bytes), (1, text.len() as u64));
        assert_eq!(text, "1970-01-01T00:00:00.000000Z stdout F kept\n");
    }
}
