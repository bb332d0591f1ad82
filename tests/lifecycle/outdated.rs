//! Whether what runs is what would be started now: `restart_needed`.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{LONG, World, wait_until};

const NONE: &str = "network.mode = \"none\"\n";

/// Why a service needs a restart.
fn reasons(world: &World, name: &str) -> Value {
    world.json(&["status", name])["services"][0]["restart_needed"].clone()
}

/// Those who need one, as other programs are told.
fn listed(world: &World) -> String {
    world.ok(&["list", "--restart-needed", "--quiet"])
}

/// Another file in the place of one, as dpkg and rpm do it: rename(2).
fn replace(path: &Path) {
    let new = path.with_extension("new");
    fs::copy(path, &new).expect("our own directory");
    fs::rename(&new, path).expect("our own directory");
}

pub fn a_program_that_was_replaced_is_told_until_the_restart(world: &mut World) {
    let dir = world.dir().join("prog");
    fs::create_dir(&dir).expect("a new name");
    fs::copy(world.dir().join("probe/probe"), dir.join("server")).expect("our own directory");
    let mount = format!("{{ src = \"{}\", dst = \"/prog\", exec = true }}", dir.display());
    let toml = format!(
        "service.command = [\"/prog/server\", \"__probe\", \"wait\"]\nrootfs.mounts = [{mount}]\n{NONE}"
    );
    world.write_service("app", &toml);
    world.write_service("other", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("app", "active");
    world.wait_state("other", "active");
    assert_eq!((reasons(world, "app"), listed(world)), (json!([]), String::new()));
    let pid = world.pid("app");
    replace(&dir.join("server"));
    // The kernel's word for it.
    let exe = fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
    assert_eq!(exe, Path::new("/prog/server (deleted)"));
    let why = "program /prog/server was replaced or removed on the disk since it was started";
    assert_eq!((reasons(world, "app"), reasons(world, "other")), (json!([why]), json!([])));
    assert!(world.ok(&["status", "app"]).contains(&format!("   Restart: needed: {why}\n")));
    assert_eq!(world.ok(&["list", "--restart-needed"]), format!("app: {why}\n"));
    let all = world.json(&["list", "--restart-needed"]);
    assert_eq!(all["services"].as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(world.ok(&["list", "-q"]), "app\nother\n");

    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("app"), reasons(world, "app")), (pid, json!([why])), "a successor sees it too");
    let names = listed(world);
    let args: Vec<&str> = ["restart"].into_iter().chain(names.lines()).collect();
    world.ok(&args);
    assert_ne!(world.pid("app"), pid);
    assert_eq!((reasons(world, "app"), listed(world)), (json!([]), String::new()));
    replace(&dir.join("server"));
    world.ok(&["stop", "app"]);
    assert_eq!(listed(world), "", "what does not run is started as it is on the disk");
}

/// The C library of the host's programs, as one of them has it.
fn libc() -> String {
    let mut sleep = std::process::Command::new("/bin/sleep").arg("4719").spawn().expect("coreutils");
    let mut path = None;
    wait_until("its libraries are loaded", LONG, || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", sleep.id())).expect("our child");
        let mut paths = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
        path = paths.find(|path| path.contains("/libc.so"));
        path.is_some()
    });
    sleep.kill().and_then(|()| sleep.wait()).expect("our child");
    path.expect("it was waited for")
}

pub fn a_library_that_was_replaced_is_told_until_the_restart(world: &mut World) {
    let dir = world.dir().join("copy");
    fs::create_dir(&dir).expect("a new name");
    let library = dir.join("libc.so.6");
    fs::copy(libc(), &library).expect("our own directory");
    let toml = format!(
        "service.command = [\"/bin/sleep\", \"4720\"]\nservice.env.LD_LIBRARY_PATH = \"/copy\"\n\
         rootfs = {{ base = \"host\", mounts = [{{ src = \"{}\", dst = \"/copy\", exec = true }}] }}\n{NONE}",
        dir.display()
    );
    world.write_service("app", &toml);
    world.write_service("other", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("app", "active");
    let maps =
        |world: &World| fs::read_to_string(format!("/proc/{}/maps", world.pid("app"))).expect("it lives");
    wait_until("it has its library", LONG, || maps(world).contains("/copy/libc.so.6"));
    assert_eq!((reasons(world, "app"), listed(world)), (json!([]), String::new()));
    replace(&library);
    assert!(maps(world).contains("/copy/libc.so.6 (deleted)"), "{}", maps(world));
    let why = "library /copy/libc.so.6 was replaced or removed on the disk since it was loaded";
    assert_eq!((reasons(world, "app"), listed(world)), (json!([why]), "app\n".to_owned()));
    world.ok(&["restart", "app"]);
    wait_until("it has its library", LONG, || maps(world).contains("/copy/libc.so.6"));
    assert_eq!((reasons(world, "app"), listed(world)), (json!([]), String::new()));
}

pub fn a_sandbox_of_another_palisade_is_told_until_the_restart(world: &mut World) {
    for name in ["other", "older", "same"] {
        world.write_service(name, &world.probe_toml(&["wait"], NONE));
    }
    world.start();
    let names = ["older", "other", "same"];
    names.iter().for_each(|name| world.wait_state(name, "active"));
    assert_eq!(listed(world), "");
    let pids = names.map(|name| world.pid(name));
    world.kill_supervisor();
    for dir in ["units", "units.copy"].map(|dir| world.run_dir().join(dir)) {
        for (name, version) in [("other", Some("0.0.1")), ("older", None)] {
            let path = dir.join(format!("{name}.json"));
            let text = fs::read_to_string(&path).expect("its record");
            let mut record: Value = serde_json::from_str(&text).expect("JSON");
            let run = record["run"].as_object_mut().expect("it runs");
            assert_eq!(run.remove("version"), Some(json!(env!("CARGO_PKG_VERSION"))));
            // A record of before there was such a key has none.
            run.extend(version.map(|version| ("version".to_owned(), json!(version))));
            fs::write(&path, record.to_string()).expect("our own directory");
        }
    }
    world.start();
    assert_eq!(names.map(|name| world.pid(name)), pids, "they run on");
    let this = format!("and this is {}", env!("CARGO_PKG_VERSION"));
    let other = format!("its sandbox was made by Palisade 0.0.1, {this}");
    let older = format!("its sandbox was made by an older Palisade, {this}");
    assert_eq!(names.map(|name| reasons(world, name)), [json!([older]), json!([other]), json!([])]);
    // Once more: what was taken over was written down as it was.
    world.kill_supervisor();
    world.start();
    assert_eq!(world.ok(&["list", "--restart-needed"]), format!("older: {older}\nother: {other}\n"));
    world.ok(&["restart", "older", "other"]);
    assert_eq!(listed(world), "");
}
