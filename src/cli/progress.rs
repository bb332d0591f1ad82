//! How far a call is that takes its time: on a terminal, one line that is written anew until the answer is there.
//!
//! Nothing of it is left then, and where nobody looks (a pipe, `--json`, TERM=dumb) there is nothing. What services are doing
//! meanwhile a second connection asks for; one that does not answer holds nobody up.

use std::{
    collections::BTreeMap,
    env,
    io::{self, IsTerminal},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    termios::tcgetwinsize,
};
use serde::de::DeserializeOwned;

use super::{Global, output};
use crate::{
    control::{
        client::{CallError, Client},
        proto::{Method, Names},
        types::{ServiceState, ServiceStatus, Services},
    },
    sys::SysError,
};

/// Calls that are answered sooner show nothing, and the line is no older than this.
const PACE: Duration = Duration::from_millis(500);
/// Of a terminal that does not know its own.
const WIDTH: usize = 80;

/// What is to become of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// It is to be up.
    Up,
    /// Another run of it is to be.
    Again,
    /// It is to be at rest.
    Down,
}

/// What is shown of a call.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    run: &'a Path,
    is_shown: bool,
    label: &'static str,
    /// Whom it is about, and which run each of them was in before.
    goals: BTreeMap<String, (Goal, u64)>,
}

impl<'a> Progress<'a> {
    /// As far as somebody looks.
    pub(super) fn new(global: &'a Global) -> Self {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_shown = !global.json && !is_dumb && io::stderr().is_terminal();
        Self { run: &global.run, is_shown, label: "", goals: BTreeMap::new() }
    }

    /// The services as they are before the call; empty, where nobody looks.
    pub(super) fn before(&self, client: &mut Client) -> Result<Vec<ServiceStatus>, CallError> {
        match self.is_shown {
            true => Ok(client.call::<Services>(&Method::List)?.services),
            false => Ok(Vec::new()),
        }
    }

    /// What is shown is about these services, as they were before.
    pub(super) fn about(
        &mut self,
        label: &'static str,
        names: impl IntoIterator<Item = (String, Goal)>,
        before: &[ServiceStatus],
    ) {
        self.label = label;
        self.goals.clear();
        for (name, goal) in names {
            let pattern = glob::Pattern::new(&name).unwrap_or_default();
            let mut meant = before.iter().filter(|service| pattern.matches(&service.name)).peekable();
            if meant.peek().is_none() {
                self.goals.insert(name, (goal, 0));
                continue;
            }
            self.goals.extend(meant.map(|service| (service.name.clone(), (goal, service.run))));
        }
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) fn call<T: DeserializeOwned>(
        mut self,
        client: &mut Client,
        method: &Method,
    ) -> Result<T, CallError> {
        let of_names = match method {
            Method::Start(names) => Some(("starting", Goal::Up, names)),
            Method::Stop(names) => Some(("stopping", Goal::Down, names)),
            Method::Restart(names) => Some(("restarting", Goal::Again, names)),
            _ => None,
        };
        match (of_names, method) {
            (Some((label, goal, Names { names })), _) => {
                let before = self.before(client)?;
                self.about(label, names.iter().map(|name| (name.clone(), goal)), &before);
            }
            (None, Method::DaemonReload | Method::Apply(_)) => self.label = "reading the service files",
            (None, Method::Reload(_)) => self.label = "reloading",
            (None, _) => self.is_shown = false,
        }
        client.send(method, &[])?;
        self.wait(client, None)?;
        Ok(client.receive()?.value)
    }

    /// Waits for something to receive; false: there is nothing at that time.
    ///
    /// # Errors
    /// poll(2).
    pub(super) fn wait(&self, client: &Client, until: Option<Instant>) -> Result<bool, CallError> {
        let mut line = Line { is_there: false };
        let mut second = None;
        let (mut next, mut is_asked) = (self.is_shown.then(|| Instant::now() + PACE), false);
        while !client.has_reply() {
            let now = Instant::now();
            if next.is_some_and(|next| next <= now) {
                next = Some(now + PACE);
                if self.goals.is_empty() {
                    line.write(self.label);
                } else if !is_asked {
                    second = second.or_else(|| Client::connect(self.run).ok());
                    is_asked = second.as_mut().is_some_and(|second| second.send(&Method::List, &[]).is_ok());
                }
            }
            let wake = until.into_iter().chain(next).min();
            let [answered, told] = ready(client, second.as_ref().filter(|_| is_asked), wake)?;
            if answered {
                break;
            }
            if until.is_some_and(|until| until <= now) {
                return Ok(false);
            }
            if let Some(second) = second.as_mut().filter(|_| told) {
                is_asked = false;
                match second.receive::<Services>() {
                    Ok(reply) => line.write(&self.text(&reply.value.services)),
                    // The call itself is not concerned.
                    Err(_) => next = None,
                }
            }
        }
        Ok(true)
    }

    /// `starting: 3 of 10 done, waits for db, cache`: first those that are on their way, then those that wait for others.
    fn text(&self, services: &[ServiceStatus]) -> String {
        let state = |name: &str| services.iter().find(|service| service.name == name);
        let is_left = |(name, goal): &(&String, &(Goal, u64))| !is_done(goal.0, goal.1, state(name));
        let left = self.goals.iter().filter(is_left).map(|(name, _)| name.as_str());
        let waits = |name: &&str| state(name).is_some_and(|service| service.state == ServiceState::Waiting);
        let (waiting, moving): (Vec<&str>, Vec<&str>) = left.partition(waits);
        let (all, left) = (self.goals.len(), waiting.len() + moving.len());
        let text = format!("{}: {} of {all} done", self.label, all - left);
        match left {
            0 => text,
            _ => format!("{text}, waits for {}", [moving, waiting].concat().join(", ")),
        }
    }
}

/// Whether a service has come to where it is to be; none: there is none any more.
fn is_done(goal: Goal, before: u64, service: Option<&ServiceStatus>) -> bool {
    use ServiceState::{Active, Backoff, Done, Listening, Starting, Stopping, Waiting};
    let Some(ServiceStatus { state, run, .. }) = service else { return goal == Goal::Down };
    !matches!(state, Waiting | Starting | Stopping)
        && match goal {
            Goal::Up => *run > before || matches!(state, Active | Done | Listening),
            Goal::Again => *run > before,
            Goal::Down => !matches!(state, Active | Backoff),
        }
}

/// Waits until one of them has something to say, or it is that late.
fn ready(first: &Client, second: Option<&Client>, wake: Option<Instant>) -> Result<[bool; 2], CallError> {
    let mut fds = vec![PollFd::new(first, PollFlags::IN)];
    fds.extend(second.map(|second| PollFd::new(second, PollFlags::IN)));
    let span = wake.map(|wake| wake.saturating_duration_since(Instant::now()));
    let span = span.map(|span| Timespec {
        tv_sec: span.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: span.subsec_nanos().into(),
    });
    match poll(&mut fds, span.as_ref()) {
        Ok(_) => Ok([0, 1].map(|n| fds.get(n).is_some_and(|fd| !fd.revents().is_empty()))),
        Err(Errno::INTR) => Ok([false; 2]),
        Err(errno) => Err(SysError::new("poll", "", errno).into()),
    }
}

/// The line; when it goes, so does what is on it.
struct Line {
    is_there: bool,
}

impl Line {
    fn write(&mut self, text: &str) {
        let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        // One more would have the terminal begin another line.
        let width = if columns == 0 { WIDTH } else { columns } - 1;
        output::line_anew(&cut(&output::escape(text), width));
        self.is_there = true;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_there {
            output::line_anew("");
        }
    }
}

/// At most so many characters of a text.
fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).take(width).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, state: &str, run: u64) -> ServiceStatus {
        let status = serde_json::json!({
            "name": name, "state": state, "reason": "", "description": "", "enabled": true, "run": run,
            "restarts": 0, "failures": 0, "addresses": [], "ports": [], "exits": [],
        });
        serde_json::from_value(status).unwrap()
    }

    fn text(goal: Goal, names: &[&str], before: &[ServiceStatus], now: &[ServiceStatus]) -> String {
        let mut progress =
            Progress { run: Path::new("/"), is_shown: true, label: "", goals: BTreeMap::new() };
        progress.about("moving", names.iter().map(|name| ((*name).to_owned(), goal)), before);
        progress.text(now)
    }

    #[test]
    fn who_is_on_his_way_is_named_before_who_waits_for_him() {
        let all = |web, db| [service("web1", web, 1), service("web2", "waiting", 0), service("zdb", db, 0)];
        let before = all("stopped", "stopped");
        let names = ["web*", "zdb", "new@1"];
        assert_eq!(
            text(Goal::Up, &names, &before, &all("active", "starting")),
            "moving: 1 of 4 done, waits for new@1, zdb, web2"
        );
    }

    #[test]
    fn each_goal_has_its_own_end() {
        for (goal, before, now, done) in [
            (Goal::Up, ("stopped", 1), ("stopped", 1), 0),
            (Goal::Up, ("stopped", 1), ("backoff", 2), 1),
            (Goal::Up, ("active", 1), ("active", 1), 1),
            (Goal::Again, ("active", 1), ("active", 1), 0),
            (Goal::Again, ("active", 1), ("starting", 2), 0),
            (Goal::Again, ("active", 1), ("active", 2), 1),
            (Goal::Down, ("active", 1), ("active", 1), 0),
            (Goal::Down, ("active", 1), ("stopping", 1), 0),
            (Goal::Down, ("active", 1), ("stopped", 1), 1),
        ] {
            let (before, now) = ([service("a", before.0, before.1)], [service("a", now.0, now.1)]);
            let expected = ["moving: 0 of 1 done, waits for a", "moving: 1 of 1 done"][done];
            assert_eq!(text(goal, &["a"], &before, &now), expected, "{goal:?} {before:?} {now:?}");
        }
        assert!(is_done(Goal::Down, 1, None) && !is_done(Goal::Up, 0, None));
    }

    #[test]
    fn a_line_is_no_wider_than_its_terminal() {
        assert_eq!(cut("grüße an alle", 13), "grüße an alle");
        assert_eq!(cut("grüße an alle", 12), "grüße an al…");
        assert_eq!((cut("ab", 1), cut("ab", 0)), ("…".to_owned(), String::new()));
    }
}
