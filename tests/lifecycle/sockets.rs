//! Sockets that Palisade listens on for a service: handed over, held while it is away, and answered on demand.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::{
    LONG, World, count, wait_for, wait_until,
    world::{describe, http_get, raw, wait_http},
};

const ADDRESS: &str = "127.0.0.1:8091";

/// A service on a held socket, in an empty network of its own.
fn held(world: &World, program: &str, keys: &str, socket: &str) -> String {
    let keys = format!(
        "network.mode = \"none\"\nrestart.policy = \"always\"\nrestart.delay = \"50ms\"\n{keys}\n\
         [[socket]]\nlisten = {ADDRESS:?}\n{socket}"
    );
    world.probe_toml(&[program], &keys)
}

fn given(address: &str) -> Value {
    serde_json::from_str(&wait_http(address, "/given")).expect("the probe answers JSON")
}

pub fn the_protocol_is_kept_to(world: &mut World) {
    let path = world.dir().join("made/for/web.sock");
    let more = format!(
        "name = \"http\"\n[[socket]]\nlisten = {path:?}\nmode = \"0620\"\ngroup = 33\n\
         [[socket]]\nlisten = \"127.0.0.1:8092\"\ntype = \"dgram\"\nname = \"udp\"\n"
    );
    world.write_service("web", &held(world, "held", "", &more));
    world.start();
    let said = given(ADDRESS);
    assert_eq!((&said["fds"], &said["names"]), (&"3".into(), &"http:web:udp".into()), "{said}");
    assert_eq!(said["is_mine"], true, "LISTEN_PID is its own pid: {said}");
    assert_ne!(said["pid"], u64::from(world.pid("web")), "it has a pid namespace");
    let report: Value = serde_json::from_str(&wait_http(ADDRESS, "/report")).expect("JSON");
    let fds = report["fds"].as_object().expect("a table");
    for fd in ["3", "4", "5"] {
        assert!(fds[fd].as_str().is_some_and(|target| target.starts_with("socket:")), "{fds:?}");
    }
    let meta = fs::metadata(&path).expect("it listens there");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o620);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it is connected");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    udp.send_to(b"hello", "127.0.0.1:8092").expect("sent");
    udp.set_read_timeout(Some(LONG)).expect("a socket");
    let mut bytes = [0; 16];
    assert_eq!(udp.recv(&mut bytes).expect("it answers"), 5);
    assert_eq!(world.status("web")["sockets"][0], format!("{ADDRESS}/tcp"));
    // Sessions are not given what the service is.
    let env = world.ok(&["exec", "web", "--", "/probe/probe", "__probe", "report"]);
    assert!(!env.contains("LISTEN_"), "{env}");
    world.ok(&["stop", "web"]);
    assert!(!path.exists() && !world.dir().join("made").exists(), "nothing is left");
    assert!(TcpStream::connect(ADDRESS).is_err(), "nobody listens");
}

/// Asks again and again over connections of their own, from several threads. Returns what failed.
struct Crowd {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Crowd {
    fn gather(address: &'static str) -> Self {
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    if let Err(error) = http_get(address, "/") {
                        failures.push(error);
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                failures
            })
        };
        let threads = (0..4).map(|_| ask()).collect();
        Self { over, asked, threads }
    }

    fn wait_for_more(&self, more: u32) {
        let before = self.asked.load(Ordering::Relaxed);
        wait_until("requests", LONG, || self.asked.load(Ordering::Relaxed) > before + more);
    }

    fn end(self) -> (u32, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        (self.asked.load(Ordering::Relaxed), failures)
    }
}

pub fn no_connection_is_refused_while_a_service_restarts(world: &mut World) {
    world.write_service("web", &held(world, "held", "", ""));
    world.start();
    wait_http(ADDRESS, "/");
    let crowd = Crowd::gather(ADDRESS);
    for _ in 0..5 {
        crowd.wait_for_more(50);
        world.ok(&["restart", "web"]);
    }
    for _ in 0..3 {
        crowd.wait_for_more(50);
        world.kill_supervisor();
        crowd.wait_for_more(50);
        world.start();
    }
    let (asked, failures) = crowd.end();
    assert_eq!(failures, Vec::<String>::new(), "of {asked}");
    // Whoever is connected when it is killed is lost with it; whoever connects then is not.
    for _ in 0..5 {
        let run = world.run_id("web");
        kill(raw(world.pid("web")), Signal::SIGKILL).expect("it lives");
        let stream = TcpStream::connect(ADDRESS);
        assert!(stream.is_ok(), "{stream:?}");
        wait_until("another run", LONG, || world.run_id("web") > run && world.state("web") == "active");
    }
    // The keeper's copies are as good.
    let init = world.status("web")["init_pid"].as_u64().expect("it runs");
    world.kill_supervisor();
    kill(raw(u32::try_from(init).expect("a pid")), Signal::SIGKILL).expect("it lives");
    let stream = TcpStream::connect(ADDRESS);
    assert!(stream.is_ok(), "held by the keeper alone: {stream:?}");
    world.start();
    wait_http(ADDRESS, "/");
}

pub fn a_connection_starts_a_service(world: &mut World) {
    let toml = held(world, "held-once", "restart.policy = \"on-failure\"", "activation = \"on-demand\"\n");
    world.write_service("web", &toml.replacen("restart.policy = \"always\"\n", "", 1));
    world.start();
    world.wait_state("web", "listening");
    assert_eq!(world.run_id("web"), 0, "it has not been started");
    // Each once: a connection that is given up is another one to start it for.
    let ask = || http_get(ADDRESS, "/").expect("it is answered");
    for run in 1..=3 {
        ask();
        world.wait_state("web", "listening");
        assert_eq!(world.run_id("web"), run);
    }
    // What connects while nobody supervises is answered by and by.
    world.kill_supervisor();
    let waits = std::thread::spawn(ask);
    world.start();
    waits.join().expect("it is answered");
    // By hand as well; then stopped, nobody listens.
    world.wait_state("web", "listening");
    world.ok(&["start", "web"]);
    assert_eq!(world.state("web"), "active");
    world.ok(&["stop", "web"]);
    assert_eq!(world.state("web"), "stopped");
    assert!(TcpStream::connect(ADDRESS).is_err());
    world.ok(&["start", "web"]);
    ask();
    world.wait_state("web", "listening");
    assert!(world.stop().is_ok());
    assert!(TcpStream::connect(ADDRESS).is_err());
    world.start();
    world.wait_state("web", "listening");
}

pub fn what_takes_no_connection_is_not_started_without_end(world: &mut World) {
    let toml = |world: &World, code: &str| {
        let keys = format!(
            "network.mode = \"none\"\nrestart.policy = \"never\"\n\
             [[socket]]\nlisten = {ADDRESS:?}\nactivation = \"on-demand\"\n"
        );
        world.probe_toml(&["exit", code], &keys)
    };
    world.write_service("web", &toml(world, "0"));
    world.start();
    world.wait_state("web", "listening");
    let waits = TcpStream::connect(ADDRESS).expect("somebody listens");
    // Twenty starts within two seconds are too many. A machine on which that many take longer never comes to it, and has to
    // show that they did.
    let mut starts = BTreeMap::new();
    let gives_up = wait_for("it gives up", LONG, || {
        let status = world.status("web");
        for exit in status["exits"].as_array().expect("a list") {
            starts.insert(exit["run"].as_u64(), exit["started"]["mono"].as_u64());
        }
        let starts: Vec<u64> = starts.values().copied().flatten().collect();
        match status["state"] == "stopped" {
            true => Some(true),
            false => (starts.len() > usize::from(count(60, 30))).then(|| {
                let took: Vec<u64> = starts.windows(20).map(|twenty| twenty[19] - twenty[0]).collect();
                // By the clock of the launches, which began a moment after the calls.
                assert!(took.iter().all(|ms| *ms > 1900), "it goes on and on: {took:?}");
                false
            }),
        }
    });
    drop(waits);
    match gives_up {
        true => {
            assert!(world.run_id("web") >= 20, "not before");
            let reason = world.status("web")["reason"].to_string();
            assert!(reason.contains("too often") && reason.contains("; ended: "), "{reason}");
        }
        false => drop(world.ok(&["stop", "web"])),
    }
    assert!(TcpStream::connect(ADDRESS).is_err(), "nobody listens any more");
    // A failure is one: until somebody starts it again.
    world.write_service("web", &toml(world, "3"));
    world.ok(&["daemon-reload"]);
    let started = world.palisade(&["start", "web"]);
    wait_until("it has failed", LONG, || world.state("web") == "failed");
    assert!(TcpStream::connect(ADDRESS).is_err(), "{}", describe(&started));
}

pub fn a_socket_that_is_taken_is_named_with_who_has_it(world: &mut World) {
    let other = TcpListener::bind(ADDRESS).expect("nobody is there");
    world.write_service("web", &held(world, "held", "", ""));
    world.write_service(
        "lazy",
        &held(world, "held", "", "activation = \"on-demand\"\n").replace("8091", "8093"),
    );
    let lazy = TcpListener::bind("127.0.0.1:8093").expect("nobody is there");
    world.start();
    for (name, port) in [("web", 8091), ("lazy", 8093)] {
        let error =
            wait_for("a fault", LONG, || world.status(name)["fault"]["error"].as_str().map(str::to_owned));
        assert!(error.contains(&format!("127.0.0.1:{port}/tcp is taken by ")), "{error}");
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    }
    drop((other, lazy));
    wait_http(ADDRESS, "/");
    wait_http("127.0.0.1:8093", "/");
}

pub fn a_changed_socket_is_applied(world: &mut World) {
    let path = world.dir().join("web.sock");
    let more = format!("[[socket]]\nlisten = {path:?}\nmode = \"0600\"\n");
    world.write_service("web", &held(world, "held", "", &more));
    world.start();
    wait_http(ADDRESS, "/");
    let run = world.run_id("web");
    // The file's mode is changed where it is.
    world.write_service("web", &held(world, "held", "", &more.replace("0600", "0666")));
    world.ok(&["daemon-reload"]);
    let mode = || fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o777);
    wait_until("another mode", LONG, || mode().is_ok_and(|mode| mode == 0o666));
    assert_eq!(world.run_id("web"), run, "no restart for that");
    // Another place is another socket.
    world.write_service("web", &held(world, "held", "", "").replace("8091", "8094"));
    world.ok(&["daemon-reload"]);
    wait_http("127.0.0.1:8094", "/");
    wait_until("the old ones are gone", LONG, || TcpStream::connect(ADDRESS).is_err() && !path.exists());
    assert_eq!(given("127.0.0.1:8094")["fds"], "1");
    // In place as well.
    let keys = "restart.mode = \"in-place\"";
    world.write_service("web", &held(world, "held", keys, ""));
    world.ok(&["daemon-reload"]);
    wait_http(ADDRESS, "/");
    wait_until("it is up", LONG, || world.state("web") == "active");
    let run = world.run_id("web");
    kill(raw(world.pid("web")), Signal::SIGKILL).expect("it lives");
    wait_until("another run", LONG, || world.run_id("web") > run && world.state("web") == "active");
    assert_eq!(given(ADDRESS)["is_mine"], true);
}
