//! Ends of supervisors, and the ways in which many things happen at once.

use std::{collections::BTreeMap, fs};

use nix::sys::signal::Signal;

use crate::support::{
    LONG, World, snapshot, wait_until,
    world::{http_get, wait_http},
};

const NONE: &str = "network.mode = \"none\"";

pub fn sigterm_stops_everybody_in_reverse_order(world: &mut World) {
    let names = ["a-db", "b-cache", "c-app", "d-proxy"];
    for (n, name) in names.iter().enumerate() {
        let after = match n {
            0 => String::new(),
            n => format!("unit.requires = [\"{0}\"]\nunit.after = [\"{0}\"]\n", names[n - 1]),
        };
        world.write_service(name, &world.probe_toml(&["wait"], &format!("{after}{NONE}")));
    }
    world.start();
    world.wait_state("d-proxy", "active");
    assert_eq!(world.stop(), Ok(()));
    let log = world.supervisor_log();
    let at = |what: &str, name: &str| {
        let line = |line: &&str| line.contains(what) && line.contains(&format!("unit={name} "));
        log.lines().position(|l| line(&l)).unwrap_or_else(|| panic!("no {what} of {name} in {log}"))
    };
    for pair in names.windows(2) {
        assert!(at(" active ", pair[0]) < at(" starting ", pair[1]), "{log}");
        assert!(at(" stopped ", pair[1]) < at(" stopping ", pair[0]), "{log}");
    }
}

pub fn a_second_sigterm_does_not_wait(world: &mut World) {
    let keys = format!("service.stop = {{ timeout = \"infinity\" }}\n{NONE}");
    world.write_service("stubborn", &world.probe_toml(&["tree"], &keys));
    world.start();
    wait_until("the whole tree is up", LONG, || world.logs("stubborn").matches("ready").count() == 4);
    world.signal(Signal::SIGTERM);
    wait_until("it is being stopped", LONG, || world.state("stubborn") == "stopping");
    let refused = world.palisade(&["start", "stubborn"]);
    assert_eq!(refused.status.code(), Some(1), "nothing is started any more");
    // The second one comes from here.
    assert_eq!(world.stop(), Ok(()));
    assert!(!snapshot::processes().iter().any(|p| p.contains("ignore-term")));
}

pub fn a_stop_while_starting_ends_stopped(world: &mut World) {
    let once = "service.type = \"oneshot\"\nservice.stop = { timeout = \"300ms\" }";
    world.write_service("slow", &world.probe_toml(&["wait"], &format!("{once}\n{NONE}")));
    world.start();
    world.wait_state("slow", "starting");
    world.ok(&["stop", "slow"]);
    assert_eq!(world.state("slow"), "stopped");
    for _ in 0..20 {
        // Who asks for the start hangs up at once; the stop comes at whatever point of the launch.
        let mut start = world.command(&["start", "slow"]).spawn().expect("the program under test starts");
        world.ok(&["stop", "slow"]);
        start.kill().and_then(|()| start.wait()).expect("our child");
        world.ok(&["stop", "slow"]);
        assert_eq!(world.state("slow"), "stopped");
    }
    world.reap();
    assert!(!snapshot::processes().iter().any(|p| p.contains("__probe wait")));
}

pub fn a_storm_of_reloads_ends_in_the_last_files(world: &mut World) {
    for n in 0..8 {
        world.write_service(&format!("s{n}"), &world.probe_toml(&["wait"], NONE));
    }
    world.start();
    world.wait_state("s0", "active");
    let steady = world.pid("s0");
    for round in 0..60 {
        for n in 1..8 {
            let name = format!("s{n}");
            match (round + n) % 5 {
                0 => drop(fs::remove_file(world.services_dir().join(format!("{name}.toml")))),
                1 => drop(world.write_service(&name, "service.command = 3\n")),
                _ => {
                    let keys = format!("service.env = {{ ROUND = \"{round}\" }}\n{NONE}");
                    world.write_service(&name, &world.probe_toml(&["wait"], &keys));
                }
            }
        }
        world.signal(Signal::SIGHUP);
    }
    for n in 1..8 {
        let keys = format!("service.env = {{ ROUND = \"last\" }}\n{NONE}");
        world.write_service(&format!("s{n}"), &world.probe_toml(&["wait"], &keys));
    }
    world.palisade(&["daemon-reload"]);
    for n in 0..8 {
        world.wait_state(&format!("s{n}"), "active");
    }
    for n in 1..8 {
        let pid = world.pid(&format!("s{n}"));
        let env = fs::read(format!("/proc/{pid}/environ")).expect("it runs");
        assert!(String::from_utf8_lossy(&env).contains("ROUND=last"), "s{n}");
    }
    assert_eq!(world.pid("s0"), steady);
    wait_until("eight services and no more", LONG, || {
        world.reap();
        snapshot::processes().iter().filter(|p| p.contains("__probe wait")).count() == 8
    });
}

pub fn fifty_services_come_and_go(world: &mut World) {
    const COUNT: u16 = 50;
    for n in 0..COUNT {
        let keys = format!("network.publish = [\"{}:80\"]", 8100 + n);
        world.write_service(&format!("web{n}"), &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    for n in 0..COUNT {
        assert_eq!(wait_http(&format!("127.0.0.1:{}", 8100 + n), "/"), format!("web{n}"));
    }
    let addresses: BTreeMap<String, String> =
        (0..COUNT).map(|n| (world.address(&format!("web{n}")), format!("web{n}"))).collect();
    assert_eq!(addresses.len(), usize::from(COUNT), "no address twice");
    world.ok(&["stop", "web*"]);
    assert!(http_get("127.0.0.1:8100", "/").is_err());
    world.ok(&["start", "web?", "web1*"]);
    assert_eq!(wait_http("127.0.0.1:8119", "/"), "web19");
    assert_eq!(world.state("web20"), "stopped");
    world.ok(&["restart", "web*"]);
    for (address, name) in addresses {
        assert_eq!(world.address(&name), address, "{name} got its address again");
    }
}
