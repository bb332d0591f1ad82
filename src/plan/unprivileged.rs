//! What a sandbox is made of when an ordinary user makes it: `palisade run` without root.
//!
//! The user's Palisade first becomes root of a user namespace of its own, and from there does everything as usual: the root
//! is put together in a mount namespace that belongs to it, the network namespace is its own, and the sandbox is one user
//! namespace deeper, so that nobody inside has power over either. What such a user cannot have, and the file asks for by
//! name, is refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Attested, ChildStep, service_ids};
use crate::spec::{
    Capability, Egress, Firewall, HostFacts, IdRange, Namespace, NetworkMode, Publish, Unit, UserNamespace,
};

/// Ids of one sandbox.
const IDS: u32 = 65_536;

/// What there is to make a sandbox of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who runs Palisade.
    pub uid: u32,
    /// His primary group.
    pub gid: u32,
    /// First of 65536 subordinate user ids, and of as many group ids, that newuidmap(1) and newgidmap(1) map for him.
    pub subordinate: Option<(u32, u32)>,
    /// The program that carries packets between a network namespace and a user's sockets.
    pub carrier: Option<(Carrier, PathBuf)>,
    /// The first port that he may bind.
    pub first_port: u16,
    /// His share of the control groups was given to him.
    pub has_cgroup: bool,
    /// He is a member of other groups than his primary one.
    pub has_groups: bool,
}

/// What a run of his is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unprivileged {
    /// Palisade's own user namespace: user ids, as the host counts.
    pub uids: Vec<IdRange>,
    /// The same of groups.
    pub gids: Vec<IdRange>,
    /// The sandbox's: user ids, as Palisade's own namespace counts.
    pub inner_uids: Vec<IdRange>,
    /// The same of groups.
    pub inner_gids: Vec<IdRange>,
    /// Palisade gets a network namespace of its own, which the sandbox shares.
    pub has_netns: bool,
    /// What leads into it.
    pub link: Option<UserLink>,
    /// What is missing of the sandbox that root would have made, in a few words each.
    pub missing: Vec<String>,
}

/// How packets get to a service and from it: a program of the user's that has one end in each network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLink {
    /// Which.
    pub carrier: Carrier,
    /// Where it is.
    pub program: PathBuf,
    /// Ports of the host.
    pub publish: Vec<Publish>,
    /// The service may go out.
    pub egress: bool,
    /// Bytes.
    pub mtu: Option<u32>,
}

/// The programs that can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// pasta(1), of passt.
    Pasta,
    /// slirp4netns(1).
    Slirp4netns,
}

impl Carrier {
    /// Its program.
    pub fn name(self) -> &'static str {
        match self {
            Carrier::Pasta => "pasta",
            Carrier::Slirp4netns => "slirp4netns",
        }
    }
}

impl UserLink {
    /// Whether the service has an address. For connections of the host to itself pasta needs none inside.
    pub fn has_address(&self) -> bool {
        self.carrier == Carrier::Slirp4netns
            || self.egress
            || self.publish.iter().any(|publish| !publish.address.is_loopback())
    }
}

impl Unprivileged {
    /// The sandbox has one id.
    pub fn is_single(&self) -> bool {
        self.inner_uids.len() == 1 && self.inner_uids[0].count == 1
    }

    /// Whose the files are that are made in a root: root's inside, or the only id that there is.
    pub fn owner(&self) -> u32 {
        outside(&self.inner_uids, 0).unwrap_or(self.inner_uids[0].outside)
    }

    /// An id inside, as Palisade's own namespace counts.
    pub fn ids(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((outside(&self.inner_uids, uid)?, outside(&self.inner_gids, gid)?))
    }
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|range| (range.inside..range.inside + range.count).contains(&id))?;
    Some(range.outside + (id - range.inside))
}

/// A key whose value only root can make true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As the service file spells it.
    pub key: &'static str,
    /// Why, and what to do.
    pub reason: String,
}

fn refused(key: &'static str, reason: impl Into<String>) -> Refused {
    Refused { key, reason: reason.into() }
}

/// Works out what `caller` can have of the sandbox that the file describes.
///
/// # Errors
/// The first key that asks for more.
pub fn decide(unit: &Unit, caller: &Caller, facts: &HostFacts) -> Result<Unprivileged, Refused> {
    namespaces(unit, caller)?;
    let mut missing = Vec::new();
    let has_netns = unit.network.mode != NetworkMode::Host;
    let link = network(unit, caller, &mut missing)?;
    let Some((uid, gid)) = service_ids(unit, 0, facts) else {
        let reason = "the user's number is only known to the root's own files: write `user` and `group` as numbers, \
                      or run this as root";
        return Err(refused("service.user", reason));
    };
    let (inner_uids, inner_gids) = ids(unit, caller, (uid, gid), &mut missing)?;
    let outer = |own: u32, first: Option<u32>| {
        let mut ranges = vec![IdRange { inside: 0, outside: own, count: 1 }];
        ranges.extend(first.map(|first| IdRange { inside: 1, outside: first, count: IDS }));
        ranges
    };
    if !caller.has_cgroup {
        missing.push("no control group".to_owned());
    }
    if !has_netns && unit.rootfs.sys {
        missing.push("no /sys, which shows a network namespace of one's own alone".to_owned());
    }
    Ok(Unprivileged {
        uids: outer(caller.uid, caller.subordinate.map(|(first, _)| first)),
        gids: outer(caller.gid, caller.subordinate.map(|(_, first)| first)),
        inner_uids,
        inner_gids,
        has_netns,
        link,
        missing,
    })
}

fn namespaces(unit: &Unit, caller: &Caller) -> Result<(), Refused> {
    let ns = &unit.namespaces;
    if ns.user == UserNamespace::Off {
        let reason = "the host's ids are root's to give: leave `user` out, or run this as root";
        return Err(refused("namespaces.user", reason));
    }
    if ns.pid == Namespace::Host {
        let reason = "the host's processes can only be shown by root: leave `pid` out, or run this as root";
        return Err(refused("namespaces.pid", reason));
    }
    if let Some(device) = unit.security.devices.first() {
        let path = device.path.display();
        let reason = format!(
            "{path} is the host's to give: list it in `rootfs.dev`, which shows it with its own mode, or run this as root"
        );
        return Err(refused("security.devices", reason));
    }
    let hooks = || unit.service.hooks.all();
    if let Some((stage, _, hook)) = hooks().find(|(_, _, hook)| hook.privileged) {
        let reason = format!(
            "{} is to run as the host's root: leave `privileged` out, or run this as root",
            hook.command[0]
        );
        return Err(refused(stage.key(), reason));
    }
    if let Some((stage, ..)) =
        hooks().find(|(_, _, hook)| hook.user.is_some() && caller.subordinate.is_none())
    {
        return Err(refused(stage.key(), format!("`user` is another id than the service's: {NEEDS_IDS}")));
    }
    let over_links = [Capability::NET_ADMIN, Capability::NET_RAW];
    if let Some(one) = over_links.iter().find(|one| unit.security.capabilities.contains(one)) {
        let reason = format!(
            "the network namespace of an ordinary user's sandbox is not its own, so {one} would count for nothing: run this as root"
        );
        return Err(refused("security.capabilities", reason));
    }
    if !caller.has_cgroup
        && let Some(knob) = unit.limits.knobs().first()
    {
        let reason = format!(
            "{} needs a control group that was given to you: `systemd-run --user --scope -p Delegate=yes palisade run \
             FILE`, or run this as root",
            knob.file
        );
        return Err(refused("limits", reason));
    }
    let credential = |owner: Option<u32>| caller.subordinate.is_none() && owner.is_some();
    if unit.security.credentials.iter().any(|one| credential(one.owner)) {
        return Err(refused(
            "security.credentials",
            format!("`owner` is another id than the service's: {NEEDS_IDS}"),
        ));
    }
    Ok(())
}

fn network(unit: &Unit, caller: &Caller, missing: &mut Vec<String>) -> Result<Option<UserLink>, Refused> {
    let network = &unit.network;
    if let Some(of) = network.joined() {
        let reason =
            format!("there is no supervisor here that keeps the network of {of}: run this as root under one");
        return Err(refused("network.mode", reason));
    }
    if let Some(attached) = network.attached() {
        let reason = format!("a link on {} is root's to make: run this as root", attached.parent);
        return Err(refused("network.mode", reason));
    }
    if network.mode != NetworkMode::Veth {
        return Ok(None);
    }
    if let Some(address) = network.address {
        let reason = format!(
            "{address} can only be given to a link of root's: leave `address` out, or run this as root"
        );
        return Err(refused("network.address", reason));
    }
    for (key, is_given) in [
        ("network.mac", network.mac.is_some()),
        ("network.interface", network.interface.is_some()),
        ("network.bridge", network.bridge.is_some()),
    ] {
        if is_given {
            let reason =
                "a link of an ordinary user's is made by another program: leave it out, or run this as root";
            return Err(refused(key, reason));
        }
    }
    if !network.bandwidth.is_unbounded() {
        let reason = "only a link of root's can be bounded: leave `bandwidth` out, or run this as root";
        return Err(refused("network.bandwidth", reason));
    }
    if network.firewall == Firewall::Insert {
        let reason =
            "the host's other tables are root's to change: leave `firewall` out, or run this as root";
        return Err(refused("network.firewall", reason));
    }
    let egress = network.egress == Egress::Any;
    if let Egress::Only(_) = network.egress {
        let reason = "which places a service goes to only root's packet filter can tell: write \"any\" or [], or run this \
                      as root";
        return Err(refused("network.egress", reason));
    }
    if network.publish.is_empty() && !egress {
        missing.push("no link (nothing is published and nothing may go out)".to_owned());
        return Ok(None);
    }
    if let Some(publish) = network.publish.iter().find(|publish| publish.address.is_ipv6()) {
        let reason = format!(
            "{publish}: an ordinary user's link carries IPv4 alone: publish it on 0.0.0.0, or run this as root"
        );
        return Err(refused("network.publish", reason));
    }
    if let Some(publish) = network.publish.iter().find(|publish| publish.host_port < caller.first_port) {
        let reason = format!(
            "an ordinary user may bind ports from {} on, {publish} is below: publish another port, or have root set \
             net.ipv4.ip_unprivileged_port_start",
            caller.first_port
        );
        return Err(refused("network.publish", reason));
    }
    let Some((carrier, program)) = caller.carrier.clone() else {
        let key = if egress { "network.egress" } else { "network.publish" };
        let reason = "without root this needs the program pasta or slirp4netns: install the package passt or \
                      slirp4netns, or write network.mode = \"none\"";
        return Err(refused(key, reason));
    };
    missing.push("a user-mode link in place of a veth".to_owned());
    Ok(Some(UserLink { carrier, program, publish: network.publish.clone(), egress, mtu: network.mtu }))
}

const NEEDS_IDS: &str = "without root this needs a range of ids: install the package uidmap and have root say \
                         `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`";

type Maps = (Vec<IdRange>, Vec<IdRange>);

/// The maps of the sandbox, in the ids of Palisade's own namespace: there 0 is the caller, and 1 and those behind it are his
/// subordinate ids.
fn ids(
    unit: &Unit,
    caller: &Caller,
    (uid, gid): (u32, u32),
    missing: &mut Vec<String>,
) -> Result<Maps, Refused> {
    if caller.subordinate.is_none() {
        if !unit.service.extra_groups.is_empty() {
            return Err(refused("service.extra_groups", format!("these are further ids: {NEEDS_IDS}")));
        }
        let groups = if caller.has_groups { " and your groups" } else { "" };
        missing.push(format!(
            "the service has your own id{groups} (no newuidmap, or no range in /etc/subuid and /etc/subgid)"
        ));
        let one = |inside| vec![IdRange { inside, outside: 0, count: 1 }];
        return Ok((one(uid), one(gid)));
    }
    if uid >= IDS || gid >= IDS {
        return Err(refused("service.user", format!("without root a sandbox has the ids 0 to {}", IDS - 1)));
    }
    let is_caller = unit.rootfs.mounts.iter().any(|mount| !mount.ro);
    if !is_caller {
        let all = vec![IdRange { inside: 0, outside: 1, count: IDS }];
        return Ok((all.clone(), all));
    }
    // What the service writes there is to belong to who runs it, and no id can be shifted by a mount of his.
    missing.push("for its writable mounts the service has your own id".to_owned());
    Ok((with_caller(uid), with_caller(gid)))
}

/// The whole range, but for one id that is the caller's own.
fn with_caller(id: u32) -> Vec<IdRange> {
    let ranges = [
        IdRange { inside: 0, outside: 1, count: id },
        IdRange { inside: id, outside: 0, count: 1 },
        IdRange { inside: id + 1, outside: id + 2, count: IDS - id - 1 },
    ];
    ranges.into_iter().filter(|range| range.count > 0).collect()
}

/// The child steps of a service whose sandbox has a single id: it is that from the first moment on, and there is no other to
/// change to.
pub(super) fn single(steps: Vec<ChildStep>) -> Vec<ChildStep> {
    steps
        .into_iter()
        .filter(|step| *step != ChildStep::IdsRoot)
        .map(|step| match step {
            ChildStep::Credentials(credentials) => {
                ChildStep::Credentials(super::Credentials { keep_groups: true, ..credentials })
            }
            ChildStep::DevPts(_) => ChildStep::DevPts(None),
            // Groups are the caller's, and the keyring is that id's.
            ChildStep::Attest(mut items) => {
                items.retain(|item| !matches!(item, Attested::Groups | Attested::Keyring));
                ChildStep::Attest(items)
            }
            ChildStep::Recede { capabilities, .. } => ChildStep::Recede { id: None, capabilities },
            step => step,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_str;

    fn unit(keys: &str) -> Unit {
        let facts = HostFacts { cgroup_kill: true, ..HostFacts::default() };
        parse_str("web", &format!("service.command = 'web'\n{keys}\n"), &facts).expect("a good file")
    }

    fn caller() -> Caller {
        Caller {
            uid: 1000,
            gid: 100,
            subordinate: Some((100_000, 200_000)),
            carrier: Some((Carrier::Pasta, "/usr/bin/pasta".into())),
            first_port: 1024,
            has_cgroup: true,
            has_groups: false,
        }
    }

    fn decided(keys: &str, caller: &Caller) -> Result<Unprivileged, Refused> {
        decide(&unit(keys), caller, &HostFacts::default())
    }

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }

    #[test]
    fn a_range_is_the_services_alone() {
        let made = decided("", &caller()).unwrap();
        assert_eq!(made.uids, [range(0, 1000, 1), range(1, 100_000, 65_536)]);
        assert_eq!(made.gids, [range(0, 100, 1), range(1, 200_000, 65_536)]);
        assert_eq!(made.inner_uids, [range(0, 1, 65_536)]);
        assert_eq!((made.owner(), made.is_single(), made.link), (1, false, None));
    }

    #[test]
    fn for_a_writable_mount_the_service_is_the_caller() {
        let keys = "service.user = 77\nrootfs.mounts = [{ src = '/srv/a', dst = '/a', ro = false }]";
        let made = decided(keys, &caller()).unwrap();
        assert_eq!(made.inner_uids, [range(0, 1, 77), range(77, 0, 1), range(78, 79, 65_458)]);
        assert_eq!((made.ids(77, 77), made.ids(65_535, 0)), (Some((0, 0)), Some((65_536, 1))));
        let root = decided(&keys.replace("77", "0"), &caller()).unwrap();
        assert_eq!(root.inner_uids, [range(0, 0, 1), range(1, 2, 65_535)]);
    }

    #[test]
    fn without_a_range_there_is_one_id() {
        let made = decided("service.user = 77", &Caller { subordinate: None, ..caller() }).unwrap();
        assert_eq!((made.uids, &made.inner_uids[..]), (vec![range(0, 1000, 1)], &[range(77, 0, 1)][..]));
    }

    #[test]
    fn what_only_root_can_have_is_refused_by_key() {
        let single = Caller { subordinate: None, ..caller() };
        let poor = Caller { carrier: None, ..caller() };
        for (keys, caller, key) in [
            ("namespaces.user = 'off'\nservice.user = 33", caller(), "namespaces.user"),
            ("namespaces.pid = 'host'", caller(), "namespaces.pid"),
            ("security.devices = ['/dev/fuse']", caller(), "security.devices"),
            ("security.capabilities = ['CAP_NET_RAW']", caller(), "security.capabilities"),
            ("limits.memory.max = '1G'", Caller { has_cgroup: false, ..caller() }, "limits"),
            ("network.address = '10.83.0.9'", caller(), "network.address"),
            ("network.mode = 'join:db'", caller(), "network.mode"),
            (
                "network = { mode = 'macvlan', parent = 'up0', address = '192.0.2.7/24' }",
                caller(),
                "network.mode",
            ),
            ("network.mac = '02:00:00:00:00:07'", caller(), "network.mac"),
            ("network.interface = 'web0'", caller(), "network.interface"),
            ("network.bandwidth.egress = '1Mbit'", caller(), "network.bandwidth"),
            ("network.firewall = 'insert'", caller(), "network.firewall"),
            ("network.publish = ['80:80']", caller(), "network.publish"),
            ("network.publish = ['8080:80']", poor.clone(), "network.publish"),
            ("network.egress = 'any'", poor, "network.egress"),
            ("rootfs.base = 'dir'\nrootfs.dir = '/srv/r'\nservice.user = 'web'", caller(), "service.user"),
            ("service.extra_groups = [7]", single.clone(), "service.extra_groups"),
            ("security.credentials = [{ name = 'a', env = 'A', owner = 0 }]", single, "security.credentials"),
        ] {
            assert_eq!(decided(keys, &caller).map_err(|refused| refused.key).unwrap_err(), key, "{keys}");
        }
    }

    #[test]
    fn only_what_is_asked_for_leads_in_or_out() {
        let made = decided("network.publish = ['8080:80', '0.0.0.0:8081:81/udp']", &caller()).unwrap();
        let link = made.link.expect("ports are published");
        assert_eq!((link.publish.len(), link.egress, link.has_address()), (2, false, true));
        let made = decided("network.publish = ['8080:80']", &caller()).unwrap();
        assert!(!made.link.expect("a port is published").has_address());
        assert!(!decided("network.mode = 'host'", &caller()).unwrap().has_netns);
    }
}
