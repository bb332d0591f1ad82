//! Ranges of ids: whose they are stays so, and what a host without them is told.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use crate::support::{
    LONG, World, wait_until,
    world::{PALISADE, describe},
};

/// The first id of the service's range, by the kernel's own map.
fn range(world: &World, name: &str) -> u32 {
    wait_until(&format!("{name} is up"), LONG, || world.state(name) == "active");
    let map = fs::read_to_string(format!("/proc/{}/uid_map", world.pid(name))).expect("it lives");
    let numbers: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let groups = fs::read_to_string(format!("/proc/{}/gid_map", world.pid(name))).expect("it lives");
    assert_eq!(map, groups);
    assert_eq!((numbers[0], numbers[2]), (0, 65536), "{map}");
    numbers[1]
}

pub fn a_range_is_one_services_for_good(world: &mut World) {
    let root = world.dir().join("tree");
    for dir in ["probe", "tmp", "run", "dev", "proc", "sys", "etc", "data"] {
        fs::create_dir_all(root.join(dir)).expect("our own directory");
    }
    let persistent = |world: &World| {
        let keys = format!(
            "network.mode = \"none\"\nservice.user = \"root\"\nrootfs.base = \"dir\"\n\
             rootfs.dir = \"{}\"\nrootfs.writable = \"persistent\"",
            root.display()
        );
        world.probe_toml(&["wait"], &keys)
    };
    let plain = |world: &World| world.probe_toml(&["wait"], "network.mode = \"none\"");
    world.write_service("one", &persistent(world));
    world.write_service("two", &plain(world));
    world.start();
    let (one, two) = (range(world, "one"), range(world, "two"));
    assert_ne!(one, two);
    world.ok(&["exec", "one", "--", crate::support::world::PROBE, "__probe", "write", "/data/kept"]);
    let kept = world.dir().join("state/rootfs/one/upper/data/kept");
    assert_eq!(fs::metadata(&kept).expect("it was written").uid(), one);
    // Restarted, and under another supervisor.
    world.ok(&["restart", "one"]);
    assert_eq!(range(world, "one"), one);
    assert_eq!(world.stop(), Ok(()));
    // Its file goes, its files stay: nobody who comes gets its ids, however many come.
    fs::remove_file(world.services_dir().join("one.toml")).expect("it is there");
    for n in 0..4 {
        world.write_service(&format!("new{n}"), &plain(world));
    }
    world.start();
    let mut given: Vec<u32> = (0..4).map(|n| range(world, &format!("new{n}"))).collect();
    given.extend([range(world, "two"), one]);
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count, "{given:?}");
    // A run in the foreground counts from the other end.
    let output = world.run(&world.probe_toml(&["report"], "network.mode = \"none\""));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the probe prints JSON");
    let map = report["uid_map"][0].as_str().expect("a map").to_owned();
    let own: u32 = map.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a map");
    assert!(given.iter().all(|range| *range < own), "{own} and {given:?}");
    // And back: its own files are its own.
    world.write_service("one", &persistent(world));
    world.ok(&["daemon-reload"]);
    assert_eq!(range(world, "one"), one);
    assert_eq!(
        world
            .ok(&["exec", "one", "--", crate::support::world::PROBE, "__probe", "write", "/data/kept"])
            .trim(),
        "ok"
    );
}

pub fn a_host_that_denies_namespaces_is_named(world: &mut World) {
    let run = |world: &World, errno: &str, keys: &str| {
        let toml = world.probe_toml(&["report"], &format!("{keys}network.mode = \"none\""));
        let file = world.write("single/once.toml", &toml);
        let mut command = Command::new("strace");
        command.arg("-o").arg(world.dir().join("trace")).args(["-e", "trace=clone3"]);
        command.arg("-e").arg(format!("inject=clone3:error={errno}"));
        command.arg(PALISADE).arg("--config").arg(world.dir().join("palisade.toml"));
        command.arg("--run").arg(world.run_dir()).arg("run").args(world.places()).arg(file);
        command.output().expect("declared as a need")
    };
    for (errno, why) in
        [("EPERM", "denied to palisade"), ("EUSERS", "too deep"), ("ENOSPC", "limit of namespaces")]
    {
        let output = run(world, errno, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
        assert!(said.contains(errno) && said.contains(why), "{said}");
        assert!(errno == "ENOSPC" || said.contains("`namespaces.user = \"off\"`"), "{said}");
    }
}
