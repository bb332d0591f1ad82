//! `palisade run FILE` by an ordinary user: the same walls, made without root.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags},
    sys::signal::{Signal, kill},
};
use serde_json::Value;

use crate::{
    support::{
        LONG, World, probe, scaled, wait_for, wait_until,
        world::{PALISADE, PROBE, describe, http_get, raw, wait_http},
    },
    walls,
};

/// Somebody whom the machine does not know.
const UID: u32 = 4242;
/// First of his subordinate ids.
const SUBORDINATE: u32 = 1_000_000;

/// An ordinary user with a home, a run-time directory and a program of his own to run.
struct User<'a> {
    world: &'a World,
    dir: PathBuf,
    /// What was laid over files of the machine, in this world's mounts.
    over: Vec<PathBuf>,
}

impl<'a> User<'a> {
    fn new(world: &'a World) -> Self {
        let dir = world.dir().join("user");
        for (name, mode) in [("", 0o755), ("home", 0o700), ("runtime", 0o700), ("home/data", 0o700)] {
            let path = dir.join(name);
            fs::create_dir(&path).expect("a new name");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own");
            if !name.is_empty() {
                chown(&path, Some(UID), Some(UID)).expect("root may");
            }
        }
        // Where it was built others may not look.
        fs::copy(PALISADE, dir.join("palisade")).expect("the program under test");
        Self { world, dir, over: Vec::new() }
    }

    /// One who has a range of ids beside his own.
    fn with_range(world: &'a World) -> Self {
        let mut user = Self::new(world);
        let passwd = fs::read_to_string("/etc/passwd").expect("the machine has one");
        user.lay_over("/etc/passwd", &format!("{passwd}tester:x:{UID}:{UID}::/nonexistent:/bin/sh\n"));
        for path in ["/etc/subuid", "/etc/subgid"] {
            user.lay_over(path, &format!("tester:{SUBORDINATE}:65536\n"));
        }
        user
    }

    fn lay_over(&mut self, path: &str, text: &str) {
        let name = path.replace('/', "-");
        let file = self.world.write(&format!("user/over{name}"), text);
        self.bind(&file, path);
    }

    fn bind(&mut self, file: &Path, path: &str) {
        let none: Option<&str> = None;
        nix::mount::mount(Some(file), path, none, MsFlags::MS_BIND, none).expect("a mount of ours");
        self.over.push(path.into());
    }

    fn data(&self) -> PathBuf {
        self.dir.join("home/data")
    }

    fn file(&self, toml: &str) -> PathBuf {
        self.world.write("user/once.toml", toml)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("palisade"));
        command.arg("--config").arg(self.world.dir().join("palisade.toml")).args(args);
        command.env_clear().env("HOME", self.dir.join("home")).env("PATH", "/usr/bin:/bin");
        command.env("XDG_RUNTIME_DIR", self.dir.join("runtime"));
        command.uid(UID).gid(UID).current_dir("/").stdin(Stdio::null());
        command
    }

    fn run(&self, toml: &str) -> Output {
        let file = self.file(toml);
        let output = self.command(&["run"]).arg(file).output().expect("the program under test starts");
        // Its directory stays, as root's does; nothing of a run is in it.
        let left = fs::read_dir(self.dir.join("runtime/palisade")).into_iter().flatten().count();
        assert_eq!(left, 0, "{}", describe(&output));
        output
    }

    fn start(&self, toml: &str) -> Child {
        let file = self.file(toml);
        let mut command = self.command(&["run"]);
        command.arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program under test starts")
    }

    /// What the probe reports.
    fn report(&self, keys: &str) -> Value {
        let output = self.run(&self.world.probe_toml(&["report"], keys));
        assert!(output.status.success(), "{}", describe(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", describe(&output)))
    }

    /// What a script printed.
    fn says(&self, script: &str, keys: &str) -> String {
        let command = ["sh", "-c", &script.replace('%', "%%")];
        let output = self.run(&format!("service.command = {command:?}\n{keys}\n"));
        assert!(output.status.success(), "{}", describe(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Why a run was refused.
    fn refusal(&self, keys: &str) -> String {
        let output = self.run(&format!("service.command = [\"true\"]\n{keys}\n"));
        assert_eq!(output.status.code(), Some(125), "{keys}: {}", describe(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        for path in self.over.iter().rev() {
            nix::mount::umount2(path, MntFlags::MNT_DETACH).expect("mounted by us");
        }
    }
}

/// Holes, but for the maps: seen from inside they count in the ids of Palisade's own namespace.
fn holes(inside: &Value) -> Vec<String> {
    let all = walls::holes(inside, &probe::report());
    all.into_iter().filter(|hole| !hole.starts_with("uid_map") && !hole.starts_with("gid_map")).collect()
}

/// The main process of a service that runs the probe with these arguments.
fn process(args: &str) -> u32 {
    wait_for(&format!("a process {args}"), LONG, || {
        let is_it = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == format!("{PROBE}\0__probe\0{args}\0").as_bytes()
        };
        crate::support::world::pids().into_iter().find(is_it).map(|pid| pid.try_into().expect("positive"))
    })
}

/// The user ids of a process as the host counts.
fn uids(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("it has ids");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn an_ordinary_users_sandbox_has_no_hole(world: &mut World) {
    let user = User::new(world);
    let inside = user.report("");
    assert_eq!(holes(&inside), Vec::<String>::new(), "{inside:#}");
    assert_eq!(walls::texts(&inside["interfaces"]), ["lo"]);
    assert_eq!(walls::texts(&inside["uid_map"]).len(), 1, "{}", inside["uid_map"]);
    let known = [
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "probe", "proc", "root", "run", "sbin",
        "sys", "tmp", "usr", "var",
    ];
    let more: Vec<String> =
        walls::texts(&inside["root"]).into_iter().filter(|n| !known.contains(&&**n)).collect();
    assert_eq!(more, Vec::<String>::new());
    let mut run = user.start(&world.probe_toml(&["wait"], "service.user = 77"));
    assert_eq!(uids(process("wait")), "4242 4242 4242 4242");
    kill(raw(run.id()), Signal::SIGTERM).expect("it lives");
    assert_eq!(run.wait().expect("our child").code(), Some(128 + 15));
}

pub fn who_has_a_range_of_ids_gives_it_to_the_service(world: &mut World) {
    let user = User::with_range(world);
    for keys in ["", "service.user = 0", "service.user = 77\nservice.extra_groups = [78]"] {
        let inside = user.report(keys);
        let found: Vec<String> =
            holes(&inside).into_iter().filter(|hole| hole != "supplementary groups 78").collect();
        assert_eq!(found, Vec::<String>::new(), "{inside:#}");
    }
    let mut run = user.start(&world.probe_toml(&["wait"], "service.user = 77"));
    let own = SUBORDINATE + 77;
    assert_eq!(uids(process("wait")), format!("{own} {own} {own} {own}"));
    kill(raw(run.id()), Signal::SIGTERM).expect("it lives");
    assert_eq!(run.wait().expect("our child").code(), Some(128 + 15));
    let said = user.says(
        "stat -c %u / /etc/passwd /dev/pts; stat -c %u /usr; touch /tmp/x && stat -c %u /tmp/x",
        "service.user = 77",
    );
    assert_eq!(said, "0\n0\n0\n65534\n77\n");
}

pub fn an_ordinary_users_run_ends_as_its_payload_does(world: &mut World) {
    let user = User::new(world);
    for (args, code) in [(["exit", "0"], 0), (["exit", "42"], 42), (["signal", "9"], 128 + 9)] {
        let output = user.run(&world.probe_toml(&args, ""));
        assert_eq!(output.status.code(), Some(code), "{}", describe(&output));
        // What is missing is said once, in one line.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        for missing in ["without root", "your own id", "no control group", "no link"] {
            assert!(said.contains(missing), "{missing}: {said}");
        }
    }
    let output = user.run("service.command = \"/usr/bin/no-such-program\"\n");
    assert_eq!(output.status.code(), Some(127), "{}", describe(&output));
    let output = user.run(&world.probe_toml(&["wait"], "service.timeout = { run = \"200ms\" }"));
    assert_eq!(output.status.code(), Some(124), "{}", describe(&output));
    let output = user.run(&world.probe_toml(&["print", "on a terminal"], "service.tty = true"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "on a terminal\r\n", "{}", describe(&output));
}

pub fn a_users_files_are_shown_and_what_is_written_is_his(world: &mut World) {
    let script = "cat /data/secret; echo new > /data/made && stat -c %u /data/made; cat /shown/secret 2>/dev/null || echo closed; \
                  echo x 2>/dev/null > /shown/x || echo sealed";
    for has_range in [false, true] {
        let user = if has_range { User::with_range(world) } else { User::new(world) };
        let secret = user.data().join("secret");
        fs::write(&secret, "old\n").expect("our own");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("our own");
        chown(&secret, Some(UID), Some(UID)).expect("root may");
        let data = user.data().display().to_string();
        let shown = format!("{{ src = \"{data}\", dst = \"/shown\" }}");
        let keys = format!(
            "service.user = 77\nrootfs.mounts = [{{ src = \"{data}\", dst = \"/data\", ro = false }}, {shown}]"
        );
        assert_eq!(user.says(script, &keys), "old\n77\nold\nsealed\n");
        let made = fs::metadata(user.data().join("made")).expect("the service wrote it");
        assert_eq!((made.uid(), made.gid()), (UID, UID));
        // With ids of its own, what is only shown is a stranger's.
        let keys = format!("service.user = 77\nrootfs.mounts = [{shown}]");
        let said = user.says("cat /shown/secret 2>/dev/null || echo closed", &keys);
        assert_eq!(said, if has_range { "closed\n" } else { "old\n" });
        drop(user);
        fs::remove_dir_all(world.dir().join("user")).expect("our own");
    }
}

pub fn a_tree_of_the_users_is_a_root(world: &mut World) {
    let user = User::with_range(world);
    let root = user.dir.join("home/root");
    for dir in ["", "usr", "dev", "proc", "sys", "tmp", "run", "etc"] {
        fs::create_dir_all(root.join(dir)).expect("a new name");
        chown(root.join(dir), Some(UID), Some(UID)).expect("root may");
    }
    for link in ["bin", "lib", "lib64"] {
        let target =
            fs::read_link(Path::new("/").join(link)).unwrap_or_else(|_| format!("usr/{link}").into());
        std::os::unix::fs::symlink(target, root.join(link)).expect("a new name");
    }
    let keys = |writable| {
        format!(
            "rootfs.base = \"dir\"\nrootfs.dir = \"{}\"\nrootfs.writable = \"{writable}\"\nservice.user = 0\n\
             rootfs.mounts = [{{ src = \"/usr\", dst = \"/usr\", exec = true }}]",
            root.display()
        )
    };
    assert_eq!(user.says("echo x 2>/dev/null > /x || echo sealed", &keys("no")), "sealed\n");
    assert_eq!(user.says("echo x > /x && cat /x", &keys("ephemeral")), "x\n");
    assert_eq!(user.says("ls -d /x 2>/dev/null; echo y > /y; mkdir /d", &keys("persistent")), "");
    assert_eq!(user.says("cat /y; ls -d /d", &keys("persistent")), "y\n/d\n");
    assert!(!root.join("x").exists() && !root.join("y").exists());
    assert!(user.dir.join("home/.local/state/palisade/rootfs/once/upper/y").exists());
}

pub fn a_users_credentials_are_read_before_he_is_root_of_anything(world: &mut World) {
    let user = User::new(world);
    let token = user.data().join("token");
    fs::write(&token, "s3cret").expect("our own");
    chown(&token, Some(UID), Some(UID)).expect("root may");
    let keys = format!("security.credentials = [{{ name = \"t\", file = \"{}\" }}]", token.display());
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("our own");
    assert!(user.refusal(&keys).contains("anybody may read it"));
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("our own");
    // In his namespace no tmpfs can be kept from being swapped; ramfs never is.
    let said = user.says("cat $CREDENTIALS_DIRECTORY/t; grep -c ' /run/credentials/once ramfs ro,nosuid,nodev,noexec' /proc/self/mounts; \
                          stat -c %a /run/credentials/once/t; (echo > /run/credentials/once/x) 2>/dev/null || echo sealed", &keys);
    assert_eq!(said, "s3cret1\n400\nsealed\n");
    chown(&token, Some(UID + 1), None).expect("root may");
    assert!(user.refusal(&keys).contains("EACCES"));
}

/// A link of the world to somewhere else: this end 192.0.2.1, the other one 192.0.2.2 in a namespace of its own, whose
/// holder is returned.
fn uplink() -> Child {
    let holder =
        Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().expect("util-linux is installed");
    let pid = holder.id().to_string();
    wait_until("it has a namespace", LONG, || {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let is_asleep = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"));
        is_asleep && link(&pid) != link("self")
    });
    let ip = |args: &str| {
        let done = Command::new("ip").args(args.split(' ')).status().expect("iproute2 is installed");
        assert!(done.success(), "ip {args}");
    };
    ip(&format!("link add up0 type veth peer name up1 netns {pid}"));
    ip("addr add 192.0.2.1/24 dev up0");
    ip("link set up0 up");
    ip("route add default via 192.0.2.2");
    let there = |args: &str| {
        let done = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(args.split(' ')).status();
        assert!(done.expect("util-linux is installed").success(), "ip {args}");
    };
    there("addr add 192.0.2.2/24 dev up1");
    there("link set up1 up");
    holder
}

/// Takes it down again.
fn down(mut holder: Child) {
    holder.kill().and_then(|()| holder.wait()).expect("our child");
    wait_until("the link is gone", LONG, || !Path::new("/sys/class/net/up0").exists() && !has_link("up0"));
}

fn has_link(name: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", name]).output().expect("iproute2 is installed");
    output.status.success()
}

/// pasta's way into a namespace, which udev opens to everybody on most machines.
fn open_tun(user: &mut User<'_>) {
    let node = user.dir.join("tun");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    nix::sys::stat::mknod(&node, kind, mode, nix::sys::stat::makedev(10, 200)).expect("root may");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).expect("our own");
    user.bind(&node, "/dev/net/tun");
}

pub fn a_users_port_is_answered_and_nothing_else_leads_out(world: &mut World) {
    let mut user = User::new(world);
    open_tun(&mut user);
    leads_where_it_should(world, &user);
}

pub fn where_there_is_no_pasta_slirp4netns_does_the_same(world: &mut World) {
    let mut user = User::new(world);
    open_tun(&mut user);
    hide_pasta(&mut user);
    leads_where_it_should(world, &user);
}

/// As on a machine that does not have it.
fn hide_pasta(user: &mut User<'_>) {
    let real = fs::canonicalize("/usr/bin/pasta").expect("declared as a need");
    user.bind(Path::new("/dev/null"), &real.display().to_string());
}

fn leads_where_it_should(world: &World, user: &User<'_>) {
    let holder = uplink();
    let pid = holder.id().to_string();
    let far = Command::new("nsenter")
        .args(["-t", &pid, "-n"])
        .arg(world.dir().join("probe/probe"))
        .args(["__probe", "http", "80"])
        .spawn();
    let mut far = far.expect("util-linux is installed");
    let near = Command::new(world.dir().join("probe/probe")).args(["__probe", "http", "9999"]).spawn();
    let mut near = near.expect("the probe starts");
    wait_http("192.0.2.2:80", "/");
    wait_http("192.0.2.1:9999", "/");

    let keys = "network.publish = [\"127.0.0.1:18080:80\", \"0.0.0.0:18081:80\"]";
    let mut run = user.start(&world.probe_toml(&["http", "80"], keys));
    wait_http("127.0.0.1:18080", "/");
    let time = scaled(Duration::from_secs(10)).as_secs().to_string();
    let client = Command::new("nsenter")
        .args(["-t", &pid, "-n", "curl", "-sfv", "-m", &time, "http://192.0.2.1:18081/"])
        .output();
    let client = client.expect("curl is installed");
    assert!(client.status.success(), "{}", describe(&client));
    assert!(http_get("192.0.2.1:18080", "/").is_err(), "published on the loopback alone");
    kill(raw(run.id()), Signal::SIGTERM).expect("it lives");
    run.wait().expect("our child");
    assert!(http_get("127.0.0.1:18080", "/").is_err(), "it is gone with the service");

    let reach = |to: &str, keys: &str| {
        let output = user.run(&world.probe_toml(&["connect", to], keys));
        assert!(output.status.success(), "{}", describe(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let any = "network.egress = \"any\"";
    assert_eq!(reach("192.0.2.2:80", any), "ok");
    // What the filter drops gets no answer at all.
    let mounts = format!("rootfs.mounts = [{}]", world.probe_mount());
    let no_way = |to: &str, keys: &str| {
        let script =
            format!("test \"$(timeout 3 {PROBE} __probe connect {to})\" = ok && echo reached || echo no");
        assert_eq!(user.says(&script, &format!("{keys}\n{mounts}")), "no\n", "{to}");
    };
    no_way("192.0.2.1:9999", any);
    no_way("127.0.0.1:9999", any);
    no_way("192.0.2.2:80", "network.publish = [\"0.0.0.0:18081:80\"]");
    for child in [&mut near, &mut far] {
        child.kill().and_then(|()| child.wait()).expect("our child");
    }
    down(holder);
}

pub fn a_users_service_on_the_hosts_network_starts_without_sys(world: &mut World) {
    let user = User::new(world);
    let script = "echo /sys/*; readlink /proc/self/ns/net";
    let own = fs::read_link("/proc/self/ns/net").expect("ours");
    assert_eq!(user.says(script, "network.mode = \"host\""), format!("/sys/*\n{}\n", own.display()));
}

pub fn what_only_root_can_have_is_refused_by_key_and_remedy(world: &mut World) {
    let user = User::new(world);
    for (keys, key, remedy) in [
        ("namespaces.user = \"off\"\nservice.user = 33", "namespaces.user", "run this as root"),
        ("network.address = \"10.83.0.9\"", "network.address", "leave `address` out"),
        ("network.publish = [\"80:80\"]", "network.publish", "net.ipv4.ip_unprivileged_port_start"),
        ("service.extra_groups = [7]", "service.extra_groups", "--add-subuids"),
        (
            "security.credentials = [{ name = \"a\", env = \"A\", owner = 0 }]",
            "security.credentials",
            "uidmap",
        ),
        ("service.oom_score_adj = -5", "sched", "EACCES"),
    ] {
        let said = user.refusal(keys);
        assert!(said.contains(key) && said.contains(remedy), "{keys}: {said}");
    }
}

pub fn a_host_without_user_namespaces_names_the_knob(world: &mut World) {
    let user = User::new(world);
    let file = user.file(&world.probe_toml(&["exit", "0"], ""));
    for path in [&user.dir, &file] {
        chown(path, Some(UID), Some(UID)).expect("root may");
    }
    // The knob of a namespace that is ours alone: the machine's is everybody's.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} run --state /tmp/none {} ",
        user.dir.join("palisade").display(),
        file.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &script]);
    command.env("XDG_RUNTIME_DIR", user.dir.join("runtime"));
    let output = command.uid(UID).gid(UID).output().expect("util-linux is installed");
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("user.max_user_namespaces") && said.contains("clone3"), "{said}");
}

pub fn a_sandbox_inside_of_one_says_what_it_lacks(world: &mut World) {
    let user = User::new(world);
    let file = user.file(&world.probe_toml(&["exit", "0"], ""));
    let place = user.dir.display();
    let inner = format!("rootfs.mounts = [{{ src = \"{place}\", dst = \"{place}\", exec = true }}]");
    let script = format!("{} run {}", user.dir.join("palisade").display(), file.display());
    let toml = format!(
        "service.command = [\"sh\", \"-c\", {script:?}]\nservice.env = {{ XDG_RUNTIME_DIR = \"/tmp\" }}\n\
         network.mode = \"none\"\n{inner}\n"
    );
    let output = world.run(&toml);
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("namespaces.nested = true"), "{said}");
}

pub fn a_killed_run_of_a_user_takes_everything_along(world: &mut World) {
    let mut user = User::new(world);
    open_tun(&mut user);
    let holder = uplink();
    for carrier in ["pasta", "slirp4netns"] {
        if carrier == "slirp4netns" {
            hide_pasta(&mut user);
        }
        let mut run = user.start(&world.probe_toml(&["http", "80"], "network.publish = [\"18080:80\"]"));
        wait_http("127.0.0.1:18080", "/");
        let lines =
            crate::support::world::pids().into_iter().map(|pid| fs::read(format!("/proc/{pid}/cmdline")));
        let is_it = |line: std::io::Result<Vec<u8>>| {
            line.is_ok_and(|line| line.starts_with(format!("/usr/bin/{carrier}\0").as_bytes()))
        };
        assert!(lines.into_iter().any(is_it), "{carrier} runs");
        run.kill().and_then(|()| run.wait()).expect("our child");
        let own = |pid: &i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|data| data.uid() == UID);
        wait_until("nothing of the user's runs", LONG, || {
            world.reap();
            !crate::support::world::pids().iter().any(own)
        });
        // The next one clears up what lies in the run-time directory.
        assert_eq!(user.says("echo next", ""), "next\n");
    }
    down(holder);
}

pub fn a_user_may_check_and_plan(world: &mut World) {
    let user = User::new(world);
    let file = user.file(&world.probe_toml(&["exit", "0"], "")).display().to_string();
    let output = user.command(&["check", &file]).output().expect("the program under test starts");
    assert!(output.status.success(), "{}", describe(&output));
    let output = user.command(&["plan", &file]).output().expect("the program under test starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["user.enter       0 -> 4242", "no control group", "61184 -> 0", "netns.create"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(
        !said.contains("cgroup.create") && !said.contains("veth") && !said.contains("ids.root"),
        "{said}"
    );
    let file = user.file("service.command = \"true\"\nnamespaces.user = \"off\"\nservice.user = 33\n");
    let output = user.command(&["plan"]).arg(file).output().expect("the program under test starts");
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("namespaces.user"), "{}", describe(&output));
}

pub fn a_group_that_was_given_to_the_user_is_used(world: &mut World) {
    let user = User::new(world);
    let given = world.cgroup().join("given");
    fs::create_dir_all(&given).expect("root may");
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(given.join(file), Some(UID), Some(UID)).expect("root may");
    }
    let settings = user.world.write("user/palisade.toml", "[network]\nname = \"ptest\"\n");
    let file = user.file(&world.probe_toml(&["wait"], ""));
    // Only root may move it there; it becomes the user's afterwards.
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec setpriv --reuid {UID} --regid {UID} --clear-groups \"$@\"",
        given.display()
    );
    let mut enter = Command::new("sh");
    enter
        .args(["-c", &script, "sh"])
        .arg(user.dir.join("palisade"))
        .arg("--config")
        .arg(settings)
        .arg("run")
        .arg(file);
    enter.env("XDG_RUNTIME_DIR", user.dir.join("runtime")).stderr(Stdio::null());
    let mut run = enter.spawn().expect("util-linux is installed");
    let pid = process("wait");
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let own = group.lines().find_map(|line| line.strip_prefix("0::")).expect("it is in a group").to_owned();
    assert!(own.contains("/given/palisade/once."), "{own}");
    kill(raw(run.id()), Signal::SIGTERM).expect("it lives");
    assert_eq!(run.wait().expect("our child").code(), Some(128 + 15));
    assert_eq!(fs::read_dir(&given).expect("it is there").flatten().filter(|e| e.path().is_dir()).count(), 0);
    fs::remove_dir(&given).expect("it is empty");
    fs::remove_dir(world.cgroup()).expect("it is empty");
}

pub fn an_ordinary_users_commands_go_around_the_service(world: &mut World) {
    let user = User::new(world);
    let keys = "service.command = [\"/bin/sh\", \"-c\", \"cat /tmp/word; exit 7\"]\nnetwork.mode = \"none\"\n\
                service.pre_start = [[\"/bin/sh\", \"-c\", \"echo first; echo kept > /tmp/word\"]]\n\
                service.post_stop = [[\"/bin/sh\", \"-c\", \"echo end $SERVICE_RESULT\"]]\n";
    let output = user.run(keys);
    assert_eq!(output.status.code(), Some(7), "{}", describe(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nkept\nend exit-code\n");
    let root =
        keys.replace("post_stop = [[", "post_stop = [{ privileged = true, command = [").replace("]]", "] }]");
    let root = root.replace(
        "pre_start = [[\"/bin/sh\", \"-c\", \"echo first; echo kept > /tmp/word\"] }]",
        "umask = \"0077\"",
    );
    let output = user.run(&root);
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("service.post_stop") && said.contains("privileged"), "{said}");
}
