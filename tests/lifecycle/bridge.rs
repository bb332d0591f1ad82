//! Services on bridges of the host's (`network.bridge`), as `ip` and `bridge` show them, and who reaches whom there.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Stdio},
};

use crate::{
    reach::connect,
    spoof::{json, links, sh},
    support::{LONG, World, count, snapshot, wait_until, world::wait_http},
    talk::{address, reaches, up, write},
    wall::denials,
};

const APPS: &str = "network.bridge = \"apps\"\n";
const DBS: &str = "network.bridge = \"dbs\"\n";

/// The host's name of a bridge, by what it ends with.
fn host_name(bridge: &str) -> Option<String> {
    links("type bridge").into_iter().find(|name| name.ends_with(&format!("-{bridge}")))
}

/// The links that are ports of a bridge.
fn ports(bridge: &str) -> BTreeSet<String> {
    host_name(bridge)
        .map(|bridge| links(&format!("master {bridge}")).into_iter().collect())
        .unwrap_or_default()
}

/// Gives a bridge a range of addresses.
fn range(world: &World, bridge: &str, range: &str) {
    let path = world.dir().join("palisade.toml");
    let text = fs::read_to_string(path).expect("the world's own");
    world.write("palisade.toml", &format!("{text}[network.bridges]\n{bridge} = \"{range}\"\n"));
}

pub fn fifty_on_one_bridge_are_as_far_from_each_other_as_on_none(world: &mut World) {
    let count = count(50, 12);
    range(world, "dbs", "10.83.0.8/29");
    for n in 0..count {
        let talk = if n == 0 { "network.allow_to = [\"app1:80\", \"db:80\", \"alone:80\"]\n" } else { "" };
        write(world, &format!("app{n}"), &format!("{APPS}{talk}network.publish = [\"{}:80\"]", 20_000 + n));
    }
    write(world, "db", DBS);
    write(world, "cache", DBS);
    write(world, "alone", "network.allow_to = [\"app1:80\"]");
    world.start();
    for n in 0..count {
        assert_eq!(wait_http(&format!("127.0.0.1:{}", 20_000 + n), "/"), format!("app{n}"));
    }
    ["db", "cache", "alone"].iter().for_each(|name| world.wait_state(name, "active"));
    assert_eq!((ports("apps").len(), ports("dbs").len()), (usize::from(count), 2));
    let all = json("ip -j -d link show type veth");
    let walled = all.as_array().expect("a list").iter().map(|link| &link["linkinfo"]["info_slave_data"]);
    let walled = walled.filter(|data| data["isolated"] == true && data["locked"] == true);
    assert_eq!(walled.count(), usize::from(count) + 2, "all but the one that is on no bridge");

    // Who has its range, and who keeps out of it.
    for (name, is_in) in [("db", true), ("cache", true), ("alone", false), ("app0", false), ("app7", false)] {
        let [.., last] = address(world, name).octets();
        assert_eq!((8..16).contains(&last), is_in, "{name} has {}", address(world, name));
    }

    for (from, to) in [("app0", "app1"), ("app0", "db"), ("app0", "alone"), ("alone", "app1")] {
        wait_until(&format!("{from} reaches {to}"), LONG, || reaches(world, from, to));
    }
    for (from, to) in [("app1", "app0"), ("app2", "app1"), ("db", "cache"), ("db", "app0"), ("app1", "db")] {
        assert!(!reaches(world, from, to), "{from} to {to}");
    }
    for host in ["10.83.0.1:20001", "127.0.0.1:20001"] {
        assert_ne!(connect(world, "app2", host), "ok", "{host}");
    }

    // Each of them is told of its own alone, though all come in by one interface.
    let refused = |from: &str, to: &str| {
        denials(world, from).keys().any(|(_, door)| *door == format!("{}:80", address(world, to)))
    };
    wait_until("it is told", LONG, || refused("app2", "app1") && refused("db", "cache"));
    assert!(!refused("app3", "app1") && !refused("app2", "cache") && !refused("db", "app1"));

    // A restart changes nothing, a takeover neither.
    let before = (address(world, "app1"), ports("apps"));
    world.ok(&["restart", "app1"]);
    assert_eq!(wait_http("127.0.0.1:20001", "/"), "app1");
    let pid = world.pid("app0");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("app0"), address(world, "app1"), ports("apps")), (pid, before.0, before.1));
    assert!(reaches(world, "app0", "app1") && !reaches(world, "app2", "app1"));

    // Nothing leads to who has gone; a bridge goes with its last port.
    let bridge = host_name("apps").expect("it is there");
    let gone = address(world, "app2");
    world.ok(&["stop", "app2"]);
    assert!(
        !sh(&format!("ip route show dev {bridge}; ip neigh show dev {bridge}")).contains(&gone.to_string())
    );
    wait_until("its port has gone", LONG, || ports("apps").len() == usize::from(count) - 1);
    world.ok(&["stop", "db", "cache"]);
    assert_eq!(host_name("dbs"), None);
    world.ok(&["start", "db"]);
    wait_until("it is reached again", LONG, || reaches(world, "app0", "db"));
    assert_eq!(world.stop(), Ok(()));
    assert!(links("type bridge").is_empty());
}

pub fn a_service_moves_between_bridges_with_its_file(world: &mut World) {
    write(world, "app", "network.publish = [\"8081:80\"]");
    write(world, "db", &format!("{APPS}network.allow_from = [\"app:80\"]"));
    up(world, &["app", "db"]);
    let db = address(world, "db");
    for (keys, on) in [(APPS, "apps"), (DBS, "dbs"), ("", ""), (DBS, "dbs")] {
        let run = world.run_id("app");
        write(world, "app", &format!("{keys}network.publish = [\"8081:80\"]"));
        world.ok(&["daemon-reload"]);
        wait_until("it has another run", LONG, || {
            world.run_id("app") > run && world.state("app") == "active"
        });
        assert_eq!(wait_http("127.0.0.1:8081", "/"), "app");
        wait_until("it reaches the other", LONG, || reaches(world, "app", "db"));
        let expected = [("apps", 1 + usize::from(on == "apps")), ("dbs", usize::from(on == "dbs"))];
        for (bridge, count) in expected {
            wait_until(&format!("{count} on {bridge}"), LONG, || ports(bridge).len() == count);
        }
        assert_eq!(host_name("dbs").is_some(), on == "dbs");
    }
    assert_eq!(address(world, "db"), db);
}

pub fn links_that_somebody_took_away_are_there_again_with_the_next_run(world: &mut World) {
    write(world, "app", &format!("{APPS}network.publish = [\"8081:80\"]"));
    write(world, "db", &format!("{APPS}network.publish = [\"8082:80\"]"));
    write(world, "alone", "network.publish = [\"8083:80\"]");
    up(world, &["app", "db", "alone"]);
    let all = [("app", 8081), ("db", 8082), ("alone", 8083)];
    all.iter().for_each(|(name, port)| assert_eq!(wait_http(&format!("127.0.0.1:{port}"), "/"), *name));
    // A bridge alone leaves its ports behind, which are nobody's then, also when another one has its name.
    sh("ip -br link show type bridge | cut -d' ' -f1 | xargs -n1 ip link del");
    for (name, port) in &all[..2] {
        world.ok(&["restart", name]);
        assert_eq!(wait_http(&format!("127.0.0.1:{port}"), "/"), *name);
    }
    // The kernel takes those of the runs before away when it comes to that.
    wait_until("the old ports are gone", LONG, || links("type veth").len() == all.len());
    sh("ip -br link show type bridge | cut -d' ' -f1 | xargs -n1 ip link del");
    sh("ip -br link show type veth | cut -d'@' -f1 | xargs -n1 ip link del");
    for (n, (name, port)) in all.iter().enumerate() {
        assert_eq!(links("type veth").len(), n, "of those that have another run");
        world.ok(&["restart", name]);
        assert_eq!(wait_http(&format!("127.0.0.1:{port}"), "/"), *name);
    }
    for (name, port) in &all {
        assert_eq!(wait_http(&format!("127.0.0.1:{port}"), "/"), *name);
    }
    assert_eq!(ports("apps").len(), 2);
}

pub fn what_a_launch_that_was_cut_short_left_beside_others_goes(world: &mut World) {
    write(world, "db", APPS);
    up(world, &["db"]);
    let bridge = host_name("apps").expect("it is there");
    let ways = || sh(&format!("ip route show dev {bridge}; ip neigh show dev {bridge}"));
    let before = ways();
    world.kill_supervisor();
    write(world, "app", APPS);
    let mut command = world.supervise();
    command.args(["--die-at", "app:at:launch-prepared"]);
    world.start_to_die(command);
    wait_until("it has died", LONG, || world.has_died());
    assert_ne!(ways(), before, "it died behind that");
    fs::remove_file(world.services_dir().join("app.toml")).expect("written above");
    world.start();
    world.wait_state("db", "active");
    assert_eq!(ways(), before);
    wait_until("one port is left", LONG, || ports("apps").len() == 1);
}

/// Ended when it goes out of scope.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

pub fn what_a_killed_run_left_of_a_bridge_goes_with_the_next(world: &mut World) {
    let file = world.write(
        "app.toml",
        &world.probe_toml(&["http", "80"], &format!("{APPS}network.publish = [\"8081:80\"]")),
    );
    let run = || {
        let mut command = world.command(&["run"]);
        command.args(world.places()).arg(&file).stdout(Stdio::null());
        Foreground(command.spawn().expect("the program is there"))
    };
    let first = run();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "app");
    assert!(host_name("apps").is_some());
    drop(first);
    let is_up = || snapshot::processes().iter().any(|process| process.contains("__probe http"));
    wait_until("its service has ended", LONG, || !is_up());
    let mut second = run();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "app");
    wait_until("one port on one bridge", LONG, || ports("apps").len() == 1);
    let pid = nix::unistd::Pid::from_raw(second.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    second.0.wait().expect("our own child");
    assert_eq!(host_name("apps"), None);
}
