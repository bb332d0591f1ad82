//! Which address, link name, MAC and group a service has. Pure: no clock, no file, no kernel.
//!
//! Everything follows from the supervisor's own [`NetworkSettings`] and the slot of the service, so that two
//! supervisors with different table names and prefixes never meet, and a restarted service is found where it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::spec::{Door, Publish, UnitName};

/// The upper half of the link group of every link that any Palisade makes: "PS".
pub const GROUP_BASE: u32 = 0x5053_0000;
/// What two supervisors' links have in common in their group.
pub const GROUP_MASK: u32 = 0xffff_0000;
/// The service's end of its link, under the name that programs expect.
pub const GUEST_IF: &str = "eth0";

/// Where clouds have what tells a machine its secrets, beside other link-local addresses: nobody's outside.
pub const METADATA4: [&str; 4] = ["169.254.0.0/16", "168.63.129.16", "100.100.100.200", "192.0.0.192"];
/// The same of IPv6.
pub const METADATA6: [&str; 3] = ["fe80::/10", "fd00:ec2::/32", "fd20:ce::/32"];

/// Between the name of a supervisor's network and the number of a `palisade run` beside it.
const RUN: &str = "-run";
/// How many of those there may be at a time.
pub const MOST_RUNS: u32 = 1024;

/// What this supervisor's network is called and where its addresses come from (`[network]` of palisade.toml).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSettings {
    /// The nft table (`inet NAME`); link names and the link group derive from it.
    pub name: String,
    /// Where services' addresses come from.
    pub prefix4: Prefix4,
    /// And their IPv6 addresses; none: they have no IPv6.
    pub prefix6: Option<Prefix6>,
    /// Parts of `prefix4` that are for the services of one bridge each, and for nobody else.
    #[serde(default)]
    pub bridges: BTreeMap<String, Prefix4>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            name: "palisade".to_owned(),
            prefix4: Prefix4 { addr: Ipv4Addr::new(10, 83, 0, 0), len: 16 },
            prefix6: Some(Prefix6::of("palisade")),
            bridges: BTreeMap::new(),
        }
    }
}

/// Sixteen bits that stand for the name of a supervisor's network where there is no room for it (FNV-1a, folded).
fn tag(name: &str) -> u16 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d])
}

impl NetworkSettings {
    fn tag(&self) -> u16 {
        tag(&self.name)
    }

    /// The link group of this supervisor's links: nft matches it (`iifgroup`), and one message deletes them all.
    pub fn group(&self) -> u32 {
        GROUP_BASE | u32::from(self.tag())
    }

    /// The addresses of the service in `slot`, IPv4 first; none when the prefix has no such slot.
    pub fn addresses(&self, slot: u32) -> Vec<IpAddr> {
        let Some(v4) = self.prefix4.address(slot) else { return Vec::new() };
        let v6 = self.prefix6.map(|prefix| prefix.address(slot).into());
        [v4.into()].into_iter().chain(v6).collect()
    }

    /// The group of nflog that hears what our table refuses; the lower numbers are those that other programs take.
    pub fn log_group(&self) -> u16 {
        0x8000 | self.tag()
    }

    /// What the names of all this supervisor's links begin with: `ps1a2b-`.
    pub fn link_prefix(&self) -> String {
        format!("ps{:04x}-", self.tag())
    }

    /// Where services' addresses come from.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        [self.prefix4.into()].into_iter().chain(self.prefix6.map(|prefix| prefix.0.into()))
    }

    /// The link groups of those that share the prefixes: this supervisor, and `palisade run` beside it, which counts from
    /// the other end.
    pub fn relatives(&self) -> BTreeSet<u32> {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let base = match self.name.rsplit_once(RUN) {
            Some((base, last)) if number(last) => base,
            _ => &self.name,
        };
        let group = |name: &str| GROUP_BASE | u32::from(tag(name));
        (0..MOST_RUNS).map(|n| group(&format!("{base}{RUN}{n}"))).chain([group(base)]).collect()
    }

    /// What `palisade run` calls its network, as the run with this number.
    #[must_use]
    pub fn of_run(&self, number: u32) -> Self {
        Self { name: format!("{}{RUN}{number}", self.name), ..self.clone() }
    }

    /// Name of the host's end of a link, at most 15 bytes: `ps1a2b-7c`.
    ///
    /// `generation` counts the namespaces that this slot has had. The kernel frees a name some 20 ms after its
    /// namespace was closed, so two in a row must differ; the letter comes round after 26.
    pub fn host_if(&self, slot: u32, generation: u32) -> String {
        let letter = char::from(b'a' + (generation % 26) as u8);
        format!("{}{slot}{letter}", self.link_prefix())
    }

    /// Name of a bridge, at most 15 bytes: `ps1a2b-apps`. It begins with a letter where a link has a number.
    pub fn bridge_if(&self, name: &str) -> String {
        format!("{}{name}", self.link_prefix())
    }

    /// The slots of services on a bridge, or on none: in its part of the prefix if it has one, else in what is nobody's part.
    pub fn places(&self, bridge: Option<&str>) -> Places {
        let own = bridge.and_then(|name| self.bridges.get(name));
        Places {
            prefix: *own.unwrap_or(&self.prefix4),
            slots: own.map_or(0..self.prefix4.slots(), |part| self.prefix4.slots_in(*part)),
            others: match own {
                Some(_) => Vec::new(),
                None => self.bridges.values().map(|part| self.prefix4.slots_in(*part)).collect(),
            },
        }
    }
}

/// Where the address of a service may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    prefix: Prefix4,
    slots: Range<u32>,
    others: Vec<Range<u32>>,
}

impl Places {
    /// In order, from the first one on or from the last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.slots.clone().filter(|slot| self.has(*slot))
    }

    /// Whether it may be this one.
    pub fn has(&self, slot: u32) -> bool {
        self.slots.contains(&slot) && !self.others.iter().any(|others| others.contains(&slot))
    }
}

/// What is wrong with a prefix or an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// Not of the form `10.83.0.0/16`.
    #[error("{0:?} is not an IPv4 prefix such as \"10.83.0.0/16\"")]
    Syntax(String),
    /// Too few addresses for a service, or more than a link name can number.
    #[error("prefix {0} is not between /12 and /29")]
    Length(String),
    /// Not of the form `fd12:3456:789a::/64`.
    #[error("{0:?} is not an IPv6 prefix such as \"fd12:3456:789a::/64\"")]
    Syntax6(String),
    /// As [`AddrError::Length`].
    #[error("prefix {0} is not between /32 and /108")]
    Length6(String),
    /// Bits beyond the length are set.
    #[error("prefix {given} has host bits set: write \"{meant}\"")]
    HostBits {
        /// As written.
        given: String,
        /// With the host bits cleared.
        meant: String,
    },
    /// A fixed address that the prefix does not hold.
    #[error("address {address} is not in {prefix}")]
    Outside {
        /// The fixed address.
        address: Ipv4Addr,
        /// The supervisor's prefix.
        prefix: Prefix4,
    },
    /// A fixed address that no service can have.
    #[error("address {address} is the {what} of {prefix}")]
    Special {
        /// The fixed address.
        address: Ipv4Addr,
        /// What the address is.
        what: &'static str,
        /// The supervisor's prefix.
        prefix: Prefix4,
    },
    /// A fixed address that services on one bridge are to have.
    #[error("address {0} is in the range of a bridge that the service is not on")]
    Bridges(Ipv4Addr),
    /// A fixed address that another service has.
    #[error("address {address} belongs to {holder}")]
    Clash {
        /// The fixed address.
        address: Ipv4Addr,
        /// Who has it.
        holder: UnitName,
    },
    /// Every address is in use.
    #[error("no address is left in {0}")]
    Exhausted(Prefix4),
}

/// An IPv4 prefix that services' addresses come from: /12 to /29, host bits clear.
///
/// The first address is nobody's, the second the gateway's (the host's end of every link), the last nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix4 {
    addr: Ipv4Addr,
    len: u8,
}

impl Prefix4 {
    /// The address that every service has as its only next hop.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addr.to_bits() + 1)
    }

    /// Bits of the network part.
    pub fn bits(self) -> u8 {
        self.len
    }

    /// How many services fit.
    pub fn slots(self) -> u32 {
        (1 << (32 - self.len)) - 3
    }

    /// Whether `address` is one of the prefix's.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() >> (32 - self.len) == self.addr.to_bits() >> (32 - self.len)
    }

    /// The slots whose addresses are in `part` as well.
    fn slots_in(self, part: Self) -> Range<u32> {
        // The first two addresses are no slot's.
        let first = part.addr.to_bits().saturating_sub(self.addr.to_bits());
        let end = u64::from(first) + (1 << (32 - part.len));
        let slot = |n: u64| u32::try_from(n.saturating_sub(2)).unwrap_or(u32::MAX).min(self.slots());
        slot(first.into())..slot(end)
    }

    /// Whether all of `other` is in it.
    pub fn holds(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// The address of a slot; none beyond [`Prefix4::slots`].
    pub fn address(self, slot: u32) -> Option<Ipv4Addr> {
        (slot < self.slots()).then(|| Ipv4Addr::from_bits(self.addr.to_bits() + 2 + slot))
    }

    /// The slot of an address that a file fixes.
    ///
    /// # Errors
    /// [`AddrError::Outside`], or [`AddrError::Special`] for the network, the gateway and the broadcast address.
    pub fn slot(self, address: Ipv4Addr) -> Result<u32, AddrError> {
        if !self.contains(address) {
            return Err(AddrError::Outside { address, prefix: self });
        }
        let special = |what| AddrError::Special { address, what, prefix: self };
        match address.to_bits() - self.addr.to_bits() {
            0 => Err(special("network address")),
            1 => Err(special("gateway")),
            n if n - 2 >= self.slots() => Err(special("broadcast address")),
            n => Ok(n - 2),
        }
    }
}

impl FromStr for Prefix4 {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let syntax = || AddrError::Syntax(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| syntax())?;
        // `u8::from_str` takes "+8" and "08" too, which no other reader of prefixes does.
        let plain = len.bytes().all(|b| b.is_ascii_digit()) && !(len.len() > 1 && len.starts_with('0'));
        let len: u8 = len.parse().ok().filter(|len| plain && *len <= 32).ok_or_else(syntax)?;
        if !(12..=29).contains(&len) {
            return Err(AddrError::Length(text.to_owned()));
        }
        let meant = Self { addr: Ipv4Addr::from_bits(addr.to_bits() & (u32::MAX << (32 - len))), len };
        match meant.addr == addr {
            true => Ok(meant),
            false => Err(AddrError::HostBits { given: text.to_owned(), meant: meant.to_string() }),
        }
    }
}

impl TryFrom<String> for Prefix4 {
    type Error = AddrError;

    fn try_from(text: String) -> Result<Self, AddrError> {
        text.parse()
    }
}

impl From<Prefix4> for String {
    fn from(prefix: Prefix4) -> String {
        prefix.to_string()
    }
}

impl From<Prefix4> for IpNet {
    fn from(prefix: Prefix4) -> IpNet {
        IpNet::V4(Ipv4Net::new(prefix.addr, prefix.len).expect("checked when it was read"))
    }
}

impl fmt::Display for Prefix4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// An IPv6 prefix that services' addresses come from: /32 to /108, host bits clear. It has room for every slot that a
/// [`Prefix4`] can have, and numbers them alike: who has 10.83.0.7 has `::7` here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix6(Ipv6Net);

impl Prefix6 {
    /// The unique local prefix (RFC 4193) of a supervisor whose file names none: `fd50:5300:TAG::/64`, the same on every
    /// host, since nothing of it is ever seen outside.
    pub fn of(name: &str) -> Self {
        let addr = Ipv6Addr::new(0xfd50, 0x5300, tag(name), 0, 0, 0, 0, 0);
        Self(Ipv6Net::new_assert(addr, 64))
    }

    /// The address that every service has as its only next hop.
    pub fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0.addr().to_bits() + 1)
    }

    /// Bits of the network part.
    pub fn bits(self) -> u8 {
        self.0.prefix_len()
    }

    /// The address of a slot.
    pub fn address(self, slot: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0.addr().to_bits() + 2 + u128::from(slot))
    }

    /// Whether `address` is one of the prefix's.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Prefix6 {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let net: Ipv6Net = text.parse().map_err(|_| AddrError::Syntax6(text.to_owned()))?;
        if !(32..=108).contains(&net.prefix_len()) {
            return Err(AddrError::Length6(text.to_owned()));
        }
        match net.trunc() == net {
            true => Ok(Self(net)),
            false => Err(AddrError::HostBits { given: text.to_owned(), meant: net.trunc().to_string() }),
        }
    }
}

impl TryFrom<String> for Prefix6 {
    type Error = AddrError;

    fn try_from(text: String) -> Result<Self, AddrError> {
        text.parse()
    }
}

impl From<Prefix6> for String {
    fn from(prefix: Prefix6) -> String {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who has which slot; kept in the supervisor's state, so that an address survives restarts and reboots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Assignments {
    slots: BTreeMap<UnitName, u32>,
}

impl Assignments {
    /// The slot of `name` on `bridge`, or on none: the one that `fixed` stands for, else the one that it had if it may have
    /// it, else the lowest free one.
    ///
    /// Services with a fixed address go first, or an automatic one may sit where a file wants another to be.
    ///
    /// # Errors
    /// What [`Prefix4::slot`] says of `fixed`; [`AddrError::Bridges`] or [`AddrError::Outside`] when it is not for that
    /// bridge; [`AddrError::Clash`] when somebody else has it; [`AddrError::Exhausted`]. Nothing is changed then.
    pub fn assign(
        &mut self,
        settings: &NetworkSettings,
        name: &UnitName,
        (fixed, bridge): (Option<Ipv4Addr>, Option<&str>),
    ) -> Result<u32, AddrError> {
        let places = settings.places(bridge);
        let slot = match fixed {
            Some(address) => self.claim(settings.prefix4, &places, name, address)?,
            None => match self.slots.get(name) {
                Some(&slot) if places.has(slot) => slot,
                _ => self.lowest_free(&places)?,
            },
        };
        self.slots.insert(name.clone(), slot);
        Ok(slot)
    }

    /// Forgets a service that is gone for good.
    pub fn release(&mut self, name: &UnitName) {
        self.slots.remove(name);
    }

    /// A service has the slot again that it had, or none.
    pub fn put_back(&mut self, name: UnitName, slot: Option<u32>) {
        match slot {
            Some(slot) => drop(self.slots.insert(name, slot)),
            None => drop(self.slots.remove(&name)),
        }
    }

    /// The slot of a service that has one.
    pub fn slot(&self, name: &UnitName) -> Option<u32> {
        self.slots.get(name).copied()
    }

    fn claim(
        &self,
        prefix: Prefix4,
        places: &Places,
        name: &UnitName,
        address: Ipv4Addr,
    ) -> Result<u32, AddrError> {
        let slot = prefix.slot(address)?;
        if !places.has(slot) {
            return Err(match places.prefix == prefix {
                true => AddrError::Bridges(address),
                false => AddrError::Outside { address, prefix: places.prefix },
            });
        }
        match self.slots.iter().find(|(holder, held)| **held == slot && *holder != name) {
            Some((holder, _)) => Err(AddrError::Clash { address, holder: holder.clone() }),
            None => Ok(slot),
        }
    }

    fn lowest_free(&self, places: &Places) -> Result<u32, AddrError> {
        let taken: BTreeSet<u32> = self.slots.values().copied().collect();
        places.iter().find(|slot| !taken.contains(slot)).ok_or(AddrError::Exhausted(places.prefix))
    }
}

/// One service may begin to talk to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Talk {
    /// Who begins.
    pub from: IpAddr,
    /// Whom with; an address of the same family.
    pub to: IpAddr,
    /// Where.
    pub door: Door,
}

impl fmt::Display for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            IpAddr::V4(to) => write!(f, "{} -> {to}:{}", self.from, self.door),
            IpAddr::V6(to) => write!(f, "{} -> [{to}]:{}", self.from, self.door),
        }
    }
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The service's end. Derived from the address: a restarted service keeps it, so no peer's table goes stale.
    pub fn guest(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        // 02: locally administered, unicast.
        Self([0x02, 0x50, a, b, c, d])
    }

    /// The host's end of that service's link.
    pub fn host(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x51, a, b, c, d])
    }

    /// Whether it is of those that services have whose files say nothing.
    pub fn is_derived(self) -> bool {
        matches!(self.0, [0x02, 0x50, ..])
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let pairs: Vec<&str> = text.split(':').collect();
        let pair = |pair: &&str| match pair.as_bytes() {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => u8::from_str_radix(pair, 16).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(pair).collect();
        let mac = bytes.and_then(|bytes| bytes.try_into().ok()).map(Self);
        let mac = mac.ok_or_else(|| MacError::Syntax(text.to_owned()))?;
        match mac.0 {
            [0, 0, 0, 0, 0, 0] => Err(MacError::Nobodys),
            [first, ..] if first & 1 != 0 => Err(MacError::Group(mac)),
            [0x02, 0x51, ..] => Err(MacError::Hosts(mac)),
            _ => Ok(mac),
        }
    }
}

/// What is wrong with a hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hexadecimal digits.
    #[error("{0:?} is not a hardware address")]
    Syntax(String),
    /// All zeros.
    #[error("the hardware address of zeros is nobody's")]
    Nobodys,
    /// A multicast address, or that of everybody.
    #[error("{0} is the hardware address of a group, not of one host")]
    Group(Mac),
    /// One of those that the host's ends of links have.
    #[error("{0} is one of those that the host's ends of the links have")]
    Hosts(Mac),
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Whether a local client may come through 127.0.0.1: then the host's end of the link needs `route_localnet`.
pub fn published_on_loopback(publish: &[Publish]) -> bool {
    publish
        .iter()
        .any(|one| one.address.is_ipv4() && (one.address.is_loopback() || one.address.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> UnitName {
        UnitName::new(name).unwrap()
    }

    fn prefix(text: &str) -> Prefix4 {
        text.parse().unwrap()
    }

    fn settings(prefix4: &str) -> NetworkSettings {
        NetworkSettings { prefix4: prefix(prefix4), ..NetworkSettings::default() }
    }

    #[test]
    fn a_prefix_is_read_and_printed_alike() {
        for text in ["10.83.0.0/16", "10.80.0.0/12", "192.168.7.8/29"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn a_bad_prefix_is_refused_with_the_reason() {
        let said = |text: &str| text.parse::<Prefix4>().unwrap_err().to_string();
        assert_eq!(said("10.83.0.0"), "\"10.83.0.0\" is not an IPv4 prefix such as \"10.83.0.0/16\"");
        for bad in ["", "/16", "10.83.0.0/", "10.83.0.0/+16", "10.83.0.0/016", "10.83.0.0/33", "fd00::/16"] {
            assert_eq!(bad.parse::<Prefix4>(), Err(AddrError::Syntax(bad.to_owned())));
        }
        assert_eq!(said("10.0.0.0/8"), "prefix 10.0.0.0/8 is not between /12 and /29");
        assert_eq!(said("10.83.0.0/30"), "prefix 10.83.0.0/30 is not between /12 and /29");
        assert_eq!(said("10.83.0.1/16"), "prefix 10.83.0.1/16 has host bits set: write \"10.83.0.0/16\"");
    }

    #[test]
    fn an_ipv6_prefix_is_read_and_printed_alike_or_refused_with_the_reason() {
        for text in ["fd50:5300:1::/64", "fd00::/32", "2001:db8::/108"] {
            assert_eq!(text.parse::<Prefix6>().unwrap().to_string(), text);
        }
        let said = |text: &str| text.parse::<Prefix6>().unwrap_err().to_string();
        assert_eq!(said("fd00::"), "\"fd00::\" is not an IPv6 prefix such as \"fd12:3456:789a::/64\"");
        assert_eq!(said("fd00::/109"), "prefix fd00::/109 is not between /32 and /108");
        assert_eq!(said("fd00::1/64"), "prefix fd00::1/64 has host bits set: write \"fd00::/64\"");
        for bad in ["", "10.83.0.0/16", "fd00::/+64", "fd00::/129", "fd00::/64x"] {
            assert_eq!(bad.parse::<Prefix6>(), Err(AddrError::Syntax6(bad.to_owned())));
        }
    }

    #[test]
    fn both_addresses_of_a_service_end_alike_and_every_slot_fits() {
        let (v4, v6) = (prefix("10.83.0.0/16"), Prefix6::of("palisade"));
        assert_eq!(v4.address(5), Some(Ipv4Addr::new(10, 83, 0, 7)));
        assert_eq!(v6.address(5).segments()[7], 7);
        assert_eq!(v6.gateway().segments()[7], 1);
        assert_eq!(v6.gateway().octets()[0], 0xfd);
        let narrow: Prefix6 = "fd00::/108".parse().unwrap();
        assert!(narrow.contains(narrow.address(prefix("10.80.0.0/12").slots() - 1)));
        assert_ne!(Prefix6::of("palisade"), Prefix6::of("staging"));
    }

    #[test]
    fn the_gateway_is_the_first_host_and_services_follow() {
        let p = prefix("10.83.0.0/16");
        assert_eq!(p.gateway(), Ipv4Addr::new(10, 83, 0, 1));
        assert_eq!(p.address(0), Some(Ipv4Addr::new(10, 83, 0, 2)));
        assert_eq!(p.address(300), Some(Ipv4Addr::new(10, 83, 1, 46)));
        assert_eq!(p.address(65_532), Some(Ipv4Addr::new(10, 83, 255, 254)));
        assert_eq!(p.address(65_533), None);
        for slot in [0, 1, 300, 65_532] {
            assert_eq!(p.slot(p.address(slot).unwrap()), Ok(slot));
        }
    }

    #[test]
    fn a_fixed_address_must_be_one_that_a_service_can_have() {
        let p = prefix("10.83.0.0/29");
        let said = |last| p.slot(Ipv4Addr::new(10, 83, 0, last)).unwrap_err().to_string();
        assert_eq!(said(0), "address 10.83.0.0 is the network address of 10.83.0.0/29");
        assert_eq!(said(1), "address 10.83.0.1 is the gateway of 10.83.0.0/29");
        assert_eq!(said(7), "address 10.83.0.7 is the broadcast address of 10.83.0.0/29");
        assert_eq!(said(8), "address 10.83.0.8 is not in 10.83.0.0/29");
        assert_eq!(p.slot(Ipv4Addr::new(10, 83, 0, 6)), Ok(4));
    }

    #[test]
    fn a_service_keeps_its_slot_and_a_new_one_takes_the_lowest_free() {
        let (p, mut all) = (settings("10.83.0.0/16"), Assignments::default());
        for (n, who) in (0..).zip(["a", "b", "c"]) {
            assert_eq!(all.assign(&p, &name(who), (None, None)), Ok(n));
        }
        all.release(&name("b"));
        assert_eq!(all.assign(&p, &name("c"), (None, None)), Ok(2));
        assert_eq!(all.assign(&p, &name("d"), (None, None)), Ok(1));
        assert_eq!(all.assign(&p, &name("e"), (None, None)), Ok(3));
    }

    #[test]
    fn a_fixed_address_clashes_with_its_holder_by_name_and_changes_nothing() {
        let (p, mut all) = (settings("10.83.0.0/16"), Assignments::default());
        let fixed = Ipv4Addr::new(10, 83, 0, 9);
        assert_eq!(all.assign(&p, &name("db"), (Some(fixed), None)), Ok(7));
        let before = all.clone();
        let error = all.assign(&p, &name("web"), (Some(fixed), None)).unwrap_err();
        assert_eq!(error.to_string(), "address 10.83.0.9 belongs to db");
        assert_eq!(all, before);
        assert_eq!(all.assign(&p, &name("db"), (Some(fixed), None)), Ok(7));
    }

    #[test]
    fn a_full_prefix_is_an_error_and_a_smaller_one_moves_whom_it_cannot_hold() {
        let (p, mut all) = (settings("10.83.0.0/29"), Assignments::default());
        for n in 0..5 {
            assert_eq!(all.assign(&p, &name(&format!("s{n}")), (None, None)), Ok(n));
        }
        let error = all.assign(&p, &name("late"), (None, None)).unwrap_err();
        assert_eq!(error.to_string(), "no address is left in 10.83.0.0/29");
        let mut wide = Assignments::default();
        let far = Some(Ipv4Addr::new(10, 83, 9, 9));
        wide.assign(&settings("10.83.0.0/16"), &name("far"), (far, None)).unwrap();
        assert_eq!(wide.assign(&p, &name("far"), (None, None)), Ok(0));
    }

    #[test]
    fn assignments_survive_the_state_file() {
        let (p, mut all) = (settings("10.83.0.0/16"), Assignments::default());
        all.assign(&p, &name("web@1"), (None, None)).unwrap();
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(text, r#"{"web@1":0}"#);
        assert_eq!(serde_json::from_str::<Assignments>(&text).unwrap(), all);
    }

    #[test]
    fn a_bridge_with_a_range_shares_it_with_nobody() {
        let mut p = settings("10.83.0.0/16");
        p.bridges.insert("apps".to_owned(), prefix("10.83.0.0/29"));
        p.bridges.insert("dbs".to_owned(), prefix("10.83.255.0/24"));
        let on = |bridge| p.places(bridge);
        assert_eq!(on(Some("apps")).iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5], "without the gateway");
        assert_eq!(on(None).iter().next(), Some(6));
        assert_eq!(on(Some("plain")), on(None));
        let (last, first) = (on(None).iter().next_back().unwrap(), on(Some("dbs")).iter().next().unwrap());
        assert_eq!(p.prefix4.address(last), Some(Ipv4Addr::new(10, 83, 254, 255)));
        assert_eq!(p.prefix4.address(first), Some(Ipv4Addr::new(10, 83, 255, 0)));
        assert_eq!(on(Some("dbs")).iter().count(), 255, "without the broadcast address");

        let mut all = Assignments::default();
        assert_eq!(all.assign(&p, &name("web"), (None, None)), Ok(6));
        assert_eq!(all.assign(&p, &name("web"), (None, Some("apps"))), Ok(0), "it moves");
        assert_eq!(all.assign(&p, &name("web"), (None, Some("apps"))), Ok(0), "and stays");
        let said = |all: &mut Assignments, last, bridge| {
            let wanted = (Some(Ipv4Addr::new(10, 83, 0, last)), bridge);
            all.assign(&p, &name("db"), wanted).unwrap_err().to_string()
        };
        assert_eq!(
            said(&mut all, 3, None),
            "address 10.83.0.3 is in the range of a bridge that the service is not on"
        );
        assert_eq!(said(&mut all, 9, Some("apps")), "address 10.83.0.9 is not in 10.83.0.0/29");
        for n in 1..6 {
            assert_eq!(all.assign(&p, &name(&format!("s{n}")), (None, Some("apps"))), Ok(n));
        }
        let error = all.assign(&p, &name("late"), (None, Some("apps"))).unwrap_err();
        assert_eq!(error.to_string(), "no address is left in 10.83.0.0/29");
    }

    #[test]
    fn a_bridges_name_fits_and_is_no_links() {
        let settings = NetworkSettings::default();
        let name = settings.bridge_if("eight-ch");
        assert!(name.len() == 15 && name.starts_with(&settings.link_prefix()), "{name}");
    }

    #[test]
    fn link_names_fit_and_differ_between_slots_generations_and_supervisors() {
        let one = NetworkSettings::default();
        let two = NetworkSettings { name: "staging".to_owned(), ..one.clone() };
        let longest = one.host_if(prefix("10.80.0.0/12").slots() - 1, 25);
        assert!(longest.len() <= 15, "{longest}");
        assert_ne!(one.host_if(1, 0), one.host_if(1, 1));
        assert_ne!(one.host_if(1, 0), one.host_if(2, 0));
        assert_ne!(one.host_if(1, 0), two.host_if(1, 0));
        assert_ne!(one.group(), two.group());
        assert_eq!(one.group() & GROUP_MASK, GROUP_BASE);
        // A run and its supervisor know each other, from either side.
        assert_eq!(one.of_run(3).name, "palisade-run3");
        assert_eq!(one.of_run(3).relatives(), one.relatives());
        assert!(one.relatives().contains(&one.of_run(9).group()) && one.relatives().contains(&one.group()));
        assert!(!one.relatives().contains(&two.group()));
    }

    #[test]
    fn macs_are_locally_administered_and_tell_the_ends_apart() {
        let address = Ipv4Addr::new(10, 83, 0, 2);
        assert_eq!(Mac::guest(address).to_string(), "02:50:0a:53:00:02");
        assert_eq!(Mac::host(address).to_string(), "02:51:0a:53:00:02");
    }

    #[test]
    fn a_mac_is_that_of_one_host() {
        let said =
            |text: &str| text.parse::<Mac>().map(|mac| mac.to_string()).map_err(|error| error.to_string());
        assert_eq!(said("02:00:00:00:00:07").as_deref(), Ok("02:00:00:00:00:07"));
        assert_eq!(said("AA:bb:0C:00:00:01").as_deref(), Ok("aa:bb:0c:00:00:01"));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:07:08",
            "2:0:0:0:0:7",
            "02-00-00-00-00-07",
            "+2:00:00:00:00:07",
        ] {
            assert_eq!(said(text), Err(format!("{text:?} is not a hardware address")));
        }
        for text in ["00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "02:51:0a:53:00:02"] {
            assert!(said(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_and_wildcard_ports_need_local_routing() {
        let at = |address: &str| Publish {
            address: address.parse().unwrap(),
            host_port: 80,
            port: 80,
            proto: crate::spec::Proto::Tcp,
        };
        assert!(published_on_loopback(&[at("192.0.2.1"), at("127.0.0.1")]));
        assert!(published_on_loopback(&[at("0.0.0.0")]));
        assert!(!published_on_loopback(&[at("192.0.2.1"), at("::")]));
    }
}
