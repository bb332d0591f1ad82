//! Capabilities and devices: exactly what the file says, in all five sets, for the service and its sessions alike.

use serde_json::Value;

use crate::{
    support::{
        LONG, World, wait_until,
        world::{PROBE, describe},
    },
    walls,
};

const NO_NETWORK: &str = "network.mode = \"none\"";
const SETS: [&str; 5] = ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"];
const CHOWN: u64 = 1 << 0;
const SYS_NICE: u64 = 1 << 23;

/// What the kernel says of the five sets of the process that made a report.
fn sets(report: &Value) -> [u64; 5] {
    SETS.map(|set| {
        u64::from_str_radix(&walls::field(report, set), 16).expect("the kernel writes hexadecimal")
    })
}

fn report(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(text)))
}

/// What a file asks for, and the five sets that its processes have.
fn cases() -> Vec<(&'static str, [u64; 5])> {
    let all = CHOWN | SYS_NICE;
    vec![
        ("", [0; 5]),
        ("service.user = \"root\"\n", [0; 5]),
        ("security.capabilities = [\"CAP_CHOWN\", \"sys_nice\"]\n", [all, 0, 0, 0, 0]),
        (
            "service.user = \"root\"\nsecurity.capabilities = [\"CAP_CHOWN\", \"sys_nice\"]\n",
            [all, all, all, 0, 0],
        ),
        (
            "security.capabilities = [\"CAP_CHOWN\", \"sys_nice\"]\nsecurity.ambient = [\"CAP_SYS_NICE\"]\n",
            [all, SYS_NICE, SYS_NICE, SYS_NICE, SYS_NICE],
        ),
        (
            "service.user = 1000\nsecurity.capabilities = [\"CAP_CHOWN\"]\nsecurity.ambient = [\"CAP_CHOWN\"]\n",
            [CHOWN; 5],
        ),
        (
            "service.user = \"root\"\nsecurity.capabilities = [\"CAP_CHOWN\", \"sys_nice\"]\nsecurity.ambient = [\"CAP_SYS_NICE\"]\n",
            [all, all, all, SYS_NICE, SYS_NICE],
        ),
        (
            "service.user = \"root\"\nsecurity.no_new_privs = false\nsecurity.capabilities = [\"CAP_CHOWN\"]\n",
            [CHOWN, CHOWN, CHOWN, 0, 0],
        ),
        (
            "namespaces.user = \"off\"\nservice.user = \"nobody\"\nsecurity.capabilities = [\"CAP_CHOWN\", \"sys_nice\"]\nsecurity.ambient = [\"CAP_SYS_NICE\"]\n",
            [all, SYS_NICE, SYS_NICE, SYS_NICE, SYS_NICE],
        ),
        ("namespaces.user = \"off\"\nservice.user = \"nobody\"\n", [0; 5]),
    ]
}

pub fn the_five_sets_are_what_the_file_says(world: &mut World) {
    for (keys, expected) in cases() {
        let output = world.run(&world.probe_toml(&["report"], &format!("{keys}{NO_NETWORK}")));
        assert!(output.status.success(), "{keys}: {}", describe(&output));
        let inside = report(&output.stdout);
        assert_eq!(sets(&inside), expected, "{SETS:?} with {keys}");
    }
}

pub fn a_session_has_the_sets_of_its_service(world: &mut World) {
    for (n, (keys, _)) in cases().into_iter().enumerate() {
        world.write_service(&format!("s{n}"), &world.probe_toml(&["wait"], &format!("{keys}{NO_NETWORK}")));
    }
    world.start();
    for (n, (keys, expected)) in cases().into_iter().enumerate() {
        let name = format!("s{n}");
        wait_until(&format!("{name} is up"), LONG, || world.state(&name) == "active");
        let inside = report(world.ok(&["exec", &name, "--", PROBE, "__probe", "report"]).as_bytes());
        assert_eq!(sets(&inside), expected, "{SETS:?} with {keys}");
        // The service itself, as the host's kernel tells of it.
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid(&name))).expect("it lives");
        for (set, expected) in SETS.into_iter().zip(expected) {
            let line =
                status.lines().find_map(|line| line.strip_prefix(&format!("{set}:"))).expect("proc(5)");
            assert_eq!(u64::from_str_radix(line.trim(), 16), Ok(expected), "{set} with {keys}");
        }
    }
}

pub fn a_capability_counts_where_it_was_given_and_nowhere_else(world: &mut World) {
    let chown = |user: &str, keys: &str| {
        let command = "service.command = [\"chown\", \"1:1\", \"/tmp\"]";
        world.run(&format!("{command}\nservice.user = {user}\n{keys}\n{NO_NETWORK}\n"))
    };
    let given = "security.capabilities = [\"CAP_CHOWN\"]";
    assert!(!chown("1000", "").status.success());
    assert!(!chown("1000", given).status.success(), "the bounding set alone gives nothing");
    let output = chown("1000", &format!("{given}\nsecurity.ambient = [\"CAP_CHOWN\"]"));
    assert!(output.status.success(), "{}", describe(&output));
    // Over the host's own things it counts for nothing.
    let command = "service.command = [\"chown\", \"1:1\", \"/usr\"]\nservice.user = \"root\"";
    assert!(!world.run(&format!("{command}\n{given}\n{NO_NETWORK}\n")).status.success());
}

pub fn what_palisade_has_not_it_does_not_give(world: &mut World) {
    // CAP_SYS_RESOURCE is missing where the tests run in somebody's sandbox; where it is there, it is taken away first.
    let file = world.write(
        "single/once.toml",
        &world.probe_toml(
            &["report"],
            &format!(
                "namespaces.user = \"off\"\nservice.user = \"nobody\"\n\
                 security.capabilities = [\"CAP_SYS_TIME\"]\n{NO_NETWORK}"
            ),
        ),
    );
    let [option, state, ..] = world.places();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", "-sys_time", "--inh-caps", "-sys_time"]);
    command.arg(crate::support::world::PALISADE);
    command.arg("--config").arg(world.dir().join("palisade.toml")).arg("--run").arg(world.run_dir());
    command.arg("run").arg(option).arg(state).arg(file);
    let output = command.output().expect("declared as a need");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    assert!(said.contains("bounding_set") && said.contains("security.capabilities"), "{said}");
}

pub fn a_device_is_given_to_the_services_user_alone(world: &mut World) {
    // Of the host's root and nobody else's, on every machine. Opened, nothing is written.
    let script = "stat -c '%%F %%a %%u:%%g' /dev/kmsg; true > /dev/kmsg && echo written; \
                  echo x > /dev/null && test -c /dev/full && ! touch /dev/x 2>/dev/null && echo usual";
    let given = |user: &str, keys: &str| {
        let command = format!("service.command = [\"/bin/sh\", \"-c\", \"{script}\"]");
        let output = world.run(&format!("{command}\nservice.user = {user}\n{keys}\n{NO_NETWORK}\n"));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let devices = |device: &str| format!("security.devices = [\"{device}\"]");
    let kind = |mode: u32, user: u32| format!("character special file {mode} {user}:{user}");
    assert_eq!(given("1000", &devices("/dev/kmsg r")), [&kind(400, 1000), "usual"]);
    assert_eq!(given("1000", &devices("/dev/kmsg w")), [&kind(200, 1000), "written", "usual"]);
    assert_eq!(given("1000", &devices("/dev/kmsg")), [&kind(600, 1000), "written", "usual"]);
    assert_eq!(given("\"dynamic\"", &devices("/dev/kmsg"))[1..], ["written", "usual"]);
    // Somebody whose it is not.
    let off = format!("namespaces.user = \"off\"\n{}", devices("/dev/kmsg"));
    assert_eq!(given("1000", &off), [&kind(600, 1000), "written", "usual"]);
    // What is only shown is what it is on the host, and the host's root is nobody inside.
    assert!(!given("1000", "rootfs.dev = [\"/dev/kmsg\"]").contains(&"written".to_owned()));
    assert_eq!(given("1000", ""), ["usual"]);
}

pub fn what_is_no_device_is_refused(world: &mut World) {
    // A directory that only this world has: not every machine has another one below /dev.
    let none: Option<&str> = None;
    let (place, tmpfs) = ("/dev/shm", Some("tmpfs"));
    nix::mount::mount(tmpfs, place, tmpfs, nix::mount::MsFlags::empty(), none).expect("the mounts are ours");
    std::fs::create_dir("/dev/shm/directory").expect("it is new and empty");
    for (device, hint) in [
        ("/dev/shm/directory", "take device nodes alone"),
        ("/dev/no-such-device", "openat2(/dev/no-such-device): ENOENT"),
    ] {
        let toml = format!("service.command = [\"true\"]\nsecurity.devices = [\"{device}\"]\n{NO_NETWORK}\n");
        let output = world.run(&toml);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
        assert!(said.contains("root.dev") && said.contains(hint), "{said}");
    }
    nix::mount::umount(place).expect("nobody is in it");
}
