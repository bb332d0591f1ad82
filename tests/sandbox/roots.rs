//! What a service sees as `/`, and what becomes of what it writes there.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    process::Output,
};

use crate::support::{World, world::describe};

const NO_NETWORK: &str = "network.mode = \"none\"";

/// Runs a shell script in the host's root, or in one that has the host's programs.
fn shell(world: &World, script: &str, keys: &str) -> Output {
    // A per cent sign begins a specifier.
    let script = script.replace('%', "%%");
    world.run(&format!("service.command = {:?}\n{keys}\n{NO_NETWORK}\n", ["sh", "-c", &script]))
}

/// What a script printed; it must have ended well.
fn says(world: &World, script: &str, keys: &str) -> String {
    let output = shell(world, script, keys);
    assert!(output.status.success(), "{}", describe(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory root with mount points, a file of each of two owners, and the host's /usr.
fn root(world: &World, writable: &str) -> String {
    let root = world.dir().join("root");
    for dir in ["usr", "dev", "proc", "sys", "tmp", "run", "etc", "data"] {
        fs::create_dir_all(root.join(dir)).expect("our own directory");
    }
    for link in ["bin", "lib", "lib64", "sbin"] {
        let target =
            fs::read_link(Path::new("/").join(link)).unwrap_or_else(|_| format!("usr/{link}").into());
        symlink(target, root.join(link)).expect("a new name");
    }
    for (name, owner) in [("data/roots", 0), ("data/theirs", 77)] {
        fs::write(root.join(name), "old\n").expect("our own directory");
        chown(root.join(name), Some(owner), Some(owner)).expect("root may");
    }
    for dir in ["", "usr", "dev", "proc", "sys", "tmp", "run", "etc", "data"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o755)).expect("our own");
    }
    format!(
        "rootfs.base = \"dir\"\nrootfs.dir = \"{}\"\nrootfs.writable = \"{writable}\"\n\
         rootfs.mounts = [{{ src = \"/usr\", dst = \"/usr\", exec = true }}]",
        root.display()
    )
}

/// What lies in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn a_persistent_root_remembers_and_holds_only_what_was_written(world: &mut World) {
    let keys = format!("service.user = 0\n{}", root(world, "persistent"));
    says(world, "echo new > /x; echo more >> /data/roots", &keys);
    assert_eq!(says(world, "cat /x /data/roots", &keys), "new\nold\nmore\n");
    let upper = world.dir().join("state/rootfs/once/upper");
    assert_eq!(
        (names(&upper), names(&upper.join("data"))),
        (vec!["data".into(), "x".into()], vec!["roots".into()])
    );
    let below = world.dir().join("root");
    assert!(!below.join("x").exists());
    assert_eq!(fs::read_to_string(below.join("data/roots")).expect("it is there"), "old\n");
    // Whatever modes the service chooses there, nobody else on the host gets that far.
    let layers = fs::metadata(world.dir().join("state/rootfs/once")).expect("it is there");
    assert_eq!((layers.uid(), layers.mode() & 0o7777), (0, 0o700));
    assert!(fs::metadata(upper.join("x")).expect("it is there").uid() >= 65536, "nobody of the host's");
}

pub fn what_is_removed_from_a_persistent_root_stays_removed(world: &mut World) {
    let keys = format!("service.user = 0\n{}", root(world, "persistent"));
    says(world, "rm /data/roots; mv /data/theirs /data/ours; mkdir /data/dir", &keys);
    assert_eq!(says(world, "ls /data", &keys), "dir\nours\n");
    assert_eq!(names(&world.dir().join("root/data")), ["roots", "theirs"]);
}

pub fn a_directory_roots_files_belong_to_their_owners_inside(world: &mut World) {
    for writable in ["no", "ephemeral", "persistent"] {
        let keys = format!("service.user = 77\n{}", root(world, writable));
        let said = says(
            world,
            "stat -c %u /data/roots /data/theirs; echo x 2>/dev/null >/data/roots || echo no",
            &keys,
        );
        assert_eq!(said, "0\n77\nno\n", "{writable}");
        let said = says(world, "echo x 2>/dev/null >/data/theirs && echo yes || echo no", &keys);
        assert_eq!(said, if writable == "no" { "no\n" } else { "yes\n" }, "{writable}");
        assert_eq!(fs::read_to_string(world.dir().join("root/data/theirs")).expect("there"), "old\n");
        fs::remove_dir_all(world.dir().join("root")).expect("our own directory");
    }
}

pub fn a_read_only_mount_shows_its_owners_and_takes_nothing(world: &mut World) {
    let data = world.dir().join("data");
    fs::create_dir(&data).expect("a new name");
    for (name, owner) in [("roots", 0), ("theirs", 77), ("nobodys", 1_000_000)] {
        fs::write(data.join(name), "old").expect("our own directory");
        chown(data.join(name), Some(owner), Some(owner)).expect("root may");
    }
    let mount = |idmap| {
        format!(
            "service.user = 77\nrootfs.mounts = [{{ src = \"{}\", dst = \"/data\", idmap = {idmap} }}]",
            data.display()
        )
    };
    let stat = "cd /data; stat -c %u nobodys roots theirs; for f in roots theirs new; do echo x 2>/dev/null >$f && echo wrote; done; true";
    assert_eq!(says(world, stat, &mount(true)), "65534\n0\n77\n");
    assert_eq!(says(world, stat, &mount(false)), "65534\n65534\n65534\n", "the host's are nobody inside");
    let options = says(world, "grep ' /data ' /proc/self/mounts | cut -d' ' -f4", &mount(true));
    assert!(options.starts_with("ro,nosuid,nodev,noexec,"), "{options}");
}

pub fn what_is_made_belongs_to_root_inside(world: &mut World) {
    let stat = "stat -c %u / /etc /etc/passwd /var /root /run /dev/pts | sort -u";
    assert_eq!(says(world, stat, ""), "0\n");
    let keys = "service.user = 0\nrootfs.writable = \"ephemeral\"";
    assert_eq!(says(world, "mkdir -p /var/lib/x && echo y > /etc/z && cat /etc/z", keys), "y\n");
    assert_eq!(says(world, "mkdir /var/x 2>/dev/null || echo no", "service.user = 0"), "no\n");
    // Mount points that a tree does not have are made in what becomes of writes, never in the tree.
    let keys = root(world, "persistent");
    fs::remove_dir(world.dir().join("root/run")).expect("it is empty");
    assert_eq!(says(world, "stat -c %u /run", &keys), "0\n");
    assert_eq!(names(&world.dir().join("state/rootfs/once/upper")), ["run"]);
    assert!(!world.dir().join("root/run").exists());
}

pub fn a_missing_source_is_passed_over_or_named(world: &mut World) {
    let mount = |optional| {
        format!("rootfs.mounts = [{{ src = \"/no/such/place\", dst = \"/data\", optional = {optional} }}]")
    };
    assert_eq!(says(world, "ls -d /data 2>&1 >/dev/null | wc -l", &mount(true)), "1\n");
    let output = shell(world, "true", &mount(false));
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains(" root.bind: ") && said.contains("/no/such/place") && said.contains("ENOENT"),
        "{said}"
    );
}

pub fn a_link_as_source_is_refused(world: &mut World) {
    symlink("/etc", world.dir().join("link")).expect("a new name");
    let keys = format!("rootfs.mounts = [{{ src = \"{}/link\", dst = \"/data\" }}]", world.dir().display());
    let output = shell(world, "true", &keys);
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ELOOP"), "{}", describe(&output));
}

pub fn what_is_hidden_is_empty(world: &mut World) {
    let keys = format!(
        "service.user = 0\nrootfs.hide = [\"/usr/share\", \"/data/roots\"]\n{}",
        root(world, "ephemeral")
    );
    let said = says(
        world,
        "ls -A /usr/share 2>&1 | grep -v denied | wc -l; cat /data/roots; cat /data/theirs; echo x > /usr/share/y || echo no",
        &keys,
    );
    assert_eq!(said, "0\nold\nno\n");
    let output = shell(world, "umount /usr/share || umount -l /data/roots || exit 3", &keys);
    assert_eq!(output.status.code(), Some(3), "{}", describe(&output));
    let output = shell(world, "true", &keys.replace("/usr/share", "/usr/no-such-thing"));
    assert_eq!(output.status.code(), Some(125), "what cannot be hidden is named: {}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains(" root.hide: "), "{}", describe(&output));
}

pub fn a_part_of_a_writable_root_is_read_only(world: &mut World) {
    let keys = format!("service.user = 0\nrootfs.read_only = [\"/data\"]\n{}", root(world, "ephemeral"));
    let said = says(
        world,
        "echo x > /x && echo wrote; echo x > /data/roots || echo no; mkdir /data/d || echo no",
        &keys,
    );
    assert_eq!(said, "wrote\nno\nno\n");
}

pub fn a_memory_file_system_has_its_size_and_mode(world: &mut World) {
    let keys = "service.user = 77\nrootfs.tmpfs = [{ dst = \"/scratch\", size = \"1M\", mode = \"1777\" }, { dst = \"/tmp\", size = \"2M\", exec = true }]";
    let script = "stat -c '%a %u' /scratch /tmp /run /dev/shm; head -c 2000000 /dev/zero > /scratch/x || echo full; \
                  cp /bin/true /tmp/t && /tmp/t && echo ran; rm /scratch/x; cp /bin/true /scratch/t && /scratch/t || echo refused";
    assert_eq!(says(world, script, keys), "1777 0\n1777 0\n755 0\n1777 0\nfull\nran\nrefused\n");
}

pub fn devices_are_had_by_name(world: &mut World) {
    // A node of the machine that a minimal /dev does not have.
    let script = "ls /dev; test -c /dev/kmsg && echo there; echo x > /dev/null && head -c 1 /dev/zero | wc -c; \
                  cat /dev/full | head -c 1 | wc -c; test -r /dev/loop-control || echo not this one; touch /dev/x 2>/dev/null || echo sealed";
    let said = says(world, script, "service.user = 0\nrootfs.dev = [\"/dev/kmsg\"]");
    assert!(said.ends_with("there\n1\n1\nnot this one\nsealed\n"), "{said}");
    for name in ["kmsg", "null", "pts", "shm", "urandom", "fd", "ptmx"] {
        assert!(said.lines().any(|line| line == name), "{name}: {said}");
    }
    let output = shell(world, "true", "rootfs.dev = [\"/dev/shm\"]");
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(" root.dev: ") && said.contains("/dev/shm") && said.contains("ENOTBLK"), "{said}");
}

pub fn the_hosts_devices_are_had_by_a_word(world: &mut World) {
    // /dev/shm inside is the service's own all the same.
    let ours: Vec<_> = fs::read_dir("/dev").expect("there is one").flatten().map(|e| e.file_name()).collect();
    let said = says(
        world,
        "ls /dev; echo x > /dev/null; touch /dev/shm/x && ls -A /dev/shm",
        "rootfs.dev = \"host\"",
    );
    // It is the machine's: what is not there any more need not have been.
    for name in ours.into_iter().filter(|name| Path::new("/dev").join(name).exists()) {
        assert!(said.lines().any(|line| *line == *name.to_string_lossy()), "{name:?}: {said}");
    }
    assert!(said.ends_with("\nx\n"), "{said}");
}

pub fn proc_and_sys_none_leave_nothing(world: &mut World) {
    let keys = format!("rootfs.proc = \"none\"\nrootfs.sys = \"none\"\n{}", root(world, "no"));
    assert_eq!(says(world, "ls -A /proc /sys", &keys), "/proc:\n\n/sys:\n");
}

pub fn who_may_go_out_knows_whom_to_ask(world: &mut World) {
    let host = world.write("resolv.conf", "nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch a.test\n");
    let none: Option<&str> = None;
    let target = fs::canonicalize("/etc/resolv.conf").expect("the machine has one");
    nix::mount::mount(Some(&host), &target, none, nix::mount::MsFlags::MS_BIND, none)
        .expect("a mount of ours");
    let cat = |keys: &str| {
        let output = world.run(&format!("service.command = [\"cat\", \"/etc/resolv.conf\"]\n{keys}\n"));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let asks = (Some(0), "nameserver 192.0.2.53\nsearch a.test\n".to_owned());
    let base = cat("network.egress = \"any\"");
    let nobody = cat("");
    let keys = root(world, "no");
    for (name, text) in [("resolv.conf", "nameserver 10.9.8.7\n"), ("hosts", ""), ("hostname", "elsewhere\n")]
    {
        fs::write(world.dir().join("root/etc").join(name), text).expect("our own directory");
    }
    let over = cat(&format!("network.egress = \"any\"\n{keys}"));
    nix::mount::umount(&target).expect("mounted above");
    assert_eq!(base, asks);
    assert_eq!(nobody, (Some(1), String::new()), "nobody to ask, no file");
    assert_eq!(over, asks, "laid over the root's own");
    assert_eq!(says(world, "cat /etc/hostname; grep -c once /etc/hosts", &keys), "once\n1\n");
}
