use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::{
    config::parse_str,
    machine::{RestartMode, RestartOn},
    spec::*,
};

fn host() -> HostFacts {
    let user =
        |uid, gid, home: &str| HostUser { uid, gid, home: home.to_owned(), shell: "/bin/sh".to_owned() };
    HostFacts {
        ipv6: true,
        resolv_conf: Vec::new(),
        users: BTreeMap::from([
            ("root".to_owned(), user(0, 0, "/root")),
            ("www-data".to_owned(), user(33, 33, "/var/www")),
            ("wheel".to_owned(), user(1001, 0, "/home/wheel")),
            ("0day".to_owned(), user(1002, 1002, "/home/0day")),
            ("0".to_owned(), user(1003, 1003, "/")),
            ("far".to_owned(), user(200_000, 200_000, "/")),
        ]),
        groups: BTreeMap::from([
            ("www-data".to_owned(), (33, Vec::new())),
            ("ssl-cert".to_owned(), (110, vec!["www-data".to_owned()])),
            ("video".to_owned(), (44, Vec::new())),
        ]),
        env: BTreeMap::from([
            ("TOKEN".to_owned(), "host".to_owned()),
            ("LANG".to_owned(), "de_DE".to_owned()),
        ]),
        hostname: "alpha".to_owned(),
        cgroup_kill: true,
        limits: limits::HostLimits { memory: 8 << 30, ..limits::HostLimits::default() },
        landlock: 7,
        apparmor: true,
        selinux: false,
        zone_exists: Some(|name| name == "Europe/Berlin"),
    }
}

/// A service with a command, these keys of `[service]`, and these other tables.
fn resolve(service: &str, tables: &str) -> Result<Unit, Vec<String>> {
    let command = if service.starts_with("command =") { "" } else { "command = ['/bin/web']\n" };
    parse_str("web", &format!("[service]\n{command}{service}\n{tables}"), &host())
        .map_err(|found| found.into_iter().map(|diagnostic| diagnostic.message).collect())
}

fn unit(service: &str, tables: &str) -> Unit {
    resolve(service, tables).unwrap()
}

/// The one mistake of a file.
fn mistake(service: &str, tables: &str) -> String {
    let found = resolve(service, tables).expect_err(&format!("{service} {tables} was taken"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

fn env(unit: &Unit) -> Vec<(&str, &str)> {
    unit.service.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

const PATH: (&str, &str) = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");

#[test]
fn a_command_alone_is_a_closed_service() {
    let unit = unit("", "");
    assert_eq!(unit.description, "web");
    assert!(unit.enabled);
    let service = &unit.service;
    assert_eq!(service.command, ["/bin/web"]);
    assert_eq!((service.kind, &service.user, service.umask), (Kind::Exec, &UserSpec::Dynamic, 0o077));
    assert_eq!(env(&unit), [("HOME", "/"), ("LANG", "C.UTF-8"), PATH]);
    assert_eq!(service.working_dir, Path::new("/"));
    let stop = StopPolicy {
        signal: 15,
        command: None,
        timeout: Some(Duration::from_secs(15)),
        mode: StopMode::Mixed,
    };
    assert_eq!(service.stop, stop);
    assert_eq!((service.start_timeout, service.run_timeout), (Some(Duration::from_secs(90)), None));
    let restart = &unit.restart;
    assert_eq!((restart.on, restart.mode, restart.max), (RestartOn::OnFailure, RestartMode::Fresh, None));
    assert_eq!((restart.delay, restart.max_delay), (Duration::from_millis(200), Duration::from_secs(60)));
    assert_eq!((restart.factor, restart.jitter, restart.reset_after), (2.0, 0.2, Duration::from_secs(60)));
    let spaces = &unit.namespaces;
    assert_eq!(
        (&spaces.pid, &spaces.user, spaces.clock_offset),
        (&Namespace::Own, &UserNamespace::Auto, None)
    );
    assert_eq!((spaces.hostname.as_str(), spaces.domainname.as_str()), ("web", ""));
    assert_eq!((&unit.rootfs.base, unit.rootfs.writable), (&Base::Host, Writable::No));
    assert_eq!(
        (&unit.rootfs.dev, unit.rootfs.proc, unit.rootfs.sys),
        (&Dev::Minimal(Vec::new()), true, true)
    );
    let tmpfs: Vec<_> =
        unit.rootfs.tmpfs.iter().map(|t| (t.dst.to_str().unwrap(), t.size >> 20, t.mode, t.exec)).collect();
    assert_eq!(
        tmpfs,
        [("/tmp", 64, 0o1777, false), ("/run", 16, 0o755, false), ("/dev/shm", 64, 0o1777, false)]
    );
    let network = &unit.network;
    assert_eq!(
        (network.mode.clone(), network.egress.clone(), network.address),
        (NetworkMode::Veth, Egress::None, None)
    );
    assert_eq!(
        unit.log,
        LogPolicy {
            max_size: 10 << 20,
            files: 5,
            max_age: Some(Duration::from_secs(30 * 86_400)),
            rate: None,
            compress: true,
            target: LogTarget::File
        }
    );
    assert_eq!(unit.log_full, Full::Drop);
}

#[test]
fn the_environment_is_built_in_the_order_of_weight() {
    let unit = unit(
        "user = 'www-data'\npass_env = ['TOKEN', 'LANG', 'ABSENT']\nenv = { TOKEN = '%n', PORT = 80 }",
        "",
    );
    assert_eq!(
        env(&unit),
        [
            ("HOME", "/var/www"),
            ("LANG", "de_DE"),
            ("LOGNAME", "www-data"),
            PATH,
            ("PORT", "80"),
            ("SHELL", "/bin/sh"),
            ("TOKEN", "web"),
            ("USER", "www-data"),
        ]
    );
}

#[test]
fn labels_are_few_and_may_have_specifiers() {
    let labels = |count: usize| {
        let all: Vec<String> = (0..count).map(|number| format!("l{number} = '%n on %H'")).collect();
        format!("[metrics]\nlabels = {{ {} }}", all.join(", "))
    };
    let most = unit("", &labels(16));
    assert_eq!((most.labels.len(), most.labels["l7"].as_str()), (16, "web on alpha"));
    assert_eq!(mistake("", &labels(17)), "17 labels, and 16 is the most");
    let long = |count: usize| format!("metrics.labels.x = '{}'", "x".repeat(count));
    assert_eq!(unit("", &format!("[metrics]\n{}", &long(200)[8..])).labels["x"].len(), 200);
    let said = mistake("", &format!("[metrics]\n{}", &long(201)[8..]));
    assert_eq!(said, "label \"x\" is empty or longer than 200 bytes");
}

#[test]
fn a_user_of_the_host_becomes_its_ids() {
    let unit = unit("user = 'www-data'\nextra_groups = ['video', 5]", "");
    assert_eq!(unit.service.user, UserSpec::Named(IdSpec::Number(33)));
    assert_eq!(unit.service.group, Some(IdSpec::Number(33)));
    assert_eq!(unit.service.extra_groups, [44, 5, 110].map(IdSpec::Number));
}

#[test]
fn root_needs_no_entry_and_a_number_no_name() {
    let root = unit("user = 'root'", "[rootfs]\nbase = 'none'");
    assert_eq!(
        (root.service.user, root.service.group),
        (UserSpec::Named(IdSpec::Number(0)), Some(IdSpec::Number(0)))
    );
    assert_eq!(root.service.env["HOME"], "/root");
    let number = unit("user = 1234\ngroup = '99'", "");
    assert_eq!(
        (number.service.user, number.service.group),
        (UserSpec::Named(IdSpec::Number(1234)), Some(IdSpec::Number(99)))
    );
    assert_eq!(unit("user = 33", "").service.env["USER"], "www-data");
    assert_eq!(unit("user = 'dynamic'", "").service.user, UserSpec::Dynamic);
}

#[test]
fn names_of_a_foreign_root_are_kept() {
    let unit = unit(
        "user = 'app'\ngroup = 'www-data'\nextra_groups = ['tty']",
        "[rootfs]\nbase = 'dir'\ndir = '/srv/app'",
    );
    assert_eq!(unit.service.user, UserSpec::Named(IdSpec::Name("app".to_owned())));
    assert_eq!(unit.service.group, Some(IdSpec::Name("www-data".to_owned())));
    assert_eq!(unit.service.extra_groups, [IdSpec::Name("tty".to_owned())]);
    assert_eq!((unit.service.env["USER"].as_str(), unit.service.env["HOME"].as_str()), ("app", "/"));
}

#[test]
fn who_cannot_be_is_refused() {
    assert_eq!(mistake("user = 'www-dat'", ""), "there is no user \"www-dat\" on this host");
    assert_eq!(mistake("group = 'nobody'", ""), "there is no group \"nobody\" on this host");
    assert_eq!(
        mistake("user = 'app'", "[rootfs]\nbase = 'none'"),
        "an empty root has no /etc/passwd that could know \"app\""
    );
    for bad in ["4294967295", "-1", "'+1'", "'0x10'", "'a b'", "''", "1.5"] {
        mistake(&format!("user = {bad}"), "");
    }
}

#[test]
fn the_hosts_ids_need_a_user_that_is_not_root() {
    let off = "[namespaces]\nuser = 'off'";
    assert_eq!(unit("user = 'www-data'", off).namespaces.user, UserNamespace::Off);
    assert_eq!(mistake("", off), "`user = \"off\"` runs under the host's ids and needs a `service.user`");
    for root in ["'root'", "0", "'0'"] {
        let message = mistake(&format!("user = {root}"), off);
        assert_eq!(message, "with `namespaces.user = \"off\"` this would be the host's own root");
    }
}

#[test]
fn names_are_the_hosts_wherever_ids_are() {
    let dir = "[rootfs]\nbase = 'dir'\ndir = '/srv/root'";
    // Of a root that others may write: its /etc/passwd could call anybody root.
    let own = unit("user = 'www-data'", dir).service.user;
    assert_eq!(own, UserSpec::Named(IdSpec::Name("www-data".to_owned())));
    let off = format!("{dir}\n[namespaces]\nuser = 'off'");
    let service = unit("user = 'www-data'\nextra_groups = ['video']", &off).service;
    assert_eq!(
        (service.user, service.group),
        (UserSpec::Named(IdSpec::Number(33)), Some(IdSpec::Number(33)))
    );
    assert_eq!(service.extra_groups, [IdSpec::Number(44), IdSpec::Number(110)]);
    assert_eq!(mistake("user = 'inner'", &off), "there is no user \"inner\" on this host");
    assert_eq!(
        mistake("user = 'www-data'\ngroup = 'inner'", &off),
        "there is no group \"inner\" on this host"
    );
}

#[test]
fn the_hosts_group_root_is_nobodys() {
    let off = "[namespaces]\nuser = 'off'";
    let said = "with `namespaces.user = \"off\"` this would be the host's own group root";
    for service in [
        "user = 'www-data'\ngroup = 0",
        "user = 33\nextra_groups = ['root']",
        "user = 'wheel'",
        "user = 1001",
    ] {
        assert_eq!(mistake(service, off), said, "{service}");
    }
    assert_eq!(unit("user = 'wheel'", "").service.group, Some(IdSpec::Number(0)), "of its own range");
}

#[test]
fn an_id_is_in_the_services_own_range() {
    assert_eq!(unit("user = 65534", "").service.user, UserSpec::Named(IdSpec::Number(65534)));
    for (service, what) in [
        ("user = 65535", "user 65535"),
        ("user = 4294967294", "user 4294967294"),
        ("user = 'far'", "user 200000"),
        ("user = 1\ngroup = 65536", "group 65536"),
        ("extra_groups = [70000]", "group 70000"),
    ] {
        assert_eq!(mistake(service, ""), format!("the {what} is not one of the service's own ids"));
    }
    assert_eq!(
        unit("user = 'far'", "[namespaces]\nuser = 'off'").service.group,
        Some(IdSpec::Number(200_000))
    );
}

#[test]
fn what_looks_like_a_number_is_never_root() {
    // systemd CVE-2017-1000082 and CVE-2020-13776, containerd CVE-2024-40635, crun CVE-2026-30892.
    let bad = [
        "0x0",
        "0X0",
        "00",
        "0 ",
        " 0",
        "+0",
        "-0",
        "0b0",
        "0o0",
        "0e0",
        "0.0",
        "1e3",
        "-1",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0night",
        "root ",
        "ROOT ",
        "\u{ff10}",
    ];
    for tables in ["", "[namespaces]\nuser = 'off'", "[rootfs]\nbase = 'dir'\ndir = '/srv/root'"] {
        for text in bad {
            for key in ["user", "group"] {
                let user = if key == "group" { "user = 33\n" } else { "" };
                let found = resolve(&format!("{user}{key} = '{text}'"), tables);
                assert!(found.is_err(), "{key} = '{text}' with {tables}");
            }
        }
        for number in ["-1", "4294967295", "4294967296", "9223372036854775807", "0.0", "1e3", "true"] {
            assert!(resolve(&format!("user = {number}"), tables).is_err(), "user = {number} with {tables}");
        }
    }
    assert_eq!(unit("user = '0day'", "").service.user, UserSpec::Named(IdSpec::Number(1002)));
    assert_eq!(
        unit("user = '0'", "").service.user,
        UserSpec::Named(IdSpec::Number(0)),
        "a number is a number"
    );
}

#[test]
fn commands_are_argv_or_a_split_line() {
    assert_eq!(
        unit("command = '/bin/sh -c \"a b\" %n ${HOME} $LANG'", "").service.command,
        ["/bin/sh", "-c", "a b", "web", "/", "C.UTF-8"]
    );
    assert_eq!(unit("command = ['/bin/echo', 'a b', '%%']", "").service.command, ["/bin/echo", "a b", "%"]);
    assert_eq!(unit("command = ['nginx']", "").service.command, ["nginx"]);
    for bad in
        ["[]", "['']", "''", "['bin/web']", "['./web']", "['/bin/web', '%Y']", "['/bin/web', \"a\\u0000\"]"]
    {
        mistake(&format!("command = {bad}"), "");
    }
    assert_eq!(parse_str("web", "", &host()).unwrap_err()[0].message, "the service has no `command`");
    let found = parse_str("web", "service.nice = 5", &host()).unwrap_err();
    assert_eq!(found[0].hint.as_deref(), Some("add `command = [\"/path/of/the/program\"]` to [service]"));
    // One mistake is one message.
    for text in ["service.comand = ['/bin/web']", "service.command = 3", "service.commands = '/bin/web'"] {
        let found: Vec<String> =
            parse_str("web", text, &host()).unwrap_err().into_iter().map(|found| found.message).collect();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
}

#[test]
fn stop_and_reload_are_read() {
    let unit = unit(
        "stop = { signal = 'INT', timeout = 'infinity', mode = 'control-group', command = '/bin/bye' }\nreload = { signal = 'HUP' }",
        "",
    );
    let command = Some(vec!["/bin/bye".to_owned()]);
    assert_eq!(
        unit.service.stop,
        StopPolicy { signal: 2, command, timeout: None, mode: StopMode::ControlGroup }
    );
    assert_eq!(unit.service.reload, Some(Reload::Signal(1)));
    assert_eq!(
        mistake("stop = { mode = 'process' }", ""),
        "`mode = \"process\"` is not a feature of this version yet"
    );
    assert_eq!(mistake("reload = {}", ""), "`reload` says neither a signal nor a command");
    assert_eq!(
        mistake("reload = { signal = 1, command = '/bin/a' }", ""),
        "`reload` is a signal or a command, not both"
    );
    assert_eq!(
        mistake("reload = { command = '/bin/kill -HUP $MAINPID' }", ""),
        "$MAINPID is not known when the file is read"
    );
}

#[test]
fn a_oneshot_does_not_run_again_and_again() {
    for policy in ["always", "on-success"] {
        let message = mistake("type = 'oneshot'", &format!("[restart]\npolicy = '{policy}'"));
        assert_eq!(message, format!("a oneshot with `policy = {policy:?}` would run again and again"));
    }
    assert!(unit("type = 'oneshot'\nremain_after_exit = true", "").service.remain_after_exit);
    mistake("remain_after_exit = true", "");
    assert_eq!(mistake("type = 'notfy'", ""), "\"notfy\" is not a value of `service.type`");
}

#[test]
fn a_service_says_that_it_is_ready_in_the_way_of_its_type() {
    let ready = |keys: &str| {
        let service = unit(keys, "").service;
        (service.kind, service.notifies(), service.ready_fd(), service.reports_ready(), service.reload)
    };
    let hup = Some(Reload::Signal(1));
    assert_eq!(ready(""), (Kind::Exec, false, None, false, None));
    assert_eq!(ready("type = 'simple'"), (Kind::Simple, false, None, false, None));
    assert_eq!(ready("type = 'notify'"), (Kind::Notify, true, None, true, None));
    assert_eq!(ready("type = 'notify-reload'"), (Kind::NotifyReload, true, None, true, hup));
    assert_eq!(ready("type = 'forking'"), (Kind::Forking, false, None, true, None));
    assert_eq!(ready("ready = 'notify'"), (Kind::Exec, true, None, true, None));
    assert_eq!(ready("ready = 'fd'"), (Kind::Exec, false, Some(3), true, None));
    assert_eq!(ready("type = 'forking'\nready = 'fd:7'"), (Kind::Forking, false, Some(7), true, None));
    assert_eq!(ready("watchdog = '30s'"), (Kind::Exec, true, None, false, None));
    let forking = unit("type = 'forking'\npid_file = '/run/a.pid'\nwatchdog = 1", "").service;
    assert_eq!(forking.pid_file.as_deref(), Some(std::path::Path::new("/run/a.pid")));
    assert_eq!(forking.watchdog, Some(Duration::from_secs(1)));
    for (keys, tables) in [
        ("type = 'oneshot'\nready = 'notify'", ""),
        ("type = 'notify'\nready = 'fd'", ""),
        ("ready = 'fd:2'", ""),
        ("ready = 'fd:256'", ""),
        ("ready = 'fd:+3'", ""),
        ("ready = 'yes'", ""),
        ("pid_file = '/run/a.pid'", ""),
        ("type = 'forking'\npid_file = 'a.pid'", ""),
        ("type = 'forking'", "[rootfs]\nproc = 'none'"),
        ("type = 'oneshot'\nwatchdog = '1s'", ""),
        ("watchdog = '0s'", ""),
        ("watchdog = 'infinity'", ""),
        ("ready = 'fd'", "[[socket]]\nlisten = 80"),
        ("ready = 'fd:5'\nfd_store_max = 3", ""),
        ("watchdog = '1s'", "[network]\naddress_families = ['inet']"),
        ("type = 'notify-reload'\nreload = { command = 'x' }", ""),
    ] {
        mistake(keys, tables);
    }
    let longest = format!("type = 'forking'\npid_file = '/run/{}'", "a".repeat(250));
    assert_eq!(unit(&longest, "").service.pid_file.expect("it fits").as_os_str().len(), 255);
    mistake(&longest.replace("/run", "/run/b"), "");
    assert_eq!(super::ready::LONGEST_PID_FILE + 1, crate::init::wire::PID_FILE);
}

#[test]
fn restart_values_are_bounded() {
    let restart = unit("", "[restart]\nfactor = 1.5\njitter = '5%'\nmax = 3\nwithin = '1min'\nprevent_exit = [2, 'KILL']\nmode = 'in-place'").restart;
    assert_eq!(
        (restart.factor, restart.jitter, restart.max),
        (1.5, 0.05, Some((3, Duration::from_secs(60))))
    );
    assert_eq!(restart.prevent_exit, [ExitMatch::Code(2), ExitMatch::Signal(9)]);
    assert_eq!(restart.mode, RestartMode::InPlace);
    for bad in [
        "factor = 0.5",
        "factor = 'nan'",
        "factor = inf",
        "jitter = '101%'",
        "jitter = 20",
        "jitter = '-1%'",
        "delay = 'infinity'",
        "delay = '2min'",
        "max_delay = 0",
        "max = 5",
        "within = '5s'",
        "max = -1\nwithin = 1",
        "policy = 'sometimes'",
        "mode = 'warm'",
    ] {
        mistake("", &format!("[restart]\n{bad}"));
    }
}

#[test]
fn namespaces_are_own_joined_or_the_hosts() {
    let spaces = unit("", "[namespaces]\npid = 'join:db'\nipc = 'host'\nuts = true\ntime = true\nclock_offset = '-1h'\nuser = 'shared:db'").namespaces;
    let db = UnitName::new("db").unwrap();
    assert_eq!(
        (spaces.pid, spaces.ipc, spaces.uts),
        (Namespace::Join(db.clone()), Namespace::Host, Namespace::Own)
    );
    assert_eq!((spaces.user, spaces.clock_offset), (UserNamespace::Shared(db), Some(-3600)));
    for bad in [
        "pid = false",
        "pid = 'own'",
        "pid = 'join:'",
        "user = 'on'",
        "clock_offset = 5",
        "time = true\nclock_offset = 0.5",
        "hostname = 'a_b!'",
        "hostname = ''",
        "uts = 'host'\nhostname = 'x'",
        "machine_id = 'x'",
        "machine_id = '00000000000000000000000000000000'",
    ] {
        mistake("", &format!("[namespaces]\n{bad}"));
    }
    let text = "[service]\ncommand = '/bin/a'\n[namespaces]\npid = 'host'\n";
    assert!(parse_str("web", text, &host()).is_ok());
    assert!(parse_str("web", text, &HostFacts { cgroup_kill: false, ..host() }).is_err());
}

#[test]
fn an_instance_has_a_host_name_of_its_own() {
    let unit = parse_str("job@7", "[service]\ncommand = '/bin/job %p %i'\n", &host()).unwrap();
    assert_eq!(unit.namespaces.hostname, "job-7");
    assert_eq!(unit.service.command, ["/bin/job", "job", "7"]);
}

#[test]
fn mounts_and_tmpfs_are_closed_by_default() {
    let rootfs = unit("", "[rootfs]\nmounts = [{ src = '/srv//%n/', dst = '/data' }, { src = '/b', dst = '/tmp', ro = false, exec = true }]\n\
        tmpfs = [{ dst = '/run', size = '1M' }, { dst = '/cache', mode = '0700' }]\nhide = ['/usr/bin/sudo']\ndev = ['/dev/kvm']\nsys = 'none'").rootfs;
    let first = Mount {
        src: "/srv/web".into(),
        dst: "/data".into(),
        ro: true,
        idmap: true,
        exec: false,
        optional: false,
    };
    assert_eq!(rootfs.mounts[0], first);
    assert!(!rootfs.mounts[1].ro && rootfs.mounts[1].exec);
    // A mount or an entry of the file takes the place of the default one.
    let tmpfs: Vec<_> =
        rootfs.tmpfs.iter().map(|t| (t.dst.to_str().unwrap(), t.size >> 20, t.mode)).collect();
    assert_eq!(tmpfs, [("/dev/shm", 64, 0o1777), ("/run", 1, 0o755), ("/cache", 64, 0o700)]);
    assert_eq!((rootfs.dev, rootfs.sys), (Dev::Minimal(vec!["/dev/kvm".into()]), false));
}

#[test]
fn a_root_that_makes_no_sense_is_refused() {
    for bad in [
        "base = 'dir'",
        "dir = '/srv'",
        "base = 'dir'\ndir = '/'",
        "base = 'image'",
        "base = 'dir'\ndir = 'srv'",
        "base = 'dir'\ndir = '/srv/../etc'",
        "mounts = [{ src = '/a' }]",
        "mounts = [{ dst = '/a' }]",
        "mounts = [{ src = '/a', dst = '/' }]",
        "mounts = [{ src = '/a', dst = '/x' }, { src = '/b', dst = '/x/' }]",
        "mounts = [{ src = '/a', dst = '/x' }]\ntmpfs = [{ dst = '/x' }]",
        "tmpfs = [{ size = 1 }]",
        "tmpfs = [{ dst = '/x', size = 0 }]",
        "tmpfs = [{ dst = '/x', size = '50%' }]",
        "tmpfs = [{ dst = '/x', mode = '8' }]",
        "hide = ['etc']",
        "hide = ['/']",
        "dev = 'all'",
        "dev = ['/etc/passwd']",
        "dev = ['/dev']",
        "proc = 'host'",
        "writable = 'yes'",
        "hide = [\"/a\\nb\"]",
    ] {
        mistake("", &format!("[rootfs]\n{bad}"));
    }
}

#[test]
fn the_network_is_read() {
    let network =
        unit("", "[network]\naddress = '10.83.0.7'\nmtu = 1400\npublish = ['8080:80']\negress = 'any'")
            .network;
    assert_eq!(
        (network.address, network.mtu, network.egress),
        (Some([10, 83, 0, 7].into()), Some(1400), Egress::Any)
    );
    assert_eq!(network.publish[0].to_string(), "127.0.0.1:8080:80/tcp");
    assert_eq!(unit("", "[network]\nmode = 'none'\negress = []").network.mode, NetworkMode::None);
    assert_eq!(unit("", "[network]\nmode = 'join:db'").network.joined().unwrap().as_str(), "db");
    let list = "egress = ['10.1.0.0/16:443', '192.0.2.1:53/udp', '10.0.0.0/8:443', '10.2.0.0/16:443', '10.0.0.0/8:80']";
    let egress = unit("", &format!("[network]\n{list}")).network.egress;
    assert_eq!(
        egress.to_string(),
        "192.0.2.1/32:53/udp 10.0.0.0/8:443/tcp 10.0.0.0/8:80/tcp",
        "the rest is within"
    );
    let names =
        "egress = ['*.Example.org:443', '192.0.2.1:80', 'a.example.org.:53/udp', '*.example.org:443/tcp']";
    let network = unit("", &format!("[network]\n{names}")).network;
    assert_eq!(network.egress.to_string(), "192.0.2.1/32:80/tcp");
    let names: Vec<String> = network.egress_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["*.example.org:443/tcp", "a.example.org:53/udp"]);
    let network = unit("", "[network]\negress = ['a.example.org:443']").network;
    assert_eq!(network.egress, Egress::Only(Vec::new()), "by name alone");
    let network =
        unit("", "[network]\ndns = ['192.0.2.53', '::1']\nhosts = { 'DB.example' = '2001:db8::1' }").network;
    assert_eq!(network.dns, Dns::Servers(vec!["192.0.2.53".parse().unwrap(), "::1".parse().unwrap()]));
    assert_eq!(network.hosts, [("db.example".to_owned(), "2001:db8::1".parse().unwrap())].into());
    assert_eq!(unit("", "").network.dns, Dns::Host);
    assert_eq!(unit("", "[network]\ndns = 'none'").network.dns, Dns::None);
    let network =
        unit("", "[network]\nallow_to = ['db:5432', 'db:5432/tcp']\nallow_from = ['web@*:80']").network;
    assert_eq!((network.allow_to.len(), network.allow_from.len()), (1, 1));
    for bad in [
        "mode = 'none'\ndns = 'none'",
        "dns = []",
        "dns = 'host'",
        "dns = ['ns.example.org']",
        "dns = ['224.0.0.1']",
        "hosts = { 'a b' = '192.0.2.1' }",
        "hosts = { db = '192.0.2.1/24' }",
        "egress = ['db:443']",
        "mode = 'bridge'",
        "mode = 'join:'",
        "mode = 'join:db'\npublish = ['80:80']",
        "mode = 'weth'",
        "address = '10.83.0.7/24'",
        "address = '127.0.0.1'",
        "address = 'fd00::1'",
        "mtu = 10",
        "egress = 'all'",
        "egress = ['10.0.0.0/8']",
        "allow_to = ['db']",
        "mode = 'none'\nallow_from = ['web:80']",
        "publish = ['80:80', '0.0.0.0:80:81']",
        "mode = 'none'\negress = 'any'",
        "mode = 'host'\npublish = ['80:80']",
        "mode = 'none'\nmtu = 1400",
        "mode = 'host'\naddress = '10.83.0.7'",
    ] {
        mistake("", &format!("[network]\n{bad}"));
    }
}

#[test]
fn the_rest_of_the_values_is_checked() {
    for bad in [
        "umask = '1777'",
        "umask = '9'",
        "nice = 20",
        "oom_score_adj = -1001",
        "stdin = 'tty'",
        "stdin = 'file:x'",
        "stdin = 'null'\ntty = true",
        "working_dir = 'srv'",
        "success_exit = [256]",
        "pass_env = ['A=B']",
        "env = { 'A B' = '1' }",
        "env = { A = 1.5 }",
        "env_file = ['x']",
        "env_file = ['/x']",
        "timeout = { start = 'soon' }",
    ] {
        mistake(bad, "");
    }
    for bad in ["description = \"a\\u001b[31m\"", "requires = ['a b']", "after = { db = 'up' }"] {
        mistake("", &format!("[unit]\n{bad}"));
    }
    for bad in [
        "max_size = '1K'",
        "files = 0",
        "files = 1001",
        "full = 'wait'",
        "rate = '0/s'",
        "target = 'journal'",
        "rate = '9/'",
    ] {
        mistake("", &format!("[log]\n{bad}"));
    }
    let rate = |text: &str| unit("", &format!("[log]\nrate = '{text}'")).log.rate;
    let of = |lines, seconds| Some(LogRate { lines, within: Duration::from_secs(seconds) });
    let read = ["off", "10000/30s", "100/s", "5 / 1min 30s", "7/min"].map(rate);
    assert_eq!(read, [None, of(10_000, 30), of(100, 1), of(5, 90), of(7, 60)]);
    let max_age = |text: &str| unit("", &format!("[log]\nmax_age = '{text}'")).log.max_age;
    assert_eq!(["1h", "infinity"].map(max_age), [Some(Duration::from_secs(3600)), None]);
    mistake("", "[log]\nmax_age = '59min'");
    for bad in ["x/s", "1/0s", "1/2d", "1/infinity", "/s", "-1/s", "1/parsec"] {
        mistake("", &format!("[log]\nrate = '{bad}'"));
    }
    let unit = unit("stdin = 'file:/srv/%n'", "[unit]\nafter = { db = 'done', cache = 'started' }");
    assert_eq!(unit.service.stdin, Stdin::File("/srv/web".into()));
    let after: Vec<_> = unit.after.iter().map(|after| (after.name.as_str(), after.milestone)).collect();
    assert_eq!(after, [("cache", Milestone::Started), ("db", Milestone::Done)]);
}

#[test]
fn a_list_of_predecessors_mixes_names_and_tables() {
    let unit = unit("", "[unit]\nafter = ['cache', { db = 'done' }]");
    let after: Vec<_> = unit.after.iter().map(|after| (after.name.as_str(), after.milestone)).collect();
    assert_eq!(after, [("cache", Milestone::Ready), ("db", Milestone::Done)]);
}

#[test]
fn a_service_says_what_it_is_to_the_others() {
    let text = "[unit]\nrequires = ['a']\nwants = ['b', 'b']\nbinds_to = ['c']\npart_of = ['d']\nupholds = ['e']\n\
                conflicts = ['f']\nbefore = ['g', { h = 'healthy' }]\non_failure = ['alert-%p']\non_success = ['i']";
    let unit = unit("", text);
    let names = |list: &[UnitName]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let all = [&unit.requires, &unit.wants, &unit.binds_to, &unit.part_of, &unit.upholds, &unit.conflicts];
    assert_eq!(all.map(|list| names(list)), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!([names(&unit.on_failure), names(&unit.on_success)], ["alert-web", "i"]);
    let before: Vec<_> = unit.before.iter().map(|before| (before.name.as_str(), before.milestone)).collect();
    assert_eq!(before, [("g", Milestone::Ready), ("h", Milestone::Healthy)]);
    for key in ["wants", "part_of", "upholds", "conflicts", "on_failure", "on_success"] {
        let said = mistake("", &format!("[unit]\n{key} = ['db', 'web']"));
        assert_eq!(said, format!("`{key}` names web itself"));
    }
    let said = mistake("", "[unit]\nrequires = ['db']\nconflicts = ['db']");
    assert_eq!(said, "the service needs db, which it conflicts with");
}

#[test]
fn a_variable_that_is_too_long_is_refused() {
    let long = "x".repeat(128 * 1024);
    assert!(mistake(&format!("env = {{ A = '{long}' }}"), "").contains("longer"));
}

#[test]
fn capabilities_are_named_and_ambient_ones_are_among_them() {
    let closed = unit("", "").security;
    assert!(closed.capabilities.is_empty() && closed.ambient.is_empty() && closed.devices.is_empty());
    let table = "[security]\ncapabilities = ['CAP_NET_RAW', 'chown', 'net_raw']\nambient = ['cap_chown']";
    let security = unit("", table).security;
    let names =
        |set: &std::collections::BTreeSet<Capability>| set.iter().map(|c| c.name()).collect::<Vec<_>>();
    assert_eq!(names(&security.capabilities), ["CAP_CHOWN", "CAP_NET_RAW"]);
    assert_eq!(names(&security.ambient), ["CAP_CHOWN"]);
    let said = mistake("", "[security]\nambient = ['CAP_CHOWN']");
    assert_eq!(said, "CAP_CHOWN is not one of `capabilities`, and nobody can have more than those");
    for bad in ["CAP_NET_RAWW", "all", "~CAP_CHOWN", "", "13", "ä", "CAP_ä", "cäp"] {
        let said = mistake("", &format!("[security]\ncapabilities = ['{bad}']"));
        assert_eq!(said, format!("{bad:?} is not a capability"));
    }
}

#[test]
fn only_a_network_of_its_own_makes_power_over_the_network() {
    let power = |tables: &str| unit("", tables).has_network_power();
    assert!(!power(""));
    assert!(!power("[security]\ncapabilities = ['CAP_NET_BIND_SERVICE', 'CAP_SYS_ADMIN']"));
    for name in ["CAP_NET_ADMIN", "CAP_NET_RAW"] {
        let table = format!("[security]\ncapabilities = ['{name}']\n");
        assert!(power(&table));
        assert!(power(&format!("{table}[network]\nmode = 'none'")));
        assert!(!power(&format!("{table}[network]\nmode = 'host'")));
    }
}

#[test]
fn devices_are_nodes_below_dev_with_a_way_to_use_them() {
    let table = "[security]\ndevices = ['/dev/kvm', '/dev/bus/usb/001/002 r', '/dev/ppp  w', '/dev/fuse rw']";
    let devices: Vec<String> = unit("", table).security.devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["/dev/kvm rw", "/dev/bus/usb/001/002 r", "/dev/ppp w", "/dev/fuse rw"]);
    for (bad, said) in [
        ("/etc/passwd", "\"/etc/passwd\" is not a device node"),
        ("/dev", "\"/dev\" is not a device node"),
        ("/dev/null w", "\"/dev/null\" is in every /dev"),
        ("/dev/../etc/passwd", "the path \"/dev/../etc/passwd\" goes up with \"..\""),
        ("kvm", "\"kvm\" is not an absolute path"),
        ("/dev/kvm rwm", "\"rwm\": a service makes no device nodes"),
        ("/dev/kvm x", "\"x\" is not a way to use a device"),
    ] {
        assert_eq!(mistake("", &format!("[security]\ndevices = ['{bad}']")), said);
    }
    let twice = "[security]\ndevices = ['/dev/kvm', '/dev/kvm r']";
    assert_eq!(mistake("", twice), "\"/dev/kvm\" is listed twice");
    let shown = "[rootfs]\ndev = ['/dev/kvm']\n[security]\ndevices = ['/dev/kvm']";
    assert_eq!(mistake("", shown), "\"/dev/kvm\" is listed twice");
    let host = "[rootfs]\ndev = 'host'\n[security]\ndevices = ['/dev/kvm']";
    assert_eq!(
        mistake("", host),
        "with `rootfs.dev = \"host\"` every node is there already, with the host's modes"
    );
}

#[test]
fn the_filter_is_closed_until_a_key_opens_it() {
    let security = unit("", "").security;
    let seccomp = |allow: &[&str]| Seccomp {
        allow: allow.iter().map(|word| (*word).to_owned()).collect(),
        kill: Vec::new(),
        log: Vec::new(),
        action: Denial::Eperm,
    };
    assert_eq!(security.seccomp, seccomp(&["@service"]));
    assert!(security.native_abi_only && security.lock_personality && security.no_realtime);
    assert!(security.no_suid && security.no_namespaces && !security.no_wx);
    let of = |value: &str| unit("", &format!("[security]\nseccomp = {value}")).security.seccomp;
    assert_eq!(of("'@basic-io'"), seccomp(&["@basic-io"]));
    assert_eq!(of("['@service', 'bpf', '~@keyring']"), seccomp(&["@service", "bpf", "~@keyring"]));
    assert_eq!(of("{ allow = 'bpf' }"), seccomp(&["bpf"]));
    let table = of("{ kill = '@reboot', log = ['@mount', 'bpf'], action = 'log' }");
    assert_eq!((table.allow, table.kill), (vec!["@service".to_owned()], vec!["@reboot".to_owned()]));
    assert_eq!((table.log.len(), table.action), (2, Denial::Log));
}

#[test]
fn a_name_that_is_no_system_call_is_refused_with_the_nearest() {
    let message = |value: &str| mistake("", &format!("[security]\nseccomp = {value}"));
    assert_eq!(message("'@servce'"), "\"@servce\" is not a group of system calls that this version knows");
    assert_eq!(message("['opnat']"), "\"opnat\" is not a system call that this version knows");
    assert_eq!(message("['~write']"), "no program can be started without write");
    assert_eq!(message("{ kill = 'execve' }"), "no program can be started without execve");
    assert_eq!(message("{ log = '~bpf' }"), "nothing can be taken out of this list with \"~bpf\"");
    assert_eq!(message("{ action = 'EACCES' }"), "\"EACCES\" is not a value of `security.seccomp.action`");
    assert_eq!(
        message("7"),
        "`security.seccomp` takes a string, a list of strings or a table, not the number 7"
    );
    assert_eq!(message("{ allows = [] }"), "unknown key `allows` in `security.seccomp`");
}

#[test]
fn address_families_are_listed_or_any() {
    let of =
        |value: &str| unit("", &format!("[network]\naddress_families = {value}")).network.address_families;
    assert_eq!(unit("", "").network.address_families, Families::Default);
    assert_eq!(of("'any'"), Families::Any);
    assert_eq!(of("[]"), Families::Only(Vec::new()));
    assert_eq!(of("['inet', 'unix', 'inet']"), Families::Only(vec!["inet".to_owned(), "unix".to_owned()]));
    assert_eq!(of("'unix'"), Families::Only(vec!["unix".to_owned()]));
    let wrong = mistake("", "[network]\naddress_families = ['AF_INET']");
    assert_eq!(wrong, "\"AF_INET\" is not an address family");
}

fn timer(keys: &str) -> Timer {
    unit("", &format!("[timer]\n{keys}")).timer.unwrap()
}

#[test]
fn a_timer_says_when() {
    let shown = |timer: &Timer| timer.calendars.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(unit("", "").timer, None);
    let plain = timer("calendar = 'daily'");
    assert_eq!(shown(&plain), ["*-*-* 00:00:00"]);
    assert_eq!((plain.jitter, plain.persistent, plain.overlap), (Duration::ZERO, false, Overlap::Skip));
    assert_eq!((plain.every, plain.after_boot, plain.after_end, plain.timezone), (None, None, None, None));
    let all = timer(
        "calendar = ['Mon 09:00 Europe/Berlin', '*-*~1 UTC']\ncron = '0 0 13 * 5'\ntimezone = 'Europe/Berlin'\n\
         every = '1h'\nafter_boot = '0s'\nafter_end = 90\njitter = '10min'\npersistent = true\noverlap = 'queue'",
    );
    let calendars =
        ["Mon *-*-* 09:00:00 Europe/Berlin", "*-*~01 00:00:00 UTC", "*-*-13 00:00:00", "Fri *-*-* 00:00:00"];
    assert_eq!(shown(&all), calendars);
    assert_eq!(all.timezone.as_deref(), Some("Europe/Berlin"));
    assert_eq!((all.every, all.after_boot), (Some(Duration::from_secs(3600)), Some(Duration::ZERO)));
    assert_eq!((all.after_end, all.jitter), (Some(Duration::from_secs(90)), Duration::from_secs(600)));
    assert_eq!((all.persistent, all.overlap), (true, Overlap::Queue));
    // It is in the state that a successor reads.
    let text = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<Timer>(&text).unwrap(), all);
}

#[test]
fn a_timer_that_cannot_be_is_refused() {
    let message = |keys: &str| mistake("", &format!("[timer]\n{keys}"));
    assert_eq!(message("jitter = '5s'"), "the timer does not say when");
    assert_eq!(message("every = '0s'"), "0s is less than a second");
    assert_eq!(message("after_end = 0.5"), "0.5 is less than a second");
    assert_eq!(message("every = 'infinity'"), "this cannot be \"infinity\"");
    assert_eq!(message("calendar = 'daily Mars/Olympus'"), "this host knows no time zone \"Mars/Olympus\"");
    assert_eq!(message("cron = '@daily'\ntimezone = 'CET'"), "this host knows no time zone \"CET\"");
    assert_eq!(message("cron = '@daily'\noverlap = 'wait'"), "\"wait\" is not a value of `timer.overlap`");
    assert_eq!(
        message("after_boot = '1min'\npersistent = true"),
        "`persistent` is for `calendar`, `cron` and `every`: nothing else can be missed"
    );
    assert_eq!(
        message("calendar = ['daily', '25:00']"),
        "\"25:00\" is not a calendar expression: there is no hour 25"
    );
    assert_eq!(
        message("cron = '60 * * * *'"),
        "\"60 * * * *\" is not a cron expression: \"60\" is not a minute"
    );
    assert_eq!(message("every = '1h'\nwhen = 'daily'"), "unknown key `when` in `timer`");
}

#[test]
fn the_page_about_timers_shows_a_file_that_is_one() {
    let page = include_str!("../../../docs/timers.md");
    let file = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let unit = parse_str("backup", file, &host()).unwrap();
    let timer = unit.timer.unwrap();
    assert_eq!(timer.calendars[0].to_string(), "Mon..Sat *-*-* 02:30:00 Europe/Berlin");
    assert!(timer.persistent);
}

#[test]
fn two_runs_have_what_they_can_share() {
    let socket = "[[socket]]\nlisten = 80\n";
    let rollout = "rollout = 'blue-green'\n";
    assert_eq!(unit(rollout, socket).service.rollout, Rollout::BlueGreen);
    for (service, tables, what) in [
        (rollout, "", "share what Palisade listens on"),
        ("rollout = 'blue-green'\ntype = 'oneshot'\n", socket, "a oneshot has nothing"),
        (rollout, "[[socket]]\nlisten = 80\n[security]\ncapabilities = ['CAP_NET_ADMIN']\n", "power over"),
        (
            rollout,
            "[[socket]]\nlisten = 80\n[rootfs]\nbase = 'dir'\ndir = '/srv/root'\nwritable = 'persistent'\n",
            "one persistent root",
        ),
        (rollout, "[[socket]]\nlisten = 80\n[restart]\nmode = 'in-place'\n", "keeps one sandbox"),
    ] {
        let said = mistake(service, tables);
        assert!(said.contains(what), "{said}");
    }
}
