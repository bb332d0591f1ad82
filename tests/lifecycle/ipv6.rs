//! The same network with the other addresses: who is reached, who may go out, and what is put back.

use std::{fs, net::TcpListener, process::Command};

use crate::{
    reach::connect,
    spoof::{Place, furnish_host, sh},
    support::{
        LONG, World, scaled, wait_until,
        world::{describe, wait_http},
    },
};

pub const OUTSIDE: &str = "2001:db8::fe";
const HOST: &str = "2001:db8::1";

/// An uplink with IPv6, and a neighbour there who knows no way to a service.
pub fn furnish() -> Place {
    let outside = furnish_host();
    outside.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0; ip addr add 2001:db8::fe/64 dev eth0 nodad");
    let line = format!(
        "ip addr add {HOST}/64 dev up0 nodad; ip -6 route add default via {OUTSIDE}
         ip neigh add {OUTSIDE} lladdr 02:00:00:00:00:fe dev up0 nud permanent"
    );
    let output = Command::new("sh").args(["-ec", &line]).output().expect("a shell");
    assert!(output.status.success(), "{}", describe(&output));
    outside
}

/// What a client outside gets; nothing when nobody answers.
fn ask(outside: &Place, url: &str) -> Option<String> {
    let netns = format!("--net={}", outside.path());
    // Who is not let in learns that from the kernel; who is may have to wait for the program.
    let patience = scaled(LONG).as_secs().to_string();
    let args = [&netns, "curl", "-s", "--connect-timeout", "2", "-m", &patience, url];
    let output = Command::new("nsenter").args(args).output().expect("declared as a need");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write(world: &World, name: &str, keys: &str) {
    world.write_service(name, &world.probe_toml(&["http", "80"], keys));
}

/// The IPv6 address that the supervisor tells.
pub fn address6(world: &World, name: &str) -> String {
    let status = world.status(name);
    status["addresses"][1].as_str().unwrap_or_else(|| panic!("{name} has no IPv6: {status}")).to_owned()
}

/// The switches of the host that let packets through, as they are.
fn switches() -> String {
    let one = |key: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{key}")).unwrap_or_default();
    ["all/forwarding", "up0/force_forwarding", "up0/forwarding", "up0/accept_ra"].map(one).concat()
}

pub fn a_service_has_it_where_its_file_says_and_nowhere_else(world: &mut World) {
    let outside = furnish();
    let before = switches();
    write(world, "open", "network.egress = \"any\"\nnetwork.publish = [\"[::]:8081:80\", \"8081:80\"]");
    write(world, "some", &format!("network.egress = [\"[{OUTSIDE}]:80\"]"));
    write(world, "shut", "network.publish = [\"8082:80\"]");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "open");
    assert_eq!(wait_http("127.0.0.1:8082", "/"), "shut");
    world.wait_state("some", "active");
    let status = world.status("open");
    assert_eq!(status["addresses"].as_array().expect("a list").len(), 2, "{status}");
    // From outside, seen as themselves; from the host, seen as the gateway.
    let url = format!("http://[{HOST}]:8081/peer");
    assert_eq!(ask(&outside, &url).as_deref(), Some(OUTSIDE));
    assert_eq!(wait_http(&format!("[{HOST}]:8081"), "/peer"), "fd50:5300:83::1");
    assert_eq!(ask(&outside, &format!("http://[{HOST}]:8082/")), None, "published for this host alone");
    // Out, as far as the file says.
    let server = outside.server();
    let target = format!("[{OUTSIDE}]:80");
    for name in ["open", "some"] {
        wait_until("who may go out is answered", LONG, || connect(world, name, &target) == "ok");
    }
    assert_ne!(connect(world, "shut", &target), "ok", "nobody lets it out");
    assert_ne!(connect(world, "some", &format!("[{OUTSIDE}]:81")), "ok", "nor there");
    // Neither to the host nor to another.
    let listener = TcpListener::bind("[::]:9999").expect("the port is free");
    let shut = address6(world, "shut");
    let inward = [
        "[fd50:5300:83::1]:9999".to_owned(),
        format!("[{HOST}]:9999"),
        format!("[{shut}]:80"),
        "[fd00:ec2::254]:80".to_owned(),
    ];
    for target in inward {
        assert_ne!(connect(world, "open", &target), "ok", "{target}");
    }
    let published = format!("[{HOST}]:8081");
    assert_ne!(connect(world, "shut", &published), "ok", "a published port is no way around it");
    wait_until("one to itself is", LONG, || connect(world, "open", &published) == "ok");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "somebody got through");
    // Whoever knows the way to a service comes no further.
    outside.sh(&format!("ip -6 route add {shut} via {HOST}"));
    assert_eq!(ask(&outside, &format!("http://[{shut}]/")), None);
    // The next supervisor finds it all, and puts back what its predecessor changed.
    let addresses = world.status("open")["addresses"].clone();
    let places = || sh("nft list set inet ptest reach6");
    let before_death = places();
    world.kill_supervisor();
    assert_eq!(ask(&outside, &url).as_deref(), Some(OUTSIDE), "nobody supervises");
    world.start();
    assert_eq!(places(), before_death);
    assert_eq!(ask(&outside, &url).as_deref(), Some(OUTSIDE));
    wait_until("so it is from inside", LONG, || connect(world, "some", &target) == "ok");
    world.ok(&["restart", "open"]);
    wait_until("it is up again", LONG, || ask(&outside, &url).as_deref() == Some(OUTSIDE));
    assert_eq!(world.status("open")["addresses"], addresses);
    assert_ne!(switches(), before, "packets are forwarded");
    assert_eq!(world.stop(), Ok(()));
    assert_eq!(switches(), before);
    drop((server, outside));
}

pub fn who_may_talk_does_so_by_either_address(world: &mut World) {
    write(world, "app", "network.allow_to = [\"db:80\"]");
    write(world, "db", "");
    write(world, "other", "");
    world.start();
    for name in ["app", "db", "other"] {
        world.wait_state(name, "active");
    }
    let target = format!("[{}]:80", address6(world, "db"));
    wait_until("it is reached", LONG, || connect(world, "app", &target) == "ok");
    assert_ne!(connect(world, "other", &target), "ok");
    assert_ne!(connect(world, "db", &format!("[{}]:80", address6(world, "app"))), "ok");
    let inside = |args: &[&str]| world.ok(&[&["exec", "app", "--"], args].concat());
    let seen = inside(&["/usr/bin/curl", "-s", &format!("http://{target}/peer")]);
    assert_eq!(seen.trim(), address6(world, "app"), "as itself");
    let found = inside(&["/usr/bin/getent", "ahostsv6", "db"]);
    assert_eq!(found.split_whitespace().next(), Some(address6(world, "db").as_str()), "by its name");
    // Taken out again, without a restart of either.
    write(world, "app", "");
    world.ok(&["daemon-reload"]);
    wait_until("it is reached no more", LONG, || connect(world, "app", &target) != "ok");
    assert_eq!(world.run_id("app"), 1);
}

pub fn a_kernel_without_it_is_no_trouble_until_somebody_asks_for_it(world: &mut World) {
    // What such a kernel does not have.
    let hide = Command::new("mount").args(["-t", "tmpfs", "none", "/proc/sys/net/ipv6"]).status();
    assert!(hide.expect("mount(8)").success(), "the world has mounts of its own");
    // Without a /proc: what hides the keys hides from the kernel that its /proc is whole.
    let keys = "network.publish = [\"8081:80\"]\nnetwork.egress = \"any\"\nrootfs.proc = \"none\"";
    write(world, "web", keys);
    write(world, "asks", "network.publish = [\"[::]:8082:80\"]");
    write(world, "goes", "network.egress = [\"[2001:db8::/32]:443\"]");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    let status = world.status("web");
    assert_eq!(status["addresses"].as_array().expect("a list").len(), 1, "{status}");
    for name in ["asks", "goes"] {
        let file = world.services_dir().join(format!("{name}.toml"));
        let said = world.palisade(&["check", &file.display().to_string()]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("needs IPv6, which is off in this kernel"), "{said}");
        assert!(said.contains(&format!("{name}.toml:")), "file and line: {said}");
    }
    assert_eq!(world.stop(), Ok(()));
    let show = Command::new("umount").arg("/proc/sys/net/ipv6").status();
    assert!(show.expect("umount(8)").success());
}

pub fn what_was_switched_on_by_who_died_at_it_is_put_back(world: &mut World) {
    let outside = furnish();
    let (all, switch) = (switches(), "/proc/sys/net/ipv4/conf/up0/forwarding");
    // A new network namespace has what the first one has.
    fs::write(switch, "0").expect("the network is the world's");
    let ipv4 = || fs::read_to_string(switch).expect("its link is there");
    write(
        world,
        "open",
        "network.egress = \"any\"\nnetwork.publish = [\"[::]:8081:80\", \"0.0.0.0:8081:80\"]",
    );
    let mut command = world.supervise();
    command.args(["--die-at", "open:at:launch-prepared"]);
    world.start_to_die(command);
    wait_until("it has died", LONG, || world.has_died());
    assert_eq!(ipv4(), "1\n", "it died behind that");
    world.start();
    wait_until("it is up", LONG, || {
        ask(&outside, &format!("http://[{HOST}]:8081/")).as_deref() == Some("open")
    });
    assert_eq!(world.stop(), Ok(()));
    assert_eq!((switches(), ipv4()), (all, "0\n".to_owned()));
    drop(outside);
}
