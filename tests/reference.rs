//! docs/service-files.md and docs/system-calls.md are made from the source, as the manual pages and the JSON Schema are.
//!
//! The one from the table of keys (`config::reference`), so that a key is described in one place, the other from the groups
//! of `seccomp`. A test fails when its page is stale; with `PALISADE_WRITE_DOCS=1` it writes the page instead.

#![allow(missing_docs, reason = "a test program exports nothing")]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on ends here, functions beside the tests included"
)]

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use palisade::{
    config::{
        self, Settings,
        policy::Policy,
        reference::{
            SERVICE, SERVICE_EXAMPLE, SERVICE_FILES, SETTINGS, SETTINGS_EXAMPLE, Table, example, walk,
        },
    },
    spec::{HostFacts, HostUser},
};

fn page() -> String {
    let mut page = format!(
        "# Service files: the keys\n\n{SERVICE_FILES}\nThis page is made from the comments of the loader; \
         palisade.services(5) has the same with an example of every key.\n"
    );
    for (path, table) in walk(SERVICE) {
        let _ = write!(page, "\n## {}\n", table.title());
        let about = table.description();
        if !about.is_empty() {
            let _ = write!(page, "{about}\n\n");
        }
        page.push_str("| key | meaning | default | in systemd |\n|---|---|---|---|\n");
        for key in table.keys {
            let cell = |text: &str| text.replace('|', "\\|");
            let example = example(SERVICE_EXAMPLE, &format!("{path}.{}", key.name));
            let (meaning, default) = (cell(key.meaning()), cell(key.default().unwrap_or_default()));
            let systemd = cell(example.and_then(|example| example.systemd).unwrap_or_default());
            let _ = writeln!(page, "| `{}` | {meaning} | {default} | {systemd} |", key.name);
        }
    }
    page
}

#[test]
fn the_reference_says_what_the_loader_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = page();
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
    made("docs/policy.md", "<!-- made from the table of exposures -->\n", &table);
}

/// What stands between two lines of a page is made of something: the page as it has to be, written where that is asked for.
fn made(page: &str, begin: &str, table: &str) -> String {
    const END: &str = "<!-- end -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(begin).expect("the page has the mark");
    let (_, tail) = rest.split_once(END).expect("the page has the other mark");
    let wanted = format!("{head}{begin}{table}{END}{tail}");
    if std::env::var_os("PALISADE_WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), wanted, "stale: run this test with PALISADE_WRITE_DOCS=1");
    format!("{head}{tail}")
}

#[test]
fn the_page_about_events_has_all_kinds() {
    let mut table = "| kind | what has happened |\n|---|---|\n".to_owned();
    for (kind, about) in palisade::control::types::EVENT_KINDS {
        let _ = writeln!(table, "| `{kind}` | {about} |");
    }
    made("docs/events.md", "<!-- made from the list of kinds -->\n", &table);
}

/// The table of docs/metrics.md is made from that of `metrics`, and names nothing else.
#[test]
fn the_page_about_metrics_has_the_table_of_metrics() {
    use palisade::metrics::Metric;
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in Metric::ALL {
        let (name, kind) = (metric.name(), metric.kind().as_str());
        let _ =
            writeln!(table, "| `{name}` | {kind} | {} | {} |", metric.labels().join(", "), metric.about());
    }
    let rest = made("docs/metrics.md", "<!-- made from the table of metrics -->\n", &table);
    assert_eq!(unknown_metrics(&rest), Vec::<String>::new());
}

/// The names in a text that look like metrics and are none that are exported.
fn unknown_metrics(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    // `palisade_` alone is what all begin with.
    let looks = words.filter(|word| word.len() > "palisade_".len() && word.starts_with("palisade_"));
    let is_known = |word: &&str| palisade::metrics::Metric::ALL.iter().any(|metric| metric.name() == *word);
    looks.filter(|word| !is_known(word)).map(str::to_owned).collect()
}

#[test]
fn every_key_is_described() {
    for (tables, text) in [(SERVICE, SERVICE_EXAMPLE), (SETTINGS, SETTINGS_EXAMPLE)] {
        let all: Vec<(String, &Table)> = walk(tables);
        assert!(all.len() >= 4, "the loader's structures are not read: {} tables", all.len());
        for (path, table) in all {
            assert!(!table.keys.is_empty(), "{path}");
            for key in table.keys {
                assert!(key.about.ends_with('.'), "{path}.{}: {:?}", key.name, key.about);
                let found = example(text, &format!("{path}.{}", key.name));
                assert!(found.is_some(), "{path}.{}: no example in src/config/reference", key.name);
            }
        }
    }
}

/// The pages that packages have, read by the two programs that show them.
#[test]
#[ignore = "needs man-db and mandoc"]
fn manual_pages_are_read_without_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let palisade = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_palisade")).args(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    palisade(&["man", dir.path().to_str().unwrap()]);
    let mut pages = Vec::new();
    for section in ["man1", "man5"] {
        let entries = fs::read_dir(dir.path().join(section)).unwrap();
        pages.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let names: Vec<&str> = pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["palisade.1", "palisade-run.1", "palisade.services.5", "palisade.toml.5"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for page in &pages {
        let man = ["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"];
        let shown = Command::new("man").args(man).arg(page).output().expect("man-db is installed");
        assert!(shown.status.success() && shown.stderr.is_empty(), "{page:?}: {shown:?}");
        let lint = Command::new("mandoc")
            .args(["-Tlint", "-Werror"])
            .arg(page)
            .output()
            .expect("mandoc is installed");
        assert!(lint.status.success(), "{page:?}: {}", String::from_utf8_lossy(&lint.stdout));
    }
    let text = fs::read_to_string(dir.path().join("man5/palisade.services.5")).unwrap();
    let keys = walk(SERVICE).iter().map(|(_, table)| table.keys.len()).sum::<usize>();
    assert_eq!(text.matches("\nExample: ").count(), keys, "an example of every key");
    for shell in ["bash", "zsh", "fish"] {
        assert!(palisade(&["completions", shell]).contains("daemon-reload"), "{shell}");
    }
}

/// Prints which of the files named on standard input the schema in the file named as argument does not accept.
const VALIDATOR: &str = r#"
import json, sys, tomllib
from jsonschema import Draft7Validator
with open(sys.argv[1]) as file:
    schema = json.load(file)
Draft7Validator.check_schema(schema)
for path in sys.stdin.read().splitlines():
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except tomllib.TOMLDecodeError:
        print(path)
        continue
    if not Draft7Validator(schema).is_valid(document):
        print(path)
"#;

/// The files and directories of `data/bad` with which a schema of names and types finds no fault, by what they are wrong in.
const NOT_TOLD: &[(&str, &[&str])] = &[
    (
        "what a text or a number means",
        &[
            "bandwidth",
            "bridge",
            "command",
            "duration",
            "health",
            "http",
            "link",
            "log",
            "log_rate",
            "megabyte",
            "metrics",
            "network",
            "relations",
            "schedule",
            "specifier",
        ],
    ),
    (
        "keys that do not go together",
        &[
            "attached",
            "attached_in_vain",
            "bridge_in_vain",
            "bridge_mac",
            "connection",
            "connections",
            "ingress",
            "nested_off",
            "oneshot",
            "readiness",
            "rollout",
            "user_off",
            "walls",
        ],
    ),
    (
        "what other files say",
        &[
            "address_clash",
            "ceiling",
            "cycle",
            "cycle_mixed",
            "host_clash",
            "joined_network",
            "mac_clash",
            "port_clash",
            "socket_clash",
            "unknown_service",
        ],
    ),
    ("what the host has", &["user"]),
];

/// All files below `dir` that are of this kind.
fn files_of(dir: &Path, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files_of(&path, kind));
            continue;
        }
        let text = path.to_str().unwrap();
        let is = match path.file_name().unwrap().to_str().unwrap() {
            "palisade.toml" => "settings",
            // `palisade check` has more to say about it than a schema could.
            "policy.toml" => "policy",
            _ if text.contains(".toml.d/") || text.contains("profiles.d/") || text.contains("/profiles/") => {
                "drop-in"
            }
            name if name.ends_with(".toml") => "service",
            _ => "other",
        };
        if is == kind {
            found.push(text.to_owned());
        }
    }
    found
}

/// Which of the files below `dirs` the schemas refuse.
fn refused(dirs: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for kind in ["service", "drop-in", "settings"] {
        let schema = Command::new(env!("CARGO_BIN_EXE_palisade")).args(["schema", kind]).output().unwrap();
        assert!(schema.status.success(), "{schema:?}");
        fs::write(place.path().join(kind), schema.stdout).unwrap();
        let files: Vec<String> = dirs.iter().flat_map(|dir| files_of(&root.join(dir), kind)).collect();
        let mut python = Command::new("python3");
        python
            .args(["-c", VALIDATOR])
            .arg(place.path().join(kind))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut python = python.spawn().expect("python3 is installed");
        python.stdin.take().unwrap().write_all(files.join("\n").as_bytes()).unwrap();
        let out = python.wait_with_output().unwrap();
        assert!(out.status.success(), "python3-jsonschema is installed");
        all.extend(String::from_utf8(out.stdout).unwrap().lines().map(ToOwned::to_owned));
    }
    all
}

#[test]
#[ignore = "needs python3-jsonschema"]
fn the_schema_accepts_what_is_good_and_refuses_what_it_can_tell() {
    let good = refused(&["examples", "services.d", "tests/data/plans", "src/config"]);
    assert!(good.is_empty(), "{good:?}");

    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad");
    let told: BTreeSet<String> = refused(&["tests/data/bad"])
        .iter()
        .map(|file| {
            let first = Path::new(file).strip_prefix(&bad).unwrap().components().next().unwrap();
            first.as_os_str().to_str().unwrap().trim_end_matches(".toml").to_owned()
        })
        .collect();
    let all = fs::read_dir(&bad)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().trim_end_matches(".toml").to_owned());
    let not_told: BTreeSet<String> = all.filter(|name| !told.contains(name)).collect();
    let known = NOT_TOLD.iter().flat_map(|(_, names)| names.iter().map(|name| (*name).to_owned())).collect();
    assert_eq!(not_told, known, "what the schema does not tell, and what is known of that");
}

/// The blocks of TOML in the pages, one by one: each is a service file, or a part of one, or of palisade.toml or
/// policy.toml.
#[test]
fn what_pages_show_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut blocks = 0;
    for page in
        pages.chain([root.join("README.md")]).filter(|page| page.extension().is_some_and(|e| e == "md"))
    {
        for block in fs::read_to_string(&page).unwrap().split("```toml\n").skip(1) {
            blocks += 1;
            let text = block.split("```").next().unwrap();
            let user = HostUser { uid: 33, gid: 33, home: "/".to_owned(), shell: "/bin/false".to_owned() };
            let host = HostFacts {
                users: ["www-data", "alice"].map(|name| (name.to_owned(), user.clone())).into(),
                groups: [("ops".to_owned(), (34, Vec::new()))].into(),
                zone_exists: Some(|_| true),
                ..HostFacts::default()
            };
            // What it runs is not what every part is about.
            let texts = ["service.command = '/usr/bin/true'\n", text];
            let of_service = config::parse_texts("shop", &texts, &host).err();
            let of_settings = Settings::parse(Path::new("palisade.toml"), text).err();
            let of_policy = Policy::parse(Path::new("policy.toml"), text, &host).err();
            if let (Some(found), Some(_), Some(_)) = (of_service, of_settings, of_policy) {
                panic!("{}:\n{text}\n{found:#?}", page.display());
            }
        }
    }
    assert!(blocks > 10, "{blocks}");
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
    let list = |calls: &std::collections::BTreeSet<&str>| calls.iter().copied().collect::<Vec<_>>().join(" ");
    let mut page = CALLS_HEAD.to_owned();
    page.push_str("| group | what for | calls |\n|---|---|---|\n");
    for group in groups::GROUPS {
        let _ = writeln!(page, "| `{}` | {} | {} |", group.name, group.about, list(group.calls()));
    }
    let _ = writeln!(page, "\nIn no group: {}.", list(&groups::expand(groups::UNGROUPED)));
    page.push_str(
        "\n## Capabilities\nWith a capability that the file grants comes, in `@service`, what it is for:\n\n",
    );
    page.push_str("| capability | calls |\n|---|---|\n");
    for (capability, words) in groups::CAPABILITIES {
        let _ = writeln!(page, "| `{capability}` | {} |", list(&groups::expand(words)));
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
