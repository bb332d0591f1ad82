//! Ids and rights, the state that a process inherits, and what it can use up.

use std::{fs, path::Path};

use nix::{errno::Errno, libc};

use crate::{
    battery::{Probe, Verdict, any, is_out, works},
    leak::{capability_set, status_field},
    probes,
    raw::{self, at, call, number},
};

/// See [`crate::battery`].
pub const PROBES: &[Probe] = probes! {
    E Capabilities "inheritable-set" => |_| capabilities("CapInh");
    E Capabilities "permitted-set" => |_| capabilities("CapPrm");
    E Capabilities "effective-set" => |_| capabilities("CapEff");
    E Capabilities "bounding-set" => |_| capabilities("CapBnd");
    E Capabilities "ambient-set" => |_| capabilities("CapAmb");
    E Capabilities "raise-a-capability" => |_| {
        // Version 3 of the header, for this process; everything permitted that there is.
        let (header, data) = ([0x2008_0522u32, 0], [u32::MAX, u32::MAX, u32::MAX, 0x1ff, 0x1ff, 0x1ff]);
        let own = capability_set("CapEff");
        let all = call(libc::SYS_capset, &[at(&header), at(&data)]);
        is_out(all.is_ok() || own != 0 && capability_set("CapEff") != 0, format!("{all:?}"))
    };
    E Privileged "no-new-privs" => |_| is_out(status_field("NoNewPrivs") != "1", status_field("NoNewPrivs"));
    E SilentSteps "system-call-filter" => |_| is_out(status_field("Seccomp") != "2", status_field("Seccomp"));
    E Groups "groups-of-the-caller" => |_| {
        let own = status_field("Gid");
        let own = own.split_whitespace().next().unwrap_or_default().to_owned();
        let more: Vec<String> = status_field("Groups").split_whitespace().filter(|g| *g != own).map(str::to_owned).collect();
        is_out(!more.is_empty(), format!("{more:?}"))
    };
    E Groups "another-list-of-groups" => |_| works(call(libc::SYS_setgroups, &[1, at(&[1234u32])]));
    E Groups "no-groups-at-all" => |_| works(call(libc::SYS_setgroups, &[0, 0]));
    E Ids "an-id-of-the-host" => |_| {
        let uid = status_field("Uid").split_whitespace().next().and_then(|id| id.parse().ok()).unwrap_or_default();
        let gid = status_field("Gid").split_whitespace().next().and_then(|id| id.parse().ok()).unwrap_or_default();
        let (uid, gid) = (outside("uid_map", uid), outside("gid_map", gid));
        is_out([uid, gid].iter().any(|id| id.is_none_or(|id| id < 65536)), format!("{uid:?} {gid:?}"))
    };
    E HostRoot "root-of-the-host-is-mapped" => |_| {
        any(["uid_map", "gid_map"].map(|map| is_out(maps(map).iter().any(|(_, host, _)| *host < 65536), map)))
    };
    E Ids "become-another-user" => |_| {
        any([0usize, 1, 65534, 65535, 100_000].map(|id| {
            let own = nix::unistd::getuid().as_raw() as usize;
            let change = call(libc::SYS_setresuid, &[id, id, id]);
            // One's own id may always be taken again.
            is_out(change.is_ok() && (id != own || own == 0 && outside("uid_map", 0) == Some(0)), format!("{id}: {change:?}"))
        }))
    };
    E Ids "become-another-group" => |_| {
        let own = nix::unistd::getgid().as_raw() as usize;
        let ids = [0usize, 5, 42, 65535].into_iter().filter(|id| *id != own);
        any(ids.map(|id| works(call(libc::SYS_setresgid, &[id, id, id]))))
    };
    E Ids "an-id-that-is-none" => |_| {
        // The overflow id: whoever is it owns what is not mapped.
        let uid = nix::unistd::getuid().as_raw();
        is_out(uid == 65534 || uid == u32::MAX || outside("uid_map", u64::from(uid)) == Some(0), uid)
    };
    E SetIdFiles "file-with-set-id-bits" => |_| {
        any(["/tmp", "/run", "/dev/shm", "/var/tmp", "/"].map(|dir| {
            let path = Path::new(dir).join("palisade-set-id");
            let Ok(file) = fs::File::create(&path) else { return Verdict::Held(format!("{dir} takes nothing")) };
            let changed = call(libc::SYS_fchmod, &[raw::fd(&file), 0o4755]);
            let kept = fs::metadata(&path).is_ok_and(|m| std::os::unix::fs::MetadataExt::mode(&m) & 0o4000 != 0);
            let nosuid = nix::sys::statvfs::statvfs(dir).is_ok_and(|s| s.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
            let _ = fs::remove_file(&path);
            is_out(kept && !nosuid, format!("{dir}: {changed:?}, nosuid {nosuid}"))
        }))
    };
    S SetIdFiles "set-id-bits-at-all" => |_| {
        let path = ["/tmp", "/dev/shm"].map(|dir| Path::new(dir).join("palisade-set-id-bits"));
        any(path.map(|path| {
            let Ok(file) = fs::File::create(&path) else { return Verdict::Held("nowhere to write".to_owned()) };
            let changed = call(libc::SYS_fchmod, &[raw::fd(&file), 0o2755]);
            let _ = fs::remove_file(&path);
            works(changed)
        }))
    };
    E Persisted "a-mount-that-knows-set-id-programs" => |_| {
        let bad: Vec<String> = mounts().into_iter().filter(|(_, o)| !o.split(',').any(|o| o == "nosuid")).map(|(p, _)| p).collect();
        is_out(!bad.is_empty(), format!("{bad:?}"))
    };
    E Persisted "a-mount-that-knows-devices" => |_| {
        // A node that was passed in is a mount of its own and has to work; devpts is made of nodes.
        let bad: Vec<String> = mounts().into_iter().filter(|(p, o)| !p.starts_with("/dev") && !o.split(',').any(|o| o == "nodev")).map(|(p, _)| p).collect();
        is_out(!bad.is_empty(), format!("{bad:?}"))
    };
    E Privileged "set-id-program-works" => |_| {
        let programs = ["/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp", "/usr/bin/chsh"];
        let found = programs.into_iter().find(|path| {
            let set = fs::metadata(path).is_ok_and(|m| std::os::unix::fs::MetadataExt::mode(&m) & 0o4000 != 0);
            let flags = nix::sys::statvfs::statvfs(*path).map(|s| s.flags());
            set && flags.is_ok_and(|f| !f.contains(nix::sys::statvfs::FsFlags::ST_NOSUID))
        });
        is_out(found.is_some() && status_field("NoNewPrivs") != "1", format!("{found:?}"))
    };
    E Knobs "core-limit" => |_| {
        let limit = limit_of(4);
        is_out(limit.1 > 1, format!("{limit:?}"))
    };
    E Knobs "core-file" => |_| {
        let _ = std::env::set_current_dir("/dev/shm").or_else(|_| std::env::set_current_dir("/tmp"));
        let hard = limit_of(4).1;
        let _ = call(libc::SYS_prlimit64, &[0, 4, at(&[hard, hard]), 0]);
        let end = raw::in_child(crate::support::scaled(std::time::Duration::from_secs(8)), || {
            let _ = call(libc::SYS_rt_sigaction, &[number(libc::SIGABRT), at(&[0u64; 4]), 0, 8]);
            let _ = call(libc::SYS_kill, &[std::process::id() as usize, number(libc::SIGABRT)]);
            String::new()
        });
        for entry in fs::read_dir(".").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("core") {
                let _ = fs::remove_file(entry.path());
            }
        }
        is_out(matches!(end, raw::End::Signal(_, true)), "a core file")
    };
    R Inherited "umask-of-the-caller" => |_| {
        let mask = call(libc::SYS_umask, &[0o77]).unwrap_or_default();
        is_out(mask & 0o22 != 0o22, format!("{mask:o}"))
    };
    R Inherited "blocked-signals" => |_| is_out(mask("SigBlk") != 0, status_field("SigBlk"));
    // Bit 12 is SIGPIPE, which the probe's own run-time library ignores.
    R Inherited "ignored-signals" => |_| is_out(mask("SigIgn") & !(1 << 12) != 0, status_field("SigIgn"));
    R Inherited "niceness" => |_| {
        let nice = rustix::process::getpriority_process(None).unwrap_or(99);
        is_out(nice != 0, nice)
    };
    R Inherited "scheduler" => |_| {
        let policy = call(libc::SYS_sched_getscheduler, &[0]);
        is_out(policy != Ok(0), format!("{policy:?}"))
    };
    R Inherited "personality-of-the-caller" => |_| match call(libc::SYS_personality, &[0xffff_ffff]) {
        Ok(0) => Verdict::Held("0".to_owned()),
        Ok(flags) => Verdict::Escaped(format!("{flags:x}")),
        // A filter that denies the question: the kernel's own file says it, where one may read it.
        Err(errno) => {
            let flags = fs::read_to_string("/proc/self/personality").unwrap_or_default();
            is_out(!flags.is_empty() && flags.trim() != "00000000", format!("{errno} {}", flags.trim()))
        }
    };
    R Inherited "timer-slack" => |_| {
        let slack = call(libc::SYS_prctl, &[number(libc::PR_GET_TIMERSLACK), 0, 0, 0, 0]);
        is_out(slack != Ok(50_000), format!("{slack:?}"))
    };
    R Inherited "core-dump-filter" => |_| {
        let filter = fs::read_to_string("/proc/self/coredump_filter").unwrap_or_default();
        // 0x33 is the kernel's own; one that the kernel was booted with would be the same for everybody.
        is_out(filter.trim() == "000001ff" || filter.trim() == "0000007f", filter.trim())
    };
    R Inherited "stack-limit" => |_| {
        let limit = limit_of(3);
        is_out(limit.0 == 7 << 20, format!("{limit:?}"))
    };
    R Inherited "limit-of-pending-signals" => |_| {
        let limit = limit_of(11);
        is_out(limit.0 == 1717, format!("{limit:?}"))
    };
    R Inherited "oom-score" => |_| {
        let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        is_out(score.trim().parse::<i32>().is_ok_and(|n| n == 321 || n < 0), score.trim())
    };
    R Inherited "session-of-the-caller" => |_| {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let session = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(4)?.parse::<i64>().ok());
        // The terminal of the session; 0 is none.
        is_out(session.is_some_and(|tty| tty != 0), format!("{session:?}"))
    };
    R Inherited "secure-bits" => |_| {
        let bits = call(libc::SYS_prctl, &[number(libc::PR_GET_SECUREBITS), 0, 0, 0, 0]);
        is_out(bits.is_ok_and(|bits| bits != 0), format!("{bits:?}"))
    };
    R Inherited "standard-input-of-the-caller" => |facts| {
        let to = facts.descriptors.get(&0).cloned().unwrap_or_default();
        // A session's is a pipe to whoever asked for it.
        is_out(to != "/dev/null" && !to.starts_with("pipe:"), to)
    };
    R Exhaustion "processes" => |_| {
        let (made, error) = raw::fork_until(700);
        is_out(error.is_none(), format!("{made} and then {error:?}"))
    };
    R LostLimits "process-limit" => |_| {
        let limit = limit_of(6);
        let group = fs::read_to_string("/sys/fs/cgroup/pids.max").unwrap_or_default();
        let bound = group.trim().parse::<u64>().unwrap_or(u64::MAX).min(limit.1);
        is_out(bound > 4096, bound)
    };
    R Exhaustion "memory-without-bound" if MemoryController => |_| {
        let max = fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
        is_out(max.trim().parse::<u64>().is_err(), max.trim())
    };
    R Exhaustion "size-of-memory-file-systems" => |_| any(tmpfs().into_iter().map(|(path, size, _)| is_out(size > 1 << 30, format!("{path} {size}"))));
    R Exhaustion "inodes-of-memory-file-systems" => |_| any(tmpfs().into_iter().map(|(path, _, files)| is_out(files == 0 || files > 1 << 18, format!("{path} {files}"))));
    R Exhaustion "files-in-dev" => |_| {
        let made = fs::File::create("/dev/palisade-file").and_then(|_| fs::remove_file("/dev/palisade-file"));
        works(made)
    };
    R Exhaustion "files-in-the-root" => |_| any(["/", "/usr", "/etc", "/var"].map(|dir| {
        let path = Path::new(dir).join("palisade-file");
        works(fs::File::create(&path).and_then(|_| fs::remove_file(&path)))
    }));
    R Exhaustion "soft-limit-of-descriptors" => |_| is_out(limit_of(7).0 > 1024, limit_of(7).0);
    R Exhaustion "locked-memory" => |_| {
        let most = 256usize << 20;
        let locked = call(libc::SYS_mmap, &[0, most, 3, 0x2022, usize::MAX, 0]);
        works(locked)
    };
    R Exhaustion "real-time-class" => |_| works(call(libc::SYS_sched_setscheduler, &[0, number(libc::SCHED_RR), at(&[1i32])]));
    R Exhaustion "deadline-class" => |_| {
        let attributes: [u64; 6] = [48 | 6 << 32, 0, 0, 1_000_000, 10_000_000, 10_000_000];
        works(call(libc::SYS_sched_setattr, &[0, at(&attributes), 0]))
    };
    R Exhaustion "better-niceness" => |_| works(call(libc::SYS_setpriority, &[0, 0, number(-5)]));
    R Exhaustion "real-time-io" => |_| works(call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]));
    R Exhaustion "oom-score-lowered" if SysResource => |_| works(fs::write("/proc/self/oom_score_adj", "-900"));
    R Exhaustion "oom-score-below-zero" if SysResource => |_| works(fs::write("/proc/self/oom_score_adj", "-1"));
    R Exhaustion "hard-limit-raised" if SysResource => |_| {
        let (_, hard) = limit_of(7);
        works(call(libc::SYS_prlimit64, &[0, 7, at(&[hard, hard + 1]), 0]))
    };
};

fn capabilities(set: &str) -> Verdict {
    let bits = capability_set(set);
    is_out(bits != 0, format!("{bits:x}"))
}

fn mask(name: &str) -> u64 {
    // This field is of the same form.
    capability_set(name)
}

/// (inside, outside, count)
fn maps(map: &str) -> Vec<(u64, u64, u64)> {
    let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
    let numbers = |line: &str| {
        let mut all = line.split_whitespace().filter_map(|n| n.parse().ok());
        Some((all.next()?, all.next()?, all.next()?))
    };
    text.lines().filter_map(numbers).collect()
}

/// What an id is on the host.
fn outside(map: &str, id: u64) -> Option<u64> {
    let found = maps(map).into_iter().find(|(inside, _, count)| (*inside..inside + count).contains(&id));
    found.map(|(inside, host, _)| host + id - inside)
}

/// Soft and hard limit.
fn limit_of(resource: usize) -> (u64, u64) {
    let mut both = [0u64; 2];
    let read = call(libc::SYS_prlimit64, &[0, resource, 0, both.as_mut_ptr() as usize]);
    match read {
        Ok(_) => (both[0], both[1]),
        Err(Errno::EPERM) => (0, 0),
        Err(_) => (u64::MAX, u64::MAX),
    }
}

/// Mount points and options.
pub fn mounts() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let fields = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(fields).collect()
}

/// The memory file systems that take files: path, bytes, inodes.
fn tmpfs() -> Vec<(String, u64, u64)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let memory = text.lines().filter(|line| line.contains(" - tmpfs "));
    let points = memory.filter_map(|line| line.split(' ').nth(4).map(str::to_owned));
    let mut all = Vec::new();
    for point in points.filter(|point| fs::metadata(point).is_ok_and(|m| m.is_dir())) {
        if let Ok(s) = nix::sys::statvfs::statvfs(&*point)
            && !s.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY)
        {
            all.push((point, s.blocks() * s.fragment_size(), s.files()));
        }
    }
    all
}
