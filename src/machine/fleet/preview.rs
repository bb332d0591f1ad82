//! What reading other files would do, before it is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{Change, Entry, Fleet, Goal, Input, diff};
use crate::{
    machine::{By, Mono},
    spec::{Unit, UnitName},
};

/// What becomes of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is new, or enabled now, or required by one that is: it is started.
    Start,
    /// It is new, and waits for somebody to start it.
    Add,
    /// It is replaced by a run in a new sandbox.
    Restart,
    /// It goes on, and is told to read its configuration again.
    Reload,
    /// It goes on; the new values count from now on.
    Live,
    /// It is down; the new values count from its next start on.
    Later,
    /// It is stopped, with one that it needs or because its file is gone.
    Stop,
    /// Its file is gone, and it was down.
    Remove,
    /// Its file has mistakes: it goes on as it was.
    Broken,
}

/// One service that other files change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub name: UnitName,
    /// What becomes of it.
    pub how: How,
    /// The keys that differ, as a service file spells them; none where it changes because of others.
    pub keys: Vec<&'static str>,
    /// What of `service.reload.watch` has changed.
    pub paths: Vec<PathBuf>,
}

impl Fleet {
    /// What [`Input::Reload`] with `units` does, service by service; those of which nothing changes are left out.
    ///
    /// It is done to a copy, and the copy is looked at: what is told is what is going to happen. `stale`: those that run, and
    /// what they would have to read again.
    pub fn preview(
        &self,
        units: &BTreeMap<UnitName, Unit>,
        stale: &BTreeMap<UnitName, Vec<PathBuf>>,
        now: Mono,
    ) -> Vec<Planned> {
        let mut after = self.clone();
        after.apply(Input::Reload(units.clone()), now);
        let own = self.entries().keys().filter(|name| name.is_service());
        let names: BTreeSet<&UnitName> = own.chain(units.keys()).collect();
        names
            .into_iter()
            .filter_map(|name| {
                let (before, unit) = (self.entry(name), units.get(name));
                let diff = before.zip(unit).map(|(before, unit)| diff(&before.unit, unit));
                let (change, keys) = diff.map_or((Change::None, Vec::new()), |diff| (diff.change, diff.keys));
                let paths = stale.get(name).cloned().unwrap_or_default();
                let how = match (how(before, after.entry(name), change), paths.is_empty()) {
                    // It reads them again in passing.
                    (None | Some(How::Live), false) => How::Reload,
                    (how, _) => how?,
                };
                let paths = if how == How::Reload { paths } else { Vec::new() };
                Some(Planned { name: name.clone(), how, keys, paths })
            })
            .collect()
    }
}

fn how(before: Option<&Entry>, after: Option<&Entry>, change: Change) -> Option<How> {
    let is_up = |entry: &Entry| entry.is_coming();
    let was_up = before.is_some_and(is_up);
    let will_be_up = after.is_some_and(is_up);
    let is_renewed = |entry: &Entry| matches!(entry.goal, Goal::Restart | Goal::Renew(_));
    match (before, after) {
        (None, _) => Some(if will_be_up { How::Start } else { How::Add }),
        (Some(_), None) => Some(if was_up { How::Stop } else { How::Remove }),
        (Some(_), Some(after)) if after.goal == Goal::Down(By::Removed) => {
            Some(if was_up { How::Stop } else { How::Remove })
        }
        _ if was_up && !will_be_up => Some(How::Stop),
        _ if !was_up && will_be_up => Some(How::Start),
        (Some(_), Some(after)) => match change {
            Change::Restart if was_up => Some(How::Restart),
            Change::Restart => Some(How::Later),
            Change::Live if was_up => Some(How::Live),
            Change::Live => Some(How::Later),
            Change::None => (was_up && is_renewed(after)).then_some(How::Restart),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{
        RunId,
        fleet::{
            Report,
            sample::{name, unit},
        },
    };

    #[test]
    fn what_a_service_reads_is_taken_up_by_a_reload_unless_it_restarts_anyway() {
        let units = |change: fn(&mut Unit)| {
            let mut web = unit("web", &[]);
            web.service.reload_watch = vec!["/etc/web".into()];
            change(&mut web);
            BTreeMap::from([(name("web"), web)])
        };
        let mut fleet = Fleet::new(1);
        fleet.apply(Input::Reload(units(|_| {})), Mono(0));
        fleet.apply(Input::Report(name("web"), Report::Started(RunId(1))), Mono(1));
        let stale = BTreeMap::from([(name("web"), vec![PathBuf::from("/etc/web")])]);
        let how = |change: fn(&mut Unit), stale: &BTreeMap<_, _>| -> Vec<(How, usize)> {
            let planned = fleet.preview(&units(change), stale, Mono(2));
            planned.iter().map(|planned| (planned.how, planned.paths.len())).collect()
        };
        assert_eq!(how(|_| {}, &BTreeMap::new()), []);
        assert_eq!(how(|_| {}, &stale), [(How::Reload, 1)]);
        assert_eq!(how(|unit| unit.log.files = 9, &stale), [(How::Reload, 1)]);
        assert_eq!(how(|unit| unit.log.files = 9, &BTreeMap::new()), [(How::Live, 0)]);
        assert_eq!(how(|unit| unit.service.umask = 0, &stale), [(How::Restart, 0)]);
    }
}
