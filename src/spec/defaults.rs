//! What a key means that the file leaves out: the one table of defaults.

use std::{net::Ipv4Addr, time::Duration};

use super::{Kind, NetworkMode, Stdin, StopMode, Writable};
use crate::machine::{RestartMode, RestartOn};

/// `unit.enabled`.
pub const ENABLED: bool = true;

/// `service.type`.
pub const KIND: Kind = Kind::Exec;
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
pub const PUBLISH_ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// `security.no_new_privs`.
pub const NO_NEW_PRIVS: bool = true;

/// `security.credentials.mode`.
pub const CREDENTIAL_MODE: u32 = 0o400;

/// `log.max_size`, bytes.
pub const LOG_MAX_SIZE: u64 = 10 << 20;
/// `log.files`.
pub const LOG_FILES: u32 = 5;
