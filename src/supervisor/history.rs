//! What has happened to services, kept for whoever asks later: `events.jsonl` beside their logs, an object a line.
//!
//! Two files of a bounded size, the older one with `.1` at its end. A line is one write(2), so that a supervisor that is
//! killed leaves whole ones; what cannot be written is missed by nobody but who asks for it.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::control::types::Event;

/// Bytes after which another file is begun: a thousand events or more.
const SIZE: u64 = 512 << 10;

/// The files.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    file: Option<File>,
    is_failing: bool,
}

impl History {
    /// In the directory of the logs; nothing is opened yet.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("events.jsonl"), file: None, is_failing: false }
    }

    /// Somebody may have moved the file away.
    pub(super) fn reopen(&mut self) {
        self.file = None;
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }

    /// Puts an event down.
    pub(super) fn note(&mut self, event: &Event) {
        match self.put(event) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!("{}: events are not kept: {error}", self.path.display());
                }
                self.file = None;
            }
        }
    }

    fn put(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if self.file.is_none() {
            self.file = Some(self.open()?);
        }
        let is_full =
            self.file.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|file| file.len() >= SIZE);
        if is_full {
            fs::rename(&self.path, self.older())?;
            self.file = Some(self.open()?);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(&line))
    }

    fn open(&self) -> io::Result<File> {
        if let Some(dir) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let mut options = OpenOptions::new();
        options.append(true).read(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&self.path)?;
        let (length, mut last) = (file.metadata()?.len(), [b'\n']);
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        if last != [b'\n'] {
            // The disk was full: half a line is lost, and the next one is not.
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    /// The last `most` events that are wanted, the oldest first. What is no event is passed over.
    pub(super) fn past(&self, most: usize, is_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut found = VecDeque::new();
        if most == 0 {
            return Vec::new();
        }
        for path in [self.path.clone(), self.older()] {
            // Absent is as good as empty. A file of somebody else's making is not read without end.
            let text = match fs::metadata(&path) {
                Ok(file) if file.len() <= 2 * SIZE => fs::read_to_string(&path).unwrap_or_default(),
                _ => continue,
            };
            for line in text.lines().rev() {
                if found.len() >= most {
                    return found.into();
                }
                if let Ok(event) = serde_json::from_str::<Event>(line)
                    && is_wanted(&event)
                {
                    found.push_front(event);
                }
            }
        }
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{Moment, ServiceState};

    fn event(run: u64) -> Event {
        Event {
            time: Moment { unix: 1, mono: run },
            name: if run.is_multiple_of(2) { "even" } else { "odd" }.to_owned(),
            kind: "active".to_owned(),
            state: ServiceState::Active,
            run,
            failures: 0,
            until: None,
            exit: None,
            text: "x".repeat(200),
        }
    }

    fn runs(history: &History, most: usize) -> Vec<u64> {
        history.past(most, |event| event.name == "even").iter().map(|event| event.run).collect()
    }

    #[test]
    fn the_last_ones_are_kept_over_supervisors_and_files_and_no_more_than_fit() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("log");
        let mut history = History::new(&logs);
        assert!(runs(&history, 9).is_empty());
        (1..=5).for_each(|run| history.note(&event(run)));
        assert_eq!((runs(&history, 9), runs(&history, 1)), (vec![2, 4], vec![4]));
        // Another one, after one that was cut off.
        let path = logs.join("events.jsonl");
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"time\":").unwrap();
        let mut history = History::new(&logs);
        history.note(&event(6));
        assert_eq!(runs(&history, 9), [2, 4, 6]);
        (7..=8000).for_each(|run| history.note(&event(run)));
        assert_eq!(runs(&history, 3), [7996, 7998, 8000]);
        let size: u64 =
            fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(size > SIZE && size < 2 * SIZE + 1000, "{size}");
        assert_eq!(fs::read_dir(&logs).unwrap().count(), 2);
        let across = runs(&history, 100_000);
        assert!(
            across.len() > 1000 && across.windows(2).all(|pair| pair[1] == pair[0] + 2),
            "no gap between them"
        );
    }

    #[test]
    fn where_nothing_can_be_written_nothing_else_suffers() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let mut history = History::new(&dir.path().join("file/below"));
        history.note(&event(2));
        assert!(history.is_failing && history.past(9, |_| true).is_empty());
    }
}
