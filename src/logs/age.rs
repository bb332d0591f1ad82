//! How old logs become (`log.max_age`).

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, Timestamp};

use super::{file, reader, squeeze::remove_age};
use crate::spec::LogPolicy;

/// What has come of a look at the files of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When there will be something to do next; none: not before it is written to, or rotated.
    pub next: Option<Timestamp>,
    /// The current file is to be rotated.
    pub is_to_rotate: bool,
}

/// Removes the rotated files whose last line is too old, and says what else there is to do and when.
///
/// Only from the oldest on: after a clock was set, a younger one may seem older, and no reader looks behind a gap.
pub fn look(dir: &Path, name: &str, policy: &LogPolicy, now: Timestamp) -> Look {
    let (Some(max_age), Some(rotate_after)) = (policy.max_age, policy.rotate_after()) else {
        return Look::default();
    };
    let changed = |path: &PathBuf| fs::symlink_metadata(path).and_then(|file| file.modified()).ok();
    let changed = |age| file::paths(dir, name, age).iter().find_map(changed);
    let last: Vec<SystemTime> = (1..policy.files.max(2)).map_while(changed).collect();
    let mut next = None;
    for (age, last) in (1..).zip(last).collect::<Vec<_>>().into_iter().rev() {
        next = Timestamp::try_from(last).ok().and_then(|last| later(last, max_age));
        if next.is_none_or(|next| next > now) {
            break;
        }
        next = None;
        if let Err(error) = remove_age(dir, name, age) {
            tracing::error!(unit = name, "an old log stays: {error}");
            break;
        }
    }
    let rotate = reader::begins(dir, name).and_then(|first| later(first, rotate_after));
    let is_to_rotate = rotate.is_some_and(|at| at <= now);
    Look { next: next.into_iter().chain(rotate.filter(|_| !is_to_rotate)).min(), is_to_rotate }
}

/// None: beyond all time.
fn later(time: Timestamp, span: Duration) -> Option<Timestamp> {
    time.checked_add(SignedDuration::try_from(span).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Record, Stream, encode, path, record::stamp};

    const HOUR: i64 = 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A log of one line of a time, with that of its last change.
    fn put(dir: &Path, age: u32, first: i64, last: i64) {
        let mut text = Vec::new();
        let time = stamp(at(first));
        encode(&mut text, &Record { time: &time, stream: Stream::Stdout, partial: false, text: b"x" });
        fs::write(path(dir, "web", age), text).unwrap();
        let file = fs::File::options().write(true).open(path(dir, "web", age)).unwrap();
        let last = Duration::from_secs(u64::try_from(last).unwrap());
        file.set_modified(SystemTime::UNIX_EPOCH + last).unwrap();
    }

    fn there(dir: &Path) -> Vec<u32> {
        (0..9).filter(|age| path(dir, "web", *age).exists()).collect()
    }

    #[test]
    fn files_whose_last_line_is_too_old_are_removed_when_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let policy = LogPolicy { max_age: Some(Duration::from_secs(4 * 3600)), ..LogPolicy::default() };
        let look = |hour: i64| look(dir.path(), "web", &policy, at(hour * HOUR));
        let rotated = |hour: i64| Look { next: Some(at(hour * HOUR)), is_to_rotate: false };
        assert_eq!(look(100), Look::default(), "there is none");
        for (age, last) in [(1, 109), (2, 108), (3, 107), (4, 106)] {
            put(dir.path(), age, (last - 1) * HOUR, last * HOUR);
        }
        assert_eq!((look(109), there(dir.path())), (rotated(110), vec![1, 2, 3, 4]));
        assert_eq!((look(110), there(dir.path())), (rotated(111), vec![1, 2, 3]));
        assert_eq!((look(112), there(dir.path())), (rotated(113), vec![1]));
        assert_eq!((look(113), there(dir.path())), (Look::default(), vec![]));
    }

    #[test]
    fn the_current_file_is_rotated_so_long_after_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let policy = LogPolicy { max_age: Some(Duration::from_secs(4 * 3600)), ..LogPolicy::default() };
        put(dir.path(), 0, 100 * HOUR, 300 * HOUR);
        let see = |policy: &LogPolicy, hour: i64| look(dir.path(), "web", policy, at(hour * HOUR));
        assert_eq!(see(&policy, 100), Look { next: Some(at(101 * HOUR)), is_to_rotate: false });
        assert_eq!(see(&policy, 101), Look { next: None, is_to_rotate: true });
        let single = LogPolicy { files: 1, ..policy.clone() };
        assert_eq!(see(&single, 101), Look { next: Some(at(104 * HOUR)), is_to_rotate: false });
        let endless = LogPolicy { max_age: None, ..policy };
        assert_eq!(see(&endless, 1_000_000), Look::default());
    }

    #[test]
    fn a_clock_that_was_set_makes_no_gap() {
        let dir = tempfile::tempdir().unwrap();
        let policy = LogPolicy { max_age: Some(Duration::from_secs(4 * 3600)), ..LogPolicy::default() };
        put(dir.path(), 1, HOUR, HOUR);
        put(dir.path(), 2, 100 * HOUR, 100 * HOUR);
        let seen = look(dir.path(), "web", &policy, at(101 * HOUR));
        assert_eq!((seen.next, there(dir.path())), (Some(at(104 * HOUR)), vec![1, 2]));
    }
}
