//! Finding the files of the services, and reading each with its drop-ins.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    Sources,
    common::Common,
    diagnostic::{Diagnostic, SourceMap},
    schema::{EnvFile, Instances, ServiceFile, Tables},
    tables,
    trust::{self, Found, Owners},
    value::{Refusal, Specifiers},
};
use crate::spec::{HostFacts, UnitName};

/// A service file that could be read as one, and what was wrong with the rest of it.
pub(super) type Read = (Option<ServiceFile>, Vec<Diagnostic>);

/// A typing mistake is not to take every address of the host.
const MOST_INSTANCES: i64 = 1000;

/// All files, before any of them is looked into.
#[derive(Default)]
pub(super) struct Scan {
    /// Where the file of each service is.
    pub(super) files: BTreeMap<UnitName, PathBuf>,
    /// Where the file of each template is, by what stands before the `@`.
    pub(super) templates: BTreeMap<String, PathBuf>,
    /// Services that a link to /dev/null hides.
    pub(super) masked: BTreeSet<UnitName>,
    /// What cannot be said of one service.
    pub(super) other: Vec<Diagnostic>,
}

impl Scan {
    /// The template of an instance.
    pub(super) fn template(&self, name: &UnitName) -> Option<&PathBuf> {
        let (prefix, _) = name.as_str().split_once('@')?;
        self.templates.get(prefix)
    }
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
    let has_file = |file: &String| {
        let template = file.split_once('@').map(|(prefix, _)| format!("{prefix}@"));
        let is_of = |template: &String| match *file == format!("{template}.toml") {
            true => seen.iter().any(|other| other.starts_with(template)),
            false => seen.contains(&format!("{template}.toml")),
        };
        seen.contains(file) || template.as_ref().is_some_and(is_of)
    };
    for (_, dir) in drop_ins.into_iter().filter(|(file, _)| !has_file(file)) {
        scan.other.push(Diagnostic::about(dir, "these are drop-ins for a service that has no file"));
    }
    scan
}

fn place(scan: &mut Scan, path: PathBuf, stem: &str) {
    let is_masked = std::fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null"));
    if let Some(prefix) = stem.strip_suffix('@').filter(|prefix| !prefix.contains('@')) {
        match UnitName::new(prefix) {
            Err(message) => scan.other.push(Diagnostic::about(path, message)),
            Ok(_) if is_masked => {}
            Ok(_) => drop(scan.templates.insert(prefix.to_owned(), path)),
        }
        return;
    }
    match UnitName::new(stem) {
        Err(message) => scan.other.push(Diagnostic::about(path, message)),
        Ok(name) if is_masked => {
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

/// Reads one service: its file, and the drop-ins beside it in every directory of `dirs`; of an instance, those of its
/// template as well.
pub(super) fn read(
    name: &UnitName,
    path: &Path,
    dirs: &[PathBuf],
    host: &HostFacts,
    (owners, common): (&Owners, &Common),
) -> Read {
    let files = files(name);
    let (file, found) = read_texts((name, path), (dirs, &files), (owners, common));
    (file.map(|file| with_env_files(file, host, owners)), found)
}

/// As [`parse`], with what the texts point to.
pub(super) fn parse_with(name: &UnitName, sources: SourceMap, host: &HostFacts, owners: &Owners) -> Read {
    let (file, found) = parse(name, sources);
    (file.map(|file| with_env_files(file, host, owners)), found)
}

fn with_env_files(mut file: ServiceFile, host: &HostFacts, owners: &Owners) -> ServiceFile {
    file.env_files = env_files(&file, host, owners);
    file
}

/// What the files of a service may be called, drop-ins after them: that of its template, and its own.
pub(super) fn files(name: &UnitName) -> Vec<String> {
    let template = name.as_str().split_once('@').map(|(prefix, _)| format!("{prefix}@.toml"));
    template.into_iter().chain([format!("{name}.toml")]).collect()
}

/// The instances that a template has by its own word, and what is wrong with that.
pub(super) fn instances(
    prefix: &str,
    path: &Path,
    dirs: &[PathBuf],
    (owners, common): (&Owners, &Common),
) -> (Vec<UnitName>, Vec<Diagnostic>) {
    // What it is called does not matter: nothing of it is looked at but this.
    let Ok(name) = UnitName::new(prefix) else { return (Vec::new(), Vec::new()) };
    let files = [format!("{prefix}@.toml")];
    let (file, mut found) = read_texts((&name, path), (dirs, &files), (owners, common));
    let Some(file) = file else { return (Vec::new(), found) };
    let mut names = Vec::new();
    match file.tables.unit.instances.as_ref().map(|key| (key.span(), key.get_ref())) {
        None => {}
        Some((_, Instances::Count(count @ 0..=MOST_INSTANCES))) => {
            names.extend((1..=*count).filter_map(|n| UnitName::new(&format!("{prefix}@{n}")).ok()));
        }
        Some((span, Instances::Count(count))) => {
            let message = format!("{count} is no number of instances");
            let hint = format!("write a number from 0 to {MOST_INSTANCES}");
            found.push(Diagnostic::at(file.sources.locate(&span), message).hint(hint));
        }
        Some((_, Instances::Names(list))) => {
            for text in list {
                match UnitName::new(&format!("{prefix}@{}", text.get_ref())) {
                    Ok(name) => names.push(name),
                    Err(message) => {
                        found.push(Diagnostic::at(file.sources.locate(&text.span()), message));
                    }
                }
            }
        }
    }
    (names, found)
}

/// Reads the texts of one service, and of what lies below them.
fn read_texts(
    (name, path): (&UnitName, &Path),
    (dirs, files): (&[PathBuf], &[String]),
    around: (&Owners, &Common),
) -> Read {
    let (sources, mut found) = texts(path, (dirs, files), around);
    if sources.is_empty() {
        return (None, found);
    }
    let (file, errors) = parse(name, sources);
    found.extend(errors);
    (file, found)
}

/// The texts of one service, as they are; none, where its own file cannot be read.
pub(super) fn texts(
    path: &Path,
    (dirs, files): (&[PathBuf], &[String]),
    (owners, common): (&Owners, &Common),
) -> (SourceMap, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut sources = SourceMap::default();
    let drop_ins = drop_ins(files, dirs, &mut found);
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
            return (sources, found);
        }
    }
    common.lay(&mut sources, &mut found);
    (sources, found)
}

/// The drop-ins of some files by base name; of two with the same, that of the last file counts, and of this the one in the
/// first directory.
fn drop_ins(files: &[String], dirs: &[PathBuf], found: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut by_name = BTreeMap::new();
    for (file, dir) in files.iter().flat_map(|file| dirs.iter().rev().map(move |dir| (file, dir))) {
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
