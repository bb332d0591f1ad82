//! Blue-green restarts: the next run beside the one that it replaces, on the same held socket.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use nix::sys::signal::{Signal, kill};

use crate::support::{
    LONG, World, count, span, wait_until,
    world::{describe, http_get, pids, raw, wait_http},
};

const ADDRESS: &str = "127.0.0.1:8095";

fn blue_green(world: &World, program: &[&str], keys: &str) -> String {
    let keys = format!(
        "network.mode = \"none\"\nservice.rollout = \"blue-green\"\n{keys}\n[[socket]]\nlisten = {ADDRESS:?}\n"
    );
    world.probe_toml(program, &keys)
}

/// The runs that serve: their main processes, as this world sees them.
fn serving() -> Vec<i32> {
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(6).any(|part| part == b"\0held\0")
    };
    pids().into_iter().filter(is_one).collect()
}

/// The service has one run and nothing is under way.
fn wait_for_one(world: &World, name: &str) {
    wait_until("one run, and settled", LONG, || {
        let status = world.status(name);
        serving().len() == 1 && status["state"] == "active" && status["reason"] == ""
    });
}

/// The number in front of `what` in the report of wrk.
fn number_before(text: &str, what: &str) -> u64 {
    let before = text.split(what).next().unwrap_or_default();
    before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
}

pub fn a_rollout_under_load_loses_no_request(world: &mut World) {
    world.write_service("web", &blue_green(world, &["held"], ""));
    world.start();
    wait_http(ADDRESS, "/");
    let mut requests = 0;
    while requests < u64::from(count(50_000, 5_000)) {
        let url = format!("http://{ADDRESS}/");
        let mut load = Command::new("wrk")
            .args(["-t", "2", "-c", "16", "-d", "6s", "--timeout", "10s", &url])
            .stdout(Stdio::piped())
            .spawn()
            .expect("declared as a need");
        while load.try_wait().expect("it is our child").is_none() {
            let run = world.run_id("web");
            let said = world.ok(&["restart", "web"]);
            assert!(said.contains("restarted"), "{said}");
            assert_eq!(world.run_id("web"), run + 1);
        }
        let output = load.wait_with_output().expect("it ends by itself");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !text.contains("Socket errors"), "{text}");
        assert!(!text.contains("Non-2xx"), "{text}");
        requests += number_before(&text, " requests in ");
    }
    wait_for_one(world, "web");
}

pub fn the_old_run_drains(world: &mut World) {
    world.write_service(
        "web",
        &blue_green(world, &["held"], &format!("service.stop.timeout = \"{}\"", span(LONG))),
    );
    world.start();
    let old = wait_http(ADDRESS, "/");
    let mut slow = TcpStream::connect(ADDRESS).expect("somebody listens");
    // An answer on this very connection: it is the old run that has accepted it.
    slow.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("it is connected");
    let mut answer = String::new();
    let mut lines = BufReader::new(slow.try_clone().expect("a socket"));
    while !answer.ends_with("\r\n\r\n") {
        assert_ne!(lines.read_line(&mut answer).expect("it is answered"), 0, "{answer}");
    }
    lines.read_exact(&mut vec![0; old.len()]).expect("the body is the same");
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").expect("it is connected");
    // A run that is asked something finishes it, however long ago it was told to go.
    let restart = std::thread::spawn({
        let mut restart = world.command(&["restart", "web"]);
        move || restart.output().expect("the program under test starts")
    });
    answer.clear();
    lines.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.ends_with("slow"), "{answer}");
    let restarted = restart.join().expect("no panic");
    assert!(restarted.status.success(), "{}", describe(&restarted));
    wait_for_one(world, "web");
    assert_eq!(old, wait_http(ADDRESS, "/"), "the same pid, of another namespace");
    assert_eq!(world.run_id("web"), 2);
    let exits = world.status("web")["exits"].clone();
    assert_eq!((&exits[0]["run"], &exits[0]["code"]), (&1.into(), &0.into()), "{exits}");
    let log = world.logs("web");
    assert!(log.contains("drained"), "the log is that of both: {log}");
}

pub fn a_rollout_that_fails_leaves_the_old_run(world: &mut World) {
    world.write_service("web", &blue_green(world, &["held"], ""));
    world.start();
    wait_http(ADDRESS, "/");
    let (pid, run) = (world.pid("web"), world.run_id("web"));
    // Another file is a rollout as well; this one's program is not there.
    let bad =
        blue_green(world, &["held"], "").replace("/probe/probe\", \"__probe", "/probe/nothing\", \"__probe");
    world.write_service("web", &bad);
    world.ok(&["daemon-reload"]);
    let rolled_back = || world.supervisor_log().contains("rolled_back");
    wait_until("it is rolled back", LONG, rolled_back);
    wait_for_one(world, "web");
    assert_eq!(world.pid("web"), pid, "the old one goes on");
    let output = world.palisade(&["restart", "web"]);
    let said = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("not restarted, run {run} goes on")), "{said}");
    assert!(said.contains("execve"), "with the reason: {said}");
    assert_eq!(world.pid("web"), pid);
    assert!(http_get(ADDRESS, "/").is_ok());
    // With a good file again it goes through, and the number of a run is never used twice.
    world.write_service("web", &blue_green(world, &["held"], "service.nice = 1"));
    world.ok(&["daemon-reload"]);
    wait_until("another run", LONG, || world.pid("web") != pid);
    wait_for_one(world, "web");
    assert_eq!(world.run_id("web"), run + 3);
    world.ok(&["stop", "web"]);
    assert_eq!(serving(), Vec::<i32>::new());
    assert!(http_get(ADDRESS, "/").is_err());
}

pub fn a_supervisor_killed_in_a_rollout_ends_with_one_run(world: &mut World) {
    world.write_service("web", &blue_green(world, &["held"], ""));
    world.start();
    wait_http(ADDRESS, "/");
    for round in 0..12 {
        let (before, log) = (serving(), world.supervisor_log().len());
        let mut restart = world.command(&["restart", "web"]);
        let mut restart = restart.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        // Another moment of a rollout each time; once reached, each is passed for good.
        let has_said = |word: &str| world.supervisor_log()[log..].contains(word);
        let is_there = |round: u64| match round % 6 {
            0 => true,
            1 => has_said("rolls_out"),
            2 => serving().iter().any(|pid| !before.contains(pid)),
            3 => has_said("changed_places"),
            4 => before.iter().all(|pid| !serving().contains(pid)),
            _ => restart.try_wait().is_ok_and(|ended| ended.is_some()),
        };
        let mut is_there = is_there;
        wait_until("the moment has come", LONG, || is_there(round));
        world.kill_supervisor();
        restart.wait().expect("it is our child");
        assert!(http_get(ADDRESS, "/").is_ok(), "round {round}: served while nobody supervises");
        world.start();
        wait_for_one(world, "web");
        assert!(http_get(ADDRESS, "/").is_ok(), "round {round}");
    }
    let said = world.ok(&["restart", "web"]);
    assert!(said.contains("restarted"), "{said}");
    wait_for_one(world, "web");
}

/// Answers on the held socket with its version, whether it has the loopback's port 4000, and its network namespace. It is
/// ready at once, and well when it is told so (SIGUSR1) or its version begins so.
const PYTHON: &str = r#"
import http.server, os, signal, socket, threading
version = os.environ["VERSION"]
claim = socket.socket()
try:
    claim.bind(("127.0.0.1", 4000))
    port = "bound"
except OSError as error:
    port = os.strerror(error.errno)

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = " ".join([version, port.replace(" ", "_"), os.readlink("/proc/self/ns/net")]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def well(*_):
    open("/tmp/well", "w").close()

signal.signal(signal.SIGUSR1, well)
if version.startswith("well"):
    well()
server = http.server.HTTPServer(("", 0), Answer, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.socket.setblocking(False)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever(poll_interval=0.05)
"#;

fn checked(version: &str) -> String {
    format!(
        "service.command = [\"/usr/bin/python3\", \"-c\", {PYTHON:?}]\nservice.env = {{ VERSION = {version:?} }}\n\
         service.type = \"notify\"\nservice.rollout = \"blue-green\"\nnetwork.mode = \"none\"\n\
         [health]\ntest = [\"/usr/bin/test\", \"-e\", \"/tmp/well\"]\ninterval = \"100ms\"\nretries = 20\n\
         start_period = \"0s\"\n[[socket]]\nlisten = {ADDRESS:?}\n"
    )
}

/// How many of them run.
fn servers() -> usize {
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"/usr/bin/python3\0") && line.windows(10).any(|part| part == b"HTTPServer")
    };
    pids().iter().filter(|pid| is_one(pid)).count()
}

/// What is answered: the version, what came of the port, and the network namespace.
fn answered() -> [String; 3] {
    let body = http_get(ADDRESS, "/").expect("somebody serves");
    let words: Vec<String> = body.split(' ').map(str::to_owned).collect();
    words.try_into().unwrap_or_else(|words| panic!("{words:?}"))
}

pub fn only_who_is_well_takes_over(world: &mut World) {
    world.write_service("web", &checked("well-1"));
    world.start();
    wait_http(ADDRESS, "/");
    let is_healthy = |world: &World| world.status("web")["health"]["state"] == "healthy";
    wait_until("it is well", LONG, || is_healthy(world));
    let (pid, first) = (world.pid("web"), answered());
    assert_eq!((&*first[0], &*first[1]), ("well-1", "bound"));
    // The next one comes up, is ready, answers, and is never well: it is thrown away, and nobody was refused.
    world.write_service("web", &checked("ill-2"));
    world.ok(&["daemon-reload"]);
    wait_until("both run", LONG, || servers() == 2);
    // Both are on the same socket. While the old one is held up, whoever asks has the new one: in the same network, where
    // the old one keeps what it has bound.
    let old = raw(pid);
    kill(old, Signal::SIGSTOP).expect("it lives");
    let during = answered();
    kill(old, Signal::SIGCONT).expect("it lives");
    assert_eq!((&*during[0], &*during[1], &during[2]), ("ill-2", "Address_already_in_use", &first[2]));
    wait_until("it is rolled back", LONG, || {
        answered();
        world.supervisor_log().contains("rolled_back unhealthy")
    });
    wait_until("it is gone", LONG, || servers() == 1);
    for _ in 0..20 {
        assert_eq!(answered(), first);
    }
    assert_eq!(
        (world.pid("web"), world.state("web")),
        (pid, "active".into()),
        "the old one has never noticed"
    );
    assert!(is_healthy(world), "what the other one was asked is not held against it");
    let restarted = world.palisade(&["restart", "web"]);
    let said = describe(&restarted);
    assert_eq!(restarted.status.code(), Some(1), "{said}");
    assert!(said.contains("run 1 goes on: run 3: unhealthy"), "{said}");
    // One that becomes well takes over: nobody hears the old one any more.
    world.write_service("web", &checked("well-4"));
    world.ok(&["daemon-reload"]);
    wait_until("the new one alone", LONG, || {
        answered();
        world.pid("web") != pid && servers() == 1
    });
    for _ in 0..20 {
        assert_eq!(answered()[0], "well-4");
    }
    assert_eq!(answered()[2], first[2], "the network is kept");
    assert!(is_healthy(world));
}
