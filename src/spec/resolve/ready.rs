//! When a service is ready, and how it says so: `service.ready`, `service.pid_file`, `service.watchdog`.

use std::{path::PathBuf, time::Duration};

use super::Reader;
use crate::{
    config::{schema::Text, value::Refusal},
    spec::{Families, Kind, Network, Ready, Rootfs, Service, defaults},
};

/// Descriptors of the service: behind the standard ones, and below those that the init uses on the way.
const FDS: std::ops::RangeInclusive<i32> = 3..=255;
/// Bytes that the init has for the path of a pid file.
pub(super) const LONGEST_PID_FILE: usize = 255;

pub(super) fn ready(reader: &mut Reader<'_>, kind: Kind) -> Option<Ready> {
    let text = reader.file.tables.service.ready.as_ref()?;
    let word = reader.text(text)?;
    let parsed = parse(&word);
    let ready = reader.take(text.span(), parsed)?;
    let refusal = match kind {
        Kind::Oneshot => Refusal::new("a oneshot is ready when it has ended with success")
            .hint("leave `ready` out, or write another `type`"),
        Kind::Notify | Kind::NotifyReload if ready != Ready::Notify => {
            Refusal::new("with this `type` it is ready when it says so on its notify socket")
                .hint("leave `ready` out, or write `type = \"exec\"`")
        }
        Kind::Exec | Kind::Simple | Kind::Forking | Kind::Notify | Kind::NotifyReload => return Some(ready),
    };
    reader.refuse(text.span(), refusal);
    None
}

fn parse(word: &str) -> Result<Ready, Refusal> {
    let fd = |number: &str| {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let fd = number.parse().ok().filter(|fd| is_number && FDS.contains(fd));
        fd.ok_or_else(|| {
            Refusal::new(format!("{number:?} is no number for a descriptor of its own")).hint(format!(
                "write \"fd:{}\" to \"fd:{}\"",
                FDS.start(),
                FDS.end()
            ))
        })
    };
    match word.split_once(':') {
        None if word == "notify" => Ok(Ready::Notify),
        None if word == "fd" => Ok(Ready::Fd(defaults::READY_FD)),
        Some(("fd", number)) => fd(number).map(Ready::Fd),
        Some(_) | None => super::probes::parse_ready(word),
    }
}

pub(super) fn pid_file(reader: &mut Reader<'_>, kind: Kind) -> Option<PathBuf> {
    let text: &Text = reader.file.tables.service.pid_file.as_ref()?;
    let path = reader.path(text)?;
    let refusal = if kind != Kind::Forking {
        Refusal::new("`pid_file` is for daemons that their starter leaves behind")
            .hint("add `type = \"forking\"`, or leave the key out")
    } else if path.as_os_str().len() > LONGEST_PID_FILE {
        Refusal::new(format!("the path is longer than {LONGEST_PID_FILE} bytes"))
    } else {
        return Some(path);
    };
    reader.refuse(text.span(), refusal);
    None
}

pub(super) fn watchdog(reader: &mut Reader<'_>, kind: Kind) -> Option<Duration> {
    let key = &reader.file.tables.service.watchdog;
    let span = key.as_ref()?.span();
    let interval = reader.bounded(key)?;
    let refusal = if kind == Kind::Oneshot {
        Refusal::new("a oneshot has no watchdog").hint("`service.timeout.start` bounds its time")
    } else if interval < Duration::from_millis(1) {
        Refusal::new("nobody can be so quick").hint("write a duration of 1ms or more, or leave the key out")
    } else {
        return Some(interval);
    };
    reader.refuse(span, refusal);
    None
}

/// What the rest of the file must allow; `given` is how many descriptors it gets from 3 on.
pub(super) fn needs(
    reader: &mut Reader<'_>,
    service: &Service,
    (rootfs, network, given): (&Rootfs, &Network, usize),
) {
    let table = &reader.file.tables.service;
    let free = 3 + i32::try_from(given).unwrap_or(i32::MAX);
    if let (Some(fd), Some(text)) = (service.ready_fd().filter(|fd| *fd < free), &table.ready) {
        let refusal =
            Refusal::new(format!("descriptor {fd} is that of a held socket or a stored descriptor"));
        reader.refuse(text.span(), refusal.hint(format!("write \"fd:{free}\" or more")));
    }
    let kind = table.r#type.as_ref().map(toml::Spanned::span);
    if let (Kind::Forking, None, None, false, Some(span)) =
        (service.kind, &service.pid_file, &table.pid_file, rootfs.proc, kind.clone())
    {
        let refusal = Refusal::new("without /proc nobody finds the daemon that was left behind");
        reader.refuse(span, refusal.hint("add `pid_file`, or leave `rootfs.proc` out"));
    }
    let has_unix = match &network.address_families {
        Families::Default | Families::Any => true,
        Families::Only(names) => names.iter().any(|name| name == "unix"),
    };
    let span = table.ready.as_ref().map(toml::Spanned::span).filter(|_| service.ready == Some(Ready::Notify));
    let span = span.or(table.watchdog.as_ref().map(toml::Spanned::span)).or(kind);
    if let (true, false, Some(span)) = (service.notifies(), has_unix, span) {
        let refusal = Refusal::new("it says how it is on a Unix socket, which it is not allowed to make");
        reader.refuse(span, refusal.hint("add \"unix\" to `network.address_families`"));
    }
}
