use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::spec::LogPolicy;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn writer(dir: &Path, max_size: u64, files: u32) -> LogWriter {
    LogWriter::open(dir, "web", LogPolicy { max_size, files, ..LogPolicy::default() }).unwrap()
}

fn put(writer: &mut LogWriter, text: &str) {
    assert_eq!(writer.write(Stream::Stdout, text.as_bytes(), at(0)), None);
}

fn wanted(lines: u64, follow: bool) -> Wanted {
    Wanted { lines: Some(lines), follow, ..Wanted::default() }
}

/// All that a follower gives until it would wait.
fn all(mut follower: Follower) -> Vec<String> {
    let (mut seen, mut is_past_over) = (Vec::new(), false);
    loop {
        let batch = follower.read().unwrap();
        seen.extend(batch.entries.into_iter().map(|entry| entry.text));
        is_past_over |= batch.is_past_over;
        assert_eq!(is_past_over, !batch.more, "it is said with the last of the past");
        if !batch.more {
            return seen;
        }
    }
}

fn texts(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.text.as_str()).collect()
}

fn last(dir: &Path, lines: u64) -> Vec<String> {
    tail(dir, "web", lines).unwrap().into_iter().map(|entry| entry.text).collect()
}

/// The names in `dir`, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn lines_have_the_form_that_log_shippers_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir.path().join("log"), 10_000, 2);
    let now = "2026-11-23T21:12:50.1234567Z".parse().unwrap();
    assert_eq!(writer.write(Stream::Stdout, b"one\n\ntwo", now), None);
    assert_eq!(writer.write(Stream::Stderr, b"\xff\x1b[31m\n", now), None);
    assert_eq!(writer.write(Stream::Stdout, b" ends\n", now), None);
    let expected = b"2026-11-23T21:12:50.123456Z stdout F one
2026-11-23T21:12:50.123456Z stdout F 
2026-11-23T21:12:50.123456Z stdout P two
2026-11-23T21:12:50.123456Z stderr F \xff\x1b[31m
2026-11-23T21:12:50.123456Z stdout F  ends
";
    assert_eq!(fs::read(writer.path()).unwrap(), expected);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&writer.path()), mode(&dir.path().join("log"))), (0o640, 0o750));
    let entries = tail(&dir.path().join("log"), "web", 10).unwrap();
    assert_eq!(texts(&entries), ["one", "", "\u{fffd}\u{1b}[31m", "two ends"]);
    assert_eq!(entries[2].stream, Stream::Stderr);
}

#[test]
fn a_long_line_is_cut_at_sixteen_kibibytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 1 << 20, 2);
    put(&mut writer, &format!("{}\n", "x".repeat(TEXT_MAX * 2 + 1)));
    let text = fs::read_to_string(writer.path()).unwrap();
    let lengths: Vec<usize> = text.lines().map(|line| decode(line.as_bytes()).unwrap().text.len()).collect();
    assert_eq!(lengths, [TEXT_MAX, TEXT_MAX, 1]);
    let parts: Vec<(bool, usize)> =
        tail(dir.path(), "web", 1).unwrap().iter().map(|entry| (entry.partial, entry.text.len())).collect();
    assert_eq!(parts, [(true, TEXT_MAX), (true, TEXT_MAX), (false, 1)]);
}

#[test]
fn so_many_files_are_kept_and_none_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 200, 3);
    for number in 0..50 {
        put(&mut writer, &format!("line {number}\n"));
    }
    assert_eq!(names(dir.path()), ["web.log", "web.log.1", "web.log.2"]);
    assert!(names(dir.path()).iter().all(|name| fs::metadata(dir.path().join(name)).unwrap().len() <= 200));
    assert_eq!(last(dir.path(), 2), ["line 48", "line 49"]);
    assert_eq!(last(dir.path(), 7).len(), 7, "over the boundary of a file");
    writer.set_policy(LogPolicy { max_size: 200, files: 1, ..LogPolicy::default() });
    put(&mut writer, &"y".repeat(200));
    assert_eq!(names(dir.path()), ["web.log"]);
}

#[test]
fn who_begins_again_goes_on_where_the_last_one_stopped() {
    let dir = tempfile::tempdir().unwrap();
    put(&mut writer(dir.path(), 10_000, 2), "begun by one");
    put(&mut writer(dir.path(), 10_000, 2), ", ended by another\n");
    assert_eq!(last(dir.path(), 5), ["begun by one, ended by another"]);
    put(&mut writer(dir.path(), 10_000, 2), "never ended");
    let mut next = writer(dir.path(), 10_000, 2);
    assert_eq!(next.finish(at(0)), None);
    assert_eq!(next.finish(at(0)), None);
    put(&mut next, "another run\n");
    assert_eq!(last(dir.path(), 2), ["never ended", "another run"]);
}

#[test]
fn a_record_that_was_cut_off_costs_one_line() {
    let dir = tempfile::tempdir().unwrap();
    put(&mut writer(dir.path(), 10_000, 2), "one\n");
    let mut file = fs::OpenOptions::new().append(true).open(dir.path().join("web.log")).unwrap();
    file.write_all(b"1970-01-01T00:00").unwrap();
    put(&mut writer(dir.path(), 10_000, 2), "two\n");
    assert_eq!(last(dir.path(), 5), ["one", "two"]);
}

#[test]
fn a_link_in_place_of_the_file_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("web.log")).unwrap();
    let policy = LogPolicy { max_size: 1000, files: 2, ..LogPolicy::default() };
    assert_eq!(LogWriter::open(dir.path(), "web", policy).unwrap_err().symbol(), "ELOOP");
}

#[test]
fn reopening_begins_the_file_that_was_moved_away_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 10_000, 2);
    put(&mut writer, "old\n");
    fs::rename(writer.path(), dir.path().join("moved")).unwrap();
    writer.reopen().unwrap();
    put(&mut writer, "new\n");
    assert_eq!(last(dir.path(), 5), ["new"]);
    assert!(fs::metadata(dir.path().join("moved")).unwrap().size() > 0);
}

#[test]
fn a_follower_sees_every_line_over_rotations() {
    let dir = tempfile::tempdir().unwrap();
    // Not even the file is there yet.
    let mut follower = Follower::open(dir.path(), &["web"], &wanted(10, true)).unwrap();
    assert!(follower.read().unwrap().entries.is_empty());
    let mut writer = writer(dir.path(), 150, 3);
    for number in 0..20 {
        put(&mut writer, &format!("line {number}\n"));
        assert!(follower.wrote("web") && !follower.wrote("db"));
        let seen = follower.read().unwrap().entries;
        assert_eq!(texts(&seen), [format!("line {number}")]);
    }
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn what_is_followed_of_several_services_comes_in_the_order_of_time() {
    let dir = tempfile::tempdir().unwrap();
    let policy = LogPolicy { max_size: 1000, files: 2, ..LogPolicy::default() };
    for (name, times) in [("web", [1, 3]), ("db", [2, 4])] {
        let mut writer = LogWriter::open(dir.path(), name, policy.clone()).unwrap();
        for time in times {
            assert_eq!(writer.write(Stream::Stdout, format!("{time}\n").as_bytes(), at(time)), None);
        }
    }
    let mut follower = Follower::open(dir.path(), &["db", "web"], &wanted(10, false)).unwrap();
    assert_eq!(texts(&follower.read().unwrap().entries), ["1", "2", "3", "4"]);
}

#[test]
fn much_is_given_in_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 1 << 20, 4);
    for _ in 0..200 {
        put(&mut writer, &format!("{}\n", "z".repeat(9_999)));
    }
    let mut follower = Follower::open(dir.path(), &["web"], &wanted(200, false)).unwrap();
    let (mut count, mut batches) = (0, 0);
    loop {
        let batch = follower.read().unwrap();
        count += batch.entries.len();
        batches += 1;
        if !batch.more {
            break;
        }
    }
    assert_eq!(count, 200);
    assert!(batches > 4, "{batches}");
}

#[test]
fn logs_of_any_length_are_one_in_the_order_of_time() {
    let dir = tempfile::tempdir().unwrap();
    // One writes long lines now and then, the other short ones all the time: of which more than a batch.
    for (name, step, width) in [("web", 1, 100), ("db", 50, 9000)] {
        let policy = LogPolicy { max_size: 100_000, files: 1000, ..LogPolicy::default() };
        let mut writer = LogWriter::open(dir.path(), name, policy).unwrap();
        for time in (0..20_000).step_by(step) {
            let line = format!("{time:05}{}\n", "x".repeat(width));
            assert_eq!(writer.write(Stream::Stdout, line.as_bytes(), at(time)), None);
        }
    }
    let follower = Follower::open(dir.path(), &["db", "web"], &Wanted::default()).unwrap();
    let seen = all(follower);
    assert_eq!(seen.len(), 20_000 + 400);
    assert!(seen.is_sorted_by_key(|text| text[..5].to_owned()));
}

/// Compresses all there is to compress; how many pieces that took.
fn squeeze(dir: &Path) -> usize {
    let mut pieces = 0;
    while let Some(mut squeeze) = Squeeze::begin(dir, "web", 1000).unwrap() {
        while !squeeze.step().unwrap() {
            pieces += 1;
        }
    }
    pieces
}

/// So many lines with their numbers.
const LINES: usize = 6000;

/// A log of them.
fn many(dir: &Path, max_size: u64) -> LogWriter {
    let mut writer = writer(dir, max_size, 1000);
    for number in 0..LINES {
        put(&mut writer, &format!("{number}{}\n", " ".repeat(number * 31 % 197)));
    }
    writer
}

fn numbers(texts: &[String]) -> Vec<usize> {
    texts.iter().map(|text| text.trim().parse().unwrap()).collect()
}

#[test]
fn the_newest_rotated_file_is_not_compressed_and_the_others_are_gzip() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = many(dir.path(), 200_000);
    let before = fs::read(dir.path().join("web.log.2")).unwrap();
    let changed = fs::metadata(dir.path().join("web.log.2")).unwrap().modified().unwrap();
    let count = names(dir.path()).len();
    assert!(count >= 5 && squeeze(dir.path()) >= count - 2);
    assert_eq!(names(dir.path()).len(), count, "nothing else is left");
    assert_eq!(names(dir.path())[..4], ["web.log", "web.log.1", "web.log.2.gz", "web.log.3.gz"]);
    // Whatever reads gzip can read it.
    let file = fs::File::open(dir.path().join("web.log.2.gz")).unwrap();
    let status = file.metadata().unwrap();
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
    assert_eq!(text, before);
    assert_eq!((status.modified().unwrap(), status.permissions().mode() & 0o777), (changed, 0o640));
    assert!(status.len() < before.len() as u64 / 3);
    // They move on and go as others do.
    writer.rotate().unwrap();
    assert_eq!(names(dir.path())[1..5], ["web.log.1", "web.log.2", "web.log.3.gz", "web.log.4.gz"]);
    writer.set_policy(LogPolicy { max_size: 200_000, files: 4, ..LogPolicy::default() });
    assert_eq!(names(dir.path()), ["web.log", "web.log.1", "web.log.2", "web.log.3.gz"]);
    put(&mut writer, "more\n");
    writer.rotate().unwrap();
    assert_eq!(names(dir.path()), ["web.log", "web.log.1", "web.log.2", "web.log.3"]);
}

#[test]
fn a_kill_in_the_midst_leaves_every_line_once() {
    let whole: Vec<usize> = (0..LINES).collect();
    for steps in [0, 1, 2, 7] {
        let dir = tempfile::tempdir().unwrap();
        drop(many(dir.path(), 60_000));
        let mut killed = Squeeze::begin(dir.path(), "web", 1000).unwrap().unwrap();
        for _ in 0..steps {
            if killed.step().unwrap() {
                break;
            }
        }
        drop(killed);
        assert_eq!(numbers(&last(dir.path(), 10_000)), whole, "{steps}");
        squeeze(dir.path());
        assert!(names(dir.path()).iter().all(|name| name.starts_with("web.log")), "{:?}", names(dir.path()));
        assert_eq!(numbers(&last(dir.path(), 10_000)), whole, "{steps}");
    }
    // Between the two last steps: it is there twice.
    let dir = tempfile::tempdir().unwrap();
    drop(many(dir.path(), 60_000));
    fs::copy(dir.path().join("web.log.2"), dir.path().join("kept")).unwrap();
    squeeze(dir.path());
    fs::rename(dir.path().join("kept"), dir.path().join("web.log.2")).unwrap();
    assert_eq!(numbers(&last(dir.path(), 10_000)), whole);
    squeeze(dir.path());
    assert!(!dir.path().join("web.log.2").exists());
    assert_eq!(numbers(&last(dir.path(), 10_000)), whole);
}

#[test]
fn who_reads_a_file_that_is_compressed_meanwhile_misses_nothing() {
    for first in [0, 300, 900, LINES - 1] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = many(dir.path(), 60_000);
        let mut follower =
            Follower::open(dir.path(), &["web"], &wanted((LINES - first) as u64, true)).unwrap();
        // A batch of it, which ends somewhere in a file.
        let batch = follower.read().unwrap();
        assert_eq!(batch.more, first < 3000);
        let mut seen = batch.entries;
        squeeze(dir.path());
        writer.rotate().unwrap();
        put(&mut writer, &format!("{LINES}\n"));
        writer.rotate().unwrap();
        squeeze(dir.path());
        put(&mut writer, &format!("{}\n", LINES + 1));
        follower.wrote("web");
        while let Ok(batch) = follower.read() {
            seen.extend(batch.entries);
            if !batch.more {
                break;
            }
        }
        let texts: Vec<String> = seen.into_iter().map(|entry| entry.text).collect();
        assert_eq!(numbers(&texts), (first..LINES + 2).collect::<Vec<_>>());
    }
}

#[test]
fn who_goes_on_at_a_place_misses_nothing_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = many(dir.path(), 60_000);
    // Nothing is known of the first place: the oldest file comes first.
    let mut first = Follower::resume(dir.path(), "web", Some(Cursor::default())).unwrap();
    let mut seen: Vec<String> = first.read().unwrap().entries.into_iter().map(|entry| entry.text).collect();
    let (place, behind) = first.place();
    assert!((1000..LINES).contains(&seen.len()) && behind == 0, "it ends within a file");
    squeeze(dir.path());
    writer.rotate().unwrap();
    let next = Follower::resume(dir.path(), "web", Some(place)).unwrap();
    assert_eq!(next.place(), (place, 0));
    seen.extend(all(next));
    assert_eq!(numbers(&seen), (0..LINES).collect::<Vec<_>>());
    // Where a line is unfinished, what was given behind its beginning is counted.
    let mut next = Follower::resume(dir.path(), "web", None).unwrap();
    let (before, _) = next.place();
    put(&mut writer, "begun");
    assert_eq!(writer.write(Stream::Stderr, b"one\ntwo\n", at(0)), None);
    assert_eq!(texts(&next.read().unwrap().entries), ["one", "two"]);
    assert_eq!(next.place().1, 2);
    put(&mut writer, ", ended\n");
    let mut again = Follower::resume(dir.path(), "web", Some(next.place().0)).unwrap();
    assert_eq!(texts(&again.read().unwrap().entries)[2..], ["begun, ended"]);
    assert_ne!(again.place().0, before);
}

#[test]
fn a_compressed_file_that_is_broken_costs_what_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    drop(many(dir.path(), 60_000));
    squeeze(dir.path());
    let victim = dir.path().join("web.log.3.gz");
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&victim, &bytes).unwrap();
    let left = numbers(&last(dir.path(), 10_000));
    assert!((LINES - 1000..LINES).contains(&left.len()) && left.is_sorted() && left.ends_with(&[LINES - 1]));
    // No gzip of ours, or none at all.
    for other in [&b""[..], b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", &bytes[..20], &[0xff; 4000]] {
        fs::write(&victim, other).unwrap();
        assert_eq!(numbers(&last(dir.path(), 10_000)).len(), left.len());
    }
}

#[test]
fn a_span_of_time_is_found_in_whatever_file_it_is() {
    for is_compressed in [false, true] {
        find_spans(is_compressed);
    }
}

fn find_spans(is_compressed: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 300_000, 1000);
    for time in 0..20_000 {
        let line = format!("{time}{}\n", " ".repeat(usize::try_from(time).unwrap() % 97));
        assert_eq!(writer.write(Stream::Stdout, line.as_bytes(), at(time)), None);
    }
    assert!(names(dir.path()).len() > 5);
    if is_compressed {
        assert!(squeeze(dir.path()) > 5);
    }
    let span = |lines, since: Option<i64>, until: Option<i64>| {
        let wanted = Wanted { lines, since: since.map(at), until: until.map(at), follow: false };
        let seen = all(Follower::open(dir.path(), &["web"], &wanted).unwrap());
        let seen: Vec<i64> = seen.iter().map(|text| text.trim().parse().unwrap()).collect();
        assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        (seen.first().copied(), seen.len())
    };
    assert_eq!(span(None, None, None), (Some(0), 20_000));
    for since in [0, 1, 2_999, 7_777, 12_345, 19_999] {
        assert_eq!(span(None, Some(since), None), (Some(since), usize::try_from(20_000 - since).unwrap()));
        assert_eq!(span(None, Some(since), Some(since + 1)), (Some(since), 1));
    }
    assert_eq!(span(None, Some(20_000), None), (None, 0));
    assert_eq!(span(None, None, Some(0)), (None, 0));
    assert_eq!(span(Some(10), None, Some(5_000)), (Some(4_990), 10), "the last before the end of the span");
    assert_eq!(span(Some(10), Some(4_995), Some(5_000)), (Some(4_995), 5));
    assert_eq!(span(Some(10), Some(19_995), None), (Some(19_995), 5));
    assert_eq!(span(Some(u64::MAX), Some(19_995), None), (Some(19_995), 5));
    // What comes after the span is not even read: of so large a log that would be more than one batch.
    for lines in [None, Some(10)] {
        let wanted = Wanted { lines, until: Some(at(10)), ..Wanted::default() };
        let batch = Follower::open(dir.path(), &["web"], &wanted).unwrap().read().unwrap();
        assert_eq!((batch.entries.len(), batch.more), (10, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_output_is_cut_the_lines_come_back(
        lines in prop::collection::vec("[^\n]{0,40}", 0..30),
        cuts in prop::collection::vec(1usize..60, 1..40),
        max_size in 50u64..500,
        reads in prop::collection::vec(any::<bool>(), 1..8),
        count in 0u64..40,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), max_size, 1000);
        let mut follower = Follower::open(dir.path(), &["web"], &wanted(0, true)).unwrap();
        let stream: Vec<u8> = lines.iter().flat_map(|line| line.bytes().chain([b'\n'])).collect();
        let (mut rest, mut seen) = (&stream[..], Vec::new());
        for (cut, read) in cuts.iter().cycle().zip(reads.iter().cycle()) {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            prop_assert_eq!(writer.write(Stream::Stdout, piece, at(0)), None);
            rest = after;
            if *read || rest.is_empty() {
                follower.wrote("web");
                seen.extend(follower.read().unwrap().entries);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(texts(&seen), lines.iter().map(String::as_str).collect::<Vec<_>>());
        let first = lines.len().saturating_sub(usize::try_from(count).unwrap());
        prop_assert_eq!(last(dir.path(), count), &lines[first..]);
    }

    #[test]
    fn whatever_is_in_a_log_file_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..400), lines in 0u64..5) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("web.log"), bytes).unwrap();
        prop_assert!(last(dir.path(), lines).len() as u64 <= lines);
    }
}
