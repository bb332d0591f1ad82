//! What of the host's own settings is changed so that packets get to services, and what it was before.
//!
//! The kernel forwards a packet when forwarding is on where it arrives. IPv4 has a switch for each interface, IPv6 since
//! Linux 6.17 (`force_forwarding`); before, one for all of them, which also makes the host stop to listen to routers
//! (`accept_ra` = 1). Whatever is switched on is put into a set of the table as well, so that the host routes nothing but
//! what is for services, as before.

use std::collections::BTreeMap;

use super::{nft::Element, sysctl};
use crate::sys::SysError;

const ALL_IPV6: &str = "ipv6/conf/all/forwarding";

/// Settings below `/proc/sys/net` that were changed, and what they were.
pub type Changed = BTreeMap<String, String>;

/// What is to be switched on so that packets which arrive on an interface of the host are forwarded; in order, with the
/// values. Nothing where it is on already.
///
/// # Errors
/// From reading; ENOENT: there is no such interface.
pub fn wanted(interface: &str, is_ipv6: bool) -> Result<Vec<(String, &'static str)>, SysError> {
    if !is_ipv6 {
        let key = format!("ipv4/conf/{interface}/forwarding");
        return Ok(off(key)?.map(|key| (key, "1")).into_iter().collect());
    }
    if sysctl::get(ALL_IPV6)? != "0" {
        return Ok(Vec::new());
    }
    let own = format!("ipv6/conf/{interface}/force_forwarding");
    match off(own) {
        Err(error) if error.errno == libc::ENOENT => whole_ipv6(),
        key => Ok(key?.map(|key| (key, "1")).into_iter().collect()),
    }
}

/// The one switch. Who listens to routers goes on to (2: also where it forwards).
fn whole_ipv6() -> Result<Vec<(String, &'static str)>, SysError> {
    let dir = "/proc/sys/net/ipv6/conf";
    let entries = std::fs::read_dir(dir).map_err(|error| SysError::new("readdir", dir, error))?;
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !["all", "default"].contains(name)) else { continue };
        let key = format!("ipv6/conf/{name}/accept_ra");
        // An interface that went away meanwhile listens to nobody.
        if sysctl::get(&key).is_ok_and(|value| value == "1") {
            all.push((key, "2"));
        }
    }
    all.push((ALL_IPV6.to_owned(), "1"));
    Ok(all)
}

fn off(key: String) -> Result<Option<String>, SysError> {
    Ok((sysctl::get(&key)? == "0").then_some(key))
}

/// What keeps a changed setting from routing anything but services' packets.
pub fn element(key: &str) -> Option<Element> {
    if key == ALL_IPV6 {
        return Some(Element::Routed6);
    }
    let (rest, name) = key.rsplit_once('/')?;
    let interface = rest.rsplit('/').next()?.to_owned();
    match name {
        "forwarding" => Some(Element::Opened(interface)),
        "force_forwarding" => Some(Element::Opened6(interface)),
        _ => None,
    }
}

/// Puts settings back. The switch for all interfaces goes first: it writes to each of them.
///
/// # Errors
/// The first trouble; an interface that has gone away is none.
pub fn put_back(changed: &Changed) -> Result<(), SysError> {
    let mut result = Ok(());
    let (all, others): (Vec<_>, Vec<_>) = changed.iter().partition(|(key, _)| *key == ALL_IPV6);
    for (key, value) in all.into_iter().chain(others) {
        match sysctl::set(key, value) {
            Err(error) if error.errno == libc::ENOENT => {}
            done => result = result.and(done),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_on_is_kept_from_routing_anything_else() {
        assert_eq!(element("ipv4/conf/eth0.7/forwarding"), Some(Element::Opened("eth0.7".to_owned())));
        assert_eq!(element("ipv6/conf/eth0/force_forwarding"), Some(Element::Opened6("eth0".to_owned())));
        assert_eq!(element("ipv6/conf/all/forwarding"), Some(Element::Routed6));
        assert_eq!(element("ipv6/conf/eth0/accept_ra"), None);
    }
}
