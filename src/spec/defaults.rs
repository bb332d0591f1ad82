//! What a key means that the file leaves out: the one table of defaults.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    Kind, NetworkMode, OnFail, Overlap, Reload, SocketKind, Stdin, StopMode, Writable,
    limits::{Oom, Rlimit},
};
use crate::{
    machine::{RestartMode, RestartOn},
    seccomp::{Denial, groups},
};

/// `unit.enabled`.
pub const ENABLED: bool = true;

/// `service.type`.
pub const KIND: Kind = Kind::Exec;
/// `service.ready = "fd"`: the first descriptor behind the standard ones.
pub const READY_FD: i32 = 3;
/// `service.reload` of `type = "notify-reload"`: SIGHUP.
pub const NOTIFY_RELOAD: Reload = Reload::Signal(libc::SIGHUP);
/// Paths of `service.reload.watch`.
pub const MOST_WATCHED: usize = 64;
/// Labels of `metrics.labels`.
pub const MOST_LABELS: usize = 16;
/// Bytes of the name, and of the value, of each.
pub const MOST_LABEL_BYTES: usize = 200;
/// `service.working_dir`, and HOME where the user has none.
pub const WORKING_DIR: &str = "/";
/// `service.umask`.
pub const UMASK: u32 = 0o077;
/// `service.stdin`.
pub const STDIN: Stdin = Stdin::Null;
/// `service.stop.signal`: SIGTERM.
pub const STOP_SIGNAL: i32 = libc::SIGTERM;
/// `service.stop.timeout`.
pub const STOP_TIMEOUT: Option<Duration> = Some(Duration::from_secs(15));
/// `service.stop.mode`.
pub const STOP_MODE: StopMode = StopMode::Mixed;
/// `service.timeout.start`.
pub const START_TIMEOUT: Option<Duration> = Some(Duration::from_secs(90));
/// `service.timeout.run`.
pub const RUN_TIMEOUT: Option<Duration> = None;
/// The environment that every service begins with.
pub const ENV: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", WORKING_DIR),
    ("LANG", "C.UTF-8"),
];

/// `restart.policy`.
pub const RESTART_ON: RestartOn = RestartOn::OnFailure;
/// `restart.delay`.
pub const RESTART_DELAY: Duration = Duration::from_millis(200);
/// `restart.factor`.
pub const RESTART_FACTOR: f64 = 2.0;
/// `restart.max_delay`.
pub const RESTART_MAX_DELAY: Duration = Duration::from_secs(60);
/// `restart.jitter`.
pub const RESTART_JITTER: f64 = 0.2;
/// `restart.reset_after`.
pub const RESTART_RESET_AFTER: Duration = Duration::from_secs(60);
/// `restart.mode`.
pub const RESTART_MODE: RestartMode = RestartMode::Fresh;

/// `socket.type`.
pub const SOCKET_KIND: SocketKind = SocketKind::Stream;
/// `socket.backlog`: what the kernel's `net.core.somaxconn` is by default.
pub const SOCKET_BACKLOG: i32 = 4096;
/// `socket.mode`.
pub const SOCKET_MODE: u32 = 0o660;
/// `socket.max_connections`, where connections are accepted.
pub const MAX_CONNECTIONS: u32 = 64;
/// `socket.name`, where connections are accepted: as systemd.socket(5) has it.
pub const CONNECTION_NAME: &str = "connection";

/// `rootfs.writable`.
pub const WRITABLE: Writable = Writable::No;
/// `rootfs.tmpfs`: destination, bytes, mode; none may be executed from.
pub const TMPFS: &[(&str, u64, u32)] =
    &[("/tmp", 64 << 20, 0o1777), ("/run", 16 << 20, 0o755), ("/dev/shm", 64 << 20, 0o1777)];
/// `rootfs.tmpfs.size` of another destination.
pub const TMPFS_SIZE: u64 = 64 << 20;
/// `rootfs.tmpfs.mode` of another destination.
pub const TMPFS_MODE: u32 = 0o755;

/// `network.mode`.
pub const NETWORK_MODE: NetworkMode = NetworkMode::Veth;
/// The address of `network.publish`.
pub const PUBLISH_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `security.no_new_privs`.
pub const NO_NEW_PRIVS: bool = true;
/// `security.seccomp`, what is allowed.
pub const SECCOMP: &str = groups::DEFAULT;
/// `security.seccomp.action`.
pub const SECCOMP_ACTION: Denial = Denial::Eperm;
/// `security.native_abi_only`.
pub const NATIVE_ABI_ONLY: bool = true;
/// `security.lock_personality`.
pub const LOCK_PERSONALITY: bool = true;
/// `security.no_realtime`.
pub const NO_REALTIME: bool = true;
/// `security.no_suid`.
pub const NO_SUID: bool = true;
/// `security.no_namespaces`.
pub const NO_NAMESPACES: bool = true;
/// `security.no_wx`: compilers at run time are too common.
pub const NO_WX: bool = false;

/// `security.credentials.mode`.
pub const CREDENTIAL_MODE: u32 = 0o400;
/// `limits.memory.max`, percent of the host's memory: one service that takes all that it can get leaves the host room to act.
pub const MEMORY_MAX: u64 = 75;
/// `limits.memory.high`, percent of `limits.memory.max`.
pub const MEMORY_HIGH: u64 = 90;
/// `limits.pids.max`.
pub const PIDS_MAX: u64 = 512;
/// `limits.oom`.
pub const OOM: Oom = Oom::KillGroup;
/// `limits.rlimits`: soft and hard; none is no bound. What is not here is the host's.
pub const RLIMITS: &[(Rlimit, Option<u64>, Option<u64>)] = &[
    (Rlimit::As, None, None),
    // core(5): a limit of 0 does not keep a handler in kernel.core_pattern from being started, a limit of 1 does.
    (Rlimit::Core, Some(1), Some(1)),
    (Rlimit::Cpu, None, None),
    (Rlimit::Data, None, None),
    (Rlimit::Fsize, None, None),
    (Rlimit::Locks, None, None),
    (Rlimit::Memlock, Some(8 << 20), Some(8 << 20)),
    (Rlimit::Msgqueue, Some(819_200), Some(819_200)),
    (Rlimit::Nice, Some(0), Some(0)),
    (Rlimit::Nofile, Some(1024), Some(65_536)),
    (Rlimit::Rss, None, None),
    (Rlimit::Rtprio, Some(0), Some(0)),
    (Rlimit::Rttime, None, None),
    // Signals with a value wait in memory of the kernel; its own number grows with the memory of the host.
    (Rlimit::Sigpending, Some(4096), Some(4096)),
    (Rlimit::Stack, Some(8 << 20), None),
];

/// `health.interval`, as Docker's.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// `health.timeout`.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// `health.retries`, as Docker's.
pub const HEALTH_RETRIES: u32 = 3;
/// `health.start_period`: the first check comes at once, when many a program has yet to listen.
pub const HEALTH_START_PERIOD: Duration = Duration::from_secs(30);
/// `health.start_interval`.
pub const HEALTH_START_INTERVAL: Duration = Duration::from_secs(1);
/// `health.on_fail`.
pub const HEALTH_ON_FAIL: OnFail = OnFail::Restart;

/// `log.max_size`, bytes.
pub const LOG_MAX_SIZE: u64 = 10 << 20;
/// `log.files`.
pub const LOG_FILES: u32 = 5;
/// `log.compress`: as journald, and most of the logrotate files of distributions, have it.
pub const LOG_COMPRESS: bool = true;
/// `log.max_age`.
pub const LOG_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

/// `timer.jitter`.
pub const TIMER_JITTER: Duration = Duration::ZERO;
/// `timer.persistent`.
pub const TIMER_PERSISTENT: bool = false;
/// `timer.overlap`.
pub const TIMER_OVERLAP: Overlap = Overlap::Skip;
