//! Commands around the main program: condition, pre_start, post_start, pre_stop, post_stop.

use std::{fs, time::Duration};

use nix::sys::signal::{Signal, kill};
use palisade::supervisor::Way;

use crate::support::{LONG, World, scaled, span, wait_until, world::raw};

const NONE: &str = "network.mode = \"none\"\nrootfs.base = \"host\"\n";

/// What a loop of the shell does between two looks: each is a process, which an emulated CPU makes slowly.
fn nap() -> String {
    format!("sleep {}", scaled(Duration::from_millis(20)).as_secs_f64())
}

/// A daemon in the shell that says what it is, and keys.
fn daemon(keys: &str) -> String {
    let main = format!("trap 'echo main stops; exit 0' TERM; echo main $$$$; while :; do {}; done", nap());
    format!("service.command = [\"/bin/sh\", \"-c\", \"{main}\"]\n{keys}\n{NONE}")
}

/// One command of a list: a line of the shell.
fn sh(line: &str) -> String {
    format!("[\"/bin/sh\", \"-c\", '{line}']")
}

/// What the service and its commands have written, without times.
fn said(world: &World, name: &str) -> Vec<String> {
    let log = fs::read_to_string(world.dir().join(format!("log/{name}.log"))).unwrap_or_default();
    let line = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    log.lines().map(line).collect()
}

fn has_said(world: &World, name: &str, words: &str) -> bool {
    said(world, name).iter().any(|line| line.contains(words))
}

fn position(lines: &[String], words: &str) -> usize {
    let found = lines.iter().position(|line| line.contains(words));
    found.unwrap_or_else(|| panic!("no {words:?} in {lines:#?}"))
}

pub fn they_run_in_order_behind_the_same_walls(world: &mut World) {
    let walls = "echo pre $(id -u) $(grep -c . /proc/net/dev) $(grep Seccomp: /proc/self/status) \
                 $(grep NoNewPrivs: /proc/self/status) $(grep CapEff /proc/self/status) $(hostname) $WORD";
    let keys = format!(
        "service.condition = [{}]\nservice.pre_start = [{}, {}]\nservice.post_start = [{}]\nservice.pre_stop = [{}]\n\
         service.post_stop = [{}, {}]\nservice.env = {{ WORD = \"mine\" }}\n",
        sh("echo condition; sleep 300 & exit 0"),
        sh("echo left $(pgrep sleep)"),
        sh(walls),
        sh("echo started $MAINPID; test -d /proc/$MAINPID"),
        // In the command itself, and in its environment.
        "[\"/bin/sh\", \"-c\", 'echo before stop $0 $SERVICE_RESULT; echo kept > /tmp/word', \"$MAINPID\"]",
        sh("echo after stop $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS $(cat /tmp/word)"),
        sh("echo others $(pgrep -c sh)"),
    );
    world.write_service("app", &daemon(&keys));
    world.start();
    world.wait_state("app", "active");
    wait_until("it runs", LONG, || has_said(world, "app", "main "));
    let uid = fs::read_to_string(format!("/proc/{}/status", world.pid("app"))).expect("it lives");
    assert!(uid.contains("Seccomp:\t2"), "{uid}");
    world.ok(&["stop", "app"]);
    assert_eq!(world.state("app"), "stopped");
    let lines = said(world, "app");
    let order = ["condition", "left", "pre ", "main ", "started", "before stop", "main stops", "after stop"];
    let places: Vec<usize> = order.iter().map(|words| position(&lines, words)).collect();
    // What the main program says first and what post_start says come at the same time.
    let mut sorted = places.clone();
    sorted.sort_unstable();
    assert!(places[0] < places[1] && places[1] < places[2] && places[2] < places[3], "{lines:#?}");
    assert!(places[4] < places[5] && places[5] < places[6] && places[6] < places[7], "{lines:#?}");
    assert_eq!(lines[places[1]].trim(), "left", "what a command leaves running is killed before the next");
    let pre = &lines[places[2]];
    assert!(pre.contains("Seccomp: 2") && pre.contains("NoNewPrivs: 1"), "{pre}");
    assert!(pre.contains("CapEff: 0000000000000000") && pre.ends_with("app mine"), "{pre}");
    assert!(!pre.contains("pre 0 "), "{pre}");
    let main: Vec<&str> = lines[places[3]].split(' ').collect();
    assert_eq!(lines[places[4]], format!("started {}", main[1]), "MAINPID as it is counted inside");
    assert_eq!(lines[places[5]], format!("before stop {} success", main[1]));
    assert_eq!(lines[places[7]], "after stop success exited 0 kept", "in the same sandbox");
}

pub fn a_condition_skips_and_fails_as_with_systemd(world: &mut World) {
    for (name, line) in [("no", "exit 3"), ("broken", "exit 255"), ("killed", "kill -KILL $$$$")] {
        let keys = format!("service.condition = [{}]\nrestart.policy = \"never\"", sh(line));
        world.write_service(name, &daemon(&keys));
    }
    let ignored = format!(
        "service.condition = [{{ command = {}, ignore_failure = true }}]\nunit.requires = [\"no\"]",
        sh("exit 255")
    );
    world.write_service("yes", &daemon(&ignored.replace("unit.requires = [\"no\"]", "")));
    world.start();
    world.wait_state("yes", "active");
    world.wait_state("no", "stopped");
    let status = String::from_utf8(world.palisade(&["status", "no"]).stdout).expect("text");
    assert!(status.contains("skipped by a condition"), "{status}");
    for (name, words) in [("broken", "exit status 255"), ("killed", "killed by SIGKILL")] {
        world.wait_state(name, "failed");
        let status = String::from_utf8(world.palisade(&["status", name]).stdout).expect("text");
        assert!(status.contains("service.condition") && status.contains(words), "{status}");
    }
    for name in ["no", "broken", "killed"] {
        assert!(!has_said(world, name, "main"), "{name} never ran");
    }
}

pub fn a_command_that_fails_fails_the_start_and_is_named(world: &mut World) {
    let keys = format!(
        "service.pre_start = [{}, {}]\nservice.post_stop = [{}]\nrestart.policy = \"never\"",
        sh("echo why not; exit 7"),
        sh("echo not me"),
        sh("echo end $SERVICE_RESULT")
    );
    world.write_service("pre", &daemon(&keys));
    let keys = format!(
        "service.post_start = [{}]\nservice.post_stop = [{}]\nrestart.policy = \"never\"",
        // Not before the main program heeds what it is told.
        sh(&format!("while test ! -e /tmp/up; do {}; done; exit 8", nap())),
        sh("echo end $SERVICE_RESULT $EXIT_CODE")
    );
    world.write_service("post", &daemon(&keys).replace("echo main $$$$", "echo main $$$$; echo > /tmp/up"));
    let missing = "service.pre_start = [[\"/no/such/program\"]]\nrestart.policy = \"on-failure\"";
    world.write_service("missing", &daemon(missing));
    let slow = "service.pre_start = [{ command = [\"/bin/sleep\", \"300\"], timeout = \"100ms\" }]\n\
                restart.policy = \"never\"";
    world.write_service("slow", &daemon(slow));
    let late = "service.pre_start = [[\"/bin/sleep\", \"301\"]]\nservice.timeout.start = \"100ms\"\n\
                restart.policy = \"never\"";
    world.write_service("late", &daemon(late));
    world.start();
    let expected = [
        ("pre", "exit status 7"),
        ("post", "exit status 8"),
        ("missing", "ENOENT"),
        ("slow", "did not end within 100ms"),
        ("late", "not started within 100ms"),
    ];
    for (name, words) in expected {
        world.wait_state(name, "failed");
        let status = String::from_utf8(world.palisade(&["status", name]).stdout).expect("text");
        assert!(status.contains(words), "{name}: {status}");
    }
    let lines = said(world, "pre");
    assert!(
        lines.contains(&"why not".to_owned()) && lines.contains(&"end resources".to_owned()),
        "{lines:?}"
    );
    assert!(!has_said(world, "pre", "not me") && !has_said(world, "pre", "main"), "{lines:?}");
    let lines = said(world, "post");
    assert!(has_said(world, "post", "main stops") && has_said(world, "post", "end exit-code"), "{lines:?}");
}

pub fn post_stop_runs_however_it_ended(world: &mut World) {
    let end = sh("echo end $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS");
    let keys = format!("service.post_stop = [{end}]\nrestart = {{ policy = \"always\", delay = \"10ms\" }}");
    world.write_service("crash", &daemon(&keys));
    let deaf = format!("trap '' TERM; echo main; while :; do {}; done", nap());
    // The command has that time as well, to begin and to end.
    let time = span(Duration::from_secs(3));
    let keys = format!("service.post_stop = [{end}]\nservice.stop = {{ timeout = \"{time}\" }}\n{NONE}");
    world.write_service("deaf", &format!("service.command = [\"/bin/sh\", \"-c\", \"{deaf}\"]\n{keys}"));
    world.start();
    world.wait_state("crash", "active");
    let (pid, run) = (world.pid("crash"), world.run_id("crash"));
    kill(raw(pid), Signal::SIGSEGV).expect("it lives");
    wait_until("another run", LONG, || world.run_id("crash") > run && world.state("crash") == "active");
    let lines = said(world, "crash");
    assert!(
        lines.iter().any(|line| line == "end signal killed SEGV" || line == "end core-dump dumped SEGV"),
        "{lines:?}"
    );
    wait_until("it runs", LONG, || has_said(world, "deaf", "main"));
    world.ok(&["stop", "deaf"]);
    let lines = said(world, "deaf");
    assert_eq!(lines.last().map(String::as_str), Some("end signal killed KILL"), "{lines:?}");
    // It ends while nobody supervises.
    let (pid, run) = (world.pid("crash"), world.run_id("crash"));
    world.kill_supervisor();
    kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    wait_until("it is dead", LONG, || kill(raw(pid), None).is_err());
    world.start();
    wait_until("another run", LONG, || world.run_id("crash") > run && world.state("crash") == "active");
    assert!(has_said(world, "crash", "end signal killed USR1"), "{:?}", said(world, "crash"));
}

pub fn a_killed_supervisor_runs_no_command_twice(world: &mut World) {
    // Each stage waits for a file that the test makes when the supervisor has been killed.
    let dir = world.dir().join("gate");
    fs::create_dir(&dir).expect("a new name");
    let gate = |stage: &str| {
        sh(&format!(
            "echo {stage} begins; while test ! -e /gate/{stage}; do {}; done; echo {stage} ends",
            nap()
        ))
    };
    let keys = format!(
        "service.condition = [{}]\nservice.pre_start = [{}, {}]\nservice.post_start = [{}]\nservice.pre_stop = [{}]\n\
         service.post_stop = [{}]\nservice.timeout.start = \"{}\"\nservice.stop.timeout = \"{}\"\n\
         rootfs.mounts = [{{ src = \"{}\", dst = \"/gate\" }}]",
        gate("condition"),
        gate("first"),
        gate("second"),
        gate("post-start"),
        gate("pre-stop"),
        gate("post-stop"),
        span(Duration::from_secs(90)),
        span(Duration::from_secs(60)),
        dir.display()
    );
    world.write_service("app", &daemon(&keys));
    world.start();
    let stages = ["condition", "first", "second", "post-start", "pre-stop", "post-stop"];
    let mut stop = None;
    for (n, stage) in stages.into_iter().enumerate() {
        wait_until(&format!("{stage} begins"), LONG, || has_said(world, "app", &format!("{stage} begins")));
        world.kill_supervisor();
        // Ends while nobody supervises, or under the next one.
        if n % 2 == 0 {
            fs::write(dir.join(stage), "").expect("our own directory");
            let ends = |world: &World| has_said(world, "app", &format!("{stage} ends"));
            world.start();
            wait_until(&format!("{stage} ends"), LONG, || ends(world));
        } else {
            world.start();
            fs::write(dir.join(stage), "").expect("our own directory");
        }
        if stage == "post-start" {
            world.wait_state("app", "active");
            stop = Some(world.command(&["stop", "app"]).spawn().expect("the program under test starts"));
        }
    }
    world.wait_state("app", "stopped");
    if let Some(mut stop) = stop {
        // Its supervisor was killed under it.
        let _ = stop.wait();
    }
    let lines = said(world, "app");
    for stage in stages {
        for word in ["begins", "ends"] {
            let count = lines.iter().filter(|line| **line == format!("{stage} {word}")).count();
            assert_eq!(count, 1, "{stage} {word}: {lines:#?}");
        }
    }
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("main ")).count(),
        2,
        "one beginning, one end: {lines:#?}"
    );
}

pub fn a_supervisor_may_die_at_every_moment_of_the_commands(world: &mut World) {
    let keys = format!(
        "service.condition = [{}]\nservice.pre_start = [{}]\nservice.post_start = [{}]\nservice.pre_stop = [{}]\n\
         service.post_stop = [{}]\nunit.enabled = false",
        sh("echo condition"),
        sh("echo pre-start"),
        sh("echo post-start"),
        sh("echo pre-stop"),
        sh("echo post-stop")
    );
    world.write_service("app", &daemon(&keys));
    let expected = ["condition", "main", "main stops", "post-start", "post-stop", "pre-start", "pre-stop"];
    let mut seen = 0;
    let of_hooks = palisade::supervisor::points().filter(|point| point.way == Way::Hooks);
    for point in of_hooks.map(|point| point.name) {
        let mut command = world.supervise();
        command.arg("--die-at").arg(format!("app:at:{point}"));
        let answers = world.start_to_die(command);
        assert!(answers, "{point}: nothing is started by itself");
        world.palisade(&["start", "app"]);
        // Up, or dead: whoever is stopped has to have a program that heeds it.
        wait_until("it runs", LONG, || {
            world.has_died() || said(world, "app").iter().skip(seen).any(|line| line.starts_with("main "))
        });
        if !world.has_died() {
            world.palisade(&["stop", "app"]);
        }
        wait_until(&format!("its end at {point}"), LONG, || world.has_died());
        world.start();
        if point.contains("-stop-") {
            world.wait_state("app", "stopped");
        } else {
            world.wait_state("app", "active");
            wait_until("it runs", LONG, || {
                said(world, "app").iter().skip(seen).any(|l| l.starts_with("main "))
            });
            world.ok(&["stop", "app"]);
        }
        let lines: Vec<String> = said(world, "app").into_iter().skip(seen).collect();
        seen += lines.len();
        let word = |line: &String| {
            if line == "main stops" {
                line.clone()
            } else {
                line.split(' ').next().unwrap_or_default().to_owned()
            }
        };
        let mut words: Vec<String> = lines.iter().map(word).collect();
        words.sort_unstable();
        assert_eq!(words, expected, "{point}: {lines:?}\n{}", world.supervisor_log());
        assert_eq!(world.stop(), Ok(()));
        world.reap();
    }
}

pub fn a_stop_ends_what_goes_before(world: &mut World) {
    let keys = format!(
        "service.pre_start = [{}]\nservice.post_stop = [{}]\nservice.pre_stop = [{}]",
        sh(&format!("trap \"echo told; exit 1\" TERM; echo begins; while :; do {}; done", nap())),
        sh("echo end"),
        sh("echo never")
    );
    world.write_service("app", &daemon(&keys));
    world.write_service(
        "privileged",
        &daemon(&format!(
            "service.pre_start = [{{ command = {}, privileged = true }}]",
            sh("echo begins; sleep 300")
        )),
    );
    world.start();
    for name in ["app", "privileged"] {
        wait_until("it begins", LONG, || has_said(world, name, "begins"));
    }
    world.ok(&["stop", "app"]);
    assert_eq!(world.state("app"), "stopped");
    let mut lines = said(world, "app");
    // The shell's word about its own child, which got the signal as well.
    lines.retain(|line| line != "Terminated");
    assert_eq!(lines, ["begins", "told", "end"], "{lines:?}");
    world.ok(&["stop", "privileged"]);
    assert_eq!(world.state("privileged"), "stopped");
}

pub fn a_privileged_command_runs_outside_and_ends_with_its_run(world: &mut World) {
    let trace = world.dir().join("trace");
    let tell = |word: &str| {
        let line = format!(
            "echo {word} $(id -u) $(readlink /proc/self/ns/mnt) $(env | sort | tr \"\\\\n\" \" \") $SERVICE_RESULT \
             fds $(ls /proc/self/fd | tr \"\\\\n\" \" \") >> {}; cat /proc/self/cgroup | grep ^0: >> {}",
            trace.display(),
            trace.display()
        );
        format!(
            "{{ command = [\"/bin/sh\", \"-c\", '{}'], privileged = true }}",
            line.replace("\\\\n", "\\n")
        )
    };
    let keys = format!(
        "service.pre_start = [{}]\nservice.post_start = [{}]\nservice.post_stop = [{}]\nrestart.policy = \"never\"\n\
         service.env = {{ SECRET = \"shh\" }}",
        tell("pre"),
        tell("started"),
        tell("post")
    );
    world.write_service("app", &daemon(&keys));
    world.start();
    world.wait_state("app", "active");
    let init = world.status("app")["init_pid"].as_u64().expect("it is known");
    // The init is killed: what runs outside comes all the same.
    kill(raw(init.try_into().expect("a pid")), Signal::SIGKILL).expect("it lives");
    world.wait_state("app", "failed");
    let traces = fs::read_to_string(&trace).expect("it was written to");
    let host = fs::read_link("/proc/self/ns/mnt").expect("a link").display().to_string();
    for word in ["pre 0", "started 0", "post 0"] {
        let line = traces.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{traces}"));
        assert!(!line.contains("SECRET") && line.contains("PATH="), "{line}");
        assert!(line.contains("fds 0 1 2 3"), "nothing was left open: {line}");
        // The supervisor has a mount namespace of its own.
        assert!(line.contains("mnt:["), "{line} {host}");
    }
    assert!(traces.contains("app.hooks."), "{traces}");
    assert!(!world.cgroup().read_dir().is_ok_and(|mut dir| {
        dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("hooks")))
    }));
}

pub fn a_privileged_command_is_run_again_by_a_successor(world: &mut World) {
    let dir = world.dir().join("gate");
    fs::create_dir(&dir).expect("a new name");
    let line = format!(
        "echo begins; sleep 4711 & while test ! -e {}/go; do {}; done; echo ends",
        dir.display(),
        nap()
    );
    let keys = format!("service.pre_start = [{{ command = {}, privileged = true }}]", sh(&line));
    world.write_service("app", &daemon(&keys));
    world.start();
    wait_until("it begins", LONG, || has_said(world, "app", "begins"));
    world.kill_supervisor();
    world.start();
    let begun = || said(world, "app").iter().filter(|line| line.as_str() == "begins").count();
    wait_until("it begins again", LONG, || begun() == 2);
    let sleepers = || {
        let all = crate::support::snapshot::processes();
        all.iter().filter(|process| process.contains("4711") && !process.contains("echo")).count()
    };
    wait_until("what the first had started is gone", LONG, || {
        world.reap();
        sleepers() == 1
    });
    fs::write(dir.join("go"), "").expect("our own directory");
    world.wait_state("app", "active");
    wait_until("what the second had started is gone", LONG, || {
        world.reap();
        sleepers() == 0
    });
    assert_eq!(said(world, "app").iter().filter(|line| line.as_str() == "ends").count(), 1);
}

pub fn in_place_they_go_before_every_run_and_after_the_last(world: &mut World) {
    let keys = format!(
        "service.pre_start = [{}]\nservice.post_stop = [{}]\n\
         restart = {{ policy = \"always\", delay = \"10ms\", mode = \"in-place\" }}",
        sh("echo pre $(cat /tmp/word); echo kept > /tmp/word"),
        sh("echo end $SERVICE_RESULT")
    );
    world.write_service("app", &daemon(&keys));
    world.start();
    world.wait_state("app", "active");
    let init = |world: &World| world.status("app")["init_pid"].as_u64();
    let sandbox = init(world);
    // It is executed before it has begun.
    let mains = |world: &World| said(world, "app").iter().filter(|line| line.starts_with("main ")).count();
    for round in 0..4 {
        wait_until("it runs", LONG, || mains(world) == round + 1);
        let (pid, run) = (world.pid("app"), world.run_id("app"));
        if round % 2 == 1 {
            world.kill_supervisor();
        }
        kill(raw(pid), Signal::SIGKILL).expect("it lives");
        if round % 2 == 1 {
            wait_until("it is dead", LONG, || kill(raw(pid), None).is_err());
            world.start();
        }
        wait_until("another run", LONG, || world.run_id("app") > run && world.state("app") == "active");
        assert_eq!(init(world), sandbox, "round {round}");
    }
    wait_until("it runs", LONG, || mains(world) == 5);
    world.ok(&["stop", "app"]);
    let lines = said(world, "app");
    let count = |word: &str| lines.iter().filter(|line| line.trim() == word).count();
    assert_eq!((count("pre"), count("pre kept"), count("end success")), (1, 4, 1), "{lines:?}");
}

pub fn what_hangs_is_killed_when_the_time_to_stop_is_over(world: &mut World) {
    // Long enough for a command to begin, and waited for to its end.
    let time = format!("service.stop.timeout = \"{}\"", span(Duration::from_secs(3)));
    let keys = format!("service.post_stop = [{}]\n{time}", sh("echo end; exec sleep 300"));
    world.write_service("inside", &daemon(&keys));
    let keys = format!(
        "service.post_stop = [{{ command = {}, privileged = true }}]\n{time}",
        sh("echo end; sleep 4712 & sleep 4712")
    );
    world.write_service("outside", &daemon(&keys));
    let keys = format!("service.pre_stop = [{}]\n{time}", sh("exec sleep 300"));
    world.write_service("before", &daemon(&keys));
    world.start();
    let all = ["inside", "outside", "before"];
    for name in all {
        world.wait_state(name, "active");
        wait_until("it runs", LONG, || has_said(world, name, "main"));
    }
    world.ok(&[["stop"].as_slice(), &all].concat());
    for name in all {
        assert_eq!(world.state(name), "stopped");
        assert_eq!(has_said(world, name, "end"), name != "before");
    }
    world.reap();
    let left = crate::support::snapshot::processes();
    assert!(!left.iter().any(|process| process.contains("sleep 4712")), "{left:?}");
}

pub fn in_the_hosts_pid_namespace_they_leave_nothing_either(world: &mut World) {
    let keys = format!(
        "service.pre_start = [{}]\nservice.post_stop = [{}]\nnamespaces.pid = \"host\"",
        sh("sleep 4713 & echo pre"),
        sh("sleep 4713 & echo end")
    );
    world.write_service("app", &daemon(&keys));
    world.start();
    world.wait_state("app", "active");
    let left = || {
        world.reap();
        let all = crate::support::snapshot::processes();
        all.into_iter().filter(|process| process.contains("sleep 4713")).collect::<Vec<_>>()
    };
    wait_until("what pre_start left is gone", LONG, || left().is_empty());
    world.ok(&["stop", "app"]);
    wait_until("what post_stop left is gone", LONG, || left().is_empty());
    assert!(has_said(world, "app", "end"), "{:?}", said(world, "app"));
}

pub fn a_service_that_says_when_it_is_ready_has_them_too(world: &mut World) {
    let keys = format!(
        "service.pre_start = [{}]\nservice.post_start = [{}]\nservice.post_stop = [{}]\n{NONE}",
        sh("echo pre; sleep 4714 &"),
        sh("echo post $MAINPID; test -d /proc/$MAINPID"),
        sh("echo end $SERVICE_RESULT")
    );
    let say = |steps: &[&str], kind: &str| {
        let steps: Vec<&str> = ["say"].into_iter().chain(steps.iter().copied()).collect();
        world.probe_toml(&steps, &format!("{kind}\n{keys}").replace("rootfs.base = \"host\"\n", ""))
    };
    let cases = [
        ("told", say(&["echo:main", "usr1", "send:READY=1"], "service.type = \"notify\"")),
        ("line", say(&["echo:main", "usr1", "fd:5:done"], "service.ready = \"fd:5\"")),
    ];
    for (name, toml) in &cases {
        world.write_service(name, toml);
    }
    world.write_service(
        "forks",
        &say(&["echo:main", "child:echo,usr2", "exit:0"], "service.type = \"forking\""),
    );
    world.start();
    world.wait_state("forks", "active");
    for (name, _) in &cases {
        wait_until("it runs", LONG, || {
            has_said(world, name, "main") && world.status(name)["pid"].as_u64().is_some()
        });
        assert_eq!(world.state(name), "starting");
        let pid = world.pid(name);
        // Whether somebody supervises when it is ready or not.
        if *name == "told" {
            world.kill_supervisor();
        }
        wait_until("it waits for the signal", LONG, || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).expect("proc(5)");
            u64::from_str_radix(blocked, 16).expect("hexadecimal") & 1 << 27 != 0
        });
        assert!(!has_said(world, name, "post"), "{:?}", said(world, name));
        kill(raw(pid), Signal::SIGUSR1).expect("it lives");
        if *name == "told" {
            world.start();
        }
        world.wait_state(name, "active");
    }
    for name in ["told", "line", "forks"] {
        world.ok(&["stop", name]);
        let lines = said(world, name);
        let words: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        assert_eq!(words, ["pre", "main", "post", "end"], "{name}: {lines:?}");
    }
}

pub fn an_upgrade_waits_for_a_privileged_command_and_not_for_others(world: &mut World) {
    let dir = world.dir().join("gate");
    fs::create_dir(&dir).expect("a new name");
    let newer = dir.join("palisade-newer");
    fs::copy(crate::support::world::PALISADE, &newer).expect("it is there");
    let gate =
        |path: &str| sh(&format!("echo begins; while test ! -e {path}/go; do {}; done; echo ends", nap()));
    let mount = format!("rootfs.mounts = [{{ src = \"{}\", dst = \"/gate\" }}]", dir.display());
    let inside = format!("service.pre_start = [{}]\n{mount}", gate("/gate"));
    world.write_service("inside", &daemon(&inside));
    world.start();
    wait_until("it begins", LONG, || has_said(world, "inside", "begins"));
    let newer = newer.display().to_string();
    world.ok(&["upgrade", &newer]);
    let outside = gate(&dir.display().to_string());
    let outside = format!("service.pre_start = [{{ command = {outside}, privileged = true }}]");
    world.write_service("outside", &daemon(&outside));
    world.signal(Signal::SIGHUP);
    wait_until("it begins", LONG, || has_said(world, "outside", "begins"));
    let mut upgrade = world.command(&["upgrade", &newer]);
    let upgrade = upgrade.stdout(std::process::Stdio::null()).spawn();
    let mut upgrade = upgrade.expect("the program under test starts");
    // Answered by the same program, which has read what was asked before.
    world.ok(&["list"]);
    assert_eq!(upgrade.try_wait().expect("our child"), None, "it waits");
    fs::write(dir.join("go"), "").expect("our own directory");
    assert!(upgrade.wait().expect("our child").success());
    for name in ["inside", "outside"] {
        world.wait_state(name, "active");
        let lines = said(world, name);
        let count = |word: &str| lines.iter().filter(|line| line.as_str() == word).count();
        assert_eq!((count("begins"), count("ends")), (1, 1), "{name}: {lines:?}");
    }
}

pub fn a_command_has_a_user_of_its_own(world: &mut World) {
    let keys = format!(
        "service.pre_start = [{{ command = {}, user = \"root\" }}]\nservice.post_start = [{{ command = {}, user = 33 }}]\n\
         rootfs.tmpfs = [{{ dst = \"/data\", mode = \"0755\" }}]",
        sh("id -u; echo $HOME $USER; echo mine > /data/file; chmod 0644 /data/file"),
        sh("id -u; cat /data/file")
    );
    let toml = daemon(&keys).replace("echo main $$$$", "echo main $$$$; echo again > /dev/stdout");
    world.write_service("app", &toml);
    world.start();
    world.wait_state("app", "active");
    wait_until("all of it", LONG, || has_said(world, "app", "again"));
    let lines = said(world, "app");
    assert!(lines.starts_with(&["0".to_owned(), "/root root".to_owned()]), "{lines:?}");
    assert!(lines.contains(&"33".to_owned()) && lines.contains(&"mine".to_owned()), "{lines:?}");
}
