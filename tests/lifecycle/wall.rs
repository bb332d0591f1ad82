//! The packet filter when others change it. The judges are nft(8), which lists what the kernel has, and real clients.

use std::{fs, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    reach::connect,
    support::{
        World, wait_until,
        world::{describe, http_get, wait_http},
    },
};

const LONG: Duration = Duration::from_secs(20);

pub(crate) fn nft(command: &str) -> String {
    let output = Command::new("nft").args(command.split(' ')).output().expect("declared as a need");
    assert!(output.status.success(), "nft {command}: {}", describe(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that the kernel has of our table but numbers that it gives itself, and what it counts.
fn table() -> Option<Vec<Value>> {
    let output = Command::new("nft").args(["-j", "list", "table", "inet", "ptest"]).output().expect("nft");
    let listed: Value = serde_json::from_slice(&output.stdout).ok()?;
    let mut all = listed["nftables"].as_array()?.clone();
    all.retain(|object| object.get("metainfo").is_none());
    all.iter_mut().for_each(strip);
    Some(all)
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(fields) => {
            for key in ["handle", "packets", "bytes"] {
                fields.remove(key);
            }
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_key(Value::to_string);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_again(before: &[Value]) {
    wait_until("the table is as it was", LONG, || table().as_deref() == Some(before));
}

fn address(world: &World, name: &str) -> String {
    let address = world.address(name);
    address.split('/').next().expect("an address").to_owned()
}

/// Two that are published, one of which may talk to a third and go to some places; nobody else may do anything.
fn start(world: &mut World) -> Vec<Value> {
    let keys = "network.publish = [\"8081:80\"]\nnetwork.allow_to = [\"db:80\"]\n\
                network.egress = [\"192.0.2.0/24:80\", \"198.51.100.1:*\"]";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.write_service("db", &world.probe_toml(&["http", "80"], ""));
    let keys = "network.publish = [\"0.0.0.0:8082:80\"]\nnetwork.egress = \"any\"";
    world.write_service("other", &world.probe_toml(&["http", "80"], keys));
    world.write_service("late", &world.probe_toml(&["http", "80"], "unit.enabled = false"));
    world.start();
    for (port, name) in [(8081, "web"), (8082, "other")] {
        assert_eq!(wait_http(&format!("127.0.0.1:{port}"), "/"), name);
    }
    world.wait_state("db", "active");
    holds(world);
    let before = table().expect("it is there");
    let text = Value::Array(before.clone()).to_string();
    for known in ["8081", "8082", "198.51.100.1", &address(world, "db")] {
        assert!(text.contains(known), "{known} in {text}");
    }
    before
}

/// What the files say, no more and no less.
fn holds(world: &World) {
    let db = format!("{}:80", address(world, "db"));
    wait_until("web reaches db", LONG, || connect(world, "web", &db) == "ok");
    assert_ne!(connect(world, "other", &db), "ok");
    assert_eq!(http_get("127.0.0.1:8081", "/").as_deref(), Ok("web"));
    assert_eq!(http_get("127.0.0.1:8082", "/").as_deref(), Ok("other"));
}

pub fn rules_that_somebody_flushes_come_back_as_they_were(world: &mut World) {
    let before = start(world);
    let heard = world.dir().join("events");
    let file = fs::File::create(&heard).expect("our own directory");
    let mut events =
        world.command(&["events", "--json"]).stdout(file).spawn().expect("the program under test starts");
    let heard = |word: &str| fs::read_to_string(&heard).expect("our own file").matches(word).count();
    wait_until("somebody listens", LONG, || {
        world.ok(&["stop", "late"]);
        world.ok(&["start", "late"]);
        heard("stopping") > 0
    });
    world.ok(&["stop", "late"]);
    nft("flush ruleset");
    is_again(&before);
    holds(world);
    // As `systemctl restart nftables` does with a ruleset that was saved when we were in it; by now it has become more.
    let saved = nft("list ruleset");
    let reload = world.write(
        "nftables.conf",
        &format!(
            "flush ruleset\n{saved}\nadd chain inet ptest extra {{ type filter hook forward priority -5; }}\n\
             insert rule inet ptest from_service accept\n"
        ),
    );
    nft(&format!("-f {}", reload.display()));
    is_again(&before);
    // Piece by piece.
    for command in [
        "flush set inet ptest pins",
        "flush chain inet ptest from_service",
        "insert rule inet ptest forward accept",
        "add element inet ptest egress { 10.83.0.99 }",
        "add chain inet ptest extra",
        "add table inet ptest { flags dormant ; }",
        "delete table inet ptest",
    ] {
        nft(command);
        is_again(&before);
    }
    holds(world);
    wait_until("it is told", LONG, || heard("rules_restored") == 3);
    events.kill().and_then(|()| events.wait()).expect("it is our child");
    // Somebody else's table is none of ours, and what we do ourselves is no damage.
    let mended = |world: &World| world.supervisor_log().matches("was changed by somebody").count();
    let count = mended(world);
    nft("add table inet theirs");
    nft("add chain inet theirs forward { type filter hook forward priority 0 ; }");
    world.ok(&["start", "late"]);
    world.ok(&["stop", "late"]);
    nft("delete table inet theirs");
    assert_eq!(table().as_deref(), Some(&before[..]));
    assert_eq!(mended(world), count);
}

pub fn what_was_flushed_while_nobody_supervised_is_there_again(world: &mut World) {
    let before = start(world);
    let saved = nft("list ruleset");
    for what in
        ["flush ruleset\n".to_owned(), format!("flush ruleset\n{saved}\nadd chain inet ptest extra\n")]
    {
        world.kill_supervisor();
        let file = world.write("nftables.conf", &what);
        nft(&format!("-f {}", file.display()));
        assert_ne!(table().as_deref(), Some(&before[..]));
        world.start();
        assert_eq!(table().as_deref(), Some(&before[..]));
        holds(world);
    }
}

pub fn a_loop_that_flushes_keeps_nobody_busy_and_a_start_meets_its_rules(world: &mut World) {
    let before = start(world);
    for _ in 0..100 {
        nft("flush ruleset");
    }
    is_again(&before);
    let said = world.supervisor_log().matches("was changed by somebody").count();
    assert_eq!(said, 1, "once for all of it");
    for _ in 0..5 {
        nft("flush ruleset");
        // However long the next mending would wait.
        world.ok(&["start", "late"]);
        assert!(table().is_some_and(|table| table.len() >= before.len()));
        world.ok(&["stop", "late"]);
        assert_eq!(http_get("127.0.0.1:8081", "/").as_deref(), Ok("web"));
    }
    is_again(&before);
    holds(world);
}
