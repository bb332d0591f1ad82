//! `[unit]` condition and assert.

use std::ops::Range;

use toml::Spanned;

use super::{Reader, absolute, one_of};
use crate::{
    config::{
        schema::{
            Scalar, Text,
            condition::{ConditionTable, Wanted},
        },
        value::{self, Refusal},
    },
    spec::condition::{At, Check, Compare, Test},
};

/// As systemd-detect-virt(1) knows them, and the words for several of them.
const VIRTUALIZATIONS: &[&str] = &[
    "vm",
    "container",
    "kvm",
    "qemu",
    "amazon",
    "bochs",
    "xen",
    "uml",
    "vmware",
    "oracle",
    "microsoft",
    "zvm",
    "parallels",
    "bhyve",
    "qnx",
    "acrn",
    "powervm",
    "apple",
    "sre",
    "google",
    "vm-other",
    "systemd-nspawn",
    "lxc",
    "lxc-libvirt",
    "docker",
    "podman",
    "rkt",
    "wsl",
    "proot",
    "pouch",
    "openvz",
    "container-other",
];

/// As systemd.unit(5) and as uname(1) call them, with what the latter says.
const ARCHITECTURES: &[(&str, &str)] =
    &[("x86-64", "x86_64"), ("x86_64", "x86_64"), ("arm64", "aarch64"), ("aarch64", "aarch64")];

/// Reads one value, without the `!`.
type Read<'a> = &'a dyn Fn(&str) -> Result<Test, Refusal>;

pub(super) fn checks(reader: &mut Reader<'_>, table: &ConditionTable) -> Vec<Check> {
    let path = |at: At| move |text: &str| absolute(text).map(|path| Test::Path(at, path));
    let word = |make: fn(String) -> Test| move |text: &str| filled(text).map(make);
    let keys: [(&Option<Spanned<Wanted>>, Read<'_>); 16] = [
        (&table.path_exists, &path(At::Exists)),
        (&table.path_is_directory, &path(At::Directory)),
        (&table.path_is_symbolic_link, &path(At::Link)),
        (&table.path_is_mount_point, &path(At::MountPoint)),
        (&table.path_is_read_write, &path(At::ReadWrite)),
        (&table.directory_not_empty, &path(At::FullDirectory)),
        (&table.file_not_empty, &path(At::FullFile)),
        (&table.file_is_executable, &path(At::Executable)),
        (&table.virtualization, &virtualization),
        (&table.kernel, &kernel),
        (&table.kernel_command_line, &word(Test::KernelCommandLine)),
        (&table.host, &host),
        (&table.memory, &memory),
        (&table.cpus, &cpus),
        (&table.architecture, &architecture),
        (&table.environment, &word(Test::Environment)),
    ];
    let mut all = Vec::new();
    for (key, read) in keys {
        for (span, value) in key.iter().flat_map(values) {
            all.extend(check(reader, &Text::new(span, value.to_string()), read));
        }
    }
    all
}

fn values(wanted: &Spanned<Wanted>) -> Vec<(Range<usize>, &Scalar)> {
    match wanted.get_ref() {
        Wanted::One(value) => vec![(wanted.span(), value)],
        Wanted::All(all) => all.iter().map(|value| (value.span(), value.get_ref())).collect(),
    }
}

fn check(reader: &mut Reader<'_>, text: &Text, read: Read<'_>) -> Option<Check> {
    let whole = reader.line(text)?;
    let (negated, rest) = match whole.strip_prefix('!') {
        // A comparison.
        Some(rest) if !rest.starts_with('=') => (true, rest.trim_start()),
        _ => (false, whole.as_str()),
    };
    let test = match rest.strip_prefix('|') {
        Some(_) => Err(Refusal::new("`|`, one of several that is to hold, is not known here")
            .hint("all that is listed is to hold; for more, ask with a command in `service.condition`")),
        None => read(rest),
    };
    Some(Check { negated, test: reader.take(text.span(), test)? })
}

fn filled(text: &str) -> Result<String, Refusal> {
    match text.is_empty() {
        true => {
            Err(Refusal::new("there is nothing to look for").hint("write what it is, or take the key out"))
        }
        false => Ok(text.to_owned()),
    }
}

fn virtualization(text: &str) -> Result<Test, Refusal> {
    let mut words = vec![("yes", "yes"), ("no", "no"), ("true", "yes"), ("false", "no")];
    words.extend(VIRTUALIZATIONS.iter().map(|word| (*word, *word)));
    let unknown = |refusal: Refusal| match refusal.hint.as_deref() {
        Some(near) if near.starts_with("did you mean") => refusal,
        _ => refusal.hint("write true, false, \"vm\", \"container\", or what systemd-detect-virt(1) prints"),
    };
    let word = one_of("virtualization", text, &words).map_err(unknown)?;
    Ok(Test::Virtualization(word.to_owned()))
}

fn architecture(text: &str) -> Result<Test, Refusal> {
    one_of("architecture", text, ARCHITECTURES).map(|word| Test::Architecture(word.to_owned()))
}

fn pattern(text: &str) -> Result<String, Refusal> {
    let text = filled(text)?;
    let refusal = |error: glob::PatternError| {
        Refusal::new(format!("{text:?} is no pattern: {}", error.msg))
            .hint("`*`, `?` and `[a-z]` stand for others")
    };
    glob::Pattern::new(&text).map_err(refusal)?;
    Ok(text)
}

fn host(text: &str) -> Result<Test, Refusal> {
    pattern(text).map(Test::Host)
}

fn kernel(text: &str) -> Result<Test, Refusal> {
    match Compare::split(text) {
        (Some(_), version) if !version.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(Refusal::new(format!("{version:?} is not a version to compare with"))
                .hint("write one as `uname -r` shows it, such as \">=6.1\""))
        }
        (Some(compare), version) => Ok(Test::Kernel(compare, version.to_owned())),
        // As systemd spells it.
        (None, text) => pattern(text.strip_prefix("$=").unwrap_or(text).trim()).map(Test::KernelLike),
    }
}

fn memory(text: &str) -> Result<Test, Refusal> {
    let (compare, size) = Compare::split(text);
    let bytes = value::parse_size(&Scalar::Text(size.to_owned()), None)?;
    Ok(Test::Memory(compare.unwrap_or(Compare::AtLeast), bytes))
}

fn cpus(text: &str) -> Result<Test, Refusal> {
    let (compare, count) = Compare::split(text);
    let refusal =
        |_| Refusal::new(format!("{count:?} is not a number of CPUs")).hint("write such as 4, or \"<4\"");
    Ok(Test::Cpus(compare.unwrap_or(Compare::AtLeast), count.parse().map_err(refusal)?))
}
