//! What the operator wrote: finding the files, reading them, and saying everything that is wrong with them at once.
//!
//! `trust` and `load` touch the host; `schema`, `value`, `tables` and `check` are pure. A broken file never stops the
//! others: it comes back with its mistakes, beside the units of the rest.

mod check;
pub mod diagnostic;
mod load;
pub mod schema;
pub mod settings;
mod tables;
mod trust;
pub mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

pub use self::{
    diagnostic::{Diagnostic, Location, Note, Place, Severity, SourceMap},
    schema::ServiceFile,
    settings::Settings,
};
use self::{load::Read, trust::Owners};
use crate::spec::{self, Claims, HostFacts, Unit, UnitName};

/// Where service files live, the directory that wins first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Directories of `NAME.toml` and `NAME.toml.d/`.
    pub dirs: Vec<PathBuf>,
    /// A directory that is missing is a mistake.
    pub required: bool,
}

impl Sources {
    /// /etc over /run over /usr/lib; each of them may be missing.
    pub fn system() -> Self {
        let dirs = ["/etc/palisade/services.d", "/run/palisade/services.d", "/usr/lib/palisade/services.d"];
        Self { dirs: dirs.map(PathBuf::from).to_vec(), required: false }
    }

    /// One directory and no other: `--services DIR`.
    pub fn only(dir: impl Into<PathBuf>) -> Self {
        Self { dirs: vec![dir.into()], required: true }
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
    /// The file of each service, broken ones included.
    pub files: BTreeMap<UnitName, PathBuf>,
    /// Mistakes that belong to no service.
    pub other: Vec<Diagnostic>,
}

impl Loaded {
    /// Every mistake, by service.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.other.iter().chain(self.broken.values().flatten())
    }
}

/// Loads all services and checks them against each other.
pub fn load_all(sources: &Sources, host: &HostFacts) -> Loaded {
    let owners = Owners::of_this_process();
    let scan = load::scan(sources);
    let mut resolved = BTreeMap::new();
    let mut broken: BTreeMap<UnitName, Vec<Diagnostic>> = BTreeMap::new();
    for (name, path) in &scan.files {
        match resolve(load::read(name, path, &sources.dirs, host, &owners), host) {
            Ok(unit) => {
                resolved.insert(name.clone(), unit);
            }
            Err(found) => {
                broken.insert(name.clone(), found);
            }
        }
    }
    let known =
        check::Known { resolved: &resolved, broken: broken.keys().cloned().collect(), masked: &scan.masked };
    broken.extend(check::check(&known));
    let units = resolved.into_iter().filter(|(name, _)| !broken.contains_key(name));
    Loaded {
        units: units.map(|(name, checked)| (name, checked.unit)).collect(),
        masked: scan.masked,
        files: scan.files,
        other: scan.other,
        broken,
    }
}

/// Loads one file, named after its base name, and the drop-ins beside it; other services are not looked at.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_file(path: &Path, host: &HostFacts) -> Result<Unit, Vec<Diagnostic>> {
    let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
    let Some(stem) = stem else {
        let hint = "the file name is the service name: NAME.toml".to_owned();
        return Err(vec![Diagnostic::about(path, "this is not the name of a service file").hint(hint)]);
    };
    let name = UnitName::new(stem).map_err(|message| vec![Diagnostic::about(path, message)])?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let read = load::read(&name, path, &[dir.to_owned()], host, &Owners::of_this_process());
    resolve(read, host).map(|checked| checked.unit)
}

/// Reads a service from a text: no file is opened, and mistakes are said to be in `NAME.toml`. Pure, for tests.
/// Reads a file of the host that holds a secret of at most `limit` bytes; none: there is no such file.
///
/// # Errors
/// The file is not one that root or the running user alone may write, or others may read it.
pub fn secret(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, value::Refusal> {
    trust::read_secret(path, &Owners::of_this_process(), limit)
}

/// Reads a service from a text: no file is opened, and mistakes are said to be in `NAME.toml`. Pure, for tests and
/// fuzzing.
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
    resolve(load::parse(&name, sources), host).map(|checked| checked.unit)
}

/// A service without a mistake in its own file.
struct Checked {
    unit: Unit,
    claims: Claims,
    /// What the spans of `claims` point into.
    sources: SourceMap,
}

/// Resolves what could be read; a file with mistakes is resolved too, for the mistakes in its values.
fn resolve(read: Read, host: &HostFacts) -> Result<Checked, Vec<Diagnostic>> {
    let (file, mut found) = read;
    let Some(file) = file else { return Err(found) };
    match spec::resolve_with_claims(&file, host) {
        Ok((unit, claims)) if found.is_empty() => Ok(Checked { unit, claims, sources: file.sources }),
        Ok(_) => Err(in_order(found)),
        Err(more) => {
            found.extend(more);
            Err(in_order(found))
        }
    }
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
