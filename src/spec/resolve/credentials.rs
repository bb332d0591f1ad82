//! `security.credentials`.

use std::{collections::BTreeSet, path::Path};

use toml::Spanned;

use super::{Reader, service};
use crate::{
    config::{
        schema::{CredentialTable, Text},
        value::{self, Refusal},
    },
    spec::{
        Base, Credential, Rootfs, Service, UserSpec,
        credential::{self, CREDENTIALS, MOST_CREDENTIALS, Source},
        defaults,
    },
};

pub(super) fn credentials(reader: &mut Reader<'_>, service: &Service, rootfs: &Rootfs) -> Vec<Credential> {
    let Some(list) = &reader.file.tables.security.credentials else { return Vec::new() };
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for entry in list {
        let Some(credential) = credential(reader, entry, service, rootfs) else { continue };
        if !names.insert(credential.name.clone()) {
            let message = format!("two credentials have the name {:?}", credential.name);
            reader.refuse(entry.span(), Refusal::new(message).hint("leave one of them out"));
        }
        found.push(credential);
    }
    if let (Some(first), Some(dst)) = (list.first(), in_the_way(rootfs)) {
        let message = format!("the credentials lie below {CREDENTIALS}, and so does the mount on {dst:?}");
        reader.refuse(first.span(), Refusal::new(message).hint("mount it elsewhere"));
    }
    if let Some(entry) = list.get(MOST_CREDENTIALS) {
        let message = format!("a service has at most {MOST_CREDENTIALS} credentials");
        reader.refuse(entry.span(), Refusal::new(message).hint("put several into one file"));
    }
    found
}

/// What would lie over the credentials, or be a directory of the host that they would be put into.
fn in_the_way(rootfs: &Rootfs) -> Option<&Path> {
    let below = |path: &&Path| path.starts_with(CREDENTIALS);
    let mounts = rootfs.mounts.iter().map(|mount| mount.dst.as_path());
    let tmpfs = rootfs.tmpfs.iter().map(|tmpfs| tmpfs.dst.as_path());
    mounts.filter(|dst| below(dst) || *dst == Path::new("/run")).chain(tmpfs.filter(below)).next()
}

fn credential(
    reader: &mut Reader<'_>,
    entry: &Spanned<CredentialTable>,
    service: &Service,
    rootfs: &Rootfs,
) -> Option<Credential> {
    let table = entry.get_ref();
    if table.name.is_none() {
        let refusal = Refusal::new("the credential has no `name`").hint("add the name of its file");
        reader.refuse(entry.span(), refusal);
    }
    let name = table.name.as_ref().and_then(|text| name(reader, text));
    let source = source(reader, entry);
    let mode = table.mode.as_ref().and_then(|text| reader.checked(text, |text| mode(text)));
    let owner = match &table.owner {
        Some(value) => {
            let id = service::account(reader, "owner", value)?;
            let id = service::known_id(reader, value, id, &rootfs.base)?;
            Some(id)
        }
        None => {
            users_number_is_known(reader, entry, service, &rootfs.base);
            None
        }
    };
    Some(Credential { name: name?, source: source?, mode: mode.unwrap_or(defaults::CREDENTIAL_MODE), owner })
}

/// The files are made before the sandbox exists: who is known by name alone inside has no number then.
fn users_number_is_known(
    reader: &mut Reader<'_>,
    entry: &Spanned<CredentialTable>,
    service: &Service,
    base: &Base,
) {
    let named_user = match &service.user {
        UserSpec::Named(id) => credential::number(id).is_none(),
        UserSpec::Dynamic => false,
    };
    let named_group = service.group.as_ref().is_some_and(|id| credential::number(id).is_none());
    if matches!(base, Base::Dir(_)) && (named_user || named_group) {
        let message = "the number of the service's user or group is only known to the root's own files";
        let hint = "write `owner` here, or `user` and `group` in [service], as numbers";
        reader.refuse(entry.span(), Refusal::new(message).hint(hint));
    }
}

fn name(reader: &mut Reader<'_>, text: &Text) -> Option<String> {
    let name = reader.text(text)?;
    let good = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let refusal = || {
        Refusal::new(format!("{name:?} is not the name of a credential"))
            .hint("names are letters, digits, '.', '_' and '-', and do not begin with '.'")
    };
    let checked = if good { Ok(()) } else { Err(refusal()) };
    reader.take(text.span(), checked)?;
    Some(name)
}

fn source(reader: &mut Reader<'_>, entry: &Spanned<CredentialTable>) -> Option<Source> {
    let CredentialTable { file, command, env, .. } = entry.get_ref();
    match (file, command, env) {
        (Some(text), None, None) => reader.path(text).map(Source::File),
        (None, Some(command), None) => {
            // Of the host's, so the service's environment has no part in it.
            let argv = reader.command(command, &std::collections::BTreeMap::new())?;
            let refusal = || {
                Refusal::new(format!("the program {:?} is not an absolute path", argv[0]))
                    .hint("write the path of the program on the host, from the / on")
            };
            let checked = if argv[0].starts_with('/') { Ok(()) } else { Err(refusal()) };
            reader.take(command.span(), checked)?;
            Some(Source::Command(argv))
        }
        (None, None, Some(text)) => service::variable(reader, text).map(Source::Env),
        (None, None, None) => {
            let refusal = Refusal::new("the credential does not say where its content comes from");
            reader.refuse(entry.span(), refusal.hint("add `file`, `command` or `env`"));
            None
        }
        _ => {
            let refusal = Refusal::new("the credential has more than one source");
            reader.refuse(entry.span(), refusal.hint("leave one of `file`, `command` and `env`"));
            None
        }
    }
}

fn mode(text: &str) -> Result<u32, Refusal> {
    let mode = value::parse_octal(text)?;
    match mode & !0o444 {
        0 => Ok(mode),
        _ => Err(Refusal::new(format!("{text:?}: credentials can be read and nothing else"))
            .hint("write \"0400\", \"0440\" or \"0444\"")),
    }
}
