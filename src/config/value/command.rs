//! Commands: splitting a line into words, and variables in words, as systemd.service(5) "Command lines" has them.

use std::{collections::BTreeMap, str::Chars};

use super::{Refusal, is_variable_name};

/// Longest argument or environment string that execve(2) takes, its final NUL not counted (MAX_ARG_STRLEN).
pub const MAX_ARG: usize = 128 * 1024 - 1;
/// All arguments together; the kernel's own bound is a quarter of the stack limit, 2 MiB by default.
const MAX_ARGV: usize = 1024 * 1024;

/// Splits a command line into words: white space separates, quotes of both kinds join, backslash escapes work inside
/// and outside of them. No shell: `|`, `>`, `&&` and `*` are ordinary characters.
///
/// # Errors
/// An unclosed quote, an unknown escape, a lone `;` (systemd's second command), systemd's prefixes, an empty line.
pub fn split(line: &str) -> Result<Vec<String>, Refusal> {
    let mut words = Vec::new();
    let mut chars = line.chars();
    loop {
        chars = chars.as_str().trim_start_matches([' ', '\t', '\n', '\r']).chars();
        if chars.as_str().is_empty() {
            break;
        }
        if chars.as_str().split([' ', '\t', '\n', '\r']).next() == Some(";") {
            return Err(Refusal::new("a lone ';' would begin a second command, there is one")
                .hint("write \"\\\\;\" for an argument that is a semicolon"));
        }
        words.push(take_word(&mut chars)?);
    }
    if words.is_empty() {
        return Err(Refusal::new("the command is empty"));
    }
    let prefix = words[0].chars().next().filter(|c| "@-:+!|".contains(*c));
    match prefix {
        Some(prefix) => Err(Refusal::new(format!("a program does not begin with {prefix:?}"))
            .hint("the prefixes of systemd's ExecStart= have no meaning here: write the program alone")),
        None => Ok(words),
    }
}

fn take_word(chars: &mut Chars<'_>) -> Result<String, Refusal> {
    let mut word = String::new();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.push(take_escape(chars)?),
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => quote = Some(c),
            (' ' | '\t' | '\n' | '\r', None) => break,
            (c, None) => word.push(c),
        }
    }
    match quote {
        Some(open) => Err(Refusal::new(format!("the quote {open} is never closed"))
            .hint(format!("write \\{open} for the character itself"))),
        None => Ok(word),
    }
}

/// What follows a backslash, as in C; systemd's `\s` is a space.
fn take_escape(chars: &mut Chars<'_>) -> Result<char, Refusal> {
    let Some(c) = chars.next() else {
        return Err(Refusal::new("the line ends in a backslash").hint("write two for a real one"));
    };
    Ok(match c {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        's' => ' ',
        '\\' | '"' | '\'' | ';' => c,
        'x' => take_code(chars, 2, 16)?,
        'u' => take_code(chars, 4, 16)?,
        'U' => take_code(chars, 8, 16)?,
        '0'..='3' => {
            let rest: String = chars.as_str().chars().take(2).collect();
            let code = u32::from_str_radix(&format!("{c}{rest}"), 8).ok().filter(|_| rest.len() == 2);
            chars.nth(1);
            checked_char(code, 0x7f)?
        }
        _ => {
            return Err(Refusal::new(format!("'\\{}' is not an escape", c.escape_debug()))
                .hint("write two backslashes for a real one"));
        }
    })
}

fn take_code(chars: &mut Chars<'_>, length: usize, radix: u32) -> Result<char, Refusal> {
    let digits: String = chars.as_str().chars().take(length).collect();
    let good = digits.len() == length && digits.bytes().all(|b| b.is_ascii_hexdigit());
    chars.nth(length - 1);
    let code = good.then(|| u32::from_str_radix(&digits, radix).ok()).flatten();
    checked_char(code, if length == 2 { 0x7f } else { 0x10_ffff })
}

/// A command is text: an escape that makes half a character, or the end of a C string, is refused.
fn checked_char(code: Option<u32>, most: u32) -> Result<char, Refusal> {
    code.filter(|code| (1..=most).contains(code)).and_then(char::from_u32).ok_or_else(|| {
        Refusal::new("the escape does not stand for a character")
            .hint("\\xHH and \\NNN reach 7f; write \\uHHHH for other characters")
    })
}

/// Puts the service's environment into its argv: `${NAME}` anywhere becomes the value; a word that is `$NAME` alone
/// becomes the words of the value, none if it is empty; `$$` is a dollar. A variable that is not set is empty.
///
/// # Errors
/// The program itself as a variable, `${` that names none, `MAINPID` (not known before the launch), too long a result.
pub fn expand(words: &[String], env: &BTreeMap<String, String>) -> Result<Vec<String>, Refusal> {
    let mut argv = Vec::new();
    let mut total = 0;
    for (index, word) in words.iter().enumerate() {
        let name = word.strip_prefix('$').filter(|name| is_variable_name(name));
        if index == 0 && (name.is_some() || word.contains("${")) {
            return Err(Refusal::new("the program cannot be a variable").hint("write its path"));
        }
        let added = match name {
            Some(name) => split_value(lookup(name, env)?),
            None => vec![expand_word(word, env)?],
        };
        for word in added {
            total += word.len() + 1;
            if word.len() > MAX_ARG || total > MAX_ARGV {
                return Err(too_long());
            }
            argv.push(word);
        }
    }
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(argv),
        _ => Err(Refusal::new("the command has no program")),
    }
}

fn too_long() -> Refusal {
    Refusal::new("the command is longer than execve(2) takes: 128K for a word, 1M in all")
}

fn lookup<'a>(name: &str, env: &'a BTreeMap<String, String>) -> Result<&'a str, Refusal> {
    if name == "MAINPID" && env.get(name).is_none_or(|value| *value != crate::spec::later(name)) {
        return Err(Refusal::new("$MAINPID is not known when the file is read")
            .hint("use `signal` to send a signal to the main process"));
    }
    Ok(env.get(name).map_or("", String::as_str))
}

fn expand_word(word: &str, env: &BTreeMap<String, String>) -> Result<String, Refusal> {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let name = after.split_once('}').filter(|(name, _)| is_variable_name(name));
            let Some((name, after)) = name else {
                return Err(Refusal::new("'${' does not begin the name of a variable")
                    .hint("write \"$${\" for a dollar and a brace"));
            };
            out.push_str(lookup(name, env)?);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
        if out.len() > MAX_ARG {
            return Err(too_long());
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The words of a variable's value: quotes join here too, but a value is never a mistake of the file.
fn split_value(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in value.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
