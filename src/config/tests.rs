use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;

use super::*;

/// A directory that only its owner may write, whatever the umask.
fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(path: &Path, text: &str) {
    let parent = path.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn sources(dir: &Path) -> Sources {
    Sources { dirs: ["etc", "run", "lib"].map(|name| dir.join(name)).to_vec(), required: false }
}

fn names<T>(map: &BTreeMap<UnitName, T>) -> Vec<&str> {
    map.keys().map(UnitName::as_str).collect()
}

fn name(text: &str) -> UnitName {
    UnitName::new(text).unwrap()
}

const WEB: &str = "[service]\ncommand = ['/bin/web']\n";

#[test]
fn the_first_directory_with_a_name_wins() {
    let dir = place();
    write(&dir.path().join("etc/web.toml"), "[unit]\ndescription = 'etc'\n[service]\ncommand = '/bin/a'\n");
    write(&dir.path().join("lib/web.toml"), "[unit]\ndescription = 'lib'\n[service]\ncommand = '/bin/a'\n");
    write(&dir.path().join("run/db.toml"), "[unit]\ndescription = 'run'\n[service]\ncommand = '/bin/a'\n");
    write(&dir.path().join("lib/db.toml"), "this is not even read");
    write(&dir.path().join("lib/README"), "nor is this");
    write(&dir.path().join("lib/.web.toml.swp.toml"), "nor this");
    let loaded = load_all(&sources(dir.path()), &HostFacts::default());
    let found: Vec<String> = loaded.diagnostics().map(ToString::to_string).collect();
    assert_eq!(found, [""; 0]);
    assert_eq!(loaded.units[&name("web")].description, "etc");
    assert_eq!(loaded.units[&name("db")].description, "run");
    assert_eq!(loaded.files[&name("db")], dir.path().join("run/db.toml"));
}

#[test]
fn a_link_to_dev_null_masks() {
    let dir = place();
    write(&dir.path().join("lib/web.toml"), WEB);
    write(&dir.path().join("etc/db.toml"), WEB);
    std::os::unix::fs::symlink("/dev/null", dir.path().join("etc/web.toml")).unwrap();
    let loaded = load_all(&sources(dir.path()), &HostFacts::default());
    assert_eq!(names(&loaded.units), ["db"]);
    assert_eq!(loaded.masked, BTreeSet::from([name("web")]));
}

#[test]
fn drop_ins_of_all_directories_are_merged_by_base_name() {
    let dir = place();
    write(
        &dir.path().join("lib/web.toml"),
        "[service]\ncommand = '/bin/web'\nenv = { ORDER = '0', A = 'lib' }\n",
    );
    write(&dir.path().join("lib/web.toml.d/10.toml"), "[service.env]\nORDER = '10'\nB = 'lib'\n");
    write(&dir.path().join("etc/web.toml.d/20.toml"), "[service.env]\nORDER = '20'\n");
    write(&dir.path().join("run/web.toml.d/15.toml"), "[service.env]\nORDER = '15'\nC = 'run'\n");
    write(&dir.path().join("lib/web.toml.d/20.toml"), "[service.env]\nD = 'hidden by the one in etc'\n");
    write(&dir.path().join("lib/web.toml.d/30.toml"), "[service.env]\nD = 'masked'\n");
    std::os::unix::fs::symlink("/dev/null", dir.path().join("etc/web.toml.d/30.toml")).unwrap();
    let loaded = load_all(&sources(dir.path()), &HostFacts::default());
    let env = &loaded.units[&name("web")].service.env;
    let get = |name: &str| env.get(name).map(String::as_str);
    assert_eq!(
        (get("ORDER"), get("A"), get("B"), get("C"), get("D")),
        (Some("20"), Some("lib"), Some("lib"), Some("run"), None)
    );
}

#[test]
fn drop_ins_of_no_service_are_reported() {
    let dir = place();
    write(&dir.path().join("etc/web.toml.d/10.toml"), "");
    let loaded = load_all(&sources(dir.path()), &HostFacts::default());
    assert_eq!(loaded.other.len(), 1);
    assert!(loaded.other[0].message.contains("no file"));
}

#[test]
fn a_broken_file_never_stops_the_others() {
    let dir = place();
    write(&dir.path().join("web.toml"), WEB);
    write(&dir.path().join("broken.toml"), "[service\n");
    write(&dir.path().join("open.toml"), WEB);
    fs::set_permissions(dir.path().join("open.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    write(&dir.path().join("not a name.toml"), WEB);
    write(&dir.path().join("template@.toml"), WEB);
    let loaded = load_all(&Sources::only(dir.path()), &HostFacts::default());
    assert_eq!(names(&loaded.units), ["web"]);
    assert_eq!(names(&loaded.broken), ["broken", "open"]);
    assert_eq!(loaded.other.len(), 2);
}

#[test]
fn a_missing_directory_is_a_mistake_only_when_it_is_asked_for() {
    let dir = place();
    assert!(load_all(&sources(dir.path()), &HostFacts::default()).other.is_empty());
    assert_eq!(load_all(&Sources::only(dir.path().join("none")), &HostFacts::default()).other.len(), 1);
}

#[test]
fn one_file_is_loaded_with_the_drop_ins_beside_it() {
    let dir = place();
    let path = dir.path().join("web.toml");
    write(&path, WEB);
    write(&dir.path().join("web.toml.d/10.toml"), "[unit]\ndescription = 'dropped in'\n");
    assert_eq!(load_file(&path, &HostFacts::default()).unwrap().description, "dropped in");
    let message =
        |name: &str| load_file(&dir.path().join(name), &HostFacts::default()).unwrap_err()[0].message.clone();
    assert_eq!(message("none.toml"), "no such file");
    assert_eq!(message("web.conf"), "this is not the name of a service file");
}

#[test]
fn environment_files_are_read_and_missing_ones_are_told() {
    let dir = place();
    let shown = dir.path().display();
    write(&dir.path().join("env"), "A=file\nB=file\n");
    let text = |entry: &str| {
        format!(
            "[service]\ncommand = ['/bin/web', '${{B}}']\nenv = {{ A = 'env' }}\nenv_file = ['{entry}']\n"
        )
    };
    let path = dir.path().join("web.toml");
    write(&path, &text(&format!("{shown}/env")));
    let unit = load_file(&path, &HostFacts::default()).unwrap();
    assert_eq!((unit.service.env["A"].as_str(), unit.service.env["B"].as_str()), ("env", "file"));
    assert_eq!(unit.service.command, ["/bin/web", "file"]);
    write(&path, &text(&format!("-{shown}/none")));
    assert!(load_file(&path, &HostFacts::default()).is_ok());
    write(&path, &text(&format!("{shown}/none")));
    let found = load_file(&path, &HostFacts::default()).unwrap_err();
    assert_eq!(found[0].message, format!("there is no file {shown}/none"));
    fs::set_permissions(dir.path().join("env"), fs::Permissions::from_mode(0o646)).unwrap();
    write(&path, &text(&format!("-{shown}/env")));
    let found = load_file(&path, &HostFacts::default()).unwrap_err();
    assert!(found[0].message.ends_with("can be written by anybody"), "{}", found[0].message);
}

fn load_texts(texts: &[(&str, &str)]) -> Loaded {
    let dir = place();
    for (name, text) in texts {
        write(&dir.path().join(format!("{name}.toml")), &format!("{WEB}{text}"));
    }
    load_all(&Sources::only(dir.path()), &HostFacts::default())
}

fn messages(loaded: &Loaded, service: &str) -> Vec<String> {
    loaded.broken.get(&name(service)).into_iter().flatten().map(|found| found.message.clone()).collect()
}

#[test]
fn a_cycle_is_told_to_all_in_it_and_to_nobody_else() {
    let loaded = load_texts(&[
        ("a", "[unit]\nafter = ['b']\n"),
        ("b", "[unit]\nrequires = ['c']\n"),
        ("c", "[namespaces]\nipc = 'join:a'\n"),
        ("d", "[unit]\nrequires = ['a']\n"),
        ("e", "[unit]\nafter = ['e']\n"),
    ]);
    assert_eq!(messages(&loaded, "a"), ["dependency cycle: a -> b -> c -> a"]);
    assert_eq!(messages(&loaded, "c"), ["dependency cycle: c -> a -> b -> c"]);
    assert_eq!(messages(&loaded, "e"), ["dependency cycle: e -> e"]);
    assert_eq!(names(&loaded.units), ["d"]);
    let notes: Vec<&str> =
        loaded.broken[&name("a")][0].notes.iter().map(|note| note.message.as_str()).collect();
    assert_eq!(notes, ["b waits for c", "c waits for a"]);
}

#[test]
fn names_that_nobody_has_are_told() {
    let loaded = load_texts(&[
        (
            "web",
            "[unit]\nrequires = ['dd', 'broken']\nafter = { nobody = 'done' }\n[namespaces]\nuser = 'shared:nobody'\n",
        ),
        ("db", ""),
        ("broken", "[unit]\nx = 1\n"),
    ]);
    assert_eq!(
        messages(&loaded, "web"),
        ["there is no service \"dd\"", "there is no service \"nobody\"", "there is no service \"nobody\"",]
    );
    assert_eq!(loaded.broken[&name("web")][0].hint.as_deref(), Some("did you mean \"db\"?"));
}

#[test]
fn what_somebody_does_not_own_cannot_be_had_of_him() {
    let loaded = load_texts(&[
        ("db", ""),
        ("side", "[namespaces]\nipc = 'join:db'\nuser = 'shared:db'\n"),
        ("open", "user = 33\n[namespaces]\nuts = 'host'\nuser = 'off'\n"),
        ("a", "[namespaces]\nuts = 'join:open'\nipc = 'join:side'\nuser = 'shared:side'\n"),
        ("b", "[namespaces]\nuser = 'shared:open'\n"),
        ("c", "[namespaces]\nuser = 'shared:c'\n"),
    ]);
    assert_eq!(names(&loaded.units), ["db", "open", "side"]);
    let hints: Vec<_> =
        loaded.broken[&name("a")].iter().map(|found| (&*found.message, found.hint.as_deref())).collect();
    assert_eq!(
        hints,
        [
            (
                "open has no uts namespace of its own to join",
                Some("write \"host\", if the host's is what is meant")
            ),
            ("side has no ipc namespace of its own to join", Some("write \"join:db\", whose it is")),
            ("side has no id range of its own to share", Some("write \"shared:db\", whose it is")),
        ]
    );
    assert_eq!(messages(&loaded, "b"), ["open has no id range of its own to share"]);
    assert_eq!(messages(&loaded, "c"), ["c has no id range of its own to share"]);
}

#[test]
fn a_masked_service_can_be_followed_but_not_required() {
    let dir = place();
    std::os::unix::fs::symlink("/dev/null", dir.path().join("db.toml")).unwrap();
    write(&dir.path().join("after.toml"), &format!("{WEB}[unit]\nafter = ['db']\n"));
    write(&dir.path().join("requires.toml"), &format!("{WEB}[unit]\nrequires = ['db']\n"));
    let loaded = load_all(&Sources::only(dir.path()), &HostFacts::default());
    assert_eq!(names(&loaded.units), ["after"]);
    assert_eq!(messages(&loaded, "requires"), ["the service \"db\" is masked"]);
}

#[test]
fn what_there_is_one_of_goes_to_the_first() {
    let loaded = load_texts(&[
        ("a", "[network]\naddress = '10.83.0.7'\npublish = ['8080:80', '53:53/udp']\n"),
        ("b", "[network]\naddress = '10.83.0.7'\npublish = ['0.0.0.0:8080:80']\n"),
        ("c", "[network]\npublish = ['192.0.2.1:8080:80', '53:53']\n"),
    ]);
    assert_eq!(names(&loaded.units), ["a"]);
    assert_eq!(
        messages(&loaded, "b"),
        ["the address 10.83.0.7 is already that of a", "host port 8080/tcp is already published by a"]
    );
    // c clashes with b's 0.0.0.0 alone: a has another address, and its port 53 is of another protocol.
    assert_eq!(messages(&loaded, "c"), ["host port 8080/tcp is already published by b"]);
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "[-\\[\\]{}=.,'\"a-z0-9 \n\\\\%$+é\0]{0,120}") {
        let _ = parse_str("web", &text, &HostFacts::default());
    }

    #[test]
    fn no_value_makes_the_loader_panic(key in prop::sample::select(KEYS), value in "[ -~é]{0,24}", number: i64, real: f64) {
        let quoted = toml_string(&value);
        for value in [quoted.clone(), number.to_string(), format!("{real:?}"), "true".to_owned(), format!("[{quoted}]"),
            format!("{{ x = {quoted} }}"), format!("[[{number}]]")] {
            let (table, key) = key.rsplit_once('.').unwrap();
            let text = format!("{WEB}[{table}]\n{key} = {value}\n").replace("[service]\n[service]\n", "[service]\n");
            let text = if table == "service" { format!("{WEB}{key} = {value}\n") } else { text };
            match parse_str("web", &text, &HostFacts::default()) {
                Ok(_) => {}
                // Every mistake has its place: the value or the key that the text has.
                Err(found) => for diagnostic in found {
                    prop_assert!(diagnostic.at.place.is_some() || key == "command", "{text}\n{diagnostic}");
                }
            }
        }
    }
}

#[test]
fn a_hostile_text_is_refused_in_bounded_depth_and_time() {
    let deep = 1 << 19;
    for text in [
        format!("{}a = 1\n", "a.".repeat(deep)),
        format!("[{}a]\n", "a.".repeat(deep)),
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}", "{ a = ".repeat(deep / 4)),
        "[[rootfs.mounts]]\n".repeat(deep / 16),
        "[service.stop]\n".repeat(deep / 16),
        (0..deep / 16).map(|i| format!("k{i} = 1\n")).collect(),
        format!("[unit]\nrequires = [{}]", "'a b', ".repeat(deep / 8)),
    ] {
        assert!(parse_str("web", &text, &HostFacts::default()).is_err());
    }
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

const KEYS: &[&str] = &[
    "unit.description",
    "unit.documentation",
    "unit.enabled",
    "unit.requires",
    "unit.after",
    "service.type",
    "service.env",
    "service.env_file",
    "service.pass_env",
    "service.working_dir",
    "service.umask",
    "service.user",
    "service.group",
    "service.extra_groups",
    "service.stdin",
    "service.tty",
    "service.stop",
    "service.reload",
    "service.timeout",
    "service.success_exit",
    "service.remain_after_exit",
    "service.nice",
    "service.oom_score_adj",
    "service.stop.signal",
    "service.stop.command",
    "service.stop.timeout",
    "service.stop.mode",
    "service.reload.signal",
    "service.reload.command",
    "service.timeout.start",
    "service.timeout.run",
    "restart.policy",
    "restart.delay",
    "restart.factor",
    "restart.max_delay",
    "restart.jitter",
    "restart.reset_after",
    "restart.max",
    "restart.within",
    "restart.prevent_exit",
    "restart.force_exit",
    "restart.mode",
    "namespaces.pid",
    "namespaces.uts",
    "namespaces.ipc",
    "namespaces.cgroup",
    "namespaces.user",
    "namespaces.time",
    "namespaces.clock_offset",
    "namespaces.hostname",
    "namespaces.domainname",
    "namespaces.machine_id",
    "rootfs.base",
    "rootfs.dir",
    "rootfs.writable",
    "rootfs.mounts",
    "rootfs.tmpfs",
    "rootfs.hide",
    "rootfs.read_only",
    "rootfs.dev",
    "rootfs.proc",
    "rootfs.sys",
    "network.mode",
    "network.address",
    "network.mtu",
    "network.publish",
    "network.egress",
    "log.max_size",
    "log.files",
];
