//! A supervisor that dies, and the next one.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::{Signal, kill};

use crate::support::{
    World, wait_until,
    world::{http_get, raw, wait_http},
};

const SERVICES: u16 = 20;
const LONG: Duration = Duration::from_secs(20);

pub fn a_killed_supervisor_loses_no_service_and_no_request(world: &mut World) {
    for n in 0..SERVICES {
        let keys = format!("network.publish = [\"{}:80\"]", 8100 + n);
        world.write_service(&format!("web{n}"), &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    for n in 0..SERVICES {
        assert_eq!(wait_http(&format!("127.0.0.1:{}", 8100 + n), "/"), format!("web{n}"));
    }
    let lives = |world: &World| -> BTreeMap<String, (u32, String)> {
        let one = |n| (format!("web{n}"), (world.pid(&format!("web{n}")), world.address(&format!("web{n}"))));
        (0..SERVICES).map(one).collect()
    };
    let before = lives(world);
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let client = std::thread::spawn({
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        move || {
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let n = asked.fetch_add(1, Ordering::Relaxed) % u32::from(SERVICES);
                if let Err(e) = http_get(&format!("127.0.0.1:{}", 8100 + n), "/") {
                    failures.push(format!("web{n}: {e}"));
                }
            }
            failures
        }
    });
    for round in 0..20 {
        let asked_before = asked.load(Ordering::Relaxed);
        world.kill_supervisor();
        // Long enough without anybody for every service to have been asked.
        wait_until("requests without a supervisor", LONG, || {
            asked.load(Ordering::Relaxed) > asked_before + u32::from(SERVICES)
        });
        world.start();
        assert_eq!(lives(world), before, "round {round}");
    }
    over.store(true, Ordering::Relaxed);
    let failures = client.join().expect("the client does not panic");
    assert_eq!(failures, Vec::<String>::new(), "of {asked:?} requests");
}

pub fn a_service_that_ends_while_nobody_supervises_is_restarted(world: &mut World) {
    let keys = "network.mode = \"none\"\nrestart.policy = \"always\"\nrestart.delay = \"10ms\"";
    world.write_service("wait", &world.probe_toml(&["wait"], keys));
    world.start();
    world.wait_state("wait", "active");
    let (pid, run) = (world.pid("wait"), world.run_id("wait"));
    world.kill_supervisor();
    kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    wait_until("it is dead", LONG, || {
        world.reap();
        kill(raw(pid), None).is_err()
    });
    world.start();
    wait_until("another run", LONG, || world.run_id("wait") > run && world.state("wait") == "active");
    let exits = world.status("wait")["exits"].clone();
    let last = exits.as_array().and_then(|all| all.last()).expect("a list with the newest last");
    assert_eq!(last["signal"], Signal::SIGUSR1 as i32, "its last words were read: {exits}");
}

pub fn two_supervisors_do_not_meet(world: &mut World) {
    let inner = world.dir().join("other");
    std::fs::create_dir(&inner).expect("a new name");
    let mut other = World::new(inner);
    // Its own names for everything; the prefix, too, has to be another.
    let config = format!(
        "[cgroup]\npath = \"{}-other\"\n[network]\nname = \"pother\"\nprefix4 = \"10.84.0.0/16\"\n\
         [ids]\nbase = 1900019712\ncount = 64\n",
        world.name()
    );
    other.write("palisade.toml", &config);
    for (world, port) in [(&*world, 8081), (&other, 8082)] {
        let keys = format!("network.publish = [\"{port}:80\"]");
        world.write_service("web", &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    other.start();
    wait_http("127.0.0.1:8081", "/");
    wait_http("127.0.0.1:8082", "/");
    assert_ne!(world.address("web"), other.address("web"));
    let stopped = other.stop();
    assert_eq!(stopped, Ok(()));
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web", "the first one's service goes on");
    assert!(http_get("127.0.0.1:8082", "/").is_err());
    let tables = Command::new("nft").args(["list", "tables"]).output().expect("declared as a need");
    assert!(!String::from_utf8_lossy(&tables.stdout).contains("pother"));
}
