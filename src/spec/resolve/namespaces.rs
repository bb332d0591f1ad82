//! `[namespaces]`.

use toml::Spanned;

use super::Reader;
use crate::{
    config::{
        schema::{Scalar, Switch},
        value::{self, Refusal},
    },
    spec::{Namespace, Namespaces, UnitName, UserNamespace},
};

/// Longest host or domain name, sethostname(2).
const MAX_HOSTNAME: usize = 64;

pub(super) fn namespaces(reader: &mut Reader<'_>) -> Namespaces {
    let table = &reader.file.tables.namespaces;
    let pid = namespace(reader, "pid", &table.pid);
    if let (true, Some(key), false) = (pid != Namespace::Own, &table.pid, reader.host.cgroup_kill) {
        let value = if pid == Namespace::Host { "host" } else { "join:..." };
        let message =
            format!("`pid = \"{value}\"` needs cgroup.kill to end the service, which this host lacks");
        let refusal = Refusal::new(message);
        reader.refuse(
            key.span(),
            refusal.hint("boot with cgroup v2 (Linux 5.14 or newer), or leave `pid` out"),
        );
    }
    let hostname = match &table.hostname {
        Some(text) => reader.text(text).and_then(|name| reader.take(text.span(), hostname(name))),
        None => None,
    };
    let domainname = match &table.domainname {
        Some(text) => reader.text(text).and_then(|name| reader.take(text.span(), domainname(name))),
        None => None,
    };
    let machine_id = match &table.machine_id {
        Some(text) => reader.text(text).and_then(|id| reader.take(text.span(), machine_id(id))),
        None => None,
    };
    let uts = namespace(reader, "uts", &table.uts);
    let names = [("hostname", &table.hostname), ("domainname", &table.domainname)];
    for (key, text) in names.into_iter().filter(|_| uts != Namespace::Own) {
        if let Some(text) = text {
            let refusal = Refusal::new(format!("`{key}` would rename what is not the service's own"));
            reader.refuse(text.span(), refusal.hint("leave `uts` out to give the service names of its own"));
        }
    }
    let user = user(reader);
    let nested = nested(reader, &user);
    Namespaces {
        pid,
        uts,
        ipc: namespace(reader, "ipc", &table.ipc),
        cgroup: namespace(reader, "cgroup", &table.cgroup),
        user,
        nested,
        clock_offset: clock_offset(reader),
        hostname: hostname.unwrap_or_else(|| default_hostname(&reader.file.name)),
        domainname: domainname.unwrap_or_default(),
        machine_id,
    }
}

/// An `@` is none of a host name's characters.
fn default_hostname(name: &UnitName) -> String {
    name.as_str().replace('@', "-").chars().take(MAX_HOSTNAME).collect()
}

fn namespace(reader: &mut Reader<'_>, key: &str, value: &Option<Spanned<Switch>>) -> Namespace {
    let Some(value) = value else { return Namespace::Own };
    let hint = "write true, \"join:NAME\" or \"host\"";
    let parsed = match value.get_ref() {
        Switch::Bool(true) => Ok(Namespace::Own),
        Switch::Bool(false) => {
            let refusal = Refusal::new(format!("`{key} = false` does not say whose the service gets"));
            Err(refusal.hint("write \"host\" for the host's"))
        }
        Switch::Word(word) => {
            let text = Spanned::new(value.span(), word.clone());
            let Some(word) = reader.text(&text) else { return Namespace::Own };
            match word.strip_prefix("join:") {
                Some(name) => UnitName::new(name).map(Namespace::Join).map_err(Refusal::new),
                None if word == "host" => Ok(Namespace::Host),
                None => {
                    Err(Refusal::new(format!("{word:?} is not a value of `namespaces.{key}`")).hint(hint))
                }
            }
        }
    };
    reader.take(value.span(), parsed).unwrap_or(Namespace::Own)
}

fn user(reader: &mut Reader<'_>) -> UserNamespace {
    let Some(text) = &reader.file.tables.namespaces.user else { return UserNamespace::Auto };
    let Some(word) = reader.text(text) else { return UserNamespace::Auto };
    let parsed = match (word.as_str(), word.strip_prefix("shared:")) {
        (_, Some(name)) => UnitName::new(name).map(UserNamespace::Shared).map_err(Refusal::new),
        ("auto", _) => Ok(UserNamespace::Auto),
        ("off", _) => Ok(UserNamespace::Off),
        _ => Err(Refusal::new(format!("{word:?} is not a value of `namespaces.user`"))
            .hint("write \"auto\", \"shared:NAME\" or \"off\"")),
    };
    reader.take(text.span(), parsed).unwrap_or(UserNamespace::Auto)
}

/// Whether it may make namespaces of its own.
fn nested(reader: &mut Reader<'_>, user: &UserNamespace) -> bool {
    let Some(nested) = &reader.file.tables.namespaces.nested else { return false };
    if let (true, UserNamespace::Off) = (nested.get_ref(), user) {
        let refusal = Refusal::new(
            "`nested` lets a service make namespaces below its own, and `user = \"off\"` gives it none",
        );
        reader.refuse(nested.span(), refusal.hint("leave `user` out"));
    }
    *nested.get_ref()
}

/// Seconds; none where the service has the host's clocks.
fn clock_offset(reader: &mut Reader<'_>) -> Option<i64> {
    let table = &reader.file.tables.namespaces;
    let own = table.time.as_ref().is_some_and(|time| *time.get_ref());
    let Some(value) = &table.clock_offset else { return own.then_some(0) };
    if !own {
        let refusal =
            Refusal::new("`clock_offset` moves the clocks of a time namespace, the service has none");
        reader.refuse(value.span(), refusal.hint("add `time = true`"));
    }
    reader.checked(value, |value| {
        let (sign, value) = match value {
            Scalar::Int(number) => (number.signum(), Scalar::Int(number.saturating_abs())),
            Scalar::Text(text) => match text.strip_prefix('-') {
                Some(rest) => (-1, Scalar::Text(rest.to_owned())),
                None => (1, value.clone()),
            },
            Scalar::Float(_) => (1, value.clone()),
        };
        let offset =
            value::parse_duration(&value)?.ok_or_else(|| Refusal::new("this cannot be \"infinity\""))?;
        if offset.subsec_nanos() != 0 {
            return Err(Refusal::new("the offset is no whole number of seconds"));
        }
        Ok(sign * i64::try_from(offset.as_secs()).unwrap_or(i64::MAX))
    })
}

fn hostname(name: String) -> Result<String, Refusal> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match name.len() <= MAX_HOSTNAME && name.split('.').all(label) {
        true => Ok(name),
        false => Err(Refusal::new(format!("{name:?} is not a host name"))
            .hint("write up to 64 letters, digits, '-', '_' and '.'")),
    }
}

fn domainname(name: String) -> Result<String, Refusal> {
    match name.is_empty() {
        true => Ok(name),
        false => hostname(name),
    }
}

fn machine_id(id: String) -> Result<String, Refusal> {
    let good = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match good && id.bytes().any(|b| b != b'0') {
        true => Ok(id),
        false => Err(Refusal::new(format!("{id:?} is not a machine id"))
            .hint("write 32 lower-case hexadecimal digits, not all of them zero (machine-id(5))")),
    }
}
