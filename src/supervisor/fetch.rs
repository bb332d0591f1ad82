//! Credentials that a program of the host prints: the launch waits for it, and nobody else does.

use std::time::Instant;

use super::{Supervisor, now};
use crate::{
    launch::{
        LaunchFault,
        credentials::{self, Fetch},
    },
    machine::{Mono, RunId, fleet::Report},
    spec::UnitName,
};

impl Supervisor {
    /// Begins a launch with what takes time: the programs of its credentials.
    pub(super) fn launch(&mut self, name: &UnitName, run: RunId) {
        let Some(unit) = self.unit_of(name) else { return };
        self.faults.remove(name);
        if !self.suits(name, run, false) {
            return;
        }
        // Before a program of the file's is run as root.
        if let Err(fault) = self.admit(&unit) {
            return self.refuse_launch(name, run, fault);
        }
        match Fetch::start(&unit.security.credentials) {
            Ok(None) => self.launch_with(name, run, None),
            Ok(Some(fetch)) => drop(self.fetches.insert(name.clone(), (run, fetch))),
            Err(error) => self.refuse_launch(name, run, credentials::fault(&error)),
        }
    }

    /// The programs of a service have something to say, or their time is up.
    pub(super) fn fetch_ready(&mut self, name: &UnitName) {
        let Some((run, fetch)) = self.fetches.get_mut(name) else { return };
        let (run, done) = (*run, fetch.go_on());
        if matches!(done, Ok(false)) {
            return;
        }
        let fetch = self.fetches.remove(name).map(|(_, fetch)| fetch);
        let Some(credentials) = self.fleet.entry(name).map(|entry| entry.unit.security.credentials.clone())
        else {
            return;
        };
        match done.and_then(|_| credentials::gather(&credentials, fetch)) {
            Ok(secrets) => self.launch_with(name, run, Some(secrets)),
            Err(error) => self.refuse_launch(name, run, credentials::fault(&error)),
        }
    }

    /// When the first of them takes too long.
    pub(super) fn fetch_deadline(&self) -> Option<Mono> {
        let first = self.fetches.values().map(|(_, fetch)| fetch.deadline()).min()?;
        let left = first.saturating_duration_since(Instant::now()).as_millis();
        // Not a moment too early, or the loop would turn without waiting.
        Some(Mono(now().0 + u64::try_from(left).unwrap_or_default() + 1))
    }

    /// Gives up those that take too long.
    pub(super) fn fetches_overdue(&mut self) {
        let now = Instant::now();
        let late: Vec<UnitName> = self
            .fetches
            .iter()
            .filter(|(_, (_, fetch))| fetch.deadline() <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in late {
            self.fetch_ready(&name);
        }
    }

    /// Takes back a launch that still waits; true where there was one.
    pub(super) fn forget_fetch(&mut self, name: &UnitName) -> bool {
        let Some((run, _)) = self.fetches.remove(name) else { return false };
        self.report(name, Report::Gone(run));
        true
    }

    pub(super) fn refuse_launch(&mut self, name: &UnitName, run: RunId, fault: Box<LaunchFault>) {
        self.launch_failed(name, run, fault);
        self.report(name, Report::Gone(run));
    }
}
