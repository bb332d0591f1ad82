//! What services write, and log files that somebody has been at: every line comes back as it was written, and whatever a file
//! holds can be read.
//!
//! Each input is taken twice: as the output of a service, cut into writes, and as the log files themselves.

#![no_main]

use std::{fs, path::PathBuf};

use libfuzzer_sys::fuzz_target;
use palisade::{
    control::types::Stream,
    logs::{self, Follower, LogWriter, Squeeze, Wanted},
    spec::LogPolicy,
};

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let dir = PathBuf::from(format!("/dev/shm/palisade-fuzz-logs.{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    written(&dir.join("a"), *first, rest);
    found(&dir.join("b"), *first, rest);
    let _ = fs::remove_dir_all(&dir);
});

fn seeds() {
    let mut file = b"\x10".to_vec();
    let tags =
        [(Stream::Stdout, false), (Stream::Stderr, true), (Stream::Stdout, true), (Stream::Stderr, false)];
    for (stream, partial) in tags {
        let record = logs::Record { time: "2024-05-06T07:08:09.123456Z", stream, partial, text: b"a line" };
        logs::encode(&mut file, &record);
    }
    palisade_fuzz::seed("logs", "file", &file);
    palisade_fuzz::seed("logs", "rotated", &[&file[..], b"\0", &file[1..]].concat());
    palisade_fuzz::seed("logs", "output", b"\xffone\ntwo\n\xff\xfe\n\nlast");
}

/// A follower from the beginning sees what was written, over rotations.
fn written(dir: &std::path::Path, first: u8, bytes: &[u8]) {
    let size = usize::from(first) / 4 + 1;
    // So many files that nothing is rotated away, each write costing a time stamp and a tag.
    let total = bytes.len() + (bytes.len() / size + bytes.split(|byte| *byte == b'\n').count()) * 40;
    let policy = LogPolicy { max_size: (total as u64 / 8).max(u64::from(first) * 16 + 64), files: 30, ..LogPolicy::default() };
    let mut writer = LogWriter::open(dir, "web", policy).expect("an empty directory");
    let follow = first & 1 == 0;
    let mut follower = Follower::open(dir, &["web"], &Wanted { lines: Some(0), follow, ..Wanted::default() })
        .expect("a log");
    let now = "2024-05-06T07:08:09.123456Z".parse().expect("a time");
    let mut seen = Vec::new();
    for (n, piece) in bytes.chunks(size).enumerate() {
        assert_eq!(writer.write(Stream::Stdout, piece, now), None);
        if n % 3 == 0 && follower.wrote("web") {
            seen.extend(follower.read().expect("a log").entries);
        }
        if n % 7 == 6 {
            squeeze(dir);
        }
    }
    assert_eq!(writer.finish(now), None);
    drop(writer);
    if !follower.wrote("web") {
        follower = Follower::open(dir, &["web"], &Wanted::default()).expect("a log");
    }
    loop {
        let batch = follower.read().expect("a log");
        seen.extend(batch.entries);
        if !batch.more {
            break;
        }
    }
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    // Longer ones come in parts.
    if lines.iter().all(|line| line.len() < logs::TEXT_MAX) {
        let seen: Vec<&str> = seen.iter().map(|entry| &*entry.text).collect();
        let lines: Vec<String> =
            lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert_eq!(seen, lines);
    }
}

/// Compresses what there is to compress.
fn squeeze(dir: &std::path::Path) {
    while let Some(mut squeeze) = Squeeze::begin(dir, "web", 30).expect("a log") {
        while !squeeze.step().expect("memory") {}
    }
}

/// Whatever stands in the files.
fn found(dir: &std::path::Path, first: u8, bytes: &[u8]) {
    fs::create_dir_all(dir).expect("a directory");
    for (age, part) in bytes.split(|byte| *byte == 0).take(4).enumerate() {
        fs::write(logs::path(dir, "web", u32::try_from(age).expect("at most 3")), part).expect("memory");
    }
    let age = bytes.split(|byte| *byte == 0).take(4).count();
    fs::write(dir.join(format!("web.log.{age}.gz")), bytes).expect("memory");
    for lines in [0, 1, u64::from(first), u64::MAX] {
        let entries = logs::tail(dir, "web", lines).expect("files can be read");
        // Beside whole lines there may be an unfinished one of each stream.
        assert!(entries.iter().filter(|entry| !entry.partial).count() as u64 <= lines);
    }
    let policy = LogPolicy { max_size: 1 << 20, files: 8, ..LogPolicy::default() };
    let mut writer = LogWriter::open(dir, "web", policy).expect("a log");
    let now = "2024-05-06T07:08:09.123456Z".parse().expect("a time");
    assert_eq!(writer.finish(now), None);
    assert_eq!(writer.write(Stream::Stderr, b"after all\n", now), None);
    let last = logs::tail(dir, "web", 1).expect("files can be read");
    assert!(last.iter().any(|entry| entry.text.ends_with("after all")), "{last:?}");
}
