//! The stage: a host with something to find on it, a caller who cleans nothing up, and a place without walls.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::MetadataExt,
            net::{SocketAddr, UnixListener},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{libc, sched::CloneFlags};

use crate::{
    battery::Feature,
    raw::{at, call, number},
    support::{World, need},
};

/// Where the host listens.
const PORT: u16 = 4711;
/// The key of its System V objects.
const IPC: usize = 0x0070_616c;

/// Somebody who lives on the host.
const PERSON: &str = "canary-person";

/// What is planted on the host, and taken away again.
pub struct Stage {
    word: String,
    host: Child,
    dir: PathBuf,
    lacks: String,
}

impl Stage {
    /// Makes the world a host: with a name, files, sockets, memory and links that a sandbox must not find.
    pub fn set(world: &World) -> Self {
        // The world shares these two with the machine, and whatever is planted in them must not stay.
        nix::sched::unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
            .expect("the test needs root");
        let word = format!("canary-{}", world.name());
        rustix::system::sethostname(word.as_bytes()).expect("it is our own");
        fs::write(world.dir().join("canary"), &word).expect("our own directory");
        for dir in ["/tmp", "/run", "/dev/shm"] {
            fs::write(Path::new(dir).join(&word), &word).expect("the test needs root");
        }
        let all = 0o666 | number(libc::IPC_CREAT);
        call(libc::SYS_shmget, &[IPC, 4096, all]).expect("our own namespace");
        call(libc::SYS_semget, &[IPC, 1, all]).expect("our own namespace");
        call(libc::SYS_msgget, &[IPC, all]).expect("our own namespace");
        let name = format!("{word}\0");
        let queue = number(libc::O_CREAT | libc::O_RDWR);
        let queue =
            call(libc::SYS_mq_open, &[at(name.as_str()), queue, 0o666, 0]).expect("our own namespace");
        call(libc::SYS_close, &[queue]).expect("open just now");
        for args in [
            "link add pcanary0 type veth peer name pcanary1",
            "link set pcanary0 addrgenmode none up",
            "link set pcanary1 addrgenmode none up",
            "addr add 198.51.100.1/24 dev pcanary0",
            "addr add fe80::7/64 dev pcanary0 nodad",
            "addr add 169.254.169.254/32 dev lo",
        ] {
            let status = Command::new("ip").args(args.split(' ')).status().expect("iproute2 is installed");
            assert!(status.success(), "ip {args}");
        }
        let mount = world.dir().join(format!("mount-{word}"));
        fs::create_dir(&mount).expect("our own directory");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), &mount, Some("tmpfs"), flags, None::<&str>)
            .expect("the test needs root");
        let mut users = fs::read_to_string("/etc/passwd").expect("a host has users");
        users.push_str(&format!("{PERSON}:x:4242:4242::/home/{PERSON}:/bin/sh\n"));
        let users = world.write("passwd", &users);
        let bind = nix::mount::MsFlags::MS_BIND;
        let none: Option<&str> = None;
        nix::mount::mount(Some(&users), "/etc/passwd", none, bind, none).expect("the test needs root");
        let dir = world.dir().to_owned();
        Self { host: host(&word, &dir), lacks: lacks(), word, dir }
    }

    /// What the battery is told about it.
    pub fn facts(&self, world: &World) -> Vec<String> {
        let ino = |kind: &str| {
            let link = format!("/proc/thread-self/ns/{kind}");
            fs::metadata(link).expect("proc is mounted").ino().to_string()
        };
        let device = |path: &str| fs::metadata(path).map(|m| m.dev()).unwrap_or_default().to_string();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let marker: String = marker(&self.word).chars().rev().collect();
        let path = |name: &str| self.dir.join(name).display().to_string();
        let facts = [
            ("word", self.word.clone()),
            ("marker", marker),
            ("stays", format!("stays-{}", self.word)),
            ("lacks", self.lacks.clone()),
            ("canary", path("canary")),
            ("cwd", self.dir.display().to_string()),
            ("user", PERSON.to_owned()),
            ("proc", device("/proc")),
            ("dev", device("/dev")),
            ("sys", device("/sys")),
            ("dev-pts", device("/dev/pts")),
            ("sleeper", self.host.id().to_string()),
            ("hostname", self.word.clone()),
            ("machine", read("/etc/machine-id")),
            ("mount", format!("mount-{}", self.word)),
            ("group", world.name().to_owned()),
            ("link", "pcanary0".to_owned()),
            ("ipc", IPC.to_string()),
            ("addresses", addresses("inet")),
            ("links", addresses("inet6")),
            ("port", PORT.to_string()),
            ("other", world.address("other")),
            ("published", "8081".to_owned()),
            // Milliseconds.
            ("patience", "150".to_owned()),
            ("outside", "198.51.100.1".to_owned()),
            ("control", world.run_dir().join("control.sock").display().to_string()),
            ("socket", path("daemon.sock")),
            ("service", world.services_dir().join("other.toml").display().to_string()),
            ("settings", path("palisade.toml")),
            ("logs", path("log")),
            ("cgroup", need::cgroup2_mount().expect("declared as a need")),
        ];
        let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
        let kinds = kinds.map(|kind| format!("ns-{kind}={}", ino(kind)));
        facts.into_iter().map(|(key, value)| format!("{key}={value}")).chain(kinds).collect()
    }

    /// What this kernel has not.
    pub fn lacks(&self) -> Vec<&str> {
        self.lacks.split(',').filter(|name| !name.is_empty()).collect()
    }

    /// Runs the battery where there are no walls at all, as what the caller below is.
    pub fn without_walls(&self, world: &World, facts: &[String]) -> String {
        let group = world.cgroup().join("weak");
        fs::create_dir_all(&group).expect("declared as a need");
        let me = std::env::current_exe().expect("own path");
        let mut command = careless(world, me.as_os_str());
        // Somebody answers here, however slow the machine: all of them are waited for.
        command.arg("__weak").arg(&group).args(facts).arg("patience=1000");
        let output = command.output().expect("it is this program");
        assert!(output.status.success(), "{}", crate::support::world::describe(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It is our child, and there is nothing to be done about what cannot be cleared up; the guard will say so.
        let _ = self.host.kill().and_then(|()| self.host.wait());
        let _ = nix::mount::umount("/etc/passwd");
        let _ = nix::mount::umount(&self.dir.join(format!("mount-{}", self.word)));
        for dir in ["/tmp", "/run", "/dev/shm"] {
            let _ = fs::remove_file(Path::new(dir).join(&self.word));
        }
        let _ = Command::new("ip").args(["link", "del", "pcanary0"]).status();
        let _ = Command::new("ip").args(["addr", "del", "169.254.169.254/32", "dev", "lo"]).status();
    }
}

/// The global addresses of the world, or with `inet6` those of its links.
fn addresses(family: &str) -> String {
    let output = Command::new("ip").args(["-j", "addr"]).output().expect("iproute2 is installed");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("ip prints JSON");
    let links =
        all.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array()).flatten();
    let wanted = links.filter(|a| a["family"] == family && (a["scope"] == "link" || family == "inet"));
    let texts = wanted.filter_map(|a| a["local"].as_str()).filter(|a| !a.starts_with("127."));
    texts.collect::<Vec<_>>().join(",")
}

/// What the command line of the host's process has in it.
fn marker(word: &str) -> String {
    format!("marker-of-{word}")
}

/// What of the host listens, and is there to be signalled.
fn host(word: &str, dir: &Path) -> Child {
    let me = std::env::current_exe().expect("own path");
    let mut command = Command::new(me);
    command.args(["__host", word, &marker(word)]).arg(dir).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it is this program");
    let mut line = String::new();
    let said = child.stdout.take().expect("piped");
    BufReader::new(said).read_line(&mut line).expect("a pipe");
    assert_eq!(line, "ready\n");
    child
}

/// The host's process.
pub fn be_host(word: &str, dir: &Path) {
    let _tcp = TcpListener::bind(("::", PORT)).expect("the port is free");
    let udp = UdpSocket::bind(("0.0.0.0", PORT)).expect("the port is free");
    let name = SocketAddr::from_abstract_name(word).expect("a short name");
    let _abstract = UnixListener::bind_addr(&name).expect("the name is free");
    let _path = UnixListener::bind(dir.join("daemon.sock")).expect("the name is free");
    println!("ready");
    let mut bytes = [0; 64];
    while let Ok((length, from)) = udp.recv_from(&mut bytes) {
        // Who has gone is not answered.
        let _ = udp.send_to(&bytes[..length], from);
    }
}

/// The features that are missing, asked in a process of their own.
fn lacks() -> String {
    let me = std::env::current_exe().expect("own path");
    let output = Command::new(me).arg("__lacks").output().expect("it is this program");
    assert!(output.status.success(), "{}", crate::support::world::describe(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Prints the features that are missing.
pub fn print_lacks() {
    let missing: Vec<String> =
        Feature::ALL.into_iter().filter(|f| !f.is_there()).map(|f| format!("{f:?}")).collect();
    println!("{}", missing.join(","));
}

/// A caller with bad habits, who runs `program`. Whatever it has of its own is there to leak.
pub fn careless(world: &World, program: &OsStr) -> Command {
    let me = std::env::current_exe().expect("own path");
    let mut command = Command::new(me);
    command.arg("__caller").arg(world.dir()).arg(program);
    command.env("PALISADE_LEAK", "1").env("LD_LEAK", "1").env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    command.env("SSH_AUTH_SOCK", "/nowhere").stdin(Stdio::null());
    command
}

/// As [`careless`], for a command of palisade.
pub fn careless_with(world: &World, inner: &Command) -> Command {
    let mut command = careless(world, inner.get_program());
    command.args(inner.get_args());
    command
}

/// The caller itself: gathers everything that a process hands down, and becomes the program.
pub fn be_caller(dir: &str, program: &str, args: &[&str]) -> ! {
    let must =
        |what: &str, answer: crate::raw::Answer| answer.unwrap_or_else(|errno| panic!("{what}: {errno}"));
    must("setsid", call(libc::SYS_setsid, &[]));
    let pty = nix::pty::openpty(None, None).expect("devpts is mounted");
    let slave = crate::raw::fd(&pty.slave);
    must("TIOCSCTTY", call(libc::SYS_ioctl, &[slave, 0x540e, 0]));
    must("dup3", call(libc::SYS_dup3, &[slave, 0, 0]));
    must("dup3", call(libc::SYS_dup3, &[crate::raw::fd(&pty.master), 78, 0]));
    let root = fs::File::open("/").expect("it is there");
    must("dup3", call(libc::SYS_dup3, &[crate::raw::fd(&root), 77, 0]));
    std::env::set_current_dir(dir).expect("our own directory");
    must("keyctl", call(libc::SYS_keyctl, &[1, 0]));
    for ring in [-3, -4] {
        must(
            "add_key",
            call(libc::SYS_add_key, &[at(c"user"), at(c"palisade-canary"), at(c"x"), 1, number(ring)]),
        );
    }
    for (resource, soft) in [(3usize, 7u64 << 20), (11, 1717), (7, u64::MAX), (4, u64::MAX)] {
        let mut both = [0u64; 2];
        must("prlimit", call(libc::SYS_prlimit64, &[0, resource, 0, both.as_mut_ptr() as usize]));
        both[0] = soft.min(both[1]);
        must("prlimit", call(libc::SYS_prlimit64, &[0, resource, at(&both), 0]));
    }
    must("umask", call(libc::SYS_umask, &[0]));
    must("setpriority", call(libc::SYS_setpriority, &[0, 0, 5]));
    must(
        "sched_setscheduler",
        call(libc::SYS_sched_setscheduler, &[0, number(libc::SCHED_BATCH), at(&[0i32])]),
    );
    must("personality", call(libc::SYS_personality, &[0x004_0000]));
    must("timer slack", call(libc::SYS_prctl, &[number(libc::PR_SET_TIMERSLACK), 60_000, 0, 0, 0]));
    fs::write("/proc/self/coredump_filter", "0x7f").expect("our own");
    fs::write("/proc/self/oom_score_adj", "321").expect("our own");
    must("setgroups", call(libc::SYS_setgroups, &[3, at(&[0u32, 4, 1234])]));
    must("secure bits", call(libc::SYS_prctl, &[number(libc::PR_SET_SECUREBITS), 4, 0, 0, 0]));
    inherit_capabilities();
    let blocked = 1u64 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGWINCH - 1);
    must("rt_sigprocmask", call(libc::SYS_rt_sigprocmask, &[0, at(&blocked), 0, 8]));
    must("rt_sigaction", call(libc::SYS_rt_sigaction, &[number(libc::SIGUSR2), at(&[1u64, 0, 0, 0]), 0, 8]));
    let error = Command::new(program).args(args).exec();
    panic!("{program}: {error}");
}

/// Makes every capability inheritable and ambient.
fn inherit_capabilities() {
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    call(libc::SYS_capget, &[at(&header), data.as_mut_ptr() as usize]).expect("capget");
    (data[2], data[5]) = (data[1], data[4]);
    call(libc::SYS_capset, &[at(&header), at(&data)]).expect("capset");
    for capability in 0..41 {
        // PR_CAP_AMBIENT_RAISE; what this root has not cannot be raised.
        let _ = call(libc::SYS_prctl, &[number(libc::PR_CAP_AMBIENT), 2, capability, 0, 0]);
    }
}

/// The place without walls: a mount namespace of its own, so that nothing stays, and two masks that mask nothing.
pub fn be_weak(group: &str, facts: &[&str]) {
    fs::write(format!("{group}/cgroup.procs"), "0").expect("our own group");
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("the test needs root");
    let run = |program: &str, args: &[&str]| {
        let status =
            Command::new(program).args(args).stdin(Stdio::null()).status().expect("util-linux is installed");
        assert!(status.success(), "{program} {args:?}");
    };
    run("mount", &["--make-rshared", "/"]);
    run("mount", &["--bind", "/dev/null", "/proc/swaps"]);
    if fs::read_dir("/sys/kernel/security").is_ok_and(|mut all| all.next().is_none()) {
        run("mount", &["-t", "securityfs", "none", "/sys/kernel/security"]);
    }
    crate::battery::main(facts);
}
