//! Files of `NAME=VALUE` lines, as systemd.exec(5) "EnvironmentFile=" reads them.

use std::collections::BTreeMap;

use super::{Refusal, is_variable_name};

/// Reads the lines of an environment file: `#` and `;` begin a comment line, quotes of both kinds may span lines, a
/// backslash at the end of a line joins the next. No variable is replaced in it.
///
/// # Errors
/// The number of the first line that is none of that.
pub fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut env = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line_number = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let line = rest.split('\n').next().unwrap_or(rest);
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            rest = rest.get(line.len() + 1..).unwrap_or("");
            continue;
        }
        let assignment = line.split_once('=').map(|(name, _)| (name.trim(), name.len() + 1));
        let Some((name, start)) = assignment.filter(|(name, _)| is_variable_name(name)) else {
            return Err(Refusal::new(format!("line {line_number} is not NAME=VALUE")));
        };
        let (value, after) = take_value(&rest[start..])
            .ok_or_else(|| Refusal::new(format!("line {line_number} opens a quote that is never closed")))?;
        if value.contains('\0') {
            return Err(Refusal::new(format!("line {line_number} has a NUL character")));
        }
        env.insert(name.to_owned(), value);
        rest = after;
    }
    Ok(env)
}

/// The value at the start of `text`, and what follows its line; none for an unclosed quote.
fn take_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    // White space at the end is dropped, unless it was quoted or escaped.
    let mut kept = 0;
    let mut quote = None;
    let mut chars = text.trim_start_matches([' ', '\t']).chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\n', None) => break,
            (c, Some(open)) if c == open => quote = None,
            ('\\', Some('"')) => match chars.next()? {
                '\n' => {}
                escaped @ ('"' | '\\' | '`' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            ('\\', None) => match chars.next() {
                Some('\n') | None => {}
                Some(escaped) => value.push(escaped),
            },
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if !value.is_empty() {
                    value.push(c);
                }
                continue;
            }
            (c, _) => value.push(c),
        }
        kept = value.len();
    }
    value.truncate(kept);
    quote.is_none().then_some((value, chars.as_str()))
}
