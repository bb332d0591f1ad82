//! Packets that our table has refused: it hands the head of each to a group of nflog, which one socket of the supervisor
//! hears, a few a second of each reason.
//!
//! What is heard is not believed but for the reason, which is ours, and the link, and on a bridge the hardware address, which
//! its port has looked at: the rest is what somebody wrote into a packet.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};

use super::{
    NetError,
    addr::{Mac, NetworkSettings},
    netlink::{Encoder, Message, Netlink, attributes, messages},
};
use crate::sys::SysError;

// linux/netfilter/nfnetlink_log.h
const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = NFNL_SUBSYS_ULOG << 8;
const NFULNL_MSG_CONFIG: u16 = NFNL_SUBSYS_ULOG << 8 | 1;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_HWADDR: u16 = 8;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;

/// So much of a packet is enough for its headers.
pub(super) const HEAD: u16 = 128;
/// So many are told at once, or those that there are after so many hundredths of a second.
const AT_ONCE: u32 = 16;
const AT_LEAST: u32 = 20;
/// So many datagrams are read at a time; the rest is still there afterwards.
const DATAGRAMS: usize = 32;

const TCP: u8 = 6;
const UDP: u8 = 17;
const UDPLITE: u8 = 136;
const SCTP: u8 = 132;
const DCCP: u8 = 33;
const FRAGMENT: u8 = 44;

/// Why a packet was refused: the counters of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its sender is not the one of its link, or it is none that a service sends.
    Spoofed,
    /// To 127.0.0.0/8 over a link.
    ToLoopback,
    /// To an address of the host.
    ToHost,
    /// To link-local addresses, and where clouds have those that tell secrets.
    ToMetadata,
    /// To another service.
    ToService,
    /// To the outside.
    NoEgress,
    /// From outside to a service, at a port that is not published.
    Unpublished,
    /// Of others, on an interface where nothing was routed before.
    NotRouted,
    /// To a service whose link is gone.
    NoLink,
}

impl Reason {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Spoofed,
        Self::ToLoopback,
        Self::ToHost,
        Self::ToMetadata,
        Self::ToService,
        Self::NoEgress,
        Self::Unpublished,
        Self::NotRouted,
        Self::NoLink,
    ];

    /// The name of its counter.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Spoofed => "spoofed",
            Reason::ToLoopback => "to_loopback",
            Reason::ToHost => "to_host",
            Reason::ToMetadata => "to_metadata",
            Reason::ToService => "to_service",
            Reason::NoEgress => "no_egress",
            Reason::Unpublished => "unpublished",
            Reason::NotRouted => "not_routed",
            Reason::NoLink => "no_link",
        }
    }
}

/// A protocol as it stands in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            2 => f.write_str("igmp"),
            TCP => f.write_str("tcp"),
            UDP => f.write_str("udp"),
            47 => f.write_str("gre"),
            58 => f.write_str("icmpv6"),
            SCTP => f.write_str("sctp"),
            number => write!(f, "protocol {number}"),
        }
    }
}

/// A packet that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The index of the interface that it came in by.
    pub link: Option<u32>,
    /// The hardware address that it came from.
    pub mac: Option<Mac>,
    /// Its head, if it is one of IPv4 or IPv6.
    pub head: Option<Head>,
}

/// What stands in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who sent it, it says.
    pub from: IpAddr,
    /// To whom.
    pub to: IpAddr,
    /// Over IP.
    pub protocol: Protocol,
    /// The port of whom it goes to, where it has one.
    pub port: Option<u16>,
}

/// Hears of refused packets.
#[derive(Debug)]
pub struct Drops(Netlink);

impl Drops {
    /// Begins to hear what the table of `settings` refuses.
    ///
    /// # Errors
    /// EBUSY: somebody else hears this group; ENOENT or EINVAL: the kernel has no nfnetlink_log.
    pub fn open(settings: &NetworkSettings) -> Result<Self, NetError> {
        let mut socket = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        let group = settings.log_group();
        let mut mode = u32::from(HEAD).to_be_bytes().to_vec();
        mode.extend([NFULNL_COPY_PACKET, 0]);
        config(&mut socket, group, NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND])?;
        config(&mut socket, group, NFULA_CFG_MODE, &mode)?;
        config(&mut socket, group, NFULA_CFG_TIMEOUT, &AT_LEAST.to_be_bytes())?;
        config(&mut socket, group, NFULA_CFG_QTHRESH, &AT_ONCE.to_be_bytes())?;
        Ok(Self(socket))
    }

    /// Readable when something was refused.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What was refused since. Never waits; what came faster than it was read is lost.
    ///
    /// # Errors
    /// From recv(2).
    pub fn read(&mut self) -> Result<Vec<Refused>, SysError> {
        let mut found = Vec::new();
        for _ in 0..DATAGRAMS {
            match self.0.receive() {
                Ok(None) => break,
                Ok(Some(datagram)) => {
                    found.extend(messages(datagram).filter_map(|message| refused(&message)));
                }
                Err(error) if error.errno == libc::ENOBUFS => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

fn config(socket: &mut Netlink, group: u16, kind: u16, value: &[u8]) -> Result<(), NetError> {
    let sequence = socket.take_sequence(1);
    let [a, b] = group.to_be_bytes();
    let mut request = Encoder::default();
    request.message(NFULNL_MSG_CONFIG, NLM_F_REQUEST | NLM_F_ACK, sequence, |m| {
        m.raw(&[0, 0, a, b]);
        m.attribute(kind, value);
    });
    socket.send(request.bytes())?;
    let args = format!("group {group}");
    while let Some(datagram) = socket.receive()? {
        let acks = messages(datagram).filter(|message| message.sequence == sequence);
        if let Some(ack) = acks.filter_map(|message| message.ack()).next() {
            return ack.result("nflog", &args);
        }
    }
    Err(SysError::new("nflog", args, libc::EPROTO).into())
}

fn refused(message: &Message<'_>) -> Option<Refused> {
    if message.kind != NFULNL_MSG_PACKET {
        return None;
    }
    let body = message.body.get(4..)?;
    let find = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let prefix = find(NFULA_PREFIX)?;
    let prefix = prefix.strip_suffix(b"\0").unwrap_or(prefix);
    let reason = Reason::ALL.into_iter().find(|reason| reason.name().as_bytes() == prefix)?;
    let link =
        find(NFULA_IFINDEX_INDEV).and_then(|v| v.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    // struct nfulnl_msg_packet_hw: a length, two bytes of nothing, the address.
    let mac = find(NFULA_HWADDR).and_then(|value| match value {
        [0, 6, _, _, a, b, c, d, e, f, ..] => Some(Mac([*a, *b, *c, *d, *e, *f])),
        _ => None,
    });
    Some(Refused { reason, link, mac, head: find(NFULA_PAYLOAD).and_then(head) })
}

/// Reads the head of a packet, which may be anything.
fn head(packet: &[u8]) -> Option<Head> {
    match packet.first()? >> 4 {
        4 => head4(packet),
        6 => head6(packet),
        _ => None,
    }
}

fn head4(packet: &[u8]) -> Option<Head> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let address =
        |at: usize| IpAddr::V4(Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]));
    let protocol = fixed[9];
    // A later fragment has no ports.
    let is_first = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff == 0;
    let rest = packet.get(usize::from(fixed[0] & 15) * 4..).filter(|_| is_first);
    let port = rest.and_then(|rest| port(protocol, rest));
    Some(Head { from: address(12), to: address(16), protocol: Protocol(protocol), port })
}

fn head6(packet: &[u8]) -> Option<Head> {
    let (fixed, mut rest) = packet.split_first_chunk::<40>()?;
    let address = |at: usize| {
        let octets: Option<&[u8; 16]> = fixed[at..].first_chunk();
        octets.map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)))
    };
    let (from, to) = (address(8)?, address(24)?);
    let mut protocol = fixed[6];
    let mut is_first = true;
    // Hop by hop, routing, fragment, destination: each names the next.
    for _ in 0..8 {
        let (0 | 43 | FRAGMENT | 60, [next, len, a, b, ..]) = (protocol, rest) else { break };
        let size = if protocol == FRAGMENT { 8 } else { (usize::from(*len) + 1) * 8 };
        if protocol == FRAGMENT {
            is_first = u16::from_be_bytes([*a, *b]) & 0xfff8 == 0;
        }
        protocol = *next;
        rest = rest.get(size..).unwrap_or_default();
    }
    let port = Some(rest).filter(|_| is_first).and_then(|rest| port(protocol, rest));
    Some(Head { from, to, protocol: Protocol(protocol), port })
}

fn port(protocol: u8, rest: &[u8]) -> Option<u16> {
    let has_ports = [TCP, UDP, UDPLITE, SCTP, DCCP].contains(&protocol);
    let [_, _, a, b, ..] = rest else { return None };
    has_ports.then(|| u16::from_be_bytes([*a, *b]))
}

/// For `fuzz/`.
#[cfg(fuzzing)]
pub(super) fn is_refused(message: &Message<'_>) -> bool {
    let is_head = head(message.body).is_some();
    refused(message).is_some() || is_head
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet of 192.0.2.1 to 192.0.2.2.
    fn packet4(protocol: u8, fragment: u16, options: usize, rest: &[u8]) -> Vec<u8> {
        let words = u8::try_from(5 + options).unwrap();
        let [a, b] = fragment.to_be_bytes();
        let mut packet =
            vec![0x40 | words, 0, 0, 0, 0, 0, a, b, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.resize(packet.len() + options * 4, 1);
        packet.extend(rest);
        packet
    }

    #[test]
    fn the_head_of_a_packet_is_read_as_far_as_there_is_one() {
        let ports = [0x12, 0x34, 0, 80, 9, 9];
        let port = |packet: &[u8]| head(packet).and_then(|head| head.port);
        let tcp = packet4(TCP, 0, 0, &ports);
        let read = head(&tcp).expect("a head");
        assert_eq!(read.from, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(read.to, IpAddr::from([192, 0, 2, 2]));
        assert_eq!((read.protocol.to_string(), read.port), ("tcp".to_owned(), Some(80)));
        assert_eq!(port(&packet4(TCP, 0, 3, &ports)), Some(80), "behind options");
        assert_eq!(port(&packet4(TCP, 0x2000, 0, &ports)), Some(80), "a first fragment");
        assert_eq!(port(&packet4(TCP, 5, 0, &ports)), None, "a later one");
        assert_eq!(port(&packet4(1, 0, 0, &ports)), None, "none of ICMP");
        for len in 0..tcp.len() {
            assert_eq!(head(&tcp[..len]).is_some(), len >= 20, "{len}");
        }
        let mut six = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        six.extend([0xfd; 16].iter().chain(&[0xfe; 16]));
        six.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
        six.extend(ports);
        let read = head(&six).expect("a head");
        assert_eq!((read.protocol, read.port), (Protocol(UDP), Some(80)), "behind an extension");
        for len in 0..six.len() {
            let _ = head(&six[..len]);
        }
        assert_eq!(head(&[]), None);
        assert_eq!(head(&[0x50; 64]), None);
    }

    #[test]
    fn a_reason_is_known_by_the_name_of_its_counter() {
        let mut out = Encoder::default();
        for name in ["no_egress", "nonsense", ""] {
            out.message(NFULNL_MSG_PACKET, 0, 0, |m| {
                m.raw(&[2, 0, 0, 5]);
                m.attribute(NFULA_IFINDEX_INDEV, &7_u32.to_be_bytes());
                m.attribute(NFULA_PAYLOAD, &packet4(UDP, 0, 0, &[0, 1, 0, 53]));
                m.text(NFULA_PREFIX, name);
            });
        }
        let found: Vec<Refused> = messages(out.bytes()).filter_map(|message| refused(&message)).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].reason, found[0].link), (Reason::NoEgress, Some(7)));
        assert_eq!(found[0].head.and_then(|head| head.port), Some(53));
    }
}
