//! A link on one of the host's: made there, born in the service's network namespace under its final name.
//!
//! The host sees nothing of what passes: no route, no neighbour, and no packet filter of its. The kernel keeps it from the
//! host itself and, in the private modes, from the other links on the same parent.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoIpVlan, InfoKind, InfoMacVlan, IpVlanFlags, IpVlanMode, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage, MacVlanMode,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    NetError,
    addr::{GROUP_BASE, GROUP_MASK, GUEST_IF, Mac},
    link,
    netlink::{Netlink, Request},
    netns::NetNs,
};
use crate::spec::{Attached, AttachedKind, Network};

/// What such a link needs to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachPlan {
    /// Where, and with which address.
    pub to: Attached,
    /// Its name inside.
    pub guest_if: String,
    /// Its hardware address; of an ipvlan the parent's counts.
    pub mac: Mac,
    /// Bytes; none: the parent's.
    pub mtu: Option<u32>,
}

impl AttachPlan {
    /// The link that a file asks for; none where it asks for another kind.
    pub fn new(network: &Network) -> Option<Self> {
        let to = network.attached()?.clone();
        Some(Self {
            guest_if: network.interface.clone().unwrap_or_else(|| GUEST_IF.to_owned()),
            // As of a routed link: it stays over restarts, so that no neighbour's table goes stale.
            mac: network.mac.unwrap_or_else(|| Mac::guest(to.address.addr())),
            mtu: network.mtu,
            to,
        })
    }
}

/// Makes the link of `plan` in `netns`, and sets it up.
///
/// # Errors
/// The first message that failed; the link goes with the namespace. EOPNOTSUPP on RTM_NEWLINK: the kernel has no such kind.
pub fn create(host: &mut Netlink, netns: &NetNs, plan: &AttachPlan) -> Result<(), NetError> {
    let parent = link::index(host, &plan.to.parent)?;
    // On the host's end of a service's link it would be behind the packet filter, beside that service.
    let is_services = |one: &link::Link| one.index == parent && one.group & GROUP_MASK == GROUP_BASE;
    if link::links(host)?.iter().any(is_services) {
        return Err(NetError::ParentIsServices(plan.to.parent.clone()));
    }
    let what = format!("{}, {:?} on {:?}", plan.to.kind.name(), plan.guest_if, plan.to.parent);
    let message = RouteNetlinkMessage::NewLink(message(parent, netns, plan));
    host.request(Request::new(message, NLM_F_CREATE | NLM_F_EXCL, ("RTM_NEWLINK", what)))?;
    let mut guest = netns.within(Netlink::route)??;
    let index = link::index(&guest, &plan.guest_if)?;
    let address = plan.to.address;
    let mut requests = vec![
        link::set_up(index, &plan.guest_if, LinkFlags::Up),
        link::add_address(index, address.addr().into(), address.prefix_len()),
    ];
    requests.extend(
        plan.to.gateway.map(|gateway| link::default_route_via(index, gateway.into(), &plan.guest_if)),
    );
    guest.requests(requests)
}

/// Whether the link is still there: it goes with its parent, and anybody on the host may take that away.
pub fn is_there(netns: &NetNs, plan: &AttachPlan) -> bool {
    let looked = netns.within(|| link::index(&Netlink::route()?, &plan.guest_if));
    matches!(looked, Ok(Ok(_)))
}

fn message(parent: u32, netns: &NetNs, plan: &AttachPlan) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(plan.guest_if.clone()));
    link.attributes.push(LinkAttribute::Link(parent));
    link.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    link.attributes.extend(plan.mtu.map(LinkAttribute::Mtu));
    let (kind, data) = match plan.to.kind {
        AttachedKind::Macvlan => {
            link.attributes.push(LinkAttribute::Address(plan.mac.0.to_vec()));
            (InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Private)]))
        }
        AttachedKind::Ipvlan => {
            let data = vec![InfoIpVlan::Mode(IpVlanMode::L2), InfoIpVlan::Flags(IpVlanFlags::Private)];
            (InfoKind::IpVlan, InfoData::IpVlan(data))
        }
    };
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    link
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    #[test]
    fn links_of_either_kind_keep_from_one_another() {
        let to = |kind| Attached {
            kind,
            parent: "up0".to_owned(),
            address: "192.0.2.10/24".parse().unwrap(),
            gateway: None,
        };
        let plan = |kind| AttachPlan {
            to: to(kind),
            guest_if: "eth0".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 7]),
            mtu: None,
        };
        let netns = NetNs::own().unwrap();
        let bytes = |kind| {
            let message = message(3, &netns, &plan(kind));
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            bytes
        };
        let has = |all: &[u8], part: &[u8]| all.windows(part.len()).any(|window| window == part);
        // IFLA_MACVLAN_MODE, MACVLAN_MODE_PRIVATE; IFLA_IPVLAN_MODE, IPVLAN_MODE_L2; IFLA_IPVLAN_FLAGS, IPVLAN_F_PRIVATE.
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        let macvlan = bytes(AttachedKind::Macvlan);
        assert!(has(&macvlan, b"macvlan") && has(&macvlan, &[2, 0, 0, 0, 0, 7]));
        assert!(has(&macvlan, &attribute(1, &1_u32.to_ne_bytes())));
        let ipvlan = bytes(AttachedKind::Ipvlan);
        assert!(has(&ipvlan, b"ipvlan") && !has(&ipvlan, &[2, 0, 0, 0, 0, 7]));
        assert!(has(&ipvlan, &attribute(1, &0_u16.to_ne_bytes())));
        assert!(has(&ipvlan, &attribute(2, &1_u16.to_ne_bytes())));
    }
}
