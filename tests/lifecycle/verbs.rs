//! The command line: what it says, in words and in JSON, and with which exit code.

use std::{
    fs,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::mpsc,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    reach::connect,
    support::{
        LONG, World, snapshot, wait_for, wait_until,
        world::{PALISADE, describe, wait_http},
    },
};

const NONE: &str = "network.mode = \"none\"";

pub fn every_verb_has_its_exit_code(world: &mut World) {
    let verbs: [&[&str]; 10] = [
        &["list"],
        &["status"],
        &["start", "up"],
        &["stop", "up"],
        &["restart", "up"],
        &["reload", "up"],
        &["kill", "up"],
        &["logs", "up"],
        &["daemon-reload"],
        &["reset-failed"],
    ];
    let code = |world: &World, args: &[&str]| world.palisade(args).status.code();
    for verb in verbs {
        assert_eq!(code(world, verb), Some(5), "{verb:?} without a supervisor");
    }
    // What is not the program's own exit status has a code that no program is likely to use.
    assert_eq!(code(world, &["exec", "up", "--", "/bin/true"]), Some(125));
    let reload = "service.reload = { signal = \"WINCH\" }";
    world.write_service("up", &world.probe_toml(&["wait"], &format!("{reload}\n{NONE}")));
    let off = format!("unit.enabled = false\n{NONE}");
    world.write_service("down", &world.probe_toml(&["wait"], &off));
    world.write_service("wrong", "service.command = 3\n");
    let crash = format!("unit.enabled = false\nrestart.policy = \"never\"\n{NONE}");
    world.write_service("lost", &crash.replace("unit", "service.command = [\"/no/such\"]\nunit"));
    world.start();
    world.wait_state("up", "active");
    let cases: [(&[&str], i32); 30] = [
        (&["list"], 0),
        (&["ps"], 0),
        (&["status"], 0),
        (&["status", "up"], 0),
        (&["status", "down"], 3),
        (&["status", "wrong"], 3),
        (&["status", "none"], 4),
        (&["status", "n*"], 4),
        (&["start", "up"], 0),
        (&["start", "none"], 4),
        (&["start", "wrong"], 1),
        (&["start", "lost"], 1),
        (&["stop", "down"], 0),
        (&["stop", "up", "none"], 4),
        (&["reload", "up"], 0),
        (&["reload", "down"], 1),
        (&["reload", "none"], 4),
        (&["kill", "-s", "WINCH", "up"], 0),
        (&["kill", "down"], 1),
        (&["kill", "-s", "NOSUCH", "up"], 2),
        (&["kill", "none"], 4),
        (&["logs", "up"], 0),
        (&["logs", "none"], 4),
        (&["exec", "up", "--", "/bin/true"], 0),
        (&["exec", "up", "--", "/bin/false"], 1),
        (&["exec", "up", "--", "/bin/sh", "-c", "kill -KILL $$"], 137),
        (&["exec", "up", "--", "/no/such"], 127),
        (&["exec", "up", "--", "/etc/passwd"], 126),
        (&["exec", "down", "--", "/bin/true"], 125),
        (&["start"], 2),
    ];
    for (args, expected) in cases {
        let output = world.palisade(args);
        assert_eq!(output.status.code(), Some(expected), "{args:?}: {}", describe(&output));
        if expected != 0 && args[0] != "exec" && args[0] != "status" {
            assert!(!output.stderr.is_empty(), "{args:?} says why");
        }
    }
    assert_eq!(code(world, &["daemon-reload"]), Some(1), "a file is wrong");
    assert_eq!(world.state("up"), "active", "nothing of it has touched the service");
}

pub fn verbs_say_what_happened(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("web", "active");
    assert_eq!(world.ok(&["start", "web"]), "web: was running already (run 1)\n");
    let said = world.ok(&["restart", "web"]);
    assert!(said.starts_with("web: restarted (run 2, was up "), "{said}");
    let said = world.ok(&["stop", "web"]);
    assert!(said.starts_with("web: stopped (run 2, was up "), "{said}");
    assert_eq!(world.ok(&["stop", "web"]), "web: was not running\n");
    assert_eq!(world.ok(&["restart", "web"]), "web: started (run 3, was not running)\n");
    let said = world.json(&["stop", "web"]);
    assert_eq!((&said["changes"][0]["name"], &said["changes"][0]["ok"]), (&json!("web"), &json!(true)));
    world.write_service("new", &world.probe_toml(&["wait"], NONE));
    assert_eq!(world.ok(&["daemon-reload"]), "new: starts\n");
}

pub fn status_carries_what_a_program_needs(world: &mut World) {
    let keys = "network.publish = [\"8081:80\", \"0.0.0.0:5353:53/udp\"]\nunit.description = \"a web app\"";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    wait_http("127.0.0.1:8081", "/");
    world.wait_state("web", "active");
    let mut status = world.json(&["status", "web"])["services"][0].clone();
    assert!(status["usage"]["cpu_user_usec"].is_u64() && status["limits"].is_array(), "{status}");
    // What has to be asked of the kernel for each service is left out of the list.
    if let Some(fields) = status.as_object_mut() {
        fields.remove("usage");
        fields.insert("limits".to_owned(), json!([]));
        fields.insert("processes".to_owned(), json!([]));
    }
    assert_eq!(status, world.status("web"), "list and status say the same");
    assert_eq!(status["description"], "a web app");
    assert_eq!(status["run"], 1);
    assert_eq!(status["exits"], json!([]));
    assert_eq!(
        status["ports"],
        json!([
            { "address": "127.0.0.1", "host_port": 8081, "port": 80, "proto": "tcp" },
            { "address": "0.0.0.0", "host_port": 5353, "port": 53, "proto": "udp" },
        ])
    );
    // The kernel's word: the main process is the child of the init, which is PID 1 of its namespace.
    let (pid, init) = (world.pid("web"), status["init_pid"].as_u64().expect("a pid"));
    let line = |pid: u64, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = text.lines().find(|line| line.starts_with(key)).expect("proc_pid_status(5)");
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line(pid.into(), "PPid:"), [init.to_string()]);
    assert_eq!(line(init, "NSpid:"), [init.to_string(), "1".to_owned()]);
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let own = status["cgroup"].as_str().expect("text");
    assert!(group.lines().any(|line| line.ends_with(own)), "{own} in {group}");
    let config = status["config"].as_str().expect("text");
    assert_eq!(config, world.services_dir().join("web.toml").display().to_string());
}

pub fn what_has_failed_is_forgiven(world: &mut World) {
    let keys =
        format!("restart = {{ policy = \"always\", delay = \"10ms\", max = 2, within = \"1min\" }}\n{NONE}");
    world.write_service("bad", &world.probe_toml(&["exit", "3"], &keys));
    world.write_service("good", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("bad", "failed");
    world.wait_state("good", "active");
    let (run, pid) = (world.run_id("bad"), world.pid("good"));
    assert_eq!(world.palisade(&["reset-failed", "none"]).status.code(), Some(4));
    assert_eq!(world.ok(&["reset-failed", "good"]), "", "it had not failed");
    assert_eq!(world.state("bad"), "failed");
    assert_eq!(world.ok(&["reset-failed"]), "bad: no failed service any more\n");
    let status = world.status("bad");
    assert_eq!((&status["state"], &status["failures"]), (&json!("stopped"), &json!(0)), "{status}");
    assert_eq!((world.run_id("bad"), world.pid("good")), (run, pid), "nothing was started for that");
    world.kill_supervisor();
    world.start();
    assert_eq!(world.state("bad"), "stopped", "nor by a successor");
    // With a whole budget once more.
    world.palisade(&["start", "bad"]);
    world.wait_state("bad", "failed");
    assert_eq!(world.run_id("bad"), run + 3);
}

pub fn files_are_switched_at_once(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("web", "active");
    let services = world.services_dir();
    let switch = |world: &World, verb: &str, name: &str| {
        world.ok(&[verb, "--now", "--services", services.to_str().expect("ASCII"), name])
    };
    let out = switch(world, "disable", "web");
    assert!(out.starts_with("web: disabled; ") && out.contains("web: stopped (run 1"), "{out}");
    world.kill_supervisor();
    world.start();
    assert_eq!(world.state("web"), "stopped");
    let out = switch(world, "enable", "web");
    assert!(out.starts_with("web: enabled; "), "{out}");
    world.wait_state("web", "active");
    let file = services.join("web.toml");
    let kept = services.with_file_name("kept");
    fs::rename(&file, &kept).expect("our own directory");
    switch(world, "mask", "web");
    world.wait_state("web", "masked");
    assert_eq!(world.palisade(&["start", "web"]).status.code(), Some(1));
    world.ok(&["unmask", "--services", services.to_str().expect("ASCII"), "web"]);
    fs::rename(&kept, &file).expect("our own directory");
    world.ok(&["daemon-reload"]);
    world.wait_state("web", "active");
}

pub fn status_tells_the_processes_as_the_kernel_does(world: &mut World) {
    world.write_service("tree", &world.probe_toml(&["tree"], NONE));
    world.start();
    world.wait_state("tree", "active");
    let group = world.cgroup().join("tree.1/cgroup.procs");
    let pids = || fs::read_to_string(&group).expect("it runs").lines().count();
    // The init, the main process, and three that will stay; those that left two of them behind have gone.
    wait_until("the whole tree is up", LONG, || world.logs("tree").matches("ready").count() == 4);
    wait_until("who was on its way out has gone", LONG, || pids() == 5);
    let status = world.json(&["status", "tree"])["services"][0].clone();
    let told = status["processes"].as_array().expect("a list");
    assert_eq!(told.len(), pids(), "{told:?}");
    let line = |pid: &Value, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("proc_pid_status(5)");
        line.trim().to_owned()
    };
    for process in told {
        let pid = &process["pid"];
        assert_eq!(line(pid, "PPid:"), process["parent"].to_string(), "{process}");
        assert_eq!(line(pid, "Name:"), process["name"].as_str().expect("a text"), "{process}");
        let inside = line(pid, "NSpid:").split_whitespace().last().map(str::to_owned);
        assert_eq!(inside, Some(process["inside"].to_string()), "{process}");
    }
    let shown = world.ok(&["status", "tree"]);
    let main = format!("  probe {} (inside ", world.pid("tree"));
    assert!(shown.contains("Processes: palisade-init ") && shown.contains(&main), "{shown}");
    // Among all, each is told of in short.
    assert!(!world.ok(&["status"]).contains("Processes:"));
}

pub fn the_last_twenty_runs_are_remembered_with_why_they_ended(world: &mut World) {
    let keys = format!("restart.delay = \"1ms\"\nrestart.factor = 1\n{NONE}");
    world.write_service("loop", &world.probe_toml(&["exit", "3"], &keys));
    let test = "[\"/probe/probe\", \"__probe\", \"absent\", \"/probe/probe\"]";
    let check = format!(
        "health = {{ test = {test}, start_period = 0, interval = \"20ms\", retries = 1, on_fail = \"stop\" }}"
    );
    world.write_service("sick", &world.probe_toml(&["wait"], &format!("{check}\n{NONE}")));
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    wait_until("it has run often", LONG, || world.run_id("loop") > 30);
    world.ok(&["stop", "loop"]);
    let exits = world.status("loop")["exits"].as_array().expect("a list").clone();
    let last = world.run_id("loop");
    let runs: Vec<u64> = exits.iter().filter_map(|exit| exit["run"].as_u64()).collect();
    assert_eq!(runs, (last - 19..=last).collect::<Vec<u64>>());
    assert!(exits[..18].iter().all(|exit| exit["code"] == 3 && exit.get("why").is_none()), "{exits:?}");
    let shown = world.palisade(&["status", "loop"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.matches("Ended:").count(), 20, "{shown}");
    world.wait_state("web", "active");
    world.ok(&["restart", "web"]);
    world.ok(&["stop", "web"]);
    let why = |name: &str| -> Vec<Value> {
        let exits = world.status(name)["exits"].as_array().expect("a list").clone();
        exits.iter().map(|exit| exit["why"].clone()).collect()
    };
    assert_eq!(why("web"), ["restart", "stop"]);
    world.wait_state("sick", "failed");
    assert_eq!(why("sick"), ["unhealthy"]);
    let shown = world.palisade(&["status", "sick"]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains(": its health checks failed, "),
        "{}",
        describe(&shown)
    );
    // The next supervisor knows.
    let before: Vec<Value> = ["loop", "sick", "web"].map(|name| world.status(name)["exits"].clone()).into();
    world.kill_supervisor();
    world.start();
    let after: Vec<Value> = ["loop", "sick", "web"].map(|name| world.status(name)["exits"].clone()).into();
    assert_eq!(after, before);
}

pub fn masks_and_drop_ins_count(world: &mut World) {
    world.write_service("plain", &world.probe_toml(&["wait"], NONE));
    world.write_service("tuned", &world.probe_toml(&["wait"], NONE));
    world.write("services/tuned.toml.d/10-one.toml", "[service.env]\nA = \"1\"\nB = \"1\"\n");
    world.write("services/tuned.toml.d/20-two.toml", "[service.env]\nB = \"2\"\n");
    std::os::unix::fs::symlink("/dev/null", world.services_dir().join("hidden.toml")).expect("a new name");
    world.start();
    world.wait_state("tuned", "active");
    let env = fs::read(format!("/proc/{}/environ", world.pid("tuned"))).expect("it lives");
    let env: Vec<&[u8]> = env.split(|byte| *byte == 0).collect();
    assert!(env.contains(&b"A=1".as_slice()) && env.contains(&b"B=2".as_slice()));
    assert_eq!(world.state("hidden"), "masked");
    let refused = world.palisade(&["start", "hidden"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("masked"), "{}", describe(&refused));
    // To mask what runs is to stop it.
    world.wait_state("plain", "active");
    let plain = world.services_dir().join("plain.toml");
    fs::remove_file(&plain).and_then(|()| std::os::unix::fs::symlink("/dev/null", &plain)).expect("our own");
    world.signal(Signal::SIGHUP);
    world.wait_state("plain", "masked");
    wait_until("its process is gone", LONG, || {
        world.reap();
        snapshot::processes().iter().filter(|p| p.contains("__probe wait")).count() == 1
    });
}

/// Starts a verb whose output is read while it goes on; ends it when dropped.
struct Follower(std::process::Child, mpsc::Receiver<String>);

impl Follower {
    fn start(world: &World, args: &[&str]) -> Self {
        let mut child = world.command(args).stdout(Stdio::piped()).spawn().expect("it starts");
        let out = child.stdout.take().expect("piped");
        let (lines, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let lines_of = std::io::BufRead::lines(std::io::BufReader::new(out));
            lines_of.map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Self(child, receiver)
    }

    fn next(&self) -> String {
        self.1.recv_timeout(crate::support::scaled(LONG)).expect("another line")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A service that says "first", and then what is written into the pipe.
fn talker(world: &World, name: &str) -> std::path::PathBuf {
    let script = "echo first; while :; do read line < /pipe/fifo && echo \"$line\"; done";
    world.write("pipe/.keep", "");
    let fifo = world.dir().join("pipe/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a new name");
    fs::set_permissions(&fifo, <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666))
        .expect("made just now");
    let mount = format!("{{ src = \"{}\", dst = \"/pipe\" }}", world.dir().join("pipe").display());
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nrootfs.mounts = [{mount}]\n\
         log.max_size = \"64K\"\nlog.files = 2\n{NONE}\n"
    );
    world.write_service(name, &toml);
    fifo
}

fn say(fifo: &std::path::Path, text: &str) {
    let mut pipe = fs::File::options().write(true).open(fifo).expect("the service reads");
    writeln!(pipe, "{text}").expect("the service reads");
}

pub fn logs_are_followed_and_survive_a_rotation(world: &mut World) {
    let fifo = talker(world, "talk");
    world.start();
    let follower = Follower::start(world, &["logs", "-f", "talk", "--json"]);
    let entry = |line: String| serde_json::from_str::<Value>(&line).expect("JSON, one entry a line");
    let first = entry(follower.next());
    assert_eq!((&first["text"], &first["stream"]), (&json!("first"), &json!("stdout")), "{first}");
    // The host's root has 128 instances in all, and whoever may only look may follow.
    let held = snapshot::descriptors(world.supervisor_pid());
    assert!(!held.iter().any(|fd| fd.contains("inotify")), "{held:?}");
    say(&fifo, "second");
    assert_eq!(entry(follower.next())["text"], "second");
    // What logrotate(8) does: away with the file, then USR1.
    let log = world.dir().join("log/talk.log");
    let kept = world.dir().join("log/kept");
    fs::rename(&log, &kept).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    world.signal(Signal::SIGUSR1);
    wait_until("another file", LONG, || log.exists());
    say(&fifo, "third");
    wait_until("it goes to the new file", LONG, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("third") && !text.contains("second"))
    });
    assert_eq!(entry(follower.next())["text"], "third");
    drop(follower);
    fs::remove_file(kept).expect("made above");
    world.signal(Signal::SIGUSR2);
    wait_until("the state is told", LONG, || world.supervisor_log().contains("active  run 1 pids"));
}

pub fn logs_are_chosen_by_time_level_and_text(world: &mut World) {
    let fifo = talker(world, "talk");
    let slow =
        "service.command = [\"/bin/sh\", \"-c\", \"printf '<4>slow \\\\033[1m\\\\n' >&2; exec sleep 1000\"]";
    world.write_service("other", &format!("{slow}\n{NONE}\n"));
    world.start();
    wait_until("the other has spoken", LONG, || world.logs("other").contains("slow"));
    wait_until("the first line is there", LONG, || world.logs("talk").contains("first"));
    // One after another: each has a time of its own.
    for text in ["<3>it broke", "plain Line", "<7>detail"] {
        say(&fifo, text);
        wait_until(text, LONG, || world.ok(&["logs", "--raw", "talk"]).contains(text));
    }
    let texts = |args: &[&str]| -> Vec<String> {
        let said = world.ok(&[["logs", "-o", "cat"].as_slice(), args].concat());
        said.lines().map(str::to_owned).collect()
    };
    let all = ["first", "it broke", "plain Line", "detail"];
    assert_eq!(texts(&["talk"]), all);
    assert_eq!(texts(&["-p", "err", "talk"]), ["it broke"]);
    assert_eq!(texts(&["-p", "debug..info", "talk"]), ["first", "plain Line", "detail"]);
    assert_eq!(texts(&["-p", "info..info", "-n", "1", "talk"]), ["plain Line"], "the last of those");
    assert_eq!(texts(&["--grep", "line|^it", "talk"]), ["it broke", "plain Line"]);
    assert_eq!(texts(&["--grep", "LINE", "talk"]), Vec::<String>::new());
    let raw = world.ok(&["logs", "--raw", "-p", "3", "talk"]);
    assert_eq!(raw, "<3>it broke\n", "as it was written");
    let urgent = world.ok(&["logs", "--utc", "-p", "warning", "*"]);
    let lines: Vec<&str> = urgent.lines().filter_map(|line| Some(line.split_once("Z ")?.1)).collect();
    assert_eq!(lines, ["other: slow \\x1b[1m", "talk: it broke"], "no colours where nobody looks: {urgent}");
    let said = world.ok(&["logs", "-o", "json", "talk"]);
    let objects = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON on a line"));
    let objects: Vec<Value> = objects.collect();
    let levels: Vec<&Value> = objects.iter().map(|object| &object["level"]).collect();
    assert_eq!(levels, ["info", "err", "info", "debug"]);
    assert_eq!((&objects[1]["unit"], &objects[1]["text"]), (&json!("talk"), &json!("it broke")));
    // The time of a line is where those since then begin, and where those until then end.
    let time = objects[2]["time"].as_str().expect("RFC 3339");
    assert_eq!(texts(&["--since", time, "talk"]), all[2..]);
    assert_eq!(texts(&["--until", time, "talk"]), all[..2]);
    assert_eq!(texts(&["--until", time, "-n", "1", "talk"]), ["it broke"]);
    assert_eq!(texts(&["--since", "-1h", "talk"]), all);
    assert_eq!(texts(&["--since", "-1h", "-n", "0", "talk"]), Vec::<String>::new());
    assert_eq!(texts(&["--until", "1h ago", "talk"]), Vec::<String>::new());
    for (option, wrong, hint) in
        [("--since", "soon", "2h ago"), ("--grep", "(a", "regular expression"), ("-p", "loud", "warning")]
    {
        let output = world.palisade(&["logs", option, wrong, "talk"]);
        assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(hint), "{}", describe(&output));
    }
    let follower = Follower::start(world, &["logs", "-f", "--grep", "alarm", "-o", "cat", "talk"]);
    for number in 1..=2 {
        let other = format!("nothing {number}");
        say(&fifo, &other);
        // The shell reads a line and closes the pipe: what comes too soon is lost.
        wait_until(&other, LONG, || world.logs("talk").contains(&other));
        say(&fifo, &format!("alarm {number}"));
        assert_eq!(follower.next(), format!("alarm {number}"));
    }
    let follower = Follower::start(world, &["logs", "-f", "-n", "1", "-g", "alarm", "-o", "cat", "talk"]);
    assert_eq!(follower.next(), "alarm 2", "the last of the past");
    say(&fifo, "alarm 3");
    assert_eq!(follower.next(), "alarm 3");
}

pub fn events_tell_a_life_in_order(world: &mut World) {
    let keys = format!("unit.enabled = false\nrestart.policy = \"never\"\n{NONE}");
    world.write_service("once", &world.probe_toml(&["signal", "6"], &keys));
    world.write_service("bell", &world.probe_toml(&["exit", "0"], &format!("unit.enabled = false\n{NONE}")));
    world.start();
    let follower = Follower::start(world, &["events", "-f", "-n", "0", "--json"]);
    // Until the supervisor has heard of who listens, nothing that happens is told to him.
    wait_for("the first event", LONG, || {
        world.palisade(&["start", "bell"]);
        follower.1.try_recv().ok()
    });
    world.palisade(&["start", "once"]);
    let mut all = Vec::<String>::new();
    while !all.last().is_some_and(|line| line.contains("\"kind\":\"failed\"")) {
        all.push(follower.next());
    }
    let all = all.iter().map(|line| serde_json::from_str(line).expect("JSON"));
    let all: Vec<Value> = all.filter(|event: &Value| event["name"] == "once").collect();
    let kinds: Vec<&str> = all.iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, ["starting", "active", "ended", "stopping", "failed"], "{all:?}");
    assert_eq!(all[2]["exit"]["signal"], 6);
    assert!(all.windows(2).all(|pair| pair[0]["time"]["mono"].as_u64() <= pair[1]["time"]["mono"].as_u64()));
}

/// The events that `palisade events` tells, each parsed.
fn events(world: &World, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = ["events", "--json"].into_iter().chain(args.iter().copied()).collect();
    world.ok(&args).lines().map(|line| serde_json::from_str(line).expect("JSON, one event a line")).collect()
}

fn kinds(events: &[Value], name: &str) -> Vec<String> {
    let own = events.iter().filter(|event| event["name"] == name);
    own.map(|event| event["kind"].as_str().expect("a text").to_owned()).collect()
}

pub fn what_has_happened_is_known_over_supervisors(world: &mut World) {
    let keys = format!("unit.enabled = false\nrestart.policy = \"never\"\n{NONE}");
    world.write_service("once", &world.probe_toml(&["exit", "3"], &keys));
    let keys = "service.reload = { signal = \"CONT\" }";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    world.wait_state("web", "active");
    world.palisade(&["start", "once"]);
    world.wait_state("once", "failed");
    let life = ["added", "starting", "active", "ended", "stopping", "failed"];
    let all = events(world, &["-n", "all"]);
    assert_eq!(kinds(&all, "once"), life, "{all:?}");
    let ended = all.iter().find(|event| event["kind"] == "ended").expect("one has ended");
    assert_eq!((&ended["exit"]["code"], &ended["run"]), (&3.into(), &1.into()), "{ended}");
    assert!(all.windows(2).all(|pair| pair[0]["time"]["mono"].as_u64() <= pair[1]["time"]["mono"].as_u64()));
    assert_eq!(kinds(&events(world, &["-n", "2", "once"]), "once"), life[4..], "the last ones");
    assert!(events(world, &["w*"]).iter().all(|event| event["name"] == "web"));

    world.ok(&["reload", "web"]);
    assert!(kinds(&events(world, &[]), "web").contains(&"reload".to_owned()));
    // A knock at the host's own door.
    let address = world.address("web");
    let route = Command::new("ip").args(["-j", "route", "get", &address]).output().expect("iproute2");
    let route: Value = serde_json::from_slice(&route.stdout).expect("ip prints JSON");
    let host = route[0]["prefsrc"].as_str().expect("an address of the host").to_owned();
    assert_ne!(connect(world, "web", &format!("{host}:22")), "ok");
    let denied = wait_for("the refusal is told", LONG, || {
        events(world, &["web"]).into_iter().find(|event| event["kind"] == "denied")
    });
    assert_eq!(denied["text"], format!("to_host: tcp {address} -> {host}:22"));

    // Who listens to one hears of no other, and what has happened comes first.
    let follower = Follower::start(world, &["events", "-f", "-n", "1", "--json", "once"]);
    let next = || serde_json::from_str::<Value>(&follower.next()).expect("JSON");
    assert_eq!(next()["kind"], "failed");
    world.ok(&["restart", "web"]);
    world.palisade(&["start", "once"]);
    assert_eq!((&next()["kind"], &next()["run"]), (&"starting".into(), &2.into()));
    world.wait_state("once", "failed");

    // A supervisor later, and with the file gone.
    let before = events(world, &["-n", "all"]);
    world.kill_supervisor();
    fs::remove_file(world.services_dir().join("once.toml")).expect("it is there");
    world.start();
    let after = events(world, &["-n", "all"]);
    assert_eq!(after[..before.len()], before, "nothing is lost and nothing told twice");
    wait_until("it is gone", LONG, || {
        kinds(&events(world, &["once"]), "once").contains(&"removed".to_owned())
    });
    let unknown = world.palisade(&["events", "nobody"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", describe(&unknown));
    let shown = world.ok(&["events", "once"]);
    assert!(shown.contains("once: ended (exit status 3)"), "{shown}");
}

pub fn a_shell_has_a_terminal_whose_size_follows(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("web", "active");
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let size = |rows, columns| rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&pty.master, size(33, 101)).expect("a terminal");
    // setsid(1) makes the terminal the controlling one, so that its changes of size are signalled.
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", PALISADE, "--config"]).arg(world.dir().join("palisade.toml"));
    command.arg("--run").arg(world.run_dir()).args(["shell", "web"]).env("TERM", "dumb");
    let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("dup"));
    command.stdin(slave(&pty.slave)).stdout(slave(&pty.slave)).stderr(slave(&pty.slave));
    let mut shell = command.spawn().expect("util-linux is installed");
    drop(command);
    drop(pty.slave);
    let mut master = fs::File::from(pty.master);
    let (said, hear) = mpsc::channel();
    let mut reader = master.try_clone().expect("dup");
    let ear = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // EIO when the last one has closed the other end.
        while let Ok(read @ 1..) = reader.read(&mut bytes) {
            if said.send(String::from_utf8_lossy(&bytes[..read]).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut heard = String::new();
    let mut until = |what: &str| {
        heard.clear();
        wait_until(&format!("the terminal shows {what}"), LONG, || {
            heard.extend(hear.try_iter());
            heard.contains(what)
        });
    };
    writeln!(master, "stty size; tty; hostname").expect("a terminal");
    until("33 101");
    rustix::termios::tcsetwinsize(&master, size(44, 132)).expect("a terminal");
    // The size goes its own way, through the client: asked until it has arrived.
    let mut heard = String::new();
    wait_until("the size has followed", LONG, || {
        writeln!(master, "stty size").expect("a terminal");
        heard.extend(hear.try_iter());
        heard.contains("44 132")
    });
    writeln!(master, "exit 42").expect("a terminal");
    let status = shell.wait().expect("our child");
    assert_eq!(status.code(), Some(42));
    drop(master);
    ear.join().expect("it does not panic");
}

pub fn an_abandoned_exec_ends(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("web", "active");
    let inside = || {
        snapshot::processes()
            .iter()
            .filter(|p| p.ends_with("/bin/sleep 4711 ") && !p.contains("exec"))
            .count()
    };
    for round in 0..20 {
        let mut exec =
            world.command(&["exec", "web", "--", "/bin/sleep", "4711"]).spawn().expect("it starts");
        // Once when the command runs, then at whatever point of its start.
        if round == 0 {
            wait_until("the command runs", LONG, || inside() == 1);
        }
        exec.kill().and_then(|()| exec.wait()).expect("our child");
    }
    // Who hung up may be known before the command is: an answer to a later question is an answer to both.
    world.ok(&["list"]);
    wait_until("the commands have ended", LONG, || inside() == 0);
    assert_eq!(world.state("web"), "active");
    // Many at a time, and their output arrives whole.
    let many: Vec<_> = (0..20)
        .map(|n| {
            let script = format!("seq 1 5000; echo end {n} >&2");
            let mut command = world.command(&["exec", "web", "--", "/bin/sh", "-c", &script]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
        })
        .collect();
    for (n, child) in many.into_iter().enumerate() {
        let output = child.wait_with_output().expect("our child");
        assert!(output.status.success(), "{n}: {}", describe(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 5000, "{n}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("end {n}\n"));
    }
}

pub fn a_full_log_file_system_stops_nobody(world: &mut World) {
    let log = world.dir().join("log");
    fs::create_dir_all(&log).expect("our own directory");
    let options = Some("size=128K,mode=0755");
    nix::mount::mount(Some("none"), &log, Some("tmpfs"), nix::mount::MsFlags::empty(), options)
        .expect("a mount namespace of our own");
    world.write_service(
        "flood",
        &world.probe_toml(&["flood", "3000000"], &format!("restart.policy = \"never\"\n{NONE}")),
    );
    world.write_service("calm", &world.probe_toml(&["wait"], NONE));
    world.start();
    wait_until("the flood is over", LONG, || ["stopped", "failed"].contains(&world.state("flood").as_str()));
    assert_eq!(world.status("flood")["exits"][0]["code"], 0, "it could write all that it had to say");
    assert!(world.supervisor_log().contains("output is lost"), "and that it was lost is told");
    assert!(world.supervisor_log().len() < 20_000, "but not again and again");
    assert_eq!(world.state("calm"), "active");
    world.ok(&["restart", "calm"]);
    assert_eq!(world.stop(), Ok(()));
    nix::mount::umount(&log).expect("nobody holds it");
}
