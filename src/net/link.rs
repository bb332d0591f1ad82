//! A service's link: a routed point-to-point veth, and what the host's own interfaces must let through for it.
//!
//! ```text
//!   host                                    service's network namespace
//!   ps1a2b-0a  10.83.0.1/32  02:51:..  <->  eth0  10.83.0.2/32  02:50:..
//!   route 10.83.0.2/32 src 10.83.0.1        default via 10.83.0.1 onlink
//!   neighbour 10.83.0.2 permanent           neighbour 10.83.0.1 permanent
//! ```
//! and the same with IPv6 addresses, which are as fixed: none is made by the kernel, none is looked for on the link. With
//! `network.bridge` the host's end is a port of a [`super::bridge`], which has the host's addresses and routes then.
//! The peer is made where it will live and under its final name: moving and renaming a link costs 20 ms of waiting for
//! RCU. Neighbours are permanent on both ends, so that nobody waits for an ARP answer and nobody can forge one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    NetError,
    addr::{self, GROUP_BASE, GROUP_MASK, GUEST_IF, Mac, NetworkSettings},
    bridge,
    netlink::{Netlink, Request},
    netns::NetNs,
    sysctl::Protocol,
};
use crate::{
    spec::{Network, Publish},
    sys::SysError,
};

/// linux/rtnetlink.h
pub(super) const RT_TABLE_LOCAL: u8 = 255;
/// Whether addresses of 127.0.0.0/8 may be anything but the host itself.
const ROUTE_LOCALNET: &str = "route_localnet";

/// Everything that a link needs to be made; plain values, so that a plan can print them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPlan {
    /// Name of the host's end.
    pub host_if: String,
    /// The service's address.
    pub address: Ipv4Addr,
    /// The host's end's address, the service's only next hop.
    pub gateway: Ipv4Addr,
    /// The same for IPv6, where the host has it.
    #[serde(default)]
    pub v6: Option<Pair6>,
    /// Bytes; none: the kernel's 1500.
    pub mtu: Option<u32>,
    /// The bridge that the host's end is a port of, which has the addresses and routes then; none: the end itself has them.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Link group of the host's end, and of the bridge.
    pub group: u32,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Hardware address of the service's end.
    pub guest_mac: Mac,
    /// Name of the service's end.
    #[serde(default = "usual_name")]
    pub guest_if: String,
    /// Local clients come from 127.0.0.1 (`route_localnet` on the host's end; the nft table guards it).
    pub route_localnet: bool,
}

/// The IPv6 addresses of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair6 {
    /// The service's.
    pub address: Ipv6Addr,
    /// The host's end's.
    pub gateway: Ipv6Addr,
}

impl LinkPlan {
    /// The service's addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ends().map(|(address, _)| address)
    }

    /// The host's interface that packets of the service come in by and go out by.
    pub fn routed_if(&self) -> &str {
        self.bridge.as_deref().unwrap_or(&self.host_if)
    }

    /// The hardware address of the next hop. A bridge's is that of the gateway's address, which is no service's.
    pub(super) fn gateway_mac(&self) -> Mac {
        if self.bridge.is_some() { Mac::host(self.gateway) } else { self.host_mac }
    }

    /// The service's address and the gateway of each family.
    pub(super) fn ends(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + use<> {
        let v6 = self.v6.map(|pair| (pair.address.into(), pair.gateway.into()));
        [(self.address.into(), self.gateway.into())].into_iter().chain(v6)
    }

    /// The link of the service in `slot`; none when the prefix has no such slot. `generation` as in
    /// [`NetworkSettings::host_if`].
    pub fn new(
        settings: &NetworkSettings,
        (slot, generation): (u32, u32),
        mtu: Option<u32>,
        publish: &[Publish],
    ) -> Option<Self> {
        let address = settings.prefix4.address(slot)?;
        Some(Self {
            host_if: settings.host_if(slot, generation),
            address,
            gateway: settings.prefix4.gateway(),
            v6: settings
                .prefix6
                .map(|prefix| Pair6 { address: prefix.address(slot), gateway: prefix.gateway() }),
            mtu,
            bridge: None,
            group: settings.group(),
            host_mac: Mac::host(address),
            guest_mac: Mac::guest(address),
            guest_if: usual_name(),
            route_localnet: addr::published_on_loopback(publish),
        })
    }

    /// As [`LinkPlan::new`], with all that a file says of the link.
    pub fn of(settings: &NetworkSettings, place: (u32, u32), network: &Network) -> Option<Self> {
        let mut plan = Self::new(settings, place, network.mtu, &network.publish)?;
        if let Some(interface) = &network.interface {
            plan.guest_if.clone_from(interface);
        }
        plan.guest_mac = network.mac.unwrap_or(plan.guest_mac);
        plan.bridge = network.bridge.as_deref().map(|name| settings.bridge_if(name));
        Some(plan)
    }
}

fn usual_name() -> String {
    GUEST_IF.to_owned()
}

/// Makes the link of `plan` between the namespace of `host` and `netns`, both ends up.
///
/// # Errors
/// The first message that failed; what had been made is gone again. EEXIST on RTM_NEWLINK: the name is taken.
pub fn create(host: &mut Netlink, netns: &NetNs, plan: &LinkPlan) -> Result<(), NetError> {
    let args = format!("{:?}, veth, peer {:?}", plan.host_if, plan.guest_if);
    host.request(Request::new(
        RouteNetlinkMessage::NewLink(veth(netns, plan)),
        NLM_F_CREATE | NLM_F_EXCL,
        ("RTM_NEWLINK", args),
    ))?;
    let done = connect(host, netns, plan);
    if done.is_err() {
        // The first cause is what counts; a link that stays is found again by its group.
        let _ = remove(host, &plan.host_if);
    }
    done
}

/// The service's end first, then the host's: an end that goes up when its peer already is can send at once, while the
/// one that waited for its peer drops what it is given until the kernel's link watch has run (a second at worst). So
/// the first client's first packet is not lost.
fn connect(host: &mut Netlink, netns: &NetNs, plan: &LinkPlan) -> Result<(), NetError> {
    let mut guest = netns.within(Netlink::route)??;
    let index = index(&guest, &plan.guest_if)?;
    guest.requests(guest_side(index, plan))?;
    let host_index = self::index(host, &plan.host_if)?;
    match &plan.bridge {
        Some(bridge) => bridge::plug(host, (host_index, bridge), plan)?,
        None => {
            host_settings(&plan.host_if, plan)?;
            host.requests(host_side(host_index, plan))?;
        }
    }
    catch_up(&mut guest, index, &plan.guest_if)
}

/// Since Linux 6.8 asking for one link makes the kernel catch up with its state, so that it carries packets. Before, the first
/// one may be early, and from a service only when it speaks first.
pub(super) fn catch_up(socket: &mut Netlink, index: u32, name: &str) -> Result<(), NetError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    socket.request(Request::new(
        RouteNetlinkMessage::GetLink(message),
        0,
        ("RTM_GETLINK", format!("{name:?}")),
    ))
}

fn veth(netns: &NetNs, plan: &LinkPlan) -> LinkMessage {
    let end = |name: &str, mac: Mac| {
        let mut end = LinkMessage::default();
        end.attributes.push(LinkAttribute::IfName(name.to_owned()));
        end.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        end.attributes.extend(plan.mtu.map(LinkAttribute::Mtu));
        end
    };
    let mut peer = end(&plan.guest_if, plan.guest_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    // Both ends stay down: the peer cannot go up before the pair is one (ENOTCONN), and the host's end would make itself
    // an IPv6 address before its settings are written.
    let mut host = end(&plan.host_if, plan.host_mac);
    host.attributes.push(LinkAttribute::Group(plan.group));
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    host
}

/// Of an interface that packets of services come in by.
pub(super) fn host_settings(name: &str, plan: &LinkPlan) -> Result<(), NetError> {
    ipv6_settings(name, plan.v6.is_some())?;
    let all = Protocol::ipv4()?;
    let ipv4 = |key: &str, value: &str| all.set(&format!("conf/{name}/{key}"), value);
    ipv4("forwarding", "1")?;
    ipv4("rp_filter", "1")?;
    ipv4("accept_redirects", "0")?;
    ipv4("send_redirects", "0")?;
    ipv4("accept_source_route", "0")?;
    ipv4("accept_local", "0")?;
    ipv4("proxy_arp", "0")?;
    if plan.route_localnet {
        ipv4(ROUTE_LOCALNET, "1")?;
    }
    Ok(())
}

/// Local clients come from 127.0.0.1.
pub(super) fn route_localnet(name: &str) -> Result<(), NetError> {
    Ok(Protocol::ipv4()?.set(&format!("conf/{name}/{ROUTE_LOCALNET}"), "1")?)
}

/// Before the end goes up: it makes no address of its own, and believes nothing.
pub(super) fn ipv6_settings(name: &str, has_ipv6: bool) -> Result<(), NetError> {
    let Some(all) = Protocol::ipv6()? else { return Ok(()) };
    let set = |key: &str, value: &str| all.set(&format!("conf/{name}/{key}"), value);
    if !has_ipv6 {
        return Ok(set("disable_ipv6", "1")?);
    }
    set("disable_ipv6", "0")?;
    set("addr_gen_mode", "1")?;
    set("accept_ra", "0")?;
    set("accept_redirects", "0")?;
    match set("force_forwarding", "1") {
        // Before Linux 6.17 there is one switch for all interfaces; it is thrown when somebody needs it.
        Err(error) if error.errno == libc::ENOENT => Ok(()),
        done => Ok(done?),
    }
}

/// What makes the host's end of the link, in order.
fn host_side(index: u32, plan: &LinkPlan) -> Vec<Request> {
    let name = &plan.host_if;
    // Nor is anything believed that comes by ARP, or said: both neighbours are known.
    let mut all = vec![set_up(index, name, LinkFlags::Up | LinkFlags::Noarp)];
    all.extend(gateways(index, plan));
    all.extend(ways(index, plan));
    all
}

/// Gives an interface the addresses that services have as their next hop.
pub(super) fn gateways(index: u32, plan: &LinkPlan) -> Vec<Request> {
    let of = |(_, gateway)| [Some(add_address(index, gateway, bits(gateway))), receive(index, gateway)];
    plan.ends().flat_map(of).flatten().collect()
}

/// The ways from an interface to the service.
pub(super) fn ways(index: u32, plan: &LinkPlan) -> Vec<Request> {
    let of = |(address, gateway)| {
        let mut route = way(index, address);
        route.header.scope = RouteScope::Link;
        route.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(gateway)));
        [
            // REPLACE: the route over the service's link before this one is there until the kernel has taken that link
            // away, some 20 ms after its namespace was closed. A link that goes takes only the routes over itself.
            Request::new(
                RouteNetlinkMessage::NewRoute(route),
                NLM_F_CREATE | NLM_F_REPLACE,
                ("RTM_NEWROUTE", format!("{address}/{}, {:?}", bits(address), plan.routed_if())),
            ),
            add_neighbour(index, address, plan.guest_mac),
        ]
    };
    plan.ends().flat_map(of).collect()
}

/// A route to one address.
pub(super) fn way(index: u32, address: IpAddr) -> RouteMessage {
    let mut route = route(address);
    route.header.destination_prefix_length = bits(address);
    route.attributes =
        vec![RouteAttribute::Destination(RouteAddress::from(address)), RouteAttribute::Oif(index)];
    route
}

/// The same for the service's end.
fn guest_side(index: u32, plan: &LinkPlan) -> Vec<Request> {
    let mut all = vec![set_up(index, &plan.guest_if, LinkFlags::Up)];
    for (address, gateway) in plan.ends() {
        all.push(add_address(index, address, bits(address)));
        all.extend(receive(index, address));
        all.push(default_route_via(index, gateway, &plan.guest_if));
        all.push(add_neighbour(index, gateway, plan.gateway_mac()));
    }
    all
}

/// The way to everywhere.
pub(super) fn default_route_via(index: u32, gateway: IpAddr, name: &str) -> Request {
    let mut default = route(gateway);
    // onlink: a gateway need not be in a network of the link's; that of a routed link is in none.
    default.header.flags = RouteFlags::Onlink;
    default.attributes =
        vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
    let what = ("RTM_NEWROUTE", format!("default, via {gateway}, {name:?}"));
    Request::new(RouteNetlinkMessage::NewRoute(default), NLM_F_CREATE | NLM_F_EXCL, what)
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Of an address, and of nothing else.
fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Of the family of `address`.
fn route(address: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(address);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route
}

pub(super) fn add_address(index: u32, address: IpAddr, prefix_len: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // Nobody else is there who could have it: no waiting for an objection. Nor a route to its network: it has none.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    Request::new(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
        ("RTM_NEWADDR", format!("{address}/{prefix_len}")),
    )
}

/// What makes an end take packets for its IPv6 address from now on: the kernel adds such a route of its own some time
/// later, from a work queue (`addrconf_dad_work`), and until then the first clients' packets are lost.
fn receive(index: u32, address: IpAddr) -> Option<Request> {
    let mut local = way(index, address);
    local.header.table = RT_TABLE_LOCAL;
    local.header.kind = RouteType::Local;
    let what = ("RTM_NEWROUTE", format!("local {address}"));
    // Not EXCL: every link's end has the gateway's address, each with a route of its own.
    address.is_ipv6().then(|| Request::new(RouteNetlinkMessage::NewRoute(local), NLM_F_CREATE, what))
}

/// Who has `address` on this interface.
pub(super) fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(address))];
    message
}

fn add_neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour(index, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Request::new(
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
        ("RTM_NEWNEIGH", format!("{address}, {mac}, permanent")),
    )
}

pub(super) fn set_up(index: u32, name: &str, flags: LinkFlags) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = flags;
    Request::new(RouteNetlinkMessage::SetLink(message), 0, ("RTM_SETLINK", format!("{name:?}, up")))
}

/// The kernel looks in the namespace of the socket; a dump would cost as much as there are services.
pub(super) fn index(socket: &Netlink, name: &str) -> Result<u32, NetError> {
    rustix::net::netdevice::name_to_index(socket, name)
        .map_err(|errno| SysError::new("ioctl", format!("SIOCGIFINDEX, {name:?}"), errno).into())
}

/// Whether the namespace of the socket has an interface of this name.
pub fn is_there(socket: &Netlink, name: &str) -> bool {
    index(socket, name).is_ok()
}

/// Whether the host's end of a link is where it was put: somebody may have taken it away, or its bridge.
///
/// # Errors
/// The kernel's answer.
pub fn is_in_place(host: &mut Netlink, plan: &LinkPlan) -> Result<bool, NetError> {
    let Ok(end) = index(host, &plan.host_if) else { return Ok(false) };
    let Some(bridge) = &plan.bridge else { return Ok(true) };
    let Ok(bridge) = index(host, bridge) else { return Ok(false) };
    let mut wanted = LinkMessage::default();
    wanted.header.index = end;
    let found = host.get(RouteNetlinkMessage::GetLink(wanted), "RTM_GETLINK")?;
    Ok(matches!(found, Some(RouteNetlinkMessage::NewLink(link))
        if link.attributes.contains(&LinkAttribute::Controller(bridge))))
}

/// An interface of the namespace that a socket was opened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique at any one time.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its group; 0 unless somebody set it.
    pub group: u32,
    /// Every packet comes back.
    pub is_loopback: bool,
}

/// Every interface.
///
/// # Errors
/// The kernel's answer.
pub fn links(socket: &mut Netlink) -> Result<Vec<Link>, NetError> {
    let all = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "RTM_GETLINK")?;
    Ok(all.into_iter().filter_map(link).collect())
}

/// What is read out of an answer; for `fuzz/`.
#[cfg(fuzzing)]
pub(super) fn parts(message: RouteNetlinkMessage) -> usize {
    default_route(message.clone()).len() + usize::from(link(message).is_some())
}

fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let group = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Group(group) => Some(*group),
        _ => None,
    });
    let is_loopback = message.header.flags.contains(LinkFlags::Loopback);
    Some(Link { index: message.header.index, name, group: group.unwrap_or(0), is_loopback })
}

/// Takes a link away, both ends; one that is gone already is no error. Waits for RCU, some 15 ms: many at once go by
/// [`remove_group`], and the link of a namespace that is closed goes by itself.
///
/// # Errors
/// The kernel's answer.
pub fn remove(host: &mut Netlink, host_if: &str) -> Result<(), NetError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(host_if.to_owned()));
    delete(host, message, &format!("{host_if:?}"))
}

/// Takes all links of a group away with one message; none is no error.
///
/// # Errors
/// The kernel's answer; EINVAL for group 0, which is everybody's.
pub fn remove_group(host: &mut Netlink, group: u32) -> Result<(), NetError> {
    let args = format!("group {group:#x}");
    if group == 0 {
        return Err(SysError::new("RTM_DELLINK", args, libc::EINVAL).into());
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    delete(host, message, &args)
}

fn delete(host: &mut Netlink, message: LinkMessage, args: &str) -> Result<(), NetError> {
    let what = ("RTM_DELLINK", args.to_owned());
    match host.request(Request::new(RouteNetlinkMessage::DelLink(message), 0, what)) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        done => done,
    }
}

/// The names of a group's links, for finding what a supervisor that died has left.
///
/// # Errors
/// The kernel's answer.
pub fn list_group(host: &mut Netlink, group: u32) -> Result<Vec<String>, NetError> {
    let all = links(host)?;
    Ok(all.into_iter().filter(|link| link.group == group).map(|link| link.name).collect())
}

/// The interfaces of the host's default routes (main table), where egress of a family leaves.
///
/// # Errors
/// The kernel's answer.
pub fn uplinks(host: &mut Netlink, is_ipv6: bool) -> Result<Vec<String>, NetError> {
    let mut wanted = RouteMessage::default();
    wanted.header.address_family = if is_ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let routes = host.dump(&RouteNetlinkMessage::GetRoute(wanted), "RTM_GETROUTE")?;
    let indices: Vec<u32> = routes.into_iter().flat_map(default_route).collect();
    let links = links_at(host, &indices)?;
    Ok(links.into_iter().filter(|link| !link.is_loopback).map(|link| link.name).collect())
}

/// The output interfaces of a default route of the main table; none of any other route.
fn default_route(message: RouteNetlinkMessage) -> Vec<u32> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return Vec::new() };
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return Vec::new();
    }
    let mut out = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => out.push(*index),
            RouteAttribute::MultiPath(hops) => out.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => (),
        }
    }
    out
}

/// The interfaces on which clients of a published address arrive: for `0.0.0.0` all with an IPv4 address, for `::` all
/// with an IPv6 address, else the one that has the address. Neither loopback nor any Palisade's own links, of which those
/// with these `gateways` are not even looked at: there may be a thousand.
///
/// Packets that arrive there for a service are forwarded, which the kernel does only where forwarding is on
/// ([`super::forwarding`]).
///
/// # Errors
/// The kernel's answer.
pub fn doors(host: &mut Netlink, address: IpAddr, gateways: &[IpAddr]) -> Result<Vec<String>, NetError> {
    if address.is_loopback() {
        return Ok(Vec::new());
    }
    let is_meant = |own: &IpAddr| match address.is_unspecified() {
        true => own.is_ipv6() == address.is_ipv6() && !gateways.contains(own),
        false => *own == address,
    };
    let by_index = addresses(host)?.into_iter();
    let meant: Vec<u32> =
        by_index.filter(|(_, has)| has.iter().any(is_meant)).map(|(index, _)| index).collect();
    let is_door = |link: &Link| !link.is_loopback && link.group & GROUP_MASK != GROUP_BASE;
    Ok(links_at(host, &meant)?.into_iter().filter(is_door).map(|link| link.name).collect())
}

/// The links with these indices, one by one: a list of all of them grows with the services. One that is gone is left out.
fn links_at(host: &mut Netlink, indices: &[u32]) -> Result<Vec<Link>, NetError> {
    let mut found = Vec::new();
    for index in indices.iter().collect::<BTreeSet<_>>() {
        let mut wanted = LinkMessage::default();
        wanted.header.index = *index;
        let answer = host.get(RouteNetlinkMessage::GetLink(wanted), "RTM_GETLINK")?;
        found.extend(answer.and_then(link));
    }
    Ok(found)
}

/// The addresses of the namespace that the socket was opened in, by the index of their link.
///
/// # Errors
/// Of the dump.
pub fn addresses(host: &mut Netlink) -> Result<BTreeMap<u32, Vec<IpAddr>>, NetError> {
    let wanted = AddressMessage::default();
    let mut by_index: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for message in host.dump(&RouteNetlinkMessage::GetAddress(wanted), "RTM_GETADDR")? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        by_index.entry(message.header.index).or_default().extend(own_address(&message));
    }
    Ok(by_index)
}

/// The address itself: of a point-to-point IPv4 address the near end, which IPv6 says only where it differs.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
