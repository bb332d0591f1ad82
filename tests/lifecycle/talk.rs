//! Who may talk to whom: what the files allow and nothing else, whoever starts first, restarts, or is taken over.

use std::{net::Ipv4Addr, process::Command};

use crate::{
    reach::connect,
    spoof::{furnish_host, sh},
    support::{LONG, World, wait_until},
};

/// A probe with HTTP on port 80.
pub(crate) fn write(world: &World, name: &str, keys: &str) {
    world.write_service(name, &world.probe_toml(&["http", "80"], keys));
}

/// Starts the supervisor, and waits until these are up.
pub(crate) fn up(world: &mut World, names: &[&str]) {
    world.start();
    for name in names {
        world.wait_state(name, "active");
    }
}

pub(crate) fn address(world: &World, name: &str) -> Ipv4Addr {
    let address = world.address(name);
    address.split('/').next().and_then(|text| text.parse().ok()).expect("an address")
}

pub(crate) fn reaches(world: &World, from: &str, to: &str) -> bool {
    connect(world, from, &format!("{}:80", address(world, to))) == "ok"
}

/// A service that is up may be on its way to listening.
fn reaches_in_time(world: &World, from: &str, to: &str) {
    wait_until("it is reached", LONG, || reaches(world, from, to));
}

pub fn what_either_file_allows_is_reached_and_nothing_else(world: &mut World) {
    write(world, "app", "network.allow_to = [\"db:80\", \"nobody:1\", \"db:81/udp\"]");
    write(world, "nobody", "unit.enabled = false");
    write(world, "db", "");
    write(world, "cache", "network.allow_from = [\"app:80\", \"db:81\"]");
    up(world, &["app", "db", "cache"]);
    reaches_in_time(world, "app", "db");
    reaches_in_time(world, "app", "cache");
    for (from, to) in [("db", "app"), ("cache", "app"), ("db", "cache"), ("cache", "db")] {
        assert!(!reaches(world, from, to), "{from} to {to}");
    }
    let other = connect(world, "app", &format!("{}:81", address(world, "db")));
    assert!(other.is_empty(), "dropped, not refused by somebody: {other}");
    // By name, from the file that names it; who may not be reached has none.
    let hosts = world.ok(&["exec", "app", "--", "/usr/bin/cat", "/etc/hosts"]);
    let lines: Vec<&str> = hosts.lines().filter(|line| line.ends_with(" db")).collect();
    assert_eq!(lines, [format!("{} db", address(world, "db")), "fd50:5300:83::3 db".to_owned()], "{hosts}");
    assert!(!hosts.contains("cache"), "{hosts}");
    // The other side sees who it is.
    let output = world.ok(&["exec", "app", "--", "/usr/bin/curl", "-s", "http://db/peer"]);
    assert_eq!(output.trim(), address(world, "app").to_string());
}

pub fn it_holds_over_restarts_takeovers_and_other_files(world: &mut World) {
    write(world, "app", "network.allow_to = [\"db:80\"]");
    write(world, "db", "");
    write(world, "other", "");
    up(world, &["app", "db", "other"]);
    reaches_in_time(world, "app", "db");
    let run = world.run_id("app");
    world.ok(&["restart", "db"]);
    reaches_in_time(world, "app", "db");
    // Its network is taken away, and another one made.
    world.ok(&["stop", "db"]);
    world.ok(&["start", "db"]);
    reaches_in_time(world, "app", "db");
    world.kill_supervisor();
    world.start();
    assert!(reaches(world, "app", "db"), "taken over");
    assert!(!reaches(world, "other", "db"));
    // From the other side's file, and without a restart of either.
    write(world, "app", "");
    write(world, "db", "network.allow_from = [\"other:80\"]");
    world.ok(&["daemon-reload"]);
    wait_until("other may talk to it", LONG, || reaches(world, "other", "db"));
    assert!(!reaches(world, "app", "db"), "taken back");
    // While no supervisor lives.
    world.kill_supervisor();
    write(world, "db", "");
    world.start();
    wait_until("nobody may any more", LONG, || !reaches(world, "other", "db"));
    assert_eq!(world.run_id("app"), run, "nobody had to be restarted for it");
}

pub fn a_conversation_ends_with_what_allowed_it(world: &mut World) {
    let udp = |world: &World, keys: &str| {
        world.write_service("echo", &world.probe_toml(&["udp", "53"], keys));
    };
    udp(world, "network.allow_from = [\"app:53/udp\"]");
    write(world, "app", "");
    up(world, &["echo", "app"]);
    let at = address(world, "echo");
    // One socket that asks again and again from one port, and says in a file how often, and how often it was answered. It hears
    // all that has come before it asks again: what comes late is not left for later.
    let ask = format!(
        "import os, socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(0.1)\n\
         s.connect(('{at}', 53))\nasked = heard = 0\nwhile True:\n    try:\n        s.send(b'?')\n        \
         while s.recv(9):\n            heard += 1\n    except OSError:\n        pass\n    asked += 1\n    \
         open('/tmp/new', 'w').write(f'{{asked}} {{heard}}')\n    os.rename('/tmp/new', '/tmp/count')\n"
    );
    let mut client = world
        .command(&["exec", "app", "--", "/usr/bin/python3", "-c", &ask])
        .spawn()
        .expect("the program under test starts");
    let counts = |world: &World| {
        let output = world.palisade(&["exec", "app", "--", "/usr/bin/cat", "/tmp/count"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (asked, heard) = said.split_once(' ').unwrap_or(("0", "0"));
        (asked.parse::<u64>().unwrap_or_default(), heard.parse::<u64>().unwrap_or_default())
    };
    wait_until("it is answered", LONG, || counts(world).1 > 0);
    udp(world, "");
    world.ok(&["daemon-reload"]);
    // What was on its way has arrived when it has asked anew.
    let after = counts(world).0;
    wait_until("it asks on", LONG, || counts(world).0 > after + 1);
    let (asked, heard) = counts(world);
    wait_until("it asks on and on", LONG, || counts(world).0 > asked + 5);
    assert_eq!(counts(world).1, heard, "nothing is answered any more");
    world.ok(&["stop", "app"]);
    client.wait().expect("our child");
}

pub fn a_pattern_means_whoever_comes(world: &mut World) {
    write(world, "db", "network.allow_from = [\"web@*:80\"]");
    write(world, "web@", "");
    write(world, "stranger", "");
    up(world, &["db", "stranger"]);
    world.ok(&["start", "web@blue", "web@green"]);
    for name in ["web@blue", "web@green"] {
        world.wait_state(name, "active");
        reaches_in_time(world, name, "db");
        assert!(!reaches(world, "db", name));
    }
    assert!(!reaches(world, "stranger", "db"));
    assert!(!reaches(world, "web@blue", "web@green"), "nobody said so");
}

pub fn egress_to_some_places_is_to_those_alone(world: &mut World) {
    let outside = furnish_host();
    outside.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0");
    let mut servers: Vec<_> = ["80", "81"]
        .map(|port| {
            Command::new("nsenter")
                .arg(format!("--net={}", outside.path()))
                .arg(std::env::current_exe().expect("own path"))
                .args(["__probe", "http", port])
                .spawn()
                .expect("util-linux is installed")
        })
        .into();
    write(world, "some", "network.egress = [\"192.0.2.0/24:80\", \"198.51.100.1:*\"]");
    write(world, "none", "");
    up(world, &["some", "none"]);
    wait_until("it is answered", LONG, || connect(world, "some", "192.0.2.254:80") == "ok");
    assert_ne!(connect(world, "some", "192.0.2.254:81"), "ok", "another port");
    assert_ne!(connect(world, "none", "192.0.2.254:80"), "ok", "another service");
    let places = || sh("nft list set inet ptest reach");
    let before = places();
    world.kill_supervisor();
    world.start();
    assert_eq!(places(), before, "taken over");
    wait_until("taken over", LONG, || connect(world, "some", "192.0.2.254:80") == "ok");
    assert_ne!(connect(world, "some", "192.0.2.254:81"), "ok", "taken over");
    for server in &mut servers {
        server.kill().and_then(|()| server.wait()).expect("our child");
    }
    assert_eq!(world.stop(), Ok(()));
    drop(outside);
}
