//! Limits over the life of a run: a new file, another supervisor, a delegated group, a crash.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::{
    control::{QUIET, detail, file, group, says},
    support::{LONG, World, need, wait_until},
};

pub fn new_limits_bound_a_run_that_lives(world: &mut World) {
    let toml = |world: &World, limits: &str| world.probe_toml(&["wait"], &format!("{QUIET}{limits}"));
    world.write_service(
        "web",
        &toml(world, "limits.memory.max = \"256M\"\nlimits.cpu = { max = \"50%\", weight = 20 }\n"),
    );
    world.start();
    world.wait_state("web", "active");
    let (pid, run) = (world.pid("web"), world.run_id("web"));
    assert_eq!(file(world, "web", "cpu.max"), "50000 100000");
    world.write_service(
        "web",
        &toml(world, "limits.memory.max = \"128M\"\nlimits.pids.max = 99\nlimits.oom = \"kill-one\"\n"),
    );
    let said = world.ok(&["daemon-reload"]);
    assert!(said.contains("without a restart") && said.contains("limits.memory"), "{said}");
    let read = |name| file(world, "web", name);
    wait_until("the kernel has the new limits", LONG, || read("memory.max") == (128 << 20).to_string());
    assert_eq!((read("cpu.max"), read("cpu.weight")), ("max 100000".into(), "100".into()));
    assert_eq!((read("pids.max"), read("memory.oom.group")), ("99".into(), "0".into()));
    assert_eq!((world.pid("web"), world.run_id("web")), (pid, run), "the same run");
    // A limit of each process is another sandbox.
    world.write_service("web", &toml(world, "limits.memory.max = \"128M\"\nlimits.rlimits.nofile = 50\n"));
    world.ok(&["daemon-reload"]);
    wait_until("another run", LONG, || world.run_id("web") > run && world.state("web") == "active");
}

pub fn a_limit_that_somebody_has_changed_is_set_again_at_a_takeover(world: &mut World) {
    world.write_service(
        "web",
        &world.probe_toml(&["wait"], &format!("{QUIET}limits.memory.max = \"100000K\"\n")),
    );
    world.start();
    world.wait_state("web", "active");
    let (pid, dir) = (world.pid("web"), group(world, "web"));
    world.kill_supervisor();
    for (name, value) in [("pids.max", "max"), ("memory.oom.group", "0")] {
        fs::write(dir.join(name), value).expect("root may");
    }
    world.start();
    let read = |name| file(world, "web", name);
    assert_eq!((read("pids.max"), read("memory.oom.group")), ("512".into(), "1".into()));
    assert_eq!(world.pid("web"), pid, "it was not restarted");
    let log = world.supervisor_log();
    assert!(log.contains("its limit pids.max 512 was \"max\", and is set again"), "{log}");
    assert!(!log.contains("its limit memory.max"), "what is as it was is not alarming: {log}");
}

pub fn what_a_run_took_is_known_after_a_takeover(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["eat", "134217728"], QUIET));
    world.start();
    says(world, "web", "ate");
    world.kill_supervisor();
    world.start();
    world.ok(&["stop", "web"]);
    let exit = detail(world, "web")["exits"][0].clone();
    assert!(exit["usage"]["memory_peak"].as_u64() > Some(128 << 20), "{exit}");
    assert!(exit["usage"]["cpu_user_usec"].as_u64() > Some(0), "{exit}");
    assert!(exit["cause"].is_null(), "{exit}");
}

/// clone3(2) says EAGAIN where the group, or one above it, has its pids.max.
pub fn a_launch_without_room_for_a_process_is_tried_again(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], QUIET));
    // With the usual policy: a launch that never came to anything is an end like any other.
    let late = "unit.enabled = false\nrestart.delay = \"50ms\"\nnetwork.mode = \"none\"\n";
    world.write_service("late", &world.probe_toml(&["wait"], late));
    world.start();
    world.wait_state("web", "active");
    let pid = world.pid("web");
    fs::write(world.cgroup().join("pids.max"), "1").expect("root may");
    let output = world.palisade(&["start", "late"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("EAGAIN"), "{said}");
    wait_until("another try", LONG, || world.run_id("late") > 1);
    assert_eq!((world.pid("web"), world.state("web")), (pid, "active".into()));
    fs::write(world.cgroup().join("pids.max"), "max").expect("root may");
    wait_until("it is up", LONG, || world.state("late") == "active");
}

/// As under a service manager that delegates: the supervisor is started in a group that is its own, and knows no other.
pub fn a_delegated_group_is_left_as_it_was(world: &mut World) {
    let unit = world.cgroup().join("unit");
    fs::create_dir_all(&unit).expect("root may");
    let everything: Vec<String> = fs::read_to_string(world.cgroup().join("cgroup.controllers"))
        .expect("a group")
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    fs::write(world.cgroup().join("cgroup.subtree_control"), everything.join(" ")).expect("nobody is in it");
    let config = fs::read_to_string(world.dir().join("palisade.toml")).expect("ours");
    let rest: String = config.lines().skip(2).map(|line| format!("{line}\n")).collect();
    world.write("palisade.toml", &rest);
    world
        .write_service("web", &world.probe_toml(&["wait"], &format!("{QUIET}limits.memory.max = \"64M\"\n")));
    let start = |world: &mut World| {
        let supervise = world.supervise();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(unit.join("cgroup.procs"));
        command.arg(supervise.get_program()).args(supervise.get_args());
        world.join_supervisor_log(&mut command);
        world.start_by(command);
    };
    start(world);
    world.wait_state("web", "active");
    let run = world.run_id("web");
    let dir = unit.join(format!("palisade/web.{run}"));
    assert_eq!(fs::read_to_string(dir.join("memory.max")).expect("a limit").trim(), (64 << 20).to_string());
    let own = fs::read_to_string(unit.join("supervisor/cgroup.procs")).expect("a group of its own");
    assert!(own.lines().any(|pid| pid == world.supervisor_pid().to_string()), "{own}");
    assert_eq!(fs::read_to_string(unit.join("cgroup.procs")).expect("a group"), "");
    world.stop().expect("it stops");
    assert!(!unit.join("palisade").exists() && !unit.join("supervisor").exists());
    assert_eq!(fs::read_to_string(unit.join("cgroup.subtree_control")).expect("a group").trim(), "");
    fs::remove_dir(&unit).expect("nothing is in it");
    fs::remove_dir(world.cgroup()).expect("nothing is in it");
}

/// core(5): a limit of 0 does not keep the kernel from starting a handler. In the guest alone: the pattern is the machine's.
pub fn a_core_handler_is_not_started_unless_asked(world: &mut World) {
    assert!(need::all_required(), "only where a whole machine is ours");
    let seen = world.dir().join("seen");
    let handler =
        world.write("handler", &format!("#!/bin/sh\necho $1 >> {}\ncat > /dev/null\n", seen.display()));
    fs::set_permissions(&handler, fs::Permissions::from_mode(0o755)).expect("ours");
    let pattern = "/proc/sys/kernel/core_pattern";
    let before = fs::read_to_string(pattern).expect("proc");
    fs::write(pattern, format!("|{} %h", handler.display())).expect("root may");
    world.write_service("quiet", &world.probe_toml(&["signal", "6"], QUIET));
    world.write_service(
        "loud",
        &world.probe_toml(&["signal", "6"], &format!("{QUIET}limits.rlimits.core = \"infinity\"\n")),
    );
    world.start();
    for name in ["quiet", "loud"] {
        world.wait_state(name, "failed");
    }
    let lines = || fs::read_to_string(&seen).unwrap_or_default();
    wait_until("the handler of the one that asked", LONG, || lines().contains("loud"));
    fs::write(pattern, before).expect("root may");
    assert!(!lines().contains("quiet"), "{}", lines());
}
