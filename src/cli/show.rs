//! How services look in a terminal. Pure: the time is given.

use std::{fmt::Write as _, net::SocketAddr};

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};

use super::output::{Colour, escape};
use crate::{
    control::types::{
        Denial, EndKind, Event, ExitRecord, Fault, Limit, LogEntry, Moment, Obstacle, Port, Process, Refusal,
        ServiceState, ServiceStatus, TimerStatus,
    },
    machine::{Usage, health::HealthState},
};

/// How many refusals `status` shows.
const DENIALS_SHOWN: usize = 5;
/// How many of the runs that have ended are shown among others.
const EXITS_SHOWN: usize = 5;
/// The column in which values of `status` begin.
pub(super) const VALUE: usize = 12;
/// The column in which a long line of `why` goes on.
pub(super) const REST: usize = 6;
/// How much of a service is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What fits beside others.
    Some,
    /// All that is known.
    All,
}

/// When it is, and where times are told.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Seconds since 1970.
    pub(super) now: i64,
    /// The zone.
    pub(super) zone: TimeZone,
}

impl Clock {
    /// RFC 3339, to the second.
    fn tell(&self, moment: Moment) -> String {
        Timestamp::from_second(moment.unix).map_or_else(|_| "?".to_owned(), |time| local(time, &self.zone, 0))
    }

    /// How long ago that was, and when.
    fn past(&self, moment: Moment) -> String {
        format!("{} ago ({})", span(self.now - moment.unix), self.tell(moment))
    }
}

/// The table of `list`.
pub(super) fn table(services: &[ServiceStatus], now: i64) -> String {
    let titles = ["NAME", "STATE", "RUN", "PID", "WHEN", "ADDRESS", "PORTS"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(titles)
        .chain(services.iter().map(|service| {
            [
                escape(&service.name).into_owned(),
                with_health(service),
                service.run.to_string(),
                or_dash(service.pid.map(|pid| pid.to_string()).as_slice()),
                when(service, now),
                // The first; `status` has all of them, and a line is to fit a terminal.
                or_dash(service.addresses.first().map(ToString::to_string).as_slice()),
                or_dash(&service.ports.iter().map(port).collect::<Vec<_>>()),
            ]
        }))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let cell = match (column, number.checked_sub(1)) {
                (1, Some(service)) => colour(services[service].state).map_or(cell.clone(), |c| c.paint(cell)),
                _ => cell.clone(),
            };
            text += &cell;
            text += &padding;
            text += "  ";
        }
        text += &row[6];
        text.push('\n');
    }
    text
}

/// Why each of them needs a restart: what `list --restart-needed` shows.
pub(super) fn reasons(services: &[ServiceStatus]) -> String {
    let line = |service: &ServiceStatus| {
        format!("{}: {}\n", escape(&service.name), escape(&service.restart_needed.join("; ")))
    };
    services.iter().map(line).collect()
}

/// The state, and that it is not well.
fn with_health(service: &ServiceStatus) -> String {
    match service.health.as_ref().map(|health| health.state) {
        Some(HealthState::Unhealthy) => format!("{}, unhealthy", service.state),
        Some(HealthState::Unknown | HealthState::Healthy) | None => service.state.to_string(),
    }
}

/// The block of `status` about one service.
pub(super) fn status(service: &ServiceStatus, detail: Detail, clock: &Clock) -> String {
    let now = clock.now;
    let paint = |text: &str| colour(service.state).map_or(text.to_owned(), |colour| colour.paint(text));
    let mut text = format!("{} {}", paint("●"), escape(&service.name));
    // Where a file has none, its name stands for it.
    if !service.description.is_empty() && service.description != service.name {
        text += &format!(" - {}", escape(&service.description));
    }
    text.push('\n');
    let mut line = |title: &str, value: &str| {
        let colon = if title.is_empty() { ' ' } else { ':' };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{title:>width$}{colon} {value}", width = VALUE - 2);
    };
    let mut state = paint(service.state.as_str());
    if !service.reason.is_empty() {
        state += &format!(" ({})", escape(&service.reason));
    }
    if let Some(since) = service.since {
        state += &format!(" since {}; {} ago", clock.tell(since), span(now - since.unix));
    }
    line("State", &state);
    if let Some(fault) = &service.fault {
        let object = if fault.object.is_empty() { String::new() } else { format!(" {}", fault.object) };
        line("Fault", &Colour::Red.paint(&escape(&format!("{}{object}: {}", fault.step, fault.error))));
        if let Some(hint) = &fault.hint {
            line("Hint", &escape(hint));
        }
    }
    if let Some(health) = &service.health {
        let mut told = health.state.as_str().to_owned();
        if health.failures > 0 {
            told += &format!(", {} failures in a row", health.failures);
        }
        if let Some(checked) = health.checked {
            told += &format!("; {} ago: {}", span(now - checked.unix), escape(&health.output));
        }
        line("Health", &told);
    }
    if let Some(until) = service.until {
        line("Next start", &format!("in {}, at {}", span(until.unix - now), clock.tell(until)));
    }
    if let Some(known) = &service.timer {
        line("Timer", &timer(known, clock));
    }
    let enabled = if service.enabled { "enabled" } else { "not enabled" };
    line(
        "Run",
        &format!(
            "{}, {} restarts, {} failures in a row; {enabled}",
            service.run, service.restarts, service.failures
        ),
    );
    for reason in &service.restart_needed {
        line("Restart", &Colour::Yellow.paint(&escape(&format!("needed: {reason}"))));
    }
    // What most are is not worth a line.
    if let Some(kind) = service.kind.as_deref().filter(|kind| *kind != "exec") {
        line("Type", &escape(kind));
    }
    if let Some(says) = &service.says {
        line("Says", &escape(says));
    }
    match (service.pid, service.init_pid) {
        (Some(pid), Some(init)) => line("PID", &format!("{pid} (init {init})")),
        (Some(pid), None) => line("PID", &pid.to_string()),
        (None, Some(init)) => line("PID", &format!("none (init {init})")),
        (None, None) => {}
    }
    for address in &service.addresses {
        line("Address", &address.to_string());
    }
    for published in &service.ports {
        line("Port", &port(published));
    }
    for host in &service.hosts {
        line("Host", &escape(host));
    }
    for socket in &service.sockets {
        line("Socket", &escape(socket));
    }
    for Obstacle { table, chain, why, allow } in &service.firewall {
        let what = format!("table {table}, chain {chain} drops what none of its rules accepts ({why})");
        line("Firewall", &Colour::Yellow.paint(&escape(&what)));
        for command in allow {
            line("Allow by", &escape(command));
        }
    }
    for denial in service.denials.iter().take(DENIALS_SHOWN) {
        line("Denied", &escape(&denied(denial, now)));
    }
    let optional = [("File", &service.config), ("Log", &service.log), ("Cgroup", &service.cgroup)];
    for (title, value) in optional {
        if let Some(value) = value {
            line(title, &escape(value));
        }
    }
    if let Some(used) = &service.usage {
        line("Used", &usage(used));
    }
    let (bent, whole): (Vec<&Limit>, Vec<&Limit>) =
        service.limits.iter().partition(|limit| limit.why.is_some());
    if !whole.is_empty() {
        let text = |limit: &&Limit| {
            let bound = format!("{} {}", limit.key, limit.enforced.as_ref().unwrap_or(&limit.asked));
            limit
                .used
                .as_ref()
                .map_or(bound.clone(), |used| format!("{bound} ({} used)", amount(&limit.key, used)))
        };
        line("Limits", &escape(&whole.iter().map(text).collect::<Vec<_>>().join(", ")));
    }
    for Limit { key, asked, enforced, why, .. } in bent {
        let enforced = enforced.as_deref().unwrap_or("not enforced");
        let why = why.as_deref().unwrap_or_default();
        line("Bent", &escape(&format!("{key} {asked}: {enforced} ({why})")));
    }
    for attested in folded(&service.attested) {
        line("Attested", &escape(&attested));
    }
    if detail == Detail::All {
        for (title, process) in tree(&service.processes) {
            line(title, &escape(&process));
        }
    }
    let shown = if detail == Detail::All { usize::MAX } else { EXITS_SHOWN };
    for exit in service.exits.iter().rev().take(shown) {
        line("Ended", &format!("run {} {}, {}", exit.run, ended(exit), clock.past(exit.ended)));
    }
    text
}

/// A number of a control group, for people.
fn amount(key: &str, used: &str) -> String {
    match used.parse() {
        Ok(count) if key.starts_with("memory.") => bytes(count),
        _ => used.to_owned(),
    }
}

/// Processes as they are each other's children, a line each: the pid, the one in the sandbox, the name, the memory.
fn tree(processes: &[Process]) -> Vec<(&'static str, String)> {
    let is_known = |pid: i32| processes.iter().any(|process| process.pid == pid);
    // Those whose parent is none of them, the last one first; below each, its children.
    let roots = processes.iter().rev().filter(|process| !is_known(process.parent));
    let mut left: Vec<(usize, &Process)> = roots.map(|process| (0, process)).collect();
    let mut lines = Vec::new();
    while let Some((depth, process)) = left.pop() {
        let children = processes.iter().rev().filter(|other| other.parent == process.pid);
        left.extend(children.map(|child| (depth + 1, child)));
        let inside = process.inside.map(|pid| format!(" (inside {pid})")).unwrap_or_default();
        let name = format!("{}{}", "  ".repeat(depth), process.name);
        let title = if lines.is_empty() { "Processes" } else { "" };
        lines.push((title, format!("{name} {}{inside}, {}", process.pid, bytes(process.memory))));
    }
    lines
}

/// What stands in a service's way and has gone wrong with it: the block of `why`.
pub(super) fn why(service: &ServiceStatus, clock: &Clock) -> String {
    let now = clock.now;
    let mut text = format!("{}: {}", escape(&service.name), service.state);
    if !service.reason.is_empty() {
        text += &format!(" ({})", escape(&service.reason));
    }
    text.push('\n');
    let mut line = |what: &str| text += &format!("  {}\n", escape(what));
    if let Some(Fault { step, object, error, hint }) = &service.fault {
        line(&format!("its last launch failed in {step} {object}: {error}"));
        hint.iter().for_each(|hint| line(hint));
    }
    // Of HUP, INT, PIPE and TERM a service may end by itself, and is ended.
    let is_failure =
        |exit: &&ExitRecord| !matches!((exit.code, exit.signal), (Some(0), _) | (_, Some(1 | 2 | 13 | 15)));
    for exit in service.exits.iter().rev().filter(is_failure).take(EXITS_SHOWN) {
        line(&format!("run {} {}, {}", exit.run, ended(exit), clock.past(exit.ended)));
    }
    if service.exits.iter().any(|exit| is_failure(&exit)) {
        line(&format!("what it has written: `palisade logs {}`", service.name));
    }
    for Obstacle { table, chain, why, allow } in &service.firewall {
        line(&format!("table {table}, chain {chain} drops what none of its rules accepts ({why}):"));
        allow.iter().for_each(|command| line(&format!("  {command}")));
    }
    for denial in &service.denials {
        line(&format!("{}: {}", denied(denial, now), denial.verdict.why));
    }
    for Refusal { layer, what, count, last, verdict } in &service.refusals {
        let ago = last.map_or(String::new(), |last| format!(", last {} ago", span(now - last.unix)));
        line(&format!("{layer}: {what}, {}{ago}: {}", times(*count), verdict.why));
    }
    // Who has not run has had no packet.
    if service.denials.is_empty() && service.fault.is_none() && service.state != ServiceState::Broken {
        line("no packet of it, or to it, is known to have been refused since the supervisor came up");
    }
    text
}

/// `no_egress: tcp 10.83.0.2 -> 192.0.2.7:443, 12 times, last 3s ago`.
fn denied(denial: &Denial, now: i64) -> String {
    let Denial { reason, proto, from, to, port, count, last, .. } = denial;
    let way = match (from, to, port) {
        (Some(from), Some(to), Some(port)) => format!("{proto} {from} -> {}", SocketAddr::new(*to, *port)),
        (Some(from), Some(to), None) => format!("{proto} {from} -> {to}"),
        (None, _, _) | (_, None, _) => "something that is not IP".to_owned(),
    };
    format!("{reason}: {way}, {}, last {} ago", times(*count), span(now - last.unix))
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// Short texts, as many on a line as a terminal shows.
fn folded(texts: &[String]) -> Vec<String> {
    const WIDTH: usize = 90;
    let mut lines: Vec<String> = Vec::new();
    for text in texts {
        match lines.last_mut() {
            Some(line) if line.len() + text.len() < WIDTH => *line += &format!("; {text}"),
            _ => lines.push(text.clone()),
        }
    }
    lines
}

/// A line of output of a service, in the colour of its level, with the time of a zone.
pub(super) fn log_line(entry: &LogEntry, with_name: bool, level: u8, zone: &TimeZone) -> String {
    let name = match with_name {
        true => format!("{}: ", escape(&entry.name)),
        false => String::new(),
    };
    let time = match entry.time.parse::<Timestamp>() {
        Ok(time) => local(time, zone, 6),
        Err(_) => escape(&entry.time).into_owned(),
    };
    let time = Colour::Dim.paint(&time);
    let text = escape(&entry.text);
    let text = colour_of_level(level).map_or_else(|| text.to_string(), |colour| colour.paint(&text));
    format!("{time} {name}{text}\n")
}

/// What a line of a level of syslog(3) is shown in.
pub(super) fn colour_of_level(level: u8) -> Option<Colour> {
    match level {
        0..=3 => Some(Colour::Red),
        4 => Some(Colour::Yellow),
        7 => Some(Colour::Dim),
        _ => None,
    }
}

/// RFC 3339 with so many digits of a second, `Z` where the zone is at no distance from UTC.
fn local(time: Timestamp, zone: &TimeZone, digits: usize) -> String {
    match zone.to_offset(time) {
        Offset::UTC => format!("{time:.digits$}"),
        offset => format!("{:.digits$}", time.display_with_offset(offset)),
    }
}

/// A line about something that happened.
pub(super) fn event_line(event: &Event, clock: &Clock) -> String {
    let kind = escape(&event.kind);
    let kind = colour(event.state).map_or(kind.to_string(), |colour| colour.paint(&kind));
    let text = match event.text.is_empty() {
        true => String::new(),
        false => format!(" ({})", escape(&event.text)),
    };
    let time = Colour::Dim.paint(&clock.tell(event.time));
    format!("{time} {}: {kind}{text}\n", escape(&event.name))
}

/// A length of time with its two largest units, as an operator says it.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: i64, unit: &str, small: i64, next: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit} {small}{next}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => two(minutes, "min", seconds % 60, "s"),
        (0, hours, minutes) => two(hours, "h", minutes, "min"),
        (days, hours, _) => two(days, "d", hours, "h"),
    }
}

fn when(service: &ServiceStatus, now: i64) -> String {
    match (service.state, service.since, service.until) {
        (_, _, Some(until)) => format!("in {}", span(until.unix - now)),
        (ServiceState::Stopped | ServiceState::Done | ServiceState::Failed, _, None)
            if let Some(next) = service.timer.and_then(|timer| timer.next) =>
        {
            format!("next in {}", span(next.unix - now))
        }
        (ServiceState::Active, Some(since), None) => format!("up {}", span(now - since.unix)),
        (_, Some(since), None) => format!("{} ago{}", span(now - since.unix), kept_down(service)),
        (_, None, None) => "-".to_owned(),
    }
}

/// What of `unit.condition` or `unit.assert` keeps it down: who looks at the list asks himself why.
fn kept_down(service: &ServiceStatus) -> String {
    let asserted = service.fault.as_ref().filter(|fault| fault.step == "unit.assert");
    let reason = match (service.state, asserted) {
        (ServiceState::Stopped, _) if service.reason.starts_with("skipped") => &service.reason,
        (ServiceState::Failed, Some(fault)) => &fault.error,
        _ => return String::new(),
    };
    format!(", {}", escape(reason))
}

/// When a timer elapses next, and when it last did.
fn timer(timer: &TimerStatus, clock: &Clock) -> String {
    let now = clock.now;
    let mut text = match (timer.next, timer.in_force) {
        (_, false) => "not in force: the service is not enabled".to_owned(),
        (Some(next), true) => format!("in {}, at {}", span(next.unix - now), clock.tell(next)),
        (None, true) => "nothing to come".to_owned(),
    };
    if timer.late_ms > 0 {
        text += &format!(
            ", {} late by its jitter",
            span(i64::try_from(timer.late_ms / 1000).unwrap_or_default())
        );
    }
    if let Some(last) = timer.last {
        text += &format!("; last {} ago", span(now - last.unix));
    }
    if timer.queued {
        text += "; waits for the run to end";
    }
    text
}

fn port(port: &Port) -> String {
    let Port { address, host_port, port, proto } = port;
    format!("{}->{port}/{proto}", std::net::SocketAddr::new(*address, *host_port))
}

fn usage(used: &Usage) -> String {
    let seconds = |usec: u64| format!("{}.{:03}s", usec / 1_000_000, usec / 1000 % 1000);
    let mut text = format!("{} cpu", seconds(used.cpu_user_usec + used.cpu_system_usec));
    for (amount, what) in [
        (used.memory_peak, "memory at most"),
        (used.io_read_bytes, "read"),
        (used.io_written_bytes, "written"),
    ] {
        if let Some(amount) = amount {
            text += &format!(", {} {what}", bytes(amount));
        }
    }
    match used.oom_kills {
        0 => text,
        kills => format!("{text}, {kills} killed for want of memory"),
    }
}

/// A size in the largest unit in which it has a digit before the point.
fn bytes(bytes: u64) -> String {
    let units = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{}.{}{unit}", bytes / size, bytes % size * 10 / size),
        None => format!("{bytes}B"),
    }
}

fn ended(exit: &ExitRecord) -> String {
    match (exit.cause, exit.why) {
        (Some(cause), _) => format!("{}: {cause}", ended_how(exit)),
        (None, Some(why)) => format!("{}: {}", ended_how(exit), why.text()),
        (None, None) => ended_how(exit),
    }
}

fn ended_how(exit: &ExitRecord) -> String {
    let signal = || {
        let number = exit.signal.unwrap_or_default();
        nix::sys::signal::Signal::try_from(number).map_or(number.to_string(), |signal| signal.to_string())
    };
    match exit.kind {
        EndKind::Exited => format!("exited with {}", exit.code.unwrap_or_default()),
        EndKind::Killed => format!("was killed by {}", signal()),
        EndKind::Dumped => format!("was killed by {} and dumped core", signal()),
        EndKind::Unknown => "ended, nobody knows how".to_owned(),
    }
}

fn or_dash(parts: &[String]) -> String {
    match parts {
        [] => "-".to_owned(),
        parts => parts.join(","),
    }
}

pub(super) fn colour(state: ServiceState) -> Option<Colour> {
    match state {
        ServiceState::Active => Some(Colour::Green),
        ServiceState::Starting | ServiceState::Waiting | ServiceState::Stopping | ServiceState::Backoff => {
            Some(Colour::Yellow)
        }
        ServiceState::Failed | ServiceState::Broken => Some(Colour::Red),
        ServiceState::Listening | ServiceState::Stopped | ServiceState::Done | ServiceState::Masked => None,
    }
}
