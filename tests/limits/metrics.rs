//! What is told of a service's control group, where the kernel has all controllers.

use std::time::Duration;

use super::control::{QUIET, detail, file, number, says};
use crate::support::{LONG, World, exported::Exported, wait_until};

const KEYS: &str = "limits.memory.max = \"64M\"\nlimits.memory.high = \"infinity\"\nlimits.pids.max = 33\nlimits.cpu.max = \"50%\"\n";

/// A number that a file consists of.
fn whole(world: &World, name: &str, of: &str) -> f64 {
    file(world, name, of).parse().expect("a number")
}

pub fn what_a_group_takes_is_told(world: &mut World) {
    // It works for as long as this takes: where others want the CPU as well it may be long until half of it is too much.
    let keys = format!("{QUIET}{KEYS}");
    world.write_service("busy", &world.probe_toml(&["spin", "600000"], &keys));
    world.write_service(
        "free",
        &world.probe_toml(&["wait"], &format!("{QUIET}limits.memory.max = \"infinity\"\n")),
    );
    world.start();
    world.wait_state("busy", "active");
    world.wait_state("free", "active");
    wait_until("it was held up", LONG, || number(world, "busy", "cpu.stat", "throttled_usec") > 0);
    let us = |key: &str| number(world, "busy", "cpu.stat", key);
    let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
    let before = [us("user_usec"), us("system_usec"), us("throttled_usec")].map(seconds);
    let all = Exported::parse(&world.ok(&["metrics"]));
    let after = [us("user_usec"), us("system_usec"), us("throttled_usec")].map(seconds);
    let of = |name: &str, more: &[(&str, &str)]| {
        let labels: Vec<(&str, &str)> =
            [("service", "busy")].into_iter().chain(more.iter().copied()).collect();
        all.value(&format!("palisade_service_{name}"), &labels)
    };
    let told = [
        of("cpu_seconds_total", &[("mode", "user")]),
        of("cpu_seconds_total", &[("mode", "system")]),
        of("cpu_throttled_seconds_total", &[]),
    ];
    for ((before, told), after) in before.into_iter().zip(told).zip(after) {
        assert!(before <= told && told <= after, "{before} <= {told} <= {after}");
    }
    assert_eq!(of("cpu_limit_cpus", &[]), 0.5);
    assert_eq!(of("memory_limit_bytes", &[]), f64::from(64 << 20));
    assert_eq!(of("pids_limit", &[]), 33.0);
    assert_eq!(of("pids", &[]), whole(world, "busy", "pids.current"));
    assert_eq!(of("oom_kills_total", &[]), 0.0);
    let memory = whole(world, "busy", "memory.current");
    let told = of("memory_bytes", &[]);
    assert!(told > memory / 2.0 && told < memory * 2.0, "{told}, and {memory}");
    let group = world.cgroup().join(format!("busy.{}", world.run_id("busy")));
    // Linux 5.19.
    assert_eq!(
        group.join("memory.peak").exists(),
        all.get("palisade_service_memory_peak_bytes", &[("service", "busy")]).is_some()
    );
    assert!(of("io_read_bytes_total", &[]) >= 0.0 && of("io_written_bytes_total", &[]) >= 0.0);
    for resource in ["cpu", "memory", "io"] {
        let has_it = std::fs::read(group.join(format!("{resource}.pressure"))).is_ok();
        let labels = [("service", "busy"), ("resource", resource), ("share", "some")];
        assert_eq!(
            all.get("palisade_service_pressure_seconds_total", &labels).is_some(),
            has_it,
            "{resource}"
        );
    }
    // `status` tells the same, beside each bound.
    let status = detail(world, "busy");
    let used = |key: &str| {
        let limits = status["limits"].as_array().expect("a list");
        let limit = limits.iter().find(|limit| limit["key"] == key).expect("it is listed");
        limit["used"].as_str().expect("a text").to_owned()
    };
    assert_eq!(used("pids.max"), file(world, "busy", "pids.current"));
    let told: f64 = used("memory.max").parse().expect("bytes");
    assert!(told > memory / 2.0 && told < memory * 2.0, "{told}, and {memory}");
    assert!(
        used("cpu.max").strip_suffix('%').is_some_and(|number| number.parse::<u64>().is_ok()),
        "{status}"
    );
    let shown = world.ok(&["status", "busy"]);
    assert!(shown.contains("pids.max 33 (") && shown.contains("memory.max 67108864 ("), "{shown}");
    // No bound is told as none.
    assert_eq!(all.get("palisade_service_memory_limit_bytes", &[("service", "free")]), None);
    assert_eq!(all.get("palisade_service_cpu_limit_cpus", &[("service", "free")]), None);
    let keys = format!("{QUIET}{KEYS}limits.memory.swap_max = 0\nlimits.oom = \"kill-one\"\n");
    world.write_service("hog", &world.probe_toml(&["eat-apart", "268435456"], &keys));
    world.ok(&["daemon-reload"]);
    says(world, "hog", "signal: 9");
    let killed = number(world, "hog", "memory.events", "oom_kill ");
    let told = Exported::parse(&world.ok(&["metrics"]))
        .value("palisade_service_oom_kills_total", &[("service", "hog")]);
    assert_eq!((killed, told), (1, 1.0));
}
