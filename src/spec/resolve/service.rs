//! `[service]`: the program, whom it runs as, and its environment.

use std::{collections::BTreeMap, path::PathBuf};

use toml::Spanned;

use super::{Reader, hooks, schedule};
use crate::{
    config::{
        Diagnostic,
        schema::{EnvFile, Scalar, Text},
        value::{self, MAX_ARG, Refusal},
    },
    spec::{
        Base, HookUser, HostUser, IdSpec, Kind, Reload, Service, Stdin, StopMode, StopPolicy, UserNamespace,
        UserSpec, defaults,
    },
};

const KINDS: &[(&str, Kind)] = &[
    ("exec", Kind::Exec),
    ("simple", Kind::Simple),
    ("notify", Kind::Notify),
    ("notify-reload", Kind::NotifyReload),
    ("forking", Kind::Forking),
    ("oneshot", Kind::Oneshot),
];
const STOP_MODES: &[(&str, StopMode)] =
    &[("mixed", StopMode::Mixed), ("control-group", StopMode::ControlGroup)];

pub(super) fn service(reader: &mut Reader<'_>, base: &Base, ids: &UserNamespace) -> Service {
    let table = &reader.file.tables.service;
    let who = identity(reader, base, ids);
    let env = environment(reader, &who);
    let command = match &table.command {
        Some(command) => reader.command(command, &env).unwrap_or_default(),
        None => {
            no_command(reader);
            Vec::new()
        }
    };
    let kind = kind(reader);
    let hooks = hooks::hooks(reader, &hooks::Around { env: &env, base, ids, kind });
    let working_dir = table.working_dir.as_ref().and_then(|text| reader.path(text));
    let umask =
        table.umask.as_ref().and_then(|text| {
            reader.checked(text, |text| {
                value::parse_octal(text).and_then(|mask| match mask {
                    0..=0o777 => Ok(mask),
                    _ => Err(Refusal::new(format!("{text:?} is not a file mode creation mask"))
                        .hint("write \"0077\"")),
                })
            })
        });
    let nice = table.nice.as_ref().and_then(|nice| reader.number(nice, -20..=19));
    let oom = table.oom_score_adj.as_ref().and_then(|score| reader.number(score, -1000..=1000));
    Service {
        command,
        kind,
        ready: super::ready::ready(reader, kind),
        pid_file: super::ready::pid_file(reader, kind),
        watchdog: super::ready::watchdog(reader, kind),
        working_dir: working_dir.unwrap_or_else(|| PathBuf::from(defaults::WORKING_DIR)),
        umask: umask.unwrap_or(defaults::UMASK),
        stdin: stdin(reader),
        tty: table.tty.as_ref().is_some_and(|tty| *tty.get_ref()),
        stop: stop(reader, &env),
        reload: reload(reader, kind, &env),
        reload_watch: watch(reader),
        start_timeout: reader.duration(&table.timeout.start).unwrap_or(defaults::START_TIMEOUT),
        run_timeout: reader.duration(&table.timeout.run).unwrap_or(defaults::RUN_TIMEOUT),
        hooks,
        success_exit: reader.exits(&table.success_exit),
        remain_after_exit: remain_after_exit(reader, kind),
        nice: nice.and_then(|nice| i32::try_from(nice).ok()),
        oom_score_adj: oom.and_then(|score| i32::try_from(score).ok()),
        sched: schedule::sched(reader),
        ioprio: schedule::ioprio(reader),
        fd_store_max: super::sockets::fd_store_max(reader),
        rollout: super::sockets::rollout(reader),
        env,
        user: who.user,
        group: who.group,
        extra_groups: who.extra_groups,
    }
}

/// Says that there is no command, unless what was meant to be one is a mistake that was told already.
fn no_command(reader: &mut Reader<'_>) {
    let places = &reader.file.places;
    // As systemd and Compose call it, and at the top level, it is answered as well.
    let is_meant = |key: &str| value::nearest(key, ["command", "execstart", "entrypoint", "cmd"]).is_some();
    if places.find("command").is_some()
        || ["service", "Service"].iter().any(|of| places.keys(of).any(is_meant))
    {
        return;
    }
    let hint = match places.find("service") {
        Some(_) => "add `command = [\"/path/of/the/program\"]` to [service]",
        None => "add a table [service] with `command = [\"/path/of/the/program\"]`",
    };
    reader.note(|reader| {
        Diagnostic::about(reader.file.sources.first_path(), "the service has no `command`")
            .hint(hint.to_owned())
    });
}

fn kind(reader: &mut Reader<'_>) -> Kind {
    reader.word("service.type", &reader.file.tables.service.r#type, KINDS).unwrap_or(defaults::KIND)
}

fn remain_after_exit(reader: &mut Reader<'_>, kind: Kind) -> bool {
    let Some(remain) =
        reader.file.tables.service.remain_after_exit.as_ref().filter(|remain| *remain.get_ref())
    else {
        return false;
    };
    if kind != Kind::Oneshot {
        let refusal =
            Refusal::new("`remain_after_exit` is for oneshots: a daemon that has ended is not active");
        reader.refuse(remain.span(), refusal.hint("add `type = \"oneshot\"`, or leave the key out"));
    }
    true
}

fn stdin(reader: &mut Reader<'_>) -> Stdin {
    let table = &reader.file.tables.service;
    let Some(text) = &table.stdin else { return defaults::STDIN };
    let Some(word) = reader.text(text) else { return defaults::STDIN };
    if let Some(tty) = table.tty.as_ref().filter(|tty| *tty.get_ref()) {
        let refusal = Refusal::new("with `tty = true` the terminal is the standard input");
        reader.refuse(tty.span(), refusal.hint("leave `stdin` or `tty` out"));
    }
    let parsed = match (word.as_str(), word.strip_prefix("file:")) {
        (_, Some(path)) => super::absolute(path).map(Stdin::File),
        ("null", _) => Ok(Stdin::Null),
        ("inherit", _) => Ok(Stdin::Inherit),
        ("socket", _) => Ok(Stdin::Socket),
        _ => Err(Refusal::new(format!("{word:?} is not a value of `service.stdin`"))
            .hint("write \"null\", \"inherit\", \"socket\" or \"file:/path\"")),
    };
    reader.take(text.span(), parsed).unwrap_or(defaults::STDIN)
}

fn stop(reader: &mut Reader<'_>, env: &BTreeMap<String, String>) -> StopPolicy {
    let table = &reader.file.tables.service.stop;
    let later = |word: &str| ["process", "none"].contains(&word);
    let mode = match table.mode.as_ref().filter(|text| later(text.get_ref())) {
        Some(text) => {
            let message = format!("`mode = {:?}` is not a feature of this version yet", text.get_ref());
            let hint = "write \"mixed\" or \"control-group\"; what is left in the sandbox is always ended";
            reader.refuse(text.span(), Refusal::new(message).hint(hint));
            None
        }
        None => reader.word("service.stop.mode", &table.mode, STOP_MODES),
    };
    let signal = table.signal.as_ref().and_then(|signal| reader.checked(signal, value::parse_signal));
    StopPolicy {
        signal: signal.unwrap_or(defaults::STOP_SIGNAL),
        command: table.command.as_ref().and_then(|command| reader.command(command, env)),
        timeout: reader.duration(&table.timeout).unwrap_or(defaults::STOP_TIMEOUT),
        mode: mode.unwrap_or(defaults::STOP_MODE),
    }
}

fn reload(reader: &mut Reader<'_>, kind: Kind, env: &BTreeMap<String, String>) -> Option<Reload> {
    let by_itself = kind == Kind::NotifyReload;
    let Some(entry) = reader.file.tables.service.reload.as_ref() else {
        return by_itself.then_some(defaults::NOTIFY_RELOAD);
    };
    if let (true, Some(command)) = (by_itself, &entry.get_ref().command) {
        let refusal = Refusal::new("a service of `type = \"notify-reload\"` is told to reload by a signal");
        reader.refuse(command.span(), refusal.hint("leave `command` out, or write `type = \"notify\"`"));
        return None;
    }
    match (&entry.get_ref().signal, &entry.get_ref().command) {
        (Some(signal), None) => reader.checked(signal, value::parse_signal).map(Reload::Signal),
        (None, Some(command)) => reader.command(command, env).map(Reload::Command),
        (Some(signal), Some(_)) => {
            let refusal = Refusal::new("`reload` is a signal or a command, not both");
            reader.refuse(signal.span(), refusal.hint("leave one of them out"));
            None
        }
        (None, None) if by_itself => Some(defaults::NOTIFY_RELOAD),
        (None, None) => {
            let refusal = Refusal::new("`reload` says neither a signal nor a command");
            reader.refuse(entry.span(), refusal.hint("add `signal = \"HUP\"`"));
            None
        }
    }
}

/// `service.reload.watch`.
fn watch(reader: &mut Reader<'_>) -> Vec<PathBuf> {
    let Some(watch) =
        reader.file.tables.service.reload.as_ref().and_then(|table| table.get_ref().watch.as_ref())
    else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for text in watch.get_ref() {
        let Some(path) = reader.path(text) else { continue };
        let kernels = ["/proc", "/sys"].into_iter().find(|kernel| path.starts_with(kernel));
        if let Some(kernel) = kernels {
            let refusal = Refusal::new(format!("nobody is told when something below {kernel} changes"));
            reader.refuse(text.span(), refusal.hint("name a file or directory of a disk"));
        } else if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.len() > defaults::MOST_WATCHED {
        let most = defaults::MOST_WATCHED;
        let refusal = Refusal::new(format!("{} paths are more than are watched", paths.len()));
        reader.refuse(
            watch.span(),
            refusal.hint(format!("name up to {most}, or the directories that they are in")),
        );
    }
    paths
}

/// Whom the service runs as, and what is known about that user.
#[derive(Default)]
struct Identity {
    user: UserSpec,
    group: Option<IdSpec>,
    extra_groups: Vec<IdSpec>,
    name: Option<String>,
    home: Option<String>,
    shell: Option<String>,
}

fn identity(reader: &mut Reader<'_>, base: &Base, ids: &UserNamespace) -> Identity {
    let table = &reader.file.tables.service;
    let mut who = Identity::default();
    let off = *ids == UserNamespace::Off;
    if let Some(value) = &table.user
        && let Some(id) =
            account(reader, "user", value).filter(|id| *id != IdSpec::Name("dynamic".to_owned()))
    {
        identify(reader, &mut who, value, id, (base, off));
    }
    if off {
        off_needs_a_user(reader, &who);
    }
    if let Some(value) = &table.group {
        who.group = account(reader, "group", value)
            .and_then(|id| group(reader, value, id, (base, off)))
            .or(who.group);
    }
    for value in table.extra_groups.iter().flatten() {
        let id = account(reader, "group", value).and_then(|id| group(reader, value, id, (base, off)));
        who.extra_groups.extend(id);
    }
    memberships(reader, &mut who, off || *base == Base::Host);
    let key = |id: &IdSpec| match id {
        IdSpec::Number(number) => (Some(*number), None),
        IdSpec::Name(name) => (None, Some(name.clone())),
    };
    who.extra_groups = super::unique(std::mem::take(&mut who.extra_groups), key);
    bounds(reader, &who, off);
    who
}

/// As initgroups(3) would: of whom is known by number nobody could look the memberships up later.
fn memberships(reader: &Reader<'_>, who: &mut Identity, is_hosts: bool) {
    if let (true, UserSpec::Named(IdSpec::Number(_)), Some(name)) = (is_hosts, &who.user, &who.name) {
        let groups = reader.host.groups.values();
        let own = groups.filter(|(_, members)| members.contains(name)).map(|(gid, _)| *gid);
        who.extra_groups.extend(own.map(IdSpec::Number));
    }
}

/// Whom a command runs as that does not run as the service's user.
pub(super) fn hook_user(
    reader: &mut Reader<'_>,
    value: &Spanned<Scalar>,
    base: &Base,
    ids: &UserNamespace,
) -> Option<HookUser> {
    let off = *ids == UserNamespace::Off;
    let id = account(reader, "user", value)?;
    let mut who = Identity::default();
    if id != IdSpec::Name("dynamic".to_owned()) {
        identify(reader, &mut who, value, id, (base, off));
    }
    memberships(reader, &mut who, off || *base == Base::Host);
    let refusal = match &who.user {
        UserSpec::Named(IdSpec::Number(0)) if off => {
            Refusal::new("with `namespaces.user = \"off\"` this would be the host's own root")
                .hint("write a user of the host that is not root, or `privileged = true`")
        }
        UserSpec::Named(IdSpec::Number(number)) if !off && *number > LAST_ID => {
            Refusal::new(format!("the user {number} is not one of the service's own ids"))
                .hint(format!("write a number up to {LAST_ID}"))
        }
        UserSpec::Named(_) | UserSpec::Dynamic => {
            let env = implied(&who);
            let Identity { user, group, extra_groups, .. } = who;
            return Some(HookUser { user, group, extra_groups, env });
        }
    };
    reader.refuse(value.span(), refusal);
    None
}

/// Variables that follow from the user.
fn implied(who: &Identity) -> BTreeMap<String, String> {
    let known = [("HOME", &who.home), ("USER", &who.name), ("LOGNAME", &who.name), ("SHELL", &who.shell)];
    let said = |(name, value): (&str, &Option<String>)| {
        value.as_ref().filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value.clone()))
    };
    known.into_iter().filter_map(said).collect()
}

/// Ids that the service cannot have: in its own range those that the range does not hold, without one the host's group
/// root, whose files are many.
fn bounds(reader: &mut Reader<'_>, who: &Identity, off: bool) {
    let table = &reader.file.tables.service;
    let group = table.group.as_ref().or(table.user.as_ref());
    let user = match &who.user {
        UserSpec::Named(id) => Some((table.user.as_ref(), id, "user")),
        UserSpec::Dynamic => None,
    };
    let groups = who.group.iter().map(|id| (group, id, "group"));
    let extra = table.extra_groups.iter().flatten().next().or(group);
    let extra = who.extra_groups.iter().map(|id| (extra, id, "group"));
    let all: Vec<_> = user.into_iter().chain(groups).chain(extra).collect();
    for (value, id, what) in all {
        let (Some(value), IdSpec::Number(number)) = (value, id) else { continue };
        let refusal = match off {
            true if *number == 0 && what == "group" && user_is_not_root(who) => {
                Refusal::new("with `namespaces.user = \"off\"` this would be the host's own group root")
                    .hint("write a `group` of the host that is not root")
            }
            // The last one is the waiting init's.
            false if *number > LAST_ID => Refusal::new(format!(
                "the {what} {number} is not one of the service's own ids"
            ))
            .hint(format!("write a number up to {LAST_ID}; `namespaces.user = \"off\"` has the host's ids")),
            _ => continue,
        };
        reader.refuse(value.span(), refusal);
        return;
    }
}

/// Or that has been said already.
fn user_is_not_root(who: &Identity) -> bool {
    who.user != UserSpec::Named(IdSpec::Number(0))
}

/// The last id of a service's range but one: nobody.
const LAST_ID: u32 = 65534;

/// With the host's ids a name is the host's too: what the root of the service says of it, others may have written.
fn identify(
    reader: &mut Reader<'_>,
    who: &mut Identity,
    value: &Spanned<Scalar>,
    id: IdSpec,
    (base, off): (&Base, bool),
) {
    let base = if off { &Base::Host } else { base };
    let host = reader.host;
    let on_host = |uid: u32| host.users.iter().find(|(_, user)| user.uid == uid && *base == Base::Host);
    let known: Option<(&String, &HostUser)> = match (&id, base) {
        (IdSpec::Number(uid), _) => on_host(*uid),
        (IdSpec::Name(name), Base::Host) => host.users.get_key_value(name),
        (IdSpec::Name(_), _) => None,
    };
    if let Some((name, user)) = known {
        who.user = UserSpec::Named(IdSpec::Number(user.uid));
        who.group = Some(IdSpec::Number(user.gid));
        (who.name, who.home, who.shell) =
            (Some(name.clone()), Some(user.home.clone()), Some(user.shell.clone()));
        return;
    }
    match (id, base) {
        (IdSpec::Number(0), _) => {
            who.user = UserSpec::Named(IdSpec::Number(0));
            who.group = Some(IdSpec::Number(0));
            (who.name, who.home) = (Some("root".to_owned()), Some("/root".to_owned()));
        }
        (IdSpec::Name(name), Base::Host) => {
            let refusal = Refusal::new(format!("there is no user {name:?} on this host"));
            let hint = match value::nearest(&name, host.users.keys().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "leave `user` out to get an id of its own".to_owned(),
            };
            reader.refuse(value.span(), refusal.hint(hint));
        }
        (IdSpec::Name(name), Base::None) => {
            let refusal = Refusal::new(format!("an empty root has no /etc/passwd that could know {name:?}"));
            reader.refuse(value.span(), refusal.hint("write the id as a number"));
        }
        (id, _) => {
            if let IdSpec::Name(name) = &id {
                who.name = Some(name.clone());
            }
            who.user = UserSpec::Named(id);
        }
    }
}

fn off_needs_a_user(reader: &mut Reader<'_>, who: &Identity) {
    let (Some(off), user) = (&reader.file.tables.namespaces.user, &reader.file.tables.service.user) else {
        return;
    };
    let (span, message) = match (&who.user, user) {
        (UserSpec::Named(IdSpec::Number(0)), Some(user)) => {
            (user.span(), "with `namespaces.user = \"off\"` this would be the host's own root")
        }
        // A user that was refused is a mistake of its own.
        (UserSpec::Dynamic, Some(user)) if !matches!(user.get_ref(), Scalar::Text(text) if text == "dynamic") =>
        {
            return;
        }
        (UserSpec::Dynamic, _) => {
            (off.span(), "`user = \"off\"` runs under the host's ids and needs a `service.user`")
        }
        _ => return,
    };
    let refusal = Refusal::new(message)
        .hint("write a `user` of the host that is not root in [service], or leave \"off\" out");
    reader.refuse(span, refusal);
}

/// A name or an id as it is written; `root` is 0 everywhere.
pub(super) fn account(reader: &mut Reader<'_>, key: &str, value: &Spanned<Scalar>) -> Option<IdSpec> {
    let text = match value.get_ref() {
        Scalar::Text(text) => reader.text(&Text::new(value.span(), text.clone()))?,
        Scalar::Int(number) => number.to_string(),
        // `0.0` would print as 0.
        Scalar::Float(number) => format!("{number:?}"),
    };
    let id = match text.as_str() {
        "root" => Ok(IdSpec::Number(0)),
        name if value::is_account_name(name) => Ok(IdSpec::Name(text)),
        // useradd(8) makes no such name, and others do: `0day` is who is called so, or nobody (CVE-2017-1000082).
        name if is_known_here(reader, key, name) => Ok(IdSpec::Name(text)),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
            value::parse_id(&text).map(IdSpec::Number)
        }
        _ => Err(Refusal::new(format!("{text:?} is not a {key} name"))
            .hint("names are up to 31 letters, digits, '_', '-' and '.', and begin with a letter or '_'")),
    };
    reader.take(value.span(), id)
}

/// The number of a user who must be known before the sandbox exists.
pub(super) fn known_id(
    reader: &mut Reader<'_>,
    value: &Spanned<Scalar>,
    id: IdSpec,
    base: &Base,
) -> Option<u32> {
    let name = match id {
        IdSpec::Number(id) => return Some(id),
        IdSpec::Name(name) => name,
    };
    let known = reader.host.users.get(&name).filter(|_| *base == Base::Host).map(|user| user.uid);
    if known.is_none() {
        let refusal = Refusal::new(format!("the number of {name:?} is not known before the sandbox exists"));
        reader.refuse(value.span(), refusal.hint("write the id as a number"));
    }
    known
}

/// A name of this host that begins with a digit, and is no number.
fn is_known_here(reader: &Reader<'_>, key: &str, name: &str) -> bool {
    let known = match key {
        "user" => reader.host.users.contains_key(name),
        _ => reader.host.groups.contains_key(name),
    };
    let letters = name.bytes().any(|b| b.is_ascii_alphabetic());
    known && letters && value::is_account_name(&format!("_{name}"))
}

fn group(
    reader: &mut Reader<'_>,
    value: &Spanned<Scalar>,
    id: IdSpec,
    (base, off): (&Base, bool),
) -> Option<IdSpec> {
    let base = if off { &Base::Host } else { base };
    let IdSpec::Name(name) = &id else { return Some(id) };
    match (base, reader.host.groups.get(name)) {
        (Base::Host, Some((gid, _))) => Some(IdSpec::Number(*gid)),
        (Base::Host, None) => {
            let near = value::nearest(name, reader.host.groups.keys().map(String::as_str));
            let refusal = Refusal::new(format!("there is no group {name:?} on this host"));
            let hint = near
                .map_or("write the id as a number".to_owned(), |near| format!("did you mean \"{near}\"?"));
            reader.refuse(value.span(), refusal.hint(hint));
            None
        }
        (Base::None, _) => {
            let refusal = Refusal::new(format!("an empty root has no /etc/group that could know {name:?}"));
            reader.refuse(value.span(), refusal.hint("write the id as a number"));
            None
        }
        (Base::Dir(_), _) => Some(id),
    }
}

/// Builds the whole environment from nothing. Later ones win: what the user implies, `pass_env` (below everything that
/// a file spells out, as with systemd), `env_file` in its order, `env`.
fn environment(reader: &mut Reader<'_>, who: &Identity) -> BTreeMap<String, String> {
    let table = &reader.file.tables.service;
    let host = reader.host;
    let mut env: BTreeMap<String, String> =
        defaults::ENV.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    env.extend(implied(who));
    for text in table.pass_env.iter().flatten() {
        let Some(name) = variable(reader, text) else { continue };
        if let Some(value) = host.env.get(&name) {
            env.insert(name, value.clone());
        }
    }
    for text in table.env_file.iter().flatten() {
        env.extend(env_file(reader, text).unwrap_or_default());
    }
    for (key, value) in &table.env {
        let name = variable(reader, key);
        let text = Text::new(value.span(), value.get_ref().to_string());
        let text = match value.get_ref() {
            Scalar::Float(_) => {
                let hint = format!("write it as a string: \"{}\"", value.get_ref());
                reader.refuse(value.span(), Refusal::new("a number can be written in many ways").hint(hint));
                None
            }
            Scalar::Int(_) | Scalar::Text(_) => reader.text(&text),
        };
        if let (Some(name), Some(text)) = (name, text) {
            let long = name.len() + 1 + text.len() > MAX_ARG;
            let refusal = || Refusal::new("the variable is longer than the 128K that execve(2) takes");
            reader.take(value.span(), if long { Err(refusal()) } else { Ok(()) });
            env.insert(name, text);
        }
    }
    if table_has_credentials(reader) {
        // Last: whoever looks there must find them.
        let dir = crate::spec::credential::directory(&reader.file.name);
        env.insert("CREDENTIALS_DIRECTORY".to_owned(), dir.display().to_string());
    }
    env
}

fn table_has_credentials(reader: &Reader<'_>) -> bool {
    reader.file.tables.security.credentials.as_ref().is_some_and(|list| !list.is_empty())
}

pub(super) fn variable(reader: &mut Reader<'_>, text: &Text) -> Option<String> {
    reader.checked(text, |name| match value::is_variable_name(name) {
        true => Ok(name.clone()),
        false => Err(Refusal::new(format!("{name:?} is not the name of an environment variable"))
            .hint("names are letters, digits and '_', and do not begin with a digit")),
    })
}

fn env_file(reader: &mut Reader<'_>, text: &Text) -> Option<BTreeMap<String, String>> {
    let written = reader.text(text)?;
    let (optional, path) = match written.strip_prefix('-') {
        Some(path) => (true, path),
        None => (false, written.as_str()),
    };
    let path = reader.take(text.span(), super::absolute(path))?;
    let shown = path.display();
    let result = match reader.file.env_files.get(&path) {
        Some(EnvFile::Text(lines)) => value::parse_env_file(lines)
            .map_err(|refusal| Refusal::new(format!("{shown}: {}", refusal.message))),
        Some(EnvFile::Missing) | None if optional => Ok(BTreeMap::new()),
        Some(EnvFile::Missing) | None => Err(Refusal::new(format!("there is no file {shown}"))
            .hint(format!("write \"-{shown}\" to do without it where it is missing"))),
        Some(EnvFile::Refused(message, hint)) => {
            Err(Refusal { message: format!("{shown}: {message}"), hint: hint.clone() })
        }
    };
    let env = reader.take(text.span(), result)?;
    let long = env.iter().find(|(name, value)| name.len() + 1 + value.len() > MAX_ARG);
    let checked = match long {
        Some((name, _)) => {
            Err(Refusal::new(format!("{shown}: {name} is longer than the 128K that execve(2) takes")))
        }
        None => Ok(env.clone()),
    };
    reader.take(text.span(), checked)
}
