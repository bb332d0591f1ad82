//! What runs short: descriptors, room on file systems, processes; and what is not what it seems to be.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use rustix::process::{Resource, Rlimit};

use crate::support::{
    LONG, World, scaled, snapshot, wait_for, wait_until,
    world::{describe, http_get, pids, raw, wait_http},
};

const NONE: &str = "network.mode = \"none\"\n";

/// Gives the supervisor another limit of descriptors.
fn limit_descriptors(world: &World, limit: u64) {
    let pid = rustix::process::Pid::from_raw(world.supervisor_pid().try_into().expect("22 bits"));
    // Ours is the one that it was started with.
    let hard = Rlimit { current: Some(limit), maximum: rustix::process::getrlimit(Resource::Nofile).maximum };
    rustix::process::prlimit(pid, Resource::Nofile, hard).expect("root may");
}

pub fn without_descriptors_what_runs_goes_on_and_nothing_is_forgotten(world: &mut World) {
    let keys = "network.publish = [\"8081:80\"]";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.write_service("other", &world.probe_toml(&["wait"], NONE));
    let late = format!("unit.enabled = false\nrestart.delay = \"50ms\"\n{NONE}");
    world.write_service("late", &world.probe_toml(&["wait"], &late));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    world.wait_state("other", "active");
    let pid = world.pid("web");
    let numbers = |world: &World| -> Vec<u64> {
        let fds = fs::read_dir(format!("/proc/{}/fd", world.supervisor_pid())).expect("it lives").flatten();
        fds.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect()
    };
    let limit = numbers(world).into_iter().max().expect("some") + 1;
    limit_descriptors(world, limit);
    // Whatever numbers are left are taken by callers who say nothing.
    let control = world.run_dir().join("control.sock");
    let mut idle = Vec::new();
    wait_until("there is no descriptor left", LONG, || {
        let is_full = numbers(world).len() as u64 == limit;
        if !is_full {
            idle.push(UnixStream::connect(&control).expect("it listens"));
        }
        is_full
    });
    assert_eq!(http_get("127.0.0.1:8081", "/"), Ok("web".to_owned()));
    assert_eq!(world.state("web"), "active", "it answers");
    let started = world.palisade(&["start", "late"]);
    let said = describe(&started);
    assert!(started.status.code() == Some(1) && said.contains("EMFILE"), "{said}");
    // The files cannot be read now: nobody is to think that they are gone.
    let read = world.palisade(&["daemon-reload"]);
    assert!(!read.status.success() && describe(&read).contains("EMFILE"), "{}", describe(&read));
    world.signal(Signal::SIGHUP);
    wait_until("the signal was heard", LONG, || {
        world.supervisor_log().contains("not done: open(the service files): EMFILE")
    });
    assert_eq!((world.pid("web"), world.state("other")), (pid, "active".into()));
    // An end that is asked for now is known to the next supervisor all the same.
    world.ok(&["stop", "other"]);
    drop(idle);
    limit_descriptors(world, 4096);
    world.wait_state("late", "active");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("web"), world.state("other")), (pid, "stopped".into()));
    assert_eq!(world.state("late"), "active");
}

/// A small file system of its own at `dir`.
fn small(dir: &Path, size: &str) {
    fs::create_dir_all(dir).expect("our own directory");
    let options = format!("size={size},mode=0755");
    nix::mount::mount(Some("none"), dir, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str()))
        .expect("a mount namespace of our own");
}

/// Fills it up to the last byte.
fn fill(dir: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(dir.join("filler")).expect("a new file takes no room");
    while file.write(&[7; 4096]).is_ok_and(|written| written > 0) {}
}

pub fn with_a_full_state_directory_what_is_known_restarts_and_what_is_new_waits(world: &mut World) {
    let state = world.dir().join("state");
    small(&state, "64K");
    let keys = "network.publish = [\"8081:80\"]";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    let address = world.address("web");
    fill(&state);
    world.ok(&["restart", "web"]);
    assert_eq!((wait_http("127.0.0.1:8081", "/"), world.address("web")), ("web".into(), address.clone()));
    let late = "network.publish = [\"8082:80\"]\nrestart.delay = \"50ms\"";
    world.write_service("late", &world.probe_toml(&["http", "80"], late));
    world.ok(&["daemon-reload"]);
    // Sixty-four services have room in what the file has already; so many more have not.
    wait_until("it is up, or it is told why not", LONG, || {
        world.state("late") == "active" || world.status("late").to_string().contains("ENOSPC")
    });
    fs::remove_file(state.join("filler")).expect("ours");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "late");
    let addresses = [address, world.address("late")];
    world.kill_supervisor();
    world.start();
    for name in ["web", "late"] {
        world.ok(&["restart", name]);
    }
    assert_eq!([world.address("web"), world.address("late")], addresses, "what was given is known");
    assert_eq!(world.stop(), Ok(()));
    nix::mount::umount(&state).expect("nobody holds it");
}

pub fn with_a_full_run_directory_what_is_asked_is_done_and_remembered(world: &mut World) {
    let run = world.run_dir();
    small(&run, "2M");
    for name in ["stays", "stopped", "ended"] {
        let keys = format!("restart.policy = \"never\"\n{NONE}");
        world.write_service(name, &world.probe_toml(&["wait"], &keys));
    }
    let late = format!("unit.enabled = false\nrestart.delay = \"50ms\"\n{NONE}");
    world.write_service("late", &world.probe_toml(&["wait"], &late));
    world.start();
    for name in ["stays", "stopped", "ended"] {
        world.wait_state(name, "active");
    }
    let pid = world.pid("stays");
    fill(&run);
    world.ok(&["stop", "stopped"]);
    kill(raw(world.pid("ended")), Signal::SIGKILL).expect("it lives");
    world.wait_state("ended", "failed");
    // What has ended has left some room.
    fill(&run);
    let said = describe(&world.palisade(&["start", "late"]));
    assert!(said.contains("ENOSPC"), "{said}");
    world.kill_supervisor();
    world.start();
    let states = |world: &World| ["stays", "stopped", "ended"].map(|name| world.state(name));
    assert_eq!(states(world), ["active", "stopped", "failed"], "{}", world.supervisor_log());
    assert_eq!(world.pid("stays"), pid);
    fs::remove_file(run.join("filler")).expect("ours");
    world.ok(&["start", "late"]);
    assert_eq!(world.stop(), Ok(()));
    nix::mount::umount(&run).expect("nobody holds it");
}

pub fn a_launch_that_gets_no_process_is_tried_again_later(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], &format!("restart.delay = \"50ms\"\n{NONE}")));
    let supervise = world.supervise();
    let mut command = Command::new("strace");
    // -D: the supervisor itself is our child.
    command.args(["-D", "-e", "signal=none", "-e", "trace=clone3", "-o"]).arg(world.dir().join("trace"));
    command.args(["-e", "inject=clone3:error=EAGAIN:when=1..2"]);
    command.arg(supervise.get_program()).args(supervise.get_args());
    world.join_supervisor_log(&mut command);
    world.start_by(command);
    world.wait_state("web", "active");
    let log = world.supervisor_log();
    assert_eq!(log.matches("EAGAIN").count(), 2, "{log}");
    assert!(log.contains("clone") && log.contains("next run in"), "{log}");
    assert_eq!(world.run_id("web"), 3, "with the pause of a restart in between");
}

pub fn a_stopped_service_is_taken_over_and_ends_in_time(world: &mut World) {
    let keys = format!("service.stop = {{ timeout = \"500ms\" }}\n{NONE}");
    world.write_service("stuck", &world.probe_toml(&["wait"], &keys));
    world.write_service("other", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("stuck", "active");
    world.wait_state("other", "active");
    let pid = world.pid("stuck");
    kill(raw(pid), Signal::SIGSTOP).expect("it lives");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("stuck"), world.state("stuck")), (pid, "active".into()));
    world.ok(&["restart", "other"]);
    let start = Instant::now();
    world.ok(&["stop", "stuck"]);
    assert!(start.elapsed() >= Duration::from_millis(400), "SIGTERM does not reach who is stopped");
    assert!(start.elapsed() < scaled(Duration::from_secs(10)), "{:?}", start.elapsed());
    assert_eq!(world.state("stuck"), "stopped");
    assert!(!pids().contains(&pid.try_into().expect("22 bits")));
}

pub fn a_flood_of_output_drowns_nobody(world: &mut World) {
    let flood = format!(
        "service.command = [\"/usr/bin/yes\", \"{}\"]\nlog.max_size = \"64K\"\nlog.files = 3\n{NONE}",
        "x".repeat(100)
    );
    world.write_service("flood", &flood);
    world.write_service("web", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    world.wait_state("flood", "active");
    let written = |world: &World| -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", world.pid("flood"))).expect("it lives");
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("proc_pid_io(5)");
        line.parse().expect("a number")
    };
    let before = written(world);
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let start = Instant::now();
        assert_eq!(http_get("127.0.0.1:8081", "/"), Ok("web".to_owned()));
        assert_eq!(world.state("web"), "active");
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < scaled(Duration::from_secs(5)), "an answer took {slowest:?}");
    wait_until("it goes on writing", LONG, || written(world) > before + (16 << 20));
    let files = fs::read_dir(world.dir().join("log")).expect("our own directory").flatten();
    let own = files.filter(|file| file.file_name().to_string_lossy().starts_with("flood"));
    let sizes: Vec<u64> = own.map(|file| file.metadata().map_or(0, |data| data.len())).collect();
    assert!(sizes.len() <= 3 && sizes.iter().all(|size| *size <= 65536 + 256), "{sizes:?}");
    let start = Instant::now();
    world.ok(&["stop", "flood"]);
    assert!(start.elapsed() < scaled(Duration::from_secs(10)), "{:?}", start.elapsed());
}

pub fn a_service_that_forks_up_to_its_limit_holds_nobody_up(world: &mut World) {
    let keys = format!("limits.pids.max = 30\nservice.stop = {{ timeout = \"500ms\" }}\n{NONE}");
    world.write_service("bomb", &world.probe_toml(&["bomb"], &keys));
    world.write_service("web", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    world.wait_state("bomb", "active");
    let bombs = || snapshot::processes().iter().filter(|p| p.contains("__probe bomb")).count();
    // Its init is one of them where the control group counts.
    wait_until("it is at its limit", LONG, || bombs() >= 29);
    let run = world.run_id("bomb");
    for _ in 0..20 {
        assert_eq!(http_get("127.0.0.1:8081", "/"), Ok("web".to_owned()));
        assert_eq!(world.state("bomb"), "active");
        assert!(bombs() <= 30, "{}", bombs());
    }
    // A session has room where the control group does not count it; where it has none it is told so, and nobody waits.
    let session = world.palisade(&["exec", "bomb", "--", "/bin/true"]);
    assert!(session.status.success() || describe(&session).contains("EAGAIN"), "{}", describe(&session));
    world.kill_supervisor();
    world.start();
    assert_eq!((world.run_id("bomb"), world.state("bomb")), (run, "active".into()));
    world.ok(&["restart", "bomb"]);
    wait_until("it is at its limit again", LONG, || bombs() >= 29);
    let start = Instant::now();
    world.ok(&["stop", "bomb"]);
    assert!(start.elapsed() < scaled(Duration::from_secs(10)), "{:?}", start.elapsed());
    world.reap();
    assert_eq!(bombs(), 0);
}

/// The record of a service and its copy, changed.
fn change_records(world: &World, name: &str, change: impl Fn(&mut serde_json::Value)) {
    for dir in ["units", "units.copy"] {
        let path = world.run_dir().join(dir).join(format!("{name}.json"));
        let text = fs::read_to_string(&path).expect("its record");
        let mut record = serde_json::from_str(&text).expect("JSON");
        change(&mut record);
        fs::write(&path, record.to_string()).expect("our own directory");
    }
}

pub fn a_pid_that_is_somebody_elses_now_is_neither_adopted_nor_killed(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("web", "active");
    let init = world.status("web")["init_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    world.kill_supervisor();
    let init = init.expect("it is known");
    kill(raw(init), Signal::SIGKILL).expect("it lives");
    let mut foreign = wait_for("its number is somebody else's", LONG, || {
        world.reap();
        // The next process of this namespace gets the next number that is free: proc_sys_kernel(5).
        fs::write("/proc/sys/kernel/ns_last_pid", (init - 1).to_string()).expect("root may");
        let mut child = Command::new("sleep").arg("600").spawn().expect("a program of the base system");
        if child.id() != init {
            child.kill().and_then(|()| child.wait()).expect("our child");
            return None;
        }
        Some(child)
    });
    world.start();
    wait_until("another run of its own", LONG, || {
        world.state("web") == "active" && world.pid("web") != foreign.id()
    });
    world.ok(&["restart", "web"]);
    world.ok(&["stop", "web"]);
    assert_eq!(foreign.try_wait().expect("our child"), None, "it lives on");
    foreign.kill().and_then(|()| foreign.wait().map(drop)).expect("our child");
}

pub fn records_of_another_boot_are_not_believed(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    world.write_service("gone", &world.probe_toml(&["wait"], NONE));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    world.wait_state("gone", "active");
    let (pid, address) = (world.pid("web"), world.address("web"));
    world.ok(&["stop", "gone"]);
    world.kill_supervisor();
    for name in ["web", "gone"] {
        change_records(world, name, |record| record["boot"] = "an earlier one".into());
    }
    world.start();
    wait_until("a new process", LONG, || world.state("web") == "active" && world.pid("web") != pid);
    assert_eq!((wait_http("127.0.0.1:8081", "/"), world.address("web")), ("web".into(), address));
    // As at every boot, what is enabled is started.
    world.wait_state("gone", "active");
    world.reap();
    let alive = snapshot::processes();
    assert_eq!(alive.iter().filter(|p| p.contains("__probe http")).count(), 1, "{alive:?}");
}

/// In the guest alone: the clock is the machine's.
pub fn a_clock_that_goes_back_a_year_moves_nobody(world: &mut World) {
    let keys = format!("restart.policy = \"always\"\nrestart.delay = \"100ms\"\n{NONE}");
    world.write_service("wait", &world.probe_toml(&["wait"], &keys));
    let script = "n=0; while :; do n=$((n+1)); echo \"line $n\"; sleep 0.1; done";
    world.write_service("clock", &format!("service.command = [\"/bin/sh\", \"-c\", '{script}']\n{NONE}"));
    world.start();
    world.wait_state("wait", "active");
    world.wait_state("clock", "active");
    let (wait, clock) = (world.pid("wait"), world.pid("clock"));
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let set = |seconds| {
        let time = rustix::time::Timespec { tv_sec: seconds, tv_nsec: 0 };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).expect("root may");
    };
    set(now.tv_sec - 365 * 86400);
    let count = || world.ok(&["logs", "-n", "all", "clock"]).lines().count();
    let lines = count();
    wait_until("its output goes on", LONG, || count() > lines + 5);
    assert_eq!((world.pid("wait"), world.pid("clock")), (wait, clock));
    let run = world.run_id("wait");
    kill(raw(wait), Signal::SIGKILL).expect("it lives");
    wait_until("another run, after the pause", LONG, || {
        world.run_id("wait") == run + 1 && world.state("wait") == "active"
    });
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("clock"), world.state("wait")), (clock, "active".into()));
    set(now.tv_sec + 60);
    world.ok(&["restart", "wait"]);
    assert_eq!(world.pid("clock"), clock);
}
