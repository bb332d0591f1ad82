//! Messages of the domain name system as they are sent (RFC 1035): read with suspicion, written in full.
//!
//! The library reads and writes names and records. What it takes on trust is looked at before: how many records a header
//! promises, for it makes room for all of them at once.

use std::net::IpAddr;

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question as Asked, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, OPT, PTR, RData, SOA},
};

/// Of a question that comes in a datagram no more is read.
pub const QUESTION_MAX: usize = 1232;
/// The most that a message can be.
pub const MESSAGE_MAX: usize = 65_535;
/// What a datagram may hold where the client has said nothing (RFC 1035, 2.3.4).
const PLAIN: usize = 512;
/// What fits into a packet on every link (<https://www.dnsflagday.net/2020/>): no answer of ours is in pieces.
const LARGE: u16 = 1232;
/// Of an answer no more addresses are looked at.
const ADDRESSES_MAX: usize = 64;

const HEADER: usize = 12;
const IN: u16 = 1;
const OPT_CODE: u16 = 41;
/// A bit of the header that must be zero and is ignored where it is not; the library refuses it.
const RESERVED: u8 = 0x40;

/// What somebody wants to know.
#[derive(Clone, Debug)]
pub struct Question {
    /// By which he knows his answer.
    pub id: u16,
    /// The name in lower case, without the last dot. A dot or `\` within a label has a `\` before it.
    pub name: String,
    /// Which records (`TYPE`).
    pub kind: u16,
    class: u16,
    /// As it was spelled.
    spelled: Name<'static>,
    flags: PacketFlag,
    /// How much he takes in one datagram, where he knows of EDNS (RFC 6891).
    room: Option<u16>,
}

/// Why there is no question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is none: an answer to it might be answered in turn.
    Nothing,
    /// What to answer.
    Answer(Vec<u8>),
}

/// What is found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// These addresses; none: there are records of other types alone.
    Addresses(Vec<IpAddr>),
    /// The name of an address.
    Pointer(String),
    /// The name is there, and has nothing of this type.
    Nothing,
    /// There is no such name.
    NoName,
}

/// Reads a question.
///
/// # Errors
/// [`Unread`]: it is none, or none that is answered.
pub fn read(bytes: &[u8]) -> Result<Question, Unread> {
    let Some(header) = bytes.first_chunk::<HEADER>().filter(|header| header[2] & 0x80 == 0) else {
        return Err(Unread::Nothing);
    };
    let refused = |code| Unread::Answer(bare(header, code));
    if header[2] & 0x78 != 0 {
        return Err(refused(RCODE::NotImplemented));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // Of the additional ones one says how much fits; a few more do no harm.
    if [count(4), count(6), count(8)] != [1, 0, 0] || count(10) > 4 || bytes.len() > MESSAGE_MAX {
        return Err(refused(RCODE::FormatError));
    }
    let (kind, class, packet) = question_of(bytes, count(10)).ok_or_else(|| refused(RCODE::FormatError))?;
    let packet = Packet::parse(&packet).map_err(|_| refused(RCODE::FormatError))?;
    let spelled = packet.questions.first().map(|one| one.qname.clone().into_owned());
    let spelled = spelled.ok_or_else(|| refused(RCODE::FormatError))?;
    let flags = PacketFlag::RECURSION_DESIRED | PacketFlag::CHECKING_DISABLED;
    let flags = PacketFlag::from_bits_truncate(count(2)) & flags;
    let room = packet.opt().map(|opt| opt.udp_packet_size);
    let name = spelled.to_string().to_ascii_lowercase();
    let question = Question { id: packet.id(), name, kind, class, spelled, flags, room };
    match packet.opt().is_some_and(|opt| opt.version != 0) {
        true => Err(Unread::Answer(question.failed(RCODE::BADVERS))),
        false => Ok(question),
    }
}

/// The type and class of the one question of a message, and the message with a type and class that the library knows.
fn question_of(bytes: &[u8], additional: u16) -> Option<(u16, u16, Vec<u8>)> {
    let at = after_name(bytes, HEADER)?;
    let [a, b, c, d] = *bytes.get(at..)?.first_chunk()?;
    let (kind, class) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let end = if additional == 0 { at + 4 } else { bytes.len() };
    let mut copy = bytes[..end].to_vec();
    copy[at..at + 4].copy_from_slice(&[0, 1, 0, 1]);
    copy[3] &= !RESERVED;
    copy[6..10].fill(0);
    copy[10..12].copy_from_slice(&additional.to_be_bytes());
    Some((kind, class, copy))
}

/// Where a name ends that begins there: behind it the rest of its record.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + length,
            // The rest of it stands elsewhere.
            192.. => return Some(at + 2),
            64..192 => return None,
        }
    }
}

/// A header alone.
fn bare(header: &[u8; HEADER], code: RCODE) -> Vec<u8> {
    let mut answer = header.to_vec();
    // Opcode and wish for recursion as they were.
    answer[2] = header[2] & 0x79 | 0x80;
    answer[3] = 0x80 | u8::try_from(code as u16 & 15).unwrap_or_default();
    answer[4..].fill(0);
    answer
}

impl Question {
    /// How much of an answer fits into a datagram.
    pub fn room(&self) -> usize {
        self.room.map_or(PLAIN, |room| usize::from(room.clamp(512, LARGE)))
    }

    /// Whether it asks for what the internet has, and for records rather than for a whole zone.
    pub fn is_plain(&self) -> bool {
        self.class == IN && ![QTYPE::AXFR, QTYPE::IXFR].map(u16::from).contains(&self.kind)
    }

    /// Whether an address is of the kind that is asked for.
    pub fn wants_address(&self, address: &IpAddr) -> bool {
        self.wants(if address.is_ipv6() { TYPE::AAAA } else { TYPE::A })
    }

    /// Whether it asks for IPv6 addresses alone: whoever wants both asks twice.
    pub fn is_for_ipv6(&self) -> bool {
        self.kind == u16::from(TYPE::AAAA)
    }

    /// Whether records of this type are asked for.
    fn wants(&self, kind: TYPE) -> bool {
        self.kind == u16::from(kind) || self.kind == u16::from(QTYPE::ANY)
    }

    fn asked(&self) -> Asked<'_> {
        let kind = match self.kind {
            251 => QTYPE::IXFR,
            252 => QTYPE::AXFR,
            253 => QTYPE::MAILB,
            254 => QTYPE::MAILA,
            255 => QTYPE::ANY,
            kind => QTYPE::TYPE(TYPE::from(kind)),
        };
        let class = QCLASS::try_from(self.class).unwrap_or(CLASS::IN.into());
        Asked::new(self.spelled.clone(), kind, class, false)
    }

    /// An empty answer.
    fn reply(&self) -> Packet<'_> {
        let mut packet = Packet::new_reply(self.id);
        packet.set_flags(self.flags | PacketFlag::RECURSION_AVAILABLE);
        packet.questions.push(self.asked());
        *packet.opt_mut() =
            self.room.map(|_| OPT { opt_codes: Vec::new(), udp_packet_size: LARGE, version: 0 });
        packet
    }

    /// An answer that has nothing but this to say.
    pub fn failed(&self, code: RCODE) -> Vec<u8> {
        let mut packet = self.reply();
        *packet.rcode_mut() = code;
        packet.build_bytes_vec().unwrap_or_default()
    }

    /// No answer, for it is not told.
    pub fn refused(&self) -> Vec<u8> {
        self.failed(RCODE::Refused)
    }

    /// No answer, for it could not be had.
    pub fn unanswered(&self) -> Vec<u8> {
        self.failed(RCODE::ServerFailure)
    }

    /// An answer of our own, of at most `room` bytes: what does not fit is left out, and the answer says so. `zone` is who
    /// speaks of what is not there; what is said may be kept for `ttl` seconds.
    pub fn answer(&self, found: &Found, zone: &str, ttl: u32, room: usize) -> Vec<u8> {
        let mut packet = self.reply();
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        if *found == Found::NoName {
            *packet.rcode_mut() = RCODE::NameError;
        }
        let record = |data| ResourceRecord::new(self.spelled.clone(), CLASS::IN, ttl, data);
        match found {
            Found::Addresses(all) => {
                let all = all.iter().filter(|address| self.wants_address(address));
                let data = all.map(|address| match address {
                    IpAddr::V4(four) => RData::A(A::from(*four)),
                    IpAddr::V6(six) => RData::AAAA(AAAA::from(*six)),
                });
                packet.answers.extend(data.map(record));
            }
            Found::Pointer(name) if self.wants(TYPE::PTR) => {
                packet.answers.push(record(RData::PTR(PTR(Name::new_unchecked(name)))));
            }
            Found::Pointer(_) | Found::Nothing | Found::NoName => {}
        }
        if packet.answers.is_empty() {
            packet.name_servers.push(start_of(zone, ttl));
        }
        loop {
            match packet.build_bytes_vec_compressed() {
                Ok(bytes) if bytes.len() <= room => return bytes,
                Ok(_) if packet.answers.pop().is_some() => packet.set_flags(PacketFlag::TRUNCATION),
                Ok(_) | Err(_) => return self.cut(),
            }
        }
    }

    /// An answer that is too long for a datagram.
    fn cut(&self) -> Vec<u8> {
        let mut packet = self.reply();
        packet.set_flags(PacketFlag::TRUNCATION);
        packet.build_bytes_vec().unwrap_or_default()
    }

    /// The question as it is passed on, under another id.
    pub fn passed_on(&self, id: u16) -> Vec<u8> {
        let mut packet = Packet::new_query(id);
        packet.set_flags(self.flags);
        packet.questions.push(self.asked());
        *packet.opt_mut() =
            self.room.map(|_| OPT { opt_codes: Vec::new(), udp_packet_size: LARGE, version: 0 });
        packet.build_bytes_vec().unwrap_or_default()
    }

    /// Whether a message that has come back answers this question, which was asked under that id.
    pub fn is_answered_by(&self, bytes: &[u8], id: u16) -> bool {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return false };
        let [a, b, flags, _, count_a, count_b, ..] = *header;
        // An answer to a plain question.
        let is_ours = u16::from_be_bytes([a, b]) == id && flags & 0xf8 == 0x80;
        if !is_ours || u16::from_be_bytes([count_a, count_b]) != 1 {
            return false;
        }
        let Some((kind, class, packet)) = question_of(bytes, 0) else { return false };
        let Ok(packet) = Packet::parse(&packet) else { return false };
        let is_same = packet.questions.first().is_some_and(|one| one.qname == self.spelled);
        is_same && (kind, class) == (self.kind, self.class)
    }

    /// The answer as it goes to whom has asked: under his id, kept no longer than `ttl` seconds, and within `room` bytes.
    pub fn handed_back(&self, mut bytes: Vec<u8>, ttl: u32, room: usize) -> Vec<u8> {
        if bytes.len() > room {
            return self.cut();
        }
        if let Some(id) = bytes.get_mut(..2) {
            id.copy_from_slice(&self.id.to_be_bytes());
        }
        shorten(&mut bytes, ttl);
        bytes
    }

    /// The addresses that an answer has for the name that was asked for, by way of its other names, each with how many
    /// seconds it holds. None: it cannot be read.
    pub fn addresses(&self, bytes: &[u8]) -> Option<Vec<(IpAddr, u32)>> {
        let count = u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]);
        // The shortest record: a name of one byte, type, class, time, length.
        if usize::from(count) > bytes.len() / 11 {
            return None;
        }
        let mut copy = bytes.to_vec();
        *copy.get_mut(3)? &= !RESERVED;
        copy.get_mut(8..HEADER)?.fill(0);
        let at = after_name(&copy, HEADER)?;
        copy.get_mut(at..at + 4)?.copy_from_slice(&[0, 1, 0, 1]);
        let packet = Packet::parse(&copy).ok()?;
        let mut names = vec![&self.spelled];
        let mut known = 0;
        while known < names.len() && known < ADDRESSES_MAX {
            let of = names[known];
            known += 1;
            for record in packet.answers.iter().filter(|record| record.name == *of) {
                match &record.rdata {
                    // A chain of that length is none.
                    RData::CNAME(other) if names.len() < ADDRESSES_MAX && !names.contains(&&other.0) => {
                        names.push(&other.0);
                    }
                    _ => {}
                }
            }
        }
        let of_it = packet.answers.iter().filter(|record| names.contains(&&record.name));
        let addresses = of_it.filter_map(|record| match &record.rdata {
            RData::A(one) => Some((IpAddr::from(std::net::Ipv4Addr::from(one.address)), record.ttl)),
            RData::AAAA(one) => Some((IpAddr::from(std::net::Ipv6Addr::from(one.address)), record.ttl)),
            _ => None,
        });
        Some(addresses.take(ADDRESSES_MAX).collect())
    }
}

/// Whether a message says that it is not all.
pub fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & 2 != 0)
}

/// Whether a server has answered that it cannot or will not: another one may.
pub fn is_failure(bytes: &[u8]) -> bool {
    let codes = [RCODE::ServerFailure, RCODE::Refused, RCODE::NotImplemented].map(|code| code as u8);
    bytes.get(3).is_some_and(|flags| codes.contains(&(flags & 15)))
}

/// The record that says how long it holds that something is not there.
fn start_of(zone: &str, ttl: u32) -> ResourceRecord<'_> {
    let data = SOA {
        mname: Name::new_unchecked(super::ZONE),
        rname: Name::new_unchecked(super::ZONE),
        serial: 1,
        refresh: 3600,
        retry: 3600,
        expire: 3600,
        minimum: ttl,
    };
    ResourceRecord::new(Name::new_unchecked(zone), CLASS::IN, ttl, RData::SOA(data))
}

/// Makes no record of a message hold for longer than `most` seconds.
fn shorten(bytes: &mut [u8], most: u32) {
    let count = |bytes: &[u8], at: usize| match bytes.get(at..at + 2) {
        Some(&[a, b]) => usize::from(u16::from_be_bytes([a, b])),
        _ => 0,
    };
    let (questions, records) = (count(bytes, 4), count(bytes, 6) + count(bytes, 8) + count(bytes, 10));
    let mut at = HEADER;
    for _ in 0..questions {
        let Some(end) = after_name(bytes, at) else { return };
        at = end + 4;
    }
    for _ in 0..records {
        let Some(end) = after_name(bytes, at) else { return };
        let kind = count(bytes, end);
        let Some(ttl) = bytes.get_mut(end + 4..end + 8) else { return };
        let now = u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]);
        // Of that one it is something else.
        if kind != usize::from(OPT_CODE) {
            ttl.copy_from_slice(&now.min(most).to_be_bytes());
        }
        at = end + 10 + count(bytes, end + 8);
    }
}
