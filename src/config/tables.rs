//! From text to tables: parsing, merging of drop-ins, and reading with serde without stopping at the first mistake.
//!
//! serde reports one mistake and stops. Every table of the schema consists of optional keys, so the offending entry is
//! taken out of the tree and the rest is read again: three mistakes give three messages.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, Deserializer},
};

use super::{
    diagnostic::{Diagnostic, Layer, Location, SourceMap},
    elsewhere,
    value::nearest,
};
use crate::spec::MOST;

/// What is said of one service alone, and has no place in a profile; all but the last, nor in `[defaults]`.
const OWN_KEYS: [(&str, &str); 5] = [
    ("unit", "description"),
    ("unit", "documentation"),
    ("unit", "instances"),
    ("service", "command"),
    ("unit", "profile"),
];

/// Keys of the contract that are not built yet: table, its keys; an empty table name is the top level.
const LATER: &[(&str, &[&str])] = &[
    ("", &["job"]),
    ("service", &["cpu"]),
    ("rootfs", &["image", "verity", "volumes", "read_write", "dirs"]),
    ("limits", &["disk", "pressure"]),
];

/// Where a key of the merged texts stands: `network.mode`, `rootfs.mounts[0].ro`, and, of a list of strings,
/// `security.capabilities["CAP_CHOWN"]`.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, Range<usize>>);

impl Places {
    /// The span of the value of a key; of what a list has, or of a field of that, where it says so, else of the list.
    /// None: no text has the key.
    pub fn find(&self, path: &str) -> Option<&Range<usize>> {
        let mut path = path;
        loop {
            if let Some(span) = self.0.get(path) {
                return Some(span);
            }
            path = match path.strip_suffix(']') {
                Some(_) => &path[..path.find('[')?],
                None => path.rsplit_once('.').map(|(item, _)| item).filter(|item| item.ends_with(']'))?,
            };
        }
    }

    /// The keys of a table that the texts have, known ones and others.
    pub fn keys<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a str> {
        let keys = self.0.keys().filter_map(move |path| path.strip_prefix(table)?.strip_prefix('.'));
        keys.filter(|key| !key.contains(['.', '[']))
    }

    fn note(&mut self, path: &str, value: &Spanned<DeValue<'_>>) {
        self.0.insert(path.to_owned(), value.span());
        match value.get_ref() {
            DeValue::Table(table) => self.note_table(&format!("{path}."), table),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::String(text) = item.get_ref() {
                        self.0.insert(format!("{path}[{text:?}]"), item.span());
                    }
                    self.note(&format!("{path}[{index}]"), item);
                }
            }
            _ => {}
        }
    }

    fn note_table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            self.note(&format!("{prefix}{}", key.get_ref()), value);
        }
    }
}

/// Merges the texts of `sources` from the lowest layer on and reads them as a `T`, whose keys are all optional.
///
/// None in place of the `T`: the texts are no TOML, or hold too many mistakes to say anything about the rest.
pub(super) fn read<T: DeserializeOwned>(sources: &SourceMap) -> (Option<T>, Vec<Diagnostic>) {
    let (read, found) = read_with_places(sources);
    (read.map(|(tables, _)| tables), found)
}

/// As [`read`], with where everything stands.
pub(super) fn read_with_places<T: DeserializeOwned>(
    sources: &SourceMap,
) -> (Option<(T, Places)>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let Some(tree) = merged(sources, &mut found) else { return (None, found) };
    let mut places = Places::default();
    places.note_table("", &tree);
    let tables = deserialize(tree, sources, &mut found);
    (tables.map(|tables| (tables, places)), found)
}

/// The texts as one; none, where one of them is no TOML.
pub(super) fn merged<'t>(sources: &'t SourceMap, found: &mut Vec<Diagnostic>) -> Option<DeTable<'t>> {
    let mut parsed = Vec::new();
    for (layer, base, text) in sources.layers() {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors.iter().take(MOST) {
            syntax_error(error, base, sources, found);
        }
        parsed.push((layer, base, table.into_inner()));
    }
    if !found.is_empty() {
        // The parser goes on behind an error, but what it leaves out would be missed as a key.
        return None;
    }
    let mut tree = DeTable::new();
    for (layer, base, table) in parsed {
        let mut table = moved_table(only(table, layer), base);
        take_own_keys(&mut table, layer, sources, found);
        merge(&mut tree, table, sources, found);
    }
    Some(tree)
}

/// `unit.profile` of the texts and where it stands: the last that has one.
pub(super) fn profile(sources: &SourceMap) -> Option<Spanned<String>> {
    let of_layer = |(layer, base, text): (Layer, usize, &str)| {
        let (table, _) = DeTable::parse_recoverable(text);
        let mut table = only(table.into_inner(), layer);
        let DeValue::Table(mut unit) = table.remove("unit")?.into_inner() else { return None };
        let value = unit.remove("profile")?;
        let span = moved_span(&value.span(), base);
        let DeValue::String(name) = value.into_inner() else { return None };
        Some(Spanned::new(span, name.into_owned()))
    };
    // Most files name none: those are parsed once.
    sources.layers().filter(|(.., text)| text.contains("profile")).filter_map(of_layer).last()
}

/// The part of a text that is about services.
fn only(mut table: DeTable<'_>, layer: Layer) -> DeTable<'_> {
    match layer {
        Layer::Own | Layer::Profile => table,
        Layer::Defaults => match table.remove("defaults").map(Spanned::into_inner) {
            Some(DeValue::Table(defaults)) => defaults,
            // What it is instead is told where the settings are read.
            _ => DeTable::new(),
        },
    }
}

/// Takes out of a table for many what is said of one service alone.
fn take_own_keys(table: &mut DeTable<'_>, layer: Layer, sources: &SourceMap, found: &mut Vec<Diagnostic>) {
    let (keys, place) = match layer {
        Layer::Own => return,
        Layer::Profile => (&OWN_KEYS[..], "a profile"),
        Layer::Defaults => (&OWN_KEYS[..4], "`[defaults]`"),
    };
    for (of, key) in keys {
        let Some(DeValue::Table(below)) = table.get_mut(*of).map(Spanned::get_mut) else { continue };
        if let Some((name, _)) = below.remove_entry(*key) {
            let message = format!("`{of}.{key}` has no place in {place}");
            let hint = "write it in the file of the service".to_owned();
            found.push(Diagnostic::at(sources.locate(&name.span()), message).hint(hint));
        }
    }
}

/// One of a line: the parser goes on behind an error, and stumbles over the rest of the line.
fn syntax_error(error: &toml::de::Error, base: usize, sources: &SourceMap, found: &mut Vec<Diagnostic>) {
    let at = sources.locate(&moved_span(&error.span().unwrap_or(0..0), base));
    let line = |at: &Location| (at.file.clone(), at.place.as_ref().map(|place| place.line));
    if found.iter().any(|known| line(&known.at) == line(&at)) {
        return;
    }
    let hint = "mend this first: what a file means is only looked at once all of it is TOML";
    found.push(Diagnostic::at(at, error.message()).hint(found.is_empty().then(|| hint.to_owned())));
}

/// The same table with every span `base` further on.
fn moved_table(table: DeTable<'_>, base: usize) -> DeTable<'_> {
    let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
        (Spanned::new(moved_span(&key.span(), base), key.into_inner()), moved(value, base))
    };
    table.into_iter().map(entry).collect()
}

fn moved_span(span: &Range<usize>, base: usize) -> Range<usize> {
    span.start + base..span.end + base
}

fn moved(value: Spanned<DeValue<'_>>, base: usize) -> Spanned<DeValue<'_>> {
    let span = moved_span(&value.span(), base);
    let value = match value.into_inner() {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|item| moved(item, base)).collect()),
        DeValue::Table(table) => DeValue::Table(moved_table(table, base)),
        leaf => leaf,
    };
    Spanned::new(span, value)
}

/// Lays `over` on `tree`: tables are merged, everything else is replaced, `"+key"` appends to a list.
fn merge<'i>(tree: &mut DeTable<'i>, over: DeTable<'i>, sources: &SourceMap, found: &mut Vec<Diagnostic>) {
    let (appended, plain): (Vec<_>, Vec<_>) =
        over.into_iter().partition(|(key, _)| key.get_ref().starts_with('+'));
    for (key, value) in plain {
        let name = key.get_ref().clone();
        let span = value.span();
        let table = match value.into_inner() {
            DeValue::Table(table) => table,
            leaf => {
                // Not `insert` alone: it would keep the key of the text below, and with it a span into that.
                tree.remove(name.as_ref());
                tree.insert(key, Spanned::new(span, leaf));
                continue;
            }
        };
        if !matches!(tree.get(name.as_ref()).map(Spanned::get_ref), Some(DeValue::Table(_))) {
            tree.remove(name.as_ref());
            tree.insert(key, Spanned::new(span, DeValue::Table(DeTable::new())));
        }
        if let Some(DeValue::Table(below)) = tree.get_mut(name.as_ref()).map(Spanned::get_mut) {
            merge(below, table, sources, found);
        }
    }
    for (key, value) in appended {
        append(tree, &key, value, sources, found);
    }
}

fn append<'i>(
    tree: &mut DeTable<'i>,
    key: &Spanned<Cow<'i, str>>,
    value: Spanned<DeValue<'i>>,
    sources: &SourceMap,
    found: &mut Vec<Diagnostic>,
) {
    let (span, name) = (key.span(), key.get_ref()[1..].to_owned());
    let value_span = value.span();
    let mut refuse = |message: String| {
        let hint = format!("write `{name}` without the plus to replace what was there");
        found.push(Diagnostic::at(sources.locate(&span), message).hint(hint));
    };
    let DeValue::Array(items) = value.into_inner() else {
        return refuse(format!("`+{name}` appends to a list, this is none"));
    };
    match tree.get_mut(name.as_str()).map(Spanned::get_mut) {
        None => {
            tree.insert(Spanned::new(span, name.into()), Spanned::new(value_span, DeValue::Array(items)));
        }
        Some(DeValue::Array(below)) => items.into_iter().for_each(|item| below.push(item)),
        Some(_) => refuse(format!("`+{name}` appends to a list, but `{name}` is none so far")),
    }
}

/// Reads `tree` as a `T`, taking out what does not fit until it does.
fn deserialize<T: DeserializeOwned>(
    mut tree: DeTable<'_>,
    sources: &SourceMap,
    found: &mut Vec<Diagnostic>,
) -> Option<T> {
    for _ in 0..MOST {
        let error = match T::deserialize(Deserializer::from(Spanned::new(0..0, tree.clone()))) {
            Ok(tables) => return Some(tables),
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        let at = sources.locate(&span);
        let unknown = error.message().starts_with("unknown field ");
        let Some(path) = take_out(&mut tree, &span, if unknown { Part::Key } else { Part::Value }) else {
            found.push(Diagnostic::at(at, error.message()));
            return None;
        };
        found.push(match unknown {
            true => unknown_key(at, &path, error.message()),
            false => wrong_type(at, &path, error.message()),
        });
    }
    found.push(Diagnostic::about(
        sources.first_path(),
        format!("more than {MOST} mistakes, the rest is not looked at"),
    ));
    None
}

/// Which part of an entry a span belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Key,
    Value,
}

/// Removes the innermost entry whose key or value has the span, and gives its path.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>, part: Part) -> Option<Vec<String>> {
    let mut gone = None;
    for (key, value) in table.iter_mut() {
        let own = match part {
            Part::Key => key.span() == *span,
            Part::Value => value.span() == *span,
        };
        let below = match value.get_mut() {
            DeValue::Table(table) => take_out(table, span, part),
            DeValue::Array(array) => take_out_item(array, span, part),
            _ => None,
        };
        if let Some(mut path) = below {
            path.insert(0, key.get_ref().to_string());
            return Some(path);
        }
        if own {
            gone = Some(key.get_ref().to_string());
        }
    }
    let gone = gone?;
    table.remove(gone.as_str());
    Some(vec![gone])
}

fn take_out_item<'i>(array: &mut DeArray<'i>, span: &Range<usize>, part: Part) -> Option<Vec<String>> {
    for item in array.iter_mut() {
        let below = match item.get_mut() {
            DeValue::Table(table) => take_out(table, span, part),
            DeValue::Array(array) => take_out_item(array, span, part),
            _ => None,
        };
        if below.is_some() {
            return below;
        }
    }
    let index = array.iter().position(|item| part == Part::Value && item.span() == *span)?;
    let items = std::mem::replace(array, DeArray::new());
    *array = items.into_iter().enumerate().filter(|(i, _)| *i != index).map(|(_, item)| item).collect();
    Some(Vec::new())
}

/// serde's message names the keys that the table has: the one list of them.
fn unknown_key(at: Location, path: &[String], message: &str) -> Diagnostic {
    let (key, table) = path.split_last().map_or(("", &[][..]), |(key, table)| (key.as_str(), table));
    let table = table.join(".");
    // The same keys one table deeper, in palisade.toml.
    let own = table.strip_prefix("defaults").map_or(table.as_str(), |rest| rest.trim_start_matches('.'));
    let expected = message.strip_prefix("unknown field ").and_then(|rest| rest.rsplit_once("`, expected "));
    let known: Vec<&str> = expected.map_or("", |(_, known)| known).split('`').skip(1).step_by(2).collect();
    let what = match table.as_str() {
        "" => format!("unknown key or table `{key}`"),
        table => format!("unknown key `{key}` in `{table}`"),
    };
    let later = LATER.iter().any(|(of, keys)| *of == own && keys.contains(&key));
    let near = || nearest(key, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    let hint = match later {
        true => {
            "this version does not have it yet; a key that is not built is refused, never ignored".to_owned()
        }
        false => elsewhere::hint(key, &table, &known)
            .or_else(near)
            .unwrap_or_else(|| format!("known here: {}", known.join(", "))),
    };
    Diagnostic::at(at, what).hint(hint)
}

/// serde's words for types, in TOML's.
fn wrong_type(at: Location, path: &[String], message: &str) -> Diagnostic {
    let path = path.join(".");
    let parts = message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "));
    let Some((got, expected)) = parts else {
        return Diagnostic::at(at, format!("`{path}`: {message}"));
    };
    let got = match got.split_once(' ') {
        _ if got == "map" => "a table".to_owned(),
        _ if got == "sequence" => "a list".to_owned(),
        Some(("string", text)) if text.chars().count() > 40 => "a string".to_owned(),
        Some(("string", text)) => format!("the string {text}"),
        Some(("floating", number)) => {
            format!("the number {}", number.trim_start_matches("point ").replace('`', ""))
        }
        Some(("integer", number)) => format!("the number {}", number.replace('`', "")),
        Some(("boolean", value)) => value.replace('`', ""),
        _ => got.to_owned(),
    };
    let (expected, hint) = match expected {
        "a boolean" => ("a boolean", "write true or false, without quotes".to_owned()),
        "a string" => ("a string", "write it in quotes".to_owned()),
        "i64" => ("a whole number", "write it in digits, without quotes and without a unit".to_owned()),
        "a sequence" => ("a list", "write it in square brackets, also when it is one alone".to_owned()),
        "a map" | "a table" => ("a table", elsewhere::as_table(&path)),
        other => match other.strip_prefix("a table { ") {
            Some(keys) => (other, format!("write `{{ {}`", keys.replace(',', " = …,"))),
            None => (other, "write one of the two".to_owned()),
        },
    };
    Diagnostic::at(at, format!("`{path}` takes {expected}, not {got}")).hint(hint)
}

#[cfg(test)]
mod tests;
