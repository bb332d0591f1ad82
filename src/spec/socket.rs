//! `[[socket]]`: where Palisade listens for a service.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The most sockets of one service.
pub const MOST_SOCKETS: usize = 16;
/// The most descriptors that are kept for one service (`service.fd_store_max`).
pub const MOST_STORED: u32 = 128;
/// The most connections that are answered at a time (`socket.max_connections`).
pub const MOST_CONNECTIONS: u32 = 4096;

/// One held socket: listened to on the host, handed to every run of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Where.
    pub listen: Listen,
    /// What kind of socket.
    pub kind: SocketKind,
    /// What it is called in LISTEN_FDNAMES.
    pub name: String,
    /// How many connections may wait.
    pub backlog: i32,
    /// Mode of the file of a Unix socket.
    pub mode: u32,
    /// Whose the file is, on the host.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Where each connection is accepted and gets a run of its own: how many there may be at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<u32>,
}

impl Socket {
    /// Whether `other` is the same socket for the kernel: what else differs can be changed while it is held.
    pub fn is_at(&self, other: &Self) -> bool {
        self.listen == other.listen && self.kind == other.kind
    }

    /// Whether the two cannot both be had on one host.
    pub fn clashes_with(&self, other: &Self) -> bool {
        match (&self.listen, &other.listen) {
            (Listen::Unix(a), Listen::Unix(b)) => a == b,
            (Listen::Ip(a), Listen::Ip(b)) => {
                let (one, two) = (a.ip(), b.ip());
                let overlap = one == two
                    || (one.is_ipv4() == two.is_ipv4() && (one.is_unspecified() || two.is_unspecified()));
                a.port() == b.port() && overlap && self.kind == other.kind
            }
            (Listen::Unix(_), Listen::Ip(_)) | (Listen::Ip(_), Listen::Unix(_)) => false,
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.listen, self.kind) {
            (Listen::Ip(address), SocketKind::Dgram) => write!(f, "{address}/udp"),
            (Listen::Ip(address), SocketKind::Stream | SocketKind::Seqpacket) => write!(f, "{address}/tcp"),
            (Listen::Unix(path), kind) => write!(f, "{}/{}", path.display(), kind.name()),
        }
    }
}

/// `socket.listen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listen {
    /// An address of the host and a port.
    Ip(SocketAddr),
    /// A Unix socket at this path of the host.
    Unix(PathBuf),
}

/// Who has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// From this address.
    Ip(SocketAddr),
    /// Over a Unix socket, as this user of the host.
    User(u32),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => write!(f, "{}:{}", address.ip(), address.port()),
            Peer::User(uid) => write!(f, "uid:{uid}"),
        }
    }
}

/// `socket.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketKind {
    /// Connections: TCP, or a Unix stream.
    Stream,
    /// Datagrams: UDP, or Unix.
    Dgram,
    /// Connections that keep messages apart; Unix alone.
    Seqpacket,
}

impl SocketKind {
    /// The word of the service file.
    pub fn name(self) -> &'static str {
        match self {
            SocketKind::Stream => "stream",
            SocketKind::Dgram => "dgram",
            SocketKind::Seqpacket => "seqpacket",
        }
    }

    /// Whether somebody connects to it.
    pub fn is_connected(self) -> bool {
        match self {
            SocketKind::Stream | SocketKind::Seqpacket => true,
            SocketKind::Dgram => false,
        }
    }
}

/// `socket.activation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The service is started with the supervisor.
    #[default]
    Boot,
    /// It is started by the first connection.
    OnDemand,
}
