//! Specifiers: what `%n` and its like stand for.

use super::Refusal;
use crate::spec::UnitName;

/// `%t`, as systemd has it.
pub const RUN_DIR: &str = "/run";
/// `%S`.
pub const STATE_DIR: &str = "/var/lib";
/// `%C`.
pub const CACHE_DIR: &str = "/var/cache";
/// `%L`.
pub const LOG_DIR: &str = "/var/log";

/// Longest text after the replacement; a path or an argument cannot be longer either.
const LONGEST: usize = super::MAX_ARG;

/// What the specifiers of one service stand for.
#[derive(Clone, Copy, Debug)]
pub struct Specifiers<'a> {
    /// `%n`; `%p` and `%i` are the parts before and after its `@`.
    pub name: &'a UnitName,
    /// `%H`.
    pub hostname: &'a str,
}

impl Specifiers<'_> {
    /// Replaces `%n %p %i %H %t %S %C %L %%`.
    ///
    /// # Errors
    /// Another letter after a per cent sign; a NUL character, which nothing that goes to the kernel can hold.
    pub fn expand(&self, text: &str) -> Result<String, Refusal> {
        if text.contains('\0') {
            return Err(Refusal::new("the text has a NUL character"));
        }
        let (prefix, instance) = self.name.as_str().split_once('@').unwrap_or((self.name.as_str(), ""));
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('n') => out.push_str(self.name.as_str()),
                Some('p') => out.push_str(prefix),
                Some('i') => out.push_str(instance),
                Some('H') => out.push_str(self.hostname),
                Some('t') => out.push_str(RUN_DIR),
                Some('S') => out.push_str(STATE_DIR),
                Some('C') => out.push_str(CACHE_DIR),
                Some('L') => out.push_str(LOG_DIR),
                Some('%') => out.push('%'),
                other => {
                    let found: String = other.into_iter().flat_map(char::escape_debug).collect();
                    return Err(Refusal::new(format!("'%{found}' is not a specifier"))
                        .hint("the specifiers are %n %p %i %H %t %S %C %L; write %% for a per cent sign"));
                }
            }
            if out.len() > LONGEST {
                return Err(Refusal::new("the text is longer than 128K once its specifiers are replaced"));
            }
        }
        Ok(out)
    }
}
