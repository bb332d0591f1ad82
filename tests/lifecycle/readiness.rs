//! Services that say themselves how they are, and daemons that leave their starter.

use std::{fs, time::Duration};

use nix::sys::signal::{Signal, kill};

use crate::support::{LONG, World, scaled, span, wait_until, world::raw};

/// A probe that takes `steps`, without a network.
fn say(world: &World, name: &str, steps: &[&str], keys: &str) {
    let steps: Vec<&str> = ["say"].into_iter().chain(steps.iter().copied()).collect();
    world.write_service(name, &world.probe_toml(&steps, &format!("network.mode = \"none\"\n{keys}")));
}

/// Waits until the main process is there and takes its steps, and sends it a signal.
fn signal(world: &World, name: &str, signal: Signal) -> u32 {
    wait_until("it has a process", LONG, || world.status(name)["pid"].as_u64().is_some());
    let pid = world.pid(name);
    begun(pid);
    kill(raw(pid), signal).expect("it lives");
    pid
}

/// Waits until a probe takes its steps: from then on a signal waits until it is looked for.
fn begun(pid: u32) {
    wait_until("it takes its steps", LONG, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).expect("proc(5)");
        let blocked = u64::from_str_radix(blocked, 16).expect("hexadecimal");
        // SIGWINCH, which it never waits for; the others are open while it does. Until it is executed so is SIGTERM.
        blocked & 1 << 27 != 0 && blocked & 1 << 14 == 0
    });
}

fn says(world: &World, name: &str) -> String {
    world.status(name)["says"].as_str().unwrap_or_default().to_owned()
}

/// The last end of a run in `status`.
fn last_exit(world: &World, name: &str) -> serde_json::Value {
    world.status(name)["exits"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default()
}

pub fn a_service_is_starting_until_it_says_that_it_is_ready(world: &mut World) {
    let steps = ["send:STATUS=half way", "usr1", "send:READY=1\\nSTATUS=\\e[2Jup", "barrier"];
    say(world, "one", &steps, "service.type = \"notify\"");
    say(world, "two", &[], "unit.after = [\"one\"]\nunit.requires = [\"one\"]");
    world.start();
    wait_until("it has said something", LONG, || says(world, "one") == "half way");
    assert_eq!((world.state("one"), world.state("two")), ("starting".into(), "waiting".into()));
    signal(world, "one", Signal::SIGUSR1);
    world.wait_state("two", "active");
    assert_eq!(world.state("one"), "active");
    wait_until("its barrier is down", LONG, || world.logs("one").contains("the barrier is down"));
    assert_eq!(says(world, "one"), " [2Jup");
    let shown = world.ok(&["status", "one"]);
    assert!(shown.contains("Type: notify") && shown.contains("Says:  [2Jup"), "{shown}");
    let main = fs::read(format!("/proc/{}/environ", world.pid("one"))).expect("it lives");
    assert!(String::from_utf8_lossy(&main).contains("NOTIFY_SOCKET=/run/palisade/notify"));
    let session = world.ok(&["exec", "one", "--", "/usr/bin/env"]);
    assert!(!session.contains("NOTIFY"), "{session}");
    let other = fs::read(format!("/proc/{}/environ", world.pid("two"))).expect("it lives");
    assert!(!String::from_utf8_lossy(&other).contains("NOTIFY"));
}

pub fn what_was_said_while_nobody_supervised_is_heard(world: &mut World) {
    // Of one more than fits into a queue of the kernel's usual length nothing is lost, and nobody waits.
    let steps = ["usr1", "send:STATUS=half way", "flood:30", "send:READY=1\\nSTATUS=up", "echo:said"];
    say(world, "one", &steps, "service.type = \"notify\"");
    say(world, "two", &["usr1", "fd:5:done", "echo:said"], "service.ready = \"fd:5\"");
    world.start();
    for name in ["one", "two"] {
        wait_until("it has a process", LONG, || world.status(name)["pid"].as_u64().is_some());
    }
    let pids = [world.pid("one"), world.pid("two")];
    world.kill_supervisor();
    for pid in pids {
        begun(pid);
        kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    }
    wait_until("both have said it", LONG, || {
        let is_parked =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|at| at.contains("futex"));
        pids.iter().all(is_parked)
    });
    world.start();
    for name in ["one", "two"] {
        world.wait_state(name, "active");
        assert_eq!(world.run_id(name), 1);
    }
    assert_eq!([world.pid("one"), world.pid("two")], pids);
    wait_until("what it said last", LONG, || says(world, "one") == "up");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.state("one"), says(world, "one")), ("active".into(), "up".into()));
}

pub fn only_who_could_signal_the_main_process_is_heard(world: &mut World) {
    let steps = ["child:send:STATUS=mine", "send:READY=1"];
    say(world, "one", &steps, "service.type = \"notify\"\nservice.user = 1000");
    world.start();
    world.wait_state("one", "active");
    wait_until("its child was heard", LONG, || says(world, "one") == "mine");
    let forge = |user: &str, text: &str| {
        let step = format!("send:STATUS={text}");
        let environment = "NOTIFY_SOCKET=/run/palisade/notify";
        let steps = ["--", "/usr/bin/env", environment, "/probe/probe", "__probe", "say", &step, "exit:0"];
        world.ok(&[&["exec", "--user", user, "one"], &steps[..]].concat());
    };
    forge("1001", "forged");
    forge("0", "roots");
    wait_until("root was heard", LONG, || says(world, "one") != "mine");
    // In the order in which they were sent.
    assert_eq!(says(world, "one"), "roots");
    let refused = world.supervisor_log();
    assert!(!refused.contains("forged"), "{refused}");
}

pub fn a_line_on_a_descriptor_makes_ready(world: &mut World) {
    say(world, "one", &["usr1", "fd:3:listening", "usr2"], "service.ready = \"fd\"");
    say(world, "shell", &[], "");
    let script = "exec 9>&-; echo almost >&7 & wait; sleep 1000";
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nservice.ready = \"fd:7\"\nnetwork.mode = \"none\"\n"
    );
    world.write_service("shell", &toml);
    world.start();
    world.wait_state("shell", "active");
    assert_eq!(world.state("one"), "starting");
    let session = world.ok(&["exec", "one", "--", "/usr/bin/ls", "/proc/self/fd"]);
    assert_eq!(session.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "3 is the directory");
    signal(world, "one", Signal::SIGUSR1);
    world.wait_state("one", "active");
    let in_place =
        "service.ready = \"fd:3\"\nrestart = { mode = \"in-place\", delay = \"10ms\", policy = \"always\" }";
    say(world, "again", &["fd:3:x", "usr1", "exit:1"], in_place);
    let hooked = "service.ready = \"fd:3\"\nservice.pre_start = [{ command = \"/bin/true\" }]";
    say(world, "hooked", &["fd:3:x"], hooked);
    world.ok(&["daemon-reload"]);
    world.wait_state("again", "active");
    world.wait_state("hooked", "active");
    signal(world, "again", Signal::SIGUSR1);
    wait_until("another run is ready", LONG, || {
        world.run_id("again") == 2 && world.state("again") == "active"
    });
}

pub fn a_watchdog_that_hears_nothing_bites(world: &mut World) {
    let interval = scaled(Duration::from_secs(30));
    let keys = format!(
        "service.type = \"notify\"\nservice.watchdog = \"{}ms\"\nrestart.policy = \"never\"",
        interval.as_millis()
    );
    say(world, "told", &["send:READY=1", "usr1", "send:WATCHDOG=trigger"], &keys);
    let short = "service.watchdog = \"100ms\"\nrestart.policy = \"never\"";
    say(world, "short", &["usr1"], short);
    let steps = ["send:READY=1", "usr1", "send:WATCHDOG=1\\nWATCHDOG_USEC=50000"];
    say(world, "changes", &steps, &keys);
    world.start();
    world.wait_state("short", "failed");
    let exit = last_exit(world, "short");
    assert!(world.status("short")["reason"].as_str().is_some_and(|why| why.contains("watchdog")), "{exit}");
    for name in ["told", "changes"] {
        world.wait_state(name, "active");
        let main = fs::read(format!("/proc/{}/environ", world.pid(name))).expect("it lives");
        let told = format!("WATCHDOG_USEC={}\0", interval.as_micros());
        assert!(String::from_utf8_lossy(&main).contains(&told));
        signal(world, name, Signal::SIGUSR1);
        world.wait_state(name, "failed");
        assert!(world.status(name)["reason"].as_str().is_some_and(|why| why.contains("watchdog")));
    }
    // A successor gives it a whole interval, and then does the same.
    let keys = format!("service.type = \"notify\"\nservice.watchdog = \"{}\"", span(Duration::from_secs(4)));
    say(world, "kept", &["send:READY=1"], &keys);
    world.ok(&["daemon-reload"]);
    world.wait_state("kept", "active");
    world.kill_supervisor();
    world.start();
    assert_eq!(world.state("kept"), "active");
    wait_until("it is started again", LONG, || world.run_id("kept") > 1);
}

pub fn a_reload_ends_when_the_service_says_so(world: &mut World) {
    let steps = ["send:READY=1", "hup", "reloading", "usr1", "send:READY=1\\nSTATUS=new", "hup", "exit:0"];
    say(world, "one", &steps, "service.type = \"notify-reload\"");
    let time = span(Duration::from_secs(1));
    let slow = format!("service.type = \"notify-reload\"\nservice.timeout = {{ start = \"{time}\" }}");
    say(world, "deaf", &["send:READY=1", "hup"], &slow);
    world.start();
    for name in ["one", "deaf"] {
        world.wait_state(name, "active");
    }
    let reload = world.command(&["reload", "one"]).stdout(std::process::Stdio::piped()).spawn();
    let mut reload = reload.expect("the program under test starts");
    wait_until("it says that it reloads", LONG, || says(world, "one") == "reloading");
    assert!(reload.try_wait().expect("our child").is_none(), "it has not reloaded yet");
    signal(world, "one", Signal::SIGUSR1);
    let output = reload.wait_with_output().expect("our child");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("reloaded"), "{output:?}");
    assert_eq!((says(world, "one"), world.run_id("one")), ("new".into(), 1));
    let output = world.palisade(&["reload", "one", "deaf"]);
    assert_eq!(output.status.code(), Some(1));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it has ended") && said.contains("has not said RELOADING=1"), "{said}");
}

pub fn a_daemon_is_followed_by_its_pid_file(world: &mut World) {
    let keys = "service.type = \"forking\"\nservice.pid_file = \"/run/d/one.pid\"\n\
                rootfs.tmpfs = [{ dst = \"/run\", mode = \"1777\" }]\nrestart.policy = \"never\"";
    let script = "(trap '' USR1; /probe/probe __probe say usr1 & wait; mkdir /run/d; echo almost > /run/d/one.pid; \
                  exec /probe/probe __probe say pid-file:/run/d/one.pid usr1 exit:7) & exit 0";
    let command = format!("service.command = [\"/bin/sh\", \"-c\", \"{script}\"]\n");
    let mounts = format!("rootfs.mounts = [{}]\nnetwork.mode = \"none\"\n", world.probe_mount());
    world.write_service("one", &format!("{command}{mounts}{keys}\n"));
    world.start();
    let probe = || {
        let is_probe = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("__probe\0say\0usr1\0"))
        };
        crate::support::world::pids().into_iter().find(is_probe)
    };
    wait_until("its helper is there", LONG, || probe().is_some());
    assert_eq!(world.state("one"), "starting", "its starter has ended, and the file is not there");
    // Whoever waits for the file is the init: it is written while no supervisor lives.
    world.kill_supervisor();
    let helper = probe().expect("it is there");
    begun(helper.try_into().expect("a pid"));
    kill(nix::unistd::Pid::from_raw(helper), Signal::SIGKILL).expect("it lives");
    world.start();
    world.wait_state("one", "active");
    let pid = signal(world, "one", Signal::SIGCONT);
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it lives");
    assert!(command.contains("pid-file:"), "{command}");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("one"), world.state("one"), world.run_id("one")), (pid, "active".into(), 1));
    signal(world, "one", Signal::SIGUSR1);
    world.wait_state("one", "failed");
    assert_eq!(last_exit(world, "one")["code"], 7, "the daemon's own end is told");
}

pub fn a_daemon_without_a_pid_file_is_the_one_that_is_left(world: &mut World) {
    let keys = "service.type = \"forking\"\nrestart.policy = \"never\"";
    say(world, "one", &["child:child:echo:worker,usr1,exit:3", "exit:0"], keys);
    say(world, "fails", &["child:usr1", "exit:4"], keys);
    let time = span(Duration::from_secs(10));
    let stop = format!("service.type = \"forking\"\nservice.stop = {{ timeout = \"{time}\" }}");
    say(world, "many", &["child:usr1", "child:usr1", "exit:0"], &stop);
    world.start();
    world.wait_state("one", "active");
    let pid = world.pid("one");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it lives");
    assert!(command.contains("exit:3"), "{command}");
    world.wait_state("fails", "failed");
    assert_eq!(last_exit(world, "fails")["code"], 4);
    world.wait_state("many", "active");
    assert!(world.status("many")["pid"].is_null(), "nobody knows which one it is");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("one"), world.state("one")), (pid, "active".into()));
    assert_eq!(world.state("many"), "active");
    signal(world, "one", Signal::SIGUSR1);
    world.wait_state("one", "failed");
    assert_eq!(last_exit(world, "one")["code"], 3);
    let before = std::time::Instant::now();
    world.ok(&["stop", "many"]);
    assert!(before.elapsed() < scaled(Duration::from_secs(8)), "they are asked, all of them");
}

pub fn a_starter_that_leaves_nobody_has_failed(world: &mut World) {
    let keys = "service.type = \"forking\"\nrestart.policy = \"never\"";
    say(world, "one", &["exit:0"], keys);
    say(world, "two", &["exit:0"], &format!("{keys}\nservice.pid_file = \"/run/two.pid\""));
    world.start();
    for name in ["one", "two"] {
        world.wait_state(name, "failed");
        assert!(world.status(name)["reason"].as_str().is_some_and(|why| why.contains("before it was ready")));
    }
}

pub fn the_main_process_is_whom_the_service_names(world: &mut World) {
    let keys = "service.type = \"notify\"\nrestart.policy = \"never\"";
    let steps = [
        "main:usr1,exit:5",
        "barrier",
        "send:READY=1",
        "usr2",
        "send:MAINPID=1\\nSTATUS=tried",
        "send:MAINPID=4000000",
    ];
    say(world, "one", &steps, keys);
    world.start();
    world.wait_state("one", "active");
    wait_until("it is followed", LONG, || {
        // The starter's own line has it behind a comma.
        fs::read_to_string(format!("/proc/{}/cmdline", world.pid("one")))
            .is_ok_and(|line| line.contains("\0exit:5\0"))
    });
    let daemon = world.pid("one");
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("it lives");
    let starter = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("proc(5)");
    // Its starter names somebody who is not there.
    kill(raw(starter.parse().expect("a pid")), Signal::SIGUSR2).expect("it lives");
    wait_until("it has said so", LONG, || says(world, "one") == "tried");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("one"), world.state("one")), (daemon, "active".into()));
    signal(world, "one", Signal::SIGUSR1);
    world.wait_state("one", "failed");
    assert_eq!(world.run_id("one"), 1);
}

pub fn patience_is_granted_when_it_is_asked_for(world: &mut World) {
    let keys = format!(
        "service.type = \"notify\"\nservice.timeout = {{ start = \"{}\" }}\nrestart.policy = \"never\"",
        span(Duration::from_secs(4))
    );
    let extend = format!("send:EXTEND_TIMEOUT_USEC={}", scaled(Duration::from_secs(60)).as_micros());
    say(world, "patient", &[&extend, "usr1", "send:READY=1"], &keys);
    say(world, "silent", &["usr1", "send:READY=1"], &keys);
    world.start();
    world.wait_state("silent", "failed");
    assert_eq!(world.state("patient"), "starting");
    signal(world, "patient", Signal::SIGUSR1);
    world.wait_state("patient", "active");
}

pub fn a_flood_of_messages_holds_nobody_up(world: &mut World) {
    say(world, "loud", &["send:READY=1", "flood:1000000"], "service.type = \"notify\"");
    say(world, "quiet", &["usr1", "send:READY=1"], "service.type = \"notify\"");
    world.start();
    world.wait_state("loud", "active");
    wait_until("it floods", LONG, || says(world, "loud").contains("[2J"));
    signal(world, "quiet", Signal::SIGUSR1);
    world.wait_state("quiet", "active");
    assert_eq!(world.state("loud"), "active");
}

pub fn whoever_has_more_to_say_than_is_heard_in_a_second_is_heard_in_the_next(world: &mut World) {
    let brief = ["send:READY=1", "flood:5000", "echo:over"];
    say(world, "brief", &brief, "service.type = \"notify\"");
    world.start();
    // Nothing is asked of the supervisor meanwhile: it goes on by itself.
    let log = world.dir().join("log/brief.log");
    wait_until("it could say it all", LONG, || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("over"))
    });
}

pub fn a_simple_service_has_started_before_its_program(world: &mut World) {
    let toml = "service = { command = \"/nowhere\", type = \"simple\" }\nnetwork.mode = \"none\"\nrestart.policy = \"never\"\n";
    world.write_service("one", toml);
    say(world, "two", &[], "unit.after = [\"one\"]\nunit.requires = [\"one\"]");
    say(world, "three", &[], "service.type = \"simple\"");
    world.start();
    world.wait_state("one", "failed");
    world.wait_state("three", "active");
    assert_ne!(world.status("two")["run"], 0, "it had started");
}

pub fn descriptors_that_a_service_stores_come_back(world: &mut World) {
    let keys = "service.type = \"notify\"\nservice.fd_store_max = 2\nrestart = { policy = \"always\", delay = \"10ms\" }";
    let steps = [
        "stored",
        "store:one",
        "store:two",
        "store:one",
        "store:three",
        "barrier",
        "send:READY=1",
        "usr1",
        "send:FDSTOREREMOVE=1\\nFDNAME=one",
        "barrier",
        "exit:1",
    ];
    say(world, "keeper", &steps, keys);
    world.start();
    world.wait_state("keeper", "active");
    world.kill_supervisor();
    world.start();
    signal(world, "keeper", Signal::SIGUSR1);
    wait_until("another run", LONG, || world.run_id("keeper") == 2 && world.state("keeper") == "active");
    let log = world.logs("keeper");
    let stored: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once("stored ")?.1)).collect();
    assert_eq!(stored, [" ", "two two"], "{log}");
    assert!(world.supervisor_log().contains("fd_store_max is 2"));
}
