//! The control socket: how the outside talks to a supervisor.
//!
//! The protocol is [Varlink](https://varlink.org): JSON messages, each ended by a NUL byte, over a Unix stream socket.
//! [`proto`] and [`frame`] are pure and say what a message means; [`server`] is the supervisor's end, [`client`] the
//! caller's. [`scrape`] is another door, for those who speak HTTP and want metrics alone. Only the kernel's word counts for who is calling (unix(7), SO_PEERCRED).

pub mod client;
pub mod frame;
pub mod proto;
pub mod scrape;
pub mod server;
pub mod types;
mod wire;

/// Name of the socket in the supervisor's run-time directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Name of the one beside it that answers `GET /metrics`.
pub const METRICS_NAME: &str = "metrics.sock";
