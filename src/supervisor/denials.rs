//! Packets of services that were refused: what, how often, and which line of which file decides it.
//!
//! Whoever floods is told of ten times a second; of a service so many different refusals are kept, the latest ones. What
//! stands in the packets was written by whoever sent them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
};

use super::{Supervisor, now, requests::moment};
use crate::{
    config::DecidingPlaces,
    control::types::{self, Verdict},
    machine::Mono,
    net::{
        addr::Talk,
        drops::{Head, Protocol, Reason, Refused},
        link::LinkPlan,
    },
    spec::{Door, Unit, UnitName},
};

/// So many different ones are kept of one service.
pub(super) const MOST: usize = 16;
/// Milliseconds until the next event about refusals of the same service.
const QUIET: u64 = 10_000;

/// What was refused, by service.
#[derive(Debug, Default)]
pub(super) struct Denials {
    recent: BTreeMap<UnitName, Vec<Denial>>,
    /// When an event was last made of one.
    told: BTreeMap<UnitName, Mono>,
    /// How many there were in all.
    totals: BTreeMap<UnitName, BTreeMap<Reason, u64>>,
    /// Where the files say what decides about it.
    pub(super) places: BTreeMap<UnitName, DecidingPlaces>,
}

/// Packets that were refused for the same reason on their way to the same door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denial {
    reason: Reason,
    /// Of the last one.
    head: Option<Head>,
    count: u64,
    last: Mono,
}

impl Denial {
    /// What makes two of them one.
    fn door(&self) -> (Reason, Option<(IpAddr, Protocol, Option<u16>)>) {
        (self.reason, self.head.map(|head| (head.to, head.protocol, head.port)))
    }
}

impl Denials {
    /// Takes one in; whether it is worth an event.
    fn note(&mut self, name: &UnitName, (reason, head): (Reason, Option<Head>), now: Mono) -> bool {
        let is_told = self.told.get(name).is_some_and(|at| now.0 < at.0 + QUIET);
        if !is_told {
            self.told.insert(name.clone(), now);
        }
        self.keep(name, (reason, head), now);
        !is_told
    }

    fn keep(&mut self, name: &UnitName, (reason, head): (Reason, Option<Head>), now: Mono) {
        *self.totals.entry(name.clone()).or_default().entry(reason).or_default() += 1;
        let all = self.recent.entry(name.clone()).or_default();
        let new = Denial { reason, head, count: 1, last: now };
        if let Some(known) = all.iter_mut().find(|known| known.door() == new.door()) {
            *known = Denial { count: known.count.saturating_add(1), ..new };
            return;
        }
        if all.len() >= MOST
            && let Some(oldest) = (0..all.len()).min_by_key(|at| all[*at].last)
        {
            all.remove(oldest);
        }
        all.push(new);
    }

    /// Of services that are gone for good nobody asks.
    pub(super) fn forget_all_but(&mut self, units: &BTreeMap<UnitName, Unit>) {
        self.recent.retain(|name, _| units.contains_key(name));
        self.totals.retain(|name, _| units.contains_key(name));
        self.told.retain(|name, _| units.contains_key(name));
    }

    /// How many of a service were told of in all, by their reason; of others on their way to it none.
    pub(super) fn totals(&self, name: &UnitName) -> impl Iterator<Item = (Reason, u64)> {
        self.totals.get(name).into_iter().flatten().map(|(reason, count)| (*reason, *count))
    }

    /// Those of a service, and those of others that were on their way to it; the last one first.
    fn of(&self, name: &UnitName, addresses: &[IpAddr]) -> Vec<(UnitName, Denial)> {
        let is_to_it = |denial: &&Denial| {
            denial.reason == Reason::ToService && denial.head.is_some_and(|head| addresses.contains(&head.to))
        };
        let own = self.recent.get(name).into_iter().flatten().map(|denial| (name, denial));
        let others = self.recent.iter().filter(|(other, _)| *other != name);
        let others =
            others.flat_map(|(other, all)| all.iter().filter(is_to_it).map(move |denial| (other, denial)));
        let mut all: Vec<(UnitName, Denial)> =
            own.chain(others).map(|(name, denial)| (name.clone(), *denial)).collect();
        all.sort_by_key(|(_, denial)| std::cmp::Reverse(denial.last));
        all.truncate(MOST);
        all
    }
}

/// A service as a refusal concerns it: its name, where its keys stand, and its file.
pub(super) struct Side<'a> {
    pub(super) name: &'a UnitName,
    pub(super) places: Option<&'a DecidingPlaces>,
    pub(super) file: Option<String>,
}

impl Side<'_> {
    /// That this key decides, or that there is none and its default does.
    pub(super) fn says(&self, key: &str) -> Verdict {
        let (found, at, place) = self.place(key);
        let why = match found {
            true => format!("{key} of {place} decides it"),
            false => format!("{place} has no {key}, and its default decides it"),
        };
        Verdict { why, key: Some(key.to_owned()), at, add: None }
    }

    /// Whether the files have this key, and where it is, or would be.
    fn place(&self, key: &str) -> (bool, Option<String>, String) {
        let found = self.places.and_then(|places| places.get(key));
        let at = found.or(self.file.as_ref()).cloned();
        let place = at.clone().unwrap_or_else(|| format!("the file of {}", self.name));
        (found.is_some(), at, place)
    }

    /// That this key lacks an item.
    pub(super) fn lacks(&self, key: &str, add: Option<String>) -> Verdict {
        let (found, at, place) = self.place(key);
        let what = match found {
            true => format!("{key} of {place} does not list it"),
            false => format!("{place} has no {key}"),
        };
        // A list in its place would take the default away.
        let below = if key == "security.seccomp" { "\"@service\", " } else { "" };
        let add_text = match (&add, found) {
            (Some(add), true) => format!("; add {add:?}"),
            (Some(add), false) => format!("; write {key} = [{below}{add:?}]"),
            (None, _) => String::new(),
        };
        Verdict { why: format!("{what}{add_text}"), key: Some(key.to_owned()), at, add }
    }
}

/// `no_egress: tcp 10.83.0.2 -> 192.0.2.7:443`.
fn told(refused: &Refused) -> String {
    let reason = refused.reason.name();
    match refused.head {
        Some(Head { from, to, protocol, port: Some(port) }) => {
            format!("{reason}: {protocol} {from} -> {}", SocketAddr::new(to, port))
        }
        Some(Head { from, to, protocol, port: None }) => format!("{reason}: {protocol} {from} -> {to}"),
        None => reason.to_owned(),
    }
}

pub(super) fn nothing(why: &str) -> Verdict {
    Verdict { why: why.to_owned(), ..Verdict::default() }
}

/// `:443`, `:53/udp`, or `:*` where no single port can be named.
fn door(head: &Head) -> String {
    match (head.protocol.to_string().as_str(), head.port) {
        ("tcp", Some(port)) => format!(":{port}"),
        ("udp", Some(port)) => format!(":{port}/udp"),
        _ => ":*".to_owned(),
    }
}

/// Which key decides that a packet of `from` was refused; `to`: the service that it was for, where it was for one.
fn judge(reason: Reason, head: Option<&Head>, from: &Side<'_>, to: Option<&Side<'_>>) -> Verdict {
    let address = |to: IpAddr| if to.is_ipv6() { format!("[{to}]") } else { to.to_string() };
    match (reason, head) {
        (Reason::NoEgress, Some(head)) => {
            from.lacks("network.egress", Some(format!("{}{}", address(head.to), door(head))))
        }
        (Reason::NoEgress, None) => from.lacks("network.egress", None),
        (Reason::ToService, Some(head)) => {
            let Some(to) = to else {
                return nothing("no service that is up and may be seen has this address");
            };
            let mut verdict = from.lacks("network.allow_to", Some(format!("{}{}", to.name, door(head))));
            let other = to.lacks("network.allow_from", Some(format!("{}{}", from.name, door(head))));
            verdict.why += &format!(", or: {}", other.why);
            verdict
        }
        (Reason::ToService, None) => nothing("it was for another service"),
        (Reason::Unpublished, head) => {
            let port = head.filter(|head| ["tcp", "udp"].contains(&head.protocol.to_string().as_str()));
            let add = port.and_then(|head| {
                let suffix = if head.protocol.to_string() == "udp" { "/udp" } else { "" };
                let all = if head.to.is_ipv6() { "[::]" } else { "0.0.0.0" };
                head.port.map(|port| format!("{all}:{port}:{port}{suffix}"))
            });
            from.lacks("network.publish", add)
        }
        (Reason::Spoofed, _) => nothing(
            "its sender is not the one of its link, or it is a redirect or a broadcast: no key allows that",
        ),
        (Reason::ToLoopback, _) => nothing("loopback is within every host: no key allows that over a link"),
        (Reason::ToHost, _) => nothing(
            "an address of the host: no key allows that; a Unix socket of the host can be shown by rootfs.mounts",
        ),
        (Reason::ToMetadata, _) => nothing("link-local, or where clouds tell secrets: no key allows that"),
        (Reason::NotRouted, _) => nothing("forwarding is on there for services alone"),
        (Reason::NoLink, _) => nothing("the service has taken its link away"),
    }
}

impl Supervisor {
    /// Takes in what was refused.
    pub(super) fn hear_denials(&mut self) {
        let all = match self.launcher.network.refused() {
            Ok(all) => all,
            Err(error) => return tracing::error!("what is refused is not heard of any more: {error}"),
        };
        for refused in all {
            if let Some(name) = self.concerned(&refused) {
                let is_news = self.denials.note(&name, (refused.reason, refused.head), now());
                if is_news {
                    self.tell_aside(&name, "denied", &told(&refused));
                }
            }
        }
    }

    /// The service whose packet it was, by the link that it came over; else the one that it was for.
    fn concerned(&self, refused: &Refused) -> Option<UnitName> {
        let link = refused.link.zip(self.launcher.network.drops());
        let name_of =
            |(index, fd): (u32, BorrowedFd<'_>)| rustix::net::netdevice::index_to_name(fd, index).ok();
        let link = link.and_then(name_of);
        let is_its = |link: &LinkPlan, wanted: &str| {
            let is_its_port = link.bridge.is_none() || refused.mac == Some(link.guest_mac);
            link.routed_if() == wanted && is_its_port
        };
        let has_link = |wanted: &str| {
            let mut all = self.nets.iter();
            all.find(|(_, net)| net.link.as_ref().is_some_and(|link| is_its(link, wanted)))
        };
        let sender = link.as_deref().and_then(has_link).map(|(name, _)| name);
        let receiver = || refused.head.and_then(|head| self.holder(head.to));
        sender.cloned().or_else(receiver)
    }

    /// The service that has this address.
    fn holder(&self, address: IpAddr) -> Option<UnitName> {
        let mut all = self.nets.iter();
        let has_it =
            |link: Option<&LinkPlan>| link.is_some_and(|link| link.addresses().any(|own| own == address));
        let found = all.find(|(_, net)| has_it(net.link.as_ref()));
        found.map(|(name, _)| name.clone())
    }

    fn linked_addresses(&self, name: &UnitName) -> Vec<IpAddr> {
        let link = self.nets.get(name).and_then(|net| net.link.as_ref());
        link.map(|link| link.addresses().collect()).unwrap_or_default()
    }

    /// Whether one service may begin to talk to another as this packet tried.
    fn may_by_now(&self, head: &Head) -> bool {
        let is_door = |door: Door| match (door, head.port) {
            (Door::Any, _) => true,
            (Door::One(port, proto), Some(wanted)) => {
                port == wanted && proto.to_string() == head.protocol.to_string()
            }
            (Door::One(..), None) => false,
        };
        let is_it = |talk: &Talk| talk.from == head.from && talk.to == head.to && is_door(talk.door);
        self.nets.values().any(|net| net.talk.iter().any(is_it))
    }

    /// What of a service was refused lately, with what decides it; nothing of services that who asks may not see.
    pub(super) fn denied(&mut self, name: &UnitName, unseen: &BTreeSet<UnitName>) -> Vec<types::Denial> {
        self.hear_denials();
        let base = name.base();
        // Who has the network of another has what was refused there.
        let base =
            self.fleet.entry(&base).and_then(|entry| entry.unit.network.joined().cloned()).unwrap_or(base);
        let file = |name: &UnitName| self.files.get(name).map(|path| path.display().to_string());
        let all = self.denials.of(&base, &self.linked_addresses(&base));
        let told = all.iter().filter(|(from, _)| !unseen.contains(from)).map(|(from, denial)| {
            let Denial { reason, head, count, last } = denial;
            let to = head.and_then(|head| self.holder(head.to)).filter(|to| !unseen.contains(to));
            let side = |name| Side { name, places: self.denials.places.get(name), file: file(name) };
            let verdict = match head.filter(|head| self.may_by_now(head)) {
                Some(_) => nothing(
                    "the files allow it: it was refused before they did, or while one of the two was down",
                ),
                None => judge(*reason, head.as_ref(), &side(from), to.as_ref().map(side).as_ref()),
            };
            types::Denial {
                reason: reason.name().to_owned(),
                proto: head.map(|head| head.protocol.to_string()).unwrap_or_default(),
                from: head.map(|head| head.from),
                to: head.map(|head| head.to),
                port: head.and_then(|head| head.port),
                count: *count,
                last: moment(*last),
                verdict,
            }
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(to: [u8; 4], protocol: u8, port: Option<u16>) -> Head {
        Head { from: [10, 83, 0, 2].into(), to: to.into(), protocol: Protocol(protocol), port }
    }

    fn name(name: &str) -> UnitName {
        UnitName::new(name).expect("a name")
    }

    #[test]
    fn what_goes_to_the_same_door_is_one_and_the_latest_are_kept() {
        let mut all = Denials::default();
        let web = name("web");
        for at in 0..100 {
            all.note(&web, (Reason::NoEgress, Some(head([192, 0, 2, 7], 6, Some(443)))), Mono(at));
        }
        let known = all.of(&web, &[]);
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].1.count, known[0].1.last), (100, Mono(99)));
        // A scan of every port.
        for port in 0..=u16::MAX {
            let at = Mono(100 + u64::from(port));
            all.note(&web, (Reason::NoEgress, Some(head([192, 0, 2, 8], 6, Some(port)))), at);
        }
        let known = all.of(&web, &[]);
        assert_eq!(known.len(), MOST);
        assert_eq!(all.totals(&web).collect::<Vec<_>>(), [(Reason::NoEgress, 100 + 65_536)]);
        let ports: Vec<Option<u16>> =
            known.iter().map(|(_, denial)| denial.head.and_then(|head| head.port)).collect();
        assert_eq!(ports[..2], [Some(u16::MAX), Some(u16::MAX - 1)]);
        all.forget_all_but(&BTreeMap::new());
        assert_eq!(all.of(&web, &[]), []);
    }

    #[test]
    fn who_could_not_be_reached_learns_of_it_too() {
        let mut all = Denials::default();
        let (web, db) = (name("web"), name("db"));
        all.note(&web, (Reason::ToService, Some(head([10, 83, 0, 3], 6, Some(5432)))), Mono(1));
        all.note(&web, (Reason::NoEgress, Some(head([192, 0, 2, 7], 6, Some(443)))), Mono(2));
        let of_db = all.of(&db, &[[10, 83, 0, 3].into()]);
        assert_eq!(of_db.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(all.of(&db, &[]), []);
    }

    #[test]
    fn the_key_and_what_to_add_to_it_are_named() {
        let (web, db) = (name("web"), name("db"));
        let places = DecidingPlaces::from([("network.egress", "web.toml:14".to_owned())]);
        let from = Side { name: &web, places: Some(&places), file: Some("web.toml".to_owned()) };
        let to = Side { name: &db, places: None, file: Some("db.toml".to_owned()) };
        let why = |reason, head: Head| judge(reason, Some(&head), &from, Some(&to)).why;
        let outside = [192, 0, 2, 7];
        assert_eq!(
            why(Reason::NoEgress, head(outside, 6, Some(443))),
            "network.egress of web.toml:14 does not list it; add \"192.0.2.7:443\""
        );
        assert_eq!(
            why(Reason::NoEgress, head(outside, 17, Some(53))),
            "network.egress of web.toml:14 does not list it; add \"192.0.2.7:53/udp\""
        );
        assert_eq!(
            why(Reason::NoEgress, head(outside, 1, None)),
            "network.egress of web.toml:14 does not list it; add \"192.0.2.7:*\""
        );
        assert_eq!(
            why(Reason::ToService, head([10, 83, 0, 3], 6, Some(80))),
            "web.toml has no network.allow_to; write network.allow_to = [\"db:80\"], or: \
             db.toml has no network.allow_from; write network.allow_from = [\"web:80\"]"
        );
        assert_eq!(
            why(Reason::Unpublished, head([10, 83, 0, 2], 6, Some(80))),
            "web.toml has no network.publish; write network.publish = [\"0.0.0.0:80:80\"]"
        );
        let verdict = judge(Reason::ToHost, None, &from, None);
        assert_eq!((verdict.key, verdict.at, verdict.add), (None, None, None));
    }
}
