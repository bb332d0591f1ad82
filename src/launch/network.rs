//! The network of one service on the host: it outlives runs, and is released when the service is not wanted any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use crate::{
    machine::Mono,
    net::{
        NetError,
        addr::{NetworkSettings, Talk},
        attach::{self, AttachPlan},
        bridge, clash,
        conntrack::Conntrack,
        drops::{Drops, Refused},
        forwarding::{self, Changed},
        link::{self, LinkPlan},
        netlink::Netlink,
        netns::NetNs,
        nft::{Damage, Element, Refusals, Table},
        others::{Obstacle, Others},
        shape, sysctl,
        watch::{Heard, Watch},
    },
    spec::{Bandwidth, Destination, Door, Egress, Firewall, Named, Proto, Publish},
    sys::SysError,
};

/// To so many places names may have led one service at a time: whoever answers for a name below `*.` could else fill the
/// kernel's memory.
const NAMED_MAX: usize = 4096;
/// Milliseconds that are a few ticks of any kernel's clock.
const TICKS: u64 = 100;

/// What a service has of the network.
#[derive(Debug)]
pub struct Net {
    /// Its namespace.
    pub netns: NetNs,
    /// Its link.
    pub link: Option<LinkPlan>,
    /// The host's ports that lead to it, held so that nobody else takes them.
    pub reserved: Vec<(Publish, OwnedFd)>,
    /// How much its link carries.
    pub bandwidth: Bandwidth,
    /// Where outside it may go.
    pub egress: Egress,
    /// Where names lead that it may ask for.
    pub names: Vec<Named>,
    /// Where they have led, and until when it may go there.
    pub named: BTreeMap<(IpAddr, Door), Mono>,
    /// What its file lets services talk to one another, it being one of them.
    pub talk: BTreeSet<Talk>,
    /// It goes with its run, because the service may have changed anything in it.
    pub is_fleeting: bool,
    /// What was done about tables of others for it.
    pub firewall: Firewall,
}

impl Net {
    /// A namespace without a link.
    pub fn new(netns: NetNs) -> Self {
        Self {
            netns,
            link: None,
            reserved: Vec::new(),
            bandwidth: Bandwidth::default(),
            egress: Egress::None,
            names: Vec::new(),
            named: BTreeMap::new(),
            talk: BTreeSet::new(),
            is_fleeting: false,
            firewall: Firewall::Detect,
        }
    }

    /// The single places outside that it may go to.
    pub fn reach(&self) -> &[Destination] {
        match &self.egress {
            Egress::Only(list) => list,
            Egress::None | Egress::Any => &[],
        }
    }

    /// Where names have led it, each for what is left of its time.
    fn named(&self, now: Mono) -> Vec<Element> {
        let Some(link) = &self.link else { return Vec::new() };
        let element = |((to, door), until): (&(IpAddr, Door), &Mono)| {
            let own = link.addresses().find(|own| own.is_ipv6() == to.is_ipv6())?;
            // The kernel counts in ticks, and none of them is for ever.
            let left = until.0.checked_sub(now.0).filter(|left| *left >= TICKS)?;
            Some(Element::Named(own, *to, *door, Duration::from_millis(left)))
        };
        self.named.iter().filter_map(element).collect()
    }

    /// What holds for it alone, for as long as it is there.
    fn elements(&self) -> Vec<Element> {
        let Some(link) = &self.link else { return Vec::new() };
        let mut elements = Element::of_link(link);
        for address in link.addresses() {
            let is_family = |other: IpAddr| other.is_ipv6() == address.is_ipv6();
            let published = self.reserved.iter().map(|(publish, _)| *publish);
            let published = published.filter(|publish| is_family(publish.address));
            elements.extend(published.flat_map(|publish| Element::of_port(publish, address)));
            match &self.egress {
                Egress::None => {}
                Egress::Any => elements.push(Element::Egress(address)),
                Egress::Only(list) => {
                    let list = list.iter().filter(|to| is_family(to.net.addr()));
                    elements.extend(list.map(|to| Element::Reach(address, *to)));
                }
            }
        }
        elements
    }
}

/// Writes down what of the host's settings is about to be changed, so that whoever comes after a death in between puts it back.
pub struct Journal(Box<Note>);

type Note = dyn FnMut(&Changed) -> Result<(), SysError>;

impl Journal {
    /// One that is written so.
    pub fn new(note: impl FnMut(&Changed) -> Result<(), SysError> + 'static) -> Self {
        Self(Box::new(note))
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

/// The host's side: one table, one netlink socket, opened when the first link is made.
#[derive(Debug)]
pub struct NetworkHost {
    /// `[network]` of palisade.toml.
    pub settings: NetworkSettings,
    table: Option<Table>,
    /// Opened before the table, by whom somebody asks what others do to it.
    watch: Option<Watch>,
    watches: bool,
    /// What the table refuses; none: nobody asks, or it cannot be heard.
    drops: Option<Drops>,
    route: Option<Netlink>,
    /// That nobody else has our addresses was looked at.
    is_alone: bool,
    /// Kept open: closing such a socket waits for the kernel, some 20 ms each time.
    conntrack: Option<Conntrack>,
    /// As with the one above.
    others: Option<Others>,
    /// The links for which chains of others are to be opened.
    passing: BTreeSet<String>,
    /// The chains of others that stand in the way, as they were looked at last; none: they have changed since.
    obstacles: Option<Vec<Obstacle>>,
    /// Settings of the host that we changed, so that packets are forwarded.
    changed: Changed,
    journal: Journal,
    /// How many services' files say so: two of them may say the same.
    talk: BTreeMap<Talk, usize>,
    /// How many services are on each bridge. It comes with the first one and goes with the last.
    bridges: BTreeMap<String, usize>,
}

impl NetworkHost {
    /// Nothing is touched before it is needed.
    pub fn new(settings: NetworkSettings, journal: Journal) -> Self {
        Self {
            settings,
            table: None,
            watch: None,
            watches: false,
            drops: None,
            route: None,
            is_alone: false,
            conntrack: None,
            others: None,
            passing: BTreeSet::new(),
            obstacles: None,
            changed: Changed::new(),
            journal,
            talk: BTreeMap::new(),
            bridges: BTreeMap::new(),
        }
    }

    /// As [`NetworkHost::new`], for one who asks [`NetworkHost::hear`] what others do to the packet filter.
    pub fn watching(settings: NetworkSettings, journal: Journal) -> Self {
        Self { watches: true, ..Self::new(settings, journal) }
    }

    /// Readable when somebody has changed the packet filter; none: there is nothing of ours in it.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(Watch::fd)
    }

    /// Readable when the table has refused packets.
    pub fn drops(&self) -> Option<BorrowedFd<'_>> {
        self.drops.as_ref().map(Drops::fd)
    }

    /// What the table has refused since, as far as it is told.
    ///
    /// # Errors
    /// Of netlink; nothing is told any more then.
    pub fn refused(&mut self) -> Result<Vec<Refused>, NetError> {
        let refused = self.drops.as_mut().map_or(Ok(Vec::new()), Drops::read);
        if refused.is_err() {
            self.drops = None;
        }
        Ok(refused?)
    }

    /// What others have done to the packet filter since.
    ///
    /// # Errors
    /// Of netlink.
    pub fn hear(&mut self) -> Result<Heard, NetError> {
        let heard = match (&mut self.watch, &mut self.table) {
            (Some(watch), Some(table)) => watch.hear(table)?,
            _ => Heard::default(),
        };
        if heard.others {
            self.obstacles = None;
        }
        Ok(heard)
    }

    /// The chains of others that stand in services' way, none of which is opened for them.
    ///
    /// # Errors
    /// Of netlink: they cannot be read, or one of them cannot be opened.
    pub fn obstacles(&mut self) -> Result<&[Obstacle], NetError> {
        if self.obstacles.is_none() {
            let is_passing = !self.passing.is_empty();
            let others = self.others()?;
            let opened = if is_passing { others.insert() } else { Ok(()) };
            let found = others.obstacles()?;
            self.obstacles = Some(found);
            // Told once; what is in the way is known all the same.
            opened?;
        }
        Ok(self.obstacles.as_deref().unwrap_or_default())
    }

    /// Whether what others change is to be looked at without anybody asking.
    pub fn is_passing(&self) -> bool {
        !self.passing.is_empty()
    }

    /// Opens chains of others for links, on behalf of this one.
    ///
    /// # Errors
    /// Of netlink: EPERM, a table has an owner who alone may change it.
    pub fn let_pass(&mut self, net: &mut Net) -> Result<(), NetError> {
        net.firewall = Firewall::Insert;
        self.passing.extend(net.link.as_ref().map(|link| link.host_if.clone()));
        self.obstacles = None;
        self.obstacles().map(drop)
    }

    /// Does not ask for it any more. With the last one who did, what we have put into chains of others goes.
    ///
    /// # Errors
    /// Of netlink.
    pub fn let_stand(&mut self, net: &mut Net) -> Result<(), NetError> {
        net.firewall = Firewall::Detect;
        let was_passing = net.link.as_ref().is_some_and(|link| self.passing.remove(&link.host_if));
        if !was_passing || self.is_passing() {
            return Ok(());
        }
        self.obstacles = None;
        self.others()?.remove().map(drop)
    }

    fn others(&mut self) -> Result<&mut Others, NetError> {
        if self.others.is_none() {
            self.others = Some(Others::open(&self.settings)?);
        }
        Ok(self.others.as_mut().expect("just opened"))
    }

    /// What a predecessor has put into chains of others goes, unless it is to be there. Nobody knows of it but the rules
    /// themselves. A kernel without nf_tables has none.
    fn settle_others(&mut self) -> Result<(), NetError> {
        self.obstacles = None;
        if self.is_passing() {
            return self.obstacles().map(drop);
        }
        let others = self.others()?;
        others.remove().map(drop).or_else(|error| match others.obstacles() {
            Err(_) => Ok(()),
            Ok(_) => Err(error),
        })
    }

    /// Makes the table again what it is to be, with what holds for the networks of `live`.
    ///
    /// # Errors
    /// Of netlink and nft.
    pub fn mend(&mut self, damage: Damage, live: &[&Net], now: Mono) -> Result<(), NetError> {
        let elements = self.all_elements(live, now);
        self.table()?.mend(damage, &elements)
    }

    /// Everything that is to be in the table when these are the networks that there are.
    fn all_elements(&mut self, live: &[&Net], now: Mono) -> Vec<Element> {
        self.talk.clear();
        for one in live.iter().flat_map(|net| &net.talk) {
            *self.talk.entry(*one).or_default() += 1;
        }
        let mut elements: Vec<Element> = live.iter().flat_map(|net| net.elements()).collect();
        elements.extend(live.iter().flat_map(|net| net.named(now)));
        elements.extend(self.talk.keys().copied().map(Element::Talk));
        elements.extend(self.changed.keys().filter_map(|key| forwarding::element(key)));
        elements
    }

    fn route(&mut self) -> Result<&mut Netlink, NetError> {
        if self.route.is_none() {
            self.route = Some(Netlink::route()?);
        }
        Ok(self.route.as_mut().expect("just opened"))
    }

    fn conntrack(&mut self) -> Result<&mut Conntrack, NetError> {
        if self.conntrack.is_none() {
            self.conntrack = Some(Conntrack::open()?);
        }
        Ok(self.conntrack.as_mut().expect("just opened"))
    }

    fn table(&mut self) -> Result<&mut Table, NetError> {
        if self.table.is_none() {
            if self.watches {
                self.watch = Some(Watch::open(&self.settings.name)?);
            }
            let table = Table::open(&self.settings)?;
            if self.watches {
                self.drops = hear_drops(&table, &self.settings);
            }
            self.table = Some(table);
        }
        Ok(self.table.as_mut().expect("just opened"))
    }

    /// Makes the link and leads the reserved ports to it.
    ///
    /// # Errors
    /// Of netlink and nft; what was made belongs to `net` and goes with it.
    pub fn connect(&mut self, net: &mut Net, plan: &LinkPlan) -> Result<(), NetError> {
        let published = net.reserved.iter().map(|(publish, _)| publish);
        self.check_family(published.filter(|publish| publish.address.is_ipv6()))?;
        if !self.is_alone {
            let settings = self.settings.clone();
            clash::check(self.route()?, &settings)?;
            self.is_alone = true;
        }
        // The rules are there before the link: no packet passes in between.
        self.table()?;
        self.join_bridge(plan)?;
        if let Err(error) = link::create(self.route()?, &net.netns, plan) {
            let _ = self.leave_bridge(plan);
            return Err(error);
        }
        net.link = Some(plan.clone());
        let addresses: BTreeSet<IpAddr> = net.reserved.iter().map(|(publish, _)| publish.address).collect();
        let gateways: Vec<IpAddr> =
            [plan.gateway.into()].into_iter().chain(plan.v6.as_ref().map(|v6| v6.gateway.into())).collect();
        for address in addresses {
            let doors = link::doors(self.route()?, address, &gateways)?;
            self.forward(doors, address.is_ipv6())?;
        }
        let elements = net.elements();
        self.table()?.add(&elements)?;
        // A client that asked before the port led anywhere is not translated until its connection is forgotten.
        for (publish, _) in &net.reserved {
            self.conntrack()?.forget_clients(publish)?;
        }
        Ok(())
    }

    /// Whether the host's side of what a service has is there; somebody may have taken it away.
    ///
    /// # Errors
    /// Of netlink.
    pub fn has_link(&mut self, net: &Net) -> Result<bool, NetError> {
        net.link.as_ref().map_or(Ok(true), |link| link::is_in_place(self.route()?, link))
    }

    /// Makes the bridge of a link, unless it is there already.
    fn join_bridge(&mut self, plan: &LinkPlan) -> Result<(), NetError> {
        let Some(name) = &plan.bridge else { return Ok(()) };
        // Somebody may have taken it away under those who were on it.
        let is_there = self.bridges.contains_key(name) && link::is_there(self.route()?, name);
        if !is_there {
            bridge::create(self.route()?, name, plan)?;
        }
        *self.bridges.entry(name.clone()).or_default() += 1;
        Ok(())
    }

    /// Takes a link from its bridge, and with the last one the bridge.
    fn leave_bridge(&mut self, plan: &LinkPlan) -> Result<(), NetError> {
        let Some(name) = &plan.bridge else { return Ok(()) };
        let Some(count) = self.bridges.get_mut(name) else { return Ok(()) };
        *count -= 1;
        if *count > 0 {
            return bridge::unplug(self.route()?, name, plan);
        }
        self.bridges.remove(name);
        link::remove(self.route()?, name)
    }

    /// Makes a link on one of the host's. It goes with the namespace, and nothing on the host tells of it.
    ///
    /// # Errors
    /// Of netlink.
    pub fn attach(&mut self, net: &Net, plan: &AttachPlan) -> Result<(), NetError> {
        attach::create(self.route()?, &net.netns, plan)
    }

    /// Bounds how much the link of a service carries; without a link there is nothing to bound.
    ///
    /// # Errors
    /// Of netlink. What `net` says of it holds no more, or not yet.
    pub fn shape(&mut self, net: &mut Net, wanted: Bandwidth) -> Result<(), NetError> {
        if let Some(link) = &net.link {
            shape::set(self.route()?, &net.netns, link, &wanted)?;
            net.bandwidth = wanted;
        }
        Ok(())
    }

    /// Lets the service go out.
    ///
    /// # Errors
    /// Of netlink and nft.
    pub fn let_out(&mut self, net: &mut Net, (egress, names): (&Egress, &[Named])) -> Result<(), NetError> {
        if let Egress::Only(list) = egress {
            self.check_family(list.iter().filter(|to| to.net.addr().is_ipv6()))?;
        }
        for is_ipv6 in [false, true] {
            // Where a name leads nobody knows before.
            let is_let_out = egress.has_family(is_ipv6) || !names.is_empty();
            if is_let_out && self.has_family(is_ipv6) {
                let uplinks = link::uplinks(self.route()?, is_ipv6)?;
                self.forward(uplinks, is_ipv6)?;
            }
        }
        (net.egress, net.names) = (egress.clone(), names.to_vec());
        let elements = net.elements();
        self.table()?.add(&elements)
    }

    /// Makes `talk` all that the file of a service allows between services. What is not allowed any more ends.
    ///
    /// # Errors
    /// Of netlink and nft; what could not be allowed is not, what could not be forbidden is tried again with the next change.
    pub fn allow(&mut self, net: &mut Net, talk: &BTreeSet<Talk>) -> Result<(), NetError> {
        let (new, old): (Vec<Talk>, Vec<Talk>) =
            (talk.difference(&net.talk).copied().collect(), net.talk.difference(talk).copied().collect());
        if let Some(link) = net.link.as_ref().filter(|_| new.iter().any(|talk| talk.to.is_ipv6())) {
            // What comes from it is forwarded already, except for IPv6 on an old kernel.
            self.forward(vec![link.routed_if().to_owned()], true)?;
        }
        let first = |talk: &&Talk| !self.talk.contains_key(talk);
        let added: Vec<Element> = new.iter().filter(first).copied().map(Element::Talk).collect();
        if !added.is_empty() {
            self.table()?.add(&added)?;
        }
        for one in new {
            *self.talk.entry(one).or_default() += 1;
            net.talk.insert(one);
        }
        let last: Vec<Talk> = old.iter().filter(|one| self.talk.get(one) == Some(&1)).copied().collect();
        if let Some(table) = self.table.as_mut().filter(|_| !last.is_empty()) {
            table.remove(&last.iter().copied().map(Element::Talk).collect::<Vec<_>>())?;
        }
        for one in old {
            net.talk.remove(&one);
            if let Some(count) = self.talk.get_mut(&one) {
                *count -= 1;
            }
        }
        self.talk.retain(|_, count| *count > 0);
        match last.is_empty() {
            true => Ok(()),
            false => self.conntrack()?.forget_talk(&last).map(drop),
        }
    }

    /// Whom the service with this address may begin to talk to.
    pub fn reached_from(&self, from: IpAddr) -> impl Iterator<Item = IpAddr> {
        let first = Talk { from, to: Ipv4Addr::UNSPECIFIED.into(), door: Door::Any };
        self.talk
            .range(first..)
            .map(|(talk, _)| talk)
            .take_while(move |talk| talk.from == from)
            .map(|talk| talk.to)
    }

    /// Lets the service go to `places`, each for some time from `now` on, through these doors.
    ///
    /// # Errors
    /// Of nft; nothing is changed then.
    pub fn let_to(
        &mut self,
        net: &mut Net,
        (places, doors): (&[(IpAddr, Duration)], &[Door]),
        now: Mono,
    ) -> Result<(), NetError> {
        let Some(link) = net.link.as_ref() else { return Ok(()) };
        net.named.retain(|_, until| *until > now);
        let (mut old, mut new) = (Vec::new(), BTreeMap::new());
        for ((to, span), door) in
            places.iter().flat_map(|place| doors.iter().map(move |door| (*place, *door)))
        {
            let Some(own) = link.addresses().find(|own| own.is_ipv6() == to.is_ipv6()) else { continue };
            let until = now.after(span);
            let known = net.named.get(&(to, door)).copied();
            // The longer one holds.
            let is_longer =
                known.into_iter().chain(new.get(&(to, door)).map(|(until, _)| *until)).all(|at| at < until);
            if is_longer {
                let element = |span| Element::Named(own, to, door, span);
                old.extend(known.map(|_| element(span)));
                new.insert((to, door), (until, element(span)));
            }
        }
        if net.named.len() + new.len() > NAMED_MAX {
            return Err(SysError::new("nft", "places that names have led to", libc::ENOSPC).into());
        }
        let elements: Vec<Element> = new.values().map(|(_, element)| element.clone()).collect();
        self.table()?.renew(&old, &elements)?;
        net.named.extend(new.into_iter().map(|(place, (until, _))| (place, until)));
        Ok(())
    }

    /// Refuses what a file asks of IPv6 where services have none.
    fn check_family<T: ToString>(&self, mut asked: impl Iterator<Item = T>) -> Result<(), NetError> {
        match asked.next().filter(|_| !self.has_family(true)) {
            Some(asked) => Err(NetError::NoIpv6(asked.to_string())),
            None => Ok(()),
        }
    }

    /// Whether services have addresses of this family.
    fn has_family(&self, is_ipv6: bool) -> bool {
        !is_ipv6 || self.settings.prefix6.is_some()
    }

    fn forward(&mut self, interfaces: Vec<String>, is_ipv6: bool) -> Result<(), NetError> {
        for interface in interfaces {
            for (key, value) in forwarding::wanted(&interface, is_ipv6)? {
                // Its set keeps everything but services' packets from being routed through it.
                if let Some(element) = forwarding::element(&key) {
                    self.table()?.add(&[element])?;
                }
                let before = sysctl::get(&key)?;
                // Written down before it is done: what is noted and was not done is put back to what it is.
                self.changed.entry(key.clone()).or_insert(before);
                (self.journal.0)(&self.changed)?;
                sysctl::set(&key, value)?;
            }
        }
        Ok(())
    }

    /// Takes a service's network away: ports, egress, link, namespace.
    ///
    /// # Errors
    /// The first trouble; the rest is taken away all the same.
    pub fn release(&mut self, mut net: Net) -> Result<(), NetError> {
        let elements = net.elements();
        let named = net.named(Mono(0));
        let talk = self.allow(&mut net, &BTreeSet::new());
        let result = match self.table.as_mut() {
            Some(table) if !elements.is_empty() => table.remove(&elements),
            Some(_) | None => Ok(()),
        };
        let mut result = talk.and(result);
        // For themselves, and what holds by the file is gone already: many of them have aged, as a service may have it, and
        // what is missing must not keep anything else in the table.
        if let Some(table) = self.table.as_mut().filter(|_| !named.is_empty()) {
            result = result.and(table.remove_aged(&named));
        }
        // Whoever has this address next must not go on with connections that only this network was allowed. The kernel
        // looks through its whole table for them, tens of milliseconds, so nobody else pays for it.
        // A client of a UDP port would be let through for as long as it goes on.
        let has_clients = net.reserved.iter().any(|(publish, _)| publish.proto == Proto::Udp);
        if let Some(link) = net.link.as_ref().filter(|_| has_clients || net.egress != Egress::None) {
            for address in link.addresses() {
                result = result.and(self.conntrack()?.forget_service(address).map(drop));
            }
        }
        // The kernel takes the link away with the namespace, some time after this; nobody waits for it.
        if let Some(link) = &net.link {
            result = result.and(self.leave_bridge(link));
        }
        result.and(self.let_stand(&mut net))
    }

    /// What is to be put back.
    pub fn changed(&self) -> &Changed {
        &self.changed
    }

    /// Takes over what a predecessor left: its links that are no live service's go, its rules are made those of `live`. Where
    /// names have led them the kernel knows: that holds for the rest of its time.
    ///
    /// # Errors
    /// Of netlink and nft.
    pub fn adopt(&mut self, live: &mut [&mut Net], changed: Changed, now: Mono) -> Result<(), NetError> {
        let group = self.settings.group();
        let links: Vec<&LinkPlan> = live.iter().filter_map(|net| net.link.as_ref()).collect();
        let kept: BTreeSet<&str> =
            links.iter().flat_map(|link| [link.host_if.as_str(), link.routed_if()]).collect();
        let mut bridged: BTreeMap<&str, Vec<&LinkPlan>> = BTreeMap::new();
        for (bridge, link) in links.iter().filter_map(|link| Some((link.bridge.as_deref()?, *link))) {
            bridged.entry(bridge).or_default().push(link);
        }
        for name in link::list_group(self.route()?, group)? {
            if !kept.contains(name.as_str()) {
                link::remove(self.route()?, &name)?;
            }
        }
        for (name, there) in bridged {
            self.bridges.insert(name.to_owned(), there.len());
            bridge::settle(self.route()?, name, &there)?;
        }
        let passing = live.iter().filter(|net| net.firewall == Firewall::Insert);
        self.passing = passing.filter_map(|net| net.link.as_ref()).map(|link| link.host_if.clone()).collect();
        let others = self.settle_others();
        if kept.is_empty() && changed.is_empty() {
            // A predecessor may have died between the table and the first link. A kernel without nf_tables has none.
            return Table::attach(&self.settings).map_or(Ok(()), Table::delete).and(others);
        }
        self.changed = changed;
        self.adopt_named(live, now)?;
        let live: Vec<&Net> = live.iter().map(|net| &**net).collect();
        let elements = self.all_elements(&live, now);
        let table = self.table()?;
        // Somebody may have changed it while nobody supervised: its rules are ours again, but not what else is in it.
        match table.has_foreign()? {
            true => table.mend(Damage::Foreign, &elements),
            false => table.replace(&elements),
        }?;
        others
    }

    /// Gives every service back where names have led it. What is nobody's is forgotten.
    fn adopt_named(&mut self, live: &mut [&mut Net], now: Mono) -> Result<(), NetError> {
        for element in self.table()?.aging()? {
            let Element::Named(from, to, door, left) = element else { continue };
            let owner = live.iter_mut().find(|net| {
                let is_its = net.link.as_ref().is_some_and(|link| link.addresses().any(|own| own == from));
                is_its && net.names.iter().any(|name| name.door == door)
            });
            if let Some(net) = owner {
                net.named.insert((to, door), now.after(left));
            }
        }
        Ok(())
    }

    /// Takes away what a predecessor of this name left that is gone for good: its links went with their namespaces, its
    /// bridges did not.
    ///
    /// # Errors
    /// Of netlink and nft.
    pub fn clear_left(&mut self, changed: Changed) -> Result<(), NetError> {
        self.changed = changed;
        self.table()?;
        let group = self.settings.group();
        link::remove_group(self.route()?, group)?;
        let others = self.settle_others();
        self.close().and(others)
    }

    /// Takes the table away and puts forwarding back: the last service has been released.
    ///
    /// # Errors
    /// The first trouble.
    pub fn close(&mut self) -> Result<(), NetError> {
        // With the table goes what could not be taken out of it one by one: the next table has none of it.
        self.talk.clear();
        (self.watch, self.drops) = (None, None);
        let result = forwarding::put_back(&std::mem::take(&mut self.changed)).map_err(NetError::from);
        match self.table.take() {
            Some(table) => result.and(table.delete()),
            None => result,
        }
    }
}

/// That refusals are not told is no reason to start nobody.
fn hear_drops(table: &Table, settings: &NetworkSettings) -> Option<Drops> {
    if table.refusals() == Refusals::Counted {
        tracing::warn!("the kernel has no nfnetlink_log: `why` and `status` show none of what is refused");
        return None;
    }
    let opened = Drops::open(settings);
    opened.inspect_err(|error| tracing::warn!("what is refused is not heard of: {error}")).ok()
}
