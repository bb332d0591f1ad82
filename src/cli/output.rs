//! The only place of the command line that prints.
//!
//! Text may come from a service, and a terminal obeys what it is shown: whatever goes out here is escaped, but for the
//! colours that this program puts in itself.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::Exit;
use crate::config::value::nearest;

/// A colour, as the terminal wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
    Dim,
}

impl Colour {
    /// `text` in this colour; text that is not ours is to be escaped before.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Dim => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Prints lines that are safe to show. A reader who has gone away is no mistake of the caller.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints lines that are safe to show. On a terminal those that are wider are folded between words, and go on `indent` columns
/// from its left; what reads a pipe finds each thing on one line.
pub(super) fn print_folded(text: &str, indent: usize) -> io::Result<()> {
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten();
    match size.map(|size| usize::from(size.ws_col)).filter(|width| *width >= 2 * indent) {
        Some(width) => print(&fold(text, indent, width)),
        None => print(text),
    }
}

fn fold(text: &str, indent: usize, width: usize) -> String {
    let indent = " ".repeat(indent);
    let options = textwrap::Options::new(width)
        .subsequent_indent(&indent)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    text.split_inclusive('\n').map(|line| textwrap::fill(line, &options)).collect()
}

/// Prints what a service has written as it is: somebody has asked for that by name.
pub(super) fn raw(text: &str, is_line: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if is_line {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Says what went wrong.
pub(super) fn error(text: &str) {
    let text = text.lines().map(escape).collect::<Vec<_>>().join("\n");
    // There is nowhere left to complain.
    let _ = writeln!(anstream::stderr(), "{} {text}", Colour::Red.paint("palisade:"));
}

/// Says something that is not what was asked for, where it does not mix with that.
pub(super) fn aside(text: &str) {
    // There is nowhere left to complain.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Says that no file has a service of this name: one that is called nearly so, or where the files are.
pub(super) fn no_such_service<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, dirs: &[PathBuf]) {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean {near}?"),
        None if Path::new(name).is_dir() => format!("`--services {name}` looks into that directory"),
        None => format!("there is no {name}.toml in {}", dirs.join(", ")),
    };
    error(&format!("no such service: {name}; {hint}"));
}

/// Writes the line that the cursor is on anew, of the terminal that standard error is; the text is safe to show.
pub(super) fn line_anew(text: &str) {
    let mut stderr = io::stderr().lock();
    // There is nowhere left to complain. ECMA-48: EL, from the cursor to the end of the line.
    let _ = write!(stderr, "\r{text}\u{1b}[K").and_then(|()| stderr.flush());
}

/// Says what is wrong with files; the text was made safe where it was rendered.
pub(super) fn diagnostics(text: &str) {
    // There is nowhere left to complain.
    let _ = write!(anstream::stderr(), "{text}");
}

/// Whether standard error shows colours.
pub(super) fn is_coloured() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// Prints a value as JSON, for people to read.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    json_text(serde_json::to_string_pretty(value))
}

/// Prints a value as JSON, on one line of many.
pub(super) fn json_line(value: &impl Serialize) -> io::Result<()> {
    json_text(serde_json::to_string(value))
}

fn json_text(text: serde_json::Result<String>) -> io::Result<()> {
    let text = escape_json(&text?) + "\n";
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: clap_complete::Shell, command: &mut clap::Command) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(shell, command, "palisade", &mut text);
    match io::stdout().write_all(&text) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

/// Whether a terminal, or whoever reads from one, may take `c` for something else than a character.
fn is_unsafe(c: char) -> bool {
    // Controls (C1 among them: U+009B begins a sequence as ESC [ does), line and paragraph separators, and what turns
    // the direction of the text around.
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `text` with everything in it made visible that a terminal would obey; tabs stay.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_unsafe(c) && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Writing to a string does not fail.
        let _ = match c {
            '\t' => write!(safe, "\t"),
            c if !is_unsafe(c) => write!(safe, "{c}"),
            c if c.is_ascii() => write!(safe, "\\x{:02x}", u32::from(c)),
            c => write!(safe, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    Cow::Owned(safe)
}

/// The same of JSON text: it stays the same JSON. What is below U+0020 in a string is escaped in it anyway.
fn escape_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // Writing to a string does not fail. All of these are below U+10000: one escape each.
        let _ = match c {
            '\n' => writeln!(safe),
            c if is_unsafe(c) => write!(safe, "\\u{:04x}", u32::from(c)),
            c => write!(safe, "{c}"),
        };
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_made_visible() {
        assert_eq!(escape("plain\ttext, grüße 日本"), "plain\ttext, grüße 日本");
        assert_eq!(escape("\u{1b}]0;title\u{7}\r\n"), "\\x1b]0;title\\x07\\x0d\\x0a");
        assert_eq!(escape("a\u{9b}31m\u{202e}b\u{7f}"), "a\\u{9b}31m\\u{202e}b\\x7f");
    }

    #[test]
    fn long_lines_go_on_below_their_beginning() {
        let green = Colour::Green.paint("active");
        let text = format!(
            "  State: {green} since noon\n   File: /etc/one.toml\n   Cgroup: /a/path/with/no/blank\n"
        );
        assert_eq!(fold(&text, 9, 60), text);
        let folded = format!(
            "  State: {green} since\n         noon\n   File: /etc/one.toml\n   Cgroup:\n         /a/path/with/n\n         o/blank\n"
        );
        assert_eq!(fold(&text, 9, 23), folded);
    }

    #[test]
    fn json_stays_json_and_carries_no_escapes() {
        let value = serde_json::json!({ "text": "\u{1b}[31m \u{9b}1m \u{202e} \u{7f} \n 日本" });
        let text = escape_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.contains(|c: char| is_unsafe(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
