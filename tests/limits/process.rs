//! Limits of each process, and what is bounded on every host.

use std::{
    collections::BTreeMap,
    process::{Child, Stdio},
};

use crate::{
    control::{QUIET, detail, says},
    support::{
        LONG, World, wait_until,
        world::{PROBE, describe},
    },
};

/// /proc/PID/limits: name to soft and hard limit.
fn limits(text: &str) -> BTreeMap<String, (String, String)> {
    let row = |line: &str| {
        let (name, rest) = line.split_at_checked(26)?;
        let mut values = rest.split_whitespace();
        Some((name.trim().to_owned(), (values.next()?.to_owned(), values.next()?.to_owned())))
    };
    text.lines().skip(1).filter_map(row).collect()
}

fn pair(soft: &str, hard: &str) -> (String, String) {
    (soft.to_owned(), hard.to_owned())
}

const INSIDE: [&str; 5] = ["exec", "web", "--", "/usr/bin/cat", "/proc/self/limits"];

pub fn every_process_has_the_same_limits(world: &mut World) {
    let keys = "limits.rlimits = { nofile = \"100:200\", as = \"1G\", core = 0, cpu = \"1h\", data = \"512M\", fsize = \"64M\", \
                locks = 50, memlock = \"64K\", msgqueue = 1000, nice = 0, nproc = 30, rss = \"1G\", rtprio = 0, \
                rttime = \"1s\", sigpending = 40, stack = \"1M:4M\" }\n";
    world.write_service("web", &world.probe_toml(&["wait"], &format!("{QUIET}{keys}")));
    world.start();
    world.wait_state("web", "active");
    let of_service = std::fs::read_to_string(format!("/proc/{}/limits", world.pid("web"))).expect("it lives");
    let of_session = world.ok(&INSIDE);
    let (of_service, of_session) = (limits(&of_service), limits(&of_session));
    assert_eq!(of_service.len(), 16, "{of_service:?}");
    assert_eq!(of_service, of_session);
    let same = |value: &str| pair(value, value);
    let wanted = [
        ("Max open files", pair("100", "200")),
        ("Max address space", same("1073741824")),
        ("Max core file size", same("1")),
        ("Max cpu time", same("3600")),
        ("Max data size", same("536870912")),
        ("Max file size", same("67108864")),
        ("Max file locks", same("50")),
        ("Max locked memory", same("65536")),
        ("Max msgqueue size", same("1000")),
        ("Max nice priority", same("0")),
        ("Max processes", same("30")),
        ("Max resident set", same("1073741824")),
        ("Max realtime priority", same("0")),
        ("Max realtime timeout", same("1000000")),
        ("Max pending signals", same("40")),
        ("Max stack size", pair("1048576", "4194304")),
    ];
    for (name, value) in wanted {
        assert_eq!(of_service[name], value, "{name}");
    }
    // The init is not strangled by what its service may not have.
    let init = detail(world, "web")["init_pid"].as_u64().expect("it lives");
    let init = limits(&std::fs::read_to_string(format!("/proc/{init}/limits")).expect("it lives"));
    assert_ne!(init["Max cpu time"], same("3600"));
    assert_ne!(init["Max processes"], same("30"));
}

pub fn a_limit_of_processes_holds_in_the_user_namespace(world: &mut World) {
    let keys = format!("{QUIET}limits.rlimits.nproc = 20\n");
    world.write_service("bomb", &world.probe_toml(&["fork", "100"], &keys));
    world.write_service("other", &world.probe_toml(&["fork", "10"], &keys));
    world.start();
    // The init is another user inside, and is not counted.
    let said = says(world, "bomb", "forked");
    assert!(said.contains("forked 19 stopped by EAGAIN"), "{said}");
    let said = says(world, "other", "forked");
    assert!(said.contains("forked 10 stopped by nothing"), "{said}");
}

pub fn the_limits_of_the_caller_do_not_leak_in(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], QUIET));
    let mut command = std::process::Command::new("sh");
    let supervise = world.supervise();
    // Soft limits of an operator's shell, and a priority.
    command.args([
        "-c",
        "ulimit -S -n 300; ulimit -S -f 1000; ulimit -S -s 1024; ulimit -S -t 5000; exec \"$@\"",
        "sh",
    ]);
    command.arg(supervise.get_program()).args(supervise.get_args());
    world.join_supervisor_log(&mut command);
    world.start_by(command);
    world.wait_state("web", "active");
    let found =
        limits(&std::fs::read_to_string(format!("/proc/{}/limits", world.pid("web"))).expect("it lives"));
    assert_eq!(found["Max open files"].0, "1024");
    assert_eq!(found["Max file size"].0, "unlimited");
    assert_eq!(found["Max stack size"].0, "8388608");
    assert_eq!(found["Max cpu time"].0, "unlimited");
    assert_eq!(found["Max core file size"], pair("1", "1"));
}

pub fn a_memory_file_system_has_a_bound_on_files(world: &mut World) {
    let keys = format!("{QUIET}rootfs.writable = \"ephemeral\"\n");
    world.write_service("web", &world.probe_toml(&["wait"], &keys));
    world.start();
    world.wait_state("web", "active");
    let mounts = world.ok(&["exec", "web", "--", "/usr/bin/cat", "/proc/self/mountinfo"]);
    let tmpfs: Vec<&str> = mounts.lines().filter(|line| line.contains(" - tmpfs ")).collect();
    assert!(tmpfs.len() >= 4, "{mounts}");
    for mount in tmpfs {
        let is_bounded = mount.contains("size=") && mount.contains("nr_inodes=");
        // A mask: read-only, with no room at all.
        let is_mask = mount.contains("size=0k") || mount.contains(" ro,");
        assert!(is_bounded || is_mask, "{mount}");
    }
}

pub fn there_is_a_bound_on_sessions(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], QUIET));
    world.start();
    world.wait_state("web", "active");
    let mut callers: Vec<Child> = Vec::new();
    for _ in 0..32 {
        let mut command = world.command(&["exec", "web", "--", PROBE, "__probe", "wait"]);
        callers
            .push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts"));
    }
    let init = detail(world, "web")["init_pid"].as_u64().expect("it lives");
    let children = || {
        let text = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
        text.split_whitespace().count()
    };
    wait_until("all sessions are there", LONG, || children() == 33);
    let output = world.palisade(&["exec", "web", "--", "/usr/bin/true"]);
    let said = describe(&output);
    assert!(!output.status.success() && said.contains("no room"), "{said}");
    for caller in &mut callers {
        caller.kill().and_then(|()| caller.wait().map(drop)).expect("it is our child");
    }
    wait_until("there is room again", LONG, || {
        world.palisade(&["exec", "web", "--", "/usr/bin/true"]).status.success()
    });
}

pub fn a_line_without_end_is_kept_in_parts(world: &mut World) {
    let keys = format!("{QUIET}log.max_size = \"256K\"\nlog.files = 2\n");
    let one_line = "head -c 16777216 /dev/zero; echo over >&2; sleep infinity";
    let toml = format!("service.command = [\"/bin/sh\", \"-c\", \"{one_line}\"]\n{keys}");
    world.write_service("web", &toml);
    world.start();
    says(world, "web", "over");
    let files = std::fs::read_dir(world.dir().join("log")).expect("our own directory").flatten();
    let sizes: Vec<u64> = files
        .filter(|file| file.file_name().to_string_lossy().starts_with("web"))
        .map(|file| file.metadata().map_or(0, |data| data.len()))
        .collect();
    assert!(sizes.len() <= 2 && sizes.iter().all(|size| *size <= (256 << 10) + (32 << 10)), "{sizes:?}");
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", world.supervisor_pid())).expect("it lives");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak < Some(64 << 10), "the supervisor took {peak:?} KiB");
}
