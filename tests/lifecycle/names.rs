//! What services are told about names: whom they may reach has one, others have none, and where a name outside leads they may
//! go for as long as it does.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command},
};

use nix::mount::{MsFlags, mount, umount};
use serde_json::Value;

use crate::{
    ipv6::{OUTSIDE, address6, furnish},
    reach::connect,
    spoof::{Place, furnish_host},
    support::{
        LONG, World,
        names::{UPSTREAM, Upstream},
        wait_until,
        world::{PROBE, describe},
    },
    talk::{up, write},
};

/// What a service is told.
fn ask(world: &World, from: &str, name: &str, kind: &str) -> String {
    ask_by(world, from, name, kind, "udp")
}

fn ask_by(world: &World, from: &str, name: &str, kind: &str, way: &str) -> String {
    world.ok(&["exec", from, "--", PROBE, "__probe", "ask", name, kind, way]).trim().to_owned()
}

fn address(world: &World, name: &str) -> String {
    world.address(name).split('/').next().unwrap_or_default().to_owned()
}

/// What is told of a service that may be reached.
fn found(world: &World, name: &str) -> String {
    format!("NoError [A {} 5]", address(world, name))
}

const ALLOWED: &str = "network.allow_to = [\"db:80\"]";
const NOBODY: &str = "NameError [] soa";

/// The tests' server, whom the world's host asks.
struct Names(Upstream);

impl std::ops::Deref for Names {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0
    }
}

impl Names {
    /// Before the supervisor, which has mounts of its own.
    fn start(world: &World) -> Self {
        let (file, none) = (set_server(world, &UPSTREAM.to_string()), None::<&str>);
        mount(Some(&file), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).expect("the world's own mounts");
        Self(Upstream::start(UPSTREAM.into()))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = umount("/etc/resolv.conf");
    }
}

fn set_server(world: &World, server: &str) -> PathBuf {
    world.write("resolv.conf", &format!("nameserver {server}\nsearch corp.example\n"))
}

/// Whether there is a socket of UDP on port 53 in the network namespace of a service.
fn has_desk(world: &World, name: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/net/udp", world.pid(name))).expect("it runs");
    text.lines().any(|line| line.contains("3500007F:0035"))
}

pub fn who_may_be_reached_has_a_name_and_nobody_else(world: &mut World) {
    write(world, "app", "network.allow_to = [\"db:80\", \"web@*:80\"]");
    write(world, "db", "");
    write(world, "cache", "network.allow_from = [\"app:80\"]");
    write(world, "evil", "network.hosts = { \"printer.example\" = \"192.0.2.77\" }");
    write(world, "web@", "");
    up(world, &["app", "db", "cache", "evil"]);
    let db = found(world, "db");
    for name in ["db", "db.palisade", "DB.Palisade", "db."] {
        assert_eq!(ask(world, "app", name, "A"), db, "{name}");
    }
    assert_eq!(ask_by(world, "app", "db", "A", "tcp"), db);
    assert_eq!(ask(world, "app", "cache", "A"), found(world, "cache"), "from the other's file");
    assert_eq!(ask(world, "app", "app", "A"), found(world, "app"), "itself");
    assert_eq!(ask(world, "app", "db", "AAAA"), format!("NoError [AAAA {} 5]", address6(world, "db")));
    assert_eq!(ask(world, "app", "db", "TXT"), "NoError [] soa", "the name is there, the type is not");
    let reversed = |world: &World, name: &str| {
        let address = address(world, name);
        let parts: Vec<&str> = address.rsplit('.').collect();
        format!("{}.in-addr.arpa", parts.join("."))
    };
    assert_eq!(ask(world, "app", &reversed(world, "db"), "PTR"), "NoError [PTR db.palisade 5]");
    // Whoever may not reach it learns nothing: a service that is there and one that is not are the same.
    for name in ["db", "db.palisade", "nobody", "nobody.palisade", "evil.db.palisade", &reversed(world, "db")]
    {
        let kind = if name.ends_with("arpa") { "PTR" } else { "A" };
        assert_eq!(ask(world, "evil", name, kind), NOBODY, "{name}");
    }
    assert_eq!(ask(world, "evil", "printer.example", "A"), "NoError [A 192.0.2.77 5]", "its file says so");
    assert_eq!(ask(world, "evil", "example.org", "A"), "Refused []", "nobody is asked for it");
    assert_eq!(ask(world, "app", "printer.example", "A"), "Refused []");
    let printers =
        "network.hosts = { \"printer.example\" = \"192.0.2.77\", \"second.example\" = \"2001:db8::2\" }";
    write(world, "evil", printers);
    world.ok(&["daemon-reload"]);
    wait_until("it knows more", LONG, || {
        ask(world, "evil", "second.example", "AAAA") == "NoError [AAAA 2001:db8::2 5]"
    });
    assert_eq!(world.run_id("evil"), 1, "not restarted for it");
    let said = world.ok(&["exec", "app", "--", "/usr/bin/getent", "ahostsv6", "cache"]);
    assert!(said.starts_with(&address6(world, "cache")), "{said}");
    // The C library finds its way there too: /etc/hosts does not name that one.
    let said = world.ok(&["exec", "app", "--", "/usr/bin/getent", "ahostsv4", "cache"]);
    assert!(said.starts_with(&address(world, "cache")), "{said}");
    // Of a template every instance that has a network.
    assert_eq!(ask(world, "app", "web", "A"), NOBODY);
    world.ok(&["start", "web@1", "web@2"]);
    let mut firsts: Vec<String> = (0..2).map(|_| ask(world, "app", "web", "A")).collect();
    firsts.sort();
    let (one, two) = (address(world, "web@1"), address(world, "web@2"));
    assert_eq!(
        firsts,
        [format!("NoError [A {one} 5, A {two} 5]"), format!("NoError [A {two} 5, A {one} 5]")],
        "each comes first in its turn"
    );
    assert_eq!(ask(world, "app", "web@2", "A"), found(world, "web@2"));
    // Who has nobody to ask for costs no descriptor.
    assert!(has_desk(world, "app") && has_desk(world, "evil"));
    assert!(!has_desk(world, "db") && !has_desk(world, "web@1"));
}

pub fn names_follow_restarts_takeovers_and_files(world: &mut World) {
    write(world, "app", "network.allow_to = [\"db:80\"]");
    write(world, "db", "");
    write(world, "late", "");
    up(world, &["app", "db", "late"]);
    let run = world.run_id("app");
    let db = found(world, "db");
    assert_eq!(ask(world, "app", "db", "A"), db);
    assert_eq!(ask(world, "app", "late", "A"), NOBODY);
    world.ok(&["restart", "db"]);
    assert_eq!(ask(world, "app", "db", "A"), db);
    world.kill_supervisor();
    world.start();
    wait_until("the next one answers", LONG, || ask(world, "app", "db", "A") == db);
    // By other files, without a restart of anybody; from the other side's too.
    write(world, "app", "");
    write(world, "late", "network.allow_from = [\"app:80\"]");
    world.ok(&["daemon-reload"]);
    wait_until("late has a name", LONG, || ask(world, "app", "late", "A") == found(world, "late"));
    assert_eq!(ask(world, "app", "db", "A"), NOBODY);
    write(world, "late", "");
    world.ok(&["daemon-reload"]);
    wait_until("there is nobody to ask for", LONG, || !has_desk(world, "app"));
    assert_eq!(ask(world, "app", "late", "A"), "ConnectionRefused");
    write(world, "app", "network.allow_to = [\"db:80\"]");
    world.ok(&["daemon-reload"]);
    wait_until("db has a name again", LONG, || ask(world, "app", "db", "A") == db);
    assert_eq!(world.run_id("app"), run, "nobody had to be restarted for it");
    world.ok(&["restart", "app"]);
    world.wait_state("app", "active");
    assert_eq!(ask(world, "app", "db", "A"), db, "the next run asks at the same place");
    world.ok(&["stop", "db"]);
    assert_eq!(ask(world, "app", "db", "A"), db, "its address stays with its name");
}

pub fn who_takes_the_place_has_no_power_by_it(world: &mut World) {
    // Takes it as soon as nobody has it: while no supervisor lives.
    let squat = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nwhile True:\n    try:\n        \
                 s.bind(('127.0.0.53', 53))\n        break\n    except OSError:\n        time.sleep(0.01)\n\
                 open('/tmp/taken', 'w')\ntime.sleep(3600)\n";
    let command = format!("service.command = [\"/usr/bin/python3\", \"-c\", {squat:?}]\n");
    let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
    world.write_service("squat", &format!("{command}{mounts}\n{ALLOWED}\n"));
    write(world, "app", ALLOWED);
    write(world, "db", "");
    up(world, &["squat", "app", "db"]);
    let db = found(world, "db");
    assert_eq!(ask(world, "squat", "db", "A"), db);
    assert!(!world.palisade(&["exec", "squat", "--", "/usr/bin/test", "-e", "/tmp/taken"]).status.success());
    let desks = format!("/proc/{}/net/udp", world.pid("squat"));
    world.kill_supervisor();
    wait_until("it has taken the place", LONG, || {
        fs::read_to_string(&desks).is_ok_and(|text| text.contains("3500007F:0035"))
    });
    world.start();
    wait_until("the others are answered", LONG, || ask(world, "app", "db", "A") == db);
    assert!(world.supervisor_log().contains("EADDRINUSE"), "it is said");
    assert_eq!(world.state("squat"), "active");
    let hosts = world.ok(&["exec", "squat", "--", "/usr/bin/getent", "ahostsv4", "db"]);
    assert!(hosts.starts_with(&address(world, "db")), "from /etc/hosts: {hosts}");
    // Before its next run begins the place is ours again.
    world.ok(&["restart", "squat"]);
    assert_eq!(ask(world, "squat", "db", "A"), db);
}

pub fn who_destroys_the_place_is_not_answered_and_holds_nobody_up(world: &mut World) {
    let powers = "service.user = \"root\"\nsecurity.capabilities = [\"CAP_NET_ADMIN\"]\n";
    world.write_service("liar", &world.probe_toml(&["wait"], &format!("{powers}{ALLOWED}")));
    write(world, "app", ALLOWED);
    write(world, "db", "");
    up(world, &["liar", "app", "db"]);
    let db = found(world, "db");
    assert_eq!(ask(world, "liar", "db", "A"), db);
    world.ok(&["exec", "liar", "--", "/usr/bin/ss", "-K", "-t", "-a", "src", "127.0.0.53"]);
    wait_until("it is told", LONG, || {
        world.supervisor_log().contains("it is not answered about names any more")
    });
    assert_eq!(ask(world, "app", "db", "A"), db);
    // Nothing is readable for ever: without anything to do the supervisor does nothing.
    let pid = world.supervisor_pid();
    wait_until("it waits for something", LONG, || {
        fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|text| text.contains("poll"))
    });
    world.ok(&["restart", "liar"]);
    assert_eq!(ask(world, "liar", "db", "A"), db, "the next run has the place again");
}

pub fn others_are_asked_for_whom_egress_lets_out(world: &mut World) {
    let upstream = Names::start(world);
    upstream.set("a", "192.0.2.7", 60);
    upstream.set("day", "192.0.2.8", 86_400);
    write(world, "any", "network.egress = \"any\"\nnetwork.allow_to = [\"db:80\"]");
    write(
        world,
        "few",
        "network.egress = [\"a.example.org:80\", \"*.b.example.org:80\", \"day.example.org:1\"]",
    );
    write(world, "mute", "network.egress = \"any\"\nnetwork.dns = \"none\"");
    write(world, "own", "network.egress = \"any\"\nnetwork.dns = [\"127.0.0.8\"]");
    write(world, "db", "");
    up(world, &["any", "few", "mute", "own", "db"]);
    assert_eq!(ask(world, "any", "a.example.org", "A"), "NoError [A 192.0.2.7 60]");
    assert_eq!(ask_by(world, "any", "A.example.ORG", "A", "tcp"), "NoError [A 192.0.2.7 60]");
    assert_eq!(ask(world, "any", "no.example.org", "A"), "NameError []");
    assert_eq!(ask(world, "any", "a.example.org", "AAAA"), "NoError []");
    assert_eq!(ask(world, "any", "broken.example.org", "A"), "ServerFailure []");
    assert_eq!(ask(world, "any", "forged.example.org", "A"), "NoError [A 192.0.2.7 60]");
    let long = ask(world, "any", "long.example.org", "A");
    assert_eq!(long, "NoError [] cut", "too long for a datagram");
    let long = ask_by(world, "any", "long.example.org", "A", "tcp");
    assert_eq!(long.matches("198.51.100.").count(), 200, "{long}");
    let said = world.ok(&["exec", "any", "--", "/usr/bin/getent", "ahostsv4", "a.example.org"]);
    assert!(said.starts_with("192.0.2.7 "), "{said}");
    // What services are called is asked for nowhere.
    assert_eq!(ask(world, "any", "db", "A"), found(world, "db"));
    assert_eq!(ask(world, "any", "nobody", "A"), NOBODY);
    let hosts = world.ok(&["exec", "any", "--", "/usr/bin/getent", "ahostsv4", "db"]);
    assert!(hosts.starts_with(&address(world, "db")), "{hosts}");
    let leaked: Vec<String> =
        upstream.all_asked().into_iter().filter(|one| !one.ends_with("example.org")).collect();
    assert_eq!(leaked, Vec::<String>::new());
    // Of a list its names alone.
    assert_eq!(ask(world, "few", "a.example.org", "A"), "NoError [A 192.0.2.7 60]");
    assert_eq!(ask(world, "few", "x.b.example.org", "A"), "NameError []", "it was asked for");
    assert_eq!(
        ask(world, "few", "day.example.org", "A"),
        "NoError [A 192.0.2.8 3600]",
        "no longer than it is let go there"
    );
    for name in ["b.example.org", "no.example.org", "example.org", "secret.a.example.org"] {
        assert_eq!(ask(world, "few", name, "A"), "Refused []", "{name}");
    }
    assert_eq!(upstream.asked("secret.a.example.org"), 0);
    assert_eq!(ask(world, "mute", "a.example.org", "A"), "ConnectionRefused");
    // Silence is told in time, and nobody else waits for it. Where to ask takes longer than that time, it is asked once more.
    let mut before = 0;
    wait_until("somebody else is answered while it waits", LONG, || {
        let mut patient = world
            .command(&["exec", "any", "--", PROBE, "__probe", "ask", "mute.example.org", "A", "udp"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the program under test starts");
        wait_until("it is asked for", LONG, || upstream.asked("mute.example.org") > before);
        assert_eq!(ask(world, "any", "a.example.org", "A"), "NoError [A 192.0.2.7 60]");
        let waits = patient.try_wait().expect("our child").is_none();
        let output = patient.wait_with_output().expect("our child");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "ServerFailure []",
            "{}",
            describe(&output)
        );
        wait_until("all three have come", LONG, || upstream.asked("mute.example.org") >= before + 3);
        assert_eq!(upstream.asked("mute.example.org"), before + 3, "asked again and again");
        before += 3;
        waits
    });
    // Another server, from the service's file; then from its next one, without a restart. Then the host has another one.
    assert_eq!(ask(world, "own", "a.example.org", "A"), "ServerFailure []", "nobody is there");
    let run = world.run_id("own");
    write(world, "own", &format!("network.egress = \"any\"\nnetwork.dns = [\"127.0.0.8\", \"{UPSTREAM}\"]"));
    world.ok(&["daemon-reload"]);
    wait_until("the second server is asked", LONG, || {
        ask(world, "own", "a.example.org", "A") == "NoError [A 192.0.2.7 60]"
    });
    assert_eq!(world.run_id("own"), run);
    set_server(world, "127.0.0.8");
    assert_eq!(ask(world, "any", "a.example.org", "A"), "ServerFailure []", "read again when it had changed");
}

pub fn a_flood_of_questions_holds_nobody_up(world: &mut World) {
    write(world, "app", "network.allow_to = [\"db:80\"]");
    write(world, "db", "");
    world.write_service("flood", &world.probe_toml(&["ask-on"], "network.allow_to = [\"db:80\"]"));
    up(world, &["app", "db", "flood"]);
    let db = found(world, "db");
    // More comes than is heard: the kernel throws questions away. (The last column of its line; proc_pid_net(5).)
    let desks = format!("/proc/{}/net/udp", world.pid("flood"));
    wait_until("the flood is held back", LONG, || {
        let text = fs::read_to_string(&desks).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("3500007F:0035"));
        line.and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok())
            .is_some_and(|drops| drops > 0)
    });
    for _ in 0..20 {
        assert_eq!(ask(world, "app", "db", "A"), db);
    }
    assert_eq!(world.state("flood"), "active");
}

/// The outside, with a server on ports 80 and 81 of two addresses.
struct Outside {
    place: Place,
    servers: Vec<Child>,
}

impl Outside {
    fn open() -> Self {
        let place = furnish_host();
        place.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0; \
             ip addr add 198.51.100.1/32 dev eth0; ip link set lo up");
        let server = |port| {
            Command::new("nsenter")
                .arg(format!("--net={}", place.path()))
                .arg(std::env::current_exe().expect("own path"))
                .args(["__probe", "http", port])
                .spawn()
                .expect("util-linux is installed")
        };
        let servers = ["80", "81"].map(server).into();
        Self { place, servers }
    }

    fn close(mut self, world: &mut World) {
        for server in &mut self.servers {
            server.kill().and_then(|()| server.wait()).expect("our child");
        }
        assert_eq!(world.stop(), Ok(()));
        drop(self.place);
    }
}

/// The elements of a set of the table, as nft lists them.
fn elements(set: &str) -> Vec<Value> {
    let output =
        Command::new("nft").args(["-j", "list", "set", "inet", "ptest", set]).output().expect("a need");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all: Value = serde_json::from_str(&text).unwrap_or_default();
    let list = all["nftables"].as_array().cloned().unwrap_or_default();
    let sets = list.into_iter().filter_map(|one| one.get("set").cloned());
    sets.flat_map(|set| set["elem"].as_array().cloned().unwrap_or_default()).collect()
}

fn has_file(world: &World, name: &str, path: &str) -> bool {
    world.palisade(&["exec", name, "--", "/usr/bin/test", "-e", path]).status.success()
}

/// For how many seconds a service may go to an address: what it was given, and what is left.
fn time_to_go(from: &str, to: &str) -> Option<(u64, u64)> {
    elements("named").iter().find_map(|one| {
        let (elem, parts) = (&one["elem"], one["elem"]["val"]["concat"].as_array()?);
        let is_it = parts[0] == from && parts[1] == to;
        is_it.then(|| Some((elem["timeout"].as_u64()?, elem["expires"].as_u64()?)))?
    })
}

pub fn where_a_name_leads_its_service_may_go(world: &mut World) {
    let (upstream, outside) = (Names::start(world), Outside::open());
    upstream.set("a", "192.0.2.254", 1);
    upstream.set("alias", "198.51.100.1", 600);
    write(world, "some", "network.egress = [\"a.example.org:80\", \"alias.example.org:80\"]");
    write(world, "other", "network.egress = [\"nowhere.example.org:80\"]");
    // Finds its own way, keeps one connection, and uses it when it is told to.
    let hold = "import os, socket, time\ns = socket.create_connection(('alias.example.org', 80))\nopen('/tmp/open', 'w')\n\
                while not os.path.exists('/tmp/go'):\n    time.sleep(0.01)\n\
                s.send(b'GET / HTTP/1.0\\r\\n\\r\\n')\nif b'200' in s.recv(99):\n    open('/tmp/out', 'w')\ntime.sleep(3600)\n";
    let command = format!("service.command = [\"/usr/bin/python3\", \"-c\", {hold:?}]");
    let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
    let egress = "network.egress = [\"alias.example.org:80\"]";
    world.write_service("holder", &format!("{command}\n{mounts}\n{egress}\n"));
    up(world, &["some", "other", "holder"]);
    let (some, holder) = (address(world, "some"), address(world, "holder"));
    assert_ne!(connect(world, "some", "192.0.2.254:80"), "ok", "it has not asked yet");
    assert_eq!(ask(world, "some", "a.example.org", "A"), "NoError [A 192.0.2.254 1]");
    assert_eq!(time_to_go(&some, "192.0.2.254").map(|(whole, _)| whole), Some(30), "time to connect");
    wait_until("it is answered", LONG, || connect(world, "some", "192.0.2.254:80") == "ok");
    assert_ne!(connect(world, "some", "192.0.2.254:81"), "ok", "another port");
    assert_ne!(connect(world, "some", "198.51.100.1:80"), "ok", "another address");
    assert_ne!(connect(world, "other", "192.0.2.254:80"), "ok", "another service");
    // By another name, which is none that its file has.
    assert!(ask(world, "some", "alias.example.org", "A").contains("A 198.51.100.1 600"));
    assert!(time_to_go(&some, "198.51.100.1").is_some(), "let there before it is answered");
    wait_until("it is answered", LONG, || connect(world, "some", "198.51.100.1:80") == "ok");
    assert_eq!(time_to_go(&some, "192.0.2.253"), None, "nobody asked for that one");
    assert_eq!(ask(world, "some", "target.example.net", "A"), "Refused []", "that name is not its own");
    // Asked again it holds anew; for less than it holds, as before.
    upstream.set("a", "192.0.2.254", 900);
    ask(world, "some", "a.example.org", "A");
    assert_eq!(time_to_go(&some, "192.0.2.254").map(|(whole, _)| whole), Some(900));
    upstream.set("a", "192.0.2.254", 5);
    ask(world, "some", "a.example.org", "A");
    assert_eq!(time_to_go(&some, "192.0.2.254").map(|(whole, _)| whole), Some(900));
    // What others take away is there again, for what is left of its time.
    let nft = |command: &str| {
        let status = Command::new("nft").arg(command).status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
    };
    nft("flush ruleset");
    wait_until("it may go there again", LONG, || connect(world, "some", "192.0.2.254:80") == "ok");
    let left = time_to_go(&some, "192.0.2.254").expect("given back");
    assert!(left.1 <= 900 && left.1 > 600, "{left:?}");
    assert_ne!(connect(world, "some", "192.0.2.254:81"), "ok");
    // The next supervisor keeps what it finds, and knows it for its own. Meanwhile the time of one place is over, which the
    // kernel sees to. (An hour is too long to wait here.)
    wait_until("it is connected", LONG, || has_file(world, "holder", "/tmp/open"));
    world.kill_supervisor();
    for from in [&some, &holder] {
        let element = format!("{{ {from} . 198.51.100.1 . tcp . 80");
        nft(&format!("delete element inet ptest named {element} }}"));
        nft(&format!("add element inet ptest named {element} timeout 1s }}"));
        wait_until("it is over", LONG, || time_to_go(from, "198.51.100.1").is_none());
    }
    world.start();
    let left = time_to_go(&some, "192.0.2.254").expect("kept");
    assert!(left.1 <= 900 && left.1 > 600, "{left:?}");
    wait_until("taken over", LONG, || connect(world, "some", "192.0.2.254:80") == "ok");
    assert_ne!(connect(world, "some", "198.51.100.1:80"), "ok", "its time is over");
    ask(world, "some", "alias.example.org", "A");
    assert!(time_to_go(&some, "198.51.100.1").is_some(), "let there before it is answered");
    wait_until("it has asked again", LONG, || connect(world, "some", "198.51.100.1:80") == "ok");
    // What stands goes on; nothing else begins.
    assert_ne!(connect(world, "holder", "198.51.100.1:80"), "ok");
    world.ok(&["exec", "holder", "--", "/usr/bin/touch", "/tmp/go"]);
    wait_until("it is answered", LONG, || has_file(world, "holder", "/tmp/out"));
    world.ok(&["restart", "some"]);
    wait_until("its network is the same", LONG, || connect(world, "some", "192.0.2.254:80") == "ok");
    world.ok(&["stop", "some"]);
    assert_eq!(elements("named"), Vec::<Value>::new(), "it goes with the network");
    world.ok(&["start", "some"]);
    world.wait_state("some", "active");
    assert_ne!(connect(world, "some", "192.0.2.254:80"), "ok", "it has not asked yet");
    outside.close(world);
}

pub fn where_a_name_leads_with_ipv6_its_service_may_go(world: &mut World) {
    // Asked over IPv6 as well.
    let (upstream, outside) = (Upstream::start(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)), furnish());
    upstream.set("six", OUTSIDE, 600);
    write(world, "some", "network.egress = [\"*.example.org:80\"]\nnetwork.dns = [\"::1\"]");
    write(world, "victim", "");
    up(world, &["some", "victim"]);
    let server = outside.server();
    let target = format!("[{OUTSIDE}]:80");
    assert_ne!(connect(world, "some", &target), "ok", "it has not asked yet");
    assert_eq!(ask(world, "some", "six.example.org", "A"), "NoError []");
    assert_eq!(ask(world, "some", "six.example.org", "AAAA"), format!("NoError [AAAA {OUTSIDE} 600]"));
    wait_until("it is answered", LONG, || connect(world, "some", &target) == "ok");
    world.kill_supervisor();
    world.start();
    assert_eq!(elements("named6").len(), 1);
    wait_until("taken over", LONG, || connect(world, "some", &target) == "ok");
    for (n, place) in
        [&*address6(world, "victim"), "fd00:ec2::254", "fd50:5300:83::1"].into_iter().enumerate()
    {
        upstream.set(&format!("n{n}"), place, 60);
        wait_until("it is told", LONG, || {
            ask(world, "some", &format!("n{n}.example.org"), "AAAA") == format!("NoError [AAAA {place} 60]")
        });
        assert_ne!(connect(world, "some", &format!("[{place}]:80")), "ok");
    }
    world.ok(&["stop", "some"]);
    assert_eq!(elements("named6"), Vec::<Value>::new(), "it goes with the network");
    assert_eq!(world.stop(), Ok(()));
    drop((server, outside));
}

pub fn a_name_that_leads_inside_leads_nowhere(world: &mut World) {
    let (upstream, outside) = (Names::start(world), Outside::open());
    write(world, "some", "network.egress = [\"*.example.org:80\", \"*.example.org:81\"]");
    write(world, "victim", "");
    up(world, &["some", "victim"]);
    let listener = std::net::TcpListener::bind("0.0.0.0:81").expect("the port is free");
    let victim = address(world, "victim");
    let reached = [(&*victim, 80), ("169.254.169.254", 81), ("10.83.0.1", 81), ("192.0.2.1", 81)];
    let others = ["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"].map(|address| (address, 0));
    for (n, (place, _)) in reached.into_iter().chain(others).enumerate() {
        upstream.set(&format!("n{n}"), place, 60);
        let said = ask(world, "some", &format!("n{n}.example.org"), "A");
        assert_eq!(said, format!("NoError [A {place} 60]"), "what it is told is no secret");
    }
    for (place, port) in reached {
        assert_ne!(connect(world, "some", &format!("{place}:{port}")), "ok");
    }
    let some = address(world, "some");
    assert!(others.iter().all(|(place, _)| time_to_go(&some, place).is_none()), "{:?}", elements("named"));
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "somebody got through");
    outside.close(world);
}
