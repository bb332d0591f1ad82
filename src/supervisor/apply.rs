//! What other service files would change, and going back from them: `plan`, `apply`, `confirm`, `revert`.
//!
//! What is told beforehand is what happens: the fleet plays the change through on a copy of itself. Files that were applied
//! for a trial are taken back by giving the fleet the units that it had before. The files themselves are left alone,
//! so that until somebody reads them again a successor has to be told, by `RUN/trial.json`, that they do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    os::fd::AsFd,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Supervisor, now};
use crate::{
    config,
    control::{
        proto::{self, Error},
        server::ClientId,
        types::{self, Change, Changes, Confirmed, PlannedChanges, ServiceState},
    },
    machine::{
        Mono,
        fleet::{How, Input, News, Notice, Planned},
        health::HealthState,
    },
    spec::{Unit, UnitName},
    sys::SysError,
};

/// More than the reading of the service files, and of what the host is like, has open at once.
const DESCRIPTORS_TO_READ: usize = 16;

/// Files that were applied and may be taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// What ran before.
    before: Vec<Unit>,
    /// Whom they have changed.
    changed: BTreeSet<UnitName>,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Until then somebody has to confirm them.
    Pending(Mono),
    /// They were taken back, and count again when somebody has them read.
    Reverted,
}

impl Supervisor {
    pub(super) fn tell_plan(&mut self, client: ClientId) {
        let loaded = self.read_files();
        let changes = self.planned(&loaded);
        self.server.reply(client, &PlannedChanges { changes }, false);
    }

    /// `daemon-reload`.
    pub(super) fn daemon_reload(&mut self, client: ClientId) {
        match self.read_again(None) {
            Ok(planned) => {
                let change = |planned: types::Planned| Change {
                    name: planned.name,
                    what: planned.what,
                    ok: planned.how != How::Broken,
                };
                let changes = planned.into_iter().map(change).collect();
                self.server.reply(client, &Changes { changes }, false);
            }
            Err(reason) => self.server.error(client, &Error::Refused { reason }),
        }
    }

    pub(super) fn apply(&mut self, client: ClientId, apply: proto::Apply) {
        match self.read_again(apply.confirm.map(Duration::from_millis)) {
            Ok(changes) => self.server.reply(client, &PlannedChanges { changes }, false),
            Err(reason) => self.server.error(client, &Error::Refused { reason }),
        }
    }

    /// Takes in who wants to know when these have come to rest; a name that nothing has is at rest.
    pub(super) fn settle(&mut self, client: ClientId, names: &[String]) {
        let names = names.iter().filter_map(|name| UnitName::new(name).ok()).collect();
        self.clients.settling.push((client, names));
    }

    /// Where a service is of which nothing is outstanding.
    pub(super) fn came_to(&self, name: &UnitName) -> Change {
        let change = |what: String, ok: bool| Change { name: name.to_string(), what, ok };
        let reverted = self.trial.as_ref().filter(|trial| trial.stage == Stage::Reverted);
        if reverted.is_some_and(|trial| trial.changed.contains(name)) {
            return change("what was applied for a trial was taken back".to_owned(), false);
        }
        let Some(entry) = self.fleet.entry(name) else { return change("is gone".to_owned(), true) };
        if let Some(why) = &entry.rolled_back {
            return change(format!("goes on as before: {why}"), false);
        }
        let (state, run) = (self.service_state(name), entry.life.last);
        match state {
            ServiceState::Failed | ServiceState::Backoff => {
                let fault = self.faults.get(name).map(|fault| format!(": {fault}")).unwrap_or_default();
                let reason = entry.life.state.reason();
                change(format!("{state} (run {run}) {reason}{fault}").trim_end().to_owned(), false)
            }
            _ => change(format!("{state} (run {run})"), true),
        }
    }

    pub(super) fn confirm(&mut self, client: ClientId) {
        if !self.is_on_trial() {
            let reason = "nothing waits for confirmation".to_owned();
            return self.server.error(client, &Error::Refused { reason });
        }
        tracing::info!("the applied files are confirmed");
        self.set_trial(None);
        self.point_of_all("trial-confirmed");
        self.server.reply(client, &Confirmed {}, false);
    }

    pub(super) fn revert(&mut self, client: ClientId) {
        if !self.is_on_trial() {
            let reason = "nothing that could be taken back was applied".to_owned();
            return self.server.error(client, &Error::Refused { reason });
        }
        let changes = self.take_back("on request");
        self.server.reply(client, &PlannedChanges { changes }, false);
    }

    /// Reads the files and makes them true; with `confirm` on trial for so long.
    pub(super) fn read_again(&mut self, confirm: Option<Duration>) -> Result<Vec<types::Planned>, String> {
        if self.is_on_trial() {
            return Err("files that were applied wait for `palisade confirm` or `palisade revert`".to_owned());
        }
        self.may_read().map_err(|error| error.to_string())?;
        let loaded = self.read_files();
        let planned = self.planned(&loaded);
        let stays = |planned: &&types::Planned| planned.how != How::Broken;
        let changed: BTreeSet<UnitName> =
            planned.iter().filter(stays).filter_map(|planned| UnitName::new(&planned.name).ok()).collect();
        let trial = confirm.filter(|_| !changed.is_empty()).map(|span| Trial {
            before: self
                .fleet
                .entries()
                .values()
                .filter(|entry| entry.unit.name.is_service())
                .map(|entry| entry.unit.clone())
                .collect(),
            changed,
            stage: Stage::Pending(now().after(span)),
        });
        // Before anything is changed: a successor that finds it goes back, at worst, from what was never done.
        let is_trial = trial.is_some();
        self.set_trial(trial);
        if is_trial {
            self.point_of_all("trial-noted");
        }
        let units = self.take_files(loaded);
        self.point_of_all("reload-read");
        self.inputs.push_back(Input::Reload(units));
        let reloads = planned.iter().filter(|planned| planned.how == How::Reload);
        self.reload_stale(reloads.filter_map(|planned| UnitName::new(&planned.name).ok()));
        Ok(planned)
    }

    /// Whether the files can be read at all: without descriptors every one of them would seem to be gone.
    fn may_read(&self) -> Result<(), SysError> {
        let spare: Result<Vec<_>, _> = (0..DESCRIPTORS_TO_READ)
            .map(|_| rustix::io::fcntl_dupfd_cloexec(self.signals.pipe.as_fd(), 0))
            .collect();
        spare.map(drop).map_err(|errno| SysError::new("open", "the service files", errno))
    }

    /// What these files change, in words as well.
    fn planned(&self, loaded: &config::Loaded) -> Vec<types::Planned> {
        let stale = self.all_stale(&loaded.units);
        let planned = self.fleet.preview(&loaded.units, &stale, now()).into_iter().map(in_words);
        let broken = loaded.broken.iter().map(|(name, found)| types::Planned {
            name: name.to_string(),
            how: How::Broken,
            keys: Vec::new(),
            what: config::diagnostic::in_a_line(found),
        });
        planned.chain(broken).collect()
    }

    fn is_on_trial(&self) -> bool {
        self.trial_deadline().is_some()
    }

    fn set_trial(&mut self, trial: Option<Trial>) {
        if let Err(error) = self.store.save_trial(trial.as_ref()) {
            tracing::error!("state was not written: {error}");
        }
        self.trial = trial;
    }

    /// When what was applied has to be confirmed.
    pub(super) fn trial_deadline(&self) -> Option<Mono> {
        match self.trial.as_ref()?.stage {
            Stage::Pending(until) => Some(until),
            Stage::Reverted => None,
        }
    }

    /// Nobody has confirmed.
    pub(super) fn trial_overdue(&mut self) {
        if self.trial_deadline().is_some_and(|until| until <= now()) {
            self.take_back("nobody has confirmed them");
        }
    }

    /// A service that was changed has failed, or is not well.
    pub(super) fn judge_trial(&mut self, notice: &Notice) {
        let has_failed = match &notice.news {
            News::State { to, .. } => ["failed", "backoff"].contains(to),
            News::Health { state, .. } => *state == HealthState::Unhealthy,
            News::Tripped | News::RolledBack { .. } => true,
            News::RollsOut { .. }
            | News::ChangedPlaces { .. }
            | News::Ended(_)
            | News::Killed { .. }
            | News::Elapsed { .. }
            | News::Changed(_)
            | News::Added
            | News::Removed => false,
        };
        let is_changed = self.trial.as_ref().is_some_and(|trial| trial.changed.contains(&notice.name));
        if has_failed && is_changed && self.is_on_trial() {
            self.take_back(format_args!("{} has failed", notice.name));
        }
    }

    fn take_back(&mut self, why: impl fmt::Display) -> Vec<types::Planned> {
        let Some(trial) = self.trial.take() else { return Vec::new() };
        tracing::warn!("going back to the files before: {why}");
        let units: BTreeMap<UnitName, Unit> =
            trial.before.iter().map(|unit| (unit.name.clone(), unit.clone())).collect();
        // What services read for themselves is nobody's to take back.
        let planned = self.fleet.preview(&units, &BTreeMap::new(), now()).into_iter().map(in_words).collect();
        self.set_trial(Some(Trial { stage: Stage::Reverted, ..trial }));
        self.point_of_all("trial-reverted");
        self.inputs.push_back(Input::Reload(units));
        planned
    }

    /// What a predecessor has applied for a trial. Taken back, it does not count, whatever the files say.
    pub(super) fn resume_trial(&mut self, units: BTreeMap<UnitName, Unit>) -> BTreeMap<UnitName, Unit> {
        self.trial = self.store.trial();
        match &self.trial {
            Some(Trial { before, stage: Stage::Reverted, .. }) => {
                before.iter().map(|unit| (unit.name.clone(), unit.clone())).collect()
            }
            Some(Trial { stage: Stage::Pending(_), .. }) | None => units,
        }
    }
}

fn in_words(Planned { name, how, keys, paths }: Planned) -> types::Planned {
    let paths = paths.iter().map(|path| path.display().to_string());
    let list = keys.iter().map(|key| (*key).to_owned()).chain(paths).collect::<Vec<_>>().join(", ");
    let what = match how {
        How::Start if keys.is_empty() => "starts".to_owned(),
        How::Start => format!("starts ({list} changed)"),
        How::Add => "added".to_owned(),
        How::Restart if keys.is_empty() => "restarts with others".to_owned(),
        How::Restart => format!("restarts ({list} changed)"),
        How::Reload => format!("is reloaded ({list} changed)"),
        How::Live => format!("changed without a restart ({list})"),
        How::Later => format!("changed ({list})"),
        How::Stop => "stops".to_owned(),
        How::Remove => "removed".to_owned(),
        How::Broken => "has mistakes".to_owned(),
    };
    let keys = keys.into_iter().map(str::to_owned).collect();
    types::Planned { name: name.to_string(), how, keys, what }
}
