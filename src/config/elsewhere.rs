//! What to write instead of a key that its table does not have: the same key in the table that has it, or the key for what
//! systemd and Compose call so. Pure.

use std::sync::LazyLock;

use super::reference::{SERVICE, SERVICE_EXAMPLE, Table, example, walk};

/// What systemd and Compose have beside the names that stand in the reference, without case and underscores.
const OTHER_NAMES: [(&str, &str); 27] = [
    ("args", "service.command"),
    ("cachedirectory", "rootfs.mounts"),
    ("capadd", "security.capabilities"),
    ("cmd", "service.command"),
    ("cpus", "limits.cpu.max"),
    ("dependson", "unit.requires"),
    ("entrypoint", "service.command"),
    ("exec", "service.command"),
    ("healthcheck", "health.test"),
    ("ipaddressdeny", "network.egress"),
    ("logging", "log.target"),
    ("logsdirectory", "rootfs.mounts"),
    ("memlimit", "limits.memory.max"),
    ("pidslimit", "limits.pids.max"),
    ("ports", "network.publish"),
    ("readwritepaths", "rootfs.mounts"),
    ("runtimedirectory", "rootfs.tmpfs"),
    ("standarderror", "log.target"),
    ("statedirectory", "rootfs.mounts"),
    ("stopgraceperiod", "service.stop.timeout"),
    ("stopsignal", "service.stop.signal"),
    ("timeoutsec", "service.timeout.start"),
    ("ulimits", "limits.rlimits"),
    ("volume", "rootfs.mounts"),
    ("volumes", "rootfs.mounts"),
    ("wantedby", "unit.enabled"),
    ("workdir", "service.working_dir"),
];

/// What Compose and Docker call the keys of one table, without case and underscores.
const IN_TABLES: [(&str, &str, &str); 4] = [
    ("rootfs.mounts", "destination", "dst"),
    ("rootfs.mounts", "readonly", "ro"),
    ("rootfs.mounts", "source", "src"),
    ("rootfs.mounts", "target", "dst"),
];

/// The keys that systemd has settings for, with the names of those: worked out once, for a mistake may be in each of a
/// thousand files.
static OF_SYSTEMD: LazyLock<Vec<(String, Vec<String>)>> = LazyLock::new(|| {
    let names = |path: &str| -> Option<Vec<String>> {
        let systemd = example(SERVICE_EXAMPLE, path)?.systemd?;
        Some(systemd.split([',', ' ']).filter_map(|word| word.strip_suffix('=')).map(folded).collect())
    };
    paths(&walk(SERVICE)).filter_map(|path| names(&path).map(|names| (path, names))).collect()
});

/// What systemd has a setting for and every service has here.
const ANYWAY: [&str; 8] = [
    "keyringmode",
    "privatemounts",
    "privatetmp",
    "protectclock",
    "protecthome",
    "protectkernellogs",
    "protectkernelmodules",
    "protectsystem",
];

/// What to do about `key` in `table` of a service file; an empty table is the top level. None: nothing is called so.
///
/// `known` are the keys that the table has: those of another kind of file are not looked at.
pub(super) fn hint(key: &str, table: &str, known: &[&str]) -> Option<String> {
    let tables = walk(SERVICE);
    let of_table = if table.is_empty() { Some(&SERVICE[0]) } else { find(&tables, table) };
    let is_service =
        of_table.is_some_and(|own| own.keys.iter().map(|key| key.name).eq(known.iter().copied()));
    if !is_service {
        return None;
    }
    let folded = folded(key);
    if ANYWAY.contains(&folded.as_str()) {
        return Some("leave it out: every service has that anyway".to_owned());
    }
    if table.is_empty() && folded == "install" {
        return Some("leave it out: what is enabled, as `unit.enabled` is by default, is started".to_owned());
    }
    let is_own = |(of, name, _): &&(&str, &str, &str)| (*of, *name) == (table, &folded);
    if let Some((_, _, name)) = IN_TABLES.iter().find(is_own) {
        return Some(format!("did you mean `{name}`?"));
    }
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == folded).map(|(_, path)| (*path).to_owned());
    let path = of_systemd(&folded).or(other).or_else(|| same_name(&tables, (key, table)));
    if let Some((of, name)) = path.as_deref().and_then(|path| path.rsplit_once('.')) {
        return match of == table {
            true => Some(format!("did you mean `{name}`?")),
            false => find(&tables, of).map(|of| format!("write `{name}` in {}", lower(of.title()))),
        };
    }
    let is_table = SERVICE[0].keys.iter().any(|known| known.name == key);
    is_table.then(|| format!("`[{key}]` is a table of its own"))
}

/// What to write where `path` of a service file takes a table.
pub(super) fn as_table(path: &str) -> String {
    let Some((_, name)) = path.rsplit_once('.') else {
        return format!("write `KEY = VALUE` lines below `[{path}]`");
    };
    match find(&walk(SERVICE), path.strip_prefix("defaults.").unwrap_or(path)) {
        Some(table) => {
            let keys: Vec<&str> = table.keys.iter().map(|key| key.name).collect();
            format!("write `{name} = {{ KEY = VALUE }}`, with keys of: {}", keys.join(", "))
        }
        None => format!("write `{name} = {{ NAME = VALUE }}`"),
    }
}

type Tables = [(String, &'static Table)];

fn find(tables: &Tables, path: &str) -> Option<&'static Table> {
    tables.iter().find(|(known, _)| known == path).map(|(_, table)| *table)
}

/// The key that systemd has a setting of this name for; of several the one that has no other, nor lies deeper.
fn of_systemd(folded_name: &str) -> Option<String> {
    let rank = |(path, names): &'static (String, Vec<String>)| {
        let at = names.iter().position(|name| name == folded_name)?;
        Some(((at, path.matches('.').count()), path))
    };
    OF_SYSTEMD.iter().filter_map(rank).min_by_key(|(rank, _)| *rank).map(|(_, path)| path.clone())
}

/// The key of this name, where one table has it; what stands at the top level is most likely of `[service]`.
fn same_name(tables: &Tables, (key, table): (&str, &str)) -> Option<String> {
    let mut all = paths(tables).filter(|path| path.rsplit_once('.').is_some_and(|(_, name)| name == key));
    let first = all.next()?;
    let of_service = format!("service.{key}");
    match table.is_empty() && paths(tables).any(|path| path == of_service) {
        true => Some(of_service),
        false => Some(first).filter(|_| all.next().is_none()),
    }
}

fn paths(tables: &Tables) -> impl Iterator<Item = String> {
    tables.iter().flat_map(|(path, table)| table.keys.iter().map(move |key| format!("{path}.{}", key.name)))
}

/// `ExecStart` as `exec_start` and `execstart` are.
fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

/// A title in the middle of a sentence.
fn lower(title: &str) -> String {
    title.replacen("One entry", "an entry", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: &str, table: &str) -> Option<String> {
        let own = if table.is_empty() { &SERVICE[0] } else { find(&walk(SERVICE), table).unwrap() };
        hint(key, table, &own.keys.iter().map(|key| key.name).collect::<Vec<_>>())
    }

    #[test]
    fn names_of_others_lead_to_ours() {
        for (key, table, wanted) in [
            ("ExecStart", "service", "did you mean `command`?"),
            ("exec_start", "service", "did you mean `command`?"),
            ("Environment", "service", "did you mean `env`?"),
            ("After", "unit", "did you mean `after`?"),
            ("restart", "service", "write `policy` in `[restart]`"),
            ("MemoryMax", "service", "write `max` in `[limits.memory]`"),
            ("LoadCredential", "service", "write `credentials` in `[security]`"),
            ("PrivateTmp", "service", "leave it out: every service has that anyway"),
            ("ports", "network", "did you mean `publish`?"),
            ("ports", "", "write `publish` in `[network]`"),
            ("volumes", "service", "write `mounts` in `[rootfs]`"),
            ("source", "rootfs.mounts", "did you mean `src`?"),
            ("read_only", "rootfs.mounts", "did you mean `ro`?"),
            ("command", "", "write `command` in `[service]`"),
            ("publish", "service", "write `publish` in `[network]`"),
            ("limits", "service", "`[limits]` is a table of its own"),
        ] {
            assert_eq!(at(key, table).as_deref(), Some(wanted), "{key} in {table:?}");
        }
        // In several tables, or nowhere: that is for the nearest key.
        for (key, table) in [("timeout", "unit"), ("comand", "service"), ("max", "service")] {
            assert_eq!(at(key, table), None, "{key} in {table:?}");
        }
        assert_eq!(hint("ports", "network", &["name", "prefix4"]), None, "a table of palisade.toml");
    }

    #[test]
    fn where_the_names_of_others_lead_there_is_a_key() {
        let tables = walk(SERVICE);
        for (name, path) in OTHER_NAMES {
            assert!(paths(&tables).any(|known| known == path), "{name}: {path}");
            assert_eq!(name, folded(name));
        }
        for (table, name, ours) in IN_TABLES {
            assert!(paths(&tables).any(|known| known == format!("{table}.{ours}")), "{name}: {ours}");
            assert_eq!(name, folded(name));
        }
    }

    #[test]
    fn a_table_is_shown_with_its_keys() {
        assert_eq!(
            as_table("limits.memory"),
            "write `memory = { KEY = VALUE }`, with keys of: max, high, low, swap_max"
        );
        assert_eq!(as_table("service.env"), "write `env = { NAME = VALUE }`");
        assert_eq!(as_table("service"), "write `KEY = VALUE` lines below `[service]`");
    }
}
