//! Whether the addresses that services are to get are somebody's already: the host's, those of a network that it reaches,
//! or those of another supervisor's services.
//!
//! A service's own route is one address long and would win over every other one: what was reached there before would not be
//! reached any more, and nobody would be told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::{
    NetError,
    addr::{GROUP_BASE, GROUP_MASK, NetworkSettings},
    link::{self, Link, RT_TABLE_LOCAL},
    netlink::Netlink,
};

/// Routes to more than this are no network but the way out: a default route, or the halves and eighths of one that programs
/// for private networks make.
const WAY_OUT: u8 = 8;

/// What the host has: where its routes lead, over which links, and its own addresses.
#[derive(Debug, Default)]
struct Host {
    routes: Vec<(IpNet, Vec<u32>)>,
    addresses: Vec<(IpAddr, u32)>,
    links: Vec<Link>,
}

/// Looks whether a prefix of ours is in use by anybody else.
///
/// # Errors
/// [`NetError::Overlap`], with who has it; of the dumps.
pub fn check(socket: &mut Netlink, settings: &NetworkSettings) -> Result<(), NetError> {
    let host = read(socket)?;
    for prefix in settings.prefixes() {
        if let Some(with) = overlap(&host, prefix, &settings.relatives()) {
            return Err(NetError::Overlap { prefix, with, key: key(prefix), free: free(&host, prefix) });
        }
    }
    Ok(())
}

fn key(prefix: IpNet) -> &'static str {
    match prefix {
        IpNet::V4(_) => "prefix4",
        IpNet::V6(_) => "prefix6",
    }
}

/// Who else has addresses of `prefix`, in words. Links of these groups are no strangers'.
fn overlap(host: &Host, prefix: IpNet, ours: &BTreeSet<u32>) -> Option<String> {
    let is_ours = |link: &Link| ours.contains(&link.group);
    let link = |index: &u32| host.links.iter().find(|link| link.index == *index);
    let said = |what: String, link: &Link| match link.group & GROUP_MASK {
        GROUP_BASE => format!("{what}, which another supervisor of this host has given away ({})", link.name),
        _ => format!("{what} on {}", link.name),
    };
    let addresses = host.addresses.iter().filter(|(address, _)| prefix.contains(address));
    // A link that has gone since the routes were listed has taken them along.
    let mut addresses = addresses.filter_map(|(address, index)| Some((address, link(index)?)));
    let routes = host.routes.iter().filter(|(to, _)| to.prefix_len() >= WAY_OUT && meet(*to, prefix));
    let mut routes = routes.filter_map(|(to, over)| {
        let foreign = over.iter().filter_map(link).find(|link| !is_ours(link))?;
        Some((to, foreign))
    });
    let address = addresses.find(|(_, link)| !is_ours(link));
    address
        .map(|(address, link)| said(format!("the address {address}"), link))
        .or_else(|| routes.next().map(|(to, link)| said(format!("the route to {to}"), link)))
}

fn meet(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Another prefix of that size, which nobody has.
fn free(host: &Host, prefix: IpNet) -> Option<IpNet> {
    let start = |n: u16| match prefix {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::new(10, u8::try_from(n).ok()?, 0, 0)).into(),
        IpNet::V6(_) => Some(IpAddr::V6(Ipv6Addr::new(0xfd50, 0x5301, n, 0, 0, 0, 0, 0))),
    };
    let mut all = (84..=254).filter_map(|n| IpNet::new(start(n)?, prefix.prefix_len()).ok());
    all.find(|net| net.addr() == net.network() && overlap(host, *net, &BTreeSet::new()).is_none())
}

fn read(socket: &mut Netlink) -> Result<Host, NetError> {
    let mut host = Host::default();
    let routes = socket.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()), "RTM_GETROUTE")?;
    host.routes = routes.into_iter().filter_map(route).collect();
    let addresses =
        socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), "RTM_GETADDR")?;
    host.addresses = addresses.into_iter().filter_map(address).collect();
    host.links = link::links(socket)?;
    Ok(host)
}

fn address(message: RouteNetlinkMessage) -> Option<(IpAddr, u32)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    link::own_address(&message).map(|address| (address, message.header.index))
}

/// Where a route leads that packets are sent over: one that turns them away leads nowhere, and what the table of local
/// addresses has is an address.
fn route(message: RouteNetlinkMessage) -> Option<(IpNet, Vec<u32>)> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    let header = &route.header;
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let is_local = table.unwrap_or(u32::from(header.table)) == u32::from(RT_TABLE_LOCAL);
    let is_ip = matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    if header.kind != RouteType::Unicast || is_local || !is_ip {
        return None;
    }
    let (mut to, mut over) = (None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => to = Some(IpAddr::V6(*address)),
            RouteAttribute::Oif(index) => over.push(*index),
            RouteAttribute::MultiPath(hops) => over.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => (),
        }
    }
    IpNet::new(to?, header.destination_prefix_length).ok().map(|to| (to, over))
}

/// What is read out of an answer; for `fuzz/`.
#[cfg(fuzzing)]
pub(super) fn parts(message: RouteNetlinkMessage) -> usize {
    usize::from(route(message.clone()).is_some()) + usize::from(address(message).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = GROUP_BASE | 7;

    fn host(routes: &[(&str, u32)], addresses: &[(&str, u32)]) -> Host {
        let link = |(index, name, group): (u32, &str, u32)| Link {
            index,
            name: name.to_owned(),
            group,
            is_loopback: false,
        };
        Host {
            routes: routes.iter().map(|(to, over)| (to.parse().unwrap(), vec![*over])).collect(),
            addresses: addresses.iter().map(|(address, on)| (address.parse().unwrap(), *on)).collect(),
            links: [(1, "eth0", 0), (2, "ours", OURS), (3, "theirs", GROUP_BASE | 8)].map(link).into(),
        }
    }

    fn said(host: &Host) -> Option<String> {
        overlap(host, "10.83.0.0/16".parse().unwrap(), &BTreeSet::from([OURS]))
    }

    #[test]
    fn what_others_have_is_named_and_a_way_out_is_nobodys() {
        for to in ["10.83.5.0/24", "10.83.0.0/16", "10.80.0.0/12", "10.0.0.0/8", "10.83.0.9/32"] {
            assert_eq!(said(&host(&[(to, 1)], &[])), Some(format!("the route to {to} on eth0")));
        }
        let others = said(&host(&[("10.83.0.2/32", 3)], &[])).unwrap();
        assert!(others.contains("another supervisor") && others.contains("theirs"), "{others}");
        assert_eq!(
            said(&host(&[("10.83.1.0/24", 1)], &[("10.83.1.7", 1)])).as_deref(),
            Some("the address 10.83.1.7 on eth0")
        );
        for free in ["0.0.0.0/0", "0.0.0.0/1", "8.0.0.0/7", "10.84.0.0/16", "192.168.0.0/16", "fd00::/8"] {
            assert_eq!(said(&host(&[(free, 1)], &[("10.84.0.1", 1)])), None, "{free}");
        }
        // Ours, and one whose link has gone meanwhile.
        assert_eq!(said(&host(&[("10.83.0.2/32", 2), ("10.83.0.3/32", 9)], &[("10.83.0.1", 2)])), None);
    }

    #[test]
    fn a_free_prefix_is_offered() {
        let taken = host(&[("10.84.0.0/15", 1), ("10.86.9.0/24", 3)], &[("10.87.0.1", 1)]);
        assert_eq!(free(&taken, "10.83.0.0/16".parse().unwrap()).unwrap().to_string(), "10.88.0.0/16");
        assert_eq!(free(&taken, "10.80.0.0/12".parse().unwrap()).unwrap().to_string(), "10.96.0.0/12");
        let ours = "fd50:5300:1234::/64".parse().unwrap();
        assert_eq!(free(&taken, ours).unwrap().to_string(), "fd50:5301:54::/64");
        assert_eq!(free(&host(&[("10.0.0.0/8", 1)], &[]), "10.83.0.0/16".parse().unwrap()), None);
    }
}
