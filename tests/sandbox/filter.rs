//! The system call filter: calls made for real, from the service and from a session, beside what the same calls answer
//! outside.

use std::{collections::BTreeMap, io::Read, os::unix::fs::OpenOptionsExt, process::Output};

use crate::{
    support::{
        LONG, World, calls, probe, wait_for,
        world::{PROBE, describe},
    },
    walls,
};

const NO_NETWORK: &str = "network.mode = \"none\"";
/// 128 and SIGSYS.
const KILLED: i32 = 128 + 31;

type Said = BTreeMap<String, String>;

fn run(world: &World, args: &[&str], keys: &str) -> Output {
    world.run(&world.probe_toml(args, &format!("{NO_NETWORK}\n{keys}")))
}

fn says(world: &World, args: &[&str], keys: &str) -> String {
    let output = run(world, args, keys);
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What every call answers in a service with these keys.
fn answers(world: &World, keys: &str) -> Said {
    parse(&says(world, &["calls"], keys))
}

fn parse(text: &str) -> Said {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What is promised for a call.
fn promised(name: &str) -> &'static str {
    match name {
        "clone3" | "openat2" => "ENOSYS",
        _ if name.starts_with("socket") => "EAFNOSUPPORT",
        _ => "EPERM",
    }
}

/// Judges the answers that were given inside.
fn judge(inside: &Said) {
    let outside = calls::all();
    assert_eq!(inside.len(), outside.len());
    for (name, here) in &outside {
        let there = &inside[*name];
        if name.starts_with("allowed") {
            assert_eq!(there, here, "{name} is as without a filter");
            continue;
        }
        assert_eq!(there, promised(name), "{name}");
        assert_ne!(here, there, "{name}: without a filter the answer would be the same");
    }
}

pub fn what_no_server_needs_is_denied_and_the_rest_is_not(world: &mut World) {
    for user in ["", "service.user = 0", "service.user = \"www-data\""] {
        judge(&answers(world, user));
    }
}

pub fn a_session_is_filtered_as_the_service_is(world: &mut World) {
    world.write_service("one", &world.probe_toml(&["wait"], NO_NETWORK));
    world.start();
    world.wait_state("one", "active");
    judge(&parse(&world.ok(&["exec", "one", "--", PROBE, "__probe", "calls"])));
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid("one"))).expect("it lives");
    assert!(status.contains("Seccomp:\t2\n"), "{status}");
}

#[cfg(target_arch = "x86_64")]
pub fn a_call_of_another_architecture_kills(world: &mut World) {
    // getpid(2) of i386 is 20, ptrace(2) is 26, mount(2) is 21.
    assert!(calls::i386(20) > 0, "this kernel runs i386 programs");
    for args in [&["i386", "20"][..], &["x32"]] {
        let output = run(world, args, "");
        assert_eq!(output.status.code(), Some(KILLED), "{args:?}: {}", describe(&output));
    }
    let both = "security.native_abi_only = false";
    assert!(says(world, &["i386", "20"], both).parse::<i32>().expect("a pid") > 0);
    for denied in ["26", "21"] {
        assert_eq!(says(world, &["i386", denied], both), "-1", "EPERM");
    }
    assert_eq!(run(world, &["x32"], both).status.code(), Some(KILLED), "x32 is never let in");
    judge(&answers(world, both));
}

#[cfg(not(target_arch = "x86_64"))]
pub fn a_call_of_another_architecture_kills(world: &mut World) {
    let output = run(world, &["x32"], "security.native_abi_only = false");
    assert_eq!(output.status.code(), Some(2), "there is none to let in: {}", describe(&output));
}

pub fn each_restriction_is_lifted_by_its_own_key_alone(world: &mut World) {
    let outside = calls::all();
    let usual = answers(world, "");
    for (keys, lifted) in [
        (
            "security.no_namespaces = false",
            &["clone NEWUSER", "clone NEWNS", "clone3", "unshare NEWUSER", "unshare NEWTIME"][..],
        ),
        ("security.no_realtime = false", &["sched_setscheduler FIFO", "sched_setattr"]),
        (
            "security.no_suid = false",
            &[
                "chmod 4755",
                "creat 4755",
                "fchmod 4755",
                "fchmodat 2755",
                "mknodat 4755",
                "open O_CREAT 4755",
                "openat O_CREAT 4755",
                "openat O_TMPFILE 2755",
                "openat2",
            ],
        ),
        (
            "network.address_families = [\"unix\", \"packet\", \"netlink\"]",
            &["socket PACKET", "socket NETLINK NETFILTER", "allowed socket INET", "allowed socket INET6"],
        ),
        (
            "network.address_families = \"any\"",
            &[
                "socket ALG",
                "socket BLUETOOTH",
                "socket CAN",
                "socket NETLINK NETFILTER",
                "socket PACKET",
                "socket VSOCK",
                "socketpair TIPC",
            ],
        ),
        ("security.seccomp = [\"@service\", \"kcmp\", \"pidfd_getfd\"]", &["kcmp", "pidfd_getfd"]),
        ("security.seccomp.action = \"ENOSYS\"", &[]),
        ("security.capabilities = [\"CAP_SYS_CHROOT\"]\nservice.user = 0", &["chroot"]),
    ] {
        let now = answers(world, keys);
        for (name, answer) in &now {
            let (name, open) = (name.as_str(), lifted.contains(&name.as_str()));
            let wanted = match open {
                // Not on the list of families, which names others.
                true if name.starts_with("allowed socket") => "EAFNOSUPPORT",
                true => &outside[name],
                false if keys.contains("ENOSYS") && usual[name] == "EPERM" && is_listed_nowhere(name) => {
                    "ENOSYS"
                }
                false => &usual[name],
            };
            assert_eq!(answer, wanted, "{keys}: {name}");
        }
    }
    assert_eq!(says(world, &["personality"], ""), "EPERM");
    assert_eq!(says(world, &["personality"], "security.lock_personality = false"), "ok");
}

/// Denied as a whole, not for its arguments.
fn is_listed_nowhere(name: &str) -> bool {
    !name.contains(' ') && name != "sched_setattr"
}

pub fn a_list_kills_or_lets_through_what_it_names(world: &mut World) {
    let killed = run(world, &["calls"], "security.seccomp = { kill = [\"@keyring\"] }");
    assert_eq!(killed.status.code(), Some(KILLED), "{}", describe(&killed));
    let killed = run(world, &["calls"], "security.seccomp.action = \"kill\"");
    assert_eq!(killed.status.code(), Some(KILLED), "{}", describe(&killed));
    let logged = answers(world, "security.seccomp.action = \"log\"");
    assert_eq!(logged["ptrace"], "ESRCH", "it is let through");
    assert_eq!(logged["socket VSOCK"], "EAFNOSUPPORT", "this has a key of its own");
    // What the probe's own run-time library needs to print a line.
    let few =
        "security.seccomp = [\"@basic-io\", \"@signal\", \"@io-event\", \"@file-system\", \"prlimit64\"]";
    assert_eq!(says(world, &["print", "few"], few), "few");
    assert_eq!(answers(world, few)["allowed socket INET"], "EPERM");
}

pub fn no_wx_denies_every_way_to_writable_code(world: &mut World) {
    let open = parse(&says(world, &["writable-code"], ""));
    let closed = parse(&says(world, &["writable-code"], "security.no_wx = true"));
    for (name, answer) in &closed {
        let wanted = if name.starts_with("allowed") { "ok" } else { "EPERM" };
        assert_eq!(answer, wanted, "{name}");
        assert_ne!(open[name], "EPERM", "{name} without the key");
    }
}

pub fn without_no_new_privs_there_is_a_filter_all_the_same(world: &mut World) {
    for keys in [
        "",
        "service.user = 0",
        "service.user = \"www-data\"",
        "service.tty = true",
        "namespaces.user = \"off\"\nservice.user = \"www-data\"",
    ] {
        let keys = format!("security.no_new_privs = false\n{keys}");
        let inside: serde_json::Value = serde_json::from_str(&says(world, &["report"], &keys)).expect("JSON");
        for (field, wanted) in [("NoNewPrivs", "0"), ("Seccomp", "2"), ("CapEff", "0000000000000000")] {
            assert_eq!(walls::field(&inside, field), wanted, "{keys}: {field}");
        }
    }
    judge(&answers(world, "security.no_new_privs = false"));
}

pub fn both_filters_are_there(world: &mut World) {
    let inside: serde_json::Value = serde_json::from_str(&says(world, &["report"], "")).expect("JSON");
    let count = |report: &serde_json::Value| {
        walls::field(report, "Seccomp_filters").parse::<u32>().expect("Linux 5.9")
    };
    assert_eq!(count(&inside) - count(&probe::report()), 2);
}

/// The kernel's own log has a line for what was denied: type 1326 is AUDIT_SECCOMP.
pub fn what_is_denied_becomes_an_audit_line(world: &mut World) {
    let mut log = std::fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .expect("root may read it");
    std::io::Seek::seek(&mut log, std::io::SeekFrom::End(0)).expect("lseek");
    let bpf = format!("syscall={} ", nix::libc::SYS_bpf);
    // Again and again: the kernel leaves lines out when there are too many at once.
    wait_for("a line about bpf(2)", LONG, || {
        answers(world, "");
        let mut line = [0; 8192];
        // One record a read; EPIPE when others have been overwritten meanwhile, EAGAIN at the end.
        let mut found = None;
        loop {
            match log.read(&mut line) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&line[..length]).into_owned();
                    if text.contains("type=1326") && text.contains("comm=\"probe\"") && text.contains(&bpf) {
                        found = Some(text);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return found,
                Err(_) => {}
            }
        }
    });
}
