//! Instances of templates that no file names: somebody has started them, and they are there for as long as they are up.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::Supervisor;
use crate::{
    config,
    machine::{
        By, State,
        fleet::{Goal, Input},
    },
    spec::{Unit, UnitName},
};

impl Supervisor {
    /// Those that a reload is not to forget, should no file name them.
    pub(super) fn instances(&self) -> BTreeSet<UnitName> {
        let entries = self.fleet.entries().iter();
        let there = entries.filter(|(name, entry)| {
            let is_stopped = matches!(entry.life.state, State::Stopped(_));
            name.is_instance() && !is_stopped && entry.goal != Goal::Down(By::Removed)
        });
        there.map(|(name, _)| name.clone()).collect()
    }

    /// Makes instances of those `names` that no file names and a template has; the files of others are not taken in.
    pub(super) fn instantiate(&mut self, names: &[String]) -> Result<(), String> {
        let is_new = |name: &UnitName| {
            let prefix = name.as_str().split_once('@').map(|(prefix, _)| prefix);
            let is_known = self.fleet.entry(name).is_some_and(|entry| entry.goal != Goal::Down(By::Removed));
            prefix.is_some_and(|prefix| self.templates.contains(prefix))
                && !is_known
                && !self.broken.contains_key(name)
                && !self.masked.contains(name)
        };
        let new: BTreeSet<UnitName> =
            names.iter().filter_map(|name| UnitName::new(name).ok()).filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let all = new.iter().cloned().chain(self.instances()).collect();
        let mut loaded = config::load_with(&self.options.sources, &self.facts, &all);
        self.show_ingress(&mut loaded);
        for name in &new {
            if let Some(mistakes) = loaded.broken.get(name) {
                let mistakes = config::diagnostic::in_a_line(mistakes);
                return Err(format!("{name}: its file has errors: {mistakes}"));
            }
        }
        let standing = self
            .fleet
            .entries()
            .values()
            .filter(|entry| entry.goal != Goal::Down(By::Removed) && entry.unit.name.is_service());
        let mut units: BTreeMap<UnitName, Unit> =
            standing.map(|entry| (entry.unit.name.clone(), entry.unit.clone())).collect();
        // With those that they name in their turn.
        for (name, unit) in loaded.units.into_iter().filter(|(name, _)| name.is_instance()) {
            if let Entry::Vacant(vacant) = units.entry(name) {
                let file = loaded.files.get(vacant.key());
                self.files.extend(file.map(|path| (vacant.key().clone(), path.clone())));
                vacant.insert(unit);
            }
        }
        self.inputs.push_back(Input::Reload(units));
        self.pump();
        Ok(())
    }
}
