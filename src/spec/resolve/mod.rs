//! From what the user typed to the [`Unit`]: defaults, specifiers, checked values, ids, environment. Pure.
//!
//! Every mistake is noted and a stand-in taken for the value, so that one pass finds them all; a `Unit` comes back
//! only where there was none.

mod condition;
mod credentials;
mod hooks;
mod http;
mod limits;
mod link;
mod log;
mod metrics;
mod namespaces;
mod network;
mod owners;
mod probes;
mod ready;
mod relations;
mod rootfs;
mod schedule;
mod seccomp;
mod security;
mod service;
mod sockets;
#[cfg(test)]
mod tests;
mod timer;
mod walls;

pub(crate) use network::clash;
pub(crate) use owners::parse_owner;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
    time::Duration,
};

use toml::Spanned;

use super::{
    ExitMatch, Host, HostFacts, Namespace, Publish, Socket, Unit, UnitName, UserNamespace, defaults,
};
use crate::{
    config::{
        diagnostic::{Diagnostic, Location},
        schema::{RestartTable, Scalar, ServiceFile, Text, UnitTable, WordOrList},
        value::{self, Refusal, Specifiers},
    },
    machine::{Policy, RestartMode, RestartOn},
    net::addr::Mac,
};

/// What a unit says about others or about what there is one of on the host, with the span where it says so: for the
/// checks that need all files.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// `requires` and `binds_to`.
    pub requires: Vec<(UnitName, Range<usize>)>,
    /// `after`.
    pub after: Vec<(UnitName, Range<usize>)>,
    /// `before`.
    pub before: Vec<(UnitName, Range<usize>)>,
    /// Whatever else names a service in `[unit]`; none of it makes anybody wait.
    pub others: Vec<(UnitName, Range<usize>)>,
    /// `join:NAME`: a namespace can only be joined while its owner runs, so this requires and orders as well. That of
    /// `network.mode` comes last.
    pub joins: Vec<(UnitName, Range<usize>)>,
    /// `shared:NAME`.
    pub shares: Vec<(UnitName, Range<usize>)>,
    /// `network.allow_to` and `allow_from`: whoever is named need not run, nor be made for it.
    pub peers: Vec<(UnitName, Range<usize>)>,
    /// `network.address`.
    pub address: Option<(std::net::Ipv4Addr, Range<usize>)>,
    /// `network.mac`, on a bridge.
    pub port: Option<((String, Mac), Range<usize>)>,
    /// `network.publish`.
    pub publish: Vec<(Publish, Range<usize>)>,
    /// `[[socket]]`.
    pub sockets: Vec<(Socket, Range<usize>)>,
    /// `http.host`.
    pub hosts: Vec<(Host, Range<usize>)>,
}

impl Claims {
    /// Every other service that has to be there because of the file.
    pub fn names(&self) -> impl Iterator<Item = &UnitName> {
        let order = self.after.iter().chain(&self.before);
        let needs = self.requires.iter().chain(&self.joins).chain(&self.shares);
        needs.chain(order).chain(&self.others).map(|(name, _)| name)
    }
}

/// Resolves one service file.
///
/// # Errors
/// Everything that is wrong with the values of the file; what other files say is not looked at.
pub fn resolve(file: &ServiceFile, host: &HostFacts) -> Result<Unit, Vec<Diagnostic>> {
    resolve_with_claims(file, host).map(|(unit, _)| unit)
}

/// As [`resolve`], with what the checks across files need.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with_claims(file: &ServiceFile, host: &HostFacts) -> Result<(Unit, Claims), Vec<Diagnostic>> {
    let mut reader = Reader::new(file, host);
    let reader = &mut reader;
    let tables = &file.tables;
    let UnitTable { description, documentation, profile, owners, enabled, .. } = &tables.unit;
    let description = description.as_ref().and_then(|text| reader.line(text));
    let documentation = documentation.iter().flatten().filter_map(|text| reader.line(text)).collect();
    let owners = owners::owners(reader, owners);
    let condition = condition::checks(reader, &tables.unit.condition);
    let assert = condition::checks(reader, &tables.unit.assert);
    no_instances(reader);
    let relations = relations::relations(reader);
    let namespaces = namespaces::namespaces(reader);
    let rootfs = rootfs::rootfs(reader);
    let (network, claims) = network::network(reader);
    let (sockets, activation) = sockets::sockets(reader);
    let service = service::service(reader, &rootfs.base, &namespaces.user);
    let given = sockets.len() + usize::try_from(service.fd_store_max).unwrap_or(usize::MAX);
    ready::needs(reader, &service, (&rootfs, &network, given));
    let security = security::security(reader, &service, &namespaces, &rootfs);
    let limits = limits::limits(reader, &namespaces.user);
    let restart = restart(reader, &tables.restart, service.kind == super::Kind::Oneshot);
    let health = probes::health(reader, &service.env, service.kind);
    let log_full = log::full(reader, &tables.log);
    let log = log::log(reader, &tables.log);
    let labels = metrics::labels(reader);
    let timer = timer::timer(reader);
    let (http, hosts) = http::http(reader, &network.mode).unzip();
    let ingress = http::ingress(reader, &service, &network.mode);
    let mut claims = Claims {
        joins: joined(&namespaces, reader).into_iter().chain(claims.joins.iter().cloned()).collect(),
        shares: shared(&namespaces.user, reader),
        sockets: sockets.clone(),
        hosts: hosts.unwrap_or_default(),
        ..claims
    };
    let mut unit = Unit {
        name: file.name.clone(),
        description: description.unwrap_or_else(|| file.name.to_string()),
        condition,
        assert,
        documentation,
        // It was found by this name, or that was told where it was looked for.
        profile: profile.as_ref().map(|profile| profile.get_ref().clone()),
        owners,
        enabled: enabled.unwrap_or(defaults::ENABLED),
        requires: Vec::new(),
        wants: Vec::new(),
        binds_to: Vec::new(),
        part_of: Vec::new(),
        upholds: Vec::new(),
        conflicts: Vec::new(),
        after: Vec::new(),
        before: Vec::new(),
        on_failure: Vec::new(),
        on_success: Vec::new(),
        service,
        restart,
        namespaces,
        rootfs,
        network,
        sockets: sockets.into_iter().map(|(socket, _)| socket).collect(),
        activation,
        security,
        limits,
        health,
        log,
        labels,
        timer,
        log_full,
        http,
        ingress,
    };
    relations.tell(&mut unit, &mut claims);
    sockets::two_runs(reader, &unit);
    sockets::many_runs(reader, &unit);
    link::held_by_power(reader, &unit);
    link::no_power_over_others(reader, &unit);
    match std::mem::take(&mut reader.found) {
        found if found.is_empty() => Ok((unit, claims)),
        found => Err(found),
    }
}

/// Only a template has instances.
fn no_instances(reader: &mut Reader<'_>) {
    let path = reader.file.sources.first_path();
    let is_template = path.to_str().is_some_and(|path| path.ends_with("@.toml"));
    if let Some(key) = reader.file.tables.unit.instances.as_ref().filter(|_| !is_template) {
        let name = reader.file.name.as_str();
        let prefix = name.split_once('@').map_or(name, |(prefix, _)| prefix);
        let refusal = Refusal::new("`instances` is for templates");
        let hint = format!("call the file {}@.toml, or take the key out", prefix);
        reader.refuse(key.span(), refusal.hint(hint));
    }
}

/// The services whose namespaces are joined, and where the file says so.
fn joined(namespaces: &super::Namespaces, reader: &Reader<'_>) -> Vec<(UnitName, Range<usize>)> {
    let table = &reader.file.tables.namespaces;
    let keys = [
        (&namespaces.pid, &table.pid),
        (&namespaces.uts, &table.uts),
        (&namespaces.ipc, &table.ipc),
        (&namespaces.cgroup, &table.cgroup),
    ];
    keys.into_iter()
        .filter_map(|(namespace, key)| match (namespace, key) {
            (Namespace::Join(name), Some(key)) => Some((name.clone(), key.span())),
            _ => None,
        })
        .collect()
}

fn shared(user: &UserNamespace, reader: &Reader<'_>) -> Vec<(UnitName, Range<usize>)> {
    match (user, &reader.file.tables.namespaces.user) {
        (UserNamespace::Shared(name), Some(text)) => vec![(name.clone(), text.span())],
        _ => Vec::new(),
    }
}

/// The first of each, in their order.
fn unique<T, K: Ord>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

/// Mistakes of one file that are told one by one.
pub(crate) const MOST: usize = 50;

const POLICIES: &[(&str, RestartOn)] = &[
    ("always", RestartOn::Always),
    ("on-failure", RestartOn::OnFailure),
    ("on-abnormal", RestartOn::OnAbnormal),
    ("on-success", RestartOn::OnSuccess),
    ("never", RestartOn::Never),
];
const RESTART_MODES: &[(&str, RestartMode)] =
    &[("fresh", RestartMode::Fresh), ("in-place", RestartMode::InPlace)];

fn restart(reader: &mut Reader<'_>, table: &RestartTable, oneshot: bool) -> Policy {
    let on = reader.word("restart.policy", &table.policy, POLICIES).unwrap_or(defaults::RESTART_ON);
    if let (true, Some(text), RestartOn::Always | RestartOn::OnSuccess) = (oneshot, &table.policy, on) {
        let message = format!("a oneshot with `policy = {:?}` would run again and again", text.get_ref());
        reader.refuse(text.span(), Refusal::new(message).hint("write \"on-failure\", or \"never\""));
    }
    let delay = reader.bounded(&table.delay).unwrap_or(defaults::RESTART_DELAY);
    let max_delay = reader.bounded(&table.max_delay).unwrap_or(defaults::RESTART_MAX_DELAY);
    let longer = table.delay.as_ref().or(table.max_delay.as_ref()).filter(|_| delay > max_delay);
    if let Some(key) = longer {
        let message = format!("`delay` ({delay:?}) is longer than `max_delay` ({max_delay:?})");
        reader.refuse(key.span(), Refusal::new(message).hint("raise `max_delay`"));
    }
    Policy {
        on,
        delay,
        factor: table
            .factor
            .as_ref()
            .and_then(|v| reader.checked(v, factor))
            .unwrap_or(defaults::RESTART_FACTOR),
        max_delay,
        jitter: table
            .jitter
            .as_ref()
            .and_then(|v| reader.checked(v, jitter))
            .unwrap_or(defaults::RESTART_JITTER),
        reset_after: reader.bounded(&table.reset_after).unwrap_or(defaults::RESTART_RESET_AFTER),
        max: restart_budget(reader, table),
        prevent_exit: reader.exits(&table.prevent_exit),
        force_exit: reader.exits(&table.force_exit),
        mode: reader.word("restart.mode", &table.mode, RESTART_MODES).unwrap_or(defaults::RESTART_MODE),
    }
}

fn restart_budget(reader: &mut Reader<'_>, table: &RestartTable) -> Option<(u32, Duration)> {
    let max = table.max.as_ref().and_then(|max| reader.number(max, 0..=1_000_000));
    let within = reader.bounded(&table.within);
    match (&table.max, &table.within) {
        (Some(key), None) => {
            let refusal = Refusal::new("`max` says how many restarts, not in what time");
            reader.refuse(key.span(), refusal.hint("add `within`, such as `within = \"10min\"`"));
        }
        (None, Some(key)) => {
            let refusal = Refusal::new("`within` says in what time, not how many restarts");
            reader.refuse(key.span(), refusal.hint("add `max`, such as `max = 5`"));
        }
        _ => {}
    }
    Some((u32::try_from(max?).ok()?, within?))
}

fn factor(value: &Scalar) -> Result<f64, Refusal> {
    let factor = match value {
        Scalar::Int(number) => i32::try_from(*number).map(f64::from).unwrap_or(f64::NAN),
        Scalar::Float(number) => *number,
        Scalar::Text(text) => text.parse().unwrap_or(f64::NAN),
    };
    match (1.0..=100.0).contains(&factor) {
        true => Ok(factor),
        false => Err(Refusal::new(format!("{value} is not a factor")).hint("write a number, 1 to 100")),
    }
}

fn jitter(value: &Scalar) -> Result<f64, Refusal> {
    let share = match value {
        Scalar::Int(number) => i32::try_from(*number).map(f64::from).unwrap_or(f64::NAN),
        Scalar::Float(number) => *number,
        Scalar::Text(text) => {
            text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or(f64::NAN)
                / 100.0
        }
    };
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(Refusal::new(format!("{value} is not a share of the delay"))
            .hint("write a percentage, \"0%\" to \"100%\"")),
    }
}

/// Reads values and notes what is wrong with them.
pub(super) struct Reader<'a> {
    file: &'a ServiceFile,
    host: &'a HostFacts,
    found: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a ServiceFile, host: &'a HostFacts) -> Self {
        Self { file, host, found: Vec::new() }
    }

    fn at(&self, span: &Range<usize>) -> Location {
        self.file.sources.locate(span)
    }

    fn refuse(&mut self, span: Range<usize>, refusal: Refusal) {
        self.note(|reader| Diagnostic::at(reader.at(&span), refusal.message).hint(refusal.hint));
    }

    /// Notes a mistake; beyond [`MOST`] only that there are more, for each holds the line that it is in.
    fn note(&mut self, mistake: impl FnOnce(&Self) -> Diagnostic) {
        match self.found.len() {
            0..MOST => {
                let mistake = mistake(self);
                self.found.push(mistake);
            }
            MOST => {
                let message = format!("more than {MOST} values are wrong");
                self.found.push(Diagnostic::about(self.file.sources.first_path(), message));
            }
            _ => {}
        }
    }

    /// The value of `result`; its refusal is noted.
    fn take<T>(&mut self, span: Range<usize>, result: Result<T, Refusal>) -> Option<T> {
        result.map_err(|refusal| self.refuse(span, refusal)).ok()
    }

    /// Runs `check` on a value.
    fn checked<V, T>(
        &mut self,
        value: &Spanned<V>,
        check: impl FnOnce(&V) -> Result<T, Refusal>,
    ) -> Option<T> {
        self.take(value.span(), check(value.get_ref()))
    }

    /// A string with its specifiers replaced.
    fn text(&mut self, text: &Text) -> Option<String> {
        let specifiers = Specifiers { name: &self.file.name, hostname: &self.host.hostname };
        self.take(text.span(), specifiers.expand(text.get_ref()))
    }

    /// As `text`, without control characters: it goes to terminals and logs.
    fn line(&mut self, text: &Text) -> Option<String> {
        let line = self.text(text)?;
        let refusal = || Err(Refusal::new("this is to be one line without control characters"));
        let checked = if line.contains(char::is_control) { refusal() } else { Ok(line) };
        self.take(text.span(), checked)
    }

    /// An absolute path without `..`; `//` and `/./` are taken out.
    fn path(&mut self, text: &Text) -> Option<PathBuf> {
        let path = self.text(text)?;
        self.take(text.span(), absolute(&path))
    }

    fn paths(&mut self, list: &Option<Vec<Text>>) -> Vec<PathBuf> {
        list.iter().flatten().filter_map(|text| self.path(text)).collect()
    }

    /// One of a few words.
    fn word<T: Clone>(&mut self, key: &str, text: &Option<Text>, words: &[(&str, T)]) -> Option<T> {
        let text = text.as_ref()?;
        let word = self.text(text)?;
        self.take(text.span(), one_of(key, &word, words))
    }

    /// A duration or `infinity`; the outer none stands for a key that is not there.
    fn duration(&mut self, value: &Option<Spanned<Scalar>>) -> Option<Option<Duration>> {
        let value = value.as_ref()?;
        self.checked(value, value::parse_duration)
    }

    /// A duration that ends.
    fn bounded(&mut self, value: &Option<Spanned<Scalar>>) -> Option<Duration> {
        let duration = self.duration(value)?;
        let span = value.as_ref()?.span();
        self.take(
            span,
            duration.ok_or_else(|| Refusal::new("this cannot be \"infinity\"").hint("write a duration")),
        )
    }

    fn number(&mut self, value: &Spanned<i64>, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        self.checked(value, |number| match range.contains(number) {
            true => Ok(*number),
            false => Err(Refusal::new(format!("{number} is out of range")).hint(format!(
                "write a number from {} to {}",
                range.start(),
                range.end()
            ))),
        })
    }

    fn exits(&mut self, list: &Option<Vec<Spanned<Scalar>>>) -> Vec<ExitMatch> {
        list.iter().flatten().filter_map(|value| self.checked(value, value::parse_exit)).collect()
    }

    fn name(&mut self, text: &Text) -> Option<UnitName> {
        let name = self.text(text)?;
        self.take(text.span(), UnitName::new(&name).map_err(Refusal::new))
    }

    /// argv with the service's environment in it.
    fn command(
        &mut self,
        command: &Spanned<WordOrList>,
        env: &BTreeMap<String, String>,
    ) -> Option<Vec<String>> {
        let span = command.span();
        let words: Option<Vec<String>> = match command.get_ref() {
            WordOrList::List(list) => list.iter().map(|text| self.text(text)).collect(),
            WordOrList::Word(line) => {
                let words = self.take(span.clone(), value::split(line))?;
                // After the splitting: what a specifier stands for is never two words.
                words.into_iter().map(|word| self.text(&Spanned::new(span.clone(), word))).collect()
            }
        };
        let argv = self.take(span.clone(), value::expand(&words?, env))?;
        let program = &argv[0];
        let relative = program.contains('/') && !program.starts_with('/');
        let refusal = || {
            Refusal::new(format!("the program {program:?} is neither an absolute path nor a bare name"))
                .hint("write the path inside the sandbox, from its /")
        };
        let checked = if relative { Err(refusal()) } else { Ok(()) };
        self.take(span, checked)?;
        Some(argv)
    }
}

/// An absolute path without `..` and control characters.
fn absolute(path: &str) -> Result<PathBuf, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::new(format!("{path:?} is not an absolute path")).hint("write it from the / on"));
    }
    if path.contains(char::is_control) {
        return Err(Refusal::new(format!("the path {path:?} has control characters")));
    }
    if path.split('/').any(|component| component == "..") {
        return Err(
            Refusal::new(format!("the path {path:?} goes up with \"..\"")).hint("write where it leads")
        );
    }
    // PATH_MAX counts the final NUL.
    if path.len() > 4095 || path.split('/').any(|component| component.len() > 255) {
        return Err(Refusal::new("the path is longer than the kernel takes"));
    }
    // `components` leaves out `//`, `/./` and a slash at the end, which would make two names of one place.
    Ok(PathBuf::from(path).components().collect())
}

/// Looks `word` up; the refusal names the nearest or all words.
fn one_of<T: Clone>(key: &str, word: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
    if let Some((_, value)) = words.iter().find(|(name, _)| *name == word) {
        return Ok(value.clone());
    }
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let refusal = Refusal::new(format!("{word:?} is not a value of `{key}`"));
    Err(match value::nearest(word, names.iter().copied()) {
        Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
        None => {
            let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
            refusal.hint(format!("write {}", quoted.join(" or ")))
        }
    })
}
