//! One line of a log file. Pure.

use jiff::Timestamp;

use super::Stream;

/// The most bytes of text in one line of a log file: 16 KiB. A longer line of output is written in parts.
pub const TEXT_MAX: usize = 16 << 10;

/// One line of a log file, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When the supervisor read it: RFC 3339, UTC, microseconds.
    pub time: &'a str,
    /// Where the service wrote it to.
    pub stream: Stream,
    /// The line of output goes on in the next record of the same stream.
    pub partial: bool,
    /// As the service wrote it, without the line end.
    pub text: &'a [u8],
}

impl Record<'_> {
    /// The time as a number.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Appends a line to `into`. `text` has no line end in it.
pub fn encode(into: &mut Vec<u8>, record: &Record<'_>) {
    let tag = if record.partial { " P " } else { " F " };
    into.extend_from_slice(record.time.as_bytes());
    into.push(b' ');
    into.extend_from_slice(record.stream.as_str().as_bytes());
    into.extend_from_slice(tag.as_bytes());
    into.extend_from_slice(record.text);
    into.push(b'\n');
}

/// Takes a line apart, given without its end; none if it is no record, such as what a full disk cut off.
pub fn decode(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let (time, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let time = std::str::from_utf8(time).ok()?;
    // The exact form of `stamp`: it makes the text of two times compare as the times do.
    let has_form = time.len() == 27 && time.ends_with('Z') && time.is_ascii();
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match tag {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    (has_form && time.parse::<Timestamp>().is_ok()).then_some(Record { time, stream, partial, text })
}

/// The text of a time in a record.
pub(super) fn stamp(time: Timestamp) -> String {
    format!("{time:.6}")
}
