//! What a further service costs as services become many, and what a place to go to costs as those become many.
//!
//! ```text
//! cargo bench --bench scale          as root; BENCH_ROUNDS=15, BENCH_SIZES="1 10 100 200 1000"
//! ```
#![allow(clippy::print_stdout, reason = "it reports by printing")]
#![allow(missing_docs, unreachable_pub, reason = "a program exports nothing")]

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
#[macro_use]
mod support;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use common::{Figures, rounds, seconds, table};
use serde_json::{Value, json};
use support::{World, wait_until};

fn main() -> ExitCode {
    common::main(&all())
}

fn all() -> Vec<support::Test> {
    tests![services: Root CgroupV2 UserNs Nft; bridged: Root CgroupV2 UserNs Nft; places: Root CgroupV2 UserNs Nft]
}

/// Numbers from the environment, or these.
fn sizes(name: &str, default: &str) -> Vec<usize> {
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.split_whitespace().map(|word| word.parse().expect("numbers with spaces between them")).collect()
}

/// A run-time directory in memory, as /run is, until this is dropped.
struct InMemory(std::path::PathBuf);

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Room for more services than the tests have.
fn configure(world: &World) -> InMemory {
    let run = world.run_dir();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "run"]).arg(&run).status();
    assert!(mounted.expect("util-linux is installed").success(), "a file system in memory");
    let config = format!(
        "[cgroup]\npath = \"{}\"\n[network]\nname = \"ptest\"\nprefix4 = \"10.83.0.0/16\"\n\
         [ids]\nbase = 1879048192\ncount = 2000\n",
        world.name()
    );
    world.write("palisade.toml", &config);
    InMemory(run)
}

/// Starts the supervisor. Seconds until everything was up.
fn boot(world: &mut World, count: usize) -> f64 {
    let log = world.write("supervisor.log", "");
    let begun = Instant::now();
    world.start();
    let ready = format!("ready: {count} services");
    let is_up = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&ready));
    wait_until(&ready, Duration::from_secs(60), is_up);
    seconds(begun.elapsed())
}

/// Milliseconds that a verb takes, as whoever types it sees it.
fn timed(world: &World, args: &[&str]) -> f64 {
    let begun = Instant::now();
    world.ok(args);
    seconds(begun.elapsed()) * 1e3
}

/// Rules of the packet filter, and elements of its sets and maps.
fn filter() -> (usize, usize) {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output().expect("declared as a need");
    let all: Value = serde_json::from_slice(&output.stdout).expect("nft prints JSON");
    let all = all["nftables"].as_array().expect("a list");
    let rules = all.iter().filter(|one| one.get("rule").is_some()).count();
    let of = |one: &Value, kind: &str| one[kind]["elem"].as_array().map_or(0, Vec::len);
    (rules, all.iter().map(|one| of(one, "set") + of(one, "map")).sum())
}

/// Milliseconds of CPU that a process has had: what does not depend on who else wants one.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e6
}

fn resident(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(f64::NAN);
    format!("{:.1}", kib / 1024.0)
}

fn services(world: &mut World) {
    beside_others(world, "");
}

/// The same with all of them on one bridge.
fn bridged(world: &mut World) {
    beside_others(world, "network.bridge = \"apps\"\n");
}

/// `all` are keys of each of them.
fn beside_others(world: &mut World, all: &str) {
    let _in_memory = configure(world);
    let titles = [
        "services",
        "all up, s",
        "each, ms",
        "one more: start, ms",
        "stop, ms",
        "supervisor's CPU for both, ms",
        "reload, ms",
        "its CPU for a look of top, ms",
        "rules",
        "elements",
        "supervisor, MiB",
    ];
    let (mut rows, mut found) = (vec![titles.map(str::to_owned).to_vec()], Vec::new());
    let service = |world: &World, name: &str, keys: &str| {
        world.write_service(name, &world.probe_toml(&["wait"], &format!("{all}{keys}")));
    };
    service(world, "more", "unit.enabled = false\nnetwork.publish = [\"7000:80\"]");
    let mut there = 0;
    for size in sizes("BENCH_SIZES", "1 10 100 200 1000") {
        for number in there..size {
            service(world, &format!("s{number}"), &format!("network.publish = [\"{}:80\"]", 10_000 + number));
        }
        there = there.max(size);
        let up = boot(world, there + 1);
        let (mut start, mut stop, mut both) = <(Figures, Figures, Figures)>::default();
        let (mut reload, mut look) = <(Figures, Figures)>::default();
        for _ in 0..rounds(15) {
            let before = cpu(world.supervisor_pid());
            start.0.push(timed(world, &["start", "more"]));
            stop.0.push(timed(world, &["stop", "more"]));
            both.0.push(cpu(world.supervisor_pid()) - before);
        }
        for number in 0..rounds(15).min(5) {
            service(
                world,
                "more",
                &format!(
                    "unit.enabled = false\nunit.description = \"{number}\"\nnetwork.publish = [\"7000:80\"]"
                ),
            );
            reload.0.push(timed(world, &["daemon-reload"]));
            let before = cpu(world.supervisor_pid());
            world.ok(&["top", "--json"]);
            look.0.push(cpu(world.supervisor_pid()) - before);
        }
        let (rules, elements) = filter();
        rows.push(vec![
            there.to_string(),
            format!("{up:.2}"),
            format!("{:.1}", up * 1e3 / there as f64),
            start.text(1),
            stop.text(1),
            both.text(1),
            reload.text(1),
            look.text(1),
            rules.to_string(),
            elements.to_string(),
            resident(world.supervisor_pid()),
        ]);
        found.push(json!({
            "services": there, "up_s": up, "start_ms": start.json(), "stop_ms": stop.json(), "cpu_ms": both.json(),
            "reload_ms": reload.json(), "look_ms": look.json(), "rules": rules, "elements": elements,
        }));
        world.stop().expect("it ends");
    }
    table(&rows);
    println!("{}\n", json!({ "bench": "scale services", "found": found }));
}

/// One service has many places to go to; another has one and is started again and again.
fn places(world: &mut World) {
    let _in_memory = configure(world);
    let titles = ["places of others", "one more: start, ms", "stop, ms", "rules", "elements"];
    let (mut rows, mut found) = (vec![titles.map(str::to_owned).to_vec()], Vec::new());
    for size in sizes("BENCH_PLACES", "0 10 100 1000 5000") {
        let all: Vec<String> = (0..size)
            .map(|n| format!("\"{}.{}.{}.0/25:443\"", 11 + n / 65_536, n / 256 % 256, n % 256))
            .collect();
        let keys = format!("network.egress = [{}]", all.join(", "));
        world.write_service("many", &world.probe_toml(&["wait"], &keys));
        let keys = "unit.enabled = false\nnetwork.egress = [\"192.0.2.0/24:443\"]";
        world.write_service("more", &world.probe_toml(&["wait"], keys));
        boot(world, 2);
        let (mut start, mut stop) = <(Figures, Figures)>::default();
        for _ in 0..rounds(15) {
            start.0.push(timed(world, &["start", "more"]));
            stop.0.push(timed(world, &["stop", "more"]));
        }
        let (rules, elements) = filter();
        rows.push(vec![
            size.to_string(),
            start.text(1),
            stop.text(1),
            rules.to_string(),
            elements.to_string(),
        ]);
        found.push(json!({
            "places": size, "start_ms": start.json(), "stop_ms": stop.json(), "rules": rules, "elements": elements,
        }));
        world.stop().expect("it ends");
    }
    table(&rows);
    println!("{}", json!({ "bench": "scale places", "found": found }));
}
