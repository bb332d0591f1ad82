//! Services that say when they are ready, and that are asked how they are.

use std::{os::unix::net::UnixStream, process::Command, time::Duration};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::{
    LONG, World, snapshot, span, wait_for, wait_until,
    world::{PROBE, raw},
};

/// How long a check may take of one that is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first number that a service has printed after `clock`: CLOCK_MONOTONIC, as the kernel had it.
fn clock(world: &World, name: &str) -> u64 {
    wait_for(&format!("{name} tells the time"), LONG, || {
        let logs = world.logs(name);
        let text = logs.split("clock ").nth(1)?;
        text.split_whitespace().next()?.parse().ok()
    })
}

/// A check, as a list of TOML.
fn probe(args: &[&str]) -> String {
    let argv: Vec<&str> = [PROBE, "__probe"].into_iter().chain(args.iter().copied()).collect();
    format!("{argv:?}")
}

fn health(world: &World, name: &str) -> String {
    world.status(name)["health"]["state"].as_str().unwrap_or("none").to_owned()
}

fn wait_health(world: &World, name: &str, state: &str) {
    wait_until(&format!("{name} is {state}"), LONG, || health(world, name) == state);
}

/// Each of them tells the time right before it does what makes it ready, a good while after it was executed.
pub fn what_is_ready_late_holds_up_those_who_come_after(world: &mut World) {
    let none = "network.mode = \"none\"";
    let ways: [(&str, &[&str], &str, &str); 5] = [
        ("tcp", &["http", "80"], "tcp:80", none),
        ("veth", &["http", "80"], "tcp:80", ""),
        ("http", &["http", "8080"], "http:8080/some/path", none),
        ("file", &["stay", "write", "/tmp/ready"], "file:/tmp/ready", none),
        ("log", &["stay", "print", "listening on 80"], "log:^listening on [0-9]+$", none),
    ];
    for (name, does, ready, mode) in &ways {
        let args: Vec<&str> = ["late", "700", "clocked"].iter().chain(*does).copied().collect();
        let keys = format!("service.ready = '{ready}'\n{mode}");
        world.write_service(name, &world.probe_toml(&args, &keys));
        let keys = format!("unit.requires = [\"{name}\"]\nunit.after = [\"{name}\"]\n{none}");
        let args = ["clocked", "stay", "print", "launched"];
        world.write_service(&format!("{name}-user"), &world.probe_toml(&args, &keys));
    }
    // One that is ready when it is told to be.
    let keys = format!("service.ready = 'file:/tmp/ready'\n{none}");
    world.write_service("told", &world.probe_toml(&["wait"], &keys));
    let keys = format!("unit.requires = [\"told\"]\nunit.after = [\"told\"]\n{none}");
    world.write_service("told-user", &world.probe_toml(&["wait"], &keys));
    world.start();
    wait_until("it was executed", LONG, || world.status("told")["pid"].is_u64());
    assert_eq!((world.state("told"), world.state("told-user")), ("starting".into(), "waiting".into()));
    world.ok(&["exec", "told", "--", PROBE, "__probe", "write", "/tmp/ready"]);
    world.wait_state("told-user", "active");
    for (name, ..) in &ways {
        world.wait_state(&format!("{name}-user"), "active");
        assert_eq!((world.state(name), world.run_id(name)), ("active".into(), 1));
        let (ready, launched) = (clock(world, name), clock(world, &format!("{name}-user")));
        assert!(ready <= launched, "{name}: ready from {ready} on, its user was launched at {launched}");
    }
}

pub fn what_does_not_become_ready_in_time_is_started_again(world: &mut World) {
    let keys = "service.ready = \"tcp:80\"\nservice.timeout.start = \"300ms\"\nnetwork.mode = \"none\"\n\
                restart.delay = \"10ms\"";
    world.write_service("never", &world.probe_toml(&["wait"], keys));
    world.start();
    wait_until("another run", LONG, || world.run_id("never") > 2);
    assert_ne!(world.state("never"), "active");
}

pub fn readiness_survives_the_supervisor(world: &mut World) {
    let none = "network.mode = \"none\"";
    for (name, does, ready) in [
        ("tcp", &["http", "80"][..], "tcp:80"),
        ("log", &["stay", "print", "here we are"], "log:here"),
        ("file", &["stay", "write", "/tmp/ready"], "file:/tmp/ready"),
    ] {
        let args: Vec<&str> = ["when", "/tmp/go"].iter().chain(does).copied().collect();
        world.write_service(name, &world.probe_toml(&args, &format!("service.ready = '{ready}'\n{none}")));
    }
    world.start();
    for name in ["tcp", "log", "file"] {
        wait_until("it was executed", LONG, || world.status(name)["pid"].is_u64());
        assert_eq!(world.state(name), "starting");
    }
    world.kill_supervisor();
    world.start();
    for name in ["tcp", "log", "file"] {
        let_go(world, name);
        world.wait_state(name, "active");
        assert_eq!(world.run_id(name), 1, "{}", world.supervisor_log());
    }
}

/// A service of each kind of check, well until there is a file /tmp/sick in its sandbox.
fn sick_services(world: &World, more: &str) -> Vec<&'static str> {
    let none = "network.mode = \"none\"";
    let absent = probe(&["absent", "/tmp/sick"]);
    let ways: [(&str, &[&str], &str, &str); 6] = [
        ("exec", &["wait"], &absent, none),
        ("tcp", &["sick", "tcp", "80", "/tmp/sick"], "\"tcp:80\"", none),
        ("veth", &["sick", "tcp", "80", "/tmp/sick"], "\"tcp:80\"", ""),
        ("host", &["sick", "tcp", "18080", "/tmp/sick"], "\"tcp:18080\"", "network.mode = \"host\""),
        ("http", &["sick", "http", "80", "/tmp/sick"], "\"http:80/health\"", none),
        ("unix", &["sick", "unix", "/tmp/socket", "/tmp/sick"], "\"unix:/tmp/socket\"", none),
    ];
    for (name, args, test, mode) in &ways {
        let health = format!(
            "health = {{ test = {test}, interval = \"50ms\", timeout = \"{}\", retries = 2, {more} }}",
            span(PATIENCE)
        );
        let keys = format!("{health}\n{mode}\nrestart.policy = \"never\"\nrestart.delay = \"10ms\"");
        world.write_service(name, &world.probe_toml(args, &keys));
    }
    ways.iter().map(|(name, ..)| *name).collect()
}

fn make_sick(world: &World, name: &str) {
    // What looks for it may end the service, and this session with it, before its answer.
    let _ = world.palisade(&["exec", name, "--", PROBE, "__probe", "write", "/tmp/sick"]);
}

/// Lets a service begin that waits for `/tmp/go`.
fn let_go(world: &World, name: &str) {
    world.ok(&["exec", name, "--", PROBE, "__probe", "write", "/tmp/go"]);
}

pub fn whatever_is_unhealthy_is_started_again(world: &mut World) {
    let names = sick_services(world, "on_fail = \"restart\"");
    world.start();
    for name in &names {
        wait_health(world, name, "healthy");
        assert_eq!(world.run_id(name), 1);
    }
    // A successor goes on with it.
    world.kill_supervisor();
    world.start();
    for name in &names {
        let pid = world.pid(name);
        make_sick(world, name);
        wait_until(&format!("another run of {name}"), LONG, || world.run_id(name) == 2);
        wait_health(world, name, "healthy");
        assert_ne!(world.pid(name), pid);
        assert_eq!(world.run_id(name), 2, "with a sandbox of its own it is well");
    }
}

pub fn an_unhealthy_service_is_dealt_with_as_its_file_says(world: &mut World) {
    let absent = probe(&["absent", "/tmp/sick"]);
    for (name, on_fail) in [("stop", "stop"), ("kill", "kill"), ("none", "none")] {
        let keys = format!(
            "health = {{ test = {absent}, interval = \"50ms\", timeout = \"{}\", retries = 1, on_fail = \"{on_fail}\" }}\n\
             service.stop.timeout = \"{}\"\nrestart.policy = \"never\"\nrestart.delay = \"10ms\"\n\
             network.mode = \"none\"",
            span(PATIENCE),
            span(10 * LONG)
        );
        let args: &[&str] = if name == "kill" { &["ignore-term"] } else { &["wait"] };
        world.write_service(name, &world.probe_toml(args, &keys));
    }
    world.start();
    for name in ["stop", "kill", "none"] {
        wait_health(world, name, "healthy");
    }
    make_sick(world, "stop");
    world.wait_state("stop", "failed");
    assert_eq!(world.run_id("stop"), 1);
    // It would not hear anything else, and has ten times as long as is waited here.
    make_sick(world, "kill");
    wait_until("another run", LONG, || world.run_id("kill") == 2);
    wait_health(world, "kill", "healthy");
    kill(raw(world.pid("kill")), Signal::SIGKILL).expect("it lives");
    world.wait_state("kill", "failed");
    make_sick(world, "none");
    wait_health(world, "none", "unhealthy");
    let status = world.status("none");
    assert_eq!(status["state"], "active", "{status}");
    assert_eq!(status["health"]["ok"], false, "{status}");
    assert!(status["health"]["output"].as_str().is_some_and(|text| text.contains("/tmp/sick")), "{status}");
    let shown = world.palisade(&["status", "none"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("unhealthy"), "{shown}");
    world.ok(&["exec", "none", "--", PROBE, "__probe", "remove", "/tmp/sick"]);
    wait_health(world, "none", "healthy");
    assert_eq!(world.run_id("none"), 1);
}

/// Checks that hang are ended, count as failures, and leave nobody behind; the loop goes on meanwhile.
pub fn a_check_that_hangs_has_failed_and_is_ended(world: &mut World) {
    let rest = "interval = \"50ms\", timeout = \"200ms\", retries = 3, start_period = 0, on_fail = \"none\"";
    let hangs = probe(&["ignore-term"]);
    let flood = probe(&["stay", "flood", "100000000"]);
    for (name, args, test) in [
        ("exec", &["wait"][..], hangs.as_str()),
        ("flood", &["wait"], flood.as_str()),
        ("http", &["mute", "80"], "\"http:80/\""),
    ] {
        let keys = format!("health = {{ test = {test}, {rest} }}\nnetwork.mode = \"none\"");
        world.write_service(name, &world.probe_toml(args, &keys));
    }
    world.start();
    for name in ["exec", "flood", "http"] {
        wait_health(world, name, "unhealthy");
        // The next one is due before the last one is gone, and then that is told.
        wait_until(&format!("{name} has not answered in time"), LONG, || {
            let status = world.status(name);
            status["health"]["output"].as_str().is_some_and(|text| text.starts_with("no answer in time"))
        });
    }
    let failures = |world: &World| world.status("exec")["health"]["failures"].as_u64().unwrap_or_default();
    wait_until("some more rounds", LONG, || failures(world) >= 10);
    let hanging = snapshot::processes().into_iter().filter(|p| p.contains("ignore-term")).count();
    assert!(hanging <= 1, "{hanging} checks live");
    assert_eq!(world.run_id("exec"), 1);
    // Nobody looks after a check whose supervisor has died but its own alarm.
    world.kill_supervisor();
    wait_until("the last check is over", LONG, || {
        world.reap();
        !snapshot::processes().iter().any(|p| p.contains("ignore-term"))
    });
    world.start();
    wait_until("checks go on", LONG, || snapshot::processes().iter().any(|p| p.contains("ignore-term")));
}

pub fn in_the_start_period_failures_do_not_count(world: &mut World) {
    let health = format!(
        "health = {{ test = \"http:80/\", interval = \"50ms\", timeout = \"{}\", retries = 1, start_period = \"{}\", \
         start_interval = \"20ms\" }}",
        span(PATIENCE),
        span(Duration::from_secs(60))
    );
    let keys = format!("{health}\nnetwork.mode = \"none\"\nrestart.delay = \"10ms\"");
    let args = ["when", "/tmp/go", "sick", "http", "80", "/tmp/sick"];
    world.write_service("slow", &world.probe_toml(&args, &keys));
    world.start();
    wait_until("it was asked in vain", LONG, || world.status("slow")["health"]["ok"] == false);
    assert_eq!((health_of(world), world.state("slow")), (("unknown".to_owned(), 0), "active".to_owned()));
    let_go(world, "slow");
    wait_health(world, "slow", "healthy");
    assert_eq!(world.run_id("slow"), 1);
    // The first success has ended it.
    make_sick(world, "slow");
    wait_until("another run", LONG, || world.run_id("slow") == 2);
}

fn health_of(world: &World) -> (String, u64) {
    (health(world, "slow"), world.status("slow")["health"]["failures"].as_u64().unwrap_or(99))
}

pub fn health_is_told_as_an_event(world: &mut World) {
    let absent = probe(&["absent", "/tmp/sick"]);
    let keys = format!(
        "health = {{ test = {absent}, interval = \"50ms\", retries = 2, on_fail = \"none\" }}\n\
         network.mode = \"none\""
    );
    world.write_service("web", &world.probe_toml(&["wait"], &keys));
    world.start();
    wait_health(world, "web", "healthy");
    let events = world.dir().join("events");
    let mut watcher = world.command(&["events", "-f", "-n", "0", "--json"]);
    let watcher = watcher.stdout(std::fs::File::create(&events).expect("our own directory")).spawn();
    let mut watcher = watcher.expect("the program under test starts");
    let mut turn = 0;
    // Until the watcher listens nobody knows; a fresh turn for the worse is told to whoever does.
    let event = wait_for("the event", LONG, || {
        turn += 1;
        let probe = if turn % 2 == 1 { "write" } else { "remove" };
        world.ok(&["exec", "web", "--", PROBE, "__probe", probe, "/tmp/sick"]);
        wait_health(world, "web", if turn % 2 == 1 { "unhealthy" } else { "healthy" });
        let text = std::fs::read_to_string(&events).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.into_iter().find(|event| event["kind"] == "unhealthy")
    });
    assert!(event["text"].as_str().is_some_and(|text| text.contains("/tmp/sick")), "{event}");
    kill(raw(watcher.id()), Signal::SIGTERM).expect("it is our child");
    watcher.wait().expect("it is our child");
}

/// How many descriptors the supervisor may have open from now on.
fn limit_descriptors(world: &World, count: usize) {
    let (pid, limit) = (world.supervisor_pid().to_string(), format!("--nofile={count}:"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("declared as a need");
    assert!(status.success());
}

/// A supervisor that cannot ask does not take that for an answer, or every service would be restarted for want of what
/// none of them has taken.
pub fn what_could_not_be_asked_is_no_answer(world: &mut World) {
    let absent = probe(&["absent", "/tmp/sick"]);
    let none = "network.mode = \"none\"";
    for (name, args, test) in [
        ("tcp", &["http", "80"][..], "\"tcp:80\""),
        ("exec", &["wait"], absent.as_str()),
        ("unix", &["sick", "unix", "/tmp/socket", "/tmp/sick"], "\"unix:/tmp/socket\""),
    ] {
        let time = span(PATIENCE);
        let keys = format!(
            "health = {{ test = {test}, interval = \"50ms\", timeout = \"{time}\", retries = 1 }}\n{none}"
        );
        world.write_service(name, &world.probe_toml(args, &keys));
    }
    world.start();
    let names = ["tcp", "exec", "unix"];
    for name in names {
        wait_health(world, name, "healthy");
    }
    let open =
        || std::fs::read_dir(format!("/proc/{}/fd", world.supervisor_pid())).expect("it lives").count();
    // As many as are open while no check is under way: a check has no room, and poll(2) takes what is.
    let least = (0..500).map(|_| open()).min().expect("some");
    limit_descriptors(world, least);
    let unasked = |name: &str| {
        let log = world.supervisor_log();
        log.lines().any(|line| line.contains("is not asked") && line.contains(&format!("unit={name}")))
    };
    // Numbers below the limit that happen to be free are taken by those who say nothing.
    let mut idle = Vec::new();
    wait_until("one cannot be asked", LONG, || {
        idle.push(UnixStream::connect(world.run_dir().join("control.sock")).expect("it listens"));
        names.iter().any(|name| unasked(name))
    });
    drop(idle);
    limit_descriptors(world, 4096);
    let checked = |world: &World, name: &str| world.status(name)["health"]["checked"]["mono"].as_u64();
    for name in names {
        let before = checked(world, name);
        wait_until("it is asked again", LONG, || checked(world, name) > before);
        assert_eq!((world.run_id(name), health(world, name)), (1, "healthy".to_owned()));
    }
    assert!(!world.supervisor_log().contains("unhealthy"), "{}", world.supervisor_log());
}

pub fn who_waits_for_health_is_launched_only_then(world: &mut World) {
    let none = "network.mode = \"none\"";
    let test = "[\"/bin/sh\", \"-c\", \"test -e /tmp/well\"]";
    let keys = format!("health = {{ test = {test}, interval = \"50ms\", on_fail = \"none\" }}\n{none}");
    world.write_service("db", &world.probe_toml(&["wait"], &keys));
    let keys = format!("unit.requires = [\"db\"]\nunit.after = [{{ db = \"healthy\" }}]\n{none}");
    world.write_service("app", &world.probe_toml(&["wait"], &keys));
    world.start();
    wait_until("it was asked in vain", LONG, || world.status("db")["health"]["ok"] == false);
    assert_eq!((world.state("db"), world.state("app")), ("active".into(), "waiting".into()));
    world.ok(&["exec", "db", "--", PROBE, "__probe", "write", "/tmp/well"]);
    world.wait_state("app", "active");
    assert_eq!(health(world, "db"), "healthy");
}
