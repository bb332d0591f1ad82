//! Which services may begin to talk to which: the files say it by names, the packet filter knows addresses.
//!
//! An address stays with its name for good, so a service that has not been started yet has one as soon as somebody names it.
//! What a file allows holds while that service has a network.

use std::{collections::BTreeSet, net::IpAddr};

use super::Supervisor;
use crate::{
    launch::Net,
    net::addr::Talk,
    spec::{Allowed, Door, NetworkMode, Proto, Unit, UnitName},
};

/// What a file lets services talk, and the names and addresses of those that its service may talk to.
pub(super) type Talks = (BTreeSet<Talk>, Vec<(String, IpAddr)>);

impl Supervisor {
    /// What the file of a service allows, as addresses.
    pub(super) fn talks(&mut self, unit: &Unit) -> Talks {
        let (mut talk, mut peers) = Talks::default();
        let (allow_to, allow_from) = (&unit.network.allow_to, &unit.network.allow_from);
        let says_nothing = allow_to.is_empty() && allow_from.is_empty() && unit.ingress.is_none();
        if unit.network.mode != NetworkMode::Veth || says_nothing {
            return (talk, peers);
        }
        let own = self.addresses_of(&unit.name);
        let between = |from: &[IpAddr], to: &[IpAddr], door: Door| -> Vec<Talk> {
            // Both lists are in the order of the families.
            from.iter().zip(to).map(|(from, to)| Talk { from: *from, to: *to, door }).collect()
        };
        for peer in allow_to {
            for (name, to) in self.meant(peer, &unit.name) {
                talk.extend(between(&own, &to, peer.door));
                peers.extend(to.into_iter().map(|to| (name.to_string(), to)));
            }
        }
        for peer in allow_from {
            for (_, from) in self.meant(peer, &unit.name) {
                talk.extend(between(&from, &own, peer.door));
            }
        }
        if unit.ingress.is_some() {
            // They have said so in their own files.
            for (to, port) in self.http_doors() {
                let from = own.iter().filter(|from| from.is_ipv4() == to.is_ipv4() && **from != to);
                talk.extend(from.map(|from| Talk { from: *from, to, door: Door::One(port, Proto::Tcp) }));
            }
        }
        peers.sort();
        peers.dedup();
        (talk, peers)
    }

    /// The other services that an item means, with their addresses.
    fn meant(&mut self, peer: &Allowed, own: &UnitName) -> Vec<(UnitName, Vec<IpAddr>)> {
        let names: Vec<UnitName> = match peer.is_pattern() {
            false => UnitName::new(&peer.name).into_iter().collect(),
            true => self.fleet.entries().keys().filter(|name| peer.is(name)).cloned().collect(),
        };
        let others = names.into_iter().filter(|name| name != own && name.is_service());
        others.map(|name| (name.clone(), self.addresses_of(&name))).collect()
    }

    /// The addresses of a service of the files, IPv4 first; it has them from now on. None for who has no link.
    pub(super) fn addresses_of(&mut self, name: &UnitName) -> Vec<IpAddr> {
        let slot = self.position_of(name);
        slot.map(|slot| self.launcher.network.settings.addresses(slot)).unwrap_or_default()
    }

    fn position_of(&mut self, name: &UnitName) -> Option<u32> {
        let network = &self.fleet.entry(name)?.unit.network;
        if network.mode != NetworkMode::Veth {
            return None;
        }
        let settings = &self.launcher.network.settings;
        let (wanted, places) =
            ((network.address, network.bridge.as_deref()), settings.places(network.bridge.as_deref()));
        let is_good = |slot: &u32| {
            places.has(*slot)
                && network.address.is_none_or(|fixed| settings.prefix4.address(*slot) == Some(fixed))
        };
        if let Some(known) = self.assigned.addresses.slot(name).filter(is_good) {
            return Some(known);
        }
        let before = self.assigned.of(&[name]);
        let slot = self.assigned.addresses.assign(settings, name, wanted);
        let slot = slot.inspect_err(|error| tracing::error!(unit = %name, "no address: {error}")).ok()?;
        self.note_assigned(before).ok()?;
        Some(slot)
    }

    /// Makes true what the file of a service allows, and returns the addresses of those whom it concerns.
    fn settle_talk(&mut self, name: &UnitName) -> BTreeSet<IpAddr> {
        let Some(unit) = self.fleet.entry(name).map(|entry| entry.unit.clone()) else {
            return BTreeSet::new();
        };
        let (talk, _) = self.talks(&unit);
        let Some(net) = self.nets.get_mut(name).filter(|net| net.link.is_some()) else {
            return BTreeSet::new();
        };
        // Who may begin to talk may ask for whom.
        let own = net.link.iter().flat_map(|link| link.addresses());
        let asking: BTreeSet<IpAddr> = net.talk.iter().chain(&talk).map(|one| one.from).chain(own).collect();
        if let Err(error) = self.launcher.network.allow(net, &talk) {
            tracing::error!(unit = %name, "who may talk to it or it to others is not as the files say: {error}");
        }
        asking
    }

    /// Whom services with these addresses may talk to has changed.
    pub(super) fn settle_asking(&mut self, asking: &BTreeSet<IpAddr>) {
        self.names.forget_views();
        let is_asking =
            |net: &Net| net.link.iter().flat_map(|link| link.addresses()).any(|own| asking.contains(&own));
        let all = self.nets.iter().filter(|(_, net)| is_asking(net));
        let all: Vec<UnitName> = all.map(|(name, _)| name.clone()).collect();
        self.settle_names_of(&all);
    }

    /// A service has a network: it may be meant by the patterns of others.
    pub(super) fn introduce(&mut self, name: &UnitName) {
        let name = &name.base();
        let mut asking = self.settle_talk(name);
        let means_it = |unit: &Unit| {
            let network = &unit.network;
            network.allow_to.iter().chain(&network.allow_from).any(|peer| peer.is_pattern() && peer.is(name))
        };
        let entries = self.fleet.entries().iter();
        let others = entries.filter(|(other, entry)| *other != name && means_it(&entry.unit));
        for other in others.map(|(other, _)| other.clone()).collect::<Vec<_>>() {
            asking.extend(self.settle_talk(&other));
        }
        self.settle_asking(&asking);
    }

    /// The files have been read anew.
    pub(super) fn settle_all_talk(&mut self) {
        let mut asking = BTreeSet::new();
        for name in self.nets.keys().cloned().collect::<Vec<_>>() {
            asking.extend(self.settle_talk(&name));
        }
        // Also where nobody's talk has changed: what names mean may have (`network.hosts`).
        self.settle_asking(&asking);
    }

    /// What a predecessor had allowed, from the files that it had read.
    pub(super) fn recall_talk(&mut self) {
        for name in self.nets.keys().cloned().collect::<Vec<_>>() {
            let Some(unit) = self.fleet.entry(&name).map(|entry| entry.unit.clone()) else { continue };
            let (talk, _) = self.talks(&unit);
            if let Some(net) = self.nets.get_mut(&name).filter(|net| net.link.is_some()) {
                net.talk = talk;
            }
        }
    }
}
