//! `service.reload.watch`: a service is told to reload when what it has read on the host has changed.
//!
//! Of each path a mark is kept of how it was when the service was started or had last reloaded with success: in the record
//! of the service, so that a change while nobody supervised is found by whoever does next. `plan` compares the same marks.
//! While the service runs, inotify(7) says when it may be worth to look. What is found then is acted upon when nothing has
//! happened any more for a moment, for whoever changes files changes several; and not more often than once a second, for some
//! of the paths may be the service's own to change.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Supervisor, now, rollout::swap, sessions::Purpose};
use crate::{
    machine::{Mono, State},
    spec::{Reload, Unit, UnitName},
    sys::{
        SysError,
        change::{self, Happened, Inotify, Spot},
    },
};

/// So long nothing more must happen.
const QUIET: Duration = Duration::from_millis(100);
/// After so long nobody waits for quiet any more. Least time between two reloads of one service.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the way to a path is followed again because it has become another meanwhile.
const MOST_LOOKS: usize = 3;

/// What paths were like.
pub(super) type Marks = BTreeMap<PathBuf, u64>;

/// Who wants to know of which name, or of all, in a directory that the kernel calls by this number.
type Watches = BTreeMap<i32, BTreeSet<(Option<OsString>, UnitName)>>;

/// What is known of all that is watched.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Opened for the first service that asks for it.
    inotify: Option<Inotify>,
    /// Whom what happens concerns.
    watches: Watches,
    /// Services that run, and the paths that are watched for them.
    watched: BTreeMap<UnitName, Vec<PathBuf>>,
    /// As what a service has read was.
    taken: BTreeMap<UnitName, Marks>,
    /// As it was when a service was last told to reload: not again for the same.
    tried: BTreeMap<UnitName, Marks>,
    /// When a service was last told without anybody asking for it.
    told: BTreeMap<UnitName, Mono>,
    /// Those to look at.
    stirred: BTreeSet<UnitName>,
    /// Since when there are any, and until when nothing is to be done.
    wait: Option<(Mono, Mono)>,
}

impl Changes {
    /// Readable when something has happened. Not looked at while things are to become quiet.
    pub(super) fn interest(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().filter(|_| self.wait.is_none()).map(Inotify::fd)
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.wait.map(|(_, until)| until)
    }

    /// What of a service goes into its record.
    pub(super) fn taken(&self, name: &UnitName) -> Marks {
        self.taken.get(name).cloned().unwrap_or_default()
    }

    /// What a predecessor has written down.
    pub(super) fn adopt(&mut self, name: &UnitName, marks: &Marks) {
        if !marks.is_empty() {
            self.taken.insert(name.clone(), marks.clone());
        }
    }

    /// Something may have changed for a service: it is looked at without waiting for more.
    fn stir(&mut self, name: &UnitName) {
        let at = now();
        self.stirred.insert(name.clone());
        self.wait = self.wait.or(Some((at, at)));
    }

    /// The twin's run is the service's now. What has changed since it began it is yet to be told.
    pub(super) fn change_places(&mut self, name: &UnitName) {
        let twin = name.twin();
        for marks in [&mut self.taken, &mut self.tried] {
            swap(marks, name, &twin);
        }
        if self.watched.contains_key(name) {
            self.stir(name);
        }
    }

    /// Nothing is known of it any more.
    pub(super) fn forget(&mut self, name: &UnitName) {
        self.taken.remove(name);
        self.tried.remove(name);
        self.told.remove(name);
    }

    /// Notes who is to be looked at because of what has happened; whether there is anybody.
    fn note(&mut self, happened: Vec<Happened>) -> bool {
        let mut any = false;
        for Happened { watch, name, is_last } in happened {
            let wanted = match watch {
                // More than could be told.
                None => {
                    self.stirred.extend(self.watched.keys().cloned());
                    any |= !self.watched.is_empty();
                    continue;
                }
                Some(watch) if is_last => self.watches.remove(&watch).unwrap_or_default(),
                Some(watch) => self.watches.get(&watch).cloned().unwrap_or_default(),
            };
            let meant = |spot: &Option<OsString>| match (&name, spot) {
                (None, _) => true,
                (Some(name), Some(spot)) => name == spot,
                (Some(name), None) => change::counts(name),
            };
            for (_, unit) in wanted.into_iter().filter(|(spot, _)| meant(spot)) {
                self.stirred.insert(unit);
                any = true;
            }
        }
        any
    }

    /// Has the kernel tell of every way to these paths, and of nothing else for this service.
    fn watch(&mut self, name: &UnitName, paths: &[PathBuf]) {
        if paths.is_empty() && self.watched.remove(name).is_none() {
            return;
        }
        if !paths.is_empty() {
            self.watched.insert(name.clone(), paths.to_vec());
        }
        if self.inotify.is_none() {
            match Inotify::open() {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(error) => tracing::error!("nothing is watched: {error}"),
            }
        }
        let Some(inotify) = &self.inotify else { return };
        for wanted in self.watches.values_mut() {
            wanted.retain(|(_, unit)| unit != name);
        }
        let all = || -> Vec<Spot> { paths.iter().flat_map(|path| change::spots(path)).collect() };
        let mut spots = all();
        // Until nothing has led elsewhere while it was not watched yet.
        for _ in 0..MOST_LOOKS {
            watch_all(inotify, &mut self.watches, name, &spots);
            let now = all();
            if std::mem::replace(&mut spots, now) == spots {
                break;
            }
        }
        self.watches.retain(|watch, wanted| {
            let is_wanted = !wanted.is_empty();
            if !is_wanted {
                inotify.forget(*watch);
            }
            is_wanted
        });
    }
}

/// Adds to what is watched; one directory is asked for once.
fn watch_all(inotify: &Inotify, watches: &mut Watches, name: &UnitName, spots: &[Spot]) {
    let mut known: BTreeMap<&Path, Option<i32>> = BTreeMap::new();
    for Spot { dir, name: spot } in spots {
        let watch = *known.entry(dir).or_insert_with_key(|dir| {
            let failed = |error: &SysError| tracing::warn!(unit = %name, "not watched: {error}");
            inotify.watch(dir).inspect_err(failed).ok()
        });
        if let Some(watch) = watch {
            watches.entry(watch).or_default().insert((spot.clone(), name.clone()));
        }
    }
}

fn marks_of(paths: &[PathBuf]) -> Marks {
    paths.iter().map(|path| (path.clone(), change::mark(path))).collect()
}

/// What has come of telling a service to reload.
pub(super) enum Told {
    /// It was told, and nothing more will be heard.
    Done,
    /// Its word, or the end of a command, is waited for.
    Waits,
    /// It was not, and why.
    Not(String),
}

impl Supervisor {
    /// Tells a service to read its configuration again, in the way of `service.reload`.
    pub(super) fn tell_to_reload(&mut self, name: &UnitName) -> Told {
        let Some(service) = self.fleet.entry(name).map(|entry| &entry.unit.service) else {
            return Told::Not("it is gone".to_owned());
        };
        let (reload, marks) = (service.reload.clone(), marks_of(&service.reload_watch));
        if self.runs.get(name).is_none_or(|run| run.is_over) {
            let reason =
                if reload.is_some() { "it is not running" } else { "its file has no service.reload" };
            return Told::Not(reason.to_owned());
        }
        if reload.is_some() {
            self.tell_aside(name, "reload", "");
        }
        // As it is before the service reads it: what changes from now on is another change.
        self.changes.tried.insert(name.clone(), marks);
        match reload {
            None => Told::Not("its file has no service.reload".to_owned()),
            // Its own word is the answer.
            Some(Reload::Signal(signal)) if self.says_when_reloaded(name) => {
                self.await_reload(name);
                self.point(name, "reload-asked");
                self.signal(name, signal, false);
                self.point(name, "reload-signalled");
                Told::Waits
            }
            Some(Reload::Signal(signal)) => {
                self.signal(name, signal, false);
                self.has_reloaded(name);
                Told::Done
            }
            // The end of the command is.
            Some(Reload::Command(command)) => match self.run_inside(name, &command, Purpose::Reload) {
                Ok(()) => {
                    self.point(name, "reload-command-sent");
                    self.await_reload(name);
                    Told::Waits
                }
                Err(error) => Told::Not(error.to_string()),
            },
        }
    }

    /// A reload has ended, with success or without. What has changed meanwhile is looked at now.
    pub(super) fn reload_came_to(&mut self, name: &UnitName, what: &str, ok: bool) {
        match ok {
            true => self.has_reloaded(name),
            false => tracing::warn!(unit = %name, "{what}"),
        }
        if self.changes.watched.contains_key(name) {
            self.changes.stir(name);
        }
    }

    fn has_reloaded(&mut self, name: &UnitName) {
        let Some(marks) = self.changes.tried.remove(name) else { return };
        if self.changes.taken(name) != marks {
            self.changes.taken.insert(name.clone(), marks);
            self.persist(name);
        }
    }

    /// A run is about to begin: it reads what there is now.
    pub(super) fn mark_for_start(&mut self, name: &UnitName) {
        let Some(entry) = self.fleet.entry(name) else { return };
        let marks = marks_of(&entry.unit.service.reload_watch);
        self.changes.tried.remove(name);
        match marks.is_empty() {
            true => drop(self.changes.taken.remove(name)),
            false => drop(self.changes.taken.insert(name.clone(), marks)),
        }
    }

    /// Has what is watched agree with where a service stands: to be called whenever that has changed.
    pub(super) fn mind_changes(&mut self, name: &UnitName) {
        if name.is_twin() {
            return;
        }
        let entry = self.fleet.entry(name);
        let running = entry.filter(|entry| matches!(entry.life.state, State::Running { .. }));
        let paths = running.map(|entry| entry.unit.service.reload_watch.clone()).unwrap_or_default();
        if entry.is_none() {
            self.changes.forget(name);
        }
        if self.changes.watched.get(name).map(Vec::as_slice).unwrap_or_default() == paths {
            return;
        }
        self.changes.watch(name, &paths);
        if paths.is_empty() {
            self.changes.stirred.remove(name);
            return;
        }
        // Those that its file has named only now it has read as they are.
        let mut taken = self.changes.taken(name);
        let before = taken.clone();
        taken.retain(|path, _| paths.contains(path));
        for path in paths {
            taken.entry(path).or_insert_with_key(|path| change::mark(path));
        }
        if taken != before {
            self.changes.taken.insert(name.clone(), taken);
            self.persist(name);
        }
        self.changes.stir(name);
    }

    /// What of a running service is another than what it has read; of paths that `unit` still names.
    fn stale(&self, name: &UnitName, unit: &Unit) -> Vec<PathBuf> {
        let taken = self.changes.taken.get(name);
        let paths = unit.service.reload_watch.iter();
        let differs = |path: &&PathBuf| {
            taken.and_then(|taken| taken.get(*path)).is_some_and(|mark| *mark != change::mark(path))
        };
        paths.filter(differs).cloned().collect()
    }

    /// Whom other files, or the same, would have reload because of what they name.
    pub(super) fn all_stale(&self, units: &BTreeMap<UnitName, Unit>) -> BTreeMap<UnitName, Vec<PathBuf>> {
        let watched = self.changes.watched.keys().filter_map(|name| Some((name, units.get(name)?)));
        let stale = watched.map(|(name, unit)| (name.clone(), self.stale(name, unit)));
        stale.filter(|(_, paths)| !paths.is_empty()).collect()
    }

    /// Somebody wants these to take in what has changed, also where it was tried before.
    pub(super) fn reload_stale(&mut self, names: impl IntoIterator<Item = UnitName>) {
        for name in names {
            self.changes.tried.remove(&name);
            self.changes.told.remove(&name);
            self.changes.stir(&name);
        }
    }

    /// Something has happened in a directory that is watched.
    pub(super) fn changes_ready(&mut self) {
        let happened = self.changes.inotify.as_ref().map(Inotify::read).unwrap_or_default();
        self.changes.note(happened);
        // Also where nobody is to be looked at: a directory where much happens wakes us ten times a second at most.
        let at = now();
        self.changes.wait = Some((at, at.after(QUIET)));
    }

    /// Acts upon what has happened, when it has become quiet.
    pub(super) fn changes_overdue(&mut self) {
        let Some((since, until)) = self.changes.wait else { return };
        let at = now();
        if until > at {
            return;
        }
        let happened = self.changes.inotify.as_ref().map(Inotify::read).unwrap_or_default();
        if self.changes.note(happened) && at.since(since) < PATIENCE {
            self.changes.wait = Some((since, at.after(QUIET)));
            return;
        }
        self.changes.wait = None;
        let mut later: Option<Mono> = None;
        for name in std::mem::take(&mut self.changes.stirred) {
            if let Some(until) = self.look_at_changes(&name) {
                self.changes.stirred.insert(name);
                later = Some(later.map_or(until, |later| later.min(until)));
            }
        }
        self.changes.wait = later.map(|until| (at, until));
    }

    /// Tells a service to reload where it has something to read. When to look again, where it is too early.
    fn look_at_changes(&mut self, name: &UnitName) -> Option<Mono> {
        let unit = self.fleet.entry(name).map(|entry| entry.unit.clone())?;
        let paths = self.changes.watched.get(name)?.clone();
        // Links may lead elsewhere now. First of all: nothing that happens from now on is missed.
        self.changes.watch(name, &paths);
        let stale = self.stale(name, &unit);
        let is_tried = self.changes.tried.get(name).is_some_and(|tried| *tried == marks_of(&paths));
        // One that is under way is followed by another look.
        if stale.is_empty() || is_tried || self.is_reloading(name) {
            return None;
        }
        let at = now();
        let next = self.changes.told.get(name).map(|told| told.after(PATIENCE)).filter(|next| *next > at);
        if next.is_some() {
            return next;
        }
        self.changes.told.insert(name.clone(), at);
        let list = stale.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        tracing::info!(unit = %name, "reloads: {list} has changed");
        if let Told::Not(reason) = self.tell_to_reload(name) {
            tracing::warn!(unit = %name, "not reloaded: {reason}");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_whom_it_concerns_are_looked_at() {
        let unit = |name: &str| UnitName::new(name).expect("tests use good names");
        let happened =
            |watch, name: Option<&str>, is_last| Happened { watch, name: name.map(OsString::from), is_last };
        let fresh = || Changes {
            watches: BTreeMap::from([
                (1, BTreeSet::from([(Some("a".into()), unit("file")), (None, unit("dir"))])),
                (2, BTreeSet::from([(Some("..data".into()), unit("link"))])),
            ]),
            watched: ["file", "dir", "link"].map(|name| (unit(name), vec![PathBuf::from("/x")])).into(),
            ..Changes::default()
        };
        for (what, looked_at) in [
            (happened(Some(1), Some("a"), false), vec!["dir", "file"]),
            (happened(Some(1), Some("b"), false), vec!["dir"]),
            (happened(Some(1), Some(".a.swp"), false), vec![]),
            (happened(Some(2), Some("..data"), false), vec!["link"]),
            (happened(Some(2), None, true), vec!["link"]),
            (happened(Some(3), Some("a"), false), vec![]),
            (happened(None, None, false), vec!["dir", "file", "link"]),
        ] {
            let mut changes = fresh();
            assert_eq!(changes.note(vec![what.clone()]), !looked_at.is_empty(), "{what:?}");
            let names: Vec<&str> = changes.stirred.iter().map(UnitName::as_str).collect();
            assert_eq!(names, looked_at, "{what:?}");
            assert_eq!(changes.watches.contains_key(&2), !what.is_last, "{what:?}");
        }
    }
}
