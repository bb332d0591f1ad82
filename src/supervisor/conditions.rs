//! Before each start, whoever wants it: whether the host is as the service's file wants it.

use super::Supervisor;
use crate::{
    launch::LaunchFault,
    machine::{RunId, fleet::Report},
    spec::{
        UnitName,
        condition::{Unmet, unmet},
    },
    sys::present::Present,
};

impl Supervisor {
    /// Whether a service is to be started now; where it is not, the fleet is told. `stands`: a sandbox waits for the run.
    pub(super) fn suits(&mut self, name: &UnitName, run: RunId, stands: bool) -> bool {
        let Some(entry) = self.fleet.entry(name) else { return false };
        let Some(unmet) = unmet(&entry.unit.condition, &entry.unit.assert, &Present) else { return true };
        self.faults.remove(name);
        if let (true, Some(live)) = (stands, self.runs.get_mut(name)) {
            // The sandbox is this run's now, and goes with it.
            (live.run, live.is_over) = (run, true);
        }
        match unmet {
            Unmet::Condition(check) => self.report(name, Report::Skipped(run, Some(check.to_string()))),
            Unmet::Assert(check) => self.launch_failed(name, run, LaunchFault::asserted(&check)),
        }
        if !stands {
            self.report(name, Report::Gone(run));
        }
        false
    }
}
