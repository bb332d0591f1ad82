//! Blue-green restarts: the next run comes up beside the one that it is to replace (`service.rollout = "blue-green"`).
//!
//! For as long as a service has two runs it has two entries, each with a machine of its own: the service's, and its *twin's*,
//! under a name that no file can have. The twin begins as [`Role::Next`]. When it is up and well the two *change places*:
//! its run becomes the service's, the old run becomes the twin's, as [`Role::Old`], and is stopped as `service.stop` says.
//! When the next run fails, it goes away, and the old one has never noticed. Should the old run end by itself meanwhile,
//! they change places at once, and the next run comes up as the service's.
//!
//! A twin requires nobody and comes after nobody: all that the service needs was there when its run began. It is never
//! started by anything but this module, and whatever becomes of the service (stopped, removed, restarted again) calls it
//! off.

use serde::{Deserialize, Serialize};

use super::{Effect, Entry, Fleet, Goal, News, Notice, Outcome, tell};
use crate::{
    machine::{By, Event, Kept, Life, Mono, RunId, State, health::HealthState},
    spec::{Rollout, Unit, UnitName},
};

/// Which of two runs an entry is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The service's own.
    #[default]
    Own,
    /// A twin's that is to take its place.
    Next,
    /// A twin's that has had it.
    Old,
    /// That of one connection ([`super::connections`]).
    Connection,
}

impl Entry {
    /// Whether a restart is a rollout now: there is somebody to be replaced who answers meanwhile.
    fn rolls(&self) -> bool {
        let is_up = matches!(self.life.state, State::Running { .. });
        // Whoever goes down with another cannot go on meanwhile.
        let is_bound = !self.unit.binds_to.is_empty()
            || self.joined().next().is_some()
            || self.unit.network.joined().is_some();
        is_up && !is_bound && self.unit.service.rollout == Rollout::BlueGreen
    }

    /// Up and, where it is checked, well; none: that is not known yet.
    fn is_fit(&self) -> Option<bool> {
        match (&self.unit.health, self.health().map(|health| health.verdict)) {
            (None, _) | (Some(_), Some(HealthState::Healthy)) => Some(true),
            (Some(_), Some(HealthState::Unhealthy)) => Some(false),
            (Some(_), Some(HealthState::Unknown) | None) => None,
        }
    }

    /// A word about the runs beside it, for `status`; none where it has no twin.
    fn progress(&self) -> String {
        let run = self.life.state.run().unwrap_or(self.life.last);
        match self.role {
            Role::Next => format!("run {run} is to take its place: {}", self.life.state.name()),
            Role::Old | Role::Own | Role::Connection => format!("run {run} drains"),
        }
    }
}

/// The unit of a twin: of the service's, what it is launched and stopped with.
fn of_twin(unit: &Unit) -> Unit {
    let mut unit = Unit { name: unit.name.twin(), enabled: false, timer: None, ..unit.clone() };
    let Unit { requires, wants, binds_to, part_of, upholds, conflicts, on_failure, on_success, .. } =
        &mut unit;
    for names in [requires, wants, binds_to, part_of, upholds, conflicts, on_failure, on_success] {
        names.clear();
    }
    unit.after.clear();
    unit.before.clear();
    unit
}

impl Fleet {
    /// What the second run of a service is doing, where it has one.
    pub fn rollout(&self, name: &UnitName) -> Option<String> {
        self.entries.get(&name.twin()).map(Entry::progress)
    }

    /// Nothing asked for is outstanding, of it or of a second run.
    pub fn is_settled(&self, name: &UnitName) -> bool {
        let has_twin = self.entries.contains_key(&name.twin());
        let ends = self.is_deaf(name) && self.connections(name) > 0;
        self.entries.get(name).is_none_or(|entry| entry.is_settled() && !has_twin && !ends)
    }

    /// Of the two entries of a service, that of this run: they may have changed places since the report was written.
    pub(super) fn holder(&self, name: &UnitName, run: RunId) -> UnitName {
        let has_run =
            |name: &UnitName| self.entries.get(name).is_some_and(|entry| entry.life.state.run() == Some(run));
        let other = if name.is_twin() { name.base() } else { name.twin() };
        match !has_run(name) && has_run(&other) {
            true => other,
            false => name.clone(),
        }
    }

    /// Moves a rollout on, or begins one in place of a restart. None: what is wanted of the service is told to its machine
    /// as usual; otherwise whether anything has moved.
    pub(super) fn roll(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) -> Option<bool> {
        let entry = self.entries.get(name).filter(|_| !name.is_twin())?;
        let is_restart = matches!(entry.goal, Goal::Restart | Goal::Renew(Kept::Network));
        let Some(twin) = self.entries.get(&name.twin()) else {
            if !is_restart || !entry.rolls() || self.is_held(name) {
                return None;
            }
            self.begin_rollout(name, now, out);
            return Some(true);
        };
        if twin.life.state.is_resting() && matches!(twin.goal, Goal::Down(_)) {
            self.bury(name, out);
            return Some(true);
        }
        let is_leaving = matches!(twin.goal, Goal::Down(_));
        match &entry.goal {
            Goal::Up if is_leaving => None,
            Goal::Up => Some(self.watch(name, now, out)),
            Goal::Down(by) if !is_leaving => {
                let by = by.clone();
                self.call_off(name, &by, out);
                Some(true)
            }
            Goal::Restart | Goal::Renew(_) if !is_leaving => {
                self.call_off(name, &By::Replaced, out);
                Some(true)
            }
            // One after the other: there are never three.
            Goal::Restart | Goal::Renew(_) if entry.life.state.run().is_some() => Some(false),
            Goal::Down(_) | Goal::Restart | Goal::Renew(_) => None,
        }
    }

    fn begin_rollout(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) {
        self.aim(name, Goal::Up, out);
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.rolled_back = None;
        let mut next = Entry::new(of_twin(&entry.unit), now);
        next.role = Role::Next;
        next.life = Life { last: entry.life.last, ..Life::new() };
        let (twin, old) = (name.twin(), entry.life.state.run());
        self.entries.insert(twin.clone(), next);
        self.arrange();
        out.touched.extend([name.clone(), twin.clone()]);
        out.notices.push(Notice { name: name.clone(), at: now, news: News::RollsOut { old } });
        self.deliver(&twin, Event::Start, now, out);
    }

    /// Whether the next run can take over, or never will.
    fn watch(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) -> bool {
        let twin = name.twin();
        let (Some(own), Some(next)) = (self.entries.get(name), self.entries.get(&twin)) else { return false };
        let is_alone = !matches!(own.life.state, State::Running { .. });
        let verdict = match &next.life.state {
            State::Running { .. } if is_alone => Some(true),
            State::Running { .. } => next.is_fit(),
            State::Waiting { .. } | State::Starting { .. } => is_alone.then_some(true),
            State::Stopping { .. } => None,
            // The policy would have it tried again; the old run is there, and whoever asked is to know.
            State::Backoff { .. } | State::Done { .. } | State::Stopped(_) | State::Failed(_) => Some(false),
        };
        match verdict {
            None => return false,
            Some(true) => self.change_places(name, now, out),
            Some(false) => {
                let (run, reason) = (next.life.last, next.fault.clone().unwrap_or_else(|| last_word(next)));
                if let Some(own) = self.entries.get_mut(name) {
                    own.rolled_back = Some(format!("run {run}: {reason}"));
                }
                out.touched.insert(name.clone());
                out.notices.push(Notice {
                    name: name.clone(),
                    at: now,
                    news: News::RolledBack { run, reason },
                });
                self.aim(&twin, Goal::Down(By::Replaced), out);
            }
        }
        true
    }

    /// Has the next run go away.
    fn call_off(&mut self, name: &UnitName, by: &By, out: &mut Outcome) {
        self.aim(&name.twin(), Goal::Down(by.clone()), out);
    }

    /// The twin's run becomes the service's, and the service's the twin's, which is to go.
    fn change_places(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) {
        let twin = name.twin();
        let (Some(mut own), Some(mut next)) = (self.entries.remove(name), self.entries.remove(&twin)) else {
            return;
        };
        let before = own.life.state.clone();
        std::mem::swap(&mut own.life, &mut next.life);
        std::mem::swap(&mut own.since, &mut next.since);
        std::mem::swap(&mut own.used, &mut next.used);
        std::mem::swap(&mut own.health, &mut next.health);
        let last = own.life.last.max(next.life.last);
        (own.life.last, next.life.last) = (last, last);
        (next.role, next.goal) = (Role::Old, Goal::Down(By::Replaced));
        let (run, old) = (own.life.state.run(), next.life.state.run());
        tell(name, &before, &own, out);
        self.entries.insert(name.clone(), own);
        self.entries.insert(twin.clone(), next);
        // What was asked for before is carried out after they have changed places.
        for Effect { name: of, .. } in &mut out.effects {
            if of == name {
                *of = twin.clone();
            } else if *of == twin {
                *of = name.clone();
            }
        }
        out.swapped.push(name.clone());
        out.touched.extend([name.clone(), twin]);
        out.notices.push(Notice { name: name.clone(), at: now, news: News::ChangedPlaces { run, old } });
    }

    /// Nothing is left of the twin but its past.
    fn bury(&mut self, name: &UnitName, out: &mut Outcome) {
        let twin = name.twin();
        let Some(gone) = self.entries.remove(&twin) else { return };
        if let Some(own) = self.entries.get_mut(name) {
            own.remember(gone.history);
        }
        self.arrange();
        out.touched.extend([name.clone(), twin]);
    }

    /// Counts launches of both runs as one.
    pub(super) fn count_as_one(&mut self, name: &UnitName, out: &mut Outcome) {
        let Some(last) = self.entries.get(name).map(|entry| entry.life.last) else { return };
        let other = if name.is_twin() { name.base() } else { name.twin() };
        if let Some(entry) = self.entries.get_mut(&other).filter(|entry| entry.life.last < last) {
            entry.life.last = last;
            out.touched.insert(other);
        }
    }

    /// Gives the next run what has changed without a restart.
    pub(super) fn change_twin(&mut self, name: &UnitName, out: &mut Outcome) {
        let Some(unit) = self.entries.get(name).map(|entry| of_twin(&entry.unit)) else { return };
        let twin = name.twin();
        if let Some(entry) = self.entries.get_mut(&twin).filter(|entry| entry.role == Role::Next) {
            entry.unit = unit;
            out.touched.insert(twin);
        }
    }
}

/// How the newest run of an entry came to nothing.
fn last_word(entry: &Entry) -> String {
    if entry.is_fit() == Some(false) {
        return "its health checks have failed".to_owned();
    }
    let newest = entry.history.last().filter(|past| past.run == entry.life.last);
    let reason = entry.life.state.reason();
    match (reason.is_empty(), newest) {
        (false, _) => reason,
        (true, Some(past)) => past.end.to_string(),
        (true, None) => "it has ended".to_owned(),
    }
}
