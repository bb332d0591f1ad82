//! Connections that the host keeps track of and that must be forgotten when what they rest on changes.
//!
//! The kernel decides about translation with the first packet of a connection and then follows that decision. A UDP
//! client that sends from one port for ever and asked before the port was published is never translated, and one that
//! knew a service under its old address is sent there for ever, unless the entry is deleted.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::{
    NetError,
    addr::Talk,
    netlink::{Encoder, NLA_F_NESTED, Netlink, attributes, messages},
};
use crate::{
    spec::{Door, Proto, Publish},
    sys::SysError,
};

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;
const IPCTNL_MSG_CT_DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_FILTER: u16 = 25 | NLA_F_NESTED;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1 << 0;
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

fn proto_number(proto: Proto) -> u8 {
    match proto {
        Proto::Tcp => IPPROTO_TCP,
        Proto::Udp => IPPROTO_UDP,
    }
}

/// Where a connection goes from and to, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
    dst_port: u16,
}

/// One entry: both directions, and what the kernel knows it by.
struct Entry {
    orig: Tuple,
    reply: Tuple,
    orig_bytes: Vec<u8>,
    id: Vec<u8>,
}

/// The connection tracking of the network namespace that this was opened in.
#[derive(Debug)]
pub struct Conntrack(Netlink);

impl Conntrack {
    /// Opens the socket.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn open() -> Result<Self, NetError> {
        Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).map(Self)
    }

    /// Forgets every connection from and to a service: its address is to be another's, or its ports lead elsewhere.
    /// Returns how many there were.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn forget_service(&mut self, address: Ipv4Addr) -> Result<usize, NetError> {
        let mut stale = Vec::new();
        for (tuple, flags) in
            [(CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS)]
        {
            stale.extend(self.dump(|m| {
                m.nest(tuple | NLA_F_NESTED, |t| {
                    t.nest(CTA_TUPLE_IP | NLA_F_NESTED, |ip| ip.attribute(CTA_IP_V4_SRC, &address.octets()));
                });
                m.nest(CTA_FILTER, |f| f.attribute(flags, &CTA_FILTER_F_CTA_IP_SRC.to_ne_bytes()));
            })?);
        }
        // The kernel has filtered; a kernel that did not must not cost anybody else a connection.
        stale.retain(|entry| entry.orig.src == address || entry.reply.src == address);
        self.delete(&stale)
    }

    /// Forgets the connections that one service has with another because it was allowed to. Returns how many there were.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn forget_talk(&mut self, talk: &Talk) -> Result<usize, NetError> {
        let mut stale = self.dump(|m| {
            m.nest(CTA_TUPLE_ORIG | NLA_F_NESTED, |t| {
                t.nest(CTA_TUPLE_IP | NLA_F_NESTED, |ip| ip.attribute(CTA_IP_V4_SRC, &talk.from.octets()));
            });
            m.nest(CTA_FILTER, |f| {
                f.attribute(CTA_FILTER_ORIG_FLAGS, &CTA_FILTER_F_CTA_IP_SRC.to_ne_bytes());
            });
        })?;
        stale.retain(|Entry { orig, .. }| {
            let is_door = match talk.door {
                Door::Any => true,
                Door::One(port, proto) => orig.proto == proto_number(proto) && orig.dst_port == port,
            };
            orig.src == talk.from && orig.dst == talk.to && is_door
        });
        self.delete(&stale)
    }

    /// Forgets the UDP clients that spoke to a port of the host before it was published. Returns how many there were.
    /// (A TCP client makes a new connection; there is nothing to forget.)
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn forget_clients(&mut self, publish: &Publish) -> Result<usize, NetError> {
        if publish.proto != Proto::Udp {
            return Ok(0);
        }
        let own = own_addresses()?;
        let mut stale = self.dump(|m| {
            m.nest(CTA_TUPLE_ORIG | NLA_F_NESTED, |t| {
                t.nest(CTA_TUPLE_PROTO | NLA_F_NESTED, |proto| {
                    proto.attribute(CTA_PROTO_NUM, &[IPPROTO_UDP]);
                    proto.attribute(CTA_PROTO_DST_PORT, &publish.host_port.to_be_bytes());
                });
            });
            let flags = CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT;
            m.nest(CTA_FILTER, |f| f.attribute(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes()));
        })?;
        stale.retain(|Entry { orig, reply, .. }| {
            let is_here = orig.dst.is_loopback() || own.contains(&orig.dst);
            let is_meant = publish.address.is_unspecified() || publish.address == orig.dst;
            // Untranslated: answers come from where the client sent to.
            let is_plain = reply.src == orig.dst && reply.dst == orig.src;
            orig.proto == IPPROTO_UDP && orig.dst_port == publish.host_port && is_here && is_meant && is_plain
        });
        self.delete(&stale)
    }

    fn dump(&mut self, filter: impl FnOnce(&mut Encoder)) -> Result<Vec<Entry>, NetError> {
        let sequence = self.0.take_sequence(1);
        let mut request = Encoder::default();
        request.message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| {
            m.raw(&[AF_INET, 0, 0, 0]);
            filter(m);
        });
        let mut all = Vec::new();
        self.0.exchange(request.bytes(), sequence, "IPCTNL_MSG_CT_GET", |message| {
            all.extend(entry(message.body));
        })?;
        Ok(all)
    }

    fn delete(&mut self, entries: &[Entry]) -> Result<usize, NetError> {
        for entry in entries {
            let sequence = self.0.take_sequence(1);
            let mut request = Encoder::default();
            request.message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, |m| {
                m.raw(&[AF_INET, 0, 0, 0]);
                m.attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, &entry.orig_bytes);
                m.attribute(CTA_ID, &entry.id);
            });
            self.0.send(request.bytes())?;
            let Entry { orig, .. } = entry;
            let args = format!("{} to {}:{}", orig.src, orig.dst, orig.dst_port);
            let failed = || SysError::new("IPCTNL_MSG_CT_DELETE", &args, libc::EPROTO);
            let datagram = self.0.receive()?.ok_or_else(failed)?;
            let ack = messages(datagram).find_map(|message| message.ack()).ok_or_else(failed)?;
            match ack.result("IPCTNL_MSG_CT_DELETE", &args) {
                // It ended by itself meanwhile.
                Err(error) if error.errno() != Some(libc::ENOENT) => return Err(error),
                _ => (),
            }
        }
        Ok(entries.len())
    }
}

/// For `fuzz/`.
#[cfg(fuzzing)]
pub(super) fn is_entry(body: &[u8]) -> bool {
    entry(body).is_some()
}

/// Reads an entry of a dump; none for one that is not IPv4 or has no ports.
fn entry(body: &[u8]) -> Option<Entry> {
    let find = |kind| attributes(body.get(4..)?).find(|(k, _)| *k == kind).map(|(_, value)| value);
    let orig_bytes = find(CTA_TUPLE_ORIG)?;
    let (orig, reply) = (tuple(orig_bytes)?, tuple(find(CTA_TUPLE_REPLY)?)?);
    Some(Entry { orig, reply, orig_bytes: orig_bytes.to_vec(), id: find(CTA_ID)?.to_vec() })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let find = |nest, kind| {
        let (_, inner) = attributes(bytes).find(|(k, _)| *k == nest)?;
        attributes(inner).find(|(k, _)| *k == kind).map(|(_, value)| value)
    };
    let address =
        |kind| find(CTA_TUPLE_IP, kind)?.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets));
    // ICMP has none.
    let dst_port = find(CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT).and_then(|port| port.first_chunk());
    Some(Tuple {
        src: address(CTA_IP_V4_SRC)?,
        dst: address(CTA_IP_V4_DST)?,
        proto: *find(CTA_TUPLE_PROTO, CTA_PROTO_NUM)?.first()?,
        dst_port: dst_port.map_or(0, |port| u16::from_be_bytes(*port)),
    })
}

/// Every IPv4 address of the namespace that the calling thread is in.
fn own_addresses() -> Result<Vec<Ipv4Addr>, NetError> {
    let mut wanted = AddressMessage::default();
    wanted.header.family = AddressFamily::Inet;
    let all = Netlink::route()?.dump(&RouteNetlinkMessage::GetAddress(wanted), "RTM_GETADDR")?;
    let local = |message| match message {
        RouteNetlinkMessage::NewAddress(AddressMessage { attributes, .. }) => {
            attributes.into_iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(address),
                _ => None,
            })
        }
        _ => None,
    };
    Ok(all.into_iter().filter_map(local).collect())
}
