//! `[network]`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

use super::{Claims, Reader, link};
use crate::{
    config::{
        Diagnostic,
        schema::{Text, WordOrList},
        value::{self, Refusal},
    },
    seccomp::FAMILIES,
    spec::{
        Allowed, AttachedKind, Destination, Dns, Egress, Families, Firewall, Named, Network, NetworkMode,
        Proto, Publish, UnitName, defaults,
    },
};

/// macvlan and ipvlan are taken before this is looked at; here for who mistypes them.
const MODES: &[(&str, NetworkMode)] = &[
    ("veth", NetworkMode::Veth),
    ("none", NetworkMode::None),
    ("macvlan", NetworkMode::None),
    ("ipvlan", NetworkMode::None),
    ("host", NetworkMode::Host),
];
/// Of a service whose network is shared.
const JOIN: &str = "join:";

const FIREWALLS: &[(&str, Firewall)] = &[("detect", Firewall::Detect), ("insert", Firewall::Insert)];

/// The published ports so far, by what two of them can clash in.
type Ports = BTreeMap<(Proto, u16), Vec<(Publish, Range<usize>)>>;

pub(super) fn network(reader: &mut Reader<'_>) -> (Network, Claims) {
    let table = &reader.file.tables.network;
    let mut claims = Claims::default();
    let mode = mode(reader, &mut claims);
    let address = table.address.as_ref().filter(|_| attached_kind(reader).is_none());
    let address = address.and_then(|text| Some((text, reader.text(text)?)));
    let address = address.and_then(|(text, address)| {
        let address = reader.take(text.span(), parse_address(&address))?;
        claims.address = Some((address, text.span()));
        Some(address)
    });
    let mtu = table.mtu.as_ref().and_then(|mtu| reader.number(mtu, 68..=65_535));
    let mut ports = Ports::new();
    for text in table.publish.iter().flatten() {
        publish(reader, text, &mut claims, &mut ports);
    }
    let (egress, egress_names) = egress(reader);
    let allow_to = peers(reader, table.allow_to.as_deref(), &mut claims);
    let allow_from = peers(reader, table.allow_from.as_deref(), &mut claims);
    let (dns, hosts) = (dns(reader), hosts(reader));
    let address_families = address_families(reader);
    let firewall = reader.word("network.firewall", &table.firewall, FIREWALLS).unwrap_or_default();
    only_with_a_link(reader, &mode);
    let mtu = mtu.and_then(|mtu| u32::try_from(mtu).ok());
    let bandwidth = link::bandwidth(reader, mtu);
    let bridge = link::bridge(reader);
    let (mac, interface) = (link::mac(reader, bridge.as_deref(), &mut claims), link::interface(reader));
    let publish = claims.publish.iter().map(|(publish, _)| *publish).collect();
    let network = Network {
        mode,
        address,
        mac,
        interface,
        bridge,
        mtu,
        publish,
        egress,
        egress_names,
        allow_to,
        allow_from,
        bandwidth,
        dns,
        hosts,
        firewall,
        address_families,
    };
    (network, claims)
}

fn mode(reader: &mut Reader<'_>, claims: &mut Claims) -> NetworkMode {
    let key = &reader.file.tables.network.mode;
    let joins = |text: &&Text| text.get_ref().starts_with(JOIN);
    if let Some(text) = key.as_ref().filter(joins) {
        let name = reader.text(text).and_then(|word| {
            let name = UnitName::new(word.strip_prefix(JOIN).unwrap_or_default());
            reader.take(text.span(), name.map_err(Refusal::new))
        });
        return name.map_or(defaults::NETWORK_MODE, |name| {
            claims.joins.push((name.clone(), text.span()));
            NetworkMode::Join(name)
        });
    }
    let kind = attached_kind(reader);
    if let Some((kind, text)) = kind.zip(key.as_ref()) {
        // A mistake is noted, so that nothing comes of the mode in its place.
        return link::attached(reader, kind, text.span(), claims)
            .map_or(NetworkMode::None, NetworkMode::Attached);
    }
    reader.word("network.mode", key, MODES).unwrap_or(defaults::NETWORK_MODE)
}

/// What kind of link on one of the host's the file asks for, whatever else is wrong with it.
fn attached_kind(reader: &Reader<'_>) -> Option<AttachedKind> {
    let mode = reader.file.tables.network.mode.as_ref()?;
    [AttachedKind::Macvlan, AttachedKind::Ipvlan].into_iter().find(|kind| kind.name() == mode.get_ref())
}

fn parse_address(text: &str) -> Result<Ipv4Addr, Refusal> {
    let address: Ipv4Addr = text.parse().map_err(|_| {
        Refusal::new(format!("{text:?} is not an IPv4 address"))
            .hint("write it without a prefix, such as \"10.83.0.7\"")
    })?;
    let special = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_link_local();
    match special {
        true => Err(Refusal::new(format!("{address} cannot be the address of a service"))
            .hint("leave the key out to get one from the supervisor's range")),
        false => Ok(address),
    }
}

fn publish(reader: &mut Reader<'_>, text: &Text, claims: &mut Claims, ports: &mut Ports) {
    let Some(written) = reader.text(text) else { return };
    let Some(publish) = reader.take(text.span(), value::parse_publish(&written)) else { return };
    if publish.address.is_ipv6() && !has_ipv6(reader, text) {
        return;
    }
    let same_port = ports.entry((publish.proto, publish.host_port)).or_default();
    if let Some((_, first)) = same_port.iter().find(|(other, _)| clash(other, &publish)) {
        let message = format!("host port {}/{} is published twice", publish.host_port, publish.proto);
        reader.note(|reader| {
            let twice =
                Diagnostic::at(reader.at(&text.span()), message).hint("leave one of them out".to_owned());
            twice.note(reader.at(first), "published here first")
        });
        return;
    }
    same_port.push((publish, text.span()));
    claims.publish.push((publish, text.span()));
}

/// Refuses what cannot be had in a kernel without IPv6.
fn has_ipv6(reader: &mut Reader<'_>, text: &Text) -> bool {
    if !reader.host.ipv6 {
        let refusal = Refusal::new(format!("{:?} needs IPv6, which is off in this kernel", text.get_ref()));
        reader.refuse(text.span(), refusal.hint("boot without ipv6.disable=1, or leave it out"));
    }
    reader.host.ipv6
}

/// Whether two published ports cannot both be had.
pub(crate) fn clash(a: &Publish, b: &Publish) -> bool {
    let is_family = a.address.is_ipv6() == b.address.is_ipv6();
    let addresses =
        is_family && (a.address == b.address || a.address.is_unspecified() || b.address.is_unspecified());
    addresses && a.host_port == b.host_port && a.proto == b.proto
}

fn egress(reader: &mut Reader<'_>) -> (Egress, Vec<Named>) {
    let Some(value) = &reader.file.tables.network.egress else { return (Egress::None, Vec::new()) };
    let list = match value.get_ref() {
        WordOrList::Word(word) if word == "any" => return (Egress::Any, Vec::new()),
        WordOrList::Word(word) => {
            let refusal = Refusal::new(format!("{word:?} is not a value of `network.egress`"));
            let hint = "write \"any\", a list such as [\"192.0.2.0/24:443\"], or [] for nowhere";
            reader.refuse(value.span(), refusal.hint(hint));
            return (Egress::None, Vec::new());
        }
        WordOrList::List(list) => list,
    };
    let (mut all, mut names) = (Vec::<Destination>::new(), Vec::<Named>::new());
    for text in list {
        let Some(written) = reader.text(text) else { continue };
        match reader.take(text.span(), value::parse_named(&written)) {
            Some(Some(name)) if names.contains(&name) => continue,
            Some(Some(name)) => {
                names.push(name);
                continue;
            }
            Some(None) => {}
            None => continue,
        }
        let Some(one) = reader.take(text.span(), value::parse_destination(&written)) else { continue };
        if one.net.addr().is_ipv6() && !has_ipv6(reader, text) {
            continue;
        }
        // What is within another says nothing, and the kernel takes no ranges that overlap.
        if !all.iter().any(|other| one.is_within(other)) {
            all.retain(|other| !other.is_within(&one));
            all.push(one);
        }
    }
    let is_none = all.is_empty() && names.is_empty();
    (if is_none { Egress::None } else { Egress::Only(all) }, names)
}

fn dns(reader: &mut Reader<'_>) -> Dns {
    let Some(value) = &reader.file.tables.network.dns else { return Dns::Host };
    let hint = "write the addresses of servers, such as [\"192.0.2.53\"], or \"none\"";
    let list = match value.get_ref() {
        WordOrList::Word(word) if word == "none" => return Dns::None,
        WordOrList::Word(word) => {
            let refusal = Refusal::new(format!("{word:?} is not a value of `network.dns`"));
            reader.refuse(value.span(), refusal.hint(hint));
            return Dns::Host;
        }
        WordOrList::List(list) => list,
    };
    let server = |reader: &mut Reader<'_>, text: &Text| {
        reader.checked(text, |written| parse_server(written).map_err(|refusal| refusal.hint(hint)))
    };
    let servers: Vec<IpAddr> = list.iter().filter_map(|text| server(reader, text)).collect();
    if list.is_empty() {
        let refusal = Refusal::new("no server is left to ask");
        reader
            .refuse(value.span(), refusal.hint("leave the key out for those of the host, or write \"none\""));
    }
    Dns::Servers(servers)
}

/// The address of somebody.
fn parse_server(text: &str) -> Result<IpAddr, Refusal> {
    let address: IpAddr =
        text.parse().map_err(|_| Refusal::new(format!("{text:?} is not the address of a host")))?;
    match address.is_unspecified() || address.is_multicast() {
        true => Err(Refusal::new(format!("{address} is not the address of a host"))),
        false => Ok(address),
    }
}

fn hosts(reader: &mut Reader<'_>) -> BTreeMap<String, IpAddr> {
    let mut all = BTreeMap::new();
    for (key, value) in &reader.file.tables.network.hosts {
        let name = reader.checked(key, |name| match value::is_host_name(name) {
            true => Ok(name.to_ascii_lowercase()),
            false => Err(Refusal::new(format!("{name:?} is not the name of a host"))
                .hint("names are labels of letters, digits and '-', with dots between them")),
        });
        let address = reader.checked(value, |text| {
            parse_server(text).map_err(|refusal| refusal.hint("write an IP address, such as \"192.0.2.77\""))
        });
        all.extend(name.zip(address));
    }
    all
}

fn peers(reader: &mut Reader<'_>, list: Option<&[Text]>, claims: &mut Claims) -> Vec<Allowed> {
    let mut all: Vec<Allowed> = Vec::new();
    for text in list.into_iter().flatten() {
        let Some(written) = reader.text(text) else { continue };
        let Some(peer) = reader.take(text.span(), value::parse_allowed(&written)) else { continue };
        if let Some(name) = (!peer.is_pattern()).then(|| UnitName::new(&peer.name).ok()).flatten() {
            claims.peers.push((name, text.span()));
        }
        if !all.contains(&peer) {
            all.push(peer);
        }
    }
    all
}

fn address_families(reader: &mut Reader<'_>) -> Families {
    let Some(value) = &reader.file.tables.network.address_families else { return Families::Default };
    let family = |word: &str| {
        if let Some((name, _)) = FAMILIES.iter().find(|(name, _)| *name == word) {
            return Ok((*name).to_owned());
        }
        let refusal = Refusal::new(format!("{word:?} is not an address family"));
        let lower = word.to_lowercase();
        let plain = lower.strip_prefix("af_").unwrap_or(&lower);
        let near = value::nearest(plain, FAMILIES.iter().map(|(name, _)| *name));
        Err(match (near, plain) {
            (_, "any") => refusal.hint("write `address_families = \"any\"`, not in a list"),
            (Some(near), _) => refusal.hint(format!("did you mean \"{near}\"?")),
            (None, _) => {
                refusal.hint("write such as \"unix\", \"inet\", \"inet6\", \"netlink\" or \"packet\"")
            }
        })
    };
    match value.get_ref() {
        WordOrList::Word(word) if word == "any" => Families::Any,
        WordOrList::Word(word) => {
            let families = reader.take(value.span(), family(word));
            Families::Only(families.into_iter().collect())
        }
        WordOrList::List(list) => {
            let families = list.iter().filter_map(|text| {
                let word = reader.text(text)?;
                reader.take(text.span(), family(&word))
            });
            Families::Only(super::unique(families, String::clone))
        }
    }
}

/// Refuses the keys that say something about a link where there is none: they would be ignored.
fn only_with_a_link(reader: &mut Reader<'_>, mode: &NetworkMode) {
    let table = &reader.file.tables.network;
    if let Some(kind) = attached_kind(reader) {
        return link::past_the_filter(reader, kind);
    }
    for (key, text) in [("parent", &table.parent), ("gateway", &table.gateway)] {
        if let Some(text) = text {
            let refusal = Refusal::new(format!("`{key}` is for a link on one of the host's"));
            reader.refuse(
                text.span(),
                refusal.hint("leave it out, or write `mode = \"macvlan\"` or \"ipvlan\""),
            );
        }
    }
    let elsewhere = "leave it out, or write `mode = \"veth\"`";
    let (why, hint) = match mode {
        NetworkMode::Veth | NetworkMode::Attached(_) => return,
        NetworkMode::None => ("has no link".to_owned(), elsewhere.to_owned()),
        NetworkMode::Host => ("has the host's links".to_owned(), elsewhere.to_owned()),
        NetworkMode::Join(of) => (
            format!("has the network of {of}"),
            format!("write it into {of}.toml: what is said there holds for both"),
        ),
    };
    let publish = table.publish.iter().flatten().next();
    let egress = table.egress.as_ref().filter(|egress| *egress.get_ref() != WordOrList::List(Vec::new()));
    let spans = [
        ("address", table.address.as_ref().map(Text::span)),
        ("mac", table.mac.as_ref().map(Text::span)),
        ("interface", table.interface.as_ref().map(Text::span)),
        ("bridge", table.bridge.as_ref().map(Text::span)),
        ("mtu", table.mtu.as_ref().map(toml::Spanned::span)),
        ("publish", publish.map(Text::span)),
        ("egress", egress.map(toml::Spanned::span)),
        ("dns", table.dns.as_ref().map(toml::Spanned::span)),
        ("allow_to", table.allow_to.iter().flatten().next().map(Text::span)),
        ("firewall", table.firewall.as_ref().map(Text::span)),
        ("allow_from", table.allow_from.iter().flatten().next().map(Text::span)),
        ("bandwidth", table.bandwidth.as_ref().map(toml::Spanned::span)),
    ];
    for (key, span) in spans {
        if let Some(span) = span {
            let refusal = Refusal::new(format!("`{key}` has no meaning for a service that {why}"));
            reader.refuse(span, refusal.hint(hint.clone()));
        }
    }
}
