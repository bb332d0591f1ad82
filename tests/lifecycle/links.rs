//! What a file says about a service's link, as the kernel's own counters and tables tell it.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    LONG, World, scaled, wait_until,
    world::{describe, wait_http},
};
use crate::{
    reach::connect,
    spoof::{furnish_host, json, links, sh},
};

/// As root of the host in the network namespace of a service, whose programs are not asked.
fn inside(world: &World, name: &str, command: &str) -> Value {
    json(&format!("nsenter --net=/proc/{}/ns/net {command}", world.pid(name)))
}

fn address(world: &World, name: &str) -> String {
    world.address(name).split('/').next().unwrap_or_default().to_owned()
}

/// The host's end of a service's link: what the host's route to it leads over.
fn host_end(world: &World, name: &str) -> String {
    let route = json(&format!("ip -j route get {}", address(world, name)));
    route[0]["dev"].as_str().expect("a link").to_owned()
}

/// The first qdisc at the host's end and at the service's, with what they have counted.
fn qdiscs(world: &World, name: &str) -> [Value; 2] {
    let host = json(&format!("tc -s -j qdisc show dev {}", host_end(world, name)));
    [host[0].clone(), inside(world, name, "tc -s -j qdisc show dev eth0")[0].clone()]
}

fn rates(world: &World, name: &str) -> [Option<u64>; 2] {
    qdiscs(world, name).map(|qdisc| (qdisc["kind"] == "tbf").then(|| qdisc["options"]["rate"].as_u64())?)
}

fn count(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

pub fn what_a_link_carries_is_bounded_in_both_directions(world: &mut World) {
    let bounds = "network.bandwidth = { ingress = \"20Mbit\", egress = \"1MB/s\", burst = \"32K\" }";
    world.write_service("tcp", &world.probe_toml(&["echo", "80"], bounds));
    // Less by far than an emulated CPU sends.
    let narrow = "network.bandwidth = { ingress = \"2Mbit\", egress = \"1Mbit\", burst = \"32K\" }";
    world.write_service("udp", &world.probe_toml(&["udp", "53"], narrow));
    world.write_service("free", &world.probe_toml(&["echo", "80"], ""));
    world.start();
    for name in ["tcp", "udp", "free"] {
        world.wait_state(name, "active");
    }
    assert_eq!(rates(world, "tcp"), [Some(2_500_000), Some(1_000_000)]);
    assert_eq!(rates(world, "free"), [None, None]);
    let at = format!("{}:80", address(world, "tcp"));
    wait_until("it listens", LONG, || TcpStream::connect(&at).is_ok());
    // Far more than the buckets hold, there and back.
    let sent = vec![7; 512 << 10];
    let mut stream = TcpStream::connect(&at).expect("it listens");
    stream.set_read_timeout(Some(scaled(LONG))).expect("a socket");
    let mut back = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().expect("dup");
        scope.spawn(|| writer.write_all(&sent).map(|()| writer));
        stream.read_exact(&mut back).expect("all of it comes back");
    });
    assert!(back == sent, "whole");
    for qdisc in qdiscs(world, "tcp") {
        assert!(count(&qdisc, "bytes") > 512 << 10, "{qdisc}");
        assert!(count(&qdisc, "overlimits") > 0, "it had to wait: {qdisc}");
    }
    // A flood of datagrams: what does not fit is dropped before it reaches the service, and counted.
    let at = format!("{}:53", address(world, "udp"));
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    wait_until("it echoes", LONG, || socket.send_to(b"?", &at).is_ok() && socket.recv(&mut [0; 8]).is_ok());
    socket.set_nonblocking(true).expect("a socket");
    let sent = (0..4000).filter(|_| socket.send_to(&[7; 1400], &at).is_ok()).count() as u64;
    let settled = || {
        let qdisc = &qdiscs(world, "udp")[0];
        count(qdisc, "packets") + count(qdisc, "drops") >= sent && count(qdisc, "backlog") == 0
    };
    wait_until("the queue has run empty", LONG, settled);
    let [to, from] = qdiscs(world, "udp");
    assert!(count(&to, "drops") > 0 && count(&to, "overlimits") > 0, "{to}");
    let link = inside(world, "udp", "ip -s -j link show dev eth0");
    let got = count(&link[0]["stats64"]["rx"], "packets");
    assert!(got < sent, "{got} of {sent}");
    assert_eq!(got, count(&to, "packets"), "what the qdisc let through, and nothing else: {to}");
    assert!(count(&from, "overlimits") > 0, "the echo is bounded as well: {from}");
    let free = inside(world, "free", "tc -j qdisc show dev eth0");
    assert_eq!(free[0]["kind"], "noqueue");
}

pub fn its_bounds_follow_the_file_and_stay_over_restarts_and_takeovers(world: &mut World) {
    let write = |world: &World, keys: &str| {
        world.write_service("web", &world.probe_toml(&["wait"], keys));
    };
    write(world, "network.bandwidth.ingress = \"20Mbit\"");
    world.start();
    world.wait_state("web", "active");
    assert_eq!(rates(world, "web"), [Some(2_500_000), None]);
    let (run, link) = (world.run_id("web"), host_end(world, "web"));
    // Another bound, in the other direction as well; no restart.
    write(world, "network.bandwidth = { ingress = \"4Mbit\", egress = \"2MiB/s\" }");
    world.ok(&["daemon-reload"]);
    wait_until("the new bounds hold", LONG, || rates(world, "web") == [Some(500_000), Some(2 << 20)]);
    assert_eq!(world.run_id("web"), run);
    // The network is kept over a restart, and so are its bounds.
    world.ok(&["restart", "web"]);
    world.wait_state("web", "active");
    assert_eq!(host_end(world, "web"), link, "the same link");
    assert_eq!(rates(world, "web"), [Some(500_000), Some(2 << 20)]);
    // What somebody has taken away while nobody supervised is there again.
    world.kill_supervisor();
    sh(&format!("tc qdisc del dev {link} root"));
    world.start();
    assert_eq!(rates(world, "web"), [Some(500_000), Some(2 << 20)], "taken over");
    // A file that changed while nobody supervised.
    world.kill_supervisor();
    write(world, "network.bandwidth.egress = \"1Gbit\"");
    world.start();
    wait_until("one bound is left", LONG, || rates(world, "web") == [None, Some(125_000_000)]);
    write(world, "");
    world.ok(&["daemon-reload"]);
    wait_until("nothing is bounded", LONG, || rates(world, "web") == [None, None]);
    // The service cannot do that itself: the namespace that its end is in is the host's.
    write(world, "network.bandwidth.egress = \"1Gbit\"\nservice.user = \"root\"");
    world.ok(&["daemon-reload"]);
    wait_until("it is bounded", LONG, || {
        world.state("web") == "active" && rates(world, "web") == [None, Some(125_000_000)]
    });
    let output =
        world.palisade(&["exec", "web", "--", "/usr/sbin/tc", "qdisc", "del", "dev", "eth0", "root"]);
    assert!(!output.status.success(), "{}", describe(&output));
    assert_eq!(rates(world, "web"), [None, Some(125_000_000)]);
}

pub fn the_end_of_a_service_has_the_name_and_address_of_its_file(world: &mut World) {
    let keys = "network.mac = \"02:00:00:00:00:07\"\nnetwork.publish = [\"8081:80\"]\n\
                network.bandwidth.egress = \"1Gbit\"";
    let write = |world: &World, keys: &str| {
        world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    };
    write(world, &format!("{keys}\nnetwork.interface = \"web0\""));
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    let link = inside(world, "web", "ip -j link show dev web0");
    assert_eq!(link[0]["address"], "02:00:00:00:00:07");
    let neighbours = json(&format!("ip -j neigh show dev {}", host_end(world, "web")));
    assert_eq!(neighbours[0]["lladdr"], "02:00:00:00:00:07");
    assert_eq!(inside(world, "web", "tc -j qdisc show dev web0")[0]["kind"], "tbf");
    // The packet filter lets what comes from this address pass, and nothing that comes from another one.
    let pins = sh("nft -j list set inet ptest pins");
    assert!(pins.contains("02:00:00:00:00:07") && !pins.contains("02:50:"), "{pins}");
    world.kill_supervisor();
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    // Another name is another link, and the kernel's default again.
    write(world, keys);
    world.ok(&["daemon-reload"]);
    wait_until("it has its new name", LONG, || world.state("web") == "active" && world.run_id("web") > 1);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    assert_eq!(inside(world, "web", "ip -j link show dev eth0")[0]["address"], "02:00:00:00:00:07");
}

pub fn addresses_that_somebody_has_are_given_to_nobody(world: &mut World) {
    let web = world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]");
    world.write_service("web", &web);
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    // Another supervisor with the same addresses: it makes nothing, and the first one's service goes on.
    let inner = world.dir().join("other");
    std::fs::create_dir(&inner).expect("a new name");
    let mut other = World::new(inner);
    let config = |prefix: &str| {
        format!(
            "[cgroup]\npath = \"{}-other\"\n[network]\nname = \"pother\"\nprefix4 = \"{prefix}\"\n\
             [ids]\nbase = 1900019712\ncount = 64\n",
            world.name()
        )
    };
    other.write("palisade.toml", &config("10.83.0.0/20"));
    other.write_service("web", &other.probe_toml(&["http", "80"], "network.publish = [\"8082:80\"]"));
    let links = sh("ip -br link | cut -d' ' -f1");
    other.start();
    other.wait_state("web", "failed");
    let fault = other.status("web")["fault"].clone();
    let error = fault["error"].as_str().unwrap_or_default().to_owned();
    assert!(fault["step"].as_str().is_some_and(|step| step.ends_with("veth.create")), "{fault}");
    assert!(error.contains("another supervisor") && error.contains("`prefix4 = \"10."), "{fault}");
    assert_eq!(sh("ip -br link | cut -d' ' -f1"), links);
    assert!(!sh("nft list tables").contains("pother"));
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    assert_eq!(other.stop(), Ok(()));
    // What it says to write helps.
    let free = error.split('"').nth(1).expect("a prefix").to_owned();
    other.write("palisade.toml", &config(&free));
    other.start();
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "web");
    assert_eq!(other.stop(), Ok(()));
    assert_eq!(world.stop(), Ok(()));
    // A network that the host reaches, and one that it is in.
    for (make, named) in [
        ("ip route add 10.83.7.0/24 dev net0", "the route to 10.83.7.0/24 on net0"),
        ("ip addr add 10.83.9.9/32 dev net0", "the address 10.83.9.9 on net0"),
        ("ip -6 route add fd50:5300::/32 dev net0", "the route to fd50:5300::/32 on net0"),
    ] {
        sh(&format!("ip link add net0 type veth peer name net1; ip link set net0 up; {make}"));
        world.start();
        world.wait_state("web", "failed");
        let fault = world.status("web")["fault"].to_string();
        assert!(fault.contains(named), "{fault}");
        assert!(!sh("nft list tables").contains("ptest"));
        sh("ip link del net0");
        world.ok(&["start", "web"]);
        assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
        assert_eq!(world.stop(), Ok(()));
    }
    // A way out in two halves is no network; nor is one that is turned away.
    sh("ip link add net0 type veth peer name net1; ip link set net0 up
        ip route add 0.0.0.0/1 dev net0; ip route add unreachable 10.0.0.0/8");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    // A run beside a supervisor has the same prefix, and counts from its end.
    let once = world.run("service.command = [\"/bin/true\"]");
    assert!(once.status.success(), "{}", describe(&once));
    assert_eq!(world.stop(), Ok(()));
    sh("ip link del net0; ip route del unreachable 10.0.0.0/8");
}

pub fn a_network_is_joined_and_outlives_the_runs_in_it(world: &mut World) {
    let write = |world: &World, keys: &str| {
        world.write_service("main", &world.probe_toml(&["http", "80"], keys));
    };
    write(world, "network.publish = [\"8081:80\", \"8082:81\"]");
    world.write_service("side", &world.probe_toml(&["http", "81"], "network.mode = \"join:main\""));
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "main");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "side", "what its owner publishes leads to it");
    let namespace = |world: &World, name: &str| {
        std::fs::read_link(format!("/proc/{}/ns/net", world.pid(name))).expect("it lives")
    };
    let shared = namespace(world, "main");
    assert_eq!(namespace(world, "side"), shared);
    // Each reaches the other over loopback, though nothing allows it; and all else of the two is apart.
    for (from, port) in [("main", 81), ("side", 80)] {
        wait_until("it is answered", LONG, || connect(world, from, &format!("127.0.0.1:{port}")) == "ok");
    }
    let (main, side) = (world.run_id("main"), world.run_id("side"));
    let pid = crate::support::world::raw(world.pid("main"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it lives");
    wait_until("its owner is back", LONG, || world.run_id("main") != main && world.state("main") == "active");
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "main");
    assert_eq!((world.run_id("side"), namespace(world, "main")), (side, shared.clone()));
    world.ok(&["restart", "side"]);
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "side");
    assert_eq!(namespace(world, "side"), shared);
    // A successor finds them in it, and launches into it.
    let side = world.run_id("side");
    world.kill_supervisor();
    world.start();
    assert_eq!(world.run_id("side"), side);
    world.ok(&["restart", "side"]);
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "side");
    assert_eq!(namespace(world, "side"), shared);
    // Another file of its owner's is another network: it follows.
    let side = world.run_id("side");
    write(world, "network.publish = [\"8081:80\", \"8082:81\"]\nnetwork.interface = \"web0\"");
    world.ok(&["daemon-reload"]);
    wait_until("it has followed", LONG, || world.run_id("side") != side && world.state("side") == "active");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "side");
    assert_eq!(namespace(world, "side"), namespace(world, "main"));
    // Without its owner it is not.
    world.ok(&["stop", "main"]);
    world.wait_state("side", "stopped");
    world.ok(&["start", "side"]);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "main");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "side");
    // Nor where nobody keeps a network.
    let once = world.run("service.command = [\"/bin/true\"]\nnetwork.mode = \"join:main\"");
    assert_eq!(once.status.code(), Some(125), "{}", describe(&once));
    assert!(String::from_utf8_lossy(&once.stderr).contains("netns.join"), "{}", describe(&once));
}

pub fn a_link_on_one_of_the_hosts_is_in_that_network_alone(world: &mut World) {
    let outside = furnish_host();
    outside.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0");
    let write = |world: &World, name: &str, address: u8, keys: &str| {
        let keys = format!(
            "network = {{ mode = \"macvlan\", parent = \"up0\", address = \"192.0.2.{address}/24\"{keys} }}"
        );
        world.write_service(name, &world.probe_toml(&["http", "80"], &keys));
    };
    write(world, "web", 10, ", gateway = \"192.0.2.254\", mac = \"02:00:00:00:00:07\"");
    write(world, "other", 11, ", interface = \"lan0\"");
    world.start();
    for name in ["web", "other"] {
        world.wait_state(name, "active");
    }
    assert!(world.address("web").starts_with("192.0.2.10"));
    // Who is in that network reaches it, and is reached by it.
    let me = std::env::current_exe().expect("own path").display().to_string();
    let from_outside = |to: &str| outside.sh(&format!("timeout 2 {me} __probe connect {to}:80 || true"));
    wait_until("it is reached", LONG, || from_outside("192.0.2.10").trim() == "ok");
    wait_until("it is reached", LONG, || from_outside("192.0.2.11").trim() == "ok");
    let mut server = Command::new("nsenter")
        .arg(format!("--net={}", outside.path()))
        .args([&me, "__probe", "http", "81"])
        .spawn()
        .expect("util-linux is installed");
    wait_until("it reaches", LONG, || connect(world, "web", "192.0.2.254:81") == "ok");
    // Neither the host, nor another service on the same link.
    assert_ne!(connect(world, "web", "192.0.2.1:22"), "ok");
    assert_ne!(connect(world, "web", "192.0.2.11:80"), "ok");
    let [link, lan, routes] =
        [("web", "link show dev eth0"), ("other", "addr show dev lan0"), ("web", "route")]
            .map(|(name, what)| inside(world, name, &format!("ip -d -j {what}")));
    assert_eq!(link[0]["address"], "02:00:00:00:00:07");
    assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], "private");
    assert_eq!(lan[0]["addr_info"][0]["local"], "192.0.2.11", "and no other: {lan}");
    assert_eq!(lan[0]["addr_info"].as_array().map(Vec::len), Some(1), "{lan}");
    assert_eq!(routes[0]["gateway"], "192.0.2.254");
    assert!(!sh("nft list tables").contains("ptest"), "nothing of it passes the host's packet filter");
    // It outlives runs and supervisors; root of the service's has no power over it.
    let namespace =
        |world: &World| std::fs::read_link(format!("/proc/{}/ns/net", world.pid("web"))).expect("it lives");
    let kept = namespace(world);
    world.kill_supervisor();
    world.start();
    world.ok(&["restart", "web"]);
    wait_until("it is reached", LONG, || from_outside("192.0.2.10").trim() == "ok");
    assert_eq!(namespace(world), kept);
    server.kill().and_then(|()| server.wait()).expect("our child");
    // It goes with its parent: the next run says so, and one after that has it again.
    sh("ip link del up0");
    world.ok(&["stop", "other"]);
    let _ = world.palisade(&["restart", "web"]);
    world.wait_state("web", "failed");
    let fault = world.status("web")["fault"].to_string();
    assert!(fault.contains("macvlan.create") && fault.contains("network.parent"), "{fault}");
    sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    world.ok(&["start", "web"]);
    world.wait_state("web", "active");
    assert_eq!(world.stop(), Ok(()));
    sh("ip link del up0");
    drop(outside);
}

/// Where the kernel has no such links the message says so; where it has them, this is one.
pub fn an_ipvlan_is_made_or_missed_by_name(world: &mut World) {
    sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
    let is_there =
        Command::new("ip").args(["link", "add", "link", "up0", "name", "iv0", "type", "ipvlan"]).output();
    let is_there = is_there.expect("iproute2 is installed").status.success();
    if is_there {
        sh("ip link del iv0");
    }
    let keys = "network = { mode = \"ipvlan\", parent = \"up0\", address = \"192.0.2.10/24\" }";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.start();
    if is_there {
        world.wait_state("web", "active");
        let link = inside(world, "web", "ip -d -j link show dev eth0");
        assert_eq!(link[0]["linkinfo"]["info_kind"], "ipvlan");
        assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], "l2");
    } else {
        world.wait_state("web", "failed");
        let fault = world.status("web")["fault"].to_string();
        assert!(fault.contains("ipvlan.create") && fault.contains("this kernel has no ipvlan"), "{fault}");
    }
    assert_eq!(world.stop(), Ok(()));
    sh("ip link del up0");
}

pub fn the_link_of_a_service_is_nobodys_parent(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["http", "80"], ""));
    world.start();
    world.wait_state("web", "active");
    let keys = format!(
        "network.mode = \"macvlan\"\nnetwork.parent = \"{}\"\nnetwork.address = \"10.83.0.99/16\"\nrestart.policy = \"never\"",
        host_end(world, "web")
    );
    world.write_service("beside", &world.probe_toml(&["wait"], &keys));
    world.ok(&["daemon-reload"]);
    world.wait_state("beside", "failed");
    let fault = world.status("beside")["fault"].to_string();
    assert!(fault.contains("is the link of a service"), "{fault}");
    assert!(links("type macvlan").is_empty());
}
