//! `[[socket]]`.

use std::ops::Range;

use toml::Spanned;

use super::Reader;
use crate::{
    config::{
        Diagnostic,
        schema::{Scalar, SocketTable, Text},
        value::{self, Refusal},
    },
    machine::{RestartMode, RestartOn},
    spec::{
        Activation, Kind, Listen, Rollout, Socket, SocketKind, Stdin, Unit, Writable, defaults, parse_owner,
        socket::{MOST_CONNECTIONS, MOST_SOCKETS, MOST_STORED},
    },
};

const KINDS: &[(&str, SocketKind)] =
    &[("stream", SocketKind::Stream), ("dgram", SocketKind::Dgram), ("seqpacket", SocketKind::Seqpacket)];
const ACTIVATIONS: &[(&str, Activation)] = &[("boot", Activation::Boot), ("on-demand", Activation::OnDemand)];

/// The sockets with their places, and how the service is started.
pub(super) fn sockets(reader: &mut Reader<'_>) -> (Vec<(Socket, Range<usize>)>, Activation) {
    let list = &reader.file.tables.socket;
    let mut found: Vec<(Socket, Range<usize>)> = Vec::new();
    let mut activations = Vec::new();
    let accepts = |entry: &Spanned<SocketTable>| {
        entry.get_ref().accept.as_ref().is_some_and(|accept| *accept.get_ref())
    };
    for entry in list {
        let text = &entry.get_ref().activation;
        let activation = reader.word("socket.activation", text, ACTIVATIONS).unwrap_or_default();
        let activation = if accepts(entry) { Activation::OnDemand } else { activation };
        activations.push((activation, text.as_ref().map_or_else(|| entry.span(), Text::span)));
        let Some(socket) = socket(reader, entry) else { continue };
        if let Some((_, first)) = found.iter().find(|(other, _)| other.clashes_with(&socket)) {
            let message = format!("two sockets of the service cannot both listen on {socket}");
            let first = first.clone();
            reader.note(|reader| {
                let twice = Diagnostic::at(reader.at(&entry.span()), message);
                twice.hint("leave one of them out".to_owned()).note(reader.at(&first), "listens here first")
            });
        }
        found.push((socket, entry.span()));
    }
    if let Some(entry) = list.get(MOST_SOCKETS) {
        let message = format!("a service has at most {MOST_SOCKETS} sockets");
        reader.refuse(entry.span(), Refusal::new(message).hint("divide the work between two services"));
    }
    let (some, others): (Vec<_>, Vec<_>) = list.iter().partition(|entry| accepts(entry));
    if let (Some(_), Some(other)) = (some.first(), others.first()) {
        let refusal = Refusal::new("the sockets of one service are all accepted from, or none is");
        reader.refuse(other.span(), refusal.hint("write `accept = true` in every [[socket]], or in none"));
        return (found, Activation::OnDemand);
    }
    let activation = activations.first().map_or(Activation::Boot, |(activation, _)| *activation);
    if let Some((_, span)) = activations.iter().find(|(other, _)| *other != activation) {
        let refusal = Refusal::new("the sockets of one service are activated in the same way");
        reader.refuse(span.clone(), refusal.hint("write the same `activation` in every [[socket]]"));
    }
    (found, activation)
}

/// `service.fd_store_max`.
pub(super) fn fd_store_max(reader: &mut Reader<'_>) -> u32 {
    let key = &reader.file.tables.service.fd_store_max;
    let most = key.as_ref().and_then(|most| reader.number(most, 0..=i64::from(MOST_STORED)));
    most.and_then(|most| u32::try_from(most).ok()).unwrap_or(0)
}

fn socket(reader: &mut Reader<'_>, entry: &Spanned<SocketTable>) -> Option<Socket> {
    let table = entry.get_ref();
    let listen = match &table.listen {
        Some(value) => listen(reader, value),
        None => {
            let refusal = Refusal::new("the socket does not say where to listen");
            reader.refuse(entry.span(), refusal.hint("add `listen = \"127.0.0.1:8080\"`, or a path"));
            None
        }
    };
    let kind = reader.word("socket.type", &table.r#type, KINDS).unwrap_or(defaults::SOCKET_KIND);
    let accept = accept(reader, table, kind);
    let name = match &table.name {
        Some(text) => reader.text(text).and_then(|name| reader.take(text.span(), checked_name(name))),
        None if accept.is_some() => Some(defaults::CONNECTION_NAME.to_owned()),
        None => Some(reader.file.name.to_string()),
    };
    let backlog = table.backlog.as_ref().and_then(|backlog| reader.number(backlog, 1..=1 << 20));
    let mode = table.mode.as_ref().and_then(|text| reader.checked(text, |text| mode(text)));
    let user = table.user.as_ref().and_then(|value| account(reader, "", value));
    let group = table.group.as_ref().and_then(|value| account(reader, "group:", value));
    let listen = listen?;
    fits(reader, table, &listen, kind);
    Some(Socket {
        listen,
        kind,
        name: name?,
        backlog: backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(defaults::SOCKET_BACKLOG),
        mode: mode.unwrap_or(defaults::SOCKET_MODE),
        user: user.unwrap_or(0),
        group: group.unwrap_or(0),
        accept,
    })
}

/// How many connections are answered at a time, where each gets a run of its own.
fn accept(reader: &mut Reader<'_>, table: &SocketTable, kind: SocketKind) -> Option<u32> {
    let most = table.max_connections.as_ref();
    let Some(accept) = table.accept.as_ref().filter(|accept| *accept.get_ref()) else {
        if let Some(most) = most {
            let refusal = Refusal::new("`max_connections` is about connections that Palisade accepts");
            reader.refuse(most.span(), refusal.hint("add `accept = true`, or leave it out"));
        }
        return None;
    };
    if kind == SocketKind::Dgram {
        let refusal = Refusal::new("nobody connects to a socket of type \"dgram\"");
        reader.refuse(accept.span(), refusal.hint("leave `accept` out, or write another `type`"));
    }
    if let Some(text) = &table.activation {
        let refusal = Refusal::new("with `accept` it is always a connection that starts a run");
        reader.refuse(text.span(), refusal.hint("leave `activation` out"));
    }
    let most = most.and_then(|most| reader.number(most, 1..=i64::from(MOST_CONNECTIONS)));
    Some(most.and_then(|most| u32::try_from(most).ok()).unwrap_or(defaults::MAX_CONNECTIONS))
}

/// Refuses what has no meaning where every connection has a run of its own (`socket.accept`): there is none that lasts, and
/// there are several at a time.
pub(super) fn many_runs(reader: &mut Reader<'_>, unit: &Unit) {
    let tables = &reader.file.tables;
    let stdin = tables.service.stdin.as_ref().map(Text::span).filter(|_| unit.service.stdin == Stdin::Socket);
    if !unit.accepts() {
        if let Some(span) = stdin {
            let refusal = Refusal::new("there is no connection that could be the standard input");
            reader.refuse(span, refusal.hint("add a [[socket]] with `accept = true`"));
        }
        return;
    }
    let never = unit.restart.on == RestartOn::Never;
    let found = [
        (tables.restart.policy.as_ref().filter(|_| !never).map(Text::span), "restart.policy", NO_RESTART),
        (tables.service.rollout.as_ref().map(Text::span), "service.rollout", NO_RUN),
        (tables.health.as_ref().map(Spanned::span), "health", NO_RUN),
        (tables.timer.as_ref().map(Spanned::span), "timer", NO_RUN),
        (tables.service.fd_store_max.as_ref().map(Spanned::span), "service.fd_store_max", NO_RUN),
        (tables.service.remain_after_exit.as_ref().map(Spanned::span), "service.remain_after_exit", NO_RUN),
        (
            tables.network.publish.as_ref().and_then(|list| Some(list.first()?.span())),
            "network.publish",
            "with `accept = true` nothing of the service listens by itself",
        ),
        (
            tables
                .rootfs
                .writable
                .as_ref()
                .map(Text::span)
                .filter(|_| unit.rootfs.writable == Writable::Persistent),
            "rootfs.writable",
            "runs for several connections cannot write to one persistent root at the same time",
        ),
        (
            tables
                .security
                .capabilities
                .as_ref()
                .map(|list| list.first().map_or(0..0, Text::span))
                .filter(|_| unit.has_network_power()),
            "security.capabilities",
            "runs for several connections share one network, and none may have power over it",
        ),
    ];
    for (span, key, why) in found {
        if let Some(span) = span {
            reader.refuse(
                span,
                Refusal::new(format!("`{key}`: {why}")).hint(format!("leave `{key}` out, or `accept`")),
            );
        }
    }
}

const NO_RESTART: &str = "a run ends with its connection, and is never started again";
const NO_RUN: &str = "with `accept = true` there is no run that lasts, but one for each connection";

fn listen(reader: &mut Reader<'_>, value: &Spanned<Scalar>) -> Option<Listen> {
    let text = match value.get_ref() {
        Scalar::Text(text) => reader.text(&Text::new(value.span(), text.clone()))?,
        Scalar::Int(number) => number.to_string(),
        Scalar::Float(number) => format!("{number:?}"),
    };
    match reader.take(value.span(), value::parse_listen(&text))? {
        Listen::Unix(path) => {
            let path = reader.take(value.span(), super::absolute(&path.display().to_string()))?;
            let is_file = path.file_name().is_some() && !text.ends_with('/');
            let refusal =
                || Refusal::new(format!("{text:?} is not the path of a socket")).hint("name a file");
            reader.take(value.span(), if is_file { Ok(Listen::Unix(path)) } else { Err(refusal()) })
        }
        ip @ Listen::Ip(_) => Some(ip),
    }
}

/// Refuses what has no meaning for this kind of socket: it would be ignored.
fn fits(reader: &mut Reader<'_>, table: &SocketTable, listen: &Listen, kind: SocketKind) {
    let mut wrong = Vec::new();
    if let Listen::Ip(_) = listen {
        let spans = [
            ("mode", table.mode.as_ref().map(Text::span)),
            ("user", table.user.as_ref().map(Spanned::span)),
            ("group", table.group.as_ref().map(Spanned::span)),
        ];
        let why = "is about the file of a Unix socket, and this one has none";
        wrong.extend(spans.into_iter().filter_map(|(key, span)| Some((key, span?, why))));
        if let (SocketKind::Seqpacket, Some(text)) = (kind, &table.r#type) {
            let refusal = Refusal::new("only Unix sockets are of type \"seqpacket\"");
            reader.refuse(text.span(), refusal.hint("write \"stream\" for TCP or \"dgram\" for UDP"));
        }
    }
    if let (SocketKind::Dgram, Some(backlog)) = (kind, &table.backlog) {
        wrong.push(("backlog", backlog.span(), "counts connections, and datagrams need none"));
    }
    for (key, span, why) in wrong {
        reader.refuse(span, Refusal::new(format!("`{key}` {why}")).hint("leave it out"));
    }
}

/// sd_listen_fds_with_names(3): names are separated by colons.
fn checked_name(name: String) -> Result<String, Refusal> {
    let good =
        (1..=255).contains(&name.len()) && name.bytes().all(|b| (b'!'..=b'~').contains(&b) && b != b':');
    match good {
        true => Ok(name),
        false => Err(Refusal::new(format!("{name:?} is not the name of a socket"))
            .hint("names are up to 255 visible ASCII characters without ':' and blanks")),
    }
}

fn mode(text: &str) -> Result<u32, Refusal> {
    let mode = value::parse_octal(text)?;
    match mode & !0o666 {
        0 => Ok(mode),
        _ => Err(Refusal::new(format!("{text:?} is not the mode of a socket"))
            .hint("whoever may write to it may connect: write \"0600\", \"0660\" or \"0666\"")),
    }
}

/// A user or group of the host: the file lies there.
fn account(reader: &mut Reader<'_>, kind: &str, value: &Spanned<Scalar>) -> Option<u32> {
    let word = match value.get_ref() {
        Scalar::Text(text) => reader.text(&Text::new(value.span(), text.clone()))?,
        other => other.to_string(),
    };
    let host = reader.host;
    reader.take(value.span(), parse_owner(&format!("{kind}{word}"), host).map(|owner| owner.id()))
}

const ROLLOUTS: &[(&str, Rollout)] = &[("restart", Rollout::Restart), ("blue-green", Rollout::BlueGreen)];

/// `service.rollout`.
pub(super) fn rollout(reader: &mut Reader<'_>) -> Rollout {
    reader.word("service.rollout", &reader.file.tables.service.rollout, ROLLOUTS).unwrap_or_default()
}

/// Refuses what two runs cannot have at the same time.
pub(super) fn two_runs(reader: &mut Reader<'_>, unit: &Unit) {
    let Some(text) = &reader.file.tables.service.rollout else { return };
    if unit.service.rollout != Rollout::BlueGreen {
        return;
    }
    let refusal = if unit.service.kind == Kind::Oneshot {
        Refusal::new("a oneshot has nothing that another run could take over").hint("leave `rollout` out")
    } else if unit.sockets.is_empty() {
        Refusal::new("two runs of a service share what Palisade listens on for it, and that is nothing")
            .hint("add a [[socket]], or leave `rollout` out")
    } else if unit.has_network_power() {
        Refusal::new("with power over its network a service has a new one in every run: two cannot share it")
            .hint("leave CAP_NET_ADMIN and CAP_NET_RAW out, or `rollout`")
    } else if unit.rootfs.writable == Writable::Persistent {
        Refusal::new("two runs cannot write to one persistent root at the same time")
            .hint("write to a mount or into memory instead, or leave `rollout` out")
    } else if unit.restart.mode == RestartMode::InPlace {
        Refusal::new("`restart.mode = \"in-place\"` keeps one sandbox, and two runs need two")
            .hint("leave one of the two out")
    } else {
        return;
    };
    reader.refuse(text.span(), refusal);
}
