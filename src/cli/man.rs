//! The manual pages: one for each verb from the command line's own description, two for files from the table of keys.

use std::{fs, io, path::Path};

use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use super::{Exit, output};
use crate::config::reference::{
    SERVICE, SERVICE_EXAMPLE, SERVICE_FILES, SETTINGS, SETTINGS_EXAMPLE, Table, example, walk,
};

const EXITS: &str = "0 done, 1 failed or refused, 2 usage or invalid file, 3 not running, 4 no such service, 5 no \
supervisor. `run`, `exec` and `shell` exit as their payload, or with 124 timed out, 125 Palisade failed, 126 cannot be \
executed, 127 not found, 128+N ended by signal N.";

const SETTINGS_ABOUT: &str = "`/etc/palisade/palisade.toml` says what one supervisor calls its things, so that several \
live side by side on a host, and what holds for all of its services. The file may be missing: every key has a default. \
`policy.toml` and `profiles.d` lie beside it. `--config` names another one.";

/// The same pages from the same source, whenever they are made. What is empty would not be written at all.
const NO_DATE: &str = " ";

/// What the page about the program names.
const FILES: &[(&str, &str)] = &[
    ("/etc/palisade/palisade.toml", "What holds for a supervisor and all of its services, palisade.toml(5)."),
    ("/etc/palisade/policy.toml", "A ceiling that no service file goes beyond."),
    (
        "/etc/palisade/services.d, /run/palisade/services.d, /usr/lib/palisade/services.d",
        "Service files, palisade.services(5).",
    ),
    (
        "/etc/palisade/profiles.d, /run/palisade/profiles.d, /usr/lib/palisade/profiles.d",
        "What several services have in common.",
    ),
    ("/run/palisade", "Run-time state and the control socket."),
    ("/var/lib/palisade", "State that outlives a boot: addresses, ids, what services keep."),
    ("/var/log/palisade", "Output of the services."),
];

/// `palisade man DIR`.
pub(super) fn write(dir: &Path, command: clap::Command) -> Exit {
    match try_write(dir, command) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::error(&format!("the manual pages cannot be written below {}: {error}", dir.display()));
            Exit::Failed
        }
    }
}

fn try_write(dir: &Path, mut command: clap::Command) -> io::Result<()> {
    command.build();
    let (of_verbs, of_files) = (dir.join("man1"), dir.join("man5"));
    fs::create_dir_all(&of_verbs)?;
    fs::create_dir_all(&of_files)?;
    let verbs: Vec<clap::Command> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    for verb in verbs {
        let name = format!("palisade-{}.1", verb.get_name());
        let mut end = Roff::new();
        see_also(&mut end, &["palisade(1)", "palisade.services(5)", "palisade.toml(5)"]);
        fs::write(of_verbs.join(name), page(verb, &end)?)?;
    }
    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"]).text(marked(EXITS)).control("SH", ["FILES"]);
    for (path, about) in FILES {
        end.control("TP", []).text([italic(*path)]).text(marked(about));
    }
    see_also(&mut end, &["palisade.services(5)", "palisade.toml(5)", "systemd.exec(5)"]);
    fs::write(of_verbs.join("palisade.1"), page(command, &end)?)?;

    let services = "palisade.services - a service, and the walls around it, as one TOML file";
    let page = of_file("palisade.services", services, SERVICE_FILES, SERVICE, SERVICE_EXAMPLE);
    fs::write(of_files.join("palisade.services.5"), page)?;
    let settings = "palisade.toml - what holds for a supervisor and all of its services";
    let page = of_file("palisade.toml", settings, SETTINGS_ABOUT, SETTINGS, SETTINGS_EXAMPLE);
    fs::write(of_files.join("palisade.toml.5"), page)
}

fn source() -> String {
    format!("palisade {}", env!("CARGO_PKG_VERSION"))
}

/// A page of section 1. clap_mangen has no name for what stands below the help of a verb.
fn page(command: clap::Command, end: &Roff) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let below = command.get_after_help().map(ToString::to_string);
    // The version is in the foot of the page.
    let command = command.version(None::<&str>).after_help(None::<&str>);
    Man::new(command).date(NO_DATE).source(source()).manual("Palisade").render(&mut page)?;
    if let Some(text) = below {
        let mut examples = Roff::new();
        examples.control("SH", ["EXAMPLES"]).control("nf", []);
        text.lines().filter(|line| *line != "Examples:").for_each(|line| {
            examples.text([roman(line)]);
        });
        examples.control("fi", []);
        page.extend(examples.render().into_bytes());
    }
    page.extend(end.render().into_bytes());
    Ok(page)
}

fn see_also(page: &mut Roff, others: &[&str]) {
    page.control("SH", ["SEE ALSO"]);
    for (index, other) in others.iter().enumerate() {
        let (name, section) = other.split_once('(').unwrap_or((other, ""));
        let comma = if index + 1 < others.len() { "," } else { "" };
        page.text([bold(name), roman(format!("({section}{comma}"))]);
    }
}

/// A page of section 5: every table of a kind of file, and every key of it.
fn of_file(name: &str, line: &str, about: &str, tables: &'static [Table], examples: &'static str) -> String {
    let mut page = Roff::new();
    page.control("TH", [name, "5", NO_DATE, &source(), "Palisade"]);
    page.control("SH", ["NAME"]).text([roman(line)]);
    page.control("SH", ["DESCRIPTION"]);
    for (index, paragraph) in about.split("\n\n").enumerate() {
        if index > 0 {
            page.control("PP", []);
        }
        page.text(marked(&paragraph.replace('\n', " ")));
    }
    for (path, table) in walk(tables) {
        page.control("SH", [table.title().replace('`', "").as_str()]);
        let description = table.description();
        if !description.is_empty() {
            page.text(marked(&description));
        }
        for key in table.keys {
            page.control("TP", []).text([bold(key.name), roman(format!(" ({})", key.type_name()))]);
            page.text(marked(key.meaning()));
            if let Some(default) = key.default() {
                page.text(marked(&format!("Default: {default}.")));
            }
            let Some(example) = example(examples, &format!("{path}.{}", key.name)) else { continue };
            if let Some(systemd) = example.systemd {
                page.text([roman("In systemd: "), italic(systemd), roman(".")]);
            }
            page.control("IP", []).text([roman("Example: "), bold(example.line)]);
        }
    }
    see_also(&mut page, &["palisade(1)", "palisade.services(5)", "palisade.toml(5)"]);
    page.to_roff()
}

/// What stands in backquotes is bold.
fn marked(text: &str) -> Vec<Inline> {
    let parts = text.trim().split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(index, part)| if index % 2 == 1 { bold(part) } else { roman(part) }).collect()
}
