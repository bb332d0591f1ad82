//! `security.seccomp`.

use toml::Spanned;

use super::{Reader, defaults};
use crate::{
    config::{
        schema::{SeccompTable, SeccompText, Text, WordOrList},
        value::{self, Refusal},
    },
    seccomp::{Denial, HAS_OTHER_ABI, groups},
    spec::Seccomp,
};

const ACTIONS: &[(&str, Denial)] =
    &[("EPERM", Denial::Eperm), ("ENOSYS", Denial::Enosys), ("kill", Denial::Kill), ("log", Denial::Log)];

/// `security.native_abi_only`.
pub(super) fn native_abi_only(reader: &mut Reader<'_>) -> bool {
    let Some(key) = &reader.file.tables.security.native_abi_only else { return defaults::NATIVE_ABI_ONLY };
    if !*key.get_ref() && !HAS_OTHER_ABI {
        let refusal =
            Refusal::new("this machine has no other architecture whose system calls can be filtered");
        reader.refuse(key.span(), refusal.hint("leave the key out"));
    }
    *key.get_ref()
}

pub(super) fn seccomp(reader: &mut Reader<'_>) -> Seccomp {
    let Some(key) = &reader.file.tables.security.seccomp else {
        return Seccomp {
            allow: default(),
            kill: Vec::new(),
            log: Vec::new(),
            action: defaults::SECCOMP_ACTION,
        };
    };
    let table = match key.get_ref() {
        SeccompText::Calls(calls) => {
            let allow = Spanned::new(key.span(), calls.clone());
            &SeccompTable { allow: Some(allow), ..SeccompTable::default() }
        }
        SeccompText::Table(table) => table,
    };
    let allow = calls(reader, &table.allow, List::Allow);
    let kill = calls(reader, &table.kill, List::Kill);
    let log = calls(reader, &table.log, List::Log);
    Seccomp {
        allow: allow.unwrap_or_else(default),
        kill: kill.unwrap_or_default(),
        log: log.unwrap_or_default(),
        action: reader
            .word("security.seccomp.action", &table.action, ACTIONS)
            .unwrap_or(defaults::SECCOMP_ACTION),
    }
}

fn default() -> Vec<String> {
    vec![defaults::SECCOMP.to_owned()]
}

/// Which list a name stands in.
#[derive(Clone, Copy, PartialEq)]
enum List {
    Allow,
    Kill,
    Log,
}

/// The names of a list; none where the key is not there.
fn calls(reader: &mut Reader<'_>, value: &Option<Spanned<WordOrList>>, list: List) -> Option<Vec<String>> {
    let value = value.as_ref()?;
    let words = match value.get_ref() {
        WordOrList::Word(word) => &vec![Text::new(value.span(), word.clone())],
        WordOrList::List(list) => list,
    };
    let words = words.iter().filter_map(|text| {
        let word = reader.text(text)?;
        let checked = call(&word, list).map(|()| word);
        reader.take(text.span(), checked)
    });
    Some(words.collect())
}

fn call(word: &str, list: List) -> Result<(), Refusal> {
    let name = word.strip_prefix('~').unwrap_or(word);
    let takes_out = name.len() < word.len();
    if takes_out && list != List::Allow {
        return Err(Refusal::new(format!("nothing can be taken out of this list with {word:?}"))
            .hint("leave the name itself out"));
    }
    if !crate::seccomp::names().any(|known| known == name) {
        let what = if name.starts_with('@') { "group of system calls" } else { "system call" };
        let refusal = Refusal::new(format!("{name:?} is not a {what} that this version knows"));
        return Err(match value::nearest(name, crate::seccomp::names()) {
            Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
            None => refusal.hint("docs/system-calls.md lists the groups, syscalls(2) the names"),
        });
    }
    if (takes_out || list == List::Kill) && groups::INDISPENSABLE.contains(&name) {
        return Err(Refusal::new(format!("no program can be started without {name}"))
            .hint("leave it out of the list"));
    }
    Ok(())
}
