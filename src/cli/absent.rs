//! What a service file names and this host does not have, or the service would not see: notes of `check`. A file may be
//! meant for another host, and what is not there now may be later, so that none of it is a mistake.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    config::{DecidingPlaces, Diagnostic, Location, Place},
    spec::{Base, Unit, UserNamespace},
};

/// Words that are a shell's, and to a program arguments like any other.
const OF_A_SHELL: [&str; 8] = ["|", "||", "&&", "&", ">", ">>", "<", "2>&1"];
/// What of the host a service sees with `rootfs.base = "host"`.
const OF_THE_HOST: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"];

/// Notes about `unit`, at the lines that `places` has; of a key that stands nowhere there is none.
pub(super) fn notes(unit: &Unit, places: &DecidingPlaces) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut note = |key: &str, what: &str| {
        let at = places.get(key).map(|at| location(at));
        found.extend(at.map(|at| Diagnostic::at(at, format!("{key}: {what}")).noted()));
    };
    let mounts = unit.rootfs.mounts.iter().filter(|mount| !mount.optional && is_missing(&mount.src));
    let lost: Vec<&Path> = mounts.map(|mount| mount.src.as_path()).collect();
    for src in &lost {
        note("rootfs.mounts", &format!("there is no {} on this host", src.display()));
    }
    let is_shifted = unit.namespaces.user != UserNamespace::Off;
    for mount in unit.rootfs.mounts.iter().filter(|mount| is_shifted && !mount.ro && mount.idmap) {
        // The id map has its owner and its group alone, and never root: to everybody else it is closed.
        let of_root = mount.src.metadata().ok().and_then(|found| match (found.uid(), found.gid()) {
            (0, _) => Some("belongs to root"),
            (_, 0) => Some("belongs to the group of root"),
            _ => None,
        });
        if let Some(of_root) = of_root {
            let src = mount.src.display();
            note(
                "rootfs.mounts",
                &format!("{src} {of_root}, so that nobody may write there: `chown USER: {src}`"),
            );
        }
    }
    if let Base::Dir(dir) = &unit.rootfs.base
        && is_missing(dir)
    {
        note("rootfs.dir", &format!("there is no {} on this host", dir.display()));
    }
    for (key, path) in [
        ("service.command", Path::new(&unit.service.command[0])),
        ("service.working_dir", unit.service.working_dir.as_path()),
    ] {
        match seen(unit, path) {
            // With its mount, which was told of.
            Seen::At(source, _) if lost.iter().any(|src| source.starts_with(src)) => {}
            Seen::At(source, _) if is_missing(&source) => {
                note(key, &format!("there is no {} on this host", source.display()));
            }
            Seen::At(source, false) if key == "service.command" && source.is_file() => {
                let path = path.display();
                note(
                    key,
                    &format!("{path} cannot be executed: its mount in rootfs.mounts has no `exec = true`"),
                );
            }
            Seen::Nowhere => {
                let path = path.display();
                note(
                    key,
                    &format!("the service does not see {path}: rootfs.mounts brings what is not in /usr"),
                );
            }
            Seen::At(..) | Seen::Unknown => {}
        }
    }
    if let Some(word) = unit.service.command.iter().skip(1).find(|word| OF_A_SHELL.contains(&word.as_str())) {
        note(
            "service.command",
            &format!(
                "no shell reads this, `{word}` is an argument; with one: [\"/bin/sh\", \"-c\", \"...\"]"
            ),
        );
    }
    found
}

/// Where a path of the sandbox comes from.
enum Seen {
    /// From this path of the host; whether programs there may be executed.
    At(PathBuf, bool),
    /// From nowhere.
    Nowhere,
    /// Nobody can say: it is in memory, or in a tree of its own, with links of its own.
    Unknown,
}

fn seen(unit: &Unit, path: &Path) -> Seen {
    let root = &unit.rootfs;
    // A name without a slash is looked for in PATH, and `/` is always there.
    if !path.is_absolute() || path == Path::new("/") {
        return Seen::Unknown;
    }
    let mounts = root.mounts.iter().filter(|mount| path.starts_with(&mount.dst));
    let mount = mounts.max_by_key(|mount| mount.dst.components().count());
    let tmpfs = root.tmpfs.iter().filter(|tmpfs| path.starts_with(&tmpfs.dst));
    let tmpfs = tmpfs.map(|tmpfs| tmpfs.dst.components().count()).max();
    match mount {
        Some(mount) if tmpfs.is_none_or(|depth| depth <= mount.dst.components().count()) => {
            let below = path.strip_prefix(&mount.dst).unwrap_or(Path::new(""));
            let source = if below == Path::new("") { mount.src.clone() } else { mount.src.join(below) };
            return Seen::At(source, mount.exec);
        }
        _ if tmpfs.is_some() => return Seen::Unknown,
        _ => {}
    }
    // Directories on the way to a mount or to a memory file system are made.
    let leads = root.mounts.iter().map(|mount| &mount.dst).chain(root.tmpfs.iter().map(|tmpfs| &tmpfs.dst));
    let is_on_the_way = leads.into_iter().any(|dst| dst.starts_with(path));
    match root.base {
        Base::Host if OF_THE_HOST.iter().any(|dir| path.starts_with(dir)) => match path.starts_with("/etc") {
            // It is made for the service.
            true => Seen::Unknown,
            false => Seen::At(path.to_owned(), true),
        },
        Base::Host if !is_on_the_way && !is_made(path) => Seen::Nowhere,
        Base::Host | Base::Dir(_) | Base::None => Seen::Unknown,
    }
}

/// What every root has, or what is in one by `rootfs.proc` and the like.
fn is_made(path: &Path) -> bool {
    ["/dev", "/proc", "/sys", "/root", "/run", "/tmp", "/var"].iter().any(|dir| path == Path::new(dir))
        || ["/dev", "/proc", "/sys"].iter().any(|dir| path.starts_with(dir))
}

/// Nobody can say where it may not be looked at.
fn is_missing(path: &Path) -> bool {
    path.try_exists().is_ok_and(|exists| !exists)
}

/// `FILE:LINE`, at its beginning.
fn location(at: &str) -> Location {
    let parts = at.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?)));
    let (file, place) = match parts {
        Some((file, line)) => (file, Some(Place { line, column: 1, end_column: 1, text: String::new() })),
        None => (at, None),
    };
    Location { file: file.into(), place }
}
