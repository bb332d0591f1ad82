//! Two runs of one service at a time: which things go by the name of the service, and which by that of its run.
//!
//! What belongs to a run is kept under the name of the entry whose run it is, the service's or its twin's; what outlives
//! runs (network, held sockets, log, ids) under the service's alone.

use std::collections::BTreeMap;

use super::{Supervisor, runs::LiveRun, state::RunRecord};
use crate::{
    machine::RunId,
    spec::{Unit, UnitName},
};

impl Supervisor {
    /// What a run of this name is launched from: for a twin's, the service's own file with the service's own name.
    pub(super) fn unit_of(&self, name: &UnitName) -> Option<Unit> {
        let unit = self.fleet.entry(name)?.unit.clone();
        Some(Unit { name: name.base(), ..unit })
    }

    /// The runs of a service and of its twin change places, with all that belongs to them.
    pub(super) fn change_places(&mut self, name: &UnitName) {
        let twin = name.twin();
        self.runs.change_places(name, &twin);
        swap(&mut self.fetches, name, &twin);
        swap(&mut self.faults, name, &twin);
        self.sessions.change_places(name, &twin);
        self.probes.change_places(name, &twin);
        self.changes.change_places(name);
        self.places_changed += 1;
    }

    /// Why a second run was not launched is what there is to say of the service, once that run is forgotten.
    pub(super) fn forget_twin(&mut self, name: &UnitName) {
        if !name.is_twin() || self.fleet.entry(name).is_some() {
            return;
        }
        self.changes.forget(name);
        if let Some(fault) = self.faults.remove(name) {
            self.faults.insert(name.base(), fault);
        }
        self.point(&name.base(), "twin-forgotten");
    }

    /// The name under which a run is known by now, where it is.
    pub(super) fn name_of(&self, name: &UnitName, run: RunId) -> Option<UnitName> {
        let has_run = |name: &UnitName| self.runs.get(name).is_some_and(|live| live.run == run);
        [name.clone(), name.base(), name.twin()].into_iter().find(has_run)
    }

    /// Another run of the service lives, and what is under the service's name is its as well.
    pub(super) fn is_shared(&self, name: &UnitName) -> bool {
        let base = name.base();
        // They all begin with it; what else does is few, where the others may be a thousand.
        let runs = self.runs.range(base.clone()..).map(|(other, _)| other);
        let mut runs = runs.take_while(|other| other.as_str().starts_with(base.as_str()));
        runs.any(|other| other != name && other.base() == base)
    }
}

impl LiveRun {
    /// How a successor finds it again.
    pub(super) fn record(&self) -> Option<RunRecord> {
        let (pid, start_time) = self.init?;
        Some(RunRecord {
            pid,
            start_time,
            main: self.main,
            traces: self.traces.clone(),
            before: self.before,
            attested: self.attested.clone(),
            hook: self.hooks.record,
            told: self.voice.told.clone(),
            version: self.version.clone(),
        })
    }
}

/// Exchanges what a map has under two names.
pub(super) fn swap<T>(map: &mut BTreeMap<UnitName, T>, a: &UnitName, b: &UnitName) {
    let (of_a, of_b) = (map.remove(a), map.remove(b));
    map.extend(of_b.map(|value| (a.clone(), value)));
    map.extend(of_a.map(|value| (b.clone(), value)));
}
