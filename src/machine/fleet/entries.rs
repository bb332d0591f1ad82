//! All entries, and which of them may have to be moved.
//!
//! Most of many services are up or down, and stay so until there is news of them. What one input costs must not depend on
//! how many those are, so whoever looks for what is due looks at the others alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use super::{Entry, Goal, Role};
use crate::{
    machine::{By, Failure, Rules, State},
    spec::UnitName,
};

/// The entries, by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entries {
    all: BTreeMap<UnitName, Entry>,
    /// Those that something besides news of themselves may move, and those that were changed since this was looked at.
    stirring: BTreeSet<UnitName>,
}

impl Deref for Entries {
    type Target = BTreeMap<UnitName, Entry>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Entries {
    /// Those that a predecessor has written down.
    pub(super) fn restore(entries: impl IntoIterator<Item = Entry>, seed: u64) -> Self {
        let mut restored = Self::default();
        for entry in entries {
            restored.insert(entry.unit.name.clone(), entry);
        }
        restored.calm_down(seed);
        restored
    }

    /// One of them, to be changed.
    pub(super) fn get_mut(&mut self, name: &UnitName) -> Option<&mut Entry> {
        let entry = self.all.get_mut(name)?;
        if !self.stirring.contains(name) {
            self.stirring.insert(name.clone());
        }
        Some(entry)
    }

    /// One more.
    pub(super) fn insert(&mut self, name: UnitName, entry: Entry) {
        self.stirring.insert(name.clone());
        self.all.insert(name, entry);
    }

    /// One less.
    pub(super) fn remove(&mut self, name: &UnitName) -> Option<Entry> {
        self.stirring.remove(name);
        self.all.remove(name)
    }

    /// Those that time or others may move, and maybe more.
    pub(super) fn stirring(&self) -> impl Iterator<Item = &Entry> {
        self.stirring.iter().filter_map(|name| self.all.get(name))
    }

    /// Leaves out of [`Entries::stirring`] whoever waits for nothing but news of himself.
    pub(super) fn calm_down(&mut self, seed: u64) {
        let all = &self.all;
        self.stirring.retain(|name| all.get(name).is_some_and(|entry| !entry.is_calm(seed)));
    }
}

impl Entry {
    /// Whether it stays as it is until there is news of it, or somebody wants something of it: nothing is due, nobody asks it
    /// how it is, and it does not go by how others stand. Who upholds it knows of that, and who is beside a twin is found by it.
    fn is_calm(&self, seed: u64) -> bool {
        let (unit, is_own) = (&self.unit, self.role == Role::Own);
        let is_there = match (&self.goal, &self.life.state) {
            (Goal::Up, State::Running { .. } | State::Done { .. }) => !unit.name.is_twin(),
            (Goal::Up, State::Stopped(_) | State::Failed(Failure::Ended(_) | Failure::StartLimit { .. })) => {
                is_own
            }
            (Goal::Down(by), State::Stopped(_)) => is_own && !matches!(by, By::Required(_) | By::Removed),
            _ => false,
        };
        let is_free = unit.timer.is_none() && unit.health.is_none() && unit.service.watchdog.is_none();
        let is_due = || self.life.deadline(&Rules::of(unit, seed)).is_some();
        is_there && is_free && unit.binds_to.is_empty() && !is_due()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::machine::{
        Mono, RunId,
        fleet::{Fleet, Input, Report, sample},
    };

    #[test]
    fn only_those_that_something_may_move_are_looked_at() {
        let stirring = |fleet: &Fleet| -> Vec<String> {
            fleet.stirring().map(|entry| entry.unit.name.to_string()).collect()
        };
        let mut units = ["bound", "plain", "timed", "watched"].map(|name| sample::unit(name, &[]));
        units.iter_mut().for_each(|unit| unit.enabled = true);
        units[0].binds_to.push(sample::name("plain"));
        units[2].service.run_timeout = Some(Duration::from_secs(5));
        units[3].service.watchdog = Some(Duration::from_secs(1));
        let mut fleet = Fleet::new(1);
        fleet.apply(Input::Reload(units.map(|unit| (unit.name.clone(), unit)).into()), Mono(1));
        assert_eq!(stirring(&fleet), ["bound", "plain", "timed", "watched"], "all are on their way up");
        for name in ["plain", "bound", "timed", "watched"] {
            fleet.apply(Input::Report(sample::name(name), Report::Started(RunId(1))), Mono(2));
        }
        assert_eq!(stirring(&fleet), ["bound", "timed", "watched"]);
        assert_eq!(fleet.deadline(), Some(Mono(5002)));
        assert_eq!(stirring(&Fleet::restore(1, fleet.entries().values().cloned())), stirring(&fleet));
        fleet.apply(Input::Stop(vec![sample::name("plain")]), Mono(3));
        assert_eq!(stirring(&fleet), ["bound", "plain", "timed", "watched"], "two are on their way down");
    }
}
