//! What services of the tests run: this very program, which is static and so runs on any root.
//!
//! `probe report` tells what a process finds around it, as JSON, read from the kernel's own files. The others are
//! small programs with the bad habits that real services have.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::{Command, ExitCode},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde_json::{Value, json};

use super::calls;

/// Runs the probe that `args` name.
///
/// `report` · `http PORT` · `held` · `held-once` · `echo PORT` · `udp PORT` · `ignore-term` · `tree` · `flood BYTES` · `exit CODE` ·
/// `eat BYTES` · `eat-apart BYTES` · `fork COUNT` · `spin MILLISECONDS` · `store PATH BYTES` ·
/// `signal NUMBER` · `print TEXT` · `wait` · `stop-others` · `pid1` · `connect ADDRESS:PORT` · `knock ADDRESS:PORT` · `write PATH` ·
/// `late MILLISECONDS …` · `clocked …` · `stay …` · `absent PATH` · `remove PATH` · `sick WAY AT PATH` · `mute PORT` ·
/// `ask NAME TYPE udp|tcp` · `ask-on` · `calls` · `writable-code` · `personality` · `i386 NUMBER` · `x32` · `nanoseconds COUNT` ·
/// `attack INTERFACE …` · `sniff INTERFACE` · `listen` · `say STEP …`
pub fn main(args: &[&str]) -> ExitCode {
    match args {
        ["report"] => println!("{}", report()),
        ["http", port] => http(number(port)),
        ["held"] => super::held::serve(false),
        ["held-once"] => super::held::serve(true),
        ["echo", port] => echo(number(port)),
        ["udp", port] => udp(number(port)),
        ["ignore-term"] => ignore_term(),
        ["tree"] => tree(),
        ["orphan", name] => orphan(name),
        ["flood", bytes] => flood(number(bytes)),
        ["eat", bytes] => eat(number(bytes)),
        ["eat-apart", bytes] => eat_apart(bytes),
        ["fork", count] => fork(number(count)),
        ["bomb"] => bomb(),
        ["spin", time] => spin(Duration::from_millis(number(time))),
        ["store", path, bytes] => store(path, number(bytes)),
        ["exit", code] => return ExitCode::from(number::<u8>(code)),
        ["signal", signal] => raise(number(signal)),
        ["print", text] => println!("{text}"),
        ["wait", ..] => wait(),
        ["late", time, rest @ ..] => {
            std::thread::sleep(Duration::from_millis(number(time)));
            return main(rest);
        }
        ["when", path, rest @ ..] => {
            while !std::path::Path::new(path).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            return main(rest);
        }
        ["clocked", rest @ ..] => {
            println!("clock {}", clock());
            return main(rest);
        }
        ["stay", rest @ ..] => {
            main(rest);
            wait();
        }
        ["absent", path] => return absent(path),
        ["remove", path] => println!("{}", outcome(fs::remove_file(path))),
        ["sick", way, at, path] => sick(way, at, path),
        ["mute", port] => mute(number(port)),
        ["stop-others"] => stop_others(),
        ["pid1"] => println!("{}", pid1()),
        ["connect", address] => println!("{}", outcome(TcpStream::connect(address).map(drop))),
        ["knock", address] => println!("{}", knock(address)),
        ["ask", name, kind, way] => println!("{}", super::names::ask(name, kind, way)),
        ["ask-on"] => super::names::flood(),
        ["attack", interface, rest @ ..] => super::frames::attack(interface, rest),
        ["sniff", interface] => super::frames::sniff(interface),
        ["listen"] => super::frames::listen(),
        ["say", rest @ ..] => super::voice::main(rest),
        ["write", path] => println!("{}", outcome(fs::write(path, "x"))),
        ["calls"] => println!("{}", json!(calls::all())),
        ["writable-code"] => println!("{}", json!(calls::writable_code())),
        ["personality"] => println!("{}", calls::personality()),
        #[cfg(target_arch = "x86_64")]
        ["i386", number_of] => println!("{}", calls::i386(number(number_of))),
        ["x32"] => println!("{}", calls::x32()),
        ["nanoseconds", count] => println!("{:.1?}", calls::nanoseconds(number(count))),
        _ => {
            eprintln!("probe: {args:?} is nothing that it knows");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The session, 0 when it began outside the pid namespace: getsid(2) would do, but rustix holds 0 to be impossible.
fn session() -> u32 {
    let stat = lines("/proc/self/stat").concat();
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    rest.split(' ').nth(3).and_then(|n| n.parse().ok()).unwrap_or(u32::MAX)
}

/// Everything that a process can see of its surroundings.
pub fn report() -> Value {
    json!({
        "namespaces": namespaces(),
        "status": status(),
        "uid_map": lines("/proc/self/uid_map"),
        "gid_map": lines("/proc/self/gid_map"),
        "fds": fds(),
        "mounts": mounts(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "cwd": std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
        "hostname": rustix::system::uname().nodename().to_string_lossy(),
        "interfaces": interfaces(),
        "addresses": addresses(),
        "processes": processes(),
        "root": names("/"),
        "dev": names("/dev"),
        "cgroup": lines("/proc/self/cgroup"),
        "limits": lines("/proc/self/limits"),
        "oom_score_adj": lines("/proc/self/oom_score_adj").concat(),
        "pid": std::process::id(),
        "session": session(),
        "nice": rustix::process::getpriority_process(None).unwrap_or(99),
    })
}

/// `/proc/self/ns`: which namespaces, by kind.
fn namespaces() -> BTreeMap<String, String> {
    let link = |kind: String| Some((kind.clone(), target(&format!("/proc/self/ns/{kind}"))));
    names("/proc/self/ns").into_iter().filter_map(link).collect()
}

/// `/proc/self/status`: ids, capabilities, signal masks, by the kernel's own keys.
fn status() -> BTreeMap<String, String> {
    let field =
        |line: &String| line.split_once(':').map(|(k, v)| (k.to_owned(), v.trim().replace('\t', " ")));
    lines("/proc/self/status").iter().filter_map(field).collect()
}

/// Open descriptors and what they are, but for the one that lists them.
fn fds() -> BTreeMap<String, String> {
    let entry = |fd: String| (fd.clone(), target(&format!("/proc/self/fd/{fd}")));
    names("/proc/self/fd").into_iter().map(entry).filter(|(_, t)| !t.is_empty()).collect()
}

/// `/proc/self/mountinfo`, the fields that matter.
fn mounts() -> Vec<Value> {
    let entry = |line: &String| {
        let (fields, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let rest: Vec<&str> = rest.split(' ').collect();
        let (point, options) = (fields.get(4)?, fields.get(5)?.split(',').collect::<Vec<_>>());
        let optional: Vec<&&str> = fields.iter().skip(6).collect();
        Some(json!({ "point": point, "options": options, "propagation": optional, "type": rest.first()?,
            "source": rest.get(1)?, "super_options": rest.get(2)?.split(',').collect::<Vec<_>>() }))
    };
    lines("/proc/self/mountinfo").iter().filter_map(entry).collect()
}

/// Links, from `/proc/net/dev`.
fn interfaces() -> Vec<String> {
    let name = |line: &String| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    lines("/proc/net/dev").iter().skip(2).filter_map(name).collect()
}

/// Own IPv4 addresses, from the local routes of `/proc/net/fib_trie`, which needs no socket.
fn addresses() -> Vec<String> {
    let mut all = Vec::new();
    let mut last = String::new();
    for line in lines("/proc/net/fib_trie") {
        match line.trim().strip_prefix("|-- ") {
            Some(address) => last = address.to_owned(),
            None if line.contains("/32 host LOCAL") && !all.contains(&last) => all.push(last.clone()),
            None => {}
        }
    }
    all
}

/// Every process in `/proc`: pid and name.
fn processes() -> Vec<(u32, String)> {
    let entry = |name: String| {
        let comm = fs::read_to_string(format!("/proc/{name}/comm")).unwrap_or_default();
        Some((name.parse().ok()?, comm.trim().to_owned()))
    };
    names("/proc").into_iter().filter_map(entry).collect()
}

/// Serves HTTP with one connection after the other: `/` answers the host name, `/report` the report, `/pid` the pid.
fn http(port: u16) {
    // Both families, where the kernel has both.
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    for stream in listener.expect("the port is free").incoming().flatten() {
        // A client that went away is its own business.
        let _ = answer(stream);
    }
}

/// Answers one request.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let body = match request.split(' ').nth(1) {
        Some("/report") => report().to_string(),
        Some("/pid") => std::process::id().to_string(),
        Some("/peer") => stream.peer_addr()?.ip().to_canonical().to_string(),
        _ => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Echoes on TCP, listening without SO_REUSEADDR as many servers do: std's listener would set it.
fn echo(port: u16) {
    let family = rustix::net::AddressFamily::INET;
    let socket: OwnedFd =
        rustix::net::socket(family, rustix::net::SocketType::STREAM, None).expect("a socket");
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, port);
    if let Err(errno) = rustix::net::bind(&socket, &any) {
        println!("bind: {errno:?}");
        // What such a server does: it gives up.
        raise(nix::libc::SIGABRT);
    }
    rustix::net::listen(&socket, 16).expect("bound just now");
    println!("listening");
    for stream in TcpListener::from(socket).incoming().flatten() {
        std::thread::spawn(move || {
            let mut reader = stream.try_clone().expect("dup");
            std::io::copy(&mut reader, &mut &stream)
        });
    }
}

/// Echoes datagrams.
fn udp(port: u16) {
    let socket = UdpSocket::bind(("0.0.0.0", port)).expect("the port is free");
    let mut bytes = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        // A client that went away is its own business.
        let _ = socket.send_to(&bytes[..length], from);
    }
}

/// What becomes of a connection within a second: nothing, when there is no handshake. It is the kernels' alone, on whatever
/// machine, and the second begins when it does.
fn knock(address: &str) -> String {
    let address = address.parse().expect("an address and a port");
    match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        // The kernel's own ETIMEDOUT has a number.
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut && error.raw_os_error().is_none() => {
            String::new()
        }
        result => outcome(result.map(drop)),
    }
}

/// Stops every process that it may signal, over and over.
fn stop_others() -> ! {
    loop {
        // kill(2): -1 spares the caller and PID 1. ESRCH while there is nobody.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGSTOP);
    }
}

/// What becomes of every way from a service to its init.
fn pid1() -> Value {
    let open = |name: &str| outcome(fs::File::open(format!("/proc/1/{name}")).map(drop));
    let write =
        |name: &str| outcome(fs::OpenOptions::new().write(true).open(format!("/proc/1/{name}")).map(drop));
    let link = |name: &str| outcome(fs::read_link(format!("/proc/1/{name}")).map(drop));
    json!({
        "exe": link("exe"), "root": link("root"), "cwd": link("cwd"), "ns/mnt": link("ns/mnt"),
        // Root inside may see the numbers.
        "fd": names("/proc/1/fd").first().map_or("EACCES".into(), |fd| link(&format!("fd/{fd}"))),
        "exe for writing": write("exe"), "mem": write("mem"),
        "environ": open("environ"), "maps": open("maps"), "auxv": open("auxv"),
        "root/etc": outcome(fs::read_dir("/proc/1/root/etc").map(drop)),
    })
}

/// Lives on whatever SIGTERM says.
fn ignore_term() {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(nix::libc::SIGTERM, flag).expect("SIGTERM can be caught");
    println!("ready");
    wait();
}

/// A parent, a child, a grandchild whose parent has gone, and a grandchild in a session of its own; none heeds SIGTERM.
fn tree() {
    spawn(&["ignore-term"]);
    spawn(&["orphan", "double-forked"]);
    spawn(&["orphan", "new-session"]);
    ignore_term();
}

/// Leaves a child behind.
fn orphan(kind: &str) {
    if kind == "new-session" {
        rustix::process::setsid().expect("a fresh child leads no group");
    }
    spawn(&["ignore-term"]);
}

/// Another probe as a child of this one. It is never waited for: that is what the init is there for.
#[allow(clippy::zombie_processes, reason = "the point of it")]
fn spawn(args: &[&str]) {
    let me = std::env::current_exe().expect("own path");
    let child = Command::new(me).arg("__probe").args(args).spawn().expect("another probe");
    println!("{args:?} is {}", child.id());
}

/// Writes `count` bytes in lines of 64.
fn flood(count: usize) {
    let line = [&[b'x'; 63][..], b"\n"].concat();
    let mut out = std::io::stdout().lock();
    for _ in 0..count / line.len() {
        out.write_all(&line).expect("somebody reads");
    }
    out.write_all(b"over\n").expect("somebody reads");
}

/// Takes memory, a page at a time, and keeps it.
fn eat(bytes: usize) {
    println!("eating");
    let mut taken: Vec<Box<[u8; 4096]>> = Vec::new();
    for _ in 0..bytes / 4096 {
        taken.push(Box::new([1; 4096]));
    }
    println!("ate {}", std::hint::black_box(&taken).len() * 4096);
    wait();
}

/// As `eat`, in a child; says how that ended, and lives on.
fn eat_apart(bytes: &str) {
    let me = std::env::current_exe().expect("own path");
    let status = Command::new(me).args(["__probe", "eat", bytes]).status().expect("another probe");
    println!("child: {status}");
    wait();
}

/// Starts `count` children that do nothing, at most; says how many there were and what stopped it, and takes them back.
fn fork(count: usize) {
    let me = std::env::current_exe().expect("own path");
    let mut children = Vec::new();
    let mut end = "nothing".to_owned();
    for _ in 0..count {
        match Command::new(&me).args(["__probe", "wait"]).spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                end = outcome(Err(error));
                break;
            }
        }
    }
    println!("forked {} stopped by {end}", children.len());
    for mut child in children {
        let _ = child.kill().and_then(|()| child.wait());
    }
    wait();
}

/// Starts as many of itself as there is room for, each of which does the same, and never gives up.
fn bomb() {
    let me = std::env::current_exe().expect("own path");
    loop {
        if Command::new(&me).args(["__probe", "bomb"]).spawn().is_err() {
            // Room for those who are looked at.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Uses up CPU time, whatever the clock says.
fn spin(time: Duration) {
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
    };
    while used() < time {
        std::hint::black_box(used());
    }
    println!("spun");
    wait();
}

/// Writes a file, down to its disk.
fn store(path: &str, bytes: usize) {
    let file = fs::File::create(path).expect("a writable directory");
    (&file).write_all(&vec![7; bytes]).expect("room");
    file.sync_all().expect("fsync");
    println!("stored");
    wait();
}

/// Ends this process by a signal.
fn raise(signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal number");
    nix::sys::signal::raise(signal).expect("raise(3)");
    wait();
}

/// CLOCK_MONOTONIC in milliseconds: the same for every process of the host.
fn clock() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// A health check: fails, and says so, when there is this file.
fn absent(path: &str) -> ExitCode {
    match fs::exists(path) {
        Ok(false) => ExitCode::SUCCESS,
        found => {
            println!("there is {path}: {found:?}");
            ExitCode::FAILURE
        }
    }
}

/// Listens on a TCP port or at a path, and is well until there is a file: then HTTP is answered with 503, and nobody
/// listens any more where there is no HTTP.
fn sick(way: &str, at: &str, path: &str) {
    let is_sick = || fs::exists(path).unwrap_or(true);
    if way == "unix" {
        let listener = std::os::unix::net::UnixListener::bind(at).expect("a new name");
        listener.set_nonblocking(true).expect("fcntl");
        while !is_sick() {
            drop(listener.accept());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(listener);
        wait();
    }
    let listener = TcpListener::bind(("0.0.0.0", number(at))).expect("the port is free");
    listener.set_nonblocking(true).expect("fcntl");
    while way == "http" || !is_sick() {
        if let (Ok((mut stream, _)), "http") = (listener.accept(), way) {
            let status = if is_sick() { "503 Sick" } else { "200 Well" };
            let mut line = String::new();
            // A client that went away is its own business.
            let _ = stream.set_nonblocking(false);
            let _ = stream.try_clone().map(|stream| BufReader::new(stream).read_line(&mut line));
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(listener);
    wait();
}

/// Takes connections and says nothing on them.
fn mute(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    let mut held = Vec::new();
    for stream in listener.incoming().flatten() {
        held.push(stream);
    }
}

/// Waits for a signal.
fn wait() {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// `ok`, or the name of the error.
fn outcome(result: std::io::Result<()>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(e) => format!("{:?}", nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or_default())),
    }
}

/// An argument that is a number.
fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// The lines of a file; what went wrong as the only one, so that a report is never silent about it.
fn lines(path: &str) -> Vec<String> {
    let mut text = String::new();
    match fs::File::open(path).and_then(|mut f| f.read_to_string(&mut text)) {
        Ok(_) => text.lines().map(str::to_owned).collect(),
        Err(e) => vec![format!("{path}: {e}")],
    }
}

/// The sorted names in a directory.
fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// What a symbolic link says; empty when it is gone.
fn target(path: &str) -> String {
    fs::read_link(path).map(|t| t.display().to_string()).unwrap_or_default()
}
