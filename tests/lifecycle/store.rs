//! The descriptor store, by a program that knows nothing of Palisade: sd_notify(3) as its page has it, in Python.

use std::{collections::BTreeSet, fs};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::support::{
    LONG, World, wait_for, wait_until,
    world::{pids, raw},
};

/// Tells what it was given, and stores: at first three descriptors and one more than it may; on SIGUSR1 it takes one back, on
/// SIGUSR2 it stores another one.
const PROGRAM: &str = r#"
import array, json, os, signal, socket, sys

def notify(text, *fds):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([text.encode()], rights, 0, os.environ["NOTIFY_SOCKET"])

def barrier():
    read, write = os.pipe()
    notify("BARRIER=1", write)
    os.close(write)
    os.read(read, 1)

def memory(name):
    fd = os.memfd_create(name)
    os.write(fd, ("content of " + name).encode())
    return fd

def store(name, fd):
    notify("FDSTORE=1\nFDNAME=" + name, fd)
    os.close(fd)

def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)

count = int(os.environ.get("LISTEN_FDS", "0"))
names = os.environ.get("LISTEN_FDNAMES", "").split(":")[:count]
assert count == 0 or os.environ["LISTEN_PID"] == str(os.getpid())
given = {}
for fd, name in enumerate(names, 3):
    link = os.readlink("/proc/self/fd/" + str(fd))
    if link.startswith("pipe:"):
        given[name] = os.read(fd, 5).decode()
    elif link.startswith("socket:"):
        given[name] = socket.socket(fileno=os.dup(fd)).recv(6).decode()
    else:
        given[name] = os.pread(fd, 100, 0).decode()
say("given", names=names, given=given, left=[fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 3 + count])
if count == 0:
    pipe, into = os.pipe()
    os.write(into, b"first" * 8)
    one, two = socket.socketpair()
    two.send(b"second" * 8)
    for name, fd in [("mem", memory("mem")), ("pipe", pipe), ("sock", one.detach()), ("more", memory("more"))]:
        store(name, fd)
    barrier()

def on_usr1(*_):
    notify("FDSTOREREMOVE=1\nFDNAME=mem")
    barrier()
    say("removed")

def on_usr2(*_):
    store("late", memory("late"))
    memory("sent")
    say("stored")

signal.signal(signal.SIGUSR1, on_usr1)
signal.signal(signal.SIGUSR2, on_usr2)
notify("READY=1")
while True:
    signal.pause()
"#;

fn said(world: &World, event: &str) -> Vec<Value> {
    let log = world.logs("store");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok());
    lines.filter(|said| said["event"] == event).collect()
}

/// Kills the program, and returns what the next run was given.
fn next(world: &World) -> Value {
    let run = world.run_id("store");
    kill(raw(world.pid("store")), Signal::SIGKILL).expect("it lives");
    wait_until("another run", LONG, || world.run_id("store") > run && world.state("store") == "active");
    last(world)
}

fn last(world: &World) -> Value {
    let run = usize::try_from(world.run_id("store")).expect("a few");
    wait_for("it tells", LONG, || said(world, "given").get(run - 1).cloned())
}

/// What the memory that is called so is to the kernel, in all the processes that have it.
fn memories(name: &str) -> BTreeSet<i32> {
    let has = |pid: &i32| {
        let list = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let is_it = |path: std::path::PathBuf| path.to_string_lossy() == format!("/memfd:{name} (deleted)");
        list.filter_map(|entry| fs::read_link(entry.path()).ok()).any(is_it)
    };
    pids().into_iter().filter(has).collect()
}

pub fn what_a_program_stores_outlives_it_and_the_supervisor(world: &mut World) {
    let keys = "service.type = \"notify\"\nservice.fd_store_max = 3\n\
                restart = { policy = \"always\", delay = \"10ms\" }\nnetwork.mode = \"none\"";
    let toml = format!("service.command = [\"/usr/bin/python3\", \"-c\", {PROGRAM:?}]\n{keys}\n");
    world.write_service("store", &toml);
    world.start();
    world.wait_state("store", "active");
    assert_eq!(last(world)["names"], json!([]), "nothing is given at first");
    assert_eq!(world.supervisor_log().matches("fd_store_max is 3").count(), 1, "`more`");
    assert_eq!(memories("more"), BTreeSet::new(), "what is not kept is closed");
    // The end that the program has kept of each is gone with it: what was written stays.
    let given = next(world);
    assert_eq!(given["names"], json!(["mem", "pipe", "sock"]));
    assert_eq!(given["given"], json!({ "mem": "content of mem", "pipe": "first", "sock": "second" }));
    assert_eq!(given["left"], json!([]), "and no more");
    // Supervisor and program die together: the keeper has them.
    let init = world.status("store")["init_pid"].as_u64().expect("it runs");
    let (pid, run) = (world.pid("store"), world.run_id("store"));
    world.kill_supervisor();
    kill(raw(pid), Signal::SIGKILL).expect("it lives");
    wait_until("its init has ended", LONG, || {
        fs::read_to_string(format!("/proc/{init}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    assert_ne!(memories("mem"), BTreeSet::new(), "somebody holds it");
    world.start();
    wait_until("another run", LONG, || world.run_id("store") > run && world.state("store") == "active");
    let given = last(world);
    assert_eq!(given["given"], json!({ "mem": "content of mem", "pipe": "first", "sock": "second" }));
    // One is taken back, and is nowhere any more but in the run that was given it.
    kill(raw(world.pid("store")), Signal::SIGUSR1).expect("it lives");
    wait_until("it has taken it back", LONG, || said(world, "removed").len() == 1);
    assert_eq!(memories("mem"), BTreeSet::from([raw(world.pid("store")).as_raw()]));
    // What is stored while nobody supervises is there as well.
    let pid = raw(world.pid("store"));
    world.kill_supervisor();
    kill(pid, Signal::SIGUSR2).expect("it lives");
    wait_until("it has sent it", LONG, || !memories("sent").is_empty());
    world.start();
    wait_until("the supervisor knows", LONG, || memories("late").len() >= 2);
    let given = next(world);
    assert_eq!(given["names"], json!(["pipe", "sock", "late"]));
    assert_eq!(given["given"], json!({ "pipe": "first", "sock": "second", "late": "content of late" }));
    // A stop closes everything, also in the keeper.
    world.ok(&["stop", "store"]);
    for name in ["mem", "late"] {
        assert_eq!(memories(name), BTreeSet::new(), "{name}");
    }
    world.ok(&["start", "store"]);
    assert_eq!(last(world)["names"], json!([]));
}
