//! `security.credentials`: who reads them inside, and that they are nowhere else.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use crate::support::{LONG, World, world::describe};

const NO_NETWORK: &str = "network.mode = \"none\"";
const SECRET: &str = "tr0ub4dor-and-3-horses";

/// A file that nobody else reads.
fn secret(world: &World, name: &str, text: &str) -> String {
    let path = world.write(&format!("secrets/{name}"), text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    path.display().to_string()
}

/// A service that runs a script with these credentials.
fn script(script: &str, credentials: &str) -> String {
    let command = ["sh", "-c", &script.replace('%', "%%")];
    format!("service.command = {command:?}\nsecurity.credentials = [{credentials}]\n{NO_NETWORK}\n")
}

/// What such a service printed.
fn says(world: &World, text: &str, credentials: &str, keys: &str) -> String {
    let output = world.run(&format!("{}{keys}\n", script(text, credentials)));
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why a launch with this credential was refused.
fn refusal(world: &World, credential: &str) -> String {
    let output = world.run(&script("true", credential));
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(" root.credentials: ") && said.contains("\"t\""), "{said}");
    assert!(!said.contains(SECRET), "{said}");
    said
}

pub fn the_service_reads_them_and_nobody_else_does(world: &mut World) {
    let file = secret(world, "t", SECRET);
    let one = format!("{{ name = \"t\", file = \"{file}\" }}");
    let look = "cd $CREDENTIALS_DIRECTORY && pwd && cat t && echo && stat -c '%n %a %u %g' . t && \
                grep ' /run/credentials' /proc/self/mounts | cut -d' ' -f2,4 | cut -d, -f1-4; \
                (echo x > t) 2>/dev/null || echo sealed; (echo x > u) 2>/dev/null || echo sealed";
    let said = says(world, look, &one, "service.user = 77");
    let head = format!("/run/credentials/once\n{SECRET}\n. 555 0 0\nt 400 77 77\n");
    assert_eq!(said, format!("{head}/run/credentials/once ro,nosuid,nodev,noexec\nsealed\nsealed\n"));
    // Of somebody else inside, with a mode that lets the service's group read.
    let owned = format!("{{ name = \"t\", file = \"{file}\", owner = \"root\", mode = \"0440\" }}");
    let said = says(
        world,
        "stat -c '%a %u %g' /run/credentials/once/t; cat /run/credentials/once/t",
        &owned,
        "service.user = 77",
    );
    assert_eq!(said, format!("440 0 77\n{SECRET}"));
    let roots = format!("{{ name = \"t\", file = \"{file}\", owner = \"root\" }}");
    let said =
        says(world, "cat /run/credentials/once/t 2>/dev/null || echo refused", &roots, "service.user = 77");
    assert_eq!(said, "refused\n");
    let said = says(
        world,
        "umount /run/credentials/once 2>/dev/null || mount -o remount,rw /run/credentials/once 2>/dev/null || echo held",
        &one,
        "service.user = 0",
    );
    assert_eq!(said, "held\n");
}

pub fn they_come_from_a_file_a_program_or_the_environment(world: &mut World) {
    let dir = world.dir().join("secrets");
    secret(world, "real", "by a link");
    symlink("real", dir.join("link")).expect("a new name");
    let all = format!(
        "{{ name = \"a\", file = \"{}/link\" }}, {{ name = \"b\", command = [\"/bin/sh\", \"-c\", \"printf 'out of %%s' $(id -u)\"] }}, \
         {{ name = \"c\", env = \"SECRET\" }}, {{ name = \"empty\", command = \"/bin/true\" }}",
        dir.display()
    );
    let toml = script(
        "cd $CREDENTIALS_DIRECTORY; for f in *; do echo $f: $(cat $f); done; env | grep -c by.env; true",
        &all,
    );
    let file = world.write("single/once.toml", &toml);
    let mut command = world.command(&["run"]);
    // Bytes that are no text as well.
    command.args(world.places()).arg(file).env("SECRET", "by env");
    let output = command.output().expect("the program under test starts");
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "a: by a link\nb: out of 0\nc: by env\nempty:\n0\n",
        "{}",
        describe(&output)
    );
    let bytes = [0xff, 0, b'\n', 0x80].repeat(1000);
    fs::write(dir.join("real"), &bytes).expect("our own file");
    let one = format!("{{ name = \"t\", file = \"{}/real\" }}", dir.display());
    let output = world.run(&script("cat /run/credentials/once/t", &one));
    assert_eq!(output.stdout, bytes, "{}", describe(&output));
    fs::write(dir.join("real"), vec![b'x'; 1024 * 1024]).expect("our own file");
    assert_eq!(says(world, "wc -c < /run/credentials/once/t", &one, ""), "1048576\n");
}

pub fn what_cannot_be_had_or_trusted_is_refused_by_name(world: &mut World) {
    let file = secret(world, "t", SECRET);
    let chmod = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("our own");
    let from_file = format!("{{ name = \"t\", file = \"{file}\" }}");
    for (mode, reason) in [(0o644, "anybody may read it"), (0o620, "can be written by its group")] {
        chmod(mode);
        let said = refusal(world, &from_file);
        assert!(said.contains(reason) && said.contains("chmod "), "{said}");
    }
    chmod(0o600);
    std::os::unix::fs::chown(&file, Some(4321), None).expect("root may");
    assert!(refusal(world, &from_file).contains("belongs to user 4321"));
    std::os::unix::fs::chown(&file, Some(0), None).expect("root may");
    fs::write(&file, vec![b'x'; 1024 * 1024 + 1]).expect("our own file");
    assert!(refusal(world, &from_file).contains("larger than"));
    for (credential, reason) in [
        ("{ name = \"t\", file = \"/no/such/file\" }", "there is no file /no/such/file"),
        ("{ name = \"t\", file = \"/dev/zero\" }", "not a regular file"),
        ("{ name = \"t\", env = \"NO_SUCH_VARIABLE\" }", "no variable NO_SUCH_VARIABLE"),
        ("{ name = \"t\", command = \"/no/such/program\" }", "/no/such/program cannot be executed"),
        (
            "{ name = \"t\", command = [\"/bin/sh\", \"-c\", \"echo tr0ub4dor-and-3-horses; exit 3\"] }",
            "exit status: 3",
        ),
        (
            "{ name = \"t\", command = [\"/usr/bin/head\", \"-c\", \"2000000\", \"/dev/zero\"] }",
            "more than 1 MiB",
        ),
        (
            "{ name = \"t\", command = [\"/bin/sh\", \"-c\", \"sleep 600 & sleep 600\"] }",
            "took longer than 10s",
        ),
    ] {
        let said = refusal(world, credential);
        assert!(said.contains(reason), "{reason}: {said}");
    }
}

pub fn a_hostile_root_does_not_lead_them_astray(world: &mut World) {
    let file = secret(world, "t", SECRET);
    let root = world.dir().join("root");
    for dir in ["dev", "proc", "sys", "tmp", "run", "probe", "elsewhere"] {
        fs::create_dir_all(root.join(dir)).expect("a new name");
    }
    // /run is always a file system of ours, so what lies below it in the tree is never met.
    symlink("/elsewhere", root.join("run/credentials")).expect("a new name");
    let keys = format!(
        "rootfs.base = \"dir\"\nrootfs.dir = \"{}\"\n{NO_NETWORK}\n\
         security.credentials = [{{ name = \"t\", file = \"{file}\" }}]",
        root.display()
    );
    let output = world.run(&world.probe_toml(&["write", "/run/credentials/once/t"], &keys));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(["EROFS\n", "EACCES\n"].contains(&said.as_str()), "{}", describe(&output));
    assert_eq!(fs::read_dir(root.join("elsewhere")).expect("it is there").count(), 0);
    fs::remove_dir_all(root.join("run")).expect("our own");
    symlink("/elsewhere", root.join("run")).expect("a new name");
    let output = world.run(&world.probe_toml(&["exit", "0"], &keys));
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    assert_eq!(fs::read_dir(root.join("elsewhere")).expect("it is there").count(), 0);
}

/// Every file below a directory that holds the secret.
fn holds(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("it was listed");
        if kind.is_dir() {
            found.extend(holds(&path));
        } else if kind.is_file() && has(&fs::read(&path).unwrap_or_default()) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn has(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

pub fn they_are_nowhere_else(world: &mut World) {
    let file = secret(world, "t", SECRET);
    let credentials = format!(
        "{{ name = \"t\", file = \"{file}\" }}, {{ name = \"c\", command = [\"/bin/cat\", \"{file}\"] }}"
    );
    let wait = "cat $CREDENTIALS_DIRECTORY/t > /dev/null && echo read && exec sleep 1000";
    let unit = world.write_service("web", &script(wait, &credentials));
    world.write_service("other", &script("exec sleep 1000", ""));
    world.start();
    world.wait_state("web", "active");
    world.wait_state("other", "active");
    crate::support::wait_until("it has read", LONG, || world.logs("web").contains("read"));

    // A session finds them, and has the variable.
    let said =
        world.ok(&["exec", "web", "--", "sh", "-c", "cat $CREDENTIALS_DIRECTORY/t /run/credentials/web/c"]);
    assert_eq!(said, SECRET.repeat(2));
    // Another service does not, and has none.
    let said = world.ok(&[
        "exec",
        "other",
        "--",
        "sh",
        "-c",
        "ls /run/credentials 2>&1 | wc -l; echo $CREDENTIALS_DIRECTORY; ls -A /run",
    ]);
    assert_eq!(said, "1\n\n", "no directory, no variable");

    for place in ["state", "log", "run", "services"] {
        assert_eq!(holds(&world.dir().join(place)), Vec::<String>::new(), "{place}");
    }
    assert!(!has(world.supervisor_log().as_bytes()));
    for pid in crate::support::world::pids() {
        for name in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            assert!(!has(&bytes), "/proc/{pid}/{name}");
        }
    }
    let unit = unit.display().to_string();
    for args in [&["plan", &unit][..], &["plan", &unit, "--json"], &["list", "--json"], &["status", "web"]] {
        let output = world.palisade(args);
        assert!(output.status.success() && !has(&output.stdout) && !has(&output.stderr), "{args:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    assert!(!mounts.contains("/run/credentials"), "{mounts}");

    // Another content counts from the next start on.
    fs::write(&file, "changed").expect("our own file");
    let read = ["exec", "web", "--", "cat", "/run/credentials/web/t"];
    assert_eq!(world.ok(&read), SECRET);
    world.ok(&["restart", "web"]);
    world.wait_state("web", "active");
    assert_eq!(world.ok(&read), "changed");
}

pub fn a_program_that_takes_its_time_holds_up_nobody_else(world: &mut World) {
    let go = world.dir().join("go").display().to_string();
    let program =
        format!("echo $$$$ > {go}.pid; while [ ! -e {go} ]; do sleep 0.02; done; cat {go}; test -s {go}");
    let credentials = format!("{{ name = \"t\", command = [\"/bin/sh\", \"-c\", {program:?}] }}");
    world.write_service("slow", &script("exec sleep 1000", &credentials));
    world.write_service("other", &script("exec sleep 1000", ""));
    world.start();
    world.wait_state("other", "active");
    // Where all takes its time it has had its own, and is tried again.
    world.wait_state("slow", "starting");
    let pid =
        || fs::read_to_string(format!("{go}.pid")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let first = crate::support::wait_for("the program runs", LONG, pid);
    // Given up while it waits.
    world.ok(&["stop", "slow"]);
    assert_eq!(world.state("slow"), "stopped");
    assert!(!Path::new(&format!("/proc/{first}")).exists());
    fs::remove_file(format!("{go}.pid")).expect("our own");

    let mut start = world.command(&["start", "slow"]).spawn().expect("the program under test starts");
    crate::support::wait_for("the program runs", LONG, pid);
    fs::write(format!("{go}.new"), SECRET).expect("our own");
    fs::rename(format!("{go}.new"), &go).expect("our own");
    assert!(start.wait().expect("our child").success());
    world.wait_state("slow", "active");
    assert_eq!(world.ok(&["exec", "slow", "--", "cat", "/run/credentials/slow/t"]), SECRET);

    // One that fails is a launch that failed, to be tried again.
    fs::write(&go, "").expect("our own");
    let restarted = world.palisade(&["restart", "slow"]);
    assert!(!restarted.status.success(), "{}", describe(&restarted));
    crate::support::wait_until("it is told why", LONG, || {
        let fault = world.status("slow")["fault"].clone();
        fault["step"] == "root.credentials"
            && fault["error"].as_str().is_some_and(|e| e.contains("exit status: 1"))
    });
    fs::write(&go, "again").expect("our own");
    world.wait_state("slow", "active");
}
