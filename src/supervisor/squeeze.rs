//! `log.compress`: rotated files are compressed while there is nothing else to do.
//!
//! It takes a millisecond or two for each 64K: so much is done whenever poll(2) has nothing to tell, and ten times a second
//! where it always has. A process of its own would have to be watched, adopted and kept from a flood's heels.

use std::collections::BTreeSet;

use super::{Supervisor, now};
use crate::{logs::Squeeze, machine::Mono, spec::UnitName, sys::SysError};

/// Milliseconds from one piece to the next, at most.
const PATIENCE: u64 = 100;

/// Logs in which something is looked for at a time: some system calls each.
const LOOKS: usize = 64;

/// What is compressed.
#[derive(Debug, Default)]
pub(super) struct Squeezer {
    /// Services of which there may be something.
    wanted: BTreeSet<UnitName>,
    at_work: Option<(UnitName, Squeeze)>,
    /// When the last piece was done.
    last: Option<Mono>,
}

impl Squeezer {
    /// The log of this service may have been rotated.
    pub(super) fn want(&mut self, name: &UnitName) {
        self.wanted.insert(name.clone());
    }

    /// At once, if there is something to do: poll(2) is to say whether there is something else.
    pub(super) fn deadline(&self) -> Option<Mono> {
        (self.at_work.is_some() || !self.wanted.is_empty()).then(now)
    }

    /// What is not done yet is left to the next supervisor.
    pub(super) fn close(&mut self) {
        if let Some((_, squeeze)) = self.at_work.take() {
            squeeze.give_up();
        }
    }
}

impl Supervisor {
    /// Does a piece of it, if nothing else was to be done or it has waited long enough.
    pub(super) fn squeeze(&mut self, is_idle: bool) {
        let is_patient = |last: Mono| now().0 < last.0 + PATIENCE;
        if self.squeezer.deadline().is_none() || (!is_idle && self.squeezer.last.is_some_and(is_patient)) {
            return;
        }
        self.squeezer.last = Some(now());
        let done = match &mut self.squeezer.at_work {
            Some((name, squeeze)) => squeeze.step().map(|is_over| is_over.then(|| name.clone())),
            None => self.squeeze_next().map(|()| None),
        };
        match done {
            Ok(None) => {}
            Ok(Some(name)) => {
                self.squeezer.at_work = None;
                // There may be older ones.
                self.squeezer.want(&name);
            }
            Err(error) => {
                tracing::error!("a log stays as it is: {error}");
                self.squeezer.at_work = None;
            }
        }
    }

    /// Begins with another file. Most logs have none.
    fn squeeze_next(&mut self) -> Result<(), SysError> {
        for _ in 0..LOOKS {
            let Some(name) = self.squeezer.wanted.pop_first() else { return Ok(()) };
            let Some(entry) = self.fleet.entry(&name) else { continue };
            // Without it a file that was begun is removed all the same.
            let files = if entry.unit.log.compress { entry.unit.log.files } else { 0 };
            if let Some(squeeze) = Squeeze::begin(&self.options.log, name.as_str(), files)? {
                self.squeezer.at_work = Some((name, squeeze));
                return Ok(());
            }
        }
        Ok(())
    }
}
