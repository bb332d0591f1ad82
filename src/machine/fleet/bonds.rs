//! Who is bound to whom: the order of things, and what follows from where others stand. Looked at anew at every change.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Fleet, Goal, Outcome, Shutdown};
use crate::{
    machine::{By, Event, Failure, Mono, Rules, State, Why, backoff},
    spec::{After, Milestone, UnitName},
};

/// Least time between two starts of one that is upheld, for a file whose `restart.delay` is nothing.
const LEAST_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What the files say about one another, turned so that each service finds what others say about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bonds {
    /// The place of each, after those whom it comes after.
    rank: BTreeMap<UnitName, usize>,
    /// Whom a service comes after, by its own word or theirs.
    ahead: BTreeMap<UnitName, Vec<After>>,
    /// Who comes after this one.
    followers: BTreeMap<UnitName, Vec<UnitName>>,
    /// Who conflicts with this one, whoever says so.
    rivals: BTreeMap<UnitName, BTreeSet<UnitName>>,
    /// Who upholds this one.
    upholders: BTreeMap<UnitName, Vec<UnitName>>,
}

/// Whether a Waiting service may go.
pub(super) enum Verdict {
    Go,
    Wait,
    Fail(UnitName),
}

impl Bonds {
    /// Works out who comes after whom. An edge that closes a cycle is left out.
    pub(super) fn of(entries: &BTreeMap<UnitName, Entry>) -> Self {
        let mut bonds = Self::default();
        for Entry { unit, .. } in entries.values() {
            let name = &unit.name;
            bonds.ahead.entry(name.clone()).or_default().extend(unit.after.iter().cloned());
            for before in &unit.before {
                let edge = After { name: name.clone(), milestone: before.milestone };
                bonds.ahead.entry(before.name.clone()).or_default().push(edge);
            }
            for other in &unit.conflicts {
                bonds.rivals.entry(name.clone()).or_default().insert(other.clone());
                bonds.rivals.entry(other.clone()).or_default().insert(name.clone());
            }
            for other in &unit.upholds {
                bonds.upholders.entry(other.clone()).or_default().push(name.clone());
            }
        }
        bonds.rank_all(entries);
        for entry in entries.values() {
            let ahead = bonds.follows(entry).filter(|other| bonds.is_before(other, entry));
            let ahead: Vec<UnitName> = ahead.cloned().collect();
            for other in ahead {
                bonds.followers.entry(other).or_default().push(entry.unit.name.clone());
            }
        }
        bonds
    }

    fn rank_all(&mut self, entries: &BTreeMap<UnitName, Entry>) {
        let mut order = Vec::new();
        let mut left: BTreeSet<&UnitName> = entries.keys().collect();
        while let Some(&first) = left.first() {
            let is_free = |name: &&UnitName| self.follows(&entries[*name]).all(|other| !left.contains(other));
            let mut free: Vec<&UnitName> = left.iter().copied().filter(is_free).collect();
            if free.is_empty() {
                free.push(first);
            }
            for name in free {
                left.remove(name);
                order.push(name.clone());
            }
        }
        self.rank = order.into_iter().zip(0..).collect();
    }

    /// Everybody whom it comes after.
    fn follows<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a UnitName> {
        entry.needs().chain(self.ahead(&entry.unit.name).iter().map(|after| &after.name))
    }

    fn ahead(&self, name: &UnitName) -> &[After] {
        self.ahead.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// These, each once, everybody after those whom it comes after.
    pub(super) fn in_order(&self, names: impl Iterator<Item = UnitName>) -> Vec<UnitName> {
        let ranked: BTreeMap<usize, UnitName> =
            names.filter_map(|name| Some((*self.rank.get(&name)?, name))).collect();
        ranked.into_values().collect()
    }

    /// Those whom others uphold.
    pub(super) fn upheld(&self) -> impl Iterator<Item = &UnitName> {
        self.upholders.keys()
    }

    pub(super) fn rivals(&self, name: &UnitName) -> impl Iterator<Item = &UnitName> {
        self.rivals.get(name).into_iter().flatten()
    }

    /// Whether the edge from `entry` to `other` counts: it does unless it closes a cycle.
    fn is_before(&self, other: &UnitName, entry: &Entry) -> bool {
        match (self.rank.get(other), self.rank.get(&entry.unit.name)) {
            (Some(other), Some(own)) => other < own,
            (None, _) | (_, None) => true,
        }
    }

    /// How far one that `entry` needs must have come; what the order says of it counts, where it says something.
    fn needed(&self, entry: &Entry, other: &UnitName) -> Milestone {
        let said = self.ahead(&entry.unit.name).iter().filter(|after| after.name == *other);
        said.map(|after| after.milestone).max().unwrap_or(Milestone::Ready)
    }
}

impl Fleet {
    pub(super) fn arrange(&mut self) {
        self.bonds = Bonds::of(&self.entries);
    }

    /// Whether somebody who comes after it has to be gone first.
    pub(super) fn is_held(&self, name: &UnitName) -> bool {
        let followers = self.bonds.followers.get(name).map(Vec::as_slice).unwrap_or_default();
        followers.iter().filter_map(|name| self.entries.get(name)).any(Entry::is_leaving)
    }

    pub(super) fn verdict(&self, entry: &Entry) -> Verdict {
        let hopeless = |name: &&UnitName| {
            let coming = self.entries.get(*name).is_some_and(Entry::is_coming);
            !coming && !self.has(entry, name)
        };
        if let Some(name) = entry.needs().filter(|name| self.bonds.is_before(name, entry)).find(hopeless) {
            return Verdict::Fail(name.clone());
        }
        match self.missing(entry).is_empty() {
            true => Verdict::Go,
            false => Verdict::Wait,
        }
    }

    /// Whether `name` has come as far as `entry`, which needs it, wants it.
    fn has(&self, entry: &Entry, name: &UnitName) -> bool {
        let Some(other) = self.entries.get(name) else { return false };
        // systemd.unit(5): one that is skipped has had its turn, unless it must be up.
        let skipped =
            other.goal == Goal::Up && matches!(&other.life.state, State::Stopped(why) if why.is_skipped());
        other.reached(self.bonds.needed(entry, name)) || (skipped && !entry.unit.binds_to.contains(name))
    }

    /// All that a service needs, however far away.
    pub(super) fn needed_by(&self, name: &UnitName) -> BTreeSet<UnitName> {
        let mut found = BTreeSet::new();
        let mut queue = vec![name.clone()];
        while let Some(name) = queue.pop() {
            let Some(entry) = self.entries.get(&name) else { continue };
            let new: Vec<UnitName> = entry.needs().filter(|name| !found.contains(*name)).cloned().collect();
            found.extend(new.iter().cloned());
            queue.extend(new);
        }
        found
    }

    /// Whom `entry` has to wait for: required ones that have not come so far, those before it that are on their way, and
    /// those that it conflicts with and that are not gone yet.
    pub(super) fn missing(&self, entry: &Entry) -> Vec<UnitName> {
        let needs = entry.needs().filter(|name| !self.has(entry, name));
        let on_its_way = |after: &&After| {
            let other = self.entries.get(&after.name);
            other.is_some_and(|other| other.is_coming() && !other.reached(after.milestone))
        };
        let ahead = self.bonds.ahead(&entry.unit.name).iter().filter(on_its_way);
        let all = needs.chain(ahead.map(|after| &after.name));
        let all = all.filter(|name| self.bonds.is_before(name, entry));
        let stands =
            |name: &&UnitName| self.entries.get(*name).is_some_and(|rival| rival.life.state.run().is_some());
        all.chain(self.bonds.rivals(&entry.unit.name).filter(stands)).cloned().collect()
    }

    /// Those that take the places for being started.
    pub(super) fn crowd(&self) -> impl Iterator<Item = &UnitName> {
        let busy = self.entries.stirring().filter(|entry| entry.is_being_started());
        busy.map(|entry| &entry.unit.name)
    }

    /// How many more may be started now.
    pub(super) fn room(&self) -> usize {
        self.parallel_starts.map_or(usize::MAX, |limit| limit.saturating_sub(self.crowd().count()))
    }

    /// Of two that conflict and are both on their way, one has to go: the one whose name the other's file has.
    pub(super) fn part(&mut self, out: &mut Outcome) -> bool {
        let is_coming = |name: &UnitName| self.entries.get(name).is_some_and(Entry::is_coming);
        let rivals = self.bonds.rivals.iter().filter(|(name, _)| is_coming(name));
        let pairs = rivals.flat_map(|(name, others)| others.iter().map(move |other| (name, other)));
        let says = |name: &UnitName, other: &UnitName| {
            self.entries.get(name).is_some_and(|entry| entry.unit.conflicts.contains(other))
        };
        // Where both say so, the first by name stays.
        let is_lost = |(winner, loser): &(&UnitName, &UnitName)| {
            is_coming(loser) && says(winner, loser) && (winner < loser || !says(loser, winner))
        };
        let found = { pairs }.find(is_lost).map(|(winner, loser)| (winner.clone(), loser.clone()));
        let Some((winner, loser)) = found else { return false };
        self.stop(&[loser], &By::Conflict(winner), out);
        true
    }

    /// Takes down those that are up and bound to one that is not.
    pub(super) fn unbind(&mut self, out: &mut Outcome) -> bool {
        let lost = |entry: &Entry| {
            let is_up = match entry.life.state {
                State::Starting { .. } | State::Running { .. } | State::Done { .. } => true,
                State::Stopped(_)
                | State::Failed(_)
                | State::Waiting { .. }
                | State::Stopping { .. }
                | State::Backoff { .. } => false,
            };
            let mut bound = entry.unit.binds_to.iter().filter(|name| self.bonds.is_before(name, entry));
            let is_here = |name: &UnitName| {
                self.entries.get(name).is_some_and(|other| other.reached(Milestone::Started))
            };
            let other = bound.find(|name| !is_here(name)).filter(|_| is_up && entry.goal == Goal::Up)?;
            Some((entry.unit.name.clone(), other.clone()))
        };
        let lost: Vec<_> = self.entries.stirring().filter_map(lost).collect();
        for (name, other) in &lost {
            match self.entries.get(other).is_some_and(Entry::is_rising) {
                true => self.aim(name, Goal::Restart, out),
                false => self.stop(std::slice::from_ref(name), &By::Required(other.clone()), out),
            }
        }
        !lost.is_empty()
    }

    /// Brings back those that went down only because of one that they need and that comes back.
    pub(super) fn rejoin(&mut self, now: Mono, out: &mut Outcome) -> bool {
        if self.shutdown == Shutdown::Asked {
            return false;
        }
        let is_coming = |name: &UnitName| self.entries.get(name).is_some_and(Entry::is_coming);
        let is_rising = |name: &UnitName| self.entries.get(name).is_some_and(Entry::is_rising);
        let returns = |entry: &&Entry| {
            let Goal::Down(By::Required(other)) = &entry.goal else { return false };
            let comes = |name: &UnitName| is_rising(name) || self.has(entry, name);
            // A second run of a service goes with it, and has no way of its own.
            entry.unit.name.is_service()
                && is_rising(other)
                && entry.needs().all(comes)
                // Whoever was started since then was asked for later.
                && !self.bonds.rivals(&entry.unit.name).any(is_coming)
        };
        let names: Vec<UnitName> =
            self.entries.stirring().filter(returns).map(|entry| entry.unit.name.clone()).collect();
        for name in &names {
            self.aim(name, Goal::Up, out);
            // One that a connection starts waits for the next.
            if !self.arm(name, out) {
                self.deliver(name, Event::Start, now, out);
            }
        }
        !names.is_empty()
    }

    /// When one that is down is to be started because somebody who is up upholds it.
    pub(super) fn uphold_due(&self, entry: &Entry) -> Option<Mono> {
        let is_coming = |name: &UnitName| self.entries.get(name).is_some_and(Entry::is_coming);
        let is_up =
            |name: &UnitName| self.entries.get(name).is_some_and(|other| other.reached(Milestone::Started));
        let name = &entry.unit.name;
        let wanted = match &entry.goal {
            Goal::Up | Goal::Restart | Goal::Renew(_) | Goal::Down(By::User | By::Whole(_)) => true,
            // Comes back by itself, or is not to come back.
            Goal::Down(By::Required(_) | By::Conflict(_) | By::Removed | By::Replaced | By::Shutdown) => {
                false
            }
        };
        let upheld = self.bonds.upholders.get(name)?.iter().any(is_up);
        // One that misses another comes with that one.
        let misses = matches!(entry.life.state, State::Failed(Failure::Dependency(_)))
            && !entry.needs().all(|other| is_coming(other) || self.has(entry, other));
        if self.shutdown == Shutdown::Asked
            || entry.is_accepting()
            || !(upheld && wanted && entry.life.state.is_resting())
            || misses
            || self.bonds.rivals(name).any(is_coming)
        {
            return None;
        }
        let rules = Rules::of(&entry.unit, self.seed);
        if entry.life.state == State::Stopped(Why::NeverStarted) {
            return Some(Mono(0));
        }
        let delay = backoff::delay(rules.restart, rules.seed, self.upheld_in_a_row(entry) + 1);
        Some(entry.since.after(delay.max(LEAST_PAUSE)))
    }

    /// How often it was started so, without a run since then that lasted.
    fn upheld_in_a_row(&self, entry: &Entry) -> u32 {
        let lasted = |past: &super::Past| past.ended.since(past.started) >= entry.unit.restart.reset_after;
        if entry.history.last().is_some_and(lasted) { 0 } else { entry.upheld }
    }

    /// Starts those that are upheld and due.
    pub(super) fn uphold(&mut self, now: Mono, out: &mut Outcome) -> bool {
        let is_due = |entry: &&Entry| self.uphold_due(entry).is_some_and(|at| at <= now);
        let upheld = self.bonds.upheld().filter_map(|name| self.entries.get(name));
        let due: Vec<(UnitName, u32)> = upheld
            .filter(is_due)
            .map(|entry| (entry.unit.name.clone(), self.upheld_in_a_row(entry).saturating_add(1)))
            .collect();
        for (name, count) in &due {
            self.start(std::slice::from_ref(name), now, out);
            if let Some(entry) = self.entries.get_mut(name) {
                entry.upheld = *count;
            }
            out.touched.insert(name.clone());
        }
        !due.is_empty()
    }
}
