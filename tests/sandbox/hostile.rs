//! Roots whose author is an enemy: whatever stands where something is to be mounted or read, the service starts safely
//! or is refused with the path in the message, and nothing outside is touched.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::support::{World, scaled, world::describe};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trap {
    /// A link to a directory or file of the host, by an absolute name.
    Absolute,
    /// The same, climbing out of the root.
    Climbing,
    /// A link to itself.
    Loop,
    /// A pipe that nobody writes to.
    Fifo,
    /// A file where a directory belongs, or the other way round.
    WrongKind,
    /// The node of /dev/zero: endless.
    Endless,
}

const TRAPS: [Trap; 6] =
    [Trap::Absolute, Trap::Climbing, Trap::Loop, Trap::Fifo, Trap::WrongKind, Trap::Endless];
const DIRS: [&str; 5] = ["proc", "dev", "sys", "tmp", "run"];
const FILES: [&str; 5] = ["etc/hosts", "etc/hostname", "etc/machine-id", "etc/passwd", "etc/group"];

/// A sound directory root.
fn root(world: &World) -> PathBuf {
    let root = world.dir().join("root");
    let _ = fs::remove_dir_all(&root);
    for dir in DIRS.into_iter().chain(["probe", "etc"]) {
        fs::create_dir_all(root.join(dir)).expect("our own directory");
    }
    for file in FILES {
        fs::write(root.join(file), "").expect("our own directory");
    }
    root
}

/// A directory of the host that must stay as it is.
fn victim(world: &World) -> PathBuf {
    let victim = world.dir().join("victim");
    fs::create_dir_all(victim.join("pts")).expect("our own directory");
    fs::write(victim.join("file"), "root:x:0:0::/:/bin/sh\n").expect("our own directory");
    victim
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).expect("it is there").flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

fn set(world: &World, root: &Path, path: &str, trap: Trap) {
    let at = root.join(path);
    let is_dir = at.is_dir();
    let _ = if is_dir { fs::remove_dir_all(&at) } else { fs::remove_file(&at) };
    let victim = if is_dir { victim(world) } else { victim(world).join("file") };
    let ran = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(&at).status().expect("coreutils are installed");
        assert!(status.success(), "{program}");
    };
    match trap {
        Trap::Absolute => symlink(victim, &at).expect("a free name"),
        Trap::Climbing => {
            let below = victim.strip_prefix("/").expect("absolute");
            symlink(Path::new("../../../../../..").join(below), &at).expect("a free name");
        }
        Trap::Loop => symlink(at.file_name().expect("it has one"), &at).expect("a free name"),
        Trap::Fifo => ran("mkfifo", &[]),
        Trap::WrongKind if is_dir => fs::write(&at, "").expect("a free name"),
        Trap::WrongKind => fs::create_dir(&at).expect("a free name"),
        Trap::Endless => {
            let status = Command::new("mknod").arg(&at).args(["c", "1", "5"]).status();
            assert!(status.expect("coreutils are installed").success());
        }
    }
}

/// Runs the probe on the root.
fn run(world: &World, root: &Path, keys: &str) -> Output {
    run_toml(world, &world.probe_toml(&["print", "started"], &format!("{}{keys}\n", dir_root(root))))
}

pub fn every_trap_at_every_mount_point_is_refused_by_name(world: &mut World) {
    let root = root(world);
    let sound = run(world, &root, "");
    assert!(sound.status.success(), "{}", describe(&sound));
    let victim = victim(world);
    let before = (names(&victim), fs::metadata(&victim).expect("it is there").mtime_nsec());
    for writable in ["no", "ephemeral"] {
        for path in DIRS {
            for trap in TRAPS {
                let root = self::root(world);
                set(world, &root, path, trap);
                let output = run(world, &root, &format!("rootfs.writable = \"{writable}\""));
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(125), "{path} {trap:?}: {}", describe(&output));
                assert!(said.contains(&format!("/{path}")), "{path} {trap:?}: {said}");
                let after = (names(&victim), fs::metadata(&victim).expect("it is there").mtime_nsec());
                assert_eq!(after, before, "{path} {trap:?}");
            }
        }
    }
}

pub fn every_trap_at_every_file_is_passed_over(world: &mut World) {
    let victim = victim(world);
    let before = fs::read(victim.join("file")).expect("it is there");
    for path in FILES {
        for trap in TRAPS {
            let root = root(world);
            set(world, &root, path, trap);
            let output = run(world, &root, "");
            assert!(output.status.success(), "{path} {trap:?}: {}", describe(&output));
            assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n");
            assert_eq!(fs::read(victim.join("file")).expect("it is there"), before);
        }
    }
}

pub fn a_user_is_not_looked_up_in_a_trap(world: &mut World) {
    for (path, keys) in [("etc/passwd", "service.user = \"web\""), ("etc/group", "service.group = \"web\"")] {
        for trap in TRAPS {
            let root = root(world);
            set(world, &root, path, trap);
            let output = run(world, &root, keys);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(125), "{path} {trap:?}: {}", describe(&output));
            assert!(said.contains(" user"), "{path} {trap:?}: {said}");
        }
    }
}

pub fn nobody_else_is_root_because_the_root_says_so(world: &mut World) {
    let root = root(world);
    let passwd = root.join("etc/passwd");
    let _ = fs::remove_file(&passwd);
    for (line, refused) in [("web:x:0:33::/:/bin/sh", true), ("web:x:33:0::/:/bin/sh", false)] {
        fs::write(&passwd, format!("root:x:0:0::/:/bin/sh\n{line}\n")).expect("a root of our own");
        let output = run(world, &root, "service.user = \"web\"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code() == Some(125), refused, "{line}: {}", describe(&output));
        assert_eq!(said.contains(" user: lookup(web): EPERM"), refused, "{line}: {said}");
    }
}

pub fn a_mount_point_that_is_swapped_meanwhile_leads_nowhere(world: &mut World) {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    let root = root(world);
    let victim = victim(world);
    let before = (names(&victim), names(&victim.join("pts")));
    // For each directory that is mounted on, a link to swap it with.
    for dir in DIRS {
        symlink(&victim, root.join(format!("{dir}.link"))).expect("a free name");
    }
    let (over, which) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let dir = DIRS[which.load(Ordering::Relaxed)];
                let (at, link) = (root.join(dir), root.join(format!("{dir}.link")));
                // There and back, so that one that is left for the next stands as it should.
                for _ in 0..2 {
                    renameat_with(CWD, &at, CWD, &link, RenameFlags::EXCHANGE).expect("both are there");
                }
            }
        });
        for n in 0..60 {
            which.store(n % DIRS.len(), Ordering::Relaxed);
            // Started or refused, as it happens. With a node, /dev is made for this service alone.
            let output = run(world, &root, "rootfs.dev = [\"/dev/full\"]");
            let status = output.status.code();
            assert!(matches!(status, Some(0 | 125..=127)), "{}", describe(&output));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!((names(&victim), names(&victim.join("pts"))), before);
}

/// Started or refused by the path's name, and the host's directory is as it was.
fn judge(world: &World, what: &str, path: &str, output: &Output) {
    let victim = victim(world);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n", "{what}"),
        Some(125) => assert!(said.contains(path), "{what}: {said}"),
        _ => panic!("{what}: {}", describe(output)),
    }
    assert_eq!(names(&victim), [victim.join("file"), victim.join("pts")], "{what}");
    assert_eq!(names(&victim.join("pts")), Vec::<PathBuf>::new(), "{what}");
    let text = fs::read_to_string(victim.join("file")).expect("it is there");
    assert_eq!(text, "root:x:0:0::/:/bin/sh\n", "{what}");
}

pub fn what_stands_below_a_mount_point_is_nobodys_business(world: &mut World) {
    let dirs = ["etc", "dev/pts", "dev/shm", "proc/sys", "proc/1", "sys/fs/cgroup", "sys/firmware"];
    let files =
        ["dev/null", "dev/console", "dev/ptmx", "dev/tty", "proc/kcore", "proc/keys", "etc/resolv.conf"];
    for path in dirs.into_iter().chain(files) {
        for trap in TRAPS {
            let root = root(world);
            let at = root.join(path);
            if dirs.contains(&path) {
                fs::create_dir_all(&at).expect("our own directory");
            } else {
                fs::write(&at, "").expect("our own directory");
            }
            set(world, &root, path, trap);
            // With a node, /dev is made for this service alone.
            let output = run(world, &root, "rootfs.dev = [\"/dev/full\"]");
            judge(world, &format!("{path} {trap:?}"), "/etc", &output);
        }
    }
}

pub fn a_trap_where_a_file_wants_something_is_refused_by_name(world: &mut World) {
    let source = world.dir().join("source");
    fs::create_dir_all(&source).expect("our own directory");
    let mount = |dst: &str| {
        let (source, probe) = (source.display(), world.probe_mount());
        format!("rootfs.mounts = [{probe}, {{ src = \"{source}\", dst = \"{dst}\" }}]")
    };
    for dst in ["/place", "/deep/place"] {
        let wishes = [
            format!("rootfs.hide = [\"{dst}\"]"),
            format!("rootfs.read_only = [\"{dst}\"]"),
            format!("rootfs.tmpfs = [{{ dst = \"{dst}\" }}]"),
            mount(dst),
        ];
        for wish in &wishes {
            for trap in TRAPS {
                let root = root(world);
                fs::create_dir_all(root.join("deep/place")).expect("our own directory");
                fs::create_dir_all(root.join("place")).expect("our own directory");
                let trapped = dst.trim_start_matches('/').trim_end_matches("/place");
                set(world, &root, trapped, trap);
                let toml = world.probe_toml(&["print", "started"], &format!("{wish}\n{}", dir_root(&root)));
                // A list of mounts is given once.
                let own = format!("rootfs.mounts = [{}]\n", world.probe_mount());
                let toml = if wish.starts_with("rootfs.mounts") { toml.replacen(&own, "", 1) } else { toml };
                let output = run_toml(world, &toml);
                judge(world, &format!("{wish} {trap:?}"), &format!("/{trapped}"), &output);
            }
        }
    }
}

pub fn a_set_id_program_of_the_root_gives_nobody_its_owner(world: &mut World) {
    use std::os::unix::fs::PermissionsExt;
    for (owner, group) in [(0, 0), (1_879_048_192, 1_879_048_192)] {
        let root = root(world);
        let program = root.join("su");
        fs::copy(std::env::current_exe().expect("own path"), &program).expect("our own directory");
        std::os::unix::fs::chown(&program, Some(owner), Some(group)).expect("the test needs root");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).expect("our own file");
        for keys in ["", "security.no_new_privs = false\n"] {
            let toml = format!(
                "service.command = [\"/su\", \"__probe\", \"report\"]\n{}network.mode = \"none\"\n{keys}",
                dir_root(&root)
            );
            let output = run_toml(world, &toml);
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{error}: {}", describe(&output)));
            for name in ["Uid", "Gid"] {
                let ids = crate::walls::field(&report, name);
                let ids: std::collections::BTreeSet<&str> = ids.split(' ').collect();
                assert!(ids.len() == 1 && !ids.contains("0"), "{owner} {keys}: {name} {ids:?}");
            }
        }
    }
}

pub fn a_session_is_not_held_up_by_a_trap(world: &mut World) {
    let root = root(world);
    let sound = "root:x:0:0::/:/bin/sh\nweb:x:1234:1234::/:/bin/sh\n";
    fs::write(root.join("etc/passwd"), sound).expect("our own directory");
    let keys = format!("service.user = \"web\"\n{}network.mode = \"none\"\n", dir_root(&root));
    world.write_service("one", &world.probe_toml(&["wait"], &keys));
    world.start();
    world.wait_state("one", "active");
    let session = |world: &World| {
        let inner = world.command(&["exec", "one", "--", "/probe/probe", "__probe", "print", "started"]);
        bounded(&inner).output().expect("coreutils are installed")
    };
    for path in ["etc/passwd", "etc/group"] {
        for trap in TRAPS {
            // The service is there already; its root is changed under it.
            set(world, &root, path, trap);
            let output = session(world);
            judge(world, &format!("session, {path} {trap:?}"), "user", &output);
            let at = root.join(path);
            let _ = fs::remove_dir(&at).or_else(|_| fs::remove_file(&at));
            fs::write(&at, if path == "etc/passwd" { sound } else { "" }).expect("our own directory");
        }
        let output = session(world);
        assert!(output.status.success(), "{}", describe(&output));
    }
}

fn dir_root(root: &Path) -> String {
    format!("rootfs.base = \"dir\"\nrootfs.dir = \"{}\"\n", root.display())
}

/// Runs a service file; SIGKILL, which shows as no exit status, is for one that hangs.
fn run_toml(world: &World, toml: &str) -> Output {
    let toml = if toml.contains("network.mode") {
        toml.to_owned()
    } else {
        format!("{toml}network.mode = \"none\"\n")
    };
    let file = world.write("single/once.toml", &toml);
    let mut command = bounded(&world.command(&["run"]));
    command.args(world.places()).arg(file).output().expect("coreutils are installed")
}

/// The same, killed when it hangs.
fn bounded(inner: &Command) -> Command {
    let time = scaled(Duration::from_secs(30)).as_secs().to_string();
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &time]).arg(inner.get_program()).args(inner.get_args());
    command
}
