//! What the operator wrote: finding the files, reading them, and saying everything that is wrong with them at once.
//!
//! `trust` and `load` touch the host; `schema`, `value`, `tables` and `check` are pure. A broken file never stops the
//! others: it comes back with its mistakes, beside the units of the rest.

mod check;
mod common;
pub mod diagnostic;
mod elsewhere;
mod load;
pub mod policy;
pub mod reference;
pub mod schema;
pub mod settings;
mod tables;
mod trust;
pub mod value;
pub mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use self::{common::Common, load::Read, trust::Owners};
pub use self::{
    common::{Around, PROFILES},
    diagnostic::{Diagnostic, Location, Note, Place, Severity, SourceMap},
    policy::Policy,
    schema::ServiceFile,
    settings::Settings,
    tables::Places,
};
use crate::spec::{
    self, Claims, HostFacts, Unit, UnitName,
    exposure::{self, Opening, Row},
};

/// Where service files live, the directory that wins first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Directories of `NAME.toml` and `NAME.toml.d/`.
    pub dirs: Vec<PathBuf>,
    /// A directory that is missing is a mistake.
    pub required: bool,
    /// What holds for all of them.
    pub around: Around,
}

impl Sources {
    /// /etc over /run over /usr/lib; each of them may be missing.
    pub fn system() -> Self {
        let dirs = ["/etc/palisade/services.d", "/run/palisade/services.d", "/usr/lib/palisade/services.d"];
        Self { dirs: dirs.map(PathBuf::from).to_vec(), required: false, around: Around::default() }
    }

    /// One directory and no other: `--services DIR`.
    pub fn only(dir: impl Into<PathBuf>) -> Self {
        Self { dirs: vec![dir.into()], required: true, around: Around::default() }
    }

    /// With the profiles, the defaults and the policy that belong to the settings at `config`.
    #[must_use]
    pub fn around(mut self, config: &Path) -> Self {
        self.around = Around::of(config);
        self
    }
}

/// Everything that the directories hold.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Services that can be started, as far as their files go. What one of them requires may be broken or masked.
    pub units: BTreeMap<UnitName, Unit>,
    /// Services whose files have mistakes.
    pub broken: BTreeMap<UnitName, Vec<Diagnostic>>,
    /// Services that a link to /dev/null hides.
    pub masked: BTreeSet<UnitName>,
    /// The file of each service, broken ones included; of an instance, most often that of its template.
    pub files: BTreeMap<UnitName, PathBuf>,
    /// What stands before the `@` of each template.
    pub templates: BTreeSet<String>,
    /// Mistakes that belong to no service.
    pub other: Vec<Diagnostic>,
    /// What each of `units` opens, and where its files say so.
    pub opened: BTreeMap<UnitName, Vec<Opened>>,
    /// Where the files of each of `units` say what decides about what it is refused: `FILE:LINE` of each of [`DECIDING_KEYS`].
    pub deciding_places: BTreeMap<UnitName, DecidingPlaces>,
    /// What no service may go beyond; none: it cannot be read, and everything is refused.
    pub policy: Option<Policy>,
}

impl Loaded {
    /// Every mistake, by service; one in a file that several have in common is told once, and so is one of the directory
    /// that they lie in.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let mut seen = BTreeSet::new();
        let all = self.other.iter().chain(self.broken.values().flatten());
        let what = |found: &Diagnostic| match found.message.starts_with("the directory ") {
            true => found.message.clone(),
            false => found.to_string(),
        };
        all.filter(move |found| seen.insert(what(found)))
    }
}

/// The keys that decide about what a service is refused.
pub const DECIDING_KEYS: [&str; 21] = [
    "limits.memory.max",
    "limits.pids.max",
    "network.address_families",
    "network.allow_from",
    "network.allow_to",
    "network.egress",
    "network.publish",
    "rootfs.dir",
    "rootfs.mounts",
    "security.capabilities",
    "security.landlock",
    "security.lock_personality",
    "security.native_abi_only",
    "security.no_namespaces",
    "security.no_realtime",
    "security.no_suid",
    "security.no_wx",
    "security.seccomp",
    "service.command",
    "service.user",
    "service.working_dir",
];

/// Where those of them stand that a service's files have.
pub type DecidingPlaces = BTreeMap<&'static str, String>;

/// Something that a service opens, and where its files say so.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The row of the table of exposures.
    pub row: &'static Row,
    /// What is opened.
    pub opening: Opening,
    /// The place of the key; none: no file says it, it is the default.
    pub at: Option<Location>,
}

/// Loads all services and checks them against each other.
pub fn load_all(sources: &Sources, host: &HostFacts) -> Loaded {
    load_with(sources, host, &BTreeSet::new())
}

/// As [`load_all`], with instances of templates that no file names.
pub fn load_with(sources: &Sources, host: &HostFacts, instances: &BTreeSet<UnitName>) -> Loaded {
    let owners = Owners::of_this_process();
    let common = Common::read(&sources.around, &owners, host);
    let mut scan = load::scan(sources);
    scan.other.extend(common.check());
    let mut resolved: BTreeMap<UnitName, Checked> = BTreeMap::new();
    let mut broken: BTreeMap<UnitName, Vec<Diagnostic>> = BTreeMap::new();
    let listed = listed(sources, &mut scan, (&owners, &common));
    let mut queue: Vec<UnitName> = scan.files.keys().cloned().collect();
    queue.extend(listed.iter().chain(instances).cloned());
    while let Some(name) = queue.pop() {
        if resolved.contains_key(&name) || broken.contains_key(&name) || scan.masked.contains(&name) {
            continue;
        }
        let is_own = scan.files.contains_key(&name);
        let Some(path) = scan.files.get(&name).or_else(|| scan.template(&name)).cloned() else { continue };
        let read = load::read(&name, &path, &sources.dirs, host, (&owners, &common));
        scan.files.insert(name.clone(), path);
        match resolve(read, host, common.policy()) {
            Ok(mut checked) => {
                // One that another file names, or somebody at the terminal, is started by that alone.
                checked.unit.enabled &= is_own || listed.contains(&name);
                queue.extend(checked.claims.names().filter(|name| name.is_instance()).cloned());
                resolved.insert(name, checked);
            }
            Err(found) => drop(broken.insert(name, found)),
        }
    }
    let known =
        check::Known { resolved: &resolved, broken: broken.keys().cloned().collect(), masked: &scan.masked };
    broken.extend(check::check(&known));
    let (mut units, mut opened, mut deciding_places) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, checked) in resolved.into_iter().filter(|(name, _)| !broken.contains_key(name)) {
        opened.insert(name.clone(), checked.opened);
        deciding_places.insert(name.clone(), checked.deciding_places);
        units.insert(name, checked.unit);
    }
    let policy = common.policy().cloned();
    let load::Scan { masked, files, templates, other } = scan;
    let templates = templates.into_keys().collect();
    Loaded { units, opened, deciding_places, masked, files, templates, other, broken, policy }
}

/// The instances that templates have by their own word.
fn listed(
    sources: &Sources,
    scan: &mut load::Scan,
    (owners, common): (&Owners, &Common),
) -> BTreeSet<UnitName> {
    let mut listed = BTreeSet::new();
    for (prefix, path) in &scan.templates {
        let (names, found) = load::instances(prefix, path, &sources.dirs, (owners, common));
        // Of the instances, where there are any, it is told again, and shown once.
        scan.other.extend(found);
        listed.extend(names);
    }
    listed
}

/// Loads one file, named after its base name, and the drop-ins beside it; other services are not looked at.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_file(path: &Path, around: &Around, host: &HostFacts) -> Result<Unit, Vec<Diagnostic>> {
    one(path, around, host).map(|checked| checked.unit)
}

/// As [`load_file`], with what the service opens, and where the keys stand that decide what it is refused.
///
/// # Errors
/// As [`load_file`].
pub fn load_file_opened(
    path: &Path,
    around: &Around,
    host: &HostFacts,
) -> Result<(Unit, Vec<Opened>, DecidingPlaces), Vec<Diagnostic>> {
    one(path, around, host).map(|checked| (checked.unit, checked.opened, checked.deciding_places))
}

fn one(path: &Path, around: &Around, host: &HostFacts) -> Result<Checked, Vec<Diagnostic>> {
    let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
    let Some(stem) = stem else {
        let (message, hint) = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                ("this is a directory", "name one file of it; check, plan and score take `--services DIR`")
            }
            _ => ("this is not the name of a service file", "the file name is the service name: NAME.toml"),
        };
        return Err(vec![Diagnostic::about(path, message).hint(hint.to_owned())]);
    };
    if let Some(prefix) = stem.strip_suffix('@') {
        let hint = format!("name one of them: {prefix}@1, of a supervisor with these files");
        return Err(vec![Diagnostic::about(path, "a template is no service, its instances are").hint(hint)]);
    }
    let name = UnitName::new(stem).map_err(|message| vec![Diagnostic::about(path, message)])?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let owners = Owners::of_this_process();
    let common = Common::read(around, &owners, host);
    let read = load::read(&name, path, &[dir.to_owned()], host, (&owners, &common));
    resolve(read, host, common.policy())
}

/// Reads a file of the host that holds a secret of at most `limit` bytes; none: there is no such file.
///
/// # Errors
/// The file is not one that root or the running user alone may write, or others may read it.
pub fn secret(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, value::Refusal> {
    trust::read_secret(path, &Owners::of_this_process(), limit)
}

/// Reads a service from a text: no file is opened, and mistakes are said to be in `NAME.toml`. Only the built-in profiles
/// are there. Pure, for tests.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_str(name: &str, text: &str, host: &HostFacts) -> Result<Unit, Vec<Diagnostic>> {
    parse_texts(name, &[text], host)
}

/// As [`parse_str`], with the texts of drop-ins behind that of the file: they are `NAME.toml.d/1.toml` and so on.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse_texts(name: &str, texts: &[&str], host: &HostFacts) -> Result<Unit, Vec<Diagnostic>> {
    let file = format!("{name}.toml");
    let name = UnitName::new(name).map_err(|message| vec![Diagnostic::about(&file, message)])?;
    let mut sources = SourceMap::default();
    for (n, text) in texts.iter().enumerate() {
        sources.add(if n == 0 { file.clone() } else { format!("{file}.d/{n}.toml") }, *text);
    }
    let (common, mut found) = (Common::default(), Vec::new());
    common.lay(&mut sources, &mut found);
    let (file, more) = load::parse(&name, sources);
    found.extend(more);
    resolve((file, found), host, common.policy()).map(|checked| checked.unit)
}

/// A service without a mistake in its own file.
struct Checked {
    unit: Unit,
    claims: Claims,
    /// What the spans of `claims` point into.
    sources: SourceMap,
    opened: Vec<Opened>,
    deciding_places: DecidingPlaces,
}

/// Resolves what could be read; a file with mistakes is resolved too, for the mistakes in its values.
///
/// Without a policy nothing is allowed; why there is none is among the mistakes of `read`.
fn resolve(read: Read, host: &HostFacts, policy: Option<&Policy>) -> Result<Checked, Vec<Diagnostic>> {
    let (file, mut found) = read;
    let Some(file) = file else { return Err(found) };
    match spec::resolve_with_claims(&file, host) {
        Ok((unit, claims)) => {
            let opened = opened(&unit, &file);
            let whole = || Location { file: file.sources.first_path(), place: None };
            let at = |key: &str| file.places.find(key).map_or_else(whole, |span| file.sources.locate(span));
            found.extend(policy.into_iter().flat_map(|policy| policy.check(&unit, &opened, at)));
            match found.is_empty() && policy.is_some() {
                true => {
                    let deciding_places = deciding_places(&file);
                    Ok(Checked { unit, claims, sources: file.sources, opened, deciding_places })
                }
                false => Err(in_order(found)),
            }
        }
        Err(more) => {
            found.extend(more);
            Err(in_order(found))
        }
    }
}

/// What a service opens, each with the place of its key.
fn opened(unit: &Unit, file: &ServiceFile) -> Vec<Opened> {
    // What a user is a member of comes with the user.
    let user = |key: &str| (key == "service.extra_groups").then(|| file.places.find("service.user"));
    let place = |key: &str| file.places.find(key).or_else(|| user(key).flatten());
    let at = |opening: &Opening| place(&opening.at).map(|span| file.sources.locate(span));
    let all = exposure::TABLE.iter().flat_map(|row| (row.find)(unit).into_iter().map(move |o| (row, o)));
    all.map(|(row, opening)| Opened { row, at: at(&opening), opening }).collect()
}

fn deciding_places(file: &ServiceFile) -> DecidingPlaces {
    let at = |key: &'static str| {
        let Location { file, place } = file.sources.locate(file.places.find(key)?);
        Some((key, format!("{}:{}", file.display(), place?.line)))
    };
    DECIDING_KEYS.into_iter().filter_map(at).collect()
}

/// By line; what concerns a file as a whole comes first.
fn in_order(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    // Stable, and the drop-ins keep their order behind the file: they were read in it.
    let mut files: Vec<PathBuf> = Vec::new();
    for diagnostic in &found {
        if !files.contains(&diagnostic.at.file) {
            files.push(diagnostic.at.file.clone());
        }
    }
    found.sort_by_key(|diagnostic| {
        let place = diagnostic.at.place.as_ref().map(|place| (place.line, place.column));
        (files.iter().position(|file| *file == diagnostic.at.file), place)
    });
    found
}

#[cfg(test)]
mod tests;
