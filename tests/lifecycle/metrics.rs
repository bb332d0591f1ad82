//! What is measured, and who is told. The judges are the kernel's own files, ip(8), nft(8) and Prometheus' parser.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use serde_json::Value;

use crate::{
    reach::connect,
    support::{
        LONG, World,
        exported::{Exported, ask},
        wait_until,
        world::{http_get, wait_http},
    },
};

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
const TCP: &str = "127.0.0.1:9620";

fn socket(world: &World) -> PathBuf {
    world.run_dir().join("metrics.sock")
}

fn exported(world: &World) -> Exported {
    Exported::parse(&world.ok(&["metrics"]))
}

/// Has the supervisor answer over TCP, too.
fn listen(world: &World) {
    let path = world.dir().join("palisade.toml");
    let settings = fs::read_to_string(&path).expect("the world has one");
    world.write("palisade.toml", &format!("{settings}[metrics]\nlisten = \"{TCP}\"\n"));
}

/// A number in a file of lines `name number`.
fn number(path: &Path, key: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

/// Bytes and packets that the host's end of a link has received and sent, as ip(8) has them.
fn carried(link: &str) -> [f64; 4] {
    let out = Command::new("ip").args(["-j", "-s", "link", "show", "dev", link]).output().expect("iproute2");
    let all: Value = serde_json::from_slice(&out.stdout).expect("ip prints JSON");
    let of = |way: &str, what: &str| all[0]["stats64"][way][what].as_f64().expect("a number");
    [of("rx", "bytes"), of("tx", "bytes"), of("rx", "packets"), of("tx", "packets")]
}

fn is_between(what: &str, before: f64, told: f64, after: f64) {
    assert!(before <= told && told <= after, "{what}: {before} <= {told} <= {after}");
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs_f64()
}

/// Seconds since 1970 at which a process was started, as the kernel says.
fn started(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let ticks: f64 = stat
        .rsplit_once(") ")
        .expect("proc_pid_stat(5)")
        .1
        .split(' ')
        .nth(19)
        .expect("starttime")
        .parse()
        .expect("ticks");
    number(Path::new("/proc/stat"), "btime ") + ticks / 100.0
}

fn furnish(world: &mut World) {
    let keys = "network.publish = [\"8081:80\"]\nrestart.delay = \"10ms\"\n\
                metrics.labels = { team = 'w\"e\\b', tier = \"%n\" }";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    world.write_service("ends", &world.probe_toml(&["exit", "3"], "restart.policy = \"never\""));
    world.write_service("idle", &world.probe_toml(&["wait"], "unit.enabled = false"));
    world.write_service("bad", "service.command = 7\n");
    listen(world);
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    world.wait_state("ends", "failed");
}

pub fn what_is_told_is_what_the_kernel_says(world: &mut World) {
    furnish(world);
    let first = world.pid("web");
    world.ok(&["kill", "-s", "KILL", "web"]);
    wait_until("it runs again", LONG, || {
        world.status("web")["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
    });
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    world.wait_state("web", "active");
    let up = now();
    let address = world.address("web");
    let route = Command::new("ip").args(["-j", "route", "get", &address]).output().expect("iproute2");
    let route: Value = serde_json::from_slice(&route.stdout).expect("ip prints JSON");
    let link = route[0]["dev"].as_str().expect("a device").to_owned();
    let group = world.cgroup().join(format!("web.{}", world.run_id("web")));
    let cpu = |mode: &str| number(&group.join("cpu.stat"), &format!("{mode}_usec ")) / 1e6;

    let before = (carried(&link), [cpu("user"), cpu("system")]);
    let all = exported(world);
    let after = (carried(&link), [cpu("user"), cpu("system")]);

    let web = [("service", "web"), ("team", "w\"e\\b"), ("tier", "web")];
    let of = |name: &str| all.value(&format!("palisade_service_{name}"), &web);
    let ways = ["receive_bytes", "transmit_bytes", "receive_packets", "transmit_packets"];
    // What the host's end sends the service receives.
    for (way, at) in ways.into_iter().zip([1, 0, 3, 2]) {
        let told = of(&format!("network_{way}_total"));
        is_between(way, before.0[at], told, after.0[at]);
        assert!(told > 0.0, "{way}");
    }
    for (at, mode) in ["user", "system"].into_iter().enumerate() {
        let labels = [web[0], ("mode", mode)];
        is_between(mode, before.1[at], all.value("palisade_service_cpu_seconds_total", &labels), after.1[at]);
    }
    // The kernel's word is of its process, and of whole seconds; the program was executed in between.
    is_between("start", started(world.pid("web")) - 2.0, of("start_time_seconds"), up);
    assert_eq!([of("up"), of("enabled"), of("launches_total"), of("restarts_total")], [1.0, 1.0, 2.0, 1.0]);
    assert_eq!(of("last_exit_status"), 137.0);
    assert_eq!(all.value("palisade_service_last_exit_info", &[web[0], ("end", "killed")]), 1.0);
    // What is not measured here is not told: a zero would be a lie.
    for (file, name) in [
        ("memory.current", "memory_bytes"),
        ("memory.peak", "memory_peak_bytes"),
        ("pids.current", "pids"),
        ("io.stat", "io_read_bytes_total"),
        ("cpu.max", "cpu_throttled_seconds_total"),
    ] {
        let told = all.get(&format!("palisade_service_{name}"), &web).is_some();
        assert_eq!(told, group.join(file).exists(), "{name}, and {file}");
    }
    let pressure =
        all.get("palisade_service_pressure_seconds_total", &[web[0], ("resource", "cpu"), ("share", "some")]);
    assert_eq!(pressure.is_some(), fs::read(group.join("cpu.pressure")).is_ok());
    assert_eq!(all.get("palisade_service_healthy", &web), None, "nobody checks it");

    let state =
        |name: &str, state: &str| all.value("palisade_service_state", &[("service", name), ("state", state)]);
    for (name, now) in [("web", "active"), ("ends", "failed"), ("idle", "stopped"), ("bad", "broken")] {
        let sum: f64 = all
            .0
            .iter()
            .filter(|one| {
                one.name == "palisade_service_state" && one.labels.get("service").is_some_and(|of| of == name)
            })
            .map(|one| one.value)
            .sum();
        assert_eq!((state(name, now), sum), (1.0, 1.0), "{name} is {now} and nothing else");
        assert_eq!(all.value("palisade_services", &[("state", now)]), 1.0, "{now}");
    }
    let ends = [("service", "ends")];
    assert_eq!(all.value("palisade_service_up", &ends), 0.0);
    assert_eq!(all.value("palisade_service_last_exit_status", &ends), 3.0);
    assert_eq!(all.get("palisade_service_start_time_seconds", &ends), None);
    assert_eq!(all.value("palisade_service_launches_total", &[("service", "idle")]), 0.0);
    assert_eq!(all.value("palisade_config_broken_files", &[]), 1.0);
    assert_eq!(all.value("palisade_config_last_load_successful", &[]), 0.0);
}

pub fn what_is_told_of_the_supervisor_and_of_denials_is_so(world: &mut World) {
    furnish(world);
    let (pid, up) = (world.supervisor_pid(), now());
    let all = exported(world);
    is_between("start", started(pid) - 2.0, all.value("palisade_supervisor_start_time_seconds", &[]), up);
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
    let pages: f64 = statm.split(' ').nth(1).expect("proc_pid_statm(5)").parse().expect("pages");
    let resident = pages * 4096.0;
    let told = all.value("palisade_supervisor_resident_memory_bytes", &[]);
    is_between("resident", resident / 2.0, told, resident * 2.0);
    // Without the connection of whoever asked, which is closed some time later.
    wait_until("as many are open as are told", LONG, || {
        let told = exported(world).value("palisade_supervisor_open_fds", &[]);
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count();
        told == f64::from(u32::try_from(open).expect("some")) + 1.0
    });
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<f64>().ok());
    assert_eq!(Some(all.value("palisade_supervisor_max_fds", &[])), soft);
    assert_eq!(all.value("palisade_config_loads_total", &[]), 1.0);
    fs::remove_file(world.services_dir().join("bad.toml")).expect("it is there");
    world.ok(&["daemon-reload"]);
    let all = exported(world);
    assert_eq!(all.value("palisade_config_loads_total", &[]), 2.0);
    assert_eq!(all.value("palisade_config_last_load_successful", &[]), 1.0);
    assert_eq!(all.get("palisade_service_up", &[("service", "bad")]), None);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(all.value("palisade_build_info", &[("version", version)]), 1.0);

    // Labels follow the file without a restart.
    let run = world.run_id("web");
    let path = world.services_dir().join("web.toml");
    let file = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, file.replace("tier = \"%n\"", "tier = \"other\"")).expect("our own directory");
    world.ok(&["daemon-reload"]);
    assert_eq!(exported(world).value("palisade_service_up", &[("service", "web"), ("tier", "other")]), 1.0);
    assert_eq!(world.run_id("web"), run);

    // A knock at the host's own door.
    let link =
        Command::new("ip").args(["-j", "route", "get", &world.address("web")]).output().expect("iproute2");
    let link: Value = serde_json::from_slice(&link.stdout).expect("ip prints JSON");
    let host = link[0]["prefsrc"].as_str().expect("an address of the host").to_owned();
    assert_ne!(connect(world, "web", &format!("{host}:22")), "ok");
    wait_until("all that was refused is told", LONG, || {
        let listed = Command::new("nft")
            .args(["-j", "list", "counter", "inet", "ptest", "to_host"])
            .output()
            .expect("nft");
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("nft prints JSON");
        let all_objects = listed["nftables"].as_array().expect("a list").clone();
        let counted =
            all_objects.iter().find_map(|object| object["counter"]["packets"].as_f64()).expect("a counter");
        let labels = [("service", "web"), ("layer", "nft"), ("reason", "to_host")];
        counted > 0.0 && exported(world).get("palisade_service_denials_total", &labels) == Some(counted)
    });
}

pub fn what_a_service_writes_is_counted(world: &mut World) {
    world.write_service(
        "talks",
        &world.probe_toml(&["print", "one\ntwo\nthree"], "service.type = \"oneshot\""),
    );
    world.start();
    world.wait_state("talks", "stopped");
    let all = exported(world);
    let of = |name: &str| all.value(name, &[("service", "talks")]);
    let log = fs::read_to_string(world.dir().join("log/talks.log")).expect("it has written");
    let count = |count: usize| f64::from(u32::try_from(count).expect("few"));
    assert_eq!(of("palisade_service_log_lines_total"), count(log.lines().count()), "{log}");
    assert_eq!(of("palisade_service_log_bytes_total"), count(log.len()));
    assert_eq!(of("palisade_service_log_dropped_bytes_total"), 0.0);
    assert_eq!(of("palisade_service_last_exit_status"), 0.0);
}

pub fn it_is_told_over_http_to_whom_it_may_be(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["http", "80"], ""));
    world.start();
    world.wait_state("web", "active");
    assert!(TcpStream::connect(TCP).is_err(), "nobody has asked for that");
    let (head, body) = ask(&socket(world), GET);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert_eq!(Exported::parse(&body).value("palisade_service_up", &[("service", "web")]), 1.0);
    // Whoever may look over the control socket may look here.
    let (ours, control) = (fs::metadata(socket(world)), fs::metadata(world.run_dir().join("control.sock")));
    let (ours, control) = (ours.expect("it is there"), control.expect("it is there"));
    assert!(ours.file_type().is_socket());
    assert_eq!((ours.mode() & 0o777, ours.uid(), ours.gid()), (0o660, control.uid(), control.gid()));
    let stranger = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS", "--unix-socket"])
        .arg(socket(world))
        .arg("http://localhost/metrics")
        .output()
        .expect("util-linux and curl are needs");
    assert!(!stranger.status.success() && stranger.stdout.is_empty(), "{stranger:?}");

    // The next one, that listens for TCP, too.
    world.kill_supervisor();
    assert!(socket(world).exists(), "left behind");
    listen(world);
    world.start();
    let body = wait_http(TCP, "/metrics");
    assert_eq!(Exported::parse(&body).value("palisade_service_launches_total", &[("service", "web")]), 1.0);
    assert!(ask(&socket(world), GET).1.contains("palisade_service_up{service=\"web\"} 1\n"));
    assert!(http_get(TCP, "/").is_err_and(|error| error.contains("404")));
    // It is the host's, which services do not reach.
    assert_ne!(connect(world, "web", TCP), "ok");
    world.stop().expect("it stops");
    assert!(!socket(world).exists());
    assert!(TcpStream::connect(TCP).is_err());
}

pub fn whoever_is_slow_or_hostile_is_no_trouble_to_others(world: &mut World) {
    let keys = "network.publish = [\"8081:80\"]";
    world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    listen(world);
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    world.wait_state("web", "active");
    let fds = || fs::read_dir(format!("/proc/{}/fd", world.supervisor_pid())).expect("it lives").count();
    let before = fds();
    // Some say nothing, some half of it, some nonsense without end, some ask and never read.
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut tcp = TcpStream::connect(TCP).expect("it listens");
        let mut unix = UnixStream::connect(socket(world)).expect("it listens");
        let said: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET /met",
            2 => &[0xff; 4096],
            _ => GET.as_bytes(),
        };
        // Whoever makes room for another may be hung up on by now.
        let _ = tcp.write_all(said);
        let _ = unix.write_all(said);
        silent.push((tcp, unix));
    }
    let body = http_get(TCP, "/metrics").expect("who asks well is answered");
    assert_eq!(Exported::parse(&body).value("palisade_service_up", &[("service", "web")]), 1.0);
    assert!(ask(&socket(world), GET).0.starts_with("HTTP/1.1 200"));
    assert_eq!(http_get("127.0.0.1:8081", "/").as_deref(), Ok("web"));
    world.ok(&["restart", "web"]);
    assert!(fds() <= before + 40, "bounded: {} of {before}", fds());
    let endless = TcpStream::connect(TCP).expect("it listens");
    let mut writer = endless.try_clone().expect("dup");
    let _ = writer.write_all(&vec![b'x'; 1 << 20]);
    let _ = endless.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // A reset is an answer as well.
    let _ = (&endless).read_to_end(&mut answer);
    drop(silent);
    wait_until("all of it is closed", LONG, || fds() <= before);
    assert!(ask(&socket(world), GET).0.starts_with("HTTP/1.1 200"));
}
