//! A supervisor that dies, and the next one.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use nix::sys::signal::{Signal, kill};
use palisade::supervisor::Way;
use serde_json::Value;

use crate::support::{
    LONG, World, snapshot, wait_until,
    world::{http_get, raw, wait_http},
};

const SERVICES: u16 = 20;

pub fn a_killed_supervisor_loses_no_service_and_no_request(world: &mut World) {
    for n in 0..SERVICES {
        let keys = format!("network.publish = [\"{}:80\"]", 8100 + n);
        world.write_service(&format!("web{n}"), &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    for n in 0..SERVICES {
        assert_eq!(wait_http(&format!("127.0.0.1:{}", 8100 + n), "/"), format!("web{n}"));
    }
    let lives = |world: &World| -> BTreeMap<String, (u32, String)> {
        let list = world.json(&["list"]);
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{list}")).to_owned();
        let one = |service: &Value| {
            let pid = service["pid"].as_u64().and_then(|pid| pid.try_into().ok());
            (
                text(&service["name"]),
                (pid.unwrap_or_else(|| panic!("{list}")), text(&service["addresses"][0])),
            )
        };
        list["services"].as_array().expect("a list").iter().map(one).collect()
    };
    let before = lives(world);
    assert_eq!(before.len(), usize::from(SERVICES));
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let client = std::thread::spawn({
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        move || {
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let n = asked.fetch_add(1, Ordering::Relaxed) % u32::from(SERVICES);
                if let Err(e) = http_get(&format!("127.0.0.1:{}", 8100 + n), "/") {
                    failures.push(format!("web{n}: {e}"));
                }
            }
            failures
        }
    });
    for round in 0..20 {
        let asked_before = asked.load(Ordering::Relaxed);
        world.kill_supervisor();
        // Long enough without anybody for every service to have been asked.
        wait_until("requests without a supervisor", LONG, || {
            asked.load(Ordering::Relaxed) > asked_before + u32::from(SERVICES)
        });
        world.start();
        assert_eq!(lives(world), before, "round {round}");
    }
    over.store(true, Ordering::Relaxed);
    let failures = client.join().expect("the client does not panic");
    assert_eq!(failures, Vec::<String>::new(), "of {asked:?} requests");
}

pub fn a_service_that_ends_while_nobody_supervises_is_restarted(world: &mut World) {
    let keys = "network.mode = \"none\"\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"";
    world.write_service("wait", &world.probe_toml(&["wait"], keys));
    world.start();
    world.wait_state("wait", "active");
    let (pid, run) = (world.pid("wait"), world.run_id("wait"));
    world.kill_supervisor();
    kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    wait_until("it is dead", LONG, || {
        world.reap();
        kill(raw(pid), None).is_err()
    });
    world.start();
    wait_until("another run", LONG, || world.run_id("wait") > run && world.state("wait") == "active");
    let exits = world.status("wait")["exits"].clone();
    let last = exits.as_array().and_then(|all| all.last()).expect("a list with the newest last");
    assert_eq!(last["signal"], Signal::SIGUSR1 as i32, "its last words were read: {exits}");
}

pub fn two_supervisors_do_not_meet(world: &mut World) {
    let inner = world.dir().join("other");
    std::fs::create_dir(&inner).expect("a new name");
    let mut other = World::new(inner);
    // Its own names for everything; the prefix, too, has to be another.
    let config = format!(
        "[cgroup]\npath = \"{}-other\"\n[network]\nname = \"pother\"\nprefix4 = \"10.84.0.0/16\"\n\
         [ids]\nbase = 1900019712\ncount = 64\n",
        world.name()
    );
    other.write("palisade.toml", &config);
    for (world, port) in [(&*world, 8081), (&other, 8082)] {
        let keys = format!("network.publish = [\"{port}:80\"]");
        world.write_service("web", &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    other.start();
    wait_http("127.0.0.1:8081", "/");
    wait_http("127.0.0.1:8082", "/");
    assert_ne!(world.address("web"), other.address("web"));
    let stopped = other.stop();
    assert_eq!(stopped, Ok(()));
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web", "the first one's service goes on");
    assert!(http_get("127.0.0.1:8082", "/").is_err());
    let tables = Command::new("nft").args(["list", "tables"]).output().expect("declared as a need");
    assert!(!String::from_utf8_lossy(&tables.stdout).contains("pother"));
}

pub fn output_written_while_nobody_supervises_arrives(world: &mut World) {
    let script = "n=0; while :; do n=$((n+1)); echo \"line $n\"; sleep 0.01; done";
    let toml = format!("service.command = [\"/bin/sh\", \"-c\", '{script}']\nnetwork.mode = \"none\"\n");
    world.write_service("clock", &toml);
    world.start();
    wait_until("it speaks", LONG, || world.logs("clock").contains("line 5"));
    for _ in 0..5 {
        world.kill_supervisor();
        let pids = snapshot::processes();
        // Lines are written into the pipe meanwhile: as many as the processes that come and go tell.
        wait_until("some time has passed", LONG, || {
            world.reap();
            snapshot::processes() != pids
        });
        world.start();
    }
    let count = || world.ok(&["logs", "-n", "100000", "clock"]).lines().count();
    let last = count();
    wait_until("it goes on", LONG, || count() > last + 5);
    let log = fs::read_to_string(world.dir().join("log/clock.log")).expect("its log");
    let lines: Vec<u32> = log.lines().filter_map(|line| line.rsplit_once("line ")?.1.parse().ok()).collect();
    let expected: Vec<u32> = (1..=u32::try_from(lines.len()).expect("not many")).collect();
    assert_eq!(lines, expected, "every line once, in order");
}

pub fn output_is_written_once_wherever_the_supervisor_dies(world: &mut World) {
    let gate = world.dir().join("gate");
    fs::create_dir(&gate).expect("a new name");
    let script = "echo the first; until test -e /gate/go; do sleep 0.1; done; echo another; exec sleep 4715";
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nnetwork.mode = \"none\"\n\
         rootfs = {{ base = \"host\", mounts = [{{ src = \"{}\", dst = \"/gate\" }}] }}\n",
        gate.display()
    );
    let of_output = palisade::supervisor::points().filter(|point| point.way == Way::Output);
    for (n, point) in of_output.map(|point| point.name).enumerate() {
        let name = format!("app{n}");
        world.write_service(&name, &toml);
        let mut command = world.supervise();
        command.arg("--die-at").arg(format!("{name}:at:{point}"));
        world.start_to_die(command);
        wait_until(&format!("its end at {point}"), LONG, || world.has_died());
        // No longer than what is noted, so that it would be taken for that.
        fs::write(gate.join("go"), "").expect("our own directory");
        wait_until("it has said the rest", LONG, || {
            snapshot::processes().iter().any(|line| line.contains("sleep 4715") && !line.contains("echo"))
        });
        world.start();
        let log = || {
            let log = fs::read_to_string(world.dir().join(format!("log/{name}.log"))).unwrap_or_default();
            log.lines().filter_map(|line| Some(line.splitn(4, ' ').nth(3)?.to_owned())).collect::<Vec<_>>()
        };
        wait_until("the rest arrives", LONG, || log().last().is_some_and(|line| line == "another"));
        assert_eq!(log(), ["the first", "another"], "{point}");
        assert_eq!(world.stop(), Ok(()));
        world.reap();
        fs::remove_file(gate.join("go")).expect("our own file");
        fs::remove_file(world.services_dir().join(format!("{name}.toml"))).expect("our own file");
    }
}

/// The process ids of the keeper: it is executed from a memfd of that name.
fn keepers() -> Vec<u32> {
    let is_keeper = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "palisade-keeper")
            || fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.to_string_lossy().contains("palisade-keeper"))
    };
    crate::support::world::pids()
        .into_iter()
        .filter(is_keeper)
        .filter_map(|pid| pid.try_into().ok())
        .collect()
}

pub fn a_killed_keeper_is_replaced(world: &mut World) {
    let keys = "network.publish = [\"8081:80\"]\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    let (pid, address) = (world.pid("web"), world.address("web"));
    let old = keepers();
    assert_eq!(old.len(), 1, "{:?}", snapshot::processes());
    kill(raw(old[0]), Signal::SIGKILL).expect("it lives");
    wait_until("another keeper", LONG, || {
        world.reap();
        keepers().len() == 1 && keepers() != old
    });
    // Said once it is there.
    wait_until("it is told", LONG, || world.supervisor_log().contains("the keeper has ended"));
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("web"), world.address("web")), (pid, address.clone()));
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    // Now it ends while nobody supervises, and its init with it: only the keeper holds the network.
    world.kill_supervisor();
    kill(raw(pid), Signal::SIGKILL).expect("it lives");
    wait_until("it is dead", LONG, || {
        world.reap();
        kill(raw(pid), None).is_err()
    });
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    assert_eq!(world.address("web"), address);
    // And both at once: the service's own namespace is the last witness.
    world.wait_state("web", "active");
    let pid = world.pid("web");
    world.kill_supervisor();
    kill(raw(keepers()[0]), Signal::SIGKILL).expect("it lives");
    world.start();
    assert_eq!((world.pid("web"), world.address("web")), (pid, address));
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
}

pub fn a_keeper_that_does_not_answer_is_replaced(world: &mut World) {
    for (name, port) in [("one", 8081), ("two", 8082)] {
        let keys = format!("network.publish = [\"{port}:80\"]");
        world.write_service(name, &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    wait_http("127.0.0.1:8081", "/");
    wait_http("127.0.0.1:8082", "/");
    let old = keepers();
    kill(raw(old[0]), Signal::SIGSTOP).expect("it lives");
    world.ok(&["stop", "two"]);
    wait_until("another keeper", LONG, || keepers().len() == 1 && keepers() != old);
    let (pid, old) = (world.pid("one"), keepers());
    world.kill_supervisor();
    kill(raw(old[0]), Signal::SIGSTOP).expect("it lives");
    world.start();
    assert_eq!(world.pid("one"), pid);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "one");
    world.ok(&["start", "two"]);
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "two");
    wait_until("the old one is gone", LONG, || {
        world.reap();
        keepers().len() == 1 && keepers() != old
    });
}

/// The init of a service as the supervisor tells it.
fn init(world: &World, name: &str) -> nix::unistd::Pid {
    let pid = world.status(name)["init_pid"].as_u64().expect("it is known");
    raw(pid.try_into().expect("a pid has 22 bits"))
}

pub fn a_stopped_init_blocks_nobody_and_is_killed_in_time(world: &mut World) {
    let keys = "network.mode = \"none\"\nservice.stop = { timeout = \"300ms\" }";
    world.write_service("stuck", &world.probe_toml(&["wait"], keys));
    world.write_service("other", &world.probe_toml(&["wait"], "network.mode = \"none\""));
    world.start();
    world.wait_state("stuck", "active");
    world.wait_state("other", "active");
    let pid = world.pid("stuck");
    kill(init(world, "stuck"), Signal::SIGSTOP).expect("it lives");
    world.ok(&["restart", "other"]);
    world.kill_supervisor();
    world.start();
    world.ok(&["restart", "other"]);
    assert_eq!((world.state("stuck"), world.pid("stuck")), ("active".into(), pid));
    world.ok(&["stop", "stuck"]);
    assert_eq!(world.state("stuck"), "stopped");
    world.ok(&["start", "stuck"]);
}

pub fn a_killed_init_leaves_an_unknown_exit(world: &mut World) {
    let keys = "network.mode = \"none\"\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"";
    world.write_service("wait", &world.probe_toml(&["wait"], keys));
    world.start();
    for supervised in [true, false] {
        world.wait_state("wait", "active");
        let run = world.run_id("wait");
        let init = init(world, "wait");
        if !supervised {
            world.kill_supervisor();
        }
        kill(init, Signal::SIGKILL).expect("it lives");
        if !supervised {
            wait_until("it is dead", LONG, || {
                world.reap();
                kill(init, None).is_err()
            });
            world.start();
        }
        wait_until("another run", LONG, || world.run_id("wait") > run && world.state("wait") == "active");
        let exits = world.status("wait")["exits"].clone();
        let last = exits.as_array().and_then(|all| all.last()).expect("the newest last");
        assert_eq!((&last["run"], &last["kind"]), (&run.into(), &"unknown".into()), "{exits}");
    }
}

pub fn records_of_garbage_have_a_copy(world: &mut World) {
    let names = ["torn", "empty", "newer", "gone", "lost"];
    for (name, port) in names.iter().zip(8081..) {
        let keys = format!("network.publish = [\"{port}:80\"]");
        world.write_service(name, &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    for port in 8081..8086 {
        wait_http(&format!("127.0.0.1:{port}"), "/");
    }
    for name in names {
        world.wait_state(name, "active");
    }
    let pids = names.map(|name| world.pid(name));
    world.kill_supervisor();
    let [units, copies] = ["units", "units.copy"].map(|dir| world.run_dir().join(dir));
    let torn = fs::read(units.join("torn.json")).expect("its record");
    fs::write(units.join("torn.json"), &torn[..torn.len() / 8]).expect("our own directory");
    fs::write(units.join("empty.json"), "").expect("our own directory");
    let newer = fs::read_to_string(units.join("newer.json")).expect("its record");
    fs::write(units.join("newer.json"), newer.replacen("\"version\":1", "\"version\":99", 1))
        .expect("our own");
    fs::remove_file(units.join("gone.json")).expect("its record");
    // Both of one service: its run cannot be known any more, and another one takes its place.
    for dir in [&units, &copies] {
        fs::write(dir.join("lost.json"), [0xff; 64]).expect("our own directory");
        fs::write(dir.join("nobody.json"), "{\"version\": 99, \"boot\": \"another\"}").expect("our own");
        fs::write(dir.join("\u{1b}[31m.json"), [0xff; 64]).expect("our own directory");
        fs::write(dir.join("half.new"), "{").expect("our own directory");
    }
    let assigned = world.dir().join("state/assigned.json");
    fs::write(&assigned, "").expect("our own directory");
    world.start();
    for (name, pid) in names.iter().zip(pids).filter(|(name, _)| **name != "lost") {
        assert_eq!(world.pid(name), pid, "{name} runs on");
    }
    for (name, port) in names.iter().zip(8081..) {
        wait_until(&format!("{name} answers"), LONG, || {
            http_get(&format!("127.0.0.1:{port}"), "/").is_ok_and(|said| said == *name)
        });
    }
    wait_until("no process of an unknown run is left", LONG, || {
        world.reap();
        snapshot::processes().iter().filter(|p| p.contains("__probe http")).count() == 5
    });
    let log = world.supervisor_log();
    for name in ["torn.json", "newer.json", "lost.json", "assigned.json"] {
        assert!(log.contains(name), "{name}: {log}");
    }
    assert!(fs::read_to_string(assigned).expect("it is whole again").contains("torn"));
}

/// What the service of [`flooder`] writes when it is asked to, and a line.
const FLOOD: usize = 3_200_000;

/// Writes more than a pipe holds when it gets SIGUSR1.
fn flooder(world: &World, full: &str) {
    let script = format!(
        "trap 'yes {} | head -c {FLOOD}; echo done' USR1; echo up; while :; do sleep 0.05; done",
        "x".repeat(63)
    );
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", \"{script}\"]\nnetwork.mode = \"none\"\nlog.full = \"{full}\"\n"
    );
    world.write_service("flood", &toml);
}

/// Bytes that a process and the children that it has waited for have written, proc_pid_io(5).
fn written(pid: u32) -> usize {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("it lives");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("it is there");
    line.parse().expect("a number")
}

/// The processes that write.
fn writers() -> Vec<i32> {
    let writes = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|args| args.starts_with("head\0"))
    };
    crate::support::world::pids().into_iter().filter(writes).collect()
}

/// All that it has written once it is over so many times, as the log has it.
fn flooded(world: &World, times: usize) -> String {
    let whole = || world.ok(&["logs", "flood", "--raw", "-n", "1000000"]);
    wait_until("it is over", LONG, || whole().matches("done\n").count() == times);
    whole().strip_prefix("up\n").expect("its first line").to_owned()
}

pub fn output_without_room_is_dropped_and_counted_while_nobody_supervises(world: &mut World) {
    flooder(world, "drop");
    world.start();
    wait_until("it is up", LONG, || world.logs("flood").contains("up"));
    let pid = world.pid("flood");
    for round in 1..=2 {
        world.kill_supervisor();
        let before = written(pid);
        kill(raw(pid), Signal::SIGUSR1).expect("it lives");
        // Into the pipe between its two programs, and out of it.
        wait_until("it has written everything", LONG, || written(pid) >= before + 2 * FLOOD);
        world.start();
        assert_eq!(world.pid("flood"), pid);
        flooded(world, round);
    }
    let text = flooded(world, 2);
    let is_told = |line: &&str| line.contains("[palisade: ");
    let told: Vec<&str> = text.lines().filter(is_told).collect();
    assert_eq!(told.len(), 2, "each time it is told");
    let number = |line: &&str| line.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok());
    let dropped: usize = told.iter().filter_map(number).sum();
    let kept = text.len() - told.iter().map(|line| line.len() + 1).sum::<usize>();
    assert_eq!(kept + dropped, 2 * (FLOOD + "done\n".len()), "{told:?}");
    let log = world.supervisor_log();
    assert_eq!(log.matches("bytes of its standard output were dropped").count(), 2, "{log}");
    // With a supervisor nothing is.
    kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    assert_eq!(flooded(world, 3).len(), text.len() + FLOOD + "done\n".len());
}

pub fn output_without_room_waits_where_the_file_says_so(world: &mut World) {
    flooder(world, "block");
    world.start();
    wait_until("it is up", LONG, || world.logs("flood").contains("up"));
    let pid = world.pid("flood");
    world.kill_supervisor();
    kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    let waits = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|place| place.contains("pipe_write"))
    };
    wait_until("it waits for room", LONG, || writers().into_iter().any(waits));
    world.start();
    assert_eq!(world.pid("flood"), pid);
    let text = flooded(world, 1);
    assert_eq!(text.len(), FLOOD + "done\n".len());
    assert!(!text.contains("[palisade"));
}

/// Between clone(2) and execve(2) a new process has copies of all that its maker had open. A supervisor that is killed then
/// leaves them behind, the lock of its directory and the listening control socket among them.
pub fn what_a_killed_supervisor_was_making_keeps_no_successor_out(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], "network.mode = \"none\""));
    world.start();
    wait_until("it is up", LONG, || world.state("web") == "active");
    let run = world.run_id("web");
    let copies = everything_open(world.supervisor_pid());
    assert!(copies.len() > 8, "{}", copies.len());
    world.kill_supervisor();
    let log = world.dir().join("supervisor.log");
    let says = "waiting for what it was making";
    let waits = std::thread::spawn(move || {
        wait_until(says, LONG, || fs::read_to_string(&log).unwrap_or_default().contains(says));
        drop(copies);
    });
    world.start();
    waits.join().expect("it has waited");
    assert_eq!((world.state("web"), world.run_id("web")), ("active".into(), run));
    // One that lives is not waited for.
    let second = world.supervise().output().expect("it starts");
    assert!(!second.status.success());
    assert_eq!(world.supervisor_log().matches(says).count(), 1);
    assert!(world.supervisor_log().contains("another supervisor answers here"));
}

/// Copies of all that a process has open.
fn everything_open(pid: u32) -> Vec<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(raw(pid).as_raw()).expect("a pid is not 0"),
        rustix::process::PidfdFlags::empty(),
    )
    .expect("it lives");
    let list = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten();
    let numbers = list.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let copy = |n| rustix::process::pidfd_getfd(&pidfd, n, rustix::process::PidfdGetfdFlags::empty()).ok();
    numbers.filter_map(copy).collect()
}
