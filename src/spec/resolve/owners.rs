//! `unit.owners`.

use super::Reader;
use crate::{
    config::{
        schema::Text,
        value::{self, Refusal},
    },
    spec::{HostFacts, Owner},
};

/// What the kernel says of somebody whose id it cannot tell here: a process of another user namespace.
const OVERFLOW_ID: u32 = 65_534;

pub(super) fn owners(reader: &mut Reader<'_>, list: &Option<Vec<Text>>) -> Vec<Owner> {
    let mut owners = Vec::new();
    for text in list.iter().flatten() {
        let Some(word) = reader.text(text) else { continue };
        if let Some(owner) = reader.take(text.span(), parse_owner(&word, reader.host)) {
            owners.push(owner);
        }
    }
    owners.sort();
    owners.dedup();
    owners
}

/// One entry: the name or id of a user, or `group:` and that of a group.
pub(crate) fn parse_owner(word: &str, host: &HostFacts) -> Result<Owner, Refusal> {
    let (kind, name) = match word.strip_prefix("group:") {
        Some(group) => ("group", group),
        None => ("user", word),
    };
    let known = match kind {
        "group" => host.groups.get(name).map(|(gid, _)| *gid),
        _ => host.users.get(name).map(|user| user.uid),
    };
    let id = match known {
        Some(id) => id,
        None if name.starts_with(|c: char| c.is_ascii_digit()) => value::parse_id(name)?,
        None => {
            let refusal = Refusal::new(format!("this host has no {kind} {name:?}"));
            let names: Vec<&str> = match kind {
                "group" => host.groups.keys().map(String::as_str).collect(),
                _ => host.users.keys().map(String::as_str).collect(),
            };
            return Err(match value::nearest(name, names) {
                Some(near) => refusal.hint(format!("did you mean {near:?}?")),
                None => refusal.hint("name one that it has, or write the number of its id"),
            });
        }
    };
    match id {
        OVERFLOW_ID => Err(Refusal::new(format!("{word:?} cannot own a service"))
            .hint("65534 is how the kernel names everybody whose id has no meaning here: name a real one")),
        id if kind == "group" => Ok(Owner::Group(id)),
        id => Ok(Owner::User(id)),
    }
}
