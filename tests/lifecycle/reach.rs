//! Who can be reached, from where, and what they see of each other.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    spoof::furnish_host,
    support::{
        LONG, World, scaled, wait_for, wait_until,
        world::{PROBE, describe, wait_http},
    },
};

/// A probe that serves HTTP on port 80 and is published on `port` of the loopback address.
fn web(world: &World, name: &str, port: u16) {
    let keys = format!("network.publish = [\"{port}:80\"]");
    world.write_service(name, &world.probe_toml(&["http", "80"], &keys));
}

pub fn two_published_services_see_only_themselves(world: &mut World) {
    web(world, "one", 8081);
    web(world, "two", 8082);
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "one");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "two");
    for (name, port) in [("one", 8081), ("two", 8082)] {
        let report = wait_http(&format!("127.0.0.1:{port}"), "/report");
        let report: Value = serde_json::from_str(&report).expect("the probe sends JSON");
        let pids: Vec<u64> =
            report["processes"].as_array().expect("a list").iter().filter_map(|p| p[0].as_u64()).collect();
        assert!(pids.iter().all(|&pid| pid == 1 || Some(pid) == report["pid"].as_u64()), "{pids:?}");
        assert_eq!(report["interfaces"], serde_json::json!(["lo", "eth0"]));
        let own = world.address(name);
        let own = own.split('/').next().unwrap_or_default();
        assert!(report["addresses"].to_string().contains(own), "{own} in {}", report["addresses"]);
        // The kernel's own word for it, through a program of the host's that the service's root shows.
        let output = world.ok(&["exec", name, "--", "/usr/sbin/ip", "-j", "addr"]);
        let links: Value = serde_json::from_str(&output).expect("ip prints JSON");
        let names: Vec<&str> =
            links.as_array().expect("a list").iter().filter_map(|l| l["ifname"].as_str()).collect();
        assert_eq!(names, ["lo", "eth0"]);
    }
    assert_ne!(world.address("one"), world.address("two"));
}

pub fn udp_is_published_too(world: &mut World) {
    world.write_service("echo", &world.probe_toml(&["udp", "53"], "network.publish = [\"5353:53/udp\"]"));
    world.start();
    world.wait_state("echo", "active");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let mut bytes = [0; 16];
    wait_until("it is answered", LONG, || {
        // A datagram sent before the service listens is lost, as datagrams are.
        socket.send_to(b"ping", "127.0.0.1:5353").is_ok()
            && socket.recv(&mut bytes).is_ok_and(|n| &bytes[..n] == b"ping")
    });
}

pub fn a_client_of_a_port_that_is_published_no_more_is_heard_no_more(world: &mut World) {
    let toml = |world: &World, keys: &str| world.probe_toml(&["udp", "53"], keys);
    let text = toml(world, "network.publish = [\"5353:53/udp\"]");
    world.write_service("echo", &text);
    world.start();
    world.wait_state("echo", "active");
    // One and the same conversation, as the kernel sees it.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let is_heard = || {
        let _ = socket.send_to(b"ping", "127.0.0.1:5353");
        socket.recv(&mut [0; 16]).is_ok()
    };
    wait_until("it is heard while it is published", LONG, is_heard);
    let text = toml(world, "");
    world.write_service("echo", &text);
    world.ok(&["daemon-reload"]);
    wait_until("it is another run", LONG, || world.run_id("echo") == 2 && world.state("echo") == "active");
    // That it listens again a client of its own address is told.
    let own = format!("{}:53", world.address("echo"));
    let direct = UdpSocket::bind("0.0.0.0:0").expect("a port");
    direct.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    wait_until("it listens again", LONG, || {
        direct.send_to(b"ping", &*own).is_ok() && direct.recv(&mut [0; 16]).is_ok()
    });
    // What its first run has answered late is here by now.
    socket.set_nonblocking(true).expect("a socket");
    while socket.recv(&mut [0; 16]).is_ok() {}
    socket.set_nonblocking(false).expect("a socket");
    assert!(!(0..3).any(|_| is_heard()), "it goes on, and nobody is there");
}

pub fn a_service_reaches_neither_another_nor_the_host(world: &mut World) {
    web(world, "one", 8081);
    world.write_service("two", &world.probe_toml(&["wait"], ""));
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "one");
    let listener = TcpListener::bind("0.0.0.0:9999").expect("the port is free");
    let one = world.address("one");
    let one = one.split('/').next().unwrap_or_default();
    for target in
        [&format!("{one}:80"), "10.83.0.1:8081", "10.83.0.1:9999", "127.0.0.1:9999", "169.254.169.254:80"]
    {
        // Dropped packets time out after minutes: two seconds without a handshake are the proof.
        let mut command = world.command(&[
            "exec",
            "two",
            "--",
            "/usr/bin/timeout",
            "2",
            PROBE,
            "__probe",
            "connect",
            target,
        ]);
        let output = command.output().expect("the program under test starts");
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let refused = ["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT"].contains(&said.as_str());
        assert!(refused || output.status.code() == Some(124), "{target}: {}", describe(&output));
    }
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "somebody got through");
}

/// What the probe says of a connection that a service tries to make; nothing when a second brings no handshake.
pub(crate) fn connect(world: &World, name: &str, target: &str) -> String {
    world.ok(&["exec", name, "--", PROBE, "__probe", "knock", target]).trim().to_owned()
}

pub fn what_is_published_is_reached_from_outside_and_who_may_go_out_does(world: &mut World) {
    let outside = furnish_host();
    // The one that the host has for a neighbour there. It knows no way to a service: who gets an answer was translated.
    outside.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0");
    let forwarding =
        || fs::read_to_string("/proc/sys/net/ipv4/conf/up0/forwarding").expect("its link is there");
    // A new network namespace has what the first one has.
    fs::write("/proc/sys/net/ipv4/conf/up0/forwarding", "0").expect("the network is the world's");
    let keys = "network.egress = \"any\"\nnetwork.publish = [\"0.0.0.0:8081:80\"]";
    world.write_service("open", &world.probe_toml(&["http", "80"], keys));
    web(world, "shut", 8082);
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "open");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "shut");
    let ask = |url: &str| {
        let netns = format!("--net={}", outside.path());
        let mut curl = Command::new("nsenter");
        // The handshake is the kernel's; for the answer others need a CPU.
        curl.args([&netns, "curl", "-s", "--connect-timeout", "2", "-m"]);
        let output = curl.arg(scaled(Duration::from_secs(5)).as_secs().to_string()).arg(url).output();
        let output = output.expect("declared as a need");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(ask("http://192.0.2.1:8081/"), (true, "open".to_owned()), "published for everybody");
    assert!(!ask("http://192.0.2.1:8082/").0, "published for this host alone");
    let mut server = Command::new("nsenter")
        .arg(format!("--net={}", outside.path()))
        .arg(std::env::current_exe().expect("own path"))
        .args(["__probe", "http", "80"])
        .spawn()
        .expect("util-linux is installed");
    wait_for("who may go out is answered", LONG, || {
        (connect(world, "open", "192.0.2.254:80") == "ok").then_some(())
    });
    assert_ne!(connect(world, "shut", "192.0.2.254:80"), "ok", "nobody lets it out");
    let listener = TcpListener::bind("0.0.0.0:9999").expect("the port is free");
    let shut = world.address("shut");
    let shut = shut.split('/').next().unwrap_or_default();
    let inward = ["10.83.0.1:9999", "192.0.2.1:9999", "169.254.169.254:9999", "192.0.2.1:8082"];
    for target in inward.map(str::to_owned).into_iter().chain([format!("{shut}:80")]) {
        assert_ne!(connect(world, "open", &target), "ok", "{target}: out is not to the host or to another");
    }
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "somebody got through");
    assert_eq!(forwarding(), "1\n", "packets come back by it");
    // Allowed in between, and not any more.
    world.write_service("open", &world.probe_toml(&["http", "80"], &keys.replace("\"any\"", "[]")));
    world.ok(&["daemon-reload"]);
    wait_for("it is another run", LONG, || {
        (world.run_id("open") == 2 && world.state("open") == "active").then_some(())
    });
    assert_ne!(connect(world, "open", "192.0.2.254:80"), "ok", "its file has taken it back");
    server.kill().and_then(|()| server.wait()).expect("our child");
    assert_eq!(world.stop(), Ok(()));
    assert_eq!(forwarding(), "0\n", "put back");
    drop(outside);
}

pub fn exec_and_shell_run_inside(world: &mut World) {
    web(world, "one", 8081);
    world.start();
    wait_http("127.0.0.1:8081", "/");
    assert_eq!(world.ok(&["exec", "one", "--", "/usr/bin/hostname"]).trim(), "one");
    assert_eq!(
        world.palisade(&["exec", "one", "--", PROBE, "__probe", "exit", "42"]).status.code(),
        Some(42)
    );
    assert_eq!(world.palisade(&["exec", "one", "--", "/no/such"]).status.code(), Some(127));
    // script(1) is a terminal that is not ours; stty asks the kernel how big the inner one is.
    let shell = format!(
        "{} --config {dir}/palisade.toml --run {dir}/run exec -t one -- /usr/bin/stty size",
        crate::support::world::PALISADE,
        dir = world.dir().display()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 33 cols 101; {shell}"), "/dev/null"]).env("TERM", "dumb");
    let output = script.output().expect("util-linux is installed");
    assert!(String::from_utf8_lossy(&output.stdout).contains("33 101"), "{}", describe(&output));
}
