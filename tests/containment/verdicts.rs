//! The judges: what the batteries have said, and what the host saw.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    battery::{self, Row},
    stage::{self, Stage},
    support::{
        LONG, World, snapshot, wait_until,
        world::{PROBE, describe},
    },
};

/// The probes whose verdict only the host knows.
const STAYS: &str = "a-process-that-stays-behind";
const SPEAKS: &str = "a-terminal-is-spoken-to";

/// What each probe said: a word and why.
type Said = BTreeMap<String, (String, String)>;

pub fn every_class_has_its_probe(_: &mut World) {
    let mut names = BTreeSet::new();
    let mut rows = BTreeSet::new();
    for probe in battery::all() {
        assert!(names.insert(probe.name), "two probes are called {}", probe.name);
        rows.insert(probe.row);
    }
    let missing: Vec<Row> = Row::ALL.into_iter().filter(|row| !rows.contains(row)).collect();
    assert_eq!(missing, [], "classes without a probe");
    assert!(names.len() >= 80, "{} probes", names.len());
}

/// Reads what a battery printed. Every probe has to be there, and none may have died of itself.
fn read(output: &str, stage: &Stage) -> Said {
    let lines = output.lines().filter_map(|line| line.split_once("probe ").map(|(_, rest)| rest));
    let mut said: Said = lines
        .filter_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            let (word, detail) = rest.split_once(' ').unwrap_or((rest, ""));
            Some((name.to_owned(), (word.to_owned(), detail.to_owned())))
        })
        .collect();
    assert!(said.remove("end").is_some(), "the battery did not come to its end:\n{output}");
    let mut broken = Vec::new();
    for probe in battery::all() {
        let (word, detail) = said.get(probe.name).unwrap_or_else(|| panic!("{} said nothing", probe.name));
        if !["ESCAPED", "HELD", "NA"].contains(&&**word) {
            broken.push(format!("{}: {word} {detail}", probe.name));
        }
        assert!(word != "NA" || stage.lacks().contains(&&**detail), "{}: {detail}", probe.name);
    }
    assert_eq!(broken, Vec::<String>::new());
    assert_eq!(said.len(), battery::all().count());
    said
}

/// The lines with one word, as they are reported.
fn with(said: &Said, wanted: &str) -> Vec<String> {
    let lines = battery::all().filter(|probe| said[probe.name].0 == wanted);
    lines.map(|p| format!("{:?} {:?} {}: {}", p.severity, p.row, p.name, said[p.name].1)).collect()
}

/// Corrects a verdict that only the host knows.
fn look(said: &mut Said, probe: &str, is_out: bool) {
    let word = if is_out { "ESCAPED" } else { "HELD" };
    said.insert(probe.to_owned(), (word.to_owned(), "as the host sees it".to_owned()));
}

fn stays() -> bool {
    snapshot::processes().iter().any(|process| process.contains("__stay"))
}

/// Ends the process that has stayed behind.
fn end_what_stays() {
    for line in snapshot::processes().iter().filter(|process| process.contains("__stay")) {
        if let Some(pid) = line.split(' ').next().and_then(|pid| pid.parse().ok()) {
            // Its end in between is what is wanted.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// A supervisor that was started by a careless caller, with a neighbour to reach.
fn start(world: &mut World) -> Stage {
    let stage = Stage::set(world);
    world.write_service("other", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    supervise(world);
    world.wait_state("other", "active");
    stage
}

fn supervise(world: &mut World) {
    let mut command = stage::careless_with(world, &world.supervise());
    world.join_supervisor_log(&mut command);
    world.start_by(command);
}

pub fn a_place_without_walls_lets_every_probe_out(world: &mut World) {
    let stage = start(world);
    let facts = stage.facts(world);
    let printed = stage.without_walls(world, &facts);
    let mut said = read(&printed, &stage);
    look(&mut said, STAYS, stays());
    look(&mut said, SPEAKS, printed.contains('\u{1b}'));
    end_what_stays();
    let group = world.cgroup().join("weak");
    wait_until("nobody is left in the group", LONG, || {
        world.reap();
        std::fs::remove_dir(&group).is_ok()
    });
    let held = with(&said, "HELD");
    let (na, out) = (with(&said, "NA"), with(&said, "ESCAPED").len());
    println!("{out} escaped, {} held, {} not to be tried:\n{}", held.len(), na.len(), na.join("\n"));
    assert_eq!(held, Vec::<String>::new(), "probes that cannot fail");
}

pub fn nothing_escapes_from_an_empty_service_file(world: &mut World) {
    nothing_escapes(world, "");
}

pub fn nothing_escapes_from_root_inside(world: &mut World) {
    nothing_escapes(world, "service.user = \"root\"\n");
}

/// The battery as the main program, as a session of another service, and as a session after another supervisor took over.
fn nothing_escapes(world: &mut World, keys: &str) {
    let stage = start(world);
    let facts = stage.facts(world);
    let argv: Vec<&str> = [PROBE, "__battery"].into_iter().chain(facts.iter().map(String::as_str)).collect();
    let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
    // Not started again when it has ended, and otherwise what the defaults are.
    let once = format!("service.command = {argv:?}\n{mounts}\nrestart.policy = \"never\"\n{keys}");
    world.write_service("main", &once);
    world.write_service("rest", &world.probe_toml(&["wait"], keys));
    world.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("the battery has ended", LONG, || {
        let all = world.json(&["list"]);
        let list = all["services"].as_array().cloned().unwrap_or_default();
        list.iter().any(|s| s["name"] == "main" && s["exits"].as_array().is_some_and(|e| !e.is_empty()))
    });
    let printed = world.ok(&["logs", "-n", "1000", "main"]);
    let mut main = read(&printed, &stage);
    look(&mut main, STAYS, stays());
    // A session's output is its caller's, as it is; a log is everybody's.
    assert!(printed.contains("\\x1b]0;palisade"), "{printed}");
    look(&mut main, SPEAKS, printed.contains('\u{1b}'));
    world.wait_state("rest", "active");
    let session = |world: &World| {
        let args: Vec<&str> = ["exec", "rest", "--"].into_iter().chain(argv.iter().copied()).collect();
        let inner = world.command(&args);
        let output = stage::careless_with(world, &inner).output().expect("the program under test starts");
        assert!(output.status.success(), "{}", describe(&output));
        read(&String::from_utf8_lossy(&output.stdout), &stage)
    };
    let mut first = session(world);
    world.kill_supervisor();
    supervise(world);
    world.wait_state("rest", "active");
    let mut second = session(world);
    world.ok(&["stop", "rest"]);
    let stays = stays();
    look(&mut first, STAYS, stays);
    look(&mut second, STAYS, stays);
    let mut escaped = Vec::new();
    for (place, said) in [("main program", main), ("session", first), ("session after a takeover", second)] {
        println!("{place}: {} held, {} not to be tried", with(&said, "HELD").len(), with(&said, "NA").len());
        escaped.extend(with(&said, "ESCAPED").into_iter().map(|line| format!("{place}: {line}")));
    }
    assert!(escaped.is_empty(), "{} escaped:\n{}", escaped.len(), escaped.join("\n"));
}
