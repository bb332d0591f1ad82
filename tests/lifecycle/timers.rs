//! Services that the clock starts. What a clock that jumps does to them is told by `clock`.

use std::fs;

use serde_json::Value;

use crate::support::{LONG, World, wait_until};

const ONCE: &str = "network.mode = \"none\"\nservice.type = \"oneshot\"";

/// How often the timers of a supervisor have started this service, as its log says.
fn elapsed(world: &World, name: &str) -> usize {
    let log = world.supervisor_log();
    log.lines().filter(|line| line.contains("elapsed the timer starts it") && line.contains(name)).count()
}

pub fn a_calendar_starts_a_job_and_goes_on_after_a_takeover(world: &mut World) {
    let keys = format!("{ONCE}\ntimer.calendar = \"*:*:0/2\"");
    world.write_service("job", &world.probe_toml(&["print", "ran"], &keys));
    world.write_service(
        "never",
        &world.probe_toml(&["print", "ran"], &format!("{ONCE}\ntimer.cron = \"0 0 1 1 *\"")),
    );
    let off = format!("{ONCE}\nunit.enabled = false\ntimer.calendar = \"*:*:*\"");
    world.write_service("off", &world.probe_toml(&["print", "ran"], &off));
    world.start();
    let timer = &world.status("never")["timer"];
    assert!(timer["next"]["unix"].as_i64().is_some_and(|next| next > 0), "{timer}");
    assert_eq!((&timer["in_force"], &timer["queued"]), (&Value::Bool(true), &Value::Bool(false)));
    wait_until("two runs", LONG, || world.run_id("job") >= 2);
    assert!(world.status("job")["timer"]["last"]["unix"].as_i64().is_some());
    // A moment that is told and not yet written down would be one of nobody's.
    wait_until("no run is under way", LONG, || {
        world.state("job") == "stopped"
            && u64::try_from(elapsed(world, "job")).ok() == Some(world.run_id("job"))
    });
    let before = world.run_id("job");
    world.kill_supervisor();
    world.start();
    wait_until("more runs", LONG, || world.run_id("job") >= before + 2);
    world.write_service("job", &world.probe_toml(&["print", "ran"], ONCE));
    world.ok(&["daemon-reload"]);
    let runs = world.run_id("job");
    wait_until("the last run is over", LONG, || world.state("job") == "stopped");
    assert_eq!(u64::try_from(elapsed(world, "job")).ok(), Some(runs), "a run for each moment");
    assert!(world.status("job")["timer"].is_null());
    // Nobody has started the others, and anybody may.
    assert_eq!((world.run_id("never"), world.run_id("off")), (0, 0));
    assert_eq!(world.status("off")["timer"]["in_force"], Value::Bool(false));
    world.ok(&["start", "never"]);
    assert_eq!(world.run_id("never"), 1);
    assert!(world.ok(&["list"]).contains("next in "), "the table says when");
    // It does not run at the moment, as the exit status says.
    let status = world.palisade(&["status", "never"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("Timer: in "), "{status:?}");
}

pub fn a_missed_moment_is_made_up_for_once(world: &mut World) {
    let keys = format!("{ONCE}\ntimer.calendar = \"yearly\"\ntimer.persistent = true");
    world.write_service("job", &world.probe_toml(&["print", "ran"], &keys));
    world.start();
    let stamp = world.dir().join("state/timers/job.json");
    wait_until("the stamp", LONG, || stamp.exists());
    world.stop().expect("nothing keeps it");
    world.start();
    assert_eq!(world.run_id("job"), 0, "nothing was missed");
    world.stop().expect("nothing keeps it");
    // As if the host had been down for more than a year.
    let text = fs::read_to_string(&stamp).expect("written above");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    let early = Value::from(value["until"].as_i64().expect("a time") - 400 * 86_400 * 1_000_000);
    value["until"] = early.clone();
    value["attended"][0]["to"] = early;
    fs::write(&stamp, value.to_string()).expect("our own directory");
    world.start();
    wait_until("a run", LONG, || world.run_id("job") == 1 && world.state("job") == "stopped");
    for _ in 0..2 {
        world.kill_supervisor();
        world.start();
        assert_eq!(world.run_id("job"), 1);
    }
    world.stop().expect("nothing keeps it");
    world.start();
    assert_eq!(world.run_id("job"), 0, "it has had its start, though this supervisor counts anew");
    world.stop().expect("nothing keeps it");
    fs::write(&stamp, "{\"version\":").expect("our own directory");
    world.start();
    assert_eq!(world.run_id("job"), 0);
    assert!(world.supervisor_log().contains("state that cannot be read is passed over"));
}

pub fn intervals_and_overlaps_are_kept(world: &mut World) {
    let with = |keys: &str| format!("{ONCE}\n{keys}");
    world.write_service("boot", &world.probe_toml(&["print", "ran"], &with("timer.after_boot = \"0s\"")));
    world.write_service("every", &world.probe_toml(&["print", "ran"], &with("timer.every = \"1s\"")));
    world.write_service("pause", &world.probe_toml(&["print", "ran"], &with("timer.after_end = \"1s\"")));
    for overlap in ["skip", "queue", "restart"] {
        let keys = format!(
            "network.mode = \"none\"\ntimer.every = \"1s\"\ntimer.overlap = \"{overlap}\"\nservice.stop.timeout = \"1s\""
        );
        world.write_service(overlap, &world.probe_toml(&["wait"], &keys));
    }
    world.start();
    wait_until("all have run", LONG, || {
        ["boot", "every", "pause", "skip", "queue"].iter().all(|name| world.run_id(name) >= 1)
            && world.run_id("every") >= 3
            && world.run_id("pause") >= 3
            && world.run_id("restart") >= 3
    });
    assert_eq!((world.run_id("skip"), world.run_id("queue")), (1, 1), "they still run");
    wait_until("one waits", LONG, || world.status("queue")["timer"]["queued"] == Value::Bool(true));
    world.kill_supervisor();
    world.start();
    assert_eq!(world.run_id("boot"), 1, "once in a boot");
    assert_eq!(world.status("queue")["timer"]["queued"], Value::Bool(true));
    world.ok(&["kill", "--signal", "KILL", "queue"]);
    wait_until("its turn", LONG, || world.run_id("queue") == 2 && world.state("queue") == "active");
    assert_eq!(world.run_id("skip"), 1);
}
