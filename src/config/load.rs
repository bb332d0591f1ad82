//! Finding the files of the services, and reading each with its drop-ins.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    Sources,
    common::Common,
    diagnostic::{Diagnostic, SourceMap},
    schema::{EnvFile, ServiceFile, Tables},
    tables,
    trust::{self, Found, Owners},
    value::{Refusal, Specifiers},
};
use crate::spec::{HostFacts, UnitName};

/// A service file that could be read as one, and what was wrong with the rest of it.
pub(super) type Read = (Option<ServiceFile>, Vec<Diagnostic>);

/// All files, before any of them is looked into.
#[derive(Default)]
pub(super) struct Scan {
    /// Where the file of each service is.
    pub(super) files: BTreeMap<UnitName, PathBuf>,
    /// Services that a link to /dev/null hides.
    pub(super) masked: BTreeSet<UnitName>,
    /// What cannot be said of one service.
    pub(super) other: Vec<Diagnostic>,
}

/// Lists the directories: the first that has a file name wins.
pub(super) fn scan(sources: &Sources) -> Scan {
    let mut scan = Scan::default();
    let mut seen = BTreeSet::new();
    let mut drop_ins = BTreeMap::new();
    for dir in &sources.dirs {
        let listed = trust::list(dir, ".toml", sources.required)
            .and_then(|files| Ok((files, trust::list(dir, ".toml.d", sources.required)?)));
        let (files, dirs) = match listed {
            Ok(listed) => listed,
            Err(refusal) => {
                scan.other.push(about(dir, refusal));
                continue;
            }
        };
        for file in files {
            if seen.insert(file.clone()) {
                place(&mut scan, dir.join(&file), file.strip_suffix(".toml").unwrap_or(&file));
            }
        }
        drop_ins.extend(
            dirs.into_iter()
                .map(|name| (name.strip_suffix(".d").unwrap_or(&name).to_owned(), dir.join(&name))),
        );
    }
    for (_, dir) in drop_ins.into_iter().filter(|(file, _)| !seen.contains(file)) {
        scan.other.push(Diagnostic::about(dir, "these are drop-ins for a service that has no file"));
    }
    scan
}

fn place(scan: &mut Scan, path: PathBuf, stem: &str) {
    match UnitName::new(stem) {
        Err(_) if stem.ends_with('@') => {
            let hint = "give every instance a file of its own, such as web@1.toml";
            let message = "templates are not a feature of this version yet";
            scan.other.push(Diagnostic::about(path, message).hint(hint.to_owned()));
        }
        Err(message) => scan.other.push(Diagnostic::about(path, message)),
        Ok(name) if std::fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null")) => {
            scan.masked.insert(name);
        }
        Ok(name) => {
            scan.files.insert(name, path);
        }
    }
}

fn about(path: &Path, refusal: Refusal) -> Diagnostic {
    Diagnostic::about(path, refusal.message).hint(refusal.hint)
}

/// Reads one service: its file, and the drop-ins beside it in every directory of `dirs`.
pub(super) fn read(
    name: &UnitName,
    path: &Path,
    dirs: &[PathBuf],
    host: &HostFacts,
    (owners, common): (&Owners, &Common),
) -> Read {
    let mut found = Vec::new();
    let mut sources = SourceMap::default();
    let drop_ins = drop_ins(path, dirs, &mut found);
    for path in std::iter::once(path.to_owned()).chain(drop_ins) {
        match trust::read(&path, owners) {
            Ok(Found::Text(text)) => {
                sources.add(path, text);
            }
            // A drop-in that is masked; the file itself was looked at before, or is asked for by name.
            Ok(Found::Mask) if !sources.is_empty() => {}
            Ok(Found::Mask) => {
                found.push(Diagnostic::about(path, "the service is masked by a link to /dev/null"));
            }
            Ok(Found::Missing) => found.push(Diagnostic::about(path, "no such file")),
            Err(refusal) => found.push(about(&path, refusal)),
        }
        if sources.is_empty() {
            // Drop-ins alone are no service, and what they say about it would only confuse.
            return (None, found);
        }
    }
    common.lay(&mut sources, &mut found);
    let (file, errors) = parse(name, sources);
    found.extend(errors);
    let file = file.map(|mut file| {
        file.env_files = env_files(&file, host, owners);
        file
    });
    (file, found)
}

/// The drop-ins of a file by base name; of two with the same, the one in the first directory counts.
fn drop_ins(path: &Path, dirs: &[PathBuf], found: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let Some(file) = path.file_name() else {
        return Vec::new();
    };
    let mut by_name = BTreeMap::new();
    for dir in dirs.iter().rev() {
        let dir = trust::drop_in_dir(&dir.join(file));
        match trust::list(&dir, ".toml", false) {
            Ok(names) => by_name.extend(names.into_iter().map(|name| (name.clone(), dir.join(name)))),
            Err(refusal) => found.push(about(&dir, refusal)),
        }
    }
    by_name.into_values().collect()
}

/// Merges and reads the texts of one service. Pure.
pub(super) fn parse(name: &UnitName, sources: SourceMap) -> Read {
    let (read, found) = tables::read_with_places::<Tables>(&sources);
    let file = read.map(|(tables, places)| ServiceFile {
        name: name.clone(),
        sources,
        places,
        tables,
        env_files: BTreeMap::new(),
    });
    (file, found)
}

/// Reads what `service.env_file` points to; what is wrong with a path itself is for `resolve` to say.
fn env_files(file: &ServiceFile, host: &HostFacts, owners: &Owners) -> BTreeMap<PathBuf, EnvFile> {
    let specifiers = Specifiers { name: &file.name, hostname: &host.hostname };
    let mut texts = BTreeMap::new();
    for entry in file.tables.service.env_file.iter().flatten() {
        let Ok(path) = specifiers.expand(entry.get_ref()) else { continue };
        let path = PathBuf::from(path.strip_prefix('-').unwrap_or(&path));
        if !path.is_absolute() {
            continue;
        }
        let text = match trust::read(&path, owners) {
            Ok(Found::Text(text)) => EnvFile::Text(text),
            Ok(Found::Mask) => EnvFile::Text(String::new()),
            Ok(Found::Missing) => EnvFile::Missing,
            Err(refusal) => EnvFile::Refused(refusal.message, refusal.hint),
        };
        texts.insert(path, text);
    }
    texts
}
