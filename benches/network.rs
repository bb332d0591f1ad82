//! What it costs to reach a service: through a published port, a held socket, its own address, and, to compare, without any
//! sandbox over loopback and through a proxy program as container engines have it.
//!
//! ```text
//! cargo bench --bench network        as root; BENCH_ROUNDS=15
//! ```
//! All ways are measured in each round, one after another; a ratio is the median of those of the rounds.
#![allow(clippy::print_stdout, reason = "it reports by printing")]
#![allow(missing_docs, unreachable_pub, reason = "a program exports nothing")]

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
#[macro_use]
mod support;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, ExitCode},
    time::{Duration, Instant},
};

use common::{Figures, rounds, table};
use rustix::event::epoll;
use serde_json::json;
use support::{World, held, wait_until, world::PROBE};

/// Bytes of a question: how many bytes the answer is to have.
const QUESTION: usize = 8;
/// Bytes of an ordinary answer.
const ANSWER: usize = 256;
/// That asks for one.
const ASKED: [u8; QUESTION] = (ANSWER as u64).to_le_bytes();
/// Connections of a client that has many.
const MANY: usize = 32;
/// How long one figure is measured.
const SPAN: Duration = Duration::from_millis(100);
/// What is measured, as people and as programs call it, and how many digits of it are worth reading.
const KINDS: [(&str, &str, usize); 4] = [
    ("requests", "requests/s, 32 connections", 0),
    ("turn_us", "us a turn, one connection", 1),
    ("connect_us", "us to connect, ask and close", 1),
    ("bulk_gbit", "Gbit/s, one connection", 1),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["__probe", "serve", at] => serve(&TcpListener::bind(at).expect("the address is free")),
        ["__probe", "serve-held"] => {
            let socket: OwnedFd = held::descriptors().pop().expect("one socket is handed over");
            serve(&TcpListener::from(socket))
        }
        ["__probe", "proxy", at, to] => proxy(at, to),
        ["__probe", "ask", kind, to] => {
            // Whoever has started this asks again where nobody answers.
            let Ok(figure) = ask(kind, to.parse().expect("an address")) else { return ExitCode::FAILURE };
            println!("{figure}");
            ExitCode::SUCCESS
        }
        _ => common::main(&all()),
    }
}

fn all() -> Vec<support::Test> {
    tests![ways: Root CgroupV2 UserNs Nft]
}

/// One way to a service.
struct Way {
    name: &'static str,
    /// Where a client asks.
    at: String,
    /// From another network namespace, which stands for another host.
    outside: bool,
}

fn ways(world: &mut World) {
    let outside = Outside::new();
    let me = std::env::current_exe().expect("own path");
    // In sessions of their own, as services are: the scheduler shares out the CPU among those.
    let run = |args: &[&str]| {
        let mut command = Command::new("setsid");
        Server(command.arg(&me).arg("__probe").args(args).spawn().expect("util-linux is installed"))
    };
    let service = |name: &str, args: &[&str], keys: &str| {
        let argv: Vec<&str> = [PROBE, "__probe"].into_iter().chain(args.iter().copied()).collect();
        let mounts = world.probe_mount();
        world.write_service(
            name,
            &format!("service.command = {argv:?}\nrootfs.mounts = [{mounts}]\n{keys}\n"),
        );
    };
    service("published", &["serve", "0.0.0.0:80"], "network.publish = [\"0.0.0.0:7002:80\"]");
    service("held", &["serve-held"], "network.mode = \"none\"\nsocket = [{ listen = \"0.0.0.0:7003\" }]");
    world.start();
    world.wait_state("published", "active");
    world.wait_state("held", "active");
    let address = world.address("published").split('/').next().unwrap_or_default().to_owned();
    let bare = run(&["serve", "0.0.0.0:7001"]);
    let proxy = run(&["proxy", "0.0.0.0:7004", &format!("{address}:80")]);
    let way = |name, at: &str, outside| Way { name, at: at.to_owned(), outside };
    let ways = [
        way("loopback, no sandbox", "127.0.0.1:7001", false),
        way("held socket, empty netns", "127.0.0.1:7003", false),
        way("the service's own address", &format!("{address}:80"), false),
        way("published, local client", "127.0.0.1:7002", false),
        way("proxy program, local client", "127.0.0.1:7004", false),
        way("outside: no sandbox", "192.0.2.1:7001", true),
        way("outside: held socket", "192.0.2.1:7003", true),
        way("outside: published", "192.0.2.1:7002", true),
        way("outside: proxy program", "192.0.2.1:7004", true),
    ];
    let asked = |way: &Way, kind: &str| {
        let mut command = if way.outside { outside.command(&me) } else { Command::new(&me) };
        let output = command.args(["__probe", "ask", kind, &way.at]).output().expect("own path");
        String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().ok()
    };
    for way in &ways {
        wait_until(way.name, Duration::from_secs(20), || asked(way, "turn_us").is_some());
    }
    let mut all: Vec<BTreeMap<&str, Figures>> = ways.iter().map(|_| BTreeMap::new()).collect();
    for _ in 0..rounds(15) {
        for (kind, ..) in KINDS {
            for (way, figures) in ways.iter().zip(&mut all) {
                let figure = asked(way, kind).unwrap_or_else(|| panic!("{} answers", way.name));
                figures.entry(kind).or_default().0.push(figure);
            }
        }
    }
    report(&ways, &all);
    drop((bare, proxy));
}

fn report(ways: &[Way], all: &[BTreeMap<&str, Figures>]) {
    let mut found = Vec::new();
    for (kind, title, digits) in KINDS {
        let mut rows = vec![[title, "median (quarters)", "of no sandbox"].map(str::to_owned).to_vec()];
        for (way, figures) in ways.iter().zip(all) {
            let bare = ways.iter().position(|other| other.outside == way.outside).expect("it is one itself");
            let ratio = figures[kind].over(&all[bare][kind]);
            rows.push(vec![way.name.to_owned(), figures[kind].text(digits), ratio.text(3)]);
            found.push(json!({ "way": way.name, "kind": kind, "figure": figures[kind].json(), "ratio": ratio.json() }));
        }
        table(&rows);
        println!();
    }
    println!("{}", json!({ "bench": "network", "found": found }));
}

/// Another host, on a link of its own.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().expect("util-linux");
        let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace");
        let path = format!("/proc/{}/ns/net", child.id());
        wait_until("it has a network of its own", Duration::from_secs(5), || {
            std::fs::read_link(&path).is_ok_and(|there| there != own)
        });
        let outside = Self(child);
        let pid = outside.0.id();
        let made = Command::new("sh")
            .args([
                "-ec",
                &format!(
                    "ip link add up0 type veth peer name eth0 netns {pid}; ip addr add 192.0.2.1/24 dev up0
                 ip link set up0 up; n='nsenter --net=/proc/{pid}/ns/net ip'
                 $n link set lo up; $n addr add 192.0.2.2/24 dev eth0; $n link set eth0 up"
                ),
            ])
            .status();
        assert!(made.expect("sh").success(), "the link is made");
        outside
    }

    /// What runs `program` there.
    fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A server without a sandbox.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A connection of the server, and what it is about to say.
struct Served {
    stream: TcpStream,
    question: Vec<u8>,
    left: u64,
}

/// Answers questions in one thread: as many bytes as each of them says.
fn serve(listener: &TcpListener) -> ! {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    listener.set_nonblocking(true).expect("a socket");
    watch(&poll, listener, 0, epoll::EventFlags::IN);
    let mut all: BTreeMap<u64, Served> = BTreeMap::new();
    let (mut next, mut events) = (1, Vec::with_capacity(64));
    loop {
        events.clear();
        if epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).is_err() {
            continue;
        }
        for event in &events {
            let (number, woken) = (event.data.u64(), event.flags);
            if number == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).expect("a socket");
                    watch(&poll, &stream, next, epoll::EventFlags::IN);
                    all.insert(next, Served { stream, question: Vec::new(), left: 0 });
                    next += 1;
                }
                continue;
            }
            let Some(served) = all.get_mut(&number) else { continue };
            match go_on(served) {
                Ok(flags) if woken.contains(flags) => {}
                Ok(flags) => {
                    let data = epoll::EventData::new_u64(number);
                    epoll::modify(&poll, &served.stream, data, flags).expect("it is watched");
                }
                Err(_) => drop(all.remove(&number)),
            }
        }
    }
}

fn watch(poll: &OwnedFd, fd: &impl AsFd, number: u64, flags: epoll::EventFlags) {
    epoll::add(poll, fd, epoll::EventData::new_u64(number), flags).expect("it is a socket");
}

/// Reads what there is and answers as far as there is room; what to wait for next.
fn go_on(served: &mut Served) -> std::io::Result<epoll::EventFlags> {
    static ZEROS: [u8; 65536] = [0; 65536];
    loop {
        if served.left == 0 {
            let mut bytes = [0; QUESTION];
            match served.stream.read(&mut bytes[..QUESTION - served.question.len()]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => served.question.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(epoll::EventFlags::IN),
                Err(error) => return Err(error),
            }
            if let Ok(question) = <[u8; QUESTION]>::try_from(&served.question[..]) {
                served.left = u64::from_le_bytes(question);
                served.question.clear();
            }
            continue;
        }
        let size = usize::try_from(served.left).unwrap_or(usize::MAX).min(ZEROS.len());
        match served.stream.write(&ZEROS[..size]) {
            Ok(written) => served.left -= written as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(epoll::EventFlags::OUT),
            Err(error) => return Err(error),
        }
    }
}

/// What container engines put before a published port: a program that copies, here with two threads for a connection.
fn proxy(at: &str, to: &str) -> ! {
    let listener = TcpListener::bind(at).expect("the address is free");
    loop {
        let Ok((client, _)) = listener.accept() else { continue };
        let Ok(server) = TcpStream::connect(to) else { continue };
        client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).expect("a socket");
        let copy = |from: &TcpStream, to: &TcpStream| {
            let (mut from, mut to) = (from.try_clone().expect("dup"), to.try_clone().expect("dup"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
                let _ = from.shutdown(std::net::Shutdown::Both);
            });
        };
        copy(&client, &server);
        copy(&server, &client);
    }
}

/// One figure of one way.
fn ask(kind: &str, to: SocketAddr) -> std::io::Result<f64> {
    match kind {
        "requests" => turns(to, MANY),
        "turn_us" => Ok(1e6 / turns(to, 1)?),
        "connect_us" => connects(to),
        _ => bulk(to),
    }
}

fn connected(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Questions and answers a second, over so many connections at a time.
fn turns(to: SocketAddr, count: usize) -> std::io::Result<f64> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let each = (0..count).map(|_| Ok((connected(to)?, ANSWER)));
    let mut streams = each.collect::<std::io::Result<Vec<(TcpStream, usize)>>>()?;
    for (number, (stream, _)) in streams.iter_mut().enumerate() {
        stream.write_all(&ASKED)?;
        stream.set_nonblocking(true)?;
        watch(&poll, stream, number as u64, epoll::EventFlags::IN);
    }
    let (start, mut answered, mut events) = (Instant::now(), 0_u32, Vec::with_capacity(64));
    while start.elapsed() < SPAN {
        events.clear();
        if epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).is_err() {
            continue;
        }
        for event in &events {
            let number = usize::try_from(event.data.u64()).expect("a number of ours");
            let (stream, left) = &mut streams[number];
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => *left -= read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if *left == 0 {
                answered += 1;
                *left = ANSWER;
                stream.write_all(&ASKED)?;
            }
        }
    }
    Ok(f64::from(answered) / start.elapsed().as_secs_f64())
}

/// Microseconds for a connection of one question: the median.
fn connects(to: SocketAddr) -> std::io::Result<f64> {
    let (start, mut each) = (Instant::now(), Figures::default());
    while start.elapsed() < SPAN {
        let begun = Instant::now();
        let mut stream = connected(to)?;
        stream.write_all(&ASKED)?;
        stream.read_exact(&mut [0; ANSWER])?;
        // Nothing waits for late packets: there would be no port left after a minute of this.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        drop(stream);
        each.0.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(each.median())
}

/// Gigabits a second of one long answer.
fn bulk(to: SocketAddr) -> std::io::Result<f64> {
    let mut stream = connected(to)?;
    stream.write_all(&(1_u64 << 50).to_le_bytes())?;
    let (start, mut bytes, mut received) = (Instant::now(), vec![0; 256 << 10], 0_u64);
    while start.elapsed() < SPAN {
        received += stream.read(&mut bytes)? as u64;
    }
    let bits = 8.0 * received as f64;
    Ok(bits / start.elapsed().as_secs_f64() / 1e9)
}
