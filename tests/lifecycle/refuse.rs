//! What is wrong is said: which file, which line, which step, which object.

use std::{net::TcpListener, process::Command};

use crate::support::{
    LONG, World, wait_until,
    world::{describe, wait_http},
};

const NONE: &str = "network.mode = \"none\"";

/// Waits for the launch of `name` to have failed, and returns what `status` says.
fn fault(world: &World, name: &str) -> String {
    wait_until("the launch has failed", LONG, || !world.status(name)["fault"].is_null());
    let output = world.palisade(&["status", name]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `check` says about the services directory; it must find something.
fn check(world: &World) -> String {
    let output = world.palisade(&["check", "--services", &world.services_dir().display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

pub fn three_mistakes_are_three_messages_and_the_others_go_on(world: &mut World) {
    let bad = "[service]\ncommand = \"/bin/true\"\nnicee = 3\n[restart]\ndelay = \"5 parsecs\"\n[log]\nfiles = \"many\"\n";
    world.write_service("bad", bad);
    world.write_service("good", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    let said = check(world);
    for place in ["bad.toml:3:1", "bad.toml:5:9", "bad.toml:7:9"] {
        assert!(said.contains(place), "{place}: {said}");
    }
    assert!(said.matches('^').count() >= 3, "a caret each: {said}");
    assert!(said.contains("`nice`"), "the nearest key: {said}");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "good");
    assert_eq!(world.state("bad"), "broken");
}

/// The lines of `status` about a launch that failed, word for word.
fn fault_lines(world: &World, name: &str) -> Vec<String> {
    let said = fault(world, name);
    let is_about_it = |line: &&str| line.starts_with("Fault:") || line.starts_with("Hint:");
    said.lines().map(str::trim).filter(is_about_it).map(str::to_owned).collect()
}

/// The number of a step in the plan of a service.
fn number(world: &World, name: &str, side: &str, step: &str) -> u64 {
    let file = world.services_dir().join(format!("{name}.toml")).display().to_string();
    let plan = world.json(&["plan", &file]);
    let steps = plan["steps"].as_array().expect("a list");
    let found = steps.iter().find(|s| s["side"] == side && s["step"] == step);
    found.and_then(|s| s["number"].as_u64()).unwrap_or_else(|| panic!("no {step} in {plan}"))
}

pub fn a_missing_program_is_named(world: &mut World) {
    world.write_service("lost", &format!("service.command = \"/usr/bin/no-such-program\"\n{NONE}\n"));
    world.start();
    let n = number(world, "lost", "child", "exec");
    let expected = [
        format!(
            "Fault: child step {n} exec /usr/bin/no-such-program: execve(/usr/bin/no-such-program): \
             ENOENT (no such file or directory)"
        ),
        "Hint: the program, or the interpreter that it asks for, does not exist inside the sandbox: \
            it sees the root of rootfs.base and rootfs.mounts"
            .to_owned(),
    ];
    assert_eq!(fault_lines(world, "lost"), expected);
}

pub fn a_missing_rootfs_is_named(world: &mut World) {
    let keys = format!("rootfs.base = \"dir\"\nrootfs.dir = \"/no/such/root\"\n{NONE}");
    world.write_service("lost", &world.probe_toml(&["wait"], &keys));
    world.start();
    let n = number(world, "lost", "host", "root.dir");
    let expected = [
        format!(
            "Fault: host step {n} root.dir /no/such/root -> / ro,nosuid,nodev,idmap: \
             openat2(/no/such/root): ENOENT (no such file or directory)"
        ),
        "Hint: rootfs.dir does not exist on the host".to_owned(),
    ];
    assert_eq!(fault_lines(world, "lost"), expected);
}

pub fn a_taken_port_is_named_with_who_has_it(world: &mut World) {
    let taken = TcpListener::bind("127.0.0.1:8081").expect("the world's own loopback");
    world.write_service("web", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    world.start();
    let n = number(world, "web", "host", "publish");
    let comm = std::fs::read_to_string("/proc/self/comm").expect("our own");
    let expected = format!(
        "Fault: host step {n} publish 127.0.0.1:8081:80/tcp: 127.0.0.1:8081/tcp is taken by {} (pid 1)",
        comm.trim()
    );
    assert_eq!(fault_lines(world, "web"), [expected]);
    // Whoever has it may go away: the service is tried again.
    drop(taken);
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "web");
    world.wait_state("web", "active");
    assert!(world.status("web")["fault"].is_null(), "it is not the last word any more");
}

pub fn two_services_with_one_address_are_named(world: &mut World) {
    for name in ["one", "two"] {
        world.write_service(name, &world.probe_toml(&["wait"], "network.address = \"10.83.0.77\""));
    }
    let said = check(world);
    assert!(said.contains("10.83.0.77") && said.contains("one") && said.contains("two"), "{said}");
}

pub fn a_dependency_cycle_is_named(world: &mut World) {
    for (name, other) in [("a", "b"), ("b", "c"), ("c", "a")] {
        let keys = format!("unit.requires = [\"{other}\"]\nunit.after = [\"{other}\"]");
        world.write_service(name, &world.probe_toml(&["wait"], &keys));
    }
    let said = check(world);
    assert!(said.contains("a -> b -> c -> a"), "{said}");
}

pub fn an_unknown_user_is_named(world: &mut World) {
    world.write_service("who", &world.probe_toml(&["wait"], "service.user = \"nobody-knows\""));
    let said = check(world);
    assert!(said.contains("nobody-knows") && said.contains("who.toml:"), "{said}");
}

pub fn unknown_names_and_absent_supervisors_have_their_exit_codes(world: &mut World) {
    assert_eq!(world.palisade(&["status", "web"]).status.code(), Some(5), "no supervisor");
    world.start();
    assert_eq!(world.palisade(&["status", "web"]).status.code(), Some(4), "no such service");
    assert_eq!(world.palisade(&["no-such-verb"]).status.code(), Some(2), "usage");
}

pub fn a_kernel_without_nft_is_an_error_that_says_so(world: &mut World) {
    // What such a kernel answers, by a filter around the supervisor: socket(AF_NETLINK, _, NETLINK_NETFILTER) has no protocol.
    let script = format!(
        "import ctypes, os, struct, sys\n\
         rules = [(0x20, 0, 0, 0), (0x15, 0, 5, {}), (0x20, 0, 0, 16), (0x15, 0, 3, 16), (0x20, 0, 0, 32), (0x15, 0, 1, 12),\n\
                  (0x06, 0, 0, 0x00050000 | 93), (0x06, 0, 0, 0x7fff0000)]\n\
         code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))\n\
         program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', len(rules), ctypes.addressof(code)))\n\
         assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0\n\
         os.execv(sys.argv[1], sys.argv[1:])",
        nix::libc::SYS_socket
    );
    world.write_service("web", &world.probe_toml(&["wait"], "restart.policy = \"never\""));
    world.write_service("alone", &world.probe_toml(&["wait"], "network.mode = \"none\""));
    let supervise = world.supervise();
    let mut filtered = Command::new("python3");
    filtered.args(["-c", &script]).arg(supervise.get_program()).args(supervise.get_args());
    world.join_supervisor_log(&mut filtered);
    world.start_by(filtered);
    world.wait_state("alone", "active");
    let said = fault(world, "web");
    assert!(said.contains("veth.create"), "{said}");
    assert!(said.contains("the kernel has no nf_tables"), "{said}");
    let links = Command::new("ip").args(["-br", "link"]).output().expect("iproute2");
    assert_eq!(String::from_utf8_lossy(&links.stdout).lines().count(), 1, "nothing half done");
}
