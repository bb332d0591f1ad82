//! What a service should not know, and what its caller should not have handed down.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use nix::libc;

use crate::{
    battery::{Facts, Probe, Verdict, any, is_answered, is_out, opens, works},
    probes,
    raw::{at, call, number},
};

/// See [`crate::battery`].
pub const PROBES: &[Probe] = probes! {
    E Descriptors "descriptor-left-open" => |facts| {
        let more: Vec<_> = facts.descriptors.iter().filter(|(fd, to)| **fd > 2 && !to.ends_with("/fd")).collect();
        is_out(!more.is_empty(), format!("{more:?}"))
    };
    E Descriptors "descriptor-leads-out" => |facts| {
        // By any directory that is open, up and into the host.
        let below = format!("{}{}\0", "../".repeat(20), facts.get("canary").trim_start_matches('/'));
        let direct = format!("{}\0", facts.get("canary").trim_start_matches('/'));
        let try_fd = |fd: &usize| [&below, &direct].map(|path| call(libc::SYS_openat, &[*fd, at(path.as_str()), 0, 0]));
        let out = facts.descriptors.keys().find(|fd| try_fd(fd).iter().any(Result::is_ok));
        is_out(out.is_some(), format!("{out:?}"))
    };
    E Descriptors "working-directory-outside" => |facts| {
        let cwd = fs::read_link("/proc/self/cwd").map(|to| to.display().to_string()).unwrap_or_default();
        let seen = std::env::current_dir();
        is_out(!seen.is_ok_and(|dir| dir.starts_with("/")) || cwd == facts.get("cwd"), cwd)
    };
    E Descriptors "working-directory-leads-out" => |facts| {
        let path = format!("{}{}", "../".repeat(20), facts.get("canary").trim_start_matches('/'));
        reads(&path, facts)
    };
    E Loading "environment-of-the-caller" => |_| {
        let leaked: Vec<String> = std::env::vars().map(|(k, _)| k).filter(|k| k.starts_with("PALISADE_") || k.starts_with("LD_")).collect();
        is_out(!leaked.is_empty(), format!("{leaked:?}"))
    };
    E Readiness "sockets-of-the-callers-supervisor" => |_| {
        let names = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK"];
        let leaked: Vec<&str> = names.into_iter().filter(|name| std::env::var_os(name).is_some()).collect();
        is_out(!leaked.is_empty(), format!("{leaked:?}"))
    };
    E HostFiles "host-file-by-name" => |facts| reads(facts.get("canary"), facts);
    E HostFiles "host-file-by-proc-root" => |facts| any(["1", "self", "2"].map(|pid| reads(&format!("/proc/{pid}/root{}", facts.get("canary")), facts)));
    E HostFiles "host-file-by-proc-cwd" => |facts| {
        let up = "../".repeat(20);
        any(["1", "self"].map(|pid| reads(&format!("/proc/{pid}/cwd/{up}{}", facts.get("canary")), facts)))
    };
    E HostFiles "host-file-by-climbing" => |facts| reads(&format!("/{}{}", "../".repeat(20), facts.get("canary")), facts);
    L HostFiles "shadow" => |_| {
        let text = fs::read_to_string("/etc/shadow").unwrap_or_default();
        is_out(!text.is_empty(), format!("{} bytes", text.len()))
    };
    L HostFiles "people-of-the-host" => |facts| {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        is_out(users.lines().any(|line| line.split(':').next() == Some(facts.get("user"))), facts.get("user"))
    };
    L HostFiles "home-of-root" => |_| is_out(fs::read_dir("/root").is_ok_and(|mut all| all.next().is_some()), "/root");
    L HostFiles "boot" => |_| is_out(Path::new("/boot").is_dir(), "/boot");
    L HostFiles "logs-of-the-host" => |_| is_out(fs::read_dir("/var/log").is_ok_and(|mut all| all.next().is_some()), "/var/log");
    L HostFiles "configuration-of-the-host" => |_| any(["/etc/fstab", "/etc/apt", "/etc/cron.d", "/etc/systemd"].map(|path| is_out(Path::new(path).exists(), path)));
    E Configuration "service-file-is-written" => |facts| opens(facts.get("service"), libc::O_WRONLY | libc::O_APPEND);
    E Configuration "service-file-is-added" => |facts| {
        let path = Path::new(facts.get("service")).with_file_name("added.toml.part");
        works(fs::File::create(&path).and_then(|_| fs::remove_file(&path)))
    };
    E Configuration "settings-are-written" => |facts| opens(facts.get("settings"), libc::O_WRONLY | libc::O_APPEND);
    E Configuration "log-is-added" => |facts| {
        let path = Path::new(facts.get("logs")).join("added.log.part");
        works(fs::File::create(&path).and_then(|_| fs::remove_file(&path)))
    };
    E Output "a-terminal-is-spoken-to" => |_| {
        // The tests look whether it arrives as it was written where the output is read.
        let title = b"\x1b]0;palisade\x07\n";
        let _ = call(libc::SYS_write, &[1, at(title), title.len()]);
        Verdict::Held("the host knows".to_owned())
    };
    E FreshMounts "proc-of-the-host" => |facts| same_device("/proc", facts);
    E FreshMounts "dev-of-the-host" => |facts| same_device("/dev", facts);
    E FreshMounts "sys-of-the-host" => |facts| same_device("/sys", facts);
    E FreshMounts "dev-pts-of-the-host" => |facts| same_device("/dev/pts", facts);
    E FreshMounts "tmp-of-the-host" => |facts| is_out(Path::new("/tmp").join(facts.get("word")).exists(), "/tmp");
    E FreshMounts "run-of-the-host" => |facts| is_out(Path::new("/run").join(facts.get("word")).exists(), "/run");
    E FakeProc "proc-is-no-procfs" => |facts| {
        // PROC_SUPER_MAGIC, on an instance of its own.
        let kind = nix::sys::statfs::statfs("/proc").map(|s| s.filesystem_type().0);
        let own = fs::metadata("/proc").map(|m| m.dev().to_string() != facts.get("proc")).unwrap_or_default();
        is_out(kind != Ok(0x9fa0) || !own, format!("{kind:?}"))
    };
    L Pids "processes-of-the-host" => |facts| {
        let seen = pids().into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&facts.marker()))
        });
        is_out(seen.is_some(), format!("{seen:?}"))
    };
    E Pids "signal-to-a-process-of-the-host" => |facts| {
        let pid = facts.number("sleeper");
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_it = line.contains(&facts.marker());
        is_out(is_it && call(libc::SYS_kill, &[pid, 0]).is_ok(), pid)
    };
    L Knowledge "addresses-of-the-kernel" => |_| {
        let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let line = text.lines().find(|line| !line.starts_with("0000000000000000"));
        is_out(line.is_some(), format!("{line:?}"))
    };
    L Knowledge "memory-of-the-kernel" if Kcore => |_| opens("/proc/kcore", libc::O_RDONLY);
    L Knowledge "timers-of-the-kernel" => |_| has_text("/proc/timer_list");
    L Knowledge "keys" => |_| has_text("/proc/keys");
    L Knowledge "messages-of-the-kernel" => |_| {
        // SYSLOG_ACTION_SIZE_BUFFER needs the right that reading needs.
        let all = any([is_answered(call(libc::SYS_syslog, &[10, 0, 0]))]);
        any([all, opens("/dev/kmsg", libc::O_RDONLY | libc::O_NONBLOCK), opens("/proc/kmsg", libc::O_RDONLY | libc::O_NONBLOCK)])
    };
    L Knowledge "firmware" if Firmware => |_| {
        let all = fs::read_dir("/sys/firmware").map(|all| all.flatten().count()).unwrap_or_default();
        is_out(all > 0, format!("{all} entries"))
    };
    L Knowledge "modules" => |_| any(["/proc/modules", "/proc/vmallocinfo"].map(has_text));
    L Knowledge "slabs" if SlabInfo => |_| has_text("/proc/slabinfo");
    L Knowledge "interrupts" => |_| any(["/proc/interrupts", "/proc/sched_debug", "/proc/latency_stats"].map(has_text));
    L Knowledge "files-of-the-kernel-itself" => |_| any(["/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/sys/fs/pstore", "/sys/kernel/config"].map(|path| {
        let listed = fs::read_dir(path).is_ok_and(|mut all| all.next().is_some());
        is_out(listed || fs::read(path).is_ok_and(|bytes| !bytes.is_empty()), path)
    }));
    E Knobs "attributes-of-devices" => |_| {
        any(["/sys/class/net/lo/mtu", "/sys/kernel/mm/ksm/run", "/sys/power/state", "/sys/kernel/uevent_seqnum"].map(|path| opens(path, libc::O_WRONLY)))
    };
    L Knowledge "host-name" => |facts| {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        is_out(name == facts.get("hostname"), name)
    };
    L Knowledge "machine-id" => |facts| {
        let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        is_out(id.trim() == facts.get("machine"), id.trim())
    };
    L Knowledge "host-mounts" => |facts| contains("/proc/self/mountinfo", facts.get("mount"));
    L Knowledge "mounts-of-init" => |facts| contains("/proc/1/mountinfo", facts.get("mount"));
    L Knowledge "path-of-the-control-group" => |facts| {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        is_out(text.lines().any(|line| !line.ends_with(":/")) || text.contains(facts.get("group")), text.trim())
    };
    L Knowledge "links-of-the-host" => |facts| contains("/proc/net/dev", facts.get("link"));
    L Knowledge "sockets-of-the-host" => |facts| contains("/proc/net/unix", facts.get("word"));
    L Ipc "shared-memory" => |facts| is_out(call(libc::SYS_shmget, &[facts.number("ipc"), 0, 0]).is_ok(), "shmget");
    L Ipc "semaphore" => |facts| is_out(call(libc::SYS_semget, &[facts.number("ipc"), 0, 0]).is_ok(), "semget");
    L Ipc "message-queue" => |facts| is_out(call(libc::SYS_msgget, &[facts.number("ipc"), 0]).is_ok(), "msgget");
    L Ipc "posix-message-queue" => |facts| {
        let name = format!("{}\0", facts.get("word"));
        is_out(call(libc::SYS_mq_open, &[at(name.as_str()), number(libc::O_RDONLY), 0, 0]).is_ok(), "mq_open")
    };
    L Ipc "dev-shm" => |facts| is_out(Path::new("/dev/shm").join(facts.get("word")).exists(), "/dev/shm");
    L Ipc "list-of-shared-memory" => |facts| contains("/proc/sysvipc/shm", &facts.number("ipc").to_string());
};

/// The planted file, by one way or another.
fn reads(path: &str, facts: &Facts) -> Verdict {
    match fs::read_to_string(path) {
        Ok(text) => is_out(text.contains(facts.get("word")), path),
        Err(error) => Verdict::Held(format!("{path}: {error}")),
    }
}

/// The same instance of a file system as the host's.
fn same_device(path: &str, facts: &Facts) -> Verdict {
    let own = fs::metadata(path).map(|m| m.dev().to_string()).unwrap_or_default();
    let key = path.trim_start_matches('/').replace('/', "-");
    is_out(own == facts.get(&key), own)
}

fn has_text(path: &str) -> Verdict {
    match fs::read(path) {
        Ok(bytes) => is_out(!bytes.is_empty(), format!("{path}: {} bytes", bytes.len())),
        Err(error) => Verdict::Held(format!("{path}: {error}")),
    }
}

fn contains(path: &str, word: &str) -> Verdict {
    let text = fs::read_to_string(path).unwrap_or_default();
    is_out(text.contains(word), format!("{word} in {path}"))
}

/// The processes that can be seen.
pub fn pids() -> Vec<usize> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// One of the five sets of this process.
pub fn capability_set(name: &str) -> u64 {
    let text = status_field(name);
    u64::from_str_radix(&text, 16).unwrap_or_default()
}

/// A field of `/proc/self/status`.
pub fn status_field(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::trim));
    line.unwrap_or_default().to_owned()
}
