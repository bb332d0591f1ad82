//! What a service is told about names: what it may reach has a name, and nothing else has. Pure: no clock, no socket.
//!
//! | what is asked for | who may know |
//! |---|---|
//! | itself, `localhost` | everybody |
//! | `db`, `db.palisade` | whom the files let talk to `db`; for others it is as if there were none |
//! | `web`, where `web@1` and `web@2` are | whom they let talk to them; the addresses of both |
//! | the name of an address of ours | as the name |
//! | `network.hosts` | whose file says so |
//! | anything else | whom `network.egress` lets out: everything, or the names that it lists |
//!
//! A name of one label is never asked for elsewhere: what services are called is nobody's business outside.
//!
//! The supervisor asks [`decide`] and does what it says; [`wire`] is what messages look like.

pub mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{
    net::addr::{NetworkSettings, Prefix4, Prefix6},
    spec::{Door, Named, UnitName},
};
pub use wire::{Found, Question, Unread};

/// What names of services end with, where they have more than one label.
pub const ZONE: &str = "palisade";
/// Where services ask: on the loopback interface of their own network namespace.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// For how many seconds an answer of ours may be kept: whoever is stopped and started again has the same address, but who
/// may talk to whom changes with the files.
const TTL: u32 = 5;
/// At least so long somebody may go to where a name has led: time to connect for those who are told that an answer holds
/// for this moment alone.
const LEAST: u32 = 30;
/// At most so long, and so long an answer may be kept.
pub const MOST: u32 = 3600;

/// Whose names somebody may ask for that are none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Nobody's.
    Nothing,
    /// Those that are listed, and what they lead to may then be gone to.
    Only(Vec<Named>),
    /// Everybody's.
    Everything,
}

/// What one service may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What services are called, in lower case, that it may reach, and itself.
    services: BTreeMap<String, Vec<IpAddr>>,
    /// What their templates are called.
    templates: BTreeMap<String, Vec<IpAddr>>,
    /// What its own host is called.
    own: (String, Vec<IpAddr>),
    /// `network.hosts`.
    hosts: BTreeMap<String, Vec<IpAddr>>,
    /// What addresses are called.
    pointers: BTreeMap<IpAddr, String>,
    /// All addresses of ours.
    prefix4: Prefix4,
    prefix6: Option<Prefix6>,
    beyond: Beyond,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To answer it so.
    Answer(Vec<u8>),
    /// To ask others. Through these doors its service may then go to the addresses that they know.
    PassOn(Vec<Door>),
}

impl View {
    /// What everybody knows: itself, under its own name and the one that its host has for it.
    pub fn of(name: &UnitName, hostname: &str, own: &[IpAddr], settings: &NetworkSettings) -> Self {
        let mut view = Self {
            services: BTreeMap::new(),
            templates: BTreeMap::new(),
            own: (hostname.to_ascii_lowercase(), own.to_vec()),
            hosts: BTreeMap::new(),
            pointers: BTreeMap::new(),
            prefix4: settings.prefix4,
            prefix6: settings.prefix6,
            beyond: Beyond::Nothing,
        };
        view.add_service(name, own, true);
        view
    }

    /// Adds a service that may be reached. Under the name of their template those instances are found that have a network.
    pub fn add_service(&mut self, name: &UnitName, addresses: &[IpAddr], has_network: bool) {
        let text = name.as_str().to_ascii_lowercase();
        if let Some((template, _)) = text.split_once('@').filter(|_| has_network) {
            self.templates.entry(template.to_owned()).or_default().extend(addresses);
        }
        for address in addresses {
            self.pointers.insert(*address, format!("{text}.{ZONE}"));
        }
        self.services.entry(text).or_default().extend(addresses);
    }

    /// Adds what the file says beside services.
    pub fn add_hosts(&mut self, hosts: &BTreeMap<String, IpAddr>) {
        for (name, address) in hosts {
            self.pointers.entry(*address).or_insert_with(|| name.clone());
            self.hosts.entry(name.to_ascii_lowercase()).or_default().push(*address);
        }
    }

    /// Says whose names it may ask for.
    pub fn set_beyond(&mut self, beyond: Beyond) {
        self.beyond = beyond;
    }

    /// What is found under a name that is ours, and whose word it is. None: it is not ours.
    fn find(&self, name: &str) -> Option<(Found, &'static str)> {
        let of = |all: &[IpAddr]| Found::Addresses(all.to_vec());
        if let Some(all) = self.hosts.get(name) {
            return Some((of(all), ""));
        }
        if name == ZONE {
            return Some((Found::Nothing, ZONE));
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Some((of(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]), ""));
        }
        if let Some(address) = reversed(name) {
            return self.pointer(address);
        }
        let within = name.strip_suffix(ZONE).and_then(|rest| rest.strip_suffix('.'));
        let own = |name: &str| Some(&self.own).filter(|(own, _)| own == name).map(|(_, all)| all);
        let (label, zone) = match within {
            Some(label) => (label, ZONE),
            None if !name.is_empty() && !name.contains('.') => (name, ""),
            None => return own(name).map(|all| (of(all), "")),
        };
        // Whoever is called so, before whoever calls his own host so.
        let known = self.services.get(label).or_else(|| self.templates.get(label)).or_else(|| own(label));
        Some((known.map_or(Found::NoName, |all| of(all)), zone))
    }

    fn pointer(&self, address: IpAddr) -> Option<(Found, &'static str)> {
        let zone = match address {
            IpAddr::V4(_) => "in-addr.arpa",
            IpAddr::V6(_) => "ip6.arpa",
        };
        if let Some(name) = self.pointers.get(&address) {
            return Some((Found::Pointer(name.clone()), zone));
        }
        if address.is_loopback() {
            return Some((Found::Pointer("localhost".to_owned()), zone));
        }
        let is_ours = match address {
            IpAddr::V4(four) => self.prefix4.contains(four),
            IpAddr::V6(six) => self.prefix6.is_some_and(|prefix| prefix.contains(six)),
        };
        is_ours.then_some((Found::NoName, zone))
    }
}

/// Says what to do with a question of one service. `turn` counts those for addresses of one kind, so that each of a template
/// comes first in its turn; `room` is how long an answer may be.
pub fn decide(question: &Question, view: &View, turn: usize, room: usize) -> Verdict {
    if !question.is_plain() {
        return Verdict::Answer(question.refused());
    }
    if let Some((mut found, zone)) = view.find(&question.name) {
        if let Found::Addresses(all) = &mut found {
            all.retain(|address| question.wants_address(address));
            let by = turn.checked_rem(all.len()).unwrap_or_default();
            all.rotate_left(by);
        }
        return Verdict::Answer(question.answer(&found, zone, TTL, room));
    }
    match &view.beyond {
        Beyond::Nothing => Verdict::Answer(question.refused()),
        Beyond::Everything => Verdict::PassOn(Vec::new()),
        Beyond::Only(list) => {
            let doors: BTreeSet<Door> =
                list.iter().filter(|one| one.is(&question.name)).map(|one| one.door).collect();
            match doors.is_empty() {
                true => Verdict::Answer(question.refused()),
                false => Verdict::PassOn(doors.into_iter().collect()),
            }
        }
    }
}

/// For how long somebody may go to where a name has led.
pub fn holds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.clamp(LEAST, MOST).into())
}

/// Whether an address that a name has led to can be outside at all. (The packet filter does not rely on it.)
pub fn is_outside(address: IpAddr) -> bool {
    let is_never = match address {
        IpAddr::V4(four) => four.is_link_local() || four.is_broadcast(),
        // What is written so goes out as IPv4.
        IpAddr::V6(six) => six.is_unicast_link_local() || six.to_ipv4_mapped().is_some(),
    };
    !(is_never || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// The servers that resolv.conf(5) names, at most three as with other resolvers.
pub fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()
    };
    resolv_conf.lines().filter_map(of_line).take(3).collect()
}

/// The address that a name of in-addr.arpa or ip6.arpa is about.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<u8> = rest.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let [a, b, c, d] = parts.try_into().ok()?;
        return Some(Ipv4Addr::new(d, c, b, a).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let digit = |part: &str| match part.len() {
        1 => u128::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let digits: Vec<u128> = rest.split('.').map(digit).collect::<Option<_>>()?;
    let bits = digits.iter().rev().fold(0, |bits, digit| bits << 4 | digit);
    (digits.len() == 32).then(|| Ipv6Addr::from_bits(bits).into())
}
