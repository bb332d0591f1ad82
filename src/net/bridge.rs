//! A bridge of the host's for the links of some services (`network.bridge`): one interface that has the host's addresses and
//! the routes to all of them, for whoever wants to name them together, in the host's firewall or to tcpdump(8).
//!
//! ```text
//!   host                                             service's network namespace
//!   ps1a2b-apps  10.83.0.1/32  02:51:0a:53:00:01
//!     |  route 10.83.0.2/32, neighbour permanent
//!     +- ps1a2b-0a, port: isolated, locked     <->   eth0  10.83.0.2/32  02:50:..
//!     |    entry 02:50:.. static                     default via 10.83.0.1, neighbour permanent
//!     +- ps1a2b-1a ...
//! ```
//! It is no segment that services share. A port takes frames from the hardware address that it was made for, and from no
//! other (`locked`, Linux 5.16), hands them to the bridge itself and to no other port (`isolated`), and is given what is for
//! that address alone: nothing is flooded, nothing learnt. So services talk to each other by the host's routing and its
//! packet filter, as they do over links of their own.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
};

use super::{
    NetError,
    link::{self, LinkPlan},
    netlink::{Netlink, Request},
};

/// Makes the bridge of `plan`, with the addresses that are next hop of all its ports.
///
/// # Errors
/// The first message that failed; what had been made is gone again. EEXIST on RTM_NEWLINK: the name is taken.
pub fn create(host: &mut Netlink, name: &str, plan: &LinkPlan) -> Result<(), NetError> {
    let mut bridge = LinkMessage::default();
    bridge.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        // Of its own: it would else change with its ports.
        LinkAttribute::Address(plan.gateway_mac().0.to_vec()),
        LinkAttribute::Group(plan.group),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                // A port carries packets at once: there are no other bridges to listen for.
                InfoBridge::ForwardDelay(0),
                // Nor is anybody to be heard who asks for what is sent to many.
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    host.request(Request::new(
        RouteNetlinkMessage::NewLink(bridge),
        NLM_F_CREATE | NLM_F_EXCL,
        ("RTM_NEWLINK", format!("{name:?}, bridge")),
    ))?;
    let done = furnish(host, name, plan);
    if done.is_err() {
        // The first cause is what counts; a bridge that stays is found again by its group.
        let _ = link::remove(host, name);
    }
    done
}

fn furnish(host: &mut Netlink, name: &str, plan: &LinkPlan) -> Result<(), NetError> {
    link::host_settings(name, plan)?;
    let index = link::index(host, name)?;
    let mut all = vec![link::set_up(index, name, LinkFlags::Up | LinkFlags::Noarp)];
    all.extend(link::gateways(index, plan));
    host.requests(all)
}

/// Makes the host's end of a link a port of the bridge, and leads the service's addresses over it.
///
/// # Errors
/// The first message that failed. EEXIST on RTM_NEWNEIGH: somebody on the bridge has that hardware address.
pub(super) fn plug(host: &mut Netlink, (port, bridge): (u32, &str), plan: &LinkPlan) -> Result<(), NetError> {
    // Nobody speaks to the port itself.
    link::ipv6_settings(&plan.host_if, false)?;
    if plan.route_localnet {
        link::route_localnet(bridge)?;
    }
    let index = link::index(host, bridge)?;
    let mut all = vec![
        set(port, plan, vec![LinkAttribute::Controller(index)], "to the bridge"),
        set(port, plan, vec![LinkAttribute::LinkInfo(walls())], "isolated, locked"),
        Request::new(
            RouteNetlinkMessage::NewNeighbour(entry(port, plan)),
            NLM_F_CREATE | NLM_F_EXCL,
            ("RTM_NEWNEIGH", format!("{}, static, {:?}", plan.guest_mac, plan.host_if)),
        ),
        link::set_up(port, &plan.host_if, LinkFlags::Up | LinkFlags::Noarp),
    ];
    all.extend(link::ways(index, plan));
    host.requests(all)?;
    link::catch_up(host, port, &plan.host_if)?;
    link::catch_up(host, index, bridge)
}

fn set(port: u32, plan: &LinkPlan, attributes: Vec<LinkAttribute>, what: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = port;
    message.attributes = attributes;
    let what = ("RTM_NEWLINK", format!("{:?}, {what}", plan.host_if));
    Request::new(RouteNetlinkMessage::NewLink(message), 0, what)
}

fn walls() -> Vec<LinkInfo> {
    let port = vec![
        InfoBridgePort::Isolated(true),
        InfoBridgePort::Locked(true),
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::MulticastFlood(false),
        InfoBridgePort::BroadcastFlood(false),
    ];
    vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(port))]
}

/// The hardware address behind a port.
fn entry(port: u32, plan: &LinkPlan) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(plan.guest_mac.0.to_vec())];
    message
}

/// Takes what leads to a service over its bridge away: the port goes with the service's network namespace, some time later.
///
/// # Errors
/// The kernel's answer; that it is gone already, or the bridge, is none.
pub fn unplug(host: &mut Netlink, bridge: &str, plan: &LinkPlan) -> Result<(), NetError> {
    if let Some(port) = present(link::index(host, &plan.host_if))? {
        let what = ("RTM_DELNEIGH", format!("{}, {:?}", plan.guest_mac, plan.host_if));
        present(host.request(Request::new(RouteNetlinkMessage::DelNeighbour(entry(port, plan)), 0, what)))?;
    }
    let Some(index) = present(link::index(host, bridge))? else { return Ok(()) };
    plan.addresses().try_for_each(|address| forget(host, (index, bridge), address))
}

/// Takes away what leads over a bridge to anybody but the services behind these ports.
///
/// # Errors
/// The kernel's answer; that the bridge is gone is none.
pub fn settle(host: &mut Netlink, bridge: &str, live: &[&LinkPlan]) -> Result<(), NetError> {
    let Some(index) = present(link::index(host, bridge))? else { return Ok(()) };
    let live: BTreeSet<IpAddr> = live.iter().flat_map(|link| link.addresses()).collect();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        for message in host.dump(&RouteNetlinkMessage::GetRoute(wanted), "RTM_GETROUTE")? {
            if let Some(address) = led_to(message, index).filter(|address| !live.contains(address)) {
                forget(host, (index, bridge), address)?;
            }
        }
    }
    Ok(())
}

/// Whom a route of the main table leads to over this interface.
fn led_to(message: RouteNetlinkMessage, index: u32) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    let is_over = route.attributes.contains(&RouteAttribute::Oif(index));
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let is_main = route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.kind == RouteType::Unicast;
    to.filter(|_| is_over && is_main)
}

fn forget(host: &mut Netlink, (index, bridge): (u32, &str), address: IpAddr) -> Result<(), NetError> {
    let what = |call| (call, format!("{address}, {bridge:?}"));
    let mut route = link::way(index, address);
    // Whatever it is.
    route.header.scope = RouteScope::NoWhere;
    let route = RouteNetlinkMessage::DelRoute(route);
    let neighbour = RouteNetlinkMessage::DelNeighbour(link::neighbour(index, address));
    present(host.request(Request::new(route, 0, what("RTM_DELROUTE"))))?;
    present(host.request(Request::new(neighbour, 0, what("RTM_DELNEIGH")))).map(drop)
}

/// What came of something that may be gone already.
fn present<T>(result: Result<T, NetError>) -> Result<Option<T>, NetError> {
    match result {
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH)) => Ok(None),
        done => done.map(Some),
    }
}
