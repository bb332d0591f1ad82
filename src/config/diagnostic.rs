//! What is wrong with a file, and where: data for `report` to render, for `--json` to print, for tests to compare.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The service does not start on this file.
    Error,
    /// Worth a look; nothing is refused.
    Warning,
    /// Said once, so that nobody can say he did not know; nothing is wrong.
    Note,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    #[serde(flatten)]
    pub at: Location,
    /// What is wrong: lower case, no period.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Other places that have to do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// Another place that has to do with a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where.
    #[serde(flatten)]
    pub at: Location,
    /// What is there.
    pub message: String,
}

/// A file, and the place in it where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as the operator named it, or as it was found.
    #[serde(serialize_with = "as_text")]
    pub file: PathBuf,
    /// None: the file as a whole.
    #[serde(flatten)]
    pub place: Option<Place>,
}

/// A path need not be UTF-8; JSON has to be.
fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// A stretch of one line; longer stretches end with their first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// One past the last character; equal to `column` where there is nothing to point at, as at the end of a file.
    pub end_column: usize,
    /// The whole line, for the rendering.
    #[serde(skip)]
    pub text: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match &self.place {
            Some(place) => write!(f, ":{}:{}", place.line, place.column),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

impl Diagnostic {
    /// An error about a file as a whole.
    pub fn about(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::at(Location { file: file.into(), place: None }, message)
    }

    /// An error at a place.
    pub fn at(at: Location, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, at, message: message.into(), hint: None, notes: Vec::new() }
    }

    /// The same as something to know, not a mistake.
    #[must_use]
    pub fn noted(mut self) -> Self {
        self.severity = Severity::Note;
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds another place that has to do with it.
    #[must_use]
    pub fn note(mut self, at: Location, message: impl Into<String>) -> Self {
        self.notes.push(Note { at, message: message.into() });
        self
    }
}

/// The first of some mistakes and what to do about it, on one line, and how many more there are: for where there is no room
/// for all of them. Empty: there is none.
pub fn in_a_line(found: &[Diagnostic]) -> String {
    /// A longer hint is for `palisade check`.
    const SHORT: usize = 80;
    let Some(first) = found.first() else { return String::new() };
    let hint = first.hint.as_deref().filter(|hint| hint.len() <= SHORT);
    let hint = hint.map_or(String::new(), |hint| format!(" ({hint})"));
    let more = match found.len() {
        1 => String::new(),
        all => format!(", and {} more", all - 1),
    };
    format!("{first}{hint}{more}")
}

/// The texts of one service, laid end to end, so that a span names the file as well: its file, its drop-ins, and what
/// lies below them.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    texts: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    path: PathBuf,
    text: String,
    base: usize,
    layer: Layer,
}

/// What a text is to a service; a later layer wins over an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The table `defaults` of a text.
    Defaults,
    /// A profile.
    Profile,
    /// The service's file and its drop-ins, in the order of adding.
    Own,
}

impl SourceMap {
    /// Adds the service's file, then each of its drop-ins; the spans of the text are to be moved up by the number that
    /// comes back.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> usize {
        self.add_layer(Layer::Own, path, text)
    }

    /// As [`SourceMap::add`], of any layer.
    pub fn add_layer(&mut self, layer: Layer, path: impl Into<PathBuf>, text: impl Into<String>) -> usize {
        // The end of a text is a place of its own (an unclosed string ends there), hence the 1.
        let base = self.texts.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.texts.push(Source { path: path.into(), text: text.into(), base, layer });
        base
    }

    /// Every text with its layer and the number that its spans are moved up by, the lowest layer first.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, usize, &str)> {
        let mut sources: Vec<&Source> = self.texts.iter().collect();
        // Stable: drop-ins stay in their order.
        sources.sort_by_key(|source| source.layer);
        sources.into_iter().map(|source| (source.layer, source.base, source.text.as_str()))
    }

    /// The service's file and its drop-ins.
    pub fn own(&self) -> impl Iterator<Item = (&Path, &str)> {
        let own = self.texts.iter().filter(|source| source.layer == Layer::Own);
        own.map(|source| (source.path.as_path(), source.text.as_str()))
    }

    /// Those alone, with nothing below them.
    #[must_use]
    pub fn own_alone(&self) -> Self {
        let mut alone = Self::default();
        for (path, text) in self.own() {
            alone.add(path, text);
        }
        alone
    }

    /// What is written at a span.
    pub fn text(&self, span: &Range<usize>) -> &str {
        let source = self.texts.iter().rfind(|source| source.base <= span.start);
        let cut = |source: &'_ Source| span.start - source.base..span.end - source.base;
        source.and_then(|source| source.text.get(cut(source))).unwrap_or_default()
    }

    /// Whether there is no text yet.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The file that the service is named after.
    pub fn first_path(&self) -> PathBuf {
        self.texts.first().map(|source| source.path.clone()).unwrap_or_default()
    }

    /// The file and line that `span` points to; a span outside of every text names the first file as a whole.
    pub fn locate(&self, span: &Range<usize>) -> Location {
        let source = self.texts.iter().rfind(|source| source.base <= span.start);
        let Some(source) = source.or(self.texts.first()) else {
            return Location { file: PathBuf::new(), place: None };
        };
        let start = span.start.saturating_sub(source.base);
        let end = span.end.saturating_sub(source.base).max(start);
        Location { file: source.path.clone(), place: place(&source.text, start, end) }
    }
}

/// Line and columns of the bytes `start..end` of `text`.
fn place(text: &str, start: usize, end: usize) -> Option<Place> {
    let before = text.get(..start)?;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = &text[line_start..];
    let line_text = rest.split('\n').next().unwrap_or(rest);
    let line_text = line_text.strip_suffix('\r').unwrap_or(line_text);
    let line_end = (line_start + line_text.len()).max(start);
    let marked = text.get(start..end.min(line_end)).unwrap_or("");
    let column = before[line_start..].chars().count() + 1;
    Some(Place {
        line: before.matches('\n').count() + 1,
        column,
        end_column: column + marked.chars().count(),
        text: line_text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_names_the_file_that_it_lies_in() {
        let mut map = SourceMap::default();
        let first = map.add("a.toml", "x = 1\ny = 2\n");
        let second = map.add("b.toml", "é = 3\nzz = 4");
        assert_eq!(first, 0);
        let at = map.locate(&(6..7));
        assert_eq!(at.to_string(), "a.toml:2:1");
        let at = map.locate(&(second + 7..second + 9));
        assert_eq!(at.to_string(), "b.toml:2:1");
        assert_eq!(at.place.as_ref().map(|p| p.end_column), Some(3));
        // Columns are characters, not bytes.
        assert_eq!(map.locate(&(second + 3..second + 4)).to_string(), "b.toml:1:3");
    }

    #[test]
    fn one_line_has_the_first_mistake_what_to_do_and_how_many_more_there_are() {
        let mistake = |hint: &str| Diagnostic::about("a.toml", "unknown key `comand`").hint(hint.to_owned());
        let short = mistake("did you mean `command`?");
        assert_eq!(in_a_line(&[]), "");
        assert_eq!(
            in_a_line(std::slice::from_ref(&short)),
            "a.toml: unknown key `comand` (did you mean `command`?)"
        );
        let long = mistake(&"known here: a, b, c".repeat(9));
        assert_eq!(in_a_line(&[long, short.clone(), short]), "a.toml: unknown key `comand`, and 2 more");
    }

    #[test]
    fn the_end_of_a_text_belongs_to_it() {
        let mut map = SourceMap::default();
        map.add("a.toml", "x = \"");
        map.add("b.toml", "");
        assert_eq!(map.locate(&(5..5)).to_string(), "a.toml:1:6");
        assert_eq!(map.locate(&(6..6)).to_string(), "b.toml:1:1");
    }

    #[test]
    fn a_long_stretch_ends_with_its_first_line() {
        let mut map = SourceMap::default();
        map.add("a.toml", "x = [\r\n 1,\n]\n");
        let place = map.locate(&(4..12)).place.unwrap();
        assert_eq!((place.line, place.column, place.end_column), (1, 5, 6));
        assert_eq!(place.text, "x = [");
    }
}
