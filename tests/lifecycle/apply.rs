//! Other files: what they would change, applied for a trial, and back again; another binary in the supervisor's place.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    LONG, World, span, wait_until,
    world::{PALISADE, wait_http},
};

const NONE: &str = "network.mode = \"none\"";

/// The argument that tells one version of a service's file from another, as the kernel has it; empty between two runs.
fn version(world: &World, name: &str) -> String {
    let pid = world.status(name)["pid"].as_u64().unwrap_or_default();
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    String::from_utf8_lossy(words.get(3).copied().unwrap_or_default()).into_owned()
}

fn write(world: &World, name: &str, version: &str, keys: &str) {
    world.write_service(name, &world.probe_toml(&["wait", version], &format!("{keys}\n{NONE}")));
}

fn how(output: &Output) -> Vec<(String, String)> {
    let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer in JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changes = answer["changes"].as_array().expect("a list");
    changes.iter().map(|change| (text(&change["name"]), text(&change["how"]))).collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(name, how)| ((*name).to_owned(), (*how).to_owned())).collect()
}

pub fn what_is_planned_is_what_a_reload_does(world: &mut World) {
    for name in ["same", "live", "other", "gone"] {
        write(world, name, "one", "");
    }
    write(world, "off", "one", "unit.enabled = false");
    world.start();
    let all = ["same", "live", "other", "gone"];
    all.iter().for_each(|name| world.wait_state(name, "active"));
    let nothing = world.palisade(&["plan", "--json"]);
    assert_eq!((nothing.status.code(), how(&nothing)), (Some(0), vec![]));
    let before: Vec<u32> = all.iter().map(|name| world.pid(name)).collect();

    write(world, "live", "one", "service.stop.timeout = \"3s\"");
    write(world, "other", "two", "");
    write(world, "off", "two", "unit.enabled = false");
    write(world, "new", "one", "");
    world.write_service("wrong", "service.command = 3\n");
    fs::remove_file(world.services_dir().join("gone.toml")).expect("our own file");
    let planned = world.palisade(&["plan", "--json"]);
    let wanted = pairs(&[
        ("gone", "stop"),
        ("live", "live"),
        ("new", "start"),
        ("off", "later"),
        ("other", "restart"),
        ("wrong", "broken"),
    ]);
    assert_eq!((planned.status.code(), how(&planned)), (Some(2), wanted));
    let words = String::from_utf8_lossy(&world.palisade(&["plan"]).stdout).into_owned();
    assert!(words.contains("live: changed without a restart (service.stop)\n"), "{words}");
    assert!(words.contains("other: restarts (service.command changed)\n"), "{words}");
    // Nothing has happened yet.
    assert_eq!(all.iter().map(|name| world.pid(name)).collect::<Vec<_>>(), before);

    fs::remove_file(world.services_dir().join("wrong.toml")).expect("our own file");
    let applied = world.palisade(&["apply", "--json"]);
    assert_eq!(applied.status.code(), Some(0));
    wait_until("the new version runs", LONG, || version(world, "other") == "two");
    world.wait_state("new", "active");
    assert_eq!((world.pid("same"), world.pid("live")), (before[0], before[1]));
    wait_until("its file is gone, and so is it", LONG, || {
        world.palisade(&["status", "gone"]).status.code() == Some(4)
    });
    assert_eq!(world.palisade(&["plan"]).status.code(), Some(0));
    world.stop().expect("it stops");
}

pub fn what_nobody_confirms_is_taken_back(world: &mut World) {
    write(world, "web", "one", "");
    world.start();
    world.wait_state("web", "active");
    assert_eq!(world.palisade(&["confirm"]).status.code(), Some(1));

    // Confirmed, it stays; until then nothing else is applied.
    write(world, "web", "two", "");
    world.ok(&["apply", "--confirm", "5min"]);
    wait_until("the new version runs", LONG, || version(world, "web") == "two");
    assert_eq!(world.palisade(&["apply"]).status.code(), Some(1));
    world.ok(&["confirm"]);
    assert_eq!(world.palisade(&["plan"]).status.code(), Some(0));

    // Not confirmed, everything is as it was, the service that was new included.
    write(world, "web", "three", "");
    write(world, "extra", "one", "");
    let run = world.run_id("web");
    world.ok(&["apply", "--confirm", "2s"]);
    wait_until("the new service is gone", LONG, || {
        world.palisade(&["status", "extra"]).status.code() == Some(4)
    });
    // By another run: the one that was there has that version as well, until it has ended.
    wait_until("it is taken back", LONG, || world.run_id("web") > run && version(world, "web") == "two");
    // The files still say otherwise, and a successor is not taken in by them.
    assert_eq!(world.palisade(&["plan"]).status.code(), Some(2));
    let pid = world.pid("web");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("web"), version(world, "web").as_str()), (pid, "two"));

    // A supervisor that is killed while the files are on trial has a successor that takes them back in time.
    world.ok(&["apply", "--confirm", &span(Duration::from_secs(10))]);
    wait_until("the new version runs", LONG, || version(world, "web") == "three");
    world.kill_supervisor();
    world.start();
    wait_until("it is taken back", LONG, || version(world, "web") == "two");

    world.ok(&["apply", "--confirm", "5min"]);
    wait_until("the new version runs", LONG, || version(world, "web") == "three");
    world.ok(&["revert"]);
    wait_until("it is taken back", LONG, || version(world, "web") == "two");
    world.stop().expect("it stops");
}

pub fn what_fails_on_trial_is_taken_back_at_once(world: &mut World) {
    write(world, "web", "one", "");
    write(world, "aside", "one", "");
    world.start();
    world.wait_state("web", "active");
    world.wait_state("aside", "active");
    let aside = world.pid("aside");
    let crash = format!("service.command = [\"/bin/false\"]\n{NONE}");
    world.write_service("web", &crash);
    let answer = world.json(&["apply", "--confirm", "5min"]);
    assert_eq!(answer["changes"][0]["how"], json!("restart"));
    // First: until its end the run that was there has the version that comes back.
    let why = "going back to the files before: web has failed";
    wait_until("that is told", LONG, || world.supervisor_log().contains(why));
    wait_until("it is taken back", LONG, || version(world, "web") == "one");
    world.wait_state("web", "active");
    assert_eq!(world.pid("aside"), aside);
    world.stop().expect("it stops");
}

/// Connects to the control socket again and again until it is told to end; how often that was refused, and how often not.
fn connect_all_the_time(socket: &Path, end: &AtomicBool) -> (u32, u32) {
    let (mut refused, mut taken) = (0, 0);
    while !end.load(Ordering::Relaxed) {
        match UnixStream::connect(socket) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    (refused, taken)
}

pub fn an_upgrade_keeps_services_and_the_control_socket(world: &mut World) {
    for name in ["a", "b"] {
        world.write_service(name, &world.probe_toml(&["http", "80"], ""));
    }
    world.start();
    ["a", "b"].iter().for_each(|name| world.wait_state(name, "active"));
    let before: Vec<(u32, String)> =
        ["a", "b"].iter().map(|name| (world.pid(name), world.address(name))).collect();
    let supervisor = world.supervisor_pid();
    let exe = || fs::read_link(format!("/proc/{supervisor}/exe")).expect("it is there");
    let mounts = || fs::read_link(format!("/proc/{supervisor}/ns/mnt")).expect("it is there");
    let lines =
        || fs::read_to_string(format!("/proc/{supervisor}/mountinfo")).expect("it is there").lines().count();
    let (first, count) = (mounts(), lines());

    let newer = world.dir().join("palisade-newer");
    fs::copy(PALISADE, &newer).expect("it is there");
    let end = Arc::new(AtomicBool::new(false));
    let (socket, ended) = (world.run_dir().join("control.sock"), Arc::clone(&end));
    let caller = std::thread::spawn(move || connect_all_the_time(&socket, &ended));
    for binary in [newer.as_path(), Path::new(PALISADE), newer.as_path()] {
        let said = world.ok(&["upgrade", &binary.display().to_string()]);
        assert!(said.contains(&format!("(pid {supervisor})")), "{said}");
        assert_eq!(exe(), fs::canonicalize(binary).expect("it is there"));
        for (name, (pid, address)) in ["a", "b"].iter().zip(&before) {
            assert_eq!((world.pid(name), &world.address(name)), (*pid, address));
            wait_http(&format!("{address}:80"), "/");
        }
    }
    end.store(true, Ordering::Relaxed);
    let (refused, taken) = caller.join().expect("it is there");
    assert_eq!(refused, 0, "of {taken}");
    // Another mount namespace each time, and not one within the other.
    assert_ne!(mounts(), first);
    assert_eq!(lines(), count);

    // What cannot take its place does not, and the supervisor goes on.
    fs::write(world.dir().join("text"), "no program").expect("it is there");
    for wrong in [world.dir().join("text"), world.dir().join("missing"), "/bin/true".into()] {
        assert_eq!(
            world.palisade(&["upgrade", &wrong.display().to_string()]).status.code(),
            Some(1),
            "{wrong:?}"
        );
    }
    fs::set_permissions(&newer, fs::Permissions::from_mode(0o777)).expect("it is there");
    assert_eq!(world.palisade(&["upgrade", &newer.display().to_string()]).status.code(), Some(1));
    assert_eq!(world.pid("a"), before[0].0);
    // A signal still reaches the new program's handlers.
    world.signal(Signal::SIGHUP);
    world.ok(&["restart", "a"]);
    assert_ne!(world.pid("a"), before[0].0);
    world.stop().expect("it stops");
}
