//! `socket.accept`: a run for each connection.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
};

use serde_json::Value;

use crate::support::{LONG, World, scaled, wait_for, wait_until, world::describe};

const ADDRESS: &str = "127.0.0.1:8097";

/// Tells what it was given, and then echoes lines until its client goes. `bye` has it hang up without ending.
const ECHO: &str = r#"
import json, os, socket, time
env = {name: os.environ.get(name) for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "REMOTE_ADDR", "REMOTE_PORT")}
env["is_mine"] = os.environ.get("LISTEN_PID") == str(os.getpid())
env["fds"] = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]
env["net"] = os.readlink("/proc/self/ns/net")
env["motto"] = os.environ.get("MOTTO")
conn = socket.socket(fileno=3)
lines = conn.makefile("rw")
print(json.dumps(env), file=lines, flush=True)
for line in lines:
    if line == "bye\n":
        lines.close()
        conn.close()
        time.sleep(3600)
    print(line, end="", file=lines, flush=True)
print("served", flush=True)
"#;

fn accepting(program: &str, keys: &str, socket: &str) -> String {
    format!(
        "service.command = [\"/usr/bin/python3\", \"-c\", {program:?}]\nnetwork.mode = \"none\"\n{keys}\n\
         [[socket]]\nlisten = {ADDRESS:?}\naccept = true\n{socket}\n"
    )
}

/// A client that has been told what its run was given.
struct Client {
    stream: BufReader<TcpStream>,
    told: Value,
}

impl Client {
    fn connect() -> Self {
        let stream = TcpStream::connect(ADDRESS).expect("somebody listens");
        stream.set_read_timeout(Some(scaled(LONG))).expect("a socket");
        let mut stream = BufReader::new(stream);
        let told = line(&mut stream);
        let told = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error} in {told:?}"));
        Self { stream, told }
    }

    /// The name of its run.
    fn name(&self, number: u64) -> String {
        let from = self.stream.get_ref().local_addr().expect("it is connected");
        format!("echo@{number}-{from}")
    }

    fn says(&mut self, text: &str) {
        writeln!(self.stream.get_ref(), "{text}").expect("it is connected");
        assert_eq!(line(&mut self.stream), format!("{text}\n"));
    }

    /// The other side has hung up.
    fn is_left(&mut self) -> bool {
        let mut rest = Vec::new();
        // Reset, where something was left unread.
        self.stream.read_to_end(&mut rest).is_err() || rest.is_empty()
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("it answers");
    line
}

/// The names of the runs for connections.
fn connections(world: &World) -> Vec<String> {
    let list = world.json(&["list"]);
    let names = list["services"].as_array().expect("a list").iter();
    names.filter_map(|s| s["name"].as_str()).filter(|name| name.contains('@')).map(str::to_owned).collect()
}

/// How many have connected and are not accepted yet: what /proc/net/tcp has as the receive queue of a socket that listens.
fn waiting() -> usize {
    let all = fs::read_to_string("/proc/net/tcp").expect("the kernel has TCP");
    let listens =
        |line: &&str| line.split_whitespace().skip(1).take(3).eq(["0100007F:1FA1", "00000000:0000", "0A"]);
    let line = all.lines().find(listens).unwrap_or_else(|| panic!("nobody listens: {all}"));
    let queued =
        line.split_whitespace().nth(4).and_then(|queues| queues.split(':').nth(1)).expect("its queues");
    usize::from_str_radix(queued, 16).expect("proc(5)")
}

fn wait_for_none(world: &World) {
    wait_until("no connection is left", LONG, || connections(world).is_empty());
}

pub fn each_connection_gets_a_run_of_its_own(world: &mut World) {
    world.write_service("echo", &accepting(ECHO, "", ""));
    world.start();
    world.wait_state("echo", "listening");
    let (mut one, mut two) = (Client::connect(), Client::connect());
    for client in [&one, &two] {
        let port = client.stream.get_ref().local_addr().expect("it is connected").port();
        assert_eq!(client.told["REMOTE_PORT"], port.to_string());
        assert_eq!(client.told["REMOTE_ADDR"], "127.0.0.1");
        assert_eq!(
            (&client.told["LISTEN_FDS"], &client.told["LISTEN_FDNAMES"]),
            (&"1".into(), &"connection".into())
        );
        assert_eq!(
            (&client.told["is_mine"], &client.told["fds"]),
            (&true.into(), &serde_json::json!([0, 1, 2, 3]))
        );
    }
    one.says("hello");
    two.says("there");
    let (first, second) = (one.name(1), two.name(2));
    assert_eq!(connections(world), [first.clone(), second.clone()]);
    assert_eq!((world.state(&first), world.state("echo")), ("active".into(), "listening".into()));
    assert_ne!(world.pid(&first), world.pid(&second));
    let group = |name: &str| world.status(name)["cgroup"].as_str().map(str::to_owned);
    assert_ne!(group(&first), group(&second), "each has its own");
    let inside = world.ok(&[
        "exec",
        &second,
        "--",
        "/usr/bin/python3",
        "-c",
        "import os; print(os.listdir('/proc/1'))",
    ]);
    assert!(inside.contains("status"), "{inside}");
    // It is told to go as any service is, and nothing starts it again.
    world.ok(&["stop", &first]);
    assert!(one.is_left());
    assert_eq!(connections(world), std::slice::from_ref(&second));
    two.says("still here");
    drop(two);
    wait_for_none(world);
    let exits = world.status("echo")["exits"].clone();
    let runs: Vec<_> = exits.as_array().expect("a list").iter().map(|exit| exit["run"].as_u64()).collect();
    assert_eq!(runs, [Some(1), Some(2)], "{exits}");
    assert_eq!(exits[1]["code"], 0, "{exits}");
    assert!(world.logs("echo").contains("served"));
    assert_eq!(
        world.palisade(&["status", &second]).status.code(),
        Some(4),
        "nothing is known of it any more"
    );
    assert_eq!(world.run_id("echo"), 2);
    // Who hangs up is gone for the client, though its run goes on: nobody else holds the connection.
    let mut bye = Client::connect();
    writeln!(bye.stream.get_ref(), "bye").expect("it is connected");
    assert!(bye.is_left());
    assert_eq!(world.state(&bye.name(3)), "active");
    world.ok(&["stop", "echo"]);
    assert_eq!(connections(world), Vec::<String>::new(), "they go with their service");
    assert!(TcpStream::connect(ADDRESS).is_err(), "nobody listens");
    world.ok(&["start", "echo"]);
    assert_eq!(world.state("echo"), "listening");
    Client::connect().says("again");
}

pub fn connections_share_the_network_of_their_service(world: &mut World) {
    world.write_service("echo", &accepting(ECHO, "", "").replace("network.mode = \"none\"\n", ""));
    world.start();
    world.wait_state("echo", "listening");
    let (mut one, two) = (Client::connect(), Client::connect());
    assert_eq!(one.told["net"], two.told["net"]);
    let address = world.address(&one.name(1));
    assert_eq!((&address, &address), (&world.address(&two.name(2)), &world.address("echo")));
    // It stays between two of them, and while nobody supervises.
    drop(two);
    world.kill_supervisor();
    world.start();
    one.says("adopted");
    let net = one.told["net"].clone();
    let three = Client::connect();
    assert_eq!((&three.told["net"], world.address(&three.name(3))), (&net, address.clone()));
    drop((one, three));
    wait_for_none(world);
    assert_eq!(world.address("echo"), address);
    world.ok(&["stop", "echo"]);
    assert_eq!(world.status("echo")["addresses"], serde_json::json!([]), "nothing is kept");
}

pub fn a_program_of_inetd_reads_and_writes(world: &mut World) {
    let path = world.dir().join("cat.sock");
    let text = |command: &str, keys: &str| {
        format!(
            "service.command = {command}\nservice.stdin = \"socket\"\nnetwork.mode = \"none\"\n{keys}\n\
             [[socket]]\nlisten = {ADDRESS:?}\naccept = true\n[[socket]]\nlisten = {path:?}\naccept = true\n"
        )
    };
    let command = r#"["/bin/sh", "-c", "echo said >&2; exec cat"]"#;
    world.write_service("cat", &text(command, ""));
    world.start();
    world.wait_state("cat", "listening");
    let round = |stream: &mut dyn Both, bytes: &[u8]| {
        stream.write_all(bytes).expect("it is connected");
        stream.done();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("all of it, and the end");
        assert_eq!(back.len(), bytes.len());
    };
    round(&mut TcpStream::connect(ADDRESS).expect("somebody listens"), b"hello\n");
    let mut unix = UnixStream::connect(&path).expect("somebody listens");
    wait_until("it is listed", LONG, || connections(world).iter().any(|name| name == "cat@2-uid:0"));
    round(&mut unix, b"over a path\n");
    wait_for_none(world);
    wait_until("standard error is logged", LONG, || world.logs("cat").matches("said").count() == 2);
    // Commands that go before the program do not get the connection, and it does.
    world.write_service("cat", &text(command, r#"service.pre_start = [["/bin/sh", "-c", "echo before"]]"#));
    world.ok(&["daemon-reload"]);
    round(&mut TcpStream::connect(ADDRESS).expect("somebody listens"), b"hello again\n");
    wait_for_none(world);
    assert!(world.logs("cat").contains("before"));
}

trait Both: Read + Write {
    fn done(&self);
}

impl Both for TcpStream {
    fn done(&self) {
        self.shutdown(Shutdown::Write).expect("it is connected");
    }
}

impl Both for UnixStream {
    fn done(&self) {
        self.shutdown(Shutdown::Write).expect("it is connected");
    }
}

pub fn connections_beyond_their_number_are_turned_away(world: &mut World) {
    world.write_service("echo", &accepting(ECHO, "", "max_connections = 2\n"));
    world.start();
    world.wait_state("echo", "listening");
    let (one, mut two) = (Client::connect(), Client::connect());
    let away = |stream: TcpStream| {
        let (mut stream, mut byte) = (stream, [0]);
        stream.set_read_timeout(Some(scaled(LONG))).expect("a socket");
        matches!(stream.read(&mut byte), Ok(0))
    };
    for _ in 0..3 {
        assert!(away(TcpStream::connect(ADDRESS).expect("the kernel takes it")), "hung up on");
    }
    assert_eq!(connections(world).len(), 2);
    assert_eq!(world.supervisor_log().matches("more are turned away").count(), 1);
    drop(one);
    wait_until("there is a place", LONG, || connections(world).len() == 1);
    Client::connect().says("at last");
    two.says("nothing has changed");
    // Masses that come and go: what is looked at is bounded, and everybody else is served.
    let run = world.run_id("echo");
    let crowd: Vec<TcpStream> = (0..600).filter_map(|_| TcpStream::connect(ADDRESS).ok()).collect();
    assert!(connections(world).len() <= 2);
    two.says("in the crowd");
    drop(crowd);
    wait_until("it is over", LONG, || connections(world).len() <= 1);
    two.says("still here");
    drop(two);
    // Whoever has gone again is let in or turned away in turn.
    wait_until("nobody is left who stood before", 2 * LONG, || waiting() == 0);
    wait_for_none(world);
    wait_until("somebody is let in", LONG, || {
        let stream = TcpStream::connect(ADDRESS).expect("somebody listens");
        stream.set_read_timeout(Some(scaled(LONG))).expect("a socket");
        !line(&mut BufReader::new(stream)).is_empty()
    });
    assert!(world.run_id("echo") > run);
}

pub fn connections_live_through_the_death_of_the_supervisor(world: &mut World) {
    world.write_service("echo", &accepting(ECHO, "", ""));
    world.start();
    world.wait_state("echo", "listening");
    let (mut one, mut two) = (Client::connect(), Client::connect());
    let pid = world.pid(&one.name(1));
    world.kill_supervisor();
    one.says("nobody supervises");
    drop(two);
    // Who connects now waits.
    let late = std::thread::spawn(Client::connect);
    world.start();
    let mut late = late.join().expect("it is answered");
    late.says("late");
    one.says("adopted");
    assert_eq!(world.pid(&one.name(1)), pid, "the same");
    wait_until("what has ended is gone", LONG, || connections(world) == [one.name(1), late.name(3)]);
    let exits = world.status("echo")["exits"].clone();
    assert!(exits.as_array().is_some_and(|exits| exits.iter().any(|exit| exit["run"] == 2)), "{exits}");
    // Other files are for those who come after.
    world.write_service("echo", &accepting(ECHO, "service.env = { MOTTO = \"new\" }", ""));
    world.ok(&["daemon-reload"]);
    two = Client::connect();
    assert_eq!(two.told["MOTTO".to_lowercase()], "new");
    one.says("the old one");
    // Gone with the file.
    std::fs::remove_file(world.services_dir().join("echo.toml")).expect("it is there");
    world.ok(&["daemon-reload"]);
    assert!(one.is_left() && two.is_left() && late.is_left());
    wait_until("nothing is left", LONG, || {
        world.json(&["list"])["services"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(TcpStream::connect(ADDRESS).is_err());
}

pub fn a_service_may_begin_and_cease_to_accept(world: &mut World) {
    // A program that cannot be executed ends each connection, and it is told why.
    world.write_service("echo", &accepting(ECHO, "", "").replace("/usr/bin/python3", "/usr/bin/nothing"));
    let other = TcpListener::bind(ADDRESS).expect("nobody is there");
    world.start();
    world.wait_state("echo", "backoff");
    let started = world.palisade(&["start", "echo"]);
    assert_eq!(started.status.code(), Some(1), "{}", describe(&started));
    assert!(describe(&started).contains("is taken by"), "{}", describe(&started));
    drop(other);
    world.wait_state("echo", "listening");
    let mut stream = TcpStream::connect(ADDRESS).expect("somebody listens");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let error =
        wait_for("a fault", LONG, || world.status("echo")["fault"]["error"].as_str().map(str::to_owned));
    assert!(error.contains("execve"), "{error}");
    assert_eq!((world.state("echo"), connections(world)), ("listening".into(), Vec::new()));
    // Another service that needs it is content with its listening, and goes with it.
    world.write_service(
        "peer",
        &world.probe_toml(&["wait"], "network.mode = \"none\"\nunit.requires = [\"echo\"]"),
    );
    // From one that runs to one that listens, and back.
    let plain =
        world.probe_toml(&["held"], "network.mode = \"none\"\n[[socket]]\nlisten = \"127.0.0.1:8097\"");
    world.write_service("echo", &plain);
    world.ok(&["daemon-reload"]);
    crate::support::world::wait_http(ADDRESS, "/");
    world.wait_state("peer", "active");
    world.write_service("echo", &accepting(ECHO, "", ""));
    world.ok(&["daemon-reload"]);
    world.wait_state("echo", "listening");
    let mut client = Client::connect();
    client.says("hello");
    world.wait_state("peer", "active");
    world.ok(&["stop", "echo"]);
    assert!(client.is_left());
    wait_until("it goes with it", LONG, || world.state("peer") == "stopped");
    // What somebody has stopped stays so, whoever supervises.
    world.kill_supervisor();
    world.start();
    assert_eq!(world.state("echo"), "stopped");
    assert!(TcpStream::connect(ADDRESS).is_err());
    world.write_service("echo", &plain);
    world.ok(&["daemon-reload"]);
    world.ok(&["start", "echo"]);
    crate::support::world::wait_http(ADDRESS, "/");
    assert_eq!(world.state("echo"), "active");
}

pub fn a_supervisor_killed_while_it_hands_over_a_connection_loses_no_other(world: &mut World) {
    world.write_service("echo", &accepting(ECHO, "", ""));
    world.start();
    world.wait_state("echo", "listening");
    let mut old = Client::connect();
    let kept = old.name(1);
    let says = ["", "starting", "active", "ended", "stopped"];
    for round in 0..20 {
        let log = world.supervisor_log().len();
        // It is answered, or it ends with the supervisor that had taken it.
        let stream = TcpStream::connect(ADDRESS).expect("somebody listens, always");
        stream.set_read_timeout(Some(scaled(LONG))).expect("a socket");
        let mut client = BufReader::new(stream);
        let word = says[round % says.len()];
        let is_late = ["ended", "stopped"].contains(&word);
        if is_late {
            assert!(!line(&mut client).is_empty());
            client.get_ref().shutdown(Shutdown::Write).expect("it is connected");
        }
        wait_until("the moment has come", LONG, || world.supervisor_log()[log..].contains(word));
        world.kill_supervisor();
        old.says("nobody supervises");
        world.start();
        if !is_late {
            let mut text = String::new();
            let _ = client.read_line(&mut text);
        }
        drop(client);
        wait_until("what is over is gone", LONG, || connections(world) == std::slice::from_ref(&kept));
        assert_eq!(world.state("echo"), "listening", "round {round}");
    }
    Client::connect().says("and on");
    old.says("still here");
    world.ok(&["stop", "echo"]);
    assert!(old.is_left() && connections(world).is_empty());
}
