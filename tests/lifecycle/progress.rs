//! What a terminal shows of operations that take their time, and a pipe does not; and `apply --wait`.

use std::{
    fs,
    io::Read,
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
};

use serde_json::{Value, json};

use crate::support::{
    LONG, World, wait_until,
    world::{PROBE, describe},
};

const NONE: &str = "network.mode = \"none\"\n";

/// A service that is ready when it is told to be.
fn write_slow(world: &World, name: &str, keys: &str) {
    let keys = format!("service.ready = 'file:/tmp/ready'\n{keys}\n{NONE}");
    world.write_service(name, &world.probe_toml(&["wait"], &keys));
}

fn make_ready(world: &World, name: &str) {
    world.ok(&["exec", name, "--", PROBE, "__probe", "write", "/tmp/ready"]);
}

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    hear: mpsc::Receiver<Vec<u8>>,
    said: String,
}

impl OnTerminal {
    fn start(mut command: Command, columns: u16) -> Self {
        let size = nix::pty::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&size), None).expect("a terminal");
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("dup"));
        command.stdout(slave(&pty.slave)).stderr(slave(&pty.slave));
        let child = command.spawn().expect("the program under test starts");
        // Its copies of the other end go with it.
        drop((command, pty.slave));
        let (say, hear) = mpsc::channel();
        let mut master = fs::File::from(pty.master);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO when the last one has closed the other end.
            while let Ok(read @ 1..) = master.read(&mut bytes) {
                if say.send(bytes[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, hear, said: String::new() }
    }

    /// Waits until it has shown this.
    fn until(&mut self, what: &str) {
        wait_until(&format!("the terminal shows {what:?}"), LONG, || {
            self.hear.try_iter().for_each(|bytes| self.said += &String::from_utf8_lossy(&bytes));
            self.said.contains(what)
        });
    }

    /// All that it has shown, and how it ended.
    fn end(mut self) -> (String, ExitStatus) {
        let status = self.child.wait().expect("our child");
        self.hear.iter().for_each(|bytes| self.said += &String::from_utf8_lossy(&bytes));
        (self.said, status)
    }
}

/// What is left on the screen, and each line that was written over; of ECMA-48, as much as is used.
fn screen(said: &str) -> (Vec<String>, Vec<String>) {
    let (mut lines, mut over) = (vec![String::new()], Vec::new());
    let mut rest = said;
    let mut at = 0;
    while let Some(c) = rest.chars().next() {
        let line = lines.last_mut().expect("never empty");
        if let Some(after) = rest.strip_prefix("\u{1b}[K") {
            *line = line.chars().take(at).collect();
            rest = after;
            continue;
        }
        match c {
            '\r' => {
                over.push(line.clone());
                at = 0;
            }
            '\n' => {
                lines.push(String::new());
                at = 0;
            }
            c => {
                let mut cells: Vec<char> = line.chars().collect();
                cells.resize(cells.len().max(at + 1), ' ');
                cells[at] = c;
                *line = cells.into_iter().collect();
                at += 1;
            }
        }
        rest = &rest[c.len_utf8()..];
    }
    (lines, over)
}

/// A verb on a terminal of that kind, and so wide.
fn on_terminal(world: &World, args: &[&str], term: &str, columns: u16) -> OnTerminal {
    let mut command = world.command(args);
    command.env("TERM", term);
    OnTerminal::start(command, columns)
}

pub fn a_terminal_shows_who_is_waited_for_and_a_pipe_nothing(world: &mut World) {
    let quick: Vec<String> = (0..9).map(|n| format!("quick{n}")).collect();
    for name in &quick {
        let keys = format!("unit.enabled = false\n{NONE}");
        world.write_service(name, &world.probe_toml(&["wait"], &keys));
    }
    write_slow(world, "slow", "unit.enabled = false");
    world.start();
    let args = ["start", "slow", "quick*"];
    let mut piped = world.command(&args);
    let piped = piped.env("TERM", "xterm").stdout(Stdio::piped()).stderr(Stdio::piped());
    let piped = piped.spawn().expect("the program under test starts");
    let dumb = on_terminal(world, &args, "dumb", 100);
    let json = on_terminal(world, &["start", "slow", "quick*", "--json"], "xterm", 100);
    let mut narrow = on_terminal(world, &args, "xterm", 30);
    let mut wide = on_terminal(world, &args, "xterm", 100);
    // The last ones to be started have begun to show it: the others would have had the time.
    wide.until("starting: 9 of 10 done, waits for slow");
    narrow.until("starting: 9 of 10 done, wait…");
    make_ready(world, "slow");

    let piped = piped.wait_with_output().expect("our child");
    assert_eq!((piped.status.code(), piped.stderr.as_slice()), (Some(0), b"".as_slice()));
    let all = || quick.iter().map(String::as_str).chain(["slow"]);
    let answer = String::from_utf8(piped.stdout).expect("UTF-8");
    let names: Vec<&str> = answer.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert_eq!(names, all().collect::<Vec<_>>(), "{answer}");
    assert!(!answer.contains(['\r', '\u{1b}']), "{answer:?}");
    for (shown, columns) in [(wide, 100), (narrow, 30)] {
        let (said, status) = shown.end();
        assert_eq!(status.code(), Some(0));
        let (lines, over) = screen(&said);
        let (last, lines) = lines.split_last().expect("never empty");
        let left: Vec<&str> = lines.iter().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!((left, last.as_str()), (all().collect(), ""), "nothing of it is left: {said:?}");
        let widths: Vec<usize> = over
            .iter()
            .filter(|line| line.starts_with("starting: "))
            .map(|line| line.chars().count())
            .collect();
        assert!(!widths.is_empty() && widths.iter().all(|width| *width < columns), "{said:?}");
    }
    let (said, _) = dumb.end();
    assert!(!said.contains("waits for") && !said.contains('\u{1b}'), "{said:?}");
    let (said, _) = json.end();
    let parsed: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(parsed["changes"].as_array().map(Vec::len), Some(10));
}

/// Runs `apply --wait` in the background.
fn apply(world: &World, args: &[&str]) -> Child {
    let mut command = world.command(&[&["apply", "--wait"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program under test starts")
}

pub fn who_applies_may_wait_for_what_comes_of_it(world: &mut World) {
    write_slow(world, "slow", "unit.enabled = false");
    world.write_service("plain", &world.probe_toml(&["wait"], NONE));
    world.write_service(
        "gone",
        &world.probe_toml(
            &["ignore-term"],
            "service.stop.timeout = \"1s\"\n\
        network.mode = \"none\"",
        ),
    );
    world.start();
    world.wait_state("plain", "active");
    world.wait_state("gone", "active");
    // Nothing changes: nothing is waited for.
    assert_eq!(world.ok(&["apply", "--wait"]), "");

    write_slow(world, "slow", "");
    fs::remove_file(world.services_dir().join("gone.toml")).expect("our own file");
    let mut applied = apply(world, &[]);
    wait_until("it is on its way, and what goes is gone", LONG, || {
        world.state("slow") == "starting" && world.palisade(&["status", "gone"]).status.code() == Some(4)
    });
    assert!(matches!(applied.try_wait(), Ok(None)), "one of them is not there yet");
    make_ready(world, "slow");
    let applied = applied.wait_with_output().expect("our child");
    assert_eq!(applied.status.code(), Some(0), "{}", describe(&applied));
    assert_eq!(applied.stderr, b"", "in a pipe there is nothing but the answer");
    assert_eq!(
        String::from_utf8_lossy(&applied.stdout),
        "gone: stops\nslow: starts (unit.enabled changed)\n"
    );
    assert_eq!(world.state("slow"), "active", "at once");

    // On a terminal it is shown, and nothing is left of it.
    write_slow(world, "slow", "service.nice = 1");
    let run = world.run_id("slow");
    let mut shown = on_terminal(world, &["apply", "--wait", "5min"], "xterm", 80);
    shown.until("applying: 0 of 1 done, waits for slow");
    // The one before has been ready for long.
    wait_until("its next run has begun", LONG, || world.run_id("slow") > run);
    make_ready(world, "slow");
    let (said, status) = shown.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(screen(&said).0, ["slow: restarts (service.nice changed)", ""]);

    // One that is not ready in time.
    write_slow(world, "slow", "service.nice = 2");
    let late = world.palisade(&["apply", "--wait", "3s"]);
    let text = String::from_utf8_lossy(&late.stderr).into_owned();
    assert_eq!(late.status.code(), Some(1), "{}", describe(&late));
    assert!(text.starts_with("palisade: slow: still starting after 3s"), "{text}");
    assert_eq!(world.palisade(&["apply", "--wait=0s"]).status.code(), Some(2));
    make_ready(world, "slow");
    world.wait_state("slow", "active");
}

pub fn what_fails_after_an_apply_is_named_to_who_waits(world: &mut World) {
    world.write_service("well", &world.probe_toml(&["wait"], NONE));
    world.write_service("ill", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("ill", "active");
    world.wait_state("well", "active");
    // Taken back, and what was before is up again when the answer comes.
    let pid = world.pid("ill");
    let keys = format!("service.ready = 'file:/tmp/ready'\nrestart.policy = \"never\"\n{NONE}");
    world.write_service("ill", &world.probe_toml(&["exit", "3"], &keys));
    let applied = world.palisade(&["apply", "--wait", "--confirm", "5min"]);
    let text = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert_eq!(applied.status.code(), Some(1), "{}", describe(&applied));
    assert_eq!(text, "palisade: ill: what was applied for a trial was taken back\n");
    assert_eq!(world.state("ill"), "active");
    assert_ne!(world.pid("ill"), pid);

    world.write_service("well", &world.probe_toml(&["wait", "two"], NONE));
    let applied = world.palisade(&["apply", "--wait", "--json"]);
    assert_eq!(applied.status.code(), Some(1), "{}", describe(&applied));
    let answer: Value = serde_json::from_slice(&applied.stdout).expect("JSON");
    let settled = answer["settled"].as_array().expect("a list");
    let said: Vec<(&Value, &Value)> = settled.iter().map(|change| (&change["name"], &change["ok"])).collect();
    assert_eq!(said, [(&json!("ill"), &json!(false)), (&json!("well"), &json!(true))], "{answer}");
    assert_eq!(answer["changes"].as_array().map(Vec::len), Some(2));

    write_slow(world, "well", "");
    let mut applied = apply(world, &[]);
    wait_until("it is on its way", LONG, || world.state("well") == "starting");
    assert!(matches!(applied.try_wait(), Ok(None)), "it waits");
    world.write_service("well", "service.command = 3\n");
    make_ready(world, "well");
    assert_eq!(applied.wait().expect("our child").code(), Some(0));
    // A file with mistakes is one, however long one waits.
    assert_eq!(world.palisade(&["apply", "--wait"]).status.code(), Some(1));
}
