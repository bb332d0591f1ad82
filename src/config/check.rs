//! What can only be said with all files on the table: names, cycles, and things of which the host has one. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    ops::Range,
};

use super::{
    Checked,
    diagnostic::{Diagnostic, Location},
    value::nearest,
};
use crate::{
    net::addr::Mac,
    spec::{
        self, Host, Listen, MOST, Namespace, Namespaces, NetworkMode, Proto, Publish, Socket, SocketKind,
        UnitName, UserNamespace,
    },
};

/// The services of all files.
pub(super) struct Known<'a> {
    /// Those without a mistake so far.
    pub(super) resolved: &'a BTreeMap<UnitName, Checked>,
    /// Those with one.
    pub(super) broken: BTreeSet<UnitName>,
    /// Those that are hidden.
    pub(super) masked: &'a BTreeSet<UnitName>,
}

impl Known<'_> {
    fn at(&self, name: &UnitName, span: &Range<usize>) -> Location {
        self.resolved[name].sources.locate(span)
    }
}

/// What there is one of on a host, and the service that has it.
#[derive(Default)]
struct Taken<'a> {
    addresses: BTreeMap<Ipv4Addr, (&'a UnitName, &'a Range<usize>)>,
    /// Hardware addresses on bridges.
    macs: BTreeMap<&'a (String, Mac), (&'a UnitName, &'a Range<usize>)>,
    ports: BTreeMap<(Proto, u16), Vec<Port<'a>>>,
    sockets: Vec<(&'a Socket, &'a UnitName, &'a Range<usize>)>,
    /// In small letters: some who pass requests on tell paths apart by those alone.
    sites: BTreeMap<(&'a Host, String), (&'a UnitName, &'a Range<usize>)>,
}

/// A published port, whose it is, and the span there that says so.
type Port<'a> = (&'a Publish, &'a UnitName, &'a Range<usize>);

/// The mistakes of each service that shows one, at most [`MOST`] of each kind.
pub(super) fn check(known: &Known<'_>) -> BTreeMap<UnitName, Vec<Diagnostic>> {
    let mut found: BTreeMap<UnitName, Vec<Diagnostic>> = BTreeMap::new();
    let (mut taken, edges) = (Taken::default(), edges(known));
    for (name, checked) in known.resolved {
        let mut mistakes = unknown_names(known, name, checked);
        mistakes.extend(borrowed(known, name, checked));
        mistakes.extend(cycle(known, &edges, name));
        mistakes.extend(clashes(known, name, checked, &mut taken));
        mistakes.extend(listens_twice(known, name, checked, &mut taken));
        mistakes.extend(asked_twice(known, name, checked, &mut taken));
        if !mistakes.is_empty() {
            found.insert(name.clone(), mistakes);
        }
    }
    found
}

fn unknown_names(known: &Known<'_>, of: &UnitName, checked: &Checked) -> Vec<Diagnostic> {
    let claims = &checked.claims;
    let needed = claims.requires.iter().chain(&claims.joins).chain(&claims.shares).map(|claim| (claim, true));
    // An instance may be started by its name alone, at any time.
    let peers = claims.peers.iter().filter(|(name, _)| !name.is_instance());
    let others = claims.after.iter().chain(&claims.before).chain(&claims.others).chain(peers);
    let all = needed.chain(others.map(|claim| (claim, false)));
    let mistake = |((name, span), needed): (&(UnitName, Range<usize>), bool)| {
        if known.resolved.contains_key(name) || known.broken.contains(name) {
            return None;
        }
        if known.masked.contains(name) {
            // Order among those that start, and what a service does without: a masked one is not there.
            let message = format!("the service {:?} is masked", name.as_str());
            let hint = "remove the link to /dev/null that hides it, or do without it".to_owned();
            return needed.then(|| Diagnostic::at(known.at(of, span), message).hint(hint));
        }
        let names = known.resolved.keys().chain(&known.broken).map(UnitName::as_str);
        let hint = match nearest(name.as_str(), names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there is no file {name}.toml"),
        };
        Some(
            Diagnostic::at(known.at(of, span), format!("there is no service {:?}", name.as_str())).hint(hint),
        )
    };
    all.filter_map(mistake).take(MOST).collect()
}

/// Namespaces and id ranges that are taken from somebody who has none of his own: what the file would get is then
/// not what it says, in the worst case the host's.
fn borrowed(known: &Known<'_>, name: &UnitName, checked: &Checked) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (kind, (of, span)) in joined_kinds(&checked.unit.namespaces).into_iter().zip(&checked.claims.joins) {
        let theirs = known.resolved.get(of).map(|other| by_kind(&other.unit.namespaces, kind));
        let hint = match theirs {
            None | Some(Namespace::Own) => continue,
            Some(Namespace::Join(third)) => format!("write \"join:{third}\", whose it is"),
            Some(Namespace::Host) => "write \"host\", if the host's is what is meant".to_owned(),
        };
        let message = format!("{of} has no {kind} namespace of its own to join");
        found.push(Diagnostic::at(known.at(name, span), message).hint(hint));
    }
    found.extend(borrowed_network(known, name, checked));
    for (of, span) in &checked.claims.shares {
        let hint = match known.resolved.get(of).map(|other| &other.unit.namespaces.user) {
            None | Some(UserNamespace::Auto) => continue,
            Some(UserNamespace::Shared(third)) if third != of => {
                format!("write \"shared:{third}\", whose it is")
            }
            Some(UserNamespace::Shared(_) | UserNamespace::Off) => {
                "name a service with `user = \"auto\"`, or leave `user` out".to_owned()
            }
        };
        let message = format!("{of} has no id range of its own to share");
        found.push(Diagnostic::at(known.at(name, span), message).hint(hint));
    }
    found
}

/// A network namespace is joined where it outlives a run, and is somebody's own.
fn borrowed_network(known: &Known<'_>, name: &UnitName, checked: &Checked) -> Option<Diagnostic> {
    let of = checked.unit.network.joined()?;
    let (_, span) = checked.claims.joins.last()?;
    let theirs = &known.resolved.get(of)?.unit;
    let (message, hint) = match &theirs.network.mode {
        NetworkMode::Join(third) => (
            format!("{of} has no network of its own to join"),
            format!("write \"join:{third}\", whose it is"),
        ),
        NetworkMode::Host => (
            format!("{of} has no network of its own to join"),
            "write \"host\", if the host's is what is meant".to_owned(),
        ),
        NetworkMode::Veth | NetworkMode::Attached(_) | NetworkMode::None if theirs.has_network_power() => (
            format!("{of} has power over its network, which is therefore another one in every run"),
            format!("leave CAP_NET_ADMIN and CAP_NET_RAW out of {of}.toml, or do without its network"),
        ),
        NetworkMode::Attached(_) => (
            format!(
                "{of} is in a network of the host's, where nobody answers a guest's questions about names"
            ),
            "write the same `mode` and `parent`, with another `address`".to_owned(),
        ),
        NetworkMode::Veth | NetworkMode::None => return None,
    };
    Some(Diagnostic::at(known.at(name, span), message).hint(hint))
}

/// The kinds of namespaces that are joined, in the order of `Claims::joins`.
fn joined_kinds(ns: &Namespaces) -> Vec<&'static str> {
    let is_joined = |kind: &&str| matches!(by_kind(ns, kind), Namespace::Join(_));
    ["pid", "uts", "ipc", "cgroup"].into_iter().filter(is_joined).collect()
}

fn by_kind<'a>(ns: &'a Namespaces, kind: &str) -> &'a Namespace {
    match kind {
        "pid" => &ns.pid,
        "uts" => &ns.uts,
        "ipc" => &ns.ipc,
        _ => &ns.cgroup,
    }
}

/// One that is waited for, whose file says so, and where.
type Edge<'a> = (&'a UnitName, &'a UnitName, &'a Range<usize>);

/// Whom each service waits for.
fn edges<'a>(known: &Known<'a>) -> BTreeMap<&'a UnitName, Vec<Edge<'a>>> {
    let mut edges: BTreeMap<&UnitName, Vec<Edge<'_>>> = BTreeMap::new();
    for (name, Checked { claims, .. }) in known.resolved {
        let own = claims.requires.iter().chain(&claims.joins).chain(&claims.after);
        edges.entry(name).or_default().extend(own.map(|(first, span)| (first, name, span)));
        for (later, span) in &claims.before {
            edges.entry(later).or_default().push((name, name, span));
        }
    }
    edges
}

/// The shortest way from a service back to itself.
fn cycle(
    known: &Known<'_>,
    edges: &BTreeMap<&UnitName, Vec<Edge<'_>>>,
    start: &UnitName,
) -> Option<Diagnostic> {
    // Whom each was reached from first, and the file and the span there that say so.
    let mut came_from: BTreeMap<&UnitName, Edge<'_>> = BTreeMap::new();
    let (start, _) = known.resolved.get_key_value(start)?;
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front().filter(|_| !came_from.contains_key(start)) {
        for &(next, author, span) in edges.get(name).into_iter().flatten() {
            if known.resolved.contains_key(next) && !came_from.contains_key(next) {
                came_from.insert(next, (name, author, span));
                queue.push_back(next);
            }
        }
    }
    let mut way = Vec::new();
    let mut name = start;
    loop {
        let (from, author, span) = *came_from.get(name)?;
        way.push((from, name, known.at(author, span)));
        name = from;
        if name == start {
            break;
        }
    }
    way.reverse();
    let names: Vec<&str> = way.iter().map(|(from, ..)| from.as_str()).chain([start.as_str()]).collect();
    let message = format!("dependency cycle: {}", names.join(" -> "));
    let hint = "take one of these lines out: none of the services could ever be the first".to_owned();
    let mut way = way.into_iter();
    let (_, _, first) = way.next()?;
    let cycle = Diagnostic::at(first, message).hint(hint);
    Some(way.fold(cycle, |cycle, (from, to, at)| cycle.note(at, format!("{from} waits for {to}"))))
}

/// Whose mistake it is, where the file does not say so: several instances have one.
fn who(name: &UnitName) -> String {
    if name.is_instance() { format!("{name}: ") } else { String::new() }
}

/// What a service and one that comes before it by name both want; the earlier keeps it.
fn clashes<'a>(
    known: &Known<'_>,
    name: &'a UnitName,
    checked: &'a Checked,
    taken: &mut Taken<'a>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if let Some((address, span)) = &checked.claims.address {
        let (other, there) = *taken.addresses.entry(*address).or_insert((name, span));
        if other != name {
            let message = format!("{}the address {address} is already that of {other}", who(name));
            let hint = "give it another, or leave `address` out to have one assigned".to_owned();
            let clash = Diagnostic::at(known.at(name, span), message).hint(hint);
            found.push(clash.note(known.at(other, there), "taken here"));
        }
    }
    if let Some((port, span)) = &checked.claims.port {
        let (other, there) = *taken.macs.entry(port).or_insert((name, span));
        if other != name {
            let (bridge, mac) = port;
            let message =
                format!("{}on {bridge}, {mac} is already the hardware address of {other}", who(name));
            let hint =
                "give it another, or leave `mac` out to have one that follows from its address".to_owned();
            let clash = Diagnostic::at(known.at(name, span), message).hint(hint);
            found.push(clash.note(known.at(other, there), "taken here"));
        }
    }
    for (publish, span) in &checked.claims.publish {
        let ports = taken.ports.entry((publish.proto, publish.host_port)).or_default();
        let other = ports.iter().find(|(other, ..)| spec::clash(publish, other));
        if let Some((_, other, there)) = other.filter(|_| found.len() < MOST) {
            let (port, proto) = (publish.host_port, publish.proto);
            let message = format!("{}host port {port}/{proto} is already published by {other}", who(name));
            let hint = "publish it on another port, or on another address of the host".to_owned();
            let clash = Diagnostic::at(known.at(name, span), message).hint(hint);
            found.push(clash.note(known.at(other, there), "published here"));
        }
        ports.push((publish, name, span));
    }
    found
}

/// Sockets where somebody else listens, or has a port published; two services that publish a port are told above.
fn listens_twice<'a>(
    known: &Known<'_>,
    name: &'a UnitName,
    checked: &'a Checked,
    taken: &mut Taken<'a>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut clash = |at: &Range<usize>, what: String, (other, there): (&UnitName, &Range<usize>)| {
        if found.len() < MOST {
            let message = format!("{what} is already taken by {other}");
            let hint = "listen on another port, or on another address of the host".to_owned();
            let clash = Diagnostic::at(known.at(name, at), message).hint(hint);
            found.push(clash.note(known.at(other, there), "taken here"));
        }
    };
    for (publish, span) in &checked.claims.publish {
        let other = taken.sockets.iter().find(|(socket, other, _)| *other != name && meets(publish, socket));
        if let Some((_, other, there)) = other {
            clash(span, format!("host port {}/{}", publish.host_port, publish.proto), (other, there));
        }
    }
    for (socket, span) in &checked.claims.sockets {
        let published = taken.ports.values().flatten().find(|(publish, ..)| meets(publish, socket));
        let published = published.map(|(_, other, there)| (*other, *there));
        let held = taken.sockets.iter().find(|(other, ..)| other.clashes_with(socket));
        let held = held.map(|(_, other, there)| (*other, *there));
        if let Some(taken) = published.or(held) {
            clash(span, format!("the socket {socket}"), taken);
        }
    }
    taken.sockets.extend(checked.claims.sockets.iter().map(|(socket, span)| (socket, name, span)));
    found
}

/// Host names by which somebody else is asked. Instances of one template may have one together.
fn asked_twice<'a>(
    known: &Known<'_>,
    name: &'a UnitName,
    checked: &'a Checked,
    taken: &mut Taken<'a>,
) -> Vec<Diagnostic> {
    let Some(http) = &checked.unit.http else { return Vec::new() };
    let template = |name: &UnitName| name.as_str().split_once('@').map(|(prefix, _)| prefix.to_owned());
    let mut found = Vec::new();
    for (host, span) in checked.claims.hosts.iter().take(MOST) {
        let site = (host, http.path.as_str().to_lowercase());
        let (other, there) = *taken.sites.entry(site).or_insert((name, span));
        let together = template(name).is_some_and(|prefix| template(other) == Some(prefix));
        if other != name && !together {
            let what = match http.path.is_whole() {
                true => format!("the host {host}"),
                false => format!("the path {} of the host {host}", http.path),
            };
            let message = format!("{}{what} is already that of {other}", who(name));
            let hint = "give it another name, or a `path` of its own below that host".to_owned();
            let clash = Diagnostic::at(known.at(name, span), message).hint(hint);
            found.push(clash.note(known.at(other, there), "taken here"));
        }
    }
    found
}

/// Whether a published port and a held socket want the same of the host.
fn meets(publish: &Publish, socket: &Socket) -> bool {
    let proto = match socket.kind {
        SocketKind::Stream | SocketKind::Seqpacket => Proto::Tcp,
        SocketKind::Dgram => Proto::Udp,
    };
    match &socket.listen {
        Listen::Unix(_) => false,
        Listen::Ip(address) => {
            let overlap = address.ip() == publish.address
                || (address.is_ipv4() && (address.ip().is_unspecified() || publish.address.is_unspecified()));
            publish.proto == proto && publish.host_port == address.port() && overlap
        }
    }
}
