//! What outlives the supervisor: small files, versioned, written beside their place and renamed into it.
//!
//! | file | what | lives as long as |
//! |---|---|---|
//! | `RUN/units/NAME.json` | [`Record`]: where a service stands, its run, its network | the boot |
//! | `RUN/trial.json` | [`Trial`]: files that were applied and are not confirmed | the boot |
//! | `STATE/timers/NAME.json` | [`Stamp`]: when a persistent timer last elapsed | the installation |
//! | `STATE/assigned.json` | [`Assigned`]: id ranges and addresses | the installation |
//!
//! Each of the two has a copy (`RUN/units.copy`, `STATE/assigned.copy.json`), written after it: whichever is garbage, cut
//! short, empty, gone or of another version, nothing is lost as long as the other is whole. Where the file system is full
//! a file is written over in the room that it has, of which there is some to spare.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{apply::Trial, hooks::HookRecord, voice::Told};
use crate::{
    launch::{LaunchFault, Traces},
    machine::{Usage, fleet::Entry, timer::Stamp},
    net::{addr::Assignments, forwarding::Changed, link::LinkPlan},
    spec::{Bandwidth, Destination, Firewall, Named, Publish, UnitName},
    sys::SysError,
};

/// Changes whenever a file of an older version must not be read as one of this.
pub const VERSION: u32 = 1;

/// A file's outer layer: read first, so that a file of another version is recognised whatever it holds.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    boot: String,
    #[serde(flatten)]
    content: T,
}

/// All that a successor has to know about one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The machine's part.
    pub(super) entry: Entry,
    /// The run that stands.
    pub(super) run: Option<RunRecord>,
    /// The network that is kept.
    pub(super) net: Option<NetRecord>,
    /// What is held for it beside that.
    #[serde(default)]
    pub(super) holdings: super::sockets::HoldingsRecord,
    /// What it has read on the host, as it was then (`service.reload.watch`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) marks: super::changes::Marks,
    /// Why the last launch failed.
    pub(super) fault: Option<Box<LaunchFault>>,
    /// How many launches followed an end that nobody had asked for.
    pub(super) restarts: u64,
    /// The same of its second run, while it has two. In one file, so that they change places at once or not at all.
    #[serde(default)]
    pub(super) twin: Option<Box<Record>>,
}

/// How to find a live run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    /// Of the init.
    pub(super) pid: u32,
    /// When the init was started, in clock ticks since boot: with the pid it names one process (proc_pid_stat(5)).
    pub(super) start_time: u64,
    /// The main process.
    pub(super) main: Option<u32>,
    /// What it leaves on the host.
    pub(super) traces: Traces,
    /// What earlier runs took in the same sandbox.
    #[serde(default)]
    pub(super) before: Usage,
    /// What is read back before its program is executed: what holds of it if it runs.
    #[serde(default)]
    pub(super) attested: Vec<String>,
    /// The command around the service that was begun last.
    #[serde(default)]
    pub(super) hook: Option<HookRecord>,
    /// What it has said about itself.
    #[serde(default)]
    pub(super) told: Told,
    /// Which version of Palisade made its sandbox; none: one that did not write it down.
    #[serde(default)]
    pub(super) version: Option<Cow<'static, str>>,
}

/// A service's network without its descriptors, which the keeper has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetRecord {
    /// Its link.
    pub(super) link: Option<LinkPlan>,
    /// Ports that lead to it.
    pub(super) publish: Vec<Publish>,
    /// It may go out.
    pub(super) egress: bool,
    /// Where to, if not anywhere.
    #[serde(default)]
    pub(super) reach: Vec<Destination>,
    /// How much its link carries.
    #[serde(default)]
    pub(super) bandwidth: Bandwidth,
    /// Where names lead that it may ask for.
    #[serde(default)]
    pub(super) names: Vec<Named>,
    /// It goes with its run.
    pub(super) is_fleeting: bool,
    /// What was done about tables of others.
    #[serde(default)]
    pub(super) firewall: Firewall,
}

/// What was given to services for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assigned {
    /// Which range of ids, counted from `ids.base`. Never given to another service: files may carry its ids.
    pub(super) ids: BTreeMap<UnitName, u32>,
    /// Which address.
    pub(super) addresses: Assignments,
    /// Varies the jitter of restarts from host to host.
    pub(super) seed: u64,
}

impl Assigned {
    /// The id range of a service; none when `count` ranges are given away, or when `[ids]` does not hold the one that it
    /// has any more: counted on from `ids.base` it would be somebody else's, or begin again at 0, the host's root.
    pub(super) fn id_slot(&mut self, name: &UnitName, count: u32) -> Option<u32> {
        if let Some(slot) = self.ids.get(name) {
            return (*slot < count).then_some(*slot);
        }
        let taken: std::collections::BTreeSet<u32> = self.ids.values().copied().collect();
        let free = (0..count).find(|slot| !taken.contains(slot))?;
        self.ids.insert(name.clone(), free);
        Some(free)
    }

    /// What these services have.
    pub(super) fn of(&self, names: &[&UnitName]) -> Places {
        let place = |name: &UnitName| (self.ids.get(name).copied(), self.addresses.slot(name));
        Places(names.iter().map(|name| ((*name).clone(), place(name))).collect())
    }

    /// They have again what they had.
    pub(super) fn put_back(&mut self, before: Places) {
        for (name, (id, address)) in before.0 {
            match id {
                Some(id) => drop(self.ids.insert(name.clone(), id)),
                None => drop(self.ids.remove(&name)),
            }
            self.addresses.put_back(name, address);
        }
    }
}

/// What some services were given: the number of a range of ids, and of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places(BTreeMap<UnitName, (Option<u32>, Option<u32>)>);

impl Places {
    /// Whose they are.
    pub(super) fn names(&self) -> Vec<&UnitName> {
        self.0.keys().collect()
    }
}

/// The files.
#[derive(Debug)]
pub(super) struct Store {
    units: PathBuf,
    copies: PathBuf,
    assigned: PathBuf,
    timers: PathBuf,
    forwarding: PathBuf,
    trial: PathBuf,
    boot: String,
    /// A descriptor to write with when there is no other.
    spare: RefCell<Option<fs::File>>,
}

/// What every file has at least to spare at its end.
const ROOM: usize = 512;
/// In such pieces files have room.
const PAGE: usize = 4096;

impl Store {
    /// Makes the directories.
    pub(super) fn open(run: &Path, state: &Path) -> Result<Self, SysError> {
        let (units, copies) = (run.join("units"), run.join("units.copy"));
        let timers = state.join("timers");
        for dir in [&units, &copies, &state.to_path_buf(), &timers] {
            crate::launch::make_private(dir)?;
        }
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let (assigned, forwarding) = (state.join("assigned.json"), run.join("forwarding.json"));
        let (trial, spare) = (run.join("trial.json"), RefCell::new(spare()));
        Ok(Self { units, copies, assigned, timers, forwarding, trial, boot, spare })
    }

    /// The file of a service, and its copy.
    fn unit(&self, name: &UnitName) -> [PathBuf; 2] {
        [&self.units, &self.copies].map(|dir| dir.join(format!("{name}.json")))
    }

    /// Writes where a service stands.
    pub(super) fn save(&self, record: &Record) -> Result<(), SysError> {
        let [path, copy] = self.unit(&record.entry.unit.name);
        self.write(&path, record)?;
        self.write(&copy, record)
    }

    /// Forgets a service.
    pub(super) fn forget(&self, name: &UnitName) {
        for path in self.unit(name) {
            let _ = fs::remove_file(path);
        }
    }

    /// The records of this boot. What cannot be read is named, and its copy taken; where that cannot be read either it is
    /// passed over: what is left of a run of it is found by its control group.
    pub(super) fn load(&self) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut complaints) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        let dirs = [&self.units, &self.copies].map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        for path in dirs.into_iter().flatten().map(|entry| entry.path()) {
            match path.file_name().filter(|_| path.extension().is_some_and(|extension| extension == "json")) {
                Some(name) => drop(names.insert(name.to_owned())),
                // Half written when somebody was killed.
                None => drop(fs::remove_file(&path)),
            }
        }
        for name in names {
            let paths = [&self.units, &self.copies].map(|dir| dir.join(&name));
            let found = paths.iter().find_map(|path| match self.read::<Record>(path) {
                Ok(found) => found,
                Err(error) => {
                    complaints.push(format!("{}: {error}", path.display()));
                    None
                }
            });
            match found {
                Some(mut record) => {
                    let twin = record.twin.take();
                    records.push(record);
                    records.extend(twin.map(|twin| *twin));
                }
                None => paths.iter().for_each(|path| drop(fs::remove_file(path))),
            }
        }
        (records, complaints)
    }

    /// What was given away, or nothing on a new installation; and what was wrong with the file, if its copy was taken.
    ///
    /// # Errors
    /// Files that are there, none of which can be read: to go on would give one service's ids to another.
    pub(super) fn assigned(&self) -> Result<(Assigned, Option<String>), String> {
        match (read_assigned(&self.assigned), read_assigned(&self.assigned_copy())) {
            (Ok(Some(assigned)), _) => Ok((assigned, None)),
            (Ok(None), Ok(None)) => Ok((Assigned::default(), None)),
            (Ok(None), Ok(Some(copy))) => {
                Ok((copy, Some(format!("{}: no such file", self.assigned.display()))))
            }
            (Err(error), Ok(Some(copy))) => Ok((copy, Some(error))),
            (Err(error), _) | (Ok(None), Err(error)) => Err(error),
        }
    }

    fn assigned_copy(&self) -> PathBuf {
        self.assigned.with_extension("copy.json")
    }

    /// Writes what was given away. It outlives the boot, and without it no supervisor starts: it is on the disk before
    /// its name leads to it, or a power cut leaves an empty file.
    pub(super) fn save_assigned(&self, assigned: &Assigned) -> Result<(), SysError> {
        self.write_by(&self.assigned, assigned, fs::File::sync_all)?;
        self.write_by(&self.assigned_copy(), assigned, fs::File::sync_all)
    }

    fn timer(&self, name: &UnitName) -> PathBuf {
        self.timers.join(format!("{name}.json"))
    }

    /// What a timer left behind in this boot or an earlier one. What cannot be read is as good as none: what was missed
    /// is not made up for, and nothing else depends on it.
    pub(super) fn stamp(&self, name: &UnitName) -> Option<Stamp> {
        let path = self.timer(name);
        let text = fs::read_to_string(&path).ok()?;
        let parsed: Result<Versioned<Stamp>, _> = serde_json::from_str(&text);
        match parsed {
            Ok(file) => (file.version == VERSION).then_some(file.content),
            Err(error) => {
                tracing::error!("state that cannot be read is passed over: {}: {error}", path.display());
                None
            }
        }
    }

    /// Writes what a timer leaves behind, so that it is there after a power failure.
    pub(super) fn save_stamp(&self, name: &UnitName, stamp: &Stamp) -> Result<(), SysError> {
        self.write_by(&self.timer(name), stamp, fs::File::sync_all)
    }

    /// Forgets what a timer left behind.
    pub(super) fn forget_stamp(&self, name: &UnitName) {
        let _ = fs::remove_file(self.timer(name));
    }

    /// Settings of the host that were changed during this boot so that packets are forwarded.
    pub(super) fn forwarding(&self) -> Changed {
        self.read::<Forwarding>(&self.forwarding).ok().flatten().unwrap_or_default().changed
    }

    /// Writes them.
    pub(super) fn save_forwarding(&self, changed: &Changed) -> Result<(), SysError> {
        self.write(&self.forwarding, &Forwarding { changed: changed.clone() })
    }

    /// Files that were applied and are not confirmed.
    pub(super) fn trial(&self) -> Option<Trial> {
        self.read(&self.trial).unwrap_or_default()
    }

    /// Writes them; none: there are no such files.
    pub(super) fn save_trial(&self, trial: Option<&Trial>) -> Result<(), SysError> {
        match trial {
            Some(trial) => self.write(&self.trial, trial),
            None => {
                let _ = fs::remove_file(&self.trial);
                Ok(())
            }
        }
    }

    /// Removes everything of this boot.
    pub(super) fn clear(&self) {
        let _ = fs::remove_file(&self.trial);
        for dir in [&self.units, &self.copies] {
            let _ = fs::remove_dir_all(dir);
        }
        let _ = fs::remove_file(&self.forwarding);
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        decode(&text, &self.boot)
    }

    fn write<T: Serialize>(&self, path: &Path, content: &T) -> Result<(), SysError> {
        self.write_by(path, content, |_| Ok(()))
    }

    fn write_by<T: Serialize>(
        &self,
        path: &Path,
        content: &T,
        settle: impl Fn(&fs::File) -> io::Result<()>,
    ) -> Result<(), SysError> {
        let fault = |call, error: io::Error| SysError::new(call, path.display().to_string(), error);
        let file = Versioned { version: VERSION, boot: self.boot.clone(), content };
        let mut text = serde_json::to_vec(&file).map_err(|error| fault("encode", error.into()))?;
        text.resize((text.len() + ROOM).next_multiple_of(PAGE), b'\n');
        let new = path.with_extension("new");
        match self.write_new(&new, &text, settle) {
            Ok(()) => fs::rename(&new, path).map_err(|error| fault("rename", error)),
            Err(error) if is_full(&error) => {
                let _ = fs::remove_file(&new);
                // The first error is the one that says what is wrong.
                self.write_over(path, &text).map_err(|_| fault("write", error))
            }
            Err(error) => Err(fault("write", error)),
        }
    }

    fn write_new(
        &self,
        path: &Path,
        text: &[u8],
        settle: impl Fn(&fs::File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = self.with_spare(|| fs::File::create(path))?;
        out.write_all(text)?;
        settle(&out)
    }

    /// Writes in the room that a file has. Killed in between, it is garbage, and its copy is not.
    fn write_over(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let file = self.with_spare(|| fs::File::options().write(true).open(path))?;
        if file.metadata()?.len() < text.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all_at(text, 0)?;
        file.set_len(text.len() as u64)
    }

    /// Opens a file with the descriptor that is kept for it, where the process has no other.
    fn with_spare(&self, open: impl Fn() -> io::Result<fs::File>) -> io::Result<fs::File> {
        match open() {
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                drop(self.spare.take());
                open()
            }
            opened => {
                let mut kept = self.spare.borrow_mut();
                if kept.is_none() {
                    *kept = spare();
                }
                opened
            }
        }
    }
}

/// A descriptor of nothing.
fn spare() -> Option<fs::File> {
    fs::File::open("/dev/null").ok()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file of assignments; none where there is none.
fn read_assigned(path: &Path) -> Result<Option<Assigned>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let parsed: Result<Versioned<Assigned>, _> = serde_json::from_str(&text);
    match parsed {
        Ok(file) if file.version == VERSION => Ok(Some(file.content)),
        Ok(file) => Err(format!("{}: version {} is not ours", path.display(), file.version)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// What a file holds; none where it is of another boot.
fn decode<T: DeserializeOwned>(text: &str, boot: &str) -> Result<Option<T>, String> {
    let file: Versioned<T> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match file.version {
        VERSION => Ok((file.boot == boot).then_some(file.content)),
        other => Err(format!("version {other} is not ours")),
    }
}

/// What a successor takes over of a record, and the record as it would be written again: for `fuzz/`.
#[cfg(fuzzing)]
pub fn taken_over(text: &str) -> Option<(Entry, String)> {
    let record: Record = decode(text, "").ok()??;
    let again = serde_json::to_string(&Versioned { version: VERSION, boot: String::new(), content: &record });
    Some((record.entry, again.expect("a record has a JSON form")))
}

/// The record of a service without a run, as it is written: for `fuzz/`.
#[cfg(fuzzing)]
pub fn record(entry: &Entry) -> String {
    let (entry, fault) = (entry.clone(), Some(LaunchFault::init_died()));
    let holdings = super::sockets::HoldingsRecord::default();
    let record = Record {
        entry,
        run: None,
        net: None,
        holdings,
        fault,
        restarts: 0,
        marks: super::changes::Marks::new(),
        twin: None,
    };
    let file = Versioned { version: VERSION, boot: String::new(), content: record };
    serde_json::to_string(&file).expect("a record has a JSON form")
}

/// What each of these services is given, with the assignments of a file: for `fuzz/`.
#[cfg(fuzzing)]
pub fn given(text: &str, names: &[UnitName], count: u32) -> Option<Vec<Option<u32>>> {
    let mut assigned: Assigned = decode(text, "").ok()??;
    Some(names.iter().map(|name| assigned.id_slot(name, count)).collect())
}

#[derive(Default, Serialize, Deserialize)]
struct Forwarding {
    #[serde(default)]
    changed: Changed,
}

/// When a process was started, in clock ticks since boot.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name, in parentheses, may hold anything; field 22 is the 20th behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_beyond_the_settings_is_nobodys() {
        let (web, db) = (UnitName::new("web").unwrap(), UnitName::new("db").unwrap());
        let mut assigned = Assigned { ids: [(web.clone(), 7)].into(), ..Assigned::default() };
        assert_eq!(assigned.id_slot(&web, 8), Some(7));
        assert_eq!(assigned.id_slot(&web, 7), None, "ids.count was lowered");
        assert_eq!((assigned.id_slot(&db, 7), assigned.ids.len()), (Some(0), 2));
    }
}
