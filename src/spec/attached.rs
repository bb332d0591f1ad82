//! A link of the service's own on one of the host's: `network.mode = "macvlan"` and `"ipvlan"`.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A link in a network that the host is in. What passes over it does not pass the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// How it shares the host's link.
    pub kind: AttachedKind,
    /// The host's link.
    pub parent: String,
    /// The service's address, and how much of that network is next to it.
    pub address: Ipv4Net,
    /// Who leads to everywhere else; none: nobody.
    pub gateway: Option<Ipv4Addr>,
}

/// How a link shares another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedKind {
    /// With a hardware address of its own.
    Macvlan,
    /// With the same hardware address.
    Ipvlan,
}

impl AttachedKind {
    /// The kernel's name, and that of the mode.
    pub fn name(self) -> &'static str {
        match self {
            AttachedKind::Macvlan => "macvlan",
            AttachedKind::Ipvlan => "ipvlan",
        }
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.parent)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}
