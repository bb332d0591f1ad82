//! What two services share because a file says so, what one has of the host, and clocks of its own.

use serde_json::Value;

use crate::{
    support::{LONG, World, probe, snapshot, wait_until, world::describe},
    walls,
};

const NO_NETWORK: &str = "network.mode = \"none\"";

/// Starts `db`, which waits, and `side`, which waits with these keys.
fn pair(world: &mut World, keys: &str) {
    world.write_service("db", &world.probe_toml(&["wait"], NO_NETWORK));
    world.write_service("side", &world.probe_toml(&["wait"], &format!("{keys}\n{NO_NETWORK}")));
    world.start();
    world.wait_state("db", "active");
    world.wait_state("side", "active");
}

/// What a process of the service finds around it.
fn report(world: &World, name: &str) -> Value {
    let text = world.ok(&["exec", name, "--", "/probe/probe", "__probe", "report"]);
    serde_json::from_str(&text).expect("the probe prints JSON")
}

/// The kinds of namespaces that two processes have in common.
fn common(a: &Value, b: &Value) -> Vec<String> {
    let kinds = a["namespaces"].as_object().expect("a table");
    let same = |kind: &&String| a["namespaces"][kind.as_str()] == b["namespaces"][kind.as_str()];
    kinds.keys().filter(same).cloned().collect()
}

/// What is open in `a` and not in `b`, but for processes that are seen.
fn more_holes(a: &Value, b: &Value) -> Vec<String> {
    let outside = probe::report();
    let known = walls::holes(b, &outside);
    let mut more = walls::holes(a, &outside);
    // A descriptor is named by its inode.
    more.retain(|hole| {
        !known.contains(hole)
            && !hole.starts_with("another process")
            && !hole.starts_with("descriptor 0 is pipe")
    });
    more
}

/// System V shared memory as the service sees it, without the heading.
fn segments(world: &World, name: &str) -> usize {
    world.ok(&["exec", name, "--", "cat", "/proc/sysvipc/shm"]).lines().skip(1).count()
}

pub fn an_ipc_namespace_is_joined_by_one_with_the_same_ids(world: &mut World) {
    pair(world, "namespaces.ipc = \"join:db\"\nnamespaces.user = \"shared:db\"");
    let (db, side) = (report(world, "db"), report(world, "side"));
    assert_eq!(common(&db, &side), ["ipc", "time", "time_for_children"]);
    assert_eq!(db["uid_map"], side["uid_map"], "the same ids");
    world.ok(&["exec", "db", "--", "ipcmk", "-M", "4096", "-p", "0600"]);
    assert_eq!((segments(world, "db"), segments(world, "side")), (1, 1));
    world.ok(&["exec", "side", "--", "ipcrm", "--all=shm"]);
    assert_eq!((segments(world, "db"), segments(world, "side")), (0, 0));
}

pub fn an_ipc_namespace_is_seen_but_not_touched_by_one_with_other_ids(world: &mut World) {
    pair(world, "namespaces.ipc = \"join:db\"");
    let (db, side) = (report(world, "db"), report(world, "side"));
    assert_eq!(common(&db, &side), ["ipc", "time", "time_for_children"]);
    assert_ne!(db["uid_map"], side["uid_map"]);
    world.ok(&["exec", "db", "--", "ipcmk", "-M", "4096", "-p", "0600"]);
    assert_eq!(segments(world, "side"), 1);
    let output = world.palisade(&["exec", "side", "--", "ipcrm", "-m", "0"]);
    assert!(!output.status.success(), "{}", describe(&output));
    assert_eq!(segments(world, "db"), 1);
}

pub fn a_joined_uts_namespace_has_its_owners_name(world: &mut World) {
    pair(world, "namespaces.uts = \"join:db\"");
    let (db, side) = (report(world, "db"), report(world, "side"));
    assert_eq!(common(&db, &side), ["time", "time_for_children", "uts"]);
    assert_eq!(side["hostname"], "db");
}

pub fn a_joined_cgroup_namespace_is_its_owners(world: &mut World) {
    pair(world, "namespaces.cgroup = \"join:db\"");
    let (db, side) = (report(world, "db"), report(world, "side"));
    assert_eq!(common(&db, &side), ["cgroup", "time", "time_for_children"]);
    let group = walls::texts(&side["cgroup"]).into_iter().find(|line| line.starts_with("0::"));
    assert_eq!(group.as_deref(), Some("0::/../side.1"), "in a group of its own");
}

pub fn a_joined_pid_namespace_shows_its_owners_processes(world: &mut World) {
    pair(world, "namespaces.pid = \"join:db\"\nnamespaces.user = \"shared:db\"");
    let (db, side) = (report(world, "db"), report(world, "side"));
    assert_eq!(common(&db, &side), ["pid", "pid_for_children", "time", "time_for_children"]);
    // Two inits, two services, and the one that asks.
    assert_eq!(side["processes"].as_array().map(Vec::len), Some(5), "{}", side["processes"]);
    assert_eq!(more_holes(&side, &db), Vec::<String>::new());
    // Root of the host is nobody to trace, and its files are not to be had through /proc.
    let output = world.palisade(&["exec", "side", "--", "ls", "/proc/1/root/"]);
    assert!(!output.status.success(), "{}", describe(&output));
    // The same ids: the service may signal its neighbour.
    world.ok(&["exec", "side", "--", "sh", "-c", "kill -0 2"]);
}

pub fn stopping_one_of_two_in_a_pid_namespace_leaves_the_other(world: &mut World) {
    world.write_service("db", &world.probe_toml(&["wait"], NO_NETWORK));
    let keys = "namespaces.pid = \"join:db\"\nnamespaces.user = \"shared:db\"\nservice.stop = { timeout = \"300ms\", mode = \"control-group\" }";
    world.write_service("side", &world.probe_toml(&["tree"], &format!("{keys}\n{NO_NETWORK}")));
    world.start();
    wait_until("the whole tree is up", LONG, || world.logs("side").matches("ready").count() == 4);
    let (pid, run) = (world.pid("db"), world.run_id("db"));
    world.ok(&["stop", "side"]);
    let left: Vec<String> = snapshot::processes().into_iter().filter(|p| p.contains("ignore-term")).collect();
    assert_eq!(left, Vec::<String>::new(), "double-forked and setsid'ed ones included");
    assert_eq!((world.pid("db"), world.run_id("db")), (pid, run));
    world.ok(&["start", "side"]);
    wait_until("the whole tree is up again", LONG, || world.logs("side").matches("ready").count() == 8);
    // Every process of the owner, and nobody else's.
    assert_eq!(
        report(world, "db")["processes"].as_array().map(Vec::len),
        Some(10),
        "two of them not waited for"
    );
}

pub fn a_join_goes_down_with_the_owner_and_comes_back_after_it(world: &mut World) {
    pair(world, "namespaces.ipc = \"join:db\"");
    world.ok(&["restart", "db"]);
    world.wait_state("db", "active");
    wait_until("side is back", LONG, || {
        world.state("side") == "active" && world.run_id("side") > 1 && world.run_id("db") > 1
    });
    let (db, side) = (report(world, "db"), report(world, "side"));
    assert_eq!(common(&db, &side), ["ipc", "time", "time_for_children"], "it is in the new one");
}

pub fn a_join_follows_its_owner_after_a_crash(world: &mut World) {
    for (kind, user) in [("ipc", ""), ("pid", "namespaces.user = \"shared:db\"")] {
        let restart = "restart.policy = \"always\"\nrestart.delay = \"10ms\"";
        let name = format!("side-{kind}");
        let keys = format!("namespaces.{kind} = \"join:db\"\n{user}\n{restart}\n{NO_NETWORK}");
        world.write_service(&name, &world.probe_toml(&["wait"], &keys));
        world.write_service("db", &world.probe_toml(&["wait"], &format!("{restart}\n{NO_NETWORK}")));
    }
    world.start();
    for name in ["db", "side-ipc", "side-pid"] {
        world.wait_state(name, "active");
    }
    let killed = crate::support::world::raw(world.pid("db"));
    nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL).expect("it lives");
    for name in ["db", "side-ipc", "side-pid"] {
        wait_until("all are up again", LONG, || world.run_id(name) > 1 && world.state(name) == "active");
    }
    let db = report(world, "db");
    for kind in ["ipc", "pid"] {
        let side = report(world, &format!("side-{kind}"));
        assert!(common(&db, &side).contains(&kind.to_owned()), "{kind} is the new one's");
    }
}

pub fn a_join_without_a_supervisor_is_refused(world: &mut World) {
    let output = world.run(&world.probe_toml(&["wait"], "namespaces.ipc = \"join:db\""));
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("host step 1 ns.join: db is not running; hint: "), "{said}");
    let plan = world.ok(&["plan", &world.dir().join("single/once.toml").display().to_string()]);
    assert!(plan.starts_with("plan once\n  host   1 ns.join          ipc:db\n"), "{plan}");
    assert!(plan.contains(" clone            mnt pid uts cgroup user\n"), "{plan}");
}

pub fn the_hosts_namespaces_are_had_by_name(world: &mut World) {
    let outside = probe::report();
    for (kind, more) in [("uts", ""), ("ipc", ""), ("cgroup", ""), ("pid", "")] {
        let keys = format!("namespaces.{kind} = \"host\"\n{more}\n{NO_NETWORK}");
        let output = world.run(&world.probe_toml(&["report"], &keys));
        assert!(output.status.success(), "{kind}: {}", describe(&output));
        let inside: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
        let shared: Vec<String> = common(&inside, &outside);
        assert!(shared.contains(&kind.to_owned()), "{kind}: {shared:?}");
        let more = ["time", "time_for_children", "pid_for_children", kind];
        assert!(shared.iter().all(|name| more.contains(&name.as_str())), "{kind}: {shared:?}");
        if kind == "uts" {
            assert_eq!(inside["hostname"], outside["hostname"]);
        }
        if kind == "pid" {
            assert!(inside["processes"].to_string().contains("palisade"), "{}", inside["processes"]);
        }
    }
}

pub fn without_a_pid_namespace_the_whole_tree_is_killed(world: &mut World) {
    let keys = format!(
        "namespaces.pid = \"host\"\nservice.stop = {{ timeout = \"300ms\" }}\nrestart.policy = \"always\"\n\
         restart.delay = \"10ms\"\n{NO_NETWORK}"
    );
    world.write_service("tree", &world.probe_toml(&["tree"], &keys));
    world.start();
    wait_until("the whole tree is up", LONG, || world.logs("tree").matches("ready").count() == 4);
    let ours = || snapshot::processes().into_iter().filter(|p| p.contains("ignore-term")).count();
    assert_eq!(ours(), 3);
    // Whose parents have gone are the init's children, not the host's.
    let init = std::fs::read_to_string(format!("/proc/{}/stat", world.pid("tree"))).expect("it lives");
    let init = init.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).expect("proc_pid_stat(5)");
    let children = format!("/proc/{init}/task/{init}/children");
    wait_until("the init has the service and two that it left", LONG, || {
        std::fs::read_to_string(&children).expect("it lives").split_whitespace().count() == 3
    });
    // A crash of the main process takes the others along too.
    nix::sys::signal::kill(crate::support::world::raw(world.pid("tree")), nix::sys::signal::Signal::SIGKILL)
        .expect("it lives");
    wait_until("the next tree is up", LONG, || world.logs("tree").matches("ready").count() == 8);
    assert_eq!(ours(), 3);
    world.ok(&["stop", "tree"]);
    assert_eq!(ours(), 0);
}

pub fn without_a_pid_namespace_nothing_outlives_a_killed_run(world: &mut World) {
    let keys = format!("namespaces.pid = \"host\"\n{NO_NETWORK}");
    let file = world.write("single/once.toml", &world.probe_toml(&["tree"], &keys));
    let state = world.dir().join("state").display().to_string();
    let mut command = world.command(&["run", "--state", &state, &file.display().to_string()]);
    let mut run = command.stdout(std::process::Stdio::null()).spawn().expect("the program under test starts");
    let left = || {
        let mut all = snapshot::processes();
        all.retain(|process| process.contains("ignore-term"));
        all
    };
    wait_until("the whole tree is up", LONG, || left().len() == 3);
    run.kill().and_then(|()| run.wait()).expect("it is our child");
    wait_until("nothing of it is left", LONG, || left().is_empty());
    world.reap();
    // Whoever is killed with SIGKILL tidies nothing up: the next one does, and the guard looks after it.
    let output = world.run(&world.probe_toml(&["exit", "0"], NO_NETWORK));
    assert!(output.status.success(), "{}", describe(&output));
}

pub fn without_a_user_namespace_ids_are_real_and_powerless(world: &mut World) {
    let keys = format!("namespaces.user = \"off\"\nservice.user = \"nobody\"\n{NO_NETWORK}");
    let output = world.run(&world.probe_toml(&["report"], &keys));
    assert!(output.status.success(), "{}", describe(&output));
    let inside: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
    assert_eq!(walls::field(&inside, "Uid"), "65534 65534 65534 65534");
    let output = world.run(&world.probe_toml(&["report"], NO_NETWORK));
    let default: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
    let expected = ["the user namespace is the host's", "uid_map:", "gid_map:", "supplementary groups"];
    let mut holes = more_holes(&inside, &default);
    holes.retain(|hole| !expected.iter().any(|known| hole.starts_with(known)));
    assert_eq!(holes, Vec::<String>::new(), "{inside:#}");
}

pub fn clocks_are_shifted(world: &mut World) {
    let uptime = |text: &str| -> f64 {
        text.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{text:?}"))
    };
    let outside = uptime(&std::fs::read_to_string("/proc/uptime").expect("proc is mounted"));
    let command = "service.command = [\"cat\", \"/proc/uptime\", \"/proc/self/timens_offsets\"]";
    let keys = "namespaces.time = true\nnamespaces.clock_offset = \"10d\"";
    let output = world.run(&format!("{command}\n{keys}\n{NO_NETWORK}\n"));
    assert!(output.status.success(), "{}", describe(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let shift = uptime(&text) - outside;
    assert!((864_000.0..864_000.0 + 240.0).contains(&shift), "{shift} seconds: {text}");
    // A clock that shows the same is a namespace of its own all the same, and needs no /proc inside.
    let keys = format!("namespaces.time = true\nrootfs.proc = \"none\"\n{NO_NETWORK}");
    let output = world.run(&world.probe_toml(&["print", "on time"], &keys));
    assert!(output.status.success(), "{}", describe(&output));
}
