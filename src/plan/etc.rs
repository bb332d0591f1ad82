//! The files of /etc that are made for a service.

use std::{fmt::Write, net::IpAddr, path::PathBuf};

use super::Assigned;
use crate::{
    names::{SERVER, ZONE},
    spec::{Base, Dns, Egress, HostFacts, IdSpec, NetworkMode, Unit, UserSpec},
};

/// The id of a user that the file does not name. It lies where systemd has its dynamic users, so no package owns it.
pub(crate) const DYNAMIC_ID: u32 = 61184;
/// The overflow id: whom the kernel shows for ids that are not mapped.
const NOBODY: u32 = 65534;
/// Below this Debian, Fedora, Arch and Alpine keep the users of packages.
const FIRST_PERSON: u32 = 1000;

/// (path, content) of each. A directory root keeps its own users, and gets only what belongs to this host and run.
pub(super) fn files(unit: &Unit, assigned: &Assigned, facts: &HostFacts) -> Vec<(PathBuf, String)> {
    let host = &unit.namespaces.hostname;
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    let own = assigned.link.as_ref().map(|link| link.addresses().collect());
    let own = own.or(unit.network.attached().map(|attached| vec![attached.address.addr().into()]));
    for address in own.unwrap_or_else(|| vec![IpAddr::from([127, 0, 1, 1])]) {
        let _ = writeln!(hosts, "{address} {host}");
    }
    for (name, address) in &assigned.peers {
        let _ = writeln!(hosts, "{address} {name}");
    }
    for (name, address) in &unit.network.hosts {
        let _ = writeln!(hosts, "{address} {name}");
    }
    let mut files = vec![
        ("/etc/hostname".into(), format!("{host}\n")),
        ("/etc/hosts".into(), hosts),
        ("/etc/machine-id".into(), format!("{}\n", assigned.machine_id)),
    ];
    files.extend(resolv(unit, assigned, facts).map(|text| ("/etc/resolv.conf".into(), text)));
    if unit.rootfs.base == Base::Host {
        files.push(("/etc/passwd".into(), passwd(unit, facts)));
        files.push(("/etc/group".into(), group(unit, facts)));
        files.push(("/etc/nsswitch.conf".into(), "passwd: files\ngroup: files\nhosts: files dns\n".into()));
    }
    files
}

/// resolv.conf(5). A root's own file would name servers of wherever it was made.
fn resolv(unit: &Unit, assigned: &Assigned, facts: &HostFacts) -> Option<String> {
    let network = &unit.network;
    let is_supervised = !assigned.ends_with_launcher && assigned.unprivileged.is_none();
    match (&network.mode, &network.dns) {
        (NetworkMode::Host, _) => facts.resolv_conf.first().cloned().filter(|text| !text.is_empty()),
        (NetworkMode::None, _) | (NetworkMode::Veth | NetworkMode::Attached(_), Dns::None) => None,
        // What is answered there is for the one whose network it is.
        (NetworkMode::Join(_), _) => Some(embedded("")),
        (NetworkMode::Veth, _) if is_supervised => {
            let host = facts.resolv_conf.first().filter(|_| network.egress == Egress::Any);
            Some(embedded(host.map(String::as_str).unwrap_or_default()))
        }
        // There is no supervisor that would answer.
        (NetworkMode::Veth, _) if network.egress == Egress::None => None,
        (NetworkMode::Veth | NetworkMode::Attached(_), Dns::Host) => {
            facts.resolv_conf.iter().find_map(|text| resolv_conf(text))
        }
        (NetworkMode::Veth | NetworkMode::Attached(_), Dns::Servers(servers)) => {
            Some(servers.iter().map(|server| format!("nameserver {server}\n")).collect())
        }
    }
}

/// resolv.conf(5) that leads to the supervisor, with what the host's says beside its servers. Our names come first:
/// who may be reached is asked for in no domain of the host's.
fn embedded(host: &str) -> String {
    let (mut search, mut options) = (vec![ZONE], String::new());
    for line in host.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("search" | "domain") => {
                search.truncate(1);
                search.extend(words);
            }
            Some("options") => {
                let _ = writeln!(options, "{line}");
            }
            _ => {}
        }
    }
    format!("nameserver {SERVER}\nsearch {}\n{options}", search.join(" "))
}

/// resolv.conf(5) of the host for a network namespace of its own: there, a server on the host's loopback is nobody. None
/// where no server is left.
fn resolv_conf(host: &str) -> Option<String> {
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => {
                // fe80::1%eth0 is no address of this kind, and no link of the service's either.
                let reachable =
                    server.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback() && !ip.is_unspecified());
                if !reachable {
                    continue;
                }
                servers += 1;
            }
            (Some("search" | "domain" | "options"), Some(_)) => {}
            _ => continue,
        }
        let _ = writeln!(text, "{line}");
    }
    (servers > 0).then_some(text)
}

/// The users of the host's packages and the one that the service runs as; no people.
fn passwd(unit: &Unit, facts: &HostFacts) -> String {
    let named = match &unit.service.user {
        UserSpec::Named(IdSpec::Name(name)) => Some(name.as_str()),
        UserSpec::Named(IdSpec::Number(_)) | UserSpec::Dynamic => None,
    };
    let mut text = String::from("root:x:0:0:root:/root:/bin/sh\n");
    for (name, user) in &facts.users {
        let shown = (1..FIRST_PERSON).contains(&user.uid) || Some(name.as_str()) == named;
        if shown && name != "root" {
            let _ = writeln!(text, "{name}:x:{}:{}::{}:{}", user.uid, user.gid, user.home, user.shell);
        }
    }
    if unit.service.user == UserSpec::Dynamic {
        let name = dynamic_name(unit);
        let _ = writeln!(text, "{name}:x:{DYNAMIC_ID}:{DYNAMIC_ID}::/:/usr/sbin/nologin");
    }
    let _ = writeln!(text, "nobody:x:{NOBODY}:{NOBODY}::/:/usr/sbin/nologin");
    text
}

fn group(unit: &Unit, facts: &HostFacts) -> String {
    let mut text = String::from("root:x:0:\n");
    let named = |name: &str| unit.service.extra_groups.iter().any(|g| *g == IdSpec::Name(name.to_owned()));
    let primary = |name: &str| unit.service.group == Some(IdSpec::Name(name.to_owned()));
    for (name, (gid, members)) in &facts.groups {
        let shown = (1..FIRST_PERSON).contains(gid) || named(name) || primary(name);
        if shown && name != "root" {
            let known =
                |member: &&String| facts.users.get(*member).is_some_and(|user| user.uid < FIRST_PERSON);
            let members: Vec<&str> = members.iter().filter(known).map(String::as_str).collect();
            let _ = writeln!(text, "{name}:x:{gid}:{}", members.join(","));
        }
    }
    if unit.service.user == UserSpec::Dynamic {
        let _ = writeln!(text, "{}:x:{DYNAMIC_ID}:", dynamic_name(unit));
    }
    let _ = writeln!(text, "nogroup:x:{NOBODY}:");
    text
}

/// User names are shorter than service names and know no '@'.
fn dynamic_name(unit: &Unit) -> String {
    unit.name.as_str().replace('@', "-").chars().take(31).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_the_hosts_loopback_is_left_out() {
        let host = "# by hand\nnameserver 127.0.0.53\nsearch a.test\nnameserver 192.0.2.1\nnameserver ::1\n\
                    nameserver 0.0.0.0\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions edns0\nsortlist x\n";
        let inside = "search a.test\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n";
        assert_eq!(resolv_conf(host).as_deref(), Some(inside));
        assert_eq!(resolv_conf("search a.test\nnameserver 127.0.0.1\n"), None);
        assert_eq!(resolv_conf(""), None);
    }

    #[test]
    fn names_of_services_come_before_domains_of_the_host() {
        let host = "nameserver 192.0.2.1\ndomain b.test\nsearch a.test c.test\noptions ndots:2\nsortlist x\n";
        let inside = "nameserver 127.0.0.53\nsearch palisade a.test c.test\noptions ndots:2\n";
        assert_eq!(embedded(host), inside);
        assert_eq!(embedded(""), "nameserver 127.0.0.53\nsearch palisade\n");
    }
}
