//! The less common ways to run: in place, on a terminal, with commands of its own, in the host's pid namespace.

use nix::sys::signal::{Signal, kill};

use crate::support::{LONG, World, snapshot, wait_until, world::raw};

const NONE: &str = "network.mode = \"none\"";

fn init(world: &World, name: &str) -> u64 {
    world.status(name)["init_pid"].as_u64().expect("it is known")
}

pub fn in_place_keeps_the_sandbox_over_ends_and_takeovers(world: &mut World) {
    let keys = format!("restart = {{ policy = \"always\", delay = \"10ms\", mode = \"in-place\" }}\n{NONE}");
    world.write_service("web", &world.probe_toml(&["wait"], &keys));
    world.start();
    world.wait_state("web", "active");
    let sandbox = init(world, "web");
    for round in 0..9 {
        let (pid, run) = (world.pid("web"), world.run_id("web"));
        // Killed under a supervisor; under its successor; while there is none.
        if round % 3 > 0 {
            world.kill_supervisor();
        }
        if round % 3 == 1 {
            world.start();
            assert_eq!((world.pid("web"), world.run_id("web")), (pid, run), "round {round}");
        }
        kill(raw(pid), Signal::SIGKILL).expect("it lives");
        if round % 3 == 2 {
            // Its init, which lives on, has buried it.
            wait_until("it is dead", LONG, || kill(raw(pid), None).is_err());
            world.start();
        }
        wait_until("another run", LONG, || world.run_id("web") > run && world.state("web") == "active");
        assert_ne!(world.pid("web"), pid, "round {round}");
        assert_eq!(init(world, "web"), sandbox, "round {round}");
        let exits = world.status("web")["exits"].clone();
        let last = exits.as_array().and_then(|all| all.last()).expect("the newest last");
        assert_eq!((&last["run"], &last["signal"]), (&run.into(), &9.into()), "{exits}");
    }
}

pub fn stop_and_reload_commands_run_inside(world: &mut World) {
    let keys = format!(
        "service.stop = {{ command = [\"/bin/sh\", \"-c\", \"echo stopping $(hostname); kill -USR1 2\"] }}\n\
         service.reload = {{ command = [\"/bin/sh\", \"-c\", \"test -e /tmp/fine\"] }}\n{NONE}"
    );
    let trap = "trap 'echo told; exit 7' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let toml = format!("service.command = [\"/bin/sh\", \"-c\", \"{trap}\"]\n{keys}\n");
    world.write_service("app", &toml);
    world.start();
    wait_until("it is ready", LONG, || world.logs("app").contains("ready"));
    assert_eq!(world.palisade(&["reload", "app"]).status.code(), Some(1), "the command failed");
    world.ok(&["exec", "app", "--", "/bin/sh", "-c", "> /tmp/fine"]);
    assert_eq!(world.ok(&["reload", "app"]), "app: reloaded\n");
    // Several at once, each with the end of its own command.
    world.write_service("zero", &toml.replace("test -e /tmp/fine", "exit 3"));
    world.ok(&["daemon-reload"]);
    world.wait_state("zero", "active");
    let answer = world.palisade(&["--json", "reload", "app", "zero"]);
    let changes: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("an answer in JSON");
    let what = |n: usize| changes["changes"][n]["what"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (what(0).as_str(), what(1).as_str()),
        ("reloaded", "not reloaded: exit status 3"),
        "{changes}"
    );
    world.ok(&["stop", "zero"]);
    world.ok(&["stop", "app"]);
    let exits = world.status("app")["exits"].clone();
    assert_eq!(exits[0]["code"], 7, "{exits}");
    assert!(world.logs("app").contains("told"));
}

pub fn a_service_on_a_terminal_is_logged_and_taken_over(world: &mut World) {
    let script = "tty; while :; do n=$((n+1)); echo \"line $n\"; sleep 0.02; done";
    let toml = format!("service.command = [\"/bin/sh\", \"-c\", '{script}']\nservice.tty = true\n{NONE}\n");
    world.write_service("term", &toml);
    world.start();
    // All of it: it speaks on while others start.
    let said = |world: &World| world.ok(&["logs", "-n", "all", "term"]);
    wait_until("it speaks", LONG, || said(world).contains("line 3"));
    assert!(said(world).contains("/dev/pts/"), "{}", said(world));
    let pid = world.pid("term");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("term"), world.state("term").as_str()), (pid, "active"));
    let lines = said(world).lines().count();
    wait_until("it still speaks", LONG, || said(world).lines().count() > lines + 3);
    assert_eq!(world.pid("term"), pid);
}

pub fn in_the_hosts_pid_namespace_everything_ends_all_the_same(world: &mut World) {
    let script = "trap '' TERM\nsetsid sh -c 'while :; do sleep 0.2; done' stubborn &\n\
                  (sh -c 'while :; do sleep 0.2; done' stubborn &)\necho ready\nwhile :; do sleep 0.2; done\n";
    world.write("probe/tree.sh", script);
    // A procfs of one's own takes a pid namespace of one's own.
    let keys = "namespaces.pid = \"host\"\nrootfs.proc = \"none\"\nservice.stop = { timeout = \"300ms\" }";
    let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
    world.write_service(
        "tree",
        &format!("service.command = [\"/bin/sh\", \"/probe/tree.sh\"]\n{mounts}\n{keys}\n{NONE}\n"),
    );
    world.start();
    // A shell that forks in the background goes on before the child has executed anything.
    wait_until("the whole tree is up", LONG, || {
        world.logs("tree").contains("ready")
            && snapshot::processes().iter().filter(|p| p.contains("stubborn")).count() >= 2
    });
    let pid = world.pid("tree");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.state("tree").as_str(), world.pid("tree")), ("active", pid));
    world.ok(&["stop", "tree"]);
    wait_until("nobody is left", LONG, || {
        world.reap();
        !snapshot::processes().iter().any(|p| p.contains("stubborn") || p.contains("sleep 0.2"))
    });
}

pub fn restarts_are_limited_and_reset_by_hand(world: &mut World) {
    let limit = "restart = { policy = \"always\", delay = \"5ms\", max = 3, within = \"1h\" }";
    world.write_service("crash", &world.probe_toml(&["exit", "3"], &format!("{limit}\n{NONE}")));
    world.start();
    world.wait_state("crash", "failed");
    let status = world.status("crash");
    assert_eq!(status["run"], 4, "one start and three restarts");
    assert!(status["reason"].as_str().is_some_and(|r| r.contains("3 restarts within 1h")), "{status}");
    // A takeover does not forget it.
    world.kill_supervisor();
    world.start();
    assert_eq!((world.state("crash").as_str(), world.run_id("crash")), ("failed", 4));
    world.palisade(&["start", "crash"]);
    wait_until("four more runs", LONG, || world.run_id("crash") == 8 && world.state("crash") == "failed");
}
