//! How many lines of a service's output are taken into its log (`log.rate`). Pure.
//!
//! As with journald, a window of time begins with the first line; those beyond the number are dropped until it is over, and
//! the next line begins another one. The newest lines of a flood are lost, not the oldest; who wants it the other way round
//! sets no rate and lets the files be rotated.

use super::{Stream, record::TEXT_MAX};
use crate::spec::LogRate;

/// What was taken and what was dropped within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it began, in milliseconds.
    pub since: u64,
    /// Lines.
    pub taken: u32,
    /// Lines.
    pub dropped: u64,
    /// Of the dropped ones, those that the log has told of.
    pub told: u64,
    /// Of which output one was dropped last: in the log none of its lines is unfinished.
    pub stream: Stream,
}

/// Where in a line an output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Bytes of the line, or of its part of [`TEXT_MAX`]; 0: a line is to begin.
    pub bytes: u16,
    /// It is dropped.
    pub is_dropped: bool,
}

impl Window {
    /// One in which nothing has come yet.
    pub fn new(now: u64) -> Self {
        Self { since: now, taken: 0, dropped: 0, told: 0, stream: Stream::Stdout }
    }

    /// When it is over.
    pub fn ends(&self, rate: LogRate) -> u64 {
        self.since.saturating_add(u64::try_from(rate.within.as_millis()).unwrap_or(u64::MAX))
    }

    /// How many lines were dropped that nobody was told of.
    pub fn untold(&self) -> u64 {
        self.dropped.saturating_sub(self.told)
    }

    /// What of an output's next bytes goes into the log. A line that is cut off is ended.
    pub fn take(&mut self, rate: LogRate, stream: Stream, place: &mut Place, bytes: &[u8]) -> Vec<u8> {
        let mut taken = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            let is_full = usize::from(place.bytes) == TEXT_MAX;
            if place.bytes == 0 || (is_full && first != b'\n') {
                self.begin(rate, stream, place, &mut taken);
            }
            let room = TEXT_MAX - usize::from(place.bytes);
            let end = rest.iter().take(room + 1).position(|&byte| byte == b'\n');
            let (piece, after) = rest.split_at(end.map_or(room.min(rest.len()), |end| end + 1));
            if !place.is_dropped {
                taken.extend_from_slice(piece);
            }
            // At most TEXT_MAX, which is less than a u16 holds.
            let bytes = usize::from(place.bytes) + piece.len();
            place.bytes = if end.is_some() { 0 } else { u16::try_from(bytes).unwrap_or(u16::MAX) };
            rest = after;
        }
        taken
    }

    /// Decides about a line, or a further part of one.
    fn begin(&mut self, rate: LogRate, stream: Stream, place: &mut Place, taken: &mut Vec<u8>) {
        let is_dropped = self.taken >= rate.lines;
        match is_dropped {
            true => {
                if place.bytes > 0 && !place.is_dropped {
                    taken.push(b'\n');
                }
                self.dropped += 1;
                self.stream = stream;
            }
            false => self.taken += 1,
        }
        *place = Place { bytes: 0, is_dropped };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rate(lines: u32) -> LogRate {
        LogRate { lines, within: Duration::from_secs(30) }
    }

    /// What is taken of pieces of one output, as one text.
    fn taken(window: &mut Window, rate: LogRate, pieces: &[&str]) -> String {
        let mut place = Place::default();
        let mut take = |piece: &&str| window.take(rate, Stream::Stdout, &mut place, piece.as_bytes());
        String::from_utf8(pieces.iter().flat_map(&mut take).collect()).unwrap()
    }

    #[test]
    fn lines_beyond_the_number_are_dropped_and_counted() {
        let mut window = Window::new(1000);
        assert_eq!(taken(&mut window, rate(2), &["one\ntwo\nthree\nfour\n"]), "one\ntwo\n");
        assert_eq!((window.taken, window.untold(), window.ends(rate(2))), (2, 2, 31_000));
        // The beginning of a line decides about all of it, whenever the rest comes.
        let mut window = Window::new(0);
        assert_eq!(taken(&mut window, rate(2), &["a", "b\nc", "d", "\ne", "f\n\ng"]), "ab\ncd\n");
        assert_eq!((window.taken, window.dropped), (2, 3));
    }

    #[test]
    fn both_outputs_count_together() {
        let mut window = Window::new(0);
        let mut places = [Place::default(); 2];
        let mut take = |stream: Stream, text: &str| {
            let bytes = window.take(rate(1), stream, &mut places[stream as usize], text.as_bytes());
            (String::from_utf8(bytes).unwrap(), window.untold(), window.stream)
        };
        assert_eq!(take(Stream::Stdout, "begun"), ("begun".to_owned(), 0, Stream::Stdout));
        assert_eq!(take(Stream::Stderr, "lost\n"), (String::new(), 1, Stream::Stderr));
        assert_eq!(take(Stream::Stdout, ", ended\nlost"), (", ended\n".to_owned(), 2, Stream::Stdout));
    }

    #[test]
    fn a_line_without_end_counts_once_for_each_part_and_is_cut() {
        let part = "x".repeat(TEXT_MAX);
        let mut window = Window::new(0);
        let text = format!("{part}{part}{part}yz\nlast\n");
        assert_eq!(taken(&mut window, rate(2), &[&text]), format!("{part}{part}\n"));
        assert_eq!((window.taken, window.dropped), (2, 3));
        // The end of a line is no part of its own.
        let mut window = Window::new(0);
        assert_eq!(taken(&mut window, rate(1), &[&part, "\n", "lost\n"]), format!("{part}\n"));
        assert_eq!((window.taken, window.dropped), (1, 1));
    }

    proptest! {
        #[test]
        fn how_output_is_cut_changes_nothing(
            lines in prop::collection::vec("[a-z]{0,20}", 0..20),
            cuts in prop::collection::vec(1usize..9, 1..9),
            most in 1u32..20,
        ) {
            let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            let (mut rest, mut pieces) = (text.as_str(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let mut window = Window::new(0);
            let seen = taken(&mut window, rate(most), &pieces);
            let first: String = text.split_inclusive('\n').take(most as usize).collect();
            prop_assert_eq!(seen, first);
            prop_assert_eq!(u64::from(window.taken) + window.dropped, lines.len() as u64);
        }
    }
}
