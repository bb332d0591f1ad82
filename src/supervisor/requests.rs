//! What the control socket asks for, and what is told to those who listen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{Supervisor, changes::Told, now, sockets::Holdings};
use crate::{
    config::policy::Verb as Right,
    control::{
        proto::{self, Access, Error, Method, Peer},
        server::{ClientId, Request},
        types::{
            Change, Changes, EVENT_KINDS, Event, Events, ExitRecord, Fault, Health, LogEntries, Moment, Pong,
            ServiceState, ServiceStatus, Services,
        },
    },
    logs::{self, Follower, Wanted},
    machine::{
        End, Mono, Phase, RunId, State,
        fleet::{Demand, Entry, Input, News, Notice, Past, Taken},
        health::HealthState,
    },
    spec::{Http, UnitName},
};

/// Bytes that a follower of logs may have unread before it is given more.
const UNREAD: usize = 0;

/// Events in one answer.
const EVENTS_AT_ONCE: usize = 100;

/// Those who wait for something.
#[derive(Debug, Default)]
pub(super) struct Clients {
    events: Vec<Listener>,
    followers: BTreeMap<ClientId, (Follower, bool)>,
    /// Followers for whom something was written.
    behind: BTreeSet<ClientId>,
    pending: Vec<Pending>,
    /// Those who want to know when services have come to rest.
    pub(super) settling: Vec<(ClientId, Vec<UnitName>)>,
}

/// Who asks, and how far that one may go.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    peer: Peer,
    access: Access,
}

/// Somebody who is told what happens.
#[derive(Debug)]
struct Listener {
    client: ClientId,
    caller: Caller,
    names: Patterns,
}

/// Which services are meant: names and patterns, or all.
#[derive(Clone, Debug)]
struct Patterns(Vec<glob::Pattern>);

impl Patterns {
    fn new(names: &[String]) -> Self {
        // A name has nothing in it that a pattern would take for more. What is no pattern means nobody.
        Self(names.iter().map(|name| glob::Pattern::new(name).unwrap_or_default()).collect())
    }

    /// Whether a service of this name is meant, by that or as one of many for connections.
    fn means(&self, name: &str, base: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(name) || pattern.matches(base))
    }
}

/// A verb that is answered when the services that it named have settled.
#[derive(Debug)]
struct Pending {
    client: ClientId,
    verb: Verb,
    targets: Vec<(UnitName, Before)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    Restart,
}

/// What a service was before the verb.
#[derive(Clone, Debug)]
struct Before {
    run: u64,
    was_up: Option<Duration>,
    state: &'static str,
}

impl Clients {
    /// Whether somebody waits for a verb to be done.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.settling.is_empty()
    }

    /// Something was written to the log of this service.
    pub(super) fn wrote(&mut self, name: &UnitName) {
        let told = self
            .followers
            .iter_mut()
            .filter_map(|(client, (follower, _))| follower.wrote(name.as_str()).then_some(*client));
        self.behind.extend(told);
    }
}

impl Supervisor {
    pub(super) fn request(&mut self, request: Request) {
        let client = request.client;
        let caller = Caller { peer: request.peer.clone(), access: request.access };
        match request.method.clone() {
            Method::Ping => {
                let pid = std::process::id();
                self.server.reply(client, &Pong { version: env!("CARGO_PKG_VERSION").into(), pid }, false);
            }
            Method::List => self.list(client, &caller, &[], false),
            Method::Status(names) => self.list(client, &caller, &names.names, true),
            Method::Samples(names) => self.begin_sampling(client, &caller, &names.names),
            Method::Start(names) => self.verb(client, &caller, Verb::Start, &names.names),
            Method::Stop(names) => self.verb(client, &caller, Verb::Stop, &names.names),
            Method::Restart(names) => self.verb(client, &caller, Verb::Restart, &names.names),
            Method::Reload(names) => self.reload(client, &caller, &names.names),
            Method::ResetFailed(names) => self.reset_failed(client, &caller, &names.names),
            Method::Kill(kill) => self.kill(client, &caller, &kill),
            Method::Logs(logs) => self.follow(client, &caller, &logs),
            Method::Events(wanted) => self.listen(client, caller, &wanted),
            Method::Exec(exec) => match self.may_exec(&caller, &exec) {
                Ok(()) => self.exec(request, &exec),
                Err(error) => self.server.error(client, &error),
            },
            // Only who may do everything comes so far.
            Method::DaemonReload => self.daemon_reload(client),
            Method::Plan => self.tell_plan(client),
            Method::Sites => self.tell_sites(client),
            Method::Metrics => self.metrics.asked(client),
            Method::Apply(apply) => self.apply(client, apply),
            Method::Settle(names) => self.settle(client, &names.names),
            Method::Confirm => self.confirm(client),
            Method::Revert => self.revert(client),
            Method::Upgrade(upgrade) => self.upgrade(client, &upgrade),
        }
    }

    /// Whether a service is one of those that somebody owns.
    fn owns(&self, caller: &Caller, name: &UnitName) -> bool {
        let Peer { uid, gids, .. } = &caller.peer;
        self.fleet.entry(name).is_some_and(|entry| entry.unit.owners.iter().any(|owner| owner.is(*uid, gids)))
    }

    /// Whether somebody may know that there is such a service.
    fn may_see(&self, caller: &Caller, name: &UnitName) -> bool {
        caller.access.all || caller.access.looks || self.owns(caller, name)
    }

    /// Whether somebody may do this with a service.
    fn may(&self, caller: &Caller, name: &UnitName, right: Right) -> bool {
        let looks = matches!(right, Right::Status | Right::Logs) && caller.access.looks;
        let allowed = self.policy.as_ref().is_some_and(|policy| policy.owners_may(right));
        caller.access.all || looks || (allowed && self.owns(caller, name))
    }

    /// An owner runs what the service itself could run, as whom the service runs.
    fn may_exec(&self, caller: &Caller, exec: &proto::Exec) -> Result<(), Error> {
        let name = UnitName::said(&exec.name).ok().filter(|name| self.may_see(caller, name));
        let Some(name) = name else {
            return Err(Error::NoSuchService { names: vec![exec.name.clone()] });
        };
        match self.may(caller, &name, Right::Exec) && (exec.user.is_none() || caller.access.all) {
            true => Ok(()),
            false => Err(Error::NotAllowed),
        }
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.clients.events.retain(|listener| listener.client != client);
        self.clients.followers.remove(&client);
        self.clients.behind.remove(&client);
        self.clients.pending.retain(|pending| pending.client != client);
        self.clients.settling.retain(|(other, _)| *other != client);
        self.reloads.forget(client);
        self.metrics.forget(client);
        self.samplings.retain(|sampling| sampling.client != client);
        self.end_sessions_of(client);
    }

    /// The services that names and patterns mean; every one of them must mean some. A pattern means those with which the
    /// caller may do this; a name that he may not know is as good as none.
    fn expand(&self, caller: &Caller, right: Right, names: &[String]) -> Result<Vec<UnitName>, Error> {
        let known = || {
            let all = self.fleet.entries().keys().chain(self.broken.keys()).chain(&self.masked);
            all.filter(|name| !name.is_twin() && self.may_see(caller, name))
        };
        let is_known = |name: &UnitName| {
            self.fleet.entry(name).is_some() || self.broken.contains_key(name) || self.masked.contains(name)
        };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            let meant: Vec<UnitName> = match proto::is_pattern(name) {
                true => {
                    let pattern = glob::Pattern::new(name).ok();
                    let matches = |known: &&UnitName| {
                        pattern.as_ref().is_some_and(|pattern| pattern.matches(known.as_str()))
                    };
                    known().filter(matches).cloned().collect()
                }
                false => {
                    let name = UnitName::said(name).ok();
                    name.filter(|name| is_known(name) && self.may_see(caller, name)).into_iter().collect()
                }
            };
            let before = found.len();
            let is_unknown = meant.is_empty();
            found.extend(meant.into_iter().filter(|name| self.may(caller, name, right)));
            match found.len() == before {
                true if is_unknown => missing.push(name.clone()),
                true => return Err(Error::NotAllowed),
                false => {}
            }
        }
        found.sort();
        found.dedup();
        match missing.is_empty() {
            true => Ok(found),
            false => Err(Error::NoSuchService { names: missing }),
        }
    }

    /// Those of some names that a caller may look at; without any, all such.
    pub(super) fn seen(&self, caller: &Caller, names: &[String]) -> Result<Vec<UnitName>, Error> {
        match names.is_empty() {
            true => self.expand(caller, Right::Status, &["*".to_owned()]).or(Ok(Vec::new())),
            false => self.expand(caller, Right::Status, names),
        }
    }

    fn list(&mut self, client: ClientId, caller: &Caller, names: &[String], is_detailed: bool) {
        match self.seen(caller, names) {
            Ok(names) => {
                let mut services: Vec<ServiceStatus> = Vec::new();
                for name in &names {
                    let mut status = self.status(name);
                    if is_detailed {
                        status.firewall = self.in_the_way(name);
                        let is_seen = |other: &UnitName| self.may(caller, other, Right::Status);
                        let unseen: BTreeSet<UnitName> =
                            self.fleet.entries().keys().filter(|other| !is_seen(other)).cloned().collect();
                        status.denials = self.denied(name, &unseen);
                        status.refusals = self.refused(name);
                        status.restart_needed = self.outdated(name);
                        status = self.with_limits(name, status);
                    }
                    services.push(status);
                }
                self.server.reply(client, &Services { services }, false);
            }
            Err(error) => self.server.error(client, &error),
        }
    }

    fn status(&self, name: &UnitName) -> ServiceStatus {
        let entry = self.fleet.entry(name);
        let unit = entry.map(|entry| &entry.unit);
        let state = entry.map(|entry| &entry.life.state);
        let broken = self.broken.get(name);
        let run = self.runs.get(name);
        let base = name.base();
        let net = self.nets.get(&base);
        let pid = |pid: Option<u32>| pid.and_then(|pid| i32::try_from(pid).ok());
        let until = match state {
            Some(State::Backoff { until, .. }) => Some(moment(*until)),
            _ => None,
        };
        // In another service's network it has that one's addresses.
        let owner = unit.and_then(|unit| unit.network.joined()).filter(|_| net.is_some());
        let net = owner.and_then(|owner| self.nets.get(owner)).or(net);
        let attached = unit.and_then(|unit| unit.network.attached()).filter(|_| net.is_some());
        let attached = attached.map(|attached| vec![attached.address.addr().into()]).unwrap_or_default();
        let link = net.and_then(|net| net.link.as_ref());
        let reason = match (state, broken) {
            (_, Some(error)) => error.clone(),
            (Some(State::Waiting { .. }), None) => {
                let names = self.fleet.waits_for(name);
                let names: Vec<&str> = names.iter().map(UnitName::as_str).collect();
                format!("for {}", names.join(" "))
            }
            // With what came of the last time, which is what to mend: a condition that does not hold, for example.
            (Some(State::Stopped(why)), None)
                if entry.is_some_and(|entry| entry.demand == Demand::Tripped) =>
            {
                format!("started by connections too often in too short a time; {why}")
            }
            (Some(State::Starting { phase: Phase::Executed, .. }), None) => {
                let ready = unit.and_then(|unit| unit.service.ready.as_ref());
                ready.map(|ready| format!("not ready yet, {ready}")).unwrap_or_default()
            }
            (Some(state), None) => self.fleet.rollout(name).unwrap_or_else(|| state.reason()),
            (None, None) => String::new(),
        };
        let group = run.and_then(|run| run.traces.cgroup.as_ref());
        ServiceStatus {
            name: name.to_string(),
            state: self.service_state(name),
            reason,
            description: unit.map(|unit| unit.description.clone()).unwrap_or_default(),
            enabled: unit.is_some_and(|unit| unit.enabled),
            run: entry.map_or(0, |entry| entry.life.last.0),
            restarts: self.restarts.get(name).copied().unwrap_or_default(),
            failures: entry.map_or(0, |entry| entry.life.tally.failures),
            pid: pid(run.and_then(|run| run.main)),
            kind: unit.map(|unit| unit.service.kind.name().to_owned()),
            says: run.and_then(|run| run.voice.told.text()),
            init_pid: pid(run.and_then(|run| run.init.map(|(pid, _)| pid))),
            attested: match entry.map(|entry| &entry.life.state) {
                Some(State::Running { .. } | State::Stopping { .. }) => {
                    run.map(|run| run.attested.clone()).unwrap_or_default()
                }
                _ => Vec::new(),
            },
            addresses: link.map_or(attached, |link| link.addresses().collect()),
            ports: unit.map_or(Vec::new(), |unit| unit.network.publish.iter().map(|p| (*p).into()).collect()),
            hosts: unit.and_then(|unit| unit.http.as_ref()).map(Http::shown).unwrap_or_default(),
            sockets: self.holdings.get(name).map(Holdings::shown).unwrap_or_default(),
            firewall: Vec::new(),
            denials: Vec::new(),
            refusals: Vec::new(),
            restart_needed: Vec::new(),
            health: entry.and_then(health),
            since: entry.map(|entry| moment(entry.since)),
            until,
            timer: self.timer_status(name),
            exits: entry.map_or(Vec::new(), |entry| entry.history.iter().filter_map(exit_record).collect()),
            usage: None,
            processes: Vec::new(),
            limits: Vec::new(),
            fault: self.faults.get(name).map(|fault| Fault {
                step: fault.step.clone(),
                object: fault.object.clone(),
                error: fault.error.clone(),
                hint: fault.hint.clone(),
            }),
            cgroup: group.map(|group| group.display().to_string()),
            log: Some(logs::path(&self.options.log, base.as_str(), 0).display().to_string()),
            config: self.files.get(&base).map(|path| path.display().to_string()),
        }
    }

    pub(super) fn service_state(&self, name: &UnitName) -> ServiceState {
        match self.fleet.entry(name).map(|entry| &entry.life.state) {
            Some(State::Stopped(_)) if self.broken.contains_key(name) => ServiceState::Broken,
            Some(State::Stopped(_)) if self.doors.has_failed(name) => ServiceState::Backoff,
            Some(State::Stopped(_)) if self.fleet.entry(name).is_some_and(Entry::is_on_call) => {
                ServiceState::Listening
            }
            Some(State::Stopped(_)) => ServiceState::Stopped,
            Some(State::Failed(_)) => ServiceState::Failed,
            Some(State::Waiting { .. }) => ServiceState::Waiting,
            Some(State::Starting { .. }) => ServiceState::Starting,
            Some(State::Running { .. }) => ServiceState::Active,
            Some(State::Done { .. }) => ServiceState::Done,
            Some(State::Stopping { .. }) => ServiceState::Stopping,
            Some(State::Backoff { .. }) => ServiceState::Backoff,
            None if self.masked.contains(name) => ServiceState::Masked,
            None if self.broken.contains_key(name) => ServiceState::Broken,
            // Its file is gone, and so is the service: told once, in the event that says so.
            None => ServiceState::Stopped,
        }
    }

    fn verb(&mut self, client: ClientId, caller: &Caller, verb: Verb, names: &[String]) {
        let right = match verb {
            Verb::Start => Right::Start,
            Verb::Stop => Right::Stop,
            Verb::Restart => Right::Restart,
        };
        // Each takes an id range for good: that is not an owner's to give away.
        if verb == Verb::Start
            && caller.access.all
            && !self.stopping
            && let Err(reason) = self.instantiate(names)
        {
            return self.server.error(client, &Error::Refused { reason });
        }
        let names = match self.expand(caller, right, names) {
            Ok(names) => names,
            Err(error) => return self.server.error(client, &error),
        };
        if self.stopping {
            let reason = "the supervisor is stopping everything".to_owned();
            return self.server.error(client, &Error::Refused { reason });
        }
        if let Some(name) = names.iter().find(|name| self.fleet.entry(name).is_none()) {
            let reason = match self.broken.get(name) {
                Some(error) => format!("{name}: its file has errors: {error}"),
                None => format!("{name} is masked"),
            };
            return self.server.error(client, &Error::Refused { reason });
        }
        let targets = names.iter().filter_map(|name| Some((name.clone(), self.before(name)?))).collect();
        self.clients.pending.push(Pending { client, verb, targets });
        self.inputs.push_back(match verb {
            Verb::Start => Input::Start(names),
            Verb::Stop => Input::Stop(names),
            Verb::Restart => Input::Restart(names),
        });
    }

    fn before(&self, name: &UnitName) -> Option<Before> {
        let entry = self.fleet.entry(name)?;
        let was_up = match &entry.life.state {
            State::Running { since, .. } => Some(now().since(*since)),
            _ => None,
        };
        Some(Before { run: entry.life.last.0, was_up, state: entry.life.state.name() })
    }

    /// Answers the verbs whose services have arrived.
    pub(super) fn answer_settled(&mut self) {
        let is_settled = |name: &UnitName| self.fleet.is_settled(name);
        let (done, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.clients.pending)
            .into_iter()
            .partition(|pending| pending.targets.iter().all(|(name, _)| is_settled(name)));
        self.clients.pending = pending;
        for Pending { client, verb, targets } in done {
            let changes = targets.iter().map(|(name, before)| self.outcome(verb, name, before)).collect();
            self.server.reply(client, &Changes { changes }, false);
        }
        let (done, settling): (Vec<_>, Vec<_>) = std::mem::take(&mut self.clients.settling)
            .into_iter()
            .partition(|(_, names)| names.iter().all(is_settled));
        self.clients.settling = settling;
        for (client, names) in done {
            let changes = names.iter().map(|name| self.came_to(name)).collect();
            self.server.reply(client, &Changes { changes }, false);
        }
    }

    /// What a verb has come to, in words.
    fn outcome(&self, verb: Verb, name: &UnitName, before: &Before) -> Change {
        let was_up = before.was_up.map(|span| format!("was up {}", coarse(span)));
        let change = |what: String, ok: bool| Change { name: name.to_string(), what, ok };
        let Some(entry) = self.fleet.entry(name) else {
            return match name.is_connection() {
                true => change("ended".into(), true),
                false => change("its file is gone".into(), false),
            };
        };
        let run = entry.life.last.0;
        let reason = entry.life.state.reason();
        match (&entry.life.state, verb) {
            (_, Verb::Start | Verb::Restart) if self.doors.has_failed(name) => {
                let fault = self.faults.get(name).map(ToString::to_string).unwrap_or_default();
                change(format!("does not listen: {fault}"), false)
            }
            (State::Stopped(_), Verb::Start | Verb::Restart) if entry.unit.accepts() => {
                change("listens".into(), true)
            }
            (State::Stopped(_), Verb::Stop) if entry.unit.accepts() => change("stopped".into(), true),
            (State::Stopped(_), Verb::Stop) => match (was_up, before.state) {
                (Some(was_up), _) => change(format!("stopped (run {run}, {was_up})"), true),
                (None, "stopped") => change("was not running".into(), true),
                (None, _) => change(format!("stopped (run {run})"), true),
            },
            (State::Running { .. }, Verb::Start) if run == before.run && before.state == "active" => {
                change(format!("was running already (run {run})"), true)
            }
            (State::Running { run, .. }, Verb::Restart) if entry.rolled_back.is_some() => {
                let why = entry.rolled_back.as_deref().unwrap_or_default();
                change(format!("not restarted, run {run} goes on: {why}"), false)
            }
            (State::Running { .. }, Verb::Restart) => match was_up {
                Some(was_up) => change(format!("restarted (run {run}, {was_up})"), true),
                None => change(format!("started (run {run}, was not running)"), true),
            },
            (State::Running { .. }, Verb::Start) => change(format!("started (run {run})"), true),
            (State::Done { .. } | State::Stopped(_), Verb::Start | Verb::Restart) => {
                change(format!("done (run {run}) {reason}").trim_end().to_owned(), true)
            }
            _ => {
                let fault = self.faults.get(name).map(|fault| format!(": {fault}")).unwrap_or_default();
                let state = entry.life.state.name();
                change(format!("{state} (run {run}) {reason}{fault}").trim_end().to_owned(), false)
            }
        }
    }

    fn reload(&mut self, client: ClientId, caller: &Caller, names: &[String]) {
        let names = match self.expand(caller, Right::Reload, names) {
            Ok(names) => names,
            Err(error) => return self.server.error(client, &error),
        };
        let (mut changes, mut waiting) = (Vec::new(), BTreeSet::new());
        for name in &names {
            let change = |what: &str, ok: bool| Change { name: name.to_string(), what: what.into(), ok };
            match self.tell_to_reload(name) {
                Told::Done => changes.push(change("told to reload", true)),
                Told::Waits => drop(waiting.insert(name.clone())),
                Told::Not(reason) => changes.push(change(&format!("not reloaded: {reason}"), false)),
            }
        }
        self.answer_reload(client, changes, waiting);
    }

    /// Whoever may start a service may also do this.
    fn reset_failed(&mut self, client: ClientId, caller: &Caller, names: &[String]) {
        let names = match self.expand(caller, Right::Start, names) {
            Ok(names) => names,
            Err(error) => return self.server.error(client, &error),
        };
        let mut changes = Vec::new();
        for name in &names {
            if self.service_state(name) != ServiceState::Failed {
                continue;
            }
            self.faults.remove(name);
            let what = "no failed service any more".to_owned();
            changes.push(Change { name: name.to_string(), what, ok: true });
        }
        self.inputs.push_back(Input::Forgive(names));
        self.pump();
        self.server.reply(client, &Changes { changes }, false);
    }

    fn kill(&mut self, client: ClientId, caller: &Caller, kill: &proto::Kill) {
        let names = match self.expand(caller, Right::Kill, &kill.names) {
            Ok(names) => names,
            Err(error) => return self.server.error(client, &error),
        };
        let mut changes = Vec::new();
        for name in &names {
            let is_up = self.runs.get(name).is_some_and(|run| !run.is_over);
            let what = match is_up {
                true => format!("sent signal {}", kill.signal),
                false => "is not running".to_owned(),
            };
            if is_up {
                self.signal(name, kill.signal, false);
            }
            changes.push(Change { name: name.to_string(), what, ok: is_up });
        }
        self.server.reply(client, &Changes { changes }, false);
    }

    fn follow(&mut self, client: ClientId, caller: &Caller, wanted: &proto::Logs) {
        let names = match self.expand(caller, Right::Logs, &wanted.names) {
            Ok(names) => names,
            Err(error) => return self.server.error(client, &error),
        };
        // What runs for connections write is in the log of their service.
        let names: BTreeSet<UnitName> = names.iter().map(UnitName::base).collect();
        let names: Vec<&str> = names.iter().map(UnitName::as_str).collect();
        let time = |micros: Option<i64>| micros.and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let wanted = Wanted {
            lines: wanted.lines.map(u64::from),
            since: time(wanted.since),
            until: time(wanted.until),
            follow: wanted.follow,
        };
        match Follower::open(&self.options.log, &names, &wanted) {
            Ok(follower) => {
                self.clients.followers.insert(client, (follower, wanted.follow));
                self.feed_follower(client);
            }
            Err(error) => self.server.error(client, &Error::Failed { reason: error.to_string() }),
        }
    }

    /// Tells what has happened, and from now on what happens.
    fn listen(&mut self, client: ClientId, caller: Caller, wanted: &proto::Events) {
        let names = Patterns::new(&wanted.names);
        let is_seen = |event: &Event| {
            let Ok(name) = UnitName::said(&event.name) else { return false };
            let base = name.base();
            names.means(&event.name, base.as_str()) && self.may(&caller, &base, Right::Status)
        };
        let most = usize::try_from(wanted.past.unwrap_or_default()).unwrap_or(usize::MAX);
        let past = self.history.past(most, is_seen);
        for name in &wanted.names {
            // Of a service that is gone what happened to it is still known.
            let one = Patterns::new(std::slice::from_ref(name));
            let is_known = |event: &Event| {
                UnitName::said(&event.name).is_ok_and(|of| one.means(&event.name, of.base().as_str()))
            };
            if let Err(error) = self.expand(&caller, Right::Status, std::slice::from_ref(name))
                && !past.iter().any(is_known)
            {
                return self.server.error(client, &error);
            }
        }
        let goes_on = wanted.follow.unwrap_or(true);
        let mut batches = past.chunks(EVENTS_AT_ONCE).peekable();
        while let Some(batch) = batches.next() {
            let is_last = batches.peek().is_none() && !goes_on;
            self.server.reply(client, &Events { events: batch.to_vec() }, !is_last);
        }
        match goes_on {
            true => self.clients.events.push(Listener { client, caller, names }),
            false if past.is_empty() => self.server.reply(client, &Events { events: Vec::new() }, false),
            false => {}
        }
    }

    /// Gives everybody who follows a log what was written to it.
    pub(super) fn feed_followers(&mut self) {
        for client in std::mem::take(&mut self.clients.behind) {
            self.feed_follower(client);
        }
    }

    /// Gives a follower what there is, at the pace at which it reads: who has yet to read something is fed when that is done.
    pub(super) fn feed_follower(&mut self, client: ClientId) {
        while self.server.backlog(client) == Some(UNREAD) {
            let Some((follower, follow)) = self.clients.followers.get_mut(&client) else { return };
            let batch = match follower.read() {
                Ok(batch) => batch,
                Err(error) => {
                    self.clients.followers.remove(&client);
                    return self.server.error(client, &Error::Failed { reason: error.to_string() });
                }
            };
            let goes_on = *follow || batch.more;
            if !batch.entries.is_empty() || batch.is_past_over || !goes_on {
                let answer = LogEntries { entries: batch.entries, is_past_over: batch.is_past_over };
                self.server.reply(client, &answer, goes_on);
            }
            if !goes_on {
                self.clients.followers.remove(&client);
            }
            if !batch.more {
                return;
            }
        }
    }

    /// Tells those who listen of something that has happened to a service and changes nothing about its state.
    pub(super) fn tell_aside(&mut self, name: &UnitName, kind: &str, text: &str) {
        let event = Event {
            time: moment(now()),
            name: name.to_string(),
            kind: kind.to_owned(),
            state: self.service_state(name),
            run: self.fleet.entry(name).map_or(0, |entry| entry.life.last.0),
            failures: 0,
            until: None,
            exit: None,
            text: text.to_owned(),
        };
        self.send_event(name, &event);
    }

    /// Writes a notice to the log, and to those who listen to events.
    pub(super) fn tell(&mut self, notice: &Notice) {
        let base = notice.name.base();
        let name = if notice.name.is_connection() { &notice.name } else { &base };
        self.judge_trial(notice);
        let mut event = Event {
            time: moment(notice.at),
            name: name.to_string(),
            kind: String::new(),
            state: self.service_state(name),
            run: self.fleet.entry(name).map_or(0, |entry| entry.life.last.0),
            failures: 0,
            until: None,
            exit: None,
            text: String::new(),
        };
        match &notice.news {
            News::State { from, to, reason, run, until, failures } => {
                if (*from, *to) == ("backoff", "starting") {
                    *self.restarts.entry(name.clone()).or_default() += 1;
                }
                event.kind = (*to).to_owned();
                event.run = run.0;
                event.until = until.map(moment);
                event.failures = *failures;
                event.text = match until {
                    Some(until) => {
                        format!("{reason}; next run in {}", coarse(until.since(notice.at)))
                    }
                    None => reason.clone(),
                };
            }
            News::Ended(past) => {
                event.kind = "ended".into();
                event.run = past.run.0;
                event.exit = exit_record(past);
                event.text = match past.cause {
                    Some(cause) => format!("{}: {cause}", past.end),
                    None => past.end.to_string(),
                };
            }
            News::Health { run, state, text } => {
                event.kind = state.as_str().into();
                event.run = run.0;
                event.text = text.clone();
            }
            News::Killed { run } => {
                event.kind = "killed".into();
                event.run = run.0;
                event.text = "did not stop in time".into();
            }
            News::RollsOut { old } => {
                event.kind = "rolls_out".into();
                event.text = format!("another run beside {}", run_text(*old));
            }
            News::ChangedPlaces { run, old } => {
                event.kind = "changed_places".into();
                event.run = run.map_or(event.run, |run| run.0);
                event.text = format!("{} takes the place of {}", run_text(*run), run_text(*old));
            }
            News::RolledBack { run, reason } => {
                event.kind = "rolled_back".into();
                event.run = run.0;
                event.text = reason.clone();
            }
            News::Tripped => {
                event.kind = "tripped".into();
                event.text =
                    "connections start it too often: nobody listens for it until it is started".into();
            }
            News::Elapsed { taken } => {
                event.kind = "elapsed".into();
                event.text = match taken {
                    Taken::Started => "the timer starts it",
                    Taken::Skipped => "the timer passes it over: it still runs",
                    Taken::Queued => "the timer starts it again when this run has ended",
                    Taken::Restarted => "the timer restarts it",
                }
                .into();
            }
            News::Changed(diff) => {
                event.kind = "changed".into();
                event.text = diff.keys.join(", ");
            }
            News::Added => event.kind = "added".into(),
            News::Removed => event.kind = "removed".into(),
        }
        let fault = match &notice.news {
            News::Ended(Past { end: End::Launch(_), .. }) => self.faults.get(&notice.name),
            _ => None,
        };
        let fault = fault.map(|fault| format!(": {fault}")).unwrap_or_default();
        tracing::info!(unit = %name, run = event.run, "{} {}{fault}", event.kind, event.text);
        self.send_event(&base, &event);
    }

    /// Puts an event down, and tells those who listen and may know of the service.
    fn send_event(&mut self, base: &UnitName, event: &Event) {
        debug_assert!(
            EVENT_KINDS.iter().any(|(kind, _)| *kind == event.kind),
            "{} is in no list",
            event.kind
        );
        self.history.note(event);
        let told = self.clients.events.iter().filter(|listener| {
            listener.names.means(&event.name, base.as_str())
                && self.may(&listener.caller, base, Right::Status)
        });
        let told: Vec<ClientId> = told.map(|listener| listener.client).collect();
        for client in told {
            self.server.reply(client, &Events { events: vec![event.clone()] }, true);
        }
    }
}

fn run_text(run: Option<RunId>) -> String {
    run.map_or_else(|| "one that has ended".to_owned(), |run| format!("run {run}"))
}

/// A point on CLOCK_MONOTONIC, on both clocks.
pub(super) fn moment(at: Mono) -> Moment {
    let offset = i64::try_from(at.0).unwrap_or(i64::MAX) - i64::try_from(now().0).unwrap_or(i64::MAX);
    let unix = Timestamp::now().as_millisecond().saturating_add(offset).div_euclid(1000);
    Moment { unix, mono: at.0 }
}

/// What is known of the health of a service that is up and is checked.
pub(super) fn health(entry: &Entry) -> Option<Health> {
    let (State::Running { .. }, Some(_)) = (&entry.life.state, &entry.unit.health) else { return None };
    let known = entry.health();
    let last = known.and_then(|health| health.last.as_ref());
    Some(Health {
        state: known.map_or(HealthState::Unknown, |health| health.verdict),
        since: known.map(|health| moment(health.since)),
        failures: known.map_or(0, |health| health.failures),
        checked: last.map(|(at, _)| moment(*at)),
        ok: last.map(|(_, answer)| answer.ok),
        output: last.map(|(_, answer)| answer.text.clone()).unwrap_or_default(),
    })
}

fn exit_record(past: &Past) -> Option<ExitRecord> {
    match past.end {
        End::Exit(kind) => {
            let record = ExitRecord::new(past.run.0, kind, Some(moment(past.started)), moment(past.ended));
            Some(ExitRecord { cause: past.cause, why: past.why, usage: past.used, ..record })
        }
        End::Launch(_)
        | End::StartTimeout(_)
        | End::RunTimeout(_)
        | End::NotReady(_)
        | End::Hook
        | End::Watchdog
        | End::Unhealthy => None,
    }
}

/// A span in its two largest units: `3h 12m`.
fn coarse(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return format!("{}ms", span.as_millis());
    }
    let seconds = span.as_secs();
    let units = [(86400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (size, name) in units {
        let count = left / size;
        left %= size;
        if count > 0 || !parts.is_empty() {
            parts.push((count, name));
        }
    }
    parts.truncate(2);
    parts.retain(|(count, _)| *count > 0);
    parts.iter().map(|(count, name)| format!("{count}{name}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        let tell = |seconds| coarse(Duration::from_secs(seconds));
        assert_eq!(tell(5), "5s");
        assert_eq!(tell(65), "1m 5s");
        assert_eq!(tell(3600), "1h");
        assert_eq!(tell(3 * 86400 + 7200 + 5), "3d 2h");
        assert_eq!(coarse(Duration::from_millis(20)), "20ms");
    }
}
