//! `palisade apply`: what is said of it, and `--wait`, which ends when what was applied is how things are.
//!
//! Like `systemctl start` and `docker compose up --wait` it has no limit of its own: each service has one (`service.timeout`).

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Exit, Global, output,
    progress::{Goal, Progress},
    verbs::{done, show_planned},
};
use crate::{
    control::{
        client::{CallError, Client},
        proto::{Apply, Method, Names},
        types::{Change, Changes, Planned, PlannedChanges, ServiceState, ServiceStatus, Services},
    },
    machine::fleet::How,
};

/// Names in one question, of which a supervisor takes so many.
const NAMES: usize = 1024;

/// What is to be done so that what was applied for a trial stays.
pub(super) fn hint(answer: &PlannedChanges, confirm: Option<u64>, json: bool) -> io::Result<()> {
    let Some(limit) = confirm.filter(|_| !json && !answer.changes.is_empty()) else { return Ok(()) };
    let limit = humantime::format_duration(Duration::from_millis(limit));
    output::print(&format!("`palisade confirm` within {limit}, or everything goes back\n"))
}

/// A file with mistakes is a failure.
pub(super) fn exit(answer: &PlannedChanges, shown: io::Result<()>) -> Exit {
    match answer.changes.iter().any(|change| change.how == How::Broken) {
        true => Exit::Failed,
        false => done(shown),
    }
}

/// `apply --wait`.
pub(super) fn and_wait(
    client: &mut Client,
    confirm: Option<u64>,
    limit: Option<Duration>,
    global: &Global,
) -> Result<Exit, CallError> {
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut progress = Progress::new(global);
    let before = progress.before(client)?;
    let answer: PlannedChanges = Progress::new(global).call(client, &Method::Apply(Apply { confirm }))?;
    let mut shown = if global.json { Ok(()) } else { show_planned(&answer, false) };
    let goals: Vec<(String, Goal)> = answer.changes.iter().filter_map(goal).collect();
    progress.about("applying", goals.iter().cloned(), &before);
    let names: Vec<String> = goals.into_iter().map(|(name, _)| name).collect();
    let mut settled = Vec::new();
    for names in names.chunks(NAMES) {
        client.send(&Method::Settle(Names { names: names.to_vec() }), &[])?;
        if !progress.wait(client, until)? {
            let late = unsettled(names, limit.unwrap_or_default(), global)?;
            // Perhaps they have come to rest just now.
            if !late.is_empty() || !progress.wait(client, until)? {
                settled.extend(late);
                break;
            }
        }
        settled.extend(client.receive::<Changes>()?.value.changes);
    }
    for change in settled.iter().filter(|change| !change.ok && !global.json) {
        output::error(&format!("{}: {}", change.name, change.what));
    }
    let is_well = settled.iter().all(|change| change.ok);
    shown = shown.and_then(|()| match global.json {
        true => output::json(&json!({ "changes": answer.changes, "settled": settled })),
        false if is_well => hint(&answer, confirm, false),
        false => Ok(()),
    });
    match (exit(&answer, shown), is_well) {
        (Exit::Done, false) => Ok(Exit::Failed),
        (exit, _) => Ok(exit),
    }
}

/// What is to become of a service before anything is done; none: nothing that takes time.
fn goal(planned: &Planned) -> Option<(String, Goal)> {
    let goal = match planned.how {
        How::Start => Goal::Up,
        How::Restart => Goal::Again,
        How::Stop | How::Remove => Goal::Down,
        How::Add | How::Reload | How::Live | How::Later | How::Broken => return None,
    };
    Some((planned.name.clone(), goal))
}

/// Those that are not at rest, or not as they should be, when the time is over. The connection that waits for them cannot
/// be asked anything else.
fn unsettled(names: &[String], limit: Duration, global: &Global) -> Result<Vec<Change>, CallError> {
    use ServiceState::{Backoff, Failed, Starting, Stopping, Waiting};
    let services: Services = Client::connect(&global.run)?.call(&Method::List)?;
    let limit = humantime::format_duration(limit);
    let is_late = |service: &ServiceStatus| {
        names.contains(&service.name)
            && matches!(service.state, Waiting | Starting | Stopping | Failed | Backoff)
    };
    let late = services.services.into_iter().filter(is_late).map(|service| {
        let ServiceStatus { name, state, reason, .. } = service;
        Change {
            name,
            what: format!("still {state} after {limit} {reason}").trim_end().to_owned(),
            ok: false,
        }
    });
    Ok(late.collect())
}
