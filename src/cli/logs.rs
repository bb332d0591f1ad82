//! `palisade logs`: which lines of a service's output are shown, and how.
//!
//! The supervisor gives what a span of time has, whole; levels and patterns are looked for here. A pattern may be dear, and
//! whoever asks pays for it, not everybody's supervisor.
//!
//! Levels, patterns and times are read as journalctl(1) reads them.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    io,
    ops::RangeInclusive,
};

use jiff::{Span, Timestamp, ToSpan, ZonedDateTime, civil, tz::TimeZone};
use regex_lite::{Regex, RegexBuilder};
use serde::Serialize;

use super::{Exit, LogOptions, Output, output, show, verbs};
use crate::{
    config::{schema::Scalar, value::parse_duration},
    control::{
        client::{CallError, Client},
        proto::{Logs, Method},
        types::{LogEntries, LogEntry, Stream},
    },
};

/// Lines of the past where nothing else bounds them.
const LINES: u32 = 100;
/// The levels of syslog(3), the most urgent one first.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// Of a line that does not say its own.
const INFO: u8 = 6;

/// Reads a number of lines; none: `all` of them.
pub(super) fn lines(text: &str) -> Result<Lines, String> {
    match text {
        "all" => Ok(Lines(None)),
        text => text.parse().map(|lines| Lines(Some(lines))).map_err(|_| "a number, or `all`".to_owned()),
    }
}

/// So many lines of the past; none: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines(Option<u32>);

impl Lines {
    /// The number; none: all.
    pub(super) fn most(self) -> Option<u32> {
        self.0
    }
}

/// Reads a level, `err` or `3`, which stands for itself and all that are more urgent, or a range, `info..err`.
pub(super) fn levels(text: &str) -> Result<RangeInclusive<u8>, String> {
    let level = |text: &str| {
        let names = LEVELS.iter().position(|name| *name == text);
        let number = text.parse().ok().filter(|number| *number < LEVELS.len());
        let level = names.or(number).and_then(|level| u8::try_from(level).ok());
        level.ok_or_else(|| format!("{text:?} is no level: one of {}, or 0 to 7", LEVELS.join(", ")))
    };
    match text.split_once("..") {
        None => Ok(0..=level(text)?),
        Some((one, other)) => {
            let (one, other) = (level(one)?, level(other)?);
            Ok(one.min(other)..=one.max(other))
        }
    }
}

/// Reads a point in time as systemd.time(7) has them, into microseconds since 1970.
pub(super) fn time(text: &str) -> Result<i64, String> {
    moment(text.trim(), &ZonedDateTime::now()).map(Timestamp::as_microsecond).ok_or_else(|| {
        "a time such as \"2026-11-29 07:00\", \"07:00\", \"-1h\", \"2h ago\", \"today\", \"yesterday\", \"@1790000000\" \
         or \"2026-11-29T07:00:00Z\""
            .to_owned()
    })
}

/// The same at a certain time in a certain place.
fn moment(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let span = |text: &str| {
        let span = parse_duration(&Scalar::Text(text.to_owned())).ok().flatten()?;
        Span::try_from(span).ok()
    };
    let day = |days: i64| Some(now.checked_add(days.days()).ok()?.start_of_day().ok()?.timestamp());
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return day(0),
        "yesterday" => return day(-1),
        "tomorrow" => return day(1),
        _ => {}
    }
    if let Some(seconds) = text.strip_prefix('@') {
        return Timestamp::from_second(seconds.parse().ok()?).ok();
    }
    if let Some(past) = text.strip_prefix('-').or(text.strip_suffix("ago")) {
        return now.timestamp().checked_sub(span(past)?).ok();
    }
    if let Some(future) = text.strip_prefix('+') {
        return now.timestamp().checked_add(span(future)?).ok();
    }
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let with_zone = text.rsplit_once(' ').and_then(|(text, zone)| Some((text, TimeZone::get(zone).ok()?)));
    let (text, zone) = with_zone.unwrap_or_else(|| (text, now.time_zone().clone()));
    let civil: civil::DateTime = match text.parse::<civil::Time>() {
        Ok(time) if !text.contains('-') => now.with_time_zone(zone.clone()).date().to_datetime(time),
        _ => text.parse().ok()?,
    };
    zone.to_timestamp(civil).ok()
}

/// Asks for the output of services, and shows it.
pub(super) fn logs(client: &mut Client, options: LogOptions, json: bool) -> Result<Exit, CallError> {
    let is_plain_name = |name: &String| !name.contains(['*', '?', '[']);
    let names = options.names.names;
    let with_name = names.len() > 1 || !names.iter().all(is_plain_name);
    let is_bounded = options.since.is_some() || options.until.is_some() || options.grep.is_some();
    let Lines(lines) = options.lines.unwrap_or(Lines((!is_bounded).then_some(LINES)));
    let is_choice = options.grep.is_some() || options.priority.is_some();
    let wanted = Logs {
        names,
        // The last of those that are chosen: all have to be looked at.
        lines: lines.filter(|_| !is_choice),
        follow: options.follow,
        since: options.since,
        until: options.until,
    };
    let zone = options.times.zone();
    let output = if json { Output::Json } else { options.output };
    let is_empty = Cell::new(true);
    let show = |line: &Line| {
        is_empty.set(false);
        match output {
            Output::Json => output::json_line(&line.object()),
            _ if options.raw => output::raw(&line.as_written(), !line.entry.partial),
            Output::Short => output::print(&show::log_line(&line.entry, with_name, line.level, &zone)),
            Output::Cat => output::print(&format!("{}\n", output::escape(&line.entry.text))),
        }
    };
    let mut levels = Levels::default();
    let mut held = lines.filter(|_| is_choice).map(Last::new);
    let mut shown = Ok(());
    client.call_more(&Method::Logs(wanted), |LogEntries { entries, is_past_over }| {
        let chosen = entries.into_iter().map(|entry| levels.read(entry)).filter(|line| {
            options.priority.as_ref().is_none_or(|levels| levels.contains(&line.level))
                && options.grep.as_ref().is_none_or(|grep| grep.is_match(&line.entry.text))
        });
        shown = match &mut held {
            Some(last) => {
                chosen.for_each(|line| last.push(line));
                io::Result::Ok(())
            }
            None => chosen.into_iter().try_for_each(|line| show(&line)),
        };
        if is_past_over && let Some(last) = held.take() {
            shown = last.into_lines().iter().try_for_each(show);
        }
        verbs::go_on(&shown)
    })?;
    // Whoever reads them himself would wonder.
    if is_empty.get() && !options.follow && !options.raw && output == Output::Short {
        output::aside("-- no lines --");
    }
    Ok(verbs::done(shown))
}

/// Reads `--grep`: a pattern without capital letters is found in any case, as journalctl(1) has it.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let is_any_case = !text.contains(char::is_uppercase);
    RegexBuilder::new(text).case_insensitive(is_any_case).build().map_err(|error| {
        format!("{error}; a regular expression such as \"timed? out\" is wanted, with a \\ before what is meant as it is")
    })
}

/// A line of output, with the level that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Without the level.
    pub(super) entry: LogEntry,
    pub(super) level: u8,
    /// It was written before the text.
    has_prefix: bool,
}

/// A line for programs.
#[derive(Debug, Serialize)]
struct Object<'a> {
    /// RFC 3339, UTC, microseconds.
    time: &'a str,
    unit: &'a str,
    stream: Stream,
    /// As syslog(3) names it.
    level: &'static str,
    /// The line goes on in the next one of the same unit and stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    text: &'a str,
}

impl Line {
    fn object(&self) -> Object<'_> {
        let LogEntry { name, time, stream, partial, text } = &self.entry;
        let level = LEVELS[usize::from(self.level)];
        Object { time, unit: name, stream: *stream, level, partial: *partial, text }
    }

    fn as_written(&self) -> String {
        match self.has_prefix {
            true => format!("<{}>{}", self.level, self.entry.text),
            false => self.entry.text.clone(),
        }
    }
}

/// The levels of lines that are so long that they come in parts.
#[derive(Debug, Default)]
pub(super) struct Levels(BTreeMap<(String, Stream), u8>);

impl Levels {
    /// Takes the level off a line: `<3>` at its beginning, as sd-daemon(3) has it.
    pub(super) fn read(&mut self, mut entry: LogEntry) -> Line {
        let key = (entry.name.clone(), entry.stream);
        let begun = self.0.remove(&key);
        let own = match entry.text.as_bytes() {
            [b'<', level @ b'0'..=b'7', b'>', ..] if begun.is_none() => Some(level - b'0'),
            _ => None,
        };
        if own.is_some() {
            entry.text.drain(..3);
        }
        let level = begun.or(own).unwrap_or(INFO);
        if entry.partial {
            self.0.insert(key, level);
        }
        Line { entry, level, has_prefix: own.is_some() }
    }
}

/// The last lines of each service.
#[derive(Debug)]
struct Last {
    most: usize,
    lines: BTreeMap<String, VecDeque<Line>>,
}

impl Last {
    fn new(most: u32) -> Self {
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), lines: BTreeMap::new() }
    }

    fn push(&mut self, line: Line) {
        let lines = self.lines.entry(line.entry.name.clone()).or_default();
        lines.push_back(line);
        if lines.len() > self.most {
            lines.pop_front();
        }
    }

    fn into_lines(self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.lines.into_values().flatten().collect();
        lines.sort_by(|one, other| one.entry.time.cmp(&other.entry.time));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: &str, partial: bool, text: &str) -> LogEntry {
        let (name, time) = ("web".to_owned(), time.to_owned());
        LogEntry { name, time, stream: Stream::Stderr, partial, text: text.to_owned() }
    }

    #[test]
    fn times_are_read_as_journalctl_reads_them() {
        let now: ZonedDateTime = "2026-11-29T08:30:15.25+01:00[Europe/Berlin]".parse().unwrap();
        for (text, expected) in [
            ("now", "2026-11-29T07:30:15.25Z"),
            ("today", "2026-11-28T23:00:00Z"),
            ("yesterday", "2026-11-27T23:00:00Z"),
            ("tomorrow", "2026-11-29T23:00:00Z"),
            ("-1h", "2026-11-29T06:30:15.25Z"),
            ("-1h 30min", "2026-11-29T06:00:15.25Z"),
            ("2d ago", "2026-11-27T07:30:15.25Z"),
            ("+5s", "2026-11-29T07:30:20.25Z"),
            ("2026-11-29 07:00", "2026-11-29T06:00:00Z"),
            ("2026-11-29 07:00:01.5", "2026-11-29T06:00:01.5Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z"),
            ("07:00", "2026-11-29T06:00:00Z"),
            ("07:00:30 UTC", "2026-11-29T07:00:30Z"),
            ("2026-11-29 07:00 UTC", "2026-11-29T07:00:00Z"),
            ("2026-11-29 07:00 America/New_York", "2026-11-29T12:00:00Z"),
            ("2026-11-29T07:00:00Z", "2026-11-29T07:00:00Z"),
            ("2026-11-29T07:00:00-05:00", "2026-11-29T12:00:00Z"),
            ("@86400", "1970-01-02T00:00:00Z"),
        ] {
            assert_eq!(moment(text, &now), Some(expected.parse().unwrap()), "{text}");
        }
        for bad in [
            "",
            "-",
            "ago",
            "soon",
            "-infinity",
            "2026-13-01",
            "25:00",
            "@x",
            "1h",
            "2026-11-29 07:00 Nowhere",
        ] {
            assert_eq!(moment(bad, &now), None, "{bad}");
        }
    }

    #[test]
    fn a_level_means_itself_and_what_is_more_urgent() {
        for (text, expected) in
            [("err", 0..=3), ("3", 0..=3), ("debug", 0..=7), ("info..warning", 4..=6), ("2..2", 2..=2)]
        {
            assert_eq!(levels(text), Ok(expected), "{text}");
        }
        for bad in ["", "8", "error", "err..", "-1"] {
            assert!(levels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_without_capitals_is_found_in_any_case() {
        let is_found = |text: &str| pattern(text).unwrap().is_match("GET /health Timed out");
        assert!(is_found("^get") && is_found("timed? out$") && is_found("Timed") && is_found("GET|POST"));
        assert!(!is_found("Get") && !is_found("TIMED") && !is_found("/ health"));
        let refused = pattern("(a").unwrap_err();
        assert!(refused.contains("a regular expression such as"), "{refused}");
        // What a matcher that goes back would need longer for than anybody lives.
        assert!(!pattern("^(a+)+$").unwrap().is_match(&format!("{}!", "a".repeat(10_000))));
    }

    #[test]
    fn a_line_for_programs_has_its_level_by_name() {
        let line = Levels::default().read(entry("1", true, "<2>text"));
        let expected =
            r#"{"time":"1","unit":"web","stream":"stderr","level":"crit","partial":true,"text":"text"}"#;
        assert_eq!(serde_json::to_string(&line.object()).unwrap(), expected);
    }

    #[test]
    fn a_line_in_parts_has_one_level() {
        let mut levels = Levels::default();
        let mut read = |partial, text: &str| {
            let line = levels.read(entry("1", partial, text));
            assert_eq!(line.as_written(), text);
            (line.level, line.entry.text)
        };
        assert_eq!(read(false, "<3>broken"), (3, "broken".to_owned()));
        assert_eq!(read(false, "plain"), (INFO, "plain".to_owned()));
        assert_eq!(read(true, "<4>long"), (4, "long".to_owned()));
        assert_eq!(read(true, "<7>er"), (4, "<7>er".to_owned()));
        assert_eq!(read(false, "its end"), (4, "its end".to_owned()));
        for no_level in ["<8>", "<33>", "<3", "<>", "< 3>", "a<3>"] {
            assert_eq!(read(false, no_level), (INFO, no_level.to_owned()));
        }
    }

    #[test]
    fn the_last_of_each_service_come_in_the_order_of_time() {
        let mut last = Last::new(2);
        let mut levels = Levels::default();
        for (time, name) in [("1", "web"), ("2", "db"), ("3", "web"), ("4", "web")] {
            last.push(levels.read(LogEntry { name: name.to_owned(), ..entry(time, false, "") }));
        }
        let times: Vec<String> = last.into_lines().into_iter().map(|line| line.entry.time).collect();
        assert_eq!(times, ["2", "3", "4"]);
    }
}
