//! Launches that fail, at every step; supervisors that die in the middle of one.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command},
};

use nix::sys::signal::{Signal, kill};

use crate::support::{
    LONG, World,
    snapshot::{self, Snapshot},
    wait_for, wait_until,
    world::{PALISADE, PROBE, http_soon, wait_http},
};

/// A service with one of everything that takes a host step of its own.
fn rich(world: &World) -> String {
    let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
    format!(
        "service.command = [\"{PROBE}\", \"__probe\", \"http\", \"80\"]\n{mounts}\n\
         rootfs.hide = [\"/usr/share\"]\nrootfs.read_only = [\"/tmp\"]\nservice.oom_score_adj = 500\n\
         security.credentials = [{{ name = \"t\", command = \"/bin/true\" }}]\n\
         network.publish = [\"8081:80\", \"8082:81/udp\"]\nnetwork.egress = \"any\"\n\
         network.bandwidth.ingress = \"1Gbit\"\nnetwork.firewall = \"insert\"\n"
    )
}

pub fn every_step_may_fail_and_leaves_nothing(world: &mut World) {
    let toml = rich(world);
    every_step_fails(world, &toml);
}

pub fn every_step_with_power_may_fail_and_leaves_nothing(world: &mut World) {
    let powers = "security.capabilities = [\"CAP_NET_ADMIN\", \"CAP_CHOWN\"]\n\
                  security.ambient = [\"CAP_NET_ADMIN\"]\nsecurity.devices = [\"/dev/kmsg\"]\n\
                  service.type = \"forking\"\nservice.pid_file = \"/run/a.pid\"\nservice.ready = \"fd:7\"\n\
                  service.watchdog = \"1h\"\n";
    let toml = format!("{}{powers}", rich(world));
    every_step_fails(world, &toml);
}

/// Which addresses may talk is a supervisor's to know, so a plan of one file alone has no such step.
pub fn a_talk_that_is_not_allowed_leaves_nothing(world: &mut World) {
    let keys = |keys: &str| world.probe_toml(&["http", "80"], keys);
    let file = world.write_service("web", &keys("network.egress = \"any\"\nnetwork.allow_to = [\"db:80\"]"));
    world.write_service("db", &keys("unit.enabled = false"));
    let plan = world.ok(&["plan", &file.display().to_string(), "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    let step = plan["steps"].as_array().expect("a list").iter().find(|step| step["step"] == "egress");
    let number = step.and_then(|step| step["number"].as_u64()).expect("it goes out") + 1;
    let before = Snapshot::take(world);
    let mut command = world.supervise();
    command.arg("--fail-at").arg(format!("web:host:{number}"));
    world.start_by(command);
    world.wait_state("web", "failed");
    let status = world.status("web");
    assert_eq!(status["fault"]["step"], format!("host step {number} talk").as_str(), "{status}");
    assert!(status["pid"].is_null() && status["init_pid"].is_null(), "{status}");
    assert_eq!(world.stop(), Ok(()));
    assert_eq!(before.wait_until_again(world), Vec::<String>::new());
}

fn every_step_fails(world: &mut World, toml: &str) {
    let file = world.write_service("web", toml);
    let plan = world.ok(&["plan", &file.display().to_string(), "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    let steps = plan["steps"].as_array().expect("a list").clone();
    let count = |side| steps.iter().filter(|step| step["side"] == side).count();
    assert!(count("host") > 20 && count("child") > 20, "{steps:?}");
    let before = Snapshot::take(world);
    for step in &steps {
        let (side, number) = (step["side"].as_str().expect("text"), &step["number"]);
        // What the supervisor meets is made up; inside it is a system call that no kernel has.
        let errno = if side == "host" { "EIO" } else { "ENOSYS" };
        let mut command = world.supervise();
        command.arg("--fail-at").arg(format!("web:{side}:{number}"));
        world.start_by(command);
        world.wait_state("web", "failed");
        let status = world.status("web");
        let name = format!("{side} step {number} {}", step["step"].as_str().expect("text"));
        assert_eq!(status["fault"]["step"], name.as_str(), "{status}");
        assert!(status["fault"]["error"].as_str().is_some_and(|error| error.contains(errno)), "{status}");
        assert!(status["pid"].is_null() && status["init_pid"].is_null(), "{status}");
        let said = world.palisade(&["status", "web"]);
        assert_eq!(said.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&said.stdout).contains(&name));
        // While the supervisor lives on: its own things, and nothing of the service.
        let cgroup = world.cgroup();
        let groups = fs::read_dir(&cgroup).into_iter().flatten().flatten();
        let groups: Vec<_> = groups.filter(|e| e.path().is_dir()).map(|e| e.file_name()).collect();
        assert_eq!(groups, Vec::<std::ffi::OsString>::new(), "{name}");
        assert!(!snapshot::processes().iter().any(|p| p.contains("__probe http")), "{name}");
        let traces = fs::read_dir(world.run_dir().join("init")).into_iter().flatten().flatten();
        let traces: Vec<_> = traces.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert!(!traces.iter().any(|n| n.starts_with("web")), "{name}: {traces:?}");
        assert_eq!(world.stop(), Ok(()), "{name}");
        assert_eq!(before.wait_until_again(world), Vec::<String>::new(), "{name}");
    }
}

pub fn whatever_is_read_back_may_differ_and_is_named(world: &mut World) {
    let file = world.write_service("web", &rich(world));
    let plan = world.ok(&["plan", &file.display().to_string(), "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    let steps = plan["steps"].as_array().expect("a list").clone();
    let mut seen = 0;
    for step in steps.iter().filter(|step| step["step"] == "attest") {
        let items = step["object"].as_str().expect("text").split(' ');
        for (n, item) in items.enumerate() {
            let mut command = world.supervise();
            command.arg("--fail-at").arg(format!("web:child:{}.{}", step["number"], n + 1));
            world.start_by(command);
            world.wait_state("web", "failed");
            let status = world.status("web");
            assert_eq!(status["fault"]["step"], format!("child step {} attest", step["number"]), "{status}");
            assert_eq!(status["fault"]["object"], item, "{status}");
            assert!(status["fault"]["hint"].is_string(), "{status}");
            assert!(status["pid"].is_null() && status["attested"] == serde_json::json!([]), "{status}");
            assert_eq!(world.stop(), Ok(()), "{item}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} things are read back");
}

pub fn what_was_read_back_is_shown_also_by_a_successor(world: &mut World) {
    world.write_service("web", &rich(world));
    world.start();
    world.wait_state("web", "active");
    let attested = world.status("web")["attested"].clone();
    let has = |text: &str| attested.as_array().is_some_and(|all| all.iter().any(|line| line == text));
    for text in [
        "namespaces mnt pid uts ipc cgroup user net",
        "root",
        "/ ro,nosuid,nodev",
        "user",
        "no_new_privs",
        "keyring",
        "no user namespaces",
        "rlimits",
    ] {
        assert!(has(text), "{text}: {attested}");
    }
    assert!(world.ok(&["status", "web"]).contains("no_new_privs"));
    world.kill_supervisor();
    world.start();
    assert_eq!(world.status("web")["attested"], attested);
    // And a session of the successor's is held to the same.
    assert_eq!(world.ok(&["exec", "web", "--", PROBE, "__probe", "print", "x"]).trim(), "x");
}

/// What a launch that has to fail in the sandbox is said to have failed with.
fn faulty(world: &World, name: &str) -> (String, String, String) {
    wait_until(&format!("{name} has failed"), LONG, || !world.status(name)["fault"].is_null());
    let fault = world.status(name)["fault"].clone();
    let text = |key: &str| fault[key].as_str().unwrap_or_default().to_owned();
    let step = text("step");
    let name = step.rsplit(' ').next().unwrap_or_default().to_owned();
    assert!(step.starts_with("child step "), "{fault}");
    (name, text("error"), text("hint"))
}

pub fn a_child_step_that_fails_is_named(world: &mut World) {
    world.write("probe/script", "#!/no/such/interpreter\n");
    world.write("probe/text", "\u{7f}garbage\n");
    world.write("probe/plain", "#!/bin/sh\n");
    for name in ["script", "text"] {
        let path = world.dir().join("probe").join(name);
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(path, mode).expect("written just now");
    }
    let cases: [(&str, &str, &str, &str, &str); 6] = [
        ("lost", "/no/such", "", "exec", "execve(/no/such): ENOENT"),
        ("script", "/probe/script", "", "exec", "execve(/probe/script): ENOENT"),
        ("text", "/probe/text", "", "exec", "execve(/probe/text): ENOEXEC"),
        ("plain", "/probe/plain", "", "exec", "execve(/probe/plain): EACCES"),
        ("noexec", "/tmp", "", "exec", "execve(/tmp): EACCES"),
        (
            "dir",
            "/probe/probe",
            "service.working_dir = \"/nowhere\"",
            "working_dir",
            "chdir(/nowhere): ENOENT",
        ),
    ];
    for (name, program, keys, ..) in cases {
        let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
        let toml = format!("service.command = [\"{program}\"]\n{mounts}\nnetwork.mode = \"none\"\n{keys}\n");
        world.write_service(name, &toml);
    }
    world.start();
    for (name, _, _, step, error) in cases {
        let (at, said, hint) = faulty(world, name);
        assert_eq!(at, step, "{name}: {said}");
        assert!(said.contains(error), "{name}: {said}");
        assert!(!hint.is_empty(), "{name}: a hint for {said}");
        wait_until(&format!("{name} is at rest"), LONG, || {
            ["failed", "backoff"].contains(&world.state(name).as_str())
        });
        assert!(world.status(name)["init_pid"].is_null(), "{name}: its init has ended");
    }
}

/// A supervisor under strace(1), which kills it at the entry of the `nth` system call `name`.
fn strace(world: &World, kill: Option<(&str, usize)>) -> Child {
    let mut command = Command::new("strace");
    command.arg("-o").arg(world.dir().join("trace")).args(["-e", "signal=none"]);
    if let Some((name, nth)) = kill {
        command.arg("-e").arg(format!("inject={name}:signal=KILL:when={nth}"));
    }
    command.arg(PALISADE).arg("--config").arg(world.dir().join("palisade.toml"));
    command.arg("--run").arg(world.run_dir()).args(["supervise", "--services"]);
    command.arg(world.services_dir()).args(world.places());
    world.join_supervisor_log(&mut command);
    command.spawn().expect("declared as a need")
}

/// The names of the system calls that a supervisor makes from the reading of its file to the first answer of its service.
fn calls_of_a_launch(world: &World) -> Vec<(String, usize)> {
    let mut traced = strace(world, None);
    wait_http("127.0.0.1:8081", "/");
    wait_until("it is active", LONG, || world.state("web") == "active");
    let text = fs::read_to_string(world.dir().join("trace")).expect("strace writes it");
    signal_below(&traced, Signal::SIGTERM);
    assert!(traced.wait().expect("our child").success());
    let mut counts = BTreeMap::new();
    let mut all = Vec::new();
    for name in text.lines().filter_map(|line| Some(line.split_once('(')?.0)) {
        let nth = counts.entry(name).and_modify(|n| *n += 1).or_insert(1_usize);
        all.push((name.to_owned(), *nth));
    }
    let first = text.lines().position(|line| line.contains("services/web.toml")).expect("it is read");
    all.split_off(first)
}

/// Sends a signal to what strace runs.
fn signal_below(strace: &Child, signal: Signal) {
    let pid = strace.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    // Its end in between is what is wanted.
    if let Some(child) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
        let _ = kill(nix::unistd::Pid::from_raw(child), signal);
    }
}

pub fn a_supervisor_killed_anywhere_in_a_launch_has_a_successor(world: &mut World) {
    world.write_service("web", &rich(world));
    let before = Snapshot::take(world);
    let calls = calls_of_a_launch(world);
    assert_eq!(before.wait_until_again(world), Vec::<String>::new());
    let mut missed = 0;
    // Sixty points by default; a nightly run takes more, and PALISADE_TEST_SCALE for the time.
    let points = std::env::var("PALISADE_TEST_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let step = (calls.len() / points).max(1);
    for (name, nth) in calls.iter().step_by(step) {
        let mut traced = strace(world, Some((name, *nth)));
        // The calls of two supervisors are not quite the same: this one may come up, and is killed then.
        let ended = wait_for(&format!("death at {name} {nth}, or an answer"), LONG, || {
            match traced.try_wait().expect("our child") {
                Some(status) => Some(Some(status)),
                None => http_soon("127.0.0.1:8081", "/").is_ok().then_some(None),
            }
        });
        if ended.is_none() {
            missed += 1;
            signal_below(&traced, Signal::SIGKILL);
            traced.wait().expect("our child");
        }
        world.start();
        wait_until(&format!("it answers after a death at {name} {nth}"), LONG, || {
            http_soon("127.0.0.1:8081", "/").is_ok_and(|name| name == "web")
        });
        world.wait_state("web", "active");
        let alive = snapshot::processes();
        assert_eq!(alive.iter().filter(|p| p.contains("__probe http")).count(), 1, "{name} {nth}: {alive:?}");
        assert_eq!(world.stop(), Ok(()), "{name} {nth}");
        let left = before.wait_until_again(world);
        assert_eq!(left, Vec::<String>::new(), "{name} {nth}: {}", world.supervisor_log());
    }
    assert!(missed < points / 2, "{missed} of {points} were not killed where they should have been");
}
