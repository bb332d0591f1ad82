//! The packet filter around services: one table of our own, `inet NAME`.
//!
//! The table is loaded once as text through the program `nft` (16 ms, most of it its exit); what changes from service
//! to service are elements of its maps and sets, added and deleted as raw nfnetlink batches on a socket that stays open
//! (5 us). A batch is one transaction: all of it holds or nothing.
//!
//! Only packets that come from or go to a link of our group are judged, published ports apart; everything else passes
//! as if the table were not there.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{self, Seek},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};

use super::{
    NetError,
    addr::{GROUP_BASE, GROUP_MASK, METADATA4, METADATA6, Mac, NetworkSettings, Talk},
    drops::{HEAD, Reason},
    link::LinkPlan,
    netlink::{Encoder, NLA_F_NESTED, Netlink, attributes, messages},
};
use crate::{
    spec::{Destination, Door, Proto, Publish},
    sys::{SysError, file},
};

// linux/netfilter/nfnetlink.h and nf_tables.h
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const NFNL_MSG_BATCH_BEGIN: u16 = 16;
pub(super) const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_DELTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 2;
const NFT_MSG_NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
const NFT_MSG_GETSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 13;
const NFT_MSG_DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
pub(super) const NFT_MSG_GETCHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 4;
const NFT_MSG_GETSET: u16 = NFNL_SUBSYS_NFTABLES << 8 | 10;
const NFT_MSG_GETGEN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 16;
const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_GEN_ID: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3 | NLA_F_NESTED;
const NFTA_LIST_ELEM: u16 = 1 | NLA_F_NESTED;
const NFTA_SET_ELEM_KEY: u16 = 1 | NLA_F_NESTED;
const NFTA_SET_ELEM_DATA: u16 = 2 | NLA_F_NESTED;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_SET_ELEM_KEY_END: u16 = 10 | NLA_F_NESTED;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFPROTO_INET: u8 = 1;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// A thousand services with a handful of ports each in one batch.
const SEND_BUFFER: usize = 8 << 20;
/// Half of what the answers about have room for in a socket's buffer by default.
const AGED_AT_ONCE: usize = 100;
/// The sets and maps that elements go to.
const SETS: [&str; 29] = [
    "doors",
    "doors6",
    "doors_any",
    "doors_any6",
    "exact",
    "exact6",
    "wildcard",
    "wildcard6",
    "egress",
    "egress6",
    "reach",
    "reach6",
    "reach_any",
    "reach_any6",
    "named",
    "named6",
    "named_any",
    "named_any6",
    "talk",
    "talk6",
    "talk_any",
    "talk_any6",
    "opened",
    "opened6",
    "routed6",
    "pins",
    "pins6",
    "same",
    "same6",
];

/// Those whose elements go by themselves.
const AGING: [&str; 4] = ["named", "named6", "named_any", "named_any6"];

/// The text of the table; the same for the same settings.
///
/// Loading it again replaces the rules and keeps the elements, in one transaction: a new supervisor brings the rules
/// of a table with live services up to date without a moment in which they do not hold.
pub fn text(settings: &NetworkSettings, refusals: Refusals) -> String {
    let table = &settings.name;
    let objects = objects();
    let mut flush = String::new();
    for line in objects.lines().filter_map(|line| line.trim().strip_prefix("chain ")) {
        let chain = line.split(' ').next().unwrap_or_default();
        flush.push_str(&format!("flush chain inet {table} {chain}\n"));
    }
    let (rules, refusing) = (rules(settings), refusing(settings, refusals));
    format!("table inet {table} {{\n{objects}}}\n{flush}table inet {table} {{\n{rules}{refusing}}}\n")
}

/// What becomes of refused packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// They are counted, and some of them told to who listens.
    Told,
    /// They are counted: the kernel has no nfnetlink_log.
    Counted,
}

/// Everything that is declared, and a chain for each reason to refuse.
fn objects() -> String {
    let chains = Reason::ALL.map(|reason| format!("\tchain refuse_{} {{ }}\n", reason.name()));
    format!("{OBJECTS}{}", chains.concat())
}

/// The chains that drop. A flood costs no more than its packets do.
fn refusing(settings: &NetworkSettings, refusals: Refusals) -> String {
    let chain = |reason: Reason| {
        let name = reason.name();
        let log = match refusals {
            Refusals::Told => format!(
                "\t\tlimit rate 10/second burst 20 packets log prefix \"{name}\" group {} snaplen {HEAD}\n",
                settings.log_group()
            ),
            Refusals::Counted => String::new(),
        };
        format!("\tchain refuse_{name} {{\n\t\tcounter name {name}\n{log}\t\tdrop\n\t}}\n")
    };
    Reason::ALL.map(chain).concat()
}

const OBJECTS: &str = "\t# What was refused, and why: nft list counters
	counter spoofed { }
	counter to_loopback { }
	counter to_host { }
	counter to_metadata { }
	counter to_service { }
	counter no_egress { }
	counter unpublished { }
	counter not_routed { }
	counter no_link { }

	# Ports of one address of the host, and of all of them, and the service's address and port behind each.
	map exact { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map exact6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
	map wildcard { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map wildcard6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
	# The same ports once more: Linux 6.1 looks up what is in a map for its value alone.
	set doors { type ipv4_addr . inet_proto . inet_service; }
	set doors6 { type ipv6_addr . inet_proto . inet_service; }
	set doors_any { type inet_proto . inet_service; }
	set doors_any6 { type inet_proto . inet_service; }
	# Services that may go out, and those that may go to some places.
	set egress { type ipv4_addr; }
	set egress6 { type ipv6_addr; }
	set reach { type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags interval; }
	set reach6 { type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags interval; }
	set reach_any { type ipv4_addr . ipv4_addr; flags interval; }
	set reach_any6 { type ipv6_addr . ipv6_addr; flags interval; }
	# Where names have led those who may ask for them, until the answer has aged.
	set named { type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags timeout; }
	set named6 { type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags timeout; }
	set named_any { type ipv4_addr . ipv4_addr; flags timeout; }
	set named_any6 { type ipv6_addr . ipv6_addr; flags timeout; }
	# Who may begin to talk to whom.
	set talk { type ipv4_addr . ipv4_addr . inet_proto . inet_service; }
	set talk6 { type ipv6_addr . ipv6_addr . inet_proto . inet_service; }
	set talk_any { type ipv4_addr . ipv4_addr; }
	set talk_any6 { type ipv6_addr . ipv6_addr; }
	# The sources that each link has, and each service's addresses, twice: what goes to whom it comes from.
	set pins { type ifname . ether_addr . ipv4_addr; }
	set pins6 { type ifname . ether_addr . ipv6_addr; }
	set same { type ipv4_addr . ipv4_addr; }
	set same6 { type ipv6_addr . ipv6_addr; }
	# Interfaces on which forwarding was off until we needed it; of IPv6 before Linux 6.17, all there are.
	set opened { type ifname; }
	set opened6 { type ifname; }
	set routed6 { typeof meta nfproto; }

	chain pinned { type filter hook prerouting priority -450; policy accept; }
	chain to_local { type filter hook prerouting priority mangle; policy accept; }
	chain publish { type nat hook prerouting priority dstnat; policy accept; }
	chain publish_local { type nat hook output priority -100; policy accept; }
	chain translate { }
	chain source { type nat hook postrouting priority srcnat; policy accept; }
	chain input { type filter hook input priority filter; policy accept; }
	chain forward { type filter hook forward priority filter; policy accept; }
	chain leave { type filter hook postrouting priority filter; policy accept; }
	chain from_service { }
	chain to_service { }
";

fn rules(settings: &NetworkSettings) -> String {
    let (ours, any, prefix) = (settings.group(), GROUP_BASE, settings.prefix4);
    let gateway = prefix.gateway();
    let (metadata4, metadata6) = (METADATA4.join(", "), METADATA6.join(", "));
    // Without a prefix nothing passes the pins.
    let to_outside = format!("oifgroup & {GROUP_MASK:#x} != {any}");
    let (mut nat6, mut leave6, mut to_service6) = Default::default();
    if let Some(prefix6) = settings.prefix6 {
        let gateway6 = prefix6.gateway();
        nat6 = format!("\n\t\t{to_outside} ip6 saddr {prefix6} ip6 saddr != {gateway6} masquerade");
        leave6 = format!("\n\t\t{to_outside} ip6 daddr {prefix6} ct status dnat goto refuse_no_link");
        to_service6 = format!("\n\t\tip6 daddr {prefix6} goto refuse_to_service");
    }
    format!(
        "\tchain pinned {{
		# What every kernel says about itself on a link of its own: nobody asks for it.
		iifgroup {ours} icmpv6 type {{ 130-133, 135, 143 }} drop
		# Before reassembly, connection tracking and translation, so that nothing later is fooled by a source.
		iifgroup {ours} icmpv6 type {{ nd-router-advert, nd-neighbor-advert, nd-redirect }} goto refuse_spoofed
		iifgroup {ours} meta nfproto ipv4 iifname . ether saddr . ip saddr != @pins goto refuse_spoofed
		iifgroup {ours} meta nfproto ipv6 iifname . ether saddr . ip6 saddr != @pins6 goto refuse_spoofed
		# To one host, by a way that it chooses itself: no source routes, nobody else's ear.
		iifgroup {ours} meta pkttype != host goto refuse_spoofed
		iifgroup {ours} fib daddr type {{ broadcast, multicast, anycast }} goto refuse_spoofed
		iifgroup {ours} ip hdrlength > 5 goto refuse_spoofed
		iifgroup {ours} exthdr rt exists goto refuse_spoofed
		iifgroup {ours} exthdr hbh exists goto refuse_spoofed
		iifgroup {ours} exthdr dst exists goto refuse_spoofed
		iifgroup {ours} exthdr mh exists goto refuse_spoofed
		# The links' route_localnet is for answers to local clients alone, and those go to the gateway's address.
		iifgroup {ours} ip daddr 127.0.0.0/8 goto refuse_to_loopback
		iifgroup {ours} ip6 daddr ::1 goto refuse_to_loopback
	}}
	chain to_local {{
		# What leads to a service is judged as what it becomes: whoever may talk to it gets there by the host's port, too.
		iifgroup {ours} ip daddr . meta l4proto . th dport @doors accept
		iifgroup {ours} ip6 daddr . meta l4proto . th dport @doors6 accept
		iifgroup {ours} meta nfproto ipv4 fib daddr type local meta l4proto . th dport @doors_any accept
		iifgroup {ours} meta nfproto ipv6 fib daddr type local meta l4proto . th dport @doors_any6 accept
		# Before anybody's translation: a port of the host that leads elsewhere is the host's all the same.
		iifgroup {ours} fib daddr type local ct state new,invalid,untracked goto refuse_to_host
	}}
	chain publish {{
		# The services of another supervisor are no business of ours.
		iifgroup & {GROUP_MASK:#x} == {any} iifgroup != {ours} accept
		# 127.0.0.1 from outside is a forgery that must not be translated before routing refuses it.
		ip daddr 127.0.0.0/8 accept
		fib daddr type local jump translate
	}}
	chain publish_local {{
		# From there the kernel routes nothing to a service, so that nothing is translated.
		ip6 daddr ::1 accept
		fib daddr type local jump translate
	}}
	chain translate {{
		meta l4proto {{ tcp, udp }} dnat ip to ip daddr . meta l4proto . th dport map @exact
		meta l4proto {{ tcp, udp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @exact6
		meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to meta l4proto . th dport map @wildcard
		meta nfproto ipv6 meta l4proto {{ tcp, udp }} dnat ip6 to meta l4proto . th dport map @wildcard6
	}}
	chain source {{
		# A local client is seen as the gateway: an answer to 127.0.0.1 would never leave the service.
		oifgroup {ours} ct status dnat fib saddr type local masquerade
		# Who comes to itself by the host's port would take its own address for a forgery.
		oifgroup {ours} ip saddr . ip daddr @same masquerade
		oifgroup {ours} ip6 saddr . ip6 daddr @same6 masquerade
		# Only what was let out comes this far. (The gateway's address is the host's own.)
		{to_outside} ip saddr {prefix} ip saddr != {gateway} masquerade{nat6}
	}}
	chain input {{
		iifgroup {ours} icmp type redirect goto refuse_spoofed
		iifgroup {ours} ct state established accept
		# An error may speak of connections to this service alone: of others' it would be believed, too.
		iifgroup {ours} ct state related ip saddr . ct reply ip saddr @same accept
		iifgroup {ours} ct state related ip6 saddr . ct reply ip6 saddr @same6 accept
		iifgroup {ours} goto refuse_to_host
	}}
	chain forward {{
		iifgroup {ours} jump from_service
		oifgroup {ours} jump to_service
		# What was not routed before we switched forwarding on is not routed now.
		meta nfproto ipv4 iifname @opened ct state new,invalid,untracked ct status ! dnat goto refuse_not_routed
		meta nfproto ipv6 iifname @opened6 ct state new,invalid,untracked ct status ! dnat goto refuse_not_routed
		meta nfproto @routed6 ct state new,invalid,untracked ct status ! dnat goto refuse_not_routed
	}}
	chain leave {{
		# A service that has taken its link away has no route: what was translated for it goes nowhere instead of out.
		{to_outside} ip daddr {prefix} ct status dnat goto refuse_no_link{leave6}
	}}
	chain from_service {{
		icmp type redirect goto refuse_spoofed
		# Nothing is established whose first packet was not allowed below.
		ct state established accept
		ct state related ip saddr . ct reply ip saddr @same accept
		ct state related ip saddr . ct original ip saddr @same accept
		ct state related ip6 saddr . ct reply ip6 saddr @same6 accept
		ct state related ip6 saddr . ct original ip6 saddr @same6 accept
		ct state related,invalid goto refuse_spoofed
		# To itself, by a port of the host.
		ct status dnat ip saddr . ip daddr @same accept
		ct status dnat ip6 saddr . ip6 daddr @same6 accept
		oifgroup {ours} ip saddr . ip daddr . meta l4proto . th dport @talk accept
		oifgroup {ours} ip saddr . ip daddr @talk_any accept
		oifgroup {ours} ip6 saddr . ip6 daddr . meta l4proto . th dport @talk6 accept
		oifgroup {ours} ip6 saddr . ip6 daddr @talk_any6 accept
		oifgroup & {GROUP_MASK:#x} == {any} goto refuse_to_service
		ip daddr {prefix} goto refuse_to_service{to_service6}
		# Link-local, and where clouds have the addresses that tell a machine its secrets.
		ip daddr {{ {metadata4} }} goto refuse_to_metadata
		ip6 daddr {{ {metadata6} }} goto refuse_to_metadata
		ip saddr @egress accept
		# The headers' own words: of intervals nft 1.0.6 turns the bytes of `meta l4proto` around, as if there were two, which
		# Linux 7.2 takes no more. Headers between that of IPv6 and that of the protocol were refused above.
		ip saddr . ip daddr . ip protocol . th dport @reach accept
		ip saddr . ip daddr @reach_any accept
		ip6 saddr @egress6 accept
		ip6 saddr . ip6 daddr . ip6 nexthdr . th dport @reach6 accept
		ip6 saddr . ip6 daddr @reach_any6 accept
		ip saddr . ip daddr . meta l4proto . th dport @named accept
		ip saddr . ip daddr @named_any accept
		ip6 saddr . ip6 daddr . meta l4proto . th dport @named6 accept
		ip6 saddr . ip6 daddr @named_any6 accept
		goto refuse_no_egress
	}}
	chain to_service {{
		ct state established,related accept
		ct status dnat accept
		goto refuse_unpublished
	}}
"
    )
}

/// Something that holds for one service or one interface, as an element of a map or set of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A port of the host leads to a service, to its address of the same family.
    Publish(Publish, IpAddr),
    /// A port of the host leads to some service.
    Door(Publish),
    /// The service with this address may go out.
    Egress(IpAddr),
    /// The service with this address may go there.
    Reach(IpAddr, Destination),
    /// The service with this address may go there, where a name has led, for some time.
    Named(IpAddr, IpAddr, Door, Duration),
    /// A service may begin to talk to another.
    Talk(Talk),
    /// Packets that come in over this link or bridge from this hardware address come from this address, or are forged.
    Pin(String, Mac, IpAddr),
    /// A service has this address: it may reach itself by a port of the host, and errors that it sends may speak of its own
    /// connections.
    Same(IpAddr),
    /// Forwarding was off on this interface of the host and was switched on for services: it goes on routing nothing
    /// else.
    Opened(String),
    /// The same for IPv6.
    Opened6(String),
    /// IPv6 forwarding was off altogether, and was switched on for services.
    Routed6,
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Publish(p, to) => {
                let (at, to) = (SocketAddr::new(p.address, p.host_port), SocketAddr::new(*to, p.port));
                write!(f, "{at}/{} to {to}", p.proto)
            }
            Element::Door(p) => {
                write!(f, "{}/{} is a service's", SocketAddr::new(p.address, p.host_port), p.proto)
            }
            Element::Egress(address) => write!(f, "egress of {address}"),
            Element::Reach(address, to) => write!(f, "egress of {address} to {to}"),
            Element::Named(address, to, door, _) => write!(f, "egress of {address} to {to}:{door} by name"),
            Element::Talk(talk) => talk.fmt(f),
            Element::Pin(link, mac, address) => write!(f, "source {mac} {address} of {link}"),
            Element::Same(address) => write!(f, "{address} to itself"),
            Element::Opened(name) => write!(f, "forwarding on {name}"),
            Element::Opened6(name) => write!(f, "IPv6 forwarding on {name}"),
            Element::Routed6 => f.write_str("IPv6 forwarding"),
        }
    }
}

impl Element {
    /// What holds for a link for as long as it is there.
    pub fn of_link(link: &LinkPlan) -> Vec<Self> {
        let name = || link.routed_if().to_owned();
        let of = |address| [Self::Pin(name(), link.guest_mac, address), Self::Same(address)];
        link.addresses().flat_map(of).collect()
    }

    /// For how many milliseconds it holds; none: for good.
    fn span(&self) -> Option<u64> {
        match self {
            Element::Named(.., span) => Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            Element::Publish(..)
            | Element::Door(_)
            | Element::Egress(_)
            | Element::Reach(..)
            | Element::Talk(_)
            | Element::Pin(..)
            | Element::Same(_)
            | Element::Opened(_)
            | Element::Opened6(_)
            | Element::Routed6 => None,
        }
    }

    /// What leads a port of the host to a service's address.
    pub fn of_port(publish: Publish, to: IpAddr) -> [Self; 2] {
        [Self::Publish(publish, to), Self::Door(publish)]
    }

    fn set(&self) -> &'static str {
        let (v4, v6, is_ipv6) = match self {
            Element::Publish(publish, to) => match publish.address.is_unspecified() {
                true => ("wildcard", "wildcard6", to.is_ipv6()),
                false => ("exact", "exact6", to.is_ipv6()),
            },
            Element::Door(publish) => match publish.address.is_unspecified() {
                true => ("doors_any", "doors_any6", publish.address.is_ipv6()),
                false => ("doors", "doors6", publish.address.is_ipv6()),
            },
            Element::Egress(address) => ("egress", "egress6", address.is_ipv6()),
            Element::Reach(from, Destination { door: Door::Any, .. }) => {
                ("reach_any", "reach_any6", from.is_ipv6())
            }
            Element::Reach(from, _) => ("reach", "reach6", from.is_ipv6()),
            Element::Named(from, _, Door::Any, _) => ("named_any", "named_any6", from.is_ipv6()),
            Element::Named(from, ..) => ("named", "named6", from.is_ipv6()),
            Element::Talk(Talk { door: Door::Any, to, .. }) => ("talk_any", "talk_any6", to.is_ipv6()),
            Element::Talk(talk) => ("talk", "talk6", talk.to.is_ipv6()),
            Element::Pin(.., address) => ("pins", "pins6", address.is_ipv6()),
            Element::Same(address) => ("same", "same6", address.is_ipv6()),
            Element::Opened(_) => ("opened", "", false),
            Element::Opened6(_) => ("", "opened6", true),
            Element::Routed6 => ("", "routed6", true),
        };
        if is_ipv6 { v6 } else { v4 }
    }

    /// Key and data as the kernel compares them: each part in network order, padded to four bytes. Of a range the key is
    /// the first one, and the last one follows.
    fn bytes(&self) -> Bytes {
        let interface = |name: &str| {
            let mut key = name.as_bytes().to_vec();
            key.resize(libc::IFNAMSIZ, 0);
            key
        };
        let key = match self {
            Element::Publish(publish, to) => {
                let data = [octets(*to), port_bytes(publish.port).to_vec()].concat();
                return Bytes { key: host_port(publish), end: None, data: Some(data) };
            }
            Element::Door(publish) => host_port(publish),
            Element::Reach(address, to) => {
                let end = |there: IpAddr| [octets(*address), octets(there), door_bytes(to.door)].concat();
                return Bytes { key: end(to.net.network()), end: Some(end(to.net.broadcast())), data: None };
            }
            Element::Egress(address) => octets(*address),
            Element::Named(from, to, door, _) | Element::Talk(Talk { from, to, door }) => {
                [octets(*from), octets(*to), door_bytes(*door)].concat()
            }
            Element::Pin(link, mac, address) => {
                [&interface(link)[..], &mac.0, &[0, 0], &octets(*address)].concat()
            }
            Element::Same(address) => [octets(*address), octets(*address)].concat(),
            Element::Opened(name) | Element::Opened6(name) => interface(name),
            Element::Routed6 => vec![NFPROTO_IPV6],
        };
        Bytes { key, end: None, data: None }
    }
}

/// What an element is to the kernel.
struct Bytes {
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
}

/// A port of one address of the host, or of all of them.
fn host_port(publish: &Publish) -> Vec<u8> {
    let address = match publish.address.is_unspecified() {
        true => Vec::new(),
        false => octets(publish.address),
    };
    [address, door_bytes(Door::One(publish.host_port, publish.proto))].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The elements of a message that lists some, each with the rest of its time. In one set all keys are of one family.
fn aging(body: &[u8], is_ipv6: bool) -> Vec<Element> {
    let Some(body) = body.get(4..) else { return Vec::new() };
    let nest = |kind: u16| kind & !NLA_F_NESTED;
    let lists = attributes(body).filter(|(kind, _)| *kind == nest(NFTA_SET_ELEM_LIST_ELEMENTS));
    let element = |one: &[u8]| {
        let find = |wanted| attributes(one).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let key = attributes(find(nest(NFTA_SET_ELEM_KEY))?).find(|(kind, _)| *kind == NFTA_DATA_VALUE)?.1;
        let (from, key) = split_address(key, is_ipv6)?;
        let (to, door) = split_address(key, is_ipv6)?;
        let door = match door {
            [] => Door::Any,
            [6, _, _, _, a, b, ..] => Door::One(u16::from_be_bytes([*a, *b]), Proto::Tcp),
            [17, _, _, _, a, b, ..] => Door::One(u16::from_be_bytes([*a, *b]), Proto::Udp),
            _ => return None,
        };
        let left = u64::from_be_bytes(*find(NFTA_SET_ELEM_EXPIRATION)?.first_chunk()?);
        Some(Element::Named(from, to, door, Duration::from_millis(left)))
    };
    lists.flat_map(|(_, list)| attributes(list)).filter_map(|(_, one)| element(one)).collect()
}

/// The address at the beginning of a key, and the rest.
fn split_address(key: &[u8], is_ipv6: bool) -> Option<(IpAddr, &[u8])> {
    match is_ipv6 {
        true => key.split_first_chunk::<16>().map(|(octets, rest)| ((*octets).into(), rest)),
        false => key.split_first_chunk::<4>().map(|(octets, rest)| ((*octets).into(), rest)),
    }
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

/// Protocol and port; nothing of a door that is every one.
fn door_bytes(door: Door) -> Vec<u8> {
    match door {
        Door::Any => Vec::new(),
        Door::One(port, Proto::Tcp) => [[6, 0, 0, 0], port_bytes(port)].concat(),
        Door::One(port, Proto::Udp) => [[17, 0, 0, 0], port_bytes(port)].concat(),
    }
}

/// The number of a generation of the ruleset, in a message about one.
pub(super) fn generation(body: &[u8]) -> Option<u32> {
    let (_, value) = attributes(body.get(4..)?).find(|(kind, _)| *kind == NFTA_GEN_ID)?;
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// What somebody else has done to our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// Something of it is gone, or there are rules or elements more.
    Part,
    /// There may be chains, sets or whatever else in it that we do not know.
    Foreign,
}

/// One message of a batch: what it says, and what is called so in an error.
struct Part {
    kind: u16,
    flags: u16,
    body: Encoder,
    name: String,
}

/// A transaction of which nothing holds.
struct Aborted {
    /// Parts that are about something that is not there.
    missing: BTreeSet<usize>,
    /// Why; of something else, where there is something else.
    error: NetError,
}

impl Aborted {
    fn by(error: NetError) -> Self {
        Self { missing: BTreeSet::new(), error }
    }
}

/// Our table in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Table {
    socket: Netlink,
    settings: NetworkSettings,
    refusals: Refusals,
    /// The generations of the ruleset that our loading of text has begun.
    loads: Vec<u32>,
}

impl Table {
    /// Loads the table of `settings`, or brings the rules of the one that is there up to date and keeps its elements.
    ///
    /// # Errors
    /// [`NetError::NftMissing`], [`NetError::NftText`] with what nft says, or from opening the socket.
    pub fn open(settings: &NetworkSettings) -> Result<Self, NetError> {
        // The socket first: a table that was loaded for who then has none would stay behind.
        let mut table = Self::attach(settings)?;
        table.load_rules("")?;
        Ok(table)
    }

    /// The table of `settings` as it is, if it is there at all: to take away what a predecessor left.
    ///
    /// # Errors
    /// From opening the socket.
    pub fn attach(settings: &NetworkSettings) -> Result<Self, NetError> {
        let socket = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        socket.set_send_buffer(SEND_BUFFER)?;
        Ok(Self { socket, settings: settings.clone(), refusals: Refusals::Told, loads: Vec::new() })
    }

    /// Makes the table again what it is to be, with these elements, after somebody has changed or removed it.
    /// [`Damage::Foreign`]: there may be things in it that we do not know, and it begins anew. Until its elements are in it,
    /// it then lets nothing through that is not let through already.
    ///
    /// # Errors
    /// As [`Table::open`] and [`Table::replace`].
    pub fn mend(&mut self, damage: Damage, elements: &[Element]) -> Result<(), NetError> {
        let anew = format!("table inet {0} {{ }}\ndelete table inet {0}\n", self.settings.name);
        match damage {
            Damage::Foreign => self.load_rules(&anew)?,
            // A set of the same name and another kind, for one.
            Damage::Part => self.load_rules("").or_else(|_| self.load_rules(&anew))?,
        }
        self.replace(elements)
    }

    /// Whether refused packets are told of.
    pub fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Loads our text behind `before`; without what tells of refusals where the kernel takes it only so.
    fn load_rules(&mut self, before: &str) -> Result<(), NetError> {
        let whole = |refusals| format!("{before}{}", text(&self.settings, refusals));
        let (told, counted) = (whole(self.refusals), whole(Refusals::Counted));
        let refused = match self.load(&told) {
            Err(error) if self.refusals == Refusals::Told => error,
            done => return done,
        };
        self.load(&counted).map_err(|_| refused)?;
        self.refusals = Refusals::Counted;
        Ok(())
    }

    /// Whether the table has chains or sets that are none of ours.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn has_foreign(&mut self) -> Result<bool, NetError> {
        let objects = objects();
        let declared = |line: &str, words: &[&str]| {
            words.iter().any(|word| line.trim().strip_prefix(word).is_some_and(|rest| rest.starts_with(' ')))
        };
        let known = |words: &[&str]| -> BTreeSet<String> {
            let lines = objects.lines().filter(|line| declared(line, words));
            lines.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
        };
        let chains = self.names(NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME)?;
        let sets = self.names(NFT_MSG_GETSET, NFTA_SET_TABLE, NFTA_SET_NAME)?;
        // Sets without a name are parts of rules.
        let is_named = |name: &&String| !name.starts_with("__");
        let chains_known = known(&["chain"]);
        let sets_known = known(&["set", "map"]);
        Ok(!chains.is_subset(&chains_known)
            || sets.iter().filter(is_named).any(|name| !sets_known.contains(name)))
    }

    /// The names of what there is of one kind in our table.
    fn names(&mut self, kind: u16, table: u16, name: u16) -> Result<BTreeSet<String>, NetError> {
        let own = self.settings.name.clone();
        let sequence = self.socket.take_sequence(1);
        let mut request = Encoder::default();
        request.message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| {
            m.raw(&[NFPROTO_INET, 0, 0, 0]);
            m.text(table, &own);
        });
        let mut names = BTreeSet::new();
        self.socket.exchange(request.bytes(), sequence, "nft", |message| {
            let find = |wanted: u16| {
                let value = attributes(message.body.get(4..)?).find(|(kind, _)| *kind == wanted)?.1;
                Some(String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned())
            };
            if find(table).is_some_and(|found| found == own) {
                names.extend(find(name));
            }
        })?;
        Ok(names)
    }

    /// The kernel's name for the socket through which elements are changed.
    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The generations of the ruleset that are of our making, beside those of our socket.
    pub(super) fn loads(&self) -> &[u32] {
        &self.loads
    }

    /// They have been told of.
    pub(super) fn forget_loads(&mut self) {
        self.loads.clear();
    }

    /// Loads text, and notes which generation of the ruleset has come of it.
    fn load(&mut self, text: &str) -> Result<(), NetError> {
        let before = self.generation()?;
        load(&self.settings.name, text)?;
        let after = self.generation()?;
        // With somebody else's in between nobody knows which of them is ours: then none is.
        if after == before.wrapping_add(1) {
            self.loads.push(after);
        }
        Ok(())
    }

    /// How often the ruleset has changed.
    fn generation(&mut self) -> Result<u32, NetError> {
        let sequence = self.socket.take_sequence(1);
        let mut request = Encoder::default();
        request.message(NFT_MSG_GETGEN, NLM_F_REQUEST, sequence, |m| m.raw(&[0, 0, 0, 0]));
        self.socket.send(request.bytes())?;
        let mut found = None;
        while let Some(datagram) = self.socket.receive()? {
            let answers = messages(datagram).filter(|message| message.sequence == sequence);
            found = answers.filter_map(|message| generation(message.body)).next().or(found);
        }
        found.ok_or_else(|| SysError::new("nft", "generation", libc::EPROTO).into())
    }

    /// Adds elements, all or none. Those that are there already stay.
    ///
    /// # Errors
    /// The first element that the kernel refuses: EEXIST or EBUSY, the port leads somewhere else already; ENOENT, somebody
    /// has removed the table ([`Table::open`] again, then [`Table::replace`]).
    pub fn add(&mut self, elements: &[Element]) -> Result<(), NetError> {
        let parts: Vec<Part> =
            elements.iter().map(|element| self.element(NFT_MSG_NEWSETELEM, element)).collect();
        self.commit(&parts).map_err(|aborted| aborted.error)
    }

    /// Deletes elements that may have aged, and adds others, in one step: those of both begin anew.
    ///
    /// # Errors
    /// As [`Table::add`]; nothing is changed then.
    pub fn renew(&mut self, old: &[Element], new: &[Element]) -> Result<(), NetError> {
        let old = old.iter().map(|element| self.element(NFT_MSG_DELSETELEM, element));
        let mut parts: Vec<Part> = old.collect();
        parts.extend(new.iter().map(|element| self.element(NFT_MSG_NEWSETELEM, element)));
        self.commit_without_missing(parts)
    }

    /// What is in the sets whose elements age, each with the rest of its time.
    ///
    /// # Errors
    /// The kernel's answer; that the table is gone is none.
    pub fn aging(&mut self) -> Result<Vec<Element>, NetError> {
        let mut all = Vec::new();
        for set in AGING {
            let sequence = self.socket.take_sequence(1);
            let mut request = Encoder::default();
            request.message(NFT_MSG_GETSETELEM, NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| {
                m.raw(&[NFPROTO_INET, 0, 0, 0]);
                m.text(NFTA_SET_ELEM_LIST_TABLE, &self.settings.name);
                m.text(NFTA_SET_ELEM_LIST_SET, set);
            });
            let listed = self.socket.exchange(request.bytes(), sequence, "NFT_MSG_GETSETELEM", |message| {
                all.extend(aging(message.body, set.ends_with('6')));
            });
            match listed {
                Err(error) if error.errno() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Deletes elements; those that are gone already do not matter, nor does a table that is gone.
    ///
    /// # Errors
    /// The first element that the kernel refuses.
    pub fn remove(&mut self, elements: &[Element]) -> Result<(), NetError> {
        let distinct: BTreeSet<&Element> = elements.iter().collect();
        let parts = distinct.into_iter().map(|element| self.element(NFT_MSG_DELSETELEM, element)).collect();
        self.commit_without_missing(parts)
    }

    /// Deletes elements many of which may have aged and be gone: a few at a time, for the answers about all that are missing
    /// have to fit into the socket's buffer.
    ///
    /// # Errors
    /// As [`Table::remove`]; the others are deleted all the same.
    pub fn remove_aged(&mut self, elements: &[Element]) -> Result<(), NetError> {
        let mut result = Ok(());
        for some in elements.chunks(AGED_AT_ONCE) {
            result = result.and(self.remove(some));
        }
        result
    }

    /// Sends a transaction, without what is to be deleted and is not there.
    fn commit_without_missing(&mut self, mut parts: Vec<Part>) -> Result<(), NetError> {
        while let Err(Aborted { missing, error }) = self.commit(&parts) {
            // Linux 6.3 has a message that does not mind; before it, the batch goes again without the missing ones.
            let is_all =
                !missing.is_empty() && missing.iter().all(|part| parts[*part].kind == NFT_MSG_DELSETELEM);
            if error.errno() != Some(libc::ENOENT) || !is_all {
                return Err(error);
            }
            let mut numbers = 0..;
            parts.retain(|_| !numbers.next().is_some_and(|number| missing.contains(&number)));
        }
        Ok(())
    }

    /// Makes `elements` the only ones of the table, in one step: a supervisor that takes over states what it found
    /// alive, and what its predecessor left is gone.
    ///
    /// # Errors
    /// As [`Table::add`]; nothing is changed then.
    pub fn replace(&mut self, elements: &[Element]) -> Result<(), NetError> {
        let flush = |set: &str| {
            let mut body = Encoder::default();
            body.text(NFTA_SET_ELEM_LIST_TABLE, &self.settings.name);
            body.text(NFTA_SET_ELEM_LIST_SET, set);
            Part { kind: NFT_MSG_DELSETELEM, flags: 0, body, name: format!("all of {set}") }
        };
        let mut parts: Vec<Part> = SETS.into_iter().map(flush).collect();
        parts.extend(elements.iter().map(|element| self.element(NFT_MSG_NEWSETELEM, element)));
        self.commit(&parts).map_err(|aborted| aborted.error)
    }

    /// Takes the table away with everything in it.
    ///
    /// # Errors
    /// The kernel's answer; that it is gone already is none.
    pub fn delete(mut self) -> Result<(), NetError> {
        let mut body = Encoder::default();
        body.text(NFTA_TABLE_NAME, &self.settings.name);
        let part = Part { kind: NFT_MSG_DELTABLE, flags: 0, body, name: "the table".to_owned() };
        match self.commit(&[part]) {
            Err(Aborted { error, .. }) if error.errno() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    fn element(&self, kind: u16, element: &Element) -> Part {
        let Bytes { key, end, data } = element.bytes();
        let mut body = Encoder::default();
        body.text(NFTA_SET_ELEM_LIST_TABLE, &self.settings.name);
        body.text(NFTA_SET_ELEM_LIST_SET, element.set());
        body.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            list.nest(NFTA_LIST_ELEM, |one| {
                one.nest(NFTA_SET_ELEM_KEY, |k| k.attribute(NFTA_DATA_VALUE, &key));
                if let Some(end) = &end {
                    one.nest(NFTA_SET_ELEM_KEY_END, |k| k.attribute(NFTA_DATA_VALUE, end));
                }
                if let Some(span) = element.span().filter(|_| kind == NFT_MSG_NEWSETELEM) {
                    one.attribute(NFTA_SET_ELEM_TIMEOUT, &span.to_be_bytes());
                }
                if let Some(data) = &data {
                    one.nest(NFTA_SET_ELEM_DATA, |d| d.attribute(NFTA_DATA_VALUE, data));
                }
            });
        });
        let flags = if kind == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
        Part { kind, flags, body, name: element.to_string() }
    }

    /// Sends one transaction; an error comes with the number of the part that it is about, where it is about one.
    fn commit(&mut self, parts: &[Part]) -> Result<(), Aborted> {
        if parts.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(parts.len()).expect("a batch is far below 4 billion parts");
        let begin = self.socket.take_sequence(count + 2);
        self.socket.send(batch(parts, begin).bytes()).map_err(|error| Aborted::by(error.into()))?;
        // Only the last part asks for an acknowledgement; an error is always told. So an answer to any other is one.
        let last = begin.wrapping_add(count);
        let (mut missing, mut first, mut worse) = (BTreeSet::new(), None, None);
        let mut is_done = false;
        let args = |part: &str| format!("table inet {}, {part}", self.settings.name);
        while let Some(datagram) = self.socket.receive().map_err(|error| Aborted::by(error.into()))? {
            for ack in messages(datagram).filter_map(|message| message.ack()) {
                let offset = ack.sequence.wrapping_sub(begin);
                let part =
                    usize::try_from(offset).ok().filter(|n| (1..=parts.len()).contains(n)).map(|n| n - 1);
                is_done |= ack.sequence == last && ack.errno == 0;
                // Everything else is the remainder of a batch whose error was reported long ago.
                let is_ours = offset <= count + 1;
                let name = part.map_or("the batch", |n| &parts[n].name);
                let Some(error) = ack.result("nft", &args(name)).err().filter(|_| is_ours) else { continue };
                match part.filter(|_| error.errno() == Some(libc::ENOENT)) {
                    Some(part) => {
                        missing.insert(part);
                        first.get_or_insert(error);
                    }
                    None => {
                        worse.get_or_insert(error);
                    }
                }
            }
        }
        match (worse.or(first), is_done) {
            (Some(error), _) => Err(Aborted { missing, error }),
            (None, true) => Ok(()),
            (None, false) => Err(Aborted::by(SysError::new("nft", args("no answer"), libc::EPROTO).into())),
        }
    }
}

fn batch(parts: &[Part], begin: u32) -> Encoder {
    // nfgenmsg: family, version, and in network order the subsystem that the batch is for, or nothing.
    let [sub_a, sub_b] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let mut out = Encoder::default();
    out.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, begin, |m| m.raw(&[0, 0, sub_a, sub_b]));
    let mut sequence = begin;
    for (n, part) in parts.iter().enumerate() {
        sequence = sequence.wrapping_add(1);
        let ack = if n + 1 == parts.len() { NLM_F_ACK } else { 0 };
        out.message(part.kind, NLM_F_REQUEST | part.flags | ack, sequence, |m| {
            m.raw(&[NFPROTO_INET, 0, 0, 0]);
            m.raw(part.body.bytes());
        });
    }
    out.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, sequence.wrapping_add(1), |m| {
        m.raw(&[0, 0, sub_a, sub_b]);
    });
    out
}

/// Loads the text of a table of this name into the network namespace that the calling thread is in, by nft(8).
///
/// # Errors
/// [`NetError::NftMissing`], [`NetError::NftText`] with what nft says.
pub fn load(name: &str, text: &str) -> Result<(), NetError> {
    let failed = |text: String| NetError::NftText { table: name.to_owned(), text };
    // A file, not a pipe: nobody has to write while nft reads, and should the standard library not hear whether it was
    // executed, it waits for an end that comes.
    let mut rules = File::from(file::sealed("palisade-rules", text.as_bytes())?);
    rules.rewind().map_err(|error| SysError::new("lseek", "rules in memory", error))?;
    // A search path of our own: that of a user's shell often lacks sbin, and none of theirs is to be trusted.
    let child = Command::new("nft")
        .args(["-f", "-"])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(rules)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NetError::NftMissing,
            _ => SysError::new("execve", "\"nft\"", error).into(),
        })?;
    let out = child.wait_with_output().map_err(|error| SysError::new("waitid", "\"nft\"", error))?;
    match out.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&out.stderr);
            // nft 1.0.6 crashes without a word on a set whose type has changed.
            Err(failed(format!("{}: {}", out.status, said.trim())))
        }
    }
}
