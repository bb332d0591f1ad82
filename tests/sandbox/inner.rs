//! The walls inside the walls: Landlock, the budget of namespaces, what is masked, keyrings, sandboxes within.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    process::{Command, Output, Stdio},
};

use crate::support::{World, world::describe};

const NO_NETWORK: &str = "network.mode = \"none\"";

/// Runs a script of the shell as a service.
fn script(world: &World, text: &str, keys: &str) -> Output {
    // A `$` of the shell's is none of the service file's.
    let text = text.replace('$', "$$");
    world.run(&format!("service.command = [\"/bin/sh\", \"-c\", {text:?}]\n{keys}\n"))
}

/// What a script prints, which has to succeed.
fn says(world: &World, text: &str, keys: &str) -> String {
    let output = script(world, text, keys);
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What was read back of the service, as `status` shows it.
fn attested(world: &World, name: &str) -> Vec<String> {
    let status = world.status(name);
    let all = status["attested"].as_array().expect("a list");
    all.iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

/// The version of Landlock that the domain of `name` was made for.
fn landlock(world: &World, name: &str) -> u32 {
    let all = attested(world, name);
    let line =
        all.iter().find_map(|text| text.strip_prefix("landlock version ")).expect("this kernel has it");
    line.split(',').next().and_then(|number| number.parse().ok()).expect("a number")
}

pub fn what_a_mount_allows_the_inner_wall_allows(world: &mut World) {
    let data = world.dir().join("data");
    fs::create_dir(&data).expect("a new name");
    std::os::unix::fs::chown(&data, Some(4321), Some(4321)).expect("root may");
    let mount = format!("{{ src = \"{}\", dst = \"/data\", ro = false, exec = true }}", data.display());
    let every = "set -e; cd $1; mkdir a b; echo x > a/f; mv a/f b/f; ln b/f a/g; ln -s f b/l; : > b/f; \
                 mkfifo p; rm -r a b p";
    let text = format!(
        "set -e; for d in /tmp /run /dev/shm /data; do sh -c '{every}' sh $d; done; cp /bin/true /data/t; /data/t; \
         echo 500 > /proc/self/oom_score_adj; echo x > /dev/null; echo x > /dev/stderr; \
         test \"$(cat /dev/stdin)\" = input; python3 -c 'import socket; socket.socket(1).bind(\"/tmp/s\")'; echo done"
    );
    let input = world.write("input", "input");
    let keys = format!(
        "service.stdin = \"file:{}\"\nservice.user = 1000\nrootfs.mounts = [{mount}]\n\
         rootfs.tmpfs = [{{ dst = \"/run\", mode = \"1777\" }}]\n{NO_NETWORK}",
        input.display()
    );
    assert_eq!(says(world, &text, &keys), "done");
    // And on a root that is written to.
    let keys = format!(
        "service.user = 0\nrootfs.writable = \"ephemeral\"\nrootfs.base = \"dir\"\nrootfs.dir = {:?}\n{NO_NETWORK}",
        root(world)
    );
    assert_eq!(
        says(world, &format!("{every}; cp /usr/bin/true /t; /t; echo done").replace("$1", "/"), &keys),
        "done"
    );
}

/// A directory with the host's programs in it.
fn root(world: &World) -> String {
    let root = world.dir().join("root");
    for place in ["dev", "proc", "sys", "tmp", "run", "usr/bin"] {
        fs::create_dir_all(root.join(place)).expect("a new name");
    }
    let busy = ["sh", "mkdir", "mv", "ln", "mkfifo", "rm", "cp", "true"];
    for program in busy {
        fs::copy(format!("/usr/bin/{program}"), root.join("usr/bin").join(program)).expect("it is there");
    }
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).expect("a new name");
    }
    let libraries = Command::new("ldd").args(busy.map(|program| format!("/usr/bin/{program}"))).output();
    let libraries = String::from_utf8(libraries.expect("a part of libc").stdout).expect("text");
    for path in libraries.split_whitespace().filter(|word| word.starts_with("/lib")) {
        let to = root.join("usr").join(path.trim_start_matches('/').trim_start_matches("usr/"));
        fs::create_dir_all(to.parent().expect("it has one")).expect("ours");
        fs::copy(path, to).expect("it is there");
    }
    root.display().to_string()
}

pub fn a_descriptor_of_the_host_is_no_way_to_the_host(world: &mut World) {
    // Of a mode that lets everybody write: nothing but the second wall is left between it and who has it to read.
    let file = world.write("shared", "host");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("ours");
    let stdin = format!("service.stdin = \"file:{}\"\n{NO_NETWORK}", file.display());
    for (keys, wanted) in [("", ("EACCES", "host")), ("security.landlock = \"off\"", ("ok", "x"))] {
        fs::write(&file, "host").expect("ours");
        let toml = world.probe_toml(&["write", "/proc/self/fd/0"], &format!("{stdin}\n{keys}"));
        let output = world.run(&toml);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let content = fs::read_to_string(&file).expect("ours");
        assert_eq!((&*said, &*content), wanted, "{keys}: {}", describe(&output));
    }
    let keys = format!("{NO_NETWORK}\nsecurity.landlock = \"off\"");
    world.write_service("open", &world.probe_toml(&["wait"], &keys));
    world.write_service("walled", &world.probe_toml(&["wait"], NO_NETWORK));
    world.start();
    world.wait_state("open", "active");
    world.wait_state("walled", "active");
    assert!(attested(world, "open").contains(&"landlock none: security.landlock".to_owned()));
    assert!(landlock(world, "walled") >= 2);
}

pub fn abstract_sockets_of_the_host_are_out_of_reach(world: &mut World) {
    let name = format!("walls-{}", world.name());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _listener = UnixListener::bind_addr(&address).expect("a new name");
    let connect = format!("import socket; socket.socket(1).connect(chr(0) + '{name}'); print('connected')");
    let text = format!("python3 -c \"{connect}\" 2>&1 | tail -1");
    let host = "network.mode = \"host\"";
    // The network namespace is the host's here, and with it the names.
    let open = says(world, &text, &format!("{host}\nsecurity.landlock = \"off\""));
    assert_eq!(open, "connected", "the probe shows a difference");
    let said = says(world, &text, host);
    world.write_service("one", &world.probe_toml(&["wait"], NO_NETWORK));
    world.start();
    world.wait_state("one", "active");
    match landlock(world, "one") {
        6.. => assert!(said.contains("Operation not permitted"), "{said}"),
        // Linux before 6.12 has no word for it.
        _ => assert_eq!(said, "connected"),
    }
}

pub fn a_session_may_signal_and_look_at_the_service(world: &mut World) {
    world.write_service(
        "one",
        &world.probe_toml(&["wait"], &format!("{NO_NETWORK}\nservice.env = {{ A = \"b\" }}")),
    );
    world.start();
    world.wait_state("one", "active");
    let text = "kill -0 2 && grep -qz A=b /proc/2/environ && ls -l /proc/2/fd >/dev/null && kill -CONT 2 && echo done";
    let said = world.ok(&["exec", "one", "--", "/bin/sh", "-c", text]);
    assert_eq!(said.trim(), "done");
}

pub fn message_queues_are_the_sandboxs_own(world: &mut World) {
    // mq_open(3) goes by no path: the inner wall has to know of them all the same.
    let program = "import ctypes, os\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        def queue(flags): return libc.mq_open(b'/own', flags, 0o600, None)\n\
        made, again = queue(os.O_CREAT | os.O_EXCL | os.O_RDWR), queue(os.O_RDONLY)\n\
        print(made >= 0, again >= 0, libc.mq_send(made, b'x', 1, 0), libc.mq_unlink(b'/own'))";
    for keys in ["", "service.user = 0", "rootfs.writable = \"ephemeral\"", "namespaces.pid = \"host\""] {
        let toml = format!("service.command = [\"python3\", \"-c\", {program:?}]\n{keys}\n{NO_NETWORK}\n");
        let output = world.run(&toml);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert_eq!(said, "True True 0 0", "{keys}: {}", describe(&output));
    }
}

pub fn a_profile_holds_the_service_and_its_sessions(world: &mut World) {
    let profile = world.write(
        "profile",
        "profile palisade-test flags=(attach_disconnected) {\n  file,\n  signal,\n  network,\n  deny /etc/hostname r,\n}\n",
    );
    let load = |verb: &str| {
        let output = Command::new("apparmor_parser").args([verb, "-K"]).arg(&profile).output();
        let output = output.expect("declared as a need");
        assert!(output.status.success(), "{}", describe(&output));
    };
    load("--replace");
    let text = "cat /proc/self/attr/apparmor/current; cat /etc/hostname 2>/dev/null || echo denied";
    let held = format!("{NO_NETWORK}\nsecurity.apparmor = \"palisade-test\"");
    assert_eq!(says(world, text, &held), "palisade-test (enforce)\ndenied");
    let free = format!("{NO_NETWORK}\nsecurity.apparmor = \"unconfined\"");
    assert_eq!(says(world, text, &free), "unconfined\nonce");
    world.write_service("one", &world.probe_toml(&["wait"], &held));
    world.start();
    world.wait_state("one", "active");
    let said = world.ok(&["exec", "one", "--", "/bin/sh", "-c", text]);
    assert_eq!(said.trim(), "palisade-test (enforce)\ndenied");
    assert!(attested(world, "one").contains(&"apparmor palisade-test".to_owned()));
    world.ok(&["stop", "one"]);
    load("--remove");
}

/// Whether a new user namespace can be had, and what the shell says about it.
fn unshares(world: &World, keys: &str) -> Output {
    script(world, "unshare -Urm true", &format!("{NO_NETWORK}\n{keys}"))
}

pub fn no_user_namespace_is_made_inside(world: &mut World) {
    for keys in [
        "",
        "service.user = 0",
        "security.landlock = \"off\"",
        "namespaces.pid = \"host\"",
        "rootfs.proc = \"none\"",
    ] {
        let output = unshares(world, keys);
        assert!(!output.status.success(), "{keys}: {}", describe(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("No space left") || said.contains("not permitted"),
            "{keys}: {}",
            describe(&output)
        );
    }
    // The host's own budget is what it was.
    assert!(Command::new("unshare").args(["-U", "true"]).status().expect("util-linux").success());
}

pub fn a_nested_service_makes_sandboxes_that_hold(world: &mut World) {
    let keys = format!("namespaces.nested = true\n{NO_NETWORK}");
    assert!(unshares(world, "namespaces.nested = true").status.success());
    // A procfs of its own, and mounts.
    let text = "unshare -Urpfm --mount-proc sh -c 'mount -t tmpfs none /tmp && echo $$'";
    assert_eq!(says(world, text, &keys), "1");
    // What is read-only stays so for who is root over the mounts inside, and knobs of the kernel are not his.
    let text = "unshare -Urm sh -c 'mount -o remount,bind,rw /usr; mount -o remount,bind,rw /; \
                touch /usr/x; touch /x; umount -l /usr; umount /proc; \
                true >> /proc/sys/kernel/core_pattern; true >> /proc/sysrq-trigger; test -e /usr/bin/env && echo still' 2>&1";
    // Not root: whoever maps the id 0 of the outer namespace needs CAP_SETFCAP there (user_namespaces(7)).
    for user in ["1000", "\"dynamic\""] {
        let said = says(world, text, &format!("{keys}\nservice.user = {user}"));
        assert_eq!(said.lines().last(), Some("still"), "{said}");
        // Every line but the last is a complaint: of eight attempts, none succeeded.
        assert!(said.lines().filter(|line| line.contains(": ")).count() >= 8, "{said}");
    }
    assert!(!fs::exists("/usr/x").expect("it can be looked at"));
}

pub fn bubblewrap_runs_in_a_nested_service_and_nowhere_else(world: &mut World) {
    let text = "bwrap --ro-bind / / --proc /proc --dev /dev --unshare-all --uid 0 --gid 0 -- sh -c 'echo $$ $(id -u)'";
    let keys = format!("namespaces.nested = true\n{NO_NETWORK}");
    assert_eq!(says(world, text, &keys), "2 0");
    let output = script(world, text, NO_NETWORK);
    assert!(!output.status.success(), "{}", describe(&output));
}

pub fn proc_and_sys_tell_nothing_of_the_machine(world: &mut World) {
    // What there is for everybody, or is about this sandbox alone.
    let known = [
        "cgroups",
        "cpuinfo",
        "crypto",
        "devices",
        "execdomains",
        "fb",
        "filesystems",
        "loadavg",
        "meminfo",
        "misc",
        "mounts",
        "net",
        "self",
        "stat",
        "sysvipc",
        "thread-self",
        "tty",
        "uptime",
        "version",
        "version_signature",
        "vmstat",
        "cpu",
        "sys",
        "fs",
        "irq",
        "bus",
    ];
    let list = known.join("|");
    // Bytes of files, names in directories, of all that is not known.
    let text = format!(
        "cd /proc; for f in *; do case $f in [0-9]*|{list}) ;; *) if [ -d $f ]; then n=$(ls $f 2>/dev/null | wc -l); \
         else n=$(timeout 2 head -c 64 $f 2>/dev/null | wc -c); fi; [ $n = 0 ] || echo $f $n;; esac; done; \
         for d in /sys/firmware /sys/module /sys/kernel/debug /sys/kernel/slab /sys/kernel/security /sys/kernel/tracing \
         /sys/kernel/btf /sys/fs/bpf /sys/devices/virtual/powercap /sys/devices/virtual/dmi; do ls $d 2>/dev/null; done; \
         head -c 9 /sys/kernel/notes /sys/kernel/vmcoreinfo 2>/dev/null | grep -v ==; true"
    );
    for user in ["1000", "0"] {
        assert_eq!(says(world, &text, &format!("service.user = {user}\n{NO_NETWORK}")), "", "user {user}");
    }
}

pub fn no_knob_of_the_kernel_is_turned(world: &mut World) {
    // Opened for writing, which changes nothing; what opens is told.
    let text = "find /proc/sys /proc/irq /proc/fs /proc/bus /proc/sysrq-trigger /proc/acpi /proc/mtrr /proc/pressure \
                /sys ! -type d ! -type l 2>/dev/null | while read f; do \
                [ -c $f ] || { true >> $f; } 2>/dev/null && [ ! -c $f ] && echo $f; done; true";
    for keys in ["service.user = 1000", "service.user = 0", "service.user = 0\nnamespaces.nested = true"] {
        let said = says(world, text, &format!("{keys}\n{NO_NETWORK}"));
        // What belongs to its own user, IPC and pid namespaces; and pressure, whose triggers are for everybody.
        let own = |line: &&str| {
            let kernel = line.strip_prefix("/proc/sys/kernel/").unwrap_or_default();
            let ipc_or_pid = ["msg", "sem", "shm", "auto_msgmni", "ns_last_pid", "pid_max"];
            let of_namespaces = ["/proc/sys/user/", "/proc/sys/fs/mqueue/", "/proc/pressure/"];
            keys.contains("nested")
                && (ipc_or_pid.iter().any(|name| kernel.starts_with(name))
                    || of_namespaces.iter().any(|dir| line.starts_with(dir)))
        };
        let more: Vec<&str> = said.lines().filter(|line| !own(line)).collect();
        assert_eq!(more, Vec::<&str>::new(), "{keys}");
    }
}

pub fn a_label_that_cannot_be_had_is_refused(world: &mut World) {
    for (key, module) in [("apparmor", "AppArmor"), ("selinux", "SELinux")] {
        let output =
            script(world, "echo ran", &format!("security.{key} = \"palisade-test-none\"\n{NO_NETWORK}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout.is_empty(), "{}", describe(&output));
        match output.status.code() {
            // The host does not have the module: said of the line.
            Some(2) => assert!(said.contains(module) && said.contains("once.toml:"), "{said}"),
            // Or not the label: said of the step.
            Some(125) => assert!(said.contains(key) && said.contains("palisade-test-none"), "{said}"),
            _ => panic!("{}", describe(&output)),
        }
    }
}

/// keyctl(2), for which no program is there: prints what it finds of a key that the host has.
const KEYS: &str = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
NR = {'x86_64': (248, 250), 'aarch64': (217, 219)}[os.uname().machine]
def call(nr, *args):
    result = libc.syscall(NR[nr], *args)
    return result if result >= 0 else -ctypes.get_errno()
";

pub fn no_key_of_the_host_is_seen(world: &mut World) {
    let name = format!("walls-{}", world.name());
    // In the session keyring of whoever starts the supervisor, and in root's own.
    let add = format!(
        "{KEYS}\ncall(1, 1, 0)\nfor ring in (-3, -4): print(call(0, b'user', b'{name}', b'secret', 6, ring))\n\
         import subprocess, sys; sys.stdout.flush(); sys.exit(subprocess.call(sys.argv[1:]))"
    );
    let look = format!(
        "{KEYS}\nfound = [call(1, 10, ring, b'user', b'{name}', 0) for ring in (-3, -4, -5)]\n\
         b = ctypes.create_string_buffer(99)\n\
         found += [call(1, 11, int(key), b, 99) for key in os.environ['KEYS'].split()]\n\
         print(found, b.value.decode(), os.popen('cat /proc/keys /proc/key-users 2>/dev/null').read())"
    );
    let run = |keys: &str, serials: &str| {
        let toml = format!(
            "service.command = [\"/usr/bin/python3\", \"-c\", {look:?}]\nservice.env = {{ KEYS = \"{serials}\" }}\n{keys}\n{NO_NETWORK}\n"
        );
        let file = world.write("single/once.toml", &toml);
        let mut palisade = Command::new("python3");
        palisade.args(["-c", &add]);
        let plain = world.command(&["run"]);
        palisade.arg(plain.get_program()).args(plain.get_args()).args(world.places()).arg(file);
        let output = palisade.stdin(Stdio::null()).output().expect("declared as a need");
        assert!(output.status.success(), "{}", describe(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let added = run("", "1");
    let serials: Vec<i64> = added.lines().take(2).map(|line| line.parse().expect("a serial")).collect();
    assert!(serials.iter().all(|serial| *serial > 0), "the host has keys: {added}");
    for keys in ["", "service.user = 0"] {
        let said = run(keys, &serials[1].to_string());
        let found = said.lines().last().expect("a line");
        let numbers = found.split(']').next().unwrap_or_default().trim_start_matches('[').to_owned();
        let none = |number: &str| number.trim().parse::<i64>().is_ok_and(|number| number < 0);
        assert!(numbers.split(',').all(none), "{keys}: {said}");
        assert!(!found.contains("secret") && !found.contains(&name), "{keys}: {said}");
    }
}
