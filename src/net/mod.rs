//! The host side of a service's network: its namespace, its link, its addresses and the packet filter around it.
//!
//! A service's link is a routed point-to-point veth, so there is no segment that two services share: every packet
//! between a service and anything else passes the host's routing and the one nft table of [`nft`]. What is decided
//! (addresses, names, MACs) is the pure [`addr`]; the rest is thin code over the kernel's netlink families.
//!
//! | module | kernel object | socket |
//! |---|---|---|
//! | [`netns`] | network namespace | |
//! | [`link`] | veth, address, route, neighbour | `NETLINK_ROUTE` |
//! | [`bridge`] | bridge, port | `NETLINK_ROUTE` |
//! | [`attach`] | macvlan, ipvlan | `NETLINK_ROUTE` |
//! | [`clash`] | addresses and routes of others | `NETLINK_ROUTE` |
//! | [`shape`] | token bucket | `NETLINK_ROUTE` |
//! | [`nft`] | our table and its elements | `NETLINK_NETFILTER` |
//! | [`drops`] | packets that were refused | `NETLINK_NETFILTER` |
//! | [`others`] | tables of others that drop what services send | `NETLINK_NETFILTER` |
//! | [`watch`] | what others do to the packet filter | `NETLINK_NETFILTER` |
//! | [`conntrack`] | connections that outlive what they were translated for | `NETLINK_NETFILTER` |
//! | [`sockdiag`] | TCP sockets that nobody owns | `NETLINK_SOCK_DIAG` |
//! | [`dns`] | sockets that names are asked for on | UDP, TCP |
//! | [`probe`] | a connection that asks whether somebody listens | TCP |
//! | [`mod@reserve`] | a bound port of the host | |
//! | [`listen`] | a socket that listens for a service | |
//! | [`audit`] | system calls that were refused, from the audit log | |
//! | [`sysctl`] | `/proc/sys/net` | |
//! | [`forwarding`] | what of it is changed on the host | |
//!
//! Called by the supervisor and by `launch`; knows nothing of files, units' lives or clocks.

pub mod addr;
pub mod attach;
pub mod audit;
pub mod bridge;
pub mod clash;
pub mod conntrack;
pub mod dns;
pub mod drops;
pub mod forwarding;
pub mod link;
pub mod listen;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod others;
pub mod probe;
pub mod reserve;
pub mod shape;
pub mod sockdiag;
pub mod sysctl;
pub mod watch;

#[cfg(test)]
mod tests;

use crate::sys::SysError;

/// Why something of a service's network could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The kernel refused, with an error number alone.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The kernel refused a netlink message and said why (NETLINK_EXT_ACK).
    #[error("{cause}: {text}")]
    Netlink {
        /// The message and its error number.
        cause: SysError,
        /// The kernel's own words.
        text: String,
    },
    /// What a file asks of IPv6 where services have none.
    #[error(
        "{0} needs IPv6, which services do not have here: prefix6 of palisade.toml is \"off\", or the kernel's IPv6 is"
    )]
    NoIpv6(String),
    /// A link of a service's is no network of the host's.
    #[error("{0:?} is the link of a service: write one of the host's own as `parent`")]
    ParentIsServices(String),
    /// The program `nft` is nowhere in the usual places.
    #[error("nft is not installed: install the package nftables, or use network.mode = \"none\" or \"host\"")]
    NftMissing,
    /// `nft` did not take our table.
    #[error("nft does not load table inet {table}: {text}")]
    NftText {
        /// Name of the table.
        table: String,
        /// What nft printed on its standard error.
        text: String,
    },
    /// The addresses that services are to get belong to somebody else.
    #[error(
        "services get their addresses from {prefix}, which meets {with}: write {} to [network] of palisade.toml",
        free.map_or(format!("a free `{key}`"), |free| format!("`{key} = \"{free}\"` or another that is free"))
    )]
    Overlap {
        /// Ours.
        prefix: ipnet::IpNet,
        /// What it meets, and where that is.
        with: String,
        /// The key of palisade.toml.
        key: &'static str,
        /// One that nobody has.
        free: Option<ipnet::IpNet>,
    },
    /// A port of the host belongs to somebody else.
    #[error("{}/{proto} is taken{by}", std::net::SocketAddr::new(*address, *port))]
    Taken {
        /// The host's address.
        address: std::net::IpAddr,
        /// The host's port.
        port: u16,
        /// The protocol.
        proto: crate::spec::Proto,
        /// ` by nginx (pid 123)`, or what else is known.
        by: String,
    },
    /// Something is where a Unix socket is to be made.
    #[error("{path} is taken{by}")]
    PathTaken {
        /// The path.
        path: String,
        /// By whom or what.
        by: String,
    },
}

impl NetError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetError::Sys(cause) | NetError::Netlink { cause, .. } => Some(cause.errno),
            NetError::NoIpv6(_)
            | NetError::ParentIsServices(_)
            | NetError::NftMissing
            | NetError::NftText { .. } => None,
            NetError::Overlap { .. } => Some(libc::EADDRNOTAVAIL),
            NetError::Taken { .. } | NetError::PathTaken { .. } => Some(libc::EADDRINUSE),
        }
    }
}

/// Reads a datagram from the kernel in every way in which one is read; how much was found in it. For `fuzz/`.
#[cfg(fuzzing)]
pub fn read_datagram(datagram: &[u8]) -> usize {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    let mut found = 0;
    for message in netlink::messages(datagram) {
        found += message.ack().map_or(0, |ack| 1 + ack.text.len());
        found += usize::from(conntrack::is_entry(message.body));
        found += usize::from(others::is_rule(message.body));
        found += usize::from(drops::is_refused(&message));
        found += usize::from(watch::is_damage(&message));
        found += usize::from(nft::generation(message.body).is_some());
        found += usize::from(sockdiag::orphan(message.body).is_some());
        if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) =
            NetlinkMessage::<netlink_packet_route::RouteNetlinkMessage>::deserialize(message.bytes)
        {
            found += clash::parts(inner.clone());
            found += link::parts(inner);
        }
    }
    found
}
