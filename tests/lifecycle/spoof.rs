//! What a service with CAP_NET_RAW and CAP_NET_ADMIN can do to others: nothing. The judges are packet sockets in the other
//! service's network namespace and on the host's uplink, and raw sockets of the host, which hear what passed its filter.

use std::{
    collections::BTreeSet,
    fs::File,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    LONG, World, frames, wait_until,
    world::{PROBE, describe, http_get, wait_http},
};

const POWERS: &str =
    "service.user = \"root\"\nsecurity.capabilities = [\"CAP_NET_RAW\", \"CAP_NET_ADMIN\"]\n";
const BRIDGE: &str = "network.bridge = \"apps\"\n";
/// Of the host, beside the gateway's: its uplink's, the metadata service's, two of loopback's.
const HOST: [&str; 4] = ["192.0.2.1", "169.254.169.254", "127.0.0.1", "127.0.0.53"];

/// A process that hears, in the network namespace of another or of the host.
struct Ear {
    process: Child,
    file: File,
}

impl Ear {
    fn new(world: &World, name: &str, of: Option<&str>, args: &[&str]) -> Self {
        let path = world.dir().join(format!("ear-{name}"));
        let out = File::create(&path).expect("our own directory");
        let me = std::env::current_exe().expect("own path");
        let mut command = match of {
            None => Command::new(&me),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={netns}")).arg(&me);
                command
            }
        };
        let process = command.arg("__probe").args(args).stdout(out).stdin(Stdio::null()).spawn();
        let file = File::open(path).expect("made just now");
        let mut ear = Self { process: process.expect("util-linux is installed"), file };
        wait_until(&format!("{name} listens"), LONG, || ear.heard().contains("listening"));
        ear
    }

    fn heard(&mut self) -> BTreeSet<String> {
        frames::heard(&mut self.file).lines().map(str::to_owned).collect()
    }

    /// What was heard until now: everything sent before `control` has arrived when that has.
    fn until(&mut self, control: &str) -> BTreeSet<String> {
        wait_until(&format!("{control} is heard"), LONG, || self.heard().contains(control));
        let mut heard = self.heard();
        heard.retain(|name| name != "listening" && !name.starts_with("control"));
        heard
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", describe(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn json(command: &str) -> Value {
    let text = sh(command);
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).expect("ip prints JSON")
}

/// The names of the links that a condition of ip(8) selects, such as `type veth`.
pub fn links(which: &str) -> Vec<String> {
    let all = json(&format!("ip -j link show {which}"));
    // Where the kernel has not looked (a module that is not loaded), it prints those that it leaves out as nothing.
    let names = all.as_array().expect("a list").iter().filter_map(|link| link["ifname"].as_str());
    names.map(str::to_owned).collect()
}

/// A network namespace of the test's, for as long as a process in it is held.
pub struct Place(Child);

impl Place {
    fn new() -> Self {
        let sleep =
            Command::new("unshare").args(["-n", "sleep", "3600"]).spawn().expect("util-linux is installed");
        let place = Self(sleep);
        let own = std::fs::read_link("/proc/self/ns/net").expect("proc is mounted");
        wait_until("it has left ours", LONG, || {
            std::fs::read_link(place.path()).is_ok_and(|other| other != own)
        });
        place
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// A probe there that answers HTTP on port 80.
    pub fn server(&self) -> impl Drop + use<> {
        let me = std::env::current_exe().expect("own path");
        let mut command = Command::new("nsenter");
        let command = command.arg(format!("--net={}", self.path())).arg(me).args(["__probe", "http", "80"]);
        Place(command.spawn().expect("util-linux is installed"))
    }

    pub fn sh(&self, command: &str) -> String {
        sh(&format!("nsenter --net={} sh -ec '{command}'", self.path()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Gives the world's host an uplink, and the addresses of [`HOST`]. Whoever holds the result is the outside.
pub fn furnish_host() -> Place {
    let outside = Place::new();
    sh(&format!(
        "ip link add up0 type veth peer name eth0 netns {}
         echo 0 > /proc/sys/net/ipv6/conf/up0/accept_dad
         ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
         ip addr add 169.254.169.254/32 dev up0; ip route add default via 192.0.2.254
         ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:fe dev up0 nud permanent",
        outside.0.id()
    ));
    outside.sh("ip link set eth0 up");
    // The kernel takes its own address in later, and that one's routes: what is compared has to have them.
    wait_until("the uplink has its own address", LONG, || {
        sh("ip -6 -br addr show dev up0 scope link -tentative").contains("fe80::")
    });
    outside
}

fn send_from_host(to: &str, name: &str) {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.send_to(&frames::mark(name), to).unwrap_or_else(|error| panic!("{to}: {error}"));
}

/// The attacker's and the victim's places on the host: hardware addresses and addresses.
struct Places {
    own: [String; 2],
    victim: [String; 2],
    gateway: [String; 2],
}

fn places(world: &World) -> Places {
    let address = |name: &str| {
        let all = world.address(name);
        all.split('/').next().unwrap_or_default().to_owned()
    };
    let routes = json("ip -j route");
    let of = |name: &str| {
        let address = address(name);
        let routes = routes.as_array().expect("a list");
        let link =
            routes.iter().find(|route| route["dst"] == address.as_str()).expect("a route to it")["dev"]
                .clone();
        let link = link.as_str().expect("text").to_owned();
        let neighbours = json(&format!("ip -j neigh show dev {link}"));
        let mut neighbours = neighbours.as_array().expect("a list").iter();
        let guest = neighbours.find(|one| one["dst"] == address.as_str()).expect("a permanent neighbour");
        let guest = guest["lladdr"].as_str().expect("text").to_owned();
        let host =
            json(&format!("ip -j link show dev {link}"))[0]["address"].as_str().expect("a MAC").to_owned();
        ([guest, address], host)
    };
    let ((own, gateway), (victim, _)) = (of("liar"), of("victim"));
    Places { own, victim, gateway: [gateway, "10.83.0.1".to_owned()] }
}

/// The whole catalogue, sent by the service `liar` from within.
fn attack(world: &World, at: &Places, interface: &str) {
    let mut args = vec!["exec", "liar", "--", PROBE, "__probe", "attack", interface];
    args.extend(at.own.iter().chain(&at.gateway).chain(&at.victim).map(String::as_str));
    args.extend(HOST);
    let said = world.ok(&args);
    assert!(said.starts_with("sent "), "{said}");
}

/// `keys` are of both.
fn start(world: &mut World, keys: &str) -> Place {
    let outside = furnish_host();
    let publish = |port: u16| format!("network.publish = [\"{port}:80\", \"0.0.0.0:{port}:81/udp\"]");
    let liar = world.probe_toml(&["http", "80"], &format!("{POWERS}{keys}{}", publish(8081)));
    world.write_service("liar", &liar);
    world.write_service("victim", &world.probe_toml(&["http", "80"], &format!("{keys}{}", publish(8082))));
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "liar");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "victim");
    outside
}

/// Neighbours, addresses and routes of the host, as far as they stay what they are while nothing happens.
fn host_state() -> [Value; 4] {
    let mut neighbours = json("ip -j neigh");
    for one in neighbours.as_array_mut().into_iter().flatten() {
        one["state"].take();
    }
    [neighbours, json("ip -j route show table all"), json("ip -j -6 addr"), json("ip -j -4 addr")]
}

/// The ears of the victim, of the host and at its uplink.
fn ears(world: &World) -> [Ear; 3] {
    let victim = format!("/proc/{}/ns/net", world.pid("victim"));
    [
        Ear::new(world, "victim", Some(&victim), &["sniff", "eth0"]),
        Ear::new(world, "host", None, &["listen"]),
        Ear::new(world, "uplink", None, &["sniff", "up0"]),
    ]
}

/// What each of the three heard, once a packet that may pass has got to all of them.
fn verdict(ears: &mut [Ear; 3], at: &Places, round: &str) -> [BTreeSet<String>; 3] {
    let control = format!("control-{round}");
    let [victim, host, uplink] = ears;
    send_from_host(&format!("{}:{}", at.victim[1], frames::PORT), &control);
    send_from_host(&format!("127.0.0.1:{}", frames::PORT), &control);
    send_from_host(&format!("203.0.113.1:{}", frames::PORT), &control);
    [victim.until(&control), host.until(&control), uplink.until(&control)]
}

fn nothing() -> [BTreeSet<String>; 3] {
    [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()]
}

pub fn raw_packets_reach_nobody(world: &mut World) {
    raw_packets(world, "");
}

pub fn raw_packets_reach_nobody_on_the_same_bridge(world: &mut World) {
    raw_packets(world, BRIDGE);
}

fn raw_packets(world: &mut World, keys: &str) {
    let outside = start(world, keys);
    let at = places(world);
    let mut ears = ears(world);
    let before = host_state();
    attack(world, &at, "eth0");
    assert_eq!(verdict(&mut ears, &at, "one"), nothing(), "heard by the victim, the host, its uplink");
    assert_eq!(host_state(), before, "neighbours, routes and addresses of the host");
    // Neither is in anybody's way afterwards.
    assert_eq!(http_get("127.0.0.1:8081", "/").as_deref(), Ok("liar"));
    assert_eq!(http_get("127.0.0.1:8082", "/").as_deref(), Ok("victim"));
    drop((ears, outside));
}

/// As root of the service `liar`.
fn inside(world: &World, command: &str) {
    let output = world.palisade(&["exec", "liar", "--", "/bin/sh", "-ec", command]);
    assert!(output.status.success(), "{command}: {}", describe(&output));
}

/// Does to its own network whatever a service with power over it can, and sends the whole catalogue each time.
fn abuse(world: &World, at: &Places, ears: &mut [Ear; 3]) {
    let links = sh("ip -br link | cut -d' ' -f1");
    // (what it does to its own network, what its interface is called then)
    let (victim_mac, victim) = (&at.victim[0], &at.victim[1]);
    let steps = [
        (format!("ip addr add {victim}/32 dev eth0; ip addr add 10.83.0.1/32 dev lo"), "eth0"),
        (
            "ip route flush table main; ip route add default dev eth0; ip neigh flush nud all dev eth0"
                .to_owned(),
            "eth0",
        ),
        (format!("ip link set eth0 address {victim_mac}"), "eth0"),
        ("ip link set eth0 promisc on allmulticast on arp off".to_owned(), "eth0"),
        ("ip link set eth0 down; ip link set eth0 up".to_owned(), "eth0"),
        (
            "ip link set eth0 down; ip link set eth0 name wan7; ip link set wan7 up mtu 65535".to_owned(),
            "wan7",
        ),
        ("ip link add link wan7 name mv0 type macvlan; ip link set mv0 up".to_owned(), "mv0"),
        (
            "ip link del mv0; ip link add br7 type bridge; ip link set wan7 master br7; ip link set br7 up"
                .to_owned(),
            "br7",
        ),
    ];
    for (n, (command, interface)) in steps.iter().enumerate() {
        inside(world, command);
        attack(world, at, interface);
        let heard = verdict(ears, at, &n.to_string());
        assert_eq!(heard, nothing(), "heard by the victim, the host, its uplink after {command}");
        assert_eq!(sh("ip -br link | cut -d' ' -f1"), links, "links of the host after {command}");
        assert_eq!(http_get("127.0.0.1:8082", "/").as_deref(), Ok("victim"), "after {command}");
    }
}

pub fn power_over_the_network_of_a_bridges_port_is_power_over_that_alone(world: &mut World) {
    let outside = start(world, BRIDGE);
    let at = places(world);
    let mut ears = ears(world);
    abuse(world, &at, &mut ears);
    let ports = || links("type veth").len();
    let all = ports();
    inside(world, "ip link del wan7");
    wait_until("its port is gone", LONG, || ports() == all - 1);
    assert_eq!(http_get("127.0.0.1:8082", "/").as_deref(), Ok("victim"));
    world.ok(&["restart", "liar"]);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "liar");
    let again = places(world);
    assert_eq!((again.own, again.gateway), (at.own, at.gateway));
    drop((ears, outside));
}

pub fn power_over_the_network_is_power_over_its_own_alone(world: &mut World) {
    let outside = start(world, "");
    let at = places(world);
    let mut ears = ears(world);
    abuse(world, &at, &mut ears);
    // The host's own end goes with the service's; what was translated for it goes nowhere else.
    inside(world, "ip link del wan7");
    wait_until("its link is gone", LONG, || !sh("ip -br link").contains(&at.gateway[0]));
    for (from, to) in [("192.0.2.1:0", "192.0.2.1:8081"), ("0.0.0.0:0", "127.0.0.1:8081")] {
        let socket = std::net::UdpSocket::bind(from).expect("a port");
        // An error is as good as silence.
        let _ = socket.send_to(&frames::mark("to-the-gone"), to);
    }
    let heard = verdict(&mut ears, &at, "gone");
    assert!(!heard[2].iter().any(|name| name.starts_with("to-the-gone")), "at the uplink: {heard:?}");
    // Another run has it all again, as it was.
    world.ok(&["restart", "liar"]);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "liar");
    let again = places(world);
    assert_eq!((again.own, again.gateway), (at.own, at.gateway));
    drop((ears, outside));
}

pub fn a_network_of_its_own_is_new_in_every_run(world: &mut World) {
    let keys = format!(
        "{POWERS}network.publish = [\"8081:80\"]\nrestart.policy = \"always\"\nrestart.delay = \"10ms\""
    );
    world.write_service("web", &world.probe_toml(&["http", "80"], &keys));
    let in_place = format!(
        "{POWERS}network.publish = [\"8082:80\"]\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"\nrestart.mode = \"in-place\""
    );
    world.write_service("stays", &world.probe_toml(&["http", "80"], &in_place));
    world.start();
    let namespace = |world: &World, name: &str, kind: &str| {
        std::fs::read_link(format!("/proc/{}/ns/{kind}", world.pid(name))).expect("it lives")
    };
    let report = |port: u16| -> Value {
        serde_json::from_str(&wait_http(&format!("127.0.0.1:{port}"), "/report")).expect("JSON")
    };
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "stays");
    let first = report(8081);
    assert_eq!(first["interfaces"], serde_json::json!(["lo", "eth0"]));
    let (address, before) = (world.address("web"), namespace(world, "web", "net"));
    // Held, so that the kernel, which gives the number of a namespace that is gone to the next one, cannot.
    let held = std::fs::File::open(format!("/proc/{}/ns/net", world.pid("web"))).expect("it lives");
    // The kernel's word for whose it is, through a program that asks it: sysfs is mounted by who owns the namespace.
    let links = world.ok(&["exec", "web", "--", "/bin/ls", "/sys/class/net"]);
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
    for hidden in ["/sys/firmware", "/sys/kernel/debug"] {
        let output = world.palisade(&["exec", "web", "--", "/bin/ls", hidden]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Permission denied") || said.contains("No such file"), "{}", describe(&output));
    }
    world.ok(&["exec", "web", "--", "/usr/sbin/ip", "link", "add", "left0", "type", "bridge"]);
    for name in ["web", "stays"] {
        let pid = world.pid(name);
        nix::sys::signal::kill(crate::support::world::raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("it lives");
        wait_until("the next run", LONG, || {
            world.status(name)["pid"].as_u64().is_some_and(|p| p != u64::from(pid))
        });
    }
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "stays");
    assert_ne!(namespace(world, "web", "net"), before);
    drop(held);
    assert_eq!(world.address("web"), address);
    assert_eq!(report(8081)["interfaces"], serde_json::json!(["lo", "eth0"]));
    // Over a change of supervisors it stays, for the run does.
    let (pid, before) = (world.pid("web"), namespace(world, "web", "net"));
    world.kill_supervisor();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    world.start();
    assert_eq!((world.pid("web"), namespace(world, "web", "net")), (pid, before));
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    // And a run that ended while nobody supervised comes back with a network of its own.
    world.kill_supervisor();
    nix::sys::signal::kill(crate::support::world::raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it lives");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    assert_eq!(world.address("web"), address);
}

pub fn a_naive_bridge_lets_every_forgery_through(world: &mut World) {
    let (_outside, liar, victim) = (furnish_host(), Place::new(), Place::new());
    sh("ip link add br0 type bridge; ip addr add 10.90.0.1/24 dev br0; ip link set br0 up
        echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/br0/route_localnet");
    for (name, place, address) in [("liar", &liar, "10.90.0.2"), ("victim", &victim, "10.90.0.3")] {
        let pid = place.0.id();
        sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {pid}; ip link set {name} master br0 up"
        ));
        place.sh(&format!(
            "ip link set lo up; ip link set eth0 up; ip addr add {address}/24 dev eth0
             ip route add default via 10.90.0.1"
        ));
    }
    let mac = |text: String| {
        let links: Value = serde_json::from_str(&text).expect("ip prints JSON");
        links[0]["address"].as_str().expect("a MAC").to_owned()
    };
    let at = Places {
        own: [mac(liar.sh("ip -j link show dev eth0")), "10.90.0.2".to_owned()],
        victim: [mac(victim.sh("ip -j link show dev eth0")), "10.90.0.3".to_owned()],
        gateway: [mac(sh("ip -j link show dev br0")), "10.90.0.1".to_owned()],
    };
    let me = std::env::current_exe().expect("own path").display().to_string();
    let mut ear = Ear::new(world, "victim", Some(&victim.path()), &["sniff", "eth0"]);
    let mut host = Ear::new(world, "host", None, &["listen"]);
    let args: Vec<&str> =
        at.own.iter().chain(&at.gateway).chain(&at.victim).map(String::as_str).chain(HOST).collect();
    // The bridge needs some time to be one.
    let mut rounds = 100_u32;
    wait_until("every one of them is heard", LONG, || {
        // Where the victim is the bridge learns from what it sends: an attack before this one was in its name.
        victim.sh(&format!("{me} __probe knock 10.90.0.1:9"));
        liar.sh(&format!("{me} __probe attack eth0 {}", args.join(" ")));
        let heard: BTreeSet<String> = ear.heard().union(&host.heard()).cloned().collect();
        let missing: Vec<String> = frames::names().into_iter().filter(|name| !heard.contains(name)).collect();
        let all = missing.is_empty();
        assert!(all || rounds > 0, "heard by nobody: {missing:?}");
        rounds = rounds.saturating_sub(1);
        all
    });
    wait_until("the host hears what is sent to each of its addresses", LONG, || {
        let heard = host.heard();
        (0..HOST.len()).all(|n| heard.contains(&format!("to-the-host-{n}")))
    });
    drop((ear, host));
    sh("ip link del br0");
}
