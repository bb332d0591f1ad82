//! What services open, as text, JSON and SARIF. Pure.

use std::path::Path;

use serde_json::{Value, json};

use super::output::{Colour, escape};
use crate::{
    config::{Diagnostic, Location, Opened},
    spec::{
        UnitName,
        exposure::{self, MOST, Row, Standing, TABLE},
    },
};

/// Where the schema of a report is, as SARIF wants it named.
const SARIF_SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// Reads the argument of `--threshold`: `2`, `2.0`, `10`.
pub(super) fn threshold(text: &str) -> Result<u32, String> {
    let (points, tenths) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().ok(),
        false => None,
    };
    match (digits(points), digits(tenths)) {
        (Some(points @ 0..=10), Some(tenths @ 0..=9)) if points * 10 + tenths <= MOST => {
            Ok(points * 10 + tenths)
        }
        _ => Err("a number from 0 to 10, with at most one decimal".to_owned()),
    }
}

/// The score of a service, in tenths of a point.
pub(super) fn tenths(opened: &[Opened]) -> u32 {
    exposure::score(opened.iter().map(|opened| (opened.row, &opened.opening)))
}

/// Tenths as they are shown: `0.7`.
fn points(tenths: u32) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The loosenings, as notes.
pub(super) fn notes(all: &[(UnitName, Vec<Opened>)]) -> Vec<Diagnostic> {
    let loosenings = all.iter().flat_map(|(_, opened)| opened).filter(|opened| is_loosening(opened));
    loosenings
        .map(|opened| {
            let at = opened.at.clone().unwrap_or_else(|| Location { file: "?".into(), place: None });
            Diagnostic::at(at, sentence(opened)).noted()
        })
        .collect()
}

/// A note on a line of its own.
pub(super) fn note_line(note: &Diagnostic) -> String {
    format!("{}: {}: {}\n", escape(&note.at.to_string()), Colour::Dim.paint("note"), escape(&note.message))
}

fn is_loosening(opened: &Opened) -> bool {
    opened.opening.standing == Standing::Loosening
}

/// What is opened, what that means, and what it costs.
fn sentence(opened: &Opened) -> String {
    let Opened { row, opening, .. } = opened;
    format!("{} {}: {} (+{})", row.name, opening.value, row.opens, points(opening.price))
}

/// For one service the table of `systemd-analyze security NAME`; `overview`: a line for each.
pub(super) fn text(all: &[(UnitName, Vec<Opened>)], overview: bool) -> String {
    if overview {
        let width = all.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0).max(4);
        let mut text = format!("{:width$}  EXPOSURE  WORD\n", "NAME");
        for (name, opened) in all {
            let score = tenths(opened);
            text += &format!("{:width$}  {:>8}  {}\n", name.as_str(), points(score), word(score));
        }
        return text;
    }
    all.iter().map(|(name, opened)| one(name, opened)).collect::<Vec<_>>().join("\n")
}

fn one(name: &UnitName, opened: &[Opened]) -> String {
    let mut rows: Vec<(u32, String)> = Vec::new();
    let width = TABLE.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in TABLE {
        let of_row: Vec<&Opened> = opened.iter().filter(|opened| opened.row.name == row.name).collect();
        if of_row.is_empty() {
            let mark = Colour::Green.paint("✓");
            rows.push((0, format!("{mark} {:width$}        {}\n", row.name, row.closed)));
        }
        let all: u32 = of_row.iter().map(|opened| opened.opening.price).sum();
        for Opened { opening, at, .. } in of_row {
            let mark = match opening.standing {
                Standing::Loosening => Colour::Red.paint("✗"),
                Standing::Default | Standing::Use => Colour::Yellow.paint("·"),
            };
            let price = if opening.price == 0 { String::new() } else { points(opening.price) };
            let at = at.as_ref().map(|at| format!(" [{at}]")).unwrap_or_default();
            let capped = if all > row.most {
                format!(" (all of it at most {})", points(row.most))
            } else {
                String::new()
            };
            let what = escape(&format!("{}: {}{capped}{at}", opening.value, row.opens)).into_owned();
            rows.push((opening.price, format!("{mark} {:width$}  {price:>4}  {what}\n", row.name)));
        }
    }
    // Stable: of one price, in the order of the tables of a service file.
    rows.sort_by_key(|(price, _)| std::cmp::Reverse(*price));
    let score = tenths(opened);
    let lines: String = rows.into_iter().map(|(_, line)| line).collect();
    format!(
        "  {:width$}  COST  WHAT IT MEANS\n{lines}\n→ Overall exposure of {name}: {} {}\n",
        "KEY",
        points(score),
        word(score)
    )
}

fn word(score: u32) -> String {
    let word = exposure::word(score);
    match score {
        90.. => Colour::Red.paint(word),
        75.. => Colour::Yellow.paint(word),
        50.. => word.to_owned(),
        _ => Colour::Green.paint(word),
    }
}

/// The same as data.
pub(super) fn json(all: &[(UnitName, Vec<Opened>)]) -> Value {
    let entry = |(name, opened): &(UnitName, Vec<Opened>)| {
        let open: Vec<Value> = opened.iter().map(opening_json).collect();
        let is_closed = |row: &&Row| !opened.iter().any(|opened| opened.row.name == row.name);
        let closed: Vec<Value> = TABLE
            .iter()
            .filter(is_closed)
            .map(|row| json!({ "key": row.name, "means": row.closed }))
            .collect();
        let score = tenths(opened);
        json!({
            "name": name.as_str(),
            "score": f64::from(score) / 10.0,
            "word": exposure::word(score),
            "open": open,
            "closed": closed,
        })
    };
    json!({ "services": all.iter().map(entry).collect::<Vec<_>>() })
}

fn opening_json(opened: &Opened) -> Value {
    let Opened { row, opening, at } = opened;
    json!({
        "key": row.name,
        "value": opening.value,
        "price": f64::from(opening.price) / 10.0,
        "loosening": is_loosening(opened),
        "means": row.opens,
        "at": at,
    })
}

/// The same as a report that code hosts and editors read: every opening that a file says is a result at its line.
pub(super) fn sarif(all: &[(UnitName, Vec<Opened>)]) -> Value {
    let rules: Vec<Value> = TABLE
        .iter()
        .map(|row| {
            json!({
                "id": row.name,
                "shortDescription": { "text": row.opens },
                "help": { "text": format!("Closed: {}. Open: {}.", row.closed, row.opens) },
                "properties": { "security-severity": points(row.most), "tags": ["security"] },
            })
        })
        .collect();
    let results: Vec<Value> =
        all.iter().flat_map(|(name, opened)| opened.iter().filter_map(|o| result(name, o))).collect();
    json!({
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "palisade",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(name: &UnitName, opened: &Opened) -> Option<Value> {
    let at = opened.at.as_ref()?;
    let level = match (opened.opening.standing, opened.opening.price) {
        (Standing::Loosening, 10..) => "error",
        (Standing::Loosening, _) => "warning",
        (Standing::Use | Standing::Default, _) => "note",
    };
    let mut physical = json!({ "artifactLocation": { "uri": uri(&at.file) } });
    if let Some(place) = &at.place {
        physical["region"] =
            json!({ "startLine": place.line, "startColumn": place.column, "endColumn": place.end_column });
    }
    Some(json!({
        "ruleId": opened.row.name,
        "ruleIndex": TABLE.iter().position(|row| row.name == opened.row.name),
        "level": level,
        "message": { "text": format!("{name}: {}", sentence(opened)) },
        "locations": [{ "physicalLocation": physical }],
        "properties": { "price": f64::from(opened.opening.price) / 10.0 },
    }))
}

/// A path as a URI reference: absolute with its scheme, others relative, as they were named.
fn uri(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = if path.is_absolute() { "file://".to_owned() } else { String::new() };
    for byte in path.as_os_str().as_bytes() {
        // Writing to a string does not fail. RFC 3986: unreserved characters, and the slash between segments.
        let _ = match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => write!(uri, "{}", char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => write!(uri, "{}", char::from(*byte)),
            byte => write!(uri, "%{byte:02X}"),
        };
    }
    uri
}
