//! As many services as a host has on its first day with a PaaS.

use std::{fs, process::Command};

use serde_json::Value;

use crate::support::{LONG, World, count, wait_until, world::wait_http};

fn json(command: &str) -> Value {
    let output = Command::new("sh").args(["-ec", command]).output().expect("a shell");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// How many elements a set of the table has.
fn elements(set: &str) -> usize {
    let listed = json(&format!("nft -j list set inet ptest {set}"));
    listed["nftables"][1]["set"]["elem"].as_array().map_or(0, Vec::len)
}

fn listed(world: &World) -> Vec<Value> {
    world.json(&["list"])["services"].as_array().expect("a list").clone()
}

fn active(world: &World) -> usize {
    listed(world).iter().filter(|service| service["state"] == "active").count()
}

pub fn two_hundred_start_at_once_and_leave_nothing(world: &mut World) {
    let count = count(200, 40);
    let all = usize::from(count);
    // Each has ids of its own, and a test has few by default.
    let config = world.dir().join("palisade.toml");
    let text = fs::read_to_string(&config).expect("the world's own");
    world.write("palisade.toml", &text.replace("count = 64", "count = 256"));
    for n in 0..count {
        let keys = format!("network.publish = [\"{}:80\"]", 20_000 + n);
        world.write_service(&format!("web{n}"), &world.probe_toml(&["http", "80"], &keys));
    }
    world.start();
    wait_until("everybody is up", 2 * LONG, || active(world) == all);
    for n in 0..count {
        assert_eq!(wait_http(&format!("127.0.0.1:{}", 20_000 + n), "/"), format!("web{n}"));
    }
    let links = json("ip -j link show type veth");
    assert_eq!(links.as_array().expect("a list").len(), all);
    let addresses: std::collections::BTreeSet<String> =
        listed(world).iter().map(|service| service["addresses"].to_string()).collect();
    assert_eq!(addresses.len(), all, "nobody shares an address");
    for set in ["pins", "pins6", "same", "same6"] {
        assert_eq!(elements(set), all, "{set}");
    }
    world.kill_supervisor();
    world.start();
    assert_eq!(active(world), all, "taken over");
    assert_eq!(wait_http(&format!("127.0.0.1:{}", 19_999 + count), "/"), format!("web{}", count - 1));
    assert_eq!(world.stop(), Ok(()));
}
