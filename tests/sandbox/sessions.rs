//! Further processes of a sandbox, and the init that forks them.

use std::{
    fs,
    io::Write,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    support::{
        LONG, World, probe, wait_until,
        world::{PALISADE, PROBE, describe},
    },
    walls,
};

/// Starts the probe with `args` as the service `one`, and waits for it.
fn start(world: &mut World, args: &[&str], keys: &str) {
    world.write_service("one", &world.probe_toml(args, &format!("network.mode = \"none\"\n{keys}")));
    world.start();
    world.wait_state("one", "active");
}

/// A file of /proc about a process of the sandbox, as the host sees it.
fn proc(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process lives")
}

/// One field of its status.
fn field(pid: u32, name: &str) -> String {
    let status = proc(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.expect("the kernel has the field").trim().replace('\t', " ")
}

/// The init of the service.
fn init(world: &World) -> u32 {
    field(world.pid("one"), "PPid").parse().expect("a pid")
}

pub fn a_session_is_as_confined_as_the_service(world: &mut World) {
    start(world, &["wait"], "service.env = { A = \"1\" }\nservice.umask = \"0027\"");
    let output = world.palisade(&["exec", "one", "--", PROBE, "__probe", "report"]);
    assert!(output.status.success(), "{}", describe(&output));
    let mut inside: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
    // It sees the service itself, and its standard input is the caller's pipe.
    inside["processes"].as_array_mut().expect("a list").retain(|process| process[0] != 2);
    inside["fds"]["0"] = "/dev/null".into();
    assert_eq!(walls::holes(&inside, &probe::report()), Vec::<String>::new(), "{inside:#}");
    assert_eq!((&inside["env"]["A"], walls::field(&inside, "Umask").as_str()), (&Value::from("1"), "0027"));
    let pid = world.pid("one");
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let own = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the process lives");
        assert_eq!(inside["namespaces"][kind], own.display().to_string().as_str(), "{kind}");
    }
    for name in ["Uid", "Gid", "Groups"] {
        let shown = field(pid, name);
        let base = 1_879_048_192u64;
        let ids = shown.split_whitespace().map(|id| (id.parse::<u64>().expect("an id") - base).to_string());
        assert_eq!(walls::field(&inside, name), ids.collect::<Vec<_>>().join(" "), "{name}");
    }
}

pub fn a_shell_has_a_terminal_of_its_own_and_nothing_else(world: &mut World) {
    start(world, &["wait"], "");
    // script(1) gives the caller a terminal.
    let (config, run) = (world.dir().join("palisade.toml"), world.run_dir());
    let command = format!("{PALISADE} --config {} --run {} shell one", config.display(), run.display());
    let mut script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut input = script.stdin.take().expect("piped");
    input.write_all(b"ls -l /proc/self/fd; tty; exit 7\n").expect("it reads");
    let output = script.wait_with_output().expect("it is our child");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    for fd in ["0 -> /dev/pts/0", "1 -> /dev/pts/0", "2 -> /dev/pts/0"] {
        assert!(said.contains(fd), "{fd}: {said}");
    }
    let others: Vec<&str> = said.lines().filter(|line| line.contains(" -> ")).collect();
    // The fourth is the directory that ls reads.
    assert_eq!(others.len(), 4, "{said}");
}

pub fn a_service_that_stops_every_session_does_not_hold_up_its_init(world: &mut World) {
    start(world, &["stop-others"], "service.stop = { timeout = \"1h\" }\nrestart.policy = \"never\"");
    // A session is stopped somewhere between its change of user and its own program, most of them before exec.
    let mut callers: Vec<Child> = (0..8)
        .map(|_| {
            let mut command = world.command(&["exec", "one", "--", PROBE, "__probe", "wait"]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
        })
        .collect();
    wait_until("the sessions are there", LONG, || children(init(world)) >= 9);
    wait_until("they are stopped", LONG, || stopped(init(world)) >= 8);
    // Heard by the init alone, which relays it: with an init that waits for a stopped session, this lasts an hour.
    world.ok(&["stop", "one"]);
    let exits = world.status("one")["exits"].clone();
    assert_eq!(exits[0]["signal"], 15, "{exits}");
    for caller in &mut callers {
        caller.wait().expect("it is our child");
    }
}

fn child_pids(pid: u32) -> Vec<u32> {
    let children = proc(pid, &format!("task/{pid}/children"));
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn children(pid: u32) -> usize {
    child_pids(pid).len()
}

fn stopped(pid: u32) -> usize {
    child_pids(pid).into_iter().filter(|child| field(*child, "State").starts_with('T')).count()
}

pub fn the_init_holds_what_it_needs_and_no_more(world: &mut World) {
    start(world, &["wait"], "");
    world.ok(&["exec", "one", "--", PROBE, "__probe", "exit", "0"]);
    let init = init(world);
    // CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP: give the output to the service's user, relay signals, and
    // make sessions that have none of them.
    let five = "00000000000001e1";
    let none = "0000000000000000";
    for (set, want) in [("CapPrm", five), ("CapEff", five), ("CapInh", none), ("CapAmb", none)] {
        assert_eq!(field(init, set), want, "{set}");
    }
    assert_eq!(field(init, "NoNewPrivs"), "1");
    assert_eq!(field(init, "Groups"), "");
    // Nobody that a service could be: the last of its ids.
    let last = (1_879_048_192u32 + 65535).to_string();
    for ids in ["Uid", "Gid"] {
        assert_eq!(field(init, ids), [&*last; 4].join(" "), "{ids}");
    }
    for entry in fs::read_dir(format!("/proc/{init}/fd")).expect("root may").flatten() {
        let target = fs::read_link(entry.path()).expect("root may").display().to_string();
        let known = ["socket:", "pipe:", "anon_inode:[signalfd]"].iter().any(|kind| target.starts_with(kind));
        assert!(known || target.ends_with(".words"), "{} is {target}", entry.path().display());
    }
    for link in ["root", "cwd"] {
        let at = fs::read_link(format!("/proc/{init}/{link}")).expect("root may");
        assert_eq!(at.display().to_string(), "/", "{link}: the sandbox's own");
    }
    assert_eq!(proc(init, "environ"), "");
}

pub fn every_run_in_the_same_sandbox_may_open_its_output(world: &mut World) {
    let command = ["/bin/sh", "-c", "echo said >/dev/stdout && exec sleep 1000"];
    world.write_service(
        "one",
        &format!(
            "service.command = {command:?}\nnetwork.mode = \"none\"\nrestart.policy = \"always\"\n\
             restart.mode = \"in-place\"\nrestart.delay = \"10ms\"\n"
        ),
    );
    world.start();
    for run in 1..=2 {
        let said = format!("run {run} has said it");
        wait_until(&said, LONG, || world.logs("one").matches("said").count() == run);
        let pid = world.pid("one");
        nix::sys::signal::kill(crate::support::world::raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("it lives");
    }
    wait_until("a third time", LONG, || world.logs("one").matches("said").count() == 3);
}

pub fn root_inside_has_no_power_over_the_init(world: &mut World) {
    for user in ["0", "1234"] {
        let toml = world.probe_toml(&["pid1"], &format!("service.user = {user}\nnetwork.mode = \"none\""));
        let output = world.run(&toml);
        assert!(output.status.success(), "{}", describe(&output));
        let said: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
        for (what, outcome) in said.as_object().expect("a table") {
            // Its directory is read-only, which is found first.
            let refused = ["EACCES", "EPERM", "EROFS"].iter().any(|error| outcome == error);
            assert!(refused, "as {user}, /proc/1/{what}: {outcome}");
        }
    }
}

pub fn nobody_inside_can_signal_the_init(world: &mut World) {
    // The init acts on its signals only once it waits, and root could signal it until then: until it has become the last of
    // the ids.
    let script = "until grep -q '^Uid:.65535' /proc/1/status; do sleep 0.02; done; \
                  for s in TERM KILL STOP SEGV CHLD; do kill -$s 1 && echo sent $s; done; echo alive";
    for user in ["0", "1234"] {
        let command = ["/bin/sh", "-c", script];
        let toml = format!("service.command = {command:?}\nservice.user = {user}\nnetwork.mode = \"none\"\n");
        let output = world.run(&toml);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "alive", "{}", describe(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.matches("not permitted").count(), 5, "{said}");
    }
}

pub fn no_signal_is_ignored_or_blocked(world: &mut World) {
    let toml =
        "service.command = [\"/bin/grep\", \"^Sig\", \"/proc/self/status\"]\nnetwork.mode = \"none\"\n";
    let file = world.write("single/once.toml", toml);
    // nohup(1) ignores SIGHUP, and what it starts, a Rust program, SIGPIPE.
    let mut command = Command::new("nohup");
    command.arg(PALISADE).arg("--config").arg(world.dir().join("palisade.toml"));
    command.arg("--run").arg(world.run_dir()).arg("run").args(world.places()).arg(file);
    let output = command.stdin(Stdio::null()).output().expect("coreutils are installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for set in ["SigPnd", "SigBlk", "SigIgn"] {
        assert!(said.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {}", describe(&output));
    }
}
