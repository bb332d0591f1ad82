//! The exact text of what an operator reads about a bad file: one snapshot for each file and directory of `data/bad`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on ends here, functions beside the tests included"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use palisade::{
    config::{self, Around, Diagnostic, Sources},
    report,
    spec::{
        HostFacts, HostUser,
        limits::{Bounds, Rlimit},
    },
};

fn host() -> HostFacts {
    let www_data =
        HostUser { uid: 33, gid: 33, home: "/var/www".to_owned(), shell: "/usr/sbin/nologin".to_owned() };
    HostFacts {
        users: BTreeMap::from([("www-data".to_owned(), www_data)]),
        groups: BTreeMap::from([("www-data".to_owned(), (33, Vec::new()))]),
        hostname: "alpha".to_owned(),
        zone_exists: Some(|name| name == "Europe/Berlin"),
        ..HostFacts::default()
    }
}

/// Copies `data/bad/NAME` to where only its owner may write, whatever the umask of the checkout was.
fn copy(from: &Path, to: &Path) {
    let is_dir = from.is_dir();
    if is_dir {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
    fs::set_permissions(to, fs::Permissions::from_mode(if is_dir { 0o755 } else { 0o644 })).unwrap();
}

fn bad() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad")
}

/// The diagnostics with the place of the copy taken out of their paths, messages and hints.
fn shown(place: &Path, found: &[Diagnostic]) -> String {
    report::render(found, false).replace(&format!("{}/", place.display()), "")
}

fn file(name: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join(format!("{name}.toml"));
    copy(&bad().join(format!("{name}.toml")), &path);
    shown(place.path(), &config::load_file(&path, &Around::default(), &host()).unwrap_err())
}

fn directory(name: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("services.d");
    copy(&bad().join(name), &dir);
    services(place.path(), &dir)
}

/// A directory as /etc/palisade is, with what holds for all services beside `services.d`.
fn house(name: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("etc");
    copy(&bad().join(name), &dir);
    services(place.path(), &dir.join("services.d"))
}

fn services(place: &Path, dir: &Path) -> String {
    let sources = Sources::only(dir).around(&place.join("etc/palisade.toml"));
    let loaded = config::load_all(&sources, &host());
    let found: Vec<Diagnostic> = loaded.diagnostics().cloned().collect();
    let names: Vec<&str> = loaded.units.keys().map(|name| name.as_str()).collect();
    format!("{}\nloaded: {names:?}\n", shown(place, &found))
}

macro_rules! snapshots {
    ($read:ident: $($name:ident)*) => { $(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), $read(stringify!($name)));
        }
    )* };
}

snapshots! { file:
    three_mistakes unknown_key elsewhere unclosed later_key megabyte log log_rate duration user command specifier syntax no_command network rootfs seccomp
    oneshot timer user_off walls nested_off schedule hooks readiness
    credentials relations condition watch
    limits sockets rollout connections connection
    metrics health probes http ingress bandwidth link bridge bridge_mac bridge_in_vain attached attached_in_vain
}
snapshots! { house: ceiling profile }
snapshots! { directory: cycle cycle_mixed address_clash mac_clash port_clash socket_clash host_clash unknown_service drop_in joined_network }

#[test]
fn every_bad_file_has_its_snapshot() {
    for entry in fs::read_dir(bad()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".toml").unwrap_or(&name);
        let snapshot = format!("tests/snapshots/diagnostics__{name}.snap");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&snapshot).exists(), "{snapshot} is missing");
    }
}

/// A hybrid host: what is asked for is refused with what to do about it; what is a default bends.
#[test]
fn limits_that_the_host_does_not_have() {
    let remedy =
        "boot the host with `systemd.unified_cgroup_hierarchy=1`, so that it is not given to cgroup v1";
    let missing = ["cpu", "cpuset", "io", "memory", "pids"];
    let mut host = host();
    host.limits.missing = missing.iter().map(|name| ((*name).to_owned(), remedy.to_owned())).collect();
    host.limits.memory = 1 << 30;
    host.limits.rlimits.insert(Rlimit::Nofile, Bounds { soft: Some(1024), hard: Some(20_000) });
    let text = "service.command = ['/usr/bin/web']\n[limits]\nmemory = { max = '50%', low = '1M' }\n\
                cpu = { max = 1.5, pin = '0' }\nrlimits = { nofile = 30000 }\npids = { max = 100 }\n";
    let found = config::parse_str("web", text, &host).unwrap_err();
    insta::assert_snapshot!(report::render(&found, false));
    let unit = config::parse_str("web", &format!("{text}best_effort = true\n"), &host).unwrap();
    assert_eq!(unit.limits.knobs(), []);
    let nofile = unit.limits.rlimits[&Rlimit::Nofile];
    assert_eq!((nofile.soft, nofile.hard), (Some(20_000), Some(20_000)));
    assert_eq!(unit.limits.rlimits[&Rlimit::Nproc].hard, Some(100));
    insta::assert_debug_snapshot!("limits_that_bend", unit.limits.bent);
    assert!(config::parse_str("web", "service.command = ['/usr/bin/web']\n", &host).is_ok());
}

/// What a checkout cannot hold: permissions, links, names that are none.
#[test]
fn files_that_others_could_write() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("services.d");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("anybody", 0o646), ("group", 0o660), ("private", 0o600)] {
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, "[service]\ncommand = ['/usr/bin/web']\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("private.toml", dir.join("link.toml")).unwrap();
    symlink("/dev/null", dir.join("masked.toml")).unwrap();
    fs::create_dir(dir.join("directory.toml")).unwrap();
    fs::write(dir.join("two words.toml"), "").unwrap();
    insta::assert_snapshot!(services(place.path(), &dir));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    insta::assert_snapshot!("directory_that_others_could_write", services(place.path(), &dir));
}

#[test]
fn control_characters_never_reach_the_terminal() {
    // TOML itself lets the C1 controls through in strings and comments: U+009B is an escape sequence's beginning.
    let text = "[unit]\ndescription = 5 # \u{9b}31m \u{1b}[31m\nrequires = ['\u{9b}']\n[\"\\u001b[31m\"]\n";
    for text in [
        text,
        "[service]\nx = \"\\u001b[31m\"\n\"\\u001b[31m\" = 5\ntype = \"\\u001b[31m\"\ncommand = '\u{9b}'\n",
    ] {
        let found = config::parse_str("web", text, &host()).unwrap_err();
        let text = report::render(&found, false);
        let raw: Vec<char> = text.chars().filter(|c| c.is_control() && *c != '\n').collect();
        assert_eq!(raw, [], "{text}");
    }
}

#[test]
fn json_has_the_places_as_numbers() {
    let text = "[service]\ncommand = ['/usr/bin/web']\numask = '9'\n";
    let found = config::parse_str("web", text, &host()).unwrap_err();
    let expected = serde_json::json!([{
        "severity": "error", "file": "web.toml", "line": 3, "column": 9, "end_column": 12,
        "message": "\"9\" is not an octal mode", "hint": "write up to four digits 0 to 7, such as \"0755\"",
    }]);
    assert_eq!(report::to_json(&found), expected);
    let found = config::parse_str("web", "", &host()).unwrap_err();
    assert_eq!(report::to_json(&found)[0].get("line"), None);
}

#[test]
fn colour_is_there_only_when_asked_for() {
    let found = config::parse_str("web", "[service]\nx = 1\n", &host()).unwrap_err();
    assert!(report::render(&found, true).contains("\u{1b}["));
    assert!(!report::render(&found, false).contains("\u{1b}["));
}
