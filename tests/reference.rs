//! docs/service-files.md and docs/system-calls.md are made from the source.
//!
//! The one from the doc comments of `config::schema`, so that a key is described in one place, the other from the groups
//! of `seccomp`. A test fails when its page is stale; with `PALISADE_WRITE_DOCS=1` it writes the page instead.

#![allow(missing_docs, reason = "a test program exports nothing")]

use std::{fmt::Write, fs, path::Path};

const HEAD: &str = "\
# Service files: the keys

One TOML file is one service; the file name without `.toml` is its name. A key that is not on this page is refused.
Files live in `/etc/palisade/services.d`, `/run/palisade/services.d` and `/usr/lib/palisade/services.d`; the first that has
a name wins, a link to `/dev/null` masks it, and `NAME.toml.d/*.toml` beside any of them are merged into it in the order of
their names: single values replace, tables are merged, lists are replaced, and `\"+key\"` appends to a list.

Durations are `\"500ms\"`, `\"5s\"`, `\"2min\"`, `\"1h30m\"`, `\"1d\"`, `\"infinity\"`; a bare number is seconds. Sizes are `\"64K\"`,
`\"512M\"`, `\"2G\"` in powers of 1024. In strings `%n` is the service's name, `%p` and `%i` the parts of an instance's, `%H` the
host's name, `%%` a percent sign. In commands `${NAME}` is a variable of the service's environment, `$NAME` as a word of its
own is split into words, `$$` is a dollar sign.

This page is made from the comments of the loader.
";

/// One table of the schema: its title, and (key, description) of each field.
struct Table {
    title: String,
    about: String,
    keys: Vec<(String, String)>,
}

fn tables(source: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut comment = String::new();
    let mut inside = false;
    for line in source.lines() {
        let text = line.trim();
        if let Some(doc) = text.strip_prefix("///") {
            let _ = write!(comment, "{}{}", if comment.is_empty() { "" } else { " " }, doc.trim());
        } else if let Some(name) = text.strip_prefix("pub struct ").and_then(|rest| rest.split(' ').next()) {
            inside = name.ends_with("Table") && text.ends_with('{');
            if inside {
                let (title, about) = comment.split_once("; ").unwrap_or((&comment, ""));
                let (title, about) = (title.trim_end_matches('.').to_owned(), about.to_owned());
                tables.push(Table { title, about, keys: Vec::new() });
            }
            comment.clear();
        } else if text == "}" {
            inside = false;
        } else if let Some((key, _)) = text.strip_prefix("pub ").and_then(|field| field.split_once(": ")) {
            if inside {
                let key = key.trim_start_matches("r#").to_owned();
                tables.last_mut().expect("a field follows its struct").keys.push((key, comment.clone()));
            }
            comment.clear();
        } else if !text.starts_with("#[") {
            comment.clear();
        }
    }
    tables
}

fn page(tables: &[Table]) -> String {
    let mut page = HEAD.to_owned();
    for table in tables {
        let _ = write!(page, "\n## {}\n", table.title);
        if !table.about.is_empty() {
            let _ = write!(page, "{}\n\n", capital(&table.about));
        }
        page.push_str("| key | meaning | default |\n|---|---|---|\n");
        for (key, description) in &table.keys {
            let (meaning, default) = match description.rsplit_once(" Default: ") {
                Some((meaning, default)) => (meaning, default.trim_end_matches('.')),
                None => (description.as_str(), ""),
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(page, "| `{key}` | {} | {} |", cell(meaning), cell(default));
        }
    }
    page
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase()).unwrap_or_default();
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// All tables in their order: those that stand in files of their own follow the one that they belong to.
fn schema(root: &Path) -> Vec<Table> {
    let read =
        |path: &str| tables(&fs::read_to_string(root.join("src/config").join(path)).expect("our own source"));
    let mut all = read("schema.rs");
    let unit = all.iter().position(|table| table.title == "`[unit]`").expect("the first table");
    all.splice(unit + 1..unit + 1, read("schema/condition.rs"));
    all
}

#[test]
fn the_reference_says_what_the_loader_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = page(&schema(root));
    let path = root.join("docs/service-files.md");
    if std::env::var_os("PALISADE_WRITE_DOCS").is_some() {
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), page, "stale: run this test with PALISADE_WRITE_DOCS=1");
}

/// The table of docs/policy.md is made from that of `spec::exposure`, between two lines that say so.
#[test]
fn the_page_about_policies_has_the_table_of_exposures() {
    const BEGIN: &str = "<!-- made from the table of exposures -->\n";
    const END: &str = "<!-- end -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has the mark");
    let (_, tail) = rest.split_once(END).expect("the page has the other mark");
    let mut table = "| key | costs up to | closed | open |\n|---|---|---|---|\n".to_owned();
    for row in palisade::spec::exposure::TABLE {
        let (points, tenths) = (row.most / 10, row.most % 10);
        let _ = writeln!(table, "| `{}` | {points}.{tenths} | {} | {} |", row.name, row.closed, row.opens);
    }
    table.push_str("\n| measured | a ceiling is |\n|---|---|\n");
    for measure in palisade::spec::exposure::MEASURES {
        let kind = match measure.kind {
            palisade::spec::exposure::Kind::Size => "a size",
            palisade::spec::exposure::Kind::Number => "a number",
        };
        let _ = writeln!(table, "| `{}` | {kind} |", measure.name);
    }
    let wanted = format!("{head}{BEGIN}{table}{END}{tail}");
    if std::env::var_os("PALISADE_WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), wanted, "stale: run this test with PALISADE_WRITE_DOCS=1");
}

#[test]
fn every_key_is_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tables = schema(root);
    assert!(tables.len() >= 11, "the schema is not read: {} tables", tables.len());
    for table in &tables {
        assert!(!table.keys.is_empty(), "{}", table.title);
        for (key, description) in &table.keys {
            assert!(description.ends_with('.'), "{} {key}: {description:?}", table.title);
        }
    }
}

const CALLS_HEAD: &str = "\
# System calls

Every process of a sandbox, the service and whatever is executed in it later, is behind a filter of system calls
(seccomp(2)). `palisade plan` shows it as the step `seccomp`. Without a key in the file it lets through `@service`, some
300 calls that servers make; what `security.seccomp` allows, and how the restrictions beside it narrow that down:

    [security]
    seccomp = [\"@service\", \"kcmp\", \"~@chown\"]          # the default, one more, a group less
    seccomp = [\"~@chown\"]                               # a list that begins with a removal begins with the default
    seccomp = [\"@basic-io\", \"@file-system\"]           # nothing but these, and what every program needs (@default)
    seccomp = { kill = [\"@reboot\"], log = [\"@mount\"] }  # SIGSYS for some; some others let through and logged
    seccomp = { action = \"log\" }                        # let everything through and log what would have been denied

A call fails with EPERM where it is not allowed. It fails with ENOSYS where the library that makes it falls back to
another: `clone3` and `openat2`, whose arguments a filter cannot see, and every call that is newer than this version. A
socket of another family fails with EAFNOSUPPORT. A call of another architecture, or of x32, ends the process with SIGSYS.
Whatever a list says, execve, exit, exit_group, rt_sigreturn and write remain: a start needs them.

What is denied is in the kernel's log, once for every call, but for what fails with ENOSYS: `dmesg`, `journalctl -k` or, where
auditd runs, `ausearch -m SECCOMP`. The line has `type=1326`, the pid, the program, and the number of the call as
`syscall=`; `ausyscall` knows the names. The kernel logs what `/proc/sys/kernel/seccomp/actions_logged` names; `errno` is
among them unless somebody took it out.

The restrictions `no_namespaces`, `no_realtime`, `no_suid`, `lock_personality`, `no_wx` and `network.address_families` hold
for calls that a list allows, too: each is lifted by its own key alone. No filter sees what io_uring does; a file that
allows `@aio` as a whole lifts them all. `no_wx` is against accidents and simple exploits: what may write to
/proc/self/mem may write to code. Requests that put input into a terminal (TIOCSTI, TIOCLINUX) or load a line discipline
(TIOCSETD) are always denied.

With `native_abi_only = false` an i386 program has the same lists and restrictions. Its calls `socketcall` and `ipc`, and its
old `mmap`, have their arguments in memory: the first is denied unless `address_families = \"any\"`, the others under `no_wx`.

This page is made from the groups in the source.

## Groups
A name that an architecture does not have stands for nothing there. `@known` is every call of this page.

";

fn calls_page() -> String {
    use palisade::seccomp::{FAMILIES, groups};
    let list = |calls: std::collections::BTreeSet<&str>| calls.into_iter().collect::<Vec<_>>().join(" ");
    let mut page = CALLS_HEAD.to_owned();
    page.push_str("| group | what for | calls |\n|---|---|---|\n");
    for group in groups::GROUPS {
        let _ = writeln!(page, "| `{}` | {} | {} |", group.name, group.about, list(group.calls()));
    }
    let _ = writeln!(page, "\nIn no group: {}.", list(groups::expand(groups::UNGROUPED)));
    page.push_str(
        "\n## Capabilities\nWith a capability that the file grants comes, in `@service`, what it is for:\n\n",
    );
    page.push_str("| capability | calls |\n|---|---|\n");
    for (capability, words) in groups::CAPABILITIES {
        let _ = writeln!(page, "| `{capability}` | {} |", list(groups::expand(words)));
    }
    page.push_str("| `CAP_NET_ADMIN` | sockets of the family `netlink`, with any protocol |\n");
    page.push_str("| `CAP_NET_RAW` | sockets of the family `packet` |\n");
    let names: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(page, "\n## Address families\n{}.", names.join(" "));
    page
}

#[test]
fn the_page_of_system_calls_says_what_the_filter_knows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/system-calls.md");
    let page = calls_page();
    if std::env::var_os("PALISADE_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), page, "stale: run this test with PALISADE_WRITE_DOCS=1");
}
