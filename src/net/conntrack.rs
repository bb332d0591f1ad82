//! Connections that the host keeps track of and that must be forgotten when what they rest on changes.
//!
//! The kernel decides about translation with the first packet of a connection and then follows that decision. A UDP
//! client that sends from one port for ever and asked before the port was published is never translated, and one that
//! knew a service under its old address is sent there for ever, unless the entry is deleted.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use super::{
    NetError,
    addr::Talk,
    link,
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
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
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
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    src_port: u16,
    dst_port: u16,
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Which way a packet goes: as the first one of its connection, or back.
#[derive(Clone, Copy)]
enum Direction {
    Orig,
    Reply,
}

/// Asks for the connections alone in which packets of this direction have this source. Of IPv6 all are dumped, and the
/// caller looks: the kernel compares those addresses the wrong way round, and leaves out what it was asked for (tried on
/// Linux 6.18; `ctnetlink_filter_match_tuple`).
fn from_source(message: &mut Encoder, direction: Direction, source: IpAddr) {
    let IpAddr::V4(source) = source else { return };
    let (tuple, flags) = match direction {
        Direction::Orig => (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS),
        Direction::Reply => (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
    };
    message.nest(tuple | NLA_F_NESTED, |tuple| {
        tuple.nest(CTA_TUPLE_IP | NLA_F_NESTED, |ip| ip.attribute(CTA_IP_V4_SRC, &source.octets()));
    });
    message.nest(CTA_FILTER, |filter| {
        filter.attribute(flags, &CTA_FILTER_F_CTA_IP_SRC.to_ne_bytes());
    });
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
    pub fn forget_service(&mut self, address: IpAddr) -> Result<usize, NetError> {
        let mut stale = Vec::new();
        for direction in [Direction::Orig, Direction::Reply] {
            stale.extend(self.dump(family(address), |m| from_source(m, direction, address))?);
        }
        stale.sort_by(|a: &Entry, b| a.id.cmp(&b.id));
        stale.dedup_by(|a, b| a.id == b.id);
        // The kernel has filtered; a kernel that did not must not cost anybody else a connection.
        stale.retain(|entry| entry.orig.src == address || entry.reply.src == address);
        self.delete(&stale)
    }

    /// Forgets the connections that services have with others because they were allowed to. Returns how many there were.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn forget_talk(&mut self, talk: &[Talk]) -> Result<usize, NetError> {
        // Who answers and where: it may have been asked by a port of the host.
        let is_one = |Entry { orig, reply, .. }: &Entry, talk: &Talk| {
            let is_door = match talk.door {
                Door::Any => true,
                Door::One(port, proto) => reply.proto == proto_number(proto) && reply.src_port == port,
            };
            orig.src == talk.from && reply.src == talk.to && is_door
        };
        let is_stale = |entry: &Entry| talk.iter().any(|talk| is_one(entry, talk));
        // Of IPv6 all come, whoever is asked for.
        let mut sources: BTreeSet<IpAddr> =
            talk.iter().map(|talk| talk.from).filter(IpAddr::is_ipv4).collect();
        sources.extend(talk.iter().map(|talk| talk.from).find(IpAddr::is_ipv6));
        let mut stale = Vec::new();
        for from in sources {
            let asked = |m: &mut Encoder| from_source(m, Direction::Orig, from);
            stale.extend(self.dump_those(family(from), asked, is_stale)?);
        }
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
        let own: Vec<IpAddr> = link::addresses(&mut Netlink::route()?)?.into_values().flatten().collect();
        let mut stale = self.dump(family(publish.address), |m| {
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

    fn dump(&mut self, family: u8, filter: impl FnOnce(&mut Encoder)) -> Result<Vec<Entry>, NetError> {
        self.dump_those(family, filter, |_| true)
    }

    /// As [`Conntrack::dump`]; what is not meant is not kept, for there may be very many.
    fn dump_those(
        &mut self,
        family: u8,
        filter: impl FnOnce(&mut Encoder),
        is_meant: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<Entry>, NetError> {
        let sequence = self.0.take_sequence(1);
        let mut request = Encoder::default();
        request.message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| {
            m.raw(&[family, 0, 0, 0]);
            filter(m);
        });
        let mut all = Vec::new();
        self.0.exchange(request.bytes(), sequence, "IPCTNL_MSG_CT_GET", |message| {
            all.extend(entry(message.body).filter(&is_meant));
        })?;
        Ok(all)
    }

    fn delete(&mut self, entries: &[Entry]) -> Result<usize, NetError> {
        for entry in entries {
            let sequence = self.0.take_sequence(1);
            let mut request = Encoder::default();
            request.message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, |m| {
                m.raw(&[family(entry.orig.src), 0, 0, 0]);
                m.attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, &entry.orig_bytes);
                m.attribute(CTA_ID, &entry.id);
            });
            self.0.send(request.bytes())?;
            let Entry { orig, .. } = entry;
            let args = format!("{} to {}", orig.src, SocketAddr::new(orig.dst, orig.dst_port));
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

/// Reads an entry of a dump; none for one that is not of the internet.
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
    let address = |v4, v6| {
        let v4 = find(CTA_TUPLE_IP, v4).and_then(|octets| octets.first_chunk());
        let v6 = || find(CTA_TUPLE_IP, v6).and_then(|octets| octets.first_chunk());
        let v4 = v4.map(|octets: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*octets)));
        v4.or_else(|| v6().map(|octets: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*octets))))
    };
    // ICMP has none.
    let port = |kind| {
        let port = find(CTA_TUPLE_PROTO, kind).and_then(|port| port.first_chunk());
        port.map_or(0, |port| u16::from_be_bytes(*port))
    };
    Some(Tuple {
        src: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        dst: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        proto: *find(CTA_TUPLE_PROTO, CTA_PROTO_NUM)?.first()?,
        src_port: port(CTA_PROTO_SRC_PORT),
        dst_port: port(CTA_PROTO_DST_PORT),
    })
}
