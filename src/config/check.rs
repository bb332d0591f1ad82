//! What can only be said with all files on the table: names, cycles, and things of which the host has one. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    diagnostic::{Diagnostic, Location},
    value::nearest,
};
use crate::spec::{self, Claims, Unit, UnitName};

/// The services of all files.
pub(super) struct Known<'a> {
    /// Those without a mistake so far.
    pub(super) resolved: &'a BTreeMap<UnitName, (Unit, Claims)>,
    /// Those with one.
    pub(super) broken: BTreeSet<UnitName>,
    /// Those that are hidden.
    pub(super) masked: &'a BTreeSet<UnitName>,
}

/// The mistakes of each service that shows one.
pub(super) fn check(known: &Known<'_>) -> BTreeMap<UnitName, Vec<Diagnostic>> {
    let mut found: BTreeMap<UnitName, Vec<Diagnostic>> = BTreeMap::new();
    for (name, (_, claims)) in known.resolved {
        let mut mistakes = unknown_names(known, claims);
        mistakes.extend(cycle(known, name));
        mistakes.extend(clashes(known, name, claims));
        if !mistakes.is_empty() {
            found.insert(name.clone(), mistakes);
        }
    }
    found
}

fn unknown_names(known: &Known<'_>, claims: &Claims) -> Vec<Diagnostic> {
    let needed = claims.requires.iter().chain(&claims.joins).chain(&claims.shares).map(|claim| (claim, true));
    let all = needed.chain(claims.after.iter().map(|claim| (claim, false)));
    let mut found = Vec::new();
    for ((name, at), needed) in all {
        if known.resolved.contains_key(name) || known.broken.contains(name) {
            continue;
        }
        if known.masked.contains(name) {
            // Order among those that start: a masked service never does.
            if needed {
                let message = format!("the service {:?} is masked", name.as_str());
                let hint = "remove the link to /dev/null that hides it, or do without it".to_owned();
                found.push(Diagnostic::at(at.clone(), message).hint(hint));
            }
            continue;
        }
        let names = known.resolved.keys().chain(&known.broken).map(UnitName::as_str);
        let hint = match nearest(name.as_str(), names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there is no file {name}.toml"),
        };
        found.push(Diagnostic::at(at.clone(), format!("there is no service {:?}", name.as_str())).hint(hint));
    }
    found
}

/// Whom a service waits for, and where it says so.
fn edges<'a>(known: &Known<'a>, name: &UnitName) -> impl Iterator<Item = &'a (UnitName, Location)> + use<'a> {
    let claims = known.resolved.get(name).map(|(_, claims)| claims);
    claims.into_iter().flat_map(|claims| claims.requires.iter().chain(&claims.joins).chain(&claims.after))
}

/// The shortest way from a service back to itself.
fn cycle(known: &Known<'_>, start: &UnitName) -> Option<Diagnostic> {
    let mut came_from: BTreeMap<&UnitName, (&UnitName, &Location)> = BTreeMap::new();
    let (start, _) = known.resolved.get_key_value(start)?;
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for (next, at) in edges(known, name) {
            if !came_from.contains_key(next) {
                came_from.insert(next, (name, at));
                queue.push_back(next);
            }
        }
        if came_from.contains_key(start) {
            break;
        }
    }
    let mut way = vec![(start, came_from.get(start)?.1)];
    let mut name = came_from.get(start)?.0;
    while name != start {
        let (before, at) = came_from.get(name)?;
        way.push((name, at));
        name = before;
    }
    way.reverse();
    // `way` has each service of the way with the place that names it: start -> way[0] -> way[1] ... -> start.
    let text: Vec<&str> =
        std::iter::once(start).chain(way.iter().map(|(name, _)| *name)).map(UnitName::as_str).collect();
    let message = format!("dependency cycle: {}", text.join(" -> "));
    let hint = "take one of these lines out: none of the services could ever be the first".to_owned();
    let mut diagnostic = Diagnostic::at(way.first()?.1.clone(), message).hint(hint);
    for pair in way.windows(2) {
        let (from, to) = (pair[0].0, &pair[1]);
        diagnostic = diagnostic.note(to.1.clone(), format!("{from} waits for {}", to.0));
    }
    Some(diagnostic)
}

/// What a service and one that comes before it by name both want; the earlier keeps it.
fn clashes(known: &Known<'_>, name: &UnitName, claims: &Claims) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (other, (_, theirs)) in known.resolved.range(..name.clone()) {
        if let (Some((address, at)), Some((taken, there))) = (&claims.address, &theirs.address)
            && address == taken
        {
            let message = format!("the address {address} is already that of {other}");
            let hint = "give it another, or leave `address` out to have one assigned".to_owned();
            found.push(Diagnostic::at(at.clone(), message).hint(hint).note(there.clone(), "taken here"));
        }
        for (publish, at) in &claims.publish {
            let taken = theirs.publish.iter().find(|(other, _)| spec::clash(publish, other));
            if let Some((_, there)) = taken {
                let message = format!(
                    "host port {}/{} is already published by {other}",
                    publish.host_port, publish.proto
                );
                let hint = "publish it on another port, or on another address of the host".to_owned();
                found.push(
                    Diagnostic::at(at.clone(), message).hint(hint).note(there.clone(), "published here"),
                );
            }
        }
    }
    found
}
