//! `service.reload.watch`: a service reloads when what it reads on the host has changed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;

use crate::support::{LONG, World, wait_until, world::describe};

const NONE: &str = "network.mode = \"none\"";

/// A directory of the host that is at /conf inside.
fn conf(world: &World, name: &str) -> PathBuf {
    let dir = world.dir().join(name);
    fs::create_dir(&dir).expect("our own directory");
    dir
}

/// Says what is in a file of its configuration, at the start and whenever it reloads.
fn reader(world: &World, name: &str, dir: &Path, watch: &[PathBuf], keys: &str) {
    let script = "say() { echo \"$$1 $(cat /conf/* 2>/dev/null | tr \"\\n\" \" \")\"; }; trap \"say again\" HUP; say first; \
                  while :; do sleep 1000 & wait; done";
    let text = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nservice.reload.signal = \"HUP\"\n\
         service.reload.watch = {watch:?}\nrootfs.mounts = [{{ src = {dir:?}, dst = \"/conf\" }}]\n\
         rootfs.tmpfs = [{{ dst = \"/tmp\" }}]\n{keys}\n{NONE}\n"
    );
    world.write_service(name, &text);
}

fn wait_said(world: &World, name: &str, words: &str) {
    wait_until(&format!("{name} says {words}"), LONG, || world.logs(name).contains(words));
}

/// As an editor does it: whoever opens the file finds the old one or the new one.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new~");
    fs::write(&beside, format!("{text}\n")).expect("our own directory");
    fs::rename(beside, path).expect("our own directory");
}

fn plan(world: &World) -> Vec<(String, String, String)> {
    let output = world.palisade(&["plan", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer in JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changes = answer["changes"].as_array().unwrap_or_else(|| panic!("{}", describe(&output)));
    let changes = changes.iter();
    changes.map(|change| (text(&change["name"]), text(&change["how"]), text(&change["what"]))).collect()
}

pub fn a_service_reloads_when_what_it_reads_changes(world: &mut World) {
    let dir = conf(world, "conf");
    fs::write(dir.join("a"), "one\n").expect("our own directory");
    reader(world, "file", &dir, &[dir.join("a")], "");
    reader(world, "dir", &dir, std::slice::from_ref(&dir), "");
    reader(world, "none", &dir, &[], "");
    reader(world, "restarts", &dir, std::slice::from_ref(&dir), "");
    world.start();
    let all = ["file", "dir", "none", "restarts"];
    for name in all {
        wait_said(world, name, "first one");
        world.wait_state(name, "active");
    }
    let pids: Vec<u32> = all.iter().map(|name| world.pid(name)).collect();
    replace(&dir.join("a"), "two");
    for name in ["file", "dir"] {
        wait_said(world, name, "again two");
    }
    replace(&dir.join("a"), "three");
    for name in ["file", "dir"] {
        wait_said(world, name, "again three");
    }
    // One that is new concerns the directory alone, and what editors leave concerns nobody.
    fs::write(dir.join(".a.swp"), "no\n").expect("our own directory");
    fs::write(dir.join("b"), "more\n").expect("our own directory");
    wait_said(world, "dir", "again three more");
    fs::remove_file(dir.join("a")).expect("our own file");
    wait_said(world, "dir", "again more");
    fs::write(dir.join("a"), "four\n").expect("our own directory");
    wait_said(world, "file", "again four");
    wait_said(world, "dir", "again four more");
    assert_eq!(all.iter().map(|name| world.pid(name)).collect::<Vec<_>>(), pids, "nobody was restarted");
    assert!(!world.logs("none").contains("again"), "who does not ask is not told");
    assert!(!world.logs("file").contains("again three more"), "only what is named counts");
    wait_until("everything is taken in", LONG, || plan(world).is_empty());
    // What it reads when it starts is no change.
    world.ok(&["stop", "restarts"]);
    fs::write(dir.join("a"), "five\n").expect("our own directory");
    world.ok(&["start", "restarts"]);
    wait_said(world, "restarts", "first five more");
    wait_said(world, "file", "again five");
    let log = world.logs("restarts");
    let since = log.rsplit_once("first").map(|(_, rest)| rest).expect("it has said so");
    assert!(!since.contains("again"), "{log}");
}

/// As Kubernetes does it with what it mounts: one link is swapped, and all files are others.
pub fn links_on_the_way_are_followed_and_watched(world: &mut World) {
    let dir = conf(world, "conf");
    for (version, text) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
        fs::create_dir(dir.join(format!("..{version}"))).expect("our own directory");
        fs::write(dir.join(format!("..{version}/app")), format!("{text}\n")).expect("our own directory");
    }
    let swap = |version: &str| {
        symlink(version, dir.join("..tmp")).expect("our own directory");
        fs::rename(dir.join("..tmp"), dir.join("..data")).expect("our own directory");
    };
    swap("..v1");
    symlink("..data/app", dir.join("app")).expect("our own directory");
    reader(world, "file", &dir, &[dir.join("app")], "");
    reader(world, "dir", &dir, std::slice::from_ref(&dir), "");
    world.start();
    for name in ["file", "dir"] {
        wait_said(world, name, "first one");
        world.wait_state(name, "active");
    }
    for (version, text) in [("..v2", "again two"), ("..v3", "again three")] {
        swap(version);
        for name in ["file", "dir"] {
            wait_said(world, name, text);
        }
    }
    // What the link leads to now is watched, too.
    fs::write(dir.join("..v3/app"), "third\n").expect("our own directory");
    for name in ["file", "dir"] {
        wait_said(world, name, "again third");
    }
}

pub fn a_change_while_nobody_supervises_is_found_by_the_next(world: &mut World) {
    let dir = conf(world, "conf");
    fs::write(dir.join("a"), "one\n").expect("our own directory");
    reader(world, "web", &dir, std::slice::from_ref(&dir), "");
    reader(
        world,
        "prepared",
        &dir,
        std::slice::from_ref(&dir),
        "service.pre_start = [[\"/bin/sleep\", \"0.1\"]]",
    );
    world.start();
    for name in ["web", "prepared"] {
        wait_said(world, name, "first one");
        world.wait_state(name, "active");
    }
    let pid = world.pid("web");
    for text in ["two", "three"] {
        world.kill_supervisor();
        replace(&dir.join("a"), text);
        world.start();
        for name in ["web", "prepared"] {
            wait_said(world, name, &format!("again {text}"));
        }
    }
    let count = world.logs("web").matches("again").count();
    world.kill_supervisor();
    world.start();
    world.ok(&["reload", "web"]);
    wait_until("it was told by hand", LONG, || world.logs("web").matches("again").count() > count);
    assert_eq!(world.logs("web").matches("again").count(), count + 1, "what is known already is no news");
    assert_eq!((world.pid("web"), world.run_id("web")), (pid, 1));
}

pub fn what_could_not_be_taken_in_is_planned_and_tried_again(world: &mut World) {
    let dir = conf(world, "conf");
    fs::write(dir.join("a"), "one\n").expect("our own directory");
    reader(world, "web", &dir, &[dir.join("a")], "");
    let path = world.services_dir().join("web.toml");
    // As `nginx -t`: it takes only what is good.
    let text = fs::read_to_string(&path).expect("our own file");
    let command = "service.reload.command = [\"/bin/sh\", \"-c\", 'grep -q good /conf/a || exit 1']";
    fs::write(&path, text.replace("service.reload.signal = \"HUP\"", command)).expect("our own file");
    world.start();
    wait_said(world, "web", "first one");
    world.wait_state("web", "active");
    fs::write(dir.join("a"), "bad\n").expect("our own directory");
    wait_until("it refuses", LONG, || world.supervisor_log().contains("not reloaded: exit status 1"));
    let what = format!("is reloaded ({} changed)", dir.join("a").display());
    assert_eq!(plan(world), [("web".to_owned(), "reload".to_owned(), what.clone())]);
    assert_eq!(world.palisade(&["plan"]).status.code(), Some(2));
    // Of other keys that change with it no restart comes either.
    let text = fs::read_to_string(&path).expect("our own file");
    fs::write(&path, format!("{text}log.files = 7\n")).expect("our own file");
    let both = what.replace("(", "(log, ");
    assert_eq!(plan(world), [("web".to_owned(), "reload".to_owned(), both)]);
    let refusals = |world: &World| world.supervisor_log().matches("not reloaded: exit status 1").count();
    let before = refusals(world);
    let said = world.ok(&["daemon-reload"]);
    assert!(said.contains("is reloaded"), "{said}");
    wait_until("it is asked once more", LONG, || refusals(world) > before);
    assert_eq!(plan(world), [("web".to_owned(), "reload".to_owned(), what)], "still not taken in");
    fs::write(dir.join("a"), "good\n").expect("our own directory");
    wait_until("it takes it", LONG, || plan(world).is_empty());
    assert_eq!(world.run_id("web"), 1);
}

pub fn a_service_that_says_so_is_waited_for(world: &mut World) {
    let dir = conf(world, "conf");
    let keys =
        format!("service.type = \"notify-reload\"\nservice.reload.watch = [{:?}]\n{NONE}", dir.join("a"));
    let steps = ["say", "send:READY=1", "hup", "reloading", "usr1", "send:READY=1\\nSTATUS=new", "hup"];
    world.write_service("one", &world.probe_toml(&steps, &keys));
    world.start();
    world.wait_state("one", "active");
    // A file that was not there when it started; whole, for it reads once.
    replace(&dir.join("a"), "one");
    let says = |world: &World| world.status("one")["says"].as_str().unwrap_or_default().to_owned();
    wait_until("it reloads", LONG, || says(world) == "reloading");
    let how: Vec<String> = plan(world).into_iter().map(|(_, how, _)| how).collect();
    assert_eq!(how, ["reload"], "it has not said that it has");
    world.ok(&["kill", "--signal", "USR1", "one"]);
    wait_until("it has reloaded", LONG, || says(world) == "new");
    wait_until("it is taken in", LONG, || plan(world).is_empty());
}

pub fn a_run_that_takes_the_place_of_another_is_told_of_what_it_has_not_read(world: &mut World) {
    let dir = conf(world, "conf");
    for (name, text) in [("a", "one"), ("go", "")] {
        fs::write(dir.join(name), format!("{text}\n")).expect("our own directory");
    }
    let keys = "service.rollout = \"blue-green\"\nservice.ready = \"file:/conf/go\"";
    reader(world, "web", &dir, &[dir.join("a")], keys);
    let path = world.services_dir().join("web.toml");
    let text = fs::read_to_string(&path).expect("our own file");
    fs::write(&path, format!("{text}[[socket]]\nlisten = \"127.0.0.1:8096\"\n")).expect("our own file");
    world.start();
    world.wait_state("web", "active");
    let count = |world: &World, words: &str| world.logs("web").matches(words).count();
    wait_until("it reads", LONG, || count(world, "first one") == 1);
    fs::remove_file(dir.join("go")).expect("our own file");
    let mut restart = world.command(&["restart", "web"]);
    let mut restart = restart.stdout(Stdio::null()).spawn().expect("the program under test starts");
    wait_until("the next run reads", LONG, || count(world, "first one") == 2);
    replace(&dir.join("a"), "two");
    wait_until("the old run reads again", LONG, || count(world, "again two") == 1);
    fs::write(dir.join("go"), "\n").expect("our own directory");
    assert!(restart.wait().expect("our child").success());
    wait_until("the new run reads again", LONG, || count(world, "again two") == 2);
    // Nothing of this is said twice, nor by a successor.
    world.kill_supervisor();
    world.start();
    replace(&dir.join("a"), "three");
    wait_until("it reads once more", LONG, || count(world, "again three") == 1);
    assert_eq!((count(world, "again two"), count(world, "first")), (2, 2));
}
