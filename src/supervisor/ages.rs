//! `log.max_age`: old logs are removed, also those of services that do not run.
//!
//! Ages are counted by the clock on the wall, as times in logs are. When it is set, the alarm of [`super::timers`] wakes the
//! loop, which looks again how long there is to wait.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Supervisor;
use crate::{
    logs::{self, LogWriter},
    machine::Mono,
    spec::UnitName,
    sys::SysError,
};

/// When the log of each service is to be looked at next.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<UnitName, Timestamp>);

impl Ages {
    /// There may be something else to do about the log of a service from now on.
    pub(super) fn look_at(&mut self, name: &UnitName) {
        self.0.insert(name.clone(), Timestamp::MIN);
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let next = *self.0.values().min()?;
        let left = next.duration_since(Timestamp::now()).as_millis().max(0);
        // Not a millisecond early, which would be in vain.
        let left = u64::try_from(left).map_or(u64::MAX, |left| if left > 0 { left + 1 } else { 0 });
        Some(Mono(super::now().0.saturating_add(left)))
    }
}

impl Supervisor {
    /// Removes and rotates what is too old by now.
    pub(super) fn ages_overdue(&mut self) {
        let now = Timestamp::now();
        let due: Vec<UnitName> =
            self.ages.0.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.ages.0.remove(&name);
            self.squeezer.want(&name);
            let Some(policy) = self.fleet.entry(&name).map(|entry| entry.unit.log.clone()) else { continue };
            let look = || logs::look(&self.options.log, name.as_str(), &policy, now);
            let mut seen = look();
            if seen.is_to_rotate {
                if let Err(error) = self.rotate(&name) {
                    // Where that cannot be done now, a full file is the next reason to try.
                    tracing::error!(unit = %name, "an old log is not rotated: {error}");
                }
                seen = logs::look(&self.options.log, name.as_str(), &policy, now);
            }
            if let Some(next) = seen.next {
                self.ages.0.insert(name, next);
            }
        }
    }

    fn rotate(&mut self, name: &UnitName) -> Result<(), SysError> {
        match self.logs.get_mut(name) {
            Some(log) => log.rotate()?,
            // It has written nothing since we began, and may never do.
            None => {
                let Some(entry) = self.fleet.entry(name) else { return Ok(()) };
                LogWriter::open(&self.options.log, name.as_str(), entry.unit.log.clone())?.rotate()?;
            }
        }
        self.clients.wrote(name);
        Ok(())
    }
}
