//! The line of a service's output that says that it is ready. Pure.

use regex_lite::{Regex, RegexBuilder};

/// As much of a line as is looked at.
const LINE_MAX: usize = 4096;

/// Looks for a line that matches in what comes in pieces, on two streams.
#[derive(Debug)]
pub(super) struct Watch {
    pattern: Regex,
    /// Of each stream, the line that has not ended yet, as far as it is looked at.
    lines: [Vec<u8>; 2],
}

impl Watch {
    /// None: the pattern is none, which resolution has made sure of.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let pattern = RegexBuilder::new(pattern).size_limit(crate::spec::probe::PATTERN_SIZE).build().ok()?;
        Some(Self { pattern, lines: [Vec::new(), Vec::new()] })
    }

    /// Takes what was written to a stream. Whether a line that has ended matches.
    pub(super) fn feed(&mut self, stream: usize, bytes: &[u8]) -> bool {
        let mut found = false;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let line = &mut self.lines[stream];
            let room = LINE_MAX.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                found |= self.pattern.is_match(&String::from_utf8_lossy(line));
                self.lines[stream].clear();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_matched_however_it_comes_in() {
        let mut watch = Watch::new("^ready on [0-9]+$").expect("a pattern");
        assert!(!watch.feed(0, b"not ready on 80\nrea"));
        assert!(!watch.feed(1, b"dy on 80\n"), "the streams are two");
        assert!(!watch.feed(0, b"dy on 80"), "a line that goes on may not match");
        assert!(watch.feed(0, b"\nmore\n"));
        assert!(!watch.feed(0, b"\xff\xfe\n"), "no text at all");
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_is_looked_at() {
        let mut watch = Watch::new("end").expect("a pattern");
        for _ in 0..1000 {
            assert!(!watch.feed(0, &[b'x'; 65536]));
        }
        assert_eq!(watch.lines[0].len(), LINE_MAX);
        assert!(!watch.feed(0, b"end\n"), "beyond what is looked at");
        assert!(watch.feed(0, b"end\n"));
    }
}
