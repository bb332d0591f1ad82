//! Limits of a service as a whole: the files of its control group.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::support::{LONG, World, wait_for, wait_until};

/// What every service here needs least of.
pub const QUIET: &str = "network.mode = \"none\"\nrestart.policy = \"never\"\n";

/// A file of the group of a service that runs.
pub fn file(world: &World, name: &str, file: &str) -> String {
    fs::read_to_string(group(world, name).join(file))
        .unwrap_or_else(|e| panic!("{name} {file}: {e}"))
        .trim()
        .to_owned()
}

/// The group of a service that runs.
pub fn group(world: &World, name: &str) -> PathBuf {
    world.cgroup().join(format!("{name}.{}", world.run_id(name)))
}

/// A number in a file of lines `name number`.
pub fn number(world: &World, name: &str, file_name: &str, key: &str) -> u64 {
    let text = file(world, name, file_name);
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

/// Everything that `status` knows of one service.
pub fn detail(world: &World, name: &str) -> Value {
    // Whatever its exit status: 3 says that the service does not run.
    let output = world.palisade(&["status", name, "--json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{name}: {e}"));
    all["services"][0].clone()
}

fn start(world: &mut World, name: &str, args: &[&str], keys: &str) {
    world.write_service(name, &world.probe_toml(args, &format!("{QUIET}{keys}")));
    world.start();
}

/// Waits until the service has written such a line, and returns it.
pub fn says(world: &World, name: &str, what: &str) -> String {
    wait_for(&format!("{name} says {what:?}"), LONG, || {
        world.logs(name).lines().find(|line| line.contains(what)).map(str::to_owned)
    })
}

pub fn an_empty_file_is_bounded(world: &mut World) {
    start(world, "web", &["wait"], "");
    world.wait_state("web", "active");
    let total = fs::read_to_string("/proc/meminfo")
        .expect("proc")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let total = total.expect("proc_meminfo(5)") * 1024;
    let max: u64 = file(world, "web", "memory.max").parse().expect("a number");
    assert!(max <= total / 4 * 3 && max > total / 2, "{max} of {total}");
    let high: u64 = file(world, "web", "memory.high").parse().expect("a number");
    assert!(high < max && high > max / 10 * 8, "{high} of {max}");
    assert_eq!(file(world, "web", "memory.oom.group"), "1");
    assert_eq!(file(world, "web", "pids.max"), "512");
    let detail = detail(world, "web");
    let limits = detail["limits"].as_array().expect("a list");
    let pids = limits.iter().find(|limit| limit["key"] == "pids.max").expect("it is listed");
    assert_eq!((&pids["asked"], &pids["enforced"]), (&"512".into(), &"512".into()));
    assert!(world.ok(&["status", "web"]).contains("pids.max 512"));
    assert!(limits.iter().all(|limit| limit["why"].is_null()), "nothing bends here: {limits:?}");
}

const SMALL: &str =
    "limits.memory.max = \"64M\"\nlimits.memory.high = \"infinity\"\nlimits.memory.swap_max = 0\n";

pub fn memory_max_kills_the_whole_service_and_says_so(world: &mut World) {
    // The main process waits for its child: alone it would live.
    start(world, "hog", &["eat-apart", "268435456"], SMALL);
    world.wait_state("hog", "failed");
    let detail = detail(world, "hog");
    let exit = &detail["exits"][0];
    assert_eq!((&exit["kind"], &exit["signal"]), (&"killed".into(), &9.into()), "{exit}");
    assert_eq!(exit["cause"], "memory_max", "{exit}");
    let refusal = &detail["refusals"][0];
    assert_eq!(
        (&refusal["layer"], &refusal["key"]),
        (&"cgroup".into(), &"limits.memory.max".into()),
        "{refusal}"
    );
    assert!(exit["usage"]["oom_kills"].as_u64() >= Some(2), "{exit}");
    let peak = exit["usage"]["memory_peak"].as_u64().expect("it is known");
    assert!(peak > 60 << 20 && peak <= 65 << 20, "{peak}");
    assert!(exit["usage"]["cpu_user_usec"].as_u64() > Some(0), "{exit}");
    let status = String::from_utf8_lossy(&world.palisade(&["status", "hog"]).stdout).into_owned();
    for said in [status, world.supervisor_log()] {
        assert!(said.contains("its memory.max was used up"), "{said}");
    }
    assert!(!world.logs("hog").contains("child:"), "the main process has gone with it");
}

pub fn memory_max_of_a_run_is_told(world: &mut World) {
    let output = world.run(&world.probe_toml(&["eat", "268435456"], &format!("{QUIET}{SMALL}")));
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("its memory.max was used up"), "{said}");
}

pub fn one_process_is_killed_where_the_file_says_so(world: &mut World) {
    start(world, "web", &["eat-apart", "268435456"], &format!("{SMALL}limits.oom = \"kill-one\"\n"));
    let said = says(world, "web", "child:");
    assert!(said.contains("signal: 9"), "{said}");
    let detail = detail(world, "web");
    assert_eq!((&detail["state"], &detail["usage"]["oom_kills"]), (&"active".into(), &1.into()), "{detail}");
    assert_eq!(file(world, "web", "memory.oom.group"), "0");
}

pub fn memory_high_slows_down(world: &mut World) {
    let keys = "limits.memory.high = \"24M\"\nlimits.memory.max = \"128M\"\nlimits.memory.swap_max = 0\n";
    start(world, "web", &["eat", "29360128"], keys);
    wait_until("memory.events tells of memory.high", LONG, || {
        number(world, "web", "memory.events", "high ") > 0
    });
    assert_eq!(number(world, "web", "memory.events", "oom_kill "), 0);
}

pub fn pids_max_stops_a_fork_bomb(world: &mut World) {
    start(world, "bomb", &["fork", "100"], "limits.pids.max = 20\n");
    let said = says(world, "bomb", "forked");
    // The init and the bomb itself are two of the twenty.
    assert!(said.contains("forked 18 stopped by EAGAIN"), "{said}");
    assert!(number(world, "bomb", "pids.events", "max ") > 0);
    let refusal = &detail(world, "bomb")["refusals"][0];
    assert_eq!(
        (&refusal["layer"], &refusal["key"]),
        (&"cgroup".into(), &"limits.pids.max".into()),
        "{refusal}"
    );
    assert!(refusal["at"].as_str().is_some_and(|at| at.contains("bomb.toml:")), "{refusal}");
    assert!(world.ok(&["why", "bomb"]).contains("cgroup: pids.max: no further process, "), "{refusal}");
    // The host can still act in it, and so can the supervisor: its part is not in there.
    wait_until("the bomb has taken its children back", LONG, || file(world, "bomb", "pids.current") == "2");
    world.ok(&["stop", "bomb"]);
}

pub fn cpu_max_throttles(world: &mut World) {
    start(world, "spin", &["spin", "600000"], "limits.cpu.max = \"20%\"\n");
    assert_eq!(file(world, "spin", "cpu.max"), "20000 100000");
    wait_until("it is held up, again and again", LONG, || {
        number(world, "spin", "cpu.stat", "nr_throttled ") >= 15
    });
    world.ok(&["stop", "spin"]);
    let used = detail(world, "spin")["exits"][0]["usage"]["cpu_user_usec"].as_u64();
    assert!(used > Some(10_000), "{used:?}");
}

pub fn weights_and_cpus_are_in_the_kernel(world: &mut World) {
    let keys = "limits.cpu = { weight = 250, pin = \"0\", max = 1.5 }\n\
                limits.memory = { low = \"8M\", swap_max = \"16M\" }\n";
    start(world, "idle", &["wait"], keys);
    world.wait_state("idle", "active");
    let status = world.ok(&["exec", "idle", "--", "/usr/bin/cat", "/proc/self/status"]);
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    assert_eq!(allowed.map(str::trim), Some("0"), "{status}");
    let read = |name| file(world, "idle", name);
    assert_eq!(
        (read("cpu.weight"), read("cpuset.cpus"), read("cpu.max")),
        ("250".into(), "0".into(), "150000 100000".into())
    );
    assert_eq!((read("memory.low"), read("memory.swap.max")), ("8388608".into(), "16777216".into()));
}

pub fn a_disk_is_bounded_and_counted(world: &mut World) {
    use std::os::unix::fs::MetadataExt;
    let data = world.dir().join("data");
    fs::create_dir(&data).expect("our own directory");
    nix::unistd::chown(&data, Some(1000.into()), Some(1000.into())).expect("root may");
    let device = fs::metadata(&data).expect("made").dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let keys = format!(
        "{QUIET}limits.io.max = [{{ device = {data:?}, wbps = \"40MB/s\", riops = 500 }}]\nlimits.io.weight = 50\n\
         service.command = [\"/probe/probe\", \"__probe\", \"store\", \"/data/file\", \"3145728\"]\n\
         rootfs.mounts = [{}, {{ src = {data:?}, dst = \"/data\", ro = false }}]\n",
        world.probe_mount()
    );
    world.write_service("disk", &keys);
    world.start();
    says(world, "disk", "stored");
    let line = format!("{device} rbps=max wbps=40000000 riops=500 wiops=max");
    assert_eq!(file(world, "disk", "io.max"), line);
    assert_eq!(file(world, "disk", "io.weight"), "default 50");
    let stat = file(world, "disk", "io.stat");
    let own = stat.lines().find(|line| line.starts_with(&format!("{device} "))).expect("the disk is counted");
    let written = own.split(' ').find_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok());
    assert!(written >= Some(3 << 20), "{stat}");
    world.ok(&["stop", "disk"]);
    let exit = detail(world, "disk")["exits"][0].clone();
    assert!(exit["usage"]["io_written_bytes"].as_u64() >= Some(3 << 20), "{exit}");
}

pub fn what_no_device_is_refuses_the_start(world: &mut World) {
    start(world, "web", &["wait"], "limits.io.max = [{ device = \"/dev/null\", wbps = 1000000 }]\n");
    world.wait_state("web", "failed");
    let fault = detail(world, "web")["fault"].clone();
    assert!(fault["step"].as_str().is_some_and(|step| step.contains("cgroup.limit")), "{fault}");
    assert!(fault["object"].as_str().is_some_and(|object| object.contains("io.max /dev/null")), "{fault}");
    assert!(fault["hint"].as_str().is_some_and(|hint| hint.contains("limits.io.max")), "{fault}");
}
