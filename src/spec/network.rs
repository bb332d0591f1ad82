//! `[network]`: the link, and who talks over it to whom.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Attached, Bandwidth, Families, UnitName};
use crate::net::addr::Mac;

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// What kind of link.
    pub mode: NetworkMode,
    /// A fixed address; none: one is assigned and kept.
    pub address: Option<Ipv4Addr>,
    /// A fixed hardware address; none: it derives from the address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// What the link is called inside; none: eth0.
    #[serde(default)]
    pub interface: Option<String>,
    /// The bridge that the host's end of the link is on; none: it has the host's addresses and routes itself.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Ports of the host that lead to the service.
    pub publish: Vec<Publish>,
    /// Whether it may talk to the outside.
    pub egress: Egress,
    /// Where names lead that it may ask for, beside [`Egress::Only`].
    #[serde(default)]
    pub egress_names: Vec<Named>,
    /// Services that it may talk to.
    #[serde(default)]
    pub allow_to: Vec<Allowed>,
    /// Services that may talk to it.
    #[serde(default)]
    pub allow_from: Vec<Allowed>,
    /// How much the link carries.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// Who answers what names mean.
    #[serde(default)]
    pub dns: Dns,
    /// What further names mean.
    #[serde(default)]
    pub hosts: BTreeMap<String, IpAddr>,
    /// Which sockets may be made.
    pub address_families: Families,
    /// What is done about other tables that drop what it sends and receives.
    #[serde(default)]
    pub firewall: Firewall,
}

/// `network.firewall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firewall {
    /// They are named.
    #[default]
    Detect,
    /// Two rules at their head accept our links.
    Insert,
}

/// `network.dns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dns {
    /// Our resolver, and behind it the servers of the host.
    #[default]
    Host,
    /// Our resolver, and behind it these.
    Servers(Vec<IpAddr>),
    /// Nobody.
    None,
}

/// `network.mode`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A routed point-to-point link.
    Veth,
    /// A network namespace with loopback alone.
    None,
    /// A link of its own on one of the host's.
    Attached(Attached),
    /// The network namespace of another service, with all that is in it.
    Join(UnitName),
    /// The host's network.
    Host,
}

impl Network {
    /// The service whose network namespace it has.
    pub fn joined(&self) -> Option<&UnitName> {
        match &self.mode {
            NetworkMode::Join(name) => Some(name),
            NetworkMode::Veth | NetworkMode::Attached(_) | NetworkMode::None | NetworkMode::Host => None,
        }
    }

    /// Where on a link of the host's it is.
    pub fn attached(&self) -> Option<&Attached> {
        match &self.mode {
            NetworkMode::Attached(attached) => Some(attached),
            NetworkMode::Veth | NetworkMode::Join(_) | NetworkMode::None | NetworkMode::Host => None,
        }
    }
}

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address; `0.0.0.0` is every IPv4 address that it has, `::` every IPv6 address.
    pub address: IpAddr,
    /// On the host.
    pub host_port: u16,
    /// Of the service.
    pub port: u16,
    /// TCP or UDP.
    pub proto: Proto,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = SocketAddr::new(self.address, self.host_port);
        write!(f, "{at}:{}/{}", self.port, self.proto)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}

/// Where a packet may knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// Every port of every protocol.
    Any,
    /// One port.
    One(u16, Proto),
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Door::Any => f.write_str("*"),
            Door::One(port, proto) => write!(f, "{port}/{proto}"),
        }
    }
}

/// One item of `network.allow_to` or `network.allow_from`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allowed {
    /// The name of the other service, or with `*` of several.
    pub name: String,
    /// The port of whoever is talked to.
    pub door: Door,
}

impl Allowed {
    /// Whether a service is meant.
    pub fn is(&self, name: &UnitName) -> bool {
        let (name, pattern) = (name.as_str(), self.name.as_str());
        let is_one = || glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name));
        name == pattern || self.is_pattern() && is_one()
    }

    /// Whether it may be several services, or none.
    pub fn is_pattern(&self) -> bool {
        self.name.contains('*')
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.door)
    }
}

/// One item of `network.egress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Destination {
    /// The hosts.
    pub net: IpNet,
    /// Their port.
    pub door: Door,
}

impl Destination {
    /// Whether it says nothing that `other` does not say.
    pub fn is_within(&self, other: &Self) -> bool {
        other.net.contains(&self.net) && (other.door == Door::Any || other.door == self.door)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.net {
            IpNet::V4(net) => write!(f, "{net}:{}", self.door),
            IpNet::V6(net) => write!(f, "[{net}]:{}", self.door),
        }
    }
}

/// One item of `network.egress` that is a name: where it leads at the time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    /// In lower case, without a last dot; with `*.` before it, every name below it.
    pub name: String,
    /// The port of the hosts.
    pub door: Door,
}

impl Named {
    /// Whether a name, in lower case, is meant.
    pub fn is(&self, name: &str) -> bool {
        match self.name.strip_prefix('*') {
            // At least one label more, and a dot that separates: one within a label has a `\` before it.
            Some(below) => {
                let more = name.strip_suffix(below).filter(|more| !more.is_empty());
                more.is_some_and(|more| !more.contains('\\'))
            }
            None => name == self.name,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.door)
    }
}

/// `network.egress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Nowhere.
    None,
    /// To these alone; none of them is within another.
    Only(Vec<Destination>),
    /// Anywhere but to other services and the host itself.
    Any,
}

impl Egress {
    /// Whether anything of a family is let out.
    pub fn has_family(&self, is_ipv6: bool) -> bool {
        match self {
            Egress::None => false,
            Egress::Any => true,
            Egress::Only(list) => list.iter().any(|to| to.net.addr().is_ipv6() == is_ipv6),
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Egress::None => f.write_str("none"),
            Egress::Any => f.write_str("any"),
            Egress::Only(list) => {
                let words: Vec<String> = list.iter().map(Destination::to_string).collect();
                f.write_str(&words.join(" "))
            }
        }
    }
}
