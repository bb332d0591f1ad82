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
    Sources {
        dirs: ["etc", "run", "lib"].map(|name| dir.join(name)).to_vec(),
        required: false,
        around: Around::default(),
    }
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
    write(&dir.path().join("a b@.toml"), WEB);
    let loaded = load_all(&Sources::only(dir.path()), &HostFacts::default());
    assert_eq!(names(&loaded.units), ["web"]);
    assert_eq!(names(&loaded.broken), ["broken", "open"]);
    assert_eq!(loaded.other.len(), 2);
}

#[test]
fn a_template_has_the_instances_that_files_name() {
    let dir = place();
    let at = |path: &str| dir.path().join(path);
    let text = format!("unit.instances = 2\nunit.description = '%n is %i of %p'\n{WEB}");
    write(&at("web@.toml"), &text);
    write(&at("web@.toml.d/more.toml"), "[service]\nenv = { PORT = '80%i', FROM = 'template' }\n");
    write(&at("web@2.toml.d/other.toml"), "[service]\nenv = { FROM = 'instance' }\n");
    write(&at("web@own.toml"), &format!("unit.description = 'by itself'\n{WEB}"));
    write(&at("app.toml"), &format!("unit.wants = ['web@green']\n{WEB}"));
    write(&at("job@.toml"), WEB);
    let all = BTreeSet::from(["job@x", "nobody@x"].map(|name| UnitName::new(name).unwrap()));
    let loaded = load_with(&Sources::only(dir.path()), &HostFacts::default(), &all);
    assert_eq!(loaded.diagnostics().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(names(&loaded.units), ["app", "job@x", "web@1", "web@2", "web@green", "web@own"]);
    let unit = |name: &str| &loaded.units[&UnitName::new(name).unwrap()];
    assert_eq!(unit("web@1").description, "web@1 is 1 of web");
    assert_eq!(unit("web@own").description, "by itself");
    let env =
        |name: &str| [&unit(name).service.env["PORT"], &unit(name).service.env["FROM"]].map(String::as_str);
    assert_eq!(
        [env("web@1"), env("web@2"), env("web@own")],
        [["801", "template"], ["802", "instance"], ["80own", "template"]]
    );
    let enabled = loaded.units.values().filter(|unit| unit.enabled).map(|unit| unit.name.as_str());
    assert_eq!(enabled.collect::<Vec<_>>(), ["app", "web@1", "web@2", "web@own"]);
    assert_eq!(names(&load_all(&Sources::only(dir.path()), &HostFacts::default()).units).len(), 5);
    assert_eq!(loaded.templates, BTreeSet::from(["job".to_owned(), "web".to_owned()]));
}

#[test]
fn instances_are_named_well_and_by_templates_alone() {
    let dir = place();
    write(&dir.path().join("web@.toml"), &format!("unit.instances = ['a', 'b c']\n{WEB}"));
    write(&dir.path().join("many@.toml"), &format!("unit.instances = 1001\n{WEB}"));
    write(&dir.path().join("app.toml"), &format!("unit.instances = 2\n{WEB}"));
    let loaded = load_all(&Sources::only(dir.path()), &HostFacts::default());
    assert_eq!(names(&loaded.units), ["web@a"]);
    let said: Vec<&str> = loaded.diagnostics().map(|found| found.message.as_str()).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    for part in [
        "1001 is no number of instances",
        "\"web@b c\" is not a service name",
        "`instances` is for templates",
    ] {
        assert!(said.iter().any(|said| said.contains(part)), "{said:?}");
    }
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
    assert_eq!(
        load_file(&path, &Around::default(), &HostFacts::default()).unwrap().description,
        "dropped in"
    );
    let message = |name: &str| {
        load_file(&dir.path().join(name), &Around::default(), &HostFacts::default()).unwrap_err()[0]
            .message
            .clone()
    };
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
    let unit = load_file(&path, &Around::default(), &HostFacts::default()).unwrap();
    assert_eq!((unit.service.env["A"].as_str(), unit.service.env["B"].as_str()), ("env", "file"));
    assert_eq!(unit.service.command, ["/bin/web", "file"]);
    write(&path, &text(&format!("-{shown}/none")));
    assert!(load_file(&path, &Around::default(), &HostFacts::default()).is_ok());
    write(&path, &text(&format!("{shown}/none")));
    let found = load_file(&path, &Around::default(), &HostFacts::default()).unwrap_err();
    assert_eq!(found[0].message, format!("there is no file {shown}/none"));
    fs::set_permissions(dir.path().join("env"), fs::Permissions::from_mode(0o646)).unwrap();
    write(&path, &text(&format!("-{shown}/env")));
    let found = load_file(&path, &Around::default(), &HostFacts::default()).unwrap_err();
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

/// A directory as /etc/palisade is: `services.d`, `profiles.d`, `palisade.toml`, `policy.toml`.
fn house(texts: &[(&str, &str)]) -> (tempfile::TempDir, Loaded) {
    let dir = place();
    fs::create_dir(dir.path().join("services.d")).unwrap();
    for (name, text) in texts {
        write(&dir.path().join(name), text);
    }
    let loaded = load_house(dir.path());
    (dir, loaded)
}

fn load_house(dir: &Path) -> Loaded {
    let sources = Sources::only(dir.join("services.d")).around(&dir.join("palisade.toml"));
    let limits = spec::limits::HostLimits { memory: 8 << 30, ..Default::default() };
    load_all(&sources, &HostFacts { limits, ..HostFacts::default() })
}

fn shown(dir: &tempfile::TempDir, loaded: &Loaded) -> Vec<String> {
    let strip = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    loaded.diagnostics().map(|found| strip(found.to_string())).collect()
}

#[test]
fn a_file_wins_over_its_profile_and_that_over_the_defaults() {
    let (dir, loaded) = house(&[
        (
            "palisade.toml",
            "[defaults.restart]\ndelay = '1s'\nmax_delay = '2s'\njitter = '1%'\n[ids]\ncount = 3\n",
        ),
        (
            "profiles.d/shop.toml",
            "[restart]\nmax_delay = '3s'\njitter = '3%'\n[network]\npublish = ['1:1']\n",
        ),
        (
            "services.d/web.toml",
            "[service]\ncommand = '/bin/a'\n[unit]\nprofile = 'shop'\n[restart]\njitter = '4%'\n\
          [network]\n'+publish' = ['2:2']\n",
        ),
        ("services.d/web.toml.d/10.toml", "[network]\n'+publish' = ['3:3']\n"),
        ("services.d/bare.toml", WEB),
    ]);
    assert_eq!(shown(&dir, &loaded), [""; 0]);
    let web = &loaded.units[&name("web")];
    assert_eq!(web.restart.delay.as_secs(), 1);
    assert_eq!(web.restart.max_delay.as_secs(), 3);
    assert!((web.restart.jitter - 0.04).abs() < 1e-9);
    assert_eq!(web.network.publish.iter().map(|publish| publish.port).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(web.profile.as_deref(), Some("shop"));
    let bare = &loaded.units[&name("bare")];
    assert_eq!((bare.restart.max_delay.as_secs(), bare.network.publish.len()), (2, 0));
}

#[test]
fn the_defaults_may_name_a_profile_and_a_file_names_another() {
    let (_dir, loaded) = house(&[
        ("palisade.toml", "[defaults.unit]\nprofile = 'untrusted'\n"),
        ("services.d/a.toml", WEB),
        ("services.d/b.toml", &format!("unit.profile = 'default'\n{WEB}")),
    ]);
    assert_eq!(loaded.units[&name("a")].network.mode, spec::NetworkMode::None);
    assert_eq!(loaded.units[&name("b")].network.mode, spec::NetworkMode::Veth);
}

#[test]
fn every_built_in_profile_makes_a_service_of_a_command() {
    for (profile, _) in PROFILES {
        let text = format!("unit.profile = '{profile}'\n{WEB}");
        let unit = parse_str("web", &text, &HostFacts::default());
        assert!(unit.is_ok(), "{profile}: {unit:?}");
    }
}

#[test]
fn a_mistake_in_a_profile_points_into_its_own_file_and_is_told_once() {
    let web = "unit.profile = 'shop'\nservice.command = '/bin/a'\n";
    let (dir, loaded) = house(&[
        (
            "profiles.d/shop.toml",
            "[restart]\ndelay = 'soon'\nfactr = 2\n[service]\ncommand = '/bin/b'\n[unit]\nprofile = 'web'\n",
        ),
        ("profiles.d/unused.toml", "[network]\nmod = 'none'\n"),
        ("services.d/a.toml", web),
        ("services.d/b.toml", web),
        ("services.d/c.toml", "unit.profile = 'weeb'\nservice.command = '/bin/a'\n"),
        ("services.d/d.toml", "unit.profile = '../shop'\nservice.command = '/bin/a'\n"),
    ]);
    assert_eq!(
        shown(&dir, &loaded),
        [
            "profiles.d/shop.toml:5:1: `service.command` has no place in a profile",
            "profiles.d/shop.toml:7:1: `unit.profile` has no place in a profile",
            "profiles.d/shop.toml:3:1: unknown key `factr` in `restart`",
            "profiles.d/unused.toml:2:1: unknown key `mod` in `network`",
            "profiles.d/shop.toml:2:9: \"soon\" is not a duration",
            "services.d/c.toml:1:16: there is no profile \"weeb\"",
            "services.d/d.toml:1:16: there is no profile \"../shop\"",
        ]
    );
    assert_eq!(names(&loaded.broken), ["a", "b", "c", "d"]);
    assert_eq!(loaded.broken[&name("c")][0].hint.as_deref(), Some("did you mean \"web\"?"));
}

#[test]
fn what_others_could_write_is_no_profile_no_policy_and_no_default() {
    for (file, text) in [
        ("profiles.d/shop.toml", "[restart]\ndelay = '1s'\n"),
        ("policy.toml", "[ceiling]\n"),
        ("palisade.toml", "[defaults]\n"),
    ] {
        let web = "unit.profile = 'shop'\nservice.command = '/bin/a'\n";
        let (dir, loaded) =
            house(&[("profiles.d/shop.toml", ""), (file, text), ("services.d/web.toml", web)]);
        assert_eq!(names(&loaded.units), ["web"]);
        fs::set_permissions(dir.path().join(file), fs::Permissions::from_mode(0o646)).unwrap();
        let loaded = load_house(dir.path());
        assert_eq!(names(&loaded.broken), ["web"], "{file}");
        let first = &loaded.diagnostics().next().unwrap().message;
        assert!(first.ends_with("can be written by anybody"), "{first}");
        assert_eq!(loaded.policy.is_some(), file.starts_with("profiles"), "{file}");
    }
}

#[test]
fn a_profile_is_masked_by_a_link_to_dev_null() {
    let (dir, loaded) = house(&[("services.d/a.toml", "unit.profile = 'web'\nservice.command = '/bin/a'\n")]);
    assert_eq!(names(&loaded.units), ["a"]);
    fs::create_dir(dir.path().join("profiles.d")).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.path().join("profiles.d/web.toml")).unwrap();
    assert_eq!(messages(&load_house(dir.path()), "a"), ["the profile \"web\" is masked"]);
}

#[test]
fn nothing_lies_above_the_ceiling() {
    let policy = "[ceiling]\notherwise = false\nnetwork.publish = ['127.0.0.1:*']\nrootfs.mounts_rw = ['/srv/*']\n\
                  rootfs.mounts = true\nsecurity.capabilities = true\n\n[[for]]\nservices = ['monitor', 'x-*']\nnetwork.mode = ['host']\n\
                  [[for]]\nowners = ['4242']\nnetwork.egress = true\n";
    let file = |text: &str| format!("service.command = '/bin/a'\n{text}");
    let (dir, loaded) = house(&[
        ("policy.toml", policy),
        ("profiles.d/loose.toml", "network.egress = 'any'\n"),
        (
            "services.d/good.toml",
            &file(
                "network.publish = ['80:80']\nrootfs.mounts = [{ src = '/srv/a', dst = '/a', ro = false }]\n",
            ),
        ),
        ("services.d/monitor.toml", &file("network.mode = 'host'\n")),
        ("services.d/owned.toml", &file("network.egress = 'any'\nunit.owners = ['4242']\n")),
        ("services.d/port.toml", &file("network.publish = ['81:81', '0.0.0.0:82:82']\n")),
        ("services.d/mount.toml", &file("[[rootfs.mounts]]\nsrc = '/etc'\ndst = '/a'\nro = false\n")),
        ("services.d/net.toml", &file("")),
        ("services.d/net.toml.d/10.toml", "[network]\nmode = 'host'\n"),
        ("services.d/egress.toml", &file("unit.profile = 'loose'\n")),
        ("services.d/root.toml", &file("unit.profile = 'legacy'\n")),
    ]);
    assert_eq!(names(&loaded.units), ["good", "monitor", "owned"]);
    assert_eq!(
        shown(&dir, &loaded),
        [
            "profiles.d/loose.toml:1:18: `network.egress` is above the ceiling of this host's policy: any",
            "services.d/mount.toml:5:6: `rootfs.mounts_rw` is above the ceiling of this host's policy: /etc",
            "services.d/net.toml.d/10.toml:2:8: `network.mode` is above the ceiling of this host's policy: host",
            "services.d/port.toml:2:29: `network.publish` is above the ceiling of this host's policy: 0.0.0.0:82:82/tcp",
            "<profile legacy>:4:8: `service.user` is above the ceiling of this host's policy: root",
            "<profile legacy>:10:12: `rootfs.writable` is above the ceiling of this host's policy: ephemeral",
        ]
    );
    let found = &loaded.broken[&name("port")][0];
    assert_eq!(found.hint.as_deref(), Some("the policy lets through 127.0.0.1:*"));
    assert!(found.notes[0].at.to_string().ends_with("policy.toml:3:9"), "{}", found.notes[0].at);
}

#[test]
fn a_file_of_the_host_is_no_standard_input_above_the_ceiling() {
    let file = |path: &str| format!("service.command = '/bin/a'\nservice.stdin = 'file:{path}'\n");
    let (dir, loaded) = house(&[
        ("policy.toml", "[ceiling]\nservice.stdin = ['/srv/*']\n"),
        ("services.d/good.toml", &file("/srv/words")),
        ("services.d/shadow.toml", &file("/etc/shadow")),
    ]);
    assert_eq!(
        shown(&dir, &loaded),
        [
            "services.d/shadow.toml:2:17: `service.stdin` is above the ceiling of this host's policy: /etc/shadow"
        ]
    );
}

#[test]
fn what_runs_is_measured_by_the_ceiling_as_well() {
    let (_dir, loaded) =
        house(&[("policy.toml", "[ceiling]\nnetwork.egress = false\n"), ("services.d/a.toml", WEB)]);
    let policy = loaded.policy.unwrap();
    let unit = |text: &str| parse_str("web", &format!("{text}\n{WEB}"), &HostFacts::default()).unwrap();
    assert_eq!(policy.refuses(&unit("")), None);
    let refused = policy.refuses(&unit("network.egress = 'any'")).unwrap();
    assert!(
        refused.starts_with("`network.egress` is above the ceiling of ") && refused.ends_with(": any"),
        "{refused}"
    );
}

#[test]
fn a_ceiling_is_a_most_where_something_is_counted() {
    let policy = "[ceiling]\nrootfs.tmpfs_size = '256M'\n[[for]]\nservices = ['big']\nrootfs.tmpfs_size = '1G'\n\
                  [[for]]\nservices = ['quiet']\nlog.size = '1M'\n";
    let large = "service.command = '/bin/a'\n[[rootfs.tmpfs]]\ndst = '/tmp'\nsize = '300M'\n";
    let (dir, loaded) = house(&[
        ("policy.toml", policy),
        ("services.d/a.toml", WEB),
        ("services.d/b.toml", large),
        ("services.d/big.toml", large),
        ("services.d/quiet.toml", WEB),
    ]);
    assert_eq!(names(&loaded.units), ["a", "big"]);
    assert_eq!(
        shown(&dir, &loaded),
        [
            "services.d/b.toml:2:1: `rootfs.tmpfs_size` is above the ceiling of this host's policy: 398458880",
            "services.d/quiet.toml: `log.size` is above the ceiling of this host's policy: 52428800",
        ]
    );
    assert_eq!(
        loaded.broken[&name("b")][0].hint.as_deref(),
        Some("write 256M or less, here or in a profile")
    );
    let (dir, loaded) = house(&[("policy.toml", "[ceiling]\nlog.size = true\nrootfs.tmpfs_size = '1MB'\n")]);
    let found = shown(&dir, &loaded);
    assert_eq!(found[0], "policy.toml:2:12: this is no amount");
    assert!(found.len() == 2 && found[1].starts_with("policy.toml:3:21: "), "{found:?}");
}

#[test]
fn a_policy_with_mistakes_lets_nothing_start_and_names_them_all() {
    let (dir, loaded) = house(&[
        (
            "policy.toml",
            "[ceiling]\nnetwork.egres = true\nnetwork.mode = 'veth'\nnetwork.publish = ['[']\n[owners]\nmay = ['fly']\n\
                         [[for]]\nnetwork.mode = true\n[[for]]\nowners = ['nobody-here']\n[x]\n",
        ),
        ("services.d/a.toml", WEB),
    ]);
    assert!(loaded.units.is_empty());
    assert!(loaded.policy.is_none());
    let mut found = shown(&dir, &loaded);
    found.sort();
    assert_eq!(
        found,
        [
            "policy.toml:10:11: this host has no user \"nobody-here\"",
            "policy.toml:11:2: unknown key or table `x`",
            "policy.toml:2:9: `network.egres` is nothing that a service can open",
            "policy.toml:3:16: this is no ceiling",
            "policy.toml:4:20: \"[\" is no pattern: invalid range pattern",
            "policy.toml:6:8: \"fly\" is nothing that owners can do",
            "policy.toml:7:1: this does not say for whom",
        ]
    );
}

#[test]
fn an_empty_file_is_all_but_closed_and_a_closed_one_closed() {
    let score = |text: &str| {
        let text = format!("service.command = '/bin/a'\n{text}\n");
        exposure::score_of(&parse_str("web", &text, &HostFacts::default()).unwrap())
    };
    assert!(score("") <= 20, "{}", score(""));
    assert!(score("unit.profile = 'untrusted'") < score(""));
    assert!(score("unit.profile = 'legacy'") > score(""));
    assert!(
        score("network.mode = 'host'\nrootfs.dev = 'host'\nservice.user = 'root'\nnamespaces.ipc = 'host'")
            >= 50
    );
    assert_eq!(
        score(
            "rootfs.mounts = [{ src = '/', dst = '/host', ro = false }]\nrootfs.dev = 'host'\nnetwork.mode = 'host'"
        ),
        100
    );
    for (line, price) in [
        ("namespaces.nested = true", 15),
        ("security.landlock = 'off'", 5),
        ("security.no_new_privs = false", 10),
    ] {
        assert_eq!(score(line), score("") + price, "{line}");
    }
    // A group is the host's where the ids are.
    let group = "service.extra_groups = [4, 6]";
    assert_eq!(score(&format!("service.user = 33\n{group}")), score(""));
    let off = "namespaces.user = 'off'\nservice.user = 33\nlimits.pids.max = 'infinity'";
    assert_eq!(score(&format!("{off}\n{group}")), score(off) + 10);
    // However many ports: they have a most.
    let ports: String = (1..50).map(|port| format!("'0.0.0.0:{port}:{port}',")).collect();
    assert_eq!(score(&format!("network.publish = [{ports}]")), score("") + 10);
}

#[test]
fn labels_and_groups_that_loosen_are_priced_and_capped() {
    let host = HostFacts {
        selinux: true,
        users: BTreeMap::from([(
            "web".to_owned(),
            spec::HostUser { uid: 1000, gid: 1000, home: "/".into(), shell: "/bin/sh".into() },
        )]),
        groups: BTreeMap::from([("docker".to_owned(), (50, vec!["web".to_owned()]))]),
        ..HostFacts::default()
    };
    let file = |keys: &str| format!("service.command = '/bin/a'\n{keys}\n");
    let score = |keys: &str| exposure::score_of(&parse_str("web", &file(keys), &host).unwrap());
    for (label, price) in
        [("system_u:system_r:httpd_t:s0", 0), ("u:r:unconfined_t:s0-s0:c0.c1023", 5), ("u:r:spc_t", 5)]
    {
        assert_eq!(score(&format!("security.selinux = '{label}'")), score("") + price, "{label}");
    }
    // A group that the file does not name is told at the user who brings it along.
    let off = "namespaces.user = 'off'\nservice.user = 'web'";
    let policy = Policy::parse(Path::new("policy.toml"), "[ceiling]\nservice.extra_groups = false\n", &host);
    let mut sources = SourceMap::default();
    sources.add("web.toml", file(off));
    let read = load::parse(&name("web"), sources);
    let found = resolve(read, &host, Some(&policy.unwrap())).err().expect("it is above the ceiling");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].message.contains("`service.extra_groups` is above the ceiling"), "{found:?}");
    assert_eq!(found[0].at.to_string(), "web.toml:3:16");
}

#[test]
fn every_row_is_told_and_priced() {
    let mut names = BTreeSet::new();
    for row in exposure::TABLE {
        assert!(names.insert(row.name), "{} twice", row.name);
        assert!(row.most > 0 && row.most <= exposure::MOST, "{}", row.name);
        for text in [row.closed, row.opens] {
            assert!(!text.is_empty() && !text.ends_with('.') && !text.contains('\n'), "{text}");
        }
        assert!(!row.name.contains('['), "{}", row.name);
    }
}

#[test]
fn owners_are_users_and_groups_of_the_host() {
    let host = HostFacts {
        users: BTreeMap::from([
            (
                "alice".to_owned(),
                spec::HostUser { uid: 1000, gid: 1000, home: "/".into(), shell: "/bin/sh".into() },
            ),
            (
                "nobody".to_owned(),
                spec::HostUser { uid: 65_534, gid: 65_534, home: "/".into(), shell: "/bin/sh".into() },
            ),
        ]),
        groups: BTreeMap::from([("ops".to_owned(), (50, Vec::new()))]),
        ..HostFacts::default()
    };
    let owners = |list: &str| parse_str("web", &format!("unit.owners = {list}\n{WEB}"), &host);
    let some = owners("['alice', 'group:ops', '4242', '1000', 'group:7']").unwrap().owners;
    use spec::Owner::{Group, User};
    assert_eq!(some, [User(1000), User(4242), Group(7), Group(50)]);
    assert!(User(1000).is(1000, &[]) && !User(1000).is(1001, &[1000]));
    assert!(Group(50).is(1, &[7, 50]) && !Group(50).is(50, &[7]));
    for (list, message) in [
        ("['alcie']", "this host has no user \"alcie\""),
        ("['group:alice']", "this host has no group \"alice\""),
        ("['nobody']", "\"nobody\" cannot own a service"),
        ("['0x0']", "\"0x0\" is not a user or group id"),
        ("['4294967295']", "\"4294967295\" is not a user or group id"),
        ("['']", "this host has no user \"\""),
    ] {
        assert_eq!(owners(list).unwrap_err()[0].message, message);
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_policy_panic(text in "[-\\[\\]{}=.,'\"a-z0-9 \n\\\\%$+é\0]{0,120}") {
        let _ = Policy::parse(Path::new("policy.toml"), &text, &HostFacts::default());
    }

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
    "unit.wants",
    "unit.binds_to",
    "unit.part_of",
    "unit.upholds",
    "unit.conflicts",
    "unit.after",
    "unit.before",
    "unit.on_failure",
    "unit.on_success",
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
    "network.dns",
    "network.hosts",
    "log.max_size",
    "log.files",
];
