//! How a service is asked whether it is ready, and whether it is well.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// `service.ready`: what makes a service that has started ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// It says `READY=1` on its notify socket.
    Notify,
    /// It writes a line to this descriptor.
    Fd(i32),
    /// A connection to this address of its network namespace is taken.
    Tcp(SocketAddr),
    /// A request to it is answered with a status of 200 to 399.
    Http(HttpTarget),
    /// There is something at this path of the sandbox.
    File(PathBuf),
    /// A line of its output matches this regular expression.
    Log(String),
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ready::Notify => f.write_str("notify"),
            Ready::Fd(fd) => write!(f, "fd:{fd}"),
            Ready::Tcp(at) => write!(f, "tcp:{at}"),
            Ready::Http(target) => write!(f, "{target}"),
            Ready::File(path) => write!(f, "file:{}", path.display()),
            Ready::Log(pattern) => write!(f, "log:{pattern}"),
        }
    }
}

/// What the pattern of `log:` may take when it is compiled, in bytes: it is looked for in all that a service writes until it
/// is ready.
pub const PATTERN_SIZE: usize = 64 << 10;

/// Where a request goes, as seen from inside the service's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpTarget {
    /// Whom to connect to.
    pub at: SocketAddr,
    /// The `Host` of the request, with its port.
    pub host: String,
    /// Path and query, from the slash on.
    pub path: String,
}

impl HttpTarget {
    /// The request, which asks for one answer and the end of the connection.
    pub fn request(&self) -> Vec<u8> {
        let Self { host, path, .. } = self;
        let version = env!("CARGO_PKG_VERSION");
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: palisade/{version}\r\n");
        format!("{head}Accept: */*\r\nConnection: close\r\n\r\n").into_bytes()
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

/// `[health]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub test: Test,
    /// From the end of a check to the next one.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// How many failures in a row make a service unhealthy; at least 1.
    pub retries: u32,
    /// After it was ready: failures do not count until the first success.
    pub start_period: Duration,
    /// As `interval`, until the first success or the end of `start_period`.
    pub start_interval: Duration,
    /// What becomes of an unhealthy service.
    pub on_fail: OnFail,
}

/// `health.test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    /// A command inside the sandbox ends with status 0.
    Exec(Vec<String>),
    /// A connection to this address of its network namespace is taken.
    Tcp(SocketAddr),
    /// A request to it is answered with a status of 200 to 399.
    Http(HttpTarget),
    /// A connection to the stream socket at this path of the sandbox is taken.
    Unix(PathBuf),
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Exec(command) => f.write_str(&command.join(" ")),
            Test::Tcp(at) => write!(f, "tcp:{at}"),
            Test::Http(target) => write!(f, "{target}"),
            Test::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `health.on_fail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFail {
    /// It is stopped as on request and started again, whatever `restart.policy`.
    Restart,
    /// As `restart`, by SIGKILL at once.
    Kill,
    /// It is stopped, and has failed.
    Stop,
    /// It is only told.
    None,
}
