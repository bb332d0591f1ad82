//! The tests of the tests: the walls are seen where they are and missed where they are not, and leaks are caught.
#![allow(clippy::print_stdout, reason = "a specimen reports by printing")]

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    support::{
        World, probe,
        snapshot::Snapshot,
        wait_until,
        world::{describe, pids},
    },
    walls,
};

/// A process with nothing around it: if the judge passed this, it would pass anything.
pub fn a_plain_process_has_every_hole_that_the_walls_know(world: &mut World) {
    let outside = probe::report();
    let mut probe = Command::new(world.dir().join("probe/probe"));
    // Something to see: another descriptor, another directory, another process.
    let mut company = Command::new("sleep").arg("60").spawn().expect("sleep is installed");
    probe.args(["__probe", "report"]).current_dir("/tmp").stdin(Stdio::piped()).stderr(Stdio::null());
    let output = probe.output().expect("the probe starts");
    company.kill().and_then(|()| company.wait()).expect("it is our child");
    let inside: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
    let holes = walls::holes(&inside, &outside).join("\n");
    for wanted in [
        "the cgroup namespace is the host's",
        "the ipc namespace is the host's",
        "the mnt namespace is the host's",
        "the net namespace is the host's",
        "the pid namespace is the host's",
        "the user namespace is the host's",
        "the uts namespace is the host's",
        "uid_map: ",
        "gid_map: ",
        "CapPrm is ",
        "CapEff is ",
        "CapBnd is ",
        "no_new_privs is off",
        "descriptor 0 is pipe:",
        "the working directory is \"/tmp\"",
        "set-user-id programs on /",
        "device nodes on /",
        "the root is writable",
        "another process is visible: ",
    ] {
        assert!(holes.contains(wanted), "{wanted:?} was not found:\n{holes}");
    }
}

/// The same judge over a sandbox that was made by unshare(1), mount(8) and setpriv(1), not by us.
pub fn a_hand_made_sandbox_has_no_hole(world: &mut World) {
    let outside = probe::report();
    let root = world.dir().join("root");
    fs::create_dir(&root).expect("a new name");
    let script = format!(
        "set -e; for fd in /proc/self/fd/*; do fd=${{fd##*/}}; [ $fd -le 2 ] || eval \"exec $fd<&-\"; done
        root={root}; lib=/old/lib/$(uname -m)-linux-gnu
        mount --make-rprivate /; mount -t tmpfs -o nosuid,nodev t $root; cd $root
        mkdir proc dev old; touch dev/null; cp {probe} probe
        mount -t proc -o nosuid,nodev,noexec p proc
        mount --bind /dev/null dev/null; mount -o remount,bind,nosuid dev/null
        mount -o remount,bind,ro,nosuid,nodev $root
        pivot_root . old; cd /
        exec $(echo $lib/ld-linux-*.so.?) --library-path $lib /old/usr/bin/setpriv \
            --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all /probe __probe report",
        root = root.display(),
        probe = world.dir().join("probe/probe").display(),
    );
    let output = Command::new("setpriv")
        // The id of nobody in particular: it becomes root inside and means nothing outside.
        .args(["--reuid=1000000", "--regid=1000000", "--clear-groups"])
        .args([
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "--net",
            "--uts",
            "--ipc",
        ])
        .args(["--cgroup", "bash", "-c", &script])
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("util-linux is installed");
    assert!(output.status.success(), "{}", describe(&output));
    let inside: Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
    // Three things are left open on purpose, and the judge must see them: the old root below /old, the system calls, and
    // whatever signals were ignored by those who started this (glibc's posix_spawn(3) does that to its signals 32 and 33).
    let ignored = format!("SigIgn is {}", walls::field(&outside, "SigIgn"));
    let all = walls::holes(&inside, &outside);
    assert!(all.iter().any(|hole| hole == walls::UNFILTERED), "{inside:#}");
    let (old, holes): (Vec<String>, Vec<String>) = all
        .into_iter()
        .filter(|hole| *hole != ignored && hole != walls::UNFILTERED)
        .partition(|hole| hole.contains(" /old"));
    assert!(!old.is_empty(), "the old root went unseen: {inside:#}");
    assert_eq!(holes, Vec::<String>::new(), "{inside:#}");
    assert_eq!(walls::texts(&inside["interfaces"]), ["lo"]);
    assert_eq!(walls::field(&inside, "Uid"), "0 0 0 0");
}

/// One leak of each kind, each found by name.
pub fn the_guard_sees_every_kind_of_leak(world: &mut World) {
    let before = Snapshot::take(world);
    assert_eq!(before.differences(&Snapshot::take(world)), Vec::<String>::new(), "it is steady");
    let ran = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).status().expect("program of the base system");
        assert!(status.success(), "{program} {args:?}");
    };
    let mounted = world.dir().join("state").display().to_string();
    ran("ip", &["link", "add", "leaked0", "type", "veth", "peer", "name", "leaked1"]);
    ran("nft", &["add", "table", "inet", "leaked"]);
    ran("mount", &["-t", "tmpfs", "leaked", &mounted]);
    fs::create_dir_all(world.cgroup().join("leaked")).expect("declared as a need");
    world.write("run/leaked.sock", "");
    let descriptor = fs::File::open("/dev/null").expect("/dev/null");
    let mut process = Command::new("sleep").arg("60").spawn().expect("sleep is installed");
    let leaks = before.differences(&Snapshot::take(world)).join("\n");
    process.kill().and_then(|()| process.wait()).expect("it is our child");
    drop(descriptor);
    ran("ip", &["link", "del", "leaked0"]);
    ran("nft", &["delete", "table", "inet", "leaked"]);
    ran("umount", &[&mounted]);
    fs::remove_dir(world.cgroup().join("leaked")).expect("it is empty");
    fs::remove_dir(world.cgroup()).expect("it is empty");
    fs::remove_file(world.run_dir().join("leaked.sock")).expect("our own file");
    for kind in [
        "new: link leaked0",
        "new: link leaked1",
        "new: nft table \"inet\" \"leaked\"",
        &format!("new: mount {mounted} "),
        "/leaked\nnew: descriptor of the test",
        "new: file ",
        "new: process ",
    ] {
        assert!(leaks.contains(kind), "{kind:?} was not found:\n{leaks}");
    }
}

/// The keeper of a test that leaks says so, fails, and removes the cgroup.
pub fn a_test_that_leaks_fails_and_is_cleared_up(world: &mut World) {
    let said = specimen(world, "selftest::leak_a_process_and_a_cgroup", false);
    assert!(said.contains("leak: new: process "), "{said}");
    assert!(said.contains("leak: new: cgroup "), "{said}");
    assert!(pids().is_empty(), "the process died with its world");
}

/// The keeper of a test that panics fails, and nothing of it stays.
pub fn a_test_that_panics_fails_and_is_cleared_up(world: &mut World) {
    let said = specimen(world, "selftest::panic_with_a_cgroup", false);
    assert!(said.contains("deliberately"), "{said}");
}

/// And one that does nothing passes.
pub fn a_test_that_leaks_nothing_passes(world: &mut World) {
    specimen(world, "selftest::do_nothing", true);
}

/// Runs a specimen in a world within this one. Returns what its keeper said.
fn specimen(world: &World, name: &str, passes: bool) -> String {
    let me = std::env::current_exe().expect("own path");
    let mut keeper = Command::new(me);
    keeper.args(["__keep", name]).env("TMPDIR", world.dir()).env("PALISADE_TEST_SETTLE_MS", "300");
    let output = keeper.output().expect("the keeper starts");
    assert_eq!(output.status.success(), passes, "{}", describe(&output));
    let said = describe(&output);
    let left: Vec<String> = fs::read_dir(world.dir())
        .expect("our own directory")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("palisade-test-"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "the directory of the specimen");
    if let Some(cgroup) = said.lines().find_map(|line| line.strip_prefix("cgroup of the specimen: ")) {
        assert!(!std::path::Path::new(cgroup).exists(), "{cgroup} is still there");
    }
    said
}

/// Specimen: forgets a process and a cgroup.
pub fn leak_a_process_and_a_cgroup(world: &mut World) {
    println!("cgroup of the specimen: {}", world.cgroup().display());
    fs::create_dir_all(world.cgroup().join("inner")).expect("declared as a need");
    let me = std::env::current_exe().expect("own path");
    // Orphaned at once: it becomes a child of the world's PID 1.
    let status = Command::new(me).args(["__probe", "orphan", "leaked"]).stdout(Stdio::null()).status();
    assert!(status.expect("the probe starts").success());
}

/// Specimen: gives up half-way.
pub fn panic_with_a_cgroup(world: &mut World) {
    println!("cgroup of the specimen: {}", world.cgroup().display());
    fs::create_dir_all(world.cgroup()).expect("declared as a need");
    panic!("deliberately");
}

/// Specimen: behaves.
pub fn do_nothing(_: &mut World) {}

/// A time-out names its condition.
pub fn a_wait_in_vain_says_what_for(_: &mut World) {
    let wait = || wait_until("pigs fly", Duration::from_millis(30), || false);
    let panic = std::panic::catch_unwind(wait).expect_err("they do not");
    let text = panic.downcast_ref::<String>().expect("a formatted message");
    assert!(text.ends_with("in vain: pigs fly"), "{text}");
}
