//! Ways out: files, knobs, devices, mounts, namespaces and the init.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nix::{errno::Errno, libc};

use crate::{
    battery::{Facts, Probe, Verdict, any, is_answered, is_out, opens, works},
    limit::mounts,
    probes,
    raw::{at, call, number},
};

/// See [`crate::battery`].
pub const PROBES: &[Probe] = probes! {
    E Executable "program-of-init-opens" => |_| opens("/proc/1/exe", libc::O_RDONLY);
    E Executable "program-of-init-is-written" => |_| match opens("/proc/1/exe", libc::O_WRONLY) {
        // Busy is not protected: it can be written as soon as nobody runs it.
        Verdict::Held(why) if why.contains("ETXTBSY") => Verdict::Escaped(why),
        other => other,
    };
    E Executable "own-program-is-written" => |_| {
        let writable = !nix::sys::statvfs::statvfs("/proc/self/exe")
            .is_ok_and(|s| s.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
        match opens("/proc/self/exe", libc::O_WRONLY) {
            Verdict::Held(why) if why.contains("ETXTBSY") => is_out(writable, why),
            other => other,
        }
    };
    E Executable "program-of-init-is-shown" => |_| works(fs::read_link("/proc/1/exe"));
    E Handles "open-by-handle" => |_| any(["/", "/usr", "/tmp", "/dev/shm", "/etc"].map(by_handle));
    E Knobs "core-pattern" => |_| rewrites("/proc/sys/kernel/core_pattern");
    E Knobs "core-pipe-limit" => |_| rewrites("/proc/sys/kernel/core_pipe_limit");
    E Knobs "modprobe" if Modprobe => |_| rewrites("/proc/sys/kernel/modprobe");
    E Knobs "sysrq" if SysRq => |_| rewrites("/proc/sys/kernel/sysrq");
    E Knobs "sysrq-trigger" if SysRq => |_| opens("/proc/sysrq-trigger", libc::O_WRONLY);
    E Knobs "uevent-helper" if UeventHelper => |_| opens("/sys/kernel/uevent_helper", libc::O_WRONLY);
    E Knobs "binfmt-misc" if BinfmtMisc => |_| opens("/proc/sys/fs/binfmt_misc/register", libc::O_WRONLY);
    E Knobs "panic" => |_| rewrites("/proc/sys/kernel/panic");
    E Knobs "overcommit" => |_| rewrites("/proc/sys/vm/overcommit_memory");
    E Knobs "pid-max" => |_| rewrites("/proc/sys/kernel/pid_max");
    E Knobs "host-name-by-sysctl" => |_| rewrites("/proc/sys/kernel/hostname");
    E Knobs "printk-by-sysctl" => |_| rewrites("/proc/sys/kernel/printk");
    E Knobs "network-by-sysctl" => |_| any(["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_unprivileged_port_start"].map(rewrites));
    E Knobs "shared-memory-by-sysctl" => |_| rewrites("/proc/sys/kernel/shmmax");
    E Knobs "user-namespaces-by-sysctl" if SysResource => |_| rewrites("/proc/sys/user/max_user_namespaces");
    E Knobs "irq-affinity" => |_| {
        let irqs = fs::read_dir("/proc/irq").into_iter().flatten().flatten();
        let all = irqs.map(|e| e.path().join("smp_affinity")).chain(["/proc/irq/default_smp_affinity".into()]);
        any(all.map(|path: std::path::PathBuf| opens(&path.display().to_string(), libc::O_WRONLY)))
    };
    E Knobs "drop-caches" => |_| opens("/proc/sys/vm/drop_caches", libc::O_WRONLY);
    E Knobs "set-host-name" => |_| {
        let name = rustix::system::uname();
        works(call(libc::SYS_sethostname, &[at(name.nodename()), name.nodename().to_bytes().len()]))
    };
    E Knobs "set-domain-name" => |_| works(call(libc::SYS_setdomainname, &[at(c"palisade"), 8]));
    E ControlGroups "release-agent" if CgroupV1 => |_| {
        let points = mounts().into_iter().map(|(point, _)| format!("{point}/release_agent"));
        any(points.map(|path| opens(&path, libc::O_WRONLY)))
    };
    E ControlGroups "hierarchy-of-version-1" if CgroupV1 => |_| {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        is_out(text.contains(" - cgroup "), "mountinfo")
    };
    E ControlGroups "group-is-made" => |facts| any(["/sys/fs/cgroup", facts.get("cgroup")].map(|root| {
        let path = Path::new(root).join("palisade-probe");
        works(fs::create_dir(&path).and_then(|()| fs::remove_dir(&path)))
    }));
    E ControlGroups "group-is-left" => |facts| any(["/sys/fs/cgroup", facts.get("cgroup")].map(|root| opens(&format!("{root}/cgroup.procs"), libc::O_WRONLY)));
    E ControlGroups "limits-are-written" => |facts| any(["/sys/fs/cgroup", facts.get("cgroup")].into_iter().flat_map(|root| {
        ["memory.max", "pids.max", "cpu.max", "cgroup.subtree_control", "cgroup.max.depth"].map(|file| opens(&format!("{root}/{file}"), libc::O_WRONLY))
    }));
    E Devices "node-of-memory" => |_| node(libc::S_IFCHR, 1, 1);
    E Devices "node-of-a-disk" => |_| node(libc::S_IFBLK, 7, 0);
    E Devices "memory-of-the-machine" if DevMem => |_| opens("/dev/mem", libc::O_RDONLY);
    E Devices "disk" if Disk => |_| match disk() {
        Some(path) => opens(&path, libc::O_RDONLY),
        None => Verdict::Held("no block device".to_owned()),
    };
    E Devices "loop-control" => |_| opens("/dev/loop-control", libc::O_RDWR);
    E Devices "fuse" => |_| opens("/dev/fuse", libc::O_RDWR);
    E Devices "kvm" if Kvm => |_| opens("/dev/kvm", libc::O_RDWR);
    E Devices "console" => |_| is_out(Path::new("/dev/console").exists(), "/dev/console");
    E Devices "more-nodes-than-needed" => |_| {
        let known = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];
        let nodes = fs::read_dir("/dev").into_iter().flatten().flatten().filter(|e| {
            e.file_type().is_ok_and(|t| t.is_char_device() || t.is_block_device())
        });
        let more: Vec<String> = nodes.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| !known.contains(&&**n)).collect();
        is_out(!more.is_empty(), format!("{more:?}"))
    };
    E Init "init-is-signalled" => |_| works(call(libc::SYS_kill, &[1, 0]));
    E Init "init-is-signalled-by-descriptor" => |_| works(call(libc::SYS_pidfd_open, &[1, 0]).and_then(|init| {
        call(libc::SYS_pidfd_send_signal, &[init, 0, 0, 0])
    }));
    E Init "memory-of-init" => |_| any(["mem", "maps", "pagemap", "auxv", "environ"].map(|file| {
        let flags = if file == "mem" { libc::O_RDWR } else { libc::O_RDONLY };
        opens(&format!("/proc/1/{file}"), flags)
    }));
    E Init "descriptors-of-init" => |_| works(fs::read_dir("/proc/1/fd").and_then(|all| {
        let first = all.flatten().find(|e| fs::File::open(e.path()).is_ok());
        first.ok_or(std::io::Error::from_raw_os_error(libc::ENOENT))
    }));
    E Init "root-of-init" => |_| any(["root", "cwd"].map(|name| works(fs::read_dir(format!("/proc/1/{name}/")))));
    E Init "stack-of-init" => |_| any(["stack", "syscall", "io", "personality"].map(|file| works(fs::read(format!("/proc/1/{file}")))));
    E Init "limits-of-init" => |_| {
        let mut both = [0u64; 2];
        works(call(libc::SYS_prlimit64, &[1, 7, 0, both.as_mut_ptr() as usize]))
    };
    E Init "niceness-of-init" => |_| {
        let nice = call(libc::SYS_getpriority, &[0, 1]).map(|n| 20 - i32::try_from(n).unwrap_or(20));
        works(nice.and_then(|nice| call(libc::SYS_setpriority, &[0, 1, number(nice)])))
    };
    E Init "affinity-of-init" => |_| {
        let mask = [u64::MAX; 16];
        works(call(libc::SYS_sched_setaffinity, &[1, 128, at(&mask)]))
    };
    E Init "scheduler-of-init" => |_| works(call(libc::SYS_sched_setscheduler, &[1, 0, at(&[0i32])]));
    E Init "oom-score-of-init" => |_| opens("/proc/1/oom_score_adj", libc::O_WRONLY);
    E Init "timers-of-init" => |_| works(fs::write("/proc/1/timerslack_ns", "50000"));
    E NamespaceHandles "namespaces-of-init" => |_| any(KINDS.map(|kind| opens(&format!("/proc/1/ns/{kind}"), libc::O_RDONLY)));
    E NamespaceHandles "host-namespace-is-ones-own" => |facts| {
        any(KINDS.map(|kind| {
            let own = fs::metadata(format!("/proc/self/ns/{kind}")).map(|m| m.ino().to_string()).unwrap_or_default();
            is_out(own == facts.get(&format!("ns-{kind}")), format!("{kind} {own}"))
        }))
    };
    E NamespaceHandles "owner-of-a-namespace" => |facts| any(KINDS.map(|kind| owner(kind, facts)));
    E NamespaceHandles "join-the-namespaces-of-init" => |_| any(KINDS.map(|kind| {
        let file = fs::File::open(format!("/proc/1/ns/{kind}")).map_err(|_| Errno::EACCES);
        works(file.and_then(|file| call(libc::SYS_setns, &[crate::raw::fd(&file), 0])))
    }));
    E NamespaceHandles "join-by-process" => |_| {
        works(call(libc::SYS_pidfd_open, &[1, 0]).and_then(|init| call(libc::SYS_setns, &[init, number(libc::CLONE_NEWNET | libc::CLONE_NEWUTS)])))
    };
    E NamespaceHandles "join-ones-own" => |_| {
        let file = fs::File::open("/proc/self/ns/uts").map_err(|_| Errno::EACCES);
        works(file.and_then(|file| call(libc::SYS_setns, &[crate::raw::fd(&file), 0])))
    };
    E Mounts "propagation" => |_| {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let peer = text.lines().find(|line| line.contains(" shared:") || line.contains(" master:") || line.contains(" propagate_from:"));
        is_out(peer.is_some(), format!("{peer:?}"))
    };
    E Mounts "nested-chroot" => |facts| nested_chroot(facts);
    E Orphans "a-process-that-stays-behind" => |facts| {
        // The tests look for it on the host when the service has been stopped.
        let word = facts.get("stays").to_owned();
        crate::raw::daemonise(move || {
            use std::os::unix::process::CommandExt;
            let _ = std::process::Command::new("/proc/self/exe").args(["__stay", &word]).exec();
        });
        Verdict::Held("the host knows".to_owned())
    };
};

/// Those that change what is mounted, and so come last.
pub const MOUNTING: &[Probe] = probes! {
    E Mounts "mount-tmpfs" => |_| works(mount(c"none", "/tmp", c"tmpfs", 0));
    E Mounts "mount-proc" => |_| works(mount(c"none", "/tmp", c"proc", 0));
    E Mounts "mount-sysfs" => |_| works(mount(c"none", "/tmp", c"sysfs", 0));
    E Mounts "mount-cgroup2" => |_| works(mount(c"none", "/tmp", c"cgroup2", 0));
    E Mounts "mount-bind" => |_| works(mount(c"/", "/tmp", c"none", libc::MS_BIND | libc::MS_REC));
    E Mounts "mount-overlay" => |_| is_answered(mount(c"none", "/tmp", c"overlay", 0).or_else(|errno| match errno {
        // Without its options it is refused after the right was found to be there.
        Errno::EINVAL => Ok(0),
        other => Err(other),
    }));
    E Mounts "propagation-is-changed" => |_| works(mount(c"none", "/", c"none", libc::MS_PRIVATE));
    E Mounts "context-of-a-file-system" => |_| works(call(libc::SYS_fsopen, &[at(c"tmpfs"), 0]));
    E Mounts "copy-of-a-tree" => |_| works(call(libc::SYS_open_tree, &[number(libc::AT_FDCWD), at(c"/"), 0x8_0001]));
    E Mounts "mount-is-moved" => |_| is_answered(call(libc::SYS_move_mount, &[usize::MAX, 0, usize::MAX, 0, 0xffff_0000]));
    E Mounts "attributes-of-a-mount" => |_| works(call(libc::SYS_mount_setattr, &[number(libc::AT_FDCWD), at(c"/tmp"), 0, at(&[0u64, 1, 0, 0]), 32]));
    E Mounts "root-is-remounted" => |_| {
        let options = mounts().into_iter().find(|(point, _)| point == "/").map(|(_, options)| options).unwrap_or_default();
        let rest = if options.contains("nodev") { libc::MS_NODEV | libc::MS_NOSUID } else { 0 };
        works(mount(c"none", "/", c"none", libc::MS_REMOUNT | libc::MS_BIND | rest))
    };
    E Mounts "pivot" => |_| match call(libc::SYS_pivot_root, &[at(c"/tmp"), at(c"/tmp")]) {
        Err(errno @ (Errno::EPERM | Errno::ENOSYS)) => Verdict::Held(errno.to_string()),
        other => Verdict::Escaped(format!("{other:?}")),
    };
    E Mounts "unmount" => |_| match call(libc::SYS_umount2, &[at(c"/usr"), 2]) {
        // No mount point is an answer.
        Err(Errno::EINVAL) | Ok(_) => Verdict::Escaped("umount2".to_owned()),
        Err(errno) => Verdict::Held(errno.to_string()),
    };
    E Masks "mask-is-made-writable" => |_| any(masks().into_iter().map(|point| {
        works(mount(c"none", &point, c"none", libc::MS_REMOUNT | libc::MS_BIND))
    }));
    E Masks "mask-is-covered" => |_| any(masks().into_iter().map(|point| works(mount(c"/dev/null", &point, c"none", libc::MS_BIND))));
    E Masks "mask-is-lifted" => |_| any(masks().into_iter().map(|point| {
        let path = format!("{point}\0");
        works(call(libc::SYS_umount2, &[at(path.as_str()), 2]))
    }));
};

const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The mounts over parts of /proc and /sys.
fn masks() -> Vec<String> {
    let over = |point: &String| point.starts_with("/proc/") || point.starts_with("/sys/firmware");
    mounts().into_iter().map(|(point, _)| point).filter(over).collect()
}

fn mount(source: &std::ffi::CStr, target: &str, kind: &std::ffi::CStr, flags: u64) -> crate::raw::Answer {
    let target = format!("{target}\0");
    let flags = usize::try_from(flags).unwrap_or_default();
    call(libc::SYS_mount, &[at(source), at(target.as_str()), at(kind), flags, 0])
}

/// Writes what is there already.
fn rewrites(path: &str) -> Verdict {
    let Ok(value) = fs::read(path) else {
        return opens(path, libc::O_WRONLY);
    };
    match works(
        fs::File::options()
            .write(true)
            .open(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &value)),
    ) {
        Verdict::Escaped(_) => Verdict::Escaped(format!("{path} is written")),
        Verdict::Held(why) => Verdict::Held(format!("{path}: {why}")),
    }
}

/// Makes a node and removes it again.
fn node(kind: u32, major: usize, minor: usize) -> Verdict {
    any(["/tmp", "/dev/shm", "/run", "/dev"].map(|dir| {
        let path = format!("{dir}/palisade-node\0");
        let made = call(
            libc::SYS_mknodat,
            &[number(libc::AT_FDCWD), at(path.as_str()), (kind | 0o600) as usize, major << 8 | minor],
        );
        let path = path.trim_end_matches('\0');
        let opened = made.is_ok() && fs::File::open(path).is_ok();
        let _ = fs::remove_file(path);
        is_out(made.is_ok(), format!("{dir}: {made:?}, opens {opened}"))
    }))
}

/// The first block device that is a disk, whether it opens or not.
pub fn disk() -> Option<String> {
    let paths = ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/xvda", "/dev/loop0"];
    paths
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device()))
        .map(str::to_owned)
}

/// Opens a directory by its handle alone.
fn by_handle(path: &str) -> Verdict {
    let name = format!("{path}\0");
    let mut handle = [0u8; 136];
    handle[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut mount = [0i32; 1];
    let args = [
        number(libc::AT_FDCWD),
        at(name.as_str()),
        handle.as_mut_ptr() as usize,
        mount.as_mut_ptr() as usize,
        0,
    ];
    let Ok(dir) = fs::File::open(path) else { return Verdict::Held(format!("{path} does not open")) };
    // Where the handle cannot be had, one is made up, as the shocker did: the root of most file systems is inode 2.
    if call(libc::SYS_name_to_handle_at, &args).is_err() {
        handle[..8].copy_from_slice(&[8, 0, 0, 0, 1, 0, 0, 0]);
        handle[8..16].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    }
    works(call(libc::SYS_open_by_handle_at, &[crate::raw::fd(&dir), handle.as_ptr() as usize, 0]))
}

/// The inode of what an ioctl on a namespace yields.
fn by_ioctl(kind: &str, request: usize) -> Option<u64> {
    let file = fs::File::open(format!("/proc/self/ns/{kind}")).ok()?;
    let other = call(libc::SYS_ioctl, &[crate::raw::fd(&file), request, 0]).ok()?;
    fs::metadata(format!("/proc/self/fd/{other}")).ok().map(|m| m.ino())
}

/// Whose the namespace is, and which one it was made in.
fn owner(kind: &str, facts: &Facts) -> Verdict {
    // NS_GET_USERNS and NS_GET_PARENT.
    any([0xb701, 0xb702].map(|request| match by_ioctl(kind, request) {
        Some(owner) => is_out(
            [facts.get("ns-user"), facts.get("ns-pid")].contains(&&*owner.to_string()),
            format!("{kind} {owner}"),
        ),
        None => Verdict::Held(format!("{kind} does not say")),
    }))
}

/// The classic: a directory that is open before the root is changed lies outside the new one.
fn nested_chroot(facts: &Facts) -> Verdict {
    let dir = "/tmp/palisade-chroot";
    let _ = fs::create_dir(dir);
    let changed = call(libc::SYS_chroot, &[at(c"/tmp/palisade-chroot")]);
    for _ in 0..40 {
        let _ = call(libc::SYS_chdir, &[at(c"..")]);
    }
    let read = fs::read_to_string(facts.get("canary").trim_start_matches('/'));
    let out = changed.is_ok() && read.is_ok_and(|text| text.contains(facts.get("word")));
    // Out of the way again, from wherever this is now.
    let _ = fs::remove_dir(dir).or_else(|_| fs::remove_dir("tmp/palisade-chroot"));
    is_out(out, format!("{changed:?}"))
}
