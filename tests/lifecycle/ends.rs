//! Ends of runs and what follows them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::{
    LONG, World, count, snapshot, wait_for, wait_until,
    world::{pids, raw, tcp, wait_http},
};

pub fn a_killed_service_comes_back_with_the_same_address(world: &mut World) {
    let keys = "network.publish = [\"8081:80\"]\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    let (pid, run, address) = (world.pid("web"), world.run_id("web"), world.address("web"));
    kill(raw(pid), Signal::SIGKILL).expect("it lives");
    wait_until("another run", LONG, || world.run_id("web") > run && world.state("web") == "active");
    assert_ne!(world.pid("web"), pid);
    assert_eq!(world.address("web"), address);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    let exits = world.status("web")["exits"].clone();
    let last = exits.as_array().and_then(|all| all.last()).expect("a list with the newest last");
    assert_eq!((&last["run"], &last["signal"]), (&Value::from(run), &Value::from(9)), "{exits}");
}

pub fn a_server_without_reuseaddr_comes_back_while_a_client_holds_on(world: &mut World) {
    let keys = "network.publish = [\"7000:7000\"]\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"";
    world.write_service("echo", &world.probe_toml(&["echo", "7000"], keys));
    world.start();
    wait_until("echo answers", LONG, || tcp("127.0.0.1:7000", b"one").is_ok_and(|a| a == b"one"));
    let mut held = TcpStream::connect("127.0.0.1:7000").expect("it answered just now");
    held.write_all(b"held").expect("connected");
    let mut bytes = [0; 4];
    held.read_exact(&mut bytes).expect("it echoes");
    let run = world.run_id("echo");
    kill(raw(world.pid("echo")), Signal::SIGKILL).expect("it lives");
    wait_until("echo answers again", LONG, || {
        world.run_id("echo") > run && tcp("127.0.0.1:7000", b"two").is_ok_and(|a| a == b"two")
    });
    assert_eq!(world.run_id("echo"), run + 1, "the first new run could bind: {}", world.logs("echo"));
    drop(held);
}

/// A crash loop with this jitter: its backoff events, as (failures so far, milliseconds from the event to the restart).
fn crash_loop(world: &mut World, jitter: &str) -> Vec<(u32, u64)> {
    let keys = format!(
        "network.mode = \"none\"\nrestart.delay = \"20ms\"\nrestart.factor = 2\n\
         restart.max_delay = \"100ms\"\nrestart.jitter = \"{jitter}\""
    );
    world.write_service("crash", &world.probe_toml(&["exit", "3"], &keys));
    world.start();
    let events = world.dir().join("events");
    let mut watcher = world.command(&["events", "-f", "-n", "0", "--json"]);
    let watcher = watcher.stdout(fs::File::create(&events).expect("our own directory")).spawn();
    let mut watcher = watcher.expect("the program under test starts");
    // The loop goes on for ever, so it does not matter which of its rounds the watcher sees first.
    let backoffs = wait_for("eight rounds", LONG, || {
        let text = fs::read_to_string(&events).expect("made above");
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        let events = whole.lines().map(|line| serde_json::from_str(line).expect("JSON, one event a line"));
        let all: Vec<Value> =
            events.filter(|e: &Value| e["name"] == "crash" && e["state"] == "backoff").collect();
        (all.len() >= 8).then_some(all)
    });
    watcher.kill().and_then(|()| watcher.wait()).expect("it is our child");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {backoffs:?}"));
    let round = |e: &Value| {
        let failures = u32::try_from(number(&e["failures"])).expect("a few");
        (failures, number(&e["until"]["mono"]) - number(&e["time"]["mono"]))
    };
    backoffs.iter().map(round).collect()
}

/// The delay of the formula before jitter.
fn plain(failures: u32) -> u64 {
    (20 << (failures - 1).min(10)).min(100)
}

pub fn a_crash_loop_backs_off_by_the_formula(world: &mut World) {
    for (failures, delay) in crash_loop(world, "0%") {
        assert_eq!(delay, plain(failures), "after {failures} failures");
    }
}

/// The documented formula, written out again: FNV-1a of the name gives the seed, SplitMix64 the share.
fn jittered(fleet: u64, name: &str, failures: u32) -> u64 {
    let mut seed = 0xCBF2_9CE4_8422_2325 ^ fleet;
    for byte in name.bytes() {
        seed = (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    let mut z = seed.wrapping_add(u64::from(failures).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let share = ((z ^ (z >> 31)) >> 11) as f64 / 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 120")]
    let whole = (plain(failures) as f64 * (1.0 + 0.2 * (2.0 * share - 1.0))).round() as u64;
    whole
}

pub fn jitter_is_the_one_that_the_seed_gives(world: &mut World) {
    let rounds = crash_loop(world, "20%");
    let assigned = fs::read_to_string(world.dir().join("state/assigned.json")).expect("written at the start");
    let assigned: Value = serde_json::from_str(&assigned).expect("JSON");
    let fleet = assigned["seed"].as_u64().expect("a seed");
    let expected: Vec<(u32, u64)> = rounds.iter().map(|(n, _)| (*n, jittered(fleet, "crash", *n))).collect();
    assert_eq!(rounds, expected);
    assert!(rounds.iter().any(|(failures, delay)| *delay != plain(*failures)), "{rounds:?}");
}

pub fn what_ignores_sigterm_is_killed_with_all_that_it_forked(world: &mut World) {
    let keys = "network.mode = \"none\"\nservice.stop = { timeout = \"300ms\" }";
    world.write_service("tree", &world.probe_toml(&["tree"], keys));
    world.start();
    wait_until("the whole tree is up", LONG, || world.logs("tree").matches("ready").count() == 4);
    let supervisor = world.supervisor_pid().to_string();
    let before: Vec<String> = snapshot::processes();
    assert!(before.iter().filter(|p| p.contains("ignore-term")).count() >= 3, "{before:?}");
    world.ok(&["stop", "tree"]);
    assert_eq!(world.state("tree"), "stopped");
    let left: Vec<String> = snapshot::processes().into_iter().filter(|p| p.contains("__probe")).collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(pids().iter().any(|pid| pid.to_string() == supervisor), "the supervisor lives on");
}

pub fn a_oneshot_is_done_and_what_waits_for_it_starts_afterwards(world: &mut World) {
    let none = "network.mode = \"none\"";
    let once = format!("service.type = \"oneshot\"\nservice.remain_after_exit = true\n{none}");
    world.write_service("migrate", &world.probe_toml(&["print", "migrated"], &once));
    let app = format!("unit.requires = [\"migrate\"]\nunit.after = [{{ migrate = \"done\" }}]\n{none}");
    world.write_service("app", &world.probe_toml(&["wait"], &app));
    world.start();
    world.wait_state("app", "active");
    assert_eq!(world.state("migrate"), "done");
    assert!(world.logs("migrate").contains("migrated"));
}

pub fn what_requires_a_service_goes_up_after_and_down_before_it(world: &mut World) {
    let none = "network.mode = \"none\"";
    world.write_service("db", &world.probe_toml(&["wait"], &format!("unit.enabled = false\n{none}")));
    let app = format!("unit.requires = [\"db\"]\nunit.after = [\"db\"]\n{none}");
    world.write_service("app", &world.probe_toml(&["wait"], &app));
    world.start();
    world.wait_state("app", "active");
    assert_eq!(world.state("db"), "active", "pulled in");
    world.ok(&["stop", "db"]);
    assert_eq!((world.state("db"), world.state("app")), ("stopped".into(), "stopped".into()));
    world.ok(&["start", "app"]);
    world.wait_state("app", "active");
    assert_eq!(world.state("db"), "active");
}

pub fn a_reload_touches_only_what_differs(world: &mut World) {
    let none = "network.mode = \"none\"";
    for name in ["same", "changed", "removed"] {
        world.write_service(name, &world.probe_toml(&["wait"], none));
    }
    world.start();
    for name in ["same", "changed", "removed"] {
        world.wait_state(name, "active");
    }
    let (same, changed) = (world.pid("same"), world.pid("changed"));
    world.write_service(
        "changed",
        &world.probe_toml(&["wait"], &format!("service.env = {{ NEW = \"1\" }}\n{none}")),
    );
    world.write_service("added", &world.probe_toml(&["wait"], none));
    fs::remove_file(world.services_dir().join("removed.toml")).expect("written above");
    world.signal(Signal::SIGHUP);
    wait_until("added is there", LONG, || {
        world.json(&["list"]).to_string().contains("\"added\"") && world.state("added") == "active"
    });
    wait_until("changed is another process", LONG, || {
        world.state("changed") == "active" && world.pid("changed") != changed
    });
    assert_eq!(world.pid("same"), same);
    wait_until("removed is gone", LONG, || world.palisade(&["status", "removed"]).status.code() == Some(4));
    // What has become of whom, and why, in this order; of whom nothing differs there is nothing to say.
    let log = world.supervisor_log();
    let (_, log) = log.split_once("SIGHUP").expect("it was told");
    let told = |name: &str| -> Vec<&str> {
        let of = format!(" unit={name} ");
        log.lines().filter(|line| line.contains(&of)).filter_map(|line| line.split(" INFO ").nth(1)).collect()
    };
    for (name, expected) in [
        ("same", &[][..]),
        ("changed", &["changed service.env", "stopping restart", "ended ", "starting", "active"]),
        ("added", &["added", "starting", "active"]),
        ("removed", &["stopping stopped because its file is gone", "ended ", "removed"]),
    ] {
        let mut said = told(name).into_iter();
        for what in expected {
            assert!(said.any(|line| line.starts_with(what)), "{name}: {what}: {log}");
        }
        assert_eq!(told(name).is_empty(), expected.is_empty(), "{name}: {log}");
    }
}

pub fn two_hundred_cycles_leak_nothing(world: &mut World) {
    let keys = "network.publish = [\"8081:80\"]\nservice.reload = { signal = \"WINCH\" }\nrestart.policy = \"always\"";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    world.wait_state("web", "active");
    let descriptors = |world: &World| snapshot::descriptors(world.supervisor_pid()).len();
    let before = descriptors(world);
    for cycle in 0..count(200, 40) {
        world.ok(&["restart", "web"]);
        world.ok(&["reload", "web"]);
        world.ok(&["stop", "web"]);
        world.ok(&["start", "web"]);
        world.reap();
        assert!(
            descriptors(world) <= before + 8,
            "cycle {cycle}: {:?}",
            snapshot::descriptors(world.supervisor_pid())
        );
    }
    wait_http("127.0.0.1:8081", "/");
    // Not more: when they were first counted, somebody who had asked might not have hung up yet.
    wait_until("as many descriptors as before", LONG, || descriptors(world) <= before);
    wait_until("one service, one link beside loopback", LONG, || {
        let links = Command::new("ip").args(["-o", "link"]).output().expect("iproute2 is installed");
        String::from_utf8_lossy(&links.stdout).lines().count() == 2
    });
}

pub fn output_is_kept_in_bounded_files(world: &mut World) {
    let keys = "network.mode = \"none\"\nlog.max_size = \"64K\"\nlog.files = 3\nrestart.policy = \"never\"";
    world.write_service("flood", &world.probe_toml(&["flood", "1000000"], keys));
    world.start();
    // Not its end: what is still in the pipe then is written, and files are renamed, afterwards.
    wait_until("the flood is over", LONG, || world.logs("flood").contains("over"));
    // The oldest has two names for a moment.
    let is_there = |name: &str| world.dir().join("log").join(name).exists();
    wait_until("it is compressed", LONG, || is_there("flood.log.2.gz") && !is_there("flood.log.2"));
    let files: Vec<_> = fs::read_dir(world.dir().join("log")).expect("our own directory").flatten().collect();
    let own: Vec<_> = files.iter().filter(|f| f.file_name().to_string_lossy().starts_with("flood")).collect();
    assert!((1..=3).contains(&own.len()), "{files:?}");
    for file in own {
        let size = file.metadata().expect("listed").len();
        assert!(size <= 65536 + 256, "{:?} has {size} bytes", file.file_name());
    }
}
