//! `log.rate`: what is dropped of a flood, and that it is told.

use std::{fs, time::Duration};

use palisade::supervisor::Way;

use crate::support::{World, snapshot, wait_until};

const LONG: Duration = Duration::from_secs(20);

/// A service that writes `first` at once and `then` when there is a file `go` in its directory, which is given.
fn speaker(world: &World, name: &str, rate: &str, [first, then]: [&str; 2]) -> std::path::PathBuf {
    let gate = world.dir().join(format!("gate-{name}"));
    fs::create_dir(&gate).expect("a new name");
    // One write each: the supervisor reads it as one piece.
    let script = format!(
        "printf \"{first}\"; until test -e /gate/go; do sleep 0.05; done; printf \"{then}\"; exec sleep 4716"
    );
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nlog.rate = \"{rate}\"\nnetwork.mode = \"none\"\n\
         rootfs = {{ base = \"host\", mounts = [{{ src = \"{}\", dst = \"/gate\" }}] }}\n",
        gate.display()
    );
    world.write_service(name, &toml);
    gate
}

/// The texts of its log file.
fn log(world: &World, name: &str) -> Vec<String> {
    let log = fs::read_to_string(world.dir().join(format!("log/{name}.log"))).unwrap_or_default();
    log.lines().filter_map(|line| Some(line.splitn(4, ' ').nth(3)?.to_owned())).collect()
}

pub fn lines_beyond_the_rate_are_told_when_the_time_is_over(world: &mut World) {
    let gate = speaker(world, "app", "2/s", ["1\\n2\\n3\\n4\\n5\\n", "6\\n"]);
    world.start();
    // Nothing more is written: it is the time that does it.
    let told = "[palisade: 3 lines were dropped here: more than 2 in 1s]";
    wait_until("it is told", LONG, || log(world, "app").len() >= 3);
    assert_eq!(log(world, "app"), ["1", "2", told]);
    fs::write(gate.join("go"), "").expect("our own directory");
    wait_until("what comes later is taken", LONG, || log(world, "app").len() >= 4);
    assert_eq!(log(world, "app"), ["1", "2", told, "6"]);
    let says = "3 lines of its output were dropped: more than 2 in 1s (log.rate)";
    assert_eq!(world.supervisor_log().matches(says).count(), 1);
    // Without a rate everything is.
    let file = world.services_dir().join("app.toml");
    let toml = fs::read_to_string(&file).expect("our own file").replace("2/s", "off");
    world.write_service("app", &toml);
    world.ok(&["daemon-reload"]);
    world.ok(&["restart", "app"]);
    wait_until("all of it", LONG, || log(world, "app").len() >= 10);
    assert_eq!(log(world, "app")[4..], ["1", "2", "3", "4", "5", "6"]);
}

pub fn what_is_dropped_is_counted_once_wherever_the_supervisor_dies(world: &mut World) {
    let of_output =
        palisade::supervisor::points().filter(|point| matches!(point.way, Way::Output | Way::Rate));
    for (n, point) in of_output.map(|point| point.name).enumerate() {
        let name = format!("app{n}");
        let gate = speaker(world, &name, "1/1d", ["the first\\nlost\\n", "lost\\nlost\\nlost\\n"]);
        let write_the_rest = || {
            fs::write(gate.join("go"), "").expect("our own directory");
            wait_until("it has said the rest", LONG, || {
                let is_it = |line: &String| line.contains("sleep 4716") && !line.contains("printf");
                snapshot::processes().iter().any(is_it)
            });
        };
        let mut command = world.supervise();
        command.arg("--die-at").arg(format!("{name}:at:{point}"));
        world.start_to_die(command);
        if point.starts_with("dropped") {
            wait_until("what may be written", LONG, || !log(world, &name).is_empty());
            write_the_rest();
        }
        if point == "dropped-told" {
            world.palisade(&["stop", &name]);
        }
        wait_until(&format!("its end at {point}"), LONG, || world.has_died());
        if !point.starts_with("dropped") {
            write_the_rest();
        }
        world.start();
        world.palisade(&["stop", &name]);
        world.wait_state(&name, "stopped");
        let told = "[palisade: 4 lines were dropped here: more than 1 in 86400s]";
        assert_eq!(log(world, &name), ["the first", told], "{point}");
        assert_eq!(world.stop(), Ok(()));
        world.reap();
        fs::remove_file(world.services_dir().join(format!("{name}.toml"))).expect("our own file");
    }
}
