//! When a service gets a CPU, and when its disk.

use std::process::Command;

use crate::support::{World, world::describe};

const NONE: &str = "network.mode = \"none\"";

fn said(program: &str, pid: u32) -> String {
    let output = Command::new(program).args(["-p", &pid.to_string()]).output().expect("declared as a need");
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn the_kernel_schedules_as_the_file_says(world: &mut World) {
    let cases = [
        ("late", "service.sched = \"idle\"\nservice.ioprio = \"idle\"", "SCHED_IDLE", "0", "idle"),
        (
            "bulk",
            "service.sched = \"batch\"\nservice.ioprio = \"best-effort:7\"",
            "SCHED_BATCH",
            "0",
            "best-effort: prio 7",
        ),
        (
            "first",
            "service.sched = \"rr:7\"\nservice.ioprio = \"realtime:3\"\nsecurity.no_realtime = false",
            "SCHED_RR",
            "7",
            "realtime: prio 3",
        ),
        ("plain", "service.sched = \"other\"\nservice.ioprio = \"none\"", "SCHED_OTHER", "0", "none: prio 0"),
    ];
    for (name, keys, ..) in &cases {
        world.write_service(name, &world.probe_toml(&["wait"], &format!("{keys}\n{NONE}")));
    }
    world.start();
    for (name, _, policy, priority, io) in cases {
        world.wait_state(name, "active");
        let pid = world.pid(name);
        let chrt = said("chrt", pid);
        let found = chrt.contains(policy) && chrt.ends_with(&format!("priority: {priority}"));
        assert!(found, "{name}: {chrt}");
        assert_eq!(said("ionice", pid), io, "{name}");
        // A process of a session is born of the same init.
        let inside = world.ok(&["exec", name, "--", "/usr/bin/chrt", "-p", "0"]);
        assert!(inside.contains(policy), "{name}: {inside}");
    }
    for (name, read) in
        [("late", ["sched idle", "ioprio idle"]), ("first", ["sched rr:7", "ioprio realtime:3"])]
    {
        let attested = world.status(name)["attested"].to_string();
        assert!(read.iter().all(|words| attested.contains(words)), "{name}: {attested}");
    }
}
