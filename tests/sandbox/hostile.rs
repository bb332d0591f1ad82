//! Roots whose author is an enemy: whatever stands where something is to be mounted or read, the service starts safely
//! or is refused with the path in the message, and nothing outside is touched.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{World, world::describe};

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
    let is_dir = DIRS.contains(&path);
    let at = root.join(path);
    let _ = if is_dir { fs::remove_dir(&at) } else { fs::remove_file(&at) };
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

/// Runs the probe on the root; SIGKILL, which shows as no exit status, is for one that hangs.
fn run(world: &World, root: &Path, keys: &str) -> Output {
    let toml = world.probe_toml(
        &["print", "started"],
        &format!(
            "rootfs.base = \"dir\"\nrootfs.dir = \"{}\"\nnetwork.mode = \"none\"\n{keys}",
            root.display()
        ),
    );
    let file = world.write("single/once.toml", &toml);
    let inner = world.command(&["run"]);
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "30"]).arg(inner.get_program()).args(inner.get_args());
    command.args(world.places()).arg(file).output().expect("coreutils are installed")
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
