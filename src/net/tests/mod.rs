//! The network on the real kernel: every test has a host of its own (a thread in a fresh network namespace) with an
//! uplink to an outside, and leaves nothing, because a namespace takes everything with it.
//!
//! What was dropped is read from the table's counters and from sockets that stay empty, never from a time that passed.

mod packets;
mod parts;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};

use super::{
    addr::{NetworkSettings, Prefix4, Talk},
    link::{self, LinkPlan},
    netlink::Netlink,
    netns::NetNs,
    nft::{Element, Table},
};
use crate::spec::{Destination, Door, Proto, Publish};

/// Long enough for a machine under load; only a failing test ever waits so long.
const PATIENCE: Duration = Duration::from_secs(10);

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 1);

/// The host's side of one test. Its thread is in the host's namespace.
struct World {
    host: NetNs,
    outside: NetNs,
    socket: Netlink,
    settings: NetworkSettings,
    links: Vec<LinkPlan>,
}

/// A service's namespace and address.
struct Guest {
    netns: NetNs,
    address: Ipv4Addr,
    plan: LinkPlan,
}

/// Runs `test` on a host of its own. Without root there is none: passed over, unless PALISADE_TEST_REQUIRE is set.
fn on_a_host(test: impl FnOnce(&mut World) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("PALISADE_TEST_REQUIRE").is_none(), "needs root");
        println!("ignored (needs root)");
        return;
    }
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test(&mut World::new());
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

impl World {
    fn new() -> Self {
        let (host, outside) = (NetNs::own().unwrap(), NetNs::create().unwrap());
        let at = format!("/proc/{}/fd/{}", std::process::id(), outside.as_fd().as_raw_fd());
        run(&format!("ip link add up0 type veth peer name eth0 netns {at}"));
        for line in [
            "link set lo up",
            "addr add 192.0.2.1/24 dev up0",
            // No address of its own making: it would come some time later, with its routes.
            "link set up0 addrgenmode none",
            "link set up0 up",
            "route add default via 192.0.2.2",
        ] {
            run(&format!("ip {line}"));
        }
        run_in(&outside, "ip addr add 192.0.2.2/24 dev eth0");
        run_in(&outside, "ip link set eth0 up");
        until("the uplink has its carrier", || {
            let routes = run("ip route show table all");
            !routes.contains("linkdown") && routes.contains("ff00::/8 dev up0")
        });
        let settings = NetworkSettings::default();
        Self { host, outside, socket: Netlink::route().unwrap(), settings, links: Vec::new() }
    }

    fn guest(&mut self, slot: u32, publish: &[Publish]) -> Guest {
        let plan = LinkPlan::new(&self.settings, (slot, 0), None, publish).unwrap();
        let netns = NetNs::create().unwrap();
        link::create(&mut self.socket, &netns, &plan).unwrap();
        self.links.push(plan.clone());
        // Where the table is there already; else with it.
        let _ = Table::attach(&self.settings).unwrap().add(&Element::of_link(&plan));
        Guest { netns, address: plan.address, plan }
    }

    fn table(&self) -> Table {
        let mut table = Table::open(&self.settings).unwrap();
        let links: Vec<Element> = self.links.iter().flat_map(Element::of_link).collect();
        table.add(&links).unwrap();
        table
    }
}

impl Guest {
    fn tcp(&self, port: u16) -> TcpListener {
        tcp(&self.netns, SocketAddrV4::new(self.address, port))
    }

    fn udp(&self, port: u16) -> UdpSocket {
        udp(&self.netns, SocketAddrV4::new(self.address, port))
    }
}

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let out = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn run_in(netns: &NetNs, command: &str) -> String {
    netns.within(|| run(command)).unwrap()
}

fn json(netns: &NetNs, command: &str) -> serde_json::Value {
    let text = run_in(netns, command);
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).unwrap()
}

/// Names alone: an interface's state follows its carrier whenever the kernel gets to it.
fn link_names() -> Vec<String> {
    let lines = run("ip -br link");
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn tcp(netns: &NetNs, at: SocketAddrV4) -> TcpListener {
    netns.within(|| TcpListener::bind(at)).unwrap().unwrap()
}

fn udp(netns: &NetNs, at: SocketAddrV4) -> UdpSocket {
    let socket = netns.within(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// `[addr:]hostport:port/proto` as a service file has it.
fn publish(text: &str) -> Publish {
    let (rest, proto) = text.split_once('/').unwrap();
    let parts: Vec<&str> = rest.split(':').collect();
    let proto = if proto == "tcp" { Proto::Tcp } else { Proto::Udp };
    Publish {
        address: parts[0].parse().unwrap(),
        host_port: parts[1].parse().unwrap(),
        port: parts[2].parse().unwrap(),
        proto,
    }
}

/// A place outside.
fn destination(net: &str, door: Door) -> Destination {
    Destination { net: net.parse().unwrap(), door }
}

/// A whole conversation over TCP; returns whom the server saw.
fn talk(server: &TcpListener, from: &NetNs, to: (Ipv4Addr, u16)) -> Ipv4Addr {
    let mut client =
        from.within(|| TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)).unwrap().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut accepted, peer) = server.accept().unwrap();
    accepted.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    v4(peer)
}

/// A question and an answer over UDP; returns whom the server saw.
fn ask(server: &UdpSocket, from: &NetNs, to: (Ipv4Addr, u16)) -> Ipv4Addr {
    let client = udp(from, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    client.connect(to).unwrap();
    client.send(b"?").unwrap();
    let mut heard = [0; 8];
    let (_, peer) = server.recv_from(&mut heard).unwrap();
    server.send_to(b"!", peer).unwrap();
    assert_eq!(client.recv(&mut heard).unwrap(), 1);
    v4(peer)
}

/// One datagram that nobody is expected to get.
fn shout(from: &NetNs, to: (Ipv4Addr, u16)) {
    let client = udp(from, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    client.send_to(b"?", to).unwrap();
}

fn assert_empty(server: &UdpSocket) {
    server.set_nonblocking(true).unwrap();
    let error = server.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

fn v4(peer: SocketAddr) -> Ipv4Addr {
    match peer {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(peer) => panic!("{peer} is not IPv4"),
    }
}

/// Packets that the table has refused for this reason.
fn counted(name: &str) -> u64 {
    counted_in("palisade", name)
}

fn counted_in(table: &str, name: &str) -> u64 {
    let text = run(&format!("nft -j list counter inet {table} {name}"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

/// Waits for the kernel to have worked off a packet: forwarding runs in softirqs, after send(2) has returned.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited for: {what}");
        thread::yield_now();
    }
}

fn until_counted(name: &str, packets: u64) {
    until(&format!("{name} = {packets}"), || counted(name) >= packets);
    assert_eq!(counted(name), packets, "{name}");
}

/// The elements of a set or map, as nft prints them in JSON.
fn elements(table: &str, set: &str) -> Vec<String> {
    let kind = if matches!(set, "exact" | "wildcard") { "map" } else { "set" };
    let text = run(&format!("nft -j list {kind} inet {table} {set}"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["nftables"][1][kind]["elem"].as_array().into_iter().flatten().map(ToString::to_string).collect()
}
