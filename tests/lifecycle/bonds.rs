//! What services are to one another: order, needs, conflicts, calls.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::support::{LONG, World, span, wait_until, world::raw};

const NONE: &str = "network.mode = \"none\"";

fn daemon(world: &World, name: &str, keys: &str) {
    world.write_service(name, &world.probe_toml(&["wait"], &format!("{keys}\n{NONE}")));
}

fn crash(world: &World, name: &str) {
    kill(raw(world.pid(name)), Signal::SIGKILL).expect("a process of ours");
}

fn wait_run(world: &World, name: &str, run: u64) {
    let what = format!("{name} is up in run {run}");
    wait_until(&what, LONG, || world.run_id(name) == run && world.state(name) == "active");
}

/// Line numbers in the supervisor's log at which `name` became `state`.
fn lines(log: &str, name: &str, state: &str) -> Vec<usize> {
    let is_it = |line: &str| line.contains(&format!(" {state} ")) && line.contains(&format!("unit={name} "));
    log.lines().enumerate().filter(|(_, line)| is_it(line)).map(|(at, _)| at).collect()
}

pub fn order_holds_at_boot_and_after_a_crash(world: &mut World) {
    let [last, first] = [2000, 700].map(|time| span(Duration::from_millis(time)));
    let db = format!("unit.before = [\"b-app\"]\nrestart.delay = \"{last}\"\nrestart.jitter = \"0%\"");
    daemon(world, "c-db", &db);
    daemon(world, "b-app", &format!("unit.wants = [\"c-db\"]\nrestart.delay = \"{first}\""));
    let web = format!("unit.after = {{ b-app = \"started\" }}\nrestart.delay = \"{first}\"");
    daemon(world, "a-web", &web);
    world.start();
    for name in ["c-db", "b-app", "a-web"] {
        wait_run(world, name, 1);
    }
    // All of them before any is due again.
    let pids = ["c-db", "b-app", "a-web"].map(|name| world.pid(name));
    for pid in pids {
        kill(raw(pid), Signal::SIGKILL).expect("a process of ours");
    }
    for name in ["c-db", "b-app", "a-web"] {
        wait_run(world, name, 2);
    }
    let log = world.supervisor_log();
    for run in 0..2 {
        let at = |name: &str, state: &str| lines(&log, name, state)[run];
        assert!(at("c-db", "active") < at("b-app", "starting"), "{log}");
        assert!(at("b-app", "active") < at("a-web", "starting"), "{log}");
    }
}

pub fn what_is_bound_goes_and_comes_with_the_other_also_over_a_takeover(world: &mut World) {
    daemon(world, "db", "restart.delay = \"100ms\"");
    daemon(world, "app", "unit.binds_to = [\"db\"]");
    daemon(world, "web", "unit.requires = [\"app\"]");
    daemon(world, "side", "unit.requires = [\"db\"]");
    world.start();
    for name in ["db", "app", "web", "side"] {
        wait_run(world, name, 1);
    }
    crash(world, "db");
    wait_run(world, "db", 2);
    wait_run(world, "app", 2);
    assert_eq!((world.run_id("side"), world.state("side")), (1, "active".into()), "a crash leaves it alone");
    let log = world.supervisor_log();
    assert!(lines(&log, "db", "active")[1] < lines(&log, "app", "starting")[1], "{log}");
    world.ok(&["stop", "db"]);
    for name in ["app", "web", "side"] {
        assert_eq!(world.state(name), "stopped");
    }
    world.kill_supervisor();
    world.start();
    assert_eq!(world.state("app"), "stopped");
    world.ok(&["start", "db"]);
    wait_run(world, "app", 3);
    world.wait_state("web", "active");
    world.wait_state("side", "active");
    // While nobody supervises.
    let (db, app) = (world.pid("db"), world.pid("app"));
    world.kill_supervisor();
    kill(raw(db), Signal::SIGKILL).expect("a process of ours");
    world.start();
    wait_run(world, "app", 4);
    assert_ne!(world.pid("app"), app);
}

pub fn a_failed_dependency_brings_its_dependents_back(world: &mut World) {
    daemon(world, "db", "restart.policy = \"never\"");
    daemon(world, "app", "unit.requires = [\"db\"]\nrestart.delay = \"20ms\"");
    world.start();
    world.wait_state("app", "active");
    crash(world, "db");
    world.wait_state("db", "failed");
    crash(world, "app");
    world.wait_state("app", "failed");
    world.ok(&["start", "db"]);
    wait_run(world, "app", 2);
}

pub fn two_that_conflict_are_never_up_together(world: &mut World) {
    daemon(world, "old", "unit.enabled = false\nunit.conflicts = [\"new\"]");
    daemon(world, "new", "");
    world.start();
    world.wait_state("new", "active");
    for round in 1..=3_u64 {
        world.ok(&["start", "old"]);
        assert_eq!((world.run_id("old"), world.state("new")), (round, "stopped".into()));
        world.ok(&["start", "new"]);
        assert_eq!((world.run_id("new"), world.state("old")), (round + 1, "stopped".into()));
    }
    let log = world.supervisor_log();
    for (one, other) in [("old", "new"), ("new", "old")] {
        let gone = lines(&log, other, "stopped");
        for at in lines(&log, one, "starting").iter().skip(1) {
            assert!(gone.iter().any(|gone| gone < at), "{log}");
        }
    }
}

pub fn an_end_starts_what_it_names(world: &mut World) {
    let once = "service.type = \"oneshot\"\nunit.enabled = false\nrestart.policy = \"never\"";
    let named = "unit.on_failure = [\"alert\"]\nunit.on_success = [\"next\"]";
    for (name, code) in [("bad", "3"), ("good", "0")] {
        let toml = world.probe_toml(&["exit", code], &format!("{once}\n{named}\n{NONE}"));
        world.write_service(name, &toml);
    }
    for name in ["alert", "next"] {
        daemon(world, name, "unit.enabled = false");
    }
    world.start();
    world.palisade(&["start", "bad"]);
    world.wait_state("alert", "active");
    assert_eq!(world.state("next"), "stopped");
    world.ok(&["stop", "alert"]);
    world.ok(&["start", "good"]);
    world.wait_state("next", "active");
    assert_eq!(world.state("alert"), "stopped");
}

/// The two have a record each, and the supervisor is killed around the writing of either. By name the one that has failed
/// would be written first, and who came then would find nothing that called the other.
pub fn a_call_is_answered_though_the_supervisor_dies_between_two_records(world: &mut World) {
    let once = "service.type = \"oneshot\"\nrestart.policy = \"never\"\nunit.on_failure = [\"called\"]";
    let toml = world.probe_toml(&["exit", "3"], &format!("unit.enabled = false\n{once}\n{NONE}"));
    world.write_service("bad", &toml);
    daemon(world, "called", "unit.enabled = false");
    for place in [
        "bad:at:record-stopping",
        "bad:at:recorded-stopping",
        "called:at:record-starting",
        "called:at:recorded-starting",
        "bad:at:record-failed",
        "bad:at:recorded-failed",
        "called:at:launch-noted",
    ] {
        let mut command = world.supervise();
        command.arg("--die-at").arg(place);
        assert!(world.start_to_die(command), "{place}: nothing is started by itself");
        world.palisade(&["start", "bad"]);
        wait_until(&format!("its end at {place}"), LONG, || world.has_died());
        world.start();
        world.wait_state("called", "active");
        assert_eq!(world.state("bad"), "failed", "{place}");
        world.reap();
        let alive = crate::support::snapshot::processes();
        assert_eq!(alive.iter().filter(|p| p.contains("__probe wait")).count(), 1, "{place}: {alive:?}");
        assert_eq!(world.stop(), Ok(()), "{place}");
        world.reap();
    }
}

pub fn what_is_upheld_does_not_stay_down_and_a_part_goes_with_the_whole(world: &mut World) {
    daemon(world, "lord", "unit.upholds = [\"vassal\"]");
    daemon(world, "vassal", "unit.enabled = false\nrestart.policy = \"never\"\nrestart.delay = \"50ms\"");
    daemon(world, "part", "unit.part_of = [\"lord\"]");
    world.start();
    wait_run(world, "vassal", 1);
    world.wait_state("part", "active");
    crash(world, "vassal");
    wait_run(world, "vassal", 2);
    world.palisade(&["stop", "vassal"]);
    wait_run(world, "vassal", 3);
    world.ok(&["restart", "lord"]);
    wait_run(world, "part", 2);
    world.ok(&["stop", "lord"]);
    wait_until("the part goes with it", LONG, || world.state("part") == "stopped");
    world.ok(&["stop", "vassal"]);
    assert_eq!(world.state("vassal"), "stopped");
}

pub fn instances_come_from_their_template(world: &mut World) {
    let keys = "unit.instances = 2\nservice.env = { WHO = \"%n %p %i\" }\nunit.on_failure = [\"alert@%i\"]";
    daemon(world, "web@", &format!("{keys}\nrestart.policy = \"never\""));
    daemon(world, "alert@", "");
    world.start();
    wait_run(world, "web@1", 1);
    wait_run(world, "web@2", 1);
    assert_eq!(world.state("alert@1"), "stopped");
    world.ok(&["start", "web@blue"]);
    wait_run(world, "web@blue", 1);
    let environment =
        std::fs::read(format!("/proc/{}/environ", world.pid("web@blue"))).expect("a process of ours");
    assert!(String::from_utf8_lossy(&environment).contains("WHO=web@blue web blue\0"));
    crash(world, "web@2");
    world.wait_state("alert@2", "active");
    // Nobody names it but who started it: it stays over a reload and a takeover for as long as it is up.
    world.ok(&["daemon-reload"]);
    let pid = world.pid("web@blue");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("web@blue"), world.run_id("web@blue")), (pid, 1));
    world.ok(&["stop", "web@*"]);
    for name in ["web@1", "web@2", "web@blue"] {
        assert_eq!(world.state(name), "stopped");
    }
    world.ok(&["daemon-reload"]);
    assert_eq!(world.palisade(&["status", "web@blue"]).status.code(), Some(4));
    assert_eq!(world.palisade(&["start", "nobody@1"]).status.code(), Some(4));
}

pub fn no_more_start_at_a_time_than_the_settings_say(world: &mut World) {
    let config = std::fs::read_to_string(world.dir().join("palisade.toml")).expect("laid out with the world");
    world.write("palisade.toml", &format!("{config}[supervisor]\nparallel_starts = 1\n"));
    let names = ["a", "b", "c", "d"];
    for name in names {
        daemon(world, name, "");
    }
    world.start();
    for name in names {
        world.wait_state(name, "active");
    }
    let log = world.supervisor_log();
    let at = |name: &str, state: &str| lines(&log, name, state)[0];
    for pair in names.windows(2) {
        assert!(at(pair[0], "active") < at(pair[1], "starting"), "{log}");
    }
}
