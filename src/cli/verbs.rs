//! The verbs that ask a supervisor.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use serde_json::json;

#[cfg(feature = "top")]
use super::top;
use super::{
    Exit, Global, Times, Verb, apply, ingress, libraries, logs, output, progress::Progress, session, show,
};
use crate::control::{
    client::{CallError, Client},
    proto::{self, Apply, Error, Kill, Method, Names, Upgrade},
    types::{
        Changes, Confirmed, Events, Metrics, Planned, PlannedChanges, Pong, ServiceState, ServiceStatus,
        Services,
    },
};
use crate::{
    config::{
        schema::Scalar,
        value::{nearest, parse_duration},
    },
    supervisor::STATE_VERSION,
};

/// `palisade version`.
pub(super) fn version(json: bool) -> Exit {
    let version = env!("CARGO_PKG_VERSION");
    done(match json {
        true => output::json(&json!({ "version": version, "state": STATE_VERSION })),
        false => output::print(&format!("palisade {version}\n")),
    })
}

/// Reads the argument of `kill --signal`: `TERM`, `SIGTERM` or `15`.
pub(super) fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = format!("SIG{}", upper.strip_prefix("SIG").unwrap_or(&upper));
    match (text.parse(), Signal::from_str(&name)) {
        (Ok(number @ 1..=64), _) => Ok(number),
        (Err(_), Ok(signal)) => Ok(signal as i32),
        _ => Err("a name such as TERM, or a number from 1 to 64".to_owned()),
    }
}

/// Reads a time such as `60s`, into milliseconds.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let scalar = text.parse().map_or_else(|_| Scalar::Text(text.to_owned()), Scalar::Int);
    let span = parse_duration(&scalar).map_err(|refusal| refusal.message)?;
    span.and_then(|span| u64::try_from(span.as_millis()).ok())
        .filter(|millis| *millis > 0)
        .ok_or_else(|| "a time such as 60s, and no end of time".to_owned())
}

/// Asks the supervisor, and shows what it answers.
pub(super) fn ask(global: &Global, verb: Verb) -> Exit {
    let is_session = matches!(verb, Verb::Exec { .. } | Verb::Shell { .. });
    let answered = Client::connect(&global.run).and_then(|client| carry_out(global, client, verb));
    let error = match answered {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    report(&error, global);
    match is_session {
        // The codes below are the program's own there.
        true => Exit::Broken,
        false => exit_of(&error),
    }
}

fn carry_out(global: &Global, mut client: Client, verb: Verb) -> Result<Exit, CallError> {
    let json = global.json;
    let names = |names: super::Names| Names { names: names.names };
    match verb {
        Verb::List { quiet, restart_needed: false } => list(&mut client, quiet, json),
        Verb::List { quiet, restart_needed: true } => restart_needed(&mut client, quiet, json),
        Verb::Status { names, times } => status(&mut client, names, times, json),
        Verb::Why { names: these, times } => why(&mut client, names(these), times, json),
        Verb::Start(these) => change(&mut client, &Method::Start(names(these)), global),
        Verb::Stop(these) => change(&mut client, &Method::Stop(names(these)), global),
        Verb::Restart(these) => change(&mut client, &Method::Restart(names(these)), global),
        Verb::Reload(these) => change(&mut client, &Method::Reload(names(these)), global),
        Verb::Kill { signal, names } => {
            change(&mut client, &Method::Kill(Kill { names: names.names, signal }), global)
        }
        Verb::ResetFailed { names } => change(&mut client, &Method::ResetFailed(Names { names }), global),
        Verb::DaemonReload => change(&mut client, &Method::DaemonReload, global),
        Verb::Logs(options) => logs::logs(&mut client, options, json),
        Verb::Events { follow, lines, names, times } => {
            let past = Some(lines.most().unwrap_or(u32::MAX));
            events(&mut client, proto::Events { names, past, follow: Some(follow) }, times, json)
        }
        Verb::Metrics => metrics(&mut client, json),
        #[cfg(feature = "top")]
        Verb::Top { delay, times, names } => {
            top::top(client, global, names, Duration::from_millis(delay), times)
        }
        Verb::Plan { .. } => plan(&mut client, json),
        Verb::Ingress { format, tls, out } => {
            ingress::ingress(&mut client, &ingress::Wanted { format, tls, out })
        }
        Verb::Apply { confirm, wait: None } => apply(&mut client, confirm, global),
        Verb::Apply { confirm, wait: Some(limit) } => {
            let limit = limit.map(Duration::from_millis);
            apply::and_wait(&mut client, confirm, limit, global)
        }
        Verb::Upgrade { binary } => upgrade(client, binary, json),
        Verb::Confirm => {
            let Confirmed {} = client.call(&Method::Confirm)?;
            Ok(Exit::Done)
        }
        Verb::Revert => {
            let answer: PlannedChanges = client.call(&Method::Revert)?;
            Ok(done(show_planned(&answer, json)))
        }
        Verb::Exec { tty, user, env, name, command } => {
            session::exec(client, session::Wanted { name, command, tty, user, env })
        }
        Verb::Shell { user, name } => session::shell(client, name, user),
        Verb::Supervise { .. }
        | Verb::Run { .. }
        | Verb::Check { .. }
        | Verb::Score { .. }
        | Verb::Version
        | Verb::Files(_)
        | Verb::Completions { .. }
        | Verb::Schema { .. }
        | Verb::Man { .. } => unreachable!("these do not ask a supervisor"),
    }
}

fn metrics(client: &mut Client, json: bool) -> Result<Exit, CallError> {
    let answer: Metrics = client.call(&Method::Metrics)?;
    Ok(done(match json {
        true => output::json(&answer),
        // Names and labels come from the files of the services, where control characters are refused.
        false => output::print(&answer.text),
    }))
}

fn list(client: &mut Client, quiet: bool, json: bool) -> Result<Exit, CallError> {
    let answer: Services = client.call(&Method::List)?;
    Ok(done(match json {
        true => output::json(&answer),
        false if quiet => output::print(&names_of(&answer.services)),
        false => output::print(&show::table(&answer.services, now())),
    }))
}

/// The names alone, for other programs: nothing is in a name that a terminal would obey.
fn names_of(services: &[ServiceStatus]) -> String {
    services.iter().map(|service| format!("{}\n", service.name)).collect()
}

fn restart_needed(client: &mut Client, quiet: bool, json: bool) -> Result<Exit, CallError> {
    let mut answer: Services = client.call(&Method::Status(Names::default()))?;
    libraries::look(&mut answer.services);
    answer.services.retain(|service| !service.restart_needed.is_empty());
    Ok(done(match json {
        true => output::json(&answer),
        false if quiet => output::print(&names_of(&answer.services)),
        false => output::print(&show::reasons(&answer.services)),
    }))
}

fn status(client: &mut Client, names: Vec<String>, times: Times, json: bool) -> Result<Exit, CallError> {
    let is_asked_by_name = !names.is_empty();
    let mut answer: Services = client.call(&Method::Status(Names { names }))?;
    if is_asked_by_name {
        libraries::look(&mut answer.services);
    }
    let detail = if is_asked_by_name { show::Detail::All } else { show::Detail::Some };
    let clock = clock(times);
    let blocks: Vec<String> =
        answer.services.iter().map(|service| show::status(service, detail, &clock)).collect();
    let exit = done(match json {
        true => output::json(&answer),
        false => output::print_folded(&blocks.join("\n"), show::VALUE),
    });
    let is_running = |state| state == ServiceState::Active;
    match is_asked_by_name && !answer.services.iter().all(|service| is_running(service.state)) {
        true => Ok(Exit::NotRunning),
        false => Ok(exit),
    }
}

fn why(client: &mut Client, names: Names, times: Times, json: bool) -> Result<Exit, CallError> {
    let answer: Services = client.call(&Method::Status(names))?;
    let clock = clock(times);
    let of = |service: &ServiceStatus| {
        let ServiceStatus { name, state, reason, fault, exits, firewall, denials, refusals, .. } = service;
        json!({ "name": name, "state": state, "reason": reason, "fault": fault, "exits": exits, "firewall": firewall,
            "denials": denials, "refusals": refusals })
    };
    Ok(done(match json {
        true => output::json(&json!({ "services": answer.services.iter().map(of).collect::<Vec<_>>() })),
        false => {
            let blocks = answer.services.iter().map(|service| show::why(service, &clock));
            output::print_folded(&blocks.collect::<String>(), show::REST)
        }
    }))
}

fn change(client: &mut Client, method: &Method, global: &Global) -> Result<Exit, CallError> {
    Ok(changed(&Progress::new(global).call(client, method)?, global.json))
}

/// Shows what was done to services.
pub(super) fn changed(answer: &Changes, json: bool) -> Exit {
    let shown = match json {
        true => output::json(answer),
        false => answer.changes.iter().try_for_each(|change| {
            let line = format!("{}: {}", change.name, change.what);
            match change.ok {
                true => output::print(&format!("{}\n", output::escape(&line))),
                false => {
                    output::error(&line);
                    Ok(())
                }
            }
        }),
    };
    match answer.changes.iter().all(|change| change.ok) {
        true => done(shown),
        false => Exit::Failed,
    }
}

/// What the files would change. Exit code 2: something.
fn plan(client: &mut Client, json: bool) -> Result<Exit, CallError> {
    let answer: PlannedChanges = client.call(&Method::Plan)?;
    let shown = done(show_planned(&answer, json));
    match answer.changes.is_empty() {
        true => Ok(shown),
        false => Ok(Exit::Usage),
    }
}

fn apply(client: &mut Client, confirm: Option<u64>, global: &Global) -> Result<Exit, CallError> {
    let answer: PlannedChanges = Progress::new(global).call(client, &Method::Apply(Apply { confirm }))?;
    let shown = show_planned(&answer, global.json);
    Ok(apply::exit(&answer, shown.and_then(|()| apply::hint(&answer, confirm, global.json))))
}

/// Asks the program itself what it is before the supervisor is to become it: a file that does not even say its version
/// would end everything that is supervised now.
fn upgrade(mut client: Client, binary: Option<PathBuf>, json: bool) -> Result<Exit, CallError> {
    let binary = binary.map_or_else(std::env::current_exe, Ok).and_then(std::fs::canonicalize);
    let state = binary.as_ref().ok().and_then(|binary| {
        let said = Command::new(binary).args(["version", "--json"]).stdin(Stdio::null()).output().ok()?;
        serde_json::from_slice::<serde_json::Value>(&said.stdout).ok()?["state"].as_u64()
    });
    let (Ok(binary), Some(state)) = (binary, state.and_then(|state| u32::try_from(state).ok())) else {
        output::error("upgrade: that is no palisade that runs here");
        return Ok(Exit::Failed);
    };
    let before: Pong = client.call(&Method::Ping)?;
    let binary = binary.display().to_string();
    let now: Pong = client.call(&Method::Upgrade(Upgrade { binary, state }))?;
    Ok(done(match json {
        true => output::json(&now),
        false => {
            output::print(&format!("upgraded from {} to {} (pid {})\n", before.version, now.version, now.pid))
        }
    }))
}

pub(super) fn show_planned(answer: &PlannedChanges, json: bool) -> io::Result<()> {
    if json {
        return output::json(answer);
    }
    let line =
        |change: &Planned| format!("{}\n", output::escape(&format!("{}: {}", change.name, change.what)));
    output::print(&answer.changes.iter().map(line).collect::<String>())
}

fn events(client: &mut Client, wanted: proto::Events, times: Times, json: bool) -> Result<Exit, CallError> {
    let clock = clock(times);
    let mut shown = Ok(());
    client.call_more(&Method::Events(wanted), |Events { events }| {
        shown = events.iter().try_for_each(|event| match json {
            true => output::json_line(event),
            false => output::print(&show::event_line(event, &clock)),
        });
        go_on(&shown)
    })?;
    Ok(done(shown))
}

/// Ends a stream of answers when nobody reads them any more.
pub(super) fn go_on(shown: &io::Result<()>) -> ControlFlow<()> {
    match shown {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

pub(super) fn done(shown: io::Result<()>) -> Exit {
    match shown {
        Ok(()) => Exit::Done,
        // `palisade list | head -1`: who asked has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            output::error(&format!("cannot print: {error}"));
            Exit::Failed
        }
    }
}

/// What went wrong, and what to do about it.
pub(super) fn told(error: &CallError, run: &Path) -> String {
    let hint = match error {
        CallError::NoSupervisor { .. } => {
            "`systemctl start palisade` or `palisade supervise` starts one, --run DIR means another one"
                .to_owned()
        }
        CallError::Answer(Error::NoSuchService { names }) => match &names[..] {
            [name] => match near(name, run) {
                Some(near) => format!("did you mean {near}?"),
                None => "`palisade list` shows all, `palisade apply` takes in new files".to_owned(),
            },
            _ => "`palisade list` shows all, `palisade apply` takes in new files".to_owned(),
        },
        _ => return error.to_string(),
    };
    format!("{error}; {hint}")
}

/// The service whose name is nearest to this, of those that the caller may see.
fn near(name: &str, run: &Path) -> Option<String> {
    let answer: Services = Client::connect(run).and_then(|mut client| client.call(&Method::List)).ok()?;
    nearest(name, answer.services.iter().map(|service| service.name.as_str())).map(str::to_owned)
}

fn report(error: &CallError, global: &Global) {
    if !global.json {
        return output::error(&told(error, &global.run));
    }
    let value = match error {
        CallError::Answer(error) => {
            let (name, parameters) = error.to_wire();
            json!({ "error": name, "parameters": parameters })
        }
        error => json!({ "error": "io.palisade.Unreachable", "parameters": { "reason": error.to_string() } }),
    };
    // The exit code still says it.
    let _ = output::json(&value);
}

pub(super) fn exit_of(error: &CallError) -> Exit {
    match error {
        CallError::NoSupervisor { .. } => Exit::NoSupervisor,
        CallError::Answer(Error::NoSuchService { .. }) => Exit::NoSuchService,
        CallError::Answer(Error::InvalidParameter { .. }) => Exit::Usage,
        CallError::Answer(_)
        | CallError::Denied(_)
        | CallError::HungUp
        | CallError::Nonsense(_)
        | CallError::Sys(_) => Exit::Failed,
    }
}

fn clock(times: Times) -> show::Clock {
    show::Clock { now: now(), zone: times.zone() }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
