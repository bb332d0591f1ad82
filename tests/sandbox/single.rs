//! One service in the foreground: `palisade run FILE`.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::{
    support::{
        LONG, World, probe, wait_until,
        world::{describe, wait_http},
    },
    walls,
};

/// No link to the world, so that tests about something else do not need one.
const NO_NETWORK: &str = "network.mode = \"none\"";

/// Runs the probe's report as a service with these further keys.
fn report(world: &World, keys: &str) -> Value {
    let output = world.run(&world.probe_toml(&["report"], keys));
    parse(&output)
}

/// The report in what a service printed.
fn parse(output: &Output) -> Value {
    assert!(output.status.success(), "{}", describe(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", describe(output)))
}

/// Runs the probe with `args` and returns its trimmed output.
fn says(world: &World, args: &[&str], keys: &str) -> String {
    let output = world.run(&world.probe_toml(args, keys));
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A directory root with nothing in it but places to mount on.
fn directory_root(world: &World) -> String {
    let root = world.dir().join("root");
    for place in ["dev", "proc", "sys", "tmp", "run", "probe"] {
        fs::create_dir_all(root.join(place)).expect("a new name");
    }
    root.display().to_string()
}

pub fn a_reader_who_does_not_read_keeps_nobody_from_ending_it(world: &mut World) {
    let keys = format!("service.command = [\"/usr/bin/yes\"]\n{NO_NETWORK}\n");
    let file = world.write("single/once.toml", &keys);
    let mut command = world.command(&["run"]);
    command.args(world.places()).arg(file);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("palisade runs");
    let output = run.stdout.take().expect("piped");
    let waiting = || {
        // FIONREAD: the pipe is full when no more comes.
        let there = |output: &_| rustix::io::ioctl_fionread(output).expect("a pipe");
        there(&output) >= 60 << 10
    };
    wait_until("the pipe is full", LONG, waiting);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(run.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it lives");
    let mut ended = None;
    wait_until("it has ended", LONG, || {
        ended = run.try_wait().expect("our child");
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(128 + 15), "the service's own end");
    drop(output);
}

pub fn the_default_sandbox_has_no_hole(world: &mut World) {
    let inside = report(world, "");
    assert_eq!(walls::holes(&inside, &probe::report()), Vec::<String>::new(), "{inside:#}");
    assert_eq!(walls::texts(&inside["interfaces"]), ["lo", "eth0"]);
    assert_eq!(inside["hostname"], "once", "the service's name");
    assert_eq!(walls::field(&inside, "Umask"), "0077");
}

pub fn a_directory_root_has_no_hole(world: &mut World) {
    let root = directory_root(world);
    let inside = report(world, &format!("rootfs.base = \"dir\"\nrootfs.dir = \"{root}\""));
    assert_eq!(walls::holes(&inside, &probe::report()), Vec::<String>::new(), "{inside:#}");
    let seen = walls::texts(&inside["root"]);
    assert!(
        !seen.contains(&"home".to_owned()) && !seen.contains(&"boot".to_owned()),
        "of the host: {seen:?}"
    );
}

pub fn an_empty_root_holds_only_what_was_mounted(world: &mut World) {
    let inside = report(world, &format!("rootfs.base = \"none\"\n{NO_NETWORK}"));
    let known = ["dev", "etc", "probe", "proc", "root", "run", "sys", "tmp", "var"];
    let more: Vec<String> =
        walls::texts(&inside["root"]).into_iter().filter(|n| !known.contains(&&**n)).collect();
    assert_eq!(more, Vec::<String>::new());
}

pub fn nothing_of_the_caller_leaks_in(world: &mut World) {
    let toml = world.probe_toml(&["report"], NO_NETWORK);
    let file = world.write("single/once.toml", &toml);
    let mut command = world.command(&["run"]);
    command.args(world.places()).arg(file).env("LEAKED", "yes").current_dir("/tmp");
    // A secret on standard input and one on a descriptor that close-on-exec does not cover.
    command.stdin(Stdio::piped());
    let (secret, _other) = rustix::pipe::pipe().expect("a pipe");
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).expect("fcntl");
    let inside = parse(&command.output().expect("the program under test starts"));
    assert_eq!(walls::holes(&inside, &probe::report()), Vec::<String>::new(), "{inside:#}");
    assert!(!inside["env"].to_string().contains("LEAKED"), "{}", inside["env"]);
}

pub fn a_directory_of_the_host_is_no_standard_input(world: &mut World) {
    let named = format!("service.stdin = \"file:{}\"\n{NO_NETWORK}", world.dir().display());
    for keys in [named, format!("service.stdin = \"inherit\"\n{NO_NETWORK}")] {
        let file = world.write("single/once.toml", &world.probe_toml(&["report"], &keys));
        let mut command = world.command(&["run"]);
        command.args(world.places()).arg(file).stdin(fs::File::open("/").expect("it is there"));
        let output = command.output().expect("the program under test starts");
        assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("EISDIR"), "{}", describe(&output));
    }
}

pub fn the_environment_is_what_the_file_says(world: &mut World) {
    let inside = report(world, &format!("service.env = {{ A = \"1\", B = \"two words\" }}\n{NO_NETWORK}"));
    let env = inside["env"].as_object().expect("a table");
    assert_eq!((env["A"].as_str(), env["B"].as_str()), (Some("1"), Some("two words")));
    let known = ["A", "B", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"];
    let more: Vec<&String> = env.keys().filter(|k| !known.contains(&k.as_str())).collect();
    assert!(more.is_empty(), "{more:?}");
}

pub fn process_attributes_are_what_the_file_says(world: &mut World) {
    let keys = format!(
        "service.user = 1234\nservice.group = 2345\nservice.extra_groups = [3456]\nservice.umask = \"0027\"\n\
         service.nice = 5\nservice.oom_score_adj = 300\nservice.working_dir = \"/tmp\"\n\
         namespaces.hostname = \"other\"\n{NO_NETWORK}"
    );
    let inside = report(world, &keys);
    let field = |name| walls::field(&inside, name);
    assert_eq!(field("Uid"), "1234 1234 1234 1234");
    assert_eq!(field("Gid"), "2345 2345 2345 2345");
    assert_eq!(field("Groups"), "3456");
    assert_eq!(field("Umask"), "0027");
    assert_eq!((&inside["nice"], &inside["oom_score_adj"]), (&Value::from(5), &Value::from("300")));
    assert_eq!((&inside["cwd"], &inside["hostname"]), (&Value::from("/tmp"), &Value::from("other")));
}

pub fn the_exit_status_is_the_payloads(world: &mut World) {
    for code in [0, 1, 42, 255] {
        let output = world.run(&world.probe_toml(&["exit", &code.to_string()], NO_NETWORK));
        assert_eq!(output.status.code(), Some(code), "{}", describe(&output));
    }
}

pub fn a_signal_is_128_and_its_number(world: &mut World) {
    let output = world.run(&world.probe_toml(&["signal", "9"], NO_NETWORK));
    assert_eq!(output.status.code(), Some(128 + 9), "{}", describe(&output));
}

pub fn what_a_killed_run_leaves_is_cleared_by_the_next(world: &mut World) {
    let keys = "network.publish = [\"127.0.0.1:8080:80\"]";
    let file = world.write("single/once.toml", &world.probe_toml(&["http", "80"], keys));
    let state = world.dir().join("state").display().to_string();
    let mut command = world.command(&["run", "--state", &state, &file.display().to_string()]);
    let mut run = command.stdout(Stdio::null()).spawn().expect("the program under test starts");
    wait_http("127.0.0.1:8080", "/");
    run.kill().and_then(|()| run.wait()).expect("it is our child");
    world.reap();
    // Group, table and lock are there; the guard sees them unless the next run, of another service, takes them away.
    assert_eq!(says(world, &["print", "next"], NO_NETWORK), "next");
}

pub fn a_missing_program_is_127_and_leaves_nothing(world: &mut World) {
    let output = world.run("[service]\ncommand = \"/usr/bin/no-such-program\"\n");
    assert_eq!(output.status.code(), Some(127), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/usr/bin/no-such-program") && said.contains("ENOENT"), "{said}");
    assert!(
        said.ends_with("/single/once.toml:2 decides it\n") && said.contains("  service.command of "),
        "{said}"
    );
}

pub fn a_run_timeout_is_124(world: &mut World) {
    let keys = format!("service.timeout = {{ run = \"200ms\" }}\n{NO_NETWORK}");
    let output = world.run(&world.probe_toml(&["wait"], &keys));
    assert_eq!(output.status.code(), Some(124), "{}", describe(&output));
}

pub fn mode_none_has_loopback_only(world: &mut World) {
    let inside = report(world, NO_NETWORK);
    assert_eq!(walls::texts(&inside["interfaces"]), ["lo"]);
}

pub fn the_root_cannot_be_written(world: &mut World) {
    for path in ["/x", "/usr/x", "/etc/x", "/probe/x", "/dev/x", "/sys/x", "/proc/sys/kernel/core_pattern"] {
        let said = says(world, &["write", path], &format!("service.user = 0\n{NO_NETWORK}"));
        assert!(["EROFS", "EACCES", "EPERM", "ENOENT"].contains(&said.as_str()), "{path}: {said}");
    }
    assert_eq!(says(world, &["write", "/tmp/x"], NO_NETWORK), "ok");
}

pub fn an_ephemeral_root_forgets(world: &mut World) {
    let root = directory_root(world);
    let keys = format!(
        "service.user = 0\nrootfs.base = \"dir\"\nrootfs.dir = \"{root}\"\nrootfs.writable = \"ephemeral\"\n{NO_NETWORK}"
    );
    assert_eq!(says(world, &["write", "/x"], &keys), "ok");
    assert!(!world.dir().join("root/x").exists());
}

pub fn a_writable_mount_belongs_to_the_service_inside_and_to_its_owner_outside(world: &mut World) {
    let data = world.dir().join("data");
    fs::create_dir(&data).expect("a new name");
    chown(&data, Some(4321), Some(4321)).expect("root may");
    let keys = format!("service.user = 77\n{NO_NETWORK}");
    let mount = format!("{{ src = \"{}\", dst = \"/data\", ro = false }}", data.display());
    let toml = world
        .probe_toml(&["write", "/data/x"], &keys)
        .replace("exec = true }", &format!("exec = true }}, {mount}"));
    let output = world.run(&toml);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok", "{}", describe(&output));
    let made = fs::metadata(data.join("x")).expect("the service wrote it");
    assert_eq!((made.uid(), made.gid()), (4321, 4321));
}

pub fn a_writable_mount_of_roots_directory_is_refused(world: &mut World) {
    let data = world.dir().join("data");
    fs::create_dir(&data).expect("a new name");
    let mount = format!("{{ src = \"{}\", dst = \"/data\", ro = false }}", data.display());
    let toml = world.probe_toml(&["write", "/data/x"], NO_NETWORK);
    // Of root, and of its group alone, as `install -d -o USER` leaves it: nobody inside could write there.
    for (user, why) in [(0, "belongs to root"), (4321, "belongs to the group of root")] {
        chown(&data, Some(user), Some(0)).expect("root may");
        let output = world.run(&toml.replace("exec = true }", &format!("exec = true }}, {mount}")));
        assert!(!output.status.success(), "{}", describe(&output));
        assert!(!data.join("x").exists());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for text in [&format!("{} {why}", data.display()), "`chown USER: SOURCE`"] {
            assert!(said.contains(text), "{text}: {said}");
        }
    }
}

pub fn proc_none_and_sys_none_are_not_there(world: &mut World) {
    let keys = format!("rootfs.base = \"none\"\nrootfs.proc = \"none\"\nrootfs.sys = \"none\"\n{NO_NETWORK}");
    for path in ["/proc/self/comm", "/sys/kernel/uevent_seqnum"] {
        assert_eq!(says(world, &["write", path], &keys), "ENOENT", "{path}");
    }
}

pub fn an_unknown_key_is_refused_with_line_and_column(world: &mut World) {
    let output = world.run("[service]\ncommand = \"/bin/true\"\nnicee = 3\n");
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("once.toml:3:1") && said.contains("nicee") && said.contains("`nice`"), "{said}");
}

/// Nobody waits here for a service to be ready: what it says goes nowhere, and keeps it from nothing.
pub fn a_daemon_is_followed_and_what_a_service_says_goes_nowhere(world: &mut World) {
    let run = |keys: &str, script: &str| {
        let toml =
            format!("service.command = [\"/bin/sh\", \"-c\", '{script}']\nnetwork.mode = \"none\"\n{keys}\n");
        world.run(&toml)
    };
    let daemon = run("service.type = \"forking\"", "(echo daemon; exit 3) & exit 0");
    let daemon = (daemon.status.code(), String::from_utf8_lossy(&daemon.stdout).into_owned());
    // Where the daemon was quicker than its starter it is its starter's end that counts.
    assert!(matches!(daemon.0, Some(0 | 3)), "{daemon:?}");
    let after = "while kill -0 $$$$ 2>/dev/null; do sleep 0.02; done";
    let waits =
        run("service.type = \"forking\"", &format!("({after}; sleep 1; echo daemon; exit 3) & exit 0"));
    assert_eq!(waits.status.code(), Some(3), "{}", describe(&waits));
    let silent = "service.type = \"notify\"\nservice.watchdog = \"10ms\"";
    let silent = run(silent, "sleep 0.1; env | grep NOTIFY; exit 4");
    assert!(silent.stdout.is_empty(), "{}", describe(&silent));
    assert_eq!(silent.status.code(), Some(4));
    let before = "service.pre_start = [\"/bin/true\"]";
    for keys in ["service.ready = \"fd\"".to_owned(), format!("service.ready = \"fd\"\n{before}")] {
        let writes = run(&keys, "echo ready >&3 && exit 5");
        assert_eq!(writes.status.code(), Some(5), "{keys}: {}", describe(&writes));
    }
}
