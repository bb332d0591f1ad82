//! What people and files ask of the fleet: sets goals, leaves the order of things to [`Fleet::settle`].

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Demand, Entry, Fleet, Goal, News, Notice, Outcome, Shutdown, diff, tell,
    timers::is_left_to_the_clock,
};
use crate::{
    machine::{By, Event, Failure, Kept, Mono, Phase, State, Tally, Then, Why},
    spec::{Unit, UnitName},
};

/// Its file is gone: nobody starts it any more.
const REMOVED: Goal = Goal::Down(By::Removed);

impl Fleet {
    pub(super) fn boot(&mut self, now: Mono, out: &mut Outcome) {
        let is_due = |entry: &&Entry| {
            let down = matches!(
                entry.life.state,
                State::Stopped(Why::NeverStarted | Why::Asked(By::Shutdown))
                    | State::Stopping { then: Then::Rest(Why::Asked(By::Shutdown)), .. }
            );
            // It was never up, and somebody did not want it listened for either.
            let down = down && !matches!(entry.goal, Goal::Down(By::User | By::Whole(_) | By::Required(_)));
            // Asked, but not told yet: the supervisor was killed in the middle of its own shutdown.
            let spared = entry.goal == Goal::Down(By::Shutdown) && !entry.life.state.is_resting();
            entry.unit.enabled && !is_left_to_the_clock(&entry.unit) && (down || spared)
        };
        let names: Vec<UnitName> =
            self.entries.values().filter(is_due).map(|entry| entry.unit.name.clone()).collect();
        self.welcome(names, now, out);
    }

    /// Starts the named ones, and what they need and want unless it is on its way. Whoever conflicts with any of these goes.
    pub(super) fn start(&mut self, names: &[UnitName], now: Mono, out: &mut Outcome) {
        if self.shutdown == Shutdown::Asked {
            return;
        }
        let named: BTreeSet<&UnitName> = names.iter().collect();
        let mut queue: Vec<UnitName> = names.to_vec();
        let mut met = BTreeSet::new();
        while let Some(name) = queue.pop() {
            let Some(entry) = self.entries.get(&name).filter(|entry| entry.goal != REMOVED) else { continue };
            if entry.unit.accepts() {
                self.listen(&name, now, out);
                continue;
            }
            let is_down = is_down(entry);
            if is_down || named.contains(&name) {
                self.arm(&name, out);
            }
            let Some(entry) = self.entries.get(&name) else { continue };
            if is_down {
                let unit = &entry.unit;
                queue.extend(entry.needs().chain(&unit.wants).chain(&unit.upholds).cloned());
            }
            met.insert(name.clone());
            self.oust(&name, &met, out);
            let Some(entry) = self.entries.get(&name) else { continue };
            if matches!(entry.goal, Goal::Down(_)) {
                self.aim(&name, Goal::Up, out);
            }
            // Whoever starts a service in backoff does not want to wait; who merely requires it does.
            if is_down || named.contains(&name) {
                self.deliver(&name, Event::Start, now, out);
            }
        }
    }

    /// Takes those down that conflict with one that is started, unless they were asked for with it.
    fn oust(&mut self, name: &UnitName, met: &BTreeSet<UnitName>, out: &mut Outcome) {
        let is_in_the_way = |rival: &&UnitName| {
            // One that misses another would come back with that one.
            let misses = |entry: &Entry| {
                entry.goal == Goal::Up && matches!(entry.life.state, State::Failed(Failure::Dependency(_)))
            };
            let entry = self.entries.get(*rival).filter(|_| !met.contains(*rival));
            entry.is_some_and(|entry| entry.is_coming() || misses(entry))
        };
        let rivals: Vec<UnitName> = self.bonds.rivals(name).filter(is_in_the_way).cloned().collect();
        self.stop(&rivals, &By::Conflict(name.clone()), out);
    }

    /// Takes the named ones down, and before them whatever requires them or is a part of them.
    pub(super) fn stop(&mut self, names: &[UnitName], by: &By, out: &mut Outcome) {
        let dependents = self.dependents(names);
        for name in names {
            let Some(entry) = self.entries.get(name) else { continue };
            if entry.goal != REMOVED {
                self.aim(name, Goal::Down(by.clone()), out);
                self.disarm(name, out);
            }
        }
        for (name, (root, bond)) in dependents {
            let by = match bond {
                Bond::Need => By::Required(root),
                Bond::Part => By::Whole(root),
            };
            self.disarm(&name, out);
            self.aim(&name, Goal::Down(by), out);
        }
    }

    /// Takes the named ones down and up again, and with them whatever requires them; starts those that are down.
    pub(super) fn restart(&mut self, names: &[UnitName], now: Mono, out: &mut Outcome) {
        if self.shutdown == Shutdown::Asked {
            return;
        }
        let dependents = self.dependents(names);
        for name in names {
            let Some(entry) = self.entries.get_mut(name) else { continue };
            if entry.rolled_back.take().is_some() {
                out.touched.insert(name.clone());
            }
            if is_down(entry) {
                self.start(std::slice::from_ref(name), now, out);
            } else {
                self.aim(name, Goal::Restart, out);
            }
        }
        for (name, _) in dependents {
            if self.entries.get(&name).is_some_and(|entry| entry.goal == Goal::Up) {
                self.aim(&name, Goal::Restart, out);
            }
        }
    }

    /// Forgets how often the named ones were restarted; who has failed counts as stopped from now on.
    pub(super) fn forgive(&mut self, names: &[UnitName], now: Mono, out: &mut Outcome) {
        for name in names {
            let Some(entry) = self.entries.get_mut(name) else { continue };
            entry.life.tally = Tally::default();
            out.touched.insert(name.clone());
            if !matches!(entry.life.state, State::Failed(_)) || entry.goal == REMOVED {
                continue;
            }
            if !entry.is_on_call() {
                // Else it would come up: what has failed is wanted all the same.
                entry.goal = Goal::Down(By::User);
            }
            let stopped = State::Stopped(Why::Asked(By::User));
            let before = std::mem::replace(&mut entry.life.state, stopped);
            entry.since = now;
            tell(name, &before, entry, out);
        }
    }

    /// Everything down; at once when that was asked for before.
    pub(super) fn shut_down(&mut self, now: Mono, out: &mut Outcome) {
        let is_up = |entry: &&Entry| !matches!(entry.life.state, State::Stopped(_));
        let names: Vec<UnitName> =
            self.entries.values().filter(is_up).map(|entry| entry.unit.name.clone()).collect();
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.disarm(&name, out);
        }
        for name in &names {
            match self.shutdown {
                Shutdown::Asked => self.deliver(name, Event::ForceStop(By::Shutdown), now, out),
                Shutdown::No => {
                    if !self.entries.get(name).is_some_and(|entry| matches!(entry.goal, Goal::Down(_))) {
                        self.aim(name, Goal::Down(By::Shutdown), out);
                    }
                }
            }
        }
        self.shutdown = Shutdown::Asked;
    }

    /// Takes the difference between what is and `units`.
    pub(super) fn reload(&mut self, mut units: BTreeMap<UnitName, Unit>, now: Mono, out: &mut Outcome) {
        if self.shutdown == Shutdown::Asked {
            return;
        }
        let removed: Vec<UnitName> = self
            .entries
            .keys()
            .filter(|name| !units.contains_key(*name) && name.is_service())
            .cloned()
            .collect();
        let (mut wanted, mut new) = (Vec::new(), Vec::new());
        let known: Vec<UnitName> = self.entries.keys().cloned().collect();
        for name in known {
            if let Some(unit) = units.remove(&name) {
                wanted.extend(self.change(&name, unit, now, out));
            }
        }
        for (name, unit) in units {
            if unit.enabled && !is_left_to_the_clock(&unit) {
                new.push(name.clone());
            }
            let mut entry = Entry::new(unit, now);
            entry.timer = self.new_timer(&entry.unit, now);
            self.entries.insert(name.clone(), entry);
            out.touched.insert(name.clone());
            out.notices.push(Notice { name, at: now, news: News::Added });
        }
        self.arrange();
        self.stop(&removed, &By::Removed, out);
        self.start(&wanted, now, out);
        self.welcome(new, now, out);
    }

    /// Gives a service its new file. Returns whom to start because of it.
    fn change(&mut self, name: &UnitName, unit: Unit, now: Mono, out: &mut Outcome) -> Vec<UnitName> {
        let Some(entry) = self.entries.get(name) else { return Vec::new() };
        let progress = self.changed_timer(entry, &unit, now);
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        if entry.timer != progress {
            entry.timer = progress;
            out.touched.insert(name.clone());
        }
        let diff = diff(&entry.unit, &unit);
        let mut wanted = Vec::new();
        let is_new = entry.goal == REMOVED || !entry.unit.enabled;
        let waits = is_left_to_the_clock(&unit);
        let is_wanted = unit.enabled && is_new && !waits;
        // The file is back before the service was gone: as new, but with its history.
        if entry.goal == REMOVED {
            entry.goal = Goal::Down(By::User);
            out.touched.insert(name.clone());
        }
        let old = std::mem::replace(&mut entry.unit, unit);
        // As its new file has it: on demand from now on, or not any more.
        let (was_armed, was_up) = (entry.demand == Demand::Armed, !is_down(entry));
        let is_armed = (was_armed || was_up || is_wanted) && self.arm(name, out);
        match is_armed {
            true if is_wanted => self.aim(name, Goal::Up, out),
            false if is_wanted || (was_armed && !was_up && !waits) => wanted.push(name.clone()),
            true | false => {}
        }
        if diff.change == Change::None {
            return wanted;
        }
        self.change_twin(name, out);
        if self.entries.get(name).is_some_and(|entry| entry.unit.accepts() && !is_down(entry)) {
            self.deliver(name, Event::Stop(By::Replaced), now, out);
            out.notices.push(Notice { name: name.clone(), at: now, news: News::Changed(diff) });
            return wanted;
        }
        let Some(entry) = self.entries.get(name) else { return wanted };
        // What it newly requires has to be there the next time it is launched.
        if !is_down(entry) {
            let new = entry.unit.wants.iter().filter(|other| !old.wants.contains(other));
            wanted.extend(entry.needs().chain(new).filter(|other| *other != name).cloned());
        }
        let kept = diff.kept();
        // It runs, and nobody is left who would say that it is ready.
        let freed = match &entry.life.state {
            State::Starting { run, phase: Phase::Executed, .. } => Some(*run)
                .filter(|_| diff.keys.contains(&"service.ready") && entry.unit.service.ready.is_none()),
            State::Starting { phase: Phase::Launching | Phase::Preparing | Phase::Settling, .. }
            | State::Stopped(_)
            | State::Failed(_)
            | State::Waiting { .. }
            | State::Running { .. }
            | State::Done { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => None,
        };
        let goal = match (&entry.goal, diff.change) {
            (Goal::Renew(earlier), Change::Restart) => Goal::Renew(kept.max(*earlier)),
            (Goal::Up | Goal::Restart, Change::Restart) => Goal::Renew(kept),
            (goal, Change::Restart | Change::Live | Change::None) => goal.clone(),
        };
        out.touched.insert(name.clone());
        out.notices.push(Notice { name: name.clone(), at: now, news: News::Changed(diff) });
        match &entry.life.state {
            // A failed dependency is not mended by another file of the one that waits for it.
            State::Stopped(_) | State::Failed(Failure::Dependency(_)) => {}
            State::Failed(Failure::Ended(_) | Failure::StartLimit { .. })
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Done { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => self.aim(name, goal, out),
        }
        if let Some(run) = freed {
            self.deliver(name, Event::Ready(run), now, out);
        }
        wanted
    }

    /// Whatever is up and needs one of `names` or is a part of it, however far away, with the one that it needs.
    fn dependents(&self, names: &[UnitName]) -> BTreeMap<UnitName, (UnitName, Bond)> {
        let mut found = BTreeMap::new();
        let mut queue: Vec<UnitName> = names.to_vec();
        while let Some(root) = queue.pop() {
            for entry in self.entries.values() {
                let name = &entry.unit.name;
                let is_new = !name.is_twin() && !names.contains(name) && !found.contains_key(name);
                let bond = match entry.needs().any(|other| *other == root) {
                    true => Some(Bond::Need),
                    false => entry.unit.part_of.contains(&root).then_some(Bond::Part),
                };
                if let Some(bond) = bond.filter(|_| is_new && entry.is_coming()) {
                    found.insert(name.clone(), (root.clone(), bond));
                    queue.push(name.clone());
                }
            }
        }
        found
    }
}

/// What binds a service to one that somebody takes down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bond {
    /// It cannot be without the other.
    Need,
    /// It is a part of the other.
    Part,
}

/// At rest, or on the way there.
pub(super) fn is_down(entry: &Entry) -> bool {
    let resting = entry.life.state.is_resting();
    resting || matches!(entry.life.state, State::Stopping { then: Then::Rest(_) | Then::Fail(_), .. })
}

impl super::Diff {
    fn kept(&self) -> Kept {
        match self.keys.iter().any(|key| key.starts_with("network.")) {
            true => Kept::Nothing,
            false => Kept::Network,
        }
    }
}
