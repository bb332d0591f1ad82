//! `log.max_age`: old logs are removed, also those of services that do not run.
//!
//! Ages are counted by the clock on the wall, as times in logs are. When it is set, the alarm of [`super::timers`] wakes the
//! loop, which looks again how long there is to wait.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::Supervisor;
use crate::{
    logs::{self, LogWriter},
    machine::Mono,
    spec::UnitName,
    sys::SysError,
};

/// When the log of each service is to be looked at next: by name, and the soonest first.
#[derive(Debug, Default)]
pub(super) struct Ages {
    next: BTreeMap<UnitName, Timestamp>,
    soonest: BTreeSet<(Timestamp, UnitName)>,
}

impl Ages {
    /// There may be something else to do about the log of a service from now on.
    pub(super) fn look_at(&mut self, name: &UnitName) {
        self.look_later(name.clone(), Timestamp::MIN);
    }

    fn look_later(&mut self, name: UnitName, at: Timestamp) {
        if let Some(before) = self.next.insert(name.clone(), at) {
            self.soonest.remove(&(before, name.clone()));
        }
        self.soonest.insert((at, name));
    }

    /// One whose time has come; it is not looked at again by itself.
    fn due(&mut self, now: Timestamp) -> Option<UnitName> {
        let (_, name) = self.soonest.first().filter(|(at, _)| *at <= now)?.clone();
        self.soonest.pop_first();
        self.next.remove(&name);
        Some(name)
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let (next, _) = self.soonest.first()?;
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
        // Those that are due now, each once: whatever comes of a look is for the next turn.
        let due: Vec<UnitName> = std::iter::from_fn(|| self.ages.due(now)).collect();
        for name in due {
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
                self.ages.look_later(name, next);
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
