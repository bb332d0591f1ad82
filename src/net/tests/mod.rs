//! The network on the real kernel: every test has a host of its own (a thread in a fresh network namespace) with an
//! uplink to an outside, and leaves nothing, because a namespace takes everything with it.
//!
//! What was dropped is read from the table's counters and from sockets that stay empty, never from a time that passed.

mod others;
mod packets;
mod parts;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};

use super::{
    addr::{NetworkSettings, Prefix4, Prefix6, Talk},
    bridge, forwarding,
    link::{self, LinkPlan},
    netlink::Netlink,
    netns::NetNs,
    nft::{Element, Table},
    sysctl,
};
use crate::spec::{Destination, Door, Proto, Publish};

/// Long enough for a machine under load; only a failing test ever waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

const HOST: IpAddr = V4.host;
const OUTSIDE: IpAddr = V4.outside;
const GATEWAY: IpAddr = V4.gateway;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Who is who in one family.
#[derive(Debug)]
struct Side {
    host: IpAddr,
    outside: IpAddr,
    gateway: IpAddr,
    /// Every address.
    any: IpAddr,
    /// Of the services' prefix, and nobody's.
    nobody: IpAddr,
    /// Tells a machine in a cloud its secrets.
    metadata: IpAddr,
}

const V4: Side = Side {
    host: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    outside: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    gateway: IpAddr::V4(Ipv4Addr::new(10, 83, 0, 1)),
    any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    nobody: IpAddr::V4(Ipv4Addr::new(10, 83, 200, 1)),
    metadata: IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
};

const V6: Side = Side {
    host: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    outside: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    gateway: IpAddr::V6(Ipv6Addr::new(0xfd50, 0x5300, 0, 0, 0, 0, 0, 1)),
    any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    nobody: IpAddr::V6(Ipv6Addr::new(0xfd50, 0x5300, 0, 0, 0, 0, 0xc8, 1)),
    metadata: IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
};

impl Side {
    fn is_ipv6(&self) -> bool {
        self.host.is_ipv6()
    }

    /// What has ip(8) give an address at once.
    fn now(&self) -> &'static str {
        if self.is_ipv6() { " nodad" } else { "" }
    }

    /// `at` as it stands before a port.
    fn publish(&self, at: IpAddr, rest: &str) -> Publish {
        let address = if self.is_ipv6() { format!("[{at}]") } else { at.to_string() };
        publish(&format!("{address}:{rest}"))
    }
}

/// The host's side of one test. Its thread is in the host's namespace.
struct World {
    host: NetNs,
    outside: NetNs,
    socket: Netlink,
    settings: NetworkSettings,
    links: Vec<LinkPlan>,
    /// The bridge that all links are on; none: they are on none.
    bridge: Option<&'static str>,
    /// Whose addresses the guests tell.
    side: &'static Side,
}

/// A service's namespace and address.
struct Guest {
    netns: NetNs,
    address: IpAddr,
    plan: LinkPlan,
}

/// Runs `test` on a host of its own. Without root there is none: passed over, unless PALISADE_TEST_REQUIRE is set.
fn on_a_host(test: impl FnOnce(&mut World) + Send + 'static) {
    on_a_host_named("host", test);
}

/// `name` is what a panic says.
fn on_a_host_named(name: &str, test: impl FnOnce(&mut World) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("PALISADE_TEST_REQUIRE").is_none(), "needs root");
        println!("ignored (needs root)");
        return;
    }
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test(&mut World::new());
    };
    if let Err(panic) = thread::Builder::new().name(name.to_owned()).spawn(body).unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// The same in both families and over both kinds of link, each on a host of its own.
fn in_both(test: fn(&mut World, &'static Side)) {
    for (side, bridge) in [(&V4, None), (&V6, None), (&V4, Some("apps")), (&V6, Some("apps"))] {
        let family = if side.is_ipv6() { "IPv6" } else { "IPv4" };
        on_a_host_named(&format!("{family} {}", bridge.unwrap_or("routed")), move |world| {
            (world.side, world.bridge) = (side, bridge);
            filter_bridged(false);
            test(world, side);
        });
    }
}

/// Whether the packet filter sees what passes a bridge before it gets to the host's routing (br_netfilter, which Docker loads
/// and some kernels have).
fn filter_bridged(is_on: bool) {
    for family in ["ip", "ip6"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
        let value = if is_on { "1" } else { "0" };
        if std::fs::exists(&path).unwrap() {
            std::fs::write(&path, value).unwrap();
        }
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
            "addr add 2001:db8::1/64 dev up0 nodad",
            // No address of its own making: it would come some time later, with its routes.
            "link set up0 addrgenmode none",
            "link set up0 up",
            "route add default via 192.0.2.2",
            "route add default via 2001:db8::2",
        ] {
            run(&format!("ip {line}"));
        }
        run_in(&outside, "ip addr add 192.0.2.2/24 dev eth0");
        run_in(&outside, "ip addr add 2001:db8::2/64 dev eth0 nodad");
        run_in(&outside, "ip link set eth0 up");
        until("the uplink has its carrier", || {
            let routes = run("ip route show table all") + &run_in(&outside, "ip route show table all");
            let late = ["ff00::/8 dev up0", "local 2001:db8::1 dev up0", "local 2001:db8::2 dev eth0"];
            !routes.contains("linkdown") && late.iter().all(|route| routes.contains(route))
        });
        let prefix6 = Some("fd50:5300::/64".parse::<Prefix6>().unwrap());
        let settings = NetworkSettings { prefix6, ..NetworkSettings::default() };
        Self {
            host,
            outside,
            socket: Netlink::route().unwrap(),
            settings,
            links: Vec::new(),
            bridge: None,
            side: &V4,
        }
    }

    fn guest(&mut self, slot: u32, publish: &[Publish]) -> Guest {
        let mut plan = LinkPlan::new(&self.settings, (slot, 0), None, publish).unwrap();
        plan.bridge = self.bridge.map(|name| self.settings.bridge_if(name));
        if let Some(name) =
            plan.bridge.as_deref().filter(|_| !self.links.iter().any(|link| link.bridge == plan.bridge))
        {
            bridge::create(&mut self.socket, name, &plan).unwrap();
        }
        let netns = NetNs::create().unwrap();
        link::create(&mut self.socket, &netns, &plan).unwrap();
        self.links.push(plan.clone());
        // Where the table is there already; else with it.
        let _ = Table::attach(&self.settings).unwrap().add(&Element::of_link(&plan));
        let address = plan.addresses().find(|address| address.is_ipv6() == self.side.is_ipv6()).unwrap();
        Guest { netns, address, plan }
    }

    /// Switches forwarding on for what arrives on an interface of the host; what guards it.
    fn open(&self, interface: &str) -> Vec<Element> {
        let all = forwarding::wanted(interface, self.side.is_ipv6()).unwrap();
        for (key, value) in &all {
            sysctl::set(key, value).unwrap();
        }
        all.iter().filter_map(|(key, _)| forwarding::element(key)).collect()
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
        tcp(&self.netns, SocketAddr::new(self.address, port))
    }

    fn udp(&self, port: u16) -> UdpSocket {
        udp(&self.netns, SocketAddr::new(self.address, port))
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

fn tcp(netns: &NetNs, at: SocketAddr) -> TcpListener {
    netns.within(|| TcpListener::bind(at)).unwrap().unwrap()
}

fn udp(netns: &NetNs, at: SocketAddr) -> UdpSocket {
    let socket = netns.within(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// `[addr:]hostport:port/proto` as a service file has it.
fn publish(text: &str) -> Publish {
    let (rest, proto) = text.split_once('/').unwrap();
    let mut parts: Vec<&str> = rest.rsplitn(3, ':').collect();
    parts.reverse();
    let proto = if proto == "tcp" { Proto::Tcp } else { Proto::Udp };
    Publish {
        address: parts[0].trim_matches(['[', ']']).parse().unwrap(),
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
fn talk(server: &TcpListener, from: &NetNs, to: (IpAddr, u16)) -> IpAddr {
    let mut client =
        from.within(|| TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)).unwrap().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut accepted, peer) = server.accept().unwrap();
    accepted.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    peer.ip()
}

/// A question and an answer over UDP; returns whom the server saw.
fn ask(server: &UdpSocket, from: &NetNs, to: (IpAddr, u16)) -> IpAddr {
    let any = if to.0.is_ipv6() { V6.any } else { V4.any };
    let client = udp(from, SocketAddr::new(any, 0));
    client.connect(to).unwrap();
    client.send(b"?").unwrap();
    let mut heard = [0; 8];
    let (_, peer) = whole(|| server.recv_from(&mut heard));
    server.send_to(b"!", peer).unwrap();
    assert_eq!(whole(|| client.recv(&mut heard)), 1);
    peer.ip()
}

/// A signal to another test's child may interrupt a call that has a time limit.
fn retried<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn whole<T>(call: impl FnMut() -> std::io::Result<T>) -> T {
    retried(call).unwrap()
}

/// One datagram that nobody is expected to get.
fn shout(from: &NetNs, to: (IpAddr, u16)) {
    let any = if to.0.is_ipv6() { V6.any } else { V4.any };
    let client = udp(from, SocketAddr::new(any, 0));
    client.send_to(b"?", to).unwrap();
}

fn assert_empty(server: &UdpSocket) {
    server.set_nonblocking(true).unwrap();
    let error = server.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
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
    loop {
        // Looked at once more when the time is over: to look may take all of it.
        let is_late = start.elapsed() > PATIENCE;
        if is_so() {
            return;
        }
        assert!(!is_late, "waited for: {what}");
        thread::yield_now();
    }
}

fn until_counted(name: &str, packets: u64) {
    until(&format!("{name} = {packets}"), || counted(name) >= packets);
    assert_eq!(counted(name), packets, "{name}");
}

/// The elements of a set or map, as nft prints them in JSON.
fn elements(table: &str, set: &str) -> Vec<String> {
    let kind = if set.starts_with("exact") || set.starts_with("wildcard") { "map" } else { "set" };
    let text = run(&format!("nft -j list {kind} inet {table} {set}"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["nftables"][1][kind]["elem"].as_array().into_iter().flatten().map(ToString::to_string).collect()
}
