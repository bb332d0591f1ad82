//! What may stand in the files, as data: every key with its type, its meaning, its default, an example, and what systemd
//! calls it.
//!
//! build.rs makes the keys from the structures that the loader reads into and from their comments; examples and systemd's
//! names stand in `reference/*.toml`, which the loader reads in a test. The manual pages, the pages in `docs` and the JSON
//! Schema are made of this.

include!(concat!(env!("OUT_DIR"), "/keys.rs"));

/// An example of every key of a service file.
pub const SERVICE_EXAMPLE: &str = include_str!("reference/service.toml");
/// An example of every key of `palisade.toml`.
pub const SETTINGS_EXAMPLE: &str = include_str!("reference/palisade.toml");

/// What holds for service files as a whole: paragraphs, with what is typed in backquotes.
pub const SERVICE_FILES: &str = "\
One TOML file is one service; the file name without `.toml` is its name. A key that is not on this page is refused.
The only one that has to be there is `service.command`. Most files add `rootfs.mounts` (which of the host's data it sees),
`network.publish` (who reaches it), `network.allow_to` and `network.egress` (whom it reaches), and little else;
`palisade new NAME` writes one to begin with.

Files live in `/etc/palisade/services.d`, `/run/palisade/services.d` and `/usr/lib/palisade/services.d`; the first that has
a name wins, a link to `/dev/null` masks it, and `NAME.toml.d/*.toml` beside any of them are merged into it in the order of
their names: single values replace, tables are merged, lists are replaced, and `\"+key\"` appends to a list.

Durations are `\"500ms\"`, `\"5s\"`, `\"2min\"`, `\"1h30m\"`, `\"1d\"`, `\"infinity\"`; a bare number is seconds. Sizes are `\"64K\"`,
`\"512M\"`, `\"2G\"` in powers of 1024. In strings `%n` is the service's name, `%p` and `%i` the parts of an instance's, `%H` the
host's name, `%%` a percent sign. In commands `${NAME}` is a variable of the service's environment, `$NAME` as a word of its
own is split into words, `$$` is a dollar sign.
";

/// One table of a file, or one of those in a list.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The structure that the loader reads it into.
    pub kind: &'static str,
    /// Its title, and behind a semicolon what it is for.
    pub about: &'static str,
    /// In their order.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is typed.
    pub name: &'static str,
    /// The type that the loader reads, without what says where a value stands and whether it does.
    pub kind: &'static str,
    /// Meaning, unit and default.
    pub about: &'static str,
}

/// What an example file has for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example {
    /// The line, or the header of a table.
    pub line: &'static str,
    /// Settings of systemd.
    pub systemd: Option<&'static str>,
}

impl Table {
    /// Such as `[unit]`, in backquotes.
    pub fn title(&self) -> &'static str {
        self.about.split_once("; ").map_or(self.about, |(title, _)| title).trim_end_matches('.')
    }

    /// What it is for; may be empty.
    pub fn description(&self) -> String {
        let text = self.about.split_once("; ").map_or("", |(_, text)| text);
        let mut chars = text.chars();
        let first = chars.next().map(|first| first.to_ascii_uppercase());
        let end = if text.is_empty() || text.ends_with('.') { "" } else { "." };
        first.into_iter().chain(chars).chain(end.chars()).collect()
    }
}

impl Key {
    /// What it means.
    pub fn meaning(&self) -> &'static str {
        self.about.rsplit_once(" Default: ").map_or(self.about, |(meaning, _)| meaning)
    }

    /// What holds where it is left out, without a period.
    pub fn default(&self) -> Option<&'static str> {
        self.about.rsplit_once(" Default: ").map(|(_, default)| default.trim_end_matches('.'))
    }

    /// The type in words.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            "bool" => "boolean",
            "i64" => "whole number",
            "Text" => "string",
            "Scalar" => "string or number",
            "Switch" => "boolean or string",
            "Vec<Text>" => "list of strings",
            "Vec<Scalar>" => "list of strings and numbers",
            "WordOrList" => "string or list of strings",
            "Wanted" => "string, number, boolean or a list of them",
            "Instances" => "whole number or list of strings",
            "HooksText" => "list of commands",
            "AfterText" => "list of names and tables, or table",
            "SeccompText" => "string, list of strings or table",
            kind if kind.starts_with("BTreeMap<") => "table of names and values",
            kind if kind.starts_with("Vec<") => "list of tables",
            _ => "table",
        }
    }

    /// The structure of the table, or of each table of the list, that is its value.
    pub fn table_kind(&self) -> Option<&'static str> {
        match self.kind {
            "HooksText" => Some("HookTable"),
            "SeccompText" => Some("SeccompTable"),
            kind => {
                let kind = kind.strip_prefix("Vec<").map_or(kind, |kind| kind.trim_end_matches('>'));
                (kind.ends_with("Table") || kind == "Tables").then_some(kind)
            }
        }
    }
}

/// The table that is read into `kind`.
pub fn table(tables: &'static [Table], kind: &str) -> Option<&'static Table> {
    tables.iter().find(|table| table.kind == kind)
}

/// Every table below the top level with the path of its keys, a table before those in it; one that stands in several places
/// only in the first.
pub fn walk(tables: &'static [Table]) -> Vec<(String, &'static Table)> {
    let mut found = Vec::new();
    below(tables, &tables[0], "", &mut found);
    found
}

fn below(
    tables: &'static [Table],
    of: &'static Table,
    path: &str,
    found: &mut Vec<(String, &'static Table)>,
) {
    for key in of.keys {
        let Some(table) = key.table_kind().and_then(|kind| table(tables, kind)) else { continue };
        if found.iter().any(|(_, known)| known.kind == table.kind) {
            continue;
        }
        let path = format!("{path}{}", key.name);
        found.push((path.clone(), table));
        below(tables, table, &format!("{path}."), found);
    }
}

/// What `example` has for the key at `path`, such as `service.stop.signal`.
pub fn example(example: &'static str, path: &str) -> Option<Example> {
    let mut table = "";
    for line in example.lines() {
        let (line, systemd) = match line.rsplit_once("  # ") {
            Some((line, systemd)) => (line, Some(systemd)),
            None => (line, None),
        };
        let found = if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
            table == path
        } else {
            let key = line.split_once(" = ").map(|(key, _)| key);
            key.is_some() && path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.')) == key
        };
        if found {
            return Some(Example { line, systemd });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Settings, schema::Tables, tables};

    /// Every key, with its path.
    fn keys(tables: &'static [Table]) -> Vec<(String, &'static Key)> {
        let of = |(path, table): (String, &'static Table)| {
            table.keys.iter().map(move |key| (format!("{path}.{}", key.name), key))
        };
        walk(tables).into_iter().flat_map(of).collect()
    }

    #[test]
    fn the_loader_reads_the_examples() {
        let mut sources = crate::config::SourceMap::default();
        sources.add(Path::new("service.toml"), SERVICE_EXAMPLE);
        let (_, found) = tables::read::<Tables>(&sources);
        assert!(found.is_empty(), "{found:#?}");
        let settings = Settings::parse(Path::new("palisade.toml"), SETTINGS_EXAMPLE).unwrap();
        assert_eq!(settings.id_count, 1000);
    }

    #[test]
    fn keys_are_what_the_loader_has() {
        let keys = keys(SERVICE);
        let find = |path: &str| keys.iter().find(|(known, _)| known == path).unwrap().1;
        let command = find("service.command");
        assert_eq!((command.kind, command.type_name()), ("WordOrList", "string or list of strings"));
        assert_eq!((command.default(), command.about.ends_with(" Required.")), (None, true));
        assert_eq!(find("service.stop.timeout").default(), Some("15s"));
        assert_eq!(find("rootfs.mounts.ro").kind, "bool");
        assert_eq!(find("service.env").type_name(), "table of names and values");
        assert_eq!(find("unit.condition.cpus").kind, "Wanted");
        let signal = example(SERVICE_EXAMPLE, "service.stop.signal").unwrap();
        assert_eq!(signal, Example { line: "signal = \"QUIT\"", systemd: Some("KillSignal=") });
        for table in SERVICE.iter().chain(SETTINGS).filter(|table| !table.kind.ends_with("Tables")) {
            assert!(table.title().contains('`'), "{}", table.kind);
        }
    }
}
