//! The packet filter when others change it. The judges are nft(8), which lists what the kernel has, and real clients.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use nix::{
    libc::{SYS_swapoff, SYS_unshare},
    sys::signal::{Signal, kill},
};
use serde_json::{Value, json};

use crate::{
    reach::connect,
    spoof::{Place, furnish_host},
    support::{
        LONG, World, scaled, wait_for, wait_until,
        world::{describe, http_get, raw, wait_http},
    },
};

const NONE: &str = "network.mode = \"none\"";

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
    let mut events = world
        .command(&["events", "-f", "-n", "0", "--json"])
        .stdout(file)
        .spawn()
        .expect("the program under test starts");
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

fn sh(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", describe(&output));
}

/// What somebody on the uplink hears of the port that is published there.
fn heard_outside(outside: &Place) -> Option<String> {
    let netns = format!("--net={}", outside.path());
    // The handshake is the kernel's; for the answer the service needs a CPU.
    let time = scaled(Duration::from_secs(5)).as_secs().to_string();
    let ask = ["curl", "-s", "--connect-timeout", "1", "-m", &time, "http://192.0.2.1:8081/"];
    let output = Command::new("nsenter").arg(netns).args(ask).output().expect("declared as a need");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As with Docker's and ufw's.
fn close_forward() {
    sh("nft add table ip filter
        nft 'add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }'
        nft 'add rule ip filter FORWARD iifname \"docker0\" counter accept'");
}

pub fn a_chain_that_drops_is_named_and_opened_for_who_asks(world: &mut World) {
    let outside = furnish_host();
    outside.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0");
    close_forward();
    let theirs = || nft("list table ip filter");
    let before = theirs();
    let write = |world: &World, firewall: &str| {
        let keys = format!("network.publish = [\"0.0.0.0:8081:80\"]\nnetwork.firewall = \"{firewall}\"");
        world.write_service("web", &world.probe_toml(&["http", "80"], &keys));
    };
    write(world, "detect");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    assert_eq!(heard_outside(&outside), None);
    let obstacles = |world: &World| world.json(&["status", "web"])["services"][0]["firewall"].clone();
    let found = obstacles(world);
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let known = ["table", "chain", "why"].map(|key| found[0][key].as_str().unwrap_or_default());
    assert_eq!(known, ["ip filter", "FORWARD", "policy drop"]);
    let commands: Vec<&str> =
        found[0]["allow"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for place in [
        world.ok(&["status", "web"]),
        world.supervisor_log(),
        world.ok(&["check", "--services", &world.services_dir().display().to_string()]),
    ] {
        assert!(commands.iter().all(|command| place.contains(command)), "{commands:?} in {place}");
    }
    // They do it, as they stand there.
    commands.iter().for_each(|command| sh(command));
    let is_open = || heard_outside(&outside).as_deref() == Some("web");
    wait_until("they let it through", LONG, is_open);
    assert_eq!(obstacles(world), serde_json::json!([]));
    nft("delete table ip filter");
    close_forward();
    assert_eq!(heard_outside(&outside), None);
    assert_eq!(theirs(), before, "nobody has asked for more");
    // For who asks it is done, without a restart, and again when it was undone.
    write(world, "insert");
    world.ok(&["daemon-reload"]);
    wait_until("it is open", LONG, is_open);
    assert_eq!(world.run_id("web"), 1);
    nft("flush chain ip filter FORWARD");
    wait_until("it is open again", LONG, is_open);
    nft("flush ruleset");
    close_forward();
    wait_until("it is open once more", LONG, is_open);
    nft("insert rule ip filter FORWARD drop");
    wait_until("it stands before what drops", LONG, is_open);
    let ours = || theirs().matches("palisade: ptest").count();
    assert_eq!(ours(), 2);
    world.kill_supervisor();
    nft("delete table ip filter");
    close_forward();
    world.start();
    assert_eq!(ours(), 2, "a successor looks by itself");
    wait_until("it is open for a successor", LONG, is_open);
    assert_eq!(ours(), 2);
    // Nobody asks any more while nobody supervises, and then the last one who does goes.
    world.kill_supervisor();
    write(world, "detect");
    world.start();
    assert_eq!(theirs(), before);
    write(world, "insert");
    world.ok(&["daemon-reload"]);
    wait_until("they are there", LONG, || ours() == 2);
    world.ok(&["restart", "web"]);
    wait_until("it is open in the next run", LONG, is_open);
    world.ok(&["stop", "web"]);
    assert_eq!(theirs(), before);
    world.ok(&["start", "web"]);
    wait_until("it is open when it starts", LONG, is_open);
    assert_eq!(world.stop(), Ok(()));
    assert_eq!(theirs(), before);
    // In the foreground as well.
    let file = world.write("single/once.toml", &world.probe_toml(&["wait"], "network.firewall = \"insert\""));
    let mut run = world
        .command(&["run"])
        .args(world.places())
        .arg(file)
        .spawn()
        .expect("the program under test starts");
    wait_until("the chain is open", LONG, || theirs().matches("palisade: ").count() == 2);
    kill(raw(run.id()), Signal::SIGTERM).expect("it runs");
    run.wait().expect("our child");
    assert_eq!(theirs(), before);
    nft("delete table ip filter");
    drop(outside);
}

/// What a counter of our table has counted.
fn counted(name: &str) -> u64 {
    let listed: Value =
        serde_json::from_str(&nft(&format!("-j list counter inet ptest {name}"))).expect("nft prints JSON");
    let objects = listed["nftables"].as_array().expect("a list");
    objects.iter().find_map(|object| object["counter"]["packets"].as_u64()).expect("it is there")
}

/// Sends datagrams from within a service, from one of its addresses.
fn send(world: &World, name: &str, from: &str, (to, port): (&str, u16), count: u32) {
    let family = if to.contains(':') { "AF_INET6" } else { "AF_INET" };
    let script = format!(
        "import socket\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM)\ns.bind(('{from}', 0))\n\
         for n in range({count}):\n    s.sendto(b'x', ('{to}', {port}))\n"
    );
    world.ok(&["exec", name, "--", "/usr/bin/python3", "-c", &script]);
}

/// What `why` tells of a service, by reason and door: how often, and the whole of it.
pub(crate) fn denials(world: &World, name: &str) -> BTreeMap<(String, String), (u64, Value)> {
    let told = world.json(&["why", name]);
    let all = told["services"][0]["denials"].as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.into_iter()
        .map(|one| {
            let door = format!("{}:{}", text(&one["to"]), one["port"]);
            ((text(&one["reason"]), door), (one["count"].as_u64().expect("a number"), one))
        })
        .collect()
}

/// What `status` tells, which of a service that is down has an exit code of its own.
fn refusals(world: &World, name: &str) -> Vec<Value> {
    let output = world.palisade(&["status", "--json", name]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["services"][0]["refusals"].as_array().cloned().unwrap_or_default()
}

pub fn what_other_walls_refuse_is_named_as_well(world: &mut World) {
    // CLONE_NEWUSER
    let calls = format!("my $x = q(/x); syscall({SYS_swapoff}, $x); syscall({SYS_unshare}, 0x10000000)");
    let script = format!("chroot / true; chroot / true; perl -e '{calls}'; exec sleep 1000");
    let toml = format!("{NONE}\nservice.command = [\"/bin/sh\", \"-c\", {script:?}]\n");
    let plain = world.write_service("plain", &toml);
    let listed =
        world.write_service("listed", &format!("{toml}\nsecurity.seccomp = [\"@service\", \"chroot\"]\n"));
    // What is let through is not refused, be it logged or not.
    let keys = "security.seccomp = { allow = [\"@service\", \"chroot\"], log = [\"swapoff\"] }";
    world.write_service("logged", &format!("{toml}\n{keys}\n"));
    let lost = world.write_service("lost", &format!("{NONE}\nservice.command = [\"/no/such\"]\n"));
    // The audit log is the machine's, and tells ids alone: those of other tests' services are others.
    let config = fs::read_to_string(world.dir().join("palisade.toml")).expect("the world has one");
    world.write("palisade.toml", &config.replace("base = 1879048192", "base = 1920991232"));
    world.start_by(world.supervise_in_first_network());
    world.wait_state("lost", "failed");
    let (swapoff, unshare) = (refusal(world, "plain", "swapoff by "), refusal(world, "plain", "unshare by "));
    let chroot = refusal(world, "plain", "chroot by ");
    let plain = plain.display();
    assert_eq!((&swapoff["layer"], &swapoff["add"]), (&json!("seccomp"), &json!("swapoff")), "{swapoff}");
    let why =
        format!("{plain} has no security.seccomp; write security.seccomp = [\"@service\", \"swapoff\"]");
    assert_eq!(swapoff["why"], why);
    let why = format!(
        "{plain} has no security.no_namespaces, and its default decides it: not with these arguments"
    );
    assert_eq!((&unshare["layer"], &unshare["why"]), (&json!("seccomp"), &json!(why)));
    let why =
        format!("{plain} has no security.capabilities; write security.capabilities = [\"CAP_SYS_CHROOT\"]");
    assert_eq!(
        (&chroot["layer"], &chroot["count"], &chroot["why"]),
        (&json!("capability"), &json!(2), &json!(why))
    );

    let swapoff = refusal(world, "listed", "swapoff by ");
    let why = format!("security.seccomp of {}:4 does not list it; add \"swapoff\"", listed.display());
    assert_eq!((&swapoff["at"], &swapoff["why"]), (&json!(format!("{}:4", listed.display())), &json!(why)));
    let all = refusals(world, "listed");
    assert!(
        !all.iter().any(|one| one["what"].as_str().is_some_and(|what| what.starts_with("chroot"))),
        "{all:?}"
    );

    // The next call of the same program.
    refusal(world, "logged", "unshare by ");
    let all = refusals(world, "logged");
    assert_eq!(all.len(), 1, "{all:?}");

    let missing = refusal(world, "lost", "/no/such: no such file");
    assert_eq!((&missing["layer"], &missing["key"]), (&json!("root"), &json!("service.command")));
    assert_eq!(missing["at"], format!("{}:2", lost.display()));
    let said = world.ok(&["why", "plain", "lost"]);
    for text in [
        "  seccomp: swapoff by /usr/bin/perl, once, last ",
        "  capability: chroot by ",
        "  root: /no/such: no such file, once: ",
    ] {
        assert!(said.contains(text), "{text} in {said}");
    }
}

/// The refusal of a service that begins so, as soon as it is told.
fn refusal(world: &World, name: &str, what: &str) -> Value {
    let mut found = json!(null);
    wait_until(what, LONG, || {
        let all = refusals(world, name);
        let is_it = |one: &&Value| one["what"].as_str().is_some_and(|text| text.starts_with(what));
        found = all.iter().find(is_it).cloned().unwrap_or_default();
        !found.is_null()
    });
    found
}

/// The kernel tells of it since 6.15, and where auditing is on.
pub fn what_landlock_denies_is_named_with_the_line_that_decides_it(world: &mut World) {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    };
    // A file of the host that the service was given to read, of a mode that lets everybody write.
    let file = world.write("shared", "host");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("ours");
    let script = "echo x > /proc/self/fd/0; exec sleep 1000";
    let writes = world.write_service(
        "writes",
        &format!(
            "{NONE}\nservice.command = [\"/bin/sh\", \"-c\", {script:?}]\nservice.stdin = \"file:{}\"\n",
            file.display()
        ),
    );
    // A socket of the host whose name is in no file system, for a service that has the host's network.
    let name = format!("walls-{}", world.name());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _listener = world.in_first_network(|| {
        let listener = UnixListener::bind_addr(&address).expect("a new name");
        UnixStream::connect_addr(&address).expect("whoever has no wall");
        listener
    });
    let script =
        format!("python3 -c \"import socket; socket.socket(1).connect(chr(0) + '{name}')\"; exec sleep 1000");
    let host = "network.mode = \"host\"\nsecurity.landlock = \"auto\"";
    let connects = world
        .write_service("connects", &format!("{host}\nservice.command = [\"/bin/sh\", \"-c\", {script:?}]\n"));
    world.start_by(world.supervise_in_first_network());

    let write = refusal(world, "writes", "fs.write_file of ");
    let why = format!("{} has no rootfs.mounts", writes.display());
    assert_eq!((&write["layer"], &write["key"]), (&json!("landlock"), &json!("rootfs.mounts")), "{write}");
    assert!(write["why"].as_str().is_some_and(|text| text.starts_with(&why)), "{write}");
    assert!(write["what"].as_str().is_some_and(|text| text.ends_with("/shared")), "{write}");
    assert_eq!(fs::read_to_string(&file).expect("ours"), "host");

    let connect = refusal(world, "connects", "scope.abstract_unix_socket");
    let at = format!("{}:2", connects.display());
    assert_eq!(
        (&connect["layer"], &connect["key"]),
        (&json!("landlock"), &json!("security.landlock")),
        "{connect}"
    );
    assert_eq!(connect["at"], at, "{connect}");
    let said = world.ok(&["why", "writes", "connects"]);
    for text in ["  landlock: fs.write_file of ", "  landlock: scope.abstract_unix_socket"] {
        assert!(said.contains(text), "{text} in {said}");
    }
}

pub fn what_is_refused_is_named_with_the_line_that_decides_it(world: &mut World) {
    let outside = furnish_host();
    outside.sh("ip link set eth0 address 02:00:00:00:00:fe; ip addr add 192.0.2.254/24 dev eth0
         ip route add 10.83.0.0/16 via 192.0.2.1");
    let keys = "\n# Where it may go.\nnetwork.egress = [\"192.0.2.254:80\"]\nnetwork.allow_to = [\"db:80\"]";
    let file = world.write_service("web", &world.probe_toml(&["http", "80"], keys));
    let text = fs::read_to_string(&file).expect("just written");
    let line_of = |key: &str| {
        let line = text.lines().position(|line| line.starts_with(key)).expect("it is there") + 1;
        format!("{key} of {}:{line} does not list it", file.display())
    };
    world.write_service("db", &world.probe_toml(&["http", "80"], ""));
    let powers = "service.user = \"root\"\nsecurity.capabilities = [\"CAP_NET_ADMIN\"]";
    world.write_service("liar", &world.probe_toml(&["wait"], powers));
    world.start();
    for name in ["web", "db", "liar"] {
        world.wait_state(name, "active");
    }
    let [web, db, liar] = ["web", "db", "liar"].map(|name| address(world, name));
    let [web6, db6] = ["web", "db"]
        .map(|name| world.status(name)["addresses"][1].as_str().expect("one of IPv6").to_owned());
    world.ok(&["exec", "liar", "--", "/usr/sbin/ip", "addr", "add", "10.83.0.99/32", "dev", "eth0"]);
    let reasons = ["no_egress", "to_service", "to_host", "to_metadata", "unpublished"];
    let before = reasons.map(counted);
    for (service, from, to, port, count) in [
        ("web", &*web, "192.0.2.254", 81, 3),
        ("web", &web, "198.51.100.1", 53, 2),
        ("web", &web, &db, 81, 4),
        ("web", &web, "10.83.0.1", 9999, 1),
        ("web", &web, "169.254.1.1", 80, 5),
        ("liar", "10.83.0.99", "192.0.2.254", 99, 3),
        ("web", &web6, &db6, 82, 2),
        // What is allowed is not refused.
        ("web", &web, "192.0.2.254", 80, 0),
        ("liar", &liar, &db, 80, 1),
    ] {
        send(world, service, from, (to, port), count);
    }
    outside.sh(&format!("! curl -s -m 2 http://{db}:80/"));
    // It has tried as often as it would.
    let tried = counted("unpublished") - before[4];
    assert!(tried > 0, "it has come as far as the table");
    let wanted = |world: &World, name: &str, reason: &str, door: &str| {
        denials(world, name).get(&(reason.to_owned(), door.to_owned())).cloned()
    };
    let mut seen = BTreeMap::new();
    for (name, reason, door, count) in [
        ("web", "no_egress", "192.0.2.254:81".to_owned(), 3),
        ("web", "no_egress", "198.51.100.1:53".to_owned(), 2),
        ("web", "to_service", format!("{db}:81"), 4),
        ("web", "to_service", format!("{db6}:82"), 2),
        ("web", "to_host", "10.83.0.1:9999".to_owned(), 1),
        ("web", "to_metadata", "169.254.1.1:80".to_owned(), 5),
        ("liar", "spoofed", "192.0.2.254:99".to_owned(), 3),
        ("liar", "to_service", format!("{db}:80"), 1),
        ("db", "unpublished", format!("{db}:80"), tried),
    ] {
        // The kernel tells of some at a time.
        let found = wait_for(&format!("{reason} {door} of {name}"), LONG, || {
            wanted(world, name, reason, &door).filter(|found| found.0 == count)
        });
        *seen.entry(reason).or_insert(0) += found.0;
    }
    for (reason, before) in reasons.into_iter().zip(before) {
        assert_eq!(seen.get(reason), Some(&(counted(reason) - before)), "{reason}: as the table counts");
    }
    let why = world.ok(&["why", "web"]);
    for said in [
        format!("no_egress: udp {web} -> 192.0.2.254:81, 3 times, last "),
        format!("{}; add \"192.0.2.254:81/udp\"", line_of("network.egress")),
        format!("{}; add \"db:81/udp\", or: ", line_of("network.allow_to")),
        format!("to_host: udp {web} -> 10.83.0.1:9999, once, last "),
    ] {
        assert!(why.contains(&said), "{said} in {why}");
    }
    assert!(world.ok(&["status", "web"]).contains("Denied: "), "status tells of the latest ones");
    let of_db = world.ok(&["why", "db"]);
    let unpublished = "services/db.toml has no network.publish; write network.publish = [\"0.0.0.0:80:80\"]";
    assert!(of_db.contains(unpublished), "{of_db}");
    assert!(of_db.contains(&format!("to_service: udp {web} -> {db}:81, 4 times")), "{of_db}");
    // A flood is counted by the table, and told of now and then.
    let before = counted("no_egress");
    send(world, "web", &web, ("192.0.2.254", 7), 5000);
    wait_until("it is told of", LONG, || wanted(world, "web", "no_egress", "192.0.2.254:7").is_some());
    assert_eq!(counted("no_egress") - before, 5000);
    let told = wanted(world, "web", "no_egress", "192.0.2.254:7").map_or(0, |found| found.0);
    assert!((1..5000).contains(&told), "{told}");
    // A successor begins anew.
    world.kill_supervisor();
    world.start();
    assert_eq!(denials(world, "web").len(), 0);
    send(world, "web", &web, ("192.0.2.254", 82), 1);
    wait_until("it hears", LONG, || wanted(world, "web", "no_egress", "192.0.2.254:82").is_some());
    // With rules that were flushed, too.
    nft("flush ruleset");
    wait_until("they are there again", LONG, || {
        send(world, "web", &web, ("192.0.2.254", 83), 1);
        wanted(world, "web", "no_egress", "192.0.2.254:83").is_some()
    });
    drop(outside);
}
