//! `[unit]` condition and assert: what the host is like, asked before every start.

use std::{fs, os::unix::net::UnixStream, path::Path, process::Command};

use nix::sys::signal::{Signal, kill};

use crate::support::{LONG, World, wait_until, world::raw};

const NONE: &str = "network.mode = \"none\"";

fn write(world: &World, name: &str, keys: &str) {
    world.write_service(name, &world.probe_toml(&["wait"], &format!("{keys}\n{NONE}")));
}

/// All that is told of it: `status`, `list`, and the supervisor's log.
fn told(world: &World, name: &str) -> [String; 3] {
    let list = world.palisade(&["list"]).stdout;
    let list = String::from_utf8_lossy(&list).lines().filter(|line| line.contains(name)).collect::<String>();
    let status = String::from_utf8_lossy(&world.palisade(&["status", name]).stdout).into_owned();
    [status, list, world.supervisor_log()]
}

pub fn a_service_is_skipped_while_the_host_is_not_as_its_file_says(world: &mut World) {
    let flag = world.dir().join("flag");
    let condition = format!("unit.condition.path_exists = {flag:?}");
    write(world, "web", &format!("{condition}\nrestart.policy = \"always\"\nrestart.delay = 0"));
    write(world, "needs", "unit.requires = [\"web\"]");
    write(world, "bound", "unit.binds_to = [\"web\"]");
    write(world, "without", &condition.replace("= \"", "= \"!"));
    world.start();
    for (name, state) in [("web", "stopped"), ("needs", "active"), ("bound", "failed"), ("without", "active")]
    {
        world.wait_state(name, state);
    }
    let reason = format!("skipped: path_exists = {flag:?} does not hold");
    for text in told(world, "web") {
        assert!(text.contains(&reason), "{text}");
    }
    let started = world.palisade(&["start", "web"]);
    let said =
        String::from_utf8_lossy(&started.stdout).into_owned() + &String::from_utf8_lossy(&started.stderr);
    assert!(said.contains(&reason), "{said}");

    fs::write(&flag, "").expect("our own directory");
    world.ok(&["start", "web"]);
    world.wait_state("web", "active");
    world.wait_state("bound", "active");
    // It is asked before an automatic restart as well.
    fs::remove_file(&flag).expect("our own file");
    let run = world.run_id("web");
    kill(raw(world.pid("web")), Signal::SIGKILL).expect("our own service");
    world.wait_state("web", "stopped");
    assert_eq!(world.run_id("web"), run + 1, "one more try, and no other");
    for text in told(world, "web") {
        assert!(text.contains(&reason), "{text}");
    }
    world.wait_state("needs", "active");
    wait_until("nothing of it is left", LONG, || !world.cgroup().join("web").exists());
}

pub fn a_start_fails_for_good_where_the_host_is_not_as_is_asserted(world: &mut World) {
    let flag = world.dir().join("flag");
    let keys = format!(
        "unit.assert.path_exists = {flag:?}\nrestart.policy = \"always\"\nrestart.delay = 0\nunit.on_failure = [\"alarm\"]"
    );
    write(world, "web", &keys);
    write(world, "needs", "unit.requires = [\"web\"]");
    write(world, "wants", "unit.wants = [\"web\"]\nunit.after = [\"web\"]");
    write(world, "alarm", "unit.enabled = false");
    // Nothing is asserted of one that is skipped.
    write(world, "both", &format!("{keys}\nunit.condition.cpus = \"<1\""));
    world.start();
    let states = [
        ("web", "failed"),
        ("needs", "failed"),
        ("wants", "active"),
        ("alarm", "active"),
        ("both", "stopped"),
    ];
    for (name, state) in states {
        world.wait_state(name, state);
    }
    let reason = format!("unit.assert: path_exists = {flag:?} does not hold");
    let [status, list, log] = told(world, "web");
    assert!(status.contains(&reason) && log.contains(&reason), "{status}\n{log}");
    assert!(list.contains(&reason["unit.assert: ".len()..]), "{list}");
    assert!(told(world, "needs")[0].contains("dependency failed: web"));
    assert_eq!(world.run_id("web"), 1, "it is not tried again");
    fs::write(&flag, "").expect("our own directory");
    world.ok(&["start", "web"]);
    world.wait_state("web", "active");
    world.wait_state("needs", "active");
}

/// What a program of the host says.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("a program of every host");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

pub fn every_condition_is_true_of_this_host_and_false_when_negated(world: &mut World) {
    let at = |name: &str| world.dir().join(name);
    for dir in ["empty", "full"] {
        fs::create_dir(at(dir)).expect("our own directory");
    }
    fs::write(at("full/file"), "x").expect("our own directory");
    std::os::unix::fs::symlink("full", at("link")).expect("our own directory");
    let release = said("uname", &["-r"]);
    let command_line = fs::read_to_string("/proc/cmdline").expect("the kernel has one");
    let word = command_line.split_whitespace().next().unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").expect("the kernel has one");
    let memory = memory.split_whitespace().nth(1).expect("MemTotal");
    let virt = Path::new("/usr/bin/systemd-detect-virt").exists().then(|| said("systemd-detect-virt", &[]));
    let mut good = vec![
        ("path_exists", at("full/file").display().to_string()),
        ("path_is_directory", at("link").display().to_string()),
        ("path_is_symbolic_link", at("link").display().to_string()),
        ("path_is_mount_point", "/proc".to_owned()),
        ("path_is_read_write", at("full").display().to_string()),
        ("directory_not_empty", at("full").display().to_string()),
        ("file_not_empty", at("link/file").display().to_string()),
        ("file_is_executable", "/bin/sh".to_owned()),
        ("kernel", format!("={release}")),
        ("kernel", ">=5".to_owned()),
        ("kernel", format!("{}*", &release[..3])),
        ("host", said("uname", &["-n"])),
        ("memory", format!("={memory}KiB")),
        ("cpus", format!("={}", said("nproc", &[]))),
        ("architecture", said("uname", &["-m"])),
        ("environment", "PATH".to_owned()),
        ("environment", "PALISADE_OF_NOBODY".to_owned()),
    ];
    if !word.is_empty() {
        good.push(("kernel_command_line", word.to_owned()));
    }
    good.extend(virt.map(|name| ("virtualization", if name == "none" { "no".to_owned() } else { name })));
    good.retain(|(_, value)| value != "PALISADE_OF_NOBODY");
    for (n, (key, value)) in good.iter().enumerate() {
        write(world, &format!("good{n}"), &format!("unit.condition.{key} = {value:?}"));
        write(
            world,
            &format!("bad{n}"),
            &format!("unit.condition.{key} = [{value:?}, {:?}]", format!("!{value}")),
        );
    }
    world.start();
    for (n, (key, value)) in good.iter().enumerate() {
        for (kind, state) in [("good", "active"), ("bad", "stopped")] {
            let name = format!("{kind}{n}");
            wait_until(&format!("{key} {value} {name} {state}"), LONG, || world.state(&name) == state);
        }
    }
}

pub fn a_sandbox_that_waits_goes_when_its_next_run_is_skipped(world: &mut World) {
    let flag = world.dir().join("flag");
    fs::write(&flag, "").expect("our own directory");
    let condition = format!("unit.condition.path_exists = {flag:?}");
    let in_place = "restart.mode = \"in-place\"\nrestart.policy = \"always\"\nrestart.delay = 0";
    write(world, "web", &format!("{condition}\n{in_place}"));
    world.start();
    world.wait_state("web", "active");
    fs::remove_file(&flag).expect("our own file");
    kill(raw(world.pid("web")), Signal::SIGKILL).expect("our own service");
    world.wait_state("web", "stopped");
    wait_until("nothing of it is left", LONG, || !world.cgroup().join("web").exists());
    // Whoever supervises next finds it as it was left, and asks again when it is started.
    world.kill_supervisor();
    world.start();
    assert_eq!(world.state("web"), "stopped");
    fs::write(&flag, "").expect("our own directory");
    world.ok(&["start", "web"]);
    world.wait_state("web", "active");
}

pub fn timers_connections_and_templates_start_no_service_that_is_to_be_skipped(world: &mut World) {
    let (flag, socket) = (world.dir().join("flag"), world.dir().join("socket"));
    let condition = format!("unit.condition.path_exists = {flag:?}");
    write(world, "timed", &format!("{condition}\ntimer.every = \"1s\""));
    let listen = |path: &Path| format!("\n[[socket]]\nlisten = {path:?}\nactivation = \"on-demand\"");
    let keys = format!("{condition}\n{NONE}{}", listen(&socket));
    world.write_service("called", &world.probe_toml(&["wait"], &keys));
    write(world, "many@", &format!("{condition}\nunit.instances = 1"));
    world.start();
    world.wait_state("timed", "stopped");
    wait_until("the timer has tried", LONG, || told(world, "timed")[0].contains("skipped"));
    wait_until("the instance was skipped", LONG, || told(world, "many@1")[0].contains("skipped"));
    let client = UnixStream::connect(&socket).expect("somebody listens");
    // Its client waits on, so that it is tried again and again: by and by too often.
    wait_until("the connection has tried", LONG, || told(world, "called")[0].contains("skipped"));
    drop(client);
    fs::write(&flag, "").expect("our own directory");
    world.wait_state("timed", "active");
    world.ok(&["start", "called", "many@1"]);
    wait_until("they are started", LONG, || {
        UnixStream::connect(&socket).is_ok() && world.state("many@1") == "active"
    });
    world.wait_state("called", "active");
}
