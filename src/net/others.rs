//! Other tables that drop what is forwarded to and from services: every one of them has to accept a packet, and ours is
//! only one of them (firewalld, ufw, Docker).
//!
//! Their chains are read from the kernel and followed as a packet of our links would go through them. What a rule asks for
//! beyond its link and its addresses is not known here: such a rule is passed over, so what is said of a chain is that it
//! drops what none of its rules accepts. Where a service's file asks for it (`network.firewall = "insert"`), two rules that
//! accept our links go to the head of such a chain, marked as ours by their comment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};

use super::{
    NetError,
    addr::NetworkSettings,
    netlink::{Encoder, NLA_F_NESTED, Netlink, attributes, messages},
    nft::{
        NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFPROTO_IPV6,
        NFT_MSG_GETCHAIN, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_DATA_VALUE,
    },
};
use crate::sys::SysError;

// linux/netfilter/nf_tables.h
const NFT_MSG_NEWRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NFT_MSG_GETRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 7;
const NFT_MSG_DELRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 8;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_IIFGROUP: u32 = 21;
const NFT_META_OIFGROUP: u32 = 22;
const NFT_CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const NFT_REG_1: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
const NFPROTO_IPV4: u8 = 2;
/// Kind of the comment in a rule's user data, as nft(8) and iptables-nft write it.
const COMMENT: u8 = 0;

/// So many chains are followed from one; more is a labyrinth, of which nothing is said.
const CHAINS: usize = 256;
/// So deep do they call each other; the kernel's own limit is 16.
const DEPTH: usize = 16;

/// A chain that drops what services send or receive, unless one of its rules accepts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// Family and name of the table: `ip filter`.
    pub table: String,
    /// The base chain.
    pub chain: String,
    /// What in it does so: `policy drop`.
    pub why: String,
    /// What allows it, one command each.
    pub allow: Vec<String>,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, why, allow } = self;
        write!(f, "table {table}, chain {chain} drops what none of its rules accepts ({why}): ")?;
        f.write_str(&allow.join("; "))
    }
}

/// Which of our packets is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From a service.
    From(Version),
    /// To a service, at a published port.
    To(Version),
}

/// Of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl Way {
    fn version(self) -> Version {
        match self {
            Way::From(version) | Way::To(version) => version,
        }
    }

    fn is_from(self) -> bool {
        matches!(self, Way::From(_))
    }

    /// What of the header holds our address: where it begins, and the bits that all of ours have in common.
    fn address(self, settings: &NetworkSettings) -> (u32, Vec<u8>, u8) {
        let is_from = self.is_from();
        match (self.version(), settings.prefix6) {
            (Version::V6, Some(prefix)) => {
                (if is_from { 8 } else { 24 }, prefix.gateway().octets().to_vec(), prefix.bits())
            }
            (Version::V4 | Version::V6, _) => {
                let prefix = settings.prefix4;
                (if is_from { 12 } else { 16 }, prefix.gateway().octets().to_vec(), prefix.bits())
            }
        }
    }
}

/// A base chain in the forward hook.
#[derive(Clone, Debug)]
struct Base {
    family: u8,
    table: String,
    name: String,
    is_closed: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    handle: Vec<u8>,
    exprs: Vec<Expr>,
    comment: Option<String>,
}

/// What is understood of a rule's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    /// Counts or tells; every packet goes on.
    Neutral,
    Meta(u32),
    Ct(u32),
    /// Offset into the header of IP.
    Header(u32),
    Mask(Vec<u8>),
    Compare {
        is_equal: bool,
        with: Vec<u8>,
    },
    Verdict(Verdict),
    /// Anything else.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    /// What says so: `a rule that drops`.
    Drop(&'static str),
    Jump(String),
    Goto(String),
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Maybe,
}

/// What becomes of the packet in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped(String),
    /// It comes out at the end.
    Passes,
}

/// The tables of others, in the network namespace that this was opened in.
#[derive(Debug)]
pub struct Others {
    socket: Netlink,
    settings: NetworkSettings,
}

impl Others {
    /// Opens the socket.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn open(settings: &NetworkSettings) -> Result<Self, NetError> {
        let socket = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        Ok(Self { socket, settings: settings.clone() })
    }

    /// The chains that drop what services send or receive.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn obstacles(&mut self) -> Result<Vec<Obstacle>, NetError> {
        let found = self.closed()?;
        let read = found.into_iter().map(|(_, obstacle)| obstacle);
        let prefix = self.settings.link_prefix();
        Ok(read.chain(LEGACY.iter().filter_map(|known| legacy(*known, &prefix))).collect())
    }

    /// Has every chain that drops them accept them.
    ///
    /// # Errors
    /// The kernel's answer: EPERM, the table has an owner who alone may change it.
    pub fn insert(&mut self) -> Result<(), NetError> {
        for (base, _) in self.closed()? {
            // Those of ours that have come to stand behind what drops.
            let mut parts = self.marked(&base)?;
            for key in [NFT_META_OIFNAME, NFT_META_IIFNAME] {
                parts.push((base.family, NFT_MSG_NEWRULE, NLM_F_CREATE, self.accepting(&base, key)));
            }
            self.commit(parts, &format!("table {}, chain {}", of(&base), base.name))?;
        }
        Ok(())
    }

    /// Takes out what we, or a predecessor, have put into chains of others. Returns how many rules there were.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn remove(&mut self) -> Result<usize, NetError> {
        let mut parts = Vec::new();
        for base in self.bases()? {
            parts.extend(self.marked(&base)?);
        }
        let count = parts.len();
        self.commit(parts, "rules of ours")?;
        Ok(count)
    }

    /// What our rules in tables of others are known by.
    fn mark(&self) -> String {
        format!("palisade: {}", self.settings.name)
    }

    fn closed(&mut self) -> Result<Vec<(Base, Obstacle)>, NetError> {
        let mut found = Vec::new();
        for base in self.bases()? {
            let mut chains = Chains { others: self, base: &base, known: BTreeMap::new() };
            let mut why = None;
            for way in ways(base.family, &chains.others.settings) {
                why = if why.is_none() { chains.end(way)? } else { why };
            }
            if let Some(why) = why {
                let allow = chains.allow()?;
                let (table, chain) = (of(&base), base.name.clone());
                found.push((base, Obstacle { table, chain, why, allow }));
            }
        }
        Ok(found)
    }

    /// The base chains of others that judge packets which are forwarded.
    fn bases(&mut self) -> Result<Vec<Base>, NetError> {
        let own = self.settings.name.clone();
        let mut found = Vec::new();
        self.dump(NFT_MSG_GETCHAIN, 0, |_| (), |family, body| found.extend(base(family, body)))?;
        found.retain(|base| match base.family {
            NFPROTO_IPV4 | NFPROTO_IPV6 => true,
            family => family == NFPROTO_INET && base.table != own,
        });
        Ok(found)
    }

    fn rules(&mut self, base: &Base, chain: &str) -> Result<Vec<Rule>, NetError> {
        let mut found = Vec::new();
        let which = |m: &mut Encoder| {
            m.text(NFTA_RULE_TABLE, &base.table);
            m.text(NFTA_RULE_CHAIN, chain);
        };
        // The kernel filters; one that did not must not have us take another chain's for this one's.
        let is_it = |body: &[u8]| {
            text_of(body, NFTA_RULE_TABLE) == Some(&*base.table)
                && text_of(body, NFTA_RULE_CHAIN) == Some(chain)
        };
        self.dump(NFT_MSG_GETRULE, base.family, which, |family, body| {
            if family == base.family && is_it(body) {
                found.push(rule(body));
            }
        })?;
        Ok(found)
    }

    /// What deletes our rules from a chain.
    fn marked(&mut self, base: &Base) -> Result<Vec<Part>, NetError> {
        let mark = self.mark();
        let rules = self.rules(base, &base.name.clone())?;
        let ours = rules.into_iter().filter(|rule| rule.comment.as_ref() == Some(&mark));
        let part = |rule: Rule| {
            let mut body = Encoder::default();
            body.text(NFTA_RULE_TABLE, &base.table);
            body.text(NFTA_RULE_CHAIN, &base.name);
            body.attribute(NFTA_RULE_HANDLE, &rule.handle);
            (base.family, NFT_MSG_DELRULE, 0, body)
        };
        Ok(ours.map(part).collect())
    }

    /// `iifname "ps1a2b-*" counter accept comment "palisade: NAME"`, in the form that iptables-nft can show as well.
    fn accepting(&self, base: &Base, key: u32) -> Encoder {
        let expr = |list: &mut Encoder, name: &str, data: &dyn Fn(&mut Encoder)| {
            list.nest(NFTA_LIST_ELEM | NLA_F_NESTED, |one| {
                one.text(NFTA_EXPR_NAME, name);
                one.nest(NFTA_EXPR_DATA | NLA_F_NESTED, |inner| data(inner));
            });
        };
        let number = |m: &mut Encoder, kind: u16, value: u32| m.attribute(kind, &value.to_be_bytes());
        let prefix = self.settings.link_prefix();
        let mut body = Encoder::default();
        body.text(NFTA_RULE_TABLE, &base.table);
        body.text(NFTA_RULE_CHAIN, &base.name);
        body.nest(NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, |list| {
            expr(list, "meta", &|m| {
                number(m, 1, NFT_REG_1);
                number(m, 2, key);
            });
            expr(list, "cmp", &|m| {
                number(m, 1, NFT_REG_1);
                number(m, 2, 0);
                m.nest(3 | NLA_F_NESTED, |data| data.attribute(NFTA_DATA_VALUE, prefix.as_bytes()));
            });
            expr(list, "counter", &|m| {
                m.attribute(1, &0_u64.to_be_bytes());
                m.attribute(2, &0_u64.to_be_bytes());
            });
            expr(list, "immediate", &|m| {
                number(m, 1, 0);
                m.nest(2 | NLA_F_NESTED, |data| {
                    data.nest(NFTA_DATA_VERDICT | NLA_F_NESTED, |verdict| {
                        verdict.attribute(NFTA_VERDICT_CODE, &NF_ACCEPT.to_be_bytes());
                    });
                });
            });
        });
        let mark = self.mark();
        let len = u8::try_from(mark.len() + 1).expect("a name of a table is short");
        body.attribute(NFTA_RULE_USERDATA, &[&[COMMENT, len], mark.as_bytes(), &[0]].concat());
        body
    }

    fn dump(
        &mut self,
        kind: u16,
        family: u8,
        which: impl FnOnce(&mut Encoder),
        mut visit: impl FnMut(u8, &[u8]),
    ) -> Result<(), NetError> {
        let sequence = self.socket.take_sequence(1);
        let mut request = Encoder::default();
        request.message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| {
            m.raw(&[family, 0, 0, 0]);
            which(m);
        });
        // Something that changes meanwhile is told, and then all of it is read again.
        let _ = self.socket.exchange(request.bytes(), sequence, "nft", |message| {
            if let Some((head, body)) = message.body.split_at_checked(4) {
                visit(head[0], body);
            }
        })?;
        Ok(())
    }

    /// Sends one transaction.
    fn commit(&mut self, parts: Vec<Part>, args: &str) -> Result<(), NetError> {
        if parts.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(parts.len()).expect("two rules for each chain");
        let begin = self.socket.take_sequence(count + 2);
        let [sub_a, sub_b] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        let edge = |m: &mut Encoder| m.raw(&[0, 0, sub_a, sub_b]);
        let mut out = Encoder::default();
        out.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, begin, edge);
        for (sequence, (family, kind, flags, body)) in (begin.wrapping_add(1)..).zip(parts) {
            out.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, |m| {
                m.raw(&[family, 0, 0, 0]);
                m.raw(body.bytes());
            });
        }
        out.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, begin.wrapping_add(count + 1), edge);
        self.socket.send(out.bytes())?;
        let (mut first, mut done) = (Ok(()), 0);
        while let Some(datagram) = self.socket.receive()? {
            for ack in messages(datagram).filter_map(|message| message.ack()) {
                done += u32::from(ack.errno == 0 && ack.sequence.wrapping_sub(begin) <= count + 1);
                first = first.and(ack.result("nft", args));
            }
        }
        match (first, done == count) {
            (Ok(()), false) => Err(SysError::new("nft", args, libc::EPROTO).into()),
            (first, _) => first,
        }
    }
}

/// A message of a batch: family, kind, flags, body.
type Part = (u8, u16, u16, Encoder);

/// The chains of one table, read as they are come to.
struct Chains<'a> {
    others: &'a mut Others,
    base: &'a Base,
    known: BTreeMap<String, Vec<Rule>>,
}

impl Chains<'_> {
    /// Why a packet of ours that goes this way does not come through; none: it does.
    fn end(&mut self, way: Way) -> Result<Option<String>, NetError> {
        Ok(match self.follow(&self.base.name.clone(), way, 0)? {
            Fate::Accepted => None,
            Fate::Dropped(why) => Some(why),
            Fate::Passes => self.base.is_closed.then(|| "policy drop".to_owned()),
        })
    }

    fn follow(&mut self, chain: &str, way: Way, depth: usize) -> Result<Fate, NetError> {
        if depth > DEPTH {
            return Ok(Fate::Passes);
        }
        for rule in self.rules(chain)? {
            let Some(verdict) = judge(&rule.exprs, way, &self.others.settings) else { continue };
            let fate = match verdict {
                Verdict::Accept => Fate::Accepted,
                Verdict::Drop(what) if chain == self.base.name => Fate::Dropped(what.to_owned()),
                Verdict::Drop(what) => Fate::Dropped(format!("{what}, in chain {chain}")),
                Verdict::Return => Fate::Passes,
                Verdict::Jump(to) => match self.follow(&to, way, depth + 1)? {
                    Fate::Passes => continue,
                    fate => fate,
                },
                Verdict::Goto(to) => self.follow(&to, way, depth + 1)?,
            };
            return Ok(fate);
        }
        Ok(Fate::Passes)
    }

    fn rules(&mut self, chain: &str) -> Result<Vec<Rule>, NetError> {
        if !self.known.contains_key(chain) {
            if self.known.len() >= CHAINS {
                return Ok(Vec::new());
            }
            let rules = self.others.rules(self.base, chain)?;
            self.known.insert(chain.to_owned(), rules);
        }
        Ok(self.known.get(chain).cloned().unwrap_or_default())
    }

    /// The commands that let our packets through this chain, by the means of whoever has made it.
    fn allow(&mut self) -> Result<Vec<String>, NetError> {
        let (table, family) = (self.base.table.clone(), self.base.family);
        let mut names = BTreeSet::new();
        self.others.dump(
            NFT_MSG_GETCHAIN,
            family,
            |m| m.text(NFTA_CHAIN_TABLE, &table),
            |found, body| {
                let is_it = found == family && text_of(body, NFTA_CHAIN_TABLE) == Some(&*table);
                names.extend(text_of(body, NFTA_CHAIN_NAME).filter(|_| is_it).map(str::to_owned));
            },
        )?;
        Ok(allow(self.base, &names, &self.others.settings.link_prefix()))
    }
}

/// The packets of ours that come to chains of a family.
fn ways(family: u8, settings: &NetworkSettings) -> Vec<Way> {
    let v4 = [Way::From(Version::V4), Way::To(Version::V4)].into_iter().filter(|_| family != NFPROTO_IPV6);
    let has_v6 = settings.prefix6.is_some() && family != NFPROTO_IPV4;
    let v6 = [Way::From(Version::V6), Way::To(Version::V6)].into_iter().filter(|_| has_v6);
    v4.chain(v6).collect()
}

fn allow(base: &Base, chains: &BTreeSet<String>, prefix: &str) -> Vec<String> {
    match () {
        // Its names of interfaces end with + as those of iptables do.
        () if base.table == "firewalld" => vec![
            format!("firewall-cmd --permanent --zone=trusted --add-interface={prefix}+"),
            "firewall-cmd --reload".to_owned(),
        ],
        () if chains.contains("DOCKER-USER") => {
            let program = if base.family == NFPROTO_IPV6 { "ip6tables" } else { "iptables" };
            let command = |side: &str| format!("{program} -I DOCKER-USER {side} {prefix}+ -j ACCEPT");
            ["-i", "-o"].map(command).into()
        }
        () if chains.contains("ufw-user-forward") || chains.contains("ufw6-user-forward") => {
            ["in", "out"].map(|side| format!("ufw route allow {side} on {prefix}+")).into()
        }
        () => {
            let place = format!("{} {}", of(base), base.name);
            let command = |side: &str| format!("nft insert rule {place} {side} '{prefix}*' accept");
            ["iifname", "oifname"].map(command).into()
        }
    }
}

/// Where the kernel's older packet filter lists its tables: file, family, program.
const LEGACY: [(&str, &str, &str); 2] =
    [("ip_tables_names", "ip", "iptables-legacy"), ("ip6_tables_names", "ip6", "ip6tables-legacy")];

/// The filter table of the kernel's older packet filter, which nf_tables does not show: that there is one is all that is
/// known of it.
fn legacy((file, family, program): (&str, &str, &str), prefix: &str) -> Option<Obstacle> {
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok()?;
    names.lines().any(|name| name == "filter").then_some(())?;
    let command = |side: &str| format!("{program} -I FORWARD {side} {prefix}+ -j ACCEPT");
    Some(Obstacle {
        table: format!("{family} filter of {program}"),
        chain: "FORWARD".to_owned(),
        why: "if it does: it cannot be read from here".to_owned(),
        allow: ["-i", "-o"].map(command).into(),
    })
}

fn of(base: &Base) -> String {
    let family = match base.family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV6 => "ip6",
        _ => "ip",
    };
    format!("{family} {}", base.table)
}

fn find(body: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(body).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn text_of(body: &[u8], kind: u16) -> Option<&str> {
    let value = find(body, kind)?;
    std::str::from_utf8(value.strip_suffix(b"\0").unwrap_or(value)).ok()
}

fn number_of(body: &[u8], kind: u16) -> Option<u32> {
    find(body, kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A chain of a dump, if it is one that forwarded packets come to.
fn base(family: u8, body: &[u8]) -> Option<Base> {
    let hook = find(body, NFTA_CHAIN_HOOK)?;
    (number_of(hook, NFTA_HOOK_HOOKNUM)? == NF_INET_FORWARD).then_some(())?;
    Some(Base {
        family,
        table: text_of(body, NFTA_CHAIN_TABLE)?.to_owned(),
        name: text_of(body, NFTA_CHAIN_NAME)?.to_owned(),
        is_closed: number_of(body, NFTA_CHAIN_POLICY) == Some(NF_DROP.cast_unsigned()),
    })
}

fn rule(body: &[u8]) -> Rule {
    let exprs = find(body, NFTA_RULE_EXPRESSIONS).into_iter().flat_map(attributes);
    Rule {
        handle: find(body, NFTA_RULE_HANDLE).unwrap_or_default().to_vec(),
        exprs: exprs.filter(|(kind, _)| *kind == NFTA_LIST_ELEM).map(|(_, one)| expr(one)).collect(),
        comment: find(body, NFTA_RULE_USERDATA).and_then(comment),
    }
}

/// User data is a row of kind, length, value.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = data {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *kind == COMMENT {
            let text = value.strip_suffix(b"\0").unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        data = rest;
    }
    None
}

fn expr(one: &[u8]) -> Expr {
    let data = find(one, NFTA_EXPR_DATA).unwrap_or_default();
    let number = |kind| number_of(data, kind);
    match text_of(one, NFTA_EXPR_NAME) {
        Some("counter" | "log") => Expr::Neutral,
        Some("meta") => number(2).filter(|_| find(data, 1).is_some()).map_or(Expr::Unknown, Expr::Meta),
        Some("ct") => number(2).filter(|_| find(data, 1).is_some()).map_or(Expr::Unknown, Expr::Ct),
        Some("payload") if number(2) == Some(NFT_PAYLOAD_NETWORK_HEADER) && find(data, 1).is_some() => {
            number(3).map_or(Expr::Unknown, Expr::Header)
        }
        Some("bitwise") => {
            let mask = find(data, 4).and_then(|mask| find(mask, NFTA_DATA_VALUE));
            let changes = find(data, 5).and_then(|xor| find(xor, NFTA_DATA_VALUE));
            let is_plain = changes.is_none_or(|xor| xor.iter().all(|byte| *byte == 0));
            mask.filter(|_| is_plain).map_or(Expr::Unknown, |mask| Expr::Mask(mask.to_vec()))
        }
        Some("cmp") => {
            let with = find(data, 3).and_then(|with| find(with, NFTA_DATA_VALUE));
            match (number(2), with) {
                (Some(op @ (0 | 1)), Some(with)) => Expr::Compare { is_equal: op == 0, with: with.to_vec() },
                _ => Expr::Unknown,
            }
        }
        Some("immediate") if number(1) == Some(0) => {
            let verdict = find(data, 2).and_then(|data| find(data, NFTA_DATA_VERDICT));
            verdict.and_then(verdict_of).map_or(Expr::Unknown, Expr::Verdict)
        }
        Some("reject") => Expr::Verdict(Verdict::Drop("a rule that rejects")),
        Some("target") if text_of(data, 1) == Some("REJECT") => {
            Expr::Verdict(Verdict::Drop("a rule that rejects"))
        }
        // A note for people.
        Some("match") if text_of(data, 1) == Some("comment") => Expr::Neutral,
        Some("target") if text_of(data, 1) == Some("LOG") => Expr::Neutral,
        _ => Expr::Unknown,
    }
}

fn verdict_of(verdict: &[u8]) -> Option<Verdict> {
    let to = || text_of(verdict, NFTA_VERDICT_CHAIN).map(str::to_owned);
    match number_of(verdict, NFTA_VERDICT_CODE)?.cast_signed() {
        NF_ACCEPT => Some(Verdict::Accept),
        NF_DROP => Some(Verdict::Drop("a rule that drops")),
        NFT_JUMP => to().map(Verdict::Jump),
        NFT_GOTO => to().map(Verdict::Goto),
        NFT_RETURN => Some(Verdict::Return),
        _ => None,
    }
}

/// What a rule does with every packet of ours that goes this way; none: nothing, or it depends on what is not known here.
fn judge(exprs: &[Expr], way: Way, settings: &NetworkSettings) -> Option<Verdict> {
    // What was loaded, and the mask laid over it.
    let (mut loaded, mut mask): (Option<&Expr>, Option<&[u8]>) = (None, None);
    for expr in exprs {
        match expr {
            Expr::Neutral => {}
            Expr::Meta(_) | Expr::Ct(_) | Expr::Header(_) => (loaded, mask) = (Some(expr), None),
            Expr::Mask(bytes) => mask = Some(bytes),
            Expr::Compare { is_equal, with } => match fits(loaded?, mask, (*is_equal, with), way, settings) {
                Fit::Yes => {}
                Fit::No | Fit::Maybe => return None,
            },
            Expr::Verdict(verdict) => return Some(verdict.clone()),
            Expr::Unknown => return None,
        }
    }
    None
}

fn fits(
    loaded: &Expr,
    mask: Option<&[u8]>,
    (is_equal, with): (bool, &[u8]),
    way: Way,
    settings: &NetworkSettings,
) -> Fit {
    let side = |from: u32, to: u32| if way.is_from() { from } else { to };
    let (address_at, own, bits) = way.address(settings);
    let equal = match loaded {
        Expr::Meta(_) if mask.is_some() => Fit::Maybe,
        Expr::Meta(key) if *key == side(NFT_META_IIFNAME, NFT_META_OIFNAME) => {
            is_link(with, &settings.link_prefix())
        }
        Expr::Meta(key) if *key == side(NFT_META_IIFGROUP, NFT_META_OIFGROUP) => {
            // In the order of the host's bytes, as a number that the kernel keeps.
            yes(with == settings.group().to_ne_bytes())
        }
        Expr::Meta(NFT_META_NFPROTO) => yes(match way.version() {
            Version::V4 => with == [NFPROTO_IPV4],
            Version::V6 => with == [NFPROTO_IPV6],
        }),
        Expr::Header(at) if *at == address_at => holds_prefix(mask, with, (&own, usize::from(bits))),
        // At a published port its destination was translated.
        Expr::Ct(NFT_CT_STATUS) if !way.is_from() && with.iter().all(|byte| *byte == 0) => {
            let is_dnat = mask.is_some_and(|mask| mask == IPS_DST_NAT.to_ne_bytes());
            if is_dnat { Fit::No } else { Fit::Maybe }
        }
        Expr::Meta(_)
        | Expr::Ct(_)
        | Expr::Header(_)
        | Expr::Neutral
        | Expr::Mask(_)
        | Expr::Compare { .. }
        | Expr::Verdict(_)
        | Expr::Unknown => Fit::Maybe,
    };
    match (equal, is_equal) {
        (fit, true) => fit,
        (Fit::Yes, false) => Fit::No,
        (Fit::No, false) => Fit::Yes,
        (Fit::Maybe, false) => Fit::Maybe,
    }
}

fn yes(claim: bool) -> Fit {
    if claim { Fit::Yes } else { Fit::No }
}

/// Whether all our links have names that begin so; a name that ends with NUL is that one name.
fn is_link(with: &[u8], prefix: &str) -> Fit {
    let name = with.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_whole = name.len() < with.len();
    match () {
        () if !is_whole && prefix.as_bytes().starts_with(name) => Fit::Yes,
        () if name.starts_with(prefix.as_bytes()) => Fit::Maybe,
        () => Fit::No,
    }
}

/// Whether every address of ours is among those that begin with these bits.
fn holds_prefix(mask: Option<&[u8]>, with: &[u8], (own, bits): (&[u8], usize)) -> Fit {
    let one = |n: usize| mask.map_or(0xff, |mask| mask.get(n).copied().unwrap_or_default());
    let wanted = |n: usize| with.get(n).copied().unwrap_or_default();
    let fixed = |n: usize| match bits.saturating_sub(n * 8) {
        left @ 0..8 => !(0xff_u8 >> left),
        _ => 0xff,
    };
    let len = with.len().min(own.len());
    if (0..len).any(|n| own[n] & one(n) & fixed(n) != wanted(n) & fixed(n)) {
        return Fit::No;
    }
    // What it asks for beyond what all of ours have in common.
    match (0..len).all(|n| one(n) & !fixed(n) == 0) {
        true => Fit::Yes,
        false => Fit::Maybe,
    }
}

/// For `fuzz/`.
#[cfg(fuzzing)]
pub(super) fn is_rule(body: &[u8]) -> bool {
    let settings = NetworkSettings::default();
    let Some(body) = body.get(4..) else { return false };
    let is_judged = judge(&rule(body).exprs, Way::From(Version::V6), &settings).is_some();
    base(NFPROTO_INET, body).is_some() || is_judged
}
