//! Who may ask what of a supervisor, how much of it, and what a policy lets it start.

use std::{
    fs::{self, File},
    io::{IoSlice, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Command,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::support::{
    LONG, World, wait_until,
    world::{PALISADE, describe},
};

const NONE: &str = "network.mode = \"none\"";
const ALICE: u32 = 4242;
const OPS: u32 = 4343;
const MALLORY: u32 = 5555;

/// The program as another user asks it: the exit code, and all that it said.
fn ask(world: &World, uid: u32, gid: u32, args: &[&str]) -> (Option<i32>, String) {
    // The build directory may be closed to others; a descriptor is not.
    let program = File::open(PALISADE).expect("the program under test");
    rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()).expect("our own descriptor");
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg("--run").arg(world.run_dir()).args(args).uid(uid).gid(gid);
    let output = command.stdin(std::process::Stdio::null()).output().expect("the program under test starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("palisade prints UTF-8");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

pub fn owners_operate_their_own_services_and_no_others(world: &mut World) {
    let keys = |owners: &str| format!("unit.owners = [{owners}]\n{NONE}");
    world.write_service("web", &world.probe_toml(&["wait"], &keys("\"4242\"")));
    world.write_service("ops", &world.probe_toml(&["wait"], &keys("\"group:4343\"")));
    world.write_service("db", &world.probe_toml(&["wait"], NONE));
    world.start();
    for name in ["web", "ops", "db"] {
        world.wait_state(name, "active");
    }
    let (code, said) = ask(world, MALLORY, MALLORY, &["list"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("permission denied"), "{said}");
    // By user, and by a group that is the process's own.
    for (uid, gid, own, other) in [(ALICE, ALICE, "web", "ops"), (MALLORY, OPS, "ops", "web")] {
        let ask = |args: &[&str]| ask(world, uid, gid, args);
        let (_, list) = ask(&["list"]);
        assert_eq!(list.lines().count(), 2, "{list}");
        assert!(list.lines().nth(1).is_some_and(|line| line.starts_with(own)), "{list}");
        for verb in
            [["status", own].as_slice(), &["stop", own], &["start", own], &["restart", own], &["logs", own]]
        {
            let (code, said) = ask(verb);
            assert_eq!(code, Some(0), "{verb:?}: {said}");
        }
        assert_eq!(ask(&["reload", own]).0, Some(1), "its file says nothing of that");
        let (code, said) = ask(&["top", "--json"]);
        let seen: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let names: Vec<&str> = seen["services"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert_eq!((code, &names[..]), (Some(0), &[own][..]), "{said}");
        for name in [other, "db"] {
            assert_eq!(ask(&["top", "--json", name]).0, Some(4));
        }
        // Somebody else's service is as good as none.
        for name in [other, "db"] {
            for verb in ["status", "start", "stop", "restart", "reload", "logs", "kill"] {
                let (code, said) = ask(&[verb, name]);
                assert_eq!(code, Some(4), "{verb}: {said}");
                assert!(said.starts_with(&format!("palisade: no such service: {name}; ")), "{verb}: {said}");
            }
            assert_eq!(ask(&["exec", name, "--", "/bin/true"]).0, Some(125));
        }
        for verb in [["daemon-reload"].as_slice(), &["kill", own]] {
            let (code, said) = ask(verb);
            assert_eq!(code, Some(1), "{verb:?}: {said}");
            assert!(said.starts_with("palisade: not allowed: "), "{verb:?}: {said}");
        }
        let (code, said) = ask(&["exec", own, "--", "/bin/true"]);
        assert_eq!(code, Some(125), "{said}");
        assert!(said.starts_with("palisade: not allowed: "), "{said}");
    }
    let (run, theirs) = (world.run_id("db"), world.run_id("ops"));
    let (_, said) = ask(world, ALICE, ALICE, &["restart", "*"]);
    assert!(said.starts_with("web: restarted ") && said.lines().count() == 1, "{said}");
    assert_eq!((world.run_id("db"), world.run_id("ops")), (run, theirs), "a pattern means one's own alone");
}

pub fn what_was_refused_tells_owners_of_no_others(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], "unit.owners = [\"4242\"]"));
    world.write_service("secret", &world.probe_toml(&["wait"], ""));
    world.start();
    for name in ["web", "secret"] {
        world.wait_state(name, "active");
    }
    let to = world.address("secret");
    let send =
        format!("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('{to}', 9))");
    world.ok(&["exec", "web", "--", "/usr/bin/python3", "-c", &send]);
    wait_until("root is told of it", LONG, || world.ok(&["why", "web"]).contains("secret"));
    let (code, said) = ask(world, ALICE, ALICE, &["why", "web"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("to_service: udp {} -> {to}:9", world.address("web"))), "{said}");
    assert!(!said.contains("secret"), "{said}");
    assert!(!ask(world, ALICE, ALICE, &["status", "web", "--json"]).1.contains("secret"));
}

pub fn a_policy_says_what_owners_may_do(world: &mut World) {
    let keys = format!("unit.owners = [\"4242\"]\n{NONE}");
    world.write_service("web", &world.probe_toml(&["wait"], &keys));
    world.write("policy.toml", "[owners]\nmay = [\"status\", \"exec\"]\n");
    world.start();
    world.wait_state("web", "active");
    let alice = |world: &World, args: &[&str]| ask(world, ALICE, ALICE, args);
    assert_eq!(alice(world, &["exec", "web", "--", "/bin/sh", "-c", "exit 7"]).0, Some(7));
    // With what the service has, and no more: whom it runs as is root's to say.
    let (code, said) = alice(world, &["exec", "--user", "root", "web", "--", "/bin/true"]);
    assert_eq!((code, said.contains("not allowed")), (Some(125), true), "{said}");
    assert_eq!(alice(world, &["stop", "web"]).0, Some(1));
    assert_eq!(alice(world, &["logs", "web"]).0, Some(1));
    // Read again with the files, and taken away as it was given.
    world.write("policy.toml", "[owners]\nmay = [\"status\"]\n");
    world.ok(&["daemon-reload"]);
    assert_eq!(alice(world, &["exec", "web", "--", "/bin/true"]).0, Some(125));
    assert_eq!(alice(world, &["status", "web"]).0, Some(0));
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.ok(&["daemon-reload"]);
    let (code, said) = alice(world, &["list"]);
    assert_eq!((code, said.contains("permission denied")), (Some(1), true), "{said}");
    assert_eq!(world.run_id("web"), 1, "whom it belongs to is no reason for another run");
}

pub fn what_is_above_the_ceiling_runs_on_but_does_not_start(world: &mut World) {
    let writable = "rootfs.writable = \"ephemeral\"";
    // Its program, which runs as root, is not run for who is refused.
    let asked = world.dir().join("asked");
    let program = format!("echo asked >> {}; echo secret", asked.display());
    let secret =
        format!("security.credentials = [{{ name = \"a\", command = [\"/bin/sh\", \"-c\", {program:?}] }}]");
    world.write_service("web", &world.probe_toml(&["wait"], &format!("{NONE}\n{writable}\n{secret}")));
    world.start();
    world.wait_state("web", "active");
    world.write("policy.toml", "[ceiling]\nrootfs.writable = false\n");
    let output = world.palisade(&["daemon-reload"]);
    let said = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("web.toml:4:19: `rootfs.writable` is above the ceiling"), "{said}");
    assert_eq!((world.state("web"), world.run_id("web")), ("active".to_owned(), 1), "what runs, runs");
    // Not by a verb, not after a crash, and not by the next supervisor.
    let output = world.palisade(&["restart", "web"]);
    let said = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("policy: `rootfs.writable` is above the ceiling of "), "{said}");
    world.wait_state("web", "failed");
    world.kill_supervisor();
    world.start();
    let output = world.palisade(&["start", "web"]);
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    let times = |path: &std::path::Path| std::fs::read_to_string(path).expect("it ran once").lines().count();
    assert_eq!(times(&asked), 1);
    // A policy with a mistake allows nothing that the last good one forbade.
    world.write("policy.toml", "[ceiling]\nrootfs.writabel = true\n");
    assert_eq!(world.palisade(&["daemon-reload"]).status.code(), Some(1));
    assert_eq!(world.palisade(&["start", "web"]).status.code(), Some(1));
    world.write("policy.toml", "[ceiling]\nrootfs.writable = [\"ephemeral\"]\n");
    world.ok(&["daemon-reload"]);
    world.ok(&["start", "web"]);
    world.wait_state("web", "active");
}

pub fn a_profile_is_read_again_with_the_files(world: &mut World) {
    let web = world.probe_toml(&["wait"], &format!("unit.profile = \"shop\"\n{NONE}"));
    world.write("profiles.d/shop.toml", "[service]\nenv = { SHOP = \"one\" }\n");
    world.write_service("web", &web);
    world.start();
    world.wait_state("web", "active");
    let shop = |world: &World| world.ok(&["exec", "web", "--", "/bin/sh", "-c", "echo $SHOP"]);
    assert_eq!(shop(world), "one\n");
    world.write("profiles.d/shop.toml", "[service]\nenv = { SHOP = \"two\" }\n");
    assert_eq!(world.ok(&["daemon-reload"]), "web: restarts (service.env changed)\n");
    wait_until("the other run", LONG, || world.run_id("web") == 2 && world.state("web") == "active");
    assert_eq!(shop(world), "two\n");
}

pub fn every_built_in_profile_runs_a_service(world: &mut World) {
    let daemons = ["default", "web", "worker", "untrusted", "legacy"];
    for profile in daemons {
        // This host may not have the controllers for what `untrusted` asks.
        let keys = format!("unit.profile = \"{profile}\"\nlimits.best_effort = true\n{NONE}");
        world.write_service(profile, &world.probe_toml(&["wait"], &keys));
    }
    let job = "unit.profile = \"job\"\nservice.command = [\"/bin/true\"]\n";
    world.write_service("job", &format!("{job}{NONE}\n"));
    world.start();
    for profile in daemons {
        world.wait_state(profile, "active");
    }
    wait_until("the job has ended", LONG, || world.status("job")["exits"][0]["code"] == 0);
    let id = |name: &str| {
        world.ok(&["exec", name, "--", "/bin/sh", "-c", "id -u; touch /x && chown 5:5 /x && echo wrote"])
    };
    assert_eq!(id("legacy"), "0\nwrote\n", "root inside, on a root that takes writes");
    let untrusted = world.palisade(&["exec", "untrusted", "--", "/bin/ls", "/sys"]);
    assert_eq!(String::from_utf8_lossy(&untrusted.stdout), "", "no /sys: {}", describe(&untrusted));
}

/// How many descriptors the supervisor has open.
fn descriptors(world: &World) -> usize {
    fs::read_dir(format!("/proc/{}/fd", world.supervisor_pid())).expect("it lives").count()
}

fn connect(world: &World) -> UnixStream {
    UnixStream::connect(world.run_dir().join("control.sock")).expect("root may connect")
}

pub fn half_open_clients_and_passed_descriptors_hold_nobody_up(world: &mut World) {
    world.write_service("web", &world.probe_toml(&["wait"], NONE));
    world.start();
    world.wait_state("web", "active");
    let base = descriptors(world);
    let half: Vec<UnixStream> = (0..400)
        .map(|_| {
            let mut stream = connect(world);
            // Some were hung up on, to make room.
            let _ = stream.write_all(b"{\"method\":\"io.pal");
            stream
        })
        .collect();
    world.ok(&["status", "web"]);
    // Nobody has waited for them to be hung up on, which they are some time after the half of their call.
    let open = descriptors(world);
    assert!(open > base + 100 && open <= base + 256, "a bounded number of them at a time: {open} and {base}");
    drop(half);
    wait_until("the descriptors are given back", LONG, || descriptors(world) <= base);

    let passed = File::open("/dev/null").expect("it is there");
    let fds: Vec<RawFd> = vec![passed.as_raw_fd(); 250];
    let senders: Vec<UnixStream> = (0..48)
        .map(|_| {
            let stream = connect(world);
            let control = [ControlMessage::ScmRights(&fds)];
            let io = [IoSlice::new(b"{")];
            let sent = sendmsg::<()>(stream.as_raw_fd(), &io, &control, MsgFlags::MSG_NOSIGNAL, None);
            assert_eq!(sent, Ok(1));
            stream
        })
        .collect();
    world.ok(&["status", "web"]);
    assert!(descriptors(world) >= base + 48, "nobody has waited for them to be hung up on");
    // Those of a message that is being taken in are open until it is; what stays is what counts.
    wait_until("of 12000 that were sent no call has more than its three", LONG, || {
        descriptors(world) <= base + 48 * (1 + 3)
    });
    drop(senders);
    wait_until("the descriptors are given back", LONG, || descriptors(world) <= base);
}

pub fn nothing_that_a_service_says_is_obeyed_by_a_terminal(world: &mut World) {
    let script = "printf '\\033]0;owned\\007 \\033[31mred \\302\\233K \\342\\200\\256back\\r\\n'; exit 3";
    let text = format!(
        "unit.description = \"\u{202e}desrever\u{2066}\"\nservice.command = [\"/bin/sh\", \"-c\", {script:?}]\n\
         restart.policy = \"never\"\n{NONE}\n"
    );
    world.write_service("loud", &text);
    world.start();
    world.wait_state("loud", "failed");
    let is_obeyed = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    for args in [
        ["list"].as_slice(),
        &["list", "--json"],
        &["status", "loud"],
        &["status", "loud", "--json"],
        &["logs", "loud"],
        &["logs", "loud", "--json"],
        &["logs", "loud", "-o", "cat"],
        &["start", "\u{1b}[31m"],
        &["start", "\u{1b}[31m", "--json"],
    ] {
        let output = world.palisade(args);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("palisade prints UTF-8");
        assert!(!said.is_empty() && !said.contains(is_obeyed), "{args:?}: {said:?}");
    }
    assert!(world.logs("loud").contains("\\x1b]0;owned\\x07"), "{:?}", world.logs("loud"));
    assert!(world.ok(&["logs", "--raw", "loud"]).contains("\u{1b}]0;owned\u{7}"), "raw is what it says");
}
