//! The service files of `examples/` with Debian's own programs, and each program's own client.

use std::{path::Path, process::Command};

use crate::support::{
    LONG, World, wait_for, wait_until,
    world::{describe, http_get, wait_http},
};

/// Starts the example `name` as it is, but for where its files are: below the world's directory.
fn example(world: &mut World, name: &str) {
    lay_out(world, name);
    world.start();
}

fn lay_out(world: &World, name: &str) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let data = world.dir().join("data");
    let output = Command::new(examples.join("prepare")).arg(&data).output().expect("a script of ours");
    assert!(output.status.success(), "{}", describe(&output));
    let toml = std::fs::read_to_string(examples.join(format!("{name}.toml"))).expect("an example");
    world.write_service(name, &toml.replace("/srv/palisade-examples", &data.display().to_string()));
}

/// Asks a client of the host's again and again until it succeeds. Returns what it printed.
fn client(program: &str, args: &[&str]) -> String {
    wait_for(&format!("{program} {args:?}"), LONG, || {
        let output = Command::new(program).args(args).output().expect("declared as a need");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    })
}

/// None of the walls that the programs have to live with was left out.
fn behind_walls(world: &World, name: &str) {
    let uid_map = std::fs::read_to_string(format!("/proc/{}/uid_map", world.pid(name))).expect("it lives");
    let host = uid_map.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    assert!(host.is_some_and(|host| host >= 65536), "{uid_map}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid(name))).expect("it lives");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
}

pub fn nginx_answers(world: &mut World) {
    example(world, "nginx");
    world.wait_state("nginx", "active");
    // It is active when its port is taken, and then nobody has to ask twice.
    let first = Command::new("curl").args(["-sf", "-o", "/dev/null", "http://127.0.0.1:8083/"]).output();
    let first = first.expect("a need");
    assert!(first.status.success(), "{}", describe(&first));
    let said = client("curl", &["-s", "-D", "-", "-o", "/dev/null", "http://127.0.0.1:8083/"]);
    assert!(said.contains("Server: nginx"), "{said}");
    behind_walls(world, "nginx");
}

pub fn nginx_reloads_when_its_configuration_changes(world: &mut World) {
    let etc = world.dir().join("nginx");
    let copied = Command::new("cp").args(["-r", "/etc/nginx"]).arg(&etc).status();
    assert!(copied.expect("a program of every host").success());
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let toml = std::fs::read_to_string(examples.join("nginx.toml")).expect("an example");
    let toml = toml.replace("src = \"/etc/nginx\"", &format!("src = {etc:?}"));
    let toml = toml.replace("\"/etc/nginx/", &format!("\"{}/", etc.display())).replace("8083", "8087");
    world.write_service("nginx", &toml);
    world.start();
    let ask = || client("curl", &["-s", "-D", "-", "-o", "/dev/null", "http://127.0.0.1:8087/"]);
    assert!(!ask().contains("X-Version"));
    world.wait_state("nginx", "active");
    let pid = world.pid("nginx");
    let header = |version: &str| format!("add_header X-Version {version} always;\n");
    std::fs::write(etc.join("conf.d/version.conf"), header("one")).expect("our own directory");
    wait_until("the new file is read", LONG, || ask().contains("X-Version: one"));
    std::fs::write(etc.join("beside"), header("two")).expect("our own directory");
    std::fs::rename(etc.join("beside"), etc.join("conf.d/version.conf")).expect("our own directory");
    wait_until("its replacement is read", LONG, || ask().contains("X-Version: two"));
    assert_eq!((world.pid("nginx"), world.run_id("nginx")), (pid, 1), "it goes on");
}

pub fn nginx_that_leaves_its_starter_answers(world: &mut World) {
    example(world, "nginx-forking");
    world.wait_state("nginx-forking", "active");
    let ask = || client("curl", &["-s", "-D", "-", "-o", "/dev/null", "http://127.0.0.1:8086/"]);
    assert!(ask().contains("Server: nginx"));
    behind_walls(world, "nginx-forking");
    let master = world.pid("nginx-forking");
    let title = std::fs::read_to_string(format!("/proc/{master}/cmdline")).expect("it lives");
    assert!(title.contains("master process"), "{title}");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("nginx-forking"), world.run_id("nginx-forking")), (master, 1));
    world.ok(&["reload", "nginx-forking"]);
    assert!(ask().contains("Server: nginx"));
    // Another program is executed by the old one, which ends when that has taken over: nginx(8), SIGUSR2.
    world.ok(&["kill", "--signal", "USR2", "nginx-forking"]);
    let new = wait_for("another master", LONG, || {
        let files = ["/run/nginx.pid.oldbin", "/run/nginx.pid"];
        let files = world.palisade(&[&["exec", "nginx-forking", "--", "/bin/cat"], &files[..]].concat());
        let pids = String::from_utf8_lossy(&files.stdout).into_owned();
        (files.status.success() && pids.lines().count() == 2).then_some(pids)
    });
    world.ok(&["kill", "--signal", "QUIT", "nginx-forking"]);
    wait_until("the new master is followed", LONG, || {
        let status = world.status("nginx-forking");
        status["pid"].as_u64().is_some_and(|pid| pid != u64::from(master))
    });
    assert_eq!((world.state("nginx-forking"), world.run_id("nginx-forking")), ("active".into(), 1), "{new}");
    assert!(ask().contains("Server: nginx"));
}

pub fn redis_answers(world: &mut World) {
    example(world, "redis");
    world.wait_state("redis", "active");
    // It is active when it says so, and then nobody has to ask twice.
    let first = Command::new("redis-cli").args(["-e", "-p", "16379", "ping"]).output().expect("a need");
    assert_eq!(String::from_utf8_lossy(&first.stdout).trim(), "PONG", "{}", describe(&first));
    assert!(world.status("redis")["says"].as_str().is_some_and(|says| says.contains("Ready")));
    // -e: an answer such as LOADING is no success, and is asked for again.
    assert_eq!(client("redis-cli", &["-e", "-p", "16379", "set", "key", "value"]), "OK");
    assert_eq!(client("redis-cli", &["-e", "-p", "16379", "get", "key"]), "value");
    behind_walls(world, "redis");
    world.ok(&["restart", "redis"]);
    assert_eq!(client("redis-cli", &["-e", "-p", "16379", "get", "key"]), "value", "it was written down");
}

pub fn a_web_program_counts_in_a_database_that_only_it_may_ask(world: &mut World) {
    lay_out(world, "redis");
    lay_out(world, "visits");
    lay_out(world, "gunicorn");
    world.start();
    world.wait_state("visits", "active");
    // Asked once each: who asks again because it takes long counts again.
    for visitor in ["visitor 1", "visitor 2"] {
        assert_eq!(http_get("127.0.0.1:8088", "/").as_deref().map(str::trim), Ok(visitor));
    }
    world.ok(&["restart", "redis"]);
    wait_until("it goes on counting", LONG, || {
        http_get("127.0.0.1:8088", "/").is_ok_and(|said| said.trim() == "visitor 3")
    });
    behind_walls(world, "visits");
    world.wait_state("gunicorn", "active");
    let address = world.address("redis").split('/').next().unwrap_or_default().to_owned();
    let ask = |name: &str| {
        let url = format!("telnet://{address}:6379");
        let args = ["exec", name, "--", "/usr/bin/curl", "-s", "-m", "1", &url];
        world.palisade(&args).status.code()
    };
    // 7 is "could not connect": the one without a link has no way, whoever may be there.
    assert_eq!((ask("visits"), ask("gunicorn")), (Some(28), Some(7)));
}

pub fn postgresql_answers(world: &mut World) {
    example(world, "postgresql");
    world.wait_state("postgresql", "active");
    let args = ["-h", "127.0.0.1", "-p", "15432", "-U", "postgres", "-Atc", "select 1"];
    let first = Command::new("psql").args(args).output().expect("a need");
    assert_eq!(String::from_utf8_lossy(&first.stdout).trim(), "1", "{}", describe(&first));
    let psql = |sql| client("psql", &["-h", "127.0.0.1", "-p", "15432", "-U", "postgres", "-Atc", sql]);
    assert_eq!(psql("select 6 * 7"), "42");
    psql("create table t as select 'kept' as word");
    behind_walls(world, "postgresql");
    world.ok(&["restart", "postgresql"]);
    assert_eq!(psql("select word from t"), "kept");
}

pub fn gunicorn_answers(world: &mut World) {
    example(world, "gunicorn");
    world.wait_state("gunicorn", "active");
    let says = world.status("gunicorn")["says"].clone();
    assert!(says.as_str().is_some_and(|says| says.contains("arbiter booted")), "{says}");
    assert_eq!(wait_http("127.0.0.1:8084", "/").trim(), "hello from gunicorn, gunicorn");
    behind_walls(world, "gunicorn");
    // Whoever connects while there is no gunicorn waits for the next one.
    let stopping = std::thread::spawn({
        let mut restart = world.command(&["restart", "gunicorn"]);
        move || restart.output()
    });
    for _ in 0..50 {
        let said = http_get("127.0.0.1:8084", "/").expect("nobody is refused");
        assert_eq!(said.trim(), "hello from gunicorn, gunicorn");
    }
    let restarted = stopping.join().expect("no panic").expect("the program under test starts");
    assert!(restarted.status.success(), "{}", describe(&restarted));
    assert!(http_get("127.0.0.1:8084", "/").is_ok());
}

pub fn node_answers(world: &mut World) {
    example(world, "node");
    assert_eq!(wait_http("127.0.0.1:8085", "/").trim(), "hello from node, node");
    behind_walls(world, "node");
}
