//! `[security]`.

use std::{collections::BTreeSet, path::Path};

use super::{Reader, credentials, defaults, seccomp, walls};
use crate::{
    config::{
        schema::Text,
        value::{self, Refusal},
    },
    spec::{Capability, Dev, Device, Namespaces, Rootfs, Security, Service},
};

pub(super) fn security(
    reader: &mut Reader<'_>,
    service: &Service,
    namespaces: &Namespaces,
    rootfs: &Rootfs,
) -> Security {
    let table = &reader.file.tables.security;
    let capabilities = capabilities(reader, &table.capabilities);
    let ambient = capabilities_of(reader, &table.ambient, |reader, text, capability| {
        if table.capabilities.is_none() || !capabilities.contains(&capability) {
            let message =
                format!("{capability} is not one of `capabilities`, and nobody can have more than those");
            let hint = format!("add \"{capability}\" to `capabilities` as well");
            reader.refuse(text.span(), Refusal::new(message).hint(hint));
        }
    });
    Security {
        no_new_privs: table.no_new_privs.unwrap_or(defaults::NO_NEW_PRIVS),
        capabilities,
        ambient,
        devices: devices(reader, rootfs),
        credentials: credentials::credentials(reader, service, rootfs),
        seccomp: seccomp::seccomp(reader),
        native_abi_only: seccomp::native_abi_only(reader),
        lock_personality: table.lock_personality.unwrap_or(defaults::LOCK_PERSONALITY),
        no_realtime: table.no_realtime.unwrap_or(defaults::NO_REALTIME),
        no_suid: table.no_suid.unwrap_or(defaults::NO_SUID),
        no_namespaces: walls::no_namespaces(reader, namespaces),
        no_wx: table.no_wx.unwrap_or(defaults::NO_WX),
        landlock: walls::landlock(reader, namespaces),
        apparmor: walls::apparmor(reader, rootfs),
        selinux: walls::selinux(reader, rootfs),
    }
}

fn capabilities(reader: &mut Reader<'_>, list: &Option<Vec<Text>>) -> BTreeSet<Capability> {
    capabilities_of(reader, list, |_, _, _| {})
}

fn capabilities_of(
    reader: &mut Reader<'_>,
    list: &Option<Vec<Text>>,
    mut check: impl FnMut(&mut Reader<'_>, &Text, Capability),
) -> BTreeSet<Capability> {
    let mut set = BTreeSet::new();
    for text in list.iter().flatten() {
        let Some(name) = reader.text(text) else { continue };
        if let Some(capability) = reader.take(text.span(), capability(&name)) {
            check(reader, text, capability);
            set.insert(capability);
        }
    }
    set
}

fn capability(name: &str) -> Result<Capability, Refusal> {
    let unknown = || {
        let refusal = Refusal::new(format!("{name:?} is not a capability"));
        let prefixed = name.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("CAP_"));
        let written = if prefixed { name.to_owned() } else { format!("CAP_{name}") };
        if name.eq_ignore_ascii_case("all") || name.starts_with('~') {
            return refusal.hint("name every one that the service needs: capabilities(7)");
        }
        match value::nearest(&written, Capability::all().map(Capability::name)) {
            Some(near) => refusal.hint(format!("did you mean \"{near}\"?")),
            None => refusal.hint("capabilities(7) has the names, such as \"CAP_NET_RAW\""),
        }
    };
    Capability::from_name(name).ok_or_else(unknown)
}

fn devices(reader: &mut Reader<'_>, rootfs: &Rootfs) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for text in reader.file.tables.security.devices.iter().flatten() {
        let Some(written) = reader.text(text) else { continue };
        let Some(device) = reader.take(text.span(), device(&written)) else { continue };
        let in_dev = matches!(&rootfs.dev, Dev::Minimal(list) if list.contains(&device.path));
        let is_usual = USUAL.iter().any(|name| device.path == Path::new("/dev").join(name));
        let refusal = if is_usual {
            Refusal::new(format!("{:?} is in every /dev", device.path)).hint("leave it out")
        } else if rootfs.dev == Dev::Host {
            Refusal::new("with `rootfs.dev = \"host\"` every node is there already, with the host's modes")
                .hint("leave `rootfs.dev` out to give the service this one")
        } else if in_dev || devices.iter().any(|other| other.path == device.path) {
            Refusal::new(format!("{:?} is listed twice", device.path))
                .hint("`rootfs.dev` shows a node as it is, `devices` gives it to the service's user: leave one of them out")
        } else {
            devices.push(device);
            continue;
        };
        reader.refuse(text.span(), refusal);
    }
    devices
}

/// What there is below every minimal /dev.
const USUAL: [&str; 13] = [
    "null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "ptmx", "fd", "stdin", "stdout",
    "stderr",
];

/// `PATH`, or `PATH ACCESS` as systemd's DeviceAllow= has it.
fn device(written: &str) -> Result<Device, Refusal> {
    let (path, access) =
        written.split_once(' ').map_or((written, "rw"), |(path, access)| (path, access.trim()));
    let path = super::absolute(path)?;
    if !path.starts_with("/dev") || path == Path::new("/dev") {
        return Err(
            Refusal::new(format!("{path:?} is not a device node")).hint("device nodes are below /dev")
        );
    }
    let (read, write) = match access {
        "r" => (true, false),
        "w" => (false, true),
        "rw" => (true, true),
        _ if access.contains('m') => {
            let refusal = Refusal::new(format!("{access:?}: a service makes no device nodes"));
            return Err(refusal.hint("write \"r\", \"w\" or \"rw\""));
        }
        _ => {
            let refusal = Refusal::new(format!("{access:?} is not a way to use a device"));
            return Err(refusal.hint("write \"r\", \"w\" or \"rw\""));
        }
    };
    Ok(Device { path, read, write })
}
